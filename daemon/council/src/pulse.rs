//! Heartbeats and elections, from seeded timers.
//!
//! ```text
//!   heard the leader ---- lease + half a round trip + random ----> canvass the voters
//!        ^                                                          |          |
//!        +------------------ somebody heard the leader -------------+   a majority would vote
//!                                                                              |
//!                                                                      term + 1, vote (openraft)
//! ```
//!
//! The canvass is what the Raft thesis calls pre-vote (Ongaro 2014, section 9.6): a member that was cut off raises no term, so its
//! return deposes nobody. Random waits are drawn again each time, from the council's own seed.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use isochrone_ident::NodeId;
use openraft::ServerState;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::message::{Answer, Ask, Canvass};
use crate::meters::Meters;
use crate::network::Post;
use crate::options::{CouncilOptions, Timers};
use crate::raft::{Raft, RaftMetrics};

/// When this node last heard from whom it follows.
#[derive(Clone, Default)]
pub(crate) struct Heard(Arc<Mutex<HeardAt>>);

#[derive(Clone, Copy, Default)]
struct HeardAt {
    leader: Option<Instant>,
    contact: Option<Instant>,
    /// Until when this node canvasses for itself.
    canvassing: Option<Instant>,
}

impl Heard {
    fn at(&self) -> HeardAt {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message of the leader was accepted.
    pub(crate) fn leader(&self) {
        let now = Some(Instant::now());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = HeardAt { leader: now, contact: now, canvassing: None };
    }

    /// A candidate got this node's vote: give it time.
    pub(crate) fn candidate(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contact = Some(Instant::now());
    }

    fn canvass(&self, until: Option<Instant>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).canvassing = until;
    }

    fn canvasses(&self) -> bool {
        self.at().canvassing.is_some_and(|until| Instant::now() < until)
    }

    /// Whether the leader was heard within `lease`.
    pub(crate) fn leader_within(&self, lease: Duration) -> bool {
        self.at().leader.is_some_and(|at| at.elapsed() <= lease)
    }
}

/// Whether this leader's majority answered lately enough to take proposals. A leader alone, or a fresh one, may.
pub(crate) fn leads(metrics: &RaftMetrics, lease: Duration) -> bool {
    let answered = || metrics.millis_since_quorum_ack.is_none_or(|millis| u128::from(millis) <= lease.as_millis());
    let alone = || metrics.membership_config.voter_ids().count() == 1;
    metrics.state == ServerState::Leader && (alone() || answered())
}

/// Whether this node would vote for that candidate now. Of two who canvass at once with equal logs the greater id goes on, or they would
/// split the vote.
pub(crate) fn grants(raft: &Raft, heard: &Heard, timers: &Timers, from: NodeId, canvass: &Canvass) -> bool {
    let metrics = raft.metrics().borrow().clone();
    if leads(&metrics, timers.lease) || heard.leader_within(timers.lease) {
        return false;
    }
    let last = raft.data_metrics().borrow().last_log;
    let mine_first = heard.canvasses() && metrics.id > from && last == canvass.last;
    canvass.term >= metrics.current_term && canvass.last >= last && !mine_first
}

/// The task that beats.
pub(crate) struct Pulse {
    pub(crate) raft: Raft,
    pub(crate) post: Post,
    pub(crate) heard: Heard,
    pub(crate) meters: Meters,
    me: NodeId,
    options: CouncilOptions,
    rng: StdRng,
    waited_from: Option<Instant>,
    stand_at: Instant,
    leader: Option<NodeId>,
}

impl Pulse {
    pub(crate) fn new(raft: Raft, post: Post, heard: Heard, meters: Meters, options: CouncilOptions) -> Self {
        let mut rng = StdRng::seed_from_u64(options.seed ^ 0x9d5e_11fe);
        let wait = options.timers.lease + options.timers.spread.mul_f64(rng.random());
        let stand_at = Instant::now() + wait;
        let me = options.me.node;
        Self { raft, post, heard, meters, me, options, rng, waited_from: None, stand_at, leader: None }
    }

