//! The metrics of the mesh.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Counter, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::{CallError, Liveness, ServiceId};

const MEMBERS: &str = "isochrone_gossip_members";
const CONNECTIONS: &str = "isochrone_gossip_connections";
const HANDSHAKES: &str = "isochrone_gossip_handshakes_total";
const REFUSED: &str = "isochrone_gossip_refused_total";
const CALLS: &str = "isochrone_gossip_calls_total";
const CALL_SECONDS: &str = "isochrone_gossip_call_seconds";
const SERVED: &str = "isochrone_gossip_served_total";
const BYTES: &str = "isochrone_gossip_udp_bytes_total";
const DATAGRAMS: &str = "isochrone_gossip_datagrams_total";
const BUDGET: &str = "isochrone_gossip_retry_budget_exhausted_total";
const RETRIES: &str = "isochrone_gossip_retries_total";
const CLOCK_OFFSET: &str = "isochrone_gossip_clock_offset_seconds";
const ROUND_TRIP: &str = "isochrone_gossip_round_trip_seconds";
const EXPIRY: &str = "isochrone_gossip_certificate_expiry_timestamp_seconds";
const RELOADS: &str = "isochrone_gossip_certificate_reloads_total";
const EMULATION: &str = "isochrone_gossip_emulation_dropped_total";

/// Describes the metrics to the recorder that is installed.
pub fn describe() {
    crate::peers::notice::describe();
    describe_gauge!(MEMBERS, "Other members of the cluster, by liveness.");
    describe_gauge!(CONNECTIONS, "Open connections to peers, by traffic class.");
    describe_counter!(HANDSHAKES, "Connections that were greeted, by the side that dialed.");
    describe_counter!(REFUSED, "Connections, streams and datagrams of peers that were refused, by reason.");
    describe_counter!(CALLS, "Calls to peers, by service and outcome.");
    describe_histogram!(CALL_SECONDS, "Time to the answer of a call, by service.");
    describe_counter!(SERVED, "Calls and channels of peers, by what became of them.");
    describe_counter!(BYTES, "Bytes in UDP datagrams to and from peers, by direction.");
    describe_counter!(DATAGRAMS, "QUIC datagrams, by what became of them.");
    describe_counter!(BUDGET, "Retries that were not made because the budget was spent.");
    describe_counter!(RETRIES, "Retries that were made.");
    describe_gauge!(CLOCK_OFFSET, "How far a peer's wall clock is ahead of ours.");
    describe_gauge!(ROUND_TRIP, "The round trip to a peer, least of a window.");
    describe_gauge!(EXPIRY, "When our certificate ends, in seconds since 1970.");
    describe_counter!(RELOADS, "Reloads of certificates, by outcome.");
    describe_counter!(EMULATION, "Packets dropped by emulated links, by reason.");
}

pub(crate) fn members(liveness: Liveness, count: usize) {
    gauge!(MEMBERS, "liveness" => liveness.as_str()).set(count as f64);
}

pub(crate) fn connections(foreground: usize, bulk: usize) {
    gauge!(CONNECTIONS, "traffic" => "foreground").set(foreground as f64);
    gauge!(CONNECTIONS, "traffic" => "bulk").set(bulk as f64);
}

pub(crate) fn greeted(dialed: bool) {
    counter!(HANDSHAKES, "dialed_by" => if dialed { "us" } else { "peer" }).increment(1);
}

pub(crate) fn refused(reason: &'static str) {
    counter!(REFUSED, "reason" => reason).increment(1);
}

pub(crate) fn served(outcome: &'static str) {
    counter!(SERVED, "outcome" => outcome).increment(1);
}

pub(crate) fn datagram(outcome: &'static str) {
    counter!(DATAGRAMS, "outcome" => outcome).increment(1);
}

pub(crate) fn bytes([sent, received]: [u64; 2]) {
    counter!(BYTES, "direction" => "sent").increment(sent);
    counter!(BYTES, "direction" => "received").increment(received);
}

pub(crate) fn retry(allowed: bool) {
    counter!(if allowed { RETRIES } else { BUDGET }).increment(1);
}

pub(crate) fn clock_offset(peer: &str, offset_ms: i64) {
    gauge!(CLOCK_OFFSET, "peer" => peer.to_owned()).set(offset_ms as f64 / 1000.0);
}

pub(crate) fn round_trip(peer: &str, round_trip: Duration) {
    gauge!(ROUND_TRIP, "peer" => peer.to_owned()).set(round_trip.as_secs_f64());
}

pub(crate) fn certificate(expires_at: i64) {
    gauge!(EXPIRY).set(expires_at as f64);
}

pub(crate) fn reload(outcome: &'static str) {
    counter!(RELOADS, "outcome" => outcome).increment(1);
}

pub(crate) fn dropped_by_emulation(reason: &'static str) {
    counter!(EMULATION, "reason" => reason).increment(1);
}

/// Handles for the calls of one service, made at its first call.
struct CallHandles {
    answered: Counter,
    seconds: Histogram,
}

/// Metrics of calls by service, without a search by name on the way.
pub(crate) struct CallMetrics(Box<[OnceLock<CallHandles>]>);

impl CallMetrics {
    pub(crate) fn new() -> Self {
        Self((0..=u8::MAX).map(|_| OnceLock::new()).collect())
    }

    fn of(&self, service: ServiceId) -> &CallHandles {
        self.0[usize::from(service.0)].get_or_init(|| CallHandles {
            answered: counter!(CALLS, "service" => service.0.to_string(), "outcome" => "answered"),
            seconds: histogram!(CALL_SECONDS, "service" => service.0.to_string()),
        })
    }

    pub(crate) fn answered(&self, service: ServiceId, took: Duration) {
        let handles = self.of(service);
        handles.answered.increment(1);
        handles.seconds.record(took.as_secs_f64());
    }

    pub(crate) fn failed(&self, service: ServiceId, error: &CallError) {
        counter!(CALLS, "service" => service.0.to_string(), "outcome" => error.as_str()).increment(1);
    }
}
