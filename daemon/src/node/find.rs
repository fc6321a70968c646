//! Finding a key's state: in this node's own store where it is a replica, else in a copy (E10), else at the nearest replica that answers (M8).
//!
//! What is asked of an answer beside the level: that it shows all that the session has seen (E9), and that it is no older than the namespace allows
//! (`max_staleness`, E10). A node that lags waits a little, then asks replicas that may be ahead of it; whoever answers first is taken.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use isochrone_config::NamespaceSpec;
use isochrone_edge::{Level, Refusal, Source};
use isochrone_gossip::{Call, CallError, Traffic};
use isochrone_ident::{Key, Kind, Namespace, NodeId, Region, Slot};
use isochrone_replica::{Opening, Record, Session};
use tokio::time::Instant;

use super::copies::Name;
use super::core::Core;
use super::view::View;
use super::wire::{self, ReadAnswer, ReadRequest};

/// How long a replica that lags waits for itself before it asks others.
const PATIENCE: Duration = Duration::from_millis(50);

/// A key, its slot, and what the answer must satisfy.
pub(crate) struct Wanted<'a> {
    pub(crate) spec: &'a NamespaceSpec,
    pub(crate) slot: Slot,
    pub(crate) ns: &'a Namespace,
    pub(crate) kind: Kind,
    pub(crate) key: &'a Key,
    pub(crate) session: &'a Session,
    pub(crate) deadline: Instant,
}

/// What was found, and what it rests on.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// The state; `None` where there is none.
    pub(crate) record: Option<Record>,
    /// How old it may be, in milliseconds, where that is known.
    pub(crate) age_ms: Option<u64>,
    /// The region whose replica answered.
    pub(crate) region: Region,
    /// Where it came from.
    pub(crate) source: Source,
    /// What was really given.
    pub(crate) level: Level,
}

impl Wanted<'_> {
    /// What is asked of a replica; a copy of its answer may rest on that stream.
    pub(crate) fn request(&self, copy: Option<Opening>) -> Bytes {
        let (ns, kind, key, session) = (self.ns.clone(), self.kind, self.key.clone(), self.session.clone());
        wire::encode(&ReadRequest { ns, kind, key, session, copy })
    }

    pub(crate) fn name(&self) -> Name<'_> {
        Name { ns: self.ns, kind: self.kind, key: self.key.as_bytes() }
    }

    /// The namespace's bound on the age of an answer, in milliseconds.
    fn age_ms_max(&self) -> Option<u64> {
        self.spec.max_staleness.map(isochrone_config::Span::as_millis)
    }

    /// Whether an answer of that age will do.
    pub(crate) fn is_fresh_enough(&self, age_ms: Option<u64>) -> bool {
        self.age_ms_max().is_none_or(|max| age_ms.is_some_and(|age| age <= max))
    }
}

impl Core {
    /// Finds a key's state at level `local`.
    pub(crate) async fn find(&self, view: &View, wanted: &Wanted<'_>) -> Result<Found, Refusal> {
        if view.reads_here(wanted.spec, wanted.slot) {
            return self.find_here(view, wanted).await;
        }
        if let Some(copied) = self.fresh_copy(wanted.spec, wanted.ns, wanted.kind, wanted.key.as_bytes(), wanted.session) {
            return Ok(self.found_here(copied.record, copied.age_ms));
        }
        self.want_copies(view, wanted.ns, wanted.slot);
        let own = self.own_record(wanted)?;
        match self.ask_others(view, wanted, true).await {
            Ok(answer) => Ok(self.joined(own, answer)),
            Err(detail) => self.without_replica(wanted, own, detail),
        }
    }

    /// No replica answered. A copy says how old it may be (E10). Else a write that this node took itself is still here, and an answer with an
    /// unknown age is better than none, where the namespace allows it and the session asks for no more.
    fn without_replica(&self, wanted: &Wanted<'_>, own: Option<Record>, detail: String) -> Result<Found, Refusal> {
        if let Some(copied) = self.copy_in_need(wanted, &detail)? {
            return Ok(self.found_here(join(own, copied.record), copied.age_ms));
        }
        if let Some(lack) = self.lacks(wanted.session) {
            return Err(not_caught_up(&lack.to_string(), &detail));
        }
        if own.is_some() && wanted.is_fresh_enough(None) {
            return Ok(self.found_here(own, None));
        }
        Err(Refusal::NoReplica { detail: Cow::Owned(detail) })
    }

