//! Q17: copies of chosen values, for reads at level `local` in strong namespaces: maybe old, never unchosen.
//!
//! What a read of this daemon at a quorum has shown was chosen, and was the newest at some moment after the read had begun: so old a copy is at most. It is
//! served for as long as `strong.local_age_max` and the namespace's `max_staleness` allow; where no quorum can be reached, for as long as the latter does.

use std::sync::Arc;

use isochrone_config::NamespaceSpec;
use isochrone_edge::{Level, Refusal, Served, Source};
use isochrone_ident::{Hlc, WallMicros};
use isochrone_quorum::{Envelope, KeyName};
use isochrone_replica::Session;
use moka::sync::Cache;
use tokio::time::Instant;

use crate::node::core::Core;

/// When a read began: by the clock that never jumps, for its age, and by the wall clock, for sessions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begun {
    pub(crate) at: Instant,
    pub(crate) wall: WallMicros,
}

/// A register as it was chosen, and since when that may be old.
#[derive(Debug, Clone)]
struct Copied {
    envelope: Option<Arc<Envelope>>,
    since: Begun,
}

/// Copies of chosen values, within `strong.copies` keys.
pub(crate) struct Chosen {
    copies: Cache<KeyName, Copied>,
}

impl Chosen {
    pub(crate) fn new(keys_max: usize) -> Self {
        Self { copies: Cache::new(keys_max as u64) }
    }

    /// Keeps what a read that began at `since` has shown, unless there is something newer.
    pub(crate) fn keep(&self, key: KeyName, envelope: Option<Arc<Envelope>>, since: Begun) {
        let copy = Copied { envelope, since };
        self.copies.entry(key).and_upsert_with(|held| match held {
            Some(held) if held.value().since.at > copy.since.at => held.into_value(),
            _ => copy,
        });
    }

    /// Whether there is a copy of the key, which is then worth renewing.
    pub(crate) fn has(&self, key: &KeyName) -> bool {
        self.copies.contains_key(key)
    }

    fn get(&self, key: &KeyName) -> Option<Copied> {
        self.copies.get(key)
    }
}

impl Core {
    /// A copy that is young enough.
    pub(crate) fn chosen_here(&self, spec: &NamespaceSpec, key: &KeyName, session: &Session) -> Option<Served> {
        let max_ms = u64::try_from(self.options.strong.local_age_max.as_millis()).unwrap_or(u64::MAX);
        let max_ms = spec.max_staleness.map_or(max_ms, |max| max.as_millis().min(max_ms));
        self.copy_within(max_ms, key, session)
    }

    /// No quorum could be reached: at level `local` the copy with its growing age, as far as the namespace allows.
    ///
    /// # Errors
    /// `refusal`, at another level or without such a copy.
    pub(crate) fn without_quorum(
        &self,
        spec: &NamespaceSpec,
        level: Level,
        key: &KeyName,
        session: &Session,
        refusal: Refusal,
    ) -> Result<Served, Refusal> {
        let max_ms = spec.max_staleness.map_or(u64::MAX, isochrone_config::Span::as_millis);
        let copy = if level == Level::Local { self.copy_within(max_ms, key, session) } else { None };
        copy.ok_or(refusal)
    }

    fn copy_within(&self, max_ms: u64, key: &KeyName, session: &Session) -> Option<Served> {
        let copy = self.strong.chosen.get(key)?;
        // What the session has seen may be by a clock that is behind this one's.
        let seen = session.strong();
        if seen > Hlc::ZERO && copy.since.wall < seen.wall().plus_millis(self.options.clock.ahead_ms_max) {
            return None;
        }
        let age_ms = u64::try_from(copy.since.at.elapsed().as_micros()).unwrap_or(u64::MAX).div_ceil(1000);
        if age_ms > max_ms {
            return None;
        }
        let mut session = session.clone();
        session.note_strong(Hlc::at(copy.since.wall));
        let receipt = self.strong_receipt(Level::Local, Some(age_ms), session, None);
        Some(Served { object: self.strong_object(copy.envelope.as_deref()), receipt, source: Source::Hit })
    }
}
