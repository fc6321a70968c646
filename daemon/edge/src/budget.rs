//! The memory that the bodies of all requests may take together: had at once, or refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::meter::refused;
use crate::problem::{Kind, Problem};

/// When a refused client should try again: by then some bodies are done.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A number of bytes that holders share. Cloning shares it.
#[derive(Debug, Clone)]
pub(crate) struct BodyBudget(Arc<Account>);

#[derive(Debug)]
struct Account {
    bytes_max: u64,
    left: AtomicU64,
}

impl BodyBudget {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self(Arc::new(Account { bytes_max, left: AtomicU64::new(bytes_max) }))
    }

    /// Takes so many bytes, all or none.
    pub(crate) fn hold(&self, bytes: u64) -> Result<Held, Problem> {
        let mut held = Held { budget: self.clone(), bytes: 0 };
        held.hold(bytes)?;
        Ok(held)
    }

    fn take(&self, bytes: u64) -> Result<(), Problem> {
        let taken = self.0.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        taken.map(drop).map_err(|_| too_busy(self.0.bytes_max))
    }

    fn give_back(&self, bytes: u64) {
        self.0.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

fn too_busy(bytes_max: u64) -> Problem {
    refused("body_bytes_in_flight");
    let detail = format!("the bodies of all requests may take {bytes_max} bytes of memory (`limits.body_bytes_in_flight`), and they do");
    Problem { retry_after: Some(RETRY_AFTER), ..Kind::TooBusy.because(detail) }
}

/// Bytes that one request holds. Dropping it gives them back.
#[derive(Debug)]
pub(crate) struct Held {
    budget: BodyBudget,
    bytes: u64,
}

impl Held {
    /// From now on holds so many bytes in all, more or fewer than before. Fewer can always be had; where more cannot, what was held stays.
    pub(crate) fn hold(&mut self, bytes: u64) -> Result<(), Problem> {
        if bytes > self.bytes {
            self.budget.take(bytes - self.bytes)?;
        } else {
            self.budget.give_back(self.bytes - bytes);
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_never_more_than_the_budget_and_comes_back() {
        let budget = BodyBudget::new(100);
        let mut first = budget.hold(60).expect("fits");
        let refused = budget.hold(41).expect_err("does not fit");
        assert_eq!((refused.kind, refused.retry_after), (Kind::TooBusy, Some(RETRY_AFTER)));
        let second = budget.hold(40).expect("fits exactly");
        assert!(first.hold(61).is_err(), "what more was asked for is not there");
        first.hold(10).expect("fewer can always be had");
        drop(second);
        let all = budget.hold(90).expect("all that was given back");
        drop((first, all));
        assert_eq!(budget.0.left.load(Ordering::Relaxed), 100);
    }
}
