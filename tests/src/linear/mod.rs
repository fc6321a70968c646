//! Whether what clients were told of one key can have come from a single register that does one thing at a time (Herlihy, Wing 1990).
//!
//! ```text
//!   operations of one key: asked when, answered when or never, with what
//!        |
//!   Puzzle     who wrote which value, in which order of revisions; writes of unknown outcome that nobody ever saw
//!        |
//!   search     one order after the other (Wing, Gong 1993), nothing tried twice (Lowe, "Testing for linearizability", 2017)
//!        |
//!   Verdict    yes; no, with the place where every order got stuck; or given up, which is said aloud
//! ```
//!
//! An operation whose outcome is unknown may take effect at any time after it was asked, or never. One that promises that nothing happened
//! (503) is left out by the caller: what it would have written must then never be seen. A read that says how old its answer may be at most is
//! one that was asked that much earlier.

mod puzzle;
mod search;

#[cfg(test)]
mod brute;

use std::fmt;

/// A time in microseconds; any epoch will do.
pub type Micros = u64;

/// The value of one put, told apart from that of every other put of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(pub u64);

/// What an `ETag` of a strong key stands for: grows with every write of the key, for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// What a write demands of the register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Nothing.
    Anything,
    /// That there is no value: `If-None-Match: *`.
    Absent,
    /// That there is one: `If-Match: *`.
    Present,
    /// That it is of this revision: `If-Match`. A revision that no answer of the history tells is no value's.
    Is(Revision),
}

/// What a read was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The value.
    pub value: ValueId,
    /// Its revision.
    pub revision: Revision,
}

/// What the answer to a put tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// The revision that it made.
    pub revision: Revision,
    /// Whether there was no value before: 201, not 204.
    pub created: bool,
}

/// What an operation asked, and what it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Was shown this. A read without an answer says nothing, and is left out by the caller.
    Read(Option<Seen>),
    /// Stored a value; `None` when its outcome is unknown.
    Put {
        /// The value.
        value: ValueId,
        /// Under this condition.
        demand: Demand,
        /// What it was told.
        told: Option<Stored>,
    },
    /// Removed the value, or found nothing to remove.
    Delete {
        /// Under this condition.
        demand: Demand,
        /// Whether it was told that it is done; false when its outcome is unknown.
        told: bool,
    },
    /// A write that was refused since its condition did not hold: 412.
    Refused {
        /// The condition.
        demand: Demand,
    },
}

/// One operation of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// When it was asked, at the latest.
    pub asked: Micros,
    /// When it was answered. Without meaning for a write of unknown outcome, which may take effect at any later time.
    pub answered: Micros,
    /// What it was.
    pub act: Act,
}

/// Whether a history is linearizable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Some order of the operations explains every answer.
    Linearizable,
    /// None does.
    Violated(Violation),
    /// Nobody knows: so many configurations were tried.
    GaveUp {
        /// Pairs of what was done and what the register was.
        configurations: usize,
    },
}

/// Why no order explains a history. Operations are numbered as the caller gave them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A value was shown that nobody wrote, or whose writer was told that nothing had happened.
    #[error("operation {0} was shown a value that no write can have left")]
    NobodyWrote(usize),
    /// One value was told with two revisions: it was applied twice.
    #[error("operation {at} tells of revision {second:?} for the value that had {first:?}")]
    TwoRevisions {
        /// Who told the second.
        at: usize,
        /// What had been told before.
        first: Revision,
        /// What this one told.
        second: Revision,
    },
    /// Two values were told with one revision.
    #[error("operation {at} tells of revision {revision:?}, which another value has")]
    TwoValues {
        /// Who told the second.
        at: usize,
        /// Of what.
        revision: Revision,
    },
    /// Every order gets stuck. This is the longest.
    #[error("no order explains it: after {done} operations, with {now}, none of {waiting:?} can be next")]
    Stuck {
        /// How many operations it explains.
        done: usize,
        /// What the register is then.
        now: Now,
        /// The operations that could come next in time.
        waiting: Vec<usize>,
    },
}

/// What the register is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Now {
    /// Without a value.
    Absent,
    /// A value that somebody was shown, or told of.
    Value(ValueId),
    /// A value of unknown outcome that nobody ever was shown.
    Unseen,
}

impl fmt::Display for Now {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("no value there"),
            Self::Value(ValueId(id)) => write!(f, "value {id} there"),
            Self::Unseen => f.write_str("a value there that nobody has seen"),
        }
    }
}

/// Configurations that [`check`] tries at most: some hundred megabytes, and a few seconds.
pub const CONFIGURATIONS_MAX: usize = 1 << 20;

