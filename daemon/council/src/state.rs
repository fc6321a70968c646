//! The state that the council orders, and the one function that changes it. Pure: the same commands in the same order give the
//! same state everywhere, whatever the clock, the platform or the start.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use isochrone_ident::{ClusterName, Epoch, NodeId, Slot, StoreId};
use isochrone_placement::{ClassPlacement, Cut, Placement, RegionWeights, SlotTable};
use serde::{Deserialize, Serialize};

use crate::command::{Command, CouncilId, Member, Outcome, Proposal, Refusal, RequestId, SlotClass, Tables};
use crate::strong::{StrongReplicas, names};

/// The largest cluster file, in bytes.
pub const FILE_BYTES_MAX: usize = 1024 * 1024;
/// How many answered request ids are remembered. A retry comes within seconds, and nobody proposes hundreds of changes a second.
pub const ANSWERS_MAX: usize = 512;

/// The cluster file as it was last applied.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClusterFile {
    /// The whole text.
    pub text: Arc<str>,
    /// How often it was applied; 0 before the founding. It only grows.
    pub revision: u64,
    /// Replicas of a slot that it asks for, 1 to 7.
    pub width: u8,
}

/// The stores that were away for too long, by their node.
pub type Retired = BTreeMap<NodeId, BTreeSet<StoreId>>;

/// Everything that the council has ordered. Cloning is cheap but for the members: text and tables are shared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterState {
    /// Which council; `CouncilId(0)` until it is founded.
    pub council: CouncilId,
    /// The cluster's name.
    pub cluster: ClusterName,
    /// Who is in.
    pub members: BTreeMap<NodeId, Member>,
    /// Who was removed, with the stores that never come back (Q15), the retired ones among them. It only grows.
    pub removed: BTreeMap<NodeId, BTreeSet<StoreId>>,
    /// Which of the removed stores the council itself has retired because they were away for too long (E7): their nodes may come back with others.
    /// Not part of the serialised form, which is that of the first version: a snapshot carries it beside the state.
    #[serde(skip)]
    pub retired: Retired,
    /// Since when each replica of the strong slots counts, and as which store. Not part of the serialised form either.
    #[serde(skip)]
    pub(crate) strong: StrongReplicas,
    /// Who votes in the council at the moment; changed by the engine's own membership entries.
    pub voters: BTreeSet<NodeId>,
    /// The cluster file.
    pub file: ClusterFile,
    /// The placement of both classes (P2).
    pub placement: Arc<Placement>,
    /// What the newest tables were computed from: [`Tables::basis`].
    pub basis: u64,
    /// The weights of the regions in the newest tables (P3).
    pub weights: RegionWeights,
    /// Index of the last log entry in this state. It only grows.
    pub applied: u64,
    answers: VecDeque<(RequestId, Outcome)>,
}

impl ClusterState {
    /// The state before the founding.
    #[must_use]
    pub fn new(cluster: ClusterName) -> Self {
        Self {
            council: CouncilId::default(),
            cluster,
            members: BTreeMap::new(),
            removed: BTreeMap::new(),
            retired: Retired::new(),
            strong: StrongReplicas::default(),
            voters: BTreeSet::new(),
            file: ClusterFile::default(),
            placement: Arc::default(),
            basis: 0,
            weights: RegionWeights::default(),
            applied: 0,
            answers: VecDeque::new(),
        }
    }

    /// Whether the council was founded; everything else is empty before.
    #[must_use]
    pub fn is_founded(&self) -> bool {
        self.council != CouncilId::default()
    }

    /// Whether a daemon of this id is to be refused whatever its store (M2): an operator removed it, and it has not joined again with a new one.
    #[must_use]
    pub fn is_removed(&self, node: NodeId) -> bool {
        self.removed.contains_key(&node) && !self.members.contains_key(&node) && !self.retired.contains_key(&node)
    }

    /// Whether that store of that node was removed, by an operator or by the council itself: it never comes back (Q15).
    #[must_use]
    pub fn is_gone(&self, node: NodeId, store: StoreId) -> bool {
        self.removed.get(&node).is_some_and(|stores| stores.contains(&store))
    }

