//! Which acceptors count for a slot, and when those that answered are a quorum (Q1).

use std::ops::{BitOr, BitOrAssign};

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

/// Some members of one configuration, one bit each: counted millions of times a second. Means nothing beside another configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Votes(u64);

impl Votes {
    /// Nobody.
    pub const NOBODY: Self = Self(0);

    /// Whether all of those are among these.
    #[must_use]
    pub const fn contains(self, those: Self) -> bool {
        self.0 & those.0 == those.0
    }

    /// These but for those.
    #[must_use]
    pub const fn without(self, those: Self) -> Self {
        Self(self.0 & !those.0)
    }

    /// Whether that one vote is among these. Nobody's never is.
    #[must_use]
    pub const fn has(self, vote: Self) -> bool {
        vote.0 != 0 && self.contains(vote)
    }
}

impl BitOr for Votes {
    type Output = Self;

    fn bitor(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }
}

impl BitOrAssign for Votes {
    fn bitor_assign(&mut self, others: Self) {
        *self = *self | others;
    }
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
    pub fn members(&self) -> impl Iterator<Item = Member> {
        self.those(self.everybody())
    }

    /// Everybody who counts, as votes.
    #[must_use]
    pub fn everybody(&self) -> Votes {
        self.replicas().fold(Votes::NOBODY, |votes, replica| votes | self.vote_of(replica.member))
    }

    /// The vote of a member; nobody's for one that does not count.
    #[must_use]
    pub fn vote_of(&self, member: Member) -> Votes {
        self.replicas().position(|replica| replica.member == member).map_or(Votes::NOBODY, vote_at)
    }

    /// Whose votes those are.
    pub fn those(&self, votes: Votes) -> impl Iterator<Item = Member> {
        let voters = self.replicas().enumerate().filter(move |(place, _)| votes.has(vote_at(*place)));
        voters.map(|(_, replica)| replica.member)
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
    pub fn is_quorum(&self, votes: Votes) -> bool {
        self.is_majority_of_current(votes) && (self.next.is_none() || self.is_majority_of_next(votes))
    }

    /// Whether a quorum is still possible when those have refused.
    #[must_use]
    pub fn can_do_without(&self, refused: Votes) -> bool {
        self.is_quorum(self.everybody().without(refused))
    }

    /// Whether those are a majority of R_e (Q14b, d).
    #[must_use]
    pub fn is_majority_of_current(&self, votes: Votes) -> bool {
        let cast = (0..self.current.len()).filter(|&place| votes.has(vote_at(place))).count();
        cast > self.current.len() / 2
    }

    /// Whether those are a majority of R_{e+1} (Q14d). False in STABLE.
    #[must_use]
    pub fn is_majority_of_next(&self, votes: Votes) -> bool {
        let Some(next) = &self.next else { return false };
        let cast = next.iter().filter(|replica| votes.has(self.vote_of(replica.member))).count();
        cast > next.len() / 2
    }
}

/// The vote of a place in both sets together; nobody's beyond the last bit, so that sets that are too large never reach a majority.
const fn vote_at(place: usize) -> Votes {
    if place < u64::BITS as usize { Votes(1 << place) } else { Votes::NOBODY }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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

    fn is_quorum<'a>(of: &Configuration, set: impl IntoIterator<Item = &'a Member>) -> bool {
        of.is_quorum(set.into_iter().fold(Votes::NOBODY, |votes, &member| votes | of.vote_of(member)))
    }

    fn assert_quorums_meet(a: &Configuration, b: &Configuration, n: u8) {
        let of_b: Vec<_> = subsets(n).filter(|set| is_quorum(b, set)).collect();
        for set in subsets(n).filter(|set| is_quorum(a, set)) {
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
    fn q1_a_member_of_both_sets_votes_in_both_and_is_named_once() {
        let joint = first([0, 1, 2]).begin(TableHash(2), [2, 3, 4].map(member)).expect("STABLE");
        assert_eq!(joint.members().collect::<Vec<_>>(), [0, 1, 2, 3, 4].map(member));
        assert!(is_quorum(&joint, &[1, 2, 3].map(member)) && !is_quorum(&joint, &[0, 1, 2].map(member)));
        assert!(joint.can_do_without(joint.vote_of(member(0)) | joint.vote_of(member(4))));
        assert!(!joint.can_do_without(joint.vote_of(member(0)) | joint.vote_of(member(1))));
        assert_eq!(joint.vote_of(member(9)), Votes::NOBODY);
    }

    #[test]
    fn q1_a_set_beyond_what_can_be_counted_has_no_quorum() {
        let many = first(0..200);
        assert!(!many.is_quorum(many.everybody()));
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
        assert!(!is_quorum(&stable, &[anew, member(1)]));
        assert!(is_quorum(&stable, &[member(0), member(1)]));
    }
}
