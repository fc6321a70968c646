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

/// Operations that went from the log before a peer acknowledged them: after `from`, up to and including `through`. They reach the peer by
/// anti-entropy, if at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lapse {
    /// Everything up to here is at the peer.
    pub from: Sequence,
    /// From here on the peer is sent the log again.
    pub through: Sequence,
}

#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    acknowledged: Sequence,
    epoch: Epoch,
    pass: Pass,
    lapse: Option<Lapse>,
}

impl Progress {
    /// Up to where the peer has everything.
    fn has(&self) -> Sequence {
        self.lapse.map_or(self.acknowledged, |lapse| lapse.from)
    }
}

/// How far each peer has acknowledged our operation log, and up to where the log may therefore be trimmed.
///
/// The log holds every write that this daemon took, whatever its slot; a peer that is no replica of a write's slot passes over
/// it. An acknowledgement carries the placement epoch that the peer knew, because the set of peers that need a write may have
/// changed: the log is not trimmed past an acknowledgement given under an epoch that this daemon has not adopted yet. Otherwise a
/// write could vanish from the log just before a new replica, which was filled before the write arrived, is known of.
///
/// # Lapsed peers
/// The log is bounded in bytes and age. Where a peer that is away would make it longer, the peer [lapses](Delivery::lapse): the log is
/// trimmed without it, and what it missed is left to anti-entropy, which says when it [has caught up](Delivery::caught_up). So there
/// are two places, which part while a peer is lapsed:
///
/// - [`trim`](Delivery::trim): what may go from the log.
/// - [`delivered`](Delivery::delivered): what every replica has. The stable promise rests on this one (E7), so tombstones stay for as long as
///   any peer is lapsed. If they went, the peer could come back with an older put of the key, which nobody could contradict any more; and a
///   delete that the peer missed would be in no log, and in no store for anti-entropy to find. Long absence costs the space of tombstones and
///   never a resurrection; a peer that does not come back is removed, and holds nothing then.
///
/// While the two differ, a peer that is new, or that gains slots, begins as lapsed: it is filled by replicas which may themselves lack what
/// has gone from the log.
#[derive(Debug, Clone)]
pub struct Delivery {
    peers: BTreeMap<NodeId, Progress>,
    epoch: Epoch,
    head: Sequence,
    trimmed: Sequence,
    delivered: Sequence,
    /// Up to here the bound on the log overrides an epoch that is yet to be adopted.
    lapsed_through: Sequence,
}

impl Delivery {
    /// A log trimmed up to `trimmed`, under placement epoch `epoch`, with no peers yet.
    #[must_use]
    pub const fn new(trimmed: Sequence, epoch: Epoch) -> Self {
        Self { peers: BTreeMap::new(), epoch, head: trimmed, trimmed, delivered: trimmed, lapsed_through: trimmed }
    }

    /// The members have changed: new peers need the log from its oldest operation on, peers that were removed need nothing.
    pub fn set_peers(&mut self, peers: impl IntoIterator<Item = NodeId>) {
        let mut kept = BTreeMap::new();
        for peer in peers {
            let progress = self.peers.get(&peer).copied().unwrap_or_else(|| self.begun_anew(Progress::default()));
            kept.insert(peer, progress);
        }
        self.peers = kept;
    }

    /// Restores what an earlier run knew, once, before anything else is told: how far each peer had everything, as [`Delivery::peers`] said.
    /// A lower place than the true one only means that something is sent again; one before the log's oldest operation is a lapse. A peer
    /// of which nothing is known may lack what any peer lacks.
    pub fn restore(&mut self, places: &BTreeMap<NodeId, Sequence>) {
        let known = self.peers.keys().filter_map(|peer| places.get(peer));
        self.delivered = known.min().copied().unwrap_or(self.trimmed).min(self.trimmed);
        for (peer, progress) in &mut self.peers {
            let has = places.get(peer).copied().unwrap_or(self.delivered);
            progress.acknowledged = has.max(self.trimmed);
            progress.lapse = (has < self.trimmed).then_some(Lapse { from: has, through: self.trimmed });
        }
    }

    /// A later placement epoch was adopted in which `gained` are replicas of slots that they were not replicas of before: they
    /// need the log again from its oldest operation on, since operations were passed over for them. Acknowledgements of the
    /// pass that this ends are worth nothing any more.
    pub fn adopt(&mut self, epoch: Epoch, gained: impl IntoIterator<Item = NodeId>) {
        self.epoch = self.epoch.max(epoch);
        for peer in gained {
            if let Some(progress) = self.peers.get(&peer).copied() {
                let again = Progress { pass: Pass(progress.pass.0 + 1), ..self.begun_anew(progress) };
                self.peers.insert(peer, again);
            }
        }
    }

