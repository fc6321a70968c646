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

/// What is kept for replicas that are away (E5). Beyond either bound the slowest of them lapses, and anti-entropy takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hints {
    /// Bytes of the operation log (`replication.hint_bytes_max`), fewer than [`NodeOptions::log_bytes_max`].
    pub bytes_max: u64,
    /// Age of its oldest entry (`replication.hint_age_max`).
    pub age_max: Duration,
}

/// The pace of anti-entropy (E6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepairOptions {
    /// Shortest and longest pause between two rounds with one replica (`replication.repair_interval_min`, `_max`). With [`Duration::MAX`] there are none, not
    /// at rejoin either: for simulations of what would otherwise be mended.
    pub interval: (Duration, Duration),
    /// Bytes a second that this daemon takes, at most (`replication.repair_bytes_per_second`).
    pub bytes_per_second: u64,
    /// Bytes of one page of what differs (`replication.repair_page_bytes`); a larger state goes alone.
    pub page_bytes: usize,
}

/// Bounds of counters, sets, maps and registers (E12). A write beyond one is refused; what replicas send is merged all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypedBounds {
    /// Members of a set (`limits.set_members`), where its namespace says nothing.
    pub set_members: usize,
    /// Bytes of a member and of a field's name (`limits.member_bytes`).
    pub member_bytes: usize,
    /// Fields of a map (`limits.map_fields`).
    pub map_fields: usize,
    /// Values that a register holds side by side (`limits.register_values`).
    pub register_values: usize,
}

/// Copies of keys whose replicas are elsewhere (E10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyOptions {
    /// Memory for them, in bytes (`copies.bytes`); 0: this daemon holds none.
    pub bytes: u64,
    /// Daemons that this one tells of changes (`copies.subscribers_max`).
    pub subscribers_max: usize,
    /// Changes that may wait for one of them before its stream is closed (`copies.queue`).
    pub queue: usize,
}

/// The strong path (rules Q). [`Default`] gives what the example file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StrongOptions {
    /// How long a read or write may take (`strong.deadline`).
    pub deadline: Duration,
    /// How long a round of messages may take before it is begun again (`strong.step`).
    pub step: Duration,
    /// Reads and writes that may wait for one key (`strong.queue`).
    pub queue: usize,
    /// Answered requests that a key remembers (`strong.ring`, Q11).
    pub ring: usize,
    /// Locks whose tokens a key remembers (`strong.fences`, L5).
    pub fences: usize,
    /// Keys that are written again in one round trip (`strong.warm_keys`, Q8).
    pub warm_keys: usize,
    /// Keys that a slot may have for all of them to be promised at once (`strong.grant_keys`, Q18).
    pub grant_keys: usize,
    /// Keys on a page of a slot's list (`strong.page_keys`).
    pub page_keys: usize,
    /// Bytes of such a page (`strong.page_bytes`); a larger key goes alone.
    pub page_bytes: usize,
    /// Messages that may wait for one other daemon (`strong.channel_queue`).
    pub channel_queue: usize,
    /// Their bytes (`strong.channel_queue_bytes`).
    pub channel_queue_bytes: usize,
    /// Memory for pages of the strong store (`strong.memory_bytes`).
    pub memory_bytes: usize,
    /// Rows that may wait for the disk (`strong.store_queue`).
    pub store_queue: usize,
    /// Their bytes (`strong.store_queue_bytes`).
    pub store_queue_bytes: usize,
    /// Keys whose last known value is kept for reads at level local (`strong.copies`, Q17); 0: none.
    pub copies: usize,
    /// How long ago such a value may have been confirmed (`strong.local_age_max`).
    pub local_age_max: Duration,
    /// Pause between two slots in which dead keys are looked for (`strong.forget_every`, Q16).
    pub forget_every: Duration,
    /// How long writes are counted before ownership follows them (`strong.own_window`, Q18).
    pub own_window: Duration,
    /// Keys that are carried over at a time, of all slots together (`strong.move_keys`, Q14).
    pub move_keys: usize,
    /// Slots that move at a time (`strong.move_slots`).
    pub move_slots: usize,
}

impl Default for StrongOptions {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(2),
            step: Duration::from_millis(500),
            queue: 1024,
            ring: 1024,
            fences: 16,
            warm_keys: 65_536,
            grant_keys: 65_536,
            page_keys: 256,
            page_bytes: 1 << 20,
            channel_queue: 16_384,
            channel_queue_bytes: 64 << 20,
            memory_bytes: 64 << 20,
            store_queue: 16_384,
            store_queue_bytes: 64 << 20,
            copies: 65_536,
            local_age_max: Duration::from_secs(10),
            forget_every: Duration::from_secs(1),
            own_window: Duration::from_secs(5),
            move_keys: 256,
            move_slots: 1024,
        }
    }
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
    /// Bytes of the operation log, at most (`store.log_bytes_max`): while it is full, writes are refused. More than `hints.bytes_max`.
    pub log_bytes_max: u64,
    /// What is kept for replicas that are away.
    pub hints: Hints,
    /// The pace of anti-entropy.
    pub repair: RepairOptions,
    /// Silence after which a member is removed and, if it comes back, starts over (`council.away_max`).
    pub away_max: Duration,
    /// Copies of keys whose replicas are elsewhere.
    pub copies: CopyOptions,
    /// The strong path.
    pub strong: StrongOptions,
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
    /// How long a read may wait for what its session has seen (`limits.session_wait`).
    pub session_wait: Duration,
    /// Bounds of counters, sets, maps and registers.
    pub typed: TypedBounds,
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
    /// E2: acknowledges writes that rest on what is missing here, without fetching that.
    IgnoreGaps,
    /// E1: forgets which requests were counted, so that one that is repeated in another region counts twice.
    CountRepeats,
    /// E3: after an unclean end goes on with the evictable dots as they were on disk, although peers may have seen later ones.
    ReuseLife,
    /// E7: a quorum read's repair is taken however old it is.
    AcceptStaleRepair,
    /// E7: what is being pulled may be forgotten meanwhile.
    ForgetWhilePulling,
    /// E7: whatever a daemon still holds that is no replica is taken from it, however old it is.
    PullSettled,
    /// E5: what has gone from the log counts as delivered, though a peer lapsed.
    LapseIsDelivery,
    /// E9: a replica answers a session whatever it lacks of what that has seen.
    NoSessionWait,
    /// E9: who reads a write is not told what that depends on.
    ForgetCauses,
    /// E10: keeps an answer that an invalidation has overtaken.
    KeepOvertakenCopy,
    /// E10: takes a copy for fresh until an invalidation comes, whether or not the stream lives that would bring it.
    TrustBrokenStream,
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
            hints: Hints { bytes_max: 512 << 20, age_max: Duration::from_secs(6 * 3600) },
            repair: RepairOptions {
                interval: (Duration::from_secs(30), Duration::from_secs(60)),
                bytes_per_second: 32 << 20,
                page_bytes: 256 << 10,
            },
            away_max: Duration::from_secs(72 * 3600),
            copies: CopyOptions { bytes: 64 << 20, subscribers_max: 256, queue: 4096 },
            strong: StrongOptions::default(),
            disk_bytes_max: 8 << 30,
            value_bytes: 16 << 20,
            idempotency_ttl: Duration::from_secs(600),
            read_deadline: Duration::from_secs(2),
            write_deadline: Duration::from_secs(10),
            session_wait: Duration::from_secs(2),
            typed: TypedBounds { set_members: 10_000, member_bytes: 1 << 10, map_fields: 1_000, register_values: 64 },
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
