//! Membership by SWIM (rule M5): who seems alive. A hint, never a decision: safety does not depend on it.
//!
//! ```text
//!   region us-east                         region eu-west
//!   +--------------------------+           +--------------------------+
//!   | local pool: all members  |           | local pool: all members  |
//!   |   gateways: the 2 lowest |           |   gateways               |
//!   +-----------|--------------+           +------------|-------------+
//!               +------------- wide pool --------------+      gateways only
//!        summaries of a region's members ->  <- summaries
//!   gateways pass news of other regions on to their own region's members
//! ```
//!
//! - One pool in each region, and one of the gateways of all regions. The gateways are the lowest node ids that the local
//!   pool holds for alive, so nobody has to be elected, and a gateway that dies is replaced as soon as its pool knows.
//! - What becomes known of other regions is a [`directory`] of facts, each with its own version: merging them in any order, by
//!   any way, as often as one likes gives the same. If no gateway of a region answers, the gateways' pool says so ([`reach`]).
//! - Waits follow measured round trips ([`timing`]), and a node doubts itself before it doubts others ([`doubt`]).
//! - First contacts are announced to until they answer: the first datagram after a connection is made may be lost.
//!
//! Pure: the time comes in with every call, randomness as a seed, datagrams go out as values. The same seed and the same calls
//! give the same datagrams.

pub(crate) mod directory;
pub(crate) mod doubt;
mod gateway;
pub(crate) mod identity;
mod join;
pub(crate) mod pool;
pub(crate) mod reach;
#[cfg(test)]
mod tests;
pub(crate) mod timing;
pub(crate) mod wire;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use foca::Member;
use isochrone_ident::{NodeId, Region};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use self::directory::{Directory, Fact};
use self::doubt::{LAG_ALLOWED, LocalHealth};
use self::identity::{Address, Identity};
use self::pool::{Pool, PoolNote};
use self::reach::{Reachability, Reports};
use self::timing::{Scope, p99};
use self::wire::{Byline, Edition, Malformed, Message, ReachReport, message_datagram, pool_datagram};
use crate::peers::Liveness;

/// How often the chores are looked at: electing, publishing, announcing, asking.
const CHORES_EVERY: Duration = Duration::from_millis(250);

/// What membership needs to know at its start.
#[derive(Debug, Clone)]
pub(crate) struct MembershipOptions {
    pub(crate) me: Identity,
    pub(crate) seed: u64,
    pub(crate) datagram_bytes_max: usize,
    pub(crate) gateways: usize,
    pub(crate) members_max: usize,
}

/// When each chore is due.
#[derive(Debug, Default)]
struct Due {
    chores: Duration,
    refresh: Duration,
    report: Duration,
    ask: Duration,
}

/// The state machine: `datagram`, `timeout` and news from the connections go in, [`Membership::poll_send`] comes out.
pub(crate) struct Membership {
    options: MembershipOptions,
    rng: StdRng,
    health: LocalHealth,
    local: Pool,
    wide: Option<Pool>,
    /// The `rejoins` of the next identity in the wide pool: it must beat the one that left it.
    wide_rejoins: u32,
    directory: Directory,
    reports: Reports,
    contacts: BTreeMap<NodeId, Identity>,
    links: BTreeSet<NodeId>,
    forgotten: BTreeSet<NodeId>,
    answered: BTreeMap<NodeId, Duration>,
    published: BTreeMap<NodeId, Fact>,
    reported: Vec<(Region, Reachability)>,
    unlinked: BTreeMap<Region, (Duration, Reachability)>,
    editions: u64,
    due: Due,
    sends: VecDeque<(NodeId, Bytes)>,
    rejoined: u64,
    changed: bool,
    has_left: bool,
}

impl Membership {
    pub(crate) fn new(options: MembershipOptions, now: Duration) -> Self {
        let mut rng = StdRng::seed_from_u64(options.seed);
        let local = Pool::new(Scope::Local, options.me.clone(), options.datagram_bytes_max.saturating_sub(1), rng.random());
        let directory = Directory::new(options.members_max);
        let due = Due { chores: now, refresh: now, report: now, ask: now };
        let mut membership = Self {
            options,
            rng,
            health: LocalHealth::default(),
            local,
            wide: None,
            wide_rejoins: 0,
            directory,
            reports: Reports::default(),
            contacts: BTreeMap::new(),
            links: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            answered: BTreeMap::new(),
            published: BTreeMap::new(),
            reported: Vec::new(),
            unlinked: BTreeMap::new(),
            editions: 0,
            due,
            sends: VecDeque::new(),
            rejoined: 0,
            changed: true,
            has_left: false,
        };
        membership.settle(now);
        membership
    }

