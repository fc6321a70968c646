//! Rule P1: which part of the key space a key falls into; and sets of slots.

use isochrone_ident::{Namespace, SLOTS, Slot};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

const WORDS: usize = SLOTS as usize / 64;
const SHORT_BYTES_MAX: usize = 256;

/// The slot of a key (P1): XXH3-64, seed 0, over the namespace's bytes, one zero byte and the key's bytes; its lowest twelve bits.
///
/// A namespace has no zero byte in it, so no two (namespace, key) pairs are hashed as the same bytes. Part of the format: it never changes.
/// Allocates nothing.
#[must_use]
pub fn slot_of(ns: &Namespace, key: &[u8]) -> Slot {
    let ns = ns.as_str().as_bytes();
    let bytes = ns.len() + 1 + key.len();
    let mut short = [0_u8; SHORT_BYTES_MAX];
    if let Some(joined) = short.get_mut(..bytes) {
        joined[..ns.len()].copy_from_slice(ns);
        joined[ns.len() + 1..].copy_from_slice(key);
        return Slot::of_hash(xxh3_64(joined));
    }
    let mut hasher = Xxh3Default::new();
    hasher.update(ns);
    hasher.update(&[0]);
    hasher.update(key);
    Slot::of_hash(hasher.digest())
}

/// A set of slots: one bit each, 512 bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<u64>", into = "Vec<u64>")]
pub struct SlotSet(Box<[u64; WORDS]>);

impl Default for SlotSet {
    fn default() -> Self {
        Self(Box::new([0; WORDS]))
    }
}

impl SlotSet {
    /// Whether the slot is in the set.
    #[must_use]
    pub fn contains(&self, slot: Slot) -> bool {
        self.0[slot.index() / 64] >> (slot.index() % 64) & 1 == 1
    }

    /// Adds a slot; false when it was there.
    pub fn insert(&mut self, slot: Slot) -> bool {
        let added = !self.contains(slot);
        self.0[slot.index() / 64] |= 1 << (slot.index() % 64);
        added
    }

    /// How many slots are in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether no slot is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// Whether every slot is in the set.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.0.iter().all(|&word| word == u64::MAX)
    }

    /// The slots in the set, in order.
    pub fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        Slot::all().filter(|&slot| self.contains(slot))
    }
}

impl std::fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SlotSet({} of {SLOTS})", self.len())
    }
}

impl FromIterator<Slot> for SlotSet {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> Self {
        let mut set = Self::default();
        set.extend(slots);
        set
    }
}

impl Extend<Slot> for SlotSet {
    fn extend<I: IntoIterator<Item = Slot>>(&mut self, slots: I) {
        for slot in slots {
            self.insert(slot);
        }
    }
}

/// A slot set that was not given as 64 words of 64 bits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a slot set has 64 words, not {0}")]
pub struct InvalidSlotSet(pub usize);

impl TryFrom<Vec<u64>> for SlotSet {
    type Error = InvalidSlotSet;

    fn try_from(words: Vec<u64>) -> Result<Self, InvalidSlotSet> {
        let count = words.len();
        words.into_boxed_slice().try_into().map(Self).map_err(|_| InvalidSlotSet(count))
    }
}

impl From<SlotSet> for Vec<u64> {
    fn from(set: SlotSet) -> Self {
        set.0.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ns(text: &str) -> Namespace {
        Namespace::new(text).expect("a valid namespace")
    }

    #[test]
    fn p1_the_slot_of_a_key_is_part_of_the_format() {
        assert_eq!(xxh3_64(b""), 0x2d06_8005_38d3_94c2, "the reference implementation's answer");
        let vectors: [(&str, &[u8]); 4] = [("cache", b"a"), ("data", b"a"), ("data", b"docs/index.html"), ("strong", &[0xff; 1024])];
        let slots = vectors.map(|(name, key)| slot_of(&ns(name), key).number());
        assert_eq!(slots, [704, 702, 2621, 2992]);
    }

    #[test]
    fn p1_short_and_long_keys_hash_the_same_bytes() {
        for length in [1, 200, 250, 251, 252, 253, 1024] {
            let key = vec![7_u8; length];
            let whole = [b"data".as_slice(), &[0], &key].concat();
            assert_eq!(slot_of(&ns("data"), &key), Slot::of_hash(xxh3_64(&whole)), "{length}");
        }
    }

    #[test]
    fn p1_keys_fill_all_slots_evenly() {
        let mut load = vec![0_u32; usize::from(SLOTS)];
        for key in 0_u32..409_600 {
            load[slot_of(&ns("data"), &key.to_le_bytes()).index()] += 1;
        }
        assert!(load.iter().all(|&keys| (50..160).contains(&keys)), "{:?}..{:?}", load.iter().min(), load.iter().max());
    }

    #[test]
    fn a_slot_set_holds_what_was_put_in() {
        let slot = |n| Slot::new(n).expect("below SLOTS");
        let mut set: SlotSet = [slot(0), slot(63), slot(64), slot(4095)].into_iter().collect();
        assert!(!set.insert(slot(64)));
        assert_eq!(set.iter().map(Slot::number).collect::<Vec<_>>(), [0, 63, 64, 4095]);
        assert_eq!((set.len(), set.is_empty(), set.is_full()), (4, false, false));
        set.extend(Slot::all());
        assert!(set.is_full());
    }

    #[test]
    fn a_slot_set_of_another_size_does_not_decode() {
        let bytes = postcard::to_allocvec(&vec![0_u64; 63]).expect("encodes");
        assert!(postcard::from_bytes::<SlotSet>(&bytes).is_err());
    }
}
