//! The holder's end of the streams: one from each replica of the slots that copies are wanted of, opened again whenever it breaks (E10).

use std::collections::BTreeMap;
use std::sync::Arc;

use isochrone_gossip::{ChannelSender, Traffic};
use isochrone_ident::{Hlc, NodeId, Slot, Version};
use isochrone_placement::SlotSet;
use isochrone_replica::{CopyHeartbeat, KeyHash, Opening, Position, Streams};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use super::Meters;
use super::held::{Fill, Held, Life, News, OwnTicket};
use crate::node::core::{Core, lock};
use crate::node::frames::Frames;
use crate::node::sender::wait_for_peer;
use crate::node::wire::{self, CopyAsk, CopyNews};

/// A stream that said nothing for so many heartbeats has broken.
const SILENCE: u32 = 20;
/// A replica that refuses is asked again after so many of the longest pauses.
const REFUSED_PAUSES: u32 = 30;
/// Openings that one start of a daemon has room for: it counts them from its incarnation on, so that they rise over all its starts.
const OPENINGS_BITS: u32 = 40;

/// What is wanted of one replica, and the stream that brings it.
#[derive(Default)]
struct Peer {
    /// The slots that copies are wanted of. Grows for as long as the replica is a member.
    wanted: SlotSet,
    life: Option<Arc<Life>>,
    is_followed: bool,
}

/// All streams of this daemon.
pub(crate) struct Holder {
    streams: Streams,
    peers: BTreeMap<NodeId, Peer>,
    last: Opening,
}

impl Holder {
    /// No streams yet; of each, so many invalidations are remembered.
    pub(crate) fn new(remembered_max: usize, incarnation: u64) -> Self {
        Self { streams: Streams::new(remembered_max), peers: BTreeMap::new(), last: Opening(incarnation << OPENINGS_BITS) }
    }

    /// Copies of that slot's keys are wanted; says whether that is news to some stream.
    pub(crate) fn want(&mut self, replicas: impl Iterator<Item = NodeId>, slot: Slot) -> bool {
        let mut is_new = false;
        for replica in replicas {
            is_new |= self.peers.entry(replica).or_default().wanted.insert(slot);
        }
        is_new
    }

    /// The stream that a read at that replica may rest a copy on.
    pub(crate) fn opening(&self, replica: NodeId) -> Option<Opening> {
        self.peers.get(&replica).and_then(|peer| peer.life.as_ref()).filter(|life| life.is_live()).map(|life| life.opening)
    }

    /// Keeps what a replica said, if its ticket is good: in one step with the arrival of invalidations.
    pub(crate) fn keep(&self, held: &Held, own: OwnTicket, fill: Fill<'_>, is_checked: bool) -> bool {
        let hash = fill.name.hash();
        let life = self.peers.get(&fill.from).and_then(|peer| peer.life.clone()).filter(|life| life.opening == fill.ticket.opening);
        let Some(life) = life.filter(|_| !is_checked || self.streams.may_keep(fill.from, &fill.ticket, hash)) else { return false };
        held.keep(hash, own, fill.into_copy(life));
        true
    }

    /// Up to when all copies reflect everything that any daemon took, if there are any.
    pub(crate) fn shown_by_all(&self) -> Option<Hlc> {
        self.streams.shown_by_all()
    }

    /// How many replicas have a stream that lives.
    pub(crate) fn live_count(&self) -> usize {
        self.streams.live().count()
    }

    /// The replicas that are followed, each with what its stream has shown last.
    pub(crate) fn shown(&self) -> impl Iterator<Item = (NodeId, Hlc)> {
        self.peers.iter().filter_map(|(&replica, peer)| Some((replica, peer.life.as_ref()?.shown())))
    }

    /// The replicas that nobody follows yet, who are followed from now on.
    fn take_unfollowed(&mut self) -> Vec<NodeId> {
        let unfollowed = self.peers.iter_mut().filter(|(_, peer)| !peer.is_followed);
        unfollowed
            .map(|(&replica, peer)| {
                peer.is_followed = true;
                replica
            })
            .collect()
    }

    /// A stream begins: its life, and the slots to ask for.
    fn open(&mut self, replica: NodeId) -> (Arc<Life>, SlotSet) {
        self.last = Opening(self.last.0 + 1);
        let peer = self.peers.entry(replica).or_default();
        let life = Arc::new(Life::new(self.last));
        peer.life = Some(Arc::clone(&life));
        self.streams.open(replica, self.last);
        (life, peer.wanted.clone())
    }

    fn ended(&mut self, replica: NodeId, life: &Life) {
        life.end();
        self.streams.broken(replica, life.opening);
    }

    /// Nothing will vouch for that replica's copies for long: they hold nothing back.
    fn unvouched(&mut self, replica: NodeId) {
        self.streams.forget(replica);
    }

    fn forget(&mut self, replica: NodeId) {
        self.peers.remove(&replica);
        self.streams.forget(replica);
    }

    /// What of the wanted slots was not asked for yet.
    fn unasked(&self, replica: NodeId, asked: &SlotSet) -> Vec<Slot> {
        self.peers.get(&replica).map_or_else(Vec::new, |peer| peer.wanted.iter().filter(|&slot| !asked.contains(slot)).collect())
    }
}

/// Why a stream came to its end.
enum Ended {
    /// The replica is no member any more.
    Gone,
    /// The replica will not have it, as long as it has so many others: not to be tried again soon.
    Refused(String),
    /// It broke, or began to miss things.
    Broken(String),
}

