//! What one connection is doing, as far as its limits must know: shared by its socket, its requests and its watchdog.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use metrics::Counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::limits::EdgeLimits;

/// Bytes are added to the metrics in portions of this size, so that a small request costs no shared counter.
const PORTION: u64 = 64 << 10;

/// Nothing of a header has come.
const NO_HEAD: u64 = u64::MAX;

/// One connection's doings. Times are milliseconds since its start, by the monotonic clock.
///
/// All orderings are relaxed: everything happens on the connection's own task, or tells only roughly.
#[derive(Debug)]
pub(crate) struct Activity {
    started: Instant,
    /// Requests whose answer has not been sent to its end.
    working: AtomicU32,
    /// When bytes last moved, or an answer was last done.
    moved_ms: AtomicU64,
    /// When the first byte came of a request's header that is not whole yet; [`NO_HEAD`]: none has come.
    head_ms: AtomicU64,
    is_draining: AtomicBool,
    /// The client has sent its end.
    is_eof: AtomicBool,
}

/// What the watchdog finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// All is well; look again then.
    Until(Instant),
    /// A request's header came too slowly.
    SlowHeader,
    /// Nothing has moved for too long.
    Idle,
}

impl Activity {
    /// Of a connection that begins now, and owes a request's header.
    pub(crate) fn begin() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            working: AtomicU32::new(0),
            moved_ms: AtomicU64::new(0),
            head_ms: AtomicU64::new(0),
            is_draining: AtomicBool::new(false),
            is_eof: AtomicBool::new(false),
        })
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(NO_HEAD - 1)
    }

    /// A request's header is whole.
    pub(crate) fn work(self: &Arc<Self>) -> Working {
        self.working.fetch_add(1, Ordering::Relaxed);
        self.head_ms.store(NO_HEAD, Ordering::Relaxed);
        Working(Arc::clone(self))
    }

    pub(crate) fn is_working(&self) -> bool {
        self.working.load(Ordering::Relaxed) > 0
    }

    /// Whether part of a request's header has come.
    pub(crate) fn is_in_header(&self) -> bool {
        !self.is_working() && self.head_ms.load(Ordering::Relaxed) != NO_HEAD
    }

    pub(crate) fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    pub(crate) fn is_eof(&self) -> bool {
        self.is_eof.load(Ordering::Relaxed)
    }

    fn received(&self, count: usize) {
        if count == 0 {
            return self.is_eof.store(true, Ordering::Relaxed);
        }
        let now = self.now_ms();
        self.moved_ms.store(now, Ordering::Relaxed);
        if !self.is_working() && self.head_ms.load(Ordering::Relaxed) == NO_HEAD {
            self.head_ms.store(now, Ordering::Relaxed);
        }
    }

    fn sent(&self) {
        self.moved_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// Whether the connection is overdue, or until when it need not be looked at.
    ///
    /// A request that is worked on moves no bytes, and gets its time (`request_time`) on top; its body has bounds of its own.
    pub(crate) fn verdict(&self, limits: &EdgeLimits, is_http1: bool) -> Verdict {
        let now = self.now_ms();
        let head = self.head_ms.load(Ordering::Relaxed);
        if is_http1 && !self.is_working() && head != NO_HEAD && now.saturating_sub(head) >= millis(limits.header_read) {
            return Verdict::SlowHeader;
        }
        let patience = if self.is_working() { limits.idle + limits.request_time } else { limits.idle };
        let idle_at = self.moved_ms.load(Ordering::Relaxed).saturating_add(millis(patience));
        if now >= idle_at {
            return Verdict::Idle;
        }
        // A header may begin at any time, so the next look is at most its time away.
        let head_at = if head == NO_HEAD || !is_http1 { now } else { head }.saturating_add(millis(limits.header_read));
        let wait = idle_at.min(head_at).saturating_sub(now).max(1);
        Verdict::Until(Instant::now() + Duration::from_millis(wait))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A request that is worked on, until its answer was sent or given up.
#[derive(Debug)]
pub(crate) struct Working(Arc<Activity>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.sent();
        self.0.working.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Adds up bytes, and tells the metrics in portions.
#[derive(Debug)]
struct Tally {
    pending: u64,
    counter: Counter,
}

impl Tally {
    fn add(&mut self, count: usize) {
        self.pending += count as u64;
        if self.pending >= PORTION {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.counter.increment(std::mem::take(&mut self.pending));
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.flush();
    }
}

/// A socket whose bytes are counted. Gives back first what was read ahead.
#[derive(Debug)]
pub(crate) struct Watched<T> {
    inner: T,
    ahead: Bytes,
    activity: Arc<Activity>,
    received: Tally,
    sent: Tally,
}

impl<T> Watched<T> {
    pub(crate) fn new(inner: T, activity: Arc<Activity>, received: Counter, sent: Counter) -> Self {
        let tally = |counter| Tally { pending: 0, counter };
        Self { inner, ahead: Bytes::new(), activity, received: tally(received), sent: tally(sent) }
    }

    /// These bytes were read ahead, and are read again.
    pub(crate) fn give_back(&mut self, ahead: Bytes) {
        self.ahead = ahead;
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let count = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead[..count]);
            self.ahead.advance(count);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
        let count = buffer.filled().len() - before;
        self.activity.received(count);
        self.received.add(count);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> Watched<T> {
    fn wrote(&mut self, count: usize) -> Poll<io::Result<usize>> {
        self.activity.sent();
        self.sent.add(count);
        Poll::Ready(Ok(count))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        self.wrote(count)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, slices))?;
        self.wrote(count)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const LIMITS: fn() -> EdgeLimits = EdgeLimits::default;

    fn is_until(activity: &Activity) -> bool {
        matches!(activity.verdict(&LIMITS(), true), Verdict::Until(_))
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_has_its_time_from_its_first_byte() {
        let activity = Activity::begin();
        drop(activity.work());
        advance(Duration::from_secs(30)).await;
        assert!(is_until(&activity));
        activity.received(1);
        advance(Duration::from_secs(9)).await;
        activity.received(1);
        assert!(is_until(&activity));
        advance(Duration::from_secs(1)).await;
        assert_eq!(activity.verdict(&LIMITS(), true), Verdict::SlowHeader);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_connection_owes_a_header() {
        let activity = Activity::begin();
        advance(Duration::from_secs(10)).await;
        assert_eq!(activity.verdict(&LIMITS(), true), Verdict::SlowHeader);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_closed_and_a_working_one_is_not() {
        let activity = Activity::begin();
        let working = activity.work();
        advance(Duration::from_secs(80)).await;
        assert!(is_until(&activity));
        drop(working);
        advance(Duration::from_secs(74)).await;
        assert!(is_until(&activity));
        advance(Duration::from_secs(1)).await;
        assert_eq!(activity.verdict(&LIMITS(), true), Verdict::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_cut_off() {
        let activity = Activity::begin();
        let _working = activity.work();
        advance(Duration::from_secs(85)).await;
        assert_eq!(activity.verdict(&LIMITS(), true), Verdict::Idle);
    }
}
