//! `visible`: how soon a write in one region is readable in every other one.
//!
//! Every write is of a new key, and every other region is asked for it until it answers 200 from its own copy. The time counts from before
//! the write is sent to after the first answer that has it: the write's own disk sync, the wire, the receiver's work, the steps in which it
//! is asked (200 us) and the HTTP of both are in it. The one-way delay is then taken off. All regions write at once, each one write at
//! a time, the next when all others have the last, so that nothing but single writes is measured.

use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::cluster::{Cluster, PATIENCE, Region};
use crate::latency::{Latencies, rank};
use crate::pace::wait_until;
use crate::setup::Setup;
use crate::table::{Table, signed_ms, verdict};
use crate::wire::{self, Wire};

/// What may come on top of the one-way delay at p99.
const TARGET_MICROS: i64 = 10_000;
/// So long before a write can be there the asking begins.
const EARLY: Duration = Duration::from_millis(3);
/// How often it is asked.
const STEP: Duration = Duration::from_micros(200);
/// A write that is not there after so long is lost.
const LOST_AFTER: Duration = Duration::from_secs(10);
/// Bytes of a value.
const VALUE_BYTES: usize = 100;

/// The bounds of a run.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct VisibleArgs {
    /// Writes in each region.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub writes: u32,
    /// The least time between two writes of a region, in milliseconds.
    #[arg(long, default_value_t = 50)]
    pub pause_ms: u64,
}

/// A write that a watcher is to look for.
struct Sent {
    key: String,
    at: Instant,
}

/// A watcher: the writer's end of its two channels.
struct Watcher {
    to: String,
    one_way: Duration,
    sent: Sender<Sent>,
    /// When it was seen; `None` when it never was.
    seen: Receiver<Option<Instant>>,
    /// Delays beyond one way, in microseconds.
    beyond: Vec<i64>,
    lost: u64,
}

/// What one region's writes came to.
struct Seen {
    from: String,
    own: Latencies,
    failed: u64,
    watchers: Vec<Watcher>,
}

/// Runs it.
///
/// # Errors
/// When the regions cannot be started, or one cannot be talked to.
pub fn run(setup: &Setup, args: VisibleArgs) -> Result<(), Failure> {
    let cluster = Cluster::settled(setup)?;
    let writers: Vec<_> = cluster.regions.iter().map(|from| writer(&cluster, from, args)).collect::<Result<_, _>>()?;
    let mut table = Table::new(
        format!("An eventual write readable in the other regions: beyond the one-way delay, {} writes a region", args.writes),
        &["from", "to", "one way", "p50", "target p99", "p99", "max", "lost", "met"],
    );
    let mut own = Table::new("The writes themselves, as acknowledged where they were made", &["in", "times", "failed"]);
    for writer in writers {
        let seen = writer.join().map_err(|_| "a writer panicked")??;
        seen.watchers.iter().for_each(|watcher| table.row(cells(&seen.from, watcher)));
        own.row([seen.from, seen.own.summary(), seen.failed.to_string()]);
    }
    println!("{table}\n{own}");
    Ok(())
}

fn cells(from: &str, watcher: &Watcher) -> Vec<String> {
    let mut beyond = watcher.beyond.clone();
    beyond.sort_unstable();
    let at = |quantile| rank(&beyond, quantile);
    let shown = |quantile| at(quantile).map_or_else(|| "none seen".to_owned(), signed_ms);
    let is_met = watcher.lost == 0 && at(0.99).is_some_and(|p99| p99 <= TARGET_MICROS);
    let one_way = format!("{:.1} ms", watcher.one_way.as_secs_f64() * 1e3);
    let target = format!("<= {}", signed_ms(TARGET_MICROS));
    let words = [from.to_owned(), watcher.to.clone(), one_way, shown(0.5), target, shown(0.99), shown(1.0)];
    words.into_iter().chain([watcher.lost.to_string(), verdict(is_met).to_owned()]).collect()
}

type Writer = thread::JoinHandle<Result<Seen, Failure>>;

