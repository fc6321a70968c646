//! `read`: local reads of 1 KiB, by a client process on the same machine.
//!
//! Paced: requests fall due on a fixed schedule, spread over several connections; a request's time counts from when it was due, not from
//! when it was sent, so that a stall counts for all that it kept waiting. How late they were sent by the generator's own fault is told.
//! Unpaced: each of many connections sends its next request as soon as it has an answer.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::cluster::{Cluster, PATIENCE};
use crate::latency::Latencies;
use crate::pace::{Schedule, wait_until};
use crate::setup::Setup;
use crate::table::{Table, rate, time};
use crate::wire::{self, Wire};

const VALUE_BYTES: usize = 1024;
const TARGET_P50: Duration = Duration::from_micros(150);
const TARGET_P99: Duration = Duration::from_millis(1);
/// Sent before anything is counted, so that connections and copies in memory are there.
const WARM_UP: Duration = Duration::from_secs(1);

/// The bounds of a run.
#[derive(Debug, Clone, clap::Args)]
pub struct ReadArgs {
    /// Requests a second of the paced part.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: u32,
    /// Seconds of the paced part.
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// Connections of the paced part, a thread each.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub connections: u32,
    /// Keys that are read in turn.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub keys: u32,
    /// Connections of the unpaced parts.
    #[arg(long, value_delimiter = ',', default_value = "16,64")]
    pub unpaced: Vec<u32>,
    /// Seconds of each unpaced part.
    #[arg(long, default_value_t = 5)]
    pub unpaced_seconds: u64,
}

/// What one or more connections saw.
#[derive(Debug, Default)]
struct Seen {
    times: Latencies,
    /// How much after its time each request was sent.
    late: Latencies,
    failed: u64,
}

impl Seen {
    fn add(mut self, other: &Self) -> Self {
        self.times.add(&other.times);
        self.late.add(&other.late);
        self.failed += other.failed;
        self
    }
}

/// Runs it.
///
/// # Errors
/// When the regions cannot be started or the keys not be written.
pub fn run(setup: &Setup, args: &ReadArgs) -> Result<(), Failure> {
    let cluster = Cluster::settled(setup)?;
    let region = cluster.region(0);
    let requests = fill(region.http, args.keys)?;
    paced(region.http, &requests, args, WARM_UP)?;
    let seen = paced(region.http, &requests, args, Duration::from_secs(args.seconds))?;
    let title = format!("A local read of 1 KiB at {} requests a second, {} connections, {} s", args.rate, args.connections, args.seconds);
    println!("{}", paced_table(&title, &seen));
    let mut table = Table::new("Unpaced reads of 1 KiB", &["connections", "requests", "rate", "times", "failed"]);
    for &connections in &args.unpaced {
        let took = Duration::from_secs(args.unpaced_seconds);
        let seen = unpaced(region.http, &requests, connections, took)?;
        let count = seen.times.count();
        table.row([connections.to_string(), count.to_string(), rate(count, took), seen.times.summary(), seen.failed.to_string()]);
    }
    println!("{table}");
    Ok(())
}

fn paced_table(title: &str, seen: &Seen) -> Table {
    let mut table = Table::of_targets(title);
    table.note("requests", seen.times.count().to_string());
    table.at_most("p50", TARGET_P50, seen.times.quantile(0.5));
    table.at_most("p99", TARGET_P99, seen.times.quantile(0.99));
    table.note("p99.9", time(seen.times.quantile(0.999)));
    table.note("max", time(seen.times.max()));
    table.note("sent late by (part of the times above)", seen.late.summary());
    table.none("failed", seen.failed);
    table
}

/// Writes the keys, and gives a request for each.
fn fill(address: SocketAddr, keys: u32) -> Result<Vec<Vec<u8>>, Failure> {
    let mut wire = Wire::connect(address, PATIENCE)?;
    let mut requests = Vec::new();
    for number in 0..keys {
        let path = format!("/v1/kv/data/read/{number:06}");
        let answer = wire.ask(&wire::put(&path, &[b'r'; VALUE_BYTES]))?;
        if !answer.is_ok() {
            return Err(format!("a write was answered with {}", answer.status).into());
        }
        requests.push(wire::get(&path));
    }
    Ok(requests)
}

