//! What a key's register holds (Q3): revision, value or tombstone, fences, answered requests.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use isochrone_ident::{Key, Namespace, WallMicros};
use serde::{Deserialize, Serialize};

use crate::Ballot;

/// A number of 64 bits, at its longest in the wire's variable form.
const NUMBER_BYTES: usize = 10;
/// Counter, daemon and incarnation.
const BALLOT_BYTES: usize = 2 * NUMBER_BYTES + 16;
/// Nonce, print, time, revision and effect.
const ANSWERED_BYTES: usize = 16 + 3 * NUMBER_BYTES + 1;

/// A key with its namespace. Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyName {
    /// The namespace.
    pub namespace: Namespace,
    /// The key in it.
    pub key: Key,
}

impl fmt::Debug for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.key)
    }
}

/// Which write of a key: it only grows, across deletes, forgetting and moves. Max(revision + 1, ballot counter) at each write (Q7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Revision(pub u64);

/// A fencing token: what a lock's holder shows (L5). It only grows for one lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Token(pub u64);

/// The lock that a fence guards against stale holders of: its name, as bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Guard(pub Bytes);

/// A request's identity, the same in every try of it (Q11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestId {
    /// Told apart by this alone: random, or a hash of what the client called it.
    pub nonce: u128,
    /// A digest of what is asked, so that another request under the same nonce is refused and not taken for a repeat.
    pub print: u64,
    /// Until when it may be tried: its beginning plus the retry window. Its answer is kept until then and a clock's skew longer.
    pub until: WallMicros,
}

/// What a client stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// The bytes.
    pub bytes: Bytes,
    /// Their media type, if the client named one.
    pub content_type: Option<Arc<str>>,
    /// After this (plus the skew bound) the key counts as absent (E8).
    pub expires: Option<WallMicros>,
    /// When it was written, by the clock of the daemon that took it. For its age only: nothing is decided by it.
    pub written: WallMicros,
}

/// A value, or the mark of a delete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// There is a value.
    Live(Value),
    /// It was deleted; forgotten by Q16.
    Tombstone,
}

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Effect {
    /// A put where there was no value.
    Created,
    /// A put over a value.
    Replaced,
    /// A delete of a value.
    Deleted,
    /// An expired value became a tombstone, which changes nothing that clients see.
    Expired,
}

/// An answered request, kept so that a repeat is answered and not applied (Q11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// Which request.
    pub id: RequestId,
    /// The revision that it made.
    pub revision: Revision,
    /// What it did.
    pub effect: Effect,
}

/// A transaction's mark on the record, as opaque bytes: every change of the register carries it along as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent(pub Bytes);

/// What a ballot carries: the whole register.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Of the last write.
    pub revision: Revision,
    /// The value, or a tombstone.
    pub content: Content,
    /// The highest token seen per guard (Q3, L5). Kept over deletes.
    pub fences: BTreeMap<Guard, Token>,
    /// The slot's floor when the register was made: a token at or below it proves nothing where its guard has no fence yet (L5).
    pub floor: u64,
    /// Answered requests, in the order of their writes. Bounded; full, it pushes back and forgets nothing early (Q11).
    pub ring: Vec<Answered>,
    /// A transaction's mark.
    pub intent: Option<Intent>,
}

impl Envelope {
    /// The value, unless deleted or expired by `now`, where clocks may differ by `skew_micros`.
    #[must_use]
    pub fn live(&self, now: WallMicros, skew_micros: u64) -> Option<&Value> {
        let Content::Live(value) = &self.content else { return None };
        let is_over = value.expires.is_some_and(|expires| now.0 > expires.0.saturating_add(skew_micros));
        (!is_over).then_some(value)
    }

    /// Whether there is a value whose expiry has passed: absent for clients, and not forgotten before it is made a tombstone (Q16).
    #[must_use]
    pub fn is_expired(&self, now: WallMicros, skew_micros: u64) -> bool {
        matches!(self.content, Content::Live(_)) && self.live(now, skew_micros).is_none()
    }

    /// How an earlier try of that request, or another one under its nonce, was answered.
    #[must_use]
    pub fn answered(&self, id: RequestId) -> Option<&Answered> {
        self.ring.iter().find(|answered| answered.id.nonce == id.nonce)
    }

    /// Whether it is a tombstone that no retry can need any more: every request of its ring is past its window plus skew (Q16a).
    #[must_use]
    pub fn is_forgettable(&self, now: WallMicros, skew_micros: u64) -> bool {
        self.content == Content::Tombstone && self.intent.is_none() && self.ring.iter().all(|answered| answered.is_over(now, skew_micros))
    }

    /// About how many bytes it takes, on the wire and on disk.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let content = match &self.content {
            Content::Live(value) => value.bytes.len() + value.content_type.as_ref().map_or(0, |text| text.len()) + 2 * NUMBER_BYTES,
            Content::Tombstone => 0,
        };
        let fences: usize = self.fences.keys().map(|guard| guard.0.len() + NUMBER_BYTES).sum();
        let intent = self.intent.as_ref().map_or(0, |intent| intent.0.len());
        2 * NUMBER_BYTES + content + fences + intent + self.ring.len() * ANSWERED_BYTES
    }

    /// The largest number in it that a floor must reach before it is forgotten (Q16c): revision and tokens.
    #[must_use]
    pub fn height(&self) -> u64 {
        let tokens = self.fences.values().map(|token| token.0).max().unwrap_or(0);
        self.revision.0.max(tokens).max(self.floor)
    }
}

impl Answered {
    /// Whether no try of that request can be taken any more, by any clock.
    #[must_use]
    pub fn is_over(&self, now: WallMicros, skew_micros: u64) -> bool {
        now.0 > self.id.until.0.saturating_add(skew_micros)
    }
}

/// What an acceptor has accepted for a key: the ballot and what it carried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The ballot.
    pub ballot: Ballot,
    /// What it carries.
    pub envelope: Arc<Envelope>,
}

/// The ballot of what was accepted; [`Ballot::NONE`] when nothing was.
#[must_use]
pub fn accepted_ballot(accepted: Option<&Accepted>) -> Ballot {
    accepted.map_or(Ballot::NONE, |accepted| accepted.ballot)
}

/// An acceptor's durable state of one key (Q3).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KeyState {
    /// No ballot below it is taken. At or above what was accepted. It only grows.
    pub promised: Ballot,
    /// What was accepted; `None` when only a promise was made.
    pub accepted: Option<Accepted>,
}

impl KeyState {
    /// About how many bytes it takes, on the wire and on disk.
    #[must_use]
    pub fn bytes(&self) -> usize {
        BALLOT_BYTES + self.accepted.as_ref().map_or(0, |accepted| BALLOT_BYTES + accepted.envelope.bytes())
    }

    /// The ballot of what was accepted.
    #[must_use]
    pub fn ballot(&self) -> Ballot {
        accepted_ballot(self.accepted.as_ref())
    }

    /// The largest number in it that a floor must reach before the key is forgotten (Q16c).
    #[must_use]
    pub fn height(&self) -> u64 {
        let accepted = self.accepted.as_ref().map_or(0, |accepted| accepted.ballot.counter.max(accepted.envelope.height()));
        self.promised.counter.max(accepted)
    }
}
