//! What a node does by itself: trims its log, tells how far it is stable, forgets what nothing can contradict any more (E7, E8).

use std::sync::Arc;
use std::time::Duration;

use isochrone_ident::{Hlc, SLOTS, Slot};
use isochrone_replica::{Entry, Frontier, Heard, Sequence, State, Upkeep};
use isochrone_store::{Durability, Placed, Write, WriteSet};
use tokio::time::{MissedTickBehavior, interval};

use super::core::{Core, Doomed, lock};
use super::identity::{PROMISED, TRIMMED, cursor};
use super::options::Mutation;
use super::take::millis;
use super::wire;

/// Checkpoints that the stable watermark remembers.
const CHECKPOINTS: usize = 256;
/// Bytes a second that a sweep reads: what is to be forgotten can wait, requests can't.
const SWEEP_BYTES_PER_SECOND: f64 = 8e6;
/// How often the stable watermark is made durable and told to the others.
const STABLE_PERIOD: Duration = Duration::from_secs(1);

/// Trims the log and moves the watermarks, for ever.
pub(crate) async fn watermarks(core: Arc<Core>) {
    let mut frontier = Frontier::new(CHECKPOINTS);
    let mut beat = interval(core.options.heartbeat);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let beats_per_promise = (STABLE_PERIOD.as_millis() / core.options.heartbeat.as_millis().max(1)).max(1);
    for number in 1u128.. {
        beat.tick().await;
        let floor = core.stamps.floor(core.now());
        let head = *core.head.borrow();
        frontier.checkpoint(floor, head);
        core.with_horizon(|horizon| horizon.hear(core.id(), Heard { sent_through: floor, stable_through: Hlc::ZERO }));
        if number.is_multiple_of(beats_per_promise) {
            promise(&core, &mut frontier, head).await;
        }
    }
}

/// Trims the log as far as it may go, and promises that nothing will come that is older than what all replicas have (E5, E7): both only
/// once they are on disk, for a trimmed operation that came back after a crash would be sent again, and could bring a forgotten delete's key back.
async fn promise(core: &Core, frontier: &mut Frontier, head: Sequence) {
    core.bound_log(head);
    let (trimmed, delivered) = {
        let mut delivery = lock(&core.delivery);
        (delivery.trim(head), delivery.delivered(head))
    };
    let delivered = if core.options.breaks(Mutation::LapseIsDelivery) { trimmed } else { delivered };
    let (trimmed, delivered) = if core.options.breaks(Mutation::TrimUndelivered) { (head, head) } else { (trimmed, delivered) };
    let stable_through = frontier.passed(delivered);
    let promised = lock(&core.horizon).heard(core.id()).stable_through;
    let stable_through = core.copies.promise_max().map_or(stable_through, |max| stable_through.min(max)).max(promised);
    // Together: a place that was acknowledged before an epoch says nothing of what a peer needs since.
    let (phase, cursors): (_, Vec<_>) = {
        let delivery = lock(&core.delivery);
        (delivery.epoch(), delivery.peers().collect())
    };
    let mut facts = vec![(TRIMMED, Some(wire::encode(&trimmed))), (PROMISED, Some(wire::encode(&stable_through)))];
    facts.extend(cursors.into_iter().map(|(peer, sequence)| (cursor(peer), Some(wire::encode(&(phase, sequence))))));
    facts.extend(core.note_lapses());
    let set = WriteSet { facts, durability: Durability::AtOnce, ..WriteSet::default() };
    if let Err(error) = core.store.commit(set).await {
        tracing::warn!(%error, "the stable time could not be written; deletes are kept longer");
        return;
    }
    core.store.trim_log(trimmed);
    core.with_horizon(|horizon| horizon.hear(core.id(), Heard { sent_through: Hlc::ZERO, stable_through }));
    gauges(core, head, trimmed);
    core.repair_gauges();
}

fn gauges(core: &Core, head: Sequence, trimmed: Sequence) {
    core.copies.gauges();
    metrics::gauge!("isochrone_node_log_backlog_operations").set((head.0 - trimmed.0.min(head.0)) as f64);
    for (peer, sequence) in lock(&core.delivery).peers() {
        metrics::gauge!("isochrone_node_peer_backlog_operations", "peer" => peer.to_string()).set((head.0 - sequence.0.min(head.0)) as f64);
    }
    let horizon = lock(&core.horizon);
    if let Some(age_ms) = horizon.age_ms(core.now()) {
        metrics::gauge!("isochrone_node_read_age_seconds").set(age_ms as f64 / 1e3);
    }
    let stable_lag_ms = core.now().millis().saturating_sub(horizon.stable_through().wall().millis());
    metrics::gauge!("isochrone_node_stable_lag_seconds").set(stable_lag_ms as f64 / 1e3);
}

