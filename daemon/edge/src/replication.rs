//! How replication stands: what an operator reads when something is wrong, and what a repair says while it runs.
//!
//! Fields are only ever added.

use isochrone_ident::Namespace;
use serde::{Deserialize, Serialize};

/// Older than this, a backlog is told as a concern, in milliseconds.
const BACKLOG_OLD_MS: u64 = 10_000;

/// Which keys a repair compares: the body of `POST /v1/admin/repair`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepairRequest {
    /// Only this namespace's; `None`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
}

/// How far a repair is (rule E6): all figures count from its start and only grow.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RepairProgress {
    /// Slots compared with every other replica that could be reached.
    pub slots_done: u64,
    /// Slots that this daemon is a replica of.
    pub slots: u64,
    /// Keys whose hashes were compared one by one: those of buckets that differ.
    pub keys_compared: u64,
    /// Keys that differed.
    pub keys_differing: u64,
    /// Keys that were changed here by what a peer had.
    pub keys_pulled: u64,
    /// Keys sent to peers that lacked something.
    pub keys_pushed: u64,
    /// Bytes received for it.
    pub bytes_received: u64,
    /// Bytes sent for it.
    pub bytes_sent: u64,
    /// The node that is being compared with, while one is.
    pub peer: Option<String>,
    /// Its region.
    pub region: Option<String>,
    /// Nodes that could not be compared with, and why.
    pub failures: Vec<RepairFailure>,
    /// Whether this is the last line: everything that could be reached has been compared.
    pub done: bool,
}

/// A node that a repair could not compare with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairFailure {
    /// The node.
    pub peer: String,
    /// Its region.
    pub region: String,
    /// Slots that were not compared with it.
    pub slots: u64,
    /// Why, for a person.
    pub reason: String,
}

/// The eventual path as the daemon that answers sees it: `GET /v1/admin/replication`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ReplicationReport {
    /// What is wrong, in words, the most urgent first. Empty: all is well. The API writes it; a backend leaves it empty.
    pub concerns: Vec<String>,
    /// What is kept for each other member.
    pub peers: Vec<PeerReplication>,
    /// Where the last comparison found differences that are not mended yet (rule E6); slots that agree are left out.
    pub divergence: Vec<Divergence>,
    /// The copies of keys that this daemon is no replica of (rule E10).
    pub copies: CopiesView,
    /// Keys held here of which fewer replicas than wanted are in place.
    pub under_replicated_keys: u64,
    /// How far the point up to which every replica has every write lies behind now (rule E7): tombstones younger than this are kept.
    /// `None`: not known.
    pub stable_lag_ms: Option<u64>,
    /// How old answers of this daemon may be. `None`: not known, as when it is cut off from a region that writes.
    pub age_ms: Option<u64>,
    /// Members that are not seen, whose absence holds things back.
    pub away: Vec<Away>,
}

/// What is kept for one member.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PeerReplication {
    /// Its id.
    pub node: String,
    /// Its region.
    pub region: String,
    /// Writes that it has not acknowledged.
    pub backlog: u64,
    /// Their bytes, where they are counted.
    pub backlog_bytes: Option<u64>,
    /// Age of the oldest of them, in milliseconds.
    pub oldest_ms: Option<u64>,
    /// Since when writes are no longer kept for it, in milliseconds since 1970: it was away past a bound, and anti-entropy takes over (rule E5).
    /// `None`: its log is whole.
    pub lapsed_since: Option<u64>,
    /// Why it last refused what it was sent, if it did.
    pub refusal: Option<String>,
}

/// Differences with one peer in one slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Divergence {
    /// The peer's id.
    pub peer: String,
    /// Its region.
    pub region: String,
    /// The slot.
    pub slot: u16,
    /// Keys that differ.
    pub keys: u64,
}

/// The copies that this daemon holds in memory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CopiesView {
    /// Copies.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Reads answered from one, since the start.
    pub hits: u64,
    /// Reads that had to ask a replica, since the start.
    pub misses: u64,
    /// The streams that keep copies honest, one from each replica that some are of.
    pub streams: Vec<CopyStream>,
}

/// One replica's stream of invalidations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyStream {
    /// The replica.
    pub node: String,
    /// Its region.
    pub region: String,
    /// How old copies of its keys may be, in milliseconds; `None`: not known, so that none is used.
    pub age_ms: Option<u64>,
}

/// A member that is not seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Away {
    /// Its id.
    pub node: String,
    /// For how long, in seconds.
    pub seconds: u64,
}

impl ReplicationReport {
    /// The report with its concerns put into words.
    #[must_use]
    pub(crate) fn with_concerns(mut self) -> Self {
        self.concerns = self.concerns_found();
        self
    }

    fn concerns_found(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.under_replicated_keys > 0 {
            found.push(format!(
                "{} keys have fewer replicas than wanted; this mends itself while enough members are alive",
                self.under_replicated_keys
            ));
        }
        found.extend(self.peers.iter().filter_map(PeerReplication::concern));
        found.extend(self.away.iter().map(Away::concern));
        let keys: u64 = self.divergence.iter().map(|slot| slot.keys).sum();
        if keys > 0 {
            let slots = self.divergence.len();
            found.push(format!("{keys} keys differed (slots: {slots}) at the last comparison; `isochrone repair` compares again now"));
        }
        let blind = self.copies.streams.iter().filter(|stream| stream.age_ms.is_none());
        found.extend(
            blind.map(|stream| format!("copies of keys of {} ({}) are not used: their age is not known", stream.node, stream.region)),
        );
        found
    }
}

impl PeerReplication {
    fn concern(&self) -> Option<String> {
        let who = format!("{} ({})", self.node, self.region);
        if let Some(refusal) = &self.refusal {
            return Some(format!("{who} refuses what it is sent: {refusal}"));
        }
        if self.lapsed_since.is_some() {
            return Some(format!(
                "writes are no longer kept for {who}: it was away too long, and will be filled by comparison when it is back"
            ));
        }
        let age = self.oldest_ms.filter(|age| *age >= BACKLOG_OLD_MS)?;
        Some(format!("{} writes wait for {who}, the oldest for {} s", self.backlog, age / 1000))
    }
}

impl Away {
    fn concern(&self) -> String {
        format!("{} has not been seen for {} s: deletes are kept until it is back or removed", self.node, self.seconds)
    }
}
