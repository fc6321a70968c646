//! `wan`: what strong operations take with the published delays between regions, beside what they must take.
//!
//! One client in each region, all at a time, each sending its next request when it has the answer to the last. A region's *floor* is the round trip from
//! it to its nearest majority of the regions, itself among them: nothing linearizable can be had for less. Cold writes are of keys that nobody has ever
//! written; whether a region is the owner of such a key's slot is what the answer says (`Isochrone-Path`: it had the key's promise already), and elsewhere the
//! bound depends on the owner, the first of the slot's replicas. Warm writes are the second and later ones of keys through the same region; a CAS sends the
//! entity tag of the write before. Medians are judged, as targets are of medians; p99 stands beside them.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::cluster::{Cluster, PATIENCE, Region};
use crate::latency::Latencies;
use crate::setup::Setup;
use crate::table::{Table, time, verdict};
use crate::wire::{self, Wire};

/// Beyond the floor.
const BEYOND: Duration = Duration::from_millis(3);
/// Beyond the bound of a cold write elsewhere than at the owner.
const BEYOND_ELSEWHERE: Duration = Duration::from_millis(5);
const VALUE: [u8; 256] = [b'w'; 256];

/// The bounds of a run.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct WanArgs {
    /// Regions.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(3..=5))]
    pub regions: u32,
    /// Requests of each kind in each region.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    pub count: u32,
}

/// What was asked for, in the order of the table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Read,
    WarmWrite,
    WarmCas,
    ColdAtOwner,
    /// The owner is in that region.
    ColdElsewhere(String),
}

impl Kind {
    fn text(&self) -> String {
        match self {
            Self::Read => "read".to_owned(),
            Self::WarmWrite => "warm write".to_owned(),
            Self::WarmCas => "warm CAS".to_owned(),
            Self::ColdAtOwner => "cold write at the owner".to_owned(),
            Self::ColdElsewhere(owner) => format!("cold write, owner in {owner}"),
        }
    }
}

/// What one region's client saw.
#[derive(Debug, Default)]
struct Seen {
    kinds: BTreeMap<Kind, Latencies>,
    /// Answers that were not good, or cost a round trip more than planned, and the last one's words.
    failed: u64,
    last_failure: Option<String>,
}

/// Runs it.
///
/// # Errors
/// When the regions cannot be started, or a connection breaks.
pub fn run(setup: &Setup, args: WanArgs) -> Result<(), Failure> {
    let cluster = Cluster::settled_as(setup, &["--regions".to_owned(), args.regions.to_string()])?;
    cluster.await_strong()?;
    let seen: Vec<Result<Seen, Failure>> = thread::scope(|scope| {
        let clients: Vec<_> = cluster.regions.iter().map(|region| scope.spawn(move || client(region, args.count))).collect();
        clients.into_iter().map(|client| client.join().unwrap_or_else(|_| Err("a client panicked".into()))).collect()
    });
    let title =
        format!("Strong operations in {} regions with the published delays, one client in each, {} of each kind", args.regions, args.count);
    let mut table = Table::new(title, &["region", "floor", "what", "count", "p50", "p99", "target of p50", "met"]);
    let mut failed = 0;
    for (region, seen) in cluster.regions.iter().zip(seen) {
        let seen = seen?;
        for (kind, times) in &seen.kinds {
            table.row(cells(&cluster, &region.name, kind, times));
        }
        failed += seen.failed;
        seen.last_failure.iter().for_each(|last| println!("{}: the last failure: {}", region.name, last.escape_default()));
    }
    table.row(["all", "", "failed", "", &failed.to_string(), "", "0", verdict(failed == 0)]);
    println!("{table}");
    Ok(())
}

/// The most that the median may be.
fn target(cluster: &Cluster, region: &str, kind: &Kind) -> Duration {
    let floor = cluster.floor(region);
    match kind {
        Kind::ColdElsewhere(owner) => {
            let handed = cluster.one_way(region, owner) + cluster.one_way(owner, region) + cluster.floor(owner);
            handed.min(floor * 2) + BEYOND_ELSEWHERE
        }
        _ => floor + BEYOND,
    }
}

