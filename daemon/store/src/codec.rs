//! The bytes on the disk: the names of rows, and sealed values.
//!
//! A sealed value is one byte of format, eight bytes of checksum (xxh3, little endian), and a body in postcard. The checksum is seeded by the
//! hash of the row's name, so a value found under another name is corrupt as well.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use isochrone_ident::{Key, Kind, Namespace, Slot, Version, WallMicros};
use isochrone_replica::{Causes, DigestKey, Fingerprint, Live, Record, State, Typed};
use serde::{Deserialize, Serialize, Serializer};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The format of nearly every sealed value.
const SEAL_FORMAT: u8 = 1;
/// The format of log rows that carry more than a value's name and version.
const SEAL_FORMAT_OPERATION: u8 = 2;
/// The format of records whose causes stand in front of what the others hold.
const SEAL_FORMAT_CAUSED: u8 = 3;
const SEAL_BYTES: usize = 9;
const SLOT_BYTES: usize = 2;

/// What is stored does not read back: damaged, or written by a version that this one doesn't know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Corrupt;

/// A record as it lies on the disk. The store's own format: it stays when the types of other rooms change (a test holds its bytes).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stored<'a> {
    /// Its place in the order of eviction; only in evictable namespaces (E11).
    pub(crate) insertion: Option<u64>,
    pub(crate) version: Version,
    #[serde(borrow)]
    pub(crate) state: StoredState<'a>,
    /// What the writes in it depend on (E9). Stands in front, in a format of its own, since it is no part of what replicas compare.
    #[serde(skip)]
    pub(crate) causes: Option<Arc<Causes>>,
}

/// The state of a [`Stored`]. Variants are numbered in order on the disk: new ones go to the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum StoredState<'a> {
    Live {
        expires_at: Option<WallMicros>,
        content_type: Option<&'a str>,
        #[serde(serialize_with = "as_bytes")]
        value: &'a [u8],
    },
    Tombstone,
    /// A counter, a set, a map or a register. Its bytes are told apart only when it is read: most who look at a row want to know no more than its deadline.
    Typed {
        expires_at: Option<WallMicros>,
        #[serde(borrow, serialize_with = "cow_as_bytes")]
        state: Cow<'a, [u8]>,
    },
}

fn as_bytes<S: Serializer>(value: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(value)
}

#[allow(clippy::ptr_arg, reason = "serde calls it with a reference to the field")]
fn cow_as_bytes<S: Serializer>(value: &Cow<'_, [u8]>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(value)
}

/// The bytes of a value of a plain type.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, Vec::new()).expect("a growing buffer takes every value of these plain types")
}

impl<'a> Stored<'a> {
    pub(crate) fn of(record: &'a Record, insertion: Option<u64>) -> Self {
        let state = match &record.state {
            State::Live(live) => {
                StoredState::Live { expires_at: live.expires_at, content_type: live.content_type.as_deref(), value: &live.value }
            }
            State::Tombstone => StoredState::Tombstone,
            State::Typed(typed) => StoredState::Typed { expires_at: typed.expires_at(), state: Cow::Owned(encode(typed.as_ref())) },
        };
        Self { insertion, version: record.version, state, causes: record.causes.clone() }
    }

    /// Seals it as the row of that name into `out`, whose earlier content is dropped.
    pub(crate) fn seal(&self, row: &[u8], out: &mut Vec<u8>) {
        match &self.causes {
            None => seal(row, self, out),
            Some(causes) => seal_as(SEAL_FORMAT_CAUSED, row, &(causes, self), out),
        }
    }

    /// Reads what [`Stored::seal`] wrote under the same name.
    pub(crate) fn unseal(row: &[u8], bytes: &'a [u8]) -> Result<Self, Corrupt> {
        if bytes.first() != Some(&SEAL_FORMAT_CAUSED) {
            return unseal(row, bytes);
        }
        let (causes, stored): (Arc<Causes>, Self) = unseal_as(SEAL_FORMAT_CAUSED, row, bytes)?;
        Ok(Self { causes: Some(causes), ..stored })
    }

    /// The record, its value copied out of the page.
    pub(crate) fn to_record(&self) -> Result<Record, Corrupt> {
        let state = match &self.state {
            StoredState::Live { expires_at, content_type, value } => State::Live(Live {
                value: Bytes::copy_from_slice(value),
                content_type: content_type.map(Arc::from),
                expires_at: *expires_at,
            }),
            StoredState::Tombstone => State::Tombstone,
            StoredState::Typed { state, .. } => State::Typed(postcard::from_bytes::<Typed>(state).map(Arc::new).map_err(|_| Corrupt)?),
        };
        Ok(Record { version: self.version, state, causes: self.causes.clone() })
    }

