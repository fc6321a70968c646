//! Reads and writes of values in strong namespaces, as the API asks for them.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use isochrone_config::NamespaceSpec;
use isochrone_edge::{
    Level, Matcher, Object, Preconditions, ReadCommand, Receipt, Refusal, Served, Source, WriteCommand, WriteOp, Written, revision_version,
};
use isochrone_ident::{Hlc, Kind, Namespace, Version};
use isochrone_quorum::{
    Act, Because, Began, Change, Effect, Envelope, Expect, Failure, Fence, Guard, KeyName, Outcome, RequestId, Revision, Token, Value,
    Verdict, Want, Wish,
};
use rand::Rng;
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_128;

use super::chosen::Begun;
use super::operate::Finished;
use crate::node::core::{Core, lock};
use crate::node::take::millis;

/// What a client named its own request by is told apart from what this daemon drew.
const NAMED: &[u8] = b"named\0";
/// A request that the client did not name may be tried for its deadline and this much longer, by this daemon and those that it hands it to.
const ANONYMOUS_MARGIN: Duration = Duration::from_secs(6);

/// The `ETag` of a revision.
const fn version_of(revision: Revision) -> Version {
    revision_version(revision.0)
}

/// The revision that an `ETag` names; `None` for one that no strong key ever had.
fn revision_of(version: &Version) -> Option<Revision> {
    (revision_version(version.hlc.0) == *version).then_some(Revision(version.hlc.0))
}

/// Counters, sets, maps and registers are eventual.
pub(super) fn only_values(ns: &Namespace, kind: Kind) -> Refusal {
    Refusal::WrongMode { ns: ns.clone(), asked: format!("a {kind}").into(), allowed_by: "mode = \"eventual\"".into() }
}

/// What the preconditions ask of the register.
fn expected(preconditions: &Preconditions) -> Expect {
    let revisions = |versions: &[Version]| versions.iter().filter_map(revision_of).collect();
    // Both must hold (RFC 9110 section 13.2.2).
    match (&preconditions.if_match, &preconditions.if_none_match) {
        (None, None) => Expect::Anything,
        (None, Some(Matcher::Any)) => Expect::Absent,
        (None, Some(Matcher::Versions(none))) => Expect::NoneOf(revisions(none)),
        (Some(Matcher::Any), None) => Expect::Present,
        (Some(Matcher::Versions(any)), None) => Expect::AnyOf(revisions(any)),
        (Some(_), Some(Matcher::Any)) => Expect::AnyOf(Vec::new()),
        (Some(Matcher::Any), Some(Matcher::Versions(none))) => Expect::Another(revisions(none)),
        (Some(Matcher::Versions(any)), Some(none)) => {
            Expect::AnyOf(any.iter().filter(|version| !none.matches(Some(version))).filter_map(revision_of).collect())
        }
    }
}

impl Core {
    /// The request's identity (Q11): of what the client called it, or drawn.
    fn request_id(&self, command: &WriteCommand, deadline: Instant) -> RequestId {
        let now = self.now();
        match &command.idempotency_key {
            Some(key) => {
                let nonce = xxh3_128(&[NAMED, key.as_str().as_bytes()].concat());
                let until = now.plus_millis(millis(self.options.idempotency_ttl));
                RequestId { nonce, print: command.fingerprint as u64, until }
            }
            None => {
                let nonce = lock(&self.strong.random).random();
                let patience = deadline.saturating_duration_since(Instant::now()) + ANONYMOUS_MARGIN;
                RequestId { nonce, print: 0, until: now.plus_millis(millis(patience)) }
            }
        }
    }

