//! The tables of the durable tier, and the one row that sums them up.

use std::collections::BTreeMap;

use isochrone_ident::{SLOTS, Slot};
use redb::{ReadOnlyTable, ReadableTable, Table, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use crate::codec::{Corrupt, seal, unseal};
use crate::words::SlotTotals;

type Rows = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// Slot, namespace, key -> sealed record.
pub(crate) const RECORDS: Rows = TableDefinition::new("records");
/// Namespace, key -> slot: the order of listings. Written when a key appears and when it is forgotten.
pub(crate) const NAMES: TableDefinition<'static, &'static [u8], u16> = TableDefinition::new("names");
/// Sequence -> sealed operation.
pub(crate) const LOG: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("log");
/// Insertion -> the record's row: the order of eviction (E11).
pub(crate) const EVICTABLE: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("evictable");
/// Request key -> sealed answer.
pub(crate) const ANSWERS: Rows = TableDefinition::new("answers");
/// Wall time and request key: the order in which answers expire.
pub(crate) const EXPIRY: TableDefinition<'static, (u64, &'static [u8]), ()> = TableDefinition::new("expiry");
/// Name -> sealed fact.
pub(crate) const FACTS: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("facts");
/// Group of slots -> sealed totals of each.
pub(crate) const TOTALS: TableDefinition<'static, u16, &'static [u8]> = TableDefinition::new("totals");
/// The format, and the sealed ledger.
pub(crate) const META: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("meta");

/// The only format that this version reads and writes.
pub(crate) const FORMAT: u32 = 1;
pub(crate) const FORMAT_ROW: &str = "format";
const LEDGER_ROW: &str = "ledger";

/// Slots whose totals share a row: a commit of one key writes 1 KiB of totals, and one of 256 keys 64 KiB at most.
const GROUP_SLOTS: u16 = 64;

/// What a row costs beyond its key and value: its share of the tree's offsets and branch pages.
const ROW_OVERHEAD_BYTES: u64 = 16;

/// Bytes that a record takes up by the store's count: its row, and its name's.
pub(crate) fn record_cost(row: &[u8], sealed_bytes: usize) -> u64 {
    let names = row.len().saturating_sub(2);
    (row.len() + sealed_bytes + names + 2) as u64 + 2 * ROW_OVERHEAD_BYTES
}

/// Bytes that a row of the log takes up.
pub(crate) fn log_cost(sealed_bytes: usize) -> u64 {
    8 + sealed_bytes as u64 + ROW_OVERHEAD_BYTES
}

/// Bytes that a kept answer takes up, its place in the order of expiry included.
pub(crate) fn answer_cost(row: &[u8], sealed_bytes: usize) -> u64 {
    (2 * row.len() + 8 + sealed_bytes) as u64 + 2 * ROW_OVERHEAD_BYTES
}

/// The sums over all tables, and the counters that only grow. Written by every commit, so always true of what is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Ledger {
    /// Number of the commit; tells after a failure whether it got through.
    pub(crate) commit: u64,
    pub(crate) last_sequence: u64,
    pub(crate) last_insertion: u64,
    pub(crate) keys: u64,
    pub(crate) bytes: u64,
    pub(crate) evictable_keys: u64,
    pub(crate) evictable_bytes: u64,
    pub(crate) log_entries: u64,
    pub(crate) log_bytes: u64,
    pub(crate) answers: u64,
    pub(crate) answers_bytes: u64,
}

impl Ledger {
    /// Bytes counted against the durable budget.
    pub(crate) fn durable_bytes(&self) -> u64 {
        self.bytes.saturating_sub(self.evictable_bytes) + self.log_bytes + self.answers_bytes
    }

    pub(crate) fn read(meta: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<Result<Self, Corrupt>, redb::Error> {
        Ok(match meta.get(LEDGER_ROW)? {
            Some(row) => unseal(LEDGER_ROW.as_bytes(), row.value()),
            None => Ok(Self::default()),
        })
    }

    pub(crate) fn write(&self, meta: &mut Table<'_, &'static str, &'static [u8]>) -> Result<(), redb::Error> {
        let mut sealed = Vec::new();
        seal(LEDGER_ROW.as_bytes(), self, &mut sealed);
        meta.insert(LEDGER_ROW, sealed.as_slice())?;
        Ok(())
    }
}

/// What each slot holds.
#[derive(Debug, Clone)]
pub(crate) struct SlotLedger(Vec<SlotTotals>);

impl SlotLedger {
    pub(crate) fn totals(&self, slot: Slot) -> SlotTotals {
        self.0[slot.index()]
    }

