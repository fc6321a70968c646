//! Whether a healed cluster has come to rest, and whether what it has come to can be true.

use std::collections::{BTreeMap, BTreeSet};

use isochrone_edge::ReplicationReport;
use isochrone_ident::{Kind, Version};
use isochrone_replica::Record;

use crate::history::{History, Name, Shown};
use crate::model::typed::Place;
use crate::shared::{Held, Report, Shared, lock};

/// What keeps the cluster from having come to rest; `None` when it has: every node is ready, has written, and knows all members; no write
/// waits, no slot moves; every delete and every expired value is forgotten (E7, E8), and every durable key is held by just its replicas, all with
/// the same version.
#[must_use]
pub fn unrest(shared: &Shared) -> Option<String> {
    let reports = lock(&shared.reports).clone();
    if let Some(node) = lock(&shared.errands).first() {
        return Some(format!("node {node} was not removed yet"));
    }
    reports.iter().enumerate().find_map(|(n, report)| unrest_of(n, report, reports.len())).or_else(|| differing(shared, &reports))
}

fn unrest_of(n: usize, report: &Report, nodes: usize) -> Option<String> {
    if !report.ready {
        return Some(format!("daemon {n} is not ready: {}", report.failing.join("; ")));
    }
    if report.members != nodes {
        return Some(format!("daemon {n} knows {} members of {nodes}", report.members));
    }
    if report.slots_moving > 0 {
        return Some(format!("daemon {n} sees {} slots moving", report.slots_moving));
    }
    if !report.wrote {
        return Some(format!("daemon {n} takes no writes"));
    }
    if report.backlog > 0 {
        return Some(format!("daemon {n} keeps {} writes for others", report.backlog));
    }
    unrest_of_replication(n, &report.replication).or_else(|| {
        let holds = report.holds.as_ref()?;
        let (place, held, what) = holds
            .iter()
            .filter(|(place, _)| crate::cluster::is_durable(&place.name.0))
            .find_map(|(place, held)| Some((place, held, held.passing?)))?;
        Some(format!("daemon {n} still holds {what} {} of {place}", held.version))
    })
}

/// What a daemon itself says is missing: keys with fewer replicas than wanted, differences found, peers for whom nothing is kept (E5, E6).
fn unrest_of_replication(n: usize, replication: &ReplicationReport) -> Option<String> {
    if replication.under_replicated_keys > 0 {
        return Some(format!("daemon {n} counts {} keys with too few replicas", replication.under_replicated_keys));
    }
    if let Some(differing) = replication.divergence.first() {
        return Some(format!("daemon {n} found {} keys to differ in slot {}", differing.keys, differing.slot));
    }
    let lapsed = replication.peers.iter().find(|peer| peer.lapsed_since.is_some())?;
    Some(format!("daemon {n} keeps nothing for {}, which has lapsed", lapsed.node))
}

fn differing(shared: &Shared, reports: &[Report]) -> Option<String> {
    if let Some(n) = reports.iter().position(|r| r.holds.is_none()) {
        return Some(format!("daemon {n}'s store can't be read"));
    }
    let mut durable = all_names(reports).into_iter().filter(|place| crate::cluster::is_durable(&place.name.0));
    durable.find_map(|place| {
        let holders = holders(reports, &place);
        let wanted = shared.replicas(&place.name.0);
        if are_equal(shared, &holders, wanted) {
            return None;
        }
        let text = |(n, held): (&usize, &Held)| format!("daemon {n} {} {:032x}", held.version, held.canonical);
        Some(format!("{place} should be equal at {wanted} replicas: {}", holders.iter().map(text).collect::<Vec<_>>().join(", ")))
    })
}

/// Whether so many daemons hold the same, and no other holds anything: but for a state with dots of its own, which a daemon that is no replica
/// keeps, for it reads there which comes next (E3).
fn are_equal(shared: &Shared, holders: &BTreeMap<usize, Held>, wanted: usize) -> bool {
    let mut records = holders.values().map(|held| held.record.clone());
    let Some(first) = records.next() else { return true };
    let Ok(all) = records.try_fold(first, Record::merge) else { return false };
    let keeps = |n: usize, held: &Held| {
        let own = crate::cluster::node_id(&shared.shape, n, shared.life(n));
        held.record.as_typed().is_some_and(|typed| typed.has_dots_of(own))
    };
    let equal = holders.values().filter(|held| held.record.state == all.state).count();
    let differ_rightly = holders.iter().all(|(&n, held)| held.record.state == all.state || keeps(n, held));
    let kept = holders.iter().filter(|&(&n, held)| keeps(n, held)).count();
    differ_rightly && equal >= wanted && holders.len() <= wanted + kept
}

fn all_names(reports: &[Report]) -> BTreeSet<Place> {
    reports.iter().filter_map(|r| r.holds.as_ref()).flat_map(|holds| holds.keys().cloned()).collect()
}

fn holders(reports: &[Report], name: &Place) -> BTreeMap<usize, Held> {
    let held = |(n, report): (usize, &Report)| Some((n, report.holds.as_ref()?.get(name)?.clone()));
    reports.iter().enumerate().filter_map(held).collect()
}

/// Holds what the stores have come to against the history. Returns the version of every durable key in the end.
pub fn check_end(shared: &Shared) -> BTreeMap<Name, Option<Version>> {
    let reports = lock(&shared.reports).clone();
    let mut history = lock(&shared.history);
    let mut names: BTreeSet<Name> = history.names().into_iter().filter(|(ns, _)| crate::cluster::is_durable(ns)).collect();
    let places = all_names(&reports);
    contradictions(&reports, &places).into_iter().for_each(|text| history.violate(text));
    names.extend(places.into_iter().filter(|p| p.kind == Kind::Value && crate::cluster::is_durable(&p.name.0)).map(|place| place.name));
    let mut end = BTreeMap::new();
    for name in names {
        let held = holders(&reports, &Place { kind: Kind::Value, name: name.clone() }).into_values().next();
        let shown = held.map(|held| Shown { version: held.version, value: held.value });
        check_key(&mut history, &name, shown.as_ref());
        end.insert(name, shown.map(|s| s.version));
    }
    end
}

/// Two states of a key that can't both be true, because a version or a dot was given out twice (E3). Also where states may differ, for writes
/// that are not durable may be lost at one replica and not at another, they must go together.
fn contradictions(reports: &[Report], places: &BTreeSet<Place>) -> Vec<String> {
    let contradicts = |place: &&Place| {
        let mut records = holders(reports, place).into_values().map(|held| held.record);
        let first = records.next()?;
        records.try_fold(first, Record::merge).err()
    };
    let found = places.iter().filter_map(|place| contradicts(&place).map(|conflict| (place, conflict)));
    found.map(|(place, conflict)| format!("replicas tell two stories of {place}, which should be one: {conflict}")).collect()
}

fn check_key(history: &mut History, name: &Name, shown: Option<&Shown>) {
    let before = history.violations().len();
    history.check_end(name, shown);
    if history.violations().len() > before {
        for line in history.story(name) {
            history.violate(format!("    {line}"));
        }
    }
}
