//! `diverge`: what anti-entropy sends when few keys of many differ (rule E6).
//!
//! Three regions hold the same keys. One is cut off, some keys are overwritten, half of them there and half outside, and the cut lasts longer
//! than writes are kept for a replica that is away (`replication.hint_age_max`, set to `--hint-seconds`). So the streams of writes no longer have
//! them, and after healing only a comparison can find them. Bytes are those that the daemons count for repairs (`isochrone_repair_...`),
//! from healing until those keys are in one version everywhere, set against the bytes of all keys and values once, which is the least that
//! sending the store takes. Afterwards the same counters are read again over further rounds, in which nothing differs.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Failure;
use crate::admin::{self, cut_off, drained, look, sent_bytes};
use crate::batch::{self, Shape};
use crate::cluster::Cluster;
use crate::heal::{differing, is_alike};
use crate::setup::Setup;
use crate::table::{Table, bytes, rate, time};

const VALUE_BYTES: usize = 100;
/// What may be sent, in hundredths of the store.
const TARGET_PERCENT: f64 = 2.0;
const SHAPE: Shape = Shape { lines: 1000, connections: 2 };
/// A prime, so that steps of it meet keys all over.
const STRIDE: u64 = 7_919;
/// After loading all replicas may take so long.
const SETTLE_MAX: Duration = Duration::from_secs(1800);
/// A repair may take so long before it is given up.
const EQUAL_MAX: Duration = Duration::from_secs(600);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(250);
/// Beyond the time that writes are kept: the cut lasts so much longer.
const MARGIN: Duration = Duration::from_secs(10);
const SENT: &str = "isochrone_repair_sent_bytes_total";
const RECEIVED: &str = "isochrone_repair_received_bytes_total";

/// The bounds of a run.
#[derive(Debug, Clone, clap::Args)]
pub struct DivergeArgs {
    /// Keys.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1000..=100_000_000))]
    pub keys: u64,
    /// Keys that differ.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(2..=1_000_000))]
    pub divergent: u64,
    /// Seconds for which writes are kept for a replica that is away.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(2..=3600))]
    pub hint_seconds: u64,
    /// Seconds of further rounds, in which nothing differs.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub after_seconds: u64,
    /// The region that is cut off.
    #[arg(long, default_value = "ap-northeast")]
    pub victim: String,
}

/// Bytes so far, all daemons together.
#[derive(Debug, Clone, Copy)]
struct Counted {
    sent: u64,
    received: u64,
    /// Everything between daemons.
    udp: u64,
    at: Instant,
}

impl Counted {
    fn now(cluster: &Cluster) -> Result<Self, Failure> {
        let (sent, received) = (admin::sum(cluster, SENT, "")?, admin::sum(cluster, RECEIVED, "")?);
        Ok(Self { sent, received, udp: sent_bytes(cluster)?, at: Instant::now() })
    }
}

/// Runs it.
///
/// # Errors
/// When the regions cannot be started, a write is refused, or the regions do not become equal.
pub fn run(setup: &Setup, args: &DivergeArgs) -> Result<(), Failure> {
    let cluster = Cluster::settled_with(setup, &[format!("replication.hint_age_max={}s", args.hint_seconds)])?;
    cluster.named(&args.victim)?;
    load(&cluster, args.keys)?;
    drained(&cluster, SETTLE_MAX)?;
    let before_cut = differing(&cluster, "diverge/")?;
    cut_off(&cluster, &args.victim, true)?;
    let divergent = overwrite(&cluster, args)?;
    thread::sleep(Duration::from_secs(args.hint_seconds) + MARGIN);
    let lapsed = lapsed(&cluster);
    let before = Counted::now(&cluster)?;
    cut_off(&cluster, &args.victim, false)?;
    await_alike(&cluster, &divergent, before.at)?;
    let after = Counted::now(&cluster)?;
    let left = differing(&cluster, "diverge/")?;
    let quiet = Counted::now(&cluster)?;
    thread::sleep(Duration::from_secs(args.after_seconds));
    let end = Counted::now(&cluster)?;
    let title = format!("{} of {} keys of {VALUE_BYTES} bytes differ after a cut that outlasts the log", args.divergent, args.keys);
    let mut table = Table::of_targets(title);
    table.none("keys that differed before the cut", before_cut);
    table.note("replicas for which writes were no longer kept at the end of the cut", lapsed);
    tell(&mut table, args, before, after);
    table.none("keys that differ afterwards, all listings compared", left);
    table.note("repairs sent while nothing differed", rate_of(quiet.sent, quiet.at, end.sent, end.at));
    println!("{table}");
    Ok(())
}

