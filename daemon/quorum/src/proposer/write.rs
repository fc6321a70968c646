//! Q7, Q8, Q13: writes, identity rounds, and what happens when a step is refused.

use std::collections::BTreeSet;
use std::sync::Arc;

use isochrone_ident::{Slot, WallMicros};

use super::memory::Warm;
use super::round::{End, Kind, Round, Running, Stage, Views, read_outcome};
use super::{Because, Left, Outcome, Output, Proposer, Timer, Want};
use crate::change::{Setting, decide, unborn};
use crate::{Accepted, Ask, Ballot, Configuration, Envelope, KeyName, Member, Mutation, Nack, Refusal, Revision, Told, Verdict};

/// The longest back-off is the round trip times two to this power.
const BACK_OFF_EXPONENT_MAX: u32 = 6;

/// What a write begins from: a ballot that a quorum promised, and what it knows of the register.
struct Base {
    ballot: Ballot,
    accepted: Option<Accepted>,
    /// Whether `accepted` is known to be chosen, and nothing after it.
    is_confirmed: bool,
    floor: u64,
}

impl Proposer {
    /// Puts a wish among the writes of its key: all that wait when a round ends run in the next one together (Q13).
    pub(super) fn enqueue(&mut self, now: WallMicros, slot: Slot, key: KeyName, running: Running, out: &mut Vec<Output>) {
        let id = self.writing.get(&key).copied().unwrap_or_else(|| self.fresh_round());
        let limit = self.options.queue.max(1);
        let round = self.rounds.entry(id).or_insert_with(|| Round::write(id, slot, key.clone()));
        if round.queue.len() >= limit {
            let result = Err(running.wish.left.failure(Because::Busy));
            out.push(Output::Done { operation: running.operation, result });
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
            return self.begin_read(now, round, out);
        }
        let head_start = self.warm(&round.key, &configuration).or_else(|| self.granted(&round.key, round.slot));
        match head_start {
            Some(Warm { ballot, accepted, .. }) => {
                let floor = self.slots.get(&round.slot).map_or(0, |known| known.floor);
                self.propose(now, round, Base { ballot, accepted, is_confirmed: false, floor }, out)
            }
            None => self.prepare(round, out),
        }
    }

    /// A promise that the quorum gave with the last write, in this phase (Q8). Used once.
    fn warm(&mut self, key: &KeyName, configuration: &Configuration) -> Option<Warm> {
        self.warm.take(key).filter(|warm| warm.phase == configuration.phase)
    }

    fn prepare(&mut self, round: &mut Round, out: &mut Vec<Output>) -> bool {
        let ballot = self.fresh_ballot();
        round.enter(Stage::Preparing { ballot, floor: 0, views: Views::default() });
        self.ask_all(round, &Ask::Prepare { key: round.key.clone(), ballot }, out)
    }

    /// An acceptor has said yes.
    pub(super) fn told(&mut self, now: WallMicros, round: &mut Round, from: Member, told: Told, out: &mut Vec<Output>) -> bool {
        match told {
            Told::Promised { accepted, floor } => self.promised(now, round, from, accepted, floor, out),
            Told::Accepted { promised_next } if round.kind == Kind::Write => self.accepted(now, round, from, promised_next, out),
            Told::Accepted { .. } => self.written_back(round, from, out),
            Told::Shown { state, .. } => self.shown(round, from, state.accepted, out),
            Told::Page { .. } | Told::Done { .. } | Told::Refused(_) => true,
        }
    }

    fn promised(
        &mut self,
        now: WallMicros,
        round: &mut Round,
        from: Member,
        accepted: Option<Accepted>,
        seen_floor: u64,
        out: &mut Vec<Output>,
    ) -> bool {
        let Some(configuration) = self.configuration(round.slot) else { return true };
        let Stage::Preparing { ballot, floor, views } = &mut round.stage else { return true };
        *floor = seen_floor.max(*floor);
        views.add(from, accepted);
        if !views.is_quorum(&configuration) {
            return true;
        }
        let is_confirmed = views.is_confirmed(&configuration);
        let base = Base { ballot: *ballot, accepted: views.best().cloned(), is_confirmed, floor: *floor };
        self.note_floor(round.slot, base.floor);
        self.propose(now, round, base, out)
    }

    /// Q7: applies what is wished for and proposes the result. Where nothing changes the wishes were reads, and are answered once the register is
    /// confirmed: it is already, or it is proposed again as it is.
    ///
    /// A refusal of what may have been tried before is confirmed by proposing alone. An accept of the earlier try may linger at an acceptor that is
    /// not in this quorum; a later round could find and choose it, and the write would be applied after it was refused. What is
    /// proposed now goes before it.
    fn propose(&mut self, now: WallMicros, round: &mut Round, base: Base, out: &mut Vec<Output>) -> bool {
        let setting = Setting { ballot: base.ballot, floor: base.floor, now, bounds: self.options.bounds, mutation: self.options.mutation };
        let (changed, ends, lingers) = apply(&round.running, base.accepted.as_ref(), &setting);
        let as_it_is = match &base.accepted {
            Some(accepted) if lingers || !base.is_confirmed => Some(accepted.clone()),
            None if lingers => Some(Accepted {
                ballot: base.ballot,
                envelope: Arc::new(Envelope { revision: Revision(base.ballot.counter), ..unborn(base.floor) }),
            }),
            _ => None,
        };
        let phase = self.configuration(round.slot).map(|configuration| configuration.phase);
        match changed.or(as_it_is) {
            Some(record) => self.propose_record(round, Accepted { ballot: base.ballot, ..record }, ends, out),
            // What a promise in advance knows of an absent key cannot be proposed again: ask.
            None if !base.is_confirmed => self.prepare(round, out),
            None => {
                if let Some(phase) = phase {
                    self.warm.insert(round.key.clone(), Warm { phase, ballot: base.ballot, accepted: base.accepted });
                }
                self.end(now, round, ends, out)
            }
        }
    }

