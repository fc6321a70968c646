//! Meshes for tests: certificates of a throw-away authority, a service that echoes, and waiting for what should come.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use isochrone_gossip::certs::{self, CA_VALIDITY, CertificatePem, LEAF_VALIDITY};
use isochrone_gossip::{
    Admission, Call, Channel, Credentials, Mesh, MeshOptions, PeerIdentity, RealSockets, Refused, Service, ServiceId, Sockets, WallClock,
};
use isochrone_ident::{ClusterName, Incarnation, NodeId, Region, StoreId, WallMicros};
use tokio::time::{Instant, sleep, timeout};

pub const NOW: WallMicros = WallMicros(1_700_000_000_000_000);
pub const SECOND: Duration = Duration::from_secs(1);

/// Answers with the request.
pub const ECHO: ServiceId = ServiceId(1);
/// Refuses.
pub const REFUSE: ServiceId = ServiceId(2);
/// Never answers.
pub const HANG: ServiceId = ServiceId(3);
/// Answers as many bytes as the request says.
pub const FILL: ServiceId = ServiceId(4);

/// Counts what it is asked.
#[derive(Default)]
pub struct TestService {
    pub calls: Mutex<BTreeMap<(NodeId, u8), u32>>,
}

impl TestService {
    pub fn count(&self, service: ServiceId) -> u32 {
        self.calls.lock().expect("whole").iter().filter(|((_, id), _)| *id == service.0).map(|(_, count)| count).sum()
    }
}

impl Service for TestService {
    fn call(&self, from: &PeerIdentity, service: ServiceId, body: Bytes, _deadline: Instant) -> BoxFuture<'static, Result<Bytes, Refused>> {
        *self.calls.lock().expect("whole").entry((from.node, service.0)).or_default() += 1;
        Box::pin(async move {
            match service {
                ECHO => Ok(body),
                FILL => Ok(Bytes::from(vec![7; body.iter().fold(0, |n, b| n << 8 | usize::from(*b))])),
                HANG => std::future::pending().await,
                _ => Err(Refused("not this one".to_owned())),
            }
        })
    }

    fn stream(&self, _from: PeerIdentity, _service: ServiceId, mut channel: Channel) {
        tokio::spawn(async move {
            loop {
                match channel.recv().await {
                    Ok(Some(frame)) if channel.send(frame.clone()).await.is_ok() => {}
                    Ok(None) => return channel.finish(),
                    _ => return,
                }
            }
        });
    }
}

/// Admits everybody but those removed, and with any store but those retired.
#[derive(Default)]
pub struct TestAdmission {
    pub removed: Mutex<Vec<NodeId>>,
    pub retired: Mutex<Vec<(NodeId, StoreId)>>,
}

impl Admission for TestAdmission {
    fn admit(&self, peer: &PeerIdentity) -> Result<(), String> {
        if self.removed.lock().expect("whole").contains(&peer.node) { Err("removed".to_owned()) } else { Ok(()) }
    }

    fn admit_store(&self, peer: &PeerIdentity, store: StoreId) -> Result<(), String> {
        let retired = self.retired.lock().expect("whole");
        if retired.contains(&(peer.node, store)) { Err("retired".to_owned()) } else { Ok(()) }
    }
}

/// One daemon of a test.
pub struct Node {
    pub mesh: Mesh,
    pub service: Arc<TestService>,
    pub admission: Arc<TestAdmission>,
}

impl Node {
    pub fn id(&self) -> NodeId {
        self.mesh.me().identity.node
    }

    pub fn address(&self) -> String {
        self.mesh.me().address.clone()
    }

    pub async fn echo(&self, to: NodeId, body: &'static [u8]) -> Result<Bytes, isochrone_gossip::CallError> {
        self.mesh.call(to, Call::new(ECHO, Bytes::from_static(body), SECOND * 2)).await
    }
}

pub fn cluster() -> ClusterName {
    ClusterName::new("demo").expect("a name")
}

pub fn identity(node: u128) -> PeerIdentity {
    let region = ["us-east", "eu-west", "ap-northeast"][usize::try_from(node % 3).expect("small")];
    PeerIdentity { cluster: cluster(), region: Region::new(region).expect("a name"), node: NodeId(node) }
}

pub fn authority() -> CertificatePem {
    certs::create_ca(&cluster(), NOW, CA_VALIDITY).expect("made")
}

pub fn credentials(ca: &CertificatePem, identity: &PeerIdentity) -> Credentials {
    let own = certs::issue_node(ca, identity, &[], NOW, LEAF_VALIDITY).expect("made");
    Credentials::Memory { own, authorities: ca.certificate.clone() }
}

/// A wall clock that goes with tokio's (virtual) time.
pub fn wall() -> WallClock {
    let start = Instant::now();
    Arc::new(move || WallMicros(NOW.0 + u64::try_from(start.elapsed().as_micros()).expect("small")))
}

pub fn options(ca: &CertificatePem, node: u128, seeds: &[String]) -> MeshOptions {
    let identity = identity(node);
    let mut options = MeshOptions::new(identity.clone(), credentials(ca, &identity), StoreId(node), Incarnation(1), wall(), 42);
    options.seeds = seeds.to_vec();
    options
}

pub async fn start(options: MeshOptions, sockets: Arc<dyn Sockets>) -> Node {
    let (service, admission) = (Arc::<TestService>::default(), Arc::<TestAdmission>::default());
    let mesh = Mesh::start(options, sockets, service.clone(), admission.clone()).await.expect("starts");
    Node { mesh, service, admission }
}

/// A daemon on loopback.
pub async fn real(ca: &CertificatePem, node: u128, seeds: &[String]) -> Node {
    start(options(ca, node, seeds), Arc::new(RealSockets::default())).await
}

pub fn ip(node: u128) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, u8::try_from(node).expect("small")))
}

pub fn sim_address(node: u128) -> SocketAddr {
    SocketAddr::new(ip(node), 7946)
}

/// Waits until something holds.
pub async fn until(what: &str, within: Duration, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(within, wait).await.is_ok(), "not within {within:?}: {what}");
}

/// Waits until each of the nodes has a connection to each other one.
pub async fn until_meshed(nodes: &[&Node]) {
    until("everybody is connected", SECOND * 20, || {
        nodes.iter().all(|a| nodes.iter().all(|b| a.id() == b.id() || a.mesh.is_connected(b.id())))
    })
    .await;
}
