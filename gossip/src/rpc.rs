//! Calls and channels to peers: deadlines, retries within the budget, and outcomes told apart (rules M7, M8).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isochrone_ident::NodeId;
use tokio::time::{Instant, timeout_at};

use crate::channel::Channel;
use crate::health::CallOutcome;
use crate::links::Link;
use crate::peers::Liveness;
use crate::shared::{Core, lock};
use crate::wire::{Answer, FrameError, Opening, Traffic, frame_of, length_of, read_frame, read_header};
use crate::{Call, CallError, PeerIdentity, ServiceId, dial, metrics};

/// The wait before a call is tried again; it doubles with each try.
const RETRY_WAIT: Duration = Duration::from_millis(10);

/// Calls a peer; tries again if asked to, while deadline and budget allow.
pub(crate) async fn call(core: &Arc<Core>, to: NodeId, call: &Call) -> Result<Bytes, CallError> {
    let started = Instant::now();
    let deadline = started + call.deadline.min(core.options.bounds.deadline_max);
    core.budget.deposit();
    let mut wait = RETRY_WAIT;
    // A call may have been sent by an earlier try, whatever the last one met.
    let mut sent = false;
    let outcome = loop {
        let error = match attempt(core, to, call, deadline).await {
            Ok(answer) => break Ok(answer),
            Err(error) => error,
        };
        sent |= !error.is_unsent();
        let time_left = Instant::now() + wait < deadline;
        if !(call.retries && error.is_passing() && time_left && may_retry(core)) {
            break Err(if sent && error.is_unsent() { CallError::Broken { to, reason: error.to_string() } } else { error });
        }
        tokio::time::sleep(wait).await;
        wait *= 2;
    };
    match &outcome {
        Ok(_) => core.calls.answered(call.service, started.elapsed()),
        Err(error) => core.calls.failed(call.service, error),
    }
    outcome
}

fn may_retry(core: &Core) -> bool {
    let allowed = core.budget.withdraw();
    metrics::retry(allowed);
    allowed
}

async fn attempt(core: &Arc<Core>, to: NodeId, call: &Call, deadline: Instant) -> Result<Bytes, CallError> {
    check_body(core, &call.body)?;
    if to == core.me.identity.node {
        return call_self(core, call, deadline).await;
    }
    let link = link_to(core, to, call.class, deadline).await?;
    call_over(core, &link, call, deadline).await
}

fn check_body(core: &Core, body: &Bytes) -> Result<(), CallError> {
    let bytes_max = core.options.bounds.frame_bytes_max;
    if body.len() > bytes_max {
        return Err(CallError::TooLarge { bytes: body.len(), bytes_max });
    }
    if core.has_left() { Err(CallError::Left) } else { Ok(()) }
}

async fn call_self(core: &Core, call: &Call, deadline: Instant) -> Result<Bytes, CallError> {
    let answer = core.service.call(&core.me.identity, call.service, call.body.clone(), deadline);
    match timeout_at(deadline, answer).await {
        Ok(answer) => answer.map_err(|refused| CallError::Refused(refused.0)),
        Err(_) => Err(CallError::Deadline { sent: true }),
    }
}

/// Calls whoever is at an address, connecting first if need be.
pub(crate) async fn call_addr(core: &Arc<Core>, addr: &str, call: &Call) -> Result<(PeerIdentity, Bytes), CallError> {
    check_body(core, &call.body)?;
    let deadline = Instant::now() + call.deadline.min(core.options.bounds.deadline_max);
    let known = lock(&core.links).at(addr);
    let link = match known {
        Some(link) => link,
        None => match timeout_at(deadline, dial::dial_name(core, addr, Traffic::Foreground, None)).await {
            Ok(dialed) => dialed.map_err(|error| CallError::Unreachable { to: addr.to_owned(), reason: error.to_string() })?,
            Err(_) => return Err(CallError::Deadline { sent: false }),
        },
    };
    let answer = call_over(core, &link, call, deadline).await?;
    Ok((link.profile.identity.clone(), answer))
}

/// Opens a channel. The peer's refusal, if any, is met at the first receive.
pub(crate) async fn open(core: &Arc<Core>, to: NodeId, service: ServiceId, class: Traffic) -> Result<Channel, CallError> {
    check_body(core, &Bytes::new())?;
    let deadline = Instant::now() + core.options.bounds.connect_wait;
    let link = link_to(core, to, class, deadline).await?;
    let (mut send, receive) = open_stream(&link, deadline).await?;
    let opening = frame_of(&Opening::Channel { service });
    send.write_all(&opening).await.map_err(|e| CallError::Broken { to, reason: e.to_string() })?;
    Ok(Channel::opened(send, receive, core.options.bounds.frame_bytes_max))
}

