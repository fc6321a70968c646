//! A daemon takes writes, a replica hears of them late, a third daemon keeps copies of what it reads there: however messages interleave, a copy is
//! never older than the age that it claims, and with any one rule left out some copy is.

use std::collections::{BTreeMap, VecDeque};

use isochrone_ident::{Hlc, NodeId, WallMicros};

use super::{CopyHeartbeat, CopyTicket, KeyHash, Opening, Position, Source, Streams, copy_age_ms};

const REPLICA: NodeId = NodeId(1);
const KEYS: u64 = 2;
const STEPS: usize = 150;
const REMEMBERED: usize = 2;

/// A rule that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// Answers are kept without a look at what arrived ahead of them.
    NoCheckAtKeeping,
    /// A ticket is held against what is remembered, and never found too old for that.
    TooOldIsKept,
    /// A new life of the stream vouches for copies of the one before.
    AgeKeptAfterReopening,
    /// The time up to which all is shown is raised before the write is announced.
    HeartbeatAheadOfInvalidations,
    /// The state is read before the ticket is taken.
    TicketAfterState,
    /// What got lost leaves no hole.
    PositionsReused,
    /// Invalidations drop nothing.
    CopiesNotDropped,
}

#[derive(Clone, Copy)]
enum Message {
    Invalidation(KeyHash, Position),
    Heartbeat(CopyHeartbeat),
}

struct Answer {
    key: KeyHash,
    ticket: CopyTicket,
    state: Hlc,
}

struct World {
    broken: Broken,
    random: u64,
    now_micros: u64,
    /// Every write, in the order in which it was taken, and how many of them the replica has.
    taken: Vec<(KeyHash, Hlc)>,
    applied: usize,
    held: BTreeMap<KeyHash, Hlc>,
    shown: Hlc,
    source: Source,
    /// A write that the replica shows and is yet to announce.
    unannounced: Option<KeyHash>,
    on_the_way: VecDeque<Message>,
    answers: Vec<Answer>,
    opening: Opening,
    streams: Streams,
    /// What the copies of each opening rest on.
    heartbeats: BTreeMap<Opening, CopyHeartbeat>,
    copies: BTreeMap<KeyHash, (CopyTicket, Hlc)>,
    served: usize,
}

impl World {
    fn new(seed: u64, broken: Broken) -> Self {
        let opening = Opening(1);
        let mut streams = Streams::new(REMEMBERED);
        streams.open(REPLICA, opening);
        Self {
            broken,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            now_micros: 1_000_000,
            taken: Vec::new(),
            applied: 0,
            held: BTreeMap::new(),
            shown: Hlc::ZERO,
            source: Source::new(opening),
            unannounced: None,
            on_the_way: VecDeque::new(),
            answers: Vec::new(),
            opening,
            streams,
            heartbeats: BTreeMap::new(),
            copies: BTreeMap::new(),
            served: 0,
        }
    }

    /// A number below `below` (xorshift64*; Vigna 2016).
    fn draw(&mut self, below: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below
    }

    fn run(&mut self) -> Result<(), String> {
        for _ in 0..STEPS {
            self.now_micros += 1 + self.draw(3_000);
            let key = KeyHash(self.draw(KEYS));
            match self.draw(100) {
                0..12 => self.taken.push((key, Hlc::at(WallMicros(self.now_micros)))),
                12..30 => self.hear(),
                30..45 => self.send_heartbeat(),
                45..57 => self.read(key),
                57..75 => self.arrive(),
                75..86 => self.answer_arrives(),
                86..97 => self.serve(key)?,
                97..99 => self.break_and_reopen(),
                _ => self.lose_one(),
            }
        }
        Ok(())
    }

    /// The replica hears the next write, or that there is none: visible, announced, shown, in three steps that others come in between.
    fn hear(&mut self) {
        if let Some(key) = self.unannounced.take() {
            let position = self.source.invalidate();
            self.on_the_way.push_back(Message::Invalidation(key, position));
            self.shown = self.taken[self.applied - 1].1;
        } else if let Some(&(key, hlc)) = self.taken.get(self.applied) {
            self.held.insert(key, hlc);
            self.applied += 1;
            self.unannounced = Some(key);
            if self.broken == Broken::HeartbeatAheadOfInvalidations {
                self.shown = hlc;
            }
        } else {
            self.shown = Hlc::at(WallMicros(self.now_micros));
        }
    }

    fn send_heartbeat(&mut self) {
        self.on_the_way.push_back(Message::Heartbeat(self.source.heartbeat(self.shown)));
    }

    fn read(&mut self, key: KeyHash) {
        let (before, state) = (self.source.ticket(self.shown), self.held.get(&key).copied().unwrap_or_default());
        if self.broken == Broken::TicketAfterState {
            self.hear();
            self.hear();
            let ticket = CopyTicket { shown: before.shown, ..self.source.ticket(self.shown) };
            self.answers.push(Answer { key, ticket, state });
        } else {
            self.answers.push(Answer { key, ticket: before, state });
        }
    }

