//! The peers: membership, round trips and link health as one state machine, and the table that comes out.
//!
//! ```text
//!   connections: connected, disconnected, path samples, calls ended  ->  +-------+
//!   the council: learn, forget                                       ->  | Peers | -> datagrams (poll_send)
//!   the wire:    datagrams                                           ->  |       | -> PeerTable, RegionMatrix (refresh)
//!   the clock:   timeout                                             ->  +-------+ -> notices (poll_notice)
//! ```
//!
//! Pure: `now` is the time since the process's mesh started and never goes back, `wall` is the wall clock at that moment.

pub(crate) mod notice;
mod table;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isochrone_ident::{NodeId, Region, WallMicros};

use self::notice::Notice;
pub use self::table::{Liveness, Peer, PeerTable};
use crate::PeerIdentity;
use crate::health::{CallOutcome, Links, PathSample};
use crate::membership::directory::Fact;
use crate::membership::identity::{Address, Identity, InvalidAddress};
use crate::membership::wire::{Datagram, Malformed, Message, Row, message_datagram, pages};
use crate::membership::{Membership, MembershipOptions};
use crate::round_trips::{RegionMatrix, RoundTrips, differs};
use crate::wire::Profile;

/// How often a row of the matrix is published, and how soon after the last one that it differs from.
const ROW_EVERY: Duration = Duration::from_secs(5);
const ROW_EVERY_MIN: Duration = Duration::from_secs(1);

/// How often the numbers in the table are renewed when nothing else changes.
const NUMBERS_EVERY: Duration = Duration::from_millis(250);

/// Notices kept for a caller that does not fetch them.
const NOTICES_MAX: usize = 4096;

/// What the peers' machine needs to know at its start.
#[derive(Debug, Clone)]
pub(crate) struct PeersOptions {
    /// This daemon.
    pub(crate) me: Profile,
    /// Of all randomness.
    pub(crate) seed: u64,
    /// No datagram is longer; what the smallest path lets through, at least 1,000.
    pub(crate) datagram_bytes_max: usize,
    /// How many gateways a region has.
    pub(crate) gateways: usize,
    /// Members beyond this many are not taken in.
    pub(crate) members_max: usize,
}

impl PeersOptions {
    pub(crate) fn new(me: Profile, seed: u64) -> Self {
        Self { me, seed, datagram_bytes_max: 1100, gateways: 2, members_max: 10_000 }
    }
}

/// The state machine.
pub(crate) struct Peers {
    options: PeersOptions,
    membership: Membership,
    links: Links,
    round_trips: RoundTrips,
    row_at: Duration,
    row_due: Duration,
    last_row: Vec<(Region, u32)>,
    numbers_due: Duration,
    dirty: bool,
    rejoined: u64,
    notices: VecDeque<Notice>,
    sends: VecDeque<(NodeId, Bytes)>,
    table: Arc<PeerTable>,
    matrix: Arc<RegionMatrix>,
}

impl Peers {
    /// A daemon that knows nobody yet.
    ///
    /// # Errors
    /// When its own address can't be told to others.
    pub(crate) fn new(options: PeersOptions, now: Duration) -> Result<Self, InvalidAddress> {
        let me = Identity::of(&options.me)?;
        let PeersOptions { seed, datagram_bytes_max, gateways, members_max, .. } = options;
        let node = me.node;
        Ok(Self {
            membership: Membership::new(MembershipOptions { me, seed, datagram_bytes_max, gateways, members_max }, now),
            links: Links::default(),
            round_trips: RoundTrips::new(members_max),
            row_at: now,
            row_due: now,
            last_row: Vec::new(),
            numbers_due: now,
            dirty: true,
            rejoined: 0,
            notices: VecDeque::new(),
            sends: VecDeque::new(),
            table: Arc::new(PeerTable::empty(node)),
            matrix: Arc::default(),
            options,
        })
    }

    /// The current snapshot; [`Peers::refresh`] replaces it.
    pub(crate) fn table(&self) -> &Arc<PeerTable> {
        &self.table
    }

    /// The current matrix; [`Peers::refresh`] replaces it.
    pub(crate) fn round_trips(&self) -> &Arc<RegionMatrix> {
        &self.matrix
    }

    /// The next datagram to send; drain it after every call.
    pub(crate) fn poll_send(&mut self) -> Option<(NodeId, Bytes)> {
        self.sends.pop_front().or_else(|| self.membership.poll_send())
    }

