//! Placement epochs and how a class of slots goes from one to the next, slot by slot.
//!
//! ```text
//!                begin(next)                    complete(slots) ... the last one
//!   all STABLE(e) ---------> JOINT(e, e+1) ---> moved = STABLE(e+1) ---------> all STABLE(e+1)
//!                              |  a slot whose set is the same, or was empty, ^
//!                              +----------------------------------------------+  counts as moved at once
//! ```

use isochrone_ident::{Epoch, Slot};
use serde::{Deserialize, Serialize};

use crate::{Replicas, SlotSet, SlotTable};

/// Where a slot stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The replica set of this epoch, and no other.
    Stable(Epoch),
    /// Moving: reads go to the set of `from`, writes to both.
    Joint {
        /// The epoch whose set still answers reads.
        from: Epoch,
        /// The epoch whose set is being filled; always the next one.
        to: Epoch,
    },
}

/// Why an epoch did not begin. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BeginError {
    /// The last epoch's slots have not all moved yet: at most two sets are live for a slot.
    #[error("epoch {0} is still being moved to")]
    Moving(Epoch),
    /// The next table has no nodes, and the current one has: it would drop all data.
    #[error("the next table has no nodes")]
    NoNodes,
}

/// A class that cannot be: what a peer or a disk gave is inconsistent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("slots count as moved although nothing moves, or all have moved and the epoch has not changed")]
pub struct InvalidClass;

/// The placement of one class of slots (eventual or strong): the table of the current epoch, and while slots move the next one. Changed only by
/// the council's commands, in their order, so that every node has the same.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct ClassPlacement {
    /// The current epoch, e of STABLE(e) and JOINT(e, e+1). It only grows, by one each time that all slots have moved.
    pub epoch: Epoch,
    current: SlotTable,
    next: Option<SlotTable>,
    moved: SlotSet,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    epoch: Epoch,
    current: SlotTable,
    next: Option<SlotTable>,
    moved: SlotSet,
}

impl ClassPlacement {
    /// All slots STABLE in this epoch.
    #[must_use]
    pub fn stable(epoch: Epoch, table: SlotTable) -> Self {
        Self { epoch, current: table, next: None, moved: SlotSet::default() }
    }

    /// The table of the current epoch.
    #[must_use]
    pub const fn current(&self) -> &SlotTable {
        &self.current
    }

    /// The table of the next epoch, while slots move to it.
    #[must_use]
    pub const fn next(&self) -> Option<&SlotTable> {
        self.next.as_ref()
    }

    /// Where the slot stands.
    #[must_use]
    pub fn phase(&self, slot: Slot) -> Phase {
        let to = Epoch(self.epoch.0.saturating_add(1));
        match (self.is_moving(), self.moved.contains(slot)) {
            (false, _) => Phase::Stable(self.epoch),
            (true, true) => Phase::Stable(to),
            (true, false) => Phase::Joint { from: self.epoch, to },
        }
    }

