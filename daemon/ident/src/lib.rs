//! The words that every room shares: who, where, which key, and when.
//!
//! ```text
//!   NodeId  StoreId  Incarnation      who      (rule M1)
//!   Region  Zone  ClusterName         where
//!   Namespace  Kind  Key  Slot  Epoch what     (rules P1, P2)
//!   WallMicros  Hlc  Version          when     (rule E4)
//! ```
//!
//! Plain values only: nothing here reads a clock, draws a random number or touches a file. Every constructor checks its
//! range, so a value that exists is valid; `serde` goes through the same checks, so bytes from a peer are checked as well.

mod kind;
mod names;
mod node;
mod time;

pub use kind::{InvalidKind, Kind};
pub use names::{ClusterName, InvalidName, Key, Namespace, Region, Zone};
pub use node::{Epoch, Incarnation, InvalidId, InvalidSlot, NodeId, SLOTS, Slot, StoreId};
pub use time::{Hlc, InvalidVersion, Version, WallMicros};
