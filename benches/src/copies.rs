//! `copies`: how soon a read copy goes when its key is written elsewhere (rule E10).
//!
//! The keys are of a namespace with one replica, so that two of three regions read copies. A key is read there until it is served from a
//! copy (`Cache-Status: ...; hit`, with an age), then it is overwritten in another region, and the reader is asked a thousand times a second. The time counts from
//! before the write is sent to when the first request was *sent* that was no longer answered with the old value: what that request then waits
//! for, a replica far away, is no staleness. The one-way delay from writer to reader is taken off. A write away from the key's replica reaches
//! the reader by way of the replica: those are told apart, and the way through the replica stands beside them. Every old answer after the write was
//! acknowledged must have told an age that covers the time since.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::admin::apply;
use crate::cluster::{Cluster, PATIENCE, Region};
use crate::latency::rank;
use crate::pace::wait_until;
use crate::setup::Setup;
use crate::table::{Table, signed_ms, verdict};
use crate::wire::{self, Wire};

const NAMESPACE: &str = "near";
const CLUSTER_FILE: &str = "[[namespace]]\nname = \"near\"\nmode = \"eventual\"\nreplicas = 1\n";
/// What may come on top of the one-way delay at p99.
const TARGET_MICROS: i64 = 10_000;
/// So long before a write can be known the asking begins.
const EARLY: Duration = Duration::from_millis(3);
/// How often it is asked.
const STEP: Duration = Duration::from_millis(1);
/// A copy that is still served after so long is lost.
const LOST_AFTER: Duration = Duration::from_secs(10);
/// The namespace, and then a copy of a key, may take so long to be there.
const THERE_MAX: Duration = Duration::from_secs(30);
/// Ages are told in whole milliseconds.
const AGE_SLACK: Duration = Duration::from_millis(1);
const OLD: &[u8] = b"old";
const NEW: &[u8] = b"new";

/// The bounds of a run.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct CopiesArgs {
    /// Keys that are copied and overwritten, all writers together.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(3..=100_000))]
    pub writes: u32,
}

/// A write that a reader is to notice.
struct Sent {
    key: String,
    at: Instant,
}

/// What a reader saw of one write.
#[derive(Debug, Default)]
struct Noticed {
    /// When the first request was sent that was not answered with the old value; `None`: there was none.
    gone: Option<Instant>,
    /// Old answers: when each was asked for, and the age it told.
    old: Vec<(Instant, Option<Duration>)>,
}

/// A region that reads copies, from the writer's side.
struct Reader {
    name: String,
    one_way: Duration,
    prime: Wire,
    sent: Sender<Sent>,
    noticed: Receiver<Noticed>,
}

/// From where to where, and whether the writer is the key's replica or, if not, which region is.
type Way = (String, String, Option<String>);

#[derive(Debug, Default)]
struct Seen {
    /// Beyond the one-way delay from writer to reader, in microseconds.
    beyond: Vec<i64>,
    lost: u64,
    /// Old answers that told no age, or one that does not cover the time since the write was acknowledged.
    untrue_ages: u64,
    old_answers: u64,
}

impl Seen {
    fn add(&mut self, other: &Self) {
        self.beyond.extend(&other.beyond);
        self.lost += other.lost;
        self.untrue_ages += other.untrue_ages;
        self.old_answers += other.old_answers;
    }

    fn note(&mut self, noticed: &Noticed, at: Instant, acknowledged: Instant, one_way: Duration) {
        match noticed.gone {
            Some(gone) => self.beyond.push(signed(gone - at, one_way)),
            None => self.lost += 1,
        }
        let untrue = noticed.old.iter().filter(|(asked, age)| !covers(*age, asked.saturating_duration_since(acknowledged)));
        self.untrue_ages += untrue.count() as u64;
        self.old_answers += noticed.old.len() as u64;
    }
}

fn signed(took: Duration, one_way: Duration) -> i64 {
    let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    micros(took) - micros(one_way)
}

/// Whether a told age covers how old the answer is known to be.
fn covers(age: Option<Duration>, known: Duration) -> bool {
    age.is_some_and(|age| age + AGE_SLACK >= known)
}

