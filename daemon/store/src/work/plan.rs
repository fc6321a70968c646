//! What is to become of each entry of a set, decided for all of them before anything is written: so a set can still be refused whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use isochrone_ident::{Kind, Version};
use isochrone_replica::{Applied, Causes, Change, ChangeRefused, Conflict, Delta, Record, Stamp, State, Typed, TypedLimits, Upkeep};

use super::Work;
use super::rows::Held;
use crate::codec::{Stored, StoredState, encode};
use crate::words::{Outcome, Placed, Write, WriteSet};

/// What is to become of one entry.
pub(super) struct Plan {
    held: Option<Held>,
    /// An entry before it in the set writes the same key, so that `held` is to be looked up again.
    follows: bool,
    verdict: Verdict,
}

#[allow(clippy::large_enum_variant, reason = "one at a time, on the committer's stack")]
enum Verdict {
    /// What is held covers it.
    Keep,
    /// E2: something before it is missing.
    Gap,
    Put {
        record: Record,
        /// What the replicas need of it, where the record alone would not do.
        delta: Option<Delta>,
    },
    /// E3, E2: it contradicts what is held.
    Contradicts(Conflict),
}

impl Verdict {
    /// The state to be put depends on what the held one depends on, and on more (E9).
    fn caused_by(self, held: Option<&Stored<'_>>, more: Option<&Arc<Causes>>) -> Self {
        let Self::Put { record, delta } = self else { return self };
        let held = held.and_then(|held| held.causes.clone());
        Self::Put { record: record.caused_by(held).also_caused_by(more.cloned()), delta }
    }

    const fn put(record: Record) -> Self {
        Self::Put { record, delta: None }
    }
}

/// The records that earlier entries of a set leave, by row.
type Overlay = BTreeMap<Vec<u8>, Record>;

impl Work<'_> {
    /// Decides on every entry of a set, or refuses it whole.
    pub(super) fn plan(&mut self, set: &WriteSet) -> Result<Result<Vec<Plan>, ChangeRefused>, redb::Error> {
        let mut overlay = Overlay::new();
        let mut plans = Vec::with_capacity(set.entries.len());
        for placed in &set.entries {
            let plan = match self.plan_one(placed, &overlay)? {
                Ok(plan) => plan,
                Err(refused) => return Ok(Err(refused)),
            };
            if set.entries.len() > 1
                && let Verdict::Put { record, .. } = &plan.verdict
            {
                overlay.insert(self.row.clone(), record.clone());
            }
            plans.push(plan);
        }
        Ok(Ok(plans))
    }

    fn plan_one(&mut self, placed: &Placed, overlay: &Overlay) -> Result<Result<Plan, ChangeRefused>, redb::Error> {
        self.go_to(placed);
        let rollbacks = self.terms.rollbacks;
        let (held, follows, verdict) = match overlay.get(&self.row) {
            Some(record) => (None, true, decide(placed, Some(&Stored::of(record, None)), rollbacks)),
            None => match self.look(|stored| decide(placed, stored.as_ref(), rollbacks))? {
                Some((held, verdict)) => (Some(held), false, verdict),
                None => (None, false, decide(placed, None, rollbacks)),
            },
        };
        Ok(verdict.map(|verdict| Plan { held, follows, verdict }))
    }

    /// Writes what was decided.
    pub(super) fn carry_out(&mut self, placed: &Placed, plan: Plan, set: &WriteSet) -> Result<Outcome, redb::Error> {
        self.go_to(placed);
        let held = if plan.follows { self.held()? } else { plan.held };
        let before = held.and_then(|held| held.before);
        let after = before.map(|before| before.version).unwrap_or_default();
        let kept = Outcome { before, after, taken: false, gap: false, logged: None, state: None };
        match plan.verdict {
            Verdict::Keep => Ok(kept),
            Verdict::Gap => Ok(Outcome { gap: true, ..kept }),
            Verdict::Contradicts(conflict) => {
                self.terms.meters.conflicts.increment(1);
                tracing::error!(ns = %placed.ns, kind = %placed.kind, key = %placed.key, %conflict, "a write was refused");
                Ok(kept)
            }
            Verdict::Put { record, delta } => {
                self.note_healed(held.as_ref(), placed);
                self.put(placed, &record, held.as_ref())?;
                let delta = delta.as_ref().map(encode);
                let logged = if set.log { Some(self.append(placed, record.version, delta.as_deref(), set)?) } else { None };
                let after = record.version;
                let state = matches!(placed.write, Write::Change { .. }).then_some(record);
                Ok(Outcome { after, taken: true, logged, state, ..kept })
            }
        }
    }

    /// A corrupt record is as good as lost: whatever comes from a client or a peer takes its place.
    fn note_healed(&self, held: Option<&Held>, placed: &Placed) {
        if held.is_some_and(|held| held.before.is_none()) {
            self.terms.meters.corrupt.add(1);
            tracing::warn!(ns = %placed.ns, kind = %placed.kind, key = %placed.key, "a corrupt record was replaced");
        }
    }
}

