//! What a store lies on, and what that has suffered.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use redb::backends::FileBackend;
use redb::{BackendError, Builder, Database, DatabaseError, StorageBackend, StorageError};

use crate::{OpenError, SimDisk};

/// What a store lies on.
#[derive(Debug, Clone)]
pub enum Medium {
    /// A file, made when it isn't there.
    File(PathBuf),
    /// A disk in memory that can lose power.
    Simulated(SimDisk),
}

impl Medium {
    /// Opens the database on it, with `cache_bytes` of page cache. What happens to the disk from then on is noted in `health`.
    pub(crate) fn open(&self, cache_bytes: usize, health: &Arc<DiskHealth>) -> Result<Database, OpenError> {
        let mut builder = Builder::new();
        builder.set_cache_size(cache_bytes);
        let health = Arc::clone(health);
        let opened = match self {
            Self::File(path) => {
                let file = open_file(path).map_err(|error| self.refused(&error.to_string()))?;
                let inner = FileBackend::new(file).map_err(|error| self.explain(error))?;
                builder.create_with_backend(Watched { inner, health })
            }
            Self::Simulated(disk) => builder.create_with_backend(Watched { inner: disk.backend(), health }),
        };
        opened.map_err(|error| self.explain(error))
    }

    /// How long a sync takes beyond what the driver says; only a simulated disk can be slow on purpose.
    pub(crate) fn extra_sync_latency(&self) -> Duration {
        match self {
            Self::File(_) => Duration::ZERO,
            Self::Simulated(disk) => disk.sync_latency(),
        }
    }

    pub(crate) fn refused(&self, detail: &str) -> OpenError {
        OpenError::Disk { medium: self.to_string(), detail: detail.to_owned() }
    }

    pub(crate) fn corrupt(&self, detail: &str) -> OpenError {
        OpenError::Corrupt { medium: self.to_string(), detail: detail.to_owned() }
    }

    pub(crate) fn explain(&self, error: DatabaseError) -> OpenError {
        match error {
            DatabaseError::DatabaseAlreadyOpen => OpenError::InUse { medium: self.to_string() },
            DatabaseError::Storage(StorageError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
                self.corrupt("it is no store, or its header is gone")
            }
            DatabaseError::Storage(StorageError::Io(error)) => self.refused(&error.to_string()),
            other => self.corrupt(&other.to_string()),
        }
    }
}

impl fmt::Display for Medium {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Simulated(_) => f.write_str("the simulated disk"),
        }
    }
}

/// Opens the file, and makes its name durable when it is new.
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    let is_new = !path.exists();
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    if is_new && let Some(parent) = path.parent() {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        File::open(parent)?.sync_all()?;
    }
    Ok(file)
}

/// What a disk has suffered since the store was opened. The engine's own error doesn't tell a failed sync from a failed write.
#[derive(Debug, Default)]
pub(crate) struct DiskHealth {
    sync_failed: AtomicBool,
    write_failed: AtomicBool,
    full: AtomicBool,
    syncs: AtomicU64,
}

impl DiskHealth {
    /// A sync failed: what is on the disk is unknown, and syncing again proves nothing (Rebello et al. 2020, "Can Applications Recover from fsync Failures?").
    pub(crate) fn sync_failed(&self) -> bool {
        self.sync_failed.load(Ordering::Acquire)
    }

    /// A write failed for another reason than want of room.
    pub(crate) fn write_failed(&self) -> bool {
        self.write_failed.load(Ordering::Acquire)
    }

    /// Whether a write failed for want of room since this was last asked.
    pub(crate) fn take_full(&self) -> bool {
        self.full.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    fn note_write(&self, result: &io::Result<()>) {
        if let Err(error) = result {
            let flag = if is_full(error) { &self.full } else { &self.write_failed };
            flag.store(true, Ordering::Release);
        }
    }

    fn note_sync(&self, result: &io::Result<()>) {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        if result.is_err() {
            self.sync_failed.store(true, Ordering::Release);
        }
    }
}

/// Whether that is want of room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// A backend whose failures are noted.
#[derive(Debug)]
pub(crate) struct Watched<B> {
    pub(crate) inner: B,
    pub(crate) health: Arc<DiskHealth>,
}

impl<B: StorageBackend> StorageBackend for Watched<B> {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let result = self.inner.set_len(len);
        self.health.note_write(&result);
        result
    }

    fn sync_data(&self) -> io::Result<()> {
        let result = self.inner.sync_data();
        self.health.note_sync(&result);
        result
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let result = self.inner.write(offset, data);
        self.health.note_write(&result);
        result
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
