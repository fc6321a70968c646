//! Counters, sets, maps and registers: read as JSON, changed by JSON.

use std::time::Duration;

use http::header::{AGE, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use isochrone_ident::{Key, Kind as KeyKind, Namespace, WallMicros};
use xxhash_rust::xxh3::Xxh3;

use super::read::{absent, cache_status, put_labelled, with_problem};
use super::write::{check_content, preconditions_in, written_headers};
use super::{Api, Asked, datum, level_in, remember, update, within};
use crate::auth::{Identity, Right};
use crate::body::ResponseBody;
use crate::command::{IdempotencyKey, Level, Mode, NamespaceView, Refusal};
use crate::fields::{self, CACHE_STATUS};
use crate::problem::{Kind, Problem};
use crate::route::namespace_and_key;
use crate::session::SessionToken;
use crate::typed::{Datum, TypedOp, TypedRead, TypedServed, TypedWrite, TypedWritten, a_kind};
use crate::upload::{self, RequestBody, Upload};

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A change, understood but for its deadline.
pub(super) struct Change {
    pub(super) ns: Namespace,
    pub(super) key: Key,
    pub(super) op: TypedOp,
    pub(super) ttl: Option<Duration>,
    pub(super) idempotency_key: Option<IdempotencyKey>,
    pub(super) level: Level,
    pub(super) session: Option<SessionToken>,
}

impl Api {
    pub(super) async fn read_typed(&self, kind: KeyKind, asked: Asked) -> Result<Response<ResponseBody>, Problem> {
        let (ns, key) = namespace_and_key(&asked.tail)?;
        let level = fields::level(&asked.parts.headers, asked.query.text("consistency")?)?;
        let (_, level) = self.enter_typed(&asked.identity, Right::Read, &ns, kind, level)?;
        let served = self.serve_typed(kind, ns, key, level, asked.session).await?;
        render(&asked.parts.method, &asked.parts.headers, kind, &served, self.now())
    }

    pub(super) async fn write_typed<B: RequestBody>(
        &self,
        kind: KeyKind,
        asked: Asked,
        body: B,
    ) -> Result<Response<ResponseBody>, Problem> {
        let headers = &asked.parts.headers;
        let (ns, key) = namespace_and_key(&asked.tail)?;
        let level = fields::level(headers, asked.query.text("consistency")?)?;
        let (view, level) = self.enter_typed(&asked.identity, Right::Write, &ns, kind, level)?;
        preconditions_in(&ns, &view, fields::preconditions(headers)?)?;
        let idempotency_key = fields::idempotency_key(headers)?;
        check_content(headers)?;
        check_json(headers, kind)?;
        let ttl = fields::effective_ttl(fields::requested_ttl(headers, asked.query.text("ttl")?)?, &view)?;
        let bytes_max = self.0.limits.batch_line_bytes as u64;
        let Upload { bytes, held } = upload::whole(headers, body, bytes_max, &self.0.limits, &self.0.bodies).await?;
        let op = self.understand(kind, &bytes, &view)?;
        let written = self.change(Change { ns, key, op, ttl, idempotency_key, level, session: asked.session }).await?;
        drop(held);
        let mut answer = written_headers(&written.receipt, written.repeated);
        answer.insert(ETAG, fields::value(|out| fields::put_state_etag(out, written.etag)));
        present(&Method::POST, &written.datum, answer)
    }

    /// The namespace and the level, once it is known that the sender may do this, and that keys of this kind can be there.
    pub(super) fn enter_typed(
        &self,
        identity: &Identity,
        right: Right,
        ns: &Namespace,
        kind: KeyKind,
        asked: Option<Level>,
    ) -> Result<(NamespaceView, Level), Problem> {
        let view = self.enter(identity, right, ns)?;
        remember(ns);
        check_mode(ns, &view, kind)?;
        Ok((view, level_in(ns, &view, asked)?))
    }

    /// What a body asks for, held against the namespace's bounds.
    pub(super) fn understand(&self, kind: KeyKind, body: &[u8], view: &NamespaceView) -> Result<TypedOp, Problem> {
        let op = update::parse(kind, body)?;
        let longest = match &op {
            TypedOp::RegisterPut { value, .. } => value.len(),
            TypedOp::MapUpdate { set, .. } => set.iter().map(|(_, text)| text.len()).max().unwrap_or(0),
            TypedOp::CounterAdd(_) | TypedOp::SetUpdate { .. } => 0,
        };
        upload::check_length(Some(longest as u64), view.value_bytes)?;
        Ok(op)
    }

    pub(super) async fn serve_typed(
        &self,
        kind: KeyKind,
        ns: Namespace,
        key: Key,
        level: Level,
        session: Option<SessionToken>,
    ) -> Result<TypedServed, Problem> {
        let deadline = self.deadline();
        let command = TypedRead { ns, kind, key, level, session, deadline };
        within(deadline, self.0.backend.read_typed(command), Refusal::DeadlineBefore).await
    }

    /// Hands a change to the backend. Its time starts now, when all of it is here.
    pub(super) async fn change(&self, change: Change) -> Result<TypedWritten, Problem> {
        let fingerprint = fingerprint(&change);
        let Change { ns, key, op, ttl, idempotency_key, level, session } = change;
        let deadline = self.deadline();
        let command = TypedWrite { ns, key, op, ttl, idempotency_key, fingerprint, level, session, deadline };
        let late = Refusal::OutcomeUnknown { detail: "the daemon did not answer in time".into() };
        within(deadline, self.0.backend.write_typed(command), late).await
    }
}

/// Values can be in every namespace, the other kinds in eventual ones.
pub(super) fn check_mode(ns: &Namespace, view: &NamespaceView, kind: KeyKind) -> Result<(), Problem> {
    if kind == KeyKind::Value || view.mode == Mode::Eventual {
        return Ok(());
    }
    Err(Refusal::WrongMode { ns: ns.clone(), asked: a_kind(kind).into(), allowed_by: "mode = \"eventual\"".into() }.into())
}

/// What `curl -d` calls whatever it sends, unless told otherwise.
const UNTOLD: &str = "application/x-www-form-urlencoded";

/// 415 for a body that says that it is something else than JSON. One that says nothing is taken for it, and so is `curl -d`'s, which says nothing by it.
fn check_json(headers: &HeaderMap, kind: KeyKind) -> Result<(), Problem> {
    let Some(text) = fields::text(headers, &CONTENT_TYPE)? else { return Ok(()) };
    let essence = text.split(';').next().unwrap_or("").trim();
    if ["application/json", UNTOLD].iter().any(|taken| essence.eq_ignore_ascii_case(taken)) {
        return Ok(());
    }
    let (what, form) = (a_kind(kind), update::form(kind));
    Err(Kind::UnsupportedMedia.because(format!("{what} takes `application/json`, {form}, not `{}`", essence.escape_debug())))
}

/// The answer to a read, with the same header as a value's.
fn render(
    method: &Method,
    asked: &HeaderMap,
    kind: KeyKind,
    served: &TypedServed,
    now: WallMicros,
) -> Result<Response<ResponseBody>, Problem> {
    let mut headers = HeaderMap::with_capacity(12);
    fields::put_receipt(&mut headers, &served.receipt);
    let left = served.expires_at.map(|at| at.0.saturating_sub(now.0) / 1_000_000);
    headers.insert(CACHE_STATUS, cache_status(served.source, left));
    let Some(datum) = &served.datum else {
        return Ok(absent(method, headers, format!("{} of that name was never written, or has expired", a_kind(kind))));
    };
    headers.insert(ETAG, fields::value(|out| fields::put_state_etag(out, served.etag)));
    if fields::state_matcher(asked, &IF_MATCH).is_some_and(|matcher| !matcher.matches(Some(&served.etag))) {
        return Ok(with_problem(method, headers, Kind::PreconditionFailed.because("the key's ETag is another one now")));
    }
    headers.insert(AGE, fields::value(|out| fields::put_decimal(out, served.receipt.age_ms.unwrap_or(0) / 1000)));
    if let Some(left) = left {
        headers.insert(CACHE_CONTROL, fields::value(|out| put_labelled(out, b"max-age=", left)));
    }
    if fields::state_matcher(asked, &IF_NONE_MATCH).is_some_and(|matcher| matcher.matches(Some(&served.etag))) {
        return Ok(super::empty(StatusCode::NOT_MODIFIED, headers));
    }
    present(method, datum, headers)
}

fn present(method: &Method, held: &Datum, mut headers: HeaderMap) -> Result<Response<ResponseBody>, Problem> {
    let text: Box<str> = datum::json(held)?.into();
    headers.insert(CONTENT_TYPE, JSON);
    let mut response = Response::new(ResponseBody::whole(String::from(text).into()));
    *response.headers_mut() = headers;
    Ok(if *method == Method::HEAD { super::without_body(response) } else { response })
}

/// As for values: xxh3-128 over everything that says what is to be done, each part with its length. Needed only under an `Idempotency-Key`.
fn fingerprint(change: &Change) -> u128 {
    if change.idempotency_key.is_none() {
        return 0;
    }
    let mut hash = Xxh3::new();
    let mut part = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(change.op.kind().as_str().as_bytes());
    part(change.ns.as_str().as_bytes());
    part(change.key.as_bytes());
    part(&change.ttl.as_ref().map_or(u128::MAX, Duration::as_millis).to_le_bytes());
    parts_of(&change.op, &mut part);
    hash.digest128()
}

/// The parts of an operation; each list is closed by an empty list's mark, so that no part can move from one to the next.
fn parts_of(op: &TypedOp, part: &mut impl FnMut(&[u8])) {
    match op {
        TypedOp::CounterAdd(add) => part(&add.to_le_bytes()),
        TypedOp::SetUpdate { add, remove } => {
            for list in [add, remove] {
                part(&(list.len() as u64).to_le_bytes());
                list.iter().for_each(|member| part(member));
            }
        }
        TypedOp::MapUpdate { set, remove, add } => {
            for count in [set.len(), remove.len(), add.len()] {
                part(&(count as u64).to_le_bytes());
            }
            for (name, text) in set {
                part(name.as_bytes());
                part(text);
            }
            remove.iter().for_each(|name| part(name.as_bytes()));
            for (name, amount) in add {
                part(name.as_bytes());
                part(&amount.to_le_bytes());
            }
        }
        TypedOp::RegisterPut { value, content_type, context } => {
            part(value);
            part(content_type.as_deref().unwrap_or("").as_bytes());
            part(&[u8::from(context.is_some())]);
            part(context.as_deref().unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn print_of(op: TypedOp) -> u128 {
        let change = Change {
            ns: Namespace::new("data").expect("a name"),
            key: Key::new(b"k".to_vec()).expect("a key"),
            op,
            ttl: None,
            idempotency_key: Some(IdempotencyKey::new("i").expect("a key")),
            level: Level::Local,
            session: None,
        };
        fingerprint(&change)
    }

    #[test]
    fn another_request_has_another_fingerprint() {
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        let set = |add: &[&'static str], remove: &[&'static str]| {
            let list = |names: &[&'static str]| names.iter().map(|name| bytes(name)).collect();
            TypedOp::SetUpdate { add: list(add), remove: list(remove) }
        };
        let register = |context| TypedOp::RegisterPut { value: bytes("a"), content_type: None, context };
        let map = |set: &[&str], remove: &[&str]| {
            let set = set.iter().map(|name| ((*name).to_owned(), bytes("1"))).collect();
            TypedOp::MapUpdate { set, remove: remove.iter().map(|name| (*name).to_owned()).collect(), add: Vec::new() }
        };
        let all = [
            TypedOp::CounterAdd(1),
            TypedOp::CounterAdd(-1),
            set(&["a"], &["b"]),
            set(&["b"], &["a"]),
            set(&["a", "b"], &[]),
            set(&[], &["a", "b"]),
            map(&["a"], &[]),
            map(&[], &["a", "1"]),
            register(None),
            register(Some(Bytes::new())),
        ];
        let prints: std::collections::BTreeSet<u128> = all.iter().cloned().map(print_of).collect();
        assert_eq!(prints.len(), all.len());
    }
}
