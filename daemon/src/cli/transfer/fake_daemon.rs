//! A daemon as far as import and export can see one: `/v1/kv` in memory, with faults on order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// A stored value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) value: Bytes,
    pub(super) content_type: String,
    pub(super) ttl: Option<String>,
}

/// What goes wrong with a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// 503: nothing was applied.
    NothingApplied,
    /// 504, and it was applied.
    AppliedButUnknown,
    /// The connection ends without an answer, and it was applied.
    AppliedButCutOff,
    /// 413: never.
    TooLarge,
}

/// What the daemon has seen and holds.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Keys, the bytes behind the percent-encoding.
    pub(super) keys: BTreeMap<Vec<u8>, Stored>,
    /// Faults to come, by key, each used up once.
    pub(super) faults: BTreeMap<Vec<u8>, Vec<Fault>>,
    /// Writes received, by key: their idempotency keys.
    pub(super) writes: BTreeMap<Vec<u8>, Vec<String>>,
    /// Writes that changed something: no idempotency key was there before.
    pub(super) applied: usize,
}

/// A running fake.
#[derive(Debug, Clone)]
pub(super) struct FakeDaemon {
    pub(super) address: SocketAddr,
    pub(super) state: Arc<Mutex<State>>,
}

impl FakeDaemon {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let fake = Self { address: listener.local_addr().expect("an address"), state: Arc::default() };
        let state = Arc::clone(&fake.state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&state);
                let service = service_fn(move |request| answer(Arc::clone(&state), request));
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        fake
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn holds(&self, key: &[u8]) -> Option<Stored> {
        self.state.lock().expect("not poisoned").keys.get(key).cloned()
    }

    pub(super) fn put(&self, key: &[u8], value: &'static [u8], content_type: &str) {
        let stored = Stored { value: Bytes::from_static(value), content_type: content_type.to_owned(), ttl: None };
        self.state.lock().expect("not poisoned").keys.insert(key.to_vec(), stored);
    }

    pub(super) fn fail(&self, key: &[u8], faults: &[Fault]) {
        self.state.lock().expect("not poisoned").faults.insert(key.to_vec(), faults.to_vec());
    }
}

type Answer = Response<Full<Bytes>>;

async fn answer(state: Arc<Mutex<State>>, request: Request<Incoming>) -> Result<Answer, std::io::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).map_err(std::io::Error::other)?;
    let mut state = state.lock().expect("not poisoned");
    let Some(rest) = parts.uri.path().strip_prefix("/v1/kv/data") else { return Ok(problem(StatusCode::NOT_FOUND, "no-such-namespace")) };
    let key: Vec<u8> = percent_encoding::percent_decode(rest.trim_start_matches('/').as_bytes()).collect();
    match (&parts.method, key.is_empty()) {
        (&Method::GET, true) => Ok(list(&state, parts.uri.query().unwrap_or_default())),
        (&Method::GET, false) => Ok(match state.keys.get(&key) {
            None => problem(StatusCode::NOT_FOUND, "no-such-key"),
            Some(stored) => {
                Response::builder().header("content-type", &stored.content_type).body(Full::new(stored.value.clone())).expect("valid")
            }
        }),
        _ => put(&mut state, key, &parts, body),
    }
}

fn put(state: &mut State, key: Vec<u8>, parts: &http::request::Parts, value: Bytes) -> Result<Answer, std::io::Error> {
    let text = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let name = text("idempotency-key");
    let fault = state.faults.get_mut(&key).and_then(Vec::pop);
    let is_repeated = state.writes.get(&key).is_some_and(|names| names.contains(&name)) && state.keys.contains_key(&key);
    state.writes.entry(key.clone()).or_default().push(name);
    match fault {
        Some(Fault::NothingApplied) => return Ok(problem(StatusCode::SERVICE_UNAVAILABLE, "no-quorum")),
        Some(Fault::TooLarge) => return Ok(problem(StatusCode::PAYLOAD_TOO_LARGE, "too-large")),
        _ => {}
    }
    if !is_repeated {
        state.applied += 1;
        let ttl = parts.uri.query().and_then(|query| query.strip_prefix("ttl=")).map(str::to_owned);
        state.keys.insert(key, Stored { value, content_type: text("content-type"), ttl });
    }
    match fault {
        Some(Fault::AppliedButCutOff) => Err(std::io::Error::other("cut off")),
        Some(Fault::AppliedButUnknown) => Ok(problem(StatusCode::GATEWAY_TIMEOUT, "outcome-unknown")),
        _ => Ok(Response::builder().status(StatusCode::NO_CONTENT).header("etag", "\"1\"").body(Full::default()).expect("valid")),
    }
}

/// Pages of two, so that a test pages.
fn list(state: &State, query: &str) -> Answer {
    const PAGE: usize = 2;
    let parameter = |name: &str| -> Vec<u8> {
        let found = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(n, _)| *n == name).map(|(_, value)| value);
        percent_encoding::percent_decode(found.unwrap_or_default().as_bytes()).collect()
    };
    let (prefix, after) = (parameter("prefix"), parameter("after"));
    let mut left = state.keys.iter().filter(|(key, _)| key.starts_with(&prefix) && **key > after);
    let mut body = String::new();
    let mut last = Vec::new();
    for (key, stored) in left.by_ref().take(PAGE) {
        let (name, text) = super::super::keys::key_member(&isochrone_ident::Key::new(key.clone()).expect("a key"));
        let mut line = serde_json::json!({name: text, "etag": "\"1\"", "bytes": stored.value.len()});
        if stored.ttl.is_some() {
            line["expires_in_ms"] = 60_000.into();
        }
        body.push_str(&format!("{line}\n"));
        last = key.clone();
    }
    let mut answer = Response::builder();
    if left.next().is_some() {
        let (prefix, after) = (super::super::address::url_query(&prefix), super::super::address::url_query(&last));
        answer = answer.header("link", format!("</v1/kv/data?prefix={prefix}&after={after}>; rel=\"next\""));
    }
    answer.body(Full::new(body.into())).expect("valid")
}

fn problem(status: StatusCode, kind: &str) -> Answer {
    let is_retryable = matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT);
    let body = serde_json::json!({"type": format!("/problems/{kind}"), "title": kind, "status": status.as_u16(), "detail": "as ordered", "retryable": is_retryable});
    Response::builder().status(status).body(Full::new(body.to_string().into())).expect("valid")
}
