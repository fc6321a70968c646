//! From a socket address to a link: handshake, identity, greeting (rules M2, M3).
//!
//! ```text
//!   TLS (chain, ALPN)  ->  identity of the certificate: cluster, not us, admitted  ->  greetings match it  ->  Links::add
//! ```
//!
//! Nothing but the greeting is decoded before all of that holds. Whoever fails is told why by the close code.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use isochrone_ident::NodeId;
use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, ConnectionError};
use rustls_pki_types::CertificateDer;
use tokio::time::timeout;
use tracing::debug;

use crate::links::{Claim, Link, Taken};
use crate::membership::identity::Address;
use crate::shared::{Core, lock};
use crate::wire::{CloseCode, FrameError, Greeting, Hello, Traffic, WireVersion, frame_of, read_header};
use crate::{PeerIdentity, metrics, serve};

/// The name sent as SNI. Daemons are known by their SAN URI, so it is the same for all of them.
const SERVER_NAME: &str = "isochrone";

/// Why there is no link. The connection, if there was one, is closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GreetError {
    /// We refused the peer.
    #[error("refused ({code}): {reason}")]
    Refused { code: CloseCode, reason: String },
    /// The peer refused us.
    #[error("the peer refused us ({0})")]
    ByPeer(CloseCode),
    /// The handshake failed.
    #[error("the handshake failed ({word}): {reason}")]
    Handshake { word: &'static str, reason: String },
    /// The name does not resolve, or can't be dialed.
    #[error("{0}")]
    Address(String),
    /// It took too long.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

impl GreetError {
    fn refused(code: CloseCode, reason: impl Into<String>) -> Self {
        Self::Refused { code, reason: reason.into() }
    }

    /// Its word in metrics.
    fn as_str(&self) -> &'static str {
        match self {
            Self::Refused { code, .. } => code.as_str(),
            Self::ByPeer(_) => "by-peer",
            Self::Handshake { word, .. } => word,
            Self::Address(_) => "address",
            Self::TimedOut(_) => "timeout",
        }
    }
}

impl From<ConnectionError> for GreetError {
    fn from(error: ConnectionError) -> Self {
        if let ConnectionError::ApplicationClosed(close) = &error
            && let Some(code) = CloseCode::of(close.error_code)
        {
            return Self::ByPeer(code);
        }
        Self::Handshake { word: handshake_word(&error), reason: error.to_string() }
    }
}

/// The reason of a failed handshake: TLS alerts (RFC 8446, section 6) come as QUIC errors 0x100 + alert.
fn handshake_word(error: &ConnectionError) -> &'static str {
    let code = match error {
        ConnectionError::TransportError(error) => u64::from(error.code),
        ConnectionError::ConnectionClosed(close) => u64::from(close.error_code),
        ConnectionError::TimedOut => return "timeout",
        ConnectionError::VersionMismatch => return "quic-version",
        _ => return "handshake",
    };
    match code.checked_sub(0x100) {
        Some(45) => "certificate-expired",
        Some(48) => "unknown-authority",
        Some(51) => "bad-signature",
        Some(116) => "no-certificate",
        Some(120) => CloseCode::WrongVersion.as_str(),
        Some(0..=255) => "tls",
        _ => "handshake",
    }
}

/// Dials an address and greets whoever is there, who must be `expect` if that is given.
pub(crate) async fn dial(core: &Arc<Core>, addr: SocketAddr, traffic: Traffic, expect: Option<NodeId>) -> Result<Arc<Link>, GreetError> {
    let config = crate::endpoint::client_config_of(&core.material.load(), &core.transport, &core.connection_ids);
    let connecting = core.endpoint.connect_with(config, addr, SERVER_NAME).map_err(|e| GreetError::Address(e.to_string()))?;
    let within = core.options.bounds.handshake_timeout;
    let greeted = timeout(within, async {
        let connection = connecting.await?;
        settle(core, &connection, greet_as_dialer(core, &connection, traffic, expect).await)
    });
    let outcome = greeted.await.unwrap_or(Err(GreetError::TimedOut(within)));
    if let Err(error @ GreetError::Refused { .. }) = &outcome {
        core.note_refused(error.as_str(), &addr.to_string(), &error.to_string());
    }
    outcome
}

