//! Moves: a node that becomes a replica of a slot is filled from one that is, and the council completes the slot when all are.
//!
//! Why one source is enough for every write to arrive: a write is taken off the log of the daemon that took it only when every replica has it, and a
//! replica answers a fetch only once it knows of the move; what it had acknowledged before that, the page carries, and what it acknowledges after, its
//! acknowledgement says is under the new epoch, so that the daemon which took it sends it to the new replica as well (see `Delivery`).
//!
//! Why it is compared with more of them all the same, before it counts as filled: a write at level `quorum` was answered once a majority of the old replicas
//! had it. Only who has seen a majority of them has seen all such writes, and lets a majority of the new replicas, of which it is one, have them at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use isochrone_council::{Command, Role, SlotClass};
use isochrone_gossip::{Call, Traffic};
use isochrone_ident::{Epoch, Hlc, Key, Kind, Namespace, NodeId, Slot};
use isochrone_replica::Entry;

use super::core::{Core, Doomed, lock};
use super::view::View;
use super::wire::{self, FetchAnswer, FetchRequest, FilledAnswer, FilledRequest, SlotPage};

/// Slots asked for in one fetch: most slots of a young cluster are empty, and a round trip for each would take minutes.
const SLOTS_A_FETCH: usize = 256;
/// Fetches under way at the same time.
const FETCHES_AT_A_TIME: usize = 4;
/// Pause after a failed fetch, and between two looks at how far a move is.
const PAUSE: Duration = Duration::from_millis(200);

/// A place in a slot: the key after which a page begins.
type Place = Option<(Namespace, Kind, Key)>;

/// The slots that this node was filled with in the move away from one epoch. Kept in memory: after a restart it is filled once more.
#[derive(Default)]
pub(crate) struct Filled {
    epoch: Epoch,
    slots: BTreeSet<Slot>,
    /// Slots that were fetched whole, and from whom, and are yet to be compared with others.
    fetched: BTreeMap<Slot, NodeId>,
}

impl Filled {
    fn at(&mut self, epoch: Epoch) -> &mut Self {
        if self.epoch != epoch {
            *self = Self { epoch, ..Self::default() };
        }
        self
    }
}

