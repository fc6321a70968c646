//! What the leader does by itself: it brings the engine's voters and learners in line with the members, and the placement in line with
//! members, weights and width. Every step reads the state anew and is safe to repeat by the next leader.
//!
//! ```text
//!   members --> learners --> caught up --> voters (one change at a time)
//!   members away for too long --> Retire (one at a time, see `away`)
//!   members, weights, width = basis; basis changed and settled, all stable --> compute --> BeginEpoch --> Moved(strong)
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use isochrone_ident::NodeId;
use isochrone_placement::{Candidate, Class, RegionWeights, RoundTrips, compute, strong_width};
use openraft::{ChangeMembers, ServerState};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use xxhash_rust::xxh3::xxh3_64;

use crate::away::{Absences, Kept, may_go, sees_majority};
use crate::command::{Command, Member, SlotClass, Tables};
use crate::propose::Proposer;
use crate::pulse::leads;
use crate::raft::{RaftMetrics, Seat};
use crate::state::ClusterState;
use crate::voters::{Hints, choose};
use crate::weigh::Weigher;

/// Between two looks at the state.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A learner this many entries behind the log, or fewer, may become a voter.
const LAG_MAX: u64 = 16;

/// The tables for these members.
pub(crate) fn tables_for<'a>(
    members: impl IntoIterator<Item = &'a Member>,
    width: u8,
    weights: &RegionWeights,
    round_trips: &RoundTrips,
) -> Tables {
    let candidates = candidates(members);
    let eventual = compute(&candidates, weights, width, Class::Eventual);
    let strong = compute(&candidates, weights, strong_width(width, candidates.len()), Class::Strong { round_trips });
    Tables::new(eventual, strong, basis(&candidates, weights, width), weights.clone())
}

/// The command that gives those up, with a table of the others.
pub(crate) fn giving_up(state: &ClusterState, nodes: &BTreeSet<NodeId>) -> Command {
    let left = state.members.values().filter(|member| !nodes.contains(&member.node));
    let tables = tables_for(left, state.file.width, &state.weights, &RoundTrips::default());
    let (from, nodes) = (state.placement.strong.epoch, nodes.iter().copied().collect());
    Command::GiveUp { nodes, from, strong: Box::new(tables.strong), digest: tables.strong_digest }
}

pub(crate) fn candidates<'a>(members: impl IntoIterator<Item = &'a Member>) -> Vec<Candidate> {
    let candidate = |m: &Member| Candidate { node: m.node, region: m.region.clone(), zone: m.zone.clone(), capacity: m.capacity };
    members.into_iter().map(candidate).collect()
}

/// A hash of everything that moves data; never 0, which stands for no tables.
fn basis(candidates: &[Candidate], weights: &RegionWeights, width: u8) -> u64 {
    #[derive(Serialize)]
    struct Basis<'a>(&'a [Candidate], &'a RegionWeights, u8);
    let bytes = postcard::to_allocvec(&Basis(candidates, weights, width)).unwrap_or_default(); // plain values: always encodes
    xxh3_64(&bytes).max(1)
}

/// The leader's task. It runs on every node and does nothing while another leads.
pub(crate) struct Driver {
    proposer: Proposer,
    absences: Absences,
    /// Since when this node leads.
    leads_since: Option<Instant>,
    /// Since when it has led with the majority of the members in sight: absences count from then on at the earliest.
    sees_since: Option<Instant>,
    /// Why overdue members are kept, as was told.
    kept: BTreeMap<NodeId, Kept>,
    unsettled: Option<(u64, Instant)>,
    weigher: Weigher,
    patience: Duration,
}

