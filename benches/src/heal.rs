//! `heal`: how soon three regions are equal again after one of them was cut off while all were written to.
//!
//! One region is cut off from both others. Half of the keys are written in it, half outside, evenly over the time of the cut, in batches; some keys
//! more are written on both sides, with different values. Then the cut is healed. The time counts from before the first daemon is told to heal
//! to when every daemon holds the expected number of keys and the keys of a sample, those of both sides among it, are in one version
//! everywhere. A full comparison of the three listings follows; where it finds a difference the time is that of the first comparison which finds
//! none. Bytes are those of UDP datagrams between daemons, by their own count, in that time.

use std::thread;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::admin::{cut_off, drained, sent_bytes};
use crate::batch::{self, Shape};
use crate::cluster::{Cluster, Region};
use crate::listing;
use crate::pace::wait_until;
use crate::setup::Setup;
use crate::table::{Table, bytes, time};

const TARGET: Duration = Duration::from_secs(5);
const VALUE_BYTES: usize = 100;
const SHAPE: Shape = Shape { lines: 250, connections: 2 };
/// Each region's keys are written in so many parts.
const PARTS: u64 = 40;
/// Becoming equal may take so long before it is given up.
const EQUAL_MAX: Duration = Duration::from_secs(300);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(25);
/// Keys of the sample, for each region that wrote and for those written on both sides.
const SAMPLE: u64 = 50;

/// The bounds of a run.
#[derive(Debug, Clone, clap::Args)]
pub struct HealArgs {
    /// Keys that are written during the cut, each on one side.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(100..=10_000_000))]
    pub keys: u64,
    /// Keys that are written on both sides, beside those.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub both: u64,
    /// Seconds of the cut.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// The region that is cut off.
    #[arg(long, default_value = "ap-northeast")]
    pub victim: String,
}

/// Who writes how many keys of its own.
struct Plan {
    shares: Vec<(Region, u64)>,
    both: u64,
    victim: String,
}

impl Plan {
    fn new(cluster: &Cluster, args: &HealArgs) -> Result<Self, Failure> {
        cluster.named(&args.victim)?;
        let inside = args.keys / 2;
        let outside = (args.keys - inside).div_ceil(cluster.regions.len() as u64 - 1);
        let share = |region: &Region| (region.clone(), if region.name == args.victim { inside } else { outside });
        Ok(Self { shares: cluster.regions.iter().map(share).collect(), both: args.both, victim: args.victim.clone() })
    }

    fn distinct(&self) -> u64 {
        self.shares.iter().map(|(_, count)| count).sum::<u64>() + self.both
    }

    fn sample(&self) -> Vec<String> {
        let of = |name: &str, count: u64| {
            let name = name.to_owned();
            (1..=SAMPLE.min(count)).map(move |part| key(&name, part * count / SAMPLE.min(count) - 1))
        };
        let shares = self.shares.iter().flat_map(|(region, count)| of(&region.name, *count));
        shares.chain(of(BOTH, self.both)).collect()
    }

    /// The bytes of keys and values that have to cross: each key's to those that were on the other side.
    fn crossing_bytes(&self) -> u64 {
        let others = self.shares.len() as u64 - 1;
        let each = (key("", 0).len() + VALUE_BYTES) as u64;
        let crossing = self.shares.iter().map(|(region, count)| if region.name == self.victim { count * others } else { *count });
        each * (crossing.sum::<u64>() + self.both * (others + 1))
    }
}

/// Stands for the region in the keys that are written on both sides.
const BOTH: &str = "both";

fn key(region: &str, number: u64) -> String {
    format!("heal/{region}/{number:08}")
}

/// A value that tells who wrote it.
fn value(region: &str, number: u64) -> String {
    format!("{region}-{number:0>width$}", width = VALUE_BYTES - region.len() - 1)
}

/// Runs it.
///
/// # Errors
/// When the regions cannot be started, or a write is refused.
pub fn run(setup: &Setup, args: &HealArgs) -> Result<(), Failure> {
    let cluster = Cluster::settled(setup)?;
    drained(&cluster, EQUAL_MAX)?;
    let plan = Plan::new(&cluster, args)?;
    let expected = cluster.region(0).keys()? + plan.distinct();
    cut_off(&cluster, &args.victim, true)?;
    write(&plan, Duration::from_secs(args.seconds))?;
    let bytes_before = sent_bytes(&cluster)?;
    let healed = Instant::now();
    cut_off(&cluster, &args.victim, false)?;
    let seen = equal(&cluster, expected, &plan.sample(), healed)?;
    let sent = sent_bytes(&cluster)? - bytes_before;
    let (differing, listed) = confirm(&cluster, healed)?;
    let title = format!("{} keys written during a cut of {} s of {}, and healed", args.keys, args.seconds, args.victim);
    let mut table = Table::of_targets(title);
    let took = if differing == 0 { seen } else { listed };
    table.note("keys written on both sides beside them", args.both.to_string());
    table.at_most("from healing until all three regions are equal", TARGET, took);
    table.none("keys that differed in the full comparison that followed", differing);
    table.note("that comparison over after", time(listed));
    table.note("sent between daemons meanwhile", bytes(sent));
    table.note("keys and values that had to cross", bytes(plan.crossing_bytes()));
    table.note("sent / had to cross", format!("{:.2}", sent as f64 / plan.crossing_bytes().max(1) as f64));
    println!("{table}");
    Ok(())
}

