//! Q12: which way a write goes, from measured round trips.

use std::time::Duration;

use isochrone_ident::{NodeId, Region};
use isochrone_quorum::{Ask, Asker, Choice, Configuration, Estimates, Member, Request, choose_way, nearest_quorum_micros};

use super::Strong;
use crate::node::core::{Core, lock};

/// A round trip to this daemon's own acceptor, or inside a region of which nothing was measured: the disk's sync and a message, in microseconds.
const NEAR_MICROS: u64 = 500;

fn micros(trip: Duration) -> u64 {
    u64::try_from(trip.as_micros()).unwrap_or(u64::MAX)
}

impl Strong {
    /// The round trip to a daemon, in microseconds; `None` while nobody answers there.
    pub(crate) fn micros_to(&self, node: NodeId) -> Option<u64> {
        if node == self.me.node {
            return Some(NEAR_MICROS);
        }
        let peers = self.mesh.peers();
        let peer = peers.get(node)?;
        let is_up = peer.link.is_healthy() && self.mesh.is_connected(node);
        peer.round_trip.filter(|_| is_up).map(micros)
    }

    /// Tells the proposer how far the nearest quorum is: the farthest of some slots', since they differ (Q13).
    pub(crate) fn measure_majority(&self) {
        let configurations = self.configurations.load();
        let some = configurations.iter().step_by(SAMPLED_EVERY);
        let farthest = some.filter_map(|configuration| self.majority_micros(configuration)).max();
        if let Some(micros) = farthest {
            lock(&self.proposer).set_round_trip_micros(micros);
        }
    }

    /// The round trip from here to the slot's nearest quorum.
    pub(crate) fn majority_micros(&self, configuration: &Configuration) -> Option<u64> {
        nearest_quorum_micros(configuration, |member| self.micros_to(member.node))
    }
}

/// Of so many slots one says how far quorums are.
const SAMPLED_EVERY: usize = 256;
/// A replica that a read should not need is asked once the nearer ones are late by half their round trip and this.
const HEDGE_MARGIN: Duration = Duration::from_millis(5);

impl Strong {
    /// How long to hold back a read of a replica that is farther than the nearest quorum (M8); `None`: it is to be sent at once. Writes go to all, so that each
    /// replica has them.
    pub(crate) fn hedge_after(&self, to: Member, request: &Request) -> Option<Duration> {
        if !matches!(request.ask, Ask::Read { .. }) || request.tag.asker() != Asker::Proposer {
            return None;
        }
        let configuration = self.configuration(request.scope.slot).filter(|configuration| configuration.next.is_none())?;
        let majority = self.majority_micros(&configuration)?;
        let rank = |member: Member| (self.micros_to(member.node).unwrap_or(u64::MAX), member);
        let nearer = configuration.members().filter(|&member| rank(member) < rank(to)).count();
        let needed = configuration.current.len() / 2 + 1;
        (nearer >= needed).then(|| Duration::from_micros(majority + majority / 2) + HEDGE_MARGIN)
    }
}

impl Core {
    /// The cheaper way for a write of a slot whose owner that is.
    pub(crate) fn way(&self, configuration: &Configuration, owner: NodeId, is_warm: bool) -> Choice {
        let majority_micros = self.strong.majority_micros(configuration);
        let is_here = owner == self.id();
        let owner_micros = if is_here { None } else { self.strong.micros_to(owner) };
        let owner_majority_micros = owner_micros.and_then(|_| self.majority_micros_of(configuration, owner));
        choose_way(&Estimates { majority_micros, is_warm, owner_micros, owner_majority_micros })
    }

    /// The round trip from another daemon to the slot's nearest quorum, by the regions' matrix (M6). The matrix remembers who is gone for a while: whom this daemon
    /// cannot reach is left out.
    fn majority_micros_of(&self, configuration: &Configuration, node: NodeId) -> Option<u64> {
        let (view, matrix) = (self.view.load(), self.mesh.round_trips());
        let region_of = |node: NodeId| view.members.get(&node).map(|member| &member.region);
        let from = region_of(node)?;
        let between = |to: &Region| if to == from { Some(NEAR_MICROS) } else { matrix.get(from, to).map(micros) };
        nearest_quorum_micros(configuration, |member: Member| match member.node {
            itself if itself == node => Some(NEAR_MICROS),
            other => self.strong.micros_to(other).and_then(|_| between(region_of(other)?)),
        })
    }
}
