//! The way readers reach the tables, and how they are kept out while the disk is opened again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwapOption;

use super::tables::Snapshot;

/// How often, at most, the committer looks whether the last reader has left before it opens the disk again.
const READERS_CHECKS_MAX: u32 = 20_000;
const READERS_CHECK_EVERY: Duration = Duration::from_micros(100);

/// Why the tables were not read.
#[derive(Debug)]
pub(super) enum Unread {
    /// The store was closed, or the disk could not be opened again.
    Closed,
    /// The disk, or the engine, refused.
    Disk(String),
    /// What is stored does not read back.
    Corrupt(String),
}

impl<E: Into<redb::Error>> From<E> for Unread {
    fn from(error: E) -> Self {
        Self::Disk(error.into().to_string())
    }
}

/// The tables as the last commit left them, behind a gate.
pub(super) struct Gate {
    /// `None` while the disk is opened again, and when it is closed.
    snapshot: ArcSwapOption<Snapshot>,
    /// Held by the committer for as long as it works on the disk.
    turn: Mutex<()>,
}

impl Gate {
    pub(super) fn new(snapshot: Snapshot) -> Self {
        Self { snapshot: ArcSwapOption::from_pointee(snapshot), turn: Mutex::new(()) }
    }

    /// Reads what the last commit left. After an error of the disk the engine refuses every read until the committer, which had it, has opened the disk again: so whoever
    /// meets one waits for the committer's turn to end and tries once more.
    pub(super) fn read<T>(&self, read: impl Fn(&Snapshot) -> Result<T, Unread>) -> Result<T, Unread> {
        let first = self.snapshot.load().as_deref().map(&read);
        match first {
            Some(Ok(found)) => return Ok(found),
            Some(Err(Unread::Corrupt(detail))) => return Err(Unread::Corrupt(detail)),
            Some(Err(_)) | None => drop(self.turn()),
        }
        self.snapshot.load().as_deref().map_or(Err(Unread::Closed), read)
    }

    /// The committer's turn begins: until it ends, readers who meet an error wait.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows a commit.
    pub(super) fn show(&self, snapshot: Snapshot) {
        self.snapshot.store(Some(Arc::new(snapshot)));
    }

    /// Takes the tables away and waits until nobody uses them, since the engine holds its file for as long as anybody reads.
    pub(super) fn shut(&self) {
        let Some(old) = self.snapshot.swap(None) else { return };
        for _ in 0..READERS_CHECKS_MAX {
            if Arc::strong_count(&old) == 1 {
                return;
            }
            thread::sleep(READERS_CHECK_EVERY);
        }
    }
}
