//! Clients that roam between daemons which hear of each other late: with the rules of the token no guarantee is ever broken, and with any one of
//! them left out some is.

use std::collections::BTreeMap;

use isochrone_ident::{ClusterName, Hlc, Incarnation, NodeId, Version, WallMicros};

use super::{Causes, ClusterTag, Session};
use crate::{Clock, ClockLimits, Heard, Horizon};

const KEYS: u64 = 3;
const CLIENTS: usize = 3;
const STEPS: u64 = 120;

/// A rule that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Nothing,
    NoNoteAtWrite,
    NoNoteAtRead,
    NoCauses,
    CausesNotTakenOver,
    TokenNotObserved,
    PrunedBeforeStable,
    TokenIgnored,
    HeartbeatAheadOfWrites,
}

type Key = u64;
/// Of each key, the version that must not be missed.
type Known = BTreeMap<Key, Version>;

#[derive(Clone)]
struct Write {
    key: Key,
    version: Version,
    causes: Causes,
    /// What the oracle knows that the write depends on.
    known: Known,
}

struct Daemon {
    clock: Clock,
    skew_micros: u64,
    log: Vec<Write>,
    /// How much of each daemon's log has arrived here.
    received: Vec<usize>,
    held: BTreeMap<Key, Write>,
    horizon: Horizon,
}

#[derive(Default)]
struct Client {
    token: Option<String>,
    known: Known,
}

struct World {
    broken: Broken,
    random: u64,
    now_micros: u64,
    daemons: Vec<Daemon>,
    clients: Vec<Client>,
    answered: usize,
}

fn node(daemon: usize) -> NodeId {
    NodeId(daemon as u128 + 1)
}

fn raise(known: &mut Known, key: Key, version: Version) {
    let held = known.entry(key).or_default();
    *held = (*held).max(version);
}

fn tag() -> ClusterTag {
    ClusterTag::of(&ClusterName::new("earth").expect("a name"))
}

impl World {
    fn new(seed: u64, broken: Broken) -> Self {
        let count = 3 + (seed % 2) as usize;
        let daemon = |d: usize| {
            let mut horizon = Horizon::default();
            horizon.set_members((0..count).map(node));
            Daemon {
                clock: Clock::new(Hlc::ZERO, ClockLimits::default()),
                skew_micros: d as u64 * 40_000,
                log: Vec::new(),
                received: vec![0; count],
                held: BTreeMap::new(),
                horizon,
            }
        };
        let clients = (0..CLIENTS).map(|_| Client::default()).collect();
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self { broken, random, now_micros: 1_000_000_000, daemons: (0..count).map(daemon).collect(), clients, answered: 0 }
    }

    /// A number below `below` (xorshift64*; Vigna 2016).
    fn draw(&mut self, below: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below
    }

    fn now(&self, daemon: usize) -> WallMicros {
        WallMicros(self.now_micros + self.daemons[daemon].skew_micros)
    }

    fn run(&mut self) -> Result<(), String> {
        for _ in 0..STEPS {
            self.now_micros += self.draw(2_000);
            let (client, daemon) = (self.draw(CLIENTS as u64) as usize, self.draw(self.daemons.len() as u64) as usize);
            let key = self.draw(KEYS);
            match self.draw(10) {
                0..3 => self.write(client, daemon, key)?,
                3..7 => self.read(client, daemon, key)?,
                7..9 => self.deliver(daemon),
                _ => self.heartbeat(daemon),
            }
        }
        Ok(())
    }

    fn session(&self, client: usize, daemon: usize) -> Session {
        let decode = |token: &String| Session::decode(token, tag(), self.now(daemon), 500).expect("a daemon gave it");
        self.clients[client].token.as_ref().map(decode).unwrap_or_default()
    }

    /// Gives the client its new token.
    fn answer(&mut self, client: usize, daemon: usize, mut session: Session) {
        let horizon = &self.daemons[daemon].horizon;
        let stable = if self.broken == Broken::PrunedBeforeStable { horizon.heard_from_all() } else { horizon.stable_through() };
        session.prune(stable);
        self.clients[client].token = Some(session.encode(tag()));
        self.answered += 1;
    }

    fn write(&mut self, client: usize, daemon: usize, key: Key) -> Result<(), String> {
        let (mut session, now) = (self.session(client, daemon), self.now(daemon));
        let at = &mut self.daemons[daemon];
        if self.broken != Broken::TokenNotObserved {
            at.clock.observe(session.latest(), now).map_err(|e| e.to_string())?;
        }
        let version = Version { hlc: at.clock.tick(now), node: node(daemon), incarnation: Incarnation(1) };
        let causes = if self.broken == Broken::NoCauses { Causes::default() } else { Causes::of(&session, at.horizon.stable_through()) };
        let known = &mut self.clients[client].known;
        if known.get(&key).is_some_and(|before| *before > version) {
            return Err(format!("{version} is to replace what the session knows, and is older"));
        }
        raise(known, key, version);
        let write = Write { key, version, causes, known: known.clone() };
        at.log.push(write.clone());
        at.received[daemon] += 1;
        at.take(write);
        if self.broken != Broken::NoNoteAtWrite {
            session.note(node(daemon), version.hlc);
        }
        self.answer(client, daemon, session);
        Ok(())
    }

