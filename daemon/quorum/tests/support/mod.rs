//! What tests of the room share.

use std::collections::BTreeMap;
use std::ops::Bound;

use isochrone_ident::Slot;
use isochrone_quorum::{KeyName, KeyState, Row, SlotState, View};

/// What is durable. Tests have one slot, so keys need no slot here.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    pub(crate) slots: BTreeMap<Slot, SlotState>,
    pub(crate) keys: BTreeMap<KeyName, KeyState>,
}

impl Disk {
    pub(crate) fn apply(&mut self, row: Row) {
        match row {
            Row::Slot(slot, state) => drop(self.slots.insert(slot, state)),
            Row::Key(_, key, state) => drop(self.keys.insert(key, state)),
            Row::Erase(_, key) => drop(self.keys.remove(&key)),
            Row::Wipe(_) => self.keys.clear(),
        }
    }
}

impl View for Disk {
    fn slot(&self, slot: Slot) -> Option<SlotState> {
        self.slots.get(&slot).copied()
    }

    fn key(&self, _: Slot, key: &KeyName) -> Option<KeyState> {
        self.keys.get(key).cloned()
    }

    fn walk(&self, _: Slot, after: Option<&KeyName>, visit: &mut dyn FnMut(KeyName, KeyState) -> bool) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rows = self.keys.range::<KeyName, _>((from, Bound::Unbounded));
        while rows.next().is_some_and(|(key, state)| visit(key.clone(), state.clone())) {}
    }
}
