//! Answers that say no: `application/problem+json` (RFC 9457) with stable types.
//!
//! A type is the relative URI `/problems/<name>`, which every daemon serves with the explanation below. `retryable` says whether the
//! very same request may succeed later. 503 promises that nothing happened; 504 promises nothing (the contract's conventions).

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, ETAG, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use crate::body::ResponseBody;
use crate::command::Refusal;
use crate::fields::{self, ISOCHRONE_FENCE};
use crate::operator::OperatorRefusal;

macro_rules! kinds {
    ($($kind:ident, $name:literal, $status:literal, $retryable:literal, $title:literal, $explanation:literal;)*) => {
        /// Every type of problem. Names are stable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub(crate) enum Kind { $($kind,)* }

        impl Kind {
            pub(crate) const ALL: &[Self] = &[$(Self::$kind,)*];

            /// The last part of the type's URI.
            pub(crate) const fn name(self) -> &'static str { match self { $(Self::$kind => $name,)* } }
            pub(crate) const fn status_code(self) -> u16 { match self { $(Self::$kind => $status,)* } }
            pub(crate) const fn is_retryable(self) -> bool { match self { $(Self::$kind => $retryable,)* } }
            pub(crate) const fn title(self) -> &'static str { match self { $(Self::$kind => $title,)* } }
            pub(crate) const fn explanation(self) -> &'static str { match self { $(Self::$kind => $explanation,)* } }
        }
    };
}