    fn change(&self, command: &WriteCommand, deadline: Instant) -> Change {
        let now = self.now();
        let act = match &command.op {
            WriteOp::Delete => Act::Delete,
            WriteOp::Put { value, content_type, ttl } => Act::Put(Value {
                bytes: value.clone(),
                content_type: content_type.clone(),
                expires: ttl.map(|ttl| now.plus_millis(millis(ttl))),
                written: now,
            }),
        };
        let fence = command.preconditions.fence.as_ref();
        let fence = fence.map(|fence| Fence { guard: Guard(fence.lock.as_bytes().to_vec().into()), token: Token(fence.token) });
        Change { id: self.request_id(command, deadline), expect: expected(&command.preconditions), fence, act }
    }

    /// Carries out a write in a strong namespace.
    pub(crate) async fn write_strong(&self, command: WriteCommand) -> Result<Written, Refusal> {
        self.check_strong_write()?;
        let mut session = self.session_of(command.session.as_ref().map(isochrone_edge::SessionToken::as_str))?;
        let began = Instant::now();
        let deadline = command.deadline.min(began + self.options.strong.deadline);
        let change = self.change(&command, deadline);
        let fence = command.preconditions.fence.as_ref();
        let shown = fence.map_or_else(|| (Arc::from(""), 0), |fence| (Arc::clone(&fence.lock), fence.token));
        let wish = Wish { is_repeat: command.idempotency_key.is_some(), ..Wish::from(Want::Change(change)) };
        let key = KeyName { namespace: command.ns, key: command.key };
        let finished = self.operate(key, wish, deadline).await;
        self.strong.meters.ended(&finished, began.elapsed());
        let path = self.path(&finished, began);
        let (revision, effect) = match finished.result.map_err(|failure| refusal_of_failure(failure, &path))? {
            Outcome::Written(Verdict::Applied { revision, effect }) => (revision, Some(effect)),
            Outcome::Written(Verdict::NothingThere) => (Revision::default(), None),
            Outcome::Written(Verdict::Refused(refusal)) => return Err(self.refusal_of_register(&refusal, shown)),
            Outcome::Read(_) => return Err(Refusal::Internal { detail: "a write was answered as a read".into() }),
        };
        session.note_strong(Hlc::at(self.now()));
        Ok(Written {
            version: version_of(revision),
            created: Some(effect == Some(Effect::Created)),
            receipt: self.strong_receipt(Level::Strong, None, session, Some(path)),
            repeated: false,
        })
    }

    fn check_strong_write(&self) -> Result<(), Refusal> {
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
        Ok(())
    }

    /// Reads a key in a strong namespace.
    pub(crate) async fn read_strong(&self, spec: &NamespaceSpec, command: ReadCommand) -> Result<Served, Refusal> {
        let session = self.session_of(command.session.as_ref().map(isochrone_edge::SessionToken::as_str))?;
        let key = KeyName { namespace: command.ns, key: command.key };
        if command.level == Level::Local
            && let Some(served) = self.chosen_here(spec, &key, &session)
        {
            return Ok(served);
        }
        if !self.is_member() {
            return Err(Refusal::NotReady { detail: "it has not joined its cluster yet".into() });
        }
        let (began, since) = (Instant::now(), self.now());
        let deadline = command.deadline.min(began + self.options.strong.deadline);
        let want = if command.for_update { Want::ReadForUpdate } else { Want::Read };
        let finished = self.operate(key.clone(), Wish::from(want), deadline).await;
        self.strong.meters.ended(&finished, began.elapsed());
        let path = self.path(&finished, began);
        let envelope = match finished.result {
            Ok(Outcome::Read(envelope)) => envelope,
            Ok(Outcome::Written(_)) => return Err(Refusal::Internal { detail: "a read was answered as a write".into() }),
            Err(failure) => return self.without_quorum(spec, command.level, &key, &session, refusal_of_read(failure, &path)),
        };
        if command.level == Level::Local || self.strong.chosen.has(&key) {
            self.strong.chosen.keep(key, envelope.clone(), Begun { at: began, wall: since });
        }
        let mut session = session;
        session.note_strong(Hlc::at(since));
        let receipt = self.strong_receipt(Level::Strong, Some(0), session, Some(path));
        Ok(Served { object: self.strong_object(envelope.as_deref()), receipt, source: Source::ForwardedRequest })
    }

