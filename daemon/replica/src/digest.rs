//! What a replica holds of a slot, in a few numbers: how two replicas find out where they differ (E6).
//!
//! ```text
//!   (row name, canonical state) ──keyed xxh3-128──> Fingerprint ──added to──> 1 of 256 sums: SlotDigest, one a slot
//!
//!   two replicas compare, and go down only where they differ:
//!     64 marks of 64 slots each ─> 64 roots ─> 16 groups of a slot ─> 16 buckets ─> items (name, fingerprint, version)
//!            512 bytes                1 KiB         128 bytes            256 bytes      those of one bucket
//! ```
//!
//! A sum does not depend on the order in which its rows came, and a row goes out of it as it came in: by its fingerprint. So a digest is
//! kept up with each write, and nothing is ever hashed again (incremental hashing by sums: Bellare and Micciancio 1997, "A New Paradigm for
//! Collision-Free Hashing", section 3, AdHASH). Sums, not exclusive ors: a row that was wrongly counted twice does not vanish from a sum.
//!
//! What this guards against is accidents: lost writes, lost disks, bugs. Whoever can choose both keys and values *and* knows the
//! cluster's name could make two differing stores look alike; they could only hide their own writes.

use bytes::Bytes;
use isochrone_ident::{ClusterName, SLOTS, Version, WallMicros};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_64_with_seed, xxh3_128};

/// Sums in a slot's digest.
pub const BUCKETS: usize = 256;
/// Groups of [`BUCKETS`], and buckets in a group.
pub const GROUPS: usize = 16;
/// Spans of slots that are compared as one: [`SLOTS`] / [`SPAN_SLOTS`].
pub const SPANS: usize = SLOTS as usize / SPAN_SLOTS;
/// Slots in a span.
pub const SPAN_SLOTS: usize = 64;

/// Sets the buckets apart from the slots, whose hash is the same function without a seed.
const BUCKET_SEED: u64 = 0x6275_636b_6574_7321;

/// The key of a cluster's fingerprints: all its daemons must have the same, or nothing would ever compare as equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DigestKey(u64);

impl DigestKey {
    /// The key of that cluster.
    #[must_use]
    pub fn of(cluster: &ClusterName) -> Self {
        Self(xxh3_64(cluster.as_str().as_bytes()))
    }
}

/// What stands for one row in a sum: a keyed 128-bit hash over its name and its state. On the wire 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub u128);

impl Fingerprint {
    /// The fingerprint of a row. `state` must be canonical: equal states have equal bytes, on every daemon. The name's length goes in first, so
    /// that no byte can move from the name to the state unseen.
    #[must_use]
    pub fn of(key: DigestKey, row_name: &[u8], state: &[u8]) -> Self {
        let mut hasher = Xxh3::with_seed(key.0);
        hasher.update(&(row_name.len() as u64).to_le_bytes());
        hasher.update(row_name);
        hasher.update(state);
        Self(hasher.digest128())
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.to_le_bytes().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <[u8; 16]>::deserialize(deserializer).map(|bytes| Self(u128::from_le_bytes(bytes)))
    }
}

/// The bucket of a row within its slot. Part of the wire format; independent of the slot's own hash, and of the state.
#[must_use]
pub fn bucket_of(row_name: &[u8]) -> u8 {
    (xxh3_64_with_seed(row_name, BUCKET_SEED) >> 56) as u8
}

/// The digest of one slot: the wrapping sum of its rows' fingerprints, by bucket. Equal sets of rows have equal digests.
///
/// Takes 17 bytes in memory for each bucket that is not zero, 4.3 KiB at most. In serde's formats 16 bytes each beside a map of 32 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SlotDigest {
    /// The buckets that are not zero, in order.
    buckets: Vec<u8>,
    /// Their sums.
    sums: Vec<u128>,
}

impl SlotDigest {
    /// The slot has a row more.
    pub fn add(&mut self, bucket: u8, row: Fingerprint) {
        self.change(bucket, row.0);
    }

    /// The slot has a row less, which must have been added before: as it was then, name and state.
    pub fn remove(&mut self, bucket: u8, row: Fingerprint) {
        self.change(bucket, row.0.wrapping_neg());
    }

