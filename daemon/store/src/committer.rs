//! The committer: one queue, one writer, one sync for all that wait.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use isochrone_ident::{Key, Kind, Namespace, Slot, Version};
use isochrone_replica::Sequence;
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout_at};

use crate::engine::{Done, Engine, Spoiled, Terms};
use crate::shared::Shared;
use crate::tables::Snapshot;
use crate::words::{Changed, Committed, Durability, WriteSet};
use crate::work::Work;
use crate::{Driver, StoreOptions, WriteError};

/// Gets the result of a job; whoever asked may be gone.
type Reply<T> = oneshot::Sender<Result<T, WriteError>>;

/// A record to forget, if it has that version still.
pub(crate) type Forgotten = (Slot, Namespace, Kind, Key, Version);

/// What is asked of the committer.
pub(crate) enum Job {
    Write {
        set: WriteSet,
        _room: Room,
        reply: Reply<Committed>,
    },
    Forget {
        records: Vec<Forgotten>,
        reply: Reply<u64>,
    },
    DropOfSlot {
        slot: Slot,
        reply: Reply<u64>,
    },
    /// Sync what is not synced yet.
    Sync {
        reply: Reply<()>,
    },
    /// The engine refuses to read.
    Reopen,
    Close {
        reply: oneshot::Sender<()>,
    },
}

