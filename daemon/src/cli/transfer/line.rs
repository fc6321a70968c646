//! A key and its value as a line: what a batch's put is in the contract, with the content type beside it.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use isochrone_ident::{Key, Namespace};
use serde::{Deserialize, Serialize};

use super::super::keys::{key_member, value_member};

/// The line as it is written. Members that are absent are left out.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    op: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ns: Option<Namespace>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u64>,
}

/// Why a line cannot be imported.
#[derive(Debug, thiserror::Error)]
pub(super) enum InvalidLine {
    /// Not JSON, or a member that no put has.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// Not a put.
    #[error("\"op\" is {0:?}; only \"put\" can be imported")]
    NotPut(String),
    /// Two or none of two members of which one is wanted.
    #[error("exactly one of \"{0}\" and \"{1}\" is wanted")]
    OneOf(&'static str, &'static str),
    /// Not base64.
    #[error("\"{0}\" is no base64: {1}")]
    Base64(&'static str, base64::DecodeError),
    /// Not a key.
    #[error(transparent)]
    Key(#[from] isochrone_ident::InvalidName),
}

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The key.
    pub(super) key: Key,
    /// Its value.
    pub(super) value: Bytes,
    /// What the value is; `None` leaves it to the key's ending.
    pub(super) content_type: Option<String>,
    /// How long it lives from the import on; `None` leaves it to the command line or the namespace.
    pub(super) ttl: Option<Duration>,
}

impl Entry {
    /// Reads a line. Its `ns` is not looked at: the import's own says where keys go.
    ///
    /// # Errors
    /// See [`InvalidLine`].
    pub(super) fn parse(line: &[u8]) -> Result<Self, InvalidLine> {
        let line: Line = serde_json::from_slice(line)?;
        if let Some(op) = line.op.filter(|op| op != "put") {
            return Err(InvalidLine::NotPut(op));
        }
        let key = one_of(("key", line.key), ("key_base64", line.key_base64))?;
        let value = one_of(("text", line.text), ("base64", line.base64))?;
        let ttl = line.ttl_ms.map(Duration::from_millis);
        Ok(Self { key: Key::new(key)?, value: value.into(), content_type: line.content_type, ttl })
    }

    /// The line, without its end.
    pub(super) fn format(&self, namespace: &Namespace) -> Vec<u8> {
        let mut line = Line {
            op: Some("put".to_owned()),
            ns: Some(namespace.clone()),
            content_type: self.content_type.clone(),
            ttl_ms: self.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
            ..Line::default()
        };
        match key_member(&self.key) {
            ("key", key) => line.key = Some(key),
            (_, key) => line.key_base64 = Some(key),
        }
        match value_member(&self.value) {
            ("text", text) => line.text = Some(text),
            (_, base64) => line.base64 = Some(base64),
        }
        serde_json::to_vec(&line).expect("strings and numbers are JSON")
    }
}

type Member = (&'static str, Option<String>);

fn one_of(text: Member, base64: Member) -> Result<Vec<u8>, InvalidLine> {
    match (text.1, base64.1) {
        (Some(text), None) => Ok(text.into_bytes()),
        (None, Some(encoded)) => BASE64.decode(encoded).map_err(|error| InvalidLine::Base64(base64.0, error)),
        _ => Err(InvalidLine::OneOf(text.0, base64.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_line_is_read_back_as_it_was(
            key in proptest::collection::vec(proptest::prelude::any::<u8>(), 1..50), value: Vec<u8>, kind: Option<String>, ttl: Option<u64>,
        ) {
            let entry = Entry { key: Key::new(key).expect("a key"), value: value.into(), content_type: kind, ttl: ttl.map(Duration::from_millis) };
            let line = entry.format(&Namespace::new("data").expect("a name"));
            proptest::prop_assert!(!line.contains(&b'\n'));
            proptest::prop_assert_eq!(Entry::parse(&line).expect("parses"), entry);
        }

        #[test]
        fn any_bytes_are_a_line_or_an_error(bytes: Vec<u8>) {
            let _ = Entry::parse(&bytes);
        }
    }

    #[test]
    fn wrong_lines_say_what_is_wrong() {
        let error = |line: &str| Entry::parse(line.as_bytes()).expect_err("wrong").to_string();
        assert!(error(r#"{"op":"delete","key":"a"}"#).contains("only \"put\""));
        assert!(error(r#"{"key":"a"}"#).contains("\"text\" and \"base64\""));
        assert!(error(r#"{"key":"a","text":"b","base64":"Yg=="}"#).contains("exactly one"));
        assert!(error(r#"{"key":"a","base64":"?"}"#).contains("no base64"));
        assert!(error(r#"{"key":"","text":"b"}"#).contains("1 to 1024"));
        assert!(error(r#"{"key":"a","text":"b","ttl":5}"#).contains("unknown field"));
    }
}
