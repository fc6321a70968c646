//! Channels to the other daemons: what proposers, movers and collectors ask goes out on channels that this daemon opened, and is answered on the same
//! ones, so that no answer outlives either of the two processes.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use isochrone_gossip::{Channel, ChannelReceiver, ChannelSender, PeerIdentity, Traffic};
use isochrone_ident::NodeId;
use isochrone_quorum::{Answer, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::outbox::Outbox;
use super::{Reply, Strong, Work};
use crate::node::core::{Core, lock};
use crate::node::sender::wait_for_peer;
use crate::node::wire;

/// Messages above this, and those of moves, go on the bulk connection, where they delay nothing else (M7).
pub(crate) const BULK_BYTES: usize = 64 << 10;
/// As many messages go into a frame as make up this.
const FRAME_BYTES: usize = 64 << 10;
/// A channel that broke is opened again after this, or as soon as the peer is back; up to the longest pause of replication.
const PAUSE: Duration = Duration::from_millis(20);

/// Puts a message behind those that are in the frame already: its length as four bytes, then itself.
fn append(frame: &mut BytesMut, message: &Bytes) {
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_le_bytes());
    frame.extend_from_slice(message);
}

/// The messages of a frame, understood.
///
/// # Errors
/// What is wrong with it, in words.
pub(crate) fn messages<T: DeserializeOwned>(mut frame: Bytes) -> Result<Vec<T>, String> {
    let mut understood = Vec::new();
    while !frame.is_empty() {
        let length =
            frame.get(..4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes).ok_or("a frame that ends in a length")?;
        let end = 4 + length as usize;
        let message = frame.get(4..end).ok_or("a frame that ends in a message")?;
        understood.push(wire::decode(message)?);
        frame = frame.slice(end..);
    }
    Ok(understood)
}

/// Sends what waits until the channel breaks or the outbox is closed.
async fn pump(outbox: &Outbox, mut out: ChannelSender) {
    while let Some(messages) = outbox.take(FRAME_BYTES).await {
        let mut frame = BytesMut::with_capacity(messages.iter().map(|message| message.len() + 4).sum());
        messages.iter().for_each(|message| append(&mut frame, message));
        if out.send(frame.freeze()).await.is_err() {
            return;
        }
    }
}

pub(crate) fn encode<T: Serialize>(message: &T) -> Bytes {
    wire::encode(message)
}

/// Keeps a channel to a peer for as long as it is a member.
pub(crate) async fn keep(core: Arc<Core>, peer: NodeId, class: Traffic) {
    let longest = core.options.backoff.1;
    let mut pause = PAUSE;
    while core.view.load().members.contains_key(&peer) {
        if let Ok(channel) = core.mesh.open(peer, wire::QUORUM, class).await {
            pause = PAUSE;
            converse(&core, peer, class, channel).await;
        }
        wait_for_peer(&core, peer, pause).await;
        pause = (pause * 2).min(longest);
    }
    core.strong.unlink(peer, class);
}

/// Asks and hears answers until the channel breaks.
async fn converse(core: &Core, peer: NodeId, class: Traffic, channel: Channel) {
    let (out, mut answers) = channel.split();
    let outbox = core.strong.link(peer, class);
    let hear = async {
        while let Ok(Some(frame)) = answers.recv().await {
            let Ok(told) = messages::<Answer>(frame) else {
                tracing::warn!(%peer, "an answer on the quorum path cannot be understood; its channel is closed");
                return;
            };
            // Whoever speaks for somebody else is not believed.
            let own = told.into_iter().filter(|answer| answer.from.node == peer).map(Work::Told);
            core.strong.run(own);
        }
    };
    tokio::select! {
        biased;
        () = pump(&outbox, out) => {}
        () = hear => {}
    }
    core.strong.unlink(peer, class);
}

impl Core {
    /// Answers a peer's proposers, movers and collectors until its channel breaks.
    pub(crate) async fn serve_quorum(self: Arc<Self>, from: PeerIdentity, channel: Channel) {
        let (out, asks) = channel.split();
        let outbox = Arc::new(Outbox::new(self.options.strong.channel_queue, self.options.strong.channel_queue_bytes));
        tokio::select! {
            biased;
            () = pump(&outbox, out) => {}
            () = self.hear_asks(&from, asks, &outbox) => {}
        }
        outbox.close();
    }

    async fn hear_asks(&self, from: &PeerIdentity, mut asks: ChannelReceiver, outbox: &Arc<Outbox>) {
        while let Ok(Some(frame)) = asks.recv().await {
            match messages::<Request>(frame) {
                Ok(requests) => {
                    let work = requests.into_iter().map(|request| Work::Ask { to: Reply::Peer(Arc::clone(outbox)), request });
                    self.strong.run(work);
                }
                Err(reason) => {
                    tracing::warn!(peer = %from.node, reason, "a request on the quorum path cannot be understood; its channel is closed");
                    return;
                }
            }
        }
    }
}

impl Strong {
    /// The outbox of a peer's channel, made anew: what waited for an earlier channel is gone with it.
    fn link(&self, peer: NodeId, class: Traffic) -> Arc<Outbox> {
        let outbox = Arc::new(Outbox::new(self.options.channel_queue, self.options.channel_queue_bytes));
        let mut links = lock(&self.links);
        let (small, bulk) = links.entry(peer).or_default();
        let place = if class == Traffic::Bulk { bulk } else { small };
        *place = Some(Arc::clone(&outbox));
        outbox
    }

    fn unlink(&self, peer: NodeId, class: Traffic) {
        let mut links = lock(&self.links);
        let Some((small, bulk)) = links.get_mut(&peer) else { return };
        let gone = if class == Traffic::Bulk { bulk.take() } else { small.take() };
        if let Some(outbox) = gone {
            outbox.close();
        }
    }

    /// Sends a request to a peer. One that cannot be sent now is dropped: its asker's timer asks again.
    pub(crate) fn send(&self, to: NodeId, request: &Request, is_bulk: bool) {
        let message = encode(request);
        let outbox = {
            let links = lock(&self.links);
            let (small, bulk) = links.get(&to).map_or((None, None), |(small, bulk)| (small.clone(), bulk.clone()));
            if is_bulk || message.len() > BULK_BYTES { bulk } else { small }
        };
        let is_sent = outbox.is_some_and(|outbox| outbox.push(message));
        self.meters.sent(is_sent);
    }
}
