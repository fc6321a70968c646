//! Isochrone's HTTP side: it turns bytes into typed commands, and their answers into bytes again.
//!
//! ```text
//!   client --> ClientListener --------> Api -- ReadCommand WriteCommand ListCommand --> Backend
//!              a thread and a runtime   |      TypedRead TypedWrite                       |
//!              a core; HTTP/1.1, h2c,   |      (values at a glance where in memory)       |
//!              TLS; EdgeLimits          +<-- Served Written ListPage TypedServed ... -----+
//!                                            or a Refusal
//!   operator --> AdminListener --> Admin -- status, apply, repair, leave ... --> Operator
//! ```
//!
//! - What comes in: a connection is held to its limits by a watchdog of its own (`connection`, `activity`); a request is dispatched by the
//!   one table of routes (`route`), which `/openapi.json` is made from too (`openapi`).
//! - What is decided: who may do it ([`Auth`]), whether it is well formed and fits its namespace ([`Api`]). Nothing else: the
//!   [`Backend`] and the [`Operator`] are the daemon's node, or a model of it.
//! - What goes out: a value with its receipt, or a problem (RFC 9457) with a stable type (`problem`). A 503 promises that nothing was applied;
//!   a 504 promises nothing.
//!
//! [`Api::handle`] and [`Admin::handle`] have no socket and read no clock but those that they are given, so that the simulator calls them directly.
//!
//! The hot path: a plain GET that [`Backend::glance`] can answer takes no task, no boxed future and no header map of its own, and its header values
//! are cut from a buffer of the thread. Measured by `examples/hot_path.rs` with 1 KiB values: 1.3 us a call with the request's own
//! making left out, 4.1 us of the server's CPU a request over sockets, which is what hyper takes for a fixed object. A table in front
//! of the backend's own would save a part of its lookup only, so there is none.
//!
//! A session token (E9) is text that only the backend understands: the edge holds it to its form, hands it on with every command, and sends what
//! the receipt says. On the hot path it is borrowed from the request, and its answer copied into the thread's buffer: a token of
//! 160 bytes, both ways, takes 0.26 us more a call (the same example).
//!
//! Decisions where the contract is silent:
//! - A repeated `Idempotency-Key` with another request is 422, one whose first request is still being worked on 409
//!   (draft-ietf-httpapi-idempotency-key-header section 2.7). A repeated answer says `Idempotent-Replayed: true`.
//! - `Age` is how old the answer may be, not how long ago the value was written: `max-age` already is what is *left* of the
//!   TTL, and a downstream cache subtracts `Age` from it (RFC 9111 section 4.2.3).
//! - A TTL above the namespace's `ttl_max` is refused (400), never cut: nobody should think that a value lives longer than it does.
//! - Keys that are not UTF-8 stand in JSON as `key_base64`, as values do.
//! - In a batch, lines for one key are carried out one after the other; all others side by side. Its `Isochrone-Session` holds for every line; each
//!   answer's `session` stands for all answers up to it, since a trailer would come too late for most clients to see. A line about a counter, set,
//!   map or register names its `type`; its op is `get`, or `update` with the `body` that the key's own path takes.
//! - Typed keys: a body is one strict JSON object. A member named twice in one list stands there once; in both lists it is refused. A map's
//!   values keep their text but for the white space around their parts, so that numbers beyond 64 bits stay what they are; they are nested 64
//!   deep at most. A register's `context` is base64.
//! - In strong namespaces `quorum` is `strong`. A read at `local` may be old, a write is always strong. `If-Match` is looked at before `If-None-Match`, and both
//!   count (RFC 9110 section 13.2.2). `*` counts alone: inside a list it is no validator, and the write is refused. Every 412 of a write names the key's
//!   `ETag`, or the highest token that the key has seen in `Isochrone-Fence`. In that field a lock's name is percent-encoded, as in its path.
//! - A context or a token that was never given is the client's fault (400), not a conflict.
//! - A misspelt query parameter is an error.

mod activity;
mod admin;
mod api;
mod auth;
mod body;
mod budget;
mod command;
mod connection;
mod fields;
mod json;
mod limits;
mod listener;
mod meter;
mod openapi;
mod operator;
mod path;
mod problem;
mod range;
mod refusal;
mod replication;
mod route;
mod session;
mod strong;
mod tls;
mod typed;
mod upload;

pub use admin::{Admin, RenderMetrics};
pub use api::{Api, WallClock};
pub use auth::{Auth, Grant, Right, Scope, Token};
pub use body::ResponseBody;
pub use command::{
    Backend, Fence, Glance, IdempotencyKey, InvalidIdempotencyKey, InvalidLevel, Level, ListCommand, ListPage, Listed, Matcher, Mode,
    NamespaceView, Object, Preconditions, ReadCommand, Receipt, Refusal, Served, Source, WriteCommand, WriteOp, Written, revision_version,
};
pub use limits::EdgeLimits;
pub use listener::{AdminListener, ClientListener, Drained, ListenError, ListenerOptions};
pub use meter::describe;
pub use operator::{
    Applied, ApplyRequest, Check, CouncilView, KeyPlacement, MemberView, Operator, OperatorRefusal, PlacementSummary, Reloaded,
    ReplicaView, ReplicationView, RoundTripsView, Status, StoreView,
};
pub use replication::{
    Away, CopiesView, CopyStream, Divergence, PeerReplication, RepairFailure, RepairProgress, RepairRequest, ReplicationReport,
};
pub use session::{InvalidSessionToken, SessionToken};
pub use strong::{StrongMoves, StrongOperations, StrongPlacement, StrongReport};
pub use tls::{Tls, TlsError};
pub use typed::{Datum, FieldDatum, RegisterDatum, TypedOp, TypedRead, TypedServed, TypedWrite, TypedWritten};
pub use upload::RequestBody;
