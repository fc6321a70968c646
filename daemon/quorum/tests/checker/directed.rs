//! Histories that chance meets too seldom, or never: each ends well, and badly once its rule is left out.

use std::sync::Arc;

use isochrone_ident::StoreId;
use isochrone_quorum::{
    Answer, Ask, Ballot, Content, Expect, Failure, MoveOutput, Mover, MoverOptions, Mutation, OperationId, Outcome, Output, Request, Tag,
    Told, Verdict, Want, Why, Wish,
};

use crate::bench::{
    Bench, NOW, accept, ballot, collect, is_accept, is_refused, live, member, needs, owner, prepare, put, read, record, timer_of,
};
use crate::node::{acceptor_of, member_of};
use crate::support::Disk;
use crate::world::key;

#[test]
fn q3_a_promise_survives_a_crash() {
    needs(Mutation::VolatilePromise, |bench| {
        bench.ask(0, prepare(ballot(8, 1)));
        bench.crash(0);
        is_refused(&bench.ask(0, prepare(ballot(6, 2))), Why::Promised)
    });
}

#[test]
fn q4_a_message_of_a_past_phase_is_refused() {
    needs(Mutation::NoPhaseCheck, |bench| {
        let late = Request { scope: bench.configuration.scope(), tag: Tag::default(), ask: prepare(ballot(2, 1)) };
        bench.move_to([1, 2, 3]);
        bench.ask(1, Ask::Seal);
        is_refused(&bench.request(1, late).told, Why::Phase)
    });
}

#[test]
fn q4_whoever_comes_back_starts_from_empty() {
    needs(Mutation::NoWipe, |bench| {
        bench.ask(0, accept(&record(ballot(2, 1), live(1)), None));
        bench.move_to([1, 2, 3]);
        bench.moved();
        bench.move_to([0, 1, 2]);
        matches!(bench.ask(0, Ask::Read { key: key(0) }), Told::Shown { state, .. } if state.accepted.is_none())
    });
}

#[test]
fn q6_an_accept_is_a_promise() {
    needs(Mutation::NoPromiseOnAccept, |bench| {
        bench.ask(0, prepare(ballot(4, 1)));
        bench.ask(0, accept(&record(ballot(6, 2), live(1)), None));
        let state = match bench.ask(0, Ask::Read { key: key(0) }) {
            Told::Shown { state, .. } => state,
            other => panic!("{other:?}"),
        };
        state.promised == ballot(6, 2)
    });
}

#[test]
fn q6_a_repeated_accept_promises_next_only_if_it_keeps_it() {
    needs(Mutation::HollowRepeat, |bench| {
        let first = record(ballot(2, 1), live(1));
        bench.ask(0, accept(&first, None));
        let told = bench.ask(0, accept(&first, Some(ballot(8, 1))));
        assert_eq!(told, Told::Accepted { promised_next: true });
        is_refused(&bench.ask(0, prepare(ballot(6, 2))), Why::Promised)
    });
}

#[test]
fn q7_a_refused_request_that_was_tried_before_is_not_applied_later() {
    needs(Mutation::ConfirmByReading, |bench| {
        // The first try's accept reaches one acceptor alone.
        let mut first = bench.proposer(0, 1);
        let outputs = bench.submit(&mut first, put(1, Expect::Absent));
        let prepares = outputs.into_iter().filter(|output| matches!(output, Output::Send { to, .. } if to.node.0 < 3));
        let answers: Vec<Answer> = prepares.map(|output| bench.sent(output)).collect();
        let accepts: Vec<Output> = answers.into_iter().flat_map(|answer| first.answer(NOW, answer)).collect();
        assert!(is_accept(&accepts));
        bench.deliver(&mut first, accepts, &[0]);
        // The second try, elsewhere, finds the other two empty and must be refused there.
        let mut second = bench.proposer(1, 1);
        bench.run(&mut second, Want::ReadForUpdate, &[1, 2]);
        let retry = Wish { is_repeat: true, ..put(1, Expect::Present).into() };
        let mut third = bench.proposer(2, 1);
        let mut outputs = bench.submit(&mut third, retry);
        let mut told = None;
        for _ in 0..4 {
            let rest = bench.deliver(&mut third, outputs, &[1, 2]);
            told = rest.iter().find_map(|output| if let Output::Done { result, .. } = output { Some(result.clone()) } else { None });
            if told.is_some() {
                break;
            }
            let timer = timer_of(&rest);
            outputs = third.timer(NOW, timer);
        }
        assert!(matches!(told, Some(Ok(Outcome::Written(Verdict::Refused(_))))), "{told:?}");
        // Whoever comes next must not find the first try.
        let mut next = bench.proposer(3, 1);
        let found = bench.settle(&mut next);
        !matches!(found, Some(Content::Live(_)))
    });
}