kinds! {
    Malformed, "malformed", 400, false, "The request is malformed", "The path, a query parameter, a header field or the body breaks its format. The detail says which and what is allowed.";
    SessionTokenInvalid, "session-token-invalid", 400, false, "The session token cannot be used", "It is damaged, longer than 1 KiB, of another cluster, or names something that has not happened yet. Send the newest `Isochrone-Session` that this cluster answered with, or none, which begins a new session.";
    ContextUnknown, "context-unknown", 400, false, "The register's context is unknown", "A put may carry the `context` of an answer for the same key, which says what it replaces. This one is of another key, of another cluster, or damaged. Read the register again, or leave the context out: the value then stands beside the others.";
    Unauthenticated, "unauthenticated", 401, false, "A token is needed", "Send `Authorization: Bearer <token>` with a token that the cluster file lists.";
    Forbidden, "forbidden", 403, false, "The token does not allow this", "The token is known, but lacks the right (read, write or admin) for this namespace. Rights stand in the cluster file.";
    CrossOrigin, "cross-origin", 403, false, "Web pages of other origins may not do this", "The request carries an `Origin` that is not this daemon's own, and no token is asked for here, so that a page on the web could have sent it in somebody's name.";
    NotFound, "not-found", 404, false, "There is no such key", "The key was never written, was deleted, or has expired.";
    NoSuchNamespace, "no-such-namespace", 404, false, "There is no such namespace", "Namespaces are declared in the cluster file and applied with `isochrone apply`.";
    NoSuchRoute, "no-such-route", 404, false, "There is nothing at this path", "`/openapi.json` lists what there is.";
    NoSuchThing, "no-such-thing", 404, false, "There is no such thing", "What the operator's request names does not exist, or is switched off in this daemon.";
    MethodNotAllowed, "method-not-allowed", 405, false, "This path does not take this method", "The `Allow` field lists the methods that it takes.";
    TooSlow, "too-slow", 408, true, "The request came too slowly", "The header or body did not arrive at the rate that the daemon's limits ask for. Nothing was applied.";
    WrongMode, "wrong-mode", 409, false, "The namespace's mode does not allow this", "A namespace is eventual or strong for good; the detail names the setting that would allow the request.";
    InProgress, "request-in-progress", 409, true, "The first request is still being worked on", "A request with this Idempotency-Key has not been answered yet. Repeat it a little later for its answer.";
    CounterOverflow, "counter-overflow", 409, false, "The counter would pass 64 bits", "A counter goes from -9223372036854775808 to 9223372036854775807. Nothing was added.";
    FieldType, "field-type", 409, false, "The field is of the other type", "A map's field is a value, which is set, or a counter, which is added to. To change which, remove the field first. Nothing was applied.";
    Conflict, "conflict", 409, false, "Not possible as things are", "The operator's request contradicts the cluster's state.";
    PreconditionFailed, "precondition-failed", 412, false, "A precondition does not hold", "If-Match or If-None-Match failed: somebody else has written. Read again and decide anew.";
    FenceStale, "fence-stale", 412, false, "The fencing token is no longer the holder's", "A write with `Isochrone-Fence` holds only while the lock's token is still the holder's, and a later holder has written this key. `Isochrone-Fence` names the highest token seen. Nothing was applied. Acquire the lock again.";
    FenceBelowFloor, "fence-below-floor", 412, false, "The fencing token cannot be judged", "The key has no token recorded for that lock, and may have forgotten one as high as `Isochrone-Fence` names. Nothing was applied. Raise the lock's token above that, then repeat the write.";
    RevisionMismatch, "revision-mismatch", 412, false, "Another revision of the cluster file is in force", "Somebody else has applied a file since this one was read. Look at what changed, then apply again.";
    TooLarge, "too-large", 413, false, "The content is too large", "It is larger than `limits.value_bytes`, the namespace's `value_bytes`, or a bound on batches: `limits.batch_bytes_max`, `limits.batch_lines_max`, or a line that could hold no allowed value. Nothing was stored of what is refused so.";
    TooManyMembers, "too-many-members", 413, false, "The key would hold too much", "Sets, maps and registers are capped, since they are merged as a whole. The detail says at how many. Spread over more keys. Nothing was applied.";
    MemberTooLong, "member-too-long", 413, false, "A member or field is too long", "The detail says how long it may be. Nothing was applied.";
    UnsupportedMedia, "unsupported-media-type", 415, false, "The content's type or coding is not taken here", "The detail says what is taken.";
    RangeNotSatisfiable, "range-not-satisfiable", 416, false, "The range lies outside the value", "`Content-Range` tells the value's length.";
    KeyReused, "idempotency-key-reused", 422, false, "The Idempotency-Key was used for another request", "Each new write needs a new key; only an identical repeat may carry an old one.";
    InvalidDocument, "invalid-document", 422, false, "The document says something that cannot be", "The detail says where and what is allowed.";
    Overloaded, "overloaded", 429, true, "Too much work is queued", "Wait as long as `Retry-After` says. Nothing was applied.";
    KeyFull, "key-full", 429, true, "The key remembers as much as it may", "A key of a strong namespace remembers which requests it has answered, so that a repeat is applied once, and the highest token of each lock that guards it. It forgets neither early. The detail says which is full. Wait as long as `Retry-After` says. Nothing was applied.";
    HeadersTooLarge, "headers-too-large", 431, false, "The header is too large", "Bounds: `limits.header_bytes`, `limits.headers`.";
    Internal, "internal", 500, false, "Something went wrong that should not", "A bug or a damaged record; the daemon's log has more.";
    NotBuilt, "not-built", 501, false, "Not built into this version yet", "The API describes it; this version does not have it. The detail says what can be had instead.";
    NoReplica, "no-replica", 503, true, "No replica could be reached", "Nothing was applied; safe to retry.";
    NoQuorum, "no-quorum", 503, true, "No majority could be reached", "Nothing was applied; safe to retry.";
    Deadline, "deadline", 503, true, "The time ran out", "Nothing was applied; safe to retry.";
    ClockSkew, "clock-skew", 503, true, "This daemon's clock is wrong", "It takes no writes until its clock is right again (500 ms from the cluster's at most). Ask another daemon. Nothing was applied.";
    NotReady, "not-ready", 503, true, "This daemon is not ready", "It is joining, leaving or full of connections. Ask another one, or try again a little later. Nothing was applied.";
    TooBusy, "too-busy", 503, true, "This daemon is reading as many bodies as it can hold", "The bodies of all requests together take the memory set aside for them (`limits.body_bytes_in_flight`). Wait as long as `Retry-After` says. Nothing was applied.";
    SessionNotCaughtUp, "session-not-caught-up", 503, true, "What this session has seen is not here yet", "The `Isochrone-Session` token stands for writes that neither this daemon nor a replica that it could reach has (`limits.session_wait`). Try again, or ask the region that was asked before. Nothing was applied.";
    NothingToObserve, "nothing-to-observe", 503, true, "No state could be had for the remove", "A remove takes away what it has seen, so it needs a state of the key: a replica, or a copy. Adds need none. Nothing was applied; safe to retry.";
    TooStale, "too-stale", 503, true, "The copy here is too old", "This daemon is no replica of the key and could reach none, and its copy is older than the namespace's `max_staleness`. Nothing was applied; safe to retry.";
    OutcomeUnknown, "outcome-unknown", 504, true, "It is not known whether it was applied", "It may yet be applied. Repeat it with the same Idempotency-Key: it is then applied once.";
    StoreFull, "store-full", 507, false, "The store is full", "The durable budget is spent. Reads go on; writes to durable namespaces wait for deletes or a larger budget.";
}

