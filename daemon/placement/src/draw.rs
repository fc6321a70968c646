//! The draw of a node for a slot: weighted rendezvous hashing (P2) with a hash that is ours and never changes.

use std::hash::{Hash, Hasher};

use isochrone_ident::{NodeId, Slot};
use rendezvous_hash::types::SignPositiveF64;
use rendezvous_hash::{Capacity, IdNode, Node, NodeHasher, WeightedNode};
use xxhash_rust::xxh3::xxh3_64;

/// What a node drew for a slot: `ln(u) / weight` with u uniform in 0..1; the greatest wins. Negated it is the arrival time of a Poisson process
/// of rate `weight` (the logarithmic method of Schindelhauer and Schomaker 2005, "Weighted Distributed Hash Tables", section 3).
pub(crate) type Draw = SignPositiveF64;

/// One node that draws.
#[derive(Debug, Clone)]
pub(crate) struct Drawer(WeightedNode<IdNode<u64>>);

impl Drawer {
    /// A node's drawer. `weight` is above zero: a capacity times a factor.
    pub(crate) fn new(node: NodeId, weight: f64) -> Self {
        let capacity =
            Capacity::new(weight).expect("a capacity of at least 0.01 times a factor of at least 0.5 is a normal, positive number");
        Self(WeightedNode::new(IdNode::new(xxh3_64(&node.0.to_le_bytes())), capacity))
    }

    /// What the node draws for the slot.
    pub(crate) fn draw(&self, slot: Slot) -> Draw {
        self.0.hash_code(&FixedHasher, &u64::from(slot.number()))
    }

    /// What the node would draw for the slot if it weighed `factor` times as much.
    pub(crate) fn raised(&self, slot: Slot, factor: f64) -> Draw {
        let capacity = Capacity::new(self.weight() * factor).unwrap_or(self.0.capacity);
        WeightedNode::new(self.0.node.clone(), capacity).hash_code(&FixedHasher, &u64::from(slot.number()))
    }

    /// The node's weight.
    pub(crate) fn weight(&self) -> f64 {
        self.0.capacity.value()
    }
}

/// The fixed `NodeHasher` of P2: SplitMix64's finaliser over the item's words and the node's 64-bit seed. Part of the format, with test vectors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FixedHasher;

impl NodeHasher<u64> for FixedHasher {
    fn hash<T: Hash>(&self, node: &u64, item: &T) -> u64 {
        let mut words = Words(*node);
        item.hash(&mut words);
        words.finish()
    }
}

struct Words(u64);

impl Hasher for Words {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.write_u64(xxh3_64(bytes));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = mix(self.0 ^ mix(word.wrapping_add(0x9e37_79b9_7f4a_7c15)));
    }
}

/// SplitMix64's finaliser (Steele, Lea and Flood 2014, variant 13 of Stafford): a bijection in which every input bit moves half of the output's.
const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use rendezvous_hash::RendezvousNodes;

    use super::*;

    #[test]
    fn p2_the_hash_is_part_of_the_format() {
        assert_eq!(mix(0x9e37_79b9_7f4a_7c15), 0xe220_a839_7b1d_cdaf, "SplitMix64's first output for seed 0");
        let vectors = [(0_u64, 0_u64), (0, 1), (1, 0), (u64::MAX, 4095)].map(|(node, slot)| FixedHasher.hash(&node, &slot));
        assert_eq!(vectors, [0x48218226ff3cd4bf, 0xdce423fc82c0d5b8, 0x9e0160293a33aaf7, 0x4376c0ad4a7d242b]);
    }

    #[test]
    fn p2_nodes_rank_as_the_rendezvous_crate_ranks_them() {
        let drawers: Vec<Drawer> = (0..20).map(|n| Drawer::new(NodeId(n), 1.0 + n as f64)).collect();
        let mut nodes = RendezvousNodes::new(FixedHasher);
        for drawer in &drawers {
            assert!(nodes.insert(drawer.0.clone()).is_none());
        }
        for slot in Slot::all().take(200) {
            let mut ours: Vec<&Drawer> = drawers.iter().collect();
            ours.sort_by_key(|drawer| std::cmp::Reverse(drawer.draw(slot)));
            let crates = nodes.calc_candidates(&u64::from(slot.number())).map(|node| *node.node_id());
            assert!(crates.eq(ours.iter().map(|drawer| *drawer.0.node_id())));
        }
    }

    #[test]
    fn p2_a_node_wins_in_proportion_to_its_weight() {
        let drawers: Vec<Drawer> = [1.0, 2.0, 4.0].into_iter().zip(1..).map(|(w, n)| Drawer::new(NodeId(n), w)).collect();
        let mut wins = [0_f64; 3];
        for slot in Slot::all() {
            let winner = (0..3).max_by_key(|&n| drawers[n].draw(slot)).expect("three drew");
            wins[winner] += 7.0 / 4096.0;
        }
        assert!((wins[0] - 1.0).abs() < 0.15 && (wins[1] - 2.0).abs() < 0.2 && (wins[2] - 4.0).abs() < 0.25, "{wins:?}");
    }
}
