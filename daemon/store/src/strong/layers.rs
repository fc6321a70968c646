//! States that are in the log and not yet in the tables.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use isochrone_ident::{Namespace, Slot};
use isochrone_quorum::{KeyName, KeyState, Row, SlotState};

use super::memory::state_bytes;
use super::rows::Head;

/// What one round has changed, of some slots.
#[derive(Default)]
pub(super) struct Layer {
    slots: BTreeMap<Slot, SlotLayer>,
    /// By the count of [`state_bytes`].
    pub(super) bytes: u64,
}

/// What a round has changed of one slot: first the wipe, then the rest.
#[derive(Default)]
pub(super) struct SlotLayer {
    pub(super) is_wiped: bool,
    state: Option<SlotState>,
    pub(super) keys: BTreeMap<KeyName, Option<KeyState>>,
}

/// What layers say of a key: its state or its absence, or nothing.
pub(super) type Said = Option<Option<KeyState>>;

impl Layer {
    pub(super) fn apply(&mut self, row: &Row) {
        match row {
            Row::Slot(slot, state) => self.of(*slot).state = Some(*state),
            Row::Key(slot, name, state) => self.put(*slot, name, Some(state.clone())),
            Row::Erase(slot, name) => self.put(*slot, name, None),
            Row::Wipe(slot) => {
                let layer = self.of(*slot);
                layer.is_wiped = true;
                let keys = std::mem::take(&mut layer.keys);
                self.bytes -= keys.iter().map(|(name, state)| bytes(name, state.as_ref())).sum::<u64>();
            }
        }
    }

    fn of(&mut self, slot: Slot) -> &mut SlotLayer {
        self.slots.entry(slot).or_default()
    }

    fn put(&mut self, slot: Slot, name: &KeyName, state: Option<KeyState>) {
        let added = bytes(name, state.as_ref());
        let replaced = self.of(slot).keys.insert(name.clone(), state);
        self.bytes = self.bytes + added - replaced.map_or(0, |replaced| bytes(name, replaced.as_ref()));
    }

    pub(super) fn key(&self, slot: Slot, name: &KeyName) -> Said {
        let layer = self.slots.get(&slot)?;
        layer.keys.get(name).cloned().or(layer.is_wiped.then_some(None))
    }

    /// What this layer says of the keys of a slot after `after`, put over what the one below said. Tells whether it wipes what lies below.
    pub(super) fn cover(&self, slot: Slot, after: Option<&KeyName>, keys: &mut BTreeMap<KeyName, Option<KeyState>>) -> bool {
        let Some(layer) = self.slots.get(&slot) else { return false };
        if layer.is_wiped {
            keys.clear();
        }
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        keys.extend(layer.keys.range::<KeyName, _>((from, Bound::Unbounded)).map(|(name, state)| (name.clone(), state.clone())));
        layer.is_wiped
    }

    /// The same for a listing across slots.
    pub(super) fn cover_names(&self, ns: &Namespace, prefix: &[u8], names: &mut Names) {
        for (slot, layer) in &self.slots {
            if layer.is_wiped {
                names.wiped.insert(*slot);
                names.keys.retain(|_, (held, _)| held != slot);
            }
            let wanted = layer.keys.iter().filter(|(name, _)| name.namespace == *ns && name.key.as_bytes().starts_with(prefix));
            names.keys.extend(wanted.map(|(name, state)| (name.clone(), (*slot, state.as_ref().map(Head::of)))));
        }
    }

    /// The rows that bring the tables up with this layer, in the order of the tables.
    pub(super) fn rows(&self) -> impl Iterator<Item = Row> {
        self.slots.iter().flat_map(|(slot, layer)| {
            let first = layer.is_wiped.then_some(Row::Wipe(*slot)).into_iter().chain(layer.state.map(|state| Row::Slot(*slot, state)));
            first.chain(layer.keys.iter().map(|(name, state)| match state {
                Some(state) => Row::Key(*slot, name.clone(), state.clone()),
                None => Row::Erase(*slot, name.clone()),
            }))
        })
    }

    pub(super) fn into_slots(self) -> BTreeMap<Slot, SlotLayer> {
        self.slots
    }
}

/// What layers say of the names of a namespace.
#[derive(Default)]
pub(super) struct Names {
    pub(super) keys: BTreeMap<KeyName, (Slot, Option<Head>)>,
    pub(super) wiped: BTreeSet<Slot>,
}

fn bytes(name: &KeyName, state: Option<&KeyState>) -> u64 {
    state.map_or(name.key.as_bytes().len() + 100, |state| state_bytes(name, state)) as u64
}
