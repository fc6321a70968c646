//! The council as a daemon holds it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use isochrone_ident::NodeId;
use openraft::error::{InitializeError, RaftError};
use openraft::{ServerState, SnapshotPolicy};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use crate::propose::{Applied, ProposeError};

use crate::away::Absences;
use crate::command::{Command, CouncilId, Member, Outcome, Refusal};
use crate::driver::{Driver, giving_up, tables_for};
use crate::journal::{Journal, JournalError};
use crate::message::{Answer, Ask, Header, Proposed, decode_answer, decode_ask, encode_answer, encode_ask};
use crate::meters::Meters;
use crate::network::{Post, Wire, WireError};
use crate::options::CouncilOptions;
use crate::propose::Proposer;
use crate::pulse::{Heard, Pulse, grants};
use crate::raft::{AppendRequest, AppendResponse, InstallRequest, InstallResponse, Raft, Seat, VoteRequest};
use crate::receiving::{Received, Receiving};
use crate::state::ClusterState;
use crate::storage::{LogStore, Machine, Published};

/// Why a council did not start. Nothing runs, and nothing on disk was changed but for empty tables in a new database.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The journal is corrupt or can't be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The timers contradict each other.
    #[error("the council's timers are impossible: {0}")]
    Timers(String),
    /// What the journal holds belongs to another cluster.
    #[error("the journal belongs to cluster {found}, not {expected}")]
    OtherCluster {
        /// What the daemon was told.
        expected: String,
        /// What the journal says.
        found: String,
    },
    /// The engine refuses what the journal holds.
    #[error("the council's engine did not start: {0}")]
    Engine(String),
}

/// Why a council was not founded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootstrapError {
    /// There is one already, or this daemon is about to be part of one.
    #[error("this daemon is part of a council already")]
    AlreadyFounded,
    /// The first command was not applied. May be tried again.
    #[error("founding the council: {0}")]
    Propose(#[from] ProposeError),
    /// The engine failed.
    #[error("founding the council: {0}")]
    Engine(String),
}

/// Why a daemon was not taken in. May be tried again, with another seed, except when refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The council refuses this daemon.
    #[error("the council refuses this daemon: {0}")]
    Refused(Refusal),
    /// The seed could not be asked, or did not answer.
    #[error("asking the seed: {0}")]
    Wire(#[from] WireError),
    /// The seed knows no leader.
    #[error("the seed knows no leader of the council")]
    NoLeader,
    /// The seed did not learn in time what became of it.
    #[error("the council did not answer the seed in time")]
    OutcomeUnknown,
    /// The seed's answer makes no sense.
    #[error("the seed's answer is malformed")]
    Malformed,
}

/// What a daemon is in the council.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Follows without a vote, or is in no council yet.
    Learner,
    /// Votes and follows.
    Follower,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
    /// Has stopped.
    Stopped,
}

/// Where the council stands, as seen from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CouncilStatus {
    /// Which council; `CouncilId(0)` for none.
    pub council: CouncilId,
    /// Who leads, as far as this daemon may believe it; `None` also for a leader that has lost its majority.
    pub leader: Option<NodeId>,
    /// The number of the current election. It only grows.
    pub term: u64,
    /// What this daemon is.
    pub role: Role,
    /// Who votes.
    pub voters: BTreeSet<NodeId>,
    /// Who follows without a vote.
    pub learners: BTreeSet<NodeId>,
    /// Index of the last log entry here, committed or not.
    pub last_log_index: Option<u64>,
    /// Index of the last entry in the state here.
    pub applied_index: Option<u64>,
    /// Index of the last entry in the snapshot here.
    pub snapshot_index: Option<u64>,
    /// Members that this daemon does not see alive, and for how long, since it started at the earliest. Whether one is retired goes by the
    /// leader's own count, which is never longer.
    pub away: BTreeMap<NodeId, Duration>,
}

