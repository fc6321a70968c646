//! The durable tier: the database with its sums, opened, committed to, and opened again after it was full.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use isochrone_ident::{Slot, WallMicros};
use isochrone_replica::Sequence;
use redb::{Database, Durability, ReadableDatabase, TableError};

use crate::digests::Counting;
use crate::disk::DiskHealth;
use crate::shared::Shared;
use crate::tables::{self, FORMAT, FORMAT_ROW, Ledger, META, SlotLedger, Snapshot, TOTALS};
use crate::words::SlotTotals;
use crate::work::{Changes, Standing, Work};
use crate::{Medium, OpenError, StoreOptions};

/// Why a transaction was not committed.
#[derive(Debug)]
pub(crate) enum Spoiled {
    /// The disk is full; nothing of the transaction is on it, and the database has been opened again.
    Full(String),
    /// The disk has failed; what is on it is unknown.
    Fatal(String),
}

/// What a committed transaction gave.
pub(crate) struct Done<T> {
    pub(crate) results: T,
    pub(crate) changes: Changes,
    /// Whether tidying is left to do.
    pub(crate) untidy: bool,
}

/// What one transaction is told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// Sync it, and with it all unsynced ones before. A transaction that changes nothing is then committed only if there are such.
    pub(crate) sync: bool,
    /// Whether commits before are unsynced.
    pub(crate) unsynced: bool,
    pub(crate) trim_through: Sequence,
    pub(crate) now: WallMicros,
}

pub(crate) struct Engine {
    medium: Medium,
    health: Arc<DiskHealth>,
    options: StoreOptions,
    /// `None` while, or because, it could not be opened again.
    database: Option<Database>,
    ledger: Ledger,
    slots: SlotLedger,
    counting: Counting,
    /// How often commits were lost because the disk was opened again.
    rollbacks: u64,
}

