//! Requests on many connections from one thread, over HTTP, gRPC or Redis' protocol alike: each connection sends its next request when it has the
//! answer to the last, at once or when the next is due. Requests are built beforehand but for the digits of their key, an answer is looked at
//! no further than needed, and one wait of the kernel serves all connections: the client costs the same for every protocol and leaves the
//! processors to the server.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::Failure;
use crate::grpc;
use crate::latency::Latencies;
use crate::pace::Schedule;
use crate::resp;
use crate::wire;

/// Digits of a key's number in a request.
const DIGITS: usize = 10;
/// What stands for the digits while a request is built.
const PLACE: &str = "##########";
/// An answer may have so many bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// An answer may take so long.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// How answers are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http,
    Grpc,
    Resp,
}

/// A request in which the digits of keys' numbers are filled in.
#[derive(Debug, Clone)]
pub struct Request {
    protocol: Protocol,
    bytes: Vec<u8>,
    /// Where digits go; everywhere the same ones.
    places: Vec<usize>,
}

impl Request {
    /// An HTTP request. Each run of ten `#` in path and body becomes the key's number.
    #[must_use]
    pub fn http(method: &str, path: &str, fields: &str, body: &[u8]) -> Self {
        Self::new(Protocol::Http, wire::with_body(method, path, fields, body))
    }

    /// A PUT of a value under `prefix` and the key's number.
    #[must_use]
    pub fn put(prefix: &str, value: &[u8]) -> Self {
        Self::http("PUT", &Self::placed(prefix), "", value)
    }

    /// A unary call of gRPC.
    #[must_use]
    pub fn grpc(path: &str, message: &[u8]) -> Self {
        Self::new(Protocol::Grpc, grpc::unary(path, message))
    }

    /// A prefix and the place of the key's number.
    #[must_use]
    pub fn placed(prefix: &str) -> String {
        format!("{prefix}{PLACE}")
    }

    /// A command of Redis', its words alike.
    #[must_use]
    pub fn resp(words: &[&[u8]]) -> Self {
        Self::new(Protocol::Resp, resp::command(words))
    }

    /// A SET of a value under `prefix` and the key's number.
    #[must_use]
    pub fn set(prefix: &str, value: &[u8]) -> Self {
        Self::resp(&[b"SET", Self::placed(prefix).as_bytes(), value])
    }

    fn new(protocol: Protocol, bytes: Vec<u8>) -> Self {
        let mut places = Vec::new();
        let mut at = 0;
        while let Some(found) = bytes[at..].windows(DIGITS).position(|part| part == PLACE.as_bytes()) {
            places.push(at + found);
            at += found + DIGITS;
        }
        Self { protocol, bytes, places }
    }

    fn number(&mut self, number: u64) {
        let digits = digits(number);
        for &at in &self.places {
            self.bytes[at..at + DIGITS].copy_from_slice(&digits);
        }
    }
}

