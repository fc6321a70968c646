//! Becoming a member, staying one, and following what the council decides.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use isochrone_config::{ClusterSpec, Keeping};
use isochrone_council::{Command, JoinError, Observations, ProposeError, Refusal};
use isochrone_gossip::{Call, Liveness, Mesh, Traffic as Class};
use isochrone_ident::{NodeId, Region, Slot};
use isochrone_placement::RoundTrips;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::core::{Core, lock};
use super::sender;
use super::service::{Doorkeeper, wire_error};
use super::start::Hooks;
use super::start_over::StartOver;
use super::strong;
use super::traffic::Traffic;
use super::view::View;
use super::wire;

/// What the council's driver sees of the cluster: the mesh's measurements, and the requests that the members count.
pub(crate) struct Seen {
    pub(crate) mesh: Mesh,
    pub(crate) me: NodeId,
    pub(crate) traffic: Traffic,
}

impl Observations for Seen {
    fn round_trips(&self) -> RoundTrips {
        let mut round_trips = RoundTrips::default();
        for (a, b, round_trip) in self.mesh.round_trips().cells() {
            round_trips.insert(a, b, u32::try_from(round_trip.as_micros()).unwrap_or(u32::MAX));
        }
        round_trips
    }

    fn traffic(&self) -> BTreeMap<Region, u64> {
        self.traffic.by_region()
    }

    fn alive(&self, node: NodeId) -> bool {
        node == self.me || self.mesh.peers().get(node).is_some_and(|p| matches!(p.liveness, Liveness::Alive | Liveness::Suspect))
    }

    /// Evictable data may go, so nobody is kept for its sake.
    fn replica_counts(&self, file: &str) -> BTreeSet<usize> {
        let Ok(spec) = ClusterSpec::parse(file, "the cluster file in force") else { return BTreeSet::from([1, usize::MAX]) };
        spec.namespaces().filter(|ns| ns.keeping == Keeping::Durable).map(|ns| usize::from(ns.replicas)).collect()
    }
}

/// Makes this node a member: founds a cluster of its own when it has nobody to join, else asks the seeds until one takes it in.
/// A node that is a member already tells the council that it has started again.
pub(crate) async fn join(core: Arc<Core>, hooks: Arc<Hooks>) {
    let mut rng = StdRng::seed_from_u64(core.environment.seed ^ 0x01_01);
    let (shortest, longest) = core.options.backoff;
    let mut pause = shortest;
    loop {
        match try_join(&core).await {
            Ok(()) => return,
            Err(NotJoined::Refused(Refusal::Retired(..))) => return start_over(&core, &hooks, "the council refuses its store"),
            Err(NotJoined::Refused(refusal)) => return refused(&core, &refusal),
            Err(NotJoined::NotNow(reason)) => tracing::info!(reason, "not a member yet; trying again"),
        }
        tokio::time::sleep(pause.mul_f64(rng.random_range(0.5..1.0))).await;
        pause = (pause * 2).min(longest);
    }
}

/// Why this node is no member yet.
enum NotJoined {
    /// It will never be one as it is.
    Refused(Refusal),
    /// It is worth trying again.
    NotNow(String),
}

impl From<Refusal> for NotJoined {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            passing @ (Refusal::StillPlaced(_) | Refusal::NotFounded) => Self::NotNow(passing.to_string()),
            lasting => Self::Refused(lasting),
        }
    }
}

async fn try_join(core: &Core) -> Result<(), NotJoined> {
    let not_now = |reason: String| NotJoined::NotNow(reason);
    if core.council.is_initialised() {
        return match core.council.propose(Command::Join(core.me.clone()), core.options.propose_deadline).await {
            Err(ProposeError::Refused(refusal)) => Err(refusal.into()),
            other => other.map(|_| ()).map_err(|e| not_now(e.to_string())),
        };
    }
    if core.options.join.is_empty() {
        let text = core.options.cluster_file.clone();
        let width = core.options.cluster_width;
        return core.council.bootstrap(text, width).await.map_err(|e| not_now(e.to_string()));
    }
    let mut failures = Vec::new();
    for seed in &core.options.join {
        match core.council.join_via(|body, deadline| call_seed(&core.mesh, seed, body, deadline), core.options.propose_deadline).await {
            Ok(_) => return Ok(()),
            Err(JoinError::Refused(refusal)) => match refusal.into() {
                NotJoined::NotNow(reason) => failures.push(format!("{seed}: {reason}")),
                lasting => return Err(lasting),
            },
            Err(e) => failures.push(format!("{seed}: {e}")),
        }
    }
    Err(not_now(failures.join("; ")))
}

/// The council will never take this node in as it is: the process ends, and says what to do.
fn refused(core: &Core, refusal: &Refusal) {
    (core.environment.on_fatal)(format!("the council refuses this node: {refusal}"));
}

