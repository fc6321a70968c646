//! One request counts once, wherever it is repeated.

use isochrone_ident::NodeId;
use isochrone_replica::{Change, ChangeRefused, ClaimId, FieldView, View};

use crate::scene::{count, count_once, daemon, exchange, map};

const WINDOW_MS: u64 = 1000;

fn add_once(name: &'static str, add: i64, claim: u128) -> Change {
    match map(&[], &[], &[(name, add)]) {
        Change::UpdateMap { set, remove, add, .. } => Change::UpdateMap { set, remove, add, claim: Some(ClaimId(claim)) },
        other => other,
    }
}

#[test]
fn a_request_repeated_where_the_first_is_known_is_refused_as_counted() {
    let (mut a, mut b) = (daemon(1), daemon(2));
    b.apply(&a.take(1, &count_once(5, 77)));
    assert_eq!(b.write(2, None, &count_once(5, 77)), Err(ChangeRefused::AlreadyCounted));
    assert_eq!(a.write(2, None, &count_once(5, 77)), Err(ChangeRefused::AlreadyCounted));
}

#[test]
fn a_request_repeated_in_a_region_that_is_cut_off_counts_once_when_they_meet() {
    let (mut a, mut b, mut c) = (daemon(1), daemon(2), daemon(3));
    for one in [&mut b, &mut c] {
        one.apply(&a.take(1, &count(100)));
    }
    c.pull(&a.clone());
    b.pull(&a.clone());
    for one in [&mut a, &mut b, &mut c] {
        one.take(5, &count_once(5, 77));
    }
    let mut all = [a, b, c];
    exchange(&mut all);
    assert_eq!(all[0].view(6), Some(View::Counter(205)));
}

#[test]
fn e8_a_request_that_created_the_key_in_two_regions_counts_once() {
    let (mut a, mut b) = (daemon(1), daemon(2));
    a.take(1, &count_once(5, 77));
    b.take(2, &count_once(5, 77));
    let mut both = [a, b];
    exchange(&mut both);
    assert_eq!(both[0].view(3), Some(View::Counter(5)));
}

#[test]
fn the_loser_takes_its_part_back_once_no_repeat_can_come_and_then_nobody_remembers() {
    let (mut a, mut b) = (daemon(1), daemon(2));
    b.apply(&a.take(1, &count(1)));
    a.take(10, &count_once(5, 77));
    b.take(20, &count_once(5, 77));
    let mut both = [a, b];
    exchange(&mut both);
    let [mut a, mut b] = both;
    assert!(!b.prune(900, WINDOW_MS), "a repeat may still come");
    assert!(b.prune(1100, WINDOW_MS), "the loser settles");
    assert!(!a.prune(1100, WINDOW_MS), "the winner waits for the loser");
    let own_part = b.held().part_of(NodeId(2)).expect("b has counted");
    a.apply(&own_part);
    assert_eq!((a.view(1200), b.view(1200)), (Some(View::Counter(6)), Some(View::Counter(6))));
    assert!(a.prune(2100, WINDOW_MS), "the winner forgets, a window later");
    let mut both = [a, b];
    exchange(&mut both);
    assert_eq!(both[1].view(2200), Some(View::Counter(6)));
    both[1].take(2300, &count_once(5, 77));
    assert_eq!(both[1].view(2400), Some(View::Counter(11)), "the mark is forgotten everywhere");
}

#[test]
fn e1_a_repeated_add_to_a_map_counts_once_also_across_a_removal() {
    let (mut a, mut b) = (daemon(1), daemon(2));
    b.apply(&a.take(1, &map(&[], &[], &[("hits", 100)])));
    a.take(2, &add_once("hits", 5, 77));
    b.take(3, &add_once("hits", 5, 77));
    let mut both = [a, b];
    exchange(&mut both);
    assert_eq!(both[0].field(4, "hits"), Some(FieldView::Counter(105)));
    both[0].take(5, &map(&[], &["hits"], &[]));
    both[1].take(5, &map(&[], &[], &[("hits", 1)]));
    exchange(&mut both);
    assert_eq!(both[0].field(6, "hits"), Some(FieldView::Counter(1)), "what a removal has seen counts for nothing, claims and all");
}

#[test]
fn a_counters_part_stands_for_all_deltas_before_it() {
    let (mut a, mut b) = (daemon(1), daemon(2));
    let deltas: Vec<_> = (1..5).map(|ms| a.take(ms, &count(10))).collect();
    b.apply(&deltas[3]);
    assert_eq!(b.view(9), Some(View::Counter(40)));
    assert_eq!(b.apply(&deltas[1]), isochrone_replica::Applied::Covered);
    assert_eq!(a.held().part_of(NodeId(1)).as_ref(), Some(&deltas[3]));
    assert_eq!(a.held().part_of(NodeId(2)), None);
}
