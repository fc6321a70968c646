//! Five acceptors that sync at once, and messages that go where a test sends them.

use std::sync::Arc;

use bytes::Bytes;
use isochrone_ident::{StoreId, WallMicros};
use isochrone_quorum::{
    Accepted, Acceptor, Act, Answer, Ask, Ballot, Bounds, Change, CollectOutput, Collector, CollectorOptions, Configuration, Content,
    Envelope, Expect, Failure, KeyName, Member, Mutation, OperationId, Outcome, Output, Proposer, ProposerOptions, Request, RequestId,
    Revision, TableHash, Tag, Timer, Told, Value, Want, Why, Wish,
};

use crate::node::{Reply, acceptor_of, member_of, proposer_of};
use crate::support::Disk;
use crate::world::{key, slot};

pub(crate) const NOW: WallMicros = WallMicros(1_000_000);

pub(crate) struct Bench {
    pub(crate) nodes: Vec<(Disk, Acceptor<Reply>)>,
    pub(crate) configuration: Arc<Configuration>,
    pub(crate) mutation: Option<Mutation>,
    pub(crate) operations: u64,
}

pub(crate) fn member(index: usize) -> Member {
    member_of(index, StoreId(index as u128 + 1))
}

pub(crate) fn ballot(counter: u64, index: usize) -> Ballot {
    let proposer = isochrone_quorum::ProposerId { node: crate::node::node_id(index), incarnation: isochrone_ident::Incarnation(1) };
    Ballot { counter, proposer }
}

pub(crate) fn record(ballot: Ballot, content: Content) -> Accepted {
    let revision = Revision(ballot.counter);
    let (fences, ring) = (std::collections::BTreeMap::new(), Vec::new());
    Accepted { ballot, envelope: Arc::new(Envelope { revision, content, fences, floor: 0, ring, intent: None }) }
}

pub(crate) fn live(number: u8) -> Content {
    Content::Live(value(number))
}

pub(crate) fn value(number: u8) -> Value {
    Value { bytes: Bytes::copy_from_slice(&u64::from(number).to_be_bytes()), content_type: None, expires: None, written: NOW }
}

pub(crate) fn put(number: u8, expect: Expect) -> Want {
    let id = RequestId { nonce: u128::from(number), print: 0, until: WallMicros(NOW.0 + 400) };
    Want::Change(Change { id, expect, fence: None, act: Act::Put(value(number)) })
}

pub(crate) fn accept(record: &Accepted, next: Option<Ballot>) -> Ask {
    Ask::Accept { key: key(0), record: record.clone(), next }
}

pub(crate) fn prepare(ballot: Ballot) -> Ask {
    Ask::Prepare { key: key(0), ballot }
}

pub(crate) fn is_refused(told: &Told, why: Why) -> bool {
    matches!(told, Told::Refused(nack) if nack.why == why)
}

impl Bench {
    pub(crate) fn new(mutation: Option<Mutation>) -> Self {
        let nodes = (0..5).map(|index| (Disk::default(), acceptor_of(member(index), mutation))).collect();
        let configuration = Arc::new(Configuration::first(slot(), TableHash(1), (0..3).map(member)));
        Self { nodes, configuration, mutation, operations: 0 }
    }

    pub(crate) fn ask(&mut self, index: usize, ask: Ask) -> Told {
        let request = Request { scope: self.configuration.scope(), tag: Tag::default(), ask };
        self.request(index, request).told
    }

    pub(crate) fn request(&mut self, index: usize, request: Request) -> Answer {
        let (disk, acceptor) = &mut self.nodes[index];
        let effects = acceptor.take(disk, Some(&self.configuration), (0, 0), request);
        effects.rows.into_iter().for_each(|row| disk.apply(row));
        let synced = effects.place.map(|place| acceptor.synced(place)).unwrap_or_default();
        let mut answers = effects.answers.into_iter().chain(synced).map(|(_, answer)| answer);
        answers.next().expect("an answer")
    }

    pub(crate) fn crash(&mut self, index: usize) {
        self.nodes[index].1 = acceptor_of(member(index), self.mutation);
    }

    pub(crate) fn move_to(&mut self, members: [usize; 3]) {
        let joint = self.configuration.begin(TableHash(self.configuration.table.0 + 1), members.map(member)).expect("STABLE");
        self.configuration = Arc::new(joint);
    }

    pub(crate) fn moved(&mut self) {
        self.configuration = Arc::new(self.configuration.complete().expect("JOINT"));
    }

    pub(crate) fn proposer(&self, index: usize, life: u64) -> Proposer {
        let bounds = Bounds { ring: 8, fences: 4, window_micros: 1_000, skew_micros: 10 };
        let options = ProposerOptions { bounds, hand_over_after: 0, mutation: self.mutation, ..Default::default() };
        let mut proposer = proposer_of(index, life, options, 7);
        proposer.configure(NOW, Arc::clone(&self.configuration));
        proposer
    }

