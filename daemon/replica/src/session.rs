//! What a client's session has seen, and whether a replica may answer it (E9).
//!
//! The four guarantees of Terry et al. 1994, "Session Guarantees for Weakly Consistent Replicated Data", kept while a client roams between
//! daemons with nothing but a token. Theirs is a read set and a write set, each told as a version vector (their section 4); here both are one
//! vector, [`Session`]: for each daemon, the time up to which the session depends on what that daemon took. What they rest on:
//!
//! - A daemon's writes reach each replica in one stream, in order, and its heartbeats say how far ([`Heard::sent_through`](crate::Heard)).
//!   So "everything that node took up to then" is one comparison, [`Session::lacks`], made before a read is answered.
//! - A state is only ever replaced by a later one, or joined with more.
//! - A daemon's clock observes [`Session::latest`] before it stamps a write of that session.
//!
//! **Read your writes.** A write notes (the daemon that took it, its version's time). A replica that lacks nothing has it, or what replaced it.
//!
//! **Monotonic reads.** A read notes each (node, time) that its answer is made of: for a value or a tombstone its version's. The next
//! replica has that write too, and so shows it or what came after. A tombstone that was forgotten was stable: nobody shows what is older (E7).
//!
//! **Writes follow reads; monotonic writes.** A write is later than all that the session had seen, for the clock observed the token: so it
//! wins over what its session read or wrote before under the same key, on every replica, and it need not wait for anything. For *other* keys
//! the record carries the session's [`Causes`]; whoever reads it in a session takes them over, and so never sees an answer without the
//! question. They are complete at one remove, since whoever wrote had taken over the causes of what they had read. A change that acts only
//! on what it *observes* (removing from a set or a map) has to be made where the session lacks nothing, as a read: elsewhere it would
//! miss what the session itself added.
//!
//! What is stable everywhere needs no mention ([`Session::prune`]), so a token mostly names the one or two daemons that the client wrote
//! through or read from in the last seconds. A node that starts to serve a slot may do so only once it is filled: a pruned token relies on it.
//!
//! # The token
//! Base64url without padding, over: format (1 byte), cluster tag (8), floor (variable), in format 2 when strong keys were seen last (variable), then newest first each node's id (16) and time
//! (variable: the first as it is, the others as the distance to the one before), and a checksum (4). In characters, with daemons that were
//! seen within a minute: 52 for 1 node, 108 for 3, 303 for 10, under 1,000 for 40 and for 5,000 (a test holds these figures). Node
//! ids are told in full: half of each would do to tell nodes apart, and save a third of the bytes where a token names many, but a reader
//! would then need the list of members to make sense of a token, and could not say whose writes it is waiting for when a member
//! has left. From 36 nodes on (a few fewer where they were seen days apart) the oldest are folded into the floor. That asks for more
//! than was seen, never for less: and what is older than some 35 daemons' latest has mostly arrived everywhere.
//!
//! The checksum finds damage, not forgery. A forger could only make their own requests wait, or lift a clock by as much as any peer may.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use isochrone_ident::{ClusterName, Hlc, NodeId, Version, WallMicros};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::Horizon;

#[cfg(test)]
mod model;

/// Nodes that a token names at most; the others' times are in its floor.
const NODES_MAX: usize = 35;
/// Nodes that a record's causes name at most.
const CAUSES_MAX: usize = 8;
const FORMAT: u8 = 1;
/// As [`FORMAT`], with the time of [`Session::note_strong`] after the floor.
const FORMAT_STRONG: u8 = 2;
const CHECKSUM_BYTES: usize = 4;

/// What tells the tokens of one cluster from those of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterTag(u64);

impl ClusterTag {
    /// The tag of that cluster.
    #[must_use]
    pub fn of(cluster: &ClusterName) -> Self {
        Self(xxh3_64(cluster.as_str().as_bytes()))
    }
}

