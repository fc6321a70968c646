//! Rule P2: the table of an epoch, from who may hold replicas and what each region weighs.

use isochrone_ident::{SLOTS, Slot};

use crate::quorum::{self, Distances};
use crate::topology::Topology;
use crate::{Candidate, RegionWeights, RoundTrips, SlotTable, WIDTH_MAX};

/// Which slots a table is for.
#[derive(Debug, Clone, Copy)]
pub enum Class<'a> {
    /// Those of eventual namespaces: the ranking alone decides.
    Eventual,
    /// Those of strong namespaces: near the top of the ranking, the least quorum round trip decides (P6).
    Strong {
        /// Round trips between regions. Pass [`RoundTrips::settled`] ones: a change of these moves data.
        round_trips: &'a RoundTrips,
    },
}

/// The table of these candidates (P2, P6): the same for the same candidates in whatever order, on one platform (floating-point logarithms differ
/// between platforms, so only the council's table counts).
///
/// `width` is held to 1 to 7. With fewer nodes than the width, the replica sets are shorter. Of candidates with one id the first in their order
/// counts, and of more than [`MEMBERS_MAX`](crate::MEMBERS_MAX) those with the least ids. Takes on the order of `SLOTS` x candidates steps.
#[must_use]
pub fn compute(candidates: &[Candidate], weights: &RegionWeights, width: u8, class: Class<'_>) -> SlotTable {
    let width = width.clamp(1, WIDTH_MAX);
    let mut topology = Topology::new(candidates, weights, width);
    let depth = topology.depth(width);
    let distances = match class {
        Class::Eventual => None,
        Class::Strong { round_trips } => Some(Distances::new(topology.regions(), round_trips)),
    };
    let cells = fill(&mut topology, distances.as_ref(), depth);
    SlotTable::of_sound_parts(width, topology.into_members(), cells)
}

/// The replicas of all slots, slot after slot: each takes what the slots before it have left below the caps.
fn fill(topology: &mut Topology, distances: Option<&Distances>, depth: usize) -> Vec<u16> {
    let mut cells = Vec::with_capacity(depth * usize::from(SLOTS));
    for slot in Slot::all() {
        let set = match distances {
            None => topology.rank(slot, depth).pick(depth),
            Some(distances) => quorum::pick(topology, slot, distances, depth),
        };
        cells.extend(set.into_iter().map(|contender| topology.take(contender)));
    }
    cells
}

#[cfg(test)]
mod tests {
    use isochrone_ident::{NodeId, Region};
    use proptest::prelude::*;

    use super::*;
    use crate::{Capacity, WeightStep};

    fn region(number: usize) -> Region {
        Region::new(&format!("r{number}")).expect("a valid region")
    }

    fn candidate(number: usize, regions: usize, capacity: u32) -> Candidate {
        let capacity = Capacity::new(capacity).expect("in range");
        Candidate { node: NodeId(number as u128), region: region(number % regions), zone: None, capacity }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn p2_no_node_is_above_its_cap_whatever_the_weights(
            capacities in proptest::collection::vec(50..200_u32, 12..40), regions in 2..6_usize, steps in proptest::collection::vec(-4..=4_i8, 6),
            width in 1..=5_u8, strong: bool,
        ) {
            let candidates: Vec<Candidate> = capacities.iter().enumerate().map(|(n, &capacity)| candidate(n, regions, capacity)).collect();
            let weights = steps.into_iter().enumerate().map(|(r, step)| (region(r), WeightStep::new(step).expect("in range"))).collect();
            let mut topology = Topology::new(&candidates, &weights, width);
            let trips = (0..regions).flat_map(|a| (a..regions).map(move |b| (region(a), region(b), (b - a) as u32 * 40_000 + 500))).collect();
            let distances = strong.then(|| Distances::new(topology.regions(), &trips));
            let depth = topology.depth(width);
            fill(&mut topology, distances.as_ref(), depth);
            prop_assert_eq!(topology.above_cap(), Vec::<(u32, u32)>::new(), "(load, cap)");
        }
    }
}
