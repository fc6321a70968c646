//! What peers ask of us: streams and datagrams of one connection, each bounded, none able to harm (rules M7, M8).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{ConnectionError, RecvStream, SendStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, info};

use crate::channel::Channel;
use crate::links::Link;
use crate::metrics::served;
use crate::shared::{Core, Inbound, lock};
use crate::wire::{Answer, CloseCode, FrameError, Opening, Traffic, clipped, frame_of, length_of, read_body, read_header, read_length};
use crate::{Refused, ServiceId, metrics};

/// Serves a connection until it ends, then takes it off the books.
pub(crate) async fn run(core: Arc<Core>, link: Arc<Link>) {
    let end = loop {
        tokio::select! {
            biased;
            datagram = link.connection.read_datagram() => match datagram {
                Ok(bytes) => take_datagram(&core, &link, &bytes),
                Err(end) => break end,
            },
            stream = link.connection.accept_bi() => match stream {
                Ok((send, receive)) => { tokio::spawn(serve_stream(core.clone(), link.clone(), send, receive)); }
                Err(end) => break end,
            },
        }
    };
    ended(&core, &link, &end);
}

fn ended(core: &Core, link: &Link, end: &ConnectionError) {
    let gone = lock(&core.links).remove(link);
    let code = match end {
        ConnectionError::ApplicationClosed(close) => CloseCode::of(close.error_code),
        _ => None,
    };
    debug!(peer = %link.profile.identity, traffic = link.traffic.as_str(), %end, "disconnected");
    if code == Some(CloseCode::StoreRetired) {
        core.note_disowned(link.node());
    }
    if gone {
        let node = link.node();
        if code == Some(CloseCode::Leaving) {
            info!(peer = %link.profile.identity, "the peer has left");
            core.with_peers(|peers, now| peers.left(now, node));
        }
        // Until it is connected again, calls fail at once instead of waiting for that.
        if core.table.load().get(node).is_some() {
            lock(&core.dialing).failures.insert(node, format!("the connection ended: {end}"));
        }
        core.with_peers(|peers, now| peers.disconnected(now, node));
    }
    core.announce_links();
}

fn take_datagram(core: &Core, link: &Link, bytes: &Bytes) {
    let wall = (core.options.wall)();
    match core.with_peers(|peers, now| peers.datagram(now, wall, link.node(), bytes)) {
        Ok(()) => metrics::datagram("received"),
        Err(error) => core.note_refused("malformed-datagram", &link.profile.identity.to_string(), &error.to_string()),
    }
}

/// One stream, whatever it turns out to be.
async fn serve_stream(core: Arc<Core>, link: Arc<Link>, send: SendStream, mut receive: RecvStream) {
    let arrived = Instant::now();
    let opening = timeout(core.options.bounds.handshake_timeout, read_header(&mut receive, "opening")).await;
    let stream = Inbox { core: &core, link: &link, arrived, send, receive };
    let outcome = match opening {
        Ok(Ok(Opening::Call { service, deadline_ms })) => stream.call(service, Duration::from_millis(deadline_ms.into())).await,
        Ok(Ok(Opening::Channel { service })) => stream.channel(service).await,
        Ok(Err(error)) => stream.refuse(&error),
        Err(_) => stream.refuse(&FrameError::Broken("nothing came".to_owned())),
    };
    served(outcome);
}

/// A stream of a peer that is being served.
struct Inbox<'a> {
    core: &'a Arc<Core>,
    link: &'a Link,
    arrived: Instant,
    send: SendStream,
    receive: RecvStream,
}