fn digits(mut number: u64) -> [u8; DIGITS] {
    let mut digits = [b'0'; DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    digits
}

/// The digits of a number as they stand in requests.
#[must_use]
pub fn numbered(number: u64) -> String {
    format!("{number:0>DIGITS$}")
}

/// What is written, and for how long.
#[derive(Debug, Clone, Copy)]
pub enum Work {
    /// Keys at random below `keys`, as fast as answers come, until `end`.
    Random {
        /// Keys.
        keys: u64,
        /// When to stop.
        end: Instant,
    },
    /// Each key from `from` on once, in order, as fast as answers come, until `end`.
    InTurn {
        /// The first.
        from: u64,
        /// When to stop.
        end: Instant,
    },
    /// Each key below `keys` once, in order, as fast as answers come.
    Each {
        /// Keys.
        keys: u64,
    },
    /// Keys in turn below `keys`, so many a second from `start` to `end`. What falls behind is made up for as answers allow.
    Paced {
        /// Keys.
        keys: u64,
        /// Requests a second.
        rate: u32,
        /// When the first is due.
        start: Instant,
        /// When to stop.
        end: Instant,
    },
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Flooded {
    /// From a request's sending, or the time it was due, to its answer.
    pub times: Latencies,
    /// Answers that were not good.
    pub failed: u64,
    /// The last of those.
    pub last_failure: Option<String>,
    /// From the first request to the last answer.
    pub took: Duration,
}

impl Flooded {
    fn add(&mut self, other: &Self) {
        self.times.add(&other.times);
        self.failed += other.failed;
        self.last_failure = self.last_failure.take().or_else(|| other.last_failure.clone());
    }
}

/// Does the work on so many connections.
///
/// # Errors
/// When nobody listens there, or a connection breaks.
pub fn run(address: SocketAddr, connections: u32, request: &Request, work: Work) -> Result<Flooded, Failure> {
    run_over(&[address], connections, request, work)
}

/// Likewise, the connections spread over several servers.
///
/// # Errors
/// When nobody listens at one of them, or a connection breaks.
pub fn run_over(addresses: &[SocketAddr], connections: u32, request: &Request, work: Work) -> Result<Flooded, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(all(addresses, connections, request, work))
}

async fn all(addresses: &[SocketAddr], connections: u32, request: &Request, work: Work) -> Result<Flooded, Failure> {
    let next = Arc::new(AtomicU64::new(0));
    let mut lanes = JoinSet::new();
    for (lane, &address) in (0..connections).zip(addresses.iter().cycle()) {
        let opened = Lane::open(address, request.clone()).await?;
        let source = Source { work, next: Arc::clone(&next), random: SmallRng::seed_from_u64(u64::from(lane)), lane, connections, sent: 0 };
        lanes.spawn(opened.run(source));
    }
    let (started, mut sum) = (Instant::now(), Flooded::default());
    while let Some(seen) = lanes.join_next().await {
        sum.add(&seen??);
    }
    sum.took = started.elapsed();
    Ok(sum)
}

/// Where a connection's next key comes from.
struct Source {
    work: Work,
    next: Arc<AtomicU64>,
    random: SmallRng,
    lane: u32,
    connections: u32,
    sent: u32,
}

impl Source {
    /// The next key, and since when its time counts; `None` when all is done.
    async fn next(&mut self) -> Option<(u64, Instant)> {
        let now = Instant::now();
        match self.work {
            Work::Random { keys, end } => (now < end).then(|| (self.random.random_range(0..keys), now)),
            Work::InTurn { from, end } => (now < end).then(|| (from + self.next.fetch_add(1, Ordering::Relaxed), now)),
            Work::Each { keys } => {
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                (number < keys).then_some((number, now))
            }
            Work::Paced { keys, rate, start, end } => {
                let due = Schedule::of_lane(start, rate, self.lane, self.connections).due(self.sent);
                self.sent += 1;
                if due >= end || now >= end {
                    return None;
                }
                tokio::time::sleep_until(due.into()).await;
                Some((self.next.fetch_add(1, Ordering::Relaxed) % keys, due))
            }
        }
    }
}

struct Lane {
    stream: TcpStream,
    request: Request,
    answer: Vec<u8>,
    /// Of the last call, over gRPC; odd ones are the client's.
    call: u32,
}

impl Lane {
    async fn open(address: SocketAddr, request: Request) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut lane = Self { stream, request, answer: Vec::with_capacity(1024), call: 1 };
        if lane.request.protocol == Protocol::Grpc {
            lane.send(&grpc::opening()).await?;
            while !grpc::has_settings(&lane.answer) {
                lane.receive().await?;
            }
            lane.send(&grpc::settled()).await?;
        }
        Ok(lane)
    }

    async fn run(mut self, mut source: Source) -> io::Result<Flooded> {
        let mut seen = Flooded::default();
        while let Some((number, since)) = source.next().await {
            self.request.number(number);
            let is_good = tokio::time::timeout(ANSWER_MAX, self.ask()).await.map_err(|_| io::ErrorKind::TimedOut)??;
            seen.times.record(since.elapsed());
            if !is_good {
                seen.failed += 1;
                seen.last_failure = Some(String::from_utf8_lossy(&self.answer).into_owned());
            }
        }
        Ok(seen)
    }

    async fn ask(&mut self) -> io::Result<bool> {
        self.begin();
        let request = std::mem::take(&mut self.request.bytes);
        let sent = self.send(&request).await;
        self.request.bytes = request;
        sent?;
        loop {
            self.receive().await?;
            if let Some(is_good) = judged(self.request.protocol, &self.answer, self.call)? {
                return Ok(is_good);
            }
        }
    }

    /// Forgets the last answer; what has come of a frame of no call stays until it is whole.
    fn begin(&mut self) {
        if self.request.protocol != Protocol::Grpc {
            return self.answer.clear();
        }
        self.answer.drain(..grpc::whole(&self.answer));
        self.call += 2;
        grpc::renumber(&mut self.request.bytes, self.call);
    }

    /// What has come by now, at least one byte.
    async fn receive(&mut self) -> io::Result<()> {
        loop {
            self.stream.readable().await?;
            match self.stream.try_read_buf(&mut self.answer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn send(&self, mut rest: &[u8]) -> io::Result<()> {
        while !rest.is_empty() {
            self.stream.writable().await?;
            match self.stream.try_write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Whether a whole answer is good, over gRPC that of one call; `None` while there is more to come.
fn judged(protocol: Protocol, answer: &[u8], call: u32) -> io::Result<Option<bool>> {
    let judged = match protocol {
        Protocol::Resp => answer.ends_with(b"\r\n").then(|| matches!(answer.first(), Some(b'+' | b':'))),
        Protocol::Http => is_whole_http(answer)?.then(|| answer.starts_with(b"HTTP/1.1 2")),
        Protocol::Grpc => grpc::judged(answer, call)?,
    };
    if judged.is_none() && answer.len() > ANSWER_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long"));
    }
    Ok(judged)
}

fn is_whole_http(answer: &[u8]) -> io::Result<bool> {
    // An answer without a body ends with its head: most do, and need no search.
    if answer.ends_with(b"\r\n\r\n") && answer.starts_with(b"HTTP/1.1 204") {
        return Ok(true);
    }
    wire::length(answer).map(|length| length.is_some_and(|length| answer.len() >= length))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_number_stands_wherever_it_belongs() {
        let mut request = Request::http("POST", "/x/##########", "", b"{\"add\":[\"##########\"]}");
        request.number(1234);
        let text = String::from_utf8(request.bytes.clone()).expect("text");
        assert!(text.starts_with("POST /x/0000001234 HTTP/1.1\r\n"), "{text}");
        assert!(text.ends_with("{\"add\":[\"0000001234\"]}"), "{text}");
        assert_eq!(numbered(1234).as_bytes(), digits(1234));
        let mut request = Request::set("k", b"v");
        request.number(u64::from(u32::MAX));
        assert_eq!(request.bytes, b"*3\r\n$3\r\nSET\r\n$11\r\nk4294967295\r\n$1\r\nv\r\n");
    }

    #[test]
    fn an_answer_is_judged_when_it_is_whole() {
        let http = |text: &str| judged(Protocol::Http, text.as_bytes(), 0).expect("HTTP");
        assert_eq!(http("HTTP/1.1 204 No Content\r\netag: \"x\"\r\n"), None);
        assert_eq!(http("HTTP/1.1 204 No Content\r\netag: \"x\"\r\n\r\n"), Some(true));
        assert_eq!(http("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab"), None);
        assert_eq!(http("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"), Some(true));
        assert_eq!(http("HTTP/1.1 507 Full\r\ncontent-length: 0\r\n\r\n"), Some(false));
        assert_eq!(judged(Protocol::Resp, b"+O", 0).expect("RESP"), None);
        assert_eq!(judged(Protocol::Resp, b":12\r\n", 0).expect("RESP"), Some(true));
        assert_eq!(judged(Protocol::Resp, b"-ERR\r\n", 0).expect("RESP"), Some(false));
    }

    /// A server that answers every request, and counts them by their first line.
    fn server() -> (SocketAddr, std::sync::mpsc::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, tell) = (stream.expect("a client"), tell.clone());
                std::thread::spawn(move || {
                    let mut buffer = [0; 1024];
                    while let Ok(count @ 1..) = stream.read(&mut buffer) {
                        let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                        let _ = tell.send(text.lines().next().unwrap_or_default().to_owned());
                        let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
                    }
                });
            }
        });
        (address, told)
    }

    #[test]
    fn each_key_is_written_once() {
        let (address, told) = server();
        let seen = run(address, 4, &Request::put("/k/", b"v"), Work::Each { keys: 50 }).expect("done");
        assert_eq!((seen.times.count(), seen.failed), (50, 0));
        let mut lines: Vec<String> = told.try_iter().collect();
        lines.sort_unstable();
        let wanted: Vec<String> = (0..50).map(|number| format!("PUT /k/{} HTTP/1.1", numbered(number))).collect();
        assert_eq!(lines, wanted);
    }

    #[test]
    fn a_paced_flood_keeps_its_rate_and_a_random_one_its_end() {
        let (address, _told) = server();
        let start = Instant::now();
        let end = start + Duration::from_millis(200);
        let seen = run(address, 4, &Request::put("/k/", b"v"), Work::Paced { keys: 10, rate: 500, start, end }).expect("done");
        assert_eq!(seen.times.count(), 100);
        let end = Instant::now() + Duration::from_millis(50);
        let seen = run(address, 2, &Request::put("/k/", b"v"), Work::Random { keys: 10, end }).expect("done");
        assert!(seen.times.count() > 0 && Instant::now() >= end);
    }
}
