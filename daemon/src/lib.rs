//! The Isochrone daemon: everything of the binary that tests and benchmarks may want as well.
//!
//! ```text
//!   cli ──serve──> node ──> edge (HTTP)   gossip (QUIC)   council   store
//!       ──dev────> one `serve` process a region
//!       ──get, put, import, status ...──> HTTP to a daemon
//! ```

pub mod cli;
pub mod node;
