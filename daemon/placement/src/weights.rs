//! Region weights, as the council stores them (P3), and the round trips that they come from.

use std::collections::BTreeMap;

use isochrone_ident::Region;
use serde::{Deserialize, Serialize};

/// A latency factor outside its nine steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a weight step is -4 to 4, not {0}")]
pub struct InvalidStep(pub i8);

/// The latency factor of a region (P3), quantised: 1.2 to the power of a whole step from -4 to 4, held inside 1/2 to 2. Step 0 is 1.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "i8", into = "i8")]
pub struct WeightStep(i8);

impl WeightStep {
    /// The factor 1.0.
    pub const ONE: Self = Self(0);
    /// The factor 2.0: a region that is much nearer than others.
    pub const NEAREST: Self = Self(4);
    /// The factor 0.5: a region that is much farther than others.
    pub const FARTHEST: Self = Self(-4);

    /// 1.2^-4 to 1.2^4, the ends held at 1/2 and 2. Written out, so that no platform's `pow` has a say.
    const FACTORS: [f64; 9] = [0.5, 0.578_703_703_703_703_7, 0.694_444_444_444_444_4, 0.833_333_333_333_333_4, 1.0, 1.2, 1.44, 1.728, 2.0];

    /// The factor of that many 20 % steps above (or below) 1.0.
    ///
    /// # Errors
    /// [`InvalidStep`] outside `-4..=4`.
    pub const fn new(step: i8) -> Result<Self, InvalidStep> {
        if step >= -4 && step <= 4 { Ok(Self(step)) } else { Err(InvalidStep(step)) }
    }

    /// The step whose factor is nearest to `factor` (by ratio); what is beyond 1/2 or 2 takes the end.
    #[must_use]
    pub fn nearest(factor: f64) -> Self {
        let above = |pair: &[f64]| factor * factor > pair[0] * pair[1];
        let steps = Self::FACTORS.windows(2).filter(|pair| above(pair)).count();
        Self(steps as i8 - 4)
    }

    /// The step's number, -4 to 4.
    #[must_use]
    pub const fn number(self) -> i8 {
        self.0
    }

    /// The factor, 0.5 to 2.0.
    #[must_use]
    pub const fn factor(self) -> f64 {
        Self::FACTORS[(self.0 + 4) as usize]
    }
}

impl TryFrom<i8> for WeightStep {
    type Error = InvalidStep;

    fn try_from(step: i8) -> Result<Self, InvalidStep> {
        Self::new(step)
    }
}

impl From<WeightStep> for i8 {
    fn from(step: WeightStep) -> Self {
        step.0
    }
}

/// The latency factors of all regions (P3). A region that is not named has 1.0, so the default is 1.0 for all.
///
/// A region's weight is its capacity times this factor. The capacity part is not kept here: it is taken from the candidates when a table is
/// computed, so that a member that joins counts at once, while a latency factor has to hold for half an hour before it changes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RegionWeights(BTreeMap<Region, WeightStep>);

impl RegionWeights {
    /// The region's factor.
    #[must_use]
    pub fn step(&self, region: &Region) -> WeightStep {
        self.0.get(region).copied().unwrap_or_default()
    }

    /// Sets a region's factor.
    pub fn set(&mut self, region: Region, step: WeightStep) {
        if step == WeightStep::ONE {
            self.0.remove(&region);
        } else {
            self.0.insert(region, step);
        }
    }

    /// The regions whose factor is not 1.0, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Region, WeightStep)> {
        self.0.iter().map(|(region, &step)| (region, step))
    }
}

impl FromIterator<(Region, WeightStep)> for RegionWeights {
    fn from_iter<I: IntoIterator<Item = (Region, WeightStep)>>(steps: I) -> Self {
        let mut weights = Self::default();
        for (region, step) in steps {
            weights.set(region, step);
        }
        weights
    }
}

/// Round trips between regions, in microseconds (M6), seen symmetrically: what either end measured counts for both ways.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<(Region, Region, u32)>", into = "Vec<(Region, Region, u32)>")]
pub struct RoundTrips(BTreeMap<Region, BTreeMap<Region, u32>>);

