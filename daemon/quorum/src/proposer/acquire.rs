//! Q18b: asking for a slot's promise, and the first write of each of its keys in one round trip.

use std::collections::BTreeMap;

use isochrone_ident::Slot;

use super::grant::{Grant, GrantBounds, Granted, bytes_of};
use super::memory::Warm;
use super::{Output, Proposer, Timer};
use crate::{Ask, Ballot, Configuration, KeyName, KeyState, Member, Mutation, Nack, Phase, Request, Tag, Told, Votes, accepted_ballot};

/// A slot's promise that is being asked for.
#[derive(Debug, Clone)]
pub(super) struct Acquiring {
    pub(super) slot: Slot,
    tag: Tag,
    ballot: Ballot,
    /// What somebody holds; `None` for what cannot be granted, since it is promised to somebody else, or more than fits.
    listed: BTreeMap<KeyName, Option<KeyState>>,
    bytes: usize,
    complete: Votes,
    refused: Votes,
}

impl Proposer {
    /// Asks a quorum to promise a slot's keys to this proposer (Q18b). Ends by [`Output::Acquired`]; meanwhile and afterwards keys that are not
    /// granted are prepared one by one. Nothing where the slot's configuration is unknown, or where that is being asked already.
    pub fn acquire(&mut self, slot: Slot) -> Vec<Output> {
        let mut out = Vec::new();
        if self.acquiring.values().any(|acquiring| acquiring.slot == slot) {
            return out;
        }
        let (id, me) = (self.fresh_round(), self.me);
        let Some(known) = self.slots.get_mut(&slot) else { return out };
        // May be low: what matters is that it was never used, and that spares other proposers' promises (Q18c).
        let ballot = Ballot::of_slot(known.slot_seen, me);
        known.slot_seen = ballot.counter;
        let tag = Tag { round: id, step: 0 };
        for to in known.configuration.members() {
            out.push(page_request(&known.configuration, to, tag, ballot, None));
        }
        let (complete, refused) = (Votes::NOBODY, Votes::NOBODY);
        self.acquiring.insert(id, Acquiring { slot, tag, ballot, listed: BTreeMap::new(), bytes: 0, complete, refused });
        out.push(Output::After { micros: self.options.step_micros, timer: Timer::Step(tag) });
        out
    }

    /// Gives a slot up, since it is somebody else's now: what is granted is dropped, and what is being asked ends. Keys that are warm stay so.
    pub fn release(&mut self, slot: Slot) -> Vec<Output> {
        let mut out = Vec::new();
        self.grants.end(slot);
        self.stop_acquiring(slot, &mut out);
        out
    }

    /// Whether a slot's keys are granted to this proposer.
    #[must_use]
    pub fn holds(&self, slot: Slot) -> bool {
        self.grants.ballot(slot).is_some()
    }

    /// The counter of the slot's promise that grants its keys to this proposer: of two owners the one with the higher has it.
    #[must_use]
    pub fn grant_counter(&self, slot: Slot) -> Option<u64> {
        self.grants.ballot(slot).map(|ballot| ballot.counter)
    }

    pub(super) fn stop_acquiring(&mut self, slot: Slot, out: &mut Vec<Output>) {
        self.acquiring.retain(|_, acquiring| acquiring.slot != slot || end(acquiring, false, out));
    }

    pub(super) fn acquire_answer(&mut self, tag: Tag, from: Member, told: Told, out: &mut Vec<Output>) {
        let Some(mut acquiring) = self.acquiring.remove(&tag.round) else { return };
        let goes_on = match told {
            Told::Page { slot_promised, keys, more, floor } if slot_promised == acquiring.ballot => {
                self.note_floor(acquiring.slot, floor);
                self.page(&mut acquiring, from, keys, more, out)
            }
            Told::Refused(nack) => self.page_refused(&mut acquiring, from, &nack, out),
            _ => true,
        };
        if goes_on {
            self.acquiring.insert(tag.round, acquiring);
        }
    }

