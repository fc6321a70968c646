//! The operator's side: metrics, health, the cluster, and a status page.
//!
//! `/metrics`, `/livez`, `/readyz`, `/healthz` and the page itself are open: they hold no data and change nothing. Everything under
//! `/v1/admin` needs the right `admin` on `*`, unless no tokens are asked for.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, Stream};
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_MATCH};
use http::{HeaderValue, Method, Request, Response, StatusCode, request};
use hyper::body::Incoming;
use isochrone_ident::NodeId;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::api::{check_origin, check_size, forbidden, identify, whole, without_body};
use crate::auth::{Auth, Right};
use crate::body::ResponseBody;
use crate::budget::BodyBudget;
use crate::connection::Handler;
use crate::fields;
use crate::limits::EdgeLimits;
use crate::meter::Meter;
use crate::operator::{ApplyRequest, Operator};
use crate::path::Query;
use crate::problem::{Kind, Problem, explain};
use crate::replication::{RepairProgress, RepairRequest};
use crate::route::namespace_and_key;
use crate::upload::{self, RequestBody, Upload};

/// The largest cluster file, or other document of an operator, in bytes.
const DOCUMENT_BYTES_MAX: u64 = 1 << 20;

/// The shortest time between two lines of a repair's progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

const PAGE: &str = include_str!("status.html");

/// Gives the metrics as text, in the Prometheus exposition format.
pub type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// The operator's API. Cloning shares it.
#[derive(Clone)]
pub struct Admin(Arc<Inner>);

struct Inner {
    operator: Arc<dyn Operator>,
    auth: Arc<Auth>,
    limits: EdgeLimits,
    /// Of its own, so that clients cannot keep operators out.
    bodies: BodyBudget,
    metrics: RenderMetrics,
    page: Response<()>,
    meter: Meter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Page,
    Metrics,
    Live,
    Ready,
    Status,
    Members,
    Member,
    Placement,
    KeyPlacement,
    RoundTrips,
    Config,
    Apply,
    Reload,
    Leave,
    Emulation,
    Replication,
    Strong,
    Repair,
    Problem,
}

/// One path: what it leads to, its label in metrics, itself, whether something must follow, its methods.
struct AdminRoute(Place, &'static str, &'static str, bool, &'static [Method]);

const GET: &[Method] = &[Method::GET, Method::HEAD];
const POST: &[Method] = &[Method::POST];

static ROUTES: &[AdminRoute] = &[
    AdminRoute(Place::Page, "page", "/", false, GET),
    AdminRoute(Place::Metrics, "metrics", "/metrics", false, GET),
    AdminRoute(Place::Live, "livez", "/livez", false, GET),
    AdminRoute(Place::Ready, "readyz", "/readyz", false, GET),
    AdminRoute(Place::Ready, "readyz", "/healthz", false, GET),
    AdminRoute(Place::Problem, "problems", "/problems/", true, GET),
    AdminRoute(Place::Status, "admin_status", "/v1/admin/status", false, GET),
    AdminRoute(Place::Members, "admin_members", "/v1/admin/members", false, GET),
    AdminRoute(Place::Member, "admin_members", "/v1/admin/members/", true, &[Method::DELETE]),
    AdminRoute(Place::Placement, "admin_placement", "/v1/admin/placement", false, GET),
    AdminRoute(Place::KeyPlacement, "admin_placement", "/v1/admin/placement/", true, GET),
    AdminRoute(Place::RoundTrips, "admin_round_trips", "/v1/admin/round-trips", false, GET),
    AdminRoute(Place::Config, "admin_config", "/v1/admin/config", false, GET),
    AdminRoute(Place::Apply, "admin_apply", "/v1/admin/apply", false, &[Method::GET, Method::HEAD, Method::POST]),
    AdminRoute(Place::Reload, "admin_reload", "/v1/admin/reload", false, POST),
    AdminRoute(Place::Leave, "admin_leave", "/v1/admin/leave", false, POST),
    AdminRoute(Place::Replication, "admin_replication", "/v1/admin/replication", false, GET),
    AdminRoute(Place::Strong, "admin_strong", "/v1/admin/strong", false, GET),
    AdminRoute(Place::Repair, "admin_repair", "/v1/admin/repair", false, POST),
    AdminRoute(Place::Emulation, "admin_emulation", "/v1/admin/emulation", false, &[Method::GET, Method::HEAD, Method::PUT]),
];

/// The route of a path, its place in the table, and what follows it.
fn resolve(path: &str) -> Option<(usize, &'static AdminRoute, &str)> {
    ROUTES.iter().enumerate().find_map(|(index, route)| {
        let tail = path.strip_prefix(route.2)?;
        (route.3 != tail.is_empty()).then_some((index, route, tail))
    })
}

impl Place {
    /// Whether no right is needed.
    const fn is_open(self) -> bool {
        matches!(self, Self::Page | Self::Metrics | Self::Live | Self::Ready | Self::Problem)
    }

    const fn query(self) -> &'static [&'static str] {
        match self {
            Self::Ready => &["verbose"],
            Self::Apply => &["dry_run"],
            Self::Member => &["lost"],
            Self::Placement => &["plan"],
            _ => &[],
        }
    }
}

