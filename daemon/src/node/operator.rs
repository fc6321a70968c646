//! What operators see of a node and may ask of it.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use isochrone_config::{Change, ClusterSpec, Mode};
use isochrone_council::{Command, ProposeError, Role};
use isochrone_edge::{
    Applied, ApplyRequest, Check, CouncilView, KeyPlacement, MemberView, Operator, OperatorRefusal, PlacementSummary, Reloaded,
    RepairProgress, RepairRequest, ReplicaView, ReplicationReport, ReplicationView, RoundTripsView, Status, StoreView, StrongReport,
};
use isochrone_gossip::Liveness;
use isochrone_ident::{Key, Namespace, NodeId, Slot};
use isochrone_placement::Phase;
use serde_json::json;
use tokio::sync::watch;

use super::core::{Core, lock};
use super::emulate::EmulatedNetwork;
use super::start::Node;
use super::view::View;

impl Core {
    pub(crate) fn liveness(&self, node: NodeId) -> &'static str {
        if node == self.id() {
            return "alive";
        }
        match self.mesh.peers().get(node).map(|p| p.liveness) {
            Some(Liveness::Alive) => "alive",
            Some(Liveness::Suspect) => "suspect",
            Some(Liveness::Down) => "down",
            Some(Liveness::Left) => "left",
            None => "unknown",
        }
    }

    fn member_views(&self) -> Vec<MemberView> {
        let (view, peers, voters) = (self.view.load_full(), self.mesh.peers(), self.council.status().voters);
        let head = self.head.borrow().0;
        let backlog: BTreeMap<NodeId, u64> =
            lock(&self.delivery).peers().map(|(peer, sequence)| (peer, head.saturating_sub(sequence.0))).collect();
        let mut members: Vec<MemberView> = view
            .members
            .values()
            .map(|member| MemberView {
                node: member.node.to_string(),
                region: member.region.to_string(),
                zone: member.zone.as_ref().map(ToString::to_string),
                address: member.address.clone(),
                liveness: self.liveness(member.node).to_owned(),
                me: member.node == self.id(),
                voter: voters.contains(&member.node),
                capacity: member.capacity.hundredths(),
                incarnation: member.incarnation.0,
                round_trip_ms: peers.get(member.node).and_then(|p| p.round_trip).map(|rtt| rtt.as_secs_f64() * 1e3),
                backlog: backlog.get(&member.node).copied(),
            })
            .collect();
        members.sort_by(|a, b| (&a.region, &a.node).cmp(&(&b.region, &b.node)));
        members
    }

    fn round_trips_view(&self) -> RoundTripsView {
        let mut round_trip_ms: BTreeMap<String, BTreeMap<String, f64>> = BTreeMap::new();
        for (a, b, round_trip) in self.mesh.round_trips().cells() {
            let ms = (round_trip.as_secs_f64() * 1e5).round() / 100.0;
            round_trip_ms.entry(a.to_string()).or_default().insert(b.to_string(), ms);
            round_trip_ms.entry(b.to_string()).or_default().insert(a.to_string(), ms);
        }
        RoundTripsView { round_trip_ms }
    }

    fn council_view(&self) -> CouncilView {
        let (status, state) = (self.council.status(), self.council.state());
        let role = match status.role {
            Role::Leader => "leader",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Learner => "learner",
            Role::Stopped => "none",
        };
        CouncilView {
            role: role.to_owned(),
            leader: status.leader.map(|n| n.to_string()),
            term: status.term,
            applied: state.applied,
            revision: state.file.revision,
        }
    }

    fn placement_summary(&self) -> PlacementSummary {
        let placement = &self.view.load().placement;
        PlacementSummary {
            epoch_eventual: placement.eventual.epoch.0,
            epoch_strong: placement.strong.epoch.0,
            slots_moving: (placement.eventual.moving_slots().count() + placement.strong.moving_slots().count()) as u64,
        }
    }

    fn replication_view(&self) -> ReplicationView {
        let stats = self.store.stats();
        let oldest = self.store.log_after(isochrone_replica::Sequence(stats.last_sequence.0.saturating_sub(stats.log_entries)), 1);
        let oldest = oldest.ok().and_then(|page| page.operations.into_iter().next());
        let oldest_ms = oldest.map(|logged| self.now().millis().saturating_sub(logged.version.hlc.wall().millis()));
        ReplicationView { backlog: stats.log_entries, oldest_ms }
    }

    fn store_view(&self) -> StoreView {
        let stats = self.store.stats();
        StoreView {
            keys: stats.keys,
            bytes: stats.bytes,
            disk_bytes: stats.bytes + stats.log_bytes + stats.answers_bytes,
            disk_bytes_max: self.options.disk_bytes_max,
        }
    }

    fn readiness(&self) -> Vec<Check> {
        let check = |name: &str, ok: bool, detail: String| Check { name: name.to_owned(), ok, detail };
        let (leader, view) = (self.council.status().leader, self.view.load_full());
        let seconds = |ms: u64| ms as f64 / 1e3;
        let member = view.members.contains_key(&self.id());
        let member_text = if member { "in the cluster" } else { "not a member yet: asking the seeds" };
        let placed = !view.placement.eventual.read_set(Slot::of_hash(0)).is_empty();
        let clock = self.clock_off_ms();
        let clock_text = match clock {
            None => "agrees with the members".to_owned(),
            Some(off_ms) => format!(
                "{} s {} the cluster's, so no writes are taken: see to this machine's time service",
                seconds(off_ms.unsigned_abs()),
                if off_ms > 0 { "ahead of" } else { "behind" }
            ),
        };
        let council_text = leader.map_or_else(
            || "no leader heard: data is served, the cluster can't be changed".to_owned(),
            |leader| format!("led by {leader}"),
        );
        vec![
            check("member", member, member_text.to_owned()),
            check("placement", placed, format!("epoch {}", view.epoch())),
            check("clock", clock.is_none(), clock_text),
            // Information, never a failure: no read or write of data waits for the council.
            check("council", true, council_text),
        ]
    }

    /// Judges a cluster file against the one in force.
    fn judge_file(&self, request: &ApplyRequest) -> Result<(ClusterSpec, Vec<Change>), OperatorRefusal> {
        let state = self.council.state();
        if let Some(expected) = request.expected_revision.filter(|&expected| expected != state.file.revision) {
            return Err(OperatorRefusal::Revision { current: state.file.revision, expected });
        }
        let spec = ClusterSpec::parse(&request.text, "cluster file").map_err(|p| OperatorRefusal::Invalid(p.to_string()))?;
        if !spec.is_for(&self.cluster) {
            return Err(OperatorRefusal::Invalid(format!("the file is for another cluster; this one is `{}`", self.cluster)));
        }
        let changes = isochrone_config::diff(&self.view.load().spec, &spec);
        let refused: Vec<String> = changes.iter().filter_map(refusal_of).collect();
        if refused.is_empty() { Ok((spec, changes)) } else { Err(OperatorRefusal::Conflict(refused.join("; "))) }
    }

    async fn apply_file(&self, request: ApplyRequest) -> Result<Applied, OperatorRefusal> {
        let (spec, changes) = self.judge_file(&request)?;
        let changed = !changes.is_empty();
        let plan = self.plan_of_file(&changes)?;
        let changes = changes.iter().map(ToString::to_string).collect();
        if request.dry_run || !changed {
            let revision = self.council.state().file.revision;
            return Ok(Applied { revision, changed, dry_run: request.dry_run, changes, plan });
        }
        let expected_revision = request.expected_revision;
        let command = Command::ApplyFile { text: request.text, expected_revision, width: spec.replica_width() };
        self.council.propose(command, self.options.propose_deadline).await.map_err(operator_refusal)?;
        Ok(Applied { revision: self.council.state().file.revision, changed, dry_run: false, changes, plan })
    }

    pub(crate) fn replica_views(&self, nodes: impl Iterator<Item = NodeId>) -> Vec<ReplicaView> {
        let view = self.view.load();
        nodes
            .map(|node| ReplicaView {
                node: node.to_string(),
                region: view.members.get(&node).map_or_else(String::new, |m| m.region.to_string()),
                liveness: self.liveness(node).to_owned(),
            })
            .collect()
    }

    fn key_placement(&self, ns: &Namespace, key: &Key) -> Result<KeyPlacement, OperatorRefusal> {
        let view = self.view.load_full();
        if view.namespace(ns).is_none() {
            return Err(OperatorRefusal::NotFound(format!("there is no namespace `{ns}`")));
        }
        let slot = View::slot(ns, key.as_bytes());
        if view.namespace(ns).is_some_and(|spec| spec.mode == Mode::Strong) {
            let absent = || OperatorRefusal::Conflict("the cluster has not been founded yet".to_owned());
            return self.strong_key_placement(ns, key, slot).ok_or_else(absent);
        }
        let replicas = view.replicas(ns, slot);
        let joint = matches!(view.placement.eventual.phase(slot), Phase::Joint { .. });
        Ok(KeyPlacement {
            ns: ns.to_string(),
            key: key.to_string(),
            slot: slot.number(),
            epoch: view.epoch().0,
            phase: if joint { "joint" } else { "stable" }.to_owned(),
            replicas: self.replica_views(replicas.read.into_iter()),
            next: self.replica_views(replicas.joining.into_iter()),
            owner: None,
        })
    }

    fn placement_value(&self) -> serde_json::Value {
        let view = self.view.load_full();
        let mut shares: BTreeMap<String, u64> = BTreeMap::new();
        for slot in Slot::all() {
            for node in view.placement.eventual.read_set(slot) {
                *shares.entry(node.to_string()).or_default() += 1;
            }
        }
        let summary = self.placement_summary();
        json!({
            "slots": isochrone_ident::SLOTS,
            "epoch_eventual": summary.epoch_eventual,
            "epoch_strong": summary.epoch_strong,
            "slots_moving": summary.slots_moving,
            "slots_by_node": shares,
            "strong": self.strong_placement(),
        })
    }
}

