//! Batches: NDJSON in, NDJSON out. Lines are worked on side by side, answers go out in order, and one bad line fails alone.
//!
//! ```text
//!   body --> Lines --> one future a line, at most `batch_ahead` --> answers in order --> body of the response
//! ```
//!
//! A batch whose length is announced is refused at once where it is too long or finds no room. Where it is not, the answers have begun by then,
//! so the last line's answer says it.
//!
//! Nothing is read while `batch_ahead` lines wait, so a client must read while it sends. Lines for one key run one after the other.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{self, FuturesOrdered, StreamExt};
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use isochrone_ident::{Key, Namespace};
use metrics::counter;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use super::write::{Intent, preconditions_in};
use super::{Api, Asked, level_in, remember};
use crate::auth::{Identity, Right};
use crate::body::ResponseBody;
use crate::budget::Held;
use crate::command::{IdempotencyKey, Level, Matcher, Preconditions, Refusal, WriteOp};
use crate::fields;
use crate::limits::EdgeLimits;
use crate::meter::refused;
use crate::problem::{Kind, Problem};
use crate::session::SessionToken;
use crate::upload::{self, Pace, RequestBody};

const TYPES: [&str; 4] = ["application/x-ndjson", "application/ndjson", "application/jsonl", "application/json"];

/// Answers that are ready together leave together, up to about this many bytes.
const CHUNK_BYTES: usize = 32 << 10;

impl Api {
    pub(super) fn batch<B: RequestBody>(&self, asked: Asked, body: B) -> Result<Response<ResponseBody>, Problem> {
        check_type(asked.parts.headers.get(CONTENT_TYPE))?;
        let level = fields::level(&asked.parts.headers, asked.query.text("consistency")?)?;
        let limits = self.0.limits.clone();
        let announced = upload::announced(&asked.parts.headers).or(body.size_hint().exact());
        upload::check_length(announced, limits.batch_bytes)?;
        // No more of a batch is in memory at a time than what is worked on and one line.
        let least = announced.unwrap_or(0).min(limits.batch_ahead_bytes as u64);
        let memory = Memory { held: self.0.bodies.hold(least)?, least };
        let batch = Batch {
            worker: Worker { api: self.clone(), identity: asked.identity, level, session: asked.session },
            lines: Lines::new(body, &limits, memory),
            limits,
            ahead: FuturesOrdered::new(),
            ahead_bytes: 0,
            last_of_key: BTreeMap::new(),
            count: 0,
            is_ended: false,
        };
        let chunks = stream::unfold(batch, |mut batch| async move { Some((batch.next_chunk().await?, batch)) });
        let mut response = Response::new(ResponseBody::stream(chunks));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        Ok(response)
    }
}

fn check_type(field: Option<&HeaderValue>) -> Result<(), Problem> {
    let Some(field) = field else { return Ok(()) };
    let text = field.to_str().unwrap_or("");
    let essence = text.split(';').next().unwrap_or("").trim();
    if TYPES.iter().any(|own| own.eq_ignore_ascii_case(essence)) {
        return Ok(());
    }
    Err(Kind::UnsupportedMedia.because(format!("a batch is `application/x-ndjson`, not `{}`", essence.escape_debug())))
}

/// A batch that is being worked on.
struct Batch<B> {
    worker: Worker,
    lines: Lines<B>,
    limits: EdgeLimits,
    ahead: FuturesOrdered<BoxFuture<'static, Done>>,
    ahead_bytes: usize,
    /// For each key that a line ahead is about: the newest such line's number, and its end.
    last_of_key: BTreeMap<Place, (u64, oneshot::Receiver<()>)>,
    count: u64,
    is_ended: bool,
}

type Place = (String, String);

/// A line that has been answered.
struct Done {
    answer: Value,
    bytes: usize,
    number: u64,
    place: Option<Place>,
}