impl Admin {
    /// The operator's API in front of a daemon.
    #[must_use]
    pub fn new(operator: Arc<dyn Operator>, auth: Arc<Auth>, limits: EdgeLimits, metrics: RenderMetrics) -> Self {
        let meter = Meter::new(ROUTES.iter().map(|route| route.1));
        let bodies = BodyBudget::new(limits.bodies_bytes);
        Self(Arc::new(Inner { operator, auth, limits, bodies, metrics, page: page(), meter }))
    }

    /// Answers a request. Every request gets an answer; those that are refused get a problem.
    pub async fn handle<B: RequestBody>(&self, request: Request<B>) -> Response<ResponseBody> {
        let started = Instant::now();
        let (parts, body) = request.into_parts();
        let method = parts.method.clone();
        let position = resolve(parts.uri.path()).map(|(index, ..)| index);
        let response = self.dispatch(parts, body).await.unwrap_or_else(Problem::into_response);
        let mut response = if method == Method::HEAD { without_body(response) } else { response };
        response.headers_mut().entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        self.0.meter.count(self.0.meter.index(position), &method, response.status(), started.elapsed());
        response
    }

    async fn dispatch<B: RequestBody>(&self, parts: request::Parts, body: B) -> Result<Response<ResponseBody>, Problem> {
        check_size(&parts, &self.0.limits)?;
        let Some((_, route, tail)) = resolve(parts.uri.path()) else {
            return Err(Kind::NoSuchRoute.because("there is nothing at this path of the admin listener"));
        };
        self.check(route.0, &parts)?;
        if !route.4.contains(&parts.method) {
            let allow: Vec<&str> = route.4.iter().map(Method::as_str).collect();
            return Err(Problem::method_not_allowed(&allow.join(", ")));
        }
        let query = Query::parse(parts.uri.query(), route.0.query())?;
        if parts.method.is_safe() { self.look(route.0, tail, &query) } else { self.change(route.0, tail, &query, &parts, body).await }
    }

    fn check(&self, place: Place, parts: &request::Parts) -> Result<(), Problem> {
        if place.is_open() {
            return Ok(());
        }
        let identity = identify(&self.0.auth, &parts.headers)?;
        check_origin(parts, &identity)?;
        if identity.may(Right::Admin, None) { Ok(()) } else { Err(forbidden(&identity, Right::Admin, "*")) }
    }

