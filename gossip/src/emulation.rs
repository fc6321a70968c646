//! Emulated distance on real sockets: delay, jitter, loss and cuts for each destination, adjustable while packets flow.
//!
//! ```text
//!   quinn -> try_send -> [lost? cut?] -> heap by due time -> thread -> kernel        (outgoing, delayed)
//!   quinn <- poll_recv <- [cut?] <----------------------------------- kernel        (incoming, at once)
//! ```
//!
//! The sender delays, so a round trip is the sum of what both ends have set. Timers of async runtimes tick in
//! milliseconds, which would drown a jitter of 0.1 ms: a thread of its own sleeps until each packet's due time. Each packet's
//! jitter is drawn for itself, so packets overtake each other as they do on real paths.

use std::collections::{BTreeMap, BinaryHeap};
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::metrics::dropped_by_emulation;
use crate::{RealSockets, Sockets};

/// How packets fare on the way to one destination.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LinkShape {
    /// The time that every packet takes, one way.
    pub one_way: Duration,
    /// The mean of what each packet takes beyond that, exponentially distributed, cut at twenty times the mean.
    pub jitter_mean: Duration,
    /// The share of packets that are lost, 0 to 1.
    pub loss: f64,
}

impl LinkShape {
    /// The delay drawn for one packet, or `None` when it is lost.
    pub(crate) fn draw(&self, rng: &mut impl Rng) -> Option<Duration> {
        if self.loss > 0.0 && rng.random::<f64>() < self.loss {
            return None;
        }
        if self.jitter_mean.is_zero() {
            return Some(self.one_way);
        }
        let uniform: f64 = rng.random();
        let factor = (-(1.0 - uniform).ln()).clamp(0.0, 20.0);
        Some(self.one_way + self.jitter_mean.mul_f64(factor))
    }
}

/// Which way a cut goes, seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// What we send does not arrive.
    Outgoing,
    /// What the other sends does not arrive.
    Incoming,
    /// Neither.
    Both,
}

/// The state of one emulated link.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct EmulatedLink {
    /// How packets fare.
    pub shape: LinkShape,
    /// Nothing gets out.
    pub cut_outgoing: bool,
    /// Nothing gets in.
    pub cut_incoming: bool,
}

/// A live handle on [`EmulatedSockets`]. Cheap to clone; changes hold for packets from then on.
#[derive(Debug, Clone)]
pub struct Emulation(Arc<Shared>);

/// Real sockets with emulated distance.
#[derive(Debug, Clone)]
pub struct EmulatedSockets {
    real: RealSockets,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    links: Mutex<BTreeMap<SocketAddr, EmulatedLink>>,
    rng: Mutex<StdRng>,
    queue_bytes_max: usize,
}

/// A lock whose holder panicked still guards plain values that are whole between statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Emulation {
    /// Shapes the way to a destination.
    pub fn set(&self, to: SocketAddr, shape: LinkShape) {
        self.change(to, |link| link.shape = shape);
    }

    /// Cuts the link to a peer's address; what is already on its way arrives.
    pub fn cut(&self, peer: SocketAddr, direction: Direction) {
        self.change(peer, |link| {
            link.cut_outgoing |= direction != Direction::Incoming;
            link.cut_incoming |= direction != Direction::Outgoing;
        });
    }

    /// Ends all cuts of the link to a peer's address; its shape stays.
    pub fn heal(&self, peer: SocketAddr) {
        self.change(peer, |link| (link.cut_outgoing, link.cut_incoming) = (false, false));
    }

    /// All links that were ever set or cut.
    #[must_use]
    pub fn links(&self) -> BTreeMap<SocketAddr, EmulatedLink> {
        lock(&self.0.links).clone()
    }

    fn change(&self, peer: SocketAddr, change: impl FnOnce(&mut EmulatedLink)) {
        change(lock(&self.0.links).entry(canonical(peer)).or_default());
    }
}

