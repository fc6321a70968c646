//! `gap`: how long strong writes pause where a daemon lives when another one is killed, comes back, or its region is cut off and healed.
//!
//! Clients in every other region write all the time, each its next write when it has the answer to the last; every second write is of a new key, the
//! others are of few keys that the client has written before. A region's gap is the longest time without a write that succeeded there, all its clients
//! together, from the event to the next one. It may be one more round trip, the one to the nearest majority of those that are left, and 250 ms.
//! Refused and slow requests are told beside it; none may wait longer than the default deadline.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::admin::cut_off;
use crate::cluster::{Cluster, PATIENCE, Region};
use crate::pace::wait_until;
use crate::process::{Process, send};
use crate::setup::Setup;
use crate::single::serve;
use crate::table::{Table, time, verdict};
use crate::wire::{self, Wire};

const BEYOND: Duration = Duration::from_millis(250);
/// The default of `strong.deadline`, and a moment for the answer's way.
const DEADLINE: Duration = Duration::from_millis(2_100);
const CLIENTS: u32 = 4;
/// Keys that a client writes again and again.
const KEYS: u32 = 20;
/// Before a client whose request failed sends the next one.
const PAUSE: Duration = Duration::from_millis(5);
const VALUE: [u8; 256] = [b'g'; 256];

/// The bounds of a run.
#[derive(Debug, Clone, clap::Args)]
pub struct GapArgs {
    /// Seconds from each event to the next.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// The region whose daemon is killed, and later cut off.
    #[arg(long, default_value = "us-east")]
    pub victim: String,
    /// Regions.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(3..=5))]
    pub regions: u32,
}

/// One request.
#[derive(Debug, Clone, Copy)]
struct Asked {
    since: Instant,
    ended: Instant,
    is_good: bool,
}

/// A stretch from one event to the next.
#[derive(Debug)]
struct Stretch {
    event: &'static str,
    from: Instant,
    to: Instant,
}

/// Runs it.
///
/// # Errors
/// When the regions cannot be started, or the daemon not started again.
pub fn run(setup: &Setup, args: &GapArgs) -> Result<(), Failure> {
    let cluster = Cluster::settled_as(setup, &["--regions".to_owned(), args.regions.to_string()])?;
    cluster.await_strong()?;
    let victim = cluster.named(&args.victim)?.clone();
    let living: Vec<&Region> = cluster.regions.iter().filter(|region| region.name != victim.name).collect();
    let each = Duration::from_secs(args.seconds);
    let start = Instant::now() + each / 4;
    let at = |number: u32| start + each * number;
    let (asked, _daemon) = thread::scope(|scope| {
        let clients: Vec<Vec<_>> =
            living.iter().map(|region| (0..CLIENTS).map(|number| scope.spawn(move || write(region, number, at(5)))).collect()).collect();
        let events = || -> Result<Process, Failure> {
            wait_until(at(1));
            send(victim.pid, "KILL");
            wait_until(at(2));
            let daemon = serve(&setup.binary, &victim.data.join("node.toml"), &victim.data.join("daemon-again.log"))?;
            wait_until(at(3));
            cut_off(&cluster, &victim.name, true)?;
            wait_until(at(4));
            cut_off(&cluster, &victim.name, false)?;
            Ok(daemon)
        };
        let happened = events();
        let joined = clients.into_iter().map(|clients| clients.into_iter().flat_map(|client| client.join().unwrap_or_default()).collect());
        let asked: Vec<Vec<Asked>> = joined.collect();
        happened.map(|daemon| (asked, daemon))
    })?;
    let events = ["nothing", "killed", "started again", "cut off", "healed"];
    let stretches = (0..).zip(events).map(|(number, event)| Stretch { event, from: at(number), to: at(number + 1) });
    let title = format!(
        "Strong writes elsewhere while {} of {} regions fails, {CLIENTS} clients in each, {} s an event",
        victim.name, args.regions, args.seconds
    );
    let mut table = Table::new(title, &["region", "event", "writes", "longest gap", "at most", "slowest request", "refused", "met"]);
    for stretch in stretches {
        for (region, asked) in living.iter().zip(&asked) {
            table.row(cells(&stretch, &region.name, asked, floor_without(&cluster, &region.name, &victim.name)));
        }
    }
    println!("{table}");
    Ok(())
}

