//! The shape of a cluster: its regions, its nodes, and how far apart they are.

use std::time::Duration;

use isochrone_ident::{ClusterName, NodeId, Region};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// One-way delays between regions in microseconds: half of the round trips that Azure publishes (95th percentile).
const ONE_WAY_US: [(&str, &str, u64); 10] = [
    ("us-east", "eu-west", 37_500),
    ("us-east", "ap-northeast", 82_500),
    ("eu-west", "ap-northeast", 116_000),
    ("us-west", "us-east", 36_500),
    ("us-west", "eu-west", 69_000),
    ("us-west", "ap-northeast", 55_000),
    ("sa-east", "us-east", 60_000),
    ("sa-east", "us-west", 85_000),
    ("sa-east", "eu-west", 88_000),
    ("sa-east", "ap-northeast", 135_000),
];
const REGIONS: [&str; 5] = ["us-east", "eu-west", "ap-northeast", "us-west", "sa-east"];
/// One-way delay inside a region, in microseconds.
const INSIDE_US: u64 = 500;

/// The nodes of a cluster, the founder first.
#[derive(Debug, Clone)]
pub struct Shape {
    /// The cluster's name.
    pub cluster: ClusterName,
    /// Its nodes.
    pub nodes: Vec<Place>,
    /// Whether the last node joins only while things break.
    pub joins_late: bool,
}

/// One node.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its host name in the simulated network.
    pub name: String,
    /// Its id.
    pub node: NodeId,
    /// Its region.
    pub region: Region,
}

impl Shape {
    /// Three regions of one node, five of one, or three of two, as the seed says; in one of three a further node joins late.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x5a_ae);
        let (regions, each) = [(3, 1), (3, 1), (5, 1), (3, 2)][rng.random_range(0..4)];
        Self::of(regions, each, rng.random_ratio(1, 3), seed)
    }

    /// So many regions with so many nodes each, and one more node in the last region if one joins late.
    #[must_use]
    pub fn of(regions: usize, each: usize, joins_late: bool, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x1d);
        let mut places: Vec<(usize, &str)> = (0..each).flat_map(|n| REGIONS[..regions].iter().map(move |r| (n, *r))).collect();
        if joins_late {
            places.push((each, REGIONS[regions - 1]));
        }
        let nodes = places.into_iter().map(|(n, region)| Place {
            name: format!("{region}-{n}"),
            node: NodeId(rng.random()),
            region: Region::new(region).expect("a region's name"),
        });
        Self { cluster: ClusterName::new("simulated").expect("a cluster's name"), nodes: nodes.collect(), joins_late }
    }

    /// The one-way delay between two nodes.
    #[must_use]
    pub fn delay(&self, a: usize, b: usize) -> Duration {
        let (a, b) = (self.nodes[a].region.as_str(), self.nodes[b].region.as_str());
        let listed = ONE_WAY_US.iter().find(|(x, y, _)| (*x, *y) == (a, b) || (*x, *y) == (b, a));
        Duration::from_micros(listed.map_or(INSIDE_US, |(_, _, us)| *us))
    }

    /// Whether a node is there from the start.
    #[must_use]
    pub fn is_initial(&self, node: usize) -> bool {
        !self.joins_late || node + 1 < self.nodes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_regions_has_its_delay() {
        let shape = Shape::of(5, 1, false, 1);
        for a in 0..5 {
            for b in 0..5 {
                assert_eq!(shape.delay(a, b) == Duration::from_micros(INSIDE_US), a == b, "{a} {b}");
            }
        }
    }
}
