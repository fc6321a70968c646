//! One write transaction: write sets are applied to the tables, one after the other, and nothing is visible or durable until all are.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use isochrone_ident::{Key, Kind, Namespace, Slot, Version, WallMicros};
use isochrone_replica::{Record, Sequence};
use redb::{ReadableTable, Table, WriteTransaction};

use crate::codec::{Stored, StoredAnswer, StoredFact, StoredOperation, parse_record_row, record_row, seal, slot_range, unseal};
use crate::memory::Name;
use crate::meters::Meters;
use crate::tables::{self, Ledger, SlotLedger, answer_cost, log_cost, record_cost};
use crate::words::{Before, Committed, Outcome, Placed, RequestKey, SlotTotals, WriteSet};
use crate::{StoreOptions, WriteError};

/// Most rows that one commit spends on each kind of tidying (eviction, trimming, expired answers), so that a commit's time is bounded.
pub(crate) const TIDY_ROWS_MAX: usize = 1024;

/// A delete may use this much of the durable budget beyond its end (1/64), so that a full store can be emptied.
const RESERVE_SHIFT: u32 = 6;

type Bytewise<'t> = Table<'t, &'static [u8], &'static [u8]>;

/// What a key's row holds at the moment.
struct Held {
    cost: u64,
    insertion: Option<u64>,
    /// `None` when the row is corrupt.
    record: Option<Record>,
}

/// A transaction in the making.
pub(crate) struct Work<'t> {
    records: Bytewise<'t>,
    names: Table<'t, &'static [u8], u16>,
    log: Table<'t, u64, &'static [u8]>,
    evictable: Table<'t, u64, &'static [u8]>,
    answers: Bytewise<'t>,
    expiry: Table<'t, (u64, &'static [u8]), ()>,
    facts: Table<'t, &'static str, &'static [u8]>,
    totals: Table<'t, u16, &'static [u8]>,
    meta: Table<'t, &'static str, &'static [u8]>,
    ledger: Ledger,
    slots: &'t SlotLedger,
    changed_slots: BTreeMap<Slot, SlotTotals>,
    touched: Vec<Name>,
    changed: bool,
    row: Vec<u8>,
    sealed: Vec<u8>,
    options: &'t StoreOptions,
    meters: &'t Meters,
}

/// What a finished transaction changes outside the tables.
pub(crate) struct Changes {
    pub(crate) ledger: Ledger,
    pub(crate) slots: BTreeMap<Slot, SlotTotals>,
    /// Keys whose copies in memory are out of date.
    pub(crate) touched: Vec<Name>,
    /// Whether anything was written at all.
    pub(crate) changed: bool,
}

impl<'t> Work<'t> {
    pub(crate) fn open(
        write: &'t WriteTransaction,
        ledger: Ledger,
        slots: &'t SlotLedger,
        options: &'t StoreOptions,
        meters: &'t Meters,
    ) -> Result<Self, redb::Error> {
        Ok(Self {
            records: write.open_table(tables::RECORDS)?,
            names: write.open_table(tables::NAMES)?,
            log: write.open_table(tables::LOG)?,
            evictable: write.open_table(tables::EVICTABLE)?,
            answers: write.open_table(tables::ANSWERS)?,
            expiry: write.open_table(tables::EXPIRY)?,
            facts: write.open_table(tables::FACTS)?,
            totals: write.open_table(tables::TOTALS)?,
            meta: write.open_table(tables::META)?,
            ledger,
            slots,
            changed_slots: BTreeMap::new(),
            touched: Vec::new(),
            changed: false,
            row: Vec::new(),
            sealed: Vec::new(),
            options,
            meters,
        })
    }

    /// Applies one write set, or refuses it whole. An error of the engine spoils the transaction.
    pub(crate) fn apply(&mut self, set: &WriteSet, now: WallMicros) -> Result<Result<Committed, WriteError>, redb::Error> {
        if let Some(earlier) = self.earlier_answer(set, now)? {
            return Ok(Ok(Committed { outcomes: Vec::new(), earlier: Some(earlier) }));
        }
        if let Err(refusal) = self.admit(set)? {
            return Ok(Err(refusal));
        }
        let mut outcomes = Vec::with_capacity(set.entries.len());
        for placed in &set.entries {
            outcomes.push(self.merge(placed, set.log)?);
        }
        for (key, answer, until) in &set.answers {
            self.keep_answer(key, answer, *until)?;
        }
        for (key, value) in &set.facts {
            self.set_fact(key.as_str(), value.as_ref())?;
        }
        Ok(Ok(Committed { outcomes, earlier: None }))
    }