/// Whether a history of one key, which begins absent, is linearizable. Takes any order of operations.
#[must_use]
pub fn check(history: &[Operation]) -> Verdict {
    check_within(history, CONFIGURATIONS_MAX)
}

/// The same with another bound.
#[must_use]
pub fn check_within(history: &[Operation], configurations_max: usize) -> Verdict {
    match puzzle::Puzzle::of(history) {
        Ok(puzzle) => search::search(&puzzle, configurations_max),
        Err(violation) => Verdict::Violated(violation),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(id: u64) -> Option<Seen> {
        Some(Seen { value: ValueId(id), revision: Revision(id * 10) })
    }

    fn op(asked: Micros, answered: Micros, act: Act) -> Operation {
        Operation { asked, answered, act }
    }

    fn read(asked: Micros, answered: Micros, shown: Option<Seen>) -> Operation {
        op(asked, answered, Act::Read(shown))
    }

    fn put_if(asked: Micros, answered: Micros, id: u64, demand: Demand, created: bool) -> Operation {
        let told = Some(Stored { revision: Revision(id * 10), created });
        op(asked, answered, Act::Put { value: ValueId(id), demand, told })
    }

    fn put(asked: Micros, answered: Micros, id: u64, created: bool) -> Operation {
        put_if(asked, answered, id, Demand::Anything, created)
    }

    fn lost_put(asked: Micros, id: u64, demand: Demand) -> Operation {
        op(asked, asked, Act::Put { value: ValueId(id), demand, told: None })
    }

    fn delete(asked: Micros, answered: Micros) -> Operation {
        op(asked, answered, Act::Delete { demand: Demand::Anything, told: true })
    }

    fn lost_delete(asked: Micros) -> Operation {
        op(asked, asked, Act::Delete { demand: Demand::Anything, told: false })
    }

    fn refused(asked: Micros, answered: Micros, demand: Demand) -> Operation {
        op(asked, answered, Act::Refused { demand })
    }

    fn is(id: u64) -> Demand {
        Demand::Is(Revision(id * 10))
    }

    #[track_caller]
    fn good(history: &[Operation]) {
        assert_eq!(check(history), Verdict::Linearizable);
    }

    #[track_caller]
    fn bad(history: &[Operation]) -> Violation {
        match check(history) {
            Verdict::Violated(violation) => violation,
            verdict => panic!("{verdict:?}"),
        }
    }

    #[test]
    fn nothing_and_one_thing_after_the_other_are_good() {
        good(&[]);
        good(&[put(0, 1, 1, true), read(2, 3, seen(1)), put(4, 5, 2, false), read(6, 7, seen(2)), delete(8, 9), read(10, 11, None)]);
    }

    #[test]
    fn what_overlaps_may_have_happened_in_either_order() {
        good(&[put(0, 9, 1, true), put(0, 9, 2, false), read(10, 11, seen(2))]);
        good(&[put(0, 9, 1, true), read(1, 2, seen(1)), read(3, 4, seen(1))]);
        good(&[put(0, 9, 1, true), read(1, 2, None), read(3, 4, seen(1))]);
        bad(&[put(0, 9, 1, true), read(1, 2, seen(1)), read(3, 4, None)]);
    }

    #[test]
    fn a_stale_read_is_bad() {
        let stuck = bad(&[put(0, 1, 1, true), put(2, 3, 2, false), read(4, 5, seen(1))]);
        assert_eq!(stuck, Violation::Stuck { done: 2, now: Now::Value(ValueId(2)), waiting: vec![2] });
        bad(&[put(0, 1, 1, true), read(2, 3, None)]);
        bad(&[put(0, 1, 1, true), delete(2, 3), read(4, 5, seen(1))]);
    }

    #[test]
    fn a_read_that_says_how_old_it_may_be_is_good_within_that_age() {
        let history = |age: Micros| [put(0, 1, 1, true), put(20, 30, 2, false), read(50 - age, 51, seen(1))];
        good(&history(25));
        bad(&history(15));
    }

    #[test]
    fn a_lost_update_is_bad() {
        let both_win = [put(0, 1, 1, true), put_if(2, 9, 2, is(1), false), put_if(3, 8, 3, is(1), false)];
        bad(&both_win);
        let one_loses = [put(0, 1, 1, true), put_if(2, 9, 2, is(1), false), refused(3, 8, is(1))];
        good(&one_loses);
        let both_lose = [put(0, 1, 1, true), refused(2, 9, is(1)), refused(3, 8, is(1))];
        bad(&both_lose);
    }

    #[test]
    fn a_write_of_unknown_outcome_may_come_late_or_never_and_stays() {
        let lost = lost_put(0, 1, Demand::Anything);
        good(&[lost, read(5, 6, None), read(7, 8, seen(1))]);
        good(&[lost, read(5, 6, None), read(7, 8, None)]);
        bad(&[lost, read(5, 6, seen(1)), read(7, 8, None)]);
        good(&[lost, read(5, 6, seen(1)), lost_delete(1), read(7, 8, None)]);
        good(&[lost, put(2, 3, 2, true), put(4, 5, 3, false), read(6, 7, seen(3))]);
    }

    #[test]
    fn a_write_of_unknown_outcome_that_nobody_saw_still_explains_what_it_leaves() {
        let lost = lost_put(0, 1, Demand::Anything);
        good(&[lost, put(2, 3, 2, false)]);
        bad(&[put(2, 3, 2, false)]);
        good(&[put(0, 1, 5, true), lost_put(2, 6, is(5)), refused(3, 4, is(5))]);
        bad(&[put(0, 1, 5, true), lost_put(2, 6, Demand::Absent), refused(3, 4, is(5))]);
        bad(&[put(0, 1, 5, true), lost_put(2, 6, is(5)), refused(3, 4, is(5)), read(5, 6, seen(5))]);
    }

    #[test]
    fn a_request_that_was_applied_twice_is_bad() {
        bad(&[lost_put(0, 1, Demand::Anything), read(1, 2, seen(1)), put(3, 4, 2, false), read(5, 6, seen(1))]);
        let again = Some(Seen { value: ValueId(1), revision: Revision(50) });
        let twice = bad(&[put(0, 1, 1, true), put(2, 3, 2, false), read(4, 5, again)]);
        assert_eq!(twice, Violation::TwoRevisions { at: 2, first: Revision(10), second: Revision(50) });
    }

    #[test]
    fn a_value_whose_write_was_said_not_to_have_happened_must_not_be_seen() {
        assert_eq!(bad(&[put(0, 1, 1, true), read(2, 3, seen(2))]), Violation::NobodyWrote(1));
        // The same for a delete.
        bad(&[put(0, 1, 1, true), read(2, 3, seen(1)), read(4, 5, None)]);
    }

    #[test]
    fn a_condition_that_held_is_not_refused_and_one_that_did_not_is() {
        bad(&[put(0, 1, 1, true), put_if(2, 3, 2, Demand::Absent, true)]);
        bad(&[put_if(2, 3, 2, Demand::Present, false)]);
        bad(&[refused(2, 3, Demand::Absent)]);
        good(&[put(0, 1, 1, true), refused(2, 3, Demand::Absent), delete(4, 5), refused(6, 7, Demand::Present), refused(6, 7, is(1))]);
        good(&[put_if(0, 9, 1, Demand::Absent, true), refused(0, 9, Demand::Absent)]);
    }

    #[test]
    fn revisions_grow_and_are_one_values_each() {
        // Both orders would do, but for the revisions.
        bad(&[put(0, 9, 2, true), put(0, 9, 1, false), read(10, 11, seen(1))]);
        bad(&[put(0, 1, 2, true), put(2, 3, 1, false)]);
        let same = Some(Seen { value: ValueId(2), revision: Revision(10) });
        let two = bad(&[put(0, 1, 1, true), lost_put(0, 2, Demand::Anything), read(2, 3, same)]);
        assert_eq!(two, Violation::TwoValues { at: 2, revision: Revision(10) });
    }

    #[test]
    fn giving_up_is_said() {
        let writes = (0..14).map(|id| lost_put(0, id, is(id)));
        let deletes = (0..14).map(|_| delete(0, 100));
        let history: Vec<Operation> = writes.chain(deletes).chain([read(101, 102, seen(0))]).collect();
        assert_eq!(check_within(&history, 5), Verdict::GaveUp { configurations: 6 });
    }

    #[test]
    fn a_long_history_with_many_lost_writes_is_decided() {
        let mut history = Vec::new();
        for n in 0..2_000_u64 {
            let at = n * 100;
            history.push(put(at, at + 250, n + 1, n == 0));
            history.push(lost_put(at, 1_000_000 + n, Demand::Anything));
            if n % 5 == 0 {
                history.push(lost_put(at, 2_000_000 + n, is(n)));
            }
            history.push(read(at + 240, at + 260, seen(n + 1)));
        }
        let before = history.clone();
        good(&history);
        history.push(read(200_200, 200_300, seen(1_999)));
        bad(&history);
        // What nobody saw explains an absence only with a delete.
        let mut absent = before;
        absent.push(read(200_200, 200_300, None));
        bad(&absent);
        absent.push(lost_delete(50_000));
        good(&absent);
    }
}
