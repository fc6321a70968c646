//! The bytes on the disk: the names of rows, and sealed values.
//!
//! A sealed value is one byte of format, eight bytes of checksum (xxh3, little endian), and a body in postcard. The checksum is seeded by the
//! hash of the row's name, so a value found under another name is corrupt as well.

use std::sync::Arc;

use bytes::Bytes;
use isochrone_ident::{Key, Namespace, Slot, Version, WallMicros};
use isochrone_replica::{Live, Record, State};
use serde::{Deserialize, Serialize, Serializer};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

const SEAL_FORMAT: u8 = 1;
const SEAL_BYTES: usize = 9;
const SLOT_BYTES: usize = 2;

/// What is stored does not read back: damaged, or written by a version that this one doesn't know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Corrupt;

/// A record as it lies on the disk. The store's own format: it stays when the types of other rooms change (a test holds its bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stored<'a> {
    /// Its place in the order of eviction; only in evictable namespaces (E11).
    pub(crate) insertion: Option<u64>,
    pub(crate) version: Version,
    #[serde(borrow)]
    pub(crate) state: StoredState<'a>,
}

/// The state of a [`Stored`]. Variants are numbered in order on the disk: new ones go to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum StoredState<'a> {
    Live {
        expires_at: Option<WallMicros>,
        content_type: Option<&'a str>,
        #[serde(serialize_with = "as_bytes")]
        value: &'a [u8],
    },
    Tombstone,
}

fn as_bytes<S: Serializer>(value: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(value)
}

impl<'a> Stored<'a> {
    pub(crate) fn of(record: &'a Record, insertion: Option<u64>) -> Self {
        let state = match &record.state {
            State::Live(live) => {
                StoredState::Live { expires_at: live.expires_at, content_type: live.content_type.as_deref(), value: &live.value }
            }
            State::Tombstone => StoredState::Tombstone,
        };
        Self { insertion, version: record.version, state }
    }

    /// The record, its value copied out of the page.
    pub(crate) fn to_record(self) -> Record {
        let state = match self.state {
            StoredState::Live { expires_at, content_type, value } => {
                State::Live(Live { value: Bytes::copy_from_slice(value), content_type: content_type.map(Arc::from), expires_at })
            }
            StoredState::Tombstone => State::Tombstone,
        };
        Record { version: self.version, state }
    }

    pub(crate) fn is_live(&self) -> bool {
        matches!(self.state, StoredState::Live { .. })
    }

    pub(crate) fn expires_at(&self) -> Option<WallMicros> {
        match self.state {
            StoredState::Live { expires_at, .. } => expires_at,
            StoredState::Tombstone => None,
        }
    }

    pub(crate) fn value_bytes(&self) -> u64 {
        match self.state {
            StoredState::Live { value, .. } => value.len() as u64,
            StoredState::Tombstone => 0,
        }
    }
}

fn checksum(name: &[u8], body: &[u8]) -> [u8; 8] {
    xxh3_64_with_seed(body, xxh3_64(name)).to_le_bytes()
}

/// Seals `value` under `name` into `out`, whose earlier content is dropped.
pub(crate) fn seal<T: Serialize>(name: &[u8], value: &T, out: &mut Vec<u8>) {
    out.clear();
    out.resize(SEAL_BYTES, 0);
    out[0] = SEAL_FORMAT;
    let buffer = std::mem::take(out);
    *out = postcard::to_extend(value, buffer).expect("a growing buffer takes every value of these plain types");
    let sum = checksum(name, &out[SEAL_BYTES..]);
    out[1..SEAL_BYTES].copy_from_slice(&sum);
}

/// Reads what [`seal`] wrote under the same name. Borrows where the type borrows.
pub(crate) fn unseal<'a, T: Deserialize<'a>>(name: &[u8], bytes: &'a [u8]) -> Result<T, Corrupt> {
    let (head, body) = bytes.split_at_checked(SEAL_BYTES).ok_or(Corrupt)?;
    if head[0] != SEAL_FORMAT || head[1..] != checksum(name, body) {
        return Err(Corrupt);
    }
    postcard::from_bytes(body).map_err(|_| Corrupt)
}

/// The row of a record: slot (big endian), namespace, a zero byte (which no namespace has), key. So a slot is one range, in the order of namespace and key.
pub(crate) fn record_row(slot: Slot, ns: &Namespace, key: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&slot.number().to_be_bytes());
    push_name(ns, key, out);
}

/// The row of a name: namespace, a zero byte, key.
pub(crate) fn name_row(ns: &Namespace, key: &[u8], out: &mut Vec<u8>) {
    out.clear();
    push_name(ns, key, out);
}

fn push_name(ns: &Namespace, key: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(ns.as_str().as_bytes());
    out.push(0);
    out.extend_from_slice(key);
}

/// Takes a record's row apart.
pub(crate) fn parse_record_row(row: &[u8]) -> Result<(Slot, Namespace, Key), Corrupt> {
    let (slot, name) = row.split_first_chunk::<SLOT_BYTES>().ok_or(Corrupt)?;
    let slot = Slot::new(u16::from_be_bytes(*slot)).map_err(|_| Corrupt)?;
    let (ns, key) = parse_name_row(name)?;
    Ok((slot, ns, key))
}

