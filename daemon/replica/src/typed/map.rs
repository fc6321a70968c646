//! A map: an observed-remove set of fields, over values that the last writer wins and counters.
//!
//! A value is a member of the set, with its version: setting a field removes the values that were seen and adds the new one, so a set and a remove
//! that did not know of each other leave the value, and of two sets the later version shows. A counter has a mark in the set, with a fresh dot for
//! each add, beside the counter itself: removing it removes the mark and notes how much of each actor's part was seen, which no longer counts. So a
//! remove and an add of 1 that did not know of each other leave 1, on every replica (the map of `crdts` leaves 1 on one and 101 on the other: E1).

use std::collections::BTreeMap;

use bytes::Bytes;
use isochrone_ident::Version;
use serde::{Deserialize, Serialize};

use super::counter::{Bases, Counter};
use super::delta::{Clash, FieldPart};
use super::dots::Dots;

/// A member of the set under a map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Element {
    /// The mark of a counter.
    Counter(Bytes),
    /// A value.
    Value { name: Bytes, version: Version, value: Bytes },
}

impl Element {
    pub(crate) const fn name(&self) -> &Bytes {
        match self {
            Self::Counter(name) | Self::Value { name, .. } => name,
        }
    }
}

/// A counter in a map, shown while its mark is in the set. It outlives its removal, else what its actors have counted would count again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Field {
    pub(crate) counter: Counter,
    /// What removals have seen of it.
    pub(crate) bases: Bases,
}

impl Field {
    pub(crate) fn cover(&mut self, bases: &Bases) {
        for (actor, theirs) in bases {
            let ours = self.bases.entry(*actor).or_default();
            if theirs.revision > ours.revision {
                *ours = *theirs;
            }
        }
    }
}

/// The fields of a map in one life.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Fields {
    pub(crate) elements: Dots<Element>,
    pub(crate) counters: BTreeMap<Bytes, Field>,
}

impl Fields {
    pub(crate) fn join(&mut self, other: &Self) -> Result<(), Clash> {
        self.elements.join(&other.elements)?;
        for (name, theirs) in &other.counters {
            let ours = self.counters.entry(name.clone()).or_default();
            ours.counter.join(&theirs.counter)?;
            ours.cover(&theirs.bases);
        }
        Ok(())
    }

    pub(crate) fn take(&mut self, change: &FieldPart) -> Result<(), Clash> {
        let field = self.counters.entry(change.name.clone()).or_default();
        if let Some((actor, part)) = &change.part {
            field.counter.put(*actor, part)?;
        }
        field.cover(&change.bases);
        Ok(())
    }
}
