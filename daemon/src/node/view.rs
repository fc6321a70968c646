//! What the request path knows of the cluster: one immutable value, exchanged whole when the council decides something.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isochrone_config::Mode as NamespaceMode;
use isochrone_config::{ByteSize, ClusterSpec, Keeping, NamespaceSpec};
use isochrone_council::{ClusterState, Member};
use isochrone_edge::{Mode, NamespaceView};
use isochrone_ident::{Epoch, Namespace, NodeId, Slot};
use isochrone_placement::{Phase, Placement, slot_of};
use xxhash_rust::xxh3::xxh3_64;

/// The cluster as of one council decision.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// Number of the council's decisions that this reflects.
    pub(crate) applied: u64,
    /// The members.
    pub(crate) members: BTreeMap<NodeId, Member>,
    /// The nodes that were removed, or retired, and are no members.
    pub(crate) removed: BTreeSet<NodeId>,
    /// The cluster file's content.
    pub(crate) spec: ClusterSpec,
    /// Where every key lives.
    pub(crate) placement: Arc<Placement>,
    replica_counts: BTreeSet<usize>,
    serves: u64,
    me: NodeId,
}

/// The replicas that a request must know of: a slot's, cut to the number that the namespace asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Replicas {
    /// Those that hold everything: reads go to them.
    pub(crate) read: Vec<NodeId>,
    /// Those that a move is filling, without the ones above.
    pub(crate) joining: Vec<NodeId>,
}

/// The node's place in each slot's row, since a namespace with fewer replicas uses the first ones.
fn serves(placement: &Placement, me: NodeId) -> u64 {
    let place = |slot| placement.eventual.read_set(slot).position(|node| node == me).map_or(u8::MAX, |place| place as u8);
    xxh3_64(&Slot::all().map(place).collect::<Vec<u8>>())
}

impl View {
    /// The view of a council state; the cluster file in it was checked before it was proposed.
    pub(crate) fn of(state: &ClusterState, me: NodeId) -> Self {
        let spec = ClusterSpec::parse(&state.file.text, "the cluster file in force").unwrap_or_else(|problems| {
            tracing::error!(%problems, "the cluster file in force cannot be read by this version; built-in namespaces only");
            ClusterSpec::default()
        });
        let replica_counts = spec.namespaces().map(|ns| usize::from(ns.replicas)).collect();
        Self {
            serves: serves(&state.placement, me),
            replica_counts,
            applied: state.applied,
            members: state.members.clone(),
            removed: state.removed.keys().copied().filter(|node| !state.members.contains_key(node)).collect(),
            spec,
            placement: Arc::clone(&state.placement),
            me,
        }
    }

    /// A namespace's settings.
    pub(crate) fn namespace(&self, ns: &Namespace) -> Option<&NamespaceSpec> {
        self.spec.namespace(ns)
    }

    /// What the API must know of a namespace, given this node's own bound on values.
    pub(crate) fn namespace_view(&self, ns: &Namespace, value_bytes_max: u64) -> Option<NamespaceView> {
        let spec = self.namespace(ns)?;
        Some(NamespaceView {
            mode: if spec.mode == NamespaceMode::Strong { Mode::Strong } else { Mode::Eventual },
            evictable: spec.keeping == Keeping::Evictable,
            ttl_default: spec.ttl_default.map(isochrone_config::Span::duration),
            ttl_max: spec.ttl_max.map(isochrone_config::Span::duration),
            value_bytes: spec.value_bytes_max(ByteSize::bytes(value_bytes_max)).as_u64(),
        })
    }

    /// The placement epoch of the eventual slots.
    pub(crate) fn epoch(&self) -> Epoch {
        self.placement.eventual.epoch
    }

    /// Counts the phases of all slots (2e, 2e + 1): it rises with every decision that changes who needs a write.
    pub(crate) fn phase_number(&self) -> Epoch {
        Epoch(self.epoch().0 * 2 + u64::from(self.placement.eventual.is_moving()))
    }