impl EmulatedSockets {
    /// Real sockets, at first without distance, and the handle that gives them some. `queue_bytes_max` bounds what is on its way
    /// from one socket; more is lost.
    #[must_use]
    pub fn new(real: RealSockets, seed: u64, queue_bytes_max: usize) -> (Self, Emulation) {
        let rng = Mutex::new(StdRng::seed_from_u64(seed));
        let shared = Arc::new(Shared { links: Mutex::default(), rng, queue_bytes_max });
        (Self { real, shared: shared.clone() }, Emulation(shared))
    }
}

impl Sockets for EmulatedSockets {
    fn bind(&self, addr: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let socket = self.real.bind_std(addr)?;
        let line = Arc::new(Line { state: Mutex::default(), due: Condvar::new() });
        let (thread_line, thread_socket) = (line.clone(), socket.try_clone()?);
        std::thread::Builder::new().name("emulation".to_owned()).spawn(move || thread_line.run(&thread_socket))?;
        let inner = TokioRuntime.wrap_udp_socket(socket)?;
        Ok(Arc::new(EmulatedSocket { inner, line, shared: self.shared.clone() }))
    }
}

/// `::ffff:1.2.3.4` and `1.2.3.4` are one host.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// Packets on their way from one socket.
#[derive(Debug)]
struct Line {
    state: Mutex<LineState>,
    due: Condvar,
}

#[derive(Debug, Default)]
struct LineState {
    packets: BinaryHeap<Packet>,
    bytes: usize,
    count: u64,
    closed: bool,
}

#[derive(Debug)]
struct Packet {
    due: Instant,
    number: u64,
    to: SocketAddr,
    bytes: Box<[u8]>,
}

impl PartialEq for Packet {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Packet {}

impl PartialOrd for Packet {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Packet {
    /// Reversed, as the heap gives its greatest first.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

impl Line {
    fn push(&self, due: Instant, to: SocketAddr, bytes: &[u8], bytes_max: usize) {
        let mut state = lock(&self.state);
        if state.bytes + bytes.len() > bytes_max {
            dropped_by_emulation("queue-full");
            return;
        }
        let first = state.packets.peek().is_none_or(|packet| due < packet.due);
        (state.bytes, state.count) = (state.bytes + bytes.len(), state.count + 1);
        let number = state.count;
        state.packets.push(Packet { due, number, to, bytes: bytes.into() });
        drop(state);
        if first {
            self.due.notify_one();
        }
    }

    /// The next packet when it is due; `None` once the socket is gone.
    fn next(&self) -> Option<Packet> {
        let mut state = lock(&self.state);
        loop {
            if state.closed {
                return None;
            }
            let wait = match state.packets.peek() {
                None => Duration::from_secs(3600),
                Some(packet) => packet.due.saturating_duration_since(Instant::now()),
            };
            if wait.is_zero() {
                let packet = state.packets.pop()?;
                state.bytes -= packet.bytes.len();
                return Some(packet);
            }
            state = self.due.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn run(&self, socket: &UdpSocket) {
        while let Some(packet) = self.next() {
            // UDP promises nothing: what the kernel does not take is lost.
            if socket.send_to(&packet.bytes, packet.to).is_err() {
                dropped_by_emulation("socket");
            }
        }
    }
}

#[derive(Debug)]
struct EmulatedSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    line: Arc<Line>,
    shared: Arc<Shared>,
}

impl EmulatedSocket {
    fn link(&self, peer: SocketAddr) -> EmulatedLink {
        lock(&self.shared.links).get(&canonical(peer)).copied().unwrap_or_default()
    }
}

impl Drop for EmulatedSocket {
    fn drop(&mut self) {
        lock(&self.line.state).closed = true;
        self.line.due.notify_one();
    }
}

impl AsyncUdpSocket for EmulatedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let link = self.link(transmit.destination);
        if link == EmulatedLink::default() {
            return self.inner.try_send(transmit);
        }
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for bytes in transmit.contents.chunks(segment) {
            let delay = if link.cut_outgoing { None } else { link.shape.draw(&mut *lock(&self.shared.rng)) };
            match delay {
                Some(delay) => self.line.push(Instant::now() + delay, transmit.destination, bytes, self.shared.queue_bytes_max),
                None => dropped_by_emulation(if link.cut_outgoing { "cut" } else { "loss" }),
            }
        }
        Ok(())
    }

