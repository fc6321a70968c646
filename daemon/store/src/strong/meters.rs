//! What an operator sees of a strong store.

use metrics::{Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use super::words::StrongStats;

/// Describes the metrics to the recorder that is installed.
pub(crate) fn describe() {
    describe_gauge!("isochrone_strong_store_keys", "Keys of the strong store of which anything is held");
    describe_gauge!("isochrone_strong_store_dead_keys", "Of these, tombstones and keys with a promise only");
    describe_gauge!("isochrone_strong_store_bytes", Unit::Bytes, "Bytes that they take up, by the store's own count");
    describe_gauge!("isochrone_strong_store_stale_bytes", Unit::Bytes, "Bytes of wiped slots that are not yet swept away");
    describe_gauge!("isochrone_strong_store_fresh_bytes", Unit::Bytes, "Bytes of states that are in the log and not yet in the tables");
    describe_gauge!("isochrone_strong_store_memory_bytes", Unit::Bytes, "Bytes of states kept in memory, as counted against their budget");
    describe_gauge!("isochrone_strong_store_queue_rows", "Rows that wait for the disk");
    describe_gauge!("isochrone_strong_store_queue_bytes", Unit::Bytes, "Bytes that wait for the disk");
    describe_gauge!("isochrone_strong_store_full", "1 while the disk is full and rows wait for it to have room again");
    describe_gauge!("isochrone_strong_store_failed", "1 once the disk has failed and this member must be replaced");
    describe_histogram!("isochrone_strong_store_group_seconds", Unit::Seconds, "Time of one group, its sync included");
    describe_histogram!("isochrone_strong_store_group_rows", "Rows of one group");
    describe_histogram!("isochrone_strong_store_settle_seconds", Unit::Seconds, "Time to bring the tables up with a round of the log");
    describe_histogram!("isochrone_strong_store_settle_rows", "Rows that the tables took over from a round of the log");
    describe_counter!("isochrone_strong_store_rows_total", "Rows synced");
    describe_counter!("isochrone_strong_store_groups_total", "Groups synced, each once");
    describe_counter!("isochrone_strong_store_memory_hits_total", "States of keys found in memory");
    describe_counter!("isochrone_strong_store_memory_misses_total", "States of keys looked up in the tables");
    describe_counter!("isochrone_strong_store_full_total", "Tries of a group for which the disk had no room");
}

/// The handles, made once.
pub(super) struct Meters {
    pub(super) hits: Counter,
    pub(super) misses: Counter,
    pub(super) refused_full: Counter,
    pub(super) group_seconds: Histogram,
    pub(super) group_rows: Histogram,
    pub(super) settle_seconds: Histogram,
    pub(super) settle_rows: Histogram,
    pub(super) rows: Counter,
    pub(super) groups: Counter,
    pub(super) failed: Gauge,
    keys: Gauge,
    dead: Gauge,
    bytes: Gauge,
    stale_bytes: Gauge,
    fresh_bytes: Gauge,
    memory_bytes: Gauge,
    queue_rows: Gauge,
    queue_bytes: Gauge,
    full: Gauge,
}

impl Meters {
    pub(super) fn new() -> Self {
        Self {
            hits: counter!("isochrone_strong_store_memory_hits_total"),
            misses: counter!("isochrone_strong_store_memory_misses_total"),
            refused_full: counter!("isochrone_strong_store_full_total"),
            group_seconds: histogram!("isochrone_strong_store_group_seconds"),
            group_rows: histogram!("isochrone_strong_store_group_rows"),
            settle_seconds: histogram!("isochrone_strong_store_settle_seconds"),
            settle_rows: histogram!("isochrone_strong_store_settle_rows"),
            rows: counter!("isochrone_strong_store_rows_total"),
            groups: counter!("isochrone_strong_store_groups_total"),
            failed: gauge!("isochrone_strong_store_failed"),
            keys: gauge!("isochrone_strong_store_keys"),
            dead: gauge!("isochrone_strong_store_dead_keys"),
            bytes: gauge!("isochrone_strong_store_bytes"),
            stale_bytes: gauge!("isochrone_strong_store_stale_bytes"),
            fresh_bytes: gauge!("isochrone_strong_store_fresh_bytes"),
            memory_bytes: gauge!("isochrone_strong_store_memory_bytes"),
            queue_rows: gauge!("isochrone_strong_store_queue_rows"),
            queue_bytes: gauge!("isochrone_strong_store_queue_bytes"),
            full: gauge!("isochrone_strong_store_full"),
        }
    }

    /// Shows how full the store is.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    pub(super) fn show(&self, stats: &StrongStats) {
        self.keys.set(stats.keys as f64);
        self.dead.set(stats.dead as f64);
        self.bytes.set(stats.bytes as f64);
        self.stale_bytes.set(stats.stale_bytes as f64);
        self.fresh_bytes.set(stats.fresh_bytes as f64);
        self.memory_bytes.set(stats.memory_bytes as f64);
        self.queue_rows.set(stats.queue_rows as f64);
        self.queue_bytes.set(stats.queue_bytes as f64);
        self.full.set(if stats.is_full { 1.0 } else { 0.0 });
    }
}
