//! How many requests each region has from its clients: what the weights of the regions are weighted by (P3).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use isochrone_ident::{NodeId, Region};

use super::core::lock;

/// Counts of requests, of this node and of those that it hears. Cloning shares them.
#[derive(Clone)]
pub(crate) struct Traffic(Arc<Counts>);

struct Counts {
    region: Region,
    own: AtomicU64,
    others: Mutex<BTreeMap<NodeId, Count>>,
}

/// One member's count: its restarts begin anew, the total does not.
struct Count {
    region: Region,
    total: u64,
    last: u64,
}

impl Traffic {
    /// Counts of a node in `region`, all zero.
    pub(crate) fn new(region: Region) -> Self {
        Self(Arc::new(Counts { region, own: AtomicU64::new(0), others: Mutex::default() }))
    }

    /// One more request of a client of this node.
    pub(crate) fn count(&self) {
        self.0.own.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests of this node's clients since it started.
    pub(crate) fn own(&self) -> u64 {
        self.0.own.load(Ordering::Relaxed)
    }

    /// A member has had that many requests since it started.
    pub(crate) fn heard(&self, node: NodeId, region: &Region, requests: u64) {
        let mut others = lock(&self.0.others);
        let count = others.entry(node).or_insert_with(|| Count { region: region.clone(), total: 0, last: 0 });
        count.total += if requests >= count.last { requests - count.last } else { requests };
        count.last = requests;
    }

    /// Totals by region, which only grow.
    pub(crate) fn by_region(&self) -> BTreeMap<Region, u64> {
        let mut totals = BTreeMap::from([(self.0.region.clone(), self.own())]);
        for count in lock(&self.0.others).values() {
            *totals.entry(count.region.clone()).or_default() += count.total;
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_members_restart_does_not_take_back_what_it_counted() {
        let region = |name| Region::new(name).expect("a region");
        let traffic = Traffic::new(region("us-east"));
        traffic.count();
        for requests in [5, 9, 2] {
            traffic.heard(NodeId(7), &region("eu-west"), requests);
        }
        assert_eq!(traffic.by_region(), BTreeMap::from([(region("us-east"), 1), (region("eu-west"), 11)]));
    }
}
