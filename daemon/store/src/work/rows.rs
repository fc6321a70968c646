//! Single rows: what a record's row holds, writing it and removing it with all that belongs to it, and the sums.

use isochrone_ident::{Slot, Version};
use isochrone_replica::{Fingerprint, Record, Sequence};
use redb::ReadableTable;

use super::Work;
use crate::codec::{Stored, StoredOperation, fingerprint};
use crate::digests::Difference;
use crate::tables::{log_cost, record_cost};
use crate::words::{Before, Changed, Placed, SlotTotals, WriteSet};

/// What a record's row holds at the moment, without the record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    cost: u64,
    /// Its place in the order of eviction.
    pub(super) insertion: Option<u64>,
    /// What stands for it in its slot's digest; `None` where it isn't counted, or is corrupt.
    print: Option<Fingerprint>,
    /// `None` when the row is corrupt.
    pub(super) before: Option<Before>,
}

impl Held {
    pub(super) fn version(&self) -> Option<Version> {
        self.before.map(|before| before.version)
    }
}

impl Work<'_> {
    /// What the row at `self.row` holds.
    pub(super) fn held(&self) -> Result<Option<Held>, redb::Error> {
        Ok(self.look(|_| ())?.map(|(held, ())| held))
    }

    /// What the row at `self.row` holds, and what `see` makes of it; of `None` when it is corrupt.
    pub(super) fn look<T>(&self, see: impl FnOnce(Option<Stored<'_>>) -> T) -> Result<Option<(Held, T)>, redb::Error> {
        let Some(found) = self.records.get(self.row.as_slice())? else { return Ok(None) };
        let cost = record_cost(&self.row, found.value().len());
        let Ok(stored) = Stored::unseal(&self.row, found.value()) else {
            return Ok(Some((Held { cost, insertion: None, print: None, before: None }, see(None))));
        };
        let before = Before { version: stored.version, live: stored.is_live(), expires_at: stored.expires_at() };
        let held = Held { cost, insertion: stored.insertion, print: self.print(found.value()), before: Some(before) };
        Ok(Some((held, see(Some(stored)))))
    }

    /// What stands for the row at `self.row` in its slot's digest.
    fn print(&self, sealed: &[u8]) -> Option<Fingerprint> {
        fingerprint(self.counting.key_for(&self.row)?, &self.row, sealed)
    }

    /// Writes `record` into the row at `self.row`, which holds `held` now.
    pub(super) fn put(&mut self, placed: &Placed, record: &Record, held: Option<&Held>) -> Result<(), redb::Error> {
        if let Some(insertion) = held.and_then(|held| held.insertion) {
            self.evictable.remove(insertion)?;
        }
        let insertion = if placed.evictable { Some(self.insert_evictable()?) } else { None };
        let stored = Stored::of(record, insertion);
        let live = stored.is_live();
        stored.seal(&self.row, &mut self.sealed);
        self.records.insert(self.row.as_slice(), self.sealed.as_slice())?;
        if held.is_none() {
            self.names.insert(&self.row[2..], placed.slot.number())?;
        }
        let cost = record_cost(&self.row, self.sealed.len());
        if let Some(held) = held {
            self.account_gone(placed.slot, held);
        }
        self.account_held(placed.slot, cost, placed.evictable);
        self.count(placed.slot, held, self.print(&self.sealed));
        let Placed { slot, ns, kind, key, .. } = placed;
        self.touch(Changed { slot: *slot, ns: ns.clone(), kind: *kind, key: key.clone(), version: record.version, live });
        Ok(())
    }

    fn insert_evictable(&mut self) -> Result<u64, redb::Error> {
        self.ledger.last_insertion += 1;
        self.evictable.insert(self.ledger.last_insertion, self.row.as_slice())?;
        Ok(self.ledger.last_insertion)
    }

    /// Notes what the change of the row at `self.row` does to its slot's digest (E6).
    fn count(&mut self, slot: Slot, held: Option<&Held>, new: Option<Fingerprint>) {
        if self.counting.key_for(&self.row).is_none() {
            return;
        }
        if held.is_some_and(|held| held.before.is_none()) {
            self.recount.insert(slot);
        }
        let old = held.and_then(|held| held.print);
        if old != new {
            self.differences.extend(Difference::of(slot, &self.row, old, new));
        }
    }

    pub(super) fn touch(&mut self, changed: Changed) {
        self.changed = true;
        self.touched.push(changed);
    }

    /// Removes the row at `self.row`, which holds `held`, and its name.
    pub(super) fn remove(&mut self, slot: Slot, held: &Held) -> Result<(), redb::Error> {
        self.records.remove(self.row.as_slice())?;
        self.names.remove(&self.row[2..])?;
        if let Some(insertion) = held.insertion {
            self.evictable.remove(insertion)?;
        }
        self.account_gone(slot, held);
        self.count(slot, Some(held), None);
        self.changed = true;
        Ok(())
    }

    fn slot_totals(&mut self, slot: Slot) -> &mut SlotTotals {
        self.changed_slots.entry(slot).or_insert_with(|| self.slots.totals(slot))
    }

    fn account_held(&mut self, slot: Slot, cost: u64, evictable: bool) {
        self.ledger.keys += 1;
        self.ledger.bytes += cost;
        if evictable {
            self.ledger.evictable_keys += 1;
            self.ledger.evictable_bytes += cost;
        }
        let totals = self.slot_totals(slot);
        totals.keys += 1;
        totals.bytes += cost;
    }

    fn account_gone(&mut self, slot: Slot, held: &Held) {
        self.ledger.keys = self.ledger.keys.saturating_sub(1);
        self.ledger.bytes = self.ledger.bytes.saturating_sub(held.cost);
        if held.insertion.is_some() {
            self.ledger.evictable_keys = self.ledger.evictable_keys.saturating_sub(1);
            self.ledger.evictable_bytes = self.ledger.evictable_bytes.saturating_sub(held.cost);
        }
        let totals = self.slot_totals(slot);
        totals.keys = totals.keys.saturating_sub(1);
        totals.bytes = totals.bytes.saturating_sub(held.cost);
    }

    /// Appends to the operation log.
    pub(super) fn append(
        &mut self,
        placed: &Placed,
        version: Version,
        delta: Option<&[u8]>,
        set: &WriteSet,
    ) -> Result<Sequence, redb::Error> {
        let sequence = self.ledger.last_sequence + 1;
        let operation = StoredOperation {
            slot: placed.slot,
            ns: placed.ns.as_str(),
            key: placed.key.as_bytes(),
            version,
            kind: placed.kind,
            delta,
            request: set.answers.first().map(|kept| kept.key.as_bytes()),
        };
        operation.seal(sequence, &mut self.sealed);
        self.log.insert(sequence, self.sealed.as_slice())?;
        self.ledger.last_sequence = sequence;
        self.ledger.log_entries += 1;
        self.ledger.log_bytes += log_cost(self.sealed.len());
        Ok(Sequence(sequence))
    }
}
