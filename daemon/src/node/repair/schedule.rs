//! When a node compares itself with which replica: in turn, at rejoin, after a move (E6).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use isochrone_ident::{NodeId, Slot};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use super::compare::Tally;
use crate::node::core::Core;

/// About so long after a peer is back, or a move is over, the comparison begins: what the log keeps comes first.
const SOON: Duration = Duration::from_secs(1);
/// A peer whose writes are so far behind is still delivering its log; there is nothing to find yet.
const DELIVERING: Duration = Duration::from_secs(2);

/// When each peer's turn is.
struct Turns {
    rng: StdRng,
    interval: (Duration, Duration),
    peers: BTreeMap<NodeId, Turn>,
}

struct Turn {
    at: Instant,
    /// Not put off beyond this.
    latest: Instant,
    connected: bool,
}

impl Turns {
    fn new(seed: u64, interval: (Duration, Duration)) -> Self {
        Self { rng: StdRng::seed_from_u64(seed ^ 0x007e_9a12), interval, peers: BTreeMap::new() }
    }

    fn pause(&mut self) -> Duration {
        let (shortest, longest) = self.interval;
        if shortest < longest { self.rng.random_range(shortest..longest) } else { shortest }
    }

    /// Takes note of who is there. One that has just come back is due soon.
    fn look(&mut self, now: Instant, peers: &[(NodeId, bool)]) {
        self.peers.retain(|peer, _| peers.iter().any(|(node, _)| node == peer));
        for &(peer, connected) in peers {
            let was_connected = self.peers.get(&peer).map(|turn| turn.connected);
            if connected && was_connected != Some(true) {
                self.hasten(now, peer);
            } else if was_connected.is_none() {
                let at = now + self.pause();
                self.peers.insert(peer, Turn { at, latest: at, connected });
            }
            if let Some(turn) = self.peers.get_mut(&peer) {
                turn.connected = connected;
            }
        }
    }

    fn hasten(&mut self, now: Instant, peer: NodeId) {
        let at = now + SOON.mul_f64(self.rng.random_range(0.5..1.5));
        let latest = at + self.interval.1;
        let turn = self.peers.entry(peer).or_insert(Turn { at, latest, connected: true });
        turn.at = turn.at.min(at);
        turn.latest = turn.latest.max(latest);
    }

    /// A move is over: everybody is due soon.
    fn hasten_all(&mut self, now: Instant) {
        let peers: Vec<NodeId> = self.peers.keys().copied().collect();
        peers.into_iter().for_each(|peer| self.hasten(now, peer));
    }

    /// The peer that is due next, and when.
    fn next(&self) -> Option<(NodeId, Instant, Instant)> {
        self.peers.iter().map(|(&peer, turn)| (peer, turn.at, turn.latest)).min_by_key(|(peer, at, _)| (*at, *peer))
    }

    fn put_off(&mut self, peer: NodeId, by: Duration) {
        if let Some(turn) = self.peers.get_mut(&peer) {
            turn.at += by;
        }
    }

    fn done(&mut self, now: Instant, peer: NodeId) {
        let at = now + self.pause();
        if let Some(turn) = self.peers.get_mut(&peer) {
            (turn.at, turn.latest) = (at, at);
        }
    }
}

/// Compares this node with the other replicas in turn, for ever.
pub(crate) async fn rounds(core: Arc<Core>) {
    let mut turns = Turns::new(core.environment.seed, core.options.repair.interval);
    let (mut peers_changed, mut view_changed) = (core.mesh.changed(), core.view_changed.subscribe());
    let mut was_moving = false;
    loop {
        peers_changed.borrow_and_update();
        view_changed.borrow_and_update();
        let now = Instant::now();
        let peers: Vec<(NodeId, bool)> = core.others().into_iter().map(|peer| (peer, core.mesh.is_connected(peer))).collect();
        turns.look(now, &peers);
        let is_moving = core.view.load().placement.eventual.is_moving();
        if was_moving && !is_moving {
            turns.hasten_all(now);
        }
        was_moving = is_moving;
        match turns.next() {
            Some((peer, at, latest)) if at <= now => {
                if is_delivering(&core, peer) && now < latest {
                    turns.put_off(peer, SOON);
                } else {
                    round(&core, peer).await;
                    turns.done(Instant::now(), peer);
                }
            }
            next => {
                let until = next.map_or_else(|| now + core.options.repair.interval.1, |(_, at, _)| at);
                tokio::select! {
                    biased;
                    () = tokio::time::sleep_until(until) => {}
                    _ = peers_changed.changed() => {}
                    changed = view_changed.changed() => if changed.is_err() { return },
                }
            }
        }
    }
}

