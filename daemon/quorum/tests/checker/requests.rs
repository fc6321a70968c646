//! What requests are answered, and what is told of how that went.

use isochrone_ident::WallMicros;
use isochrone_quorum::{
    Accepted, Act, Ask, Because, Began, Change, Content, Course, Effect, Expect, Failure, Left, Mutation, Outcome, Output, Proposer,
    Refusal, RequestId, Revision, Value, Verdict, Want, Wish,
};

use crate::bench::{Bench, NOW, accept, ballot, collect, collect_of, live, needs, owner, put, record, value};
use crate::world::{key, slot};

/// How a change ends, in one round that nobody disturbs.
fn change(bench: &mut Bench, proposer: &mut Proposer, change: Change) -> Verdict {
    match bench.run(proposer, Want::Change(change), &[0, 1, 2]) {
        Some(Ok(Outcome::Written(verdict))) => verdict,
        other => panic!("{other:?}"),
    }
}

fn asked(number: u8, expect: Expect, act: Act) -> Change {
    let id = RequestId { nonce: u128::from(number), print: u64::from(number), until: WallMicros(NOW.0 + 400) };
    Change { id, expect, fence: None, act }
}

#[test]
fn q11_another_request_under_the_same_nonce_is_refused() {
    needs(Mutation::TrustNonces, |bench| {
        let mut writer = bench.proposer(0, 1);
        let first = asked(1, Expect::Anything, Act::Put(value(1)));
        let told = change(bench, &mut writer, first.clone());
        assert!(matches!(told, Verdict::Applied { .. }));
        assert_eq!(change(bench, &mut writer, first.clone()), told, "the same request is answered as before");
        let other = RequestId { print: 77, ..first.id };
        change(bench, &mut writer, Change { id: other, act: Act::Delete, ..first.clone() }) == Verdict::Refused(Refusal::Reused)
    });
}

#[test]
fn q11_a_reused_nonce_says_nothing_of_a_request_that_is_past_its_window() {
    let mut bench = Bench::new(None);
    let mut writer = bench.proposer(0, 1);
    let first = asked(1, Expect::Anything, Act::Put(value(1)));
    change(&mut bench, &mut writer, first.clone());
    let late = RequestId { print: 77, until: WallMicros(NOW.0 - 1), ..first.id };
    assert_eq!(change(&mut bench, &mut writer, Change { id: late, ..first }), Verdict::Refused(Refusal::TooOld));
}

#[test]
fn q7_a_precondition_may_name_several_revisions() {
    let mut bench = Bench::new(None);
    let mut writer = bench.proposer(0, 1);
    let mut next = 0;
    let mut verdict = |bench: &mut Bench, expect| {
        next += 1;
        change(bench, &mut writer, asked(next, expect, Act::Put(value(next))))
    };
    let none_there = Verdict::Refused(Refusal::Precondition { found: None });
    assert_eq!(verdict(&mut bench, Expect::AnyOf(vec![Revision(1), Revision(2)])), none_there);
    let Verdict::Applied { revision, .. } = verdict(&mut bench, Expect::NoneOf(vec![Revision(1)])) else {
        panic!("absent is none of them")
    };
    let there = Verdict::Refused(Refusal::Precondition { found: Some(revision) });
    assert_eq!(verdict(&mut bench, Expect::NoneOf(vec![Revision(1), revision])), there);
    assert_eq!(verdict(&mut bench, Expect::AnyOf(vec![Revision(1)])), there);
    assert!(matches!(verdict(&mut bench, Expect::AnyOf(vec![Revision(1), revision])), Verdict::Applied { .. }));
}

#[test]
fn e8_q16_an_expired_value_becomes_a_tombstone_and_is_forgotten() {
    let mut bench = Bench::new(None);
    let mut writer = bench.proposer(0, 1);
    let over = Value { expires: Some(WallMicros(NOW.0 - 100)), ..value(1) };
    let lasting = Value { expires: Some(WallMicros(NOW.0 + 100)), ..value(2) };
    change(&mut bench, &mut writer, asked(1, Expect::Anything, Act::Put(lasting)));
    assert_eq!(change(&mut bench, &mut writer, asked(2, Expect::Anything, Act::Expire)), Verdict::NothingThere, "it is alive");
    change(&mut bench, &mut writer, asked(3, Expect::Present, Act::Put(over)));
    assert_eq!(collect(&mut bench, &[0, 1, 2]), Some(0), "a value is never forgotten");
    let expired = change(&mut bench, &mut writer, asked(4, Expect::Anything, Act::Expire));
    assert!(matches!(expired, Verdict::Applied { effect: Effect::Expired, .. }), "{expired:?}");
    assert_eq!(change(&mut bench, &mut writer, asked(5, Expect::Anything, Act::Expire)), Verdict::NothingThere);
    assert_eq!(collect(&mut bench, &[0, 1, 2]), Some(1));
}

