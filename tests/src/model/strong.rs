//! What clients did in strong namespaces and were told, and whether a register for each key can have told it (Q9, Q10, Q11, Q17).

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use crate::linear::{self, Act, Demand, Micros, Now, Operation, Revision, Seen, Stored, ValueId, Verdict, Violation};

/// Operations that a report of what is wrong with a key names, at most.
const STORY_MAX: usize = 120;

/// The number of an operation, in the order in which they began. A put's value begins with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StrongId(pub usize);

/// What an operation is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// To read.
    Read,
    /// To put the value that [`value_of`] its number gives.
    Put(Demand),
    /// To delete.
    Delete(Demand),
}

/// How one try of an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// This was read. With an age, it was so at some moment no longer ago than that before it was asked; with `None`, at any moment before.
    Shown(Option<Seen>, Option<Duration>),
    /// The put is done.
    Stored(Stored),
    /// The delete is done.
    Deleted,
    /// 412: the condition does not hold.
    Refused,
    /// Nothing happened, and nothing of this try ever will (503 and the like).
    Nothing,
    /// Nobody knows (504 and the like).
    Unknown,
}

/// One operation, over all of its tries.
#[derive(Debug)]
struct Deed {
    key: String,
    want: Want,
    asked: Duration,
    /// Whether some try ended unknown.
    is_unknown: bool,
    /// The answer that counts, and when it came.
    ended: Option<(Duration, Told)>,
    /// 412s that tries were told after others had ended unknown: the condition did not hold then, but an earlier try may still be under way.
    refusals: Vec<(Duration, Duration)>,
    /// Where it was tried, when, and how that ended.
    tries: Vec<(usize, Duration, Told)>,
}

/// Everything that clients did in strong namespaces.
#[derive(Debug, Default)]
pub struct StrongHistory {
    deeds: Vec<Deed>,
    listed: Vec<(String, Revision, usize)>,
    violations: Vec<String>,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
}

/// The value of a put: its number, and padding that follows from it.
#[must_use]
pub fn value_of(id: StrongId) -> Bytes {
    format!("s{}.{}", id.0, "x".repeat(id.0 % 40)).into()
}

/// The put whose value that is.
#[must_use]
pub fn writer_of(value: &[u8]) -> Option<ValueId> {
    let (number, _) = std::str::from_utf8(value).ok()?.strip_prefix('s')?.split_once('.')?;
    let id = StrongId(number.parse().ok()?);
    (value_of(id) == value).then_some(ValueId(id.0 as u64))
}

fn micros(at: Duration) -> Micros {
    u64::try_from(at.as_micros()).unwrap_or(u64::MAX)
}

impl StrongHistory {
    /// A client begins an operation.
    pub fn begin(&mut self, key: &str, want: Want, at: Duration) -> StrongId {
        let (is_unknown, ended, refusals, tries) = (false, None, Vec::new(), Vec::new());
        self.deeds.push(Deed { key: key.to_owned(), want, asked: at, is_unknown, ended, refusals, tries });
        StrongId(self.deeds.len() - 1)
    }

    /// A try at a daemon that began at `asked` has ended.
    pub fn end(&mut self, id: StrongId, daemon: usize, asked: Duration, now: Duration, told: Told) {
        let deed = &mut self.deeds[id.0];
        deed.tries.push((daemon, asked, told));
        match (deed.ended, told) {
            (_, Told::Nothing) => {}
            (None, Told::Unknown) => deed.is_unknown = true,
            (None, Told::Refused) if deed.is_unknown => deed.refusals.push((asked, now)),
            (None, told) => {
                deed.ended = Some((now, told));
                self.acknowledged += u64::from(matches!(told, Told::Stored(_) | Told::Deleted));
            }
            (Some((_, first)), told) if first == told || told == Told::Unknown => {}
            (Some((_, first)), told) => {
                let text = format!("operation {} of {} was told {first:?}, and its repeat {told:?}", id.0, deed.key);
                self.violations.push(text);
            }
        }
    }

    /// A listing shows a key.
    pub fn list(&mut self, daemon: usize, key: &str, revision: Revision) {
        self.listed.push((key.to_owned(), revision, daemon));
    }

    /// Every key that anybody has asked for.
    #[must_use]
    pub fn keys(&self) -> BTreeSet<String> {
        self.deeds.iter().map(|deed| deed.key.clone()).collect()
    }

