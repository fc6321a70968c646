//! The `Sockets` seam fits a simulated network that hands out sockets of its own.

mod support;

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use isochrone_gossip::Sockets;
use isochrone_ident::NodeId;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use support::*;
use turmoil::net::UdpSocket;

struct TurmoilSockets;

impl Sockets for TurmoilSockets {
    fn bind(&self, addr: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let socket = UdpSocket::bind(addr).now_or_never().ok_or(io::ErrorKind::WouldBlock)??;
        Ok(Arc::new(TurmoilSocket { socket: Arc::new(socket), readable: Mutex::new(None) }))
    }

    fn resolve(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        let (host, port) = name.split_once(':').expect("host:port");
        let port = port.parse().expect("a port");
        let address = SocketAddr::new(host.parse().unwrap_or_else(|_| turmoil::lookup(host)), port);
        Box::pin(async move { Ok(vec![address]) })
    }
}

struct TurmoilSocket {
    socket: Arc<UdpSocket>,
    readable: Mutex<Option<BoxFuture<'static, io::Result<()>>>>,
}

impl std::fmt::Debug for TurmoilSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.socket.fmt(f)
    }
}

#[derive(Debug)]
struct Always;

impl UdpPoller for Always {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncUdpSocket for TurmoilSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Always)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send_to(transmit.contents, transmit.destination).map(|_| ())
    }

    fn poll_recv(&self, cx: &mut Context<'_>, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> Poll<io::Result<usize>> {
        let mut readable = self.readable.lock().expect("whole");
        loop {
            if readable.is_none() {
                match self.socket.try_recv_from(&mut bufs[0]) {
                    Ok((len, addr)) => {
                        meta[0] = RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None };
                        return Poll::Ready(Ok(1));
                    }
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
                    Err(_) => {}
                }
            }
            let socket = self.socket.clone();
            let waiting = readable.get_or_insert_with(|| Box::pin(async move { socket.readable().await }));
            ready!(waiting.as_mut().poll(cx))?;
            *readable = None;
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

fn run(seed: u64) -> u128 {
    let ca = authority();
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .min_message_latency(std::time::Duration::from_millis(10))
        .max_message_latency(std::time::Duration::from_millis(30))
        .simulation_duration(SECOND * 60)
        .build();
    for id in [1_u128, 2] {
        let ca = ca.clone();
        sim.host(format!("node-{id}"), move || {
            let ca = ca.clone();
            async move {
                let mut options = options(&ca, id, &["node-1:7946".to_owned()]);
                options.listen = (Ipv4Addr::UNSPECIFIED, 7946).into();
                options.advertise = Some(format!("node-{id}:7946"));
                let _node = start(options, Arc::new(TurmoilSockets)).await;
                std::future::pending().await
            }
        });
    }
    let elapsed = Arc::new(Mutex::new(0));
    let seen = elapsed.clone();
    sim.client("node-3", async move {
        let mut options = options(&ca, 3, &["node-1:7946".to_owned()]);
        options.listen = (Ipv4Addr::UNSPECIFIED, 7946).into();
        options.advertise = Some("node-3:7946".to_owned());
        let node = start(options, Arc::new(TurmoilSockets)).await;
        until("meshed", SECOND * 10, || node.mesh.is_connected(NodeId(1)) && node.mesh.is_connected(NodeId(2))).await;
        for _ in 0..20 {
            node.echo(NodeId(2), b"x").await.expect("answers");
        }
        *seen.lock().expect("whole") = turmoil::elapsed().as_nanos();
        Ok(())
    });
    sim.run().expect("runs");
    *elapsed.lock().expect("whole")
}

#[test]
fn three_daemons_mesh_on_turmoil_and_the_same_seed_takes_the_same_time() {
    assert_eq!(run(5), run(5));
}
