//! When: wall time, hybrid logical time, and the version of a write.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Incarnation, NodeId};

/// Wall-clock time in microseconds since 1970-01-01T00:00:00Z. May step in either direction; never used to measure an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct WallMicros(pub u64);

impl WallMicros {
    /// The time in whole milliseconds since the Unix epoch.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0 / 1000
    }

    /// This time plus `millis` milliseconds, at most the largest that can be told.
    #[must_use]
    pub const fn plus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis.saturating_mul(1000)))
    }
}

/// A hybrid logical time (Kulkarni et al. 2014, "Logical Physical Clocks", section 3), packed as in its section 6.2: wall
/// microseconds in the upper 56 bits, a counter for events of the same microsecond in the lower 8. A full counter carries into the microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Hlc(pub u64);

impl Hlc {
    /// The time before every event.
    pub const ZERO: Self = Self(0);

    /// The first hybrid time of that wall time.
    #[must_use]
    pub const fn at(wall: WallMicros) -> Self {
        Self(wall.0 << 8)
    }

    /// The wall time that this hybrid time claims.
    #[must_use]
    pub const fn wall(self) -> WallMicros {
        WallMicros(self.0 >> 8)
    }

    /// The next hybrid time after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The hybrid time just before this one; [`Hlc::ZERO`] has none and stays.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

/// A text that no [`Version`] is written as.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a version is written as <hlc>-<node>-<incarnation> in hexadecimal, not {0:?}")]
pub struct InvalidVersion(pub String);

/// The marker of one write (rule E4): unique, because a node draws a hybrid time once only in an incarnation, and totally ordered, so that no two
/// writes tie. Written `<hlc>-<node>-<incarnation>` in hexadecimal, which is what an `ETag` carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Version {
    /// When the write was taken.
    pub hlc: Hlc,
    /// Who took it.
    pub node: NodeId,
    /// In which of its starts.
    pub incarnation: Incarnation,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}-{:x}", self.hlc.0, self.node.0, self.incarnation.0)
    }
}

impl FromStr for Version {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        let refuse = || InvalidVersion(text.to_owned());
        let mut parts = text.split('-');
        let mut part = || parts.next().filter(|p| p.bytes().all(|b| b.is_ascii_hexdigit())).ok_or_else(refuse);
        let (hlc, node, incarnation) = (part()?, part()?, part()?);
        if parts.next().is_some() {
            return Err(refuse());
        }
        Ok(Self {
            hlc: Hlc(u64::from_str_radix(hlc, 16).map_err(|_| refuse())?),
            node: NodeId(u128::from_str_radix(node, 16).map_err(|_| refuse())?),
            incarnation: Incarnation(u64::from_str_radix(incarnation, 16).map_err(|_| refuse())?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_reads_back_as_it_was_written() {
        let version = Version { hlc: Hlc(77 << 8 | 3), node: NodeId(u128::MAX), incarnation: Incarnation(4) };
        assert_eq!(version.to_string().parse(), Ok(version));
        for bad in ["", "1-2", "1-2-3-4", "x-2-3", "1--3", "+1-2-3"] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }

    #[test]
    fn versions_order_by_time_then_node_then_incarnation() {
        let v = |hlc, node, inc| Version { hlc: Hlc(hlc), node: NodeId(node), incarnation: Incarnation(inc) };
        assert!(v(2, 1, 1) > v(1, 9, 9));
        assert!(v(1, 2, 1) > v(1, 1, 9));
        assert!(v(1, 1, 2) > v(1, 1, 1));
    }

    #[test]
    fn a_full_counter_carries_into_the_microseconds() {
        let last = Hlc::at(WallMicros(5)).0 | 0xff;
        assert_eq!(Hlc(last).next(), Hlc::at(WallMicros(6)));
    }
}