/// Follows every replica that copies are wanted of, for ever.
pub(crate) async fn follow_all(core: Arc<Core>) {
    let mut wanted = core.copies.wanted.subscribe();
    loop {
        wanted.borrow_and_update();
        let unfollowed = lock(&core.copies.holder).take_unfollowed();
        for replica in unfollowed {
            core.spawn(follow(Arc::clone(&core), replica));
        }
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

/// Keeps a stream from a replica open for as long as it is a member.
async fn follow(core: Arc<Core>, replica: NodeId) {
    let mut rng = StdRng::seed_from_u64(core.environment.seed ^ (replica.0 as u64) ^ 0xc0b1);
    let (shortest, longest) = core.options.backoff;
    let mut pause = shortest;
    loop {
        let began = Instant::now();
        let ended = if core.view.load().members.contains_key(&replica) { run_stream(&core, replica).await } else { Ended::Gone };
        match ended {
            Ended::Gone => return lock(&core.copies.holder).forget(replica),
            Ended::Refused(reason) => {
                tracing::info!(%replica, reason, "a replica tells this daemon of no changes: its keys are read without copies");
                lock(&core.copies.holder).unvouched(replica);
                pause = longest * REFUSED_PAUSES;
            }
            Ended::Broken(reason) => {
                tracing::debug!(%replica, reason, "copies of its keys grow older until it tells of changes again");
                metrics::counter!("isochrone_copies_streams_broken_total").increment(1);
                pause = if began.elapsed() > longest { shortest } else { (pause * 2).min(longest) };
            }
        }
        wait_for_peer(&core, replica, pause.mul_f64(rng.random_range(0.5..1.0))).await;
    }
}

async fn run_stream(core: &Core, replica: NodeId) -> Ended {
    let channel = match core.mesh.open(replica, wire::COPIES, Traffic::Foreground).await {
        Ok(channel) => channel,
        Err(e) => return Ended::Broken(e.to_string()),
    };
    let (out, news) = channel.split();
    let (life, asked) = lock(&core.copies.holder).open(replica);
    let mut stream = Stream { core, replica, life, asked, out };
    let ended = stream.run(Frames::of(news)).await;
    lock(&core.copies.holder).ended(replica, &stream.life);
    ended
}

/// One stream from one replica.
struct Stream<'a> {
    core: &'a Core,
    replica: NodeId,
    life: Arc<Life>,
    asked: SlotSet,
    out: ChannelSender,
}

impl Stream<'_> {
    async fn run(&mut self, mut news: Frames) -> Ended {
        let mut wanted = self.core.copies.wanted.subscribe();
        let mut view = self.core.view_changed.subscribe();
        if let Err(reason) = self.send(&CopyAsk::Open { opening: self.life.opening, slots: self.asked.clone() }).await {
            return Ended::Broken(reason);
        }
        let silence = self.core.options.heartbeat * SILENCE;
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                biased;
                frame = news.next() => match frame {
                    Some(Ok(bytes)) => {
                        heard = Instant::now();
                        if let Err(ended) = self.take(&bytes) { return ended }
                    }
                    None => return Ended::Broken("the replica closed the stream".to_owned()),
                    Some(Err(reason)) => return Ended::Broken(reason),
                },
                () = tokio::time::sleep_until(heard + silence) => return Ended::Broken("the replica fell silent".to_owned()),
                _ = view.changed() => if !self.core.view.load().members.contains_key(&self.replica) { return Ended::Gone },
                _ = wanted.changed() => if let Err(reason) = self.ask_for_more().await { return Ended::Broken(reason) },
            }
        }
    }

    async fn ask_for_more(&mut self) -> Result<(), String> {
        let slots = lock(&self.core.copies.holder).unasked(self.replica, &self.asked);
        if slots.is_empty() {
            return Ok(());
        }
        for &slot in &slots {
            self.asked.insert(slot);
        }
        self.send(&CopyAsk::Add { slots }).await
    }

    async fn send(&mut self, ask: &CopyAsk) -> Result<(), String> {
        self.out.send(wire::encode(ask)).await.map_err(|e| e.to_string())
    }

    /// What the replica says, in its order.
    fn take(&self, bytes: &[u8]) -> Result<(), Ended> {
        match wire::decode(bytes).map_err(Ended::Broken)? {
            CopyNews::Changed { first, keys } => self.changed(first, &keys),
            CopyNews::Heartbeat(heartbeat) => self.beat(heartbeat),
            CopyNews::Overflowed => Err(Ended::Broken("more changed than the replica keeps for one stream (`copies.queue`)".to_owned())),
            CopyNews::Refused(reason) => Err(Ended::Refused(reason)),
        }
    }

    fn changed(&self, first: Position, keys: &[(KeyHash, Version)]) -> Result<(), Ended> {
        let copies = &self.core.copies;
        let mut holder = lock(&copies.holder);
        let mut position = first;
        for &(key, version) in keys {
            let news = News { from: self.replica, opening: self.life.opening, position, version };
            holder.streams.invalidated(self.replica, self.life.opening, key, position).map_err(|gap| Ended::Broken(gap.to_string()))?;
            if copies.held.drop_if(key, |copy| copy.is_outdated_by(&news)) {
                Meters::add(&copies.meters.invalidated);
            }
            position = position.next();
        }
        Ok(())
    }

    fn beat(&self, heartbeat: CopyHeartbeat) -> Result<(), Ended> {
        let mut holder = lock(&self.core.copies.holder);
        let heard = holder.streams.heartbeat(self.replica, self.life.opening, heartbeat).map_err(|gap| Ended::Broken(gap.to_string()))?;
        self.life.beat(heard);
        Ok(())
    }
}
