//! The mesh in virtual time: same seed, same packets; partitions heal; loss is survived.

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isochrone_gossip::simnet::{SimNet, one_way};
use isochrone_gossip::{Call, LinkShape};
use isochrone_ident::{Incarnation, NodeId};
use support::*;

async fn node(net: &SimNet, ca: &isochrone_gossip::certs::CertificatePem, id: u128, incarnation: u64) -> Node {
    let mut options = options(ca, id, &["seed:7946".to_owned()]);
    options.listen = sim_address(id);
    options.incarnation = Incarnation(incarnation);
    net.name("seed:7946", sim_address(1));
    start(options, net.host(ip(id))).await
}

async fn three(net: &SimNet) -> [Node; 3] {
    let ca = authority();
    let nodes = [node(net, &ca, 1, 1).await, node(net, &ca, 2, 1).await, node(net, &ca, 3, 1).await];
    until_meshed(&nodes.iter().collect::<Vec<_>>()).await;
    nodes
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(future)
}

async fn busy_minute(seed: u64) -> (u64, u128) {
    let net = SimNet::new(seed, LinkShape { one_way: Duration::from_millis(40), jitter_mean: Duration::from_millis(2), loss: 0.02 });
    let nodes = three(&net).await;
    for round in 0..60_u32 {
        let (from, to) = (&nodes[round as usize % 3], &nodes[(round as usize + 1) % 3]);
        let body = Bytes::from(vec![1; round as usize * 300]);
        let _ = from.mesh.call(to.id(), Call::new(ECHO, body, SECOND * 2).with_retries()).await;
        tokio::time::sleep(SECOND / 2).await;
    }
    net.trace()
}

#[test]
fn the_same_seed_gives_the_same_packets() {
    let (first, second, other) = (run(busy_minute(7)), run(busy_minute(7)), run(busy_minute(8)));
    assert_eq!(first, second);
    assert_ne!(first, other);
    assert!(first.0 > 1000, "{first:?}");
}

#[test]
fn round_trips_between_regions_are_measured_and_gossiped() {
    run(async {
        let net = SimNet::new(3, one_way(40));
        net.set(ip(1), ip(2), one_way(10));
        net.set(ip(2), ip(1), one_way(10));
        let nodes = three(&net).await;
        tokio::time::sleep(SECOND * 20).await;
        for node in &nodes {
            let matrix = node.mesh.round_trips();
            let between = |a: u128, b: u128| matrix.get(&identity(a).region, &identity(b).region).expect("measured");
            assert!((18..30).contains(&between(1, 2).as_millis()), "{:?}", between(1, 2));
            assert!((78..95).contains(&between(1, 3).as_millis()), "{:?}", between(1, 3));
        }
        assert_eq!(nodes[0].mesh.rank(&[NodeId(3), NodeId(2), NodeId(1)]), [NodeId(1), NodeId(2), NodeId(3)]);
    });
}

#[test]
fn a_partition_is_noticed_on_both_sides_and_heals() {
    run(async {
        let net = SimNet::new(4, one_way(30));
        let [a, b, c] = three(&net).await;
        for peer in [2, 3] {
            net.cut(ip(1), ip(peer));
            net.cut(ip(peer), ip(1));
        }
        let apart = || !a.mesh.is_connected(b.id()) && !b.mesh.is_connected(a.id()) && !c.mesh.is_connected(a.id());
        until("both sides notice", SECOND * 4, apart).await;
        assert!(b.echo(c.id(), b"the rest goes on").await.is_ok());
        tokio::time::sleep(SECOND * 60).await;
        for peer in [2, 3] {
            net.heal(ip(1), ip(peer));
            net.heal(ip(peer), ip(1));
        }
        until_meshed(&[&a, &b, &c]).await;
        assert!(a.echo(b.id(), b"again").await.is_ok());
    });
}

