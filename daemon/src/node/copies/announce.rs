//! The replica's end of the streams: what its store commits is told to every daemon that holds copies of the slot (E10).
//!
//! The committer only looks who wants to know, and puts a place, a hash and a version into a queue for each. A subscriber that lets its queue fill up is
//! dropped, told so, and starts anew; nothing waits for it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex};

use isochrone_gossip::{Channel, ChannelSender, PeerIdentity};
use isochrone_ident::{Hlc, NodeId, Slot, Version};
use isochrone_placement::SlotSet;
use isochrone_replica::{CopyHeartbeat, CopyTicket, KeyHash, Opening, Position, Source};
use isochrone_store::Changed;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::held::Name;
use crate::node::core::{Core, lock, stopped};
use crate::node::frames::Frames;
use crate::node::wire::{self, CopyAsk, CopyNews};

/// Invalidations in one frame, at most: some 40 bytes each.
const FRAME_MAX: usize = 256;

/// What waits to be sent to a subscriber.
enum Item {
    Changed(Position, KeyHash, Version),
    Heartbeat(CopyHeartbeat),
}

/// A daemon that holds copies.
struct Subscriber {
    opening: Opening,
    source: Source,
    slots: SlotSet,
    queue: mpsc::Sender<Item>,
    /// What this node answered reads for when the stream began: when that changes, so does what `shown` speaks of.
    serves: u64,
}

/// Why there is no stream for a daemon.
enum NotTaken {
    /// There are as many as may be.
    TooMany,
    /// A later one of that daemon is there already.
    Superseded,
}

/// The daemons that hold copies of this one's keys.
#[derive(Default)]
pub(crate) struct Announcer {
    /// How many there are: what a commit costs while there are none.
    count: AtomicUsize,
    subscribers: Mutex<BTreeMap<NodeId, Subscriber>>,
}