    /// A peer that is to be sent the log from its oldest operation on, and was filled with what every replica has. One that is lapsed stays so.
    fn begun_anew(&self, progress: Progress) -> Progress {
        let through = progress.lapse.map_or(self.trimmed, |lapse| lapse.through.max(self.trimmed));
        let lapse = (self.delivered < through).then_some(Lapse { from: self.delivered, through });
        Progress { acknowledged: through, lapse, ..progress }
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

    /// The log is over its bound, which lies at `through`: a peer that has not acknowledged so much lapses, and its stream has to be begun
    /// again, in a new pass. Up to there an epoch that is yet to be adopted no longer holds the log either. Returns whether the peer
    /// is lapsed now. A place beyond the last [`trim`](Delivery::trim)'s head counts as that head.
    pub fn lapse(&mut self, peer: NodeId, through: Sequence) -> bool {
        let through = through.min(self.head);
        let Some(progress) = self.peers.get_mut(&peer) else { return false };
        self.lapsed_through = self.lapsed_through.max(through);
        if progress.acknowledged < through {
            progress.lapse = Some(Lapse { from: progress.has(), through });
            progress.acknowledged = through;
            progress.pass = Pass(progress.pass.0 + 1);
        }
        progress.lapse.is_some()
    }

    /// Anti-entropy has brought a peer everything up to and including `through`, durably: a comparison of all that it needs, begun when the
    /// peer was lapsed through there, has come to its end. Returns whether the peer is lapsed no more; it stays lapsed if it has lapsed further since.
    pub fn caught_up(&mut self, peer: NodeId, through: Sequence) -> bool {
        let Some(progress) = self.peers.get_mut(&peer) else { return false };
        if progress.lapse.is_some_and(|lapse| lapse.through <= through) {
            progress.lapse = None;
        }
        progress.lapse.is_none()
    }

    /// What a peer has missed, while it is lapsed. What a heartbeat to it says to have been sent must end at [`Lapse::from`].
    #[must_use]
    pub fn lapsed(&self, peer: NodeId) -> Option<Lapse> {
        self.peers.get(&peer).and_then(|p| p.lapse)
    }

    /// From where on a peer needs the log: everything after this place, in this pass; for a lapsed peer, after its lapse. `None` for a stranger.
    #[must_use]
    pub fn resume(&self, peer: NodeId) -> Option<(Pass, Sequence)> {
        self.peers.get(&peer).map(|p| (p.pass, p.acknowledged))
    }

    /// Whether a peer has everything that it needs up to and including `sequence`. A lapse acknowledges nothing.
    #[must_use]
    pub fn has(&self, peer: NodeId, sequence: Sequence) -> bool {
        self.peers.get(&peer).is_some_and(|progress| sequence <= progress.has())
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

    /// Trims: returns up to where (inclusive) the log, which ends at `head`, may go: every peer that is not lapsed has what it needs. Only grows.
    pub fn trim(&mut self, head: Sequence) -> Sequence {
        self.advance(head);
        self.trimmed
    }

    /// Up to where (inclusive) every peer has what it needs, lapsed ones included, given that the log ends at `head`. Only grows, and what is
    /// stable rests on it.
    pub fn delivered(&mut self, head: Sequence) -> Sequence {
        self.advance(head);
        self.delivered
    }

    fn advance(&mut self, head: Sequence) {
        self.head = self.head.max(head);
        let least = |place: fn(&Progress) -> Sequence| self.peers.values().map(place).min().unwrap_or(head).min(head);
        let (acknowledged, had) = (least(|p| p.acknowledged), least(Progress::has));
        if self.is_behind() {
            self.trimmed = self.trimmed.max(acknowledged.min(self.lapsed_through));
        } else {
            self.trimmed = self.trimmed.max(acknowledged);
            self.delivered = self.delivered.max(had);
        }
    }

    /// Each peer with the place up to which it has everything that it needs.
    pub fn peers(&self) -> impl Iterator<Item = (NodeId, Sequence)> {
        self.peers.iter().map(|(&peer, p)| (peer, p.has()))
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

    #[test]
    fn e5_a_lapsed_peer_holds_the_log_no_longer_and_goes_on_behind_its_lapse() {
        let mut delivery = delivery();
        acknowledge(&mut delivery, A, Sequence(90), Epoch(1));
        acknowledge(&mut delivery, B, Sequence(10), Epoch(1));
        assert_eq!(delivery.trim(Sequence(100)), Sequence(10));
        let (old_pass, _) = delivery.resume(B).expect("a peer");
        assert!(delivery.lapse(B, Sequence(60)));
        assert!(!delivery.lapse(A, Sequence(60)), "A has all that goes");
        assert_eq!(delivery.trim(Sequence(100)), Sequence(60));
        delivery.acknowledge(B, old_pass, Sequence(80), Epoch(1));
        assert_eq!(acknowledged(&delivery, B), Sequence(60), "the stream of before the lapse has a hole");
        assert_eq!(delivery.lapsed(B), Some(Lapse { from: Sequence(10), through: Sequence(60) }));
    }

    #[test]
    fn a_lapse_acknowledges_nothing() {
        let mut delivery = delivery();
        acknowledge(&mut delivery, B, Sequence(10), Epoch(1));
        delivery.trim(Sequence(100));
        delivery.lapse(B, Sequence(60));
        acknowledge(&mut delivery, B, Sequence(70), Epoch(1));
        assert_eq!([10, 11, 60, 70].map(|sequence| delivery.has(B, Sequence(sequence))), [true, false, false, false]);
        delivery.caught_up(B, Sequence(60));
        assert!(delivery.has(B, Sequence(70)) && !delivery.has(B, Sequence(71)) && !delivery.has(NodeId(9), Sequence(1)));
    }

    #[test]
    fn e7_what_a_lapsed_peer_lacks_is_not_delivered_until_it_has_caught_up() {
        let mut delivery = delivery();
        acknowledge(&mut delivery, A, Sequence(100), Epoch(1));
        acknowledge(&mut delivery, B, Sequence(10), Epoch(1));
        delivery.trim(Sequence(100));
        delivery.lapse(B, Sequence(60));
        acknowledge(&mut delivery, B, Sequence(100), Epoch(1));
        assert_eq!((delivery.trim(Sequence(100)), delivery.delivered(Sequence(100))), (Sequence(100), Sequence(10)));
        assert!(!delivery.caught_up(B, Sequence(59)), "a comparison of before the lapse proves nothing");
        assert!(delivery.caught_up(B, Sequence(60)));
        assert_eq!(delivery.delivered(Sequence(100)), Sequence(100));
    }

    #[test]
    fn a_peer_that_lapses_further_has_not_caught_up_by_an_earlier_comparison() {
        let mut delivery = delivery();
        acknowledge(&mut delivery, A, Sequence(100), Epoch(1));
        delivery.trim(Sequence(100));
        delivery.lapse(B, Sequence(60));
        delivery.lapse(B, Sequence(80));
        assert!(!delivery.caught_up(B, Sequence(60)));
        assert_eq!(delivery.lapsed(B), Some(Lapse { from: Sequence(0), through: Sequence(80) }));
    }

    #[test]
    fn who_is_filled_while_a_peer_is_lapsed_may_lack_what_it_lacks() {
        let mut delivery = delivery();
        acknowledge(&mut delivery, A, Sequence(100), Epoch(1));
        delivery.trim(Sequence(100));
        delivery.lapse(B, Sequence(60));
        delivery.trim(Sequence(100));
        let lapse = Some(Lapse { from: Sequence(0), through: Sequence(60) });
        delivery.set_peers([A, B, NodeId(3)]);
        assert_eq!(delivery.lapsed(NodeId(3)), lapse, "B may have filled it");
        delivery.adopt(Epoch(2), [A, B]);
        assert_eq!([A, B].map(|peer| delivery.lapsed(peer)), [lapse, lapse]);
        assert_eq!(acknowledged(&delivery, A), Sequence(60));
    }

    #[test]
    fn the_bound_of_the_log_holds_while_an_epoch_is_unknown() {
        let mut delivery = delivery();
        acknowledge(&mut delivery, A, Sequence(90), Epoch(2));
        acknowledge(&mut delivery, B, Sequence(90), Epoch(1));
        assert_eq!(delivery.trim(Sequence(90)), Sequence(0));
        delivery.lapse(A, Sequence(50));
        assert_eq!((delivery.trim(Sequence(90)), delivery.delivered(Sequence(90))), (Sequence(50), Sequence(0)));
        delivery.adopt(Epoch(2), [B]);
        assert_eq!(
            delivery.lapsed(B),
            Some(Lapse { from: Sequence(0), through: Sequence(50) }),
            "it gained slots: what has gone was passed over"
        );
    }

    #[test]
    fn a_restart_forgets_no_lapse() {
        let mut before = delivery();
        acknowledge(&mut before, A, Sequence(90), Epoch(1));
        before.trim(Sequence(90));
        before.lapse(B, Sequence(60));
        let trimmed = before.trim(Sequence(90));
        let mut after = Delivery::new(trimmed, Epoch(1));
        after.set_peers([A, B, NodeId(3)]);
        after.restore(&before.peers().collect());
        assert_eq!([A, B].map(|peer| acknowledged(&after, peer)), [Sequence(90), Sequence(60)]);
        assert_eq!([A, B].map(|peer| after.lapsed(peer)), [None, before.lapsed(B)]);
        assert_eq!(after.lapsed(NodeId(3)), before.lapsed(B), "nothing is known of it");
        assert_eq!(after.delivered(Sequence(90)), Sequence(0));
    }

    #[test]
    fn a_lapse_passes_over_nothing_that_is_still_to_come() {
        let mut delivery = delivery();
        delivery.trim(Sequence(5));
        delivery.lapse(B, Sequence(1000));
        assert_eq!(acknowledged(&delivery, B), Sequence(5));
        assert!(!delivery.lapse(NodeId(9), Sequence(5)) && !delivery.caught_up(NodeId(9), Sequence(5)));
    }
}

#[cfg(test)]
mod model;
