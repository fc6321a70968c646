//! States in memory: of every slot, of keys that are in the log and not yet in the tables, and copies of others that are asked for.
//!
//! ```text
//!   a reader looks at:  fresh (this round) ──> settling (the round before, on its way into the tables) ──> copies ──> tables
//! ```
//!
//! When the tables have been brought up, readers are shown the new tables first, and then what was settling becomes copies: nobody misses it in between.
//!
//! The danger is a reader who has fetched a state from the tables and puts a copy in after a commit has replaced it. So a shard counts what has changed
//! it, and a reader's copy goes in only while that count is what it was before the reader looked into the tables.
//!
//! A shard forgets copies by halves: what is used is in the young half; when that has half of the shard's bytes it becomes the old one, and what was not used
//! since goes.

use std::collections::BTreeMap;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use foldhash::SharedSeed;
use foldhash::fast::SeedableRandomState;
use isochrone_ident::{Namespace, Slot};
use isochrone_quorum::{Content, KeyName, KeyState, Row, SlotState};

use super::layers::{Layer, Names, Said};

/// Number of shards; a slot's keys are all in one.
const SHARDS: usize = 64;

/// What a state costs beyond its bytes: the entry in its table, the key, the envelope and what holds them.
const STATE_OVERHEAD_BYTES: usize = 400;

type States = std::collections::HashMap<KeyName, Kept, SeedableRandomState>;

struct Kept {
    slot: Slot,
    state: KeyState,
    bytes: usize,
}

/// What a reader holds between looking into the tables and filling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket(u64);

struct Shard {
    /// How often it was changed.
    changes: u64,
    fresh: Layer,
    settling: Layer,
    young: States,
    young_bytes: usize,
    old: States,
    old_bytes: usize,
}

pub(super) struct Memory {
    shards: Box<[Mutex<Shard>]>,
    slots: RwLock<Vec<Option<SlotState>>>,
    fresh_bytes: AtomicU64,
    /// Bytes of copies in half a shard.
    half_bytes_max: usize,
}

