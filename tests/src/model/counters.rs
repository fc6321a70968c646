//! Counters: every add counts once, whoever repeats it wherever (E1).

use std::fmt;

use super::acts::{ActId, Acts, Observer};

/// Values that a counter may show, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bounds {
    /// The least.
    pub least: i128,
    /// The greatest.
    pub greatest: i128,
}

impl Bounds {
    /// An add that counts.
    pub fn count(&mut self, amount: i64) {
        self.least += i128::from(amount);
        self.greatest += i128::from(amount);
    }

    /// An add that counts or does not.
    pub fn maybe(&mut self, amount: i64) {
        self.least += i128::from(amount.min(0));
        self.greatest += i128::from(amount.max(0));
    }

    /// Whether a value is one of them.
    #[must_use]
    pub fn contain(&self, value: i64) -> bool {
        (self.least..=self.greatest).contains(&i128::from(value))
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from {} to {}", self.least, self.greatest)
    }
}

/// Every add to one counter.
#[derive(Debug, Default)]
pub struct Counter(Vec<(ActId, i64)>);

impl Counter {
    /// An add begins.
    pub fn add(&mut self, id: ActId, amount: i64) {
        self.0.push((id, amount));
    }

    /// What an observer may be shown. Where nothing is durable, nothing that was acknowledged is certain.
    #[must_use]
    pub fn bounds(&self, acts: &Acts, observer: Observer, durable: bool) -> Bounds {
        let mut bounds = Bounds::default();
        for &(id, amount) in &self.0 {
            if durable && acts.surely_seen(observer, id) {
                bounds.count(amount);
            } else if acts.maybe_seen(observer, id) {
                bounds.maybe(amount);
            }
        }
        bounds
    }

    /// Checks what an observer is shown; `None`: no such counter.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, acts: &Acts, observer: Observer, durable: bool, shown: Option<i64>) -> Result<(), String> {
        let bounds = self.bounds(acts, observer, durable);
        match shown {
            Some(value) if bounds.contain(value) => Ok(()),
            Some(value) => Err(format!("{value}, which should be {bounds}")),
            None if durable && self.0.iter().any(|&(id, _)| acts.surely_seen(observer, id)) => {
                Err(format!("nothing, which should be {bounds}"))
            }
            None => Ok(()),
        }
    }

    /// The adds, for a report.
    #[must_use]
    pub fn story(&self, acts: &Acts) -> Vec<String> {
        self.0.iter().map(|&(id, amount)| format!("add {amount:+}, {}", acts.describe(id))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::acts::Ending;
    use super::super::acts::tests::{at, done};
    use super::*;

    fn shown(acts: &Acts, counter: &Counter, value: Option<i64>) -> bool {
        counter.check(acts, Observer::End, true, value).is_ok()
    }

    #[test]
    fn the_value_is_the_sum_of_what_was_acknowledged_and_perhaps_of_what_is_unknown() {
        let (mut acts, mut counter) = (Acts::default(), Counter::default());
        counter.add(done(&mut acts, at(0, 1), Ending::Acknowledged), 5);
        counter.add(done(&mut acts, at(1, 1), Ending::Unknown), -2);
        counter.add(done(&mut acts, at(1, 1), Ending::Refused), 100);
        let right: Vec<i64> = (-10..110).filter(|&value| shown(&acts, &counter, Some(value))).collect();
        assert_eq!(right, [3, 4, 5]);
        assert!(!shown(&acts, &counter, None));
    }

    #[test]
    fn an_add_that_was_repeated_elsewhere_counts_once() {
        let (mut acts, mut counter) = (Acts::default(), Counter::default());
        let add = done(&mut acts, at(0, 1), Ending::Unknown);
        counter.add(add, 5);
        acts.again(add, at(1, 10));
        acts.end(add, Ending::Acknowledged, std::time::Duration::from_millis(11));
        assert!(shown(&acts, &counter, Some(5)));
        assert!(!shown(&acts, &counter, Some(10)));
        assert!(!shown(&acts, &counter, Some(0)));
    }

    #[test]
    fn a_daemon_shows_its_own_adds_and_perhaps_others() {
        let (mut acts, mut counter) = (Acts::default(), Counter::default());
        counter.add(done(&mut acts, at(0, 1), Ending::Acknowledged), 5);
        counter.add(done(&mut acts, at(1, 1), Ending::Acknowledged), 3);
        let read = Observer::Act(acts.begin(at(0, 10)));
        assert!(counter.check(&acts, read, true, Some(5)).is_ok());
        assert!(counter.check(&acts, read, true, Some(8)).is_ok());
        assert!(counter.check(&acts, read, true, Some(3)).is_err());
        assert!(counter.check(&acts, read, false, None).is_ok(), "what is evictable may be gone");
    }
}
