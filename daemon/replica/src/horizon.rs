//! What the heartbeats of all members together prove: how old a read may be, and which tombstones nothing can contradict any more.

use std::collections::BTreeMap;

use isochrone_ident::{Hlc, NodeId, Version, WallMicros};
use serde::{Deserialize, Serialize};

/// What a member says of its own writes in a heartbeat. Both only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Heard {
    /// Everything that it took up to here and that we need has been sent to us, on this stream, before this heartbeat.
    pub sent_through: Hlc,
    /// Everything that it took up to here is durable at every replica that needs it, and it will take nothing more up to here.
    pub stable_through: Hlc,
}

/// The members of the cluster with the latest that each has said.
#[derive(Debug, Clone, Default)]
pub struct Horizon {
    members: BTreeMap<NodeId, Heard>,
}

impl Horizon {
    /// The members have changed, ourselves included. A new member holds everything back until it is heard.
    pub fn set_members(&mut self, members: impl IntoIterator<Item = NodeId>) {
        self.members = members.into_iter().map(|m| (m, self.members.get(&m).copied().unwrap_or_default())).collect();
    }

    /// A member's heartbeat, or our own state. One from a node that is no member is ignored; values never fall.
    pub fn hear(&mut self, member: NodeId, heard: Heard) {
        if let Some(known) = self.members.get_mut(&member) {
            known.sent_through = known.sent_through.max(heard.sent_through);
            known.stable_through = known.stable_through.max(heard.stable_through);
        }
    }

    /// We became a replica of more: what others said of what they have sent us was about less, and counts for nothing until
    /// they say it again.
    pub fn forget_sent(&mut self) {
        for heard in self.members.values_mut() {
            heard.sent_through = Hlc::ZERO;
        }
    }

    /// The latest that a member has said.
    #[must_use]
    pub fn heard(&self, member: NodeId) -> Heard {
        self.members.get(&member).copied().unwrap_or_default()
    }

    /// Whether that node is a member.
    #[must_use]
    pub fn is_member(&self, node: NodeId) -> bool {
        self.members.contains_key(&node)
    }

    /// The members, ourselves included, in order.
    pub fn members(&self) -> impl Iterator<Item = NodeId> {
        self.members.keys().copied()
    }

    /// Every write that any member took up to here, and that we need, is here. [`Hlc::ZERO`] while some member has never been heard.
    #[must_use]
    pub fn heard_from_all(&self) -> Hlc {
        self.members.values().map(|h| h.sent_through).min().unwrap_or(Hlc::ZERO)
    }

    /// How old a read at this replica may be, in milliseconds: it reflects every write that any member took before that
    /// long ago. `None` while some member has never been heard.
    #[must_use]
    pub fn age_ms(&self, now: WallMicros) -> Option<u64> {
        let oldest = self.heard_from_all();
        (oldest > Hlc::ZERO).then(|| now.0.saturating_sub(oldest.wall().0).div_ceil(1000))
    }

    /// Causal stability (E7; Baquero, Almeida and Shoker 2017, "Pure Operation-Based Replicated Data Types", section 4.3): no write at or
    /// before this time can still arrive at any replica.
    ///
    /// It is not enough that every replica has the tombstone: a daemon that was cut off may still hold an older put of that key
    /// which nobody else has seen, and which would bring the key back.
    #[must_use]
    pub fn stable_through(&self) -> Hlc {
        self.members.values().map(|h| h.stable_through).min().unwrap_or(Hlc::ZERO)
    }

    /// Whether a tombstone, or a value past its deadline, of that version may go (E7, E8).
    #[must_use]
    pub fn may_forget(&self, version: Version) -> bool {
        version.hlc <= self.stable_through()
    }
}

#[cfg(test)]
mod tests {
    use isochrone_ident::Incarnation;

    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn heard(sent_ms: u64, stable_ms: u64) -> Heard {
        let at = |ms: u64| Hlc::at(WallMicros(ms * 1000));
        Heard { sent_through: at(sent_ms), stable_through: at(stable_ms) }
    }

    fn horizon() -> Horizon {
        let mut horizon = Horizon::default();
        horizon.set_members([A, B]);
        horizon
    }

    #[test]
    fn the_age_of_a_read_is_unknown_until_every_member_was_heard() {
        let mut horizon = horizon();
        horizon.hear(A, heard(1_000, 0));
        assert_eq!(horizon.age_ms(WallMicros(2_000_000)), None);
        horizon.hear(B, heard(1_900, 0));
        assert_eq!(horizon.age_ms(WallMicros(2_000_000)), Some(1_000));
    }

    #[test]
    fn e7_a_tombstone_stays_while_a_member_may_hold_an_older_put() {
        let mut horizon = horizon();
        let tombstone = Version { hlc: Hlc::at(WallMicros(1_500_000)), node: A, incarnation: Incarnation(1) };
        horizon.hear(A, heard(0, 9_000));
        assert!(!horizon.may_forget(tombstone), "B was cut off and has not been heard");
        horizon.hear(B, heard(0, 1_499));
        assert!(!horizon.may_forget(tombstone));
        horizon.hear(B, heard(0, 1_500));
        assert!(horizon.may_forget(tombstone));
    }

    #[test]
    fn a_stranger_and_an_older_heartbeat_change_nothing() {
        let mut horizon = horizon();
        horizon.hear(A, heard(5, 5));
        horizon.hear(A, heard(1, 1));
        horizon.hear(NodeId(9), heard(1, 1));
        assert_eq!(horizon.heard(A), heard(5, 5));
        assert_eq!(horizon.heard(NodeId(9)), Heard::default());
    }

    #[test]
    fn a_replica_that_gains_slots_knows_no_age_until_it_hears_again() {
        let mut horizon = horizon();
        horizon.hear(A, heard(5, 5));
        horizon.hear(B, heard(5, 5));
        horizon.forget_sent();
        assert_eq!(horizon.age_ms(WallMicros(9_000)), None);
        assert_eq!(horizon.heard(A).stable_through, heard(5, 5).stable_through);
    }

    #[test]
    fn a_new_member_holds_everything_back() {
        let mut horizon = horizon();
        horizon.hear(A, heard(5, 5));
        horizon.hear(B, heard(5, 5));
        horizon.set_members([A, B, NodeId(3)]);
        assert_eq!(horizon.stable_through(), Hlc::ZERO);
    }
}
