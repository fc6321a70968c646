//! How a proposal gets to the leader, and what is known when it did not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use isochrone_ident::NodeId;
use openraft::ServerState;
use openraft::error::{ClientWriteError, RaftError};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::command::{Command, Outcome, Proposal, Refusal, RequestId};
use crate::message::{Answer, Ask, Proposed};
use crate::meters::Meters;
use crate::network::Post;
use crate::options::CouncilOptions;
use crate::pulse::{Heard, leads};
use crate::raft::Raft;

/// Between two tries.
const PACE: Duration = Duration::from_millis(100);

/// One try with another daemon lasts at most this many message time-outs: its answer may have been lost.
const TRY_MESSAGES: u32 = 4;

/// Why a proposal was not applied, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// It was ordered and refused; the state is as it was.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// No leader could be reached within the deadline. Nothing happened.
    #[error("the council has no leader that can be reached; nothing was changed")]
    NoLeader,
    /// A leader took it, and its answer is missing: it may yet be applied.
    #[error("the council did not answer in time; the change may yet be made")]
    OutcomeUnknown,
    /// The council here has been shut down. Nothing happened.
    #[error("the council of this daemon is shut down")]
    Stopped,
}

/// A command that is part of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// From this log index on.
    pub index: u64,
}

/// Proposes from this node. Cloning shares the numbering.
#[derive(Clone)]
pub(crate) struct Proposer {
    pub(crate) raft: Raft,
    pub(crate) post: Post,
    pub(crate) heard: Heard,
    pub(crate) meters: Meters,
    pub(crate) options: CouncilOptions,
    number: Arc<AtomicU64>,
}

impl Proposer {
    pub(crate) fn new(raft: Raft, post: Post, heard: Heard, meters: Meters, options: CouncilOptions) -> Self {
        Self { raft, post, heard, meters, options, number: Arc::default() }
    }

    fn next_request(&self) -> RequestId {
        let me = &self.options.me;
        RequestId { node: me.node, incarnation: me.incarnation, number: self.number.fetch_add(1, Ordering::Relaxed) }
    }

    /// Proposes, tries again under the same request id until `deadline`, and waits for the change to be seen here.
    pub(crate) async fn propose(&self, command: Command, deadline: Duration) -> Result<Applied, ProposeError> {
        let name = command.name();
        let proposal = Proposal { request: self.next_request(), command };
        let result = self.insist(&proposal, Instant::now() + deadline).await;
        self.meters.proposed(result.as_ref().map(|_| ()));
        tracing::debug!(command = name, ?result, "proposed to the council");
        result
    }

    async fn insist(&self, proposal: &Proposal, until: Instant) -> Result<Applied, ProposeError> {
        let (mut unknown, mut hint) = (false, None);
        loop {
            if self.raft.metrics().borrow().running_state.is_err() {
                return Err(if unknown { ProposeError::OutcomeUnknown } else { ProposeError::Stopped });
            }
            match self.try_once(proposal, hint, until).await {
                Proposed::Done(Outcome::Refused(refusal)) => return Err(refusal.into()),
                Proposed::Done(Outcome::Applied { index }) => return Ok(self.seen(index, until).await),
                Proposed::NotLeader(leader) => hint = leader,
                Proposed::Unknown => (unknown, hint) = (true, None),
            }
            if Instant::now() + PACE >= until {
                return Err(if unknown { ProposeError::OutcomeUnknown } else { ProposeError::NoLeader });
            }
            sleep(PACE).await;
        }
    }

    /// Once to the leader as known here, or as the last one asked said.
    async fn try_once(&self, proposal: &Proposal, hint: Option<NodeId>, until: Instant) -> Proposed {
        let me = self.options.me.node;
        match hint.or_else(|| self.leader()) {
            None => Proposed::NotLeader(None),
            Some(leader) if leader == me => self.here(proposal.clone(), until).await,
            Some(leader) => self.there(leader, proposal, until).await,
        }
    }

    async fn there(&self, leader: NodeId, proposal: &Proposal, until: Instant) -> Proposed {
        let left = until.saturating_duration_since(Instant::now()).min(self.options.timers.message * TRY_MESSAGES);
        let ask = Ask::Propose { proposal: proposal.clone(), millis: u32::try_from(left.as_millis()).unwrap_or(u32::MAX) };
        match self.post.ask(leader, &ask, left).await {
            Ok(Answer::Proposal(proposed)) => proposed,
            Err(error) if error.is_without_effect() => Proposed::NotLeader(None),
            _ => Proposed::Unknown,
        }
    }

    /// As the leader; a proposal that is not taken in has no effect.
    pub(crate) async fn here(&self, proposal: Proposal, until: Instant) -> Proposed {
        let metrics = self.raft.metrics().borrow().clone();
        if !leads(&metrics, self.options.timers.lease) {
            return Proposed::NotLeader(metrics.current_leader.filter(|&leader| leader != self.options.me.node));
        }
        match timeout_at(until, Box::pin(self.raft.client_write(proposal))).await {
            Ok(Ok(written)) => written.data.map_or(Proposed::Unknown, Proposed::Done),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => Proposed::NotLeader(forward.leader_id),
            _ => Proposed::Unknown,
        }
    }

    /// Waits until the state here is at `index`, as long as there is time.
    async fn seen(&self, index: u64, until: Instant) -> Applied {
        let mut changed = self.post.published.changed();
        let _ = timeout_at(until, changed.wait_for(|&applied| applied >= index)).await; // it is applied; only not yet seen here
        Applied { index }
    }

    /// The leader, as far as this node may believe in it: itself with its majority, or another that was heard lately.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        let metrics = self.raft.metrics().borrow().clone();
        let lease = self.options.timers.lease;
        if metrics.state == ServerState::Leader {
            return leads(&metrics, lease).then_some(self.options.me.node);
        }
        metrics.current_leader.filter(|&leader| leader != self.options.me.node && self.heard.leader_within(2 * lease))
    }

    /// Whether this node comes to lead within `patience`.
    pub(crate) async fn wait_to_lead(&self, patience: Duration) -> bool {
        let mut metrics = self.raft.metrics();
        let leads = metrics.wait_for(|m| m.state == ServerState::Leader && m.current_leader == Some(self.options.me.node));
        timeout(patience, leads).await.is_ok_and(|led| led.is_ok())
    }
}
