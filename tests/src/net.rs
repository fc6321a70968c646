//! QUIC over turmoil: sockets whose packets are counted in the trace, lost, or cut off in one direction.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use futures_util::future::BoxFuture;
use isochrone_gossip::Sockets;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use turmoil::net::UdpSocket;

use crate::shared::{Shared, lock};

/// The port on which every simulated daemon listens.
pub const PORT: u16 = 7946;

/// What the network does to packets on their way, by sender and receiver.
pub struct NetFaults {
    rng: StdRng,
    nodes: usize,
    /// How many faults cut that way at the moment.
    cut: Vec<u32>,
    /// Packets in a million that are lost that way.
    lost_ppm: Vec<u32>,
    /// Bytes of the largest packet that gets through that way.
    bytes_max: Vec<usize>,
}

impl NetFaults {
    /// A network without faults.
    #[must_use]
    pub fn new(nodes: usize, seed: u64) -> Self {
        let ways = nodes * nodes;
        let rng = StdRng::seed_from_u64(seed ^ 0x10_55);
        Self { rng, nodes, cut: vec![0; ways], lost_ppm: vec![0; ways], bytes_max: vec![usize::MAX; ways] }
    }

    /// Cuts one way, or undoes one such cut.
    pub fn cut(&mut self, from: usize, to: usize, cut: bool) {
        let count = &mut self.cut[from * self.nodes + to];
        *count = if cut { *count + 1 } else { count.saturating_sub(1) };
    }

    /// Loses so many packets in a million one way.
    pub fn lose(&mut self, from: usize, to: usize, ppm: u32) {
        self.lost_ppm[from * self.nodes + to] = ppm;
    }

    /// Loses packets of more bytes than that one way.
    pub fn limit(&mut self, from: usize, to: usize, bytes_max: usize) {
        self.bytes_max[from * self.nodes + to] = bytes_max;
    }

    /// Ends every fault.
    pub fn heal(&mut self) {
        self.cut.fill(0);
        self.lost_ppm.fill(0);
        self.bytes_max.fill(usize::MAX);
    }

    fn passes(&mut self, from: usize, to: usize, bytes: usize) -> bool {
        let way = from * self.nodes + to;
        let lost = self.rng.random_range(0..1_000_000) < self.lost_ppm[way];
        self.cut[way] == 0 && bytes <= self.bytes_max[way] && !lost
    }
}

/// Hands out the one socket of a simulated host. Turmoil binds in an async function, so it is bound beforehand.
pub struct TurmoilSockets {
    socket: Mutex<Option<Arc<dyn AsyncUdpSocket>>>,
}

impl TurmoilSockets {
    /// Binds the socket of node number `me`; to be called on its host.
    ///
    /// # Errors
    /// What turmoil says.
    pub async fn bind(shared: &Arc<Shared>, me: usize) -> io::Result<Self> {
        let inner = Arc::new(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?);
        let local = SocketAddr::new(turmoil::lookup(shared.shape.nodes[me].name.as_str()), PORT);
        let socket = Socket { inner, local, me, shared: Arc::clone(shared), readable: Mutex::new(None) };
        Ok(Self { socket: Mutex::new(Some(Arc::new(socket))) })
    }
}

impl Sockets for TurmoilSockets {
    fn bind(&self, _: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        lock(&self.socket).take().ok_or_else(|| io::ErrorKind::AddrInUse.into())
    }

    fn resolve(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        let address = name.parse::<SocketAddr>().ok().or_else(|| {
            let (host, port) = name.split_once(':')?;
            Some(SocketAddr::new(turmoil::lookup(host), port.parse().ok()?))
        });
        Box::pin(async move { address.map(|a| vec![a]).ok_or_else(|| io::ErrorKind::NotFound.into()) })
    }
}

type Readable = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

struct Socket {
    inner: Arc<UdpSocket>,
    local: SocketAddr,
    me: usize,
    shared: Arc<Shared>,
    readable: Mutex<Option<Readable>>,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("local", &self.local).finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some(to) = self.shared.number_at(transmit.destination.ip()) else { return Ok(()) };
        let passes = lock(&self.shared.net).passes(self.me, to, transmit.contents.len());
        self.shared.note(format_args!("packet {} {to} {} {passes}", self.me, transmit.contents.len()));
        if passes {
            self.inner.try_send_to(transmit.contents, transmit.destination)?;
        }
        Ok(())
    }

    fn poll_recv(&self, cx: &mut Context<'_>, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> Poll<io::Result<usize>> {
        let mut waiting = lock(&self.readable);
        loop {
            match self.inner.try_recv_from(&mut bufs[0]) {
                Ok((len, addr)) => {
                    meta[0] = RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None };
                    return Poll::Ready(Ok(1));
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
                Err(_) => {}
            }
            let inner = Arc::clone(&self.inner);
            let readable = waiting.get_or_insert_with(|| Box::pin(async move { inner.readable().await }));
            let done = ready!(readable.as_mut().poll(cx));
            *waiting = None;
            done?;
        }
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
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
