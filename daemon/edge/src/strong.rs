//! How the strong path stands: what an operator reads when strong keys are slow, move, or are not forgotten.
//!
//! Fields are only ever added.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::operator::ReplicaView;

/// The strong path as the daemon that answers sees it: `GET /v1/admin/strong`. Counts of operations are since its start.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StrongReport {
    /// What is wrong, in words, the most urgent first. Empty: all is well. The API writes it; a backend leaves it empty.
    pub concerns: Vec<String>,
    /// Keys of which this daemon's store holds anything, dead ones included.
    pub keys: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of these keys, those without a value, which wait to be forgotten (rule Q16): deleted ones, and those of which only a promise was made.
    pub dead_keys: u64,
    /// Whether the store's disk is full, so that writes wait for room.
    pub is_full: bool,
    /// Replicas that forgetting has waited for in vain within the last minute, as far as this daemon looks after dead keys.
    pub forgetting_waits_for: Vec<ReplicaView>,
    /// Slots whose promise this daemon has: it writes their keys in one round trip (rule Q18).
    pub slots_owned: u64,
    /// Slots that are between two replica sets (rule Q14).
    pub slots_joint: u64,
    /// How far the moves are that this daemon drives; `None`: it drives none. The council's leader drives all of them.
    pub moves: Option<StrongMoves>,
    /// What this daemon's clients asked for, by the way it took.
    pub operations: StrongOperations,
}

/// How far moves are that are under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StrongMoves {
    /// Slots whose move has begun.
    pub slots: u64,
    /// Keys that their old replicas have listed so far.
    pub keys_listed: u64,
    /// Of these, those that a majority of the new replicas has.
    pub keys_certified: u64,
}

/// Reads and writes by the way that they took, and those that were not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StrongOperations {
    /// Reads of a quorum.
    pub read: u64,
    /// Writes that prepared first: two round trips.
    pub prepared: u64,
    /// Writes of a key that this daemon wrote last: one round trip (rule Q8).
    pub warm: u64,
    /// First writes of a key whose slot this daemon owns: one round trip (rule Q18).
    pub granted: u64,
    /// Those that the slot's owner carried out.
    pub owner: u64,
    /// Those that were answered 503: nothing happened.
    pub nothing_happened: u64,
    /// Those that were answered 504: their outcome is unknown.
    pub outcome_unknown: u64,
}

/// Where strong slots are and who owns them: `strong` in `GET /v1/admin/placement`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StrongPlacement {
    /// How many slots are in each phase: an even number is at rest, an odd one between two replica sets.
    pub phases: BTreeMap<u64, u64>,
    /// How many slots each node is a replica of.
    pub slots_by_node: BTreeMap<String, u64>,
    /// How many slots each node owns, as far as this daemon knows.
    pub owned_by: BTreeMap<String, u64>,
    /// As [`StrongReport::moves`].
    pub moves: Option<StrongMoves>,
}

impl StrongReport {
    /// The report with its concerns put into words.
    #[must_use]
    pub(crate) fn with_concerns(mut self) -> Self {
        let full = self.is_full.then(|| "the strong store's disk is full: strong writes wait for room, and end as 503".to_owned());
        let waits = self.forgetting_waits_for.iter().map(|replica| {
            format!(
                "deleted strong keys are kept because {} ({}) does not answer: {} wait here; they go once it is back, or removed",
                replica.node, replica.region, self.dead_keys
            )
        });
        self.concerns = full.into_iter().chain(waits).collect();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q16_a_replica_that_delays_forgetting_is_named() {
        let replica = ReplicaView { node: "aa".into(), region: "eu-west".into(), liveness: "down".into() };
        let report = StrongReport { dead_keys: 7, forgetting_waits_for: vec![replica], ..StrongReport::default() }.with_concerns();
        assert_eq!(report.concerns.len(), 1);
        assert!(report.concerns[0].contains("aa (eu-west)") && report.concerns[0].contains("7 wait here"), "{:?}", report.concerns);
        assert!(StrongReport::default().with_concerns().concerns.is_empty());
        let full = StrongReport { is_full: true, ..StrongReport::default() }.with_concerns();
        assert!(full.concerns[0].contains("disk is full"));
    }
}
