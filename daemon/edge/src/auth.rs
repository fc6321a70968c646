//! Who may do what: bearer tokens, kept as hashes, with rights per namespace.

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use isochrone_ident::Namespace;
use sha2::{Digest, Sha256};

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Reads and listings.
    Read,
    /// Puts and deletes. Does not imply [`Right::Read`].
    Write,
    /// Everything, and for [`Scope::All`] the operator's requests too.
    Admin,
}

/// Where a token allows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// `*`: every namespace, and the daemon itself.
    All,
    /// One namespace.
    Namespace(Namespace),
}

/// One right in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Where.
    pub scope: Scope,
    /// What.
    pub right: Right,
}

impl Grant {
    fn allows(&self, right: Right, place: Option<&str>) -> bool {
        let here = match (&self.scope, place) {
            (Scope::All, _) => true,
            (Scope::Namespace(mine), Some(asked)) => mine.as_str() == asked,
            (Scope::Namespace(_), None) => false,
        };
        here && (self.right == right || self.right == Right::Admin)
    }
}

/// A token as the daemon keeps it. The token's own text is nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// What operators call it; stands in logs.
    pub name: Arc<str>,
    /// SHA-256 of the token's text. Tokens are random and long, so no slow hash is needed.
    pub sha256: [u8; 32],
    /// What it allows; nothing else is allowed.
    pub grants: Vec<Grant>,
}

impl Token {
    /// The hash under which a token's text is kept.
    #[must_use]
    pub fn hash(text: &str) -> [u8; 32] {
        Sha256::digest(text.as_bytes()).into()
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("name", &self.name).field("grants", &self.grants).finish_non_exhaustive()
    }
}

/// The tokens in force, changed live when the cluster file changes.
#[derive(Debug)]
pub struct Auth {
    /// `None`: nobody is asked for a token.
    tokens: Option<ArcSwap<Vec<Arc<Token>>>>,
}

/// Who sent a request.
#[derive(Debug, Clone)]
pub(crate) enum Identity {
    /// Nobody is asked.
    Anyone,
    /// The bearer of that token.
    Bearer(Arc<Token>),
}

/// Why a request's sender is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// It showed no token.
    Missing,
    /// It showed one that is not in force.
    Wrong,
}

impl Auth {
    /// `auth.mode = "none"`: every request is allowed everything.
    #[must_use]
    pub const fn none() -> Self {
        Self { tokens: None }
    }

    /// `auth.mode = "tokens"`: every request under `/v1` must show one of these.
    #[must_use]
    pub fn tokens(tokens: Vec<Token>) -> Self {
        Self { tokens: Some(ArcSwap::from_pointee(tokens.into_iter().map(Arc::new).collect())) }
    }

    /// Puts other tokens in force, at once, for requests on open connections too. Does nothing in mode none.
    pub fn set(&self, tokens: Vec<Token>) {
        if let Some(current) = &self.tokens {
            current.store(Arc::new(tokens.into_iter().map(Arc::new).collect()));
        }
    }

    /// Whether nobody is asked for a token.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.tokens.is_none()
    }

    /// Who sent these header fields.
    pub(crate) fn identify(&self, headers: &HeaderMap) -> Result<Identity, Unknown> {
        let Some(tokens) = &self.tokens else { return Ok(Identity::Anyone) };
        let shown = Sha256::digest(bearer(headers).ok_or(Unknown::Missing)?).into();
        let tokens = tokens.load();
        // Every token is compared, whole, whether or not one was found already: the time tells nothing.
        let mut found = None;
        for token in tokens.iter() {
            if is_same(&token.sha256, &shown) {
                found = Some(token);
            }
        }
        found.cloned().map(Identity::Bearer).ok_or(Unknown::Wrong)
    }
}

impl Identity {
    /// Whether it may do that in a namespace, or (`None`) to the daemon itself.
    pub(crate) fn may(&self, right: Right, place: Option<&str>) -> bool {
        match self {
            Self::Anyone => true,
            Self::Bearer(token) => token.grants.iter().any(|grant| grant.allows(right, place)),
        }
    }

    /// What logs call it.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Anyone => "anyone",
            Self::Bearer(token) => &token.name,
        }
    }
}

/// The token of `Authorization: Bearer <token>` (RFC 6750 section 2.1). Two such fields are none.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let (field, None) = (fields.next()?, fields.next()) else { return None };
    let (scheme, token) = field.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Compares in a time that does not depend on where the two differ.
fn is_same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let difference = a.iter().zip(b).fold(0, |sum, (x, y)| sum | (x ^ y));
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(text: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, http::HeaderValue::from_static(text))])
    }

    fn token(text: &str, grants: Vec<Grant>) -> Token {
        Token { name: "t".into(), sha256: Token::hash(text), grants }
    }

    fn shared(text: &str, grants: Vec<Grant>) -> Arc<Token> {
        Arc::new(token(text, grants))
    }

    fn data(right: Right) -> Grant {
        Grant { scope: Scope::Namespace(Namespace::new("data").expect("a name")), right }
    }

    #[test]
    fn mode_none_asks_nobody() {
        let identity = Auth::none().identify(&HeaderMap::new()).expect("known");
        assert!(identity.may(Right::Admin, None));
    }

    #[test]
    fn a_token_is_known_by_its_hash_alone() {
        let auth = Auth::tokens(vec![token("secret", vec![data(Right::Read)])]);
        assert!(auth.identify(&headers("Bearer secret")).is_ok());
        assert!(auth.identify(&headers("bearer  secret ")).is_ok());
        assert_eq!(auth.identify(&headers("Bearer wrong")).err(), Some(Unknown::Wrong));
        assert_eq!(auth.identify(&headers("Basic secret")).err(), Some(Unknown::Missing));
        assert_eq!(auth.identify(&HeaderMap::new()).err(), Some(Unknown::Missing));
    }

    #[test]
    fn two_authorization_fields_are_none() {
        let auth = Auth::tokens(vec![token("a", vec![])]);
        let mut both = headers("Bearer a");
        both.append(AUTHORIZATION, http::HeaderValue::from_static("Bearer b"));
        assert_eq!(auth.identify(&both).err(), Some(Unknown::Missing));
    }

    #[test]
    fn rights_hold_in_their_namespace_only() {
        let reader = Identity::Bearer(shared("r", vec![data(Right::Read)]));
        assert!(reader.may(Right::Read, Some("data")));
        assert!(!reader.may(Right::Read, Some("cache")));
        assert!(!reader.may(Right::Write, Some("data")));
        assert!(!reader.may(Right::Read, None));
        let local_admin = Identity::Bearer(shared("a", vec![data(Right::Admin)]));
        assert!(local_admin.may(Right::Write, Some("data")));
        assert!(!local_admin.may(Right::Admin, None));
        let admin = Identity::Bearer(shared("a", vec![Grant { scope: Scope::All, right: Right::Admin }]));
        assert!(admin.may(Right::Admin, None) && admin.may(Right::Read, Some("cache")));
    }

    #[test]
    fn other_tokens_are_in_force_at_once() {
        let auth = Auth::tokens(vec![token("old", vec![])]);
        auth.set(vec![token("new", vec![])]);
        assert!(auth.identify(&headers("Bearer old")).is_err());
        assert!(auth.identify(&headers("Bearer new")).is_ok());
    }

    #[test]
    fn a_token_is_never_printed() {
        let text = format!("{:?}", token("secret", vec![]));
        assert!(!text.contains("sha256") && !text.contains("secret"));
    }
}
