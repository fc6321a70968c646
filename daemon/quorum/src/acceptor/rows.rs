//! What an acceptor keeps on disk (Q3), and what of it is written but not synced yet.

use std::collections::BTreeMap;
use std::ops::Bound;

use isochrone_ident::{Epoch, Slot};
use serde::{Deserialize, Serialize};

use crate::{Ballot, KeyName, KeyState, Phase};

/// An acceptor's durable state of one slot (Q3, Q18a).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotState {
    /// The phase that it has adopted. It only grows.
    pub phase: Phase,
    /// Since when it has been in the slot's sets; `None` while it is not.
    pub joined: Option<Epoch>,
    /// Ballots with a counter at or below this are refused. It only grows while the acceptor stays in the slot's sets.
    pub floor: u64,
    /// The slot's promise: part of every key's effective promise. It only grows while the acceptor stays in the slot's sets.
    pub promised: Ballot,
}

/// A change of what is on disk. Applied in order; a group of them is durable as a whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// The state of a slot.
    Slot(Slot, SlotState),
    /// The state of a key.
    Key(Slot, KeyName, KeyState),
    /// Nothing is held of a key any more (Q16d).
    Erase(Slot, KeyName),
    /// Nothing is held of any key of a slot any more (Q4, Q14h).
    Wipe(Slot),
}

/// What is durably on disk. Read only: what the acceptor has written since and what is not synced yet it remembers itself.
pub trait View {
    /// The state of a slot; `None` when this store has never seen it.
    fn slot(&self, slot: Slot) -> Option<SlotState>;
    /// The state of a key.
    fn key(&self, slot: Slot, key: &KeyName) -> Option<KeyState>;
    /// Keys of a slot in order, after `after`, at most `max`.
    fn keys(&self, slot: Slot, after: Option<&KeyName>, max: usize) -> Vec<(KeyName, KeyState)>;
}

/// A place in the order in which an acceptor wrote its rows: when the disk has synced one, it has synced all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place(pub u64);

impl Place {
    /// Of what is remembered and never written: only a broken rule has such rows.
    pub(crate) const NEVER: Self = Self(u64::MAX);
}

/// Rows that are written and not synced, over the durable ones.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    slots: BTreeMap<Slot, (SlotState, Place)>,
    keys: BTreeMap<Slot, BTreeMap<KeyName, (Option<KeyState>, Place)>>,
    wiped: BTreeMap<Slot, Place>,
}

impl Staged {
    pub(crate) fn stage(&mut self, row: &Row, place: Place) {
        match row {
            Row::Slot(slot, state) => drop(self.slots.insert(*slot, (*state, place))),
            Row::Key(slot, key, state) => drop(self.of(*slot).insert(key.clone(), (Some(state.clone()), place))),
            Row::Erase(slot, key) => drop(self.of(*slot).insert(key.clone(), (None, place))),
            Row::Wipe(slot) => {
                self.keys.remove(slot);
                self.wiped.insert(*slot, place);
            }
        }
    }

    fn of(&mut self, slot: Slot) -> &mut BTreeMap<KeyName, (Option<KeyState>, Place)> {
        self.keys.entry(slot).or_default()
    }

    /// The disk has synced everything up to `through`: the view shows it from now on.
    pub(crate) fn synced(&mut self, through: Place) {
        self.slots.retain(|_, (_, place)| *place > through);
        self.wiped.retain(|_, place| *place > through);
        self.keys.retain(|_, keys| {
            keys.retain(|_, (_, place)| *place > through);
            !keys.is_empty()
        });
    }

    pub(crate) fn slot(&self, view: &impl View, slot: Slot) -> Option<SlotState> {
        self.slots.get(&slot).map_or_else(|| view.slot(slot), |(state, _)| Some(*state))
    }

    pub(crate) fn key(&self, view: &impl View, slot: Slot, key: &KeyName) -> Option<KeyState> {
        match self.keys.get(&slot).and_then(|keys| keys.get(key)) {
            Some((state, _)) => state.clone(),
            None if self.wiped.contains_key(&slot) => None,
            None => view.key(slot, key),
        }
    }

    /// At most `max` keys after `after`, and whether there are more.
    pub(crate) fn page(&self, view: &impl View, slot: Slot, after: Option<&KeyName>, max: usize) -> (Vec<(KeyName, KeyState)>, bool) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let over: Vec<_> = self.keys.get(&slot).into_iter().flat_map(|keys| keys.range::<KeyName, _>((from, Bound::Unbounded))).collect();
        // Each staged row can hide one durable row at most.
        let asked = max + 1 + over.len();
        let below = if self.wiped.contains_key(&slot) { Vec::new() } else { view.keys(slot, after, asked) };
        let mut merged: BTreeMap<KeyName, KeyState> = below.into_iter().collect();
        for (key, (state, _)) in over {
            match state {
                Some(state) => drop(merged.insert(key.clone(), state.clone())),
                None => drop(merged.remove(key)),
            }
        }
        let more = merged.len() > max;
        (merged.into_iter().take(max).collect(), more)
    }

    /// Whether a read of that key, or of the slot's state, sees anything that could still be lost.
    pub(crate) fn is_unsynced(&self, slot: Slot, key: Option<&KeyName>) -> bool {
        let pending = |place: Place| place != Place::NEVER;
        let in_slot = self.slots.get(&slot).is_some_and(|(_, place)| pending(*place));
        let wiped = self.wiped.get(&slot).is_some_and(|place| pending(*place));
        let keys = self.keys.get(&slot);
        let in_keys = match key {
            Some(key) => keys.and_then(|keys| keys.get(key)).is_some_and(|(_, place)| pending(*place)),
            None => keys.is_some_and(|keys| keys.values().any(|(_, place)| pending(*place))),
        };
        in_slot || wiped || in_keys
    }
}
