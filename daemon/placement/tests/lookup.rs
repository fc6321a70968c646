//! Rule P4: a lookup on the request path is hash, index, done.

mod clusters;

use clusters::cluster;
use isochrone_ident::{Epoch, Namespace};
use isochrone_placement::{Class, ClassPlacement, RegionWeights, compute, slot_of};

#[test]
fn p4_a_lookup_allocates_nothing() {
    let table = |nodes| compute(&cluster(3, 1, nodes, |_| 100), &RegionWeights::default(), 3, Class::Eventual);
    let mut class = ClassPlacement::stable(Epoch(1), table(4));
    class.begin(table(5)).expect("all were stable");
    let ns = Namespace::new("data").expect("a valid namespace");
    let key = [7_u8; 1024];
    let mut nodes = 0;
    let counted = allocation_counter::measure(|| {
        for length in [1, 100, 1024] {
            let slot = slot_of(&ns, &key[..length]);
            let (read, filling) = class.write_sets(slot);
            nodes += class.read_set(slot).count() + read.count() + filling.map_or(0, |filling| filling.filter(|node| node.0 != 0).count());
            nodes += usize::from(matches!(class.phase(slot), isochrone_placement::Phase::Stable(_)));
        }
    });
    assert!(nodes >= 18);
    assert_eq!(counted.count_total, 0);
    assert_ne!(allocation_counter::measure(|| drop(std::hint::black_box(vec![0_u8; 64]))).count_total, 0, "the counter counts");
}
