//! The room as a model checker sees it: acceptors, proposers, a mover, and messages that arrive in any order, late, or never.
//!
//! A request arrives at any time, and its answer at once or never. An answer that comes later would only let its asker go on later, and whatever it does then
//! it can also do when it has known for longer: its own messages may be as late as they like, and an operation that ends earlier has more to agree with.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Write};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use isochrone_ident::{Incarnation, Key, Namespace, NodeId, Slot, StoreId, WallMicros};
use isochrone_quorum::{
    Acceptor, AcceptorOptions, Act, Answer, Change, Configuration, Content, Expect, KeyName, Member, MoveOutput, Mover, MoverOptions,
    Mutation, OperationId, Outcome, Output, Proposer, ProposerId, ProposerOptions, Request, RequestId, TableHash, Tag, Timer, Value, Want,
    Wish,
};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

use crate::support::Disk;

const NOW: WallMicros = WallMicros(1_000_000);

/// What a client asks of the one key.
#[derive(Debug, Clone, PartialEq, Hash)]
pub(crate) enum Op {
    Put(u8),
    Get,
    GetForUpdate,
}

/// What it is told.
#[derive(Debug, Clone, PartialEq, Hash)]
pub(crate) enum Ret {
    Stored,
    Seen(Option<u8>),
}

/// What the key must be indistinguishable from.
#[derive(Debug, Clone, Default, PartialEq, Hash)]
pub(crate) struct Register(Option<u8>);

impl SequentialSpec for Register {
    type Op = Op;
    type Ret = Ret;

    fn invoke(&mut self, op: &Op) -> Ret {
        match op {
            Op::Put(value) => {
                self.0 = Some(*value);
                Ret::Stored
            }
            Op::Get | Op::GetForUpdate => Ret::Seen(self.0),
        }
    }
}

/// A part of a state, shared by all states in which it is the same, and the digest of what it is.
#[derive(Debug)]
pub(crate) struct Part<T> {
    pub(crate) is: T,
    digest: u64,
}

impl<T: Debug> Part<T> {
    fn new(is: T) -> Arc<Self> {
        let digest = digest(&is);
        Arc::new(Self { is, digest })
    }
}

/// The digest of what something shows of itself, which is all that it is.
fn digest(of: &impl Debug) -> u64 {
    struct Text(DefaultHasher);
    impl fmt::Write for Text {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.write(text.as_bytes());
            Ok(())
        }
    }
    let mut text = Text(DefaultHasher::new());
    write!(text, "{of:?}").expect("a digest takes everything");
    text.0.finish()
}

/// An acceptor, and a disk that syncs at once: crashes are the checker's trade.
#[derive(Debug, Clone)]
pub(crate) struct Replica {
    disk: Disk,
    acceptor: Acceptor<()>,
    known: Arc<Configuration>,
}

/// A client, and the proposer of the daemon that it asks.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    proposer: Proposer,
    /// How many of its script's operations it has begun.
    begun: usize,
    is_waiting: bool,
    /// The newest step and its timer.
    tag: Option<Tag>,
    timer: Option<Timer>,
    timeouts: usize,
}

/// Who moves the slot, with a proposer for identity rounds.
#[derive(Debug, Clone)]
pub(crate) struct Driver {
    mover: Mover,
    proposer: Proposer,
}

/// To whom an acceptor answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    Client(usize),
    Mover,
    /// The proposer of the one who moves.
    Identifier,
}

/// A request under way.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    to: usize,
    asker: Asker,
    request: Request,
}

#[derive(Debug, Clone)]
pub(crate) struct State {
    replicas: Vec<Arc<Part<Replica>>>,
    clients: Vec<Arc<Part<Client>>>,
    driver: Option<Arc<Part<Driver>>>,
    council: Arc<Configuration>,
    /// What is under way, by its digest: each may arrive at any time, or never.
    network: BTreeMap<u64, Arc<Message>>,
    history: LinearizabilityTester<usize, Register>,
}

