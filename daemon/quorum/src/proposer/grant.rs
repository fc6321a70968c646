//! Q18: a slot's promise, and the first write of each of its keys in one round trip.

use std::collections::{BTreeMap, BTreeSet};

use isochrone_ident::Slot;

use super::memory::{Known, Warm};
use super::{Output, Proposer, Timer};
use crate::{Accepted, Ask, Ballot, Configuration, KeyName, KeyState, Member, Mutation, Nack, Phase, Request, Tag, Told, accepted_ballot};

/// What a slot's promise grants. Lives in memory, in one phase (Q18e).
#[derive(Debug)]
pub(super) struct Grant {
    phase: Phase,
    pub(super) ballot: Ballot,
    /// Listed keys, and those that were granted since. A key that is not in it was absent at a quorum and is granted.
    keys: BTreeMap<KeyName, Granted>,
}

#[derive(Debug, Clone)]
enum Granted {
    /// May be proposed once under the slot's ballot, from this.
    Open(Option<Accepted>),
    /// Proposed already, or promised to somebody else.
    Closed,
}

/// A slot's promise that is being asked for.
#[derive(Debug)]
pub(super) struct Acquiring {
    pub(super) slot: Slot,
    tag: Tag,
    ballot: Ballot,
    listed: BTreeMap<KeyName, KeyState>,
    complete: BTreeSet<Member>,
    refused: BTreeSet<Member>,
}

