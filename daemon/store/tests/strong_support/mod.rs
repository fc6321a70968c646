//! What the tests of the strong store share.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use isochrone_ident::{Epoch, Incarnation, Key, Namespace, NodeId, Slot, StoreId, WallMicros};
use isochrone_quorum::{
    Accepted, Ballot, Content, Envelope, KeyName, KeyState, Member, Phase, Place, ProposerId, Revision, SlotState, View,
};
use isochrone_store::{Driver, Medium, SimDisk, StrongOptions, StrongStore};

pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime").block_on(future)
}

/// A strong store's surroundings: its disk, what it told, and what it said when it failed.
#[derive(Clone, Default)]
pub(crate) struct World {
    pub(crate) disk: SimDisk,
    pub(crate) told: Arc<Mutex<Vec<Place>>>,
    pub(crate) fatal: Arc<Mutex<Vec<String>>>,
}

pub(crate) const ME: Member = Member { node: NodeId(7), store: StoreId(8) };

impl World {
    pub(crate) fn options(&self) -> StrongOptions {
        let fatal = Arc::clone(&self.fatal);
        let on_fatal = Arc::new(move |reason| fatal.lock().expect("not poisoned").push(reason));
        let driver = Driver::Task { sync_latency: Duration::ZERO };
        StrongOptions { memory_bytes_max: 8 << 20, ..StrongOptions::new(driver, on_fatal) }
    }

    pub(crate) fn open(&self) -> StrongStore {
        self.open_with(self.options())
    }

    pub(crate) fn open_with(&self, options: StrongOptions) -> StrongStore {
        let store = StrongStore::open(Medium::Simulated(self.disk.clone()), ME, options).expect("opens");
        let told = Arc::clone(&self.told);
        assert!(store.on_synced(Arc::new(move |place| told.lock().expect("not poisoned").push(place))));
        store
    }

    /// The last place that was told to be synced.
    pub(crate) fn told(&self) -> Place {
        self.told.lock().expect("not poisoned").last().copied().unwrap_or_default()
    }

    /// Waits, in virtual time, until that place is told.
    pub(crate) async fn synced(&self, place: u64) {
        for _ in 0..10_000 {
            if self.told() >= Place(place) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("place {place} was never told: {:?}, {:?}", self.told(), self.fatal.lock().expect("not poisoned"));
    }
}

pub(crate) fn slot(number: u16) -> Slot {
    Slot::new(number).expect("below 4096")
}

/// The slot that a key of these tests lies in, always the same.
pub(crate) fn slot_of(text: &str) -> Slot {
    Slot::of_hash(text.bytes().map(u64::from).sum::<u64>() % 5)
}

pub(crate) fn name(text: &str) -> KeyName {
    name_in("data", text)
}

pub(crate) fn name_in(namespace: &str, text: &str) -> KeyName {
    KeyName { namespace: Namespace::new(namespace).expect("a name"), key: Key::new(text.to_owned()).expect("a key") }
}

pub(crate) fn ballot(counter: u64) -> Ballot {
    Ballot { counter, proposer: ProposerId { node: NodeId(1), incarnation: Incarnation(2) } }
}

fn accepted(counter: u64, content: Content) -> KeyState {
    let envelope = Envelope { revision: Revision(counter), content, fences: BTreeMap::new(), floor: 0, ring: Vec::new(), intent: None };
    KeyState { promised: ballot(counter), accepted: Some(Accepted { ballot: ballot(counter), envelope: Arc::new(envelope) }) }
}

pub(crate) fn live(counter: u64, bytes: impl Into<Bytes>, expires: Option<u64>) -> KeyState {
    let value =
        isochrone_quorum::Value { bytes: bytes.into(), content_type: None, expires: expires.map(WallMicros), written: WallMicros(0) };
    accepted(counter, Content::Live(value))
}

pub(crate) fn tombstone(counter: u64) -> KeyState {
    accepted(counter, Content::Tombstone)
}

pub(crate) fn promise(counter: u64) -> KeyState {
    KeyState { promised: ballot(counter), accepted: None }
}

pub(crate) fn slot_state(phase: u64, floor: u64) -> SlotState {
    SlotState { phase: Phase(phase), joined: Some(Epoch(1)), floor, promised: Ballot::NONE }
}

/// Keys of a slot in order, those after `after`, at most `max`.
pub(crate) fn keys(view: &impl View, slot: Slot, after: Option<&KeyName>, max: usize) -> Vec<(KeyName, KeyState)> {
    let mut keys = Vec::new();
    view.walk(slot, after, &mut |key, state| {
        keys.push((key, state));
        keys.len() < max
    });
    keys
}
