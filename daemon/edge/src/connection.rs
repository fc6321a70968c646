//! One connection, from its first byte to its last: which protocol it speaks, its limits, and how it ends.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::header::{CONNECTION, HOST};
use http::{HeaderValue, Request, Response, Version};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use metrics::{Counter, Gauge, counter, gauge};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::activity::{Activity, Verdict, Watched, Working};
use crate::body::ResponseBody;
use crate::limits::EdgeLimits;
use crate::meter::refused;
use crate::problem::{Kind, Problem};

/// What an HTTP/2 client with prior knowledge says first (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a last word to a client that is cut off may take.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What a client still sends after the last answer is read up to so many bytes.
const LINGER_BYTES_MAX: usize = 4 << 20;

/// Who answers the requests of a listener.
pub(crate) trait Handler: Clone + Send + Sync + 'static {
    /// The answer, where it can be had at once. The request is only changed when there is one.
    fn glance(&self, request: &mut Request<Incoming>) -> Option<Response<ResponseBody>>;

    /// The answer.
    fn answer(&self, request: Request<Incoming>) -> BoxFuture<'static, Response<ResponseBody>>;
}

/// How far a listener is with its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Serving,
    /// What was accepted is answered, nothing new is accepted.
    Draining,
    /// Everything is cut.
    Aborted,
}

/// What the connections of a listener share.
pub(crate) struct Shared<H> {
    pub(crate) handler: H,
    pub(crate) limits: EdgeLimits,
    pub(crate) meter: ConnectionMeter,
}

/// Counts of connections, by listener.
pub(crate) struct ConnectionMeter {
    pub(crate) open: Gauge,
    pub(crate) accepted: Counter,
    pub(crate) tls_errors: Counter,
    received: Counter,
    sent: Counter,
}

impl ConnectionMeter {
    pub(crate) fn of(listener: &'static str) -> Self {
        Self {
            open: gauge!("isochrone_http_connections", "listener" => listener),
            accepted: counter!("isochrone_http_connections_total", "listener" => listener),
            tls_errors: counter!("isochrone_http_tls_handshake_errors_total", "listener" => listener),
            received: counter!("isochrone_http_received_bytes_total", "listener" => listener),
            sent: counter!("isochrone_http_sent_bytes_total", "listener" => listener),
        }
    }
}

/// Which protocol a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
    /// To be told by the first bytes.
    Unknown,
}

/// Serves a connection until it ends.
pub(crate) async fn serve<T, H>(io: T, protocol: Protocol, shared: Arc<Shared<H>>, mut phase: watch::Receiver<Phase>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let activity = Activity::begin();
    let mut io = Watched::new(io, Arc::clone(&activity), shared.meter.received.clone(), shared.meter.sent.clone());
    let protocol = match protocol {
        Protocol::Unknown => match tell(&mut io, &shared.limits, &mut phase).await {
            Some(protocol) => protocol,
            None => return,
        },
        known => known,
    };
    let service = Answerer { handler: shared.handler.clone(), activity: Arc::clone(&activity) };
    let guard = Guard { activity, limits: shared.limits.clone(), phase };
    match protocol {
        Protocol::Http2 => guard.serve_http2(io, service).await,
        _ => guard.serve_http1(io, service).await,
    }
}

/// Tells the protocol by the first bytes, which are given back. `None`: nothing came in time, or the listener ends.
async fn tell<T: AsyncRead + Unpin>(io: &mut Watched<T>, limits: &EdgeLimits, phase: &mut watch::Receiver<Phase>) -> Option<Protocol> {
    let mut first = BytesMut::with_capacity(4096);
    let deadline = Instant::now() + limits.header_read;
    loop {
        let count = tokio::select! {
            biased;
            read = timeout_at(deadline, io.read_buf(&mut first)) => read.ok()?.ok()?,
            () = drained(phase, limits.drain_idle), if first.is_empty() => return None,
        };
        if count == 0 {
            return None;
        }
        let compared = first.len().min(PREFACE.len());
        let is_preface = first[..compared] == PREFACE[..compared];
        if !is_preface || compared == PREFACE.len() {
            io.give_back(first.freeze());
            return Some(if is_preface { Protocol::Http2 } else { Protocol::Http1 });
        }
    }
}

