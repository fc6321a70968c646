//! Who proposes, under which number (Q2), and in which phase of its slot.

use std::fmt;

use isochrone_ident::{Epoch, Incarnation, NodeId, StoreId};
use serde::{Deserialize, Serialize};

/// One life of one proposer: no two runs of a daemon share it, so no two of them share a ballot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ProposerId {
    /// The daemon.
    pub node: NodeId,
    /// Which of its starts.
    pub incarnation: Incarnation,
}

/// The number of a proposal (Q2): counter, then proposer, then incarnation. A ballot never carries two values.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Ballot {
    /// At least 1; [`Ballot::NONE`] has 0. Even for the ballots of keys, odd for those of slots (Q18c).
    pub counter: u64,
    /// Who proposes, and in which of its lives.
    pub proposer: ProposerId,
}

impl Ballot {
    /// Below every ballot that anybody proposes: nothing promised.
    pub const NONE: Self = Self { counter: 0, proposer: ProposerId { node: NodeId(0), incarnation: Incarnation(0) } };

    /// The least ballot of a key whose counter is above `above` (Q2).
    #[must_use]
    pub const fn of_key(above: u64, proposer: ProposerId) -> Self {
        Self { counter: (above / 2 + 1).saturating_mul(2), proposer }
    }

    /// The least ballot of a slot whose counter is above `above`. Being odd, it was never used for a key by this incarnation (Q18c).
    #[must_use]
    pub const fn of_slot(above: u64, proposer: ProposerId) -> Self {
        Self { counter: above.div_ceil(2).saturating_mul(2).saturating_add(1), proposer }
    }
}

impl fmt::Debug for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{:x}.{}", self.counter, self.proposer.node.0, self.proposer.incarnation)
    }
}

/// Where a slot is between two replica sets: 2e is STABLE(e), 2e + 1 is JOINT(e, e + 1). It only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Phase(pub u64);

impl Phase {
    /// STABLE in that epoch.
    #[must_use]
    pub const fn stable(epoch: Epoch) -> Self {
        Self(epoch.0 * 2)
    }

    /// The epoch whose set R_e counts here; in JOINT, the set of the next epoch counts as well.
    #[must_use]
    pub const fn epoch(self) -> Epoch {
        Epoch(self.0 / 2)
    }

    /// Whether two sets count.
    #[must_use]
    pub const fn is_joint(self) -> bool {
        self.0 % 2 == 1
    }

    /// The phase after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The digest of the table that a slot's sets come from (Q4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct TableHash(pub u64);

/// One acceptor as quorums count it: a daemon with one particular store. A lost disk is a new store, hence a new member (Q15).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Member {
    /// The daemon.
    pub node: NodeId,
    /// Its store.
    pub store: StoreId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q2_ballots_order_by_counter_then_proposer_then_incarnation() {
        let ballot = |counter, node, life| Ballot { counter, proposer: ProposerId { node: NodeId(node), incarnation: Incarnation(life) } };
        assert!(ballot(2, 1, 1) > ballot(1, 9, 9));
        assert!(ballot(2, 2, 1) > ballot(2, 1, 9));
        assert!(ballot(2, 2, 2) > ballot(2, 2, 1));
        assert!(ballot(1, 0, 0) > Ballot::NONE);
    }

    #[test]
    fn q18c_no_ballot_of_a_slot_is_one_of_a_key() {
        let me = ProposerId::default();
        for above in 0..20 {
            let (key, slot) = (Ballot::of_key(above, me), Ballot::of_slot(above, me));
            assert!(key.counter > above && key.counter <= above + 2 && key.counter % 2 == 0);
            assert!(slot.counter > above && slot.counter <= above + 2 && slot.counter % 2 == 1);
        }
    }
}
