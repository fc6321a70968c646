//! What is left of a class of slots whose data is decided by majorities when nodes are lost for good.
//!
//! ```text
//!   {a b c}, c lost:     a majority is left: the set stays, and is moved like any other
//!   {a b},   b lost:     {a}      nothing is lost: each of two had all that was chosen
//!   {a b c}, b, c lost:  {a}      what only b and c had is lost, and what a alone had counts from now on
//!   {b c d}, all lost:   a new set, which begins empty
//! ```
//!
//! All slots go to a later epoch together, each as stable or as moving as it was, so that whoever knows only the sets before is told of the new
//! ones before it decides anything. Whoever was in a set keeps what it has of the slot.
//!
//! Why what is left of a set is asked *whole*: sets have at most five replicas, so of one that lost its majority at most two are left, and of two a
//! majority is both. So the first round after the cut sees the highest record that anybody left has; none could be passed over.

use isochrone_ident::{Epoch, NodeId, Slot};

use crate::{ClassPlacement, Replicas, SlotTable};

/// A set that lost its majority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Whose.
    pub slot: Slot,
    /// How many replicas it had.
    pub had: usize,
    /// How many are left, half of them at most.
    pub left: usize,
}

impl Cut {
    /// Whether every majority of what was there meets every majority of what is left, so that nothing that was chosen is lost.
    #[must_use]
    pub const fn loses_nothing(self) -> bool {
        self.left > 0 && self.had / 2 + 1 + self.left / 2 + 1 > self.had
    }
}

impl ClassPlacement {
    /// The sets in force that lose their majority without the lost ones; a slot that is moving has two.
    pub fn cuts(&self, is_lost: impl Fn(NodeId) -> bool) -> impl Iterator<Item = Cut> {
        let in_force = |slot| {
            let (current, next) = self.write_sets(slot);
            [Some(current), next].into_iter().flatten().map(move |set| (slot, set))
        };
        let cut = move |(slot, set): (Slot, Replicas<'_>)| {
            let left = set.filter(|&node| !is_lost(node)).count();
            (left * 2 <= set.len()).then_some(Cut { slot, had: set.len(), left })
        };
        Slot::all().flat_map(in_force).filter_map(cut)
    }

    /// What is left without the lost ones, an epoch later: sets that keep their majority stay whole, of others those left stay. Where nobody is left of
    /// one of a moving slot's sets, the other stands for it; where nobody is left at all, the slot begins anew at its replicas in `anew`, a table of
    /// nodes that are not lost.
    #[must_use]
    pub fn without(&self, is_lost: impl Fn(NodeId) -> bool, anew: &SlotTable) -> Self {
        let left = |set: Replicas<'_>| -> Vec<NodeId> {
            let left: Vec<NodeId> = set.filter(|&node| !is_lost(node)).collect();
            if left.len() * 2 > set.len() { set.collect() } else { left }
        };
        let or_anew = |set: Vec<NodeId>, slot| if set.is_empty() { anew.replicas(slot).collect() } else { set };
        let (mut current, mut next) = (Vec::new(), Vec::new());
        for slot in Slot::all() {
            match self.write_sets(slot) {
                (from, Some(to)) => {
                    let (from, to) = (left(from), left(to));
                    let (stands_for_from, stands_for_to) =
                        (if from.is_empty() { &to } else { &from }, if to.is_empty() { &from } else { &to });
                    current.push(or_anew(stands_for_from.clone(), slot));
                    next.push(or_anew(stands_for_to.clone(), slot));
                }
                (set, None) => {
                    let set = or_anew(left(set), slot);
                    current.push(set.clone());
                    next.push(set);
                }
            }
        }
        let next = self.is_moving().then(|| SlotTable::of_rows(&next));
        self.replaced(Epoch(self.epoch.0.saturating_add(1)), SlotTable::of_rows(&current), next)
    }
}

#[cfg(test)]
mod tests {
    use isochrone_ident::SLOTS;

    use super::*;
    use crate::{Joins, Phase};

    fn table(row: &[u128]) -> SlotTable {
        let row: Vec<NodeId> = row.iter().copied().map(NodeId).collect();
        SlotTable::of_rows(&vec![row; usize::from(SLOTS)])
    }

    fn ids(replicas: Replicas<'_>) -> Vec<u128> {
        replicas.map(|node| node.0).collect()
    }

    fn sets(class: &ClassPlacement, slot: Slot) -> (Vec<u128>, Option<Vec<u128>>) {
        let (current, next) = class.write_sets(slot);
        (ids(current), next.map(ids))
    }

    fn moving(from: &[u128], to: &[u128]) -> ClassPlacement {
        let mut class = ClassPlacement::stable(Epoch(4), table(from));
        class.begin(table(to)).expect("all were stable");
        class
    }

