//! What may be true of counters, sets, maps and registers, whatever order the replicas heard of things in.
//!
//! ```text
//!   clients ──begin, end──> Acts          who asked which daemon, when, in which session, and what the answer was
//!                             |
//!                             | surely seen: it was acknowledged before, by the same daemon or earlier in the same session
//!                             | maybe seen:  it was not refused, and had begun before the other was over
//!                             v
//!   counters, sets, maps, registers: from these two relations follows what an observer must be shown, may be shown, and must not be
//! ```
//!
//! No replica's state and no clock of a daemon enters: only what clients know. What follows from that holds of every right daemon, and a
//! daemon that is wrong is caught as far as clients could notice.

mod acts;
pub mod counters;
pub mod maps;
pub mod registers;
pub mod sessions;
pub mod sets;
pub mod strong;
pub mod typed;

pub use acts::{Act, ActId, Acts, Ending, Observer, Request, Step};
