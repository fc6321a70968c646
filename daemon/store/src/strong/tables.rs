//! The tables of the strong store, the sums over them, and the view that one commit leaves.

use std::collections::BTreeMap;
use std::sync::Arc;

use isochrone_ident::{SLOTS, Slot};
use isochrone_quorum::{Member, SlotState};
use redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::redo::Mark;
use super::rows::Generation;
use super::words::StrongTotals;
use crate::codec::{Corrupt, seal, unseal};

type Rows = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// Slot, generation, name -> sealed state of the key.
pub(super) const KEYS: Rows = TableDefinition::new("keys");
/// Name -> slot and generation: the order of listings.
pub(super) const NAMES: TableDefinition<'static, &'static [u8], (u16, Generation)> = TableDefinition::new("names");
/// The rows of keys without a value: what may be forgotten (Q16).
pub(super) const DEAD: TableDefinition<'static, &'static [u8], ()> = TableDefinition::new("dead");
/// Wall time and the row of a key whose value expires then.
pub(super) const EXPIRY: TableDefinition<'static, (u64, &'static [u8]), ()> = TableDefinition::new("expiry");
/// Slot -> its sealed [`SlotRow`].
pub(super) const SLOT_ROWS: TableDefinition<'static, u16, &'static [u8]> = TableDefinition::new("slots");
/// Generations of slots that were wiped and may have rows still.
pub(super) const STALE: TableDefinition<'static, (u16, Generation), ()> = TableDefinition::new("stale");
/// Group of slots -> sealed totals of each.
pub(super) const TOTALS: TableDefinition<'static, u16, &'static [u8]> = TableDefinition::new("totals");
/// The format, whose store it is, and the sealed ledger.
pub(super) const META: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("meta");

/// The only format that this version reads and writes.
pub(super) const FORMAT: u32 = 1;
pub(super) const FORMAT_ROW: &str = "format";
pub(super) const MEMBER_ROW: &str = "member";
const LEDGER_ROW: &str = "ledger";
const MARK_ROW: &str = "mark";

/// Slots whose totals share a row: all of them are 64 rows of some 600 bytes, so that even a group that touches every slot writes few pages of them.
const GROUP_SLOTS: u16 = 64;

/// What a row costs beyond its key and value: its share of the tree's offsets and branch pages.
const ROW_OVERHEAD_BYTES: u64 = 16;

/// Bytes that a key takes up by the store's count: its row, and its name's.
pub(super) fn cost_of(row: &[u8], sealed_bytes: usize) -> u64 {
    (2 * row.len() + sealed_bytes) as u64 + 2 * ROW_OVERHEAD_BYTES
}

/// What is kept of a slot besides its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct SlotRow {
    pub(super) generation: Generation,
    pub(super) state: Option<SlotState>,
}

/// The sums over all tables. Written by every commit, so always true of what is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Ledger {
    /// Number of the commit; tells after a failure whether it got through.
    pub(super) commit: u64,
    pub(super) keys: u64,
    pub(super) bytes: u64,
    pub(super) dead: u64,
    pub(super) stale_keys: u64,
    pub(super) stale_bytes: u64,
}

/// What of the tables is kept in memory: the ledger, and what there is of each slot.
#[derive(Debug, Clone)]
pub(super) struct Sums {
    pub(super) ledger: Ledger,
    /// Up to where the log is in the tables.
    pub(super) mark: Mark,
    pub(super) slots: Vec<SlotRow>,
    pub(super) totals: Vec<StrongTotals>,
    /// The generation of each slot, as readers of the last commit need them.
    pub(super) generations: Arc<[Generation]>,
}

/// What a transaction changes of the [`Sums`].
#[derive(Debug, Default)]
pub(super) struct Changed {
    pub(super) ledger: Ledger,
    pub(super) mark: Mark,
    pub(super) slots: BTreeMap<Slot, SlotRow>,
    pub(super) totals: BTreeMap<Slot, StrongTotals>,
}

impl Sums {
    /// What was written has been committed.
    pub(super) fn adopt(&mut self, changed: Changed) {
        (self.ledger, self.mark) = (changed.ledger, changed.mark);
        let wiped = changed.slots.iter().any(|(slot, row)| row.generation != self.slots[slot.index()].generation);
        for (slot, row) in changed.slots {
            self.slots[slot.index()] = row;
        }
        for (slot, totals) in changed.totals {
            self.totals[slot.index()] = totals;
        }
        if wiped {
            self.generations = self.slots.iter().map(|row| row.generation).collect();
        }
    }

    /// What the last commit wrote.
    pub(super) fn read(database: &Database) -> Result<Result<Self, Corrupt>, redb::Error> {
        let read = database.begin_read()?;
        let meta = read.open_table(META)?;
        let ledger = match meta.get(LEDGER_ROW)? {
            Some(row) => unseal(LEDGER_ROW.as_bytes(), row.value()),
            None => Ok(Ledger::default()),
        };
        let mark = match meta.get(MARK_ROW)? {
            Some(row) => unseal(MARK_ROW.as_bytes(), row.value()),
            None => Ok(Mark::default()),
        };
        let slots = read_slots(&read.open_table(SLOT_ROWS)?)?;
        let totals = read_totals(&read.open_table(TOTALS)?)?;
        let (Ok(ledger), Ok(mark), Ok(slots), Ok(totals)) = (ledger, mark, slots, totals) else { return Ok(Err(Corrupt)) };
        let generations = slots.iter().map(|row| row.generation).collect();
        Ok(Ok(Self { ledger, mark, slots, totals, generations }))
    }

