//! How fast the strong store is on this machine's disk: rows a second, latency and processor time of groups of random keys.
//!
//! ```text
//! cargo run --release -p isochrone-store --example strong_rates -- KEYS SECONDS
//! ```
//!
//! Fills a store with KEYS keys of 256-byte values, opens it again, and then keeps 64, and after that 256, rows under way for SECONDS each.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use isochrone_ident::{Incarnation, Key, Namespace, NodeId, Slot, StoreId, WallMicros};
use isochrone_quorum::{
    Accepted, Answered, Ballot, Content, Effect, Envelope, KeyName, KeyState, Member, Place, ProposerId, RequestId, Revision, Row, Value,
};
use isochrone_store::{Driver, Medium, StrongOptions, StrongStore};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

struct Load {
    store: StrongStore,
    synced: mpsc::Receiver<Place>,
    namespace: Namespace,
    place: u64,
}

impl Load {
    fn open(path: &Path) -> Self {
        let options = StrongOptions {
            disk_bytes_max: 64 << 30,
            ..StrongOptions::new(Driver::Thread, Arc::new(|reason| eprintln!("failed: {reason}")))
        };
        let member = Member { node: NodeId(1), store: StoreId(1) };
        let store = StrongStore::open(Medium::File(path.to_owned()), member, options).expect("opens");
        let (send, synced) = mpsc::channel();
        store.on_synced(Arc::new(move |place| send.send(place).expect("somebody listens")));
        Self { store, synced, namespace: Namespace::new("bench").expect("a name"), place: 0 }
    }

    fn row(&self, number: u64, counter: u64) -> Row {
        let key = Key::new(Bytes::from(format!("key-{number:012}"))).expect("a key");
        // Consecutive numbers must not be neighbours on the disk.
        let slot = Slot::of_hash(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32);
        Row::Key(slot, KeyName { namespace: self.namespace.clone(), key }, state(counter))
    }

    fn write(&mut self, rows: Vec<Row>) {
        self.place += 1;
        self.store.write(Place(self.place), rows);
    }

    fn wait(&self) {
        while self.synced.recv().expect("the store goes on") < Place(self.place) {}
    }

    fn fill(&mut self, keys: u64) {
        for first in (0..keys).step_by(8192) {
            let rows = (first..(first + 8192).min(keys)).map(|number| self.row(number, 2)).collect();
            self.write(rows);
            self.wait();
        }
    }

    /// Keeps `group` rows under way, each a write of its own, as so many clients would.
    fn run(&mut self, keys: u64, group: usize, time: Duration) {
        let mut random = StdRng::seed_from_u64(group as u64);
        let (began, cpu, before) = (Instant::now(), cpu_seconds(), self.store.stats());
        let mut latencies = Vec::new();
        while began.elapsed() < time {
            let started = Instant::now();
            for _ in 0..group {
                let row = self.row(random.random_range(0..keys), 4 + self.place * 2);
                self.write(vec![row]);
            }
            self.wait();
            latencies.push(started.elapsed());
        }
        latencies.sort();
        let at = |part: usize| latencies[(latencies.len() - 1) * part / 1000].as_secs_f64() * 1e3;
        let after = self.store.stats();
        let (rows, seconds) = ((after.rows - before.rows) as f64, began.elapsed().as_secs_f64());
        println!(
            "{group} under way: {:.0} rows/s, {:.1} rows a group, {:.1} us of processor a row; ms p50 {:.2} p99 {:.2} max {:.2}",
            rows / seconds,
            rows / (after.groups - before.groups) as f64,
            (cpu_seconds() - cpu) * 1e6 / rows,
            at(500),
            at(990),
            at(1000),
        );
    }
}

fn state(counter: u64) -> KeyState {
    let ballot = Ballot { counter, proposer: ProposerId { node: NodeId(u128::MAX / 3), incarnation: Incarnation(1) } };
    let value = Value { bytes: Bytes::from(vec![7; 256]), content_type: None, expires: None, written: WallMicros(1 << 50) };
    let id = RequestId { nonce: u128::MAX / 7, print: u64::MAX / 5, until: WallMicros(1 << 50) };
    let answered = Answered { id, revision: Revision(counter), effect: Effect::Replaced };
    let envelope = Envelope {
        revision: Revision(counter),
        content: Content::Live(value),
        fences: BTreeMap::new(),
        floor: 0,
        ring: vec![answered; 2],
        intent: None,
    };
    KeyState { promised: ballot, accepted: Some(Accepted { ballot, envelope: Arc::new(envelope) }) }
}

/// Processor time of this process so far, where the system tells it as Linux does; else 0.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>().expect("a number"));
    let keys = arguments.next().unwrap_or(1_000_000);
    let time = Duration::from_secs(arguments.next().unwrap_or(10));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("strong.redb");
    let mut load = Load::open(&path);
    load.fill(keys);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(load.store.close());
    let started = Instant::now();
    let mut load = Load::open(&path);
    println!("{keys} keys, opened in {:.0} ms, {} MiB", started.elapsed().as_secs_f64() * 1e3, load.store.stats().bytes >> 20);
    load.run(keys, 64, time);
    load.run(keys, 256, time);
}
