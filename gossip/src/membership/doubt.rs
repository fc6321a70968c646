//! A node doubts itself first (M5): Lifeguard's local health (Dadgar, Phillips, Currey 2018, section IV-A).
//!
//! The score goes from 0 (healthy) to [`SCORE_MAX`]. It rises when our own timers lag, when we had to refute a suspicion,
//! and when a probe fails while most of those whom we probed lately fail too: one silent peer is the peer's fault, a silent
//! world is ours. Each answered probe lowers it. What follows from it:
//! - every probe wait is multiplied by 1 + score (LHA-Probe);
//! - from [`DOUBT_FROM`] on, a failed probe is forgiven instead of raising a suspicion, and a suspect is not declared down;
//!   both a bounded number of times ([`FORGIVEN_MAX`], [`HELD_MAX`]), because all the others can indeed be dead.

use std::collections::BTreeMap;
use std::time::Duration;

use isochrone_ident::NodeId;

/// The worst score.
pub(crate) const SCORE_MAX: u8 = 8;

/// From this score on we believe ourselves less than the others.
pub(crate) const DOUBT_FROM: u8 = 2;

/// How many failed probes of one peer in a row are forgiven while in doubt.
pub(crate) const FORGIVEN_MAX: u8 = 3;

/// How many times one suspect's end is put off, by a suspicion's length each, while in doubt.
pub(crate) const HELD_MAX: u8 = 3;

/// A timer this late says nothing about us: schedulers are like that.
pub(crate) const LAG_ALLOWED: Duration = Duration::from_millis(200);

/// A lag of this much raises the score by one.
const LAG_STEP: Duration = Duration::from_millis(250);

/// The most that one lag raises the score.
const LAG_RAISE_MAX: u128 = 4;

/// How far we trust our own view.
#[derive(Debug, Default)]
pub(crate) struct LocalHealth {
    score: u8,
    /// Whether the last probe of each peer was answered.
    answered: BTreeMap<NodeId, bool>,
}

impl LocalHealth {
    /// 0 to [`SCORE_MAX`]; 0 is healthy.
    pub(crate) fn score(&self) -> u8 {
        self.score
    }

    /// Whether we believe ourselves less than the others.
    pub(crate) fn doubts(&self) -> bool {
        self.score >= DOUBT_FROM
    }

    /// By what every probe wait is multiplied.
    pub(crate) fn stretch(&self) -> u32 {
        1 + u32::from(self.score)
    }

    pub(crate) fn probe_answered(&mut self, node: NodeId) {
        self.answered.insert(node, true);
        self.score = self.score.saturating_sub(1);
    }

    pub(crate) fn probe_failed(&mut self, node: NodeId) {
        self.answered.insert(node, false);
        if self.most_fail() {
            self.raise(1);
        }
    }

    /// We were suspected, and are not dead: perhaps we were slow.
    pub(crate) fn refuted(&mut self) {
        self.raise(1);
    }

    /// A timer fired that much too late.
    pub(crate) fn lagged(&mut self, lag: Duration) {
        if lag > LAG_ALLOWED {
            let steps = (lag.as_millis() / LAG_STEP.as_millis()).clamp(1, LAG_RAISE_MAX);
            self.raise(u8::try_from(steps).unwrap_or(SCORE_MAX));
        }
    }

    /// A peer that is gone says nothing about us any more.
    pub(crate) fn forget(&mut self, node: NodeId) {
        self.answered.remove(&node);
    }

    fn raise(&mut self, by: u8) {
        self.score = self.score.saturating_add(by).min(SCORE_MAX);
    }

    /// Whether more than half of the peers, and two at least, failed their last probe.
    fn most_fail(&self) -> bool {
        let failed = self.answered.values().filter(|answered| !**answered).count();
        failed >= 2 && failed * 2 > self.answered.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_silent_peer_is_the_peers_fault() {
        let mut health = LocalHealth::default();
        for _ in 0..20 {
            health.probe_failed(NodeId(1));
            health.probe_answered(NodeId(2));
            health.probe_failed(NodeId(1));
        }
        assert!(!health.doubts());
    }

    #[test]
    fn a_silent_world_is_our_own_fault_until_it_answers_again() {
        let mut health = LocalHealth::default();
        (1..=4).for_each(|node| health.probe_failed(NodeId(node)));
        assert!(health.doubts());
        (1..=4).for_each(|node| health.probe_answered(NodeId(node)));
        assert_eq!(health.score(), 0);
    }

    #[test]
    fn lagging_timers_raise_the_score_and_the_score_is_bounded() {
        let mut health = LocalHealth::default();
        health.lagged(LAG_ALLOWED);
        assert_eq!(health.score(), 0);
        health.lagged(Duration::from_millis(700));
        assert_eq!(health.score(), 2);
        (0..20).for_each(|_| health.lagged(Duration::MAX));
        assert_eq!((health.score(), health.stretch()), (SCORE_MAX, 9));
    }
}