/// Whether a peer is there and has yet to send much of what it took.
fn is_delivering(core: &Core, peer: NodeId) -> bool {
    let sent_through = super::lock(&core.horizon).heard(peer).sent_through;
    let behind_ms = core.now().millis().saturating_sub(sent_through.wall().millis());
    core.mesh.is_connected(peer) && u128::from(behind_ms) > DELIVERING.as_millis()
}

/// One comparison with one peer.
async fn round(core: &Core, peer: NodeId) {
    let outcome = try_round(core, peer).await;
    let how = match &outcome {
        Ok(Some(tally)) if tally.keys_differing > 0 => "different",
        Ok(Some(_)) => "equal",
        Ok(None) => return,
        Err(_) => "failed",
    };
    metrics::counter!("isochrone_repair_rounds_total", "outcome" => how).increment(1);
    match outcome {
        Ok(Some(tally)) if tally.keys_differing > 0 => {
            tracing::info!(%peer, keys = tally.keys_differing, pulled = tally.keys_pulled, "replicas differed");
        }
        Err(reason) => tracing::debug!(%peer, reason, "replicas could not be compared"),
        Ok(_) => {}
    }
}

async fn try_round(core: &Core, peer: NodeId) -> Result<Option<Tally>, String> {
    let asking = core.asking(peer, None, false);
    if !core.mesh.is_connected(peer) || !Slot::all().any(|slot| asking.scope.is_shared(slot)) {
        return Ok(None);
    }
    let mut tally = Tally::default();
    let slots = core.differing_slots(&asking, &mut tally).await?;
    tally.add(&core.mend_slots(&asking, &slots).await?);
    Ok(Some(tally))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn turns() -> Turns {
        Turns::new(1, (Duration::from_secs(30), Duration::from_secs(60)))
    }

    #[test]
    fn e6_each_peer_has_its_turn_within_the_interval() {
        let (mut turns, now) = (turns(), Instant::now());
        turns.look(now, &[(A, false), (B, false)]);
        for _ in 0..100 {
            let (peer, at, _) = turns.next().expect("somebody");
            turns.done(at, peer);
            let pause = turns.peers[&peer].at - at;
            assert!(pause >= Duration::from_secs(30) && pause < Duration::from_secs(60));
        }
    }

    #[test]
    fn e6_a_peer_that_is_back_is_due_soon() {
        let (mut turns, now) = (turns(), Instant::now());
        turns.look(now, &[(A, true), (B, false)]);
        turns.done(now, A);
        turns.look(now, &[(A, true), (B, true)]);
        let (peer, at, latest) = turns.next().expect("somebody");
        assert_eq!(peer, B);
        assert!(at <= now + SOON * 2 && latest >= at + Duration::from_secs(60));
        turns.look(now, &[(A, true)]);
        assert_eq!(turns.next().map(|(peer, ..)| peer), Some(A), "who is no member has no turn");
    }

    #[test]
    fn e6_after_a_move_everybody_is_due_soon() {
        let (mut turns, now) = (turns(), Instant::now());
        turns.look(now, &[(A, true), (B, true)]);
        turns.done(now, A);
        turns.done(now, B);
        turns.hasten_all(now);
        assert!(turns.peers.values().all(|turn| turn.at <= now + SOON * 2));
    }
}