fn writer(cluster: &Cluster, from: &Region, args: VisibleArgs) -> Result<Writer, Failure> {
    let others = cluster.regions.iter().filter(|to| to.name != from.name);
    let watchers = others.map(|to| watcher(to, cluster.one_way(&from.name, &to.name))).collect::<Result<Vec<_>, _>>()?;
    let (name, address) = (from.name.clone(), from.http);
    Ok(thread::spawn(move || write(name, address, watchers, args)))
}

fn write(from: String, address: SocketAddr, mut watchers: Vec<Watcher>, args: VisibleArgs) -> Result<Seen, Failure> {
    let mut wire = Wire::connect(address, PATIENCE)?;
    let (mut own, mut failed) = (Latencies::default(), 0);
    for number in 0..args.writes {
        let key = format!("visible/{from}/{number:06}");
        let request = wire::put(&format!("/v1/kv/data/{key}"), &[b'v'; VALUE_BYTES]);
        let at = Instant::now();
        for watcher in &watchers {
            watcher.sent.send(Sent { key: key.clone(), at })?;
        }
        if !wire.ask(&request)?.is_ok() {
            failed += 1;
        }
        own.record(at.elapsed());
        for watcher in &mut watchers {
            watcher.take(at)?;
        }
        wait_until(at + Duration::from_millis(args.pause_ms));
    }
    Ok(Seen { from, own, failed, watchers })
}

impl Watcher {
    fn take(&mut self, sent: Instant) -> Result<(), Failure> {
        match self.seen.recv_timeout(LOST_AFTER * 2)? {
            Some(seen) => self.beyond.push(beyond_micros(seen - sent, self.one_way)),
            None => self.lost += 1,
        }
        Ok(())
    }
}

fn beyond_micros(took: Duration, one_way: Duration) -> i64 {
    let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    micros(took) - micros(one_way)
}

fn watcher(to: &Region, one_way: Duration) -> Result<Watcher, Failure> {
    let (sent, to_look_for) = mpsc::channel::<Sent>();
    let (tell, seen) = mpsc::channel();
    let mut wire = Wire::connect(to.http, PATIENCE)?;
    let region = to.name.clone();
    thread::spawn(move || {
        for sent in to_look_for {
            wait_until(sent.at + one_way.saturating_sub(EARLY));
            if tell.send(watch(&mut wire, &sent, &region)).is_err() {
                return;
            }
        }
    });
    Ok(Watcher { to: to.name.clone(), one_way, sent, seen, beyond: Vec::new(), lost: 0 })
}

/// Asks until the key is there, from the region's own copy.
fn watch(wire: &mut Wire, sent: &Sent, region: &str) -> Option<Instant> {
    let request = wire::get(&format!("/v1/kv/data/{}", sent.key));
    while sent.at.elapsed() < LOST_AFTER {
        match wire.ask(&request) {
            Ok(answer) if answer.status == 200 && answer.field("isochrone-region") == Some(region) => return Some(Instant::now()),
            Ok(_) => thread::sleep(STEP),
            Err(_) => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watcher(beyond: Vec<i64>, lost: u64) -> Watcher {
        let (sent, _) = mpsc::channel();
        let (_, seen) = mpsc::channel();
        Watcher { to: "eu-west".to_owned(), one_way: Duration::from_micros(37_500), sent, seen, beyond, lost }
    }

    #[test]
    fn the_one_way_delay_is_taken_off() {
        assert_eq!(beyond_micros(Duration::from_millis(40), Duration::from_micros(37_500)), 2_500);
        assert_eq!(beyond_micros(Duration::from_millis(37), Duration::from_micros(37_500)), -500);
    }

    #[test]
    fn p99_is_judged_and_a_lost_write_fails_whatever_the_others_took() {
        let mut beyond = vec![3_000; 99];
        beyond.push(50_000);
        let row = cells("us-east", &watcher(beyond, 0));
        assert_eq!(row[3..], ["3.00 ms", "<= 10.00 ms", "3.00 ms", "50.00 ms", "0", "yes"]);
        assert_eq!(cells("us-east", &watcher(vec![3_000; 100], 1)).last().map(String::as_str), Some("NO"));
        assert_eq!(cells("us-east", &watcher(vec![], 0)).last().map(String::as_str), Some("NO"));
    }
}