impl Memory {
    pub(super) fn new(bytes_max: u64, seed: u64, slots: Vec<Option<SlotState>>) -> Self {
        let hasher = SeedableRandomState::with_seed(seed, SharedSeed::global_fixed());
        let shard = || Shard {
            changes: 0,
            fresh: Layer::default(),
            settling: Layer::default(),
            young: States::with_hasher(hasher.clone()),
            young_bytes: 0,
            old: States::with_hasher(hasher.clone()),
            old_bytes: 0,
        };
        let half_bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX) / SHARDS / 2;
        Self {
            shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect(),
            slots: RwLock::new(slots),
            fresh_bytes: AtomicU64::new(0),
            half_bytes_max,
        }
    }

    /// The state of a slot, as the last commit left it.
    pub(super) fn slot(&self, slot: Slot) -> Option<SlotState> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner)[slot.index()]
    }

    /// Every slot of which there is a state.
    pub(super) fn slots(&self) -> Vec<(Slot, SlotState)> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        Slot::all().filter_map(|slot| slots[slot.index()].map(|state| (slot, state))).collect()
    }

    /// What memory says of a key, or what to fill a copy in with later.
    pub(super) fn key(&self, slot: Slot, name: &KeyName) -> Result<Option<KeyState>, Ticket> {
        let mut shard = self.lock(slot);
        if let Some(said) = shard.said(slot, name) {
            return Ok(said);
        }
        if let Some(kept) = shard.young.get(name) {
            return Ok(Some(kept.state.clone()));
        }
        let Some(kept) = shard.take_old(name) else { return Err(Ticket(shard.changes)) };
        let state = kept.state.clone();
        shard.keep(name.clone(), kept, self.half_bytes_max);
        Ok(Some(state))
    }

    /// Puts in a copy of what was read from the tables under `ticket`, unless something came between.
    pub(super) fn fill(&self, ticket: Ticket, slot: Slot, name: &KeyName, state: &KeyState) {
        let mut shard = self.lock(slot);
        if shard.changes == ticket.0 {
            shard.keep(name.clone(), Kept::of(slot, name, state), self.half_bytes_max);
        }
    }

    /// What is not in the tables yet of the keys of a slot after `after`, and whether nothing in the tables counts.
    pub(super) fn keys(&self, slot: Slot, after: Option<&KeyName>) -> (BTreeMap<KeyName, Option<KeyState>>, bool) {
        let shard = self.lock(slot);
        let mut keys = BTreeMap::new();
        let below = shard.settling.cover(slot, after, &mut keys);
        let above = shard.fresh.cover(slot, after, &mut keys);
        (keys, below || above)
    }

    /// What is not in the tables yet of the names of a namespace that begin with `prefix`. Walks over all of it.
    pub(super) fn names(&self, ns: &Namespace, prefix: &[u8]) -> Names {
        let mut names = Names::default();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.settling.cover_names(ns, prefix, &mut names);
            shard.fresh.cover_names(ns, prefix, &mut names);
        }
        names
    }

    /// Takes over rows that are in the log.
    pub(super) fn commit(&self, rows: &[Row]) {
        for row in rows {
            let slot = match row {
                Row::Slot(slot, state) => {
                    self.slots.write().unwrap_or_else(PoisonError::into_inner)[slot.index()] = Some(*state);
                    slot
                }
                Row::Key(slot, ..) | Row::Erase(slot, _) | Row::Wipe(slot) => slot,
            };
            let mut shard = self.lock(*slot);
            shard.changes += 1;
            let before = shard.fresh.bytes;
            shard.fresh.apply(row);
            self.fresh_bytes.fetch_add(shard.fresh.bytes.wrapping_sub(before), Ordering::Relaxed);
        }
    }

    /// Ends a round: gives the rows that bring the tables up with it. Nothing else may be settling.
    pub(super) fn settle(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.settling = mem::take(&mut shard.fresh);
            rows.extend(shard.settling.rows());
        }
        self.fresh_bytes.store(0, Ordering::Relaxed);
        rows
    }

    /// Readers of the tables see what was settling: it becomes copies.
    pub(super) fn settled(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.changes += 1;
            for (slot, layer) in mem::take(&mut shard.settling).into_slots() {
                if layer.is_wiped {
                    shard.forget_slot(slot);
                }
                for (name, state) in layer.keys {
                    shard.forget(&name);
                    if let Some(state) = state {
                        let kept = Kept::of(slot, &name, &state);
                        shard.keep(name, kept, self.half_bytes_max);
                    }
                }
            }
        }
    }

    /// Bytes of the round under way, by [`state_bytes`].
    pub(super) fn fresh_bytes(&self) -> u64 {
        self.fresh_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of all states.
    pub(super) fn bytes(&self) -> u64 {
        let bytes = |shard: &Mutex<Shard>| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            (shard.young_bytes + shard.old_bytes) as u64 + shard.fresh.bytes + shard.settling.bytes
        };
        self.shards.iter().map(bytes).sum()
    }

    fn lock(&self, slot: Slot) -> MutexGuard<'_, Shard> {
        self.shards[slot.index() % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    fn said(&self, slot: Slot, name: &KeyName) -> Said {
        self.fresh.key(slot, name).or_else(|| self.settling.key(slot, name))
    }

    fn take_old(&mut self, name: &KeyName) -> Option<Kept> {
        let kept = self.old.remove(name)?;
        self.old_bytes -= kept.bytes;
        Some(kept)
    }

    fn forget(&mut self, name: &KeyName) {
        self.take_old(name);
        if let Some(kept) = self.young.remove(name) {
            self.young_bytes -= kept.bytes;
        }
    }

    fn forget_slot(&mut self, slot: Slot) {
        self.young.retain(|_, kept| kept.slot != slot);
        self.old.retain(|_, kept| kept.slot != slot);
        self.young_bytes = self.young.values().map(|kept| kept.bytes).sum();
        self.old_bytes = self.old.values().map(|kept| kept.bytes).sum();
    }

    /// Keeps a state in the young half; one that alone would take an eighth of it is not kept.
    fn keep(&mut self, name: KeyName, kept: Kept, half_bytes_max: usize) {
        if kept.bytes > half_bytes_max / 8 {
            return;
        }
        if self.young_bytes + kept.bytes > half_bytes_max {
            let hasher = self.young.hasher().clone();
            self.old = mem::replace(&mut self.young, States::with_hasher(hasher));
            self.old_bytes = mem::take(&mut self.young_bytes);
        }
        self.young_bytes += kept.bytes;
        if let Some(replaced) = self.young.insert(name, kept) {
            self.young_bytes -= replaced.bytes;
        }
    }
}

impl Kept {
    fn of(slot: Slot, name: &KeyName, state: &KeyState) -> Self {
        Self { slot, state: state.clone(), bytes: state_bytes(name, state) }
    }
}

/// Bytes that a key's state takes up in memory, by the store's own count.
pub(super) fn state_bytes(name: &KeyName, state: &KeyState) -> usize {
    let fixed = STATE_OVERHEAD_BYTES + name.key.as_bytes().len();
    let Some(accepted) = &state.accepted else { return fixed };
    let envelope = &accepted.envelope;
    let content = match &envelope.content {
        Content::Live(value) => value.bytes.len() + value.content_type.as_ref().map_or(0, |text| text.len()),
        Content::Tombstone => 0,
    };
    let fences: usize = envelope.fences.keys().map(|guard| guard.0.len() + 48).sum();
    let intent = envelope.intent.as_ref().map_or(0, |intent| intent.0.len());
    fixed + content + fences + envelope.ring.len() * 64 + intent
}