fn tell(table: &mut Table, args: &DivergeArgs, before: Counted, after: Counted) {
    let store = args.keys * (key(0).len() + VALUE_BYTES) as u64;
    let (sent, received) = (after.sent - before.sent, after.received - before.received);
    let percent = |sent: u64| sent as f64 * 100.0 / store as f64;
    table.note("from healing until they are in one version everywhere", time(after.at - before.at));
    table.note("all keys and values once", bytes(store));
    table.judge(
        "repairs sent, all daemons",
        format!("< {TARGET_PERCENT} % of that"),
        format!("{} ({:.2} %)", bytes(sent), percent(sent)),
        sent > 0 && percent(sent) < TARGET_PERCENT,
    );
    table.note("repairs received, all daemons", bytes(received));
    table.note("sent for each key that differed", format!("{} bytes", sent / args.divergent));
    table.note(
        "everything between daemons meanwhile",
        format!("{} ({:.2} %)", bytes(after.udp - before.udp), percent(after.udp - before.udp)),
    );
}

fn rate_of(sent: u64, at: Instant, sent_later: u64, later: Instant) -> String {
    format!("{} bytes in {}, {}", sent_later - sent, time(later - at), rate(sent_later - sent, later - at))
}

fn key(number: u64) -> String {
    format!("diverge/{number:012}")
}

fn value(writer: &str, number: u64) -> String {
    format!("{writer}-{number:0>width$}", width = VALUE_BYTES - writer.len() - 1)
}

/// Every region writes its part of the keys.
fn load(cluster: &Cluster, keys: u64) -> Result<(), Failure> {
    let count = cluster.regions.len() as u64;
    thread::scope(|scope| {
        let writers: Vec<_> = (0..count)
            .zip(&cluster.regions)
            .map(|(part, region)| {
                let line = |number| batch::put(&key(number), &value("first", number));
                scope.spawn(move || batch::load(region.http, part * keys / count..(part + 1) * keys / count, SHAPE, &line))
            })
            .collect();
        writers.into_iter().try_for_each(|writer| writer.join().map_err(|_| "a writer panicked")?)
    })
}

/// Overwrites keys all over, every second one in the region that is cut off; gives the keys.
fn overwrite(cluster: &Cluster, args: &DivergeArgs) -> Result<Vec<String>, Failure> {
    let numbers: Vec<u64> = (0..args.divergent).map(|number| number * STRIDE % args.keys).collect();
    let inside = cluster.named(&args.victim)?;
    let outside = cluster.regions.iter().find(|region| region.name != args.victim).ok_or("there is one region only")?;
    let half = args.divergent / 2;
    for (region, range) in [(inside, 0..half), (outside, half..args.divergent)] {
        let line = |index: u64| {
            let number = numbers[index as usize];
            batch::put(&key(number), &value(&region.name, number))
        };
        batch::load(region.http, range, SHAPE, &line)?;
    }
    Ok(numbers.into_iter().map(key).collect())
}

fn await_alike(cluster: &Cluster, keys: &[String], healed: Instant) -> Result<(), Failure> {
    while !is_alike(cluster, keys)? {
        if healed.elapsed() > EQUAL_MAX {
            return Err(format!("the keys still differ {} s after healing", EQUAL_MAX.as_secs()).into());
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

/// For how many replicas the daemons say that writes are no longer kept.
fn lapsed(cluster: &Cluster) -> String {
    let of = |report: &Value| {
        let peers = report["peers"].as_array().map(Vec::as_slice).unwrap_or_default();
        peers.iter().filter(|peer| !peer["lapsed_since"].is_null()).count()
    };
    let reports: Result<Vec<Value>, Failure> = cluster.regions.iter().map(|region| look(region.admin, "/v1/admin/replication")).collect();
    reports.map_or_else(|_| "not told".to_owned(), |reports| reports.iter().map(of).sum::<usize>().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(keys: u64, divergent: u64) -> DivergeArgs {
        DivergeArgs { keys, divergent, hint_seconds: 20, after_seconds: 1, victim: String::new() }
    }

    fn told(sent: u64) -> String {
        let at = Instant::now();
        let counted = |sent| Counted { sent, received: sent, udp: sent, at };
        let mut table = Table::of_targets("t");
        tell(&mut table, &args(1_000_000, 1_000), counted(5), counted(5 + sent));
        table.to_string()
    }

    #[test]
    fn repairs_are_judged_against_the_bytes_of_the_store() {
        // 120 bytes a key: 2 % are 2.4 million bytes.
        assert!(told(2_300_000).contains("| yes |"));
        assert!(told(2_500_000).contains("| NO "));
        assert!(told(0).contains("| NO "), "nothing was counted, so nothing is shown");
    }

    #[test]
    fn overwritten_keys_are_distinct() {
        let mut numbers: Vec<u64> = (0..1_000).map(|number| number * STRIDE % 1_000_000).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 1_000);
        assert_eq!((value("first", 1).len(), key(1).len()), (VALUE_BYTES, 20));
    }
}
