//! What an operator can ask of a daemon, and who answers: the [`Operator`].
//!
//! The typed views are what `/v1/admin/...` sends as JSON and what the status page and the command line read; fields are only ever added.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use isochrone_ident::{Key, Namespace, NodeId};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::replication::{RepairProgress, RepairRequest, ReplicationReport};
use crate::strong::StrongReport;

/// One readiness check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// A short stable name: `council`, `store`, `clock`.
    pub name: String,
    /// Whether it passes. A daemon is ready when all do.
    pub ok: bool,
    /// What was seen, for a person.
    pub detail: String,
}

/// A member as this daemon sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberView {
    /// Its id, 32 hexadecimal digits.
    pub node: String,
    /// Its region.
    pub region: String,
    /// Its zone, if it has one.
    pub zone: Option<String>,
    /// Its peer address, `host:port`.
    pub address: String,
    /// `alive`, `suspect`, `down` or `left`, as gossip sees it; `unknown` before gossip has seen it.
    pub liveness: String,
    /// Whether it is the daemon that answers.
    pub me: bool,
    /// Whether it votes in the council.
    pub voter: bool,
    /// Its share of the data: 100 is one part.
    pub capacity: u32,
    /// How often it has started.
    pub incarnation: u64,
    /// Round trip from the daemon that answers, in milliseconds.
    pub round_trip_ms: Option<f64>,
    /// Writes that the daemon that answers still keeps for it.
    pub backlog: Option<u64>,
}

/// Round trips between regions in milliseconds, `from -> to -> ms`; what was not measured is missing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RoundTripsView {
    /// The matrix.
    pub round_trip_ms: BTreeMap<String, BTreeMap<String, f64>>,
}

/// The council as this daemon sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CouncilView {
    /// `leader`, `follower`, `candidate`, `learner` or `none`.
    pub role: String,
    /// The leader's node id, while there is one.
    pub leader: Option<String>,
    /// The council's election number.
    pub term: u64,
    /// The last log entry that was applied here.
    pub applied: u64,
    /// The revision of the cluster file: the `ETag` of `/v1/admin/apply`.
    pub revision: u64,
}

/// The placement as this daemon sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PlacementSummary {
    /// Epoch of the eventual slots.
    pub epoch_eventual: u64,
    /// Epoch of the strong slots.
    pub epoch_strong: u64,
    /// Slots, of both classes, that are being moved.
    pub slots_moving: u64,
}

/// What is kept for other replicas.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReplicationView {
    /// Writes that at least one replica has not acknowledged yet.
    pub backlog: u64,
    /// Age of the oldest of them, in milliseconds.
    pub oldest_ms: Option<u64>,
}

/// The store.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StoreView {
    /// Keys held, live ones.
    pub keys: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// The budget on disk.
    pub disk_bytes_max: u64,
}

/// Everything the status page and `isochrone status` show.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The cluster's name.
    pub cluster: String,
    /// This daemon's id.
    pub node: String,
    /// Its region.
    pub region: String,
    /// Its zone.
    pub zone: Option<String>,
    /// The program's version.
    pub version: String,
    /// How often it has started.
    pub incarnation: u64,
    /// How long it has been up, in milliseconds.
    pub uptime_ms: u64,
    /// Whether every check passes.
    pub ready: bool,
    /// The readiness checks.
    pub checks: Vec<Check>,
    /// The members.
    pub members: Vec<MemberView>,
    /// The round trips between regions.
    pub round_trips: RoundTripsView,
    /// The council.
    pub council: CouncilView,
    /// The placement.
    pub placement: PlacementSummary,
    /// The replication backlog.
    pub replication: ReplicationView,
    /// The store.
    pub store: StoreView,
}

/// Where one key lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPlacement {
    /// The namespace.
    pub ns: String,
    /// The key, escaped for a person where it is not plain text.
    pub key: String,
    /// Its slot, below 4,096.
    pub slot: u16,
    /// The epoch of its slot.
    pub epoch: u64,
    /// `stable` or `joint`.
    pub phase: String,
    /// The replicas that are read, first choice first.
    pub replicas: Vec<ReplicaView>,
    /// The replicas that the slot moves to, while `phase` is `joint`.
    pub next: Vec<ReplicaView>,
    /// Of a strong key, the node that its slot's writes are handed to, as far as the daemon that answers knows (rule Q18).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// One replica of a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaView {
    /// Its node id.
    pub node: String,
    /// Its region.
    pub region: String,
    /// As [`MemberView::liveness`].
    pub liveness: String,
}

/// A cluster file that is to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplyRequest {
    /// The file, TOML.
    pub text: String,
    /// Only say what would change.
    pub dry_run: bool,
    /// Apply only if this is still the revision in force (`If-Match`).
    pub expected_revision: Option<u64>,
}

/// What applying a cluster file did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The revision in force afterwards.
    pub revision: u64,
    /// Whether anything changed, or would.
    pub changed: bool,
    /// Whether it was only asked.
    pub dry_run: bool,
    /// What changed, a line each, for a person.
    pub changes: Vec<String>,
    /// What the change of placement moves (rule P5), where it moves anything.
    pub plan: Option<serde_json::Value>,
}

/// What a reload did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Reloaded {
    /// Settings that are in force now.
    pub changed: Vec<String>,
    /// Settings that changed in the file and need a restart.
    pub restart_needed: Vec<String>,
}