    /// Whether that store of that node was away for too long, so that the node may come back with another one (E7).
    #[must_use]
    pub fn is_retired(&self, node: NodeId, store: StoreId) -> bool {
        self.retired.get(&node).is_some_and(|stores| stores.contains(&store))
    }

    /// Applies a proposal that was ordered at log index `index`. A request id that was answered already gets the same answer and
    /// changes nothing.
    pub fn apply_proposal(&mut self, proposal: Proposal, index: u64) -> Outcome {
        self.applied = index;
        if let Some((_, answer)) = self.answers.iter().find(|(id, _)| *id == proposal.request) {
            return answer.clone();
        }
        let outcome = self.apply(proposal.command);
        self.answers.push_back((proposal.request, outcome.clone()));
        if self.answers.len() > ANSWERS_MAX {
            self.answers.pop_front();
        }
        outcome
    }

    /// Applies a command. A refusal leaves everything as it was.
    pub fn apply(&mut self, command: Command) -> Outcome {
        match self.change(command) {
            Ok(()) => Outcome::Applied { index: self.applied },
            Err(refusal) => Outcome::Refused(refusal),
        }
    }

    fn change(&mut self, command: Command) -> Result<(), Refusal> {
        match command {
            Command::Found { council, cluster, member, text, width, tables } => self.found(council, cluster, member, &text, width, *tables),
            _ if !self.is_founded() => Err(Refusal::NotFounded),
            Command::Join(member) => self.join(member),
            Command::Remove(node) => self.remove(node),
            Command::ApplyFile { text, expected_revision, width } => self.apply_file(&text, expected_revision, width),
            Command::BeginEpoch { from, tables } => self.begin_epoch(from, *tables),
            Command::Moved { class, from, slots } => self.moved(class, from, slots),
            Command::Retire { node, store } => self.retire(node, store),
            Command::GiveUp { nodes, from, strong, digest } => self.give_up(&nodes, from, &strong, digest),
        }
    }

    fn found(
        &mut self,
        council: CouncilId,
        cluster: ClusterName,
        member: Member,
        text: &str,
        width: u8,
        tables: Tables,
    ) -> Result<(), Refusal> {
        if self.is_founded() {
            return Err(Refusal::AlreadyFounded);
        }
        if council == CouncilId::default() {
            return Err(Refusal::NotFounded);
        }
        check_address(&member)?;
        check_file(text, width)?;
        let members = BTreeMap::from([(member.node, member)]);
        check_tables(&members, &tables)?;
        self.council = council;
        self.cluster = cluster;
        self.members = members;
        self.file = ClusterFile { text: text.into(), revision: 1, width };
        self.place(tables)
    }

    fn join(&mut self, member: Member) -> Result<(), Refusal> {
        check_address(&member)?;
        if self.is_retired(member.node, member.store) {
            return Err(Refusal::Retired(member.node, member.store));
        }
        if self.is_gone(member.node, member.store) {
            return Err(Refusal::Removed(member.node, member.store));
        }
        match self.members.get(&member.node) {
            Some(known) => check_same_life(known, &member)?,
            None if self.is_placed(member.node) => return Err(Refusal::StillPlaced(member.node)),
            // An empty store may count its starts from one again: what an earlier store asked under such a number is not its answer (M1).
            None => self.answers.retain(|(request, _)| request.node != member.node),
        }
        self.members.insert(member.node, member);
        Ok(())
    }

    /// Whether a table names that node, as the replica that it was or is to be.
    fn is_placed(&self, node: NodeId) -> bool {
        names(&self.placement.eventual, node) || names(&self.placement.strong, node)
    }

    /// An operator's word is final: a node that the council had only retired doesn't come back by itself either.
    fn remove(&mut self, node: NodeId) -> Result<(), Refusal> {
        match self.members.get(&node).map(|member| member.store) {
            Some(store) => self.take_out(node, store)?,
            None if self.removed.contains_key(&node) => {}
            None => return Err(Refusal::UnknownMember(node)),
        }
        self.retired.remove(&node);
        Ok(())
    }

