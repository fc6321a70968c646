//! The same question answered the slow way, by trying every order of every choice of lost writes, for small histories that are drawn at random: a
//! check of the check.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Act, Demand, Operation, Revision, Seen, Stored, ValueId, Verdict, check};

/// The register as it is, told apart by what wrote it.
type Register = Option<(ValueId, Option<Revision>)>;

/// Whether some order explains the history, with revisions that grow.
fn is_linearizable(history: &[Operation]) -> bool {
    extend(history, &mut Vec::new(), None, 0)
}

fn is_lost(act: Act) -> bool {
    matches!(act, Act::Put { told: None, .. } | Act::Delete { told: false, .. })
}

fn precedes(a: &Operation, b: &Operation) -> bool {
    !is_lost(a.act) && a.answered < b.asked
}

/// Whether the order so far can be gone on with; the register is what it has left, with revisions up to `highest`.
fn extend(history: &[Operation], order: &mut Vec<usize>, register: Register, highest: u64) -> bool {
    let left: Vec<usize> = (0..history.len()).filter(|at| !order.contains(at)).collect();
    if left.iter().all(|&at| is_lost(history[at].act)) {
        return true;
    }
    left.iter().any(|&at| {
        if left.iter().any(|&other| precedes(&history[other], &history[at])) {
            return false;
        }
        let Some(after) = apply(history, history[at].act, register) else { return false };
        let made = after.filter(|_| after != register).and_then(|(_, revision)| revision).map(|revision| revision.0);
        if made.is_some_and(|revision| revision <= highest) {
            return false;
        }
        order.push(at);
        let found = extend(history, order, after, made.unwrap_or(highest));
        order.pop();
        found
    })
}

fn holds(demand: Demand, register: Register) -> bool {
    match demand {
        Demand::Anything => true,
        Demand::Absent => register.is_none(),
        Demand::Present => register.is_some(),
        Demand::Is(revision) => register.is_some_and(|(_, now)| now == Some(revision)),
    }
}

fn apply(history: &[Operation], act: Act, register: Register) -> Option<Register> {
    match act {
        Act::Read(None) => register.is_none().then_some(register),
        Act::Read(Some(seen)) => (register == Some((seen.value, Some(seen.revision)))).then_some(register),
        Act::Refused { demand } => (!holds(demand, register)).then_some(register),
        Act::Delete { demand, .. } => holds(demand, register).then_some(None),
        Act::Put { value, demand, told } => {
            let tells = told.is_none_or(|stored| stored.created == register.is_none());
            (holds(demand, register) && tells).then(|| Some((value, revision_of(history, value))))
        }
    }
}

fn revision_of(history: &[Operation], value: ValueId) -> Option<Revision> {
    history.iter().find_map(|operation| match operation.act {
        Act::Put { value: of, told: Some(stored), .. } if of == value => Some(stored.revision),
        Act::Read(Some(seen)) if seen.value == value => Some(seen.revision),
        _ => None,
    })
}

/// A register that is asked one thing after the other.
#[derive(Default)]
struct Drawn {
    now: Register,
    before: Register,
    revision: u64,
}

/// Runs a register with clients whose operations overlap, tells most of the truth, and lies now and then.
fn draw(rng: &mut StdRng) -> Vec<Operation> {
    let mut drawn = Drawn::default();
    let count = rng.random_range(2..=6);
    let operation = |n: u64| {
        let at = 10 * n + 25;
        let (asked, answered) = (at - rng.random_range(0..25), at + rng.random_range(0..25));
        Operation { asked, answered, act: drawn.act(rng, n) }
    };
    (0..count).map(operation).collect()
}

impl Drawn {
    fn demand(&self, rng: &mut StdRng) -> Demand {
        match rng.random_range(0..6) {
            0 => Demand::Absent,
            1 => Demand::Present,
            2 => Demand::Is(Revision(rng.random_range(0..=self.revision))),
            _ => Demand::Anything,
        }
    }

    fn becomes(&mut self, after: Register) {
        self.before = std::mem::replace(&mut self.now, after);
    }

    fn act(&mut self, rng: &mut StdRng, n: u64) -> Act {
        let demand = self.demand(rng);
        let holds = holds(demand, self.now);
        let (is_lost, lies) = (rng.random_ratio(1, 4), rng.random_ratio(1, 8));
        let happens = holds && (!is_lost || rng.random());
        match rng.random_range(0..5) {
            0 | 1 => Act::Read(seen(if lies { self.before } else { self.now })),
            _ if !holds && !is_lost && !lies => Act::Refused { demand },
            2 => {
                if happens {
                    self.becomes(None);
                }
                Act::Delete { demand, told: !is_lost }
            }
            _ => {
                let created = self.now.is_none() != lies;
                self.revision += 1;
                let revision = Revision(self.revision);
                if happens {
                    self.becomes(Some((ValueId(n), Some(revision))));
                }
                Act::Put { value: ValueId(n), demand, told: (!is_lost).then_some(Stored { revision, created }) }
            }
        }
    }
}

fn seen(register: Register) -> Option<Seen> {
    let (value, revision) = register?;
    Some(Seen { value, revision: revision? })
}

#[test]
fn the_quick_check_and_the_slow_one_agree() {
    let mut counts = [0_u32; 2];
    for seed in 0..30_000 {
        let history = draw(&mut StdRng::seed_from_u64(seed));
        let slow = is_linearizable(&history);
        let quick = check(&history);
        assert_eq!(quick == Verdict::Linearizable, slow, "seed {seed}: {quick:?} of {history:#?}");
        counts[usize::from(slow)] += 1;
    }
    assert!(counts.iter().all(|&count| count > 3_000), "good and bad ones: {counts:?}");
}
