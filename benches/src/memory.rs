//! `memory`: what a key takes in memory and on disk, beside a Redis that holds the same.
//!
//! Each kind of key is loaded into a new `isochrone serve` and a new `redis-server` (append-only file, synced once a second), one after the other.
//! Memory is the resident memory of the process as the kernel counts it (VmRSS), less what it was when empty, over the number of keys:
//! once after loading and once after an orderly stop and start. It is no measure of what must be in memory: Isochrone keeps truth on disk and
//! copies in memory within `store.memory_bytes`, Redis everything. Disk is what the files take after the stop.

use std::net::SocketAddr;
use std::path::Path;

use crate::Failure;
use crate::flood::{self, Request, Work};
use crate::process::{Process, disk_bytes, resident_bytes};
use crate::resp::{Redis, Sync};
use crate::setup::Setup;
use crate::single::Recipe;
use crate::table::{Table, bytes};

const CONNECTIONS: u32 = 64;
const VALUE_BYTES: usize = 100;
/// Members of a set, of 12 bytes each.
const MEMBERS: u32 = 10;
/// Stands for ten digits of the key's number; see [`Request`].
const NUMBER: &str = "##########";
const JSON: &str = "Content-Type: application/json\r\n";

/// The bounds of a run.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct MemoryArgs {
    /// Keys of each kind.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub keys: u64,
}

/// A kind of key, and how one is written in each.
struct Kind {
    name: &'static str,
    ours: Request,
    theirs: Request,
}

/// Bytes of a process and its files.
#[derive(Debug, Clone, Copy)]
struct Taken {
    empty: u64,
    loaded: u64,
    restarted: u64,
    disk: u64,
}

/// Runs it.
///
/// # Errors
/// When Redis cannot be started.
pub fn run(setup: &Setup, args: MemoryArgs) -> Result<(), Failure> {
    let columns = ["kind", "in", "empty", "loaded", "memory a key, loaded", "memory a key, after a restart", "disk a key"];
    let mut table = Table::new(format!("Bytes a key, {} keys of each kind", args.keys), &columns);
    for kind in kinds() {
        let scratch = setup.scratch()?;
        // A daemon that has not this kind yet says so in its row.
        table.row(cells(&kind, "Isochrone", ours(setup, scratch.path(), &kind, args.keys), args.keys));
        let (version, taken) = theirs(scratch.path(), &kind, args.keys)?;
        table.row(cells(&kind, &version, Ok(taken), args.keys));
    }
    println!("{table}");
    Ok(())
}

fn kinds() -> [Kind; 3] {
    let value = [b'm'; VALUE_BYTES];
    let key = format!("memory/{NUMBER}");
    let members: Vec<String> = (0..MEMBERS).map(|member| format!("{NUMBER}{member:02}")).collect();
    let words = [b"SADD", key.as_bytes()].into_iter().chain(members.iter().map(String::as_bytes)).collect::<Vec<_>>();
    let set = format!("{{\"add\":[\"{}\"]}}", members.join("\",\""));
    [
        Kind { name: "value of 100 bytes", ours: Request::put("/v1/kv/data/memory/", &value), theirs: Request::set("memory/", &value) },
        Kind {
            name: "counter",
            ours: Request::http("POST", &format!("/v1/counters/data/{key}"), JSON, b"{\"add\":1}"),
            theirs: Request::resp(&[b"INCRBY", key.as_bytes(), b"1"]),
        },
        Kind {
            name: "set of 10 members of 12 bytes",
            ours: Request::http("POST", &format!("/v1/sets/data/{key}"), JSON, set.as_bytes()),
            theirs: Request::resp(&words),
        },
    ]
}

fn ours(setup: &Setup, dir: &Path, kind: &Kind, keys: u64) -> Result<Taken, Failure> {
    let recipe = Recipe::new(setup, dir)?;
    let mut started = recipe.start()?;
    let (empty, loaded) = load(recipe.http, &started.daemon, &kind.ours, keys)?;
    started.daemon.stop();
    let disk = disk_bytes(&recipe.data)?;
    let restarted = resident_bytes(recipe.start()?.daemon.pid())?;
    Ok(Taken { empty, loaded, restarted, disk })
}

fn theirs(dir: &Path, kind: &Kind, keys: u64) -> Result<(String, Taken), Failure> {
    let mut redis = Redis::start(dir, Sync::EverySecond)?;
    let (empty, loaded) = load(redis.address, &redis.process, &kind.theirs, keys)?;
    redis.process.stop();
    let disk = disk_bytes(&redis.data)?;
    let restarted = resident_bytes(Redis::start(dir, Sync::EverySecond)?.process.pid())?;
    Ok((redis.version.clone(), Taken { empty, loaded, restarted, disk }))
}

/// Memory before and after loading.
fn load(address: SocketAddr, process: &Process, request: &Request, keys: u64) -> Result<(u64, u64), Failure> {
    let empty = resident_bytes(process.pid())?;
    let flooded = flood::run(address, CONNECTIONS, request, Work::Each { keys })?;
    if flooded.failed > 0 {
        return Err(format!("{} of {keys} writes failed: {}", flooded.failed, flooded.last_failure.unwrap_or_default()).into());
    }
    Ok((empty, resident_bytes(process.pid())?))
}

fn cells(kind: &Kind, system: &str, taken: Result<Taken, Failure>, keys: u64) -> Vec<String> {
    let name = [kind.name.to_owned(), system.to_owned()];
    let figures = match taken {
        Ok(Taken { empty, loaded, restarted, disk }) => {
            let each = |sum: u64| (sum / keys).to_string();
            let grown = |to: u64| each(to.saturating_sub(empty));
            vec![bytes(empty), bytes(loaded), grown(loaded), grown(restarted), each(disk)]
        }
        Err(failure) => vec![format!("not measured: {}", first_line(&failure.to_string()))],
    };
    name.into_iter().chain(figures).collect()
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_before_is_not_counted() {
        let taken = Taken { empty: 1_000_000, loaded: 21_000_000, restarted: 900_000, disk: 30_000_000 };
        let cells = cells(&kinds()[0], "x", Ok(taken), 100_000);
        assert_eq!(cells[4..], ["200", "0", "300"]);
    }

    #[test]
    fn a_kind_that_is_refused_is_told_in_its_row() {
        let cells = cells(&kinds()[1], "x", Err("501 not built\nmore".into()), 10);
        assert_eq!(cells[2], "not measured: 501 not built");
    }
}
