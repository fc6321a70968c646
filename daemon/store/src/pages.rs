//! Reading many records at a time: listings, slots, the operation log.

use std::ops::Bound;

use bytes::Bytes;
use isochrone_ident::{Key, Kind, Namespace, Slot};
use isochrone_replica::{Entry, Sequence};

use crate::codec::{Stored, StoredOperation, name_row, parse_name_row, parse_record_row, record_row, slot_range};
use crate::tables::Snapshot;
use crate::words::{Listed, Listing, LogPage, Logged, Page, RequestKey};
use crate::{ReadError, Store};

/// Most keys looked at for one page of a listing, wanted or not, so that a call's time is bounded.
pub const LIST_EXAMINED_MAX: usize = 10_000;

impl Store {
    /// One page of a namespace's keys of one kind that begin with `prefix` and come after `after`: at most `limit` of those that `want` takes, and at most
    /// [`LIST_EXAMINED_MAX`] looked at. Corrupt records are left out and counted.
    ///
    /// # Errors
    /// [`ReadError::Disk`] and [`ReadError::Closed`].
    pub fn list(
        &self,
        ns: &Namespace,
        kind: Kind,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        want: &dyn Fn(&Key) -> bool,
    ) -> Result<Listing, ReadError> {
        let (mut first, mut start) = (Vec::new(), Vec::new());
        name_row(ns, kind, prefix, &mut first);
        name_row(ns, kind, after.unwrap_or_default(), &mut start);
        let from = if after.is_some() && start >= first { Bound::Excluded(start.as_slice()) } else { Bound::Included(first.as_slice()) };
        self.shared.read(|snapshot| {
            let mut listing = Listing::default();
            let rows = snapshot.names.range::<&[u8]>((from, Bound::Unbounded)).map_err(|error| self.disk_error(&error.into()))?;
            let mut examined = 0;
            for row in rows {
                let (name, slot) = row.map_err(|error| self.disk_error(&error.into()))?;
                if !name.value().starts_with(&first) {
                    return Ok(listing);
                }
                let (Ok((_, _, key)), Ok(slot)) = (parse_name_row(name.value()), Slot::new(slot.value())) else { continue };
                examined += 1;
                let last = key.clone();
                if want(&key) {
                    listing.items.extend(self.listed(snapshot, slot, (ns, kind), key)?);
                }
                if listing.items.len() >= limit || examined >= LIST_EXAMINED_MAX {
                    listing.next = Some(last);
                    return Ok(listing);
                }
            }
            Ok(listing)
        })
    }

    fn listed(&self, snapshot: &Snapshot, slot: Slot, (ns, kind): (&Namespace, Kind), key: Key) -> Result<Option<Listed>, ReadError> {
        let mut row = Vec::new();
        record_row(slot, ns, kind, key.as_bytes(), &mut row);
        let Some(found) = snapshot.records.get(row.as_slice()).map_err(|error| self.disk_error(&error.into()))? else { return Ok(None) };
        let Ok(stored) = Stored::unseal(&row, found.value()) else {
            self.corrupt_record(ns, kind, key.as_bytes());
            return Ok(None);
        };
        let (bytes, live) = (stored.value_bytes(), stored.is_live());
        Ok(Some(Listed { key, version: stored.version, bytes, expires_at: stored.expires_at(), live }))
    }

    /// One page of a slot's records after `after`: until their keys and values have `bytes_max` bytes, and one at least. Corrupt records are
    /// left out and counted.
    ///
    /// # Errors
    /// [`ReadError::Disk`] and [`ReadError::Closed`].
    pub fn scan_slot(&self, slot: Slot, after: Option<&(Namespace, Kind, Key)>, bytes_max: usize) -> Result<Page, ReadError> {
        let (first, end) = slot_range(slot);
        let mut start = first.to_vec();
        if let Some((ns, kind, key)) = after {
            record_row(slot, ns, *kind, key.as_bytes(), &mut start);
        }
        self.shared.read(|snapshot| {
            let mut page = Page::default();
            let mut bytes = 0;
            let range = (Bound::Excluded(start.as_slice()), Bound::Excluded(end.as_slice()));
            for row in snapshot.records.range::<&[u8]>(range).map_err(|error| self.disk_error(&error.into()))? {
                let (name, sealed) = row.map_err(|error| self.disk_error(&error.into()))?;
                let Ok((_, ns, kind, key)) = parse_record_row(name.value()) else { continue };
                let at = (ns.clone(), kind, key.clone());
                match Stored::unseal(name.value(), sealed.value()).and_then(|stored| stored.to_record()) {
                    Ok(record) => page.entries.push(Entry { ns, kind, key, record }),
                    Err(_) => drop(self.corrupt_record(&ns, kind, key.as_bytes())),
                }
                bytes += name.value().len() + sealed.value().len();
                if bytes >= bytes_max {
                    page.next = Some(at);
                    return Ok(page);
                }
            }
            Ok(page)
        })
    }

    /// Operations of the log after `after`, in order, at most `count_max`. A corrupt one is left out, counted and reported: anti-entropy (E6) finds what it was.
    ///
    /// # Errors
    /// [`ReadError::Disk`] and [`ReadError::Closed`].
    pub fn log_after(&self, after: Sequence, count_max: usize) -> Result<LogPage, ReadError> {
        self.shared.read(|snapshot| {
            let mut page = LogPage { through: after, ..LogPage::default() };
            let rows = snapshot.log.range(after.0.saturating_add(1)..).map_err(|error| self.disk_error(&error.into()))?;
            for row in rows.take(count_max) {
                let (sequence, sealed) = row.map_err(|error| self.disk_error(&error.into()))?;
                page.through = Sequence(sequence.value());
                match parse_operation(sequence.value(), sealed.value()) {
                    Some(operation) => page.operations.push(operation),
                    None => {
                        page.skipped += 1;
                        self.shared.meters.corrupt.add(1);
                        tracing::error!(sequence = sequence.value(), "an operation of the log fails its checksum");
                    }
                }
            }
            Ok(page)
        })
    }
}

fn parse_operation(sequence: u64, sealed: &[u8]) -> Option<Logged> {
    let stored = StoredOperation::unseal(sequence, sealed).ok()?;
    Some(Logged {
        sequence: Sequence(sequence),
        slot: stored.slot,
        ns: Namespace::new(stored.ns).ok()?,
        kind: stored.kind,
        key: Key::new(Bytes::copy_from_slice(stored.key)).ok()?,
        version: stored.version,
        delta: stored.delta.and_then(|bytes| postcard::from_bytes(bytes).ok()),
        request: stored.request.and_then(|key| RequestKey::new(Bytes::copy_from_slice(key)).ok()),
    })
}