    fn read(&mut self, client: usize, daemon: usize, key: Key) -> Result<(), String> {
        let mut session = self.session(client, daemon);
        let at = &self.daemons[daemon];
        if self.broken != Broken::TokenIgnored && session.lacks(&at.horizon, node(daemon)).is_some() {
            return Ok(());
        }
        let shown = at.held.get(&key).cloned();
        let version = shown.as_ref().map(|write| write.version).unwrap_or_default();
        if self.clients[client].known.get(&key).is_some_and(|before| *before > version) {
            return Err(format!("a session that knows of a later one was shown {version} of key {key} at daemon {daemon}"));
        }
        if let Some(write) = shown {
            self.take_over(client, &write, &mut session);
        }
        self.answer(client, daemon, session);
        Ok(())
    }

    fn take_over(&mut self, client: usize, write: &Write, session: &mut Session) {
        let known = &mut self.clients[client].known;
        write.known.iter().for_each(|(&key, &version)| raise(known, key, version));
        match self.broken {
            Broken::NoNoteAtRead => {}
            Broken::CausesNotTakenOver => session.note_write(write.version, &Causes::default()),
            _ => session.note_write(write.version, &write.causes),
        }
    }

    /// Some of one other daemon's log arrives, in order, with word of how far it reaches.
    fn deliver(&mut self, to: usize) {
        let from = self.draw(self.daemons.len() as u64) as usize;
        if from == to {
            return;
        }
        let have = self.daemons[to].received[from];
        let all = self.daemons[from].log.len();
        let until = have + self.draw((all - have) as u64 + 1) as usize;
        let arriving = self.daemons[from].log[have..until].to_vec();
        let told = if self.broken == Broken::HeartbeatAheadOfWrites { self.daemons[from].log.last() } else { arriving.last() };
        let sent_through = told.map(|write| write.version.hlc).unwrap_or_default();
        let now = self.now(to);
        let receiver = &mut self.daemons[to];
        receiver.received[from] = until;
        for write in arriving {
            receiver.clock.observe(write.version.hlc, now).expect("clocks are close");
            receiver.take(write);
        }
        receiver.horizon.hear(node(from), Heard { sent_through, stable_through: Hlc::ZERO });
    }

    /// A daemon says to all what of its own every replica has, and to those who have all of it that there is no more up to now.
    fn heartbeat(&mut self, from: usize) {
        let now = self.now(from);
        let floor = self.daemons[from].clock.tick(now);
        let held_by_all = self.daemons.iter().map(|daemon| daemon.received[from]).min().unwrap_or_default();
        let log = &self.daemons[from].log;
        let all = log.len();
        let stable_through = log.get(held_by_all).map_or(floor, |first_lacking| first_lacking.version.hlc.previous());
        for daemon in &mut self.daemons {
            let sent_through = if daemon.received[from] == all { floor } else { Hlc::ZERO };
            daemon.horizon.hear(node(from), Heard { sent_through, stable_through });
        }
    }
}

impl Daemon {
    fn take(&mut self, write: Write) {
        let held = self.held.entry(write.key).or_insert_with(|| write.clone());
        if write.version > held.version {
            *held = write;
        }
    }
}

fn violation(broken: Broken, seeds: u64) -> Option<(u64, String)> {
    (0..seeds).find_map(|seed| World::new(seed, broken).run().err().map(|what| (seed, what)))
}

#[test]
fn e9_no_guarantee_of_a_session_is_ever_broken() {
    assert_eq!(violation(Broken::Nothing, 3_000), None);
}

#[test]
fn e9_sessions_get_answers_all_the_same() {
    let mut world = World::new(1, Broken::Nothing);
    world.run().expect("no violation");
    assert!(world.answered > STEPS as usize / 4, "{}", world.answered);
}

#[test]
fn e9_each_rule_that_is_left_out_is_caught() {
    for broken in [
        Broken::NoNoteAtWrite,
        Broken::NoNoteAtRead,
        Broken::NoCauses,
        Broken::CausesNotTakenOver,
        Broken::TokenNotObserved,
        Broken::PrunedBeforeStable,
        Broken::TokenIgnored,
        Broken::HeartbeatAheadOfWrites,
    ] {
        assert!(violation(broken, 1_000).is_some(), "{broken:?} went unseen");
    }
}