    /// The next message of the stream is taken by the holder.
    fn arrive(&mut self) {
        let taken = match self.on_the_way.pop_front() {
            None => Ok(()),
            Some(Message::Heartbeat(heartbeat)) => self.streams.heartbeat(REPLICA, self.opening, heartbeat).map(|heartbeat| {
                self.heartbeats.insert(self.opening, heartbeat);
            }),
            Some(Message::Invalidation(key, position)) => {
                let outdated = |ticket: &CopyTicket| ticket.is_outdated_by(self.opening, position);
                if self.broken != Broken::CopiesNotDropped && self.copies.get(&key).is_some_and(|(ticket, _)| outdated(ticket)) {
                    self.copies.remove(&key);
                }
                self.streams.invalidated(REPLICA, self.opening, key, position)
            }
        };
        if taken.is_err() {
            self.break_and_reopen();
        }
    }

    fn answer_arrives(&mut self) {
        if self.answers.is_empty() {
            return;
        }
        let which = self.draw(self.answers.len() as u64) as usize;
        let Answer { key, ticket, state } = self.answers.swap_remove(which);
        if let Some(stream) = self.streams.replicas.get_mut(&REPLICA).filter(|_| self.broken == Broken::TooOldIsKept) {
            stream.forgotten = Position(0);
        }
        let unchecked = self.broken == Broken::NoCheckAtKeeping && ticket.opening == self.opening;
        if unchecked || self.streams.may_keep(REPLICA, &ticket, key) {
            self.copies.insert(key, (ticket, state));
        }
    }

    /// A copy must show the last write of its key that was taken before the age it claims.
    fn serve(&mut self, key: KeyHash) -> Result<(), String> {
        let Some(&(ticket, state)) = self.copies.get(&key) else { return Ok(()) };
        let heartbeat = self.heartbeats.get(&ticket.opening).copied().unwrap_or_default();
        let Some(age_ms) = copy_age_ms(ticket.shown_by(heartbeat), WallMicros(self.now_micros)) else { return Ok(()) };
        let since = Hlc::at(WallMicros(self.now_micros.saturating_sub(age_ms * 1000)));
        let due = self.taken.iter().rfind(|(written, hlc)| *written == key && *hlc <= since).map(|(_, hlc)| *hlc);
        self.served += 1;
        if due.is_some_and(|due| state < due) {
            return Err(format!("a copy of {key:?} that claims to be {age_ms} ms old lacks an older write"));
        }
        Ok(())
    }

    /// Everything on the way is lost. Copies stay.
    fn break_and_reopen(&mut self) {
        self.streams.broken(REPLICA, self.opening);
        self.on_the_way.clear();
        self.opening = Opening(self.opening.0 + 1);
        self.source = Source::new(self.opening);
        self.streams.open(REPLICA, self.opening);
        if self.broken == Broken::AgeKeptAfterReopening {
            let opening = self.opening;
            self.copies.values_mut().for_each(|(ticket, _)| *ticket = CopyTicket { opening, position: Position(0), ..*ticket });
        }
    }

    /// One message is lost, which a stream in order never does: the positions must tell.
    fn lose_one(&mut self) {
        let Some(Message::Invalidation(..)) = self.on_the_way.front() else { return };
        self.on_the_way.pop_front();
        if self.broken == Broken::PositionsReused {
            let earlier = |position: Position| Position(position.0 - 1);
            for message in &mut self.on_the_way {
                match message {
                    Message::Invalidation(_, position) => *position = earlier(*position),
                    Message::Heartbeat(heartbeat) => heartbeat.position = earlier(heartbeat.position),
                }
            }
            self.source.position = earlier(self.source.position);
        }
    }
}

fn violation(broken: Broken, seeds: u64) -> Option<(u64, String)> {
    (0..seeds).find_map(|seed| World::new(seed, broken).run().err().map(|what| (seed, what)))
}

#[test]
fn e10_no_copy_is_older_than_it_claims() {
    assert_eq!(violation(Broken::Nothing, 10_000), None);
}

#[test]
fn e10_copies_are_served_all_the_same() {
    let mut worlds: Vec<World> = (0..100).map(|seed| World::new(seed, Broken::Nothing)).collect();
    let served: usize = worlds.iter_mut().map(|world| world.run().map_or(0, |()| world.served)).sum();
    assert!(served > 300, "{served} of about 1,650 tries");
}

#[test]
fn e10_each_rule_that_is_left_out_is_caught() {
    for broken in [
        Broken::NoCheckAtKeeping,
        Broken::TooOldIsKept,
        Broken::AgeKeptAfterReopening,
        Broken::HeartbeatAheadOfInvalidations,
        Broken::TicketAfterState,
        Broken::PositionsReused,
        Broken::CopiesNotDropped,
    ] {
        assert!(violation(broken, 2_000).is_some(), "{broken:?} went unseen");
    }
}
