//! The emulated network of a development cluster, as an operator sees and changes it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use isochrone_gossip::{Direction, EmulatedLink, Emulation, LinkShape};
use isochrone_ident::Region;
use serde::Deserialize;
use serde_json::json;

use super::core::lock;

/// An emulated network, and which region lies behind which address. Cloning shares it.
#[derive(Clone)]
pub struct EmulatedNetwork {
    emulation: Emulation,
    regions: Arc<Mutex<BTreeMap<SocketAddr, Region>>>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Cut {
    None,
    Outgoing,
    Incoming,
    Both,
}

/// What may be asked for: a region (all its daemons) or one address, and what is to change.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    region: Option<Region>,
    address: Option<SocketAddr>,
    cut: Option<Cut>,
    one_way_ms: Option<f64>,
    jitter_ms: Option<f64>,
    loss: Option<f64>,
}

impl EmulatedNetwork {
    /// A network without links.
    #[must_use]
    pub fn new(emulation: Emulation) -> Self {
        Self { emulation, regions: Arc::default() }
    }

    /// Lays these links, from now on, in place of those that were laid before. Cuts stay.
    pub fn lay(&self, links: impl Iterator<Item = (SocketAddr, Region, LinkShape)>) {
        let mut regions = lock(&self.regions);
        for address in std::mem::take(&mut *regions).into_keys() {
            self.emulation.set(address, LinkShape::default());
        }
        for (address, region, shape) in links {
            self.emulation.set(address, shape);
            regions.insert(address, region);
        }
    }

    /// Every link.
    pub(crate) fn show(&self) -> serde_json::Value {
        let links = self.emulation.links();
        let shown: Vec<serde_json::Value> = links.iter().map(|(address, link)| self.show_link(*address, link)).collect();
        json!({ "links": shown })
    }

    fn show_link(&self, address: SocketAddr, link: &EmulatedLink) -> serde_json::Value {
        let cut = match (link.cut_outgoing, link.cut_incoming) {
            (false, false) => "none",
            (true, false) => "outgoing",
            (false, true) => "incoming",
            (true, true) => "both",
        };
        json!({
            "address": address.to_string(),
            "region": lock(&self.regions).get(&address).map(ToString::to_string),
            "one_way_ms": link.shape.one_way.as_secs_f64() * 1e3,
            "jitter_ms": link.shape.jitter_mean.as_secs_f64() * 1e3,
            "loss": link.shape.loss,
            "cut": cut,
        })
    }

    /// Changes the links that the document names.
    ///
    /// # Errors
    /// A text for the operator; nothing was changed.
    pub(crate) fn change(&self, wanted: serde_json::Value) -> Result<(), String> {
        let form = "{\"region\": \"eu-west\", \"cut\": \"both\" | \"incoming\" | \"outgoing\" | \"none\", \"one_way_ms\": 40, \"jitter_ms\": 0.1, \"loss\": 0.01}";
        let wanted: Wanted = serde_json::from_value(wanted).map_err(|e| format!("{e}; the form is {form}"))?;
        let addresses: Vec<SocketAddr> = match (&wanted.region, wanted.address) {
            (Some(region), None) => lock(&self.regions).iter().filter(|(_, r)| *r == region).map(|(a, _)| *a).collect(),
            (None, Some(address)) => vec![address],
            _ => return Err(format!("name either a region or an address; the form is {form}")),
        };
        if addresses.is_empty() {
            return Err("no link leads to that region".to_owned());
        }
        let links = self.emulation.links();
        let shapes: Result<Vec<_>, String> =
            addresses.iter().map(|a| shape(&wanted, links.get(a).map(|l| l.shape).unwrap_or_default()).map(|s| (*a, s))).collect();
        for (address, shape) in shapes? {
            self.emulation.set(address, shape);
            self.cut(address, wanted.cut);
        }
        Ok(())
    }

    fn cut(&self, address: SocketAddr, cut: Option<Cut>) {
        let Some(cut) = cut else { return };
        self.emulation.heal(address);
        match cut {
            Cut::None => {}
            Cut::Outgoing => self.emulation.cut(address, Direction::Outgoing),
            Cut::Incoming => self.emulation.cut(address, Direction::Incoming),
            Cut::Both => self.emulation.cut(address, Direction::Both),
        }
    }
}

fn shape(wanted: &Wanted, before: LinkShape) -> Result<LinkShape, String> {
    let span = |ms: Option<f64>, before: Duration| match ms {
        None => Ok(before),
        Some(ms) if (0.0..=60_000.0).contains(&ms) => Ok(Duration::from_secs_f64(ms / 1e3)),
        Some(ms) => Err(format!("{ms} ms is outside 0 to 60000")),
    };
    let loss = wanted.loss.unwrap_or(before.loss);
    if !(0.0..=1.0).contains(&loss) {
        return Err(format!("a loss of {loss} is outside 0 to 1"));
    }
    Ok(LinkShape { one_way: span(wanted.one_way_ms, before.one_way)?, jitter_mean: span(wanted.jitter_ms, before.jitter_mean)?, loss })
}
