//! What nodes say to each other about data. Every message is an enum in `postcard`; the mesh's ALPN carries the version (M3).

use std::sync::Arc;

use bytes::Bytes;
use isochrone_edge::Listed;
use isochrone_gossip::ServiceId;
use isochrone_ident::{Epoch, Hlc, Key, Kind, Namespace, Region, Slot, Version, WallMicros};
use isochrone_placement::SlotSet;
use isochrone_replica::{Causes, CopyHeartbeat, CopyTicket, Delta, Entry, Heard, KeyHash, Opening, Position, Record, Sequence, Session};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Raft messages, joins and forwarded proposals.
pub(crate) const COUNCIL: ServiceId = ServiceId(1);
/// The stream on which a daemon sends what it took (E5).
pub(crate) const REPLICATE: ServiceId = ServiceId(2);
/// A read of one key.
pub(crate) const READ: ServiceId = ServiceId(3);
/// A page of key names.
pub(crate) const LIST: ServiceId = ServiceId(4);
/// A page of a slot's records, for a replica that is being filled.
pub(crate) const FETCH: ServiceId = ServiceId(5);
/// Which moving slots a replica has been filled with.
pub(crate) const FILLED: ServiceId = ServiceId(6);
/// The states of named keys.
pub(crate) const PULL: ServiceId = ServiceId(7);
/// A state that a quorum read found newer than the receiver's.
pub(crate) const MEND: ServiceId = ServiceId(8);
/// Digests and rows, for a replica that compares itself.
pub(crate) const COMPARE: ServiceId = ServiceId(9);
/// The stream on which a replica tells a daemon that holds copies what has changed (E10).
pub(crate) const COPIES: ServiceId = ServiceId(10);
/// The channels on which proposers ask acceptors (rules Q): one for what is small, one for what is bulky.
pub(crate) const QUORUM: ServiceId = ServiceId(11);
/// What one daemon's quorum path asks of another's as a whole: a wish that is handed over, a listing, who owns what.
pub(crate) const STRONG: ServiceId = ServiceId(12);

/// On the replication stream, from the daemon that took the writes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Feed {
    /// What the receiver needs of the sender's log up to and including `through`.
    Batch {
        /// The last operation that this covers.
        through: Sequence,
        /// What to take, in log order; none when all operations were passed over.
        items: Vec<Item>,
        /// What was answered to the requests that made these writes.
        answers: Vec<Answered>,
    },
    /// Every batch before it on the stream is the whole truth up to these times.
    Heartbeat {
        /// The sender's watermarks.
        heard: Heard,
        /// The placement epoch under which the sender chose what to send.
        epoch: Epoch,
        /// Requests that the sender has had from clients since it started (P3).
        requests: u64,
    },
    /// What the sender took up to and including `through` went from its log before the receiver had all of it: it is to compare itself with the sender, which
    /// still holds the states.
    Lapsed {
        /// The last operation that may be missing.
        through: Sequence,
    },
}

/// What a replica is sent of one key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Item {
    /// The key's namespace.
    pub(crate) ns: Namespace,
    /// What the key holds.
    pub(crate) kind: Kind,
    /// The key.
    pub(crate) key: Key,
    /// What is sent.
    pub(crate) what: What,
}

/// A state, or a part of one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum What {
    /// All of it: to be merged.
    State(Record),
    /// A write: of a set, a map or a register to be applied in the order of the sender's writes (E2); of a counter all that the sender has contributed.
    Delta {
        /// The write's version.
        version: Version,
        /// What it changes.
        delta: Delta,
        /// What it depends on (E9).
        causes: Option<Arc<Causes>>,
    },
}

impl Item {
    /// The latest time in it.
    pub(crate) fn latest(&self) -> Hlc {
        match &self.what {
            What::State(record) => record.latest(),
            What::Delta { version, delta, causes } => {
                let caused = causes.as_ref().map_or(Hlc::ZERO, |causes| causes.latest());
                version.hlc.max(delta.latest()).max(caused)
            }
        }
    }

    /// Whether its write can have its causes.
    pub(crate) fn has_credible_causes(&self) -> bool {
        match &self.what {
            What::State(record) => record.has_credible_causes(),
            What::Delta { .. } => true,
        }
    }

