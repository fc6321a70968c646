//! One simulated host: a whole daemon on simulated disks, its clients, and what observes it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use isochrone::node::{Environment, Hooks, Node, NodeOptions, NodeParts};
use isochrone_config::ClusterSpec;
use isochrone_edge::{Api, Auth, Backend, EdgeLimits, Operator};
use isochrone_gossip::certs::{self, CA_VALIDITY, CertificatePem, LEAF_VALIDITY};
use isochrone_gossip::{Credentials, MeshOptions, PeerIdentity};
use isochrone_ident::{Kind, Namespace, Slot};
use isochrone_placement::Capacity;
use isochrone_replica::State;
use isochrone_store::{Driver, Medium, Store, StoreOptions};

use crate::clocks::EPOCH;
use crate::history::Name;
use crate::net::{PORT, TurmoilSockets};
use crate::shape::Shape;
use crate::shared::{Held, Report, Shared, Stage, elapsed, lock};
use crate::workload;

/// A namespace whose keys two daemons keep.
pub const PAIR: &str = "pair";
/// The cluster file of every simulated cluster.
pub const CLUSTER_FILE: &str = "[[namespace]]\nname = \"pair\"\nmode = \"eventual\"\nreplicas = 2\n";
/// How often a host says how it is.
const OBSERVED: Duration = Duration::from_millis(250);
/// How long a simulated sync takes.
const SYNC: Duration = Duration::from_millis(1);

/// The certificates of a cluster: the authority's, and one for each node. Their keys are random; nothing that can be observed follows from them.
#[must_use]
pub fn certificates(shape: &Shape) -> (String, Vec<CertificatePem>) {
    let ca = certs::create_ca(&shape.cluster, EPOCH, CA_VALIDITY).expect("the system has randomness");
    let issue = |n: usize| certs::issue_node(&ca, &identity(shape, n), &[], EPOCH, LEAF_VALIDITY).expect("the authority is good");
    let issued = (0..shape.nodes.len()).map(issue).collect();
    (ca.certificate, issued)
}

fn identity(shape: &Shape, n: usize) -> PeerIdentity {
    let place = &shape.nodes[n];
    PeerIdentity { cluster: shape.cluster.clone(), region: place.region.clone(), node: place.node }
}

/// A host's life from a start to its crash. Why a daemon could not start, or gave up, is left in [`Shared::fatal`].
///
/// # Errors
/// Never: the harness ends hosts.
pub async fn live(shared: Arc<Shared>, me: usize) -> turmoil::Result {
    if !shared.shape.is_initial(me) {
        wait_to_join(&shared).await;
    }
    match start(&shared, me).await {
        Ok(node) => {
            lock(&shared.disks)[me].made = true;
            let api = api_of(&shared, me, &node);
            let incarnation = Operator::status(&node).incarnation;
            for client in 0..workload::CLIENTS {
                tokio::spawn(workload::client(Arc::clone(&shared), api.clone(), me, incarnation, client));
            }
            observe(&shared, me, &node, &api).await;
        }
        Err(reason) => give_up(&shared, me, reason),
    }
    std::future::pending().await
}

