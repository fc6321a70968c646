//! Counters, sets, maps and multi-value registers, read and changed by clients (E1, E3, E5, E12).
//!
//! A change is carried out by the store's committer on what the store holds, so that dots are given out in order and are on disk ahead of use.
//! What only adds needs nobody else. What takes away, or replaces what a client has read, acts on what it *observes* (E5): the state is had first as a
//! read of that session would have it, joined into the store in the same commit, and without one the change is refused, not guessed.

mod words;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use isochrone_edge::{Datum, Level, Receipt, Refusal, SessionToken, Source, TypedRead, TypedServed, TypedWrite, TypedWritten};
use isochrone_ident::{Key, Kind, Namespace, Slot, Version};
use isochrone_replica::{Causes, Change, ChangeRefused, Record, Session, Stamp, TypedLimits};
use isochrone_store::{Committed, Durability, KeptAnswer, Placed, RequestKey, Write, WriteError, WriteSet};
use tokio::time::Instant;

use super::core::Core;
use super::find::{Wanted, join};
use super::identity::HLC_HIGH;
use super::options::Mutation;
use super::read::check_level;
use super::take::{FirstAnswer, millis, refusal_of, request_key};
use super::view::View;
use super::wire;

pub(crate) use words::{etag_of, refusal_of_change, shown};

/// Marks of requests that one daemon keeps in one counter: a window's worth of repeats for a busy counter, 40 KiB.
const CLAIMS_MAX: usize = 1_000;

/// A change that is about to be made, perhaps twice: what it needs may have to be fetched first.
struct Changing {
    ns: Namespace,
    kind: Kind,
    key: Key,
    slot: Slot,
    change: Change,
    ttl: Option<Duration>,
    evictable: bool,
    limits: TypedLimits,
    request: Option<RequestKey>,
    fingerprint: u128,
    causes: Option<Arc<Causes>>,
}

/// How a change ended that was not refused.
enum Ended {
    /// It was made.
    Made(Committed),
    /// Its request had been counted before, here or in another region.
    Counted,
}

impl Core {
    /// Reads a counter, set, map or register.
    pub(crate) async fn read_typed(&self, command: TypedRead) -> Result<TypedServed, Refusal> {
        let view = self.view.load_full();
        let Some(spec) = view.namespace(&command.ns) else { return Err(Refusal::NoSuchNamespace(command.ns)) };
        check_level(spec, command.level)?;
        let session = self.session_of(command.session.as_ref().map(SessionToken::as_str))?;
        let slot = View::slot(&command.ns, command.key.as_bytes());
        let (ns, kind, key) = (&command.ns, command.kind, &command.key);
        let wanted = Wanted { spec, slot, ns, kind, key, session: &session, deadline: command.deadline };
        let found = self.find_at(command.level, &view, &wanted).await?;
        let receipt = self.receipt(&found, session);
        let expires_at = found.record.as_ref().and_then(Record::expires_at);
        let datum = self.shown(found.record.as_ref());
        let etag = datum.as_ref().map_or(0, etag_of);
        Ok(TypedServed { datum, etag, expires_at, receipt, source: found.source })
    }

    /// What a reader sees of a typed record now; `None` where that is nothing.
    pub(crate) fn shown(&self, record: Option<&Record>) -> Option<Datum> {
        shown(record?.as_typed()?.view(self.now(), self.options.clock.ahead_ms_max)?)
    }

    /// Changes a counter, set, map or register in an eventual namespace.
    pub(crate) async fn write_typed(self: &Arc<Self>, command: TypedWrite) -> Result<TypedWritten, Refusal> {
        let session = self.session_of(command.session.as_ref().map(SessionToken::as_str))?;
        let view = self.view.load_full();
        let evictable = self.check_write(&view, &command.ns, &command.key, command.level)?;
        self.follow_session(&session)?;
        let deadline = command.deadline.min(Instant::now() + self.options.write_deadline);
        let level = command.level;
        let changing = self.changing(&view, command, evictable, &session)?;
        let Some(spec) = view.namespace(&changing.ns) else { return Err(Refusal::NoSuchNamespace(changing.ns)) };
        let Changing { ns, kind, key, slot, .. } = &changing;
        let wanted = Wanted { spec, slot: *slot, ns, kind: *kind, key, session: &session, deadline };
        let observed = if words::observes(&changing.change) { self.observe(&view, &wanted, level).await? } else { None };
        let is_whole = observed.is_some();
        let ended = self.make(&view, &wanted, &changing, observed).await?;
        if level == Level::Quorum {
            let logged = match &ended {
                Ended::Made(committed) => committed.outcomes.last().and_then(|outcome| outcome.logged),
                Ended::Counted => None,
            };
            self.confirm(&view, &wanted, logged).await?;
        }
        self.typed_written(&view, &changing, (ended, is_whole), level, session.clone(), deadline).await
    }

