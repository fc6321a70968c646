//! What the node counts, described once.

use metrics::{Unit, describe_counter, describe_gauge};

/// Describes the node's metrics to the recorder in force.
pub(crate) fn describe() {
    super::copies::describe();
    super::repair::describe();
    super::strong::describe();
    describe_gauge!("isochrone_build_info", "Always 1; the version is a label");
    describe_counter!("isochrone_node_refused_total", "Writes refused before anything was done, by reason");
    describe_counter!("isochrone_node_feed_sent_entries_total", "Records sent to replicas");
    describe_counter!("isochrone_node_feed_refused_total", "Batches from peers that were not taken, by reason; the peer keeps them");
    describe_counter!(
        "isochrone_node_feed_gaps_total",
        "Keys whose state was fetched because a write rested on what was missing here (rule E2)"
    );
    describe_counter!("isochrone_node_clock_alarms_total", "Records whose time was worth an alarm (rule E4)");
    describe_counter!(
        "isochrone_node_forgotten_total",
        "Tombstones, expired values and delivered copies that were forgotten (rules E7, E8)"
    );
    describe_counter!("isochrone_node_fill_bytes_total", Unit::Bytes, "Bytes fetched to become a replica");
    describe_gauge!("isochrone_node_peer_clock_ahead_seconds", Unit::Seconds, "How far ahead of our clock the last batch's time was");
    describe_gauge!("isochrone_node_log_backlog_operations", "Operations that some replica has not acknowledged");
    describe_gauge!("isochrone_node_peer_backlog_operations", "Operations that this peer has not acknowledged");
    describe_gauge!("isochrone_node_read_age_seconds", Unit::Seconds, "Upper bound of the staleness of a local read");
    describe_gauge!("isochrone_node_stable_lag_seconds", Unit::Seconds, "How far causal stability is behind the clock (rule E7)");
    describe_gauge!("isochrone_node_slots_waiting_to_move", "Slots that a move still has to fill; known at the council's leader");
}
