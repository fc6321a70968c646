//! How long a pool waits (M5): derived from measured round trips, never set by an operator.
//!
//! ```text
//!   probe_rtt     = 3 x p99 of the pool's round trips, within bounds     until the indirect probes start
//!   probe_period  = 3 x probe_rtt, at least 500 ms                       until the probe has failed
//!   suspicion     = probe_period x (2 + log2 members)                    until a suspect is declared down
//! ```
//!
//! The suspicion grows with the logarithm of the pool because that is how long a refutation needs to spread (SWIM, section 4.2).

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Which kind of pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Scope {
    /// All members of one region.
    Local,
    /// The gateways of all regions.
    Wide,
}

impl Scope {
    /// Assumed, shortest and longest wait for a direct answer.
    const fn bounds(self) -> (Duration, Duration, Duration) {
        match self {
            Self::Local => (Duration::from_millis(300), Duration::from_millis(150), Duration::from_millis(1000)),
            Self::Wide => (Duration::from_millis(700), Duration::from_millis(250), Duration::from_millis(2000)),
        }
    }
}

const PERIOD_MIN: Duration = Duration::from_millis(500);
const GOSSIP_MIN: Duration = Duration::from_millis(100);
const GOSSIP_MAX: Duration = Duration::from_millis(500);

/// The waits of one pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timing {
    /// How long a direct answer may take.
    pub(crate) probe_rtt: Duration,
    /// One probe, from ping to verdict.
    pub(crate) probe_period: Duration,
    /// Between two rounds of spreading updates.
    pub(crate) gossip: Duration,
}

impl Timing {
    /// Waits from the p99 round trip of the pool's members; `None` while nothing is measured.
    pub(crate) fn of(scope: Scope, round_trip_p99: Option<Duration>) -> Self {
        let (assumed, min, max) = scope.bounds();
        let probe_rtt = round_trip_p99.map_or(assumed, |p99| p99.saturating_mul(3).clamp(min, max));
        let probe_period = (probe_rtt * 3).max(PERIOD_MIN);
        Self { probe_rtt, probe_period, gossip: (probe_period / 4).clamp(GOSSIP_MIN, GOSSIP_MAX) }
    }

    /// How long a suspect has to refute, in a pool of that many members, ourselves included.
    pub(crate) fn suspicion(&self, members: usize) -> Duration {
        self.probe_period * (2 + members.max(1).ilog2())
    }
}

/// The 99th percentile of round trips, nearest rank; the longest when there are fewer than a hundred.
pub(crate) fn p99(mut round_trips: Vec<Duration>) -> Option<Duration> {
    round_trips.sort_unstable();
    let rank = (round_trips.len() * 99).div_ceil(100);
    round_trips.get(rank.checked_sub(1)?).copied()
}

/// How often an update rides on a message before it is dropped: grows with the logarithm of the pool (SWIM, section 4.1).
pub(crate) fn transmissions(members: usize) -> u8 {
    let log2 = members.max(1).ilog2().min(30);
    u8::try_from(6 + 3 * log2).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn waits_follow_the_measured_round_trips_within_bounds() {
        assert_eq!(Timing::of(Scope::Wide, Some(ms(232))).probe_rtt, ms(696));
        assert_eq!(Timing::of(Scope::Local, Some(ms(1))).probe_rtt, ms(150));
        assert_eq!(Timing::of(Scope::Local, Some(ms(1))).probe_period, ms(500));
        assert_eq!(Timing::of(Scope::Wide, Some(Duration::MAX)).probe_rtt, ms(2000));
        assert!(Timing::of(Scope::Wide, None).probe_rtt > Timing::of(Scope::Local, None).probe_rtt);
    }

    #[test]
    fn suspicion_grows_with_the_logarithm_of_the_pool() {
        let timing = Timing::of(Scope::Local, Some(ms(1)));
        assert_eq!(timing.suspicion(2), ms(1500));
        assert_eq!(timing.suspicion(32), ms(3500));
        assert_eq!(timing.suspicion(1024), ms(6000));
    }

    #[test]
    fn the_99th_percentile_leaves_out_the_one_slowest_of_a_hundred() {
        assert_eq!(p99((1..=100).map(ms).collect()), Some(ms(99)));
        assert_eq!(p99(vec![ms(3), ms(9)]), Some(ms(9)));
        assert_eq!(p99(vec![]), None);
    }
}
