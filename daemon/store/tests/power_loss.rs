//! E5: what was acknowledged survives any loss of power, and nothing is half there.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use isochrone_ident::Kind;
use isochrone_replica::{Record, Sequence};
use isochrone_store::{Durability, Medium, Placed, Store, StoreOptions, WriteSet};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::{World, live, ns, placed, read, run, slot_of, version};

const CASES: u64 = 200;
const KEYS: u64 = 24;

/// What the test knows of one write set.
#[derive(Debug, Clone)]
struct Sent {
    /// Every entry has this version and this many bytes.
    keys: Vec<String>,
    hlc: u64,
    bytes: usize,
    acknowledged: bool,
    relaxed: bool,
}

struct Case {
    random: StdRng,
    sent: Vec<Sent>,
    hlc: u64,
}

impl Case {
    fn next_set(&mut self) -> (WriteSet, Sent) {
        self.hlc += 1;
        let relaxed = self.random.random_ratio(1, 5);
        let name = if relaxed { "cache" } else { "data" };
        let count = self.random.random_range(1..=6);
        let bytes = if self.random.random_ratio(1, 12) { 20_000 } else { self.random.random_range(0..600) };
        let mut keys: Vec<String> = (0..count).map(|_| format!("{name}-{}", self.random.random_range(0..KEYS))).collect();
        keys.sort();
        keys.dedup();
        let delete = self.random.random_ratio(1, 6);
        let record = if delete { Record::tombstone(version(self.hlc)) } else { live(self.hlc, vec![self.hlc as u8; bytes]) };
        let entries: Vec<Placed> = keys.iter().map(|key| placed(name, key, record.clone())).collect();
        let durability = if relaxed { Durability::Relaxed } else { Durability::AtOnce };
        let set = WriteSet { log: !relaxed, durability, ..WriteSet::of(entries) };
        (set, Sent { keys, hlc: self.hlc, bytes: if delete { 0 } else { bytes }, acknowledged: false, relaxed })
    }

    /// Writes in rounds of concurrent sets until the power goes.
    async fn write_until_dark(&mut self, world: &World, store: &Store) {
        while !world.disk.is_off() {
            let width = self.random.random_range(1..=5);
            let mut waiting = Vec::new();
            for _ in 0..width {
                let (set, sent) = self.next_set();
                let store = store.clone();
                waiting.push((sent, tokio::spawn(async move { store.commit(set).await })));
            }
            for (mut sent, write) in waiting {
                sent.acknowledged = write.await.expect("runs").is_ok();
                self.sent.push(sent);
            }
            if self.random.random_ratio(1, 10) {
                store.trim_log(Sequence(store.stats().last_sequence.0 / 2));
            }
        }
    }

    /// Checks what is there against what was sent.
    fn check(&self, store: &Store) {
        let mut survived: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
        for name in ["data", "cache"] {
            for number in 0..KEYS {
                let key = format!("{name}-{number}");
                let held = read(store, name, &key);
                let newest = self.sent.iter().rev().find(|sent| sent.acknowledged && !sent.relaxed && sent.keys.contains(&key));
                if let Some(newest) = newest {
                    let held = held.as_ref().unwrap_or_else(|| panic!("{key} at {} was acknowledged and is lost", newest.hlc));
                    assert!(held.version.hlc.0 >= newest.hlc, "{key} went back in time");
                }
                if let Some(held) = held {
                    let sent = self.sent.iter().find(|sent| sent.hlc == held.version.hlc.0).expect("something that was sent");
                    assert_eq!(held.bytes() - if sent.bytes > 0 || held.bytes() > 0 { 10 } else { 0 }, sent.bytes, "{key} is torn");
                    survived.entry(sent.hlc).or_default().0 += 1;
                }
            }
        }
        self.check_whole(&survived);
        self.check_sums(store);
    }

