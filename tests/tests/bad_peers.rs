//! Daemons that should not be there, and packets that nobody understands: refused, counted, and nothing is lost.

use std::net::UdpSocket;

use tests::process::{Authority, Daemon, Spec, until};

#[test]
fn m2_a_certificate_of_another_cluster_is_refused_and_counted() {
    let (ours, other) = (Authority::new(), Authority::new());
    let first = Daemon::ready(&ours, &Spec::new("us-east", 1));
    let stranger = Daemon::start(&other, &Spec::new("eu-west", 2).joining(&first));
    until("the refusal is counted", || first.metric("isochrone_gossip_refused_total") > 0.0);
    until("the stranger says why", || stranger.log().contains("trying again"));
    assert_eq!(first.members(), 1);
    assert_eq!(first.put("/v1/kv/data/k", b"v"), 204);
    assert_ne!(stranger.put("/v1/kv/data/k", b"w"), 204, "who is no member takes no writes");
}

#[test]
fn m1_a_node_id_that_is_taken_is_refused_and_the_first_daemon_goes_on() {
    let authority = Authority::new();
    let first = Daemon::ready(&authority, &Spec::new("us-east", 1));
    let second = Daemon::ready(&authority, &Spec::new("eu-west", 2).joining(&first));
    let twin = Daemon::start(&authority, &Spec::new("eu-west", 2).joining(&first));
    until("the refusal is counted", || first.metric("isochrone_gossip_refused_total") > 0.0);
    until("the twin says why", || twin.log().contains("node-id-taken"));
    assert!(first.log().contains("node-id-taken"), "{}", first.log());
    assert_eq!(first.members(), 2);
    assert_ne!(twin.put("/v1/kv/data/k", b"w"), 204, "who is no member takes no writes");
    assert_eq!(second.put("/v1/kv/data/k", b"v"), 204);
    until("what the second took is at the first", || first.get("/v1/kv/data/k").as_deref() == Some(b"v"));
}

#[test]
fn a_storm_of_garbage_is_dropped_and_the_daemons_go_on() {
    let authority = Authority::new();
    let first = Daemon::ready(&authority, &Spec::new("us-east", 1));
    let second = Daemon::ready(&authority, &Spec::new("eu-west", 2).joining(&first));
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bound");
    let mut state = 0x9e37_79b9_u32;
    let mut packet = [0; 1200];
    for n in 0..20_000usize {
        for byte in &mut packet {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
        // Some look like the beginning of a QUIC handshake.
        if n % 3 == 0 {
            packet[..5].copy_from_slice(&[0xc3, 0, 0, 0, 1]);
        }
        let _ = socket.send_to(&packet[..1 + n % 1200], first.peer);
    }
    assert_eq!(second.put("/v1/kv/data/k", b"v"), 204);
    until("what the second took is at the first", || first.get("/v1/kv/data/k").as_deref() == Some(b"v"));
    first.wait_ready();
}