    pub(crate) fn is_live(&self) -> bool {
        !matches!(self.state, StoredState::Tombstone)
    }

    pub(crate) fn expires_at(&self) -> Option<WallMicros> {
        match &self.state {
            StoredState::Live { expires_at, .. } => *expires_at,
            StoredState::Tombstone => None,
            StoredState::Typed { expires_at, .. } => *expires_at,
        }
    }

    pub(crate) fn value_bytes(&self) -> u64 {
        match &self.state {
            StoredState::Live { value, .. } => value.len() as u64,
            StoredState::Tombstone => 0,
            StoredState::Typed { state, .. } => state.len() as u64,
        }
    }
}

/// The seed is the hash of the row's name, and the format where it is not the first, so that the format byte is covered as well.
fn checksum(format: u8, name: &[u8], body: &[u8]) -> [u8; 8] {
    let seed = xxh3_64(name).wrapping_add(u64::from(format - SEAL_FORMAT));
    xxh3_64_with_seed(body, seed).to_le_bytes()
}

/// Seals `value` under `name` into `out`, whose earlier content is dropped.
pub(crate) fn seal<T: Serialize>(name: &[u8], value: &T, out: &mut Vec<u8>) {
    seal_as(SEAL_FORMAT, name, value, out);
}

fn seal_as<T: Serialize>(format: u8, name: &[u8], value: &T, out: &mut Vec<u8>) {
    out.clear();
    out.resize(SEAL_BYTES, 0);
    out[0] = format;
    let buffer = std::mem::take(out);
    *out = postcard::to_extend(value, buffer).expect("a growing buffer takes every value of these plain types");
    let sum = checksum(format, name, &out[SEAL_BYTES..]);
    out[1..SEAL_BYTES].copy_from_slice(&sum);
}

/// Reads what [`seal`] wrote under the same name. Borrows where the type borrows.
pub(crate) fn unseal<'a, T: Deserialize<'a>>(name: &[u8], bytes: &'a [u8]) -> Result<T, Corrupt> {
    unseal_as(SEAL_FORMAT, name, bytes)
}

fn unseal_as<'a, T: Deserialize<'a>>(format: u8, name: &[u8], bytes: &'a [u8]) -> Result<T, Corrupt> {
    let (head, body) = bytes.split_at_checked(SEAL_BYTES).ok_or(Corrupt)?;
    if head[0] != format || head[1..] != checksum(format, name, body) {
        return Err(Corrupt);
    }
    postcard::from_bytes(body).map_err(|_| Corrupt)
}

/// What stands for a record in its slot's digest (E6): over the name of its row without the slot, and its version and state as they are sealed, which is canonical.
/// `None` for a record that may be evicted: it has a place in the order of eviction, told in front of its version.
pub(crate) fn fingerprint(key: DigestKey, row: &[u8], sealed: &[u8]) -> Option<Fingerprint> {
    let mut body = sealed.get(SEAL_BYTES..)?;
    if sealed.first() == Some(&SEAL_FORMAT_CAUSED) {
        (_, body) = postcard::take_from_bytes::<Causes>(body).ok()?;
    }
    let (is_evictable, state) = body.split_first()?;
    (*is_evictable == 0).then(|| Fingerprint::of(key, row.get(SLOT_BYTES..).unwrap_or_default(), state))
}

/// The slot of a record's row.
pub(crate) fn slot_of_row(row: &[u8]) -> Result<Slot, Corrupt> {
    let slot = row.first_chunk::<SLOT_BYTES>().ok_or(Corrupt)?;
    Slot::new(u16::from_be_bytes(*slot)).map_err(|_| Corrupt)
}

/// The namespace of a record's row.
pub(crate) fn namespace_of_row(row: &[u8]) -> Result<Namespace, Corrupt> {
    let name = row.get(SLOT_BYTES..).ok_or(Corrupt)?;
    namespace_of_name(name).map(|(ns, _, _)| ns)
}

/// The row of a record: slot (big endian), namespace, the number of its kind, key. No namespace has a byte so low, and values have 0, as every row had before
/// there were kinds. So a slot is one range, in the order of namespace, kind and key.
pub(crate) fn record_row(slot: Slot, ns: &Namespace, kind: Kind, key: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&slot.number().to_be_bytes());
    push_name(ns, kind, key, out);
}

