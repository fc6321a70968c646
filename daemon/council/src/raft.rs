//! The types that the consensus engine (openraft) is instantiated with.
//!
//! The engine's own elections are switched off: its election time-out comes from a thread-local random source that no seed
//! reaches, is drawn once per process, and can't follow measured round trips. [`crate::pulse`] drives elections and heartbeats instead,
//! from a seeded source. What the engine still draws has no visible effect, so its stock tokio runtime is deterministic.

use std::io::Cursor;

use isochrone_ident::{NodeId, StoreId};
use serde::{Deserialize, Serialize};

use crate::command::{Outcome, Proposal};

/// A member's place in the engine's membership: which store sits there (Q15). A node that comes back with another store must first leave its
/// seat, or the engine would take the empty log for a lost one. Addresses are in the state, and the [`crate::Wire`] finds them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seat {
    pub(crate) store: StoreId,
}

/// The engine's type parameters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Types;

impl openraft::RaftTypeConfig for Types {
    type D = Proposal;
    type R = Option<Outcome>;
    type NodeId = NodeId;
    type Node = Seat;
    type Entry = openraft::Entry<Self>;
    type SnapshotData = Cursor<Vec<u8>>;
    type AsyncRuntime = openraft::TokioRuntime;
    type Responder = openraft::impls::OneshotResponder<Self>;
}

pub(crate) type Raft = openraft::Raft<Types>;
pub(crate) type Entry = openraft::Entry<Types>;
pub(crate) type LogId = openraft::LogId<NodeId>;
pub(crate) type Vote = openraft::Vote<NodeId>;
pub(crate) type Membership = openraft::Membership<NodeId, Seat>;
pub(crate) type StoredMembership = openraft::StoredMembership<NodeId, Seat>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<NodeId, Seat>;
pub(crate) type RaftMetrics = openraft::RaftMetrics<NodeId, Seat>;
pub(crate) type AppendRequest = openraft::raft::AppendEntriesRequest<Types>;
pub(crate) type AppendResponse = openraft::raft::AppendEntriesResponse<NodeId>;
pub(crate) type VoteRequest = openraft::raft::VoteRequest<NodeId>;
pub(crate) type VoteResponse = openraft::raft::VoteResponse<NodeId>;
pub(crate) type InstallRequest = openraft::raft::InstallSnapshotRequest<Types>;
pub(crate) type InstallResponse = openraft::raft::InstallSnapshotResponse<NodeId>;
pub(crate) type InstallError = openraft::error::RaftError<NodeId, openraft::error::InstallSnapshotError>;
