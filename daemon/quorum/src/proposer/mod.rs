//! The proposer (Q2, Q7 to Q11, Q13, Q18): takes wishes, answers and timers, gives requests, timers and outcomes.
//!
//! ```text
//!   submit(wish) ──> Read   ──> Reading ──> WritingBack ─────────────> Done
//!                    Change ──> queue of the key ──> Preparing ──> Accepting ──> Done, and a promise for the next (Q8)
//!                                                    (skipped: warm, granted)
//!   acquire(slot) ──> pages of a quorum ──> a grant for every key of the slot (Q18)
//!   any step: refused or late ──> Resting (back-off, Q13) ──> again, with a new ballot (Q2)
//! ```

mod acquire;
mod grant;
mod left;
mod memory;
mod read;
mod round;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;

use isochrone_ident::{NodeId, Slot, WallMicros};
use serde::{Deserialize, Serialize};

use acquire::Acquiring;
use grant::Grants;
pub use left::{Because, Failure, Left, Want, Wish};
use memory::{Known, Random, WarmKeys};
use round::{Round, Running};

use crate::{
    Answer, Ask, Asker, Ballot, Bounds, Configuration, Envelope, KeyName, Member, Mutation, Nack, Phase, ProposerId, Request, RoundId, Tag,
    Told, Verdict, Votes,
};

/// An operation, as its submitter names it. Never used twice by one proposer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u64);

/// A timer that was asked for. One that has become pointless may fire all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// A step has lasted too long, or a pause is over.
    Step(Tag),
}

/// How an operation ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A write: applied, or refused by the register as it is.
    Written(Verdict),
    /// A read: the register; `None` where there never was one, or it was forgotten.
    Read(Option<Arc<Envelope>>),
}

/// How an operation's first round began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Began {
    /// With a read, which promises nothing (Q9).
    Read,
    /// With a prepare: nothing was promised in advance (Q7).
    Prepared,
    /// With an accept, by what a quorum promised with the last write (Q8).
    Warm,
    /// With an accept, by the slot's promise (Q18).
    Granted,
}

/// What was done for an operation: for people and for metrics, nothing is decided by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Course {
    /// How its first round began; `None` when none did.
    pub began: Option<Began>,
    /// Times that a quorum was asked: promises, accepts, reads, write-backs, each once more when it was refused or late. Not counted is what it waited for
    /// in the queue of its key.
    pub trips: u32,
}

impl Course {
    fn then(self, later: Self) -> Self {
        Self { began: self.began.or(later.began), trips: self.trips.saturating_add(later.trips) }
    }
}

/// What a proposer wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send a request; its answer goes to [`Proposer::answer`].
    Send {
        /// To whom.
        to: Member,
        /// What.
        request: Request,
    },
    /// Call [`Proposer::timer`] after this many microseconds.
    After {
        /// How long from now.
        micros: u64,
        /// What to name.
        timer: Timer,
    },
    /// An operation has ended.
    Done {
        /// Which.
        operation: OperationId,
        /// How.
        result: Result<Outcome, Failure>,
        /// What was done for it here.
        course: Course,
    },
    /// An operation has ended here and goes on there (Q13): submit the wish at that daemon. If that cannot be done, it fails as
    /// [`Left::failure`] of its wish says.
    HandOver {
        /// Which.
        operation: OperationId,
        /// The winner that the ballots named.
        to: NodeId,
        /// What is left to be done.
        wish: Wish,
    },
    /// An acceptor is in a later phase: learn the slot's configuration from the council and tell it to [`Proposer::configure`].
    Learn(Slot),
    /// A slot's promise was acquired, or refused: then keys are prepared one by one (Q18f).
    Acquired {
        /// Which slot.
        slot: Slot,
        /// Whether its keys are granted.
        granted: bool,
    },
}

/// Bounds of a proposer.
#[derive(Debug, Clone, Copy)]
pub struct ProposerOptions {
    /// Bounds of registers, and of clocks.
    pub bounds: Bounds,
    /// How long a step may last before it is begun again with a new ballot, in microseconds.
    pub step_micros: u64,
    /// The round trip to a majority from here, in microseconds: the unit of back-off (Q13).
    pub round_trip_micros: u64,
    /// Wishes that may wait for one key.
    pub queue: usize,
    /// Keys whose promise for the next write is remembered (Q8).
    pub warm_keys: usize,
    /// Bytes that those may take with their values, about.
    pub warm_bytes: usize,
    /// Keys of one slot that a grant may list (Q18); a slot with more is written key by key.
    pub grant_keys: usize,
    /// Bytes that the grants of all slots may take, about. Keys whose values do not fit are written as if they were not granted.
    pub grant_bytes: usize,
    /// Refusals after which a wish is handed over to the winner (Q13); 0: never.
    pub hand_over_after: u32,
    /// A rule that is broken on purpose. `None` in every real daemon.
    #[doc(hidden)]
    pub mutation: Option<Mutation>,
}

