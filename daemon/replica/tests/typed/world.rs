//! Replicas of one key that write, send, lose, repeat, pull, restart and forget, each compared with the model after every step.

use std::collections::BTreeMap;

use bytes::Bytes;
use isochrone_ident::{Hlc, Incarnation, Kind, NodeId, Version, WallMicros};
use isochrone_replica::{Actor, Applied, Change, ChangeRefused, ClaimId, Delta, RegisterContext, Stamp, Typed, TypedLimits, Upkeep, View};

use crate::model::{EventId, History, Known, Seen};
use crate::scene::{SKEW_MS, bytes};

pub(crate) const REPLICAS: usize = 4;

/// One thing that happens.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Write { at: usize, ttl_ms: Option<u64>, wish: Wish },
    Deliver { from: usize, to: usize },
    Lose { from: usize, to: usize },
    Repeat { from: usize, to: usize, which: usize },
    Pull { from: usize, to: usize },
    Restart { at: usize },
    LoseDisk { at: usize },
    Wait { ms: u64 },
    Prune { at: usize },
}

/// What a client wishes for, to be made a change of the kind at hand.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) name: u8,
    pub(crate) other: u8,
    pub(crate) amount: i64,
    pub(crate) claim: Option<u8>,
    pub(crate) how: u8,
}

struct Replica {
    actor: Actor,
    clock_ahead_ms: u64,
    state: Option<Typed>,
    known: Known,
    log: Vec<(EventId, Delta)>,
    /// How much of each peer's log was sent here.
    heard: BTreeMap<usize, usize>,
}

pub(crate) struct World {
    kind: Kind,
    now_ms: u64,
    replicas: Vec<Replica>,
    history: History,
    has_pruned: bool,
    pub(crate) gaps: usize,
}

impl World {
    pub(crate) fn new(kind: Kind) -> Self {
        let replica = |node: usize| Replica {
            actor: Actor { node: NodeId(node as u128 + 1), life: 1 },
            clock_ahead_ms: node as u64 % SKEW_MS,
            state: None,
            known: Known::new(),
            log: Vec::new(),
            heard: BTreeMap::new(),
        };
        let replicas = (0..REPLICAS).map(replica).collect();
        Self { kind, now_ms: 1_000_000, replicas, history: History::default(), has_pruned: false, gaps: 0 }
    }

    pub(crate) fn run(&mut self, steps: &[Step]) {
        for step in steps {
            self.now_ms += 1;
            self.step(step);
            for at in 0..REPLICAS {
                self.check(at);
            }
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Write { at, ttl_ms, wish } => self.write(*at, *ttl_ms, wish),
            Step::Deliver { from, to } => self.deliver(*from, *to),
            Step::Lose { from, to } => {
                self.next_of(*from, *to);
            }
            Step::Repeat { from, to, which } => self.repeat(*from, *to, *which),
            Step::Pull { from, to } => self.pull(*from, *to),
            Step::Restart { at } => self.replicas[*at].actor.life += 1,
            Step::LoseDisk { at } => self.lose_disk(*at),
            Step::Wait { ms } => self.now_ms += ms,
            Step::Prune { at } => self.prune(*at),
        }
    }

    fn now(&self, at: usize) -> WallMicros {
        WallMicros((self.now_ms + self.replicas[at].clock_ahead_ms) * 1000)
    }

    fn write(&mut self, at: usize, ttl_ms: Option<u64>, wish: &Wish) {
        let now = self.now(at);
        let change = self.change(at, wish, now);
        let replica = &mut self.replicas[at];
        let version = Version { hlc: Hlc::at(now), node: replica.actor.node, incarnation: Incarnation(1) };
        let expires_at = ttl_ms.map(|ms| now.plus_millis(ms));
        let stamp = Stamp { version, actor: replica.actor, now, skew_ms: SKEW_MS, expires_at };
        match Typed::change(replica.state.as_ref(), self.kind, &change, &stamp, &TypedLimits::default()) {
            Ok((next, delta)) => {
                replica.state = Some(next);
                replica.log.push((self.history.events.len(), delta));
                self.history.take(&mut replica.known, version, replica.actor, now, expires_at, change);
            }
            Err(ChangeRefused::AlreadyCounted) => {
                let (claim, name) = claim_of(&change).expect("a claim");
                assert!(self.history.has_claim(&replica.known, now, claim, &name), "E2: an add that nobody counted was refused");
            }
            Err(ChangeRefused::FieldType { .. }) => assert_eq!(self.kind, Kind::Map),
            Err(other) => panic!("refused: {other}"),
        }
    }