/// Takes a name's row apart.
pub(crate) fn parse_name_row(row: &[u8]) -> Result<(Namespace, Key), Corrupt> {
    let end = row.iter().position(|&b| b == 0).ok_or(Corrupt)?;
    let ns = std::str::from_utf8(&row[..end]).ok().and_then(|text| Namespace::new(text).ok()).ok_or(Corrupt)?;
    let key = Key::new(Bytes::copy_from_slice(&row[end + 1..])).map_err(|_| Corrupt)?;
    Ok((ns, key))
}

/// The rows of one slot: from the first (included) to the second (excluded).
pub(crate) fn slot_range(slot: Slot) -> ([u8; SLOT_BYTES], [u8; SLOT_BYTES]) {
    (slot.number().to_be_bytes(), (slot.number() + 1).to_be_bytes())
}

/// A log row's body.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredOperation<'a> {
    pub(crate) slot: Slot,
    pub(crate) ns: &'a str,
    #[serde(serialize_with = "as_bytes")]
    pub(crate) key: &'a [u8],
    pub(crate) version: Version,
}

/// A kept answer's body.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredAnswer<'a> {
    pub(crate) until: WallMicros,
    #[serde(serialize_with = "as_bytes")]
    pub(crate) answer: &'a [u8],
}

/// A fact's body.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredFact<'a> {
    #[serde(serialize_with = "as_bytes")]
    pub(crate) value: &'a [u8],
}

#[cfg(test)]
mod tests {
    use super::*;
    use isochrone_ident::{Hlc, Incarnation, NodeId};
    use proptest::prelude::*;

    fn record(value: &[u8], content_type: Option<&str>, expires_at: Option<u64>) -> Record {
        Record {
            version: Version { hlc: Hlc(0x0102), node: NodeId(3), incarnation: Incarnation(4) },
            state: State::Live(Live {
                value: Bytes::copy_from_slice(value),
                content_type: content_type.map(Arc::from),
                expires_at: expires_at.map(WallMicros),
            }),
        }
    }

    #[test]
    fn the_bytes_of_a_record_on_disk_never_change() {
        let mut bytes = Vec::new();
        seal(b"row", &Stored::of(&record(b"v", Some("t"), Some(5)), Some(6)), &mut bytes);
        assert_eq!(bytes[0], SEAL_FORMAT);
        assert_eq!(bytes[SEAL_BYTES..], [1, 6, 0x82, 2, 3, 4, 0, 1, 5, 1, 1, b't', 1, b'v']);
        assert_eq!(bytes[1..SEAL_BYTES], [0x6f, 0xd6, 0xb4, 0x7b, 0xc6, 0x21, 0x57, 0xf2]);
    }

    #[test]
    fn a_value_under_another_name_is_corrupt() {
        let mut bytes = Vec::new();
        seal(b"one", &7_u32, &mut bytes);
        assert_eq!(unseal::<u32>(b"one", &bytes), Ok(7));
        assert_eq!(unseal::<u32>(b"two", &bytes), Err(Corrupt));
    }

    proptest! {
        #[test]
        fn a_record_reads_back_as_it_was_written(value: Vec<u8>, content_type: Option<String>, expires: Option<u64>, insertion: Option<u64>) {
            let record = record(&value, content_type.as_deref(), expires);
            let mut bytes = Vec::new();
            seal(b"row", &Stored::of(&record, insertion), &mut bytes);
            let stored: Stored<'_> = unseal(b"row", &bytes).expect("reads back");
            prop_assert_eq!(stored.insertion, insertion);
            prop_assert_eq!(stored.to_record(), record);
        }

        #[test]
        fn any_flipped_bit_is_noticed(value: Vec<u8>, at: prop::sample::Index, bit in 0..8) {
            let mut bytes = Vec::new();
            seal(b"row", &Stored::of(&record(&value, None, None), None), &mut bytes);
            let at = at.index(bytes.len());
            bytes[at] ^= 1u8 << bit;
            prop_assert_eq!(unseal::<Stored<'_>>(b"row", &bytes), Err(Corrupt));
        }

        #[test]
        fn garbage_is_an_error_and_never_a_panic(bytes: Vec<u8>) {
            let _ = unseal::<Stored<'_>>(b"row", &bytes);
            let _ = parse_record_row(&bytes);
            let _ = parse_name_row(&bytes);
        }

        #[test]
        fn rows_order_by_slot_then_namespace_then_key(a in 0u16..4096, b in 0u16..4096, x: [u8; 3], y: [u8; 3]) {
            let ns = Namespace::new("data").expect("a name");
            let (mut one, mut two) = (Vec::new(), Vec::new());
            record_row(Slot::new(a).expect("below 4096"), &ns, &x, &mut one);
            record_row(Slot::new(b).expect("below 4096"), &ns, &y, &mut two);
            prop_assert_eq!(one.cmp(&two), (a, x).cmp(&(b, y)));
            let (slot, back, key) = parse_record_row(&one).expect("a row");
            prop_assert_eq!((slot.number(), &back, key.as_bytes()), (a, &ns, x.as_slice()));
        }
    }
}
