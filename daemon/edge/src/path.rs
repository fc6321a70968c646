//! What stands in a request's target: percent-encoded keys, and query parameters.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use crate::problem::Problem;

/// What is left as it is in a key inside a link: RFC 3986's unreserved characters and the slash.
const KEY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// The bytes that a percent-encoded text stands for; `None` when a `%` is not followed by two hexadecimal digits. Borrows where nothing is encoded.
pub(crate) fn decode(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    let Some(first) = text.iter().position(|&b| b == b'%') else { return Some(Cow::Borrowed(text)) };
    let mut bytes = Vec::with_capacity(text.len());
    bytes.extend_from_slice(&text[..first]);
    let mut rest = &text[first..];
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'%' {
            let (digits, tail) = tail.split_at_checked(2)?;
            bytes.push(hex(digits[0])? << 4 | hex(digits[1])?);
            rest = tail;
        } else {
            bytes.push(byte);
            rest = tail;
        }
    }
    Some(Cow::Owned(bytes))
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}

/// A key as it stands in a path or a query parameter.
pub(crate) fn encode(key: &[u8]) -> impl std::fmt::Display + '_ {
    percent_encode(key, KEY)
}

/// A query's parameters, decoded. `+` is a space, as in HTML forms.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, Vec<u8>)>);

impl Query {
    /// Parses a query and holds it against the names that the route takes: a misspelt parameter is an error, not silence.
    pub(crate) fn parse(text: Option<&str>, allowed: &[&'static str]) -> Result<Self, Problem> {
        let mut parameters: Vec<(String, Vec<u8>)> = Vec::new();
        for pair in text.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = String::from_utf8_lossy(&parameter(name)?).into_owned();
            check_name(&name, allowed, &parameters)?;
            parameters.push((name, parameter(value)?));
        }
        Ok(Self(parameters))
    }

    /// The parameter's bytes.
    pub(crate) fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_slice())
    }

    /// The parameter as text.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>, Problem> {
        let text = self.bytes(name).map(std::str::from_utf8).transpose();
        text.map_err(|_| Problem::malformed(format!("the query parameter `{name}` is not UTF-8")))
    }

    /// The parameter as a switch: absent or `false`, or present, `true` or empty.
    pub(crate) fn switch(&self, name: &str) -> Result<bool, Problem> {
        match self.text(name)? {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(other) => Err(Problem::malformed(format!("the query parameter `{name}` is true or false, not `{other}`"))),
        }
    }
}

fn check_name(name: &str, allowed: &[&'static str], seen: &[(String, Vec<u8>)]) -> Result<(), Problem> {
    if !allowed.contains(&name) {
        let takes =
            if allowed.is_empty() { "no query parameters".to_owned() } else { format!("the query parameters `{}`", allowed.join("`, `")) };
        return Err(Problem::malformed(format!("this path takes {takes}, not `{}`", name.escape_debug())));
    }
    if seen.iter().any(|(own, _)| own == name) {
        return Err(Problem::malformed(format!("the query parameter `{name}` is given twice")));
    }
    Ok(())
}

fn parameter(text: &str) -> Result<Vec<u8>, Problem> {
    let spaced = text.replace('+', " ");
    let decoded = decode(spaced.as_bytes()).map(Cow::into_owned);
    decoded.ok_or_else(|| Problem::malformed("in the query a `%` is not followed by two hexadecimal digits"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_encoded_is_borrowed() {
        assert!(matches!(decode(b"a/b"), Some(Cow::Borrowed(b"a/b"))));
        assert_eq!(decode(b"a%2Fb%00%ff").as_deref(), Some(b"a/b\0\xff".as_slice()));
    }

    #[test]
    fn a_broken_escape_is_refused_not_guessed() {
        for bad in ["%", "a%", "a%2", "%zz", "%2", "%+1", "%%41"] {
            assert_eq!(decode(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_misspelt_or_repeated_parameter_is_an_error() {
        let allowed = &["ttl", "consistency"];
        assert!(Query::parse(Some("tll=1s"), allowed).is_err());
        assert!(Query::parse(Some("ttl=1s&ttl=2s"), allowed).is_err());
        assert!(Query::parse(Some("ttl=%zz"), allowed).is_err());
        let query = Query::parse(Some("&ttl=1+s&"), allowed).expect("parses");
        assert_eq!(query.bytes("ttl"), Some(b"1 s".as_slice()));
        assert_eq!(query.bytes("consistency"), None);
    }

    proptest! {
        #[test]
        fn every_key_reads_back_from_a_path(key in proptest::collection::vec(any::<u8>(), 0..64)) {
            let path = encode(&key).to_string();
            let decoded = decode(path.as_bytes());
            prop_assert_eq!(decoded.as_deref(), Some(key.as_slice()));
            let text = format!("after={path}");
            let query = Query::parse(Some(&text), &["after"]).expect("parses");
            prop_assert_eq!(query.bytes("after"), Some(key.as_slice()));
        }

        #[test]
        fn what_decodes_is_what_the_crate_decodes(text in "[a-c%0-9A-F/]{0,24}") {
            if let Some(bytes) = decode(text.as_bytes()) {
                prop_assert_eq!(bytes.into_owned(), percent_encoding::percent_decode(text.as_bytes()).collect::<Vec<_>>());
            }
        }
    }
}