    fn propose_record(&mut self, round: &mut Round, record: Accepted, ends: Vec<End>, out: &mut Vec<Output>) -> bool {
        self.seen = self.seen.max(record.ballot.counter).max(record.envelope.revision.0);
        let next = self.fresh_ballot();
        let ask = Ask::accept(round.key.clone(), record.ballot, Arc::clone(&record.envelope), Some(next));
        let (acknowledged, promised_next) = (BTreeSet::new(), BTreeSet::new());
        round.enter(Stage::Accepting { record, next, acknowledged, promised_next, ends });
        if !self.breaks(Mutation::ForgetAccepts) {
            round.mark_left();
        }
        self.ask_all(round, &ask, out)
    }

    fn accepted(&mut self, now: WallMicros, round: &mut Round, from: Member, promised: bool, out: &mut Vec<Output>) -> bool {
        let Some(configuration) = self.configuration(round.slot) else { return true };
        let Stage::Accepting { record, next, acknowledged, promised_next, ends } = &mut round.stage else { return true };
        acknowledged.insert(from);
        if promised {
            promised_next.insert(from);
        }
        if !configuration.is_quorum(acknowledged) {
            return true;
        }
        // Chosen. With `next` promised by a quorum too, the next write of this key skips its first round trip (Q8).
        if round.refused.is_empty() && configuration.is_quorum(promised_next) {
            let warm = Warm { phase: configuration.phase, ballot: *next, accepted: Some(record.clone()) };
            self.warm.insert(round.key.clone(), warm);
        }
        let ends = std::mem::take(ends);
        self.end(now, round, ends, out)
    }

    fn end(&mut self, now: WallMicros, round: &mut Round, ends: Vec<End>, out: &mut Vec<Output>) -> bool {
        for End { operation, result } in ends {
            self.done(operation, result, out);
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
        if round.has_answered(from) {
            return true;
        }
        round.refused.insert(from);
        if configuration.can_do_without(&round.refused) {
            let micros = self.options.round_trip_micros.saturating_mul(2).min(self.options.step_micros);
            out.push(Output::After { micros, timer: Timer::Step(round.tag()) });
            return true;
        }
        round.losses += 1;
        self.hand_over(round, nack, out);
        if !round.has_work() {
            return self.go_on(now, round, out);
        }
        let exponent = round.losses.min(BACK_OFF_EXPONENT_MAX);
        let micros = self.random.up_to(self.options.round_trip_micros << exponent);
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
        for Running { operation, mut wish } in go {
            self.operations.remove(&operation);
            wish.handed_over = true;
            out.push(Output::HandOver { operation, to, wish });
        }
    }

    pub(super) fn configuration(&self, slot: Slot) -> Option<Arc<Configuration>> {
        self.slots.get(&slot).map(|known| Arc::clone(&known.configuration))
    }

    /// Asks everybody who counts: a dead replica costs nothing while a quorum answers.
    pub(super) fn ask_all(&self, round: &Round, ask: &Ask, out: &mut Vec<Output>) -> bool {
        if let Some(configuration) = self.configuration(round.slot) {
            self.send(round, configuration.members(), ask, out);
        }
        self.watch(round, out);
        true
    }

    pub(super) fn watch(&self, round: &Round, out: &mut Vec<Output>) {
        out.push(Output::After { micros: self.options.step_micros, timer: Timer::Step(round.tag()) });
    }

    fn note_floor(&mut self, slot: Slot, floor: u64) {
        self.seen = self.seen.max(floor);
        if let Some(known) = self.slots.get_mut(&slot) {
            known.note_floor(floor);
        }
    }
}

/// The register after all wishes, if any of them changes it, how each ends once it is chosen or confirmed, and whether one is refused of which an
/// earlier accept may linger.
fn apply(running: &[Running], accepted: Option<&Accepted>, setting: &Setting) -> (Option<Accepted>, Vec<End>, bool) {
    let mut changed: Option<Accepted> = None;
    let (mut ends, mut lingers) = (Vec::new(), false);
    for Running { operation, wish } in running {
        let current = changed.as_ref().or(accepted);
        let result = match &wish.want {
            Want::Read | Want::ReadForUpdate => Ok(read_outcome(current)),
            Want::Change(change) => {
                let (envelope, verdict) = decide(current.map(|current| &*current.envelope), change, setting);
                if let Some(envelope) = envelope {
                    changed = Some(Accepted { ballot: setting.ballot, envelope: Arc::new(envelope) });
                }
                let is_refused = !matches!(verdict, Verdict::Applied { .. });
                lingers |= is_refused && wish.may_linger() && setting.mutation != Some(Mutation::ConfirmByReading);
                match verdict {
                    // Too old to be looked up as well: an accept that left before may have been chosen, and its mark in the ring may be gone.
                    Verdict::Refused(Refusal::TooOld) if wish.left != Left::NOTHING => Err(wish.left.failure(Because::NoQuorum)),
                    verdict => Ok(Outcome::Written(verdict)),
                }
            }
        };
        ends.push(End { operation: *operation, result });
    }
    (changed, ends, lingers)
}
