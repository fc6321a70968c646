//! Listing a namespace: from this node's own store where it holds every slot, else gathered from a nearby replica of each slot.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use isochrone_config::Mode;
use isochrone_edge::{Level, ListCommand, ListPage, Listed, Receipt, Refusal};
use isochrone_gossip::{Call, Traffic};
use isochrone_ident::{Key, Kind, Namespace, NodeId, Slot};
use isochrone_replica::Session;
use tokio::time::Instant;

use super::core::Core;
use super::find::not_caught_up;
use super::read::check_level;
use super::typed::etag_of;
use super::view::View;
use super::wire::{self, ListAnswer, ListRequest, ListedState};

/// Pages of the store that are read for one page of an answer, at most: keys that are deleted or of other slots fill them, too.
const LIST_ROUNDS: usize = 16;

/// Which replica answers for which slots; `None`: this node for all.
type Shares = BTreeMap<NodeId, Vec<Slot>>;

/// What an answer is made of.
pub(crate) struct Page {
    pub(crate) entries: Vec<Listed>,
    pub(crate) next: Option<Key>,
    pub(crate) age_ms: Option<u64>,
    pub(crate) level: Level,
}

impl Core {
    /// Lists keys of a namespace: in a strong one its quorums do.
    pub(crate) async fn list(&self, command: ListCommand) -> Result<ListPage, Refusal> {
        let view = self.view.load_full();
        let Some(spec) = view.namespace(&command.ns) else { return Err(Refusal::NoSuchNamespace(command.ns)) };
        if spec.mode == Mode::Strong {
            return self.list_strong(command).await;
        }
        check_level(spec, command.level)?;
        let session = self.session_of(command.session.as_ref().map(isochrone_edge::SessionToken::as_str))?;
        let request = ListRequest {
            ns: command.ns.clone(),
            kind: command.kind,
            prefix: command.prefix,
            after: command.after,
            limit: u32::try_from(command.limit).unwrap_or(u32::MAX),
            slots: None,
            dead: false,
            session,
        };
        if command.level == Level::Quorum {
            return self.list_at_majority(&view, request, command.deadline, command.limit).await;
        }
        if Slot::all().all(|slot| view.reads_here(spec, slot)) {
            self.catch_up(&request.session, command.deadline)
                .await
                .map_err(|lack| not_caught_up(&lack.to_string(), "a listing is answered here or not at all"))?;
            let answer = self.list_here(&request).map_err(|detail| Refusal::Internal { detail: Cow::Owned(detail) })?;
            let entries = answer.entries.into_iter().map(|entry| entry.listed).collect();
            let page = Page { entries, next: answer.next, age_ms: answer.age_ms, level: Level::Local };
            return Ok(self.page(request.session, page, command.limit));
        }
        self.list_everywhere(&view, request, command.deadline, command.limit).await
    }

    /// The answer, with the token of a session that has now seen it.
    pub(crate) fn page(&self, mut session: Session, page: Page, limit: usize) -> ListPage {
        let Page { mut entries, mut next, age_ms, level } = page;
        if entries.len() > limit {
            entries.truncate(limit);
            next = entries.last().map(|e| e.key.clone());
        }
        entries.iter().for_each(|entry| session.note(entry.version.node, entry.version.hlc));
        let session = Some(self.token(session));
        ListPage { entries, next, receipt: Receipt { consistency: level, region: self.me.region.clone(), age_ms, session, path: None } }
    }

    /// Each slot's nearest live replica, by node.
    fn shares(&self, view: &View, ns: &Namespace) -> Shares {
        let mut nearest: BTreeMap<Vec<NodeId>, Option<NodeId>> = BTreeMap::new();
        let mut shares = Shares::new();
        for slot in Slot::all() {
            let replicas = view.replicas(ns, slot).read;
            let node = *nearest.entry(replicas).or_insert_with_key(|replicas| self.mesh.rank(replicas).first().copied());
            if let Some(node) = node {
                shares.entry(node).or_default().push(slot);
            }
        }
        shares
    }

