//! What bad peers get (rules M2, M3): a clear refusal, counted, and nothing lost.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use isochrone_gossip::certs::{self, CA_VALIDITY, CertificatePem, LEAF_VALIDITY};
use isochrone_gossip::{CloseCode, Credentials, PeerIdentity, RealSockets};
use isochrone_ident::{ClusterName, Incarnation, NodeId, StoreId};
use metrics_counts::Counts;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectionError, Endpoint};
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use support::*;

/// A recorder that only counts, for each thread's test.
mod metrics_counts {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use metrics::{Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

    #[derive(Clone, Default)]
    pub(crate) struct Counts(Arc<Mutex<BTreeMap<String, u64>>>);

    struct Cell(Counts, String);

    impl CounterFn for Cell {
        fn increment(&self, value: u64) {
            *self.0.0.lock().expect("whole").entry(self.1.clone()).or_default() += value;
        }

        fn absolute(&self, _value: u64) {}
    }

    impl Counts {
        pub(crate) fn refused(&self, reason: &str) -> u64 {
            let key = format!("isochrone_gossip_refused_total{{{reason}}}");
            self.0.lock().expect("whole").get(&key).copied().unwrap_or(0)
        }
    }

    impl Recorder for Counts {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            let labels: Vec<&str> = key.labels().map(|label| label.value()).collect();
            Counter::from_arc(Arc::new(Cell(self.clone(), format!("{}{{{}}}", key.name(), labels.join(",")))))
        }

        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::noop()
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }
}

/// One daemon, and what stands in its metrics. The guard lasts as long as the test, which runs in one thread.
struct Victim {
    node: Node,
    ca: CertificatePem,
    counts: Counts,
    _guard: metrics::LocalRecorderGuard<'static>,
}

impl Victim {
    async fn new() -> Self {
        let counts: &'static Counts = Box::leak(Box::default());
        let guard = metrics::set_default_local_recorder(counts);
        let ca = authority();
        let node = real(&ca, 1, &[]).await;
        Self { node, ca, counts: counts.clone(), _guard: guard }
    }

    fn addr(&self) -> SocketAddr {
        self.node.mesh.local_addr().expect("bound")
    }

    /// The daemon still serves its friends.
    async fn still_serves(&self) {
        let friend = real(&self.ca, 3, &[self.node.address()]).await;
        until("a friend is connected", SECOND * 5, || friend.mesh.is_connected(NodeId(1))).await;
        friend.echo(NodeId(1), b"well?").await.expect("answers");
    }

    async fn until_refused(&self, reason: &str) {
        until(reason, SECOND * 5, || self.counts.refused(reason) > 0).await;
    }
}

/// A QUIC client of our own making, which may misbehave in any way.
struct Raw {
    endpoint: Endpoint,
    config: quinn::ClientConfig,
}

impl Raw {
    fn new(trusted: &CertificatePem, own: Option<&CertificatePem>, alpn: &[u8]) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(der(trusted)).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(Anyone(provider.clone()));
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut tls = match own {
            Some(own) => {
                let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).expect("a key");
                builder.with_client_auth_cert(vec![der(own)], key).expect("a pair")
            }
            None => builder.with_no_client_auth(),
        };
        tls.alpn_protocols = vec![alpn.to_vec()];
        let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("good")));
        Self { endpoint: Endpoint::client("127.0.0.1:0".parse().expect("an address")).expect("binds"), config }
    }

    async fn connect(&self, to: SocketAddr) -> Result<quinn::Connection, ConnectionError> {
        self.endpoint.connect_with(self.config.clone(), to, "isochrone").expect("begins").await
    }

    /// How the connection ends, however it ends.
    async fn end(&self, to: SocketAddr) -> ConnectionError {
        match self.connect(to).await {
            Ok(connection) => tokio::time::timeout(SECOND * 10, connection.closed()).await.expect("ends"),
            Err(error) => error,
        }
    }
}

#[derive(Debug)]
struct Anyone(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("no".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn der(pem: &CertificatePem) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.certificate.as_bytes()).expect("a certificate")
}

fn node_certificate(ca: &CertificatePem, identity: &PeerIdentity) -> CertificatePem {
    certs::issue_node(ca, identity, &[], NOW, LEAF_VALIDITY).expect("made")
}

const ALPN: &[u8] = b"isochrone/1";

fn code_of(error: &ConnectionError) -> Option<u64> {
    match error {
        ConnectionError::ApplicationClosed(close) => Some(close.error_code.into_inner()),
        _ => None,
    }
}

#[tokio::test]
async fn m2_a_peer_without_a_certificate_is_refused() {
    let victim = Victim::new().await;
    let end = Raw::new(&victim.ca, None, ALPN).end(victim.addr()).await;
    assert!(matches!(end, ConnectionError::ConnectionClosed(_)), "{end:?}");
    victim.until_refused("no-certificate").await;
    victim.still_serves().await;
}

