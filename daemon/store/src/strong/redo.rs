//! The redo log in front of the tables: what was written since they were last brought up.
//!
//! ```text
//!   file:  | half 0, 16 MiB: frame 41 | frame 42 | .. | half 1, 16 MiB: frame 57 | frame 58 | .. | tables .. |
//! ```
//!
//! A group is one frame: one write, one sync. Every frame begins on a page of its own, so that writing one never touches a page that holds another, acknowledged one. A
//! *round* fills one half; then the next round goes on in the other half, while the tables take over what the first one holds. The tables
//! name the round that they end before, by its salt, and the salt of the round after it: frames of earlier rounds mean nothing. Frames are
//! numbered on and on, and each names the checksum of the one before it in its round.
//!
//! After a crash the frames are read until one is not whole. A frame is begun only after the one before it was synced: so if a later one of the same rounds is
//! whole, the missing one was damaged after it had been acknowledged, and the store is not opened. Of the very last frame nobody can tell: damage
//! to it looks like a write that never ended, which is why rows do not stay here for long.

use std::io;
use std::sync::Arc;

use isochrone_ident::Slot;
use isochrone_quorum::{KeyName, KeyState, Row, SlotState};
use redb::StorageBackend;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What frames are aligned to: the unit in which systems keep files in memory.
const PAGE_BYTES: u64 = 4096;
/// Bytes of each half of the log.
pub(super) const HALF_BYTES: u64 = 16 << 20;
/// Where in the file the tables begin.
pub(super) const TABLES_AT: u64 = 2 * HALF_BYTES;
const MAGIC: [u8; 8] = *b"isostrng";
/// Magic, bytes of the body, salt, number, the checksum before, the checksum: eight bytes each, little endian.
const HEAD_BYTES: usize = 48;
/// The checksum is the head's last word, and covers everything else.
const SUM_AT: usize = 40;
/// How far ahead the file is filled with zeros in a process's first pass over a half, so that most syncs needn't take note of new blocks.
const AHEAD_BYTES: u64 = 256 << 10;

/// Up to where the tables go, and where the log goes on from there. Committed with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Mark {
    /// The last frame that is in the tables.
    pub(super) number: u64,
    /// The half in which the next frame lies: 0 or 1.
    pub(super) half: u8,
    /// The salt of the round in that half.
    pub(super) salt: u64,
    /// The salt of the round after it, in the other half.
    pub(super) next_salt: u64,
}

impl Mark {
    /// Of new tables.
    pub(super) fn first(seed: u64) -> Self {
        Self::default().after(0, seed).after(0, seed)
    }

    /// The mark of tables that take over everything up to `number`, when the round that this mark names is over. `seed` makes salts that nobody outside knows.
    pub(super) fn after(&self, number: u64, seed: u64) -> Self {
        let words = [self.salt, self.next_salt, number];
        let next_salt = xxh3_64_with_seed(&words.map(u64::to_le_bytes).concat(), seed);
        Self { number, half: 1 - self.half.min(1), salt: self.next_salt, next_salt }
    }
}

/// Why the log was not read.
#[derive(Debug)]
pub(super) enum ReplayError {
    Io(io::Error),
    /// That frame was acknowledged, and is not whole.
    Damaged(u64),
}

impl From<io::Error> for ReplayError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A row as it lies in a frame. Numbered in order on the disk.
#[derive(Serialize)]
enum WrittenRow<'a> {
    Slot(Slot, &'a SlotState),
    Key(Slot, &'a KeyName, &'a KeyState),
    Erase(Slot, &'a KeyName),
    Wipe(Slot),
}

/// The same, read back.
#[derive(Deserialize)]
enum ReadRow {
    Slot(Slot, SlotState),
    Key(Slot, KeyName, KeyState),
    Erase(Slot, KeyName),
    Wipe(Slot),
}

impl<'a> From<&'a Row> for WrittenRow<'a> {
    fn from(row: &'a Row) -> Self {
        match row {
            Row::Slot(slot, state) => Self::Slot(*slot, state),
            Row::Key(slot, name, state) => Self::Key(*slot, name, state),
            Row::Erase(slot, name) => Self::Erase(*slot, name),
            Row::Wipe(slot) => Self::Wipe(*slot),
        }
    }
}

