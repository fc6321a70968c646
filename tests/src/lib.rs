//! The whole daemon in a world made of one seed.
//!
//! ```text
//!   seed ──> shape    regions, nodes, delays           trace <── packets, answers, leaders
//!        ──> faults   what breaks, and when              ^
//!        ──> clients  what clients ask, and where        |
//!                 |                                      |
//!   run ── one turmoil host a node ── cluster: Node + Api, QUIC over net, SimDisk, clocks
//!                 |
//!   oracle <── histories of clients, and what the stores hold in the end
//! ```
//!
//! Two phases. While things break, safety is checked with every answer. Then everything is healed, and progress is required: every
//! replica equal, nothing waiting, every delete forgotten, within a bound of virtual time. A run is one thread, and follows from its seed
//! alone; running it again gives the same trace.

pub mod clients;
pub mod clocks;
pub mod cluster;
pub mod faults;
pub mod history;
pub mod linear;
pub mod model;
pub mod net;
pub mod oracle;
pub mod process;
pub mod run;
pub mod shape;
pub mod shared;
pub mod trace;
