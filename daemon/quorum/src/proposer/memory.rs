//! What a proposer remembers between rounds: configurations, promises for the next write, and its source of back-offs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::{Accepted, Ballot, Configuration, KeyName, Phase};

/// What is known of a slot.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) configuration: Arc<Configuration>,
    /// The highest floor seen.
    pub(super) floor: u64,
    /// The highest floor and slot promise seen, and every slot ballot used: a fresh one is above (Q18c).
    pub(super) slot_seen: u64,
}

impl Known {
    pub(super) fn new(configuration: Arc<Configuration>) -> Self {
        Self { configuration, floor: 0, slot_seen: 0 }
    }
}

/// A promise that a quorum gave in advance (Q8).
#[derive(Debug, Clone)]
pub(super) struct Warm {
    pub(super) phase: Phase,
    pub(super) ballot: Ballot,
    /// What was chosen; `None` where the quorum held nothing.
    pub(super) accepted: Option<Accepted>,
}

impl Warm {
    fn bytes(&self) -> usize {
        self.accepted.as_ref().map_or(0, |accepted| accepted.envelope.bytes())
    }
}

/// What two lists hold of a key beside its name and its record, about: places in trees, ballots, counts.
const KEY_BYTES: usize = 256;

/// A key that was warm; without a promise while a write uses it.
#[derive(Debug, Clone, Default)]
struct WarmKey {
    warm: Option<Warm>,
    /// Whether it was written since it was last looked at: then it stays once more.
    is_used: bool,
}

/// Promises for the next write of each key. Bounded in keys and in bytes: of the oldest the first goes that was not used since it was last looked at
/// (the clock algorithm: Corbató 1968), which costs its key a round trip.
#[derive(Debug, Clone)]
pub(super) struct WarmKeys {
    keys_max: usize,
    bytes_max: usize,
    bytes: usize,
    keys: BTreeMap<KeyName, WarmKey>,
    /// Each key of `keys` once.
    order: VecDeque<KeyName>,
}

impl WarmKeys {
    pub(super) fn new(keys_max: usize, bytes_max: usize) -> Self {
        Self { keys_max, bytes_max, bytes: 0, keys: BTreeMap::new(), order: VecDeque::new() }
    }

    pub(super) fn insert(&mut self, key: KeyName, warm: Warm) {
        self.bytes += warm.bytes();
        if let Some(entry) = self.keys.get_mut(&key) {
            self.bytes -= entry.warm.replace(warm).map_or(0, |before| before.bytes());
            entry.is_used = true;
        } else {
            self.bytes += KEY_BYTES + key.key.as_bytes().len();
            self.order.push_back(key.clone());
            self.keys.insert(key, WarmKey { warm: Some(warm), is_used: false });
        }
        while self.keys.len() > self.keys_max || self.bytes > self.bytes_max {
            let Some(oldest) = self.order.pop_front() else { return };
            self.drop_unless_used(oldest);
        }
    }

    fn drop_unless_used(&mut self, key: KeyName) {
        match self.keys.get_mut(&key) {
            Some(entry) if entry.is_used => {
                entry.is_used = false;
                self.order.push_back(key);
            }
            _ => {
                let warm = self.keys.remove(&key).and_then(|entry| entry.warm);
                self.bytes -= KEY_BYTES + key.key.as_bytes().len() + warm.map_or(0, |warm| warm.bytes());
            }
        }
    }

    /// Takes a promise: a ballot is used once.
    pub(super) fn take(&mut self, key: &KeyName) -> Option<Warm> {
        let warm = self.keys.get_mut(key)?.warm.take()?;
        self.bytes -= warm.bytes();
        Some(warm)
    }

    /// In which phase a key was promised.
    pub(super) fn phase(&self, key: &KeyName) -> Option<Phase> {
        self.keys.get(key)?.warm.as_ref().map(|warm| warm.phase)
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): back-offs need to differ between daemons, and nothing more.
#[derive(Debug, Clone)]
pub(super) struct Random(pub(super) u64);

impl Random {
    /// Uniform in `0..=max`, but for a bias of at most max / 2^64.
    pub(super) fn up_to(&mut self, max: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        if max == u64::MAX { z } else { z % (max + 1) }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use isochrone_ident::{Key, Namespace};

    use super::*;
    use crate::{Content, Value};

    fn key(number: u64) -> KeyName {
        let key = Key::new(number.to_be_bytes().to_vec()).expect("a key");
        KeyName { namespace: Namespace::new("warm").expect("a name"), key }
    }

    fn warm(bytes: usize) -> Warm {
        let value =
            Value { bytes: Bytes::from(vec![0; bytes]), content_type: None, expires: None, written: isochrone_ident::WallMicros(0) };
        let envelope = Arc::new(crate::Envelope { content: Content::Live(value), ..crate::change::unborn(0) });
        Warm { phase: Phase(0), ballot: Ballot::NONE, accepted: Some(Accepted { ballot: Ballot::NONE, envelope }) }
    }

    #[test]
    fn q8_keys_that_are_written_again_and_again_stay_warm() {
        let mut keys = WarmKeys::new(16, 1 << 20);
        for number in 0..1_000 {
            let hot = key(number % 4);
            assert_eq!(keys.take(&hot).is_some(), number >= 4, "write {number}");
            keys.insert(hot, warm(10));
            keys.insert(key(10_000 + number), warm(10));
            assert!(keys.keys.len() <= 16 && keys.order.len() == keys.keys.len());
        }
    }

    #[test]
    fn q8_warm_keys_take_no_more_than_their_bytes() {
        let mut keys = WarmKeys::new(1_000, 100_000);
        for number in 0..500 {
            keys.insert(key(number % 200), warm(usize::try_from(number * 37 % 5_000).expect("small")));
            let counted: usize = keys.keys.values().map(|entry| KEY_BYTES + 8 + entry.warm.as_ref().map_or(0, Warm::bytes)).sum();
            assert!(keys.bytes == counted && counted <= 100_000);
            keys.take(&key(number * 7 % 200));
        }
        keys.insert(key(1), warm(200_000));
        assert!(keys.keys.is_empty() && keys.bytes == 0, "what does not fit at all is not kept");
    }
}
