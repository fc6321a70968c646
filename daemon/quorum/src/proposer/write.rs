//! Q7, Q8, Q13: writes, identity rounds, and what happens when a step is refused.

use std::sync::Arc;

use isochrone_ident::{Slot, WallMicros};

use super::memory::Warm;
use super::round::{End, Kind, Round, Running, Stage, Views, read_outcome};
use super::{Because, Began, Course, Left, Outcome, Output, Proposer, Timer, Want};
use crate::change::{Setting, decide, unborn};
use crate::{Accepted, Ask, Ballot, Configuration, Envelope, KeyName, Member, Mutation, Nack, Refusal, Revision, Told, Verdict, Votes};

/// The longest back-off is the round trip times two to this power.
const BACK_OFF_EXPONENT_MAX: u32 = 6;

/// What a write begins from: a ballot that a quorum promised, and what it knows of the register.
struct Base {
    ballot: Ballot,
    accepted: Option<Accepted>,
    /// Whether `accepted` is known to be chosen, and nothing after it.
    is_confirmed: bool,
    floor: u64,
    began: Began,
}

impl Proposer {
    /// Puts a wish among the writes of its key: all that wait when a round ends run in the next one together (Q13).
    pub(super) fn enqueue(&mut self, now: WallMicros, slot: Slot, key: KeyName, running: Running, out: &mut Vec<Output>) {
        let id = self.writing.get(&key).copied().unwrap_or_else(|| self.fresh_round());
        let limit = self.options.queue.max(1);
        let round = self.rounds.entry(id).or_insert_with(|| Box::new(Round::write(id, slot, key.clone())));
        if round.queue.len() >= limit {
            let result = Err(running.wish.left.failure(Because::Busy));
            out.push(Output::Done { operation: running.operation, result, course: running.before });
            return;
        }
        self.operations.insert(running.operation, id);
        round.queue.push_back(running);
        let is_idle = !round.has_work();
        self.writing.insert(key, id);
        if is_idle {
            self.with_round(id, |this, round| this.go_on(now, round, out));
        }
    }

    /// The wishes of a round have ended: those that waited are next. False when there are none.
    pub(super) fn go_on(&mut self, now: WallMicros, round: &mut Round, out: &mut Vec<Output>) -> bool {
        round.running = round.queue.drain(..).collect();
        round.losses = 0;
        round.course = Course::default();
        round.has_work() && self.begin(now, round, out)
    }

    /// Begins a round's wishes, or begins them again: a timeout has passed, a pause is over, or the phase has changed.
    pub(super) fn begin(&mut self, now: WallMicros, round: &mut Round, out: &mut Vec<Output>) -> bool {
        let Some(configuration) = self.configuration(round.slot) else {
            round.enter(Stage::Resting);
            out.push(Output::Learn(round.slot));
            self.watch(round, out);
            return true;
        };
        if round.kind == Kind::Read {
            return self.begin_read(now, round, &configuration, out);
        }
        match self.head_start(round, &configuration) {
            Some((Warm { ballot, accepted, .. }, began)) => {
                let floor = self.slots.get(&round.slot).map_or(0, |known| known.floor);
                self.propose(now, round, &configuration, Base { ballot, accepted, is_confirmed: false, floor, began }, out)
            }
            None => self.prepare(round, &configuration, out),
        }
    }

    /// What spares the first round trip: a promise that the quorum gave with the last write, in this phase (Q8), used once; or the slot's (Q18).
    fn head_start(&mut self, round: &Round, configuration: &Configuration) -> Option<(Warm, Began)> {
        let phase = configuration.phase;
        if let Some(warm) = self.warm.take(&round.key).filter(|warm| warm.phase == phase) {
            return Some((warm, Began::Warm));
        }
        self.granted(&round.key, round.slot, phase).map(|warm| (warm, Began::Granted))
    }

    fn prepare(&mut self, round: &mut Round, configuration: &Configuration, out: &mut Vec<Output>) -> bool {
        let ballot = self.fresh_ballot();
        round.enter(Stage::Preparing { ballot, floor: 0, views: Views::default() });
        round.trip(Began::Prepared);
        self.ask_all(configuration, round, &Ask::Prepare { key: round.key.clone(), ballot }, out)
    }

    /// An acceptor has said yes.
    pub(super) fn told(&mut self, now: WallMicros, round: &mut Round, from: Member, told: Told, out: &mut Vec<Output>) -> bool {
        let Some(configuration) = self.configuration(round.slot) else { return true };
        let from = configuration.vote_of(from);
        if from == Votes::NOBODY {
            return true;
        }
        match told {
            Told::Promised { accepted, floor } => {
                let Stage::Preparing { floor: highest, views, .. } = &mut round.stage else { return true };
                *highest = floor.max(*highest);
                views.add(from, accepted);
                self.promised(now, round, &configuration, out)
            }
            Told::Accepted { promised_next } if round.kind == Kind::Write => {
                self.accepted(now, round, &configuration, (from, promised_next), out)
            }
            Told::Accepted { .. } => self.written_back(&configuration, round, from, out),
            Told::Shown { state, .. } => self.shown(&configuration, round, from, state.accepted, out),
            Told::Page { .. } | Told::Done { .. } | Told::Refused(_) => true,
        }
    }

