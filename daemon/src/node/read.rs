//! Answering reads of values.

use isochrone_config::{Mode as NamespaceMode, NamespaceSpec};
use isochrone_edge::{Glance, Level, Object, ReadCommand, Receipt, Refusal, Served, Source};
use isochrone_ident::{Kind, Namespace};
use isochrone_replica::{Record, Session};

use super::core::Core;
use super::find::{Found, Wanted};
use super::view::View;

/// Whether the level can be given in that namespace by this version.
pub(crate) fn check_level(spec: &NamespaceSpec, level: Level) -> Result<(), Refusal> {
    match (spec.mode, level) {
        (NamespaceMode::Strong, _) => Err(Refusal::WrongMode {
            ns: spec.name.clone(),
            asked: "a counter, set, map or register".into(),
            allowed_by: "mode = \"eventual\"".into(),
        }),
        (NamespaceMode::Eventual, Level::Local | Level::Quorum) => Ok(()),
        (NamespaceMode::Eventual, Level::Strong) => {
            Err(Refusal::WrongMode { ns: spec.name.clone(), asked: "level `strong`".into(), allowed_by: "mode = \"strong\"".into() })
        }
    }
}

impl Core {
    /// Answers on the spot where this node is a replica or has a copy, which has all that the session has seen and is fresh enough.
    pub(crate) fn glance(&self, ns: &Namespace, key: &[u8], level: Level, session: Option<&str>) -> Glance {
        let view = self.view.load();
        let Some(spec) = view.namespace(ns) else { return Glance::Ask };
        if level != Level::Local || spec.mode != NamespaceMode::Eventual {
            return Glance::Ask;
        }
        let slot = View::slot(ns, key);
        let Ok(session) = self.session_of(session) else { return Glance::Ask };
        if !view.reads_here(spec, slot) {
            let copied = self.fresh_copy(spec, ns, Kind::Value, key, &session);
            return copied.map_or(Glance::Ask, |copied| self.glanced(copied.record, copied.age_ms, session));
        }
        let age_ms = self.age_ms();
        let is_fresh = spec.max_staleness.is_none_or(|max| age_ms.is_some_and(|age| age <= max.as_millis()));
        if !is_fresh || self.lacks(&session).is_some() {
            return Glance::Ask;
        }
        match self.store.get(slot, ns, Kind::Value, key) {
            Ok(record) => self.glanced(record, age_ms, session),
            Err(_) => Glance::Ask,
        }
    }

    fn glanced(&self, record: Option<Record>, age_ms: Option<u64>, session: Session) -> Glance {
        let token = self.token_of(session, record.as_ref());
        let receipt = Receipt { consistency: Level::Local, region: self.me.region.clone(), age_ms, session: Some(token), path: None };
        Glance::Answer(Served { object: self.object(record), receipt, source: Source::Hit })
    }

    /// Reads a key in an eventual namespace.
    pub(crate) async fn read(&self, command: ReadCommand) -> Result<Served, Refusal> {
        let view = self.view.load_full();
        let Some(spec) = view.namespace(&command.ns) else { return Err(Refusal::NoSuchNamespace(command.ns)) };
        if spec.mode == NamespaceMode::Strong {
            return self.read_strong(spec, command).await;
        }
        check_level(spec, command.level)?;
        let session = self.session_of(command.session.as_ref().map(isochrone_edge::SessionToken::as_str))?;
        let wanted = Wanted {
            spec,
            slot: View::slot(&command.ns, command.key.as_bytes()),
            ns: &command.ns,
            kind: Kind::Value,
            key: &command.key,
            session: &session,
            deadline: command.deadline,
        };
        let found = self.find_at(command.level, &view, &wanted).await?;
        let (receipt, source) = (self.receipt(&found, session), found.source);
        Ok(Served { object: self.object(found.record), receipt, source })
    }

    /// Finds a key's state at that level.
    pub(crate) async fn find_at(&self, level: Level, view: &View, wanted: &Wanted<'_>) -> Result<Found, Refusal> {
        match level {
            Level::Quorum => self.find_at_majority(view, wanted).await,
            Level::Local | Level::Strong => self.find(view, wanted).await,
        }
    }

    /// The receipt of a read, with the token of a session that has now seen it.
    pub(crate) fn receipt(&self, found: &Found, session: Session) -> Receipt {
        let token = self.token_of(session, found.record.as_ref());
        Receipt { consistency: found.level, region: found.region.clone(), age_ms: found.age_ms, session: Some(token), path: None }
    }

    fn object(&self, record: Option<Record>) -> Option<Object> {
        let record = record?;
        let version = record.version;
        let live = record.into_visible(self.now(), self.options.clock.ahead_ms_max)?;
        Some(Object { value: live.value, content_type: live.content_type, version, expires_at: live.expires_at })
    }
}