    fn change(&mut self, bucket: u8, by: u128) {
        match self.buckets.binary_search(&bucket) {
            Ok(at) => {
                self.sums[at] = self.sums[at].wrapping_add(by);
                if self.sums[at] == 0 {
                    self.buckets.remove(at);
                    self.sums.remove(at);
                }
            }
            Err(at) if by != 0 => {
                self.buckets.insert(at, bucket);
                self.sums.insert(at, by);
            }
            Err(_) => {}
        }
    }

    /// Adds another digest's rows, which must be other rows than this one's.
    pub fn merge(&mut self, other: &Self) {
        other.buckets.iter().zip(&other.sums).for_each(|(&bucket, &sum)| self.change(bucket, sum));
    }

    /// Whether there are no rows.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    fn dense(&self) -> [u128; BUCKETS] {
        let mut dense = [0; BUCKETS];
        self.buckets.iter().zip(&self.sums).for_each(|(&bucket, &sum)| dense[usize::from(bucket)] = sum);
        dense
    }

    /// One number for the whole slot; 0 if, and only if, all sums are 0.
    #[must_use]
    pub fn root(&self) -> u128 {
        fold(&self.dense(), |bytes| xxh3_128(bytes).max(1))
    }

    /// A mark for each group of [`GROUPS`] buckets; 0 for a group without rows.
    #[must_use]
    pub fn groups(&self) -> [u64; GROUPS] {
        std::array::from_fn(|group| fold(&self.buckets(group), |bytes| xxh3_64(bytes).max(1)))
    }

    /// The sums of a group's buckets; zeros for a group beyond the last.
    #[must_use]
    pub fn buckets(&self, group: usize) -> [u128; GROUPS] {
        std::array::from_fn(|place| {
            let bucket = group.checked_mul(GROUPS).and_then(|first| u8::try_from(first + place).ok());
            bucket.and_then(|bucket| self.buckets.binary_search(&bucket).ok()).map_or(0, |at| self.sums[at])
        })
    }
}

/// The bucket with that place in that group.
#[must_use]
pub const fn bucket_in(group: usize, place: usize) -> u8 {
    (group * GROUPS + place) as u8
}

fn fold<T: Default>(sums: &[u128], hash: impl Fn(&[u8]) -> T) -> T {
    if sums.iter().all(|&sum| sum == 0) {
        return T::default();
    }
    let mut bytes = Vec::with_capacity(sums.len() * 16);
    sums.iter().for_each(|sum| bytes.extend_from_slice(&sum.to_le_bytes()));
    hash(&bytes)
}

#[derive(Serialize, Deserialize)]
struct Compact {
    present: [u8; BUCKETS / 8],
    sums: Sums,
}

impl Serialize for SlotDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut present = [0; BUCKETS / 8];
        self.buckets.iter().for_each(|bucket| present[usize::from(bucket / 8)] |= 1 << (bucket % 8));
        Compact { present, sums: Sums(self.sums.clone()) }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SlotDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Compact { present, sums: Sums(sums) } = Compact::deserialize(deserializer)?;
        let is_present = |bucket: &u8| present[usize::from(bucket / 8)] & 1 << (bucket % 8) != 0;
        let buckets: Vec<u8> = (0..=u8::MAX).filter(is_present).collect();
        if buckets.len() != sums.len() || sums.contains(&0) {
            return Err(D::Error::custom("a digest whose sums are not those of its buckets"));
        }
        Ok(Self { buckets, sums })
    }
}

macro_rules! numbers {
    ($(#[$doc:meta])* $name:ident, $number:ty, $width:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        pub struct $name(pub Vec<$number>);

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut bytes = Vec::with_capacity(self.0.len() * $width);
                self.0.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
                Bytes::from(bytes).serialize(serializer)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let bytes = Bytes::deserialize(deserializer)?;
                let (numbers, rest) = bytes.as_chunks::<$width>();
                if !rest.is_empty() {
                    return Err(D::Error::custom("numbers that break off"));
                }
                Ok(Self(numbers.iter().map(|number| <$number>::from_le_bytes(*number)).collect()))
            }
        }
    };
}

numbers! {
    /// 64-bit marks as they travel: 8 bytes each, in one piece. (As variable-length integers hashes would take 9 to 10.)
    Marks, u64, 8
}
numbers! {
    /// 128-bit roots or sums as they travel: 16 bytes each, in one piece.
    Sums, u128, 16
}

/// The roots of all [`SLOTS`] slots of a node, in order, with 0 for a slot that is empty, or that the two who compare do not share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots(Box<[u128; SLOTS as usize]>);

