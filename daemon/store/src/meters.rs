//! What an operator sees of a store.

use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::Stats;

/// Describes this room's metrics to the recorder that is installed.
pub fn describe() {
    describe_gauge!("isochrone_store_keys", "Records held, tombstones included");
    describe_gauge!("isochrone_store_bytes", Unit::Bytes, "Bytes of all records, by the store's own count");
    describe_gauge!("isochrone_store_evictable_bytes", Unit::Bytes, "Bytes of the records that may be evicted");
    describe_gauge!("isochrone_store_log_entries", "Operations in the log, not yet confirmed by every replica");
    describe_gauge!("isochrone_store_log_bytes", Unit::Bytes, "Bytes of the operation log");
    describe_gauge!("isochrone_store_answers", "Answers kept for repeated requests");
    describe_gauge!("isochrone_store_memory_bytes", Unit::Bytes, "Bytes in the memory tier, as counted against its budget");
    describe_gauge!("isochrone_store_queue_bytes", Unit::Bytes, "Bytes waiting for the committer");
    describe_histogram!("isochrone_store_commit_seconds", Unit::Seconds, "Time of one group commit, its sync included");
    describe_histogram!("isochrone_store_batch_size", "Write sets in one group commit");
    describe_counter!("isochrone_store_syncs_total", "Syncs of the disk");
    describe_counter!("isochrone_store_memory_hits_total", "Reads answered from the memory tier");
    describe_counter!("isochrone_store_memory_misses_total", "Reads that went to the durable tier");
    describe_counter!("isochrone_store_evicted_total", "Evictable records dropped to keep their budget");
    describe_counter!("isochrone_store_refused_full_total", "Write sets refused for want of room");
    describe_counter!("isochrone_store_refused_busy_total", "Write sets refused because too much was waiting");
    describe_counter!("isochrone_store_corrupt_total", "Stored values found to fail their checksum");
    describe_counter!("isochrone_store_conflicts_total", "Records refused because they claim a version that has another value");
    describe_counter!("isochrone_store_reopened_total", "Times the disk was opened again after an error");
    crate::strong::describe();
}

/// A counter that can also be read back.
pub(crate) struct Tally {
    count: AtomicU64,
    counter: Counter,
}

impl Tally {
    fn new(counter: Counter) -> Self {
        Self { count: AtomicU64::new(0), counter }
    }

    pub(crate) fn add(&self, count: u64) {
        if count > 0 {
            self.count.fetch_add(count, Ordering::Relaxed);
            self.counter.increment(count);
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// The handles, made once.
pub(crate) struct Meters {
    pub(crate) hits: Counter,
    pub(crate) misses: Counter,
    pub(crate) evicted: Tally,
    pub(crate) refused_full: Tally,
    pub(crate) refused_busy: Counter,
    pub(crate) corrupt: Tally,
    pub(crate) conflicts: Counter,
    pub(crate) reopened: Counter,
    pub(crate) commit_seconds: Histogram,
    pub(crate) batch_size: Histogram,
    syncs: Counter,
    keys: Gauge,
    bytes: Gauge,
    evictable_bytes: Gauge,
    log_entries: Gauge,
    log_bytes: Gauge,
    answers: Gauge,
    memory_bytes: Gauge,
    queue_bytes: Gauge,
}

impl Meters {
    pub(crate) fn new() -> Self {
        Self {
            hits: counter!("isochrone_store_memory_hits_total"),
            misses: counter!("isochrone_store_memory_misses_total"),
            evicted: Tally::new(counter!("isochrone_store_evicted_total")),
            refused_full: Tally::new(counter!("isochrone_store_refused_full_total")),
            refused_busy: counter!("isochrone_store_refused_busy_total"),
            corrupt: Tally::new(counter!("isochrone_store_corrupt_total")),
            conflicts: counter!("isochrone_store_conflicts_total"),
            reopened: counter!("isochrone_store_reopened_total"),
            commit_seconds: histogram!("isochrone_store_commit_seconds"),
            batch_size: histogram!("isochrone_store_batch_size"),
            syncs: counter!("isochrone_store_syncs_total"),
            keys: gauge!("isochrone_store_keys"),
            bytes: gauge!("isochrone_store_bytes"),
            evictable_bytes: gauge!("isochrone_store_evictable_bytes"),
            log_entries: gauge!("isochrone_store_log_entries"),
            log_bytes: gauge!("isochrone_store_log_bytes"),
            answers: gauge!("isochrone_store_answers"),
            memory_bytes: gauge!("isochrone_store_memory_bytes"),
            queue_bytes: gauge!("isochrone_store_queue_bytes"),
        }
    }

    /// Shows how full the store is.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    pub(crate) fn show(&self, stats: &Stats, queue_bytes: u64) {
        self.keys.set(stats.keys as f64);
        self.bytes.set(stats.bytes as f64);
        self.evictable_bytes.set(stats.evictable_bytes as f64);
        self.log_entries.set(stats.log_entries as f64);
        self.log_bytes.set(stats.log_bytes as f64);
        self.answers.set(stats.answers as f64);
        self.memory_bytes.set(stats.memory_bytes as f64);
        self.queue_bytes.set(queue_bytes as f64);
        self.syncs.absolute(stats.syncs);
    }
}
