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

use isochrone_ident::{Epoch, NodeId, SLOTS, Slot};
use serde::{Deserialize, Serialize};

use crate::{ClassPlacement, Phase, SlotTable};

/// The join epochs of one class, kept beside it and brought along with it: see [`Joins::followed`] and [`Joins::of_remains`]. One epoch for each cell of
/// its tables; 160 KiB for five replicas of a slot. Cloning shares them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(from = "Wire", into = "Wire")]
pub struct Joins {
    current: Arc<[Epoch]>,
    next: Option<Arc<[Epoch]>>,
}

#[derive(Serialize, Deserialize)]
struct Wire(Vec<Epoch>, Option<Vec<Epoch>>);

impl Joins {
    /// The joins when all replicas of the current table came with its epoch, and those of the next one come with that.
    #[must_use]
    pub fn together(class: &ClassPlacement) -> Self {
        let stable = ClassPlacement::stable(class.epoch, class.current().clone());
        Self { current: each(class.current(), |_, _| class.epoch), next: None }.followed(&stable, class)
    }

    /// Whether these can be the joins of that class: one for each cell of its tables, none later than the table's epoch.
    #[must_use]
    pub fn fit(&self, class: &ClassPlacement) -> bool {
        let fits = |joins: &[Epoch], table: &SlotTable, epoch| {
            joins.len() == table.depth() * usize::from(SLOTS) && joins.iter().all(|&joined| joined <= epoch)
        };
        let next_fits = match (&self.next, class.next()) {
            (Some(joins), Some(table)) => fits(joins, table, coming(class)),
            (None, None) => true,
            _ => false,
        };
        next_fits && fits(&self.current, class.current(), class.epoch)
    }

    /// The joins of `after`, which is `before` (whose joins these are) or came of it by one step: an epoch that began, or slots that have moved.
    #[must_use]
    pub fn followed(&self, before: &ClassPlacement, after: &ClassPlacement) -> Self {
        let begun = |table: &SlotTable| each(table, |slot, node| self.of(before, slot, node).unwrap_or(coming(before)));
        match (before.next(), after.next()) {
            (None, Some(next)) => Self { current: self.current.clone(), next: Some(begun(next)) },
            (None, None) if before.epoch != after.epoch => Self { current: begun(after.current()), next: None },
            (Some(_), None) => Self { current: self.next.clone().unwrap_or_default(), next: None },
            _ => self.clone(),
        }
    }

    /// The joins of what is left of `before` (whose joins these are): whoever was in a set in force stays what it was, and others begin now.
    #[must_use]
    pub fn of_remains(&self, before: &ClassPlacement, after: &ClassPlacement) -> Self {
        let left = |table: &SlotTable| each(table, |slot, node| self.of(before, slot, node).unwrap_or(after.epoch));
        Self { current: left(after.current()), next: after.next().map(left) }
    }

    /// Since which epoch `node` has been in every set of the slot; `None` for one that no set in force names. In JOINT both sets are in force, and a
    /// slot that has moved has only the new one.
    #[must_use]
    pub fn of(&self, class: &ClassPlacement, slot: Slot, node: NodeId) -> Option<Epoch> {
        let in_next = || at(self.next.as_ref()?, class.next()?, slot, node);
        match class.phase(slot) {
            Phase::Stable(epoch) if epoch != class.epoch => in_next(),
            _ => at(&self.current, class.current(), slot, node).or_else(in_next),
        }
    }
}

const fn coming(class: &ClassPlacement) -> Epoch {
    Epoch(class.epoch.0.saturating_add(1))
}

/// One epoch for each cell of the table; what stands in a vacant one means nothing.
fn each(table: &SlotTable, joined: impl Fn(Slot, NodeId) -> Epoch) -> Arc<[Epoch]> {
    let joined = &joined;
    let row = |slot| table.replicas(slot).map(move |node| joined(slot, node)).chain(std::iter::repeat(Epoch(0))).take(table.depth());
    Slot::all().flat_map(row).collect()
}

fn at(joins: &[Epoch], table: &SlotTable, slot: Slot, node: NodeId) -> Option<Epoch> {
    let position = table.replicas(slot).position(|n| n == node)?;
    joins.get(slot.index() * table.depth() + position).copied()
}

impl From<Wire> for Joins {
    fn from(Wire(current, next): Wire) -> Self {
        Self { current: current.into(), next: next.map(Into::into) }
    }
}

impl From<Joins> for Wire {
    fn from(joins: Joins) -> Self {
        Self(joins.current.to_vec(), joins.next.map(|next| next.to_vec()))
    }
}