/// Why a change of the cluster file can't be made, if it can't.
fn refusal_of(change: &Change) -> Option<String> {
    let fixed = |name: &Namespace, field: &str| {
        format!("namespace {name}: `{field}` is fixed when it is made; make a new namespace and copy the keys")
    };
    match change {
        Change::ModeRefused { .. } => Some(change.to_string()),
        Change::NamespaceChanged { name, field, .. } if matches!(*field, "replicas" | "kind") => Some(fixed(name, field)),
        Change::NamespaceRemoved(name) => {
            Some(format!("namespace {name} can't be removed: its keys would stay, and come back with other settings if it were made again"))
        }
        _ => None,
    }
}

fn operator_refusal(error: ProposeError) -> OperatorRefusal {
    match error {
        ProposeError::Refused(reason) => OperatorRefusal::Conflict(reason.to_string()),
        ProposeError::NoLeader => OperatorRefusal::NoQuorum("it has no leader that this daemon can reach".to_owned()),
        other => OperatorRefusal::OutcomeUnknown(other.to_string()),
    }
}

impl Operator for Node {
    fn alive(&self) -> Result<(), String> {
        Ok(())
    }

    fn checks(&self) -> Vec<Check> {
        self.core.readiness()
    }

    fn status(&self) -> Status {
        let checks = self.core.readiness();
        Status {
            cluster: self.core.cluster.to_string(),
            node: self.core.id().to_string(),
            region: self.core.me.region.to_string(),
            zone: self.core.me.zone.as_ref().map(ToString::to_string),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            incarnation: self.core.me.incarnation.0,
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            ready: checks.iter().all(|check| check.ok),
            checks,
            members: self.core.member_views(),
            round_trips: self.core.round_trips_view(),
            council: self.core.council_view(),
            placement: self.core.placement_summary(),
            replication: self.core.replication_view(),
            store: self.core.store_view(),
        }
    }

