//! Rule P6: for strong slots, the replica set near the top of the ranking whose quorums are nearest.
//!
//! A strong operation ends when a majority of the replicas has answered, so its round trip from a region is that to the nearest majority: the
//! ceil((n+1)/2)-th nearest of n replicas. A read or a warm write takes one such round trip, a cold write two; the factor is the same for every set,
//! so sets are compared by the mean over the regions that have nodes of the one round trip. Of sets within 5 % of the least, the best-ranked wins:
//! so a hair's difference does not gather all slots on one set, nor move them.

use isochrone_ident::{Region, Slot};

use crate::RoundTrips;
use crate::topology::{Contender, Topology};

/// The most nodes from which sets are made, where the width is not more.
const POOL_MAX: usize = 6;
/// A node is near the top when it would be chosen, in place of some node that is, if it weighed this many times as much: the same quarter by which the
/// load cap lets loads differ. With all of the best six near, the favoured regions would run into their caps, late slots would get what is left, and
/// each change of the caps would move data: seen to move 1.8/N at the loss of one of 60 nodes, and 4.2/N of 1,000, for quorums no nearer.
const NEAR: f64 = crate::share::LOAD_CAP;
/// The round trip inside a region where nobody has measured it.
const LOCAL_MICROS: u32 = 500;
/// The round trip between two regions where nobody has measured any.
const FAR_MICROS: u32 = 300_000;

/// The most replicas of a strong slot: with more, every write waits for more disks, and no cluster of three to five regions gains by it.
const REPLICAS_MAX: u8 = 5;

/// How many replicas each strong slot has, where the cluster file asks for `asked` of a slot and there are `nodes`: an odd number, 1, 3 or 5, the least that is not
/// below what was asked for and that there are nodes for. An even set outlives no more failures than the odd one below it, and each quorum of it is
/// larger. With two nodes it is both, all the same: a set of one would lose its data with its disk, and of a set of two each has all that was
/// chosen; the price is that neither can be missed until a third comes. 0 without nodes.
#[must_use]
pub fn strong_width(asked: u8, nodes: usize) -> u8 {
    let wanted = (asked.max(1) | 1).min(REPLICAS_MAX);
    match u8::try_from(nodes) {
        Ok(nodes) if nodes < wanted && nodes > 2 => (nodes - 1) | 1,
        Ok(nodes) => nodes.min(wanted),
        Err(_) => wanted,
    }
}

/// The round trips between the regions of a topology, by index.
pub(crate) struct Distances(Vec<Vec<u32>>);

impl Distances {
    /// The distances of these regions. A pair that nobody has measured counts as far as the farthest that somebody has.
    pub(crate) fn new(regions: &[Region], trips: &RoundTrips) -> Self {
        let far = trips.iter().filter(|(a, b, _)| a != b).map(|(_, _, micros)| micros).max().unwrap_or(FAR_MICROS);
        let distance = |a: &Region, b: &Region| trips.between(a, b).unwrap_or(if a == b { LOCAL_MICROS } else { far });
        Self(regions.iter().map(|a| regions.iter().map(|b| distance(a, b)).collect()).collect())
    }

    /// The sum over all regions of the round trip to the nearest majority of replicas in `set`, in microseconds.
    fn cost(&self, set: &[usize]) -> u64 {
        let majority = set.len() / 2;
        let nearest = |row: &Vec<u32>| {
            let mut trips: Vec<u32> = set.iter().map(|&region| row[region]).collect();
            trips.sort_unstable();
            u64::from(trips.get(majority).copied().unwrap_or(0))
        };
        self.0.iter().map(nearest).sum()
    }
}

