//! `contend`: ten clients in three regions write *one* strong key, each its next write when it has the answer to the last.
//!
//! First blind writes, then compare-and-set loops: a client that is told 412 reads the key and tries again, and only what succeeds counts for it. Nobody
//! may starve: the slowest client does at least a fifth of what the fastest does; and 99 of 100 blind writes take less than twelve floors of their region. The
//! loops are told beside that: who is near the owner wins races by the nature of such loops.

use std::thread;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::cluster::{Cluster, PATIENCE, Region};
use crate::latency::Latencies;
use crate::setup::Setup;
use crate::table::{Table, time};
use crate::wire::{self, Wire};

const CLIENTS: u32 = 10;
/// A client's share of what the fastest did, at least.
const FAIR: f64 = 0.2;
const FLOORS: u32 = 12;

/// The bounds of a run.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct ContendArgs {
    /// Seconds of each kind of writes.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
}

/// What one client saw.
#[derive(Debug, Default)]
struct Seen {
    region: String,
    /// Of every answered write.
    times: Latencies,
    done: u64,
    /// Preconditions that failed.
    beaten: u64,
    refused: u64,
    last_refusal: Option<String>,
}

/// Runs it.
///
/// # Errors
/// When the regions cannot be started, or a connection breaks.
pub fn run(setup: &Setup, args: ContendArgs) -> Result<(), Failure> {
    let cluster = Cluster::settled(setup)?;
    cluster.await_strong()?;
    let title = format!("{CLIENTS} clients in three regions write one key, {} s of each kind", args.seconds);
    let mut table = Table::of_targets(title);
    for (name, loops) in [("blind writes", false), ("compare-and-set loops", true)] {
        let seen = all(&cluster, loops, Instant::now() + Duration::from_secs(args.seconds))?;
        told(&mut table, &cluster, name, &seen, !loops);
    }
    println!("{table}");
    Ok(())
}

fn all(cluster: &Cluster, loops: bool, end: Instant) -> Result<Vec<Seen>, Failure> {
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || client(cluster.region(number), loops, end))).collect();
        clients.into_iter().map(|client| client.join().unwrap_or_else(|_| Err("a client panicked".into()))).collect()
    })
}

fn client(region: &Region, loops: bool, end: Instant) -> Result<Seen, Failure> {
    let path = if loops { "/v1/kv/strong/contend/loops" } else { "/v1/kv/strong/contend/blind" };
    let mut wire = Wire::connect(region.http, PATIENCE)?;
    let mut seen = Seen { region: region.name.clone(), ..Seen::default() };
    let mut etag: Option<String> = None;
    while Instant::now() < end {
        let condition = match (&etag, loops) {
            (_, false) => String::new(),
            (Some(etag), true) => format!("If-Match: {etag}\r\n"),
            (None, true) => "If-None-Match: *\r\n".to_owned(),
        };
        let since = Instant::now();
        let answer = wire.ask(&wire::with_body("PUT", path, &condition, region.name.as_bytes()))?;
        seen.times.record(since.elapsed());
        match answer.status {
            412 => {
                seen.beaten += 1;
                etag = wire.ask(&wire::get(path))?.field("etag").map(str::to_owned);
            }
            _ if answer.is_ok() => {
                seen.done += 1;
                etag = answer.field("etag").map(str::to_owned);
            }
            status => {
                seen.refused += 1;
                seen.last_refusal = Some(format!("{status} {}", String::from_utf8_lossy(answer.body)));
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
    Ok(seen)
}

fn told(table: &mut Table, cluster: &Cluster, name: &str, seen: &[Seen], is_judged: bool) {
    for region in &cluster.regions {
        let (mut times, mut done, mut beaten) = (Latencies::default(), Vec::new(), 0);
        for one in seen.iter().filter(|one| one.region == region.name) {
            times.add(&one.times);
            done.push(one.done.to_string());
            beaten += one.beaten;
        }
        table.note(format!("{name}, {}: done by each client; beaten", region.name), format!("{}; {beaten}", done.join(", ")));
        table.note(format!("{name}, {}: times", region.name), times.summary());
        if is_judged {
            let (bound, p99) = (cluster.floor(&region.name) * FLOORS, times.quantile(0.99));
            table.judge(format!("{name}, {}: p99", region.name), format!("< {}", time(bound)), time(p99), p99 < bound);
        }
    }
    let share = share(seen);
    let what = format!("{name}: the slowest client / the fastest");
    if is_judged {
        table.judge(what, format!(">= {FAIR:.2}"), format!("{share:.2}"), share >= FAIR);
    } else {
        table.note(what, format!("{share:.2}"));
    }
    table.none(format!("{name}: refused"), seen.iter().map(|one| one.refused).sum());
    if let Some(last) = seen.iter().find_map(|one| one.last_refusal.as_ref()) {
        println!("{name}: refused with {}\n", last.escape_default());
    }
}

/// What the slowest did, by what the fastest did.
fn share(seen: &[Seen]) -> f64 {
    let done = || seen.iter().map(|one| one.done as f64);
    done().fold(f64::INFINITY, f64::min) / done().fold(1.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_starved_client_is_enough() {
        let of = |done: &[u64]| share(&done.iter().map(|&done| Seen { done, ..Seen::default() }).collect::<Vec<_>>());
        assert!(of(&[10, 50, 30]) >= FAIR);
        assert!(of(&[9, 50, 30]) < FAIR);
        assert!(of(&[0, 0]) < FAIR);
    }
}