    /// A set of which something is held is held whole, but for keys that later sets have overwritten.
    fn check_whole(&self, survived: &BTreeMap<u64, (usize, usize)>) {
        for (position, sent) in self.sent.iter().enumerate() {
            let overwritten = |key: &String| self.sent[position + 1..].iter().any(|later| later.keys.contains(key));
            let must = sent.keys.iter().filter(|key| !overwritten(key)).count();
            let held = survived.get(&sent.hlc).map_or(0, |counts| counts.0);
            assert!(held == 0 || held >= must, "the set at {} is half there: {held} of {must}", sent.hlc);
        }
    }

    /// The sums and indices say what the records say.
    fn check_sums(&self, store: &Store) {
        let mut keys = 0;
        for name in ["data", "cache"] {
            let listed = store.list(&ns(name), Kind::Value, b"", None, 1000, &|_| true).expect("lists");
            for item in &listed.items {
                let slot = slot_of(item.key.as_bytes());
                assert!(store.scan_slot(slot, None, 1 << 20).expect("scans").entries.iter().any(|entry| entry.key == item.key));
            }
            keys += listed.items.len() as u64;
        }
        let stats = store.stats();
        let slots: (u64, u64) = isochrone_ident::Slot::all()
            .map(|slot| store.slot_totals(slot))
            .fold((0, 0), |sum, totals| (sum.0 + totals.keys, sum.1 + totals.bytes));
        assert_eq!((stats.keys, stats.keys, stats.bytes), (keys, slots.0, slots.1));
        assert_eq!(store.log_after(Sequence(0), 10_000).expect("reads").operations.len() as u64, stats.log_entries);
    }
}

fn options(world: &World) -> StoreOptions {
    let mut options = world.options();
    options.memory_bytes_max = 1 << 20;
    options.batch_max = 4;
    // Real time passes in these tests, and must not decide anything.
    options.sync_interval = Duration::from_secs(3600);
    options
}

/// Several lives of one disk, each ended by a loss of power at a random operation.
async fn run_case(seed: u64) {
    let world = World::default();
    let mut case = Case { random: StdRng::seed_from_u64(seed), sent: Vec::new(), hlc: 0 };
    for life in 0..3 {
        let store = world.open_with(options(&world));
        case.check(&store);
        world.disk.power_off_after(case.random.random_range(1..120));
        case.write_until_dark(&world, &store).await;
        world.disk.crash(seed * 31 + life);
        drop(store);
        tokio::task::yield_now().await;
    }
    case.check(&world.open_with(options(&world)));
}

#[test]
fn e5_what_was_acknowledged_survives_and_nothing_is_half_there() {
    for seed in 0..CASES {
        run(run_case(seed));
    }
}

#[test]
fn a_disk_that_loses_what_was_synced_would_be_noticed() {
    let lost = std::panic::catch_unwind(|| {
        run(async {
            let mut case = Case { random: StdRng::seed_from_u64(1), sent: Vec::new(), hlc: 0 };
            let world = World::default();
            let store = world.open_with(options(&world));
            world.disk.power_off_after(60);
            case.write_until_dark(&world, &store).await;
            let empty = World::default();
            let store = Store::open(Medium::Simulated(empty.disk.clone()), options(&empty)).expect("opens");
            case.check(&store);
        });
    });
    assert!(lost.is_err(), "the check has something to catch");
}

#[test]
fn the_same_seed_leaves_the_same_disk() {
    let digest = |seed: u64| {
        run(async {
            let world = World::default();
            let mut case = Case { random: StdRng::seed_from_u64(seed), sent: Vec::new(), hlc: 0 };
            let store = world.open_with(options(&world));
            world.disk.power_off_after(80);
            case.write_until_dark(&world, &store).await;
            world.disk.crash(seed);
            drop(store);
            let store = world.open_with(options(&world));
            let listed = store.list(&ns("data"), Kind::Value, b"", None, 1000, &|_| true).expect("lists");
            let sent: Vec<(u64, bool)> = case.sent.iter().map(|sent| (sent.hlc, sent.acknowledged)).collect();
            format!("{listed:?} {:?} {sent:?}", store.stats())
        })
    };
    for seed in 0..10 {
        assert_eq!(digest(seed), digest(seed), "seed {seed}");
    }
}
