//! Names of places and of data, checked when they are made.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A name that breaks its rule. Nothing was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Characters or length outside the rule of this kind of name.
    #[error("{kind} {text:?} must match {rule}")]
    Text {
        /// What was being named.
        kind: &'static str,
        /// What was given.
        text: String,
        /// The rule, as a regular expression.
        rule: &'static str,
    },
    /// A key of no bytes, or of more than [`Key::BYTES_MAX`].
    #[error("a key has 1 to 1024 bytes, not {0}")]
    KeyBytes(usize),
}

fn is_name(text: &str, length_max: usize, underscore: bool) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=length_max).contains(&bytes.len())
        && allowed(bytes[0])
        && bytes.iter().all(|&b| allowed(b) || b == b'-' || (underscore && b == b'_'))
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $max:literal, $underscore:literal, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name, checked.
            ///
            /// # Errors
            /// [`InvalidName::Text`] when it breaks the rule.
            pub fn new(text: &str) -> Result<Self, InvalidName> {
                if is_name(text, $max, $underscore) {
                    Ok(Self(text.into()))
                } else {
                    Err(InvalidName::Text { kind: $kind, text: text.to_owned(), rule: $rule })
                }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

name! {
    /// A cluster's name, part of every certificate (M2).
    ClusterName, "cluster name", 63, false, "[a-z0-9][a-z0-9-]{0,62}"
}
name! {
    /// A region: a failure and latency domain.
    Region, "region", 63, false, "[a-z0-9][a-z0-9-]{0,62}"
}
name! {
    /// A zone: a failure domain inside a region.
    Zone, "zone", 63, false, "[a-z0-9][a-z0-9-]{0,62}"
}
name! {
    /// A namespace of keys, with one mode and one set of limits.
    Namespace, "namespace", 63, true, "[a-z0-9][a-z0-9_-]{0,62}"
}

/// A key: 1 to 1,024 bytes of any value. Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Bytes", into = "Bytes")]
pub struct Key(Bytes);

impl Key {
    /// The longest key, in bytes.
    pub const BYTES_MAX: usize = 1024;

    /// The key of these bytes.
    ///
    /// # Errors
    /// [`InvalidName::KeyBytes`] when there are none or more than [`Key::BYTES_MAX`].
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, InvalidName> {
        let bytes = bytes.into();
        if (1..=Self::BYTES_MAX).contains(&bytes.len()) { Ok(Self(bytes)) } else { Err(InvalidName::KeyBytes(bytes.len())) }
    }

    /// The key's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Bytes> for Key {
    type Error = InvalidName;

    fn try_from(bytes: Bytes) -> Result<Self, InvalidName> {
        Self::new(bytes)
    }
}

impl From<Key> for Bytes {
    fn from(key: Key) -> Self {
        key.0
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_to_their_rules() {
        assert!(Namespace::new("my_ns-1").is_ok());
        assert!(Namespace::new("_ns").is_err());
        assert!(Namespace::new("").is_err());
        assert!(Namespace::new(&"a".repeat(64)).is_err());
        assert!(Region::new("us-east").is_ok());
        assert!(Region::new("us_east").is_err());
        assert!(Region::new("US").is_err());
    }

    #[test]
    fn a_key_has_one_to_1024_bytes() {
        assert!(Key::new("").is_err());
        assert!(Key::new(vec![0; 1024]).is_ok());
        assert_eq!(Key::new(vec![0; 1025]), Err(InvalidName::KeyBytes(1025)));
    }

    #[test]
    fn a_bad_name_from_the_wire_does_not_decode() {
        let bytes = postcard::to_allocvec("Not A Region").expect("encodes");
        assert!(postcard::from_bytes::<Region>(&bytes).is_err());
        let bytes = postcard::to_allocvec(&Bytes::new()).expect("encodes");
        assert!(postcard::from_bytes::<Key>(&bytes).is_err());
    }
}
