//! Every bound that a client can run into, in one place. The daemon maps a configuration key onto each.

use std::time::Duration;

/// The bounds of a listener and of the API behind it. All are enforced; what happens at each is said beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeLimits {
    /// Bytes of a request's line and header fields together, at least 1 KiB. Above: 431, with a problem body up to twice as much, a
    /// bare status line beyond.
    pub header_bytes: usize,
    /// Header fields of a request, at least 8. Above: 431, likewise.
    pub headers: usize,
    /// Connections of a listener at a time, all its threads together. Above: 503 and closed (with TLS: closed).
    pub connections: usize,
    /// From the first byte of a request's header, or from the connection's start, to the header's end. Above: 408 and closed.
    pub header_read: Duration,
    /// How long a connection may have nothing to do, or a client may not take what it asked for. Above: closed.
    pub idle: Duration,
    /// The longest silence inside a request's body. Above: 408 and closed.
    pub body_idle: Duration,
    /// A body must come at this rate at least, once `body_grace` is over, in bytes a second. Below: 408 and closed.
    pub body_rate: u64,
    /// How long a body may be slower than `body_rate`.
    pub body_grace: Duration,
    /// From a request's header to its answer's header, the body's time not counted. Above: 503 for reads, 504 for writes.
    pub request_time: Duration,
    /// A TLS handshake. Above: closed.
    pub tls_handshake: Duration,
    /// Requests at a time on one HTTP/2 connection; the client is told, and one more is refused.
    pub h2_streams: u32,
    /// Entries of a listing's page when the client names no limit.
    pub list_default: usize,
    /// Entries of a listing's page at most. Above: 400.
    pub list_max: usize,
    /// Bytes of one line of a batch. Above: that line fails with 413.
    pub batch_line_bytes: usize,
    /// Lines of one batch, blank ones not counted. Above: the first line too many is answered with 413, and no further one is carried out.
    pub batch_lines: usize,
    /// Bytes of one batch's body. Above: 413, at once where its `Content-Length` tells, else as the last line's answer.
    pub batch_bytes: u64,
    /// Lines of one batch that are worked on, or wait for their turn to be sent, at a time. No more are read until some are done.
    pub batch_ahead: usize,
    /// Bytes of those lines; one line is always let in.
    pub batch_ahead_bytes: usize,
    /// Bytes of memory for the request bodies of all clients together, from their `Content-Length`, or their first byte where there is
    /// none, to their answer. Above: 503 with `Retry-After`.
    pub bodies_bytes: u64,
    /// After the last answer of a connection: how long what the client still sends is read and thrown away, so that the answer
    /// is not lost to a reset.
    pub linger: Duration,
    /// While draining: how long an idle connection is kept for a request that may be on its way.
    pub drain_idle: Duration,
}

impl Default for EdgeLimits {
    fn default() -> Self {
        Self {
            header_bytes: 16 << 10,
            headers: 100,
            connections: 10_000,
            header_read: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            body_idle: Duration::from_secs(15),
            body_rate: 1024,
            body_grace: Duration::from_secs(10),
            request_time: Duration::from_secs(10),
            tls_handshake: Duration::from_secs(10),
            h2_streams: 128,
            list_default: 1000,
            list_max: 10_000,
            batch_line_bytes: 24 << 20,
            batch_lines: 10_000,
            batch_bytes: 64 << 20,
            batch_ahead: 64,
            batch_ahead_bytes: 32 << 20,
            bodies_bytes: 256 << 20,
            linger: Duration::from_secs(1),
            drain_idle: Duration::from_millis(300),
        }
    }
}

impl EdgeLimits {
    /// What the parser itself refuses, with a bare status line: twice `header_bytes`, so that there is room for a problem body in between.
    pub(crate) const fn header_bytes_hard(&self) -> usize {
        self.header_bytes.saturating_mul(2)
    }

    /// The same for `headers`.
    pub(crate) const fn headers_hard(&self) -> usize {
        self.headers.saturating_mul(2)
    }
}
