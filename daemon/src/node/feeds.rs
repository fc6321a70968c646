//! The receiving end of replication: one live stream a peer, whose batches become durable before they are acknowledged (E5).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesOrdered, FuturesUnordered};
use isochrone_config::Keeping;
use isochrone_gossip::{Channel, ChannelSender, PeerIdentity, Traffic};
use isochrone_ident::{Epoch, Hlc, NodeId};
use isochrone_replica::{Entry, Heard, Sequence};
use isochrone_store::{Durability, Placed, RequestKey, Write, WriteSet};
use tokio::sync::{OwnedMutexGuard, watch};

use super::core::{Core, lock, stopped};
use super::frames::Frames;
use super::identity::HLC_HIGH;
use super::options::Mutation;
use super::pull::Name;
use super::take::millis;
use super::view::View;
use super::wire::{self, Answered, Feed, FeedAnswer, Item, What};

#[derive(Default)]
struct Line {
    turn: Arc<tokio::sync::Mutex<()>>,
    newest: u64,
}

/// Lets one stream a peer be served at a time. A newer stream ends the older one and waits until nothing of it is under way any
/// more: else a state that the older one still carried could be merged after its peer has learned, from the newer one, that all is
/// delivered, and after a tombstone that beat it has been forgotten (E7).
pub(crate) struct Feeds {
    lines: Mutex<BTreeMap<NodeId, Line>>,
    changed: watch::Sender<u64>,
}

struct Turn {
    number: u64,
    _alone: OwnedMutexGuard<()>,
}

impl Feeds {
    /// No streams yet.
    pub(crate) fn new() -> Self {
        Self { lines: Mutex::default(), changed: watch::Sender::new(0) }
    }

    async fn enter(&self, peer: NodeId) -> Turn {
        let (number, turn) = {
            let mut lines = lock(&self.lines);
            let line = lines.entry(peer).or_default();
            line.newest += 1;
            (line.newest, Arc::clone(&line.turn))
        };
        self.changed.send_modify(|n| *n += 1);
        Turn { number, _alone: turn.lock_owned().await }
    }

    fn is_superseded(&self, peer: NodeId, turn: &Turn) -> bool {
        lock(&self.lines).get(&peer).is_some_and(|line| line.newest > turn.number)
    }
}

/// What a frame asks for.
enum Work {
    /// To be done in the order of the frames.
    InTurn(BoxFuture<'static, Done>),
    /// To compare with the sender, which has trimmed its log up to there.
    CatchUp(Sequence),
}

/// What comes out of a frame once everything before it on the stream has come out.
enum Done {
    Answer(FeedAnswer),
    Heard(Heard, Epoch),
}

impl Core {
    /// Serves a peer's replication stream until it ends or a newer one takes its place.
    pub(crate) async fn receive_feed(self: Arc<Self>, peer: PeerIdentity, channel: Channel) {
        let turn = self.feeds.enter(peer.node).await;
        let (mut answers, frames) = channel.split();
        let mut frames = Frames::of(frames);
        let mut waiting: FuturesOrdered<BoxFuture<'static, Done>> = FuturesOrdered::new();
        let mut catching_up = FuturesUnordered::new();
        let (mut changed, mut stopping) = (self.feeds.changed.subscribe(), self.stopping());
        while !self.feeds.is_superseded(peer.node, &turn) {
            tokio::select! {
                biased;
                () = stopped(&mut stopping) => break,
                Some(done) = waiting.next(), if !waiting.is_empty() => {
                    if !self.settle_feed(&peer, done, &mut answers).await {
                        break;
                    }
                }
                Some(answer) = catching_up.next(), if !catching_up.is_empty() => if answers.send(wire::encode(&answer)).await.is_err() { break },
                frame = frames.next(), if waiting.len() < self.options.window => match frame {
                    Some(Ok(bytes)) => match self.frame(&peer, &bytes) {
                        Ok(Work::InTurn(work)) => waiting.push_back(work),
                        // Beside the writes that come in: it may take minutes.
                        Ok(Work::CatchUp(through)) => {
                            catching_up.clear();
                            catching_up.push(Arc::clone(&self).catch_up_after_lapse(peer.node, through));
                        }
                        Err(reason) => {
                            tracing::warn!(peer = %peer.node, region = %peer.region, reason, "a replication stream is closed");
                            break;
                        }
                    },
                    None | Some(Err(_)) => break,
                },
                _ = changed.changed() => {}
            }
        }
        while waiting.next().await.is_some() {}
    }

