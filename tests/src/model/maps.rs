//! Maps: a field comes and goes as a set's member does, an update winning over a concurrent remove; its value is the last write's, or a count of
//! the adds that no remove has seen (E1).

use std::collections::{BTreeMap, BTreeSet};

use super::acts::{ActId, Acts, Observer};
use super::counters::Bounds;
use super::sets::Member;

/// What a field shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// The value of the update of this number; `None`: of none.
    Value(Option<ActId>),
    /// A count.
    Count(i64),
}

/// What an update does to a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Sets it to a value that says which update it is of.
    Set,
    /// Adds to it.
    Add(i64),
    /// Removes it.
    Remove,
}

#[derive(Debug, Default, Clone)]
struct Field {
    member: Member,
    sets: Vec<ActId>,
    adds: Vec<(ActId, i64)>,
}

/// Every update of one map.
#[derive(Debug, Default)]
pub struct Map(BTreeMap<String, Field>);

impl Map {
    /// An update begins: of each field once.
    pub fn update(&mut self, id: ActId, changes: &[(String, Change)]) {
        for (name, change) in changes {
            let field = self.0.entry(name.clone()).or_default();
            match change {
                Change::Set => field.sets.push(id),
                Change::Add(amount) => field.adds.push((id, *amount)),
                Change::Remove => {}
            }
            if *change == Change::Remove { field.member.remove(id) } else { field.member.add(id) }
        }
    }

    /// Checks what an observer is shown; a map that is not there has no fields.
    ///
    /// # Errors
    /// What is wrong with it, and the field's story.
    pub fn check(&self, acts: &Acts, observer: Observer, durable: bool, shown: &BTreeMap<String, Shown>) -> Result<(), Vec<String>> {
        let nothing = Field::default();
        let names: BTreeSet<&String> = self.0.keys().chain(shown.keys()).collect();
        for name in names {
            let field = self.0.get(name).unwrap_or(&nothing);
            if let Err(why) = field.check(acts, observer, durable, shown.get(name)) {
                let mut text = vec![format!("{name} {why}")];
                text.extend(field.member.story(acts, name));
                return Err(text);
            }
        }
        Ok(())
    }
}

impl Field {
    fn check(&self, acts: &Acts, observer: Observer, durable: bool, shown: Option<&Shown>) -> Result<(), String> {
        self.member.check(acts, observer, durable, shown.is_some())?;
        match shown {
            None => Ok(()),
            Some(Shown::Value(written)) => self.check_value(acts, observer, durable, *written),
            Some(&Shown::Count(value)) => {
                let bounds = self.bounds(acts, observer, durable);
                if bounds.contain(value) { Ok(()) } else { Err(format!("counts {value}, which should be {bounds}")) }
            }
        }
    }

    fn check_value(&self, acts: &Acts, observer: Observer, durable: bool, written: Option<ActId>) -> Result<(), String> {
        let written = written.filter(|id| self.sets.contains(id)).ok_or("has a value that nobody set")?;
        if !acts.maybe_seen(observer, written) {
            return Err(format!("has the value of update {}, which was refused or is yet to come", written.0));
        }
        let replaces = |&&later: &&ActId| acts.surely_seen(observer, later) && acts.surely_seen(Observer::Act(later), written);
        match self.sets.iter().find(replaces).filter(|_| durable) {
            Some(later) => Err(format!("has the value of update {}, which update {} had seen and replaced", written.0, later.0)),
            None => Ok(()),
        }
    }

    fn bounds(&self, acts: &Acts, observer: Observer, durable: bool) -> Bounds {
        let mut bounds = Bounds::default();
        for &(id, amount) in &self.adds {
            if durable && self.member.is_undone(acts, observer, id) {
                continue;
            }
            if durable && self.member.stands(acts, observer, id) {
                bounds.count(amount);
            } else if acts.maybe_seen(observer, id) {
                bounds.maybe(amount);
            }
        }
        bounds
    }
}

#[cfg(test)]
mod tests {
    use super::super::acts::Ending::Acknowledged;
    use super::super::acts::tests::{at, done};
    use super::*;

    fn update(acts: &mut Acts, map: &mut Map, daemon: usize, millis: u64, change: Change) -> ActId {
        let id = done(acts, at(daemon, millis), Acknowledged);
        map.update(id, &[("f".to_owned(), change)]);
        id
    }

    fn is_right(acts: &Acts, map: &Map, shown: Option<Shown>) -> bool {
        let shown = shown.into_iter().map(|shown| ("f".to_owned(), shown)).collect();
        map.check(acts, Observer::End, true, &shown).is_ok()
    }

    #[test]
    fn a_count_is_of_the_adds_that_no_remove_has_seen() {
        let (mut acts, mut map) = (Acts::default(), Map::default());
        update(&mut acts, &mut map, 0, 1, Change::Add(100));
        update(&mut acts, &mut map, 0, 10, Change::Remove);
        update(&mut acts, &mut map, 1, 50, Change::Add(1));
        assert!(is_right(&acts, &map, Some(Shown::Count(1))));
        assert!(!is_right(&acts, &map, Some(Shown::Count(101))));
        assert!(!is_right(&acts, &map, None));
    }

    #[test]
    fn a_value_that_was_replaced_by_one_who_had_seen_it_is_wrong() {
        let (mut acts, mut map) = (Acts::default(), Map::default());
        let first = update(&mut acts, &mut map, 0, 1, Change::Set);
        let second = update(&mut acts, &mut map, 0, 10, Change::Set);
        let elsewhere = update(&mut acts, &mut map, 1, 10, Change::Set);
        assert!(!is_right(&acts, &map, Some(Shown::Value(Some(first)))));
        assert!(is_right(&acts, &map, Some(Shown::Value(Some(second)))));
        assert!(is_right(&acts, &map, Some(Shown::Value(Some(elsewhere)))));
        assert!(!is_right(&acts, &map, Some(Shown::Value(None))));
    }

    #[test]
    fn an_update_wins_over_a_concurrent_remove() {
        let (mut acts, mut map) = (Acts::default(), Map::default());
        let remove = acts.begin(at(1, 0));
        map.update(remove, &[("f".to_owned(), Change::Remove)]);
        acts.end(remove, Acknowledged, std::time::Duration::from_millis(5));
        let set = update(&mut acts, &mut map, 0, 6, Change::Set);
        assert!(is_right(&acts, &map, Some(Shown::Value(Some(set)))));
        assert!(!is_right(&acts, &map, None));
    }
}
