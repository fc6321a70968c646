//! Q16: forgetting tombstones, keys of which only a promise is left, and values that have expired (E8). Each slot is looked after by the first of its
//! replicas that can be reached; two that think so only do the same twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use isochrone_ident::{NodeId, Slot};
use isochrone_quorum::{
    Act, Asker, Bounds, COLLECTION_KEYS_MAX, Change, CollectOutput, Collector, CollectorOptions, Configuration, Expect, KeyName, RequestId,
    View, Want, Wish,
};
use isochrone_store::Expiring;
use rand::Rng;
use tokio::time::Instant;

use super::Strong;
use super::moves::Line;
use crate::node::core::{Core, lock};

/// Expired values that are turned into tombstones in one round.
const EXPIRED_MAX: usize = 256;
/// How long one of them may take.
const EXPIRE_DEADLINE: Duration = Duration::from_secs(2);

/// What stands in the way of forgetting, for operators.
#[derive(Debug, Default)]
pub(crate) struct Delays {
    missing: Mutex<BTreeMap<NodeId, Instant>>,
}

/// A replica counts as a cause of delay for so long after a collection missed it.
const MISSED: Duration = Duration::from_secs(60);

impl Delays {
    fn note(&self, missing: impl IntoIterator<Item = NodeId>) {
        let now = Instant::now();
        let mut held = lock(&self.missing);
        held.extend(missing.into_iter().map(|node| (node, now)));
        held.retain(|_, at| now - *at < MISSED);
    }

    /// The replicas that collections have waited for in vain within the last minute.
    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        let now = Instant::now();
        lock(&self.missing).iter().filter(|(_, at)| now - **at < MISSED).map(|(node, _)| *node).collect()
    }

    fn measure(&self, peers: &[NodeId]) {
        let missing = self.nodes();
        for peer in peers {
            let waits = f64::from(u8::from(missing.contains(peer)));
            metrics::gauge!("isochrone_strong_forgetting_waits", "peer" => peer.to_string()).set(waits);
        }
    }
}

impl Strong {
    /// Whether this daemon looks after the slot's dead keys.
    fn tends(&self, configuration: &Configuration) -> bool {
        let mut replicas = configuration.current.iter().map(|replica| replica.member.node);
        !configuration.phase.is_joint() && replicas.find(|&node| self.micros_to(node).is_some()) == Some(self.me.node)
    }

    /// The dead keys of a slot that nobody can need any more, as far as this store knows.
    fn forgettable(&self, slot: Slot, bounds: &Bounds) -> Vec<KeyName> {
        let now = self.now();
        let dead = self.store.dead(slot, None, COLLECTION_KEYS_MAX * 4).unwrap_or_default();
        let is_over = |key: &KeyName| {
            let state = self.store.key(slot, key);
            state.is_some_and(|state| state.accepted.is_none_or(|accepted| accepted.envelope.is_forgettable(now, bounds.skew_micros)))
        };
        dead.into_iter().filter(is_over).take(COLLECTION_KEYS_MAX).collect()
    }
}

/// Forgets what can be forgotten, for ever: every slot in turn.
pub(crate) async fn forget(core: Arc<Core>) {
    loop {
        tokio::time::sleep(core.options.strong.forget_every).await;
        if core.clock_off_ms().is_some() {
            continue;
        }
        expire(&core).await;
        core.strong.delays.measure(&core.others());
        for slot in Slot::all().filter(|&slot| core.strong.store.slot_totals(slot).dead > 0) {
            let Some(configuration) = core.strong.configuration(slot) else { continue };
            if core.strong.tends(&configuration) {
                collect(&core, configuration).await;
            }
        }
    }
}

/// A slot's dead keys, some at a time, until none is left that can go now.
async fn collect(core: &Core, configuration: Arc<Configuration>) {
    let bounds = core.strong.bounds;
    loop {
        let keys = core.strong.forgettable(configuration.slot, &bounds);
        if keys.is_empty() {
            return;
        }
        let (forgotten, missing) = collect_keys(core, Arc::clone(&configuration), keys, bounds).await;
        metrics::counter!("isochrone_strong_forgotten_total").increment(forgotten as u64);
        core.strong.delays.note(missing);
        if forgotten == 0 {
            return;
        }
    }
}

async fn collect_keys(core: &Core, configuration: Arc<Configuration>, keys: Vec<KeyName>, bounds: Bounds) -> (usize, BTreeSet<NodeId>) {
    let strong = &core.strong;
    let mut line = Line::open(strong, Asker::Collector);
    let options = CollectorOptions { bounds, ..CollectorOptions::default() };
    let mut collector = Collector::new(line.number, options, configuration, keys, core.now());
    let mut outputs = collector.start();
    let mut late_at = Instant::now();
    loop {
        for output in outputs {
            match output {
                CollectOutput::Send { to, request } => strong.ask_in_bulk(to, request),
                CollectOutput::After { micros } => late_at = Instant::now() + Duration::from_micros(micros),
                CollectOutput::Ended { forgotten, missing } => return (forgotten, missing.into_iter().map(|member| member.node).collect()),
            }
        }
        outputs = tokio::select! {
            biased;
            Some(answer) = line.answers.recv() => collector.answer(answer),
            () = tokio::time::sleep_until(late_at) => collector.late(),
        };
    }
}

/// Values that have expired become tombstones (E8).
async fn expire(core: &Core) {
    let skew_ms = core.options.clock.ahead_ms_max;
    for Expiring { slot, name, .. } in core.strong.store.expired(core.now(), None, EXPIRED_MAX).unwrap_or_default() {
        let Some(configuration) = core.strong.configuration(slot) else { continue };
        if !core.strong.tends(&configuration) {
            continue;
        }
        let until = core.now().plus_millis(skew_ms + 3000);
        let id = RequestId { nonce: lock(&core.strong.random).random(), print: 0, until };
        let change = Change { id, expect: Expect::Anything, fence: None, act: Act::Expire };
        let wish = Wish { handed_over: true, ..Wish::from(Want::Change(change)) };
        let _ = core.strong.propose(slot, name, wish, Instant::now() + EXPIRE_DEADLINE).await;
    }
}
