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
    let mut cells = Vec::with_capacity(depth * usize::from(SLOTS));
    for slot in Slot::all() {
        let set = match &distances {
            None => topology.rank(slot, depth).pick(depth),
            Some(distances) => quorum::pick(&topology, slot, distances, depth),
        };
        cells.extend(set.into_iter().map(|contender| topology.take(contender)));
    }
    SlotTable::of_sound_parts(width, topology.into_members(), cells)
}