    fn home(&self) -> &Region {
        &self.options.me.region
    }

    fn me(&self) -> NodeId {
        self.options.me.node
    }

    /// How far this node mistrusts its own view, 0 to 8.
    pub(crate) fn doubt(&self) -> u8 {
        self.health.score()
    }

    /// How often this node was declared down by mistake and came back.
    pub(crate) fn rejoined(&self) -> u64 {
        self.rejoined
    }

    /// Whether this node is one of its region's gateways.
    pub(crate) fn is_gateway(&self) -> bool {
        self.wide.is_some()
    }

    /// Whether something visible changed since the last call.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    pub(crate) fn poll_send(&mut self) -> Option<(NodeId, Bytes)> {
        self.sends.pop_front()
    }

    pub(crate) fn next_timeout(&self) -> Duration {
        let pools = [self.local.next_timeout(), self.wide.as_ref().and_then(Pool::next_timeout)];
        pools.into_iter().flatten().fold(self.due.chores, Duration::min)
    }

    /// Fires what is due. If that comes late, this process stood still: it doubts itself, and the time does not count.
    /// Returns the lag if it was one.
    pub(crate) fn timeout(&mut self, now: Duration) -> Option<Duration> {
        if self.has_left {
            self.due.chores = now + CHORES_EVERY;
            return None;
        }
        let lag = now.saturating_sub(self.next_timeout());
        let lagged = lag > LAG_ALLOWED;
        if lagged {
            self.health.lagged(lag);
            self.pools().for_each(|pool| pool.shift(lag));
        }
        self.local.timeout(now, &mut self.health);
        if let Some(wide) = &mut self.wide {
            wide.timeout(now, &mut self.health);
        }
        if self.due.chores <= now {
            self.due.chores = now + CHORES_EVERY;
            self.chores(now);
        }
        self.settle(now);
        lagged.then_some(lag)
    }

    fn pools(&mut self) -> impl Iterator<Item = &mut Pool> {
        std::iter::once(&mut self.local).chain(&mut self.wide)
    }

    fn chores(&mut self, now: Duration) {
        self.changed |= self.directory.expire(now);
        self.expire_reports(now);
        self.watch_unlinked(now);
        self.announce(now);
        self.ask(now);
        self.tell_suspects();
        self.publish(now);
        self.report(now);
    }

    /// Follows the measured round trips (M6): `round_trip` gives a node's, if there is one.
    pub(crate) fn tune(&mut self, round_trip: impl Fn(NodeId) -> Option<Duration>) {
        self.pools().for_each(|pool| {
            let measured = pool.members().filter_map(|member| round_trip(member.id().node)).collect();
            pool.tune(p99(measured));
        });
    }

    /// Takes over what the pools want sent, and sees whether the gateways are still the same.
    fn settle(&mut self, now: Duration) {
        let mut notes = Vec::new();
        self.drain_pools(&mut notes);
        for note in notes {
            self.changed = true;
            if let PoolNote::Rejoined(_) = note {
                self.rejoined += 1;
            }
            self.due.chores = self.due.chores.min(now + CHORES_EVERY / 5);
        }
        if self.elect(now) {
            self.drain_pools(&mut Vec::new());
        }
    }

    fn drain_pools(&mut self, notes: &mut Vec<PoolNote>) {
        for pool in std::iter::once(&mut self.local).chain(&mut self.wide) {
            while let Some((to, data)) = pool.poll_send() {
                self.sends.push_back((to, pool_datagram(pool.scope(), &data)));
            }
            notes.extend(std::iter::from_fn(|| pool.poll_note()));
        }
    }

    fn send(&mut self, to: impl IntoIterator<Item = NodeId>, message: &Message) {
        let datagram = message_datagram(message);
        self.sends.extend(to.into_iter().map(|node| (node, datagram.clone())));
    }

    /// A byline for what we say next.
    pub(crate) fn byline(&mut self) -> Byline {
        self.editions += 1;
        Byline { author: self.me(), edition: Edition { incarnation: self.options.me.incarnation, number: self.editions } }
    }

    /// Our own fact.
    fn own_fact(&self, liveness: Liveness) -> Fact {
        Fact { identity: self.local.identity().clone(), swim: self.local.swim(), liveness }
    }

    // ---- News from the connections.

    /// The council says where a member is (or is again).
    pub(crate) fn learn(&mut self, node: NodeId, region: Region, address: Address) {
        if node == self.me() {
            return;
        }
        self.forgotten.remove(&node);
        let unheard = Identity::unheard(node, region, address);
        let contact = self.contacts.entry(node).or_insert_with(|| unheard.clone());
        if contact.life() == unheard.life() {
            *contact = unheard;
        }
        self.changed = true;
    }

    /// A connection to that node was made: first-hand news that this start of it lives.
    pub(crate) fn connected(&mut self, now: Duration, identity: Identity) {
        let node = identity.node;
        if node == self.me() || self.has_left {
            return;
        }
        self.forgotten.remove(&node);
        self.links.insert(node);
        self.contacts.insert(node, identity.clone());
        if identity.region == *self.home() {
            self.local.saw_alive(now, identity, &mut self.health);
        } else {
            let news = self.directory.merge(now, Fact { identity, swim: 0, liveness: Liveness::Alive });
            self.changed |= news;
        }
        self.due.chores = self.due.chores.min(now);
        self.settle(now);
    }

    /// The last connection to that node is gone. What becomes of it is for the pools to say.
    pub(crate) fn disconnected(&mut self, node: NodeId) {
        self.links.remove(&node);
    }

    /// The council removed that node: out of the table and the pools, and not back by gossip.
    pub(crate) fn forget(&mut self, now: Duration, node: NodeId) {
        if let Some(fact) = self.fact(node) {
            self.pools_saw_down(now, &fact.identity);
        }
        self.forgotten.insert(node);
        self.contacts.remove(&node);
        self.links.remove(&node);
        self.published.remove(&node);
        self.answered.remove(&node);
        self.directory.forget(node);
        self.changed = true;
        self.settle(now);
    }

    /// That node said that it leaves, or closed its connection saying so.
    pub(crate) fn left(&mut self, now: Duration, node: NodeId) {
        if let Some(fact) = self.fact(node) {
            self.take_fact(now, Fact { liveness: Liveness::Left, ..fact });
            self.settle(now);
        }
    }

    fn pools_saw_down(&mut self, now: Duration, identity: &Identity) {
        let Self { local, wide, health, .. } = self;
        for pool in std::iter::once(local).chain(wide) {
            let known =
                pool.members().map(Member::id).find(|id| id.node == identity.node && id.incarnation <= identity.incarnation).cloned();
            if let Some(known) = known {
                pool.saw_down(now, known, health);
            }
        }
    }

    /// Tells everybody that we go; nothing is said or heard after it.
    pub(crate) fn leave(&mut self, now: Duration) {
        if std::mem::replace(&mut self.has_left, true) {
            return;
        }
        let farewell = Message::Leave(self.own_fact(Liveness::Left));
        self.send(self.links.clone(), &farewell);
        let Self { local, wide, health, .. } = self;
        std::iter::once(local).chain(wide).for_each(|pool| pool.leave(now, health));
        self.drain_pools(&mut Vec::new());
    }

    // ---- Datagrams.

    /// A datagram of one of the pools.
    pub(crate) fn pool_datagram(&mut self, now: Duration, from: NodeId, scope: Scope, data: &[u8]) -> Result<(), Malformed> {
        if self.has_left || self.forgotten.contains(&from) {
            return Ok(());
        }
        let region = self.options.me.region.clone();
        let pool = match scope {
            Scope::Local => Some(&mut self.local),
            Scope::Wide => self.wide.as_mut(),
        };
        let result = match pool {
            Some(pool) => pool.datagram(now, from, &region, data, &mut self.health),
            // Somebody takes us for a gateway: tell who lives here.
            None => {
                self.answer(now, from);
                Ok(())
            }
        };
        self.settle(now);
        result
    }

    /// A page of facts. `datagram` is all of it as it came, to be passed on unchanged.
    pub(crate) fn summary(&mut self, now: Duration, from: NodeId, facts: Vec<Fact>, datagram: &[u8]) {
        let mut news = false;
        for fact in facts {
            news |= self.take_fact(now, fact);
        }
        if news {
            self.relay(from, datagram);
        }
        self.settle(now);
    }

    /// A report of one of our gateways.
    pub(crate) fn reach_report(&mut self, now: Duration, from: NodeId, report: ReachReport) -> Result<(), Malformed> {
        if report.by.author != from {
            return Err(Malformed::NotFromSender);
        }
        if self.local.is_active(from) {
            self.changed |= self.reports.take(now, report);
        }
        Ok(())
    }

    /// A node's own farewell.
    pub(crate) fn farewell(&mut self, now: Duration, from: NodeId, fact: Fact) -> Result<(), Malformed> {
        if fact.identity.node != from || fact.liveness != Liveness::Left {
            return Err(Malformed::NotFromSender);
        }
        self.take_fact(now, fact);
        self.settle(now);
        Ok(())
    }

    /// Takes a fact in, from wherever it came; tells whether it was news.
    fn take_fact(&mut self, now: Duration, fact: Fact) -> bool {
        let node = fact.identity.node;
        if self.has_left || self.forgotten.contains(&node) {
            return false;
        }
        if node == self.me() {
            self.refute(now, &fact);
            return false;
        }
        if fact.liveness == Liveness::Left {
            self.pools_saw_down(now, &fact.identity);
        }
        if fact.is_active() && fact.identity.region == *self.home() && !self.local.members().any(|member| member.id().node == node) {
            // Nobody in our pool knows it: it gets probed, and so somebody will know if it is gone.
            self.local.saw_alive(now, fact.identity.clone(), &mut self.health);
        }
        let news = self.directory.merge(now, fact);
        self.changed |= news;
        news
    }

    /// Tells the suspects that they are: who lives refutes at once, without waiting for gossip (Lifeguard's buddy system).
    fn tell_suspects(&mut self) {
        let suspects: Vec<_> =
            self.pools().flat_map(|pool| pool.suspects().into_iter().map(|suspect| (pool.scope(), suspect)).collect::<Vec<_>>()).collect();
        for (scope, (identity, swim)) in suspects {
            self.send([identity.node], &Message::Suspected { scope, identity, swim });
        }
    }

    /// We are suspected in that pool.
    pub(crate) fn suspected(&mut self, now: Duration, scope: Scope, identity: &Identity, swim: u16) {
        let Self { local, wide, health, .. } = self;
        let pool = match scope {
            Scope::Local => Some(local),
            Scope::Wide => wide.as_mut(),
        };
        if let Some(pool) = pool.filter(|_| !self.has_left) {
            pool.suspected(now, identity, swim, health);
        }
        self.settle(now);
    }

    /// Somebody believes us dead: come back under a later identity.
    fn refute(&mut self, now: Duration, fact: &Fact) {
        if fact.liveness == Liveness::Down && fact.identity.life() == self.local.identity().life() {
            self.local.rejoin(now, &mut self.health);
        }
    }

    // ---- What is known.

    /// What the local pool knows of a member.
    fn pool_fact(member: &Member<Identity>) -> Fact {
        let liveness = match member.state() {
            foca::State::Down => Liveness::Down,
            foca::State::Suspect => Liveness::Suspect,
            foca::State::Alive => Liveness::Alive,
        };
        Fact { identity: member.id().clone(), swim: member.incarnation(), liveness }
    }

    fn fact(&self, node: NodeId) -> Option<Fact> {
        self.view().remove(&node)
    }

    /// The facts that gossip knows, untempered: the local pool's for our region, the directory's for all.
    fn facts(&self) -> BTreeMap<NodeId, Fact> {
        let mut facts: BTreeMap<_, _> = self.directory.facts().map(|fact| (fact.identity.node, fact.clone())).collect();
        for fact in self.local.members().map(Self::pool_fact) {
            let node = fact.identity.node;
            if facts.get(&node).is_none_or(|known| fact.supersedes(known)) {
                facts.insert(node, fact);
            }
        }
        facts.retain(|node, _| !self.forgotten.contains(node));
        facts
    }

    /// How each region looks from here.
    fn reachabilities(&self) -> BTreeMap<Region, Reachability> {
        let Some(wide) = &self.wide else { return self.reports.regions() };
        let mut regions: BTreeMap<Region, Reachability> =
            self.unlinked.iter().map(|(region, (_, reach))| (region.clone(), *reach)).collect();
        for member in wide.members().filter(|member| member.id().region != *self.home()) {
            let reach = Reachability::of(Self::pool_fact(member).liveness);
            let known = regions.entry(member.id().region.clone()).or_insert(reach);
            *known = (*known).max(reach);
        }
        regions
    }

    /// Every other member as this node sees it now.
    pub(crate) fn view(&self) -> BTreeMap<NodeId, Fact> {
        let mut view = self.facts();
        let regions = self.reachabilities();
        for fact in view.values_mut() {
            if let Some(reach) = regions.get(&fact.identity.region).filter(|_| fact.identity.region != *self.home()) {
                fact.liveness = reach.temper(fact.liveness);
            }
        }
        for (node, contact) in &self.contacts {
            view.entry(*node).or_insert_with(|| Fact { identity: contact.clone(), swim: 0, liveness: Liveness::Suspect });
        }
        view
    }
}
