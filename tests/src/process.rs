//! Real daemons: processes of the built binary on free ports, each in a directory of its own, gone when dropped.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use isochrone_gossip::PeerIdentity;
use isochrone_gossip::certs::{self, CA_VALIDITY, CertificatePem, LEAF_VALIDITY};
use isochrone_ident::{ClusterName, NodeId, Region, WallMicros};

/// Far above what anything here takes on a busy machine.
pub const SOON: Duration = Duration::from_secs(40);

/// The binary beside the running test, built if it isn't there.
#[must_use]
pub fn binary() -> PathBuf {
    static BUILT: Once = Once::new();
    let test = std::env::current_exe().expect("a test has a path");
    let dir = test.ancestors().find(|dir| dir.ends_with("deps")).and_then(Path::parent).expect("tests are built into deps");
    let binary = dir.join("isochrone");
    BUILT.call_once(|| {
        if !binary.exists() {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let built = Command::new(cargo).args(["build", "--locked", "-p", "isochrone", "--bin", "isochrone"]).status();
            assert!(built.is_ok_and(|status| status.success()), "the daemon's binary could not be built");
        }
    });
    binary
}

/// Waits until something holds.
///
/// # Panics
/// When it does not within [`SOON`].
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < end, "not within {} s: {what}", SOON.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An authority with a directory for what it vouches for.
pub struct Authority {
    cluster: ClusterName,
    ca: CertificatePem,
}

impl Authority {
    /// A new authority for the cluster `tests`.
    #[must_use]
    pub fn new() -> Self {
        let cluster = ClusterName::new("tests").expect("a name");
        let ca = certs::create_ca(&cluster, now(), CA_VALIDITY).expect("the system has randomness");
        Self { cluster, ca }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

fn now() -> WallMicros {
    WallMicros(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros()).unwrap_or(u64::MAX))
}

/// What distinguishes one daemon from another.
pub struct Spec<'a> {
    /// Its region.
    pub region: &'a str,
    /// Its id.
    pub node: NodeId,
    /// Peers to join through.
    pub join: Vec<SocketAddr>,
    /// Further sections of its node file.
    pub more: String,
}

impl<'a> Spec<'a> {
    /// A daemon of that region that founds a cluster.
    #[must_use]
    pub fn new(region: &'a str, node: u128) -> Self {
        Self { region, node: NodeId(node), join: Vec::new(), more: String::new() }
    }

    /// Joins through another daemon.
    #[must_use]
    pub fn joining(mut self, other: &Daemon) -> Self {
        self.join.push(other.peer);
        self
    }

    /// With further sections of the node file.
    #[must_use]
    pub fn with(mut self, more: &str) -> Self {
        self.more.push_str(more);
        self
    }
}

/// A daemon's process, ended when dropped; its directory goes with it.
pub struct Daemon {
    /// Its directory.
    pub dir: tempfile::TempDir,
    /// Where peers reach it.
    pub peer: SocketAddr,
    http: SocketAddr,
    admin: SocketAddr,
    process: Option<Child>,
}

/// A free address of the loopback. Another process could take it before it is used, but the system gives out ports in turn.
fn free_tcp() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

/// The same for UDP.
#[must_use]
pub fn free_udp() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port")
}

impl Daemon {
    /// Writes a daemon's directory and starts it; it listens for peers at `peer`.
    #[must_use]
    pub fn start_at(authority: &Authority, spec: &Spec<'_>, peer: SocketAddr) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut daemon = Self { dir, peer, http: free_tcp(), admin: free_tcp(), process: None };
        daemon.write(authority, spec);
        daemon.start_again();
        daemon
    }

    /// Starts a daemon on a free port.
    #[must_use]
    pub fn start(authority: &Authority, spec: &Spec<'_>) -> Self {
        Self::start_at(authority, spec, free_udp())
    }

    /// Starts a daemon and waits until it is ready.
    #[must_use]
    pub fn ready(authority: &Authority, spec: &Spec<'_>) -> Self {
        let daemon = Self::start(authority, spec);
        daemon.wait_ready();
        daemon
    }

