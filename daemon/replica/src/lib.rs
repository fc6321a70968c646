//! The eventual path, decided: what a write is, which write wins, who still lacks it, and when a tombstone may go.
//!
//! ```text
//!   wall time ──> Clock ──> Version ─┐
//!                                    v
//!   a client's put or delete ──> Record ──merge──> Record      (which write wins)
//!   a peer's record ─────────────────┘
//!   a client's Change ──> Typed + Delta ──apply or join──> Typed ──> View      (counters, sets, maps, registers)
//!
//!   sequence of the operation log ──> Delivery  ──> may trim up to here        (who still lacks it)
//!   heartbeats of every member    ──> Horizon   ──> age of a read, stable time (when a tombstone may go)
//! ```
//!
//! Nothing here knows a socket, a file, a clock or a thread: time comes in as an argument and decisions go out as values.
//!
//! # The rules kept here
//! - **E1, E2** Keys are built from the types of `crdts`: a value is a last-writer-wins register, a [`Typed`] key a counter, a set, a map of top-level
//!   fields or a multi-value register. Every operation and merge is validated before it is applied; a gap is closed by pulling the state.
//! - **E3** A write is unique by its [`Version`](isochrone_ident::Version), a dot by its [`Actor`]: (node, life of its store). Neither is given out twice.
//! - **E4** Time is a hybrid logical clock; what claims to be too far ahead is refused.
//! - **E5** A write is kept until each replica has it, or, past the bounds of the log, until anti-entropy has brought it: [`Delivery`].
//! - **E6** Two replicas find out where they differ at a cost that grows with the difference, and each pulls what it lacks: [`SlotDigest`], [`Differing`].
//! - **E7** A tombstone goes once no write that is older than it can still arrive: [`Horizon::stable_through`].
//! - **E8** Expiry is part of the state; it takes effect everywhere at the deadline plus the skew bound.
//! - **E9** A session that roams reads its writes and never goes back: [`Session`], [`Causes`].
//! - **E10** A copy is never older than the age that it claims: [`Streams`].
//! - **E12** A typed key has limits, which bind who takes a write and never a join: [`TypedLimits`].
//!
//! Why the clock is our own and not `uhlc`'s: that one reads wall time through a plain function pointer, which would bring a
//! hidden clock into a room where time is an argument.

mod clock;
mod copies;
mod delivery;
mod differences;
mod digest;
mod frontier;
mod horizon;
mod record;
mod session;
mod typed;

pub use clock::{Clock, ClockAhead, ClockLimits, Observed};
pub use copies::{CopyHeartbeat, CopyTicket, KeyHash, Opening, Position, Source, StreamGap, Streams, copy_age_ms, may_serve};
pub use delivery::{Delivery, Lapse, Pass, Sequence};
pub use differences::{Differing, Grounds, Verdict, differing_items};
pub use digest::{
    BUCKETS, DigestKey, Fingerprint, GROUPS, Item, Marks, Roots, SPAN_SLOTS, SPANS, SlotDigest, Sums, bucket_in, bucket_of, differing,
};
pub use frontier::Frontier;
pub use horizon::{Heard, Horizon};
pub use record::{Conflict, Entry, Live, Record, State};
pub use session::{BadToken, Causes, ClusterTag, Lack, Session};
pub use typed::{
    Actor, Applied, Change, ChangeRefused, ClaimId, Delta, FieldView, RegisterContext, RegisterValue, Stamp, Typed, TypedLimits, Upkeep,
    View,
};
