//! Adopting phases (Q4, Q14h), and what concerns a slot as a whole: promises, listings, floors, copies.

use super::rows::{Row, SlotState, View};
use super::{Acceptor, Case, Taken, refuse};
use crate::{Accepted, Ballot, Configuration, Content, KeyName, KeyState, Mutation, Told, Why, accepted_ballot};

/// What a copy brings besides its key (Q14e).
pub(super) struct Carried<'a> {
    pub(super) record: Option<&'a Accepted>,
    pub(super) promised: Ballot,
    pub(super) slot_promised: Ballot,
    pub(super) floor: u64,
}

impl<T> Acceptor<T> {
    /// The rows that make the configuration this slot's own, none where it is already, and the slot's state with them. Without continuous membership
    /// the slot starts from empty (Q4), and whoever is no member any more deletes what it holds (Q14h).
    pub(super) fn adopt_rows(&self, mine: Option<SlotState>, known: &Configuration) -> (Vec<Row>, SlotState) {
        let slot = known.slot;
        if let Some(mine) = mine.filter(|mine| mine.phase >= known.phase) {
            return (Vec::new(), mine);
        }
        let joined = known.joined(self.me);
        let goes_on = mine.filter(|mine| mine.joined == joined || self.breaks(Mutation::NoWipe) && joined.is_some());
        let fresh = SlotState { phase: known.phase, joined, floor: 0, promised: Ballot::NONE };
        let state = goes_on.map_or(fresh, |mine| SlotState { phase: known.phase, joined, ..mine });
        let mut rows = Vec::new();
        if goes_on.is_none() && mine.is_some() && !self.breaks(Mutation::NoWipe) {
            rows.push(Row::Wipe(slot));
        }
        rows.push(Row::Slot(slot, state));
        (rows, state)
    }

    /// Q18b: the first page makes the promise, the others go on while it stands.
    pub(super) fn slot_prepare(&self, view: &impl View, case: &Case<'_>, ballot: Ballot, after: Option<&KeyName>) -> Taken {
        let mut state = case.state;
        let phase = state.phase;
        if ballot.counter <= state.floor {
            return refuse(Why::Floor, phase, &state, Ballot::NONE);
        }
        if after.is_some() && state.promised == ballot {
            return Taken::unchanged(self.page(view, case, &state, after));
        }
        if after.is_some() || ballot <= state.promised {
            return refuse(Why::Promised, phase, &state, Ballot::NONE);
        }
        state.promised = ballot;
        let told = self.page(view, case, &state, None);
        Taken { rows: vec![Row::Slot(case.slot, state)], told, is_volatile: self.breaks(Mutation::VolatileSlotPromise) }
    }

    /// Keys of the slot from the key after `after` on.
    pub(super) fn page(&self, view: &impl View, case: &Case<'_>, state: &SlotState, after: Option<&KeyName>) -> Told {
        let page = self.staged.page(view, case.slot, after, self.page_bounds());
        Told::Page { slot_promised: state.promised, floor: state.floor, keys: page.keys, more: page.more }
    }

    /// Q14d, e: takes a certified record where the key's own promise allows it, and raises what is promised to what the sealed majority showed.
    pub(super) fn copy(&self, case: &Case<'_>, key: Option<&KeyName>, own: &KeyState, carried: &Carried<'_>) -> Taken {
        let mut slot_state = case.state;
        let ballot = accepted_ballot(carried.record);
        // Whether it is taken depends on the key's own promise alone: not on the slot's, nor on the floor.
        if key.is_some() && own.ballot() < ballot && ballot < own.promised {
            return refuse(Why::Promised, slot_state.phase, &slot_state, own.promised);
        }
        slot_state.floor = slot_state.floor.max(carried.floor);
        if !self.breaks(Mutation::CopyRecordsOnly) {
            slot_state.promised = slot_state.promised.max(carried.slot_promised);
        }
        let mut rows = Vec::new();
        if slot_state != case.state {
            rows.push(Row::Slot(case.slot, slot_state));
        }
        if let Some(key) = key {
            rows.extend(self.copied(own, carried).map(|state| Row::Key(case.slot, key.clone(), state)));
        }
        Taken::after(rows, done(&slot_state))
    }

    /// The key's state with what the copy brings; `None` when that changes nothing.
    fn copied(&self, own: &KeyState, carried: &Carried<'_>) -> Option<KeyState> {
        let mut state = own.clone();
        if let Some(record) = carried.record.filter(|record| record.ballot > own.ballot()) {
            state.promised = state.promised.max(record.ballot);
            state.accepted = Some(record.clone());
        }
        if !self.breaks(Mutation::CopyRecordsOnly) {
            state.promised = state.promised.max(carried.promised);
        }
        (state != *own).then_some(state)
    }

    /// Q16c: from now on every ballot at or below the floor is refused.
    pub(super) fn set_floor(&self, case: &Case<'_>, floor: u64) -> Taken {
        let state = SlotState { floor: case.state.floor.max(floor), ..case.state };
        if self.breaks(Mutation::NoFloor) || state == case.state {
            return Taken::unchanged(done(&state));
        }
        Taken::after(vec![Row::Slot(case.slot, state)], done(&state))
    }

    /// Q16d: forgets a tombstone that is still exactly the one that everybody showed. A key of which nothing is held is forgotten already; one of
    /// which nothing was ever accepted may go too, since the floor refuses all that its promise did.
    pub(super) fn erase(&self, case: &Case<'_>, key: &KeyName, own: Option<KeyState>, ballot: Ballot, floor: u64) -> Taken {
        let state = case.state;
        let Some(own) = own else { return Taken::unchanged(done(&state)) };
        let is_tombstone = own.accepted.as_ref().is_none_or(|accepted| accepted.envelope.content == Content::Tombstone);
        // The key's promise alone: a slot's promise is not lowered by this and needs no floor above it (Q18g).
        let is_below = own.promised.counter <= floor || self.breaks(Mutation::EraseBelowPromise);
        let has_floor = state.floor >= floor || self.breaks(Mutation::NoFloor);
        if own.ballot() != ballot || !is_tombstone || !is_below || !has_floor {
            return refuse(Why::Changed, state.phase, &state, own.promised);
        }
        Taken::after(vec![Row::Erase(case.slot, key.clone())], done(&state))
    }
}

pub(super) fn done(state: &SlotState) -> Told {
    Told::Done { slot_promised: state.promised, floor: state.floor }
}