    /// What is wrong, if anything is.
    #[must_use]
    pub fn check(&self) -> Vec<String> {
        let mut wrong = self.violations.clone();
        for key in self.keys() {
            let (operations, deeds): (Vec<_>, Vec<_>) = self.operations(&key).into_iter().unzip();
            match linear::check(&operations) {
                Verdict::Linearizable => {}
                Verdict::GaveUp { configurations } => {
                    wrong.push(format!("{key}: not decided after {configurations} configurations of {} operations", operations.len()));
                }
                Verdict::Violated(violation) => {
                    wrong.push(format!("{key} should be one register, acknowledged and shown in one order: {violation}"));
                    wrong.extend(self.story(&key, &violation, &operations, &deeds));
                }
            }
        }
        wrong.extend(self.listed_by_nobody());
        wrong
    }

    /// The operations of a key as the checker knows them, each with the deed that it comes from.
    fn operations(&self, key: &str) -> Vec<(Operation, usize)> {
        let deeds = self.deeds.iter().enumerate().filter(|(_, deed)| deed.key == key);
        deeds.flat_map(|(at, deed)| deed.operations(at).into_iter().map(move |operation| (operation, at))).collect()
    }

    /// The operations around the place where every order gets stuck.
    fn story(&self, key: &str, violation: &Violation, operations: &[Operation], deeds: &[usize]) -> Vec<String> {
        let at: Vec<usize> = match violation {
            Violation::NobodyWrote(at) | Violation::TwoRevisions { at, .. } | Violation::TwoValues { at, .. } => vec![*at],
            Violation::Stuck { waiting, .. } => waiting.clone(),
        };
        let value = |value: ValueId| usize::try_from(value.0).ok();
        let shown = at.iter().filter_map(|&at| match operations[at].act {
            Act::Read(Some(seen)) => value(seen.value),
            _ => None,
        });
        let there = match violation {
            Violation::Stuck { now: Now::Value(id), .. } => value(*id),
            _ => None,
        };
        let named: BTreeSet<usize> = at.iter().map(|&at| deeds[at]).chain(shown).chain(there).collect();
        let until = at.iter().map(|&at| operations[at].answered).max().unwrap_or_default();
        let before = |deed: &Deed| deed.key == key && micros(deed.asked) <= until;
        let told: Vec<_> = self.deeds.iter().enumerate().filter(|(at, deed)| before(deed) || named.contains(at)).collect();
        let newest = told.iter().skip(told.len().saturating_sub(STORY_MAX));
        newest.map(|(at, deed)| format!("    {}operation {at}: {deed}", if named.contains(at) { "* " } else { "" })).collect()
    }

    /// Revisions that a listing showed, and that no write can have made.
    fn listed_by_nobody(&self) -> Vec<String> {
        let is_known = |key: &str, revision: Revision| {
            let of_key = || self.deeds.iter().filter(|deed| deed.key == key);
            of_key().any(|deed| deed.revision() == Some(revision)) || of_key().any(|deed| deed.is_lost_put())
        };
        let unknown = self.listed.iter().filter(|(key, revision, _)| !is_known(key, *revision));
        unknown.map(|(key, revision, daemon)| format!("daemon {daemon} lists {key} with {revision:?}, which should be a write's")).collect()
    }
}

impl Deed {
    fn revision(&self) -> Option<Revision> {
        match self.ended {
            Some((_, Told::Stored(stored))) => Some(stored.revision),
            Some((_, Told::Shown(Some(seen), _))) => Some(seen.revision),
            _ => None,
        }
    }

    fn is_lost_put(&self) -> bool {
        matches!(self.want, Want::Put(_)) && self.ended.is_none() && (self.is_unknown || self.tries.is_empty())
    }

    fn operations(&self, at: usize) -> Vec<Operation> {
        let demand = match self.want {
            Want::Put(demand) | Want::Delete(demand) => demand,
            Want::Read => Demand::Anything,
        };
        let refused = |(asked, answered)| Operation { asked: micros(asked), answered: micros(answered), act: Act::Refused { demand } };
        let mut operations: Vec<Operation> = self.refusals.iter().copied().map(refused).collect();
        let value = ValueId(at as u64);
        let act = match (self.want, self.ended.map(|(_, told)| told)) {
            (_, Some(Told::Refused)) => Act::Refused { demand },
            (Want::Read, Some(Told::Shown(seen, _))) => Act::Read(seen),
            (Want::Put(_), Some(Told::Stored(stored))) => Act::Put { value, demand, told: Some(stored) },
            (Want::Delete(_), Some(Told::Deleted)) => Act::Delete { demand, told: true },
            (Want::Read, _) => return operations,
            // Every try was told that nothing happened.
            _ if !self.is_unknown && !self.tries.is_empty() => return operations,
            (Want::Put(_), _) => Act::Put { value, demand, told: None },
            (Want::Delete(_), _) => Act::Delete { demand, told: false },
        };
        let asked = match self.ended {
            Some((_, Told::Shown(_, Some(age)))) => self.asked.saturating_sub(age),
            Some((_, Told::Shown(_, None))) => Duration::ZERO,
            _ => self.asked,
        };
        let answered = self.ended.map_or(self.asked, |(at, _)| at);
        operations.push(Operation { asked: micros(asked), answered: micros(answered), act });
        operations
    }
}

