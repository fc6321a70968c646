//! The tables on their disk: opened, committed to, and opened again after the disk was full.

use std::sync::Arc;

use isochrone_quorum::{Member, Row};
use redb::{Database, ReadableDatabase, TableError};

use super::gate::Gate;
use super::tables::{self, FORMAT, FORMAT_ROW, MEMBER_ROW, META, Snapshot, Sums};
use super::work::{Trouble, Work};
use crate::codec::unseal;
use crate::disk::DiskHealth;
use crate::{Medium, OpenError};

/// Why a group was not committed.
#[derive(Debug)]
pub(super) enum Spoiled {
    /// The disk is full; nothing of the group is on it, and the database has been opened again.
    Full(String),
    /// The disk has failed, or what is on it; what was committed last is unknown.
    Fatal(String),
}

pub(super) struct Engine {
    medium: Medium,
    health: Arc<DiskHealth>,
    cache_bytes: usize,
    /// `None` while, or because, it could not be opened again.
    database: Option<Database>,
    sums: Sums,
    is_new: bool,
}

impl Engine {
    /// Opens what is on the medium, or makes it for `member`.
    pub(super) fn open(medium: Medium, cache_bytes: usize, member: Member) -> Result<Self, OpenError> {
        let health = Arc::new(DiskHealth::default());
        let database = medium.open(cache_bytes, &health)?;
        let is_new = prepare(&database, &medium, member)?;
        let sums = sums(&database, &medium)?;
        Ok(Self { medium, health, cache_bytes, database: Some(database), sums, is_new })
    }

    /// Whether there was nothing on the medium before.
    pub(super) const fn is_new(&self) -> bool {
        self.is_new
    }

    pub(super) const fn sums(&self) -> &Sums {
        &self.sums
    }

    pub(super) const fn medium(&self) -> &Medium {
        &self.medium
    }

    pub(super) fn syncs(&self) -> u64 {
        self.health.syncs()
    }

    /// The tables as the last commit left them.
    pub(super) fn snapshot(&self) -> Result<Snapshot, String> {
        let database = self.database.as_ref().ok_or("the database is closed")?;
        Snapshot::of(database, &self.sums).map_err(|error| error.to_string())
    }

    /// Commits rows in their order, in one transaction with one sync, and sweeps a little. Tells whether something is left to sweep.
    pub(super) fn commit(&mut self, gate: &Gate, rows: &[Row]) -> Result<bool, Spoiled> {
        if self.database.is_none() {
            self.reopen(gate).map_err(Spoiled::Full)?;
        }
        self.try_commit(rows).map_err(|trouble| self.recover(gate, trouble))
    }

    fn try_commit(&mut self, rows: &[Row]) -> Result<bool, Trouble> {
        let write = self.database.as_ref().ok_or(redb::Error::DatabaseClosed)?.begin_write()?;
        let mut work = Work::open(&write, &self.sums)?;
        rows.iter().try_for_each(|row| work.apply(row))?;
        work.sweep()?;
        let (changed, untidy) = work.finish()?;
        self.sums.write(&changed, &write)?;
        write.commit()?;
        self.sums.adopt(changed);
        Ok(untidy)
    }

    /// After a transaction failed: the engine refuses everything after an error of the disk, so it is opened again, unless the disk can't be trusted any more.
    fn recover(&mut self, gate: &Gate, trouble: Trouble) -> Spoiled {
        let detail = match trouble {
            Trouble::Corrupt(detail) => return Spoiled::Fatal(detail),
            Trouble::Engine(error) => error.to_string(),
        };
        if self.health.sync_failed() {
            return Spoiled::Fatal(format!("a sync failed: {detail}"));
        }
        if self.health.write_failed() || !self.health.take_full() {
            return Spoiled::Fatal(detail);
        }
        let attempted = self.sums.ledger.commit + 1;
        match self.reopen(gate) {
            Ok(()) if self.sums.ledger.commit == attempted => {
                Spoiled::Fatal("a commit went through that was reported as failed".to_owned())
            }
            Ok(()) => Spoiled::Full(detail),
            Err(detail) => Spoiled::Full(detail),
        }
    }

    /// Closes the database and opens it again, as it was last synced. Readers wait meanwhile.
    fn reopen(&mut self, gate: &Gate) -> Result<(), String> {
        gate.shut();
        self.database = None;
        let database = self.medium.open(self.cache_bytes, &self.health).map_err(|error| error.to_string())?;
        self.sums = sums(&database, &self.medium).map_err(|error| error.to_string())?;
        self.database = Some(database);
        gate.show(self.snapshot()?);
        tracing::warn!(medium = %self.medium, "the strong store's disk was opened again after an error");
        Ok(())
    }

    /// Closes the database.
    pub(super) fn close(&mut self, gate: &Gate) {
        gate.shut();
        self.database = None;
    }
}

/// Makes the tables of a new database; refuses one of another format or of another member. Tells whether it is new.
fn prepare(database: &Database, medium: &Medium, member: Member) -> Result<bool, OpenError> {
    let corrupt = |error: redb::Error| medium.corrupt(&error.to_string());
    let read = database.begin_read().map_err(|error| corrupt(error.into()))?;
    let meta = match read.open_table(META) {
        Ok(meta) => meta,
        Err(TableError::TableDoesNotExist(_)) => {
            create(database, member).map_err(|error| medium.refused(&error.to_string()))?;
            return Ok(true);
        }
        Err(error) => return Err(corrupt(error.into())),
    };
    let row = |name| meta.get(name).map_err(|error| corrupt(error.into()));
    let format = row(FORMAT_ROW)?.and_then(|row| row.value().try_into().ok().map(u32::from_le_bytes));
    match format {
        Some(FORMAT) => {}
        Some(found) => return Err(OpenError::UnknownFormat { medium: medium.to_string(), found, supported: FORMAT }),
        None => return Err(medium.corrupt("its format is missing")),
    }
    let found = row(MEMBER_ROW)?.and_then(|row| unseal::<Member>(MEMBER_ROW.as_bytes(), row.value()).ok());
    match found {
        Some(found) if found == member => Ok(false),
        Some(found) => Err(foreign(medium, found, member)),
        None => Err(medium.corrupt("it does not say whose it is")),
    }
}

fn foreign(medium: &Medium, found: Member, expected: Member) -> OpenError {
    let text = |member: Member| format!("node {} with store {}", member.node, member.store);
    OpenError::Foreign { medium: medium.to_string(), found: text(found), expected: text(expected) }
}

fn create(database: &Database, member: Member) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    tables::create_all(&write, member)?;
    write.commit()?;
    Ok(())
}

fn sums(database: &Database, medium: &Medium) -> Result<Sums, OpenError> {
    match Sums::read(database) {
        Ok(Ok(sums)) => Ok(sums),
        Ok(Err(_)) => Err(medium.corrupt("its sums fail their checksum")),
        Err(error) => Err(medium.corrupt(&error.to_string())),
    }
}
