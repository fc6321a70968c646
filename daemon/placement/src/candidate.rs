//! Who may hold replicas, and how much of them.

use isochrone_ident::{NodeId, Region, Zone};
use serde::{Deserialize, Serialize};

/// A capacity outside `1..=10_000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a capacity is 1 to 10000 hundredths, not {0}")]
pub struct InvalidCapacity(pub u32);

/// How much a node can carry, in hundredths of an ordinary node: 100 = 1.0, range 1 to 10,000. Set by the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Capacity(u32);

impl Capacity {
    /// An ordinary node: 1.0.
    pub const ONE: Self = Self(100);
    /// The largest: 100.0.
    pub const MAX: Self = Self(10_000);

    /// The capacity of that many hundredths.
    ///
    /// # Errors
    /// [`InvalidCapacity`] outside `1..=10_000`.
    pub const fn new(hundredths: u32) -> Result<Self, InvalidCapacity> {
        if hundredths >= 1 && hundredths <= Self::MAX.0 { Ok(Self(hundredths)) } else { Err(InvalidCapacity(hundredths)) }
    }

    /// In hundredths, 1 to 10,000.
    #[must_use]
    pub const fn hundredths(self) -> u32 {
        self.0
    }
}

impl Default for Capacity {
    fn default() -> Self {
        Self::ONE
    }
}

impl TryFrom<u32> for Capacity {
    type Error = InvalidCapacity;

    fn try_from(hundredths: u32) -> Result<Self, InvalidCapacity> {
        Self::new(hundredths)
    }
}

impl From<Capacity> for u32 {
    fn from(capacity: Capacity) -> Self {
        capacity.0
    }
}

impl std::fmt::Display for Capacity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

/// A node that may hold replicas: what placement needs to know of a member.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Candidate {
    /// Who.
    pub node: NodeId,
    /// Its region: replicas of a slot fall in distinct regions while there are enough (P2).
    pub region: Region,
    /// Its zone in that region. Nodes of a region that state none share one zone.
    pub zone: Option<Zone>,
    /// How much it can carry.
    pub capacity: Capacity,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capacity_out_of_range_does_not_decode() {
        for bad in [0_u32, 10_001, u32::MAX] {
            assert_eq!(Capacity::new(bad), Err(InvalidCapacity(bad)));
            let bytes = postcard::to_allocvec(&bad).expect("encodes");
            assert!(postcard::from_bytes::<Capacity>(&bytes).is_err());
        }
        assert_eq!(Capacity::default().to_string(), "1.00");
    }
}
