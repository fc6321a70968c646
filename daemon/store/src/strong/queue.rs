//! What waits for the disk.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use isochrone_quorum::{Place, Row};
use tokio::sync::Notify;

use super::memory::state_bytes;

/// Bytes of a row that holds no key.
const ROW_BYTES: usize = 64;

/// Rows that share a commit.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) rows: Vec<Row>,
    /// The highest place in it.
    pub(super) through: Place,
    pub(super) bytes: u64,
}

#[derive(Default)]
struct Waiting {
    writes: VecDeque<(Place, Vec<Row>, u64)>,
    /// The last place that was given.
    last: Place,
    closed: bool,
}

/// The queue of one store. Its counts include the group under way.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    rows: AtomicU64,
    bytes: AtomicU64,
    wake: Notify,
    closing: Notify,
}

impl Queue {
    /// Puts rows at the end. Tells whether their place follows on the last; otherwise they are not taken.
    pub(super) fn push(&self, place: Place, rows: Vec<Row>) -> bool {
        let bytes = rows.iter().map(row_bytes).sum::<usize>() as u64;
        let mut waiting = self.lock();
        if place <= waiting.last {
            return false;
        }
        waiting.last = place;
        self.rows.fetch_add(rows.len() as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        waiting.writes.push_back((place, rows, bytes));
        drop(waiting);
        self.wake.notify_one();
        true
    }

    /// The rows at the front, as many as a group takes; what was given at one place stays together.
    pub(super) fn take(&self, rows_max: usize, bytes_max: u64) -> Option<Group> {
        let mut waiting = self.lock();
        let (through, rows, bytes) = waiting.writes.pop_front()?;
        let mut group = Group { rows, through, bytes };
        while group.rows.len() < rows_max
            && group.bytes < bytes_max
            && let Some((place, rows, bytes)) = waiting.writes.pop_front()
        {
            group.rows.extend(rows);
            group.through = place;
            group.bytes += bytes;
        }
        Some(group)
    }

    /// A group has left the queue for good.
    pub(super) fn done(&self, group: &Group) {
        self.rows.fetch_sub(group.rows.len() as u64, Ordering::Relaxed);
        self.bytes.fetch_sub(group.bytes, Ordering::Relaxed);
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Nothing more comes: what waits is committed, and then the committer ends.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
        self.closing.notify_one();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Drops what waits.
    pub(super) fn clear(&self) {
        self.lock().writes.clear();
    }

    /// Returns when something has come or the queue was closed since the last look.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Returns when the queue is closed.
    pub(super) async fn until_closed(&self) {
        while !self.is_closed() {
            self.closing.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn row_bytes(row: &Row) -> usize {
    match row {
        Row::Key(_, name, state) => state_bytes(name, state),
        Row::Erase(_, name) => ROW_BYTES + name.key.as_bytes().len(),
        Row::Slot(..) | Row::Wipe(_) => ROW_BYTES,
    }
}
