//! What proposers, movers and collectors ask of an acceptor, and what it answers.

use serde::{Deserialize, Serialize};

use crate::{Accepted, Ballot, KeyName, KeyState, Member, Phase, Scope};

/// Who asks: an answer's tag says to whom of a daemon it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Asker {
    /// The proposer.
    Proposer,
    /// The driver of a move.
    Mover,
    /// The driver of a collection.
    Collector,
}

/// One round of an asker: the asker in the two highest bits, and its number below. So the rounds of proposers, movers and collectors never meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct RoundId(u64);

impl RoundId {
    const NUMBER_BITS: u32 = 62;

    /// The round with that number, of which the lowest 62 bits count.
    #[must_use]
    pub const fn new(asker: Asker, number: u64) -> Self {
        Self(((asker as u64) << Self::NUMBER_BITS) | (number & ((1 << Self::NUMBER_BITS) - 1)))
    }

    /// Whose round it is.
    #[must_use]
    pub const fn asker(self) -> Asker {
        match self.0 >> Self::NUMBER_BITS {
            0 => Asker::Proposer,
            1 => Asker::Mover,
            _ => Asker::Collector,
        }
    }
}

/// Which step of which round a message belongs to. Chosen by the asker; an answer repeats it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Tag {
    /// The asker's round.
    pub round: RoundId,
    /// Its step: answers to an earlier one mean nothing any more.
    pub step: u32,
}

impl Tag {
    /// To whom an answer with this tag goes.
    #[must_use]
    pub const fn asker(self) -> Asker {
        self.round.asker()
    }
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
    /// Whether it leaves the acceptor's store as it is, but for a phase that it may make it adopt (Q4).
    #[must_use]
    pub const fn is_read_only(&self) -> bool {
        matches!(self, Self::Read { .. } | Self::List { .. } | Self::SlotPrepare { after: Some(_), .. })
    }

    /// The key that it is about; `None` when about the slot.
    #[must_use]
    pub const fn key(&self) -> Option<&KeyName> {
        match self {
            Self::Prepare { key, .. } | Self::Accept { key, .. } | Self::Read { key } | Self::Erase { key, .. } => Some(key),
            Self::Copy { key, .. } => key.as_ref(),
            Self::SlotPrepare { .. } | Self::Seal | Self::List { .. } | Self::SetFloor { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_of_different_askers_never_meet() {
        for number in [0, 1, u64::from(u32::MAX), u64::MAX] {
            let rounds = [Asker::Proposer, Asker::Mover, Asker::Collector].map(|asker| (asker, RoundId::new(asker, number)));
            assert!(rounds.iter().all(|(asker, round)| Tag { round: *round, step: 7 }.asker() == *asker));
            assert!(rounds[0].1 < rounds[1].1 && rounds[1].1 < rounds[2].1);
        }
    }
}
