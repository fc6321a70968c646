//! An operation from its wish to its end: here, at the slot's owner (Q12, Q18), or at the winner of a contest (Q13).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use isochrone_gossip::{Call, Traffic};
use isochrone_ident::{NodeId, Slot};
use isochrone_placement::slot_of;
use isochrone_quorum::{Because, Choice, Course, Envelope, Failure, KeyName, OperationId, Outcome, Verdict, Want, Way, Wish};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::list::{StrongKeys, StrongList};
use super::owner::Habit;
use super::{Strong, Work};
use crate::node::core::{Core, lock};
use crate::node::wire;

/// An owner that has not answered for this much longer than its estimate is not waited for: the wish goes on here.
const GRACE: Duration = Duration::from_millis(60);

/// How an operation ended at this daemon's proposer.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It is done.
    Done { result: Result<Outcome, Failure>, course: Course },
    /// It is to go on at that daemon.
    HandedOver { to: NodeId, wish: Wish },
}

/// How an operation ended, and what it took.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) result: Result<Outcome, Failure>,
    /// What was done for it, by whoever proposed it in the end.
    pub(crate) course: Course,
    /// Who proposed it in the end, where that was somebody else.
    pub(crate) by: Option<NodeId>,
    /// What the way was expected to cost, in microseconds.
    pub(crate) estimate_micros: Option<u64>,
}

/// What is asked of another daemon's quorum path.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum StrongAsk {
    /// Carry out a wish (Q12, Q13).
    Wish {
        /// The key.
        key: KeyName,
        /// What is wanted of it.
        wish: Wish,
        /// How long the asker waits, in milliseconds.
        patience_ms: u64,
    },
    /// List keys, for a listing at a quorum.
    List(StrongList),
    /// How often this daemon wrote slots that the other one owns, in the last window (Q18).
    Wrote {
        /// Slot and writes.
        slots: Vec<(Slot, u32)>,
    },
    /// This daemon has the promise of these slots, under ballots of these counters (Q18).
    Owns {
        /// Slot and counter.
        slots: Vec<(Slot, u64)>,
    },
}

/// The answer to a [`StrongAsk`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Handed {
    /// The wish has ended.
    Ended {
        /// How.
        result: Result<HandedOutcome, Failure>,
        /// What was done for it there.
        course: Course,
        /// Who writes the key, as far as the owner knows.
        habit: Option<Habit>,
    },
    /// The keys that were asked for.
    Listed(StrongKeys),
    /// These slots are better owned by the asker.
    Take(Vec<Slot>),
    /// It is noted.
    Noted,
}

/// An [`Outcome`] on its way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum HandedOutcome {
    /// Of a write.
    Written(Verdict),
    /// Of a read.
    Read(Option<Arc<Envelope>>),
}

impl From<Outcome> for HandedOutcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Written(verdict) => Self::Written(verdict),
            Outcome::Read(envelope) => Self::Read(envelope),
        }
    }
}

impl From<HandedOutcome> for Outcome {
    fn from(outcome: HandedOutcome) -> Self {
        match outcome {
            HandedOutcome::Written(verdict) => Self::Written(verdict),
            HandedOutcome::Read(envelope) => Self::Read(envelope),
        }
    }
}

/// Ends an operation whose requester is gone.
struct Guard<'a> {
    strong: &'a Strong,
    operation: OperationId,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if lock(&self.strong.waiting).remove(&self.operation).is_some() {
            self.strong.give_up(self.operation);
        }
    }
}

impl Strong {
    pub(crate) fn end(&self, operation: OperationId, ended: Ended) {
        let waiting = lock(&self.waiting).remove(&operation);
        if let Some(waiting) = waiting {
            // Whoever asked may have gone.
            let _ = waiting.send(ended);
        }
    }

    /// Ends an operation that has not ended yet; says how it failed (Q10). `None` when it had ended already.
    fn give_up(&self, operation: OperationId) -> Option<Failure> {
        let (failure, outputs) = lock(&self.proposer).give_up(self.now(), operation);
        self.run(outputs.into_iter().map(Work::Out));
        failure
    }

    /// Carries out a wish with this daemon's proposer.
    pub(crate) async fn propose(&self, slot: Slot, key: KeyName, wish: Wish, deadline: Instant) -> Ended {
        let operation = OperationId(self.last_operation.fetch_add(1, Ordering::Relaxed) + 1);
        let (tell, ended) = oneshot::channel();
        lock(&self.waiting).insert(operation, tell);
        let guard = Guard { strong: self, operation };
        let outputs = self.submit(operation, slot, key, wish);
        self.run(outputs.into_iter().map(Work::Out));
        let mut ended = ended;
        if let Ok(Ok(ended)) = tokio::time::timeout_at(deadline, &mut ended).await {
            return ended;
        }
        lock(&self.waiting).remove(&operation);
        let failed = self.give_up(operation);
        drop(guard);
        // It may have ended between the two.
        let failure = match (failed, ended.try_recv()) {
            (_, Ok(ended)) => return ended,
            (Some(failure), _) => failure,
            (None, Err(_)) => Failure::OutcomeUnknown,
        };
        Ended::Done { result: Err(failure), course: Course::default() }
    }

