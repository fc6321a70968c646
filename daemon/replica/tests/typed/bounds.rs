//! Limits bind the writer, and what is refused leaves everything as it was (E12).

use isochrone_ident::{Kind, NodeId};
use isochrone_replica::{Change, ChangeRefused, FieldView, Typed, TypedLimits, View};

use crate::scene::{Daemon, count, count_once, daemon, exchange, map, put, text, update};

const SMALL: TypedLimits = TypedLimits { set_members: 3, member_bytes: 8, map_fields: 2, register_values: 2, claims: 2 };

fn small(node: u128) -> Daemon {
    Daemon { limits: SMALL, ..daemon(node) }
}

fn refused(daemon: &mut Daemon, ms: u64, change: &Change) -> ChangeRefused {
    let before = daemon.state.clone();
    let refusal = daemon.write(ms, None, change).expect_err("refused");
    assert_eq!(daemon.state, before, "a refused write changes nothing");
    refusal
}

#[test]
fn e12_a_set_takes_as_many_members_as_its_cap_and_no_more() {
    let mut one = small(1);
    one.take(1, &update(&["a", "b", "c"], &[]));
    assert_eq!(refused(&mut one, 2, &update(&["d"], &[])), ChangeRefused::TooManyMembers { max: 3 });
    one.take(3, &update(&["a"], &[]));
    one.take(4, &update(&["d"], &["a"]));
    assert_eq!(one.members(5), ["b", "c", "d"].map(text));
    assert_eq!(refused(&mut one, 6, &update(&["123456789"], &[])), ChangeRefused::MemberTooLong { bytes_max: 8 });
}

#[test]
fn e12_regions_that_together_pass_the_cap_come_together_and_only_then_refuse() {
    let (mut a, mut b) = (small(1), small(2));
    a.take(1, &update(&["a", "b", "c"], &[]));
    b.take(1, &update(&["d", "e", "f"], &[]));
    let mut both = [a, b];
    exchange(&mut both);
    let [mut a, _] = both;
    assert_eq!(a.members(2).len(), 6);
    assert_eq!(refused(&mut a, 3, &update(&["g"], &[])), ChangeRefused::TooManyMembers { max: 3 });
    a.take(4, &update(&["a"], &["b", "c", "d", "e"]));
    assert_eq!(a.members(5), ["a", "f"].map(text));
}

#[test]
fn e12_a_map_takes_as_many_fields_as_its_cap() {
    let mut one = small(1);
    one.take(1, &map(&[("a", "1")], &[], &[("b", 1)]));
    assert_eq!(refused(&mut one, 2, &map(&[("c", "1")], &[], &[])), ChangeRefused::TooManyFields { max: 2 });
    one.take(3, &map(&[("a", "2"), ("c", "1")], &["b"], &[]));
    assert_eq!(one.field(4, "c"), Some(FieldView::Value(text("1"))));
    assert_eq!(one.field(4, "b"), None);
}

#[test]
fn e12_removed_counters_of_a_map_are_bounded_too() {
    let mut one = small(1);
    for (ms, name) in (1..).zip(["a", "b", "c", "d", "e", "f", "g", "h"]) {
        one.take(2 * ms, &map(&[], &[], &[(name, 1)]));
        one.take(2 * ms + 1, &map(&[], &[name], &[]));
    }
    assert_eq!(refused(&mut one, 90, &map(&[], &[], &[("i", 1)])), ChangeRefused::TooManyFields { max: 2 });
    one.take(91, &map(&[], &[], &[("a", 5)]));
    assert_eq!(one.field(92, "a"), Some(FieldView::Counter(5)), "a counter that was removed starts from 0");
}

#[test]
fn e1_a_field_is_a_value_or_a_counter() {
    let mut one = daemon(1);
    one.take(1, &map(&[("value", "1")], &[], &[("counter", 1)]));
    let wrong = |field: &str| ChangeRefused::FieldType { field: text(field) };
    assert_eq!(refused(&mut one, 2, &map(&[], &[], &[("value", 1)])), wrong("value"));
    assert_eq!(refused(&mut one, 3, &map(&[("counter", "1")], &[], &[])), wrong("counter"));
    assert_eq!(refused(&mut one, 4, &map(&[("new", "1")], &[], &[("new", 1)])), wrong("new"));
    one.take(5, &map(&[("counter", "1")], &["counter"], &[]));
    assert_eq!(one.field(6, "counter"), Some(FieldView::Value(text("1"))));
}

#[test]
fn e1_a_value_shows_above_a_counter_that_another_region_made_of_the_field() {
    let (mut a, mut b) = (daemon(1), daemon(2));
    a.take(1, &map(&[("field", "1")], &[], &[]));
    b.take(1, &map(&[], &[], &[("field", 7)]));
    let mut both = [a, b];
    exchange(&mut both);
    for one in &mut both {
        assert_eq!(one.field(2, "field"), Some(FieldView::Value(text("1"))));
    }
    let [mut a, _] = both;
    a.take(3, &map(&[("field", "2")], &[], &[]));
    assert_eq!(a.field(4, "field"), Some(FieldView::Value(text("2"))), "and may be set");
    a.take(5, &map(&[], &["field"], &[]));
    assert_eq!(a.field(6, "field"), None, "and removed, counter and all");
}

