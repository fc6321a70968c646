//! Clients: each asks one thing at a time, and tries again under the same request id, anywhere, when it is not told.

use std::collections::BTreeMap;

use bytes::Bytes;
use isochrone_ident::WallMicros;
use isochrone_quorum::{
    Act, Change, Expect, Failure, Fence, Guard, KeyName, Left, OperationId, Outcome, Refusal, RequestId, Revision, Token, Value, Verdict,
    Want, Wish,
};

use crate::history::{Ended, Record};
use crate::linear::OPERATIONS_MAX;
use crate::world::{DEADLINE, Event, HEAL, Rng, Told, WINDOW, World, key};

const CLIENTS: usize = 3;
const TRIES_MAX: u32 = 5;

/// Where a try is: at a daemon, or on its way to another with this much left behind.
type Place = Result<usize, Left>;

#[derive(Debug)]
struct Asking {
    key: KeyName,
    want: Want,
    asked: u64,
    tries: u32,
    /// Whether some try may have been applied.
    is_unknown: bool,
    /// The try that is under way.
    trying: Option<(OperationId, Place)>,
}

#[derive(Debug, Default)]
struct Client {
    asking: Option<Asking>,
    asked: usize,
    /// The last revision that it saw of each key.
    seen: BTreeMap<KeyName, Revision>,
    is_finished: bool,
    /// The keys that it still has to read at the end.
    to_read: u64,
}

#[derive(Debug)]
pub(crate) struct Clients {
    clients: Vec<Client>,
    keys: u64,
    operations: usize,
    pause: u64,
    next_value: u64,
    next_token: u64,
    is_healed: bool,
}

impl Clients {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let clients = (0..CLIENTS).map(|_| Client::default()).collect();
        let (keys, pause) = (1 + rng.below(3), rng.pick(&[10, 60, 200]));
        // A key of a world with one key sees them all.
        let operations = (OPERATIONS_MAX - 8) / CLIENTS;
        Self { clients, keys, operations: operations.min(14), pause, next_value: 0, next_token: 0, is_healed: false }
    }

    pub(crate) fn count(&self) -> usize {
        self.clients.len()
    }

    pub(crate) fn keys(&self) -> u64 {
        self.keys
    }

    pub(crate) fn heal(&mut self) {
        self.is_healed = true;
        self.clients[0].to_read = self.keys;
    }

    pub(crate) fn are_finished(&self) -> bool {
        self.clients.iter().all(|client| client.is_finished)
    }

    fn trying(&mut self, operation: OperationId) -> Option<(usize, &mut Asking)> {
        let mut all = self.clients.iter_mut().enumerate().filter_map(|(i, client)| Some((i, client.asking.as_mut()?)));
        all.find(|(_, asking)| asking.trying.is_some_and(|(trying, _)| trying == operation))
    }

    /// Where a try is; `None` when it has ended.
    pub(crate) fn place_of(&mut self, operation: OperationId) -> Option<Place> {
        self.trying(operation)?.1.trying.map(|(_, place)| place)
    }

    pub(crate) fn in_transit(&mut self, operation: OperationId, left: Left) {
        if let Some((_, asking)) = self.trying(operation) {
            asking.trying = Some((operation, Err(left)));
        }
    }

    /// A try arrives where it was handed over to: its key, unless it has ended.
    pub(crate) fn arrives(&mut self, operation: OperationId, node: usize) -> Option<KeyName> {
        let (_, asking) = self.trying(operation)?;
        asking.trying = Some((operation, Ok(node)));
        Some(asking.key.clone())
    }

    /// The tries at a daemon.
    pub(crate) fn at(&self, node: usize) -> Vec<OperationId> {
        let trying = self.clients.iter().filter_map(|client| client.asking.as_ref()?.trying);
        trying.filter(|(_, place)| *place == Ok(node)).map(|(operation, _)| operation).collect()
    }
}

impl World {
    /// A client's pause is over: it tries again, or asks the next thing.
    pub(crate) fn client_wakes(&mut self, client: usize) {
        if self.clients.clients[client].asking.is_none() && !self.ask(client) {
            return;
        }
        let node = self.some_node();
        self.last_operation += 1;
        let operation = OperationId(self.last_operation);
        let Some(asking) = self.clients.clients[client].asking.as_mut() else { return };
        if asking.trying.is_some() {
            return;
        }
        asking.tries += 1;
        asking.trying = Some((operation, Ok(node)));
        let (key, want, is_repeat) = (asking.key.clone(), asking.want.clone(), asking.tries > 1);
        self.at(self.now + DEADLINE, Event::Deadline { operation });
        if self.nodes[node].is_up {
            let wish = Wish { is_repeat, ..want.into() };
            self.submit(node, operation, key, wish);
        } else {
            self.client_told(operation, Err(Failure::NothingHappened(isochrone_quorum::Because::NoQuorum)));
        }
    }

