//! What an acceptor keeps on disk (Q3), and what of it is written but not synced yet.

use std::collections::{BTreeMap, VecDeque};
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
    /// Visits the keys of a slot in order, those after `after`, until `visit` says that it has enough (false).
    fn walk(&self, slot: Slot, after: Option<&KeyName>, visit: &mut dyn FnMut(KeyName, KeyState) -> bool);
}

/// A place in the order in which an acceptor wrote its rows: when the disk has synced one, it has synced all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place(pub u64);

impl Place {
    /// Of what is remembered and never written: only a broken rule has such rows.
    pub(crate) const NEVER: Self = Self(u64::MAX);
}

/// What a page may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageBounds {
    pub(crate) keys: usize,
    pub(crate) bytes: usize,
}

/// Keys in order, and whether there are more.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) keys: Vec<(KeyName, KeyState)>,
    bytes: usize,
    pub(crate) more: bool,
}

impl Page {
    /// Takes a key if it fits; the first always does. False once one did not.
    fn add(&mut self, key: KeyName, state: KeyState, bounds: PageBounds) -> bool {
        let bytes = key.key.as_bytes().len() + state.bytes();
        let fits = self.keys.len() < bounds.keys && self.bytes + bytes <= bounds.bytes || self.keys.is_empty();
        self.more |= !fits;
        if !self.more {
            self.bytes += bytes;
            self.keys.push((key, state));
        }
        !self.more
    }
}

/// What a staged row is about.
#[derive(Debug, Clone)]
enum Subject {
    Slot(Slot),
    Key(Slot, KeyName),
    Wiped(Slot),
}

/// Rows that are written and not synced, over the durable ones.
#[derive(Debug, Clone, Default)]
pub(crate) struct Staged {
    slots: BTreeMap<Slot, (SlotState, Place)>,
    keys: BTreeMap<Slot, BTreeMap<KeyName, (Option<KeyState>, Place)>>,
    wiped: BTreeMap<Slot, Place>,
    /// What was staged, in order: a sync looks at what it covers, and at nothing else.
    order: VecDeque<(Place, Subject)>,
}

impl Staged {
    pub(crate) fn stage(&mut self, row: &Row, place: Place) {
        let subject = match row {
            Row::Slot(slot, state) => {
                self.slots.insert(*slot, (*state, place));
                Subject::Slot(*slot)
            }
            Row::Key(slot, key, state) => self.stage_key(*slot, key, Some(state.clone()), place),
            Row::Erase(slot, key) => self.stage_key(*slot, key, None, place),
            Row::Wipe(slot) => {
                self.keys.remove(slot);
                self.wiped.insert(*slot, place);
                Subject::Wiped(*slot)
            }
        };
        if place != Place::NEVER {
            self.order.push_back((place, subject));
        }
    }

    fn stage_key(&mut self, slot: Slot, key: &KeyName, state: Option<KeyState>, place: Place) -> Subject {
        self.keys.entry(slot).or_default().insert(key.clone(), (state, place));
        Subject::Key(slot, key.clone())
    }

    /// The disk has synced everything up to `through`: the view shows it from now on.
    pub(crate) fn synced(&mut self, through: Place) {
        while self.order.front().is_some_and(|(place, _)| *place <= through) {
            if let Some((_, subject)) = self.order.pop_front() {
                self.settle(&subject, through);
            }
        }
    }

    /// Drops what is staged of it, unless it has changed since.
    fn settle(&mut self, subject: &Subject, through: Place) {
        match subject {
            Subject::Slot(slot) if self.slots.get(slot).is_some_and(|(_, place)| *place <= through) => drop(self.slots.remove(slot)),
            Subject::Wiped(slot) if self.wiped.get(slot).is_some_and(|place| *place <= through) => drop(self.wiped.remove(slot)),
            Subject::Key(slot, key) => {
                let Some(keys) = self.keys.get_mut(slot) else { return };
                if keys.get(key).is_some_and(|(_, place)| *place <= through) {
                    keys.remove(key);
                }
                if keys.is_empty() {
                    self.keys.remove(slot);
                }
            }
            Subject::Slot(_) | Subject::Wiped(_) => {}
        }
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

    /// A page of the keys after `after`.
    pub(crate) fn page(&self, view: &impl View, slot: Slot, after: Option<&KeyName>, bounds: PageBounds) -> Page {
        let mut page = Page::default();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let staged = self.keys.get(&slot).into_iter().flat_map(|keys| keys.range::<KeyName, _>((from, Bound::Unbounded)));
        let mut staged = staged.map(|(key, (state, _))| (key, state)).peekable();
        let add = |page: &mut Page, key: &KeyName, state: &Option<KeyState>| match state {
            Some(state) => page.add(key.clone(), state.clone(), bounds),
            None => true,
        };
        if !self.wiped.contains_key(&slot) {
            view.walk(slot, after, &mut |key, state| {
                while let Some((before, state)) = staged.next_if(|(staged, _)| **staged < key) {
                    if !add(&mut page, before, state) {
                        return false;
                    }
                }
                match staged.next_if(|(staged, _)| **staged == key) {
                    Some((key, state)) => add(&mut page, key, state),
                    None => page.add(key, state, bounds),
                }
            });
        }
        while !page.more && staged.next().is_some_and(|(key, state)| add(&mut page, key, state)) {}
        page
    }

    /// The last place of what a read of that key, or of the whole slot, sees and could still be lost.
    pub(crate) fn unsynced(&self, slot: Slot, key: Option<&KeyName>) -> Option<Place> {
        let in_slot = self.slots.get(&slot).map(|(_, place)| *place);
        let wiped = self.wiped.get(&slot).copied();
        let keys = self.keys.get(&slot);
        let in_keys = match key {
            Some(key) => keys.and_then(|keys| keys.get(key)).map(|(_, place)| *place),
            None => keys.and_then(|keys| keys.values().map(|(_, place)| *place).filter(|place| *place != Place::NEVER).max()),
        };
        [in_slot, wiped, in_keys].into_iter().flatten().filter(|place| *place != Place::NEVER).max()
    }
}
