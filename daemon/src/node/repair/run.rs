//! A repair that an operator asks for: this node compares itself with every other replica now, and they with it where they lack something.

use std::collections::BTreeMap;
use std::sync::Arc;

use isochrone_config::Keeping;
use isochrone_edge::{OperatorRefusal, RepairFailure, RepairProgress, RepairRequest};
use isochrone_ident::{Namespace, NodeId, Slot};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::compare::{Asking, Tally};
use super::words::{Ask, Shown};
use crate::node::core::Core;

/// Slots between two looks at whether anybody still wants to know.
const SLOTS_A_STEP: usize = 64;

/// A repair under way.
struct Run {
    core: Arc<Core>,
    only: Option<Namespace>,
    told: watch::Sender<RepairProgress>,
    /// Of each slot, the peers that it is still to be compared with.
    left: BTreeMap<Slot, usize>,
    _alone: OwnedSemaphorePermit,
}

impl Core {
    /// Begins a repair.
    pub(crate) fn begin_repair(self: &Arc<Self>, request: RepairRequest) -> Result<watch::Receiver<RepairProgress>, OperatorRefusal> {
        let view = self.view.load();
        if let Some(ns) = &request.namespace {
            let spec = view.namespace(ns).ok_or_else(|| OperatorRefusal::NotFound(format!("there is no namespace `{ns}`")))?;
            if spec.keeping == Keeping::Evictable {
                return Err(OperatorRefusal::Conflict(format!("namespace {ns} is evictable: its replicas need not hold the same keys")));
            }
        }
        if !self.store.digests_ready() {
            return Err(OperatorRefusal::Conflict(format!("{}; try again in a few seconds", super::answer::COUNTING)));
        }
        let running = Arc::clone(&self.repair.running).try_acquire_owned();
        let alone = running.map_err(|_| OperatorRefusal::Conflict("a repair is under way at this daemon already".to_owned()))?;
        let (told, progress) = watch::channel(RepairProgress::default());
        let run = Run { core: Arc::clone(self), only: request.namespace, told, left: BTreeMap::new(), _alone: alone };
        self.spawn(run.run());
        Ok(progress)
    }
}

impl Run {
    async fn run(mut self) {
        let peers: Vec<(NodeId, Vec<Slot>)> = self.core.others().into_iter().map(|peer| (peer, self.shared_with(peer))).collect();
        for slot in Slot::all() {
            if self.core.holds(self.only.as_ref(), slot) {
                self.left.insert(slot, peers.iter().filter(|(_, slots)| slots.binary_search(&slot).is_ok()).count());
            }
        }
        self.tell(|progress| progress.bytes_sent = 0);
        for (peer, slots) in peers.into_iter().filter(|(_, slots)| !slots.is_empty()) {
            let region = self.core.region_of(peer);
            let (node, place) = (peer.to_string(), region.clone());
            self.tell(|progress| (progress.peer, progress.region) = (Some(node), Some(place)));
            let mut done = 0;
            if let Err(reason) = self.compare_with(peer, &slots, &mut done).await {
                self.finished(&slots[done..]);
                let failure = RepairFailure { peer: peer.to_string(), region, slots: (slots.len() - done) as u64, reason };
                self.tell(|progress| progress.failures.push(failure));
            }
            if self.told.is_closed() {
                return;
            }
        }
        self.tell(|progress| (progress.peer, progress.region, progress.done) = (None, None, true));
    }

    fn shared_with(&self, peer: NodeId) -> Vec<Slot> {
        let asking = self.core.asking(peer, self.only.clone(), true);
        Slot::all().filter(|&slot| asking.scope.is_shared(slot)).collect()
    }

    /// Compares slots with one peer, in order; `done` says with how many it is through.
    async fn compare_with(&mut self, peer: NodeId, slots: &[Slot], done: &mut usize) -> Result<(), String> {
        let asking = self.core.asking(peer, self.only.clone(), true);
        let mut tally = Tally::default();
        let apart = self.core.differing_slots(&asking, &mut tally).await?;
        self.count(&tally);
        for step in slots.chunks(SLOTS_A_STEP) {
            let apart: Vec<Slot> = step.iter().copied().filter(|slot| apart.binary_search(slot).is_ok()).collect();
            if !apart.is_empty() {
                let tally = self.core.mend_slots(&asking, &apart).await?;
                self.count(&tally);
                if tally.theirs > 0 {
                    self.call_for_a_look(&asking, apart).await;
                }
            }
            *done += step.len();
            self.finished(step);
            if self.told.is_closed() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The peer lacks something: it is told to compare itself. Should it not, its next round finds it.
    async fn call_for_a_look(&self, asking: &Asking, slots: Vec<Slot>) {
        let mut tally = Tally::default();
        match self.core.ask_to_compare(asking, Ask::Look(slots), &mut tally).await {
            Ok(Shown::Looked(keys)) => self.tell(|progress| progress.keys_pushed += keys),
            Ok(_) => {}
            Err(reason) => tracing::debug!(peer = %asking.peer, reason, "a peer that lacks something did not compare itself"),
        }
        self.count(&tally);
    }

    fn count(&self, tally: &Tally) {
        self.tell(|progress| {
            progress.keys_compared += tally.keys_compared;
            progress.keys_differing += tally.keys_differing;
            progress.keys_pulled += tally.keys_pulled;
            progress.bytes_sent += tally.bytes_sent;
            progress.bytes_received += tally.bytes_received;
        });
    }

    fn finished(&mut self, slots: &[Slot]) {
        for slot in slots {
            if let Some(left) = self.left.get_mut(slot) {
                *left = left.saturating_sub(1);
            }
        }
        self.tell(|_| {});
    }

    fn tell(&self, change: impl FnOnce(&mut RepairProgress)) {
        self.told.send_modify(|progress| {
            change(progress);
            progress.slots = self.left.len() as u64;
            progress.slots_done = self.left.values().filter(|left| **left == 0).count() as u64;
        });
    }
}