/// Runs it.
///
/// # Errors
/// When the regions cannot be started, the namespace is refused, or no copies are made.
pub fn run(setup: &Setup, args: CopiesArgs) -> Result<(), Failure> {
    let cluster = Cluster::settled(setup)?;
    apply(cluster.region(0), CLUSTER_FILE)?;
    cluster.regions.iter().try_for_each(await_namespace)?;
    let each = args.writes.div_ceil(cluster.regions.len() as u32);
    let seen = thread::scope(|scope| {
        let writers: Vec<_> = cluster.regions.iter().map(|from| scope.spawn(|| write(&cluster, from, each))).collect();
        let seen = writers.into_iter().map(|writer| writer.join().map_err(|_| "a writer panicked")?);
        seen.collect::<Result<Vec<_>, Failure>>()
    })?;
    tell(&cluster, &seen.into_iter().flatten().collect());
    Ok(())
}

/// Waits until the daemon knows the namespace and its one replica a key.
fn await_namespace(region: &Region) -> Result<(), Failure> {
    let by = Instant::now() + THERE_MAX;
    loop {
        match region.replicas_of(NAMESPACE, "probe") {
            Ok(replicas) if replicas.len() == 1 => return Ok(()),
            Ok(_) | Err(_) if Instant::now() < by => thread::sleep(Duration::from_millis(50)),
            Ok(replicas) => return Err(format!("{} keeps {NAMESPACE} on {} replicas", region.name, replicas.len()).into()),
            Err(failure) => return Err(failure),
        }
    }
}