    /// The answer kept for one of the set's request keys: then the set is a repeat.
    fn earlier_answer(&self, set: &WriteSet, now: WallMicros) -> Result<Option<Bytes>, redb::Error> {
        for (key, _, _) in &set.answers {
            if let Some(row) = self.answers.get(key.as_bytes())?
                && let Ok(kept) = unseal::<StoredAnswer<'_>>(key.as_bytes(), row.value())
                && now < kept.until
            {
                return Ok(Some(Bytes::copy_from_slice(kept.answer)));
            }
        }
        Ok(None)
    }

    /// Whether there is room for the set (E11). Sizes are summed first as if every key were new; only when that doesn't fit are the rows that would be
    /// replaced looked at.
    fn admit(&mut self, set: &WriteSet) -> Result<Result<(), WriteError>, redb::Error> {
        let mut durable = set.answers.iter().map(|(key, answer, _)| answer_cost(key.as_bytes(), answer.len() + 32)).sum::<u64>();
        let mut only_deletes = set.answers.is_empty();
        for placed in &set.entries {
            let cost = estimate(placed);
            if placed.evictable && cost > self.options.evictable_bytes_max {
                return Ok(Err(self.full("the value is larger than the budget of evictable data")));
            }
            durable += if placed.evictable { 0 } else { cost };
            durable += if set.log { log_cost(64 + placed.entry.key.as_bytes().len()) } else { 0 };
            only_deletes &= matches!(placed.entry.record.state, isochrone_replica::State::Tombstone);
        }
        let bound = self.options.durable_bytes_max();
        let bound = if only_deletes { bound + (bound >> RESERVE_SHIFT) } else { bound };
        if durable == 0 || self.ledger.durable_bytes() + durable <= bound {
            return Ok(Ok(()));
        }
        let replaced = self.replaced_bytes(set)?;
        if self.ledger.durable_bytes() + durable.saturating_sub(replaced) <= bound || durable <= replaced {
            return Ok(Ok(()));
        }
        Ok(Err(self.full("durable data has used up its disk budget")))
    }

    fn full(&self, why: &str) -> WriteError {
        self.meters.refused_full.add(1);
        WriteError::Full(why.to_owned())
    }

    /// Bytes of the durable rows that the set's entries would replace.
    fn replaced_bytes(&mut self, set: &WriteSet) -> Result<u64, redb::Error> {
        let mut seen = BTreeSet::new();
        let mut bytes = 0;
        for placed in set.entries.iter().filter(|placed| !placed.evictable) {
            record_row(placed.slot, &placed.entry.ns, placed.entry.kind, placed.entry.key.as_bytes(), &mut self.row);
            if let Some(row) = self.records.get(self.row.as_slice())?
                && seen.insert(self.row.clone())
            {
                bytes += record_cost(&self.row, row.value().len());
            }
        }
        Ok(bytes)
    }

