//! Which regions can be reached, as the gateways' pool says.
//!
//! A region's own summary is the truth about its members, as long as anybody there can still publish one. When no gateway of
//! a region answers, the gateways of the others see it go suspect and then silent, and with it every member of which nothing
//! else is known. Unlike a fact this verdict is not final: the region comes back as it was.

use std::collections::BTreeMap;
use std::time::Duration;

use isochrone_ident::{NodeId, Region};
use serde::{Deserialize, Serialize};

use super::wire::{Edition, ReachReport};
use crate::peers::Liveness;

/// A report not renewed for this long counts no more.
pub(crate) const REPORT_EXPIRES: Duration = Duration::from_secs(20);

/// How a region looks through the gateways' pool; the better one is the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Reachability {
    /// Every gateway of it is down.
    Silent,
    /// Those that aren't down are suspected.
    Doubtful,
    /// A gateway of it answers.
    Reachable,
}

impl Reachability {
    /// One gateway's part in its region's reachability.
    pub(crate) fn of(liveness: Liveness) -> Self {
        match liveness {
            Liveness::Alive => Self::Reachable,
            Liveness::Suspect => Self::Doubtful,
            Liveness::Down | Liveness::Left => Self::Silent,
        }
    }

    /// What becomes of a fact about a member there.
    pub(crate) fn temper(self, liveness: Liveness) -> Liveness {
        match (self, liveness) {
            (Self::Silent, Liveness::Alive | Liveness::Suspect) => Liveness::Down,
            (Self::Doubtful, Liveness::Alive) => Liveness::Suspect,
            (_, liveness) => liveness,
        }
    }
}

#[derive(Debug)]
struct Heard {
    edition: Edition,
    at: Duration,
    regions: BTreeMap<Region, Reachability>,
}

/// The newest report of each gateway of our region.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    by_author: BTreeMap<NodeId, Heard>,
}

impl Reports {
    /// Takes a report of the gateway that sent it; an older one than it sent before is ignored.
    pub(crate) fn take(&mut self, now: Duration, report: ReachReport) -> bool {
        let edition = report.by.edition;
        if self.by_author.get(&report.by.author).is_some_and(|heard| edition < heard.edition) {
            return false;
        }
        let regions: BTreeMap<_, _> = report.regions.into_iter().collect();
        let before = self.by_author.insert(report.by.author, Heard { edition, at: now, regions });
        let after = self.by_author.get(&report.by.author).map(|heard| &heard.regions);
        before.as_ref().map(|heard| &heard.regions) != after
    }

    /// The best that any reporting gateway says about each region.
    pub(crate) fn regions(&self) -> BTreeMap<Region, Reachability> {
        let mut best: BTreeMap<Region, Reachability> = BTreeMap::new();
        for (region, reach) in self.by_author.values().flat_map(|heard| &heard.regions) {
            let known = best.entry(region.clone()).or_insert(*reach);
            *known = (*known).max(*reach);
        }
        best
    }

    /// Drops reports that are old or whose author is no gateway any more; tells whether there were any.
    pub(crate) fn retain(&mut self, now: Duration, is_gateway: impl Fn(NodeId) -> bool) -> bool {
        let before = self.by_author.len();
        self.by_author.retain(|author, heard| is_gateway(*author) && now.saturating_sub(heard.at) < REPORT_EXPIRES);
        self.by_author.len() != before
    }
}

#[cfg(test)]
mod tests {
    use isochrone_ident::Incarnation;

    use super::*;
    use crate::membership::wire::Byline;

    fn report(author: u128, number: u64, reach: Reachability) -> ReachReport {
        let by = Byline { author: NodeId(author), edition: Edition { incarnation: Incarnation(1), number } };
        ReachReport { by, regions: vec![(Region::new("eu-west").expect("a name"), reach)] }
    }

    #[test]
    fn the_best_word_of_any_gateway_counts_and_old_words_do_not() {
        let region = Region::new("eu-west").expect("a name");
        let mut reports = Reports::default();
        assert!(reports.take(Duration::ZERO, report(1, 2, Reachability::Silent)));
        assert!(!reports.take(Duration::ZERO, report(1, 1, Reachability::Reachable)), "older than what it said");
        assert_eq!(reports.regions()[&region], Reachability::Silent);
        assert!(reports.take(Duration::ZERO, report(2, 1, Reachability::Doubtful)));
        assert_eq!(reports.regions()[&region], Reachability::Doubtful);
        assert!(reports.retain(REPORT_EXPIRES, |_| true));
        assert!(reports.regions().is_empty());
    }

    #[test]
    fn a_silent_region_takes_its_living_members_down_but_leaves_the_left_as_they_are() {
        assert_eq!(Reachability::Silent.temper(Liveness::Alive), Liveness::Down);
        assert_eq!(Reachability::Silent.temper(Liveness::Left), Liveness::Left);
        assert_eq!(Reachability::Doubtful.temper(Liveness::Alive), Liveness::Suspect);
        assert_eq!(Reachability::Reachable.temper(Liveness::Suspect), Liveness::Suspect);
    }
}
