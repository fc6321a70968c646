//! One SWIM pool: foca, with its timers, its randomness and its verdicts held in our hands.
//!
//! foca decides *what* to wait for; *how long* is decided here, from measured round trips ([`Timing`]) and from how far this
//! node trusts itself ([`LocalHealth`]). Timers fire in the order of their due times (foca issue 26 shows what happens
//! otherwise). foca has no way to be told "I doubt myself", so the pool holds it back from outside, in two places:
//! a failed probe is closed with the acknowledgement that did not come, before foca draws its conclusion from it, and the
//! timer that would declare a suspect down is put off.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use bytes::Bytes;
use foca::{
    Codec, Foca, Header, Member, Message, NoCustomBroadcast, OwnedNotification, PeriodicParams, PostcardCodec, Runtime, State, Timer,
};
use isochrone_ident::{NodeId, Region};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

use super::doubt::{FORGIVEN_MAX, HELD_MAX, LocalHealth};
use super::identity::Identity;
use super::timing::{Scope, Timing, transmissions};
use super::wire::Malformed;

/// How long a dead member is remembered: long enough that no gossip about its life is still under way.
pub(crate) const REMEMBER_DOWN: Duration = Duration::from_secs(24 * 3600);

/// How many others are asked to probe for us, and to how many updates go at once (SWIM section 3.1: k).
const INDIRECT_PROBES: NonZeroUsize = NonZeroUsize::new(3).expect("three is not zero");

/// How often a member is asked for those whom we miss.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(30);

/// foca wants the random source of rand 0.10, the rest of the project has 0.9: one seeded source for both.
struct SeededRng(StdRng);

impl rand010::TryRng for SeededRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.0.next_u32())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.next_u64())
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill_bytes(dst);
        Ok(())
    }
}

/// What foca wants done, in its order.
#[derive(Default)]
struct Wants {
    sends: VecDeque<(Identity, Bytes)>,
    timers: VecDeque<Timer<Identity>>,
    notes: VecDeque<OwnedNotification<Identity>>,
}

impl Runtime<Identity> for Wants {
    fn notify(&mut self, notification: foca::Notification<'_, Identity>) {
        self.notes.push_back(notification.to_owned());
    }

    fn send_to(&mut self, to: Identity, data: &[u8]) {
        self.sends.push_back((to, Bytes::copy_from_slice(data)));
    }

    fn submit_after(&mut self, event: Timer<Identity>, _foca_would_wait: Duration) {
        self.timers.push_back(event);
    }
}

/// A direct probe under way.
#[derive(Debug)]
struct Probe {
    target: Identity,
    number: u8,
    answered: bool,
}

/// What a pool tells its owner, for logs, metrics and the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PoolNote {
    /// Something about a member changed: look again.
    Changed,
    /// We were declared down by mistake and are back under that identity.
    Rejoined(Identity),
}

/// One pool.
pub(crate) struct Pool {
    scope: Scope,
    foca: Foca<Identity, PostcardCodec, SeededRng, NoCustomBroadcast>,
    config: foca::Config,
    timing: Timing,
    timers: BTreeMap<(Duration, u64), Timer<Identity>>,
    timers_made: u64,
    /// The token of the running probe cycle: foca ignores the timers of an older one, and so do we.
    probe_token: Option<u8>,
    probe: Option<Probe>,
    forgiven: BTreeMap<NodeId, u8>,
    held: BTreeMap<NodeId, u8>,
    /// foca's number of our own refutations, as last sent.
    swim: u16,
    wants: Wants,
    sends: VecDeque<(NodeId, Bytes)>,
    notes: VecDeque<PoolNote>,
}

impl Pool {
    pub(crate) fn new(scope: Scope, identity: Identity, datagram_bytes_max: usize, seed: u64) -> Self {
        let timing = Timing::of(scope, None);
        let config = foca_config(datagram_bytes_max);
        Self {
            scope,
            foca: Foca::new(identity, config.clone(), SeededRng(StdRng::seed_from_u64(seed)), PostcardCodec),
            config,
            timing,
            timers: BTreeMap::new(),
            timers_made: 0,
            probe_token: None,
            probe: None,
            forgiven: BTreeMap::new(),
            held: BTreeMap::new(),
            swim: 0,
            wants: Wants::default(),
            sends: VecDeque::new(),
            notes: VecDeque::new(),
        }
    }