    fn look(&self, place: Place, tail: &str, query: &Query) -> Result<Response<ResponseBody>, Problem> {
        let operator = &self.0.operator;
        match place {
            Place::Page => Ok(self.page()),
            Place::Metrics => Ok(whole("text/plain; version=0.0.4; charset=utf-8", Bytes::from((self.0.metrics)()))),
            Place::Live => Ok(self.live()),
            Place::Ready => Ok(self.ready(query.switch("verbose")?)),
            Place::Problem => {
                let text = explain(tail).ok_or_else(|| Kind::NoSuchRoute.because("there is no such problem type"))?;
                Ok(whole("text/plain; charset=utf-8", Bytes::from(text)))
            }
            Place::Status => json(&operator.status()),
            Place::Members => json(&serde_json::json!({ "members": operator.members() })),
            Place::Placement => match query.text("plan")? {
                None => json(&operator.placement()),
                Some(change) => json(&operator.plan(change)?),
            },
            Place::KeyPlacement => {
                let (ns, key) = namespace_and_key(tail)?;
                json(&operator.placement_of(&ns, &key)?)
            }
            Place::RoundTrips => json(&operator.round_trips()),
            Place::Config => json(&operator.config()),
            Place::Apply => Ok(self.cluster_file()),
            Place::Emulation => json(&operator.emulation().ok_or_else(|| Kind::NoSuchThing.because("this daemon emulates no network"))?),
            Place::Replication => json(&operator.replication()?.with_concerns()),
            Place::Strong => json(&operator.strong()?.with_concerns()),
            Place::Member | Place::Reload | Place::Leave | Place::Repair => Err(Problem::method_not_allowed("POST")),
        }
    }

    async fn change<B: RequestBody>(
        &self,
        place: Place,
        tail: &str,
        query: &Query,
        parts: &request::Parts,
        body: B,
    ) -> Result<Response<ResponseBody>, Problem> {
        let operator = &self.0.operator;
        match place {
            Place::Member => {
                let node: NodeId = tail.parse().map_err(|e: isochrone_ident::InvalidId| Problem::malformed(e.to_string()))?;
                operator.remove_member(node, query.switch("lost")?).await?;
                Ok(no_content())
            }
            Place::Apply => self.apply(query, parts, body).await,
            Place::Reload => json(&operator.reload().await?),
            Place::Leave => {
                operator.leave().await?;
                Ok(no_content())
            }
            Place::Emulation => {
                let document = self.document(parts, body).await?;
                let wanted =
                    serde_json::from_slice(&document.bytes).map_err(|e| Problem::malformed(format!("the body is not JSON: {e}")))?;
                json(&operator.set_emulation(wanted)?)
            }
            Place::Repair => self.repair(parts, body).await,
            _ => Err(Problem::method_not_allowed("GET, HEAD")),
        }
    }

    async fn document<B: RequestBody>(&self, parts: &request::Parts, body: B) -> Result<Upload, Problem> {
        upload::whole(&parts.headers, body, DOCUMENT_BYTES_MAX, &self.0.limits, &self.0.bodies).await
    }

    /// Begins a repair, and tells how far it is until it is done.
    async fn repair<B: RequestBody>(&self, parts: &request::Parts, body: B) -> Result<Response<ResponseBody>, Problem> {
        let Upload { bytes, held: _held } = self.document(parts, body).await?;
        let asked = if bytes.trim_ascii().is_empty() { RepairRequest::default() } else { repair_request(&bytes)? };
        let progress = self.0.operator.repair(asked).await?;
        let mut response = Response::new(ResponseBody::stream(repair_lines(progress)));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        Ok(response)
    }

    async fn apply<B: RequestBody>(&self, query: &Query, parts: &request::Parts, body: B) -> Result<Response<ResponseBody>, Problem> {
        let dry_run = query.switch("dry_run")?;
        let expected_revision = fields::text(&parts.headers, &IF_MATCH)?.map(revision).transpose()?;
        let Upload { bytes, held: _held } = self.document(parts, body).await?;
        let text = String::from_utf8(bytes.into()).map_err(|_| Problem::malformed("a cluster file is UTF-8"))?;
        let applied = self.0.operator.apply(ApplyRequest { text, dry_run, expected_revision }).await?;
        let mut response = json(&applied)?;
        response.headers_mut().insert(ETAG, revision_etag(applied.revision));
        Ok(response)
    }

    fn cluster_file(&self) -> Response<ResponseBody> {
        let (text, revision) = self.0.operator.cluster_file();
        let mut response = whole("application/toml", Bytes::from(text));
        response.headers_mut().insert(ETAG, revision_etag(revision));
        response
    }

