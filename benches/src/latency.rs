//! Latencies, and what their percentiles are.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::table::time;

/// Above this a time is counted as this.
const MAX_NANOS: u64 = 600_000_000_000;

/// Times of many requests, to three significant figures, between a nanosecond and ten minutes.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_max(MAX_NANOS, 3).expect("a maximum above 2 and three figures are what it takes"))
    }
}

impl Latencies {
    /// Counts one.
    pub fn record(&mut self, took: Duration) {
        self.0.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(MAX_NANOS).min(MAX_NANOS));
    }

    /// Counts all of `other` too.
    pub fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same maximum");
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time that a share of `quantile`, 0 to 1, kept to. Nought when nothing was counted.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Duration {
        Duration::from_nanos(self.0.value_at_quantile(quantile))
    }

    /// The longest.
    #[must_use]
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.0.max())
    }

    /// p50, p99, p99.9 and maximum in one cell.
    #[must_use]
    pub fn summary(&self) -> String {
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|q| time(self.quantile(q)));
        format!("p50 {p50}, p99 {p99}, p99.9 {p999}, max {}", time(self.max()))
    }
}

/// The value that a share of `quantile` of the sorted values keeps to (nearest rank); `None` of none.
#[must_use]
pub fn rank(sorted: &[i64], quantile: f64) -> Option<i64> {
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "ranks are small")]
    let rank = (sorted.len() as f64 * quantile).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_parts_are_those_of_the_whole() {
        let (mut whole, mut odd, mut even) = (Latencies::default(), Latencies::default(), Latencies::default());
        for micros in 1..=1000 {
            whole.record(Duration::from_micros(micros));
            if micros % 2 == 0 { &mut even } else { &mut odd }.record(Duration::from_micros(micros));
        }
        odd.add(&even);
        assert_eq!(odd.count(), 1000);
        assert_eq!(odd.summary(), whole.summary());
        let p99 = whole.quantile(0.99);
        assert!((989..=991).contains(&p99.as_micros()), "{p99:?}");
    }

    #[test]
    fn an_absurd_time_is_counted_not_lost() {
        let mut latencies = Latencies::default();
        latencies.record(Duration::from_secs(10_000));
        assert_eq!(latencies.count(), 1);
        assert!(latencies.max() >= Duration::from_secs(599));
    }

    #[test]
    fn a_rank_is_a_value_that_was_seen() {
        assert_eq!(rank(&[-3, 1, 5, 9], 0.5), Some(1));
        assert_eq!(rank(&[-3, 1, 5, 9], 0.99), Some(9));
        assert_eq!(rank(&[-3, 1, 5, 9], 0.0), Some(-3));
        assert_eq!(rank(&[], 0.5), None);
    }
}
