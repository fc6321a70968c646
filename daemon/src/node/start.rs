//! Starting and stopping a node.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use isochrone_council::{Council, CouncilOptions, Member};
use isochrone_edge::{
    Backend, Glance, Level, ListCommand, ListPage, NamespaceView, ReadCommand, Refusal, Reloaded, Served, TypedRead, TypedServed,
    TypedWrite, TypedWritten, WriteCommand, Written,
};
use isochrone_gossip::{Mesh, MeshOptions, PeerIdentity, Sockets};
use isochrone_ident::{Epoch, Namespace, NodeId, Zone};
use isochrone_placement::Capacity;
use isochrone_replica::{ClusterTag, Delivery, Horizon, Sequence, Session};
use isochrone_store::{OpenError, Store, StrongStore};
use tokio::sync::watch;
use tokio::time::Instant;

use super::actors::Actors;
use super::copies::{self, Copies};
use super::core::{Core, lock};
use super::emulate::EmulatedNetwork;
use super::feeds::Feeds;
use super::fill::{self, Filled};
use super::identity::{self, IdentityError, Recalled};
use super::join::{self, Seen};
use super::options::{Environment, NodeOptions};
use super::repair::{self, Repair};
use super::service::{Doorkeeper, MeshWire, Router};
use super::stamp::Stamps;
use super::start_over::StartOver;
use super::strong::{self, Strong};
use super::traffic::Traffic;
use super::upkeep;
use super::view::View;

/// Is told tokens.
pub type TakeTokens = Box<dyn Fn(&[isochrone_config::Token]) + Send + Sync>;

/// What the process around a node does for it. [`Hooks::default`] does nothing.
pub struct Hooks {
    /// The effective configuration, with where each value came from.
    pub config: Box<dyn Fn() -> serde_json::Value + Send + Sync>,
    /// Reads the configuration again.
    pub reload: Box<dyn Fn() -> Result<Reloaded, String> + Send + Sync>,
    /// Asks the process to end gracefully.
    pub leave: Box<dyn Fn() + Send + Sync>,
    /// Told the cluster file's tokens, at the start and whenever they may have changed.
    pub tokens: TakeTokens,
    /// Told that the node's store was retired because it was away for too long (E7), perhaps more than once: the process is to stop it, and to start it
    /// again with an empty store and an empty council, to which [`StartOver::hand_on`] was told the one that is given, or a later
    /// [`Node::succession`].
    pub start_over: Box<dyn Fn(StartOver) + Send + Sync>,
    /// The network beneath the node's sockets, where it is emulated.
    pub emulation: Option<EmulatedNetwork>,
}

impl Default for Hooks {
    fn default() -> Self {
        Self {
            config: Box::new(|| serde_json::Value::Null),
            reload: Box::new(|| Ok(Reloaded::default())),
            leave: Box::new(|| {}),
            tokens: Box::new(|_| {}),
            start_over: Box::new(|_| {}),
            emulation: None,
        }
    }
}

/// What a node is made of.
pub struct NodeParts {
    /// Who it is; its certificate says the same.
    pub identity: PeerIdentity,
    /// Its zone.
    pub zone: Option<Zone>,
    /// Its share of the data.
    pub capacity: Capacity,
    /// Its store, open.
    pub store: Store,
    /// Opens the store of the quorum path's acceptor for that member, which must be the same at every start (Q15).
    pub strong: MakeStrong,
    /// Where the council keeps its log.
    pub council: redb::Database,
    /// Makes the mesh's options, once store id and incarnation are known.
    pub mesh: Box<dyn FnOnce(isochrone_ident::StoreId, isochrone_ident::Incarnation) -> MeshOptions + Send>,
    /// Gives out sockets.
    pub sockets: Arc<dyn Sockets>,
    /// What the process does for the node.
    pub hooks: Hooks,
    /// Adjusts the council's options.
    pub council_options: Box<dyn FnOnce(&mut CouncilOptions) + Send>,
    /// Bounds and periods.
    pub options: NodeOptions,
    /// Time and chance.
    pub environment: Environment,
}

/// Opens a strong store.
pub type MakeStrong = Box<dyn FnOnce(isochrone_quorum::Member) -> Result<StrongStore, OpenError> + Send>;