/// Why an operator's request was refused. The text is the problem's `detail`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperatorRefusal {
    /// 404: no such member, no such namespace; or a part that is switched off, such as the emulation.
    #[error("{0}")]
    NotFound(String),
    /// 422: the file or the document says something that cannot be.
    #[error("{0}")]
    Invalid(String),
    /// 409: it is not possible as things are: the last member can't be removed.
    #[error("{0}")]
    Conflict(String),
    /// 412: another revision is in force.
    #[error("the cluster file in force is revision {current}, not {expected}; look at what changed and apply again")]
    Revision {
        /// The revision in force.
        current: u64,
        /// The revision that was expected.
        expected: u64,
    },
    /// 503: the council has no leader or no majority. Nothing was changed.
    #[error("the council cannot decide now: {0}; nothing was changed")]
    NoQuorum(String),
    /// 504: the change may still happen.
    #[error("it is not known whether the change was made: {0}; look before you repeat it")]
    OutcomeUnknown(String),
    /// 500: something that should not happen.
    #[error("{0}")]
    Internal(String),
    /// 501: this version does not have it. The text is a noun phrase: `a repair`.
    #[error("{0} is not built into this version yet")]
    NotBuilt(String),
}

/// Who answers operators: the daemon's node, or a model of it in tests.
pub trait Operator: Send + Sync + 'static {
    /// Whether the process works at all (`/livez`): `Err` says why a supervisor should restart it. Being cut off is no reason.
    fn alive(&self) -> Result<(), String>;

    /// The readiness checks (`/readyz`).
    fn checks(&self) -> Vec<Check>;

    /// Everything at a glance.
    fn status(&self) -> Status;

    /// The members, by region and id.
    fn members(&self) -> Vec<MemberView>;

    /// The round trips between regions.
    fn round_trips(&self) -> RoundTripsView;

    /// The whole placement: epochs, shares of each node, slots that move.
    fn placement(&self) -> serde_json::Value;

    /// What a change would move before it is made (rule P5): `remove=NODE`, `capacity=NODE:HUNDREDTHS`, `add=REGION[/ZONE][:HUNDREDTHS]` or
    /// `replicas=NUMBER`.
    ///
    /// # Errors
    /// [`OperatorRefusal::Invalid`] when it is none of these, [`OperatorRefusal::NotFound`] when the node is no member,
    /// [`OperatorRefusal::Conflict`] when the change cannot be made.
    fn plan(&self, change: &str) -> Result<serde_json::Value, OperatorRefusal>;

    /// Where one key lives.
    ///
    /// # Errors
    /// [`OperatorRefusal::NotFound`] when there is no such namespace.
    fn placement_of(&self, ns: &Namespace, key: &Key) -> Result<KeyPlacement, OperatorRefusal>;

    /// The effective configuration with where each value came from; secrets are left out.
    fn config(&self) -> serde_json::Value;

    /// The cluster file in force, and its revision.
    fn cluster_file(&self) -> (String, u64);

    /// Applies a cluster file.
    fn apply(&self, request: ApplyRequest) -> BoxFuture<'_, Result<Applied, OperatorRefusal>>;

    /// Removes a member for good. One that is lost is given up, and with it what nobody else has; any other is kept while a strong slot would be without a
    /// majority of its replicas.
    fn remove_member(&self, node: NodeId, is_lost: bool) -> BoxFuture<'_, Result<(), OperatorRefusal>>;

    /// Reads configuration and certificates again.
    fn reload(&self) -> BoxFuture<'_, Result<Reloaded, OperatorRefusal>>;

    /// Leaves the cluster gracefully, and ends the daemon afterwards.
    fn leave(&self) -> BoxFuture<'_, Result<(), OperatorRefusal>>;

    /// How the eventual path stands.
    ///
    /// # Errors
    /// [`OperatorRefusal::NotBuilt`] where it is not known how.
    fn replication(&self) -> Result<ReplicationReport, OperatorRefusal> {
        Err(OperatorRefusal::NotBuilt("a report on replication".to_owned()))
    }

    /// How the strong path stands.
    ///
    /// # Errors
    /// [`OperatorRefusal::NotBuilt`] where it is not known how.
    fn strong(&self) -> Result<StrongReport, OperatorRefusal> {
        Err(OperatorRefusal::NotBuilt("a report on strong keys".to_owned()))
    }

    /// Compares this daemon's keys with every other replica now (rule E6), and mends what differs. The receiver always has the newest progress,
    /// so that nobody waits for a slow reader; the last one says `done`. When all receivers are gone, the repair ends at the next slot.
    fn repair(&self, request: RepairRequest) -> BoxFuture<'_, Result<watch::Receiver<RepairProgress>, OperatorRefusal>> {
        let _ = request;
        Box::pin(async { Err(OperatorRefusal::NotBuilt("a repair".to_owned())) })
    }

    /// The emulated network; `None` when none is emulated.
    fn emulation(&self) -> Option<serde_json::Value>;

    /// Changes the emulated network.
    ///
    /// # Errors
    /// [`OperatorRefusal::NotFound`] when none is emulated, [`OperatorRefusal::Invalid`] when the document makes no sense.
    fn set_emulation(&self, wanted: serde_json::Value) -> Result<serde_json::Value, OperatorRefusal>;
}
