//! The store as the daemon holds it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use bytes::Bytes;
use isochrone_ident::{Key, Kind, Namespace, Slot, Version, WallMicros};
use isochrone_replica::{DigestKey, Record, Sequence};
use tokio::sync::{mpsc, oneshot};

use crate::codec::{Stored, StoredAnswer, StoredFact, record_row, unseal};
use crate::committer::{Committer, Forgotten, Job, Room};
use crate::engine::Engine;
use crate::memory::{MemoryTier, NameRef};
use crate::shared::Shared;
use crate::words::{Committed, FactKey, RequestKey, SlotTotals, Stats, WriteSet};
use crate::work::TIDY_ROWS_MAX;
use crate::{Driver, Medium, Observer, OpenError, ReadError, StoreOptions, WriteError};

/// The store of one daemon. Cloning shares it; the disk is closed when the last clone is gone, or by [`Store::close`].
#[derive(Clone)]
pub struct Store {
    pub(crate) shared: Arc<Shared>,
    queue: mpsc::Sender<Job>,
    queue_bytes_max: u64,
    pub(crate) digest_key: Option<DigestKey>,
}

impl Store {
    /// Opens what is on `medium`, or makes it, and starts the committer: with [`Driver::Task`] on the current tokio runtime.
    ///
    /// # Errors
    /// [`OpenError`]; then no committer runs.
    ///
    /// # Panics
    /// With [`Driver::Task`] outside a tokio runtime.
    pub fn open(medium: Medium, options: StoreOptions) -> Result<Self, OpenError> {
        options.check()?;
        let name = medium.to_string();
        let refused = |detail: String| OpenError::Disk { medium: name.clone(), detail };
        let engine = Engine::open(medium, options.clone())?;
        let shared = Arc::new(Shared::new(MemoryTier::new(options.tier_bytes_max(), options.seed), Arc::clone(&options.wall)));
        shared.snapshot.store(Some(Arc::new(engine.snapshot().map_err(refused)?)));
        shared.publish(&engine, Slot::all());
        let (queue, jobs) = mpsc::channel(options.queue_max);
        let (driver, queue_bytes_max, digest_key) = (options.driver, options.queue_bytes_max, options.digest_key);
        let committer = Committer::new(engine, Arc::clone(&shared), options, jobs);
        match driver {
            Driver::Thread => start_thread(committer).map_err(|error| refused(error.to_string()))?,
            Driver::Task { .. } => drop(tokio::spawn(committer.run())),
        }
        Ok(Self { shared, queue, queue_bytes_max, digest_key })
    }

    /// Writes a set, together with whatever else waits, in one commit. Returns when it is durable, or with [`crate::Durability::Relaxed`] when it
    /// can be read. Once called it may be applied even if the future is dropped.
    ///
    /// # Errors
    /// [`WriteError`]: `Full` and `Busy` promise that nothing was applied.
    pub async fn commit(&self, set: WriteSet) -> Result<Committed, WriteError> {
        let Some(room) = Room::take(&self.shared, set.bytes(), self.queue_bytes_max) else { return Err(self.busy()) };
        self.ask(|reply| Job::Write { set, _room: room, reply }).await
    }

