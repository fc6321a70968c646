//! What an operator may want to read in the log or count.

use std::time::Duration;

use isochrone_ident::NodeId;
use metrics::{counter, describe_counter, describe_gauge, gauge};
use tracing::{info, warn};

use super::{Liveness, PeerTable};
use crate::health::LinkState;

const LIVENESS: &str = "isochrone_gossip_liveness_changes_total";
const LINKS: &str = "isochrone_gossip_link_changes_total";
const UNHEALTHY: &str = "isochrone_gossip_unhealthy_links";
const STOOD_STILL: &str = "isochrone_gossip_stood_still_total";
const REJOINED: &str = "isochrone_gossip_rejoined_total";
const DOUBT: &str = "isochrone_gossip_doubt";
const GATEWAY: &str = "isochrone_gossip_gateway";

/// Describes these metrics to the recorder that is installed.
pub(crate) fn describe() {
    describe_counter!(LIVENESS, "Changes of members' liveness as seen here, by what it became.");
    describe_counter!(LINKS, "Changes of links' state, by what it became.");
    describe_gauge!(UNHEALTHY, "Links to members that are not gone, but that routing avoids.");
    describe_counter!(STOOD_STILL, "How often this process could not run its timers for a while.");
    describe_counter!(REJOINED, "How often this node was held for dead by the others and came back.");
    describe_gauge!(DOUBT, "How far this node mistrusts its own view: 0 (not at all) to 8.");
    describe_gauge!(GATEWAY, "1 while this node speaks for its region in the gateways' pool.");
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Notice {
    /// A member was seen for the first time.
    Joined(NodeId, Liveness),
    /// A member started again.
    Restarted(NodeId),
    /// A member's liveness changed.
    Liveness(NodeId, Liveness),
    /// A link's state changed.
    Link(NodeId, LinkState),
    /// This node became a gateway, or ceased to be one.
    Gateway(bool),
    /// This process stood still for that long.
    StoodStill(Duration),
    /// The others held this node for dead, and it came back.
    Rejoined,
}

impl Notice {
    /// Writes it to the log and counts it.
    pub(crate) fn tell(&self) {
        match self {
            Self::Joined(node, liveness) => info!(%node, liveness = liveness.as_str(), "a member is known now"),
            Self::Restarted(node) => info!(%node, "a member has started again"),
            Self::Liveness(node, liveness) => tell_liveness(*node, *liveness),
            Self::Link(node, state) => tell_link(*node, *state),
            Self::Gateway(true) => info!("this node speaks for its region now"),
            Self::Gateway(false) => info!("this node no longer speaks for its region"),
            Self::StoodStill(lag) => {
                counter!(STOOD_STILL).increment(1);
                warn!(lag_ms = lag.as_millis(), "this process stood still; it doubts its own view for a while");
            }
            Self::Rejoined => {
                counter!(REJOINED).increment(1);
                warn!("the others held this node for dead; it has rejoined");
            }
        }
    }
}

fn tell_liveness(node: NodeId, liveness: Liveness) {
    counter!(LIVENESS, "liveness" => liveness.as_str()).increment(1);
    match liveness {
        Liveness::Alive | Liveness::Left => info!(%node, liveness = liveness.as_str(), "a member's liveness changed"),
        Liveness::Suspect | Liveness::Down => warn!(%node, liveness = liveness.as_str(), "a member's liveness changed"),
    }
}

fn tell_link(node: NodeId, state: LinkState) {
    counter!(LINKS, "state" => state.as_str()).increment(1);
    info!(%node, state = state.as_str(), "a link's state changed");
}

/// Sets the gauges that show this node's own standing.
pub(crate) fn show(table: &PeerTable) {
    let is_gone = |liveness| matches!(liveness, Liveness::Down | Liveness::Left);
    let unhealthy = table.peers.values().filter(|peer| !is_gone(peer.liveness) && !peer.link.is_healthy()).count();
    gauge!(UNHEALTHY).set(unhealthy as f64);
    gauge!(DOUBT).set(f64::from(table.doubt));
    gauge!(GATEWAY).set(f64::from(u8::from(table.gateway)));
}
