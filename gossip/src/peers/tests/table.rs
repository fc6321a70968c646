use super::*;
use crate::health::ClockVerdict;

fn peer(node: u128, liveness: Liveness, state: LinkState, round_trip_ms: Option<u64>) -> (NodeId, Peer) {
    let Profile { identity, zone, store, incarnation, address } = profile(node, "eu-west", 1);
    let link = LinkHealth { state, ..LinkHealth::default() };
    let round_trip = round_trip_ms.map(ms);
    let peer = Peer {
        identity,
        address,
        zone,
        store,
        incarnation,
        liveness,
        gateway: false,
        round_trip,
        link,
        clock_offset_ms: None,
        hedge_after: ms(9),
    };
    (NodeId(node), peer)
}

fn table() -> PeerTable {
    let peers = [
        peer(2, Liveness::Alive, LinkState::Healthy, Some(80)),
        peer(3, Liveness::Alive, LinkState::Healthy, Some(20)),
        peer(4, Liveness::Alive, LinkState::Silent, Some(1)),
        peer(5, Liveness::Down, LinkState::Disconnected, Some(1)),
        peer(6, Liveness::Suspect, LinkState::Healthy, Some(50)),
        peer(7, Liveness::Suspect, LinkState::Disconnected, None),
        peer(8, Liveness::Alive, LinkState::Healthy, None),
    ];
    PeerTable { peers: peers.into_iter().collect(), clock: ClockVerdict::Disputed { ms: 120 }, ..PeerTable::empty(NodeId(1)) }
}

#[test]
fn m8_the_nearest_healthy_link_is_asked_first_and_the_dead_last() {
    let nodes: Vec<NodeId> = [99, 5, 7, 4, 8, 2, 6, 3, 1].map(NodeId).to_vec();
    let expected = [1, 3, 6, 2, 8, 4, 7, 5, 99].map(NodeId);
    assert_eq!(table().rank(&nodes), expected);
}

#[test]
fn the_table_reads_as_json_with_ids_in_hexadecimal_and_units_in_names() {
    let json = serde_json::to_value(table()).expect("serialises");
    assert_eq!(json["me"], "00000000000000000000000000000001");
    let first = &json["peers"][0];
    assert_eq!(first["node"], "00000000000000000000000000000002");
    assert_eq!(first["region"], "eu-west");
    assert_eq!(first["liveness"], "alive");
    assert_eq!(first["round_trip_micros"], 80_000);
    assert_eq!(first["link"]["state"], "healthy");
    assert_eq!(json["clock"], serde_json::json!({ "verdict": "disputed", "ms": 120 }));
}

#[test]
fn numbers_alone_wake_nobody() {
    let (before, mut after) = (table(), table());
    after.peers.get_mut(&NodeId(2)).expect("it is there").round_trip = Some(ms(81));
    assert!(!after.differs(&before));
    after.peers.get_mut(&NodeId(2)).expect("it is there").link.state = LinkState::Lossy;
    assert!(after.differs(&before));
}
