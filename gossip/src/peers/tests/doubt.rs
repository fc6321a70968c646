//! M5: a node whose own timers lag, or most of whose probes fail, doubts itself first.

use super::*;

#[test]
fn a_node_that_stood_still_for_half_a_minute_declares_nobody_down() {
    let mut net = Net::of(21, &[("eu-west", 5)]);
    net.whole_within(s(2));
    net.run(s(5));
    let until = net.now + s(30);
    net.nodes.get_mut(&NodeId(1)).expect("it runs").stalled_until = until;
    net.run(s(30) + ms(1));
    let doubt = net.table(1).doubt;
    assert!(doubt >= 2, "it knows that it stood still: {doubt}");
    for _ in 0..100 {
        net.run(ms(100));
        let down = net.table(1).peers.values().filter(|peer| peer.liveness == Liveness::Down).count();
        assert_eq!(down, 0, "at {:?}", net.now);
    }
    net.whole_within(s(10));
    net.run(s(15));
    assert_eq!(net.table(1).doubt, 0, "trust comes back with answered probes");
}

#[test]
fn a_node_that_lags_all_the_time_suspects_no_more_than_it_must_and_takes_nobody_down() {
    let mut net = Net::of(22, &[("eu-west", 7)]);
    net.whole_within(s(2));
    for _ in 0..40 {
        net.nodes.get_mut(&NodeId(4)).expect("it runs").stalled_until = net.now + ms(900);
        net.run(s(1));
        for peer in net.running().into_iter().filter(|peer| *peer != 4) {
            assert!(!net.running().iter().any(|node| net.sees(*node, peer) == Some(Liveness::Down)), "{peer} at {:?}", net.now);
        }
    }
}

#[test]
fn a_node_that_hears_nobody_doubts_itself_before_the_others() {
    let mut net = Net::of(23, &[("eu-west", 7)]);
    net.whole_within(s(2));
    net.run(s(3));
    net.cut_between(&[1], &[2, 3, 4, 5, 6, 7]);
    net.until(s(8), "the others know that 1 is gone", |net| (2..=7).all(|node| net.sees(node, 1) == Some(Liveness::Down)));
    assert!(net.table(1).doubt >= 2);
    let down = net.table(1).peers.values().filter(|peer| peer.liveness == Liveness::Down).count();
    assert!(down <= 1, "1 took {down} for dead by then");
    assert!(net.table(1).peers.values().all(|peer| !peer.link.is_healthy()), "its links know better");
    net.cut.clear();
    net.whole_within(s(12));
}

#[test]
fn doubt_is_bounded_a_sole_survivor_learns_that_the_others_are_dead() {
    let mut net = Net::of(24, &[("us-east", 1), ("eu-west", 1), ("asia", 1)]);
    net.whole_within(s(3));
    net.run(s(5));
    net.crash(2);
    net.crash(3);
    net.until(s(120), "both are down", |net| net.all_see(2, Liveness::Down) && net.all_see(3, Liveness::Down));
}
