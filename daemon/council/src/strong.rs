//! What the council keeps of the strong class beside its tables: since when each replica counts (Q4), and which store those have who were
//! removed while a table still names them (Q15). The quorum room makes its configurations of both.
//!
//! # A move that cannot end
//! A slot on its way from {a b c} to {b c d} needs a majority of each. With d dead, b and c are both. With c and d dead it needs one of them back: until then its
//! keys answer 503 `no-quorum`, it stays between its sets, and no other epoch begins, not of eventual slots either (Q14g). The operator sees slots
//! that are moving and get no fewer (`isochrone placement`), and who is away (`isochrone members`). What to do: start one of the two again. If
//! both are lost for good: remove the first, which is allowed while the other is a member, and the other with `--lost`; what that may lose is said
//! before. With the majority of the council itself lost, see [`crate::Recovery`].

use std::collections::BTreeMap;

use isochrone_ident::{Epoch, NodeId, Slot, StoreId};
use isochrone_placement::{ClassPlacement, Cut, Joins, Placement, SlotTable};
use serde::{Deserialize, Serialize};

use crate::state::{ClusterState, Retired};

/// The replicas of strong slots, as far as tables and members don't say it. Changed only by the council's commands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct StrongReplicas {
    joins: Joins,
    /// Who is no member any more but still named by a strong table, with the store that it had.
    leaving: BTreeMap<NodeId, StoreId>,
}

impl StrongReplicas {
    /// Of a state whose snapshot says nothing of them. The versions that wrote such kept nothing strong, so whoever is in the tables counts from now.
    pub(crate) fn unwritten(strong: &ClassPlacement, removed: &Retired) -> Self {
        let mut replicas = Self { joins: Joins::together(strong), leaving: BTreeMap::new() };
        for (&node, stores) in removed {
            stores.iter().for_each(|&store| replicas.leave(strong, node, store));
        }
        replicas
    }

    /// Whether these can belong to those tables; what came from a disk or a peer may not.
    pub(crate) fn fit(&self, strong: &ClassPlacement) -> bool {
        self.joins.fit(strong)
    }

    /// A member is no more.
    pub(crate) fn leave(&mut self, strong: &ClassPlacement, node: NodeId, store: StoreId) {
        if names(strong, node) {
            self.leaving.insert(node, store);
        }
    }

    /// Some of `before` were given up, and `after` is left of it.
    pub(crate) fn keep(&mut self, before: &ClassPlacement, after: &ClassPlacement) {
        self.joins = self.joins.of_remains(before, after);
        self.leaving.retain(|&node, _| names(after, node));
    }

    /// The tables took a step.
    pub(crate) fn follow(&mut self, before: &ClassPlacement, after: &ClassPlacement) {
        self.joins = self.joins.followed(before, after);
        self.leaving.retain(|&node, _| names(after, node));
    }
}

/// Whether a table in force, or coming, names that node.
pub(crate) fn names(class: &ClassPlacement, node: NodeId) -> bool {
    [Some(class.current()), class.next()].into_iter().flatten().any(|table| table.members().contains(&node))
}

impl ClusterState {
    /// Since which epoch that node has been in every set of a strong slot without a gap (Q4): it keeps what it has of the slot exactly as long as this
    /// stays the same. `None` for a node that no set in force names: one of R_e, or in JOINT of R_{e+1}.
    #[must_use]
    pub fn strong_joined(&self, slot: Slot, node: NodeId) -> Option<Epoch> {
        self.strong.joins.of(&self.placement.strong, slot, node)
    }

    /// What the strong sets lose without that member and those who were removed before: the sets, in force and with a part in them, that are left without a
    /// majority.
    pub fn strong_cuts(&self, node: NodeId) -> impl Iterator<Item = Cut> {
        let class = &self.placement.strong;
        let is_lost = move |n: NodeId| n == node || !self.members.contains_key(&n);
        let concerns = move |cut: &Cut| {
            let (current, next) = class.write_sets(cut.slot);
            current.contains(node) || next.is_some_and(|next| next.contains(node))
        };
        class.cuts(is_lost).filter(concerns)
    }

    /// The strong sets without everybody who is no member: see [`ClassPlacement::without`].
    pub(crate) fn leave_behind(&mut self, anew: &SlotTable) {
        let mut placement = Placement::clone(&self.placement);
        placement.strong = self.placement.strong.without(|node| !self.members.contains_key(&node), anew);
        self.strong.keep(&self.placement.strong, &placement.strong);
        self.placement = placement.into();
    }