impl Hash for State {
    fn hash<H: Hasher>(&self, to: &mut H) {
        self.replicas.iter().for_each(|part| part.digest.hash(to));
        self.clients.iter().for_each(|part| part.digest.hash(to));
        self.driver.as_ref().map(|part| part.digest).hash(to);
        self.council.phase.hash(to);
        self.network.keys().for_each(|message| message.hash(to));
        self.history.hash(to);
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        let of = |state: &Self| {
            let mut hasher = DefaultHasher::new();
            state.hash(&mut hasher);
            hasher.finish()
        };
        of(self) == of(other)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// A client asks the next thing of its script.
    Ask(usize),
    /// A request arrives, and its answer.
    Deliver(u64),
    /// A request arrives, and its answer is lost.
    Lose(u64),
    /// A request is lost.
    Skip(u64),
    /// A client's daemon has waited long enough.
    Timeout(usize),
    /// The council orders the move, and somebody begins to drive it.
    Move,
}

/// What is explored: scripts, sets, and a rule that is left out.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    /// What each client asks, one after the other.
    pub(crate) scripts: Vec<Vec<Op>>,
    /// How much of the first client's script is over at the beginning, told by the first two acceptors; what went to the others is still under way.
    pub(crate) settled: usize,
    /// How often each client's daemon loses patience.
    pub(crate) timeouts: usize,
    /// The replica set, and the one that it moves to.
    pub(crate) first: Vec<usize>,
    pub(crate) then: Option<Vec<usize>>,
    pub(crate) mutation: Option<Mutation>,
}

fn slot() -> Slot {
    Slot::of_hash(77)
}

fn key() -> KeyName {
    KeyName { namespace: Namespace::new("strong").expect("a name"), key: Key::new(Bytes::from_static(b"k")).expect("a key") }
}

fn member(index: usize) -> Member {
    Member { node: NodeId(index as u128 + 1), store: StoreId(index as u128 + 1) }
}

impl Cluster {
    /// Where everything begins: nobody has asked anything.
    pub(crate) fn beginning(&self) -> State {
        let first = Arc::new(Configuration::first(slot(), TableHash(1), self.first.iter().copied().map(member)));
        let replicas = self.first.iter().chain(self.then.iter().flatten()).max().map_or(0, |last| last + 1);
        let replica = |index| {
            let acceptor = Acceptor::new(member(index), AcceptorOptions { mutation: self.mutation, ..AcceptorOptions::default() });
            Part::new(Replica { disk: Disk::default(), acceptor, known: Arc::clone(&first) })
        };
        let client = |index| {
            let proposer = self.proposer(index, &first);
            Part::new(Client { proposer, begun: 0, is_waiting: false, tag: None, timer: None, timeouts: 0 })
        };
        let state = State {
            replicas: (0..replicas).map(replica).collect(),
            clients: (0..self.scripts.len()).map(client).collect(),
            driver: None,
            council: first,
            network: BTreeMap::new(),
            history: LinearizabilityTester::new(Register::default()),
        };
        self.settle(state)
    }

    fn settle(&self, state: State) -> State {
        let mut step = Step { cluster: self, state };
        for _ in 0..self.settled {
            step.ask(0);
            let near = |(&digest, message): (&u64, &Arc<Message>)| (message.to < 2).then_some(digest);
            while let Some(message) = step.state.network.iter().find_map(near) {
                let _ = step.deliver(message, true);
            }
        }
        step.state
    }

    fn proposer(&self, index: usize, configuration: &Arc<Configuration>) -> Proposer {
        let me = ProposerId { node: NodeId(index as u128 + 1), incarnation: Incarnation(1) };
        let options = ProposerOptions { hand_over_after: 0, round_trip_micros: 0, mutation: self.mutation, ..ProposerOptions::default() };
        let mut proposer = Proposer::new(me, options, 0);
        proposer.configure(NOW, Arc::clone(configuration));
        proposer
    }

    /// What may happen next.
    pub(crate) fn possible(&self, state: &State, actions: &mut Vec<Action>) {
        for (index, client) in state.clients.iter().enumerate() {
            let client = &client.is;
            if !client.is_waiting && client.begun < self.scripts[index].len() {
                actions.push(Action::Ask(index));
            }
            if client.is_waiting && client.timer.is_some() && client.timeouts < self.timeouts {
                actions.push(Action::Timeout(index));
            }
        }
        for (&digest, message) in &state.network {
            match message.asker {
                Asker::Client(_) => {
                    if state.is_awaited(message) {
                        actions.push(Action::Deliver(digest));
                    }
                    // Who only reads leaves nothing behind.
                    if !message.request.ask.is_read_only() {
                        actions.push(Action::Lose(digest));
                    }
                }
                Asker::Mover | Asker::Identifier if state.is_next_of_move(digest) => {
                    actions.extend([Action::Deliver(digest), Action::Skip(digest)]);
                }
                Asker::Mover | Asker::Identifier => {}
            }
        }
        if self.then.is_some() && state.driver.is_none() {
            actions.push(Action::Move);
        }
    }

