//! From a request to a command, and from its answer to a response. No socket and no clock of its own: the simulator calls it directly.

mod batch;
mod datum;
mod list;
mod read;
mod typed;
mod update;
mod write;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, request};
use isochrone_ident::{Namespace, WallMicros};
use tokio::time::{Instant, timeout_at};

use crate::auth::{Auth, Identity, Right, Unknown};
use crate::body::ResponseBody;
use crate::budget::BodyBudget;
use crate::command::{Backend, Level, Mode, NamespaceView, Refusal};
use crate::fields;
use crate::limits::EdgeLimits;
use crate::meter::{InFlight, Meter, refused};
use crate::problem::{Kind, Problem, explain};
use crate::route::{self, Operation, ROUTES, Route, RouteId, resolve};
use crate::session::SessionToken;
use crate::upload::RequestBody;
use crate::{openapi, path::Query};

/// The wall clock, given at start: never read otherwise.
pub type WallClock = Arc<dyn Fn() -> WallMicros + Send + Sync>;

/// How much longer than its deadline a command may take before the API answers for the backend: a guard, not a timer to rely on.
const GUARD: Duration = Duration::from_secs(1);

/// Namespaces that a thread remembers, so that a request for one costs no allocation.
const NAMESPACES_REMEMBERED: usize = 64;

thread_local! {
    static NAMESPACES: RefCell<Vec<Namespace>> = const { RefCell::new(Vec::new()) };
}

/// The client API. Cloning shares it.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    backend: Arc<dyn Backend>,
    auth: Arc<Auth>,
    limits: EdgeLimits,
    bodies: BodyBudget,
    wall: WallClock,
    meter: Meter,
    openapi: Bytes,
}

/// A request's head with what has been found out about it.
struct Asked {
    parts: request::Parts,
    identity: Identity,
    query: Query,
    /// What the client has seen before.
    session: Option<SessionToken>,
    /// What follows the route's prefix in the path, still encoded.
    tail: String,
}

impl Api {
    /// The API in front of a backend.
    #[must_use]
    pub fn new(backend: Arc<dyn Backend>, auth: Arc<Auth>, limits: EdgeLimits, wall: WallClock) -> Self {
        let openapi = Bytes::from(openapi::document(ROUTES).to_string());
        let bodies = BodyBudget::new(limits.bodies_bytes);
        Self(Arc::new(Inner { backend, auth, limits, bodies, wall, meter: Meter::of_api(), openapi }))
    }

    /// Answers a request. Every request gets an answer; those that are refused get a problem.
    ///
    /// Must be called inside a tokio runtime with time. When the future is dropped, what was begun goes on or is undone by the backend.
    pub async fn handle<B: RequestBody>(&self, mut request: Request<B>) -> Response<ResponseBody> {
        match self.glance(&mut request) {
            Some(response) => response,
            None => self.answer(request).await,
        }
    }

    /// Everything that is not answered at a glance.
    pub(crate) fn answer<B: RequestBody>(&self, request: Request<B>) -> BoxFuture<'static, Response<ResponseBody>> {
        let api = self.clone();
        Box::pin(async move {
            let started = Instant::now();
            let _flight = InFlight::begin(&api.0.meter.in_flight);
            let (parts, body) = request.into_parts();
            let method = parts.method.clone();
            let position = resolve(parts.uri.path()).and_then(|(route, _)| ROUTES.iter().position(|own| std::ptr::eq(own, route)));
            let response = api.dispatch(parts, body).await.unwrap_or_else(Problem::into_response);
            let response = if method == Method::HEAD { without_body(response) } else { response };
            api.0.meter.count(api.0.meter.index(position), &method, response.status(), started.elapsed());
            response
        })
    }

    async fn dispatch<B: RequestBody>(&self, parts: request::Parts, body: B) -> Result<Response<ResponseBody>, Problem> {
        check_size(&parts, &self.0.limits)?;
        let Some((route, tail)) = resolve(parts.uri.path()) else {
            return Err(Kind::NoSuchRoute.because("there is nothing at this path; `/openapi.json` lists what there is"));
        };
        let tail = tail.to_owned();
        let identity = self.identify(route, &parts.headers)?;
        if let Some(what) = route.not_built {
            return Err(route::not_built(what));
        }
        let operation = check_operation(route, &parts.method)?;
        let query = Query::parse(parts.uri.query(), operation.query)?;
        check_origin(&parts, &identity)?;
        let session = fields::session(&parts.headers)?;
        let asked = Asked { parts, identity, query, session, tail };
        match (route.id, &asked.parts.method) {
            (RouteId::Kv, &Method::PUT) => self.put(asked, body).await,
            (RouteId::Kv, &Method::DELETE) => self.delete(asked).await,
            (RouteId::Kv, _) => self.read(asked).await,
            (RouteId::List(kind), _) => self.list(kind, asked).await,
            (RouteId::Typed(kind), method) if method.is_safe() => self.read_typed(kind, asked).await,
            (RouteId::Typed(kind), _) => self.write_typed(kind, asked, body).await,
            (RouteId::Batch, _) => self.batch(asked, body),
            (RouteId::Problems, _) => explanation(&asked.tail),
            _ => Ok(whole("application/json", self.0.openapi.clone())),
        }
    }

    fn identify(&self, route: &Route, headers: &HeaderMap) -> Result<Identity, Problem> {
        if route.is_open() {
            return Ok(Identity::Anyone);
        }
        identify(&self.0.auth, headers)
    }

    /// The namespace, once it is known that the sender may do this there and that it exists: a stranger learns nothing of it.
    fn enter(&self, asked: &Identity, right: Right, ns: &Namespace) -> Result<NamespaceView, Problem> {
        if !asked.may(right, Some(ns.as_str())) {
            return Err(forbidden(asked, right, ns.as_str()));
        }
        self.0.backend.namespace(ns).ok_or_else(|| Refusal::NoSuchNamespace(ns.clone()).into())
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.0.limits.request_time
    }

    fn now(&self) -> WallMicros {
        (self.0.wall)()
    }
}

