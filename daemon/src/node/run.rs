//! The daemon in the real world: its process, runtimes, listeners and signals.

use std::io::IsTerminal;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use isochrone_config::{Loaded, LogFormat, NodeSettings, Problems, TlsFiles};
use isochrone_edge::{Admin, AdminListener, Api, Auth, Backend, ClientListener, ListenerOptions, Operator, Reloaded, Tls};
use isochrone_gossip::{Credentials, MeshOptions, PeerIdentity, Sockets};
use isochrone_ident::{NodeId, WallMicros};
use isochrone_placement::Capacity;
use isochrone_store::{Medium, Store, StrongStore};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use rand::Rng;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::core::lock;
use super::settings;
use super::start::{Hooks, Node, NodeParts};
use super::start_over::{self, Marker};
use super::{Environment, WallClock};

/// Loads the settings again, as they were loaded at the start.
pub type LoadAgain = Box<dyn Fn() -> Result<Loaded, Problems> + Send + Sync>;

/// Threads for peers and background work.
const BACKGROUND_THREADS: usize = 2;
/// How often metrics are tidied and the watchdog is fed.
const CHORES: Duration = Duration::from_secs(5);

type FilterHandle = tracing_subscriber::reload::Handle<EnvFilter, tracing_subscriber::Registry>;

/// Why a daemon ends.
#[derive(Debug, Clone)]
enum End {
    /// A signal, or an operator's request.
    Asked,
    /// It cannot go on.
    Fatal(String),
    /// Its store was retired (E7): run again, it begins with an empty one.
    StartOver,
}

/// Tells the daemon to end.
type Ender = watch::Sender<Option<End>>;