    fn retire(&mut self, node: NodeId, store: StoreId) -> Result<(), Refusal> {
        if self.is_gone(node, store) {
            return Ok(());
        }
        if self.members.get(&node).is_none_or(|member| member.store != store) {
            return Err(Refusal::UnknownMember(node));
        }
        self.take_out(node, store)?;
        self.retired.entry(node).or_default().insert(store);
        Ok(())
    }

    /// Strong sets that keep their majority are moved by the next epoch; of two replicas the one left has everything. What would lose more than
    /// that is for [`Command::GiveUp`].
    fn take_out(&mut self, node: NodeId, store: StoreId) -> Result<(), Refusal> {
        if self.members.len() == 1 {
            return Err(Refusal::LastMember(node));
        }
        let cuts: Vec<Cut> = self.strong_cuts(node).collect();
        if let Some(cut) = cuts.iter().find(|cut| !cut.loses_nothing()) {
            return Err(Refusal::StrongMajority { node, slot: cut.slot });
        }
        self.strike(node, store);
        if !cuts.is_empty() {
            self.leave_behind(&SlotTable::empty());
        }
        Ok(())
    }

    fn strike(&mut self, node: NodeId, store: StoreId) {
        self.removed.entry(node).or_default().insert(store);
        self.members.remove(&node);
        self.strong.leave(&self.placement.strong, node, store);
    }

    /// An operator's word that these are lost for good, and may take with them what nobody else has.
    fn give_up(&mut self, nodes: &[NodeId], from: Epoch, anew: &SlotTable, digest: u64) -> Result<(), Refusal> {
        let is_left = |node: &NodeId| self.members.contains_key(node) && !nodes.contains(node);
        if let Some(&node) = nodes.iter().find(|&node| !self.members.contains_key(node) && !self.removed.contains_key(node)) {
            return Err(Refusal::UnknownMember(node));
        }
        if from != self.placement.strong.epoch {
            return Err(Refusal::WrongEpoch);
        }
        let left: BTreeMap<NodeId, Member> = self.members.iter().filter(|(node, _)| is_left(node)).map(|(n, m)| (*n, m.clone())).collect();
        check_table(&left, anew, digest)?;
        for &node in nodes {
            if let Some(store) = self.members.get(&node).map(|member| member.store) {
                self.strike(node, store);
            }
            self.retired.remove(&node);
        }
        if self.placement.strong.cuts(|node| !self.members.contains_key(&node)).next().is_some() {
            self.leave_behind(anew);
        }
        Ok(())
    }

    fn apply_file(&mut self, text: &str, expected: Option<u64>, width: u8) -> Result<(), Refusal> {
        check_file(text, width)?;
        let actual = self.file.revision;
        if let Some(expected) = expected.filter(|&e| e != actual) {
            return Err(Refusal::RevisionConflict { expected, actual });
        }
        self.file = ClusterFile { text: text.into(), revision: actual + 1, width };
        Ok(())
    }

    fn begin_epoch(&mut self, from: (Epoch, Epoch), tables: Tables) -> Result<(), Refusal> {
        if self.placement.eventual.is_moving() || self.placement.strong.is_moving() {
            return Err(Refusal::StillMoving);
        }
        if from != (self.placement.eventual.epoch, self.placement.strong.epoch) {
            return Err(Refusal::WrongEpoch);
        }
        check_tables(&self.members, &tables)?;
        self.place(tables)
    }

    /// Both checked before: nothing moves, and the tables are sound.
    fn place(&mut self, tables: Tables) -> Result<(), Refusal> {
        let mut placement = Placement::clone(&self.placement);
        placement.eventual.begin(tables.eventual).map_err(|_| Refusal::StillMoving)?;
        placement.strong.begin(tables.strong).map_err(|_| Refusal::StillMoving)?;
        self.step(placement);
        self.basis = tables.basis;
        self.weights = tables.weights;
        Ok(())
    }

