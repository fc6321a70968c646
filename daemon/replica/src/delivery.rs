//! Who still lacks which of our writes (E5).

use std::collections::BTreeMap;

use isochrone_ident::{Epoch, NodeId};
use serde::{Deserialize, Serialize};

/// The place of an operation in a daemon's own log. It only grows; 0 is before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The place after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Which pass over the log a peer is in: it rises whenever the peer has to be sent passed-over operations once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Pass(u64);

#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    acknowledged: Sequence,
    epoch: Epoch,
    pass: Pass,
}

/// How far each peer has acknowledged our operation log, and up to where the log may therefore be trimmed.
///
/// The log holds every write that this daemon took, whatever its slot; a peer that is no replica of a write's slot passes over
/// it. An acknowledgement carries the placement epoch that the peer knew, because the set of peers that need a write may have
/// changed: the log is not trimmed past an acknowledgement given under an epoch that this daemon has not adopted yet. Otherwise a
/// write could vanish from the log just before a new replica, which was filled before the write arrived, is known of.
#[derive(Debug, Clone)]
pub struct Delivery {
    peers: BTreeMap<NodeId, Progress>,
    epoch: Epoch,
    trimmed: Sequence,
}

impl Delivery {
    /// A log trimmed up to `trimmed`, under placement epoch `epoch`, with no peers yet.
    #[must_use]
    pub const fn new(trimmed: Sequence, epoch: Epoch) -> Self {
        Self { peers: BTreeMap::new(), epoch, trimmed }
    }

    /// The members have changed: new peers need the log from its oldest operation on, peers that were removed need nothing.
    pub fn set_peers(&mut self, peers: impl IntoIterator<Item = NodeId>) {
        let mut kept = BTreeMap::new();
        for peer in peers {
            let progress = self.peers.get(&peer).copied().unwrap_or(Progress { acknowledged: self.trimmed, ..Progress::default() });
            kept.insert(peer, progress);
        }
        self.peers = kept;
    }

    /// Restores what an earlier run knew of a peer. A lower place than the true one only means that something is sent again.
    pub fn restore(&mut self, peer: NodeId, acknowledged: Sequence) {
        if let Some(progress) = self.peers.get_mut(&peer) {
            progress.acknowledged = progress.acknowledged.max(acknowledged);
        }
    }

    /// A later placement epoch was adopted in which `gained` are replicas of slots that they were not replicas of before: they
    /// need the log again from its oldest operation on, since operations were passed over for them. Acknowledgements of the
    /// pass that this ends are worth nothing any more.
    pub fn adopt(&mut self, epoch: Epoch, gained: impl IntoIterator<Item = NodeId>) {
        self.epoch = self.epoch.max(epoch);
        for peer in gained {
            if let Some(progress) = self.peers.get_mut(&peer) {
                progress.acknowledged = self.trimmed;
                progress.pass = Pass(progress.pass.0 + 1);
            }
        }
    }

    /// In pass `pass`, a peer was sent everything that it needs up to and including `sequence` and has it durably; it knew placement
    /// epoch `epoch` when it said so. An acknowledgement of an earlier pass is ignored.
    pub fn acknowledge(&mut self, peer: NodeId, pass: Pass, sequence: Sequence, epoch: Epoch) {
        if let Some(progress) = self.peers.get_mut(&peer) {
            progress.epoch = progress.epoch.max(epoch);
            if progress.pass == pass {
                progress.acknowledged = progress.acknowledged.max(sequence);
            }
        }
    }

    /// From where on a peer needs the log: everything after this place, in this pass. `None` for a stranger.
    #[must_use]
    pub fn resume(&self, peer: NodeId) -> Option<(Pass, Sequence)> {
        self.peers.get(&peer).map(|p| (p.pass, p.acknowledged))
    }