fn tell(cluster: &Cluster, seen: &BTreeMap<Way, Seen>) {
    let title = "A read copy is served no longer after a write elsewhere: beyond the one-way delay from writer to reader";
    let columns = ["written in", "read in", "one way", "by way of", "that way", "p50", "target p99", "p99", "max", "lost", "met"];
    let mut table = Table::new(title, &columns);
    let (mut direct, mut all) = (Seen::default(), Seen::default());
    for ((from, to, via), one) in seen {
        let path = via.as_ref().map_or_else(|| cluster.one_way(from, to), |via| cluster.one_way(from, via) + cluster.one_way(via, to));
        let words = [ms(cluster.one_way(from, to)), via.clone().unwrap_or_else(|| "(the replica itself)".to_owned()), ms(path)];
        table.row([from.clone(), to.clone()].into_iter().chain(words).chain(figures(one)));
        all.add(one);
        if via.is_none() {
            direct.add(one);
        }
    }
    let empty = ["", "", "", ""].map(str::to_owned);
    table.row(["all written at the replica".to_owned()].into_iter().chain(empty.clone()).chain(figures(&direct)));
    table.row(["all".to_owned()].into_iter().chain(empty).chain(figures(&all)));
    println!("{table}");
    let mut ages = Table::of_targets("The ages that copies told");
    ages.note("old answers while the write was on its way", all.old_answers.to_string());
    ages.none("of them: an age that does not cover the time since the acknowledgement", all.untrue_ages);
    println!("{ages}");
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn figures(seen: &Seen) -> Vec<String> {
    let mut beyond = seen.beyond.clone();
    beyond.sort_unstable();
    let shown = |quantile| rank(&beyond, quantile).map_or_else(|| "none seen".to_owned(), signed_ms);
    let is_met = seen.lost == 0 && rank(&beyond, 0.99).is_some_and(|p99| p99 <= TARGET_MICROS);
    let target = format!("<= {}", signed_ms(TARGET_MICROS));
    vec![shown(0.5), target, shown(0.99), shown(1.0), seen.lost.to_string(), verdict(is_met).to_owned()]
}

fn write(cluster: &Cluster, from: &Region, writes: u32) -> Result<BTreeMap<Way, Seen>, Failure> {
    let mut wire = Wire::connect(from.http, PATIENCE)?;
    let others = cluster.regions.iter().filter(|to| to.name != from.name);
    let mut readers = others.map(|to| reader(to, cluster.one_way(&from.name, &to.name))).collect::<Result<Vec<_>, _>>()?;
    let mut seen: BTreeMap<Way, Seen> = BTreeMap::new();
    for number in 0..writes {
        let key = format!("{}/{number:06}", from.name);
        let home = from.replicas_of(NAMESPACE, &key)?.into_iter().next().ok_or("a key without a replica")?;
        let via = (home != from.name).then(|| home.clone());
        put(&mut wire, &key, OLD)?;
        let mut copying: Vec<_> = readers.iter_mut().filter(|reader| reader.name != home).collect();
        copying.iter_mut().try_for_each(|reader| reader.prime(&key))?;
        let at = Instant::now();
        for reader in &copying {
            reader.sent.send(Sent { key: key.clone(), at })?;
        }
        put(&mut wire, &key, NEW)?;
        let acknowledged = Instant::now();
        for reader in copying {
            let noticed = reader.noticed.recv_timeout(LOST_AFTER * 2)?;
            let way = (from.name.clone(), reader.name.clone(), via.clone());
            seen.entry(way).or_default().note(&noticed, at, acknowledged, reader.one_way);
        }
    }
    Ok(seen)
}

fn path(key: &str) -> String {
    format!("/v1/kv/{NAMESPACE}/{key}")
}

fn put(wire: &mut Wire, key: &str, value: &[u8]) -> Result<(), Failure> {
    let answer = wire.ask(&wire::put(&path(key), value))?;
    if answer.is_ok() { Ok(()) } else { Err(format!("a write was answered with {}", answer.status).into()) }
}

impl Reader {
    /// Reads until the region serves the old value from a copy of its own.
    fn prime(&mut self, key: &str) -> Result<(), Failure> {
        let by = Instant::now() + THERE_MAX;
        let request = wire::get(&path(key));
        loop {
            let answer = self.prime.ask(&request)?;
            let is_hit = answer.field("cache-status").is_some_and(|status| status.contains("hit"));
            if answer.status == 200 && is_hit && answer.body == OLD {
                return Ok(());
            }
            if Instant::now() > by {
                let status = answer.field("cache-status").unwrap_or("none").to_owned();
                return Err(format!("{} serves {key} from no copy (status {}, Cache-Status {status})", self.name, answer.status).into());
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

fn reader(to: &Region, one_way: Duration) -> Result<Reader, Failure> {
    let (sent, to_look_for) = mpsc::channel::<Sent>();
    let (tell, noticed) = mpsc::channel();
    let mut wire = Wire::connect(to.http, PATIENCE)?;
    thread::spawn(move || {
        for sent in to_look_for {
            wait_until(sent.at + one_way.saturating_sub(EARLY));
            if tell.send(notice(&mut wire, &sent)).is_err() {
                return;
            }
        }
    });
    Ok(Reader { name: to.name.clone(), one_way, prime: Wire::connect(to.http, PATIENCE)?, sent, noticed })
}

/// Asks until the old value is served no longer.
fn notice(wire: &mut Wire, sent: &Sent) -> Noticed {
    let request = wire::get(&path(&sent.key));
    let mut noticed = Noticed::default();
    while sent.at.elapsed() < LOST_AFTER {
        let asked = Instant::now();
        match wire.ask(&request) {
            Ok(answer) if answer.status == 200 && answer.body == OLD => {
                let age = answer.field("isochrone-age-ms").and_then(|text| text.parse().ok()).map(Duration::from_millis);
                noticed.old.push((asked, age));
            }
            Ok(answer) if answer.status == 200 => {
                noticed.gone = Some(asked);
                return noticed;
            }
            Ok(_) => {}
            Err(_) => return noticed,
        }
        wait_until(asked + STEP);
    }
    noticed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_must_cover_what_is_known_and_be_told() {
        let ms = Duration::from_millis;
        assert!(covers(Some(ms(40)), ms(40)) && covers(Some(ms(39)), ms(40)));
        assert!(!covers(Some(ms(38)), ms(40)));
        assert!(!covers(None, Duration::ZERO));
    }

    #[test]
    fn a_copy_that_is_never_dropped_is_lost_and_fails() {
        let at = Instant::now();
        let one_way = Duration::from_millis(40);
        let mut seen = Seen::default();
        let gone = Noticed { gone: Some(at + Duration::from_millis(43)), old: vec![(at + Duration::from_millis(41), Some(one_way))] };
        seen.note(&gone, at, at + Duration::from_millis(1), one_way);
        assert_eq!((seen.beyond.as_slice(), seen.lost, seen.untrue_ages, seen.old_answers), (&[3_000][..], 0, 0, 1));
        assert_eq!(figures(&seen).last().map(String::as_str), Some("yes"));
        seen.note(&Noticed::default(), at, at, one_way);
        assert_eq!(figures(&seen).last().map(String::as_str), Some("NO"));
    }
}
