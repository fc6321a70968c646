//! Round trips (rule M6): per peer from QUIC's own path statistics, per pair of regions by gossip.
//!
//! A path's smoothed round trip holds queues and retransmissions besides the distance; its minimum over a window is the
//! distance. Each gateway publishes a row: from its region to every other, the median over that region's members of these
//! minima. Rows have editions and expire, and the cell of the matrix is the median over a region's gateways.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use isochrone_ident::{NodeId, Region};
use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};

use crate::health::clock::median;
use crate::membership::wire::{Edition, Row};

/// The window of a peer's minimum: [`BUCKETS`] of this length, one minute together.
const BUCKET: Duration = Duration::from_secs(5);
const BUCKETS: usize = 12;

/// A row that was not renewed for this long is dropped: six times the time between two.
const ROW_EXPIRES: Duration = Duration::from_secs(30);

/// Longest round trip that is believed.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(60);

/// Longest and shortest round trip of one peer, bucket by bucket.
#[derive(Debug, Default)]
struct Window {
    buckets: VecDeque<(Duration, Duration, Duration)>,
}

impl Window {
    fn push(&mut self, now: Duration, rtt: Duration) {
        match self.buckets.back_mut() {
            Some((start, min, max)) if now.saturating_sub(*start) < BUCKET => {
                *min = rtt.min(*min);
                *max = rtt.max(*max);
            }
            _ => self.buckets.push_back((now, rtt, rtt)),
        }
        while self.buckets.len() > BUCKETS {
            self.buckets.pop_front();
        }
    }

    fn min(&self) -> Option<Duration> {
        self.buckets.iter().map(|(_, min, _)| *min).min()
    }

    /// The longest of the last two buckets: what a timer has to wait for.
    fn recent_max(&self) -> Option<Duration> {
        self.buckets.iter().rev().take(2).map(|(.., max)| *max).max()
    }
}

#[derive(Debug)]
struct HeardRow {
    edition: Edition,
    at: Duration,
    region: Region,
    cells: Vec<(Region, u32)>,
}

/// This node's own measurements and the rows that it has heard.
#[derive(Debug)]
pub(crate) struct RoundTrips {
    windows: BTreeMap<NodeId, Window>,
    rows: BTreeMap<(NodeId, u8), HeardRow>,
    rows_max: usize,
    changed: bool,
}

impl RoundTrips {
    pub(crate) fn new(rows_max: usize) -> Self {
        Self { windows: BTreeMap::new(), rows: BTreeMap::new(), rows_max, changed: true }
    }

    /// A path's round trip, measured now. Zero means that nothing was measured.
    pub(crate) fn observe(&mut self, now: Duration, node: NodeId, rtt: Duration) {
        if rtt > Duration::ZERO {
            self.windows.entry(node).or_default().push(now, rtt.min(ROUND_TRIP_MAX));
        }
    }

    pub(crate) fn forget(&mut self, node: NodeId) {
        self.windows.remove(&node);
        self.rows.retain(|(author, _), _| *author != node);
        self.changed = true;
    }

    /// The distance to that node: the minimum over the window.
    pub(crate) fn min(&self, node: NodeId) -> Option<Duration> {
        self.windows.get(&node)?.min()
    }

    /// The longest of late: for timers.
    pub(crate) fn recent_max(&self, node: NodeId) -> Option<Duration> {
        self.windows.get(&node)?.recent_max()
    }

    /// Our row: to each region the median of the distances to its members, in microseconds.
    pub(crate) fn own_cells(&self, region_of: impl Fn(NodeId) -> Option<Region>) -> Vec<(Region, u32)> {
        let mut by_region: BTreeMap<Region, Vec<u32>> = BTreeMap::new();
        for (node, window) in &self.windows {
            if let (Some(region), Some(min)) = (region_of(*node), window.min()) {
                by_region.entry(region).or_default().push(u32::try_from(min.as_micros()).unwrap_or(u32::MAX));
            }
        }
        by_region.into_iter().filter_map(|(region, micros)| Some((region, median(micros)?))).collect()
    }

    /// Takes a row in, ours or heard; tells whether it was newer than what that author said before.
    pub(crate) fn take(&mut self, now: Duration, row: Row) -> bool {
        let key = (row.by.author, row.part);
        let newer = match self.rows.get(&key) {
            Some(known) => row.by.edition > known.edition,
            None => self.rows.len() < self.rows_max,
        };
        if newer {
            self.changed |= self.rows.get(&key).is_none_or(|known| differs(&known.cells, &row.cells));
            self.rows.insert(key, HeardRow { edition: row.by.edition, at: now, region: row.region, cells: row.cells });
        }
        newer
    }

    pub(crate) fn expire(&mut self, now: Duration) {
        let before = self.rows.len();
        self.rows.retain(|_, row| now.saturating_sub(row.at) < ROW_EXPIRES);
        self.changed |= self.rows.len() != before;
    }

    /// The matrix, if it has changed by more than noise since the last call.
    pub(crate) fn take_matrix(&mut self) -> Option<RegionMatrix> {
        std::mem::take(&mut self.changed).then(|| self.matrix())
    }

    fn matrix(&self) -> RegionMatrix {
        let mut said: BTreeMap<(Region, Region), Vec<u32>> = BTreeMap::new();
        for row in self.rows.values() {
            for (to, micros) in &row.cells {
                said.entry((row.region.clone(), to.clone())).or_default().push(*micros);
            }
        }
        RegionMatrix { micros: said.into_iter().filter_map(|(pair, micros)| Some((pair, median(micros)?))).collect() }
    }
}

