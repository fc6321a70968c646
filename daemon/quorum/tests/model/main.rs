//! Every order of messages, timeouts and a move that a few clients can meet (Q5 to Q9, Q14): the real acceptor, proposer and mover under a model
//! checker, with its linearizability tester.
//!
//! ```text
//!   Ask(client)  Deliver(message)  Timeout(client)  Move ──> the next state, if it was not seen before ──> is its history linearizable?
//! ```
//!
//! A message that is never delivered is a lost one. What is left out here, crashes, repeated messages and clocks, is in the random worlds of `checker`. The
//! bounds below end within a minute: reads beside a write are explored to the end, writers and moves for so many steps. To the end as well, in
//! much more time and memory:
//!
//! ```text
//! ISOCHRONE_QUORUM_MODEL=large cargo test --release -p isochrone-quorum --test model
//! ```

mod cluster;
#[path = "../support/mod.rs"]
mod support;

use cluster::{Action, Cluster, Op, State};
use isochrone_quorum::Mutation;
use stateright::{Checker, Model, Property};

impl Model for Cluster {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.beginning()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.possible(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        self.after(state, &action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("linearizable", |_, state: &State| state.is_linearizable()),
            Property::sometimes("over", |cluster: &Self, state: &State| cluster.is_over(state)),
        ]
    }
}

#[allow(clippy::disallowed_methods)] // How much to explore is asked of the outside.
fn is_large() -> bool {
    std::env::var("ISOCHRONE_QUORUM_MODEL").is_ok_and(|size| size == "large")
}

fn cluster(scripts: &[&[Op]]) -> Cluster {
    let scripts = scripts.iter().map(|script| script.to_vec()).collect();
    Cluster { scripts, settled: 0, timeouts: 0, first: vec![0, 1, 2], then: None, mutation: None }
}

/// Explores all states, or those within so many steps.
#[allow(clippy::disallowed_methods, clippy::disallowed_macros)] // It may use the cores that there are, and says what it has seen.
fn explore(what: &str, cluster: Cluster, steps: Option<usize>) -> impl Checker<Cluster> + use<> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let builder = cluster.checker().threads(threads);
    let builder = if let Some(steps) = steps { builder.target_max_depth(steps) } else { builder };
    let checker = builder.spawn_bfs().join();
    println!("{what}: {} states, {} steps deep", checker.unique_state_count(), checker.max_depth());
    checker
}

/// Every state that can be reached is linearizable, and the end is reached.
fn holds(what: &str, cluster: Cluster) {
    explore(what, cluster, None).assert_properties();
}

/// The same within so many steps, or to the end where much may be explored.
fn holds_within(steps: usize, what: &str, cluster: Cluster) {
    if is_large() {
        return holds(what, cluster);
    }
    assert!(explore(what, cluster, Some(steps)).discovery("linearizable").is_none(), "{what} is not linearizable");
}

/// Without this rule, some state is not.
fn needs(mutation: Mutation, cluster: Cluster) {
    let checker = explore(&format!("without {mutation:?}"), Cluster { mutation: Some(mutation), ..cluster }, None);
    assert!(checker.discovery("linearizable").is_some(), "{mutation:?} is not missed");
}

#[test]
fn q9_reads_beside_a_write_are_linearizable() {
    let readers = cluster(&[&[Op::Put(1)], &[Op::Get, Op::Get]]);
    holds("one writes, one reads twice", readers.clone());
    needs(Mutation::NoWriteBack, readers);
}

#[test]
fn q6_q8_two_writers_are_linearizable_and_their_promises_are_kept() {
    let writers = Cluster { settled: 1, ..cluster(&[&[Op::Put(1), Op::GetForUpdate], &[Op::Put(2)]]) };
    needs(Mutation::NoPromiseOnAccept, writers.clone());
    holds_within(8, "a second writer comes to a key that is warm", Cluster { timeouts: 1, ..writers });
}

#[test]
fn q14_a_write_before_a_move_is_found_beside_it_and_after_it() {
    let moved = Cluster { settled: 1, then: Some(vec![1, 2, 3]), ..cluster(&[&[Op::Put(1)], &[Op::Get]]) };
    needs(Mutation::NoSweep, moved.clone());
    holds_within(10, "one reads while the slot moves", moved);
}