impl From<ReadRow> for Row {
    fn from(row: ReadRow) -> Self {
        match row {
            ReadRow::Slot(slot, state) => Self::Slot(slot, state),
            ReadRow::Key(slot, name, state) => Self::Key(slot, name, state),
            ReadRow::Erase(slot, name) => Self::Erase(slot, name),
            ReadRow::Wipe(slot) => Self::Wipe(slot),
        }
    }
}

/// A frame of these rows, with room for its head.
pub(super) fn frame_of(rows: &[Row]) -> Vec<u8> {
    rows.iter().map(WrittenRow::from).fold(vec![0; HEAD_BYTES], |frame, row| {
        postcard::to_extend(&row, frame).expect("a growing buffer takes every value of these plain types")
    })
}

/// The rows of a frame; `None` when it does not hold what it should.
fn rows_of(mut body: &[u8]) -> Option<Vec<Row>> {
    let mut rows = Vec::new();
    while !body.is_empty() {
        let (row, rest) = postcard::take_from_bytes::<ReadRow>(body).ok()?;
        rows.push(row.into());
        body = rest;
    }
    Some(rows)
}

/// A frame's head, but for its magic.
struct Head {
    body_bytes: u64,
    salt: u64,
    number: u64,
    previous: u64,
    sum: u64,
}

impl Head {
    fn write(&self, frame: &mut [u8]) {
        let words = [u64::from_le_bytes(MAGIC), self.body_bytes, self.salt, self.number, self.previous, self.sum];
        frame[..HEAD_BYTES].chunks_exact_mut(8).zip(words).for_each(|(chunk, word)| chunk.copy_from_slice(&word.to_le_bytes()));
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut words = bytes.get(..HEAD_BYTES)?.chunks_exact(8).map(|chunk| chunk.try_into().map_or(0, u64::from_le_bytes));
        let mut next = || words.next().unwrap_or_default();
        let magic = next();
        let head = Self { body_bytes: next(), salt: next(), number: next(), previous: next(), sum: next() };
        (magic == u64::from_le_bytes(MAGIC)).then_some(head)
    }
}

fn sum_of(frame: &[u8], salt: u64) -> u64 {
    xxh3_64_with_seed(&frame[HEAD_BYTES..], xxh3_64_with_seed(&frame[..SUM_AT], salt))
}

/// Whole pages of so many bytes.
const fn pages(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(PAGE_BYTES) * PAGE_BYTES
}

/// The log of one store, at the end of what was written.
#[derive(Debug)]
pub(super) struct Redo {
    file: Arc<dyn StorageBackend>,
    /// Names the round under way.
    mark: Mark,
    /// The last frame that was written.
    number: u64,
    /// Where in its half the next frame goes.
    at: u64,
    /// The checksum of the round's last frame, its salt before the first.
    previous: u64,
    /// Up to where each half has blocks, as far as this process knows.
    prepared: [u64; 2],
}

impl Redo {
    /// The log that goes on after `mark`, which the tables hold.
    pub(super) fn new(file: Arc<dyn StorageBackend>, mark: Mark) -> Self {
        Self { file, mark, number: mark.number, at: 0, previous: mark.salt, prepared: [0; 2] }
    }

    /// Bytes of the round so far.
    pub(super) const fn bytes(&self) -> u64 {
        self.at
    }

    /// Whether that frame can ever have room in a round.
    pub(super) const fn takes(frame: &[u8]) -> bool {
        pages(frame.len()) <= HALF_BYTES
    }

    /// Whether that frame has room in this round.
    pub(super) const fn fits(&self, frame: &[u8]) -> bool {
        self.at + pages(frame.len()) <= HALF_BYTES
    }

    /// Writes a frame and syncs it. After an error it may be written again.
    pub(super) fn append(&mut self, frame: &mut Vec<u8>) -> io::Result<()> {
        let body = frame.len();
        let body_bytes = (body - HEAD_BYTES) as u64;
        let mut head = Head { body_bytes, salt: self.mark.salt, number: self.number + 1, previous: self.previous, sum: 0 };
        head.write(frame);
        head.sum = sum_of(frame, head.salt);
        head.write(frame);
        let end = self.at + pages(body);
        frame.resize(usize::try_from(end - self.at).unwrap_or(body), 0);
        let written = self.write(frame, end);
        frame.truncate(body);
        written?;
        (self.number, self.previous, self.at) = (head.number, head.sum, end);
        Ok(())
    }

