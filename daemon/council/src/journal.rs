//! What the council keeps on disk: vote, log, commit index and snapshot, in two tables of a redb database.
//!
//! ```text
//!   row = version (1 byte) | xxh3-64 of table key and body (8 bytes, little endian) | body (postcard)
//! ```
//!
//! Each write is one synced transaction, done inline: the council writes a few small rows a minute. A row that fails its check is an error that
//! names the row, never a panic. A write that fails is fatal: what is on disk is unknown from then on, so `on_fatal` is called and
//! the engine stops.

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

use crate::meters::Meters;
use crate::options::OnFatal;
use crate::raft::{Entry, LogId, SnapshotMeta, Vote};

/// Version of everything in this file. A journal of another version is refused at start.
const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 9;

const FACTS: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("council_facts");
const LOG: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("council_log");

const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
const PURGED: &str = "purged";
const SNAPSHOT: &str = "snapshot";

/// Why the journal can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A row that fails its checksum, doesn't decode or is of another version. It is left as it is.
    #[error("council journal: row {row} is corrupt: {why}")]
    Corrupt {
        /// Which row.
        row: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The database or the disk beneath it failed.
    #[error("council journal: {0}")]
    Database(#[from] redb::Error),
}

macro_rules! from_redb {
    ($($error:ident),*) => {
        $(impl From<redb::$error> for JournalError {
            fn from(error: redb::$error) -> Self {
                Self::Database(error.into())
            }
        })*
    };
}
from_redb!(TransactionError, TableError, StorageError, CommitError);

/// A snapshot as it is kept: what the engine says of it, and its bytes.
#[derive(Debug, Clone, Serialize, serde::Deserialize)]
pub(crate) struct KeptSnapshot {
    pub(crate) meta: SnapshotMeta,
    pub(crate) bytes: Vec<u8>,
}

/// The journal. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Journal {
    database: Arc<Database>,
    on_fatal: OnFatal,
    meters: Meters,
}

impl Journal {
    /// Takes over the database, and reads every row once.
    pub(crate) fn open(database: Database, on_fatal: OnFatal, meters: Meters) -> Result<Self, JournalError> {
        let journal = Self { database: Arc::new(database), on_fatal, meters };
        let write = journal.database.begin_write()?;
        write.open_table(FACTS)?;
        write.open_table(LOG)?;
        write.commit()?;
        journal.check()?;
        Ok(journal)
    }

    fn check(&self) -> Result<(), JournalError> {
        self.vote()?;
        self.committed()?;
        self.snapshot()?;
        let purged = self.purged()?;
        let mut next = purged.map(|id| id.index + 1);
        for entry in self.entries(..)? {
            let index = entry.log_id.index;
            if next.is_some_and(|next| next != index) {
                return Err(JournalError::Corrupt { row: format!("log {index}"), why: "there is a gap before it" });
            }
            next = Some(index + 1);
        }
        Ok(())
    }

    fn fact<T: DeserializeOwned>(&self, name: &'static str) -> Result<Option<T>, JournalError> {
        let table = self.database.begin_read()?.open_table(FACTS)?;
        match table.get(name)? {
            Some(row) => open(name.as_bytes(), row.value(), || name.to_owned()).map(Some),
            None => Ok(None),
        }
    }

    pub(crate) fn vote(&self) -> Result<Option<Vote>, JournalError> {
        self.fact(VOTE)
    }

    pub(crate) fn committed(&self) -> Result<Option<LogId>, JournalError> {
        Ok(self.fact::<Option<LogId>>(COMMITTED)?.flatten())
    }

    pub(crate) fn purged(&self) -> Result<Option<LogId>, JournalError> {
        self.fact(PURGED)
    }

    pub(crate) fn snapshot(&self) -> Result<Option<KeptSnapshot>, JournalError> {
        self.fact(SNAPSHOT)
    }

    /// The entries of that range, in order.
    pub(crate) fn entries(&self, range: impl RangeBounds<u64>) -> Result<Vec<Entry>, JournalError> {
        self.entries_within(range, u64::MAX)
    }

    /// The first entries of that range, as many as fit `bytes_max`, but at least one if there is one.
    pub(crate) fn entries_within(&self, range: impl RangeBounds<u64>, bytes_max: u64) -> Result<Vec<Entry>, JournalError> {
        let bounds: (Bound<u64>, Bound<u64>) = (range.start_bound().cloned(), range.end_bound().cloned());
        let table = self.database.begin_read()?.open_table(LOG)?;
        let (mut entries, mut bytes) = (Vec::new(), 0_u64);
        for row in table.range(bounds)? {
            let (index, row) = row?;
            let index = index.value();
            bytes = bytes.saturating_add(row.value().len() as u64);
            if !entries.is_empty() && bytes > bytes_max {
                break;
            }
            entries.push(open_entry(index, row.value())?);
        }
        Ok(entries)
    }

