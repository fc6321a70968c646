//! Who owns a slot (Q18): whoever holds its promise as far as is known, else the first of its replicas that can be reached. Advice: a wrong guess
//! costs a round trip.
//!
//! An owner asks for the promises of its slots before anybody writes them, some at a time, so that a key's first write takes one round trip there.
//!
//! Each daemon counts what it writes of slots that others own, and tells the owner after each window. Who wrote a slot more than the owner and
//! everybody else together in two windows in a row is told to take it: it acquires the promise and tells everybody.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use isochrone_gossip::{Call, Traffic};
use isochrone_ident::{NodeId, SLOTS, Slot};
use isochrone_quorum::{Configuration, KeyName};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::operate::{Handed, StrongAsk};
use super::{Strong, Work};
use crate::node::core::{Core, lock};
use crate::node::wire;

/// A promise that was refused, or taken away, is not asked for again before this.
const ACQUIRE_PAUSE: Duration = Duration::from_secs(1);
/// Slots whose promise is asked for at a time, before anybody writes them.
const ACQUIRE_AT_A_TIME: usize = 64;
/// Slots that are looked at for that at a time.
const LOOKED_AT: usize = 256;
/// Fewer writes in a window are no reason for a slot to change its owner.
const WRITES_MIN: u32 = 8;
/// Windows in a row in which another daemon must have written most.
const WINDOWS: u32 = 2;
/// For so long it is remembered who writes a key.
const HABIT: Duration = Duration::from_secs(10);
/// Keys of which that is remembered.
const HABITS_MAX: usize = 4096;
/// Writes in a row after which a key counts as one daemon's.
const ALONE: u32 = 2;
/// How long peers are waited for when they are told of writes and owners.
const TELL_DEADLINE: Duration = Duration::from_secs(2);

/// Who writes a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Habit {
    /// Several daemons: their writes go to the slot's owner, where they run together (Q13).
    Shared,
    /// One daemon: its writes take one round trip from there once it has proposed one (Q8).
    Alone,
}

/// What is known of owners.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Who said last that it has the slot's promise, under a ballot of which counter.
    known: BTreeMap<Slot, (u64, NodeId)>,
    /// Writes of this daemon's clients in this window.
    wrote: BTreeMap<Slot, u32>,
    /// Writes of this daemon's clients in the window before.
    wrote_before: BTreeMap<Slot, u32>,
    /// Who wrote most of a slot that this daemon owns, and in how many windows in a row.
    leads: BTreeMap<Slot, (NodeId, u32)>,
    tried: BTreeMap<Slot, Instant>,
    acquired: Vec<Slot>,
    /// What this daemon has learned of keys whose slots others own, and when.
    habits: BTreeMap<KeyName, (Habit, Instant)>,
    /// Who wrote keys of its own slots last, and how often in a row.
    writers: BTreeMap<KeyName, (NodeId, u32)>,
}

impl Strong {
    /// The slot's owner.
    pub(crate) fn owner(&self, configuration: &Configuration) -> NodeId {
        let known = lock(&self.owners.state).known.get(&configuration.slot).map(|(_, node)| *node);
        if let Some(owner) = known.filter(|&owner| self.micros_to(owner).is_some()) {
            return owner;
        }
        let replicas = configuration.current.iter().map(|replica| replica.member.node);
        let first = replicas.clone().find(|&node| self.micros_to(node).is_some());
        first.or_else(|| replicas.clone().next()).unwrap_or(self.me.node)
    }

    /// This daemon has learned who writes a key whose slot another one owns.
    pub(crate) fn note_habit(&self, key: &KeyName, habit: Habit) {
        let now = Instant::now();
        let habits = &mut lock(&self.owners.state).habits;
        if habits.len() >= HABITS_MAX {
            habits.retain(|_, (_, at)| now - *at < HABIT);
        }
        if habits.len() < HABITS_MAX {
            habits.insert(key.clone(), (habit, now));
        }
    }