#[tokio::test]
async fn m2_a_peer_of_another_authority_is_refused() {
    let victim = Victim::new().await;
    let other = authority();
    Raw::new(&victim.ca, Some(&node_certificate(&other, &identity(2))), ALPN).end(victim.addr()).await;
    victim.until_refused("unknown-authority").await;
    victim.still_serves().await;
}

#[tokio::test]
async fn m2_a_peer_of_another_cluster_is_refused() {
    let victim = Victim::new().await;
    let stranger = PeerIdentity { cluster: ClusterName::new("other").expect("a name"), ..identity(2) };
    let end = Raw::new(&victim.ca, Some(&node_certificate(&victim.ca, &stranger)), ALPN).end(victim.addr()).await;
    assert_eq!(code_of(&end), Some(CloseCode::WrongCluster as u64), "{end:?}");
    victim.until_refused("wrong-cluster").await;
    victim.still_serves().await;
}

#[tokio::test]
async fn m2_a_clients_certificate_makes_no_peer() {
    let victim = Victim::new().await;
    let client = certs::issue_client(&victim.ca, &cluster(), "alice", NOW, LEAF_VALIDITY).expect("made");
    let end = Raw::new(&victim.ca, Some(&client), ALPN).end(victim.addr()).await;
    assert_eq!(code_of(&end), Some(CloseCode::BadIdentity as u64), "{end:?}");
    victim.until_refused("bad-identity").await;
}

#[tokio::test]
async fn m2_an_expired_certificate_is_refused() {
    let victim = Victim::new().await;
    let expired = certs::issue_node(&victim.ca, &identity(2), &[], NOW, Duration::ZERO).expect("made");
    tokio::time::sleep(SECOND).await;
    Raw::new(&victim.ca, Some(&expired), ALPN).end(victim.addr()).await;
    victim.until_refused("certificate-expired").await;
}

#[tokio::test]
async fn m2_a_removed_member_is_refused_and_its_connections_are_closed() {
    let victim = Victim::new().await;
    let friend = real(&victim.ca, 2, &[victim.node.address()]).await;
    until_meshed(&[&victim.node, &friend]).await;
    victim.node.admission.removed.lock().expect("whole").push(NodeId(2));
    until("its connection is closed", SECOND * 3, || !victim.node.mesh.is_connected(NodeId(2))).await;
    victim.until_refused("not-admitted").await;
    tokio::time::sleep(SECOND).await;
    assert!(!victim.node.mesh.is_connected(NodeId(2)));
    assert!(victim.node.mesh.peers().get(NodeId(2)).is_none());
    assert!(friend.echo(NodeId(1), b"x").await.is_err());
}

#[tokio::test]
async fn m2_a_retired_store_is_refused_and_told_so_while_its_node_comes_back_with_another() {
    let victim = Victim::new().await;
    let friend = real(&victim.ca, 2, &[victim.node.address()]).await;
    until_meshed(&[&victim.node, &friend]).await;
    assert_eq!(*friend.mesh.disowned().borrow(), None);
    victim.node.admission.retired.lock().expect("whole").push((NodeId(2), friend.mesh.me().store));
    until("the connected one is told", SECOND * 3, || *friend.mesh.disowned().borrow() == Some(NodeId(1))).await;
    victim.until_refused("store-retired").await;
    friend.mesh.leave().await;

    let mut again = options(&victim.ca, 2, &[victim.node.address()]);
    again.incarnation = Incarnation(2);
    let again = start(again, Arc::new(RealSockets::default())).await;
    until("the old store is told when it greets", SECOND * 3, || *again.mesh.disowned().borrow() == Some(NodeId(1))).await;
    assert!(!again.mesh.is_connected(NodeId(1)) && !victim.node.mesh.is_connected(NodeId(2)));
    again.mesh.leave().await;

    let mut anew = options(&victim.ca, 2, &[victim.node.address()]);
    (anew.incarnation, anew.store) = (Incarnation(3), StoreId(0xa_5703e));
    let anew = start(anew, Arc::new(RealSockets::default())).await;
    until_meshed(&[&victim.node, &anew]).await;
    assert_eq!(*anew.mesh.disowned().borrow(), None);
    assert!(anew.echo(NodeId(1), b"filled").await.is_ok());
}

#[tokio::test]
async fn m2_our_own_node_id_from_elsewhere_is_refused() {
    let victim = Victim::new().await;
    let end = Raw::new(&victim.ca, Some(&node_certificate(&victim.ca, &identity(1))), ALPN).end(victim.addr()).await;
    assert_eq!(code_of(&end), Some(CloseCode::OwnNodeId as u64), "{end:?}");
    victim.until_refused("own-node-id").await;
}