/// The council of one daemon. Cloning shares it; dropping the last clone stops its tasks, without waiting for them.
#[derive(Clone)]
pub struct Council {
    inner: Arc<Inner>,
}

struct Inner {
    options: CouncilOptions,
    raft: Raft,
    published: Published,
    proposer: Proposer,
    heard: Heard,
    meters: Meters,
    absences: Absences,
    receiving: Mutex<Receiving>,
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

impl Council {
    /// Starts from what `storage` holds, and takes it over. Nothing is sent before [`Council::bootstrap`] or a join, unless this daemon was in a
    /// council before.
    ///
    /// # Errors
    /// [`StartError`]; then nothing runs.
    pub async fn start(options: CouncilOptions, storage: redb::Database, wire: Arc<dyn Wire>) -> Result<Self, StartError> {
        let meters = Meters::new();
        let journal = Journal::open(storage, options.on_fatal.clone(), meters.clone())?;
        let first = ClusterState::new(options.cluster.clone());
        let (machine, published) = Machine::open(&journal, meters.clone(), first)?;
        let post = Post { wire, store: options.me.store, published: published.clone() };
        let config = Arc::new(engine_config(&options)?);
        let start = Raft::new(options.me.node, config, post.clone(), LogStore::new(journal), machine);
        let raft = Box::pin(start).await.map_err(|e| StartError::Engine(e.to_string()))?;
        if let Err(error) = check_cluster(&options, &published.state()) {
            let _ = raft.shutdown().await; // nothing was started yet that could have failed
            return Err(error);
        }
        Ok(Self::launch(options, raft, post, meters))
    }

    fn launch(options: CouncilOptions, raft: Raft, post: Post, meters: Meters) -> Self {
        let (heard, stop, published) = (Heard::default(), watch::Sender::new(false), post.published.clone());
        let proposer = Proposer::new(raft.clone(), post.clone(), heard.clone(), meters.clone(), options.clone());
        let pulse = Pulse::new(raft.clone(), post, heard.clone(), meters.clone(), options.clone());
        let absences = Absences::default();
        let driver = Driver::new(proposer.clone(), absences.clone());
        let tasks = vec![tokio::spawn(pulse.run(stop.subscribe())), tokio::spawn(driver.run(stop.subscribe()))];
        let (receiving, tasks) = (Mutex::default(), Mutex::new(tasks));
        Self { inner: Arc::new(Inner { options, raft, published, proposer, heard, meters, absences, receiving, stop, tasks }) }
    }

    /// Whether this daemon is in a council whose state it has.
    #[must_use]
    pub fn is_initialised(&self) -> bool {
        self.state().is_founded()
    }

    /// Founds a council of this daemon alone, with this cluster file and replicas of a slot; its placement is stable when this returns. May be
    /// called again after a crash in the middle.
    ///
    /// # Errors
    /// [`BootstrapError`].
    pub async fn bootstrap(&self, text: String, width: u8) -> Result<(), BootstrapError> {
        if self.is_initialised() {
            return Err(BootstrapError::AlreadyFounded);
        }
        let me = &self.inner.options.me;
        match self.inner.raft.initialize(BTreeMap::from([(me.node, Seat { store: me.store })])).await {
            Ok(()) => {}
            // Begun before a crash. What the engine shows of its membership is up to date then; right after `Ok` it may not be yet.
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {
                if !self.inner.raft.metrics().borrow().membership_config.voter_ids().eq([me.node]) {
                    return Err(BootstrapError::AlreadyFounded);
                }
            }
            Err(error) => return Err(BootstrapError::Engine(error.to_string())),
        }
        let patience = self.inner.options.timers.lease * 4;
        if !self.inner.proposer.wait_to_lead(patience).await {
            return Err(ProposeError::NoLeader.into());
        }
        self.propose(self.founding(text, width), patience).await?;
        Ok(())
    }

