//! Puts and deletes.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, ETAG};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use isochrone_ident::{Key, Namespace};
use xxhash_rust::xxh3::Xxh3;

use super::{Api, Asked, empty, level_in, within, wrong_mode};
use crate::auth::Right;
use crate::body::ResponseBody;
use crate::command::{
    IdempotencyKey, Level, Matcher, Mode, NamespaceView, Preconditions, Receipt, Refusal, WriteCommand, WriteOp, Written, revision_version,
};
use crate::fields::{self, IDEMPOTENT_REPLAYED};
use crate::problem::{Kind, Problem};
use crate::route::namespace_and_key;
use crate::session::SessionToken;
use crate::upload::{self, RequestBody, Upload};

/// The longest `Content-Type` that is kept, in bytes.
const CONTENT_TYPE_BYTES_MAX: usize = 255;

/// A write, understood but for its deadline.
pub(super) struct Intent {
    pub(super) ns: Namespace,
    pub(super) key: Key,
    pub(super) op: WriteOp,
    pub(super) preconditions: Preconditions,
    pub(super) idempotency_key: Option<IdempotencyKey>,
    pub(super) level: Level,
    pub(super) session: Option<SessionToken>,
}

impl Api {
    pub(super) async fn put<B: RequestBody>(&self, asked: Asked, body: B) -> Result<Response<ResponseBody>, Problem> {
        let headers = &asked.parts.headers;
        let (ns, key, view, level) = self.target(&asked)?;
        let preconditions = preconditions_in(&ns, &view, fields::preconditions(headers)?)?;
        let idempotency_key = fields::idempotency_key(headers)?;
        check_content(headers)?;
        let content_type = content_type(headers)?;
        let ttl = fields::effective_ttl(fields::requested_ttl(headers, asked.query.text("ttl")?)?, &view)?;
        let Upload { bytes: value, held } = upload::whole(headers, body, view.value_bytes, &self.0.limits, &self.0.bodies).await?;
        let op = WriteOp::Put { value, content_type, ttl };
        let written = self.write(Intent { ns, key, op, preconditions, idempotency_key, level, session: asked.session }).await?;
        drop(held);
        let status = if written.created == Some(true) { StatusCode::CREATED } else { StatusCode::NO_CONTENT };
        let mut answer = written_headers(&written.receipt, written.repeated);
        answer.insert(ETAG, fields::value(|out| fields::put_etag(out, &written.version)));
        Ok(empty(status, answer))
    }

    pub(super) async fn delete(&self, asked: Asked) -> Result<Response<ResponseBody>, Problem> {
        let headers = &asked.parts.headers;
        let (ns, key, view, level) = self.target(&asked)?;
        let preconditions = preconditions_in(&ns, &view, fields::preconditions(headers)?)?;
        let idempotency_key = fields::idempotency_key(headers)?;
        let (op, session) = (WriteOp::Delete, asked.session);
        let written = self.write(Intent { ns, key, op, preconditions, idempotency_key, level, session }).await?;
        Ok(empty(StatusCode::NO_CONTENT, written_headers(&written.receipt, written.repeated)))
    }

    fn target(&self, asked: &Asked) -> Result<(Namespace, Key, NamespaceView, Level), Problem> {
        let (ns, key) = namespace_and_key(&asked.tail)?;
        let view = self.enter(&asked.identity, Right::Write, &ns)?;
        let level = level_in(&ns, &view, fields::level(&asked.parts.headers, asked.query.text("consistency")?)?)?;
        Ok((ns, key, view, level))
    }

    /// Hands a write to the backend. Its time starts now, when all of it is here.
    pub(super) async fn write(&self, intent: Intent) -> Result<Written, Problem> {
        let fingerprint = fingerprint(&intent);
        let Intent { ns, key, op, preconditions, idempotency_key, level, session } = intent;
        let deadline = self.deadline();
        let command = WriteCommand { ns, key, op, preconditions, idempotency_key, fingerprint, level, session, deadline };
        let late = Refusal::OutcomeUnknown { detail: "the daemon did not answer in time".into() };
        within(deadline, self.0.backend.write(command), late).await
    }
}