    /// The id of the last entry there is, or was purged.
    pub(crate) fn last(&self) -> Result<Option<LogId>, JournalError> {
        let table = self.database.begin_read()?.open_table(LOG)?;
        match table.last()? {
            Some((index, row)) => Ok(Some(open_entry(index.value(), row.value())?.log_id)),
            None => self.purged(),
        }
    }

    pub(crate) fn save_vote(&self, vote: &Vote) -> Result<(), JournalError> {
        self.write(|write| put(write, VOTE, vote))
    }

    pub(crate) fn save_committed(&self, committed: Option<LogId>) -> Result<(), JournalError> {
        self.write(|write| put(write, COMMITTED, &committed))
    }

    pub(crate) fn save_snapshot(&self, snapshot: &KeptSnapshot) -> Result<(), JournalError> {
        self.write(|write| put(write, SNAPSHOT, snapshot))
    }

    pub(crate) fn append(&self, entries: impl IntoIterator<Item = Entry>) -> Result<(), JournalError> {
        self.write(|write| {
            let mut table = write.open_table(LOG)?;
            for entry in entries {
                let index = entry.log_id.index;
                table.insert(index, seal(&index.to_le_bytes(), &entry)?.as_slice())?;
            }
            Ok(())
        })
    }

    /// Drops the entries from `index` on.
    pub(crate) fn truncate(&self, index: u64) -> Result<(), JournalError> {
        self.write(|write| Ok(write.open_table(LOG)?.retain_in(index.., |_, _| false)?))
    }

    /// Drops the entries up to `through`, and remembers it.
    pub(crate) fn purge(&self, through: LogId) -> Result<(), JournalError> {
        self.write(|write| {
            put(write, PURGED, &through)?;
            Ok(write.open_table(LOG)?.retain_in(..=through.index, |_, _| false)?)
        })
    }

    /// Drops all there is for a snapshot that ends with entry `last`.
    pub(crate) fn replace(&self, snapshot: &KeptSnapshot, vote: &Vote, last: LogId) -> Result<(), JournalError> {
        self.write(|write| {
            write.open_table(LOG)?.retain(|_, _| false)?;
            put(write, SNAPSHOT, snapshot)?;
            put(write, VOTE, vote)?;
            put(write, PURGED, &last)?;
            put(write, COMMITTED, &Some(last))
        })
    }

    fn write(&self, change: impl FnOnce(&WriteTransaction) -> Result<(), JournalError>) -> Result<(), JournalError> {
        let begun = Instant::now();
        let done = (|| {
            let write = self.database.begin_write()?;
            change(&write)?;
            Ok(write.commit()?)
        })();
        match &done {
            Ok(()) => self.meters.synced(begun.elapsed()),
            Err(error) => self.fatal(error),
        }
        done
    }

    /// Reports an error after which the council can't go on.
    pub(crate) fn fatal(&self, error: &JournalError) {
        (self.on_fatal)(error.to_string());
    }
}

fn put<T: Serialize>(write: &WriteTransaction, name: &'static str, value: &T) -> Result<(), JournalError> {
    let row = seal(name.as_bytes(), value)?;
    write.open_table(FACTS)?.insert(name, row.as_slice())?;
    Ok(())
}

fn checksum(key: &[u8], body: &[u8]) -> [u8; 8] {
    (xxh3_64(body) ^ xxh3_64(key).rotate_left(17)).to_le_bytes()
}

pub(crate) fn seal<T: Serialize>(key: &[u8], value: &T) -> Result<Vec<u8>, JournalError> {
    let row = vec![0; HEADER_BYTES];
    let mut row = postcard::to_extend(value, row)
        .map_err(|_| JournalError::Corrupt { row: String::from_utf8_lossy(key).into_owned(), why: "can't be encoded" })?;
    row[0] = FORMAT;
    let sum = checksum(key, &row[HEADER_BYTES..]);
    row[1..HEADER_BYTES].copy_from_slice(&sum);
    Ok(row)
}

pub(crate) fn open<T: DeserializeOwned>(key: &[u8], row: &[u8], name: impl Fn() -> String) -> Result<T, JournalError> {
    let corrupt = |why| JournalError::Corrupt { row: name(), why };
    let (header, body) = row.split_at_checked(HEADER_BYTES).ok_or_else(|| corrupt("too short"))?;
    if header[0] != FORMAT {
        return Err(corrupt("of another format version"));
    }
    if header[1..] != checksum(key, body) {
        return Err(corrupt("its checksum is wrong"));
    }
    postcard::from_bytes(body).map_err(|_| corrupt("doesn't decode"))
}

