//! How the quorum path stands, for operators.

use isochrone_council::Role;
use isochrone_edge::{KeyPlacement, StrongMoves, StrongPlacement, StrongReport};
use isochrone_ident::{Key, Namespace, Slot};

use super::Strong;
use crate::node::core::{Core, lock};

impl Strong {
    fn slots_owned(&self) -> u64 {
        let proposer = lock(&self.proposer);
        Slot::all().filter(|&slot| proposer.holds(slot)).count() as u64
    }

    /// How many slots are in which phase, who their replicas are and who owns them.
    fn placement(&self) -> StrongPlacement {
        let mut placement = StrongPlacement::default();
        for configuration in self.configurations.load().iter() {
            *placement.phases.entry(configuration.phase.0).or_default() += 1;
            *placement.owned_by.entry(self.owner(configuration).to_string()).or_default() += 1;
            for member in configuration.members() {
                *placement.slots_by_node.entry(member.node.to_string()).or_default() += 1;
            }
        }
        placement
    }
}

impl Core {
    /// The moves that this daemon drives, as the council's leader.
    fn strong_moves(&self) -> Option<StrongMoves> {
        let is_driving = self.council.status().role == Role::Leader && self.view.load().placement.strong.is_moving();
        is_driving.then(|| self.strong.moves.sum())
    }

    pub(crate) fn strong_report(&self) -> StrongReport {
        let (strong, stats) = (&self.strong, self.strong.store.stats());
        StrongReport {
            concerns: Vec::new(),
            keys: stats.keys,
            bytes: stats.bytes,
            dead_keys: stats.dead,
            is_full: stats.is_full,
            forgetting_waits_for: self.replica_views(strong.delays.nodes().into_iter()),
            slots_owned: strong.slots_owned(),
            slots_joint: strong.configurations.load().joint().count() as u64,
            moves: self.strong_moves(),
            operations: strong.meters.operations(),
        }
    }

    pub(crate) fn strong_placement(&self) -> StrongPlacement {
        StrongPlacement { moves: self.strong_moves(), ..self.strong.placement() }
    }

    /// Where a key of a strong namespace lives; `None` before the cluster was founded.
    pub(crate) fn strong_key_placement(&self, ns: &Namespace, key: &Key, slot: Slot) -> Option<KeyPlacement> {
        let configuration = self.strong.configuration(slot)?;
        let nodes = |replicas: &[isochrone_quorum::Replica]| self.replica_views(replicas.iter().map(|replica| replica.member.node));
        Some(KeyPlacement {
            ns: ns.to_string(),
            key: key.to_string(),
            slot: slot.number(),
            epoch: configuration.phase.0 / 2,
            phase: if configuration.phase.is_joint() { "joint" } else { "stable" }.to_owned(),
            replicas: nodes(&configuration.current),
            next: configuration.next.as_deref().map(nodes).unwrap_or_default(),
            owner: Some(self.strong.owner(&configuration).to_string()),
        })
    }
}
