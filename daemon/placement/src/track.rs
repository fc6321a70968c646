//! Rule P3: from measured round trips and traffic to region weights that change seldom.
//!
//! ```text
//!   samples --mean--> windows of 5 min --median of 3--> factor --20 % steps--> wanted step --held 30 min--> change
//!                                                                                             at most one in 10 min
//! ```
//!
//! A step is wanted once the median of three windows has it. What is applied after the hold is the change that held all through it: while a
//! region wanted +2 and +3 by turns, +2 held. Wanting what is current, or a change the other way, starts the hold again.

use std::collections::{BTreeMap, VecDeque};

use isochrone_ident::Region;

use crate::{RegionWeights, RoundTrips, WeightStep};

const WINDOWS: usize = 3;

/// How the weights follow the measurements. The defaults are P3's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WeightOptions {
    /// How strongly weights follow round trips, at least 0; 0 turns them off. 1 by default.
    pub alpha: f64,
    /// How long samples are averaged for one window, in milliseconds; the median of three windows counts. 5 minutes by default.
    pub window_ms: u64,
    /// How long a change must hold before it is applied, in milliseconds. 30 minutes by default.
    pub hold_ms: u64,
    /// The least time between two changes, in milliseconds. 10 minutes by default.
    pub change_ms_min: u64,
    /// Round trips below this count as this, in microseconds, so that a region alone with its traffic has a finite ratio. 1,000 by default.
    pub floor_micros: u32,
}

impl Default for WeightOptions {
    fn default() -> Self {
        Self { alpha: 1.0, window_ms: 300_000, hold_ms: 1_800_000, change_ms_min: 600_000, floor_micros: 1_000 }
    }
}

/// Follows the regions' weights (P3). Pure: the time is an argument, of any clock that only goes forward. The council's leader keeps one; a new
/// leader starts from the weights in force, and holds every change anew.
#[derive(Debug, Clone)]
pub struct WeightTracker {
    options: WeightOptions,
    current: RegionWeights,
    regions: BTreeMap<Region, Track>,
    window_began_ms: Option<u64>,
    changed_ms: Option<u64>,
}

/// One region's way from samples to a change.
#[derive(Debug, Clone, Default)]
struct Track {
    sum: f64,
    samples: u32,
    windows: VecDeque<f64>,
    pending: Option<Pending>,
}

/// A change that is wanted, and has been since.
#[derive(Debug, Clone, Copy)]
struct Pending {
    step: WeightStep,
    since_ms: u64,
}

impl WeightTracker {
    /// A tracker that starts from the weights in force.
    #[must_use]
    pub fn new(options: WeightOptions, current: RegionWeights) -> Self {
        Self { options, current, regions: BTreeMap::new(), window_began_ms: None, changed_ms: None }
    }

    /// The weights in force: those it started from, or the last that it gave.
    #[must_use]
    pub const fn current(&self) -> &RegionWeights {
        &self.current
    }

    /// Takes one sample: the round trips between regions; the traffic from each region since the last sample, in any unit (all zero counts as
    /// equal); the capacity of each region that has nodes. Call it a few times a window.
    ///
    /// Gives the new weights when they change, at the end of a window: then a new epoch is due.
    pub fn observe(
        &mut self,
        now_ms: u64,
        round_trips: &RoundTrips,
        traffic: &BTreeMap<Region, u64>,
        capacity: &BTreeMap<Region, u64>,
    ) -> Option<RegionWeights> {
        self.regions.retain(|region, _| capacity.contains_key(region));
        for (region, factor) in factors(round_trips, traffic, capacity, &self.options) {
            let track = self.regions.entry(region).or_default();
            track.sum += factor;
            track.samples += 1;
        }
        let began = *self.window_began_ms.get_or_insert(now_ms);
        if now_ms.saturating_sub(began) < self.options.window_ms {
            return None;
        }
        self.window_began_ms = Some(now_ms);
        for (region, track) in &mut self.regions {
            track.close_window(self.current.step(region), now_ms);
        }
        self.apply(now_ms)
    }

    fn apply(&mut self, now_ms: u64) -> Option<RegionWeights> {
        if self.changed_ms.is_some_and(|changed| now_ms.saturating_sub(changed) < self.options.change_ms_min) {
            return None;
        }
        let mut changed = false;
        for (region, track) in &mut self.regions {
            if let Some(held) = track.pending.take_if(|pending| now_ms.saturating_sub(pending.since_ms) >= self.options.hold_ms) {
                self.current.set(region.clone(), held.step);
                changed = true;
            }
        }
        if changed {
            self.changed_ms = Some(now_ms);
        }
        changed.then(|| self.current.clone())
    }
}

impl Track {
    /// Ends a window; a window without a sample changes nothing.
    fn close_window(&mut self, current: WeightStep, now_ms: u64) {
        if self.samples == 0 {
            return;
        }
        self.windows.push_back(self.sum / f64::from(self.samples));
        (self.sum, self.samples) = (0.0, 0);
        if self.windows.len() > WINDOWS {
            self.windows.pop_front();
        }
        if self.windows.len() == WINDOWS {
            self.want(WeightStep::nearest(self.median()), current, now_ms);
        }
    }

