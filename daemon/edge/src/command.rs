//! What a request is once it has been understood, what may come back, and who answers it.
//!
//! The API turns bytes into one of [`ReadCommand`], [`WriteCommand`], [`ListCommand`], [`TypedRead`] and [`TypedWrite`]; a [`Backend`] turns
//! that into a [`Served`], a [`Written`], a [`ListPage`], a [`TypedServed`], a [`TypedWritten`] or a [`Refusal`]; the API turns this into bytes
//! again. Nothing here knows HTTP but for the words.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use isochrone_ident::{Hlc, Incarnation, Key, Kind, Namespace, NodeId, Region, Version, WallMicros};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

pub use crate::refusal::Refusal;
use crate::session::SessionToken;
use crate::typed::{TypedRead, TypedServed, TypedWrite, TypedWritten, a_kind};

/// How much agreement an answer rests on, weakest first. A receipt says what was really given, never more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Level {
    /// The nearest copy; a write is acknowledged by the first durable replica.
    Local,
    /// Read and write overlap on a majority of the key's replicas. Never asked of a strong namespace: there it is [`Level::Strong`].
    Quorum,
    /// Linearizable.
    Strong,
}

impl Level {
    /// As it stands in `Isochrone-Consistency`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Quorum => "quorum",
            Self::Strong => "strong",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no [`Level`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a consistency level is local, quorum or strong, not {0:?}")]
pub struct InvalidLevel(pub String);

impl FromStr for Level {
    type Err = InvalidLevel;

    fn from_str(text: &str) -> Result<Self, InvalidLevel> {
        match text {
            "local" => Ok(Self::Local),
            "quorum" => Ok(Self::Quorum),
            "strong" => Ok(Self::Strong),
            other => Err(InvalidLevel(other.to_owned())),
        }
    }
}

/// The promise that a namespace makes, fixed at its creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Replicated as CRDTs: writes are taken by any daemon and converge.
    Eventual,
    /// Every write is chosen by a quorum.
    Strong,
}

impl Mode {
    /// The level of a request that names none.
    #[must_use]
    pub const fn default_level(self) -> Level {
        match self {
            Self::Eventual => Level::Local,
            Self::Strong => Level::Strong,
        }
    }
}

/// What the API must know of a namespace before it can check a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamespaceView {
    /// Its mode.
    pub mode: Mode,
    /// Whether its values may be dropped at any time.
    pub evictable: bool,
    /// The TTL of a write that names none; `None`: such a write persists (or takes `ttl_max`).
    pub ttl_default: Option<Duration>,
    /// The longest TTL; a longer one is refused, and a write without a TTL takes it. `None`: no bound.
    pub ttl_max: Option<Duration>,
    /// The largest value, in bytes: the least of what the namespace and the node allow. Larger is 413.
    pub value_bytes: u64,
}

/// What an answer rests on: the receipt headers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// What was really given.
    pub consistency: Level,
    /// The region whose copy or replica answered.
    pub region: Region,
    /// Upper bound of the answer's staleness in milliseconds, where one is known.
    pub age_ms: Option<u64>,
    /// What the client has seen from now on (rule E9), as a [`SessionToken`]'s text: all that the request's own token stood for, and this answer.
    /// Sharing one text between answers is what keeps it cheap.
    pub session: Option<Arc<str>>,
    /// How a strong answer was come by and what that cost, for whoever looks into a slow one (`Isochrone-Path`): visible ASCII, as in
    /// `way=owner; estimate-ms=80.1; took-ms=79.9; trips=1`. `None` on the eventual path.
    pub path: Option<Arc<str>>,
}

/// Where a read was answered from, for `Cache-Status` (RFC 9211).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Source {
    /// This daemon held a copy that it could answer from.
    Hit,
    /// Another daemon was asked, since this one holds no copy.
    ForwardedMiss,
    /// Another daemon was asked, since the request wanted more than this one's copy can give.
    ForwardedRequest,
}

/// A value that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// The bytes, as they were written.
    pub value: Bytes,
    /// The `Content-Type` given at the write.
    pub content_type: Option<Arc<str>>,
    /// The write's marker: the `ETag`. Of a strong key its [`revision_version`].
    pub version: Version,
    /// When it expires; `None`: it persists.
    pub expires_at: Option<WallMicros>,
}

/// The answer to a read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// The value; `None`: the key is absent (never written, deleted or expired).
    pub object: Option<Object>,
    /// What the answer rests on. An absence has a receipt too.
    pub receipt: Receipt,
    /// Where it was answered from.
    pub source: Source,
}

/// The answer of [`Backend::glance`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Glance {
    /// Answered on the spot.
    Answer(Served),
    /// It needs a disk that may block, another daemon, or more agreement: use [`Backend::read`].
    Ask,
}