    /// A page of somebody's keys. False when the slot is acquired, or never will be.
    fn page(&mut self, acquiring: &mut Acquiring, from: Member, keys: Vec<(KeyName, KeyState)>, more: bool, out: &mut Vec<Output>) -> bool {
        let taken = self.grants.bytes() + self.acquiring.values().map(|acquiring| acquiring.bytes).sum::<usize>();
        let room = self.options.grant_bytes.saturating_sub(taken);
        let Some(known) = self.slots.get(&acquiring.slot) else { return false };
        let configuration = &known.configuration;
        let last = keys.last().map(|(key, _)| key.clone());
        for (key, state) in keys {
            acquiring.list(key, state, room);
        }
        if acquiring.listed.len() > self.options.grant_keys {
            return end(acquiring, false, out);
        }
        if let Some(after) = last.filter(|_| more) {
            out.push(page_request(configuration, from, acquiring.tag, acquiring.ballot, Some(after)));
            return true;
        }
        acquiring.complete |= configuration.vote_of(from);
        if !configuration.is_quorum(acquiring.complete) {
            return true;
        }
        let (slot, floor) = (acquiring.slot, known.floor);
        self.grants.insert(slot, acquiring.grant(configuration.phase));
        self.grants.end_at_floor(slot, floor);
        end(acquiring, self.holds(slot), out)
    }

    fn page_refused(&mut self, acquiring: &mut Acquiring, from: Member, nack: &Nack, out: &mut Vec<Output>) -> bool {
        let Some(known) = self.slots.get_mut(&acquiring.slot) else { return false };
        known.slot_seen = known.slot_seen.max(nack.promised.counter).max(nack.floor);
        if nack.phase > known.configuration.phase {
            out.push(Output::Learn(acquiring.slot));
            return end(acquiring, false, out);
        }
        let vote = known.configuration.vote_of(from);
        if acquiring.complete.has(vote) {
            return true;
        }
        acquiring.refused |= vote;
        known.configuration.can_do_without(acquiring.refused) || end(acquiring, false, out)
    }

    /// The slot's promise took too long: keys are prepared one by one.
    pub(super) fn acquire_late(&mut self, tag: Tag, out: &mut Vec<Output>) {
        if let Some(acquiring) = self.acquiring.remove(&tag.round) {
            end(&acquiring, false, out);
        }
    }

    /// Q18d: what a grant gives for a key's first write.
    pub(super) fn granted(&mut self, key: &KeyName, slot: Slot, phase: Phase) -> Option<Warm> {
        let phase = (!self.breaks(Mutation::GrantsOutlivePhase)).then_some(phase);
        let bounds = GrantBounds { keys: self.options.grant_keys, bytes: self.options.grant_bytes };
        let given = self.grants.take(slot, key, phase, bounds);
        if let Some(warm) = given.as_ref().filter(|_| self.breaks(Mutation::ReuseGrant)) {
            self.grants.give_back(slot, key, warm.accepted.clone());
        }
        given
    }

    /// Breaks Q18e on purpose: takes over the grants of the life before, as they were given.
    #[doc(hidden)]
    pub fn inherit_grants(&mut self, before: &mut Self) {
        self.grants.inherit(&mut before.grants);
    }
}

impl Acquiring {
    /// Somebody holds this: the highest of what was accepted counts. A key that somebody has promised above the slot's ballot is not granted (Q18d), nor
    /// is one for whose record there is no room.
    fn list(&mut self, key: KeyName, state: KeyState, room: usize) {
        let is_promised = state.promised > self.ballot;
        self.bytes += bytes_of(&key, None);
        let entry = self.listed.entry(key).or_insert_with(|| Some(KeyState::default()));
        let Some(listed) = entry else { return };
        if state.ballot() > accepted_ballot(listed.accepted.as_ref()) {
            self.bytes += state.accepted.as_ref().map_or(0, |accepted| accepted.envelope.bytes());
            listed.accepted = state.accepted;
        }
        if is_promised || self.bytes > room {
            *entry = None;
        }
    }

    fn grant(&mut self, phase: Phase) -> Grant {
        let granted = |state: Option<KeyState>| state.map_or(Granted::Closed, |state| Granted::Open(state.accepted));
        let keys = std::mem::take(&mut self.listed).into_iter().map(|(key, state)| (key, granted(state))).collect();
        Grant { phase, ballot: self.ballot, keys }
    }
}

/// False: it goes on no longer.
fn end(acquiring: &Acquiring, granted: bool, out: &mut Vec<Output>) -> bool {
    out.push(Output::Acquired { slot: acquiring.slot, granted });
    false
}

fn page_request(configuration: &Configuration, to: Member, tag: Tag, ballot: Ballot, after: Option<KeyName>) -> Output {
    Output::Send { to, request: Request { scope: configuration.scope(), tag, ask: Ask::SlotPrepare { ballot, after } } }
}
