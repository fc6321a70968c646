//! What readers and the committer share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockWriteGuard};
use std::thread;
use std::time::Duration;

use arc_swap::{ArcSwapOption, Guard};
use isochrone_ident::{SLOTS, Slot};

use crate::digests::Digests;
use crate::engine::Engine;
use crate::memory::MemoryTier;
use crate::meters::Meters;
use crate::tables::Snapshot;
use crate::words::{SlotTotals, Stats};
use crate::{Observer, ReadError, WallClock};

/// How often, at most, the committer looks whether the last reader has left before it opens the disk again.
const READERS_CHECKS_MAX: u32 = 20_000;
const READERS_CHECK_EVERY: Duration = Duration::from_micros(100);

pub(crate) struct Shared {
    /// The tables as the last commit left them; `None` while the disk is opened again, and when it is closed.
    pub(crate) snapshot: ArcSwapOption<Snapshot>,
    /// Held by the committer while it opens the disk again; readers who find no snapshot wait for it.
    gate: RwLock<()>,
    pub(crate) memory: MemoryTier,
    pub(crate) digests: Digests,
    /// Told of every change, once there is somebody to tell.
    pub(crate) observer: OnceLock<Observer>,
    pub(crate) meters: Meters,
    pub(crate) wall: WallClock,
    /// The engine refuses to read since an error of the disk.
    pub(crate) reopen_wanted: AtomicBool,
    /// Up to where the log may be trimmed.
    pub(crate) trim_through: AtomicU64,
    pub(crate) queue_bytes: AtomicU64,
    stats: Mutex<Stats>,
    slots: Box<[(AtomicU64, AtomicU64)]>,
}

impl Shared {
    pub(crate) fn new(memory: MemoryTier, wall: WallClock) -> Self {
        Self {
            snapshot: ArcSwapOption::empty(),
            gate: RwLock::new(()),
            memory,
            digests: Digests::new(),
            observer: OnceLock::new(),
            meters: Meters::new(),
            wall,
            reopen_wanted: AtomicBool::new(false),
            trim_through: AtomicU64::new(0),
            queue_bytes: AtomicU64::new(0),
            stats: Mutex::default(),
            slots: (0..SLOTS).map(|_| (AtomicU64::new(0), AtomicU64::new(0))).collect(),
        }
    }

    /// The tables as the last commit left them.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Snapshot) -> Result<T, ReadError>) -> Result<T, ReadError> {
        let guard: Guard<Option<Arc<Snapshot>>> = self.snapshot.load();
        if let Some(snapshot) = guard.as_deref() {
            return read(snapshot);
        }
        drop(guard);
        drop(self.gate.read().unwrap_or_else(PoisonError::into_inner));
        let guard = self.snapshot.load();
        read(guard.as_deref().ok_or(ReadError::Closed)?)
    }

    /// Keeps readers out: takes the snapshot away and waits until nobody uses it, since the engine holds its file for as long as anybody reads.
    pub(crate) fn shut_gate(&self) -> RwLockWriteGuard<'_, ()> {
        let gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = self.snapshot.swap(None) {
            for _ in 0..READERS_CHECKS_MAX {
                if Arc::strong_count(&old) == 1 {
                    break;
                }
                thread::sleep(READERS_CHECK_EVERY);
            }
        }
        gate
    }

    /// Shows what the last commit left.
    pub(crate) fn publish(&self, engine: &Engine, changed: impl Iterator<Item = Slot>) {
        for slot in changed {
            let totals = engine.slot_totals(slot);
            let (keys, bytes) = &self.slots[slot.index()];
            keys.store(totals.keys, Ordering::Relaxed);
            bytes.store(totals.bytes, Ordering::Relaxed);
        }
        let stats = self.current(engine);
        self.meters.show(&stats, self.queue_bytes.load(Ordering::Relaxed));
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }

    fn current(&self, engine: &Engine) -> Stats {
        let ledger = engine.ledger();
        Stats {
            keys: ledger.keys,
            bytes: ledger.bytes,
            evictable_keys: ledger.evictable_keys,
            evictable_bytes: ledger.evictable_bytes,
            log_entries: ledger.log_entries,
            log_bytes: ledger.log_bytes,
            last_sequence: isochrone_replica::Sequence(ledger.last_sequence),
            answers: ledger.answers,
            answers_bytes: ledger.answers_bytes,
            memory_bytes: self.memory.bytes(),
            syncs: engine.syncs(),
            corrupt: 0,
            evicted: 0,
            refused_full: 0,
            rollbacks: engine.rollbacks(),
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        let stats = *self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        Stats {
            memory_bytes: self.memory.bytes(),
            corrupt: self.meters.corrupt.count(),
            evicted: self.meters.evicted.count(),
            refused_full: self.meters.refused_full.count(),
            ..stats
        }
    }

    pub(crate) fn slot_totals(&self, slot: Slot) -> SlotTotals {
        let (keys, bytes) = &self.slots[slot.index()];
        SlotTotals { keys: keys.load(Ordering::Relaxed), bytes: bytes.load(Ordering::Relaxed) }
    }
}