#[test]
fn q2_two_lives_of_a_daemon_share_no_ballot() {
    needs(Mutation::NoIncarnation, |bench| {
        let ballots: Vec<Ballot> = [1, 2]
            .iter()
            .flat_map(|&life| {
                let mut proposer = bench.proposer(0, life);
                bench.submit(&mut proposer, put(1, Expect::Anything))
            })
            .filter_map(|output| match output {
                Output::Send { to, request } if to == member(0) => Some(request.ask),
                _ => None,
            })
            .filter_map(|ask| if let Ask::Prepare { ballot, .. } = ask { Some(ballot) } else { None })
            .collect();
        ballots[0] != ballots[1]
    });
}

#[test]
fn q14_e_a_promise_that_only_a_leaver_remembered_goes_along_with_the_copy() {
    needs(Mutation::CopyRecordsOnly, |bench| {
        bench.move_to([1, 2, 3]);
        let copy = Ask::Copy {
            key: Some(key(0)),
            record: Some(record(ballot(2, 1), live(1))),
            promised: ballot(8, 1),
            slot_promised: ballot(9, 2),
            floor: 0,
        };
        assert!(matches!(bench.ask(3, copy), Told::Done { .. }));
        let other_key = Ask::Prepare { key: key(1), ballot: ballot(8, 3) };
        is_refused(&bench.ask(3, prepare(ballot(6, 2))), Why::Promised) && is_refused(&bench.ask(3, other_key), Why::Promised)
    });
}

#[test]
fn q14_e_a_copy_depends_on_the_keys_own_promise_alone() {
    let mut bench = Bench::new(None);
    bench.move_to([1, 2, 3]);
    let copy = |record, promised, slot_promised| Ask::Copy { key: Some(key(0)), record, promised, slot_promised, floor: 20 };
    // Neither the slot's promise nor the floor keeps a certified record out.
    let slot_only = Ask::Copy { key: None, record: None, promised: Ballot::NONE, slot_promised: ballot(31, 1), floor: 20 };
    assert!(matches!(bench.ask(3, slot_only), Told::Done { .. }));
    let first = record(ballot(2, 1), live(1));
    assert!(matches!(bench.ask(3, copy(Some(first), ballot(2, 1), Ballot::NONE)), Told::Done { .. }));
    // The key's own promise does; a higher record counts as an acknowledgement.
    bench.ask(2, prepare(ballot(40, 1)));
    let second = record(ballot(6, 1), live(2));
    assert!(is_refused(&bench.ask(2, copy(Some(second.clone()), ballot(6, 1), Ballot::NONE)), Why::Promised));
    bench.ask(1, accept(&record(ballot(42, 2), live(3)), None));
    assert!(matches!(bench.ask(1, copy(Some(second), ballot(50, 1), Ballot::NONE)), Told::Done { .. }));
    assert!(is_refused(&bench.ask(1, prepare(ballot(48, 3))), Why::Promised), "it has raised its promise all the same");
}

/// Drives a mover over the acceptors in `to`; what it did beside sending.
fn drive(bench: &mut Bench, to: &[usize]) -> Vec<MoveOutput> {
    let options = MoverOptions { mutation: bench.mutation, ..Default::default() };
    let mut mover = Mover::new(1, options, Arc::clone(&bench.configuration));
    let (mut outputs, mut rest) = (mover.start(), Vec::new());
    while !outputs.is_empty() {
        let mut more = Vec::new();
        for output in outputs {
            match output {
                MoveOutput::Send { to: whom, request } => {
                    let index = (whom.node.0 - 1) as usize;
                    if to.contains(&index) {
                        let answer = bench.request(index, request);
                        more.extend(mover.answer(answer));
                    }
                }
                other => rest.push(other),
            }
        }
        outputs = more;
    }
    rest
}

