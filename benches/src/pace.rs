//! Open-loop pacing: each request is due at a time fixed beforehand, so that a slow answer does not hide the ones that should
//! have been sent meanwhile (no coordinated omission).

use std::time::{Duration, Instant};

/// The last stretch before a request is due is spun through: a sleep ends some microseconds late.
const SPIN: Duration = Duration::from_micros(40);

/// When each request of a lane is due: evenly spaced, lanes interleaved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    start: Instant,
    interval: Duration,
}

impl Schedule {
    /// The schedule of one of `lanes` lanes which share `rate` requests a second from `start`.
    #[must_use]
    pub fn of_lane(start: Instant, rate: u32, lane: u32, lanes: u32) -> Self {
        let step = Duration::from_secs(1) / rate.max(1);
        Self { start: start + step * lane, interval: step * lanes.max(1) }
    }

    /// When request `number`, counted from 0, is due.
    #[must_use]
    pub fn due(&self, number: u32) -> Instant {
        self.start + self.interval * number
    }

    /// The times due before `end`, in order.
    pub fn until(self, end: Instant) -> impl Iterator<Item = Instant> {
        (0..u32::MAX).map(move |number| self.due(number)).take_while(move |due| *due < end)
    }
}

/// Returns at `due`, or at once when that is past.
pub fn wait_until(due: Instant) {
    loop {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        match left.checked_sub(SPIN) {
            Some(long) if !long.is_zero() => std::thread::sleep(long),
            _ => std::hint::spin_loop(),
        }
    }
}

/// Lets sleeps of this process end on time rather than up to 50 us late (Linux timer slack; threads started later inherit it).
/// Where the kernel does not offer it sleeps stay coarse, which shows in the lateness that is printed.
pub fn sharpen_sleep() {
    let _ = std::fs::write("/proc/self/timerslack_ns", "1000");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_interleave_to_one_even_schedule() {
        let start = Instant::now();
        let mut due: Vec<Duration> = Vec::new();
        for lane in 0..4 {
            due.extend(Schedule::of_lane(start, 1000, lane, 4).until(start + Duration::from_millis(20)).map(|at| at - start));
        }
        due.sort_unstable();
        assert_eq!(due, (0..20).map(Duration::from_millis).collect::<Vec<_>>());
    }

    #[test]
    fn a_schedule_does_not_drift() {
        let start = Instant::now();
        assert_eq!(Schedule::of_lane(start, 2000, 0, 1).due(120_000) - start, Duration::from_secs(60));
    }

    #[test]
    fn waiting_never_ends_early() {
        for micros in [0, 10, 300, 2000] {
            let due = Instant::now() + Duration::from_micros(micros);
            wait_until(due);
            assert!(Instant::now() >= due);
        }
    }
}
