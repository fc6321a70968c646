//! A world from one seed: five daemons, a network that loses, repeats and reorders, a council, clients that try again, a mover and a collector.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use isochrone_ident::{Key, Namespace, Slot, StoreId, WallMicros};
use isochrone_quorum::{
    Answer, Asker, Bounds, CollectOutput, Collector, CollectorOptions, Configuration, Effects, KeyName, Left, Member, MoveOutput, Mover,
    MoverOptions, Mutation, OperationId, Outcome, Output, Place, ProposerOptions, Request, Row, TableHash, Timer, Want, Wish,
};

use crate::clients::Clients;
use crate::history::History;
use crate::node::{Node, Reply, acceptor_of, member_of, proposer_of};
use crate::support::Disk;

pub(crate) const NODES: usize = 5;
const WIDTH: usize = 3;
const SKEW: u64 = 8;
pub(crate) const WINDOW: u64 = 500;
pub(crate) const DEADLINE: u64 = 300;

/// `SplitMix64`, as everything here is drawn from one seed.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub(crate) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// What goes wrong, and how often, drawn from the seed.
struct Faults {
    loss: u64,
    repeat: u64,
    late: u64,
    delay: u64,
    sync: u64,
}

pub(crate) enum Event {
    Request { to: Member, reply: Reply, request: Request },
    Answer { reply: Reply, answer: Answer },
    Synced { node: usize, boot: u64, place: Place },
    Timer { node: usize, boot: u64, timer: Timer },
    MoverLate { node: usize, boot: u64 },
    CollectorLate { node: usize, boot: u64 },
    Learn { node: usize },
    Wake { client: usize },
    Deadline { operation: OperationId },
    Handed { to: usize, operation: OperationId, wish: Wish },
    Crash,
    Restart { node: usize },
    LoseDisk,
    BeginMove,
    Drive,
    Collect,
    Own,
    Heal,
}

/// What a run was like, so that a test can see that it tested something.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Report {
    pub(crate) operations: usize,
    pub(crate) moves: usize,
    pub(crate) forgotten: usize,
    pub(crate) grants: usize,
}

impl Report {
    pub(crate) fn add(&mut self, other: Self) {
        self.operations += other.operations;
        self.moves += other.moves;
        self.forgotten += other.forgotten;
        self.grants += other.grants;
    }
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) now: u64,
    sequence: u64,
    events: BTreeMap<(u64, u64), Event>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) council: Arc<Configuration>,
    faults: Faults,
    is_healed: bool,
    mutation: Option<Mutation>,
    options: ProposerOptions,
    pub(crate) clients: Clients,
    pub(crate) history: History,
    /// Request ids that some acceptor was asked to keep, and those of which clients were told that nothing happened.
    pub(crate) applied: BTreeSet<u128>,
    pub(crate) never: BTreeSet<u128>,
    identifying: BTreeMap<OperationId, (usize, KeyName)>,
    pub(crate) last_operation: u64,
    stores: u128,
    pub(crate) failure: Option<String>,
    pub(crate) report: Report,
    drivers: u64,
}

pub(crate) fn slot() -> Slot {
    Slot::of_hash(77)
}

pub(crate) fn key(number: u64) -> KeyName {
    let namespace = Namespace::new("strong").expect("a name");
    KeyName { namespace, key: Key::new(Bytes::copy_from_slice(&number.to_be_bytes()[7..])).expect("a key") }
}

impl World {
    pub(crate) fn new(seed: u64, mutation: Option<Mutation>) -> Self {
        let mut rng = Rng::new(seed);
        let bounds = Bounds { ring: 12, fences: 4, window_micros: WINDOW, skew_micros: SKEW };
        let hand_over_after = rng.pick(&[0, 2]);
        let options =
            ProposerOptions { bounds, step_micros: 90, round_trip_micros: 20, queue: 8, hand_over_after, mutation, ..Default::default() };
        let stores: Vec<StoreId> = (0..NODES).map(|i| StoreId(i as u128 + 1)).collect();
        let council = Arc::new(Configuration::first(slot(), TableHash(1), (0..WIDTH).map(|i| member_of(i, stores[i]))));
        let node = |index: usize, rng: &mut Rng| {
            let member = member_of(index, stores[index]);
            let mut proposer = proposer_of(index, 1, options, rng.next());
            proposer.configure(WallMicros(0), Arc::clone(&council));
            Node {
                index,
                store: stores[index],
                boot: 1,
                is_up: true,
                disk: Disk::default(),
                pending: std::collections::VecDeque::new(),
                acceptor: acceptor_of(member, mutation),
                proposer,
                known: Arc::clone(&council),
                parked: Vec::new(),
                mover: None,
                collector: None,
                skew: rng.below(SKEW + 1),
                mutation,
            }
        };
        let nodes = (0..NODES).map(|index| node(index, &mut rng)).collect();
        let faults = Faults {
            loss: rng.pick(&[0, 10, 50, 150]),
            repeat: rng.pick(&[0, 20, 100]),
            late: rng.pick(&[0, 10, 60]),
            delay: rng.pick(&[4, 15, 30]),
            sync: rng.pick(&[1, 8, 40]),
        };
        let clients = Clients::new(&mut rng);
        let mut world = Self {
            rng,
            now: 0,
            sequence: 0,
            events: BTreeMap::new(),
            nodes,
            council,
            faults,
            is_healed: false,
            mutation,
            options,
            clients,
            history: History::default(),
            applied: BTreeSet::new(),
            never: BTreeSet::new(),
            identifying: BTreeMap::new(),
            last_operation: 0,
            stores: NODES as u128,
            failure: None,
            report: Report::default(),
            drivers: 0,
        };
        world.plan();
        world
    }

