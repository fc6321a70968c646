//! Clusters to place over.
#![allow(dead_code, reason = "each test takes what it needs")]

use isochrone_ident::{NodeId, Region, Slot, Zone};
use isochrone_placement::{Candidate, Capacity, RoundTrips, SlotTable};

/// A region's name by number.
pub(crate) fn region(number: usize) -> Region {
    Region::new(&format!("region-{number}")).expect("a valid region")
}

/// `nodes` nodes in each of `regions` regions, in `zones` zones each (none stated when there is one), with these capacities.
pub(crate) fn cluster(regions: usize, zones: usize, nodes: usize, capacity: impl Fn(usize) -> u32) -> Vec<Candidate> {
    let zone = |n: usize| (zones > 1).then(|| Zone::new(&format!("zone-{}", n % zones)).expect("a valid zone"));
    let candidate = |r: usize, n: usize| Candidate {
        node: node_of(r, n),
        region: region(r),
        zone: zone(n),
        capacity: Capacity::new(capacity(r * nodes + n)).expect("a valid capacity"),
    };
    (0..regions).flat_map(|r| (0..nodes).map(move |n| (r, n))).map(|(r, n)| candidate(r, n)).collect()
}

/// The id of a node by its region and its number there, scattered over all ids.
pub(crate) fn node_of(region: usize, number: usize) -> NodeId {
    NodeId((region as u128 * 1_000_003 + number as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
}

/// All but one.
pub(crate) fn without(candidates: &[Candidate], lost: usize) -> Vec<Candidate> {
    candidates.iter().enumerate().filter(|(n, _)| *n != lost).map(|(_, candidate)| candidate.clone()).collect()
}

/// How many replicas are in the old table only, and in the new one only.
pub(crate) fn lost_and_gained(old: &SlotTable, new: &SlotTable) -> (usize, usize) {
    let only = |a: &SlotTable, b: &SlotTable| {
        Slot::all().map(|slot| a.replicas(slot).filter(|node| !b.replicas(slot).contains(*node)).count()).sum()
    };
    (only(old, new), only(new, old))
}

/// Round trips of us-east, eu-west, ap-northeast, us-west and sa-east, by Azure's published statistics.
pub(crate) fn round_trips_of_five() -> RoundTrips {
    let ms =
        [(0, 1, 75), (0, 2, 165), (1, 2, 232), (0, 3, 73), (1, 3, 138), (2, 3, 110), (0, 4, 120), (3, 4, 170), (1, 4, 176), (2, 4, 270)];
    let between = ms.iter().map(|&(a, b, ms)| (region(a), region(b), ms * 1000));
    between.chain((0..5).map(|a| (region(a), region(a), 500))).collect()
}