impl<B: RequestBody> Batch<B> {
    /// The answers that are ready, at least one; `None` when all have been given.
    async fn next_chunk(&mut self) -> Option<Bytes> {
        let mut chunk = Vec::with_capacity(256);
        push_line(&mut chunk, &self.next_answer().await?);
        while chunk.len() < CHUNK_BYTES {
            let Some(Some(answer)) = self.next_answer().now_or_never() else { break };
            push_line(&mut chunk, &answer);
        }
        Some(chunk.into())
    }

    /// Safe to drop half way: what was taken in stays in `self`.
    async fn next_answer(&mut self) -> Option<Value> {
        loop {
            let may_read = !self.is_ended && self.has_room();
            tokio::select! {
                biased;
                Some(done) = self.ahead.next(), if !self.ahead.is_empty() => return Some(self.finish(done)),
                line = self.lines.next(self.ahead_bytes), if may_read => self.take(line),
                else => return None,
            }
        }
    }

    fn has_room(&self) -> bool {
        self.ahead.is_empty() || (self.ahead.len() < self.limits.batch_ahead && self.ahead_bytes < self.limits.batch_ahead_bytes)
    }

    fn take(&mut self, line: Option<Line>) {
        let (bytes, parsed) = match line {
            None => return self.is_ended = true,
            Some(Line::Text(text)) => (text.len(), parse(&text)),
            Some(Line::TooLong) => (0, Err(too_long(self.limits.batch_line_bytes))),
            Some(Line::Broken(problem)) => {
                self.is_ended = true;
                (0, Err(problem))
            }
        };
        self.count += 1;
        let (bytes, parsed) = if self.count > self.limits.batch_lines as u64 {
            self.is_ended = true;
            (0, Err(too_many(self.limits.batch_lines)))
        } else {
            (bytes, parsed)
        };
        self.ahead_bytes += bytes;
        let number = self.count;
        match parsed {
            Ok(request) => self.begin(request, bytes, number),
            Err(problem) => {
                let done = Done { answer: refusal("unknown", &problem), bytes, number, place: None };
                self.ahead.push_back(std::future::ready(done).boxed());
            }
        }
    }

    fn begin(&mut self, request: LineRequest, bytes: usize, number: u64) {
        let place = (request.ns.clone(), request.key.clone().or_else(|| request.key_base64.clone()).unwrap_or_default());
        let (end, ended) = oneshot::channel::<()>();
        let before = self.last_of_key.insert(place.clone(), (number, ended)).map(|(_, ended)| ended);
        let worker = self.worker.clone();
        let work = async move {
            if let Some(before) = before {
                // An error only says that the line before is done and dropped.
                let _ = before.await;
            }
            let answer = worker.answer(request).await;
            drop(end);
            Done { answer, bytes, number, place: Some(place) }
        };
        self.ahead.push_back(work.boxed());
    }

    fn finish(&mut self, done: Done) -> Value {
        self.ahead_bytes -= done.bytes;
        if let Some(place) = done.place
            && self.last_of_key.get(&place).is_some_and(|(number, _)| *number == done.number)
        {
            self.last_of_key.remove(&place);
        }
        done.answer
    }
}

fn push_line(chunk: &mut Vec<u8>, answer: &Value) {
    chunk.extend_from_slice(answer.to_string().as_bytes());
    chunk.push(b'\n');
}

fn too_long(bytes_max: usize) -> Problem {
    refused("batch_line_bytes");
    Kind::TooLarge.because(format!("a line of a batch has at most {bytes_max} bytes"))
}

fn too_many(lines_max: usize) -> Problem {
    refused("batch_lines");
    Kind::TooLarge.because(format!("a batch has at most {lines_max} lines; this one and those after it were not carried out"))
}

fn refusal(op: &'static str, problem: &Problem) -> Value {
    counter!("isochrone_http_batch_lines_total", "op" => op, "outcome" => "refused").increment(1);
    json!({ "status": problem.kind.status_code(), "problem": problem.to_json() })
}

/// A batch's part of the memory for bodies.
pub(super) struct Memory {
    held: Held,
    /// Never less than this, so that what was announced finds its room.
    least: u64,
}

impl Memory {
    fn hold(&mut self, bytes: usize) -> Result<(), Problem> {
        self.held.hold(self.least.max(bytes as u64))
    }
}

