//! How a key is written: on a command line as `NAMESPACE/KEY`, in a URL's path, in JSON.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::builder::{PossibleValue, TypedValueParser};
use isochrone_ident::{Key, Namespace};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

/// What stands for itself in a path: RFC 3986's unreserved characters and the slash.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
/// The same without the slash, for keys whose segments a URL library would take for `.` and `..`.
const SEGMENT: &AsciiSet = &PATH.add(b'/');

/// A key and its namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyAddress {
    /// The namespace.
    pub(crate) namespace: Namespace,
    /// The key.
    pub(crate) key: Key,
}

/// Why a `NAMESPACE/KEY` is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidAddress {
    /// There is no slash.
    #[error("NAMESPACE/KEY is wanted, such as data/greeting; there is no slash")]
    NoSlash,
    /// One of the two is malformed.
    #[error(transparent)]
    Name(#[from] isochrone_ident::InvalidName),
    /// The namespace isn't even text.
    #[error("a namespace is text, [a-z0-9][a-z0-9_-]{{0,62}}")]
    NamespaceText,
}

impl KeyAddress {
    /// Splits at the first slash; what follows is the key as it is, of any bytes.
    ///
    /// # Errors
    /// See [`InvalidAddress`].
    pub(crate) fn parse(text: &OsStr) -> Result<Self, InvalidAddress> {
        let bytes = text.as_bytes();
        let slash = bytes.iter().position(|&b| b == b'/').ok_or(InvalidAddress::NoSlash)?;
        let namespace = std::str::from_utf8(&bytes[..slash]).map_err(|_| InvalidAddress::NamespaceText)?;
        Ok(Self { namespace: Namespace::new(namespace)?, key: Key::new(bytes[slash + 1..].to_vec())? })
    }
}

/// Lets clap read a [`KeyAddress`], keys that are not UTF-8 included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyAddressParser;

impl TypedValueParser for KeyAddressParser {
    type Value = KeyAddress;

    fn parse_ref(&self, command: &clap::Command, arg: Option<&clap::Arg>, value: &OsStr) -> Result<Self::Value, clap::Error> {
        KeyAddress::parse(value).map_err(|error| {
            let name = arg.map_or_else(|| "NAMESPACE/KEY".to_owned(), ToString::to_string);
            let text = format!("invalid value {value:?} for '{name}': {error}\n");
            clap::Error::raw(clap::error::ErrorKind::ValueValidation, text).with_cmd(command)
        })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        None
    }
}

/// A key as it stands in a URL's path. `None` for the keys `.` and `..`, which no URL can carry (WHATWG URL, "double-dot
/// URL path segment", takes `%2e%2e` for `..` too): they go through `/v1/batch`.
#[must_use]
pub(crate) fn url_path(key: &Key) -> Option<String> {
    let bytes = key.as_bytes();
    let is_dots = |segment: &[u8]| matches!(segment, b"." | b"..");
    if is_dots(bytes) {
        None
    } else if bytes.split(|&b| b == b'/').any(is_dots) || bytes.starts_with(b"/") {
        Some(percent_encode(bytes, SEGMENT).to_string())
    } else {
        Some(percent_encode(bytes, PATH).to_string())
    }
}

/// Any bytes as one part of a query.
#[must_use]
pub(crate) fn url_query(bytes: &[u8]) -> String {
    percent_encode(bytes, SEGMENT).to_string()
}

/// Bytes as text that loses nothing: percent-encoded like a path. How journals and messages write keys.
#[must_use]
pub(crate) fn encoded(bytes: &[u8]) -> String {
    percent_encode(bytes, PATH).to_string()
}

/// A key's bytes as part of a file's path.
#[must_use]
pub(crate) fn os_string(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Result<KeyAddress, InvalidAddress> {
        KeyAddress::parse(OsStr::new(text))
    }

    fn key(bytes: &[u8]) -> Key {
        Key::new(bytes.to_vec()).expect("a key")
    }

    #[test]
    fn the_first_slash_parts_namespace_and_key() {
        let parsed = address("data/a/b c").expect("an address");
        assert_eq!(parsed.namespace.as_str(), "data");
        assert_eq!(parsed.key.as_bytes(), b"a/b c");
        assert_eq!(address("data//x").expect("an address").key.as_bytes(), b"/x");
    }

    #[test]
    fn malformed_addresses_say_what_is_wanted() {
        assert_eq!(address("data"), Err(InvalidAddress::NoSlash));
        assert!(matches!(address("Data/x"), Err(InvalidAddress::Name(_))));
        assert!(matches!(address("data/"), Err(InvalidAddress::Name(_))));
        assert!(matches!(address(&format!("data/{}", "x".repeat(1025))), Err(InvalidAddress::Name(_))));
    }

    #[test]
    fn a_key_of_any_bytes_is_an_address() {
        let parsed = KeyAddress::parse(OsStr::from_bytes(b"data/\xff\xfe")).expect("an address");
        assert_eq!(parsed.key.as_bytes(), b"\xff\xfe");
    }

    #[test]
    fn paths_carry_any_key_but_the_two_dots() {
        assert_eq!(url_path(&key(b"a/b c?%\xff")).as_deref(), Some("a/b%20c%3F%25%FF"));
        assert_eq!(url_path(&key(b"a/../b")).as_deref(), Some("a%2F..%2Fb"));
        assert_eq!(url_path(&key(b"/a")).as_deref(), Some("%2Fa"));
        assert_eq!(url_path(&key(b"..")), None);
        assert_eq!(url_path(&key(b".")), None);
        assert_eq!(url_path(&key(b"...")).as_deref(), Some("..."));
    }

    #[test]
    fn encoding_loses_nothing() {
        let bytes: Vec<u8> = (0..=255).collect();
        let decoded: Vec<u8> = percent_encoding::percent_decode(encoded(&bytes).as_bytes()).collect();
        assert_eq!(decoded, bytes);
    }
}
