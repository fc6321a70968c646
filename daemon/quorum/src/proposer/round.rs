//! A round: one key, and the wishes that it serves.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use isochrone_ident::Slot;

use super::{Failure, Left, OperationId, Outcome, Want, Wish};
use crate::{Accepted, Ballot, Configuration, Envelope, KeyName, Member, Tag, accepted_ballot};

/// A wish under way.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) operation: OperationId,
    pub(super) wish: Wish,
}

/// Which half of the protocol serves the wishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
}

/// What a round is waiting for.
#[derive(Debug)]
pub(super) enum Stage {
    /// A pause, or a configuration.
    Resting,
    /// Promises of a quorum (Q5).
    Preparing { ballot: Ballot, floor: u64, views: Views },
    /// Acknowledgements of a quorum (Q6), and the promises of `next` that come with them (Q8).
    Accepting { record: Accepted, next: Ballot, acknowledged: BTreeSet<Member>, promised_next: BTreeSet<Member>, ends: Vec<End> },
    /// What a quorum holds (Q9).
    Reading { views: Views },
    /// Acknowledgements of what was read, under its own ballot (Q9).
    WritingBack { record: Accepted, acknowledged: BTreeSet<Member> },
}

/// How a wish ends once the accept that is under way is chosen.
#[derive(Debug)]
pub(super) struct End {
    pub(super) operation: OperationId,
    pub(super) result: Result<Outcome, Failure>,
}

#[derive(Debug)]
pub(super) struct Round {
    pub(super) id: u64,
    pub(super) step: u32,
    pub(super) slot: Slot,
    pub(super) key: KeyName,
    pub(super) kind: Kind,
    pub(super) running: Vec<Running>,
    pub(super) queue: VecDeque<Running>,
    pub(super) stage: Stage,
    pub(super) refused: BTreeSet<Member>,
    /// Times that a quorum was refused since the wishes began: the exponent of the back-off (Q13).
    pub(super) losses: u32,
}

impl Round {
    pub(super) fn read(id: u64, slot: Slot, key: KeyName, running: Running) -> Self {
        Self { running: vec![running], kind: Kind::Read, ..Self::write(id, slot, key) }
    }

    pub(super) fn write(id: u64, slot: Slot, key: KeyName) -> Self {
        Self {
            id,
            step: 0,
            slot,
            key,
            kind: Kind::Write,
            running: Vec::new(),
            queue: VecDeque::new(),
            stage: Stage::Resting,
            refused: BTreeSet::new(),
            losses: 0,
        }
    }

    pub(super) const fn tag(&self) -> Tag {
        Tag { round: self.id, step: self.step }
    }

    /// The next step: answers to the one before mean nothing any more.
    pub(super) fn enter(&mut self, stage: Stage) {
        self.step += 1;
        self.stage = stage;
        self.refused.clear();
    }

    pub(super) fn has_work(&self) -> bool {
        !self.running.is_empty()
    }

    /// Takes a wish out; what has left for it.
    pub(super) fn remove(&mut self, operation: OperationId) -> Option<Left> {
        let queued = self.queue.iter().position(|running| running.operation == operation);
        if let Some(at) = queued {
            return self.queue.remove(at).map(|running| running.wish.left);
        }
        let at = self.running.iter().position(|running| running.operation == operation)?;
        Some(self.running.remove(at).wish.left)
    }

    /// Accepts are about to leave: of no change of this round can it be said any more that nothing happened (Q10).
    pub(super) fn mark_left(&mut self) {
        let changes = self.running.iter_mut().filter(|running| matches!(running.wish.want, Want::Change(_)));
        changes.for_each(|running| running.wish.left = Left::ACCEPT);
    }

    /// Whether an acceptor has said yes in this step: a refusal after that is of a repeated message.
    pub(super) fn has_answered(&self, from: Member) -> bool {
        match &self.stage {
            Stage::Resting => false,
            Stage::Preparing { views, .. } | Stage::Reading { views } => views.ballots.contains_key(&from),
            Stage::Accepting { acknowledged, .. } | Stage::WritingBack { acknowledged, .. } => acknowledged.contains(&from),
        }
    }
}

/// What acceptors have shown of a key.
#[derive(Debug, Default)]
pub(super) struct Views {
    ballots: BTreeMap<Member, Ballot>,
    best: Option<Accepted>,
}

impl Views {
    pub(super) fn add(&mut self, from: Member, accepted: Option<Accepted>) {
        let ballot = accepted_ballot(accepted.as_ref());
        self.ballots.insert(from, ballot);
        if ballot > accepted_ballot(self.best.as_ref()) {
            self.best = accepted;
        }
    }

    pub(super) fn best(&self) -> Option<&Accepted> {
        self.best.as_ref()
    }

    pub(super) fn is_quorum(&self, configuration: &Configuration) -> bool {
        configuration.is_quorum(&self.ballots.keys().copied().collect())
    }

    /// Those who hold the highest record, or nothing where nobody holds anything.
    pub(super) fn holders(&self) -> BTreeSet<Member> {
        let highest = accepted_ballot(self.best.as_ref());
        self.ballots.iter().filter(|(_, ballot)| **ballot == highest).map(|(member, _)| *member).collect()
    }

    /// Whether a quorum holds the highest record, so that it is chosen (Q9); or a quorum holds nothing, and nobody else has shown anything.
    pub(super) fn is_confirmed(&self, configuration: &Configuration) -> bool {
        configuration.is_quorum(&self.holders())
    }
}

pub(super) fn read_outcome(accepted: Option<&Accepted>) -> Outcome {
    Outcome::Read(accepted.map(|accepted| Arc::<Envelope>::clone(&accepted.envelope)))
}