    /// What becomes of it.
    pub(crate) fn after(&self, state: &State, action: &Action) -> Option<State> {
        let mut next = Step { cluster: self, state: state.clone() };
        match *action {
            Action::Ask(client) => next.ask(client),
            Action::Timeout(client) => next.timeout(client),
            Action::Deliver(message) => next.deliver(message, true)?,
            Action::Lose(message) => next.deliver(message, false)?,
            Action::Skip(message) => drop(next.state.network.remove(&message)?),
            Action::Move => next.begin_move(),
        }
        Some(next.state)
    }

    /// Whether every client was told everything, and the move is over.
    pub(crate) fn is_over(&self, state: &State) -> bool {
        let are_done =
            state.clients.iter().zip(&self.scripts).all(|(client, script)| !client.is.is_waiting && client.is.begun == script.len());
        are_done && (self.then.is_none() || state.council.phase.0 == 2)
    }
}

impl State {
    pub(crate) fn is_linearizable(&self) -> bool {
        self.history.is_consistent()
    }

    /// What a move sends arrives in one order, or not at all: what matters is what happens between its steps.
    fn is_next_of_move(&self, message: u64) -> bool {
        let mut of_move = self.network.iter().filter(|(_, message)| !matches!(message.asker, Asker::Client(_)));
        of_move.next().is_some_and(|(first, _)| *first == message)
    }

    /// Whether an answer would be looked at: a client's step that is over has forgotten its requests.
    fn is_awaited(&self, message: &Message) -> bool {
        match message.asker {
            Asker::Client(index) => self.clients[index].is.tag == Some(message.request.tag),
            Asker::Mover | Asker::Identifier => true,
        }
    }
}

/// A state that is being changed.
struct Step<'a> {
    cluster: &'a Cluster,
    state: State,
}

