//! What a read costs that is answered at a glance: `cargo run --release -p isochrone-edge --example hot_path`.
//!
//! Prints the time of one call of the API, and the CPU time of the server's thread per request over real sockets.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::Request;
use http_body_util::Empty;
use isochrone_edge::{
    Api, Auth, Backend, ClientListener, EdgeLimits, Glance, Level, ListCommand, ListPage, ListenerOptions, Mode, NamespaceView, Object,
    ReadCommand, Receipt, Refusal, Served, Source, WriteCommand, Written,
};
use isochrone_ident::{Hlc, Incarnation, Namespace, NodeId, Region, Version, WallMicros};

const REQUESTS: usize = 200_000;
const CONNECTIONS: usize = 16;
/// As long as a token of a few regions.
const TOKEN_BYTES: usize = 160;

/// Fixed values behind a map.
struct Fixed {
    objects: BTreeMap<Vec<u8>, Object>,
    region: Region,
    /// What every answer to a request with a token says.
    token: Arc<str>,
}

impl Fixed {
    fn serve(&self, key: &[u8], session: Option<&str>) -> Served {
        let receipt = Receipt {
            consistency: Level::Local,
            region: self.region.clone(),
            age_ms: Some(0),
            session: session.map(|_| Arc::clone(&self.token)),
            path: None,
        };
        Served { object: self.objects.get(key).cloned(), receipt, source: Source::Hit }
    }
}

impl Backend for Fixed {
    fn namespace(&self, ns: &Namespace) -> Option<NamespaceView> {
        let view = NamespaceView { mode: Mode::Eventual, evictable: false, ttl_default: None, ttl_max: None, value_bytes: 1 << 20 };
        (ns.as_str() == "data").then_some(view)
    }

    fn glance(&self, _ns: &Namespace, key: &[u8], _level: Level, session: Option<&str>) -> Glance {
        Glance::Answer(self.serve(key, session))
    }

    fn read(&self, command: ReadCommand) -> BoxFuture<'_, Result<Served, Refusal>> {
        Box::pin(async move { Ok(self.serve(command.key.as_bytes(), None)) })
    }

    fn write(&self, _command: WriteCommand) -> BoxFuture<'_, Result<Written, Refusal>> {
        Box::pin(async { Err(Refusal::DeadlineBefore) })
    }

    fn list(&self, _command: ListCommand) -> BoxFuture<'_, Result<ListPage, Refusal>> {
        Box::pin(async { Err(Refusal::DeadlineBefore) })
    }
}

fn object(n: u64) -> Object {
    let version = Version { hlc: Hlc::at(WallMicros(1_700_000_000_000_000 + n)), node: NodeId(u128::MAX / 3), incarnation: Incarnation(3) };
    Object {
        value: Bytes::from(vec![b'x'; 1024]),
        content_type: Some("text/plain".into()),
        version,
        expires_at: Some(WallMicros(u64::MAX >> 8)),
    }
}

fn main() {
    let objects = (0..1000).map(|n| (format!("key-{n}").into_bytes(), object(n))).collect();
    let backend = Fixed { objects, region: Region::new("us-east").unwrap(), token: "t".repeat(TOKEN_BYTES).into() };
    let limits = EdgeLimits::default();
    let wall = Arc::new(|| WallMicros(1_800_000_000_000_000));
    let api = Api::new(Arc::new(backend), Arc::new(Auth::none()), limits.clone(), wall);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(call(&api, None));
    runtime.block_on(call(&api, Some("t".repeat(TOKEN_BYTES))));
    let options = ListenerOptions { address: "127.0.0.1:0".parse().unwrap(), threads: 1, tls: None, limits };
    let listener = ClientListener::start(&options, api).unwrap();
    over_sockets(listener.address());
}

async fn call(api: &Api, token: Option<String>) {
    let request = |n: usize| {
        let uri = format!("/v1/kv/data/key-{}", n % 1000);
        let request = Request::get(uri).header("host", "x").header("accept", "*/*");
        let request = if let Some(token) = &token { request.header("isochrone-session", token) } else { request };
        request.body(Empty::<Bytes>::new()).unwrap()
    };
    // The namespace is remembered from the first request on.
    api.handle(request(0)).await;
    let requests: Vec<_> = (0..REQUESTS).map(request).collect();
    let started = Instant::now();
    for request in requests {
        std::hint::black_box(api.handle(request).await);
    }
    let what = if token.is_some() { "one call with a session token" } else { "one call of the API" };
    println!("{what}: {} ns", started.elapsed().as_nanos() / REQUESTS as u128);
}

fn over_sockets(address: SocketAddr) {
    let mut streams: Vec<TcpStream> = (0..CONNECTIONS).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut buffer = vec![0; 64 << 10];
    let before = edge_cpu_ms();
    let started = Instant::now();
    for round in 0..REQUESTS / CONNECTIONS {
        for stream in &mut streams {
            let request = format!("GET /v1/kv/data/key-{} HTTP/1.1\r\nhost: localhost:8080\r\naccept: */*\r\n\r\n", round % 1000);
            stream.write_all(request.as_bytes()).unwrap();
        }
        for stream in &mut streams {
            let mut got = stream.read(&mut buffer).unwrap();
            while got < 1024 {
                got += stream.read(&mut buffer[got..]).unwrap();
            }
        }
    }
    let took = started.elapsed();
    let cpu = edge_cpu_ms() - before;
    println!(
        "over sockets: {:.0} requests a second, {:.1} us of the server's CPU each",
        REQUESTS as f64 / took.as_secs_f64(),
        cpu * 1000.0 / REQUESTS as f64
    );
}

/// CPU time of the threads named `edge-...`, in milliseconds (in ticks of 10 ms).
fn edge_cpu_ms() -> f64 {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok);
    let stats = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
    let ticks = |stat: String| {
        let (name, rest) = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(") "))?;
        let fields: Vec<&str> = rest.split(' ').collect();
        name.starts_with("edge-").then(|| fields[11].parse::<f64>().unwrap_or(0.0) + fields[12].parse::<f64>().unwrap_or(0.0))
    };
    stats.filter_map(ticks).sum::<f64>() * 10.0
}
