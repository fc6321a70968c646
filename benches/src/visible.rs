//! `visible`: how soon a write in one region is readable in every other one.
//!
//! Every write is of a new key, and every other region is asked for it until it answers 200 from its own copy. The time counts from before
//! the write is sent to after the first answer that has it: the write's own disk sync, the wire, the receiver's work, the steps in which it
//! is asked (200 us) and the HTTP of both are in it. The one-way delay is then taken off. All regions write at once, each one write at
//! a time, the next when all others have the last, so that nothing but single writes is measured.
//!
//! With `--rate` other connections write at that rate through every region meanwhile, and these writes are probes among them. A rate holds when it
//! was written (98 % of it at least, none failed), no probe was lost and p99 met its target between every two regions; `--search` looks for the highest
//! that holds. The generator and three daemons share the machine's cores, so that the rate is one of all of them together.

use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::admin::drained;
use crate::cluster::{Cluster, PATIENCE, Region};
use crate::flood::Flooded;
use crate::latency::{Latencies, rank};
use crate::pace::wait_until;
use crate::rates::{Load, RAMP, Tried};
use crate::setup::Setup;
use crate::table::{Table, rate, signed_ms, verdict};
use crate::wire::{self, Wire};

/// What may come on top of the one-way delay at p99.
const TARGET_MICROS: i64 = 10_000;
/// So long before a write can be there the asking begins.
const EARLY: Duration = Duration::from_millis(3);
/// How often it is asked.
const STEP: Duration = Duration::from_micros(200);
/// How often under load: asking costs the processors that the writes need.
const STEP_LOADED: Duration = Duration::from_micros(500);
/// The rate that is aimed at.
const GOAL: u32 = 5_000;
/// After a rate that was too high the replicas may take so long.
const DRAIN_MAX: Duration = Duration::from_secs(300);
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
    /// Writes a second through every region beside those; with --search the first one that is tried [default with --search: 5,000].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: Option<u32>,
    /// Find the highest rate that holds.
    #[arg(long)]
    pub search: bool,
    /// Seconds of writes at each rate; without a rate the number of writes says when it is over.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
}

/// How the probes of one run go.
#[derive(Debug, Clone, Copy)]
struct Probing {
    writes: u32,
    pause: Duration,
    step: Duration,
    /// No probe is begun after that.
    end: Option<Instant>,
    /// Tells the keys of runs apart.
    run: u32,
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
    let pause = Duration::from_millis(args.pause_ms);
    match args.rate {
        None if !args.search => {
            let seen = probe(&cluster, Probing { writes: args.writes, pause, step: STEP, end: None, run: 0 })?;
            tell(&seen, &format!("{} writes a region", args.writes));
            Ok(())
        }
        Some(rate) if !args.search => loaded(&cluster, args, rate).map(drop),
        goal => search(&cluster, args, goal.unwrap_or(GOAL)),
    }
}

fn search(cluster: &Cluster, args: VisibleArgs, goal: u32) -> Result<(), Failure> {
    let mut tried = Tried::default();
    while let Some(rate) = tried.next(goal) {
        tried.note(rate, loaded(cluster, args, rate)?);
    }
    let mut table = Table::of_targets("The highest rate through each of three regions at which every write is visible in time");
    let held = tried.held();
    table.judge("writes a second through each region", format!(">= {goal}"), held.to_string(), held >= goal);
    println!("{table}");
    Ok(())
}

/// Probes while every region is written to at a rate; whether it held.
fn loaded(cluster: &Cluster, args: VisibleArgs, rate: u32) -> Result<bool, Failure> {
    let load = Load::start(cluster, rate, Duration::from_secs(args.seconds));
    thread::sleep(RAMP);
    let pause = Duration::from_millis(args.pause_ms);
    let seen = probe(cluster, Probing { writes: u32::MAX, pause, step: STEP_LOADED, end: Some(load.end), run: rate })?;
    let (written, is_kept) = load.finish()?;
    tell(&seen, &format!("{rate} writes a second through each region"));
    println!("{}", load_table(rate, &written));
    drained(cluster, DRAIN_MAX)?;
    Ok(is_kept && seen.iter().flat_map(|seen| &seen.watchers).all(Watcher::is_met))
}

fn load_table(wanted: u32, written: &[(String, Flooded)]) -> Table {
    let title = format!("The writes beside them, {wanted} a second wanted; times from when each was due");
    let mut table = Table::new(title, &["in", "rate", "times", "failed"]);
    for (name, seen) in written {
        let took = rate(seen.times.count(), seen.took);
        table.row([name.clone(), took, seen.times.summary(), seen.failed.to_string()]);
    }
    table
}

