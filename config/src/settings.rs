//! The typed settings of a node, section by section. What each means, its range and its reason stand in the table [`NODE`](crate::NODE).

use std::net::SocketAddr;
use std::path::PathBuf;

use isochrone_ident::{ClusterName, Region, Zone};
use serde::Deserialize;

use crate::token::Token;
use crate::units::{AutoSpan, ByteSize, Span};

/// All settings of one daemon, valid each and together: made only by [`NodeSettings::load`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct NodeSettings {
    /// Who and where.
    pub node: Node,
    /// The client listener.
    pub http: Http,
    /// The admin listener.
    pub admin: Admin,
    /// QUIC between daemons.
    pub peer: Peer,
    /// Who may do what.
    pub auth: Auth,
    /// What is kept.
    pub store: Store,
    /// Bounds of one request.
    pub limits: Limits,
    /// How writes travel.
    pub replication: Replication,
    /// Copies of keys whose replicas are elsewhere.
    pub copies: Copies,
    /// The strong path.
    pub strong: Strong,
    /// The cluster's order.
    pub council: Council,
    /// What is told.
    pub log: Log,
    /// Delays for development.
    pub emulation: Emulation,
}

/// `[node]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// The cluster's name.
    pub cluster: ClusterName,
    /// The region.
    pub region: Region,
    /// The zone inside it, if there are any.
    pub zone: Option<Zone>,
    /// The daemon's own directory.
    pub data_dir: PathBuf,
    /// Share of the data, 100 an ordinary node; 1 to 10,000.
    pub capacity: u32,
}

/// A certificate chain and its key, both PEM files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// `[http]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Serving threads; 0 is one a core.
    pub threads: usize,
    /// Open connections at a time.
    pub max_connections: usize,
    /// Longest request line and headers together.
    pub header_bytes: ByteSize,
    /// Longest arrival of a request's headers.
    pub header_timeout: Span,
    /// Longest pause inside a body.
    pub body_timeout: Span,
    /// Longest request in all.
    pub request_timeout: Span,
    /// Longest pause between requests.
    pub idle_timeout: Span,
    /// Longest end of requests in progress at SIGTERM.
    pub drain_timeout: Span,
    /// HTTPS, where wanted.
    pub tls: Option<TlsFiles>,
}

/// `[admin]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Where operators connect.
    pub listen: SocketAddr,
    /// HTTPS, where wanted.
    pub tls: Option<TlsFiles>,
}

/// `[peer]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Where other daemons connect (UDP).
    pub listen: SocketAddr,
    /// How they are told to reach this one, `host:port`.
    pub advertise: Option<String>,
    /// Daemons to join through, `host:port` each.
    pub join: Vec<String>,
    /// The CA bundle; given if and only if `cert` and `key` are.
    pub ca: Option<PathBuf>,
    /// This daemon's certificate.
    pub cert: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// Gossip gateways a region.
    pub gateways: usize,
    /// Longest message; at least `limits.value_bytes` and [`FRAME_EXTRA`].
    pub frame_bytes_max: ByteSize,
    /// Calls of other daemons worked on at a time.
    pub calls_max: usize,
    /// Streams that one peer may have open.
    pub streams_max: u32,
    /// Longest call.
    pub call_deadline: Span,
    /// Retries as a share of calls, 0 to 1.
    pub retry_budget: f64,
    /// Longest silence on a connection.
    pub idle_timeout: Span,
    /// First pause before a new try to connect.
    pub reconnect_min: Span,
    /// Longest such pause; at least `reconnect_min`.
    pub reconnect_max: Span,
}

/// What a message between daemons holds beside a value.
pub const FRAME_EXTRA: ByteSize = ByteSize::kib(64);

/// The files that make a daemon's identity towards the others, all PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The CA bundle.
    pub ca: PathBuf,
    /// The certificate.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

impl Peer {
    /// The identity files; `None` for a daemon that stays a cluster of one.
    #[must_use]
    pub fn identity(&self) -> Option<IdentityFiles> {
        let (ca, cert, key) = (self.ca.clone()?, self.cert.clone()?, self.key.clone()?);
        Some(IdentityFiles { ca, cert, key })
    }
}

/// Whether requests have to show a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// Every request has to.
    Tokens,
    /// None has to, whoever can reach the listeners.
    None,
}

/// `[auth]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// Unset: nobody has to show a token, and all listeners are loopback.
    pub mode: Option<AuthMode>,
    /// Tokens that this daemon alone knows.
    pub token: Vec<Token>,
}

/// `[store]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    /// The most on disk.
    pub disk_bytes: ByteSize,
    /// The part of it for evictable namespaces.
    pub evictable_bytes: ByteSize,
    /// Memory for copies.
    pub memory_bytes: ByteSize,
    /// Writes a sync.
    pub batch_max: usize,
    /// Writes that may wait.
    pub queue_max: usize,
    /// Longest time unsynced, at most 50 ms.
    pub sync_interval: Span,
    /// The part of `disk_bytes` for the operation log; more than `replication.hint_bytes_max`.
    pub log_bytes_max: ByteSize,
}

