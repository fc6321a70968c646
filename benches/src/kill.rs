//! `kill`: one daemon of three is killed (SIGKILL) while clients write and read through the other two, and is started again near the end.
//!
//! Every write is of a new key, and is repeated under its own `Idempotency-Key` until it is acknowledged; its time counts from
//! its first attempt to the acknowledgement, so that the longest time is also the longest time in which a living daemon failed a request.
//! Reads of the key that was acknowledged last go beside them and are counted alike. The restarted daemon has caught up when its own listing holds
//! every write that was acknowledged before its start, in that version; the time counts from the start of its process to
//! the end of that listing. At the end every acknowledged write is read from all three, value and entity tag compared.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::cluster::{Cluster, PATIENCE, Region};
use crate::latency::Latencies;
use crate::listing::{self, Keys};
use crate::pace::{Schedule, wait_until};
use crate::process::{Process, send};
use crate::setup::Setup;
use crate::single::serve;
use crate::table::{Table, time};
use crate::wire::{self, Wire};

const TARGET_OUTAGE: Duration = Duration::from_secs(1);
const TARGET_CAUGHT_UP: Duration = Duration::from_secs(5);
/// One attempt of a request.
const ATTEMPT_MAX: Duration = Duration::from_secs(2);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(10);
/// A request that fails for so long is given up.
const GIVEN_UP: Duration = Duration::from_secs(30);
/// Catching up may take so long before it is given up.
const CAUGHT_UP_MAX: Duration = Duration::from_secs(120);
/// Connections that write to each living daemon, and one that reads.
const WRITERS: u32 = 4;
/// So many of the newest keys are asked for, to see that the restarted daemon serves them itself.
const NEWEST: usize = 64;
/// So many keys are looked for one by one, before a whole listing is.
const PROBES: usize = 200;
/// Bytes of a value.
const VALUE_BYTES: usize = 200;

/// The bounds of a run.
#[derive(Debug, Clone, clap::Args)]
pub struct KillArgs {
    /// Seconds of writes.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(3..=3600))]
    pub seconds: u64,
    /// Writes a second through each of the two living daemons; reads are a quarter of it.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(4..=100_000))]
    pub rate: u32,
    /// The region whose daemon is killed.
    #[arg(long, default_value = "us-east")]
    pub victim: String,
    /// Seconds from the start to the kill [default: a tenth].
    #[arg(long)]
    pub kill_at: Option<u64>,
    /// Seconds from the start to the restart [default: five sixths].
    #[arg(long)]
    pub restart_at: Option<u64>,
}

/// A write that a daemon acknowledged.
#[derive(Debug, Clone)]
struct Acknowledged {
    key: String,
    etag: String,
}

/// What every thread of the load shares.
#[derive(Debug, Default)]
struct Load {
    acknowledged: Mutex<Vec<Acknowledged>>,
    is_over: AtomicBool,
}

/// What came of the requests of one thread, or of several.
#[derive(Debug, Clone, Default)]
struct Requests {
    /// From the first attempt to the answer.
    times: Latencies,
    failed_attempts: u64,
    given_up: u64,
    /// What the last failed attempt was answered with.
    last_failure: Option<String>,
}

/// How the restarted daemon came back.
#[derive(Debug)]
struct Return {
    before: usize,
    ready: Option<Duration>,
    /// The first half of the probes, in the order of their writes.
    half: Option<Duration>,
    caught_up: Option<Duration>,
    serves_itself: bool,
}

/// Runs it.
///
/// # Errors
/// When the regions cannot be started, or the daemon not started again.
pub fn run(setup: &Setup, args: &KillArgs) -> Result<(), Failure> {
    let cluster = Cluster::settled(setup)?;
    let victim = cluster.named(&args.victim)?.clone();
    let living: Vec<&Region> = cluster.regions.iter().filter(|region| region.name != victim.name).collect();
    let load = Load::default();
    let start = Instant::now() + Duration::from_millis(50);
    let end = start + Duration::from_secs(args.seconds);
    let (kill_at, restart_at) = args.times();
    let (seen, back, _daemon) = thread::scope(|scope| {
        let lanes: Vec<_> = living
            .iter()
            .flat_map(|region| (0..=WRITERS).map(move |lane| (*region, lane)))
            .map(|(region, lane)| {
                (
                    region.name.clone(),
                    lane,
                    scope.spawn({
                        let load = &load;
                        move || load.lane(region, lane, args.rate, start, end)
                    }),
                )
            })
            .collect();
        wait_until(start + kill_at);
        send(victim.pid, "KILL");
        wait_until(start + restart_at);
        let back = come_back(setup, &victim, &load);
        if back.is_err() {
            load.is_over.store(true, Ordering::Relaxed);
        }
        let seen: Vec<_> = lanes.into_iter().map(|(name, lane, thread)| (name, lane, thread.join().unwrap_or_default())).collect();
        back.map(|(back, daemon)| (seen, back, daemon))
    })?;
    let acknowledged = load.take();
    let title = format!(
        "{} killed after {} s of {} s of writes, started again after {} s; {} writes a second through each of the others",
        victim.name,
        kill_at.as_secs(),
        args.seconds,
        restart_at.as_secs(),
        args.rate
    );
    let mut table = Table::of_targets(title);
    table.note("writes acknowledged", acknowledged.len().to_string());
    living.iter().for_each(|region| tell_requests(&mut table, &region.name, &seen));
    tell_return(&mut table, &victim.name, &back);
    tell_kept(&mut table, &cluster, &acknowledged)?;
    println!("{table}");
    Ok(())
}

