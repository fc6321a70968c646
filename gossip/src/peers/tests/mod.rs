//! A network of values in virtual time: the real machines, with nothing but arithmetic between them.

mod doubt;
mod hostile;
mod scenarios;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use isochrone_ident::{ClusterName, Incarnation, NodeId, Region, StoreId, WallMicros};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::health::{LinkHealth, LinkState};

const WALL_START: u64 = 1_700_000_000_000_000;
const PATH_SAMPLE_EVERY: Duration = Duration::from_millis(200);

/// A connection to a dead peer breaks after this long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn region(name: &str) -> Region {
    Region::new(name).expect("a name")
}

fn profile(node: u128, place: &str, incarnation: u64) -> Profile {
    let cluster = ClusterName::new("test").expect("a name");
    let identity = PeerIdentity { cluster, region: region(place), node: NodeId(node) };
    let address = format!("10.0.0.{node}:4000");
    Profile { identity, zone: None, store: StoreId(node), incarnation: Incarnation(incarnation), address }
}

struct Node {
    profile: Profile,
    peers: Peers,
    up: bool,
    /// It handles nothing until then.
    stalled_until: Duration,
    skew_ms: i64,
    woken: u64,
}

enum Event {
    Datagram { from: NodeId, to: NodeId, bytes: Bytes },
    Broken { at: NodeId, peer: NodeId },
    Sample,
}

struct Net {
    now: Duration,
    seed: u64,
    rng: StdRng,
    nodes: BTreeMap<NodeId, Node>,
    events: BTreeMap<(Duration, u64), Event>,
    made: u64,
    loss: f64,
    cut: BTreeSet<(NodeId, NodeId)>,
    connected: BTreeSet<(NodeId, NodeId)>,
    trace: xxhash_rust::xxh3::Xxh3,
    datagrams: u64,
    longest: usize,
}

impl Net {
    fn new(seed: u64) -> Self {
        let mut net = Self {
            now: Duration::ZERO,
            seed,
            rng: StdRng::seed_from_u64(seed),
            nodes: BTreeMap::new(),
            events: BTreeMap::new(),
            made: 0,
            loss: 0.0,
            cut: BTreeSet::new(),
            connected: BTreeSet::new(),
            trace: xxhash_rust::xxh3::Xxh3::new(),
            datagrams: 0,
            longest: 0,
        };
        net.push(PATH_SAMPLE_EVERY, Event::Sample);
        net
    }

    /// `counts` nodes in each region, numbered from 1 on, all started and connected.
    fn of(seed: u64, counts: &[(&str, u128)]) -> Self {
        let mut net = Self::new(seed);
        let mut node = 0;
        for (place, count) in counts {
            for _ in 0..*count {
                node += 1;
                net.start(profile(node, place, 1));
            }
        }
        net
    }

    fn push(&mut self, after: Duration, event: Event) {
        self.events.insert((self.now + after, self.made), event);
        self.made += 1;
    }

    /// Starts a daemon and connects it with all that run.
    fn start(&mut self, profile: Profile) {
        let node = profile.identity.node;
        self.start_alone(profile);
        let others: Vec<NodeId> = self.nodes.iter().filter(|(other, it)| **other != node && it.up).map(|(other, _)| *other).collect();
        for other in others {
            self.connect(node, other);
        }
        self.drain(node);
    }

    /// Connects every node with whom it finds in its table, as the shell does.
    fn dial(&mut self) {
        let known = |(id, node): (&NodeId, &Node)| node.peers.table().peers.keys().map(|peer| (*id, *peer)).collect::<Vec<_>>();
        let wanted: Vec<_> = self.nodes.iter().filter(|(_, node)| node.up).flat_map(known).collect();
        for (node, peer) in wanted {
            if self.nodes[&peer].up && !self.connected.contains(&(node, peer)) {
                self.connect(node, peer);
            }
        }
    }

    /// Starts a daemon that knows nobody.
    fn start_alone(&mut self, profile: Profile) {
        let node = profile.identity.node;
        let options = PeersOptions::new(profile.clone(), self.seed ^ u64::try_from(node.0).expect("small") ^ profile.incarnation.0 << 32);
        let peers = Peers::new(options, self.now).expect("a good address");
        self.nodes.insert(node, Node { profile, peers, up: true, stalled_until: Duration::ZERO, skew_ms: 0, woken: 0 });
    }

    fn connect(&mut self, a: NodeId, b: NodeId) {
        for (at, peer) in [(a, b), (b, a)] {
            let greeting = self.nodes[&peer].profile.clone();
            self.connected.insert((at, peer));
            let now = self.now;
            self.at(at).connected(now, &greeting).expect("a good address");
            self.drain(at);
        }
    }

    fn at(&mut self, node: NodeId) -> &mut Peers {
        &mut self.nodes.get_mut(&node).expect("it was started").peers
    }

    fn crash(&mut self, node: u128) {
        let node = NodeId(node);
        self.nodes.get_mut(&node).expect("it was started").up = false;
        let others: Vec<NodeId> = self.nodes.keys().copied().filter(|other| *other != node).collect();
        for other in others {
            self.connected.remove(&(node, other));
            self.push(IDLE_TIMEOUT, Event::Broken { at: other, peer: node });
        }
    }

    fn leave(&mut self, node: u128) {
        let (node, now) = (NodeId(node), self.now);
        self.at(node).leave(now);
        self.drain(node);
        self.crash(node.0);
    }

    fn cut_between(&mut self, some: &[u128], others: &[u128]) {
        for (a, b) in some.iter().flat_map(|a| others.iter().map(move |b| (NodeId(*a), NodeId(*b)))) {
            self.cut.extend([(a, b), (b, a)]);
        }
    }

