//! One simulated host: a whole daemon on simulated disks, its clients, and what observes it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use isochrone::node::{Environment, Hooks, Node, NodeOptions, NodeParts};
use isochrone_config::ClusterSpec;
use isochrone_edge::{Api, Auth, Backend, EdgeLimits, Operator};
use isochrone_gossip::certs::{self, CA_VALIDITY, CertificatePem, LEAF_VALIDITY};
use isochrone_gossip::{Credentials, MeshOptions, PeerIdentity};
use isochrone_ident::{ClusterName, Namespace, NodeId, Slot};
use isochrone_placement::Capacity;
use isochrone_replica::{DigestKey, Record, State};
use isochrone_store::{Driver, Medium, Store, StoreOptions, StrongOptions, StrongStore};
use xxhash_rust::xxh3::xxh3_128;

use crate::clients::{desks, settled, strong};
use crate::clocks::EPOCH;
use crate::model::typed::Place;
use crate::net::{PORT, TurmoilSockets};
use crate::shape::Shape;
use crate::shared::{Held, Report, Shared, Stage, elapsed, lock};

/// A namespace whose keys two daemons keep.
pub const PAIR: &str = "pair";
/// The cluster file of every simulated cluster.
pub const CLUSTER_FILE: &str = "[[namespace]]\nname = \"pair\"\nmode = \"eventual\"\nreplicas = 2\n";
/// Disks that a node may have, one after the other.
pub const LIVES: usize = 2;
/// How often a host says how it is.
const OBSERVED: Duration = Duration::from_millis(250);
/// How long a simulated sync takes.
const SYNC: Duration = Duration::from_millis(1);

/// The certificates of a cluster: the authority's, and one for each node and disk. Their keys are random; nothing that can be observed follows from them.
#[must_use]
pub fn certificates(shape: &Shape) -> (String, Vec<[CertificatePem; LIVES]>) {
    let ca = certs::create_ca(&shape.cluster, EPOCH, CA_VALIDITY).expect("the system has randomness");
    let issue = |n: usize, life: usize| {
        let identity = identity(shape, n, life);
        certs::issue_node(&ca, &identity, &[], EPOCH, LEAF_VALIDITY).expect("the authority is good")
    };
    let issued = (0..shape.nodes.len()).map(|n| std::array::from_fn(|life| issue(n, life))).collect();
    (ca.certificate, issued)
}

fn identity(shape: &Shape, n: usize, life: usize) -> PeerIdentity {
    let place = &shape.nodes[n];
    PeerIdentity { cluster: shape.cluster.clone(), region: place.region.clone(), node: node_id(shape, n, life) }
}