    fn frame(self: &Arc<Self>, peer: &PeerIdentity, bytes: &[u8]) -> Result<Work, String> {
        match wire::decode(bytes)? {
            Feed::Heartbeat { heard, epoch, requests } => {
                self.traffic.heard(peer.node, &peer.region, requests);
                Ok(Work::InTurn(Box::pin(std::future::ready(Done::Heard(heard, epoch)))))
            }
            Feed::Lapsed { through } => Ok(Work::CatchUp(through)),
            Feed::Batch { through, items, answers } => {
                let core = Arc::clone(self);
                let peer = peer.clone();
                Ok(Work::InTurn(Box::pin(async move { Done::Answer(core.take_batch(&peer, through, items, answers).await) })))
            }
        }
    }

    /// Sends what is due. `false` ends the stream.
    async fn settle_feed(&self, peer: &PeerIdentity, done: Done, answers: &mut ChannelSender) -> bool {
        match done {
            Done::Heard(heard, epoch) => {
                self.hear(peer.node, heard, epoch);
                true
            }
            Done::Answer(answer) => {
                let refused = matches!(answer, FeedAnswer::Refused { .. });
                answers.send(wire::encode(&answer)).await.is_ok() && !refused
            }
        }
    }

    /// A peer's watermarks. What it has sent was chosen under its epoch: when ours is later, it does not know all that we need. What it promises to be
    /// everywhere is everywhere under its epoch: when ours is earlier, we may take a node for a replica that is none any more and was not sent it (E7).
    fn hear(&self, peer: NodeId, heard: Heard, epoch: Epoch) {
        let own = self.view.load().phase_number();
        let sent_through = if epoch >= own { heard.sent_through } else { Hlc::ZERO };
        let stable_through = if epoch <= own { heard.stable_through } else { Hlc::ZERO };
        self.with_horizon(|horizon| horizon.hear(peer, Heard { sent_through, stable_through }));
    }

    /// Makes a batch durable here, all or nothing.
    async fn take_batch(&self, peer: &PeerIdentity, through: Sequence, items: Vec<Item>, answers: Vec<Answered>) -> FeedAnswer {
        let epoch = self.view.load().phase_number();
        match self.try_take(peer.node, items, answers).await {
            Ok(()) => FeedAnswer::Acknowledged { through, epoch },
            Err((kind, reason)) => {
                metrics::counter!("isochrone_node_feed_refused_total", "reason" => kind).increment(1);
                tracing::warn!(peer = %peer.node, region = %peer.region, reason, "a batch of writes was not taken; the peer keeps it");
                FeedAnswer::Refused { through, reason }
            }
        }
    }

    async fn try_take(&self, peer: NodeId, items: Vec<Item>, answers: Vec<Answered>) -> Result<(), (&'static str, String)> {
        self.observe_latest(items.iter().map(Item::latest).max()).map_err(|reason| ("clock", reason))?;
        if items.is_empty() {
            return Ok(());
        }
        if let Some(item) = items.iter().find(|item| !item.has_credible_causes()) {
            return Err(("causes", format!("the write of `{}` names causes that are later than itself", item.key)));
        }
        let names: Vec<Name> = items.iter().map(|item| (item.ns.clone(), item.kind, item.key.clone())).collect();
        let set = self.batch_set(items, answers).map_err(|reason| ("namespace", reason))?;
        let committed = self.store.commit(set).await.map_err(|e| ("store", e.to_string()))?;
        let gaps: BTreeSet<Name> =
            names.into_iter().zip(&committed.outcomes).filter(|(_, outcome)| outcome.gap).map(|(name, _)| name).collect();
        if gaps.is_empty() || self.options.breaks(Mutation::IgnoreGaps) {
            return Ok(());
        }
        self.close_gaps(peer, gaps.into_iter().collect()).await.map_err(|reason| ("gap", reason))
    }