    /// From this node's own store, once it has all that the session has seen; from another replica if that is sooner, or if this one is too old.
    async fn find_here(&self, view: &View, wanted: &Wanted<'_>) -> Result<Found, Refusal> {
        let lack = self.lacks(wanted.session);
        let is_fresh = wanted.is_fresh_enough(self.age_ms());
        if lack.is_none() && is_fresh {
            return Ok(self.found_here(self.own_record(wanted)?, self.age_ms()));
        }
        let elsewhere = async {
            if is_fresh {
                tokio::time::sleep(PATIENCE).await;
            }
            self.ask_others(view, wanted, false).await
        };
        let here = async {
            match self.catch_up(wanted.session, wanted.deadline).await {
                Ok(()) if is_fresh => Ok(()),
                Ok(()) => std::future::pending().await,
                Err(lack) => Err(lack),
            }
        };
        tokio::pin!(elsewhere, here);
        tokio::select! {
            biased;
            caught_up = &mut here => match caught_up {
                Ok(()) => Ok(self.found_here(self.own_record(wanted)?, self.age_ms())),
                Err(lack) => Err(not_caught_up(&lack.to_string(), "no other replica answered in time")),
            },
            answer = &mut elsewhere => match answer {
                Ok(answer) => Ok(self.joined(self.own_record(wanted)?, answer)),
                Err(detail) if !is_fresh => Err(self.too_stale(wanted, self.age_ms(), &detail)),
                Err(detail) => match here.await {
                    Ok(()) => Ok(self.found_here(self.own_record(wanted)?, self.age_ms())),
                    Err(lack) => Err(not_caught_up(&lack.to_string(), &detail)),
                },
            },
        }
    }

    pub(crate) fn too_stale(&self, wanted: &Wanted<'_>, age_ms: Option<u64>, detail: &str) -> Refusal {
        metrics::counter!("isochrone_node_refused_total", "reason" => "too_stale").increment(1);
        tracing::debug!(detail, "no replica is fresh enough");
        Refusal::TooStale { age_ms: age_ms.unwrap_or(u64::MAX), max_ms: wanted.age_ms_max().unwrap_or(u64::MAX) }
    }

    fn found_here(&self, record: Option<Record>, age_ms: Option<u64>) -> Found {
        Found { record, age_ms, region: self.me.region.clone(), source: Source::Hit, level: Level::Local }
    }

    /// What this node's store holds of a key, which is all there is only where it is a replica.
    pub(crate) fn own_record(&self, wanted: &Wanted<'_>) -> Result<Option<Record>, Refusal> {
        self.store.get(wanted.slot, wanted.ns, wanted.kind, wanted.key.as_bytes()).map_err(|error| {
            tracing::error!(%error, ns = %wanted.ns, key = %wanted.key, "a record cannot be read");
            Refusal::Internal { detail: Cow::Owned(error.to_string()) }
        })
    }

    /// What a replica said, joined with what this node took itself and has not delivered yet.
    fn joined(&self, own: Option<Record>, answer: ReadAnswer) -> Found {
        Found {
            record: join(own, answer.record),
            age_ms: answer.age_ms,
            region: answer.region,
            source: Source::ForwardedMiss,
            level: Level::Local,
        }
    }

    /// Asks the key's other replicas for what `wanted` asks, and keeps copies of what they say if told so.
    async fn ask_others(&self, view: &View, wanted: &Wanted<'_>, copies: bool) -> Result<ReadAnswer, String> {
        let replicas = view.replicas(wanted.ns, wanted.slot).read;
        let deadline = wanted.deadline.min(Instant::now() + self.options.read_deadline);
        let deadline = if wanted.session.is_empty() { deadline } else { deadline.min(Instant::now() + self.options.session_wait) };
        let deadline = match self.patience_with_copy(wanted, &replicas) {
            Some(patience) if copies => deadline.min(Instant::now() + patience),
            _ => deadline,
        };
        self.ask_nearest(&replicas, wanted, copies, deadline).await
    }

    /// Asks the nearest replica, the next one too once the first is late or has failed, and takes the first answer that will do (M8).
    async fn ask_nearest(&self, replicas: &[NodeId], wanted: &Wanted<'_>, copies: bool, deadline: Instant) -> Result<ReadAnswer, String> {
        let ranked: Vec<NodeId> = self.mesh.rank(replicas).into_iter().filter(|&n| n != self.id()).collect();
        let mut waiting = FuturesUnordered::new();
        let mut failures = Vec::new();
        let mut next = ranked.iter();
        loop {
            let patience = match next.next() {
                Some(&node) => {
                    waiting.push(self.ask_one_of(node, wanted, copies, deadline));
                    self.mesh.hedge_after(node)
                }
                None => deadline.saturating_duration_since(Instant::now()),
            };
            match self.first_answer(&mut waiting, patience, &mut failures).await {
                Some(answer) if wanted.is_fresh_enough(answer.age_ms) => return Ok(answer),
                Some(answer) => failures.push(format!("the replica in {} is too far behind", answer.region)),
                None if waiting.is_empty() && next.len() == 0 => return Err(describe(&failures)),
                None if Instant::now() >= deadline => return Err("the time for this request ran out".to_owned()),
                None => {}
            }
        }
    }