fn cells(cluster: &Cluster, region: &str, kind: &Kind, times: &Latencies) -> Vec<String> {
    let (target, p50) = (target(cluster, region, kind), times.quantile(0.5));
    let figures = [time(cluster.floor(region)), kind.text(), times.count().to_string(), time(p50), time(times.quantile(0.99))];
    let mut cells = vec![region.to_owned()];
    cells.extend(figures);
    cells.extend([format!("<= {}", time(target)), verdict(p50 <= target).to_owned()]);
    cells
}

fn client(region: &Region, count: u32) -> Result<Seen, Failure> {
    let mut client = Client { region, wire: Wire::connect(region.http, PATIENCE)?, seen: Seen::default() };
    for number in 0..count {
        let key = format!("wan/{}/{number}", region.name);
        // Asked beforehand: its time does not count.
        let owner = region.replicas_of("strong", &key)?.into_iter().next().unwrap_or_default();
        client.write(&key, "", |path| cold(&region.name, owner.clone(), path))?;
    }
    let mut etag = String::new();
    for number in 0..count {
        let key = format!("wan/{}/{}", region.name, number % 10);
        if let Some(new) = client.write(&key, "", |_| Kind::WarmWrite)? {
            etag = new;
        }
    }
    let key = format!("wan/{}/{}", region.name, (count - 1) % 10);
    for _ in 0..count {
        let condition = format!("If-Match: {etag}\r\n");
        if let Some(new) = client.write(&key, &condition, |_| Kind::WarmCas)? {
            etag = new;
        }
    }
    for number in 0..count {
        let request = wire::get(&format!("/v1/kv/strong/wan/{}/{number}", region.name));
        client.ask(&request, |_| Kind::Read)?;
    }
    Ok(client.seen)
}

/// What a cold write was: at the owner when this region had the promise beforehand, or is the owner by the table and proposed itself.
fn cold(region: &str, owner: String, path: &str) -> Kind {
    let is_granted_here = path.contains("way=here") && path.contains("began=granted");
    if is_granted_here || owner == region { Kind::ColdAtOwner } else { Kind::ColdElsewhere(owner) }
}

struct Client<'a> {
    region: &'a Region,
    wire: Wire,
    seen: Seen,
}

impl Client<'_> {
    fn write(&mut self, key: &str, fields: &str, kind: impl FnOnce(&str) -> Kind) -> Result<Option<String>, Failure> {
        let fields = format!("Content-Type: application/octet-stream\r\n{fields}");
        self.ask(&wire::with_body("PUT", &format!("/v1/kv/strong/{key}"), &fields, &VALUE), kind)
    }

    /// Sends a request and counts its answer; the entity tag of a good one.
    fn ask(&mut self, request: &[u8], kind: impl FnOnce(&str) -> Kind) -> Result<Option<String>, Failure> {
        let since = Instant::now();
        let answer = self.wire.ask(request).map_err(|error| format!("{}: {error}", self.region.name))?;
        let took = since.elapsed();
        if !answer.is_ok() {
            self.seen.failed += 1;
            self.seen.last_failure = Some(format!("{} {}", answer.status, String::from_utf8_lossy(answer.body)));
            return Ok(None);
        }
        let kind = kind(answer.field("isochrone-path").unwrap_or_default());
        self.seen.kinds.entry(kind).or_default().record(took);
        Ok(answer.field("etag").map(str::to_owned))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cold_write_is_at_the_owner_where_the_promise_was_had_beforehand() {
        let kind = |region: &str, path: &str| cold(region, "us-east".to_owned(), path);
        assert_eq!(kind("eu-west", "way=here; began=granted; trips=1"), Kind::ColdAtOwner);
        assert_eq!(kind("us-east", "way=here; began=prepare; trips=2"), Kind::ColdAtOwner);
        assert_eq!(kind("eu-west", "way=owner; began=granted; trips=1"), Kind::ColdElsewhere("us-east".to_owned()));
        assert_eq!(kind("eu-west", "way=here; began=prepare; trips=2"), Kind::ColdElsewhere("us-east".to_owned()));
    }
}
