//! A backend in memory that can be told to fail, and short ways to ask.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use isochrone_edge::{
    Api, Auth, Backend, EdgeLimits, Fence, Glance, Level, ListCommand, ListPage, Listed, Matcher, Mode, NamespaceView, Object,
    Preconditions, ReadCommand, Receipt, Refusal, ResponseBody, Served, SessionToken, Source, TypedRead, TypedServed, TypedWrite,
    TypedWritten, WriteCommand, WriteOp, Written, revision_version,
};
use isochrone_ident::{Hlc, Incarnation, Key, Kind, Namespace, NodeId, Region, Version, WallMicros};

use crate::types::{Held, Types};

pub(crate) const START: u64 = 1_700_000_000_000_000;

type Place = (String, Vec<u8>);

/// One node's worth of keys.
pub(crate) struct Model {
    keys: Mutex<BTreeMap<Place, Object>>,
    answers: Mutex<BTreeMap<String, (u128, Written)>>,
    /// Refuses everything with this.
    pub(crate) failing: Mutex<Option<Refusal>>,
    /// Each read and write takes so long, and none is answered at a glance.
    pub(crate) delay: Mutex<Option<Duration>>,
    pub(crate) now: AtomicU64,
    writes: AtomicU64,
    pub(crate) log: Mutex<Vec<String>>,
    types: Mutex<Types>,
    typed_answers: Mutex<BTreeMap<String, (u128, TypedWritten)>>,
    /// The session token of each command that was carried out or asked for, with its key.
    pub(crate) sessions: Mutex<Vec<(String, Option<String>)>>,
    /// The keys that were read for update.
    pub(crate) for_update: Mutex<Vec<String>>,
    /// The highest token that a strong key has seen of a lock.
    fences: Mutex<BTreeMap<(Place, Arc<str>), u64>>,
}

