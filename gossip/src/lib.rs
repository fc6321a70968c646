//! What daemons say to each other: the mutual-TLS QUIC mesh, membership, round-trip estimates and the wire format.
//!
//! ```text
//!     Mesh::call  Mesh::open                Mesh::peers  Mesh::rank  Mesh::round_trips
//!          |                                          ^ snapshots
//!     +----v-----+   +---------+   datagrams   +------+------------------------------+
//!     | rpc      |   | serve   |<------------>| peers (pure): SWIM pools, gateways,  |
//!     | channel  |   | Service |   path stats | link health, round-trip matrix       |
//!     +----+-----+   +----^----+------------->+--------------------------------------+
//!          |              |
//!     +----v--------------+----+   dial, accept, greet: TLS, identity, admission
//!     | links: two connections |   reload: new certificates for new connections
//!     | for each peer          |
//!     +----+-------------------+
//!          v  Sockets: the machine's, with emulated distance, or simulated
//! ```
//!
//! A connection comes in or is dialed (`dial`, `driver`), proves itself (`greet`), becomes a link (`links`) and is served
//! (`serve`) until it ends. Membership is a pure machine (`peers`) that one lock guards: it takes datagrams, timers, path
//! statistics and the outcomes of calls as values, and gives datagrams and snapshots back. Callers read snapshots and never wait for it.
//!
//! # Rules
//! - **M1** A node has an id, a store id and an incarnation that is raised before the first message of every start.
//! - **M2** Peers speak QUIC with mutual TLS 1.3 only. The certificate's SAN URI says cluster, region and node; it must match the
//!   greeting. Who is of another cluster, removed, or takes a node id that is in use is refused before anything else is decoded; a node whose
//!   *store* is retired is refused as soon as its greeting has named that store, and may come back with another one.
//! - **M3** ALPN carries the wire version; the current and the previous one are spoken.
//! - **M4** Certificates are watched and reloaded live; bundles may hold several authorities; bad files keep the old ones.
//! - **M5** Membership is SWIM in datagrams: one pool a region, gateways between regions, no timers to set.
//! - **M6** Round trips come from QUIC's path statistics and are gossiped as a matrix; per-link health steers routing.
//! - **M7** Two connections for each peer, foreground and bulk; datagrams are bounded; CUBIC.
//! - **M8** Every call carries a deadline and late ones are dropped; hedging after the 95th percentile; retries have a budget.

mod budget;
mod call;
pub mod certs;
mod channel;
mod dial;
mod driver;
mod emulation;
mod endpoint;
mod greet;
mod health;
mod identity;
mod links;
mod membership;
mod mesh;
mod metrics;
mod options;
mod peers;
mod reload;
mod round_trips;
mod rpc;
mod serve;
mod shared;
#[doc(hidden)]
pub mod simnet;
mod sockets;
mod tls;
mod wire;

pub use call::{Admission, Call, CallError, Refused, Service};
pub use channel::{Channel, ChannelError, ChannelReceiver, ChannelSender};
pub use emulation::{Direction, EmulatedLink, EmulatedSockets, Emulation, LinkShape};
pub use health::*;
pub use identity::{InvalidIdentity, PeerIdentity};
pub use mesh::{Mesh, StartError};
pub use metrics::describe;
pub use options::{Bounds, MeshOptions, WallClock};
pub use peers::*;
pub use reload::ReloadError;
pub use round_trips::*;
pub use sockets::{RealSockets, Sockets};
pub use tls::{Credentials, TlsError};
pub use wire::{CloseCode, FrameError, Profile, ServiceId, Traffic, VERSIONS, WireVersion};