    /// What a reader sees of a register.
    pub(crate) fn strong_object(&self, envelope: Option<&Envelope>) -> Option<Object> {
        let envelope = envelope?;
        let value = envelope.live(self.now(), self.options.clock.ahead_ms_max.saturating_mul(1000))?;
        Some(Object {
            value: value.bytes.clone(),
            content_type: value.content_type.clone(),
            version: version_of(envelope.revision),
            expires_at: value.expires,
        })
    }

    pub(crate) fn strong_receipt(
        &self,
        consistency: Level,
        age_ms: Option<u64>,
        session: isochrone_replica::Session,
        path: Option<Arc<str>>,
    ) -> Receipt {
        Receipt { consistency, region: self.me.region.clone(), age_ms, session: Some(self.token(session)), path }
    }

    /// What was done, and what had been expected, for `Isochrone-Path`.
    fn path(&self, finished: &Finished, began: Instant) -> Arc<str> {
        let ms = |micros: u64| micros as f64 / 1e3;
        let took = ms(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
        let way = if finished.by.is_some() { "owner" } else { "here" };
        let estimate = finished.estimate_micros.map_or_else(|| "unknown".to_owned(), |micros| format!("{:.1}", ms(micros)));
        format!(
            "way={way}; began={}; trips={}; estimate-ms={estimate}; took-ms={took:.1}",
            began_text(finished.course.began),
            finished.course.trips
        )
        .into()
    }

    fn refusal_of_register(&self, refusal: &isochrone_quorum::Refusal, shown: (Arc<str>, u64)) -> Refusal {
        use isochrone_quorum::Refusal as Of;
        let retry_after = Duration::from_secs(1);
        match *refusal {
            Of::Precondition { found } => Refusal::PreconditionFailed { current: found.map(version_of) },
            Of::Fenced(highest) => Refusal::FenceStale { lock: shown.0, token: shown.1, highest: highest.0 },
            Of::BelowFloor(floor) => Refusal::FenceBelowFloor { lock: shown.0, token: shown.1, floor },
            Of::Reused => Refusal::IdempotencyKeyReused,
            Of::RingFull => Refusal::RingFull { max: self.options.strong.ring as u64, retry_after },
            Of::FencesFull => Refusal::FencesFull { max: self.options.strong.fences as u64, retry_after },
            // Neither can be: this daemon has made the window, within its bounds, a moment ago.
            Of::TooOld | Of::TooLong => Refusal::DeadlineBefore,
        }
    }
}

const fn began_text(began: Option<Began>) -> &'static str {
    match began {
        Some(Began::Read) => "read",
        Some(Began::Prepared) => "prepare",
        Some(Began::Warm) => "warm",
        Some(Began::Granted) => "granted",
        None => "nothing",
    }
}

/// What a client is told of a write that failed (Q10).
fn refusal_of_failure(failure: Failure, path: &str) -> Refusal {
    match failure {
        Failure::NothingHappened(Because::NoQuorum) => Refusal::NoQuorum { detail: Cow::Owned(path.to_owned()) },
        Failure::NothingHappened(Because::Busy) => {
            Refusal::Overloaded { queue: "strong.queue".into(), retry_after: Duration::from_millis(100) }
        }
        Failure::OutcomeUnknown => Refusal::OutcomeUnknown { detail: Cow::Owned(format!("too few replicas answered in time ({path})")) },
    }
}

/// A read changes nothing, whatever has left for it.
fn refusal_of_read(failure: Failure, path: &str) -> Refusal {
    match failure {
        Failure::OutcomeUnknown => refusal_of_failure(Failure::NothingHappened(Because::NoQuorum), path),
        other => refusal_of_failure(other, path),
    }
}
