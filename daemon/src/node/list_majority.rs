//! A listing at level `quorum`: a majority of the replicas of every slot lists what it holds, deletes included. Where all of them say the same of a
//! key that stands; where they differ the key is read at level `quorum`, which also mends those that are behind.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use isochrone_edge::{Level, ListPage, Listed, Refusal};
use isochrone_ident::{Key, Kind, Namespace, NodeId, SLOTS, Slot};
use isochrone_replica::{Record, Session, State};
use tokio::time::Instant;

use super::core::Core;
use super::find::Wanted;
use super::list::Page;
use super::view::View;
use super::wire::{ListAnswer, ListRequest, ListedState};

/// Whose answers there are, and whether they are enough.
struct Majority<'a> {
    view: &'a View,
    ns: &'a Namespace,
    answers: BTreeMap<NodeId, ListAnswer>,
}

impl Majority<'_> {
    /// The replicas of a slot that have answered, where they are a majority of them.
    fn of(&self, slot: Slot) -> Option<Vec<NodeId>> {
        let replicas = self.view.replicas(self.ns, slot).read;
        let answered: Vec<NodeId> = replicas.iter().copied().filter(|node| self.answers.contains_key(node)).collect();
        (2 * answered.len() > replicas.len()).then_some(answered)
    }

    fn is_complete(&self) -> bool {
        let mut known: BTreeMap<Vec<NodeId>, bool> = BTreeMap::new();
        Slot::all().all(|slot| {
            let replicas = self.view.replicas(self.ns, slot).read;
            *known.entry(replicas).or_insert_with(|| self.of(slot).is_some())
        })
    }

    /// Up to which key all answers go; `None`: to the end.
    fn complete_to(&self) -> Option<Key> {
        self.answers.values().filter_map(|answer| answer.next.clone()).min()
    }
}

impl Core {
    /// Lists keys at level `quorum`.
    pub(crate) async fn list_at_majority(
        &self,
        view: &View,
        request: ListRequest,
        deadline: Instant,
        limit: usize,
    ) -> Result<ListPage, Refusal> {
        let asked = Instant::now();
        let majority = self.ask_majority_to_list(view, &request, deadline).await?;
        let complete_to = majority.complete_to();
        let mut keys: BTreeSet<&Key> = BTreeSet::new();
        keys.extend(majority.answers.values().flat_map(|answer| &answer.entries).map(|entry| &entry.listed.key));
        let mut entries = Vec::new();
        for key in keys {
            if entries.len() > limit || complete_to.as_ref().is_some_and(|bound| key > bound) {
                break;
            }
            entries.extend(self.agreed(&majority, &request, key, deadline).await?);
        }
        let spent_ms = u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX);
        let age_ms = majority.answers.values().filter_map(|answer| answer.age_ms).min().map(|age| age.saturating_add(spent_ms));
        Ok(self.page(request.session, Page { entries, next: complete_to, age_ms, level: Level::Quorum }, limit))
    }

    /// Asks every replica for its slots, until a majority of each slot's has answered.
    async fn ask_majority_to_list<'v>(&self, view: &'v View, request: &'v ListRequest, deadline: Instant) -> Result<Majority<'v>, Refusal> {
        let mut slots_of: BTreeMap<NodeId, Vec<Slot>> = BTreeMap::new();
        for slot in Slot::all() {
            for node in view.replicas(&request.ns, slot).read {
                slots_of.entry(node).or_default().push(slot);
            }
        }
        let ask = |(node, slots): (NodeId, Vec<Slot>)| {
            let slots = (slots.len() < usize::from(SLOTS)).then_some(slots);
            let request = ListRequest { slots, dead: true, ..request.clone() };
            async move { (node, self.list_at(node, &request, deadline).await) }
        };
        let mut asked: FuturesUnordered<_> = slots_of.into_iter().map(ask).collect();
        let mut majority = Majority { view, ns: &request.ns, answers: BTreeMap::new() };
        let mut failures = Vec::new();
        while let Some((node, answer)) = asked.next().await {
            match answer {
                Ok(answer) => drop(majority.answers.insert(node, answer)),
                Err(failure) => failures.push(format!("{node}: {failure}")),
            }
            if majority.is_complete() {
                return Ok(majority);
            }
        }
        metrics::counter!("isochrone_node_quorum_timeouts_total", "of" => "list").increment(1);
        Err(Refusal::NoQuorum { detail: Cow::Owned(failures.join("; ")) })
    }

    /// What a majority says of a key; `None` where that is nothing to see.
    async fn agreed(
        &self,
        majority: &Majority<'_>,
        request: &ListRequest,
        key: &Key,
        deadline: Instant,
    ) -> Result<Option<Listed>, Refusal> {
        let slot = View::slot(&request.ns, key.as_bytes());
        let nodes = majority.of(slot).unwrap_or_default();
        let told = |node: &NodeId| majority.answers.get(node).and_then(|answer| answer.find(key));
        let mut states = nodes.iter().map(told);
        let first = states.next().flatten();
        if states.all(|other| other == first) {
            return Ok(first.filter(|state| self.is_shown(state)).map(|state| state.listed.clone()));
        }
        let Some(spec) = majority.view.namespace(&request.ns) else { return Ok(None) };
        let (ns, kind) = (&request.ns, request.kind);
        let wanted = Wanted { spec, slot, ns, kind, key, session: &Session::default(), deadline };
        let found = self.find_at_majority(majority.view, &wanted).await?;
        Ok(found.record.and_then(|record| self.listed(kind, key, &record)))
    }

    /// A record as a listing shows it; `None` where a reader sees nothing.
    fn listed(&self, kind: Kind, key: &Key, record: &Record) -> Option<Listed> {
        if !record.is_visible(self.now(), self.options.clock.ahead_ms_max) {
            return None;
        }
        let bytes = match &record.state {
            State::Live(live) => live.value.len(),
            State::Tombstone => return None,
            State::Typed(typed) => postcard::experimental::serialized_size(typed.as_ref()).unwrap_or(0),
        };
        let etag = if kind == Kind::Value { None } else { self.shown(Some(record)).as_ref().map(super::typed::etag_of) };
        Some(Listed { key: key.clone(), version: record.version, etag, bytes: bytes as u64, expires_at: record.expires_at() })
    }

    /// Whether a reader sees what a replica has told of.
    pub(crate) fn is_shown(&self, state: &ListedState) -> bool {
        let (now, skew_ms) = (self.now(), self.options.clock.ahead_ms_max);
        state.live && state.listed.expires_at.is_none_or(|at| now < at.plus_millis(skew_ms))
    }
}
