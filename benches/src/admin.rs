//! What an operator asks of a daemon: its counters, its status, where a key lives; and what an operator changes: cuts between regions, the
//! cluster file.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Failure;
use crate::cluster::{Cluster, PATIENCE, Region};
use crate::wire::{self, Wire};

/// A daemon's counters and gauges at one moment, in the Prometheus text format.
#[derive(Debug, Clone, Default)]
pub struct Scrape(String);

impl Scrape {
    /// Asks an admin listener.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn of(admin: SocketAddr) -> Result<Self, Failure> {
        let mut wire = Wire::connect(admin, PATIENCE)?;
        let answer = wire.ask(&wire::get("/metrics"))?;
        if !answer.is_ok() {
            return Err(format!("{admin} answers {} to /metrics", answer.status).into());
        }
        Ok(Self(String::from_utf8_lossy(answer.body).into_owned()))
    }

    /// The sum over all series of which the name starts with `prefix` and the labels hold `label` (such as `direction="sent"`; empty is any).
    #[must_use]
    pub fn sum(&self, prefix: &str, label: &str) -> u64 {
        let values = self.series(prefix).filter(|(series, _)| series.contains(label)).map(|(_, value)| value);
        values.map(|value| value.max(0.0) as u64).sum()
    }

    /// Whether any series starts with `prefix`.
    #[must_use]
    pub fn has(&self, prefix: &str) -> bool {
        self.series(prefix).next().is_some()
    }

    fn series<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        let lines = self.0.lines().filter(move |line| line.starts_with(prefix));
        lines.filter_map(|line| line.rsplit_once(' ').and_then(|(series, value)| Some((series, value.parse().ok()?))))
    }
}

/// A sum as [`Scrape::sum`], over all regions.
///
/// # Errors
/// When one does not answer.
pub fn sum(cluster: &Cluster, prefix: &str, label: &str) -> Result<u64, Failure> {
    cluster.regions.iter().map(|region| Ok(Scrape::of(region.admin)?.sum(prefix, label))).sum()
}

/// Bytes in UDP datagrams that the regions have sent each other so far.
///
/// # Errors
/// When one does not answer.
pub fn sent_bytes(cluster: &Cluster) -> Result<u64, Failure> {
    sum(cluster, "isochrone_gossip_udp_bytes_total", "direction=\"sent\"")
}

/// A document of the admin API.
///
/// # Errors
/// When the daemon does not answer with one.
pub fn look(admin: SocketAddr, path: &str) -> Result<Value, Failure> {
    document(admin, &wire::get(path), path)
}

fn document(admin: SocketAddr, request: &[u8], path: &str) -> Result<Value, Failure> {
    let mut wire = Wire::connect(admin, PATIENCE)?;
    let answer = wire.ask(request)?;
    if !answer.is_ok() {
        return Err(format!("{path} was answered with {}: {}", answer.status, String::from_utf8_lossy(answer.body)).into());
    }
    Ok(serde_json::from_slice(answer.body)?)
}

impl Region {
    /// Live keys that its daemon holds.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn keys(&self) -> Result<u64, Failure> {
        Ok(look(self.admin, "/v1/admin/status")?["store"]["keys"].as_u64().unwrap_or(0))
    }

    /// Writes that its daemon still keeps for others.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn backlog(&self) -> Result<u64, Failure> {
        Ok(look(self.admin, "/v1/admin/status")?["replication"]["backlog"].as_u64().unwrap_or(0))
    }

    /// The regions of a key's replicas, first choice first.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn replicas_of(&self, ns: &str, key: &str) -> Result<Vec<String>, Failure> {
        let placement = look(self.admin, &format!("/v1/admin/placement/{ns}/{key}"))?;
        let replicas = placement["replicas"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(replicas.iter().filter_map(|replica| replica["region"].as_str().map(str::to_owned)).collect())
    }
}

/// Cuts a region off from all others, both ways, or heals that.
///
/// # Errors
/// When a daemon does not take it.
pub fn cut_off(cluster: &Cluster, name: &str, is_cut: bool) -> Result<(), Failure> {
    let wanted = json!({ "region": name, "cut": if is_cut { "both" } else { "none" } }).to_string();
    let path = "/v1/admin/emulation";
    let request = wire::with_body("PUT", path, "Content-Type: application/json\r\n", wanted.as_bytes());
    cluster.regions.iter().filter(|region| region.name != name).try_for_each(|region| document(region.admin, &request, path).map(drop))
}

/// Applies a cluster file.
///
/// # Errors
/// When it is refused.
pub fn apply(region: &Region, text: &str) -> Result<(), Failure> {
    let path = "/v1/admin/apply";
    let request = wire::with_body("POST", path, "Content-Type: application/toml\r\n", text.as_bytes());
    document(region.admin, &request, path).map(drop)
}

/// Waits until no daemon keeps a write for another one any more; how long that took.
///
/// # Errors
/// When that takes longer than `patience`, or a daemon does not answer.
pub fn drained(cluster: &Cluster, patience: Duration) -> Result<Duration, Failure> {
    let started = Instant::now();
    loop {
        let left = cluster.regions.iter().map(Region::backlog).sum::<Result<u64, Failure>>()?;
        if left == 0 {
            return Ok(started.elapsed());
        }
        if started.elapsed() > patience {
            return Err(format!("{left} writes still wait for a replica after {} s", patience.as_secs()).into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_prefix_and_label() {
        let text = "# HELP x_total y\n# TYPE x_total counter\nx_total{direction=\"sent\",peer=\"a b\"} 40\nx_total{direction=\"sent\"} 2\n\
                    x_total{direction=\"received\"} 7\nx_totality 1e3\n";
        let scrape = Scrape(text.to_owned());
        assert_eq!(scrape.sum("x_total{", "direction=\"sent\""), 42);
        assert_eq!(scrape.sum("x_total{", ""), 49);
        assert_eq!(scrape.sum("x_totality", ""), 1000);
        assert!(scrape.has("x_") && !scrape.has("y_"));
    }
}