    fn write(&self, authority: &Authority, spec: &Spec<'_>) {
        let region = Region::new(spec.region).expect("a region's name");
        let identity = PeerIdentity { cluster: authority.cluster.clone(), region, node: spec.node };
        let own = certs::issue_node(&authority.ca, &identity, &[], now(), LEAF_VALIDITY).expect("issued");
        own.write(self.dir.path(), "node").expect("written");
        fs::write(self.dir.path().join("ca.crt"), &authority.ca.certificate).expect("written");
        let join: Vec<String> = spec.join.iter().map(|address| format!("{:?}", address.to_string())).collect();
        let mut text = format!("[node]\ncluster = \"tests\"\nregion = {:?}\ndata_dir = \"data\"\n", spec.region);
        let _ = write!(text, "[http]\nlisten = \"{}\"\nthreads = 1\n[admin]\nlisten = \"{}\"\n", self.http, self.admin);
        let _ = write!(text, "[peer]\nlisten = \"{0}\"\nadvertise = \"{0}\"\njoin = [{1}]\n", self.peer, join.join(", "));
        text.push_str("ca = \"ca.crt\"\ncert = \"node.crt\"\nkey = \"node.key\"\n[log]\nfilter = \"info,openraft=error\"\n");
        text.push_str(&spec.more);
        fs::write(self.dir.path().join("node.toml"), text).expect("written");
    }

    /// Starts the process on the directory as it is.
    pub fn start_again(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.dir.path().join("log")).expect("opened");
        let mut command = Command::new(binary());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ISOCHRONE")) {
            command.env_remove(name);
        }
        let started = command
            .args(["serve", "--config"])
            .arg(self.dir.path().join("node.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.process = Some(started.spawn().expect("started"));
    }

    /// Waits until it is ready.
    pub fn wait_ready(&self) {
        until(&format!("ready: {}", self.dir.path().display()), || {
            self.admin("GET", "/readyz", b"").is_some_and(|(status, _)| status == 200)
        });
    }

    /// Waits until the process has ended by itself.
    #[must_use]
    pub fn wait_end(&mut self) -> ExitStatus {
        let mut status = None;
        until("the daemon ends", || {
            status = self.process.as_mut().and_then(|process| process.try_wait().ok().flatten());
            status.is_some()
        });
        status.expect("it has ended")
    }

    /// Kills it as a loss of power would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// A request of a client.
    #[must_use]
    pub fn http(&self, method: &str, path: &str, body: &[u8]) -> Option<(u16, Vec<u8>)> {
        request(self.http, method, path, body)
    }

    /// A request of an operator.
    #[must_use]
    pub fn admin(&self, method: &str, path: &str, body: &[u8]) -> Option<(u16, Vec<u8>)> {
        request(self.admin, method, path, body)
    }

    /// Puts a value; says the status.
    #[must_use]
    pub fn put(&self, path: &str, value: &[u8]) -> u16 {
        self.http("PUT", path, value).map_or(0, |(status, _)| status)
    }

    /// The value, if there is one.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<Vec<u8>> {
        self.http("GET", path, b"").filter(|(status, _)| *status == 200).map(|(_, body)| body)
    }

    /// The members that it knows.
    #[must_use]
    pub fn members(&self) -> usize {
        let answer = self.admin("GET", "/v1/admin/members", b"").map(|(_, body)| body).unwrap_or_default();
        String::from_utf8_lossy(&answer).matches("\"incarnation\"").count()
    }

    /// The sum of all series of a metric.
    #[must_use]
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.admin("GET", "/metrics", b"").map(|(_, body)| String::from_utf8_lossy(&body).into_owned()).unwrap_or_default();
        let lines = text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the log of {}:\n{}", self.dir.path().display(), lines[lines.len().saturating_sub(30)..].join("\n"));
        }
    }
}

/// One HTTP/1.1 request on a connection of its own; `None` when there is no answer.
fn request(to: SocketAddr, method: &str, path: &str, body: &[u8]) -> Option<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let head = format!("{method} {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).ok()?;
    // A refusal may come before the body was taken.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let status = std::str::from_utf8(answer.get(9..12)?).ok()?.parse().ok()?;
    Some((status, answer[end + 4..].to_vec()))
}
