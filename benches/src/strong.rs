//! `strong`: strong writes and reads a second on three daemons of this machine, without delays, beside an etcd of three members.
//!
//! Both clusters run all the time, on the same disk, and are asked in turn, so that the machine's moods meet both. One client (`flood`) drives
//! them, over HTTP/1.1 ours and over gRPC etcd, whose own protocol it is: 64 connections, one request at a time on each, values of 256 bytes. Connections are
//! spread over all daemons, and over all members; a second row of etcd's goes to its leader alone, which saves its clients a step, and the better of the two
//! counts. Each round writes new keys, then writes keys at random that exist, then reads such keys, linearizably all of it: etcd's reads are not serializable
//! ones. The processor time is that of the three processes together.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::cluster::Cluster;
use crate::etcd::{self, Etcd};
use crate::flood::{self, Flooded, Request, Work};
use crate::process::cpu_time;
use crate::setup::Setup;
use crate::table::{Table, rate, time};

const VALUE_BYTES: usize = 256;
/// Before each counted stretch, so that both are warm.
const WARM_UP: Duration = Duration::from_millis(500);
const KEYS: &str = "bench/strong/";

/// The bounds of a run.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct StrongArgs {
    /// Rounds; in each every side is asked for everything.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Seconds of each stretch.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// Connections.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub connections: u32,
    /// Only our own side, such as beneath a profiler.
    #[arg(long)]
    pub alone: bool,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    NewKeys,
    Overwrites,
    Reads,
}

const PHASES: [Phase; 3] = [Phase::NewKeys, Phase::Overwrites, Phase::Reads];

impl Phase {
    const fn as_str(self) -> &'static str {
        match self {
            Self::NewKeys => "writes of new keys",
            Self::Overwrites => "writes of keys that exist",
            Self::Reads => "reads",
        }
    }

    /// Our rate over etcd's, at least.
    const fn target(self) -> f64 {
        match self {
            Self::NewKeys | Self::Overwrites => 2.0,
            Self::Reads => 3.0,
        }
    }
}

/// Stretches of one phase together.
#[derive(Debug, Clone, Default)]
struct Stretch {
    flooded: Flooded,
    cpu: Duration,
}

impl Stretch {
    fn add(&mut self, other: &Flooded, cpu: Duration) {
        self.flooded.times.add(&other.times);
        self.flooded.failed += other.failed;
        self.flooded.last_failure = self.flooded.last_failure.take().or_else(|| other.last_failure.clone());
        self.flooded.took += other.took;
        self.cpu += cpu;
    }

    fn good(&self) -> u64 {
        self.flooded.times.count() - self.flooded.failed
    }

    fn rate(&self) -> f64 {
        self.good() as f64 / self.flooded.took.as_secs_f64().max(1e-9)
    }
}

/// A cluster to be measured, asked in one way.
struct Side {
    name: String,
    addresses: Vec<SocketAddr>,
    pids: Vec<u32>,
    put: Request,
    get: Request,
    /// Keys that were written so far.
    keys: u64,
    seen: [Stretch; 3],
}

/// Runs it.
///
/// # Errors
/// When a cluster cannot be started, or a connection breaks.
pub fn run(setup: &Setup, args: StrongArgs) -> Result<(), Failure> {
    let scratch = setup.scratch()?;
    let cluster = Cluster::settled_with(setup, &["emulation.enabled=false".to_owned()])?;
    cluster.await_strong()?;
    let etcd = if args.alone { None } else { Some(Etcd::start(scratch.path())?) };
    let mut sides = vec![ours(&cluster)];
    if let Some(etcd) = &etcd {
        sides.extend(theirs(etcd)?);
    }
    for _ in 0..args.rounds {
        for phase in PHASES {
            sides.iter_mut().try_for_each(|side| side.measure(phase, args))?;
        }
    }
    println!("{}", told(&sides, args));
    if let [ours, theirs @ ..] = sides.as_slice()
        && !theirs.is_empty()
    {
        println!("{}", compared(ours, theirs));
    }
    Ok(())
}

fn ours(cluster: &Cluster) -> Side {
    let path = format!("/v1/kv/strong/{KEYS}");
    Side {
        name: "Isochrone".to_owned(),
        addresses: cluster.regions.iter().map(|region| region.http).collect(),
        pids: cluster.regions.iter().map(|region| region.pid).collect(),
        put: Request::put(&path, &[b's'; VALUE_BYTES]),
        get: Request::http("GET", &Request::placed(&path), "", b""),
        keys: 0,
        seen: Default::default(),
    }
}

