//! Q12: where to propose, from estimates of round trips. Advice: a wrong estimate costs time, never an answer.

use crate::{Configuration, Member, Replica};

/// Where a write is proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By this daemon.
    Here,
    /// By the daemon that holds the key's or the slot's promise.
    Owner,
}

/// A way, and what it is expected to cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The cheaper way.
    pub way: Way,
    /// Its cost in microseconds; `None` when no quorum is known to be within reach either way.
    pub micros: Option<u64>,
}

/// What is known when a way is chosen. Round trips in microseconds; `None` for what nobody has measured, which counts as out of reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Estimates {
    /// From here to the nearest majority: [`nearest_quorum_micros`].
    pub majority_micros: Option<u64>,
    /// Whether this daemon holds a promise for the key already (Q8, Q18), so that it needs one round trip and not two.
    pub is_warm: bool,
    /// From here to the owner, if there is one and it is somebody else.
    pub owner_micros: Option<u64>,
    /// From the owner to its nearest majority.
    pub owner_majority_micros: Option<u64>,
}

/// The cheaper of proposing here (two round trips to the nearest majority, one when warm) and handing over to the owner (the round trip to it and
/// its one). At the same cost, here.
#[must_use]
pub fn choose_way(estimates: &Estimates) -> Choice {
    let trips = if estimates.is_warm { 1 } else { 2 };
    let here = estimates.majority_micros.map(|micros| micros.saturating_mul(trips));
    let owner = estimates.owner_micros.zip(estimates.owner_majority_micros).map(|(to, on)| to.saturating_add(on));
    match (here, owner) {
        (Some(here), Some(owner)) if owner < here => Choice { way: Way::Owner, micros: Some(owner) },
        (None, Some(owner)) => Choice { way: Way::Owner, micros: Some(owner) },
        (here, _) => Choice { way: Way::Here, micros: here },
    }
}

/// The round trip to the nearest quorum (Q1) in microseconds, given the round trip to each member; `None` when too few are within reach.
#[must_use]
pub fn nearest_quorum_micros(configuration: &Configuration, micros_to: impl Fn(Member) -> Option<u64>) -> Option<u64> {
    let majority = |set: &[Replica]| {
        let mut trips: Vec<u64> = set.iter().filter_map(|replica| micros_to(replica.member)).collect();
        trips.sort_unstable();
        trips.get(set.len() / 2).copied()
    };
    let current = majority(&configuration.current)?;
    match &configuration.next {
        Some(next) => majority(next).map(|next| next.max(current)),
        None => Some(current),
    }
}

#[cfg(test)]
mod tests {
    use isochrone_ident::{NodeId, Slot, StoreId};

    use super::*;
    use crate::TableHash;

    fn member(n: u8) -> Member {
        Member { node: NodeId(u128::from(n)), store: StoreId(u128::from(n)) }
    }

    #[test]
    fn q12_the_cheaper_way_is_chosen() {
        let far = Estimates { majority_micros: Some(165), is_warm: false, owner_micros: Some(145), owner_majority_micros: Some(75) };
        assert_eq!(choose_way(&far), Choice { way: Way::Owner, micros: Some(220) });
        assert_eq!(choose_way(&Estimates { is_warm: true, ..far }), Choice { way: Way::Here, micros: Some(165) });
        assert_eq!(choose_way(&Estimates { owner_micros: None, ..far }), Choice { way: Way::Here, micros: Some(330) });
        assert_eq!(choose_way(&Estimates { majority_micros: None, ..far }).way, Way::Owner);
        assert_eq!(choose_way(&Estimates::default()), Choice { way: Way::Here, micros: None });
    }

    #[test]
    fn q12_in_a_move_the_nearest_quorum_is_the_farther_of_two_majorities() {
        let stable = Configuration::first(Slot::of_hash(1), TableHash(1), [0, 1, 2].map(member));
        let trips = [1, 75, 240, 300];
        let to = |member: Member| trips.get(member.node.0 as usize).copied();
        assert_eq!(nearest_quorum_micros(&stable, to), Some(75));
        let joint = stable.begin(TableHash(2), [1, 2, 3].map(member)).expect("STABLE");
        assert_eq!(nearest_quorum_micros(&joint, to), Some(240));
        assert_eq!(nearest_quorum_micros(&joint, |member| to(member).filter(|&micros| micros < 200)), None);
    }
}