/// A read of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadCommand {
    /// The namespace; it exists when the command is made, and may be gone when it is carried out.
    pub ns: Namespace,
    /// The key.
    pub key: Key,
    /// What the client asked for, or the namespace's default.
    pub level: Level,
    /// Whether a write of the same key by the same client will follow, which a promise in advance makes cheaper (rule Q8). Only in strong
    /// namespaces, at level strong.
    pub for_update: bool,
    /// What the client has seen before (rule E9): the answer is no older.
    pub session: Option<SessionToken>,
    /// When the client's patience ends; an answer after it is thrown away.
    pub deadline: Instant,
}

/// What `If-Match` or `If-None-Match` lists: versions, or validators of another kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Matcher<T = Version> {
    /// `*`: any version at all.
    Any,
    /// One of these. Validators that no version is written as are left out: they match nothing. May be empty.
    Versions(Vec<T>),
}

impl<T: PartialEq> Matcher<T> {
    /// Whether the key's current version (`None`: absent) is matched.
    #[must_use]
    pub fn matches(&self, current: Option<&T>) -> bool {
        match (self, current) {
            (_, None) => false,
            (Self::Any, Some(_)) => true,
            (Self::Versions(list), Some(version)) => list.contains(version),
        }
    }
}

/// `Isochrone-Fence: {lock}={token}`: the write holds only while the lock's token is still this one (rule L5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The lock's name, 1 to [`Key::BYTES_MAX`] bytes.
    pub lock: Arc<str>,
    /// The fencing token.
    pub token: u64,
}

/// The version that stands for a strong key's revision: as a hybrid time, of no node. Every other version is of another kind of namespace, and no
/// strong key has it.
#[must_use]
pub const fn revision_version(revision: u64) -> Version {
    Version { hlc: Hlc(revision), node: NodeId(0), incarnation: Incarnation(0) }
}

/// What must hold for a write to be applied, all of it. Always empty in eventual namespaces: the API refuses them there.
///
/// Versions that no strong key can have are left out of the lists, so that comparing `hlc` with the key's revision is enough; an `if_match` whose
/// list is empty never holds. A list has at most [`Preconditions::VERSIONS_MAX`] versions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Preconditions {
    /// The current version must be matched.
    pub if_match: Option<Matcher>,
    /// The current version must not be matched.
    pub if_none_match: Option<Matcher>,
    /// The lock must still be held with that token.
    pub fence: Option<Fence>,
}

impl Preconditions {
    /// The most versions in one list: they travel with the write.
    pub const VERSIONS_MAX: usize = 64;

    /// Whether nothing is asked.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.if_match.is_none() && self.if_none_match.is_none() && self.fence.is_none()
    }
}

/// A client's name for one write: 1 to 128 visible ASCII characters. Unique in the whole cluster, not per key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IdempotencyKey(Arc<str>);

/// A text that is no [`IdempotencyKey`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an Idempotency-Key is 1 to 128 visible ASCII characters")]
pub struct InvalidIdempotencyKey;

impl IdempotencyKey {
    /// The longest key, in characters.
    pub const CHARS_MAX: usize = 128;

    /// The key of that text. The draft's quoted form (a structured-field string) names the same key as the bare one.
    ///
    /// # Errors
    /// [`InvalidIdempotencyKey`] when it is empty, too long or holds anything but visible ASCII.
    pub fn new(text: &str) -> Result<Self, InvalidIdempotencyKey> {
        let bare = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
        let fits = (1..=Self::CHARS_MAX).contains(&bare.len()) && bare.bytes().all(|b| b.is_ascii_graphic());
        if fits { Ok(Self(bare.into())) } else { Err(InvalidIdempotencyKey) }
    }

    /// The key as text, without quotes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for IdempotencyKey {
    type Error = InvalidIdempotencyKey;

    fn try_from(text: String) -> Result<Self, InvalidIdempotencyKey> {
        Self::new(&text)
    }
}

impl From<IdempotencyKey> for String {
    fn from(key: IdempotencyKey) -> Self {
        key.0.as_ref().to_owned()
    }
}

/// What a write does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteOp {
    /// Sets the key's value.
    Put {
        /// The bytes.
        value: Bytes,
        /// What the client calls them.
        content_type: Option<Arc<str>>,
        /// How long it lives, the namespace's default and maximum already applied; `None`: it persists. At least 1 ms.
        ttl: Option<Duration>,
    },
    /// Removes the key; not an error when it is absent.
    Delete,
}