    /// About the bytes that it takes up.
    pub(crate) fn bytes(&self) -> usize {
        let what = match &self.what {
            What::State(record) => record.bytes(),
            What::Delta { delta, .. } => postcard::experimental::serialized_size(delta).unwrap_or(0),
        };
        what + self.key.as_bytes().len()
    }
}

/// What a request with an idempotency key was answered, so that a repeat in another region gets the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answered {
    /// The request's key.
    pub(crate) request: Bytes,
    /// The answer, as it is kept.
    pub(crate) answer: Bytes,
    /// Until when it is kept.
    pub(crate) until: WallMicros,
}

/// On the replication stream, from the replica.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum FeedAnswer {
    /// Everything up to `through` is durable here.
    Acknowledged {
        /// The last operation covered.
        through: Sequence,
        /// The placement epoch that the replica knows.
        epoch: Epoch,
    },
    /// Nothing of the batch that ends at `through` was taken; the sender may try again on a new stream after a while.
    Refused {
        /// The batch.
        through: Sequence,
        /// Why, for a person.
        reason: String,
    },
    /// A comparison that began after the sender said [`Feed::Lapsed`] is done: everything up to `through` is durable here.
    CaughtUp {
        /// The last operation covered.
        through: Sequence,
    },
}

/// A read of one key at a replica.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ReadRequest {
    /// The namespace.
    pub(crate) ns: Namespace,
    /// The key's kind.
    pub(crate) kind: Kind,
    /// The key.
    pub(crate) key: Key,
    /// What the client has seen: the replica answers once it has all of that (E9).
    pub(crate) session: Session,
    /// The stream of invalidations that a copy of the answer may rest on; the key's slot is among its slots from now on (E10).
    pub(crate) copy: Option<Opening>,
}

/// Asks for the states of keys.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PullRequest {
    /// The keys.
    pub(crate) names: Vec<(Namespace, Kind, Key)>,
}

/// The answer to a [`PullRequest`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PullAnswer {
    /// The states of those of the first `looked_at` keys that are held.
    pub(crate) entries: Vec<Entry>,
    /// For how many keys this answers; at least one.
    pub(crate) looked_at: u32,
    /// What was stable here before the store was looked at (E7).
    pub(crate) stable_through: Hlc,
}

/// A newer state of a key, for a replica that a quorum read found behind.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct MendRequest {
    /// The key and its state.
    pub(crate) entry: Entry,
}

/// The answer to a [`ReadRequest`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ReadAnswer {
    /// The key's state, tombstones included.
    pub(crate) record: Option<Record>,
    /// How old that may be, in milliseconds, where it is known.
    pub(crate) age_ms: Option<u64>,
    /// The replica's region.
    pub(crate) region: Region,
    /// What a copy of the state has to carry, where one may be kept (E10).
    pub(crate) ticket: Option<CopyTicket>,
}

/// On the stream of invalidations, from the daemon that holds copies (E10).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum CopyAsk {
    /// The first: what the stream is called, and the slots to tell of.
    Open {
        /// This life of the stream; later ones of a daemon are higher.
        opening: Opening,
        /// The slots.
        slots: SlotSet,
    },
    /// More slots.
    Add {
        /// The slots.
        slots: Vec<Slot>,
    },
}

/// On the stream of invalidations, from the replica (E10).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum CopyNews {
    /// Writes that have become visible, one after the other.
    Changed {
        /// The first one's place; each that follows has the next.
        first: Position,
        /// The keys, and the latest write in each.
        keys: Vec<(KeyHash, Version)>,
    },
    /// Everything up to a time was announced before it.
    Heartbeat(CopyHeartbeat),
    /// More has changed than the replica keeps for a daemon that does not read it: the stream ends, and something is missing at its end.
    Overflowed,
    /// The replica has as many streams as it may; why, for a person.
    Refused(String),
}