/// Runs a daemon until it is told to end.
///
/// # Errors
/// When it cannot start, has to stop because its disk failed or the council refuses it, or is to be run again ([`super::StartsOver`]).
pub fn run(loaded: Loaded, again: LoadAgain) -> anyhow::Result<()> {
    let filter = start_logging(&loaded.settings)?;
    let metrics = start_metrics()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(BACKGROUND_THREADS)
        .thread_name("background")
        .enable_all()
        .build()
        .context("the runtime could not be started")?;
    let outcome = runtime.block_on(Box::pin(daemon(loaded, again, filter, metrics)));
    if let Err(error) = &outcome {
        tracing::error!(error = format!("{error:#}"), "the daemon ends");
    }
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

fn start_logging(settings: &NodeSettings) -> anyhow::Result<FilterHandle> {
    let filter = EnvFilter::try_new(&settings.log.filter).context("log.filter")?;
    let (filter, handle) = tracing_subscriber::reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    match settings.log.format {
        LogFormat::Text => registry.with(layer).try_init(),
        LogFormat::Json => registry.with(layer.json()).try_init(),
    }
    .map_err(|e| anyhow!("logging could not be started: {e}"))?;
    Ok(handle)
}

fn start_metrics() -> anyhow::Result<PrometheusHandle> {
    let latencies = [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
    let handle = PrometheusBuilder::new().set_buckets(&latencies)?.install_recorder().context("the metrics recorder")?;
    isochrone_gossip::describe();
    isochrone_council::describe();
    isochrone_store::describe();
    isochrone_edge::describe();
    super::meters::describe();
    metrics::gauge!("isochrone_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

fn wall_clock() -> WallClock {
    Arc::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        WallMicros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    })
}

/// The settings in force, and what takes them when they are loaded again.
struct Live {
    loaded: Mutex<Loaded>,
    again: LoadAgain,
    filter: FilterHandle,
    auth: Arc<Auth>,
    cluster_tokens: Mutex<Vec<isochrone_config::Token>>,
    emulation: Option<super::EmulatedNetwork>,
    tls: Vec<Arc<Tls>>,
}

impl Live {
    fn publish_tokens(&self) {
        let mut all = lock(&self.loaded).settings.auth.token.clone();
        all.extend(lock(&self.cluster_tokens).iter().cloned());
        self.auth.set(settings::tokens(&all));
    }

    fn reload(&self) -> Result<Reloaded, String> {
        let new = (self.again)().map_err(|problems| problems.to_string())?;
        for tls in &self.tls {
            tls.reload().map_err(|e| e.to_string())?;
        }
        let diff = isochrone_config::reload_diff(&lock(&self.loaded), &new);
        let filter = EnvFilter::try_new(&new.settings.log.filter).map_err(|e| format!("log.filter: {e}"))?;
        self.filter.reload(filter).map_err(|e| e.to_string())?;
        if let Some(network) = self.emulation.as_ref().filter(|_| diff.live.iter().any(|change| change.key == "emulation.links")) {
            network.lay(settings::links(&new.settings));
        }
        *lock(&self.loaded) = new;
        self.publish_tokens();
        let keys = |changes: &[isochrone_config::KeyChange]| changes.iter().map(|c| c.key.to_owned()).collect();
        Ok(Reloaded { changed: keys(&diff.live), restart_needed: keys(&diff.restart) })
    }
}

async fn daemon(loaded: Loaded, again: LoadAgain, filter: FilterHandle, metrics: PrometheusHandle) -> anyhow::Result<()> {
    let settings = loaded.settings.clone();
    let (end, ended) = watch::channel(None);
    let environment = environment(&end);
    let (http_tls, admin_tls) = (tls(settings.http.tls.as_ref())?, tls(settings.admin.tls.as_ref())?);
    let (sockets, emulation) = settings::sockets(&settings, environment.seed);
    let open = settings.auth.mode == Some(isochrone_config::AuthMode::None) || settings.auth.mode.is_none();
    let auth = Arc::new(if open { Auth::none() } else { Auth::tokens(settings::tokens(&settings.auth.token)) });
    let live = Arc::new(Live {
        loaded: Mutex::new(loaded),
        again,
        filter,
        auth: Arc::clone(&auth),
        cluster_tokens: Mutex::default(),
        emulation: emulation.clone(),
        tls: [&http_tls, &admin_tls].into_iter().flatten().cloned().collect(),
    });
    let (node, marker) = start_node(&settings, environment.clone(), sockets, &live, &end).await?;
    let limits = settings::edge_limits(&settings);
    let api = Api::new(Arc::new(node.clone()) as Arc<dyn Backend>, Arc::clone(&auth), limits.clone(), Arc::clone(&environment.wall));
    let render = {
        let metrics = metrics.clone();
        Arc::new(move || metrics.render())
    };
    let admin = Admin::new(Arc::new(node.clone()) as Arc<dyn Operator>, auth, limits.clone(), render);
    let options = |address, tls, threads| ListenerOptions { address, threads, tls, limits: limits.clone() };
    let listener = ClientListener::start(&options(settings.http.listen, http_tls, settings.http.threads), api).context("http.listen")?;
    // After the clients' listener: who is told that the daemon is ready may come at once.
    let admin_listener = AdminListener::start(&options(settings.admin.listen, admin_tls, 1), admin).context("admin.listen")?;
    tracing::info!(http = %settings.http.listen, admin = %settings.admin.listen, "serving");
    let data_dir = settings.node.data_dir.clone();
    let reason = attend(&node, ended, &metrics, || finish(&data_dir, marker.as_ref())).await;
    let drain = settings::drain_timeout(&settings);
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    let drained = listener.drain(drain).await;
    tracing::info!(cut = drained.cut, "connections are drained");
    // After draining: the last writes that were taken are laid out with the others.
    let decided = if matches!(reason, End::StartOver) { Some(decide(&node, data_dir).await?) } else { None };
    node.stop().await;
    admin_listener.drain(Duration::from_secs(1)).await;
    match (reason, decided) {
        (_, Some(starts_over)) => Err(starts_over.into()),
        (End::Fatal(reason), _) => Err(anyhow!(reason)),
        (End::Asked | End::StartOver, None) => Ok(()),
    }
}

/// Reads the whole store, off the runtime.
async fn decide(node: &Node, data_dir: PathBuf) -> anyhow::Result<super::StartsOver> {
    let node = node.clone();
    Ok(tokio::task::spawn_blocking(move || start_over::decide(&node, &data_dir)).await.context("starting over")??)
}

/// The node is ready, so its new store is a member's: what it followed is history.
fn finish(data_dir: &Path, marker: Option<&Marker>) {
    let Some(marker) = marker else { return };
    match marker.finish(data_dir) {
        Ok(()) => {
            tracing::info!(kept = %marker.folder(data_dir).display(), "this daemon has started over; delete what is kept when it is of no more use")
        }
        Err(error) => tracing::warn!(%error, "it is done, and will be tidied up at the next start"),
    }
}

fn environment(end: &Ender) -> Environment {
    let end = end.clone();
    let on_fatal = move |reason: String| {
        tracing::error!(reason, "the daemon cannot go on");
        end.send_replace(Some(End::Fatal(reason)));
    };
    Environment { wall: wall_clock(), seed: rand::rng().random(), on_fatal: Arc::new(on_fatal) }
}

fn tls(files: Option<&TlsFiles>) -> anyhow::Result<Option<Arc<Tls>>> {
    files.map(|files| Tls::load(&files.cert, &files.key).map(Arc::new).context("tls")).transpose()
}

async fn start_node(
    settings: &NodeSettings,
    environment: Environment,
    sockets: Arc<dyn Sockets>,
    live: &Arc<Live>,
    end: &Ender,
) -> anyhow::Result<(Node, Option<Marker>)> {
    let files = settings.peer.identity().ok_or_else(|| {
        anyhow!("peer.ca, peer.cert and peer.key are not set: make them with `isochrone certs ca` and `isochrone certs node`")
    })?;
    let identity = identity_of(&files.cert)?;
    check_identity(settings, &identity)?;
    std::fs::create_dir_all(&settings.node.data_dir).with_context(|| format!("node.data_dir {}", settings.node.data_dir.display()))?;
    let marker = Marker::read(&settings.node.data_dir)?;
    let settings = &succeeding(settings, identity.node, marker.as_ref())?;
    let store = open_store(settings, &environment).await?;
    if let Some(marker) = &marker {
        marker.start_over()?.hand_on(&store).await?;
    }
    let council = open_council(&settings.node.data_dir)?;
    let credentials = Credentials::Files { certificate: files.cert, key: files.key, authorities: files.ca };
    let parts = NodeParts {
        mesh: mesh_options(settings, identity.clone(), credentials, &environment),
        identity,
        zone: settings.node.zone.clone(),
        capacity: Capacity::new(settings.node.capacity).context("node.capacity")?,
        store,
        strong: strong_store(settings, &environment),
        council,
        sockets,
        hooks: hooks(live, end),
        council_options: {
            let settings = settings.clone();
            Box::new(move |options| settings::council_options(&settings, options))
        },
        options: settings::node_options(settings),
        environment,
    };
    Ok((Box::pin(Node::start(parts)).await?, marker))
}

/// The settings of a daemon that may be about to start over: then its stores are moved aside, and it joins through whom they knew as well, for the
/// first daemon of a cluster has nobody else to join and would found another one.
fn succeeding(settings: &NodeSettings, node: NodeId, marker: Option<&Marker>) -> anyhow::Result<NodeSettings> {
    let mut settings = settings.clone();
    let Some(marker) = marker else { return Ok(settings) };
    let start_over = marker.start_over()?;
    if start_over.node != node {
        return Err(anyhow!("the data directory belongs to node {}, the certificate to node {node}", start_over.node));
    }
    let data_dir = &settings.node.data_dir;
    marker.set_aside(data_dir)?;
    tracing::warn!(retired = %start_over.store, kept = %marker.folder(data_dir).display(), "starting over with an empty store");
    for seed in start_over.seeds {
        if !settings.peer.join.contains(&seed) {
            settings.peer.join.push(seed);
        }
    }
    Ok(settings)
}

/// What the mesh is told, once the store has said who the node is.
type MakeMesh = Box<dyn FnOnce(isochrone_ident::StoreId, isochrone_ident::Incarnation) -> MeshOptions + Send>;

fn mesh_options(settings: &NodeSettings, identity: PeerIdentity, credentials: Credentials, environment: &Environment) -> MakeMesh {
    let (settings, environment) = (settings.clone(), environment.clone());
    Box::new(move |store, incarnation| MeshOptions {
        listen: settings.peer.listen,
        advertise: settings.peer.advertise.clone().or_else(|| interface_address(settings.peer.listen, &settings.peer.join)),
        watch: true,
        zone: settings.node.zone.clone(),
        seeds: settings.peer.join.clone(),
        bounds: settings::mesh_bounds(&settings),
        ..MeshOptions::new(identity, credentials, store, incarnation, environment.wall, environment.seed)
    })
}

fn hooks(live: &Arc<Live>, end: &Ender) -> Hooks {
    let (for_config, for_reload, for_tokens) = (Arc::clone(live), Arc::clone(live), Arc::clone(live));
    let (for_leave, for_start_over) = (end.clone(), end.clone());
    Hooks {
        config: Box::new(move || lock(&for_config.loaded).effective().to_json()),
        reload: Box::new(move || for_reload.reload()),
        leave: Box::new(move || {
            for_leave.send_replace(Some(End::Asked));
        }),
        start_over: Box::new(move |_| {
            for_start_over.send_replace(Some(End::StartOver));
        }),
        tokens: Box::new(move |tokens| {
            *lock(&for_tokens.cluster_tokens) = tokens.to_vec();
            for_tokens.publish_tokens();
        }),
        emulation: live.emulation.clone(),
    }
}

/// How others reach a listener on all interfaces, where the settings don't say: by the address of the interface that leads to the first
/// seed, or to anywhere. No packet is sent for it.
fn interface_address(listen: SocketAddr, seeds: &[String]) -> Option<String> {
    if !listen.ip().is_unspecified() || listen.port() == 0 {
        return None;
    }
    // Addresses kept free for examples (RFC 5737, RFC 3849) are as far away as any other.
    let anywhere = if listen.is_ipv4() { "192.0.2.1:1" } else { "[2001:db8::1]:1" };
    let names = seeds.iter().map(String::as_str).chain([anywhere]);
    let mut targets = names.filter_map(|name| name.to_socket_addrs().ok()?.find(|address| address.is_ipv4() == listen.is_ipv4()));
    let own = targets.find_map(|target| {
        let socket = UdpSocket::bind(SocketAddr::new(listen.ip(), 0)).ok()?;
        socket.connect(target).ok()?;
        socket.local_addr().ok()
    });
    let address = SocketAddr::new(own?.ip(), listen.port()).to_string();
    tracing::info!(address, "peer.advertise is not set: other daemons are told this address");
    Some(address)
}

fn identity_of(certificate: &Path) -> anyhow::Result<PeerIdentity> {
    let text = std::fs::read(certificate).with_context(|| format!("peer.cert {}", certificate.display()))?;
    let own = CertificateDer::from_pem_slice(&text).map_err(|e| anyhow!("peer.cert {}: {e}", certificate.display()))?;
    PeerIdentity::of_certificate(&own).with_context(|| format!("peer.cert {}", certificate.display()))
}

fn check_identity(settings: &NodeSettings, identity: &PeerIdentity) -> anyhow::Result<()> {
    let node = &settings.node;
    if node.cluster != identity.cluster || node.region != identity.region {
        return Err(anyhow!(
            "the certificate is for cluster {}, region {}; node.cluster is {} and node.region {}: use the right certificate, or correct the settings",
            identity.cluster,
            identity.region,
            node.cluster,
            node.region
        ));
    }
    Ok(())
}

async fn open_store(settings: &NodeSettings, environment: &Environment) -> anyhow::Result<Store> {
    let (path, options) = (settings.node.data_dir.join("data.redb"), settings::store_options(settings, environment));
    let open = move || {
        create_whole(&path)?;
        Store::open(Medium::File(path), options).context("opening the store")
    };
    let runtime = tokio::runtime::Handle::current();
    let opened = tokio::task::spawn_blocking(move || {
        let _in_runtime = runtime.enter();
        open()
    });
    opened.await.context("opening the store")?
}

fn strong_store(settings: &NodeSettings, environment: &Environment) -> super::start::MakeStrong {
    let (path, options) = (settings.node.data_dir.join("strong.redb"), settings::strong_store_options(settings, environment));
    Box::new(move |member| {
        create_whole(&path)
            .map_err(|error| isochrone_store::OpenError::Disk { medium: path.display().to_string(), detail: format!("{error:#}") })?;
        StrongStore::open(Medium::File(path), member, options)
    })
}

fn open_council(data_dir: &Path) -> anyhow::Result<redb::Database> {
    let path = data_dir.join("council.redb");
    create_whole(&path)?;
    redb::Database::create(&path).with_context(|| {
        format!("{}: if it is damaged, move it and data.redb away and let the node join anew with a new certificate", path.display())
    })
}

/// Makes a database that is not there yet under another name first, so that a loss of power never leaves half of one.
fn create_whole(path: &Path) -> anyhow::Result<()> {
    if path.exists() {
        return Ok(());
    }
    let new = path.with_extension("new");
    let made = || -> anyhow::Result<()> {
        if new.exists() {
            std::fs::remove_file(&new)?;
        }
        drop(redb::Database::create(&new)?);
        std::fs::File::open(&new)?.sync_all()?;
        std::fs::rename(&new, path)?;
        if let Some(directory) = path.parent() {
            std::fs::File::open(directory)?.sync_all()?;
        }
        Ok(())
    };
    made().with_context(|| format!("creating {}", path.display()))
}

/// Stays until the daemon is to end: a signal, an operator's request, or a reason that forces it. Returns the reason. When the node is ready,
/// `on_ready` is called once.
async fn attend(node: &Node, mut ended: watch::Receiver<Option<End>>, metrics: &PrometheusHandle, on_ready: impl Fn()) -> End {
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()))
    else {
        return End::Fatal("signals cannot be handled here".to_owned());
    };
    let mut chores = tokio::time::interval(CHORES);
    let mut ready = tokio::time::interval(Duration::from_millis(20));
    let mut announced = false;
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => return End::Asked,
            _ = interrupt.recv() => return End::Asked,
            changed = ended.changed() => {
                let reason = ended.borrow_and_update().clone();
                match (changed, reason) {
                    (Ok(()), Some(reason)) => return reason,
                    (Ok(()), None) => {}
                    (Err(_), _) => return End::Asked,
                }
            }
            _ = hangup.recv() => reload(node).await,
            _ = chores.tick() => {
                metrics.run_upkeep();
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
            }
            _ = ready.tick(), if !announced => {
                announced = node.is_ready();
                if announced {
                    tracing::info!("ready");
                    on_ready();
                    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
                }
            }
        }
    }
}

async fn reload(node: &Node) {
    let _ = sd_notify::notify(&[
        sd_notify::NotifyState::Reloading,
        sd_notify::NotifyState::monotonic_usec_now().unwrap_or(sd_notify::NotifyState::Reloading),
    ]);
    match Operator::reload(node).await {
        Ok(done) => tracing::info!(changed = ?done.changed, restart_needed = ?done.restart_needed, "reloaded"),
        Err(error) => tracing::error!(%error, "nothing was reloaded"),
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}