/// Why a node did not start. No request was taken.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its store does not say who it is.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Its strong store can't be opened.
    #[error("the strong store: {0}")]
    Strong(#[from] OpenError),
    /// The mesh did not start.
    #[error(transparent)]
    Mesh(#[from] isochrone_gossip::StartError),
    /// The council did not start.
    #[error(transparent)]
    Council(#[from] isochrone_council::StartError),
    /// The operation log cannot be read.
    #[error(transparent)]
    Log(#[from] isochrone_store::ReadError),
}

/// A running node. Cloning shares it; dropping the last one does not stop it, [`Node::stop`] does.
#[derive(Clone)]
pub struct Node {
    pub(crate) core: Arc<Core>,
    pub(crate) hooks: Arc<Hooks>,
    pub(crate) started: Instant,
}

impl Node {
    /// Starts a node: raises its incarnation, joins the mesh, starts the council and everything that a node does by itself.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start(parts: NodeParts) -> Result<Self, StartError> {
        let recalled = identity::recall(&parts.store, parts.identity.node, parts.environment.seed).await?;
        let actors =
            Actors::recall(&parts.store, parts.identity.node, parts.environment.seed, recalled.incarnation, &parts.options).await?;
        let acceptor = isochrone_quorum::Member { node: parts.identity.node, store: recalled.store };
        let strong = (parts.strong)(acceptor)?;
        identity::recall_strong(&parts.store, strong.is_new()).await?;
        let router = Arc::new(Router::default());
        let doorkeeper = Arc::new(Doorkeeper::default());
        let options = (parts.mesh)(recalled.store, recalled.incarnation);
        let mesh = Mesh::start(options, Arc::clone(&parts.sockets), Arc::clone(&router) as _, Arc::clone(&doorkeeper) as _).await?;
        let me = Member {
            node: parts.identity.node,
            store: recalled.store,
            region: parts.identity.region.clone(),
            zone: parts.zone,
            address: mesh.me().address.clone(),
            capacity: parts.capacity,
            incarnation: recalled.incarnation,
        };
        let traffic = Traffic::new(me.region.clone());
        let seen = Seen { mesh: mesh.clone(), me: me.node, traffic: traffic.clone() };
        let mut council_options = CouncilOptions::new(me.clone(), parts.identity.cluster.clone(), parts.environment.seed);
        council_options.observations = Arc::new(seen);
        council_options.on_fatal = Arc::clone(&parts.environment.on_fatal);
        council_options.away_max = parts.options.away_max;
        council_options.completes_strong = false;
        (parts.council_options)(&mut council_options);
        let council = Council::start(council_options, parts.council, Arc::new(MeshWire(mesh.clone()))).await?;
        router.council_is(council.clone());
        let strong = Strong::new(strong::Parts {
            me: acceptor,
            incarnation: recalled.incarnation,
            store: strong,
            mesh: mesh.clone(),
            environment: &parts.environment,
            options: &parts.options,
        });
        let shared = Shared {
            me,
            traffic,
            mesh,
            council,
            store: parts.store,
            strong,
            actors,
            options: parts.options,
            environment: parts.environment,
        };
        let core = assemble(shared, parts.identity.cluster, &recalled)?;
        let hooks = Arc::new(parts.hooks);
        join::adopt(&core, &doorkeeper, &hooks);
        restore_cursors(&core, recalled.trimmed);
        copies::observe(&core);
        router.node_is(&core);
        spawn_tasks(&core, &doorkeeper, &hooks);
        Ok(Self { core, hooks, started: Instant::now() })
    }

    /// Stops: no more writes are taken, peers are told, what was acknowledged is on disk.
    pub async fn stop(&self) {
        self.core.stop.send_replace(true);
        self.core.council.shutdown().await;
        self.core.mesh.leave().await;
        self.core.actors.close(&self.core.store).await;
        self.core.strong.close().await;
        self.core.store.clone().close().await;
    }

    /// Whether this node has adopted every slot's place and heard the council: it can serve.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        isochrone_edge::Operator::checks(self).iter().all(|check| check.ok)
    }

    /// A receiver that changes when the node's view of the cluster does.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.core.view_changed.subscribe()
    }

    /// What an empty store must know of this node's store to follow it (E7).
    #[must_use]
    pub fn succession(&self) -> StartOver {
        StartOver::of(&self.core)
    }

    /// The node's store, for checks by a simulation.
    #[doc(hidden)]
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.core.store
    }
}

struct Shared {
    me: Member,
    traffic: Traffic,
    mesh: Mesh,
    council: Council,
    store: Store,
    strong: Arc<Strong>,
    actors: Actors,
    options: NodeOptions,
    environment: Environment,
}