    /// The replicas that answer reads: R_e, and R_{e+1} once this slot has moved. Allocates nothing.
    #[must_use]
    pub fn read_set(&self, slot: Slot) -> Replicas<'_> {
        match &self.next {
            Some(next) if self.moved.contains(slot) => next.replicas(slot),
            _ => self.current.replicas(slot),
        }
    }

    /// The replicas that take writes: the read set, and while the slot is JOINT also R_{e+1}. A node may be in both. Allocates nothing.
    #[must_use]
    pub fn write_sets(&self, slot: Slot) -> (Replicas<'_>, Option<Replicas<'_>>) {
        let filling = self.next.as_ref().filter(|_| !self.moved.contains(slot));
        (self.read_set(slot), filling.map(|next| next.replicas(slot)))
    }

    /// Whether any slot is JOINT.
    #[must_use]
    pub const fn is_moving(&self) -> bool {
        self.next.is_some()
    }

    /// The slots that are JOINT, in order.
    pub fn moving_slots(&self) -> impl Iterator<Item = Slot> + '_ {
        Slot::all().filter(|&slot| self.is_moving() && !self.moved.contains(slot))
    }

    /// Begins the next epoch. Slots whose set stays the same, order included (a namespace with fewer replicas uses the first ones), or was empty, count as moved at once; if that is all of them, the
    /// class is in the next epoch when this returns.
    ///
    /// # Errors
    /// [`BeginError`]; nothing has changed then.
    pub fn begin(&mut self, next: SlotTable) -> Result<(), BeginError> {
        if self.is_moving() {
            return Err(BeginError::Moving(Epoch(self.epoch.0.saturating_add(1))));
        }
        if next.members().is_empty() && !self.current.members().is_empty() {
            return Err(BeginError::NoNodes);
        }
        let nothing_to_move = |slot: &Slot| {
            let (old, new) = (self.current.replicas(*slot), next.replicas(*slot));
            old.is_empty() || old.eq(new)
        };
        self.moved = Slot::all().filter(nothing_to_move).collect();
        self.next = Some(next);
        self.finish();
        Ok(())
    }

    /// Notes that these slots have moved; noting one again changes nothing. True when they were the last ones: the class is now STABLE in the next
    /// epoch. False, and without effect, when nothing is moving.
    pub fn complete(&mut self, slots: impl IntoIterator<Item = Slot>) -> bool {
        if !self.is_moving() {
            return false;
        }
        self.moved.extend(slots);
        self.finish()
    }

    /// The same slots as moved as they are, in another epoch and other tables; `next` as long as any moves.
    pub(crate) fn replaced(&self, epoch: Epoch, current: SlotTable, next: Option<SlotTable>) -> Self {
        Self { epoch, current, next, moved: self.moved.clone() }
    }

    fn finish(&mut self) -> bool {
        match self.next.take_if(|_| self.moved.is_full()) {
            Some(next) => {
                *self = Self::stable(Epoch(self.epoch.0.saturating_add(1)), next);
                true
            }
            None => false,
        }
    }
}

impl TryFrom<Wire> for ClassPlacement {
    type Error = InvalidClass;

    fn try_from(Wire { epoch, current, next, moved }: Wire) -> Result<Self, InvalidClass> {
        let sound = if next.is_some() { !moved.is_full() } else { moved.is_empty() };
        if sound { Ok(Self { epoch, current, next, moved }) } else { Err(InvalidClass) }
    }
}

impl From<ClassPlacement> for Wire {
    fn from(ClassPlacement { epoch, current, next, moved }: ClassPlacement) -> Self {
        Self { epoch, current, next, moved }
    }
}

/// The placement of all slots: the flat table that the request path reads (P4).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Placement {
    /// For eventual namespaces.
    pub eventual: ClassPlacement,
    /// For strong namespaces.
    pub strong: ClassPlacement,
}

#[cfg(test)]
mod tests {
    use isochrone_ident::{NodeId, SLOTS};

    use super::*;

    fn table(row: &[u16]) -> SlotTable {
        let nodes = (0..4).map(NodeId).collect();
        SlotTable::from_parts(row.len() as u8, nodes, row.repeat(usize::from(SLOTS))).expect("a sound table")
    }

    fn changed_at(slot: usize, row: &[u16], other: &[u16]) -> SlotTable {
        let mut cells = row.repeat(usize::from(SLOTS));
        cells[slot * row.len()..][..row.len()].copy_from_slice(other);
        SlotTable::from_parts(row.len() as u8, (0..4).map(NodeId).collect(), cells).expect("a sound table")
    }

    fn ids(replicas: Replicas<'_>) -> Vec<u128> {
        replicas.map(|node| node.0).collect()
    }