    /// The store that counts for that node in strong slots (Q15): the member's, or the one that a removed member had, as long as strong tables name it.
    #[must_use]
    pub fn strong_store(&self, node: NodeId) -> Option<StoreId> {
        self.members.get(&node).map(|member| member.store).or_else(|| self.strong.leaving.get(&node).copied())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test a panic is the message
mod tests {
    use isochrone_ident::{ClusterName, Incarnation, Region};
    use isochrone_placement::{Capacity, Phase, RegionWeights};
    use isochrone_quorum::{Configuration, TableHash};
    use proptest::prelude::*;

    use super::*;
    use crate::command::{Command, CouncilId, Member, Outcome, Refusal, SlotClass};
    use crate::driver::tables_for;

    const SAMPLED: u16 = 24;
    const NODES: u8 = 6;

    fn sampled() -> impl Iterator<Item = Slot> {
        (0..SAMPLED).map(|n| Slot::of_hash(u64::from(n) * 171))
    }

    /// The state beside what the quorum room makes of the same history, slot by slot.
    struct World {
        state: ClusterState,
        slots: BTreeMap<Slot, Configuration>,
        stores: BTreeMap<NodeId, StoreId>,
    }

    fn member(node: u8, store: u128) -> Member {
        Member {
            node: NodeId(node.into()),
            store: StoreId(store),
            region: Region::new(&format!("r{node}")).unwrap(),
            zone: None,
            address: "there:1".into(),
            capacity: Capacity::ONE,
            incarnation: Incarnation(1),
        }
    }

    impl World {
        fn new() -> Self {
            let (name, founder) = (ClusterName::new("c").unwrap(), member(1, 1));
            let mut state = ClusterState::new(name.clone());
            let tables = Box::new(tables_for([&founder], 3, &RegionWeights::default(), &Default::default()));
            let text = String::new();
            let found = Command::Found { council: CouncilId(7), cluster: name, member: founder, text, width: 3, tables };
            assert!(matches!(state.apply(found), Outcome::Applied { .. }));
            let mut world = Self { state, slots: BTreeMap::new(), stores: BTreeMap::from([(NodeId(1), StoreId(1))]) };
            for slot in sampled() {
                let mut first = Configuration::first(slot, TableHash(0), world.members([NodeId(1)]));
                (first.phase, first.current[0].joined) = (isochrone_quorum::Phase::stable(Epoch(1)), Epoch(1));
                world.slots.insert(slot, first);
            }
            world
        }

        fn members(&self, nodes: impl IntoIterator<Item = NodeId>) -> Vec<isochrone_quorum::Member> {
            nodes.into_iter().map(|node| isochrone_quorum::Member { node, store: self.stores[&node] }).collect()
        }

        fn is_applied(&mut self, command: Command) -> bool {
            matches!(self.state.apply(command), Outcome::Applied { .. })
        }

        /// In a new store, if the node was in before.
        fn join(&mut self, node: u8, store: u128) {
            let known = self.state.members.get(&NodeId(node.into())).map(|m| m.store);
            let store = known.unwrap_or(StoreId(store));
            if self.is_applied(Command::Join(member(node, store.0))) {
                self.stores.insert(NodeId(node.into()), store);
            }
        }

        fn begin(&mut self, nodes: &[u8], width: u8) {
            let chosen: Vec<Member> =
                self.state.members.values().filter(|m| nodes.iter().any(|&n| m.node.0 == u128::from(n))).cloned().collect();
            let tables = tables_for(&chosen, width, &RegionWeights::default(), &Default::default());
            let rows: Vec<_> = sampled().map(|slot| tables.strong.replicas(slot).collect::<Vec<_>>()).collect();
            let from = (self.state.placement.eventual.epoch, self.state.placement.strong.epoch);
            if !self.is_applied(Command::BeginEpoch { from, tables: Box::new(tables) }) {
                return;
            }
            for (slot, row) in sampled().zip(rows) {
                let next = self.members(row);
                let config = self.slots.get_mut(&slot).unwrap();
                let stays = config.current.iter().map(|r| r.member).eq(next.iter().copied());
                *config = config.begin(TableHash(0), next).unwrap();
                if stays {
                    *config = config.complete().unwrap();
                }
            }
        }

        fn complete(&mut self, slots: impl Iterator<Item = Slot>) {
            let (from, slots) = (self.state.placement.strong.epoch, slots.collect::<Vec<_>>());
            if self.state.placement.strong.is_moving() {
                for slot in &slots {
                    let Some(config) = self.slots.get_mut(slot) else { continue };
                    *config = config.complete().unwrap_or(config.clone());
                }
            }
            assert!(self.is_applied(Command::Moved { class: SlotClass::Strong, from, slots }));
            let from = self.state.placement.eventual.epoch;
            self.is_applied(Command::Moved { class: SlotClass::Eventual, from, slots: Slot::all().collect() });
        }

        /// Where of two replicas one is removed, the other goes on alone, an epoch later, and keeps what it has.
        fn remove(&mut self, node: NodeId) {
            let before = self.state.placement.strong.epoch;
            if !self.is_applied(Command::Remove(node)) || self.state.placement.strong.epoch == before {
                return;
            }
            let members = &self.state.members;
            let cut = |set: &mut Vec<isochrone_quorum::Replica>| {
                let left = set.iter().filter(|replica| members.contains_key(&replica.member.node)).count();
                if left * 2 <= set.len() {
                    set.retain(|replica| members.contains_key(&replica.member.node));
                }
            };
            for config in self.slots.values_mut() {
                config.phase.0 += 2;
                cut(&mut config.current);
                config.next.as_mut().map(cut);
            }
        }

        /// What a daemon has after a restart, or after having been sent a snapshot.
        fn freeze_and_thaw(&mut self) {
            let thawed = crate::storage::thaw(&crate::storage::freeze(&self.state).unwrap()).unwrap();
            assert_eq!(thawed, self.state);
            self.state = thawed;
        }

        fn check(&self) {
            for (&slot, config) in &self.slots {
                let phase = match self.state.placement.strong.phase(slot) {
                    Phase::Stable(e) => 2 * e.0,
                    Phase::Joint { from, .. } => 2 * from.0 + 1,
                };
                assert_eq!(config.phase.0, phase, "{slot}");
                for member in config.members() {
                    assert_eq!(self.state.strong_store(member.node), Some(member.store), "Q15: {slot} {config:?}");
                }
                let counts = |n: u8| config.members().into_iter().find(|m| m.node.0 == u128::from(n)).and_then(|m| config.joined(m));
                for node in 1..=NODES {
                    assert_eq!(self.state.strong_joined(slot, NodeId(node.into())), counts(node), "Q4: {slot} node {node} {config:?}");
                }
            }
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Join(u8),
        Remove(u8),
        Begin(Vec<u8>, u8),
        Complete(usize, usize),
        CompleteAll,
        FreezeAndThaw,
    }

    fn step() -> impl Strategy<Value = Step> {
        let node = 1..=NODES;
        prop_oneof![
            3 => node.clone().prop_map(Step::Join),
            1 => node.clone().prop_map(Step::Remove),
            4 => (prop::collection::vec(node, 1..6), 1..=5_u8).prop_map(|(nodes, width)| Step::Begin(nodes, width)),
            2 => (0..4096_usize, 1..4096_usize).prop_map(|(from, count)| Step::Complete(from, count)),
            3 => Just(Step::CompleteAll),
            1 => Just(Step::FreezeAndThaw),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn q4_q15_joins_and_stores_are_those_of_the_quorum_room_whatever_happens(steps in prop::collection::vec(step(), 1..40)) {
            let mut world = World::new();
            for (count, step) in (100..).zip(steps) {
                match step {
                    Step::Join(node) => world.join(node, count),
                    Step::Remove(node) => world.remove(NodeId(node.into())),
                    Step::Begin(nodes, width) => world.begin(&nodes, width),
                    Step::Complete(from, count) => world.complete(Slot::all().skip(from).take(count)),
                    Step::CompleteAll => world.complete(Slot::all()),
                    Step::FreezeAndThaw => world.freeze_and_thaw(),
                }
                world.check();
            }
        }
    }

    #[test]
    fn q4_who_left_and_came_back_has_joined_anew() {
        let mut world = World::new();
        (2..=4).for_each(|node| world.join(node, node.into()));
        for nodes in [&[1, 2, 3][..], &[2, 3, 4], &[1, 2, 4]] {
            world.begin(nodes, 3);
            world.complete(Slot::all());
            world.check();
        }
        let slot = Slot::of_hash(0);
        let joined = [1, 2, 3, 4].map(|n| world.state.strong_joined(slot, NodeId(n)).map(|e| e.0));
        assert_eq!(joined, [Some(4), Some(2), None, Some(3)]);
    }

    #[test]
    fn q15_a_removed_member_counts_with_its_store_until_no_table_names_it() {
        let mut world = World::new();
        (2..=4).for_each(|node| world.join(node, 20));
        world.begin(&[1, 2, 3], 3);
        world.complete(Slot::all());
        assert!(world.is_applied(Command::Remove(NodeId(2))));
        assert_eq!(world.state.strong_store(NodeId(2)), Some(StoreId(20)));
        world.begin(&[1, 3, 4], 3);
        assert_eq!(world.state.strong_store(NodeId(2)), Some(StoreId(20)), "R_e still counts");
        world.complete(Slot::all());
        assert_eq!(world.state.strong_store(NodeId(2)), None);
    }

    fn give_up(world: &World, nodes: &[u128], left: &[u8]) -> Command {
        let left: Vec<Member> = left.iter().map(|&n| member(n, 0)).collect();
        let strong = Box::new(tables_for(&left, 3, &RegionWeights::default(), &Default::default()).strong);
        let digest = strong.digest();
        Command::GiveUp { nodes: nodes.iter().copied().map(NodeId).collect(), from: world.state.placement.strong.epoch, strong, digest }
    }

    fn placed(nodes: &[u8]) -> World {
        let mut world = World::new();
        nodes.iter().for_each(|&node| world.join(node, node.into()));
        world.begin(nodes, 3);
        world.complete(Slot::all());
        world
    }

    fn set(world: &World) -> Vec<u128> {
        world.state.placement.strong.read_set(Slot::of_hash(0)).map(|node| node.0).collect()
    }

    #[test]
    fn of_two_members_either_may_leave_and_nothing_is_lost() {
        let mut world = placed(&[1, 2]);
        assert_eq!(set(&world).len(), 2);
        assert!(world.is_applied(Command::Remove(NodeId(2))));
        let slot = Slot::of_hash(0);
        assert_eq!((set(&world), world.state.placement.strong.phase(slot)), (vec![1], Phase::Stable(Epoch(3))));
        assert_eq!(world.state.strong_joined(slot, NodeId(1)), Some(Epoch(1)), "Q4: it keeps what it has");
        assert_eq!(world.state.strong_store(NodeId(2)), None);
    }

    #[test]
    fn nobody_is_removed_on_whom_a_strong_majority_hangs() {
        let mut world = placed(&[1, 2, 3]);
        assert!(world.is_applied(Command::Remove(NodeId(3))));
        let outcome = world.state.apply(Command::Remove(NodeId(2)));
        assert!(matches!(outcome, Outcome::Refused(Refusal::StrongMajority { node: NodeId(2), .. })), "{outcome:?}");
        world.begin(&[1, 2], 3);
        assert!(!world.is_applied(Command::Remove(NodeId(2))), "1 and 2 are still to take over from 3");
        world.complete(Slot::all());
        assert!(world.is_applied(Command::Remove(NodeId(2))));
    }

    #[test]
    fn who_is_given_up_takes_no_slot_with_it() {
        let mut world = placed(&[1, 2, 3, 4]);
        let (slot, epoch) = (Slot::of_hash(0), world.state.placement.strong.epoch);
        assert!(!world.is_applied(give_up(&world, &[9], &[1])), "a stranger");
        assert!(!world.is_applied(give_up(&world, &[2, 3, 4], &[1, 2])), "2 is not left");
        let command = give_up(&world, &[2, 3, 4], &[1]);
        assert!(world.is_applied(command.clone()));
        assert_eq!((set(&world), world.state.placement.strong.epoch), (vec![1], Epoch(epoch.0 + 1)));
        assert!(Slot::all().all(|slot| world.state.strong_joined(slot, NodeId(1)).is_some()), "also those that it did not hold");
        assert_eq!(world.state.strong_joined(slot, NodeId(2)), None);
        assert!((2..=4).all(|n| world.state.is_removed(NodeId(n))), "and never come back");
        assert_eq!(world.state.apply(command), Outcome::Refused(Refusal::WrongEpoch), "once");
        assert!(world.state.strong.fit(&world.state.placement.strong));
    }

    #[test]
    fn replicas_that_belong_to_other_tables_are_no_snapshot() {
        let mut world = World::new();
        (2..=3).for_each(|node| world.join(node, node.into()));
        let before = world.state.strong.clone();
        world.begin(&[1, 2, 3], 3);
        world.complete(Slot::all());
        assert!(crate::storage::is_sound(&crate::storage::freeze(&world.state).unwrap()));
        world.state.strong = before;
        assert!(!crate::storage::is_sound(&crate::storage::freeze(&world.state).unwrap()));
    }
}