impl Inbox<'_> {
    /// Serves a call; gives the word for what became of it.
    async fn call(mut self, service: ServiceId, left: Duration) -> &'static str {
        // The request left the peer half a round trip ago (M8).
        let left = left.min(self.core.options.bounds.deadline_max).saturating_sub(self.link.connection.rtt() / 2);
        let deadline = self.arrived + left;
        let slots = match self.link.traffic {
            Traffic::Foreground => &self.core.inbound.calls,
            Traffic::Bulk => &self.core.inbound.bulk_calls,
        };
        let Ok(_slot) = slots.clone().try_acquire_owned() else {
            return self.answer_early(&Answer::Busy, "busy").await;
        };
        let body = match timeout_at(deadline, self.body()).await {
            Ok(Ok(Some(body))) => body,
            Ok(Ok(None)) => return self.answer_early(&Answer::Busy, "busy").await,
            Ok(Err(error)) => return self.refuse(&error),
            Err(_) => return self.answer_early(&Answer::Late, "late").await,
        };
        if Instant::now() >= deadline {
            return self.answer_early(&Answer::Late, "late").await;
        }
        let answer = self.core.service.call(&self.link.profile.identity, service, body.bytes.clone(), deadline);
        match timeout_at(deadline, answer).await {
            Ok(answer) => self.answer(answer).await,
            Err(_) => self.answer_early(&Answer::Overran, "overran").await,
        }
    }

    /// Reads a request's body into memory that is accounted for; `None` when there is no room.
    async fn body(&mut self) -> Result<Option<Body>, FrameError> {
        let length = read_length(&mut self.receive, self.core.options.bounds.frame_bytes_max).await?;
        let length = length.ok_or(FrameError::Malformed("call without a body"))?;
        let Some(room) = room_for(&self.core.inbound.bytes, length) else { return Ok(None) };
        Ok(Some(Body { bytes: read_body(&mut self.receive, length).await?, _room: room }))
    }

    async fn answer(mut self, answer: Result<Bytes, Refused>) -> &'static str {
        let bytes_max = self.core.options.bounds.frame_bytes_max;
        let (header, body, outcome) = match answer {
            Ok(body) if body.len() <= bytes_max => (Answer::Done, Some(body), "answered"),
            Ok(_) => (Answer::Refused("the answer is longer than a frame may be".to_owned()), None, "refused"),
            Err(refused) => (Answer::Refused(clipped(&refused.0).to_owned()), None, "refused"),
        };
        let mut chunks = vec![frame_of(&header)];
        if let Some(body) = body {
            chunks.extend([Bytes::copy_from_slice(&length_of(&body)), body]);
        }
        // A caller that no longer reads stops the stream; there is nobody to tell.
        let sent = timeout(self.core.options.bounds.deadline_max, self.send.write_all_chunks(&mut chunks)).await;
        let _ = self.send.finish();
        if matches!(sent, Ok(Ok(()))) { outcome } else { "abandoned" }
    }

    /// Answers with a word alone; what is left of the request is not read.
    async fn answer_early(mut self, answer: &Answer, outcome: &'static str) -> &'static str {
        let _ = self.send.write_all(&frame_of(answer)).await;
        let _ = self.send.finish();
        let _ = self.receive.stop(CloseCode::Malformed.code());
        outcome
    }

    async fn channel(self, service: ServiceId) -> &'static str {
        let Ok(permit) = self.core.inbound.channels.clone().try_acquire_owned() else {
            return self.answer_early(&Answer::Busy, "busy").await;
        };
        let bytes_max = self.core.options.bounds.frame_bytes_max;
        match Channel::accept(self.send, self.receive, bytes_max, permit).await {
            Ok(channel) => {
                self.core.service.stream(self.link.profile.identity.clone(), service, channel);
                "channel"
            }
            Err(_) => "abandoned",
        }
    }

    /// Ends a stream that broke the wire format. The connection goes on: what else is on it is whole.
    fn refuse(mut self, error: &FrameError) -> &'static str {
        let reason = match error {
            FrameError::TooLong { .. } => "frame-too-long",
            FrameError::Malformed(_) => "malformed-stream",
            FrameError::Broken(_) => return "abandoned",
        };
        self.core.note_refused(reason, &self.link.profile.identity.to_string(), &error.to_string());
        let _ = self.send.reset(CloseCode::Malformed.code());
        let _ = self.receive.stop(CloseCode::Malformed.code());
        "malformed"
    }
}

/// A request's body and the room it takes.
struct Body {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

fn room_for(semaphore: &Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    let units = u32::try_from(bytes / Inbound::UNIT_BYTES + 1).ok()?;
    semaphore.clone().try_acquire_many_owned(units).ok()
}