    /// Late reports of an epoch that is over change nothing and are fine; who completed a slot doesn't matter, so a removed member
    /// is never waited for.
    fn moved(&mut self, class: SlotClass, from: Epoch, slots: Vec<Slot>) -> Result<(), Refusal> {
        let current = self.class(class);
        if from > current.epoch {
            return Err(Refusal::WrongEpoch);
        }
        if from < current.epoch || !current.is_moving() {
            return Ok(());
        }
        let mut placement = Placement::clone(&self.placement);
        match class {
            SlotClass::Eventual => placement.eventual.complete(slots),
            SlotClass::Strong => placement.strong.complete(slots),
        };
        self.step(placement);
        Ok(())
    }

    /// The placement takes one step; what is kept beside it goes along.
    fn step(&mut self, placement: Placement) {
        self.strong.follow(&self.placement.strong, &placement.strong);
        self.placement = Arc::new(placement);
    }

    /// The placement of one class.
    #[must_use]
    pub fn class(&self, class: SlotClass) -> &ClassPlacement {
        match class {
            SlotClass::Eventual => &self.placement.eventual,
            SlotClass::Strong => &self.placement.strong,
        }
    }
}

fn check_address(member: &Member) -> Result<(), Refusal> {
    if (1..=Member::ADDRESS_BYTES_MAX).contains(&member.address.len()) { Ok(()) } else { Err(Refusal::BadAddress) }
}

fn check_same_life(known: &Member, given: &Member) -> Result<(), Refusal> {
    if known.store != given.store {
        return Err(Refusal::IdTaken(known.node));
    }
    if given.incarnation < known.incarnation {
        return Err(Refusal::OldIncarnation { node: known.node, known: known.incarnation, given: given.incarnation });
    }
    Ok(())
}

fn check_file(text: &str, width: u8) -> Result<(), Refusal> {
    if text.len() > FILE_BYTES_MAX {
        return Err(Refusal::FileTooLarge { bytes: text.len(), bytes_max: FILE_BYTES_MAX });
    }
    if (1..=7).contains(&width) { Ok(()) } else { Err(Refusal::BadWidth(width)) }
}

fn check_tables(members: &BTreeMap<NodeId, Member>, tables: &Tables) -> Result<(), Refusal> {
    check_table(members, &tables.eventual, tables.eventual_digest)?;
    check_table(members, &tables.strong, tables.strong_digest)
}

