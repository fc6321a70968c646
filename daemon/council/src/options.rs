//! What a council is started with. Every bound of the crate is here, or a documented constant beside what it bounds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use isochrone_ident::{ClusterName, NodeId, Region};
use isochrone_placement::{RoundTrips, WeightOptions};

use crate::command::Member;

/// Called with the reason when the council can't go on: its disk failed, or its engine stopped; perhaps for both. The daemon should end then:
/// what is on disk is unknown from that moment.
pub type OnFatal = Arc<dyn Fn(String) + Send + Sync>;

/// What the daemon sees of the cluster. Hints only: a wrong answer costs time or balance, never safety.
pub trait Observations: Send + Sync {
    /// Round trips between regions as measured (M6).
    fn round_trips(&self) -> RoundTrips;
    /// Requests taken in each region, as totals that only grow, for the weights (P3).
    fn traffic(&self) -> BTreeMap<Region, u64>;
    /// Whether that node seems alive.
    fn alive(&self, node: NodeId) -> bool;

    /// How many replicas of a slot, from its first on, the namespaces of this cluster file use whose data must not be lost: no member whose
    /// departure would leave one of them without a living replica is retired. Without an own answer, all replicas of a slot count.
    fn replica_counts(&self, file: &str) -> BTreeSet<usize> {
        let _ = file;
        BTreeSet::from([usize::MAX])
    }
}

/// Sees nothing: no round trips, no traffic, everybody alive.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObservations;

impl Observations for NoObservations {
    fn round_trips(&self) -> RoundTrips {
        RoundTrips::default()
    }

    fn traffic(&self) -> BTreeMap<Region, u64> {
        BTreeMap::new()
    }

    fn alive(&self, _: NodeId) -> bool {
        true
    }
}

/// The timers of elections. The defaults suit round trips up to 300 ms; what can follow a measured round trip while running, does so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// Between two heartbeats of the leader.
    pub heartbeat: Duration,
    /// For one message of the engine and its answer. Above the longest round trip, below `lease`.
    pub message: Duration,
    /// Followers who heard the leader within this time support no election; a leader whose majority has not answered within it
    /// takes no proposals. The longest that one lost message may silence a leader is `message`.
    pub lease: Duration,
    /// A follower waits `lease`, half a round trip, and a random part of this or of two round trips, whichever is longer, before it stands for election.
    pub spread: Duration,
}

impl Timers {
    /// For a cluster whose longest round trip is known beforehand.
    #[must_use]
    pub fn for_round_trip(longest: Duration) -> Self {
        let heartbeat = longest.clamp(Duration::from_millis(50), Duration::from_millis(500));
        let message = (longest * 3).max(Duration::from_millis(200));
        Self { heartbeat, message, lease: message + 2 * heartbeat + longest / 2, spread: (2 * longest).max(Duration::from_millis(100)) }
    }
}

impl Default for Timers {
    fn default() -> Self {
        let millis = Duration::from_millis;
        Self { heartbeat: millis(200), message: millis(600), lease: millis(1_000), spread: millis(400) }
    }
}

/// How a council is started.
#[derive(Clone)]
pub struct CouncilOptions {
    /// This daemon, as it will join.
    pub me: Member,
    /// The cluster's name; a council of another is never joined.
    pub cluster: ClusterName,
    /// Source of all random choices. Unique per node, or elections split.
    pub seed: u64,
    /// Timers of elections.
    pub timers: Timers,
    /// How long members must stay unchanged before a new placement is computed.
    pub settle: Duration,
    /// How long a voter must be down before another member takes its place.
    pub replace_voter_after: Duration,
    /// How long a member must not have been heard of before the leader retires it (E7): its store never comes back, its data is placed
    /// elsewhere, and tombstones and logs no longer wait for it. Counted anew by each new leader, and whenever the leader has lost sight of the
    /// majority of the members; see [`crate::CouncilStatus::away`].
    pub away_max: Duration,
    /// Whether the leader notes every strong slot as moved as soon as its move has begun: right only where strong slots hold nothing. A daemon that
    /// serves strong namespaces moves them itself (Q14) and switches this off.
    pub completes_strong: bool,
    /// How the weights follow round trips and traffic (P3).
    pub weights: WeightOptions,
    /// Log entries between two snapshots; the log holds at most about twice as many. 8 to 100,000.
    pub snapshot_every: u64,
    /// The largest snapshot taken from a peer, in bytes.
    pub snapshot_bytes_max: usize,
    /// Bytes of a snapshot sent at once.
    pub snapshot_chunk_bytes: usize,
    /// The largest message taken from a peer, in bytes.
    pub message_bytes_max: usize,
    /// What the daemon sees of the cluster.
    pub observations: Arc<dyn Observations>,
    /// Called when the council can't go on.
    pub on_fatal: OnFatal,
}

impl CouncilOptions {
    /// The defaults.
    #[must_use]
    pub fn new(me: Member, cluster: ClusterName, seed: u64) -> Self {
        Self {
            me,
            cluster,
            seed,
            timers: Timers::default(),
            settle: Duration::from_millis(200),
            replace_voter_after: Duration::from_secs(30),
            away_max: Duration::from_secs(72 * 3600),
            completes_strong: true,
            weights: WeightOptions::default(),
            snapshot_every: 256,
            snapshot_bytes_max: 64 * 1024 * 1024,
            snapshot_chunk_bytes: 256 * 1024,
            message_bytes_max: 4 * 1024 * 1024,
            observations: Arc::new(NoObservations),
            on_fatal: Arc::new(|why| tracing::error!(%why, "the council can't go on")),
        }
    }
}

impl std::fmt::Debug for CouncilOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CouncilOptions").field("me", &self.me).field("cluster", &self.cluster).finish_non_exhaustive()
    }
}