/// Every region writes its share, evenly over the time; those of both sides in the middle of it.
fn write(plan: &Plan, took: Duration) -> Result<(), Failure> {
    let start = Instant::now();
    thread::scope(|scope| {
        let writers: Vec<_> =
            plan.shares.iter().map(|(region, count)| scope.spawn(move || write_share(plan, region, *count, start, took))).collect();
        writers.into_iter().try_for_each(|writer| writer.join().map_err(|_| "a writer panicked")?)
    })
}

fn write_share(plan: &Plan, region: &Region, count: u64, start: Instant, took: Duration) -> Result<(), Failure> {
    let own = |number| batch::put(&key(&region.name, number), &value(&region.name, number));
    let shared = |number| batch::put(&key(BOTH, number), &value(&region.name, number));
    for part in 0..PARTS {
        wait_until(start + took.mul_f64(part as f64 / PARTS as f64));
        batch::load(region.http, part * count / PARTS..(part + 1) * count / PARTS, SHAPE, &own)?;
        if part == PARTS / 2 {
            batch::load(region.http, 0..plan.both, SHAPE, &shared)?;
        }
    }
    wait_until(start + took);
    Ok(())
}

/// Waits until all regions hold so many keys, and the sample in one version; the time since `healed`.
fn equal(cluster: &Cluster, expected: u64, sample: &[String], healed: Instant) -> Result<Duration, Failure> {
    loop {
        let counts = cluster.regions.iter().map(Region::keys).collect::<Result<Vec<_>, _>>()?;
        if counts.iter().all(|count| *count == expected) && is_alike(cluster, sample)? {
            return Ok(healed.elapsed());
        }
        if healed.elapsed() > EQUAL_MAX {
            return Err(format!("after {} s the regions hold {counts:?} keys of {expected}, or differ", EQUAL_MAX.as_secs()).into());
        }
        thread::sleep(LOOK);
    }
}

/// Whether the keys are there in one version everywhere.
///
/// # Errors
/// When a region does not answer.
pub fn is_alike(cluster: &Cluster, keys: &[String]) -> Result<bool, Failure> {
    let mut found = cluster.regions.iter().map(|region| batch::versions(region.http, keys));
    let first = found.next().transpose()?.unwrap_or_default();
    Ok(first.iter().all(Option::is_some) && found.try_fold(true, |is_alike, one| Ok::<_, Failure>(is_alike && one? == first))?)
}

/// Keys that the first full comparison finds to differ, and the time since `healed` until one finds none.
fn confirm(cluster: &Cluster, healed: Instant) -> Result<(u64, Duration), Failure> {
    let at_first = differing(cluster, "heal/")?;
    let mut left = at_first;
    while left > 0 {
        if healed.elapsed() > EQUAL_MAX {
            return Err(format!("{left} keys still differ after {} s", EQUAL_MAX.as_secs()).into());
        }
        left = differing(cluster, "heal/")?;
    }
    Ok((at_first, healed.elapsed()))
}

/// How many keys are not in one version everywhere, by the daemons' own listings.
///
/// # Errors
/// When a region does not answer.
pub fn differing(cluster: &Cluster, prefix: &str) -> Result<u64, Failure> {
    let listings = thread::scope(|scope| {
        let asked: Vec<_> = cluster.regions.iter().map(|region| scope.spawn(|| listing::keys(region.http, prefix))).collect();
        asked.into_iter().map(|one| one.join().map_err(|_| "a reader panicked")?).collect::<Result<Vec<_>, Failure>>()
    })?;
    let Some((first, others)) = listings.split_first() else { return Ok(0) };
    let changed = first.iter().filter(|(key, etag)| others.iter().any(|other| other.get(*key) != Some(*etag))).count();
    let surplus = others.iter().map(|other| other.keys().filter(|key| !first.contains_key(*key)).count()).max().unwrap_or(0);
    Ok((changed + surplus) as u64)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn plan() -> Plan {
        let region = |name: &str| {
            let address = "127.0.0.1:1".parse().expect("an address");
            Region { name: name.to_owned(), http: address, admin: address, pid: 0, data: PathBuf::new() }
        };
        Plan { shares: vec![(region("a"), 25), (region("b"), 25), (region("c"), 50)], both: 10, victim: "c".to_owned() }
    }

    #[test]
    fn the_sample_has_the_last_key_of_everybody() {
        let sample = plan().sample();
        for (region, last) in [("a", 24), ("b", 24), ("c", 49), (BOTH, 9)] {
            assert!(sample.contains(&key(region, last)), "{region}: {sample:?}");
        }
        assert!(sample.len() <= 200);
        assert_eq!(plan().distinct(), 110);
    }

    #[test]
    fn what_the_cut_off_region_wrote_crosses_twice() {
        let each = (key("", 0).len() + VALUE_BYTES) as u64;
        assert_eq!(plan().crossing_bytes(), each * (50 * 2 + 50 + 10 * 3));
    }

    #[test]
    fn values_have_their_length_and_tell_the_writer() {
        assert_eq!(value("eu-west", 7).len(), VALUE_BYTES);
        assert_ne!(value("eu-west", 7), value("us-east", 7));
    }
}