/// Waits for the backend; past the deadline and the guard, `late` is the answer.
async fn within<T>(deadline: Instant, work: BoxFuture<'_, Result<T, Refusal>>, late: Refusal) -> Result<T, Problem> {
    match timeout_at(deadline + GUARD, work).await {
        Ok(result) => result.map_err(Problem::from),
        Err(_) => {
            refused("request_time");
            Err(late.into())
        }
    }
}

/// Who sent these header fields, or the problem that says that it is not known.
pub(crate) fn identify(auth: &Auth, headers: &HeaderMap) -> Result<Identity, Problem> {
    auth.identify(headers).map_err(|unknown| {
        refused("unauthenticated");
        Problem::unauthenticated(unknown == Unknown::Wrong)
    })
}

pub(crate) fn forbidden(identity: &Identity, right: Right, place: &str) -> Problem {
    refused("forbidden");
    let right = match right {
        Right::Read => "read",
        Right::Write => "write",
        Right::Admin => "admin",
    };
    Kind::Forbidden.because(format!("the token `{}` lacks the right `{right}` for `{place}`", identity.name()))
}

/// 431 where the header is larger than allowed, but not so large that the parser itself refused it.
pub(crate) fn check_size(parts: &request::Parts, limits: &EdgeLimits) -> Result<(), Problem> {
    let fits = parts.headers.len() <= limits.headers && header_bytes(&parts.headers, parts.uri.path().len()) <= limits.header_bytes;
    if fits {
        return Ok(());
    }
    refused("header_bytes");
    Err(Kind::HeadersTooLarge.because(format!("a request's header may have {} bytes and {} fields", limits.header_bytes, limits.headers)))
}

fn header_bytes(headers: &HeaderMap, target: usize) -> usize {
    headers.iter().fold(target, |sum, (name, value)| sum + name.as_str().len() + value.len() + 4)
}

fn check_operation(route: &Route, method: &Method) -> Result<&'static Operation, Problem> {
    route.operation(method).ok_or_else(|| Problem::method_not_allowed(&route.allow()))
}

/// Where no token is asked for, a page on the web could make a browser send a write in its user's name: refused by its `Origin`.
pub(crate) fn check_origin(parts: &request::Parts, identity: &Identity) -> Result<(), Problem> {
    let Some(origin) = parts.headers.get(ORIGIN) else { return Ok(()) };
    if parts.method.is_safe() || matches!(identity, Identity::Bearer(_)) {
        return Ok(());
    }
    let host = parts.headers.get(HOST).map(HeaderValue::as_bytes).or_else(|| parts.uri.authority().map(|own| own.as_str().as_bytes()));
    let own =
        |scheme: &[u8]| host.is_some_and(|host| origin.as_bytes().strip_prefix(scheme).is_some_and(|rest| rest.eq_ignore_ascii_case(host)));
    if own(b"http://") || own(b"https://") {
        return Ok(());
    }
    refused("cross_origin");
    Err(Kind::CrossOrigin.because("the request comes from a web page of another origin, and no token is asked for here"))
}

/// The level of a request, held against the namespace's mode. What a strong namespace has two names for has one from here on.
fn level_in(ns: &Namespace, view: &NamespaceView, asked: Option<Level>) -> Result<Level, Problem> {
    match (view.mode, asked.unwrap_or(view.mode.default_level())) {
        (Mode::Eventual, Level::Strong) => Err(wrong_mode(ns, "consistency `strong`")),
        (Mode::Strong, Level::Quorum) => Ok(Level::Strong),
        (_, level) => Ok(level),
    }
}

fn wrong_mode(ns: &Namespace, asked: &'static str) -> Problem {
    Refusal::WrongMode { ns: ns.clone(), asked: asked.into(), allowed_by: "mode = \"strong\"".into() }.into()
}

fn explanation(name: &str) -> Result<Response<ResponseBody>, Problem> {
    let text = explain(name).ok_or_else(|| Kind::NoSuchRoute.because("there is no such problem type"))?;
    Ok(whole("text/plain; charset=utf-8", Bytes::from(text)))
}

/// 200 with this body.
pub(crate) fn whole(content_type: &'static str, bytes: Bytes) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::whole(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn empty(status: StatusCode, headers: HeaderMap) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// What HEAD answers: the header that GET would, and no body.
pub(crate) fn without_body(mut response: Response<ResponseBody>) -> Response<ResponseBody> {
    let may_have_one = response.status() != StatusCode::NO_CONTENT && response.status() != StatusCode::NOT_MODIFIED;
    if let (true, Some(length)) = (may_have_one, response.body().len()) {
        let value = fields::value(|out| fields::put_decimal(out, length as u64));
        response.headers_mut().entry(CONTENT_LENGTH).or_insert(value);
    }
    *response.body_mut() = ResponseBody::empty();
    response
}

/// The namespace of that name as this thread remembers it.
fn remembered(name: &str) -> Option<Namespace> {
    NAMESPACES.with_borrow(|list| list.iter().find(|ns| ns.as_str() == name).cloned())
}

/// Remembers a namespace that exists.
fn remember(ns: &Namespace) {
    NAMESPACES.with_borrow_mut(|list| {
        if list.len() < NAMESPACES_REMEMBERED && !list.contains(ns) {
            list.push(ns.clone());
        }
    });
}
