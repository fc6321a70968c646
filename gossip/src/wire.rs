//! The wire format (rule M3): what goes through a connection, and in which version.
//!
//! ```text
//!   handshake      TLS 1.3, ALPN "isochrone/<version>": the version is negotiated, never guessed
//!   first stream   dialer: frame(Greeting)    acceptor: frame(Greeting)    before anything else is decoded
//!   a call         frame(Opening::Call) body FIN      ->  frame(Answer) body FIN
//!   a channel      frame(Opening::Channel) frame ...  <-> frame(Answer::Open) frame ...
//!   a datagram     membership's (see `membership::wire`)
//! ```
//!
//! A frame is a length (u32, little endian) and that many bytes; headers are `postcard` enums, so that a later version can
//! add variants. Every length is checked against a bound before memory is taken.

use bytes::{BufMut, Bytes, BytesMut};
use isochrone_ident::{Incarnation, StoreId, Zone};
use quinn::VarInt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::PeerIdentity;

/// The wire versions that this daemon speaks, the preferred one first: its own and the previous one, so that a cluster can
/// be upgraded a daemon at a time (M3). Version 0 was the draft; it differs from 1 in its name only.
pub const VERSIONS: [WireVersion; 2] = [WireVersion(1), WireVersion(0)];

/// The longest header frame (greeting, opening, answer), in bytes.
pub(crate) const HEADER_BYTES_MAX: usize = 4096;

/// The longest text of a refusal that is sent or taken, in bytes.
pub(crate) const REASON_BYTES_MAX: usize = 512;

/// A version of the wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WireVersion(pub u16);

impl WireVersion {
    /// Its ALPN protocol name (RFC 7301).
    #[must_use]
    pub fn alpn(self) -> Vec<u8> {
        format!("isochrone/{}", self.0).into_bytes()
    }

    /// The version of an ALPN name, if it is one that this daemon speaks.
    #[must_use]
    pub fn of_alpn(name: &[u8]) -> Option<Self> {
        VERSIONS.into_iter().find(|version| version.alpn() == name)
    }
}

/// What a daemon says of itself, beside what its certificate says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Its certified identity.
    pub identity: PeerIdentity,
    /// The zone inside its region, if it has one.
    pub zone: Option<Zone>,
    /// Its durable store.
    pub store: StoreId,
    /// How often it has started (M1).
    pub incarnation: Incarnation,
    /// Where it can be reached, as host:port.
    pub address: String,
}

/// Which of a peer's two connections (M7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Traffic {
    /// What somebody waits for.
    Foreground,
    /// Slot moves and anti-entropy bodies: on a connection of its own, so that it never delays the rest.
    Bulk,
}

impl Traffic {
    /// The word for it in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Foreground => "foreground",
            Self::Bulk => "bulk",
        }
    }
}

/// The number of a service that calls and channels are for: 0 to 255, given out by the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceId(pub u8);

/// The first frame on a connection, each way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Greeting {
    /// The greeting of wire versions 0 and 1.
    Hello(Hello),
}

/// Who speaks, and over which of the two connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// The version that the speaker believes was negotiated.
    pub(crate) version: WireVersion,
    /// Who it is; must match the certificate.
    pub(crate) profile: Profile,
    /// Drawn at each start: tells a second process under the same node id from a second connection of the same process.
    pub(crate) process: u64,
    /// The dialer's count of its connections, so that both ends know which of two is the later one. The acceptor sends it back.
    pub(crate) serial: u64,
    /// Which of the two connections this one is.
    pub(crate) traffic: Traffic,
}

/// The first frame of a request stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Opening {
    /// One request, one answer.
    Call {
        /// Whom it is for.
        service: ServiceId,
        /// What is left of the deadline, in milliseconds, when the request is sent (M8).
        deadline_ms: u32,
    },
    /// A stream of frames both ways.
    Channel {
        /// Whom it is for.
        service: ServiceId,
    },
}