    fn median(&self) -> f64 {
        let mut sorted: Vec<f64> = self.windows.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }

    fn want(&mut self, step: WeightStep, current: WeightStep, now_ms: u64) {
        let way = step.cmp(&current);
        self.pending = match self.pending.filter(|pending| pending.step.cmp(&current) == way) {
            _ if way.is_eq() => None,
            None => Some(Pending { step, since_ms: now_ms }),
            Some(held) if way.is_gt() => Some(Pending { step: held.step.min(step), ..held }),
            Some(held) => Some(Pending { step: held.step.max(step), ..held }),
        };
    }
}

/// The latency factor of each region, unquantised: clamp((L_ref / L_region)^alpha, 1/2, 2). L_region is the median round trip to it from all
/// regions, weighted by their traffic; L_ref is the median of all L_region, weighted by capacity. A region to which less than half of
/// the traffic has a measured round trip has none.
fn factors(
    trips: &RoundTrips,
    traffic: &BTreeMap<Region, u64>,
    capacity: &BTreeMap<Region, u64>,
    options: &WeightOptions,
) -> Vec<(Region, f64)> {
    let sources = sources(traffic, capacity);
    let distances: Vec<(&Region, f64, f64)> = capacity
        .iter()
        .filter(|(_, capacity)| **capacity > 0)
        .filter_map(|(region, &capacity)| distance(region, &sources, trips, options).map(|l| (region, l, capacity as f64)))
        .collect();
    let Some(reference) = median(distances.iter().map(|&(_, l, capacity)| (l, capacity)).collect()) else { return Vec::new() };
    let factor = |l: f64| (reference / l).powf(options.alpha.max(0.0)).clamp(0.5, 2.0);
    distances.into_iter().map(|(region, l, _)| (region.clone(), factor(l))).collect()
}

/// Where the traffic comes from; all regions alike when there is none.
fn sources<'a>(traffic: &'a BTreeMap<Region, u64>, capacity: &'a BTreeMap<Region, u64>) -> Vec<(&'a Region, f64)> {
    let busy: Vec<(&Region, f64)> =
        traffic.iter().filter(|(_, count)| **count > 0).map(|(region, &count)| (region, count as f64)).collect();
    if busy.is_empty() { capacity.keys().map(|region| (region, 1.0)).collect() } else { busy }
}

/// L_region, in microseconds.
fn distance(region: &Region, sources: &[(&Region, f64)], trips: &RoundTrips, options: &WeightOptions) -> Option<f64> {
    let floor = options.floor_micros.max(1);
    let trip = |from: &Region| trips.between(from, region).or((from == region).then_some(floor)).map(|micros| f64::from(micros.max(floor)));
    let known: Vec<(f64, f64)> = sources.iter().filter_map(|&(from, share)| trip(from).map(|trip| (trip, share))).collect();
    let sum = |shares: &mut dyn Iterator<Item = f64>| shares.sum::<f64>();
    let (measured, all) = (sum(&mut known.iter().map(|known| known.1)), sum(&mut sources.iter().map(|source| source.1)));
    if measured * 2.0 < all { None } else { median(known) }
}