    /// Who writes a key whose slot another one owns, as far as is known.
    pub(crate) fn habit(&self, key: &KeyName) -> Option<Habit> {
        lock(&self.owners.state).habits.get(key).filter(|(_, at)| at.elapsed() < HABIT).map(|(habit, _)| *habit)
    }

    /// A write of a key comes by way of this daemon, for the clients of that one: what the latter should know of the key.
    pub(crate) fn note_writer(&self, key: &KeyName, writer: NodeId) -> Habit {
        let writers = &mut lock(&self.owners.state).writers;
        if writers.len() >= HABITS_MAX {
            writers.clear();
        }
        let (last, times) = writers.entry(key.clone()).or_insert((writer, 0));
        *times = if *last == writer { times.saturating_add(1) } else { 1 };
        *last = writer;
        if *times >= ALONE { Habit::Alone } else { Habit::Shared }
    }

    pub(crate) fn is_warm(&self, slot: Slot, key: &KeyName) -> bool {
        lock(&self.proposer).is_warm(slot, key)
    }

    /// A client of this daemon writes the slot.
    pub(crate) fn note_write(&self, slot: Slot) {
        *lock(&self.owners.state).wrote.entry(slot).or_default() += 1;
    }

    /// Asks for the slot's promise, unless it is had, or was asked for a moment ago. Nobody waits for it.
    pub(crate) fn acquire(&self, slot: Slot) {
        let outputs = {
            let mut proposer = lock(&self.proposer);
            if proposer.holds(slot) {
                return;
            }
            let mut state = lock(&self.owners.state);
            let now = Instant::now();
            if state.tried.get(&slot).is_some_and(|tried| now - *tried < ACQUIRE_PAUSE) {
                return;
            }
            state.tried.insert(slot, now);
            drop(state);
            let mut outputs = Vec::new();
            if proposer.phase(slot).is_none()
                && let Some(configuration) = self.configuration(slot)
            {
                outputs.extend(proposer.configure(self.now(), configuration));
            }
            outputs.extend(proposer.acquire(slot));
            outputs
        };
        self.run(outputs.into_iter().map(Work::Out));
    }

    /// Asks for the promises of some slots that this daemon owns and that are at rest, from the slot of that place on. Where to go on.
    fn acquire_own(&self, from: usize) -> usize {
        let is_own = |slot: &Slot| {
            let configuration = self.configuration(*slot);
            configuration.is_some_and(|known| !known.phase.is_joint() && self.owner(&known) == self.me.node)
        };
        let is_missing = |slot: &Slot| is_own(slot) && !lock(&self.proposer).holds(*slot);
        let missing: Vec<Slot> = Slot::all().skip(from).take(LOOKED_AT).filter(is_missing).take(ACQUIRE_AT_A_TIME).collect();
        let is_full = missing.len() == ACQUIRE_AT_A_TIME;
        let next = if is_full { missing.last().map_or(0, |slot| slot.index() + 1) } else { from + LOOKED_AT };
        missing.into_iter().for_each(|slot| self.acquire(slot));
        if next < usize::from(SLOTS) { next } else { 0 }
    }

    /// The proposer says what came of asking.
    pub(crate) fn acquired(&self, slot: Slot, granted: bool) {
        self.meters.acquired(granted);
        if granted {
            lock(&self.owners.state).acquired.push(slot);
        }
    }

    /// A daemon says that it has the slot's promise.
    pub(crate) fn note_owner(&self, slot: Slot, owner: NodeId, counter: u64) {
        let mut state = lock(&self.owners.state);
        let known = state.known.entry(slot).or_insert((counter, owner));
        if counter < known.0 {
            return;
        }
        *known = (counter, owner);
        state.leads.remove(&slot);
        drop(state);
        if owner != self.me.node {
            let outputs = lock(&self.proposer).release(slot);
            self.run(outputs.into_iter().map(Work::Out));
        }
    }

