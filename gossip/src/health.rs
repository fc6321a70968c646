//! Health of each link (rule M6): what steers routing within a second or two, long before SWIM decides.
//!
//! Every connected pair exchanges heartbeats, four a second. A heartbeat says how long ago its sender last heard the receiver,
//! and how many of the receiver's last sixteen arrived, so that each side knows both directions:
//!
//! ```text
//!   we hear them   they hear us
//!       yes            yes        Healthy, or Lossy, or Failing when calls time out all the same
//!       yes            no         Unheard: a one-way partition towards them
//!       no             ?          Silent: a one-way partition towards us, or a dead peer
//! ```
//!
//! Counted failures age out, so that a link that was avoided is tried again by a request now and then.

pub(crate) mod clock;
pub(crate) mod latency;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use isochrone_ident::{NodeId, WallMicros};
use serde::{Deserialize, Serialize};

use self::clock::Offsets;
pub use self::clock::{CLOCK_ALARM_MS, ClockVerdict};
use self::latency::Latencies;

/// Between two heartbeats on a link, in a mesh of up to [`PEERS_AT_FULL_RATE`] peers; in a larger one it grows with the number.
const BEAT_EVERY: Duration = Duration::from_millis(250);
const BEAT_EVERY_MAX: Duration = Duration::from_millis(500);
const PEERS_AT_FULL_RATE: u32 = 256;

/// Heartbeats that may be missing before a direction counts as cut, and what is added for jitter.
const BEATS_MISSED_MAX: u32 = 3;
const JITTER: Duration = Duration::from_millis(100);

/// From this loss on, in thousandths, a link is avoided.
const LOSSY_PERMILLE: u16 = 250;

/// From this many failed calls in a row on, a link is avoided.
const FAILURES_MAX: u32 = 3;

/// After this long without a further failure, the failures no longer count.
const FAILURES_AGE: Duration = Duration::from_secs(3);

/// Packets between two samples before their loss says anything.
const PACKETS_MIN: u64 = 10;

/// How a link is. The order is that of the checks: the first that holds is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// Both directions work.
    Healthy,
    /// There is no connection.
    #[default]
    Disconnected,
    /// We don't hear them.
    Silent,
    /// They don't hear us.
    Unheard,
    /// Calls fail or time out, though heartbeats pass.
    Failing,
    /// A quarter or more is lost in some direction.
    Lossy,
}

impl LinkState {
    /// The word for it in logs, metrics and answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Disconnected => "disconnected",
            Self::Silent => "silent",
            Self::Unheard => "unheard",
            Self::Failing => "failing",
            Self::Lossy => "lossy",
        }
    }
}

/// How well a link works, as a value for routing and for operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct LinkHealth {
    /// What holds of it.
    pub state: LinkState,
    /// 0 (useless) to 100 (perfect).
    pub score: u8,
    /// The worse direction's loss, in thousandths.
    pub loss_permille: u16,
    /// Calls that failed or timed out since the last that was answered.
    pub failures: u32,
}

impl LinkHealth {
    /// Whether routing should use this link before those that are not healthy.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.state == LinkState::Healthy
    }
}

/// What a connection's own statistics say. Counts are totals of that connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PathSample {
    /// Smoothed round trip.
    pub rtt: Duration,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets held for lost.
    pub lost_packets: u64,
    /// Which connection: another number when a new one took its place.
    pub link: u64,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallOutcome {
    /// It was answered, or refused, after that long.
    Answered(Duration),
    /// Its deadline passed.
    TimedOut,
    /// The link broke under it.
    Failed,
}

/// A heartbeat: small, so that it goes through where anything does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Beat {
    /// Counts the sender's heartbeats on this link.
    pub(crate) sequence: u32,
    /// When the next is to be expected, in milliseconds.
    pub(crate) every_ms: u16,
    /// The sender's wall clock.
    pub(crate) wall: WallMicros,
    /// What the sender hears of the receiver, if anything since the connection was made.
    pub(crate) heard: Option<HeardYou>,
}

/// What one side hears of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeardYou {
    /// How long ago the last heartbeat came, in milliseconds.
    pub(crate) ago_ms: u32,
    /// How many of the last [`WINDOW`] came.
    pub(crate) received: u8,
    /// How many were expected: [`WINDOW`], or less when the link is young.
    pub(crate) expected: u8,
}

/// Heartbeats over which loss is counted.
const WINDOW: u32 = 16;

/// Which of the peer's heartbeats came.
#[derive(Debug, Default)]
struct Hearing {
    last: Option<(Duration, u32)>,
    /// Bit 0 is the last heartbeat, bit 1 the one before.
    came: u16,
    expected: u32,
    every: Duration,
}

impl Hearing {
    fn take(&mut self, now: Duration, beat: &Beat) {
        let advance = match self.last {
            // Late or repeated: it counts for nothing.
            Some((_, last)) if beat.sequence <= last => return,
            Some((_, last)) => beat.sequence - last,
            None => 1,
        };
        self.came = self.came.checked_shl(advance).unwrap_or(0) | 1;
        self.expected = self.expected.saturating_add(advance).min(WINDOW);
        self.last = Some((now, beat.sequence));
        self.every = Duration::from_millis(u64::from(beat.every_ms)).clamp(BEAT_EVERY, BEAT_EVERY_MAX);
    }

