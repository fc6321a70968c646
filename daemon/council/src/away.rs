//! Members that are away, and when one has been away for too long (E7).
//!
//! ```text
//!   not seen alive --- away_max ---> overdue --- may_go ---> Retire (one at a time)
//!        ^                |                        |
//!        +-- seen again --+                        +--> kept, with the reason, and told to operators
//! ```
//!
//! The count of absences is a hint: it comes from what this daemon sees. Retiring is safe whatever the hint, because the state decides by store, and
//! a retired store is refused by everybody from then on; what `may_go` guards is the data.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use isochrone_ident::{NodeId, Slot};
use isochrone_placement::ClassPlacement;
use tokio::time::Instant;

use crate::state::ClusterState;

/// Since when each member has not been seen alive. Cloning shares it.
#[derive(Clone, Default)]
pub(crate) struct Absences(Arc<Mutex<BTreeMap<NodeId, Instant>>>);

impl Absences {
    fn since(&self) -> MutexGuard<'_, BTreeMap<NodeId, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of who is alive among the members; whoever is no member is forgotten.
    pub(crate) fn look(&self, members: impl IntoIterator<Item = NodeId>, is_alive: impl Fn(NodeId) -> bool) {
        let mut since = self.since();
        let now = Instant::now();
        *since = members.into_iter().filter(|&node| !is_alive(node)).map(|node| (node, *since.get(&node).unwrap_or(&now))).collect();
    }

    /// Who is away, and for how long.
    pub(crate) fn all(&self) -> BTreeMap<NodeId, Duration> {
        self.since().iter().map(|(&node, since)| (node, since.elapsed())).collect()
    }

    /// Who has been away for at least that long, counted from `begin` at the earliest; the longest first.
    pub(crate) fn longer_than(&self, long: Duration, begin: Instant) -> Vec<NodeId> {
        let since = self.since();
        let mut overdue: Vec<_> = since.iter().filter(|(_, since)| begin.max(**since).elapsed() >= long).collect();
        overdue.sort_by_key(|&(&node, &since)| (since, node));
        overdue.into_iter().map(|(&node, _)| node).collect()
    }
}

/// Why a member that was away for too long is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// The data of one that left before is still being placed anew.
    Settling,
    /// No living daemon has the data of that slot: whether to give it up is for an operator to decide.
    LastCopy(Slot),
    /// Without it that strong slot would have no majority left among the members: whether to give that up is for an operator to decide.
    StrongMajority(Slot),
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settling => write!(f, "the data of a member that left before is still being placed anew"),
            Self::StrongMajority(slot) => write!(
                f,
                "strong slot {slot} needs it for a majority of its replicas: bring it back, or give it up with `isochrone members remove --lost`"
            ),
            Self::LastCopy(slot) => write!(
                f,
                "no living member has what it holds of slot {slot}: bring it back, or give its data up with `isochrone members remove`"
            ),
        }
    }
}

/// Whether more than half of the members are alive.
pub(crate) fn sees_majority(state: &ClusterState, is_alive: impl Fn(NodeId) -> bool) -> bool {
    state.members.keys().filter(|&&node| is_alive(node)).count() > state.members.len() / 2
}

/// Whether the cluster can do without that member, which is away: nothing that is still to be had would be given up, and no other departure is
/// being worked on, unless that is just what this member holds up. `counts` is how many replicas of a row namespaces use.
pub(crate) fn may_go(state: &ClusterState, node: NodeId, counts: &BTreeSet<usize>, is_alive: impl Fn(NodeId) -> bool) -> Result<(), Kept> {
    let eventual = &state.placement.eventual;
    if is_settling(state) && !holds_up(eventual, node) {
        return Err(Kept::Settling);
    }
    if let Some(cut) = state.strong_cuts(node).find(|cut| !cut.loses_nothing()) {
        return Err(Kept::StrongMajority(cut.slot));
    }
    let is_last = |&slot: &Slot| counts.iter().any(|&count| is_last_copy(eventual, slot, count, node, &is_alive));
    Slot::all().find(is_last).map_or(Ok(()), |slot| Err(Kept::LastCopy(slot)))
}

/// Whether slots are still read from somebody who is no member.
fn is_settling(state: &ClusterState) -> bool {
    state.placement.eventual.current().members().iter().any(|node| !state.members.contains_key(node))
}

/// Whether a slot waits until that node is filled.
fn holds_up(class: &ClassPlacement, node: NodeId) -> bool {
    let waits = |slot| match class.write_sets(slot) {
        (mut current, Some(mut next)) => next.any(|n| n == node) && !current.any(|n| n == node),
        _ => false,
    };
    class.moving_slots().any(waits)
}

