use super::*;

const THREE_BY_TWO: [(&str, u128); 3] = [("us-east", 2), ("eu-west", 2), ("asia", 2)];

#[test]
fn m5_five_nodes_of_one_region_find_each_other_and_a_crash_is_known_within_five_seconds() {
    let mut net = Net::of(1, &[("eu-west", 5)]);
    net.whole_within(s(2));
    net.run(s(5));
    net.crash(3);
    let took = net.until(s(5), "3 is down", |net| net.all_see(3, Liveness::Down));
    assert!(took > ms(500), "{took:?}: nobody is declared dead at a glance");
    net.run(s(30));
    assert!(net.is_whole(), "the others are untouched");
}

#[test]
fn m5_thirty_nodes_with_loss_of_five_percent_declare_nobody_down_and_find_a_crash() {
    let mut net = Net::of(2, &[("eu-west", 30)]);
    net.loss = 0.05;
    net.whole_within(s(5));
    for _ in 0..60 {
        net.run(s(1));
        let running = net.running();
        let falsely = running.iter().filter(|node| running.iter().any(|other| net.sees(*other, **node) == Some(Liveness::Down)));
        assert_eq!(falsely.count(), 0, "at {:?}", net.now);
    }
    net.crash(7);
    net.until(s(9), "7 is down", |net| net.all_see(7, Liveness::Down));
}

#[test]
fn m5_everybody_finds_everybody_through_one_seed_that_is_far_away() {
    let mut net = Net::new(20);
    let places = ["us-east", "eu-west", "asia"];
    (1..=12u128).for_each(|node| net.start_alone(profile(node, places[node as usize % 3], 1)));
    // 7 is no gateway, and the seed of all.
    (1..=12).filter(|node| *node != 7).for_each(|node| net.connect(NodeId(node), NodeId(7)));
    for _ in 0..30 {
        net.run(ms(100));
        net.dial();
    }
    net.whole_within(ms(500));
    net.run(s(20));
    assert!(net.is_whole());
    assert_eq!(net.connected.len(), 12 * 11);
}

#[test]
fn m5_three_regions_of_two_nodes_see_each_other_and_know_each_others_gateways() {
    let mut net = Net::of(3, &THREE_BY_TWO);
    net.whole_within(s(3));
    net.run(s(1));
    assert!(net.running().iter().all(|node| net.table(*node).gateway));
    net.start(profile(7, "asia", 1));
    net.until(s(3), "7 is in", Net::is_whole);
    net.run(s(2));
    assert!(!net.table(7).gateway, "two gateways are enough");
    assert_eq!(net.table(1).peers.values().filter(|peer| peer.gateway).count(), 5);
}

#[test]
fn m5_a_crash_is_known_in_all_regions_through_summaries() {
    let mut net = Net::of(4, &[("us-east", 3), ("eu-west", 3), ("asia", 3)]);
    net.whole_within(s(3));
    net.run(s(5));
    net.crash(3);
    net.until(s(6), "3, no gateway, is down everywhere", |net| net.all_see(3, Liveness::Down));
    net.crash(4);
    net.until(s(6), "4, a gateway, is down everywhere", |net| net.all_see(4, Liveness::Down));
    net.run(s(2));
    assert!(net.table(6).gateway, "6 took the place of 4");
    net.start(profile(3, "us-east", 2));
    net.start(profile(4, "eu-west", 2));
    net.whole_within(s(4));
    net.until(s(2), "4 is a gateway again, and 6 no more", |net| net.table(4).gateway && !net.table(6).gateway);
    net.run(s(20));
    assert!(net.is_whole(), "ceasing to be a gateway is not dying");
}

#[test]
fn m5_the_only_node_of_a_region_is_known_to_be_down_everywhere_and_comes_back() {
    let mut net = Net::of(5, &[("us-east", 1), ("eu-west", 3), ("asia", 1)]);
    net.whole_within(s(3));
    net.run(s(3));
    net.crash(1);
    let took = net.until(s(15), "1 is down", |net| net.all_see(1, Liveness::Down));
    assert!(took < s(10), "{took:?}");
    net.start(profile(1, "us-east", 2));
    net.whole_within(s(2));
}

#[test]
fn m5_a_region_that_goes_before_anybody_could_probe_it_is_not_alive_for_ever() {
    let mut net = Net::of(18, &[("us-east", 1), ("eu-west", 1)]);
    net.run(ms(100));
    net.crash(2);
    net.until(s(30), "2 is down", |net| net.all_see(2, Liveness::Down));
}