    fn tell(&self, now: Duration) -> Option<HeardYou> {
        let (at, _) = self.last?;
        let ago_ms = u32::try_from(now.saturating_sub(at).as_millis()).unwrap_or(u32::MAX);
        Some(HeardYou { ago_ms, received: self.received(), expected: u8::try_from(self.expected).unwrap_or(u8::MAX) })
    }

    fn received(&self) -> u8 {
        u8::try_from(self.came.count_ones()).unwrap_or(u8::MAX)
    }

    fn loss_permille(&self) -> u16 {
        loss_permille(u32::from(self.received()), self.expected)
    }
}

/// What did not come, in thousandths; nothing is said of less than half a window.
fn loss_permille(received: u32, expected: u32) -> u16 {
    if expected < WINDOW / 2 {
        return 0;
    }
    u16::try_from(expected.saturating_sub(received) * 1000 / expected).unwrap_or(1000)
}

#[derive(Debug, Default)]
struct Link {
    /// Since when there is a connection.
    connected: Option<Duration>,
    beats_sent: u32,
    hearing: Hearing,
    /// What the peer's last heartbeat said, and when it came.
    told: Option<(Duration, Option<HeardYou>)>,
    failures: u32,
    failed_at: Duration,
    path: Option<PathSample>,
    path_loss_permille: u16,
    latencies: Latencies,
    offsets: Offsets,
    health: LinkHealth,
}

impl Link {
    fn evaluate(&self, now: Duration, round_trip: Option<Duration>, every: Duration) -> LinkHealth {
        let failures = if now.saturating_sub(self.failed_at) < FAILURES_AGE { self.failures } else { 0 };
        let told_loss =
            self.told.and_then(|(_, heard)| heard).map_or(0, |heard| loss_permille(heard.received.into(), heard.expected.into()));
        let loss_permille = self.hearing.loss_permille().max(told_loss).max(self.path_loss_permille);
        let state = self.state(now, round_trip.unwrap_or_default(), every, failures, loss_permille);
        LinkHealth { state, score: score(state, loss_permille, failures), loss_permille, failures }
    }

    fn state(&self, now: Duration, round_trip: Duration, every: Duration, failures: u32, loss_permille: u16) -> LinkState {
        let Some(since) = self.connected else { return LinkState::Disconnected };
        let patience = |every: Duration| every * BEATS_MISSED_MAX + JITTER + round_trip / 2;
        let heard_at = self.hearing.last.map_or(since, |(at, _)| at.max(since));
        if now.saturating_sub(heard_at) > patience(self.hearing.every.max(BEAT_EVERY)) {
            return LinkState::Silent;
        }
        if self.unheard_for(now, since) > patience(every) {
            return LinkState::Unheard;
        }
        match (failures, loss_permille) {
            (FAILURES_MAX.., _) => LinkState::Failing,
            (_, LOSSY_PERMILLE..) => LinkState::Lossy,
            _ => LinkState::Healthy,
        }
    }

    /// How long they had not heard us when they last said so; since the connection was made, if they never did.
    fn unheard_for(&self, now: Duration, since: Duration) -> Duration {
        match self.told {
            Some((at, Some(heard))) if at >= since => Duration::from_millis(heard.ago_ms.into()),
            Some((at, None)) if at >= since => now.saturating_sub(since),
            _ => Duration::ZERO,
        }
    }

    fn observe_path(&mut self, sample: PathSample) {
        let before =
            self.path.filter(|before| before.link == sample.link).unwrap_or(PathSample { link: sample.link, ..PathSample::default() });
        let sent = sample.sent_packets.saturating_sub(before.sent_packets);
        if sent < PACKETS_MIN {
            return;
        }
        let lost = sample.lost_packets.saturating_sub(before.lost_packets).min(sent);
        let permille = u16::try_from(lost * 1000 / sent).unwrap_or(1000);
        self.path_loss_permille = (self.path_loss_permille * 3 + permille) / 4;
        self.path = Some(sample);
    }
}

fn score(state: LinkState, loss_permille: u16, failures: u32) -> u8 {
    let best = match state {
        LinkState::Disconnected | LinkState::Silent => 0,
        LinkState::Unheard => 10,
        LinkState::Failing => 30,
        LinkState::Lossy => 50,
        LinkState::Healthy => 100,
    };
    let taken = u32::from(loss_permille) / 10 + failures.min(5) * 10;
    u8::try_from(100u32.saturating_sub(taken).min(best)).unwrap_or(0)
}

/// All links of this node.
#[derive(Debug, Default)]
pub(crate) struct Links {
    links: BTreeMap<NodeId, Link>,
    due: BTreeSet<(Duration, NodeId)>,
    changed: bool,
}