    fn changing(&self, view: &View, command: TypedWrite, evictable: bool, session: &Session) -> Result<Changing, Refusal> {
        let request = command.idempotency_key.as_ref().map(request_key).transpose()?;
        let claims = !self.options.breaks(Mutation::CountRepeats);
        let claim = command.idempotency_key.as_ref().filter(|_| claims).map(|key| words::claim_of(&command.ns, key));
        let bounds = self.options.typed;
        let limits = TypedLimits {
            set_members: view.namespace(&command.ns).map_or(bounds.set_members, |spec| spec.set_members_max(bounds.set_members)),
            member_bytes: bounds.member_bytes,
            map_fields: bounds.map_fields,
            register_values: bounds.register_values,
            claims: CLAIMS_MAX,
        };
        Ok(Changing {
            kind: command.op.kind(),
            slot: View::slot(&command.ns, command.key.as_bytes()),
            change: words::change_of(command.op, claim)?,
            ns: command.ns,
            key: command.key,
            ttl: command.ttl,
            evictable,
            limits,
            request,
            fingerprint: command.fingerprint,
            causes: self.causes(session),
        })
    }

    /// The state that a change is to act on, where this node's own store does not have it yet.
    async fn observe(&self, view: &View, wanted: &Wanted<'_>, level: Level) -> Result<Option<Record>, Refusal> {
        match self.find_at(level, view, wanted).await {
            // A copy is a hit as well, and lies beside the store.
            Ok(found) if found.source == Source::Hit && view.reads_here(wanted.spec, wanted.slot) => Ok(None),
            Ok(found) => Ok(found.record),
            Err(Refusal::NoReplica { detail }) => Err(Refusal::NothingToObserve { detail }),
            Err(other) => Err(other),
        }
    }

    /// Makes a change; should it rest on writes that are not here yet, once more with all that the replicas know.
    async fn make(
        self: &Arc<Self>,
        view: &View,
        wanted: &Wanted<'_>,
        changing: &Changing,
        observed: Option<Record>,
    ) -> Result<Ended, Refusal> {
        match self.try_change(changing, observed, wanted.deadline).await? {
            Err(ChangeRefused::UnknownContext) => {}
            ended => return settled(ended),
        }
        let (all, failures) = self.ask_all(view, wanted).await;
        match self.try_change(changing, all, wanted.deadline).await? {
            Err(ChangeRefused::UnknownContext) if !failures.is_empty() => {
                Err(Refusal::NothingToObserve { detail: Cow::Owned(failures.join("; ")) })
            }
            ended => settled(ended),
        }
    }

    /// The joined states of all replicas that answer, and why others did not.
    async fn ask_all(&self, view: &View, wanted: &Wanted<'_>) -> (Option<Record>, Vec<String>) {
        let deadline = wanted.deadline.min(Instant::now() + self.options.session_wait);
        let request = wanted.request(None);
        let others = view.replicas(wanted.ns, wanted.slot).read.into_iter().filter(|&node| node != self.id());
        let answers = futures_util::future::join_all(others.map(|node| self.ask(node, request.clone(), deadline))).await;
        let (mut all, mut failures) = (None, Vec::new());
        for answer in answers {
            match answer {
                Ok(answer) => all = join(all, answer.record),
                Err(failure) => failures.push(failure),
            }
        }
        (all, failures)
    }

    /// Commits a change, after joining what it was found to act on.
    async fn try_change(
        self: &Arc<Self>,
        changing: &Changing,
        observed: Option<Record>,
        deadline: Instant,
    ) -> Result<Result<Committed, ChangeRefused>, Refusal> {
        let (set, version) = self.change_set(changing, observed);
        match self.carry_out(set, version, deadline).await? {
            Ok(committed) => Ok(Ok(committed)),
            Err(WriteError::Refused(refused)) => Ok(Err(refused)),
            Err(error) => Err(refusal_of(&error)),
        }
    }

