//! What one transaction does: rows applied in their order, the indices with them, and a piece of what was wiped swept away.

use isochrone_ident::Slot;
use isochrone_quorum::{KeyName, KeyState, Row, SlotState};
use redb::{ReadableTable, Table, WriteTransaction};

use super::redo::Mark;
use super::rows::{Generation, Head, key_row, name_of_row, prefix, seal_state, unseal_head};
use super::tables::{Changed, DEAD, EXPIRY, KEYS, NAMES, STALE, SlotRow, Sums, cost_of};
use super::words::StrongTotals;

/// Most rows of wiped slots that one transaction sweeps away.
const SWEEP_ROWS_MAX: usize = 512;

/// Why a transaction could not go on.
#[derive(Debug)]
pub(super) enum Trouble {
    Engine(redb::Error),
    /// What is stored does not read back.
    Corrupt(String),
}

impl<E: Into<redb::Error>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Engine(error.into())
    }
}

/// What the row of a key held.
struct Before {
    head: Head,
    cost: u64,
}

/// A transaction in progress.
pub(super) struct Work<'t> {
    sums: &'t Sums,
    changed: Changed,
    keys: Table<'t, &'static [u8], &'static [u8]>,
    names: Table<'t, &'static [u8], (u16, Generation)>,
    dead: Table<'t, &'static [u8], ()>,
    expiry: Table<'t, (u64, &'static [u8]), ()>,
    stale: Table<'t, (u16, Generation), ()>,
    /// The row that is being changed.
    row: Vec<u8>,
    sealed: Vec<u8>,
}

impl<'t> Work<'t> {
    pub(super) fn open(write: &'t WriteTransaction, sums: &'t Sums, mark: Mark) -> Result<Self, Trouble> {
        let changed = Changed { ledger: sums.ledger, mark, ..Changed::default() };
        Ok(Self {
            sums,
            changed,
            keys: write.open_table(KEYS)?,
            names: write.open_table(NAMES)?,
            dead: write.open_table(DEAD)?,
            expiry: write.open_table(EXPIRY)?,
            stale: write.open_table(STALE)?,
            row: Vec::new(),
            sealed: Vec::new(),
        })
    }

    /// Applies a row, after all that were applied before.
    pub(super) fn apply(&mut self, row: &Row) -> Result<(), Trouble> {
        match row {
            Row::Slot(slot, state) => self.put_slot(*slot, *state),
            Row::Key(slot, name, state) => self.put(*slot, name, state)?,
            Row::Erase(slot, name) => self.erase(*slot, name)?,
            Row::Wipe(slot) => self.wipe(*slot)?,
        }
        Ok(())
    }

    /// What is to be written besides the tables, and whether something is left to sweep.
    pub(super) fn finish(mut self) -> Result<(Changed, bool), Trouble> {
        self.changed.ledger.commit += 1;
        let untidy = self.stale.first()?.is_some();
        Ok((self.changed, untidy))
    }

    fn slot_row(&self, slot: Slot) -> SlotRow {
        self.changed.slots.get(&slot).copied().unwrap_or_else(|| self.sums.slots[slot.index()])
    }

    fn totals(&mut self, slot: Slot) -> &mut StrongTotals {
        self.changed.totals.entry(slot).or_insert_with(|| self.sums.totals[slot.index()])
    }

    fn put_slot(&mut self, slot: Slot, state: SlotState) {
        let row = SlotRow { state: Some(state), ..self.slot_row(slot) };
        self.changed.slots.insert(slot, row);
    }

    fn put(&mut self, slot: Slot, name: &KeyName, state: &KeyState) -> Result<(), Trouble> {
        let generation = self.slot_row(slot).generation;
        key_row(slot, generation, name, &mut self.row);
        let head = Head::of(state);
        seal_state(&self.row, &head, state, &mut self.sealed);
        let before = match self.keys.insert(self.row.as_slice(), self.sealed.as_slice())? {
            Some(old) => Some(before(&self.row, old.value())?),
            None => None,
        };
        if before.is_none() {
            self.names.insert(name_of_row(&self.row).unwrap_or_default(), (slot.number(), generation))?;
        }
        self.index(before.as_ref().map(|before| &before.head), Some(&head))?;
        let cost = cost_of(&self.row, self.sealed.len());
        self.account(slot, before.as_ref(), Some((&head, cost)));
        Ok(())
    }

    fn erase(&mut self, slot: Slot, name: &KeyName) -> Result<(), Trouble> {
        key_row(slot, self.slot_row(slot).generation, name, &mut self.row);
        let before = match self.keys.remove(self.row.as_slice())? {
            Some(old) => before(&self.row, old.value())?,
            None => return Ok(()),
        };
        self.names.remove(name_of_row(&self.row).unwrap_or_default())?;
        self.index(Some(&before.head), None)?;
        self.account(slot, Some(&before), None);
        Ok(())
    }

