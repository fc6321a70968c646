//! Whole clusters in virtual time, each from one seed. The long form is `cargo sim --help`.

use std::thread;
use std::time::Duration;

use isochrone::node::{Mutation, NodeOptions};
use tests::clients::script::{Ask, Line};
use tests::faults::{Fault, Planned};
use tests::model::typed::Deed;
use tests::run::{EXACT, Outcome, Plan, again, run};
use tests::shape::Shape;

/// How long things break in one seed.
const TIME: Duration = Duration::from_secs(12);

/// Runs a plan on a thread of its own, whose name says its seed.
fn run_alone(plan: Plan) -> Outcome {
    let name = format!("seed {}", plan.seed);
    let thread = thread::Builder::new().name(name).stack_size(8 << 20).spawn(move || run(&plan)).expect("a thread");
    thread.join().expect("the simulator does not panic")
}

fn check(seed: u64) -> Result<(), String> {
    let outcome = run_alone(Plan::new(seed, TIME));
    if outcome.violations.is_empty() {
        return Ok(());
    }
    let violations = outcome.violations.join("\n    ");
    Err(format!("seed {seed}: {outcome}\n    {violations}\n  again: {}", again(seed, TIME)))
}

/// Runs many seeds, on two threads; each run is still one thread of its own.
fn check_all(seeds: std::ops::Range<u64>) {
    let half = |first: u64| {
        let seeds = seeds.clone();
        thread::spawn(move || seeds.skip(first as usize).step_by(2).filter_map(|seed| check(seed).err()).collect::<Vec<_>>())
    };
    let halves = [half(0), half(1)];
    let failures: Vec<String> = halves.into_iter().flat_map(|half| half.join().expect("no panic")).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn nothing_acknowledged_is_lost_and_every_replica_agrees_after_healing() {
    check_all(1..21);
}

/// To the packet where tokio's wake-ups are seeded, see [`EXACT`]; otherwise both must be well.
#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [20, 40] {
        let (first, again) = (run_alone(Plan::new(seed, TIME)), run_alone(Plan::new(seed, TIME)));
        assert!(!EXACT || first == again, "seed {seed}: {first}, then {again}");
        assert_eq!((&first.violations, &again.violations), (&Vec::new(), &Vec::new()));
    }
}

fn at(millis: u64, lasts_millis: u64, fault: Fault) -> Planned {
    Planned { at: Duration::from_millis(millis), lasts: Duration::from_millis(lasts_millis), fault }
}

/// Anti-entropy would mend what other rules are there to keep, so that their loss would not be seen.
fn without_repair(options: &mut NodeOptions) {
    options.repair.interval = (Duration::MAX, Duration::MAX);
}

/// Plants a bug, and says whether one of a few seeds catches it.
fn is_caught(mutation: Mutation, shape: (usize, usize), faults: &[Planned]) -> bool {
    (1..=6).any(|seed| {
        let shape = Shape::of(shape.0, shape.1, false, seed);
        let plan = Plan {
            shape: Some(shape),
            faults: Some(faults.to_vec()),
            mutation: Some(mutation),
            tune: Some(without_repair),
            ..Plan::new(seed, TIME)
        };
        let outcome = run_alone(plan);
        outcome.violations.iter().any(|v| ["acknowledged", "equal", "should be", "was shown"].iter().any(|word| v.contains(word)))
    })
}

/// The same faults without the bug: what catches the bug is the bug.
fn is_clean(shape: (usize, usize), faults: &[Planned]) -> bool {
    let plan = Plan {
        shape: Some(Shape::of(shape.0, shape.1, false, 1)),
        faults: Some(faults.to_vec()),
        tune: Some(without_repair),
        ..Plan::new(1, TIME)
    };
    let violations = run_alone(plan).violations;
    violations.iter().for_each(|violation| println!("{violation}"));
    violations.is_empty()
}

#[test]
fn e5_acknowledging_before_the_sync_is_caught() {
    let crashes: Vec<Planned> =
        (0..9).map(|n| at(1_000 + n * 1_100, 500, Fault::Crash { node: n as usize % 3, after_writes: 0 })).collect();
    assert!(is_clean((3, 1), &crashes));
    assert!(is_caught(Mutation::AcknowledgeUnsynced, (3, 1), &crashes));
}

#[test]
fn e5_trimming_the_log_before_every_replica_has_it_is_caught() {
    let faults = [at(1_000, 9_000, Fault::CutRegion { of: 2 })];
    assert!(is_clean((3, 1), &faults));
    assert!(is_caught(Mutation::TrimUndelivered, (3, 1), &faults));
}

#[test]
fn e5_not_sending_again_after_a_reconnection_is_caught() {
    let faults = [at(2_000, 6_000, Fault::CutRegion { of: 1 })];
    assert!(is_clean((3, 1), &faults));
    assert!(is_caught(Mutation::SkipUnacknowledged, (3, 1), &faults));
}

#[test]
fn e7_forgetting_a_delete_before_it_is_stable_is_caught() {
    let faults = [at(500, 5_000, Fault::CutRegion { of: 2 }), at(6_500, 4_000, Fault::CutRegion { of: 1 })];
    assert!(is_clean((3, 1), &faults));
    assert!(is_caught(Mutation::ForgetUnstable, (3, 1), &faults));
}

