//! How a peer's wall clock stands to ours, and who of all is wrong (E4's alarm).

use std::time::Duration;

use isochrone_ident::WallMicros;
use serde::Serialize;

/// Samples remembered of each peer.
const SAMPLES: usize = 9;

/// From this median offset on, in milliseconds, a clock is called wrong: the alarm bound of rule E4.
pub const CLOCK_ALARM_MS: i64 = 100;

/// Offsets of one peer's clock to ours, from the wall times in its heartbeats: right to within half the asymmetry of the path.
#[derive(Debug, Default)]
pub(crate) struct Offsets {
    micros: Vec<i64>,
    next: usize,
}

impl Offsets {
    /// A heartbeat written at `theirs` came at `ours`, over a path of that round trip.
    pub(crate) fn push(&mut self, theirs: WallMicros, ours: WallMicros, round_trip: Duration) {
        let travelled = i128::try_from(round_trip.as_micros() / 2).unwrap_or(0);
        let offset = i128::from(theirs.0) + travelled - i128::from(ours.0);
        let offset = offset.clamp(i128::from(i64::MIN), i128::from(i64::MAX));
        let offset = i64::try_from(offset).unwrap_or(0);
        match self.micros.get_mut(self.next) {
            Some(slot) => *slot = offset,
            None => self.micros.push(offset),
        }
        self.next = (self.next + 1) % SAMPLES;
    }

    /// The median offset in milliseconds: positive when the peer's clock is ahead of ours.
    pub(crate) fn median_ms(&self) -> Option<i64> {
        median(self.micros.clone()).map(|micros| micros / 1000)
    }
}

/// The lower median.
pub(crate) fn median<T: Ord + Copy>(mut values: Vec<T>) -> Option<T> {
    values.sort_unstable();
    values.get(values.len().checked_sub(1)? / 2).copied()
}

/// How our clock stands to the cluster's. `ms` is how far, in milliseconds, always positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(tag = "verdict", rename_all = "lowercase")]
pub enum ClockVerdict {
    /// Nobody to compare with yet.
    #[default]
    Unmeasured,
    /// Within [`CLOCK_ALARM_MS`] of the others' median.
    Agrees,
    /// One other only, and it disagrees: one of the two is wrong.
    Disputed {
        /// How far apart.
        ms: u64,
    },
    /// Ours is ahead of most.
    Ahead {
        /// By how much.
        ms: u64,
    },
    /// Ours is behind most.
    Behind {
        /// By how much.
        ms: u64,
    },
}

impl ClockVerdict {
    /// The verdict from the peers' offsets to us, in milliseconds.
    pub(crate) fn of(offsets_ms: Vec<i64>) -> Self {
        let peers = offsets_ms.len();
        let Some(offset) = median(offsets_ms) else { return Self::Unmeasured };
        let ms = offset.unsigned_abs();
        match offset {
            _ if ms < CLOCK_ALARM_MS.unsigned_abs() => Self::Agrees,
            _ if peers == 1 => Self::Disputed { ms },
            1.. => Self::Behind { ms },
            _ => Self::Ahead { ms },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_is_corrected_by_half_the_round_trip() {
        let mut offsets = Offsets::default();
        offsets.push(WallMicros(1_000_000), WallMicros(1_050_000), Duration::from_millis(100));
        assert_eq!(offsets.median_ms(), Some(0));
    }

    #[test]
    fn one_wild_sample_does_not_move_the_offset_and_extremes_do_not_overflow() {
        let mut offsets = Offsets::default();
        (0..4).for_each(|_| offsets.push(WallMicros(5_000), WallMicros(0), Duration::ZERO));
        offsets.push(WallMicros(u64::MAX), WallMicros(0), Duration::MAX);
        assert_eq!(offsets.median_ms(), Some(5));
    }

    #[test]
    fn a_clock_an_hour_off_is_told_from_the_others() {
        let hour = 3_600_000;
        assert_eq!(ClockVerdict::of(vec![-hour, -hour + 3, 2 - hour]), ClockVerdict::Ahead { ms: 3_599_998 });
        assert!(matches!(ClockVerdict::of(vec![hour, hour]), ClockVerdict::Behind { .. }));
        assert_eq!(ClockVerdict::of(vec![0, 3, hour]), ClockVerdict::Agrees);
        assert_eq!(ClockVerdict::of(vec![hour]), ClockVerdict::Disputed { ms: 3_600_000 });
        assert_eq!(ClockVerdict::of(vec![]), ClockVerdict::Unmeasured);
    }
}