#[test]
fn a_one_way_partition_ends_the_link_on_both_sides() {
    run(async {
        let net = SimNet::new(5, one_way(30));
        let [a, b, _c] = three(&net).await;
        net.cut(ip(1), ip(2));
        until("both notice", SECOND * 6, || !a.mesh.is_connected(b.id()) && !b.mesh.is_connected(a.id())).await;
        net.heal(ip(1), ip(2));
        until("healed", SECOND * 10, || a.mesh.is_connected(b.id()) && b.mesh.is_connected(a.id())).await;
    });
}

#[test]
fn a_restarted_daemon_is_found_within_a_second() {
    run(async {
        let net = SimNet::new(6, one_way(30));
        let ca = authority();
        let a = node(&net, &ca, 1, 1).await;
        let b = node(&net, &ca, 2, 1).await;
        until_meshed(&[&a, &b]).await;
        b.mesh.leave().await;
        drop(b);
        tokio::time::sleep(SECOND * 5).await;
        let mut again = options(&ca, 2, &["seed:7946".to_owned()]);
        again.listen = "10.0.0.2:8000".parse().expect("an address");
        again.incarnation = Incarnation(2);
        let b = start(again, net.host(ip(2))).await;
        until("found", SECOND, || a.mesh.is_connected(NodeId(2)) && b.mesh.is_connected(NodeId(1))).await;
        assert!(a.echo(b.id(), b"welcome back").await.is_ok());
    });
}

#[test]
fn simultaneous_dialing_settles_on_one_connection() {
    run(async {
        let net = SimNet::new(9, one_way(50));
        let nodes = three(&net).await;
        tokio::time::sleep(SECOND * 10).await;
        for _ in 0..50 {
            tokio::time::sleep(SECOND).await;
            assert!(nodes[0].mesh.is_connected(NodeId(2)) && nodes[1].mesh.is_connected(NodeId(1)));
        }
        assert!(nodes[0].echo(NodeId(2), b"x").await.is_ok());
    });
}

#[test]
fn calls_survive_heavy_loss_when_retries_are_allowed() {
    run(async {
        let net = SimNet::new(11, one_way(20));
        let nodes = three(&net).await;
        let lossy = LinkShape { loss: 0.2, ..one_way(20) };
        net.set(ip(1), ip(2), lossy);
        net.set(ip(2), ip(1), lossy);
        let mut answered = 0;
        for _ in 0..100 {
            let call = Call::new(ECHO, Bytes::from_static(b"x"), SECOND * 3).with_retries();
            answered += u32::from(nodes[0].mesh.call(NodeId(2), call).await.is_ok());
        }
        assert!(answered >= 97, "{answered}");
    });
}

#[test]
fn members_that_the_council_names_are_connected_without_seeds() {
    run(async {
        let net = SimNet::new(12, one_way(20));
        let ca = authority();
        let mut nodes = Vec::new();
        for id in [1, 2] {
            let mut options = options(&ca, id, &[]);
            options.listen = sim_address(id);
            nodes.push(start(options, net.host(ip(id))).await);
        }
        nodes[0].mesh.learn(NodeId(2), identity(2).region, &sim_address(2).to_string());
        until("connected", SECOND * 2, || nodes[1].mesh.is_connected(NodeId(1)) && nodes[0].mesh.is_connected(NodeId(2))).await;
    });
}

#[test]
fn changes_wake_those_who_watch() {
    run(async {
        let net = SimNet::new(13, one_way(20));
        let ca = authority();
        let a = node(&net, &ca, 1, 1).await;
        let mut changed = a.mesh.changed();
        let _b = node(&net, &ca, 2, 1).await;
        tokio::time::timeout(SECOND * 5, changed.changed()).await.expect("in time").expect("lives");
        until("in the table", SECOND * 5, || a.mesh.peers().get(NodeId(2)).is_some()).await;
    });
}

#[test]
fn a_mesh_without_peers_is_content() {
    run(async {
        let net = SimNet::new(14, one_way(1));
        let ca = authority();
        let lone = node(&net, &ca, 1, 1).await;
        tokio::time::sleep(SECOND * 300).await;
        assert_eq!(lone.echo(NodeId(1), b"only me").await, Ok(Bytes::from_static(b"only me")));
        lone.mesh.leave().await;
        let _ = Arc::strong_count(&lone.service);
    });
}
