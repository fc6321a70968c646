//! What a client asks of a typed key, who takes it, and why it may be refused.

use std::sync::Arc;

use bytes::Bytes;
use isochrone_ident::{Hlc, Kind, NodeId, Version, WallMicros};
use serde::{Deserialize, Serialize};

use super::register::RegisterContext;

/// Who gives out dots (E3): a daemon in one life of its store. A dot is never given out twice, so whoever may have lost dots that it gave out takes
/// a new `life`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Actor {
    /// The daemon.
    pub node: NodeId,
    /// Drawn at random when the store is new, and anew after an unclean end in which dots that were not synced may have been lost.
    pub life: u64,
}

/// The mark of one request: a hash of its `Idempotency-Key` and namespace. Two adds with one mark count once, wherever they were taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClaimId(pub u128);

/// Under which circumstances a daemon takes a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The write's version: unique for all time, later than every version in the state that it changes.
    pub version: Version,
    /// Who gives out its dots (E3).
    pub actor: Actor,
    /// The daemon's wall time.
    pub now: WallMicros,
    /// The bound on the difference of two daemons' clocks, in milliseconds (E4).
    pub skew_ms: u64,
    /// Until when the key is to be kept at least; `None` persists, and beats every deadline (E8).
    pub expires_at: Option<WallMicros>,
}

/// A client's write of a typed key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Adds to a counter.
    Count {
        /// How much; negative to take away.
        add: i64,
        /// The request's mark, where it has one.
        claim: Option<ClaimId>,
    },
    /// Removes members that this daemon sees from a set, then adds members.
    UpdateSet {
        /// To add. A member that is also removed stays.
        add: Vec<Bytes>,
        /// To remove; those that are not seen here are passed over.
        remove: Vec<Bytes>,
    },
    /// Removes fields that this daemon sees from a map, then sets values, then adds to counters.
    UpdateMap {
        /// Fields to set, with their values. Of two with one name the last counts.
        set: Vec<(Bytes, Bytes)>,
        /// Fields to remove; those that are not seen here are passed over.
        remove: Vec<Bytes>,
        /// Fields to add to.
        add: Vec<(Bytes, i64)>,
        /// The request's mark; it guards the adds.
        claim: Option<ClaimId>,
    },
    /// Writes a multi-value register.
    PutRegister {
        /// The value.
        value: Bytes,
        /// Its `Content-Type`.
        content_type: Option<Arc<str>>,
        /// What the client has read and this value replaces; without one the value stands beside the others.
        context: Option<RegisterContext>,
    },
}

impl Change {
    /// The kind of key that it is for.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Count { .. } => Kind::Counter,
            Self::UpdateSet { .. } => Kind::Set,
            Self::UpdateMap { .. } => Kind::Map,
            Self::PutRegister { .. } => Kind::Register,
        }
    }
}

/// How large a typed key may grow (E12). Kept by the daemon that takes a write, never by a join: regions that grew a key at the same time and together
/// passed a limit still come together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypedLimits {
    /// Members of a set. Default 10,000.
    pub set_members: usize,
    /// Bytes of a member of a set, or of the name of a field. Default 1 KiB.
    pub member_bytes: usize,
    /// Fields of a map. Default 1,000. Removed counters stay behind as a few bytes; of those there may be four times as many.
    pub map_fields: usize,
    /// Values of a register that nobody has replaced. Default 64.
    pub register_values: usize,
    /// Marks of requests that one daemon keeps in one counter. Default 1,000.
    pub claims: usize,
}

impl Default for TypedLimits {
    fn default() -> Self {
        Self { set_members: 10_000, member_bytes: 1024, map_fields: 1000, register_values: 64, claims: 1000 }
    }
}

/// Why a write was not taken. The state is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRefused {
    /// The change is for another kind of key than the one named, or than the state is of.
    #[error("a {asked} cannot be changed as a {given}")]
    WrongKind {
        /// The kind of key that was named.
        asked: Kind,
        /// The kind that the change is for.
        given: Kind,
    },
    /// The counter, or what one daemon has added to it in all, would pass 64 bits.
    #[error("the counter would pass 64 bits")]
    CounterOverflow,
    /// An add with this mark is already in the state: answer with what is seen, nothing is to be done.
    #[error("this request has been counted before")]
    AlreadyCounted,
    /// This daemon keeps too many marks of requests in this counter.
    #[error("more than {max} requests with an idempotency key in one window")]
    TooManyClaims {
        /// The limit.
        max: usize,
    },
    /// The set would have too many members.
    #[error("a set has at most {max} members")]
    TooManyMembers {
        /// The limit.
        max: usize,
    },
    /// A member of a set, or the name of a field, is too long.
    #[error("a member or a field's name has at most {bytes_max} bytes")]
    MemberTooLong {
        /// The limit, in bytes.
        bytes_max: usize,
    },
    /// The map would have too many fields.
    #[error("a map has at most {max} fields")]
    TooManyFields {
        /// The limit.
        max: usize,
    },
    /// The register holds too many values that no write has replaced: read it, and put with the context.
    #[error("a register holds at most {max} concurrent values")]
    TooManyValues {
        /// The limit.
        max: usize,
    },
    /// The field is of the other type: a value cannot be added to, a counter cannot be set; or one request does both.
    #[error("the field is of the other type")]
    FieldType {
        /// Its name.
        field: Bytes,
    },
    /// The context tells of writes that this daemon has not seen, or is of another key. A daemon that fetches the key's state may ask again.
    #[error("the context tells of writes that are unknown here")]
    UnknownContext,
    /// The store's dots of this key are used up, or the state breaks E3.
    #[error("the key's state takes no more writes of this daemon")]
    Exhausted,
}

/// Under which circumstances [`Typed::prune`](super::Typed::prune) looks at a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upkeep {
    /// The bound on the difference of two daemons' clocks, in milliseconds.
    pub skew_ms: u64,
    /// No write of this time or before can still arrive (E7).
    pub stable: Hlc,
    /// For how long a request may be repeated, in milliseconds.
    pub claim_ms: u64,
    /// Whose own part may be changed: this daemon in its present life.
    pub actor: Actor,
}
