//! What a node is given: settings that were checked, and the world it runs in.

use std::sync::Arc;
use std::time::Duration;

use isochrone_ident::WallMicros;
use isochrone_replica::ClockLimits;

/// Reads the wall clock.
pub type WallClock = Arc<dyn Fn() -> WallMicros + Send + Sync>;

/// Time and chance, as the node sees them. Monotonic time is tokio's, which a simulation may own as well.
#[derive(Clone)]
pub struct Environment {
    /// The wall clock.
    pub wall: WallClock,
    /// The seed of all randomness: back-offs, elections, connection ids.
    pub seed: u64,
    /// Called once when the node cannot go on (a failed sync): ends the process, with the reason.
    pub on_fatal: Arc<dyn Fn(String) + Send + Sync>,
}

/// Bounds and periods of a node. [`Default`] gives what the example file says.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// How often a daemon tells each peer its watermarks (`replication.heartbeat`).
    pub heartbeat: Duration,
    /// Batches that may be unacknowledged on one replication stream (`replication.window`).
    pub window: usize,
    /// Bytes of records in one batch, at most (`replication.batch_bytes`); a larger record goes alone.
    pub batch_bytes: usize,
    /// Shortest and longest pause before a broken replication stream is opened again (`replication.resend_min`, `_max`).
    pub backoff: (Duration, Duration),
    /// What a peer's clock may be ahead (`replication.clock_ahead_max`, `replication.clock_ahead_alarm`).
    pub clock: ClockLimits,
    /// Bytes a second that a replica is filled with, at most (`replication.move_bytes_per_second`).
    pub move_bytes_per_second: u64,
    /// Bytes of the operation log, at most (`store.log_bytes_max`): while replicas are away so long that it is full, writes are refused.
    pub log_bytes_max: u64,
    /// Budget of the store on disk, in bytes (`store.disk_bytes`); told to operators.
    pub disk_bytes_max: u64,
    /// Largest value (`limits.value_bytes`).
    pub value_bytes: u64,
    /// How long the answer to an idempotency key is kept (`limits.idempotency_ttl`).
    pub idempotency_ttl: Duration,
    /// How long a read may take, all replicas that are asked together (`limits.read_deadline`).
    pub read_deadline: Duration,
    /// How long a write may take (`limits.write_deadline`).
    pub write_deadline: Duration,
    /// How long the council may take to decide (`council.propose_deadline`).
    pub propose_deadline: Duration,
    /// How often tombstones and expired values are looked for in one slot after the other, and how many slots at a time.
    pub sweep: (Duration, usize),
    /// Bytes read from a slot in one page of a sweep or a fill.
    pub page_bytes: usize,
    /// Seeds to join through; empty: a new data directory becomes a cluster of its own (`peer.join`).
    pub join: Vec<String>,
    /// The cluster file that a cluster founded by this node begins with; checked.
    pub cluster_file: String,
    /// Replicas of a slot that this file asks for.
    pub cluster_width: u8,
    /// A rule that is broken on purpose, so that the simulator can show that it would be caught. `None` in every real daemon.
    #[doc(hidden)]
    pub mutation: Option<Mutation>,
}

/// A rule that a simulation breaks on purpose. See [`NodeOptions::mutation`].
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// E5: acknowledges a durable write before it is synced.
    AcknowledgeUnsynced,
    /// E5: trims the log without waiting for every replica.
    TrimUndelivered,
    /// E5: goes on at the log's end after a reconnection, instead of at what was acknowledged.
    SkipUnacknowledged,
    /// E7: forgets tombstones without waiting until they are stable.
    ForgetUnstable,
}

impl NodeOptions {
    /// Whether a rule is broken on purpose.
    pub(crate) fn breaks(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            window: 64,
            batch_bytes: 256 << 10,
            backoff: (Duration::from_millis(50), Duration::from_secs(1)),
            clock: ClockLimits::default(),
            move_bytes_per_second: 64 << 20,
            log_bytes_max: 1 << 30,
            disk_bytes_max: 8 << 30,
            value_bytes: 16 << 20,
            idempotency_ttl: Duration::from_secs(600),
            read_deadline: Duration::from_secs(2),
            write_deadline: Duration::from_secs(10),
            propose_deadline: Duration::from_secs(5),
            sweep: (Duration::from_secs(1), 64),
            page_bytes: 256 << 10,
            join: Vec::new(),
            cluster_file: String::new(),
            cluster_width: 3,
            mutation: None,
        }
    }
}