fn assemble(shared: Shared, cluster: isochrone_ident::ClusterName, recalled: &Recalled) -> Result<Arc<Core>, StartError> {
    let Shared { me, traffic, mesh, council, store, strong, actors, options, environment } = shared;
    let view = View::of(&council.state(), me.node);
    store.trim_log(recalled.trimmed);
    let delivery = Delivery::new(recalled.trimmed, view.phase_number());
    let copies = Copies::new(options.copies, recalled.incarnation.0, environment.seed);
    let head: Sequence = store.stats().last_sequence.max(recalled.trimmed);
    Ok(Arc::new(Core {
        stamps: Stamps::new(me.node, recalled.incarnation, recalled.last, options.clock),
        actors,
        empty_token: Session::default().encode(ClusterTag::of(&cluster)).into(),
        cluster,
        me,
        options,
        environment,
        store,
        mesh,
        council,
        view: ArcSwap::from_pointee(view),
        view_changed: watch::Sender::new(0),
        delivery: Mutex::new(delivery),
        horizon: Mutex::new(Horizon::default()),
        heard_from_all: AtomicU64::new(0),
        stable_through: AtomicU64::new(0),
        // An earlier run has promised no more than this.
        promised: AtomicU64::new(recalled.last.0),
        copies,
        heard: watch::Sender::new(()),
        acknowledged: watch::Sender::new(()),
        head: watch::Sender::new(head),
        traffic,
        feeds: Feeds::new(),
        filled: Mutex::new(Filled::default()),
        repair: Repair::new(),
        strong,
        refusals_of_peers: Mutex::new(BTreeMap::new()),
        stop: watch::Sender::new(false),
    }))
}

/// What peers had acknowledged before the restart need not be sent again, unless the placement has changed since: what they had missed of
/// what has gone from the log (E5) they still miss.
fn restore_cursors(core: &Core, trimmed: Sequence) {
    let phase = core.view.load().phase_number();
    let place = |(then, sequence): (Epoch, Sequence)| if then == phase { sequence } else { sequence.min(trimmed) };
    let recall = |peer| identity::recall_cursor(&core.store, peer).map(|cursor| (peer, place(cursor)));
    let places: BTreeMap<NodeId, Sequence> = core.others().into_iter().filter_map(recall).collect();
    lock(&core.delivery).restore(&places);
    repair::recall_lapses(core);
}

fn spawn_tasks(core: &Arc<Core>, doorkeeper: &Arc<Doorkeeper>, hooks: &Arc<Hooks>) {
    core.spawn(join::follow(Arc::clone(core), Arc::clone(doorkeeper), Arc::clone(hooks)));
    core.spawn(join::join(Arc::clone(core), Arc::clone(hooks)));
    core.spawn(join::heed(Arc::clone(core), Arc::clone(hooks)));
    core.spawn(upkeep::watermarks(Arc::clone(core)));
    core.spawn(upkeep::sweep(Arc::clone(core)));
    core.spawn(copies::follow_all(Arc::clone(core)));
    core.spawn(fill::fill(Arc::clone(core)));
    core.spawn(fill::drive(Arc::clone(core)));
    core.spawn(Arc::clone(&core.strong).tick());
    core.spawn(strong::drive(Arc::clone(core)));
    core.spawn(strong::forget(Arc::clone(core)));
    core.spawn(Arc::clone(core).follow_writers());
    if core.options.repair.interval.0 < std::time::Duration::MAX {
        core.spawn(repair::rounds(Arc::clone(core)));
    }
}

impl Backend for Node {
    fn namespace(&self, ns: &Namespace) -> Option<NamespaceView> {
        self.core.view.load().namespace_view(ns, self.core.options.value_bytes)
    }

    fn glance(&self, ns: &Namespace, key: &[u8], level: Level, session: Option<&str>) -> Glance {
        self.core.traffic.count();
        self.core.glance(ns, key, level, session)
    }

    fn read(&self, command: ReadCommand) -> BoxFuture<'_, Result<Served, Refusal>> {
        Box::pin(self.core.read(command))
    }

    fn write(&self, command: WriteCommand) -> BoxFuture<'_, Result<Written, Refusal>> {
        self.core.traffic.count();
        Box::pin(self.core.take(command))
    }

    fn list(&self, command: ListCommand) -> BoxFuture<'_, Result<ListPage, Refusal>> {
        self.core.traffic.count();
        Box::pin(self.core.list(command))
    }

    fn read_typed(&self, command: TypedRead) -> BoxFuture<'_, Result<TypedServed, Refusal>> {
        self.core.traffic.count();
        Box::pin(self.core.read_typed(command))
    }

    fn write_typed(&self, command: TypedWrite) -> BoxFuture<'_, Result<TypedWritten, Refusal>> {
        self.core.traffic.count();
        Box::pin(self.core.write_typed(command))
    }

    fn join_sessions(&self, held: &Arc<str>, newer: &Arc<str>) -> Arc<str> {
        self.core.join_tokens(held, newer)
    }
}
