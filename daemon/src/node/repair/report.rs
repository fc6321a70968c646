//! How replication stands, for operators and for metrics.

use std::collections::BTreeMap;

use isochrone_config::Keeping;
use isochrone_edge::{Away, Divergence, PeerReplication, ReplicationReport};
use isochrone_gossip::Liveness;
use isochrone_ident::{Hlc, Namespace, NodeId, Slot};
use isochrone_replica::Sequence;

use crate::node::core::{Core, lock};
use crate::node::sender::REFUSED;
use crate::node::view::View;

impl Core {
    /// How the eventual path stands.
    pub(crate) fn replication_report(&self) -> ReplicationReport {
        let stable = self.stable();
        let stable_lag_ms = (stable > Hlc::ZERO).then(|| self.now().millis().saturating_sub(stable.wall().millis()));
        ReplicationReport {
            peers: self.peer_reports(),
            divergence: self.divergence_report(),
            copies: self.copies_view(),
            under_replicated_keys: self.under_replicated_keys(),
            stable_lag_ms,
            age_ms: self.age_ms(),
            away: self.away(),
            ..ReplicationReport::default()
        }
    }

    fn peer_reports(&self) -> Vec<PeerReplication> {
        let head = *self.head.borrow();
        let places: Vec<(NodeId, Sequence, Sequence)> = {
            let delivery = lock(&self.delivery);
            delivery.peers().map(|(peer, has)| (peer, has, delivery.resume(peer).map_or(has, |(_, at)| at))).collect()
        };
        let stats = self.store.stats();
        let average = stats.log_bytes / stats.log_entries.max(1);
        let mut reports: Vec<PeerReplication> = places
            .into_iter()
            .map(|(peer, has, at)| PeerReplication {
                node: peer.to_string(),
                region: self.region_of(peer),
                backlog: head.0.saturating_sub(has.0),
                backlog_bytes: Some(head.0.saturating_sub(at.0).saturating_mul(average)),
                oldest_ms: self.age_of_next(at, head),
                lapsed_since: lock(&self.repair.lapsed_since).get(&peer).map(|since| since.millis()),
                refusal: lock(&self.refusals_of_peers).get(&peer).and_then(|reason| reason.strip_prefix(REFUSED)).map(tidied),
            })
            .collect();
        reports.sort_by(|a, b| (&a.region, &a.node).cmp(&(&b.region, &b.node)));
        reports
    }

    /// How old the first operation after a place of the log is.
    fn age_of_next(&self, at: Sequence, head: Sequence) -> Option<u64> {
        let page = (at < head).then(|| self.store.log_after(at, 1).ok())??;
        let logged = page.operations.into_iter().next()?;
        Some(self.now().millis().saturating_sub(logged.version.hlc.wall().millis()))
    }

    fn divergence_report(&self) -> Vec<Divergence> {
        let view = self.view.load();
        let divergence = self.repair.divergence(|peer| view.members.contains_key(&peer));
        let told = |(peer, slots): (NodeId, BTreeMap<Slot, u64>)| {
            let region = self.region_of(peer);
            let told =
                move |(slot, keys): (Slot, u64)| Divergence { peer: peer.to_string(), region: region.clone(), slot: slot.number(), keys };
            slots.into_iter().map(told).collect::<Vec<Divergence>>()
        };
        divergence.into_iter().flat_map(told).collect()
    }

    /// The region of a member; nothing for another node.
    pub(super) fn region_of(&self, node: NodeId) -> String {
        self.view.load().members.get(&node).map_or_else(String::new, |member| member.region.to_string())
    }

    /// Whether this node needs a slot in that namespace, or in any that is durable.
    pub(super) fn holds(&self, only: Option<&Namespace>, slot: Slot) -> bool {
        let view = self.view.load();
        let is_meant = |ns: &Namespace| only.is_none_or(|only| only == ns);
        view.spec
            .namespaces()
            .any(|spec| is_meant(&spec.name) && spec.keeping == Keeping::Durable && view.needs(self.id(), &spec.name, slot))
    }

    /// Keys of slots of which a replica is gone, or not seen. A move, which begins by itself when a member is removed, puts others in their place.
    fn under_replicated_keys(&self) -> u64 {
        let (view, peers) = (self.view.load(), self.mesh.peers());
        let is_gone = |node: NodeId| {
            let is_seen = || peers.get(node).is_some_and(|peer| matches!(peer.liveness, Liveness::Alive | Liveness::Suspect));
            !view.members.contains_key(&node) || (node != self.id() && !is_seen())
        };
        let gone: BTreeMap<NodeId, bool> = replicas(&view).map(|node| (node, is_gone(node))).collect();
        let keys = |slot: Slot| {
            let mut replicas = view.placement.eventual.read_set(slot);
            let is_short = replicas.any(|node| gone.get(&node).copied().unwrap_or(true));
            if is_short && self.holds(None, slot) { self.store.slot_totals(slot).keys } else { 0 }
        };
        Slot::all().map(keys).sum()
    }

    /// Members that are not seen, with the time since they were last heard.
    fn away(&self) -> Vec<Away> {
        let peers = self.mesh.peers();
        let is_away = |node: &NodeId| peers.get(*node).is_none_or(|peer| matches!(peer.liveness, Liveness::Down | Liveness::Left));
        let away = self.others().into_iter().filter(|node| is_away(node) && !self.mesh.is_connected(*node));
        let heard = |node| lock(&self.horizon).heard(node).sent_through;
        away.map(|node| Away { node: node.to_string(), seconds: self.seconds_since(heard(node)) }).collect()
    }

    fn seconds_since(&self, heard: Hlc) -> u64 {
        if heard == Hlc::ZERO { 0 } else { self.now().millis().saturating_sub(heard.wall().millis()) / 1000 }
    }

    /// Shows the gauges of what comparisons found.
    pub(crate) fn repair_gauges(&self) {
        let view = self.view.load();
        let mut by_region: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for member in view.members.values().filter(|member| member.node != self.id()) {
            by_region.entry(member.region.to_string()).or_default();
        }
        for (peer, slots) in self.repair.divergence(|peer| view.members.contains_key(&peer)) {
            let (keys, count) = by_region.entry(self.region_of(peer)).or_default();
            *keys += slots.values().sum::<u64>();
            *count += slots.len() as u64;
        }
        for (peer_region, (keys, slots)) in by_region {
            let labels = [("region", self.me.region.to_string()), ("peer_region", peer_region)];
            metrics::gauge!("isochrone_repair_divergent_keys", &labels).set(keys as f64);
            metrics::gauge!("isochrone_repair_divergent_slots", &labels).set(slots as f64);
        }
        metrics::gauge!("isochrone_node_lapsed_peers").set(lock(&self.repair.lapsed_since).len() as f64);
        metrics::gauge!("isochrone_node_under_replicated_keys").set(self.under_replicated_keys() as f64);
    }
}

fn replicas(view: &View) -> impl Iterator<Item = NodeId> + '_ {
    Slot::all().flat_map(|slot| view.placement.eventual.read_set(slot))
}

fn tidied(reason: &str) -> String {
    reason.trim_start_matches([':', ' ']).to_owned()
}
