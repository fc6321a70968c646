//! What may be asked of the council, and what it answers: values only.

use isochrone_ident::{ClusterName, Epoch, Incarnation, NodeId, Region, Slot, StoreId, Zone};
use isochrone_placement::{Capacity, RegionWeights, SlotTable};
use serde::{Deserialize, Serialize};

/// A daemon as the council knows it. `node` and `store` together are its identity (M1); the rest is what it said at its last join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The daemon's id.
    pub node: NodeId,
    /// The id of its durable store: a lost disk is a new store, and so a new member (Q15).
    pub store: StoreId,
    /// Where it is.
    pub region: Region,
    /// The failure domain inside the region, where it has one.
    pub zone: Option<Zone>,
    /// Where its peers reach it, `host:port`, 1 to [`Member::ADDRESS_BYTES_MAX`] bytes.
    pub address: String,
    /// How much it can hold, 100 = one share.
    pub capacity: Capacity,
    /// How often it had started when it joined (M1). It only grows.
    pub incarnation: Incarnation,
}

impl Member {
    /// The longest address, in bytes.
    pub const ADDRESS_BYTES_MAX: usize = 261;
}

/// Which of the two placements of the cluster (P2, P6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SlotClass {
    /// The slots of eventual namespaces.
    Eventual,
    /// The slots of strong namespaces.
    Strong,
}

/// The number of one council, drawn when it was founded; never 0. Two councils that were founded apart never mix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct CouncilId(pub u64);

/// Both tables of a placement, with the digests that their proposer saw (P2: a node checks the hash and never trusts its own
/// computation over the stored table).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tables {
    /// Of the eventual class.
    pub eventual: SlotTable,
    /// Of the strong class.
    pub strong: SlotTable,
    /// [`SlotTable::digest`] of `eventual`, as computed by the proposer.
    pub eventual_digest: u64,
    /// [`SlotTable::digest`] of `strong`, as computed by the proposer.
    pub strong_digest: u64,
    /// Hash of everything that the tables were computed from, except round trips: members, weights, width.
    pub basis: u64,
    /// The weights of the regions that the tables were computed with (P3).
    pub weights: RegionWeights,
}

impl Tables {
    /// The tables with their digests.
    #[must_use]
    pub fn new(eventual: SlotTable, strong: SlotTable, basis: u64, weights: RegionWeights) -> Self {
        let (eventual_digest, strong_digest) = (eventual.digest(), strong.digest());
        Self { eventual, strong, eventual_digest, strong_digest, basis, weights }
    }
}

/// One change of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The first command of every council: one member, its file, its tables.
    Found {
        /// The new council's number.
        council: CouncilId,
        /// The cluster's name.
        cluster: ClusterName,
        /// The only member.
        member: Member,
        /// The cluster file.
        text: String,
        /// Replicas of a slot, 1 to 7.
        width: u8,
        /// The placement of one member.
        tables: Box<Tables>,
    },
    /// A daemon joins, or tells that it has started again or moved. Idempotent.
    Join(Member),
    /// A member leaves for ever: this store under this id never comes back.
    Remove(NodeId),
    /// A new cluster file.
    ApplyFile {
        /// The whole file.
        text: String,
        /// The revision that it was edited from; `None` overwrites whatever there is.
        expected_revision: Option<u64>,
        /// Replicas of a slot that the file asks for, 1 to 7.
        width: u8,
    },
    /// New tables: both classes begin to move. Only from stable.
    BeginEpoch {
        /// The epochs (eventual, strong) that the tables follow.
        from: (Epoch, Epoch),
        /// The tables.
        tables: Box<Tables>,
    },
    /// The data of these slots is in place at their new replicas. Idempotent.
    Moved {
        /// Whose slots.
        class: SlotClass,
        /// The epoch that the slots leave.
        from: Epoch,
        /// Which slots, at most 4,096.
        slots: Vec<Slot>,
    },
    /// A member has been away for too long: its store never comes back, but its node may, with another one (E7). Idempotent.
    Retire {
        /// The member.
        node: NodeId,
        /// The store that it had when it was last heard: a member that has joined with another one in between stays.
        store: StoreId,
    },
    /// These members are lost for good, by an operator's word. Strong sets that lose their majority with them go on with those left of them, who decide
    /// from what they have: what only the lost ones had is lost (see [`isochrone_placement::ClassPlacement::without`]).
    GiveUp {
        /// Who is lost; who was removed before may be named again.
        nodes: Vec<NodeId>,
        /// The strong class's epoch.
        from: Epoch,
        /// Where strong slots begin anew of which nobody has anything: a table of those left.
        strong: Box<SlotTable>,
        /// [`SlotTable::digest`] of `strong`, as computed by the proposer.
        digest: u64,
    },
}

