//! E6: what each slot holds, in sums that are kept up with every commit.
//!
//! A row's [`Fingerprint`] covers its name and its state as they lie on the disk: namespace, kind and key; version and state. What is evictable is left
//! out, since replicas need not hold the same of it. Each namespace has sums of its own in each slot: which of them two daemons share is for their placement to say.
//!
//! The sums live in memory only. After an open they are made from the rows once more, page by page, by the committer itself in between its commits:
//!
//! ```text
//!   rows of the table `records`, in order:   slot 0 ........ slot 17 | slot 17 ........ slot 4095
//!                                            counted, up to and with ^ the mark       not yet
//! ```
//!
//! What holds all along, as of the last commit: *the sums are over exactly the rows up to the mark*. A page adds the rows that follow the mark and moves it behind
//! them; nothing can change meanwhile, since the same task commits. A commit then takes what it replaces or removes out of the sums and puts what it writes in, for
//! rows up to the mark only; the others are met later by a page, in the state that they have then. So no old state of the table is held on to, writers wait for one
//! page at most, and with the mark behind the last row the sums are those of the whole table. The differences of a commit are applied once it is visible, and
//! not at all if it fails. When the disk is opened again after an error, and may have gone back in time, counting starts over.
//!
//! A row that was counted and is found damaged when it is replaced can't be taken out, because nobody knows what it was: then its slot is counted anew on the spot.
//! One that is damaged when a page meets it is not counted, so that the comparison with other replicas finds it missing, and brings it back.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use isochrone_ident::{Namespace, SLOTS, Slot};
use isochrone_replica::{DigestKey, Fingerprint, SlotDigest, bucket_of};

use crate::codec::{Corrupt, Stored, fingerprint, namespace_of_row, slot_of_row, slot_range};
use crate::shared::Shared;
use crate::tables::Snapshot;

/// Most rows of a page, so that a writer waits for a millisecond at most when the pages are in memory.
const PAGE_ROWS_MAX: usize = 512;
/// A page ends once it has this many bytes.
const PAGE_BYTES: usize = 256 << 10;

/// What is to be added to the sum of a bucket; a wrapping number, so that it may take away as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) slot: Slot,
    ns: Namespace,
    bucket: u8,
    by: Fingerprint,
}

impl Difference {
    /// What the change of a row makes.
    pub(crate) fn of(slot: Slot, row: &[u8], old: Option<Fingerprint>, new: Option<Fingerprint>) -> Result<Self, Corrupt> {
        let [old, new] = [old, new].map(|print| print.map_or(0, |print| print.0));
        let bucket = bucket_of(row.get(2..).unwrap_or_default());
        Ok(Self { slot, ns: namespace_of_row(row)?, bucket, by: Fingerprint(new.wrapping_sub(old)) })
    }
}

/// The sums of one slot.
type ByNamespace = BTreeMap<Namespace, SlotDigest>;

/// The sums as readers see them. A namespace without rows in a slot has none there.
pub(crate) struct Digests {
    slots: Box<[Mutex<ByNamespace>]>,
    ready: AtomicBool,
}

