//! A majority of the council lost for good: those left found it anew, from what one of them has.
//!
//! ```text
//!   journal here --whole log--> state --lost are given up--> new council of one voter --file--> journals of the others left
//!                                 |
//!                                 +--> Recovery: what may be lost, for the operator to agree to
//! ```
//!
//! Done to journals of daemons that are stopped, because no protocol could: every rule of the council asks for a majority. The log is taken whole, with
//! what was perhaps not yet decided, as the daemon with the longest log would have taken it into its election: a change that was acknowledged is
//! lost only if nobody left has it. The new council has a number of its own, and the lost ones are removed in it, so no message of the old one
//! is heard any more and no daemon of it comes back. If the lost ones still run somewhere they are a cluster of their own, which nothing
//! can forbid: they must be shut down for ever first.
//!
//! The voter is the one daemon whose journal it was; the leader takes the others in as the members say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isochrone_ident::{NodeId, Slot, StoreId};
use isochrone_placement::Cut;
use openraft::CommittedLeaderId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redb::Database;
use serde::{Deserialize, Serialize};

use crate::command::{CouncilId, Member, Outcome, Refusal};
use crate::driver::giving_up;
use crate::journal::{Journal, JournalError, KeptSnapshot, open, seal};
use crate::meters::Meters;
use crate::raft::{LogId, Membership, Seat, SnapshotMeta, StoredMembership, Vote};
use crate::state::ClusterState;
use crate::storage::{freeze, replay};

/// What a checksum of a recovery file is over, beside its body.
const FILE_LABEL: &[u8] = b"council recovery";

/// Why a council is not recovered. The journal is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The journal can't be read, or not written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// This daemon was in no council.
    #[error("this daemon is in no council: there is nothing to recover from here")]
    NotFounded,
    /// This node is not a member.
    #[error("node {0} is not a member of the council that its journal tells of")]
    NotAMember(NodeId),
    /// The daemon itself is among the lost.
    #[error("node {0} is this daemon, so it is not lost")]
    NotLost(NodeId),
    /// The council can go on without them.
    #[error(
        "{left} of {voters} voters are left, a majority: the council goes on without those lost. Start the others, and give the lost up one by one with `isochrone members remove --lost`"
    )]
    NotNeeded {
        /// Who votes and is not lost.
        left: usize,
        /// How many vote.
        voters: usize,
    },
    /// What the lost ones leave behind is nothing that could go on.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// This file is none, or a damaged one.
    #[error("this is no recovery file, or it is damaged")]
    BadFile,
    /// The file is of another council.
    #[error("the recovery file is of council {found:016x}, and this daemon's is {expected:016x}")]
    OtherCouncil {
        /// This daemon's.
        expected: u64,
        /// The file's.
        found: u64,
    },
    /// This daemon was given up in that recovery.
    #[error("this daemon was given up in that recovery: it can join only with an empty data directory")]
    GivenUp,
    /// This daemon knows more than the one that the file comes from.
    #[error(
        "this daemon's journal goes to entry {mine} of election {my_term}, further than the recovery's {theirs} of {their_term}: recover from \
         this daemon instead"
    )]
    Newer {
        /// The last index here.
        mine: u64,
        /// Its election.
        my_term: u64,
        /// The last index there.
        theirs: u64,
        /// Its election.
        their_term: u64,
    },
}

/// What recovering from this daemon's journal comes to.
#[derive(Debug, Clone)]
pub struct Recovery {
    /// The council that ends.
    pub old: CouncilId,
    /// The council that begins.
    pub new: CouncilId,
    /// The last entry of the log here: changes that were ordered after it are lost. A later entry at another daemon left makes that one the
    /// better place to recover from, an election later even with fewer entries.
    pub last_index: u64,
    /// The election of that entry.
    pub last_term: u64,
    /// Who is given up.
    pub lost: Vec<Member>,
    /// Who is left, this daemon included.
    pub left: Vec<Member>,
    /// The strong sets that lose their majority; of those that don't, nothing is lost.
    pub cuts: Vec<Cut>,
    /// The eventual slots of which nobody left is a replica: what only the lost ones had of them is lost.
    pub eventual_lost: Vec<Slot>,
    founding: Founding,
}

/// The journal of a council that begins, as all that are left write it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Founding {
    /// The council that it replaces.
    old: CouncilId,
    /// How far that one's log goes.
    last: LogId,
    snapshot: KeptSnapshot,
}

impl Recovery {
    /// Looks at what is left, and changes nothing. `seed` draws the number of the new council.
    ///
    /// # Errors
    /// [`RecoverError`].
    pub fn look(storage: Database, first: ClusterState, me: NodeId, lost: &BTreeSet<NodeId>, seed: u64) -> Result<Self, RecoverError> {
        let (mut state, last) = read(&journal(storage)?, first, me)?;
        check_lost(&state, me, lost)?;
        let old = state.council;
        let (gone, left): (Vec<Member>, Vec<Member>) = state.members.values().cloned().partition(|member| lost.contains(&member.node));
        let is_lost = |node: NodeId| lost.contains(&node) || !state.members.contains_key(&node);
        let cuts = state.placement.strong.cuts(is_lost).collect();
        let eventual = &state.placement.eventual;
        let eventual_lost = Slot::all().filter(|&slot| eventual.read_set(slot).all(is_lost)).collect();
        give_up(&mut state, lost)?;
        state.council = CouncilId(StdRng::seed_from_u64(seed ^ old.0).random_range(1..=u64::MAX));
        let founding = Founding { old, last, snapshot: found(&mut state, last, me)? };
        let (last_index, last_term) = (last.index, last.leader_id.term);
        Ok(Self { old, new: state.council, last_index, last_term, lost: gone, left, cuts, eventual_lost, founding })
    }

