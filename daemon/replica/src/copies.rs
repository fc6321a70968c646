//! Read copies at a daemon that is no replica: whether one may be kept, and how old it may be (E10).
//!
//! ```text
//!   replica                                                daemon that holds copies
//!   a write becomes visible ─> Source::invalidate ─┐
//!   Horizon::heard_from_all ─> Source::heartbeat ──┴─ one stream, in order ─> Streams::invalidated, ::heartbeat
//!   Source::ticket ─> the state is read ─> answer ─── by any other way ─────> Streams::may_keep ─> the copy, with its ticket
//!                                                                             copy_age_ms       ─> Isochrone-Age-Ms
//! ```
//!
//! The replica says of each write, in the order of its [`Position`]s, which key it touched, and now and then up to which time it shows
//! everything that any daemon took. A copy that no invalidation has touched is what the replica showed at the last heartbeat, and so
//! reflects every write up to that heartbeat's time. (A lease would do as well; this is the callback of AFS, Howard et al. 1988, "Scale and
//! Performance in a Distributed File System", section 3.2, with a heartbeat that makes the loss of a callback known.) When the stream
//! breaks, nothing more is proven and the bound grows with time.
//!
//! What the two ends must keep to, each rule held by the model in the tests:
//! - **At the replica** a write is visible first, then it is announced, then the time is raised up to which all is shown; a heartbeat takes that time
//!   first and its position afterwards. So whatever a heartbeat covers was announced before it.
//! - **At the replica** a ticket is taken before the state is read. So what the state may lack is announced after the ticket.
//! - **At the holder** the check of a ticket and the keeping of the copy are one step, as seen by the invalidations of that key; and an
//!   invalidation drops the copies that it [outdates](CopyTicket::is_outdated_by).
//! - An answer may come late, after the invalidation that it needed: the holder remembers the last positions of each stream, and keeps no copy from
//!   before them.
//! - A stream that broke goes on as a new [`Opening`], which says nothing of copies of before. A replica that comes to serve more slots
//!   begins its streams anew, since the time up to which it shows everything falls back.

use std::collections::{BTreeMap, VecDeque};

use isochrone_ident::{Hlc, NodeId, WallMicros};
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod model;

/// The place of an invalidation in a replica's stream to one daemon: 1 is the first, each is the one before plus 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Position(pub u64);

impl Position {
    /// The place after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// One life of a stream between two daemons: drawn by the daemon that holds copies, never twice in a run, and rising.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Opening(pub u64);

/// What stands for a key in an invalidation. Two keys with one hash cost a copy that need not have gone, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyHash(pub u64);

/// What a replica says beside a state that it reads for a daemon with a stream: all that a copy of it needs to carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyTicket {
    /// The stream's life.
    pub opening: Opening,
    /// What was announced up to here is in the state.
    pub position: Position,
    /// The state reflects every write that any daemon took up to here.
    pub shown: Hlc,
}

impl CopyTicket {
    /// Whether an invalidation of its key with that place outdates the copy. One of another opening always does.
    #[must_use]
    pub fn is_outdated_by(&self, opening: Opening, position: Position) -> bool {
        self.opening != opening || position > self.position
    }

    /// Up to when a kept copy reflects every write that any daemon took: as the last heartbeat of its opening says, if that came after the state
    /// was read; else as it was when it was read.
    #[must_use]
    pub fn shown_by(&self, heartbeat: CopyHeartbeat) -> Hlc {
        if heartbeat.position >= self.position { heartbeat.shown.max(self.shown) } else { self.shown }
    }
}

/// A replica's word that it shows every write that any daemon took up to `shown`, all of them announced up to `position`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CopyHeartbeat {
    /// The last invalidation before it.
    pub position: Position,
    /// Up to when everything is shown; [`Hlc::ZERO`] where the replica cannot say.
    pub shown: Hlc,
}

/// The replica's end of a stream.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    opening: Opening,
    position: Position,
}

impl Source {
    /// A stream that nothing was sent on yet.
    #[must_use]
    pub const fn new(opening: Opening) -> Self {
        Self { opening, position: Position(0) }
    }

    /// A write has become visible here: the place of its invalidation.
    pub fn invalidate(&mut self) -> Position {
        self.position = self.position.next();
        self.position
    }

    /// A heartbeat; `shown` was taken before this is called ([`Horizon::heard_from_all`](crate::Horizon::heard_from_all)).
    #[must_use]
    pub const fn heartbeat(&self, shown: Hlc) -> CopyHeartbeat {
        CopyHeartbeat { position: self.position, shown }
    }

