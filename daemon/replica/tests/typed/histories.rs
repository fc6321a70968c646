//! The merge laws, and equality with the model, over random histories.

use isochrone_replica::Typed;
use proptest::prelude::*;

use crate::scene::TYPED_KINDS;
use crate::world::{REPLICAS, Step, Wish, World};

fn wish() -> impl Strategy<Value = Wish> {
    let amount = prop_oneof![4 => -3i64..10, 1 => Just(0)];
    (0u8..4, 0u8..4, amount, prop::option::weighted(0.3, 0u8..4), any::<u8>()).prop_map(|(name, other, amount, claim, how)| Wish {
        name,
        other,
        amount,
        claim,
        how,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let at = || 0..REPLICAS;
    prop_oneof![
        8 => (at(), prop::option::weighted(0.3, 1u64..40), wish()).prop_map(|(at, ttl_ms, wish)| Step::Write { at, ttl_ms, wish }),
        8 => (at(), at()).prop_map(|(from, to)| Step::Deliver { from, to }),
        1 => (at(), at()).prop_map(|(from, to)| Step::Lose { from, to }),
        2 => (at(), at(), any::<usize>()).prop_map(|(from, to, which)| Step::Repeat { from, to, which }),
        2 => (at(), at()).prop_map(|(from, to)| Step::Pull { from, to }),
        1 => at().prop_map(|at| Step::Restart { at }),
        1 => at().prop_map(|at| Step::LoseDisk { at }),
        1 => (1u64..60).prop_map(|ms| Step::Wait { ms }),
        1 => at().prop_map(|at| Step::Prune { at }),
    ]
}

fn joined(a: &Typed, b: &Typed) -> Typed {
    let mut joined = a.clone();
    joined.join(b).expect("one history has no conflicts");
    joined
}

fn assert_laws(states: &[Typed]) {
    for a in states {
        assert_eq!(joined(a, a), *a, "idempotent");
        for b in states {
            let both = joined(a, b);
            assert_eq!(both, joined(b, a), "commutative");
            assert_eq!((joined(&both, a), joined(&both, b)), (both.clone(), both.clone()), "both are in it");
            for c in states {
                assert_eq!(joined(&both, c), joined(a, &joined(b, c)), "associative");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn e1_e2_e8_replicas_of_every_type_show_what_the_model_shows_and_come_together(steps in prop::collection::vec(step(), 1..60)) {
        for kind in TYPED_KINDS {
            let mut world = World::new(kind);
            world.run(&steps);
            assert_laws(&world.states());
            world.heal();
        }
    }
}