/// Writes in all regions at once, and watches each write in the others.
fn probe(cluster: &Cluster, probing: Probing) -> Result<Vec<Seen>, Failure> {
    let writers: Vec<_> = cluster.regions.iter().map(|from| writer(cluster, from, probing)).collect::<Result<_, _>>()?;
    writers.into_iter().map(|writer| writer.join().map_err(|_| "a writer panicked")?).collect()
}

fn tell(seen: &[Seen], what: &str) {
    let mut table = Table::new(
        format!("An eventual write readable in the other regions: beyond the one-way delay, {what}"),
        &["from", "to", "one way", "writes", "p50", "target p99", "p99", "max", "lost", "met"],
    );
    let mut own = Table::new("The writes themselves, as acknowledged where they were made", &["in", "times", "failed"]);
    for seen in seen {
        seen.watchers.iter().for_each(|watcher| table.row(cells(&seen.from, watcher)));
        own.row([seen.from.clone(), seen.own.summary(), seen.failed.to_string()]);
    }
    println!("{table}\n{own}");
}

fn cells(from: &str, watcher: &Watcher) -> Vec<String> {
    let mut beyond = watcher.beyond.clone();
    beyond.sort_unstable();
    let at = |quantile| rank(&beyond, quantile);
    let shown = |quantile| at(quantile).map_or_else(|| "none seen".to_owned(), signed_ms);
    let is_met = watcher.is_met();
    let one_way = format!("{:.1} ms", watcher.one_way.as_secs_f64() * 1e3);
    let target = format!("<= {}", signed_ms(TARGET_MICROS));
    let count = (beyond.len() as u64 + watcher.lost).to_string();
    let words = [from.to_owned(), watcher.to.clone(), one_way, count, shown(0.5), target, shown(0.99), shown(1.0)];
    words.into_iter().chain([watcher.lost.to_string(), verdict(is_met).to_owned()]).collect()
}

type Writer = thread::JoinHandle<Result<Seen, Failure>>;

fn writer(cluster: &Cluster, from: &Region, probing: Probing) -> Result<Writer, Failure> {
    let others = cluster.regions.iter().filter(|to| to.name != from.name);
    let watchers = others.map(|to| watcher(to, cluster.one_way(&from.name, &to.name), probing.step)).collect::<Result<Vec<_>, _>>()?;
    let (name, address) = (from.name.clone(), from.http);
    Ok(thread::spawn(move || write(name, address, watchers, probing)))
}

fn write(from: String, address: SocketAddr, mut watchers: Vec<Watcher>, probing: Probing) -> Result<Seen, Failure> {
    let mut wire = Wire::connect(address, PATIENCE)?;
    let (mut own, mut failed) = (Latencies::default(), 0);
    for number in 0..probing.writes {
        if probing.end.is_some_and(|end| Instant::now() >= end) {
            break;
        }
        let key = format!("visible/{from}/{}/{number:06}", probing.run);
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
        wait_until(at + probing.pause);
    }
    Ok(Seen { from, own, failed, watchers })
}

impl Watcher {
    /// Whether none was lost, and p99 is within its target.
    fn is_met(&self) -> bool {
        let mut beyond = self.beyond.clone();
        beyond.sort_unstable();
        self.lost == 0 && rank(&beyond, 0.99).is_some_and(|p99| p99 <= TARGET_MICROS)
    }

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

fn watcher(to: &Region, one_way: Duration, step: Duration) -> Result<Watcher, Failure> {
    let (sent, to_look_for) = mpsc::channel::<Sent>();
    let (tell, seen) = mpsc::channel();
    let mut wire = Wire::connect(to.http, PATIENCE)?;
    let region = to.name.clone();
    thread::spawn(move || {
        for sent in to_look_for {
            wait_until(sent.at + one_way.saturating_sub(EARLY));
            if tell.send(watch(&mut wire, &sent, &region, step)).is_err() {
                return;
            }
        }
    });
    Ok(Watcher { to: to.name.clone(), one_way, sent, seen, beyond: Vec::new(), lost: 0 })
}

/// Asks until the key is there, from the region's own copy.
fn watch(wire: &mut Wire, sent: &Sent, region: &str, step: Duration) -> Option<Instant> {
    let request = wire::get(&format!("/v1/kv/data/{}", sent.key));
    while sent.at.elapsed() < LOST_AFTER {
        match wire.ask(&request) {
            Ok(answer) if answer.status == 200 && answer.field("isochrone-region") == Some(region) => return Some(Instant::now()),
            Ok(_) => thread::sleep(step),
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
        assert_eq!(row[3..], ["100", "3.00 ms", "<= 10.00 ms", "3.00 ms", "50.00 ms", "0", "yes"]);
        assert_eq!(cells("us-east", &watcher(vec![3_000; 100], 1)).last().map(String::as_str), Some("NO"));
        assert_eq!(cells("us-east", &watcher(vec![], 0)).last().map(String::as_str), Some("NO"));
    }
}
