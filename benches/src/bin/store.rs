//! The store's figures: redb against fjall in the shape of our committer, and then the store itself with a million keys.
//!
//! `cargo run --release -p benches --bin store` (a few minutes; `--keys` and `--seconds` make it shorter).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use clap::Parser;
use fjall::{KeyspaceCreateOptions, PersistMode};
use hdrhistogram::Histogram;
use isochrone_ident::{ClusterName, Hlc, Key, Kind, Namespace, NodeId, Slot, Version, WallMicros};
use isochrone_replica::{DigestKey, Live, Record};
use isochrone_store::{Driver, Medium, Placed, Store, StoreOptions, Write, WriteSet};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redb::{ReadableTable, TableDefinition};
use xxhash_rust::xxh3::xxh3_64;

type Failure = Box<dyn std::error::Error>;

#[derive(Parser)]
struct Arguments {
    /// Keys in the store.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Seconds for each measurement.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Where to write; a new folder is made in it and removed again.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Only open the store at this path, and print how long it took and how much memory it needs.
    #[arg(long, hide = true)]
    open: Option<PathBuf>,
}

/// An engine in our committer's shape: each write reads what is held, replaces it and appends to a log; a batch is synced once.
trait Engine: Sized {
    const NAME: &'static str;
    fn open(dir: &Path) -> Result<Self, Failure>;
    fn batch(&mut self, rows: &[([u8; 32], &[u8])]) -> Result<(), Failure>;
}

const RECORDS: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("records");
const LOG: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("log");

struct Redb(redb::Database, u64);

impl Engine for Redb {
    const NAME: &'static str = "redb 4";

    fn open(dir: &Path) -> Result<Self, Failure> {
        Ok(Self(redb::Builder::new().set_cache_size(128 << 20).create(dir.join("redb"))?, 0))
    }

    fn batch(&mut self, rows: &[([u8; 32], &[u8])]) -> Result<(), Failure> {
        let write = self.0.begin_write()?;
        {
            let (mut records, mut log) = (write.open_table(RECORDS)?, write.open_table(LOG)?);
            for (key, value) in rows {
                std::hint::black_box(records.get(key.as_slice())?.map(|held| held.value().len()));
                records.insert(key.as_slice(), *value)?;
                self.1 += 1;
                log.insert(self.1, key.as_slice())?;
            }
        }
        Ok(write.commit()?)
    }
}

struct Fjall(fjall::Database, fjall::Keyspace, fjall::Keyspace, u64);

impl Engine for Fjall {
    const NAME: &'static str = "fjall 3";

    fn open(dir: &Path) -> Result<Self, Failure> {
        let database = fjall::Database::builder(dir.join("fjall")).cache_size(128 << 20).open()?;
        let records = database.keyspace("records", KeyspaceCreateOptions::default)?;
        let log = database.keyspace("log", KeyspaceCreateOptions::default)?;
        Ok(Self(database, records, log, 0))
    }

    fn batch(&mut self, rows: &[([u8; 32], &[u8])]) -> Result<(), Failure> {
        let mut batch = self.0.batch().durability(Some(PersistMode::SyncData));
        for (key, value) in rows {
            std::hint::black_box(self.1.get(key)?.map(|held| held.len()));
            batch.insert(&self.1, key.as_slice(), *value);
            self.3 += 1;
            batch.insert(&self.2, self.3.to_be_bytes(), key.as_slice());
        }
        Ok(batch.commit()?)
    }
}

fn row_key(number: u64) -> [u8; 32] {
    let mut key = [0; 32];
    for (part, chunk) in (0u64..).zip(key.chunks_exact_mut(8)) {
        chunk.copy_from_slice(&xxh3_64(&(number * 4 + part).to_le_bytes()).to_be_bytes());
    }
    key
}

fn compare<E: Engine>(arguments: &Arguments, value_bytes: usize) -> Result<(), Failure> {
    let dir = tempfile::tempdir_in(&arguments.dir)?;
    let mut engine = E::open(dir.path())?;
    let value = vec![7; value_bytes];
    let mut numbers: Vec<[u8; 32]> = (0..arguments.keys).map(row_key).collect();
    numbers.sort_unstable();
    for chunk in numbers.chunks(20_000) {
        engine.batch(&chunk.iter().map(|key| (*key, value.as_slice())).collect::<Vec<_>>())?;
    }
    let mut random = StdRng::seed_from_u64(1);
    for batch in [1, 64, 256] {
        let mut times = Histogram::<u64>::new(3)?;
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(arguments.seconds) {
            let rows: Vec<_> = (0..batch).map(|_| (row_key(random.random_range(0..arguments.keys)), value.as_slice())).collect();
            let before = Instant::now();
            engine.batch(&rows)?;
            times.record(u64::try_from(before.elapsed().as_micros())?)?;
        }
        let rate = times.len() as f64 * f64::from(batch) / started.elapsed().as_secs_f64();
        let [p50, p99, max] = [times.value_at_quantile(0.5), times.value_at_quantile(0.99), times.max()].map(|us| us as f64 / 1000.0);
        println!("| {} | {value_bytes} | {batch} | {rate:.0} | {p50:.2} | {p99:.2} | {max:.1} |", E::NAME);
    }
    Ok(())
}

fn options() -> StoreOptions {
    let wall = || WallMicros(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64));
    let digest_key = ClusterName::new("bench").ok().map(|name| DigestKey::of(&name));
    StoreOptions {
        digest_key,
        ..StoreOptions::new(Driver::Thread, Arc::new(wall), Arc::new(|reason| eprintln!("the disk failed: {reason}")))
    }
}