    /// The next thing that a client asks. False when it has asked all that it will.
    fn ask(&mut self, client: usize) -> bool {
        let is_over = self.clients.clients[client].asked >= self.clients.operations;
        let (key, want) = if is_over {
            if !self.clients.is_healed {
                self.at(HEAL, Event::Wake { client });
                return false;
            }
            // At the very end, one client reads every key: it must be able to.
            let Some(left) = self.clients.clients[client].to_read.checked_sub(1) else {
                self.clients.clients[client].is_finished = true;
                return false;
            };
            self.clients.clients[client].to_read = left;
            (key(left), Want::Read)
        } else {
            self.clients.clients[client].asked += 1;
            let key = key(self.rng.below(self.clients.keys));
            let want = self.some_want(client, &key);
            (key, want)
        };
        let asking = Asking { key, want, asked: self.now, tries: 0, is_unknown: false, trying: None };
        self.clients.clients[client].asking = Some(asking);
        true
    }

    fn some_want(&mut self, client: usize, key: &KeyName) -> Want {
        match self.rng.below(100) {
            0..28 => Want::Read,
            28..36 => Want::ReadForUpdate,
            _ => Want::Change(self.some_change(client, key)),
        }
    }

    fn some_change(&mut self, client: usize, key: &KeyName) -> Change {
        let now = WallMicros(1_000_000 + self.now);
        let id = RequestId { nonce: u128::from(self.rng.next()), print: 0, until: WallMicros(now.0 + WINDOW) };
        let seen = self.clients.clients[client].seen.get(key).copied();
        let expect = match (self.rng.below(10), seen) {
            (0..2, Some(revision)) => Expect::Revision(revision),
            (2, Some(revision)) => Expect::AnyOf(vec![Revision(0), revision]),
            (3, Some(revision)) => Expect::NoneOf(vec![revision, Revision(0)]),
            (4, _) => Expect::Absent,
            (5, _) => Expect::Present,
            _ => Expect::Anything,
        };
        let fence = self.rng.chance(120).then(|| {
            let newest = self.clients.next_token + u64::from(self.rng.chance(500));
            self.clients.next_token = newest;
            let token = Token(newest.saturating_sub(self.rng.below(2)));
            Fence { guard: Guard(Bytes::from_static(b"lock")), token }
        });
        let act = if self.rng.chance(300) { Act::Delete } else { Act::Put(self.fresh_value()) };
        Change { id, expect, fence, act }
    }

    fn fresh_value(&mut self) -> Value {
        self.clients.next_value += 1;
        Value {
            bytes: Bytes::copy_from_slice(&self.clients.next_value.to_be_bytes()),
            content_type: None,
            expires: None,
            written: WallMicros(0),
        }
    }

    /// A try has ended.
    pub(crate) fn client_told(&mut self, operation: OperationId, told: Told) {
        let Some((client, asking)) = self.clients.trying(operation) else { return };
        asking.trying = None;
        let (tries, was_unknown) = (asking.tries, asking.is_unknown);
        let is_read = !matches!(asking.want, Want::Change(_));
        match told {
            // It says nothing of earlier tries.
            Ok(Outcome::Written(Verdict::Refused(Refusal::TooOld))) => self.client_gives_up(client),
            Ok(outcome) => self.client_ends(client, Ended::Told(outcome)),
            Err(failure) => {
                asking.is_unknown |= failure == Failure::OutcomeUnknown;
                let goes_on = if was_unknown || failure == Failure::OutcomeUnknown { 800 } else { 500 };
                let is_last = self.clients.is_healed && is_read && self.clients.clients[client].asked >= self.clients.operations;
                if is_last || tries < TRIES_MAX && self.rng.chance(goes_on) {
                    let pause = if self.rng.chance(150) { self.rng.below(WINDOW) } else { self.rng.below(40) };
                    self.at(self.now + 1 + pause, Event::Wake { client });
                } else {
                    self.client_gives_up(client);
                }
            }
        }
    }

    /// No try was told to have been applied. With one unknown it may have been; with none, it never was and never will be (Q10).
    fn client_gives_up(&mut self, client: usize) {
        let Some(asking) = &self.clients.clients[client].asking else { return };
        if asking.is_unknown {
            return self.client_ends(client, Ended::Unknown);
        }
        if let Want::Change(change) = &asking.want {
            self.never.insert(change.id.nonce);
            if self.applied.contains(&change.id.nonce) {
                self.failure = Some(format!("a 503 was applied: {change:?}"));
            }
        }
        self.clients.clients[client].asking = None;
        self.rest(client);
    }

    fn client_ends(&mut self, client: usize, ended: Ended) {
        let Some(asking) = self.clients.clients[client].asking.take() else { return };
        let answered = if ended == Ended::Unknown { u64::MAX } else { self.now };
        match &ended {
            Ended::Told(Outcome::Read(Some(envelope))) => self.saw(client, &asking.key, envelope.revision),
            Ended::Told(Outcome::Written(Verdict::Applied { revision, .. })) => self.saw(client, &asking.key, *revision),
            Ended::Told(Outcome::Written(Verdict::Refused(Refusal::BelowFloor(floor)))) => {
                self.clients.next_token = self.clients.next_token.max(floor + 1);
            }
            _ => {}
        }
        self.history.push(Record { key: asking.key, want: asking.want, asked: asking.asked, answered, ended });
        self.rest(client);
    }

    fn saw(&mut self, client: usize, key: &KeyName, revision: Revision) {
        self.clients.clients[client].seen.insert(key.clone(), revision);
    }

    fn rest(&mut self, client: usize) {
        let pause = 1 + self.rng.below(self.clients.pause);
        self.at(self.now + pause, Event::Wake { client });
    }
}
