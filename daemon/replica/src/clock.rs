//! The hybrid logical clock (E4), with wall time as an argument.

use isochrone_ident::{Hlc, WallMicros};

/// How far ahead of our wall clock a peer's time may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockLimits {
    /// Beyond this many milliseconds a time is refused (E4: 500).
    pub ahead_ms_max: u64,
    /// Beyond this many milliseconds a time is taken, but worth an alarm (E4: 100).
    pub ahead_ms_alarm: u64,
}

impl Default for ClockLimits {
    fn default() -> Self {
        Self { ahead_ms_max: 500, ahead_ms_alarm: 100 }
    }
}

/// A time that claims to be too far in the future. The clock was not moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a time {ahead_ms} ms ahead of this clock is refused (limit {limit_ms} ms): check the time synchronisation of both nodes")]
pub struct ClockAhead {
    /// How far ahead it was, in milliseconds.
    pub ahead_ms: u64,
    /// How far it may be, in milliseconds.
    pub limit_ms: u64,
}

/// What taking a peer's time showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed {
    /// How far ahead of our wall clock it was, in milliseconds; 0 when behind.
    pub ahead_ms: u64,
    /// Whether that is past the alarm threshold.
    pub alarming: bool,
}

/// A hybrid logical clock (Kulkarni et al. 2014, section 3): every [`tick`](Clock::tick) is later than all that it gave or took before.
#[derive(Debug, Clone)]
pub struct Clock {
    last: Hlc,
    limits: ClockLimits,
}

impl Clock {
    /// A clock that goes on after `last`: the highest time that an earlier run left on disk, or [`Hlc::ZERO`].
    #[must_use]
    pub const fn new(last: Hlc, limits: ClockLimits) -> Self {
        Self { last, limits }
    }

    /// A time later than every earlier one, and not before `now`.
    pub fn tick(&mut self, now: WallMicros) -> Hlc {
        self.last = self.last.next().max(Hlc::at(now));
        self.last
    }

    /// Takes a peer's time, so that the next tick is later than it.
    ///
    /// # Errors
    /// [`ClockAhead`] when it is further ahead of `now` than the limit; the clock stays where it was.
    pub fn observe(&mut self, theirs: Hlc, now: WallMicros) -> Result<Observed, ClockAhead> {
        let ahead_ms = theirs.wall().0.saturating_sub(now.0) / 1000;
        if ahead_ms > self.limits.ahead_ms_max {
            return Err(ClockAhead { ahead_ms, limit_ms: self.limits.ahead_ms_max });
        }
        self.last = self.last.max(theirs);
        Ok(Observed { ahead_ms, alarming: ahead_ms > self.limits.ahead_ms_alarm })
    }

    /// The last time given or taken.
    #[must_use]
    pub const fn last(&self) -> Hlc {
        self.last
    }

    /// How far this clock runs ahead of `now`, in milliseconds: large when the wall clock was set back.
    #[must_use]
    pub const fn ahead_ms(&self, now: WallMicros) -> u64 {
        self.last.wall().0.saturating_sub(now.0) / 1000
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn clock() -> Clock {
        Clock::new(Hlc::ZERO, ClockLimits::default())
    }

    proptest! {
        #[test]
        fn every_tick_is_later_than_all_before_whatever_the_wall_clock_does(walls in prop::collection::vec(0u64..1_000_000, 1..50)) {
            let mut clock = clock();
            let mut before = Hlc::ZERO;
            for wall in walls {
                let next = clock.tick(WallMicros(wall));
                prop_assert!(next > before);
                prop_assert!(next >= Hlc::at(WallMicros(wall)));
                before = next;
            }
        }
    }

    #[test]
    fn e4_a_time_more_than_500_ms_ahead_is_refused_and_leaves_the_clock_alone() {
        let mut clock = clock();
        let before = clock.tick(WallMicros(1_000_000));
        let theirs = Hlc::at(WallMicros(1_502_000));
        assert_eq!(clock.observe(theirs, WallMicros(1_000_000)), Err(ClockAhead { ahead_ms: 502, limit_ms: 500 }));
        assert_eq!(clock.last(), before);
    }

    #[test]
    fn e4_a_time_more_than_100_ms_ahead_is_taken_with_an_alarm() {
        let mut clock = clock();
        let theirs = Hlc::at(WallMicros(1_200_000));
        assert_eq!(clock.observe(theirs, WallMicros(1_000_000)), Ok(Observed { ahead_ms: 200, alarming: true }));
        assert!(clock.tick(WallMicros(1_000_000)) > theirs);
    }

    #[test]
    fn a_clock_that_was_set_back_says_how_far_it_runs_ahead() {
        let clock = Clock::new(Hlc::at(WallMicros(10_000_000)), ClockLimits::default());
        assert_eq!(clock.ahead_ms(WallMicros(4_000_000)), 6_000);
    }
}
