//! What a client has seen, as it carries it from answer to request (rule E9).

use std::fmt;
use std::sync::Arc;

/// A session token as a client sends it: text that only the daemons of its cluster understand. The edge holds it to its form and hands it on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SessionToken(Arc<str>);

/// A text that is no [`SessionToken`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a token is 1 to {} visible ASCII characters, as an answer's Isochrone-Session gave it", SessionToken::BYTES_MAX)]
pub struct InvalidSessionToken;

impl SessionToken {
    /// The longest token, in bytes.
    pub const BYTES_MAX: usize = 1024;

    /// The token of that text.
    ///
    /// # Errors
    /// [`InvalidSessionToken`] when it is empty, longer than [`Self::BYTES_MAX`] or holds anything but visible ASCII.
    pub fn new(text: impl Into<Arc<str>>) -> Result<Self, InvalidSessionToken> {
        let text = text.into();
        if Self::fits(text.as_bytes()) { Ok(Self(text)) } else { Err(InvalidSessionToken) }
    }

    /// Whether a token has this form: all that can be said without its cluster.
    pub(crate) fn fits(text: &[u8]) -> bool {
        (1..=Self::BYTES_MAX).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic)
    }

    /// The token as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<SessionToken> for Arc<str> {
    fn from(token: SessionToken) -> Self {
        token.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_visible_ascii_of_a_kibibyte_at_most() {
        assert!(SessionToken::new("i1.x-_~=").is_ok() && SessionToken::new("t".repeat(1024)).is_ok());
        for bad in ["", "a b", "é", "a\n", &"t".repeat(1025)] {
            assert_eq!(SessionToken::new(bad), Err(InvalidSessionToken), "{bad:?}");
        }
    }
}
