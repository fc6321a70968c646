//! Read copies (E10): what this daemon holds in memory of keys whose replicas are elsewhere, and what it tells those who hold copies of its own keys.
//!
//! ```text
//!   here, no replica                                            a replica
//!   find: no copy ──READ, with the stream's opening───────────> ticket, then the state
//!     └ keep: is the ticket good still? ─> Held <──answer────── and the ticket
//!   glance, find: Held ─> a copy: its Life, its age                its store's commits ─> Announcer ─> a queue for each subscriber
//!   follow: one stream from each replica, invalidates, beats <──COPIES: changes, heartbeats────────────────┘
//! ```
//!
//! The rules of the two ends are those of `isochrone_replica`'s copies module. What is decided here:
//!
//! - **A copy is kept from the first read on.** What one costs the replica is the slot, not the key: a second key of a slot costs nothing more. And a key that
//!   is read once displaces no hot one, since moka weighs how often a key is asked for before it lets it in where it is full.
//! - **A stream from every replica of the slot**, the nearest being who is read from: a write is announced by whichever replica has it first, so a copy
//!   goes a one-way delay after the write where its writer is a replica, however far the replica that it came from. The age
//!   rests on the stream of the replica that it came from alone.
//! - **A copy whose stream lives is served on the spot.** Once the stream has broken, a replica is asked first; if none answers the copy is served with its
//!   growing age, up to the namespace's `max_staleness`.
//! - **Own writes** lie in this daemon's store until every replica has them, and are joined into a copy when it is kept; a commit here drops the key's copy.
//! - **Sessions (E9).** A copy shows a session what it reflects, so what the session has seen of other daemons must be no later. A token may have been
//!   pruned, anywhere, of what is stable; that is never later than what this daemon has promised to be stable. So it promises no more than its
//!   copies reflect, and serves none that reflects less than it has promised.
//! - **Bounds.** Copies: `copies.bytes`. Slots: all there are, a bit each. Streams: one from each replica here, `copies.subscribers_max` there. What waits
//!   for a subscriber: `copies.queue`; what is remembered of a stream: as many.

mod announce;
mod follow;
mod held;
mod serve;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use isochrone_edge::{CopiesView, CopyStream};
use isochrone_ident::{Hlc, NodeId, Slot};
use isochrone_replica::{CopyTicket, Opening, copy_age_ms};
use isochrone_store::Changed;
use metrics::{Unit, describe_counter, describe_gauge};
use tokio::sync::watch;

use super::core::{Core, lock};
use super::options::CopyOptions;
use announce::Announcer;
use follow::Holder;
pub(crate) use follow::follow_all;
use held::Held;
pub(crate) use held::Name;

/// What is counted on the path of reads: here first, and told to the metrics now and then.
#[derive(Default)]
pub(crate) struct Meters {
    hits: AtomicU64,
    misses: AtomicU64,
    stale_hits: AtomicU64,
    invalidated: AtomicU64,
}

impl Meters {
    fn add(count: &AtomicU64) {
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn tell(&self) {
        metrics::counter!("isochrone_copies_hits_total").absolute(self.hits.load(Ordering::Relaxed));
        metrics::counter!("isochrone_copies_misses_total").absolute(self.misses.load(Ordering::Relaxed));
        metrics::counter!("isochrone_copies_stale_hits_total").absolute(self.stale_hits.load(Ordering::Relaxed));
        metrics::counter!("isochrone_copies_invalidated_total").absolute(self.invalidated.load(Ordering::Relaxed));
    }
}

/// Both ends of this daemon.
pub(crate) struct Copies {
    held: Held,
    holder: Mutex<Holder>,
    /// Changes when copies of more slots, or of more replicas, are wanted.
    wanted: watch::Sender<()>,
    announcer: Announcer,
    meters: Meters,
    is_on: bool,
}

impl Copies {
    /// No copies yet, and nobody who has some.
    pub(crate) fn new(options: CopyOptions, incarnation: u64, seed: u64) -> Self {
        Self {
            held: Held::new(options.bytes, seed),
            holder: Mutex::new(Holder::new(options.queue, incarnation)),
            wanted: watch::Sender::new(()),
            announcer: Announcer::default(),
            meters: Meters::default(),
            is_on: options.bytes > 0,
        }
    }