#[test]
fn q10_a_change_that_was_lost_on_its_way_is_unknown_and_a_read_never_is() {
    let lost = Wish::from(put(1, Expect::Anything)).lost();
    assert!(lost.is_repeat && lost.handed_over);
    assert_eq!(lost.left.failure(Because::NoQuorum), Failure::OutcomeUnknown);
    assert_eq!(lost.lost().left, Left::SOMEWHERE, "nothing takes it back");
    assert_eq!(Wish::from(Want::Read).lost().left, Left::NOTHING);
}

#[test]
fn q10_a_lost_change_that_fails_here_is_unknown() {
    let mut bench = Bench::new(None);
    let mut second = bench.proposer(0, 1);
    bench.submit(&mut second, Wish::from(put(1, Expect::Anything)).lost());
    let operation = isochrone_quorum::OperationId(bench.operations);
    assert_eq!(second.give_up(NOW, operation).0, Some(Failure::OutcomeUnknown));
}

fn course(bench: &mut Bench, proposer: &mut Proposer, want: Want, to: &[usize]) -> Course {
    let outputs = bench.submit(proposer, want);
    let rest = bench.deliver(proposer, outputs, to);
    let course = rest.into_iter().find_map(|output| if let Output::Done { course, .. } = output { Some(course) } else { None });
    course.expect("it ends")
}

#[test]
fn q12_what_was_done_is_told() {
    let mut bench = Bench::new(None);
    let mut owner = owner(&mut bench);
    let all = [0, 1, 2];
    let told = |began, trips| Course { began: Some(began), trips };
    assert_eq!(course(&mut bench, &mut owner, put(1, Expect::Anything), &all), told(Began::Granted, 1));
    assert_eq!(course(&mut bench, &mut owner, put(2, Expect::Anything), &all), told(Began::Warm, 1));
    let mut other = bench.proposer(1, 1);
    assert_eq!(course(&mut bench, &mut other, Want::Read, &all), told(Began::Read, 1));
    bench.ask(0, accept(&record(ballot(90, 3), live(9)), None));
    assert_eq!(course(&mut bench, &mut other, Want::Read, &all), told(Began::Read, 2), "a write-back");
    let mut third = bench.proposer(2, 1);
    bench.run(&mut third, Want::Read, &all);
    assert_eq!(course(&mut bench, &mut third, put(3, Expect::Anything), &all), told(Began::Prepared, 2));
}

#[test]
fn q12_a_key_is_warm_while_its_promise_or_its_slots_is_held() {
    let mut bench = Bench::new(None);
    let mut cold = bench.proposer(1, 1);
    assert!(!cold.is_warm(slot(), &key(0)));
    bench.submit(&mut cold, put(9, Expect::Anything));
    assert!(cold.is_warm(slot(), &key(0)), "what comes now follows the write that is under way");
    let mut owner = owner(&mut bench);
    assert!(owner.is_warm(slot(), &key(0)) && owner.is_warm(slot(), &key(1)));
    bench.run(&mut owner, put(1, Expect::Anything), &[0, 1, 2]);
    owner.release(slot());
    assert!(owner.is_warm(slot(), &key(0)), "its own promise is kept");
    assert!(!owner.is_warm(slot(), &key(1)) && !owner.holds(slot()));
    bench.move_to([1, 2, 3]);
    owner.configure(NOW, std::sync::Arc::clone(&bench.configuration));
    assert!(!owner.is_warm(slot(), &key(0)) && owner.phase(slot()) == Some(bench.configuration.phase));
}

#[test]
fn q18_an_acquisition_that_is_given_up_ends_as_refused() {
    let mut bench = Bench::new(None);
    let mut owner = bench.proposer(0, 1);
    owner.acquire(slot());
    assert_eq!(owner.release(slot()), [Output::Acquired { slot: slot(), granted: false }]);
    owner.acquire(slot());
    bench.move_to([1, 2, 3]);
    let told = owner.configure(NOW, std::sync::Arc::clone(&bench.configuration));
    assert_eq!(told, [Output::Acquired { slot: slot(), granted: false }]);
}

#[test]
fn q16_a_floor_is_no_higher_than_what_is_forgotten() {
    let mut bench = Bench::new(None);
    let kept = Accepted { ballot: ballot(900, 1), ..record(ballot(900, 1), live(1)) };
    bench.ask(0, Ask::Accept { key: key(1), record: kept, next: None });
    let tombstone = record(ballot(6, 1), Content::Tombstone);
    (0..3).for_each(|index| drop(bench.ask(index, accept(&tombstone, None))));
    assert_eq!(collect_of(&mut bench, vec![key(0), key(1)], &[0, 1, 2]), Some(1));
    assert_eq!(bench.nodes[0].0.slots[&slot()].floor, 6);
}
