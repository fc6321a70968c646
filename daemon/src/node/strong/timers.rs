//! Timers of proposers: one task waits for the earliest, instead of one for each.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Mutex;
use std::time::Duration;

use isochrone_quorum::Timer;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::node::core::lock;

/// Timers that have been asked for.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: Mutex<BinaryHeap<Reverse<(Instant, Timer)>>>,
    earlier: Notify,
}

impl Timers {
    /// Asks for a timer.
    pub(crate) fn after(&self, micros: u64, timer: Timer) {
        let at = Instant::now() + Duration::from_micros(micros);
        let mut heap = lock(&self.heap);
        let is_earliest = heap.peek().is_none_or(|Reverse((first, _))| at < *first);
        heap.push(Reverse((at, timer)));
        drop(heap);
        if is_earliest {
            self.earlier.notify_one();
        }
    }

    /// Waits until some are due, and takes them.
    pub(crate) async fn due(&self) -> Vec<Timer> {
        loop {
            let first = lock(&self.heap).peek().map(|Reverse((at, _))| *at);
            let earlier = self.earlier.notified();
            match first {
                None => earlier.await,
                Some(at) if at <= Instant::now() => return self.take(Instant::now()),
                Some(at) => {
                    let _ = tokio::time::timeout_at(at, earlier).await;
                }
            }
        }
    }

    fn take(&self, now: Instant) -> Vec<Timer> {
        let mut heap = lock(&self.heap);
        let mut due = Vec::new();
        while let Some(Reverse((at, timer))) = heap.peek().copied() {
            if at > now {
                break;
            }
            heap.pop();
            due.push(timer);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use isochrone_quorum::{Asker, RoundId, Tag};

    use super::*;

    fn timer(number: u64) -> Timer {
        Timer::Step(Tag { round: RoundId::new(Asker::Proposer, number), step: 0 })
    }

    #[tokio::test(start_paused = true)]
    async fn timers_fire_in_the_order_of_their_times_and_an_earlier_one_is_not_missed() {
        let timers = std::sync::Arc::new(Timers::default());
        timers.after(500_000, timer(1));
        let waiting = tokio::spawn({
            let timers = std::sync::Arc::clone(&timers);
            async move { (timers.due().await, Instant::now()) }
        });
        let began = Instant::now();
        tokio::time::sleep(Duration::from_millis(100)).await;
        timers.after(100_000, timer(2));
        let (due, at) = waiting.await.expect("it ends");
        assert_eq!((due, at - began), (vec![timer(2)], Duration::from_millis(200)));
        assert_eq!(timers.due().await, vec![timer(1)]);
    }
}