/// Greets a peer that dialed us; what it is refused for is counted.
pub(crate) async fn accept(core: &Arc<Core>, incoming: quinn::Incoming) {
    let addr = incoming.remote_address();
    let within = core.options.bounds.handshake_timeout;
    let greeted = timeout(within, async {
        let connection = incoming.accept()?.await?;
        settle(core, &connection, greet_as_acceptor(core, &connection).await)
    });
    if let Err(error) = greeted.await.unwrap_or(Err(GreetError::TimedOut(within))) {
        core.note_refused(error.as_str(), &addr.ip().to_string(), &error.to_string());
    }
}

/// Makes a greeted connection a link; closes one that was not greeted, with the reason.
fn settle(core: &Arc<Core>, connection: &Connection, greeted: Result<Link, GreetError>) -> Result<Arc<Link>, GreetError> {
    let outcome = greeted.and_then(|link| admit(core, link));
    if let Err(error) = &outcome {
        let code = if let GreetError::Refused { code, .. } = error { *code } else { CloseCode::BadGreeting };
        connection.close(code.code(), crate::wire::clipped(&error.to_string()).as_bytes());
    }
    outcome
}

async fn greet_as_dialer(core: &Core, connection: &Connection, traffic: Traffic, expect: Option<NodeId>) -> Result<Link, GreetError> {
    let (version, identity) = certified(core, connection)?;
    if expect.is_some_and(|node| node != identity.node) {
        return Err(GreetError::refused(CloseCode::BadIdentity, format!("{identity} answers instead of the peer that was dialed")));
    }
    let serial = core.next_serial();
    let (mut send, mut receive) = connection.open_bi().await?;
    let broken = |error: &dyn std::fmt::Display| closed_or(connection, &error.to_string());
    send.write_all(&frame_of(&hello(core, version, traffic, serial))).await.map_err(|e| broken(&e))?;
    let _ = send.finish();
    let theirs = read_header(&mut receive, "greeting").await.map_err(|e| heeded(core, &identity, unreadable(connection, &e)))?;
    let theirs = check_hello(core, theirs, version, &identity)?;
    if theirs.traffic != traffic || theirs.serial != serial {
        return Err(GreetError::refused(CloseCode::BadGreeting, "the greeting answers another one"));
    }
    Ok(link_of(core, connection, theirs, core.me.identity.node))
}

async fn greet_as_acceptor(core: &Core, connection: &Connection) -> Result<Link, GreetError> {
    let (version, identity) = certified(core, connection)?;
    let (mut send, mut receive) = connection.accept_bi().await?;
    let theirs = read_header(&mut receive, "greeting").await.map_err(|e| unreadable(connection, &e))?;
    let theirs = check_hello(core, theirs, version, &identity)?;
    let ours = hello(core, version, theirs.traffic, theirs.serial);
    let link = link_of(core, connection, theirs, identity.node);
    if matches!(lock(&core.links).judge(&link), crate::links::Standing::Taken) {
        return Err(taken(&link));
    }
    send.write_all(&frame_of(&ours)).await.map_err(|e| closed_or(connection, &e.to_string()))?;
    let _ = send.finish();
    Ok(link)
}

/// A stream broke: because the peer refused us, or for another reason.
fn closed_or(connection: &Connection, reason: &str) -> GreetError {
    match connection.close_reason() {
        Some(error) => error.into(),
        None => GreetError::refused(CloseCode::BadGreeting, reason),
    }
}

fn unreadable(connection: &Connection, error: &FrameError) -> GreetError {
    match error {
        FrameError::Broken(reason) => closed_or(connection, reason),
        other => GreetError::refused(CloseCode::BadGreeting, other.to_string()),
    }
}

/// What the handshake alone tells: the version (M3), and an identity that may be here (M2).
fn certified(core: &Core, connection: &Connection) -> Result<(WireVersion, PeerIdentity), GreetError> {
    let data = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    let version = data.and_then(|data| WireVersion::of_alpn(data.protocol.as_deref()?));
    let version = version.ok_or_else(|| GreetError::refused(CloseCode::WrongVersion, "no version was negotiated"))?;
    let chain = connection.peer_identity().and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
    let own = chain.as_ref().and_then(|chain| chain.first());
    let own = own.ok_or_else(|| GreetError::refused(CloseCode::BadIdentity, "no certificate"))?;
    let identity = PeerIdentity::of_certificate(own).map_err(|e| GreetError::refused(CloseCode::BadIdentity, e.to_string()))?;
    check_identity(core, &identity)?;
    Ok((version, identity))
}