    fn live(&self) -> Response<ResponseBody> {
        match self.0.operator.alive() {
            Ok(()) => whole("text/plain; charset=utf-8", Bytes::from_static(b"ok\n")),
            Err(reason) => unavailable(format!("{reason}\n")),
        }
    }

    /// As Kubernetes' components answer: a line a check, and the sum.
    fn ready(&self, verbose: bool) -> Response<ResponseBody> {
        let checks = self.0.operator.checks();
        let is_ready = checks.iter().all(|check| check.ok);
        let line = |check: &crate::operator::Check| {
            let (mark, word) = if check.ok { ("+", "ok") } else { ("-", "failed") };
            format!("[{mark}]{} {word}: {}\n", check.name, check.detail)
        };
        let mut text: String = checks.iter().filter(|check| verbose || !check.ok).map(line).collect();
        text.push_str(if is_ready { "ok\n" } else { "not ready\n" });
        if is_ready { whole("text/plain; charset=utf-8", Bytes::from(text)) } else { unavailable(text) }
    }

    fn page(&self) -> Response<ResponseBody> {
        let mut response = whole("text/html; charset=utf-8", Bytes::from_static(PAGE.as_bytes()));
        response.headers_mut().extend(self.0.page.headers().clone());
        response
    }
}

/// The page's header: its one script is allowed by its hash, and nothing may be loaded from anywhere else.
fn page() -> Response<()> {
    use base64::Engine;
    let script = PAGE.split_once("<script>").and_then(|(_, rest)| rest.split_once("</script>")).map_or("", |(script, _)| script);
    let hash = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(script.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{hash}'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let mut response = Response::new(());
    let policy = HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"));
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response.headers_mut().insert("referrer-policy", HeaderValue::from_static("no-referrer"));
    response
}

fn json(value: &impl Serialize) -> Result<Response<ResponseBody>, Problem> {
    let text = serde_json::to_string(value).map_err(|e| Kind::Internal.because(format!("the answer is no JSON: {e}")))?;
    Ok(whole("application/json", Bytes::from(text)))
}

fn repair_request(bytes: &[u8]) -> Result<RepairRequest, Problem> {
    let request = crate::json::object(bytes);
    request.map_err(|e| Problem::malformed(format!("a repair takes {{\"namespace\": \"data\"}}, or no body for all namespaces: {e}")))
}

/// A line as soon as something has changed, at most one every [`PROGRESS_EVERY`]; the last one says `done`, or why it never will.
fn repair_lines(progress: watch::Receiver<RepairProgress>) -> impl Stream<Item = Bytes> {
    stream::unfold(Some((progress, true)), |state| async {
        let (mut progress, is_first) = state?;
        if !is_first {
            tokio::time::sleep(PROGRESS_EVERY).await;
            if progress.changed().await.is_err() {
                let problem = Kind::Internal.because("the repair broke off; the daemon's log has more");
                return Some((progress_line(&serde_json::json!({ "done": false, "problem": problem.to_json() })), None));
            }
        }
        let newest = progress.borrow_and_update().clone();
        let line = progress_line(&newest);
        Some((line, if newest.done { None } else { Some((progress, false)) }))
    })
}

fn progress_line(line: &impl Serialize) -> Bytes {
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    text.into()
}

fn no_content() -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn unavailable(text: String) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::whole(Bytes::from(text)));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn revision(field: &str) -> Result<u64, Problem> {
    let inner = field.trim().strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let number = inner.and_then(|text| text.parse().ok());
    number.ok_or_else(|| Problem::malformed("`If-Match` is the revision as `ETag` gives it: a number in double quotes"))
}

fn revision_etag(revision: u64) -> HeaderValue {
    HeaderValue::try_from(format!("\"{revision}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

impl Handler for Admin {
    fn glance(&self, _request: &mut Request<Incoming>) -> Option<Response<ResponseBody>> {
        None
    }

    fn answer(&self, request: Request<Incoming>) -> BoxFuture<'static, Response<ResponseBody>> {
        let admin = self.clone();
        Box::pin(async move { admin.handle(request).await })
    }
}