#[test]
fn m5_a_member_lost_while_its_whole_region_restarted_is_found_to_be_down() {
    let mut net = Net::of(19, &[("us-east", 3), ("eu-west", 1)]);
    net.whole_within(s(3));
    net.run(s(3));
    (1..=3).for_each(|node| net.crash(node));
    net.run(s(1));
    (1..=2).for_each(|node| net.start(profile(node, "us-east", 2)));
    net.until(s(15), "3 is down", |net| net.all_see(3, Liveness::Down));
}

#[test]
fn m1_a_restart_with_a_higher_incarnation_replaces_the_old_one_at_once() {
    let mut net = Net::of(6, &THREE_BY_TWO);
    net.whole_within(s(3));
    net.crash(2);
    net.run(ms(300));
    net.start(profile(2, "us-east", 2));
    let news = |net: &Net| {
        let known = |node: &u128| {
            net.table(*node).get(NodeId(2)).is_some_and(|peer| peer.incarnation == Incarnation(2) && peer.liveness == Liveness::Alive)
        };
        net.running().iter().filter(|node| **node != 2).all(known)
    };
    net.until(ms(300), "all know the new start", news);
    for _ in 0..200 {
        net.run(ms(100));
        assert!(net.is_whole(), "the old start's death takes the new one down at {:?}", net.now);
    }
}

#[test]
fn m5_a_node_that_leaves_is_left_everywhere_and_stays_so_until_it_starts_again() {
    let mut net = Net::of(7, &THREE_BY_TWO);
    net.whole_within(s(3));
    net.leave(4);
    net.until(ms(300), "4 has left", |net| net.all_see(4, Liveness::Left));
    for _ in 0..300 {
        net.run(ms(100));
        assert!(net.all_see(4, Liveness::Left), "at {:?}", net.now);
    }
    net.start(profile(4, "eu-west", 2));
    net.whole_within(s(2));
}

#[test]
fn m5_a_farewell_that_was_lost_reaches_a_newcomer_and_the_rest_through_others() {
    let mut net = Net::of(8, &[("us-east", 4), ("eu-west", 2)]);
    net.whole_within(s(3));
    net.cut_between(&[3], &[2]);
    net.leave(3);
    net.cut.clear();
    net.until(s(4), "2 heard it from others", |net| net.all_see(3, Liveness::Left));
}

#[test]
fn m5_a_partition_between_regions_heals_by_itself() {
    let mut net = Net::of(9, &THREE_BY_TWO);
    net.whole_within(s(3));
    net.run(s(3));
    net.cut_between(&[1, 2], &[3, 4, 5, 6]);
    net.until(s(20), "the others hold us-east for down", |net| {
        (3..=6).all(|node| (1..=2).all(|peer| net.sees(node, peer) == Some(Liveness::Down)))
    });
    net.run(s(60));
    net.cut.clear();
    net.whole_within(s(5));
    net.run(s(30));
    assert!(net.is_whole());
}

#[test]
fn m5_a_partition_inside_a_region_heals_by_itself() {
    let mut net = Net::of(10, &[("us-east", 5), ("eu-west", 2)]);
    net.whole_within(s(3));
    net.run(s(3));
    net.cut_between(&[1, 2], &[3, 4, 5]);
    net.run(s(60));
    net.cut.clear();
    net.whole_within(s(10));
    net.run(s(30));
    assert!(net.is_whole());
}

#[test]
fn m5_two_clusters_that_never_met_become_one_through_one_connection() {
    let mut net = Net::of(11, &[("us-east", 2)]);
    net.whole_within(s(2));
    net.start(profile(11, "eu-west", 1));
    net.start(profile(12, "eu-west", 1));
    // Only 2 and 11 stay connected across.
    let across = |(a, b): &(NodeId, NodeId)| (a.0 < 10) != (b.0 < 10) && !matches!((a.0, b.0), (2, 11) | (11, 2));
    net.cut = net.connected.iter().copied().filter(across).collect();
    net.run(s(8));
    assert_eq!(net.sees(12, 2), Some(Liveness::Alive));
    assert_eq!(net.sees(1, 11), Some(Liveness::Alive));
}

