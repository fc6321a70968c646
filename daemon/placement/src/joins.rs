//! Since when each replica of a slot has been in its set without a gap (rule Q4 of the strong path): one that left and came back has
//! missed what was decided meanwhile, and starts from empty.
//!
//! ```text
//!   R_1 = a b c    R_2 = b c d    R_3 = a c d          joined
//!       a: 1 ........ out .......... a: 3               a 3
//!       c: 1 ---------- 1 ------------- 1               c 1
//!                       d: 2 ---------- 2               d 2
//! ```

use std::sync::Arc;

use isochrone_ident::{Epoch, NodeId, Slot};
use serde::{Deserialize, Serialize};

use crate::{ClassPlacement, Phase};

/// The join epochs of one class, kept beside it and brought along with it: see [`Joins::followed`]. One epoch for each cell of the current table, from
/// which those of the next one follow; 160 KiB for five replicas of a slot. Cloning shares them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Epoch>", into = "Vec<Epoch>")]
pub struct Joins(Arc<[Epoch]>);

impl Joins {
    /// The joins when all replicas of the current table came with its epoch.
    #[must_use]
    pub fn together(class: &ClassPlacement) -> Self {
        let replicas = Slot::all().flat_map(|slot| class.current().replicas(slot));
        Self(replicas.map(|_| class.epoch).collect())
    }

    /// Whether these can be the joins of that class: one for each replica of the current table, none later than its epoch.
    #[must_use]
    pub fn fit(&self, class: &ClassPlacement) -> bool {
        let replicas = Slot::all().map(|slot| class.current().replicas(slot).len()).sum::<usize>();
        self.0.len() == replicas && self.0.iter().all(|&joined| joined <= class.epoch)
    }

    /// The joins of `after`, which is `before` (whose joins these are) or came of it by one step: an epoch that began, or slots that have moved.
    #[must_use]
    pub fn followed(&self, before: &ClassPlacement, after: &ClassPlacement) -> Self {
        if before.epoch == after.epoch {
            return self.clone();
        }
        let of_slot = |slot| after.current().replicas(slot).map(move |node| self.in_current(before, slot, node).unwrap_or(after.epoch));
        Self(Slot::all().flat_map(of_slot).collect())
    }

    /// Since which epoch `node` has been in every set of the slot; `None` for one that no set in force names. In JOINT both sets are in force, and a
    /// slot that has moved has only the new one.
    #[must_use]
    pub fn of(&self, class: &ClassPlacement, slot: Slot, node: NodeId) -> Option<Epoch> {
        let (mut current, next) = class.write_sets(slot);
        let counts = current.any(|n| n == node) || next.is_some_and(|next| next.contains(node));
        let coming = match class.phase(slot) {
            Phase::Joint { to, .. } | Phase::Stable(to) => to,
        };
        counts.then(|| self.in_current(class, slot, node).unwrap_or(coming))
    }

    fn in_current(&self, class: &ClassPlacement, slot: Slot, node: NodeId) -> Option<Epoch> {
        let table = class.current();
        let position = table.replicas(slot).position(|n| n == node)?;
        self.0.get(slot.index() * table.depth() + position).copied()
    }
}

impl From<Vec<Epoch>> for Joins {
    fn from(joins: Vec<Epoch>) -> Self {
        Self(joins.into())
    }
}

impl From<Joins> for Vec<Epoch> {
    fn from(joins: Joins) -> Self {
        joins.0.to_vec()
    }
}

impl Default for Joins {
    fn default() -> Self {
        Self::together(&ClassPlacement::default())
    }
}
