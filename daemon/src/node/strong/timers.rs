//! What is to be done later: one task waits for the earliest, instead of one for each.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use isochrone_quorum::{Member, Request, Timer};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::node::core::lock;

/// What is due at some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Due {
    /// A timer of the proposer.
    Timer(Timer),
    /// A read that was held back, since nearer replicas are likely to do; to be sent if they did not (M8).
    Hedge {
        /// To whom.
        to: Member,
        /// What.
        request: Box<Request>,
    },
}

/// Everything that is due later, in the order of time, and of asking.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    queue: Mutex<Queue>,
    earlier: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    due: BTreeMap<(Instant, u64), Due>,
    last: u64,
}

impl Timers {
    /// Asks for something later.
    pub(crate) fn after(&self, delay: Duration, what: Due) {
        let mut queue = lock(&self.queue);
        queue.last += 1;
        let place = (Instant::now() + delay, queue.last);
        let is_earliest = queue.due.first_key_value().is_none_or(|(first, _)| place < *first);
        queue.due.insert(place, what);
        drop(queue);
        if is_earliest {
            self.earlier.notify_one();
        }
    }

    /// Waits until something is due, and takes it.
    pub(crate) async fn due(&self) -> Vec<Due> {
        loop {
            let first = lock(&self.queue).due.first_key_value().map(|((at, _), _)| *at);
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

    fn take(&self, now: Instant) -> Vec<Due> {
        let mut queue = lock(&self.queue);
        let later = queue.due.split_off(&(now, u64::MAX));
        std::mem::replace(&mut queue.due, later).into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use isochrone_quorum::{Asker, RoundId, Tag};

    use super::*;

    fn timer(number: u64) -> Due {
        Due::Timer(Timer::Step(Tag { round: RoundId::new(Asker::Proposer, number), step: 0 }))
    }

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_due_comes_in_the_order_of_its_times_and_what_becomes_due_earlier_is_not_missed() {
        let timers = Arc::new(Timers::default());
        timers.after(ms(500), timer(1));
        let waiting = tokio::spawn({
            let timers = Arc::clone(&timers);
            async move { (timers.due().await, Instant::now()) }
        });
        let began = Instant::now();
        tokio::time::sleep(ms(100)).await;
        timers.after(ms(100), timer(2));
        let (due, at) = waiting.await.expect("it ends");
        assert_eq!((due, at - began), (vec![timer(2)], ms(200)));
        assert_eq!(timers.due().await, vec![timer(1)]);
    }
}
