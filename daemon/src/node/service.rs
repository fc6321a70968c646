//! What peers may ask of this node, and who may ask: the mesh's way into it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use isochrone_council::{ClusterState, Council, Retired, Wire, WireError};
use isochrone_gossip::{Admission, Call, CallError, Channel, Mesh, PeerIdentity, Refused, Service, ServiceId};
use isochrone_ident::{NodeId, StoreId};
use tokio::time::Instant;

use super::core::{Core, lock};
use super::wire;

/// Hands requests to the node once there is one. The mesh has to run before the council can, and the council before the node. In the end it
/// holds neither: both hold the mesh, which holds this.
#[derive(Default)]
pub(crate) struct Router {
    core: OnceLock<Weak<Core>>,
    council: Mutex<Option<Council>>,
}

impl Router {
    /// The council runs: its messages are answered from now on.
    pub(crate) fn council_is(&self, council: Council) {
        *lock(&self.council) = Some(council);
    }

    /// The node runs: everything is answered from now on.
    pub(crate) fn node_is(&self, core: &Arc<Core>) {
        let _ = self.core.set(Arc::downgrade(core));
        *lock(&self.council) = None;
    }

    fn council(&self) -> Option<Council> {
        let early = lock(&self.council).clone();
        early.or_else(|| self.core().ok().map(|core| core.council.clone()))
    }

    fn core(&self) -> Result<Arc<Core>, Refused> {
        self.core.get().and_then(Weak::upgrade).ok_or_else(|| Refused("this daemon is starting".to_owned()))
    }
}

impl Service for Router {
    fn call(&self, from: &PeerIdentity, service: ServiceId, body: Bytes, deadline: Instant) -> BoxFuture<'static, Result<Bytes, Refused>> {
        if service == wire::COUNCIL {
            let Some(council) = self.council() else {
                return Box::pin(std::future::ready(Err(Refused("this daemon is starting".to_owned()))));
            };
            let from = from.node;
            return Box::pin(async move { council.handle(from, body).await.map_err(Refused) });
        }
        let (core, from) = (self.core(), from.node);
        Box::pin(async move {
            let core = core?;
            let answer = match service {
                wire::READ => core.answer_read(from, &body, deadline).await,
                wire::LIST => core.answer_list(&body, deadline).await,
                wire::FETCH => core.answer_fetch(&body),
                wire::FILLED => core.answer_filled(&body),
                wire::PULL => core.answer_pull(&body),
                wire::MEND => core.answer_mend(&body).await,
                wire::COMPARE => core.answer_compare(from, &body).await,
                wire::STRONG => core.answer_strong(from, &body, deadline).await,
                other => Err(format!("this version has no service {other:?}")),
            };
            answer.map_err(Refused)
        })
    }

    fn stream(&self, from: PeerIdentity, service: ServiceId, channel: Channel) {
        match self.core() {
            Ok(core) if service == wire::REPLICATE => {
                tokio::spawn(core.receive_feed(from, channel));
            }
            Ok(core) if service == wire::COPIES => {
                tokio::spawn(core.announce_to(from, channel));
            }
            Ok(core) if service == wire::QUORUM => {
                tokio::spawn(core.serve_quorum(from, channel));
            }
            // Dropping the channel tells the peer, which tries again later.
            _ => drop(channel),
        }
    }
}

/// Whom the council has removed is kept out (M2): a node that an operator removed, by its id; one that was away for too long, by its store (E7).
#[derive(Default)]
pub(crate) struct Doorkeeper {
    gone: ArcSwap<Gone>,
}

#[derive(Default)]
struct Gone {
    nodes: BTreeSet<NodeId>,
    retired: Retired,
}

impl Doorkeeper {
    /// Takes over what the council has decided.
    pub(crate) fn adopt(&self, state: &ClusterState) {
        let nodes = state.removed.keys().copied().filter(|node| !state.retired.contains_key(node)).collect();
        self.gone.store(Arc::new(Gone { nodes, retired: state.retired.clone() }));
    }
}

impl Admission for Doorkeeper {
    fn admit(&self, peer: &PeerIdentity) -> Result<(), String> {
        if self.gone.load().nodes.contains(&peer.node) {
            return Err(format!(
                "node {} was removed from the cluster; a new data directory and certificate make it a new member",
                peer.node
            ));
        }
        Ok(())
    }

    fn admit_store(&self, peer: &PeerIdentity, store: StoreId) -> Result<(), String> {
        if self.gone.load().retired.get(&peer.node).is_some_and(|stores| stores.contains(&store)) {
            return Err(format!("node {} was away for too long with store {store}; it starts over with an empty one", peer.node));
        }
        Ok(())
    }
}

/// The council's messages over the mesh.
pub(crate) struct MeshWire(pub(crate) Mesh);

impl Wire for MeshWire {
    fn call(&self, to: NodeId, body: Bytes, deadline: Duration) -> BoxFuture<'static, Result<Bytes, WireError>> {
        let mesh = self.0.clone();
        Box::pin(async move { mesh.call(to, Call::new(wire::COUNCIL, body, deadline)).await.map_err(wire_error) })
    }
}

/// What the council makes of a failed call.
pub(crate) fn wire_error(error: CallError) -> WireError {
    match error {
        CallError::Refused(reason) => WireError::Refused(reason),
        other if other.is_unsent() => WireError::Unsent(other.to_string()),
        other => WireError::Unknown(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use isochrone_ident::{ClusterName, Region};

    use super::*;

    fn peer(node: u128) -> PeerIdentity {
        let region = Region::new("here").expect("a name");
        PeerIdentity { cluster: ClusterName::new("test").expect("a name"), region, node: NodeId(node) }
    }

    #[test]
    fn m2_a_removed_node_is_kept_out_by_its_id_and_a_retired_one_by_its_store() {
        let mut state = ClusterState::new(ClusterName::new("test").expect("a name"));
        state.removed.insert(NodeId(1), BTreeSet::from([StoreId(11)]));
        state.removed.insert(NodeId(2), BTreeSet::from([StoreId(22)]));
        state.retired.insert(NodeId(2), BTreeSet::from([StoreId(22)]));
        let door = Doorkeeper::default();
        door.adopt(&state);
        assert!(door.admit(&peer(1)).is_err(), "whatever its store");
        assert!(door.admit(&peer(2)).is_ok() && door.admit_store(&peer(2), StoreId(22)).is_err(), "E7");
        assert!(door.admit_store(&peer(2), StoreId(23)).is_ok(), "it comes back empty");
        assert!(door.admit(&peer(3)).is_ok() && door.admit_store(&peer(3), StoreId(22)).is_ok());
    }
}
