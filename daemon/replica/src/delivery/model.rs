//! Peers that are away, lapse, catch up, are removed, are filled anew and gain slots, and a daemon that restarts: whatever happens, what counts as
//! delivered is at every peer, and no stream begins before the log does.

use std::collections::{BTreeMap, BTreeSet};

use isochrone_ident::{Epoch, NodeId};
use proptest::prelude::*;

use super::{Delivery, Sequence};

#[derive(Debug, Clone)]
enum Step {
    Write(u64),
    /// The peer's stream brings it that many operations more.
    Stream(u8, u64),
    Lapse(u8, u64),
    /// Anti-entropy begins, and comes to its end unless a later lapse overtakes it.
    Compare(u8),
    CaughtUp(u8),
    Join(u8, u8),
    Leave(u8),
    Gain(u8, u8),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let peer = || 0u8..4;
    prop_oneof![
        4 => (1u64..6).prop_map(Step::Write),
        6 => (peer(), 0u64..8).prop_map(|(p, n)| Step::Stream(p, n)),
        3 => (peer(), 0u64..8).prop_map(|(p, n)| Step::Lapse(p, n)),
        2 => peer().prop_map(Step::Compare),
        2 => peer().prop_map(Step::CaughtUp),
        1 => (peer(), peer()).prop_map(|(p, from)| Step::Join(p, from)),
        1 => peer().prop_map(Step::Leave),
        1 => (peer(), peer()).prop_map(|(p, from)| Step::Gain(p, from)),
        1 => Just(Step::Restart),
    ]
}

type Has = BTreeSet<u64>;

struct World {
    delivery: Delivery,
    epoch: Epoch,
    head: Sequence,
    has: BTreeMap<NodeId, Has>,
    comparing: BTreeMap<NodeId, (Sequence, Has)>,
}

fn node(peer: u8) -> NodeId {
    NodeId(u128::from(peer) + 2)
}

impl World {
    fn new() -> Self {
        let peers = [node(0), node(1)];
        let mut delivery = Delivery::new(Sequence(0), Epoch(1));
        delivery.set_peers(peers);
        let has = peers.map(|peer| (peer, Has::new())).into();
        Self { delivery, epoch: Epoch(1), head: Sequence(0), has, comparing: BTreeMap::new() }
    }

    fn act(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Write(count) => self.head = Sequence(self.head.0 + count),
            Step::Stream(peer, count) => self.stream(node(peer), count)?,
            Step::Lapse(peer, bound) => {
                self.delivery.lapse(node(peer), Sequence(self.head.0.saturating_sub(bound)));
            }
            Step::Compare(peer) => {
                if let Some(lapse) = self.delivery.lapsed(node(peer)) {
                    self.comparing.insert(node(peer), (lapse.through, (1..=self.head.0).collect()));
                }
            }
            Step::CaughtUp(peer) => self.catch_up(node(peer)),
            Step::Join(peer, from) if !self.has.contains_key(&node(peer)) => self.fill(node(peer), node(from), false),
            Step::Gain(peer, from) if peer != from && self.has.contains_key(&node(peer)) => self.fill(node(peer), node(from), true),
            Step::Leave(peer) => {
                self.has.remove(&node(peer));
                self.comparing.remove(&node(peer));
                self.delivery.set_peers(self.has.keys().copied());
            }
            Step::Restart => self.restart(),
            Step::Join(..) | Step::Gain(..) => {}
        }
        Ok(())
    }

    fn stream(&mut self, peer: NodeId, count: u64) -> Result<(), TestCaseError> {
        let trimmed = self.delivery.trim(self.head);
        if let (Some((pass, from)), Some(has)) = (self.delivery.resume(peer), self.has.get_mut(&peer)) {
            prop_assert!(from >= trimmed, "the log no longer has what the stream is to send");
            let through = Sequence((from.0 + count).min(self.head.0.max(from.0)));
            has.extend(from.0 + 1..=through.0);
            self.delivery.acknowledge(peer, pass, through, self.epoch);
        }
        Ok(())
    }

    fn catch_up(&mut self, peer: NodeId) {
        if let (Some((through, found)), Some(has)) = (self.comparing.remove(&peer), self.has.get_mut(&peer)) {
            has.extend(found);
            self.delivery.caught_up(peer, through);
        }
    }

    /// A peer is filled by another, and with that has no more than it.
    fn fill(&mut self, peer: NodeId, from: NodeId, gains: bool) {
        let Some(has) = self.has.get(&from).cloned() else { return };
        self.has.insert(peer, has);
        self.comparing.remove(&peer);
        self.delivery.set_peers(self.has.keys().copied());
        if gains {
            self.epoch = Epoch(self.epoch.0 + 1);
            self.delivery.adopt(self.epoch, [peer]);
        }
    }

    fn restart(&mut self) {
        let trimmed = self.delivery.trim(self.head);
        let places = self.delivery.peers().collect();
        self.delivery = Delivery::new(trimmed, self.epoch);
        self.delivery.set_peers(self.has.keys().copied());
        self.delivery.restore(&places);
        self.comparing.clear();
    }

    fn are_at_every_peer(&self, through: Sequence) -> bool {
        self.has.values().all(|has| (1..=through.0).all(|operation| has.contains(&operation)))
    }
}

fn run(steps: &[Step], through: fn(&mut Delivery, Sequence) -> Sequence) -> Result<bool, TestCaseError> {
    let mut world = World::new();
    for step in steps {
        world.act(step)?;
        let through = through(&mut world.delivery, world.head);
        if !world.are_at_every_peer(through) {
            return Ok(false);
        }
    }
    Ok(true)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn e5_what_counts_as_delivered_is_at_every_peer(steps in prop::collection::vec(step(), 0..60)) {
        prop_assert!(run(&steps, Delivery::delivered)?);
    }
}

#[test]
fn e7_a_promise_that_rested_on_what_may_be_trimmed_would_be_caught() {
    let steps = [Step::Write(5), Step::Stream(0, 5), Step::Lapse(0, 0), Step::Lapse(1, 2)];
    assert!(matches!(run(&steps, Delivery::delivered), Ok(true)));
    let steps = [&steps[..3], &[Step::Write(1), Step::Lapse(1, 2)]].concat();
    assert!(matches!(run(&steps, |delivery, head| { delivery.trim(head) }), Ok(false)));
}
