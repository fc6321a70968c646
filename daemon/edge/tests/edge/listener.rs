//! Real sockets on loopback, port 0: what clients, good and bad, do to a listener.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use isochrone_edge::{Auth, ClientListener, EdgeLimits, ListenError, ListenerOptions, Tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::model::{Model, api};

const PATIENCE: Duration = Duration::from_secs(10);

fn start_with(model: &Arc<Model>, limits: &EdgeLimits, tls: Option<Arc<Tls>>) -> ClientListener {
    let options = ListenerOptions { address: "127.0.0.1:0".parse().unwrap(), threads: 2, tls, limits: limits.clone() };
    ClientListener::start(&options, api(model, Auth::none(), limits.clone())).unwrap()
}

fn start(limits: &EdgeLimits) -> (ClientListener, Arc<Model>) {
    let model = Model::new();
    (start_with(&model, limits, None), model)
}

/// Sends bytes and reads until the daemon closes.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    read_to_end(&mut stream).await
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    // A reset after the answer is an end as well.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("the daemon closes the connection");
    String::from_utf8_lossy(&all).into_owned()
}

async fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
    let mut all = Vec::new();
    while !String::from_utf8_lossy(&all).contains(wanted) {
        let count = timeout(PATIENCE, stream.read_buf(&mut all)).await.expect("in time").unwrap();
        assert!(count > 0, "closed after {:?}", String::from_utf8_lossy(&all));
    }
    String::from_utf8_lossy(&all).into_owned()
}

fn put(key: &str, value: &str) -> String {
    format!("PUT /v1/kv/data/{key} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{value}", value.len())
}