    fn one_way(&self, a: NodeId, b: NodeId) -> Duration {
        let (a, b) = (&self.nodes[&a].profile.identity.region, &self.nodes[&b].profile.identity.region);
        if a == b { ms(1) } else { ms(40) }
    }

    fn wall(&self, node: NodeId) -> WallMicros {
        let skew = i128::from(self.nodes[&node].skew_ms) * 1000;
        let wall = i128::from(WALL_START) + i128::try_from(self.now.as_micros()).expect("fits") + skew;
        WallMicros(u64::try_from(wall).expect("after 1970"))
    }

    /// Sends what a node wants sent.
    fn drain(&mut self, from: NodeId) {
        while let Some((to, bytes)) = self.at(from).poll_send() {
            self.datagrams += 1;
            self.longest = self.longest.max(bytes.len());
            self.trace.update(&self.now.as_micros().to_le_bytes());
            self.trace.update(&from.0.to_le_bytes());
            self.trace.update(&bytes);
            let lost = self.rng.random_bool(self.loss);
            if !lost && self.connected.contains(&(from, to)) && !self.cut.contains(&(from, to)) {
                let jitter = Duration::from_micros(self.rng.random_range(0..500));
                self.push(self.one_way(from, to) + jitter, Event::Datagram { from, to, bytes });
            }
        }
        let now = self.now;
        let node = self.nodes.get_mut(&from).expect("it was started");
        node.woken += u64::from(node.peers.refresh(now));
    }

    fn next_wake(&self) -> Option<(Duration, NodeId)> {
        let up = self.nodes.iter().filter(|(_, node)| node.up);
        up.map(|(id, node)| (node.peers.next_timeout().max(node.stalled_until), *id)).min()
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let wake = self.next_wake().filter(|(at, _)| *at <= until);
            let event = self.events.first_key_value().map(|((at, _), _)| *at).filter(|at| *at <= until);
            match (wake, event) {
                (Some((at, node)), event) if event.is_none_or(|event| at <= event) => {
                    self.now = self.now.max(at);
                    let (now, wall) = (self.now, self.wall(node));
                    self.at(node).timeout(now, wall);
                    self.drain(node);
                }
                (_, Some(at)) => {
                    self.now = self.now.max(at);
                    if let Some((_, event)) = self.events.pop_first() {
                        self.handle(event);
                    }
                }
                _ => break,
            }
        }
        self.now = until;
        self.nodes.values_mut().for_each(|node| node.woken += u64::from(node.peers.refresh(until)));
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Sample => {
                self.sample();
                self.push(PATH_SAMPLE_EVERY, Event::Sample);
            }
            Event::Broken { at, peer } => {
                if !self.nodes[&peer].up && self.connected.remove(&(at, peer)) {
                    let now = self.now;
                    self.at(at).disconnected(now, peer);
                    self.drain(at);
                }
            }
            Event::Datagram { from, to, bytes } => self.deliver(from, to, bytes),
        }
    }

    fn deliver(&mut self, from: NodeId, to: NodeId, bytes: Bytes) {
        let node = &self.nodes[&to];
        if !node.up || !self.connected.contains(&(to, from)) {
            return;
        }
        if node.stalled_until > self.now {
            let after = node.stalled_until - self.now;
            return self.push(after, Event::Datagram { from, to, bytes });
        }
        let (now, wall) = (self.now, self.wall(to));
        if let Err(error) = self.at(to).datagram(now, wall, from, &bytes) {
            // What crosses a change of identity is refused by the pool; anything else is a bug.
            assert!(matches!(error, Malformed::Pool(_)), "{from} -> {to}: {error}");
        }
        self.drain(to);
    }

    fn sample(&mut self) {
        for (at, peer) in self.connected.clone() {
            let sample = PathSample { rtt: self.one_way(at, peer) * 2, ..PathSample::default() };
            let now = self.now;
            self.at(at).path(now, peer, sample);
        }
    }

    // ---- What a test asks.

    fn table(&self, node: u128) -> &PeerTable {
        self.nodes[&NodeId(node)].peers.table()
    }

    fn sees(&self, node: u128, peer: u128) -> Option<Liveness> {
        self.table(node).get(NodeId(peer)).map(|peer| peer.liveness)
    }

    fn link(&self, node: u128, peer: u128) -> LinkHealth {
        self.table(node).get(NodeId(peer)).expect("it is known").link
    }

    fn running(&self) -> Vec<u128> {
        self.nodes.iter().filter(|(_, node)| node.up).map(|(id, _)| id.0).collect()
    }

    /// Whether every running node sees `peer` so.
    fn all_see(&self, peer: u128, liveness: Liveness) -> bool {
        self.running().into_iter().filter(|node| *node != peer).all(|node| self.sees(node, peer) == Some(liveness))
    }

    /// Whether every running node sees every running node alive.
    fn is_whole(&self) -> bool {
        self.running().into_iter().all(|peer| self.all_see(peer, Liveness::Alive))
    }

    /// Runs until that holds; how long it took.
    fn until(&mut self, within: Duration, what: &str, holds: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        while !holds(self) {
            assert!(self.now - start < within, "not within {within:?}: {what}");
            self.run(ms(20));
        }
        if std::env::var_os("FIGURES").is_some() {
            eprintln!("FIGURE {what}: {:?}", self.now - start);
        }
        self.now - start
    }

    fn whole_within(&mut self, within: Duration) -> Duration {
        self.until(within, "everybody sees everybody alive", Self::is_whole)
    }

    fn digest(&self) -> u64 {
        self.trace.digest()
    }
}
