//! The snapshot that everybody reads: who there is, how alive, how far, how well connected.

use std::collections::BTreeMap;
use std::time::Duration;

use isochrone_ident::{Incarnation, NodeId, Region, StoreId, Zone};
use serde::{Deserialize, Serialize, Serializer};

use crate::PeerIdentity;
use crate::health::{ClockVerdict, LinkHealth};

/// How a member seems to this node (M5): a hint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Liveness {
    /// It answers.
    Alive,
    /// It does not answer, or has not been heard of yet; it still counts as a member.
    Suspect,
    /// It is held for dead.
    Down,
    /// It said that it goes.
    Left,
}

impl Liveness {
    /// The word for it in logs, metrics and answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Down => "down",
            Self::Left => "left",
        }
    }
}

/// One other member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Peer {
    /// Cluster, region and node id.
    #[serde(flatten, serialize_with = "identity")]
    pub identity: PeerIdentity,
    /// Where it can be dialled, as host:port.
    pub address: String,
    /// Its zone in its region.
    pub zone: Option<Zone>,
    /// Its durable store; zero while only the council has told of it.
    #[serde(serialize_with = "as_text")]
    pub store: StoreId,
    /// Its start; zero while only the council has told of it.
    pub incarnation: Incarnation,
    /// How it seems.
    pub liveness: Liveness,
    /// Whether it speaks for its region in the gateways' pool, as far as known here.
    pub gateway: bool,
    /// The minimum round trip of the last minute, if there is a connection that measured it.
    #[serde(rename = "round_trip_micros", serialize_with = "as_micros")]
    pub round_trip: Option<Duration>,
    /// How well the link to it works.
    pub link: LinkHealth,
    /// How far its wall clock is ahead of ours, in milliseconds; negative when it is behind.
    pub clock_offset_ms: Option<i64>,
    /// How long to wait for it before a read is hedged (M8).
    #[serde(rename = "hedge_after_micros", serialize_with = "in_micros")]
    pub hedge_after: Duration,
}

impl Peer {
    /// Whether anything but the numbers differs: what wakes those who watch the table.
    pub(crate) fn differs(&self, other: &Self) -> bool {
        let visible = |peer: &Self| (peer.liveness, peer.link.state, peer.gateway, peer.incarnation, peer.store, peer.round_trip.is_some());
        visible(self) != visible(other) || self.identity != other.identity || self.address != other.address || self.zone != other.zone
    }

    /// Where it stands in a ranking: usable and healthy, usable, suspected, gone; then by round trip, the unmeasured last.
    fn rank(&self) -> (u8, Duration, NodeId) {
        let class = match self.liveness {
            Liveness::Alive | Liveness::Suspect if self.link.is_healthy() => 0,
            Liveness::Alive => 1,
            Liveness::Suspect => 2,
            Liveness::Down | Liveness::Left => 3,
        };
        (class, self.round_trip.unwrap_or(Duration::MAX), self.identity.node)
    }
}

/// All other members as this node sees them. Cheap to share; replaced, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeerTable {
    /// This node; it is not among the peers.
    #[serde(serialize_with = "as_text")]
    pub me: NodeId,
    /// The others, by node id.
    #[serde(serialize_with = "values")]
    pub peers: BTreeMap<NodeId, Peer>,
    /// How this node's clock stands to theirs.
    pub clock: ClockVerdict,
    /// How far this node mistrusts its own view: 0 (not at all) to 8.
    pub doubt: u8,
    /// Whether this node speaks for its region in the gateways' pool.
    pub gateway: bool,
}

impl PeerTable {
    /// The table of a node that knows nobody.
    #[must_use]
    pub fn empty(me: NodeId) -> Self {
        Self { me, peers: BTreeMap::new(), clock: ClockVerdict::Unmeasured, doubt: 0, gateway: false }
    }

    /// That member, if it is known and not this node.
    #[must_use]
    pub fn get(&self, node: NodeId) -> Option<&Peer> {
        self.peers.get(&node)
    }

    /// The nodes in the order in which to ask them (M6, M8): this node first if it is among them, then those whose link is
    /// healthy by round trip, then those whose link is not, then the suspected without a link, then the dead and the unknown.
    #[must_use]
    pub fn rank(&self, nodes: &[NodeId]) -> Vec<NodeId> {
        let mut ranked = nodes.to_vec();
        ranked.sort_by_cached_key(|node| self.key(*node));
        ranked
    }

    fn key(&self, node: NodeId) -> (bool, (u8, Duration, NodeId)) {
        let unknown = (4, Duration::MAX, node);
        (node != self.me, self.peers.get(&node).map_or(unknown, Peer::rank))
    }

    /// Regions of the peers that are not dead, by name, each with how many.
    #[must_use]
    pub fn regions(&self) -> BTreeMap<Region, usize> {
        let mut regions = BTreeMap::new();
        for peer in self.peers.values().filter(|peer| matches!(peer.liveness, Liveness::Alive | Liveness::Suspect)) {
            *regions.entry(peer.identity.region.clone()).or_default() += 1;
        }
        regions
    }

    /// Whether anything but the numbers differs.
    pub(crate) fn differs(&self, other: &Self) -> bool {
        let verdict = |table: &Self| std::mem::discriminant(&table.clock);
        self.gateway != other.gateway
            || verdict(self) != verdict(other)
            || self.peers.len() != other.peers.len()
            || self.peers.iter().zip(&other.peers).any(|((node, peer), (other_node, other))| node != other_node || peer.differs(other))
    }
}

#[derive(Serialize)]
struct IdentityText<'a> {
    node: String,
    region: &'a str,
}

fn identity<S: Serializer>(identity: &PeerIdentity, serializer: S) -> Result<S::Ok, S::Error> {
    IdentityText { node: identity.node.to_string(), region: identity.region.as_str() }.serialize(serializer)
}

fn as_text<S: Serializer>(id: &impl std::fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn in_micros<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(micros(*duration))
}

fn as_micros<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(micros).serialize(serializer)
}

fn values<S: Serializer>(peers: &BTreeMap<NodeId, Peer>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(peers.values())
}
