//! The retry budget (rule M8): retries are a share of the calls, so that a region that answers slowly is not stormed by its callers.

use std::sync::atomic::{AtomicU32, Ordering};

/// What one call or retry is worth in the bucket: percents need whole numbers.
const WHOLE: u32 = 100;

/// A bucket of tokens: every call puts a share of a token in, every retry takes a whole one out.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    /// In hundredths of a retry.
    tokens: AtomicU32,
    tokens_max: u32,
    percent: u32,
}

impl RetryBudget {
    /// A full bucket: `burst` retries may be saved up, and `percent` of the calls may be tried again.
    pub(crate) fn new(percent: u32, burst: u32) -> Self {
        let tokens_max = burst.saturating_mul(WHOLE);
        Self { tokens: AtomicU32::new(tokens_max), tokens_max, percent }
    }

    /// A call was made.
    pub(crate) fn deposit(&self) {
        let add = |tokens: u32| Some(tokens.saturating_add(self.percent).min(self.tokens_max));
        let _ = self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Whether a retry may be made; it is then counted.
    pub(crate) fn withdraw(&self) -> bool {
        self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tokens| tokens.checked_sub(WHOLE)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m8_retries_are_at_most_a_tenth_of_the_calls_beyond_the_burst() {
        let budget = RetryBudget::new(10, 10);
        let mut retries = 0;
        for _ in 0..1000 {
            budget.deposit();
            retries += u32::from(budget.withdraw());
        }
        assert!((100..=110).contains(&retries), "{retries}");
    }

    #[test]
    fn a_quiet_time_saves_up_no_more_than_the_burst() {
        let budget = RetryBudget::new(10, 3);
        (0..1000).for_each(|_| budget.deposit());
        assert_eq!((0..10).filter(|_| budget.withdraw()).count(), 3);
    }
}