    fn founding(&self, text: String, width: u8) -> Command {
        let options = &self.inner.options;
        let council = CouncilId(StdRng::seed_from_u64(options.seed ^ 0xf0_07ed).random_range(1..=u64::MAX));
        let member = options.me.clone();
        let tables = Box::new(tables_for([&member], width, &Default::default(), &Default::default()));
        Command::Found { council, cluster: options.cluster.clone(), member, text, width, tables }
    }

    /// Asks a seed, through `call`, to have this daemon taken in (or its new incarnation and address noted). The state arrives later: see
    /// [`Council::changed`].
    ///
    /// # Errors
    /// [`JoinError`].
    pub async fn join_via<F>(&self, call: F, deadline: Duration) -> Result<Applied, JoinError>
    where
        F: FnOnce(Bytes, Duration) -> BoxFuture<'static, Result<Bytes, WireError>>,
    {
        let ask = Ask::Join { member: self.inner.options.me.clone(), millis: millis(deadline) };
        let body = encode_ask(self.header(), &ask).map_err(|_| JoinError::Malformed)?;
        let answer = call(body.into(), deadline).await?;
        match decode_answer(&answer) {
            Ok(Answer::Proposal(Proposed::Done(Outcome::Applied { index }))) => Ok(Applied { index }),
            Ok(Answer::Proposal(Proposed::Done(Outcome::Refused(refusal)))) => Err(JoinError::Refused(refusal)),
            Ok(Answer::Proposal(Proposed::NotLeader(_))) => Err(JoinError::NoLeader),
            Ok(Answer::Proposal(Proposed::Unknown)) => Err(JoinError::OutcomeUnknown),
            _ => Err(JoinError::Malformed),
        }
    }

    /// Asks any daemon, through `call`, for the state it has. It may be old.
    ///
    /// # Errors
    /// [`WireError`].
    pub async fn state_via<F>(&self, call: F, deadline: Duration) -> Result<ClusterState, WireError>
    where
        F: FnOnce(Bytes, Duration) -> BoxFuture<'static, Result<Bytes, WireError>>,
    {
        let body = encode_ask(self.header(), &Ask::State).map_err(|e| WireError::Unsent(e.to_string()))?;
        match decode_answer(&call(body.into(), deadline).await?) {
            Ok(Answer::State(state)) => Ok(*state),
            _ => Err(WireError::Unknown("malformed answer".into())),
        }
    }

    /// Has a command ordered, wherever the leader is; returns when it is applied and seen here, or the deadline has passed. Sent again within the
    /// deadline under one request id, so it applies once.
    ///
    /// # Errors
    /// [`ProposeError`], which tells nothing happened apart from outcome unknown.
    pub async fn propose(&self, command: Command, deadline: Duration) -> Result<Applied, ProposeError> {
        Box::pin(self.inner.proposer.propose(command, deadline)).await
    }

    /// Gives up members that are lost for good (see [`Command::GiveUp`]): what only they had is lost, and they never come back. For a council that still has its
    /// own majority; see [`crate::Recovery`] for one that has not. Strong slots of which nobody has anything begin anew at the members left.
    ///
    /// # Errors
    /// [`ProposeError`]. Refused with [`Refusal::WrongEpoch`] when another epoch began meanwhile: look again at what would be lost.
    pub async fn give_up(&self, nodes: BTreeSet<NodeId>, deadline: Duration) -> Result<Applied, ProposeError> {
        let state = self.state();
        self.propose(giving_up(&state, &nodes), deadline).await
    }

    /// The newest state here. Never blocks.
    #[must_use]
    pub fn state(&self) -> Arc<ClusterState> {
        self.inner.published.state()
    }

    /// Carries the log index of the newest state here, whenever it changes.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.inner.published.changed()
    }

    /// Where the council stands, as seen from here.
    #[must_use]
    pub fn status(&self) -> CouncilStatus {
        let metrics = self.inner.raft.metrics().borrow().clone();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
        CouncilStatus {
            council: self.state().council,
            leader: self.inner.proposer.leader(),
            term: metrics.current_term,
            role: role(metrics.state, voters.contains(&self.inner.options.me.node)),
            learners: membership.learner_ids().collect(),
            voters,
            last_log_index: metrics.last_log_index,
            applied_index: metrics.last_applied.map(|id| id.index),
            snapshot_index: metrics.snapshot.map(|id| id.index),
            away: self.inner.absences.all(),
        }
    }

