//! The connections to each peer, and which of several is used (rules M2, M7).
//!
//! Two daemons that find each other dial each other, often at the same time. Both ends must then keep the same connection
//! without talking about it, so the choice is a function of what both know:
//!
//! - two processes under one node id: the one with the newer incarnation is the daemon, the other is refused (M2);
//! - two connections dialed by the same side: the later one;
//! - one dialed by each side at about the same time: the one that the lower node id dialed;
//! - else the later one: its dialer had reason to believe that there was none.
//!
//! The one not chosen stays open for a while, so that what is under way on it can end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use isochrone_ident::{Incarnation, NodeId};

use crate::wire::{CloseCode, Profile, Traffic};

/// A greeted connection to a peer.
#[derive(Debug)]
pub(crate) struct Link {
    /// Counts this mesh's links: no two are equal.
    pub(crate) number: u64,
    pub(crate) connection: quinn::Connection,
    pub(crate) profile: Profile,
    pub(crate) traffic: Traffic,
    pub(crate) claim: Claim,
    /// What was last counted into metrics: bytes sent, bytes received.
    pub(crate) counted: [AtomicU64; 2],
}

impl Link {
    pub(crate) fn node(&self) -> NodeId {
        self.profile.identity.node
    }

    pub(crate) fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    pub(crate) fn close(&self, code: CloseCode, reason: &str) {
        self.connection.close(code.code(), crate::wire::clipped(reason).as_bytes());
    }

    /// The bytes sent and received since this was last asked.
    pub(crate) fn take_bytes(&self, stats: &quinn::ConnectionStats) -> [u64; 2] {
        let totals = [stats.udp_tx.bytes, stats.udp_rx.bytes];
        [0, 1].map(|way| totals[way].saturating_sub(self.counted[way].swap(totals[way], Ordering::Relaxed)))
    }
}

/// What the choice between two connections to one peer goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The peer's process.
    pub(crate) process: u64,
    /// The peer's incarnation.
    pub(crate) incarnation: Incarnation,
    /// Who dialed.
    pub(crate) dialer: NodeId,
    /// The dialer's count of its connections.
    pub(crate) serial: u64,
    /// When the connection was greeted, since the mesh started.
    pub(crate) since: Duration,
}

/// The choice between a connection that is there and a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Use the new one.
    New,
    /// Go on using the old one.
    Old,
    /// The peer has restarted: the old one is dead.
    Restarted,
    /// Another process has the node id: refuse the new one (M2).
    Taken,
}

fn judge(old: &Claim, new: &Claim, simultaneous: Duration) -> Verdict {
    if old.process != new.process {
        return if new.incarnation > old.incarnation { Verdict::Restarted } else { Verdict::Taken };
    }
    let new_wins = if old.dialer == new.dialer {
        new.serial > old.serial
    } else if new.since.abs_diff(old.since) < simultaneous {
        new.dialer < old.dialer
    } else {
        true
    };
    if new_wins { Verdict::New } else { Verdict::Old }
}

/// All connections, by peer. The first of a peer's vector is the one to use, spares come after it.
#[derive(Debug)]
pub(crate) struct Links {
    by_peer: BTreeMap<(NodeId, Traffic), Vec<Arc<Link>>>,
    simultaneous: Duration,
}

/// What became of a new connection.
#[derive(Debug)]
pub(crate) enum Taken {
    /// It was added. These are of no more use: at once, or after what is under way has ended.
    Added { dead: Vec<Arc<Link>>, spare: Vec<Arc<Link>> },
    /// Another process has the node id.
    Refused,
    /// There are as many connections as there may be.
    Full,
}

/// Whether a peer's new connection would be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It would.
    Welcome,
    /// Another process has the node id.
    Taken,
}

impl Links {
    /// None yet. Connections greeted within `simultaneous` of each other count as dialed at the same time.
    pub(crate) fn new(simultaneous: Duration) -> Self {
        Self { by_peer: BTreeMap::new(), simultaneous }
    }

    /// Whether another process, which is not older, is connected under the peer's node id (M2).
    pub(crate) fn judge(&self, link: &Link) -> Standing {
        let taken = |other: &Arc<Link>| other.is_open() && judge(&other.claim, &link.claim, self.simultaneous) == Verdict::Taken;
        if self.of(link.node()).any(taken) { Standing::Taken } else { Standing::Welcome }
    }

