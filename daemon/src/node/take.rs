//! Taking a write: made durable here, acknowledged, and left in the operation log for the replicas (E5).

use std::borrow::Cow;
use std::sync::Arc;

use isochrone_config::Mode;
use isochrone_edge::{IdempotencyKey, Level, Receipt, Refusal, WriteCommand, WriteOp, Written};
use isochrone_ident::{Key, Kind, Namespace, Version};
use isochrone_replica::{Live, Record, Sequence, Session};
use isochrone_store::{Committed, Durability, KeptAnswer, Placed, RequestKey, Write, WriteError, WriteSet};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::core::{Core, lock};
use super::find::Wanted;
use super::identity::HLC_HIGH;
use super::options::Mutation;
use super::view::View;

/// What is kept under an idempotency key: enough to know a repeat and to answer it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FirstAnswer {
    /// Of the request.
    pub(crate) fingerprint: u128,
    /// Of its write.
    pub(crate) version: Version,
}

impl Core {
    /// Takes a write: in a strong namespace its quorum does.
    pub(crate) async fn take(self: &Arc<Self>, command: WriteCommand) -> Result<Written, Refusal> {
        if self.view.load().namespace(&command.ns).is_some_and(|spec| spec.mode == Mode::Strong) {
            return self.write_strong(command).await;
        }
        let session = self.session_of(command.session.as_ref().map(isochrone_edge::SessionToken::as_str))?;
        let view = self.view.load_full();
        let evictable = self.check_write(&view, &command.ns, &command.key, command.level)?;
        self.follow_session(&session)?;
        let deadline = command.deadline.min(Instant::now() + self.options.write_deadline);
        let (fingerprint, level) = (command.fingerprint, command.level);
        let (ns, key) = (command.ns.clone(), command.key.clone());
        let (set, version) = self.write_set(command, evictable, &session)?;
        let committed = self.carry_out(set, version, deadline).await?.map_err(|error| refusal_of(&error))?;
        let first = committed.earlier.as_deref().map(|earlier| first_answer(earlier, fingerprint)).transpose()?;
        if level == Level::Quorum {
            let Some(spec) = view.namespace(&ns) else { return Err(Refusal::NoSuchNamespace(ns)) };
            let slot = View::slot(&ns, key.as_bytes());
            let wanted = Wanted { spec, slot, ns: &ns, kind: Kind::Value, key: &key, session: &session, deadline };
            let logged = committed.outcomes.first().and_then(|outcome| outcome.logged);
            self.confirm(&view, &wanted, logged).await?;
        }
        Ok(self.written(first.unwrap_or(version), first.is_some(), level, session))
    }

    /// A write is later than all that its session has seen (E9), which is at most the allowed skew ahead.
    pub(crate) fn follow_session(&self, session: &Session) -> Result<(), Refusal> {
        let followed = self.stamps.observe(session.latest(), self.now());
        followed.map(drop).map_err(|ahead| Refusal::SessionTokenInvalid { detail: ahead.to_string().into() })
    }

    /// Commits a write of this node's own. It runs to its end whether or not the client waits for it.
    ///
    /// # Errors
    /// [`Refusal::OutcomeUnknown`] when that takes too long; what the store says is the inner result.
    pub(crate) async fn carry_out(
        self: &Arc<Self>,
        set: WriteSet,
        version: Version,
        deadline: Instant,
    ) -> Result<Result<Committed, WriteError>, Refusal> {
        let core = Arc::clone(self);
        let ended = tokio::spawn(async move { core.commit_own(set, version).await });
        match tokio::time::timeout_at(deadline, ended).await {
            Ok(Ok(committed)) => Ok(committed),
            Ok(Err(_)) => Err(Refusal::OutcomeUnknown { detail: "the daemon is stopping".into() }),
            Err(_) => Err(Refusal::OutcomeUnknown { detail: "the disk did not answer in time".into() }),
        }
    }

    /// Level `quorum`: returns once a majority of the replicas have the write, or what replaced it.
    pub(crate) async fn confirm(&self, view: &View, wanted: &Wanted<'_>, logged: Option<Sequence>) -> Result<(), Refusal> {
        if let Some(through) = logged {
            return self.await_majority(wanted.ns, wanted.slot, through, wanted.deadline).await;
        }
        // A repeat, or a write that had already been replaced when it was committed: what is held now may be another daemon's, so it is read and mended.
        let wanted = Wanted { session: &Session::default(), ..*wanted };
        let unknown = |refusal: Refusal| Refusal::OutcomeUnknown { detail: Cow::Owned(refusal.to_string()) };
        self.find_at_majority(view, &wanted).await.map(drop).map_err(unknown)
    }

    fn written(&self, version: Version, repeated: bool, consistency: Level, mut session: Session) -> Written {
        session.note(version.node, version.hlc);
        let session = Some(self.token(session));
        let receipt = Receipt { consistency, region: self.me.region.clone(), age_ms: None, session, path: None };
        Written { version, created: None, receipt, repeated }
    }

