//! One line of a batch: what it asks for, and its answer.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use isochrone_ident::{Key, Kind as KeyKind, Namespace};
use metrics::counter;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::api::read::Look;
use crate::api::typed::Change;
use crate::api::write::{Intent, preconditions_in};
use crate::api::{Api, datum, level_in, remember, update};
use crate::auth::{Identity, Right};
use crate::command::{IdempotencyKey, Level, Matcher, Preconditions, Receipt, Refusal, WriteOp};
use crate::fields;
use crate::json;
use crate::problem::{Kind, Problem};
use crate::session::SessionToken;
use crate::typed::a_kind;

/// A key of a batch, or what stands for one that cannot be a key.
pub(super) type Place = (KeyKind, String, Vec<u8>);

/// What a line asks for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LineRequest {
    op: Op,
    /// What the key is; a value where it is not said.
    #[serde(rename = "type", default)]
    kind: LineKind,
    ns: String,
    key: Option<String>,
    /// For keys that are not UTF-8.
    key_base64: Option<String>,
    text: Option<String>,
    base64: Option<String>,
    /// What an update does: the body that the key's own path takes.
    body: Option<Box<RawValue>>,
    ttl_ms: Option<u64>,
    if_match: Option<String>,
    if_none_match: Option<String>,
    idempotency_key: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Op {
    Get,
    Put,
    Delete,
    Update,
}

/// A kind by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct LineKind(KeyKind);

impl<'de> Deserialize<'de> for LineKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = Cow::<str>::deserialize(deserializer)?;
        name.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

impl Op {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Delete => "delete",
            Self::Update => "update",
        }
    }
}

pub(super) fn parse(text: &[u8]) -> Result<LineRequest, Problem> {
    json::object(text).map_err(|e| Problem::malformed(format!("the line is not a batch operation: {e}")))
}

impl LineRequest {
    fn key(&self) -> Result<Key, Problem> {
        let bytes = match (&self.key, &self.key_base64) {
            (Some(key), None) => key.as_bytes().to_vec(),
            (None, Some(encoded)) => decode(encoded, "key_base64")?,
            _ => return Err(Problem::malformed("a line has one of `key` and `key_base64`")),
        };
        Key::new(bytes).map_err(|e| Problem::malformed(e.to_string()))
    }

    fn value(&self) -> Result<Bytes, Problem> {
        match (&self.text, &self.base64) {
            (Some(text), None) => Ok(Bytes::copy_from_slice(text.as_bytes())),
            (None, Some(encoded)) => decode(encoded, "base64").map(Bytes::from),
            _ => Err(Problem::malformed("a put has one of `text` and `base64`")),
        }
    }

    fn preconditions(&self) -> Preconditions {
        let if_match = matcher(self.if_match.as_deref(), false, fields::version);
        let if_none_match = matcher(self.if_none_match.as_deref(), true, fields::version);
        Preconditions { if_match, if_none_match, fence: None }
    }

    fn idempotency_key(&self) -> Result<Option<IdempotencyKey>, Problem> {
        let key = self.idempotency_key.as_deref().map(IdempotencyKey::new).transpose();
        key.map_err(|e| Problem::malformed(e.to_string()))
    }

    /// The key that the line is about, in whichever way it is written.
    pub(super) fn place(&self) -> Place {
        let key = self.key().map_or_else(|_| Vec::new(), |key| key.as_bytes().to_vec());
        (self.kind.0, self.ns.clone(), key)
    }

    /// What belongs to one operation is an error elsewhere, rather than overlooked.
    fn check_members(&self) -> Result<(), Problem> {
        let is_value = self.kind.0 == KeyKind::Value;
        let fits = if is_value { self.op != Op::Update } else { matches!(self.op, Op::Get | Op::Update) };
        if !fits {
            let ops = if is_value { "get, put or delete" } else { "get or update" };
            return Err(Problem::malformed(format!("the op of {} is {ops}, not {}", a_kind(self.kind.0), self.op.as_str())));
        }
        if self.op != Op::Put && (self.text.is_some() || self.base64.is_some()) {
            return Err(Problem::malformed("`text` and `base64` belong to a put"));
        }
        if self.ttl_ms.is_some() && !matches!(self.op, Op::Put | Op::Update) {
            return Err(Problem::malformed("`ttl_ms` belongs to a put or an update"));
        }
        if self.body.is_some() && self.op != Op::Update {
            return Err(Problem::malformed("`body` belongs to an update"));
        }
        if self.op == Op::Get && self.idempotency_key.is_some() {
            return Err(Problem::malformed("`idempotency_key` belongs to a write"));
        }
        Ok(())
    }
}