    pub(crate) fn identity(&self) -> &Identity {
        self.foca.identity()
    }

    /// How often we refuted under this identity.
    pub(crate) fn swim(&self) -> u16 {
        self.swim
    }

    pub(crate) fn scope(&self) -> Scope {
        self.scope
    }

    /// Everybody that the pool remembers, the dead included, ourselves not; in no useful order.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Member<Identity>> {
        self.foca.iter_membership_state()
    }

    pub(crate) fn is_active(&self, node: NodeId) -> bool {
        self.foca.iter_members().any(|member| member.id().node == node)
    }

    pub(crate) fn active_count(&self) -> usize {
        self.foca.num_members()
    }

    /// Follows the measured round trips and the pool's size (M5); counts from the next timer on.
    pub(crate) fn tune(&mut self, round_trip_p99: Option<Duration>) {
        self.timing = Timing::of(self.scope, round_trip_p99);
        let wanted = NonZeroU8::new(transmissions(self.active_count() + 1)).unwrap_or(NonZeroU8::MIN);
        if self.config.max_transmissions != wanted {
            self.config.max_transmissions = wanted;
            // Refused only for a change of the periods, and those are never touched.
            let _ = self.foca.set_config(self.config.clone());
        }
    }

    pub(crate) fn next_timeout(&self) -> Option<Duration> {
        self.timers.first_key_value().map(|((due, _), _)| *due)
    }

    /// Moves every timer: time during which this process stood still does not count against anybody.
    pub(crate) fn shift(&mut self, by: Duration) {
        self.timers = std::mem::take(&mut self.timers).into_iter().map(|((due, number), timer)| ((due + by, number), timer)).collect();
    }

    pub(crate) fn poll_send(&mut self) -> Option<(NodeId, Bytes)> {
        self.sends.pop_front()
    }

    pub(crate) fn poll_note(&mut self) -> Option<PoolNote> {
        self.notes.pop_front()
    }

    /// Asks a node to take us in and to tell whom it knows.
    pub(crate) fn announce(&mut self, now: Duration, to: Identity, health: &mut LocalHealth) {
        let result = self.foca.announce(to, &mut self.wants);
        self.absorb(now, result, health);
    }

    /// First-hand news: that node lives under that identity.
    pub(crate) fn saw_alive(&mut self, now: Duration, identity: Identity, health: &mut LocalHealth) {
        self.apply(now, Member::alive(identity), health);
    }

    /// First-hand news: that life of a node is over.
    pub(crate) fn saw_down(&mut self, now: Duration, identity: Identity, health: &mut LocalHealth) {
        self.apply(now, Member::down(identity), health);
    }

    /// The suspects among the members, each with the number of refutations under which it is suspected.
    pub(crate) fn suspects(&self) -> Vec<(Identity, u16)> {
        self.members().filter(|member| member.state() == State::Suspect).map(|member| (member.id().clone(), member.incarnation())).collect()
    }

    /// Somebody tells us that we are suspected: refute it, if it is about this life.
    pub(crate) fn suspected(&mut self, now: Duration, identity: &Identity, swim: u16, health: &mut LocalHealth) {
        if identity == self.foca.identity() {
            self.apply(now, Member::new(identity.clone(), swim, State::Suspect), health);
        }
    }

    fn apply(&mut self, now: Duration, member: Member<Identity>, health: &mut LocalHealth) {
        let result = self.foca.apply_many(std::iter::once(member), true, &mut self.wants);
        self.absorb(now, result, health);
    }

    /// Comes back under a later identity when somebody believes this one dead.
    pub(crate) fn rejoin(&mut self, now: Duration, health: &mut LocalHealth) {
        if let Some(renewed) = foca::Identity::renew(self.foca.identity()) {
            let result = self.foca.change_identity(renewed.clone(), &mut self.wants);
            self.wants.notes.push_back(OwnedNotification::Rejoin(renewed));
            self.absorb(now, result, health);
        }
    }

    /// Tells the pool that we go.
    pub(crate) fn leave(&mut self, now: Duration, health: &mut LocalHealth) {
        let result = self.foca.leave_cluster(&mut self.wants);
        self.absorb(now, result, health);
    }

    /// A datagram of this pool.
    pub(crate) fn datagram(
        &mut self,
        now: Duration,
        from: NodeId,
        region: &Region,
        data: &[u8],
        health: &mut LocalHealth,
    ) -> Result<(), Malformed> {
        let header = self.inspect(from, region, data)?;
        self.note_answer(&header);
        let result = self.foca.handle_data(data, &mut self.wants);
        let verdict = result.as_ref().err().map(|error| Malformed::Pool(error.to_string()));
        self.absorb(now, result, health);
        verdict.map_or(Ok(()), Err)
    }

    /// Checks what foca takes on trust: that the sender is who the connection says, and that a local pool holds locals only.
    fn inspect(&self, from: NodeId, region: &Region, mut data: &[u8]) -> Result<Header<Identity>, Malformed> {
        let mut codec = PostcardCodec;
        let header: Header<Identity> = codec.decode_header(&mut data).map_err(|_| Malformed::Bytes("pool header"))?;
        if header.src.node != from {
            return Err(Malformed::NotFromSender);
        }
        let local = |id: &Identity| self.scope == Scope::Wide || id.region == *region;
        let mut fits = local(&header.src);
        if let Some((count, mut rest)) = data.split_first_chunk::<2>().filter(|_| header.message != Message::Broadcast) {
            for _ in 0..u16::from_be_bytes(*count) {
                let member: Member<Identity> = codec.decode_member(&mut rest).map_err(|_| Malformed::Bytes("pool update"))?;
                fits &= local(member.id());
            }
        }
        if fits { Ok(header) } else { Err(Malformed::WrongRegion) }
    }

    fn note_answer(&mut self, header: &Header<Identity>) {
        let Some(probe) = self.probe.as_mut().filter(|_| header.dst == *self.foca.identity()) else { return };
        probe.answered |= match &header.message {
            Message::Ack(number) => *number == probe.number && header.src == probe.target,
            Message::ForwardedAck { origin, probe_number } => *probe_number == probe.number && *origin == probe.target,
            _ => false,
        };
    }

    /// Fires every timer that is due, in the order of their due times.
    pub(crate) fn timeout(&mut self, now: Duration, health: &mut LocalHealth) {
        while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            let timer = entry.remove();
            if self.hold_back(now, &timer, health) {
                continue;
            }
            if matches!(timer, Timer::ProbeRandomMember(token) if Some(token) == self.probe_token) {
                self.settle_probe(now, health);
            }
            let result = self.foca.handle_timer(timer, &mut self.wants);
            self.absorb(now, result, health);
        }
    }

    /// Puts off a suspect's end while we doubt ourselves.
    fn hold_back(&mut self, now: Duration, timer: &Timer<Identity>, health: &LocalHealth) -> bool {
        let Timer::ChangeSuspectToDown { member_id, .. } = timer else { return false };
        let held = self.held.entry(member_id.node).or_default();
        if health.doubts() && *held < HELD_MAX {
            *held += 1;
            self.schedule(now, timer.clone(), health);
            return true;
        }
        self.held.remove(&member_id.node);
        false
    }

    /// The probe cycle ends: learns from it, and forgives it while we doubt ourselves.
    fn settle_probe(&mut self, now: Duration, health: &mut LocalHealth) {
        let Some(probe) = self.probe.take() else { return };
        let node = probe.target.node;
        if probe.answered {
            self.forgiven.remove(&node);
            return health.probe_answered(node);
        }
        health.probe_failed(node);
        let forgiven = self.forgiven.entry(node).or_default();
        if health.doubts() && *forgiven < FORGIVEN_MAX {
            *forgiven += 1;
            self.forgive(now, probe, health);
        }
    }

    /// Closes a failed probe with the acknowledgement that did not come. It claims nothing else: foca takes an `Alive` of the
    /// lowest number for old news about a member that it knows, suspect or not.
    fn forgive(&mut self, now: Duration, probe: Probe, health: &mut LocalHealth) {
        if !self.foca.iter_members().any(|member| *member.id() == probe.target) {
            return;
        }
        let (dst, message) = (self.foca.identity().clone(), Message::Ack(probe.number));
        let header = Header { src: probe.target, src_incarnation: 0, dst, message };
        let mut data = Vec::new();
        if PostcardCodec.encode_header(&header, &mut data).is_ok() {
            let result = self.foca.handle_data(&data, &mut self.wants);
            self.absorb(now, result, health);
        }
    }

    /// Takes over what foca wants done.
    fn absorb(&mut self, now: Duration, result: Result<(), foca::Error>, health: &mut LocalHealth) {
        if let Err(error) = result {
            tracing::debug!(scope = ?self.scope, %error, "a pool refused");
        }
        while let Some(timer) = self.wants.timers.pop_front() {
            if let Timer::ProbeRandomMember(token) = timer {
                self.probe_token = Some(token);
            }
            self.schedule(now, timer, health);
        }
        while let Some((to, data)) = self.wants.sends.pop_front() {
            self.note_send(&to, &data, health);
            self.sends.push_back((to.node, data));
        }
        while let Some(note) = self.wants.notes.pop_front() {
            self.note(note, health);
        }
    }

    fn note_send(&mut self, to: &Identity, data: &[u8], health: &mut LocalHealth) {
        let Ok(header) = PostcardCodec.decode_header(data) else { return };
        let header: Header<Identity> = header;
        if header.src_incarnation > self.swim {
            health.refuted();
        }
        self.swim = header.src_incarnation;
        if let Message::Ping(number) = header.message {
            self.probe = Some(Probe { target: to.clone(), number, answered: false });
        }
    }

    fn note(&mut self, note: OwnedNotification<Identity>, health: &mut LocalHealth) {
        match note {
            OwnedNotification::MemberDown(id) => {
                health.forget(id.node);
                self.forgiven.remove(&id.node);
                self.held.remove(&id.node);
            }
            OwnedNotification::Idle | OwnedNotification::Defunct => self.probe = None,
            OwnedNotification::Rejoin(id) => {
                self.probe = None;
                self.swim = 0;
                self.notes.push_back(PoolNote::Rejoined(id));
            }
            OwnedNotification::MemberUp(_) | OwnedNotification::Rename(..) | OwnedNotification::Active => {}
        }
        self.notes.push_back(PoolNote::Changed);
    }

    fn schedule(&mut self, now: Duration, timer: Timer<Identity>, health: &LocalHealth) {
        let wait = match &timer {
            Timer::SendIndirectProbe { .. } => self.timing.probe_rtt * health.stretch(),
            Timer::ProbeRandomMember(_) => self.timing.probe_period * health.stretch(),
            Timer::ChangeSuspectToDown { .. } => self.timing.suspicion(self.active_count() + 1),
            Timer::PeriodicGossip(_) => self.timing.gossip,
            Timer::PeriodicAnnounce(_) | Timer::PeriodicAnnounceDown(_) => ANNOUNCE_EVERY,
            Timer::RemoveDown(_) => REMEMBER_DOWN,
        };
        self.timers.insert((now + wait, self.timers_made), timer);
        self.timers_made += 1;
    }
}

/// foca's own settings. Its periods only say that the timers exist: their lengths are decided by [`Pool::schedule`].
fn foca_config(datagram_bytes_max: usize) -> foca::Config {
    let once_each = PeriodicParams { frequency: ANNOUNCE_EVERY, num_members: NonZeroUsize::MIN };
    foca::Config {
        num_indirect_probes: INDIRECT_PROBES,
        max_packet_size: NonZeroUsize::new(datagram_bytes_max).unwrap_or(NonZeroUsize::MIN),
        notify_down_members: true,
        remove_down_after: Some(REMEMBER_DOWN),
        periodic_announce: Some(once_each.clone()),
        periodic_announce_to_down_members: None,
        periodic_gossip: Some(PeriodicParams { num_members: INDIRECT_PROBES, ..once_each }),
        ..foca::Config::simple()
    }
}

/// Whether a member counts as one: alive, or suspected to be not.
pub(crate) fn is_active(member: &Member<Identity>) -> bool {
    member.state() != State::Down
}