    /// The next notice.
    pub(crate) fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// When to call [`Peers::timeout`] next.
    pub(crate) fn next_timeout(&self) -> Duration {
        self.links.next_timeout().into_iter().fold(self.membership.next_timeout(), Duration::min)
    }

    // ---- News from the connections and the council.

    /// The council says where a member is. It appears in the table as suspect until it is heard of.
    ///
    /// # Errors
    /// When the address is none; nothing was changed.
    pub(crate) fn learn(&mut self, node: NodeId, region: Region, address: &str) -> Result<(), InvalidAddress> {
        self.membership.learn(node, region, Address::new(address)?);
        Ok(())
    }

    /// A connection to that peer was made, by either side, and its greeting accepted.
    ///
    /// # Errors
    /// When the address that it gives is none; nothing was changed.
    pub(crate) fn connected(&mut self, now: Duration, peer: &Profile) -> Result<(), InvalidAddress> {
        let identity = Identity::of(peer)?;
        self.links.connected(now, identity.node);
        self.membership.connected(now, identity);
        Ok(())
    }

    /// The last connection to that node is gone.
    pub(crate) fn disconnected(&mut self, now: Duration, node: NodeId) {
        self.links.disconnected(now, node);
        self.membership.disconnected(node);
    }

    /// The council removed that node.
    pub(crate) fn forget(&mut self, now: Duration, node: NodeId) {
        self.links.forget(node);
        self.round_trips.forget(node);
        self.membership.forget(now, node);
    }

    /// That node closed its connection saying that it leaves.
    pub(crate) fn left(&mut self, now: Duration, node: NodeId) {
        self.membership.left(now, node);
    }

    /// What the connection to that node measured.
    pub(crate) fn path(&mut self, now: Duration, node: NodeId, sample: PathSample) {
        self.round_trips.observe(now, node, sample.rtt);
        self.links.path(now, node, sample, self.round_trips.min(node));
    }

    /// A call to that node ended.
    pub(crate) fn call_ended(&mut self, now: Duration, node: NodeId, outcome: CallOutcome) {
        self.links.call_ended(now, node, outcome, self.round_trips.min(node));
    }

    /// Tells everybody that this daemon goes; drain the datagrams, then close.
    pub(crate) fn leave(&mut self, now: Duration) {
        self.membership.leave(now);
    }

    // ---- The wire and the clock.

    /// A peer's datagram.
    ///
    /// # Errors
    /// [`Malformed`]: the peer's fault, and nothing of it was used.
    pub(crate) fn datagram(&mut self, now: Duration, wall: WallMicros, from: NodeId, bytes: &[u8]) -> Result<(), Malformed> {
        match Datagram::decode(bytes)? {
            Datagram::Pool(scope, data) => self.membership.pool_datagram(now, from, scope, data),
            Datagram::Message(message) => self.message(now, wall, from, message, bytes),
        }
    }

    fn message(&mut self, now: Duration, wall: WallMicros, from: NodeId, message: Message, bytes: &[u8]) -> Result<(), Malformed> {
        match message {
            Message::Summary(facts) => self.membership.summary(now, from, facts, bytes),
            Message::Reach(report) => self.membership.reach_report(now, from, report)?,
            Message::Row(row) => self.row(now, from, row, bytes),
            Message::Beat(beat) => self.links.beat(now, wall, from, &beat, self.round_trips.min(from)),
            Message::Ask => self.membership.answer(now, from),
            Message::Suspected { scope, identity, swim } => self.membership.suspected(now, scope, &identity, swim),
            Message::Leave(fact) => self.membership.farewell(now, from, fact)?,
        }
        Ok(())
    }

    fn row(&mut self, now: Duration, from: NodeId, row: Row, bytes: &[u8]) {
        if self.round_trips.take(now, row) {
            self.membership.relay(from, bytes);
        }
    }

    /// Fires what is due.
    pub(crate) fn timeout(&mut self, now: Duration, wall: WallMicros) {
        if let Some(lag) = self.membership.timeout(now) {
            self.links.stood_still(now, lag);
            self.notice(Notice::StoodStill(lag));
        }
        let round_trips = &self.round_trips;
        for (node, beat) in self.links.beats(now, wall, |node| round_trips.min(node)) {
            self.sends.push_back((node, message_datagram(&Message::Beat(beat))));
        }
        if self.row_at <= now {
            self.row_at = now + ROW_EVERY_MIN;
            self.round_trips.expire(now);
            self.tune();
            self.publish_row(now);
        }
    }