/// What a session depends on: of each daemon in `seen`, everything that it took up to that time; of every daemon, everything that it took up to
/// `floor`. It only grows, but for what is pruned.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Session {
    floor: Hlc,
    seen: BTreeMap<NodeId, Hlc>,
    /// Of the session alone: causes and peers have no use for it.
    #[serde(skip)]
    strong: Hlc,
}

/// Why a token is refused. Nothing of it was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// It is no token that a daemon of any cluster gave out.
    #[error("the session token is damaged or was made up: send it back as it was given, or begin a session without one")]
    Malformed,
    /// It was given out by another cluster.
    #[error("the session token belongs to another cluster")]
    OtherCluster,
    /// It tells of times that no daemon can have given out yet: clients never supply time (E4).
    #[error("the session token is {ahead_ms} ms ahead of this daemon's clock")]
    FromTheFuture {
        /// How far ahead, in milliseconds.
        ahead_ms: u64,
    },
}

/// Writes that a session has seen and a replica has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lack {
    /// Who took them.
    pub node: NodeId,
    /// The replica has everything that the node took up to here. [`Hlc::ZERO`]: the node has not been heard.
    pub has: Hlc,
    /// The session has seen what it took up to here.
    pub wants: Hlc,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = self.node;
        if self.has == Hlc::ZERO {
            return write!(f, "this replica has not heard from node {node} yet, whose writes the session has seen");
        }
        let behind_ms = self.wants.wall().0.saturating_sub(self.has.wall().0).div_ceil(1000);
        write!(f, "this replica lacks the last {behind_ms} ms of the writes of node {node} that the session has seen")
    }
}

impl Session {
    /// The session depends on what that daemon took at that time, and so on all that it took before.
    pub fn note(&mut self, node: NodeId, hlc: Hlc) {
        if hlc > self.floor {
            let seen = self.seen.entry(node).or_default();
            *seen = (*seen).max(hlc);
        }
    }

    /// The session has seen strong keys as they were at that time of the daemon that answered: a copy of one must be from after it (Q17).
    pub fn note_strong(&mut self, at: Hlc) {
        self.strong = self.strong.max(at);
    }

    /// The latest time at which the session has seen a strong key; [`Hlc::ZERO`] when it has seen none. No part of [`Session::latest`] and
    /// [`Session::is_empty`]: on the eventual path nothing depends on it.
    #[must_use]
    pub const fn strong(&self) -> Hlc {
        self.strong
    }

    /// The session depends on a write, and on what that depended on.
    pub fn note_write(&mut self, version: Version, causes: &Causes) {
        self.note(version.node, version.hlc);
        self.join(&causes.0);
    }

    /// The session depends on what a write depended on.
    pub fn note_causes(&mut self, causes: &Causes) {
        self.join(&causes.0);
    }

    /// The session depends on all that another depends on.
    pub fn join(&mut self, other: &Self) {
        self.raise_floor(other.floor);
        other.seen.iter().for_each(|(&node, &hlc)| self.note(node, hlc));
        self.note_strong(other.strong);
    }

    /// Leaves out what every replica has for ever ([`Horizon::stable_through`]).
    pub fn prune(&mut self, stable: Hlc) {
        self.seen.retain(|_, hlc| *hlc > stable);
        if self.floor <= stable {
            self.floor = Hlc::ZERO;
        }
    }

    /// The latest that the session has seen. A clock observes it before it stamps a write of the session.
    #[must_use]
    pub fn latest(&self) -> Hlc {
        self.seen.values().copied().max().unwrap_or_default().max(self.floor)
    }

