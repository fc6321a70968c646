//! What goes away: forgotten and dropped records, what is over its budget, what has been delivered, what has expired.

use isochrone_ident::{Key, Kind, Namespace, Slot, Version, WallMicros};
use isochrone_replica::Sequence;
use redb::ReadableTable;

use super::{TIDY_ROWS_MAX, Work};
use crate::codec::{parse_record_row, record_row, slot_range};
use crate::tables::log_cost;
use crate::words::Changed;

impl Work<'_> {
    /// Removes a record if it has exactly that version still (E7). Tells whether it did.
    pub(crate) fn forget(&mut self, slot: Slot, ns: &Namespace, kind: Kind, key: &Key, version: Version) -> Result<bool, redb::Error> {
        record_row(slot, ns, kind, key.as_bytes(), &mut self.row);
        match self.held()? {
            Some(held) if held.version() == Some(version) => {
                self.remove(slot, &held)?;
                self.touch(Changed { slot, ns: ns.clone(), kind, key: key.clone(), version, live: false });
                Ok(true)
            }
            _ => Ok(false),
        }
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
                let version = held.version().unwrap_or_default();
                self.touch(Changed { slot, ns, kind, key, version, live: false });
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
            if self.ledger.evictable_bytes <= self.terms.options.evictable_bytes_max {
                return Ok(false);
            }
            let Some((insertion, row)) = self.evictable.pop_first()?.map(|(insertion, row)| (insertion.value(), row.value().to_vec()))
            else {
                return Ok(false);
            };
            self.row = row;
            if self.held()?.is_some_and(|held| held.insertion == Some(insertion)) {
                self.remove_row()?;
                self.terms.meters.evicted.add(1);
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
            if until > now.0 && self.ledger.answers <= self.terms.options.answers_max {
                return Ok(false);
            }
            self.expiry.remove((until, key.as_slice()))?;
            self.drop_answer(&key)?;
            self.changed = true;
        }
        Ok(true)
    }
}