    /// Adds a greeted connection, or refuses it.
    pub(crate) fn add(&mut self, link: Arc<Link>, connections_max: usize) -> Taken {
        if self.judge(&link) == Standing::Taken {
            return Taken::Refused;
        }
        if self.all().count() >= connections_max {
            return Taken::Full;
        }
        let (node, simultaneous) = (link.node(), self.simultaneous);
        let restarted = |other: &Arc<Link>| judge(&other.claim, &link.claim, simultaneous) == Verdict::Restarted;
        let dead: Vec<_> = self.of(node).filter(|other| restarted(other)).cloned().collect();
        let links = self.by_peer.entry((node, link.traffic)).or_default();
        links.retain(|other| other.is_open() && !restarted(other));
        let wins = links.first().is_none_or(|old| judge(&old.claim, &link.claim, simultaneous) == Verdict::New);
        links.insert(if wins { 0 } else { links.len() }, link);
        Taken::Added { dead, spare: links[1..].to_vec() }
    }

    fn of(&self, node: NodeId) -> impl Iterator<Item = &Arc<Link>> {
        [Traffic::Foreground, Traffic::Bulk].into_iter().filter_map(move |traffic| self.by_peer.get(&(node, traffic))).flatten()
    }

    /// The connection to use.
    pub(crate) fn best(&self, node: NodeId, traffic: Traffic) -> Option<Arc<Link>> {
        self.by_peer.get(&(node, traffic))?.iter().find(|link| link.is_open()).cloned()
    }

    /// The open foreground connection to whoever advertises that address.
    pub(crate) fn at(&self, address: &str) -> Option<Arc<Link>> {
        self.all().find(|link| link.traffic == Traffic::Foreground && link.profile.address == address && link.is_open()).cloned()
    }

    /// Forgets a connection that has ended. Tells whether the peer has no foreground connection any more.
    pub(crate) fn remove(&mut self, link: &Link) -> bool {
        let place = (link.node(), link.traffic);
        let Some(links) = self.by_peer.get_mut(&place) else { return false };
        links.retain(|other| other.number != link.number);
        if links.is_empty() {
            self.by_peer.remove(&place);
        }
        link.traffic == Traffic::Foreground && !self.by_peer.contains_key(&place)
    }

    /// All connections, in an order that does not depend on chance.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Link>> {
        self.by_peer.values().flatten()
    }

    /// The connections in use, one for each peer and kind of traffic.
    pub(crate) fn in_use(&self) -> Vec<Arc<Link>> {
        self.by_peer.values().filter_map(|links| links.iter().find(|link| link.is_open())).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(3);

    fn claim(dialer: u128, serial: u64, at_ms: u64) -> Claim {
        Claim { process: 1, incarnation: Incarnation(5), dialer: NodeId(dialer), serial, since: Duration::from_millis(at_ms) }
    }

    #[test]
    fn of_two_simultaneous_connections_both_ends_choose_the_same() {
        let (by_low, by_high) = (claim(1, 7, 1000), claim(2, 3, 1040));
        assert_eq!(judge(&by_low, &by_high, WINDOW), Verdict::Old);
        assert_eq!(judge(&by_high, &by_low, WINDOW), Verdict::New);
    }

    #[test]
    fn a_connection_dialed_much_later_wins_whoever_dialed() {
        assert_eq!(judge(&claim(1, 1, 1000), &claim(2, 1, 9000), WINDOW), Verdict::New);
        assert_eq!(judge(&claim(2, 1, 1000), &claim(1, 1, 9000), WINDOW), Verdict::New);
    }

    #[test]
    fn of_two_connections_by_one_dialer_the_later_one_wins() {
        assert_eq!(judge(&claim(1, 1, 1000), &claim(1, 2, 1001), WINDOW), Verdict::New);
        assert_eq!(judge(&claim(1, 2, 1001), &claim(1, 1, 1002), WINDOW), Verdict::Old);
    }

    #[test]
    fn m2_a_second_process_is_refused_unless_its_incarnation_is_newer() {
        let old = claim(2, 1, 1000);
        let twin = Claim { process: 2, ..claim(2, 9, 5000) };
        assert_eq!(judge(&old, &twin, WINDOW), Verdict::Taken);
        let older = Claim { incarnation: Incarnation(4), ..twin };
        assert_eq!(judge(&old, &older, WINDOW), Verdict::Taken);
        let restarted = Claim { incarnation: Incarnation(6), ..twin };
        assert_eq!(judge(&old, &restarted, WINDOW), Verdict::Restarted);
    }
}