    /// The placement epoch that this is under: what peers have acknowledged, they have acknowledged of the writes that they need under it.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether some peer has answered under an epoch that this daemon has yet to adopt.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.peers.values().any(|p| p.epoch > self.epoch)
    }

    /// Trims: returns up to where (inclusive) every peer has what it needs, given that the log ends at `head`. Only grows.
    pub fn trim(&mut self, head: Sequence) -> Sequence {
        if !self.is_behind() {
            let all_have = self.peers.values().map(|p| p.acknowledged).min().unwrap_or(head).min(head);
            self.trimmed = self.trimmed.max(all_have);
        }
        self.trimmed
    }

    /// Each peer with the place that it acknowledged.
    pub fn peers(&self) -> impl Iterator<Item = (NodeId, Sequence)> {
        self.peers.iter().map(|(&peer, p)| (peer, p.acknowledged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn delivery() -> Delivery {
        let mut delivery = Delivery::new(Sequence(0), Epoch(1));
        delivery.set_peers([A, B]);
        delivery
    }

    fn acknowledge(delivery: &mut Delivery, peer: NodeId, sequence: Sequence, epoch: Epoch) {
        let (pass, _) = delivery.resume(peer).expect("a peer");
        delivery.acknowledge(peer, pass, sequence, epoch);
    }

    fn acknowledged(delivery: &Delivery, peer: NodeId) -> Sequence {
        delivery.resume(peer).expect("a peer").1
    }

    #[test]
    fn an_acknowledgement_of_an_earlier_pass_does_not_hide_what_was_passed_over() {
        let mut delivery = delivery();
        let (old_pass, _) = delivery.resume(B).expect("a peer");
        delivery.adopt(Epoch(2), [B]);
        delivery.acknowledge(B, old_pass, Sequence(5), Epoch(2));
        assert_eq!(acknowledged(&delivery, B), Sequence(0));
    }

    #[test]
    fn e5_the_log_is_kept_until_the_slowest_peer_has_it() {
        let mut delivery = delivery();
        acknowledge(&mut delivery, A, Sequence(9), Epoch(1));
        assert_eq!(delivery.trim(Sequence(10)), Sequence(0));
        acknowledge(&mut delivery, B, Sequence(4), Epoch(1));
        assert_eq!(delivery.trim(Sequence(10)), Sequence(4));
    }

    #[test]
    fn a_log_without_peers_is_trimmed_at_once() {
        assert_eq!(Delivery::new(Sequence(0), Epoch(1)).trim(Sequence(7)), Sequence(7));
    }

    #[test]
    fn an_acknowledgement_under_an_unknown_epoch_holds_the_log_until_it_is_adopted() {
        let mut delivery = delivery();
        acknowledge(&mut delivery, A, Sequence(5), Epoch(2));
        acknowledge(&mut delivery, B, Sequence(5), Epoch(1));
        assert_eq!(delivery.trim(Sequence(5)), Sequence(0));
        delivery.adopt(Epoch(2), [B]);
        assert_eq!(acknowledged(&delivery, B), Sequence(0), "B gained slots: it needs what was passed over");
        acknowledge(&mut delivery, B, Sequence(5), Epoch(2));
        assert_eq!(delivery.trim(Sequence(5)), Sequence(5));
    }

    #[test]
    fn a_new_peer_needs_the_log_from_its_oldest_operation_on() {
        let mut delivery = delivery();
        acknowledge(&mut delivery, A, Sequence(5), Epoch(1));
        acknowledge(&mut delivery, B, Sequence(5), Epoch(1));
        delivery.trim(Sequence(8));
        delivery.set_peers([A, B, NodeId(3)]);
        assert_eq!(acknowledged(&delivery, NodeId(3)), Sequence(5));
        assert_eq!(acknowledged(&delivery, A), Sequence(5));
    }

    #[test]
    fn a_removed_peer_no_longer_holds_the_log() {
        let mut delivery = delivery();
        acknowledge(&mut delivery, A, Sequence(8), Epoch(1));
        delivery.set_peers([A]);
        assert_eq!(delivery.trim(Sequence(8)), Sequence(8));
    }
}
