//! How long a peer's answers take, lately: what a hedged read waits for before it asks the next replica (M8).

use std::time::Duration;

/// Answers remembered.
const SAMPLES: usize = 64;

/// Answers between two computations of the percentile.
const STALE_AFTER: usize = 8;

/// Shortest wait before a hedge, and the wait while nothing is known.
const HEDGE_MIN: Duration = Duration::from_millis(1);
const HEDGE_UNKNOWN: Duration = Duration::from_millis(250);

/// Longest wait before a hedge.
const HEDGE_MAX: Duration = Duration::from_secs(2);

/// A ring of the last answers' latencies, with their 95th percentile.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    micros: Vec<u32>,
    next: usize,
    unseen: usize,
    p95: Option<Duration>,
}

impl Latencies {
    pub(crate) fn push(&mut self, latency: Duration) {
        let micros = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
        match self.micros.get_mut(self.next) {
            Some(slot) => *slot = micros,
            None => self.micros.push(micros),
        }
        self.next = (self.next + 1) % SAMPLES;
        self.unseen += 1;
        if self.unseen >= STALE_AFTER || self.micros.len() <= STALE_AFTER {
            self.unseen = 0;
            self.p95 = self.percentile_95();
        }
    }

    /// Nearest rank.
    fn percentile_95(&self) -> Option<Duration> {
        let mut sorted = self.micros.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * 95).div_ceil(100);
        sorted.get(rank.checked_sub(1)?).map(|micros| Duration::from_micros(u64::from(*micros)))
    }

    /// How long to wait for this peer before asking another: its p95, never less than a round trip.
    pub(crate) fn hedge_after(&self, round_trip: Option<Duration>) -> Duration {
        let guess = round_trip.map_or(HEDGE_UNKNOWN, |rtt| rtt * 3 / 2 + Duration::from_millis(10));
        let floor = round_trip.unwrap_or(HEDGE_MIN).clamp(HEDGE_MIN, HEDGE_MAX);
        self.p95.unwrap_or(guess).clamp(floor, HEDGE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_hedge_waits_for_the_95th_percentile_of_the_last_answers() {
        let mut latencies = Latencies::default();
        (0..1000).for_each(|_| latencies.push(ms(900)));
        (1..=64).for_each(|i| latencies.push(ms(i)));
        assert_eq!(latencies.hedge_after(None), ms(61));
    }

    #[test]
    fn a_hedge_never_goes_before_the_round_trip_and_is_never_put_off_for_long() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.hedge_after(Some(ms(100))), ms(160));
        latencies.push(ms(3));
        assert_eq!(latencies.hedge_after(Some(ms(100))), ms(100));
        latencies.push(ms(60_000));
        assert_eq!(latencies.hedge_after(Some(ms(100))), HEDGE_MAX);
    }
}
