//! The bytes of the strong tables' rows: their names, and what lies sealed in them.
//!
//! The row of a key is slot (two bytes), generation (four bytes), both big endian, namespace, a zero, key: one slot's keys of one generation are one
//! range in the order of their names. Its value is sealed as everywhere in this crate, and begins with a [`Head`], so that what
//! listings and indices ask needs no value to be copied.

use isochrone_ident::{Kind, Slot, WallMicros};
use isochrone_quorum::{Ballot, Content, KeyName, KeyState, Revision};
use serde::{Deserialize, Serialize};

use crate::codec::{Corrupt, name_row, parse_name_row, seal, unseal};

/// Where the name of a key begins in its row.
const NAME_AT: usize = 6;

/// How often a slot has been wiped. Rows of an earlier generation count as absent, and go when there is time.
pub(super) type Generation = u32;

/// What of a key can be asked without its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) standing: Standing,
    pub(super) ballot: Ballot,
    pub(super) revision: Revision,
    pub(super) value_bytes: u64,
    pub(super) expires: Option<WallMicros>,
}

/// What is held of a key. Numbered in order on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Standing {
    /// Only a promise.
    Promised,
    /// A tombstone.
    Tombstone,
    /// A value.
    Live,
}

impl Head {
    pub(super) fn of(state: &KeyState) -> Self {
        let promised = Self { standing: Standing::Promised, ballot: Ballot::NONE, revision: Revision(0), value_bytes: 0, expires: None };
        let Some(accepted) = &state.accepted else { return promised };
        let (ballot, revision) = (accepted.ballot, accepted.envelope.revision);
        match &accepted.envelope.content {
            Content::Tombstone => Self { standing: Standing::Tombstone, ballot, revision, ..promised },
            Content::Live(value) => {
                Self { standing: Standing::Live, ballot, revision, value_bytes: value.bytes.len() as u64, expires: value.expires }
            }
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.standing == Standing::Live
    }
}

/// Seals a key's state as the row of that name into `out`, whose earlier content is dropped.
pub(super) fn seal_state(row: &[u8], head: &Head, state: &KeyState, out: &mut Vec<u8>) {
    seal(row, &(head, state), out);
}

/// The head of what [`seal_state`] wrote under the same name.
pub(super) fn unseal_head(row: &[u8], sealed: &[u8]) -> Result<Head, Corrupt> {
    unseal(row, sealed)
}

/// The state that [`seal_state`] wrote under the same name.
pub(super) fn unseal_state(row: &[u8], sealed: &[u8]) -> Result<KeyState, Corrupt> {
    unseal::<(Head, KeyState)>(row, sealed).map(|(_, state)| state)
}

/// The row of a key.
pub(super) fn key_row(slot: Slot, generation: Generation, name: &KeyName, out: &mut Vec<u8>) {
    name_row(&name.namespace, Kind::Value, name.key.as_bytes(), out);
    out.splice(..0, prefix(slot, generation));
}

/// What the rows of one slot's keys of one generation begin with.
pub(super) fn prefix(slot: Slot, generation: Generation) -> [u8; NAME_AT] {
    let (slot, generation) = (slot.number().to_be_bytes(), generation.to_be_bytes());
    [slot[0], slot[1], generation[0], generation[1], generation[2], generation[3]]
}

/// The name of a key, as it lies in its row and in the order of listings.
pub(super) fn name_of_row(row: &[u8]) -> Result<&[u8], Corrupt> {
    row.get(NAME_AT..).ok_or(Corrupt)
}

/// Takes a key's row apart.
pub(super) fn parse_key_row(row: &[u8]) -> Result<(Slot, Generation, KeyName), Corrupt> {
    let (slot, rest) = row.split_first_chunk::<2>().ok_or(Corrupt)?;
    let (generation, name) = rest.split_first_chunk::<4>().ok_or(Corrupt)?;
    let slot = Slot::new(u16::from_be_bytes(*slot)).map_err(|_| Corrupt)?;
    Ok((slot, u32::from_be_bytes(*generation), parse_name(name)?))
}

/// Takes a key's name apart.
pub(super) fn parse_name(name: &[u8]) -> Result<KeyName, Corrupt> {
    match parse_name_row(name)? {
        (namespace, Kind::Value, key) => Ok(KeyName { namespace, key }),
        _ => Err(Corrupt),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use bytes::Bytes;
    use isochrone_ident::{Incarnation, Key, Namespace, NodeId};
    use isochrone_quorum::{Accepted, Envelope, ProposerId};
    use proptest::prelude::*;

    use super::*;

    fn name(text: &[u8]) -> KeyName {
        let key = Key::new(Bytes::copy_from_slice(text)).expect("a key");
        KeyName { namespace: Namespace::new("data").expect("a name"), key }
    }

    fn ballot(counter: u64) -> Ballot {
        Ballot { counter, proposer: ProposerId { node: NodeId(3), incarnation: Incarnation(4) } }
    }

    fn tombstone(counter: u64) -> KeyState {
        let envelope = Envelope {
            revision: Revision(counter),
            content: Content::Tombstone,
            fences: BTreeMap::new(),
            floor: 0,
            ring: Vec::new(),
            intent: None,
        };
        KeyState { promised: ballot(counter), accepted: Some(Accepted { ballot: ballot(counter), envelope: Arc::new(envelope) }) }
    }

    #[test]
    fn the_bytes_of_a_head_on_disk_never_change() {
        let head =
            Head { standing: Standing::Live, ballot: ballot(5), revision: Revision(6), value_bytes: 7, expires: Some(WallMicros(8)) };
        assert_eq!(postcard::to_allocvec(&head), Ok(vec![2, 5, 3, 4, 6, 7, 1, 8]));
    }

    #[test]
    fn a_state_reads_back_under_its_own_name_only() {
        let state = tombstone(9);
        let mut sealed = Vec::new();
        seal_state(b"row", &Head::of(&state), &state, &mut sealed);
        assert_eq!(unseal_state(b"row", &sealed), Ok(state.clone()));
        assert_eq!(unseal_head(b"row", &sealed), Ok(Head::of(&state)));
        assert_eq!(unseal_state(b"other", &sealed), Err(Corrupt));
    }

    proptest! {
        #[test]
        fn rows_order_by_slot_then_generation_then_name(a in 0u16..4096, b in 0u16..4096, g: u32, h: u32, x: [u8; 3], y: [u8; 3]) {
            let (mut one, mut two) = (Vec::new(), Vec::new());
            key_row(Slot::new(a).expect("below 4096"), g, &name(&x), &mut one);
            key_row(Slot::new(b).expect("below 4096"), h, &name(&y), &mut two);
            prop_assert_eq!(one.cmp(&two), (a, g, x).cmp(&(b, h, y)));
            let (slot, generation, back) = parse_key_row(&one).expect("a row");
            prop_assert_eq!((slot.number(), generation, back), (a, g, name(&x)));
        }

        #[test]
        fn garbage_is_an_error_and_never_a_panic(bytes: Vec<u8>) {
            let _ = parse_key_row(&bytes);
            let _ = unseal_state(b"row", &bytes);
            let _ = unseal_head(b"row", &bytes);
        }

        #[test]
        fn any_flipped_bit_is_noticed(at: prop::sample::Index, bit in 0..8) {
            let mut sealed = Vec::new();
            seal_state(b"row", &Head::of(&tombstone(9)), &tombstone(9), &mut sealed);
            let at = at.index(sealed.len());
            sealed[at] ^= 1u8 << bit;
            prop_assert_eq!(unseal_state(b"row", &sealed), Err(Corrupt));
            prop_assert_eq!(unseal_head(b"row", &sealed), Err(Corrupt));
        }
    }
}
