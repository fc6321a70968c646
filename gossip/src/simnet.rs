//! A network in memory and in tokio's (virtual) time, for tests that need QUIC but no machine.
//!
//! Each host is an IP address. A packet's delay and loss are drawn from one seeded generator, so that a run with paused
//! time is the same each time. Packets due at the same instant arrive in the order in which they were sent.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::BoxFuture;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::{LinkShape, Sockets};

/// The packets that may wait for one socket; more are lost.
const INBOX_MAX: usize = 65_536;

/// A network in memory.
#[derive(Clone)]
pub struct SimNet(Arc<Mutex<Net>>);

struct Net {
    rng: StdRng,
    usual: LinkShape,
    shapes: BTreeMap<(IpAddr, IpAddr), LinkShape>,
    cuts: BTreeSet<(IpAddr, IpAddr)>,
    names: BTreeMap<String, SocketAddr>,
    inboxes: BTreeMap<SocketAddr, Arc<Mutex<Inbox>>>,
    sent: u64,
    trace: u128,
    start: Option<Instant>,
}

/// Where a packet came from, and its bytes.
type Packet = (SocketAddr, Box<[u8]>);

#[derive(Default)]
struct Inbox {
    /// By when they arrive, then by when they were sent.
    packets: BTreeMap<(Instant, u64), Packet>,
    waker: Option<Waker>,
    alarm: Option<Pin<Box<Sleep>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimNet {
    /// A network where every packet takes `usual`, unless set otherwise for a pair of hosts.
    #[must_use]
    pub fn new(seed: u64, usual: LinkShape) -> Self {
        Self(Arc::new(Mutex::new(Net {
            rng: StdRng::seed_from_u64(seed),
            usual,
            shapes: BTreeMap::new(),
            cuts: BTreeSet::new(),
            names: BTreeMap::new(),
            inboxes: BTreeMap::new(),
            sent: 0,
            trace: 0,
            start: None,
        })))
    }

    /// The sockets of one host.
    #[must_use]
    pub fn host(&self, ip: IpAddr) -> Arc<dyn Sockets> {
        Arc::new(Host { net: self.clone(), ip })
    }

    /// Shapes one direction between two hosts.
    pub fn set(&self, from: IpAddr, to: IpAddr, shape: LinkShape) {
        lock(&self.0).shapes.insert((from, to), shape);
    }

    /// Loses everything in one direction between two hosts until healed.
    pub fn cut(&self, from: IpAddr, to: IpAddr) {
        lock(&self.0).cuts.insert((from, to));
    }

    /// Ends the cut of one direction.
    pub fn heal(&self, from: IpAddr, to: IpAddr) {
        lock(&self.0).cuts.remove(&(from, to));
    }

    /// Lets a name (`host:port`) stand for an address.
    pub fn name(&self, name: &str, address: SocketAddr) {
        lock(&self.0).names.insert(name.to_owned(), address);
    }

    /// The number of packets sent so far, and a hash over when each was sent, from where to where, and how long it was: equal for
    /// equal runs. (What is in a packet is encrypted under keys that differ from run to run.)
    #[must_use]
    pub fn trace(&self) -> (u64, u128) {
        let net = lock(&self.0);
        (net.sent, net.trace)
    }
}

impl Net {
    fn send(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let now = Instant::now();
        self.sent += 1;
        self.note(now, from, to, bytes.len());
        let way = (from.ip(), to.ip());
        let shape = self.shapes.get(&way).copied().unwrap_or(self.usual);
        let Some(delay) = shape.draw(&mut self.rng) else { return };
        let Some(inbox) = self.inboxes.get(&to).filter(|_| !self.cuts.contains(&way)) else { return };
        let mut inbox = lock(inbox);
        if inbox.packets.len() < INBOX_MAX {
            inbox.packets.insert((now + delay, self.sent), (from, bytes.into()));
            if let Some(waker) = inbox.waker.take() {
                waker.wake();
            }
        }
    }

    fn note(&mut self, now: Instant, from: SocketAddr, to: SocketAddr, bytes: usize) {
        let micros = now.saturating_duration_since(*self.start.get_or_insert(now)).as_micros();
        let line = format!("{:x} {micros} {from} {to} {bytes}", self.trace);
        self.trace = xxhash_rust::xxh3::xxh3_128(line.as_bytes());
    }
}

struct Host {
    net: SimNet,
    ip: IpAddr,
}

impl Sockets for Host {
    fn bind(&self, addr: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let mut net = lock(&self.net.0);
        let free = |port: &u16| !net.inboxes.contains_key(&SocketAddr::new(self.ip, *port));
        let port = if addr.port() == 0 { (40_000..u16::MAX).find(free) } else { Some(addr.port()).filter(free) };
        let local = SocketAddr::new(self.ip, port.ok_or(io::ErrorKind::AddrInUse)?);
        let inbox = Arc::<Mutex<Inbox>>::default();
        net.inboxes.insert(local, inbox.clone());
        Ok(Arc::new(SimSocket { net: self.net.clone(), local, inbox }))
    }

    fn resolve(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        let found = name.parse().ok().or_else(|| lock(&self.net.0).names.get(name).copied());
        Box::pin(async move { found.map(|address| vec![address]).ok_or_else(|| io::ErrorKind::NotFound.into()) })
    }
}

struct SimSocket {
    net: SimNet,
    local: SocketAddr,
    inbox: Arc<Mutex<Inbox>>,
}

impl std::fmt::Debug for SimSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimSocket").field("local", &self.local).finish_non_exhaustive()
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        lock(&self.net.0).inboxes.remove(&self.local);
    }
}

impl Inbox {
    /// The next packet that has arrived; else arms the alarm for the next one that will.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Packet> {
        self.waker = Some(cx.waker().clone());
        let Some((&(due, _), _)) = self.packets.first_key_value() else { return Poll::Pending };
        if due > Instant::now() {
            let mut alarm = Box::pin(sleep_until(due));
            if alarm.as_mut().poll(cx).is_pending() {
                self.alarm = Some(alarm);
                return Poll::Pending;
            }
        }
        match self.packets.pop_first() {
            Some((_, packet)) => Poll::Ready(packet),
            None => Poll::Pending,
        }
    }
}

impl AsyncUdpSocket for SimSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        lock(&self.net.0).send(self.local, transmit.destination, transmit.contents);
        Ok(())
    }

    fn poll_recv(&self, cx: &mut Context<'_>, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> Poll<io::Result<usize>> {
        lock(&self.inbox).poll(cx).map(|(from, bytes)| {
            let len = bytes.len().min(bufs[0].len());
            bufs[0][..len].copy_from_slice(&bytes[..len]);
            meta[0] = RecvMeta { addr: from, len, stride: len, ecn: None, dst_ip: None };
            Ok(1)
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

/// For sockets that take every packet at once.
#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A one-way shape without jitter or loss, for tests.
#[must_use]
pub fn one_way(millis: u64) -> LinkShape {
    LinkShape { one_way: Duration::from_millis(millis), ..LinkShape::default() }
}
