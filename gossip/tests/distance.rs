//! Real sockets with emulated distance: what `isochrone dev` runs on.

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isochrone_gossip::{Call, Direction, EmulatedSockets, Emulation, LinkShape, RealSockets};
use support::*;
use tokio::time::Instant;

async fn distant(ca: &isochrone_gossip::certs::CertificatePem, id: u128, seeds: &[String]) -> (Node, Emulation) {
    let (sockets, emulation) = EmulatedSockets::new(RealSockets::default(), u64::try_from(id).expect("small"), 64 << 20);
    (start(options(ca, id, seeds), Arc::new(sockets)).await, emulation)
}

fn shape(one_way_ms: u64) -> LinkShape {
    LinkShape { one_way: Duration::from_millis(one_way_ms), jitter_mean: Duration::from_micros(100), loss: 0.0 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_takes_the_emulated_round_trip_and_bulk_gets_through() {
    let ca = authority();
    let (a, emulation_a) = distant(&ca, 1, &[]).await;
    let (b, emulation_b) = distant(&ca, 2, &[]).await;
    emulation_a.set(b.mesh.local_addr().expect("bound"), shape(20));
    emulation_b.set(a.mesh.local_addr().expect("bound"), shape(20));
    b.mesh.learn(a.id(), identity(1).region, &a.address());
    until_meshed(&[&a, &b]).await;
    let mut fastest = Duration::MAX;
    for _ in 0..10 {
        let start = Instant::now();
        a.echo(b.id(), b"x").await.expect("answers");
        fastest = fastest.min(start.elapsed());
    }
    assert!((40..60).contains(&fastest.as_millis()), "{fastest:?}");
    let body = Bytes::from(vec![3; 8 << 20]);
    let answer = a.mesh.call(b.id(), Call::new(ECHO, body.clone(), SECOND * 30).bulk()).await;
    assert_eq!(answer.map(|answer| answer == body), Ok(true));
    emulation_a.cut(b.mesh.local_addr().expect("bound"), Direction::Both);
    until("the cut is noticed", SECOND * 5, || !a.mesh.is_connected(b.id()) && !b.mesh.is_connected(a.id())).await;
    emulation_a.heal(b.mesh.local_addr().expect("bound"));
    until_meshed(&[&a, &b]).await;
}
