//! Moves: a node that becomes a replica of a slot is filled from one that is, and the council completes the slot when all are.
//!
//! Why one source is enough: a write is taken off the log of the daemon that took it only when every replica has it, and a replica answers a
//! fetch only once it knows of the move; what it had acknowledged before that, the page carries, and what it acknowledges after, its
//! acknowledgement says is under the new epoch, so that the daemon which took it sends it to the new replica as well (see `Delivery`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use isochrone_council::{Command, Role, SlotClass};
use isochrone_gossip::{Call, Traffic};
use isochrone_ident::{Epoch, Hlc, Key, Namespace, NodeId, Slot};
use isochrone_replica::Entry;

use super::core::{Core, Doomed, lock};
use super::wire::{self, FetchAnswer, FetchRequest, FilledAnswer, FilledRequest};

/// Slots that are filled at the same time.
const SLOTS_AT_A_TIME: usize = 16;
/// Pause after a failed fetch, and between two looks at how far a move is.
const PAUSE: Duration = Duration::from_millis(200);

/// A place in a slot: the key after which a page begins.
type Place = Option<(Namespace, Key)>;

/// The slots that this node was filled with in the move away from one epoch. Kept in memory: after a restart it is filled once more.
#[derive(Default)]
pub(crate) struct Filled {
    epoch: Epoch,
    slots: BTreeSet<Slot>,
}

impl Filled {
    fn at(&mut self, epoch: Epoch) -> &mut BTreeSet<Slot> {
        if self.epoch != epoch {
            *self = Self { epoch, slots: BTreeSet::new() };
        }
        &mut self.slots
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
            let done = filled.at(epoch);
            view.slots_to_fill().into_iter().filter(|slot| !done.contains(slot)).collect()
        };
        if todo.is_empty() {
            if changed.changed().await.is_err() {
                return;
            }
            continue;
        }
        let outcomes = futures_util::stream::iter(todo).map(|slot| fill_slot(&core, epoch, slot)).buffer_unordered(SLOTS_AT_A_TIME);
        let failure = outcomes.fold(None, async |failure: Option<String>, outcome| outcome.err().or(failure)).await;
        if let Some(reason) = failure {
            tracing::info!(%epoch, reason, "some slots could not be filled yet; trying again");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Fills one slot from the nearest replica that answers, page by page.
async fn fill_slot(core: &Core, epoch: Epoch, slot: Slot) -> Result<(), String> {
    let sources = core.mesh.rank(&core.view.load().sources(slot));
    let mut failure = "no replica of the slot is left".to_owned();
    for source in sources {
        match fill_from(core, source, epoch, slot).await {
            Ok(()) => {
                lock(&core.filled).at(epoch).insert(slot);
                return Ok(());
            }
            Err(reason) => failure = format!("{source}: {reason}"),
        }
    }
    Err(failure)
}

async fn fill_from(core: &Core, source: NodeId, epoch: Epoch, slot: Slot) -> Result<(), String> {
    let mut after: Place = None;
    loop {
        let page = fetch(core, source, FetchRequest { slot, epoch, after: after.clone() }).await?;
        let bytes: usize = page.entries.iter().map(|e| e.record.bytes() + e.key.as_bytes().len()).sum();
        let doomed = dead_here(core, slot, &after, &page)?;
        if !page.entries.is_empty() {
            core.observe_times(&page.entries)?;
            core.store.commit(core.merge_set(page.entries)).await.map_err(|e| e.to_string())?;
        }
        core.store.forget(doomed).await.map_err(|e| e.to_string())?;
        metrics::counter!("isochrone_node_fill_bytes_total").increment(bytes as u64);
        match page.next {
            None => return Ok(()),
            Some(next) => after = Some(next),
        }
        let pace = bytes as f64 * SLOTS_AT_A_TIME as f64 / core.options.move_bytes_per_second.max(1) as f64;
        tokio::time::sleep(Duration::from_secs_f64(pace.min(5.0))).await;
    }
}

async fn fetch(core: &Core, source: NodeId, request: FetchRequest) -> Result<FetchAnswer, String> {
    let body = wire::encode(&request);
    let call = Call { service: wire::FETCH, class: Traffic::Bulk, deadline: core.options.read_deadline, body, retries: true };
    let bytes = core.mesh.call(source, call).await.map_err(|e| e.to_string())?;
    wire::decode(&bytes)
}

/// What this node still holds in the page's range from a time when it was a replica before, and which the source has forgotten since.
fn dead_here(core: &Core, slot: Slot, after: &Place, page: &FetchAnswer) -> Result<Vec<Doomed>, String> {
    if core.store.slot_totals(slot).keys == 0 {
        return Ok(Vec::new());
    }
    let there: BTreeSet<(&Namespace, &Key)> = page.entries.iter().map(|e| (&e.ns, &e.key)).collect();
    let in_range = |e: &Entry| page.next.as_ref().is_none_or(|(ns, key)| (&e.ns, &e.key) <= (ns, key));
    let is_dead = |e: &Entry| e.record.version.hlc <= page.stable_through && !there.contains(&(&e.ns, &e.key));
    let mut doomed = Vec::new();
    let mut place = after.clone();
    loop {
        let own = core.store.scan_slot(slot, place.as_ref(), core.options.page_bytes).map_err(|e| e.to_string())?;
        let forget = |e: &Entry| (slot, e.ns.clone(), e.key.clone(), e.record.version);
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
        if !view.placement.eventual.read_set(request.slot).any(|n| n == self.id()) {
            return Err("not a replica of that slot".to_owned());
        }
        // Before the scan: what is stable now is in it, or was beaten by something that is.
        let stable_through: Hlc = lock(&self.horizon).stable_through();
        let page = self.store.scan_slot(request.slot, request.after.as_ref(), self.options.page_bytes).map_err(|e| e.to_string())?;
        Ok(wire::encode(&FetchAnswer { entries: page.entries, stable_through, next: page.next }))
    }

    /// Answers the leader that drives a move.
    pub(crate) fn answer_filled(&self, body: &[u8]) -> Result<Bytes, String> {
        let request: FilledRequest = wire::decode(body)?;
        let slots = if self.view.load().epoch() == request.epoch {
            lock(&self.filled).at(request.epoch).iter().copied().collect()
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
    let filled: std::collections::BTreeMap<NodeId, BTreeSet<Slot>> = futures_util::future::join_all(asked).await.into_iter().collect();
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
