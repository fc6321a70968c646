//! A majority lost for good, and what those left make of it.

use std::collections::BTreeSet;
use std::time::Duration;

use isochrone_council::{ClusterState, Command, CouncilId, ProposeError, RecoverError, Recovery, Refusal, follow};
use isochrone_ident::{ClusterName, NodeId, Slot, StoreId};
use tokio::time::sleep;

use crate::harness::{Cluster, PATIENCE, file, member};

const FIVE: [&str; 5] = ["us", "eu", "ap", "sa", "af"];
const LOST: [u128; 3] = [3, 4, 5];

fn unfounded() -> ClusterState {
    ClusterState::new(ClusterName::new("test").unwrap())
}

fn look(cluster: &Cluster, n: u128, lost: &[u128]) -> Result<Recovery, RecoverError> {
    let lost: BTreeSet<NodeId> = lost.iter().copied().map(NodeId).collect();
    Recovery::look(cluster.disk(n).open(), unfounded(), NodeId(n), &lost, 7)
}

fn follow_on(cluster: &Cluster, n: u128, recovery: &Recovery) -> Result<CouncilId, RecoverError> {
    follow(cluster.disk(n).open(), unfounded(), NodeId(n), &recovery.file().unwrap())
}

/// Five members of which three are gone and two have stopped; the last change was ordered by all but node 2.
async fn ruins(seed: u64) -> Cluster {
    let cluster = Cluster::of(seed, &FIVE).await;
    cluster.settle(1).await;
    cluster.isolate(&[2]);
    let leader = cluster.leader_but(&[2]).await;
    cluster.node(leader).propose(file("the last change", None), PATIENCE).await.unwrap();
    cluster.until(1, |c| &*c.state().file.text == "the last change").await;
    for n in LOST.into_iter().chain([1, 2]) {
        cluster.stop(n).await;
    }
    cluster.heal();
    cluster
}

#[tokio::test(start_paused = true)]
async fn those_left_found_the_council_anew_and_go_on() {
    let mut cluster = ruins(31).await;
    let recovery = look(&cluster, 1, &LOST).unwrap();
    assert_eq!((recovery.lost.len(), recovery.left.len()), (3, 2));
    assert!(recovery.eventual_lost.iter().chain(recovery.cuts.iter().map(|cut| &cut.slot)).count() > 0);
    recovery.begin(cluster.disk(1).open()).unwrap();
    assert_eq!(follow_on(&cluster, 2, &recovery).unwrap(), recovery.new);
    assert_eq!(follow_on(&cluster, 2, &recovery).unwrap(), recovery.new, "again");
    cluster.restart(1).await;
    cluster.restart(2).await;
    cluster.node(2).propose(file("more", None), PATIENCE).await.unwrap();
    cluster.settle(1).await;
    let newest = cluster.node(1).state().applied;
    for n in [1, 2] {
        cluster.until(n, |c| c.state().applied >= newest).await;
        let state = cluster.node(n).state();
        assert_eq!((state.council, state.members.len(), state.voters.len()), (recovery.new, 2, 1));
        assert_eq!(state.file.revision, 3, "nothing that node 1 had is lost");
        assert!(LOST.iter().all(|&n| state.is_removed(NodeId(n))));
        assert!(Slot::all().all(|slot| state.placement.strong.read_set(slot).all(|node| node.0 <= 2)));
    }
}