impl RoundTrips {
    /// Adds one measurement, in microseconds. Of several for one pair, from either end, the least stays: it has the least queueing in it.
    pub fn insert(&mut self, a: &Region, b: &Region, micros: u32) {
        for (from, to) in [(a, b), (b, a)] {
            let known = self.0.entry(from.clone()).or_default().entry(to.clone()).or_insert(micros);
            *known = micros.min(*known);
        }
    }

    /// The round trip between two regions (or inside one), in microseconds; `None` where nobody has measured it.
    #[must_use]
    pub fn between(&self, a: &Region, b: &Region) -> Option<u32> {
        self.0.get(a)?.get(b).copied()
    }

    /// Every pair once, the lesser region first, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Region, &Region, u32)> {
        self.0.iter().flat_map(|(a, row)| row.iter().filter(move |(b, _)| a <= *b).map(move |(b, &micros)| (a, b, micros)))
    }

    /// Whether nothing has been measured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These round trips, but with the `previous` value kept for each pair that has changed by at most a fifth. What P6 chooses from should pass
    /// through this, or jitter moves data.
    #[must_use]
    pub fn settled(&self, previous: &Self) -> Self {
        let keep = |old: u32, new: u32| u64::from(old.abs_diff(new)) * 5 <= u64::from(old);
        let settle = |(a, b, new): (&Region, &Region, u32)| {
            let old = previous.between(a, b).filter(|&old| keep(old, new));
            (a.clone(), b.clone(), old.unwrap_or(new))
        };
        self.iter().map(settle).collect()
    }
}

impl FromIterator<(Region, Region, u32)> for RoundTrips {
    fn from_iter<I: IntoIterator<Item = (Region, Region, u32)>>(measured: I) -> Self {
        let mut trips = Self::default();
        for (a, b, micros) in measured {
            trips.insert(&a, &b, micros);
        }
        trips
    }
}

impl From<Vec<(Region, Region, u32)>> for RoundTrips {
    fn from(measured: Vec<(Region, Region, u32)>) -> Self {
        measured.into_iter().collect()
    }
}

impl From<RoundTrips> for Vec<(Region, Region, u32)> {
    fn from(trips: RoundTrips) -> Self {
        trips.iter().map(|(a, b, micros)| (a.clone(), b.clone(), micros)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(name: &str) -> Region {
        Region::new(name).expect("a valid region")
    }

    #[test]
    fn p3_factors_step_by_a_fifth_between_a_half_and_two() {
        for step in -3..=3 {
            let step = WeightStep::new(step).expect("in range");
            assert!((step.factor() - 1.2_f64.powi(i32::from(step.number()))).abs() < 1e-12);
            for jitter in [0.93, 1.0, 1.07] {
                assert_eq!(WeightStep::nearest(step.factor() * jitter), step);
            }
        }
        assert_eq!((WeightStep::nearest(1e-9), WeightStep::nearest(1e9)), (WeightStep::FARTHEST, WeightStep::NEAREST));
        assert_eq!((WeightStep::FARTHEST.factor(), WeightStep::NEAREST.factor()), (0.5, 2.0));
        assert!(postcard::from_bytes::<WeightStep>(&[5]).is_err());
    }

    #[test]
    fn round_trips_are_symmetric_and_the_least_stays() {
        let (a, b) = (region("a"), region("b"));
        let trips: RoundTrips = [(b.clone(), a.clone(), 80), (a.clone(), b.clone(), 75), (a.clone(), a.clone(), 1)].into_iter().collect();
        assert_eq!((trips.between(&a, &b), trips.between(&b, &a)), (Some(75), Some(75)));
        assert_eq!(trips.between(&b, &b), None);
        let bytes = postcard::to_allocvec(&trips).expect("encodes");
        assert_eq!(postcard::from_bytes::<RoundTrips>(&bytes), Ok(trips));
    }

    #[test]
    fn settled_round_trips_change_only_by_more_than_a_fifth() {
        let (a, b, c) = (region("a"), region("b"), region("c"));
        let trips = |ab, ac| [(a.clone(), b.clone(), ab), (a.clone(), c.clone(), ac)].into_iter().collect::<RoundTrips>();
        assert_eq!(trips(119, 121).settled(&trips(100, 100)), trips(100, 121));
        assert_eq!(trips(119, 121).settled(&RoundTrips::default()), trips(119, 121));
    }
}