/// Decides on one entry, given what its key holds: nothing, too, when that is corrupt.
fn decide(placed: &Placed, held: Option<&Stored<'_>>, rollbacks: u64) -> Result<Verdict, ChangeRefused> {
    let verdict = match &placed.write {
        Write::Merge(record) if is_of_another_kind(record, placed.kind) => Verdict::Contradicts(Conflict(record.version)),
        Write::Merge(record) => merge(record, held),
        Write::Apply { version, delta, .. } if delta.kind() != placed.kind => Verdict::Contradicts(Conflict(*version)),
        Write::Apply { version, delta, causes } => apply(*version, delta, held).caused_by(held, causes.as_ref()),
        Write::Prune(upkeep) => prune(*upkeep, held, rollbacks).caused_by(held, None),
        Write::Change { change: asked, stamp, limits, causes } => {
            let verdict = change(placed.kind, asked, *stamp, limits, held, rollbacks)?;
            return Ok(verdict.caused_by(held, causes.as_ref()));
        }
    };
    Ok(verdict)
}

fn is_of_another_kind(record: &Record, kind: Kind) -> bool {
    record.as_typed().map_or(Kind::Value, Typed::kind) != kind
}

/// Merges a record into what is held (E4, E8): [`Record::merge`], but a value that loses is not copied out of the page.
fn merge(record: &Record, held: Option<&Stored<'_>>) -> Verdict {
    let Some(held) = held else { return Verdict::put(record.clone()) };
    let both_are_values = !matches!(held.state, StoredState::Typed { .. }) && !matches!(record.state, State::Typed(_));
    if both_are_values && held.version > record.version {
        return Verdict::Keep;
    }
    if both_are_values && held.version < record.version {
        return Verdict::put(record.clone());
    }
    let Ok(held) = held.to_record() else { return Verdict::put(record.clone()) };
    match held.clone().merge(record.clone()) {
        Ok(merged) if merged == held => Verdict::Keep,
        Ok(merged) => Verdict::put(merged),
        Err(conflict) => Verdict::Contradicts(conflict),
    }
}

/// The typed state that is held, with its version.
fn typed(held: Option<&Stored<'_>>) -> Option<(Version, Arc<Typed>)> {
    let record = held?.to_record().ok()?;
    match record.state {
        State::Typed(typed) => Some((record.version, typed)),
        State::Live(_) | State::Tombstone => None,
    }
}

/// Applies another daemon's write (E2). What is covered may still bring a later version, which replicas that joined the same writes have as well.
fn apply(version: Version, delta: &Delta, held: Option<&Stored<'_>>) -> Verdict {
    let held = typed(held);
    let state = held.as_ref().map(|(_, state)| state.as_ref());
    let later = held.as_ref().map_or(version, |(held, _)| version.max(*held));
    match (Typed::apply(state, delta), &held) {
        (Ok(Applied::Changed(next)), _) => Verdict::put(Record::typed(later, next)),
        (Ok(Applied::Covered), Some((known, state))) if later > *known => {
            Verdict::put(Record { version: later, state: State::Typed(Arc::clone(state)), causes: None })
        }
        (Ok(Applied::Covered), _) => Verdict::Keep,
        (Ok(Applied::Gap), _) => Verdict::Gap,
        (Err(conflict), _) => Verdict::Contradicts(conflict),
    }
}

/// Carries out a client's write on what is held. The log needs its delta but for a counter, of which the record tells all.
fn change(
    kind: Kind,
    change: &Change,
    mut stamp: Stamp,
    limits: &TypedLimits,
    held: Option<&Stored<'_>>,
    rollbacks: u64,
) -> Result<Verdict, ChangeRefused> {
    stamp.actor.life = stamp.actor.life.wrapping_add(rollbacks);
    let held = typed(held);
    let state = held.as_ref().map(|(_, state)| state.as_ref());
    let (next, delta) = Typed::change(state, kind, change, &stamp, limits)?;
    let version = held.as_ref().map_or(stamp.version, |(held, _)| stamp.version.max(*held));
    Ok(Verdict::Put { record: Record::typed(version, next), delta: (kind != Kind::Counter).then_some(delta) })
}

fn prune(mut upkeep: Upkeep, held: Option<&Stored<'_>>, rollbacks: u64) -> Verdict {
    upkeep.actor.life = upkeep.actor.life.wrapping_add(rollbacks);
    let Some((version, state)) = typed(held) else { return Verdict::Keep };
    let mut pruned = (*state).clone();
    if pruned.prune(&upkeep) { Verdict::put(Record::typed(version, pruned)) } else { Verdict::Keep }
}