impl std::fmt::Display for Deed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}, begun {:.3}", self.want, self.asked.as_secs_f64())?;
        for (daemon, asked, told) in &self.tries {
            write!(f, "; at daemon {daemon} from {:.3}: {told:?}", asked.as_secs_f64())?;
        }
        match self.ended {
            Some((at, _)) => write!(f, "; ended {:.3}", at.as_secs_f64()),
            None => f.write_str("; no answer that counts"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn put(history: &mut StrongHistory, from: u64, told: &[Told]) -> StrongId {
        let id = history.begin("k", Want::Put(Demand::Anything), at(from));
        for (n, told) in (0..).zip(told) {
            history.end(id, 0, at(from + 10 * n), at(from + 10 * n + 5), *told);
        }
        id
    }

    fn stored(revision: u64, created: bool) -> Told {
        Told::Stored(Stored { revision: Revision(revision), created })
    }

    fn read(history: &mut StrongHistory, from: u64, age: Option<Duration>, shown: Option<(StrongId, u64)>) {
        let id = history.begin("k", Want::Read, at(from));
        let seen = shown.map(|(id, revision)| Seen { value: ValueId(id.0 as u64), revision: Revision(revision) });
        history.end(id, 1, at(from), at(from + 5), Told::Shown(seen, age));
    }

    const NEW: Option<Duration> = Some(Duration::ZERO);

    #[test]
    fn q10_what_was_told_not_to_have_happened_must_never_be_seen() {
        let mut history = StrongHistory::default();
        let refused = put(&mut history, 0, &[Told::Nothing, Told::Nothing]);
        read(&mut history, 100, NEW, None);
        assert_eq!(history.check(), Vec::<String>::new());
        read(&mut history, 200, NEW, Some((refused, 3)));
        assert!(history.check()[0].contains("no write can have left"), "{:?}", history.check());
    }

    #[test]
    fn q10_what_is_unknown_may_be_seen_or_not() {
        let mut history = StrongHistory::default();
        let lost = put(&mut history, 0, &[Told::Unknown, Told::Nothing]);
        read(&mut history, 100, NEW, None);
        read(&mut history, 200, NEW, Some((lost, 3)));
        assert_eq!(history.check(), Vec::<String>::new());
        read(&mut history, 300, NEW, None);
        assert_eq!(history.check().len(), 5, "{:?}", history.check());
    }

    #[test]
    fn q11_a_repeat_is_told_the_same() {
        let mut history = StrongHistory::default();
        let first = put(&mut history, 0, &[Told::Unknown, stored(3, true), stored(3, true), Told::Unknown]);
        read(&mut history, 100, NEW, Some((first, 3)));
        assert_eq!(history.check(), Vec::<String>::new());
        put(&mut history, 200, &[stored(5, false), stored(7, false)]);
        assert!(history.check()[0].contains("its repeat"), "{:?}", history.check());
    }

    #[test]
    fn q17_a_copy_may_be_as_old_as_it_says() {
        let history = |age| {
            let mut history = StrongHistory::default();
            let first = put(&mut history, 0, &[stored(3, true)]);
            put(&mut history, 50, &[stored(5, false)]);
            read(&mut history, 100, age, Some((first, 3)));
            history.check().len()
        };
        assert_eq!(history(Some(at(60))), 0);
        assert_eq!(history(None), 0);
        assert!(history(Some(at(40))) > 0);
    }

    #[test]
    fn a_listing_shows_what_was_written() {
        let mut history = StrongHistory::default();
        put(&mut history, 0, &[stored(3, true)]);
        history.list(0, "k", Revision(3));
        assert_eq!(history.check(), Vec::<String>::new());
        history.list(0, "k", Revision(4));
        assert_eq!(history.check().len(), 1);
    }
}