async fn wait_to_join(shared: &Shared) {
    while lock(&shared.joins_at).is_none_or(|at| elapsed() < at) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn give_up(shared: &Shared, me: usize, reason: String) {
    lock(&shared.fatal)[me].get_or_insert(reason);
}

async fn start(shared: &Arc<Shared>, me: usize) -> Result<Node, String> {
    let sockets = TurmoilSockets::bind(shared, me).await.map_err(|e| format!("the socket: {e}"))?;
    let disks = lock(&shared.disks)[me].clone();
    let environment = environment(shared, me);
    let store = Store::open(Medium::Simulated(disks.store), store_options(&environment)).map_err(|e| format!("the store: {e}"))?;
    let mut builder = redb::Builder::new();
    builder.set_cache_size(4 << 20);
    let council = builder.create_with_backend(disks.council.backend()).map_err(|e| format!("the council's store: {e}"))?;
    let parts = NodeParts {
        identity: identity(&shared.shape, me),
        zone: None,
        capacity: Capacity::new(100).map_err(|e| e.to_string())?,
        store,
        council,
        mesh: mesh(shared, me, environment.clone()),
        sockets: Arc::new(sockets),
        hooks: Hooks::default(),
        council_options: Box::new(|options| options.snapshot_every = 16),
        options: options(shared, me),
        environment,
    };
    Box::pin(Node::start(parts)).await.map_err(|e| e.to_string())
}

fn environment(shared: &Arc<Shared>, me: usize) -> Environment {
    let told = Arc::clone(shared);
    Environment {
        wall: shared.wall(me),
        seed: shared.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ me as u64,
        on_fatal: Arc::new(move |reason| give_up(&told, me, reason)),
    }
}

fn store_options(environment: &Environment) -> StoreOptions {
    let driver = Driver::Task { sync_latency: SYNC };
    StoreOptions {
        memory_bytes_max: 16 << 20,
        disk_bytes_max: 64 << 20,
        evictable_bytes_max: 16 << 20,
        seed: environment.seed,
        ..StoreOptions::new(driver, Arc::clone(&environment.wall), Arc::clone(&environment.on_fatal))
    }
}

type MakeMesh = Box<dyn FnOnce(isochrone_ident::StoreId, isochrone_ident::Incarnation) -> MeshOptions + Send>;

fn mesh(shared: &Arc<Shared>, me: usize, environment: Environment) -> MakeMesh {
    let (shared, seeds) = (Arc::clone(shared), seeds(shared, me));
    Box::new(move |store, incarnation| {
        let credentials = Credentials::Memory { own: shared.certificates[me].clone(), authorities: shared.authority.clone() };
        let identity = identity(&shared.shape, me);
        MeshOptions {
            advertise: Some(address(&shared.shape, me)),
            seeds,
            ..MeshOptions::new(identity, credentials, store, incarnation, environment.wall, environment.seed)
        }
    })
}

fn address(shape: &Shape, n: usize) -> String {
    format!("{}:{PORT}", shape.nodes[n].name)
}

/// The founder joins nobody; the others join through it, and through the one before themselves.
fn seeds(shared: &Shared, me: usize) -> Vec<String> {
    let through = if me == 0 { Vec::new() } else { vec![0, me - 1] };
    through.into_iter().map(|n| address(&shared.shape, n)).collect()
}

fn options(shared: &Shared, me: usize) -> NodeOptions {
    let width = ClusterSpec::parse(&shared.cluster_file, "cluster.toml").map_or(3, |spec| spec.replica_width());
    NodeOptions {
        join: seeds(shared, me),
        cluster_file: shared.cluster_file.clone(),
        cluster_width: width,
        sweep: (Duration::from_millis(200), 512),
        mutation: shared.mutation,
        ..NodeOptions::default()
    }
}

fn api_of(shared: &Arc<Shared>, me: usize, node: &Node) -> Api {
    Api::new(Arc::new(node.clone()) as Arc<dyn Backend>, Arc::new(Auth::none()), EdgeLimits::default(), shared.wall(me))
}

/// Reports how the daemon is, and does what the stage asks of each host once.
async fn observe(shared: &Arc<Shared>, me: usize, node: &Node, api: &Api) {
    let mut leader = (None, 0);
    loop {
        tokio::time::sleep(OBSERVED).await;
        let report = report(shared, me, node);
        if leader != report.leader {
            leader = report.leader.clone();
            shared.note(format_args!("leader {me} {leader:?}"));
        }
        lock(&shared.reports)[me] = report;
        match shared.stage() {
            Stage::Boot | Stage::Work => {}
            Stage::Heal => {
                if !lock(&shared.reports)[me].wrote && workload::write_once(shared, api, me).await {
                    lock(&shared.reports)[me].wrote = true;
                }
            }
            Stage::Verify(end) => {
                if !lock(&shared.reports)[me].verified && workload::read_all(shared, api, me, &end).await {
                    lock(&shared.reports)[me].verified = true;
                }
            }
        }
    }
}

fn report(shared: &Shared, me: usize, node: &Node) -> Report {
    let status = Operator::status(node);
    let before = lock(&shared.reports)[me].clone();
    let healing = matches!(shared.stage(), Stage::Heal);
    let failing = status.checks.iter().filter(|c| !c.ok).map(|c| format!("{}: {}", c.name, c.detail)).collect();
    Report {
        ready: status.ready,
        failing,
        backlog: status.replication.backlog,
        slots_moving: status.placement.slots_moving,
        members: status.members.len(),
        leader: (status.council.leader, status.council.term),
        holds: if healing { held(node.store()) } else { before.holds },
        wrote: before.wrote,
        verified: before.verified,
    }
}

/// What a store holds of durable namespaces, slot by slot; `None` when it can't be read.
fn held(store: &Store) -> Option<BTreeMap<Name, Held>> {
    let mut all = BTreeMap::new();
    for slot in Slot::all().filter(|&slot| store.slot_totals(slot).keys > 0) {
        let mut after = None;
        loop {
            let page = store.scan_slot(slot, after.as_ref(), 1 << 20).ok()?;
            all.extend(page.entries.into_iter().filter(|e| e.kind == Kind::Value && is_durable(&e.ns)).map(|e| {
                let (value, expires) = match e.record.state {
                    State::Live(live) => (Some(live.value), live.expires_at.is_some()),
                    State::Tombstone | State::Typed(_) => (None, false),
                };
                ((e.ns, e.key.to_string()), Held { version: e.record.version, value, expires })
            }));
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
    }
    Some(all)
}

/// Whether a namespace's acknowledged writes must survive.
#[must_use]
pub fn is_durable(ns: &Namespace) -> bool {
    ns.as_str() != "cache"
}
