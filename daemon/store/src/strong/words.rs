//! What a strong store is told at its start, and what it tells.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use isochrone_ident::{Key, Slot, WallMicros};
use isochrone_quorum::{Ballot, KeyName, Place, Revision};

use crate::{Driver, OnFatal, OpenError};

/// Told after every group that was synced, with the highest place in it. The committer waits for it: it should do no more than pass on what was held
/// back. It should not keep the store alive, or the two never go.
pub type OnSynced = Arc<dyn Fn(Place) + Send + Sync>;

/// Everything a strong store is told at its start.
#[derive(Clone)]
pub struct StrongOptions {
    /// Bytes of disk for everything stored, by the store's own count; the file takes up to twice as much, because pages are copied on write. Beyond it
    /// [`StrongStore::has_room`](crate::StrongStore::has_room) says no.
    pub disk_bytes_max: u64,
    /// Bytes of memory: a quarter each for copies of states, for states that are in the log alone, for those on their way into the tables, and for the tables' pages.
    pub memory_bytes_max: u64,
    /// Most rows that wait for the disk, those under way included.
    pub queue_rows_max: usize,
    /// Most bytes that wait for the disk, those under way included.
    pub queue_bytes_max: u64,
    /// A group takes no further rows once it has this many. Rows that were given together are never parted.
    pub group_rows_max: usize,
    /// A group takes no further rows once it has this many bytes.
    pub group_bytes_max: u64,
    /// Bytes of the log after which the tables are brought up with it; 16 MiB at most are used.
    pub round_bytes_max: u64,
    /// How long, at most, rows are in the log alone.
    pub settle_interval: Duration,
    /// After the disk was full, how long until the group that waits is tried again.
    pub full_retry: Duration,
    /// Seed of the hash of keys in memory, and of what tells rounds of the log apart: nobody outside should know it.
    pub seed: u64,
    /// What runs the committer.
    pub driver: Driver,
    /// Told when the store has failed, in words that say what to do.
    pub on_fatal: OnFatal,
}

impl StrongOptions {
    /// Bounds for a small machine: 8 GiB of disk, 64 MiB of memory, 16,384 rows and 64 MiB that wait.
    #[must_use]
    pub fn new(driver: Driver, on_fatal: OnFatal) -> Self {
        Self {
            disk_bytes_max: 8 << 30,
            memory_bytes_max: 64 << 20,
            queue_rows_max: 16_384,
            queue_bytes_max: 64 << 20,
            group_rows_max: 1024,
            group_bytes_max: 8 << 20,
            round_bytes_max: 12 << 20,
            settle_interval: Duration::from_secs(5),
            full_retry: Duration::from_secs(1),
            seed: 0,
            driver,
            on_fatal,
        }
    }

    /// Checks that the options hold together.
    pub(super) fn check(&self) -> Result<(), OpenError> {
        let rules = [
            (self.disk_bytes_max > 0, "disk_bytes_max must be above zero"),
            (self.queue_rows_max > 0, "queue_rows_max must be at least 1"),
            (self.queue_bytes_max > 0, "queue_bytes_max must be at least 1"),
            (self.group_rows_max > 0, "group_rows_max must be at least 1"),
        ];
        rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, rule)| Err(OpenError::Options(rule)))
    }

    /// Bytes for copies of states.
    pub(super) const fn copies_bytes_max(&self) -> u64 {
        self.memory_bytes_max / 4
    }

    /// Bytes for states that are in the log alone.
    pub(super) const fn fresh_bytes_max(&self) -> u64 {
        self.memory_bytes_max / 4
    }

    /// Bytes of the tables' page cache; never so few that a group could not be held.
    pub(super) fn page_cache_bytes(&self) -> usize {
        usize::try_from(self.memory_bytes_max / 4).unwrap_or(usize::MAX).max(4 << 20)
    }
}

impl fmt::Debug for StrongOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StrongOptions")
            .field("disk_bytes_max", &self.disk_bytes_max)
            .field("memory_bytes_max", &self.memory_bytes_max)
            .field("queue_rows_max", &self.queue_rows_max)
            .field("queue_bytes_max", &self.queue_bytes_max)
            .field("driver", &self.driver)
            .finish_non_exhaustive()
    }
}

/// A key of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StrongListed {
    /// The key, with its namespace.
    pub name: KeyName,
    /// Where it lies.
    pub slot: Slot,
    /// The ballot that was accepted; [`Ballot::NONE`] when only a promise was made.
    pub ballot: Ballot,
    /// The revision of what was accepted; 0 when nothing was.
    pub revision: Revision,
    /// Whether what was accepted is a value rather than a tombstone. Expired values are values still.
    pub is_live: bool,
    /// Bytes of the value.
    pub bytes: u64,
    /// When it expires.
    pub expires: Option<WallMicros>,
}

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StrongListing {
    /// In the order of keys; those without a value included.
    pub items: Vec<StrongListed>,
    /// Where the next page begins after; `None` when this was the last.
    pub next: Option<Key>,
}

/// A key whose value expires. They order by when.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expiring {
    /// When.
    pub at: WallMicros,
    /// Where it lies.
    pub slot: Slot,
    /// The key.
    pub name: KeyName,
}

/// What a slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StrongTotals {
    /// Keys of which anything is held.
    pub keys: u64,
    /// Bytes that they take up, by the store's own count.
    pub bytes: u64,
    /// Of these keys, those without a value: tombstones, and keys of which only a promise was made.
    pub dead: u64,
}

/// How full a strong store is, and what it has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StrongStats {
    /// Keys of which anything is held.
    pub keys: u64,
    /// Of these, those without a value.
    pub dead: u64,
    /// Bytes that they take up, by the store's own count.
    pub bytes: u64,
    /// Keys of slots that were wiped, not yet taken off the disk.
    pub stale_keys: u64,
    /// Bytes that those take up.
    pub stale_bytes: u64,
    /// Rows that wait for the disk.
    pub queue_rows: u64,
    /// Bytes that wait for the disk.
    pub queue_bytes: u64,
    /// Bytes of states that are in the log and not yet in the tables; keys and bytes above are told without them.
    pub fresh_bytes: u64,
    /// Bytes of states in memory.
    pub memory_bytes: u64,
    /// Syncs of the disk since the start.
    pub syncs: u64,
    /// Groups synced since the start.
    pub groups: u64,
    /// Rows synced since the start.
    pub rows: u64,
    /// Whether the disk is full, and rows wait for it to have room again.
    pub is_full: bool,
}
