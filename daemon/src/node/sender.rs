//! The sending end of replication: one task a peer, which reads the operation log from where that peer has acknowledged it (E5).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isochrone_gossip::{ChannelSender, Traffic};
use isochrone_ident::{Epoch, Kind, NodeId, Version};
use isochrone_replica::{Frontier, Heard, Pass, Sequence};
use isochrone_store::{Logged, RequestKey};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::core::{Core, lock};
use super::feeds::Outstanding;
use super::frames::Frames;
use super::options::Mutation;
use super::pull::Name;
use super::wire::{self, Answered, Feed, FeedAnswer, Item, What};

/// Operations read from the log at a time.
const LOG_PAGE: usize = 512;
/// Checkpoints that a stream's watermark remembers.
const CHECKPOINTS: usize = 64;
/// After new writes the peer is told how far they reach without waiting for the next heartbeat, so often at most: sessions that roam wait for it (E9).
const TOLD_PERIOD: Duration = Duration::from_millis(10);

/// How the reason begins when a peer would not take something.
pub(crate) const REFUSED: &str = "the peer did not take a batch";

/// Why a stream came to its end.
enum Ended {
    /// The peer is no member any more.
    Gone,
    /// It has to be sent again what was passed over.
    NewPass,
    /// The stream broke, or the peer would not take something.
    Broken(String),
}

/// The next batch for a peer.
struct Gathered {
    /// The last operation that it covers.
    through: Sequence,
    items: Vec<Item>,
    answers: Vec<Answered>,
}

/// One stream to one peer.
struct Stream<'a> {
    core: &'a Core,
    peer: NodeId,
    pass: Pass,
    epoch: Epoch,
    sent: Sequence,
    outstanding: Outstanding,
    frontier: Frontier,
    /// Up to where the peer was told that it was sent everything, and when.
    told: (Sequence, Instant),
    out: ChannelSender,
}

/// Feeds a peer for as long as it is a member.
pub(crate) async fn feed(core: Arc<Core>, peer: NodeId) {
    let mut rng = StdRng::seed_from_u64(core.environment.seed ^ (peer.0 as u64) ^ 0xfeed);
    let (shortest, longest) = core.options.backoff;
    let mut pause = shortest;
    loop {
        let started = Instant::now();
        match run_stream(&core, peer).await {
            Ended::Gone => return,
            Ended::NewPass => pause = shortest,
            Ended::Broken(reason) => {
                if started.elapsed() > longest {
                    pause = shortest;
                }
                note_failure(&core, peer, &reason);
                wait_for_peer(&core, peer, pause.mul_f64(rng.random_range(0.5..1.0))).await;
                pause = (pause * 2).min(longest);
            }
        }
    }
}

/// Logs a failure once: again only when the reason changes.
fn note_failure(core: &Core, peer: NodeId, reason: &str) {
    let mut refusals = lock(&core.refusals_of_peers);
    if refusals.get(&peer).is_none_or(|known| known != reason) {
        tracing::info!(%peer, reason, "writes for this peer are kept until it can be reached");
        refusals.insert(peer, reason.to_owned());
    }
}

/// Waits for a while, or less when something about the peers changes (it may have come back).
pub(crate) async fn wait_for_peer(core: &Core, peer: NodeId, pause: Duration) {
    let alive = |core: &Core| core.mesh.is_connected(peer);
    let was_alive = alive(core);
    let mut changed = core.mesh.changed();
    let until = Instant::now() + pause;
    while let Ok(Ok(())) = tokio::time::timeout_at(until, changed.changed()).await {
        if !was_alive && alive(core) {
            return;
        }
    }
}

async fn run_stream(core: &Core, peer: NodeId) -> Ended {
    let Some((pass, mut from)) = lock(&core.delivery).resume(peer) else { return Ended::Gone };
    if core.options.breaks(Mutation::SkipUnacknowledged) {
        from = *core.head.borrow();
    }
    let channel = match core.mesh.open(peer, wire::REPLICATE, Traffic::Foreground).await {
        Ok(channel) => channel,
        Err(e) => return Ended::Broken(e.to_string()),
    };
    let (out, answers) = channel.split();
    let epoch = core.view.load().phase_number();
    let stream = Stream {
        core,
        peer,
        pass,
        epoch,
        sent: from,
        outstanding: Outstanding::new(),
        frontier: Frontier::new(CHECKPOINTS),
        told: (from, Instant::now()),
        out,
    };
    stream.run(Frames::of(answers)).await
}