/// The weighted median of (value, weight) pairs, interpolated between the middles of their weights (the weighted percentile of Cleveland and
/// others): with two values of near-equal weight it moves smoothly from one to the other instead of jumping, so a hair's shift in the traffic is no
/// jump in the weights. `None` for no pairs.
fn median(mut pairs: Vec<(f64, f64)>) -> Option<f64> {
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let half = pairs.iter().map(|pair| pair.1).sum::<f64>() / 2.0;
    let mut below: Option<(f64, f64)> = None;
    let mut before = 0.0;
    for &(value, weight) in &pairs {
        let middle = before + weight / 2.0;
        if middle >= half {
            return Some(below.map_or(value, |(at, low)| low + (value - low) * (half - at) / (middle - at)));
        }
        below = Some((middle, value));
        before += weight;
    }
    below.map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_MS: u64 = 60_000;

    fn region(name: &str) -> Region {
        Region::new(name).expect("a valid region")
    }

    fn trips(pairs: &[(&str, &str, u32)]) -> RoundTrips {
        pairs.iter().map(|&(a, b, ms)| (region(a), region(b), ms * 1000)).collect()
    }

    fn each(of: &[(&str, u64)]) -> BTreeMap<Region, u64> {
        of.iter().map(|&(name, count)| (region(name), count)).collect()
    }

    /// Three regions; `c` is far from the others by `far` ms.
    fn far_c(far: u32) -> RoundTrips {
        trips(&[("a", "b", 80), ("a", "c", far), ("b", "c", far)])
    }

    /// Samples once a minute from `from` to `to` (minutes), and tells when what changed.
    fn run(tracker: &mut WeightTracker, from: u64, to: u64, trips: impl Fn(u64) -> RoundTrips) -> Vec<(u64, i8)> {
        let alike = each(&[("a", 100), ("b", 100), ("c", 100)]);
        let mut sample =
            |minute| tracker.observe(minute * MINUTE_MS, &trips(minute), &alike, &alike).map(|w| (minute, w.step(&region("c")).number()));
        (from..=to).filter_map(&mut sample).collect()
    }

    #[test]
    fn p3_the_factor_is_the_reference_over_the_median_round_trip_within_a_half_and_two() {
        let alike = each(&[("a", 1), ("b", 1), ("c", 1)]);
        let of = |far, alpha| {
            let options = WeightOptions { alpha, ..WeightOptions::default() };
            factors(&far_c(far), &BTreeMap::new(), &alike, &options).into_iter().map(|(_, factor)| factor).collect::<Vec<_>>()
        };
        assert_eq!(of(100, 1.0), [1.0, 1.0, 0.8]);
        assert_eq!(of(1_000, 1.0), [1.0, 1.0, 0.5]);
        assert_eq!(of(1_000, 0.0), [1.0, 1.0, 1.0]);
        assert!((of(100, 2.0)[2] - 0.64).abs() < 1e-9);
    }

    #[test]
    fn p3_traffic_draws_weight_towards_it() {
        let alike = each(&[("a", 1), ("b", 1), ("c", 1)]);
        let of = |c| factors(&far_c(160), &each(&[("a", 10), ("b", 10), ("c", c)]), &alike, &WeightOptions::default());
        assert!(of(10)[2].1 < of(15)[2].1 && of(15)[2].1 < of(60)[2].1, "{:?}", (of(10), of(15), of(60)));
    }

    #[test]
    fn p3_a_change_must_hold_for_half_an_hour_after_three_windows() {
        let mut tracker = WeightTracker::new(WeightOptions::default(), RegionWeights::default());
        let changes = run(&mut tracker, 0, 600, |_| far_c(115));
        assert_eq!(changes, [(45, -2)]);
        assert_eq!(tracker.current().step(&region("c")).number(), -2);
    }

    #[test]
    fn p3_jitter_of_a_twentieth_moves_nothing_in_a_week() {
        let mut tracker = WeightTracker::new(WeightOptions::default(), RegionWeights::default());
        let jitter = |minute: u64| far_c(80 + (minute.wrapping_mul(2_654_435_761) >> 7) as u32 % 8);
        assert_eq!(run(&mut tracker, 0, 7 * 24 * 60, jitter), []);
    }

    #[test]
    fn p3_a_slow_quarter_of_an_hour_moves_nothing() {
        let mut tracker = WeightTracker::new(WeightOptions::default(), RegionWeights::default());
        let spikes = |minute: u64| far_c(if minute % 60 < 15 { 400 } else { 80 });
        assert_eq!(run(&mut tracker, 0, 24 * 60, spikes), []);
    }

    #[test]
    fn p3_of_two_steps_by_turns_the_one_that_held_is_applied() {
        let mut tracker = WeightTracker::new(WeightOptions::default(), RegionWeights::default());
        let changes = run(&mut tracker, 0, 300, |minute| far_c(if minute / 15 % 2 == 0 { 96 } else { 115 }));
        assert_eq!(changes, [(45, -1)]);
    }

    #[test]
    fn p3_two_changes_are_at_least_ten_minutes_apart() {
        let options = WeightOptions { hold_ms: 0, window_ms: MINUTE_MS, ..WeightOptions::default() };
        let mut tracker = WeightTracker::new(options, RegionWeights::default());
        let changes = run(&mut tracker, 0, 60, |minute| far_c(if minute / 5 % 2 == 0 { 80 } else { 160 }));
        assert!(changes.len() > 2 && changes.windows(2).all(|two| two[1].0 - two[0].0 >= 10), "{changes:?}");
    }

    #[test]
    fn p3_without_measurements_nothing_changes() {
        let mut tracker = WeightTracker::new(WeightOptions::default(), RegionWeights::default());
        assert_eq!(run(&mut tracker, 0, 300, |_| RoundTrips::default()), []);
        assert_eq!(tracker.observe(u64::MAX, &RoundTrips::default(), &BTreeMap::new(), &BTreeMap::new()), None);
    }

    #[test]
    fn the_median_goes_smoothly_from_one_value_to_the_other() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![(7.0, 3.0)]), Some(7.0));
        assert_eq!(median(vec![(232.0, 1.0), (1.0, 1.0), (75.0, 1.0)]), Some(75.0));
        assert_eq!(median(vec![(0.0, 1.0), (80.0, 1.0)]), Some(40.0));
        let shifted = median(vec![(0.0, 0.51), (80.0, 0.49)]).expect("two values");
        assert!((shifted - 39.2).abs() < 0.01, "{shifted}");
    }
}
