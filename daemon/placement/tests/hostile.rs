//! Bytes from a peer or a disk: whatever they are, decoding gives a sound value or an error, never a panic.

mod clusters;

use clusters::cluster;
use isochrone_ident::{Epoch, NodeId, Slot};
use isochrone_placement::{Class, ClassPlacement, Placement, RegionWeights, RoundTrips, SlotSet, SlotTable, compute, plan};
use proptest::prelude::*;

fn placement(width: u8, nodes: usize, moved: usize) -> Placement {
    let table = |nodes| compute(&cluster(3, 1, nodes, |_| 100), &RegionWeights::default(), width, Class::Eventual);
    let mut eventual = ClassPlacement::stable(Epoch(4), table(nodes));
    eventual.begin(table(nodes + 1)).expect("all were stable");
    eventual.complete(Slot::all().take(moved));
    Placement { eventual, strong: ClassPlacement::stable(Epoch(9), table(nodes)) }
}

/// Uses every part of a placement: nothing in a sound one panics.
fn exercise(mut placement: Placement) {
    for slot in Slot::all().step_by(97) {
        let (read, filling) = placement.eventual.write_sets(slot);
        assert!(read.len() <= 7 && filling.is_none_or(|filling| filling.len() <= 7));
        assert_eq!(placement.strong.phase(slot), placement.strong.phase(slot));
        placement.strong.read_set(slot).for_each(|node| assert!(placement.strong.current().members().contains(&node)));
    }
    plan(placement.eventual.current(), placement.strong.current(), |_| (u64::MAX, u64::MAX));
    placement.eventual.complete(Slot::all());
    assert!(!placement.eventual.is_moving());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_placement_reads_back_as_it_was_written(width in 1..=7_u8, nodes in 1..4_usize, moved in 0..4096_usize) {
        let placement = placement(width, nodes, moved);
        let bytes = postcard::to_allocvec(&placement).expect("encodes");
        let read: Placement = postcard::from_bytes(&bytes).expect("decodes");
        prop_assert_eq!(read.strong.current().digest(), placement.strong.current().digest());
        prop_assert_eq!(read, placement);
    }

    #[test]
    fn a_placement_with_bytes_changed_decodes_to_a_sound_one_or_not_at_all(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8), cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = postcard::to_allocvec(&placement(3, 2, 2000)).expect("encodes");
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len())));
        if let Ok(placement) = postcard::from_bytes::<Placement>(&bytes) {
            exercise(placement);
        }
    }

    #[test]
    fn random_bytes_decode_to_a_sound_value_or_not_at_all(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = postcard::from_bytes::<SlotSet>(&bytes);
        let _ = postcard::from_bytes::<RoundTrips>(&bytes);
        let _ = postcard::from_bytes::<RegionWeights>(&bytes);
        let _ = postcard::from_bytes::<SlotTable>(&bytes);
        if let Ok(placement) = postcard::from_bytes::<Placement>(&bytes) {
            exercise(placement);
        }
    }
}

#[test]
fn a_table_with_a_cell_out_of_range_does_not_decode() {
    let node = NodeId(1);
    let sound = postcard::to_allocvec(&(1_u8, vec![node], vec![0_u16; 4096])).expect("encodes");
    assert!(postcard::from_bytes::<SlotTable>(&sound).is_ok());
    for (width, members, cells) in [
        (0_u8, vec![node], vec![0_u16; 4096]),
        (8, vec![node], vec![0; 4096]),
        (1, vec![node], vec![1; 4096]),
        (1, vec![node], vec![0; 4095]),
        (1, vec![node, node], vec![0; 4096]),
        (2, vec![node, NodeId(2)], vec![0; 8192]),
        (1, vec![], vec![0; 4096]),
    ] {
        let bytes = postcard::to_allocvec(&(width, members, cells)).expect("encodes");
        assert!(postcard::from_bytes::<SlotTable>(&bytes).is_err());
    }
}