impl Step<'_> {
    fn ask(&mut self, index: usize) {
        let mut client = self.state.clients[index].is.clone();
        let op = self.cluster.scripts[index][client.begun].clone();
        client.begun += 1;
        client.is_waiting = true;
        let operation = OperationId(client.begun as u64);
        let want = want(&op, index, client.begun);
        let _ = self.state.history.on_invoke(index, op);
        let outputs = client.proposer.submit(NOW, operation, slot(), key(), want.into());
        self.client_outputs(index, client, outputs);
    }

    fn timeout(&mut self, index: usize) {
        let mut client = self.state.clients[index].is.clone();
        client.timeouts += 1;
        let outputs = client.timer.take().map(|timer| client.proposer.timer(NOW, timer)).unwrap_or_default();
        self.client_outputs(index, client, outputs);
    }

    fn deliver(&mut self, message: u64, is_answered: bool) -> Option<()> {
        let message = self.state.network.remove(&message)?;
        let answer = self.request(message.to, message.request.clone())?;
        match message.asker {
            _ if !is_answered => {}
            Asker::Mover => self.mover(|driver| driver.mover.answer(answer)),
            Asker::Identifier => self.identifier(|proposer| proposer.answer(NOW, answer)),
            Asker::Client(index) => {
                let mut client = self.state.clients[index].is.clone();
                let outputs = client.proposer.answer(NOW, answer);
                self.client_outputs(index, client, outputs);
            }
        }
        Some(())
    }

    /// An acceptor's answer. One that meets a later phase learns it from the council first (Q4).
    fn request(&mut self, to: usize, request: Request) -> Option<Answer> {
        let mut replica = self.state.replicas[to].is.clone();
        let mut effects = replica.acceptor.take(&replica.disk, Some(&replica.known), (), request);
        if let Some(((), request)) = effects.unlearned.take() {
            replica.known = Arc::clone(&self.state.council);
            effects = replica.acceptor.take(&replica.disk, Some(&replica.known), (), request);
        }
        effects.rows.into_iter().for_each(|row| replica.disk.apply(row));
        let synced = effects.place.map(|place| replica.acceptor.synced(place)).unwrap_or_default();
        self.state.replicas[to] = Part::new(replica);
        effects.answers.into_iter().chain(synced).map(|((), answer)| answer).next()
    }

    fn send(&mut self, to: Member, asker: Asker, request: Request) {
        let message = Message { to: (to.node.0 - 1) as usize, asker, request };
        self.state.network.insert(digest(&message), Arc::new(message));
    }

    fn client_outputs(&mut self, index: usize, mut client: Client, mut outputs: Vec<Output>) {
        while !outputs.is_empty() {
            let mut more = Vec::new();
            for output in outputs {
                match output {
                    Output::Send { to, request } => {
                        client.tag = Some(request.tag);
                        self.send(to, Asker::Client(index), request);
                    }
                    Output::After { timer, .. } => client.timer = Some(timer),
                    Output::Done { result, .. } => {
                        (client.is_waiting, client.tag, client.timer) = (false, None, None);
                        let told = result.map(told).expect("nobody gives up");
                        let _ = self.state.history.on_return(index, told);
                    }
                    Output::Learn(_) => more.extend(client.proposer.configure(NOW, Arc::clone(&self.state.council))),
                    Output::HandOver { .. } | Output::Acquired { .. } => {}
                }
            }
            outputs = more;
        }
        self.state.clients[index] = Part::new(client);
        let state = &self.state;
        let is_in_vain = |message: &Message| message.request.ask.is_read_only() && !state.is_awaited(message);
        let in_vain: Vec<u64> = state.network.iter().filter(|(_, message)| is_in_vain(message)).map(|(&digest, _)| digest).collect();
        in_vain.iter().for_each(|digest| drop(self.state.network.remove(digest)));
    }

    fn begin_move(&mut self) {
        let then = self.cluster.then.iter().flatten().copied().map(member);
        let Ok(joint) = self.state.council.begin(TableHash(2), then) else { return };
        self.state.council = Arc::new(joint);
        let options = MoverOptions { mutation: self.cluster.mutation, ..MoverOptions::default() };
        let mover = Mover::new(1, options, Arc::clone(&self.state.council));
        let proposer = self.cluster.proposer(self.cluster.scripts.len(), &self.state.council);
        self.state.driver = Some(Part::new(Driver { mover, proposer }));
        self.mover(|driver| driver.mover.start());
    }

    fn mover(&mut self, step: impl FnOnce(&mut Driver) -> Vec<MoveOutput>) {
        let Some(mut driver) = self.state.driver.as_ref().map(|driver| driver.is.clone()) else { return };
        let outputs = step(&mut driver);
        let mut identifying = Vec::new();
        for output in outputs {
            match output {
                MoveOutput::Send { to, request } => self.send(to, Asker::Mover, request),
                MoveOutput::Identify(key) => {
                    let wish = Wish { handed_over: true, ..Want::ReadForUpdate.into() };
                    identifying.extend(driver.proposer.submit(NOW, OperationId(1), slot(), key, wish));
                }
                MoveOutput::Certified => self.certified(),
                MoveOutput::After { .. } | MoveOutput::Superseded => {}
            }
        }
        self.state.driver = Some(Part::new(driver));
        self.identifier_outputs(identifying);
    }

    fn certified(&mut self) {
        if let Ok(stable) = self.state.council.complete() {
            self.state.council = Arc::new(stable);
        }
        // Copies that are late count as lost.
        self.state.network.retain(|_, message| matches!(message.asker, Asker::Client(_)));
    }

    fn identifier(&mut self, step: impl FnOnce(&mut Proposer) -> Vec<Output>) {
        let Some(mut driver) = self.state.driver.as_ref().map(|driver| driver.is.clone()) else { return };
        let outputs = step(&mut driver.proposer);
        self.state.driver = Some(Part::new(driver));
        self.identifier_outputs(outputs);
    }

    fn identifier_outputs(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Send { to, request } => self.send(to, Asker::Identifier, request),
                Output::Done { result, .. } => self.mover(|driver| driver.mover.identified(&key(), result.is_ok())),
                _ => {}
            }
        }
    }
}

fn want(op: &Op, client: usize, number: usize) -> Want {
    match op {
        Op::Get => Want::Read,
        Op::GetForUpdate => Want::ReadForUpdate,
        Op::Put(value) => {
            let id = RequestId { nonce: (client * 100 + number) as u128, print: 0, until: WallMicros(NOW.0 + 1) };
            let value = Value { bytes: Bytes::copy_from_slice(&[*value]), content_type: None, expires: None, written: NOW };
            Want::Change(Change { id, expect: Expect::Anything, fence: None, act: Act::Put(value) })
        }
    }
}

fn told(outcome: Outcome) -> Ret {
    match outcome {
        Outcome::Written(_) => Ret::Stored,
        Outcome::Read(envelope) => Ret::Seen(envelope.and_then(|envelope| match &envelope.content {
            Content::Live(value) => value.bytes.first().copied(),
            Content::Tombstone => None,
        })),
    }
}
