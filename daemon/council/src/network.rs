//! How messages travel: the [`Wire`] that the daemon gives, and the engine's network interface over it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use isochrone_ident::{NodeId, StoreId};
use openraft::error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use tokio::time::Instant;

use crate::message::{Answer, Ask, Header, decode_answer, encode_ask};
use crate::raft::{AppendRequest, AppendResponse, InstallRequest, InstallResponse, Seat, Types, VoteRequest, VoteResponse};
use crate::storage::Published;

/// Carries council messages to other members. The answer comes from that member's [`crate::Council::handle`].
pub trait Wire: Send + Sync {
    /// Sends `body` to `to` and waits for the answer, at most `deadline`. Never retries by itself.
    fn call(&self, to: NodeId, body: Bytes, deadline: Duration) -> BoxFuture<'static, Result<Bytes, WireError>>;
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// It certainly was not delivered.
    #[error("not sent: {0}")]
    Unsent(String),
    /// It was delivered and refused; nothing happened.
    #[error("refused: {0}")]
    Refused(String),
    /// It may have been delivered.
    #[error("no answer: {0}")]
    Unknown(String),
}

impl WireError {
    /// Whether the message certainly had no effect.
    #[must_use]
    pub const fn is_without_effect(&self) -> bool {
        matches!(self, Self::Unsent(_) | Self::Refused(_))
    }
}

/// A call that fails at once is answered to the engine only after this time: the engine repeats it immediately.
const FAILURE_PACE: Duration = Duration::from_millis(100);

/// Sends asks of this council.
#[derive(Clone)]
pub(crate) struct Post {
    pub(crate) wire: Arc<dyn Wire>,
    /// The store of this node.
    pub(crate) store: StoreId,
    pub(crate) published: Published,
}

impl Post {
    /// Asks the member of that id, whatever its store.
    pub(crate) async fn ask(&self, to: NodeId, ask: &Ask, deadline: Duration) -> Result<Answer, WireError> {
        let store = self.published.state().members.get(&to).map(|m| m.store);
        self.ask_store(to, store, ask, deadline).await
    }

    async fn ask_store(&self, to: NodeId, store: Option<StoreId>, ask: &Ask, deadline: Duration) -> Result<Answer, WireError> {
        let header = Header { council: self.published.state().council, from: self.store, to: store };
        let body = encode_ask(header, ask).map_err(|e| WireError::Unsent(e.to_string()))?;
        let call = self.wire.call(to, body.into(), deadline);
        let answer = match tokio::time::timeout(deadline, call).await {
            Ok(answer) => answer?,
            Err(_) => return Err(WireError::Unknown("deadline".into())),
        };
        decode_answer(&answer).map_err(|e| WireError::Unknown(e.to_string()))
    }
}

impl RaftNetworkFactory<Types> for Post {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, seat: &Seat) -> Peer {
        Peer { post: self.clone(), target, seat: *seat }
    }
}

/// The engine's way to one member.
pub(crate) struct Peer {
    post: Post,
    target: NodeId,
    seat: Seat,
}

type RpcError<E = openraft::error::Infallible> = RPCError<NodeId, Seat, RaftError<NodeId, E>>;

impl Peer {
    /// What `pick` finds in the answer, or an error after [`FAILURE_PACE`]. Never `Unreachable`: the engine's back-off for that one is
    /// not seedable.
    async fn ask<T, E>(&self, ask: Ask, option: &RPCOption, pick: impl FnOnce(Answer) -> Option<T>) -> Result<T, RpcError<E>>
    where
        E: std::error::Error,
    {
        let begun = Instant::now();
        let error = match self.post.ask_store(self.target, Some(self.seat.store), &ask, option.hard_ttl()).await.map(pick) {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => WireError::Unknown("an answer to another question".into()),
            Err(error) => error,
        };
        tokio::time::sleep_until(begun + FAILURE_PACE).await;
        Err(RPCError::Network(NetworkError::new(&error)))
    }
}

impl RaftNetwork<Types> for Peer {
    async fn append_entries(&mut self, rpc: AppendRequest, option: RPCOption) -> Result<AppendResponse, RpcError> {
        let pick = |answer| if let Answer::Append(response) = answer { Some(response) } else { None };
        self.ask(Ask::Append(rpc), &option, pick).await
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallRequest,
        option: RPCOption,
    ) -> Result<InstallResponse, RpcError<InstallSnapshotError>> {
        let pick = |answer| if let Answer::Install(response) = answer { Some(response) } else { None };
        let response = self.ask(Ask::Install(rpc), &option, pick).await?;
        response.map_err(|error| RPCError::RemoteError(RemoteError::new(self.target, error)))
    }

    async fn vote(&mut self, rpc: VoteRequest, option: RPCOption) -> Result<VoteResponse, RpcError> {
        let pick = |answer| if let Answer::Vote(response) = answer { Some(response) } else { None };
        self.ask(Ask::Vote(rpc), &option, pick).await
    }
}
