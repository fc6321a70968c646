//! Expiry is part of the state (E8), and what is over is forgotten only once nothing can bring it back (E7).

use isochrone_ident::{Hlc, WallMicros};
use isochrone_replica::View;

use crate::scene::{SKEW_MS, bytes, count, daemon, exchange, put, update};

#[test]
fn e8_a_key_is_gone_at_its_deadline_plus_the_skew_bound_and_starts_from_nothing() {
    let mut one = daemon(1);
    one.write(1, Some(100), &count(5)).expect("taken");
    assert_eq!(one.view(100 + SKEW_MS - 1), Some(View::Counter(5)));
    assert_eq!(one.view(100 + SKEW_MS), None);
    assert_eq!(one.held().expires_at(), Some(WallMicros(100_000)));
    one.take(200, &count(1));
    assert_eq!(one.view(201), Some(View::Counter(1)), "old counts do not come back");
    assert_eq!(one.held().expires_at(), None);
}

#[test]
fn e8_the_longest_deadline_wins_and_none_beats_all() {
    let (mut a, mut b) = (daemon(1), daemon(2));
    b.apply(&a.write(1, Some(100), &count(5)).expect("taken"));
    a.write(2, Some(50), &count(1)).expect("taken");
    assert_eq!(a.held().expires_at(), Some(WallMicros(100_000)), "a write cannot shorten it");
    b.take(2, &count(1));
    let mut both = [a, b];
    exchange(&mut both);
    assert_eq!(both[0].view(1_000_000), Some(View::Counter(7)));
}

#[test]
fn e8_a_write_that_extends_a_key_is_not_lost_on_a_reader_who_saw_it_expire() {
    let (mut a, mut b) = (daemon(1), daemon(2));
    b.apply(&a.write(1, Some(100), &update(&["old"], &[])).expect("taken"));
    let extension = a.write(99, Some(300), &update(&["kept"], &[])).expect("taken");
    b.take(150, &update(&["new"], &[]));
    assert_eq!(b.members(160), ["new"]);
    b.apply(&extension);
    assert_eq!(b.members(160), ["kept", "new", "old"]);
    b.take(170, &update(&[], &["old", "new"]));
    assert_eq!(b.members(180), ["kept"], "removals reach every life that is seen");
    exchange(&mut [a, b]);
}

#[test]
fn e8_regions_that_create_a_key_at_the_same_time_lose_nothing_however_many_they_are() {
    let mut all: Vec<_> = (1..=20).map(daemon).collect();
    for one in &mut all {
        one.take(5, &count(1));
    }
    exchange(&mut all);
    assert_eq!(all[0].view(6), Some(View::Counter(20)));
    all[0].take(7, &count(1));
    assert_eq!(all[0].view(8), Some(View::Counter(21)));
}

#[test]
fn e8_lives_that_expire_one_after_the_other_are_bounded_while_nothing_is_stable() {
    let mut one = daemon(1);
    for life in 1..200 {
        one.write(life * 100, Some(life * 100 + 20), &put("value", None)).expect("taken");
    }
    assert!(bytes(one.held()).len() < 700, "{} bytes", bytes(one.held()).len());
}

#[test]
fn e3_nobody_writes_into_a_life_that_came_back_after_it_was_dropped() {
    let (mut a, mut b) = (daemon(1), daemon(2));
    let first = a.write(100, Some(120), &update(&["first"], &[])).expect("taken");
    b.apply(&first);
    let extension = b.take(110, &update(&["kept"], &[]));
    for life in 2..20 {
        a.write(life * 100, Some(life * 100 + 20), &update(&["short"], &[])).expect("taken");
    }
    let mut fresh = daemon(3);
    fresh.pull(&b);
    a.pull(&b);
    a.apply(&extension);
    assert_eq!(a.members(5000), ["first", "kept"], "the write that extended it is not lost");
    a.take(5000, &update(&["later"], &[]));
    let mut all = [a, b, fresh];
    exchange(&mut all);
    assert_eq!(all[1].members(5001), ["first", "kept", "later"]);
}

#[test]
fn e7_a_life_is_forgotten_once_it_has_expired_and_no_write_that_found_it_open_can_come() {
    let mut one = daemon(1);
    one.write(1, Some(100), &count(5)).expect("taken");
    let at = |ms: u64| (WallMicros(ms * 1000), Hlc::at(WallMicros(ms * 1000)));
    let spent = |now: u64, stable: u64| one.held().is_spent(at(now).0, SKEW_MS, at(stable).1);
    assert!(!spent(500, 100 + 2 * SKEW_MS), "a daemon whose clock is behind may have found it open");
    assert!(spent(500, 101 + 2 * SKEW_MS));
    let mut other = one.clone();
    assert!(!other.prune(100 + 2 * SKEW_MS, 1000));
    other.take(200, &count(1));
    assert!(other.prune(150, 1000));
    assert!(!other.prune(150, 1000), "once is enough");
    assert_eq!(other.view(201), Some(View::Counter(1)));
    other.pull(&one);
    assert_eq!(other.view(201), Some(View::Counter(1)), "and it stays invisible when a slower replica brings it back");
}
