//! Bytes from a peer never panic, whatever they are, and never make it look as if another had said them.

use proptest::prelude::*;

use super::*;

/// A settled node, and valid datagrams of every kind that its peers sent it.
fn victim() -> (Peers, Duration, Vec<(NodeId, Bytes)>) {
    let mut net = Net::of(31, &[("us-east", 2), ("eu-west", 2)]);
    net.run(s(4));
    net.start(profile(5, "us-east", 1));
    net.leave(4);
    let mut seen = Vec::new();
    for _ in 0..400 {
        net.run(ms(5));
        let to_victim = net.events.values().filter_map(|event| match event {
            Event::Datagram { from, to, bytes } if to.0 == 1 => Some((*from, bytes.clone())),
            _ => None,
        });
        seen.extend(to_victim);
    }
    seen.sort();
    seen.dedup();
    let now = net.now;
    (net.nodes.remove(&NodeId(1)).expect("it runs").peers, now, seen)
}

fn survive(peers: &mut Peers, now: Duration, from: NodeId, bytes: &[u8]) {
    let wall = WallMicros(WALL_START);
    let _ = peers.datagram(now, wall, from, bytes);
    peers.timeout(now + s(3), wall);
    peers.refresh(now + s(3));
    while peers.poll_send().is_some() {}
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(datagrams in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..60), kind in 0u8..5) {
        let (mut peers, now, _) = victim();
        for (i, mut bytes) in datagrams.into_iter().enumerate() {
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            survive(&mut peers, now + s(3 * i as u64), NodeId(2), &bytes);
        }
    }

    #[test]
    fn mutated_datagrams_never_panic(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..200)
    ) {
        let (mut peers, now, seen) = victim();
        prop_assert!(seen.len() > 20);
        for (i, (which, at, byte, cut)) in edits.into_iter().enumerate() {
            let (from, bytes) = &seen[which.index(seen.len())];
            let mut bytes = bytes.to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if cut {
                bytes.truncate(at);
            }
            survive(&mut peers, now + s(3 * i as u64), *from, &bytes);
        }
    }
}

#[test]
fn every_kind_of_datagram_is_among_the_seen_ones() {
    let (_, _, seen) = victim();
    let kinds: BTreeSet<(u8, u8)> = seen.iter().map(|(_, bytes)| (bytes[0], if bytes[0] == 3 { bytes[1] } else { 0 })).collect();
    // Two pools; summary, reach, row, beat, ask or leave.
    assert!(kinds.len() >= 6, "{kinds:?}");
}

#[test]
fn m2_a_pool_datagram_in_anothers_name_is_refused() {
    let (mut peers, now, seen) = victim();
    let pool = seen.iter().find(|(from, bytes)| bytes[0] == 1 && from.0 == 2).expect("there is one");
    let refused = peers.datagram(now, WallMicros(0), NodeId(5), &pool.1);
    assert_eq!(refused, Err(Malformed::NotFromSender));
}

#[test]
fn m2_a_farewell_in_anothers_name_is_refused() {
    let (mut peers, now, _) = victim();
    let me = Identity::of(&profile(2, "us-east", 1)).expect("an address");
    let forged = message_datagram(&Message::Leave(Fact { identity: me, swim: 0, liveness: Liveness::Left }));
    assert_eq!(peers.datagram(now, WallMicros(0), NodeId(5), &forged), Err(Malformed::NotFromSender));
    peers.refresh(now);
    assert_eq!(peers.table().get(NodeId(2)).map(|peer| peer.liveness), Some(Liveness::Alive));
}

#[test]
fn a_stale_summary_is_ignored() {
    let (mut peers, now, _) = victim();
    let stale = |liveness, incarnation| {
        let identity = Identity::of(&profile(3, "eu-west", incarnation)).expect("an address");
        message_datagram(&Message::Summary(vec![Fact { identity, swim: 0, liveness }]))
    };
    assert_eq!(peers.datagram(now, WallMicros(0), NodeId(2), &stale(Liveness::Down, 0)), Ok(()));
    peers.refresh(now);
    assert_eq!(peers.table().get(NodeId(3)).map(|peer| peer.liveness), Some(Liveness::Alive), "of an earlier start");
    peers.datagram(now, WallMicros(0), NodeId(2), &stale(Liveness::Left, 1)).expect("well formed");
    peers.datagram(now, WallMicros(0), NodeId(2), &stale(Liveness::Alive, 1)).expect("well formed");
    peers.refresh(now);
    assert_eq!(peers.table().get(NodeId(3)).map(|peer| peer.liveness), Some(Liveness::Left), "left is final in a start");
}

#[test]
fn a_local_pool_takes_no_member_of_another_region() {
    let (mut peers, now, _) = victim();
    let stranger = Identity::of(&profile(3, "eu-west", 1)).expect("an address");
    let mut pool = crate::membership::pool::Pool::new(crate::membership::timing::Scope::Local, stranger, 1000, 1);
    let me = Identity::of(&profile(1, "us-east", 1)).expect("an address");
    pool.announce(now, me, &mut Default::default());
    let (_, bytes) = pool.poll_send().expect("the announcement");
    let datagram = crate::membership::wire::pool_datagram(crate::membership::timing::Scope::Local, &bytes);
    assert_eq!(peers.datagram(now, WallMicros(0), NodeId(3), &datagram), Err(Malformed::WrongRegion));
}
