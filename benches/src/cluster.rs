//! Three regions by `isochrone dev`, real delays included.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::Failure;
use crate::process::{Process, Scratch, gone_by, send};
use crate::setup::Setup;
use crate::wire::{self, Wire};

/// `dev` itself gives up after a minute.
const READY_MAX: Duration = Duration::from_secs(90);
/// How long it may take until every region serves every key itself.
const SETTLE_MAX: Duration = Duration::from_secs(60);
/// Daemons end within this after `dev` did.
const GONE_MAX: Duration = Duration::from_secs(10);
/// So many keys, in so many slots, must be served locally before anything is measured.
const PROBES: u32 = 64;
/// Strong slots are at rest when nothing changed for so long.
const STILL: Duration = Duration::from_secs(2);
/// For requests of which the time is not measured.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A region's daemon, as `dev -o json` tells of it.
#[derive(Debug, Clone)]
pub struct Region {
    /// Its name.
    pub name: String,
    /// Its client listener.
    pub http: SocketAddr,
    /// Its admin listener.
    pub admin: SocketAddr,
    /// Its process.
    pub pid: u32,
    /// Its directory, which has its `node.toml`.
    pub data: PathBuf,
}

/// Milliseconds from a region to each other one.
type OneWayMs = BTreeMap<String, BTreeMap<String, f64>>;

/// The running regions. They end with this value.
#[derive(Debug)]
pub struct Cluster {
    dev: Process,
    /// In the order in which `dev` tells of them.
    pub regions: Vec<Region>,
    one_way_ms: OneWayMs,
    /// From the start of the process to its line that all is ready.
    pub ready_after: Duration,
    /// Removed last.
    _scratch: Scratch,
}

#[derive(Debug, Deserialize)]
struct ReadyLine {
    regions: Vec<RegionLine>,
    one_way_ms: OneWayMs,
}

#[derive(Debug, Deserialize)]
struct RegionLine {
    region: String,
    http: String,
    admin: String,
    pid: u32,
    data: PathBuf,
}

impl Cluster {
    /// Starts three regions on free ports with empty data and waits until `dev` says that they are ready.
    ///
    /// # Errors
    /// When they do not become ready; with the end of `dev`'s stderr.
    pub fn start(setup: &Setup) -> Result<Self, Failure> {
        Self::start_with(setup, &[])
    }

    /// As [`Cluster::start`], with settings (`section.key=value`) for every daemon.
    ///
    /// # Errors
    /// Likewise, also when a setting is not known.
    pub fn start_with(setup: &Setup, settings: &[String]) -> Result<Self, Failure> {
        Self::start_as(setup, &set(settings))
    }

    /// As [`Cluster::start`], with further flags of `dev`.
    ///
    /// # Errors
    /// Likewise, also when a flag is not known.
    pub fn start_as(setup: &Setup, flags: &[String]) -> Result<Self, Failure> {
        let scratch = setup.scratch()?;
        let mut command = Command::new(&setup.binary);
        command.args(["dev", "-o", "json", "--port-base", "0", "--fresh", "--data-dir"]).arg(scratch.path().join("dev")).args(flags);
        let started = Instant::now();
        let mut dev = Process::start(&mut command, &scratch.path().join("dev.log"))?;
        let line = first_line(&mut dev, READY_MAX)?;
        let ready_after = started.elapsed();
        let (regions, one_way_ms) = understood(&line)?;
        Ok(Self { dev, regions, one_way_ms, ready_after, _scratch: scratch })
    }

    /// As [`Cluster::start`], and waits until each region serves keys of all others itself.
    ///
    /// # Errors
    /// When that takes longer than a minute.
    pub fn settled(setup: &Setup) -> Result<Self, Failure> {
        Self::settled_with(setup, &[])
    }

    /// As [`Cluster::settled`], with settings for every daemon.
    ///
    /// # Errors
    /// Likewise.
    pub fn settled_with(setup: &Setup, settings: &[String]) -> Result<Self, Failure> {
        Self::settled_as(setup, &set(settings))
    }