    /// Sets the times of faults and of what the council does.
    fn plan(&mut self) {
        for client in 0..self.clients.count() {
            self.at(self.now + client as u64, Event::Wake { client });
        }
        for _ in 0..self.rng.pick(&[0, 1, 3, 6]) {
            self.some_time(Event::Crash);
        }
        for _ in 0..self.rng.pick(&[0, 0, 1, 3]) {
            self.some_time(Event::BeginMove);
        }
        for _ in 0..self.rng.pick(&[0, 0, 3, 8]) {
            self.some_time(Event::Collect);
        }
        for _ in 0..self.rng.pick(&[0, 0, 2, 6]) {
            self.some_time(Event::Own);
        }
        if self.rng.chance(150) {
            self.some_time(Event::LoseDisk);
        }
        self.at(HEAL, Event::Heal);
    }

    fn some_time(&mut self, event: Event) {
        let at = self.rng.below(HEAL);
        self.at(at, event);
    }

    pub(crate) fn at(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((time, self.sequence), event);
    }

    /// Runs to the end: faults, then healing, after which every client must finish and every key be readable.
    pub(crate) fn run(mut self) -> Result<Report, String> {
        while let Some(((time, _), event)) = self.events.pop_first() {
            self.now = time;
            if time > END {
                break;
            }
            self.handle(event);
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
        }
        self.history.check()?;
        self.report.operations = self.history.len();
        if self.mutation.is_none() && !self.clients.are_finished() {
            let known: Vec<_> = self.nodes.iter().map(|node| (node.known.phase, &node.disk.slots, &node.disk.keys)).collect();
            return Err(format!("no progress after healing: {:#?} {:#?} {:?}", self.clients, known, self.council));
        }
        Ok(self.report)
    }