impl Announcer {
    /// A commit has become visible. Called by the committer, before the commit is answered.
    pub(crate) fn announce(&self, changed: &[Changed]) {
        // Together with the one in `subscribe`: either this sees the subscriber, or what the subscriber reads from then on shows the commit.
        fence(Ordering::SeqCst);
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut subscribers = lock(&self.subscribers);
        for change in changed {
            let name = Name { ns: &change.ns, kind: change.kind, key: change.key.as_bytes() };
            let mut hash = None;
            subscribers.retain(|_, subscriber| {
                !subscriber.slots.contains(change.slot) || subscriber.tell(*hash.get_or_insert_with(|| name.hash()), change.version)
            });
        }
        self.count.store(subscribers.len(), Ordering::Relaxed);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    fn subscribe(&self, peer: NodeId, subscriber: Subscriber, subscribers_max: usize) -> Result<(), NotTaken> {
        let mut subscribers = lock(&self.subscribers);
        match subscribers.get(&peer) {
            Some(there) if there.opening >= subscriber.opening => return Err(NotTaken::Superseded),
            None if subscribers.len() >= subscribers_max => return Err(NotTaken::TooMany),
            _ => {}
        }
        subscribers.insert(peer, subscriber);
        self.count.store(subscribers.len(), Ordering::Relaxed);
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// Ends a stream, unless a later one has taken its place.
    fn unsubscribe(&self, peer: NodeId, opening: Opening) {
        let mut subscribers = lock(&self.subscribers);
        if subscribers.get(&peer).is_some_and(|subscriber| subscriber.opening == opening) {
            subscribers.remove(&peer);
        }
        self.count.store(subscribers.len(), Ordering::Relaxed);
    }

    /// The ticket of a state that is read from now on, for a daemon with a live stream, which is told of the slot's changes from now on. `shown` was taken
    /// before, and what `serves` stands for is what this node answers reads for at this moment.
    pub(crate) fn ticket(&self, peer: NodeId, opening: Opening, slot: Slot, shown: Hlc, serves: u64) -> Option<CopyTicket> {
        let mut subscribers = lock(&self.subscribers);
        let subscriber = subscribers.get_mut(&peer).filter(|there| there.opening == opening && there.serves == serves)?;
        subscriber.slots.insert(slot);
        Some(subscriber.source.ticket(shown))
    }

    fn add(&self, peer: NodeId, opening: Opening, slots: &[Slot]) {
        if let Some(subscriber) = lock(&self.subscribers).get_mut(&peer).filter(|there| there.opening == opening) {
            for &slot in slots {
                subscriber.slots.insert(slot);
            }
        }
    }

    /// Queues a heartbeat behind everything that was announced; `false` when the stream is over.
    fn beat(&self, peer: NodeId, opening: Opening, shown: Hlc) -> bool {
        let subscribers = lock(&self.subscribers);
        let subscriber = subscribers.get(&peer).filter(|there| there.opening == opening);
        subscriber.is_some_and(|there| there.queue.try_send(Item::Heartbeat(there.source.heartbeat(shown))).is_ok())
    }
}

impl Subscriber {
    /// Queues an invalidation; `false` when there is no room, which ends the stream.
    fn tell(&mut self, key: KeyHash, version: Version) -> bool {
        let position = self.source.invalidate();
        let is_told = self.queue.try_send(Item::Changed(position, key, version)).is_ok();
        if !is_told {
            metrics::counter!("isochrone_copies_overflows_total").increment(1);
        }
        is_told
    }
}

impl Core {
    /// Serves the stream of a daemon that holds copies, until it ends or has to begin anew.
    pub(crate) async fn announce_to(self: Arc<Self>, peer: PeerIdentity, channel: Channel) {
        let (out, asked) = channel.split();
        let mut asked = Frames::of(asked);
        let first = tokio::time::timeout(self.options.read_deadline, asked.next()).await;
        let Ok(Some(Ok(bytes))) = first else { return };
        let (opening, slots) = match wire::decode(&bytes) {
            Ok(CopyAsk::Open { opening, slots }) => (opening, slots),
            Ok(CopyAsk::Add { .. }) | Err(_) => {
                tracing::warn!(peer = %peer.node, region = %peer.region, "a stream of invalidations was not opened as it should be");
                return;
            }
        };
        let (queue, items) = mpsc::channel(self.options.copies.queue);
        let serves = self.view.load().serves();
        let subscriber = Subscriber { opening, source: Source::new(opening), slots, queue, serves };
        let mut stream = Stream { core: &self, peer: peer.node, opening, serves, out };
        match self.copies.announcer.subscribe(peer.node, subscriber, self.options.copies.subscribers_max) {
            Ok(()) => {}
            Err(NotTaken::Superseded) => return,
            Err(NotTaken::TooMany) => {
                let reason = format!("it tells {} daemons already (`copies.subscribers_max`)", self.options.copies.subscribers_max);
                return stream.end(&CopyNews::Refused(reason)).await;
            }
        }
        stream.run(asked, items).await;
        self.copies.announcer.unsubscribe(peer.node, opening);
    }
}

/// A stream to one daemon.
struct Stream<'a> {
    core: &'a Core,
    peer: NodeId,
    opening: Opening,
    serves: u64,
    out: ChannelSender,
}

impl Stream<'_> {
    async fn run(&mut self, mut asked: Frames, mut items: mpsc::Receiver<Item>) {
        let (mut view, mut stopping) = (self.core.view_changed.subscribe(), self.core.stopping());
        let mut beat = interval(self.core.options.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(FRAME_MAX);
        loop {
            tokio::select! {
                biased;
                () = stopped(&mut stopping) => return,
                count = items.recv_many(&mut batch, FRAME_MAX) => {
                    if count == 0 { return self.end(&CopyNews::Overflowed).await }
                    if self.send_all(&mut batch).await.is_err() { return }
                }
                frame = asked.next() => if !self.take(frame) { return },
                _ = view.changed() => if self.core.view.load().serves() != self.serves { return },
                _ = beat.tick() => if !self.beat() { return },
            }
        }
    }

    /// What this node shows is read first: should what it serves have changed before that, the view tells, and the stream ends.
    fn beat(&self) -> bool {
        let shown = self.core.shown_through();
        self.core.view.load().serves() == self.serves && self.core.copies.announcer.beat(self.peer, self.opening, shown)
    }

    /// More slots.
    fn take(&self, frame: Option<Result<bytes::Bytes, String>>) -> bool {
        let Some(Ok(bytes)) = frame else { return false };
        let Ok(CopyAsk::Add { slots }) = wire::decode(&bytes) else { return false };
        self.core.copies.announcer.add(self.peer, self.opening, &slots);
        true
    }

    async fn send_all(&mut self, batch: &mut Vec<Item>) -> Result<(), String> {
        let mut news: Vec<CopyNews> = Vec::new();
        for item in batch.drain(..) {
            match (item, news.last_mut()) {
                (Item::Changed(_, key, version), Some(CopyNews::Changed { keys, .. })) => keys.push((key, version)),
                (Item::Changed(first, key, version), _) => news.push(CopyNews::Changed { first, keys: vec![(key, version)] }),
                (Item::Heartbeat(heartbeat), _) => news.push(CopyNews::Heartbeat(heartbeat)),
            }
        }
        for one in &news {
            self.out.send(wire::encode(one)).await.map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    async fn end(&mut self, last: &CopyNews) {
        // Should it not arrive, the end of the stream says as much.
        let _ = self.out.send(wire::encode(last)).await;
        self.out.finish();
    }
}

#[cfg(test)]
mod tests {
    use isochrone_ident::{Key, Kind, Namespace};

    use super::*;

    const HOLDER: NodeId = NodeId(1);
    const OTHER: NodeId = NodeId(2);
    const SERVES: u64 = 5;

    fn subscriber(opening: u64, queue: usize) -> (Subscriber, mpsc::Receiver<Item>) {
        let (queue, items) = mpsc::channel(queue);
        let opening = Opening(opening);
        (Subscriber { opening, source: Source::new(opening), slots: SlotSet::default(), queue, serves: SERVES }, items)
    }

    fn changed(slot: Slot) -> Changed {
        let (ns, key) = (Namespace::new("data").expect("a name"), Key::new("k".to_owned()).expect("a key"));
        Changed { slot, ns, kind: Kind::Value, key, version: Version::default(), live: true }
    }

    fn position(announcer: &Announcer, opening: u64, slot: Slot) -> Option<u64> {
        announcer.ticket(HOLDER, Opening(opening), slot, Hlc::ZERO, SERVES).map(|ticket| ticket.position.0)
    }

    #[test]
    fn e10_a_slot_is_told_of_from_its_first_ticket_on_and_no_other() {
        let announcer = Announcer::default();
        let (holder, mut items) = subscriber(1, 8);
        assert!(announcer.subscribe(HOLDER, holder, 1).is_ok());
        let (slot, other) = (Slot::of_hash(1), Slot::of_hash(2));
        announcer.announce(&[changed(slot)]);
        assert_eq!(position(&announcer, 1, slot), Some(0));
        announcer.announce(&[changed(slot), changed(other), changed(slot)]);
        assert_eq!(position(&announcer, 1, slot), Some(2));
        assert!(announcer.beat(HOLDER, Opening(1), Hlc(9)));
        let kinds: Vec<_> = std::iter::from_fn(|| items.try_recv().ok()).map(|item| matches!(item, Item::Heartbeat(_))).collect();
        assert_eq!(kinds, [false, false, true], "a heartbeat comes behind what it covers");
    }

    #[test]
    fn e10_a_subscriber_that_lets_its_queue_fill_up_is_dropped_and_gets_no_more_tickets() {
        let announcer = Announcer::default();
        let (holder, mut items) = subscriber(1, 2);
        assert!(announcer.subscribe(HOLDER, holder, 1).is_ok());
        let slot = Slot::of_hash(1);
        assert!(position(&announcer, 1, slot).is_some());
        announcer.announce(&[changed(slot), changed(slot), changed(slot)]);
        assert_eq!((announcer.len(), position(&announcer, 1, slot)), (0, None));
        assert_eq!(std::iter::from_fn(|| items.try_recv().ok()).count(), 2);
        assert!(items.is_closed() && !announcer.beat(HOLDER, Opening(1), Hlc(9)));
    }

    #[test]
    fn e10_no_ticket_is_given_under_another_opening_or_once_the_node_serves_other_slots() {
        let announcer = Announcer::default();
        let (holder, _items) = subscriber(2, 8);
        assert!(announcer.subscribe(HOLDER, holder, 1).is_ok());
        let slot = Slot::of_hash(1);
        assert_eq!(position(&announcer, 1, slot), None);
        assert!(announcer.ticket(HOLDER, Opening(2), slot, Hlc::ZERO, SERVES + 1).is_none());
        assert!(announcer.ticket(OTHER, Opening(2), slot, Hlc::ZERO, SERVES).is_none());
    }

    #[test]
    fn e10_streams_are_bounded_and_a_daemons_later_one_takes_the_place_of_its_earlier() {
        let announcer = Announcer::default();
        let add = |node, opening| announcer.subscribe(node, subscriber(opening, 8).0, 1);
        assert!(add(HOLDER, 2).is_ok());
        assert!(matches!(add(OTHER, 1), Err(NotTaken::TooMany)));
        assert!(matches!(add(HOLDER, 2), Err(NotTaken::Superseded)));
        assert!(add(HOLDER, 3).is_ok());
        announcer.unsubscribe(HOLDER, Opening(2));
        assert_eq!(announcer.len(), 1, "the end of the earlier one is no end of the later");
        announcer.unsubscribe(HOLDER, Opening(3));
        assert_eq!(announcer.len(), 0);
    }
}