fn theirs(etcd: &Etcd) -> Result<[Side; 2], Failure> {
    let leader = etcd.leader().ok_or("etcd has lost its leader")?;
    let side = |name: String, prefix: &str, addresses| Side {
        name,
        addresses,
        pids: etcd.pids(),
        put: etcd::put(prefix, &[b's'; VALUE_BYTES]),
        get: etcd::range(prefix),
        keys: 0,
        seen: Default::default(),
    };
    let all = side(etcd.version.clone(), KEYS, etcd.addresses());
    Ok([all, side(format!("{}, its leader", etcd.version), "bench/leader/", vec![leader])])
}

impl Side {
    fn measure(&mut self, phase: Phase, args: StrongArgs) -> Result<(), Failure> {
        self.flood(phase, args, WARM_UP)?;
        let before = self.cpu()?;
        let flooded = self.flood(phase, args, Duration::from_secs(args.seconds))?;
        let cpu = self.cpu()?.saturating_sub(before);
        self.seen[phase as usize].add(&flooded, cpu);
        Ok(())
    }

    fn flood(&mut self, phase: Phase, args: StrongArgs, took: Duration) -> Result<Flooded, Failure> {
        let end = Instant::now() + took;
        let (request, work) = match phase {
            Phase::NewKeys => (&self.put, Work::InTurn { from: self.keys, end }),
            Phase::Overwrites => (&self.put, Work::Random { keys: self.keys.max(1), end }),
            Phase::Reads => (&self.get, Work::Random { keys: self.keys.max(1), end }),
        };
        let flooded = flood::run_over(&self.addresses, args.connections, request, work)?;
        if phase == Phase::NewKeys {
            self.keys += flooded.times.count();
        }
        Ok(flooded)
    }

    fn cpu(&self) -> Result<Duration, Failure> {
        self.pids.iter().map(|&pid| cpu_time(pid)).sum()
    }
}

fn told(sides: &[Side], args: StrongArgs) -> Table {
    let title = format!(
        "Strong operations on three daemons without delays, {} connections, {VALUE_BYTES}-byte values, {} rounds of {} s each",
        args.connections, args.rounds, args.seconds
    );
    let mut table = Table::new(title, &["what", "of", "done", "rate", "times", "CPU each", "failed"]);
    for phase in PHASES {
        for side in sides {
            let seen = &side.seen[phase as usize];
            let each = seen.cpu.as_secs_f64() / seen.good().max(1) as f64;
            let failure =
                seen.flooded.last_failure.as_ref().map_or_else(String::new, |last| format!(", the last: {}", last.escape_default()));
            table.row([
                phase.as_str().to_owned(),
                side.name.clone(),
                seen.good().to_string(),
                rate(seen.good(), seen.flooded.took),
                seen.flooded.times.summary(),
                time(Duration::from_secs_f64(each)),
                format!("{}{failure}", seen.flooded.failed),
            ]);
        }
    }
    table
}

fn compared(ours: &Side, theirs: &[Side]) -> Table {
    let mut table = Table::of_targets("Strong operations beside etcd's better row");
    for phase in PHASES {
        let best = theirs.iter().map(|side| side.seen[phase as usize].rate()).fold(0.0, f64::max);
        let ratio = ours.seen[phase as usize].rate() / best.max(1e-9);
        let target = phase.target();
        table.judge(format!("{}: our rate / etcd's", phase.as_str()), format!(">= {target:.2}"), format!("{ratio:.2}"), ratio >= target);
    }
    let failed = ours.seen.iter().map(|seen| seen.flooded.failed).sum();
    table.none("our operations that failed", failed);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(rates: [u64; 3], failed: u64) -> Side {
        let seen = rates.map(|rate| {
            let mut flooded = Flooded { took: Duration::from_secs(1), failed, ..Flooded::default() };
            (0..rate + failed).for_each(|_| flooded.times.record(Duration::from_millis(1)));
            Stretch { flooded, cpu: Duration::ZERO }
        });
        let request = Request::put("/", b"");
        Side { name: "x".to_owned(), addresses: Vec::new(), pids: Vec::new(), put: request.clone(), get: request, keys: 0, seen }
    }

    #[test]
    fn the_better_of_the_other_rows_counts() {
        let text = compared(&side([200, 400, 900], 0), &[side([100, 100, 100], 0), side([50, 201, 299], 0)]).to_string();
        let verdicts: Vec<bool> = text.lines().filter(|line| line.contains(">=")).map(|line| line.contains("| yes |")).collect();
        assert_eq!(verdicts, [true, false, true], "{text}");
    }

    #[test]
    fn what_failed_is_not_done() {
        assert_eq!(side([7, 7, 7], 3).seen[0].good(), 7);
        assert!(compared(&side([7, 7, 7], 3), &[side([1, 1, 1], 0)]).to_string().contains("| NO "));
    }
}