impl Roots {
    /// Asks for the root of each slot by its number.
    #[must_use]
    pub fn of(root: impl FnMut(u16) -> u128) -> Self {
        let roots: Vec<u128> = (0..SLOTS).map(root).collect();
        let exact = roots.into_boxed_slice().try_into();
        Self(exact.unwrap_or_else(|_| Box::new([0; SLOTS as usize])))
    }

    /// A mark for each span of [`SPAN_SLOTS`] slots; 0 for one without rows.
    #[must_use]
    pub fn spans(&self) -> [u64; SPANS] {
        let (spans, _) = self.0.as_chunks::<SPAN_SLOTS>();
        std::array::from_fn(|span| fold(&spans[span], |bytes| xxh3_64(bytes).max(1)))
    }

    /// The roots of a span's slots; none for a span beyond the last. The first is that of slot `span * SPAN_SLOTS`.
    #[must_use]
    pub fn roots(&self, span: usize) -> &[u128] {
        self.0.as_chunks::<SPAN_SLOTS>().0.get(span).map_or(&[], |roots| roots)
    }
}

/// The places at which two levels of a digest differ, in order. What one of them lacks counts as 0, so a peer that
/// sends too little or too much makes for more work, and never for a difference that goes unseen.
pub fn differing<T: PartialEq + Default>(mine: &[T], theirs: &[T]) -> Vec<usize> {
    let nothing = T::default();
    (0..mine.len().max(theirs.len())).filter(|&i| mine.get(i).unwrap_or(&nothing) != theirs.get(i).unwrap_or(&nothing)).collect()
}