fn open_entry(index: u64, row: &[u8]) -> Result<Entry, JournalError> {
    let name = || format!("log {index}");
    let entry: Entry = open(&index.to_le_bytes(), row, name)?;
    if entry.log_id.index == index { Ok(entry) } else { Err(JournalError::Corrupt { row: name(), why: "it is another entry's" }) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test a panic is the message
mod tests {
    use std::sync::Mutex;

    use isochrone_ident::NodeId;
    use openraft::{CommittedLeaderId, EntryPayload};
    use redb::backends::InMemoryBackend;

    use super::*;

    fn database() -> Database {
        Database::builder().create_with_backend(InMemoryBackend::new()).unwrap()
    }

    fn journal() -> Journal {
        Journal::open(database(), Arc::new(|_| {}), Meters::new()).unwrap()
    }

    fn id(index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(1, NodeId(1)), index)
    }

    fn blank(index: u64) -> Entry {
        Entry { log_id: id(index), payload: EntryPayload::Blank }
    }

    #[test]
    fn what_was_written_reads_back() {
        let journal = journal();
        let vote = Vote::new(3, NodeId(7));
        journal.save_vote(&vote).unwrap();
        journal.save_committed(Some(id(2))).unwrap();
        journal.append((0..5).map(blank)).unwrap();
        assert_eq!(journal.vote().unwrap(), Some(vote));
        assert_eq!(journal.committed().unwrap(), Some(id(2)));
        assert_eq!(journal.entries(1..3).unwrap().len(), 2);
        assert_eq!(journal.last().unwrap(), Some(id(4)));
    }

    #[test]
    fn truncating_drops_the_end_and_purging_the_beginning() {
        let journal = journal();
        journal.append((0..10).map(blank)).unwrap();
        journal.truncate(8).unwrap();
        journal.purge(id(3)).unwrap();
        let left: Vec<_> = journal.entries(..).unwrap().iter().map(|e| e.log_id.index).collect();
        assert_eq!(left, [4, 5, 6, 7]);
        journal.purge(id(7)).unwrap();
        assert_eq!(journal.last().unwrap(), Some(id(7)), "the last purged stands for the last");
    }

    #[test]
    fn entries_come_in_batches_of_bounded_bytes_but_never_none() {
        let journal = journal();
        journal.append((0..10).map(blank)).unwrap();
        assert_eq!(journal.entries_within(0..10, 1).unwrap().len(), 1);
        assert!(journal.entries_within(0..10, 100).unwrap().len() < 10);
    }

    #[test]
    fn a_flipped_bit_is_an_error_that_names_the_row() {
        let journal = journal();
        journal.append((0..3).map(blank)).unwrap();
        let write = journal.database.begin_write().unwrap();
        {
            let mut table = write.open_table(LOG).unwrap();
            let mut row = table.get(1).unwrap().unwrap().value().to_vec();
            *row.last_mut().unwrap() ^= 1;
            table.insert(1, row.as_slice()).unwrap();
        }
        write.commit().unwrap();
        let error = journal.check().unwrap_err().to_string();
        assert!(error.contains("row log 1 is corrupt"), "{error}");
    }

    #[test]
    fn a_row_moved_to_another_key_is_corrupt() {
        let journal = journal();
        journal.append((0..3).map(blank)).unwrap();
        let write = journal.database.begin_write().unwrap();
        {
            let mut table = write.open_table(LOG).unwrap();
            let row = table.get(1).unwrap().unwrap().value().to_vec();
            table.insert(2, row.as_slice()).unwrap();
        }
        write.commit().unwrap();
        assert!(matches!(journal.check(), Err(JournalError::Corrupt { .. })));
    }

    #[test]
    fn a_gap_in_the_log_is_corrupt() {
        let journal = journal();
        journal.append([blank(0), blank(2)]).unwrap();
        assert!(matches!(journal.check(), Err(JournalError::Corrupt { .. })));
    }

    /// A disk whose every sync fails once told so.
    #[derive(Debug, Default)]
    struct FailingDisk {
        inner: InMemoryBackend,
        broken: Arc<std::sync::atomic::AtomicBool>,
    }

    impl redb::StorageBackend for FailingDisk {
        fn len(&self) -> Result<u64, std::io::Error> {
            self.inner.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
            self.inner.read(offset, out)
        }
        fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
            self.inner.set_len(len)
        }
        fn sync_data(&self) -> Result<(), std::io::Error> {
            match self.broken.load(std::sync::atomic::Ordering::SeqCst) {
                true => Err(std::io::Error::other("no sync today")),
                false => self.inner.sync_data(),
            }
        }
        fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
            self.inner.write(offset, data)
        }
    }

    #[test]
    fn a_failed_sync_is_fatal() {
        let disk = FailingDisk::default();
        let broken = disk.broken.clone();
        let told = Arc::new(Mutex::new(Vec::new()));
        let on_fatal: OnFatal = {
            let told = told.clone();
            Arc::new(move |why| told.lock().unwrap().push(why))
        };
        let database = Database::builder().create_with_backend(disk).unwrap();
        let journal = Journal::open(database, on_fatal, Meters::new()).unwrap();
        broken.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(journal.append([blank(0)]).is_err());
        assert_eq!(told.lock().unwrap().len(), 1);
    }
}