/// Goes through the slots in turn, for ever: forgets tombstones and expired values once they are stable, and records of slots that are not this
/// node's once they are delivered.
pub(crate) async fn sweep(core: Arc<Core>) {
    let (period, slots_a_time) = core.options.sweep;
    let mut tick = interval(period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next = 0u16;
    loop {
        tick.tick().await;
        for _ in 0..slots_a_time {
            let slot = Slot::of_hash(u64::from(next));
            next = next.wrapping_add(1) % SLOTS;
            if let Err(reason) = sweep_slot(&core, slot).await {
                tracing::warn!(%slot, reason, "a slot could not be swept");
            }
        }
    }
}

/// One slot. A slot that is being filled, or pulled into, is left alone: what is on its way could bring back what is forgotten here.
async fn sweep_slot(core: &Core, slot: Slot) -> Result<(), String> {
    if core.store.slot_totals(slot).keys == 0 || core.is_filling(slot) {
        return Ok(());
    }
    let mut after = None;
    loop {
        let page = core.store.scan_slot(slot, after.as_ref(), core.options.page_bytes).map_err(|e| e.to_string())?;
        prune(core, slot, &page.entries).await?;
        if core.repair.is_pulling(slot) {
            return Ok(());
        }
        let doomed = doomed(core, slot, &page.entries);
        if !doomed.is_empty() {
            metrics::counter!("isochrone_node_forgotten_total").increment(doomed.len() as u64);
            core.store.forget(doomed).await.map_err(|e| e.to_string())?;
        }
        let bytes: usize = page.entries.iter().map(|e| e.record.bytes() + e.key.as_bytes().len()).sum();
        tokio::time::sleep(Duration::from_secs_f64(bytes as f64 / SWEEP_BYTES_PER_SECOND)).await;
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
}

fn doomed(core: &Core, slot: Slot, entries: &[Entry]) -> Vec<Doomed> {
    let view = core.view.load();
    let now = core.now();
    let (stable, own_stable) = {
        let horizon = lock(&core.horizon);
        (horizon.stable_through(), horizon.heard(core.id()).stable_through)
    };
    let skew_ms = core.options.clock.ahead_ms_max;
    let is_doomed = |entry: &&Entry| {
        let record = &entry.record;
        let is_spent = record.as_typed().map(|typed| typed.is_spent(now, skew_ms, stable));
        if !view.needs(core.id(), &entry.ns, slot) {
            // A state that holds dots of this node's own is where it reads which comes next (E3).
            let is_needed = is_spent == Some(false) && record.as_typed().is_some_and(|typed| typed.has_dots_of(core.id()));
            return record.version.hlc <= own_stable && !is_needed;
        }
        let gone = is_spent.unwrap_or_else(|| matches!(record.state, State::Tombstone) || !record.is_visible(now, skew_ms));
        gone && (record.version.hlc <= stable || core.options.breaks(Mutation::ForgetUnstable))
    };
    let forget = |e: &Entry| (slot, e.ns.clone(), e.kind, e.key.clone(), e.record.version);
    entries.iter().filter(is_doomed).map(forget).collect()
}

/// Drops from typed states what nobody needs any more. Where that changes a part of this node's own, the replicas are told as of any write.
async fn prune(core: &Core, slot: Slot, entries: &[Entry]) -> Result<(), String> {
    let (mut told, mut quiet) = (Vec::new(), Vec::new());
    for entry in entries {
        match pruning(core, slot, entry) {
            Some((placed, true)) => told.push(placed),
            Some((placed, false)) => quiet.push(placed),
            None => {}
        }
    }
    // What is told is on disk first: a part of this node's own that is told and lost would be given out twice (E3).
    for (entries, log, durability) in [(told, true, Durability::AtOnce), (quiet, false, Durability::Relaxed)] {
        if entries.is_empty() {
            continue;
        }
        let committed = core.store.commit(WriteSet { entries, log, durability, ..WriteSet::default() }).await.map_err(|e| e.to_string())?;
        committed.outcomes.iter().filter_map(|outcome| outcome.logged).for_each(|sequence| core.logged(sequence));
    }
    Ok(())
}

/// What is to be dropped from an entry, if anything, and whether that changes this node's own part.
fn pruning(core: &Core, slot: Slot, entry: &Entry) -> Option<(Placed, bool)> {
    let typed = entry.record.as_typed()?;
    let evictable = core.view.load().namespace(&entry.ns)?.keeping == isochrone_config::Keeping::Evictable;
    let upkeep = Upkeep {
        skew_ms: core.options.clock.ahead_ms_max,
        stable: core.stable(),
        claim_ms: millis(core.options.idempotency_ttl),
        actor: core.actors.of(evictable),
    };
    let mut pruned = typed.clone();
    if !pruned.prune(&upkeep) {
        return None;
    }
    let is_told = typed.has_dots_of(core.id()) && typed.part_of(core.id()) != pruned.part_of(core.id());
    let (ns, kind, key) = (entry.ns.clone(), entry.kind, entry.key.clone());
    Some((Placed { slot, ns, kind, key, write: Write::Prune(upkeep), evictable }, is_told))
}