fn decode(encoded: &str, member: &'static str) -> Result<Vec<u8>, Problem> {
    STANDARD.decode(encoded).map_err(|e| Problem::malformed(format!("`{member}` is not base64 (RFC 4648 section 4): {e}")))
}

fn matcher<T>(tags: Option<&str>, weak: bool, read: fn(&[u8], bool) -> Option<T>) -> Option<Matcher<T>> {
    tags.map(|tags| fields::listed(std::iter::once(tags.as_bytes()), weak, read))
}

/// An answer, as it goes out.
#[derive(Debug, Default, Serialize)]
pub(super) struct LineAnswer {
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Value>,
    /// Of this line alone at first, and of all answers so far when it goes out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) session: Option<Arc<str>>,
}

impl LineAnswer {
    fn of(status: u16, etag: Option<String>, receipt: Receipt) -> Self {
        Self { status, etag, session: receipt.session, ..Self::default() }
    }

    /// A line that is refused before it is known what it is about, or afterwards.
    pub(super) fn refused(op: &'static str, problem: &Problem) -> Self {
        counter!("isochrone_http_batch_lines_total", "op" => op, "outcome" => "refused").increment(1);
        Self { status: problem.kind.status_code(), problem: Some(problem.to_json()), ..Self::default() }
    }
}

/// Carries out lines.
#[derive(Clone)]
pub(super) struct Worker {
    pub(super) api: Api,
    pub(super) identity: Identity,
    pub(super) level: Option<Level>,
    /// What the client has seen before the batch.
    pub(super) session: Option<SessionToken>,
}

/// A key, and what is known of the client that asks for it.
struct Target {
    ns: Namespace,
    key: Key,
    session: Option<SessionToken>,
}

impl Worker {
    /// The line's answer. `before`: what the client has seen by the answer of the batch's line before, for the same key.
    pub(super) async fn answer(&self, request: LineRequest, before: Option<SessionToken>) -> LineAnswer {
        let op = request.op;
        match self.carry_out(request, before.or_else(|| self.session.clone())).await {
            Ok(answer) => {
                counter!("isochrone_http_batch_lines_total", "op" => op.as_str(), "outcome" => "ok").increment(1);
                answer
            }
            Err(problem) => LineAnswer::refused(op.as_str(), &problem),
        }
    }

    async fn carry_out(&self, request: LineRequest, session: Option<SessionToken>) -> Result<LineAnswer, Problem> {
        request.check_members()?;
        let ns = Namespace::new(&request.ns).map_err(|e| Problem::malformed(e.to_string()))?;
        let target = Target { ns, key: request.key()?, session };
        match (request.kind.0, request.op) {
            (KeyKind::Value, Op::Get) => self.get(target, &request).await,
            (KeyKind::Value, _) => self.write(target, &request).await,
            (kind, Op::Get) => self.get_typed(kind, target, &request).await,
            (kind, _) => self.update(kind, target, &request).await,
        }
    }

    async fn get(&self, target: Target, request: &LineRequest) -> Result<LineAnswer, Problem> {
        let Target { ns, key, session } = target;
        let view = self.api.enter(&self.identity, Right::Read, &ns)?;
        remember(&ns);
        let level = level_in(&ns, &view, self.level)?;
        let served = self.api.serve(Look { ns, key, level, for_update: false, session }).await?;
        let object = served.object.ok_or_else(|| Kind::NotFound.because("the key is absent"))?;
        let asked = request.preconditions();
        if asked.if_match.is_some_and(|matcher| !matcher.matches(Some(&object.version))) {
            return Err(Refusal::PreconditionFailed { current: Some(object.version) }.into());
        }
        let etag = Some(format!("\"{}\"", object.version));
        if asked.if_none_match.is_some_and(|matcher| matcher.matches(Some(&object.version))) {
            return Ok(LineAnswer::of(304, etag, served.receipt));
        }
        let (text, base64) = text_or_base64(&object.value);
        Ok(LineAnswer { text, base64, ..LineAnswer::of(200, etag, served.receipt) })
    }