/// A page of key names of the slots that one replica was asked to answer for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ListRequest {
    /// The namespace.
    pub(crate) ns: Namespace,
    /// Only keys of this kind.
    pub(crate) kind: Kind,
    /// Only keys that begin so.
    pub(crate) prefix: Bytes,
    /// Only keys after this one.
    pub(crate) after: Option<Key>,
    /// At most so many.
    pub(crate) limit: u32,
    /// Only keys of these slots; `None`: of all.
    pub(crate) slots: Option<Vec<Slot>>,
    /// Also deletes, and what has expired.
    pub(crate) dead: bool,
    /// What the client has seen: the replica answers once it has all of that (E9).
    pub(crate) session: Session,
}

/// A key of a [`ListAnswer`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListedState {
    /// As a client is shown it.
    pub(crate) listed: Listed,
    /// Whether it holds something; whether that has expired is for the reader to judge (E8).
    pub(crate) live: bool,
}

/// The answer to a [`ListRequest`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ListAnswer {
    /// The keys, in byte order.
    pub(crate) entries: Vec<ListedState>,
    /// Where to go on: all keys up to this one have been looked at. `None`: all there are.
    pub(crate) next: Option<Key>,
    /// How old this may be, in milliseconds, where it is known.
    pub(crate) age_ms: Option<u64>,
}

impl ListAnswer {
    /// What it says of a key.
    pub(crate) fn find(&self, key: &Key) -> Option<&ListedState> {
        let place = self.entries.binary_search_by(|entry| entry.listed.key.cmp(key)).ok()?;
        self.entries.get(place)
    }
}

/// Pages of slots, asked for by a replica that is being filled.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FetchRequest {
    /// The slots, in the order in which they are wanted; as many of them are answered as fit.
    pub(crate) slots: Vec<Slot>,
    /// Of the first slot, only keys after this one.
    pub(crate) after: Option<(Namespace, Kind, Key)>,
    /// The epoch that the slots leave: a source that is at another one refuses.
    pub(crate) epoch: Epoch,
}

/// What one slot holds, from where the request said.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SlotPage {
    /// The slot.
    pub(crate) slot: Slot,
    /// The records, tombstones included.
    pub(crate) entries: Vec<Entry>,
    /// Where the next page begins; `None`: the slot has no more.
    pub(crate) next: Option<(Namespace, Kind, Key)>,
}

/// The answer to a [`FetchRequest`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FetchAnswer {
    /// A page for each of the first slots asked for; only the last may have a `next`. At least one.
    pub(crate) pages: Vec<SlotPage>,
    /// No write at or before this time was missing here, and none can still arrive: a record that old which a page lacks is dead (E7).
    pub(crate) stable_through: Hlc,
}

/// Asks a replica which slots it has been filled with in the move away from `epoch`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FilledRequest {
    /// The epoch that the move leaves.
    pub(crate) epoch: Epoch,
}

/// The answer to a [`FilledRequest`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FilledAnswer {
    /// The slots; empty when the replica is not at that epoch.
    pub(crate) slots: Vec<Slot>,
}

/// Bytes of a message.
pub(crate) fn encode<T: Serialize>(message: &T) -> Bytes {
    postcard::to_allocvec(message).map(Bytes::from).expect("messages are plain values, which always encode")
}

/// A message from a peer's bytes.
///
/// # Errors
/// A text for the log when they are not one; nothing was done.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    postcard::from_bytes(bytes).map_err(|e| format!("not a message of this version: {e}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn hostile_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<Feed>(&bytes);
            let _ = decode::<FeedAnswer>(&bytes);
            let _ = decode::<ReadRequest>(&bytes);
            let _ = decode::<MendRequest>(&bytes);
            let _ = decode::<PullRequest>(&bytes);
            let _ = decode::<PullAnswer>(&bytes);
            let _ = decode::<ReadAnswer>(&bytes);
            let _ = decode::<CopyAsk>(&bytes);
            let _ = decode::<CopyNews>(&bytes);
            let _ = decode::<ListRequest>(&bytes);
            let _ = decode::<ListAnswer>(&bytes);
            let _ = decode::<FetchRequest>(&bytes);
            let _ = decode::<FetchAnswer>(&bytes);
            let _ = decode::<FilledRequest>(&bytes);
            let _ = decode::<FilledAnswer>(&bytes);
        }
    }
}