    /// The ticket of a state that is read from now on.
    #[must_use]
    pub const fn ticket(&self, shown: Hlc) -> CopyTicket {
        CopyTicket { opening: self.opening, position: self.position, shown }
    }
}

/// A stream that cannot be relied on: something is missing before what arrived, or it is no stream of now. It has to be opened anew; copies
/// that were kept under it age from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an invalidation stream with a hole: position {found:?} came after {processed:?}")]
pub struct StreamGap {
    /// What had arrived.
    pub processed: Position,
    /// What came then.
    pub found: Position,
}

#[derive(Debug, Clone)]
struct Stream {
    opening: Opening,
    is_live: bool,
    processed: Position,
    heartbeat: CopyHeartbeat,
    /// The last invalidations, and of each key in them the latest.
    recent: VecDeque<(KeyHash, Position)>,
    latest: BTreeMap<KeyHash, Position>,
    /// What came up to here is not remembered.
    forgotten: Position,
    /// What the lives before this one had shown in the end.
    shown_before: Hlc,
}

impl Stream {
    fn new(opening: Opening, shown_before: Hlc) -> Self {
        Self {
            opening,
            is_live: true,
            processed: Position(0),
            heartbeat: CopyHeartbeat::default(),
            recent: VecDeque::new(),
            latest: BTreeMap::new(),
            forgotten: Position(0),
            shown_before,
        }
    }

    /// What the copies reflect: until this life has said something, those of the lives before it.
    fn shown(&self) -> Hlc {
        if self.heartbeat.shown > Hlc::ZERO { self.heartbeat.shown } else { self.shown_before }
    }

    fn is(&self, opening: Opening) -> bool {
        self.is_live && self.opening == opening
    }

    fn remember(&mut self, key: KeyHash, position: Position, remembered_max: usize) {
        self.recent.push_back((key, position));
        self.latest.insert(key, position);
        while self.recent.len() > remembered_max {
            let Some((oldest, at)) = self.recent.pop_front() else { return };
            self.forgotten = at;
            if self.latest.get(&oldest) == Some(&at) {
                self.latest.remove(&oldest);
            }
        }
    }
}

/// The holder's end of the invalidation streams, one from each replica. Takes some 64 bytes for each invalidation that is remembered.
#[derive(Debug, Clone)]
pub struct Streams {
    replicas: BTreeMap<NodeId, Stream>,
    remembered_max: usize,
}

impl Streams {
    /// No streams yet; of each, the last `remembered_max` invalidations are remembered. As many as arrive while an answer is on its way will do:
    /// with fewer, copies are not kept that might have been.
    #[must_use]
    pub const fn new(remembered_max: usize) -> Self {
        Self { replicas: BTreeMap::new(), remembered_max }
    }

    /// A stream from a replica begins. Copies of its earlier life may be served still, and grow older. One that is no later than the
    /// life that is known changes nothing.
    pub fn open(&mut self, replica: NodeId, opening: Opening) {
        let earlier = self.replicas.get(&replica);
        if earlier.is_none_or(|earlier| earlier.opening < opening) {
            let shown_before = earlier.map_or(Hlc::ZERO, Stream::shown);
            self.replicas.insert(replica, Stream::new(opening, shown_before));
        }
    }

    /// The stream has broken. Nothing that comes of it later counts.
    pub fn broken(&mut self, replica: NodeId, opening: Opening) {
        if let Some(stream) = self.replicas.get_mut(&replica).filter(|stream| stream.opening == opening) {
            stream.is_live = false;
        }
    }

    /// The replica is no member any more, or nothing is wanted of it. Its copies keep the bound that they have.
    pub fn forget(&mut self, replica: NodeId) {
        self.replicas.remove(&replica);
    }

    /// The lives of all streams that are live.
    pub fn live(&self) -> impl Iterator<Item = (NodeId, Opening)> {
        self.replicas.iter().filter(|(_, stream)| stream.is_live).map(|(&replica, stream)| (replica, stream.opening))
    }

    /// An invalidation has arrived; the copies of the key that it outdates are to be dropped.
    ///
    /// # Errors
    /// [`StreamGap`] when it is not the next one of a live stream, which then counts as broken.
    pub fn invalidated(&mut self, replica: NodeId, opening: Opening, key: KeyHash, position: Position) -> Result<(), StreamGap> {
        let remembered_max = self.remembered_max;
        let stream = self.take(replica, opening, position, Position::next)?;
        stream.processed = position;
        stream.remember(key, position, remembered_max);
        Ok(())
    }

