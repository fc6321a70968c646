//! Metrics. Handles are made once; the council is no hot path, but its heartbeats come every fraction of a second.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::council::ProposeError;

/// Describes every metric of this crate to the installed recorder.
pub fn describe() {
    describe_gauge!("isochrone_council_is_leader", "1 while this daemon leads the council");
    describe_gauge!("isochrone_council_is_voter", "1 while this daemon votes in the council");
    describe_gauge!("isochrone_council_has_leader", "1 while this daemon knows a leader");
    describe_gauge!("isochrone_council_term", "Number of the council's current election");
    describe_gauge!("isochrone_council_members", "Members of the cluster");
    describe_gauge!("isochrone_council_applied_index", "Log index of the newest state here");
    describe_gauge!("isochrone_council_log_entries", "Log entries kept here");
    describe_counter!("isochrone_council_proposals_total", "Proposals made here, by outcome");
    describe_counter!("isochrone_council_elections_total", "Elections that this daemon stood for");
    describe_counter!("isochrone_council_leader_changes_total", "Changes of the leader seen here");
    describe_counter!("isochrone_council_messages_refused_total", "Council messages refused, by reason");
    describe_counter!("isochrone_council_snapshots_installed_total", "Snapshots taken over from a leader");
    describe_counter!("isochrone_council_epochs_begun_total", "Placement epochs that this daemon proposed as leader, by cause");
    describe_gauge!("isochrone_council_away_seconds_max", "How long the member that was away longest has not been seen alive from here");
    describe_gauge!(
        "isochrone_council_members_overdue",
        "Members that were away too long, but kept: counted by the leader, whose log says why"
    );
    describe_counter!(
        "isochrone_council_retired_total",
        "Members that this daemon, as leader, has retired because they were away for too long"
    );
    describe_histogram!("isochrone_council_sync_seconds", "Time of one synced write of the council's journal");
}

#[derive(Clone)]
pub(crate) struct Meters {
    pub(crate) is_leader: Gauge,
    pub(crate) is_voter: Gauge,
    pub(crate) has_leader: Gauge,
    pub(crate) term: Gauge,
    pub(crate) members: Gauge,
    pub(crate) log_entries: Gauge,
    pub(crate) away_longest: Gauge,
    pub(crate) overdue: Gauge,
    pub(crate) retired: Counter,
    pub(crate) elections: Counter,
    pub(crate) leader_changes: Counter,
    applied_index: Gauge,
    installs: Counter,
    sync: Histogram,
}

impl Meters {
    pub(crate) fn new() -> Self {
        Self {
            is_leader: gauge!("isochrone_council_is_leader"),
            is_voter: gauge!("isochrone_council_is_voter"),
            has_leader: gauge!("isochrone_council_has_leader"),
            term: gauge!("isochrone_council_term"),
            members: gauge!("isochrone_council_members"),
            log_entries: gauge!("isochrone_council_log_entries"),
            away_longest: gauge!("isochrone_council_away_seconds_max"),
            overdue: gauge!("isochrone_council_members_overdue"),
            retired: counter!("isochrone_council_retired_total"),
            elections: counter!("isochrone_council_elections_total"),
            leader_changes: counter!("isochrone_council_leader_changes_total"),
            applied_index: gauge!("isochrone_council_applied_index"),
            installs: counter!("isochrone_council_snapshots_installed_total"),
            sync: histogram!("isochrone_council_sync_seconds"),
        }
    }

    pub(crate) fn synced(&self, took: Duration) {
        self.sync.record(took.as_secs_f64());
    }

    pub(crate) fn applied(&self, index: u64) {
        self.applied_index.set(index as f64);
    }

    pub(crate) fn installed(&self) {
        self.installs.increment(1);
    }

    /// `Ok` is a proposal that was applied.
    pub(crate) fn proposed(&self, outcome: Result<(), &ProposeError>) {
        let outcome = match outcome {
            Ok(()) => "applied",
            Err(ProposeError::Refused(_)) => "refused",
            Err(ProposeError::NoLeader) => "no_leader",
            Err(ProposeError::OutcomeUnknown) => "unknown",
            Err(ProposeError::Stopped) => "stopped",
        };
        counter!("isochrone_council_proposals_total", "outcome" => outcome).increment(1);
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        counter!("isochrone_council_messages_refused_total", "reason" => reason).increment(1);
    }

    pub(crate) fn epoch(&self, cause: &'static str) {
        counter!("isochrone_council_epochs_begun_total", "cause" => cause).increment(1);
    }
}
