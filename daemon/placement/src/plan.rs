//! Rules P5 and P7: what a change of tables would move, before it is applied.

use std::collections::BTreeMap;

use isochrone_ident::{NodeId, Slot};
use serde::{Deserialize, Serialize};

use crate::SlotTable;

/// An amount of data: replicas of slots, and the keys and bytes in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Amount {
    /// Replicas of slots.
    pub slots: u64,
    /// Keys in them.
    pub keys: u64,
    /// Bytes in them.
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, keys: u64, bytes: u64) {
        self.slots += 1;
        self.keys = self.keys.saturating_add(keys);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// What one node would gain and lose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeChange {
    /// Replicas that it would be sent.
    pub gained: Amount,
    /// Replicas that it would drop once they have moved.
    pub lost: Amount,
}

/// What going from one table to another would move (P5).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Plan {
    /// Every node that would gain or lose something.
    pub nodes: BTreeMap<NodeId, NodeChange>,
    /// All that would be sent: the sum of what nodes gain.
    pub moved: Amount,
    /// All replicas of the new table, to hold `moved` against.
    pub total: Amount,
    /// How many slots change their replica set.
    pub slots_changed: u64,
}

/// What going from `old` to `new` would move; `slot_keys` gives the keys and bytes in a slot.
pub fn plan(old: &SlotTable, new: &SlotTable, slot_keys: impl Fn(Slot) -> (u64, u64)) -> Plan {
    let mut plan = Plan::default();
    for slot in Slot::all() {
        let (keys, bytes) = slot_keys(slot);
        let (before, after) = (old.replicas(slot), new.replicas(slot));
        for node in before.filter(|node| !after.contains(*node)) {
            plan.nodes.entry(node).or_default().lost.add(keys, bytes);
        }
        for node in after.filter(|node| !before.contains(*node)) {
            plan.nodes.entry(node).or_default().gained.add(keys, bytes);
            plan.moved.add(keys, bytes);
        }
        after.for_each(|_| plan.total.add(keys, bytes));
        plan.slots_changed += u64::from(!before.is_same_set(after));
    }
    plan
}

#[cfg(test)]
mod tests {
    use isochrone_ident::SLOTS;

    use super::*;

    #[test]
    fn p5_a_plan_counts_slots_keys_and_bytes_for_each_node() {
        let nodes: Vec<NodeId> = (0..3).map(NodeId).collect();
        let cells = |row: [u16; 2]| row.repeat(usize::from(SLOTS));
        let mut changed = cells([0, 1]);
        changed[..4].copy_from_slice(&[2, 1, 1, 0]);
        let old = SlotTable::from_parts(2, nodes.clone(), cells([0, 1])).expect("sound");
        let new = SlotTable::from_parts(2, nodes, changed).expect("sound");
        let plan = plan(&old, &new, |slot| (10 + u64::from(slot.number()), 1_000));
        let one = Amount { slots: 1, keys: 10, bytes: 1_000 };
        assert_eq!(plan.nodes.len(), 2);
        assert_eq!(plan.nodes[&NodeId(0)], NodeChange { gained: Amount::default(), lost: one });
        assert_eq!(plan.nodes[&NodeId(2)], NodeChange { gained: one, lost: Amount::default() });
        assert_eq!((plan.moved, plan.slots_changed, plan.total.slots), (one, 1, 8192));
    }

    #[test]
    fn p5_the_same_table_moves_nothing() {
        let plan = plan(&SlotTable::empty(), &SlotTable::empty(), |_| (1, 1));
        assert_eq!(plan, Plan::default());
    }
}
