//! One HTTP client for every command that talks to a daemon: keep-alive connections, bounded answers, and retries that
//! repeat a write under its own `Idempotency-Key`, so that it is applied once however often it is sent.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue, RETRY_AFTER};
use http::{Method, StatusCode};
use rand::Rng;
use serde_json::Value;
use tokio::io::AsyncReadExt;

use super::args::Access;
use super::failure::{Exit, Failure};

/// The largest answer that is not a value: problem bodies, listings' pages, admin documents.
const DOCUMENT_BYTES_MAX: usize = 64 << 20;
/// The most of an error's body that is read.
const PROBLEM_BYTES_MAX: usize = 64 << 10;
/// Files are sent in pieces of this size.
const PIECE_BYTES: usize = 64 << 10;

/// How patiently a request is repeated when a daemon asks for patience or cannot be reached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// How often it is sent at most, at least 1.
    pub(crate) attempts: u8,
    /// The first pause; each further one is twice as long, half of it left to chance.
    pub(crate) pause_first: Duration,
    /// The longest pause. A `Retry-After` is followed up to this too.
    pub(crate) pause_max: Duration,
}

impl Patience {
    /// Sent once.
    pub(crate) const NONE: Self = Self::of(1);

    /// Sent up to `attempts` times, with pauses from 50 ms to 2 s.
    #[must_use]
    pub(crate) const fn of(attempts: u8) -> Self {
        Self { attempts, pause_first: Duration::from_millis(50), pause_max: Duration::from_secs(2) }
    }

    fn pause(&self, attempt: u8, asked: Option<Duration>) -> Duration {
        let doubled = self.pause_first.saturating_mul(1 << attempt.min(16));
        let whole = doubled.max(asked.unwrap_or_default()).min(self.pause_max);
        whole.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

/// What a request carries.
#[derive(Debug, Clone)]
pub(crate) enum Payload {
    /// Nothing.
    Empty,
    /// These bytes.
    Bytes(Bytes),
    /// A file, read as it is sent, opened anew for each attempt.
    File(PathBuf),
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    /// The method.
    pub(crate) method: Method,
    /// Path and query, percent-encoded, from the leading slash on.
    pub(crate) path: String,
    /// Headers beside the token.
    pub(crate) headers: HeaderMap,
    /// The body.
    pub(crate) payload: Payload,
}

impl Ask {
    /// A request without headers or body.
    pub(crate) fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), headers: HeaderMap::new(), payload: Payload::Empty }
    }

    /// The same with a header.
    ///
    /// # Errors
    /// When the text cannot stand in a header.
    pub(crate) fn header(mut self, name: &'static str, text: &str) -> Result<Self, Failure> {
        let value = HeaderValue::from_str(text)
            .map_err(|_| Failure::new(Exit::Usage, format!("{text:?} cannot stand in the header {name}"), "it has control characters"))?;
        self.headers.insert(name, value);
        Ok(self)
    }

    /// The same with a body.
    #[must_use]
    pub(crate) fn payload(mut self, payload: Payload) -> Self {
        self.payload = payload;
        self
    }

    fn is_write(&self) -> bool {
        !self.method.is_safe()
    }
}

/// Why one attempt gave no answer that can be used.
enum Fault {
    /// It cannot be sent at all; repeating would not help.
    Final(Failure),
    /// It may help to repeat it, after the pause that was asked for.
    Passing(Failure, Option<Duration>),
}

/// A daemon's HTTP API.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<HeaderValue>,
    patience: Patience,
}

impl Client {
    /// A client of the API at `url`. Nothing is sent yet.
    ///
    /// # Errors
    /// When the URL, the token or the CA file is not what it should be.
    pub(crate) fn new(url: &str, access: &Access, patience: Patience, connections: usize) -> Result<Self, Failure> {
        Self::bounded(url, access, patience, connections, |builder| builder.timeout(access.timeout))
    }