    /// Waits until one of the asked answers; `None` when `patience` ends or one fails.
    async fn first_answer<F>(&self, waiting: &mut FuturesUnordered<F>, patience: Duration, failures: &mut Vec<String>) -> Option<ReadAnswer>
    where
        F: Future<Output = Result<ReadAnswer, String>>,
    {
        match tokio::time::timeout(patience, waiting.next()).await {
            Ok(Some(Ok(answer))) => Some(answer),
            Ok(Some(Err(failure))) => {
                failures.push(failure);
                None
            }
            Ok(None) | Err(_) => None,
        }
    }

    /// Asks a replica for what `wanted` asks, and keeps a copy of what it says if told so.
    async fn ask_one_of(&self, node: NodeId, wanted: &Wanted<'_>, copies: bool, deadline: Instant) -> Result<ReadAnswer, String> {
        let opening = if copies { self.copy_stream(node) } else { None };
        let answer = self.ask(node, wanted.request(opening), deadline).await?;
        self.keep_copy(wanted, node, &answer);
        Ok(answer)
    }

    /// Asks one replica.
    pub(crate) async fn ask(&self, node: NodeId, body: Bytes, deadline: Instant) -> Result<ReadAnswer, String> {
        let asked = Instant::now();
        let budget = deadline.saturating_duration_since(asked);
        let call = Call { service: wire::READ, class: Traffic::Foreground, deadline: budget, body, retries: false };
        let bytes = self.mesh.call(node, call).await.map_err(|e: CallError| format!("{node}: {e}"))?;
        let mut answer: ReadAnswer = wire::decode(&bytes)?;
        let spent_ms = u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX);
        answer.age_ms = answer.age_ms.map(|age| age.saturating_add(spent_ms));
        Ok(answer)
    }

    /// Answers a peer's read, once this node has all that the session has seen.
    pub(crate) async fn answer_read(&self, from: NodeId, body: &[u8], deadline: Instant) -> Result<Bytes, String> {
        let request: ReadRequest = wire::decode(body)?;
        self.catch_up(&request.session, deadline).await.map_err(|lack| lack.to_string())?;
        // In this order (E10): what is shown, what is served, the ticket, the state.
        let (shown, view) = (self.shown_through(), self.view.load_full());
        let slot = View::slot(&request.ns, request.key.as_bytes());
        if !view.replicas(&request.ns, slot).read.contains(&self.id()) {
            return Err("not a replica of this key; the epochs differ".to_owned());
        }
        let ticket = request.copy.and_then(|opening| self.copies.ticket(from, opening, slot, shown, view.serves()));
        let record = self.store.get(slot, &request.ns, request.kind, request.key.as_bytes()).map_err(|e| e.to_string())?;
        // What is served no longer may be on its way out of the store.
        let ticket = ticket.filter(|_| self.view.load().serves() == view.serves());
        Ok(wire::encode(&ReadAnswer { record, age_ms: self.age_ms(), region: self.me.region.clone(), ticket }))
    }
}

/// Both states in one. Should they contradict each other, which no daemon brings about, the first stands.
pub(crate) fn join(own: Option<Record>, theirs: Option<Record>) -> Option<Record> {
    match (own, theirs) {
        (Some(own), Some(theirs)) => Some(own.clone().merge(theirs).unwrap_or_else(|conflict| {
            tracing::error!(%conflict, "two states of a key contradict each other");
            own
        })),
        (own, theirs) => own.or(theirs),
    }
}

/// 503: what the session has seen is neither here nor at a replica that answered.
pub(crate) fn not_caught_up(lack: &str, others: &str) -> Refusal {
    Refusal::SessionNotCaughtUp { detail: Cow::Owned(format!("{lack}; {others}")), retry_after: super::sessions::RETRY_AFTER }
}

fn describe(failures: &[String]) -> String {
    if failures.is_empty() { "none is known to be alive".to_owned() } else { failures.join("; ") }
}