/// The first frame back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The answer's bytes follow.
    Done,
    /// The service refused; nothing follows.
    Refused(String),
    /// Too many requests are being served; the service never saw this one.
    Busy,
    /// The deadline had passed before the service saw it.
    Late,
    /// The channel is open.
    Open,
    /// The deadline passed while the service was at work: the outcome is unknown.
    Overran,
}

/// Why a connection is closed, told to the peer as the QUIC application error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[repr(u32)]
pub enum CloseCode {
    /// The daemon leaves the cluster for now, in good order.
    #[error("leaving")]
    Leaving = 1,
    /// Another connection to the same peer takes its place.
    #[error("superseded")]
    Superseded = 2,
    /// The peer's certificate names no daemon.
    #[error("bad-identity")]
    BadIdentity = 3,
    /// The peer is of another cluster.
    #[error("wrong-cluster")]
    WrongCluster = 4,
    /// The council has removed the peer, or admission refused it otherwise.
    #[error("not-admitted")]
    NotAdmitted = 5,
    /// Another process is connected under the same node id, with an incarnation that is not older.
    #[error("node-id-taken")]
    NodeIdTaken = 6,
    /// The peer has our own node id.
    #[error("own-node-id")]
    OwnNodeId = 7,
    /// The greeting does not match the certificate, is malformed, or did not come in time.
    #[error("bad-greeting")]
    BadGreeting = 8,
    /// The negotiated version and the greeting's differ.
    #[error("wrong-version")]
    WrongVersion = 9,
    /// Bytes that break the wire format.
    #[error("malformed")]
    Malformed = 10,
    /// The daemon has as many connections as it may have.
    #[error("too-many-connections")]
    TooManyConnections = 11,
    /// The council has retired the peer's store because it was away for too long. Its node may come back with another store.
    #[error("store-retired")]
    StoreRetired = 12,
}

impl CloseCode {
    const ALL: [Self; 12] = [
        Self::Leaving,
        Self::Superseded,
        Self::BadIdentity,
        Self::WrongCluster,
        Self::NotAdmitted,
        Self::NodeIdTaken,
        Self::OwnNodeId,
        Self::BadGreeting,
        Self::WrongVersion,
        Self::Malformed,
        Self::TooManyConnections,
        Self::StoreRetired,
    ];

    pub(crate) fn code(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }

    /// The code that a peer closed with, if it is one of ours.
    pub(crate) fn of(code: VarInt) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.code() == code)
    }

    /// Its word, for metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leaving => "leaving",
            Self::Superseded => "superseded",
            Self::BadIdentity => "bad-identity",
            Self::WrongCluster => "wrong-cluster",
            Self::NotAdmitted => "not-admitted",
            Self::NodeIdTaken => "node-id-taken",
            Self::OwnNodeId => "own-node-id",
            Self::BadGreeting => "bad-greeting",
            Self::WrongVersion => "wrong-version",
            Self::Malformed => "malformed",
            Self::TooManyConnections => "too-many-connections",
            Self::StoreRetired => "store-retired",
        }
    }
}

/// Why a frame could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A frame longer than allowed; nothing of it was read.
    #[error("a frame of {bytes} bytes, where {bytes_max} are allowed")]
    TooLong {
        /// What its length says.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// The bytes are not what they should be.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// The stream or its connection ended inside a frame.
    #[error("the stream broke: {0}")]
    Broken(String),
}

/// A header as a frame.
pub(crate) fn frame_of(header: &impl Serialize) -> Bytes {
    // Encoding plain enums and numbers into a growing vector has no way to fail.
    let body = postcard::to_allocvec(header).unwrap_or_default();
    frame_of_bytes(&body)
}

/// Bytes as a frame. The caller has checked the length against its bound, which fits u32.
pub(crate) fn frame_of_bytes(body: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(4 + body.len());
    frame.put_slice(&length_of(body));
    frame.put_slice(body);
    frame.freeze()
}

/// The length that stands before a frame's bytes.
pub(crate) fn length_of(body: &[u8]) -> [u8; 4] {
    u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes()
}