fn get(key: &str, last: bool) -> String {
    let end = if last { "connection: close\r\n" } else { "" };
    format!("GET /v1/kv/data/{key} HTTP/1.1\r\nhost: x\r\n{end}\r\n")
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (listener, _model) = start(&EdgeLimits::default());
    let all = [put("a", "one"), get("a", false), put("a", "two"), get("a", false), get("a", true)].concat();
    let answer = exchange(listener.address(), all.as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 204").count(), 2, "{answer}");
    let (one, two) = (answer.find("\r\n\r\none").unwrap(), answer.find("\r\n\r\ntwo").unwrap());
    assert!(one < two && answer.ends_with("two"));
}

#[tokio::test]
async fn malformed_requests_are_400_and_end_the_connection() {
    let (listener, model) = start(&EdgeLimits::default());
    let bad = [
        "GET /v1/kv/data/a\r\n\r\n",
        "GET /v1/kv/data/a HTTP/1.1\r\n\r\n",
        "GET /v1/kv/data/a HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "GET /v1/kv/data/a HTTP/1.1\r\nhost : a\r\n\r\n",
        "GET /v1/kv/data/a HTTP/1.1\r\nhost: a\r\n folded: b\r\n\r\n",
        "PUT /v1/kv/data/a HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxGET /v1/kv/data/b HTTP/1.1\r\nhost: a\r\n\r\n",
        "PUT /v1/kv/data/a HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        "PUT /v1/kv/data/a HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\nx",
        "PUT /v1/kv/data/a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\nx",
        "PUT /v1/kv/data/a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, gzip\r\n\r\nx",
        "PUT /v1/kv/data/a HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03\r\n\r\n",
    ];
    for request in bad {
        let answer = exchange(listener.address(), request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.0 400"), "{request:?} gave {answer:?}");
        assert_eq!(answer.matches("400 Bad Request").count(), 1, "{request:?} gave {answer:?}");
    }
    assert_eq!(model.writes(), 0);
}

#[tokio::test]
async fn a_body_with_two_lengths_ends_the_connection_so_that_nothing_is_smuggled() {
    let (listener, model) = start(&EdgeLimits::default());
    let smuggled = "PUT /v1/kv/data/evil HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx";
    let request =
        format!("PUT /v1/kv/data/a HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}");
    let answer = exchange(listener.address(), request.as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    assert!(!model.log.lock().unwrap().contains(&"evil".to_owned()));
    let broken = "PUT /v1/kv/data/b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nx\r\n0\r\n\r\n";
    let answer = exchange(listener.address(), broken.as_bytes()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(!model.log.lock().unwrap().contains(&"b".to_owned()));
}

#[tokio::test]
async fn a_header_that_is_too_large_is_431_with_a_problem_and_beyond_that_without() {
    let (listener, _model) = start(&EdgeLimits::default());
    let request = |bytes: usize| format!("GET /v1/kv/data/a HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx: {}\r\n\r\n", "x".repeat(bytes));
    let soft = exchange(listener.address(), request(20 << 10).as_bytes()).await;
    assert!(soft.starts_with("HTTP/1.1 431") && soft.contains("headers-too-large"), "{soft}");
    let hard = exchange(listener.address(), request(200 << 10).as_bytes()).await;
    assert!(hard.starts_with("HTTP/1.1 431"), "{hard}");
    let many = (0..300).map(|n| format!("x{n}: 1\r\n")).collect::<String>();
    let answer = exchange(listener.address(), format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test]
async fn a_value_that_is_too_large_is_413_even_while_the_client_still_sends() {
    let (listener, model) = start(&EdgeLimits::default());
    let mut stream = TcpStream::connect(listener.address()).await.unwrap();
    stream.write_all(b"PUT /v1/kv/data/a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    for _ in 0..64 {
        let chunk = format!("1000\r\n{}\r\n", "x".repeat(4096));
        if stream.write_all(chunk.as_bytes()).await.is_err() {
            break;
        }
    }
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("too-large"), "{answer}");
    let announced =
        exchange(listener.address(), b"PUT /v1/kv/data/a HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 99999\r\n\r\n")
            .await;
    assert!(announced.starts_with("HTTP/1.1 413"), "refused before the body is asked for: {announced}");
    assert_eq!(model.writes(), 0);
}

#[tokio::test]
async fn a_header_that_trickles_is_408_and_closed() {
    let limits = EdgeLimits { header_read: Duration::from_millis(300), ..EdgeLimits::default() };
    let (listener, _model) = start(&limits);
    let mut stream = TcpStream::connect(listener.address()).await.unwrap();
    let started = Instant::now();
    stream.write_all(b"GET /v1/kv/data/a HTTP/1.1\r\n").await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let trickle = tokio::spawn(async move {
        while writer.write_all(b"x: y\r\n").await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
    });
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, reader.read_to_end(&mut answer)).await.expect("closed");
    assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 408"), "{answer:?}");
    assert!(started.elapsed() < Duration::from_secs(5));
    trickle.abort();
}

#[tokio::test]
async fn a_slow_second_header_is_cut_off_as_well() {
    let limits = EdgeLimits { header_read: Duration::from_millis(300), ..EdgeLimits::default() };
    let (listener, _model) = start(&limits);
    let mut stream = TcpStream::connect(listener.address()).await.unwrap();
    stream.write_all(get("a", false).as_bytes()).await.unwrap();
    read_until(&mut stream, "not-found").await;
    stream.write_all(b"GET /").await.unwrap();
    assert!(read_to_end(&mut stream).await.contains("HTTP/1.1 408"));
}

#[tokio::test]
async fn silent_connections_are_closed() {
    let limits = EdgeLimits { header_read: Duration::from_millis(200), idle: Duration::from_millis(400), ..EdgeLimits::default() };
    let (listener, _model) = start(&limits);
    let mut fresh = TcpStream::connect(listener.address()).await.unwrap();
    assert_eq!(read_to_end(&mut fresh).await, "");
    let mut used = TcpStream::connect(listener.address()).await.unwrap();
    used.write_all(get("a", false).as_bytes()).await.unwrap();
    assert!(read_to_end(&mut used).await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn a_body_that_trickles_is_408_and_stores_nothing() {
    let limits = EdgeLimits { body_idle: Duration::from_millis(300), body_grace: Duration::from_millis(600), ..EdgeLimits::default() };
    let (listener, model) = start(&limits);
    let silent = exchange(listener.address(), b"PUT /v1/kv/data/a HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nx").await;
    assert!(silent.starts_with("HTTP/1.1 408") && silent.contains("too-slow"), "{silent}");
    let mut stream = TcpStream::connect(listener.address()).await.unwrap();
    stream.write_all(b"PUT /v1/kv/data/a HTTP/1.1\r\nhost: a\r\ncontent-length: 900\r\n\r\n").await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let trickle = tokio::spawn(async move {
        while writer.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(100)).await;
        }
    });
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, reader.read_to_end(&mut answer)).await.expect("closed");
    assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 408"), "a rate below the least: {answer:?}");
    trickle.abort();
    assert_eq!(model.writes(), 0);
}

#[tokio::test]
async fn too_many_connections_are_turned_away_and_room_is_made_again() {
    let limits = EdgeLimits { connections: 2, ..EdgeLimits::default() };
    let (listener, _model) = start(&limits);
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(listener.address()).await.unwrap();
        stream.write_all(get("a", false).as_bytes()).await.unwrap();
        read_until(&mut stream, "not-found").await;
        held.push(stream);
    }
    let refused = exchange(listener.address(), get("a", true).as_bytes()).await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("not-ready"), "{refused}");
    held.clear();
    let deadline = Instant::now() + PATIENCE;
    while !exchange(listener.address(), get("a", true).as_bytes()).await.starts_with("HTTP/1.1 404") {
        assert!(Instant::now() < deadline, "room is made again");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_drain_answers_every_accepted_request_and_then_ends() {
    let (listener, model) = start(&EdgeLimits::default());
    let address = listener.address();
    *model.delay.lock().unwrap() = Some(Duration::from_millis(400));
    let mut busy = Vec::new();
    for n in 0..8 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(put(&format!("k{n}"), "1").as_bytes()).await.unwrap();
        busy.push(stream);
    }
    let mut idle = TcpStream::connect(address).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    let drain = tokio::spawn(listener.drain(Duration::from_secs(5)));
    sleep(Duration::from_millis(50)).await;
    idle.write_all(put("late", "1").as_bytes()).await.unwrap();
    for stream in &mut busy {
        let answer = read_to_end(stream).await;
        assert!(answer.starts_with("HTTP/1.1 204") && answer.contains("connection: close"), "{answer}");
    }
    assert!(read_to_end(&mut idle).await.starts_with("HTTP/1.1 204"), "a request on its way over an accepted connection");
    assert_eq!(drain.await.unwrap().cut, 0);
    assert_eq!(model.writes(), 9);
    assert!(TcpStream::connect(address).await.is_err(), "nothing listens any more");
}

#[tokio::test]
async fn a_drain_that_takes_too_long_cuts_what_is_left() {
    let (listener, model) = start(&EdgeLimits::default());
    *model.delay.lock().unwrap() = Some(Duration::from_secs(5));
    let mut stream = TcpStream::connect(listener.address()).await.unwrap();
    stream.write_all(put("a", "1").as_bytes()).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    assert_eq!(listener.drain(Duration::from_millis(200)).await.cut, 1);
    assert_eq!(read_to_end(&mut stream).await, "");
}

#[tokio::test]
async fn a_second_daemon_on_a_port_is_told_so() {
    let (listener, model) = start(&EdgeLimits::default());
    let options = ListenerOptions { address: listener.address(), threads: 2, tls: None, limits: EdgeLimits::default() };
    let second = ClientListener::start(&options, api(&model, Auth::none(), EdgeLimits::default()));
    assert!(matches!(second, Err(ListenError::InUse(address)) if address == listener.address()));
    listener.drain(PATIENCE).await;
    assert!(ClientListener::start(&options, api(&model, Auth::none(), EdgeLimits::default())).is_ok(), "free again at once");
}

pub(crate) fn provider() {
    // Another test may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

#[tokio::test]
async fn http2_by_prior_knowledge_is_spoken_on_the_same_port() {
    provider();
    let (listener, _model) = start(&EdgeLimits::default());
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let url = format!("http://{}/v1/kv/data/a", listener.address());
    assert_eq!(client.put(&url).body("over h2").send().await.unwrap().status(), 204);
    let got = client.get(&url).send().await.unwrap();
    assert_eq!((got.version(), got.content_length()), (reqwest::Version::HTTP_2, Some(7)));
    assert_eq!(got.text().await.unwrap(), "over h2");
    let many: Vec<_> = (0..200).map(|_| client.get(&url).send()).collect();
    for answer in futures_util::future::join_all(many).await {
        assert_eq!(answer.unwrap().status(), 200);
    }
    assert_eq!(listener.drain(PATIENCE).await.cut, 0, "an HTTP/2 client is told to go");
}

struct Files {
    directory: tempfile::TempDir,
    authority: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl Files {
    fn new() -> Self {
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = rcgen::CertifiedIssuer::self_signed(parameters, rcgen::KeyPair::generate().unwrap()).unwrap();
        let files = Self { directory: tempfile::tempdir().unwrap(), authority };
        files.issue("localhost");
        files
    }

    fn issue(&self, name: &str) {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.authority).unwrap();
        std::fs::write(self.directory.path().join("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(self.directory.path().join("key.pem"), key.serialize_pem()).unwrap();
    }

    fn load(&self) -> Arc<Tls> {
        Arc::new(Tls::load(self.directory.path().join("cert.pem"), self.directory.path().join("key.pem")).unwrap())
    }

    fn client(&self, name: &str, address: SocketAddr) -> reqwest::ClientBuilder {
        let root = reqwest::Certificate::from_pem(self.authority.pem().as_bytes()).unwrap();
        reqwest::Client::builder().tls_certs_only([root]).resolve(name, address)
    }
}

#[tokio::test]
async fn tls_offers_http2_and_http1_and_takes_a_new_certificate_live() {
    provider();
    let files = Files::new();
    let tls = files.load();
    let model = Model::new();
    let listener = start_with(&model, &EdgeLimits::default(), Some(Arc::clone(&tls)));
    let (address, port) = (listener.address(), listener.address().port());
    let url = |name: &str| format!("https://{name}:{port}/v1/kv/data/a");
    let newest = files.client("localhost", address).build().unwrap().put(url("localhost")).body("1").send().await.unwrap();
    assert_eq!((newest.version(), newest.status().as_u16()), (reqwest::Version::HTTP_2, 204));
    let older = files.client("localhost", address).http1_only().build().unwrap().get(url("localhost")).send().await.unwrap();
    assert_eq!((older.version(), older.status().as_u16()), (reqwest::Version::HTTP_11, 200));

    files.issue("renamed");
    tls.reload().unwrap();
    let renamed = files.client("renamed", address).build().unwrap();
    assert_eq!(renamed.get(url("renamed")).send().await.unwrap().status(), 200);
    std::fs::write(files.directory.path().join("cert.pem"), "garbage").unwrap();
    assert!(tls.reload().is_err());
    let fresh = files.client("renamed", address).build().unwrap();
    assert_eq!(fresh.get(url("renamed")).send().await.unwrap().status(), 200, "the old one stays in force");

    let plain = exchange(address, get("a", true).as_bytes()).await;
    assert!(!plain.contains("HTTP/1.1 200"), "plain HTTP on a TLS port is not answered");
    drop((renamed, fresh));
    assert_eq!(listener.drain(PATIENCE).await.cut, 0);
}
