//! Requests to a daemon's API as its listener would hand them over, and what the answers say.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use isochrone_edge::Api;
use isochrone_ident::Version;
use serde_json::Value;

use crate::history::{Fate, Name};

/// A request with its whole body.
pub type Call = Request<Full<Bytes>>;

/// An answer with its whole body.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The fields.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The version in `ETag`.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        self.headers.get(http::header::ETAG)?.to_str().ok().and_then(version_of)
    }

    /// What it says of a write.
    #[must_use]
    pub fn fate(&self) -> Fate {
        fate_of(self.status.as_u16(), self.version())
    }

    /// Whether it says that the key is absent: with a receipt. Without one there is no such namespace, as far as the daemon knows yet.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        self.status == StatusCode::NOT_FOUND && self.text("isochrone-consistency").is_some()
    }

    /// A field's text.
    #[must_use]
    pub fn text(&self, field: &str) -> Option<&str> {
        self.headers.get(field)?.to_str().ok()
    }

    /// The documents of an NDJSON body.
    #[must_use]
    pub fn lines(&self) -> Vec<Value> {
        let lines = self.body.split(|&b| b == b'\n').filter(|line| !line.is_empty());
        lines.filter_map(|line| serde_json::from_slice(line).ok()).collect()
    }
}

/// What a write's answer says of it. 503 and 507 promise that nothing happened, as every 4xx does.
#[must_use]
pub fn fate_of(status: u16, version: Option<Version>) -> Fate {
    match (status, version) {
        (200..=299, Some(version)) => Fate::Acknowledged(version),
        (200..=299, None) => Fate::Done,
        (400..=499 | 501 | 503 | 507, _) => Fate::Refused,
        _ => Fate::Unknown,
    }
}

/// The version that an `etag` stands for.
#[must_use]
pub fn version_of(etag: &str) -> Option<Version> {
    etag.trim_matches('"').parse().ok()
}

/// Where a key that holds a value is.
#[must_use]
pub fn path(name: &Name) -> String {
    format!("/v1/kv/{}/{}", name.0, name.1)
}

/// A request.
#[must_use]
pub fn request(method: Method, uri: &str, fields: &[(&str, String)], body: Bytes) -> Call {
    let mut builder = Request::builder().method(method).uri(uri);
    for (name, value) in fields {
        builder = builder.header(*name, value);
    }
    builder.body(Full::new(body)).expect("a well-formed request")
}

/// Asks the daemon whose API it is.
pub async fn send(api: &Api, call: Call) -> Answer {
    let (parts, body) = api.handle(call).await.into_parts();
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(never) => match never {},
    };
    Answer { status: parts.status, headers: parts.headers, body }
}
