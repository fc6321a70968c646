//! A round: one key, and the wishes that it serves.

use std::collections::VecDeque;
use std::sync::Arc;

use isochrone_ident::Slot;

use super::{Began, Course, Failure, Left, OperationId, Outcome, Want, Wish};
use crate::{Accepted, Ballot, Configuration, Envelope, KeyName, RoundId, Tag, Votes, accepted_ballot};

/// A wish under way.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) operation: OperationId,
    pub(super) wish: Wish,
    /// What an earlier round has done for it.
    pub(super) before: Course,
}

/// Which half of the protocol serves the wishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
}

/// What a round is waiting for.
#[derive(Debug, Clone)]
pub(super) enum Stage {
    /// A pause, or a configuration.
    Resting,
    /// Promises of a quorum (Q5).
    Preparing { ballot: Ballot, floor: u64, views: Views },
    /// Acknowledgements of a quorum (Q6), and the promises of `next` that come with them (Q8).
    Accepting { record: Accepted, next: Ballot, acknowledged: Votes, promised_next: Votes, ends: Vec<End> },
    /// What a quorum holds (Q9).
    Reading { views: Views },
    /// Acknowledgements of what was read, under its own ballot (Q9).
    WritingBack { record: Accepted, acknowledged: Votes },
}

/// How a wish ends once the accept that is under way is chosen.
#[derive(Debug, Clone)]
pub(super) struct End {
    pub(super) operation: OperationId,
    /// What earlier rounds have done for it.
    pub(super) before: Course,
    pub(super) result: Result<Outcome, Failure>,
}

#[derive(Debug, Clone)]
pub(super) struct Round {
    pub(super) id: RoundId,
    pub(super) step: u32,
    pub(super) slot: Slot,
    pub(super) key: KeyName,
    pub(super) kind: Kind,
    pub(super) running: Vec<Running>,
    pub(super) queue: VecDeque<Running>,
    pub(super) stage: Stage,
    pub(super) refused: Votes,
    /// Times that a quorum was refused since the wishes began: the exponent of the back-off (Q13).
    pub(super) losses: u32,
    /// What it has done since its wishes began.
    pub(super) course: Course,
}

impl Round {
    pub(super) fn read(id: RoundId, slot: Slot, key: KeyName, running: Running) -> Self {
        Self { running: vec![running], kind: Kind::Read, ..Self::write(id, slot, key) }
    }

    pub(super) fn write(id: RoundId, slot: Slot, key: KeyName) -> Self {
        Self {
            id,
            step: 0,
            slot,
            key,
            kind: Kind::Write,
            running: Vec::new(),
            queue: VecDeque::new(),
            stage: Stage::Resting,
            refused: Votes::NOBODY,
            losses: 0,
            course: Course::default(),
        }
    }

    pub(super) const fn tag(&self) -> Tag {
        Tag { round: self.id, step: self.step }
    }

    /// The next step: answers to the one before mean nothing any more.
    pub(super) fn enter(&mut self, stage: Stage) {
        self.step += 1;
        self.stage = stage;
        self.refused = Votes::NOBODY;
    }

    /// A step that asks a quorum begins, the first of its wishes in this way.
    pub(super) fn trip(&mut self, began: Began) {
        self.course.began.get_or_insert(began);
        self.course.trips += 1;
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
        changes.for_each(|running| running.wish.left = Left::SOMEWHERE);
    }

    /// Whether an acceptor has said yes in this step: a refusal after that is of a repeated message.
    pub(super) fn has_answered(&self, from: Votes) -> bool {
        match &self.stage {
            Stage::Resting => false,
            Stage::Preparing { views, .. } | Stage::Reading { views } => views.answered.has(from),
            Stage::Accepting { acknowledged, .. } | Stage::WritingBack { acknowledged, .. } => acknowledged.has(from),
        }
    }
}

/// What acceptors have shown of a key. What an acceptor holds only grows, so a record that it has shown stays shown.
#[derive(Debug, Clone, Default)]
pub(super) struct Views {
    answered: Votes,
    /// Those who hold the highest record, or nothing where nobody holds anything.
    holders: Votes,
    best: Option<Accepted>,
}

impl Views {
    /// Adds what one of those who count has shown.
    pub(super) fn add(&mut self, from: Votes, accepted: Option<Accepted>) {
        let (ballot, highest) = (accepted_ballot(accepted.as_ref()), accepted_ballot(self.best.as_ref()));
        self.answered |= from;
        if ballot > highest {
            self.best = accepted;
            self.holders = from;
        } else if ballot == highest {
            self.holders |= from;
        }
    }

    pub(super) fn best(&self) -> Option<&Accepted> {
        self.best.as_ref()
    }

    pub(super) const fn holders(&self) -> Votes {
        self.holders
    }

    pub(super) fn is_quorum(&self, configuration: &Configuration) -> bool {
        configuration.is_quorum(self.answered)
    }

    /// Whether a quorum holds the highest record, so that it is chosen (Q9); or a quorum holds nothing, and nobody else has shown anything.
    pub(super) fn is_confirmed(&self, configuration: &Configuration) -> bool {
        configuration.is_quorum(self.holders)
    }
}

pub(super) fn read_outcome(envelope: Option<&Arc<Envelope>>) -> Outcome {
    Outcome::Read(envelope.map(Arc::clone))
}
