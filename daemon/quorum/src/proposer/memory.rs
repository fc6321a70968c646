//! What a proposer remembers between rounds: configurations, promises for the next write, and its source of back-offs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::grant::Grant;
use crate::{Accepted, Ballot, Configuration, KeyName, Phase};

/// What is known of a slot.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) configuration: Arc<Configuration>,
    pub(super) grant: Option<Grant>,
    /// The highest floor seen.
    pub(super) floor: u64,
    /// The highest floor and slot promise seen, and every slot ballot used: a fresh one is above (Q18c).
    pub(super) slot_seen: u64,
}

impl Known {
    pub(super) fn new(configuration: Arc<Configuration>) -> Self {
        Self { configuration, grant: None, floor: 0, slot_seen: 0 }
    }

    /// Enters a later phase; grants belong to the one before (Q18e).
    pub(super) fn enter(&mut self, configuration: Arc<Configuration>, keeps_grant: bool) {
        self.configuration = configuration;
        if !keeps_grant {
            self.grant = None;
        }
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

/// Promises for the next write of each key. Bounded: the oldest goes, which costs its key a round trip.
#[derive(Debug)]
pub(super) struct WarmKeys {
    max: usize,
    keys: BTreeMap<KeyName, Warm>,
    order: VecDeque<KeyName>,
}

impl WarmKeys {
    pub(super) fn new(max: usize) -> Self {
        Self { max, keys: BTreeMap::new(), order: VecDeque::new() }
    }

    pub(super) fn insert(&mut self, key: KeyName, warm: Warm) {
        if self.keys.insert(key.clone(), warm).is_none() {
            self.order.push_back(key);
        }
        // Keys that were taken leave their place in the order behind; it holds each key at most twice.
        while self.keys.len() > self.max || self.order.len() > 2 * self.max {
            let Some(oldest) = self.order.pop_front() else { return };
            self.keys.remove(&oldest);
        }
    }

    /// Takes a promise: a ballot is used once.
    pub(super) fn take(&mut self, key: &KeyName) -> Option<Warm> {
        self.keys.remove(key)
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): back-offs need to differ between daemons, and nothing more.
#[derive(Debug)]
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
