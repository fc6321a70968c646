//! What the harness and all simulated hosts share. One thread runs all of it, so no lock is ever waited for.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use isochrone::node::{Mutation, NodeOptions, WallClock};
use isochrone_edge::ReplicationReport;
use isochrone_gossip::certs::CertificatePem;
use isochrone_ident::{Namespace, NodeId, Version, WallMicros};
use isochrone_replica::Record;
use isochrone_store::SimDisk;

use crate::clients::desks::Desk;
use crate::clocks::Clock;
use crate::cluster::LIVES;
use crate::history::{History, Name};
use crate::model::strong::StrongHistory;
use crate::model::typed::{Place, TypedHistory, View};
use crate::net::NetFaults;
use crate::run::Plan;
use crate::shape::Shape;
use crate::trace::Trace;

/// What clients and observers do at the moment.
#[derive(Debug, Clone)]
pub enum Stage {
    /// The cluster comes up; clients wait.
    Boot,
    /// Clients ask; things may break.
    Work,
    /// Everything is healed. One write a node shows that it takes writes again.
    Heal,
    /// Clients read everything everywhere; it must be this.
    Verify(Arc<BTreeMap<Name, Option<Version>>>),
}

/// What a node's store holds of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The record's version.
    pub version: Version,
    /// The value of a key that holds one; `None` for a tombstone and for other kinds.
    pub value: Option<bytes::Bytes>,
    /// What is to be forgotten, if anything.
    pub passing: Option<&'static str>,
    /// A hash of the state's canonical bytes.
    pub canonical: u128,
    /// All of it.
    pub record: Record,
}

/// What a node said of itself last.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Whether all readiness checks pass.
    pub ready: bool,
    /// Which do not.
    pub failing: Vec<String>,
    /// Writes that some replica has not acknowledged.
    pub backlog: u64,
    /// Slots that are being moved.
    pub slots_moving: u64,
    /// Members of the cluster.
    pub members: usize,
    /// The council's leader and election number.
    pub leader: (Option<String>, u64),
    /// Whether it has written since the healing.
    pub wrote: bool,
    /// Whether it has read everything since [`Stage::Verify`].
    pub verified: bool,
    /// What its store holds; only looked at while healing.
    pub holds: Option<BTreeMap<Place, Held>>,
    /// How the eventual path stands.
    pub replication: ReplicationReport,
}

impl Report {
    /// Whether some peer's writes are no longer kept for it.
    #[must_use]
    pub fn is_lapsed(&self) -> bool {
        self.replication.peers.iter().any(|peer| peer.lapsed_since.is_some())
    }
}

/// The disks of one node, which outlive its crashes.
#[derive(Debug, Clone, Default)]
pub struct Disks {
    /// The store's.
    pub store: SimDisk,
    /// The council's.
    pub council: SimDisk,
    /// The strong store's.
    pub strong: SimDisk,
    /// Whether a fault makes them fail at the moment, so that the daemon may give up.
    pub failing: bool,
    /// Whether the store's is full, so that a daemon can't even write down that it has started.
    pub full: bool,
    /// Whether a daemon has started on them. What loses power while it is made for the first time is no store, and is emptied by hand.
    pub made: bool,
}

/// Everything that is shared.
pub struct Shared {
    /// The seed of everything.
    pub seed: u64,
    /// The cluster's shape.
    pub shape: Shape,
    /// The cluster file.
    pub cluster_file: String,
    /// The bug that is planted, if one is.
    pub mutation: Option<Mutation>,
    /// Changes every daemon's options.
    pub tune: Option<fn(&mut NodeOptions)>,
    /// Whether clients draw no requests, for others are given.
    pub is_directed: bool,
    /// Whether there are none but clients of strong namespaces.
    pub only_strong: bool,
    /// The authority, as PEM text.
    pub authority: String,
    /// Each node's certificates, one for each of its disks.
    pub certificates: Vec<[CertificatePem; LIVES]>,
    /// Bytes that a daemon keeps for replicas that are away; `None`: plenty.
    pub hint_bytes: Option<u64>,
    /// How many disks each node has lost.
    pub lives: Mutex<Vec<usize>>,
    /// When every replica had all that a node had taken, as it was seen last.
    pub clean: Mutex<Vec<Duration>>,
    /// Members that an operator is to remove.
    pub errands: Mutex<Vec<NodeId>>,
    /// What can be observed.
    pub trace: Mutex<Trace>,
    /// The network's faults.
    pub net: Mutex<NetFaults>,
    /// Each node's wall clock.
    pub clocks: Mutex<Vec<Clock>>,
    /// Each node's disks.
    pub disks: Mutex<Vec<Disks>>,
    /// What clients did and were told.
    pub history: Mutex<History>,
    /// What clients did to keys that are not values, and were told.
    pub typed: Mutex<TypedHistory>,
    /// What clients did in strong namespaces, and were told.
    pub strong: Mutex<StrongHistory>,
    /// What each of these keys has come to in the end, and the node that showed it first.
    pub typed_ends: Mutex<BTreeMap<Place, (usize, Option<View>)>>,
    /// Each node's desk.
    pub desks: Mutex<Vec<Desk>>,
    /// What clients do.
    pub stage: Mutex<Stage>,
    /// What each node said last.
    pub reports: Mutex<Vec<Report>>,
    /// Why a node gave up, until the harness has seen it.
    pub fatal: Mutex<Vec<Option<String>>>,
    /// When the node that joins late does so.
    pub joins_at: Mutex<Option<Duration>>,
    addresses: Mutex<BTreeMap<IpAddr, usize>>,
}

