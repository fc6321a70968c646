//! Settings: what was typed becomes what is valid, or a list of everything that is wrong with it.
//!
//! ```text
//!   node file (TOML)    ISOCHRONE__SECTION__KEY    flags            cluster file (TOML)
//!        |                       |                   |                      |
//!   strict reading: names, types, ranges, lines  (the tables NODE and CLUSTER)
//!        |                       |                   |                      |
//!   defaults  <  file  <  environment  <  flags      |                      |
//!        +---------- config crate -------------------+                      |
//!        |                                                                  |
//!   NodeSettings + where each value came from                          ClusterSpec
//!        |                |             |                              |          |
//!   rules between keys  Effective  reload_diff                  namespace(..)  diff(old, new)
//! ```
//!
//! The tables [`NODE`] and [`CLUSTER`] hold one block a key: its name, type and range, default, reason, and whether a reload takes it. The
//! strict check, the proposals for misspelled keys, [`Schema::example`], [`Schema::reference`] and [`Effective`] are all made from them; the typed
//! structs are filled by serde.
//!
//! Rules of this room:
//! - C1. Nothing is coerced. In a file a value has the type that its key asks for; the environment and flags are text, read as the key's kind asks.
//! - C2. Nothing is ignored. A key, variable or flag that is not known is a mistake, and so is a value outside its range.
//! - C3. Everything wrong is told at once, with file and line (or variable, or flag), key, value, what is allowed, and the nearest known key.
//! - C4. Secrets are never shown: not in errors, not by `config show`, not by `Debug`.
//! - C5. A listener that others can reach needs authentication, or `auth.mode = "none"` written out.
//!
//! ```
//! use isochrone_config::NodeSettings;
//! let flags = [("node.region".to_owned(), "us-east".to_owned())];
//! let env = [("ISOCHRONE__HTTP__LISTEN".to_owned(), "127.0.0.1:0".to_owned())];
//! let loaded = NodeSettings::load(None, env.into_iter(), &flags)?;
//! assert_eq!(loaded.settings.http.listen.port(), 0);
//! assert_eq!(loaded.provenance.origin("http.listen").to_string(), "env ISOCHRONE__HTTP__LISTEN");
//! # Ok::<(), isochrone_config::Problems>(())
//! ```

mod changes;
mod cluster;
mod cluster_keys;
mod example;
mod layers;
mod nearest;
mod node;
mod node_keys;
mod problem;
mod rules;
mod schema;
mod settings;
mod show;
mod strict;
mod token;
mod token_keys;
mod units;
mod value;

pub use changes::{Change, diff};
pub use cluster::{ClusterSpec, Keeping, Mode, NamespaceSpec, REPLICAS_MAX};
pub use cluster_keys::CLUSTER;
pub use node::{KeyChange, Loaded, Provenance, ReloadDiff, reload_diff};
pub use node_keys::NODE;
pub use problem::{Fault, Origin, Problem, Problems};
pub use schema::{KeySpec, Kind, Reload, Schema, Section, Shape};
pub use settings::{
    Admin, Auth, AuthMode, Council, Emulation, FRAME_EXTRA, Http, IdentityFiles, Limits, Link, Log, LogFormat, Node, NodeSettings, Peer,
    Replication, Store, TlsFiles,
};
pub use show::{Effective, Setting};
pub use strict::FILE_BYTES_MAX;
pub use token::{Grant, InvalidHash, Right, Scope, Token, TokenHash};
pub use units::{AutoSpan, ByteSize, InvalidUnit, Span};
pub use value::{Field, Row, Secret, Value};