#[test]
fn e1_of_two_values_of_a_field_the_later_shows_everywhere() {
    let (mut a, mut b) = (daemon(1), daemon(2));
    a.take(5, &map(&[("field", "later")], &[], &[]));
    b.take(4, &map(&[("field", "earlier")], &[], &[]));
    let mut both = [a, b];
    exchange(&mut both);
    assert_eq!(both[1].field(6, "field"), Some(FieldView::Value(text("later"))));
}

#[test]
fn a_register_holds_a_bounded_number_of_values_that_nobody_replaced() {
    let mut one = small(1);
    one.take(1, &put("a", None));
    one.take(2, &put("b", None));
    assert_eq!(refused(&mut one, 3, &put("c", None)), ChangeRefused::TooManyValues { max: 2 });
    let context = one.values(4).1;
    one.take(5, &put("c", Some(context)));
    assert_eq!(one.values(6).0, [text("c")]);
}

#[test]
fn a_context_of_another_key_or_ahead_of_this_daemon_is_unknown_until_the_state_is_pulled() {
    let (mut a, mut b) = (daemon(1), daemon(2));
    b.apply(&a.take(1, &put("a", None)));
    a.take(2, &put("b", None));
    let ahead = a.values(3).1;
    assert_eq!(refused(&mut b, 4, &put("c", Some(ahead.clone()))), ChangeRefused::UnknownContext);
    b.pull(&a);
    b.take(5, &put("c", Some(ahead.clone())));
    assert_eq!(b.values(6).0, [text("c")]);
    assert_eq!(refused(&mut daemon(3), 7, &put("d", Some(ahead))), ChangeRefused::UnknownContext);
}

#[test]
fn a_context_replaces_what_it_has_seen_and_nothing_else() {
    let (mut a, mut b) = (daemon(1), daemon(2));
    b.apply(&a.take(1, &put("a", None)));
    let seen = b.values(2).1;
    let unseen = a.take(3, &put("unseen", None));
    let replacing = b.take(4, &put("b", Some(seen)));
    a.apply(&replacing);
    b.apply(&unseen);
    assert_eq!(a.values(5).0, [text("unseen"), text("b")]);
    exchange(&mut [a, b]);
}

#[test]
fn e12_a_counter_that_regions_together_took_past_64_bits_saturates_and_may_come_back() {
    let (mut a, mut b) = (daemon(1), daemon(2));
    a.take(1, &count(i64::MAX));
    b.take(1, &count(i64::MAX));
    let mut both = [a, b];
    exchange(&mut both);
    let [mut a, _] = both;
    assert_eq!(a.view(2), Some(View::Counter(i64::MAX)));
    assert_eq!(refused(&mut a, 3, &count(1)), ChangeRefused::CounterOverflow);
    a.take(4, &count(-i64::MAX));
    assert_eq!(a.view(5), Some(View::Counter(i64::MAX)));
}

#[test]
fn marks_of_requests_are_bounded() {
    let mut one = small(1);
    one.take(1, &count_once(1, 1));
    one.take(2, &count_once(1, 2));
    assert_eq!(refused(&mut one, 3, &count_once(1, 3)), ChangeRefused::TooManyClaims { max: 2 });
    one.take(4, &count(1));
}

#[test]
fn a_change_of_another_kind_is_refused_and_states_of_two_kinds_do_not_join() {
    let (mut one, mut other) = (daemon(1), daemon(2));
    one.take(1, &count(1));
    assert_eq!(refused(&mut one, 2, &update(&["a"], &[])), ChangeRefused::WrongKind { asked: Kind::Set, given: Kind::Set });
    let delta = other.take(1, &update(&["a"], &[]));
    assert!(Typed::apply(one.state.as_ref(), &delta).is_err());
    let before = one.held().clone();
    assert!(one.state.as_mut().is_some_and(|state| state.join(other.held()).is_err()));
    assert_eq!(one.held(), &before, "nothing was joined");
}

#[test]
fn e3_an_actor_that_tells_two_stories_is_a_conflict_and_not_a_join() {
    for (one, another) in [
        (count(1), count(2)),
        (update(&["a"], &[]), update(&["b"], &[])),
        (put("a", None), put("b", None)),
        (map(&[("f", "a")], &[], &[]), map(&[("f", "b")], &[], &[])),
    ] {
        let (mut first, mut twin) = (daemon(1), daemon(1));
        first.take(1, &one);
        twin.take(1, &another);
        let before = first.held().clone();
        assert!(first.state.as_mut().is_some_and(|state| state.join(twin.held()).is_err()), "{one:?}");
        assert_eq!(first.held(), &before, "nothing was joined");
        assert!(!before.lacks(twin.held()));
    }
}

#[test]
fn e3_a_daemon_knows_whether_it_has_given_out_dots() {
    let mut one = daemon(1);
    one.take(1, &count(1));
    assert!(one.held().has_dots_of(NodeId(1)));
    assert!(!one.held().has_dots_of(NodeId(2)));
}