    #[test]
    fn a_slot_is_read_where_it_was_until_it_has_moved_and_written_at_both() {
        let (still, moving) = (Slot::of_hash(1), Slot::of_hash(2));
        let mut class = ClassPlacement::stable(Epoch(7), table(&[0, 1]));
        assert_eq!(class.phase(moving), Phase::Stable(Epoch(7)));
        class.begin(changed_at(2, &[0, 1], &[1, 3])).expect("all were stable");
        assert_eq!(class.moving_slots().collect::<Vec<_>>(), [moving]);
        assert_eq!(class.phase(still), Phase::Stable(Epoch(8)));
        assert!(class.write_sets(still).1.is_none());
        assert_eq!(class.phase(moving), Phase::Joint { from: Epoch(7), to: Epoch(8) });
        assert_eq!(ids(class.read_set(moving)), [0, 1]);
        assert_eq!(class.write_sets(moving).1.map(ids), Some(vec![1, 3]));
        assert!(!class.complete([still]));
        assert!(class.complete([moving]));
        assert_eq!((class.phase(moving), class.epoch), (Phase::Stable(Epoch(8)), Epoch(8)));
        assert_eq!(ids(class.read_set(moving)), [1, 3]);
        assert!(!class.is_moving() && !class.complete([moving]));
    }

    #[test]
    fn a_moved_slot_is_read_and_written_at_its_new_set_while_others_still_move() {
        let mut class = ClassPlacement::stable(Epoch(1), table(&[0, 1]));
        class.begin(table(&[2, 3])).expect("all were stable");
        assert_eq!(class.moving_slots().count(), usize::from(SLOTS));
        assert!(!class.complete(Slot::all().take(100)));
        let slot = Slot::of_hash(99);
        assert_eq!(class.phase(slot), Phase::Stable(Epoch(2)));
        assert_eq!((ids(class.read_set(slot)), class.write_sets(slot).1.is_none()), (vec![2, 3], true));
        assert_eq!(class.begin(table(&[0, 1])), Err(BeginError::Moving(Epoch(2))));
    }

    #[test]
    fn an_epoch_that_moves_nothing_is_done_at_once() {
        let mut class = ClassPlacement::default();
        class.begin(table(&[0, 1])).expect("nothing was placed");
        assert_eq!((class.epoch, class.is_moving()), (Epoch(1), false));
        class.begin(table(&[0, 1])).expect("all are stable");
        assert_eq!((class.epoch, class.is_moving()), (Epoch(2), false));
        assert_eq!(ids(class.read_set(Slot::of_hash(0))), [0, 1]);
        assert_eq!(class.begin(SlotTable::empty()), Err(BeginError::NoNodes));
        assert_eq!(class.epoch, Epoch(2));
    }

    #[test]
    fn a_set_in_another_order_moves_because_a_namespace_may_use_its_first_replicas_only() {
        let mut class = ClassPlacement::stable(Epoch(1), table(&[0, 1]));
        class.begin(table(&[1, 0])).expect("all are stable");
        assert_eq!(class.moving_slots().count(), usize::from(SLOTS));
        assert_eq!(ids(class.read_set(Slot::of_hash(0))), [0, 1]);
    }

    #[test]
    fn a_class_reads_back_as_it_was_written_and_an_inconsistent_one_does_not_decode() {
        let mut class = ClassPlacement::stable(Epoch(3), table(&[0, 1]));
        class.begin(table(&[2, 1])).expect("all were stable");
        class.complete(Slot::all().skip(9));
        let placement = Placement { eventual: class.clone(), strong: ClassPlacement::default() };
        let bytes = postcard::to_allocvec(&placement).expect("encodes");
        assert_eq!(postcard::from_bytes::<Placement>(&bytes), Ok(placement));
        let moved_without_next = Wire { next: None, ..class.clone().into() };
        let all_moved = Wire { moved: Slot::all().collect(), ..class.into() };
        for bad in [moved_without_next, all_moved] {
            let bytes = postcard::to_allocvec(&bad).expect("encodes");
            assert!(postcard::from_bytes::<ClassPlacement>(&bytes).is_err());
        }
    }
}
