//! The engine's storage interfaces over the [`Journal`], and the state machine that publishes each new state.
//!
//! The state itself lives in memory: it comes back from the newest snapshot and the committed log after it.

use std::fmt::Debug;
use std::io::Cursor;
use std::ops::RangeBounds;
use std::sync::Arc;

use arc_swap::ArcSwap;
use openraft::storage::{LogFlushed, RaftLogStorage, RaftStateMachine, Snapshot};
use openraft::{AnyError, EntryPayload, LogState, OptionalSend, RaftLogReader, RaftSnapshotBuilder, StorageIOError};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::command::Outcome;
use crate::journal::{Journal, JournalError, KeptSnapshot};
use crate::meters::Meters;
use crate::raft::{Entry, LogId, SnapshotMeta, StoredMembership, Types, Vote};
use crate::state::{ClusterState, Retired};
use crate::strong::StrongReplicas;
use isochrone_ident::NodeId;

type StorageError = openraft::StorageError<NodeId>;
type IoError = StorageIOError<NodeId>;

/// The most bytes of log entries read, and sent, at once; a single larger entry goes alone.
const BATCH_BYTES_MAX: u64 = 512 * 1024;

fn source(error: &JournalError) -> AnyError {
    AnyError::new(error)
}

/// Vote and log.
#[derive(Clone)]
pub(crate) struct LogStore {
    journal: Journal,
}

impl LogStore {
    pub(crate) const fn new(journal: Journal) -> Self {
        Self { journal }
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        Ok(self.journal.entries(range).map_err(|e| IoError::read_logs(source(&e)))?)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        Ok(self.journal.entries_within(start..end, BATCH_BYTES_MAX).map_err(|e| IoError::read_logs(source(&e)))?)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let purged = self.journal.purged().map_err(|e| IoError::read_logs(source(&e)))?;
        let last = self.journal.last().map_err(|e| IoError::read_logs(source(&e)))?;
        Ok(LogState { last_purged_log_id: purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        Ok(self.journal.save_vote(vote).map_err(|e| IoError::write_vote(source(&e)))?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.journal.vote().map_err(|e| IoError::read_vote(source(&e)))?)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        Ok(self.journal.save_committed(committed).map_err(|e| IoError::write_logs(source(&e)))?)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.journal.committed().map_err(|e| IoError::read_logs(source(&e)))?)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.journal.append(entries).map_err(|e| IoError::write_logs(source(&e)))?;
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        Ok(self.journal.truncate(log_id.index).map_err(|e| IoError::write_logs(source(&e)))?)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        Ok(self.journal.purge(log_id).map_err(|e| IoError::write_logs(source(&e)))?)
    }
}

/// Where the newest state is read from, by anybody and without a lock.
#[derive(Clone)]
pub(crate) struct Published {
    state: Arc<ArcSwap<ClusterState>>,
    changed: Arc<watch::Sender<u64>>,
}

impl Published {
    pub(crate) fn new(state: ClusterState) -> Self {
        Self { changed: Arc::new(watch::Sender::new(state.applied)), state: Arc::new(ArcSwap::from_pointee(state)) }
    }

    pub(crate) fn state(&self) -> Arc<ClusterState> {
        self.state.load_full()
    }

    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn publish(&self, state: &ClusterState) {
        self.state.store(Arc::new(state.clone()));
        self.changed.send_replace(state.applied);
    }
}

/// A snapshot's bytes: a version first.
#[derive(Serialize, Deserialize)]
enum Frozen {
    V1(ClusterState),
    /// With the retired stores, which the state itself leaves out.
    V2(ClusterState, Retired),
    /// With what belongs to the strong tables, too.
    V3(ClusterState, Retired, StrongReplicas),
}

/// Why bytes are no snapshot that this version can install.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unsound;

impl Frozen {
    fn of(state: &ClusterState) -> Self {
        Self::V3(state.clone(), state.retired.clone(), state.strong.clone())
    }