    /// As [`Cluster::settled`], with further flags of `dev`.
    ///
    /// # Errors
    /// Likewise.
    pub fn settled_as(setup: &Setup, flags: &[String]) -> Result<Self, Failure> {
        let cluster = Self::start_as(setup, flags)?;
        let by = Instant::now() + SETTLE_MAX;
        for probe in 0..PROBES {
            cluster.region(probe).put(&format!("probe/{probe}"), b"probe")?;
        }
        for region in &cluster.regions {
            while !region.serves_itself((0..PROBES).map(|probe| format!("probe/{probe}")))? {
                if Instant::now() > by {
                    return Err(format!("{} does not serve every key itself after {} s", region.name, SETTLE_MAX.as_secs()).into());
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(cluster)
    }

    /// Waits until no slot moves, every region takes strong writes and owners have the promises of their slots, as they do soon after a start.
    ///
    /// # Errors
    /// When that takes longer than a minute; with what a daemon answers.
    pub fn await_strong(&self) -> Result<(), Failure> {
        let by = Instant::now() + SETTLE_MAX;
        for region in &self.regions {
            region.await_strong_writes(by)?;
        }
        let mut before = None;
        loop {
            let promises = crate::admin::sum(self, "isochrone_strong_promises_total", "")?;
            let moving = crate::admin::look(self.regions[0].admin, "/v1/admin/placement")?["slots_moving"].as_u64();
            if moving == Some(0) && before == Some(promises) {
                return Ok(());
            }
            if Instant::now() > by {
                return Err(format!("strong slots are not at rest: {moving:?} move, {promises} promises were asked for").into());
            }
            before = Some(promises);
            std::thread::sleep(STILL);
        }
    }

    /// A region by any number.
    #[must_use]
    pub fn region(&self, number: u32) -> &Region {
        &self.regions[number as usize % self.regions.len()]
    }

    /// A region by its name.
    ///
    /// # Errors
    /// When there is none of that name; with those that there are.
    pub fn named(&self, name: &str) -> Result<&Region, Failure> {
        let names = || self.regions.iter().map(|region| region.name.as_str()).collect::<Vec<_>>().join(", ");
        self.regions.iter().find(|region| region.name == name).ok_or_else(|| format!("no region {name}; there are {}", names()).into())
    }

    /// The round trip from a region to the nearest majority of all regions, itself among them.
    #[must_use]
    pub fn floor(&self, region: &str) -> Duration {
        let mut trips: Vec<Duration> = self.regions.iter().map(|other| self.one_way(region, &other.name) * 2).collect();
        trips.sort_unstable();
        trips[self.regions.len() / 2]
    }

    /// The one-way delay between two regions.
    #[must_use]
    pub fn one_way(&self, from: &str, to: &str) -> Duration {
        let ms = self.one_way_ms.get(from).and_then(|row| row.get(to)).copied().unwrap_or(0.0);
        Duration::from_secs_f64(ms.max(0.0) / 1e3)
    }
}

/// Flags for settings.
fn set(settings: &[String]) -> Vec<String> {
    settings.iter().flat_map(|setting| ["--set".to_owned(), setting.clone()]).collect()
}

impl Drop for Cluster {
    /// Ends `dev`, which ends its daemons; whatever of them is left is killed.
    fn drop(&mut self) {
        self.dev.stop();
        let by = Instant::now() + GONE_MAX;
        for region in &self.regions {
            if !gone_by(region.pid, by) {
                send(region.pid, "KILL");
            }
        }
    }
}

impl Region {
    /// Writes a key in `data`.
    ///
    /// # Errors
    /// When it is not taken.
    pub fn put(&self, key: &str, value: &[u8]) -> Result<(), Failure> {
        let mut wire = Wire::connect(self.http, PATIENCE)?;
        let answer = wire.ask(&wire::put(&format!("/v1/kv/data/{key}"), value))?;
        if answer.is_ok() {
            return Ok(());
        }
        Err(format!("{} answers {} to a write: {}", self.name, answer.status, String::from_utf8_lossy(answer.body)).into())
    }

    fn await_strong_writes(&self, by: Instant) -> Result<(), Failure> {
        let mut wire = Wire::connect(self.http, PATIENCE)?;
        for probe in 0..PROBES {
            let request = wire::put(&format!("/v1/kv/strong/probe/{}/{probe}", self.name), b"probe");
            loop {
                let answer = wire.ask(&request)?;
                if answer.is_ok() {
                    break;
                }
                if Instant::now() > by {
                    let said = String::from_utf8_lossy(answer.body).into_owned();
                    return Err(format!("{} answers {} to a strong write: {said}", self.name, answer.status).into());
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    /// Whether this daemon has all of the keys in `data`, and answers from its own copy.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn serves_itself(&self, keys: impl IntoIterator<Item = String>) -> Result<bool, Failure> {
        let mut wire = Wire::connect(self.http, PATIENCE)?;
        for key in keys {
            let answer = wire.ask(&wire::get(&format!("/v1/kv/data/{key}")))?;
            if answer.status != 200 || answer.field("isochrone-region") != Some(&self.name) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether it says that it is ready, and takes clients.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        is_ready(self.admin, self.http)
    }
}

/// Whether a daemon says on its admin listener that it is ready, and takes clients on the other.
#[must_use]
pub fn is_ready(admin: SocketAddr, http: SocketAddr) -> bool {
    let patience = Duration::from_secs(2);
    let said = Wire::connect(admin, patience).and_then(|mut wire| wire.ask(&wire::get("/readyz")).map(|answer| answer.status));
    said.is_ok_and(|status| status == 200) && Wire::connect(http, patience).is_ok()
}

/// The first line of a process's stdout. What follows is read and thrown away, so that the process never waits for it.
fn first_line(process: &mut Process, patience: Duration) -> Result<String, Failure> {
    let stdout = process.stdout().ok_or("its stdout is read already")?;
    let (sender, line) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    line.recv_timeout(patience).map_err(|_| format!("`dev` did not become ready:\n{}", process.last_words()).into())
}

fn understood(line: &str) -> Result<(Vec<Region>, OneWayMs), Failure> {
    let line: ReadyLine = serde_json::from_str(line).map_err(|error| format!("`dev` said {line:?}: {error}"))?;
    let regions = line.regions.into_iter().map(|region| {
        let (http, admin) = (address(&region.http)?, address(&region.admin)?);
        Ok(Region { name: region.region, http, admin, pid: region.pid, data: region.data })
    });
    Ok((regions.collect::<Result<_, Failure>>()?, line.one_way_ms))
}

fn address(url: &str) -> Result<SocketAddr, Failure> {
    let rest = url.strip_prefix("http://").ok_or_else(|| format!("{url} is not an http URL"))?;
    rest.trim_end_matches('/').parse().map_err(|error| format!("{url}: {error}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_of_the_contract_is_understood() {
        let line = r#"{"ready": true, "regions": [{"region": "us-east", "http": "http://127.0.0.1:18000", "admin":
            "http://127.0.0.1:18010", "pid": 4711, "data": "/d/us-east"}], "one_way_ms": {"us-east": {"eu-west": 37.5}}}"#;
        let (regions, one_way) = understood(line).expect("understood");
        assert_eq!((regions[0].name.as_str(), regions[0].http.port(), regions[0].pid), ("us-east", 18000, 4711));
        assert_eq!(one_way["us-east"]["eu-west"], 37.5);
        assert!(understood("ready").is_err());
    }

    #[test]
    fn a_process_that_ends_early_is_told_with_its_last_words() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut process =
            Process::start(Command::new("sh").arg("-c").arg("echo in the way >&2"), &dir.path().join("log")).expect("started");
        let failure = first_line(&mut process, Duration::from_secs(5)).expect_err("no line");
        assert!(failure.to_string().contains("in the way"), "{failure}");
    }
}