impl Digests {
    pub(crate) fn new() -> Self {
        Self { slots: (0..SLOTS).map(|_| Mutex::default()).collect(), ready: AtomicBool::new(false) }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// The digest of the rows of those namespaces that count.
    pub(crate) fn of_slot(&self, slot: Slot, counts: impl Fn(&Namespace) -> bool) -> SlotDigest {
        let digests = self.lock(slot);
        let mut counted = digests.iter().filter(|(ns, _)| counts(ns)).map(|(_, digest)| digest);
        let mut sum = counted.next().cloned().unwrap_or_default();
        counted.for_each(|digest| sum.merge(digest));
        sum
    }

    fn apply(&self, differences: &[Difference]) {
        for difference in differences {
            let mut digests = self.lock(difference.slot);
            if let Some(digest) = digests.get_mut(&difference.ns) {
                digest.add(difference.bucket, difference.by);
            } else {
                digests.entry(difference.ns.clone()).or_default().add(difference.bucket, difference.by);
            }
        }
    }

    fn replace(&self, slot: Slot, digests: ByNamespace) {
        *self.lock(slot) = digests;
    }

    fn reset(&self) {
        self.ready.store(false, Ordering::Release);
        Slot::all().for_each(|slot| self.lock(slot).clear());
    }

    fn lock(&self, slot: Slot) -> MutexGuard<'_, ByNamespace> {
        self.slots[slot.index()].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How far the rows are counted: the committer's part.
#[derive(Debug, Clone)]
pub(crate) struct Counting {
    /// `None`: no digests are kept.
    key: Option<DigestKey>,
    mark: Mark,
    /// A page could not be read; goes on after the next commit.
    paused: bool,
}

/// Up to which row.
#[derive(Debug, Clone)]
enum Mark {
    /// Up to and with this one; before the first when it is empty.
    Through(Vec<u8>),
    All,
}

impl Counting {
    pub(crate) const fn new(key: Option<DigestKey>) -> Self {
        Self { key, mark: Mark::Through(Vec::new()), paused: false }
    }

    /// The key to fingerprint a row with, if it is counted.
    pub(crate) fn key_for(&self, row: &[u8]) -> Option<DigestKey> {
        match &self.mark {
            Mark::Through(mark) if row > mark.as_slice() => None,
            _ => self.key,
        }
    }

    /// Whether there are pages to be counted.
    pub(crate) const fn is_running(&self) -> bool {
        self.key.is_some() && !self.paused && matches!(self.mark, Mark::Through(_))
    }

    /// Starts over.
    pub(crate) fn restart(&mut self, shared: &Shared) {
        shared.digests.reset();
        *self = Self::new(self.key);
    }

    /// A commit has become visible.
    pub(crate) fn committed<'s>(&mut self, shared: &Shared, differences: &[Difference], recount: impl Iterator<Item = &'s Slot>) {
        shared.digests.apply(differences);
        for &slot in recount {
            if let Err(error) = self.recount(shared, slot) {
                tracing::warn!(%slot, error, "the slot's digest could not be made anew; all are");
                self.restart(shared);
                self.paused = true;
                return;
            }
        }
        self.paused = false;
    }

    /// Counts the next page.
    pub(crate) fn count_page(&mut self, shared: &Shared) {
        let (Some(key), Mark::Through(mark), false) = (self.key, &self.mark, self.paused) else { return };
        match read(shared, |snapshot| Page::after(snapshot, key, mark, None)) {
            Ok(page) => {
                shared.digests.apply(&page.rows);
                shared.meters.corrupt.add(page.corrupt);
                self.mark = page.last.map_or(Mark::All, Mark::Through);
                shared.digests.ready.store(matches!(self.mark, Mark::All), Ordering::Release);
            }
            Err(error) => {
                tracing::warn!(error, "the records could not be read for their digests; tried again after the next commit");
                self.paused = true;
            }
        }
    }

    /// Makes the digest of a slot anew, of its rows up to the mark.
    fn recount(&self, shared: &Shared, slot: Slot) -> Result<(), String> {
        let Some(key) = self.key else { return Ok(()) };
        let (first, end) = slot_range(slot);
        let mut digests = ByNamespace::new();
        let mut next = Some(first.to_vec());
        while let Some(from) = next {
            let page = read(shared, |snapshot| Page::after(snapshot, key, &from, Some(&end)))?;
            let is_counted = |row: &Vec<u8>| self.key_for(row).is_some();
            for (row, _) in page.rows.into_iter().zip(&page.names).filter(|(_, row)| is_counted(row)) {
                digests.entry(row.ns).or_default().add(row.bucket, row.by);
            }
            next = page.last;
        }
        shared.digests.replace(slot, digests);
        Ok(())
    }
}

fn read<T>(shared: &Shared, read: impl FnOnce(&Snapshot) -> Result<T, redb::Error>) -> Result<T, String> {
    let snapshot = shared.snapshot.load();
    read(snapshot.as_deref().ok_or("the disk is closed")?).map_err(|error| error.to_string())
}

/// Rows in order.
#[derive(Default)]
struct Page {
    rows: Vec<Difference>,
    /// The names of `rows`.
    names: Vec<Vec<u8>>,
    corrupt: u64,
    /// The last row that was looked at; `None` when there are no more.
    last: Option<Vec<u8>>,
}

impl Page {
    /// The rows after `mark` and before `end`.
    fn after(snapshot: &Snapshot, key: DigestKey, mark: &[u8], end: Option<&[u8]>) -> Result<Self, redb::Error> {
        let (mut page, mut bytes) = (Self::default(), 0);
        let end = end.map_or(Bound::Unbounded, Bound::Excluded);
        for (count, row) in (1..).zip(snapshot.records.range::<&[u8]>((Bound::Excluded(mark), end))?) {
            let (name, sealed) = row?;
            page.take(key, name.value(), sealed.value());
            bytes += name.value().len() + sealed.value().len();
            if count >= PAGE_ROWS_MAX || bytes >= PAGE_BYTES {
                page.last = Some(name.value().to_vec());
                return Ok(page);
            }
        }
        Ok(page)
    }

    fn take(&mut self, key: DigestKey, row: &[u8], sealed: &[u8]) {
        let (Ok(slot), Ok(_)) = (slot_of_row(row), Stored::unseal(row, sealed)) else {
            self.corrupt += 1;
            return;
        };
        let Some(print) = fingerprint(key, row, sealed) else { return };
        match Difference::of(slot, row, None, Some(print)) {
            Ok(difference) => {
                self.rows.push(difference);
                self.names.push(row.to_vec());
            }
            Err(Corrupt) => self.corrupt += 1,
        }
    }
}