    /// A client for answers that tell how far something is: `--timeout` bounds each pause in them, not the whole.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub(crate) fn following(url: &str, access: &Access) -> Result<Self, Failure> {
        Self::bounded(url, access, Patience::NONE, 1, |builder| builder.read_timeout(access.timeout))
    }

    fn bounded(
        url: &str,
        access: &Access,
        patience: Patience,
        connections: usize,
        bound: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
    ) -> Result<Self, Failure> {
        if !(url.starts_with("http://") || url.starts_with("https://")) {
            return Err(Failure::new(Exit::Usage, format!("{url:?} is no URL of a daemon"), "it starts with http:// or https://"));
        }
        let mut builder = bound(reqwest::Client::builder())
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tcp_nodelay(true)
            .connect_timeout(access.timeout.min(Duration::from_secs(5)))
            .pool_max_idle_per_host(connections);
        if let Some(path) = &access.ca_file {
            builder = builder.tls_certs_only(certificates(path)?);
        } else if url.starts_with("http://") {
            // No roots are needed, and a machine without any is no reason to refuse.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(|error| Failure::failed("cannot set up the HTTP client", chain(&error)))?;
        let base = url.trim_end_matches('/').to_owned();
        Ok(Self { http, base, token: bearer(access)?, patience })
    }

    /// Sends a request until it is answered or patience ends, and gives back an answer of success, its body unread.
    ///
    /// # Errors
    /// What the last attempt met. Any status from 400 on is a failure.
    pub(crate) async fn send(&self, ask: &Ask) -> Result<reqwest::Response, Failure> {
        let mut attempt = 0;
        loop {
            let (failure, asked) = match self.once(ask).await {
                Ok(answer) => return Ok(answer),
                Err(Fault::Final(failure)) => return Err(failure),
                Err(Fault::Passing(failure, asked)) => (failure, asked),
            };
            attempt += 1;
            if attempt >= self.patience.attempts {
                return Err(failure);
            }
            tokio::time::sleep(self.patience.pause(attempt - 1, asked)).await;
        }
    }

    /// Sends a request and reads the whole answer, at most 64 MiB.
    ///
    /// # Errors
    /// As [`Client::send`], and when the answer breaks off.
    pub(crate) async fn document(&self, ask: &Ask) -> Result<(HeaderMap, Vec<u8>), Failure> {
        let answer = self.send(ask).await?;
        let headers = answer.headers().clone();
        let (body, is_whole) = read_bounded(answer, DOCUMENT_BYTES_MAX).await.map_err(|error| self.broke_off(&error))?;
        if is_whole { Ok((headers, body)) } else { Err(Failure::failed("the answer is too large", "more than 64 MiB")) }
    }

    /// Sends a request and reads the answer as JSON; an empty one is null.
    ///
    /// # Errors
    /// As [`Client::document`], and when it is no JSON.
    pub(crate) async fn json(&self, ask: &Ask) -> Result<Value, Failure> {
        let (_, body) = self.document(ask).await?;
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body)
            .map_err(|error| Failure::failed(format!("{}{} did not answer in JSON", self.base, ask.path), error.to_string()))
    }

    /// An answer that stopped before its end.
    pub(crate) fn broke_off(&self, error: &reqwest::Error) -> Failure {
        Failure::new(Exit::Unreachable, format!("the answer of {} broke off", self.base), chain(error))
    }

    async fn once(&self, ask: &Ask) -> Result<reqwest::Response, Fault> {
        let mut request = self.http.request(ask.method.clone(), format!("{}{}", self.base, ask.path)).headers(ask.headers.clone());
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token.clone());
        }
        request = match &ask.payload {
            Payload::Empty => request,
            Payload::Bytes(bytes) => request.body(bytes.clone()),
            Payload::File(path) => with_file(request, path).await.map_err(Fault::Final)?,
        };
        match request.send().await {
            Ok(answer) if answer.status().is_client_error() || answer.status().is_server_error() => Err(refused(answer).await),
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.unanswered(ask, &error)),
        }
    }

    fn unanswered(&self, ask: &Ask, error: &reqwest::Error) -> Fault {
        if error.is_builder() {
            return Fault::Final(Failure::new(Exit::Usage, format!("cannot ask {}", self.base), chain(error)));
        }
        let failure = if error.is_connect() || !ask.is_write() {
            Failure::new(Exit::Unreachable, format!("no daemon answers at {}", self.base), chain(error))
                .advise("Is it running? Another address is given by --url or --admin-url (ISOCHRONE_URL, ISOCHRONE_ADMIN_URL).")
        } else {
            Failure::new(Exit::OutcomeUnknown, format!("{} took the request but did not answer", self.base), chain(error))
                .advise("It may have been applied: run it again with the same --idempotency-key, or look.")
        };
        Fault::Passing(failure, None)
    }
}