    /// Gathers a page from several replicas. A key is left out beyond the point up to which all of them have answered, so that none is
    /// skipped: the next page begins there.
    async fn list_everywhere(&self, view: &View, request: ListRequest, deadline: Instant, limit: usize) -> Result<ListPage, Refusal> {
        let asked = Instant::now();
        let shares = self.shares(view, &request.ns);
        let answers = shares.into_iter().map(|(node, slots)| {
            let request = ListRequest { slots: Some(slots), ..request.clone() };
            async move { self.list_at(node, &request, deadline).await.map_err(|e| format!("{node}: {e}")) }
        });
        let answers = futures_util::future::try_join_all(answers).await;
        let answers = answers.map_err(|detail| Refusal::NoReplica { detail: Cow::Owned(detail) })?;
        let complete_to = answers.iter().filter_map(|a| a.next.clone()).min();
        let spent_ms = u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX);
        let age_ms = answers.iter().map(|a| a.age_ms).reduce(|a, b| Some(a?.max(b?))).flatten().map(|age| age + spent_ms);
        let mut merged: BTreeMap<Key, Listed> = BTreeMap::new();
        for entry in answers.into_iter().flat_map(|a| a.entries).map(|entry| entry.listed) {
            if complete_to.as_ref().is_none_or(|bound| entry.key <= *bound) {
                merged.insert(entry.key.clone(), entry);
            }
        }
        let page = Page { entries: merged.into_values().collect(), next: complete_to, age_ms, level: Level::Local };
        Ok(self.page(request.session, page, limit))
    }

    /// The listing of one replica.
    pub(crate) async fn list_at(&self, node: NodeId, request: &ListRequest, deadline: Instant) -> Result<ListAnswer, String> {
        if node == self.id() {
            self.catch_up(&request.session, deadline).await.map_err(|lack| lack.to_string())?;
            return self.list_here(request);
        }
        let budget = deadline.saturating_duration_since(Instant::now()).min(self.options.read_deadline);
        let body = wire::encode(request);
        let call = Call { service: wire::LIST, class: Traffic::Foreground, deadline: budget, body, retries: true };
        let bytes = self.mesh.call(node, call).await.map_err(|e| e.to_string())?;
        wire::decode(&bytes)
    }

    /// Answers a peer's listing.
    pub(crate) async fn answer_list(&self, body: &[u8], deadline: Instant) -> Result<Bytes, String> {
        let request: ListRequest = wire::decode(body)?;
        self.catch_up(&request.session, deadline).await.map_err(|lack| lack.to_string())?;
        Ok(wire::encode(&self.list_here(&request)?))
    }

    fn list_here(&self, request: &ListRequest) -> Result<ListAnswer, String> {
        let wanted = request.slots.as_ref().map(|slots| slots.iter().copied().collect::<BTreeSet<Slot>>());
        let want = |key: &Key| wanted.as_ref().is_none_or(|slots| slots.contains(&View::slot(&request.ns, key.as_bytes())));
        let limit = request.limit as usize;
        let (mut entries, mut next) = (Vec::new(), request.after.clone());
        for _ in 0..LIST_ROUNDS {
            let after = next.as_ref().map(Key::as_bytes);
            let page = self
                .store
                .list(&request.ns, request.kind, &request.prefix, after, limit - entries.len(), &want)
                .map_err(|e| e.to_string())?;
            for item in page.items {
                let (version, bytes, expires_at) = (item.version, item.bytes, item.expires_at);
                let mut state = ListedState { listed: Listed { key: item.key, version, etag: None, bytes, expires_at }, live: item.live };
                if request.dead || self.is_shown(&state) {
                    state.listed.etag = self.listed_etag(request, &state.listed.key)?;
                    entries.push(state);
                }
            }
            next = page.next;
            if next.is_none() || entries.len() >= limit {
                break;
            }
        }
        Ok(ListAnswer { entries, next, age_ms: self.age_ms() })
    }

    /// The validator of a key that is not a value.
    fn listed_etag(&self, request: &ListRequest, key: &Key) -> Result<Option<u128>, String> {
        if request.kind == Kind::Value {
            return Ok(None);
        }
        let slot = View::slot(&request.ns, key.as_bytes());
        let record = self.store.get(slot, &request.ns, request.kind, key.as_bytes()).map_err(|e| e.to_string())?;
        Ok(self.shown(record.as_ref()).as_ref().map(etag_of))
    }
}