    /// This daemon's store has committed.
    fn committed(&self, changed: &[Changed]) {
        self.announcer.announce(changed);
        if self.held.is_in_use() {
            for change in changed {
                self.held.own_changed(&Name { ns: &change.ns, kind: change.kind, key: change.key.as_bytes() });
            }
        }
    }

    /// The ticket of a state that is read for a daemon with copies; see [`Announcer::ticket`].
    pub(crate) fn ticket(&self, peer: NodeId, opening: Opening, slot: Slot, shown: Hlc, serves: u64) -> Option<CopyTicket> {
        self.announcer.ticket(peer, opening, slot, shown, serves)
    }

    /// The most that this daemon may promise to be stable, for the sake of the copies that it holds.
    pub(crate) fn promise_max(&self) -> Option<Hlc> {
        lock(&self.holder).shown_by_all()
    }

    /// What is told now and then.
    pub(crate) fn gauges(&self) {
        self.meters.tell();
        let (entries, bytes) = self.held.size();
        metrics::gauge!("isochrone_copies_entries").set(entries as f64);
        metrics::gauge!("isochrone_copies_bytes").set(bytes as f64);
        metrics::gauge!("isochrone_copies_streams").set(lock(&self.holder).live_count() as f64);
        metrics::gauge!("isochrone_copies_subscribers").set(self.announcer.len() as f64);
    }
}

impl Core {
    /// What operators see of the copies held here.
    pub(crate) fn copies_view(&self) -> CopiesView {
        let (copies, view) = (&self.copies, self.view.load_full());
        let (entries, bytes) = copies.held.size();
        let stream = |(node, shown): (NodeId, Hlc)| CopyStream {
            node: node.to_string(),
            region: view.members.get(&node).map_or_else(String::new, |member| member.region.to_string()),
            age_ms: copy_age_ms(shown, self.now()),
        };
        let (hits, misses) = (copies.meters.hits.load(Ordering::Relaxed), copies.meters.misses.load(Ordering::Relaxed));
        CopiesView { entries, bytes, hits, misses, streams: lock(&copies.holder).shown().map(stream).collect() }
    }
}

/// Has the store tell of its commits.
pub(crate) fn observe(core: &Arc<Core>) {
    let told = Arc::downgrade(core);
    core.store.observe(Arc::new(move |changed| {
        if let Some(core) = told.upgrade() {
            core.copies.committed(changed);
        }
    }));
}

/// Describes the metrics to the recorder in force.
pub(crate) fn describe() {
    describe_counter!("isochrone_copies_hits_total", "Reads of keys whose replicas are elsewhere, answered from a copy");
    describe_counter!("isochrone_copies_misses_total", "Reads of keys whose replicas are elsewhere that asked a replica");
    describe_counter!("isochrone_copies_stale_hits_total", "Of the hits: no replica could be reached, so that the copy's age grows");
    describe_counter!("isochrone_copies_invalidated_total", "Copies dropped because their key was written elsewhere");
    describe_counter!(
        "isochrone_copies_overflows_total",
        "Streams to daemons with copies that were ended because too much waited for them"
    );
    describe_counter!("isochrone_copies_streams_broken_total", "Streams of invalidations that broke or could not be opened");
    describe_gauge!("isochrone_copies_entries", "Copies held");
    describe_gauge!("isochrone_copies_bytes", Unit::Bytes, "Memory counted for copies");
    describe_gauge!("isochrone_copies_streams", "Replicas that tell this daemon of changes");
    describe_gauge!("isochrone_copies_subscribers", "Daemons that this one tells of changes");
}
