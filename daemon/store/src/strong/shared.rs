//! What readers, writers and the committer share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use isochrone_ident::Slot;
use isochrone_quorum::Place;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::engine::Engine;
use super::gate::Gate;
use super::memory::Memory;
use super::meters::Meters;
use super::queue::Queue;
use super::tables::Snapshot;
use super::words::{OnSynced, StrongOptions, StrongStats, StrongTotals};
use crate::Medium;

pub(super) struct Shared {
    pub(super) gate: Gate,
    pub(super) memory: Memory,
    pub(super) queue: Queue,
    pub(super) meters: Meters,
    pub(super) options: StrongOptions,
    pub(super) on_synced: OnceLock<OnSynced>,
    pub(super) medium: Medium,
    /// Why nothing may be told any more.
    failure: OnceLock<String>,
    /// Whether the disk had no room for the last group.
    full: AtomicBool,
    /// Bytes stored, those not yet swept away included.
    stored_bytes: AtomicU64,
    sums: Mutex<(StrongStats, Vec<StrongTotals>)>,
    groups: AtomicU64,
    rows: AtomicU64,
    /// Becomes true when the committer has ended.
    pub(super) ended: watch::Sender<bool>,
}

impl Shared {
    pub(super) fn new(engine: &Engine, snapshot: Snapshot, options: StrongOptions) -> Self {
        let slots = engine.sums().slots.iter().map(|row| row.state).collect();
        let memory = Memory::new(options.copies_bytes_max(), options.seed, slots);
        let shared = Self {
            gate: Gate::new(snapshot),
            memory,
            queue: Queue::default(),
            meters: Meters::new(),
            options,
            on_synced: OnceLock::new(),
            medium: engine.medium().clone(),
            failure: OnceLock::new(),
            full: AtomicBool::new(false),
            stored_bytes: AtomicU64::new(0),
            sums: Mutex::default(),
            groups: AtomicU64::new(0),
            rows: AtomicU64::new(0),
            ended: watch::Sender::new(false),
        };
        shared.publish(engine);
        shared
    }

    /// Notes that the disk, or what is on it, has failed: from now on nothing is told, and whoever runs the daemon learns what to do.
    pub(super) fn fail(&self, detail: &str) {
        let reason = format!(
            "the strong store on {} has failed: {detail}. Nothing that rests on it is told any more, since promises could have been lost. \
             Replace this member: stop the daemon, check its disk, move its data directory aside and start it again, so that it joins as a new member \
             and is filled by the others",
            self.medium
        );
        if self.failure.set(reason.clone()).is_ok() {
            self.meters.failed.set(1.0);
            tracing::error!(reason, "the strong store has failed");
            (self.options.on_fatal)(reason);
        }
    }

    /// The store is being closed: nobody reads from it or is told anything any more, and that is no failure of the disk.
    pub(super) fn end(&self) {
        // An error says that it has failed, which says as much.
        let _ = self.failure.set("it was closed".to_owned());
    }

    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    pub(super) fn is_failed(&self) -> bool {
        self.failure.get().is_some()
    }

    /// Everything up to that place is synced.
    pub(super) fn tell(&self, through: Place) {
        if let Some(callback) = self.on_synced.get().filter(|_| !self.is_failed()) {
            callback(through);
        }
    }

    pub(super) fn count_group(&self, rows: usize) {
        self.groups.fetch_add(1, Ordering::Relaxed);
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
        self.meters.groups.increment(1);
        self.meters.rows.increment(rows as u64);
    }

    /// The disk has no room for what waits.
    pub(super) fn note_full(&self, detail: &str) {
        self.meters.refused_full.increment(1);
        if !self.full.swap(true, Ordering::Relaxed) {
            tracing::warn!(detail, "the strong store's disk is full: rows wait for room, reads go on");
            self.show();
        }
    }

    /// The disk had room.
    pub(super) fn note_room(&self) {
        if self.full.swap(false, Ordering::Relaxed) {
            tracing::info!("the strong store's disk has room again");
            self.show();
        }
    }

    /// Waits until then, or until the store is closed: tells whether it was.
    pub(super) async fn pause(&self, until: Instant) -> bool {
        timeout_at(until, self.queue.until_closed()).await.is_ok()
    }

    /// Takes note of what the last checkpoint left.
    pub(super) fn publish(&self, engine: &Engine) {
        let sums = engine.sums();
        let ledger = &sums.ledger;
        self.stored_bytes.store(ledger.bytes + ledger.stale_bytes, Ordering::Relaxed);
        let stats = StrongStats {
            keys: ledger.keys,
            dead: ledger.dead,
            bytes: ledger.bytes,
            stale_keys: ledger.stale_keys,
            stale_bytes: ledger.stale_bytes,
            syncs: engine.syncs(),
            ..StrongStats::default()
        };
        let mut shown = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        shown.0 = stats;
        shown.1.clone_from(&sums.totals);
        drop(shown);
        self.show();
    }

    /// Shows how full the store is.
    pub(super) fn show(&self) {
        self.meters.show(&self.stats());
    }

    pub(super) fn stats(&self) -> StrongStats {
        let stats = self.sums.lock().unwrap_or_else(PoisonError::into_inner).0;
        StrongStats {
            queue_rows: self.queue.rows(),
            queue_bytes: self.queue.bytes(),
            memory_bytes: self.memory.bytes(),
            fresh_bytes: self.memory.fresh_bytes(),
            syncs: stats.syncs + self.groups.load(Ordering::Relaxed),
            groups: self.groups.load(Ordering::Relaxed),
            rows: self.rows.load(Ordering::Relaxed),
            is_full: self.full.load(Ordering::Relaxed),
            ..stats
        }
    }

    pub(super) fn slot_totals(&self, slot: Slot) -> StrongTotals {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner).1[slot.index()]
    }

    /// Whether the queue's bounds and the disk let more rows in.
    pub(super) fn takes_rows(&self) -> bool {
        let options = &self.options;
        !self.full.load(Ordering::Relaxed)
            && self.queue.rows() < options.queue_rows_max as u64
            && self.queue.bytes() < options.queue_bytes_max
            && !self.is_failed()
    }

    /// Whether what is stored leaves room within the budget.
    pub(super) fn is_within_budget(&self) -> bool {
        self.stored_bytes.load(Ordering::Relaxed) + self.memory.fresh_bytes() + self.queue.bytes() < self.options.disk_bytes_max
    }
}