    /// Beats until `stop` is told.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let metrics = self.raft.metrics();
        loop {
            let now = metrics.borrow().clone();
            if let Err(fatal) = &now.running_state {
                return self.ended(fatal, &stop);
            }
            let pause = self.beat(&now).await;
            tokio::select! {
                biased;
                _ = stop.changed() => return,
                () = sleep(pause) => {}
            }
        }
    }

    fn ended(&self, why: &openraft::error::Fatal<NodeId>, stop: &watch::Receiver<bool>) {
        if !*stop.borrow() {
            (self.options.on_fatal)(format!("council engine: {why}"));
        }
    }

    /// Does what is due, and tells how long nothing will be.
    async fn beat(&mut self, metrics: &RaftMetrics) -> Duration {
        self.measure(metrics);
        let heartbeat = self.options.timers.heartbeat;
        let votes = metrics.membership_config.voter_ids().any(|node| node == self.me);
        match metrics.state {
            ServerState::Leader => {
                let _ = self.raft.trigger().heartbeat().await; // fails only when the engine has ended: seen at the next beat
                heartbeat
            }
            ServerState::Follower | ServerState::Candidate if votes => {
                self.follow(metrics).await;
                self.stand_at.saturating_duration_since(Instant::now()).min(heartbeat)
            }
            _ => heartbeat,
        }
    }

    fn measure(&mut self, metrics: &RaftMetrics) {
        let flag = |yes: bool| f64::from(u8::from(yes));
        let state = self.post.published.state();
        self.meters.is_leader.set(flag(metrics.state == ServerState::Leader));
        self.meters.is_voter.set(flag(state.voters.contains(&self.me)));
        self.meters.has_leader.set(flag(metrics.current_leader.is_some()));
        self.meters.term.set(metrics.current_term as f64);
        self.meters.members.set(state.members.len() as f64);
        let purged = metrics.purged.map_or(0, |id| id.index + 1);
        self.meters.log_entries.set(metrics.last_log_index.map_or(0, |last| (last + 1).saturating_sub(purged)) as f64);
        if metrics.current_leader.is_some() && metrics.current_leader != self.leader {
            self.leader = metrics.current_leader;
            self.meters.leader_changes.increment(1);
            tracing::info!(leader = ?self.leader, term = metrics.current_term, "the council has a leader");
        }
    }

    async fn follow(&mut self, metrics: &RaftMetrics) {
        let contact = self.heard.at().contact;
        if contact > self.waited_from {
            self.waited_from = contact;
            self.stand_at = contact.unwrap_or_else(Instant::now) + self.patience();
        }
        if alone(self.me, metrics) {
            self.elect(metrics).await;
            self.stand_at = Instant::now() + self.options.timers.message;
        } else if Instant::now() >= self.stand_at {
            self.stand(metrics).await;
        }
    }

    async fn stand(&mut self, metrics: &RaftMetrics) {
        self.heard.canvass(Some(Instant::now() + self.options.timers.message));
        let supported = self.canvass(metrics).await;
        self.heard.canvass(None);
        if supported {
            self.elect(metrics).await;
            self.stand_at = Instant::now() + self.round_trip() + self.random();
        } else {
            self.stand_at = Instant::now() + self.random();
        }
    }

    async fn elect(&self, metrics: &RaftMetrics) {
        tracing::info!(term = metrics.current_term + 1, "standing for election to lead the council");
        self.meters.elections.increment(1);
        let _ = self.raft.trigger().elect().await; // fails only when the engine has ended: seen at the next beat
    }

    /// Whether a majority of each current configuration would vote for this node.
    async fn canvass(&self, metrics: &RaftMetrics) -> bool {
        let last = self.raft.data_metrics().borrow().last_log;
        let ask = Ask::Canvass(Canvass { term: metrics.current_term + 1, last });
        let configs = metrics.membership_config.membership().get_joint_config().clone();
        let others: BTreeSet<NodeId> = configs.iter().flatten().copied().filter(|&n| n != self.me).collect();
        let patience = self.options.timers.message;
        let mut answers: FuturesUnordered<_> = others
            .into_iter()
            .map(|to| {
                let ask = &ask;
                async move { (to, self.post.ask(to, ask, patience).await) }
            })
            .collect();
        let mut granted = BTreeSet::from([self.me]);
        let asked = async {
            while !is_majority(&configs, &granted) {
                match answers.next().await {
                    Some((from, Ok(Answer::Canvass { granted: true }))) => drop(granted.insert(from)),
                    Some(_) => {}
                    None => return false,
                }
            }
            true
        };
        timeout(patience, asked).await.unwrap_or(false)
    }

    /// The longest measured round trip from here to a region of a member; zero where nothing was measured.
    fn round_trip(&self) -> Duration {
        let measured = self.options.observations.round_trips();
        let state = self.post.published.state();
        let here = &self.options.me.region;
        let longest = state.members.values().filter_map(|m| measured.between(here, &m.region)).max();
        Duration::from_micros(longest.unwrap_or(0).into()).min(Duration::from_secs(2))
    }

    fn random(&mut self) -> Duration {
        let spread = self.options.timers.spread.max(2 * self.round_trip());
        spread.mul_f64(self.rng.random_range(0.05..1.0))
    }

    fn patience(&mut self) -> Duration {
        self.options.timers.lease + self.round_trip() / 2 + self.random()
    }
}

fn alone(me: NodeId, metrics: &RaftMetrics) -> bool {
    metrics.membership_config.voter_ids().eq([me])
}

fn is_majority(configs: &[BTreeSet<NodeId>], granted: &BTreeSet<NodeId>) -> bool {
    configs.iter().all(|config| config.intersection(granted).count() * 2 > config.len())
}