impl Known {
    /// A floor was seen: one at or above the slot's ballot ends the grants (Q18g).
    pub(super) fn note_floor(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
        self.slot_seen = self.slot_seen.max(floor);
        if self.grant.as_ref().is_some_and(|grant| grant.ballot.counter <= self.floor) {
            self.grant = None;
        }
    }
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
        let (listed, complete, refused) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        self.acquiring.insert(id, Acquiring { slot, tag, ballot, listed, complete, refused });
        out.push(Output::After { micros: self.options.step_micros, timer: Timer::Step(tag) });
        out
    }

    /// Whether a slot's keys are granted to this proposer.
    #[must_use]
    pub fn holds(&self, slot: Slot) -> bool {
        self.slots.get(&slot).is_some_and(|known| known.grant.is_some())
    }

    pub(super) fn acquire_answer(&mut self, tag: Tag, from: Member, told: Told, out: &mut Vec<Output>) {
        let Some(mut acquiring) = self.acquiring.remove(&tag.round) else { return };
        let goes_on = match told {
            Told::Page { slot_promised, keys, more, floor } if slot_promised == acquiring.ballot => {
                self.page(&mut acquiring, from, keys, more, floor, out)
            }
            Told::Refused(nack) => self.page_refused(&mut acquiring, from, &nack, out),
            _ => true,
        };
        if goes_on {
            self.acquiring.insert(tag.round, acquiring);
        }
    }

    /// A page of somebody's keys. False when the slot is acquired, or never will be.
    fn page(
        &mut self,
        acquiring: &mut Acquiring,
        from: Member,
        keys: Vec<(KeyName, KeyState)>,
        more: bool,
        floor: u64,
        out: &mut Vec<Output>,
    ) -> bool {
        let limit = self.options.grant_keys;
        let Some(known) = self.slots.get_mut(&acquiring.slot) else { return false };
        known.note_floor(floor);
        let last = keys.last().map(|(key, _)| key.clone());
        for (key, state) in keys {
            acquiring.list(key, state);
        }
        if acquiring.listed.len() > limit {
            return end(acquiring, false, out);
        }
        if let Some(after) = last.filter(|_| more) {
            out.push(page_request(&known.configuration, from, acquiring.tag, acquiring.ballot, Some(after)));
            return true;
        }
        acquiring.complete.insert(from);
        if !known.configuration.is_quorum(&acquiring.complete) {
            return true;
        }
        known.grant = Some(acquiring.grant(known.configuration.phase));
        known.note_floor(floor);
        let granted = known.grant.is_some();
        end(acquiring, granted, out)
    }

    fn page_refused(&mut self, acquiring: &mut Acquiring, from: Member, nack: &Nack, out: &mut Vec<Output>) -> bool {
        let Some(known) = self.slots.get_mut(&acquiring.slot) else { return false };
        known.slot_seen = known.slot_seen.max(nack.promised.counter).max(nack.floor);
        if nack.phase > known.configuration.phase {
            out.push(Output::Learn(acquiring.slot));
            return end(acquiring, false, out);
        }
        if acquiring.complete.contains(&from) {
            return true;
        }
        acquiring.refused.insert(from);
        known.configuration.can_do_without(&acquiring.refused) || end(acquiring, false, out)
    }

    /// The slot's promise took too long: keys are prepared one by one.
    pub(super) fn acquire_late(&mut self, tag: Tag, out: &mut Vec<Output>) {
        if let Some(acquiring) = self.acquiring.remove(&tag.round) {
            end(&acquiring, false, out);
        }
    }

    /// Q18d: what a grant gives for a key's first write. Given once: after that the key is warm, or prepared.
    pub(super) fn granted(&mut self, key: &KeyName, slot: Slot) -> Option<Warm> {
        let (outlives, reuses) = (self.breaks(Mutation::GrantsOutlivePhase), self.breaks(Mutation::ReuseGrant));
        let limit = self.options.grant_keys;
        let known = self.slots.get_mut(&slot)?;
        let phase = known.configuration.phase;
        let grant = known.grant.as_mut().filter(|grant| grant.phase == phase || outlives)?;
        let granted = grant.keys.get(key).cloned().unwrap_or(Granted::Open(None));
        let ballot = grant.ballot;
        if !reuses {
            grant.keys.insert(key.clone(), Granted::Closed);
        }
        if grant.keys.len() > limit {
            known.grant = None;
        }
        match granted {
            Granted::Open(accepted) => Some(Warm { phase, ballot, accepted }),
            Granted::Closed => None,
        }
    }

    /// Breaks Q18e on purpose: takes over the grants of the life before, as they were given.
    #[doc(hidden)]
    pub fn inherit_grants(&mut self, before: &mut Self) {
        for (slot, known) in &mut before.slots {
            let Some(mut grant) = known.grant.take() else { continue };
            grant.keys.retain(|_, granted| matches!(granted, Granted::Open(_)));
            if let Some(mine) = self.slots.get_mut(slot) {
                mine.grant = Some(grant);
            }
        }
    }
}

impl Acquiring {
    /// Somebody holds this: the highest of what was accepted and of what was promised counts.
    fn list(&mut self, key: KeyName, state: KeyState) {
        let entry = self.listed.entry(key).or_default();
        entry.promised = entry.promised.max(state.promised);
        if state.ballot() > accepted_ballot(entry.accepted.as_ref()) {
            entry.accepted = state.accepted;
        }
    }

    /// Every key but those that somebody has promised above the slot's ballot (Q18d).
    fn grant(&mut self, phase: Phase) -> Grant {
        let ballot = self.ballot;
        let open = |state: KeyState| if state.promised > ballot { Granted::Closed } else { Granted::Open(state.accepted) };
        let keys = std::mem::take(&mut self.listed).into_iter().map(|(key, state)| (key, open(state))).collect();
        Grant { phase, ballot, keys }
    }
}

fn end(acquiring: &Acquiring, granted: bool, out: &mut Vec<Output>) -> bool {
    out.push(Output::Acquired { slot: acquiring.slot, granted });
    false
}

fn page_request(configuration: &Configuration, to: Member, tag: Tag, ballot: Ballot, after: Option<KeyName>) -> Output {
    Output::Send { to, request: Request { scope: configuration.scope(), tag, ask: Ask::SlotPrepare { ballot, after } } }
}
