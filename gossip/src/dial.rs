//! Keeping connected: to every known peer, and to the seeds until somebody is known (a full mesh).

use std::sync::Arc;
use std::time::Duration;

use isochrone_ident::NodeId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::sleep;
use tracing::{debug, info};

use crate::greet::{self, GreetError};
use crate::links::Link;
use crate::peers::Liveness;
use crate::shared::{Core, lock};
use crate::wire::{CloseCode, Traffic};

/// Waits that double, with jitter, between two bounds.
struct Backoff {
    rng: StdRng,
    next: Duration,
    min: Duration,
    max: Duration,
}

impl Backoff {
    fn new(seed: u64, bounds: &crate::Bounds) -> Self {
        let min = bounds.backoff_min;
        Self { rng: StdRng::seed_from_u64(seed), next: min, min, max: bounds.backoff_max.max(min) }
    }

    fn reset(&mut self) {
        self.next = self.min;
    }

    /// Half to all of the next wait.
    fn wait(&mut self) -> Duration {
        let wait = self.next.mul_f64(self.rng.random_range(0.5..=1.0));
        self.next = (self.next * 2).min(self.max);
        wait
    }
}

fn seed_for(core: &Core, whom: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(whom, core.process)
}

/// Dials the addresses of a name, one after the other.
pub(crate) async fn dial_name(core: &Arc<Core>, name: &str, traffic: Traffic, expect: Option<NodeId>) -> Result<Arc<Link>, GreetError> {
    let addresses = core.sockets.resolve(name).await.map_err(|e| GreetError::Address(format!("{name}: {e}")))?;
    let mut outcome = Err(GreetError::Address(format!("{name} has no address other than ours")));
    let ours = core.endpoint.local_addr().ok();
    for address in addresses.into_iter().filter(|address| Some(*address) != ours) {
        outcome = greet::dial(core, address, traffic, expect).await;
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// Sees to it that every peer in the table has a task which keeps it connected.
pub(crate) fn keep_all(core: &Arc<Core>) {
    let table = core.table.load();
    let mut dialing = lock(&core.dialing);
    for (node, peer) in &table.peers {
        if peer.liveness != Liveness::Left && dialing.kept.insert(*node) {
            tokio::spawn(keep(core.clone(), *node));
        }
    }
}

/// Keeps a peer connected for as long as it is in the table and has not left. A connection that the peer made counts.
async fn keep(core: Arc<Core>, node: NodeId) {
    let mut backoff = Backoff::new(seed_for(&core, &node.0.to_le_bytes()), &core.options.bounds);
    while !core.has_left() {
        let known = core.table.load().get(node).filter(|peer| peer.liveness != Liveness::Left).map(|peer| peer.address.clone());
        let Some(address) = known else { break };
        if let Some(link) = core.best(node, Traffic::Foreground) {
            link.connection.closed().await;
            backoff.reset();
            // Lets the peer's own dialing get in first half of the time, and a link that took this one's place be seen.
            sleep(backoff.wait()).await;
            continue;
        }
        match dial_name(&core, &address, Traffic::Foreground, Some(node)).await {
            Ok(_) => backoff.reset(),
            Err(error) => {
                note_failure(&core, node, &error);
                sleep(backoff.wait()).await;
            }
        }
    }
    let mut dialing = lock(&core.dialing);
    dialing.kept.remove(&node);
    dialing.failures.remove(&node);
}

fn note_failure(core: &Core, node: NodeId, error: &GreetError) {
    debug!(peer = %node, %error, "not connected");
    if matches!(
        error,
        GreetError::ByPeer(CloseCode::NodeIdTaken | CloseCode::NotAdmitted | CloseCode::StoreRetired | CloseCode::WrongCluster)
    ) {
        core.note_refused("by-peer", &node.to_string(), &error.to_string());
    }
    if core.best(node, Traffic::Foreground).is_none() {
        lock(&core.dialing).failures.insert(node, error.to_string());
        core.announce_links();
    }
}

/// Begins to make the bulk connection to a peer, unless that is under way.
pub(crate) fn begin_bulk(core: &Arc<Core>, node: NodeId) {
    let Some(address) = core.table.load().get(node).map(|peer| peer.address.clone()) else { return };
    if !lock(&core.dialing).bulk.insert(node) {
        return;
    }
    let core = core.clone();
    tokio::spawn(async move {
        let outcome = dial_name(&core, &address, Traffic::Bulk, Some(node)).await;
        lock(&core.dialing).bulk.remove(&node);
        if let Err(error) = outcome {
            debug!(peer = %node, %error, "no bulk connection");
            sleep(core.options.bounds.backoff_min).await;
            core.announce_links();
        }
    });
}

/// Tries a seed for ever: until it is connected, and again when it no longer is. What it may become to us:
///
/// - a peer: then it is in the table, and [`keep`] looks after it; the seed is only looked at again when that has failed for a while;
/// - ourselves: tried seldom, as a name may come to mean somebody else.
pub(crate) async fn seed(core: Arc<Core>, name: String) {
    let mut backoff = Backoff::new(seed_for(&core, name.as_bytes()), &core.options.bounds);
    let patience = core.options.bounds.idle_timeout + core.options.bounds.backoff_max;
    let mut told = false;
    // The same list of seeds is often given to all daemons.
    let ourselves = name == core.me.address;
    while !ourselves && !core.has_left() {
        match dial_name(&core, &name, Traffic::Foreground, None).await {
            Ok(link) => {
                let node = link.node();
                drop(link);
                (told, backoff.next) = (false, backoff.min);
                while let Some(link) = core.best(node, Traffic::Foreground) {
                    link.connection.closed().await;
                    sleep(patience).await;
                }
            }
            Err(GreetError::Refused { code: CloseCode::OwnNodeId, .. }) => sleep(core.options.bounds.deadline_max).await,
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    info!(seed = name, %error, "seed not reached; it is tried again until it is");
                }
                sleep(backoff.wait()).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_with_jitter_up_to_the_bound() {
        let bounds = crate::Bounds::default();
        let mut backoff = Backoff::new(1, &bounds);
        let waits: Vec<Duration> = (0..10).map(|_| backoff.wait()).collect();
        assert!(waits[0] >= bounds.backoff_min / 2 && waits[0] <= bounds.backoff_min);
        assert!(waits[9] >= bounds.backoff_max / 2 && waits[9] <= bounds.backoff_max);
        backoff.reset();
        assert!(backoff.wait() <= bounds.backoff_min);
    }
}
