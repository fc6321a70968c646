//! The candidates as a tree: regions, their zones, their nodes; and what one slot's draws make of it (P2).

use std::cmp::Reverse;

use isochrone_ident::{NodeId, Region, SLOTS, Slot};

use crate::draw::{Draw, Drawer};
use crate::share::{Bin, cap, shares};
use crate::spread::{Part, allot, interleave, is_spread};
use crate::table::MEMBERS_MAX;
use crate::{Candidate, RegionWeights};

/// One candidate in the tree.
struct Site {
    member: u16,
    region: usize,
    zone: usize,
    drawer: Drawer,
    load: u32,
    cap: u32,
}

/// A zone, or a region: a run of consecutive sites (or zones), and how many of its nodes are below their cap.
struct Run {
    first: usize,
    end: usize,
    nodes: usize,
    open: usize,
}

/// All candidates, grouped, with the loads that they have taken so far.
pub(crate) struct Topology {
    members: Vec<NodeId>,
    names: Vec<Region>,
    regions: Vec<Run>,
    zones: Vec<Run>,
    sites: Vec<Site>,
}

/// A node in the ranking of one slot: those below their cap before those at it, then by draw, then by place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Contender {
    open: bool,
    draw: Draw,
    site: Reverse<usize>,
}

impl Contender {
    /// The node's place in the tree.
    pub(crate) const fn site(self) -> usize {
        self.site.0
    }
}

/// The best nodes of each zone for one slot.
pub(crate) struct Ranking<'a> {
    topology: &'a Topology,
    tops: Vec<Vec<Contender>>,
}

impl Topology {
    /// The tree of these candidates, whatever their order; of a node given twice, the first in order counts.
    pub(crate) fn new(candidates: &[Candidate], weights: &RegionWeights, width: u8) -> Self {
        let mut by_node: Vec<&Candidate> = candidates.iter().collect();
        by_node.sort_unstable();
        by_node.dedup_by_key(|candidate| candidate.node);
        by_node.truncate(MEMBERS_MAX);
        let members: Vec<NodeId> = by_node.iter().map(|candidate| candidate.node).collect();
        let mut places: Vec<(u16, &Candidate)> = (0..).zip(by_node).collect();
        places.sort_by_key(|(member, candidate)| (&candidate.region, &candidate.zone, *member));
        let mut topology = Self { members, names: Vec::new(), regions: Vec::new(), zones: Vec::new(), sites: Vec::new() };
        let mut last: Option<&Candidate> = None;
        for (member, candidate) in places {
            topology.push(member, candidate, last, weights);
            last = Some(candidate);
        }
        topology.set_caps(topology.depth(width));
        topology
    }

    fn push(&mut self, member: u16, candidate: &Candidate, last: Option<&Candidate>, weights: &RegionWeights) {
        let region_goes_on = last.is_some_and(|last| last.region == candidate.region);
        if !region_goes_on {
            self.names.push(candidate.region.clone());
            self.regions.push(Run { first: self.zones.len(), end: self.zones.len(), nodes: 0, open: 0 });
        }
        if !region_goes_on || last.is_none_or(|last| last.zone != candidate.zone) {
            self.zones.push(Run { first: self.sites.len(), end: self.sites.len(), nodes: 0, open: 0 });
        }
        let (region, zone) = (self.regions.len() - 1, self.zones.len() - 1);
        let weight = f64::from(candidate.capacity.hundredths()) / 100.0 * weights.step(&candidate.region).factor();
        self.sites.push(Site { member, region, zone, drawer: Drawer::new(candidate.node, weight), load: 0, cap: 0 });
        self.regions[region].grow(self.zones.len());
        self.zones[zone].grow(self.sites.len());
    }

    fn set_caps(&mut self, depth: usize) {
        let regions: Vec<Bin> = self.regions.iter().map(|region| self.bin(region.first..region.end)).collect();
        for (region, share) in shares(depth as f64, &regions).into_iter().enumerate() {
            let zones = self.regions[region].first..self.regions[region].end;
            let bins: Vec<Bin> = zones.clone().map(|zone| self.bin(zone..zone + 1)).collect();
            for (zone, share) in zones.zip(shares(share, &bins)) {
                let sites = &mut self.sites[self.zones[zone].first..self.zones[zone].end];
                let bins: Vec<Bin> = sites.iter().map(|site| Bin { nodes: 1, weight: site.drawer.weight() }).collect();
                for (site, share) in sites.iter_mut().zip(shares(share, &bins)) {
                    site.cap = cap(share);
                }
            }
        }
    }

    fn bin(&self, zones: std::ops::Range<usize>) -> Bin {
        let sites = zones.flat_map(|zone| &self.sites[self.zones[zone].first..self.zones[zone].end]);
        sites.fold(Bin { nodes: 0, weight: 0.0 }, |bin, site| Bin { nodes: bin.nodes + 1, weight: bin.weight + site.drawer.weight() })
    }

    /// How many replicas a slot gets: min(width, nodes).
    pub(crate) fn depth(&self, width: u8) -> usize {
        self.members.len().min(usize::from(width))
    }

    /// The load and the cap of each node whose load is above its cap.
    #[cfg(test)]
    pub(crate) fn above_cap(&self) -> Vec<(u32, u32)> {
        self.sites.iter().filter(|site| site.load > site.cap).map(|site| (site.load, site.cap)).collect()
    }