/// The row of a name: namespace, the number of its kind, key.
pub(crate) fn name_row(ns: &Namespace, kind: Kind, key: &[u8], out: &mut Vec<u8>) {
    out.clear();
    push_name(ns, kind, key, out);
}

fn push_name(ns: &Namespace, kind: Kind, key: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(ns.as_str().as_bytes());
    out.push(kind.number());
    out.extend_from_slice(key);
}

/// Takes a record's row apart.
pub(crate) fn parse_record_row(row: &[u8]) -> Result<(Slot, Namespace, Kind, Key), Corrupt> {
    let slot = slot_of_row(row)?;
    let (ns, kind, key) = parse_name_row(&row[SLOT_BYTES..])?;
    Ok((slot, ns, kind, key))
}

/// Takes a name's row apart.
pub(crate) fn parse_name_row(row: &[u8]) -> Result<(Namespace, Kind, Key), Corrupt> {
    let (ns, kind, key) = namespace_of_name(row)?;
    let key = Key::new(Bytes::copy_from_slice(key)).map_err(|_| Corrupt)?;
    Ok((ns, kind, key))
}

fn namespace_of_name(name: &[u8]) -> Result<(Namespace, Kind, &[u8]), Corrupt> {
    let (end, kind) = name.iter().enumerate().find_map(|(at, &b)| Kind::of_number(b).map(|kind| (at, kind))).ok_or(Corrupt)?;
    let ns = std::str::from_utf8(&name[..end]).ok().and_then(|text| Namespace::new(text).ok()).ok_or(Corrupt)?;
    Ok((ns, kind, &name[end + 1..]))
}

/// The rows of one slot: from the first (included) to the second (excluded).
pub(crate) fn slot_range(slot: Slot) -> ([u8; SLOT_BYTES], [u8; SLOT_BYTES]) {
    (slot.number().to_be_bytes(), (slot.number() + 1).to_be_bytes())
}

/// A log row's body.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredOperation<'a> {
    pub(crate) slot: Slot,
    pub(crate) ns: &'a str,
    #[serde(serialize_with = "as_bytes")]
    pub(crate) key: &'a [u8],
    pub(crate) version: Version,
    pub(crate) kind: Kind,
    /// The change itself, encoded; only where the sender could not read it from the record (sets, maps, registers).
    pub(crate) delta: Option<&'a [u8]>,
    /// The key of the request that made the change.
    pub(crate) request: Option<&'a [u8]>,
}

/// A log row's body before there were kinds: of a value.
#[derive(Debug, Serialize, Deserialize)]
struct StoredValueOperation<'a> {
    slot: Slot,
    ns: &'a str,
    #[serde(serialize_with = "as_bytes")]
    key: &'a [u8],
    version: Version,
}

impl<'a> StoredOperation<'a> {
    /// Seals it as the row of `sequence`.
    pub(crate) fn seal(&self, sequence: u64, out: &mut Vec<u8>) {
        seal_as(SEAL_FORMAT_OPERATION, &sequence.to_be_bytes(), self, out);
    }