impl KillArgs {
    fn times(&self) -> (Duration, Duration) {
        let kill_at = self.kill_at.unwrap_or(self.seconds / 10).min(self.seconds);
        let restart_at = self.restart_at.unwrap_or(self.seconds * 5 / 6).clamp(kill_at, self.seconds);
        (Duration::from_secs(kill_at), Duration::from_secs(restart_at))
    }
}

impl Load {
    fn acknowledge(&self, key: String, etag: String) {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push(Acknowledged { key, etag });
    }

    /// Every write that was acknowledged by now.
    fn so_far(&self) -> Vec<Acknowledged> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn take(&self) -> Vec<Acknowledged> {
        std::mem::take(&mut *self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// One thread's requests: the last lane of a region reads, the others write.
    fn lane(&self, region: &Region, lane: u32, rate: u32, start: Instant, end: Instant) -> Requests {
        let is_reader = lane == WRITERS;
        let schedule = if is_reader { Schedule::of_lane(start, rate / 4, 0, 1) } else { Schedule::of_lane(start, rate, lane, WRITERS) };
        let mut client = Client { address: region.http, wire: None, seen: Requests::default() };
        let mut newest = None;
        for (number, due) in schedule.until(end).enumerate() {
            if self.is_over.load(Ordering::Relaxed) {
                break;
            }
            wait_until(due);
            if is_reader {
                self.read(&mut client, &mut newest, &region.name);
            } else {
                self.write(&mut client, format!("kill/{}/{lane}/{number:08}", region.name));
            }
        }
        client.seen
    }

    fn write(&self, client: &mut Client, key: String) {
        let fields = format!("Content-Type: text/plain\r\nIdempotency-Key: {key}\r\n");
        let request = wire::with_body("PUT", &format!("/v1/kv/data/{key}"), &fields, &value(&key));
        let etag = client.until_ok(&request, |answer| answer.is_ok().then(|| answer.field("etag").unwrap_or_default().to_owned()));
        if let Some(etag) = etag {
            self.acknowledge(key, etag);
        }
    }

    /// Reads the newest key that was acknowledged in that region.
    fn read(&self, client: &mut Client, newest: &mut Option<String>, region: &str) {
        let prefix = format!("kill/{region}/");
        let acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        let found = acknowledged.iter().rev().take(1000).find(|one| one.key.starts_with(&prefix)).map(|one| one.key.clone());
        drop(acknowledged);
        if found.is_some() {
            *newest = found;
        }
        if let Some(key) = newest {
            let request = wire::get(&format!("/v1/kv/data/{key}"));
            client.until_ok(&request, |answer| (answer.status == 200 && answer.body == value(key)).then_some(()));
        }
    }
}

/// The value of a key: no other key has it.
fn value(key: &str) -> Vec<u8> {
    key.bytes().chain(std::iter::once(b' ')).cycle().take(VALUE_BYTES).collect()
}

/// One client, which connects anew after each failure.
struct Client {
    address: SocketAddr,
    wire: Option<Wire>,
    seen: Requests,
}

impl Client {
    /// Repeats a request until `good` finds in its answer what was wanted.
    fn until_ok<T>(&mut self, request: &[u8], good: impl Fn(&wire::Answer<'_>) -> Option<T>) -> Option<T> {
        let first = Instant::now();
        while first.elapsed() < GIVEN_UP {
            match self.attempt(request, &good) {
                Ok(found) => {
                    self.seen.times.record(first.elapsed());
                    return Some(found);
                }
                Err(failure) => {
                    self.seen.failed_attempts += 1;
                    self.seen.last_failure = Some(failure);
                }
            }
            thread::sleep(PAUSE);
        }
        self.seen.times.record(first.elapsed());
        self.seen.given_up += 1;
        None
    }

    fn attempt<T>(&mut self, request: &[u8], good: impl Fn(&wire::Answer<'_>) -> Option<T>) -> Result<T, String> {
        let mut wire = match self.wire.take() {
            Some(wire) => wire,
            None => Wire::connect(self.address, ATTEMPT_MAX).map_err(|error| error.to_string())?,
        };
        let answer = wire.ask(request).map_err(|error| error.to_string())?;
        let found = good(&answer).ok_or_else(|| format!("{} {}", answer.status, String::from_utf8_lossy(answer.body)));
        self.wire = Some(wire);
        found
    }
}

/// Starts the killed daemon again, and waits until it has what was acknowledged before.
fn come_back(setup: &Setup, victim: &Region, load: &Load) -> Result<(Return, Process), Failure> {
    let before = load.so_far();
    let mut probes = spread(&before, PROBES);
    let started = Instant::now();
    let mut daemon = serve(&setup.binary, &victim.data.join("node.toml"), &log_of(&victim.data))?;
    let (mut ready, mut half, mut caught_up) = (None, None, None);
    let half_of_them = probes.len() / 2;
    while caught_up.is_none() && started.elapsed() < CAUGHT_UP_MAX {
        if daemon.has_ended() {
            return Err(format!("the daemon of {} did not start again:\n{}", victim.name, daemon.last_words()).into());
        }
        ready = ready.or_else(|| victim.is_ready().then(|| started.elapsed()));
        // Whole listings only once it is likely: they would take the time that catching up needs.
        let _ = still_absent(victim, &mut probes);
        half = half.or_else(|| (probes.len() <= half_of_them).then(|| started.elapsed()));
        let has_all = probes.is_empty() && listing::keys(victim.http, "kill/").is_ok_and(|keys| missing(&before, &keys) == 0);
        caught_up = has_all.then(|| started.elapsed());
        thread::sleep(PAUSE);
    }
    let newest = before.iter().rev().take(NEWEST).map(|one| one.key.clone());
    let serves_itself = caught_up.is_some() && victim.serves_itself(newest)?;
    Ok((Return { before: before.len(), ready, half, caught_up, serves_itself }, daemon))
}

/// So many of the writes, evenly spread, the newest the last.
fn spread(writes: &[Acknowledged], count: usize) -> Vec<Acknowledged> {
    let step = writes.len().div_ceil(count).max(1);
    let mut chosen: Vec<_> = writes.iter().rev().step_by(step).cloned().collect();
    chosen.reverse();
    chosen
}

/// Takes off those that the daemon has in their version; it is asked for no more of them after the first that is absent.
fn still_absent(region: &Region, probes: &mut Vec<Acknowledged>) -> io::Result<()> {
    let mut wire = Wire::connect(region.http, ATTEMPT_MAX)?;
    while let Some(one) = probes.first() {
        let answer = wire.ask(&wire::get(&format!("/v1/kv/data/{}", one.key)))?;
        if answer.status != 200 || answer.field("etag") != Some(&one.etag) {
            return Ok(());
        }
        probes.remove(0);
    }
    Ok(())
}

fn log_of(data: &Path) -> PathBuf {
    data.join("daemon-again.log")
}

/// How many acknowledged writes a listing does not hold in their version.
fn missing(acknowledged: &[Acknowledged], keys: &Keys) -> usize {
    acknowledged.iter().filter(|one| keys.get(&one.key) != Some(&one.etag)).count()
}

fn tell_requests(table: &mut Table, region: &str, seen: &[(String, u32, Requests)]) {
    for (kind, is_reader) in [("write", false), ("read", true)] {
        let mut sum = Requests::default();
        for (_, _, one) in seen.iter().filter(|(name, lane, _)| name == region && (*lane == WRITERS) == is_reader) {
            sum.times.add(&one.times);
            sum.failed_attempts += one.failed_attempts;
            sum.given_up += one.given_up;
            sum.last_failure = sum.last_failure.or_else(|| one.last_failure.clone());
        }
        let longest = sum.times.max();
        let is_met = longest <= TARGET_OUTAGE && sum.given_up == 0;
        table.judge(format!("{region}: longest time until a {kind} succeeded"), "<= 1 s", time(longest), is_met);
        let last = sum.last_failure.map_or_else(String::new, |failure| format!(", the last: {failure}"));
        let counts = format!("{}, failed attempts {}{last}", sum.times.summary(), sum.failed_attempts);
        table.note(format!("{region}: {} {kind}s", sum.times.count()), counts);
    }
}

fn tell_return(table: &mut Table, victim: &str, back: &Return) {
    let shown = |took: Option<Duration>| took.map_or_else(|| "never".to_owned(), time);
    table.note(format!("{victim}: from start to ready"), shown(back.ready));
    table.note(format!("{victim}: from start to the first half of the writes acknowledged before"), shown(back.half));
    let what = format!("{victim}: from start to all {} writes acknowledged before", back.before);
    match back.caught_up {
        Some(took) => table.at_most(what, TARGET_CAUGHT_UP, took),
        None => table.judge(what, "<= 5.00 s", format!("not within {} s", CAUGHT_UP_MAX.as_secs()), false),
    }
    table.judge(
        format!("{victim}: serves the newest of them itself"),
        "yes",
        if back.serves_itself { "yes" } else { "no" },
        back.serves_itself,
    );
}

/// Every acknowledged write, asked of every daemon, once each has had time to get the last ones.
fn tell_kept(table: &mut Table, cluster: &Cluster, acknowledged: &[Acknowledged]) -> Result<(), Failure> {
    let counts: Vec<Result<u64, Failure>> = thread::scope(|scope| {
        let asked: Vec<_> = cluster.regions.iter().map(|region| scope.spawn(|| absent(region, acknowledged))).collect();
        asked.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a reader panicked".into()))).collect()
    });
    for (region, count) in cluster.regions.iter().zip(counts) {
        table.none(format!("{}: acknowledged writes absent or different at the end", region.name), count?);
    }
    Ok(())
}

fn absent(region: &Region, acknowledged: &[Acknowledged]) -> Result<u64, Failure> {
    let by = Instant::now() + GIVEN_UP;
    while Instant::now() < by && missing(acknowledged, &listing::keys(region.http, "kill/")?) > 0 {
        thread::sleep(Duration::from_millis(100));
    }
    let mut wire = Wire::connect(region.http, PATIENCE)?;
    let mut absent = 0;
    for one in acknowledged {
        let answer = wire.ask(&wire::get(&format!("/v1/kv/data/{}", one.key)))?;
        let is_kept = answer.status == 200 && answer.field("etag") == Some(&one.etag) && answer.body == value(&one.key);
        absent += u64::from(!is_kept);
    }
    Ok(absent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acknowledged(key: &str, etag: &str) -> Acknowledged {
        Acknowledged { key: key.to_owned(), etag: etag.to_owned() }
    }

    #[test]
    fn a_write_in_another_version_is_missing() {
        let keys = Keys::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "9".to_owned())]);
        let writes = [acknowledged("a", "1"), acknowledged("b", "2"), acknowledged("c", "3")];
        assert_eq!(missing(&writes, &keys), 2);
    }

    #[test]
    fn probes_are_spread_and_end_with_the_newest() {
        let writes: Vec<_> = (0..1000).map(|n| acknowledged(&format!("{n}"), "")).collect();
        let probes = spread(&writes, 10);
        assert_eq!(probes.len(), 10);
        assert_eq!((probes[0].key.as_str(), probes[9].key.as_str()), ("99", "999"));
        assert_eq!(spread(&writes[..3], 10).len(), 3);
        assert!(spread(&[], 10).is_empty());
    }

    #[test]
    fn values_tell_keys_apart() {
        assert_eq!(value("kill/a/1").len(), VALUE_BYTES);
        assert_ne!(value("kill/a/1"), value("kill/a/2"));
    }

    #[test]
    fn the_daemon_is_killed_before_it_is_restarted_however_short_the_run() {
        let args = |seconds, kill_at, restart_at| KillArgs { seconds, rate: 4, victim: String::new(), kill_at, restart_at };
        let seconds = |(kill, restart): (Duration, Duration)| (kill.as_secs(), restart.as_secs());
        assert_eq!(seconds(args(60, None, None).times()), (6, 50));
        assert_eq!(seconds(args(3, None, None).times()), (0, 2));
        assert_eq!(seconds(args(10, Some(20), Some(1)).times()), (10, 10));
    }

    #[test]
    fn the_time_of_a_request_counts_from_its_first_attempt() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        thread::spawn(move || {
            use std::io::{Read, Write};
            for status in ["503 Service Unavailable", "204 No Content"] {
                let (mut stream, _) = listener.accept().expect("a client");
                let _ = stream.read(&mut [0; 1024]);
                thread::sleep(Duration::from_millis(50));
                let answer = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).expect("sent");
            }
        });
        let mut client = Client { address, wire: None, seen: Requests::default() };
        assert!(client.until_ok(&wire::get("/"), |answer| answer.is_ok().then_some(())).is_some());
        // The refusal, and perhaps the closed connection that a new attempt met.
        assert!((1..=2).contains(&client.seen.failed_attempts), "{:?}", client.seen);
        assert!(client.seen.times.max() >= Duration::from_millis(100) + PAUSE);
        assert_eq!((client.seen.times.count(), client.seen.given_up), (1, 0));
    }
}