    /// How many nodes there are.
    pub(crate) const fn nodes(&self) -> usize {
        self.members.len()
    }

    /// The nodes, ascending.
    pub(crate) fn into_members(self) -> Vec<NodeId> {
        self.members
    }

    /// The regions, in the order of [`Topology::region_of`].
    pub(crate) fn regions(&self) -> &[Region] {
        &self.names
    }

    /// The region that a place is in.
    pub(crate) fn region_of(&self, contender: Contender) -> usize {
        self.sites[contender.site()].region
    }

    /// The best nodes of each zone for a slot, at most `limit` of each.
    pub(crate) fn rank(&self, slot: Slot, limit: usize) -> Ranking<'_> {
        let tops = self.zones.iter().map(|zone| self.top(zone, slot, limit)).collect();
        Ranking { topology: self, tops }
    }

    fn top(&self, zone: &Run, slot: Slot, limit: usize) -> Vec<Contender> {
        let mut top: Vec<Contender> = Vec::with_capacity(limit + 1);
        for (at, site) in self.sites[zone.first..zone.end].iter().enumerate() {
            let contender = Contender { open: site.load < site.cap, draw: site.drawer.draw(slot), site: Reverse(zone.first + at) };
            if top.len() < limit || top.last().is_some_and(|last| contender > *last) {
                let place = top.partition_point(|better| *better > contender);
                top.insert(place, contender);
                top.truncate(limit);
            }
        }
        top
    }

    /// Whether the node can take a slot for which the ranking alone would not choose it: it is below its cap, and, where each region must take some of
    /// the `count` replicas of every slot, below its cap's part for the slots so far, so that there is room left for those.
    pub(crate) fn has_room(&self, contender: Contender, slot: Slot, count: usize) -> bool {
        let site = &self.sites[contender.site()];
        let in_step = || site.load * u32::from(SLOTS) <= site.cap * u32::from(slot.number());
        contender.open && (self.regions.len() > count || in_step())
    }

    /// What the contender would be if its node weighed `factor` times as much.
    pub(crate) fn raised(&self, contender: Contender, slot: Slot, factor: f64) -> Contender {
        Contender { draw: self.sites[contender.site()].drawer.raised(slot, factor), ..contender }
    }

    /// Gives a node one slot more, and says which member it is.
    pub(crate) fn take(&mut self, contender: Contender) -> u16 {
        let site = &mut self.sites[contender.site()];
        site.load += 1;
        if site.load == site.cap {
            self.zones[site.zone].open -= 1;
            self.regions[site.region].open -= 1;
        }
        site.member
    }

    /// Whether these nodes are spread over regions, and in each region over zones, as equally as can be.
    pub(crate) fn is_spread(&self, set: &[Contender]) -> bool {
        let count = |is_in: &dyn Fn(&Site) -> bool| set.iter().filter(|contender| is_in(&self.sites[contender.site()])).count();
        let regions: Vec<usize> = (0..self.regions.len()).map(|region| count(&|site| site.region == region)).collect();
        let sizes: Vec<usize> = self.regions.iter().map(|region| region.nodes).collect();
        let zones_spread = |region: &Run| {
            let counts: Vec<usize> = (region.first..region.end).map(|zone| count(&|site| site.zone == zone)).collect();
            let sizes: Vec<usize> = self.zones[region.first..region.end].iter().map(|zone| zone.nodes).collect();
            is_spread(&counts, &sizes)
        };
        is_spread(&regions, &sizes) && self.regions.iter().zip(regions).all(|(region, count)| count < 2 || zones_spread(region))
    }
}

impl Run {
    fn grow(&mut self, end: usize) {
        self.end = end;
        self.nodes += 1;
        self.open += 1;
    }
}

impl Ranking<'_> {
    /// The `count` nodes that this slot falls to, spread (P2), in the order of preference: each region's first, in the order of the regions, then
    /// each region's second. `count` is at most the number of nodes and the limit of the ranking.
    pub(crate) fn pick(&self, count: usize) -> Vec<Contender> {
        let regions = &self.topology.regions;
        let parts: Vec<_> = regions.iter().map(|region| part(region, self.best(region))).collect();
        let lists = allot(count, &parts).into_iter().map(|(region, count)| self.pick_in(&regions[region], count));
        interleave(&lists.collect::<Vec<_>>())
    }

    fn pick_in(&self, region: &Run, count: usize) -> Vec<Contender> {
        let zones = &self.topology.zones[region.first..region.end];
        let tops = &self.tops[region.first..region.end];
        if count == 1 {
            return self.best(region).into_iter().collect();
        }
        let parts: Vec<_> = zones.iter().zip(tops).map(|(zone, top)| part(zone, top.first().copied())).collect();
        let lists = allot(count, &parts).into_iter().map(|(zone, count)| tops[zone][..count].to_vec());
        interleave(&lists.collect::<Vec<_>>())
    }

    fn best(&self, region: &Run) -> Option<Contender> {
        self.tops[region.first..region.end].iter().filter_map(|top| top.first().copied()).max()
    }
}

fn part(run: &Run, best: Option<Contender>) -> Part<Option<Contender>> {
    Part { nodes: run.nodes, open: run.open, best }
}