    fn thawed(self) -> Result<ClusterState, Unsound> {
        let (mut state, retired, strong) = match self {
            Self::V1(state) => (state, Retired::new(), None),
            Self::V2(state, retired) => (state, retired, None),
            Self::V3(state, retired, strong) => (state, retired, Some(strong)),
        };
        state.retired = retired;
        state.strong = strong.unwrap_or_else(|| StrongReplicas::unwritten(&state.placement.strong, &state.removed));
        if state.strong.fit(&state.placement.strong) { Ok(state) } else { Err(Unsound) }
    }
}

pub(crate) fn freeze(state: &ClusterState) -> Result<Vec<u8>, JournalError> {
    postcard::to_allocvec(&Frozen::of(state)).map_err(|_| JournalError::Corrupt { row: "snapshot".into(), why: "can't be encoded" })
}

pub(crate) fn thaw(bytes: &[u8]) -> Result<ClusterState, Unsound> {
    postcard::from_bytes::<Frozen>(bytes).map_err(|_| Unsound)?.thawed()
}

/// Whether these bytes are a snapshot that this version can install.
pub(crate) fn is_sound(bytes: &[u8]) -> bool {
    thaw(bytes).is_ok()
}

/// The state machine.
pub(crate) struct Machine {
    journal: Journal,
    meters: Meters,
    state: ClusterState,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    published: Published,
}

impl Machine {
    /// The machine as the newest snapshot left it, or `first` when there is none.
    pub(crate) fn open(journal: &Journal, meters: Meters, first: ClusterState) -> Result<(Self, Published), JournalError> {
        let published = Published::new(first.clone());
        let mut machine = Self {
            journal: journal.clone(),
            meters,
            state: first,
            last_applied: None,
            membership: StoredMembership::default(),
            published: published.clone(),
        };
        if let Some(kept) = journal.snapshot()? {
            machine.thaw(&kept.meta, &kept.bytes)?;
        }
        Ok((machine, published))
    }

    fn thaw(&mut self, meta: &SnapshotMeta, bytes: &[u8]) -> Result<(), JournalError> {
        self.state = thaw(bytes).map_err(|_| JournalError::Corrupt { row: "snapshot".into(), why: "its state doesn't decode" })?;
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.published.publish(&self.state);
        Ok(())
    }

    fn apply_one(&mut self, entry: Entry) -> Option<Outcome> {
        let index = entry.log_id.index;
        self.last_applied = Some(entry.log_id);
        self.state.applied = index;
        match entry.payload {
            EntryPayload::Blank => None,
            EntryPayload::Normal(proposal) => Some(self.state.apply_proposal(proposal, index)),
            EntryPayload::Membership(membership) => {
                self.state.voters = membership.voter_ids().collect();
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                None
            }
        }
    }

    fn freeze(&self) -> Result<KeptSnapshot, JournalError> {
        let bytes = freeze(&self.state)?;
        let snapshot_id = self.last_applied.map_or_else(String::new, |id| id.to_string());
        let meta = SnapshotMeta { last_log_id: self.last_applied, last_membership: self.membership.clone(), snapshot_id };
        Ok(KeptSnapshot { meta, bytes })
    }
}

/// The state after everything in the journal, decided or not; `first` when there is nothing.
pub(crate) fn replay(journal: &Journal, first: ClusterState) -> Result<ClusterState, JournalError> {
    let (mut machine, _) = Machine::open(journal, Meters::new(), first)?;
    let next = machine.last_applied.map_or(0, |id| id.index + 1);
    for entry in journal.entries(next..)? {
        machine.apply_one(entry);
    }
    Ok(machine.state)
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Option<Outcome>>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let outcomes = entries.into_iter().map(|entry| self.apply_one(entry)).collect();
        self.published.publish(&self.state);
        self.meters.applied(self.state.applied);
        Ok(outcomes)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { journal: self.journal.clone(), frozen: self.freeze().map_err(|e| source(&e)) }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Box<Cursor<Vec<u8>>>) -> Result<(), StorageError> {
        let failed = |e: &JournalError| IoError::write_snapshot(Some(meta.signature()), source(e));
        let kept = KeptSnapshot { meta: meta.clone(), bytes: snapshot.into_inner() };
        self.thaw(&kept.meta, &kept.bytes).map_err(|e| failed(&e))?;
        self.journal.save_snapshot(&kept).map_err(|e| failed(&e))?;
        self.meters.installed();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        let kept = self.journal.snapshot().map_err(|e| IoError::read_snapshot(None, source(&e)))?;
        Ok(kept.map(|kept| Snapshot { meta: kept.meta, snapshot: Box::new(Cursor::new(kept.bytes)) }))
    }
}

/// Keeps a snapshot that was frozen when it was asked for.
pub(crate) struct Builder {
    journal: Journal,
    frozen: Result<KeptSnapshot, AnyError>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        let kept = self.frozen.clone().map_err(|e| IoError::write_snapshot(None, e))?;
        self.journal.save_snapshot(&kept).map_err(|e| IoError::write_snapshot(None, source(&e)))?;
        Ok(Snapshot { meta: kept.meta, snapshot: Box::new(Cursor::new(kept.bytes)) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test a panic is the message
mod tests {
    use isochrone_ident::ClusterName;

    use super::*;

    #[test]
    fn snapshots_of_earlier_versions_still_read() {
        let state = ClusterState::new(ClusterName::new("c").unwrap());
        for frozen in [Frozen::V1(state.clone()), Frozen::V2(state.clone(), Retired::new())] {
            assert_eq!(thaw(&postcard::to_allocvec(&frozen).unwrap()), Ok(state.clone()));
        }
        assert_eq!(thaw(&freeze(&state).unwrap()), Ok(state));
        assert_eq!(thaw(&[9, 9, 9]), Err(Unsound));
    }
}