fn check_table(members: &BTreeMap<NodeId, Member>, table: &SlotTable, digest: u64) -> Result<(), Refusal> {
    if table.digest() != digest {
        return Err(Refusal::BadDigest);
    }
    if table.members().is_empty() {
        return Err(Refusal::EmptyTable);
    }
    match table.members().iter().find(|&node| !members.contains_key(node)) {
        Some(&node) => Err(Refusal::UnknownReplica(node)),
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test a panic is the message
mod tests {
    use isochrone_ident::{Incarnation, Region};
    use isochrone_placement::{Capacity, Class, compute};

    use super::*;

    fn member(node: u128, store: u128) -> Member {
        Member {
            node: NodeId(node),
            store: StoreId(store),
            region: Region::new(&format!("r{node}")).unwrap(),
            zone: None,
            address: "there:1".into(),
            capacity: Capacity::ONE,
            incarnation: Incarnation(5),
        }
    }

    fn tables(members: &[Member], basis: u64) -> Box<Tables> {
        let candidates = crate::driver::candidates(members);
        let weights = RegionWeights::default();
        let table = compute(&candidates, &weights, 3, Class::Eventual);
        Box::new(Tables::new(table.clone(), table, basis, weights))
    }

    fn founded() -> ClusterState {
        let cluster = ClusterName::new("c").unwrap();
        let mut state = ClusterState::new(cluster.clone());
        let tables = tables(&[member(1, 1)], 1);
        let found = Command::Found { council: CouncilId(7), cluster, member: member(1, 1), text: "f".into(), width: 3, tables };
        applied(&state.apply(found));
        state
    }

    fn with(nodes: &[u128]) -> ClusterState {
        let mut state = founded();
        nodes.iter().for_each(|&n| applied(&state.apply(Command::Join(member(n, n)))));
        state
    }

    #[track_caller]
    fn applied(outcome: &Outcome) {
        assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
    }

    /// Also checks that a refusal leaves everything as it was.
    #[track_caller]
    fn refused(state: &mut ClusterState, command: Command) -> Refusal {
        let before = state.clone();
        let Outcome::Refused(refusal) = state.apply(command) else { panic!("it was applied") };
        assert_eq!(*state, before);
        refusal
    }

    #[test]
    fn nothing_is_ordered_before_the_founding_and_founding_happens_once() {
        let mut state = ClusterState::new(ClusterName::new("c").unwrap());
        assert_eq!(refused(&mut state, Command::Join(member(1, 1))), Refusal::NotFounded);
        let mut state = founded();
        let tables = tables(&[member(2, 2)], 1);
        let again = Command::Found {
            council: CouncilId(8),
            cluster: state.cluster.clone(),
            member: member(2, 2),
            text: String::new(),
            width: 3,
            tables,
        };
        assert_eq!(refused(&mut state, again), Refusal::AlreadyFounded);
    }

    #[test]
    fn a_join_is_idempotent_and_takes_a_new_address_and_incarnation() {
        let mut state = with(&[2]);
        let before = state.clone();
        applied(&state.apply(Command::Join(member(2, 2))));
        assert_eq!(state, before);
        let moved = Member { address: "elsewhere:2".into(), incarnation: Incarnation(6), ..member(2, 2) };
        applied(&state.apply(Command::Join(moved.clone())));
        assert_eq!(state.members[&NodeId(2)], moved);
        assert!(matches!(refused(&mut state, Command::Join(member(2, 2))), Refusal::OldIncarnation { .. }), "M1");
    }

    #[test]
    fn an_id_taken_by_another_store_is_refused_until_the_old_one_is_removed() {
        let mut state = with(&[2]);
        assert_eq!(refused(&mut state, Command::Join(member(2, 99))), Refusal::IdTaken(NodeId(2)), "Q15");
        applied(&state.apply(Command::Remove(NodeId(2))));
        assert!(state.is_removed(NodeId(2)));
        applied(&state.apply(Command::Join(member(2, 99))));
        assert!(!state.is_removed(NodeId(2)));
        assert_eq!(refused(&mut state, Command::Join(member(2, 2))), Refusal::Removed(NodeId(2), StoreId(2)), "for ever");
    }

    fn retire(node: u128, store: u128) -> Command {
        Command::Retire { node: NodeId(node), store: StoreId(store) }
    }

    #[test]
    fn a_retired_store_stays_out_for_ever_while_its_node_joins_with_another() {
        let mut state = with(&[2, 3]);
        applied(&state.apply(retire(2, 2)));
        applied(&state.apply(retire(2, 2)));
        assert!(state.is_gone(NodeId(2), StoreId(2)) && state.is_retired(NodeId(2), StoreId(2)), "E7");
        assert!(!state.is_removed(NodeId(2)), "the node itself may come back");
        assert_eq!(refused(&mut state, Command::Join(member(2, 2))), Refusal::Retired(NodeId(2), StoreId(2)));
        applied(&state.apply(Command::Join(member(2, 99))));
        assert_eq!(refused(&mut state, Command::Join(member(2, 2))), Refusal::Retired(NodeId(2), StoreId(2)), "for ever");
        applied(&state.apply(retire(2, 2)));
        assert_eq!(state.members[&NodeId(2)].store, StoreId(99), "a late repetition removes nobody");
    }

    #[test]
    fn an_empty_store_is_not_taken_for_the_replica_that_its_node_was() {
        let mut state = with(&[2]);
        let both = tables(&[member(1, 1), member(2, 2)], 2);
        let next = begin(&state, both);
        applied(&state.apply(next));
        applied(&state.apply(retire(2, 2)));
        assert_eq!(refused(&mut state, Command::Join(member(2, 99))), Refusal::StillPlaced(NodeId(2)), "it is to be filled");
        for class in [SlotClass::Eventual, SlotClass::Strong] {
            let from = state.class(class).epoch.0;
            applied(&state.apply(moved(class, from, Slot::all())));
        }
        assert_eq!(refused(&mut state, Command::Join(member(2, 99))), Refusal::StillPlaced(NodeId(2)), "it would be read from");
        let next = begin(&state, tables(&[member(1, 1)], 3));
        applied(&state.apply(next));
        for class in [SlotClass::Eventual, SlotClass::Strong] {
            let from = state.class(class).epoch.0;
            applied(&state.apply(moved(class, from, Slot::all())));
        }
        applied(&state.apply(Command::Join(member(2, 99))));
    }

    #[test]
    fn only_the_store_that_was_away_is_retired_and_never_the_last_one() {
        let mut state = with(&[2]);
        assert_eq!(refused(&mut state, retire(2, 7)), Refusal::UnknownMember(NodeId(2)));
        assert_eq!(refused(&mut state, retire(3, 3)), Refusal::UnknownMember(NodeId(3)));
        applied(&state.apply(retire(2, 2)));
        assert_eq!(refused(&mut state, retire(1, 1)), Refusal::LastMember(NodeId(1)));
    }

    #[test]
    fn an_operators_removal_of_a_retired_node_is_final() {
        let mut state = with(&[2, 3]);
        applied(&state.apply(retire(2, 2)));
        applied(&state.apply(Command::Remove(NodeId(2))));
        assert!(state.is_removed(NodeId(2)) && !state.is_retired(NodeId(2), StoreId(2)));
        assert_eq!(refused(&mut state, Command::Join(member(2, 2))), Refusal::Removed(NodeId(2), StoreId(2)));
    }

    #[test]
    fn an_empty_store_under_an_old_id_is_not_given_the_answers_of_the_old_one() {
        let mut state = with(&[2, 3]);
        let request = RequestId { node: NodeId(2), incarnation: Incarnation(1), number: 0 };
        let file = |text: &str| Command::ApplyFile { text: text.into(), expected_revision: None, width: 3 };
        state.apply_proposal(Proposal { request, command: file("old") }, 10);
        applied(&state.apply(retire(2, 2)));
        applied(&state.apply(Command::Join(member(2, 99))));
        assert_eq!(state.apply_proposal(Proposal { request, command: file("new") }, 11), Outcome::Applied { index: 11 });
        assert_eq!(&*state.file.text, "new", "M1");
    }

    #[test]
    fn removing_is_idempotent_but_the_last_member_stays() {
        let mut state = with(&[2]);
        applied(&state.apply(Command::Remove(NodeId(2))));
        applied(&state.apply(Command::Remove(NodeId(2))));
        assert_eq!(refused(&mut state, Command::Remove(NodeId(3))), Refusal::UnknownMember(NodeId(3)));
        assert_eq!(refused(&mut state, Command::Remove(NodeId(1))), Refusal::LastMember(NodeId(1)));
    }

    #[test]
    fn a_file_edited_from_an_old_revision_is_refused() {
        let mut state = founded();
        let apply = |expected_revision| Command::ApplyFile { text: "g".into(), expected_revision, width: 3 };
        applied(&state.apply(apply(Some(1))));
        let conflict = Refusal::RevisionConflict { expected: 1, actual: 2 };
        assert_eq!(refused(&mut state, apply(Some(1))), conflict);
        applied(&state.apply(apply(None)));
        assert_eq!(state.file.revision, 3);
    }

    #[test]
    fn a_file_beyond_its_bounds_is_refused() {
        let mut state = founded();
        let apply = |text: String, width| Command::ApplyFile { text, expected_revision: None, width };
        assert_eq!(refused(&mut state, apply(String::new(), 0)), Refusal::BadWidth(0));
        assert_eq!(refused(&mut state, apply(String::new(), 8)), Refusal::BadWidth(8));
        let long = " ".repeat(FILE_BYTES_MAX + 1);
        assert!(matches!(refused(&mut state, apply(long, 3)), Refusal::FileTooLarge { .. }));
    }

    fn begin(state: &ClusterState, tables: Box<Tables>) -> Command {
        Command::BeginEpoch { from: (state.placement.eventual.epoch, state.placement.strong.epoch), tables }
    }

    fn moved(class: SlotClass, from: u64, slots: impl IntoIterator<Item = Slot>) -> Command {
        Command::Moved { class, from: Epoch(from), slots: slots.into_iter().collect() }
    }

    #[test]
    fn an_epoch_goes_from_stable_through_moving_to_stable() {
        let mut state = with(&[2, 3]);
        let all = [member(1, 1), member(2, 2), member(3, 3)];
        let from_now = begin(&state, tables(&all, 2));
        applied(&state.apply(from_now.clone()));
        assert_eq!(refused(&mut state, from_now.clone()), Refusal::StillMoving, "P2: one epoch at a time");
        applied(&state.apply(moved(SlotClass::Eventual, 1, Slot::all().take(4000))));
        applied(&state.apply(moved(SlotClass::Eventual, 1, Slot::all().take(10))));
        applied(&state.apply(moved(SlotClass::Strong, 1, Slot::all())));
        assert!(state.placement.eventual.is_moving() && !state.placement.strong.is_moving());
        applied(&state.apply(moved(SlotClass::Eventual, 1, Slot::all().skip(4000))));
        assert_eq!((state.placement.eventual.epoch, state.placement.strong.epoch), (Epoch(2), Epoch(2)));
        assert_eq!(refused(&mut state, from_now), Refusal::WrongEpoch);
    }

    #[test]
    fn a_late_report_of_a_move_completes_nothing_in_a_later_epoch() {
        let mut state = with(&[2, 3]);
        let next = begin(&state, tables(&[member(1, 1), member(2, 2)], 2));
        applied(&state.apply(next));
        for class in [SlotClass::Eventual, SlotClass::Strong] {
            applied(&state.apply(moved(class, 1, Slot::all())));
        }
        let next = begin(&state, tables(&[member(1, 1), member(3, 3)], 3));
        applied(&state.apply(next));
        let before = state.clone();
        applied(&state.apply(moved(SlotClass::Eventual, 1, Slot::all())));
        assert_eq!(state, before);
        assert_eq!(refused(&mut state, moved(SlotClass::Eventual, 3, Slot::all())), Refusal::WrongEpoch);
    }

    #[test]
    fn a_table_is_checked_against_its_digest_and_the_members() {
        let mut state = with(&[2]);
        let mut wrong = tables(&[member(1, 1), member(2, 2)], 2);
        wrong.strong_digest ^= 1;
        let command = begin(&state, wrong);
        assert_eq!(refused(&mut state, command), Refusal::BadDigest, "P2");
        let command = begin(&state, tables(&[member(1, 1), member(9, 9)], 2));
        assert_eq!(refused(&mut state, command), Refusal::UnknownReplica(NodeId(9)));
        let command = begin(&state, tables(&[], 2));
        assert_eq!(refused(&mut state, command), Refusal::EmptyTable);
    }

    #[test]
    fn a_removed_member_does_not_hold_up_a_move() {
        let mut state = with(&[2]);
        let next = begin(&state, tables(&[member(1, 1), member(2, 2)], 2));
        applied(&state.apply(next));
        applied(&state.apply(Command::Remove(NodeId(2))));
        applied(&state.apply(moved(SlotClass::Eventual, 1, Slot::all())));
        assert!(!state.placement.eventual.is_moving());
    }

    #[test]
    fn a_request_id_applies_once_and_gets_its_first_answer_again() {
        let mut state = founded();
        let request = RequestId { node: NodeId(1), incarnation: Incarnation(1), number: 4 };
        let command = Command::ApplyFile { text: "g".into(), expected_revision: Some(1), width: 3 };
        let proposal = Proposal { request, command };
        let first = state.apply_proposal(proposal.clone(), 10);
        assert_eq!(first, Outcome::Applied { index: 10 });
        assert_eq!(state.apply_proposal(proposal, 11), first);
        assert_eq!(state.file.revision, 2);
    }

    #[test]
    fn the_memory_of_request_ids_is_bounded() {
        let mut state = founded();
        for number in 0..2 * ANSWERS_MAX as u64 {
            let request = RequestId { node: NodeId(1), incarnation: Incarnation(1), number };
            state.apply_proposal(Proposal { request, command: Command::Join(member(1, 1)) }, number);
        }
        assert_eq!(state.answers.len(), ANSWERS_MAX);
    }
}