    /// A heartbeat has arrived: what the copies of this opening rest on from now on, and after the stream has broken too.
    ///
    /// # Errors
    /// [`StreamGap`] when an invalidation before it is missing, or the stream is not live; it then counts as broken.
    pub fn heartbeat(&mut self, replica: NodeId, opening: Opening, heartbeat: CopyHeartbeat) -> Result<CopyHeartbeat, StreamGap> {
        let stream = self.take(replica, opening, heartbeat.position, |processed| processed)?;
        stream.heartbeat = CopyHeartbeat { shown: heartbeat.shown.max(stream.heartbeat.shown), ..heartbeat };
        Ok(stream.heartbeat)
    }

    /// What the copies of every replica reflect, by the last heartbeats; `None` where none has said anything yet. A daemon that promises no more than
    /// this to be stable (E7) lets no session's token be pruned of what its copies lack (E9).
    #[must_use]
    pub fn shown_by_all(&self) -> Option<Hlc> {
        self.replicas.values().map(Stream::shown).filter(|&shown| shown > Hlc::ZERO).min()
    }

    fn take(
        &mut self,
        replica: NodeId,
        opening: Opening,
        found: Position,
        due: fn(Position) -> Position,
    ) -> Result<&mut Stream, StreamGap> {
        let nothing = StreamGap { processed: Position(0), found };
        let stream = self.replicas.get_mut(&replica).filter(|stream| stream.is(opening)).ok_or(nothing)?;
        if found == due(stream.processed) {
            return Ok(stream);
        }
        stream.is_live = false;
        Err(StreamGap { processed: stream.processed, found })
    }

    /// Whether a state of that key that came with that ticket may be kept: its stream is live, and no invalidation that arrived ahead of the
    /// answer outdates it, as far back as the ticket is.
    #[must_use]
    pub fn may_keep(&self, replica: NodeId, ticket: &CopyTicket, key: KeyHash) -> bool {
        self.replicas.get(&replica).filter(|stream| stream.is(ticket.opening)).is_some_and(|stream| {
            ticket.position >= stream.forgotten && stream.latest.get(&key).is_none_or(|&position| position <= ticket.position)
        })
    }
}

/// How old a copy may be that reflects everything up to `shown`, in milliseconds, rounded up. `None` while some daemon had never been heard by the replica.
#[must_use]
pub fn copy_age_ms(shown: Hlc, now: WallMicros) -> Option<u64> {
    (shown > Hlc::ZERO).then(|| now.0.saturating_sub(shown.wall().0).div_ceil(1000))
}

/// Whether a copy of that age may be served in a namespace that allows `max_staleness_ms`; without such a limit, however old it is.
#[must_use]
pub fn may_serve(age_ms: Option<u64>, max_staleness_ms: Option<u64>) -> bool {
    max_staleness_ms.is_none_or(|max| age_ms.is_some_and(|age| age <= max))
}

#[cfg(test)]
mod tests {
    use super::*;

    const R: NodeId = NodeId(1);
    const LIFE: Opening = Opening(7);
    const KEY: KeyHash = KeyHash(1);
    const OTHER: KeyHash = KeyHash(2);

    fn at(ms: u64) -> Hlc {
        Hlc::at(WallMicros(ms * 1000))
    }

    fn ticket(position: u64, ms: u64) -> CopyTicket {
        CopyTicket { opening: LIFE, position: Position(position), shown: at(ms) }
    }

    fn streams() -> Streams {
        let mut streams = Streams::new(2);
        streams.open(R, LIFE);
        streams
    }

    fn beat(position: u64, ms: u64) -> CopyHeartbeat {
        CopyHeartbeat { position: Position(position), shown: at(ms) }
    }

    #[test]
    fn e10_an_answer_that_was_overtaken_by_an_invalidation_is_not_kept() {
        let mut streams = streams();
        streams.invalidated(R, LIFE, KEY, Position(1)).expect("the first");
        assert!(!streams.may_keep(R, &ticket(0, 5), KEY));
        assert!(streams.may_keep(R, &ticket(0, 5), OTHER));
        assert!(streams.may_keep(R, &ticket(1, 5), KEY), "the state has that write");
        assert!(streams.may_keep(R, &ticket(9, 5), KEY), "an answer may be ahead of the stream");
        assert!(!ticket(9, 5).is_outdated_by(LIFE, Position(9)) && ticket(9, 5).is_outdated_by(LIFE, Position(10)));
    }

