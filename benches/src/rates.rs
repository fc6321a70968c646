//! The highest rate that holds: which one to try next, and what is written at that rate in every region beside the probes of
//! `visible`.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::cluster::{Cluster, Region};
use crate::flood::{self, Flooded, Request, Work};

/// Connections that write in each region.
const CONNECTIONS: u32 = 32;
/// Keys that are written in turn in each region.
const KEYS: u64 = 100_000;
const VALUE_BYTES: usize = 100;
/// Before probes begin.
pub const RAMP: Duration = Duration::from_secs(2);
/// A rate was kept when so much of it was written, in hundredths.
const KEPT_PERCENT: u64 = 98;
/// A search ends when what held and what did not are so near, in hundredths.
const NEAR_PERCENT: u32 = 10;
/// The search goes up to so many times the goal.
const ABOVE_MAX: u32 = 2;

/// The rates that were tried, in writes a second through each region, and whether each held.
#[derive(Debug, Clone, Default)]
pub struct Tried(BTreeMap<u32, bool>);

impl Tried {
    /// Notes a rate.
    pub fn note(&mut self, rate: u32, has_held: bool) {
        self.0.insert(rate, has_held);
    }

    /// The highest that held below the lowest that did not; nought when none did.
    #[must_use]
    pub fn held(&self) -> u32 {
        let failed = self.failed().unwrap_or(u32::MAX);
        self.0.iter().filter(|(rate, held)| **held && **rate < failed).map(|(rate, _)| *rate).max().unwrap_or(0)
    }

    fn failed(&self) -> Option<u32> {
        self.0.iter().filter(|(_, held)| !**held).map(|(rate, _)| *rate).min()
    }

    /// The next to try: the goal first, then half as much more while it holds, then between what held and what did not. `None`: it is found.
    #[must_use]
    pub fn next(&self, goal: u32) -> Option<u32> {
        let held = self.held();
        match self.failed() {
            None if self.0.is_empty() => Some(goal),
            None if held >= goal * ABOVE_MAX => None,
            None => Some(held + held / 2),
            Some(failed) if failed - held <= (failed * NEAR_PERCENT / 100).max(1) => None,
            Some(failed) => Some(held + (failed - held) / 2),
        }
    }
}

/// Writes in progress in every region.
#[derive(Debug)]
pub struct Load {
    rate: u32,
    /// When it ends.
    pub end: Instant,
    writers: Vec<(String, thread::JoinHandle<Result<Flooded, Failure>>)>,
}

impl Load {
    /// Writes at `rate` a second through each region, for the ramp and `took`.
    #[must_use]
    pub fn start(cluster: &Cluster, rate: u32, took: Duration) -> Self {
        let start = Instant::now() + Duration::from_millis(50);
        let end = start + RAMP + took;
        let writer = |region: &Region| {
            let request = Request::put(&format!("/v1/kv/data/load/{}/", region.name), &[b'l'; VALUE_BYTES]);
            let address = region.http;
            let work = Work::Paced { keys: KEYS, rate, start, end };
            (region.name.clone(), thread::spawn(move || flood::run(address, CONNECTIONS, &request, work)))
        };
        Self { rate, end, writers: cluster.regions.iter().map(writer).collect() }
    }

    /// Waits for its end: what each region took, and whether the rate was kept everywhere without a failure.
    ///
    /// # Errors
    /// When a connection broke.
    pub fn finish(self) -> Result<(Vec<(String, Flooded)>, bool), Failure> {
        let mut seen = Vec::new();
        for (name, writer) in self.writers {
            seen.push((name, writer.join().map_err(|_| "a writer panicked")??));
        }
        let is_kept = seen.iter().all(|(_, flooded)| is_kept(self.rate, flooded));
        Ok((seen, is_kept))
    }
}

fn is_kept(rate: u32, flooded: &Flooded) -> bool {
    let wanted = f64::from(rate) * flooded.took.as_secs_f64() * KEPT_PERCENT as f64 / 100.0;
    flooded.failed == 0 && flooded.times.count() as f64 >= wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(goal: u32, holds: impl Fn(u32) -> bool) -> (u32, usize) {
        let mut tried = Tried::default();
        let mut runs = 0;
        while let Some(rate) = tried.next(goal) {
            tried.note(rate, holds(rate));
            runs += 1;
        }
        (tried.held(), runs)
    }

    #[test]
    fn the_search_comes_near_the_highest_rate_in_few_runs() {
        for most in [137, 900, 2_600, 4_999, 5_000, 7_300] {
            let (held, runs) = search(5_000, |rate| rate <= most);
            assert!(held <= most && held >= most - most / 5, "{most}: {held}");
            assert!(runs <= 12, "{most}: {runs} runs");
        }
        assert_eq!(search(5_000, |_| true).0, 11_250);
        assert_eq!(search(5_000, |_| false).0, 0);
    }

    #[test]
    fn a_rate_that_was_not_written_was_not_kept() {
        let mut flooded = Flooded { took: Duration::from_secs(1), ..Flooded::default() };
        (0..980).for_each(|_| flooded.times.record(Duration::from_millis(1)));
        assert!(is_kept(1000, &flooded));
        assert!(!is_kept(1010, &flooded));
        flooded.failed = 1;
        assert!(!is_kept(1000, &flooded));
    }
}