    fn change(&self, at: usize, wish: &Wish, now: WallMicros) -> Change {
        let (name, other) = (Bytes::from(vec![b'a' + wish.name]), Bytes::from(vec![b'a' + wish.other]));
        let claim = wish.claim.map(|claim| ClaimId(u128::from(claim)));
        match self.kind {
            Kind::Counter => Change::Count { add: wish.amount, claim },
            Kind::Set => match wish.how % 3 {
                0 => Change::UpdateSet { add: vec![name], remove: Vec::new() },
                1 => Change::UpdateSet { add: Vec::new(), remove: vec![name] },
                _ => Change::UpdateSet { add: vec![name], remove: vec![other] },
            },
            Kind::Register => {
                let context = wish.how.is_multiple_of(2).then(|| self.context(at, now)).flatten();
                Change::PutRegister { value: Bytes::from(self.history.events.len().to_be_bytes().to_vec()), content_type: None, context }
            }
            _ => match wish.how % 4 {
                0 => Change::UpdateMap { set: vec![(name, other)], remove: Vec::new(), add: Vec::new(), claim: None },
                1 => Change::UpdateMap { set: Vec::new(), remove: vec![name], add: Vec::new(), claim: None },
                2 => Change::UpdateMap { set: Vec::new(), remove: Vec::new(), add: vec![(name, wish.amount)], claim },
                _ => Change::UpdateMap { set: Vec::new(), remove: vec![name.clone()], add: vec![(name, wish.amount)], claim },
            },
        }
    }

    fn context(&self, at: usize, now: WallMicros) -> Option<RegisterContext> {
        match self.replicas[at].state.as_ref()?.view(now, SKEW_MS)? {
            View::Register { context, .. } => Some(context),
            _ => None,
        }
    }

    /// The next entry of a peer's log, which counts as sent from now on.
    fn next_of(&mut self, from: usize, to: usize) -> Option<(EventId, Delta)> {
        let place = self.replicas[to].heard.get(&from).copied().unwrap_or(0);
        let next = self.replicas[from].log.get(place).cloned();
        if next.is_some() && from != to {
            self.replicas[to].heard.insert(from, place + 1);
        }
        next.filter(|_| from != to)
    }

    fn deliver(&mut self, from: usize, to: usize) {
        if let Some((event, delta)) = self.next_of(from, to) {
            self.apply(from, to, event, &delta);
        }
    }

    fn repeat(&mut self, from: usize, to: usize, which: usize) {
        let log = &self.replicas[from].log;
        if let Some((event, delta)) = log.get(which % log.len().max(1)).cloned() {
            self.apply(from, to, event, &delta);
        }
    }

    fn apply(&mut self, from: usize, to: usize, event: EventId, delta: &Delta) {
        let delta: Delta = postcard::from_bytes(&postcard::to_allocvec(delta).expect("encodes")).expect("decodes");
        match Typed::apply(self.replicas[to].state.as_ref(), &delta).expect("no conflict") {
            Applied::Changed(next) => {
                self.replicas[to].state = Some(next);
                self.learn(to, event);
            }
            Applied::Covered => {
                assert!(self.has_pruned || self.replicas[to].known.contains(&event), "E2: a write that is missing counts as covered");
                self.replicas[to].known.insert(event);
            }
            Applied::Gap => {
                self.gaps += 1;
                self.pull(from, to);
            }
        }
    }