    /// The replicas of a namespace's keys in a slot.
    pub(crate) fn replicas(&self, ns: &Namespace, slot: Slot) -> Replicas {
        let count = self.namespace(ns).map_or(usize::MAX, |spec| usize::from(spec.replicas));
        let class = &self.placement.eventual;
        let read: Vec<NodeId> = class.read_set(slot).take(count).collect();
        let joining = match class.write_sets(slot) {
            (_, Some(next)) => next.take(count).filter(|n| !read.contains(n)).collect(),
            (_, None) => Vec::new(),
        };
        Replicas { read, joining }
    }

    /// The replica sets of each of which a quorum write needs a majority: one, or two while the slot moves.
    pub(crate) fn write_sets(&self, ns: &Namespace, slot: Slot) -> Vec<Vec<NodeId>> {
        let count = self.namespace(ns).map_or(usize::MAX, |spec| usize::from(spec.replicas));
        let (current, next) = self.placement.eventual.write_sets(slot);
        let next = next.map(|next| next.take(count).collect());
        std::iter::once(current.take(count).collect()).chain(next).collect()
    }

    /// Whether `node` needs the writes of that namespace in that slot: it is a replica, or becomes one.
    pub(crate) fn needs(&self, node: NodeId, ns: &Namespace, slot: Slot) -> bool {
        let count = self.namespace(ns).map_or(usize::MAX, |spec| usize::from(spec.replicas));
        let (current, next) = self.placement.eventual.write_sets(slot);
        current.take(count).any(|n| n == node) || next.is_some_and(|next| next.take(count).any(|n| n == node))
    }

    /// Whether `node` holds all of that namespace in that slot: it is a replica, and not only becomes one.
    pub(crate) fn is_full(&self, node: NodeId, ns: &Namespace, slot: Slot) -> bool {
        let count = self.namespace(ns).map_or(usize::MAX, |spec| usize::from(spec.replicas));
        self.placement.eventual.read_set(slot).take(count).any(|n| n == node)
    }

    /// Whether this node answers reads of that key from its own store, without allocation (P4).
    pub(crate) fn reads_here(&self, spec: &NamespaceSpec, slot: Slot) -> bool {
        self.placement.eventual.read_set(slot).take(usize::from(spec.replicas)).any(|n| n == self.me)
    }

    /// Stands for all that this node answers reads for: differs when that does.
    pub(crate) fn serves(&self) -> u64 {
        self.serves
    }

    /// The slot of a key.
    pub(crate) fn slot(ns: &Namespace, key: &[u8]) -> Slot {
        slot_of(ns, key)
    }

    /// The numbers of replicas that namespaces ask for.
    pub(crate) fn replica_counts(&self) -> impl Iterator<Item = usize> + '_ {
        self.replica_counts.iter().copied()
    }

    /// The nodes that need a slot's writes in namespaces with that number of replicas.
    pub(crate) fn holders(&self, slot: Slot, count: usize) -> impl Iterator<Item = NodeId> + '_ {
        let (current, next) = self.placement.eventual.write_sets(slot);
        current.take(count).chain(next.into_iter().flat_map(move |next| next.take(count)))
    }

    /// The slots that this node is to be filled with.
    pub(crate) fn slots_to_fill(&self) -> Vec<Slot> {
        self.placement.eventual.moving_slots().filter(|&slot| self.joiners(slot).contains(&self.me)).collect()
    }

    /// The nodes that a moving slot gains for some namespace. A namespace with fewer replicas than the table has columns uses the
    /// first ones, so a node may be gained by moving up.
    pub(crate) fn joiners(&self, slot: Slot) -> Vec<NodeId> {
        let class = &self.placement.eventual;
        let (Phase::Joint { .. }, (current, Some(next))) = (class.phase(slot), class.write_sets(slot)) else { return Vec::new() };
        let mut joiners = Vec::new();
        for &count in &self.replica_counts {
            joiners.extend(next.take(count).filter(|n| !current.take(count).any(|c| c == *n)));
        }
        joiners.sort_unstable();
        joiners.dedup();
        joiners
    }

    /// The replicas of a slot that hold it for every namespace, other than this node: where it can be filled from.
    pub(crate) fn sources(&self, slot: Slot) -> Vec<NodeId> {
        let fewest = self.replica_counts.iter().copied().min().unwrap_or(1);
        self.placement.eventual.read_set(slot).take(fewest).filter(|&n| n != self.me).collect()
    }
}
