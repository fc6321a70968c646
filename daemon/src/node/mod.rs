//! The node: the one place that ties the rooms together.
//!
//! ```text
//!   edge ──Command──> take ──commit──> store ──log──> sender ══QUIC══> feeds (a replica) ──commit──> its store
//!        ──Command──> read ──> store, or the nearest replica (READ)
//!        ──Command──> list ──> store, or one replica a slot (LIST)
//!        ──Command──> typed ──> take and read, for counters, sets, maps and registers; actors gives out dots (E3)
//!
//!   council ──state──> join::adopt ──> View (placement, namespaces, members), Delivery, Horizon
//!   view.moving ──> fill (FETCH from a replica) ──> drive (the leader completes slots)
//!   heartbeats ──> Horizon ──> upkeep: trims the log, tells how far it is stable, forgets tombstones
//!   edge ──Command──> strong ──> quorums of daemons (QUORUM, STRONG), for strong namespaces
//!   digests ──> repair (COMPARE with a replica, PULL what is missing) ──> store
//! ```
//!
//! Time, randomness, sockets and disks come in with [`NodeParts`], so that a whole cluster of nodes runs in one thread in virtual time.

mod actors;
mod copies;
mod core;
mod emulate;
mod feeds;
mod fill;
mod find;
mod frames;
mod identity;
mod join;
mod list;
mod list_majority;
mod majority;
mod meters;
mod operator;
mod options;
mod plan;
mod pull;
mod read;
mod repair;
mod run;
mod sender;
mod service;
mod sessions;
mod settings;
mod stamp;
mod start;
mod start_over;
mod strong;
mod take;
mod traffic;
mod typed;
mod upkeep;
mod view;
mod wire;

pub use emulate::EmulatedNetwork;
pub use identity::IdentityError;
#[doc(hidden)]
pub use options::Mutation;
pub use options::{Environment, NodeOptions, WallClock};
pub use run::{LoadAgain, run};
pub use start::{Hooks, MakeStrong, Node, NodeParts, StartError, TakeTokens};
pub use start_over::{StartOver, StartsOver};