/// `[limits]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Largest value.
    pub value_bytes: ByteSize,
    /// How long an Idempotency-Key's answer is remembered.
    pub idempotency_ttl: Span,
    /// Keys on a page.
    pub list_max: usize,
    /// Lines of a batch.
    pub batch_lines_max: usize,
    /// Bytes of a batch.
    pub batch_bytes_max: ByteSize,
    /// Bytes of all request bodies in memory.
    pub body_bytes_in_flight: ByteSize,
    /// Longest read.
    pub read_deadline: Span,
    /// Longest write.
    pub write_deadline: Span,
    /// Longest wait for what a session has seen (E9).
    pub session_wait: Span,
    /// Members of a set (E12), where its namespace says nothing.
    pub set_members: usize,
    /// Longest member of a set and name of a field.
    pub member_bytes: ByteSize,
    /// Fields of a map.
    pub map_fields: usize,
    /// Values of a register, side by side.
    pub register_values: usize,
}

/// `[replication]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replication {
    /// Sign of life on an idle stream.
    pub heartbeat: Span,
    /// Unconfirmed batches a replica.
    pub window: usize,
    /// Size of a batch.
    pub batch_bytes: ByteSize,
    /// First pause before sending again.
    pub resend_min: Span,
    /// Longest such pause; at least `resend_min`.
    pub resend_max: Span,
    /// Refuse writes from further ahead (E4).
    pub clock_ahead_max: Span,
    /// Tell of clocks further ahead (E4).
    pub clock_ahead_alarm: Span,
    /// Pace of moves, bytes a second.
    pub move_bytes_per_second: ByteSize,
    /// Writes kept for replicas that are away (E5); less than `store.log_bytes_max`.
    pub hint_bytes_max: ByteSize,
    /// How long they are kept.
    pub hint_age_max: Span,
    /// Shortest pause between rounds of anti-entropy (E6).
    pub repair_interval_min: Span,
    /// Longest such pause; at least `repair_interval_min`.
    pub repair_interval_max: Span,
    /// Pace of anti-entropy, bytes a second.
    pub repair_bytes_per_second: ByteSize,
    /// Size of a page of differences.
    pub repair_page_bytes: ByteSize,
}

/// `[copies]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copies {
    /// Memory for them; 0 turns them off.
    pub bytes: ByteSize,
    /// Daemons that are told of changes.
    pub subscribers_max: usize,
    /// Changes that may wait for one of them.
    pub queue: usize,
}

/// `[strong]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Strong {
    /// Longest read or write.
    pub deadline: Span,
    /// Longest round of messages; at most `deadline`.
    pub step: Span,
    /// Requests that wait for one key.
    pub queue: usize,
    /// Answered requests that one key remembers (Q11).
    pub ring: usize,
    /// Locks whose tokens one key remembers (L5).
    pub fences: usize,
    /// Keys that are written again in one round trip (Q8).
    pub warm_keys: usize,
    /// Keys of a slot that are promised at once (Q18).
    pub grant_keys: usize,
    /// Keys on a page of a slot's list.
    pub page_keys: usize,
    /// Bytes of such a page.
    pub page_bytes: ByteSize,
    /// Messages that wait for one daemon.
    pub channel_queue: usize,
    /// Their bytes; at least `limits.value_bytes`.
    pub channel_queue_bytes: ByteSize,
    /// Memory for the store's pages.
    pub memory_bytes: ByteSize,
    /// Rows that wait for the disk.
    pub store_queue: usize,
    /// Their bytes; at least `limits.value_bytes`.
    pub store_queue_bytes: ByteSize,
    /// Values kept for reads at level local (Q17); 0 turns them off.
    pub copies: usize,
    /// Longest time since such a value was confirmed.
    pub local_age_max: Span,
    /// Pause between two slots in which dead keys are looked for (Q16).
    pub forget_every: Span,
    /// Window in which writes are counted for ownership (Q18).
    pub own_window: Span,
    /// Keys carried over at a time (Q14).
    pub move_keys: usize,
    /// Slots that move at a time.
    pub move_slots: usize,
}

/// `[council]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Council {
    /// The leader's sign of life.
    pub heartbeat: AutoSpan,
    /// Least wait for a leader; twice this is the longest.
    pub election_timeout: AutoSpan,
    /// Log entries a snapshot.
    pub snapshot_every: u64,
    /// Longest change of the cluster.
    pub propose_deadline: Span,
    /// Wait for further members before placing anew.
    pub settle: Span,
    /// Silence after which a member is removed (E7).
    pub away_max: Span,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Levels by part.
    pub filter: String,
    /// How lines look.
    pub format: LogFormat,
}

/// `[emulation]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Emulation {
    /// Whether packets are delayed at all.
    pub enabled: bool,
    /// Towards whom, and by how much.
    pub links: Vec<Link>,
}

/// One emulated link, in the direction away from this daemon.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Where packets go.
    pub address: SocketAddr,
    /// The region there.
    pub region: Region,
    /// Delay of each packet.
    pub one_way: Span,
    /// Mean of the random delay on top.
    pub jitter: Span,
    /// Share of packets lost, 0 to 1.
    pub loss: f64,
}
