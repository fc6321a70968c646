//! What a gateway does for its region: it speaks in the wide pool, publishes its region, and passes news on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use isochrone_ident::{NodeId, Region};
use rand::Rng;

use super::Membership;
use super::directory::Fact;
use super::identity::Identity;
use super::pool::{Pool, is_active};
use super::reach::Reachability;
use super::timing::Scope;
use super::wire::{Message, ReachReport, pages};
use crate::peers::Liveness;

/// How often a region's whole summary goes to the other regions' gateways: what was lost on the way is repaired by then.
const REFRESH_EVERY: Duration = Duration::from_secs(10);

/// How often a gateway tells its region what it can reach, when nothing changes.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// A region that we only heard of is silent after this long without a link to it.
const UNLINKED_MAX: Duration = Duration::from_secs(10);

/// Regions named in one report: what a datagram holds of names of full length.
const REPORT_REGIONS_MAX: usize = 14;

impl Membership {
    /// The gateways of our region: the lowest node ids that the local pool holds for alive, ourselves included.
    pub(crate) fn gateways(&self) -> BTreeSet<NodeId> {
        let active = self.local.members().filter(|member| is_active(member)).map(|member| member.id().node);
        let mut nodes: Vec<NodeId> = active.filter(|node| !self.forgotten.contains(node)).chain([self.me()]).collect();
        nodes.sort_unstable();
        nodes.truncate(self.options.gateways.max(1));
        nodes.into_iter().collect()
    }

    /// The gateways of all regions among the members of a view, ourselves left out.
    pub(crate) fn all_gateways(&self, view: &BTreeMap<NodeId, Fact>) -> BTreeSet<NodeId> {
        let mut gateways = self.gateways();
        let mut taken: BTreeMap<&Region, usize> = BTreeMap::new();
        for fact in view.values().filter(|fact| fact.is_active() && fact.identity.region != *self.home()) {
            let taken = taken.entry(&fact.identity.region).or_default();
            *taken += 1;
            if *taken <= self.options.gateways {
                gateways.insert(fact.identity.node);
            }
        }
        gateways
    }

    /// Becomes or ceases to be a gateway as the local pool says; tells whether that changed.
    pub(super) fn elect(&mut self, now: Duration) -> bool {
        let should = !self.has_left && self.gateways().contains(&self.me());
        match (should, self.wide.take()) {
            (true, None) => self.enter_wide(now),
            (false, Some(wide)) => self.exit_wide(now, wide),
            (_, wide) => {
                self.wide = wide;
                return false;
            }
        }
        self.changed = true;
        true
    }

    fn enter_wide(&mut self, now: Duration) {
        let me = Identity { rejoins: self.wide_rejoins, ..self.options.me.clone() };
        self.wide = Some(Pool::new(Scope::Wide, me, self.options.datagram_bytes_max.saturating_sub(1), self.rng.random()));
        self.published.clear();
        self.due.refresh = now;
        self.due.chores = self.due.chores.min(now);
    }

    fn exit_wide(&mut self, now: Duration, mut wide: Pool) {
        wide.leave(now, &mut self.health);
        self.wide_rejoins = wide.identity().rejoins.saturating_add(1);
        while let Some((to, data)) = wide.poll_send() {
            self.sends.push_back((to, super::pool_datagram(Scope::Wide, &data)));
        }
    }

    /// Regions whose gateways never came into our pool, and with which we have no link any more: with nobody to probe, the
    /// time without a link has to do.
    pub(super) fn watch_unlinked(&mut self, now: Duration) {
        let linked: BTreeSet<&Region> =
            self.links.iter().filter_map(|node| self.contacts.get(node)).map(|contact| &contact.region).collect();
        let known = self.wide.iter().flat_map(Pool::members).map(|member| &member.id().region);
        let watched: BTreeSet<&Region> = known.chain(linked).chain([self.home()]).collect();
        let alone = self.directory.facts().map(|fact| &fact.identity.region).filter(|region| !watched.contains(region));
        let mut unlinked = BTreeMap::new();
        for region in alone {
            let (since, _) = self.unlinked.get(region).copied().unwrap_or((now, Reachability::Doubtful));
            let reach = if now.saturating_sub(since) < UNLINKED_MAX { Reachability::Doubtful } else { Reachability::Silent };
            unlinked.insert(region.clone(), (since, reach));
        }
        self.changed |= unlinked != self.unlinked;
        self.unlinked = unlinked;
    }