    /// Stops, after what is being written is on disk. The state stays readable.
    pub async fn shutdown(&self) {
        self.inner.stop.send_replace(true);
        let tasks = std::mem::take(&mut *self.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            let _ = task.await; // a task that panicked has ended, too
        }
        let _ = Box::pin(self.inner.raft.shutdown()).await; // likewise
    }

    /// Answers a council message of `from`, whose identity the caller has checked (M2). Hostile bytes are refused, never a panic.
    ///
    /// # Errors
    /// Why it was refused; nothing happened then.
    pub async fn handle(&self, from: NodeId, body: Bytes) -> Result<Bytes, String> {
        let ask = self.admit(from, &body)?;
        let answer = Box::pin(self.answer(from, ask)).await?;
        encode_answer(&answer).map(Bytes::from).map_err(|e| e.to_string())
    }

    fn header(&self) -> Header {
        Header { council: self.state().council, from: self.inner.options.me.store, to: None }
    }

    fn refuse(&self, reason: &'static str, text: String) -> String {
        self.inner.meters.refused(reason);
        text
    }

    fn admit(&self, from: NodeId, body: &[u8]) -> Result<Ask, String> {
        if body.len() > self.inner.options.message_bytes_max {
            return Err(self.refuse("too_large", "the council message is too large".into()));
        }
        let (header, ask) =
            decode_ask(from, body).map_err(|e| self.refuse("malformed", format!("the council message is malformed: {e}")))?;
        match self.objection(from, header, &ask) {
            Some((reason, text)) => Err(self.refuse(reason, text)),
            None => Ok(ask),
        }
    }

    /// Why this message is not for us, or not from anybody we listen to.
    fn objection(&self, from: NodeId, header: Header, ask: &Ask) -> Option<(&'static str, String)> {
        let state = self.state();
        let asks_in = matches!(ask, Ask::Join { .. } | Ask::State);
        let other_council = header.council != CouncilId::default() && state.is_founded() && header.council != state.council;
        if other_council && !matches!(ask, Ask::State) {
            return Some(("other_council", "the message is of another council".into()));
        }
        if header.to.is_some_and(|store| store != self.inner.options.me.store) {
            return Some(("other_store", "the message is for another store of this node".into()));
        }
        match state.members.get(&from) {
            Some(member) if member.store == header.from || asks_in => None,
            Some(_) => Some(("other_store", format!("the store of node {from} is not the member's: a lost disk is a new member"))),
            None if (state.is_removed(from) || state.is_gone(from, header.from)) && !matches!(ask, Ask::Join { .. }) => {
                Some(("removed", format!("node {from} was removed from the cluster")))
            }
            None if matches!(ask, Ask::Propose { .. }) => Some(("not_member", format!("node {from} is not a member"))),
            None => None,
        }
    }

    async fn answer(&self, from: NodeId, ask: Ask) -> Result<Answer, String> {
        match ask {
            Ask::Append(request) => self.append(request).await.map(Answer::Append),
            Ask::Vote(request) => self.vote(request).await,
            Ask::Install(request) => self.install(request).await,
            Ask::Canvass(canvass) => {
                Ok(Answer::Canvass { granted: grants(&self.inner.raft, &self.inner.heard, &self.inner.options.timers, from, &canvass) })
            }
            Ask::Propose { proposal, millis } => {
                Ok(Answer::Proposal(self.inner.proposer.here(proposal, Instant::now() + Duration::from_millis(millis.into())).await))
            }
            Ask::Join { member, millis } => Ok(Answer::Proposal(self.take_in(from, member, millis).await)),
            Ask::State => Ok(Answer::State(Box::new(ClusterState::clone(&self.state())))),
        }
    }