/// Fills this node with the slots that it gains, for ever.
pub(crate) async fn fill(core: Arc<Core>) {
    let mut changed = core.view_changed.subscribe();
    loop {
        changed.borrow_and_update();
        let view = core.view.load_full();
        let epoch = view.epoch();
        let todo: Vec<Slot> = {
            let mut filled = lock(&core.filled);
            let done = &filled.at(epoch).slots;
            view.slots_to_fill().into_iter().filter(|slot| !done.contains(slot)).collect()
        };
        if todo.is_empty() {
            if changed.changed().await.is_err() {
                return;
            }
            continue;
        }
        let batches = batches(&core, todo);
        let outcomes = futures_util::stream::iter(batches).map(|batch| fill_batch(&core, epoch, batch)).buffer_unordered(FETCHES_AT_A_TIME);
        let failure = outcomes.fold(None, async |failure: Option<String>, outcome| outcome.err().or(failure)).await;
        if let Some(reason) = failure {
            tracing::info!(%epoch, reason, "some slots could not be filled yet; trying again");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Slots that can be filled from the same replicas.
struct Batch {
    sources: Vec<NodeId>,
    slots: VecDeque<Slot>,
}

fn batches(core: &Core, todo: Vec<Slot>) -> Vec<Batch> {
    let view = core.view.load_full();
    let mut by_sources: BTreeMap<Vec<NodeId>, Vec<Slot>> = BTreeMap::new();
    for slot in todo {
        by_sources.entry(core.mesh.rank(&view.sources(slot))).or_default().push(slot);
    }
    let split = |(sources, slots): (Vec<NodeId>, Vec<Slot>)| {
        let batch = |slots: &[Slot]| Batch { sources: sources.clone(), slots: slots.iter().copied().collect() };
        slots.chunks(SLOTS_A_FETCH).map(batch).collect::<Vec<Batch>>()
    };
    by_sources.into_iter().flat_map(split).collect()
}

/// Fills slots from the nearest replica that answers; what one has delivered is not asked of the next.
async fn fill_batch(core: &Core, epoch: Epoch, mut batch: Batch) -> Result<(), String> {
    let mut failure = "no replica of the slots is left".to_owned();
    for (source, slots) in fetched_before(core, epoch, &mut batch.slots) {
        see_majority(core, source, epoch, &slots).await?;
    }
    if batch.slots.is_empty() {
        return Ok(());
    }
    for source in std::mem::take(&mut batch.sources) {
        let all: Vec<Slot> = batch.slots.iter().copied().collect();
        let outcome = fill_from(core, source, epoch, &mut batch.slots).await;
        let full = &all[..all.len() - batch.slots.len()];
        lock(&core.filled).at(epoch).fetched.extend(full.iter().map(|&slot| (slot, source)));
        see_majority(core, source, epoch, full).await?;
        match outcome {
            Ok(()) => return Ok(()),
            Err(reason) => failure = format!("{source}: {reason}"),
        }
    }
    Err(failure)
}

/// Takes the slots that an earlier try has fetched out of a batch, by where they came from.
fn fetched_before(core: &Core, epoch: Epoch, slots: &mut VecDeque<Slot>) -> BTreeMap<NodeId, Vec<Slot>> {
    let mut filled = lock(&core.filled);
    let fetched = &filled.at(epoch).fetched;
    let mut by_source: BTreeMap<NodeId, Vec<Slot>> = BTreeMap::new();
    slots.retain(|slot| match fetched.get(slot) {
        Some(&source) => {
            by_source.entry(source).or_default().push(*slot);
            false
        }
        None => true,
    });
    by_source
}

/// Compares slots that were fetched from one replica with others, until a majority of the old replicas is seen: then they are filled.
async fn see_majority(core: &Core, source: NodeId, epoch: Epoch, slots: &[Slot]) -> Result<(), String> {
    let view = core.view.load_full();
    let mut by_peer: BTreeMap<NodeId, Vec<Slot>> = BTreeMap::new();
    for &slot in slots {
        for peer in others_to_see(core, &view, source, slot) {
            by_peer.entry(peer).or_default().push(slot);
        }
    }
    for (peer, slots) in by_peer {
        let asking = core.asking(peer, None, true);
        core.mend_slots(&asking, &slots).await.map_err(|reason| format!("comparing with {peer}: {reason}"))?;
    }
    let mut filled = lock(&core.filled);
    let filled = filled.at(epoch);
    for slot in slots {
        filled.fetched.remove(slot);
        filled.slots.insert(*slot);
    }
    Ok(())
}

/// The old replicas that make a majority together with `source`, of those that are members still; those that can be reached first, then the nearest.
fn others_to_see(core: &Core, view: &View, source: NodeId, slot: Slot) -> BTreeSet<NodeId> {
    let mut others = BTreeSet::new();
    for count in view.replica_counts() {
        let old: Vec<NodeId> = view.placement.eventual.read_set(slot).take(count).collect();
        if old.contains(&core.id()) {
            continue;
        }
        let left: Vec<NodeId> = old.iter().copied().filter(|n| *n != source && view.members.contains_key(n)).collect();
        let mut ranked = core.mesh.rank(&left);
        ranked.sort_by_key(|&node| !core.mesh.is_connected(node));
        others.extend(ranked.into_iter().take(old.len() / 2));
    }
    others
}

/// Takes pages from one source until no slot is left; those that are filled leave `slots`.
async fn fill_from(core: &Core, source: NodeId, epoch: Epoch, slots: &mut VecDeque<Slot>) -> Result<(), String> {
    let mut after: Place = None;
    while !slots.is_empty() {
        let answer = fetch(core, source, FetchRequest { slots: slots.iter().copied().collect(), after: after.clone(), epoch }).await?;
        let bytes: usize = answer.pages.iter().flat_map(|p| &p.entries).map(|e| e.record.bytes() + e.key.as_bytes().len()).sum();
        after = take_pages(core, slots, after, answer).await?;
        metrics::counter!("isochrone_node_fill_bytes_total").increment(bytes as u64);
        let pace = bytes as f64 * FETCHES_AT_A_TIME as f64 / core.options.move_bytes_per_second.max(1) as f64;
        tokio::time::sleep(Duration::from_secs_f64(pace.min(5.0))).await;
    }
    Ok(())
}

/// Makes the pages durable. Returns where to go on in the first slot that is left.
async fn take_pages(core: &Core, slots: &mut VecDeque<Slot>, after: Place, answer: FetchAnswer) -> Result<Place, String> {
    let (mut place, mut full) = (after, 0);
    let (mut entries, mut doomed) = (Vec::new(), Vec::new());
    if answer.pages.is_empty() {
        return Err("an answer without a page".to_owned());
    }
    for page in answer.pages {
        if slots.get(full) != Some(&page.slot) {
            return Err("a page of a slot that was not its turn".to_owned());
        }
        doomed.extend(dead_here(core, &place, &page, answer.stable_through)?);
        entries.extend(page.entries);
        place = page.next;
        if place.is_some() {
            break;
        }
        full += 1;
    }
    if !entries.is_empty() {
        core.check_namespaces(&entries)?;
        core.observe_times(&entries)?;
        core.store.commit(core.merge_set(entries)).await.map_err(|e| e.to_string())?;
    }
    if !doomed.is_empty() {
        core.store.forget(doomed).await.map_err(|e| e.to_string())?;
    }
    slots.drain(..full);
    Ok(place)
}

async fn fetch(core: &Core, source: NodeId, request: FetchRequest) -> Result<FetchAnswer, String> {
    let body = wire::encode(&request);
    let call = Call { service: wire::FETCH, class: Traffic::Bulk, deadline: core.options.read_deadline, body, retries: true };
    let bytes = core.mesh.call(source, call).await.map_err(|e| e.to_string())?;
    wire::decode(&bytes)
}

/// What this node still holds in the page's range from a time when it was a replica before, and which the source has forgotten since. A typed state goes only
/// once it is spent: it is joined and not replaced, so it brings nothing back, and it may be where this node reads which dot comes next (E3).
fn dead_here(core: &Core, after: &Place, page: &SlotPage, stable_through: Hlc) -> Result<Vec<Doomed>, String> {
    let slot = page.slot;
    if core.store.slot_totals(slot).keys == 0 {
        return Ok(Vec::new());
    }
    let there: BTreeSet<(&Namespace, Kind, &Key)> = page.entries.iter().map(|e| (&e.ns, e.kind, &e.key)).collect();
    let in_range = |e: &Entry| page.next.as_ref().is_none_or(|(ns, kind, key)| (&e.ns, e.kind, &e.key) <= (ns, *kind, key));
    let (now, skew_ms) = (core.now(), core.options.clock.ahead_ms_max);
    let counts = |e: &Entry| e.record.as_typed().is_some_and(|typed| !typed.is_spent(now, skew_ms, stable_through));
    let is_dead = |e: &Entry| e.record.version.hlc <= stable_through && !there.contains(&(&e.ns, e.kind, &e.key)) && !counts(e);
    let mut doomed = Vec::new();
    let mut place = after.clone();
    loop {
        let own = core.store.scan_slot(slot, place.as_ref(), core.options.page_bytes).map_err(|e| e.to_string())?;
        let forget = |e: &Entry| (slot, e.ns.clone(), e.kind, e.key.clone(), e.record.version);
        doomed.extend(own.entries.iter().filter(|e| in_range(e) && is_dead(e)).map(forget));
        match own.next {
            Some(next) if own.entries.last().is_some_and(in_range) => place = Some(next),
            _ => return Ok(doomed),
        }
    }
}

impl Core {
    /// Answers a replica that is being filled.
    pub(crate) fn answer_fetch(&self, body: &[u8]) -> Result<Bytes, String> {
        let request: FetchRequest = wire::decode(body)?;
        let view = self.view.load();
        if view.epoch() != request.epoch || !view.placement.eventual.is_moving() {
            return Err(format!("this node is at epoch {}, the fetch is of a move away from {}", view.epoch(), request.epoch));
        }
        if request.slots.iter().any(|&slot| !view.placement.eventual.read_set(slot).any(|n| n == self.id())) {
            return Err("not a replica of that slot".to_owned());
        }
        // Before the scan: what is stable now is in it, or was beaten by something that is.
        let stable_through: Hlc = lock(&self.horizon).stable_through();
        let (mut after, mut left, mut pages) = (request.after, self.options.page_bytes, Vec::new());
        for slot in request.slots {
            let page = self.store.scan_slot(slot, after.take().as_ref(), left).map_err(|e| e.to_string())?;
            left = left.saturating_sub(page.entries.iter().map(|e| e.record.bytes() + e.key.as_bytes().len()).sum());
            let is_partial = page.next.is_some();
            pages.push(SlotPage { slot, entries: page.entries, next: page.next });
            if is_partial || left == 0 {
                break;
            }
        }
        Ok(wire::encode(&FetchAnswer { pages, stable_through }))
    }

    /// Answers the leader that drives a move.
    pub(crate) fn answer_filled(&self, body: &[u8]) -> Result<Bytes, String> {
        let request: FilledRequest = wire::decode(body)?;
        let slots = if self.view.load().epoch() == request.epoch {
            lock(&self.filled).at(request.epoch).slots.iter().copied().collect()
        } else {
            Vec::new()
        };
        Ok(wire::encode(&FilledAnswer { slots }))
    }

    async fn ask_filled(&self, node: NodeId, epoch: Epoch) -> BTreeSet<Slot> {
        let body = wire::encode(&FilledRequest { epoch });
        let answer = if node == self.id() {
            self.answer_filled(&body)
        } else {
            let call =
                Call { service: wire::FILLED, class: Traffic::Foreground, deadline: self.options.read_deadline, body, retries: false };
            self.mesh.call(node, call).await.map_err(|e| e.to_string())
        };
        let slots = answer.and_then(|bytes| wire::decode::<FilledAnswer>(&bytes)).map(|a| a.slots);
        slots.unwrap_or_default().into_iter().collect()
    }
}

/// On the council's leader: completes slots whose new replicas are all filled, for ever.
pub(crate) async fn drive(core: Arc<Core>) {
    let mut changed = core.view_changed.subscribe();
    loop {
        changed.borrow_and_update();
        let moving = core.view.load().placement.eventual.is_moving();
        if moving && core.council.status().role == Role::Leader {
            complete(&core).await;
            let _ = tokio::time::timeout(PAUSE, changed.changed()).await;
        } else if tokio::time::timeout(PAUSE * 5, changed.changed()).await.is_ok_and(|c| c.is_err()) {
            return;
        }
    }
}

async fn complete(core: &Core) {
    let view = core.view.load_full();
    let from = view.epoch();
    let waiting: Vec<(Slot, Vec<NodeId>)> = view
        .placement
        .eventual
        .moving_slots()
        .map(|slot| (slot, view.joiners(slot).into_iter().filter(|n| view.members.contains_key(n)).collect()))
        .collect();
    let nodes: BTreeSet<NodeId> = waiting.iter().flat_map(|(_, joiners)| joiners.iter().copied()).collect();
    let asked = nodes.into_iter().map(|node| async move { (node, core.ask_filled(node, from).await) });
    let filled: BTreeMap<NodeId, BTreeSet<Slot>> = futures_util::future::join_all(asked).await.into_iter().collect();
    let is_done = |slot: &Slot, joiners: &[NodeId]| joiners.iter().all(|n| filled.get(n).is_some_and(|f| f.contains(slot)));
    let slots: Vec<Slot> = waiting.iter().filter(|(slot, joiners)| is_done(slot, joiners)).map(|(slot, _)| *slot).collect();
    metrics::gauge!("isochrone_node_slots_waiting_to_move").set((waiting.len() - slots.len()) as f64);
    if slots.is_empty() {
        return;
    }
    let command = Command::Moved { class: SlotClass::Eventual, from, slots };
    if let Err(error) = core.council.propose(command, core.options.propose_deadline).await {
        tracing::info!(%error, "slots that have moved could not be completed yet; trying again");
    }
}
