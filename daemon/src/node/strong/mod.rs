//! The quorum path in a node: the pure rooms of `isochrone_quorum` between the API, the strong store, the council and the other daemons.
//!
//! ```text
//!   edge ──write, read──> values ──Wish──> operate ──> Proposer <──Answer──┐
//!                                            │  │          └──Request──> links ══QUIC══> another daemon's Acceptor
//!                       the slot's owner <═══┘  └─ way (Q12)      └────> Acceptor ──Row──> StrongStore ──synced──> answers
//!
//!   council ──state──> configurations ──> Proposer, Acceptor (adopt)        moves (Q14), forget (Q16), owner (Q18)
//! ```
//!
//! [`Strong::run`] carries outputs to where they belong until none is left. The two rooms are locked for one step at a time and never across an await,
//! so that requests' tasks, channels' readers and the store's committer drive them from wherever they are. What is held back until it is synced
//! leaves from the store's callback (Q3).

mod chosen;
mod configurations;
mod forget;
mod links;
mod list;
mod moves;
mod operate;
mod outbox;
mod owner;
mod report;
mod standing;
mod timers;
mod values;
mod way;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use isochrone_council::ClusterState;
use isochrone_gossip::Mesh;
use isochrone_ident::{Incarnation, NodeId, Slot, WallMicros};
use isochrone_quorum::{
    Acceptor, AcceptorOptions, Answer, Ask, Asker, Bounds, Configuration, Effects, Member, OperationId, Output, Proposer, ProposerId,
    ProposerOptions, Request, RoundId,
};
use isochrone_store::StrongStore;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::core::lock;
use super::options::{Environment, NodeOptions, StrongOptions, WallClock};
use chosen::Chosen;
use configurations::Configurations;
use forget::Delays;
pub(crate) use forget::forget;
pub(crate) use links::keep;
use moves::Moves;
pub(crate) use moves::drive;
use operate::Ended;
use outbox::Outbox;
use owner::Owners;
use report::Meters;
pub(crate) use report::describe;
use timers::{Due, Timers};

/// How long a request waits here for the council's word of its slot's phase (Q4). Its asker asks again after a step.
const PARKED: Duration = Duration::from_secs(1);
/// Requests that wait so; more are dropped.
const PARKED_MAX: usize = 4096;

/// Where an acceptor's answer goes.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// To an asker of this daemon.
    Here,
    /// To a peer, on the channel on which it asked.
    Peer(Arc<Outbox>),
}

/// Something to be carried to where it belongs.
#[derive(Debug)]
pub(crate) enum Work {
    /// What this daemon's proposer wants.
    Out(Output),
    /// A request to this daemon's acceptor.
    Ask { to: Reply, request: Request },
    /// An answer to an asker of this daemon.
    Told(Answer),
}

type Outboxes = (Option<Arc<Outbox>>, Option<Arc<Outbox>>);

/// A request whose slot's phase this daemon has not learned yet.
struct Parked {
    since: Instant,
    to: Reply,
    request: Request,
}

/// The quorum path of one node.
pub(crate) struct Strong {
    me: Member,
    options: StrongOptions,
    mesh: Mesh,
    wall: WallClock,
    store: StrongStore,
    proposer: Mutex<Proposer>,
    acceptor: Mutex<Acceptor<Reply>>,
    configurations: ArcSwap<Configurations>,
    links: Mutex<BTreeMap<NodeId, Outboxes>>,
    waiting: Mutex<BTreeMap<OperationId, oneshot::Sender<Ended>>>,
    /// Where answers to movers and collectors go, by their round.
    askers: Mutex<BTreeMap<RoundId, mpsc::UnboundedSender<Answer>>>,
    parked: Mutex<VecDeque<Parked>>,
    timers: Timers,
    owners: Owners,
    chosen: Chosen,
    moves: Moves,
    delays: Delays,
    bounds: Bounds,
    random: Mutex<StdRng>,
    meters: Meters,
    last_operation: AtomicU64,
    last_asker: AtomicU64,
}

/// What a quorum path is made of.
pub(crate) struct Parts<'a> {
    pub(crate) me: Member,
    pub(crate) incarnation: Incarnation,
    pub(crate) store: StrongStore,
    pub(crate) mesh: Mesh,
    pub(crate) environment: &'a Environment,
    pub(crate) options: &'a NodeOptions,
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

