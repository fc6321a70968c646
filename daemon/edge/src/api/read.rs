//! Reads: at a glance where the answer is in memory, otherwise by asking the backend.

use std::borrow::Cow;

use bytes::BufMut;
use http::header::{
    ACCEPT_RANGES, AGE, AUTHORIZATION, CACHE_CONTROL, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use isochrone_ident::{Key, Namespace, WallMicros};
use tokio::time::Instant;

use super::{Api, Asked, header_bytes, level_in, remember, remembered, within, without_body, wrong_mode};
use crate::auth::Right;
use crate::body::ResponseBody;
use crate::command::{Glance, Level, Matcher, Mode, NamespaceView, Object, ReadCommand, Refusal, Served, Source};
use crate::fields::{self, CACHE_STATUS, ISOCHRONE_CONSISTENCY, ISOCHRONE_SESSION};
use crate::problem::{Kind, PROBLEM_JSON, Problem};
use crate::range::{Wanted, wanted};
use crate::route::namespace_and_key;
use crate::session::SessionToken;

/// The kv route's place in the table.
const KV: usize = 0;
const PREFIX: &str = "/v1/kv/";
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// What a read's header fields ask for beside the value.
#[derive(Debug, Default)]
struct Conditions {
    if_match: Option<Matcher>,
    if_none_match: Option<Matcher>,
    range: Option<HeaderValue>,
    if_range: Option<HeaderValue>,
}

/// A read, understood but for its deadline.
pub(super) struct Look {
    pub(super) ns: Namespace,
    pub(super) key: Key,
    pub(super) level: Level,
    pub(super) for_update: bool,
    pub(super) session: Option<SessionToken>,
}

impl Conditions {
    /// `Range` counts for GET alone (RFC 9110 section 14.2).
    fn of(method: &Method, headers: &HeaderMap) -> Self {
        let range = if *method == Method::GET { headers.get(RANGE).cloned() } else { None };
        let if_range = range.as_ref().and_then(|_| headers.get(IF_RANGE).cloned());
        Self { if_match: fields::matcher(headers, &IF_MATCH), if_none_match: fields::matcher(headers, &IF_NONE_MATCH), range, if_range }
    }

    /// The part that is asked for. An `If-Range` that is not this version's validator asks for all (section 13.1.5).
    fn part(&self, object: &Object) -> Wanted {
        let Some(range) = &self.range else { return Wanted::Whole };
        let is_current =
            self.if_range.as_ref().is_none_or(|tag| fields::version(tag.as_bytes().trim_ascii(), false) == Some(object.version));
        if is_current { wanted(range.as_bytes(), object.value.len()) } else { Wanted::Whole }
    }
}

impl Api {
    /// The hot path: a read at the namespace's own level of a key that the backend has at hand. `None`: take the long way, from the start.
    ///
    /// The request's header map becomes the answer's, so that none is allocated. (The request is only changed when there is an answer.)
    pub(crate) fn glance<B>(&self, request: &mut Request<B>) -> Option<Response<ResponseBody>> {
        let is_read = *request.method() == Method::GET || *request.method() == Method::HEAD;
        if !is_read || request.uri().query().is_some() || !self.is_plain(request.headers()) {
            return None;
        }
        let started = Instant::now();
        let (ns, key) = request.uri().path().strip_prefix(PREFIX)?.split_once('/')?;
        if key.is_empty() || key.len() > Key::BYTES_MAX || key.contains('%') {
            return None;
        }
        let ns = remembered(ns)?;
        let may = self.0.auth.is_none() || self.0.auth.identify(request.headers()).is_ok_and(|who| who.may(Right::Read, Some(ns.as_str())));
        if !may || self.0.backend.namespace(&ns)?.mode != Mode::Eventual {
            return None;
        }
        let session = glanced_session(request.headers())?;
        let Glance::Answer(served) = self.0.backend.glance(&ns, key.as_bytes(), Level::Local, session) else { return None };
        let method = request.method().clone();
        let conditions = Conditions::of(&method, request.headers());
        let mut headers = std::mem::take(request.headers_mut());
        headers.clear();
        let response = render(&method, &conditions, served, self.now(), headers);
        self.0.meter.count(self.0.meter.index(Some(KV)), &method, response.status(), started.elapsed());
        Some(response)
    }

    /// Nothing in the header asks for the long way.
    fn is_plain(&self, headers: &HeaderMap) -> bool {
        let limits = &self.0.limits;
        headers.len() <= limits.headers
            && header_bytes(headers, 0) + Key::BYTES_MAX * 3 <= limits.header_bytes
            && !headers.contains_key(ISOCHRONE_CONSISTENCY)
            && (self.0.auth.is_none() || headers.contains_key(AUTHORIZATION))
    }

    /// The long way.
    pub(super) async fn read(&self, asked: Asked) -> Result<Response<ResponseBody>, Problem> {
        let (ns, key) = namespace_and_key(&asked.tail)?;
        let view = self.enter(&asked.identity, Right::Read, &ns)?;
        remember(&ns);
        let level = level_in(&ns, &view, fields::level(&asked.parts.headers, asked.query.text("consistency")?)?)?;
        let for_update = for_update(&ns, &view, level, asked.query.text("for")?)?;
        let conditions = Conditions::of(&asked.parts.method, &asked.parts.headers);
        let served = self.serve(Look { ns, key, level, for_update, session: asked.session }).await?;
        Ok(render(&asked.parts.method, &conditions, served, self.now(), HeaderMap::with_capacity(12)))
    }

    /// The backend's answer to a read: at a glance, or by asking.
    pub(super) async fn serve(&self, look: Look) -> Result<Served, Problem> {
        let Look { ns, key, level, for_update, session } = look;
        let glance = || self.0.backend.glance(&ns, key.as_bytes(), level, session.as_ref().map(SessionToken::as_str));
        match if for_update { Glance::Ask } else { glance() } {
            Glance::Answer(served) => Ok(served),
            Glance::Ask => {
                let deadline = self.deadline();
                let command = ReadCommand { ns, key, level, for_update, session, deadline };
                within(deadline, self.0.backend.read(command), Refusal::DeadlineBefore).await
            }
        }
    }
}

/// Whether a read asks for the promise of the write that will follow it.
fn for_update(ns: &Namespace, view: &NamespaceView, level: Level, asked: Option<&str>) -> Result<bool, Problem> {
    match asked {
        None => Ok(false),
        Some("update") if view.mode == Mode::Eventual => Err(wrong_mode(ns, "a read for update")),
        Some("update") if level == Level::Local => Err(Problem::malformed("a read for update is strong: leave `consistency=local` out")),
        Some("update") => Ok(true),
        Some(other) => Err(Problem::malformed(format!("`for` is `update` or is left out, not `{}`", other.escape_debug()))),
    }
}

/// The session token of a request that is answered at a glance; `None`: one that the long way has to say no to.
fn glanced_session(headers: &HeaderMap) -> Option<Option<&str>> {
    let mut fields = headers.get_all(ISOCHRONE_SESSION).iter();
    let Some(field) = fields.next() else { return Some(None) };
    let is_one = fields.next().is_none() && SessionToken::fits(field.as_bytes());
    if is_one { field.to_str().ok().map(Some) } else { None }
}

/// The answer to a read; `headers` is empty and becomes its header.
fn render(method: &Method, conditions: &Conditions, served: Served, now: WallMicros, mut headers: HeaderMap) -> Response<ResponseBody> {
    headers.reserve(12);
    fields::put_receipt(&mut headers, &served.receipt);
    let left = served.object.as_ref().and_then(|object| object.expires_at).map(|at| at.0.saturating_sub(now.0) / 1_000_000);
    headers.insert(CACHE_STATUS, cache_status(served.source, left));
    let Some(object) = served.object else { return absent(method, headers, "the key is absent: never written, deleted or expired") };
    headers.insert(ETAG, fields::value(|out| fields::put_etag(out, &object.version)));
    if conditions.if_match.as_ref().is_some_and(|matcher| !matcher.matches(Some(&object.version))) {
        let current = Some(object.version);
        return with_problem(method, headers, Refusal::PreconditionFailed { current }.into());
    }
    headers.insert(AGE, fields::value(|out| fields::put_decimal(out, served.receipt.age_ms.unwrap_or(0) / 1000)));
    if let Some(left) = left {
        headers.insert(CACHE_CONTROL, fields::value(|out| put_labelled(out, b"max-age=", left)));
    }
    if conditions.if_none_match.as_ref().is_some_and(|matcher| matcher.matches(Some(&object.version))) {
        return super::empty(StatusCode::NOT_MODIFIED, headers);
    }
    present(method, conditions, object, headers)
}

fn present(method: &Method, conditions: &Conditions, object: Object, mut headers: HeaderMap) -> Response<ResponseBody> {
    let length = object.value.len();
    let (status, value) = match conditions.part(&object) {
        Wanted::Whole => (StatusCode::OK, object.value),
        Wanted::Part { from, to } => {
            headers.insert(CONTENT_RANGE, content_range(Some((from, to)), length));
            (StatusCode::PARTIAL_CONTENT, object.value.slice(from..to))
        }
        Wanted::Outside => {
            headers.insert(CONTENT_RANGE, content_range(None, length));
            return with_problem(method, headers, Kind::RangeNotSatisfiable.because(format!("the value has {length} bytes")));
        }
    };
    headers.insert(CONTENT_TYPE, object.content_type.map_or(OCTETS, |text| fields::value(|out| out.put_slice(text.as_bytes()))));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let mut response = Response::new(ResponseBody::whole(value));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if *method == Method::HEAD { without_body(response) } else { response }
}

pub(super) fn absent(method: &Method, headers: HeaderMap, detail: impl Into<Cow<'static, str>>) -> Response<ResponseBody> {
    with_problem(method, headers, Kind::NotFound.because(detail))
}

/// A problem that keeps what the header says already.
pub(super) fn with_problem(method: &Method, headers: HeaderMap, problem: Problem) -> Response<ResponseBody> {
    let mut response = problem.into_response();
    response.headers_mut().extend(headers);
    response.headers_mut().insert(CONTENT_TYPE, PROBLEM_JSON);
    if *method == Method::HEAD { without_body(response) } else { response }
}

/// RFC 9211: whether this daemon answered from what it holds, and for how long the answer is good.
pub(super) fn cache_status(source: Source, left: Option<u64>) -> HeaderValue {
    match (source, left) {
        (Source::Hit, None) => HeaderValue::from_static("isochrone; hit"),
        (Source::Hit, Some(left)) => fields::value(|out| put_labelled(out, b"isochrone; hit; ttl=", left)),
        (Source::ForwardedMiss, _) => HeaderValue::from_static("isochrone; fwd=uri-miss"),
        (Source::ForwardedRequest, _) => HeaderValue::from_static("isochrone; fwd=request"),
    }
}

pub(super) fn put_labelled(out: &mut bytes::BytesMut, label: &[u8], number: u64) {
    out.put_slice(label);
    fields::put_decimal(out, number);
}

fn content_range(part: Option<(usize, usize)>, length: usize) -> HeaderValue {
    fields::value(|out| {
        out.put_slice(b"bytes ");
        match part {
            Some((from, to)) => {
                fields::put_decimal(out, from as u64);
                out.put_u8(b'-');
                fields::put_decimal(out, to as u64 - 1);
            }
            None => out.put_u8(b'*'),
        }
        out.put_u8(b'/');
        fields::put_decimal(out, length as u64);
    })
}