/// This node's store was retired (E7): the process is told, and starts the node over with an empty one.
fn start_over(core: &Core, hooks: &Hooks, how: &str) {
    tracing::warn!(store = %core.me.store, how, "this node was away for too long; it starts over with an empty store");
    (hooks.start_over)(StartOver::of(core));
}

/// Peers refuse a retired store, and say so: who was away hears of it from nobody else. One certified peer is believed, as its council's log would be;
/// nothing is deleted on its word.
pub(crate) async fn heed(core: Arc<Core>, hooks: Arc<Hooks>) {
    let mut disowned = core.mesh.disowned();
    let by = disowned.wait_for(Option::is_some).await.ok().and_then(|by| *by);
    if let Some(by) = by {
        start_over(&core, &hooks, &format!("node {by} refuses its store"));
    }
}

fn call_seed(
    mesh: &Mesh,
    seed: &str,
    body: bytes::Bytes,
    deadline: Duration,
) -> BoxFuture<'static, Result<bytes::Bytes, isochrone_council::WireError>> {
    let (mesh, seed) = (mesh.clone(), seed.to_owned());
    Box::pin(async move {
        let call = Call::new(wire::COUNCIL, body, deadline);
        mesh.call_addr(&seed, call).await.map(|(_, bytes)| bytes).map_err(wire_error)
    })
}

/// Takes over every decision of the council, for ever.
pub(crate) async fn follow(core: Arc<Core>, doorkeeper: Arc<Doorkeeper>, hooks: Arc<Hooks>) {
    let mut changed = core.council.changed();
    let mut fed = BTreeSet::new();
    loop {
        changed.borrow_and_update();
        adopt(&core, &doorkeeper, &hooks);
        (hooks.tokens)(&core.view.load().spec.tokens);
        for peer in core.others() {
            if fed.insert(peer) {
                core.spawn(sender::feed(Arc::clone(&core), peer));
                core.spawn(strong::keep(Arc::clone(&core), peer, Class::Foreground));
                core.spawn(strong::keep(Arc::clone(&core), peer, Class::Bulk));
            }
        }
        let members: BTreeSet<NodeId> = core.others().into_iter().collect();
        fed.retain(|peer| members.contains(peer));
        if changed.changed().await.is_err() {
            return;
        }
    }
}

/// Makes the council's present state this node's view, and tells everybody whom it concerns.
pub(crate) fn adopt(core: &Core, doorkeeper: &Doorkeeper, hooks: &Hooks) {
    let state = core.council.state();
    let old = core.view.load_full();
    let new = Arc::new(View::of(&state, core.id()));
    // By store: an empty store that learns the council's history passes the removal of the one that it follows.
    if state.is_retired(core.id(), core.me.store) {
        start_over(core, hooks, "the council has retired its store");
    } else if state.is_gone(core.id(), core.me.store) {
        (core.environment.on_fatal)(
            "this node was removed from the cluster; empty its data directory and issue a new certificate to let it join anew".to_owned(),
        );
    }
    doorkeeper.adopt(&state);
    for member in new.members.values().filter(|m| m.node != core.id()) {
        core.mesh.learn(member.node, member.region.clone(), &member.address);
    }
    for &node in new.removed.difference(&old.removed) {
        core.mesh.forget(node);
    }
    let (gained, applied) = (gained(&old, &new), new.applied);
    // The view first: a stream that begins in between then chooses by the new view, whatever pass it thinks it is in.
    core.view.store(Arc::clone(&new));
    {
        let mut delivery = lock(&core.delivery);
        delivery.set_peers(new.members.keys().copied().filter(|&n| n != core.id()));
        delivery.adopt(new.phase_number(), gained.iter().copied().filter(|&n| n != core.id()));
    }
    core.with_horizon(|horizon| {
        horizon.set_members(new.members.keys().copied());
        if gained.contains(&core.id()) {
            horizon.forget_sent();
        }
    });
    core.strong.adopt(&state);
    core.view_changed.send_replace(applied);
}

/// The nodes that need some slot's writes under the new view and did not under the old; in any namespace, for a node that moves up in a slot's
/// row begins to need those of namespaces with fewer replicas.
fn gained(old: &View, new: &View) -> BTreeSet<NodeId> {
    if old.phase_number() == new.phase_number() && Arc::ptr_eq(&old.placement, &new.placement) {
        return BTreeSet::new();
    }
    let mut gained = BTreeSet::new();
    for slot in Slot::all() {
        for count in new.replica_counts() {
            gained.extend(new.holders(slot, count).filter(|node| !old.holders(slot, count).any(|n| n == *node)));
        }
    }
    gained
}
