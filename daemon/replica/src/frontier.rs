//! Up to which time all of our own writes have passed some point of the operation log.

use std::collections::VecDeque;

use isochrone_ident::Hlc;

use crate::Sequence;

/// A watermark over our own writes. A *checkpoint* (floor, head) states that every write of ours at or below `floor` stands in
/// the operation log at or before `head`; it is made by taking the floor first (just below the oldest write still in flight, or
/// the present) and the log's head afterwards. Once the log has been passed up to `head`, the watermark is `floor`.
///
/// Concurrent writers may enter the log in another order than their times have: the checkpoint is what makes the watermark right all the same.
#[derive(Debug, Clone)]
pub struct Frontier {
    waiting: VecDeque<(Sequence, Hlc)>,
    waiting_max: usize,
    through: Hlc,
}

impl Frontier {
    /// A frontier that has passed nothing yet and remembers at most `waiting_max` checkpoints (further ones are left out, and
    /// the watermark then moves in larger steps).
    #[must_use]
    pub const fn new(waiting_max: usize) -> Self {
        Self { waiting: VecDeque::new(), waiting_max, through: Hlc::ZERO }
    }

    /// Adds a checkpoint. Floors and heads are expected not to fall; one that does is ignored.
    pub fn checkpoint(&mut self, floor: Hlc, head: Sequence) {
        if self.waiting.back().is_some_and(|&(last_head, last_floor)| head < last_head || floor < last_floor) {
            return;
        }
        if let Some(last) = self.waiting.back_mut().filter(|last| last.0 == head) {
            last.1 = floor;
        } else if self.waiting.len() < self.waiting_max {
            self.waiting.push_back((head, floor));
        }
    }

    /// The log has been passed up to and including `sequence`. Returns the watermark, which only grows.
    pub fn passed(&mut self, sequence: Sequence) -> Hlc {
        while let Some(&(head, floor)) = self.waiting.front()
            && head <= sequence
        {
            self.through = self.through.max(floor);
            self.waiting.pop_front();
        }
        self.through
    }

    /// The watermark: every write of ours at or below it has passed. [`Hlc::ZERO`] until the first checkpoint has.
    #[must_use]
    pub const fn through(&self) -> Hlc {
        self.through
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_watermark_waits_for_the_log_to_pass_the_checkpoint() {
        let mut frontier = Frontier::new(8);
        frontier.checkpoint(Hlc(100), Sequence(5));
        assert_eq!(frontier.passed(Sequence(4)), Hlc::ZERO);
        assert_eq!(frontier.passed(Sequence(5)), Hlc(100));
    }

    #[test]
    fn an_idle_log_lets_the_watermark_follow_the_clock() {
        let mut frontier = Frontier::new(1);
        for floor in 1..10 {
            frontier.checkpoint(Hlc(floor), Sequence(3));
        }
        assert_eq!(frontier.passed(Sequence(3)), Hlc(9));
    }

    proptest! {
        /// Writers take a time, stay in flight for a while, and enter the log in any order: no unpassed write is ever below the watermark.
        #[test]
        fn no_write_that_has_not_passed_is_below_the_watermark(steps in prop::collection::vec((0u8..4, any::<prop::sample::Index>()), 1..200)) {
            let mut frontier = Frontier::new(3);
            let (mut now, mut in_flight, mut log, mut passed) = (0u64, Vec::<u64>::new(), Vec::<u64>::new(), 0usize);
            for (step, pick) in steps {
                match step {
                    0 => { now += 1; in_flight.push(now); }
                    1 if !in_flight.is_empty() => log.push(in_flight.remove(pick.index(in_flight.len()))),
                    2 => {
                        let floor = in_flight.iter().min().map_or_else(|| { now += 1; now }, |oldest| oldest - 1);
                        frontier.checkpoint(Hlc(floor), Sequence(log.len() as u64));
                    }
                    3 if passed < log.len() => passed += 1 + pick.index(log.len() - passed),
                    _ => {}
                }
                let through = frontier.passed(Sequence(passed as u64));
                for &unpassed in log[passed..].iter().chain(&in_flight) {
                    prop_assert!(Hlc(unpassed) > through);
                }
            }
        }
    }
}