/// The connection to use; waits a little for one that is being made.
async fn link_to(core: &Arc<Core>, to: NodeId, class: Traffic, deadline: Instant) -> Result<Arc<Link>, CallError> {
    if let Some(link) = core.best(to, class) {
        return Ok(link);
    }
    if core.table.load().get(to).is_none_or(|peer| peer.liveness == Liveness::Left) {
        return Err(CallError::NoSuchPeer(to));
    }
    let until = deadline.min(Instant::now() + core.options.bounds.connect_wait);
    // Before the links are looked at again, so that no news is missed.
    let mut news = core.link_news.subscribe();
    loop {
        if let Some(link) = core.best(to, class) {
            return Ok(link);
        }
        // Whoever keeps the peer connected has just failed: waiting for the next try would only hide that.
        if let Some(reason) = lock(&core.dialing).failures.get(&to).cloned() {
            return Err(CallError::Unreachable { to: to.to_string(), reason });
        }
        if class == Traffic::Bulk {
            dial::begin_bulk(core, to);
        }
        if timeout_at(until, news.changed()).await.is_err() {
            return Err(CallError::Unreachable { to: to.to_string(), reason: "still connecting".to_owned() });
        }
    }
}

async fn open_stream(link: &Link, deadline: Instant) -> Result<(quinn::SendStream, quinn::RecvStream), CallError> {
    match timeout_at(deadline, link.connection.open_bi()).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(CallError::Unreachable { to: link.node().to_string(), reason: error.to_string() }),
        Err(_) => Err(CallError::Deadline { sent: false }),
    }
}

/// One request and its answer on one stream of a connection.
async fn call_over(core: &Core, link: &Link, call: &Call, deadline: Instant) -> Result<Bytes, CallError> {
    let started = Instant::now();
    let (send, receive) = open_stream(link, deadline).await?;
    let outcome = match timeout_at(deadline, exchange(core, link, call, deadline, send, receive)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(CallError::Deadline { sent: true }),
    };
    // Bulk transfers say nothing about how quickly a peer answers.
    if link.traffic == Traffic::Foreground {
        match &outcome {
            Ok(_) | Err(CallError::Refused(_)) => core.tally(link.node(), CallOutcome::Answered(started.elapsed())),
            Err(CallError::Deadline { .. }) => core.tally(link.node(), CallOutcome::TimedOut),
            Err(_) => core.tally(link.node(), CallOutcome::Failed),
        }
    }
    outcome
}

async fn exchange(
    core: &Core,
    link: &Link,
    call: &Call,
    deadline: Instant,
    mut send: quinn::SendStream,
    mut receive: quinn::RecvStream,
) -> Result<Bytes, CallError> {
    let to = link.node();
    let left = deadline.saturating_duration_since(Instant::now());
    let deadline_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
    let opening = frame_of(&Opening::Call { service: call.service, deadline_ms });
    let length = Bytes::copy_from_slice(&length_of(&call.body));
    let written = send.write_all_chunks(&mut [opening, length, call.body.clone()]).await;
    // A peer that is busy stops reading; its answer says so, and is there to be read.
    if let Err(error) = written
        && !matches!(error, quinn::WriteError::Stopped(_))
    {
        return Err(CallError::Broken { to, reason: error.to_string() });
    }
    let _ = send.finish();
    let broken = |error: FrameError| CallError::Broken { to, reason: error.to_string() };
    match read_header(&mut receive, "answer").await.map_err(broken)? {
        Answer::Done => {}
        Answer::Refused(reason) => return Err(CallError::Refused(reason)),
        Answer::Busy => return Err(CallError::Busy(to)),
        Answer::Late => return Err(CallError::Late(to)),
        Answer::Overran => return Err(CallError::Deadline { sent: true }),
        Answer::Open => return Err(broken(FrameError::Malformed("answer"))),
    }
    let body = read_frame(&mut receive, core.options.bounds.frame_bytes_max).await.map_err(broken)?;
    body.ok_or_else(|| broken(FrameError::Malformed("answer without a body")))
}