/// Whether a namespace with `count` replicas reads that slot from `node`, and from nobody alive beside it.
fn is_last_copy(class: &ClassPlacement, slot: Slot, count: usize, node: NodeId, is_alive: impl Fn(NodeId) -> bool) -> bool {
    let row = || class.read_set(slot).take(count);
    row().any(|n| n == node) && !row().any(|n| n != node && is_alive(n))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test a panic is the message
mod tests {
    use isochrone_ident::{ClusterName, Epoch, Incarnation, Region, StoreId};
    use isochrone_placement::{Capacity, RegionWeights};

    use super::*;
    use crate::command::{Command, CouncilId, Member, Outcome, SlotClass};
    use crate::driver::tables_for;

    fn member(node: u128) -> Member {
        Member {
            node: NodeId(node),
            store: StoreId(node),
            region: Region::new(&format!("r{node}")).unwrap(),
            zone: None,
            address: "there:1".into(),
            capacity: Capacity::ONE,
            incarnation: Incarnation(1),
        }
    }

    fn apply(state: &mut ClusterState, command: Command) {
        let outcome = state.apply(command);
        assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
    }

    fn begin(state: &mut ClusterState, nodes: &[u128], width: u8) {
        let members: Vec<Member> = nodes.iter().map(|&n| member(n)).collect();
        let tables = tables_for(&members, width, &RegionWeights::default(), &Default::default());
        let from = (state.placement.eventual.epoch, state.placement.strong.epoch);
        apply(state, Command::BeginEpoch { from, tables: Box::new(tables) });
    }

    fn complete(state: &mut ClusterState) {
        complete_strong(state);
        let from = state.placement.eventual.epoch;
        apply(state, Command::Moved { class: SlotClass::Eventual, from, slots: Slot::all().collect() });
    }

    fn complete_strong(state: &mut ClusterState) {
        let from = state.placement.strong.epoch;
        apply(state, Command::Moved { class: SlotClass::Strong, from, slots: Slot::all().collect() });
    }

    /// A cluster of nodes 1 to `count`, at rest, with so many replicas of a slot.
    fn cluster(count: u128, width: u8) -> ClusterState {
        let name = ClusterName::new("c").unwrap();
        let mut state = ClusterState::new(name.clone());
        let tables = Box::new(tables_for([&member(1)], width, &RegionWeights::default(), &Default::default()));
        let council = CouncilId(7);
        apply(&mut state, Command::Found { council, cluster: name, member: member(1), text: String::new(), width, tables });
        (2..=count).for_each(|n| apply(&mut state, Command::Join(member(n))));
        let all: Vec<u128> = (1..=count).collect();
        begin(&mut state, &all, width);
        complete(&mut state);
        state
    }

    fn verdict(state: &ClusterState, node: u128, counts: &[usize], away: &[u128]) -> Result<(), Kept> {
        may_go(state, NodeId(node), &counts.iter().copied().collect(), |n| !away.contains(&n.0))
    }

    #[test]
    fn a_member_goes_while_others_alive_hold_all_that_it_holds() {
        let state = cluster(3, 3);
        assert_eq!(verdict(&state, 3, &[usize::MAX], &[3]), Ok(()), "E7");
        assert!(sees_majority(&state, |n| n != NodeId(3)));
        assert!(!sees_majority(&state, |n| n == NodeId(1)), "one of three is no majority");
        assert!(!sees_majority(&cluster(2, 3), |n| n == NodeId(1)), "nor is one of two");
    }

    #[test]
    fn the_last_copy_of_a_slot_is_never_given_up() {
        let state = cluster(5, 2);
        assert_eq!(verdict(&state, 5, &[2], &[5]), Ok(()));
        assert!(matches!(verdict(&state, 5, &[2], &[4, 5]), Err(Kept::LastCopy(_))), "slots that only 4 and 5 have");
        assert!(matches!(verdict(&state, 5, &[1, 2], &[5]), Err(Kept::LastCopy(_))), "a namespace of one replica");
    }

    #[test]
    fn one_departure_is_worked_on_at_a_time() {
        let mut state = cluster(5, 3);
        apply(&mut state, Command::Retire { node: NodeId(5), store: StoreId(5) });
        assert_eq!(verdict(&state, 4, &[3], &[4, 5]), Err(Kept::Settling));
        begin(&mut state, &[1, 2, 3, 4], 3);
        complete(&mut state);
        assert_eq!(verdict(&state, 4, &[3], &[4, 5]), Ok(()));
    }

    #[test]
    fn a_member_that_holds_up_the_work_on_an_earlier_departure_goes() {
        let mut state = cluster(5, 3);
        apply(&mut state, Command::Retire { node: NodeId(5), store: StoreId(5) });
        begin(&mut state, &[1, 2, 3, 4], 3);
        assert!(matches!(verdict(&state, 4, &[3], &[4]), Err(Kept::StrongMajority(_))), "sets of 4, 5 and another still count");
        complete_strong(&mut state);
        assert!(state.placement.eventual.is_moving() && state.placement.eventual.epoch == Epoch(2));
        assert_eq!(verdict(&state, 4, &[3], &[4]), Ok(()), "or the move would wait for it for ever");
    }

    #[tokio::test(start_paused = true)]
    async fn an_absence_counts_from_when_it_was_first_noticed_and_ends_when_seen() {
        let (absences, begin) = (Absences::default(), Instant::now());
        let second = Duration::from_secs(1);
        let members = [NodeId(1), NodeId(2), NodeId(3)];
        absences.look(members, |n| n != NodeId(2));
        tokio::time::advance(second).await;
        absences.look(members, |n| n == NodeId(1));
        tokio::time::advance(second).await;
        assert_eq!(absences.all(), BTreeMap::from([(NodeId(2), 2 * second), (NodeId(3), second)]));
        assert_eq!(absences.longer_than(second, begin), [NodeId(2), NodeId(3)]);
        assert_eq!(absences.longer_than(2 * second, begin), [NodeId(2)]);
        assert!(absences.longer_than(2 * second, begin + second).is_empty(), "a new leader counts anew");
        absences.look([NodeId(1), NodeId(3)], |_| true);
        assert!(absences.all().is_empty());
    }
}