/// The media type of problems.
pub(crate) const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

impl Kind {
    pub(crate) fn status(self) -> StatusCode {
        StatusCode::from_u16(self.status_code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// A problem of this kind.
    pub(crate) fn because(self, detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem { kind: self, detail: detail.into(), retry_after: None, field: None }
    }
}

/// One problem, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) kind: Kind,
    pub(crate) detail: Cow<'static, str>,
    pub(crate) retry_after: Option<Duration>,
    /// One header field that belongs to this kind.
    pub(crate) field: Option<(HeaderName, HeaderValue)>,
}

impl Problem {
    pub(crate) fn malformed(detail: impl Into<Cow<'static, str>>) -> Self {
        Kind::Malformed.because(detail)
    }

    pub(crate) fn with_field(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.field = Some((name, value));
        self
    }

    /// 405 with the `Allow` that RFC 9110 section 15.5.6 asks for.
    pub(crate) fn method_not_allowed(allow: &str) -> Self {
        let value = HeaderValue::from_str(allow).unwrap_or(HeaderValue::from_static(""));
        Kind::MethodNotAllowed.because(format!("this path takes {allow}")).with_field(ALLOW, value)
    }

    /// 401 with the challenge of RFC 6750 section 3.
    pub(crate) fn unauthenticated(was_shown: bool) -> Self {
        let (detail, challenge) = if was_shown {
            ("the token is not one that is in force", r#"Bearer realm="isochrone", error="invalid_token""#)
        } else {
            ("send `Authorization: Bearer <token>`", r#"Bearer realm="isochrone""#)
        };
        Kind::Unauthenticated.because(detail).with_field(WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
    }

    /// The JSON object.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "type": format!("/problems/{}", self.kind.name()),
            "title": self.kind.title(),
            "status": self.kind.status_code(),
            "detail": self.detail,
            "retryable": self.kind.is_retryable(),
        })
    }

    /// The whole answer.
    pub(crate) fn into_response(self) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::whole(Bytes::from(self.to_json().to_string())));
        *response.status_mut() = self.kind.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, PROBLEM_JSON);
        if let Some(wait) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_millis().div_ceil(1000).max(1) as u64));
        }
        if let Some((name, value)) = self.field {
            headers.insert(name, value);
        }
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.to_string();
        let field = field_of(&refusal);
        let (kind, wait) = match refusal {
            Refusal::NoSuchNamespace(_) => (Kind::NoSuchNamespace, None),
            Refusal::WrongMode { .. } => (Kind::WrongMode, None),
            Refusal::PreconditionFailed { .. } => (Kind::PreconditionFailed, None),
            Refusal::FenceStale { .. } => (Kind::FenceStale, None),
            Refusal::FenceBelowFloor { .. } => (Kind::FenceBelowFloor, None),
            Refusal::RingFull { retry_after, .. } | Refusal::FencesFull { retry_after, .. } => (Kind::KeyFull, Some(retry_after)),
            Refusal::ValueTooLarge { .. } => (Kind::TooLarge, None),
            Refusal::IdempotencyKeyReused => (Kind::KeyReused, None),
            Refusal::IdempotencyKeyInUse { retry_after } => (Kind::InProgress, Some(retry_after)),
            Refusal::StoreFull { .. } => (Kind::StoreFull, None),
            Refusal::NoReplica { .. } => (Kind::NoReplica, None),
            Refusal::NoQuorum { .. } => (Kind::NoQuorum, None),
            Refusal::OutcomeUnknown { .. } => (Kind::OutcomeUnknown, None),
            Refusal::DeadlineBefore => (Kind::Deadline, None),
            Refusal::ClockSkew { .. } => (Kind::ClockSkew, None),
            Refusal::Overloaded { retry_after, .. } => (Kind::Overloaded, Some(retry_after)),
            Refusal::NotReady { .. } => (Kind::NotReady, Some(Duration::from_secs(1))),
            Refusal::NotBuilt { .. } => (Kind::NotBuilt, None),
            Refusal::Internal { .. } => (Kind::Internal, None),
            Refusal::SessionTokenInvalid { .. } => (Kind::SessionTokenInvalid, None),
            Refusal::SessionNotCaughtUp { retry_after, .. } => (Kind::SessionNotCaughtUp, Some(retry_after)),
            Refusal::TooMany { .. } => (Kind::TooManyMembers, None),
            Refusal::MemberTooLong { .. } => (Kind::MemberTooLong, None),
            Refusal::CounterOverflow => (Kind::CounterOverflow, None),
            Refusal::FieldType { .. } => (Kind::FieldType, None),
            Refusal::ContextUnknown => (Kind::ContextUnknown, None),
            Refusal::NothingToObserve { .. } => (Kind::NothingToObserve, None),
            Refusal::TooStale { .. } => (Kind::TooStale, None),
        };
        Self { retry_after: wait, field, ..kind.because(detail) }
    }
}

