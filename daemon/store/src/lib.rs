//! The store: the memory tier (copies) over the durable tier (truth), and the committer between them.
//!
//! ```text
//!   commit(WriteSet) ──> queue ──> committer ──┬─> redb: one transaction, one sync for all that wait
//!     bounded in sets and bytes      │         └─> then the changed keys leave the memory tier, the new state
//!                                    │             becomes visible, and only then everybody is answered
//!                                    └─ a batch: merge each record into what is held (E4, E8), log what was taken (E5),
//!                                       keep answers, set facts, evict (E11), trim, sum up
//!
//!   get(key) ──> memory tier (moka) ──miss──> last commit's tables (redb) ──> fills the memory tier
//!   list, scan_slot, log_after, fact, answer ──> last commit's tables
//! ```
//!
//! What comes in is a [`WriteSet`]: all of it becomes durable or nothing does. What is decided is which of two records of a key
//! stays, by [`Record::merge`](isochrone_replica::Record::merge), and whether there is room. What goes out is a [`Committed`], after
//! the sync for [`Durability::AtOnce`], after it can be read for [`Durability::Relaxed`].
//!
//! # The rules kept here
//! - **E5** A write is acknowledged once it is synced, one sync for all that wait; it stays in the operation log until it is trimmed,
//!   and a place in the log is never reused.
//! - **E7** A record is forgotten only if it has exactly the version that was found stable.
//! - **E8** Expiry is part of the record and merged with it. The store never judges whether something has expired.
//! - **E11** Evictable data has a budget of its own and its oldest go when it is used up. Durable data is never evicted: without room its
//!   writes are [`WriteError::Full`], deletes have a reserve of 1/64, and reads go on.
//! - **H5** Memory has a hard budget: half is the memory tier's, which counts keys, content types, values and what holds them, half the durable
//!   tier's pages.
//!
//! # What happens when the disk misbehaves
//! | | |
//! |---|---|
//! | loses power | what was acknowledged `AtOnce` is there, nothing is half there; the engine repairs itself at the next open |
//! | is full | nothing of the batch is applied, [`WriteError::Full`]; the engine is opened again behind the same [`Store`], and writes are tried anew after `full_retry` |
//! | fails a sync, or a write | [`WriteError::Failed`], `on_fatal`, and no more writes: after a failed sync nobody knows what is on a disk |
//! | fails a read | [`ReadError::Disk`], and the engine is opened again |
//! | changes a record | [`ReadError::Corrupt`] naming the key; counted; other keys stay readable; the next write to the key, from a client or a peer, replaces it |
//! | changes the tables themselves | the engine's checksums catch it when it is opened after a crash: [`OpenError::Corrupt`]; the daemon joins anew with an empty store and is filled |
//!
//! # The disk's format, version 1
//! `records` (slot, namespace, kind, key -> record), `names` (namespace, kind, key -> slot, for listings; a kind is one byte, 0 for values), `log` (sequence -> operation), `evictable` (insertion ->
//! record's row), `answers` and `expiry`, `facts`, `totals` (64 slots a row), `meta` (format, sums). Every value is sealed: a format byte, an xxh3
//! checksum seeded by the row's name, and a body in postcard. Another format is refused at the open.
//!
//! # Simulation
//! With [`Medium::Simulated`] and [`Driver::Task`] everything runs inline in one task and in virtual time. A [`SimDisk`] outlives the process that
//! uses it and can lose power (unsynced writes are lost, kept or torn), fail to sync, be full, slow, or damaged, all from seeds.
//!
//! # Which engine
//! redb, for all of it: its commits are checksummed, it has no threads of its own, and what lies beneath it can be simulated, so that every loss of power
//! is a test. fjall writes large batches faster, but drops a damaged batch in the middle of its journal silently (fjall issue 311), and one
//! engine is simpler than two. Measured on 2026-11-21 by `cargo run --release -p benches --bin store -- --seconds 2`: 1,000,000 random keys, a write reads
//! what is held, replaces it and logs it, one sync a batch. Two runs, both on a two-core virtual machine on which five to ten other processes competed
//! for the cores, so that only the comparison says something; with the disk to itself redb was seen to take 113,000 to 140,000 plain inserts a second at 64.
//!
//! | value bytes | batch | redb 4.4, writes/s | fjall 3.1, writes/s | fjall / redb |
//! |---|---|---|---|---|
//! | 100 | 1 | 271, 261 | 366, 257 | 1.4, 1.0 |
//! | 100 | 64 | 9,228, 11,198 | 15,742, 8,832 | 1.7, 0.8 |
//! | 100 | 256 | 15,487, 10,006 | 30,424, 18,023 | 2.0, 1.8 |
//! | 256 | 1 | 350, 304 | 314, 179 | 0.9, 0.6 |
//! | 256 | 64 | 6,655, 12,093 | 15,614, 8,796 | 2.3, 0.7 |
//! | 256 | 256 | 7,489, 7,976 | 25,849, 9,004 | 3.5, 1.1 |
//!
//! The store itself in the same two runs, with 1,000,000 keys of 100 bytes and 256 MiB of memory: 291 to 344 synced and logged writes a second from one writer,
//! 3,200 to 5,900 from 64, 5,100 to 11,000 from 256; a `get` takes 0.75 us from the memory tier and 2.7 us from the durable tier's pages. Opening takes
//! 1 to 3 ms after a clean stop and 1.6 to 1.8 s after a crash (the engine then checks every page), with 5 and 137 MiB of memory; after every
//! key was read it is 279 MiB. The file has 514 MiB.

mod codec;
mod committer;
mod compare;
mod digests;
mod disk;
mod engine;
mod errors;
mod memory;
mod meters;
mod options;
mod pages;
mod shared;
mod sim_disk;
mod store;
mod strong;
mod tables;
mod words;
mod work;

pub use compare::{BucketPage, InvalidItemName, item_name, parse_item_name};
pub use disk::Medium;
pub use errors::{OpenError, ReadError, WriteError};
pub use isochrone_replica::Sequence;
pub use meters::describe;
pub use options::{Driver, Observer, OnFatal, StoreOptions, WallClock};
pub use pages::LIST_EXAMINED_MAX;
pub use sim_disk::SimDisk;
pub use store::Store;
pub use strong::{Expiring, OnSynced, StrongListed, StrongListing, StrongOptions, StrongStats, StrongStore, StrongTotals};
pub use words::{
    Before, Changed, Committed, Durability, FactKey, InvalidLength, KeptAnswer, Listed, Listing, LogPage, Logged, Outcome, Page, Placed,
    RequestKey, SlotTotals, Stats, Write, WriteSet,
};