    /// What the row at `self.row` holds.
    fn held(&self) -> Result<Option<Held>, redb::Error> {
        let Some(found) = self.records.get(self.row.as_slice())? else { return Ok(None) };
        let cost = record_cost(&self.row, found.value().len());
        Ok(Some(match unseal::<Stored<'_>>(&self.row, found.value()) {
            Ok(stored) => Held { cost, insertion: stored.insertion, record: Some(stored.to_record()) },
            Err(_) => Held { cost, insertion: None, record: None },
        }))
    }

    /// Merges an entry into what is held for its key (E4, E8).
    fn merge(&mut self, placed: &Placed, log: bool) -> Result<Outcome, redb::Error> {
        let entry = &placed.entry;
        record_row(placed.slot, &entry.ns, entry.kind, entry.key.as_bytes(), &mut self.row);
        let held = self.held()?;
        let before = held.as_ref().and_then(|held| held.record.as_ref());
        let outcome_before = before.map(summary);
        let merged = match before {
            None => {
                self.note_healed(held.as_ref(), placed);
                entry.record.clone()
            }
            Some(before) => {
                let kept = Outcome { before: outcome_before, after: before.version, taken: false, logged: None };
                match before.clone().merge(entry.record.clone()) {
                    Ok(merged) if merged == *before => return Ok(kept),
                    Ok(merged) => merged,
                    Err(conflict) => {
                        self.meters.conflicts.increment(1);
                        tracing::error!(ns = %entry.ns, key = %entry.key, %conflict, "a record was refused");
                        return Ok(kept);
                    }
                }
            }
        };
        self.put(placed, &merged, held.as_ref())?;
        let logged = if log { Some(self.append(placed, merged.version)?) } else { None };
        Ok(Outcome { before: outcome_before, after: merged.version, taken: true, logged })
    }

    /// A corrupt record is as good as lost: whatever comes from a client or a peer takes its place.
    fn note_healed(&self, held: Option<&Held>, placed: &Placed) {
        if held.is_some() {
            self.meters.corrupt.add(1);
            tracing::warn!(ns = %placed.entry.ns, key = %placed.entry.key, "a corrupt record was replaced");
        }
    }

    /// Writes `record` into the row at `self.row`, which holds `held` now.
    fn put(&mut self, placed: &Placed, record: &Record, held: Option<&Held>) -> Result<(), redb::Error> {
        if let Some(insertion) = held.and_then(|held| held.insertion) {
            self.evictable.remove(insertion)?;
        }
        let insertion = if placed.evictable {
            self.ledger.last_insertion += 1;
            self.evictable.insert(self.ledger.last_insertion, self.row.as_slice())?;
            Some(self.ledger.last_insertion)
        } else {
            None
        };
        seal(&self.row, &Stored::of(record, insertion), &mut self.sealed);
        self.records.insert(self.row.as_slice(), self.sealed.as_slice())?;
        if held.is_none() {
            self.names.insert(&self.row[2..], placed.slot.number())?;
        }
        let cost = record_cost(&self.row, self.sealed.len());
        if let Some(held) = held {
            self.account_gone(placed.slot, held);
        }
        self.account_held(placed.slot, cost, placed.evictable);
        self.touch(placed.entry.ns.clone(), placed.entry.kind, placed.entry.key.clone());
        Ok(())
    }

    fn touch(&mut self, ns: Namespace, kind: Kind, key: Key) {
        self.changed = true;
        self.touched.push(Name { ns, kind, key });
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

    fn append(&mut self, placed: &Placed, version: Version) -> Result<Sequence, redb::Error> {
        let sequence = self.ledger.last_sequence + 1;
        let (ns, key) = (placed.entry.ns.as_str(), placed.entry.key.as_bytes());
        let operation = StoredOperation { slot: placed.slot, ns, key, version, kind: placed.entry.kind, delta: None, request: None };
        operation.seal(sequence, &mut self.sealed);
        self.log.insert(sequence, self.sealed.as_slice())?;
        self.ledger.last_sequence = sequence;
        self.ledger.log_entries += 1;
        self.ledger.log_bytes += log_cost(self.sealed.len());
        Ok(Sequence(sequence))
    }

    fn keep_answer(&mut self, key: &RequestKey, answer: &[u8], until: WallMicros) -> Result<(), redb::Error> {
        self.drop_answer(key.as_bytes())?;
        seal(key.as_bytes(), &StoredAnswer { until, answer }, &mut self.sealed);
        self.answers.insert(key.as_bytes(), self.sealed.as_slice())?;
        self.expiry.insert((until.0, key.as_bytes()), ())?;
        self.ledger.answers += 1;
        self.ledger.answers_bytes += answer_cost(key.as_bytes(), self.sealed.len());
        self.changed = true;
        Ok(())
    }

    fn drop_answer(&mut self, key: &[u8]) -> Result<(), redb::Error> {
        let Some(row) = self.answers.remove(key)? else { return Ok(()) };
        if let Ok(kept) = unseal::<StoredAnswer<'_>>(key, row.value()) {
            self.expiry.remove((kept.until.0, key))?;
        }
        self.ledger.answers = self.ledger.answers.saturating_sub(1);
        self.ledger.answers_bytes = self.ledger.answers_bytes.saturating_sub(answer_cost(key, row.value().len()));
        self.changed = true;
        Ok(())
    }

    fn set_fact(&mut self, key: &str, value: Option<&Bytes>) -> Result<(), redb::Error> {
        match value {
            Some(value) => {
                seal(key.as_bytes(), &StoredFact { value }, &mut self.sealed);
                self.facts.insert(key, self.sealed.as_slice())?;
            }
            None => {
                self.facts.remove(key)?;
            }
        }
        self.changed = true;
        Ok(())
    }

    /// Removes a record if it has exactly that version still (E7). Tells whether it did.
    pub(crate) fn forget(&mut self, slot: Slot, ns: &Namespace, kind: Kind, key: &Key, version: Version) -> Result<bool, redb::Error> {
        record_row(slot, ns, kind, key.as_bytes(), &mut self.row);
        match self.held()? {
            Some(held) if held.record.as_ref().is_some_and(|record| record.version == version) => {
                self.remove(slot, &held)?;
                self.touch(ns.clone(), kind, key.clone());
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Removes the row at `self.row`, which holds `held`, and its name.
    fn remove(&mut self, slot: Slot, held: &Held) -> Result<(), redb::Error> {
        self.records.remove(self.row.as_slice())?;
        self.names.remove(&self.row[2..])?;
        if let Some(insertion) = held.insertion {
            self.evictable.remove(insertion)?;
        }
        self.account_gone(slot, held);
        self.changed = true;
        Ok(())
    }

    /// Removes records of a slot, [`TIDY_ROWS_MAX`] at most. Tells how many.
    pub(crate) fn drop_of_slot(&mut self, slot: Slot) -> Result<u64, redb::Error> {
        let (from, to) = slot_range(slot);
        let mut rows = Vec::new();
        for row in self.records.range::<&[u8]>(from.as_slice()..to.as_slice())?.take(TIDY_ROWS_MAX) {
            rows.push(row?.0.value().to_vec());
        }
        let count = rows.len() as u64;
        for row in rows {
            self.row = row;
            self.remove_row()?;
        }
        Ok(count)
    }

    /// Removes the row at `self.row`, whatever it holds.
    fn remove_row(&mut self) -> Result<(), redb::Error> {
        let Some(held) = self.held()? else { return Ok(()) };
        match parse_record_row(&self.row) {
            Ok((slot, ns, kind, key)) => {
                self.remove(slot, &held)?;
                self.touch(ns, kind, key);
            }
            Err(_) => {
                self.records.remove(self.row.as_slice())?;
                self.changed = true;
            }
        }
        Ok(())
    }

    /// Drops the oldest evictable records while they are over their budget (E11), trims the log, and drops answers that have expired or are too many;
    /// each bounded. Tells whether some of it is left to do.
    pub(crate) fn tidy(&mut self, trim_through: Sequence, now: WallMicros) -> Result<bool, redb::Error> {
        let evicting = self.evict()?;
        let trimming = self.trim(trim_through)?;
        let expiring = self.expire_answers(now)?;
        Ok(evicting || trimming || expiring)
    }

    fn evict(&mut self) -> Result<bool, redb::Error> {
        for _ in 0..TIDY_ROWS_MAX {
            if self.ledger.evictable_bytes <= self.options.evictable_bytes_max {
                return Ok(false);
            }
            let Some((insertion, row)) = self.evictable.pop_first()?.map(|(insertion, row)| (insertion.value(), row.value().to_vec()))
            else {
                return Ok(false);
            };
            self.row = row;
            if self.held()?.is_some_and(|held| held.insertion == Some(insertion)) {
                self.remove_row()?;
                self.meters.evicted.add(1);
            }
        }
        Ok(true)
    }

    fn trim(&mut self, through: Sequence) -> Result<bool, redb::Error> {
        let (mut entries, mut bytes) = (0, 0);
        for row in self.log.extract_from_if(..=through.0, |_, _| true)?.take(TIDY_ROWS_MAX) {
            entries += 1;
            bytes += log_cost(row?.1.value().len());
        }
        self.ledger.log_entries = self.ledger.log_entries.saturating_sub(entries);
        self.ledger.log_bytes = self.ledger.log_bytes.saturating_sub(bytes);
        self.changed |= entries > 0;
        Ok(entries as usize == TIDY_ROWS_MAX)
    }

    fn expire_answers(&mut self, now: WallMicros) -> Result<bool, redb::Error> {
        for _ in 0..TIDY_ROWS_MAX {
            let Some((until, key)) = self.expiry.first()?.map(|(row, _)| (row.value().0, row.value().1.to_vec())) else {
                return Ok(false);
            };
            if until > now.0 && self.ledger.answers <= self.options.answers_max {
                return Ok(false);
            }
            self.expiry.remove((until, key.as_slice()))?;
            self.drop_answer(&key)?;
            self.changed = true;
        }
        Ok(true)
    }

    /// Writes the sums; the transaction can then be committed.
    pub(crate) fn finish(mut self) -> Result<Changes, redb::Error> {
        self.ledger.commit += 1;
        self.slots.write(&self.changed_slots, &mut self.totals)?;
        self.ledger.write(&mut self.meta)?;
        Ok(Changes { ledger: self.ledger, slots: self.changed_slots, touched: self.touched, changed: self.changed })
    }
}

/// At most the bytes that a record will take up: the name, the value, and the largest head there can be.
fn estimate(placed: &Placed) -> u64 {
    const HEAD_BYTES_MAX: usize = 96;
    let name = placed.entry.ns.as_str().len() + 1 + placed.entry.key.as_bytes().len();
    (2 * name + 4 + placed.entry.record.bytes() + HEAD_BYTES_MAX) as u64
}

fn summary(record: &Record) -> Before {
    let (live, expires_at) = match &record.state {
        isochrone_replica::State::Live(live) => (true, live.expires_at),
        isochrone_replica::State::Tombstone => (false, None),
    };
    Before { version: record.version, live, expires_at }
}