fn paced(address: SocketAddr, requests: &[Vec<u8>], args: &ReadArgs, took: Duration) -> Result<Seen, Failure> {
    let start = Instant::now() + Duration::from_millis(50);
    lanes(args.connections, |lane| paced_lane(address, requests, Schedule::of_lane(start, args.rate, lane, args.connections), start + took))
}

fn unpaced(address: SocketAddr, requests: &[Vec<u8>], connections: u32, took: Duration) -> Result<Seen, Failure> {
    let end = Instant::now() + took;
    lanes(connections, |lane| unpaced_lane(address, requests, lane, end))
}

/// One thread a lane; what all of them saw.
fn lanes(count: u32, lane: impl Fn(u32) -> Result<Seen, Failure> + Sync) -> Result<Seen, Failure> {
    thread::scope(|scope| {
        let running: Vec<_> = (0..count)
            .map(|number| {
                scope.spawn({
                    let lane = &lane;
                    move || lane(number)
                })
            })
            .collect();
        running.into_iter().try_fold(Seen::default(), |sum, lane| Ok(sum.add(&lane.join().map_err(|_| "a lane panicked")??)))
    })
}

fn paced_lane(address: SocketAddr, requests: &[Vec<u8>], schedule: Schedule, end: Instant) -> Result<Seen, Failure> {
    let (mut wire, mut seen) = (Wire::connect(address, PATIENCE)?, Seen::default());
    for (due, request) in schedule.until(end).zip(requests.iter().cycle()) {
        wait_until(due);
        seen.late.record(due.elapsed());
        ask(&mut wire, address, request, &mut seen)?;
        seen.times.record(due.elapsed());
    }
    Ok(seen)
}

fn unpaced_lane(address: SocketAddr, requests: &[Vec<u8>], lane: u32, end: Instant) -> Result<Seen, Failure> {
    let (mut wire, mut seen) = (Wire::connect(address, PATIENCE)?, Seen::default());
    for request in requests.iter().cycle().skip(lane as usize * 7 % requests.len()) {
        let before = Instant::now();
        if before >= end {
            break;
        }
        ask(&mut wire, address, request, &mut seen)?;
        seen.times.record(before.elapsed());
    }
    Ok(seen)
}

/// One request. What is not the value, or no answer at all, is counted; a broken connection is made anew.
fn ask(wire: &mut Wire, address: SocketAddr, request: &[u8], seen: &mut Seen) -> Result<(), Failure> {
    match wire.ask(request) {
        Ok(answer) if answer.status == 200 && answer.body.len() == VALUE_BYTES => {}
        Ok(_) => seen.failed += 1,
        Err(_) => {
            seen.failed += 1;
            *wire = Wire::connect(address, PATIENCE)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_request_and_a_slow_one_show_in_the_table() {
        let mut seen = Seen { failed: 1, ..Seen::default() };
        (0..100).for_each(|n| seen.times.record(Duration::from_micros(if n < 60 { 100 } else { 2_000 })));
        let text = paced_table("t", &seen).to_string();
        assert!(text.contains("| p50 ") && text.contains("| yes |"), "{text}");
        assert_eq!(text.matches("| NO ").count(), 2, "{text}");
    }

    #[test]
    fn what_lanes_saw_is_added_up() {
        let seen = lanes(3, |lane| {
            let mut seen = Seen { failed: u64::from(lane), ..Seen::default() };
            seen.times.record(Duration::from_millis(1));
            Ok(seen)
        });
        let seen = seen.expect("no lane fails");
        assert_eq!((seen.times.count(), seen.failed), (3, 3));
        assert!(lanes(2, |_| Err("down".into())).is_err());
    }
}
