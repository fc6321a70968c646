//! The proposer (Q2, Q7 to Q11, Q13, Q18): takes wishes, answers and timers, gives requests, timers and outcomes.
//!
//! ```text
//!   submit(wish) ──> Read   ──> Reading ──> WritingBack ─────────────> Done
//!                    Change ──> queue of the key ──> Preparing ──> Accepting ──> Done, and a promise for the next (Q8)
//!                                                    (skipped: warm, granted)
//!   acquire(slot) ──> pages of a quorum ──> a grant for every key of the slot (Q18)
//!   any step: refused or late ──> Resting (back-off, Q13) ──> again, with a new ballot (Q2)
//! ```

mod grant;
mod left;
mod memory;
mod read;
mod round;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;

use isochrone_ident::{NodeId, Slot, WallMicros};

use grant::Acquiring;
pub use left::{Because, Failure, Left, Want, Wish};
use memory::{Known, Random, WarmKeys};
use round::{Round, Running};

use crate::{
    Answer, Ask, Ballot, Bounds, Configuration, Envelope, KeyName, Member, Mutation, Nack, ProposerId, Request, Tag, Told, Verdict,
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
    /// Keys of one slot that a grant may list (Q18); a slot with more is written key by key.
    pub grant_keys: usize,
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
            grant_keys: 65_536,
            hand_over_after: 2,
            mutation: None,
        }
    }
}

/// The proposer of one life of a daemon. It keeps nothing on disk: what it knows it has from acceptors, and forgetting it costs a round trip.
#[derive(Debug)]
pub struct Proposer {
    me: ProposerId,
    options: ProposerOptions,
    random: Random,
    /// The highest counter, floor or revision seen or used (Q2).
    seen: u64,
    slots: BTreeMap<Slot, Known>,
    warm: WarmKeys,
    writing: BTreeMap<KeyName, u64>,
    rounds: BTreeMap<u64, Round>,
    acquiring: BTreeMap<u64, Acquiring>,
    operations: BTreeMap<OperationId, u64>,
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
            warm: WarmKeys::new(options.warm_keys),
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
        let keeps = self.breaks(Mutation::GrantsOutlivePhase);
        match self.slots.get_mut(&slot) {
            Some(known) if known.configuration.phase >= configuration.phase => return out,
            Some(known) => known.enter(configuration, keeps),
            None => drop(self.slots.insert(slot, Known::new(configuration))),
        }
        let rounds: Vec<u64> = self.rounds.iter().filter(|(_, round)| round.slot == slot).map(|(&id, _)| id).collect();
        for id in rounds {
            self.with_round(id, |this, round| this.begin(now, round, &mut out));
        }
        self.acquiring.retain(|_, acquiring| acquiring.slot != slot);
        out
    }

    /// Takes a wish for a key. It ends by [`Output::Done`] or [`Output::HandOver`], or when its submitter calls [`Proposer::give_up`].
    pub fn submit(&mut self, now: WallMicros, operation: OperationId, slot: Slot, key: KeyName, wish: Wish) -> Vec<Output> {
        let mut out = Vec::new();
        let running = Running { operation, wish };
        match running.wish.want {
            Want::Read => {
                let id = self.fresh_round();
                self.operations.insert(operation, id);
                self.rounds.insert(id, Round::read(id, slot, key, running));
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
            round.losses += u32::from(!round.refused.is_empty());
            this.begin(now, round, &mut out)
        });
        out
    }

    /// How many operations have not ended.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.operations.len()
    }

    fn breaks(&self, mutation: Mutation) -> bool {
        self.options.mutation == Some(mutation)
    }

    fn fresh_round(&mut self) -> u64 {
        self.last_round += 1;
        self.last_round
    }

    /// Runs `step` on a round, which stays if that says so.
    fn with_round(&mut self, id: u64, step: impl FnOnce(&mut Self, &mut Round) -> bool) {
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

    fn send(&self, round: &Round, to: impl IntoIterator<Item = Member>, ask: &Ask, out: &mut Vec<Output>) {
        let Some(known) = self.slots.get(&round.slot) else { return };
        let request = Request { scope: known.configuration.scope(), tag: round.tag(), ask: ask.clone() };
        out.extend(to.into_iter().map(|to| Output::Send { to, request: request.clone() }));
    }

    fn done(&mut self, operation: OperationId, result: Result<Outcome, Failure>, out: &mut Vec<Output>) {
        if self.operations.remove(&operation).is_some() {
            out.push(Output::Done { operation, result });
        }
    }
}
