//! What all tasks of a mesh share, and how they reach it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use isochrone_ident::{NodeId, Region};
use quinn::Endpoint;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::budget::RetryBudget;
use crate::health::CallOutcome;
use crate::links::{Link, Links};
use crate::metrics::CallMetrics;
use crate::peers::notice::Notice;
use crate::peers::{PeerTable, Peers};
use crate::round_trips::RegionMatrix;
use crate::tls::Material;
use crate::wire::{CloseCode, Profile, Traffic};
use crate::{Admission, MeshOptions, Service, Sockets, metrics};

/// The most refusals that are remembered so as to be logged once.
const REFUSALS_MAX: usize = 1024;

/// What all tasks of a mesh share.
pub(crate) struct Core {
    pub(crate) options: MeshOptions,
    pub(crate) me: Profile,
    /// Drawn at this start.
    pub(crate) process: u64,
    pub(crate) endpoint: Endpoint,
    pub(crate) transport: Arc<quinn::TransportConfig>,
    pub(crate) sockets: Arc<dyn Sockets>,
    pub(crate) service: Arc<dyn Service>,
    pub(crate) admission: Arc<dyn Admission>,
    pub(crate) material: ArcSwap<Material>,
    pub(crate) connection_ids: crate::endpoint::ConnectionIds,
    pub(crate) started: Instant,
    /// Counts dialed connections and links.
    pub(crate) serial: AtomicU64,
    pub(crate) links: Mutex<Links>,
    /// Bumped at each new link and each failure to make one: what waits for a connection looks again.
    pub(crate) link_news: watch::Sender<u64>,
    pub(crate) peers: Mutex<Peers>,
    /// Membership's next timer may be an earlier one.
    pub(crate) timer_moved: Notify,
    pub(crate) table: ArcSwap<PeerTable>,
    pub(crate) matrix: ArcSwap<RegionMatrix>,
    pub(crate) changed: watch::Sender<u64>,
    pub(crate) dialing: Mutex<Dialing>,
    pub(crate) tallies: Mutex<BTreeMap<NodeId, Tally>>,
    pub(crate) budget: RetryBudget,
    pub(crate) calls: CallMetrics,
    pub(crate) inbound: Inbound,
    pub(crate) left: watch::Sender<bool>,
    /// Who said first that our store is retired.
    pub(crate) disowned: watch::Sender<Option<NodeId>>,
    refusals: Mutex<BTreeSet<(&'static str, String)>>,
}

/// Whom we are dialing, and how it went.
#[derive(Debug, Default)]
pub(crate) struct Dialing {
    /// Peers that have a task which keeps them connected.
    pub(crate) kept: BTreeSet<NodeId>,
    /// Peers whose bulk connection is being made.
    pub(crate) bulk: BTreeSet<NodeId>,
    /// Why the latest attempt failed, until one succeeds.
    pub(crate) failures: BTreeMap<NodeId, String>,
}

/// Bounds on what peers may ask of us at once.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) handshakes: Arc<Semaphore>,
    pub(crate) calls: Arc<Semaphore>,
    pub(crate) bulk_calls: Arc<Semaphore>,
    pub(crate) channels: Arc<Semaphore>,
    /// In units of [`Inbound::UNIT_BYTES`].
    pub(crate) bytes: Arc<Semaphore>,
}

impl Inbound {
    /// Request bodies are counted in kibibytes.
    pub(crate) const UNIT_BYTES: usize = 1024;

    pub(crate) fn new(bounds: &crate::Bounds) -> Self {
        let of = |permits: usize| Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)));
        Self {
            handshakes: of(bounds.handshakes_max),
            calls: of(bounds.inbound_calls_max),
            bulk_calls: of(bounds.inbound_bulk_calls_max),
            channels: of(bounds.inbound_channels_max),
            bytes: of(bounds.inbound_bytes_max / Self::UNIT_BYTES),
        }
    }
}

/// How the calls to one peer went since membership was last told: the latest [`Tally::MAX`] of each kind.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) outcomes: Vec<CallOutcome>,
    answered: usize,
}

impl Tally {
    /// Outcomes that are remembered, answers and others each.
    const MAX: usize = 64;

    /// Answers beyond the bound say nothing new; and they must not crowd out what went wrong.
    fn note(&mut self, outcome: CallOutcome) {
        let answer = matches!(outcome, CallOutcome::Answered(_));
        let count = if answer { self.answered } else { self.outcomes.len() - self.answered };
        if count < Self::MAX {
            self.answered += usize::from(answer);
            self.outcomes.push(outcome);
        }
    }
}

/// What a [`Core`] is made of, beside what starts empty.
pub(crate) struct Parts {
    pub(crate) options: MeshOptions,
    pub(crate) me: Profile,
    pub(crate) process: u64,
    pub(crate) endpoint: Endpoint,
    pub(crate) transport: Arc<quinn::TransportConfig>,
    pub(crate) sockets: Arc<dyn Sockets>,
    pub(crate) service: Arc<dyn Service>,
    pub(crate) admission: Arc<dyn Admission>,
    pub(crate) material: Material,
    pub(crate) connection_ids: crate::endpoint::ConnectionIds,
    pub(crate) peers: Peers,
}