    fn members(&self) -> Vec<MemberView> {
        self.core.member_views()
    }

    fn round_trips(&self) -> RoundTripsView {
        self.core.round_trips_view()
    }

    fn placement(&self) -> serde_json::Value {
        self.core.placement_value()
    }

    fn plan(&self, change: &str) -> Result<serde_json::Value, OperatorRefusal> {
        self.core.plan(change)
    }

    fn placement_of(&self, ns: &Namespace, key: &Key) -> Result<KeyPlacement, OperatorRefusal> {
        self.core.key_placement(ns, key)
    }

    fn config(&self) -> serde_json::Value {
        (self.hooks.config)()
    }

    fn cluster_file(&self) -> (String, u64) {
        let file = &self.core.council.state().file;
        (file.text.to_string(), file.revision)
    }

    fn apply(&self, request: ApplyRequest) -> BoxFuture<'_, Result<Applied, OperatorRefusal>> {
        Box::pin(self.core.apply_file(request))
    }

    fn remove_member(&self, node: NodeId, is_lost: bool) -> BoxFuture<'_, Result<(), OperatorRefusal>> {
        Box::pin(async move {
            let (council, deadline) = (&self.core.council, self.core.options.propose_deadline);
            if !self.core.view.load().members.contains_key(&node) {
                return Err(OperatorRefusal::NotFound(format!("node {node} is no member")));
            }
            let removed = match is_lost {
                true => council.give_up([node].into(), deadline).await,
                false => council.propose(Command::Remove(node), deadline).await,
            };
            removed.map(|_| ()).map_err(operator_refusal)
        })
    }

    fn reload(&self) -> BoxFuture<'_, Result<Reloaded, OperatorRefusal>> {
        Box::pin(async move {
            let reloaded = (self.hooks.reload)().map_err(OperatorRefusal::Invalid)?;
            self.core.mesh.reload().map_err(|e| OperatorRefusal::Invalid(e.to_string()))?;
            Ok(reloaded)
        })
    }

    fn leave(&self) -> BoxFuture<'_, Result<(), OperatorRefusal>> {
        Box::pin(async move {
            (self.hooks.leave)();
            Ok(())
        })
    }

    fn strong(&self) -> Result<StrongReport, OperatorRefusal> {
        Ok(self.core.strong_report())
    }

    fn replication(&self) -> Result<ReplicationReport, OperatorRefusal> {
        Ok(self.core.replication_report())
    }

    fn repair(&self, request: RepairRequest) -> BoxFuture<'_, Result<watch::Receiver<RepairProgress>, OperatorRefusal>> {
        Box::pin(std::future::ready(self.core.begin_repair(request)))
    }

    fn emulation(&self) -> Option<serde_json::Value> {
        self.hooks.emulation.as_ref().map(EmulatedNetwork::show)
    }

    fn set_emulation(&self, wanted: serde_json::Value) -> Result<serde_json::Value, OperatorRefusal> {
        let Some(network) = &self.hooks.emulation else {
            return Err(OperatorRefusal::NotFound("no network is emulated: `emulation.enabled` is not set".to_owned()));
        };
        network.change(wanted).map_err(OperatorRefusal::Invalid)?;
        Ok(network.show())
    }
}
