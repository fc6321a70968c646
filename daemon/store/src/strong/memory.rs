//! States in memory: of every slot, and of keys that are asked for, within a budget of bytes.
//!
//! The danger is a reader who has fetched a state from the tables and puts it in after a commit has replaced it. So a shard counts the commits that touched
//! it, and a reader's state goes in only while that count is what it was before the reader looked into the tables. The
//! committer shows a commit to readers of the tables first and comes here second: a reader who took the new count saw the new tables.
//!
//! A shard forgets by halves: what is used is in the young half; when that has half of the shard's bytes it becomes the old one, and what was not used
//! since goes.

use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use foldhash::SharedSeed;
use foldhash::fast::SeedableRandomState;
use isochrone_ident::Slot;
use isochrone_quorum::{Content, KeyName, KeyState, Row, SlotState};

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
    /// Commits that touched it.
    commits: u64,
    young: States,
    young_bytes: usize,
    old: States,
    old_bytes: usize,
}

pub(super) struct Memory {
    shards: Box<[Mutex<Shard>]>,
    slots: RwLock<Vec<Option<SlotState>>>,
    /// Bytes of half a shard.
    half_bytes_max: usize,
}

impl Memory {
    pub(super) fn new(bytes_max: u64, seed: u64, slots: Vec<Option<SlotState>>) -> Self {
        let hasher = SeedableRandomState::with_seed(seed, SharedSeed::global_fixed());
        let shard = || Shard {
            commits: 0,
            young: States::with_hasher(hasher.clone()),
            young_bytes: 0,
            old: States::with_hasher(hasher.clone()),
            old_bytes: 0,
        };
        let half_bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX) / SHARDS / 2;
        Self { shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect(), slots: RwLock::new(slots), half_bytes_max }
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

    /// The state of a key, or what to fill it with later.
    pub(super) fn key(&self, slot: Slot, name: &KeyName) -> Result<KeyState, Ticket> {
        let mut shard = self.lock(slot);
        if let Some(kept) = shard.young.get(name) {
            return Ok(kept.state.clone());
        }
        let Some(kept) = shard.take_old(name) else { return Err(Ticket(shard.commits)) };
        let state = kept.state.clone();
        shard.keep(name.clone(), kept, self.half_bytes_max);
        Ok(state)
    }

    /// Puts in what was read from the tables under `ticket`, unless a commit came between.
    pub(super) fn fill(&self, ticket: Ticket, slot: Slot, name: &KeyName, state: &KeyState) {
        let mut shard = self.lock(slot);
        if shard.commits == ticket.0 {
            shard.keep(name.clone(), Kept::of(slot, name, state), self.half_bytes_max);
        }
    }

    /// Takes over what a commit changed, which readers of the tables see already.
    pub(super) fn commit(&self, rows: &[Row]) {
        for row in rows {
            match row {
                Row::Slot(slot, state) => self.slots.write().unwrap_or_else(PoisonError::into_inner)[slot.index()] = Some(*state),
                Row::Key(slot, name, state) => self.touch(*slot, |shard| {
                    shard.forget(name);
                    shard.keep(name.clone(), Kept::of(*slot, name, state), self.half_bytes_max);
                }),
                Row::Erase(slot, name) => self.touch(*slot, |shard| shard.forget(name)),
                Row::Wipe(slot) => self.touch(*slot, |shard| shard.forget_slot(*slot)),
            }
        }
    }

    /// Bytes counted against the budget.
    pub(super) fn bytes(&self) -> u64 {
        let bytes = |shard: &Mutex<Shard>| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            (shard.young_bytes + shard.old_bytes) as u64
        };
        self.shards.iter().map(bytes).sum()
    }

    fn touch(&self, slot: Slot, change: impl FnOnce(&mut Shard)) {
        let mut shard = self.lock(slot);
        shard.commits += 1;
        change(&mut shard);
    }

    fn lock(&self, slot: Slot) -> MutexGuard<'_, Shard> {
        self.shards[slot.index() % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
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
