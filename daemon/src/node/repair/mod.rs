//! Anti-entropy (E6): replicas find out where they differ, and each pulls what it lacks.
//!
//! ```text
//!   schedule ── every 30 to 60 s, at rejoin, after a move ──┐
//!   operator ── `isochrone repair` ─────────────────────────┤   forced
//!   catch_up ── the peer says that we lapsed (E5) ──────────┼──> compare ──COMPARE──> answer (the other replica's digests)
//!   fill ────── before a slot counts as filled ─────────────┘       │
//!                                                                   v what differs, and is not simply on its way
//!                                                            mend ──PULL──> its states ──merge──> our store
//! ```
//!
//! What two nodes compare is what the one that asks needs and the one that answers holds in full ([`Scope`]), both by the same placement phase. Why a pull brings back
//! nothing that was deleted is told in `isochrone_replica`'s `differences`; the part of it that lives here is [`Pulling`]: in a slot that is being pulled into nothing is forgotten.

mod answer;
mod catch_up;
mod compare;
mod lapse;
mod mend;
mod report;
mod run;
mod schedule;
mod scope;
mod words;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use isochrone_ident::{NodeId, Slot, WallMicros};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::core::lock;

pub(crate) use lapse::recall_lapses;
pub(crate) use schedule::rounds;

/// What a node remembers of its comparisons.
pub(crate) struct Repair {
    pulling: Mutex<BTreeMap<Slot, usize>>,
    free_at: Mutex<Option<Instant>>,
    divergent: Mutex<BTreeMap<NodeId, BTreeMap<Slot, u64>>>,
    lapsed_since: Mutex<BTreeMap<NodeId, WallMicros>>,
    /// One peer at a time may ask this node to compare.
    asked: Semaphore,
    /// One repair at a time runs for operators.
    running: Arc<Semaphore>,
}

impl Repair {
    /// Nothing was compared yet.
    pub(crate) fn new() -> Self {
        Self {
            pulling: Mutex::default(),
            free_at: Mutex::default(),
            divergent: Mutex::default(),
            lapsed_since: Mutex::default(),
            asked: Semaphore::new(1),
            running: Arc::new(Semaphore::new(1)),
        }
    }

    /// Keeps what these slots hold from being forgotten until the guard is dropped (E7).
    pub(crate) fn pulling(&self, slots: impl IntoIterator<Item = Slot>) -> Pulling<'_> {
        let slots: Vec<Slot> = slots.into_iter().collect();
        let mut pulling = lock(&self.pulling);
        slots.iter().for_each(|&slot| *pulling.entry(slot).or_default() += 1);
        Pulling { repair: self, slots }
    }

    /// Whether states of that slot may be on their way from a replica that was asked for them.
    pub(crate) fn is_pulling(&self, slot: Slot) -> bool {
        lock(&self.pulling).contains_key(&slot)
    }

    /// Waits until so many bytes may pass at that many a second, all comparisons of this node together.
    async fn pace(&self, bytes: u64, bytes_per_second: u64) {
        let lasts = Duration::from_secs_f64(bytes as f64 / bytes_per_second.max(1) as f64).min(Duration::from_secs(60));
        let now = Instant::now();
        let starts = {
            let mut free_at = lock(&self.free_at);
            let starts = free_at.map_or(now, |at| at.max(now));
            *free_at = Some(starts + lasts);
            starts
        };
        tokio::time::sleep_until(starts).await;
    }

    /// What the last comparison with that peer found in these slots is history.
    fn forget_divergence(&self, peer: NodeId, slots: impl IntoIterator<Item = Slot>) {
        let mut divergent = lock(&self.divergent);
        if let Some(found) = divergent.get_mut(&peer) {
            for slot in slots {
                found.remove(&slot);
            }
        }
    }

    fn note_divergence(&self, peer: NodeId, slot: Slot, keys: u64) {
        if keys > 0 {
            *lock(&self.divergent).entry(peer).or_default().entry(slot).or_default() += keys;
        }
    }

    /// A key that differed was mended.
    fn note_mended(&self, peer: NodeId, slot: Slot) {
        let mut divergent = lock(&self.divergent);
        if let Some(found) = divergent.get_mut(&peer) {
            match found.get_mut(&slot) {
                Some(keys) if *keys > 1 => *keys -= 1,
                _ => {
                    found.remove(&slot);
                }
            }
        }
    }

    /// Keys that differed from each peer at the last comparison and are not mended yet, by slot; of peers that `keep` does not name nothing is known any more.
    fn divergence(&self, keep: impl Fn(NodeId) -> bool) -> BTreeMap<NodeId, BTreeMap<Slot, u64>> {
        let mut divergent = lock(&self.divergent);
        divergent.retain(|&peer, _| keep(peer));
        divergent.clone()
    }
}

