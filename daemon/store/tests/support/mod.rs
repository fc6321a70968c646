//! What the tests of the store share.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use isochrone_ident::{Hlc, Key, Kind, Namespace, Slot, Version, WallMicros};
use isochrone_replica::{Live, Record};
use isochrone_store::{Driver, Medium, Placed, SimDisk, Store, StoreOptions, Write, WriteSet};

pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(future)
}

/// A store's surroundings: its disk, its wall clock, and what it said when its disk failed.
#[derive(Clone, Default)]
pub(crate) struct World {
    pub(crate) disk: SimDisk,
    pub(crate) wall: Arc<AtomicU64>,
    pub(crate) fatal: Arc<Mutex<Vec<String>>>,
}

impl World {
    pub(crate) fn options(&self) -> StoreOptions {
        let (wall, fatal) = (Arc::clone(&self.wall), Arc::clone(&self.fatal));
        let mut options = StoreOptions::new(
            Driver::Task { sync_latency: Duration::ZERO },
            Arc::new(move || WallMicros(wall.load(Ordering::Relaxed))),
            Arc::new(move |reason| fatal.lock().expect("not poisoned").push(reason)),
        );
        options.full_retry = Duration::ZERO;
        options.memory_bytes_max = 16 << 20;
        options
    }

    pub(crate) fn open(&self) -> Store {
        self.open_with(self.options())
    }

    pub(crate) fn open_with(&self, options: StoreOptions) -> Store {
        Store::open(Medium::Simulated(self.disk.clone()), options).expect("opens")
    }
}

pub(crate) fn ns(name: &str) -> Namespace {
    Namespace::new(name).expect("a name")
}

pub(crate) fn key(text: &str) -> Key {
    Key::new(text.to_owned()).expect("a key")
}

/// A slot that always is the same for a key.
pub(crate) fn slot_of(key: &[u8]) -> Slot {
    Slot::of_hash(key.iter().map(|&b| u64::from(b)).sum())
}

pub(crate) fn version(hlc: u64) -> Version {
    Version { hlc: Hlc(hlc), ..Version::default() }
}

pub(crate) fn live(hlc: u64, value: impl Into<Bytes>) -> Record {
    Record::live(version(hlc), Live { value: value.into(), content_type: Some("text/plain".into()), expires_at: None })
}

pub(crate) fn placed(name: &str, text: &str, record: Record) -> Placed {
    write(name, Kind::Value, text, Write::Merge(record))
}

pub(crate) fn write(name: &str, kind: Kind, text: &str, write: Write) -> Placed {
    Placed { slot: slot_of(text.as_bytes()), ns: ns(name), kind, key: key(text), write, evictable: name == "cache" }
}

pub(crate) fn put(text: &str, hlc: u64, value: impl Into<Bytes>) -> WriteSet {
    WriteSet::of(vec![placed("data", text, live(hlc, value))])
}

pub(crate) fn delete(text: &str, hlc: u64) -> WriteSet {
    WriteSet::of(vec![placed("data", text, Record::tombstone(version(hlc)))])
}

pub(crate) fn read(store: &Store, name: &str, text: &str) -> Option<Record> {
    store.get(slot_of(text.as_bytes()), &ns(name), Kind::Value, text.as_bytes()).expect("reads")
}