/// The `count` nodes that a strong slot falls to (P6), in the order of preference.
pub(crate) fn pick(topology: &Topology, slot: Slot, distances: &Distances, count: usize) -> Vec<Contender> {
    let pool = pool(topology, slot, count);
    let take = |at: Vec<usize>| at.into_iter().map(|at| pool[at]).collect::<Vec<_>>();
    let cost = |set: &[Contender]| distances.cost(&set.iter().map(|&contender| topology.region_of(contender)).collect::<Vec<_>>());
    let sets = combinations(pool.len(), count).into_iter().map(take).filter(|set| topology.is_spread(set));
    let sets: Vec<(u64, Vec<Contender>)> = sets.map(|set| (cost(&set), set)).collect();
    let least = sets.iter().map(|(cost, _)| *cost).min().unwrap_or(0);
    let near_least = |cost: u64| cost.saturating_mul(100) <= least.saturating_mul(105);
    sets.into_iter().find(|(cost, _)| near_least(*cost)).map(|(_, set)| set).unwrap_or_default()
}

/// The nodes from which the set is made: first those that the ranking alone would choose, then those near them, best first.
fn pool(topology: &Topology, slot: Slot, count: usize) -> Vec<Contender> {
    let most = count.max(POOL_MAX);
    let ranking = topology.rank(slot, most);
    let mut pool = ranking.pick(count);
    let is_near = |contender: &Contender| {
        let raised = topology.raised(*contender, slot, NEAR);
        topology.has_room(*contender, slot, count)
            && !pool[..count].contains(contender)
            && pool[..count].iter().any(|chosen| raised > *chosen)
    };
    let near: Vec<Contender> = ranking.pick(most.min(topology.nodes())).into_iter().filter(is_near).collect();
    pool.extend(near);
    pool.truncate(most);
    pool
}

/// All ways to take `count` of `of` things, in lexicographic order: so the first ones first.
fn combinations(of: usize, count: usize) -> Vec<Vec<usize>> {
    let mut all = vec![Vec::new()];
    for taken in 0..count {
        let extend = |head: Vec<usize>| {
            let from = head.last().map_or(0, |last| last + 1);
            let to = (of + taken + 1).saturating_sub(count);
            (from..to).map(move |next| head.iter().copied().chain([next]).collect::<Vec<_>>())
        };
        all = all.into_iter().flat_map(extend).collect();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combinations_come_in_order_and_are_all_there() {
        assert_eq!(combinations(4, 2), [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]);
        assert_eq!(combinations(6, 3).len(), 20);
        assert_eq!(combinations(7, 7), [[0, 1, 2, 3, 4, 5, 6]]);
        assert_eq!(combinations(3, 0), [Vec::<usize>::new()]);
    }

    #[test]
    fn p6_strong_sets_are_odd_except_of_two_nodes() {
        let widths = |asked| [0, 1, 2, 3, 4, 5, 6, 300].map(|nodes| strong_width(asked, nodes));
        assert_eq!(widths(1), [0, 1, 1, 1, 1, 1, 1, 1]);
        assert_eq!(widths(2), widths(3), "at least what was asked for");
        assert_eq!(widths(3), [0, 1, 2, 3, 3, 3, 3, 3]);
        assert_eq!(widths(5), [0, 1, 2, 3, 3, 5, 5, 5]);
        assert_eq!(widths(7), widths(4), "at most five");
    }

    #[test]
    fn p6_the_cost_is_the_round_trip_to_the_nearest_majority() {
        let [a, b, c] = ["a", "b", "c"].map(|name| Region::new(name).expect("a valid region"));
        let trips =
            [(a.clone(), b.clone(), 75_000), (a.clone(), c.clone(), 165_000), (b.clone(), c.clone(), 232_000)].into_iter().collect();
        let distances = Distances::new(&[a, b, c], &trips);
        assert_eq!(distances.cost(&[0, 1, 2]), 75_000 + 75_000 + 165_000);
        assert_eq!(distances.cost(&[0]), 500 + 75_000 + 165_000);
    }

    #[test]
    fn p6_an_unmeasured_pair_counts_as_far() {
        let [a, b, c] = ["a", "b", "c"].map(|name| Region::new(name).expect("a valid region"));
        let trips = [(a.clone(), b.clone(), 75_000)].into_iter().collect();
        assert_eq!(Distances::new(&[a.clone(), c.clone()], &trips).cost(&[1]), 75_000 + 500);
        assert_eq!(Distances::new(&[a, c], &RoundTrips::default()).cost(&[1]), 300_500);
    }
}