#[test]
fn q14_a_move_copies_every_key_before_it_ends() {
    needs(Mutation::NoSweep, |bench| {
        let mut writer = bench.proposer(0, 1);
        bench.run(&mut writer, put(1, Expect::Anything), &[0, 1]);
        bench.move_to([2, 3, 4]);
        assert!(drive(bench, &[0, 1, 3, 4]).contains(&MoveOutput::Certified));
        bench.moved();
        read(bench, &[3, 4]) == Some(live(1))
    });
}

#[test]
fn q14_d_an_unconfirmed_maximum_is_identified_and_not_copied() {
    let mut bench = Bench::new(None);
    bench.ask(0, accept(&record(ballot(2, 1), live(1)), None));
    bench.move_to([1, 2, 3]);
    let done = drive(&mut bench, &[0, 1, 2, 3]);
    // The seals of 0 and 1 come first, and they differ.
    assert!(done.contains(&MoveOutput::Identify(key(0))) && !done.contains(&MoveOutput::Certified), "{done:?}");
}

#[test]
fn q16_a_tombstone_that_all_show_is_forgotten_and_leaves_the_floor_behind() {
    let mut bench = Bench::new(None);
    let tombstone = record(ballot(6, 1), Content::Tombstone);
    (0..3).for_each(|index| drop(bench.ask(index, accept(&tombstone, Some(ballot(8, 1))))));
    assert_eq!(collect(&mut bench, &[0, 1, 2]), Some(1));
    for index in 0..3 {
        assert!(bench.nodes[index].0.keys.is_empty());
        assert!(is_refused(&bench.ask(index, prepare(ballot(8, 2))), Why::Floor), "Q16c");
    }
    assert_eq!(read(&mut bench, &[0, 1]), None);
}

#[test]
fn q16_b_a_tombstone_that_one_replica_has_not_shown_stays() {
    needs(Mutation::ForgetByMajority, |bench| {
        let tombstone = record(ballot(6, 1), Content::Tombstone);
        (0..2).for_each(|index| drop(bench.ask(index, accept(&tombstone, None))));
        bench.ask(2, accept(&record(ballot(2, 1), live(1)), None));
        collect(bench, &[0, 1]);
        !bench.nodes[0].0.keys.is_empty() && !bench.nodes[1].0.keys.is_empty()
    });
}

#[test]
fn q16_c_a_ballot_at_or_below_the_floor_is_refused() {
    needs(Mutation::NoFloor, |bench| {
        bench.ask(0, Ask::SetFloor { floor: 9 });
        is_refused(&bench.ask(0, accept(&record(ballot(8, 1), live(1)), None)), Why::Floor)
    });
}

#[test]
fn q16_d_a_tombstone_with_a_promise_above_the_floor_is_not_erased() {
    needs(Mutation::EraseBelowPromise, |bench| {
        let tombstone = record(ballot(6, 1), Content::Tombstone);
        bench.ask(0, accept(&tombstone, None));
        bench.ask(0, Ask::SetFloor { floor: 9 });
        bench.ask(0, prepare(ballot(20, 1)));
        bench.ask(0, Ask::Erase { key: key(0), ballot: tombstone.ballot, floor: 9 });
        is_refused(&bench.ask(0, prepare(ballot(10, 2))), Why::Promised)
    });
}

#[test]
fn q18_the_owner_of_a_slot_writes_a_cold_key_in_one_round_trip() {
    let mut bench = Bench::new(None);
    let mut owner = owner(&mut bench);
    let outputs = bench.submit(&mut owner, put(1, Expect::Absent));
    assert!(is_accept(&outputs), "no prepare goes first");
    let rest = bench.deliver(&mut owner, outputs, &[1, 2]);
    assert!(rest.iter().any(|output| matches!(output, Output::Done { result: Ok(Outcome::Written(Verdict::Applied { .. })), .. })));
    assert_eq!(read(&mut bench, &[0, 1]), Some(live(1)));
}