    async fn append(&self, request: AppendRequest) -> Result<AppendResponse, String> {
        let response = self.inner.raft.append_entries(request).await.map_err(|e| e.to_string())?;
        if !matches!(response, AppendResponse::HigherVote(_)) {
            self.inner.heard.leader();
        }
        Ok(response)
    }

    async fn vote(&self, request: VoteRequest) -> Result<Answer, String> {
        let response = self.inner.raft.vote(request).await.map_err(|e| e.to_string())?;
        if response.vote_granted {
            self.inner.heard.candidate();
        }
        Ok(Answer::Vote(response))
    }

    async fn install(&self, request: InstallRequest) -> Result<Answer, String> {
        let vote = request.vote;
        let mine = self.inner.raft.metrics().borrow().vote;
        if mine > vote {
            return Ok(Answer::Install(Ok(InstallResponse { vote: mine })));
        }
        let bytes_max = self.inner.options.snapshot_bytes_max;
        let received = self.inner.receiving.lock().unwrap_or_else(PoisonError::into_inner).take(request, bytes_max);
        self.inner.heard.candidate();
        match received {
            Received::Part => Ok(Answer::Install(Ok(InstallResponse { vote }))),
            Received::Mismatch(error) => Ok(Answer::Install(Err(RaftError::APIError(error)))),
            Received::Refused(why) => Err(self.refuse("snapshot", why.into())),
            Received::Whole(snapshot) => {
                let installed = self.inner.raft.install_full_snapshot(vote, snapshot).await.map_err(|e| e.to_string())?;
                self.inner.heard.leader();
                Ok(Answer::Install(Ok(installed.into())))
            }
        }
    }

    async fn take_in(&self, from: NodeId, member: Member, millis: u32) -> Proposed {
        if !self.is_initialised() {
            return Proposed::NotLeader(None);
        }
        tracing::info!(node = %from, address = %member.address, "a daemon asks to join");
        match self.propose(Command::Join(member), Duration::from_millis(millis.into())).await {
            Ok(Applied { index }) => Proposed::Done(Outcome::Applied { index }),
            Err(ProposeError::Refused(refusal)) => Proposed::Done(Outcome::Refused(refusal)),
            Err(ProposeError::NoLeader | ProposeError::Stopped) => Proposed::NotLeader(None),
            Err(ProposeError::OutcomeUnknown) => Proposed::Unknown,
        }
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

const fn role(state: ServerState, votes: bool) -> Role {
    match state {
        ServerState::Leader => Role::Leader,
        ServerState::Candidate => Role::Candidate,
        ServerState::Shutdown => Role::Stopped,
        _ if votes => Role::Follower,
        _ => Role::Learner,
    }
}

fn check_cluster(options: &CouncilOptions, state: &ClusterState) -> Result<(), StartError> {
    if state.cluster == options.cluster {
        return Ok(());
    }
    Err(StartError::OtherCluster { expected: options.cluster.to_string(), found: state.cluster.to_string() })
}

fn engine_config(options: &CouncilOptions) -> Result<openraft::Config, StartError> {
    let millis = |duration: Duration| duration.as_millis() as u64;
    let timers = &options.timers;
    let every = options.snapshot_every.clamp(8, 100_000);
    let config = openraft::Config {
        cluster_name: options.cluster.to_string(),
        heartbeat_interval: millis(timers.message),       // the engine's time-out of one append
        election_timeout_min: millis(timers.message) + 1, // and of one vote
        election_timeout_max: millis(timers.lease),
        install_snapshot_timeout: millis(timers.message * 4),
        max_payload_entries: 64,
        replication_lag_threshold: every * 2,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(every),
        snapshot_max_chunk_size: options.snapshot_chunk_bytes.max(1024) as u64,
        max_in_snapshot_log_to_keep: every / 2,
        enable_elect: false, // see the pulse
        ..openraft::Config::default()
    };
    config.validate().map_err(|e| StartError::Timers(e.to_string()))
}
