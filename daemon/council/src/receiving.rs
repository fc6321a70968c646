//! A snapshot that comes in, chunk by chunk, checked before the engine may install it.

use std::io::Cursor;

use openraft::error::{InstallSnapshotError, SnapshotMismatch};
use openraft::{Snapshot, SnapshotSegmentId};

use crate::raft::{InstallRequest, SnapshotMeta, Types, Vote};
use crate::storage;

/// What to do with a chunk.
pub(crate) enum Received {
    /// More is to come.
    Part,
    /// It is complete and sound.
    Whole(Snapshot<Types>),
    /// It doesn't continue what is here: the sender begins again.
    Mismatch(InstallSnapshotError),
    /// It can't be taken.
    Refused(&'static str),
}

/// The one snapshot that is coming in, at most.
#[derive(Default)]
pub(crate) struct Receiving {
    from: Option<(Vote, SnapshotMeta)>,
    bytes: Vec<u8>,
}

impl Receiving {
    /// Takes a chunk; never holds more than `bytes_max`.
    pub(crate) fn take(&mut self, chunk: InstallRequest, bytes_max: usize) -> Received {
        let source = (chunk.vote, chunk.meta);
        if chunk.offset == 0 {
            *self = Self { from: Some(source.clone()), bytes: Vec::new() };
        }
        let expected = if self.from.as_ref() == Some(&source) { self.bytes.len() as u64 } else { 0 };
        if self.from.as_ref() != Some(&source) || chunk.offset != expected {
            let id = source.1.snapshot_id;
            let segment = |offset| SnapshotSegmentId { id: id.clone(), offset };
            let mismatch = SnapshotMismatch { expect: segment(expected), got: segment(chunk.offset) };
            return Received::Mismatch(InstallSnapshotError::SnapshotMismatch(mismatch));
        }
        if self.bytes.len() + chunk.data.len() > bytes_max {
            *self = Self::default();
            return Received::Refused("the snapshot is too large");
        }
        self.bytes.extend_from_slice(&chunk.data);
        if chunk.done { self.finish(source.1) } else { Received::Part }
    }

    fn finish(&mut self, meta: SnapshotMeta) -> Received {
        let bytes = std::mem::take(self).bytes;
        if storage::is_sound(&bytes) {
            Received::Whole(Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) })
        } else {
            Received::Refused("the snapshot doesn't decode")
        }
    }
}