    /// Of the slots that a peer wrote so often in the last window, those that it should own.
    pub(crate) fn better_owned_by(&self, peer: NodeId, wrote: &[(Slot, u32)]) -> Vec<Slot> {
        let mut state = lock(&self.owners.state);
        let mut better = Vec::new();
        for &(slot, writes) in wrote {
            let own = state.wrote_before.get(&slot).copied().unwrap_or(0);
            if writes < WRITES_MIN || writes <= own.saturating_mul(2) {
                state.leads.remove(&slot);
                continue;
            }
            let lead = state.leads.entry(slot).or_insert((peer, 0));
            if lead.0 == peer {
                lead.1 += 1;
            } else if writes > WRITES_MIN {
                *lead = (peer, 1);
            }
            if lead.0 == peer && lead.1 >= WINDOWS {
                better.push(slot);
            }
        }
        better
    }

    /// Ends a window: what this daemon wrote of slots that others own, by owner.
    fn end_window(&self) -> BTreeMap<NodeId, Vec<(Slot, u32)>> {
        let wrote = {
            let mut state = lock(&self.owners.state);
            state.tried.retain(|_, tried| tried.elapsed() < ACQUIRE_PAUSE);
            state.wrote_before = std::mem::take(&mut state.wrote);
            state.wrote_before.clone()
        };
        let mut by_owner: BTreeMap<NodeId, Vec<(Slot, u32)>> = BTreeMap::new();
        for (slot, writes) in wrote {
            let Some(configuration) = self.configuration(slot) else { continue };
            let owner = self.owner(&configuration);
            if owner != self.me.node && writes >= WRITES_MIN {
                by_owner.entry(owner).or_default().push((slot, writes));
            }
        }
        by_owner
    }

    /// Slots whose promise this daemon was given since it was last asked, with the counters of their ballots.
    fn newly_acquired(&self) -> Vec<(Slot, u64)> {
        let acquired = std::mem::take(&mut lock(&self.owners.state).acquired);
        let proposer = lock(&self.proposer);
        acquired.into_iter().filter_map(|slot| proposer.grant_counter(slot).map(|counter| (slot, counter))).collect()
    }
}

impl Core {
    /// Tells owners who writes their slots, and everybody who has become an owner, for ever.
    pub(crate) async fn follow_writers(self: Arc<Self>) {
        let window = self.options.strong.own_window;
        let mut next = Instant::now() + window;
        let mut from = 0;
        loop {
            tokio::time::sleep_until(next.min(Instant::now() + Duration::from_millis(100))).await;
            from = self.strong.acquire_own(from);
            self.strong.measure_majority();
            self.announce_owned().await;
            if Instant::now() < next {
                continue;
            }
            next = Instant::now() + window;
            for (owner, slots) in self.strong.end_window() {
                if let Ok(Handed::Take(slots)) = self.tell_strong(owner, &StrongAsk::Wrote { slots }, Instant::now() + TELL_DEADLINE).await
                {
                    slots.into_iter().for_each(|slot| self.strong.acquire(slot));
                }
            }
        }
    }

    async fn announce_owned(&self) {
        let slots = self.strong.newly_acquired();
        if slots.is_empty() {
            return;
        }
        slots.iter().for_each(|&(slot, counter)| self.strong.note_owner(slot, self.id(), counter));
        let ask = StrongAsk::Owns { slots };
        let told = self.others().into_iter().map(|peer| self.tell_strong(peer, &ask, Instant::now() + TELL_DEADLINE));
        futures_util::future::join_all(told).await;
    }

    /// Asks another daemon's quorum path something that may be asked twice.
    pub(super) async fn tell_strong(&self, peer: NodeId, ask: &StrongAsk, until: Instant) -> Result<Handed, String> {
        let deadline = until.saturating_duration_since(Instant::now());
        let call = Call { service: wire::STRONG, class: Traffic::Foreground, deadline, body: wire::encode(ask), retries: true };
        let answer = self.mesh.call(peer, call).await.map_err(|e| e.to_string())?;
        wire::decode(&answer)
    }
}
