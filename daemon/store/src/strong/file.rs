//! One file for the log and the tables, so that neither can be lost without the other.

use std::io;
use std::sync::Arc;

use redb::StorageBackend;
use redb::backends::FileBackend;

use super::redo::TABLES_AT;
use crate::disk::{DiskHealth, Watched, open_file};
use crate::{Medium, OpenError};

/// The two ways to one file. Each has a descriptor of its own: a system tells a failed sync once to each of those that has the file open, and both must learn it.
#[derive(Debug)]
pub(super) struct Parts {
    /// The log's.
    pub(super) log: Arc<dyn StorageBackend>,
    /// The tables', as if they began where the file does.
    tables: Part,
}

impl Parts {
    /// Opens the medium, and makes it when it isn't there. A file stays locked against other processes for as long as this lives.
    pub(super) fn open(medium: &Medium) -> Result<Self, OpenError> {
        let (log, tables) = match medium {
            Medium::File(path) => {
                let refused = |error: io::Error| medium.refused(&error.to_string());
                let file = open_file(path).map_err(refused)?;
                file.try_lock().map_err(|_| OpenError::InUse { medium: medium.to_string() })?;
                let other = open_file(path).map_err(refused)?;
                (backend(file, medium)?, backend(other, medium)?)
            }
            Medium::Simulated(disk) => {
                (Arc::new(disk.backend()) as Arc<dyn StorageBackend>, Arc::new(disk.backend()) as Arc<dyn StorageBackend>)
            }
        };
        Ok(Self { log, tables: Part { inner: tables, from: TABLES_AT } })
    }

    /// The tables' part, what happens to which is noted in `health`.
    pub(super) fn tables(&self, health: &Arc<DiskHealth>) -> Watched<impl StorageBackend + use<>> {
        Watched { inner: self.tables.clone(), health: Arc::clone(health) }
    }
}

fn backend(file: std::fs::File, medium: &Medium) -> Result<Arc<dyn StorageBackend>, OpenError> {
    Ok(Arc::new(FileBackend::new(file).map_err(|error| medium.explain(error))?))
}

/// The part of a file from an offset on. Takes no locks of its own: the whole file is locked already.
#[derive(Debug, Clone)]
struct Part {
    inner: Arc<dyn StorageBackend>,
    from: u64,
}

impl StorageBackend for Part {
    fn len(&self) -> io::Result<u64> {
        self.inner.len().map(|len| len.saturating_sub(self.from))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(self.from + offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(self.from + len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(self.from + offset, data)
    }
}