/// Reads a frame's length; `None` when the stream ended properly before it.
pub(crate) async fn read_length(stream: &mut quinn::RecvStream, bytes_max: usize) -> Result<Option<usize>, FrameError> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Ok(()) => {}
        Err(quinn::ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(error) => return Err(FrameError::Broken(error.to_string())),
    }
    let bytes = u32::from_le_bytes(length) as usize;
    if bytes > bytes_max { Err(FrameError::TooLong { bytes, bytes_max }) } else { Ok(Some(bytes)) }
}

/// Reads that many bytes. Memory grows with what arrives, not with what was announced.
pub(crate) async fn read_body(stream: &mut quinn::RecvStream, bytes: usize) -> Result<Bytes, FrameError> {
    let mut body = BytesMut::with_capacity(bytes.min(64 * 1024));
    while body.len() < bytes {
        match stream.read_chunk(bytes - body.len(), true).await {
            // The common case: all of it in one packet, which is then shared and not copied.
            Ok(Some(chunk)) if chunk.bytes.len() == bytes => return Ok(chunk.bytes),
            Ok(Some(chunk)) => body.extend_from_slice(&chunk.bytes),
            Ok(None) => return Err(FrameError::Broken("it ended inside a frame".to_owned())),
            Err(error) => return Err(FrameError::Broken(error.to_string())),
        }
    }
    Ok(body.freeze())
}

/// Reads one frame; `None` when the stream ended properly before it.
pub(crate) async fn read_frame(stream: &mut quinn::RecvStream, bytes_max: usize) -> Result<Option<Bytes>, FrameError> {
    match read_length(stream, bytes_max).await? {
        Some(bytes) => Ok(Some(read_body(stream, bytes).await?)),
        None => Ok(None),
    }
}

/// Reads a frame that holds one header.
pub(crate) async fn read_header<T: DeserializeOwned>(stream: &mut quinn::RecvStream, what: &'static str) -> Result<T, FrameError> {
    let frame = read_frame(stream, HEADER_BYTES_MAX).await?;
    decode(&frame.ok_or_else(|| FrameError::Broken(format!("it ended before the {what}")))?, what)
}

/// Decodes a header: all of the bytes, or none.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8], what: &'static str) -> Result<T, FrameError> {
    match postcard::take_from_bytes(bytes) {
        Ok((header, [])) => Ok(header),
        _ => Err(FrameError::Malformed(what)),
    }
}

/// At most [`REASON_BYTES_MAX`] bytes of a text, cut between characters.
pub(crate) fn clipped(text: &str) -> &str {
    let end = (0..=REASON_BYTES_MAX.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn m3_only_the_current_and_the_previous_version_are_spoken() {
        assert_eq!(WireVersion::of_alpn(b"isochrone/1"), Some(WireVersion(1)));
        assert_eq!(WireVersion::of_alpn(b"isochrone/0"), Some(WireVersion(0)));
        assert_eq!(WireVersion::of_alpn(b"isochrone/2"), None);
        assert_eq!(WireVersion::of_alpn(b"h3"), None);
    }

    #[test]
    fn a_header_with_bytes_after_it_is_malformed() {
        let mut bytes = postcard::to_allocvec(&Answer::Open).expect("encodes");
        assert_eq!(decode::<Answer>(&bytes, "answer"), Ok(Answer::Open));
        bytes.push(0);
        assert!(decode::<Answer>(&bytes, "answer").is_err());
    }

    #[test]
    fn every_close_code_reads_back() {
        for code in CloseCode::ALL {
            assert_eq!(CloseCode::of(code.code()), Some(code));
            assert_eq!(code.to_string(), code.as_str());
        }
        assert_eq!(CloseCode::of(VarInt::from_u32(0)), None);
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let text = "é".repeat(400);
        assert!(clipped(&text).len() <= REASON_BYTES_MAX);
        assert_eq!(clipped("short"), "short");
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<Greeting>(&bytes, "greeting");
            let _ = decode::<Opening>(&bytes, "opening");
            let _ = decode::<Answer>(&bytes, "answer");
        }
    }
}
