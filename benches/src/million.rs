//! `million`: one daemon with a million keys of 100 bytes: how fast they are loaded, what memory and disk they take, how soon it
//! starts with them.
//!
//! They are loaded by `POST /v1/batch` on a few connections, every line acknowledged after its sync. Start counts from the start of the process to the
//! first 200 of `/readyz` with an open client listener, after an orderly stop and after SIGKILL; then keys all over the store are read back.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::batch::{self, Shape};
use crate::process::{disk_bytes, resident_bytes};
use crate::setup::Setup;
use crate::single::{Recipe, Started};
use crate::table::{Table, bytes, rate, time};
use crate::wire::{self, Wire};

const VALUE_BYTES: usize = 100;
/// A read may take so long on a slow disk.
const PATIENCE: Duration = Duration::from_secs(120);
/// Keys that are read back after each start.
const SAMPLE: u64 = 10_000;
/// A prime, so that steps of it meet all keys.
const STRIDE: u64 = 7_919;

/// The bounds of a run.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct MillionArgs {
    /// Keys.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub keys: u64,
    /// Lines of a batch.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub batch: u64,
    /// Connections that load.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub connections: u32,
}

/// Runs it.
///
/// # Errors
/// When the daemon cannot be started, or a batch is refused again and again.
pub fn run(setup: &Setup, args: MillionArgs) -> Result<(), Failure> {
    let scratch = setup.scratch()?;
    let recipe = Recipe::new(setup, scratch.path())?;
    let mut table = Table::of_targets(format!("One daemon with {} keys of {VALUE_BYTES} bytes", args.keys));
    let mut started = recipe.start()?;
    table.note("start, empty", time(started.ready_after));
    table.note("memory, empty (VmRSS)", resident(&started)?);
    let before = Instant::now();
    load(recipe.http, args).map_err(|failure| explained(&failure, &mut started))?;
    let took = before.elapsed();
    let title = format!("load, batches of {}, {} connections", args.batch, args.connections);
    table.note(title, format!("{}, {}", time(took), rate(args.keys, took)));
    table.note("memory, loaded", resident(&started)?);
    let before = Instant::now();
    started.daemon.stop();
    table.note("orderly stop", time(before.elapsed()));
    table.note("disk", disk(&recipe.data)?);
    let mut started = restart(&recipe, args.keys, "after an orderly stop", &mut table)?;
    started.daemon.kill();
    restart(&recipe, args.keys, "after SIGKILL", &mut table)?;
    println!("{table}");
    Ok(())
}

fn restart(recipe: &Recipe, keys: u64, when: &str, table: &mut Table) -> Result<Started, Failure> {
    let mut started = recipe.start()?;
    table.judge(format!("start {when}"), "stated", time(started.ready_after), true);
    table.judge(format!("memory {when}"), "stated", resident(&started)?, true);
    let (absent, count) = absent(recipe.http, keys).map_err(|failure| explained(&failure, &mut started))?;
    table.none(format!("of {count} keys read back {when}: absent or wrong"), absent);
    table.note(format!("memory, these read, {when}"), resident(&started)?);
    Ok(started)
}

/// A failure, with whether the daemon still runs and what it last said.
fn explained(failure: &Failure, started: &mut Started) -> Failure {
    let state = if started.daemon.has_ended() { "has ended" } else { "still runs" };
    format!("{failure}; the daemon {state}:\n{}", started.daemon.last_words()).into()
}

fn resident(started: &Started) -> Result<String, Failure> {
    Ok(bytes(resident_bytes(started.daemon.pid())?))
}

fn disk(data: &Path) -> Result<String, Failure> {
    Ok(bytes(disk_bytes(data)?))
}

fn key(number: u64) -> String {
    format!("million/{number:012}")
}

/// The value of a key: 100 bytes that are no other key's.
fn value(number: u64) -> String {
    format!("{number:0>VALUE_BYTES$}")
}

fn load(address: SocketAddr, args: MillionArgs) -> Result<(), Failure> {
    let shape = Shape { lines: args.batch, connections: args.connections };
    batch::load(address, 0..args.keys, shape, &|number| batch::put(&key(number), &value(number)))
}

/// How many of a sample of the keys are not there as they were written, and how large the sample is.
fn absent(address: SocketAddr, keys: u64) -> Result<(u64, u64), Failure> {
    let mut wire = Wire::connect(address, PATIENCE)?;
    let (mut absent, count) = (0, SAMPLE.min(keys));
    for number in sample(keys, count) {
        let answer = wire.ask(&wire::get(&format!("/v1/kv/data/{}", key(number))))?;
        absent += u64::from(answer.status != 200 || answer.body != value(number).as_bytes());
    }
    Ok((absent, count))
}

fn sample(keys: u64, count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(move |number| (number * STRIDE) % keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_100_bytes_and_differ() {
        assert_eq!(value(0).len(), VALUE_BYTES);
        assert_eq!(value(999_999).len(), VALUE_BYTES);
        assert_ne!(value(1), value(10));
    }

    #[test]
    fn a_sample_is_spread_over_all_keys() {
        let mut seen: Vec<u64> = sample(1_000_000, 10_000).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 10_000);
        assert!(seen.iter().filter(|&&n| n >= 500_000).count() > 4_000);
        assert_eq!(sample(3, 3).collect::<Vec<_>>(), [0, 2, 1]);
    }
}
