//! What the quorum path counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use isochrone_edge::StrongOperations;
use isochrone_quorum::{Began, Failure, Outcome};
use metrics::{Counter, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, histogram};

use super::operate::Finished;

/// Handles, so that nothing is looked up for a request.
pub(crate) struct Meters {
    pub(crate) dropped_for_disk: Counter,
    dropped_messages: Counter,
    sent_messages: Counter,
    pub(crate) came_back: Counter,
    pub(crate) handed: Counter,
    acquired: Counter,
    not_acquired: Counter,
    ways: [Counter; 5],
    ends: [Counter; 3],
    trips: Counter,
    reads: Histogram,
    writes: Histogram,
    /// What `ways` and `ends` count, for the report: the recorder gives nothing back.
    tally: Tally,
}

#[derive(Debug, Default)]
struct Tally {
    ways: [AtomicU64; 5],
    ends: [AtomicU64; 3],
}

impl Meters {
    pub(crate) fn new() -> Self {
        let way = |way: &'static str| counter!("isochrone_strong_operations_total", "way" => way);
        let end = |end: &'static str| counter!("isochrone_strong_ended_total", "how" => end);
        Self {
            dropped_for_disk: counter!("isochrone_strong_dropped_total", "why" => "disk"),
            dropped_messages: counter!("isochrone_strong_dropped_total", "why" => "channel"),
            sent_messages: counter!("isochrone_strong_messages_total"),
            came_back: counter!("isochrone_strong_came_back_total"),
            handed: counter!("isochrone_strong_handed_total"),
            acquired: counter!("isochrone_strong_promises_total", "of" => "slot", "given" => "yes"),
            not_acquired: counter!("isochrone_strong_promises_total", "of" => "slot", "given" => "no"),
            ways: ["read", "prepare", "warm", "granted", "owner"].map(way),
            ends: ["done", "nothing_happened", "outcome_unknown"].map(end),
            trips: counter!("isochrone_strong_trips_total"),
            reads: histogram!("isochrone_strong_seconds", "op" => "read"),
            writes: histogram!("isochrone_strong_seconds", "op" => "write"),
            tally: Tally::default(),
        }
    }

    /// What this daemon's clients have asked for since its start.
    pub(super) fn operations(&self) -> StrongOperations {
        let [read, prepared, warm, granted, owner] = self.tally.ways.each_ref().map(|count| count.load(Ordering::Relaxed));
        let [_, nothing_happened, outcome_unknown] = self.tally.ends.each_ref().map(|count| count.load(Ordering::Relaxed));
        StrongOperations { read, prepared, warm, granted, owner, nothing_happened, outcome_unknown }
    }

    /// A message to a peer was put on its way, or dropped.
    pub(crate) fn sent(&self, is_sent: bool) {
        if is_sent { self.sent_messages.increment(1) } else { self.dropped_messages.increment(1) }
    }

    /// The slot's promise was given, or refused.
    pub(crate) fn acquired(&self, granted: bool) {
        if granted { self.acquired.increment(1) } else { self.not_acquired.increment(1) }
    }

    /// An operation of this daemon's clients has ended.
    pub(crate) fn ended(&self, finished: &Finished, took: Duration) {
        let way = match (finished.by, finished.course.began) {
            (Some(_), _) => Some(4),
            (None, Some(Began::Read)) => Some(0),
            (None, Some(Began::Prepared)) => Some(1),
            (None, Some(Began::Warm)) => Some(2),
            (None, Some(Began::Granted)) => Some(3),
            (None, None) => None,
        };
        if let Some(way) = way {
            self.ways[way].increment(1);
            self.tally.ways[way].fetch_add(1, Ordering::Relaxed);
        }
        self.trips.increment(u64::from(finished.course.trips));
        let end = match finished.result {
            Ok(_) => 0,
            Err(Failure::NothingHappened(_)) => 1,
            Err(Failure::OutcomeUnknown) => 2,
        };
        self.ends[end].increment(1);
        self.tally.ends[end].fetch_add(1, Ordering::Relaxed);
        match finished.result {
            Ok(Outcome::Read(_)) => self.reads.record(took.as_secs_f64()),
            _ => self.writes.record(took.as_secs_f64()),
        }
    }
}

/// Describes them to the recorder in force.
pub(crate) fn describe() {
    describe_counter!(
        "isochrone_strong_operations_total",
        "Reads and writes in strong namespaces, by way: read, prepare (two round trips), warm and granted (one), or at the slot's owner"
    );
    describe_counter!("isochrone_strong_ended_total", "How they ended: done, 503 nothing happened, 504 outcome unknown");
    describe_counter!("isochrone_strong_trips_total", "Round trips to quorums that they took");
    describe_counter!("isochrone_strong_handed_total", "Writes that other daemons handed to this one");
    describe_counter!("isochrone_strong_came_back_total", "Writes that were handed to another daemon and went on here");
    describe_counter!("isochrone_strong_promises_total", "Slots whose promise was asked for (rule Q18), by whether it was given");
    describe_counter!("isochrone_strong_messages_total", "Requests and answers sent to other daemons");
    describe_counter!(
        "isochrone_strong_dropped_total",
        "Messages dropped, to be asked again: disk, no room in the strong store; channel, no connection or its queue is full"
    );
    describe_counter!("isochrone_strong_forgotten_total", "Dead keys that every replica has forgotten (rule Q16)");
    describe_gauge!(
        "isochrone_strong_forgetting_waits",
        "1 where dead keys could not be forgotten within the last minute because this replica did not answer"
    );
    describe_gauge!("isochrone_strong_slots_moving", "Slots between two replica sets (rule Q14); known at the council's leader");
    describe_gauge!("isochrone_strong_keys_to_certify", "Keys that moves have listed and not certified yet; known at the council's leader");
    describe_histogram!("isochrone_strong_seconds", Unit::Seconds, "Time that reads and writes in strong namespaces took");
}