    /// Writes what `changed` says, in groups of slots.
    pub(super) fn write(&self, changed: &Changed, write: &WriteTransaction) -> Result<(), redb::Error> {
        let mut sealed = Vec::new();
        seal(LEDGER_ROW.as_bytes(), &changed.ledger, &mut sealed);
        let mut meta = write.open_table(META)?;
        meta.insert(LEDGER_ROW, sealed.as_slice())?;
        seal(MARK_ROW.as_bytes(), &changed.mark, &mut sealed);
        meta.insert(MARK_ROW, sealed.as_slice())?;
        let mut rows = write.open_table(SLOT_ROWS)?;
        for (slot, row) in &changed.slots {
            seal(&slot.number().to_be_bytes(), row, &mut sealed);
            rows.insert(slot.number(), sealed.as_slice())?;
        }
        self.write_totals(&changed.totals, &mut write.open_table(TOTALS)?)
    }

    fn write_totals(&self, changed: &BTreeMap<Slot, StrongTotals>, table: &mut Table<'_, u16, &'static [u8]>) -> Result<(), redb::Error> {
        let mut sealed = Vec::new();
        let mut written = None;
        for group in changed.keys().map(|slot| slot.number() / GROUP_SLOTS) {
            if written.replace(group) == Some(group) {
                continue;
            }
            let slots = (group * GROUP_SLOTS..(group + 1) * GROUP_SLOTS).map_while(|number| Slot::new(number).ok());
            let totals: Vec<(u64, u64, u64)> = slots
                .map(|slot| changed.get(&slot).copied().unwrap_or_else(|| self.totals[slot.index()]))
                .map(|totals| (totals.keys, totals.bytes, totals.dead))
                .collect();
            seal(&group.to_be_bytes(), &totals, &mut sealed);
            table.insert(group, sealed.as_slice())?;
        }
        Ok(())
    }
}

fn read_slots(table: &ReadOnlyTable<u16, &'static [u8]>) -> Result<Result<Vec<SlotRow>, Corrupt>, redb::Error> {
    let mut all = vec![SlotRow::default(); usize::from(SLOTS)];
    for row in table.iter()? {
        let (number, sealed) = row?;
        let number = number.value();
        let (Some(place), Ok(slot)) = (all.get_mut(usize::from(number)), unseal(&number.to_be_bytes(), sealed.value())) else {
            return Ok(Err(Corrupt));
        };
        *place = slot;
    }
    Ok(Ok(all))
}

fn read_totals(table: &ReadOnlyTable<u16, &'static [u8]>) -> Result<Result<Vec<StrongTotals>, Corrupt>, redb::Error> {
    let mut all = vec![StrongTotals::default(); usize::from(SLOTS)];
    for row in table.iter()? {
        let (group, sealed) = row?;
        let group = group.value();
        let first = usize::from(group) * usize::from(GROUP_SLOTS);
        let Ok(totals) = unseal::<Vec<(u64, u64, u64)>>(&group.to_be_bytes(), sealed.value()) else { return Ok(Err(Corrupt)) };
        let Some(places) = all.get_mut(first..first + totals.len()) else { return Ok(Err(Corrupt)) };
        for (place, (keys, bytes, dead)) in places.iter_mut().zip(totals) {
            *place = StrongTotals { keys, bytes, dead };
        }
    }
    Ok(Ok(all))
}

/// The tables as one commit left them, for readers.
pub(super) struct Snapshot {
    pub(super) keys: ReadOnlyTable<&'static [u8], &'static [u8]>,
    pub(super) names: ReadOnlyTable<&'static [u8], (u16, Generation)>,
    pub(super) dead: ReadOnlyTable<&'static [u8], ()>,
    pub(super) expiry: ReadOnlyTable<(u64, &'static [u8]), ()>,
    pub(super) generations: Arc<[Generation]>,
}

impl Snapshot {
    pub(super) fn of(database: &Database, sums: &Sums) -> Result<Self, redb::Error> {
        let read = database.begin_read()?;
        Ok(Self {
            keys: read.open_table(KEYS)?,
            names: read.open_table(NAMES)?,
            dead: read.open_table(DEAD)?,
            expiry: read.open_table(EXPIRY)?,
            generations: Arc::clone(&sums.generations),
        })
    }

    pub(super) fn generation(&self, slot: Slot) -> Generation {
        self.generations[slot.index()]
    }
}

/// Makes every table, and says which format they have and whose they are.
pub(super) fn create_all(write: &WriteTransaction, member: Member, mark: Mark) -> Result<(), redb::Error> {
    write.open_table(KEYS)?;
    write.open_table(NAMES)?;
    write.open_table(DEAD)?;
    write.open_table(EXPIRY)?;
    write.open_table(SLOT_ROWS)?;
    write.open_table(STALE)?;
    write.open_table(TOTALS)?;
    let mut meta = write.open_table(META)?;
    meta.insert(FORMAT_ROW, FORMAT.to_le_bytes().as_slice())?;
    let mut sealed = Vec::new();
    seal(MEMBER_ROW.as_bytes(), &member, &mut sealed);
    meta.insert(MEMBER_ROW, sealed.as_slice())?;
    seal(MARK_ROW.as_bytes(), &mark, &mut sealed);
    meta.insert(MARK_ROW, sealed.as_slice())?;
    Ok(())
}