impl Driver {
    pub(crate) fn new(proposer: Proposer, absences: Absences) -> Self {
        let patience = proposer.options.timers.lease * 2;
        let weigher = Weigher::new(proposer.options.weights);
        let (leads_since, sees_since, kept) = (None, None, BTreeMap::new());
        Self { proposer, absences, leads_since, sees_since, kept, unsettled: None, weigher, patience }
    }

    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut changed = self.proposer.post.published.changed();
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|&stop| stop) => return,
                _ = changed.changed() => {}
                () = sleep(LOOK_EVERY) => {}
            }
            tokio::select! {
                biased;
                _ = stop.wait_for(|&stop| stop) => return,
                () = self.look() => {}
            }
        }
    }

    async fn look(&mut self) {
        let metrics = self.proposer.raft.metrics().borrow().clone();
        let state = self.proposer.post.published.state();
        self.notice(&state);
        if metrics.state != ServerState::Leader || !state.is_founded() {
            self.forget();
            return;
        }
        self.leads_since.get_or_insert_with(Instant::now);
        if self.align_membership(&metrics, &state).await {
            return;
        }
        match self.next_retirement(&metrics, &state) {
            Some(retirement) => self.retire(retirement).await,
            None => self.align_placement(&state).await,
        }
    }

    fn forget(&mut self) {
        (self.leads_since, self.sees_since) = (None, None);
        self.kept.clear();
        self.proposer.meters.overdue.set(0.0);
        self.unsettled = None;
        self.weigher.forget();
    }

    fn is_alive(&self, node: NodeId) -> bool {
        node == self.proposer.options.me.node || self.proposer.options.observations.alive(node)
    }

    /// Every node counts absences, so that each can tell of them; only a leader acts on its count.
    fn notice(&self, state: &ClusterState) {
        self.absences.look(state.members.keys().copied(), |node| self.is_alive(node));
        let longest = self.absences.all().into_values().max().unwrap_or_default();
        self.proposer.meters.away_longest.set(longest.as_secs_f64());
    }

    /// The member that has been away for longest, if it was for too long and the cluster can do without it (E7). A leader without its majority, or
    /// that doesn't see the majority of the members, is perhaps the one that is away: its count is worth nothing and begins anew afterwards.
    fn next_retirement(&mut self, metrics: &RaftMetrics, state: &ClusterState) -> Option<Command> {
        let options = &self.proposer.options;
        if !leads(metrics, options.timers.lease) || !sees_majority(state, |node| self.is_alive(node)) {
            self.sees_since = None;
            return None;
        }
        let begin = *self.sees_since.get_or_insert_with(Instant::now);
        let overdue = self.absences.longer_than(options.away_max, begin);
        let mut kept = BTreeMap::new();
        let counts = if overdue.is_empty() { BTreeSet::new() } else { options.observations.replica_counts(&state.file.text) };
        let mut chosen = None;
        for node in overdue {
            match may_go(state, node, &counts, |node| self.is_alive(node)) {
                Ok(()) => chosen = chosen.or_else(|| state.members.get(&node)),
                Err(why) => drop(kept.insert(node, why)),
            }
        }
        self.tell_kept(kept);
        chosen.map(|member| Command::Retire { node: member.node, store: member.store })
    }

    /// Tells operators who is kept and why, once for each reason.
    fn tell_kept(&mut self, kept: BTreeMap<NodeId, Kept>) {
        self.proposer.meters.overdue.set(kept.len() as f64);
        for (node, why) in kept.iter().filter(|&(node, why)| self.kept.get(node) != Some(why)) {
            tracing::warn!(%node, %why, "a member that has been away for too long is kept");
        }
        self.kept = kept;
    }

    async fn retire(&self, retirement: Command) {
        if let Command::Retire { node, store } = &retirement {
            let away_max = self.proposer.options.away_max;
            tracing::warn!(%node, %store, ?away_max, "retiring a member that has been away for too long: it starts over when it comes back");
        }
        match self.proposer.propose(retirement, self.patience).await {
            Ok(_) => self.proposer.meters.retired.increment(1),
            Err(error) => tracing::debug!(%error, "not retired, looking again"),
        }
    }

    /// One step towards the engine's membership that the members call for; false when there is none to take.
    async fn align_membership(&mut self, metrics: &RaftMetrics, state: &ClusterState) -> bool {
        let Some(change) = self.next_change(metrics, state) else { return false };
        tracing::info!(?change, "changing the council's membership");
        let changing = Box::pin(self.proposer.raft.change_membership(change, true));
        match timeout(self.patience, changing).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the council's membership did not change, looking again"),
            Err(_) => tracing::debug!("no answer to a change of the council's membership, looking again"),
        }
        true
    }

    fn next_change(&self, metrics: &RaftMetrics, state: &ClusterState) -> Option<ChangeMembers<NodeId, Seat>> {
        let membership = metrics.membership_config.membership();
        let seats: BTreeMap<NodeId, Seat> = membership.nodes().map(|(&node, &seat)| (node, seat)).collect();
        let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
        let new: BTreeMap<NodeId, Seat> =
            state.members.values().filter(|m| !seats.contains_key(&m.node)).map(|m| (m.node, Seat { store: m.store })).collect();
        if !new.is_empty() {
            return Some(ChangeMembers::AddNodes(new));
        }
        let wanted = self.wanted_voters(metrics, state, &voters);
        if !wanted.is_empty() && (wanted != voters || membership.get_joint_config().len() > 1) {
            return Some(ChangeMembers::ReplaceAllVoters(wanted));
        }
        let is_gone = |node: &NodeId, seat: Seat| state.members.get(node).is_none_or(|m| m.store != seat.store);
        let gone: BTreeSet<NodeId> =
            seats.into_iter().filter(|&(node, seat)| is_gone(&node, seat) && !voters.contains(&node)).map(|(node, _)| node).collect();
        (!gone.is_empty()).then_some(ChangeMembers::RemoveNodes(gone))
    }

    fn wanted_voters(&self, metrics: &RaftMetrics, state: &ClusterState, voters: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let down = self.down_for_long();
        let me = self.proposer.options.me.node;
        let membership = metrics.membership_config.membership();
        let sits = |m: &Member| membership.get_node(&m.node).is_some_and(|seat| seat.store == m.store);
        let ready = |node: NodeId| voters.contains(&node) || (has_caught_up(metrics, node) && !down.contains(&node));
        let members: Vec<&Member> = state.members.values().filter(|m| sits(m) && ready(m.node)).collect();
        choose(&members, Hints { current: voters, leader: Some(me), down: &down })
    }

    fn down_for_long(&self) -> BTreeSet<NodeId> {
        let long = self.proposer.options.replace_voter_after;
        self.leads_since.map(|begin| self.absences.longer_than(long, begin)).into_iter().flatten().collect()
    }

    /// Slots are completed by the daemons that fill them; strong ones here, where nobody does.
    async fn align_placement(&mut self, state: &ClusterState) {
        if self.proposer.options.completes_strong
            && let Some(moved) = strong_moves(state)
        {
            return self.order(moved).await;
        }
        let weights = self.weigher.weigh(state, &*self.proposer.options.observations);
        if let Some((cause, begin)) = self.next_epoch(state, &weights) {
            self.proposer.meters.epoch(cause);
            tracing::info!(cause, "beginning a placement epoch");
            self.order(begin).await;
        }
    }

    fn next_epoch(&mut self, state: &ClusterState, weights: &RegionWeights) -> Option<(&'static str, Command)> {
        let wanted = basis(&candidates(state.members.values()), weights, state.file.width);
        if wanted == state.basis {
            self.unsettled = None;
            return None;
        }
        if !self.has_settled(wanted) || state.placement.eventual.is_moving() || state.placement.strong.is_moving() {
            return None;
        }
        let from = (state.placement.eventual.epoch, state.placement.strong.epoch);
        let tables = tables_for(state.members.values(), state.file.width, weights, self.weigher.round_trips());
        let cause = if *weights == state.weights { "members" } else { "weights" };
        Some((cause, Command::BeginEpoch { from, tables: Box::new(tables) }))
    }

    fn has_settled(&mut self, wanted: u64) -> bool {
        match self.unsettled {
            Some((basis, since)) if basis == wanted => since.elapsed() >= self.proposer.options.settle,
            _ => {
                self.unsettled = Some((wanted, Instant::now()));
                false
            }
        }
    }

    async fn order(&self, command: Command) {
        let name = command.name();
        if let Err(error) = self.proposer.propose(command, self.patience).await {
            tracing::debug!(command = name, %error, "not ordered, looking again");
        }
    }
}

fn strong_moves(state: &ClusterState) -> Option<Command> {
    let strong = &state.placement.strong;
    let moved = || Command::Moved { class: SlotClass::Strong, from: strong.epoch, slots: strong.moving_slots().collect() };
    strong.is_moving().then(moved)
}

fn has_caught_up(metrics: &RaftMetrics, node: NodeId) -> bool {
    let matched = metrics.replication.as_ref().and_then(|all| all.get(&node)).copied().flatten();
    match (matched, metrics.last_log_index) {
        (Some(matched), Some(last)) => matched.index + LAG_MAX >= last,
        _ => node == metrics.id,
    }
}
