//! Sessions (E9): what a client's token asks of this node, and the token that an answer gives back. The rules are in `isochrone_replica`'s
//! session module. A token that depends on nothing is made once: that of a hot key's hits costs a reference count.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use isochrone_edge::Refusal;
use isochrone_ident::Hlc;
use isochrone_replica::{BadToken, Causes, ClusterTag, Lack, Record, Session};
use tokio::time::Instant;

use super::core::{Core, lock};
use super::options::Mutation;

/// When to try again after a wait in vain.
pub(crate) const RETRY_AFTER: Duration = Duration::from_millis(200);

impl Core {
    /// What a request's token stands for; without one a session that begins here.
    pub(crate) fn session_of(&self, token: Option<&str>) -> Result<Session, Refusal> {
        let Some(token) = token else { return Ok(Session::default()) };
        let tag = ClusterTag::of(&self.cluster);
        Session::decode(token, tag, self.now(), self.options.clock.ahead_ms_max).map_err(|bad| {
            let reason = match bad {
                BadToken::Malformed => "malformed",
                BadToken::OtherCluster => "other_cluster",
                BadToken::FromTheFuture { .. } => "future",
            };
            metrics::counter!("isochrone_node_session_tokens_refused_total", "reason" => reason).increment(1);
            Refusal::SessionTokenInvalid { detail: Cow::Owned(bad.to_string()) }
        })
    }

    /// Which writes that the session has seen are missing here.
    pub(crate) fn lacks(&self, session: &Session) -> Option<Lack> {
        if session.is_empty() || self.options.breaks(Mutation::NoSessionWait) {
            return None;
        }
        session.lacks(&lock(&self.horizon), self.id())
    }

    /// Waits until this node has all that the session has seen, for `limits.session_wait` at most.
    pub(crate) async fn catch_up(&self, session: &Session, deadline: Instant) -> Result<(), Lack> {
        let (mut heard, began) = (self.heard.subscribe(), Instant::now());
        let until = deadline.min(began + self.options.session_wait);
        let Some(mut lack) = self.lacks(session) else { return Ok(()) };
        while let Ok(Ok(())) = tokio::time::timeout_at(until, heard.changed()).await {
            match self.lacks(session) {
                Some(still) => lack = still,
                None => {
                    metrics::histogram!("isochrone_node_session_wait_seconds").record(began.elapsed().as_secs_f64());
                    return Ok(());
                }
            }
        }
        metrics::counter!("isochrone_node_session_not_caught_up_total").increment(1);
        Err(lack)
    }

    /// What a write of this session depends on, as its record is to tell other sessions.
    pub(crate) fn causes(&self, session: &Session) -> Option<Arc<Causes>> {
        if session.is_empty() {
            return None;
        }
        let causes = Causes::of(session, self.stable());
        (!causes.is_empty()).then(|| Arc::new(causes))
    }

    /// The token of an answer: what the session has seen now, less what is stable everywhere.
    pub(crate) fn token(&self, mut session: Session) -> Arc<str> {
        session.prune(self.stable());
        let is_empty = session.is_empty() && session.strong() == Hlc::ZERO;
        if is_empty { Arc::clone(&self.empty_token) } else { session.encode(ClusterTag::of(&self.cluster)).into() }
    }

    /// The token of an answer that shows a record, or that there is none.
    pub(crate) fn token_of(&self, mut session: Session, record: Option<&Record>) -> Arc<str> {
        match record.map(|record| (record, record.as_typed())) {
            Some((_, Some(typed))) => typed.seen().for_each(|(node, latest)| session.note(node, latest)),
            Some((record, None)) => session.note(record.version.node, record.version.hlc),
            None => {}
        }
        let causes = record.and_then(|record| record.causes.as_ref()).filter(|causes| causes.latest() > self.stable());
        if let Some(causes) = causes
            && !self.options.breaks(Mutation::ForgetCauses)
        {
            session.note_causes(causes);
        }
        self.token(session)
    }

    /// One token for two: what either has seen.
    pub(crate) fn join_tokens(&self, held: &Arc<str>, newer: &Arc<str>) -> Arc<str> {
        let (Ok(mut held), Ok(newer)) = (self.session_of(Some(held)), self.session_of(Some(newer))) else { return Arc::clone(newer) };
        held.join(&newer);
        self.token(held)
    }
}
