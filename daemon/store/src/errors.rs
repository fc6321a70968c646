//! What can go wrong, an enum an operation.

use isochrone_ident::{Key, Kind, Namespace};
use isochrone_replica::ChangeRefused;

/// Why a store could not be opened. Nothing on the disk was changed, but for what an empty or crashed file needs.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file is in use, most likely by another daemon.
    #[error("{medium} is in use by another process")]
    InUse {
        /// Which medium.
        medium: String,
    },
    /// Written by a version of the daemon that this one doesn't know.
    #[error(
        "{medium} has store format {found}, and this version reads format {supported}: start it with the version that wrote it, or empty its data directory and let it join anew"
    )]
    UnknownFormat {
        /// Which medium.
        medium: String,
        /// The format it says it has.
        found: u32,
        /// The only format read by this version.
        supported: u32,
    },
    /// Damaged beyond what checksummed commits can repair, or not a store at all.
    #[error(
        "{medium} is damaged ({detail}): restore it, or empty its data directory and let the daemon join anew and be filled by its peers"
    )]
    Corrupt {
        /// Which medium.
        medium: String,
        /// What was found.
        detail: String,
    },
    /// It is the strong store of another member: of another daemon, or of this one before it lost its disk (Q15).
    #[error(
        "{medium} belongs to {found}, and this daemon is {expected}: put back the file that belongs to it, or empty its data directory and let it join anew as a new member"
    )]
    Foreign {
        /// Which medium.
        medium: String,
        /// Whose it is.
        found: String,
        /// Who wants to open it.
        expected: String,
    },
    /// The disk refused to read or write.
    #[error("{medium} can't be opened: {detail}")]
    Disk {
        /// Which medium.
        medium: String,
        /// What the system said.
        detail: String,
    },
    /// Options that can't hold together.
    #[error("store options: {0}")]
    Options(&'static str),
}

/// Why a write set was not committed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// No room: the disk, or its budget, is full (E11; 507). Nothing of the set was applied; reads go on.
    #[error("the store is full: {0}")]
    Full(String),
    /// A change was refused, and with it all of the set (E12; 4xx). Nothing was applied, and no dot was given out.
    #[error(transparent)]
    Refused(#[from] ChangeRefused),
    /// More is queued than the bounds allow (503). Nothing of the set was applied.
    #[error("the store's queue is full")]
    Busy,
    /// The disk failed to sync, or to write for another reason than want of room. Whether the set is on the disk is unknown; the store takes no more
    /// writes, and its daemon should stop.
    #[error("the store's disk has failed: {0}")]
    Failed(String),
    /// The store was closed. If the set had been queued, its outcome is unknown.
    #[error("the store is closed")]
    Closed,
}

impl WriteError {
    /// Whether nothing was applied for certain (a 503 or 507 rather than a 504).
    #[must_use]
    pub const fn is_unapplied(&self) -> bool {
        matches!(self, Self::Full(_) | Self::Busy | Self::Refused(_))
    }
}

/// Why something could not be read. The store is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// What is stored for this key fails its checksum; other keys are not affected. A write to the key replaces it.
    #[error("the record of the {kind} {ns}/{key} is corrupt")]
    Corrupt {
        /// The key's namespace.
        ns: Namespace,
        /// What the key should hold.
        kind: Kind,
        /// The key.
        key: Key,
    },
    /// A fact or a kept answer fails its checksum.
    #[error("what is stored as {0} is corrupt")]
    CorruptValue(String),
    /// The disk refused to read.
    #[error("the store's disk can't be read: {0}")]
    Disk(String),
    /// The store was closed, or its disk could not be opened again after it had been full.
    #[error("the store is closed")]
    Closed,
}