#[tokio::test(start_paused = true)]
async fn the_lost_ones_never_come_back_into_it() {
    let mut cluster = ruins(32).await;
    let recovery = look(&cluster, 1, &LOST).unwrap();
    recovery.begin(cluster.disk(1).open()).unwrap();
    follow_on(&cluster, 2, &recovery).unwrap();
    for n in 1..=5 {
        cluster.restart(n).await;
    }
    cluster.node(1).propose(file("ours", None), PATIENCE).await.unwrap();
    let error = cluster.join_once(3, 1).await.unwrap_err();
    assert!(error.to_string().contains("another council"), "{error}");
    sleep(Duration::from_secs(30)).await; // the three are a majority of what was, and go on among themselves
    assert_eq!(cluster.node(1).state().council, recovery.new);
    assert_eq!(cluster.node(2).state().council, recovery.new);
    assert_eq!(cluster.node(3).state().council, recovery.old);
    assert_eq!(&*cluster.node(2).state().file.text, "ours");
    let lost = NodeId(3);
    assert!(cluster.node(3).state().members.contains_key(&NodeId(1)) && !cluster.node(1).state().members.contains_key(&lost));
    cluster.stop(3).await;
    cluster.forget_disk(3);
    cluster.start(isochrone_council::Member { store: StoreId(77), ..member(3, "ap") }).await;
    cluster.settle(1).await;
    cluster.join(3, 1).await; // as a new one it may
    cluster.until(3, |c| c.state().council == recovery.new && c.state().members.len() == 3).await;
}

#[tokio::test(start_paused = true)]
async fn the_longest_log_of_those_left_is_the_one_to_recover_from() {
    let cluster = ruins(33).await;
    let (older, newest) = (look(&cluster, 2, &LOST).unwrap(), look(&cluster, 1, &LOST).unwrap());
    assert!((older.last_term, older.last_index) < (newest.last_term, newest.last_index));
    let error = follow_on(&cluster, 1, &older).unwrap_err();
    assert!(matches!(error, RecoverError::Newer { .. }), "{error}");
    follow_on(&cluster, 2, &newest).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_council_is_not_replaced_without_need_and_nobody_is_given_up_by_mistake() {
    let cluster = ruins(34).await;
    assert!(matches!(look(&cluster, 1, &[4, 5]).unwrap_err(), RecoverError::NotNeeded { left: 3, voters: 5 }));
    assert!(matches!(look(&cluster, 1, &[1, 4, 5]).unwrap_err(), RecoverError::NotLost(NodeId(1))));
    assert!(matches!(look(&cluster, 1, &[3, 4, 9]).unwrap_err(), RecoverError::Refused(Refusal::UnknownMember(NodeId(9)))));
    let stranger = Recovery::look(cluster.disk(1).open(), unfounded(), NodeId(9), &BTreeSet::new(), 7);
    assert!(matches!(stranger.unwrap_err(), RecoverError::NotAMember(NodeId(9))));
    let recovery = look(&cluster, 1, &LOST).unwrap();
    assert!(matches!(follow_on(&cluster, 3, &recovery).unwrap_err(), RecoverError::GivenUp));
    let mut damaged = recovery.file().unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    let refused = follow(cluster.disk(2).open(), unfounded(), NodeId(2), &damaged);
    assert!(matches!(refused.unwrap_err(), RecoverError::BadFile));
}

#[tokio::test(start_paused = true)]
async fn looking_changes_nothing() {
    let mut cluster = ruins(35).await;
    look(&cluster, 1, &LOST).unwrap();
    for n in 1..=5 {
        cluster.restart(n).await;
    }
    cluster.node(1).propose(file("as before", None), PATIENCE).await.unwrap();
    assert_eq!(cluster.node(1).state().members.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn strong_sets_that_lost_their_majority_go_on_while_the_council_lives() {
    let cluster = Cluster::tuned_of(36, &FIVE, |o| o.completes_strong = false).await;
    cluster.settle_strong(1).await;
    cluster.settle(1).await;
    for n in [4, 5] {
        cluster.stop(n).await;
    }
    let leader = cluster.leader_but(&[4, 5]).await;
    cluster.node(leader).propose(Command::Remove(NodeId(4)), PATIENCE).await.unwrap();
    let refused = cluster.node(leader).propose(Command::Remove(NodeId(5)), PATIENCE).await;
    assert!(matches!(refused, Err(ProposeError::Refused(Refusal::StrongMajority { .. }))), "{refused:?}");
    cluster.node(leader).give_up([NodeId(4), NodeId(5)].into(), PATIENCE).await.unwrap();
    cluster.settle_strong(leader).await;
    cluster.settle(leader).await;
    let state = cluster.node(leader).state();
    assert_eq!(state.members.len(), 3);
    assert!(Slot::all().all(|slot| state.placement.strong.read_set(slot).count() == 3));
}