    /// Takes the states of keys of which some write is missing here from the peer whose write rests on it (E2): its state has both.
    async fn close_gaps(&self, peer: NodeId, names: Vec<Name>) -> Result<(), String> {
        metrics::counter!("isochrone_node_feed_gaps_total").increment(names.len() as u64);
        let pulled = self.pull(peer, &names, Traffic::Foreground).await?;
        self.observe_times(&pulled.entries)?;
        self.store.commit(self.merge_set(pulled.entries)).await.map(drop).map_err(|e| e.to_string())
    }

    /// Takes the times of some records into this node's clock; refuses them when one is too far ahead (E4).
    pub(crate) fn observe_times(&self, entries: &[Entry]) -> Result<(), String> {
        self.observe_latest(entries.iter().map(|entry| entry.record.latest()).max())
    }

    fn observe_latest(&self, latest: Option<Hlc>) -> Result<(), String> {
        let Some(latest) = latest else { return Ok(()) };
        match self.stamps.observe(latest, self.now()) {
            Ok(observed) => {
                metrics::gauge!("isochrone_node_peer_clock_ahead_seconds").set(observed.ahead_ms as f64 / 1e3);
                if observed.alarming {
                    metrics::counter!("isochrone_node_clock_alarms_total").increment(1);
                }
                Ok(())
            }
            Err(ahead) => Err(ahead.to_string()),
        }
    }

    /// The commit that takes what a peer has sent. A namespace that this node has not heard of yet is refused: the peer tries again, and
    /// the council's word arrives meanwhile.
    fn batch_set(&self, items: Vec<Item>, answers: Vec<Answered>) -> Result<WriteSet, String> {
        let view = self.view.load();
        let mut relaxed = true;
        let mut entries = Vec::with_capacity(items.len());
        for Item { ns, kind, key, what } in items {
            let spec = view.namespace(&ns).ok_or_else(|| format!("namespace `{ns}` is not known here yet"))?;
            let evictable = spec.keeping == Keeping::Evictable;
            relaxed &= evictable;
            let write = match what {
                What::State(record) => Write::Merge(record),
                What::Delta { version, delta, causes } => Write::Apply { version, delta, causes },
            };
            entries.push(Placed { slot: View::slot(&ns, key.as_bytes()), ns, kind, key, write, evictable });
        }
        // A peer can't have them kept for longer than this node's own.
        let latest = self.now().plus_millis(millis(self.options.idempotency_ttl) + self.options.clock.ahead_ms_max);
        let learned = |told: Answered| Some((RequestKey::new(told.request).ok()?, told.answer, told.until.min(latest)));
        Ok(WriteSet {
            entries,
            learned: answers.into_iter().filter_map(learned).collect(),
            facts: vec![(HLC_HIGH, Some(wire::encode(&self.stamps.last())))],
            durability: if relaxed { Durability::Relaxed } else { Durability::AtOnce },
            ..WriteSet::default()
        })
    }

    /// Refuses records of a namespace that this node has not heard of yet: what they may be evicted for, and who needs them, it does not know.
    pub(crate) fn check_namespaces(&self, entries: &[Entry]) -> Result<(), String> {
        let view = self.view.load();
        let unknown = entries.iter().find(|entry| view.namespace(&entry.ns).is_none());
        unknown.map_or(Ok(()), |entry| Err(format!("namespace `{}` is not known here yet", entry.ns)))
    }

    /// The commit that merges other nodes' records.
    pub(crate) fn merge_set(&self, entries: Vec<Entry>) -> WriteSet {
        let view = self.view.load();
        let mut relaxed = true;
        let entries = entries.into_iter().map(|entry| {
            let evictable = view.namespace(&entry.ns).is_some_and(|spec| spec.keeping == Keeping::Evictable);
            relaxed &= evictable;
            Placed::merging(View::slot(&entry.ns, entry.key.as_bytes()), entry, evictable)
        });
        let entries: Vec<Placed> = entries.collect();
        WriteSet {
            entries,
            facts: vec![(HLC_HIGH, Some(wire::encode(&self.stamps.last())))],
            durability: if relaxed { Durability::Relaxed } else { Durability::AtOnce },
            ..WriteSet::default()
        }
    }
}

/// Batches sent and not yet acknowledged, oldest first.
pub(crate) type Outstanding = VecDeque<Sequence>;