impl Model {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            keys: Mutex::default(),
            answers: Mutex::default(),
            failing: Mutex::default(),
            delay: Mutex::default(),
            now: AtomicU64::new(START),
            writes: AtomicU64::new(0),
            log: Mutex::default(),
            types: Mutex::default(),
            typed_answers: Mutex::default(),
            sessions: Mutex::default(),
            for_update: Mutex::default(),
            fences: Mutex::default(),
        })
    }

    pub(crate) fn pass(&self, time: Duration) {
        self.now.fetch_add(time.as_micros() as u64, Ordering::SeqCst);
    }

    pub(crate) fn writes(&self) -> u64 {
        self.writes.load(Ordering::SeqCst)
    }

    fn now(&self) -> WallMicros {
        WallMicros(self.now.load(Ordering::SeqCst))
    }

    fn current(&self, place: &Place) -> Option<Object> {
        let keys = self.keys.lock().unwrap();
        keys.get(place).filter(|object| object.expires_at.is_none_or(|at| at > self.now())).cloned()
    }

    fn check(&self) -> Result<(), Refusal> {
        self.failing.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    /// What the model knows of a session: how many writes it has seen. A token of the future is of nobody's making.
    fn check_session(&self, key: &[u8], session: Option<&str>) -> Result<(), Refusal> {
        self.sessions.lock().unwrap().push((String::from_utf8_lossy(key).into_owned(), session.map(str::to_owned)));
        let Some(token) = session else { return Ok(()) };
        match token.strip_prefix("seen-").and_then(|number| number.parse::<u64>().ok()) {
            Some(seen) if seen <= self.writes() => Ok(()),
            Some(_) => Err(Refusal::SessionTokenInvalid { detail: "it names a write that has not happened".into() }),
            None => Err(Refusal::SessionTokenInvalid { detail: "it is of another cluster, or damaged".into() }),
        }
    }

    fn receipt(&self, level: Level) -> Receipt {
        Receipt { session: Some(format!("seen-{}", self.writes()).into()), ..receipt(level) }
    }

    fn apply_typed(&self, command: &TypedWrite) -> Result<TypedWritten, Refusal> {
        self.check()?;
        self.check_session(command.key.as_bytes(), command.session.as_ref().map(SessionToken::as_str))?;
        let name = command.idempotency_key.as_ref().map(|key| key.as_str().to_owned());
        if let Some((fingerprint, first)) = name.as_ref().and_then(|name| self.typed_answers.lock().unwrap().get(name).cloned()) {
            let repeated = TypedWritten { repeated: true, ..first };
            return if fingerprint == command.fingerprint { Ok(repeated) } else { Err(Refusal::IdempotencyKeyReused) };
        }
        let held = self.types.lock().unwrap().write(command, self.now(), self.writes() + 1)?;
        self.writes.fetch_add(1, Ordering::SeqCst);
        let etag = held.etag();
        let written = TypedWritten { datum: held.datum, etag, receipt: self.receipt(command.level), repeated: false };
        if let Some(name) = name {
            self.typed_answers.lock().unwrap().insert(name, (command.fingerprint, written.clone()));
        }
        Ok(written)
    }

    /// Everything of one kind on one page.
    fn typed_page(&self, command: &ListCommand) -> ListPage {
        let listed = |(key, held): (Vec<u8>, Held)| Listed {
            key: Key::new(key).unwrap(),
            version: Version { hlc: Hlc(1), node: NodeId(7), incarnation: Incarnation(1) },
            etag: Some(held.etag()),
            bytes: 8,
            expires_at: held.expires_at,
        };
        let keys = self.types.lock().unwrap().keys(command.kind, command.ns.as_str(), self.now());
        let after = command.after.as_ref().map_or(&b""[..], Key::as_bytes);
        let inside = keys.into_iter().filter(|(key, _)| key.starts_with(&command.prefix) && key.as_slice() > after);
        let mut entries: Vec<Listed> = inside.map(listed).collect();
        let is_more = entries.len() > command.limit;
        entries.truncate(command.limit);
        let next = if is_more { entries.last().map(|entry| entry.key.clone()) } else { None };
        ListPage { entries, next, receipt: self.receipt(command.level) }
    }

    fn apply(&self, command: WriteCommand) -> Result<Written, Refusal> {
        self.check()?;
        self.check_session(command.key.as_bytes(), command.session.as_ref().map(SessionToken::as_str))?;
        let name = command.idempotency_key.as_ref().map(|key| key.as_str().to_owned());
        if let Some((fingerprint, first)) = name.as_ref().and_then(|name| self.answers.lock().unwrap().get(name).cloned()) {
            let repeated = Written { repeated: true, ..first };
            return if fingerprint == command.fingerprint { Ok(repeated) } else { Err(Refusal::IdempotencyKeyReused) };
        }
        let place = (command.ns.as_str().to_owned(), command.key.as_bytes().to_vec());
        let before = self.current(&place);
        hold(&command.preconditions, before.as_ref())?;
        self.hold_fence(&place, command.preconditions.fence.as_ref())?;
        let is_strong = command.ns.as_str() == "strong";
        let count = self.writes.fetch_add(1, Ordering::SeqCst) + 1;
        let dot = Version { hlc: Hlc(Hlc::at(self.now()).0 + count), node: NodeId(7), incarnation: Incarnation(1) };
        let version = if is_strong { revision_version(count) } else { dot };
        self.log.lock().unwrap().push(String::from_utf8_lossy(command.key.as_bytes()).into_owned());
        match command.op {
            WriteOp::Put { value, content_type, ttl } => {
                let expires_at = ttl.map(|ttl| self.now().plus_millis(ttl.as_millis() as u64));
                self.keys.lock().unwrap().insert(place, Object { value, content_type, version, expires_at });
            }
            WriteOp::Delete => {
                self.keys.lock().unwrap().remove(&place);
            }
        }
        let (created, level) = if is_strong { (Some(before.is_none()), Level::Strong) } else { (None, command.level) };
        let written = Written { version, created, receipt: self.receipt(level), repeated: false };
        if let Some(name) = name {
            self.answers.lock().unwrap().insert(name, (command.fingerprint, written.clone()));
        }
        Ok(written)
    }

    fn hold_fence(&self, place: &Place, asked: Option<&Fence>) -> Result<(), Refusal> {
        let Some(Fence { lock, token }) = asked.cloned() else { return Ok(()) };
        let mut fences = self.fences.lock().unwrap();
        let highest = fences.entry((place.clone(), Arc::clone(&lock))).or_default();
        if token < *highest {
            return Err(Refusal::FenceStale { lock, token, highest: *highest });
        }
        *highest = token;
        Ok(())
    }

    fn page(&self, command: &ListCommand) -> ListPage {
        let keys = self.keys.lock().unwrap();
        let inside = |key: &[u8]| key.starts_with(&command.prefix) && command.after.as_ref().is_none_or(|after| key > after.as_bytes());
        let listed = |key: &[u8], object: &Object| Listed {
            key: Key::new(key.to_vec()).unwrap(),
            version: object.version,
            etag: None,
            bytes: object.value.len() as u64,
            expires_at: object.expires_at,
        };
        let all = keys.iter().filter(|((ns, key), _)| ns == command.ns.as_str() && inside(key));
        let mut entries: Vec<Listed> = all.map(|((_, key), object)| listed(key, object)).take(command.limit + 1).collect();
        let is_more = entries.len() > command.limit;
        entries.truncate(command.limit);
        let next = if is_more { entries.last().map(|entry| entry.key.clone()) } else { None };
        ListPage { entries, next, receipt: self.receipt(command.level) }
    }

    fn serve(&self, place: &Place, level: Level, source: Source) -> Served {
        Served { object: self.current(place), receipt: self.receipt(level), source }
    }
}