/// Preconditions hold in strong namespaces alone: an eventual one has nobody who could say what a key's version is now.
pub(super) fn preconditions_in(ns: &Namespace, view: &NamespaceView, mut asked: Preconditions) -> Result<Preconditions, Problem> {
    if view.mode == Mode::Eventual && !asked.is_empty() {
        return Err(wrong_mode(ns, "a conditional write"));
    }
    for matcher in [&mut asked.if_match, &mut asked.if_none_match] {
        let Some(Matcher::Versions(list)) = matcher else { continue };
        list.retain(|version| *version == revision_version(version.hlc.0));
        if list.len() > Preconditions::VERSIONS_MAX {
            return Err(Problem::malformed(format!("a write's precondition lists at most {} versions", Preconditions::VERSIONS_MAX)));
        }
    }
    Ok(asked)
}

/// Values are kept as they come and given back without a coding, so a coded or partial one would come back wrong.
pub(super) fn check_content(headers: &HeaderMap) -> Result<(), Problem> {
    let is_coded = |field: &HeaderValue| !field.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
    if headers.get_all(CONTENT_ENCODING).iter().any(is_coded) {
        let problem = Kind::UnsupportedMedia.because("a value is kept as it comes; send it without `Content-Encoding`");
        return Err(problem.with_field(HeaderName::from_static("accept-encoding"), HeaderValue::from_static("identity")));
    }
    if headers.contains_key(CONTENT_RANGE) {
        // RFC 9110 section 14.5.
        return Err(Problem::malformed("a value is written as a whole; `Content-Range` is not taken"));
    }
    Ok(())
}

fn content_type(headers: &HeaderMap) -> Result<Option<Arc<str>>, Problem> {
    content_type_of(fields::text(headers, &CONTENT_TYPE)?)
}

/// A content type that is kept beside a value.
pub(super) fn content_type_of(text: Option<&str>) -> Result<Option<Arc<str>>, Problem> {
    match text {
        Some(text) if text.bytes().any(|b| b.is_ascii_control() || !b.is_ascii()) => {
            Err(Problem::malformed("a content type is visible ASCII"))
        }
        Some(text) if text.len() > CONTENT_TYPE_BYTES_MAX => {
            Err(Problem::malformed(format!("a `Content-Type` has at most {CONTENT_TYPE_BYTES_MAX} bytes")))
        }
        text => Ok(text.filter(|text| !text.is_empty()).map(Arc::from)),
    }
}

pub(super) fn written_headers(receipt: &Receipt, repeated: bool) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(8);
    fields::put_receipt(&mut headers, receipt);
    if repeated {
        headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    headers
}

/// xxh3-128 over everything that says what is to be done, each part with its length. Needed only under an `Idempotency-Key`.
fn fingerprint(intent: &Intent) -> u128 {
    if intent.idempotency_key.is_none() {
        return 0;
    }
    let mut hash = Xxh3::new();
    let mut part = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(intent.ns.as_str().as_bytes());
    part(intent.key.as_bytes());
    match &intent.op {
        WriteOp::Delete => part(b"delete"),
        WriteOp::Put { value, content_type, ttl } => {
            part(b"put");
            part(value);
            part(content_type.as_deref().unwrap_or("").as_bytes());
            part(&ttl.as_ref().map_or(u128::MAX, Duration::as_millis).to_le_bytes());
        }
    }
    for matcher in [&intent.preconditions.if_match, &intent.preconditions.if_none_match] {
        part(&matcher_bytes(matcher.as_ref()));
    }
    if let Some(fence) = &intent.preconditions.fence {
        part(fence.lock.as_bytes());
        part(&fence.token.to_le_bytes());
    }
    hash.digest128()
}

fn matcher_bytes(matcher: Option<&Matcher>) -> Vec<u8> {
    match matcher {
        None => Vec::new(),
        Some(Matcher::Any) => b"*".to_vec(),
        Some(Matcher::Versions(list)) => list.iter().flat_map(|version| format!("{version},").into_bytes()).collect(),
    }
}
