//! What is counted. Handles are made once: on the hot path a count is one atomic addition.

use std::sync::OnceLock;
use std::time::Duration;

use http::{Method, StatusCode};
use metrics::{Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::route::ROUTES;

const METHODS: [&str; 6] = ["GET", "HEAD", "PUT", "POST", "DELETE", "other"];
const STATUSES: [u16; 30] = [
    200, 201, 204, 206, 304, 400, 401, 403, 404, 405, 408, 409, 412, 413, 414, 415, 416, 421, 422, 428, 429, 431, 500, 501, 502, 503, 504,
    505, 507, 0,
];

/// Tells the recorder what each metric is. Call once, after the recorder is in place.
pub fn describe() {
    describe_counter!("isochrone_http_requests_total", "Requests answered, by route, method and status");
    describe_histogram!("isochrone_http_request_seconds", Unit::Seconds, "From a request's header to its answer's header, by route");
    describe_gauge!("isochrone_http_requests_in_flight", "Requests being worked on that were not answered on the spot");
    describe_counter!("isochrone_http_batch_lines_total", "Lines of batches, by operation and whether they were refused");
    describe_counter!("isochrone_http_refused_total", "Requests and connections refused or cut off by a limit, by reason");
    describe_gauge!("isochrone_http_connections", "Open connections, by listener");
    describe_counter!("isochrone_http_connections_total", "Connections accepted, by listener");
    describe_counter!("isochrone_http_received_bytes_total", Unit::Bytes, "Bytes received, by listener, beneath TLS where there is TLS");
    describe_counter!("isochrone_http_sent_bytes_total", Unit::Bytes, "Bytes sent, likewise");
    describe_counter!("isochrone_http_tls_handshake_errors_total", "TLS handshakes that failed, by listener");
    describe_counter!("isochrone_http_tls_reloads_total", "Reloads of the listener's certificate, by result");
}

/// Counts of requests, by route, method and status.
pub(crate) struct Meter {
    routes: Vec<Routed>,
    pub(crate) in_flight: Gauge,
}

struct Routed {
    label: &'static str,
    seconds: Histogram,
    requests: Vec<OnceLock<Counter>>,
}

/// A route's place in the meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RouteIndex(usize);

impl Meter {
    /// The meter of a listener whose routes have these labels; requests for no route have their own.
    pub(crate) fn new(labels: impl Iterator<Item = &'static str>) -> Self {
        let routes = labels.chain(["none"]).map(Routed::new).collect();
        Self { routes, in_flight: gauge!("isochrone_http_requests_in_flight") }
    }

    pub(crate) fn of_api() -> Self {
        Self::new(ROUTES.iter().map(|route| route.label))
    }

    /// The index of the n-th label; `None`: no route.
    pub(crate) fn index(&self, position: Option<usize>) -> RouteIndex {
        RouteIndex(position.unwrap_or(self.routes.len() - 1).min(self.routes.len() - 1))
    }

    pub(crate) fn count(&self, route: RouteIndex, method: &Method, status: StatusCode, took: Duration) {
        let routed = &self.routes[route.0];
        routed.seconds.record(took.as_secs_f64());
        routed.requests(method, status).increment(1);
    }
}

impl Routed {
    fn new(label: &'static str) -> Self {
        let requests = (0..METHODS.len() * STATUSES.len()).map(|_| OnceLock::new()).collect();
        Self { label, seconds: histogram!("isochrone_http_request_seconds", "route" => label), requests }
    }

    fn requests(&self, method: &Method, status: StatusCode) -> &Counter {
        let method = METHODS.iter().position(|name| *name == method.as_str()).unwrap_or(METHODS.len() - 1);
        let code = STATUSES.iter().position(|code| *code == status.as_u16()).unwrap_or(STATUSES.len() - 1);
        self.requests[method * STATUSES.len() + code].get_or_init(|| {
            let status = if STATUSES[code] == 0 { "other".to_owned() } else { STATUSES[code].to_string() };
            counter!("isochrone_http_requests_total", "route" => self.label, "method" => METHODS[method], "status" => status)
        })
    }
}

/// A request that is being worked on.
pub(crate) struct InFlight(Gauge);

impl InFlight {
    pub(crate) fn begin(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// Something was refused or cut off by a limit.
pub(crate) fn refused(reason: &'static str) {
    counter!("isochrone_http_refused_total", "reason" => reason).increment(1);
}