/// A write of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteCommand {
    /// The namespace.
    pub ns: Namespace,
    /// The key.
    pub key: Key,
    /// What to do.
    pub op: WriteOp,
    /// What must hold for it.
    pub preconditions: Preconditions,
    /// The client's name for this write: a repeat applies once and gives the first answer.
    pub idempotency_key: Option<IdempotencyKey>,
    /// xxh3-128 of everything in the request that says what is to be done: another one under the same `idempotency_key` is
    /// [`Refusal::IdempotencyKeyReused`].
    pub fingerprint: u128,
    /// What the client asked for, or the namespace's default. In a strong namespace every write is chosen by a quorum, whatever this says.
    pub level: Level,
    /// What the client has seen before (rule E9): the write comes after it.
    pub session: Option<SessionToken>,
    /// When the client's patience ends. A write that was not sent to anybody by then is [`Refusal::DeadlineBefore`], another one is
    /// [`Refusal::OutcomeUnknown`].
    pub deadline: Instant,
}

/// The answer to a write that was applied, or was already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The write's marker, which is the key's new `ETag`.
    pub version: Version,
    /// Whether the key was absent before. `None`: not known, as always on the eventual path.
    pub created: Option<bool>,
    /// What the acknowledgement rests on.
    pub receipt: Receipt,
    /// Whether this is the first answer to an earlier request with the same `Idempotency-Key`.
    pub repeated: bool,
}

/// A page of a namespace's keys, in byte order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListCommand {
    /// The namespace.
    pub ns: Namespace,
    /// Only keys of this kind: each kind has a key space of its own.
    pub kind: Kind,
    /// Only keys that begin so; may be empty.
    pub prefix: Bytes,
    /// Only keys after this one.
    pub after: Option<Key>,
    /// At most so many entries, at least 1.
    pub limit: usize,
    /// What the client asked for, or the namespace's default.
    pub level: Level,
    /// What the client has seen before (rule E9): the answer is no older.
    pub session: Option<SessionToken>,
    /// When the client's patience ends.
    pub deadline: Instant,
}

/// One key of a [`ListPage`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The key.
    pub key: Key,
    /// Its version: of a value, the `ETag`.
    pub version: Version,
    /// The `ETag` of a key that is not a value: [`TypedServed::etag`]. `None` for values.
    pub etag: Option<u128>,
    /// The value's size in bytes.
    pub bytes: u64,
    /// When it expires; `None`: it persists.
    pub expires_at: Option<WallMicros>,
}

/// The answer to a [`ListCommand`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListPage {
    /// The keys, in byte order.
    pub entries: Vec<Listed>,
    /// Where the next page begins: the keys after this one. `None`: there are no more.
    pub next: Option<Key>,
    /// What the answer rests on.
    pub receipt: Receipt,
}

/// Who answers commands: the daemon's node, or a model of it in tests.
///
/// Called from many threads at once. A future that is dropped half way (its client went away) must leave no half-done write: a
/// write that has started goes on or is undone without its caller.
pub trait Backend: Send + Sync + 'static {
    /// What the API must know of a namespace; `None`: there is none of that name. Called for every request: no lock, no allocation.
    fn namespace(&self, ns: &Namespace) -> Option<NamespaceView>;

    /// Answers a read on the spot when it can be had from memory. Called for every read, on the runtime that serves the connection: it
    /// must not block, and allocates nothing beyond the answer. `key` has 1 to [`Key::BYTES_MAX`] bytes. `session` is a [`SessionToken`]'s
    /// text; one that cannot be used is [`Glance::Ask`], since [`Backend::read`] can say why.
    fn glance(&self, ns: &Namespace, key: &[u8], level: Level, session: Option<&str>) -> Glance;

    /// Answers a read.
    fn read(&self, command: ReadCommand) -> BoxFuture<'_, Result<Served, Refusal>>;

    /// Carries out a write.
    fn write(&self, command: WriteCommand) -> BoxFuture<'_, Result<Written, Refusal>>;

    /// Lists keys.
    fn list(&self, command: ListCommand) -> BoxFuture<'_, Result<ListPage, Refusal>>;

    /// Reads a counter, set, map or register.
    fn read_typed(&self, command: TypedRead) -> BoxFuture<'_, Result<TypedServed, Refusal>> {
        Box::pin(async move { Err(not_built(command.kind)) })
    }

    /// Changes a counter, set, map or register.
    fn write_typed(&self, command: TypedWrite) -> BoxFuture<'_, Result<TypedWritten, Refusal>> {
        Box::pin(async move { Err(not_built(command.op.kind())) })
    }

    /// A token that stands for all that two tokens of this backend's own stand for: those of a batch's lines become one so. A token that
    /// cannot be understood is left out.
    fn join_sessions(&self, held: &Arc<str>, newer: &Arc<str>) -> Arc<str> {
        let _ = held;
        Arc::clone(newer)
    }
}

fn not_built(kind: Kind) -> Refusal {
    Refusal::NotBuilt { what: a_kind(kind).into(), instead: "use a value under `/v1/kv`".into() }
}
