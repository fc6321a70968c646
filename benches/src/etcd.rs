//! A three-member etcd on this machine, asked over gRPC as its own clients ask it.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Failure;
use crate::flood::Request;
use crate::grpc::bytes_field;
use crate::process::Process;
use crate::single::free_tcp;
use crate::wire::{self, Wire};

/// Until it has a leader.
const READY_MAX: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);
const MEMBERS: usize = 3;

/// Three members with a leader. They end with this value.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    /// As `etcd --version` tells it.
    pub version: String,
}

#[derive(Debug)]
struct Member {
    process: Process,
    client: SocketAddr,
}

impl Etcd {
    /// Starts it on free ports, its data in `dir`, with its own defaults: every entry is synced before it counts. Installs Debian's package first where
    /// there is none, and says so.
    ///
    /// # Errors
    /// When it is not to be had, or has no leader within a minute.
    pub fn start(dir: &Path) -> Result<Self, Failure> {
        let version = ensure_installed()?;
        let ports = (0..MEMBERS).map(|_| Ok((free_tcp()?, free_tcp()?))).collect::<Result<Vec<_>, Failure>>()?;
        let named = ports.iter().enumerate().map(|(index, (_, peer))| format!("m{index}=http://{peer}"));
        let everybody = named.collect::<Vec<_>>().join(",");
        let start = |(index, (client, peer)): (usize, &(SocketAddr, SocketAddr))| {
            Ok(Member { process: member(dir, index, [*client, *peer], &everybody)?, client: *client })
        };
        let members = ports.iter().enumerate().map(start).collect::<Result<Vec<_>, Failure>>()?;
        let mut etcd = Self { members, version };
        etcd.wait()?;
        Ok(etcd)
    }

    fn wait(&mut self) -> Result<(), Failure> {
        let by = Instant::now() + READY_MAX;
        while self.leader().is_none() || !self.members.iter().all(|member| is_healthy(member.client)) {
            let ended = self.members.iter_mut().find_map(|member| member.process.has_ended().then(|| member.process.last_words()));
            if ended.is_some() || Instant::now() > by {
                return Err(format!("etcd did not start:\n{}", ended.unwrap_or_default()).into());
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Where all members listen.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.members.iter().map(|member| member.client).collect()
    }

    /// Where the leader listens; `None` while there is none.
    #[must_use]
    pub fn leader(&self) -> Option<SocketAddr> {
        self.addresses().into_iter().find(|&client| {
            let status = status(client).unwrap_or_default();
            status["leader"].is_string() && status["leader"] == status["header"]["member_id"]
        })
    }

    /// Its processes.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().map(|member| member.process.pid()).collect()
    }
}

fn member(dir: &Path, index: usize, [client, peer]: [SocketAddr; 2], everybody: &str) -> Result<Process, Failure> {
    let (client, peer) = (format!("http://{client}"), format!("http://{peer}"));
    let name = format!("m{index}");
    let mut command = Command::new("etcd");
    command.arg("--data-dir").arg(dir.join(&name)).args(["--name", &name, "--logger", "zap", "--log-level", "error"]);
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer, "--initial-cluster", everybody]);
    let mut process = Process::start(&mut command, &dir.join(format!("{name}.log")))?;
    if let Some(mut stdout) = process.stdout() {
        std::thread::spawn(move || io::copy(&mut stdout, &mut io::sink()));
    }
    Ok(process)
}

fn status(client: SocketAddr) -> Result<Value, Failure> {
    let mut wire = Wire::connect(client, PATIENCE)?;
    Ok(serde_json::from_slice(wire.ask(&wire::with_body("POST", "/v3/maintenance/status", "", b"{}"))?.body)?)
}

fn is_healthy(client: SocketAddr) -> bool {
    let asked = Wire::connect(client, PATIENCE).and_then(|mut wire| wire.ask(&wire::get("/health")).map(|answer| answer.status));
    asked.is_ok_and(|status| status == 200)
}

/// A put of a value under `prefix` and the key's number.
#[must_use]
pub fn put(prefix: &str, value: &[u8]) -> Request {
    let key = Request::placed(prefix);
    Request::grpc("/etcdserverpb.KV/Put", &[bytes_field(1, key.as_bytes()), bytes_field(2, value)].concat())
}

/// A linearizable read of the key under `prefix` and the number: what etcd gives where nothing less is asked for.
#[must_use]
pub fn range(prefix: &str) -> Request {
    Request::grpc("/etcdserverpb.KV/Range", &bytes_field(1, Request::placed(prefix).as_bytes()))
}

fn ensure_installed() -> Result<String, Failure> {
    if let Some(version) = installed() {
        return Ok(version);
    }
    println!("There is no etcd: installing the distribution's package (apt-get install etcd-server). Its service is not used.\n");
    let script = "run() { if [ \"$(id -u)\" = 0 ]; then \"$@\"; else sudo -n \"$@\"; fi; }\n\
                  export DEBIAN_FRONTEND=noninteractive\n\
                  run apt-get update -qq; run apt-get install -y -qq --no-install-recommends etcd-server";
    let output = Command::new("/bin/sh").args(["-c", script]).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    installed().ok_or_else(|| format!("etcd cannot be installed; install it by hand and repeat:\n{said}").into())
}

fn installed() -> Option<String> {
    let output = Command::new("etcd").arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find_map(|line| line.strip_prefix("etcd Version: ").map(|version| format!("etcd {version}")))
}