/// While it lives, nothing is forgotten in some slots. A state that was asked for may lie before a tombstone that arrives meanwhile and becomes stable; once the
/// state is stored, or sure not to be, the tombstone may go.
pub(crate) struct Pulling<'a> {
    repair: &'a Repair,
    slots: Vec<Slot>,
}

impl Drop for Pulling<'_> {
    fn drop(&mut self) {
        let mut pulling = lock(&self.repair.pulling);
        for slot in &self.slots {
            match pulling.get_mut(slot) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(pulling.remove(slot)),
            }
        }
    }
}

/// Describes its metrics.
pub(crate) fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge};
    describe_counter!("isochrone_repair_rounds_total", "Comparisons with another replica, by how they came out (rule E6)");
    describe_counter!("isochrone_repair_keys_compared_total", "Keys whose hashes were compared one by one, in buckets that differ");
    describe_counter!("isochrone_repair_keys_pulled_total", "Keys that were changed here by what another replica had");
    describe_counter!("isochrone_repair_sent_bytes_total", Unit::Bytes, "Bytes sent to compare and to mend, as either side of it");
    describe_counter!("isochrone_repair_received_bytes_total", Unit::Bytes, "Bytes received to compare and to mend, as either side of it");
    describe_gauge!(
        "isochrone_repair_divergent_keys",
        "Keys that differed at the last comparison and are not mended yet, by the peer's region"
    );
    describe_gauge!("isochrone_repair_divergent_slots", "Slots with such keys, by the peer's region");
    describe_gauge!("isochrone_node_under_replicated_keys", "Keys held here of which fewer replicas than wanted are in place");
    describe_gauge!(
        "isochrone_node_lapsed_peers",
        "Members for which the log is not kept any more; anti-entropy brings them what they missed (rule E5)"
    );
}

/// Counts what went over the wire, as either side of a comparison.
pub(crate) fn count_bytes(sent: usize, received: usize) {
    metrics::counter!("isochrone_repair_sent_bytes_total").increment(sent as u64);
    metrics::counter!("isochrone_repair_received_bytes_total").increment(received as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(number: u64) -> Slot {
        Slot::of_hash(number)
    }

    #[test]
    fn e7_a_slot_is_pulled_into_until_the_last_guard_is_gone() {
        let repair = Repair::new();
        let first = repair.pulling([slot(1), slot(2)]);
        let second = repair.pulling([slot(2)]);
        drop(first);
        assert!(!repair.is_pulling(slot(1)) && repair.is_pulling(slot(2)));
        drop(second);
        assert!(!repair.is_pulling(slot(2)));
    }

    #[test]
    fn e6_divergence_is_what_was_found_less_what_was_mended() {
        let (repair, peer) = (Repair::new(), NodeId(7));
        repair.note_divergence(peer, slot(1), 2);
        repair.note_divergence(peer, slot(2), 1);
        repair.note_mended(peer, slot(1));
        repair.note_mended(peer, slot(2));
        repair.note_mended(peer, slot(3));
        assert_eq!(repair.divergence(|_| true), BTreeMap::from([(peer, BTreeMap::from([(slot(1), 1)]))]));
        repair.forget_divergence(peer, [slot(1)]);
        assert!(repair.divergence(|_| true)[&peer].is_empty());
        assert!(repair.divergence(|_| false).is_empty());
    }
}