/// Locks; a panic elsewhere is reported by itself.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// In one of three long runs so little is kept for replicas that are away that a cut soon makes them lapse (E5).
fn hint_bytes(seed: u64) -> Option<u64> {
    (seed >= crate::faults::HARDER && seed.is_multiple_of(3)).then_some(16 << 10)
}

/// Virtual time since the simulation began, on the host that runs at the moment.
#[must_use]
pub fn elapsed() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

impl Shared {
    /// A cluster that has not started.
    #[must_use]
    pub fn new(plan: &Plan, shape: Shape) -> Self {
        let seed = plan.seed;
        let nodes = shape.nodes.len();
        let (authority, certificates) = crate::cluster::certificates(&shape);
        Self {
            seed,
            cluster_file: crate::cluster::CLUSTER_FILE.to_owned(),
            mutation: plan.mutation,
            tune: plan.tune,
            is_directed: plan.lines.is_some(),
            only_strong: plan.only_strong,
            authority,
            certificates,
            hint_bytes: hint_bytes(seed),
            lives: Mutex::new(vec![0; nodes]),
            clean: Mutex::new(vec![Duration::ZERO; nodes]),
            errands: Mutex::default(),
            trace: Mutex::new(Trace::new(plan.shown)),
            net: Mutex::new(NetFaults::new(nodes, seed)),
            clocks: Mutex::new(vec![Clock::default(); nodes]),
            disks: Mutex::new((0..nodes).map(|_| Disks::default()).collect()),
            history: Mutex::default(),
            typed: Mutex::default(),
            strong: Mutex::default(),
            typed_ends: Mutex::default(),
            desks: Mutex::new((0..nodes).map(|_| None).collect()),
            stage: Mutex::new(Stage::Boot),
            reports: Mutex::new(vec![Report::default(); nodes]),
            fatal: Mutex::new(vec![None; nodes]),
            joins_at: Mutex::default(),
            addresses: Mutex::default(),
            shape,
        }
    }

    /// Notes an event of the host that runs at the moment.
    pub fn note(&self, event: fmt::Arguments<'_>) {
        lock(&self.trace).note(elapsed(), event);
    }

    /// The wall clock of a node.
    #[must_use]
    pub fn wall(self: &Arc<Self>, node: usize) -> WallClock {
        let shared = Arc::clone(self);
        Arc::new(move || shared.wall_time(node))
    }

    fn wall_time(&self, node: usize) -> WallMicros {
        lock(&self.clocks)[node].show(elapsed())
    }

    /// Says which node has an address.
    pub fn address(&self, ip: IpAddr, node: usize) {
        lock(&self.addresses).insert(ip, node);
    }

    /// The node at an address.
    #[must_use]
    pub fn number_at(&self, ip: IpAddr) -> Option<usize> {
        lock(&self.addresses).get(&ip).copied()
    }

    /// How many disks a node has lost.
    #[must_use]
    pub fn life(&self, node: usize) -> usize {
        lock(&self.lives)[node]
    }

    /// What clients do at the moment.
    #[must_use]
    pub fn stage(&self) -> Stage {
        lock(&self.stage).clone()
    }

    /// Daemons that keep a key of that namespace in the end.
    #[must_use]
    pub fn replicas(&self, ns: &Namespace) -> usize {
        let wanted = if ns.as_str() == crate::cluster::PAIR { 2 } else { 3 };
        wanted.min(self.shape.nodes.len())
    }
}
