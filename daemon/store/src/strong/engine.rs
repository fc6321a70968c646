//! The tables on their disk: opened, brought up with the log, committed to, and opened again after the disk was full.

use std::sync::Arc;

use isochrone_quorum::{Member, Row};
use redb::{Builder, Database, DatabaseError, ReadableDatabase, TableError};

use super::file::Parts;
use super::gate::Gate;
use super::redo::{Mark, Redo, ReplayError};
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
    parts: Parts,
    health: Arc<DiskHealth>,
    cache_bytes: usize,
    seed: u64,
    /// `None` while, or because, it could not be opened again.
    database: Option<Database>,
    sums: Sums,
    is_new: bool,
}

impl Engine {
    /// Opens what is on the medium, or makes it for `member`, and brings the tables up with the log. Gives the log besides, at a round's beginning. `seed` makes salts.
    pub(super) fn open(medium: Medium, cache_bytes: usize, member: Member, seed: u64) -> Result<(Self, Redo), OpenError> {
        let parts = Parts::open(&medium)?;
        let health = Arc::new(DiskHealth::default());
        let database = open_tables(&parts, cache_bytes, &health).map_err(|error| medium.explain(error))?;
        let is_new = prepare(&database, &medium, member, Mark::first(seed))?;
        let sums = sums(&database, &medium)?;
        let mut redo = Redo::new(Arc::clone(&parts.log), sums.mark);
        let mut engine = Self { medium, parts, health, cache_bytes, seed, database: Some(database), sums, is_new };
        engine.bring_up(&mut redo)?;
        Ok((engine, redo))
    }

    fn bring_up(&mut self, redo: &mut Redo) -> Result<(), OpenError> {
        let rows = redo.replay().map_err(|error| match error {
            ReplayError::Io(error) => self.medium.refused(&format!("its log: {error}")),
            ReplayError::Damaged(number) => {
                self.medium.corrupt(&format!("frame {number} of its log was synced and is not whole: promises may be lost"))
            }
        })?;
        if redo.is_at_mark() {
            return Ok(());
        }
        let mark = redo.restart(self.seed);
        tracing::info!(medium = %self.medium, rows = rows.len(), "the strong store is brought up with its log");
        self.try_commit(&rows, mark).map(drop).map_err(|trouble| match trouble {
            Trouble::Corrupt(detail) => self.medium.corrupt(&detail),
            Trouble::Engine(error) => self.medium.refused(&error.to_string()),
        })
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

    /// Commits rows in their order, with the mark that they reach, in one transaction with one sync, and sweeps a little. Tells whether something is left to sweep.
    pub(super) fn commit(&mut self, gate: &Gate, rows: &[Row], mark: Mark) -> Result<bool, Spoiled> {
        if self.database.is_none() {
            self.reopen(gate).map_err(Spoiled::Full)?;
        }
        self.try_commit(rows, mark).map_err(|trouble| self.recover(gate, trouble))
    }

    fn try_commit(&mut self, rows: &[Row], mark: Mark) -> Result<bool, Trouble> {
        let write = self.database.as_ref().ok_or(redb::Error::DatabaseClosed)?.begin_write()?;
        let mut work = Work::open(&write, &self.sums, mark)?;
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
        let database = open_tables(&self.parts, self.cache_bytes, &self.health).map_err(|error| error.to_string())?;
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

fn open_tables(parts: &Parts, cache_bytes: usize, health: &Arc<DiskHealth>) -> Result<Database, DatabaseError> {
    let mut builder = Builder::new();
    builder.set_cache_size(cache_bytes);
    builder.create_with_backend(parts.tables(health))
}

/// Makes the tables of a new database; refuses one of another format or of another member. Tells whether it is new.
fn prepare(database: &Database, medium: &Medium, member: Member, mark: Mark) -> Result<bool, OpenError> {
    let corrupt = |error: redb::Error| medium.corrupt(&error.to_string());
    let read = database.begin_read().map_err(|error| corrupt(error.into()))?;
    let meta = match read.open_table(META) {
        Ok(meta) => meta,
        Err(TableError::TableDoesNotExist(_)) => {
            create(database, member, mark).map_err(|error| medium.refused(&error.to_string()))?;
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

fn create(database: &Database, member: Member, mark: Mark) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    tables::create_all(&write, member, mark)?;
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