    /// Whether it depends on nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.latest() == Hlc::ZERO
    }

    /// `None` when a replica with that horizon has everything that the session has seen, else of the nodes whose writes are missing the
    /// one that was heard the longest ago. `me` is the replica, which has its own writes.
    ///
    /// What is asked of a node that is no member any more is asked of every member: nobody sends its writes on its behalf, but they were spread
    /// before it was removed, and whoever has heard from all since then has them as far as anyone has.
    #[must_use]
    pub fn lacks(&self, horizon: &Horizon, me: NodeId) -> Option<Lack> {
        let departed = self.seen.iter().filter(|(node, _)| !horizon.is_member(**node)).map(|(_, &hlc)| hlc).max();
        let floor = departed.unwrap_or_default().max(self.floor);
        let lacking = |node: NodeId| {
            let wants = self.seen.get(&node).copied().unwrap_or_default().max(floor);
            let has = horizon.heard(node).sent_through;
            (node != me && wants > has).then_some(Lack { node, has, wants })
        };
        horizon.members().filter_map(lacking).min_by_key(|lack| lack.has)
    }

    /// Whether what reflects every daemon's writes up to `shown` has all that the session has seen, but for the writes that `me` took: what it holds of
    /// those beside is for the caller to say.
    #[must_use]
    pub fn is_shown_by(&self, shown: Hlc, me: NodeId) -> bool {
        self.floor <= shown && self.seen.iter().all(|(&node, &hlc)| node == me || hlc <= shown)
    }

    fn raise_floor(&mut self, floor: Hlc) {
        self.floor = self.floor.max(floor);
        let floor = self.floor;
        self.seen.retain(|_, hlc| *hlc > floor);
    }

    /// Names at most `nodes_max` nodes, the latest; the others' times go into the floor.
    fn folded(&self, nodes_max: usize) -> Self {
        let mut folded = self.clone();
        if let Some(&(hlc, _)) = self.newest_first().get(nodes_max) {
            folded.raise_floor(hlc);
        }
        folded
    }

    fn newest_first(&self) -> Vec<(Hlc, NodeId)> {
        let mut entries: Vec<_> = self.seen.iter().map(|(&node, &hlc)| (hlc, node)).collect();
        entries.sort_unstable_by(|a, b| b.cmp(a));
        entries
    }

    /// The token: at most [`Session::TOKEN_BYTES_MAX`] characters, whatever the number of nodes.
    #[must_use]
    pub fn encode(&self, cluster: ClusterTag) -> String {
        let mut nodes = NODES_MAX;
        loop {
            let token = self.folded(nodes).write(cluster);
            if token.len() <= Self::TOKEN_BYTES_MAX || nodes == 0 {
                return token;
            }
            nodes -= 1;
        }
    }

    fn write(&self, cluster: ClusterTag) -> String {
        let has_strong = self.strong > Hlc::ZERO;
        let mut bytes = vec![if has_strong { FORMAT_STRONG } else { FORMAT }];
        bytes.extend_from_slice(&cluster.0.to_le_bytes());
        put_number(&mut bytes, self.floor.0);
        if has_strong {
            put_number(&mut bytes, self.strong.0);
        }
        let mut before = None;
        for (hlc, node) in self.newest_first() {
            bytes.extend_from_slice(&node.0.to_le_bytes());
            put_number(&mut bytes, before.map_or(hlc.0, |before: Hlc| before.0 - hlc.0));
            before = Some(hlc);
        }
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The longest token, in characters.
    pub const TOKEN_BYTES_MAX: usize = 1024;

    /// Reads a token that a client sent.
    ///
    /// # Errors
    /// [`BadToken`]: damaged, of another cluster, or with a time more than `ahead_ms_max` milliseconds after `now`.
    pub fn decode(text: &str, cluster: ClusterTag, now: WallMicros, ahead_ms_max: u64) -> Result<Self, BadToken> {
        let (of, session) = read(text).ok_or(BadToken::Malformed)?;
        if of != cluster {
            return Err(BadToken::OtherCluster);
        }
        let ahead_ms = session.latest().max(session.strong).wall().0.saturating_sub(now.0).div_ceil(1000);
        if ahead_ms > ahead_ms_max { Err(BadToken::FromTheFuture { ahead_ms }) } else { Ok(session) }
    }
}

