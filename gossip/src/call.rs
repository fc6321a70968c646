//! What a caller asks and what it may get back.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use isochrone_ident::{NodeId, StoreId};
use tokio::time::Instant;

use crate::channel::Channel;
use crate::{PeerIdentity, ServiceId, Traffic};

/// One request.
#[derive(Debug, Clone)]
pub struct Call {
    /// Whom it is for at the peer.
    pub service: ServiceId,
    /// Over which of the two connections (M7).
    pub class: Traffic,
    /// How long the caller waits, all tries together; the peer drops what is later than that (M8).
    pub deadline: Duration,
    /// The request.
    pub body: Bytes,
    /// Whether it may be sent again when its outcome is unknown: only for requests that may happen twice, and only within the
    /// retry budget (M8).
    pub retries: bool,
}

impl Call {
    /// A foreground call that is sent once.
    #[must_use]
    pub fn new(service: ServiceId, body: Bytes, deadline: Duration) -> Self {
        Self { service, class: Traffic::Foreground, deadline, body, retries: false }
    }

    /// The same over the bulk connection.
    #[must_use]
    pub fn bulk(self) -> Self {
        Self { class: Traffic::Bulk, ..self }
    }

    /// The same, to be tried again when a try fails and the budget allows it.
    #[must_use]
    pub fn with_retries(self) -> Self {
        Self { retries: true, ..self }
    }
}

/// Why a call has no answer. [`CallError::is_unsent`] tells whether the peer may have acted on it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Nobody is known under that id. Nothing was sent.
    #[error("no peer {0} is known")]
    NoSuchPeer(NodeId),
    /// There is no connection to the peer. Nothing was sent.
    #[error("not connected to {to}: {reason}")]
    Unreachable {
        /// The peer or address.
        to: String,
        /// What is in the way, as far as it is known.
        reason: String,
    },
    /// The body is longer than a frame may be. Nothing was sent.
    #[error("a body of {bytes} bytes, where {bytes_max} are allowed")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// The peer serves too many requests; its service did not see this one.
    #[error("{0} is busy")]
    Busy(NodeId),
    /// The deadline passed on the way; the peer's service did not see the request.
    #[error("the deadline passed before {0} could begin")]
    Late(NodeId),
    /// The deadline passed.
    #[error("no answer within the deadline{}", if *sent { "" } else { "; nothing was sent" })]
    Deadline {
        /// Whether the request was on its way; the outcome is then unknown.
        sent: bool,
    },
    /// The peer's service refused, in its own words. Whether something happened is the service's to say.
    #[error("refused: {0}")]
    Refused(String),
    /// The connection or stream broke after the request was on its way: the outcome is unknown.
    #[error("the connection to {to} broke: {reason}")]
    Broken {
        /// The peer.
        to: NodeId,
        /// What QUIC says.
        reason: String,
    },
    /// The mesh has been left. Nothing was sent.
    #[error("this daemon has left the mesh")]
    Left,
}

impl CallError {
    /// Whether it is certain that the peer's service never saw the request.
    #[must_use]
    pub fn is_unsent(&self) -> bool {
        match self {
            Self::NoSuchPeer(_) | Self::Unreachable { .. } | Self::TooLarge { .. } | Self::Busy(_) | Self::Late(_) | Self::Left => true,
            Self::Deadline { sent } => !sent,
            Self::Refused(_) | Self::Broken { .. } => false,
        }
    }

    /// Whether another try could fare better.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Busy(_) | Self::Broken { .. })
    }

    /// Its word in metrics.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::NoSuchPeer(_) => "no-such-peer",
            Self::Unreachable { .. } => "unreachable",
            Self::TooLarge { .. } => "too-large",
            Self::Busy(_) => "busy",
            Self::Late(_) => "late",
            Self::Deadline { .. } => "deadline",
            Self::Refused(_) => "refused",
            Self::Broken { .. } => "broken",
            Self::Left => "left",
        }
    }
}

/// A service's refusal, in words for the caller; at most 512 bytes of them are sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// What answers calls and takes channels. Every peer that reaches it is certified and admitted (M2).
pub trait Service: Send + Sync {
    /// Answers one request. The future is dropped at the deadline.
    fn call(&self, from: &PeerIdentity, service: ServiceId, body: Bytes, deadline: Instant) -> BoxFuture<'static, Result<Bytes, Refused>>;

    /// Takes a channel that a peer opened. Must not block: spawn what reads it. The channel counts against the bound on inbound
    /// channels until both its halves are dropped.
    fn stream(&self, from: PeerIdentity, service: ServiceId, channel: Channel);
}

/// Says who may connect, beyond holding a certificate of the cluster: the council's removed members are refused (M2).
pub trait Admission: Send + Sync {
    /// Asked at each connection and now and then afterwards.
    ///
    /// # Errors
    /// The reason of a refusal, which the peer is told.
    fn admit(&self, peer: &PeerIdentity) -> Result<(), String>;

    /// Asked once the greeting has said which store an admitted peer has, before anything else is decoded, and now and then afterwards. A peer
    /// that is refused here is told [`crate::CloseCode::StoreRetired`], and its [`crate::Mesh::disowned`] says so.
    ///
    /// # Errors
    /// The reason of a refusal, which the peer is told.
    fn admit_store(&self, peer: &PeerIdentity, store: StoreId) -> Result<(), String> {
        let _ = (peer, store);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_outcome_that_is_certain_counts_as_unsent() {
        let node = NodeId(1);
        assert!(CallError::Busy(node).is_unsent());
        assert!(CallError::Deadline { sent: false }.is_unsent());
        assert!(!CallError::Deadline { sent: true }.is_unsent());
        assert!(!CallError::Broken { to: node, reason: String::new() }.is_unsent());
        assert!(!CallError::Refused(String::new()).is_unsent());
    }
}
