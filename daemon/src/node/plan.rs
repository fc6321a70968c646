//! Rule P5: what a change of members or of the number of replicas would move, in keys and bytes, before it is made.
//!
//! Any daemon can tell, and each knows only what it holds: slots that it is a replica of are counted, the others are taken to hold as much as
//! these do on average. The plan says how many were counted. It is about the eventual slots with the weights now in force (P3); a cluster
//! that is moving already is planned from where it moves to.

use std::collections::BTreeMap;
use std::str::FromStr;

use isochrone_config::{Change as FileChange, REPLICAS_MAX};
use isochrone_council::ClusterState;
use isochrone_edge::OperatorRefusal;
use isochrone_ident::{NodeId, Region, Slot, Zone};
use isochrone_placement::{Candidate, Capacity, Class, Plan, compute, plan};
use serde_json::{Value, json};

use super::core::Core;

/// A change that can be planned.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    /// `remove=NODE`: a member goes.
    Remove(NodeId),
    /// `capacity=NODE:HUNDREDTHS`: a member takes another share.
    Capacity(NodeId, Capacity),
    /// `add=REGION[/ZONE][:HUNDREDTHS]`: one more member.
    Add { region: Region, zone: Option<Zone>, capacity: Capacity },
    /// `replicas=NUMBER`: the widest namespace has so many replicas.
    Replicas(u8),
}

impl FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("remove", node)) => Ok(Self::Remove(node_of(node)?)),
            Some(("capacity", what)) => {
                let (node, capacity) = what.split_once(':').ok_or("capacity=NODE:HUNDREDTHS")?;
                Ok(Self::Capacity(node_of(node)?, capacity_of(capacity)?))
            }
            Some(("add", what)) => added(what),
            Some(("replicas", count)) => {
                let count = count.parse().ok().filter(|count| (1..=REPLICAS_MAX).contains(count));
                count.map(Self::Replicas).ok_or_else(|| format!("replicas is a number from 1 to {REPLICAS_MAX}"))
            }
            _ => Err("a change is remove=NODE, capacity=NODE:HUNDREDTHS, add=REGION[/ZONE][:HUNDREDTHS] or replicas=NUMBER".to_owned()),
        }
    }
}

fn added(what: &str) -> Result<Change, String> {
    let (place, capacity) = what.split_once(':').map_or((what, None), |(place, capacity)| (place, Some(capacity)));
    let (region, zone) = place.split_once('/').map_or((place, None), |(region, zone)| (region, Some(zone)));
    Ok(Change::Add {
        region: Region::new(region).map_err(|e| e.to_string())?,
        zone: zone.map(Zone::new).transpose().map_err(|e| e.to_string())?,
        capacity: capacity.map_or(Ok(Capacity::ONE), capacity_of)?,
    })
}

fn node_of(text: &str) -> Result<NodeId, String> {
    text.parse().map_err(|e: isochrone_ident::InvalidId| e.to_string())
}

fn capacity_of(text: &str) -> Result<Capacity, String> {
    let hundredths = text.parse().map_err(|_| format!("a capacity is a number from 1 to {}", Capacity::MAX.hundredths()))?;
    Capacity::new(hundredths).map_err(|e| e.to_string())
}

/// What a table is computed from.
struct Basis {
    candidates: Vec<Candidate>,
    width: u8,
}

impl Basis {
    fn of(state: &ClusterState) -> Self {
        let candidates = state.members.values().map(|member| Candidate {
            node: member.node,
            region: member.region.clone(),
            zone: member.zone.clone(),
            capacity: member.capacity,
        });
        Self { candidates: candidates.collect(), width: state.file.width }
    }

    fn change(&mut self, change: Change) -> Result<(), OperatorRefusal> {
        match change {
            Change::Replicas(width) => self.width = width,
            Change::Capacity(node, capacity) => self.member(node)?.capacity = capacity,
            Change::Remove(node) => {
                self.member(node)?;
                self.candidates.retain(|candidate| candidate.node != node);
                if self.candidates.is_empty() {
                    return Err(OperatorRefusal::Conflict("the last member can't be removed".to_owned()));
                }
            }
            Change::Add { region, zone, capacity } => {
                let node = self.unused();
                self.candidates.push(Candidate { node, region, zone, capacity });
            }
        }
        Ok(())
    }