/// Some time after the listener has begun to drain.
async fn drained(phase: &mut watch::Receiver<Phase>, grace: Duration) {
    // An error says that the listener is gone altogether.
    if phase.wait_for(|phase| *phase != Phase::Serving).await.is_ok_and(|phase| *phase == Phase::Draining) {
        tokio::time::sleep(grace).await;
    }
}

/// How the watch over a connection ended.
enum End {
    /// It ended by itself.
    Done(Result<(), hyper::Error>),
    /// It is cut off, for that reason.
    Cut(&'static str),
}

/// Holds a connection to its limits and to its listener's end.
struct Guard {
    activity: Arc<Activity>,
    limits: EdgeLimits,
    phase: watch::Receiver<Phase>,
}

/// A hyper connection of either protocol.
trait Conduct: Future<Output = Result<(), hyper::Error>> {
    const IS_HTTP1: bool;
    /// Takes no further request, and ends after those under way.
    fn finish(self: Pin<&mut Self>);
}

impl<I, H: Handler> Conduct for http1::Connection<I, Answerer<H>>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
{
    const IS_HTTP1: bool = true;

    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, H: Handler> Conduct for http2::Connection<I, Answerer<H>, TokioExecutor>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    const IS_HTTP1: bool = false;

    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl Guard {
    async fn serve_http1<T, H>(mut self, io: Watched<T>, service: Answerer<H>)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        H: Handler,
    {
        let mut builder = http1::Builder::new();
        builder.header_read_timeout(None).max_header_size(self.limits.header_bytes_hard()).max_headers(self.limits.headers_hard());
        let mut connection = builder.serve_connection(TokioIo::new(io), service);
        let end = self.watch(Pin::new(&mut connection)).await;
        let mut io = connection.into_parts().io.into_inner();
        match end {
            End::Done(Ok(())) => {}
            End::Done(Err(error)) if error.is_parse_too_large() => refused("header_bytes"),
            End::Done(Err(error)) if error.is_parse() => refused("malformed"),
            End::Done(Err(_broken)) => return,
            End::Cut("header_slow") => last_word(&mut io).await,
            End::Cut(_) => return,
        }
        self.linger(io).await;
    }

    async fn serve_http2<T, H>(mut self, io: Watched<T>, service: Answerer<H>)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        H: Handler,
    {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        let header_bytes = u32::try_from(self.limits.header_bytes_hard()).unwrap_or(u32::MAX);
        builder.timer(TokioTimer::new()).max_concurrent_streams(self.limits.h2_streams).max_header_list_size(header_bytes);
        let connection = pin!(builder.serve_connection(TokioIo::new(io), service));
        if let End::Done(Err(error)) = self.watch(connection).await {
            tracing::debug!(%error, "an HTTP/2 connection broke");
        }
    }

    /// Drives the connection until it ends, breaks a limit, or the listener cuts it.
    async fn watch<C: Conduct>(&mut self, mut connection: Pin<&mut C>) -> End {
        let mut look = pin!(sleep_until(Instant::now() + self.limits.header_read));
        // It may have been accepted while the listener was draining already.
        self.phase.mark_changed();
        loop {
            let is_settled = self.activity.is_draining();
            tokio::select! {
                biased;
                result = connection.as_mut() => return End::Done(result),
                changed = self.phase.changed() => {
                    let phase = changed.map_or(Phase::Aborted, |()| *self.phase.borrow());
                    match phase {
                        Phase::Serving => {}
                        Phase::Draining => {
                            self.drain(connection.as_mut());
                            look.as_mut().reset(Instant::now() + self.limits.drain_idle);
                        }
                        Phase::Aborted => return End::Cut("aborted"),
                    }
                }
                () = look.as_mut() => match self.activity.verdict(&self.limits, C::IS_HTTP1) {
                    Verdict::SlowHeader => return cut("header_slow"),
                    Verdict::Idle if self.activity.is_working() => return cut("client_stalled"),
                    Verdict::Idle => return End::Cut("idle"),
                    Verdict::Until(_) if is_settled => {
                        self.finish_when_idle(connection.as_mut());
                        look.as_mut().reset(Instant::now() + self.limits.drain_idle);
                    }
                    Verdict::Until(at) => look.as_mut().reset(at),
                },
            }
        }
    }

    /// An HTTP/2 client is told at once; one of HTTP/1 with the next answer.
    fn drain<C: Conduct>(&self, connection: Pin<&mut C>) {
        self.activity.drain();
        if !C::IS_HTTP1 {
            connection.finish();
        }
    }

    /// While draining: a connection that has nothing to do ends; one in the midst of a request ends after it.
    fn finish_when_idle<C: Conduct>(&self, connection: Pin<&mut C>) {
        if !self.activity.is_in_header() {
            connection.finish();
        }
    }

    /// Reads away what the client still sends, for a short while: closing a socket with unread bytes resets it, and the reset may
    /// overtake the last answer (RFC 9112 section 9.6).
    async fn linger<T: AsyncRead + AsyncWrite + Unpin>(&self, mut io: Watched<T>) {
        // It may have been shut down already.
        let _ = timeout(LAST_WORD, io.shutdown()).await;
        if self.activity.is_eof() {
            return;
        }
        let mut sink = BytesMut::with_capacity(16 << 10);
        let mut left = LINGER_BYTES_MAX;
        let read_away = async {
            while let Ok(count @ 1..) = io.read_buf(&mut sink).await {
                sink.clear();
                left = left.saturating_sub(count);
                if left == 0 {
                    break;
                }
            }
        };
        // Running out of time is as good as an end.
        let _ = timeout(self.limits.linger, read_away).await;
    }
}

fn cut(reason: &'static str) -> End {
    refused(reason);
    End::Cut(reason)
}

/// 408 to a client whose header did not come in time. No answer is under way, so it can be written past hyper.
async fn last_word<T: AsyncWrite + Unpin>(io: &mut T) {
    let problem = Kind::TooSlow.because("the request's header came too slowly; nothing was applied");
    // A client that does not take it gets none.
    let _ = timeout(LAST_WORD, io.write_all(&bare(&problem))).await;
}

/// A problem as the bytes of an HTTP/1.1 answer that ends its connection.
pub(crate) fn bare(problem: &Problem) -> Bytes {
    let body = problem.to_json().to_string();
    let status = problem.kind.status();
    let retry = if status.as_u16() == 503 { "retry-after: 1\r\n" } else { "" };
    let text = format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n{retry}connection: close\r\n\r\n{body}",
        status.as_u16(),
        status.canonical_reason().unwrap_or(""),
        body.len()
    );
    text.into()
}

/// Answers the requests of one connection.
#[derive(Clone)]
struct Answerer<H> {
    handler: H,
    activity: Arc<Activity>,
}

impl<H: Handler> Service<Request<Incoming>> for Answerer<H> {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, mut request: Request<Incoming>) -> Answering {
        let working = self.activity.work();
        let is_http1 = request.version() < Version::HTTP_2;
        let state = match hostless(&request) {
            Some(problem) => State::Ready(Some(problem.into_response())),
            None => match self.handler.glance(&mut request) {
                Some(response) => State::Ready(Some(response)),
                None => State::Boxed(self.handler.answer(request)),
            },
        };
        Answering { state, working: Some(working), activity: Arc::clone(&self.activity), is_http1 }
    }
}