/// A row as the last level tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The row's name, as the store writes it.
    pub name: Bytes,
    /// Its name and state.
    pub fingerprint: Fingerprint,
    /// The version of its state.
    pub version: Version,
    /// From when on nothing of it can be seen, the skew bound not included: a tombstone from the beginning of time, what has a deadline from then on.
    /// `None`: it is there for good.
    pub gone_at: Option<WallMicros>,
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use isochrone_ident::{Hlc, NodeId};
    use proptest::prelude::*;

    use super::*;
    use crate::differing_items;

    fn key() -> DigestKey {
        DigestKey::of(&ClusterName::new("earth").expect("a name"))
    }

    fn digest<'a>(rows: impl IntoIterator<Item = &'a (Vec<u8>, Vec<u8>)>) -> SlotDigest {
        let mut digest = SlotDigest::default();
        rows.into_iter().for_each(|(name, state)| digest.add(bucket_of(name), Fingerprint::of(key(), name, state)));
        digest
    }

    fn bytes(value: &impl Serialize) -> usize {
        postcard::to_allocvec(value).expect("encodes").len()
    }

    #[test]
    fn e6_a_byte_that_moves_from_the_name_to_the_state_is_seen() {
        assert_ne!(Fingerprint::of(key(), b"ab", b"c"), Fingerprint::of(key(), b"a", b"bc"));
        assert_ne!(Fingerprint::of(key(), b"", b"abc"), Fingerprint::of(key(), b"abc", b""));
        let unframed = |name: &[u8], state: &[u8]| xxh3_128(&[name, state].concat());
        assert_eq!(unframed(b"ab", b"c"), unframed(b"a", b"bc"), "without the length it would not be");
    }

    #[test]
    fn e6_another_cluster_has_other_fingerprints() {
        let other = DigestKey::of(&ClusterName::new("moon").expect("a name"));
        assert_ne!(Fingerprint::of(key(), b"a", b"1"), Fingerprint::of(other, b"a", b"1"));
    }

    #[test]
    fn the_hashes_are_part_of_the_format() {
        assert_eq!(Fingerprint::of(key(), b"a", b"1").0, FINGERPRINT);
        assert_eq!([bucket_of(b"a"), bucket_of(b"b"), bucket_of(b"")], BUCKETS_OF);
    }

    const FINGERPRINT: u128 = 0x55434663327120aab91c27eba111fdd3;
    const BUCKETS_OF: [u8; 3] = [186, 230, 230];

    #[test]
    fn a_row_that_is_counted_twice_does_not_vanish() {
        let mut twice = SlotDigest::default();
        let row = Fingerprint::of(key(), b"a", b"1");
        twice.add(0, row);
        twice.add(0, row);
        assert_ne!(twice, SlotDigest::default(), "exclusive ors would cancel out");
        assert_ne!(twice.root(), 0);
    }

    #[test]
    fn a_sparse_digest_takes_few_bytes_and_a_damaged_one_does_not_decode() {
        assert!(bytes(&SlotDigest::default()) < 40);
        let one = digest(&[(b"a".to_vec(), b"1".to_vec())]);
        let encoded = postcard::to_allocvec(&one).expect("encodes");
        assert!(encoded.len() < 56);
        assert_eq!(postcard::from_bytes::<SlotDigest>(&encoded), Ok(one));
        for broken in [[&[0; 32], &encoded[32..]].concat(), [&[255; 32], &encoded[32..]].concat(), encoded[..40].to_vec()] {
            assert!(postcard::from_bytes::<SlotDigest>(&broken).is_err());
        }
        assert!(postcard::from_bytes::<Sums>(&[3, 1, 2, 3]).is_err());
    }

    #[test]
    fn a_level_that_a_peer_cuts_short_differs_where_it_was_cut() {
        assert_eq!(differing(&[1u64, 2, 3], &[1, 5]), [1, 2]);
        assert_eq!(differing(&[1u64], &[1, 0, 4]), [2]);
        assert_eq!(SlotDigest::default().buckets(usize::MAX), [0; GROUPS]);
        assert!(Roots::of(|_| 1).roots(SPANS).is_empty());
    }

    /// Two nodes with all slots, of which everything that they would send is counted.
    struct Exchange {
        mine: Vec<SlotDigest>,
        theirs: Vec<SlotDigest>,
        sent: usize,
    }

    impl Exchange {
        fn send(&mut self, message: &impl Serialize) {
            self.sent += bytes(message);
        }

        /// Returns the buckets that differ: the two sides take turns, one level each.
        fn down_to_buckets(&mut self) -> BTreeSet<(u16, u8)> {
            let mine = Roots::of(|slot| self.mine[usize::from(slot)].root());
            let theirs = Roots::of(|slot| self.theirs[usize::from(slot)].root());
            self.send(&Marks(mine.spans().to_vec()));
            let mut slots = Vec::new();
            for span in differing(&mine.spans(), &theirs.spans()) {
                self.send(&(span as u8, Sums(theirs.roots(span).to_vec())));
                slots.extend(differing(mine.roots(span), theirs.roots(span)).into_iter().map(|i| span * SPAN_SLOTS + i));
            }
            let mut buckets = BTreeSet::new();
            for slot in slots {
                let (ours, other) = (self.mine[slot].clone(), self.theirs[slot].clone());
                self.send(&(slot as u16, Marks(ours.groups().to_vec())));
                for group in differing(&ours.groups(), &other.groups()) {
                    self.send(&(slot as u16, group as u8, Sums(other.buckets(group).to_vec())));
                    let places = differing(&ours.buckets(group), &other.buckets(group));
                    buckets.extend(places.into_iter().map(|place| (slot as u16, bucket_in(group, place))));
                }
            }
            buckets
        }
    }

    const VALUE_BYTES: usize = 100;

    fn row(number: u64) -> (Vec<u8>, u16, u8) {
        let name = format!("key-{number:08}").into_bytes();
        (name.clone(), (xxh3_64(&name) % u64::from(SLOTS)) as u16, bucket_of(&name))
    }

    /// `keys` keys on both sides, of which `divergent` have another state on the other. Returns the bytes that finding and sending them takes.
    fn reconcile(keys: u64, divergent: u64) -> usize {
        let fingerprint = |number: u64, state: u64| Fingerprint(xxh3_128(&[number.to_le_bytes(), state.to_le_bytes()].concat()));
        let rows: Vec<_> = (0..keys)
            .map(|number| {
                let (_, slot, bucket) = row(number);
                (slot, bucket)
            })
            .collect();
        let mut mine = vec![SlotDigest::default(); usize::from(SLOTS)];
        for (number, &(slot, bucket)) in (0..).zip(&rows) {
            mine[usize::from(slot)].add(bucket, fingerprint(number, 1));
        }
        let mut exchange = Exchange { theirs: mine.clone(), mine, sent: 0 };
        let apart: BTreeSet<u64> = (0..divergent).map(|i| i * (keys / divergent.max(1))).collect();
        for &number in &apart {
            let (slot, bucket) = rows[number as usize];
            exchange.theirs[usize::from(slot)].remove(bucket, fingerprint(number, 1));
            exchange.theirs[usize::from(slot)].add(bucket, fingerprint(number, 2));
        }
        let buckets = exchange.down_to_buckets();
        let mut found = 0;
        for (number, place) in (0..).zip(&rows).filter(|(_, place)| buckets.contains(place)) {
            let version = Version { hlc: Hlc(u64::MAX / 3), node: NodeId(u128::MAX / 3), ..Version::default() };
            let item = |state| Item { name: row(number).0.into(), fingerprint: fingerprint(number, state), version, gone_at: None };
            let theirs = item(if apart.contains(&number) { 2 } else { 1 });
            exchange.send(&(place, item(1)));
            if !differing_items(&[item(1)], std::slice::from_ref(&theirs)).is_empty() {
                exchange.send(&(theirs, vec![0u8; VALUE_BYTES]));
                found += 1;
            }
        }
        assert_eq!(found, apart.len(), "every divergent key was found");
        exchange.sent
    }

    #[test]
    fn e6_the_bytes_of_an_exchange_grow_with_the_difference() {
        let store = 1_000_000 * VALUE_BYTES;
        let sent = reconcile(1_000_000, 1_000);
        assert!(sent < store / 50, "{sent} bytes for 1,000 divergent keys of 1,000,000");
        let nothing = reconcile(20_000, 0);
        assert!(nothing < 1024, "{nothing} bytes for equal stores");
        let one = reconcile(20_000, 1);
        assert!(one < 4096, "{one} bytes for one key");
    }

    type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

    fn rows() -> impl Strategy<Value = Rows> {
        prop::collection::btree_map(prop::collection::vec(any::<u8>(), 0..6), prop::collection::vec(any::<u8>(), 0..6), 0..40)
    }

    proptest! {
        #[test]
        fn e6_digests_are_equal_when_and_only_when_the_rows_are(a in rows(), b in rows()) {
            let [da, db] = [&a, &b].map(|rows| digest(&rows.clone().into_iter().collect::<Vec<_>>()));
            prop_assert_eq!(a == b, da == db);
            prop_assert_eq!(a == b, da.root() == db.root());
            prop_assert_eq!(a == b, da.groups() == db.groups());
            prop_assert_eq!(a.is_empty(), da.root() == 0);
            prop_assert_eq!(postcard::from_bytes::<SlotDigest>(&postcard::to_allocvec(&da).expect("encodes")), Ok(da));
        }

        #[test]
        fn e6_a_digest_kept_up_with_each_write_is_that_of_the_rows_at_the_end(
            writes in prop::collection::vec((0u8..8, prop::option::of(any::<u8>())), 0..100),
        ) {
            let (mut kept, mut held) = (SlotDigest::default(), BTreeMap::new());
            for (name, state) in writes {
                let name = vec![name];
                let print = |state: &Vec<u8>| Fingerprint::of(key(), &name, state);
                if let Some(old) = held.remove(&name) {
                    kept.remove(bucket_of(&name), print(&old));
                }
                if let Some(state) = state {
                    kept.add(bucket_of(&name), print(&vec![state]));
                    held.insert(name, vec![state]);
                }
            }
            prop_assert_eq!(kept, digest(&held.into_iter().collect::<Vec<_>>()));
        }

        #[test]
        fn digests_of_disjoint_rows_merge_in_any_order(a in rows(), b in rows()) {
            let b: Rows = b.into_iter().filter(|(name, _)| !a.contains_key(name)).collect();
            let list = |rows: &Rows| rows.clone().into_iter().collect::<Vec<_>>();
            let (mut ab, mut ba) = (digest(&list(&a)), digest(&list(&b)));
            let (da, db) = (ab.clone(), ba.clone());
            ab.merge(&db);
            ba.merge(&da);
            prop_assert_eq!(&ab, &ba);
            prop_assert_eq!(ab, digest(&[list(&b), list(&a)].concat()));
        }

        #[test]
        fn the_levels_lead_to_each_bucket_that_differs(a in rows(), b in rows()) {
            let [da, db] = [&a, &b].map(|rows| digest(&rows.clone().into_iter().collect::<Vec<_>>()));
            let found: BTreeSet<u8> = differing(&da.groups(), &db.groups())
                .into_iter()
                .flat_map(|group| differing(&da.buckets(group), &db.buckets(group)).into_iter().map(move |place| bucket_in(group, place)))
                .collect();
            let names = a.keys().chain(b.keys()).filter(|name| a.get(*name) != b.get(*name));
            prop_assert_eq!(found, names.map(|name| bucket_of(name)).collect::<BTreeSet<u8>>());
        }
    }
}