impl Default for ProposerOptions {
    fn default() -> Self {
        Self {
            bounds: Bounds::default(),
            step_micros: 500_000,
            round_trip_micros: 100_000,
            queue: 1024,
            warm_keys: 65_536,
            warm_bytes: 64 << 20,
            grant_keys: 65_536,
            grant_bytes: 64 << 20,
            hand_over_after: 2,
            mutation: None,
        }
    }
}

/// The proposer of one life of a daemon. It keeps nothing on disk: what it knows it has from acceptors, and forgetting it costs a round trip.
#[derive(Debug, Clone)]
pub struct Proposer {
    me: ProposerId,
    options: ProposerOptions,
    random: Random,
    /// The highest counter, floor or revision seen or used (Q2).
    seen: u64,
    slots: BTreeMap<Slot, Known>,
    warm: WarmKeys,
    grants: Grants,
    writing: BTreeMap<KeyName, RoundId>,
    rounds: BTreeMap<RoundId, Box<Round>>,
    acquiring: BTreeMap<RoundId, Acquiring>,
    operations: BTreeMap<OperationId, RoundId>,
    last_round: u64,
}

impl Proposer {
    /// A proposer at its start. `seed` is for its back-offs.
    #[must_use]
    pub fn new(me: ProposerId, options: ProposerOptions, seed: u64) -> Self {
        Self {
            me,
            options,
            random: Random(seed),
            seen: 0,
            slots: BTreeMap::new(),
            warm: WarmKeys::new(options.warm_keys, options.warm_bytes),
            grants: Grants::default(),
            writing: BTreeMap::new(),
            rounds: BTreeMap::new(),
            acquiring: BTreeMap::new(),
            operations: BTreeMap::new(),
            last_round: 0,
        }
    }

    /// The round trip to a majority has changed: the unit of later back-offs (Q13).
    pub fn set_round_trip_micros(&mut self, micros: u64) {
        self.options.round_trip_micros = micros;
    }

    /// The council has told a slot's configuration. What rested on an earlier phase is dropped (Q8, Q18e), and rounds begin again.
    pub fn configure(&mut self, now: WallMicros, configuration: Arc<Configuration>) -> Vec<Output> {
        let slot = configuration.slot;
        let mut out = Vec::new();
        match self.slots.get_mut(&slot) {
            Some(known) if known.configuration.phase >= configuration.phase => return out,
            Some(known) => known.configuration = configuration,
            None => drop(self.slots.insert(slot, Known::new(configuration))),
        }
        if !self.breaks(Mutation::GrantsOutlivePhase) {
            self.grants.end(slot);
        }
        self.stop_acquiring(slot, &mut out);
        let rounds: Vec<RoundId> = self.rounds.iter().filter(|(_, round)| round.slot == slot).map(|(&id, _)| id).collect();
        for id in rounds {
            self.with_round(id, |this, round| this.begin(now, round, &mut out));
        }
        out
    }

    /// The phase of a slot's configuration here; `None` when none was told.
    #[must_use]
    pub fn phase(&self, slot: Slot) -> Option<Phase> {
        self.slots.get(&slot).map(|known| known.configuration.phase)
    }

    /// Whether a write of that key would take one round trip from here (Q12): a quorum has promised it in advance, or the slot's promise grants it, or a
    /// write of it is under way here, which the next one follows.
    #[must_use]
    pub fn is_warm(&self, slot: Slot, key: &KeyName) -> bool {
        let Some(phase) = self.phase(slot) else { return false };
        self.warm.phase(key) == Some(phase) || self.writing.contains_key(key) || self.grants.is_open(slot, key, phase)
    }

