//! Whether a history of one key is linearizable (Herlihy, Wing 1990), by the search of Wing and Gong (1993) with Lowe's memory of what was tried (2017).

use std::collections::BTreeSet;

/// A value, told apart by its number.
pub(crate) type ValueId = u64;

/// What an operation asked, and what it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// Saw this value.
    Read(Option<ValueId>),
    /// Stored `value`, over a value or not; `None` when that is unknown.
    Put { value: ValueId, demands: Demand, replaced: Option<bool> },
    /// Removed what was there, or found nothing; `None` when that is unknown.
    Delete { demands: Demand, removed: Option<bool> },
    /// A write that was refused, since this was there.
    Refused { demands: Demand, found: Option<ValueId> },
}

/// A precondition, in terms of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Demand {
    Anything,
    Absent,
    Present,
    /// Exactly this value; 0 when it is one that nobody knows.
    Value(ValueId),
    /// Anything but this value.
    NotValue(ValueId),
    /// A value, and not this one.
    Another(ValueId),
}

/// One operation: when it was asked and answered, `u64::MAX` when it never was, so that it may have happened at any later time or never.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operation {
    pub(crate) asked: u64,
    pub(crate) answered: u64,
    pub(crate) act: Act,
}

impl Demand {
    fn holds(self, now: Option<ValueId>) -> bool {
        match self {
            Self::Anything => true,
            Self::Absent => now.is_none(),
            Self::Present => now.is_some(),
            Self::Value(value) => now == Some(value),
            Self::NotValue(value) => now != Some(value),
            Self::Another(value) => now.is_some_and(|now| now != value),
        }
    }
}

impl Act {
    /// The register after it, or `None` when it cannot have happened here as it was told.
    fn apply(self, now: Option<ValueId>) -> Option<Option<ValueId>> {
        match self {
            Self::Read(seen) => (seen == now).then_some(now),
            Self::Put { value, demands, replaced: None } => Some(if demands.holds(now) { Some(value) } else { now }),
            Self::Put { value, demands, replaced: Some(replaced) } => {
                (demands.holds(now) && replaced == now.is_some()).then_some(Some(value))
            }
            Self::Delete { demands, removed: None } => Some(if demands.holds(now) { None } else { now }),
            Self::Delete { removed: Some(false), .. } => now.is_none().then_some(None),
            Self::Delete { demands, removed: Some(true) } => (demands.holds(now) && now.is_some()).then_some(None),
            Self::Refused { demands, found } => (!demands.holds(now) && found == now).then_some(now),
        }
    }
}

/// The longest history that is searched.
pub(crate) const OPERATIONS_MAX: usize = 64;

/// Whether some order of the operations, each between its question and its answer, explains every answer. The key begins absent.
pub(crate) fn is_linearizable(history: &[Operation]) -> bool {
    assert!(history.len() <= OPERATIONS_MAX, "{} operations of one key", history.len());
    let mut order = history.to_vec();
    order.sort_by_key(|operation| operation.asked);
    let known = (0..order.len()).filter(|&i| order[i].answered != u64::MAX).fold(0_u64, |bits, i| bits | 1 << i);
    search(&order, known, 0, None, &mut BTreeSet::new())
}

fn search(order: &[Operation], known: u64, done: u64, now: Option<ValueId>, tried: &mut BTreeSet<(u64, Option<ValueId>)>) -> bool {
    if done & known == known {
        return true;
    }
    if !tried.insert((done, now)) {
        return false;
    }
    let open = |i: &usize| done >> i & 1 == 0;
    let first_answer = (0..order.len()).filter(open).map(|i| order[i].answered).min().unwrap_or(u64::MAX);
    let candidates = (0..order.len()).filter(open).take_while(|&i| order[i].asked <= first_answer);
    for i in candidates {
        if let Some(after) = order[i].act.apply(now)
            && search(order, known, done | 1 << i, after, tried)
        {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(asked: u64, answered: u64, act: Act) -> Operation {
        Operation { asked, answered, act }
    }

    fn put(value: ValueId) -> Act {
        Act::Put { value, demands: Demand::Anything, replaced: None }
    }

    const LOST: u64 = u64::MAX;

    #[test]
    fn good_histories_are_linearizable() {
        let overlapping = [op(0, 9, put(1)), op(1, 8, put(2)), op(10, 11, Act::Read(Some(1)))];
        let lost_and_seen = [op(0, LOST, put(1)), op(5, 6, Act::Read(None)), op(7, 8, Act::Read(Some(1)))];
        let lost_for_good = [op(0, LOST, put(1)), op(5, 6, Act::Read(None)), op(7, 8, Act::Read(None))];
        let cas = Act::Put { value: 2, demands: Demand::Value(1), replaced: Some(true) };
        let lost_cas = [op(0, 1, put(1)), op(2, 3, cas), op(4, 5, Act::Refused { demands: Demand::Value(1), found: Some(2) })];
        let deleted =
            [op(0, 1, put(1)), op(2, 3, Act::Delete { demands: Demand::Anything, removed: Some(true) }), op(4, 5, Act::Read(None))];
        for history in [&overlapping[..], &lost_and_seen, &lost_for_good, &lost_cas, &deleted, &[]] {
            assert!(is_linearizable(history), "{history:?}");
        }
    }

    #[test]
    fn bad_histories_are_not() {
        let stale = [op(0, 1, put(1)), op(2, 3, put(2)), op(4, 5, Act::Read(Some(1)))];
        let back = [op(0, LOST, put(1)), op(5, 6, Act::Read(Some(1))), op(7, 8, Act::Read(None))];
        let cas = |value| Act::Put { value, demands: Demand::Value(1), replaced: Some(true) };
        let both_win = [op(0, 1, put(1)), op(2, 9, cas(2)), op(3, 8, cas(3))];
        let early = [op(0, 1, Act::Read(Some(1))), op(2, 3, put(1))];
        let twice = [op(0, LOST, put(1)), op(1, 2, Act::Read(Some(1))), op(3, 4, put(2)), op(5, 6, Act::Read(Some(1)))];
        let created = [op(0, 1, put(1)), op(2, 3, Act::Put { value: 2, demands: Demand::Absent, replaced: Some(false) })];
        for history in [&stale[..], &back, &both_win, &early, &twice, &created] {
            assert!(!is_linearizable(history), "{history:?}");
        }
    }
}
