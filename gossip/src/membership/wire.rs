//! The datagrams of this room: one kind byte, then foca's own bytes or a `postcard` message. Each fits the path.

use bytes::{BufMut, Bytes, BytesMut};
use isochrone_ident::{Incarnation, NodeId, Region};
use serde::{Deserialize, Serialize};

use super::directory::Fact;
use super::identity::Identity;
use super::reach::Reachability;
use super::timing::Scope;
use crate::health::Beat;

const LOCAL_POOL: u8 = 1;
const WIDE_POOL: u8 = 2;
const MESSAGE: u8 = 3;

/// Room that a page leaves for its header: kinds, author, edition, a region's name and counts.
pub(crate) const PAGE_OVERHEAD: usize = 128;

/// Bytes from a peer that break the format or claim what the sender may not claim. Nothing of them was used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// Not what they should be.
    #[error("malformed {0}")]
    Bytes(&'static str),
    /// The pool's datagram names another sender than the connection's certificate.
    #[error("a pool datagram in another node's name")]
    NotFromSender,
    /// A pool of one region was told about members of another.
    #[error("a member of another region in a local pool")]
    WrongRegion,
    /// The pool refused it.
    #[error("refused by the pool: {0}")]
    Pool(String),
}

/// Orders what one author says: a later start first, then the later saying of the same start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub(crate) struct Edition {
    /// The author's start.
    pub(crate) incarnation: Incarnation,
    /// Counts what this start of the author has said.
    pub(crate) number: u64,
}

/// Who says it, and when in the order of its sayings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Byline {
    pub(crate) author: NodeId,
    pub(crate) edition: Edition,
}

/// Which regions a gateway can reach, for its region's members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReachReport {
    pub(crate) by: Byline,
    pub(crate) regions: Vec<(Region, Reachability)>,
}

/// Round trips from the author's region to others, in microseconds (M6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) by: Byline,
    pub(crate) region: Region,
    /// A row too long for one datagram comes in parts; each part stands for itself.
    pub(crate) part: u8,
    pub(crate) cells: Vec<(Region, u32)>,
}

/// What is not foca's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Message {
    /// One page of facts about members. Each fact carries its own version, so pages need no order.
    Summary(Vec<Fact>),
    /// What a gateway can reach.
    Reach(ReachReport),
    /// A row of the round-trip matrix.
    Row(Row),
    /// A heartbeat of the link.
    Beat(Beat),
    /// Tell me whom you know.
    Ask,
    /// The sender leaves the cluster; this is its last fact.
    Leave(Fact),
    /// The receiver is suspected in a pool, under this identity and number of refutations.
    Suspected { scope: Scope, identity: Identity, swim: u16 },
}

/// A datagram taken apart.
pub(crate) enum Datagram<'a> {
    Pool(Scope, &'a [u8]),
    Message(Message),
}

impl<'a> Datagram<'a> {
    /// Takes a peer's bytes apart.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        match bytes.split_first() {
            Some((&LOCAL_POOL, rest)) => Ok(Self::Pool(Scope::Local, rest)),
            Some((&WIDE_POOL, rest)) => Ok(Self::Pool(Scope::Wide, rest)),
            Some((&MESSAGE, rest)) => match postcard::take_from_bytes(rest) {
                Ok((message, [])) => Ok(Self::Message(message)),
                _ => Err(Malformed::Bytes("message")),
            },
            _ => Err(Malformed::Bytes("kind of datagram")),
        }
    }
}

/// foca's bytes as a datagram.
pub(crate) fn pool_datagram(scope: Scope, data: &[u8]) -> Bytes {
    let kind = match scope {
        Scope::Local => LOCAL_POOL,
        Scope::Wide => WIDE_POOL,
    };
    tagged(kind, data)
}

/// A message as a datagram. Encoding plain values into a growing vector has no way to fail.
pub(crate) fn message_datagram(message: &Message) -> Bytes {
    tagged(MESSAGE, &postcard::to_allocvec(message).unwrap_or_default())
}

fn tagged(kind: u8, data: &[u8]) -> Bytes {
    let mut datagram = BytesMut::with_capacity(1 + data.len());
    datagram.put_u8(kind);
    datagram.put_slice(data);
    datagram.freeze()
}

/// Cuts items into pages that fit a datagram each; an item that fits none is left out.
pub(crate) fn pages<T: Serialize>(items: impl IntoIterator<Item = T>, datagram_bytes_max: usize) -> Vec<Vec<T>> {
    let room = datagram_bytes_max.saturating_sub(PAGE_OVERHEAD);
    let (mut pages, mut page, mut used) = (Vec::new(), Vec::new(), 0);
    for item in items {
        let bytes = postcard::to_allocvec(&item).map_or(usize::MAX, |encoded| encoded.len());
        if bytes > room {
            continue;
        }
        if used + bytes > room {
            pages.push(std::mem::take(&mut page));
            used = 0;
        }
        page.push(item);
        used += bytes;
    }
    if !page.is_empty() {
        pages.push(page);
    }
    pages
}
