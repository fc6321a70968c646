//! What clients asked and were told, and what must hold of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use isochrone_quorum::{Act, Change, Content, Effect, Envelope, Expect, KeyName, Outcome, Refusal, Revision, Token, Verdict, Want};

use crate::linear::{self, Demand, Operation, ValueId, is_linearizable};

/// How a client's operation ended, as far as the client knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    Told(Outcome),
    /// Some try ended unknown.
    Unknown,
}

#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) key: KeyName,
    pub(crate) want: Want,
    pub(crate) asked: u64,
    pub(crate) answered: u64,
    pub(crate) ended: Ended,
}

/// The number that a test's value is.
pub(crate) fn value_of(envelope: &Envelope) -> Option<ValueId> {
    let Content::Live(value) = &envelope.content else { return None };
    value.bytes.as_ref().try_into().ok().map(u64::from_be_bytes)
}

#[derive(Debug, Default)]
pub(crate) struct History {
    records: Vec<Record>,
}

type Revisions = BTreeMap<Revision, Option<ValueId>>;

impl History {
    pub(crate) fn push(&mut self, record: Record) {
        self.records.push(record);
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Linearizable key by key; revisions and fences only grow.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut keys: BTreeMap<&KeyName, Vec<&Record>> = BTreeMap::new();
        for record in &self.records {
            keys.entry(&record.key).or_default().push(record);
        }
        for (key, records) in keys {
            let revisions = revisions(&records).map_err(|error| format!("{key:?}: {error}"))?;
            only_grow(&records).map_err(|error| format!("{key:?}: {error}"))?;
            let operations: Vec<Operation> = records.iter().filter_map(|record| operation(record, &revisions)).collect();
            if !is_linearizable(&operations) {
                return Err(format!("{key:?} is not linearizable: {records:#?}"));
            }
        }
        Ok(())
    }
}

/// Which value each revision was seen to be; no two of one revision.
fn revisions(records: &[&Record]) -> Result<Revisions, String> {
    let mut revisions = Revisions::new();
    for record in records {
        if let Some((revision, value)) = seen(record)
            && *revisions.entry(revision).or_insert(value) != value
        {
            return Err(format!("{revision:?} is two values"));
        }
    }
    Ok(revisions)
}

/// The revision that an operation made or saw, and what it is.
fn seen(record: &Record) -> Option<(Revision, Option<ValueId>)> {
    match (&record.want, &record.ended) {
        (Want::Change(change), Ended::Told(Outcome::Written(Verdict::Applied { revision, .. }))) => Some((*revision, stored(change))),
        (_, Ended::Told(Outcome::Read(Some(envelope)))) => Some((envelope.revision, value_of(envelope))),
        _ => None,
    }
}

fn stored(change: &Change) -> Option<ValueId> {
    let Act::Put(value) = &change.act else { return None };
    value.bytes.as_ref().try_into().ok().map(u64::from_be_bytes)
}

/// Whoever asks after another was told sees no lower revision and, under one guard, no lower token.
fn only_grow(records: &[&Record]) -> Result<(), String> {
    let seen: Vec<_> = records.iter().filter_map(|record| Some((record, seen(record)?.0))).collect();
    for (later, after) in &seen {
        for (earlier, before) in seen.iter().filter(|(earlier, _)| earlier.answered < later.asked) {
            if after < before || after == before && is_write(later) {
                return Err(format!("{before:?} then {after:?}: {earlier:?} {later:?}"));
            }
            if let (Some(one), Some(two)) = (token(earlier), token(later))
                && two < one
            {
                return Err(format!("{one:?} then {two:?}: {earlier:?} {later:?}"));
            }
        }
    }
    Ok(())
}

fn is_write(record: &Record) -> bool {
    matches!(record.want, Want::Change(_))
}

/// The token of a write that was applied. The model has one guard.
fn token(record: &Record) -> Option<Token> {
    let Want::Change(change) = &record.want else { return None };
    let applied = matches!(record.ended, Ended::Told(Outcome::Written(Verdict::Applied { .. })));
    change.fence.as_ref().filter(|_| applied).map(|fence| fence.token)
}

/// The operation as the search knows it. Refusals that say nothing of the register's value are left out.
fn operation(record: &Record, revisions: &Revisions) -> Option<Operation> {
    let found = |revision: Option<Revision>| match revision {
        Some(revision) => revisions.get(&revision).copied().filter(Option::is_some),
        None => Some(None),
    };
    let act = match (&record.want, &record.ended) {
        (Want::Read | Want::ReadForUpdate, Ended::Told(Outcome::Read(envelope))) => {
            linear::Act::Read(envelope.as_ref().and_then(|envelope: &Arc<Envelope>| value_of(envelope)))
        }
        (Want::Change(change), ended) => {
            let demands = demand(change, revisions);
            match ended {
                Ended::Told(Outcome::Written(Verdict::Refused(Refusal::Precondition { found: revision }))) => {
                    linear::Act::Refused { demands, found: found(*revision)? }
                }
                Ended::Told(Outcome::Written(Verdict::Refused(_))) => return None,
                ended => written(change, demands, ended),
            }
        }
        _ => return None,
    };
    Some(Operation { asked: record.asked, answered: record.answered, act })
}

fn written(change: &Change, demands: Demand, ended: &Ended) -> linear::Act {
    let effect = match ended {
        Ended::Told(Outcome::Written(Verdict::Applied { effect, .. })) => Some(Some(*effect)),
        Ended::Told(_) => Some(None),
        Ended::Unknown => None,
    };
    match stored(change) {
        Some(value) => linear::Act::Put { value, demands, replaced: effect.map(|effect| effect == Some(Effect::Replaced)) },
        None => linear::Act::Delete { demands, removed: effect.map(|effect| effect == Some(Effect::Deleted)) },
    }
}

fn demand(change: &Change, revisions: &Revisions) -> Demand {
    let value = |revision: &Revision| revisions.get(revision).copied().flatten().unwrap_or(0);
    // No revision is 0: a list holds that and the one that is meant.
    let listed = |listed: &[Revision]| listed.iter().map(value).max().unwrap_or(0);
    match &change.expect {
        Expect::Anything => Demand::Anything,
        Expect::Absent => Demand::Absent,
        Expect::Present => Demand::Present,
        Expect::Revision(revision) => Demand::Value(value(revision)),
        Expect::AnyOf(revisions) => Demand::Value(listed(revisions)),
        Expect::NoneOf(revisions) => Demand::NotValue(listed(revisions)),
        Expect::Another(revisions) => Demand::Another(listed(revisions)),
    }
}
