//! The mesh as its callers see it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isochrone_ident::{NodeId, Region};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::channel::Channel;
use crate::endpoint::{self, ConnectionIds};
use crate::peers::{PeerTable, Peers, PeersOptions};
use crate::reload::{self, ReloadError};
use crate::round_trips::RegionMatrix;
use crate::shared::{Core, Parts};
use crate::tls::TlsError;
use crate::wire::Profile;
use crate::{Admission, Call, CallError, MeshOptions, PeerIdentity, Service, ServiceId, Sockets, Traffic, dial, driver, metrics, rpc};

/// What is waited for a peer of whom nothing is known.
const HEDGE_UNKNOWN: Duration = Duration::from_millis(100);

/// A mesh that did not start. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The certificates can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address to advertise is none.
    #[error("the advertised address: {0}")]
    Advertise(String),
    /// The address can't be listened on.
    #[error("can't listen on {listen}: {error}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
}

/// This daemon's place among the others. Cheap to clone; lives until [`Mesh::leave`] or the end of its runtime.
#[derive(Clone)]
pub struct Mesh {
    core: Arc<Core>,
}

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mesh").field("me", &self.core.me).finish_non_exhaustive()
    }
}

impl Mesh {
    /// Listens, begins to look for the seeds, and serves peers.
    ///
    /// # Errors
    /// [`StartError`]: certificates that are no good, or an address that can't be had.
    pub async fn start(
        options: MeshOptions,
        sockets: Arc<dyn Sockets>,
        service: Arc<dyn Service>,
        admission: Arc<dyn Admission>,
    ) -> Result<Self, StartError> {
        let core = Arc::new(build(options, sockets, service, admission)?);
        tokio::spawn(driver::accept(core.clone()));
        tokio::spawn(driver::run(core.clone()));
        for seed in &core.options.seeds {
            tokio::spawn(dial::seed(core.clone(), seed.clone()));
        }
        if core.options.watch
            && let Err(error) = reload::watch(&core)
        {
            warn!(%error, "certificate files can't be watched; they are reloaded when asked only");
        }
        info!(me = %core.me.identity, address = core.me.address, "the mesh listens");
        Ok(Self { core })
    }

    /// What we say of ourselves to peers.
    #[must_use]
    pub fn me(&self) -> &Profile {
        &self.core.me
    }

