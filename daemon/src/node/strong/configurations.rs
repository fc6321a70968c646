//! The configurations of strong slots, as the council's newest state says (Q1, Q4, Q14).

use std::sync::Arc;

use isochrone_council::ClusterState;
use isochrone_ident::{NodeId, Slot, StoreId};
use isochrone_placement::Phase as Place;
use isochrone_quorum::{Configuration, Member, Phase, Replica, TableHash};
use xxhash_rust::xxh3::xxh3_64;

/// What the council has said of every slot. Replaced as a whole, never changed.
#[derive(Debug, Default)]
pub(crate) struct Configurations {
    /// By slot; empty before the cluster was founded.
    slots: Vec<Arc<Configuration>>,
    digest: u64,
}

/// The digests of the tables of an epoch and the next one.
#[derive(Clone, Copy)]
struct Digests {
    current: TableHash,
    next: TableHash,
    joint: TableHash,
}

impl Digests {
    fn of(state: &ClusterState) -> Self {
        let class = &state.placement.strong;
        let (current, next) = (class.current().digest(), class.next().map_or(0, |next| next.digest()));
        let both = [current.to_le_bytes(), next.to_le_bytes()].concat();
        Self { current: TableHash(current), next: TableHash(next), joint: TableHash(xxh3_64(&both)) }
    }
}

impl Configurations {
    /// The configurations of that state; those that are the same as before are shared with `before`.
    pub(crate) fn of(state: &ClusterState, before: &Self) -> Self {
        if state.placement.strong.current().members().is_empty() {
            return Self::default();
        }
        let digests = Digests::of(state);
        let shared = |made: Configuration| match before.get(made.slot) {
            Some(known) if **known == made => Arc::clone(known),
            _ => Arc::new(made),
        };
        let slots: Vec<_> = Slot::all().map(|slot| shared(configuration(state, slot, &digests))).collect();
        let scopes: Vec<u8> = slots.iter().flat_map(|slot| [slot.phase.0, slot.table.0]).flat_map(u64::to_le_bytes).collect();
        Self { slots, digest: xxh3_64(&scopes) }
    }

    /// Stands for the phases and tables of all slots: the same where the council has told the same.
    pub(crate) const fn digest(&self) -> u64 {
        self.digest
    }

    /// A slot's configuration; `None` before the cluster was founded.
    pub(crate) fn get(&self, slot: Slot) -> Option<&Arc<Configuration>> {
        self.slots.get(slot.index())
    }

    /// All of them, by slot.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Configuration>> {
        self.slots.iter()
    }

    /// The slots that are between two sets.
    pub(crate) fn joint(&self) -> impl Iterator<Item = &Arc<Configuration>> {
        self.slots.iter().filter(|configuration| configuration.phase.is_joint())
    }
}

fn configuration(state: &ClusterState, slot: Slot, digests: &Digests) -> Configuration {
    let class = &state.placement.strong;
    let replica = |node: NodeId| Replica { member: member(state, node), joined: state.strong_joined(slot, node).unwrap_or_default() };
    let (current, next) = class.write_sets(slot);
    let current: Vec<Replica> = current.map(replica).collect();
    match class.phase(slot) {
        Place::Stable(epoch) => {
            let table = if epoch == class.epoch { digests.current } else { digests.next };
            Configuration { slot, phase: Phase::stable(epoch), table, current, next: None }
        }
        Place::Joint { from, .. } => {
            let next = next.map(|next| next.map(replica).collect());
            Configuration { slot, phase: Phase::stable(from).next(), table: digests.joint, current, next }
        }
    }
}

/// A node as quorums count it. One that a table names and the council no longer knows counts as somebody who never answers.
fn member(state: &ClusterState, node: NodeId) -> Member {
    Member { node, store: state.strong_store(node).unwrap_or(StoreId(0)) }
}
