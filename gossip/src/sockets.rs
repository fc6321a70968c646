//! Where packets go: the one seam between QUIC and the world, so that the same mesh runs on real sockets, on real sockets with
//! emulated distance, and on a simulated network in virtual time.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime};
use socket2::{Domain, Protocol, Socket, Type};

/// Gives out UDP sockets, names and the clock that belong together.
pub trait Sockets: Send + Sync {
    /// A socket bound to that address; port 0 lets the system choose.
    ///
    /// # Errors
    /// What the system says; nothing stays bound.
    fn bind(&self, addr: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>>;

    /// The timers, tasks and clock for QUIC. Tokio's, whose time a simulation may pause, unless said otherwise.
    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(TokioRuntime)
    }

    /// The addresses that `host:port` stands for, in the order in which to try them. Addresses stand for themselves.
    fn resolve(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        let name = name.to_owned();
        Box::pin(async move {
            if let Ok(address) = name.parse::<SocketAddr>() {
                return Ok(vec![address]);
            }
            Ok(tokio::net::lookup_host(name).await?.collect())
        })
    }
}

/// The operating system's sockets.
#[derive(Debug, Clone, Copy)]
pub struct RealSockets {
    /// Receive and send buffer asked of the system, in bytes; it may give less. Default 4 MiB: one round trip at 100 ms and 320 Mbit/s.
    pub buffer_bytes: usize,
}

impl Default for RealSockets {
    fn default() -> Self {
        Self { buffer_bytes: 4 << 20 }
    }
}

impl RealSockets {
    /// A bound, non-blocking socket.
    pub(crate) fn bind_std(&self, addr: SocketAddr) -> io::Result<std::net::UdpSocket> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() && addr.ip().is_unspecified() {
            socket.set_only_v6(false)?;
        }
        // Best effort: the system's maximum may be lower, and a smaller buffer only costs speed.
        let _ = socket.set_recv_buffer_size(self.buffer_bytes);
        let _ = socket.set_send_buffer_size(self.buffer_bytes);
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        Ok(socket.into())
    }
}

impl Sockets for RealSockets {
    fn bind(&self, addr: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(self.bind_std(addr)?)
    }
}

impl fmt::Debug for dyn Sockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sockets")
    }
}
