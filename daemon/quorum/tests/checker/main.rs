//! A randomised checker of the real acceptor, proposer, mover and collector (Q1 to Q18), and the rules that it must miss when they are left out.
//!
//! Each seed is a world: five daemons, replica sets of three, moves between them, clients that try again, tombstones that are forgotten; messages
//! lost, repeated and reordered; crashes that lose what was not synced, and a lost disk. Checked: each key's history is linearizable; revisions and
//! fences only grow; what a client was told has not happened (503) is never applied; after the faults, everything ends.
//!
//! `ISOCHRONE_QUORUM_SEEDS=0..5000000 cargo test --release -p isochrone-quorum --test checker random_histories` runs others than the usual seeds.

mod bench;
mod clients;
mod directed;
mod disk;
mod history;
mod linear;
mod node;
mod requests;
#[path = "../support/mod.rs"]
mod support;
mod world;

use std::ops::Range;
use std::sync::Mutex;

use isochrone_quorum::Mutation;
use world::{Report, World};

const SEEDS: Range<u64> = 0..20_000;

/// Runs worlds on every core; the first seed that fails, and how.
#[allow(clippy::disallowed_methods)] // A checker may use the cores that there are; each world stays in one thread.
fn first_failure(seeds: Range<u64>, mutation: Option<Mutation>) -> (Option<(u64, String)>, Report) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let found: Mutex<(Option<(u64, String)>, Report)> = Mutex::default();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (found, seeds) = (&found, seeds.clone());
            scope.spawn(move || {
                for seed in seeds.filter(|seed| seed % threads == thread) {
                    let result = World::new(seed, mutation).run();
                    let mut found = found.lock().expect("no thread panics with it");
                    match result {
                        _ if found.0.is_some() => return,
                        Ok(report) => found.1.add(report),
                        Err(error) => found.0 = Some((seed, error)),
                    }
                }
            });
        }
    });
    found.into_inner().expect("no thread panics with it")
}

#[allow(clippy::disallowed_methods)] // Which seeds to run is the one thing that is asked of the outside.
fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("ISOCHRONE_QUORUM_SEEDS") else { return SEEDS };
    let (from, to) = text.split_once("..").expect("ISOCHRONE_QUORUM_SEEDS=<from>..<to>");
    from.parse().expect("a number")..to.parse().expect("a number")
}

#[test]
fn random_histories_are_linearizable() {
    let (failure, report) = first_failure(seeds(), None);
    if let Some((seed, error)) = failure {
        panic!("ISOCHRONE_QUORUM_SEEDS={seed}..{} cargo test -p isochrone-quorum --test checker random_histories\n{error}", seed + 1);
    }
    assert!(report.operations > 0, "nothing was tested: {report:?}");
}

/// The rules that chance finds missing, each within so many seeds. The others are missed by the histories in `directed`.
const FOUND_BY_CHANCE: &[(Mutation, u64)] = &[
    (Mutation::ForgetRequests, 500),
    (Mutation::ShortRetention, 500),
    (Mutation::TakeOldRequests, 1_000),
    (Mutation::NoPromiseOnAccept, 2_000),
    (Mutation::NoWriteBack, 1_000),
    (Mutation::NoFloor, 2_000),
    (Mutation::NoSweep, 1_000),
    (Mutation::SameStoreAfterLoss, 10_000),
    (Mutation::ForgetAccepts, 500),
    (Mutation::ForgetEarly, 2_000),
];

#[test]
fn a_rule_left_out_is_found_by_chance() {
    for &(mutation, seeds) in FOUND_BY_CHANCE {
        let (failure, _) = first_failure(0..seeds, Some(mutation));
        assert!(failure.is_some(), "{mutation:?} is not missed in {seeds} seeds");
    }
}
