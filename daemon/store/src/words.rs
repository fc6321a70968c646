//! What goes into a store and what comes out of it.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use isochrone_ident::{Key, Kind, Namespace, Slot, Version, WallMicros};
use isochrone_replica::{Causes, Change, Delta, Entry, Record, Sequence, Stamp, State, TypedLimits, Upkeep};
use serde::Serialize;

/// A name that is too long, or empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a {kind} has 1 to {bytes_max} bytes, not {bytes}")]
pub struct InvalidLength {
    /// What was being named.
    pub kind: &'static str,
    /// How long it was.
    pub bytes: usize,
    /// How long it may be.
    pub bytes_max: usize,
}

/// What identifies a request that may be repeated: whatever the caller composes of the client's identity and its `Idempotency-Key`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestKey(Bytes);

impl RequestKey {
    /// The longest request key, in bytes.
    pub const BYTES_MAX: usize = 512;

    /// The request key of these bytes.
    ///
    /// # Errors
    /// [`InvalidLength`] when there are none, or more than [`RequestKey::BYTES_MAX`].
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, InvalidLength> {
        let bytes = bytes.into();
        if (1..=Self::BYTES_MAX).contains(&bytes.len()) {
            Ok(Self(bytes))
        } else {
            Err(InvalidLength { kind: "request key", bytes: bytes.len(), bytes_max: Self::BYTES_MAX })
        }
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The name of a small durable value that belongs to the daemon rather than to its clients (its incarnation, how far a peer has confirmed).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FactKey(Cow<'static, str>);

impl FactKey {
    /// The longest name of a fact, in bytes.
    pub const BYTES_MAX: usize = 256;

    /// A name known when the program is written.
    #[must_use]
    pub const fn fixed(name: &'static str) -> Self {
        assert!(!name.is_empty() && name.len() <= Self::BYTES_MAX, "the name of a fact has 1 to 256 bytes");
        Self(Cow::Borrowed(name))
    }

    /// A name made while running, such as one for each peer.
    ///
    /// # Errors
    /// [`InvalidLength`] when it is empty or longer than [`FactKey::BYTES_MAX`].
    pub fn new(name: String) -> Result<Self, InvalidLength> {
        if (1..=Self::BYTES_MAX).contains(&name.len()) {
            Ok(Self(Cow::Owned(name)))
        } else {
            Err(InvalidLength { kind: "fact's name", bytes: name.len(), bytes_max: Self::BYTES_MAX })
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// When a write is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// After the sync that makes it survive a loss of power (E5).
    #[default]
    AtOnce,
    /// When it can be read; it is synced with the next commit that is, at the latest after `sync_interval`. For evictable namespaces (E11), whose data
    /// can be had again.
    Relaxed,
}

/// What is to become of a key.
#[derive(Debug, Clone)]
pub enum Write {
    /// A record is merged into what is held (E4, E8). Always safe, however often and in whatever order.
    Merge(Record),
    /// A write that another daemon has taken is applied to a typed key (E2). Only in the order in which that daemon made its writes: see [`Outcome::gap`].
    Apply {
        /// The write's version.
        version: Version,
        /// What it changes.
        delta: Delta,
        /// What it depends on (E9).
        causes: Option<Arc<Causes>>,
    },
    /// A client's write of a typed key, taken here: carried out on what is held, in the order of commits, so that no two writes are given one dot, and with
    /// [`Durability::AtOnce`] none is used before it is on disk (E3). A refusal refuses the set: [`WriteError::Refused`](crate::WriteError::Refused).
    Change {
        /// What is asked.
        change: Change,
        /// Under which circumstances. When relaxed writes were lost while the store was open (its disk was full, and had to be opened again), the store gives out
        /// dots in a later life than the stamp's, since those of the lost writes may have been seen (E3).
        stamp: Stamp,
        /// How large the key may grow.
        limits: TypedLimits,
        /// What it depends on (E9).
        causes: Option<Arc<Causes>>,
    },
    /// Drops what a typed key holds and nobody needs any more. The version stays; a key that holds nothing else afterwards is left to be forgotten.
    Prune(Upkeep),
}

/// A write, and where it belongs.
#[derive(Debug, Clone)]
pub struct Placed {
    /// The slot of the key (P1); always the same for a key, whatever its kind.
    pub slot: Slot,
    /// The key's namespace.
    pub ns: Namespace,
    /// What the key holds.
    pub kind: Kind,
    /// The key.
    pub key: Key,
    /// What is to become of it.
    pub write: Write,
    /// Whether its namespace may be evicted (E11); always the same for a namespace.
    pub evictable: bool,
}

impl Placed {
    /// Another daemon's state of a key, to be merged.
    #[must_use]
    pub fn merging(slot: Slot, entry: Entry, evictable: bool) -> Self {
        Self { slot, ns: entry.ns, kind: entry.kind, key: entry.key, write: Write::Merge(entry.record), evictable }
    }

    /// Bytes of payload: the key, and what is written.
    pub(crate) fn bytes(&self) -> usize {
        self.key.as_bytes().len() + self.write.bytes()
    }
}

impl Write {
    /// Bytes of payload.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Merge(record) => record.bytes(),
            Self::Apply { delta, .. } => encoded_bytes(delta),
            Self::Change { change, .. } => encoded_bytes(change),
            Self::Prune(_) => 0,
        }
    }

    /// Whether what is written takes the place of what is held, rather than growing it.
    pub(crate) const fn replaces(&self) -> bool {
        matches!(self, Self::Merge(_))
    }

    /// Whether it can only make what is held smaller.
    pub(crate) fn frees(&self) -> bool {
        match self {
            Self::Merge(record) => record.state == State::Tombstone,
            Self::Prune(_) => true,
            Self::Apply { .. } | Self::Change { .. } => false,
        }
    }
}

/// How long a value is when it is written out.
fn encoded_bytes<T: Serialize>(value: &T) -> usize {
    postcard::experimental::serialized_size(value).unwrap_or(usize::MAX / 4)
}

/// An answer to be kept under its request's key, so that a repeat gets it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAnswer {
    /// The request.
    pub key: RequestKey,
    /// Until when it is kept.
    pub until: WallMicros,
    /// The answer, in the caller's own form.
    pub body: Bytes,
    /// Appends to the body what the counter that the set's first entry changes stands at afterwards: an `i64` as postcard writes it. Nothing is appended
    /// where the first entry is no [`Write::Change`] of a counter.
    pub counted: bool,
}

/// What is to be written together: all of it becomes durable, or nothing does.
#[derive(Debug, Clone, Default)]
pub struct WriteSet {
    /// What is written. Entries of one key see each other, in order.
    pub entries: Vec<Placed>,
    /// Whether each entry that is taken is also appended to the operation log, with the request key of the first answer.
    pub log: bool,
    /// Answers to keep under their request's key. If one is kept already, the set is a repeat.
    pub answers: Vec<KeptAnswer>,
    /// Answers to requests that other daemons have taken, each with the time until which it is kept. One that is here already stays as it is; none makes the set
    /// a repeat.
    pub learned: Vec<(RequestKey, Bytes, WallMicros)>,
    /// Facts to set, or with `None` to remove.
    pub facts: Vec<(FactKey, Option<Bytes>)>,
    /// When to answer.
    pub durability: Durability,
}

impl WriteSet {
    /// Writes these entries.
    #[must_use]
    pub fn of(entries: Vec<Placed>) -> Self {
        Self { entries, ..Self::default() }
    }

    /// Sets one fact, durably.
    #[must_use]
    pub fn fact(key: FactKey, value: Bytes) -> Self {
        Self { facts: vec![(key, Some(value))], ..Self::default() }
    }

    /// Bytes of keys and values that this carries, for the bounds on the queue and the batch.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let entries: usize = self.entries.iter().map(Placed::bytes).sum();
        let answers: usize = self.answers.iter().map(|kept| kept.key.as_bytes().len() + kept.body.len()).sum();
        let learned: usize = self.learned.iter().map(|(key, answer, _)| key.as_bytes().len() + answer.len()).sum();
        let facts: usize = self.facts.iter().map(|(key, value)| key.as_str().len() + value.as_ref().map_or(0, Bytes::len)).sum();
        (entries + answers + learned + facts) as u64
    }
}

/// What was held under a key before a write, without its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Before {
    /// The version that was held.
    pub version: Version,
    /// Whether it was a value rather than a tombstone; it may have been expired.
    pub live: bool,
    /// When it was to expire; `None` for a value that persists, and for a tombstone.
    pub expires_at: Option<WallMicros>,
}

