//! One daemon by `isochrone serve`, a cluster of its own.

use std::fs;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::cluster::is_ready;
use crate::process::Process;
use crate::setup::Setup;

/// A start may take so long, a repair of the store included.
const READY_MAX: Duration = Duration::from_secs(300);
/// How often it is asked whether it is ready.
const POLL: Duration = Duration::from_millis(2);

/// What to start, again and again, on the same data.
#[derive(Debug)]
pub struct Recipe {
    binary: PathBuf,
    config: PathBuf,
    log: PathBuf,
    /// Its client listener.
    pub http: SocketAddr,
    /// Its admin listener.
    pub admin: SocketAddr,
    /// Its data directory.
    pub data: PathBuf,
}

/// A daemon that is ready, and how long that took from the start of its process.
#[derive(Debug)]
pub struct Started {
    /// The daemon. It ends with this value.
    pub daemon: Process,
    /// From the start of the process to the first 200 of `/readyz` with an open client listener.
    pub ready_after: Duration,
}

impl Recipe {
    /// Makes certificates and a node file in `dir`.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn new(setup: &Setup, dir: &Path) -> Result<Self, Failure> {
        let own = |name: &str| dir.join(name);
        certificate(setup, Command::new(&setup.binary).args(["certs", "ca", "--cluster", "bench", "--dir"]).arg(own("ca")))?;
        let node = ["certs", "node", "--cluster", "bench", "--region", "us-east", "--ca-dir"];
        certificate(setup, Command::new(&setup.binary).args(node).arg(own("ca")).arg("--dir").arg(own("node")))?;
        let (http, admin, peer) = (free_tcp()?, free_tcp()?, free_udp()?);
        let config = own("node.toml");
        fs::write(&config, node_file(http, admin, peer))?;
        Ok(Self { binary: setup.binary.clone(), config, log: own("daemon.log"), http, admin, data: own("data") })
    }

    /// Starts the daemon and waits until it is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready after five minutes; with the end of its log.
    pub fn start(&self) -> Result<Started, Failure> {
        let started = Instant::now();
        let mut daemon = serve(&self.binary, &self.config, &self.log)?;
        while !is_ready(self.admin, self.http) {
            if daemon.has_ended() || started.elapsed() > READY_MAX {
                return Err(format!("the daemon did not become ready:\n{}", daemon.last_words()).into());
            }
            std::thread::sleep(POLL);
        }
        Ok(Started { daemon, ready_after: started.elapsed() })
    }
}

/// Starts `isochrone serve` with a node file. It ends with this process.
///
/// # Errors
/// When it cannot be started.
pub fn serve(binary: &Path, config: &Path, log: &Path) -> Result<Process, Failure> {
    let mut command = Command::new(binary);
    command.args(["serve", "--exit-with-stdin", "--config"]).arg(config);
    let mut daemon = Process::start(&mut command, log)?;
    // Logs may go to stdout: nobody reads them there, and a full pipe would stop the daemon.
    if let Some(mut stdout) = daemon.stdout() {
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    }
    Ok(daemon)
}

fn certificate(setup: &Setup, command: &mut Command) -> Result<(), Failure> {
    let output = command.output().map_err(|error| format!("cannot start {}: {error}", setup.binary.display()))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned().into()) }
}

/// A port on loopback that nobody listens at now.
///
/// # Errors
/// When there is none.
pub fn free_tcp() -> Result<SocketAddr, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn free_udp() -> Result<SocketAddr, Failure> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?)
}

fn node_file(http: SocketAddr, admin: SocketAddr, peer: SocketAddr) -> String {
    format!(
        "[node]\ncluster = \"bench\"\nregion = \"us-east\"\ndata_dir = \"data\"\n\n\
         [http]\nlisten = \"{http}\"\n\n[admin]\nlisten = \"{admin}\"\n\n\
         [peer]\nlisten = \"{peer}\"\nadvertise = \"{peer}\"\n\
         ca = \"ca/ca.crt\"\ncert = \"node/node.crt\"\nkey = \"node/node.key\"\n\n\
         [auth]\nmode = \"none\"\n\n[log]\nfilter = \"info,openraft=error\"\n"
    )
}