/// RFC 9112 section 3.2: a request of HTTP/1.1 has exactly one `Host`.
fn hostless<B>(request: &Request<B>) -> Option<Problem> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let is_fine = request.version() != Version::HTTP_11 || (hosts.next().is_some() && hosts.next().is_none());
    if is_fine {
        return None;
    }
    refused("malformed");
    let problem = Problem::malformed("a request of HTTP/1.1 has exactly one `Host` field");
    Some(problem.with_field(CONNECTION, HeaderValue::from_static("close")))
}

/// An answer that is there, or is being made.
struct Answering {
    state: State,
    working: Option<Working>,
    activity: Arc<Activity>,
    is_http1: bool,
}

enum State {
    Ready(Option<Response<ResponseBody>>),
    Boxed(BoxFuture<'static, Response<ResponseBody>>),
}

impl Future for Answering {
    type Output = Result<Response<ResponseBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut response = match &mut self.state {
            State::Boxed(answer) => std::task::ready!(answer.as_mut().poll(cx)),
            State::Ready(response) => response.take().expect("hyper polls an answer to its end once"),
        };
        if let Some(working) = self.working.take() {
            response.body_mut().hold(working);
        }
        if self.is_http1 && self.activity.is_draining() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Poll::Ready(Ok(response))
    }
}