    fn local_actives(&self) -> Vec<NodeId> {
        let active = self.local.members().filter(|member| is_active(member));
        sorted(active.map(|member| member.id().node))
    }

    fn wide_actives_elsewhere(&self) -> Vec<NodeId> {
        let members = self.wide.iter().flat_map(Pool::members);
        let abroad = members.filter(|member| member.id().region != *self.home() && is_active(member));
        sorted(abroad.map(|member| member.id().node))
    }

    /// The other gateways, here and elsewhere, and the members of our region: whoever should hear of us.
    pub(crate) fn audience(&self) -> Vec<NodeId> {
        let mut nodes = self.wide_actives_elsewhere();
        nodes.extend(self.local_actives());
        nodes
    }

    /// What our region's members are to the other regions, ourselves included.
    fn home_facts(&self) -> BTreeMap<NodeId, Fact> {
        let mut facts = self.facts();
        facts.retain(|_, fact| fact.identity.region == *self.home());
        facts.insert(self.me(), self.own_fact(Liveness::Alive));
        facts
    }

    /// Publishes our region: what changed to everybody concerned, and now and then all of it to the other regions.
    pub(super) fn publish(&mut self, now: Duration) {
        if self.wide.is_none() {
            return;
        }
        let facts = self.home_facts();
        let changed: Vec<Fact> =
            facts.iter().filter(|(node, fact)| self.published.get(node) != Some(fact)).map(|(_, fact)| fact.clone()).collect();
        let audience = self.audience();
        self.send_facts(&audience, changed);
        if self.due.refresh <= now {
            self.due.refresh = now + REFRESH_EVERY;
            let abroad = self.wide_actives_elsewhere();
            self.send_facts(&abroad, facts.values().cloned().collect());
        }
        self.published = facts;
    }

    pub(super) fn send_facts(&mut self, to: &[NodeId], facts: Vec<Fact>) {
        if to.is_empty() {
            return;
        }
        for page in pages(facts, self.options.datagram_bytes_max) {
            self.send(to.iter().copied(), &Message::Summary(page));
        }
    }

    /// A gateway passes news of another region on to its own region's members, as it came.
    pub(crate) fn relay(&mut self, from: NodeId, datagram: &[u8]) {
        let from_home = self.contacts.get(&from).is_none_or(|contact| contact.region == *self.home());
        if self.wide.is_none() || from_home {
            return;
        }
        let datagram = Bytes::copy_from_slice(datagram);
        let actives = self.local_actives();
        self.sends.extend(actives.into_iter().map(|node| (node, datagram.clone())));
    }

    /// Tells our region what we can reach: at once when that changes, and now and then.
    pub(super) fn report(&mut self, now: Duration) {
        if self.wide.is_none() {
            return;
        }
        let regions: Vec<_> = self.reachabilities().into_iter().collect();
        if regions == self.reported && now < self.due.report {
            return;
        }
        self.changed |= regions != self.reported;
        self.due.report = now + REPORT_EVERY;
        let actives = self.local_actives();
        // The worst first: were there more regions than a datagram holds, silence about the good ones changes nothing.
        let mut worst_first = regions.clone();
        worst_first.sort_by_key(|(_, reach)| *reach);
        worst_first.truncate(REPORT_REGIONS_MAX);
        let report = ReachReport { by: self.byline(), regions: worst_first };
        self.send(actives, &Message::Reach(report));
        self.reported = regions;
    }

    pub(super) fn expire_reports(&mut self, now: Duration) {
        let gateways = self.gateways();
        self.changed |= self.reports.retain(now, |node| gateways.contains(&node));
    }
}

fn sorted(nodes: impl Iterator<Item = NodeId>) -> Vec<NodeId> {
    let mut nodes: Vec<_> = nodes.collect();
    nodes.sort_unstable();
    nodes
}
