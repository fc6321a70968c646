//! What the strong path's decisions cost, without network and disk: one proposer and three acceptors in memory, on one core.
//!
//! `cargo run --release -p isochrone-quorum --example writes` prints writes of keys that are warm (Q8), of keys that are granted (Q18), of keys
//! that must be prepared, and reads (Q9), each a second of processor time (Linux).

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;

use bytes::Bytes;
use isochrone_ident::{Incarnation, Key, Namespace, NodeId, Slot, StoreId, WallMicros};
use isochrone_quorum::{
    Acceptor, AcceptorOptions, Act, Answer, Change, Configuration, Expect, KeyName, Member, OperationId, Output, Place, Proposer,
    ProposerId, ProposerOptions, RequestId, Row, TableHash, Value, Want,
};
use support::Disk;

const KEYS: u64 = 10_000;
const IN_FLIGHT: u64 = 64;
const OPERATIONS: u64 = 400_000;

struct Store {
    disk: Disk,
    acceptor: Acceptor<()>,
    pending: Vec<Row>,
    place: Option<Place>,
}

struct Bench {
    proposer: Proposer,
    stores: Vec<Store>,
    configuration: Arc<Configuration>,
    begun: u64,
    ended: u64,
}

fn slot() -> Slot {
    Slot::of_hash(77)
}

fn key(number: u64) -> KeyName {
    KeyName { namespace: Namespace::new("bench").expect("a name"), key: Key::new(number.to_be_bytes().to_vec()).expect("a key") }
}

fn put(number: u64, now: WallMicros) -> Want {
    let id = RequestId { nonce: u128::from(number), print: 0, until: WallMicros(now.0 + 100) };
    let value = Value { bytes: Bytes::from_static(&[7; 256]), content_type: None, expires: None, written: now };
    Want::Change(Change { id, expect: Expect::Anything, fence: None, act: Act::Put(value) })
}

impl Bench {
    fn new() -> Self {
        let member = |n: u128| Member { node: NodeId(n), store: StoreId(n) };
        let configuration = Arc::new(Configuration::first(slot(), TableHash(1), (1..=3).map(member)));
        let acceptor = |n| Acceptor::new(member(n), AcceptorOptions::default());
        let store = |n| Store { disk: Disk::default(), acceptor: acceptor(n), pending: Vec::new(), place: None };
        let me = ProposerId { node: NodeId(1), incarnation: Incarnation(1) };
        let mut proposer = Proposer::new(me, ProposerOptions::default(), 7);
        proposer.configure(WallMicros(0), Arc::clone(&configuration));
        Self { proposer, stores: (1..=3).map(store).collect(), configuration, begun: 0, ended: 0 }
    }

    /// Time passes so that answered requests leave their rings, as in a daemon whose keys are written every few seconds.
    fn now(&self) -> WallMicros {
        WallMicros(1_000_000_000 + self.begun * 100)
    }

    fn outputs(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Send { to, request } => {
                    let store = &mut self.stores[to.node.0 as usize - 1];
                    let effects = store.acceptor.take(&store.disk, Some(&self.configuration), (), request);
                    store.pending.extend(effects.rows);
                    store.place = effects.place.or(store.place);
                    let answers: Vec<Answer> = effects.answers.into_iter().map(|((), answer)| answer).collect();
                    self.answers(answers);
                }
                Output::Done { .. } => self.ended += 1,
                _ => {}
            }
        }
    }

    fn answers(&mut self, answers: Vec<Answer>) {
        for answer in answers {
            let outputs = self.proposer.answer(self.now(), answer);
            self.outputs(outputs);
        }
    }

    /// One group of each disk.
    fn sync(&mut self) {
        for at in 0..self.stores.len() {
            let store = &mut self.stores[at];
            let Some(place) = store.place.take() else { continue };
            std::mem::take(&mut store.pending).into_iter().for_each(|row| store.disk.apply(row));
            let answers = store.acceptor.synced(place).into_iter().map(|((), answer)| answer).collect();
            self.answers(answers);
        }
    }

    fn run(&mut self, operations: u64, want: impl Fn(u64, WallMicros) -> Want) {
        let until = self.ended + operations;
        while self.ended < until {
            while self.begun - self.ended < IN_FLIGHT && self.begun < until {
                self.begun += 1;
                let (now, number) = (self.now(), self.begun);
                let wish = want(number, now).into();
                let outputs = self.proposer.submit(now, OperationId(number), slot(), key(number % KEYS), wish);
                self.outputs(outputs);
            }
            self.sync();
        }
    }

    #[allow(clippy::disallowed_macros)] // It says what it has measured.
    fn measure(&mut self, what: &str, operations: u64, want: impl Fn(u64, WallMicros) -> Want) {
        let begun = processor_nanos();
        self.run(operations, want);
        let micros = (processor_nanos() - begun) / 1_000;
        println!("{what}: {} a second", operations * 1_000_000 / micros.max(1));
    }
}

/// What this thread has run so far: other work on the machine does not count.
fn processor_nanos() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    stat.split(' ').next().and_then(|nanos| nanos.parse().ok()).expect("nanoseconds first")
}

fn main() {
    let mut bench = Bench::new();
    bench.measure("cold writes", KEYS, put);
    bench.measure("warm writes", OPERATIONS, put);
    bench.measure("reads", OPERATIONS, |_, _| Want::Read);
    let mut bench = Bench::new();
    let outputs = bench.proposer.acquire(slot());
    bench.outputs(outputs);
    bench.sync();
    bench.measure("granted writes", KEYS, put);
}