    fn write(&mut self, pages: &[u8], end: u64) -> io::Result<()> {
        let base = base_of(self.mark.half);
        let prepared = &mut self.prepared[usize::from(self.mark.half)];
        if end > *prepared {
            let ahead = (end + AHEAD_BYTES).min(HALF_BYTES);
            let zeros = vec![0; usize::try_from(ahead - end).unwrap_or(0)];
            // A disk that has no room for these may have room for the frame.
            if self.file.write(base + end, &zeros).is_ok() {
                *prepared = ahead;
            }
        }
        self.file.write(base + self.at, pages)?;
        self.file.sync_data()
    }

    /// Ends the round: from now on frames go to the other half. Gives the mark for the tables that take over the round that has ended; it must be committed before the next
    /// call.
    pub(super) fn turn(&mut self, seed: u64) -> Mark {
        self.mark = self.mark.after(self.number, seed);
        (self.at, self.previous) = (0, self.mark.salt);
        self.mark
    }

    /// The tables take over everything: both halves are dead. Gives the mark for them, which must be committed before anything is written.
    pub(super) fn restart(&mut self, seed: u64) -> Mark {
        self.turn(seed);
        self.turn(seed)
    }

    /// Whether there is nothing that the tables do not have.
    pub(super) const fn is_at_mark(&self) -> bool {
        self.number == self.mark.number
    }

    /// Reads the frames that follow on the mark, in both halves. If there are any, the log must restart before anything is written.
    pub(super) fn replay(&mut self) -> Result<Vec<Row>, ReplayError> {
        let mut rows = Vec::new();
        let Mark { half, salt, next_salt, .. } = self.mark;
        for (half, salt) in [(half, salt), (1 - half.min(1), next_salt)] {
            (self.at, self.previous) = (0, salt);
            while let Some((head, body)) = self.frame_at(half, self.at, salt)? {
                if head.number != self.number + 1 || head.previous != self.previous {
                    break;
                }
                rows.extend(rows_of(&body).ok_or(ReplayError::Damaged(head.number))?);
                self.at += pages(HEAD_BYTES + body.len());
                (self.number, self.previous) = (head.number, head.sum);
            }
            self.check_rest(half, salt)?;
        }
        (self.at, self.previous) = (0, self.mark.salt);
        Ok(rows)
    }

    /// A whole frame of the round behind a gap says that the gap held a frame that was synced.
    fn check_rest(&self, half: u8, salt: u64) -> Result<(), ReplayError> {
        for at in (self.at..HALF_BYTES).step_by(usize::try_from(PAGE_BYTES).unwrap_or(4096)) {
            if self.frame_at(half, at, salt)?.is_some_and(|(head, _)| head.number > self.number) {
                return Err(ReplayError::Damaged(self.number + 1));
            }
        }
        Ok(())
    }

    /// The whole frame of that round at that place, and its body.
    fn frame_at(&self, half: u8, at: u64, salt: u64) -> io::Result<Option<(Head, Vec<u8>)>> {
        let place = base_of(half) + at;
        if at + HEAD_BYTES as u64 > HALF_BYTES || place + PAGE_BYTES > self.file.len()? {
            return Ok(None);
        }
        let mut bytes = [0; HEAD_BYTES];
        self.file.read(place, &mut bytes)?;
        let is_possible = |head: &Head| head.salt == salt && head.body_bytes <= HALF_BYTES - at - HEAD_BYTES as u64;
        let Some(head) = Head::read(&bytes).filter(is_possible) else { return Ok(None) };
        let mut frame = vec![0; HEAD_BYTES + usize::try_from(head.body_bytes).unwrap_or(0)];
        if place + frame.len() as u64 > self.file.len()? {
            return Ok(None);
        }
        self.file.read(place, &mut frame)?;
        let is_whole = sum_of(&frame, salt) == head.sum;
        Ok(is_whole.then(|| (head, frame.split_off(HEAD_BYTES))))
    }
}

const fn base_of(half: u8) -> u64 {
    if half == 0 { 0 } else { HALF_BYTES }
}
