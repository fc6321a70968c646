//! Taking in a request's body: never more than allowed, never slower than allowed.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{HeaderMap, HeaderValue};
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::time::{Instant, timeout_at};

use crate::budget::{BodyBudget, Held};
use crate::command::Refusal;
use crate::limits::EdgeLimits;
use crate::meter::refused;
use crate::problem::{Kind, Problem};

/// No more than this is set aside for a body before it has come.
const AHEAD_BYTES_MAX: usize = 256 << 10;

/// What the API needs of a body: hyper's own, or one in memory.
pub trait RequestBody: Body<Data = Bytes, Error: std::fmt::Display> + Send + Unpin + 'static {}

impl<B: Body<Data = Bytes, Error: std::fmt::Display> + Send + Unpin + 'static> RequestBody for B {}

/// A body that is all here.
#[derive(Debug)]
pub(crate) struct Upload {
    pub(crate) bytes: Bytes,
    /// Its part of the memory for bodies; to be kept until nobody needs the bytes any more.
    pub(crate) held: Held,
}

/// The whole body. Refused as soon as it is known to be too large, or to find no room: by its `Content-Length`, without reading any of it, or
/// while it comes.
pub(crate) async fn whole<B: RequestBody>(
    headers: &HeaderMap,
    mut body: B,
    bytes_max: u64,
    limits: &EdgeLimits,
    budget: &BodyBudget,
) -> Result<Upload, Problem> {
    let announced = announced(headers).or(body.size_hint().exact());
    check_length(announced, bytes_max)?;
    let mut held = budget.hold(announced.unwrap_or(0))?;
    let mut pace = Pace::start(limits);
    let Some(first) = next(&mut body, &mut pace).await? else { return Ok(Upload { bytes: Bytes::new(), held }) };
    take_in(&mut held, announced, first.len() as u64, bytes_max)?;
    if body.is_end_stream() || announced == Some(first.len() as u64) {
        return Ok(Upload { bytes: first, held });
    }
    let mut all = BytesMut::with_capacity(announced.map_or(first.len() * 2, |length| (length as usize).min(AHEAD_BYTES_MAX)));
    all.extend_from_slice(&first);
    while let Some(bytes) = next(&mut body, &mut pace).await? {
        take_in(&mut held, announced, (all.len() + bytes.len()) as u64, bytes_max)?;
        all.extend_from_slice(&bytes);
    }
    Ok(Upload { bytes: all.freeze(), held })
}

/// 413 where the length, so far as it is known, is more than allowed.
pub(crate) fn check_length(length: Option<u64>, bytes_max: u64) -> Result<(), Problem> {
    if length.is_some_and(|length| length > bytes_max) { Err(too_large(bytes_max)) } else { Ok(()) }
}

/// Holds what has come so far, and not less than what was announced.
fn take_in(held: &mut Held, announced: Option<u64>, so_far: u64, bytes_max: u64) -> Result<(), Problem> {
    check_length(Some(so_far), bytes_max)?;
    held.hold(so_far.max(announced.unwrap_or(0)))
}

/// The next bytes of the body; `None` at its end.
pub(crate) async fn next<B: RequestBody>(body: &mut B, pace: &mut Pace) -> Result<Option<Bytes>, Problem> {
    loop {
        let frame = timeout_at(pace.deadline(), body.frame()).await.map_err(|_| too_slow())?;
        match frame.map(|frame| frame.map(hyper::body::Frame::into_data)) {
            None => return Ok(None),
            Some(Ok(Ok(bytes))) => {
                pace.took(bytes.len());
                return Ok(Some(bytes));
            }
            Some(Ok(Err(_trailers))) => {}
            Some(Err(error)) => return Err(Problem::malformed(format!("the body broke off: {error}"))),
        }
    }
}

/// How late the next bytes may be.
#[derive(Debug)]
pub(crate) struct Pace {
    started: Instant,
    last: Instant,
    bytes: u64,
    idle: Duration,
    grace: Duration,
    /// Bytes a second; 0: only silences count.
    rate: u64,
}

impl Pace {
    pub(crate) fn start(limits: &EdgeLimits) -> Self {
        let now = Instant::now();
        Self { started: now, last: now, bytes: 0, idle: limits.body_idle, grace: limits.body_grace, rate: limits.body_rate }
    }

    /// For bodies that a client makes as it goes: only silences count.
    pub(crate) fn of_stream(limits: &EdgeLimits) -> Self {
        Self { rate: 0, ..Self::start(limits) }
    }

    /// The silence counts from now on.
    pub(crate) fn wait_anew(&mut self) {
        self.last = Instant::now();
    }

    fn took(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.last = Instant::now();
    }

    fn deadline(&self) -> Instant {
        let silent = self.last + self.idle;
        match (self.bytes.saturating_mul(1000)).checked_div(self.rate) {
            Some(earned_ms) => silent.min(self.started + self.grace + Duration::from_millis(earned_ms)),
            None => silent,
        }
    }
}

/// The length that the header announces.
pub(crate) fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// 413.
pub(crate) fn too_large(bytes_max: u64) -> Problem {
    refused("body_bytes");
    Problem::from(Refusal::ValueTooLarge { bytes_max })
}

fn too_slow() -> Problem {
    refused("body_slow");
    let detail = "the body came too slowly (`body_idle`, `body_rate` of the listener's limits); nothing was applied";
    Kind::TooSlow.because(detail).with_field(CONNECTION, HeaderValue::from_static("close"))
}
