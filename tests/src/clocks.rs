//! Wall clocks that disagree: one a node, off by an offset, drifting, and stepped by faults.

use std::time::Duration;

use isochrone_ident::WallMicros;

/// The wall time at which every simulation begins: 2023-11-14T22:13:20Z.
pub const EPOCH: WallMicros = WallMicros(1_700_000_000_000_000);

/// One node's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock {
    /// Off by so many microseconds from the start.
    pub offset_us: i64,
    /// Gains so many microseconds a second.
    pub drift_ppm: i64,
    /// Off by so many more, for as long as a fault lasts.
    pub stepped_us: i64,
}

impl Clock {
    /// What it shows when the simulation has run for that long.
    #[must_use]
    pub fn show(&self, elapsed: Duration) -> WallMicros {
        let micros = i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX);
        let off = self.offset_us + self.stepped_us + micros / 1_000_000 * self.drift_ppm;
        WallMicros(EPOCH.0.saturating_add_signed(micros.saturating_add(off)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_shows_offset_drift_and_step() {
        let clock = Clock { offset_us: 7, drift_ppm: -10, stepped_us: 1_000 };
        assert_eq!(clock.show(Duration::from_secs(20)), WallMicros(EPOCH.0 + 20_000_000 + 7 - 200 + 1_000));
    }
}
