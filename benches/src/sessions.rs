//! `sessions`: what a session token costs (rule E9): its bytes, and the waiting for it.
//!
//! Waiting: a new key is written in one region, and read at once in another one with the token of that write; the daemon there waits until it
//! has the write, or asks one that has. The time is that of the read alone, so the one-way delay less the write's own answer is the least it can
//! be where nobody is asked. Beside it: a read of the same region without a token. Roaming: a client goes round the regions, reads what it wrote last in the
//! one before and writes it anew, always with its newest token; an observer of its own session goes round the other way and must never see an older
//! value than before.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::cluster::{Cluster, PATIENCE, Region};
use crate::latency::Latencies;
use crate::setup::Setup;
use crate::table::{Table, time};
use crate::wire::{self, Wire};

const FIELD: &str = "isochrone-session";
/// What HTTP adds to the token in each direction: the field's name, `: ` and the line's end.
const FIELD_BYTES: usize = FIELD.len() + 4;
/// At most so many bytes: the contract's 1 KiB.
const TOKEN_BYTES_MAX: usize = 1024;

/// The bounds of a run.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct SessionsArgs {
    /// Writes for each pair of regions.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub writes: u32,
    /// Rounds of the roaming client.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rounds: u32,
}

/// A client with a session.
struct Client {
    wires: Vec<Wire>,
    token: Option<String>,
    token_bytes: usize,
    times: Latencies,
    failed: u64,
}

impl Client {
    fn new(addresses: &[SocketAddr]) -> Result<Self, Failure> {
        let wires = addresses.iter().map(|&address| Wire::connect(address, PATIENCE)).collect::<Result<_, _>>()?;
        Ok(Self { wires, token: None, token_bytes: 0, times: Latencies::default(), failed: 0 })
    }

    fn session(&self) -> String {
        self.token.as_ref().map_or_else(String::new, |token| format!("{FIELD}: {token}\r\n"))
    }

    /// Writes through one of the wires, in the session; the entity tag.
    fn put(&mut self, wire: usize, path: &str, value: &[u8]) -> Result<String, Failure> {
        let request = wire::with_body("PUT", path, &self.session(), value);
        let answer = self.wires[wire].ask(&request)?;
        if !answer.is_ok() {
            return Err(format!("a write was answered with {}: {}", answer.status, String::from_utf8_lossy(answer.body)).into());
        }
        let token = answer.field(FIELD).ok_or("this daemon gives no session tokens")?.to_owned();
        let etag = answer.field("etag").unwrap_or_default().to_owned();
        self.keep(token);
        Ok(etag)
    }

    /// Reads through one of the wires, in the session: entity tag and value, `None` when there is no value.
    fn get(&mut self, wire: usize, path: &str) -> Result<Option<(String, Vec<u8>)>, Failure> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\n{}\r\n", self.session()).into_bytes();
        let before = Instant::now();
        let answer = self.wires[wire].ask(&request)?;
        self.times.record(before.elapsed());
        let found = (answer.status == 200).then(|| (answer.field("etag").unwrap_or_default().to_owned(), answer.body.to_owned()));
        let token = answer.field(FIELD).map(str::to_owned);
        if !answer.is_ok() && answer.status != 404 {
            self.failed += 1;
        }
        if let Some(token) = token {
            self.keep(token);
        }
        Ok(found)
    }

    fn keep(&mut self, token: String) {
        self.token_bytes = self.token_bytes.max(token.len());
        self.token = Some(token);
    }
}

/// What reads in one region right after writes in another came to.
struct Waited {
    from: String,
    to: String,
    one_way: Duration,
    with: Latencies,
    without: Latencies,
    /// Reads that did not show the write.
    stale: u64,
    token_bytes: usize,
}

/// Runs it.
///
/// # Errors
/// When the regions cannot be started, or give no tokens.
pub fn run(setup: &Setup, args: SessionsArgs) -> Result<(), Failure> {
    let cluster = Cluster::settled(setup)?;
    let waited = waiting(&cluster, args.writes)?;
    let columns = ["written in", "read in", "one way", "read with the token", "read without", "older than the write"];
    let mut table = Table::new("A read with a session token right after a write in another region", &columns);
    for one in &waited {
        let stale = if one.stale == 0 { "0".to_owned() } else { format!("{} (NO)", one.stale) };
        let times = [time(one.one_way), one.with.summary(), one.without.summary()];
        table.row([one.from.clone(), one.to.clone()].into_iter().chain(times).chain([stale]));
    }
    println!("{table}");
    println!("{}", roam(&cluster, args.rounds, waited.iter().map(|one| one.token_bytes).max().unwrap_or(0))?);
    Ok(())
}

