//! Multi-value registers: a put replaces the values that its context had seen, and stands beside all others (E1).

use std::collections::BTreeSet;

use super::acts::{ActId, Acts, Observer};

/// Every put to one register; a value says which put it is of.
#[derive(Debug, Default)]
pub struct Register(Vec<Put>);

#[derive(Debug)]
struct Put {
    id: ActId,
    /// The puts whose values the context was read with.
    replaces: BTreeSet<ActId>,
}

impl Register {
    /// A put begins.
    pub fn put(&mut self, id: ActId, replaces: BTreeSet<ActId>) {
        self.0.push(Put { id, replaces });
    }

    /// Checks what an observer is shown: the puts whose values are there.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, acts: &Acts, observer: Observer, durable: bool, shown: &BTreeSet<ActId>) -> Result<(), String> {
        if let Some(other) = shown.iter().find(|&&id| !self.0.iter().any(|put| put.id == id)) {
            return Err(format!("the value of act {}, which put nothing here", other.0));
        }
        self.0.iter().try_for_each(|put| self.check_put(acts, observer, durable, put, shown.contains(&put.id)))
    }

    fn check_put(&self, acts: &Acts, observer: Observer, durable: bool, put: &Put, shown: bool) -> Result<(), String> {
        let number = put.id.0;
        if shown && !acts.maybe_seen(observer, put.id) {
            return Err(format!("the value of put {number}, which was refused or is yet to come"));
        }
        if !durable {
            return Ok(());
        }
        let replaced_by = |seen: &dyn Fn(ActId) -> bool| self.0.iter().find(|other| other.replaces.contains(&put.id) && seen(other.id));
        if shown && let Some(other) = replaced_by(&|id| acts.surely_seen(observer, id)) {
            return Err(format!("the value of put {number}, which put {} has replaced", other.id.0));
        }
        let must_show = acts.surely_seen(observer, put.id) && replaced_by(&|id| acts.maybe_seen(observer, id)).is_none();
        if must_show && !shown {
            return Err(format!("not the value of put {number}, which was acknowledged and nobody replaced"));
        }
        Ok(())
    }

    /// The puts, for a report.
    #[must_use]
    pub fn story(&self, acts: &Acts) -> Vec<String> {
        let tell = |put: &Put| {
            let replaces: Vec<usize> = put.replaces.iter().map(|id| id.0).collect();
            format!("put that replaces {replaces:?}, {}", acts.describe(put.id))
        };
        self.0.iter().map(tell).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::acts::Ending;
    use super::super::acts::tests::{at, done};
    use super::*;

    struct World {
        acts: Acts,
        register: Register,
    }

    impl World {
        fn put(&mut self, ending: Ending, replaces: &[ActId]) -> ActId {
            let request = at(0, 10 * self.acts.count() as u64);
            let id = done(&mut self.acts, request, ending);
            self.register.put(id, replaces.iter().copied().collect());
            id
        }

        fn is_right(&self, shown: &[ActId]) -> bool {
            self.register.check(&self.acts, Observer::End, true, &shown.iter().copied().collect()).is_ok()
        }
    }

    fn world() -> World {
        World { acts: Acts::default(), register: Register::default() }
    }

    #[test]
    fn two_puts_that_had_not_seen_each_other_stand_side_by_side_also_at_one_daemon() {
        let mut world = world();
        let (a, b) = (world.put(Ending::Acknowledged, &[]), world.put(Ending::Acknowledged, &[]));
        assert!(world.is_right(&[a, b]));
        assert!(!world.is_right(&[b]));
        assert!(!world.is_right(&[a]));
    }

    #[test]
    fn a_put_replaces_what_its_context_had_seen_and_that_never_comes_back() {
        let mut world = world();
        let (a, b) = (world.put(Ending::Acknowledged, &[]), world.put(Ending::Acknowledged, &[]));
        let c = world.put(Ending::Acknowledged, &[a]);
        assert!(world.is_right(&[b, c]));
        assert!(!world.is_right(&[a, b, c]));
        assert!(!world.is_right(&[c]));
    }

    #[test]
    fn a_put_of_unknown_outcome_replaces_or_does_not() {
        let mut world = world();
        let a = world.put(Ending::Acknowledged, &[]);
        let b = world.put(Ending::Unknown, &[a]);
        let refused = world.put(Ending::Refused, &[a]);
        assert!(world.is_right(&[a]));
        assert!(world.is_right(&[b]));
        assert!(!world.is_right(&[a, refused]));
    }
}
