//! Bearer tokens and what they allow.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use isochrone_ident::{InvalidName, Namespace};
use serde::{Deserialize, Serialize};

/// A text that is not 64 hexadecimal digits. It is not repeated here: it may be a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 sum is 64 hexadecimal digits")]
pub struct InvalidHash;

/// The SHA-256 sum of a bearer token. Never printed: `Debug` hides it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The sum's bytes, to be compared in constant time.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for TokenHash {
    type Err = InvalidHash;

    fn from_str(text: &str) -> Result<Self, InvalidHash> {
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(InvalidHash);
        }
        let mut bytes = [0; 32];
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| InvalidHash)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| InvalidHash)?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for TokenHash {
    type Error = InvalidHash;

    fn try_from(text: String) -> Result<Self, InvalidHash> {
        text.parse()
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(hidden)")
    }
}

/// One thing that a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// Read keys and list them.
    Read,
    /// Write and delete keys.
    Write,
    /// Operate: on `*`, the admin listener.
    Admin,
}

/// Which namespaces a grant is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Scope {
    /// All of them, `*`.
    All,
    /// That one.
    One(Namespace),
}

impl Scope {
    /// Whether it takes in that namespace.
    #[must_use]
    pub fn covers(&self, namespace: &Namespace) -> bool {
        match self {
            Self::All => true,
            Self::One(one) => one == namespace,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::One(namespace) => namespace.fmt(f),
        }
    }
}

impl TryFrom<String> for Scope {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        if text == "*" { Ok(Self::All) } else { Namespace::new(&text).map(Self::One) }
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.to_string()
    }
}

/// Rights on some namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Where.
    pub namespace: Scope,
    /// What.
    pub allow: BTreeSet<Right>,
}

/// A bearer token by its hash, and what its holder may do.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Who holds it; unique in its file.
    pub name: String,
    /// The token's hash; unique in its file.
    pub sha256: TokenHash,
    /// What it allows, added up.
    pub rights: Vec<Grant>,
}

impl Token {
    /// Whether the holder has that right in that namespace.
    #[must_use]
    pub fn allows(&self, namespace: &Namespace, right: Right) -> bool {
        self.rights.iter().any(|grant| grant.namespace.covers(namespace) && grant.allow.contains(&right))
    }

    /// Whether the holder has that right in all namespaces; [`Right::Admin`] there opens the admin listener.
    #[must_use]
    pub fn allows_everywhere(&self, right: Right) -> bool {
        self.rights.iter().any(|grant| grant.namespace == Scope::All && grant.allow.contains(&right))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_add_up_and_stay_in_their_namespaces() {
        let data = Namespace::new("data").expect("valid");
        let cache = Namespace::new("cache").expect("valid");
        let grant = |scope, right| Grant { namespace: scope, allow: BTreeSet::from([right]) };
        let rights = vec![grant(Scope::All, Right::Read), grant(Scope::One(data.clone()), Right::Write)];
        let token = Token { name: "x".into(), sha256: TokenHash([7; 32]), rights };
        assert!(token.allows(&cache, Right::Read) && token.allows(&data, Right::Write));
        assert!(!token.allows(&cache, Right::Write) && !token.allows(&data, Right::Admin));
        assert!(token.allows_everywhere(Right::Read) && !token.allows_everywhere(Right::Write));
    }

    #[test]
    fn a_hash_reads_hexadecimal_and_never_shows() {
        let hash: TokenHash = "AB".repeat(32).parse().expect("valid");
        assert_eq!(hash.as_bytes(), &[0xab; 32]);
        assert_eq!(format!("{hash:?}"), "TokenHash(hidden)");
        assert!("zz".repeat(32).parse::<TokenHash>().is_err() && "ab".parse::<TokenHash>().is_err());
        assert!("é".repeat(32).parse::<TokenHash>().is_err());
    }
}
