//! Batches: NDJSON in, NDJSON out. Lines are worked on side by side, answers go out in order, and one bad line fails alone.
//!
//! ```text
//!   body --> Lines --> one future a line, at most `batch_ahead` --> answers in order --> body of the response
//! ```
//!
//! A batch whose length is announced is refused at once where it is too long or finds no room. Where it is not, the answers have begun by then,
//! so the last line's answer says it.
//!
//! Nothing is read while `batch_ahead` lines wait, so a client must read while it sends. Lines for one key run one after the other, and each
//! sees what those before it did, also where the backend's answers come from several replicas: it is asked with their session token (E9).
//!
//! An answer's `session` stands for the whole batch up to it, so that the last one's is the one to keep.

mod line;
mod lines;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{self, FuturesOrdered, StreamExt};
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use tokio::sync::oneshot;

pub(super) use self::line::text_or_base64;
use self::line::{LineAnswer, LineRequest, Place, Worker, parse};
use self::lines::{Line, Lines, Memory};
use super::{Api, Asked};
use crate::body::ResponseBody;
use crate::fields;
use crate::limits::EdgeLimits;
use crate::meter::refused;
use crate::problem::{Kind, Problem};
use crate::session::SessionToken;
use crate::upload::{self, RequestBody};

/// The last is what `curl -d` calls whatever it sends.
const TYPES: [&str; 5] =
    ["application/x-ndjson", "application/ndjson", "application/jsonl", "application/json", "application/x-www-form-urlencoded"];

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
            session: None,
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
    last_of_key: BTreeMap<Place, (u64, oneshot::Receiver<Option<SessionToken>>)>,
    /// What the answers given so far stand for.
    session: Option<Arc<str>>,
    count: u64,
    is_ended: bool,
}

/// A line that has been answered.
struct Done {
    answer: LineAnswer,
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
    async fn next_answer(&mut self) -> Option<LineAnswer> {
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
                let done = Done { answer: LineAnswer::refused("unknown", &problem), bytes, number, place: None };
                self.ahead.push_back(std::future::ready(done).boxed());
            }
        }
    }

    fn begin(&mut self, request: LineRequest, bytes: usize, number: u64) {
        let place = request.place();
        let (end, ended) = oneshot::channel();
        let before = self.last_of_key.insert(place.clone(), (number, ended)).map(|(_, ended)| ended);
        let worker = self.worker.clone();
        let work = async move {
            let seen = match before {
                // An error only says that the line before is done and dropped.
                Some(before) => before.await.ok().flatten(),
                None => None,
            };
            let answer = worker.answer(request, seen.clone()).await;
            let own = answer.session.as_ref().and_then(|text| SessionToken::new(Arc::clone(text)).ok());
            // Nobody may wait for it.
            let _ = end.send(own.or(seen));
            Done { answer, bytes, number, place: Some(place) }
        };
        self.ahead.push_back(work.boxed());
    }

    fn finish(&mut self, mut done: Done) -> LineAnswer {
        self.ahead_bytes -= done.bytes;
        if let Some(place) = done.place
            && self.last_of_key.get(&place).is_some_and(|(number, _)| *number == done.number)
        {
            self.last_of_key.remove(&place);
        }
        if let Some(newer) = &done.answer.session {
            let joined = self.session.as_ref().map(|held| self.worker.api.0.backend.join_sessions(held, newer));
            self.session = Some(joined.unwrap_or_else(|| Arc::clone(newer)));
        }
        done.answer.session = self.session.clone();
        done.answer
    }
}

fn push_line(chunk: &mut Vec<u8>, answer: &LineAnswer) {
    let start = chunk.len();
    if let Err(error) = serde_json::to_writer(&mut *chunk, answer) {
        chunk.truncate(start);
        let problem = Kind::Internal.because(format!("the answer is no JSON: {error}"));
        chunk.extend_from_slice(serde_json::json!({ "status": 500, "problem": problem.to_json() }).to_string().as_bytes());
    }
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
