//! Which acceptors count for a slot, and when those that answered are a quorum (Q1).

use std::collections::BTreeSet;

use isochrone_ident::{Epoch, Slot};
use serde::{Deserialize, Serialize};

use crate::{Member, Phase, TableHash};

/// A member of a replica set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Replica {
    /// Who.
    pub member: Member,
    /// Since which epoch it has been in every set. One that left and came back has a later one, and starts from empty (Q4).
    pub joined: Epoch,
}

/// The replica sets of a slot in one phase, as the council orders them. At most two are live (Q1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// The slot.
    pub slot: Slot,
    /// The phase: STABLE exactly when [`Configuration::next`] is `None`.
    pub phase: Phase,
    /// The digest of the tables that the sets come from, part of every message (Q4).
    pub table: TableHash,
    /// R_e, in the order of preference: the first is the slot's first owner (Q18).
    pub current: Vec<Replica>,
    /// R_{e+1}, while the slot is moving to it.
    pub next: Option<Vec<Replica>>,
}

/// What every message names (Q4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Scope {
    /// The slot.
    pub slot: Slot,
    /// The sender's phase of it.
    pub phase: Phase,
    /// The sender's tables.
    pub table: TableHash,
}

/// A change of phase that cannot be made from here. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMove {
    /// The next move begins only from STABLE (Q14g).
    #[error("slot {0} is moving already")]
    Moving(Slot),
    /// A move ends only from JOINT (Q14f).
    #[error("slot {0} is not moving")]
    NotMoving(Slot),
    /// A set without members could never answer.
    #[error("slot {0} cannot move to nobody")]
    Nobody(Slot),
}

impl Configuration {
    /// The first configuration of a slot.
    #[must_use]
    pub fn first(slot: Slot, table: TableHash, members: impl IntoIterator<Item = Member>) -> Self {
        let joined = Epoch(0);
        let current = members.into_iter().map(|member| Replica { member, joined }).collect();
        Self { slot, phase: Phase::stable(joined), table, current, next: None }
    }

    /// The council's 2e -> 2e + 1 (Q14a): from now on both sets count. Members that stay keep their join epoch.
    ///
    /// # Errors
    /// [`InvalidMove`] unless the slot is STABLE and there is somebody to move to.
    pub fn begin(&self, table: TableHash, members: impl IntoIterator<Item = Member>) -> Result<Self, InvalidMove> {
        if self.next.is_some() {
            return Err(InvalidMove::Moving(self.slot));
        }
        let coming = Epoch(self.phase.epoch().0 + 1);
        let joined = |member| self.current.iter().find(|replica| replica.member == member).map_or(coming, |replica| replica.joined);
        let next: Vec<Replica> = members.into_iter().map(|member| Replica { member, joined: joined(member) }).collect();
        if next.is_empty() {
            return Err(InvalidMove::Nobody(self.slot));
        }
        Ok(Self { phase: self.phase.next(), table, next: Some(next), ..self.clone() })
    }

    /// The council's 2e + 1 -> 2e + 2 (Q14f), once every key is certified: only the new set counts.
    ///
    /// # Errors
    /// [`InvalidMove::NotMoving`] unless the slot is JOINT.
    pub fn complete(&self) -> Result<Self, InvalidMove> {
        let current = self.next.clone().ok_or(InvalidMove::NotMoving(self.slot))?;
        Ok(Self { phase: self.phase.next(), current, next: None, ..self.clone() })
    }

    /// What messages under this configuration name.
    #[must_use]
    pub const fn scope(&self) -> Scope {
        Scope { slot: self.slot, phase: self.phase, table: self.table }
    }

    /// Everybody who counts, each once.
    #[must_use]
    pub fn members(&self) -> BTreeSet<Member> {
        self.replicas().map(|replica| replica.member).collect()
    }

    /// Since which epoch that member has been in every set; `None` for one that does not count.
    #[must_use]
    pub fn joined(&self, member: Member) -> Option<Epoch> {
        self.replicas().find(|replica| replica.member == member).map(|replica| replica.joined)
    }

    fn replicas(&self) -> impl Iterator<Item = &Replica> {
        self.current.iter().chain(self.next.iter().flatten())
    }

    /// Whether those are a quorum (Q1): a majority of R_e and, in JOINT, also a majority of R_{e+1}.
    #[must_use]
    pub fn is_quorum(&self, members: &BTreeSet<Member>) -> bool {
        is_majority(&self.current, members) && self.next.as_ref().is_none_or(|next| is_majority(next, members))
    }

