//! What `dev` gives each daemon: a certificate of an authority that only this directory knows, and a node file.

use std::fs;
use std::path::Path;

use isochrone_gossip::PeerIdentity;
use isochrone_gossip::certs::{CA_VALIDITY, CertificatePem, LEAF_VALIDITY, create_ca, issue_node};
use isochrone_ident::{ClusterName, NodeId, Region};
use rand::Rng;
use serde::Serialize;

use super::super::failure::Failure;
use super::super::wall_now;
use super::delays::{JITTER_MEAN_MS, OneWayMs};
use super::directory::Directory;
use super::ports::{Ports, loopback};

/// The cluster's name.
const CLUSTER: &str = "dev";
/// What daemons log: openraft tells every heartbeat at `info`, and every change of members at `warn`.
const LOG: &str = "info,openraft=error";
/// How long a daemon may finish its requests when `dev` stops.
const DRAIN: &str = "5s";

/// Makes sure that the authority and every region's certificate are there. A restart keeps them: node ids are in them.
///
/// # Errors
/// When a file cannot be read, written or understood.
pub(super) fn ensure_certificates(directory: &Directory, regions: &[&str]) -> Result<(), Failure> {
    let failed = |error: &dyn std::error::Error| Failure::failed("cannot make certificates", error.to_string());
    let cluster = ClusterName::new(CLUSTER).map_err(|error| failed(&error))?;
    let ca_dir = directory.root().join("ca");
    if !ca_dir.join("ca.crt").exists() {
        let ca = create_ca(&cluster, wall_now(), CA_VALIDITY).map_err(|error| failed(&error))?;
        write(&ca, &ca_dir, "ca")?;
    }
    let ca = CertificatePem { certificate: read(&ca_dir.join("ca.crt"))?, key: read(&ca_dir.join("ca.key"))? };
    for region in regions {
        let dir = directory.region(region);
        if !dir.join("node.crt").exists() {
            let name = Region::new(region).map_err(|error| failed(&error))?;
            let identity = PeerIdentity { cluster: cluster.clone(), region: name, node: NodeId(rand::rng().random()) };
            let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
            let node = issue_node(&ca, &identity, &names, wall_now(), LEAF_VALIDITY).map_err(|error| failed(&error))?;
            write(&node, &dir, "node")?;
        }
    }
    Ok(())
}

fn write(pem: &CertificatePem, dir: &Path, stem: &str) -> Result<(), Failure> {
    fs::create_dir_all(dir).and_then(|()| pem.write(dir, stem)).map_err(|error| Failure::file("write certificates into", dir, &error))
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| Failure::file("read", path, &error))
}

#[derive(Serialize)]
struct NodeFile<'a> {
    node: NodeSection<'a>,
    http: HttpSection,
    admin: Listen,
    peer: PeerSection,
    auth: AuthSection,
    log: LogSection,
    emulation: EmulationSection<'a>,
}

#[derive(Serialize)]
struct NodeSection<'a> {
    cluster: &'a str,
    region: &'a str,
    data_dir: &'a str,
}

#[derive(Serialize)]
struct HttpSection {
    listen: String,
    drain_timeout: &'static str,
}

#[derive(Serialize)]
struct Listen {
    listen: String,
}

#[derive(Serialize)]
struct PeerSection {
    listen: String,
    advertise: String,
    join: Vec<String>,
    ca: &'static str,
    cert: &'static str,
    key: &'static str,
}

#[derive(Serialize)]
struct AuthSection {
    mode: &'static str,
}

#[derive(Serialize)]
struct LogSection {
    filter: &'static str,
}

#[derive(Serialize)]
struct EmulationSection<'a> {
    enabled: bool,
    links: Vec<Link<'a>>,
}

#[derive(Serialize)]
struct Link<'a> {
    address: String,
    region: &'a str,
    one_way: String,
    jitter: String,
    loss: f64,
}

/// What the network between the regions is like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Network<'a> {
    /// One-way delays.
    pub(super) one_way_ms: &'a OneWayMs,
    /// Share of packets lost, 0 to 1.
    pub(super) loss: f64,
}

/// The node file of the region at `index`. Paths count from the file's own directory. Later regions join through earlier ones.
pub(super) fn node_file(regions: &[&str], ports: &[Ports], index: usize, network: Network<'_>) -> Result<String, toml::ser::Error> {
    let (region, own) = (regions[index], ports[index]);
    let address = |ports: &Ports| loopback(ports.peer).to_string();
    let others = regions.iter().zip(ports).filter(|(other, _)| **other != region);
    let links = others.map(|(other, ports)| Link {
        address: address(ports),
        region: other,
        one_way: format!("{}ms", network.one_way_ms[region][other]),
        jitter: format!("{JITTER_MEAN_MS}ms"),
        loss: network.loss,
    });
    let file = NodeFile {
        node: NodeSection { cluster: CLUSTER, region, data_dir: "data" },
        http: HttpSection { listen: loopback(own.http).to_string(), drain_timeout: DRAIN },
        admin: Listen { listen: loopback(own.admin).to_string() },
        peer: PeerSection {
            listen: address(&own),
            advertise: address(&own),
            join: ports[..index].iter().map(address).collect(),
            ca: "../ca/ca.crt",
            cert: "node.crt",
            key: "node.key",
        },
        auth: AuthSection { mode: "none" },
        log: LogSection { filter: LOG },
        emulation: EmulationSection { enabled: true, links: links.collect() },
    };
    toml::to_string(&file)
}

#[cfg(test)]
mod tests {
    use super::super::delays::{one_way_ms, regions};
    use super::*;

    fn ports(count: u16) -> Vec<Ports> {
        (0..count).map(|i| Ports { http: 8080 + i, admin: 9090 + i, peer: 7946 + i }).collect()
    }

    #[test]
    fn a_node_file_joins_through_earlier_regions_and_delays_all_others() {
        let delays = one_way_ms(3, 1.0);
        let text = node_file(regions(3), &ports(3), 2, Network { one_way_ms: &delays, loss: 0.01 }).expect("TOML");
        let file: toml::Value = toml::from_str(&text).expect("TOML");
        assert_eq!(file["peer"]["join"].as_array().expect("a list").len(), 2);
        assert_eq!(file["peer"]["listen"].as_str(), Some("127.0.0.1:7948"));
        let links = file["emulation"]["links"].as_array().expect("a list");
        assert_eq!(links.len(), 2);
        assert_eq!(links[0]["one_way"].as_str(), Some("82.5ms"));
        assert_eq!(links[1]["loss"].as_float(), Some(0.01));
    }

    #[test]
    fn the_first_region_joins_nobody() {
        let delays = one_way_ms(3, 1.0);
        let text = node_file(regions(3), &ports(3), 0, Network { one_way_ms: &delays, loss: 0.0 }).expect("TOML");
        assert!(text.contains("join = []"), "{text}");
    }

    #[test]
    fn certificates_are_kept_over_restarts() {
        let dir = tempfile::tempdir().expect("a directory");
        let directory = Directory::take(dir.path(), false).expect("taken");
        ensure_certificates(&directory, &["us-east"]).expect("made");
        let first = fs::read(directory.region("us-east").join("node.crt")).expect("read");
        ensure_certificates(&directory, &["us-east", "eu-west"]).expect("made");
        assert_eq!(fs::read(directory.region("us-east").join("node.crt")).expect("read"), first);
        assert!(directory.region("eu-west").join("node.key").exists());
    }
}
