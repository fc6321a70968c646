//! One write transaction: write sets are applied to the tables, one after the other, and nothing is visible or durable until all are.

mod answers;
mod plan;
mod rows;
mod tidy;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use isochrone_ident::{Slot, WallMicros};
use redb::{ReadableTable, Table, WriteTransaction};

use crate::codec::{StoredFact, record_row, seal};
use crate::digests::{Counting, Difference};
use crate::meters::Meters;
use crate::tables::{self, Ledger, SlotLedger, answer_cost, log_cost, record_cost};
use crate::words::{Changed, Committed, FactKey, Placed, SlotTotals, Write, WriteSet};
use crate::{StoreOptions, WriteError};

/// Most rows that one commit spends on each kind of tidying (eviction, trimming, expired answers), so that a commit's time is bounded.
pub(crate) const TIDY_ROWS_MAX: usize = 1024;

/// A delete may use this much of the durable budget beyond its end (1/64), so that a full store can be emptied.
const RESERVE_SHIFT: u32 = 6;

/// At most the bytes that a kept answer has beyond its body: the seal, the time, and a counter's value.
const ANSWER_HEAD_BYTES: usize = 42;

/// About the bytes that a delta has beyond what a client asked for: its actor, its version, the dots that it removes.
const DELTA_BYTES: usize = 128;

type Bytewise<'t> = Table<'t, &'static [u8], &'static [u8]>;

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
    /// Facts as the last set left them, written once at the end.
    changed_facts: BTreeMap<FactKey, Option<Bytes>>,
    touched: Vec<Changed>,
    counting: &'t Counting,
    differences: Vec<Difference>,
    recount: BTreeSet<Slot>,
    changed: bool,
    row: Vec<u8>,
    sealed: Vec<u8>,
    terms: Standing<'t>,
}

/// What a transaction is done under.
#[derive(Clone, Copy)]
pub(crate) struct Standing<'t> {
    pub(crate) options: &'t StoreOptions,
    pub(crate) meters: &'t Meters,
    /// How often commits were lost since the open: see [`Write::Change`].
    pub(crate) rollbacks: u64,
}

/// What a finished transaction changes outside the tables.
pub(crate) struct Changes {
    pub(crate) ledger: Ledger,
    pub(crate) slots: BTreeMap<Slot, SlotTotals>,
    /// Keys whose copies in memory are out of date.
    pub(crate) touched: Vec<Changed>,
    /// What the digests are to be changed by (E6).
    pub(crate) differences: Vec<Difference>,
    /// Slots whose digests are to be made anew after that.
    pub(crate) recount: BTreeSet<Slot>,
    /// Whether anything was written at all.
    pub(crate) changed: bool,
}

impl<'t> Work<'t> {
    pub(crate) fn open(
        write: &'t WriteTransaction,
        ledger: Ledger,
        slots: &'t SlotLedger,
        counting: &'t Counting,
        terms: Standing<'t>,
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
            changed_facts: BTreeMap::new(),
            touched: Vec::new(),
            counting,
            differences: Vec::new(),
            recount: BTreeSet::new(),
            changed: false,
            row: Vec::new(),
            sealed: Vec::new(),
            terms,
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
        let plans = match self.plan(set)? {
            Ok(plans) => plans,
            Err(refused) => return Ok(Err(WriteError::Refused(refused))),
        };
        let mut outcomes = Vec::with_capacity(set.entries.len());
        for (placed, plan) in set.entries.iter().zip(plans) {
            outcomes.push(self.carry_out(placed, plan, set)?);
        }
        self.keep_answers(set, &outcomes, now)?;
        self.changed_facts.extend(set.facts.iter().cloned());
        Ok(Ok(Committed { outcomes, earlier: None }))
    }

    /// Whether there is room for the set (E11). Sizes are summed first as if every key were new; only when that doesn't fit are the rows that would be
    /// replaced looked at.
    fn admit(&mut self, set: &WriteSet) -> Result<Result<(), WriteError>, redb::Error> {
        let answers = set.answers.iter().map(|kept| (kept.key.as_bytes(), kept.body.len()));
        let learned = set.learned.iter().map(|(key, body, _)| (key.as_bytes(), body.len()));
        let mut durable: u64 = answers.chain(learned).map(|(key, body)| answer_cost(key, body + ANSWER_HEAD_BYTES)).sum();
        let mut only_deletes = durable == 0;
        for placed in &set.entries {
            let cost = estimate(placed);
            if placed.evictable && cost > self.terms.options.evictable_bytes_max {
                return Ok(Err(self.full("the value is larger than the budget of evictable data")));
            }
            durable += if placed.evictable { 0 } else { cost };
            durable += if set.log { logged_cost(placed) } else { 0 };
            only_deletes &= placed.write.frees();
        }
        let bound = self.terms.options.durable_bytes_max();
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
        self.terms.meters.refused_full.add(1);
        WriteError::Full(why.to_owned())
    }

    /// Bytes of the durable rows that the set's entries would replace, rather than add to.
    fn replaced_bytes(&mut self, set: &WriteSet) -> Result<u64, redb::Error> {
        let mut seen = BTreeSet::new();
        let mut bytes = 0;
        for placed in set.entries.iter().filter(|placed| !placed.evictable && placed.write.replaces()) {
            self.go_to(placed);
            if let Some(row) = self.records.get(self.row.as_slice())?
                && seen.insert(self.row.clone())
            {
                bytes += record_cost(&self.row, row.value().len());
            }
        }
        Ok(bytes)
    }

    /// Makes `self.row` the row of that key.
    fn go_to(&mut self, placed: &Placed) {
        record_row(placed.slot, &placed.ns, placed.kind, placed.key.as_bytes(), &mut self.row);
    }

    fn write_facts(&mut self) -> Result<(), redb::Error> {
        for (key, value) in std::mem::take(&mut self.changed_facts) {
            self.changed = true;
            match value {
                Some(value) => {
                    seal(key.as_str().as_bytes(), &StoredFact { value: &value }, &mut self.sealed);
                    self.facts.insert(key.as_str(), self.sealed.as_slice())?;
                }
                None => drop(self.facts.remove(key.as_str())?),
            }
        }
        Ok(())
    }

    /// Writes the facts and the sums; the transaction can then be committed.
    pub(crate) fn finish(mut self) -> Result<Changes, redb::Error> {
        self.write_facts()?;
        self.ledger.commit += 1;
        self.slots.write(&self.changed_slots, &mut self.totals)?;
        self.ledger.write(&mut self.meta)?;
        let Self { ledger, changed_slots, touched, differences, recount, changed, .. } = self;
        Ok(Changes { ledger, slots: changed_slots, touched, differences, recount, changed })
    }
}

/// At most the bytes that a record will take up: the name, the value, and the largest head there can be.
fn estimate(placed: &Placed) -> u64 {
    const HEAD_BYTES_MAX: usize = 96;
    let name = placed.ns.as_str().len() + 1 + placed.key.as_bytes().len();
    (2 * name + 4 + placed.write.bytes() + HEAD_BYTES_MAX) as u64
}

/// At most the bytes that its row in the log will take up.
fn logged_cost(placed: &Placed) -> u64 {
    let delta = if matches!(placed.write, Write::Change { .. }) { DELTA_BYTES + placed.write.bytes() } else { 0 };
    log_cost(64 + placed.key.as_bytes().len() + delta)
}