    fn member(&mut self, node: NodeId) -> Result<&mut Candidate, OperatorRefusal> {
        let found = self.candidates.iter_mut().find(|candidate| candidate.node == node);
        found.ok_or_else(|| OperatorRefusal::NotFound(format!("node {node} is no member")))
    }

    /// An id for a member that does not exist yet. Its real one will draw other slots, and as many.
    fn unused(&self) -> NodeId {
        let taken = |node: &NodeId| self.candidates.iter().any(|candidate| candidate.node == *node);
        (1..).map(NodeId).find(|node| !taken(node)).unwrap_or(NodeId(0))
    }
}

/// What slots hold: counted where this daemon has them, else estimated.
struct Contents {
    counted: BTreeMap<Slot, (u64, u64)>,
    sum: (u64, u64),
}

impl Contents {
    fn new(counted: BTreeMap<Slot, (u64, u64)>) -> Self {
        let sum = counted.values().fold((0, 0), |sum: (u64, u64), one| (sum.0.saturating_add(one.0), sum.1.saturating_add(one.1)));
        Self { counted, sum }
    }

    fn of(&self, slot: Slot) -> (u64, u64) {
        let estimated = || (self.share(self.sum.0, slot), self.share(self.sum.1, slot));
        self.counted.get(&slot).copied().unwrap_or_else(estimated)
    }

    /// A slot's share of what all counted ones hold. Whole numbers that differ by one at most and, over many slots, add up to the
    /// average: half a key a slot is a key in every other slot.
    fn share(&self, sum: u64, slot: Slot) -> u64 {
        let slots = self.counted.len().max(1) as u128;
        let up_to = |slot: u128| u128::from(sum) * slot / slots;
        let number = u128::from(slot.number());
        u64::try_from(up_to(number + 1) - up_to(number)).unwrap_or(u64::MAX)
    }
}

impl Core {
    /// What a change in one of the short forms would move.
    pub(crate) fn plan(&self, change: &str) -> Result<Value, OperatorRefusal> {
        let parsed: Change = change.parse().map_err(OperatorRefusal::Invalid)?;
        let mut value = self.plan_of(parsed)?;
        value["change"] = change.into();
        Ok(value)
    }

    /// What applying a cluster file moves; `None` where it moves nothing.
    pub(crate) fn plan_of_file(&self, changes: &[FileChange]) -> Result<Option<Value>, OperatorRefusal> {
        let width = changes.iter().find_map(|change| match change {
            FileChange::WidthChanged { to, .. } => Some(*to),
            _ => None,
        });
        width.map(|width| self.plan_of(Change::Replicas(width))).transpose()
    }

    fn plan_of(&self, change: Change) -> Result<Value, OperatorRefusal> {
        let state = self.council.state();
        let class = &state.placement.eventual;
        let mut basis = Basis::of(&state);
        basis.change(change)?;
        let old = class.next().unwrap_or(class.current());
        let new = compute(&basis.candidates, &state.weights, basis.width, Class::Eventual);
        let contents = self.contents();
        let moves = plan(old, &new, |slot| contents.of(slot));
        let mut value = plan_value(&moves, &basis.candidates, &state);
        value["epoch"] = class.epoch.0.into();
        value["replicas"] = json!({ "from": old.width(), "to": new.width() });
        value["slots_counted"] = contents.counted.len().into();
        value["slots_estimated"] = (usize::from(isochrone_ident::SLOTS) - contents.counted.len()).into();
        Ok(value)
    }

    /// The keys and bytes of the slots that this daemon holds.
    fn contents(&self) -> Contents {
        let view = self.view.load();
        let mine = |slot: &Slot| view.placement.eventual.read_set(*slot).contains(self.id());
        let totals = |slot| {
            let totals = self.store.slot_totals(slot);
            (slot, (totals.keys, totals.bytes))
        };
        Contents::new(Slot::all().filter(mine).map(totals).collect())
    }
}

