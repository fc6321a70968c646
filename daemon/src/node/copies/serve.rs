//! Reading from copies, and keeping what replicas answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use isochrone_config::NamespaceSpec;
use isochrone_edge::Refusal;
use isochrone_ident::{Hlc, Kind, Namespace, NodeId, Slot};
use isochrone_replica::{Opening, Record, Session, copy_age_ms, may_serve};

use super::Meters;
use super::held::{Copy, Fill, Name};
use crate::node::core::{Core, lock};
use crate::node::find::{Wanted, join, not_caught_up};
use crate::node::options::Mutation;
use crate::node::view::View;
use crate::node::wire::ReadAnswer;

/// With a copy to serve instead, a replica is waited for this many times the 95th percentile of its recent answers, and no less than that.
const HEDGES: u32 = 3;
const PATIENCE_MIN: Duration = Duration::from_millis(100);

/// A state that may be served, and how old it may be.
pub(crate) struct Copied {
    pub(crate) record: Option<Record>,
    pub(crate) age_ms: Option<u64>,
}

/// What a copy is worth to a session at this moment.
enum Worth {
    /// It may be served; its age.
    Good(Option<u64>),
    /// It is older than the namespace allows.
    TooOld(Option<u64>),
    /// It may lack what the session has seen.
    Behind,
    /// It is no copy any more.
    Outdated,
}

impl Core {
    /// A copy of the key that may be served without asking anybody. On the path of every read: no lock.
    pub(crate) fn fresh_copy(&self, spec: &NamespaceSpec, ns: &Namespace, kind: Kind, key: &[u8], session: &Session) -> Option<Copied> {
        let copy = self.copies.held.copy_of(&Name { ns, kind, key })?;
        let is_live = copy.is_live() || self.options.breaks(Mutation::TrustBrokenStream);
        match is_live.then(|| self.worth(spec, &copy, session))? {
            Worth::Good(age_ms) => {
                Meters::add(&self.copies.meters.hits);
                Some(Copied { record: copy.record.clone(), age_ms })
            }
            Worth::TooOld(_) | Worth::Behind | Worth::Outdated => None,
        }
    }

    /// No replica could be reached: the copy with its growing age, as far as the namespace and the session allow.
    ///
    /// # Errors
    /// [`Refusal::TooStale`], [`Refusal::SessionNotCaughtUp`]: there is a copy that may not be served.
    pub(crate) fn copy_in_need(&self, wanted: &Wanted<'_>, detail: &str) -> Result<Option<Copied>, Refusal> {
        let Some(copy) = self.copies.held.copy_of(&wanted.name()) else { return Ok(None) };
        match self.worth(wanted.spec, &copy, wanted.session) {
            Worth::Good(age_ms) => {
                Meters::add(&self.copies.meters.hits);
                Meters::add(&self.copies.meters.stale_hits);
                Ok(Some(Copied { record: copy.record.clone(), age_ms }))
            }
            Worth::TooOld(age_ms) => Err(self.too_stale(wanted, age_ms, detail)),
            Worth::Behind => Err(not_caught_up("the copy here may lack writes that the session has seen", detail)),
            Worth::Outdated => Ok(None),
        }
    }

    /// Until when a replica is waited for, while there is a copy that could be served instead.
    pub(crate) fn patience_with_copy(&self, wanted: &Wanted<'_>, replicas: &[NodeId]) -> Option<Duration> {
        let copy = self.copies.held.copy_of(&wanted.name())?;
        let is_good = matches!(self.worth(wanted.spec, &copy, wanted.session), Worth::Good(_));
        let nearest = self.mesh.rank(replicas).first().copied()?;
        is_good.then(|| (self.mesh.hedge_after(nearest) * HEDGES).max(PATIENCE_MIN))
    }

    fn worth(&self, spec: &NamespaceSpec, copy: &Arc<Copy>, session: &Session) -> Worth {
        let Some(shown) = copy.shown() else { return Worth::Outdated };
        let shown = if self.options.breaks(Mutation::TrustBrokenStream) { Hlc::at(self.now()) } else { shown };
        let promised = Hlc(self.promised.load(Ordering::Acquire));
        if shown < promised || !session.is_shown_by(shown, self.id()) {
            return Worth::Behind;
        }
        let age_ms = copy_age_ms(shown, self.now());
        let max_ms = spec.max_staleness.map(isochrone_config::Span::as_millis);
        if may_serve(age_ms, max_ms) { Worth::Good(age_ms) } else { Worth::TooOld(age_ms) }
    }

    /// A replica is about to be asked: its stream, and those of the key's other replicas, are to tell of the slot.
    pub(crate) fn want_copies(&self, view: &View, ns: &Namespace, slot: Slot) {
        Meters::add(&self.copies.meters.misses);
        if self.copies.is_on {
            let replicas = view.replicas(ns, slot).read.into_iter().filter(|&node| node != self.id());
            let is_new = lock(&self.copies.holder).want(replicas, slot);
            if is_new {
                self.copies.wanted.send_replace(());
            }
        }
    }

    /// The stream that a read at that replica may rest a copy on.
    pub(crate) fn copy_stream(&self, replica: NodeId) -> Option<Opening> {
        if self.copies.is_on { lock(&self.copies.holder).opening(replica) } else { None }
    }

    /// Keeps a replica's answer, joined with what this node took itself, where it came with a ticket that is good still.
    pub(crate) fn keep_copy(&self, wanted: &Wanted<'_>, from: NodeId, answer: &ReadAnswer) {
        let Some(ticket) = answer.ticket else { return };
        let own_ticket = self.copies.held.own_ticket(wanted.name().hash());
        let Ok(own) = self.own_record(wanted) else { return };
        let fill = Fill { name: wanted.name(), key: wanted.key, record: join(own, answer.record.clone()), from, ticket };
        let is_checked = !self.options.breaks(Mutation::KeepOvertakenCopy);
        lock(&self.copies.holder).keep(&self.copies.held, own_ticket, fill, is_checked);
    }
}