/// What became of one entry of a [`WriteSet`].
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// What was held before; `None` when nothing was.
    pub before: Option<Before>,
    /// The version held now; that of no write where nothing is held (after a gap in a key that is new here).
    pub after: Version,
    /// Whether the entry changed what is held. `false` when what was held already covers it.
    pub taken: bool,
    /// E2: some write before a [`Write::Apply`] is missing here, so it was not applied, while the rest of the set was. Pull the key's state, and merge it.
    pub gap: bool,
    /// Where in the operation log it stands, when it was taken and logging was asked for.
    pub logged: Option<Sequence>,
    /// After a [`Write::Change`]: the record that it left.
    pub state: Option<Record>,
}

/// What became of a [`WriteSet`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Committed {
    /// One for each entry, in order. Empty when `earlier` is there.
    pub outcomes: Vec<Outcome>,
    /// The answer kept for one of the set's request keys: the request is a repeat, and nothing of this set was applied.
    pub earlier: Option<Bytes>,
}

/// A key in a listing, without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The key.
    pub key: Key,
    /// Its version.
    pub version: Version,
    /// Length of its value; 0 for a tombstone.
    pub bytes: u64,
    /// When it expires; `None` for a value that persists, and for a tombstone.
    pub expires_at: Option<WallMicros>,
    /// Whether it is a value rather than a tombstone; expiry is for the reader to judge (E8).
    pub live: bool,
}