    /// The slot starts from empty at once, however much it held: its rows are of an earlier generation from now on.
    fn wipe(&mut self, slot: Slot) -> Result<(), Trouble> {
        let held = std::mem::take(self.totals(slot));
        if held.keys == 0 {
            return Ok(());
        }
        let row = self.slot_row(slot);
        let next = row.generation.checked_add(1).ok_or_else(|| Trouble::Corrupt(format!("slot {slot} was wiped too often")))?;
        self.stale.insert((slot.number(), row.generation), ())?;
        self.changed.slots.insert(slot, SlotRow { generation: next, ..row });
        let ledger = &mut self.changed.ledger;
        ledger.keys = ledger.keys.saturating_sub(held.keys);
        ledger.bytes = ledger.bytes.saturating_sub(held.bytes);
        ledger.dead = ledger.dead.saturating_sub(held.dead);
        ledger.stale_keys += held.keys;
        ledger.stale_bytes += held.bytes;
        Ok(())
    }

    /// Keeps the indices of the row at `self.row`.
    fn index(&mut self, before: Option<&Head>, after: Option<&Head>) -> Result<(), Trouble> {
        let is_dead = |head: Option<&Head>| head.is_some_and(|head| !head.is_live());
        match (is_dead(before), is_dead(after)) {
            (false, true) => drop(self.dead.insert(self.row.as_slice(), ())?),
            (true, false) => drop(self.dead.remove(self.row.as_slice())?),
            _ => {}
        }
        let (from, to) = (before.and_then(|head| head.expires), after.and_then(|head| head.expires));
        if from != to {
            if let Some(at) = from {
                self.expiry.remove((at.0, self.row.as_slice()))?;
            }
            if let Some(at) = to {
                self.expiry.insert((at.0, self.row.as_slice()), ())?;
            }
        }
        Ok(())
    }

    fn account(&mut self, slot: Slot, before: Option<&Before>, after: Option<(&Head, u64)>) {
        let mut totals = *self.totals(slot);
        let ledger = &mut self.changed.ledger;
        for (keys, bytes, dead) in
            [(&mut ledger.keys, &mut ledger.bytes, &mut ledger.dead), (&mut totals.keys, &mut totals.bytes, &mut totals.dead)]
        {
            if let Some(before) = before {
                *keys = keys.saturating_sub(1);
                *bytes = bytes.saturating_sub(before.cost);
                *dead = dead.saturating_sub(u64::from(!before.head.is_live()));
            }
            if let Some((head, cost)) = after {
                *keys += 1;
                *bytes += cost;
                *dead += u64::from(!head.is_live());
            }
        }
        *self.totals(slot) = totals;
    }

    /// Sweeps away rows of wiped slots, a bounded number of them.
    pub(super) fn sweep(&mut self) -> Result<(), Trouble> {
        let Some((number, generation)) = self.stale.first()?.map(|(row, _)| row.value()) else { return Ok(()) };
        let slot = Slot::new(number).map_err(|_| Trouble::Corrupt(format!("slot {number} is said to be stale")))?;
        let first = prefix(slot, generation);
        let mut rows = Vec::new();
        for row in self.keys.range::<&[u8]>(first.as_slice()..)?.take(SWEEP_ROWS_MAX) {
            let (row, _) = row?;
            if !row.value().starts_with(&first) {
                break;
            }
            rows.push(row.value().to_vec());
        }
        if rows.len() < SWEEP_ROWS_MAX {
            self.stale.remove((number, generation))?;
        }
        rows.into_iter().try_for_each(|row| self.sweep_row(row, (number, generation)))
    }

    fn sweep_row(&mut self, row: Vec<u8>, of: (u16, Generation)) -> Result<(), Trouble> {
        self.row = row;
        let Some(before) = self.keys.remove(self.row.as_slice())?.map(|old| before(&self.row, old.value())).transpose()? else {
            return Ok(());
        };
        let name = name_of_row(&self.row).unwrap_or_default();
        // The key may have come back since, in a later generation.
        if self.names.get(name)?.is_some_and(|found| found.value() == of) {
            self.names.remove(name)?;
        }
        self.index(Some(&before.head), None)?;
        let ledger = &mut self.changed.ledger;
        ledger.stale_keys = ledger.stale_keys.saturating_sub(1);
        ledger.stale_bytes = ledger.stale_bytes.saturating_sub(before.cost);
        Ok(())
    }
}

fn before(row: &[u8], sealed: &[u8]) -> Result<Before, Trouble> {
    let head = unseal_head(row, sealed).map_err(|_| Trouble::Corrupt(format!("the row {} fails its checksum", row.escape_ascii())))?;
    Ok(Before { head, cost: cost_of(row, sealed.len()) })
}