async fn refused(answer: reqwest::Response) -> Fault {
    let status = answer.status();
    let asked = answer.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok()).map(Duration::from_secs);
    let body = read_bounded(answer, PROBLEM_BYTES_MAX).await.map(|(body, _)| body).unwrap_or_default();
    let failure = Failure::of_answer(status.as_u16(), &body);
    let says_so = failure.problem.as_ref().and_then(|problem| problem["retryable"].as_bool());
    let is_passing = says_so.unwrap_or(matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    ));
    if is_passing { Fault::Passing(failure, asked) } else { Fault::Final(failure) }
}

/// Reads a body up to `bytes_max`; the flag says whether that was all of it.
async fn read_bounded(mut answer: reqwest::Response, bytes_max: usize) -> Result<(Vec<u8>, bool), reqwest::Error> {
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await? {
        let room = bytes_max - body.len();
        body.extend_from_slice(&piece[..piece.len().min(room)]);
        if piece.len() > room {
            return Ok((body, false));
        }
    }
    Ok((body, true))
}

/// Gives the request a file's bytes, as many as it has now; should it shrink meanwhile, the attempt fails and nothing is stored.
async fn with_file(request: reqwest::RequestBuilder, path: &Path) -> Result<reqwest::RequestBuilder, Failure> {
    let unreadable = |error| Failure::file("read", path, &error);
    let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    let length = file.metadata().await.map_err(unreadable)?.len();
    let pieces = stream::try_unfold((file, length), |(mut file, left)| async move {
        let mut piece = vec![0; PIECE_BYTES.min(usize::try_from(left).unwrap_or(PIECE_BYTES))];
        if piece.is_empty() {
            return Ok::<_, std::io::Error>(None);
        }
        let count = file.read(&mut piece).await?;
        if count == 0 {
            return Err(std::io::Error::other("the file shrank while it was read"));
        }
        piece.truncate(count);
        Ok(Some((Bytes::from(piece), (file, left - count as u64))))
    });
    Ok(request.header(CONTENT_LENGTH, length).body(reqwest::Body::wrap_stream(pieces)))
}

fn bearer(access: &Access) -> Result<Option<HeaderValue>, Failure> {
    let token = match (&access.token, &access.token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(path)) => std::fs::read_to_string(path).map_err(|error| Failure::file("read the token in", path, &error))?,
        (None, None) => return Ok(None),
    };
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
        .map_err(|_| Failure::new(Exit::Usage, "the token is none", "it has characters that a header cannot carry"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn certificates(path: &Path) -> Result<Vec<reqwest::Certificate>, Failure> {
    let pem = std::fs::read(path).map_err(|error| Failure::file("read the CA certificates in", path, &error))?;
    let wrong = || Failure::new(Exit::Usage, format!("{} has no CA certificate", path.display()), "PEM is wanted");
    let found = reqwest::Certificate::from_pem_bundle(&pem).map_err(|_| wrong())?;
    if found.is_empty() { Err(wrong()) } else { Ok(found) }
}

/// An error with all its causes; reqwest's own text often is but the least of it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        let patience = Patience::of(8);
        for attempt in 0..100 {
            let pause = patience.pause(attempt, None);
            assert!(pause <= patience.pause_max);
            assert!(pause >= patience.pause_first / 2);
        }
        assert!(patience.pause(0, Some(Duration::from_secs(3600))) <= patience.pause_max);
        assert!(patience.pause(0, Some(Duration::from_secs(1))) >= Duration::from_millis(500));
    }

    #[test]
    fn a_token_with_white_space_around_it_is_taken_and_never_shown() {
        let access = Access { token: Some(" secret\n".to_owned()), token_file: None, ca_file: None, timeout: Duration::from_secs(1) };
        let value = bearer(&access).expect("a token").expect("given");
        assert_eq!(value.to_str().expect("text"), "Bearer secret");
        assert!(!format!("{value:?}").contains("secret"));
    }
}