/// One page of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// In key order; tombstones and expired values included.
    pub items: Vec<Listed>,
    /// Where to go on: the `after` of the next page. `None` at the end. May be there with few or no items, because the keys looked at in one page are bounded.
    pub next: Option<Key>,
}

/// One page of a slot's records.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// In the order of namespace, then kind, then key.
    pub entries: Vec<Entry>,
    /// Where to go on; `None` at the end.
    pub next: Option<(Namespace, Kind, Key)>,
}

/// One page of the operation log.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LogPage {
    /// In order.
    pub operations: Vec<Logged>,
    /// The last position that was looked at, damaged or not; where the page began if there was none.
    pub through: Sequence,
    /// Damaged operations that were left out: what they were, only anti-entropy can find out (E6).
    pub skipped: u64,
}

/// One operation in the log: which key changed, and to which version.
#[derive(Debug, Clone, PartialEq)]
pub struct Logged {
    /// Its position.
    pub sequence: Sequence,
    /// The key's slot.
    pub slot: Slot,
    /// The key's namespace.
    pub ns: Namespace,
    /// What the key holds.
    pub kind: Kind,
    /// The key.
    pub key: Key,
    /// The version it was given.
    pub version: Version,
    /// What the write changed, of a set, a map or a register that was changed here. Of other kinds the record is all that replicas need.
    pub delta: Option<Delta>,
    /// The key of the request that made it, where it had one.
    pub request: Option<RequestKey>,
}

/// A key whose record has just changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The key's slot.
    pub slot: Slot,
    /// The key's namespace.
    pub ns: Namespace,
    /// What the key holds.
    pub kind: Kind,
    /// The key.
    pub key: Key,
    /// The version held now; of a record that was removed (forgotten, evicted, of a slot that was dropped) the one it had.
    pub version: Version,
    /// Whether something is held now that is no tombstone; expiry is for the reader to judge (E8).
    pub live: bool,
}

/// What a slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SlotTotals {
    /// Records, tombstones included.
    pub keys: u64,
    /// Bytes that they take up, by the store's own count (keys, encoded records, index entries).
    pub bytes: u64,
}

/// How full a store is, by its own count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Records, tombstones included.
    pub keys: u64,
    /// Bytes of all records.
    pub bytes: u64,
    /// Of `keys`, those that may be evicted.
    pub evictable_keys: u64,
    /// Of `bytes`, those that may be evicted.
    pub evictable_bytes: u64,
    /// Operations in the log.
    pub log_entries: u64,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// The newest position of the log.
    pub last_sequence: Sequence,
    /// Answers kept for repeated requests.
    pub answers: u64,
    /// Bytes of these answers.
    pub answers_bytes: u64,
    /// Bytes in the memory tier, as counted against its budget.
    pub memory_bytes: u64,
    /// Records found corrupt since the start.
    pub corrupt: u64,
    /// Records evicted since the start.
    pub evicted: u64,
    /// Syncs of the disk since the start.
    pub syncs: u64,
    /// Write sets refused for want of room since the start.
    pub refused_full: u64,
    /// How often, since the start, relaxed writes were lost because the disk had to be opened again.
    pub rollbacks: u64,
}
