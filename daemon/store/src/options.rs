//! Budgets, bounds and the surroundings of a store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use isochrone_ident::WallMicros;
use isochrone_replica::DigestKey;

use crate::{Changed, OpenError};

/// Reads the wall clock.
pub type WallClock = Arc<dyn Fn() -> WallMicros + Send + Sync>;

/// Told once, in words, when the disk has failed.
pub type OnFatal = Arc<dyn Fn(String) + Send + Sync>;

/// Told of what a commit has changed, right after it has become visible and before it is answered. The committer waits for it: it should do no more than
/// pass on what it needs. One key may be there several times, in order.
pub type Observer = Arc<dyn Fn(&[Changed]) + Send + Sync>;

/// What runs the committer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// An operating-system thread of its own, which blocks in the disk's sync.
    Thread,
    /// A task of the current tokio runtime, which does the disk's work inline and then sleeps as long as a sync is to take: for simulation, in
    /// virtual time, on a [`crate::SimDisk`].
    Task {
        /// How long a sync takes.
        sync_latency: Duration,
    },
}

/// Everything a store is told at its start.
#[derive(Clone)]
pub struct StoreOptions {
    /// Bytes of disk for everything stored, by the store's own count; the file takes up to twice as much, because pages are copied on write. Writes of
    /// durable data beyond it are refused (E11).
    pub disk_bytes_max: u64,
    /// Of these, bytes set apart for evictable namespaces; beyond it their oldest records are dropped. Below `disk_bytes_max`.
    pub evictable_bytes_max: u64,
    /// Bytes of memory: half for the memory tier (copies of records), half for the durable tier's pages.
    pub memory_bytes_max: u64,
    /// Most write sets in one group commit.
    pub batch_max: usize,
    /// A group commit takes no further write set once it has this many bytes.
    pub batch_bytes_max: u64,
    /// Most write sets waiting; beyond it [`crate::WriteError::Busy`].
    pub queue_max: usize,
    /// Most bytes waiting; beyond it [`crate::WriteError::Busy`]. A write set alone in the queue is always let in.
    pub queue_bytes_max: u64,
    /// Most answers kept for repeated requests; beyond it the ones that would expire first are dropped.
    pub answers_max: u64,
    /// The longest time that a relaxed write stays unsynced.
    pub sync_interval: Duration,
    /// After the disk itself was full, how long writes are refused before the next try.
    pub full_retry: Duration,
    /// Seed of the memory tier's hash.
    pub seed: u64,
    /// The key of the slots' digests, the same on all daemons of a cluster (E6); without one no digests are kept.
    pub digest_key: Option<DigestKey>,
    /// What runs the committer.
    pub driver: Driver,
    /// The wall clock, for answers that expire.
    pub wall: WallClock,
    /// Told when the disk has failed.
    pub on_fatal: OnFatal,
}

impl StoreOptions {
    /// Bounds for a small machine: 8 GiB of disk, a quarter of it evictable, 256 MiB of memory, batches of 256.
    #[must_use]
    pub fn new(driver: Driver, wall: WallClock, on_fatal: OnFatal) -> Self {
        Self {
            disk_bytes_max: 8 << 30,
            evictable_bytes_max: 2 << 30,
            memory_bytes_max: 256 << 20,
            batch_max: 256,
            batch_bytes_max: 16 << 20,
            queue_max: 4096,
            queue_bytes_max: 128 << 20,
            answers_max: 100_000,
            sync_interval: Duration::from_millis(50),
            full_retry: Duration::from_secs(1),
            seed: 0,
            digest_key: None,
            driver,
            wall,
            on_fatal,
        }
    }

    /// Checks that the options hold together.
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let rules = [
            (self.evictable_bytes_max < self.disk_bytes_max, "evictable_bytes_max must be below disk_bytes_max"),
            (self.batch_max > 0, "batch_max must be at least 1"),
            (self.queue_max > 0, "queue_max must be at least 1"),
            (!self.sync_interval.is_zero(), "sync_interval must be above zero"),
        ];
        rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, rule)| Err(OpenError::Options(rule)))
    }

    /// Bytes for durable data: what is not set apart for evictable data.
    pub(crate) const fn durable_bytes_max(&self) -> u64 {
        self.disk_bytes_max.saturating_sub(self.evictable_bytes_max)
    }

    /// Bytes of the memory tier.
    pub(crate) const fn tier_bytes_max(&self) -> u64 {
        self.memory_bytes_max / 2
    }

    /// Bytes of the durable tier's page cache; never so few that a commit could not be held.
    pub(crate) fn page_cache_bytes(&self) -> usize {
        usize::try_from(self.memory_bytes_max / 2).unwrap_or(usize::MAX).max(4 << 20)
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions")
            .field("disk_bytes_max", &self.disk_bytes_max)
            .field("evictable_bytes_max", &self.evictable_bytes_max)
            .field("memory_bytes_max", &self.memory_bytes_max)
            .field("batch_max", &self.batch_max)
            .field("queue_max", &self.queue_max)
            .field("driver", &self.driver)
            .finish_non_exhaustive()
    }
}