impl Strong {
    /// The quorum path of a daemon that knows nothing of the cluster yet.
    pub(crate) fn new(parts: Parts<'_>) -> Arc<Self> {
        let Parts { me, incarnation, store, mesh, environment, options } = parts;
        let strong = options.strong.clone();
        let bounds = Bounds {
            ring: strong.ring,
            fences: strong.fences,
            window_micros: micros(options.idempotency_ttl),
            skew_micros: options.clock.ahead_ms_max.saturating_mul(1000),
        };
        let for_proposer = ProposerOptions {
            bounds,
            step_micros: micros(strong.step),
            queue: strong.queue,
            warm_keys: strong.warm_keys,
            grant_keys: strong.grant_keys,
            ..ProposerOptions::default()
        };
        let for_acceptor = AcceptorOptions { page_keys: strong.page_keys, page_bytes: strong.page_bytes, ..AcceptorOptions::default() };
        let this = Arc::new(Self {
            me,
            mesh,
            wall: Arc::clone(&environment.wall),
            proposer: Mutex::new(Proposer::new(ProposerId { node: me.node, incarnation }, for_proposer, environment.seed ^ 0x9a)),
            acceptor: Mutex::new(Acceptor::new(me, for_acceptor)),
            configurations: ArcSwap::default(),
            links: Mutex::default(),
            waiting: Mutex::default(),
            askers: Mutex::default(),
            parked: Mutex::default(),
            timers: Timers::default(),
            owners: Owners::default(),
            chosen: Chosen::new(strong.copies),
            moves: Moves::default(),
            delays: Delays::default(),
            bounds,
            // Request ids must differ from those of every other life of this daemon, also where all lives have one seed.
            random: Mutex::new(StdRng::seed_from_u64(environment.seed ^ 0x5720 ^ incarnation.0.rotate_left(32))),
            meters: Meters::new(),
            last_operation: AtomicU64::new(0),
            last_asker: AtomicU64::new(0),
            options: strong,
            store,
        });
        let weak = Arc::downgrade(&this);
        this.store.on_synced(Arc::new(move |place| {
            if let Some(this) = weak.upgrade() {
                this.synced(place);
            }
        }));
        this
    }

    fn now(&self) -> WallMicros {
        (self.wall)()
    }

    /// A slot's configuration, as the council has told it.
    pub(crate) fn configuration(&self, slot: Slot) -> Option<Arc<Configuration>> {
        self.configurations.load().get(slot).cloned()
    }

    /// Carries outputs, requests and answers to where they belong, and what comes of them, until nothing is left.
    pub(crate) fn run(&self, first: impl IntoIterator<Item = Work>) {
        let mut work: VecDeque<Work> = first.into_iter().collect();
        while let Some(next) = work.pop_front() {
            match next {
                Work::Out(output) => self.carry(output, &mut work),
                Work::Ask { to, request } => self.accept(to, request, &mut work),
                Work::Told(answer) => self.tell(answer, &mut work),
            }
        }
    }

    fn carry(&self, output: Output, work: &mut VecDeque<Work>) {
        match output {
            Output::Send { to, request } if to == self.me => work.push_back(Work::Ask { to: Reply::Here, request }),
            Output::Send { to, request } => match self.hedge_after(to, &request) {
                Some(delay) => self.timers.after(delay, Due::Hedge { to, request: Box::new(request) }),
                None => self.send(to.node, &request, false),
            },
            Output::After { micros, timer } => self.timers.after(Duration::from_micros(micros), Due::Timer(timer)),
            Output::Done { operation, result, course } => self.end(operation, Ended::Done { result, course }),
            Output::HandOver { operation, to, wish } => self.end(operation, Ended::HandedOver { to, wish }),
            Output::Learn(slot) => self.teach(slot, work),
            Output::Acquired { slot, granted } => self.acquired(slot, granted),
        }
    }

    /// Gives a request to the acceptor. One that might write is dropped while the disk can take no more: its asker asks again.
    fn accept(&self, to: Reply, request: Request, work: &mut VecDeque<Work>) {
        if !self.has_room_for(&request.ask) {
            self.meters.dropped_for_disk.increment(1);
            return;
        }
        let known = self.configuration(request.scope.slot);
        let effects = {
            let mut acceptor = lock(&self.acceptor);
            let effects = acceptor.take(&self.store, known.as_deref(), to, request);
            self.persist(effects)
        };
        if self.store.is_failed() {
            return;
        }
        effects.answers.into_iter().for_each(|(to, answer)| self.answer(to, answer, work));
        if let Some((to, request)) = effects.unlearned {
            self.park(to, request);
        }
    }

    /// Whether what the request may write fits in. What frees room, or takes hardly any, is let in as long as the disk itself takes it.
    fn has_room_for(&self, ask: &Ask) -> bool {
        match ask {
            Ask::Read { .. } | Ask::List { .. } => true,
            Ask::Prepare { .. } | Ask::Accept { .. } | Ask::Copy { .. } => self.store.has_room(),
            Ask::SlotPrepare { .. } | Ask::Seal | Ask::SetFloor { .. } | Ask::Erase { .. } => self.store.has_room_to_free(),
        }
    }

