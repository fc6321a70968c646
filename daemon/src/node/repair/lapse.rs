//! The bound on what is kept for peers that are away (E5): beyond it the slowest of them lapse.
//!
//! A lapse takes operations from the *log* only. What they wrote stays in the store of the daemon that took them until every replica has it, lapsed ones included:
//! what is stable, and what a sweep may drop, rests on what is delivered and not on what is trimmed. So a lapsed peer finds it by comparison.

use bytes::Bytes;
use isochrone_ident::{NodeId, WallMicros};
use isochrone_replica::Sequence;
use isochrone_store::FactKey;

use crate::node::core::{Core, lock};
use crate::node::identity;
use crate::node::wire;

/// When the log is over its bound in bytes, so much of the bound is trimmed at once, as a shift: a peer that is away lapses further every few minutes, not every second.
const SLACK_SHIFT: u32 = 4;

impl Core {
    /// Lets peers lapse that would make the log longer than it may be. What that trims is to be written down before it is trimmed.
    pub(crate) fn bound_log(&self, head: Sequence) {
        let trimmed = lock(&self.delivery).trim(head);
        let Some(through) = self.overdue_through(trimmed, head) else { return };
        let mut delivery = lock(&self.delivery);
        let peers: Vec<NodeId> = delivery.peers().map(|(peer, _)| peer).collect();
        for peer in peers {
            let was_lapsed = delivery.lapsed(peer).is_some();
            if delivery.lapse(peer, through) && !was_lapsed {
                tracing::warn!(%peer, "it was away too long for the log: writes are no longer kept for it, a comparison will bring it what it missed");
            }
        }
    }

    /// Up to where the log is too large or too old, if it is.
    fn overdue_through(&self, trimmed: Sequence, head: Sequence) -> Option<Sequence> {
        let waiting = head.0.saturating_sub(trimmed.0);
        if waiting == 0 {
            return None;
        }
        let stats = self.store.stats();
        let average = stats.log_bytes.div_ceil(stats.log_entries.max(1)).max(1);
        let too_large = beyond(waiting.saturating_mul(average), self.options.hints.bytes_max).div_ceil(average);
        let too_old = self.older_than(trimmed, head, self.options.hints.age_max);
        let through = Sequence(trimmed.0 + too_large.min(waiting)).max(too_old);
        (through > trimmed).then_some(through)
    }

    /// The last operation of the log that is older than that. Operations stand in about the order of their times.
    fn older_than(&self, trimmed: Sequence, head: Sequence, age: std::time::Duration) -> Sequence {
        let before = self.now().0.saturating_sub(u64::try_from(age.as_micros()).unwrap_or(u64::MAX));
        let is_old = |sequence: u64| {
            let page = self.store.log_after(Sequence(sequence - 1), 1).ok();
            page.and_then(|page| page.operations.into_iter().next()).is_some_and(|logged| logged.version.hlc.wall() < WallMicros(before))
        };
        let (mut old, mut young) = (trimmed.0, head.0 + 1);
        while old + 1 < young {
            let middle = old + (young - old) / 2;
            if is_old(middle) { old = middle } else { young = middle }
        }
        Sequence(old)
    }

    /// Notes which peers are lapsed since when; gives the facts to be written.
    pub(crate) fn note_lapses(&self) -> Vec<(FactKey, Option<Bytes>)> {
        let lapses: Vec<(NodeId, bool)> = {
            let delivery = lock(&self.delivery);
            delivery.peers().map(|(peer, _)| (peer, delivery.lapsed(peer).is_some())).collect()
        };
        let mut since = lock(&self.repair.lapsed_since);
        let mut facts = Vec::new();
        for &(peer, is_lapsed) in &lapses {
            if is_lapsed && !since.contains_key(&peer) {
                let now = self.now();
                since.insert(peer, now);
                facts.push((identity::lapse(peer), Some(wire::encode(&now))));
            }
        }
        let over: Vec<NodeId> = since.keys().copied().filter(|peer| !lapses.contains(&(*peer, true))).collect();
        for peer in over {
            since.remove(&peer);
            facts.push((identity::lapse(peer), None));
        }
        facts
    }
}

/// By how much a log is over its bound; with some slack, if it is.
const fn beyond(bytes: u64, bytes_max: u64) -> u64 {
    if bytes > bytes_max { bytes - bytes_max + (bytes_max >> SLACK_SHIFT) } else { 0 }
}

/// Since when peers have been lapsed, as it was before the restart.
pub(crate) fn recall_lapses(core: &Core) {
    let lapsed = core.others().into_iter().filter_map(|peer| Some((peer, identity::recall_lapse(&core.store, peer)?)));
    *lock(&core.repair.lapsed_since) = lapsed.collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e5_a_log_over_its_bound_is_trimmed_with_some_slack() {
        assert_eq!(beyond(160, 160), 0);
        assert_eq!(beyond(161, 160), 11);
    }
}
