//! The ports of `dev`, and who is in the way when one is taken.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use super::super::failure::Failure;

/// The ports of one region's daemon, all on loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ports {
    /// Client API, TCP.
    pub(super) http: u16,
    /// Admin API, TCP.
    pub(super) admin: u16,
    /// Other daemons, UDP.
    pub(super) peer: u16,
}

/// What a port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Http,
    Admin,
    Peer,
}

impl Purpose {
    const ALL: [Self; 3] = [Self::Http, Self::Admin, Self::Peer];

    const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Admin => "admin",
            Self::Peer => "peer (UDP)",
        }
    }

    /// Where its ports start with the given base: 0 stands for any free one.
    fn first(self, base: Option<u16>) -> u16 {
        let (default, offset) = match self {
            Self::Http => (8080, 0),
            Self::Admin => (9090, 10),
            Self::Peer => (7946, 20),
        };
        match base {
            None => default,
            Some(0) => 0,
            Some(base) => base.saturating_add(offset),
        }
    }

    fn bind(self, port: u16) -> io::Result<Bound> {
        let address = (Ipv4Addr::LOCALHOST, port);
        if self == Self::Peer { UdpSocket::bind(address).map(Bound::Udp) } else { TcpListener::bind(address).map(Bound::Tcp) }
    }
}

/// A port held for a moment, so that no two regions get the same free one.
enum Bound {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Bound {
    fn port(&self) -> io::Result<u16> {
        match self {
            Self::Tcp(socket) => socket.local_addr(),
            Self::Udp(socket) => socket.local_addr(),
        }
        .map(|address| address.port())
    }
}

/// Chooses ports for the regions and makes sure that they are free right now. `peers` are the peer ports of earlier runs.
///
/// # Errors
/// Every port that is taken, by whom, and what to do.
pub(super) fn choose(regions: &[&str], base: Option<u16>, peers: &[u16]) -> Result<Vec<Ports>, Failure> {
    let mut held = Vec::new();
    let mut taken = Vec::new();
    let mut chosen = Vec::new();
    for (index, region) in regions.iter().enumerate() {
        let mut ports = [0; 3];
        for (purpose, port) in Purpose::ALL.into_iter().zip(&mut ports) {
            let wanted = wanted(purpose, base, peers, index);
            match purpose.bind(wanted).and_then(|bound| Ok((bound.port()?, bound))) {
                Ok((got, bound)) => {
                    *port = got;
                    held.push(bound);
                }
                Err(error) => taken.push(in_the_way(purpose, region, wanted, &error)),
            }
        }
        chosen.push(Ports { http: ports[0], admin: ports[1], peer: ports[2] });
    }
    if taken.is_empty() {
        return Ok(chosen);
    }
    Err(Failure::failed("ports that are needed are taken", format!("\n  {}", taken.join("\n  ")))
        .advise("Stop what holds them, or choose others: --port-base 18080, or --port-base 0 for any free ones (a second `dev` also wants its own --data-dir)."))
}

fn wanted(purpose: Purpose, base: Option<u16>, peers: &[u16], index: usize) -> u16 {
    match (purpose, peers.get(index), purpose.first(base)) {
        (Purpose::Peer, Some(&kept), _) => kept,
        (_, _, 0) => 0,
        (_, _, first) => first.saturating_add(u16::try_from(index).unwrap_or(u16::MAX)),
    }
}

fn in_the_way(purpose: Purpose, region: &str, port: u16, error: &io::Error) -> String {
    let what = format!("port {port}, {} of {region}", purpose.name());
    if error.kind() != io::ErrorKind::AddrInUse {
        return format!("{what}: {error}");
    }
    let tables: &[&str] = if purpose == Purpose::Peer { &["udp", "udp6"] } else { &["tcp", "tcp6"] };
    match tables.iter().find_map(|table| inode_of(table, port)).and_then(holder) {
        Some(holder) => format!("{what}, by {holder}"),
        None => format!("{what}, by another program"),
    }
}

/// The inode of the socket that is bound to a local port, from `/proc/net`.
fn inode_of(table: &str, port: u16) -> Option<u64> {
    const LISTENING: &str = "0A";
    let text = fs::read_to_string(format!("/proc/net/{table}")).ok()?;
    text.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let local = u16::from_str_radix(fields.get(1)?.rsplit(':').next()?, 16).ok()?;
        let is_bound = table.starts_with("udp") || *fields.get(3)? == LISTENING;
        (local == port && is_bound).then(|| fields.get(9)?.parse().ok()).flatten()
    })
}

/// The process that holds a socket: name and id. Only processes of the same user can be looked into.
fn holder(inode: u64) -> Option<String> {
    let wanted = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.filter_map(Result::ok) {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
        let holds = |file: fs::DirEntry| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str());
        if files.filter_map(Result::ok).any(holds) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (process {pid})", name.trim()));
        }
    }
    None
}

/// A loopback address with this port.
pub(super) fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_are_all_different() {
        let ports = choose(&["a", "b", "c"], Some(0), &[]).expect("free ones");
        let mut tcp: Vec<u16> = ports.iter().flat_map(|p| [p.http, p.admin]).collect();
        tcp.sort_unstable();
        tcp.dedup();
        assert_eq!(tcp.len(), 6);
        assert!(ports.iter().all(|p| p.peer != 0));
    }

    #[test]
    fn defaults_and_bases_count_up_region_by_region() {
        assert_eq!(wanted(Purpose::Http, None, &[], 2), 8082);
        assert_eq!(wanted(Purpose::Admin, None, &[], 1), 9091);
        assert_eq!(wanted(Purpose::Peer, None, &[], 0), 7946);
        assert_eq!(wanted(Purpose::Admin, Some(18080), &[], 1), 18091);
        assert_eq!(wanted(Purpose::Peer, Some(18080), &[], 1), 18101);
    }

    #[test]
    fn peer_ports_of_earlier_runs_are_kept() {
        assert_eq!(wanted(Purpose::Peer, Some(0), &[5555], 0), 5555);
        assert_eq!(wanted(Purpose::Peer, Some(0), &[5555], 1), 0);
        assert_eq!(wanted(Purpose::Http, Some(0), &[5555], 0), 0);
    }

    #[test]
    fn a_taken_port_is_named_with_its_holder() {
        let holder = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
        let port = holder.local_addr().expect("an address").port();
        let failure = choose(&["us-east"], Some(0), &[port]).expect_err("taken");
        let text = failure.to_string();
        assert!(text.contains(&format!("port {port}, peer (UDP) of us-east")), "{text}");
        assert!(text.contains("--port-base"), "{text}");
        assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    }
}