impl Stream<'_> {
    async fn run(mut self, mut answers: Frames) -> Ended {
        let mut head = self.core.head.subscribe();
        let mut view = self.core.view_changed.subscribe();
        let mut beat = interval(self.core.options.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        if let Err(reason) = self.tell_lapse().await {
            return Ended::Broken(reason);
        }
        loop {
            let until = *head.borrow_and_update();
            if let Err(reason) = self.send_up_to(until).await {
                return Ended::Broken(reason);
            }
            let tells_at = self.told.1 + TOLD_PERIOD;
            tokio::select! {
                biased;
                answer = answers.next() => match answer {
                    Some(Ok(bytes)) => if let Err(reason) = self.answered(&bytes) { return Ended::Broken(reason) },
                    None => return Ended::Broken("the peer closed the stream".to_owned()),
                    Some(Err(reason)) => return Ended::Broken(reason),
                },
                _ = view.changed() => if let Some(ended) = self.look_at_view() { return ended },
                _ = beat.tick() => {
                    if let Some(ended) = self.look_at_view() { return ended }
                    if let Err(reason) = self.heartbeat().await { return Ended::Broken(reason) }
                }
                () = tokio::time::sleep_until(tells_at), if self.sent > self.told.0 => if let Err(reason) = self.heartbeat().await { return Ended::Broken(reason) },
                _ = head.changed(), if self.outstanding.len() < self.core.options.window => {}
            }
        }
    }

    /// The placement may have changed, or the peer have lapsed: goes on, unless its stream has to begin anew.
    fn look_at_view(&mut self) -> Option<Ended> {
        self.epoch = self.core.view.load().phase_number();
        match lock(&self.core.delivery).resume(self.peer) {
            None => Some(Ended::Gone),
            Some((pass, _)) if pass != self.pass => Some(Ended::NewPass),
            Some(_) => None,
        }
    }

    /// Sends what the peer needs of the log up to `head`, as far as the window allows.
    async fn send_up_to(&mut self, head: Sequence) -> Result<(), String> {
        while self.sent < head && self.outstanding.len() < self.core.options.window {
            let Gathered { through, items, answers } = self.gather()?;
            if through == self.sent {
                break;
            }
            self.sent = through;
            if items.is_empty() {
                self.pass_over();
                continue;
            }
            metrics::counter!("isochrone_node_feed_sent_entries_total").increment(items.len() as u64);
            self.outstanding.push_back(through);
            self.out.send(wire::encode(&Feed::Batch { through, items, answers })).await.map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// What is not for this peer counts as acknowledged once everything before it is.
    fn pass_over(&self) {
        if self.outstanding.is_empty() {
            self.core.acknowledge(self.peer, self.pass, self.sent, Epoch::default());
        }
    }

    /// What comes next for this peer, in log order, until a batch is full. Of values and counters each key stands once, as it is now; of
    /// sets, maps and registers every write, since the replicas apply them in order (E2).
    fn gather(&self) -> Result<Gathered, String> {
        let view = self.core.view.load_full();
        let page = self.core.store.log_after(self.sent, LOG_PAGE).map_err(|e| e.to_string())?;
        let last = last_versions(&page.operations);
        let mut gathered = Gathered { through: self.sent, items: Vec::new(), answers: Vec::new() };
        let (mut seen, mut bytes) = (BTreeSet::new(), 0);
        for logged in page.operations {
            if bytes >= self.core.options.batch_bytes {
                return Ok(gathered);
            }
            gathered.through = logged.sequence;
            if !view.needs(self.peer, &logged.ns, logged.slot) {
                continue;
            }
            if let Some(request) = &logged.request {
                gathered.answers.extend(self.answered_to(request)?);
            }
            let name = (logged.ns.clone(), logged.kind, logged.key.clone());
            if logged.delta.is_none() && !seen.insert(name.clone()) {
                continue;
            }
            let version = last.get(&name).copied().unwrap_or(logged.version);
            if let Some(item) = self.item(logged, version)? {
                bytes += item.bytes();
                gathered.items.push(item);
            }
        }
        gathered.through = gathered.through.max(page.through);
        Ok(gathered)
    }

    /// What is sent of a logged write: the write itself where it is in the log, else what the key holds now, which is that write's or a later
    /// one's. One that cannot be read is kept from the peer by ending the stream.
    fn item(&self, logged: Logged, version: Version) -> Result<Option<Item>, String> {
        let Logged { slot, ns, kind, key, delta, .. } = logged;
        let record = self.core.store.get(slot, &ns, kind, key.as_bytes()).map_err(|e| e.to_string())?;
        let causes = record.as_ref().and_then(|record| record.causes.clone());
        if let Some(delta) = delta {
            return Ok(Some(Item { ns, kind, key, what: What::Delta { version: logged.version, delta, causes } }));
        }
        let Some(record) = record else { return Ok(None) };
        let part = record.as_typed().and_then(|typed| typed.part_of(self.core.id()));
        let what = part.map_or(What::State(record), |delta| What::Delta { version, delta, causes });
        Ok(Some(Item { ns, kind, key, what }))
    }

    fn answered_to(&self, request: &RequestKey) -> Result<Option<Answered>, String> {
        let kept = self.core.store.kept_answer(request).map_err(|e| e.to_string())?;
        Ok(kept.map(|(answer, until)| Answered { request: Bytes::copy_from_slice(request.as_bytes()), answer, until }))
    }

    fn answered(&mut self, bytes: &[u8]) -> Result<(), String> {
        match wire::decode(bytes)? {
            FeedAnswer::Refused { reason, .. } => Err(format!("{REFUSED}: {reason}")),
            FeedAnswer::CaughtUp { through } => {
                if lock(&self.core.delivery).caught_up(self.peer, through) {
                    tracing::info!(peer = %self.peer, "it has caught up with what it missed of the log");
                }
                Ok(())
            }
            FeedAnswer::Acknowledged { through, epoch } => {
                if self.outstanding.pop_front() != Some(through) {
                    return Err("the peer acknowledged what it was not sent".to_owned());
                }
                let covered = if self.outstanding.is_empty() { self.sent } else { through };
                self.core.acknowledge(self.peer, self.pass, covered, epoch);
                lock(&self.core.refusals_of_peers).remove(&self.peer);
                Ok(())
            }
        }
    }

    /// Tells a peer that has lapsed (E5). Should it lapse further, its stream begins anew.
    async fn tell_lapse(&mut self) -> Result<(), String> {
        let Some(lapse) = lock(&self.core.delivery).lapsed(self.peer) else { return Ok(()) };
        self.out.send(wire::encode(&Feed::Lapsed { through: lapse.through })).await.map_err(|e| e.to_string())
    }

    async fn heartbeat(&mut self) -> Result<(), String> {
        let now = self.core.now();
        self.told = (self.sent, Instant::now());
        // In this order: a write that settles in between is at or before the head.
        let floor = self.core.stamps.floor(now);
        self.frontier.checkpoint(floor, *self.core.head.borrow());
        // A lapsed peer lacks what went from the log unsent, whatever it was sent since.
        let lapse = lock(&self.core.delivery).lapsed(self.peer);
        let sent_through = self.frontier.passed(lapse.map_or(self.sent, |lapse| lapse.from.min(self.sent)));
        let stable_through = lock(&self.core.horizon).heard(self.core.id()).stable_through;
        // The promise may be of a later epoch than the one that is told: the peer would trust it too early (see `hear`).
        if self.core.view.load().phase_number() != self.epoch {
            return Ok(());
        }
        let heartbeat =
            Feed::Heartbeat { heard: Heard { sent_through, stable_through }, epoch: self.epoch, requests: self.core.traffic.own() };
        self.out.send(wire::encode(&heartbeat)).await.map_err(|e| e.to_string())
    }
}

/// The version of the last of these operations on each counter: what is sent of it holds them all.
fn last_versions(operations: &[Logged]) -> BTreeMap<Name, Version> {
    let counters = operations.iter().filter(|logged| logged.kind == Kind::Counter);
    counters.map(|logged| ((logged.ns.clone(), logged.kind, logged.key.clone()), logged.version)).collect()
}
