//! Observed-remove sets: an add is undone by a remove that has seen it, and by no other (E1). The fields of maps come and go alike.

use std::collections::{BTreeMap, BTreeSet};

use super::acts::{ActId, Acts, Observer};

/// The adds and removes of one member.
#[derive(Debug, Default, Clone)]
pub struct Member {
    adds: Vec<ActId>,
    removes: Vec<ActId>,
}

impl Member {
    /// An add begins.
    pub fn add(&mut self, id: ActId) {
        self.adds.push(id);
    }

    /// A remove begins.
    pub fn remove(&mut self, id: ActId) {
        self.removes.push(id);
    }

    /// Whether this add surely counts for the observer: it has seen it, and can't have seen a remove that had.
    #[must_use]
    pub fn stands(&self, acts: &Acts, observer: Observer, add: ActId) -> bool {
        let may_undo = |&remove: &ActId| acts.maybe_seen(observer, remove) && acts.maybe_seen(Observer::Act(remove), add);
        acts.surely_seen(observer, add) && !self.removes.iter().any(may_undo)
    }

    /// Whether this add surely counts for nothing: the observer can't have seen it, or has seen a remove that had.
    #[must_use]
    pub fn is_undone(&self, acts: &Acts, observer: Observer, add: ActId) -> bool {
        let undoes = |&remove: &ActId| acts.surely_seen(observer, remove) && acts.surely_seen(Observer::Act(remove), add);
        !acts.maybe_seen(observer, add) || self.removes.iter().any(undoes)
    }

    /// Checks whether an observer may be shown this member, or may not.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, acts: &Acts, observer: Observer, durable: bool, shown: bool) -> Result<(), &'static str> {
        if self.adds.iter().all(|&add| !acts.maybe_seen(observer, add)) && shown {
            return Err("is there, and nobody added it");
        }
        if !durable {
            return Ok(());
        }
        if shown && self.adds.iter().all(|&add| self.is_undone(acts, observer, add)) {
            return Err("is there, and every add of it was removed by one who had seen it");
        }
        if !shown && self.adds.iter().any(|&add| self.stands(acts, observer, add)) {
            return Err("is gone, and was added by an acknowledged add that no remove has seen");
        }
        Ok(())
    }

    /// The adds and removes, for a report.
    #[must_use]
    pub fn story(&self, acts: &Acts, name: &str) -> Vec<String> {
        let adds = self.adds.iter().map(|&id| (id, "add"));
        let removes = self.removes.iter().map(|&id| (id, "remove"));
        let mut all: Vec<(ActId, &str)> = adds.chain(removes).collect();
        all.sort_unstable();
        all.into_iter().map(|(id, what)| format!("{what} {name}, {}", acts.describe(id))).collect()
    }
}

/// Every add and remove of one set.
#[derive(Debug, Default)]
pub struct Set(BTreeMap<String, Member>);

impl Set {
    /// An update begins.
    pub fn update(&mut self, id: ActId, add: &[String], remove: &[String]) {
        for name in add {
            self.0.entry(name.clone()).or_default().add(id);
        }
        for name in remove {
            self.0.entry(name.clone()).or_default().remove(id);
        }
    }

    /// Checks what an observer is shown; a set that is not there has no members.
    ///
    /// # Errors
    /// What is wrong with it, and the member's story.
    pub fn check(&self, acts: &Acts, observer: Observer, durable: bool, shown: &BTreeSet<String>) -> Result<(), Vec<String>> {
        let nobody = Member::default();
        let names: BTreeSet<&String> = self.0.keys().chain(shown).collect();
        for name in names {
            let member = self.0.get(name).unwrap_or(&nobody);
            if let Err(why) = member.check(acts, observer, durable, shown.contains(name)) {
                let mut text = vec![format!("{name} {why}")];
                text.extend(member.story(acts, name));
                return Err(text);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::acts::tests::{at, done};
    use super::super::acts::{Ending, Step};
    use super::*;

    fn is_right(acts: &Acts, member: &Member, shown: bool) -> bool {
        member.check(acts, Observer::End, true, shown).is_ok()
    }

    #[test]
    fn a_member_whose_add_no_remove_has_seen_must_be_there() {
        let (mut acts, mut member) = (Acts::default(), Member::default());
        member.remove(done(&mut acts, at(0, 1), Ending::Acknowledged));
        member.add(done(&mut acts, at(1, 50), Ending::Acknowledged));
        assert!(is_right(&acts, &member, true));
        assert!(!is_right(&acts, &member, false));
    }

    #[test]
    fn a_member_whose_every_add_was_seen_by_a_remove_must_be_gone() {
        let (mut acts, mut member) = (Acts::default(), Member::default());
        member.add(done(&mut acts, at(0, 1), Ending::Acknowledged));
        member.remove(done(&mut acts, at(0, 50), Ending::Acknowledged));
        assert!(is_right(&acts, &member, false));
        assert!(!is_right(&acts, &member, true));
    }

    #[test]
    fn a_session_that_roams_removes_what_it_added_elsewhere() {
        let (mut acts, mut member) = (Acts::default(), Member::default());
        let step = |daemon, millis, number| super::super::acts::Request { step: Some(Step { session: 1, number }), ..at(daemon, millis) };
        member.add(done(&mut acts, step(0, 1, 0), Ending::Acknowledged));
        member.remove(done(&mut acts, step(1, 50, 1), Ending::Acknowledged));
        assert!(is_right(&acts, &member, false));
        assert!(!is_right(&acts, &member, true));
    }

    #[test]
    fn a_remove_at_another_daemon_may_have_seen_the_add_or_not() {
        let (mut acts, mut member) = (Acts::default(), Member::default());
        member.add(done(&mut acts, at(0, 1), Ending::Acknowledged));
        member.remove(done(&mut acts, at(1, 50), Ending::Acknowledged));
        assert!(is_right(&acts, &member, true));
        assert!(is_right(&acts, &member, false));
    }

    #[test]
    fn an_add_that_may_yet_come_keeps_a_member_possible() {
        let (mut acts, mut member) = (Acts::default(), Member::default());
        member.add(done(&mut acts, at(0, 1), Ending::Unknown));
        member.remove(done(&mut acts, at(0, 50), Ending::Acknowledged));
        assert!(is_right(&acts, &member, true));
        assert!(is_right(&acts, &member, false));
    }

    #[test]
    fn a_member_that_nobody_added_must_not_be_there() {
        let (mut acts, mut set) = (Acts::default(), Set::default());
        set.update(done(&mut acts, at(0, 1), Ending::Refused), &["a".to_owned()], &[]);
        for name in ["a", "b"] {
            let shown = BTreeSet::from([name.to_owned()]);
            assert!(set.check(&acts, Observer::End, false, &shown).is_err());
        }
        assert!(set.check(&acts, Observer::End, true, &BTreeSet::new()).is_ok());
    }
}
