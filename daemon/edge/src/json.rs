//! Strict JSON objects.

use serde::de::{DeserializeOwned, Error as _};

/// An object, and nothing else: serde's own reading of a struct would take an array of its members, too.
pub(crate) fn object<T: DeserializeOwned>(text: &[u8]) -> Result<T, serde_json::Error> {
    match text.trim_ascii_start().first() {
        Some(b'{') => serde_json::from_slice(text),
        Some(_) => Err(serde_json::Error::custom("it is no object")),
        None => Err(serde_json::Error::custom("it is empty")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct One {
        a: u8,
    }

    #[test]
    fn an_array_is_no_object() {
        assert_eq!(object::<One>(b" {\"a\": 1}").ok(), Some(One { a: 1 }));
        for bad in ["", " ", "[1]", "1", "null", "{\"a\": 1} 2"] {
            assert!(object::<One>(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
