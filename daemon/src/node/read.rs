//! Reading a key: from this node's own store where it is a replica, else from the nearest replica that answers (M8).

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use isochrone_config::{Mode as NamespaceMode, NamespaceSpec};
use isochrone_edge::{Glance, Level, Object, ReadCommand, Receipt, Refusal, Served, SessionToken, Source};
use isochrone_gossip::{Call, CallError, Traffic};
use isochrone_ident::{Key, Kind, Namespace, NodeId, Region, Slot};
use isochrone_replica::Record;
use tokio::time::Instant;

use super::core::Core;
use super::view::View;
use super::wire::{self, ReadAnswer, ReadRequest};

/// Whether the level can be given in that namespace by this version.
pub(crate) fn check_level(spec: &NamespaceSpec, level: Level) -> Result<(), Refusal> {
    match (spec.mode, level) {
        (NamespaceMode::Strong, _) => Err(Refusal::NotBuilt {
            what: "the strong path".into(),
            instead: "use a namespace with mode = \"eventual\", such as `data`".into(),
        }),
        (NamespaceMode::Eventual, Level::Local) => Ok(()),
        (NamespaceMode::Eventual, Level::Quorum) => {
            Err(Refusal::NotBuilt { what: "level `quorum` in an eventual namespace".into(), instead: "ask for level `local`".into() })
        }
        (NamespaceMode::Eventual, Level::Strong) => {
            Err(Refusal::WrongMode { ns: spec.name.clone(), asked: "level `strong`".into(), allowed_by: "mode = \"strong\"".into() })
        }
    }
}

/// A promise that this version cannot keep is not made.
pub(crate) fn check_session(token: Option<&SessionToken>) -> Result<(), Refusal> {
    let not_built = Refusal::NotBuilt { what: "a session token".into(), instead: "leave it out".into() };
    if token.is_some() { Err(not_built) } else { Ok(()) }
}

impl Core {
    /// Answers on the spot where this node is a replica.
    pub(crate) fn glance(&self, ns: &Namespace, key: &[u8], level: Level) -> Glance {
        let view = self.view.load();
        let Some(spec) = view.namespace(ns) else { return Glance::Ask };
        if level != Level::Local || spec.mode != NamespaceMode::Eventual {
            return Glance::Ask;
        }
        let slot = View::slot(ns, key);
        if !view.reads_here(spec, slot) {
            return Glance::Ask;
        }
        match self.store.get(slot, ns, Kind::Value, key) {
            Ok(record) => Glance::Answer(self.served(record, self.age_ms(), self.me.region.clone(), Source::Hit)),
            Err(_) => Glance::Ask,
        }
    }

    /// Reads a key in an eventual namespace.
    pub(crate) async fn read(&self, command: ReadCommand) -> Result<Served, Refusal> {
        let view = self.view.load_full();
        let Some(spec) = view.namespace(&command.ns) else { return Err(Refusal::NoSuchNamespace(command.ns)) };
        check_level(spec, command.level)?;
        check_session(command.session.as_ref())?;
        let slot = View::slot(&command.ns, command.key.as_bytes());
        let own = self.own_record(slot, &command.ns, &command.key)?;
        if view.reads_here(spec, slot) {
            return Ok(self.served(own, self.age_ms(), self.me.region.clone(), Source::Hit));
        }
        let replicas = view.replicas(&command.ns, slot).read;
        let request = wire::encode(&ReadRequest { ns: command.ns, key: command.key });
        let deadline = command.deadline.min(Instant::now() + self.options.read_deadline);
        match self.ask_nearest(&replicas, request, deadline).await {
            Ok(answer) => Ok(self.newest(own, answer)),
            // A write that this node took itself is still here: an answer with an unknown age is better than none.
            Err(_) if own.is_some() => Ok(self.served(own, None, self.me.region.clone(), Source::Hit)),
            Err(detail) => Err(Refusal::NoReplica { detail: Cow::Owned(detail) }),
        }
    }

    fn own_record(&self, slot: Slot, ns: &Namespace, key: &Key) -> Result<Option<Record>, Refusal> {
        self.store.get(slot, ns, Kind::Value, key.as_bytes()).map_err(|error| {
            tracing::error!(%error, %ns, %key, "a record cannot be read");
            Refusal::Internal { detail: Cow::Owned(error.to_string()) }
        })
    }

    /// The newer of what a replica said and what this node took itself and has not delivered yet.
    fn newest(&self, own: Option<Record>, answer: ReadAnswer) -> Served {
        let theirs = answer.record.filter(|theirs| own.as_ref().is_none_or(|own| own.is_older_than(theirs)));
        self.served(theirs.or(own), answer.age_ms, answer.region, Source::ForwardedMiss)
    }

    fn served(&self, record: Option<Record>, age_ms: Option<u64>, region: Region, source: Source) -> Served {
        let now = self.now();
        let object = record.and_then(|record| {
            let version = record.version;
            record.into_visible(now, self.options.clock.ahead_ms_max).map(|live| Object {
                value: live.value,
                content_type: live.content_type,
                version,
                expires_at: live.expires_at,
            })
        });
        Served { object, receipt: Receipt { consistency: Level::Local, region, age_ms, session: None }, source }
    }

    /// Asks the nearest replica, the next one too once the first is late or has failed, and takes the first answer (M8).
    async fn ask_nearest(&self, replicas: &[NodeId], request: Bytes, deadline: Instant) -> Result<ReadAnswer, String> {
        let ranked: Vec<NodeId> = self.mesh.rank(replicas).into_iter().filter(|&n| n != self.id()).collect();
        let mut waiting = FuturesUnordered::new();
        let mut failures = Vec::new();
        let mut next = ranked.iter();
        loop {
            let patience = match next.next() {
                Some(&node) => {
                    waiting.push(self.ask(node, request.clone(), deadline));
                    self.mesh.hedge_after(node)
                }
                None => deadline.saturating_duration_since(Instant::now()),
            };
            match self.first_answer(&mut waiting, patience, &mut failures).await {
                Some(answer) => return Ok(answer),
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

    async fn ask(&self, node: NodeId, body: Bytes, deadline: Instant) -> Result<ReadAnswer, String> {
        let asked = Instant::now();
        let budget = deadline.saturating_duration_since(asked);
        let call = Call { service: wire::READ, class: Traffic::Foreground, deadline: budget, body, retries: false };
        let bytes = self.mesh.call(node, call).await.map_err(|e: CallError| format!("{node}: {e}"))?;
        let mut answer: ReadAnswer = wire::decode(&bytes)?;
        let spent_ms = u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX);
        answer.age_ms = answer.age_ms.map(|age| age.saturating_add(spent_ms));
        Ok(answer)
    }

    /// Answers a peer's read.
    pub(crate) fn answer_read(&self, body: &[u8]) -> Result<Bytes, String> {
        let request: ReadRequest = wire::decode(body)?;
        let view = self.view.load();
        let slot = View::slot(&request.ns, request.key.as_bytes());
        if !view.replicas(&request.ns, slot).read.contains(&self.id()) {
            return Err("not a replica of this key; the epochs differ".to_owned());
        }
        let record = self.store.get(slot, &request.ns, Kind::Value, request.key.as_bytes()).map_err(|e| e.to_string())?;
        Ok(wire::encode(&ReadAnswer { record, age_ms: self.age_ms(), region: self.me.region.clone() }))
    }
}

fn describe(failures: &[String]) -> String {
    if failures.is_empty() { "none is known to be alive".to_owned() } else { failures.join("; ") }
}