    fn promised(&mut self, now: WallMicros, round: &mut Round, configuration: &Configuration, out: &mut Vec<Output>) -> bool {
        let Stage::Preparing { ballot, floor, views } = &round.stage else { return true };
        if !views.is_quorum(configuration) {
            return true;
        }
        let (accepted, is_confirmed) = (views.best().cloned(), views.is_confirmed(configuration));
        let base = Base { ballot: *ballot, accepted, is_confirmed, floor: *floor, began: Began::Prepared };
        self.note_floor(round.slot, base.floor);
        self.propose(now, round, configuration, base, out)
    }

    /// Q7: applies what is wished for and proposes the result. Where nothing changes the wishes were reads, and are answered once the register is
    /// confirmed: it is already, or it is proposed again as it is.
    ///
    /// A refusal of what may have been tried before is confirmed by proposing alone. An accept of the earlier try may linger at an acceptor that is
    /// not in this quorum; a later round could find and choose it, and the write would be applied after it was refused. What is
    /// proposed now goes before it.
    fn propose(&mut self, now: WallMicros, round: &mut Round, configuration: &Configuration, base: Base, out: &mut Vec<Output>) -> bool {
        let setting = Setting { ballot: base.ballot, floor: base.floor, now, bounds: self.options.bounds, mutation: self.options.mutation };
        let known = base.accepted.as_ref().map(|accepted| &accepted.envelope);
        let Applied { changed, ends, lingers } = apply(&round.running, known, &setting);
        let as_it_is = match known {
            Some(envelope) if lingers || !base.is_confirmed => Some(Arc::clone(envelope)),
            None if lingers => Some(Arc::new(Envelope { revision: Revision(base.ballot.counter), ..unborn(base.floor) })),
            _ => None,
        };
        match changed.or(as_it_is) {
            Some(envelope) => {
                let proposal = Proposal { record: Accepted { ballot: base.ballot, envelope }, began: base.began, ends };
                self.propose_record(round, configuration, proposal, out)
            }
            // What a promise in advance knows of an absent key cannot be proposed again: ask.
            None if !base.is_confirmed => self.prepare(round, configuration, out),
            None => {
                let warm = Warm { phase: configuration.phase, ballot: base.ballot, accepted: base.accepted };
                self.warm.insert(round.key.clone(), warm);
                self.end(now, round, ends, out)
            }
        }
    }

    fn propose_record(&mut self, round: &mut Round, configuration: &Configuration, proposal: Proposal, out: &mut Vec<Output>) -> bool {
        let Proposal { record, began, ends } = proposal;
        self.seen = self.seen.max(record.ballot.counter).max(record.envelope.revision.0);
        let next = self.fresh_ballot();
        let ask = Ask::Accept { key: round.key.clone(), record: record.clone(), next: Some(next) };
        round.enter(Stage::Accepting { record, next, acknowledged: Votes::NOBODY, promised_next: Votes::NOBODY, ends });
        round.trip(began);
        if !self.breaks(Mutation::ForgetAccepts) {
            round.mark_left();
        }
        self.ask_all(configuration, round, &ask, out)
    }

    fn accepted(
        &mut self,
        now: WallMicros,
        round: &mut Round,
        configuration: &Configuration,
        (from, has_promised): (Votes, bool),
        out: &mut Vec<Output>,
    ) -> bool {
        let Stage::Accepting { record, next, acknowledged, promised_next, ends } = &mut round.stage else { return true };
        *acknowledged |= from;
        if has_promised {
            *promised_next |= from;
        }
        if !configuration.is_quorum(*acknowledged) {
            return true;
        }
        // Chosen. With `next` promised by a quorum too, the next write of this key skips its first round trip (Q8).
        if round.refused == Votes::NOBODY && configuration.is_quorum(*promised_next) {
            let warm = Warm { phase: configuration.phase, ballot: *next, accepted: Some(record.clone()) };
            self.warm.insert(round.key.clone(), warm);
        }
        let ends = std::mem::take(ends);
        self.end(now, round, ends, out)
    }

    fn end(&mut self, now: WallMicros, round: &mut Round, ends: Vec<End>, out: &mut Vec<Output>) -> bool {
        for End { operation, before, result } in ends {
            self.done(operation, result, before.then(round.course), out);
        }
        round.running.clear();
        self.go_on(now, round, out)
    }