    fn change_set(&self, changing: &Changing, observed: Option<Record>) -> (WriteSet, Version) {
        let now = self.now();
        let version = self.stamps.issue(now);
        let stamp = Stamp {
            version,
            actor: self.actors.of(changing.evictable),
            now,
            skew_ms: self.options.clock.ahead_ms_max,
            expires_at: changing.ttl.map(|ttl| now.plus_millis(millis(ttl))),
        };
        let place = |write| Placed {
            slot: changing.slot,
            ns: changing.ns.clone(),
            kind: changing.kind,
            key: changing.key.clone(),
            write,
            evictable: changing.evictable,
        };
        let (limits, causes) = (changing.limits, changing.causes.clone());
        let change = Write::Change { change: changing.change.clone(), stamp, limits, causes };
        let first = FirstAnswer { fingerprint: changing.fingerprint, version };
        let until = now.plus_millis(millis(self.options.idempotency_ttl));
        let kept = |key| KeptAnswer { key, until, body: wire::encode(&first), counted: changing.kind == Kind::Counter };
        let set = WriteSet {
            entries: observed.map(|record| place(Write::Merge(record))).into_iter().chain([place(change)]).collect(),
            log: true,
            answers: changing.request.clone().map(kept).into_iter().collect(),
            facts: vec![(HLC_HIGH, Some(wire::encode(&version.hlc)))],
            durability: if changing.evictable { Durability::Relaxed } else { Durability::AtOnce },
            ..WriteSet::default()
        };
        (set, version)
    }

    async fn typed_written(
        &self,
        view: &View,
        changing: &Changing,
        (ended, is_whole): (Ended, bool),
        level: Level,
        mut session: Session,
        deadline: Instant,
    ) -> Result<TypedWritten, Refusal> {
        let (state, first, repeated) = match ended {
            Ended::Counted => (None, None, true),
            Ended::Made(Committed { earlier: Some(earlier), .. }) => {
                (None, Some(words::first_answer(&earlier, changing.fingerprint)?), true)
            }
            Ended::Made(committed) => (committed.outcomes.into_iter().next_back().and_then(|outcome| outcome.state), None, false),
        };
        let record = match state {
            // A replica's state was joined before the change, so the change has left all that is known.
            Some(state) if is_whole => Some(state),
            state => self.known_now(view, changing, state, deadline).await?,
        };
        if let Some((version, _)) = first {
            session.note(version.node, version.hlc);
        }
        let counted = first.and_then(|(_, counted)| counted).map(Datum::Counter);
        let datum = counted.or_else(|| self.shown(record.as_ref())).unwrap_or_else(|| words::empty(changing.kind));
        let session = Some(self.token_of(session, record.as_ref()));
        let receipt = Receipt { consistency: level, region: self.me.region.clone(), age_ms: None, session, path: None };
        Ok(TypedWritten { etag: etag_of(&datum), datum, receipt, repeated })
    }

    /// What is known of the key after a change: what the change left, and away from the replicas what the nearest of them has as well.
    async fn known_now(
        &self,
        view: &View,
        changing: &Changing,
        state: Option<Record>,
        deadline: Instant,
    ) -> Result<Option<Record>, Refusal> {
        let Some(spec) = view.namespace(&changing.ns) else { return Ok(state) };
        let Changing { ns, kind, key, slot, .. } = changing;
        let wanted = Wanted { spec, slot: *slot, ns, kind: *kind, key, session: &Session::default(), deadline };
        if view.reads_here(spec, *slot) {
            return if state.is_some() { Ok(state) } else { self.own_record(&wanted) };
        }
        let found = self.find(view, &wanted).await.ok().and_then(|found| found.record);
        Ok(join(state, found))
    }
}

fn settled(ended: Result<Committed, ChangeRefused>) -> Result<Ended, Refusal> {
    match ended {
        Ok(committed) => Ok(Ended::Made(committed)),
        Err(ChangeRefused::AlreadyCounted) => Ok(Ended::Counted),
        Err(refused) => Err(refusal_of_change(&refused)),
    }
}