fn namespace() -> Namespace {
    Namespace::new("data").expect("a name by its rule")
}

fn placed(number: u64, hlc: u64) -> Placed {
    let key = format!("key/{number:012}");
    let slot = Slot::of_hash(xxh3_64(key.as_bytes()));
    let version = Version { hlc: Hlc(hlc << 8), node: NodeId(u128::from(xxh3_64(b"node")) << 64 | 7), ..Version::default() };
    let live = Live { value: Bytes::from(vec![7; 100]), content_type: None, expires_at: None };
    let key = Key::new(key).expect("16 bytes are a key");
    let write = Write::Merge(Record::live(version, live));
    Placed { slot, ns: namespace(), kind: Kind::Value, key, write, evictable: false }
}

/// Fills a store, writes to it with so many writers that wait for the sync each, and reads.
async fn whole_store(arguments: &Arguments) -> Result<(), Failure> {
    let dir = tempfile::tempdir_in(&arguments.dir)?;
    let path = dir.path().join("store.redb");
    let store = Store::open(Medium::File(path.clone()), options())?;
    let started = Instant::now();
    for first in (0..arguments.keys).step_by(1000) {
        store.commit(WriteSet::of((first..arguments.keys.min(first + 1000)).map(|number| placed(number, 1)).collect())).await?;
    }
    println!("\nfilled with {} keys of 100 bytes in {:.1} s, in sets of 1,000", arguments.keys, started.elapsed().as_secs_f64());
    for writers in [1, 64, 256] {
        write_concurrently(&store, arguments, writers).await?;
    }
    read_hot(&store, arguments.keys)?;
    let crashed = dir.path().join("crashed.redb");
    std::fs::copy(&path, &crashed)?;
    store.close().await;
    println!("file: {} MiB", std::fs::metadata(&path)?.len() >> 20);
    for (how, path) in [("after a clean stop", path), ("after a crash", crashed)] {
        println!("opened {how}:");
        Command::new(std::env::current_exe()?).arg("--open").arg(path).arg("--keys").arg(arguments.keys.to_string()).status()?;
    }
    Ok(())
}

async fn write_concurrently(store: &Store, arguments: &Arguments, writers: u64) -> Result<(), Failure> {
    let until = Instant::now() + Duration::from_secs(arguments.seconds);
    let keys = arguments.keys;
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let (mut random, mut times, mut hlc) = (StdRng::seed_from_u64(writer), Vec::new(), 2);
                while Instant::now() < until {
                    hlc += 1;
                    let before = Instant::now();
                    let set = WriteSet { log: true, ..WriteSet::of(vec![placed(random.random_range(0..keys), hlc)]) };
                    store.commit(set).await.expect("there is room");
                    times.push(before.elapsed().as_micros() as u64);
                }
                times
            })
        })
        .collect();
    let mut all = Histogram::<u64>::new(3)?;
    for task in tasks {
        task.await?.into_iter().try_for_each(|micros| all.record(micros))?;
    }
    let rate = all.len() as f64 / arguments.seconds as f64;
    let [p50, p99] = [0.5, 0.99].map(|q| all.value_at_quantile(q) as f64 / 1000.0);
    println!("{writers} writers, logged, synced: {rate:.0} writes/s, p50 {p50:.2} ms, p99 {p99:.2} ms");
    store.trim_log(store.stats().last_sequence);
    Ok(())
}

/// Reads twice what lies in the first 40 slots, about a hundredth of the keys, after a scan has brought their pages into memory.
fn read_hot(store: &Store, keys: u64) -> Result<(), Failure> {
    let hot: Vec<Placed> = (0..keys).map(|number| placed(number, 0)).filter(|one| one.slot.number() < 40).collect();
    for number in 0..40 {
        store.scan_slot(Slot::new(number)?, None, usize::MAX)?;
    }
    for tier in ["durable tier, pages in memory", "memory tier"] {
        let started = Instant::now();
        for one in &hot {
            std::hint::black_box(store.get(one.slot, &one.ns, one.kind, one.key.as_bytes())?);
        }
        println!("get, {tier}: {:.2} us", started.elapsed().as_secs_f64() * 1e6 / hot.len() as f64);
    }
    Ok(())
}

fn open_only(path: &Path, keys: u64) -> Result<(), Failure> {
    let started = Instant::now();
    let store = Store::open(Medium::File(path.to_owned()), options())?;
    let opened = started.elapsed();
    assert_eq!(store.stats().keys, keys, "every key is there");
    let fresh = resident_mib()?;
    read_all(&store, keys)?;
    println!("    {:.0} ms, {fresh} MiB of memory; {} MiB after reading every key", opened.as_secs_f64() * 1e3, resident_mib()?);
    Ok(())
}

fn read_all(store: &Store, keys: u64) -> Result<(), Failure> {
    for number in 0..keys {
        let one = placed(number, 0);
        assert!(store.get(one.slot, &one.ns, one.kind, one.key.as_bytes())?.is_some(), "key {number} is there");
    }
    Ok(())
}

fn resident_mib() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).ok_or("no figure")?.parse::<u64>()? / 1024)
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    if let Some(path) = &arguments.open {
        return open_only(path, arguments.keys);
    }
    println!("{} keys; a write reads, replaces and logs; one sync a batch; 128 MiB of cache\n", arguments.keys);
    println!("| engine | value bytes | batch | writes/s | p50 ms | p99 ms | max ms |\n|---|---|---|---|---|---|---|");
    for value_bytes in [100, 256] {
        compare::<Redb>(&arguments, value_bytes)?;
        compare::<Fjall>(&arguments, value_bytes)?;
    }
    whole_store(&arguments).await
}