    /// Whether a quorum is still possible when those have refused.
    #[must_use]
    pub fn can_do_without(&self, refused: &BTreeSet<Member>) -> bool {
        let rest = self.members().difference(refused).copied().collect();
        self.is_quorum(&rest)
    }

    /// Whether those are a majority of R_e (Q14b, d).
    #[must_use]
    pub fn is_majority_of_current(&self, members: &BTreeSet<Member>) -> bool {
        is_majority(&self.current, members)
    }

    /// Whether those are a majority of R_{e+1} (Q14d). False in STABLE.
    #[must_use]
    pub fn is_majority_of_next(&self, members: &BTreeSet<Member>) -> bool {
        self.next.as_ref().is_some_and(|next| is_majority(next, members))
    }
}

fn is_majority(set: &[Replica], members: &BTreeSet<Member>) -> bool {
    set.iter().filter(|replica| members.contains(&replica.member)).count() > set.len() / 2
}

#[cfg(test)]
mod tests {
    use isochrone_ident::{NodeId, StoreId};

    use super::*;

    fn member(n: u8) -> Member {
        Member { node: NodeId(u128::from(n)), store: StoreId(u128::from(n)) }
    }

    fn first(members: impl IntoIterator<Item = u8>) -> Configuration {
        Configuration::first(Slot::of_hash(7), TableHash(1), members.into_iter().map(member))
    }

    fn subsets(n: u8) -> impl Iterator<Item = BTreeSet<Member>> {
        (0_u16..1 << n).map(move |bits| (0..n).filter(|i| bits >> i & 1 == 1).map(member).collect())
    }

    fn assert_quorums_meet(a: &Configuration, b: &Configuration, n: u8) {
        let of_b: Vec<_> = subsets(n).filter(|set| b.is_quorum(set)).collect();
        for set in subsets(n).filter(|set| a.is_quorum(set)) {
            assert!(of_b.iter().all(|other| !set.is_disjoint(other)), "{set:?} misses one of {b:?}");
        }
    }

    #[test]
    fn q1_any_two_quorums_of_neighbouring_phases_meet_up_to_seven_members() {
        for n in 1..=7 {
            let stable = first(0..n);
            assert_quorums_meet(&stable, &stable, n);
            for (from, to) in [(0..n.div_ceil(2), n / 2..n), (0..n, 0..n / 2 + 1), (0..n / 2 + 1, 0..n)] {
                let before = first(from);
                let joint = before.begin(TableHash(2), to.map(member)).expect("STABLE");
                let after = joint.complete().expect("JOINT");
                for (a, b) in [(&before, &joint), (&joint, &joint), (&joint, &after)] {
                    assert_quorums_meet(a, b, n);
                }
            }
        }
    }

    #[test]
    fn q4_who_stays_keeps_its_join_epoch_and_who_comes_back_has_a_new_one() {
        let one = first([0, 1, 2]);
        let two = one.begin(TableHash(2), [1, 2, 3].map(member)).and_then(|c| c.complete()).expect("a move");
        let three = two.begin(TableHash(3), [0, 2, 3].map(member)).and_then(|c| c.complete()).expect("a move");
        assert_eq!([0, 2, 3].map(|n| three.joined(member(n))), [Some(Epoch(2)), Some(Epoch(0)), Some(Epoch(1))]);
        assert_eq!(three.joined(member(1)), None);
        assert_eq!(three.phase, Phase(4));
    }

    #[test]
    fn q14_a_move_begins_in_stable_and_ends_in_joint() {
        let stable = first([0, 1, 2]);
        let joint = stable.begin(TableHash(2), [1, 2, 3].map(member)).expect("STABLE");
        assert_eq!(joint.begin(TableHash(3), [member(0)]), Err(InvalidMove::Moving(stable.slot)));
        assert_eq!(stable.complete(), Err(InvalidMove::NotMoving(stable.slot)));
        assert_eq!(stable.begin(TableHash(3), []), Err(InvalidMove::Nobody(stable.slot)));
    }

    #[test]
    fn q15_a_lost_disk_is_another_member() {
        let stable = first([0, 1, 2]);
        let anew = Member { store: StoreId(77), ..member(0) };
        assert_eq!(stable.joined(anew), None);
        assert!(!stable.is_quorum(&[anew, member(1)].into()));
    }
}