/// Every region writes at once, and reads in each other one.
fn waiting(cluster: &Cluster, writes: u32) -> Result<Vec<Waited>, Failure> {
    thread::scope(|scope| {
        let writer = |from| scope.spawn(move || waiting_from(cluster, from, writes));
        let writers: Vec<_> = cluster.regions.iter().map(writer).collect();
        let waited = writers.into_iter().map(|writer| writer.join().map_err(|_| "a writer panicked")?);
        Ok(waited.collect::<Result<Vec<_>, Failure>>()?.into_iter().flatten().collect())
    })
}

fn waiting_from(cluster: &Cluster, from: &Region, writes: u32) -> Result<Vec<Waited>, Failure> {
    let others = cluster.regions.iter().filter(|to| to.name != from.name);
    others.map(|to| waiting_between(from, to, cluster.one_way(&from.name, &to.name), writes)).collect()
}

fn waiting_between(from: &Region, to: &Region, one_way: Duration, writes: u32) -> Result<Waited, Failure> {
    let mut client = Client::new(&[from.http, to.http])?;
    let mut stranger = Client::new(&[to.http])?;
    let mut stale = 0;
    for number in 0..writes {
        let path = format!("/v1/kv/data/session/{}/{}/{number:06}", from.name, to.name);
        let etag = client.put(0, &path, b"written")?;
        let found = client.get(1, &path)?;
        stale += u64::from(found.is_none_or(|(seen, _)| seen != etag));
        stranger.token = None;
        stranger.get(0, &path)?;
    }
    let (from, to, token_bytes) = (from.name.clone(), to.name.clone(), client.token_bytes);
    Ok(Waited { from, to, one_way, with: client.times, without: stranger.times, stale, token_bytes })
}

/// The roaming client and its observer; `token_bytes` is the longest token so far.
fn roam(cluster: &Cluster, rounds: u32, token_bytes: usize) -> Result<Table, Failure> {
    let addresses: Vec<SocketAddr> = cluster.regions.iter().map(|region| region.http).collect();
    let (mut client, mut observer) = (Client::new(&addresses)?, Client::new(&addresses)?);
    let path = "/v1/kv/data/session/roaming";
    let (mut newest, mut observed, mut lost, mut back) = (0_u64, 0_u64, 0_u64, 0_u64);
    client.put(0, path, b"0")?;
    for step in 1..=rounds as usize * addresses.len() {
        let here = step % addresses.len();
        lost += u64::from(number_of(client.get(here, path)?) != Some(newest));
        newest += 1;
        client.put(here, path, newest.to_string().as_bytes())?;
        // A session that has seen nothing yet is promised nothing.
        let seen = number_of(observer.get(addresses.len() - 1 - here, path)?).unwrap_or(0);
        back += u64::from(seen < observed);
        observed = observed.max(seen);
    }
    let longest = token_bytes.max(client.token_bytes).max(observer.token_bytes);
    let mut table = Table::of_targets(format!("A client that roams through {} regions, {rounds} rounds", addresses.len()));
    let is_short = longest <= TOKEN_BYTES_MAX;
    table.judge("longest token", format!("<= {TOKEN_BYTES_MAX} bytes"), format!("{longest} bytes"), is_short);
    table.note("with its field, in each request and each answer", format!("{} bytes", longest + FIELD_BYTES));
    table.none("reads that did not show the client's last write", lost);
    table.none("reads of the observer that went back in time", back);
    table.none("reads refused", client.failed + observer.failed);
    table.note("the client's reads", client.times.summary());
    table.note("the observer's reads", observer.times.summary());
    Ok(table)
}

fn number_of(found: Option<(String, Vec<u8>)>) -> Option<u64> {
    std::str::from_utf8(&found?.1).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_sent_back_once_there_is_one() {
        let mut client = Client::new(&[]).expect("no connections");
        assert_eq!(client.session(), "");
        client.keep("abc".to_owned());
        client.keep("d".to_owned());
        assert_eq!((client.session().as_str(), client.token_bytes), ("isochrone-session: d\r\n", 3));
        assert_eq!(client.session().len(), 1 + FIELD_BYTES);
    }

    #[test]
    fn a_value_that_is_no_number_was_not_written_here() {
        assert_eq!(number_of(Some((String::new(), b"17".to_vec()))), Some(17));
        assert_eq!(number_of(Some((String::new(), b"x".to_vec()))), None);
        assert_eq!(number_of(None), None);
    }
}
