//! Keys that are not values: what can be asked of a counter, a set, a map or a register, and what comes back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isochrone_ident::{Key, Kind, Namespace, WallMicros};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::command::{IdempotencyKey, Level, Receipt, Source};
use crate::session::SessionToken;

/// A read of one key that is not a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypedRead {
    /// The namespace: an eventual one when the command is made.
    pub ns: Namespace,
    /// What the key is: never [`Kind::Value`].
    pub kind: Kind,
    /// The key.
    pub key: Key,
    /// What the client asked for, or the namespace's default.
    pub level: Level,
    /// What the client has seen before (rule E9): the answer is no older.
    pub session: Option<SessionToken>,
    /// When the client's patience ends.
    pub deadline: Instant,
}

/// A change of one key that is not a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypedWrite {
    /// The namespace: an eventual one when the command is made.
    pub ns: Namespace,
    /// The key; its kind is that of `op`.
    pub key: Key,
    /// What to do.
    pub op: TypedOp,
    /// How long the key is to live, the namespace's default and maximum already applied; `None`: it persists. At least 1 ms. Of several
    /// writes the longest wins (rule E8), which is the backend's matter.
    pub ttl: Option<Duration>,
    /// The client's name for this change: a repeat counts once, in whichever region it arrives.
    pub idempotency_key: Option<IdempotencyKey>,
    /// xxh3-128 of everything in the request that says what is to be done; 0 without an `idempotency_key`. Another one under the same key is
    /// [`crate::Refusal::IdempotencyKeyReused`].
    pub fingerprint: u128,
    /// What the client asked for, or the namespace's default.
    pub level: Level,
    /// What the client has seen before (rule E9): the change comes after it.
    pub session: Option<SessionToken>,
    /// When the client's patience ends, as for [`crate::WriteCommand::deadline`].
    pub deadline: Instant,
}

/// What a change does. Members and fields stand once each, in byte order, and in no more than one list of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TypedOp {
    /// Adds to a counter; negative: takes away.
    CounterAdd(i64),
    /// Changes a set; `add` and `remove` are not both empty.
    SetUpdate {
        /// Members that are in it afterwards.
        add: Vec<Bytes>,
        /// Members that are not, as far as their presence has been observed (rule E5).
        remove: Vec<Bytes>,
    },
    /// Changes a map; not all of its lists are empty.
    MapUpdate {
        /// Fields and their new values: JSON texts without white space around their parts.
        set: Vec<(String, Bytes)>,
        /// Fields that are not in it afterwards, as far as their presence has been observed.
        remove: Vec<String>,
        /// Fields that are counters, and what is added to each.
        add: Vec<(String, i64)>,
    },
    /// Writes a register.
    RegisterPut {
        /// The bytes.
        value: Bytes,
        /// What the client calls them.
        content_type: Option<Arc<str>>,
        /// What an answer gave as [`Datum::Register`]'s context: the values that were seen there are replaced. `None`: nothing was seen.
        context: Option<Bytes>,
    },
}

impl TypedOp {
    /// The kind of the key that it changes.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::CounterAdd(_) => Kind::Counter,
            Self::SetUpdate { .. } => Kind::Set,
            Self::MapUpdate { .. } => Kind::Map,
            Self::RegisterPut { .. } => Kind::Register,
        }
    }
}

/// What such a key holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Datum {
    /// A counter's value.
    Counter(i64),
    /// A set's members, in byte order.
    Set(Vec<Bytes>),
    /// A map's fields.
    Map(BTreeMap<String, FieldDatum>),
    /// A register.
    Register {
        /// Its values: more than one when they were written without knowing of each other.
        values: Vec<RegisterDatum>,
        /// What a put sends back to replace them.
        context: Bytes,
    },
}

impl Datum {
    /// The kind of the key that holds it.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Counter(_) => Kind::Counter,
            Self::Set(_) => Kind::Set,
            Self::Map(_) => Kind::Map,
            Self::Register { .. } => Kind::Register,
        }
    }
}

/// What a map's field holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FieldDatum {
    /// A JSON text, as it was set.
    Value(Bytes),
    /// A counter's value.
    Counter(i64),
}

/// One value of a register.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterDatum {
    /// The bytes, as they were written.
    pub value: Bytes,
    /// The content type given at the write.
    pub content_type: Option<Arc<str>>,
}

/// The answer to a [`TypedRead`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypedServed {
    /// What the key holds; `None`: it is absent (never written, or expired).
    pub datum: Option<Datum>,
    /// The strong validator: equal for equal states, in every region, and for no others. Without meaning where the key is absent.
    pub etag: u128,
    /// When it expires; `None`: it persists.
    pub expires_at: Option<WallMicros>,
    /// What the answer rests on. An absence has a receipt too.
    pub receipt: Receipt,
    /// Where it was answered from.
    pub source: Source,
}

/// The answer to a [`TypedWrite`] that was applied, or was already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypedWritten {
    /// What the key holds, as far as the daemon that took the write knows. After a repeat: what it holds now.
    pub datum: Datum,
    /// As [`TypedServed::etag`], of that state.
    pub etag: u128,
    /// What the acknowledgement rests on.
    pub receipt: Receipt,
    /// Whether an earlier request with the same `Idempotency-Key` did it.
    pub repeated: bool,
}

/// A kind with its article, for sentences.
pub(crate) const fn a_kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Value => "a value",
        Kind::Counter => "a counter",
        Kind::Set => "a set",
        Kind::Map => "a map",
        Kind::Register => "a multi-value register",
    }
}
