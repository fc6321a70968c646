//! Isochrone's benchmarks: real processes of the built binary, driven over HTTP from this process, a Markdown table each.
//!
//! ```text
//!   bench WHAT ──starts──> isochrone dev: three daemons with real delays     isochrone serve: one daemon
//!      │                        ^                                                  ^
//!      │ pace: when each        │ HTTP/1.1 on kept connections, TCP_NODELAY        │
//!      │ request is due ──> wire┴──────────────────────────────────────────────────┘
//!      └──< latency: percentiles <── answers          table: the target beside what was seen
//! ```
//!
//! ```text
//! cargo build --release
//! cargo run --release -p benches --bin bench -- all
//! ```
//!
//! What is measured, and from where to where the time counts, is said at the top of each module: [`ready`], [`import`], [`visible`],
//! [`read`], [`kill`], [`heal`], [`diverge`], [`copies`], [`sessions`], [`durable`], [`memory`], [`million`],
//! [`wan`], [`strong`], [`gap`], [`contend`]. All have bounds on count and time, so that a short run is possible (`--help`). The exit code is 0
//! whatever the figures are: a benchmark tells, a test judges. What was started is ended and what was written is removed also after an
//! error, a panic, Ctrl-C or SIGTERM; after SIGKILL the processes end and folders stay.
//!
//! Load generator and daemons share the machine, so figures hold for both together. The generator is made cheap (requests built beforehand, one
//! write and mostly one read a request, no task, no allocation), and says how late it was itself.
//! [`durable`] and [`memory`] run a `redis-server` beside the daemon and [`strong`] an `etcd`, and install Debian's package where there is none.
//! The store alone is measured by `--bin store`.

pub mod admin;
pub mod batch;
pub mod cluster;
pub mod contend;
pub mod copies;
pub mod diverge;
pub mod durable;
pub mod etcd;
pub mod flood;
pub mod gap;
pub mod grpc;
pub mod heal;
pub mod import;
pub mod kill;
pub mod latency;
pub mod listing;
pub mod memory;
pub mod million;
pub mod pace;
pub mod process;
pub mod rates;
pub mod read;
pub mod ready;
pub mod resp;
pub mod sessions;
pub mod setup;
pub mod single;
pub mod strong;
pub mod table;
pub mod tree;
pub mod visible;
pub mod wan;
mod watchdog;
pub mod wire;

/// Why a benchmark could not be run. Missed targets are no failures.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