#[tokio::test]
async fn m2_a_node_id_that_is_taken_is_refused_until_the_incarnation_is_newer() {
    let victim = Victim::new().await;
    let first = real(&victim.ca, 2, &[victim.node.address()]).await;
    until_meshed(&[&victim.node, &first]).await;

    let mut twin = options(&victim.ca, 2, &[victim.node.address()]);
    twin.seed = 43;
    let twin = start(twin, Arc::new(RealSockets::default())).await;
    victim.until_refused("node-id-taken").await;
    assert!(first.echo(NodeId(1), b"still here").await.is_ok());
    assert!(!twin.mesh.is_connected(NodeId(1)));
    twin.mesh.leave().await;

    let mut restarted = options(&victim.ca, 2, &[victim.node.address()]);
    restarted.incarnation = Incarnation(2);
    let restarted = start(restarted, Arc::new(RealSockets::default())).await;
    until("the newer incarnation is taken", SECOND * 3, || restarted.mesh.is_connected(NodeId(1))).await;
    assert!(restarted.echo(NodeId(1), b"here now").await.is_ok());
}

#[tokio::test]
async fn m3_another_protocol_is_refused() {
    let victim = Victim::new().await;
    let own = node_certificate(&victim.ca, &identity(2));
    for alpn in [b"h3".as_slice(), b"isochrone/2"] {
        let end = Raw::new(&victim.ca, Some(&own), alpn).end(victim.addr()).await;
        assert!(matches!(end, ConnectionError::ConnectionClosed(_)), "{end:?}");
    }
    victim.until_refused("wrong-version").await;
    victim.still_serves().await;
}

#[tokio::test]
async fn garbage_instead_of_a_greeting_is_refused() {
    let victim = Victim::new().await;
    let own = node_certificate(&victim.ca, &identity(2));
    for garbage in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0; 4], vec![8, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9], vec![255; 5000]] {
        let connection = Raw::new(&victim.ca, Some(&own), ALPN);
        let connection = connection.connect(victim.addr()).await.expect("connects");
        let (mut send, _receive) = connection.open_bi().await.expect("opens");
        let _ = send.write_all(&garbage).await;
        let _ = send.finish();
        let end = tokio::time::timeout(SECOND * 5, connection.closed()).await.expect("ends");
        assert_eq!(code_of(&end), Some(CloseCode::BadGreeting as u64), "{end:?}");
    }
    assert!(victim.counts.refused("bad-greeting") >= 4);
    victim.still_serves().await;
}

#[tokio::test]
async fn a_peer_that_never_greets_is_given_up() {
    let victim = Victim::new().await;
    let own = node_certificate(&victim.ca, &identity(2));
    let raw = Raw::new(&victim.ca, Some(&own), ALPN);
    let connection = raw.connect(victim.addr()).await.expect("connects");
    tokio::time::timeout(SECOND * 8, connection.closed()).await.expect("ends");
    victim.until_refused("timeout").await;
}

/// The frame of a greeting: `Greeting::Hello { version, profile, process, serial, traffic: Foreground }`.
fn greeting(version: u16, node: u128) -> Vec<u8> {
    let profile = (identity(node), None::<u8>, 2_u128, 1_u64, "127.0.0.1:9");
    let body = postcard::to_allocvec(&(0_u8, version, profile, 77_u64, 0_u64, 0_u8)).expect("encodes");
    let mut frame = u32::try_from(body.len()).expect("short").to_le_bytes().to_vec();
    frame.extend(body);
    frame
}

/// Greets as a friend would that speaks that version.
async fn greeted(victim: &Victim, raw: &Raw, version: u16) -> quinn::Connection {
    let connection = raw.connect(victim.addr()).await.expect("connects");
    let (mut send, mut receive) = connection.open_bi().await.expect("opens");
    send.write_all(&greeting(version, 2)).await.expect("sent");
    receive.read_exact(&mut [0; 4]).await.expect("greeted back");
    connection
}

#[tokio::test]
async fn m3_the_previous_version_is_spoken_with_those_who_only_know_that() {
    let victim = Victim::new().await;
    let raw = Raw::new(&victim.ca, Some(&node_certificate(&victim.ca, &identity(2))), b"isochrone/0");
    let connection = greeted(&victim, &raw, 0).await;
    until("it is a peer", SECOND, || victim.node.mesh.is_connected(NodeId(2))).await;
    assert!(connection.close_reason().is_none());
}