impl Links {
    /// Between two heartbeats on a link, so that a large mesh is not drowned in them.
    fn every(&self) -> Duration {
        let peers = u32::try_from(self.due.len()).unwrap_or(u32::MAX);
        (BEAT_EVERY * peers / PEERS_AT_FULL_RATE).clamp(BEAT_EVERY, BEAT_EVERY_MAX)
    }

    /// A connection was made, or another took its place.
    pub(crate) fn connected(&mut self, now: Duration, node: NodeId) {
        let link = self.links.entry(node).or_default();
        let is_new = link.connected.is_none();
        link.connected = Some(now);
        link.hearing = Hearing::default();
        link.told = None;
        if is_new {
            self.due.insert((now, node));
        }
        self.evaluate(now, node, None);
    }

    pub(crate) fn disconnected(&mut self, now: Duration, node: NodeId) {
        if let Some(link) = self.links.get_mut(&node) {
            link.connected = None;
            self.due.retain(|(_, due)| *due != node);
            self.evaluate(now, node, None);
        }
    }

    pub(crate) fn forget(&mut self, node: NodeId) {
        self.links.remove(&node);
        self.due.retain(|(_, due)| *due != node);
        self.changed = true;
    }

    pub(crate) fn next_timeout(&self) -> Option<Duration> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The heartbeats that are due, each with whom it is for.
    pub(crate) fn beats(
        &mut self,
        now: Duration,
        wall: WallMicros,
        round_trip: impl Fn(NodeId) -> Option<Duration>,
    ) -> Vec<(NodeId, Beat)> {
        let every = self.every();
        let mut beats = Vec::new();
        while let Some((_, node)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.pop_first();
            self.due.insert((now + every, node));
            self.evaluate(now, node, round_trip(node));
            let Some(link) = self.links.get_mut(&node) else { continue };
            link.beats_sent = link.beats_sent.wrapping_add(1);
            let every_ms = u16::try_from(every.as_millis()).unwrap_or(u16::MAX);
            beats.push((node, Beat { sequence: link.beats_sent, every_ms, wall, heard: link.hearing.tell(now) }));
        }
        beats
    }

    /// A heartbeat came.
    pub(crate) fn beat(&mut self, now: Duration, wall: WallMicros, from: NodeId, beat: &Beat, round_trip: Option<Duration>) {
        let Some(link) = self.links.get_mut(&from).filter(|link| link.connected.is_some()) else { return };
        link.hearing.take(now, beat);
        link.told = Some((now, beat.heard));
        link.offsets.push(beat.wall, wall, round_trip.unwrap_or_default());
        self.evaluate(now, from, round_trip);
    }

    pub(crate) fn path(&mut self, now: Duration, node: NodeId, sample: PathSample, round_trip: Option<Duration>) {
        if let Some(link) = self.links.get_mut(&node) {
            link.observe_path(sample);
            self.evaluate(now, node, round_trip);
        }
    }

    pub(crate) fn call_ended(&mut self, now: Duration, node: NodeId, outcome: CallOutcome, round_trip: Option<Duration>) {
        let Some(link) = self.links.get_mut(&node) else { return };
        match outcome {
            CallOutcome::Answered(latency) => {
                link.failures = 0;
                link.latencies.push(latency);
            }
            CallOutcome::TimedOut | CallOutcome::Failed => {
                link.failures = link.failures.saturating_add(1);
                link.failed_at = now;
            }
        }
        self.evaluate(now, node, round_trip);
    }

    /// This process stood still that long: nobody else was silent.
    pub(crate) fn stood_still(&mut self, now: Duration, by: Duration) {
        let shifted = |at: Duration| (at + by).min(now);
        for link in self.links.values_mut() {
            if let Some((at, _)) = &mut link.hearing.last {
                *at = shifted(*at);
            }
            link.connected = link.connected.map(shifted);
            if let Some((at, _)) = &mut link.told {
                *at = shifted(*at);
            }
        }
    }

    fn evaluate(&mut self, now: Duration, node: NodeId, round_trip: Option<Duration>) {
        let every = self.every();
        if let Some(link) = self.links.get_mut(&node) {
            let health = link.evaluate(now, round_trip, every);
            self.changed |= health.state != link.health.state;
            link.health = health;
        }
    }

    /// Whether a link's state changed since the last call.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    pub(crate) fn health(&self, node: NodeId) -> LinkHealth {
        self.links.get(&node).map(|link| link.health).unwrap_or_default()
    }

    pub(crate) fn hedge_after(&self, node: NodeId, round_trip: Option<Duration>) -> Duration {
        self.links.get(&node).map_or_else(|| Latencies::default().hedge_after(round_trip), |link| link.latencies.hedge_after(round_trip))
    }

    /// How far that node's clock is ahead of ours, in milliseconds.
    pub(crate) fn clock_offset_ms(&self, node: NodeId) -> Option<i64> {
        self.links.get(&node)?.offsets.median_ms()
    }

    /// How our clock stands to those of the peers that are connected.
    pub(crate) fn clock(&self) -> ClockVerdict {
        let connected = self.links.values().filter(|link| link.connected.is_some());
        ClockVerdict::of(connected.filter_map(|link| link.offsets.median_ms()).collect())
    }
}

#[cfg(test)]
mod tests;
