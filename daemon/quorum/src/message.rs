//! What proposers, movers and collectors ask of an acceptor, and what it answers.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Accepted, Ballot, Envelope, KeyName, KeyState, Member, Phase, Scope};

/// Which step of which asker a message belongs to. Chosen by the asker; an answer repeats it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Tag {
    /// The asker's round, sweep or collection.
    pub round: u64,
    /// Its step: answers to an earlier one mean nothing any more.
    pub step: u32,
}

/// A request to an acceptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Slot, phase, tables (Q4).
    pub scope: Scope,
    /// Repeated by the answer.
    pub tag: Tag,
    /// What is asked.
    pub ask: Ask,
}

/// What is asked of an acceptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Q5: promise to take no lower ballot.
    Prepare {
        /// The key.
        key: KeyName,
        /// The ballot to be promised.
        ballot: Ballot,
    },
    /// Q6: accept what the ballot carries, and promise `next` at once (Q8). Q9's write-back is this with the ballot that was read.
    Accept {
        /// The key.
        key: KeyName,
        /// What to accept, under which ballot.
        record: Accepted,
        /// The ballot to be promised with it.
        next: Option<Ballot>,
    },
    /// Q9: show the key. Q16b uses it too.
    Read {
        /// The key.
        key: KeyName,
    },
    /// Q18b: promise a ballot for the whole slot, and list its keys.
    SlotPrepare {
        /// The ballot to be promised.
        ballot: Ballot,
        /// The page after this key; the first page makes the promise.
        after: Option<KeyName>,
    },
    /// Q14b: adopt the phase durably. The answer shows what the slot has promised.
    Seal,
    /// Q14c: list the slot's keys, tombstones and promise-only ones included.
    List {
        /// The page after this key.
        after: Option<KeyName>,
    },
    /// Q14d, e: take a certified record and what was promised beside it.
    Copy {
        /// The key; `None` carries the slot's promise and floor alone.
        key: Option<KeyName>,
        /// What a majority of R_e showed; `None` for a key that it showed absent.
        record: Option<Accepted>,
        /// The highest promise of that key that the sealed majority showed.
        promised: Ballot,
        /// The highest slot promise that it showed.
        slot_promised: Ballot,
        /// The highest floor that it showed.
        floor: u64,
    },
    /// Q16c: refuse from now on every ballot with a counter at or below this.
    SetFloor {
        /// The floor.
        floor: u64,
    },
    /// Q16d: forget a tombstone.
    Erase {
        /// The key.
        key: KeyName,
        /// The ballot under which everybody showed the tombstone.
        ballot: Ballot,
        /// The floor that everybody has.
        floor: u64,
    },
}

/// An acceptor's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Who answers.
    pub from: Member,
    /// Repeated from the request.
    pub tag: Tag,
    /// The answer.
    pub told: Told,
}

/// What an acceptor says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// The ballot is promised; this was accepted before (Q5).
    Promised {
        /// What was accepted.
        accepted: Option<Accepted>,
        /// The slot's floor.
        floor: u64,
    },
    /// The record is accepted (Q6).
    Accepted {
        /// Whether `next` is promised as well (Q8).
        promised_next: bool,
    },
    /// The key as it is (Q9).
    Shown {
        /// Its state; the default where nothing is held.
        state: KeyState,
        /// The slot's floor.
        floor: u64,
    },
    /// Keys of the slot, in order (Q14c, Q18b).
    Page {
        /// The slot's promise.
        slot_promised: Ballot,
        /// The slot's floor.
        floor: u64,
        /// The keys.
        keys: Vec<(KeyName, KeyState)>,
        /// Whether there are more after the last of them.
        more: bool,
    },
    /// Done, durably: sealed, copied, floor set, erased.
    Done {
        /// The slot's promise.
        slot_promised: Ballot,
        /// The slot's floor.
        floor: u64,
    },
    /// Refused (Q4 to Q6, Q16d, Q18b).
    Refused(Nack),
}

/// A refusal, with what the asker must exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nack {
    /// Why.
    pub why: Why,
    /// The acceptor's own phase.
    pub phase: Phase,
    /// The effective promise: of key and slot, the higher (Q18a).
    pub promised: Ballot,
    /// The slot's floor.
    pub floor: u64,
}

/// Why an acceptor refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// The phase has passed (Q4).
    Phase,
    /// It does not count in this phase (Q4, Q15).
    NotMember,
    /// The asker's tables are not its own (Q4).
    Table,
    /// A higher ballot is promised or accepted (Q5, Q6, Q18b), or the copy is below the key's promise (Q14d).
    Promised,
    /// The ballot is at or below the floor (Q16c).
    Floor,
    /// What should be erased is not what is held (Q16d).
    Changed,
}

impl Ask {
    /// An accept of that envelope under that ballot.
    pub(crate) fn accept(key: KeyName, ballot: Ballot, envelope: Arc<Envelope>, next: Option<Ballot>) -> Self {
        Self::Accept { key, record: Accepted { ballot, envelope }, next }
    }
}