fn receipt(level: Level) -> Receipt {
    let path = (level == Level::Strong).then(|| "way=here; estimate-ms=75.2; took-ms=75.0; trips=1".into());
    let age_ms = (level == Level::Local).then_some(2500);
    Receipt { consistency: level, region: Region::new("us-east").unwrap(), age_ms, session: None, path }
}

fn hold(asked: &Preconditions, before: Option<&Object>) -> Result<(), Refusal> {
    let current = before.map(|object| object.version);
    let holds =
        |matcher: &Option<Matcher>, wanted: bool| matcher.as_ref().is_none_or(|matcher| matcher.matches(current.as_ref()) == wanted);
    if holds(&asked.if_match, true) && holds(&asked.if_none_match, false) { Ok(()) } else { Err(Refusal::PreconditionFailed { current }) }
}

impl Backend for Model {
    fn namespace(&self, ns: &Namespace) -> Option<NamespaceView> {
        let view = |mode, evictable, ttl: Option<u64>| NamespaceView {
            mode,
            evictable,
            ttl_default: ttl.map(Duration::from_secs),
            ttl_max: ttl.map(|ttl| Duration::from_secs(ttl * 60)),
            value_bytes: 1000,
        };
        match ns.as_str() {
            "cache" => Some(view(Mode::Eventual, true, Some(60))),
            "data" => Some(view(Mode::Eventual, false, None)),
            "strong" => Some(view(Mode::Strong, false, None)),
            _ => None,
        }
    }

    fn glance(&self, ns: &Namespace, key: &[u8], level: Level, session: Option<&str>) -> Glance {
        let is_slow = self.delay.lock().unwrap().is_some() || self.check().is_err() || self.check_session(key, session).is_err();
        if is_slow || level != Level::Local || key.starts_with(b"far/") {
            return Glance::Ask;
        }
        Glance::Answer(self.serve(&(ns.as_str().to_owned(), key.to_vec()), level, Source::Hit))
    }

