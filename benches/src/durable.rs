//! `durable`: durable writes a second on one daemon, beside a Redis that syncs every write too.
//!
//! Both are on the same disk, each by itself: `isochrone serve` with a PUT of 100 bytes in `data`, which is acknowledged after its sync, and
//! `redis-server --appendonly yes --appendfsync always` without snapshots, with a SET of the same keys and values. One client (`flood`) drives
//! both in turn: 64 connections, no pipelining, keys at random, so that the machine's moods meet both. The processor time is that of the server's
//! process, from `/proc`, all of its threads; that of the client is told beside it, since it shares the cores.

use std::time::{Duration, Instant};

use crate::Failure;
use crate::admin::Scrape;
use crate::flood::{self, Flooded, Request, Work};
use crate::process::cpu_time;
use crate::resp::{Redis, Sync};
use crate::setup::Setup;
use crate::single::{Recipe, Started};
use crate::table::{Table, rate, time};

const VALUE_BYTES: usize = 100;
/// Before each counted stretch, so that both are warm.
const WARM_UP: Duration = Duration::from_secs(1);

/// The bounds of a run.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct DurableArgs {
    /// Stretches of each.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Seconds of each stretch.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// Connections.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub connections: u32,
    /// Keys.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub keys: u64,
    /// Only our own side, such as beneath a profiler.
    #[arg(long)]
    pub alone: bool,
}

/// One stretch, or several.
#[derive(Debug, Clone, Default)]
struct Stretch {
    flooded: Flooded,
    server_cpu: Duration,
    client_cpu: Duration,
    /// Syncs of the disk, where the server counts them.
    syncs: Option<u64>,
}

/// A server to be measured.
struct Side {
    name: String,
    address: std::net::SocketAddr,
    pid: u32,
    request: Request,
    /// Where it tells how often it synced.
    admin: Option<std::net::SocketAddr>,
    stretches: Vec<Stretch>,
}

/// Runs it.
///
/// # Errors
/// When a server cannot be started, or a connection breaks.
pub fn run(setup: &Setup, args: DurableArgs) -> Result<(), Failure> {
    let scratch = setup.scratch()?;
    let recipe = Recipe::new(setup, scratch.path())?;
    let started = recipe.start()?;
    let redis = if args.alone { None } else { Some(Redis::start(scratch.path(), Sync::Always)?) };
    let mut sides = vec![ours(&recipe, &started)];
    sides.extend(redis.as_ref().map(theirs));
    for _ in 0..args.rounds {
        sides.iter_mut().try_for_each(|side| side.measure(args))?;
    }
    let columns = ["what", "round", "writes", "rate", "times", "server CPU a write", "client CPU a write", "writes a sync", "failed"];
    let mut table = Table::new(
        format!("Durable writes of {VALUE_BYTES} bytes, {} connections, {} s a round, {} keys", args.connections, args.seconds, args.keys),
        &columns,
    );
    for round in 0..args.rounds as usize {
        sides.iter().for_each(|side| table.row(cells(&side.name, &(round + 1).to_string(), &side.stretches[round])));
    }
    sides.iter().for_each(|side| table.row(cells(&side.name, "all", &side.sum())));
    println!("{table}");
    if let [ours, theirs] = sides.as_slice() {
        println!("{}", compared(&ours.sum(), &theirs.sum()));
    }
    Ok(())
}

fn ours(recipe: &Recipe, started: &Started) -> Side {
    let request = Request::put("/v1/kv/data/durable/", &[b'd'; VALUE_BYTES]);
    let admin = Some(recipe.admin);
    Side { name: "Isochrone".to_owned(), address: recipe.http, pid: started.daemon.pid(), request, admin, stretches: Vec::new() }
}

fn theirs(redis: &Redis) -> Side {
    let request = Request::set("durable/", &[b'd'; VALUE_BYTES]);
    let pid = redis.process.pid();
    Side { name: redis.version.clone(), address: redis.address, pid, request, admin: None, stretches: Vec::new() }
}

impl Side {
    fn measure(&mut self, args: DurableArgs) -> Result<(), Failure> {
        self.flood(args, WARM_UP)?;
        let before = (cpu_time(self.pid)?, cpu_time(std::process::id())?, self.syncs());
        let flooded = self.flood(args, Duration::from_secs(args.seconds))?;
        let (server_cpu, client_cpu) = (cpu_time(self.pid)? - before.0, cpu_time(std::process::id())? - before.1);
        let syncs = self.syncs().zip(before.2).map(|(after, before)| after.saturating_sub(before));
        self.stretches.push(Stretch { flooded, server_cpu, client_cpu, syncs });
        Ok(())
    }

