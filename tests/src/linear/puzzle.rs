//! A history as the search needs it: answered operations in the order of their asking, puts in the order of their revisions, and, by kind, the
//! writes of unknown outcome that nobody ever saw.

use std::collections::BTreeMap;

use super::{Act, Demand, Micros, Now, Operation, Revision, ValueId, Violation};

/// A condition on what the register is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Condition {
    Anything,
    Absent,
    Present,
    Value(ValueId),
    Never,
}

impl Condition {
    pub(super) fn holds(self, now: Now) -> bool {
        match self {
            Self::Anything => true,
            Self::Absent => now == Now::Absent,
            Self::Present => now != Now::Absent,
            Self::Value(value) => now == Now::Value(value),
            Self::Never => false,
        }
    }
}

/// What an answered operation needs; a put is a [`Ranked`] one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Changes nothing, and needs just this register.
    Exactly(Now),
    /// Changes nothing, and needs that the condition does not hold.
    Not(Condition),
    Delete(Condition),
    Put,
}

/// An answered operation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    pub(super) number: usize,
    pub(super) asked: Micros,
    pub(super) answered: Micros,
    pub(super) need: Need,
}

/// A put that has surely happened, for its revision is known: by its answer, or because a read has shown it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ranked {
    pub(super) value: ValueId,
    pub(super) asked: Micros,
    pub(super) condition: Condition,
    pub(super) created: Option<bool>,
    /// Its place among the known operations, if it was answered.
    pub(super) known: Option<usize>,
}

/// Writes of unknown outcome that leave the same behind under the same condition. Who of them was asked first can stand in for every other: what is
/// not used up by one can still be used where the other was.
#[derive(Debug, Clone)]
pub(super) struct Lost {
    pub(super) leaves: Now,
    pub(super) condition: Condition,
    /// When each was asked, in order.
    pub(super) asked: Vec<Micros>,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Puzzle {
    /// By the time of asking.
    pub(super) known: Vec<Known>,
    /// By revision: revisions grow with every write, so this is the order in which they happened.
    pub(super) ranked: Vec<Ranked>,
    pub(super) lost: Vec<Lost>,
}

type Revisions = BTreeMap<ValueId, Revision>;

impl Puzzle {
    pub(super) fn of(history: &[Operation]) -> Result<Self, Violation> {
        let revisions = revisions(history)?;
        let values: BTreeMap<Revision, ValueId> = revisions.iter().map(|(value, revision)| (*revision, *value)).collect();
        let condition = |demand| match demand {
            Demand::Anything => Condition::Anything,
            Demand::Absent => Condition::Absent,
            Demand::Present => Condition::Present,
            Demand::Is(revision) => values.get(&revision).map_or(Condition::Never, |value| Condition::Value(*value)),
        };
        let mut order: Vec<(usize, &Operation)> = history.iter().enumerate().collect();
        order.sort_by_key(|(number, operation)| (operation.asked, *number));
        let mut puzzle = Self::default();
        for (number, operation) in order {
            puzzle.add(number, operation, &revisions, condition);
        }
        puzzle.ranked.sort_by_key(|put| revisions.get(&put.value));
        Ok(puzzle)
    }

    fn add(&mut self, number: usize, operation: &Operation, revisions: &Revisions, condition: impl Fn(Demand) -> Condition) {
        let asked = operation.asked;
        let need = match operation.act {
            Act::Read(shown) => Need::Exactly(shown.map_or(Now::Absent, |seen| Now::Value(seen.value))),
            Act::Refused { demand } => Need::Not(condition(demand)),
            Act::Delete { demand, told: true } => Need::Delete(condition(demand)),
            Act::Delete { demand, told: false } => return self.lose(Now::Absent, condition(demand), asked),
            Act::Put { value, demand, told: None } if !revisions.contains_key(&value) => {
                return self.lose(Now::Unseen, condition(demand), asked);
            }
            Act::Put { value, demand, told } => {
                let known = told.map(|_| self.known.len());
                let created = told.map(|stored| stored.created);
                self.ranked.push(Ranked { value, asked, condition: condition(demand), created, known });
                match told {
                    Some(_) => Need::Put,
                    None => return,
                }
            }
        };
        self.known.push(Known { number, asked, answered: operation.answered, need });
    }

    fn lose(&mut self, leaves: Now, condition: Condition, asked: Micros) {
        match self.lost.iter_mut().find(|lost| lost.leaves == leaves && lost.condition == condition) {
            Some(lost) => lost.asked.push(asked),
            None => self.lost.push(Lost { leaves, condition, asked: vec![asked] }),
        }
    }
}

/// The revision of every value that somebody was told of.
fn revisions(history: &[Operation]) -> Result<Revisions, Violation> {
    let mut revisions = Revisions::new();
    let mut values: BTreeMap<Revision, ValueId> = BTreeMap::new();
    let puts = history.iter().filter_map(|operation| match operation.act {
        Act::Put { value, .. } => Some(value),
        _ => None,
    });
    let written: std::collections::BTreeSet<ValueId> = puts.collect();
    for (at, operation) in history.iter().enumerate() {
        let (value, revision) = match operation.act {
            Act::Put { value, told: Some(stored), .. } => (value, stored.revision),
            Act::Read(Some(seen)) => (seen.value, seen.revision),
            _ => continue,
        };
        if !written.contains(&value) {
            return Err(Violation::NobodyWrote(at));
        }
        let first = *revisions.entry(value).or_insert(revision);
        if first != revision {
            return Err(Violation::TwoRevisions { at, first, second: revision });
        }
        if *values.entry(revision).or_insert(value) != value {
            return Err(Violation::TwoValues { at, revision });
        }
    }
    Ok(revisions)
}
