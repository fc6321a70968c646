//! Whether a healed cluster has come to rest, and whether what it has come to can be true.

use std::collections::{BTreeMap, BTreeSet};

use isochrone_ident::Version;

use crate::history::{History, Name, Shown};
use crate::shared::{Held, Report, Shared, lock};

/// What keeps the cluster from having come to rest; `None` when it has: every node is ready, has written, and knows all members; no write
/// waits, no slot moves; every delete and every expired value is forgotten (E7, E8), and every durable key is held by just its replicas, all with
/// the same version.
#[must_use]
pub fn unrest(shared: &Shared) -> Option<String> {
    let reports = lock(&shared.reports).clone();
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
    let holds = report.holds.as_ref()?;
    let (name, held) = holds.iter().find(|(_, held)| held.value.is_none() || held.expires)?;
    let what = if held.value.is_none() { "the delete" } else { "the expired value" };
    Some(format!("daemon {n} still holds {what} {} of {}/{}", held.version, name.0, name.1))
}

fn differing(shared: &Shared, reports: &[Report]) -> Option<String> {
    if let Some(n) = reports.iter().position(|r| r.holds.is_none()) {
        return Some(format!("daemon {n}'s store can't be read"));
    }
    all_names(reports).into_iter().find_map(|name| {
        let holders = holders(reports, &name);
        let versions: BTreeSet<Version> = holders.values().map(|held| held.version).collect();
        let wanted = shared.replicas(&name.0);
        let texts: Vec<String> = holders.iter().map(|(n, held)| format!("daemon {n} {}", held.version)).collect();
        (versions.len() != 1 || holders.len() != wanted)
            .then(|| format!("{}/{} should be equal at {wanted} replicas: {}", name.0, name.1, texts.join(", ")))
    })
}

fn all_names(reports: &[Report]) -> BTreeSet<Name> {
    reports.iter().filter_map(|r| r.holds.as_ref()).flat_map(|holds| holds.keys().cloned()).collect()
}

fn holders(reports: &[Report], name: &Name) -> BTreeMap<usize, Held> {
    let held = |(n, report): (usize, &Report)| Some((n, report.holds.as_ref()?.get(name)?.clone()));
    reports.iter().enumerate().filter_map(held).collect()
}

/// Holds what the stores have come to against the history. Returns the version of every durable key in the end.
pub fn check_end(shared: &Shared) -> BTreeMap<Name, Option<Version>> {
    let reports = lock(&shared.reports).clone();
    let mut history = lock(&shared.history);
    let mut names: BTreeSet<Name> = history.names().into_iter().filter(|(ns, _)| crate::cluster::is_durable(ns)).collect();
    names.extend(all_names(&reports));
    let mut end = BTreeMap::new();
    for name in names {
        let held = holders(&reports, &name).into_values().next();
        let shown = held.map(|held| Shown { version: held.version, value: held.value });
        check_key(&mut history, &name, shown.as_ref());
        end.insert(name, shown.map(|s| s.version));
    }
    end
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