/// What a client that goes on after a 412 needs to know: the version, or the token, that is in its way.
fn field_of(refusal: &Refusal) -> Option<(HeaderName, HeaderValue)> {
    match refusal {
        Refusal::PreconditionFailed { current: Some(version) } => Some((ETAG, fields::value(|out| fields::put_etag(out, version)))),
        Refusal::FenceStale { lock, highest, .. } => Some((ISOCHRONE_FENCE, fields::fence_value(lock, *highest))),
        Refusal::FenceBelowFloor { lock, floor, .. } => Some((ISOCHRONE_FENCE, fields::fence_value(lock, *floor))),
        _ => None,
    }
}

impl From<OperatorRefusal> for Problem {
    fn from(refusal: OperatorRefusal) -> Self {
        let kind = match refusal {
            OperatorRefusal::NotFound(_) => Kind::NoSuchThing,
            OperatorRefusal::Invalid(_) => Kind::InvalidDocument,
            OperatorRefusal::Conflict(_) => Kind::Conflict,
            OperatorRefusal::Revision { .. } => Kind::RevisionMismatch,
            OperatorRefusal::NoQuorum(_) => Kind::NoQuorum,
            OperatorRefusal::OutcomeUnknown(_) => Kind::OutcomeUnknown,
            OperatorRefusal::Internal(_) => Kind::Internal,
            OperatorRefusal::NotBuilt(_) => Kind::NotBuilt,
        };
        kind.because(refusal.to_string())
    }
}

/// The explanation at `/problems/<name>`, or the list of all at `/problems`.
pub(crate) fn explain(name: &str) -> Option<String> {
    let kind = Kind::ALL.iter().find(|kind| kind.name() == name)?;
    let retry =
        if kind.is_retryable() { "The same request may succeed later." } else { "The same request will not succeed later by itself." };
    Some(format!("{} ({})\n\n{}\n\n{retry}\n", kind.title(), kind.status_code(), kind.explanation()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_statuses_real() {
        let mut names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Kind::ALL.len());
        for kind in Kind::ALL {
            assert_eq!(kind.status().as_u16(), kind.status_code());
            assert!(explain(kind.name()).is_some());
        }
    }

    #[test]
    fn a_503_promises_that_nothing_happened_and_a_504_does_not() {
        for kind in Kind::ALL {
            match kind.status_code() {
                503 => assert!(kind.explanation().contains("Nothing was applied") && kind.is_retryable(), "{}", kind.name()),
                504 => assert!(kind.explanation().contains("may yet be applied")),
                _ => {}
            }
        }
    }

    #[test]
    fn retry_after_is_in_whole_seconds_and_never_zero() {
        let after = |millis| {
            let refusal = Refusal::Overloaded { queue: "q".into(), retry_after: Duration::from_millis(millis) };
            Problem::from(refusal).into_response().headers()[RETRY_AFTER].clone()
        };
        assert_eq!(after(1), "1");
        assert_eq!(after(1500), "2");
    }
}