/// Room taken in the queue, in bytes; given back when the job is done.
pub(crate) struct Room {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Room {
    /// Takes room for `bytes`, or says that there is none. An empty queue takes anything.
    pub(crate) fn take(shared: &Arc<Shared>, bytes: u64, bytes_max: u64) -> Option<Self> {
        let before = shared.queue_bytes.fetch_add(bytes, Ordering::AcqRel);
        let room = Self { shared: Arc::clone(shared), bytes };
        (before == 0 || before + bytes <= bytes_max).then_some(room)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shared.queue_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// The answer to a job, kept back until its transaction is committed.
enum Answer {
    Written(Reply<Committed>, Result<Committed, WriteError>),
    Counted(Reply<u64>, u64),
    Synced(Reply<()>),
}

impl Answer {
    fn give(self) {
        // Whoever asked may have stopped waiting: then nobody is told.
        let _ = match self {
            Self::Written(reply, result) => reply.send(result).map_err(drop),
            Self::Counted(reply, count) => reply.send(Ok(count)).map_err(drop),
            Self::Synced(reply) => reply.send(Ok(())).map_err(drop),
        };
    }
}

impl Job {
    fn refuse(self, error: WriteError) {
        let _ = match self {
            Self::Write { reply, .. } => reply.send(Err(error)).map_err(drop),
            Self::Forget { reply, .. } | Self::DropOfSlot { reply, .. } => reply.send(Err(error)).map_err(drop),
            Self::Sync { reply } => reply.send(Err(error)).map_err(drop),
            Self::Close { reply } => reply.send(()).map_err(drop),
            Self::Reopen => Ok(()),
        };
    }

    /// Whether it is answered only after a sync.
    fn wants_sync(&self) -> bool {
        match self {
            Self::Write { set, .. } => set.durability == Durability::AtOnce,
            Self::Sync { .. } => true,
            Self::Forget { .. } | Self::DropOfSlot { .. } | Self::Reopen | Self::Close { .. } => false,
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Write { set, .. } => set.bytes(),
            _ => 0,
        }
    }

    fn is_close(&self) -> bool {
        matches!(self, Self::Close { .. })
    }

    /// Applies it to the transaction.
    fn apply(&self, work: &mut Work<'_>, shared: &Shared) -> Result<Applied, redb::Error> {
        Ok(match self {
            Self::Write { set, .. } => Applied::Written(work.apply(set, (shared.wall)())?),
            Self::Forget { records, .. } => {
                let mut count = 0;
                for (slot, ns, kind, key, version) in records {
                    count += u64::from(work.forget(*slot, ns, *kind, key, *version)?);
                }
                Applied::Counted(count)
            }
            Self::DropOfSlot { slot, .. } => Applied::Counted(work.drop_of_slot(*slot)?),
            Self::Sync { .. } | Self::Reopen | Self::Close { .. } => Applied::Nothing,
        })
    }

    fn answered(self, applied: Applied) -> Option<Answer> {
        match (self, applied) {
            (Self::Write { reply, .. }, Applied::Written(result)) => Some(Answer::Written(reply, result)),
            (Self::Forget { reply, .. } | Self::DropOfSlot { reply, .. }, Applied::Counted(count)) => Some(Answer::Counted(reply, count)),
            (Self::Sync { reply }, _) => Some(Answer::Synced(reply)),
            _ => None,
        }
    }
}

enum Applied {
    Written(Result<Committed, WriteError>),
    Counted(u64),
    Nothing,
}

pub(crate) struct Committer {
    engine: Engine,
    shared: Arc<Shared>,
    options: StoreOptions,
    queue: mpsc::Receiver<Job>,
    /// When the oldest commit was made that is not synced.
    unsynced_since: Option<Instant>,
    /// The disk itself was full; no try before then.
    full_until: Option<Instant>,
    failed: Option<String>,
    untidy: bool,
}

impl Committer {
    pub(crate) fn new(engine: Engine, shared: Arc<Shared>, options: StoreOptions, queue: mpsc::Receiver<Job>) -> Self {
        Self { engine, shared, options, queue, unsynced_since: None, full_until: None, failed: None, untidy: false }
    }

    /// Runs until it is told to close or nobody holds the store any more.
    pub(crate) async fn run(mut self) {
        while let Some(mut jobs) = self.next().await {
            let close = take_close(&mut jobs);
            if close.is_none() || !jobs.is_empty() {
                self.commit(jobs).await;
                self.engine.counting().count_page(&self.shared);
            }
            if let Some(reply) = close {
                self.close().await;
                let _ = reply.send(());
                return;
            }
        }
        self.close().await;
    }

    /// Waits for the next job, and takes along what else is there, within the bounds of a batch. An empty batch when something unsynced, or untidy, is
    /// due; `None` when nobody holds the store any more.
    async fn next(&mut self) -> Option<Vec<Job>> {
        if let Some(first) = self.count_until_asked().await {
            return Some(self.drain(first));
        }
        let first = if self.untidy {
            match self.queue.try_recv() {
                Ok(job) => Some(job),
                Err(mpsc::error::TryRecvError::Empty) => return Some(Vec::new()),
                Err(mpsc::error::TryRecvError::Disconnected) => None,
            }
        } else if let Some(since) = self.unsynced_since {
            match timeout_at(since + self.options.sync_interval, self.queue.recv()).await {
                Ok(job) => job,
                Err(_) => return Some(Vec::new()),
            }
        } else {
            self.queue.recv().await
        };
        first.map(|job| self.drain(job))
    }

    /// Counts records for their digests (E6) until there is a job, or nothing left to count, or something else to do.
    async fn count_until_asked(&mut self) -> Option<Job> {
        while self.engine.counting().is_running() && !self.untidy && !self.is_sync_due() {
            match self.queue.try_recv() {
                Ok(job) => return Some(job),
                Err(mpsc::error::TryRecvError::Disconnected) => return None,
                Err(mpsc::error::TryRecvError::Empty) => self.engine.counting().count_page(&self.shared),
            }
            yield_now().await;
        }
        None
    }

    /// A close is the last of its batch: what was queued after it finds the queue gone.
    fn drain(&mut self, first: Job) -> Vec<Job> {
        let mut bytes = first.bytes();
        let mut closes = first.is_close();
        let mut jobs = vec![first];
        while !closes && jobs.len() < self.options.batch_max && bytes < self.options.batch_bytes_max {
            let Ok(job) = self.queue.try_recv() else { break };
            bytes += job.bytes();
            closes = job.is_close();
            jobs.push(job);
        }
        jobs
    }

    /// Commits a batch and answers it.
    async fn commit(&mut self, jobs: Vec<Job>) {
        if let Some(error) = self.refusal() {
            jobs.into_iter().for_each(|job| job.refuse(error.clone()));
            return;
        }
        if jobs.iter().any(|job| matches!(job, Job::Reopen)) && self.shared.reopen_wanted.load(Ordering::Acquire) {
            self.reopen_for_readers();
        }
        let started = Instant::now();
        let sync = jobs.is_empty() || jobs.iter().any(Job::wants_sync) || self.is_sync_due();
        let shared = Arc::clone(&self.shared);
        let terms = Terms {
            sync,
            unsynced: self.unsynced_since.is_some(),
            trim_through: Sequence(shared.trim_through.load(Ordering::Acquire)),
            now: (shared.wall)(),
        };
        let done =
            self.engine.transact(&shared, terms, |work| jobs.iter().map(|job| job.apply(work, &shared)).collect::<Result<Vec<_>, _>>());
        match done {
            Ok(done) => self.finish(jobs, done, sync, started).await,
            Err(spoiled) => self.spoil(jobs, spoiled),
        }
    }

    /// Why nothing is tried at the moment.
    fn refusal(&mut self) -> Option<WriteError> {
        if let Some(reason) = &self.failed {
            return Some(WriteError::Failed(reason.clone()));
        }
        let until = self.full_until?;
        if Instant::now() < until {
            self.shared.meters.refused_full.add(1);
            return Some(WriteError::Full("the disk is full".to_owned()));
        }
        self.full_until = None;
        None
    }

    fn is_sync_due(&self) -> bool {
        self.unsynced_since.is_some_and(|since| since.elapsed() >= self.options.sync_interval)
    }

    fn reopen_for_readers(&mut self) {
        if let Err(detail) = self.engine.reopen(&self.shared) {
            tracing::error!(detail, "the store's disk could not be opened again; the next write tries once more");
        }
        self.unsynced_since = None;
    }

    /// Makes the commit visible, waits out the simulated sync, and answers.
    async fn finish(&mut self, jobs: Vec<Job>, done: Done<Vec<Applied>>, sync: bool, started: Instant) {
        let Done { results, changes, untidy } = done;
        self.untidy = untidy;
        let snapshot = match self.engine.snapshot() {
            Ok(snapshot) => snapshot,
            Err(detail) => return self.spoil(jobs, Spoiled::Fatal(detail)),
        };
        self.show(snapshot, &changes.touched);
        self.engine.counting().committed(&self.shared, &changes.differences, changes.recount.iter());
        self.shared.publish(&self.engine, changes.slots.keys().copied());
        self.note_synced(sync, changes.changed);
        if sync {
            self.wait_out_sync().await;
        }
        self.shared.meters.commit_seconds.record(started.elapsed());
        self.shared.meters.batch_size.record(u32::try_from(jobs.len()).unwrap_or(u32::MAX));
        jobs.into_iter().zip(results).filter_map(|(job, applied)| job.answered(applied)).for_each(Answer::give);
    }

    /// The order that keeps stale copies out of memory: see [`crate::memory`].
    fn show(&self, snapshot: Snapshot, touched: &[Changed]) {
        self.shared.memory.begin(touched);
        self.shared.snapshot.store(Some(Arc::new(snapshot)));
        self.shared.memory.end(touched);
        if let Some(observer) = self.shared.observer.get().filter(|_| !touched.is_empty()) {
            observer(touched);
        }
    }

    fn note_synced(&mut self, sync: bool, changed: bool) {
        if sync {
            self.unsynced_since = None;
        } else if changed {
            self.unsynced_since.get_or_insert_with(Instant::now);
        }
    }

    async fn wait_out_sync(&self) {
        if let Driver::Task { sync_latency } = self.options.driver {
            let latency = sync_latency + self.engine.medium().extra_sync_latency();
            if !latency.is_zero() {
                sleep(latency).await;
            }
        }
    }

    /// Nothing of the batch is acknowledged.
    fn spoil(&mut self, jobs: Vec<Job>, spoiled: Spoiled) {
        // What was unsynced is gone with the transaction: only relaxed writes, which promised no more.
        self.unsynced_since = None;
        self.untidy = false;
        let error = match spoiled {
            Spoiled::Full(detail) => {
                self.full_until = Some(Instant::now() + self.options.full_retry);
                self.shared.meters.refused_full.add(jobs.len() as u64);
                self.shared.publish(&self.engine, Slot::all());
                tracing::warn!(detail, "the store's disk is full: writes are refused, reads go on");
                WriteError::Full(detail)
            }
            Spoiled::Fatal(detail) => {
                self.failed = Some(detail.clone());
                tracing::error!(detail, "the store's disk has failed: nothing more is acknowledged");
                (self.options.on_fatal)(detail.clone());
                WriteError::Failed(detail)
            }
        };
        jobs.into_iter().for_each(|job| job.refuse(error.clone()));
    }

    /// Syncs what is unsynced and closes the disk.
    async fn close(&mut self) {
        if self.unsynced_since.is_some() {
            self.commit(Vec::new()).await;
        }
        self.engine.close(&self.shared);
    }
}

/// Takes the close off the end of a batch.
fn take_close(jobs: &mut Vec<Job>) -> Option<oneshot::Sender<()>> {
    match jobs.pop()? {
        Job::Close { reply } => Some(reply),
        job => {
            jobs.push(job);
            None
        }
    }
}
