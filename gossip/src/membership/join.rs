//! Finding the others: announcing to those who are connected but not in the pool, and asking for those whom nobody told us.

use std::collections::BTreeSet;
use std::time::Duration;

use isochrone_ident::{NodeId, Region};
use rand::Rng;
use rand::seq::{IteratorRandom, SliceRandom};

use super::Membership;
use super::directory::Fact;
use super::identity::Identity;
use super::pool::is_active;
use super::wire::Message;
use crate::peers::Liveness;

/// How many are announced to in a round, in each pool.
const ANNOUNCE_MAX: usize = 4;

/// How often a member that knows others asks for more: repairs what news it missed.
const ASK_EVERY: Duration = Duration::from_secs(30);

/// How often one that knows nobody asks.
const ASK_WHEN_ALONE_EVERY: Duration = Duration::from_secs(1);

/// How often one peer's question is answered.
const ANSWER_EVERY: Duration = Duration::from_secs(1);

/// The most pages in an answer: a few thousand members.
const ANSWER_PAGES_MAX: usize = 256;

impl Membership {
    /// Announces to connected nodes that should be in a pool with us and are not: it is repeated until they are.
    pub(super) fn announce(&mut self, now: Duration) {
        let locals = self.missing_locals();
        let gateways = self.missing_gateways();
        for identity in self.some_of(locals) {
            self.local.announce(now, identity, &mut self.health);
        }
        for identity in self.some_of(gateways) {
            if let Some(wide) = &mut self.wide {
                wide.announce(now, identity, &mut self.health);
            }
        }
    }

    fn some_of(&mut self, mut identities: Vec<Identity>) -> Vec<Identity> {
        identities.sort_by_key(|identity| identity.node);
        identities.dedup_by_key(|identity| identity.node);
        identities.partial_shuffle(&mut self.rng, ANNOUNCE_MAX).0.to_vec()
    }

    fn is_left(&self, node: NodeId) -> bool {
        self.directory.fact(node).is_some_and(|fact| fact.liveness == Liveness::Left && !self.is_newer_contact(fact))
    }

    fn is_newer_contact(&self, fact: &Fact) -> bool {
        self.contacts.get(&fact.identity.node).is_some_and(|contact| contact.incarnation > fact.identity.incarnation)
    }

    fn connected_contacts(&self) -> impl Iterator<Item = &Identity> {
        self.contacts.values().filter(|contact| self.links.contains(&contact.node) && !self.is_left(contact.node))
    }

    fn missing_locals(&self) -> Vec<Identity> {
        let home = self.connected_contacts().filter(|contact| contact.region == *self.home());
        home.filter(|contact| !self.local.is_active(contact.node)).cloned().collect()
    }

    /// Connected gateways that the wide pool lacks, and somebody of each region that it lacks altogether: who is no gateway
    /// answers with who is.
    fn missing_gateways(&mut self) -> Vec<Identity> {
        let Some(wide) = &self.wide else { return Vec::new() };
        let mut wanted: BTreeSet<NodeId> = self.gateways();
        wanted.extend(self.directory.gateways_elsewhere(self.home(), self.options.gateways).iter().map(|identity| identity.node));
        let present: BTreeSet<&Region> = wide.members().filter(|member| is_active(member)).map(|member| &member.id().region).collect();
        let strangers = self.connected_contacts().filter(|contact| contact.region != *self.home() && !present.contains(&contact.region));
        let stranger = strangers.map(|contact| contact.node).collect::<Vec<_>>();
        wanted.extend(stranger.into_iter().choose(&mut self.rng));
        let missing = self.connected_contacts().filter(|contact| wanted.contains(&contact.node));
        missing.filter(|contact| !self.wide.as_ref().is_some_and(|wide| wide.is_active(contact.node))).cloned().collect()
    }

    /// Asks somebody whom he knows.
    pub(super) fn ask(&mut self, now: Duration) {
        if now < self.due.ask {
            return;
        }
        let Some(whom) = self.whom_to_ask() else { return };
        let alone = self.local.active_count() == 0 && self.directory.facts().count() <= 1;
        let every = if alone { ASK_WHEN_ALONE_EVERY } else { ASK_EVERY };
        self.due.ask = now + every.mul_f64(self.rng.random_range(0.8..1.2));
        self.send([whom], &Message::Ask);
    }

    /// A gateway asks another region, the others ask a gateway; anybody else if there is none.
    fn whom_to_ask(&mut self) -> Option<NodeId> {
        let gateways = self.gateways();
        let suits = |contact: &Identity| match &self.wide {
            Some(_) => contact.region != *self.home(),
            None => gateways.contains(&contact.node),
        };
        let connected: Vec<(NodeId, bool)> = self.connected_contacts().map(|contact| (contact.node, suits(contact))).collect();
        let suitable = connected.iter().filter(|(_, suits)| *suits).choose(&mut self.rng).copied();
        suitable.or_else(|| connected.iter().choose(&mut self.rng).copied()).map(|(node, _)| node)
    }

    /// Tells a peer all living members that we know; at most once a second each.
    pub(crate) fn answer(&mut self, now: Duration, to: NodeId) {
        let early = |at: &Duration| now.saturating_sub(*at) < ANSWER_EVERY;
        if self.has_left || !self.links.contains(&to) || self.answered.get(&to).is_some_and(early) {
            return;
        }
        self.answered.insert(to, now);
        let mut facts: Vec<Fact> = self.facts().into_values().filter(Fact::is_active).collect();
        facts.push(self.own_fact(Liveness::Alive));
        let pages = super::wire::pages(facts, self.options.datagram_bytes_max);
        for page in pages.into_iter().take(ANSWER_PAGES_MAX) {
            self.send([to], &Message::Summary(page));
        }
    }
}
