//! The search for an order that explains a history.

use std::collections::HashMap;

use super::puzzle::{Condition, Lost, Need, Puzzle};
use super::{Micros, Now, Verdict, Violation};

/// What an order has come to, but for the lost writes that it took.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Reached {
    now: Now,
    /// One bit for each known operation.
    done: Vec<u64>,
    /// Ranked puts that are done: always the first ones.
    ranked: usize,
}

/// Of each kind of lost writes, how many are done: always the first ones.
type Taken = Vec<u32>;

#[derive(Debug, Clone)]
struct Configuration {
    reached: Reached,
    taken: Taken,
    /// All known operations before this one are done.
    first: usize,
}

/// What was tried. Who has reached the same with no fewer lost writes of any kind can do nothing that the other could not.
#[derive(Debug, Default)]
struct Tried {
    reached: HashMap<Reached, Vec<Taken>>,
    count: usize,
}

impl Tried {
    /// Whether it is worth trying.
    fn insert(&mut self, configuration: &Configuration) -> bool {
        let before = self.reached.entry(configuration.reached.clone()).or_default();
        if before.iter().any(|taken| taken.iter().zip(&configuration.taken).all(|(less, more)| less <= more)) {
            return false;
        }
        before.push(configuration.taken.clone());
        self.count += 1;
        true
    }
}

impl Configuration {
    fn start(puzzle: &Puzzle) -> Self {
        let done = vec![0; puzzle.known.len().div_ceil(64)];
        Self { reached: Reached { now: Now::Absent, done, ranked: 0 }, taken: vec![0; puzzle.lost.len()], first: 0 }
    }

    fn is_done(&self, known: usize) -> bool {
        self.reached.done[known / 64] >> (known % 64) & 1 == 1
    }

    fn finish(&mut self, puzzle: &Puzzle, known: usize) {
        self.reached.done[known / 64] |= 1 << (known % 64);
        while self.first < puzzle.known.len() && self.is_done(self.first) {
            self.first += 1;
        }
    }

    fn is_complete(&self, puzzle: &Puzzle) -> bool {
        self.first == puzzle.known.len()
    }

    fn count(&self) -> usize {
        self.reached.done.iter().map(|bits| bits.count_ones() as usize).sum()
    }

    /// The first answer that is still to be explained: what was asked later comes after it. With it the known operations that may be next.
    fn next(&self, puzzle: &Puzzle) -> (Micros, Vec<usize>) {
        let (mut answer, mut candidates) = (Micros::MAX, Vec::new());
        for (at, known) in puzzle.known.iter().enumerate().skip(self.first) {
            if known.asked > answer {
                break;
            }
            if !self.is_done(at) {
                answer = answer.min(known.answered);
                candidates.push(at);
            }
        }
        candidates.retain(|&at| puzzle.known[at].asked <= answer);
        (answer, candidates)
    }

    /// Takes everything that changes nothing and fits as it is. Whatever order explains the rest with these later explains it with these now, so
    /// there is nothing else to try.
    fn absorb(&mut self, puzzle: &Puzzle) {
        loop {
            let before = self.first;
            let (_, candidates) = self.next(puzzle);
            let fitting: Vec<usize> = candidates.into_iter().filter(|&at| self.fits(puzzle.known[at].need)).collect();
            fitting.iter().for_each(|&at| self.finish(puzzle, at));
            if fitting.is_empty() && self.first == before {
                return;
            }
        }
    }

    fn fits(&self, need: Need) -> bool {
        match need {
            Need::Exactly(now) => now == self.reached.now,
            Need::Not(condition) => !condition.holds(self.reached.now),
            Need::Delete(_) | Need::Put => false,
        }
    }

    /// What may come next, the likelier last.
    fn successors(&self, puzzle: &Puzzle) -> Vec<Self> {
        let (answer, candidates) = self.next(puzzle);
        let mut successors = self.after_lost(puzzle, answer);
        successors.extend(candidates.into_iter().filter_map(|at| match puzzle.known[at].need {
            Need::Delete(condition) => self.after_delete(puzzle, at, condition),
            Need::Exactly(_) | Need::Not(_) | Need::Put => None,
        }));
        successors.extend(self.after_put(puzzle, answer));
        successors
    }

    fn after_lost(&self, puzzle: &Puzzle, answer: Micros) -> Vec<Self> {
        let is_next = |(kind, lost): &(usize, &Lost)| {
            let is_there = lost.asked.get(self.taken[*kind] as usize).is_some_and(|asked| *asked <= answer);
            is_there && lost.condition.holds(self.reached.now) && lost.leaves != self.reached.now
        };
        let after = |(kind, lost): (usize, &Lost)| {
            let mut next = self.leaving(lost.leaves);
            next.taken[kind] += 1;
            next
        };
        puzzle.lost.iter().enumerate().filter(is_next).map(after).collect()
    }

    fn leaving(&self, now: Now) -> Self {
        let mut next = self.clone();
        next.reached.now = now;
        next
    }

    fn after_delete(&self, puzzle: &Puzzle, at: usize, condition: Condition) -> Option<Self> {
        if !condition.holds(self.reached.now) {
            return None;
        }
        let mut next = self.leaving(Now::Absent);
        next.finish(puzzle, at);
        Some(next)
    }

    fn after_put(&self, puzzle: &Puzzle, answer: Micros) -> Option<Self> {
        let put = puzzle.ranked.get(self.reached.ranked)?;
        let tells = put.created.is_none_or(|created| created == (self.reached.now == Now::Absent));
        if put.asked > answer || !tells || !put.condition.holds(self.reached.now) {
            return None;
        }
        let mut next = self.leaving(Now::Value(put.value));
        next.reached.ranked += 1;
        if let Some(known) = put.known {
            next.finish(puzzle, known);
        }
        Some(next)
    }

    fn stuck(&self, puzzle: &Puzzle) -> Violation {
        let (_, candidates) = self.next(puzzle);
        let waiting = candidates.into_iter().map(|at| puzzle.known[at].number).collect();
        Violation::Stuck { done: self.count(), now: self.reached.now, waiting }
    }
}

/// Tries one order after the other, depth first.
pub(super) fn search(puzzle: &Puzzle, configurations_max: usize) -> Verdict {
    let mut tried = Tried::default();
    let mut open = vec![Configuration::start(puzzle)];
    let mut longest: Option<(usize, Configuration)> = None;
    while let Some(mut configuration) = open.pop() {
        configuration.absorb(puzzle);
        if configuration.is_complete(puzzle) {
            return Verdict::Linearizable;
        }
        if !tried.insert(&configuration) {
            continue;
        }
        if tried.count > configurations_max {
            return Verdict::GaveUp { configurations: tried.count };
        }
        open.extend(configuration.successors(puzzle));
        let count = configuration.count();
        if longest.as_ref().is_none_or(|(most, _)| count > *most) {
            longest = Some((count, configuration));
        }
    }
    let (_, longest) = longest.unwrap_or_else(|| (0, Configuration::start(puzzle)));
    Verdict::Violated(longest.stuck(puzzle))
}
