//! Times for the writes that this daemon takes, and which of them are still on their way to the log.

use std::collections::BTreeSet;
use std::sync::Mutex;

use isochrone_ident::{Hlc, Incarnation, NodeId, Version, WallMicros};
use isochrone_replica::{Clock, ClockAhead, ClockLimits, Observed};

struct Inner {
    clock: Clock,
    in_flight: BTreeSet<Hlc>,
}

/// Gives every write its version (E3, E4) and remembers it until the write is in the operation log.
pub(crate) struct Stamps {
    node: NodeId,
    incarnation: Incarnation,
    inner: Mutex<Inner>,
}

impl Stamps {
    /// Stamps that go on after `last`, the highest time that an earlier run left on disk.
    pub(crate) fn new(node: NodeId, incarnation: Incarnation, last: Hlc, limits: ClockLimits) -> Self {
        Self { node, incarnation, inner: Mutex::new(Inner { clock: Clock::new(last, limits), in_flight: BTreeSet::new() }) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A version for a write that is about to be committed. To be [`settle`](Stamps::settle)d when the commit has ended, well or not.
    pub(crate) fn issue(&self, now: WallMicros) -> Version {
        let mut inner = self.lock();
        let hlc = inner.clock.tick(now);
        inner.in_flight.insert(hlc);
        Version { hlc, node: self.node, incarnation: self.incarnation }
    }

    /// The write of that version is in the log, or will never be.
    pub(crate) fn settle(&self, version: Version) {
        self.lock().in_flight.remove(&version.hlc);
    }

    /// A time such that every write of ours at or below it is in the log already, and none will be taken at or below it.
    pub(crate) fn floor(&self, now: WallMicros) -> Hlc {
        let mut inner = self.lock();
        match inner.in_flight.first() {
            Some(oldest) => oldest.previous(),
            None => inner.clock.tick(now),
        }
    }

    /// Takes a peer's time (E4).
    ///
    /// # Errors
    /// [`ClockAhead`]; the clock did not move.
    pub(crate) fn observe(&self, theirs: Hlc, now: WallMicros) -> Result<Observed, ClockAhead> {
        self.lock().clock.observe(theirs, now)
    }

    /// The latest time given or taken.
    pub(crate) fn last(&self) -> Hlc {
        self.lock().clock.last()
    }

    /// How far the clock runs ahead of the wall's, in milliseconds: large after the wall clock was set back.
    pub(crate) fn ahead_ms(&self, now: WallMicros) -> u64 {
        self.lock().clock.ahead_ms(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamps() -> Stamps {
        Stamps::new(NodeId(1), Incarnation(1), Hlc::ZERO, ClockLimits::default())
    }

    #[test]
    fn the_floor_stays_below_a_write_in_flight_and_follows_the_clock_without_one() {
        let stamps = stamps();
        let version = stamps.issue(WallMicros(10));
        assert!(stamps.floor(WallMicros(99)) < version.hlc);
        stamps.settle(version);
        let floor = stamps.floor(WallMicros(99));
        assert!(floor >= Hlc::at(WallMicros(99)));
        assert!(stamps.issue(WallMicros(99)).hlc > floor, "nothing is taken at or below a floor once given");
    }
}