impl Engine {
    /// Opens what is on the medium, or makes it.
    pub(crate) fn open(medium: Medium, options: StoreOptions) -> Result<Self, OpenError> {
        let health = Arc::new(DiskHealth::default());
        let database = medium.open(options.page_cache_bytes(), &health)?;
        prepare(&database, &medium)?;
        let (ledger, slots) = sums(&database, &medium)?;
        let counting = Counting::new(options.digest_key);
        Ok(Self { medium, health, options, database: Some(database), ledger, slots, counting, rollbacks: 0 })
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(crate) const fn rollbacks(&self) -> u64 {
        self.rollbacks
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.health.syncs()
    }

    pub(crate) fn counting(&mut self) -> &mut Counting {
        &mut self.counting
    }

    pub(crate) fn medium(&self) -> &Medium {
        &self.medium
    }

    pub(crate) fn slot_totals(&self, slot: Slot) -> SlotTotals {
        self.slots.totals(slot)
    }

    /// The tables as the last commit left them.
    pub(crate) fn snapshot(&self) -> Result<Snapshot, String> {
        let database = self.database.as_ref().ok_or("the database is closed")?;
        Snapshot::of(database).map_err(|error| error.to_string())
    }

    /// Runs `apply` in one transaction, tidies up, and commits. On success the state is visible in the next [`Engine::snapshot`].
    pub(crate) fn transact<T>(
        &mut self,
        shared: &Shared,
        terms: Terms,
        apply: impl FnOnce(&mut Work<'_>) -> Result<T, redb::Error>,
    ) -> Result<Done<T>, Spoiled> {
        if self.database.is_none() {
            self.reopen(shared).map_err(Spoiled::Full)?;
        }
        match self.try_transact(shared, terms, apply) {
            Ok(done) => {
                self.ledger = done.changes.ledger;
                self.slots.adopt(done.changes.slots.clone());
                Ok(done)
            }
            Err(error) => Err(self.recover(shared, &error)),
        }
    }

    fn try_transact<T>(
        &mut self,
        shared: &Shared,
        terms: Terms,
        apply: impl FnOnce(&mut Work<'_>) -> Result<T, redb::Error>,
    ) -> Result<Done<T>, redb::Error> {
        let database = self.database.as_ref().ok_or(redb::Error::DatabaseClosed)?;
        let mut write = database.begin_write()?;
        write.set_durability(if terms.sync { Durability::Immediate } else { Durability::None })?;
        let mut work = Work::open(
            &write,
            self.ledger,
            &self.slots,
            &self.counting,
            Standing { options: &self.options, meters: &shared.meters, rollbacks: self.rollbacks },
        )?;
        let results = apply(&mut work)?;
        let untidy = work.tidy(terms.trim_through, terms.now)?;
        let mut changes = work.finish()?;
        if changes.changed || (terms.sync && terms.unsynced) {
            write.commit()?;
        } else {
            write.abort()?;
            changes.ledger = self.ledger;
        }
        Ok(Done { results, changes, untidy })
    }

    /// After a transaction failed: the engine refuses everything after an error of the disk, so it is opened again, unless the disk can't be trusted any more.
    fn recover(&mut self, shared: &Shared, error: &redb::Error) -> Spoiled {
        if self.health.sync_failed() {
            return Spoiled::Fatal(format!("a sync failed: {error}"));
        }
        if self.health.write_failed() || !self.health.take_full() {
            return Spoiled::Fatal(error.to_string());
        }
        let attempted = self.ledger.commit + 1;
        match self.reopen(shared) {
            Ok(()) if self.ledger.commit == attempted => Spoiled::Fatal("a commit went through that was reported as failed".to_owned()),
            Ok(()) => Spoiled::Full("the disk is full".to_owned()),
            Err(detail) => Spoiled::Full(detail),
        }
    }

    /// Closes the database and opens it again, as it was last synced. Readers wait meanwhile; the memory tier is emptied.
    pub(crate) fn reopen(&mut self, shared: &Shared) -> Result<(), String> {
        let _gate = shared.shut_gate();
        self.database = None;
        shared.memory.clear();
        shared.meters.reopened.increment(1);
        let database = self.medium.open(self.options.page_cache_bytes(), &self.health).map_err(|error| error.to_string())?;
        let (ledger, slots) = sums(&database, &self.medium).map_err(|error| error.to_string())?;
        let snapshot = Snapshot::of(&database).map_err(|error| error.to_string())?;
        self.rollbacks += u64::from(ledger.commit < self.ledger.commit);
        // Places in the log that went with what was unsynced may be known to peers already: they are not given out again.
        self.ledger = Ledger { last_sequence: ledger.last_sequence.max(self.ledger.last_sequence), ..ledger };
        self.slots = slots;
        self.counting.restart(shared);
        self.database = Some(database);
        shared.snapshot.store(Some(Arc::new(snapshot)));
        shared.reopen_wanted.store(false, Ordering::Release);
        tracing::warn!(medium = %self.medium, "the store's disk was opened again after an error");
        Ok(())
    }

    /// Closes the database; what is still unsynced is synced by the engine.
    pub(crate) fn close(&mut self, shared: &Shared) {
        let _gate = shared.shut_gate();
        self.database = None;
    }
}

/// Makes the tables of a new database; refuses one of another format.
fn prepare(database: &Database, medium: &Medium) -> Result<(), OpenError> {
    let corrupt = |error: redb::Error| medium.corrupt(&error.to_string());
    let read = database.begin_read().map_err(|error| corrupt(error.into()))?;
    match read.open_table(META) {
        Ok(meta) => {
            let row = meta.get(FORMAT_ROW).map_err(|error| corrupt(error.into()))?;
            let found = row.and_then(|row| row.value().try_into().ok().map(u32::from_le_bytes));
            match found {
                Some(FORMAT) => Ok(()),
                Some(found) => Err(OpenError::UnknownFormat { medium: medium.to_string(), found, supported: FORMAT }),
                None => Err(medium.corrupt("its format is missing")),
            }
        }
        Err(TableError::TableDoesNotExist(_)) => create(database).map_err(|error| medium.refused(&error.to_string())),
        Err(error) => Err(corrupt(error.into())),
    }
}

fn create(database: &Database) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    tables::create_all(&write)?;
    write.commit()?;
    Ok(())
}

/// The sums that the last commit wrote.
fn sums(database: &Database, medium: &Medium) -> Result<(Ledger, SlotLedger), OpenError> {
    let read = || -> Result<_, redb::Error> {
        let read = database.begin_read()?;
        Ok((Ledger::read(&read.open_table(META)?)?, SlotLedger::read(&read.open_table(TOTALS)?)?))
    };
    match read() {
        Ok((Ok(ledger), Ok(slots))) => Ok((ledger, slots)),
        Ok(_) => Err(medium.corrupt("its sums fail their checksum")),
        Err(error) => Err(medium.corrupt(&error.to_string())),
    }
}