    /// Removes each record that has exactly that version still (E7: a tombstone that every replica has). Tells how many were removed. Synced
    /// with the next commit that is.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn forget(&self, records: Vec<(Slot, Namespace, Kind, Key, Version)>) -> Result<u64, WriteError> {
        let records: Vec<Forgotten> = records;
        self.ask(|reply| Job::Forget { records, reply }).await
    }

    /// Removes all records of a slot that is not this daemon's any more, some with each commit. Tells how many were removed.
    ///
    /// # Errors
    /// [`WriteError`]; some records may have been removed.
    pub async fn drop_slot(&self, slot: Slot) -> Result<u64, WriteError> {
        let mut dropped = 0;
        loop {
            let count = self.ask(|reply| Job::DropOfSlot { slot, reply }).await?;
            dropped += count;
            if count < TIDY_ROWS_MAX as u64 {
                return Ok(dropped);
            }
        }
    }

    /// Syncs everything that was answered before.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn sync(&self) -> Result<(), WriteError> {
        self.ask(|reply| Job::Sync { reply }).await
    }

    /// Syncs, closes the disk and ends the committer; returns when the medium can be opened again. Writes and reads of other clones fail from then on.
    pub async fn close(self) {
        let (reply, closed) = oneshot::channel();
        if self.queue.send(Job::Close { reply }).await.is_ok() {
            // An error says that the committer is gone, which is what was wanted.
            let _ = closed.await;
        }
    }

    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<Result<T, WriteError>>) -> Job) -> Result<T, WriteError> {
        let (reply, answer) = oneshot::channel();
        match self.queue.try_send(job(reply)) {
            Ok(()) => answer.await.unwrap_or(Err(WriteError::Closed)),
            Err(mpsc::error::TrySendError::Full(_)) => Err(self.busy()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(WriteError::Closed),
        }
    }

    fn busy(&self) -> WriteError {
        self.shared.meters.refused_busy.increment(1);
        WriteError::Busy
    }

    /// The record of a key, tombstones and expired values included; `None` when there is none. Never waits for a write: the memory tier, then the durable
    /// tier's pages (1 to 2 us when they are cached), then the disk.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn get(&self, slot: Slot, ns: &Namespace, kind: Kind, key: &[u8]) -> Result<Option<Record>, ReadError> {
        let name = NameRef { ns, kind, key };
        if let Some(record) = self.shared.memory.copy_of(name) {
            self.shared.meters.hits.increment(1);
            return Ok(Some(record));
        }
        self.shared.meters.misses.increment(1);
        let ticket = self.shared.memory.ticket(name);
        let record = self.get_durable(slot, ns, kind, key)?;
        if let Some(record) = &record {
            self.shared.memory.fill(ticket, name, record);
        }
        Ok(record)
    }

    fn get_durable(&self, slot: Slot, ns: &Namespace, kind: Kind, key: &[u8]) -> Result<Option<Record>, ReadError> {
        let mut row = Vec::with_capacity(3 + ns.as_str().len() + key.len());
        record_row(slot, ns, kind, key, &mut row);
        self.shared.read(|snapshot| {
            let Some(found) = snapshot.records.get(row.as_slice()).map_err(|error| self.disk_error(&error.into()))? else {
                return Ok(None);
            };
            let record = Stored::unseal(&row, found.value()).and_then(|stored| stored.to_record());
            record.map(Some).map_err(|_| self.corrupt_record(ns, kind, key))
        })
    }

    /// The answer kept under a request's key, unless it has expired.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn answer(&self, key: &RequestKey) -> Result<Option<Bytes>, ReadError> {
        Ok(self.kept_answer(key)?.map(|(answer, _)| answer))
    }

    /// The answer kept under a request's key and until when it is kept, unless it has expired: what other daemons are to learn of the request.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn kept_answer(&self, key: &RequestKey) -> Result<Option<(Bytes, WallMicros)>, ReadError> {
        self.shared.read(|snapshot| {
            let Some(row) = snapshot.answers.get(key.as_bytes()).map_err(|error| self.disk_error(&error.into()))? else { return Ok(None) };
            let kept: StoredAnswer<'_> = unseal(key.as_bytes(), row.value()).map_err(|_| self.corrupt_value("a kept answer"))?;
            Ok(((self.shared.wall)() < kept.until).then(|| (Bytes::copy_from_slice(kept.answer), kept.until)))
        })
    }

    /// A fact, as it was last committed.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn fact(&self, key: &FactKey) -> Result<Option<Bytes>, ReadError> {
        self.shared.read(|snapshot| {
            let Some(row) = snapshot.facts.get(key.as_str()).map_err(|error| self.disk_error(&error.into()))? else { return Ok(None) };
            let fact: StoredFact<'_> =
                unseal(key.as_str().as_bytes(), row.value()).map_err(|_| self.corrupt_value(&format!("fact {}", key.as_str())))?;
            Ok(Some(Bytes::copy_from_slice(fact.value)))
        })
    }

    /// Lets operations up to `through` go from the log, because every replica has them. Lazy: rides on later commits. It only grows.
    pub fn trim_log(&self, through: Sequence) {
        self.shared.trim_through.fetch_max(through.0, Ordering::AcqRel);
    }

    /// Has `observer` told of every change from now on. Costs nothing until then. Tells whether it was set: there can be one in a store's life.
    pub fn observe(&self, observer: Observer) -> bool {
        self.shared.observer.set(observer).is_ok()
    }

    /// How full the store is.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// What a slot holds.
    #[must_use]
    pub fn slot_totals(&self, slot: Slot) -> SlotTotals {
        self.shared.slot_totals(slot)
    }

    pub(crate) fn corrupt_record(&self, ns: &Namespace, kind: Kind, key: &[u8]) -> ReadError {
        self.shared.meters.corrupt.add(1);
        tracing::error!(%ns, %kind, key = %key.escape_ascii(), "a record fails its checksum");
        Key::new(Bytes::copy_from_slice(key))
            .map_or_else(|_| ReadError::CorruptValue(format!("{ns}/")), |key| ReadError::Corrupt { ns: ns.clone(), kind, key })
    }

    fn corrupt_value(&self, what: &str) -> ReadError {
        self.shared.meters.corrupt.add(1);
        tracing::error!(what, "a stored value fails its checksum");
        ReadError::CorruptValue(what.to_owned())
    }

    /// The engine refuses everything after an error of the disk, so the committer is asked to open it again.
    pub(crate) fn disk_error(&self, error: &redb::Error) -> ReadError {
        if !self.shared.reopen_wanted.swap(true, Ordering::AcqRel) && self.queue.try_send(Job::Reopen).is_err() {
            self.shared.reopen_wanted.store(false, Ordering::Release);
        }
        ReadError::Disk(error.to_string())
    }
}

fn start_thread(committer: Committer) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    thread::Builder::new().name("store".to_owned()).spawn(move || runtime.block_on(committer.run()))?;
    Ok(())
}
