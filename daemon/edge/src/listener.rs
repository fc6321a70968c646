//! Listeners: the client's, one thread and one current-thread runtime a core, and what it shares with the operator's.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use socket2::{Domain, Protocol as Transport, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::api::Api;
use crate::body::ResponseBody;
use crate::connection::{self, ConnectionMeter, Handler, Phase, Protocol, Shared, bare};
use crate::limits::EdgeLimits;
use crate::meter::refused;
use crate::problem::Kind;
use crate::tls::Tls;

/// Connections that the kernel holds before they are accepted, a socket each.
const BACKLOG: i32 = 1024;

/// After an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// While draining: no further connection for so long means that the kernel holds none.
const LAST_ACCEPT: Duration = Duration::from_millis(5);

/// Connections beyond the limit that are told so at a time, a thread each; more are just closed.
const TURNED_AWAY_MAX: usize = 64;

/// How long the threads may take to end once everything is cut.
const ABORT_TIME: Duration = Duration::from_secs(2);

/// Where and how to listen.
#[derive(Debug, Clone)]
pub struct ListenerOptions {
    /// The address; port 0 takes a free one.
    pub address: SocketAddr,
    /// Threads of a [`ClientListener`], one runtime each; 0: one a core.
    pub threads: usize,
    /// TLS, or plain HTTP/1.1 and h2c where `None`.
    pub tls: Option<Arc<Tls>>,
    /// The bounds.
    pub limits: EdgeLimits,
}

/// Why a listener did not start. Nothing is left open.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody else listens there.
    #[error("{0} is in use by another process; stop it, or choose another port")]
    InUse(SocketAddr),
    /// The address cannot be had.
    #[error("cannot listen on {address}: {reason}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        reason: io::Error,
    },
    /// A thread or its runtime could not be made.
    #[error("cannot start a listener's thread: {0}")]
    Thread(io::Error),
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were cut because the time was over. 0: every accepted request was answered.
    pub cut: usize,
}

/// What starts and ends a listener, of either kind. Dropping it cuts everything.
struct Control {
    address: SocketAddr,
    phase: watch::Sender<Phase>,
    open: Arc<AtomicUsize>,
    /// Ends when every acceptor has ended.
    ended: mpsc::Receiver<()>,
}

impl Control {
    async fn drain(mut self, within: Duration) -> Drained {
        self.phase.send_replace(Phase::Draining);
        if timeout(within, self.ended.recv()).await.is_ok() {
            return Drained { cut: 0 };
        }
        let cut = self.open.load(Ordering::Relaxed);
        self.phase.send_replace(Phase::Aborted);
        if timeout(ABORT_TIME, self.ended.recv()).await.is_err() {
            tracing::error!(listener = %self.address, "a listener's threads do not end");
        }
        Drained { cut }
    }
}

/// One acceptor: what it needs to run.
struct Acceptor<H> {
    shared: Arc<Shared<H>>,
    tls: Option<Arc<Tls>>,
    phase: watch::Receiver<Phase>,
    open: Arc<AtomicUsize>,
    _running: mpsc::Sender<()>,
}

impl<H> Clone for Acceptor<H> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            tls: self.tls.clone(),
            phase: self.phase.clone(),
            open: Arc::clone(&self.open),
            _running: self._running.clone(),
        }
    }
}

fn prepare<H: Handler>(name: &'static str, options: &ListenerOptions, address: SocketAddr, handler: H) -> (Control, Acceptor<H>) {
    let (phase_sender, phase) = watch::channel(Phase::Serving);
    let (running, ended) = mpsc::channel(1);
    let open = Arc::new(AtomicUsize::new(0));
    let shared = Arc::new(Shared { handler, limits: options.limits.clone(), meter: ConnectionMeter::of(name) });
    let acceptor = Acceptor { shared, tls: options.tls.clone(), phase, open: Arc::clone(&open), _running: running };
    (Control { address, phase: phase_sender, open, ended }, acceptor)
}

/// A connection that is counted.
struct Counted {
    open: Arc<AtomicUsize>,
    gauge: metrics::Gauge,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.gauge.decrement(1.0);
    }
}