    fn remains(class: &ClassPlacement, lost: &[u128]) -> ClassPlacement {
        class.without(|node| lost.contains(&node.0), &table(&[8, 9]))
    }

    #[test]
    fn a_cut_loses_nothing_exactly_if_all_majorities_of_both_sets_meet() {
        for had in 1..=5_usize {
            for left in 0..=had / 2 {
                let majorities = |of: usize| (0_u32..1 << of).filter(move |set| set.count_ones() as usize > of / 2);
                let meet = left > 0 && majorities(had).all(|old| majorities(left).all(|new| old & new != 0));
                assert_eq!(Cut { slot: Slot::of_hash(0), had, left }.loses_nothing(), meet, "{left} of {had}");
                assert!(left <= 2, "and of two both are asked");
            }
        }
    }

    #[test]
    fn sets_with_a_majority_stay_and_of_others_those_left() {
        let slot = Slot::of_hash(3);
        let class = ClassPlacement::stable(Epoch(4), table(&[1, 2, 3]));
        assert_eq!(class.cuts(|node| node == NodeId(3)).count(), 0);
        assert_eq!(sets(&remains(&class, &[3]), slot), (vec![1, 2, 3], None));
        let lost = |node| node != NodeId(2);
        assert_eq!(class.cuts(lost).next(), Some(Cut { slot: Slot::of_hash(0), had: 3, left: 1 }));
        let left = remains(&class, &[1, 3]);
        assert_eq!((sets(&left, slot), left.phase(slot)), ((vec![2], None), Phase::Stable(Epoch(5))));
        assert_eq!(sets(&remains(&class, &[1, 2, 3]), slot), (vec![8, 9], None), "nobody is left");
    }

    #[test]
    fn a_moving_slot_goes_on_moving_between_what_is_left() {
        let slot = Slot::of_hash(3);
        let class = moving(&[1, 2, 3], &[3, 4, 5]);
        let left = remains(&class, &[1, 2]);
        assert_eq!((sets(&left, slot), left.phase(slot)), ((vec![3], Some(vec![3, 4, 5])), Phase::Joint { from: Epoch(5), to: Epoch(6) }));
        assert_eq!(
            sets(&remains(&class, &[1, 2, 3]), slot),
            (vec![3, 4, 5], Some(vec![3, 4, 5])),
            "who was moved to stands for who is gone"
        );
        assert_eq!(sets(&remains(&class, &[3, 4, 5]), slot), (vec![1, 2, 3], Some(vec![1, 2, 3])));
        assert_eq!(sets(&remains(&class, &[1, 2, 3, 4, 5]), slot), (vec![8, 9], Some(vec![8, 9])));
    }

    #[test]
    fn a_slot_that_has_moved_stays_so_and_its_new_replicas_keep_what_they_have() {
        let (moved, still) = (Slot::of_hash(3), Slot::of_hash(4));
        let stable = ClassPlacement::stable(Epoch(4), table(&[1, 2, 3]));
        let mut class = stable.clone();
        class.begin(table(&[4, 5, 6])).expect("all were stable");
        let joins = Joins::together(&stable).followed(&stable, &class);
        class.complete([moved]);
        let left = remains(&class, &[2, 3, 5, 6]);
        assert_eq!((sets(&left, moved), left.phase(moved)), ((vec![4], None), Phase::Stable(Epoch(6))));
        assert_eq!(sets(&left, still), (vec![1], Some(vec![4])));
        let joins = joins.of_remains(&class, &left);
        assert!(joins.fit(&left));
        let joined = |slot, node| joins.of(&left, slot, NodeId(node));
        assert_eq!((joined(moved, 4), joined(still, 4), joined(still, 1)), (Some(Epoch(5)), Some(Epoch(5)), Some(Epoch(4))), "Q4");
        assert_eq!((joined(moved, 1), joined(moved, 6)), (None, None));
        let anew = class.without(|_| true, &table(&[8, 9]));
        assert_eq!(Joins::together(&stable).of_remains(&class, &anew).of(&anew, still, NodeId(8)), Some(Epoch(5)), "from empty");
    }

    #[test]
    fn sets_of_different_sizes_read_back_as_they_were_written() {
        let mut rows = vec![vec![NodeId(1), NodeId(2)]; usize::from(SLOTS)];
        rows[7] = vec![NodeId(2)];
        let table = SlotTable::of_rows(&rows);
        assert_eq!((ids(table.replicas(Slot::of_hash(7))), table.loads()), (vec![2], vec![4095, 4096]));
        let bytes = postcard::to_allocvec(&table).expect("encodes");
        assert_eq!(postcard::from_bytes::<SlotTable>(&bytes), Ok(table.clone()));
        assert!(!table.slots_of(NodeId(1)).any(|slot| slot == Slot::of_hash(7)));
    }
}
