//! Rule P7: how much a change of the cluster moves, against what theory says it must.

mod clusters;

use clusters::{cluster, lost_and_gained, round_trips_of_five, without};
use isochrone_ident::{Region, Slot};
use isochrone_placement::{Candidate, Capacity, Class, RegionWeights, SlotTable, WeightStep, compute};

fn eventual(candidates: &[Candidate], width: u8) -> SlotTable {
    compute(candidates, &RegionWeights::default(), width, Class::Eventual)
}

/// Loses every `every`th node in turn; gives how many replicas each loss moved, as a multiple of what the lost node held: (mean, greatest).
fn movement(candidates: &[Candidate], every: usize, table_of: impl Fn(&[Candidate]) -> SlotTable) -> (f64, f64) {
    let whole = table_of(candidates);
    let moved = |lost: usize| {
        let held = whole.slots_of(candidates[lost].node).count();
        lost_and_gained(&whole, &table_of(&without(candidates, lost))).1 as f64 / held as f64
    };
    let ratios: Vec<f64> = (0..candidates.len()).step_by(every).map(moved).collect();
    (ratios.iter().sum::<f64>() / ratios.len() as f64, ratios.iter().copied().fold(0.0, f64::max))
}

fn region_of(candidates: &[Candidate], node: isochrone_ident::NodeId) -> &Region {
    &candidates.iter().find(|candidate| candidate.node == node).expect("a node of the cluster").region
}

#[test]
fn p7_below_the_caps_losing_a_node_moves_exactly_what_it_held() {
    for (regions, zones, nodes, width) in [(3, 1, 2, 3), (5, 1, 12, 3), (3, 3, 20, 3), (5, 1, 12, 5), (3, 1, 20, 5), (1, 1, 10, 2)] {
        let candidates = cluster(regions, zones, nodes, |_| 100);
        let (mean, greatest) = movement(&candidates, 1, |candidates| eventual(candidates, width));
        assert_eq!((mean, greatest), (1.0, 1.0), "{regions} regions of {nodes} nodes in {zones} zones, width {width}");
    }
}

#[test]
fn p7_losing_one_of_60_nodes_moves_a_sixtieth_within_a_tenth_on_average() {
    let candidates = cluster(5, 1, 12, |_| 100);
    let whole = eventual(&candidates, 3);
    let moved: usize = (0..60).map(|lost| lost_and_gained(&whole, &eventual(&without(&candidates, lost), 3)).1).sum();
    let share = moved as f64 / 60.0 / (3.0 * 4096.0) * 60.0;
    assert!((0.9..=1.1).contains(&share), "{share}");
}

#[test]
fn p7_with_two_replicas_in_a_region_of_two_zones_a_loss_moves_a_tenth_more_at_most() {
    let (mean, greatest) = movement(&cluster(2, 2, 30, |_| 100), 3, |candidates| eventual(candidates, 3));
    assert!(mean <= 1.1 && greatest <= 1.2, "{mean} {greatest}");
}

#[test]
fn p7_at_the_caps_a_loss_moves_a_quarter_more_on_average() {
    let candidates = cluster(10, 1, 100, |_| 100);
    let whole = eventual(&candidates, 3);
    let full = whole.loads().into_iter().filter(|&load| load == 16).count();
    assert!(full > 50, "only {full} of 1,000 nodes are at their cap of 16");
    let (mean, greatest) = movement(&candidates, 40, |candidates| eventual(candidates, 3));
    assert!(mean <= 1.25 && greatest <= 2.0, "{mean} {greatest}");
}

#[test]
fn p7_for_strong_slots_a_loss_moves_a_tenth_more_on_average() {
    let round_trips = round_trips_of_five();
    let strong = |candidates: &[Candidate]| compute(candidates, &RegionWeights::default(), 3, Class::Strong { round_trips: &round_trips });
    for nodes in [1, 3, 12] {
        let (mean, greatest) = movement(&cluster(5, 1, nodes, |_| 100), nodes.div_ceil(4), strong);
        assert!(mean <= 1.1 && greatest <= 1.2, "{nodes} nodes a region: {mean} {greatest}");
    }
}

#[test]
fn p7_raising_a_nodes_capacity_moves_only_towards_it() {
    let candidates = cluster(5, 1, 12, |_| 100);
    let old = eventual(&candidates, 3);
    for raised in [0, 17, 59] {
        let mut more = candidates.clone();
        more[raised].capacity = Capacity::new(150).expect("in range");
        let new = eventual(&more, 3);
        let (_, gained) = lost_and_gained(&old, &new);
        let ours = |table: &SlotTable| table.slots_of(candidates[raised].node).count();
        assert_eq!(gained, ours(&new) - ours(&old), "all that moved is what the node gained");
        assert!((60..150).contains(&gained), "about half of 205, not {gained}");
    }
}

#[test]
fn p7_a_node_that_joins_is_the_only_one_that_gains() {
    let candidates = cluster(5, 1, 12, |_| 100);
    let new = eventual(&candidates, 3);
    let (_, gained) = lost_and_gained(&eventual(&without(&candidates, 30), 3), &new);
    assert_eq!(gained, new.slots_of(candidates[30].node).count());
}

#[test]
fn p7_raising_a_regions_weight_moves_only_towards_it() {
    let candidates = cluster(5, 1, 12, |_| 100);
    let raised = &candidates[30].region;
    let weights: RegionWeights = [(raised.clone(), WeightStep::new(1).expect("in range"))].into_iter().collect();
    let (old, new) = (eventual(&candidates, 3), compute(&candidates, &weights, 3, Class::Eventual));
    for slot in Slot::all() {
        for node in new.replicas(slot).filter(|node| !old.replicas(slot).contains(*node)) {
            assert_eq!(region_of(&candidates, node), raised, "slot {slot}");
        }
    }
    let (_, gained) = lost_and_gained(&old, &new);
    assert!((100..500).contains(&gained), "a fifth more weight for one of five regions: {gained} of 12,288");
}

#[test]
fn p7_at_the_caps_what_moves_elsewhere_stays_a_small_part() {
    let candidates = cluster(10, 1, 100, |_| 100);
    let old = eventual(&candidates, 3);
    let mut more = candidates.clone();
    more[500].capacity = Capacity::new(400).expect("in range");
    let new = eventual(&more, 3);
    let (_, gained) = lost_and_gained(&old, &new);
    let ours = new.slots_of(candidates[500].node).count() - old.slots_of(candidates[500].node).count();
    assert!(gained - ours <= ours, "{gained} moved, {ours} of them towards the node");
}
