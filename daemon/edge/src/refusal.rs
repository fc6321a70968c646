//! Why a command was not answered.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use isochrone_ident::{Namespace, Version};
use serde::{Deserialize, Serialize};

/// Why a command was not answered. The text of each says what to do about it, and becomes the problem's `detail`.
///
/// The line that matters: everything but [`Refusal::OutcomeUnknown`] promises that nothing was
/// applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// 404: no namespace of that name.
    #[error("there is no namespace `{0}`; declare it in the cluster file and apply it with `isochrone apply`")]
    NoSuchNamespace(Namespace),
    /// 409: the request would break the namespace's promise.
    #[error("{asked} is not possible in namespace `{ns}`; a namespace with {allowed_by} would allow it")]
    WrongMode {
        /// The namespace.
        ns: Namespace,
        /// What the request wants, as a noun phrase: `a conditional write`.
        asked: Cow<'static, str>,
        /// The namespace setting that would allow it: `mode = "strong"`.
        allowed_by: Cow<'static, str>,
    },
    /// 412: `If-Match`, `If-None-Match` failed.
    #[error("a precondition does not hold; {}", current_text(.current.as_ref()))]
    PreconditionFailed {
        /// The key's current version; `None`: absent.
        current: Option<Version>,
    },
    /// 412: a later holder of the lock has written this key (rule L5).
    #[error(
        "the token {token} of the lock `{}` is no longer its holder's: a write with the token {highest} has been here; acquire the lock again, and read before you write",
        lock.escape_debug()
    )]
    FenceStale {
        /// The lock's name.
        lock: Arc<str>,
        /// What the write showed.
        token: u64,
        /// The highest token that the key has seen of that lock.
        highest: u64,
    },
    /// 412: the key knows nothing of that lock, and what it may have forgotten had tokens up to `floor` (rule L5).
    #[error(
        "the token {token} of the lock `{}` is not above {floor}, and this key no longer knows which tokens up to that have been here; raise the lock's token above it,          and repeat the write with the new one",
        lock.escape_debug()
    )]
    FenceBelowFloor {
        /// The lock's name.
        lock: Arc<str>,
        /// What the write showed.
        token: u64,
        /// The highest token that may have been forgotten.
        floor: u64,
    },
    /// 429: the key remembers as many answered requests as it may, each for as long as it may be repeated (rule Q11).
    #[error(
        "this key remembers {max} writes already, the most that it may (`strong.ring`); repeat the write later, or spread such writes over more keys"
    )]
    RingFull {
        /// How many there may be.
        max: u64,
        /// When to try again.
        retry_after: Duration,
    },
    /// 429: the key remembers the tokens of as many locks as it may (rule L5).
    #[error(
        "this key remembers the tokens of {max} locks already, the most that it may (`strong.fences`); write it under one of those, or use another key"
    )]
    FencesFull {
        /// How many there may be.
        max: u64,
        /// When to try again.
        retry_after: Duration,
    },
    /// 413: larger than the namespace or the node allows. Nothing was stored.
    #[error(
        "the value is larger than the {bytes_max} bytes that are allowed here (`limits.value_bytes`, and the namespace's `value_bytes`)"
    )]
    ValueTooLarge {
        /// The bound, in bytes.
        bytes_max: u64,
    },
    /// 422: the same `Idempotency-Key` came with another request (draft-ietf-httpapi-idempotency-key-header, section 2.7).
    #[error("this Idempotency-Key was used for a different request; take a new one for each new write")]
    IdempotencyKeyReused,
    /// 409: the request with that `Idempotency-Key` is still being worked on (same draft, same section).
    #[error("the first request with this Idempotency-Key has not been answered yet; repeat it a little later")]
    IdempotencyKeyInUse {
        /// When to try again.
        retry_after: Duration,
    },
    /// 507: the durable budget is spent (rule E11); reads go on.
    #[error("the store is full: {detail}; delete keys, raise `store.disk_bytes`, or use an evictable namespace")]
    StoreFull {
        /// Which budget, and how large.
        detail: Cow<'static, str>,
    },
    /// 503: not one replica that could answer was reached.
    #[error("no replica of this key could be reached: {detail}")]
    NoReplica {
        /// Who was tried and what they said.
        detail: Cow<'static, str>,
    },
    /// 503: fewer than a majority of the replicas answered. Nothing was applied.
    #[error("a majority of this key's replicas could not be reached: {detail}; nothing was applied")]
    NoQuorum {
        /// Who was tried and what they said.
        detail: Cow<'static, str>,
    },
    /// 504: the write may or may not be applied.
    #[error("it is not known whether the write was applied: {detail}; repeat it with the same Idempotency-Key")]
    OutcomeUnknown {
        /// What went wrong.
        detail: Cow<'static, str>,
    },
    /// 503: the time ran out before anything was applied.
    #[error("the time for this request ran out; nothing was applied")]
    DeadlineBefore,
    /// 503: this daemon's clock is too far from the others' (rule E4), so that it takes no writes.
    #[error(
        "this daemon's clock is {off_ms} ms from the cluster's, more than the {max_ms} ms allowed; ask another daemon, and see to its time service"
    )]
    ClockSkew {
        /// How far off it is, in milliseconds; positive: ahead.
        off_ms: i64,
        /// The bound.
        max_ms: u64,
    },
    /// 429: a queue of this daemon is full.
    #[error("this daemon has more work than it may queue ({queue}); try again a little later")]
    Overloaded {
        /// Which queue.
        queue: Cow<'static, str>,
        /// When to try again.
        retry_after: Duration,
    },
    /// 503: the daemon has not joined its cluster yet, or is leaving.
    #[error("this daemon is not ready: {detail}; ask another one, or try again a little later")]
    NotReady {
        /// What it waits for.
        detail: Cow<'static, str>,
    },
    /// 501: the contract describes it, this version does not have it yet.
    #[error("{what} is described by the API but not built into this version yet; {instead}")]
    NotBuilt {
        /// What was asked for, as a noun phrase: `a counter`.
        what: Cow<'static, str>,
        /// What can be had instead, as a sentence's end.
        instead: Cow<'static, str>,
    },
    /// 500: something that should not happen, such as a record on disk that fails its checksum. It has been logged.
    #[error("something that should not happen went wrong: {detail}; the daemon's log has more")]
    Internal {
        /// What.
        detail: Cow<'static, str>,
    },
    /// 400: the session token is damaged, of another cluster, or from the future (rule E9).
    #[error("the Isochrone-Session token cannot be used: {detail}; leave it out to begin a new session")]
    SessionTokenInvalid {
        /// What is wrong with it.
        detail: Cow<'static, str>,
    },
    /// 503: neither this daemon nor a replica that it reached has all that the session token stands for (rule E9).
    #[error("what this session has seen is not here yet: {detail}; nothing was applied")]
    SessionNotCaughtUp {
        /// What is missing, and who was asked.
        detail: Cow<'static, str>,
        /// When to try again.
        retry_after: Duration,
    },
    /// 413: a set, map or register would hold more than it may (rule E12). Nothing was applied.
    #[error("a key may hold at most {max} {what}; nothing was applied")]
    TooMany {
        /// What there would be too many of, in the plural: `members`, `fields`, `concurrent values`.
        what: Cow<'static, str>,
        /// How many there may be.
        max: u64,
    },
    /// 413: a set's member or a map's field is longer than it may be.
    #[error("a set's member, or a map's field, has at most {bytes_max} bytes; nothing was applied")]
    MemberTooLong {
        /// The bound, in bytes.
        bytes_max: u64,
    },
    /// 409: the counter would leave the range of 64 bits. Nothing was applied.
    #[error("the counter would pass the range of 64 bits, {} to {}; nothing was applied", i64::MIN, i64::MAX)]
    CounterOverflow,
    /// 409: a map's field is a counter and was to be set, or is a value and was to be added to.
    #[error("the map's field `{}` is of the other type: a value is set, a counter is added to; remove the field first to change which", field.escape_debug())]
    FieldType {
        /// The field.
        field: String,
    },
    /// 400: a register's context is none that a daemon gave for this key.
    #[error("the context is not one that an answer for this key gave; read the register and use that answer's `context`, or leave it out")]
    ContextUnknown,
    /// 503: a remove takes away what it has seen (rule E5), and no state of the key could be had.
    #[error("a remove needs the key's state, and none could be had: {detail}; nothing was applied")]
    NothingToObserve {
        /// Who was asked and what they said.
        detail: Cow<'static, str>,
    },
    /// 503: only a copy could be had that is older than the namespace allows (rule E10).
    #[error("the copy here may be {age_ms} ms old, and this namespace's `max_staleness` is {max_ms} ms; no replica could be reached")]
    TooStale {
        /// How old it may be, in milliseconds.
        age_ms: u64,
        /// The namespace's bound.
        max_ms: u64,
    },
}

fn current_text(current: Option<&Version>) -> String {
    match current {
        Some(version) => format!("the key's ETag is now \"{version}\""),
        None => "the key is absent".to_owned(),
    }
}
