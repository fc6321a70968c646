//! What a mesh is told at its start, and every bound that it keeps.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use isochrone_ident::{Incarnation, StoreId, WallMicros, Zone};

use crate::{Credentials, PeerIdentity};

/// Reads the wall clock. A simulation gives its own.
pub type WallClock = Arc<dyn Fn() -> WallMicros + Send + Sync>;

/// What a mesh is told at its start.
#[derive(Clone)]
pub struct MeshOptions {
    /// Where to listen; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Where others reach us, as host:port. The bound address when not given.
    pub advertise: Option<String>,
    /// Certificate, key and authorities.
    pub credentials: Credentials,
    /// Whether files of [`Credentials::Files`] are watched for changes. Uses a thread, so a simulation says no.
    pub watch: bool,
    /// Who we are; the certificate must say the same.
    pub identity: PeerIdentity,
    /// Our zone inside our region.
    pub zone: Option<Zone>,
    /// Our durable store.
    pub store: StoreId,
    /// How often we have started; raised and synced to disk before the mesh starts (M1).
    pub incarnation: Incarnation,
    /// Where all randomness comes from.
    pub seed: u64,
    /// The wall clock.
    pub wall: WallClock,
    /// Daemons to join through, as host:port, tried for ever. One of them may be ourselves.
    pub seeds: Vec<String>,
    /// The bounds.
    pub bounds: Bounds,
}

impl MeshOptions {
    /// Options with everything that has a sensible default left at it: listening on any port of the loopback, no seeds.
    #[must_use]
    pub fn new(
        identity: PeerIdentity,
        credentials: Credentials,
        store: StoreId,
        incarnation: Incarnation,
        wall: WallClock,
        seed: u64,
    ) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: None,
            credentials,
            watch: false,
            identity,
            zone: None,
            store,
            incarnation,
            seed,
            wall,
            seeds: Vec::new(),
            bounds: Bounds::default(),
        }
    }
}

impl std::fmt::Debug for MeshOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MeshOptions")
            .field("identity", &self.identity)
            .field("listen", &self.listen)
            .field("seeds", &self.seeds)
            .field("bounds", &self.bounds)
            .finish_non_exhaustive()
    }
}

/// The bounds of a mesh: every queue, wait and retry has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// Silence after which something is sent to keep a connection known to be alive. Default 500 ms.
    pub keep_alive: Duration,
    /// Silence after which a connection is given up: a dead peer is noticed after this long. Default 2 s.
    pub idle_timeout: Duration,
    /// How long a handshake, its greeting included, may take. Default 3 s.
    pub handshake_timeout: Duration,
    /// The first wait before a peer or seed is tried again; it doubles, with jitter. Default 50 ms.
    pub backoff_min: Duration,
    /// The longest such wait. Default 1 s.
    pub backoff_max: Duration,
    /// How long a call waits for a connection that is being made. Default 1 s.
    pub connect_wait: Duration,
    /// The most connections, two for each peer. Default 4,096.
    pub connections_max: usize,
    /// The most handshakes at once. Default 128.
    pub handshakes_max: usize,
    /// The most calls served at once over foreground connections; more are answered `busy`. Default 1,024.
    pub inbound_calls_max: usize,
    /// The most calls served at once over bulk connections. Default 64.
    pub inbound_bulk_calls_max: usize,
    /// The most channels opened by peers at once. Default 1,024.
    pub inbound_channels_max: usize,
    /// The most bytes of request bodies in memory at once. Default 256 MiB.
    pub inbound_bytes_max: usize,
    /// The most streams that one connection may have open. Default 1,024.
    pub streams_max: u32,
    /// The longest request or answer body, and the longest frame on a channel, in bytes. Default 17 MiB: a value of 16 MiB and its envelope.
    pub frame_bytes_max: usize,
    /// The longest deadline of a call; longer ones are cut to it. Default 60 s.
    pub deadline_max: Duration,
    /// Bytes of datagrams that may wait to be sent on one connection; more are dropped, as datagrams go ahead of streams (M7). Default 64 KiB.
    pub datagram_bytes_max: usize,
    /// Bytes that one stream may have unread. Default 4 MiB.
    pub stream_window_bytes: u32,
    /// Bytes that one connection may have unread. Default 16 MiB.
    pub connection_window_bytes: u32,
    /// The share of calls that may be tried again, in percent (M8). Default 10.
    pub retry_percent: u32,
    /// The retries that may be saved up (M8). Default 10.
    pub retry_burst: u32,
    /// How many daemons a region lets gossip with other regions (M5), at least 1; the same everywhere. Default 2.
    pub gateways: usize,
    /// How long leaving may take: to tell the peers and to let calls end. Default 1 s.
    pub leave_timeout: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            keep_alive: Duration::from_millis(500),
            idle_timeout: Duration::from_secs(2),
            handshake_timeout: Duration::from_secs(3),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
            connect_wait: Duration::from_secs(1),
            connections_max: 4096,
            handshakes_max: 128,
            inbound_calls_max: 1024,
            inbound_bulk_calls_max: 64,
            inbound_channels_max: 1024,
            inbound_bytes_max: 256 << 20,
            streams_max: 1024,
            frame_bytes_max: 17 << 20,
            deadline_max: Duration::from_secs(60),
            datagram_bytes_max: 64 << 10,
            stream_window_bytes: 4 << 20,
            connection_window_bytes: 16 << 20,
            retry_percent: 10,
            retry_burst: 10,
            gateways: 2,
            leave_timeout: Duration::from_secs(1),
        }
    }
}