/// A lock whose holder panicked still guards plain values that are whole between statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Core {
    pub(crate) fn new(parts: Parts, started: Instant) -> Self {
        let bounds = &parts.options.bounds;
        Self {
            links: Mutex::new(Links::new(bounds.handshake_timeout)),
            budget: RetryBudget::new(bounds.retry_percent, bounds.retry_burst),
            inbound: Inbound::new(bounds),
            table: ArcSwap::new(parts.peers.table().clone()),
            matrix: ArcSwap::new(parts.peers.round_trips().clone()),
            material: ArcSwap::from_pointee(parts.material),
            peers: Mutex::new(parts.peers),
            options: parts.options,
            me: parts.me,
            process: parts.process,
            endpoint: parts.endpoint,
            transport: parts.transport,
            sockets: parts.sockets,
            service: parts.service,
            admission: parts.admission,
            connection_ids: parts.connection_ids,
            started,
            serial: AtomicU64::new(0),
            link_news: watch::Sender::new(0),
            timer_moved: Notify::new(),
            changed: watch::Sender::new(0),
            dialing: Mutex::default(),
            tallies: Mutex::default(),
            calls: CallMetrics::new(),
            left: watch::Sender::new(false),
            disowned: watch::Sender::new(None),
            refusals: Mutex::default(),
        }
    }

    /// The time since the mesh started: what membership goes by.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn next_serial(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn has_left(&self) -> bool {
        *self.left.borrow()
    }

    /// Lets membership take something in, sends what it wants sent, and shows what has changed.
    pub(crate) fn with_peers<T>(&self, input: impl FnOnce(&mut Peers, Duration) -> T) -> T {
        let now = self.now();
        let mut peers = lock(&self.peers);
        let timer = peers.next_timeout();
        let output = input(&mut peers, now);
        let sends: Vec<_> = std::iter::from_fn(|| peers.poll_send()).collect();
        let news = peers.refresh(now);
        let notices: Vec<_> = std::iter::from_fn(|| peers.poll_notice()).collect();
        self.show(&peers);
        let moved = peers.next_timeout() != timer;
        drop(peers);
        sends.into_iter().for_each(|(to, bytes)| self.send_datagram(to, bytes));
        notices.iter().for_each(Notice::tell);
        if news {
            self.changed.send_modify(|version| *version += 1);
        }
        if moved {
            self.timer_moved.notify_one();
        }
        output
    }

    /// Shows membership's snapshots to readers. Under membership's lock, so that an older one never replaces a newer one.
    fn show(&self, peers: &Peers) {
        if !Arc::ptr_eq(&self.table.load(), peers.table()) {
            self.table.store(peers.table().clone());
        }
        if !Arc::ptr_eq(&self.matrix.load(), peers.round_trips()) {
            self.matrix.store(peers.round_trips().clone());
        }
    }

    /// Sends a datagram if there is room: they go ahead of streams, so they must never pile up (M7).
    fn send_datagram(&self, to: NodeId, bytes: bytes::Bytes) {
        let Some(link) = self.best(to, Traffic::Foreground) else {
            return metrics::datagram("unconnected");
        };
        if link.connection.datagram_send_buffer_space() < bytes.len() {
            return metrics::datagram("no-room");
        }
        match link.connection.send_datagram(bytes) {
            Ok(()) => metrics::datagram("sent"),
            Err(error) => {
                debug!(%to, %error, "datagram not sent");
                metrics::datagram("not-sent");
            }
        }
    }

    /// The connection to use to a peer, if there is one.
    pub(crate) fn best(&self, node: NodeId, traffic: Traffic) -> Option<Arc<Link>> {
        lock(&self.links).best(node, traffic)
    }

    /// A link has come or could not be made: whoever waits for one looks again.
    pub(crate) fn announce_links(&self) {
        self.link_news.send_modify(|version| *version += 1);
        let links = lock(&self.links);
        let bulk = links.all().filter(|link| link.traffic == Traffic::Bulk).count();
        metrics::connections(links.all().count() - bulk, bulk);
    }

    /// Counts a refusal, and logs the first of its kind from that peer (or address).
    pub(crate) fn note_refused(&self, reason: &'static str, peer: &str, detail: &str) {
        metrics::refused(reason);
        let mut refusals = lock(&self.refusals);
        if refusals.len() < REFUSALS_MAX && refusals.insert((reason, peer.to_owned())) {
            warn!(reason, peer, detail, "refused; further ones like it are only counted");
        } else {
            debug!(reason, peer, detail, "refused");
        }
    }

    /// A certified peer says that our store is retired. The first one is remembered.
    pub(crate) fn note_disowned(&self, by: NodeId) {
        self.disowned.send_if_modified(|first| {
            let is_news = first.is_none();
            first.get_or_insert(by);
            is_news
        });
    }

    /// Closes the connections of a peer that may not be here any more. It is told whether it may come back with another store.
    pub(crate) fn expel(&self, node: NodeId, reason: &str) {
        let links: Vec<_> = lock(&self.links).all().filter(|link| link.node() == node).cloned().collect();
        for link in links {
            let profile = &link.profile;
            let is_welcome = self.admission.admit(&profile.identity).is_ok();
            let is_retired = is_welcome && self.admission.admit_store(&profile.identity, profile.store).is_err();
            let code = if is_retired { CloseCode::StoreRetired } else { CloseCode::NotAdmitted };
            self.note_refused(code.as_str(), &profile.identity.to_string(), reason);
            link.close(code, reason);
        }
        self.with_peers(|peers, now| peers.forget(now, node));
    }

    /// The council's word on where a member is.
    pub(crate) fn learn(&self, node: NodeId, region: Region, address: &str) {
        if node == self.me.identity.node {
            return;
        }
        if let Err(error) = self.with_peers(|peers, _| peers.learn(node, region, address)) {
            self.note_refused("bad-address", &node.to_string(), &error.to_string());
        }
    }

    /// Remembers how a call went, for membership to be told at the next round: its lock is not taken for every call.
    pub(crate) fn tally(&self, node: NodeId, outcome: CallOutcome) {
        lock(&self.tallies).entry(node).or_default().note(outcome);
    }
}
