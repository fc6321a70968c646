//! The council: the one place where changes of the whole cluster are ordered (design: members, cluster file, placement epochs).
//!
//! ```text
//!   operator, joining daemon, mover                    other members' councils
//!        | Command                                            ^ Ask / Answer (Wire)
//!        v                                                    v
//!   propose --> leader --> log (openraft, redb) --> majority --> apply --> ClusterState (ArcSwap) --> everybody here reads it
//!                 ^                                                             |
//!                 +---- driver: voters, placement epochs <----------------------+
//!                 +---- pulse: heartbeats, canvass, elections (seeded)
//! ```
//!
//! What comes in is a [`Command`], from here or forwarded by another member. The leader has it ordered in a Raft log whose voters are up
//! to five members in distinct regions; the others learn. What goes out is the next [`ClusterState`], the same everywhere.
//! No read or write of data waits for the council: while it has no leader, only changes of the cluster pause.
//!
//! Rules kept here, as numbered in the design:
//! - **M1, Q15**: node id and store id together are a member's identity. An id that is taken by another store, an older incarnation and a
//!   removed store are refused ([`ClusterState`]).
//! - **M2**: messages of a removed member are refused ([`Council::handle`], [`ClusterState::is_removed`]).
//! - **E7**: a member that was not heard of for [`CouncilOptions::away_max`] is *retired*: its store is refused for ever, its node may join with an
//!   empty one. One at a time, only while a majority is alive, and never when nobody alive has its data. What an operator removes is refused
//!   whatever its store.
//! - **Q4, Q15**: the state knows since which epoch each strong replica has been in its slot's sets without a gap, and as which store
//!   ([`ClusterState::strong_joined`], [`ClusterState::strong_store`]).
//! - **P2**: tables are ordered, never recomputed; their digests are checked when an epoch begins ([`Tables`]).
//! - **P3**: weights change slowly, and an epoch for their sake comes at most every ten minutes ([`CouncilOptions::weights`]).
//! - **Q14**: nobody leaves on whom the majority of a strong set hangs; an operator may give up those who are lost for good ([`Command::GiveUp`]), and with a
//!   majority of the council itself lost, those left found it anew ([`Recovery`]).
//! - A proposal that is retried under its [`RequestId`] applies once; *nothing happened* and *outcome unknown* are told apart ([`ProposeError`]).
//!
//! Everything that the crate needs of its surroundings comes in as a value: the database (a file or a simulated disk), the [`Wire`], the seed,
//! the [`Observations`]. Time is tokio's, which a simulation may turn by hand; in one thread the same seed gives the same history.

mod away;
mod command;
mod council;
mod driver;
mod journal;
mod message;
mod meters;
mod network;
mod options;
mod propose;
mod pulse;
mod raft;
mod receiving;
mod recover;
mod state;
mod storage;
mod strong;
mod voters;
mod weigh;

pub use command::{Command, CouncilId, Member, Outcome, Proposal, Refusal, RequestId, SlotClass, Tables};
pub use council::{Applied, BootstrapError, Council, CouncilStatus, JoinError, ProposeError, Role, StartError};
pub use journal::JournalError;
pub use meters::describe;
pub use network::{Wire, WireError};
pub use options::{CouncilOptions, NoObservations, Observations, OnFatal, Timers};
pub use recover::{RecoverError, Recovery, follow};
pub use state::{ANSWERS_MAX, ClusterFile, ClusterState, FILE_BYTES_MAX, Retired};
pub use voters::{Hints, VOTERS_MAX, choose};