/// M2: of this cluster, not ourselves, and admitted.
fn check_identity(core: &Core, identity: &PeerIdentity) -> Result<(), GreetError> {
    let me = &core.me.identity;
    if identity.cluster != me.cluster {
        let reason = format!("the peer is of cluster {}, this is {}", identity.cluster, me.cluster);
        return Err(GreetError::refused(CloseCode::WrongCluster, reason));
    }
    if identity.node == me.node {
        return Err(GreetError::refused(CloseCode::OwnNodeId, format!("{identity} is our own node id")));
    }
    core.admission.admit(identity).map_err(|reason| GreetError::refused(CloseCode::NotAdmitted, reason))
}

/// What we say of ourselves.
fn hello(core: &Core, version: WireVersion, traffic: Traffic, serial: u64) -> Greeting {
    Greeting::Hello(Hello { version, profile: core.me.clone(), process: core.process, serial, traffic })
}

/// A certified peer of this cluster may have said that our store is retired (M2).
fn heeded(core: &Core, by: &PeerIdentity, error: GreetError) -> GreetError {
    if error == GreetError::ByPeer(CloseCode::StoreRetired) {
        core.note_disowned(by.node);
    }
    error
}

/// M2: the greeting must say what the certificate says, and its store may not be a retired one.
fn check_hello(core: &Core, greeting: Greeting, version: WireVersion, identity: &PeerIdentity) -> Result<Hello, GreetError> {
    let Greeting::Hello(hello) = greeting;
    if hello.version != version {
        let reason = format!("version {} was negotiated and {} is spoken", version.0, hello.version.0);
        return Err(GreetError::refused(CloseCode::WrongVersion, reason));
    }
    if hello.profile.identity != *identity {
        let reason = format!("the certificate says {identity}, the greeting {}", hello.profile.identity);
        return Err(GreetError::refused(CloseCode::BadIdentity, reason));
    }
    let retired = |reason| GreetError::refused(CloseCode::StoreRetired, reason);
    core.admission.admit_store(identity, hello.profile.store).map_err(retired)?;
    let address = Address::new(&hello.profile.address);
    address.map_err(|e| GreetError::refused(CloseCode::BadGreeting, format!("the advertised address: {e}")))?;
    Ok(hello)
}

fn link_of(core: &Core, connection: &Connection, hello: Hello, dialer: NodeId) -> Link {
    Link {
        number: core.next_serial(),
        connection: connection.clone(),
        claim: Claim { process: hello.process, incarnation: hello.profile.incarnation, dialer, serial: hello.serial, since: core.now() },
        profile: hello.profile,
        traffic: hello.traffic,
        counted: Default::default(),
    }
}

fn taken(link: &Link) -> GreetError {
    let reason =
        format!("another process is connected as {}, with an incarnation not older than {}", link.profile.identity, link.claim.incarnation);
    GreetError::refused(CloseCode::NodeIdTaken, reason)
}

/// Adds the link, sends those that it replaces on their way, and begins to serve it.
fn admit(core: &Arc<Core>, link: Link) -> Result<Arc<Link>, GreetError> {
    let link = Arc::new(link);
    let (dead, spare) = match lock(&core.links).add(link.clone(), core.options.bounds.connections_max) {
        Taken::Added { dead, spare } => (dead, spare),
        Taken::Refused => return Err(taken(&link)),
        Taken::Full => return Err(GreetError::refused(CloseCode::TooManyConnections, "too many connections")),
    };
    metrics::greeted(link.claim.dialer == core.me.identity.node);
    debug!(peer = %link.profile.identity, address = %link.profile.address, traffic = link.traffic.as_str(), dialer = %link.claim.dialer, "connected");
    dead.iter().for_each(|old| old.close(CloseCode::Superseded, "a newer incarnation has connected"));
    retire(core, spare);
    lock(&core.dialing).failures.remove(&link.node());
    if link.traffic == Traffic::Foreground {
        // Its address is good: the greeting was checked.
        let _ = core.with_peers(|peers, now| peers.connected(now, &link.profile));
    }
    core.announce_links();
    tokio::spawn(serve::run(core.clone(), link.clone()));
    Ok(link)
}

/// Closes connections that are no longer used, once what is under way on them had time to end. Only their dialer does.
fn retire(core: &Arc<Core>, spare: Vec<Arc<Link>>) {
    let me = core.me.identity.node;
    let ours: Vec<_> = spare.into_iter().filter(|link| link.claim.dialer == me).collect();
    if ours.is_empty() {
        return;
    }
    let wait = core.options.bounds.idle_timeout;
    tokio::spawn(async move {
        tokio::time::sleep(wait).await;
        ours.iter().for_each(|link| link.close(CloseCode::Superseded, "another connection is used"));
    });
}