/// The id of a node with its disk of that number: a lost disk is a new member, with a certificate of its own (Q15).
#[must_use]
pub fn node_id(shape: &Shape, n: usize, life: usize) -> NodeId {
    NodeId(shape.nodes[n].node.0 ^ (life as u128) << 64)
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
            let clients = if shared.is_directed || shared.only_strong { 0 } else { settled::CLIENTS };
            for client in 0..clients {
                tokio::spawn(settled::client(Arc::clone(&shared), api.clone(), me, incarnation, client));
            }
            desks::open(&shared, me, api.clone());
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

/// Starts the daemon of a host, with its disks as they are.
///
/// # Errors
/// Why it did not start, in words.
pub async fn start(shared: &Arc<Shared>, me: usize) -> Result<Node, String> {
    let sockets = TurmoilSockets::bind(shared, me).await.map_err(|e| format!("the socket: {e}"))?;
    let disks = lock(&shared.disks)[me].clone();
    let environment = environment(shared, me);
    let store = Store::open(Medium::Simulated(disks.store), store_options(&environment, &shared.shape.cluster))
        .map_err(|e| format!("the store: {e}"))?;
    let mut builder = redb::Builder::new();
    builder.set_cache_size(4 << 20);
    let council = builder.create_with_backend(disks.council.backend()).map_err(|e| format!("the council's store: {e}"))?;
    let strong = strong_options(&environment);
    let parts = NodeParts {
        identity: identity(&shared.shape, me, shared.life(me)),
        zone: None,
        capacity: Capacity::new(100).map_err(|e| e.to_string())?,
        store,
        strong: Box::new(move |member| StrongStore::open(Medium::Simulated(disks.strong), member, strong)),
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
        seed: shared.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ me as u64 ^ (shared.life(me) as u64) << 32,
        on_fatal: Arc::new(move |reason| give_up(&told, me, reason)),
    }
}

fn strong_options(environment: &Environment) -> StrongOptions {
    StrongOptions {
        disk_bytes_max: 64 << 20,
        memory_bytes_max: 4 << 20,
        seed: environment.seed,
        ..StrongOptions::new(Driver::Task { sync_latency: SYNC }, Arc::clone(&environment.on_fatal))
    }
}

fn store_options(environment: &Environment, cluster: &ClusterName) -> StoreOptions {
    let driver = Driver::Task { sync_latency: SYNC };
    StoreOptions {
        memory_bytes_max: 16 << 20,
        disk_bytes_max: 64 << 20,
        evictable_bytes_max: 16 << 20,
        digest_key: Some(DigestKey::of(cluster)),
        seed: environment.seed,
        ..StoreOptions::new(driver, Arc::clone(&environment.wall), Arc::clone(&environment.on_fatal))
    }
}

type MakeMesh = Box<dyn FnOnce(isochrone_ident::StoreId, isochrone_ident::Incarnation) -> MeshOptions + Send>;

fn mesh(shared: &Arc<Shared>, me: usize, environment: Environment) -> MakeMesh {
    let (shared, seeds) = (Arc::clone(shared), seeds(shared, me));
    Box::new(move |store, incarnation| {
        let life = shared.life(me);
        let credentials = Credentials::Memory { own: shared.certificates[me][life].clone(), authorities: shared.authority.clone() };
        let identity = identity(&shared.shape, me, life);
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

/// The founder joins nobody; the others join through it, and through the one before themselves. Who has lost its disk asks everybody.
fn seeds(shared: &Shared, me: usize) -> Vec<String> {
    let through = match (me, shared.life(me)) {
        (0, 0) => Vec::new(),
        (_, 0) => vec![0, me - 1],
        _ => (0..shared.shape.nodes.len()).filter(|&n| n != me).collect(),
    };
    through.into_iter().map(|n| address(&shared.shape, n)).collect()
}

fn options(shared: &Shared, me: usize) -> NodeOptions {
    let width = ClusterSpec::parse(&shared.cluster_file, "cluster.toml").map_or(3, |spec| spec.replica_width());
    let mut options = NodeOptions {
        join: seeds(shared, me),
        cluster_file: shared.cluster_file.clone(),
        cluster_width: width,
        sweep: (Duration::from_millis(200), 512),
        mutation: shared.mutation,
        ..NodeOptions::default()
    };
    options.repair.interval = (Duration::from_secs(2), Duration::from_secs(4));
    if let Some(bytes) = shared.hint_bytes {
        options.hints.bytes_max = bytes;
    }
    if let Some(tune) = shared.tune {
        tune(&mut options);
    }
    options
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
        if report.backlog == 0 && !report.is_lapsed() {
            lock(&shared.clean)[me] = elapsed();
        }
        if report.ready {
            run_errand(shared, node).await;
        }
        lock(&shared.reports)[me] = report;
        match shared.stage() {
            Stage::Boot | Stage::Work => {}
            Stage::Heal => {
                if !lock(&shared.reports)[me].wrote
                    && settled::write_once(shared, api, me).await
                    && strong::write_once(shared, api, me).await
                {
                    lock(&shared.reports)[me].wrote = true;
                }
            }
            Stage::Verify(end) => {
                if !lock(&shared.reports)[me].verified {
                    let read = settled::read_all(shared, api, me, &end).await
                        && settled::read_all_typed(shared, api, me).await
                        && strong::read_all(shared, api, me).await;
                    lock(&shared.reports)[me].verified = read;
                }
            }
        }
    }
}

/// What an operator does when a node has lost its disk: removes what it was.
async fn run_errand(shared: &Shared, node: &Node) {
    let Some(gone) = lock(&shared.errands).first().copied() else { return };
    let removed = Operator::remove_member(node, gone, false).await;
    shared.note(format_args!("removes {gone} {removed:?}"));
    if removed.is_ok() {
        lock(&shared.errands).retain(|&id| id != gone);
    }
}

fn report(shared: &Shared, me: usize, node: &Node) -> Report {
    let status = Operator::status(node);
    let before = lock(&shared.reports)[me].clone();
    // What was looked at before the last of these writes says nothing of where it all comes to rest.
    let comes_to_rest = matches!(shared.stage(), Stage::Heal) && lock(&shared.reports).iter().all(|report| report.wrote);
    let failing = status.checks.iter().filter(|c| !c.ok).map(|c| format!("{}: {}", c.name, c.detail)).collect();
    Report {
        ready: status.ready,
        failing,
        backlog: status.replication.backlog,
        slots_moving: status.placement.slots_moving,
        members: status.members.len(),
        leader: (status.council.leader, status.council.term),
        replication: Operator::replication(node).unwrap_or_default(),
        holds: if comes_to_rest { held(node.store()) } else { before.holds },
        wrote: before.wrote,
        verified: before.verified,
    }
}

/// What a store holds, slot by slot; `None` when it can't be read.
fn held(store: &Store) -> Option<BTreeMap<Place, Held>> {
    let mut all = BTreeMap::new();
    for slot in Slot::all().filter(|&slot| store.slot_totals(slot).keys > 0) {
        let mut after = None;
        loop {
            let page = store.scan_slot(slot, after.as_ref(), 1 << 20).ok()?;
            all.extend(page.entries.into_iter().map(|e| (Place { kind: e.kind, name: (e.ns, e.key.to_string()) }, held_of(e.record))));
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
    }
    Some(all)
}

fn held_of(record: Record) -> Held {
    let canonical = xxh3_128(&postcard::to_stdvec(&record.state).unwrap_or_default());
    let (value, passing) = match &record.state {
        State::Live(live) => (Some(live.value.clone()), live.expires_at.map(|_| "an expired value")),
        State::Tombstone => (None, Some("a delete")),
        State::Typed(typed) => (None, typed.expires_at().map(|_| "an expired state")),
    };
    Held { version: record.version, value, passing, canonical, record }
}

/// Whether a namespace's acknowledged writes must survive.
#[must_use]
pub fn is_durable(ns: &Namespace) -> bool {
    ns.as_str() != "cache"
}