    pub(crate) fn submit(&mut self, proposer: &mut Proposer, wish: impl Into<Wish>) -> Vec<Output> {
        self.operations += 1;
        proposer.submit(NOW, OperationId(self.operations), slot(), key(0), wish.into())
    }

    /// Delivers requests to those acceptors alone, and their answers, until nothing is left to deliver; what else came out.
    pub(crate) fn deliver(&mut self, proposer: &mut Proposer, mut outputs: Vec<Output>, to: &[usize]) -> Vec<Output> {
        let mut rest = Vec::new();
        while !outputs.is_empty() {
            let mut more = Vec::new();
            for output in outputs {
                match output {
                    Output::Send { to: whom, request } => {
                        let index = (whom.node.0 - 1) as usize;
                        if to.contains(&index) {
                            let answer = self.request(index, request);
                            more.extend(proposer.answer(NOW, answer));
                        }
                    }
                    other => rest.push(other),
                }
            }
            outputs = more;
        }
        rest
    }

    pub(crate) fn run(&mut self, proposer: &mut Proposer, wish: impl Into<Wish>, to: &[usize]) -> Option<Result<Outcome, Failure>> {
        let outputs = self.submit(proposer, wish);
        let rest = self.deliver(proposer, outputs, to);
        rest.into_iter().find_map(|output| if let Output::Done { result, .. } = output { Some(result) } else { None })
    }
}

/// The value that a read through those acceptors finds.
pub(crate) fn read(bench: &mut Bench, to: &[usize]) -> Option<Content> {
    let mut reader = bench.proposer(4, 9);
    match bench.run(&mut reader, Want::Read, to) {
        Some(Ok(Outcome::Read(envelope))) => envelope.map(|envelope| envelope.content.clone()),
        other => panic!("a read gives {other:?}"),
    }
}

pub(crate) fn is_accept(outputs: &[Output]) -> bool {
    outputs.iter().any(|output| matches!(output, Output::Send { request, .. } if matches!(request.ask, Ask::Accept { .. })))
}

pub(crate) fn timer_of(outputs: &[Output]) -> Timer {
    let timer = outputs.iter().rev().find_map(|output| if let Output::After { timer, .. } = output { Some(*timer) } else { None });
    timer.expect("a step has a timer")
}

/// Holds with every rule in force, and does not without this one.
pub(crate) fn needs(mutation: Mutation, holds: fn(&mut Bench) -> bool) {
    assert!(holds(&mut Bench::new(None)), "it does not hold with {mutation:?} kept");
    assert!(!holds(&mut Bench::new(Some(mutation))), "{mutation:?} is not missed");
}

impl Bench {
    pub(crate) fn sent(&mut self, output: Output) -> Answer {
        let Output::Send { to, request } = output else { panic!("{output:?}") };
        self.request((to.node.0 - 1) as usize, request)
    }

    /// Reads for update through the first two acceptors until that ends.
    pub(crate) fn settle(&mut self, proposer: &mut Proposer) -> Option<Content> {
        let mut outputs = self.submit(proposer, Want::ReadForUpdate);
        for _ in 0..8 {
            let rest = self.deliver(proposer, outputs, &[0, 1]);
            for output in &rest {
                if let Output::Done { result: Ok(Outcome::Read(envelope)), .. } = output {
                    return envelope.as_ref().map(|envelope| envelope.content.clone());
                }
            }
            let timer = timer_of(&rest);
            outputs = proposer.timer(NOW, timer);
        }
        panic!("a round that nobody disturbs ends")
    }
}

/// A proposer that holds a grant of the slot.
pub(crate) fn owner(bench: &mut Bench) -> Proposer {
    let mut owner = bench.proposer(0, 1);
    let outputs = owner.acquire(slot());
    bench.deliver(&mut owner, outputs, &[0, 1, 2]);
    assert!(owner.holds(slot()));
    owner
}

/// Drives a collector over the acceptors in `to`; how it ended, if it did.
pub(crate) fn collect(bench: &mut Bench, to: &[usize]) -> Option<usize> {
    collect_of(bench, vec![key(0)], to)
}

/// The same for other keys.
pub(crate) fn collect_of(bench: &mut Bench, keys: Vec<KeyName>, to: &[usize]) -> Option<usize> {
    let bounds = Bounds { skew_micros: 10, ..Bounds::default() };
    let options = CollectorOptions { bounds, mutation: bench.mutation, ..Default::default() };
    let mut collector = Collector::new(1, options, Arc::clone(&bench.configuration), keys, WallMicros(NOW.0 + 10_000));
    let mut outputs = collector.start();
    while !outputs.is_empty() {
        let mut more = Vec::new();
        for output in outputs {
            match output {
                CollectOutput::Send { to: whom, request } => {
                    let index = (whom.node.0 - 1) as usize;
                    if to.contains(&index) {
                        let answer = bench.request(index, request);
                        more.extend(collector.answer(answer));
                    }
                }
                CollectOutput::Ended { forgotten, .. } => return Some(forgotten),
                CollectOutput::After { .. } => {}
            }
        }
        outputs = more;
    }
    None
}