    /// Begins the new council in the journal of the daemon that was looked at.
    ///
    /// # Errors
    /// [`RecoverError::Journal`]; the journal is as it was, or the disk has failed.
    pub fn begin(&self, storage: Database) -> Result<(), RecoverError> {
        Ok(journal(storage)?.begin_anew(&self.founding.snapshot)?)
    }

    /// The file from which the others left take the new council: see [`follow`].
    ///
    /// # Errors
    /// [`RecoverError::Journal`] when it can't be encoded.
    pub fn file(&self) -> Result<Vec<u8>, RecoverError> {
        Ok(seal(FILE_LABEL, &self.founding)?)
    }
}

/// Takes the new council from a recovery's file into the journal of another daemon that is left. May be repeated.
///
/// # Errors
/// [`RecoverError`].
pub fn follow(storage: Database, first: ClusterState, me: NodeId, file: &[u8]) -> Result<CouncilId, RecoverError> {
    let founding: Founding = open(FILE_LABEL, file, || "recovery".into()).map_err(|_| RecoverError::BadFile)?;
    let new = crate::storage::thaw(&founding.snapshot.bytes).map_err(|_| RecoverError::BadFile)?;
    let journal = journal(storage)?;
    let (state, mine) = read(&journal, first, me)?;
    if store_of(&new, me) != store_of(&state, me) {
        return Err(RecoverError::GivenUp);
    }
    if state.council == new.council {
        return Ok(new.council);
    }
    if state.council != founding.old {
        return Err(RecoverError::OtherCouncil { expected: state.council.0, found: founding.old.0 });
    }
    let theirs = founding.last;
    if mine > theirs {
        let (my_term, their_term) = (mine.leader_id.term, theirs.leader_id.term);
        return Err(RecoverError::Newer { mine: mine.index, my_term, theirs: theirs.index, their_term });
    }
    journal.begin_anew(&founding.snapshot)?;
    Ok(new.council)
}

fn journal(storage: Database) -> Result<Journal, JournalError> {
    let told = |why: String| tracing::error!(%why, "the council's journal can't be written");
    Journal::open(storage, Arc::new(told), Meters::new())
}

fn store_of(state: &ClusterState, node: NodeId) -> Option<StoreId> {
    state.members.get(&node).map(|member| member.store)
}

/// The state after the whole log, and its last entry.
fn read(journal: &Journal, first: ClusterState, me: NodeId) -> Result<(ClusterState, LogId), RecoverError> {
    let state = replay(journal, first)?;
    match journal.last()? {
        Some(_) if state.is_founded() && store_of(&state, me).is_none() => Err(RecoverError::NotAMember(me)),
        Some(last) if state.is_founded() => Ok((state, last)),
        _ => Err(RecoverError::NotFounded),
    }
}

fn check_lost(state: &ClusterState, me: NodeId, lost: &BTreeSet<NodeId>) -> Result<(), RecoverError> {
    if lost.contains(&me) {
        return Err(RecoverError::NotLost(me));
    }
    if let Some(&stranger) = lost.iter().find(|node| !state.members.contains_key(node)) {
        return Err(Refusal::UnknownMember(stranger).into());
    }
    let (voters, left) = (state.voters.len(), state.voters.difference(lost).count());
    if left > voters / 2 { Err(RecoverError::NotNeeded { left, voters }) } else { Ok(()) }
}

fn give_up(state: &mut ClusterState, lost: &BTreeSet<NodeId>) -> Result<(), Refusal> {
    match state.apply(giving_up(state, lost)) {
        Outcome::Applied { .. } => Ok(()),
        Outcome::Refused(refusal) => Err(refusal),
    }
}

/// The snapshot with which the new council begins: one entry after the old log, in an election after its last, decided by its only voter.
fn found(state: &mut ClusterState, last: LogId, me: NodeId) -> Result<KeptSnapshot, JournalError> {
    let first = LogId::new(CommittedLeaderId::new(last.leader_id.term + 1, me), last.index + 1);
    state.voters = BTreeSet::from([me]);
    state.applied = first.index;
    let seats: BTreeMap<NodeId, Seat> = store_of(state, me).map(|store| (me, Seat { store })).into_iter().collect();
    let membership = StoredMembership::new(Some(first), Membership::new(vec![state.voters.clone()], seats));
    let meta = SnapshotMeta { last_log_id: Some(first), last_membership: membership, snapshot_id: format!("recovered-{first}") };
    Ok(KeptSnapshot { meta, bytes: freeze(state)? })
}

impl Journal {
    /// Everything before is dropped for that snapshot, in one synced transaction.
    fn begin_anew(&self, snapshot: &KeptSnapshot) -> Result<(), JournalError> {
        let corrupt = || JournalError::Corrupt { row: "snapshot".into(), why: "it names no entry" };
        let first = snapshot.meta.last_log_id.ok_or_else(corrupt)?;
        let vote = Vote::new(first.leader_id.term, first.leader_id.node_id);
        self.replace(snapshot, &vote, first)
    }
}