    /// What was written has been committed.
    pub(crate) fn adopt(&mut self, changed: BTreeMap<Slot, SlotTotals>) {
        for (slot, totals) in changed {
            self.0[slot.index()] = totals;
        }
    }

    pub(crate) fn read(table: &impl ReadableTable<u16, &'static [u8]>) -> Result<Result<Self, Corrupt>, redb::Error> {
        let mut all = vec![SlotTotals::default(); usize::from(SLOTS)];
        for row in table.iter()? {
            let (group, sealed) = row?;
            let group = group.value();
            let first = usize::from(group) * usize::from(GROUP_SLOTS);
            let Ok(totals) = unseal::<Vec<(u64, u64)>>(&group.to_be_bytes(), sealed.value()) else { return Ok(Err(Corrupt)) };
            let Some(places) = all.get_mut(first..first + totals.len()) else { return Ok(Err(Corrupt)) };
            for (place, (keys, bytes)) in places.iter_mut().zip(totals) {
                *place = SlotTotals { keys, bytes };
            }
        }
        Ok(Ok(Self(all)))
    }

    /// Writes the groups that hold changed slots, as they will be.
    pub(crate) fn write(&self, changed: &BTreeMap<Slot, SlotTotals>, table: &mut Table<'_, u16, &'static [u8]>) -> Result<(), redb::Error> {
        let mut sealed = Vec::new();
        let mut written = None;
        for group in changed.keys().map(|slot| slot.number() / GROUP_SLOTS) {
            if written.replace(group) == Some(group) {
                continue;
            }
            let slots = (group * GROUP_SLOTS..(group + 1) * GROUP_SLOTS).map_while(|number| Slot::new(number).ok());
            let totals: Vec<(u64, u64)> = slots
                .map(|slot| changed.get(&slot).copied().unwrap_or_else(|| self.totals(slot)))
                .map(|totals| (totals.keys, totals.bytes))
                .collect();
            seal(&group.to_be_bytes(), &totals, &mut sealed);
            table.insert(group, sealed.as_slice())?;
        }
        Ok(())
    }
}

/// The tables as one commit left them, for readers. The committer replaces it after each commit, so no old state is held for long.
pub(crate) struct Snapshot {
    pub(crate) records: ReadOnlyTable<&'static [u8], &'static [u8]>,
    pub(crate) names: ReadOnlyTable<&'static [u8], u16>,
    pub(crate) log: ReadOnlyTable<u64, &'static [u8]>,
    pub(crate) answers: ReadOnlyTable<&'static [u8], &'static [u8]>,
    pub(crate) facts: ReadOnlyTable<&'static str, &'static [u8]>,
}

impl Snapshot {
    pub(crate) fn of(database: &redb::Database) -> Result<Self, redb::Error> {
        use redb::ReadableDatabase;
        let read = database.begin_read()?;
        Ok(Self {
            records: read.open_table(RECORDS)?,
            names: read.open_table(NAMES)?,
            log: read.open_table(LOG)?,
            answers: read.open_table(ANSWERS)?,
            facts: read.open_table(FACTS)?,
        })
    }
}

/// Makes every table, and says which format they have.
pub(crate) fn create_all(write: &WriteTransaction) -> Result<(), redb::Error> {
    write.open_table(RECORDS)?;
    write.open_table(NAMES)?;
    write.open_table(LOG)?;
    write.open_table(EVICTABLE)?;
    write.open_table(ANSWERS)?;
    write.open_table(EXPIRY)?;
    write.open_table(FACTS)?;
    write.open_table(TOTALS)?;
    write.open_table(META)?.insert(FORMAT_ROW, FORMAT.to_le_bytes().as_slice())?;
    Ok(())
}