    /// Takes a wish for a key. It ends by [`Output::Done`] or [`Output::HandOver`], or when its submitter calls [`Proposer::give_up`].
    pub fn submit(&mut self, now: WallMicros, operation: OperationId, slot: Slot, key: KeyName, wish: Wish) -> Vec<Output> {
        let mut out = Vec::new();
        let running = Running { operation, wish, before: Course::default() };
        match running.wish.want {
            Want::Read => {
                let id = self.fresh_round();
                self.operations.insert(operation, id);
                self.rounds.insert(id, Box::new(Round::read(id, slot, key, running)));
                self.with_round(id, |this, round| this.begin(now, round, &mut out));
            }
            Want::ReadForUpdate | Want::Change(_) => self.enqueue(now, slot, key, running, &mut out),
        }
        out
    }

    /// The deadline of an operation has passed, or nobody waits for it any more: it ends now, and how is told (Q10). `None` when it has ended already.
    pub fn give_up(&mut self, now: WallMicros, operation: OperationId) -> (Option<Failure>, Vec<Output>) {
        let mut out = Vec::new();
        let mut failure = None;
        if let Some(id) = self.operations.remove(&operation) {
            self.with_round(id, |this, round| {
                let left = round.remove(operation);
                failure = left.map(|left| left.failure(Because::NoQuorum));
                round.has_work() || this.go_on(now, round, &mut out)
            });
        }
        (failure, out)
    }

    /// An acceptor has answered.
    pub fn answer(&mut self, now: WallMicros, answer: Answer) -> Vec<Output> {
        let mut out = Vec::new();
        let (tag, from) = (answer.tag, answer.from);
        if let Told::Refused(nack) = &answer.told {
            self.note(nack);
        }
        if self.acquiring.contains_key(&tag.round) {
            self.acquire_answer(tag, from, answer.told, &mut out);
            return out;
        }
        self.with_round(tag.round, |this, round| {
            if round.step != tag.step {
                return true;
            }
            match answer.told {
                Told::Refused(nack) => this.refused(now, round, from, &nack, &mut out),
                told => this.told(now, round, from, told, &mut out),
            }
        });
        out
    }

    /// A timer has fired.
    pub fn timer(&mut self, now: WallMicros, timer: Timer) -> Vec<Output> {
        let mut out = Vec::new();
        let Timer::Step(tag) = timer;
        self.acquire_late(tag, &mut out);
        self.with_round(tag.round, |this, round| {
            if round.step != tag.step {
                return true;
            }
            // Some refused and the others were silent: it was lost as much as if all had refused.
            round.losses += u32::from(round.refused != Votes::NOBODY);
            this.begin(now, round, &mut out)
        });
        out
    }

    /// Whether an answer with that tag still counts: a request that was held back need not be sent any more where it does not.
    #[must_use]
    pub fn awaits(&self, tag: Tag) -> bool {
        self.rounds.get(&tag.round).is_some_and(|round| round.step == tag.step)
    }

    /// How many operations have not ended.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.operations.len()
    }

    fn breaks(&self, mutation: Mutation) -> bool {
        self.options.mutation == Some(mutation)
    }

    fn fresh_round(&mut self) -> RoundId {
        self.last_round += 1;
        RoundId::new(Asker::Proposer, self.last_round)
    }

    /// Runs `step` on a round, which stays if that says so.
    fn with_round(&mut self, id: RoundId, step: impl FnOnce(&mut Self, &mut Round) -> bool) {
        let Some(mut round) = self.rounds.remove(&id) else { return };
        if step(self, &mut round) {
            self.rounds.insert(id, round);
        } else if self.writing.get(&round.key) == Some(&id) {
            self.writing.remove(&round.key);
        }
    }

    /// Learns from a refusal what ballots must exceed (Q2), and that a grant has ended (Q18g).
    fn note(&mut self, nack: &Nack) {
        self.seen = self.seen.max(nack.promised.counter).max(nack.floor);
    }

    /// A key's ballot above everything seen (Q2).
    fn fresh_ballot(&mut self) -> Ballot {
        let ballot = Ballot::of_key(self.seen, self.me);
        self.seen = ballot.counter;
        ballot
    }

    /// A step's request, to those.
    fn send(configuration: &Configuration, round: &Round, to: Votes, ask: &Ask, out: &mut Vec<Output>) {
        let (scope, tag) = (configuration.scope(), round.tag());
        out.extend(configuration.those(to).map(|to| Output::Send { to, request: Request { scope, tag, ask: ask.clone() } }));
    }

    fn done(&mut self, operation: OperationId, result: Result<Outcome, Failure>, course: Course, out: &mut Vec<Output>) {
        if self.operations.remove(&operation).is_some() {
            out.push(Output::Done { operation, result, course });
        }
    }
}