    fn submit(&self, operation: OperationId, slot: Slot, key: KeyName, wish: Wish) -> Vec<isochrone_quorum::Output> {
        let (now, configuration) = (self.now(), self.configuration(slot));
        let mut proposer = lock(&self.proposer);
        let mut outputs = Vec::new();
        if proposer.phase(slot).is_none()
            && let Some(configuration) = configuration
        {
            outputs.extend(proposer.configure(now, configuration));
        }
        outputs.extend(proposer.submit(now, operation, slot, key, wish));
        outputs
    }
}

/// What came of handing a wish to another daemon.
enum Hand {
    /// It has ended there.
    Ended(Finished),
    /// It is to go on here, for nothing happened there. It stays here from now on.
    Back(Wish),
    /// It is to go on here, and may still be under way there.
    Lost(Wish),
}

/// How a wish ends that may still be under way elsewhere (Q10). What was applied stays so: whoever else proposes it finds it answered. A refusal is
/// none yet: the other daemon may propose it when its precondition holds again, after the client was told that it does not.
fn settled(result: Result<Outcome, Failure>, is_lost: bool) -> Result<Outcome, Failure> {
    match result {
        Ok(Outcome::Written(Verdict::Refused(_) | Verdict::NothingThere)) if is_lost => Err(Failure::OutcomeUnknown),
        result => result,
    }
}

impl Core {
    /// Carries out a wish, the cheapest way first (Q12).
    pub(crate) async fn operate(&self, key: KeyName, mut wish: Wish, deadline: Instant) -> Finished {
        let slot = slot_of(&key.namespace, key.key.as_bytes());
        let (mut estimate_micros, mut is_lost) = (None, false);
        if let (Want::Change(_), Some(configuration)) = (&wish.want, self.strong.configuration(slot)) {
            self.strong.note_write(slot);
            let owner = self.strong.owner(&configuration);
            let choice = self.way(&configuration, owner, self.strong.is_warm(slot, &key));
            estimate_micros = choice.micros;
            let habit = if owner == self.id() { None } else { self.strong.habit(&key) };
            if owner == self.id() {
                self.strong.note_writer(&key, owner);
            }
            let is_contended = habit == Some(Habit::Shared);
            let is_owners = is_contended || choice.way == Way::Owner && habit != Some(Habit::Alone);
            // Where many write one key, it may have to wait there for another round to end.
            let until = if is_contended { halfway(deadline) } else { until(&choice, deadline) };
            if is_owners {
                match self.hand(owner, &key, wish, until).await {
                    Hand::Ended(finished) => return Finished { estimate_micros, ..finished },
                    Hand::Back(back) => wish = back,
                    Hand::Lost(lost) => (wish, is_lost) = (lost, true),
                }
            } else if owner == self.id() {
                self.strong.acquire(slot);
            }
        }
        Finished { estimate_micros, ..self.operate_here(slot, key, wish, is_lost, deadline).await }
    }

    /// With this daemon's proposer. A contest that it loses goes on at the slot's owner and not at the winner, as Q13 has it: winners take turns, and would go on
    /// handing wishes to each other, while the owner is the same for everybody, so that all that contend run in its rounds together.
    async fn operate_here(&self, slot: Slot, key: KeyName, mut wish: Wish, mut is_lost: bool, deadline: Instant) -> Finished {
        loop {
            match self.strong.propose(slot, key.clone(), wish, deadline).await {
                Ended::Done { result, course } => {
                    return Finished { result: settled(result, is_lost), course, by: None, estimate_micros: None };
                }
                Ended::HandedOver { to, wish: left } => {
                    self.strong.note_habit(&key, Habit::Shared);
                    let owner = self.strong.configuration(slot).map_or(to, |configuration| self.strong.owner(&configuration));
                    if owner == self.id() {
                        wish = Wish { handed_over: true, ..left };
                        continue;
                    }
                    match self.hand(owner, &key, left, deadline).await {
                        Hand::Ended(finished) => return Finished { result: settled(finished.result, is_lost), ..finished },
                        Hand::Back(back) => wish = back,
                        Hand::Lost(lost) => (wish, is_lost) = (lost, true),
                    }
                }
            }
        }
    }

