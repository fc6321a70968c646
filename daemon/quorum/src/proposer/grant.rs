//! Q18d, e: what slots' promises grant.

use std::collections::BTreeMap;

use isochrone_ident::Slot;

use super::memory::Warm;
use crate::{Accepted, Ballot, KeyName, Phase};

/// What a slot's promise grants. Lives in memory, in one phase (Q18e).
#[derive(Debug, Clone)]
pub(super) struct Grant {
    pub(super) phase: Phase,
    pub(super) ballot: Ballot,
    /// Listed keys, and those that were granted since. A key that is not in it was absent at a quorum and is granted.
    pub(super) keys: BTreeMap<KeyName, Granted>,
}

#[derive(Debug, Clone)]
pub(super) enum Granted {
    /// May be proposed once under the slot's ballot, from this.
    Open(Option<Accepted>),
    /// Proposed already, or promised to somebody else, or too large to be kept.
    Closed,
}

/// What a list holds of a key beside its name and its record, about.
pub(super) const KEY_BYTES: usize = 128;

/// About how many bytes a key of a grant takes.
pub(super) fn bytes_of(key: &KeyName, accepted: Option<&Accepted>) -> usize {
    KEY_BYTES + key.key.as_bytes().len() + accepted.map_or(0, |accepted| accepted.envelope.bytes())
}

impl Granted {
    fn bytes(&self, key: &KeyName) -> usize {
        match self {
            Self::Open(accepted) => bytes_of(key, accepted.as_ref()),
            Self::Closed => bytes_of(key, None),
        }
    }
}

/// The grants of all slots, counted together.
#[derive(Debug, Clone, Default)]
pub(super) struct Grants {
    slots: BTreeMap<Slot, Grant>,
    bytes: usize,
}

impl Grants {
    /// About how many bytes they take.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The slot's ballot under which its keys are granted.
    pub(super) fn ballot(&self, slot: Slot) -> Option<Ballot> {
        self.slots.get(&slot).map(|grant| grant.ballot)
    }

    pub(super) fn insert(&mut self, slot: Slot, grant: Grant) {
        self.end(slot);
        self.bytes += grant.keys.iter().map(|(key, granted)| granted.bytes(key)).sum::<usize>();
        self.slots.insert(slot, grant);
    }

    /// Ends the grants of a slot.
    pub(super) fn end(&mut self, slot: Slot) -> Option<Grant> {
        let grant = self.slots.remove(&slot)?;
        self.bytes -= grant.keys.iter().map(|(key, granted)| granted.bytes(key)).sum::<usize>();
        Some(grant)
    }

    /// A floor at or above the slot's ballot ends the grants (Q18g).
    pub(super) fn end_at_floor(&mut self, slot: Slot, floor: u64) {
        if self.slots.get(&slot).is_some_and(|grant| grant.ballot.counter <= floor) {
            self.end(slot);
        }
    }

    /// Whether a key would be given in that phase.
    pub(super) fn is_open(&self, slot: Slot, key: &KeyName, phase: Phase) -> bool {
        let grant = self.slots.get(&slot).filter(|grant| grant.phase == phase);
        grant.is_some_and(|grant| !matches!(grant.keys.get(key), Some(Granted::Closed)))
    }

    /// What a grant gives for a key's first write in that phase, or in any for `None`. Given once: after that the key is warm, or prepared (Q18d). A slot
    /// in which more than so many keys were given, or with which all grants are too large, is granted no longer.
    pub(super) fn take(&mut self, slot: Slot, key: &KeyName, phase: Option<Phase>, bounds: GrantBounds) -> Option<Warm> {
        let grant = self.slots.get_mut(&slot).filter(|grant| phase.is_none_or(|phase| grant.phase == phase))?;
        let (ballot, phase) = (grant.ballot, phase.unwrap_or(grant.phase));
        let before = grant.keys.insert(key.clone(), Granted::Closed);
        let count = grant.keys.len();
        self.bytes += bytes_of(key, None);
        self.bytes -= before.as_ref().map_or(0, |before| before.bytes(key));
        if count > bounds.keys || self.bytes > bounds.bytes {
            self.end(slot);
        }
        match before.unwrap_or(Granted::Open(None)) {
            Granted::Open(accepted) => Some(Warm { phase, ballot, accepted }),
            Granted::Closed => None,
        }
    }

    /// Breaks Q18d on purpose: the key may be given again.
    pub(super) fn give_back(&mut self, slot: Slot, key: &KeyName, accepted: Option<Accepted>) {
        if let Some(grant) = self.slots.get_mut(&slot) {
            self.bytes += bytes_of(key, accepted.as_ref());
            let before = grant.keys.insert(key.clone(), Granted::Open(accepted));
            self.bytes -= before.map_or(0, |before| before.bytes(key));
        }
    }

    /// Breaks Q18e on purpose: takes over the grants of a life before, as they were given.
    pub(super) fn inherit(&mut self, before: &mut Self) {
        for (slot, mut grant) in std::mem::take(&mut before.slots) {
            grant.keys.retain(|_, granted| matches!(granted, Granted::Open(_)));
            self.insert(slot, grant);
        }
    }
}

/// How much is granted: keys of a slot, and bytes of all.
#[derive(Debug, Clone, Copy)]
pub(super) struct GrantBounds {
    pub(super) keys: usize,
    pub(super) bytes: usize,
}