#[tokio::test]
async fn m3_a_greeting_of_another_version_than_negotiated_is_refused() {
    let victim = Victim::new().await;
    let raw = Raw::new(&victim.ca, Some(&node_certificate(&victim.ca, &identity(2))), ALPN);
    let connection = raw.connect(victim.addr()).await.expect("connects");
    let (mut send, _receive) = connection.open_bi().await.expect("opens");
    send.write_all(&greeting(0, 2)).await.expect("sent");
    let end = tokio::time::timeout(SECOND * 5, connection.closed()).await.expect("ends");
    assert_eq!(code_of(&end), Some(CloseCode::WrongVersion as u64), "{end:?}");
}

#[tokio::test]
async fn m2_a_greeting_that_the_certificate_does_not_bear_out_is_refused() {
    let victim = Victim::new().await;
    let raw = Raw::new(&victim.ca, Some(&node_certificate(&victim.ca, &identity(2))), ALPN);
    let connection = raw.connect(victim.addr()).await.expect("connects");
    let (mut send, _receive) = connection.open_bi().await.expect("opens");
    send.write_all(&greeting(1, 5)).await.expect("sent");
    let end = tokio::time::timeout(SECOND * 5, connection.closed()).await.expect("ends");
    assert_eq!(code_of(&end), Some(CloseCode::BadIdentity as u64), "{end:?}");
    assert!(!victim.node.mesh.is_connected(NodeId(5)));
}

#[tokio::test]
async fn garbage_on_streams_and_datagrams_of_a_greeted_peer_is_refused() {
    let victim = Victim::new().await;
    let raw = Raw::new(&victim.ca, Some(&node_certificate(&victim.ca, &identity(2))), ALPN);
    let connection = greeted(&victim, &raw, 1).await;
    for garbage in [vec![3, 0, 0, 0, 9, 9, 9], vec![255; 64], vec![2, 0, 0, 0, 0, 1, 9]] {
        let (mut send, mut receive) = connection.open_bi().await.expect("opens");
        let _ = send.write_all(&garbage).await;
        let _ = send.finish();
        let end = tokio::time::timeout(SECOND * 5, receive.read_to_end(10)).await.expect("ends");
        assert!(end.is_err() || end == Ok(Vec::new()), "{end:?}");
    }
    for garbage in [&b""[..], b"\xff\xff\xff", &[1; 900]] {
        connection.send_datagram(bytes::Bytes::copy_from_slice(garbage)).expect("sent");
    }
    victim.until_refused("malformed-stream").await;
    victim.until_refused("frame-too-long").await;
    victim.until_refused("malformed-datagram").await;
    assert!(connection.close_reason().is_none(), "what else is on the connection is whole");
    victim.still_serves().await;
}

#[tokio::test]
async fn an_oversized_request_frame_is_refused_before_memory_is_taken() {
    let victim = Victim::new().await;
    let raw = Raw::new(&victim.ca, Some(&node_certificate(&victim.ca, &identity(2))), ALPN);
    let connection = greeted(&victim, &raw, 1).await;
    let (mut send, mut receive) = connection.open_bi().await.expect("opens");
    // Opening::Call { service: 1, deadline_ms: 5000 }, then a body said to have 4 GiB.
    let opening = postcard::to_allocvec(&(0_u8, 1_u8, 5000_u32)).expect("encodes");
    send.write_all(&u32::try_from(opening.len()).expect("short").to_le_bytes()).await.expect("sent");
    send.write_all(&opening).await.expect("sent");
    send.write_all(&[255; 4]).await.expect("sent");
    let end = tokio::time::timeout(SECOND * 5, receive.read_to_end(10)).await.expect("ends");
    assert!(end.is_err(), "{end:?}");
    victim.until_refused("frame-too-long").await;
    assert_eq!(victim.node.service.count(ECHO), 0);
}

#[tokio::test]
async fn a_daemon_with_anothers_certificate_does_not_start() {
    let ca = authority();
    let mut stolen = options(&ca, 1, &[]);
    stolen.credentials = credentials(&ca, &identity(2));
    let service = Arc::<TestService>::default();
    let outcome = isochrone_gossip::Mesh::start(stolen, Arc::new(RealSockets::default()), service, Arc::<TestAdmission>::default()).await;
    assert!(matches!(outcome, Err(isochrone_gossip::StartError::Tls(_))));
}

#[tokio::test]
async fn bundles_of_different_authorities_keep_two_clusters_of_one_name_apart() {
    let victim = Victim::new().await;
    let other = certs::create_ca(&cluster(), NOW, CA_VALIDITY).expect("made");
    let mut options = options(&other, 2, &[victim.node.address()]);
    options.credentials = Credentials::Memory { own: node_certificate(&other, &identity(2)), authorities: other.certificate.clone() };
    let stranger = start(options, Arc::new(RealSockets::default())).await;
    tokio::time::sleep(SECOND).await;
    assert!(!stranger.mesh.is_connected(NodeId(1)) && !victim.node.mesh.is_connected(NodeId(2)));
}