    /// Has another daemon carry out a wish. Where nothing comes of it, it comes back, and knows whether something of it may linger (Q10).
    async fn hand(&self, to: NodeId, key: &KeyName, mut wish: Wish, until: Instant) -> Hand {
        wish.handed_over = true;
        let patience = until.saturating_duration_since(Instant::now());
        let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let body = wire::encode(&StrongAsk::Wish { key: key.clone(), wish: wish.clone(), patience_ms });
        let call = Call { service: wire::STRONG, class: Traffic::Foreground, deadline: patience, body, retries: false };
        let answer = match self.mesh.call(to, call).await {
            Ok(answer) => wire::decode::<Handed>(&answer),
            Err(error) if error.is_unsent() => return self.came_back(Hand::Back(wish)),
            Err(error) => Err(error.to_string()),
        };
        match answer {
            Ok(Handed::Ended { result: Ok(outcome), course, habit }) => {
                habit.into_iter().for_each(|habit| self.strong.note_habit(key, habit));
                Hand::Ended(Finished { result: Ok(outcome.into()), course, by: Some(to), estimate_micros: None })
            }
            Ok(Handed::Ended { result: Err(Failure::NothingHappened(_)), .. }) => self.came_back(Hand::Back(wish)),
            // It has ended there, though nobody knows how.
            Ok(Handed::Ended { result: Err(Failure::OutcomeUnknown), .. }) => self.came_back(Hand::Back(wish.lost())),
            _ => self.came_back(Hand::Lost(wish.lost())),
        }
    }

    fn came_back(&self, hand: Hand) -> Hand {
        self.strong.meters.came_back.increment(1);
        hand
    }

    /// Answers what another daemon asks of this one's quorum path.
    pub(crate) async fn answer_strong(&self, from: NodeId, body: &[u8], deadline: Instant) -> Result<bytes::Bytes, String> {
        let answer = match wire::decode(body)? {
            StrongAsk::Wish { key, wish, patience_ms } => {
                let until =
                    deadline.min(Instant::now() + Duration::from_millis(patience_ms)).min(Instant::now() + self.options.strong.deadline);
                self.operate_for(from, key, wish, until).await
            }
            StrongAsk::List(list) => Handed::Listed(self.keys_here(&list)?),
            StrongAsk::Wrote { slots } => Handed::Take(self.strong.better_owned_by(from, &slots)),
            StrongAsk::Owns { slots } => {
                slots.into_iter().for_each(|(slot, counter)| self.strong.note_owner(slot, from, counter));
                Handed::Noted
            }
        };
        Ok(wire::encode(&answer))
    }

    async fn operate_for(&self, from: NodeId, key: KeyName, mut wish: Wish, deadline: Instant) -> Handed {
        let slot = slot_of(&key.namespace, key.key.as_bytes());
        self.strong.meters.handed.increment(1);
        if self.clock_off_ms().is_some() {
            // What has expired, and which requests are too old, is judged by the clock.
            let result = Err(Failure::NothingHappened(Because::NoQuorum));
            return Handed::Ended { result, course: Course::default(), habit: None };
        }
        let mut habit = None;
        if let (Want::Change(_), Some(configuration)) = (&wish.want, self.strong.configuration(slot)) {
            habit = Some(self.strong.note_writer(&key, from));
            if self.strong.owner(&configuration) == self.id() {
                self.strong.acquire(slot);
            }
        }
        wish.handed_over = true;
        match self.strong.propose(slot, key, wish, deadline).await {
            Ended::Done { result, course } => Handed::Ended { result: result.map(HandedOutcome::from), course, habit },
            // It was handed over once, so it is not again.
            Ended::HandedOver { wish, .. } => {
                Handed::Ended { result: Err(wish.left.failure(Because::NoQuorum)), course: Course::default(), habit: None }
            }
        }
    }
}

/// When half of the time is over.
fn halfway(deadline: Instant) -> Instant {
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) / 2
}

/// Until when the owner is waited for.
fn until(choice: &Choice, deadline: Instant) -> Instant {
    let expected = Duration::from_micros(choice.micros.unwrap_or(0));
    deadline.min(Instant::now() + expected + expected / 4 + GRACE)
}

#[cfg(test)]
mod tests {
    use isochrone_quorum::{Effect, Refusal, Revision};

    use super::*;

    #[test]
    fn q10_of_a_wish_that_may_be_under_way_elsewhere_only_what_was_applied_is_certain() {
        let written = |verdict| Ok(Outcome::Written(verdict));
        let applied = || written(Verdict::Applied { revision: Revision(7), effect: Effect::Created });
        let refused = || written(Verdict::Refused(Refusal::Precondition { found: None }));
        assert_eq!(settled(applied(), true), applied());
        assert_eq!(settled(Ok(Outcome::Read(None)), true), Ok(Outcome::Read(None)));
        for uncertain in [refused(), written(Verdict::NothingThere)] {
            assert_eq!(settled(uncertain.clone(), true), Err(Failure::OutcomeUnknown));
            assert_eq!(settled(uncertain.clone(), false), uncertain);
        }
    }
}