#[test]
fn q18_a_slot_promise_survives_a_crash() {
    needs(Mutation::VolatileSlotPromise, |bench| {
        bench.ask(0, Ask::SlotPrepare { ballot: ballot(9, 1), after: None });
        bench.crash(0);
        is_refused(&bench.ask(0, prepare(ballot(8, 2))), Why::Promised)
    });
}

#[test]
fn q18_a_an_accept_below_the_slots_promise_is_refused() {
    needs(Mutation::NoEffectivePromise, |bench| {
        bench.ask(0, Ask::SlotPrepare { ballot: ballot(9, 1), after: None });
        is_refused(&bench.ask(0, accept(&record(ballot(8, 2), live(1)), None)), Why::Promised)
    });
}

#[test]
fn q18_d_a_slots_ballot_is_used_once_for_a_key() {
    needs(Mutation::ReuseGrant, |bench| {
        let mut owner = owner(bench);
        let outputs = bench.submit(&mut owner, put(1, Expect::Anything));
        assert!(is_accept(&outputs));
        let again = owner.timer(NOW, timer_of(&outputs));
        !is_accept(&again)
    });
}

#[test]
fn q18_e_grants_end_with_the_life_that_holds_them() {
    needs(Mutation::GrantsOutliveRestart, |bench| {
        let mut before = owner(bench);
        bench.run(&mut before, put(1, Expect::Anything), &[0, 1, 2]);
        let mut after = bench.proposer(0, 2);
        if bench.mutation.is_some() {
            after.inherit_grants(&mut before);
        }
        // It has forgotten that the key is no longer granted.
        let outputs = bench.submit(&mut after, put(2, Expect::Anything));
        !is_accept(&outputs)
    });
}

#[test]
fn q18_e_grants_end_with_their_phase() {
    needs(Mutation::GrantsOutlivePhase, |bench| {
        let mut owner = owner(bench);
        bench.move_to([1, 2, 3]);
        owner.configure(NOW, Arc::clone(&bench.configuration));
        let outputs = bench.submit(&mut owner, put(1, Expect::Anything));
        !is_accept(&outputs)
    });
}

#[test]
fn q8_the_second_write_of_a_key_takes_one_round_trip() {
    let mut bench = Bench::new(None);
    let mut writer = bench.proposer(0, 1);
    bench.run(&mut writer, put(1, Expect::Absent), &[0, 1]);
    let outputs = bench.submit(&mut writer, put(2, Expect::Present));
    assert!(is_accept(&outputs));
    bench.deliver(&mut writer, outputs, &[1, 2]);
    assert_eq!(read(&mut bench, &[0, 1]), Some(live(2)));
}

#[test]
fn q9_a_value_that_one_replica_holds_is_written_back_before_it_is_answered() {
    needs(Mutation::NoWriteBack, |bench| {
        bench.ask(0, accept(&record(ballot(2, 1), live(1)), None));
        read(bench, &[0, 1]) == read(bench, &[1, 2])
    });
}

#[test]
fn q10_a_timeout_is_unknown_once_an_accept_has_left_and_nothing_before() {
    needs(Mutation::ForgetAccepts, |bench| {
        let mut early = bench.proposer(0, 1);
        bench.submit(&mut early, put(1, Expect::Anything));
        let nothing = Failure::NothingHappened(isochrone_quorum::Because::NoQuorum);
        assert_eq!(early.give_up(NOW, OperationId(bench.operations)).0, Some(nothing));
        let mut late = owner(bench);
        bench.submit(&mut late, put(2, Expect::Anything));
        late.give_up(NOW, OperationId(bench.operations)).0 == Some(Failure::OutcomeUnknown)
    });
}

#[test]
fn q15_a_lost_disk_is_not_taken_for_the_member_that_it_was() {
    let mut bench = Bench::new(None);
    let anew = member_of(0, StoreId(99));
    bench.nodes[0] = (Disk::default(), acceptor_of(anew, None));
    assert!(is_refused(&bench.ask(0, prepare(ballot(2, 1))), Why::NotMember));
}
