//! The tasks that keep a mesh going: incoming connections, membership's timers, path statistics.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use crate::health::PathSample;
use crate::links::Link;
use crate::peers::Liveness;
use crate::shared::{Core, lock};
use crate::wire::Traffic;
use crate::{dial, greet, metrics};

/// How often path statistics are read (M6): an unhealthy link is to be seen within a second.
const PATHS_EVERY: Duration = Duration::from_millis(200);
/// How often admission is asked for again and gauges are set, in rounds of [`PATHS_EVERY`].
const SLOW_EVERY: u64 = 5;

/// How long membership's last datagrams have to get out.
const FAREWELL: Duration = Duration::from_millis(20);

/// Takes incoming connections until the mesh is left.
pub(crate) async fn accept(core: Arc<Core>) {
    while let Some(incoming) = core.endpoint.accept().await {
        let Ok(permit) = core.inbound.handshakes.clone().try_acquire_owned() else {
            core.note_refused("too-many-handshakes", &incoming.remote_address().ip().to_string(), "too many handshakes at once");
            incoming.refuse();
            continue;
        };
        let core = core.clone();
        tokio::spawn(async move {
            greet::accept(&core, incoming).await;
            drop(permit);
        });
    }
}

/// Drives membership and the path statistics until the mesh is left.
pub(crate) async fn run(core: Arc<Core>) {
    let mut left = core.left.subscribe();
    let mut rounds = interval(PATHS_EVERY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut round = 0;
    loop {
        let due = core.started + lock(&core.peers).next_timeout();
        tokio::select! {
            biased;
            _ = left.wait_for(|left| *left) => return,
            () = sleep_until(due) => fire(&core),
            _ = rounds.tick() => {
                round += 1;
                observe(&core);
                if round % SLOW_EVERY == 0 {
                    ask_admission(&core);
                    show(&core);
                }
            }
            () = core.timer_moved.notified() => {}
        }
        dial::keep_all(&core);
    }
}

fn fire(core: &Core) {
    let wall = (core.options.wall)();
    core.with_peers(|peers, now| peers.timeout(now, wall));
}

/// Tells membership what QUIC and the callers have seen of each link (M6).
fn observe(core: &Core) {
    let links = lock(&core.links).in_use();
    let samples: Vec<_> = links.iter().map(|link| (link.clone(), sample(link))).collect();
    let tallies = std::mem::take(&mut *lock(&core.tallies));
    core.with_peers(|peers, now| {
        for (link, sample) in samples.iter().filter(|(link, _)| link.traffic == Traffic::Foreground) {
            peers.path(now, link.node(), *sample);
        }
        for (node, tally) in &tallies {
            tally.outcomes.iter().for_each(|outcome| peers.call_ended(now, *node, *outcome));
        }
    });
}

/// Sets the gauges of each peer.
fn show(core: &Core) {
    let table = core.table.load();
    crate::peers::notice::show(&table);
    for liveness in [Liveness::Alive, Liveness::Suspect, Liveness::Down, Liveness::Left] {
        let count = table.peers.values().filter(|peer| peer.liveness == liveness).count();
        metrics::members(liveness, count);
    }
    for (node, peer) in &table.peers {
        let name = node.to_string();
        if let Some(offset_ms) = peer.clock_offset_ms {
            metrics::clock_offset(&name, offset_ms);
        }
        if let Some(round_trip) = peer.round_trip {
            metrics::round_trip(&name, round_trip);
        }
    }
}

fn sample(link: &Link) -> PathSample {
    let stats = link.connection.stats();
    metrics::bytes(link.take_bytes(&stats));
    PathSample { rtt: stats.path.rtt, sent_packets: stats.path.sent_packets, lost_packets: stats.path.lost_packets, link: link.number }
}

/// Forgets peers that the council has removed meanwhile, and closes their connections (M2).
fn ask_admission(core: &Core) {
    for (node, peer) in &core.table.load_full().peers {
        if let Err(reason) = core.admission.admit(&peer.identity) {
            core.expel(*node, &reason);
        }
    }
    let links: Vec<_> = lock(&core.links).all().cloned().collect();
    for link in links {
        if let Err(reason) = core.admission.admit_store(&link.profile.identity, link.profile.store) {
            core.expel(link.node(), &reason);
        }
    }
}

/// Runs what leaving needs: tells the peers, then closes everything, within the bound.
pub(crate) async fn leave(core: &Core) {
    let until = Instant::now() + core.options.bounds.leave_timeout;
    if core.left.send_replace(true) {
        return;
    }
    core.with_peers(|peers, now| peers.leave(now));
    // A connection that is closed sends nothing more: let the datagrams out first.
    sleep(FAREWELL).await;
    core.endpoint.close(crate::CloseCode::Leaving.code(), b"leaving");
    let _ = tokio::time::timeout_at(until, core.endpoint.wait_idle()).await;
}