    fn tune(&mut self) {
        let round_trips = &self.round_trips;
        self.membership.tune(|node| round_trips.recent_max(node));
    }

    /// A gateway publishes its region's row: when it differs, or when it is time.
    fn publish_row(&mut self, now: Duration) {
        if !self.membership.is_gateway() {
            return;
        }
        let table = &self.table;
        let cells = self.round_trips.own_cells(|node| table.get(node).map(|peer| peer.identity.region.clone()));
        if cells.is_empty() || (now < self.row_due && !differs(&self.last_row, &cells)) {
            return;
        }
        self.row_due = now + ROW_EVERY;
        self.last_row.clone_from(&cells);
        let by = self.membership.byline();
        let audience = self.membership.audience();
        for (part, cells) in (0..=u8::MAX).zip(pages(cells, self.options.datagram_bytes_max)) {
            let row = Row { by, region: self.options.me.identity.region.clone(), part, cells };
            let datagram = message_datagram(&Message::Row(row.clone()));
            self.sends.extend(audience.iter().map(|node| (*node, datagram.clone())));
            self.round_trips.take(now, row);
        }
    }

    // ---- The table.

    /// Makes new snapshots if there is reason to; tells whether anything changed that is worth waking somebody for.
    pub(crate) fn refresh(&mut self, now: Duration) -> bool {
        self.dirty |= self.membership.take_changed() | self.links.take_changed();
        let matrix = self.round_trips.take_matrix().map(Arc::new);
        let matrix_changed = matrix.is_some();
        if let Some(matrix) = matrix {
            self.matrix = matrix;
        }
        if !self.dirty && now < self.numbers_due {
            return matrix_changed;
        }
        self.dirty = false;
        self.numbers_due = now + NUMBERS_EVERY;
        let table = self.build();
        let changed = table.differs(&self.table);
        if changed {
            self.tell_differences(&table);
        }
        self.table = Arc::new(table);
        changed || matrix_changed
    }

    fn build(&self) -> PeerTable {
        let view = self.membership.view();
        let gateways = self.membership.all_gateways(&view);
        let peer = |(node, fact): (NodeId, Fact)| (node, self.peer(fact, gateways.contains(&node)));
        PeerTable {
            me: self.options.me.identity.node,
            peers: view.into_iter().map(peer).collect(),
            clock: self.links.clock(),
            doubt: self.membership.doubt(),
            gateway: self.membership.is_gateway(),
        }
    }

    fn peer(&self, fact: Fact, gateway: bool) -> Peer {
        let Identity { node, region, zone, store, incarnation, address, .. } = fact.identity;
        let round_trip = self.round_trips.min(node);
        Peer {
            identity: PeerIdentity { cluster: self.options.me.identity.cluster.clone(), region, node },
            address: address.into(),
            zone,
            store,
            incarnation,
            liveness: fact.liveness,
            gateway,
            round_trip,
            link: self.links.health(node),
            clock_offset_ms: self.links.clock_offset_ms(node),
            hedge_after: self.links.hedge_after(node, round_trip),
        }
    }

    fn tell_differences(&mut self, after: &PeerTable) {
        let before = Arc::clone(&self.table);
        for (node, peer) in &after.peers {
            match before.peers.get(node) {
                None => self.notice(Notice::Joined(*node, peer.liveness)),
                Some(known) => self.tell_difference(*node, known, peer),
            }
        }
        if before.gateway != after.gateway {
            self.notice(Notice::Gateway(after.gateway));
        }
        if self.membership.rejoined() > self.rejoined {
            self.rejoined = self.membership.rejoined();
            self.notice(Notice::Rejoined);
        }
    }

    fn tell_difference(&mut self, node: NodeId, before: &Peer, after: &Peer) {
        if after.incarnation > before.incarnation {
            self.notice(Notice::Restarted(node));
        }
        if after.liveness != before.liveness {
            self.notice(Notice::Liveness(node, after.liveness));
        }
        if after.link.state != before.link.state {
            self.notice(Notice::Link(node, after.link.state));
        }
    }

    fn notice(&mut self, notice: Notice) {
        if self.notices.len() < NOTICES_MAX {
            self.notices.push_back(notice);
        }
    }
}
