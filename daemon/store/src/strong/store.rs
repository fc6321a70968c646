//! The strong store as the daemon holds it.

use std::collections::BTreeMap;
use std::mem;
use std::ops::Bound;
use std::sync::Arc;
use std::thread;

use isochrone_ident::Slot;
use isochrone_quorum::{KeyName, KeyState, Member, Place, Row, SlotState, View};

use super::committer::Committer;
use super::engine::Engine;
use super::gate::Unread;
use super::rows::{key_row, parse_key_row, prefix, unseal_state};
use super::shared::Shared;
use super::tables::Snapshot;
use super::words::{OnSynced, StrongOptions, StrongStats, StrongTotals};
use crate::{Driver, Medium, OpenError};

/// The durable tier of one daemon's acceptor (Q3). Cloning shares it; the disk is closed when the last clone is gone, or by [`StrongStore::close`].
#[derive(Clone)]
pub struct StrongStore {
    pub(super) shared: Arc<Shared>,
    is_new: bool,
    _owner: Arc<Owner>,
}

/// Closes the store when the last clone of it goes.
struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.queue.close();
    }
}

impl StrongStore {
    /// Opens what is on `medium`, or makes it for `member`, and starts the committer: with [`Driver::Task`] on the current tokio runtime.
    ///
    /// # Errors
    /// [`OpenError`], among them [`OpenError::Foreign`] for the store of another member (Q15); then no committer runs.
    ///
    /// # Panics
    /// With [`Driver::Task`] outside a tokio runtime.
    pub fn open(medium: Medium, member: Member, options: StrongOptions) -> Result<Self, OpenError> {
        options.check()?;
        let name = medium.to_string();
        let refused = |detail: String| OpenError::Disk { medium: name.clone(), detail };
        let (engine, redo) = Engine::open(medium, options.page_cache_bytes(), member, options.seed)?;
        let (is_new, driver) = (engine.is_new(), options.driver);
        let snapshot = engine.snapshot().map_err(refused)?;
        let shared = Arc::new(Shared::new(&engine, snapshot, options));
        let committer = Committer::new(engine, redo, Arc::clone(&shared));
        match driver {
            Driver::Thread => start_thread(committer).map_err(|error| refused(error.to_string()))?,
            Driver::Task { .. } => drop(tokio::spawn(committer.run())),
        }
        Ok(Self { _owner: Arc::new(Owner(Arc::clone(&shared))), shared, is_new })
    }

    /// Whether there was nothing on the medium before. A daemon that has had a strong store, and finds a new one, has lost its disk: it is another
    /// member from then on (Q15).
    #[must_use]
    pub const fn is_new(&self) -> bool {
        self.is_new
    }

    /// Has `callback` told of what is synced. Tells whether it was set: there can be one in a store's life. Places that were synced before are told with the next
    /// group.
    pub fn on_synced(&self, callback: OnSynced) -> bool {
        self.shared.on_synced.set(callback).is_ok()
    }

    /// Gives rows to be written, after all that were given before; places must ascend. Never waits. Those that share a place become durable together. After a failure rows
    /// are dropped, and nobody is told of them.
    pub fn write(&self, place: Place, rows: Vec<Row>) {
        if !self.shared.is_failed() && !self.shared.queue.push(place, rows) {
            self.shared.fail(&format!("rows came for place {} after those of a later place: this is a bug", place.0));
        }
    }

    /// Whether the queue's bounds, the disk and its budget let more rows in. To be asked before a request goes to the acceptor, since what that has staged must be written.
    /// Reads ([`isochrone_quorum::Ask::Read`], lists) write nothing and need no room.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.shared.takes_rows() && self.shared.is_within_budget()
    }

    /// The same for what frees room or takes none worth counting: erasures, floors, seals, slots' promises, phases. The budget does not hold these up, or a full store
    /// could never become less full.
    #[must_use]
    pub fn has_room_to_free(&self) -> bool {
        self.shared.takes_rows()
    }

    /// Whether the store has failed: a sync, the disk, or what is on it. It only ever becomes true. What a [`View`] gave in the same call may be wrong then, as what cannot be
    /// read is shown as absent, which it is not: so whoever asks the acceptor looks here after each request and before any answer leaves.
    #[must_use]
    pub fn is_failed(&self) -> bool {
        self.shared.is_failed()
    }

    /// Why the store has failed, and what to do.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.shared.failure()
    }

    /// Commits what waits, closes the disk and ends the committer; returns when the medium can be opened again. A full disk is not waited for. From then on the store counts as
    /// failed where it is read.
    pub async fn close(self) {
        self.shared.queue.close();
        let mut ended = self.shared.ended.subscribe();
        // An error says that the committer is gone, which is what was wanted.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// Every slot of which there is a state, in order.
    #[must_use]
    pub fn slots_held(&self) -> Vec<(Slot, SlotState)> {
        self.shared.memory.slots()
    }

    /// What a slot holds.
    #[must_use]
    pub fn slot_totals(&self, slot: Slot) -> StrongTotals {
        self.shared.slot_totals(slot)
    }

    /// How full the store is, and what it has done.
    #[must_use]
    pub fn stats(&self) -> StrongStats {
        self.shared.stats()
    }

    /// What the tables hold of a key.
    fn key_in_tables(&self, slot: Slot, name: &KeyName) -> Result<Option<KeyState>, Unread> {
        self.shared.gate.read(|snapshot| {
            let mut row = Vec::with_capacity(8 + name.namespace.as_str().len() + name.key.as_bytes().len());
            key_row(slot, snapshot.generation(slot), name, &mut row);
            snapshot.keys.get(row.as_slice())?.map(|found| state_in(&row, found.value())).transpose()
        })
    }

    /// Some keys of a slot, and whether there are no more.
    fn keys_in_tables(&self, slot: Slot, after: Option<&KeyName>) -> Result<(Vec<(KeyName, KeyState)>, bool), Unread> {
        self.shared.gate.read(|snapshot| {
            let first = prefix(slot, snapshot.generation(slot));
            let (mut keys, mut bytes) = (Vec::new(), 0);
            for row in snapshot.keys.range::<&[u8]>(rows_after(snapshot, slot, after).as_bounds())? {
                let (row, sealed) = row?;
                if !row.value().starts_with(&first) {
                    break;
                }
                if keys.len() == WALK_KEYS || bytes >= WALK_BYTES {
                    return Ok((keys, false));
                }
                bytes += sealed.value().len();
                let (_, _, name) = parse_key_row(row.value()).map_err(|_| corrupt(row.value()))?;
                keys.push((name, state_in(row.value(), sealed.value())?));
            }
            Ok((keys, true))
        })
    }

    /// Marks the store failed for what could not be read.
    pub(super) fn fail_to_read(&self, unread: &Unread) {
        match unread {
            Unread::Closed => self.shared.fail("it was read after it was closed"),
            Unread::Disk(detail) => self.shared.fail(&format!("the disk can't be read: {detail}")),
            Unread::Corrupt(detail) => self.shared.fail(detail),
        }
    }
}