/// Whether two rows differ by more than 5 % in some cell, or in what cells they have.
pub(crate) fn differs(before: &[(Region, u32)], after: &[(Region, u32)]) -> bool {
    let close = |a: u32, b: u32| u64::from(a.abs_diff(b)) * 20 <= u64::from(a.max(b));
    before.len() != after.len() || before.iter().zip(after).any(|((to, a), (other, b))| to != other || !close(*a, *b))
}

/// Round trips from region to region, as gossip has it at this moment. Regions of which nothing is known are absent; a region's
/// distance to itself is that between its members.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RegionMatrix {
    micros: BTreeMap<(Region, Region), u32>,
}

impl RegionMatrix {
    /// The round trip between two regions: the mean of both directions' measurements, or the one there is.
    #[must_use]
    pub fn get(&self, a: &Region, b: &Region) -> Option<Duration> {
        let there = self.micros.get(&(a.clone(), b.clone()));
        let back = self.micros.get(&(b.clone(), a.clone()));
        let micros = match (there, back) {
            (Some(there), Some(back)) => (u64::from(*there) + u64::from(*back)) / 2,
            (one, other) => u64::from(*one.or(other)?),
        };
        Some(Duration::from_micros(micros))
    }

    /// Every measurement: from where, to where, how long. By name of region.
    pub fn cells(&self) -> impl Iterator<Item = (&Region, &Region, Duration)> {
        self.micros.iter().map(|((from, to), micros)| (from, to, Duration::from_micros(u64::from(*micros))))
    }
}

#[derive(Serialize)]
struct Cell<'a> {
    from: &'a Region,
    to: &'a Region,
    round_trip_micros: u32,
}

/// As a list of `{from, to, round_trip_micros}`.
impl Serialize for RegionMatrix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut cells = serializer.serialize_seq(Some(self.micros.len()))?;
        for ((from, to), micros) in &self.micros {
            cells.serialize_element(&Cell { from, to, round_trip_micros: *micros })?;
        }
        cells.end()
    }
}

#[cfg(test)]
mod tests {
    use isochrone_ident::Incarnation;

    use super::*;
    use crate::membership::wire::Byline;

    fn region(name: &str) -> Region {
        Region::new(name).expect("a name")
    }

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn row(author: u128, number: u64, from: &str, cells: &[(&str, u32)]) -> Row {
        let by = Byline { author: NodeId(author), edition: Edition { incarnation: Incarnation(1), number } };
        Row { by, region: region(from), part: 0, cells: cells.iter().map(|(to, micros)| (region(to), *micros)).collect() }
    }

    #[test]
    fn m6_a_peers_round_trip_is_the_minimum_over_a_window_that_moves_on() {
        let mut trips = RoundTrips::new(10);
        trips.observe(ms(0), NodeId(1), ms(80));
        trips.observe(ms(1000), NodeId(1), ms(75));
        trips.observe(ms(2000), NodeId(1), ms(400));
        trips.observe(ms(3000), NodeId(1), Duration::ZERO);
        assert_eq!((trips.min(NodeId(1)), trips.recent_max(NodeId(1))), (Some(ms(75)), Some(ms(400))));
        (1..=12).for_each(|i| trips.observe(ms(i * 5000), NodeId(1), ms(120)));
        assert_eq!((trips.min(NodeId(1)), trips.recent_max(NodeId(1))), (Some(ms(120)), Some(ms(120))));
    }

    #[test]
    fn our_row_holds_the_median_of_each_regions_members() {
        let mut trips = RoundTrips::new(10);
        for (node, millis) in [(1, 70), (2, 80), (3, 500), (4, 160)] {
            trips.observe(ms(0), NodeId(node), ms(millis));
        }
        let region_of = |node: NodeId| Some(region(if node.0 < 4 { "eu-west" } else { "asia" }));
        assert_eq!(trips.own_cells(region_of), vec![(region("asia"), 160_000), (region("eu-west"), 80_000)]);
    }

    #[test]
    fn an_older_row_of_the_same_author_is_ignored_and_an_old_one_expires() {
        let mut trips = RoundTrips::new(10);
        assert!(trips.take(ms(0), row(1, 2, "us-east", &[("eu-west", 75_000)])));
        assert!(!trips.take(ms(0), row(1, 1, "us-east", &[("eu-west", 9)])));
        let matrix = trips.take_matrix().expect("it changed");
        assert_eq!(matrix.get(&region("eu-west"), &region("us-east")), Some(ms(75)));
        trips.expire(ms(29_999));
        assert_eq!(trips.take_matrix(), None);
        trips.expire(ms(30_000));
        assert_eq!(trips.take_matrix(), Some(RegionMatrix::default()));
    }

    #[test]
    fn a_cell_is_the_median_over_the_gateways_and_the_mean_of_both_ways() {
        let mut trips = RoundTrips::new(10);
        trips.take(ms(0), row(1, 1, "us-east", &[("eu-west", 75_000)]));
        trips.take(ms(0), row(2, 1, "us-east", &[("eu-west", 79_000)]));
        trips.take(ms(0), row(3, 1, "eu-west", &[("us-east", 77_000)]));
        let matrix = trips.take_matrix().expect("it changed");
        assert_eq!(matrix.get(&region("us-east"), &region("eu-west")), Some(ms(76)));
        assert_eq!(matrix.cells().count(), 2);
    }

    #[test]
    fn a_change_within_noise_wakes_nobody_and_rows_beyond_the_bound_are_not_taken() {
        let mut trips = RoundTrips::new(1);
        trips.take(ms(0), row(1, 1, "us-east", &[("eu-west", 100_000)]));
        trips.take_matrix();
        assert!(trips.take(ms(0), row(1, 2, "us-east", &[("eu-west", 104_000)])));
        assert_eq!(trips.take_matrix(), None);
        assert!(!trips.take(ms(0), row(2, 1, "us-east", &[("eu-west", 1)])));
    }
}