/// The round trip from a region to its nearest majority of all, when one is gone.
fn floor_without(cluster: &Cluster, region: &str, gone: &str) -> Duration {
    let others = cluster.regions.iter().filter(|other| other.name != gone);
    let mut trips: Vec<Duration> = others.map(|other| cluster.one_way(region, &other.name) * 2).collect();
    trips.sort_unstable();
    trips.get(cluster.regions.len() / 2).copied().unwrap_or_default()
}

/// The longest time without a success between `from` and `to`.
fn longest_gap(successes: &mut [Instant], from: Instant, to: Instant) -> Duration {
    successes.sort_unstable();
    let (mut last, mut longest) = (from, Duration::ZERO);
    for &at in successes.iter().filter(|at| **at >= from && **at < to) {
        longest = longest.max(at - last);
        last = at;
    }
    longest.max(to - last)
}

fn cells(stretch: &Stretch, region: &str, asked: &[Asked], floor: Duration) -> Vec<String> {
    let during = |asked: &&Asked| asked.ended >= stretch.from && asked.since < stretch.to;
    let mut successes: Vec<Instant> = asked.iter().filter(|asked| asked.is_good).map(|asked| asked.ended).collect();
    let gap = longest_gap(&mut successes, stretch.from, stretch.to);
    let slowest = asked.iter().filter(during).map(|asked| asked.ended - asked.since).max().unwrap_or_default();
    let refused = asked.iter().filter(during).filter(|asked| !asked.is_good).count();
    let writes = asked.iter().filter(during).count() - refused;
    let (target, is_met) = (floor + BEYOND, gap <= floor + BEYOND && slowest <= DEADLINE);
    let counts = [writes.to_string(), time(gap), time(target), time(slowest), refused.to_string()];
    [region.to_owned(), stretch.event.to_owned()].into_iter().chain(counts).chain([verdict(is_met).to_owned()]).collect()
}

/// One client's writes until `end`.
fn write(region: &Region, client: u32, end: Instant) -> Vec<Asked> {
    let (mut wire, mut asked) = (None, Vec::new());
    for number in 0_u32.. {
        let key = if number % 2 == 0 { format!("new/{number}") } else { format!("again/{}", number / 2 % KEYS) };
        let request = wire::put(&format!("/v1/kv/strong/gap/{}/{client}/{key}", region.name), &VALUE);
        let since = Instant::now();
        if since >= end {
            break;
        }
        let is_good = attempt(region.http, &mut wire, &request);
        asked.push(Asked { since, ended: Instant::now(), is_good });
        if !is_good {
            thread::sleep(PAUSE);
        }
    }
    asked
}

fn attempt(address: SocketAddr, kept: &mut Option<Wire>, request: &[u8]) -> bool {
    let Some(mut wire) = kept.take().or_else(|| Wire::connect(address, PATIENCE).ok()) else { return false };
    let Ok(is_good) = wire.ask(request).map(|answer| answer.is_ok()) else { return false };
    *kept = Some(wire);
    is_good
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_counts_from_the_event_and_to_the_next() {
        let from = Instant::now();
        let ms = |ms: u64| from + Duration::from_millis(ms);
        let gap = |at: &[u64]| longest_gap(&mut at.iter().map(|&at| ms(at)).collect::<Vec<_>>(), from, ms(1000)).as_millis();
        assert_eq!(gap(&[]), 1000);
        assert_eq!(gap(&[400, 900, 500]), 400);
        assert_eq!(gap(&[100, 400, 700]), 300);
        assert_eq!(gap(&[100, 300, 500, 1200]), 500, "what succeeded later is the next event's");
    }

    #[test]
    fn a_request_that_outlives_its_deadline_is_a_missed_target() {
        let from = Instant::now();
        let stretch = Stretch { event: "killed", from, to: from + Duration::from_secs(1) };
        let quick: Vec<Asked> =
            (0..20).map(|n| from + Duration::from_millis(50 * n)).map(|at| Asked { since: at, ended: at, is_good: true }).collect();
        let verdict = |asked: &[Asked]| cells(&stretch, "x", asked, Duration::ZERO).pop();
        assert_eq!(verdict(&quick).as_deref(), Some("yes"));
        let slow = Asked { since: from, ended: from + Duration::from_secs(3), is_good: false };
        assert_eq!(verdict(&[quick, vec![slow]].concat()).as_deref(), Some("NO"));
    }
}