fn read(text: &str) -> Option<(ClusterTag, Session)> {
    if text.len() > Session::TOKEN_BYTES_MAX {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (body, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
    if checksum(body) != *sum {
        return None;
    }
    let (&format, body) = body.split_first()?;
    let (cluster, mut body) = body.split_first_chunk()?;
    let mut session = Session { floor: Hlc(take_number(&mut body)?), ..Session::default() };
    match format {
        FORMAT => {}
        FORMAT_STRONG => session.strong = Hlc(take_number(&mut body)?),
        _ => return None,
    }
    let mut before = None;
    while !body.is_empty() {
        let (node, rest) = body.split_first_chunk()?;
        body = rest;
        let number = take_number(&mut body)?;
        let hlc = before.map_or(Some(number), |before: u64| before.checked_sub(number))?;
        session.note(NodeId(u128::from_le_bytes(*node)), Hlc(hlc));
        before = Some(hlc);
    }
    Some((ClusterTag(u64::from_le_bytes(*cluster)), session))
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    (xxh3_64(bytes) as u32).to_le_bytes()
}

/// Seven bits a byte, the lowest first, the highest bit set where more follow (LEB128).
fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        number |= part.checked_shl(shift).filter(|shifted| shifted >> shift == part)?;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

/// What a write depends on, as its record carries it: what its session had seen, less what was stable when it was taken. Names at
/// most 8 nodes; the others' times are in the floor.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Causes(Session);

impl Causes {
    /// The causes of a write that is made within a session.
    #[must_use]
    pub fn of(session: &Session, stable: Hlc) -> Self {
        let mut pruned = session.clone();
        pruned.prune(stable);
        Self(pruned.folded(CAUSES_MAX))
    }

    /// What is now stable as well need not be kept.
    pub fn prune(&mut self, stable: Hlc) {
        self.0.prune(stable);
    }

    /// Both writes' causes: of a state that is joined of several.
    pub fn join(&mut self, other: &Self) {
        self.0.join(&other.0);
        self.0 = self.0.folded(CAUSES_MAX);
    }

    /// The latest that the write depends on.
    #[must_use]
    pub fn latest(&self) -> Hlc {
        self.0.latest()
    }

    /// About the bytes that they take up.
    #[must_use]
    pub fn bytes(&self) -> usize {
        const NODE_BYTES: usize = 26;
        16 + self.0.seen.len() * NODE_BYTES
    }

    /// Whether the write depends on nothing that is not stable.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a write of that version can have these causes: none is later than it, and it names no more than it may. What a peer sends must.
    #[must_use]
    pub fn may_precede(&self, version: Version) -> bool {
        self.0.latest() <= version.hlc && self.0.seen.len() <= CAUSES_MAX
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Heard;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);
    const NOW: WallMicros = WallMicros(1_790_000_000_000_000);

    fn tag() -> ClusterTag {
        ClusterTag::of(&ClusterName::new("earth").expect("a name"))
    }

    fn session(entries: impl IntoIterator<Item = (NodeId, Hlc)>) -> Session {
        let mut session = Session::default();
        entries.into_iter().for_each(|(node, hlc)| session.note(node, hlc));
        session
    }

    fn horizon(heard: &[(NodeId, u64)]) -> Horizon {
        let mut horizon = Horizon::default();
        horizon.set_members(heard.iter().map(|(node, _)| *node));
        heard.iter().for_each(|&(node, hlc)| horizon.hear(node, Heard { sent_through: Hlc(hlc), ..Heard::default() }));
        horizon
    }

    /// Full ids as a cluster has them, each seen at some time in the last minute.
    fn roamed(nodes: u64) -> Session {
        let spread = |n: u64| xxh3_64(&n.to_le_bytes());
        session((0..nodes).map(|n| (NodeId(u128::from(spread(n)) << 64 | u128::from(n)), Hlc((NOW.0 - spread(n) % 60_000_000) << 8))))
    }

    #[test]
    fn e9_a_copy_has_what_a_session_saw_up_to_the_time_that_it_shows_but_for_the_holders_own_writes() {
        let seen = session([(A, Hlc(5)), (B, Hlc(9))]);
        assert!(seen.is_shown_by(Hlc(9), C) && !seen.is_shown_by(Hlc(8), C));
        assert!(seen.is_shown_by(Hlc(5), B) && !seen.is_shown_by(Hlc(4), B));
        let floored = Session { floor: Hlc(7), ..Session::default() };
        assert!(floored.is_shown_by(Hlc(7), B) && !floored.is_shown_by(Hlc(6), B));
    }

    #[test]
    fn e9_a_token_is_short_and_bounded_whatever_the_number_of_nodes() {
        let measured = [0, 1, 3, 10, 35, 36, 40, 5000].map(|nodes| roamed(nodes).encode(tag()).len());
        assert_eq!(measured, [19, 52, 108, 303, 984, 995, 992, 946]);
        let apart = session((1..60).map(|n| (NodeId(u128::MAX - n), Hlc(u64::MAX / 60 * n as u64))));
        assert!((980..=Session::TOKEN_BYTES_MAX).contains(&apart.encode(tag()).len()), "years apart");
    }

    #[test]
    fn e9_the_oldest_are_folded_into_the_floor_and_never_forgotten() {
        let whole = roamed(40);
        let read = Session::decode(&whole.encode(tag()), tag(), NOW, 500).expect("its own token");
        assert_eq!(read.seen.len(), NODES_MAX);
        assert!(whole.seen.iter().all(|(node, hlc)| *hlc <= read.floor || read.seen.get(node) == Some(hlc)));
        assert_eq!(read.latest(), whole.latest());
    }

    #[test]
    fn a_damaged_token_is_refused_wherever_the_damage_is() {
        let token = roamed(3).encode(tag());
        for place in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
            let damaged = String::from_utf8(bytes).expect("letters");
            assert_eq!(Session::decode(&damaged, tag(), NOW, 500), Err(BadToken::Malformed), "{place}");
        }
        for text in ["", "nonsense", "=", &token[1..], &"A".repeat(1025)] {
            assert_eq!(Session::decode(text, tag(), NOW, 500), Err(BadToken::Malformed));
        }
    }

    #[test]
    fn a_token_of_another_cluster_is_refused() {
        let moon = ClusterTag::of(&ClusterName::new("moon").expect("a name"));
        assert_eq!(Session::decode(&roamed(1).encode(moon), tag(), NOW, 500), Err(BadToken::OtherCluster));
    }

    #[test]
    fn e4_a_client_supplies_no_time() {
        let at = |ms: u64| session([(A, Hlc::at(NOW.plus_millis(ms)))]).encode(tag());
        assert!(Session::decode(&at(500), tag(), NOW, 500).is_ok());
        assert_eq!(Session::decode(&at(501), tag(), NOW, 500), Err(BadToken::FromTheFuture { ahead_ms: 501 }));
        let forged = Session { floor: Hlc(u64::MAX), ..Session::default() }.encode(tag());
        assert!(matches!(Session::decode(&forged, tag(), NOW, 500), Err(BadToken::FromTheFuture { .. })));
    }

    #[test]
    fn e9_a_replica_lacks_what_it_has_not_heard() {
        let seen = session([(A, Hlc(10)), (B, Hlc(20))]);
        assert_eq!(seen.lacks(&horizon(&[(A, 10), (B, 20), (C, 0)]), C), None);
        let lack = Lack { node: B, has: Hlc(19), wants: Hlc(20) };
        assert_eq!(seen.lacks(&horizon(&[(A, 20), (B, 19), (C, 0)]), C), Some(lack));
        assert_eq!(seen.lacks(&horizon(&[(A, 10), (B, 0), (C, 0)]), B), None, "a daemon has its own writes");
    }

    #[test]
    fn e9_what_a_removed_node_took_is_asked_of_every_member() {
        let seen = session([(A, Hlc(10))]);
        assert_eq!(seen.lacks(&horizon(&[(B, 9), (C, 0)]), C), Some(Lack { node: B, has: Hlc(9), wants: Hlc(10) }));
        assert_eq!(seen.lacks(&horizon(&[(B, 10), (C, 0)]), C), None);
    }

    #[test]
    fn a_lack_says_whose_writes_are_missing() {
        let lack = Lack { node: B, has: Hlc::at(NOW), wants: Hlc::at(NOW.plus_millis(1200)) };
        assert!(lack.to_string().contains("the last 1200 ms of the writes of node 00000000000000000000000000000002"));
    }

    #[test]
    fn the_causes_of_a_write_are_bounded_and_no_later_than_it() {
        let causes = Causes::of(&roamed(40), Hlc::ZERO);
        assert_eq!(causes.0.seen.len(), CAUSES_MAX);
        let latest = roamed(40).latest();
        assert!(causes.may_precede(Version { hlc: latest.next(), ..Version::default() }));
        assert!(!causes.may_precede(Version { hlc: latest.previous(), ..Version::default() }));
        assert!(Causes::of(&roamed(40), latest).is_empty(), "all of it is stable");
    }

    fn sessions() -> impl Strategy<Value = Session> {
        let entries = prop::collection::vec((0u128..60, 0u64..1000), 0..60);
        (0u64..500, entries).prop_map(|(floor, entries)| {
            let mut made = session(entries.into_iter().map(|(node, hlc)| (NodeId(node), Hlc(hlc))));
            made.raise_floor(Hlc(floor));
            made
        })
    }

    #[test]
    fn q17_a_token_carries_when_strong_keys_were_seen_and_the_eventual_path_does_not_wait_for_that() {
        let (mut session, tag) = (Session::default(), ClusterTag(7));
        let before = session.encode(tag);
        session.note_strong(Hlc::at(WallMicros(5_000_000)));
        session.note_strong(Hlc::at(WallMicros(4_000_000)));
        let read = Session::decode(&session.encode(tag), tag, WallMicros(5_000_000), 500).expect("a token");
        assert_eq!((&read, read.strong(), read.is_empty()), (&session, Hlc::at(WallMicros(5_000_000)), true));
        assert!(session.encode(tag).len() > before.len(), "who has seen none has a token of the first format");
        assert_eq!(Session::decode(&session.encode(tag), tag, WallMicros(1_000_000), 500), Err(BadToken::FromTheFuture { ahead_ms: 4000 }));
    }

    proptest! {
        #[test]
        fn a_token_reads_back_and_asks_for_no_less_than_the_session(session in sessions(), heard in prop::collection::vec(0u64..1000, 60)) {
            let read = Session::decode(&session.encode(tag()), tag(), NOW, 500).expect("its own token");
            prop_assert_eq!(&read, &session.folded(NODES_MAX));
            let heard: Vec<_> = (0..).map(NodeId).zip(heard).collect();
            let horizon = horizon(&heard);
            prop_assert!(session.lacks(&horizon, A).is_none() || read.lacks(&horizon, A).is_some());
        }

        #[test]
        fn sessions_join_in_any_order_and_any_number_of_times(a in sessions(), b in sessions(), c in sessions()) {
            let join = |x: &Session, y: &Session| { let mut x = x.clone(); x.join(y); x };
            prop_assert_eq!(join(&a, &b), join(&b, &a));
            prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)));
            prop_assert_eq!(join(&a, &a), a);
        }

        #[test]
        fn no_text_makes_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let sealed = URL_SAFE_NO_PAD.encode([&bytes[..], &checksum(&bytes)].concat());
            let _ = Session::decode(&sealed, tag(), NOW, 500);
            let _ = Session::decode(&String::from_utf8_lossy(&bytes), tag(), NOW, 500);
        }
    }
}