    fn read(&self, command: ReadCommand) -> BoxFuture<'_, Result<Served, Refusal>> {
        Box::pin(async move {
            let delay = *self.delay.lock().unwrap();
            tokio::time::sleep(delay.unwrap_or_default()).await;
            self.check()?;
            self.check_session(command.key.as_bytes(), command.session.as_ref().map(SessionToken::as_str))?;
            if command.for_update {
                self.for_update.lock().unwrap().push(String::from_utf8_lossy(command.key.as_bytes()).into_owned());
            }
            Ok(self.serve(&(command.ns.as_str().to_owned(), command.key.as_bytes().to_vec()), command.level, Source::ForwardedMiss))
        })
    }

    fn write(&self, command: WriteCommand) -> BoxFuture<'_, Result<Written, Refusal>> {
        Box::pin(async move {
            let delay = *self.delay.lock().unwrap();
            tokio::time::sleep(delay.unwrap_or_default()).await;
            self.apply(command)
        })
    }

    fn list(&self, command: ListCommand) -> BoxFuture<'_, Result<ListPage, Refusal>> {
        Box::pin(async move {
            self.check()?;
            self.check_session(b"", command.session.as_ref().map(SessionToken::as_str))?;
            Ok(if command.kind == Kind::Value { self.page(&command) } else { self.typed_page(&command) })
        })
    }

    fn read_typed(&self, command: TypedRead) -> BoxFuture<'_, Result<TypedServed, Refusal>> {
        Box::pin(async move {
            self.check()?;
            self.check_session(command.key.as_bytes(), command.session.as_ref().map(SessionToken::as_str))?;
            let held = self.types.lock().unwrap().read(&command, self.now());
            let (etag, expires_at) = held.as_ref().map_or((0, None), |held| (held.etag(), held.expires_at));
            let datum = held.map(|held| held.datum);
            Ok(TypedServed { datum, etag, expires_at, receipt: self.receipt(command.level), source: Source::Hit })
        })
    }

    fn write_typed(&self, command: TypedWrite) -> BoxFuture<'_, Result<TypedWritten, Refusal>> {
        Box::pin(async move {
            let delay = *self.delay.lock().unwrap();
            tokio::time::sleep(delay.unwrap_or_default()).await;
            self.apply_typed(&command)
        })
    }

    fn join_sessions(&self, held: &Arc<str>, newer: &Arc<str>) -> Arc<str> {
        let seen = |token: &Arc<str>| token.strip_prefix("seen-").unwrap().parse::<u64>().unwrap();
        if seen(held) > seen(newer) { Arc::clone(held) } else { Arc::clone(newer) }
    }
}

pub(crate) fn api(model: &Arc<Model>, auth: Auth, limits: EdgeLimits) -> Api {
    let clock = Arc::clone(model);
    Api::new(Arc::clone(model) as Arc<dyn Backend>, Arc::new(auth), limits, Arc::new(move || clock.now()))
}

/// An answer, taken in whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) async fn of(response: Response<ResponseBody>) -> Self {
        let (parts, body) = response.into_parts();
        Self { status: parts.status.as_u16(), headers: parts.headers, body: body.collect().await.unwrap().to_bytes() }
    }

    pub(crate) fn field(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The name of the problem, after checking that all that every problem has is there.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.field("content-type"), "application/problem+json", "{self:?}");
        let json = self.json();
        assert_eq!(json["status"], self.status);
        assert!(json["title"].is_string() && json["detail"].is_string() && json["retryable"].is_boolean());
        assert!(!StatusCode::from_u16(self.status).unwrap().is_success());
        json["type"].as_str().unwrap().strip_prefix("/problems/").unwrap().to_owned()
    }
}

/// Asks the API directly.
pub(crate) struct Client {
    pub(crate) model: Arc<Model>,
    pub(crate) api: Api,
}

impl Client {
    pub(crate) fn new() -> Self {
        let model = Model::new();
        Self { api: api(&model, Auth::none(), EdgeLimits::default()), model }
    }

    pub(crate) async fn ask(&self, method: &str, path: &str, fields: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        Answer::of(self.api.handle(request.body(Full::new(body.into())).unwrap()).await).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "").await
    }

    pub(crate) async fn put(&self, path: &str, value: &'static str) -> Answer {
        self.ask("PUT", path, &[], value).await
    }
}