    /// An acceptor has refused. While a quorum is still possible without it the step goes on, but not for long: a replica that is needed now may be dead.
    pub(super) fn refused(&mut self, now: WallMicros, round: &mut Round, from: Member, nack: &Nack, out: &mut Vec<Output>) -> bool {
        let Some(configuration) = self.configuration(round.slot) else { return true };
        self.note_floor(round.slot, nack.floor);
        if nack.phase > configuration.phase {
            round.enter(Stage::Resting);
            out.push(Output::Learn(round.slot));
            self.watch(round, out);
            return true;
        }
        let vote = configuration.vote_of(from);
        if round.has_answered(vote) {
            return true;
        }
        round.refused |= vote;
        if configuration.can_do_without(round.refused) {
            let micros = self.options.round_trip_micros.saturating_mul(2).min(self.options.step_micros);
            out.push(Output::After { micros, timer: Timer::Step(round.tag()) });
            return true;
        }
        round.losses += 1;
        self.hand_over(round, nack, out);
        if !round.has_work() {
            return self.go_on(now, round, out);
        }
        let exponent = if round.kind == Kind::Read { 0 } else { round.losses.min(BACK_OFF_EXPONENT_MAX) };
        let micros = self.random.up_to((self.options.round_trip_micros << exponent).min(self.options.step_micros));
        round.enter(Stage::Resting);
        out.push(Output::After { micros, timer: Timer::Step(round.tag()) });
        true
    }

    /// Q13: after two refusals the wishes go to the winner that the ballot names. Its request ids go along, so that nothing is applied twice.
    fn hand_over(&mut self, round: &mut Round, nack: &Nack, out: &mut Vec<Output>) {
        let to = nack.promised.proposer.node;
        let limit = self.options.hand_over_after;
        if round.kind == Kind::Read || limit == 0 || round.losses < limit || nack.promised == Ballot::NONE || to == self.me.node {
            return;
        }
        let (stay, go): (Vec<_>, Vec<_>) = round.running.drain(..).partition(|running| running.wish.handed_over);
        round.running = stay;
        for Running { operation, mut wish, .. } in go {
            self.operations.remove(&operation);
            wish.handed_over = true;
            out.push(Output::HandOver { operation, to, wish });
        }
    }

    pub(super) fn configuration(&self, slot: Slot) -> Option<Arc<Configuration>> {
        self.slots.get(&slot).map(|known| Arc::clone(&known.configuration))
    }

    /// Asks everybody who counts: a dead replica costs nothing while a quorum answers.
    pub(super) fn ask_all(&self, configuration: &Configuration, round: &Round, ask: &Ask, out: &mut Vec<Output>) -> bool {
        Self::send(configuration, round, configuration.everybody(), ask, out);
        self.watch(round, out);
        true
    }

    pub(super) fn watch(&self, round: &Round, out: &mut Vec<Output>) {
        out.push(Output::After { micros: self.options.step_micros, timer: Timer::Step(round.tag()) });
    }

    /// A floor was seen: ballots must exceed it (Q2, Q18c), and one at or above the slot's ballot ends the grants (Q18g).
    pub(super) fn note_floor(&mut self, slot: Slot, floor: u64) {
        self.seen = self.seen.max(floor);
        if let Some(known) = self.slots.get_mut(&slot)
            && known.floor < floor
        {
            known.floor = floor;
            known.slot_seen = known.slot_seen.max(floor);
            self.grants.end_at_floor(slot, floor);
        }
    }
}

/// What is proposed, how its round came to it, and how its wishes end once it is chosen.
struct Proposal {
    record: Accepted,
    began: Began,
    ends: Vec<End>,
}

/// What became of a round's wishes.
struct Applied {
    /// The register after all of them, if any changed it.
    changed: Option<Arc<Envelope>>,
    /// How each ends once that is chosen, or the register is confirmed as it is.
    ends: Vec<End>,
    /// Whether one is refused of which an earlier accept may linger.
    lingers: bool,
}

fn apply(running: &[Running], known: Option<&Arc<Envelope>>, setting: &Setting) -> Applied {
    let mut register = known.map(Arc::clone);
    let (mut ends, mut is_changed, mut lingers) = (Vec::with_capacity(running.len()), false, false);
    for Running { operation, wish, before } in running {
        let result = match &wish.want {
            Want::Read | Want::ReadForUpdate => Ok(read_outcome(register.as_ref())),
            Want::Change(change) => {
                let (verdict, changes) = decide(&mut register, change, setting);
                is_changed |= changes;
                let is_refused = !matches!(verdict, Verdict::Applied { .. });
                lingers |= is_refused && wish.may_linger() && setting.mutation != Some(Mutation::ConfirmByReading);
                match verdict {
                    // Too old to be looked up as well: an accept that left before may have been chosen, and its mark in the ring may be gone.
                    Verdict::Refused(Refusal::TooOld) if wish.left != Left::NOTHING => Err(wish.left.failure(Because::NoQuorum)),
                    verdict => Ok(Outcome::Written(verdict)),
                }
            }
        };
        ends.push(End { operation: *operation, before: *before, result });
    }
    Applied { changed: register.filter(|_| is_changed), ends, lingers }
}