    #[test]
    fn e10_an_answer_from_before_all_that_is_remembered_is_not_kept() {
        let mut streams = streams();
        for (position, key) in [(1, KEY), (2, OTHER), (3, OTHER)] {
            streams.invalidated(R, LIFE, key, Position(position)).expect("in order");
        }
        assert!(!streams.may_keep(R, &ticket(0, 5), KEY), "what touched KEY is forgotten");
        assert!(streams.may_keep(R, &ticket(1, 5), KEY));
    }

    #[test]
    fn e10_the_age_is_that_of_the_last_heartbeat_and_grows_when_the_stream_breaks() {
        let mut streams = streams();
        let copy = ticket(0, 1_000);
        assert_eq!(copy_age_ms(copy.shown_by(CopyHeartbeat::default()), WallMicros(1_500_000)), Some(500));
        let heard = streams.heartbeat(R, LIFE, beat(0, 2_000)).expect("in order");
        assert_eq!(copy_age_ms(copy.shown_by(heard), WallMicros(2_010_000)), Some(10));
        streams.broken(R, LIFE);
        assert!(streams.heartbeat(R, LIFE, beat(0, 3_000)).is_err());
        assert_eq!(copy_age_ms(copy.shown_by(heard), WallMicros(3_000_000)), Some(1_000));
        assert!(may_serve(Some(1_000), Some(1_000)) && !may_serve(Some(1_001), Some(1_000)));
        assert!(may_serve(None, None) && !may_serve(None, Some(u64::MAX)));
        assert_eq!(copy_age_ms(Hlc::ZERO, WallMicros(5)), None);
    }

    #[test]
    fn e10_a_stream_that_is_opened_anew_says_nothing_of_older_copies() {
        let mut streams = streams();
        streams.heartbeat(R, LIFE, beat(0, 2_000)).expect("in order");
        streams.open(R, Opening(8));
        assert!(!streams.may_keep(R, &ticket(0, 1_000), KEY));
        assert!(ticket(5, 1_000).is_outdated_by(Opening(8), Position(1)));
        streams.open(R, LIFE);
        assert_eq!(streams.live().collect::<Vec<_>>(), [(R, Opening(8))], "an opening of before");
    }

    #[test]
    fn e10_a_heartbeat_from_before_the_state_was_read_makes_no_copy_younger_than_the_state() {
        assert_eq!(ticket(1, 1_000).shown_by(beat(0, 2_000)), at(1_000));
        assert_eq!(ticket(1, 1_000).shown_by(beat(1, 2_000)), at(2_000));
        assert_eq!(ticket(1, 3_000).shown_by(beat(1, 2_000)), at(3_000));
    }

    #[test]
    fn e10_what_all_copies_reflect_is_the_least_of_the_streams_that_said_anything() {
        let mut streams = streams();
        assert_eq!(streams.shown_by_all(), None);
        streams.heartbeat(R, LIFE, beat(0, 2_000)).expect("in order");
        streams.open(NodeId(2), LIFE);
        assert_eq!(streams.shown_by_all(), Some(at(2_000)), "copies of the other rest on nothing yet");
        streams.heartbeat(NodeId(2), LIFE, beat(0, 1_000)).expect("in order");
        streams.broken(NodeId(2), LIFE);
        assert_eq!(streams.shown_by_all(), Some(at(1_000)), "copies of a broken stream may be served still");
        streams.open(NodeId(2), Opening(8));
        streams.open(NodeId(2), Opening(9));
        assert_eq!(streams.shown_by_all(), Some(at(1_000)), "nobody may have answered yet");
        streams.heartbeat(NodeId(2), Opening(9), beat(0, 1_500)).expect("in order");
        assert_eq!(streams.shown_by_all(), Some(at(1_500)));
        streams.forget(NodeId(2));
        assert_eq!(streams.shown_by_all(), Some(at(2_000)));
    }

    #[test]
    fn e10_a_hole_breaks_the_stream() {
        for arrive in [
            |streams: &mut Streams| streams.invalidated(R, LIFE, KEY, Position(2)),
            |streams: &mut Streams| streams.heartbeat(R, LIFE, beat(1, 5)).map(drop),
            |streams: &mut Streams| streams.invalidated(R, LIFE, KEY, Position(0)),
        ] {
            let mut streams = streams();
            assert!(arrive(&mut streams).is_err());
            assert_eq!(streams.live().count(), 0);
            assert!(!streams.may_keep(R, &ticket(9, 5), KEY));
        }
        assert!(streams().heartbeat(NodeId(9), LIFE, beat(0, 5)).is_err(), "a stranger");
    }
}