    /// A counter's delta stands for all that its actor has counted in that life.
    fn learn(&mut self, at: usize, event: EventId) {
        let (actor, life) = (self.history.events[event].actor, self.history.events[event].life);
        let is_told = |earlier: &EventId| {
            let earlier = &self.history.events[*earlier];
            self.kind == Kind::Counter && (earlier.actor, earlier.life) == (actor, life)
        };
        let told: Vec<EventId> = (0..event).filter(is_told).collect();
        self.replicas[at].known.extend(told);
        self.replicas[at].known.insert(event);
    }

    fn pull(&mut self, from: usize, to: usize) {
        let Some(theirs) = self.replicas[from].state.clone() else { return };
        let known = self.replicas[from].known.clone();
        let replica = &mut self.replicas[to];
        match &mut replica.state {
            Some(ours) => {
                let before = ours.clone();
                let lacks = before.lacks(&theirs);
                let changed = ours.join(&theirs).expect("no conflict");
                assert_eq!((changed, lacks), (*ours != before, *ours != before), "join says whether it changed anything");
            }
            None => replica.state = Some(theirs),
        }
        replica.known.extend(known);
    }

    fn lose_disk(&mut self, at: usize) {
        let replica = &mut self.replicas[at];
        (replica.state, replica.known) = (None, Known::new());
        replica.log.clear();
        replica.actor.life += 1;
        self.replicas.iter_mut().for_each(|other| {
            other.heard.remove(&at);
        });
    }

    fn prune(&mut self, at: usize) {
        let events = self.history.events.iter().enumerate();
        let missing = events.filter(|(id, _)| self.replicas.iter().any(|replica| !replica.known.contains(id)));
        let oldest = missing.map(|(_, event)| event.version.hlc).min();
        let stable = oldest.unwrap_or(Hlc::at(WallMicros(self.now_ms * 1000))).previous();
        let upkeep = Upkeep { skew_ms: SKEW_MS, stable, claim_ms: u64::MAX / 4096, actor: self.replicas[at].actor };
        if let Some(state) = &mut self.replicas[at].state {
            self.has_pruned |= state.prune(&upkeep);
        }
    }

    fn check(&self, at: usize) {
        let replica = &self.replicas[at];
        let Some(state) = &replica.state else { return assert!(replica.known.is_empty()) };
        let now = self.now(at);
        assert_eq!(state.view(now, SKEW_MS).map(Seen::from), self.history.view(self.kind, &replica.known, now), "replica {at}");
        if !self.has_pruned {
            assert_eq!(state.seen().collect::<BTreeMap<_, _>>(), self.history.seen(&replica.known), "E9: the writes that are in the state");
        }
        let encoded = bytes(state);
        assert_eq!(postcard::from_bytes::<Typed>(&encoded).as_ref(), Ok(state));
        for other in self.replicas.iter().filter_map(|other| other.state.as_ref()) {
            assert_eq!(encoded == bytes(other), state == other, "E6: equal bytes if and only if equal states");
        }
    }

    pub(crate) fn states(&self) -> Vec<Typed> {
        self.replicas.iter().filter_map(|replica| replica.state.clone()).collect()
    }

    /// Everybody pulls from everybody: then all are equal, and equal to the model.
    pub(crate) fn heal(&mut self) {
        for _ in 0..2 {
            for (from, to) in (0..REPLICAS).flat_map(|from| (0..REPLICAS).map(move |to| (from, to))) {
                self.pull(from, to);
            }
        }
        for at in 0..REPLICAS {
            self.check(at);
            assert_eq!(self.replicas[at].state, self.replicas[0].state, "replicas differ after a full exchange");
        }
    }
}

fn claim_of(change: &Change) -> Option<(ClaimId, Bytes)> {
    match change {
        Change::Count { claim, .. } => Some(((*claim)?, Bytes::new())),
        Change::UpdateMap { claim, add, .. } => Some(((*claim)?, add.first()?.0.clone())),
        _ => None,
    }
}
