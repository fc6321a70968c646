//! P3 for the leader: from what it observes to the weights that the next tables should have.

use std::collections::BTreeMap;
use std::time::Duration;

use isochrone_ident::Region;
use isochrone_placement::{RegionWeights, RoundTrips, WeightOptions, WeightTracker};
use tokio::time::Instant;

use crate::options::Observations;
use crate::state::ClusterState;

/// Samples in a window of the tracker.
const SAMPLES: u32 = 5;

/// Tracks round trips and traffic while this node leads. A new leader starts over, from the weights in force: a change can wait.
pub(crate) struct Weigher {
    options: WeightOptions,
    begun: Instant,
    tracking: Option<Tracking>,
    settled: RoundTrips,
}

struct Tracking {
    tracker: WeightTracker,
    sampled: Instant,
    traffic: BTreeMap<Region, u64>,
}

impl Weigher {
    pub(crate) fn new(options: WeightOptions) -> Self {
        Self { options, begun: Instant::now(), tracking: None, settled: RoundTrips::default() }
    }

    /// This node doesn't lead any more.
    pub(crate) fn forget(&mut self) {
        self.tracking = None;
    }

    /// Round trips as far as they have changed notably; the tables of the strong class go by them (P6).
    pub(crate) fn round_trips(&self) -> &RoundTrips {
        &self.settled
    }

    /// The weights that the tables should have now: those in force, unless a change has held for long enough.
    pub(crate) fn weigh(&mut self, state: &ClusterState, seen: &dyn Observations) -> RegionWeights {
        let now = Instant::now();
        let every = Duration::from_millis(self.options.window_ms) / SAMPLES;
        let Some(tracking) = &mut self.tracking else {
            self.settled = seen.round_trips().settled(&self.settled);
            let tracker = WeightTracker::new(self.options, state.weights.clone());
            self.tracking = Some(Tracking { tracker, sampled: now, traffic: seen.traffic() });
            return state.weights.clone();
        };
        if now.duration_since(tracking.sampled) >= every {
            let round_trips = seen.round_trips();
            let now_ms = now.duration_since(self.begun).as_millis() as u64;
            tracking.sampled = now;
            let since = tracking.since_last(seen.traffic());
            tracking.tracker.observe(now_ms, &round_trips, &since, &capacities(state));
            self.settled = round_trips.settled(&self.settled);
        }
        tracking.tracker.current().clone()
    }
}

impl Tracking {
    /// Traffic since the last sample, from totals that only grow; a total that fell began anew.
    fn since_last(&mut self, totals: BTreeMap<Region, u64>) -> BTreeMap<Region, u64> {
        let since = |region: &Region, total: u64| match self.traffic.get(region) {
            Some(&before) if before <= total => total - before,
            _ => total,
        };
        let grown = totals.iter().map(|(region, &total)| (region.clone(), since(region, total))).collect();
        self.traffic = totals;
        grown
    }
}

fn capacities(state: &ClusterState) -> BTreeMap<Region, u64> {
    let mut capacities = BTreeMap::new();
    for member in state.members.values() {
        *capacities.entry(member.region.clone()).or_default() += u64::from(member.capacity.hundredths());
    }
    capacities
}