/// What a walk over a slot reads at a time: so many keys, and no more once there are so many bytes.
const WALK_KEYS: usize = 64;
const WALK_BYTES: usize = 256 << 10;

/// What is durable, over the last commit. What cannot be read is shown as absent *and* makes the store fail: see [`StrongStore::is_failed`].
impl View for StrongStore {
    fn slot(&self, slot: Slot) -> Option<SlotState> {
        self.shared.memory.slot(slot)
    }

    fn key(&self, slot: Slot, key: &KeyName) -> Option<KeyState> {
        let ticket = match self.shared.memory.key(slot, key) {
            Ok(said) => {
                self.shared.meters.hits.increment(1);
                return said;
            }
            Err(ticket) => ticket,
        };
        self.shared.meters.misses.increment(1);
        let found = self.key_in_tables(slot, key).unwrap_or_else(|unread| {
            self.fail_to_read(&unread);
            None
        });
        if let Some(state) = &found {
            self.shared.memory.fill(ticket, slot, key, state);
        }
        found
    }

    fn walk(&self, slot: Slot, after: Option<&KeyName>, visit: &mut dyn FnMut(KeyName, KeyState) -> bool) {
        let (mut over, is_wiped) = self.shared.memory.keys(slot, after);
        let mut after = after.cloned();
        loop {
            let found = if is_wiped { Ok((Vec::new(), true)) } else { self.keys_in_tables(slot, after.as_ref()) };
            let (keys, is_all) = match found {
                Ok(found) => found,
                Err(unread) => return self.fail_to_read(&unread),
            };
            after = keys.last().map(|(key, _)| key.clone());
            let here = if is_all { mem::take(&mut over) } else { through(&mut over, after.as_ref()) };
            let mut keys: BTreeMap<KeyName, Option<KeyState>> = keys.into_iter().map(|(key, state)| (key, Some(state))).collect();
            keys.extend(here);
            let mut shown = keys.into_iter().filter_map(|(key, state)| Some((key, state?)));
            if !shown.all(|(key, state)| visit(key, state)) || is_all {
                return;
            }
        }
    }
}

/// Takes what lies at or before `last`.
fn through(over: &mut BTreeMap<KeyName, Option<KeyState>>, last: Option<&KeyName>) -> BTreeMap<KeyName, Option<KeyState>> {
    let Some(last) = last else { return BTreeMap::new() };
    let mut later = over.split_off(last);
    let at = later.remove_entry(last);
    let mut taken = mem::replace(over, later);
    taken.extend(at);
    taken
}

/// Where a range of rows begins.
pub(super) struct RowsAfter {
    row: Vec<u8>,
    is_excluded: bool,
}

impl RowsAfter {
    pub(super) fn as_bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        let from = self.row.as_slice();
        (if self.is_excluded { Bound::Excluded(from) } else { Bound::Included(from) }, Bound::Unbounded)
    }
}

/// The rows of a slot's keys as they are now, from the one after `after` on.
pub(super) fn rows_after(snapshot: &Snapshot, slot: Slot, after: Option<&KeyName>) -> RowsAfter {
    let generation = snapshot.generation(slot);
    let mut row = prefix(slot, generation).to_vec();
    if let Some(name) = after {
        key_row(slot, generation, name, &mut row);
    }
    RowsAfter { row, is_excluded: after.is_some() }
}

fn state_in(row: &[u8], sealed: &[u8]) -> Result<KeyState, Unread> {
    unseal_state(row, sealed).map_err(|_| corrupt(row))
}

pub(super) fn corrupt(row: &[u8]) -> Unread {
    let name = parse_key_row(row).map_or_else(|_| row.escape_ascii().to_string(), |(slot, _, name)| format!("{name:?} in slot {slot}"));
    Unread::Corrupt(format!("what is stored for {name} fails its checksum"))
}

fn start_thread(committer: Committer) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    thread::Builder::new().name("strong-store".to_owned()).spawn(move || runtime.block_on(committer.run()))?;
    Ok(())
}