/// Cuts a body into lines.
pub(super) struct Lines<B> {
    body: B,
    pace: Pace,
    memory: Memory,
    /// So many bytes may still come.
    body_bytes_left: u64,
    body_bytes_max: u64,
    buffer: BytesMut,
    /// So many bytes of the buffer hold no line's end.
    searched: usize,
    bytes_max: usize,
    is_skipping: bool,
    is_over: bool,
}

/// One line, or why there is none.
#[derive(Debug, PartialEq)]
pub(super) enum Line {
    /// Its text, not empty, without its end.
    Text(Bytes),
    /// It was longer than allowed, and was thrown away.
    TooLong,
    /// The body broke off; a line that was begun is not carried out. The last one.
    Broken(Problem),
}

impl<B: RequestBody> Lines<B> {
    pub(super) fn new(body: B, limits: &EdgeLimits, memory: Memory) -> Self {
        Self {
            body,
            pace: Pace::of_stream(limits),
            memory,
            body_bytes_left: limits.batch_bytes,
            body_bytes_max: limits.batch_bytes,
            buffer: BytesMut::new(),
            searched: 0,
            bytes_max: limits.batch_line_bytes,
            is_skipping: false,
            is_over: false,
        }
    }

    /// The next line; `None` after the last. `ahead_bytes` of lines that were given are still worked on. Safe to drop half way.
    pub(super) async fn next(&mut self, ahead_bytes: usize) -> Option<Line> {
        self.pace.wait_anew();
        loop {
            if let Some(line) = self.cut() {
                return Some(line);
            }
            if self.is_over {
                return None;
            }
            if let Err(problem) = self.read(ahead_bytes).await {
                self.is_over = true;
                self.buffer.clear();
                self.searched = 0;
                self.is_skipping = false;
                return Some(Line::Broken(problem));
            }
        }
    }

    /// Reads on, as far as the body's bounds allow.
    async fn read(&mut self, ahead_bytes: usize) -> Result<(), Problem> {
        self.memory.hold(self.buffer.len() + ahead_bytes)?;
        let Some(bytes) = upload::next(&mut self.body, &mut self.pace).await? else {
            self.is_over = true;
            return Ok(());
        };
        let left = self.body_bytes_left.checked_sub(bytes.len() as u64);
        self.body_bytes_left = left.ok_or_else(|| upload::too_large(self.body_bytes_max))?;
        self.memory.hold(self.buffer.len() + bytes.len() + ahead_bytes)?;
        self.buffer.extend_from_slice(&bytes);
        Ok(())
    }

    /// A line out of what is in the buffer.
    fn cut(&mut self) -> Option<Line> {
        loop {
            match self.buffer[self.searched..].iter().position(|&b| b == b'\n') {
                Some(at) => {
                    let text = self.buffer.split_to(self.searched + at).freeze();
                    self.buffer.advance(1);
                    self.searched = 0;
                    if let Some(line) = self.line(text) {
                        return Some(line);
                    }
                }
                None if self.is_over => return self.last(),
                None => {
                    self.shorten();
                    return None;
                }
            }
        }
    }

    fn last(&mut self) -> Option<Line> {
        self.searched = 0;
        let text = self.buffer.split().freeze();
        self.line(text)
    }

    /// Blank lines are no lines.
    fn line(&mut self, text: Bytes) -> Option<Line> {
        if std::mem::take(&mut self.is_skipping) || text.len() > self.bytes_max {
            return Some(Line::TooLong);
        }
        let is_blank = text.trim_ascii().is_empty();
        (!is_blank).then_some(Line::Text(text))
    }

    /// A line that is already too long is not kept.
    fn shorten(&mut self) {
        if self.is_skipping || self.buffer.len() > self.bytes_max {
            self.is_skipping = true;
            self.buffer.clear();
        }
        self.searched = self.buffer.len();
    }
}

/// What a line asks for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LineRequest {
    op: Op,
    ns: String,
    key: Option<String>,
    /// For keys that are not UTF-8.
    key_base64: Option<String>,
    text: Option<String>,
    base64: Option<String>,
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
}