    /// Whether the write may be taken; says whether its namespace is evictable.
    pub(crate) fn check_write(&self, view: &View, ns: &Namespace, key: &Key, level: Level) -> Result<bool, Refusal> {
        let Some(spec) = view.namespace(ns) else { return Err(Refusal::NoSuchNamespace(ns.clone())) };
        super::read::check_level(spec, level)?;
        if *self.stop.borrow() {
            return Err(Refusal::NotReady { detail: "it is stopping".into() });
        }
        if !self.is_member() {
            return Err(Refusal::NotReady { detail: "it has not joined its cluster yet".into() });
        }
        if let Some(off_ms) = self.clock_off_ms() {
            metrics::counter!("isochrone_node_refused_total", "reason" => "clock").increment(1);
            return Err(Refusal::ClockSkew { off_ms, max_ms: self.options.clock.ahead_ms_max });
        }
        if self.store.stats().log_bytes >= self.options.log_bytes_max {
            metrics::counter!("isochrone_node_refused_total", "reason" => "log").increment(1);
            return Err(Refusal::StoreFull { detail: Cow::Owned(self.log_full()) });
        }
        if level == Level::Quorum {
            self.check_majority(view, ns, View::slot(ns, key.as_bytes()))?;
        }
        Ok(spec.keeping == isochrone_config::Keeping::Evictable)
    }

    /// What fills the operation log: the members that do not take what is kept for them.
    fn log_full(&self) -> String {
        let head = self.head.borrow().0;
        let behind: Vec<String> = lock(&self.delivery).peers().filter(|(_, at)| at.0 < head).map(|(peer, _)| peer.to_string()).collect();
        format!(
            "the operation log has {} bytes (`store.log_bytes_max`) that {} did not acknowledge; bring it back, or remove it with `isochrone members remove`",
            self.options.log_bytes_max,
            behind.join(", ")
        )
    }

    /// The commit of a write, and the version that it gives.
    fn write_set(&self, command: WriteCommand, evictable: bool, session: &Session) -> Result<(WriteSet, Version), Refusal> {
        let key = command.idempotency_key.as_ref().map(request_key).transpose()?;
        let now = self.now();
        let version = self.stamps.issue(now);
        let first = FirstAnswer { fingerprint: command.fingerprint, version };
        let record = match command.op {
            WriteOp::Delete => Record::tombstone(version),
            WriteOp::Put { value, content_type, ttl } => {
                Record::live(version, Live { value, content_type, expires_at: ttl.map(|ttl| now.plus_millis(millis(ttl))) })
            }
        };
        let until = now.plus_millis(millis(self.options.idempotency_ttl));
        let unsynced = evictable || self.options.breaks(Mutation::AcknowledgeUnsynced);
        let set = WriteSet {
            answers: key.into_iter().map(|key| KeptAnswer { key, until, body: super::wire::encode(&first), counted: false }).collect(),
            entries: vec![Placed {
                slot: View::slot(&command.ns, command.key.as_bytes()),
                ns: command.ns,
                kind: Kind::Value,
                key: command.key,
                write: Write::Merge(record.caused_by(self.causes(session))),
                evictable,
            }],
            log: true,
            facts: vec![(HLC_HIGH, Some(super::wire::encode(&version.hlc)))],
            durability: if unsynced { Durability::Relaxed } else { Durability::AtOnce },
            ..WriteSet::default()
        };
        Ok((set, version))
    }

    /// Commits, and runs to its end whether or not the client is still there.
    async fn commit_own(&self, set: WriteSet, version: Version) -> Result<Committed, WriteError> {
        let committed = self.store.commit(set).await;
        if let Ok(committed) = &committed {
            for sequence in committed.outcomes.iter().filter_map(|o| o.logged) {
                self.logged(sequence);
            }
        }
        self.stamps.settle(version);
        committed
    }
}

/// The version that a repeated request was given at first.
fn first_answer(earlier: &[u8], fingerprint: u128) -> Result<Version, Refusal> {
    let first: FirstAnswer = super::wire::decode(earlier).map_err(|reason| {
        tracing::error!(reason, "the answer kept under an idempotency key cannot be understood");
        Refusal::Internal { detail: "a kept answer cannot be understood".into() }
    })?;
    if first.fingerprint == fingerprint { Ok(first.version) } else { Err(Refusal::IdempotencyKeyReused) }
}

/// What the store keeps an answer under.
pub(crate) fn request_key(key: &IdempotencyKey) -> Result<RequestKey, Refusal> {
    RequestKey::new(key.as_str().to_owned()).map_err(|e| Refusal::Internal { detail: Cow::Owned(e.to_string()) })
}

pub(crate) fn millis(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// What a client is told of a failed commit.
pub(crate) fn refusal_of(error: &WriteError) -> Refusal {
    match error {
        WriteError::Refused(refused) => super::typed::refusal_of_change(refused),
        WriteError::Full(_) => Refusal::StoreFull { detail: Cow::Owned(error.to_string()) },
        WriteError::Busy => Refusal::Overloaded { queue: "store.queue_max".into(), retry_after: std::time::Duration::from_millis(100) },
        other => Refusal::OutcomeUnknown { detail: Cow::Owned(other.to_string()) },
    }
}