    /// Reads the row of `sequence`, in the form of today or in the one from before there were kinds.
    pub(crate) fn unseal(sequence: u64, bytes: &'a [u8]) -> Result<Self, Corrupt> {
        let name = sequence.to_be_bytes();
        if bytes.first() != Some(&SEAL_FORMAT) {
            return unseal_as(SEAL_FORMAT_OPERATION, &name, bytes);
        }
        let StoredValueOperation { slot, ns, key, version } = unseal(&name, bytes)?;
        Ok(Self { slot, ns, key, version, kind: Kind::Value, delta: None, request: None })
    }
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
            causes: None,
        }
    }

    #[test]
    fn the_bytes_of_a_record_on_disk_never_change() {
        let mut bytes = Vec::new();
        Stored::of(&record(b"v", Some("t"), Some(5)), Some(6)).seal(b"row", &mut bytes);
        assert_eq!(bytes[0], SEAL_FORMAT);
        assert_eq!(bytes[SEAL_BYTES..], [1, 6, 0x82, 2, 3, 4, 0, 1, 5, 1, 1, b't', 1, b'v']);
        assert_eq!(bytes[1..SEAL_BYTES], [0x6f, 0xd6, 0xb4, 0x7b, 0xc6, 0x21, 0x57, 0xf2]);
    }

    #[test]
    fn e9_causes_lie_in_front_and_are_no_part_of_what_replicas_compare() {
        let mut session = isochrone_replica::Session::default();
        session.note(NodeId(7), Hlc(9));
        let causes = Arc::new(Causes::of(&session, Hlc::ZERO));
        let (plain, mut caused) = (record(b"v", None, None), record(b"v", None, None));
        caused.causes = Some(Arc::clone(&causes));
        let (mut without, mut with) = (Vec::new(), Vec::new());
        Stored::of(&plain, None).seal(b"\0\0row", &mut without);
        Stored::of(&caused, None).seal(b"\0\0row", &mut with);
        assert_eq!((with[0], &with[SEAL_BYTES..]), (3, [&[0, 1, 7, 9], &without[SEAL_BYTES..]].concat().as_slice()));
        let read = Stored::unseal(b"\0\0row", &with).and_then(|stored| stored.to_record()).expect("it was sealed so");
        assert_eq!((&read, read.causes.as_ref()), (&caused, Some(&causes)));
        let print =
            |sealed: &[u8]| fingerprint(DigestKey::of(&isochrone_ident::ClusterName::new("c").expect("a name")), b"\0\0row", sealed);
        assert!(print(&with).is_some() && print(&with) == print(&without));
    }

    fn operation(kind: Kind) -> StoredOperation<'static> {
        let version = Version { hlc: Hlc(0x0102), node: NodeId(3), incarnation: Incarnation(4) };
        StoredOperation { slot: Slot::of_hash(7), ns: "data", key: b"k", version, kind, delta: Some(&[9]), request: Some(b"r") }
    }

    #[test]
    fn the_bytes_of_an_operation_on_disk_never_change_and_those_from_before_kinds_are_still_read() {
        let mut bytes = Vec::new();
        operation(Kind::Set).seal(5, &mut bytes);
        assert_eq!(bytes[0], SEAL_FORMAT_OPERATION);
        let common = [7, 4, b'd', b'a', b't', b'a', 1, b'k', 0x82, 2, 3, 4];
        assert_eq!(bytes[SEAL_BYTES..], [common.as_slice(), &[2, 1, 1, 9, 1, 1, b'r']].concat());
        assert_eq!(StoredOperation::unseal(5, &bytes), Ok(operation(Kind::Set)));
        assert_eq!(StoredOperation::unseal(6, &bytes), Err(Corrupt), "another place in the log");

        let old = [[1].as_slice(), &checksum(1, &5_u64.to_be_bytes(), &common), &common].concat();
        let read = StoredOperation { delta: None, request: None, ..operation(Kind::Value) };
        assert_eq!(StoredOperation::unseal(5, &old), Ok(read));
        let mut changed = old;
        changed[0] = SEAL_FORMAT_OPERATION;
        assert_eq!(StoredOperation::unseal(5, &changed), Err(Corrupt), "the format is covered by the checksum");
    }

    #[test]
    fn the_rows_of_values_are_those_from_before_there_were_kinds() {
        let (ns, mut row) = (Namespace::new("data").expect("a name"), Vec::new());
        record_row(Slot::of_hash(258), &ns, Kind::Value, b"k", &mut row);
        assert_eq!(row, b"\x01\x02data\0k");
        name_row(&ns, Kind::Set, b"k", &mut row);
        assert_eq!(row, b"data\x02k");
        assert_eq!(parse_name_row(&row).map(|(_, kind, key)| (kind, key.as_bytes().to_vec())), Ok((Kind::Set, b"k".to_vec())));
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
            prop_assert_eq!(stored.to_record(), Ok(record));
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
            let _ = StoredOperation::unseal(1, &bytes);
        }

        #[test]
        fn rows_order_by_slot_then_namespace_then_key(a in 0u16..4096, b in 0u16..4096, x: [u8; 3], y: [u8; 3]) {
            let ns = Namespace::new("data").expect("a name");
            let (mut one, mut two) = (Vec::new(), Vec::new());
            record_row(Slot::new(a).expect("below 4096"), &ns, Kind::Value, &x, &mut one);
            record_row(Slot::new(b).expect("below 4096"), &ns, Kind::Value, &y, &mut two);
            prop_assert_eq!(one.cmp(&two), (a, x).cmp(&(b, y)));
            let (slot, back, kind, key) = parse_record_row(&one).expect("a row");
            prop_assert_eq!((slot.number(), &back, kind, key.as_bytes()), (a, &ns, Kind::Value, x.as_slice()));
        }
    }
}