impl Op {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Delete => "delete",
        }
    }
}

fn parse(text: &[u8]) -> Result<LineRequest, Problem> {
    serde_json::from_slice(text).map_err(|e| Problem::malformed(format!("the line is not a batch operation: {e}")))
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
        let (if_match, if_none_match) = (matcher(self.if_match.as_deref(), false), matcher(self.if_none_match.as_deref(), true));
        Preconditions { if_match, if_none_match, fence: None }
    }

    fn idempotency_key(&self) -> Result<Option<IdempotencyKey>, Problem> {
        let key = self.idempotency_key.as_deref().map(IdempotencyKey::new).transpose();
        key.map_err(|e| Problem::malformed(e.to_string()))
    }

    /// What belongs to a put is an error elsewhere, rather than overlooked.
    fn check_members(&self) -> Result<(), Problem> {
        let of_put = self.text.is_some() || self.base64.is_some() || self.ttl_ms.is_some();
        if self.op != Op::Put && of_put {
            return Err(Problem::malformed("`text`, `base64` and `ttl_ms` belong to a put"));
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

fn matcher(tags: Option<&str>, weak: bool) -> Option<Matcher> {
    let tags = tags?;
    if tags.trim() == "*" {
        return Some(Matcher::Any);
    }
    Some(Matcher::Versions(tags.split(',').filter_map(|tag| fields::version(tag.trim().as_bytes(), weak)).collect()))
}

/// Carries out lines.
#[derive(Clone)]
struct Worker {
    api: Api,
    identity: Identity,
    level: Option<Level>,
    session: Option<SessionToken>,
}

impl Worker {
    async fn answer(&self, request: LineRequest) -> Value {
        let op = request.op;
        match self.carry_out(request).await {
            Ok(answer) => {
                counter!("isochrone_http_batch_lines_total", "op" => op.as_str(), "outcome" => "ok").increment(1);
                Value::Object(answer)
            }
            Err(problem) => refusal(op.as_str(), &problem),
        }
    }

    async fn carry_out(&self, request: LineRequest) -> Result<Map<String, Value>, Problem> {
        request.check_members()?;
        let ns = Namespace::new(&request.ns).map_err(|e| Problem::malformed(e.to_string()))?;
        let key = request.key()?;
        if request.op == Op::Get { self.get(ns, key, &request).await } else { self.write(ns, key, &request).await }
    }

    async fn get(&self, ns: Namespace, key: Key, request: &LineRequest) -> Result<Map<String, Value>, Problem> {
        let view = self.api.enter(&self.identity, Right::Read, &ns)?;
        remember(&ns);
        let level = level_in(&ns, &view, self.level)?;
        let served = self.api.serve(ns, key, level, self.session.clone()).await?;
        let object = served.object.ok_or_else(|| Kind::NotFound.because("the key is absent"))?;
        let asked = request.preconditions();
        if asked.if_match.is_some_and(|matcher| !matcher.matches(Some(&object.version))) {
            return Err(Refusal::PreconditionFailed { current: Some(object.version) }.into());
        }
        let etag = format!("\"{}\"", object.version);
        if asked.if_none_match.is_some_and(|matcher| matcher.matches(Some(&object.version))) {
            return Ok(answer(304, Some(etag)));
        }
        let mut answer = answer(200, Some(etag));
        let (name, value) = text_or_base64(&object.value, "text", "base64");
        answer.insert(name.into(), value);
        Ok(answer)
    }

    async fn write(&self, ns: Namespace, key: Key, request: &LineRequest) -> Result<Map<String, Value>, Problem> {
        let view = self.api.enter(&self.identity, Right::Write, &ns)?;
        let level = level_in(&ns, &view, self.level)?;
        let preconditions = preconditions_in(&ns, &view, request.preconditions())?;
        let idempotency_key = request.idempotency_key()?;
        if request.op == Op::Delete {
            self.api
                .write(Intent { ns, key, op: WriteOp::Delete, preconditions, idempotency_key, level, session: self.session.clone() })
                .await?;
            return Ok(answer(204, None));
        }
        let value = request.value()?;
        if value.len() as u64 > view.value_bytes {
            return Err(Refusal::ValueTooLarge { bytes_max: view.value_bytes }.into());
        }
        let ttl = fields::effective_ttl(request.ttl_ms.map(Duration::from_millis), &view)?;
        let op = WriteOp::Put { value, content_type: None, ttl };
        let written = self.api.write(Intent { ns, key, op, preconditions, idempotency_key, level, session: self.session.clone() }).await?;
        let status = if written.created == Some(true) { 201 } else { 204 };
        Ok(answer(status, Some(format!("\"{}\"", written.version))))
    }
}

fn answer(status: u16, etag: Option<String>) -> Map<String, Value> {
    let mut answer = Map::new();
    answer.insert("status".into(), status.into());
    if let Some(etag) = etag {
        answer.insert("etag".into(), etag.into());
    }
    answer
}

/// Bytes as JSON: text where they are UTF-8, else base64, each under its own name.
pub(super) fn text_or_base64(bytes: &[u8], text: &'static str, base64: &'static str) -> (&'static str, Value) {
    match std::str::from_utf8(bytes) {
        Ok(plain) => (text, plain.into()),
        Err(_) => (base64, STANDARD.encode(bytes).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::BodyBudget;
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn limits(line: usize) -> EdgeLimits {
        EdgeLimits { batch_line_bytes: line, ..EdgeLimits::default() }
    }

    fn memory(bytes: u64) -> Memory {
        Memory { held: BodyBudget::new(bytes).hold(0).expect("nothing is held"), least: 0 }
    }

    fn lines_of(chunks: Vec<Vec<u8>>, line_max: usize) -> Vec<Line> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let frames = chunks.into_iter().map(|chunk| Ok::<_, Infallible>(Frame::data(Bytes::from(chunk))));
        runtime.block_on(async move {
            let mut lines = Lines::new(StreamBody::new(stream::iter(frames)), &limits(line_max), memory(1000));
            let mut all = Vec::new();
            while let Some(line) = lines.next(0).await {
                all.push(line);
            }
            all
        })
    }

    #[test]
    fn a_line_that_is_too_long_fails_alone() {
        let all = lines_of(vec![b"ab\n".to_vec(), b"cdefg".to_vec(), b"hij\nkl\n\n \r\nm".to_vec()], 4);
        let text = |t: &'static str| Line::Text(Bytes::from(t));
        assert_eq!(all, vec![text("ab"), Line::TooLong, text("kl"), text("m")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_falls_silent_in_the_midst_of_a_line_breaks_off_without_it() {
        let frames = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from("a\nhalf")))]).chain(stream::pending());
        let mut lines = Lines::new(StreamBody::new(frames), &limits(100), memory(1000));
        assert_eq!(lines.next(0).await, Some(Line::Text(Bytes::from("a"))));
        assert!(matches!(lines.next(0).await, Some(Line::Broken(problem)) if problem.kind == Kind::TooSlow));
        assert_eq!(lines.next(0).await, None);
    }

    #[tokio::test]
    async fn an_empty_body_has_no_lines() {
        assert_eq!(Lines::new(Full::new(Bytes::new()), &limits(9), memory(1000)).next(0).await, None);
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_the_body_is_cut(text in "[a-c\n ]{0,60}", cut in 1usize..9, longest in 1usize..12) {
            let whole = lines_of(vec![text.clone().into_bytes()], longest);
            let pieces = lines_of(text.as_bytes().chunks(cut).map(<[u8]>::to_vec).collect(), longest);
            prop_assert_eq!(whole, pieces);
        }

        #[test]
        fn no_line_panics(line in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&line);
        }

        #[test]
        fn a_value_reads_back_from_json(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let (name, value) = text_or_base64(&bytes, "text", "base64");
            let line = json!({ "op": "put", "ns": "data", "key": "k", name: value }).to_string();
            prop_assert_eq!(parse(line.as_bytes()).expect("parses").value().expect("decodes").to_vec(), bytes);
        }
    }
}
