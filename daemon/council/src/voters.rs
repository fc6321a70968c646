//! Who votes: up to five members, an odd number, spread over regions, and changed no more than needed.

use std::collections::{BTreeMap, BTreeSet};

use isochrone_ident::{NodeId, Region, Zone};

use crate::command::Member;

/// The most voters: more would only make each decision slower.
pub const VOTERS_MAX: usize = 5;

/// What the choice goes by, apart from the members themselves.
#[derive(Debug, Clone, Copy)]
pub struct Hints<'a> {
    /// Who votes now.
    pub current: &'a BTreeSet<NodeId>,
    /// Who leads, if known: the last to be replaced among equals.
    pub leader: Option<NodeId>,
    /// Who has been down for long.
    pub down: &'a BTreeSet<NodeId>,
}

/// The voters among `members`. Their number is odd and at most [`VOTERS_MAX`]: one a region where there are three regions or
/// more, else as many as there are members. Living members go first, then regions not yet taken, then zones, then those who vote already.
/// Choosing again from what was chosen changes nothing.
#[must_use]
pub fn choose(members: &[&Member], hints: Hints<'_>) -> BTreeSet<NodeId> {
    let mut chosen: Vec<&Member> = Vec::with_capacity(VOTERS_MAX);
    while chosen.len() < wanted(members) {
        let taken = Taken::of(&chosen);
        let next = members.iter().filter(|m| chosen.iter().all(|c| c.node != m.node)).min_by_key(|m| rank(m, &taken, hints));
        match next {
            Some(member) => chosen.push(member),
            None => break,
        }
    }
    chosen.into_iter().map(|m| m.node).collect()
}

fn wanted(members: &[&Member]) -> usize {
    let regions = members.iter().map(|m| &m.region).collect::<BTreeSet<_>>().len();
    let spread = if regions >= 3 { regions } else { members.len() };
    let most = spread.min(VOTERS_MAX);
    if most.is_multiple_of(2) { most.saturating_sub(1) } else { most }
}

struct Taken<'a> {
    regions: BTreeMap<&'a Region, usize>,
    zones: BTreeMap<(&'a Region, Option<&'a Zone>), usize>,
}

impl<'a> Taken<'a> {
    fn of(chosen: &[&'a Member]) -> Self {
        let (mut regions, mut zones) = (BTreeMap::new(), BTreeMap::new());
        for member in chosen {
            *regions.entry(&member.region).or_default() += 1;
            *zones.entry((&member.region, member.zone.as_ref())).or_default() += 1;
        }
        Self { regions, zones }
    }
}

/// Smallest goes first.
fn rank(member: &Member, taken: &Taken<'_>, hints: Hints<'_>) -> (bool, usize, usize, bool, bool, NodeId) {
    (
        hints.down.contains(&member.node),
        taken.regions.get(&member.region).copied().unwrap_or(0),
        taken.zones.get(&(&member.region, member.zone.as_ref())).copied().unwrap_or(0),
        hints.leader != Some(member.node),
        !hints.current.contains(&member.node),
        member.node,
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test a panic is the message
mod tests {
    use isochrone_ident::{Incarnation, StoreId};
    use isochrone_placement::Capacity;
    use proptest::prelude::*;

    use super::*;

    fn member(node: u128, region: &str) -> Member {
        Member {
            node: NodeId(node),
            store: StoreId(node),
            region: Region::new(region).unwrap(),
            zone: None,
            address: "here:1".into(),
            capacity: Capacity::default(),
            incarnation: Incarnation(1),
        }
    }

    fn pick(members: &[Member], current: &[u128], down: &[u128]) -> Vec<u128> {
        let current = current.iter().copied().map(NodeId).collect();
        let down = down.iter().copied().map(NodeId).collect();
        let hints = Hints { current: &current, leader: None, down: &down };
        choose(&members.iter().collect::<Vec<_>>(), hints).into_iter().map(|n| n.0).collect()
    }

    #[test]
    fn the_number_of_voters_is_odd_and_at_most_five() {
        let members: Vec<_> = (1..=7).map(|n| member(n, &format!("r{n}"))).collect();
        for (count, voters) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (6, 5), (7, 5)] {
            assert_eq!(pick(&members[..count], &[], &[]).len(), voters, "{count} members");
        }
    }

    #[test]
    fn voters_fall_in_distinct_regions() {
        let members = [member(1, "a"), member(2, "a"), member(3, "b"), member(4, "b"), member(5, "c")];
        assert_eq!(pick(&members, &[], &[]), [1, 3, 5]);
    }

    #[test]
    fn three_members_of_one_region_all_vote() {
        let members = [member(1, "a"), member(2, "a"), member(3, "a")];
        assert_eq!(pick(&members, &[], &[]), [1, 2, 3]);
    }

    #[test]
    fn a_voter_that_is_down_gives_way_to_a_living_member_of_its_region() {
        let members = [member(1, "a"), member(2, "a"), member(3, "b"), member(5, "c")];
        assert_eq!(pick(&members, &[1, 3, 5], &[1]), [2, 3, 5]);
        assert_eq!(pick(&members, &[2, 3, 5], &[]), [2, 3, 5], "and is not put back for nothing");
    }

    #[test]
    fn a_voter_that_is_down_stays_when_nobody_can_take_its_place() {
        let members = [member(1, "a"), member(3, "b"), member(5, "c")];
        assert_eq!(pick(&members, &[1, 3, 5], &[1]), [1, 3, 5]);
    }

    proptest! {
        #[test]
        fn choosing_again_from_what_was_chosen_changes_nothing(regions in prop::collection::vec(0..6_u8, 1..12), down in any::<u16>()) {
            let members: Vec<_> = regions.iter().enumerate().map(|(n, r)| member(n as u128 + 1, &format!("r{r}"))).collect();
            let down: Vec<u128> = (1..=members.len() as u128).filter(|n| down >> n & 1 == 1).collect();
            let first = pick(&members, &[], &down);
            prop_assert_eq!(pick(&members, &first, &down), first);
        }
    }
}
