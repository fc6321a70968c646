//! Reading many keys at a time: listings, and what the collector looks at (Q16, E8).

use std::collections::BTreeMap;
use std::ops::Bound;

use isochrone_ident::{Key, Kind, Namespace, Slot, WallMicros};
use isochrone_quorum::KeyName;

use super::gate::Unread;
use super::layers::Names;
use super::rows::{Generation, Head, key_row, parse_key_row, parse_name, prefix, unseal_head};
use super::store::{corrupt, rows_after};
use super::tables::Snapshot;
use super::words::{Expiring, StrongListed, StrongListing};
use crate::codec::name_row;
use crate::{LIST_EXAMINED_MAX, ReadError, StrongStore};

/// What a listing is asked for.
struct Asked<'a> {
    ns: &'a Namespace,
    prefix: &'a [u8],
    after: Option<&'a [u8]>,
    limit: usize,
    want: &'a dyn Fn(Slot) -> bool,
}

impl StrongStore {
    /// One page of a namespace's keys that begin with `prefix` and come after `after`, across slots: at most `limit` of those that lie in a slot that `want` takes, and at
    /// most [`LIST_EXAMINED_MAX`] looked at in the tables. Keys without a value are among them. Shows all that was told to be synced.
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
        let asked = Asked { ns, prefix, after, limit: limit.max(1), want };
        // Before the tables: what leaves memory in between is in the tables by then.
        let fresh = self.shared.memory.names(ns, prefix);
        self.read(|snapshot| asked.page(snapshot, &fresh))
    }

    /// Keys of a slot without a value (tombstones, and keys of which only a promise was made), in order, after `after`, at most `max`: as the tables have it, which
    /// is up to [`StrongOptions::settle_interval`](crate::StrongOptions::settle_interval) late.
    ///
    /// # Errors
    /// [`ReadError`]; the store has failed then.
    pub fn dead(&self, slot: Slot, after: Option<&KeyName>, max: usize) -> Result<Vec<KeyName>, ReadError> {
        self.read(|snapshot| {
            let first = prefix(slot, snapshot.generation(slot));
            let mut names = Vec::new();
            for row in snapshot.dead.range::<&[u8]>(rows_after(snapshot, slot, after).as_bounds())?.take(max) {
                let (row, _) = row?;
                if !row.value().starts_with(&first) {
                    break;
                }
                names.push(parse_key_row(row.value()).map_err(|_| corrupt(row.value()))?.2);
            }
            Ok(names)
        })
    }

    /// Keys whose values have expired by `now`, in the order in which they did, after `after`, at most `max`: as late as [`StrongStore::dead`].
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

impl Asked<'_> {
    fn page(&self, snapshot: &Snapshot, fresh: &Names) -> Result<StrongListing, Unread> {
        let mut items = self.fresh(fresh);
        let through = self.settled(snapshot, fresh, &mut items)?;
        let is_in_page = |key: &Key| through.as_ref().is_none_or(|through| key <= through);
        let mut page: Vec<StrongListed> = items.into_iter().filter(|(key, _)| is_in_page(key)).map(|(_, item)| item).collect();
        if page.len() <= self.limit {
            return Ok(StrongListing { items: page, next: through });
        }
        page.truncate(self.limit);
        let next = page.last().map(|item| item.name.key.clone());
        Ok(StrongListing { items: page, next })
    }

    /// What is not in the tables yet.
    fn fresh(&self, fresh: &Names) -> BTreeMap<Key, StrongListed> {
        let is_after = |name: &KeyName| self.after.is_none_or(|after| name.key.as_bytes() > after);
        let wanted = fresh.keys.iter().filter(|(name, (slot, _))| is_after(name) && (self.want)(*slot));
        wanted.filter_map(|(name, (slot, head))| Some((name.key.clone(), listed(name.clone(), *slot, &head.as_ref().copied()?)))).collect()
    }

    /// Adds what is in the tables, a page of it. Gives the last key that was looked at, unless that was all.
    fn settled(&self, snapshot: &Snapshot, fresh: &Names, items: &mut BTreeMap<Key, StrongListed>) -> Result<Option<Key>, Unread> {
        let (mut first, mut start) = (Vec::new(), Vec::new());
        name_row(self.ns, Kind::Value, self.prefix, &mut first);
        name_row(self.ns, Kind::Value, self.after.unwrap_or_default(), &mut start);
        let is_later = self.after.is_some() && start >= first;
        let from = if is_later { Bound::Excluded(start.as_slice()) } else { Bound::Included(first.as_slice()) };
        let mut found = 0;
        for (row, examined) in snapshot.names.range::<&[u8]>((from, Bound::Unbounded))?.zip(1..) {
            let (row, place) = row?;
            if !row.value().starts_with(&first) {
                break;
            }
            let name = parse_name(row.value()).map_err(|_| corrupt(row.value()))?;
            let key = name.key.clone();
            if !fresh.keys.contains_key(&name)
                && let Some(item) = self.settled_item(snapshot, fresh, name, place.value())?
            {
                items.insert(key.clone(), item);
                found += 1;
            }
            if found >= self.limit || examined >= LIST_EXAMINED_MAX {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    /// What the tables hold of a listed key; nothing of one that a wipe took, or in a slot that is not wanted.
    fn settled_item(
        &self,
        snapshot: &Snapshot,
        fresh: &Names,
        name: KeyName,
        (number, generation): (u16, Generation),
    ) -> Result<Option<StrongListed>, Unread> {
        let slot = Slot::new(number).map_err(|_| Unread::Corrupt(format!("{name:?} is said to lie in slot {number}")))?;
        if generation != snapshot.generation(slot) || fresh.wiped.contains(&slot) || !(self.want)(slot) {
            return Ok(None);
        }
        let mut row = Vec::new();
        key_row(slot, generation, &name, &mut row);
        let missing = || Unread::Corrupt(format!("{name:?} in slot {slot} is listed and not there"));
        let found = snapshot.keys.get(row.as_slice())?.ok_or_else(missing)?;
        let head = unseal_head(&row, found.value()).map_err(|_| corrupt(&row))?;
        Ok(Some(listed(name, slot, &head)))
    }
}

fn listed(name: KeyName, slot: Slot, head: &Head) -> StrongListed {
    let Head { ballot, revision, value_bytes: bytes, expires, .. } = *head;
    StrongListed { name, slot, ballot, revision, is_live: head.is_live(), bytes, expires }
}