#[test]
fn m6_a_one_way_cut_is_seen_on_its_link_within_two_seconds_and_on_no_other() {
    let mut net = Net::of(12, &THREE_BY_TWO);
    net.whole_within(s(3));
    net.run(s(5));
    net.cut.insert((NodeId(1), NodeId(3)));
    net.run(ms(1500));
    assert_eq!(net.link(1, 3).state, LinkState::Unheard);
    assert_eq!(net.link(3, 1).state, LinkState::Silent);
    let unhealthy = |node: &u128| net.table(*node).peers.values().filter(|peer| !peer.link.is_healthy()).count();
    assert_eq!(net.running().iter().map(unhealthy).sum::<usize>(), 2);
    assert_eq!(net.table(1).rank(&[NodeId(3), NodeId(4), NodeId(1)]), [NodeId(1), NodeId(4), NodeId(3)]);
    net.run(s(30));
    assert!(!net.all_see(1, Liveness::Down) && !net.all_see(3, Liveness::Down), "the others answer for both");
}

#[test]
fn m6_every_node_learns_the_whole_matrix_of_round_trips() {
    let mut net = Net::of(13, &[("us-east", 3), ("eu-west", 3), ("asia", 1)]);
    net.whole_within(s(3));
    net.run(s(8));
    for node in net.running() {
        let matrix = net.nodes[&NodeId(node)].peers.round_trips();
        for (a, b, expected) in [("us-east", "eu-west", 80), ("asia", "eu-west", 80), ("us-east", "us-east", 2)] {
            assert_eq!(matrix.get(&region(a), &region(b)), Some(ms(expected)), "{a} to {b} as {node} has it");
        }
        assert_eq!(matrix.cells().count(), 8, "all directions, and the distance inside the two regions of several");
    }
}

#[test]
fn e4_a_clock_an_hour_ahead_is_known_to_its_own_node_and_to_the_others() {
    let mut net = Net::of(14, &THREE_BY_TWO);
    net.nodes.get_mut(&NodeId(2)).expect("it runs").skew_ms = 3_600_000;
    net.run(s(5));
    assert!(matches!(net.table(2).clock, crate::health::ClockVerdict::Ahead { ms } if ms.abs_diff(3_600_000) < 5));
    assert_eq!(net.table(1).clock, crate::health::ClockVerdict::Agrees);
    let offset = net.table(1).get(NodeId(2)).and_then(|peer| peer.clock_offset_ms).expect("measured");
    assert!(offset.abs_diff(3_600_000) < 5, "{offset}");
}

#[test]
fn a_removed_member_is_out_of_the_table_and_does_not_come_back_by_gossip() {
    let mut net = Net::of(15, &THREE_BY_TWO);
    net.whole_within(s(3));
    let now = net.now;
    net.at(NodeId(1)).forget(now, NodeId(5));
    net.drain(NodeId(1));
    for _ in 0..100 {
        net.run(ms(200));
        assert_eq!(net.sees(1, 5), None, "at {:?}", net.now);
    }
}

#[test]
fn a_member_that_only_the_council_knows_is_suspect_with_its_address() {
    let mut net = Net::of(16, &[("us-east", 2)]);
    net.at(NodeId(1)).learn(NodeId(9), region("asia"), "asia-1.example:4000").expect("an address");
    assert!(net.at(NodeId(1)).learn(NodeId(9), region("asia"), "no address").is_err());
    net.run(s(1));
    let peer = net.table(1).get(NodeId(9)).expect("it is in the table");
    assert_eq!((peer.liveness, peer.address.as_str(), peer.incarnation), (Liveness::Suspect, "asia-1.example:4000", Incarnation(0)));
}

#[test]
fn no_datagram_is_longer_than_the_path_allows_and_a_quiet_cluster_is_quiet() {
    let mut net = Net::of(17, &[("us-east", 20), ("eu-west", 20)]);
    net.whole_within(s(5));
    net.run(s(30));
    assert!(net.longest <= 1100, "{}", net.longest);
    net.nodes.values_mut().for_each(|node| node.woken = 0);
    let before = net.datagrams;
    net.run(s(10));
    let per_node_and_second = (net.datagrams - before) / 40 / 10;
    // Heartbeats are 39 x 4 of these.
    assert!(per_node_and_second < 39 * 4 + 25, "{per_node_and_second}");
    assert_eq!(net.nodes.values().map(|node| node.woken).sum::<u64>(), 0, "nobody is woken for nothing");
}

#[test]
fn the_same_seed_gives_the_same_datagrams() {
    let run = |seed| {
        let mut net = Net::of(seed, &THREE_BY_TWO);
        net.loss = 0.1;
        net.run(s(10));
        net.crash(2);
        net.run(s(20));
        net.start(profile(2, "us-east", 2));
        net.run(s(10));
        (net.digest(), net.datagrams)
    };
    assert_eq!(run(99), run(99));
    assert_ne!(run(99).0, run(100).0);
}
