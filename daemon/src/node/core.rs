//! What all parts of a node share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use isochrone_council::{Council, Member};
use isochrone_gossip::Mesh;
use isochrone_ident::{ClusterName, Epoch, Hlc, Key, Kind, Namespace, NodeId, Slot, Version, WallMicros};
use isochrone_replica::{Delivery, Horizon, Pass, Sequence};
use isochrone_store::Store;
use tokio::sync::watch;

use super::actors::Actors;
use super::options::{Environment, NodeOptions};
use super::stamp::Stamps;
use super::view::View;
use super::{copies::Copies, feeds::Feeds, fill::Filled, repair::Repair, strong::Strong, traffic::Traffic};

/// The shared state of one running node. Everything in it is either immutable, exchanged whole, or behind a lock that is held for
/// a few instructions and never across an await.
pub(crate) struct Core {
    pub(crate) cluster: ClusterName,
    pub(crate) me: Member,
    pub(crate) options: NodeOptions,
    pub(crate) environment: Environment,
    pub(crate) store: Store,
    pub(crate) mesh: Mesh,
    pub(crate) council: Council,
    pub(crate) view: ArcSwap<View>,
    pub(crate) view_changed: watch::Sender<u64>,
    pub(crate) stamps: Stamps,
    pub(crate) actors: Actors,
    pub(crate) delivery: Mutex<Delivery>,
    pub(crate) horizon: Mutex<Horizon>,
    pub(crate) heard_from_all: AtomicU64,
    pub(crate) stable_through: AtomicU64,
    /// What this node itself has promised to be stable; what others take for stable is at most that.
    pub(crate) promised: AtomicU64,
    pub(crate) copies: Copies,
    /// Changes whenever a member has been heard.
    pub(crate) heard: watch::Sender<()>,
    /// Changes whenever a peer has acknowledged more of the log.
    pub(crate) acknowledged: watch::Sender<()>,
    /// The token of a session that depends on nothing.
    pub(crate) empty_token: Arc<str>,
    pub(crate) head: watch::Sender<Sequence>,
    pub(crate) traffic: Traffic,
    pub(crate) feeds: Feeds,
    pub(crate) filled: Mutex<Filled>,
    pub(crate) repair: Repair,
    pub(crate) strong: Arc<Strong>,
    pub(crate) refusals_of_peers: Mutex<BTreeMap<NodeId, String>>,
    pub(crate) stop: watch::Sender<bool>,
}

/// A record to forget, should it still have that version.
pub(crate) type Doomed = (Slot, Namespace, Kind, Key, Version);

/// Locks without giving up when another thread panicked while it held the lock: the values behind our locks are valid between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until the node is told to stop.
pub(crate) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error says that the node is gone, which is a stop as well.
    let _ = stopping.wait_for(|stop| *stop).await;
}

impl Core {
    /// The wall time.
    pub(crate) fn now(&self) -> WallMicros {
        (self.environment.wall)()
    }

    /// How old a read of this node's own store may be, in milliseconds. On the path of every read: no lock.
    pub(crate) fn age_ms(&self) -> Option<u64> {
        let oldest = self.shown_through();
        (oldest > Hlc::ZERO).then(|| self.now().0.saturating_sub(oldest.wall().0).div_ceil(1000))
    }

    /// Up to when this node's own store shows every write that any member took, of keys that it is a replica of.
    pub(crate) fn shown_through(&self) -> Hlc {
        Hlc(self.heard_from_all.load(Ordering::Acquire))
    }

    /// Changes what is known of the members' watermarks.
    pub(crate) fn with_horizon(&self, change: impl FnOnce(&mut Horizon)) {
        let mut horizon = lock(&self.horizon);
        change(&mut horizon);
        self.heard_from_all.store(horizon.heard_from_all().0, Ordering::Release);
        self.stable_through.store(horizon.stable_through().0, Ordering::Release);
        self.promised.fetch_max(horizon.heard(self.id()).stable_through.0, Ordering::AcqRel);
        drop(horizon);
        self.heard.send_replace(());
    }

    /// No write at or before this time can still arrive at any replica. On the path of every read: no lock.
    pub(crate) fn stable(&self) -> Hlc {
        Hlc(self.stable_through.load(Ordering::Acquire))
    }

    /// A peer has acknowledged more of the log.
    pub(crate) fn acknowledge(&self, peer: NodeId, pass: Pass, sequence: Sequence, epoch: Epoch) {
        lock(&self.delivery).acknowledge(peer, pass, sequence, epoch);
        self.acknowledged.send_replace(());
    }

    /// This node's id.
    pub(crate) fn id(&self) -> NodeId {
        self.me.node
    }

    /// The log has grown to `sequence`.
    pub(crate) fn logged(&self, sequence: Sequence) {
        self.head.send_if_modified(|head| {
            let grows = sequence > *head;
            *head = (*head).max(sequence);
            grows
        });
    }

    /// How far this node's clock is from the cluster's, in milliseconds (positive: ahead), when that is more than is allowed (E4).
    /// The cluster's clock is the lower median of all members', our own included: with two members nobody can tell who is right.
    pub(crate) fn clock_off_ms(&self) -> Option<i64> {
        let ahead = i64::try_from(self.stamps.ahead_ms(self.now())).unwrap_or(i64::MAX);
        let max = i64::try_from(self.options.clock.ahead_ms_max).unwrap_or(i64::MAX);
        if ahead > max {
            return Some(-ahead);
        }
        let peers = self.mesh.peers();
        let mut offsets: Vec<i64> = peers.peers.values().filter_map(|peer| peer.clock_offset_ms).collect();
        offsets.push(0);
        offsets.sort_by_key(|offset| offset.unsigned_abs());
        let median = offsets[(offsets.len() - 1) / 2];
        (median.abs() > max).then_some(-median)
    }

    /// Whether this node is a member by the council's word.
    pub(crate) fn is_member(&self) -> bool {
        self.view.load().members.contains_key(&self.me.node)
    }

    /// Whether this node waits to be filled with a slot.
    pub(crate) fn is_filling(&self, slot: Slot) -> bool {
        self.view.load().joiners(slot).contains(&self.me.node)
    }

    /// The members other than this node.
    pub(crate) fn others(&self) -> Vec<NodeId> {
        self.view.load().members.keys().copied().filter(|&n| n != self.me.node).collect()
    }

    /// A receiver that changes when the node is told to stop.
    pub(crate) fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Spawns a task that ends when the node is told to stop.
    pub(crate) fn spawn<F>(self: &Arc<Self>, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut stopping = self.stopping();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = stopped(&mut stopping) => {}
                () = task => {}
            }
        });
    }
}