    /// Hands rows to the store in the order in which the acceptor gave them: the acceptor is locked.
    fn persist(&self, mut effects: Effects<Reply>) -> Effects<Reply> {
        if let Some(place) = effects.place {
            self.store.write(place, std::mem::take(&mut effects.rows));
        }
        effects
    }

    fn answer(&self, to: Reply, answer: Answer, work: &mut VecDeque<Work>) {
        match to {
            Reply::Here => work.push_back(Work::Told(answer)),
            Reply::Peer(outbox) => self.meters.sent(outbox.push(links::encode(&answer))),
        }
    }

    /// Everything up to this place is on disk: what was held back for it leaves.
    pub(crate) fn synced(&self, through: isochrone_quorum::Place) {
        if self.store.is_failed() {
            return;
        }
        let answers = lock(&self.acceptor).synced(through);
        let mut work = VecDeque::new();
        answers.into_iter().for_each(|(to, answer)| self.answer(to, answer, &mut work));
        self.run(work);
    }

    fn tell(&self, answer: Answer, work: &mut VecDeque<Work>) {
        match answer.tag.asker() {
            Asker::Proposer => {
                let outputs = lock(&self.proposer).answer(self.now(), answer);
                work.extend(outputs.into_iter().map(Work::Out));
            }
            Asker::Mover | Asker::Collector => {
                let asker = lock(&self.askers).get(&answer.tag.round).cloned();
                if let Some(asker) = asker {
                    // Who has ended meanwhile needs no answer.
                    let _ = asker.send(answer);
                }
            }
        }
    }

    /// The proposer is behind the council, or has never heard of the slot. Where the council's word is not here yet it comes with the next state.
    fn teach(&self, slot: Slot, work: &mut VecDeque<Work>) {
        let Some(configuration) = self.configuration(slot) else { return };
        let outputs = lock(&self.proposer).configure(self.now(), configuration);
        work.extend(outputs.into_iter().map(Work::Out));
    }

    fn park(&self, to: Reply, request: Request) {
        let mut parked = lock(&self.parked);
        if parked.len() < PARKED_MAX {
            parked.push_back(Parked { since: Instant::now(), to, request });
        }
    }

    /// The council has decided something: slots are in new phases, leavers delete what they held, and requests that waited for it go on.
    pub(crate) fn adopt(&self, state: &ClusterState) {
        let before = self.configurations.load_full();
        let after = Arc::new(Configurations::of(state, &before));
        self.configurations.store(Arc::clone(&after));
        let is_new = |now: &Configuration| before.get(now.slot).is_none_or(|then| then.phase < now.phase);
        for configuration in after.iter().filter(|configuration| is_new(configuration)) {
            self.enter(configuration);
        }
        self.unpark();
    }

    /// A slot is in a later phase.
    fn enter(&self, configuration: &Arc<Configuration>) {
        let slot = configuration.slot;
        let is_mine = configuration.joined(self.me).is_some();
        let mut work = VecDeque::new();
        if is_mine || isochrone_quorum::View::slot(&self.store, slot).is_some() {
            let mut acceptor = lock(&self.acceptor);
            let effects = acceptor.adopt(&self.store, configuration);
            let effects = self.persist(effects);
            drop(acceptor);
            effects.answers.into_iter().for_each(|(to, answer)| self.answer(to, answer, &mut work));
        }
        let mut proposer = lock(&self.proposer);
        if proposer.phase(slot).is_some() {
            let outputs = proposer.configure(self.now(), Arc::clone(configuration));
            work.extend(outputs.into_iter().map(Work::Out));
        }
        drop(proposer);
        self.run(work);
    }

    fn unpark(&self) {
        let now = Instant::now();
        let parked = std::mem::take(&mut *lock(&self.parked));
        let fresh = parked.into_iter().filter(|parked| now - parked.since <= PARKED);
        self.run(fresh.map(|Parked { to, request, .. }| Work::Ask { to, request }));
    }

    /// Fires timers of the proposer, and sends the reads that were held back, for ever.
    pub(crate) async fn tick(self: Arc<Self>) {
        loop {
            for due in self.timers.due().await {
                match due {
                    Due::Timer(timer) => {
                        let outputs = lock(&self.proposer).timer(self.now(), timer);
                        self.run(outputs.into_iter().map(Work::Out));
                    }
                    Due::Hedge { to, request } => {
                        let is_late = lock(&self.proposer).awaits(request.tag);
                        if is_late {
                            self.send(to.node, &request, false);
                        }
                    }
                }
            }
        }
    }

    /// The disk holds everything that was told, or the process ends with an error that says otherwise.
    pub(crate) async fn close(&self) {
        self.store.clone().close().await;
    }
}