    fn poll_recv(&self, cx: &mut Context<'_>, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> Poll<io::Result<usize>> {
        let received = ready!(self.inner.poll_recv(cx, bufs, meta))?;
        for meta in &mut meta[..received] {
            if self.link(meta.addr).cut_incoming {
                dropped_by_emulation("cut");
                // Quinn takes a buffer of no bytes for no packets.
                meta.len = 0;
            }
        }
        Poll::Ready(Ok(received))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// One: each packet has its own fate.
    fn max_transmit_segments(&self) -> usize {
        1
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn pair(shape: LinkShape) -> (Arc<dyn AsyncUdpSocket>, UdpSocket, Emulation) {
        let (sockets, emulation) = EmulatedSockets::new(RealSockets::default(), 1, 1 << 20);
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("binds");
        receiver.set_read_timeout(Some(MS * 500)).expect("set");
        let to = receiver.local_addr().expect("bound");
        emulation.set(to, shape);
        let sender = sockets.bind("127.0.0.1:0".parse().expect("an address")).expect("binds");
        (sender, receiver, emulation)
    }

    fn send(socket: &Arc<dyn AsyncUdpSocket>, to: SocketAddr, contents: &[u8]) {
        let transmit = Transmit { destination: to, ecn: None, contents, segment_size: None, src_ip: None };
        socket.try_send(&transmit).expect("sent");
    }

    #[tokio::test]
    async fn a_packet_takes_the_time_that_was_set() {
        let (sender, receiver, _emulation) = pair(LinkShape { one_way: MS * 30, ..LinkShape::default() });
        let start = Instant::now();
        send(&sender, receiver.local_addr().expect("bound"), b"x");
        receiver.recv(&mut [0; 8]).expect("arrives");
        let took = start.elapsed();
        assert!(took >= MS * 30, "{took:?}");
        assert!(took < MS * 200, "{took:?}");
    }

    #[tokio::test]
    async fn a_cut_lasts_until_it_is_healed() {
        let (sender, receiver, emulation) = pair(LinkShape { one_way: MS, ..LinkShape::default() });
        let to = receiver.local_addr().expect("bound");
        emulation.cut(to, Direction::Outgoing);
        send(&sender, to, b"lost");
        emulation.heal(to);
        send(&sender, to, b"kept");
        let mut buffer = [0; 8];
        let bytes = receiver.recv(&mut buffer).expect("arrives");
        assert_eq!(&buffer[..bytes], b"kept");
    }

    #[tokio::test]
    async fn jitter_lets_packets_overtake_each_other() {
        let (sender, receiver, _emulation) = pair(LinkShape { one_way: MS, jitter_mean: MS * 2, loss: 0.0 });
        let to = receiver.local_addr().expect("bound");
        for number in 0..50_u8 {
            send(&sender, to, &[number]);
        }
        let mut buffer = [0; 1];
        let order: Vec<u8> = (0..50).map(|_| receiver.recv(&mut buffer).map(|_| buffer[0]).expect("arrives")).collect();
        assert!(!order.is_sorted());
    }

    #[test]
    fn draws_keep_to_loss_and_mean() {
        let shape = LinkShape { one_way: MS * 10, jitter_mean: MS, loss: 0.2 };
        let mut rng = StdRng::seed_from_u64(7);
        let drawn: Vec<Duration> = (0..20_000).filter_map(|_| shape.draw(&mut rng)).collect();
        let lost = 20_000 - drawn.len();
        assert!((3_700..4_300).contains(&lost), "{lost}");
        let mean = drawn.iter().sum::<Duration>() / u32::try_from(drawn.len()).expect("small");
        assert!((MS * 11).abs_diff(mean) < MS / 10, "{mean:?}");
    }
}