impl<H: Handler> Acceptor<H> {
    /// Accepts until the listener drains; then takes what the kernel had accepted already, closes the socket and waits for the rest.
    async fn run(mut self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        let mut turned_away = JoinSet::new();
        while *self.phase.borrow() == Phase::Serving {
            tokio::select! {
                biased;
                changed = self.phase.changed() => if changed.is_err() { break },
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                Some(_) = turned_away.join_next(), if !turned_away.is_empty() => {}
                accepted = listener.accept() => self.take(accepted, &mut connections, &mut turned_away).await,
            }
        }
        while let Ok(Ok(accepted)) = timeout(LAST_ACCEPT, listener.accept()).await {
            self.take(Ok(accepted), &mut connections, &mut turned_away).await;
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }

    async fn take(&self, accepted: io::Result<(TcpStream, SocketAddr)>, connections: &mut JoinSet<()>, turned_away: &mut JoinSet<()>) {
        match accepted {
            Ok((stream, _peer)) => match self.admit() {
                Some(counted) => {
                    connections.spawn(self.clone().serve(stream, counted));
                }
                None if turned_away.len() < TURNED_AWAY_MAX && self.tls.is_none() => {
                    turned_away.spawn(turn_away(stream));
                }
                None => {}
            },
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                refused("accept");
                tracing::warn!(%error, "cannot accept connections");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    fn admit(&self) -> Option<Counted> {
        let meter = &self.shared.meter;
        meter.accepted.increment(1);
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        meter.open.increment(1.0);
        let counted = Counted { open: Arc::clone(&self.open), gauge: meter.open.clone() };
        if before < self.shared.limits.connections {
            return Some(counted);
        }
        refused("connections");
        None
    }

    async fn serve(self, stream: TcpStream, _counted: Counted) {
        // A socket that cannot be set so is closed already, which the first read tells.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else {
            return connection::serve(stream, Protocol::Unknown, self.shared, self.phase).await;
        };
        match timeout(self.shared.limits.tls_handshake, tls.acceptor().accept(stream)).await {
            Ok(Ok(stream)) => {
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2".as_slice());
                let protocol = if is_http2 { Protocol::Http2 } else { Protocol::Http1 };
                connection::serve(stream, protocol, self.shared, self.phase).await;
            }
            Ok(Err(error)) => {
                self.shared.meter.tls_errors.increment(1);
                tracing::debug!(%error, "a TLS handshake failed");
            }
            Err(_) => refused("tls_handshake"),
        }
    }
}

/// Errors of one connection that was not accepted in time; the listener is well.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted)
}

/// Tells a client that there are too many, and reads away what it sends, so that it hears it.
async fn turn_away(mut stream: TcpStream) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let problem = Kind::NotReady.because("this daemon has as many connections as it takes; nothing was applied");
    let tell = async {
        stream.write_all(&bare(&problem)).await?;
        stream.shutdown().await?;
        let mut sink = [0; 4096];
        while stream.read(&mut sink).await? > 0 {}
        io::Result::Ok(())
    };
    // The client may be gone; it was turned away all the same.
    let _ = timeout(Duration::from_millis(500), tell).await;
}

/// A listening socket. `shared`: other sockets of this process listen on the same port (SO_REUSEPORT).
fn listen(address: SocketAddr, shared: bool) -> Result<StdListener, ListenError> {
    let bind = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Transport::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(shared)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        io::Result::Ok(StdListener::from(socket))
    };
    bind().map_err(|reason| match reason.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse(address),
        _ => ListenError::Bind { address, reason },
    })
}

/// A socket for each thread, all on one port.
///
/// With SO_REUSEPORT two daemons of one user could share a port without noticing. So a named port is first taken alone; a port that the kernel
/// chooses is nobody's anyway.
fn listen_all(address: SocketAddr, count: usize) -> Result<(SocketAddr, Vec<StdListener>), ListenError> {
    if address.port() != 0 {
        drop(listen(address, false)?);
    }
    let first = listen(address, true)?;
    let bound = first.local_addr().map_err(|reason| ListenError::Bind { address, reason })?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(listen(bound, true)?);
    }
    Ok((bound, sockets))
}

/// The client listener: HTTP/1.1 and h2c, or with TLS HTTP/1.1 and HTTP/2, on one thread and one current-thread runtime a core.
pub struct ClientListener(Control);

impl ClientListener {
    /// Starts to listen.
    ///
    /// # Errors
    /// [`ListenError`] when the address cannot be had; nothing is left open.
    pub fn start(options: &ListenerOptions, api: Api) -> Result<Self, ListenError> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if options.threads == 0 { cores() } else { options.threads };
        let (address, sockets) = listen_all(options.address, threads)?;
        let (control, acceptor) = prepare("client", options, address, api);
        for (index, socket) in sockets.into_iter().enumerate() {
            spawn(index, socket, acceptor.clone())?;
        }
        Ok(Self(control))
    }

    /// The address, with the port that was chosen.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Accepts nothing new, answers every request that was accepted, and ends. What is not done `within` that time is cut.
    pub async fn drain(self, within: Duration) -> Drained {
        self.0.drain(within).await
    }
}

fn spawn<H: Handler>(index: usize, socket: StdListener, acceptor: Acceptor<H>) -> Result<(), ListenError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ListenError::Thread)?;
    let body = move || {
        runtime.block_on(async move {
            match TcpListener::from_std(socket) {
                Ok(listener) => acceptor.run(listener).await,
                Err(error) => tracing::error!(%error, "a listener's socket cannot be used"),
            }
        });
    };
    std::thread::Builder::new().name(format!("edge-{index}")).spawn(body).map(drop).map_err(ListenError::Thread)
}

/// A listener on the caller's own runtime, for the operator.
pub struct AdminListener(Control);

impl AdminListener {
    /// Starts to listen. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`ListenError`] when the address cannot be had; nothing is left open.
    pub fn start(options: &ListenerOptions, admin: crate::admin::Admin) -> Result<Self, ListenError> {
        let socket = listen(options.address, false)?;
        let refuse = |reason| ListenError::Bind { address: options.address, reason };
        let address = socket.local_addr().map_err(refuse)?;
        let listener = TcpListener::from_std(socket).map_err(refuse)?;
        let (control, acceptor) = prepare("admin", options, address, admin);
        tokio::spawn(acceptor.run(listener));
        Ok(Self(control))
    }

    /// The address, with the port that was chosen.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// As [`ClientListener::drain`].
    pub async fn drain(self, within: Duration) -> Drained {
        self.0.drain(within).await
    }
}

impl Handler for Api {
    fn glance(&self, request: &mut Request<Incoming>) -> Option<Response<ResponseBody>> {
        Self::glance(self, request)
    }

    fn answer(&self, request: Request<Incoming>) -> BoxFuture<'static, Response<ResponseBody>> {
        Self::answer(self, request)
    }
}