#[test]
fn e4_a_clock_an_hour_ahead_takes_no_writes_and_loses_none() {
    let hour = 3_600_000;
    let faults = [at(3_000, 4_000, Fault::ClockStep { node: 2, millis: hour })];
    let plan = Plan { shape: Some(Shape::of(3, 1, false, 5)), faults: Some(faults.to_vec()), ..Plan::new(5, TIME) };
    let outcome = run_alone(plan);
    // Healed only once its own clock has caught up with the writes that it took while it was the one to be wrong.
    assert!(outcome.violations.iter().all(|v| !v.contains("acknowledged it")), "{:?}", outcome.violations);
}

fn ask(millis: u64, daemon: usize, quorum: bool, ask: Ask) -> Line {
    Line { at: Duration::from_millis(millis), daemon, ns: "data", key: "k", quorum, ask }
}

fn update(add: &[&str], remove: &[&str]) -> Ask {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    Ask::Change(Deed::Update { add: names(add), remove: names(remove) }, None)
}

/// Whether these requests to three daemons under these faults go wrong with the bug, and only with it.
fn tells(mutation: Mutation, faults: &[Planned], lines: &[Line], tune: fn(&mut NodeOptions)) -> bool {
    let violations = |mutation| {
        let plan = Plan::new(1, TIME);
        let shape = Some(Shape::of(3, 1, false, 1));
        let plan = Plan { shape, faults: Some(faults.to_vec()), lines: Some(lines.to_vec()), tune: Some(tune), mutation, ..plan };
        run_alone(plan).violations
    };
    assert_eq!(violations(None), Vec::<String>::new());
    !violations(Some(mutation)).is_empty()
}

/// The repair of a quorum read hangs in the network while a later delete reaches everybody and is forgotten; then it arrives.
///
/// Daemons 0 and 2 hold a value that 1 has not heard of yet. A reader at 0 sees that, and sends it to 1: in a packet of more than 600 bytes, which is
/// lost over and over, while all that tells how far everything is stable fits into less.
#[test]
fn e7_a_read_repair_that_comes_after_its_delete_was_forgotten_is_caught() {
    let faults =
        [at(9_000, 600, Fault::CutOneWay { from: 2, to: 1 }), at(9_300, 3_100, Fault::LoseLarge { from: 0, to: 1, bytes_max: 600 })];
    let lines = [ask(9_100, 2, false, Ask::Put(700)), ask(9_350, 0, true, Ask::Read), ask(10_300, 2, false, Ask::Delete)];
    let tune = |options: &mut NodeOptions| {
        without_repair(options);
        options.read_deadline = Duration::from_secs(5);
        options.sweep = (Duration::from_millis(100), 4_096);
    };
    assert!(tells(Mutation::AcceptStaleRepair, &faults, &lines, tune));
}

/// One add, asked for at two daemons that are cut off from each other.
#[test]
fn e1_counting_a_request_twice_that_was_repeated_in_another_region_is_caught() {
    let faults = [at(500, 3_000, Fault::CutRegion { of: 2 })];
    let add = || Ask::Change(Deed::Add(5), Some("one"));
    let lines = [ask(1_000, 0, false, add()), ask(1_500, 2, false, add())];
    assert!(tells(Mutation::CountRepeats, &faults, &lines, without_repair));
}

/// Daemon 1 hears of a remove from 0, before it hears from 2 of the add that was removed.
#[test]
fn e2_a_remove_that_comes_before_its_add_and_is_not_followed_up_is_caught() {
    let faults = [at(500, 4_000, Fault::CutOneWay { from: 2, to: 1 })];
    let lines = [ask(1_000, 2, false, update(&["a", "b"], &[])), ask(2_000, 0, false, update(&["c"], &["a"]))];
    assert!(tells(Mutation::IgnoreGaps, &faults, &lines, without_repair));
}

/// A daemon loses its power just after it has told others of an add that was not synced, and adds something else when it is back.
#[test]
fn e3_going_on_with_dots_that_peers_may_have_seen_is_caught() {
    let rounds = || (0..4).map(|n| (1_000 + n * 2_500, 15 + n * 10));
    let crash = |(begin, after)| at(begin + after, 400, Fault::Crash { node: 0, after_writes: 0 });
    let add = |millis, member: String| Line { ns: "cache", ..ask(millis, 0, false, update(&[&member], &[])) };
    let faults: Vec<Planned> = rounds().map(crash).collect();
    let adds = |(begin, _)| [add(begin, format!("lost-{begin}")), add(begin + 1_500, format!("kept-{begin}"))];
    let lines: Vec<Line> = rounds().flat_map(adds).collect();
    assert!(tells(Mutation::ReuseLife, &faults, &lines, without_repair));
}

#[test]
fn e9_a_replica_that_answers_a_session_without_waiting_is_caught() {
    assert!(is_clean((3, 1), &[]));
    assert!(is_caught(Mutation::NoSessionWait, (3, 1), &[]));
}