    /// The address that is listened on.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.core.endpoint.local_addr()
    }

    /// Asks a peer (or ourselves) and waits for the answer (M8).
    ///
    /// # Errors
    /// [`CallError`], which tells whether the peer may have acted.
    pub async fn call(&self, to: NodeId, call: Call) -> Result<Bytes, CallError> {
        rpc::call(&self.core, to, &call).await
    }

    /// Asks whoever is at `host:port`, for when membership does not know anybody yet. Sent once.
    ///
    /// # Errors
    /// [`CallError`], which tells whether the peer may have acted.
    pub async fn call_addr(&self, addr: &str, call: Call) -> Result<(PeerIdentity, Bytes), CallError> {
        rpc::call_addr(&self.core, addr, &call).await
    }

    /// Opens a channel to a peer. Whether the peer takes it shows at the first receive.
    ///
    /// # Errors
    /// [`CallError`]: the peer's service has seen nothing.
    pub async fn open(&self, to: NodeId, service: ServiceId, class: Traffic) -> Result<Channel, CallError> {
        rpc::open(&self.core, to, service, class).await
    }

    /// The peers as they are known now, without ourselves.
    #[must_use]
    pub fn peers(&self) -> Arc<PeerTable> {
        self.core.table.load_full()
    }

    /// Counts the changes of [`Mesh::peers`] and [`Mesh::round_trips`].
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.core.changed.subscribe()
    }

    /// Round trips between regions, as measured by all daemons (M6).
    #[must_use]
    pub fn round_trips(&self) -> Arc<RegionMatrix> {
        self.core.matrix.load_full()
    }

    /// The nodes in the order in which to ask them: ourselves, then the nearest that is alive, unhealthy links last (M6).
    #[must_use]
    pub fn rank(&self, nodes: &[NodeId]) -> Vec<NodeId> {
        self.core.table.load().rank(nodes)
    }

    /// Whether there is a connection to the peer now.
    #[must_use]
    pub fn is_connected(&self, node: NodeId) -> bool {
        self.core.best(node, Traffic::Foreground).is_some()
    }

    /// How long to wait for a peer before the next one is asked as well (M8): the 95th percentile of its recent answers.
    #[must_use]
    pub fn hedge_after(&self, to: NodeId) -> Duration {
        self.core.table.load().get(to).map_or(HEDGE_UNKNOWN, |peer| peer.hedge_after)
    }

    /// Where the council says that a member is. Connecting to it begins.
    pub fn learn(&self, node: NodeId, region: Region, address: &str) {
        self.core.learn(node, region, address);
    }

    /// The council has removed a member: its connections are closed, and it is forgotten. Its return is [`Admission`]'s to refuse.
    pub fn forget(&self, node: NodeId) {
        self.core.expel(node, "removed from the cluster");
    }

    /// Who said first that the store of this daemon is retired ([`crate::CloseCode::StoreRetired`]): a certified peer of this cluster. `None` until
    /// then; never changes afterwards.
    #[must_use]
    pub fn disowned(&self) -> watch::Receiver<Option<NodeId>> {
        self.core.disowned.subscribe()
    }

    /// Reads the certificates again; new connections use them (M4). Files are also watched if the options say so.
    ///
    /// # Errors
    /// [`ReloadError`]: the new ones are no good, and the old ones stay in use.
    pub fn reload(&self) -> Result<(), ReloadError> {
        reload::reload(&self.core).map(|_| ())
    }

    /// Leaves in good order: tells the peers, then closes all connections. Calls that are under way end as broken. Takes
    /// at most `leave_timeout`; the mesh is of no more use.
    pub async fn leave(&self) {
        driver::leave(&self.core).await;
    }
}

/// Everything that can fail in a start, before any task is spawned.
fn build(
    options: MeshOptions,
    sockets: Arc<dyn Sockets>,
    service: Arc<dyn Service>,
    admission: Arc<dyn Admission>,
) -> Result<Core, StartError> {
    let material = options.credentials.load(&options.identity, &options.wall)?;
    metrics::certificate(material.expires_at);
    let mut rng = StdRng::seed_from_u64(start_seed(&options));
    let transport = endpoint::transport_of(&options.bounds);
    let connection_ids = ConnectionIds::new(rng.random());
    let server = endpoint::server_config_of(&material, &transport, options.bounds.handshakes_max);
    let listen_error = |error| StartError::Listen { listen: options.listen, error };
    let quic = endpoint::listen(&*sockets, options.listen, server, &connection_ids, rng.random()).map_err(listen_error)?;
    let bound = quic.local_addr().map_err(listen_error)?;
    let me = Profile {
        identity: options.identity.clone(),
        zone: options.zone.clone(),
        store: options.store,
        incarnation: options.incarnation,
        address: options.advertise.clone().unwrap_or_else(|| bound.to_string()),
    };
    let started = Instant::now();
    let knowing = PeersOptions { gateways: options.bounds.gateways, ..PeersOptions::new(me.clone(), rng.random()) };
    let peers = Peers::new(knowing, started.elapsed()).map_err(|e| StartError::Advertise(e.to_string()))?;
    let process = rng.random();
    let parts = Parts { options, me, process, endpoint: quic, transport, sockets, service, admission, material, connection_ids, peers };
    Ok(Core::new(parts, started))
}

/// Every start draws its own randomness, even from the same seed: connection ids and process numbers must not repeat.
fn start_seed(options: &MeshOptions) -> u64 {
    let mut bytes = options.identity.node.0.to_le_bytes().to_vec();
    bytes.extend_from_slice(&options.incarnation.0.to_le_bytes());
    xxhash_rust::xxh3::xxh3_64_with_seed(&bytes, options.seed)
}