fn plan_value(moves: &Plan, candidates: &[Candidate], state: &ClusterState) -> Value {
    let region = |node: NodeId| {
        let new = candidates.iter().find(|candidate| candidate.node == node).map(|candidate| candidate.region.to_string());
        new.or_else(|| state.members.get(&node).map(|member| member.region.to_string()))
    };
    let name = |node: NodeId| if state.members.contains_key(&node) { node.to_string() } else { "(new)".to_owned() };
    let nodes: Vec<Value> = moves
        .nodes
        .iter()
        .map(|(&node, change)| json!({ "node": name(node), "region": region(node), "gains": change.gained, "loses": change.lost }))
        .collect();
    json!({ "slots_changed": moves.slots_changed, "moved": moves.moved, "total": moves.total, "nodes": nodes })
}

#[cfg(test)]
mod tests {
    use isochrone_placement::{Amount, SlotTable};

    use super::*;

    fn candidate(node: u128) -> Candidate {
        Candidate { node: NodeId(node), region: Region::new("eu-west").expect("a region"), zone: None, capacity: Capacity::ONE }
    }

    #[test]
    fn the_short_forms_of_changes_are_understood_and_others_refused() {
        let node = NodeId(7);
        let region = || Region::new("eu-west").expect("a region");
        assert_eq!(format!("remove={node}").parse(), Ok(Change::Remove(node)));
        assert_eq!(format!("capacity={node}:200").parse(), Ok(Change::Capacity(node, Capacity::new(200).expect("valid"))));
        assert_eq!("add=eu-west".parse(), Ok(Change::Add { region: region(), zone: None, capacity: Capacity::ONE }));
        let zone = Some(Zone::new("a").expect("a zone"));
        assert_eq!("add=eu-west/a:50".parse(), Ok(Change::Add { region: region(), zone, capacity: Capacity::new(50).expect("valid") }));
        assert_eq!("replicas=5".parse(), Ok(Change::Replicas(5)));
        for wrong in
            ["", "remove", "remove=x", "capacity=1", &format!("capacity={node}:0"), "add=", "add=eu-west:0", "replicas=0", "replicas=8"]
        {
            assert!(wrong.parse::<Change>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn p5_a_change_is_made_to_the_members_or_refused() {
        let mut basis = Basis { candidates: vec![candidate(1), candidate(3)], width: 3 };
        basis.change("add=ap".parse().expect("a change")).expect("can be made");
        assert_eq!(basis.candidates[2].node, NodeId(2), "an id that no member has");
        assert!(matches!(basis.change(Change::Remove(NodeId(9))), Err(OperatorRefusal::NotFound(_))));
        basis.change(Change::Remove(NodeId(2))).expect("can be made");
        basis.change(Change::Remove(NodeId(3))).expect("can be made");
        assert!(matches!(basis.change(Change::Remove(NodeId(1))), Err(OperatorRefusal::Conflict(_))));
    }

    #[test]
    fn p5_slots_that_are_not_here_are_taken_to_hold_as_much_as_those_that_are() {
        let counted: BTreeMap<Slot, (u64, u64)> = Slot::all().take(4).zip([(1, 1_000), (0, 0), (1, 3_000), (0, 0)]).collect();
        let contents = Contents::new(counted.clone());
        assert!(counted.iter().all(|(slot, held)| contents.of(*slot) == *held));
        let (keys, bytes) = Slot::all().skip(4).take(1_000).map(|slot| contents.of(slot)).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        assert_eq!((keys, bytes), (500, 1_000_000));
        assert_eq!(Contents::new(BTreeMap::new()).of(Slot::all().last().expect("a slot")), (0, 0));
    }

    #[test]
    fn p5_a_plan_names_nodes_with_their_regions_and_new_ones_as_such() {
        let cluster = isochrone_ident::ClusterName::new("test").expect("a name");
        let state = ClusterState::new(cluster);
        let candidates = [candidate(1), candidate(2)];
        let table = compute(&candidates, &isochrone_placement::RegionWeights::default(), 2, Class::Eventual);
        let value = plan_value(&plan(&SlotTable::empty(), &table, |_| (1, 10)), &candidates, &state);
        assert_eq!(value["moved"], json!(Amount { slots: 8192, keys: 8192, bytes: 81_920 }));
        assert_eq!((&value["nodes"][0]["node"], &value["nodes"][0]["region"]), (&json!("(new)"), &json!("eu-west")));
    }
}