    fn flood(&self, args: DurableArgs, took: Duration) -> Result<Flooded, Failure> {
        let end = Instant::now() + took;
        flood::run(self.address, args.connections, &self.request, Work::Random { keys: args.keys, end })
    }

    fn syncs(&self) -> Option<u64> {
        Some(Scrape::of(self.admin?).ok()?.sum("isochrone_store_syncs_total", ""))
    }

    fn sum(&self) -> Stretch {
        self.stretches.iter().fold(Stretch::default(), |sum, one| sum.add(one))
    }
}

impl Stretch {
    fn add(mut self, other: &Self) -> Self {
        self.flooded.times.add(&other.flooded.times);
        self.flooded.failed += other.flooded.failed;
        self.flooded.took += other.flooded.took;
        self.flooded.last_failure = self.flooded.last_failure.or_else(|| other.flooded.last_failure.clone());
        self.server_cpu += other.server_cpu;
        self.client_cpu += other.client_cpu;
        self.syncs = other.syncs.map(|syncs| syncs + self.syncs.unwrap_or(0));
        self
    }

    /// Writes that were acknowledged.
    fn writes(&self) -> u64 {
        self.flooded.times.count() - self.flooded.failed
    }

    fn rate(&self) -> f64 {
        self.writes() as f64 / self.flooded.took.as_secs_f64().max(1e-9)
    }

    fn server_cpu_each(&self) -> Duration {
        each(self.server_cpu, self.writes())
    }
}

fn each(time: Duration, count: u64) -> Duration {
    Duration::from_secs_f64(time.as_secs_f64() / count.max(1) as f64)
}

fn cells(name: &str, round: &str, stretch: &Stretch) -> Vec<String> {
    let writes = stretch.writes();
    let a_sync = stretch.syncs.map_or_else(|| "not told".to_owned(), |syncs| format!("{:.1}", writes as f64 / syncs.max(1) as f64));
    let failure = stretch.flooded.last_failure.as_ref().map_or_else(String::new, |last| format!(", the last: {}", last.escape_default()));
    vec![
        name.to_owned(),
        round.to_owned(),
        writes.to_string(),
        rate(writes, stretch.flooded.took),
        stretch.flooded.times.summary(),
        time(stretch.server_cpu_each()),
        time(each(stretch.client_cpu, writes)),
        a_sync,
        format!("{}{failure}", stretch.flooded.failed),
    ]
}

fn compared(ours: &Stretch, theirs: &Stretch) -> Table {
    let mut table = Table::of_targets("Durable writes beside Redis with appendfsync always, all rounds");
    let ratio = ours.rate() / theirs.rate().max(1e-9);
    table.judge("our rate / Redis' rate", ">= 1.00", format!("{ratio:.2}"), ratio >= 1.0);
    let cpu = ours.server_cpu_each().as_secs_f64() / theirs.server_cpu_each().as_secs_f64().max(1e-9);
    table.note("our server CPU a write / Redis'", format!("{cpu:.2}"));
    table.none("our writes that failed", ours.flooded.failed);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(writes: u64, cpu_ms: u64, failed: u64) -> Stretch {
        let mut flooded = Flooded { took: Duration::from_secs(1), failed, ..Flooded::default() };
        (0..writes + failed).for_each(|_| flooded.times.record(Duration::from_millis(1)));
        Stretch { flooded, server_cpu: Duration::from_millis(cpu_ms), client_cpu: Duration::ZERO, syncs: Some(writes / 10) }
    }

    #[test]
    fn only_what_was_acknowledged_counts() {
        let sum = stretch(100, 10, 0).add(&stretch(300, 10, 50));
        assert_eq!((sum.writes(), sum.rate().round() as u64), (400, 200));
        assert_eq!(sum.server_cpu_each(), Duration::from_micros(50));
        assert_eq!(cells("x", "all", &sum)[7], "10.0");
    }

    #[test]
    fn fewer_writes_than_redis_is_a_missed_target() {
        let text = compared(&stretch(90, 10, 0), &stretch(100, 10, 0)).to_string();
        assert!(text.contains("0.90") && text.contains("| NO "), "{text}");
        assert!(!compared(&stretch(101, 10, 0), &stretch(100, 10, 0)).to_string().contains("| NO "));
    }
}
