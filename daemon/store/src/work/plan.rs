//! What is to become of each entry of a set, decided for all of them before anything is written: so a set can still be refused whole.

use std::collections::BTreeMap;

use isochrone_replica::Record;

use super::Work;
use super::rows::Held;
use crate::WriteError;
use crate::codec::Stored;
use crate::words::{Outcome, Placed, Write, WriteSet};

/// What is to become of one entry.
pub(super) struct Plan {
    held: Option<Held>,
    /// An entry before it in the set writes the same key, so that `held` is to be looked up again.
    follows: bool,
    verdict: Verdict,
}

enum Verdict {
    /// What is held covers it, or conflicts with it.
    Keep,
    Put {
        record: Record,
    },
}

/// The records that earlier entries of a set leave, by row.
type Overlay = BTreeMap<Vec<u8>, Record>;

impl Work<'_> {
    /// Decides on every entry of a set.
    pub(super) fn plan(&mut self, set: &WriteSet) -> Result<Result<Vec<Plan>, WriteError>, redb::Error> {
        let mut overlay = Overlay::new();
        let mut plans = Vec::with_capacity(set.entries.len());
        for placed in &set.entries {
            let plan = self.plan_one(placed, &overlay)?;
            if set.entries.len() > 1
                && let Verdict::Put { record } = &plan.verdict
            {
                overlay.insert(self.row.clone(), record.clone());
            }
            plans.push(plan);
        }
        Ok(Ok(plans))
    }

    fn plan_one(&mut self, placed: &Placed, overlay: &Overlay) -> Result<Plan, redb::Error> {
        self.go_to(placed);
        if let Some(record) = overlay.get(&self.row) {
            let verdict = self.decide(placed, Some(Stored::of(record, None)));
            return Ok(Plan { held: None, follows: true, verdict });
        }
        Ok(match self.look(|stored| self.decide(placed, stored))? {
            Some((held, verdict)) => Plan { held: Some(held), follows: false, verdict },
            None => Plan { held: None, follows: false, verdict: self.decide(placed, None) },
        })
    }

    fn decide(&self, placed: &Placed, held: Option<Stored<'_>>) -> Verdict {
        match (&placed.write, held) {
            (Write::Merge(record), None) => Verdict::Put { record: record.clone() },
            (Write::Merge(record), Some(held)) => self.merge(placed, record, held),
        }
    }

    /// Merges a record into what is held (E4, E8). What loses is not copied out of the page.
    fn merge(&self, placed: &Placed, record: &Record, held: Stored<'_>) -> Verdict {
        if held.version > record.version {
            return Verdict::Keep;
        }
        if held.version < record.version {
            return Verdict::Put { record: record.clone() };
        }
        let held = held.into_record();
        match held.clone().merge(record.clone()) {
            Ok(merged) if merged == held => Verdict::Keep,
            Ok(merged) => Verdict::Put { record: merged },
            Err(conflict) => {
                self.terms.meters.conflicts.increment(1);
                tracing::error!(ns = %placed.ns, key = %placed.key, %conflict, "a record was refused");
                Verdict::Keep
            }
        }
    }

    /// Writes what was decided.
    pub(super) fn carry_out(&mut self, placed: &Placed, plan: Plan, set: &WriteSet) -> Result<Outcome, redb::Error> {
        self.go_to(placed);
        let held = if plan.follows { self.held()? } else { plan.held };
        let before = held.and_then(|held| held.before);
        match plan.verdict {
            Verdict::Keep => {
                let after = before.map(|before| before.version).unwrap_or_default();
                Ok(Outcome { before, after, taken: false, gap: false, logged: None, state: None })
            }
            Verdict::Put { record } => {
                self.note_healed(held.as_ref(), placed);
                self.put(placed, &record, held.as_ref())?;
                let logged = if set.log { Some(self.append(placed, record.version, None, set)?) } else { None };
                Ok(Outcome { before, after: record.version, taken: true, gap: false, logged, state: None })
            }
        }
    }

    /// A corrupt record is as good as lost: whatever comes from a client or a peer takes its place.
    fn note_healed(&self, held: Option<&Held>, placed: &Placed) {
        if held.is_some_and(|held| held.before.is_none()) {
            self.terms.meters.corrupt.add(1);
            tracing::warn!(ns = %placed.ns, key = %placed.key, "a corrupt record was replaced");
        }
    }
}