impl Command {
    /// A word for logs and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Found { .. } => "found",
            Self::Join(_) => "join",
            Self::Remove(_) => "remove",
            Self::ApplyFile { .. } => "apply_file",
            Self::BeginEpoch { .. } => "begin_epoch",
            Self::Moved { .. } => "moved",
            Self::Retire { .. } => "retire",
            Self::GiveUp { .. } => "give_up",
        }
    }
}

/// Names one proposal, so that sending it again applies it once. Unique because an incarnation is used by one process only (M1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId {
    /// Who proposes.
    pub node: NodeId,
    /// In which of its starts.
    pub incarnation: Incarnation,
    /// The how-manieth of that start.
    pub number: u64,
}

/// A command under its request id: what the log carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The request id.
    pub request: RequestId,
    /// What is asked.
    pub command: Command,
}

/// What became of a command that was ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It is part of the state from this log index on.
    Applied {
        /// The log index.
        index: u64,
    },
    /// The state is as it was.
    Refused(Refusal),
}

/// Why the council refuses a command. The state is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// Nothing was founded yet.
    #[error("the council is not founded yet")]
    NotFounded,
    /// Founding a second time.
    #[error("the council is founded already")]
    AlreadyFounded,
    /// The id belongs to a member with another store (M1, Q15).
    #[error("node id {0} is taken by another store: a lost disk is a new member, so remove the old one first")]
    IdTaken(NodeId),
    /// That store was removed, for ever (Q15).
    #[error("node {0} with store {1} was removed from the cluster and can't come back")]
    Removed(NodeId, StoreId),
    /// An older start of a member speaks (M1).
    #[error("node {node} has already joined with incarnation {known}, later than {given}")]
    OldIncarnation {
        /// Who.
        node: NodeId,
        /// What the state has.
        known: Incarnation,
        /// What was said.
        given: Incarnation,
    },
    /// An address of no bytes or too many.
    #[error("an address has 1 to 261 bytes")]
    BadAddress,
    /// Nobody of that id.
    #[error("node {0} is not a member")]
    UnknownMember(NodeId),
    /// A cluster keeps one member.
    #[error("node {0} is the last member")]
    LastMember(NodeId),
    /// The file was changed by somebody else.
    #[error("the cluster file is at revision {actual}, not {expected}")]
    RevisionConflict {
        /// What the proposer had read.
        expected: u64,
        /// What there is.
        actual: u64,
    },
    /// A file beyond the bound.
    #[error("the cluster file has {bytes} bytes, more than {bytes_max}")]
    FileTooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// A width outside 1 to 7.
    #[error("a slot has 1 to 7 replicas, not {0}")]
    BadWidth(u8),
    /// Slots still move: the next epoch begins from stable only.
    #[error("slots are still moving")]
    StillMoving,
    /// The proposer computed from another epoch, or tells of slots in an epoch that is not yet.
    #[error("the placement is not at that epoch")]
    WrongEpoch,
    /// A table that isn't what its digest says (P2).
    #[error("the table doesn't match its digest")]
    BadDigest,
    /// A table that names somebody who is no member.
    #[error("the table names {0}, who is not a member")]
    UnknownReplica(NodeId),
    /// A table without replicas.
    #[error("the table is empty")]
    EmptyTable,
    /// That store was away for too long (E7): its node may join with an empty one.
    #[error("node {0} with store {1} was away for too long and was retired: it starts over with an empty store")]
    Retired(NodeId, StoreId),
    /// The placement still names the node, for the store that it had before: taken in now, its new one would be believed to hold that data.
    /// Passes by itself; try again.
    #[error("the data of node {0}'s former store is still being placed elsewhere; it can join once that is done")]
    StillPlaced(NodeId),
    /// Without the node a strong slot would be left without a majority, and could not even be moved. Passes by itself once the data of those who
    /// left before is placed elsewhere.
    #[error(
        "without node {node}, strong slot {slot} would lose the majority of its replicas: wait until the data of those that left before is placed \
         elsewhere; if too many of them are lost for good, give them up with `isochrone members remove --lost`"
    )]
    StrongMajority {
        /// Who was to leave.
        node: NodeId,
        /// One such slot.
        slot: Slot,
    },
}
