//! The strong store: the durable tier of the quorum path's acceptor.
//!
//! ```text
//!   acceptor ──rows, place──> queue ──> committer ──> log: all that wait in one frame, one write, one sync
//!                                          │            1. readers see it   2. on_synced(highest place): now answers may leave
//!                                          └─ now and then ──> a thread: redb's tables take over a round of the log, in one transaction
//!
//!   View: slot, key, keys ──> states that the tables don't have yet ──> copies ──miss──> tables
//!   list                  ──> the same over all slots;   dead, expired ──> tables
//! ```
//!
//! - **Q3** Rows become durable in the order of their places, those of one place together. Nothing is told before its sync; after a failed sync nothing is told any more.
//! - **Q14h, Q4** A wipe takes effect at its place, however much the slot held: it gives the slot another generation, which is part of the rows' names.
//! - **Q15** The store says whose it is, and opens for nobody else.
//! - **Q16** Keys without a value, and values that expire, are in indices of their own.
//!
//! # What happens when the disk misbehaves
//! | | |
//! |---|---|
//! | loses power | what was told is there, groups are whole, none is there without those before it: at the next opening the tables take over what the log holds |
//! | is full | what waits is tried again every `full_retry`; nothing is lost, reads go on, and `has_room` says no; a start needs room for what the log holds |
//! | fails a sync, a write or a read | the store has failed: nothing is told any more, `on_fatal` |
//! | changes a row | the same as soon as it is read: a promise that cannot be read is not one that was never made |
//! | changes the log | a frame that was acknowledged and is not whole keeps the store from opening; the very last one can't be told from one that was never finished |
//!
//! # The disk's format, version 1
//! One file. The log has its first 32 MiB (see `redo.rs`), the tables the rest: `keys` (slot, generation, namespace, key -> state), `names` (namespace, key -> slot,
//! generation), `dead` (rows of keys without a value), `expiry` (wall time, row), `slots` (slot -> generation, state), `stale` (wiped slots' generations that
//! may have rows), `totals` (64 slots a row), `meta` (format, member, ledger, the log's mark). Values are sealed as in the other store.

mod checkpoint;
mod committer;
mod engine;
mod file;
mod gate;
mod layers;
mod memory;
mod meters;
mod pages;
mod queue;
mod redo;
mod rows;
mod shared;
mod store;
mod tables;
mod words;
mod work;

pub(crate) use meters::describe;
pub use store::StrongStore;
pub use words::{Expiring, OnSynced, StrongListed, StrongListing, StrongOptions, StrongStats, StrongTotals};
