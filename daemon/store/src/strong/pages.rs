//! Reading many keys at a time: listings, and what the collector looks at (Q16, E8).

use std::ops::Bound;

use isochrone_ident::{Kind, Namespace, Slot, WallMicros};
use isochrone_quorum::KeyName;

use super::gate::Unread;
use super::rows::{Generation, Head, key_row, parse_key_row, parse_name, prefix, unseal_head};
use super::store::{corrupt, rows_after};
use super::tables::Snapshot;
use super::words::{Expiring, StrongListed, StrongListing};
use crate::codec::name_row;
use crate::{LIST_EXAMINED_MAX, ReadError, StrongStore};

impl StrongStore {
    /// One page of a namespace's keys that begin with `prefix` and come after `after`, across slots: at most `limit` of those that lie in a slot that `want` takes, and at
    /// most [`LIST_EXAMINED_MAX`] looked at. Keys without a value are among them.
    ///
    /// # Errors
    /// [`ReadError`]; the store has failed then.
    pub fn list(
        &self,
        ns: &Namespace,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        want: &dyn Fn(Slot) -> bool,
    ) -> Result<StrongListing, ReadError> {
        let (mut first, mut start) = (Vec::new(), Vec::new());
        name_row(ns, Kind::Value, prefix, &mut first);
        name_row(ns, Kind::Value, after.unwrap_or_default(), &mut start);
        let from = if after.is_some() && start >= first { Bound::Excluded(start.as_slice()) } else { Bound::Included(first.as_slice()) };
        self.read(|snapshot| {
            let mut listing = StrongListing::default();
            let mut examined = 0;
            for row in snapshot.names.range::<&[u8]>((from, Bound::Unbounded))? {
                let (name, place) = row?;
                if !name.value().starts_with(&first) {
                    return Ok(listing);
                }
                let name = parse_name(name.value()).map_err(|_| corrupt(name.value()))?;
                let last = name.key.clone();
                listing.items.extend(listed(snapshot, name, place.value(), want)?);
                examined += 1;
                if listing.items.len() >= limit || examined >= LIST_EXAMINED_MAX {
                    listing.next = Some(last);
                    return Ok(listing);
                }
            }
            Ok(listing)
        })
    }

    /// Keys of a slot without a value (tombstones, and keys of which only a promise was made), in order, after `after`, at most `max`.
    ///
    /// # Errors
    /// [`ReadError`]; the store has failed then.
    pub fn dead(&self, slot: Slot, after: Option<&KeyName>, max: usize) -> Result<Vec<KeyName>, ReadError> {
        self.read(|snapshot| {
            let first = prefix(slot, snapshot.generation(slot));
            let mut names = Vec::new();
            for row in snapshot.dead.range::<&[u8]>(rows_after(snapshot, slot, after).as_bounds())?.take(max) {
                let (row, ()) = row.map(|(row, dead)| (row, dead.value()))?;
                if !row.value().starts_with(&first) {
                    break;
                }
                names.push(parse_key_row(row.value()).map_err(|_| corrupt(row.value()))?.2);
            }
            Ok(names)
        })
    }

    /// Keys whose values have expired by `now`, in the order in which they did, after `after`, at most `max`.
    ///
    /// # Errors
    /// [`ReadError`]; the store has failed then.
    pub fn expired(&self, now: WallMicros, after: Option<&Expiring>, max: usize) -> Result<Vec<Expiring>, ReadError> {
        self.read(|snapshot| {
            let mut row = Vec::new();
            if let Some(after) = after {
                key_row(after.slot, snapshot.generation(after.slot), &after.name, &mut row);
            }
            let from = (after.map_or(0, |after| after.at.0), row.as_slice());
            let from = if after.is_some() { Bound::Excluded(from) } else { Bound::Included(from) };
            let mut expired = Vec::new();
            for entry in snapshot.expiry.range::<(u64, &[u8])>((from, Bound::Unbounded))?.take(LIST_EXAMINED_MAX) {
                let (entry, _) = entry?;
                let (at, row) = entry.value();
                if at > now.0 || expired.len() >= max {
                    break;
                }
                let (slot, generation, name) = parse_key_row(row).map_err(|_| corrupt(row))?;
                if generation == snapshot.generation(slot) {
                    expired.push(Expiring { at: WallMicros(at), slot, name });
                }
            }
            Ok(expired)
        })
    }

    fn read<T>(&self, read: impl Fn(&Snapshot) -> Result<T, Unread>) -> Result<T, ReadError> {
        self.shared.gate.read(read).map_err(|unread| {
            self.fail_to_read(&unread);
            match unread {
                Unread::Closed => ReadError::Closed,
                Unread::Disk(detail) => ReadError::Disk(detail),
                Unread::Corrupt(detail) => ReadError::CorruptValue(detail),
            }
        })
    }
}

/// What a listing shows of a key; nothing of one that a wipe took.
fn listed(
    snapshot: &Snapshot,
    name: KeyName,
    (number, generation): (u16, Generation),
    want: &dyn Fn(Slot) -> bool,
) -> Result<Option<StrongListed>, Unread> {
    let slot = Slot::new(number).map_err(|_| Unread::Corrupt(format!("{name:?} is said to lie in slot {number}")))?;
    if generation != snapshot.generation(slot) || !want(slot) {
        return Ok(None);
    }
    let mut row = Vec::new();
    key_row(slot, generation, &name, &mut row);
    let found =
        snapshot.keys.get(row.as_slice())?.ok_or_else(|| Unread::Corrupt(format!("{name:?} in slot {slot} is listed and not there")))?;
    let head: Head = unseal_head(&row, found.value()).map_err(|_| corrupt(&row))?;
    let Head { ballot, revision, value_bytes: bytes, expires, .. } = head;
    Ok(Some(StrongListed { name, slot, ballot, revision, is_live: head.is_live(), bytes, expires }))
}