    async fn write(&self, target: Target, request: &LineRequest) -> Result<LineAnswer, Problem> {
        let Target { ns, key, session } = target;
        let view = self.api.enter(&self.identity, Right::Write, &ns)?;
        let level = level_in(&ns, &view, self.level)?;
        let preconditions = preconditions_in(&ns, &view, request.preconditions())?;
        let idempotency_key = request.idempotency_key()?;
        if request.op == Op::Delete {
            let op = WriteOp::Delete;
            let written = self.api.write(Intent { ns, key, op, preconditions, idempotency_key, level, session }).await?;
            return Ok(LineAnswer::of(204, None, written.receipt));
        }
        let value = request.value()?;
        if value.len() as u64 > view.value_bytes {
            return Err(Refusal::ValueTooLarge { bytes_max: view.value_bytes }.into());
        }
        let ttl = fields::effective_ttl(request.ttl_ms.map(Duration::from_millis), &view)?;
        let op = WriteOp::Put { value, content_type: None, ttl };
        let written = self.api.write(Intent { ns, key, op, preconditions, idempotency_key, level, session }).await?;
        let status = if written.created == Some(true) { 201 } else { 204 };
        Ok(LineAnswer::of(status, Some(format!("\"{}\"", written.version)), written.receipt))
    }

    async fn get_typed(&self, kind: KeyKind, target: Target, request: &LineRequest) -> Result<LineAnswer, Problem> {
        let Target { ns, key, session } = target;
        let (_, level) = self.api.enter_typed(&self.identity, Right::Read, &ns, kind, self.level)?;
        let served = self.api.serve_typed(kind, ns, key, level, session).await?;
        let held = served.datum.ok_or_else(|| Kind::NotFound.because("the key is absent"))?;
        let matches = |tags: Option<&str>, weak| matcher(tags, weak, fields::state).map(|matcher| matcher.matches(Some(&served.etag)));
        if matches(request.if_match.as_deref(), false) == Some(false) {
            return Err(Kind::PreconditionFailed.because("the key's ETag is another one now"));
        }
        let etag = Some(state_etag(served.etag));
        if matches(request.if_none_match.as_deref(), true) == Some(true) {
            return Ok(LineAnswer::of(304, etag, served.receipt));
        }
        Ok(LineAnswer { body: Some(datum::json(&held)?), ..LineAnswer::of(200, etag, served.receipt) })
    }

    async fn update(&self, kind: KeyKind, target: Target, request: &LineRequest) -> Result<LineAnswer, Problem> {
        let Target { ns, key, session } = target;
        let (view, level) = self.api.enter_typed(&self.identity, Right::Write, &ns, kind, self.level)?;
        preconditions_in(&ns, &view, request.preconditions())?;
        let idempotency_key = request.idempotency_key()?;
        let body = request.body.as_deref().ok_or_else(|| no_body(kind))?;
        let op = self.api.understand(kind, body.get().as_bytes(), &view)?;
        let ttl = fields::effective_ttl(request.ttl_ms.map(Duration::from_millis), &view)?;
        let written = self.api.change(Change { ns, key, op, ttl, idempotency_key, level, session }).await?;
        let body = Some(datum::json(&written.datum)?);
        Ok(LineAnswer { body, ..LineAnswer::of(200, Some(state_etag(written.etag)), written.receipt) })
    }
}

fn no_body(kind: KeyKind) -> Problem {
    Problem::malformed(format!("the update of {} has a `body`: {}", a_kind(kind), update::form(kind)))
}

fn state_etag(etag: u128) -> String {
    format!("\"{etag:x}\"")
}

/// Bytes as JSON: text where they are UTF-8, else base64.
pub(in crate::api) fn text_or_base64(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(plain) => (Some(plain.to_owned()), None),
        Err(_) => (None, Some(STANDARD.encode(bytes))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_line_panics(line in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&line);
        }

        #[test]
        fn a_value_reads_back_from_json(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let (text, base64) = text_or_base64(&bytes);
            let line = serde_json::json!({ "op": "put", "ns": "data", "key": "k", "text": text, "base64": base64 }).to_string();
            prop_assert_eq!(parse(line.as_bytes()).expect("parses").value().expect("decodes").to_vec(), bytes);
        }
    }
}
