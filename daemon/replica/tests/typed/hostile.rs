//! Bytes from a peer or a disk never panic, and what decodes is a state that can be joined, viewed and encoded.

use isochrone_ident::{Hlc, WallMicros};
use isochrone_replica::{Actor, Delta, Record, RegisterContext, Typed, Upkeep};
use proptest::prelude::*;

use crate::scene::{Daemon, bytes, count_once, daemon, map, put, update, version};

/// A state of each kind, with something of everything in it.
fn states() -> Vec<Daemon> {
    let changes = [
        vec![count_once(5, 77), count_once(-3, 78)],
        vec![update(&["a", "b"], &[]), update(&["c"], &["a"])],
        vec![map(&[("f", "v")], &[], &[("n", 1)]), map(&[], &["n"], &[("m", 2)])],
        vec![put("a", None), put("b", None)],
    ];
    let build = |changes: Vec<_>| {
        let (mut a, mut b) = (daemon(1), daemon(2));
        a.write(1, Some(9), &changes[0]).expect("taken");
        a.write(50, None, &changes[0].clone()).expect("taken");
        b.pull(&a);
        b.write(60, None, &changes[1]).expect("taken");
        b
    };
    changes.into_iter().map(build).collect()
}

/// Does everything with a state that a daemon does with one from a peer.
fn use_state(state: &Typed, with: &Typed) {
    let mut joined = with.clone();
    let _ = joined.join(state);
    let _ = state.lacks(with);
    for ms in [0, 55, u64::MAX / 1000] {
        let _ = joined.view(WallMicros(ms * 1000), u64::MAX);
        let _ = state.view(WallMicros(ms * 1000), 5);
    }
    let actor = Actor { node: isochrone_ident::NodeId(1), life: 1 };
    state.clone().prune(&Upkeep { skew_ms: u64::MAX, stable: Hlc(u64::MAX), claim_ms: 0, actor });
    let (_, _, _) = (state.bytes(), state.expires_at(), state.seen().count());
    let again: Typed = postcard::from_bytes(&bytes(state)).expect("what was decoded encodes and decodes");
    assert_eq!(&again, state);
    let mut daemon = Daemon { state: Some(state.clone()), ..daemon(1) };
    for change in [count_once(i64::MIN, 1), update(&["x"], &["a"]), map(&[("f", "w")], &["n"], &[("o", 1)]), put("x", None)] {
        let _ = daemon.write(100, None, &change);
    }
}

fn damaged(mut bytes: Vec<u8>, damage: &[(usize, u8)]) -> Vec<u8> {
    for (at, with) in damage {
        let at = at % bytes.len();
        bytes[at] = *with;
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn bytes_of_any_origin_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..96)) {
        let _ = postcard::from_bytes::<Typed>(&bytes);
        let _ = postcard::from_bytes::<Delta>(&bytes);
        let _ = postcard::from_bytes::<Record>(&bytes);
        let _ = postcard::from_bytes::<RegisterContext>(&bytes);
    }

    #[test]
    fn a_damaged_state_is_refused_or_is_a_state(damage in prop::collection::vec((any::<usize>(), any::<u8>()), 1..4)) {
        for daemon in states() {
            let held = daemon.held();
            if let Ok(state) = postcard::from_bytes::<Typed>(&damaged(bytes(held), &damage)) {
                use_state(&state, held);
            }
        }
    }

    #[test]
    fn a_damaged_delta_is_refused_or_applied_without_a_panic(damage in prop::collection::vec((any::<usize>(), any::<u8>()), 1..4)) {
        for mut daemon in states() {
            for change in [count_once(5, 79), update(&["d"], &["b"]), map(&[("g", "v")], &["m"], &[("o", 1)]), put("c", None)] {
                let Ok(delta) = daemon.write(70, None, &change) else { continue };
                let bytes = damaged(postcard::to_allocvec(&delta).expect("encodes"), &damage);
                if let Ok(delta) = postcard::from_bytes::<Delta>(&bytes) {
                    let _ = Typed::apply(None, &delta);
                    let _ = Typed::apply(daemon.state.as_ref(), &delta);
                }
            }
        }
    }
}

#[test]
fn a_number_of_any_size_in_place_of_any_byte_never_panics() {
    for daemon in states() {
        let good = bytes(daemon.held());
        for at in 0..good.len() {
            let mut bytes = good[..at].to_vec();
            bytes.extend([0xff; 9]);
            bytes.push(1);
            bytes.extend(&good[at + 1..]);
            if let Ok(state) = postcard::from_bytes::<Typed>(&bytes) {
                use_state(&state, daemon.held());
            }
        }
    }
}

#[test]
fn a_value_and_a_typed_state_under_one_key_do_not_merge_and_neither_is_older() {
    let daemon = states().remove(0);
    let typed = Record::typed(version(60, 2), daemon.held().clone());
    let value = Record::tombstone(version(61, 2));
    assert!(typed.clone().merge(value.clone()).is_err());
    assert!(value.clone().merge(typed.clone()).is_err());
    assert!(!typed.is_older_than(&value) && !value.is_older_than(&typed));
}

#[test]
fn records_of_typed_states_join_and_know_which_is_older() {
    let (mut a, mut b) = (daemon(1), daemon(2));
    b.apply(&a.take(1, &update(&["a"], &[])));
    let common = Record::typed(version(1, 1), a.held().clone());
    a.take(3, &update(&["b"], &[]));
    b.take(2, &update(&["c"], &[]));
    let (ours, theirs) = (Record::typed(version(3, 1), a.held().clone()), Record::typed(version(2, 2), b.held().clone()));
    let both = ours.clone().merge(theirs.clone()).expect("they join");
    assert_eq!(theirs.clone().merge(ours.clone()), Ok(both.clone()));
    assert_eq!(both.version, version(3, 1));
    assert!(ours.is_older_than(&theirs) && theirs.is_older_than(&ours) && common.is_older_than(&ours));
    assert!(!both.is_older_than(&ours) && !both.is_older_than(&both) && !ours.is_older_than(&common));
}
