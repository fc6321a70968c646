//! What typed states cost in bytes.

use bytes::Bytes;
use isochrone_ident::NodeId;
use isochrone_replica::{Actor, Change, Typed};

use crate::scene::{Daemon, bytes, count, daemon, exchange};

/// 2026-11-21, in milliseconds since the Unix epoch.
const TODAY_MS: u64 = 1_795_219_200_000;
/// Ids as they are drawn: all 128 bits in use.
const NODES: [u128; 3] =
    [0x9c5b_94b1_35ad_49bb_b118_8e8f_c24a_bf80, 0xd1f0_5a3c_e1b4_4f6e_a2a7_cc7b_7b9b_5d11, 0xe3b0_c442_98fc_1c14_9afb_f4c8_996f_b924];

fn realistic(node: usize) -> Daemon {
    let actor = Actor { node: NodeId(NODES[node]), life: 0x8f3a_91b2_c4d5_e6f7 ^ node as u64 };
    Daemon { actor, ..daemon(1) }
}

fn counter(actors: usize) -> Typed {
    let mut all: Vec<Daemon> = (0..actors).map(realistic).collect();
    for at in 0..actors {
        all[at].take(TODAY_MS + 20_000 * at as u64, &count(1000));
        exchange(&mut all);
    }
    all[0].held().clone()
}

fn set(members: usize) -> Typed {
    let mut one = realistic(0);
    for member in 0..members {
        let change = Change::UpdateSet { add: vec![Bytes::from(format!("member-{member:05}"))], remove: Vec::new() };
        one.take(TODAY_MS + member as u64, &change);
    }
    one.held().clone()
}

#[test]
fn sizes_are_as_documented() {
    let sizes = [counter(1), counter(3), set(1), set(10), set(1000)].map(|state| bytes(&state).len());
    assert_eq!(sizes, [53, 129, 66, 213, 16_993], "the table in the module's documentation says otherwise");
}