    pub(crate) fn wall(&self, node: usize) -> WallMicros {
        WallMicros(1_000_000 + self.now + self.nodes[node].skew)
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Request { to, reply, request } => self.request(to, reply, request),
            Event::Answer { reply, answer } => self.answer(reply, answer),
            Event::Synced { node, boot, place } if self.is_alive(node, boot) => {
                let answers = self.nodes[node].synced(place);
                self.answers(answers);
            }
            Event::Timer { node, boot, timer } if self.is_alive(node, boot) => {
                let now = self.wall(node);
                let out = self.nodes[node].proposer.timer(now, timer);
                self.outputs(node, out);
            }
            Event::MoverLate { node, boot } if self.is_alive(node, boot) => {
                let out = self.nodes[node].mover.as_mut().map(Mover::late).unwrap_or_default();
                self.move_outputs(node, out);
            }
            Event::CollectorLate { node, boot } if self.is_alive(node, boot) => {
                let out = self.nodes[node].collector.as_mut().map(Collector::late).unwrap_or_default();
                self.collect_outputs(node, out);
            }
            Event::Learn { node } => self.learn(node),
            Event::Wake { client } => self.client_wakes(client),
            Event::Deadline { operation } => self.deadline(operation),
            Event::Handed { to, operation, wish } => self.handed(to, operation, wish),
            Event::Crash if !self.is_healed => {
                let node = self.rng.below(NODES as u64) as usize;
                self.crash(node);
                let pause = self.rng.below(150);
                self.at(self.now + pause, Event::Restart { node });
            }
            Event::Restart { node } => self.restart(node),
            Event::LoseDisk if !self.is_healed => self.lose_disk(),
            Event::BeginMove => self.begin_move(),
            Event::Drive => self.drive(),
            Event::Collect => self.collect(),
            Event::Own => {
                let node = self.rng.below(NODES as u64) as usize;
                if self.nodes[node].is_up {
                    let out = self.nodes[node].proposer.acquire(slot());
                    self.outputs(node, out);
                }
            }
            Event::Heal => self.heal(),
            _ => {}
        }
    }

    fn is_alive(&self, node: usize, boot: u64) -> bool {
        self.nodes[node].is_up && self.nodes[node].boot == boot
    }

    /// Sends over the network: lost, repeated, late, or none of it.
    fn carry(&mut self, make: impl Fn() -> Event) {
        let faults = if self.is_healed { &HEALED } else { &self.faults };
        let (loss, repeat, late, delay) = (faults.loss, faults.repeat, faults.late, faults.delay);
        let copies = if self.rng.chance(loss) { 0 } else { 1 + u64::from(self.rng.chance(repeat)) };
        for _ in 0..copies {
            let extra = if self.rng.chance(late) { self.rng.below(500) } else { 0 };
            let at = self.now + 1 + self.rng.below(delay) + extra;
            self.at(at, make());
        }
    }

    fn request(&mut self, to: Member, reply: Reply, request: Request) {
        let index = (to.node.0 - 1) as usize;
        let node = &mut self.nodes[index];
        // The mesh knows a daemon by its certificate, and what was meant for the store that it lost does not count.
        if !node.is_up || node.member() != to {
            return;
        }
        let known = Arc::clone(&node.known);
        let effects = node.acceptor.take(&node.disk, Some(&known), reply, request);
        self.effects(index, effects);
    }

    fn effects(&mut self, index: usize, effects: Effects<Reply>) {
        for row in &effects.rows {
            self.witness(row);
        }
        let boot = self.nodes[index].boot;
        if let Some(place) = effects.place {
            self.nodes[index].pending.push_back((place, effects.rows));
            let at = self.now + 1 + self.rng.below(self.faults.sync);
            self.at(at, Event::Synced { node: index, boot, place });
        }
        if let Some(parked) = effects.unlearned {
            self.nodes[index].parked.push(parked);
            self.at(self.now + 5, Event::Learn { node: index });
        }
        self.answers(effects.answers);
    }

    /// No acceptor may ever be asked to keep what a client was told has not happened (Q10).
    fn witness(&mut self, row: &Row) {
        let Row::Key(_, _, state) = row else { return };
        for answered in state.accepted.iter().flat_map(|accepted| &accepted.envelope.ring) {
            self.applied.insert(answered.id.nonce);
            if self.never.contains(&answered.id.nonce) {
                self.failure = Some(format!("a 503 was applied: {answered:?}"));
            }
        }
    }

    fn answers(&mut self, answers: Vec<(Reply, Answer)>) {
        for (reply, answer) in answers {
            self.carry(|| Event::Answer { reply, answer: answer.clone() });
        }
    }

    fn answer(&mut self, (node, boot): Reply, answer: Answer) {
        if !self.is_alive(node, boot) {
            return;
        }
        let now = self.wall(node);
        match answer.tag.asker() {
            Asker::Collector => {
                let out = self.nodes[node].collector.as_mut().map(|collector| collector.answer(answer)).unwrap_or_default();
                self.collect_outputs(node, out);
            }
            Asker::Mover => {
                let out = self.nodes[node].mover.as_mut().map(|mover| mover.answer(answer)).unwrap_or_default();
                self.move_outputs(node, out);
            }
            Asker::Proposer => {
                let out = self.nodes[node].proposer.answer(now, answer);
                self.outputs(node, out);
            }
        }
    }

    pub(crate) fn outputs(&mut self, node: usize, outputs: Vec<Output>) {
        let reply = (node, self.nodes[node].boot);
        for output in outputs {
            match output {
                Output::Send { to, request } => self.carry(|| Event::Request { to, reply, request: request.clone() }),
                Output::After { micros, timer } => self.at(self.now + micros, Event::Timer { node, boot: reply.1, timer }),
                Output::Done { operation, result, .. } => match self.identifying.remove(&operation) {
                    Some((node, key)) => self.identified(node, &key, result.is_ok()),
                    None => self.client_told(operation, result),
                },
                Output::HandOver { operation, to, wish } => self.hand_over(operation, to.0, wish),
                Output::Learn(_) => self.at(self.now + 5, Event::Learn { node }),
                Output::Acquired { granted, .. } => self.report.grants += usize::from(granted),
            }
        }
    }

    fn hand_over(&mut self, operation: OperationId, to: u128, wish: Wish) {
        if let Some((node, key)) = self.identifying.remove(&operation) {
            return self.identified(node, &key, false);
        }
        let to = (to - 1) as usize;
        self.clients.in_transit(operation, wish.left);
        let loss = if self.is_healed { 0 } else { self.faults.loss };
        if self.rng.chance(loss) {
            self.client_told(operation, Err(wish.left.failure(isochrone_quorum::Because::NoQuorum)));
        } else {
            self.at(self.now + 5, Event::Handed { to, operation, wish });
        }
    }

    fn handed(&mut self, to: usize, operation: OperationId, wish: Wish) {
        let Some(key) = self.clients.arrives(operation, to) else { return };
        if !self.nodes[to].is_up {
            return self.client_told(operation, Err(wish.left.failure(isochrone_quorum::Because::NoQuorum)));
        }
        self.submit(to, operation, key, wish);
    }

    pub(crate) fn submit(&mut self, node: usize, operation: OperationId, key: KeyName, wish: Wish) {
        let now = self.wall(node);
        let out = self.nodes[node].proposer.submit(now, operation, slot(), key, wish);
        self.outputs(node, out);
    }

    fn deadline(&mut self, operation: OperationId) {
        if let Some((node, key)) = self.identifying.remove(&operation) {
            let now = self.wall(node);
            let (_, out) = self.nodes[node].proposer.give_up(now, operation);
            self.outputs(node, out);
            return self.identified(node, &key, false);
        }
        match self.clients.place_of(operation) {
            Some(Ok(node)) => {
                let now = self.wall(node);
                let (failure, out) = self.nodes[node].proposer.give_up(now, operation);
                if let Some(failure) = failure {
                    self.client_told(operation, Err(failure));
                }
                self.outputs(node, out);
            }
            Some(Err(left)) => self.client_told(operation, Err(Left::failure(left, isochrone_quorum::Because::NoQuorum))),
            None => {}
        }
    }

    fn learn(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if !node.is_up {
            return;
        }
        node.known = Arc::clone(&self.council);
        let parked = std::mem::take(&mut node.parked);
        let effects = node.acceptor.adopt(&node.disk, &self.council);
        let now = self.wall(index);
        let out = self.nodes[index].proposer.configure(now, Arc::clone(&self.council));
        self.effects(index, effects);
        self.outputs(index, out);
        for (reply, request) in parked {
            self.request(self.nodes[index].member(), reply, request);
        }
    }

    fn crash(&mut self, node: usize) {
        if !self.nodes[node].is_up {
            return;
        }
        let kept = self.rng.below(self.nodes[node].pending.len() as u64 + 1) as usize;
        self.nodes[node].crash(kept);
        self.identifying.retain(|_, (at, _)| *at != node);
        for operation in self.clients.at(node) {
            self.client_told(operation, Err(isochrone_quorum::Failure::OutcomeUnknown));
        }
    }

    fn restart(&mut self, index: usize) {
        if self.nodes[index].is_up {
            return;
        }
        let seed = self.rng.next();
        let options = self.options;
        let node = &mut self.nodes[index];
        node.restart(options, seed);
        let known = Arc::clone(&node.known);
        let now = self.wall(index);
        let out = self.nodes[index].proposer.configure(now, known);
        self.outputs(index, out);
        self.at(self.now + 10, Event::Learn { node: index });
    }

    /// Q15: the disk is gone, and with it the member that it was.
    fn lose_disk(&mut self) {
        let index = self.rng.below(NODES as u64) as usize;
        self.crash(index);
        self.stores += 1;
        let node = &mut self.nodes[index];
        node.disk = Disk::default();
        if self.mutation != Some(Mutation::SameStoreAfterLoss) {
            node.store = StoreId(self.stores);
        }
        self.restart(index);
        // The council replaces it, as it would anybody who is gone.
        self.at(self.now + 20, Event::BeginMove);
    }

    fn heal(&mut self) {
        self.is_healed = true;
        for node in 0..NODES {
            self.restart(node);
        }
        self.clients.heal();
        self.at(self.now, Event::Drive);
    }

    /// Q14a: the council orders a move, and somebody drives it.
    fn begin_move(&mut self) {
        if self.council.phase.is_joint() {
            return;
        }
        let current: Vec<Member> = self.council.current.iter().map(|replica| replica.member).collect();
        let mut members: Vec<Member> = self.nodes.iter().map(Node::member).collect();
        let mut next: Vec<Member> = current.iter().filter(|member| members.contains(member)).copied().collect();
        next.truncate(if self.rng.chance(300) { 1 } else { 2 });
        while next.len() < WIDTH {
            let at = self.rng.below(members.len() as u64) as usize;
            let member = members.swap_remove(at);
            if !next.contains(&member) {
                next.push(member);
            }
        }
        if let Ok(joint) = self.council.begin(TableHash(self.council.table.0 + 1), next) {
            self.ordered(joint);
            self.at(self.now + 1, Event::Drive);
        }
    }

    fn ordered(&mut self, configuration: Configuration) {
        self.council = Arc::new(configuration);
        for node in 0..NODES {
            if self.is_healed || self.rng.chance(700) {
                let at = self.now + self.rng.below(60);
                self.at(at, Event::Learn { node });
            }
        }
    }

    /// Somebody drives the move, from its beginning: as long as it is not over, somebody tries again.
    fn drive(&mut self) {
        if !self.council.phase.is_joint() {
            return;
        }
        let node = self.rng.below(NODES as u64) as usize;
        if self.nodes[node].is_up && self.nodes[node].mover.is_none() {
            self.learn(node);
            self.drivers += 1;
            let options = MoverOptions { window: 2, resend_micros: 90, mutation: self.mutation };
            let mut mover = Mover::new(self.drivers, options, Arc::clone(&self.council));
            let out = mover.start();
            self.nodes[node].mover = Some(mover);
            self.move_outputs(node, out);
        }
        self.at(self.now + 400, Event::Drive);
    }

    fn move_outputs(&mut self, node: usize, outputs: Vec<MoveOutput>) {
        let reply = (node, self.nodes[node].boot);
        for output in outputs {
            match output {
                MoveOutput::Send { to, request } => self.carry(|| Event::Request { to, reply, request: request.clone() }),
                MoveOutput::After { micros } => self.at(self.now + micros, Event::MoverLate { node, boot: reply.1 }),
                MoveOutput::Identify(key) => {
                    self.last_operation += 1;
                    let operation = OperationId(self.last_operation);
                    self.identifying.insert(operation, (node, key.clone()));
                    self.at(self.now + DEADLINE, Event::Deadline { operation });
                    let wish = Wish { handed_over: true, ..Want::ReadForUpdate.into() };
                    self.submit(node, operation, key, wish);
                }
                MoveOutput::Certified => {
                    self.nodes[node].mover = None;
                    if let Ok(stable) = self.council.complete() {
                        self.report.moves += 1;
                        self.ordered(stable);
                    }
                }
                MoveOutput::Superseded => self.nodes[node].mover = None,
            }
        }
    }

    fn identified(&mut self, node: usize, key: &KeyName, is_done: bool) {
        let out = self.nodes[node].mover.as_mut().map(|mover| mover.identified(key, is_done)).unwrap_or_default();
        self.move_outputs(node, out);
    }

    fn collect(&mut self) {
        let node = self.rng.below(NODES as u64) as usize;
        if !self.nodes[node].is_up || self.nodes[node].collector.is_some() {
            return;
        }
        self.drivers += 1;
        let bounds = self.options.bounds;
        let options = CollectorOptions { bounds, resend_micros: 60, resends: 4, mutation: self.mutation };
        let keys = (0..self.clients.keys()).map(key).filter(|_| self.rng.chance(700)).collect();
        let now = self.wall(node);
        let mut collector = Collector::new(self.drivers, options, Arc::clone(&self.nodes[node].known), keys, now);
        let out = collector.start();
        self.nodes[node].collector = Some(collector);
        self.collect_outputs(node, out);
    }

    fn collect_outputs(&mut self, node: usize, outputs: Vec<CollectOutput>) {
        let reply = (node, self.nodes[node].boot);
        for output in outputs {
            match output {
                CollectOutput::Send { to, request } => self.carry(|| Event::Request { to, reply, request: request.clone() }),
                CollectOutput::After { micros } => self.at(self.now + micros, Event::CollectorLate { node, boot: reply.1 }),
                CollectOutput::Ended { forgotten, .. } => {
                    self.report.forgotten += forgotten;
                    self.nodes[node].collector = None;
                }
            }
        }
    }

    /// A daemon that is up; any, when none is.
    pub(crate) fn some_node(&mut self) -> usize {
        let up: Vec<usize> = (0..NODES).filter(|&node| self.nodes[node].is_up).collect();
        if up.is_empty() { 0 } else { self.rng.pick(&up) }
    }
}

/// When faults stop, and when everything must have ended.
pub(crate) const HEAL: u64 = 2_000;
const END: u64 = 8_000;
const HEALED: Faults = Faults { loss: 0, repeat: 0, late: 0, delay: 5, sync: 1 };

/// What a client is told.
pub(crate) type Told = Result<Outcome, isochrone_quorum::Failure>;
