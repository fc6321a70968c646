//! What is known about members of all regions: one fact a node, merged so that the order of news does not matter.
//!
//! A fact is a point of a lattice, and merging takes the higher one: a later start beats everything about an earlier one,
//! within a start "left" is final, then a later rejoin, then "down", then SWIM's own order (section 4.2: a higher number
//! of refutations first, suspect over alive at the same number). Stale gossip therefore never resurrects anybody, whichever
//! way it takes and in whatever order it comes; only the node itself can, by starting again or rejoining.

use std::collections::BTreeMap;
use std::time::Duration;

use isochrone_ident::{Incarnation, NodeId, Region};
use serde::{Deserialize, Serialize};

use super::identity::Identity;
use super::pool::REMEMBER_DOWN;
use crate::peers::Liveness;

/// What is said about one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fact {
    pub(crate) identity: Identity,
    /// How often this identity has refuted a suspicion in its region's pool.
    pub(crate) swim: u16,
    pub(crate) liveness: Liveness,
}

impl Fact {
    fn rank(&self) -> (Incarnation, bool, u32, bool, u16, bool) {
        let (left, down) = (self.liveness == Liveness::Left, self.liveness == Liveness::Down);
        let (incarnation, rejoins) = self.identity.life();
        (incarnation, left, rejoins, down, self.swim, self.liveness == Liveness::Suspect)
    }

    /// Whether this fact is later than the other one about the same node.
    pub(crate) fn supersedes(&self, other: &Self) -> bool {
        self.rank() > other.rank()
    }

    /// Alive, or suspected to be not.
    pub(crate) fn is_active(&self) -> bool {
        matches!(self.liveness, Liveness::Alive | Liveness::Suspect)
    }
}

#[derive(Debug)]
struct Entry {
    fact: Fact,
    since: Duration,
}

/// The facts, one a node.
#[derive(Debug)]
pub(crate) struct Directory {
    entries: BTreeMap<NodeId, Entry>,
    members_max: usize,
}

impl Directory {
    pub(crate) fn new(members_max: usize) -> Self {
        Self { entries: BTreeMap::new(), members_max }
    }

    /// Takes a fact in; tells whether it was news. A new node beyond the bound is not taken.
    pub(crate) fn merge(&mut self, now: Duration, fact: Fact) -> bool {
        let node = fact.identity.node;
        let news = match self.entries.get(&node) {
            Some(entry) => fact.supersedes(&entry.fact),
            None => self.entries.len() < self.members_max,
        };
        if news {
            self.entries.insert(node, Entry { fact, since: now });
        }
        news
    }

    pub(crate) fn fact(&self, node: NodeId) -> Option<&Fact> {
        self.entries.get(&node).map(|entry| &entry.fact)
    }

    /// All facts, by node.
    pub(crate) fn facts(&self) -> impl Iterator<Item = &Fact> {
        self.entries.values().map(|entry| &entry.fact)
    }

    /// The gateways of every region but the given one: the `count` lowest node ids alive there.
    pub(crate) fn gateways_elsewhere(&self, home: &Region, count: usize) -> Vec<&Identity> {
        let mut taken: BTreeMap<&Region, usize> = BTreeMap::new();
        let abroad = self.facts().filter(|fact| fact.is_active() && fact.identity.region != *home);
        abroad
            .filter(|fact| {
                let taken = taken.entry(&fact.identity.region).or_default();
                *taken += 1;
                *taken <= count
            })
            .map(|fact| &fact.identity)
            .collect()
    }

    pub(crate) fn forget(&mut self, node: NodeId) {
        self.entries.remove(&node);
    }

    /// Forgets the dead after a day; tells whether there were any.
    pub(crate) fn expire(&mut self, now: Duration) -> bool {
        let before = self.entries.len();
        self.entries.retain(|_, entry| entry.fact.is_active() || now.saturating_sub(entry.since) < REMEMBER_DOWN);
        self.entries.len() != before
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::membership::identity::Address;

    fn fact(incarnation: u64, rejoins: u32, swim: u16, liveness: Liveness) -> Fact {
        let (region, address) = (Region::new("eu-west").expect("a name"), Address::new("a:1").expect("an address"));
        let identity = Identity { incarnation: Incarnation(incarnation), rejoins, ..Identity::unheard(NodeId(7), region, address) };
        Fact { identity, swim, liveness }
    }

    fn any_fact() -> impl Strategy<Value = Fact> {
        let liveness = prop_oneof![Just(Liveness::Alive), Just(Liveness::Suspect), Just(Liveness::Down), Just(Liveness::Left)];
        (0..3u64, 0..3u32, 0..3u16, liveness).prop_map(|(incarnation, rejoins, swim, liveness)| fact(incarnation, rejoins, swim, liveness))
    }

    #[test]
    fn a_member_that_left_is_not_resurrected_by_stale_gossip_of_the_same_start() {
        let mut directory = Directory::new(10);
        assert!(directory.merge(Duration::ZERO, fact(4, 0, 0, Liveness::Left)));
        assert!(!directory.merge(Duration::ZERO, fact(4, 9, 9, Liveness::Alive)));
        assert!(!directory.merge(Duration::ZERO, fact(4, 0, 0, Liveness::Down)));
        assert!(directory.merge(Duration::ZERO, fact(5, 0, 0, Liveness::Alive)));
    }

    #[test]
    fn no_more_members_than_the_bound_are_taken() {
        let mut directory = Directory::new(0);
        assert!(!directory.merge(Duration::ZERO, fact(1, 0, 0, Liveness::Alive)));
    }

    proptest! {
        #[test]
        fn the_order_of_news_does_not_matter(facts in proptest::collection::vec(any_fact(), 0..12), turn in 0usize..12) {
            let collect = |facts: &[Fact]| {
                let mut directory = Directory::new(10);
                facts.iter().for_each(|fact| { directory.merge(Duration::ZERO, fact.clone()); });
                directory.fact(NodeId(7)).map(Fact::rank)
            };
            let mut turned = facts.clone();
            turned.rotate_left(turn.min(facts.len()));
            turned.reverse();
            prop_assert_eq!(collect(&facts), collect(&turned));
        }
    }
}
