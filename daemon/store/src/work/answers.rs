//! Answers to requests that may be repeated.

use bytes::Bytes;
use isochrone_ident::WallMicros;
use isochrone_replica::View;
use redb::ReadableTable;

use super::Work;
use crate::codec::{StoredAnswer, encode, seal, unseal};
use crate::tables::answer_cost;
use crate::words::{Outcome, RequestKey, Write, WriteSet};

impl Work<'_> {
    /// The answer kept for one of the set's request keys: then the set is a repeat.
    pub(super) fn earlier_answer(&self, set: &WriteSet, now: WallMicros) -> Result<Option<Bytes>, redb::Error> {
        for kept in &set.answers {
            if let Some(earlier) = self.kept_answer(&kept.key, now)? {
                return Ok(Some(earlier));
            }
        }
        Ok(None)
    }

    fn kept_answer(&self, key: &RequestKey, now: WallMicros) -> Result<Option<Bytes>, redb::Error> {
        let Some(row) = self.answers.get(key.as_bytes())? else { return Ok(None) };
        let kept = unseal::<StoredAnswer<'_>>(key.as_bytes(), row.value());
        Ok(kept.ok().filter(|kept| now < kept.until).map(|kept| Bytes::copy_from_slice(kept.answer)))
    }

    /// Keeps the set's own answers, and those it has learned of that are not here.
    pub(super) fn keep_answers(&mut self, set: &WriteSet, outcomes: &[Outcome], now: WallMicros) -> Result<(), redb::Error> {
        for kept in &set.answers {
            let value = if kept.counted { count_after(set, outcomes) } else { None };
            let body = value.map_or_else(|| kept.body.clone(), |value| [&kept.body[..], &encode(&value)].concat().into());
            self.keep_answer(&kept.key, &body, kept.until)?;
        }
        for (key, answer, until) in &set.learned {
            if self.kept_answer(key, now)?.is_none() {
                self.keep_answer(key, answer, *until)?;
            }
        }
        Ok(())
    }

    fn keep_answer(&mut self, key: &RequestKey, answer: &[u8], until: WallMicros) -> Result<(), redb::Error> {
        self.drop_answer(key.as_bytes())?;
        seal(key.as_bytes(), &StoredAnswer { until, answer }, &mut self.sealed);
        self.answers.insert(key.as_bytes(), self.sealed.as_slice())?;
        self.expiry.insert((until.0, key.as_bytes()), ())?;
        self.ledger.answers += 1;
        self.ledger.answers_bytes += answer_cost(key.as_bytes(), self.sealed.len());
        self.changed = true;
        Ok(())
    }

    pub(super) fn drop_answer(&mut self, key: &[u8]) -> Result<(), redb::Error> {
        let Some(row) = self.answers.remove(key)? else { return Ok(()) };
        if let Ok(kept) = unseal::<StoredAnswer<'_>>(key, row.value()) {
            self.expiry.remove((kept.until.0, key))?;
        }
        self.ledger.answers = self.ledger.answers.saturating_sub(1);
        self.ledger.answers_bytes = self.ledger.answers_bytes.saturating_sub(answer_cost(key, row.value().len()));
        self.changed = true;
        Ok(())
    }
}

/// What the counter that the set's first entry changes stands at afterwards.
fn count_after(set: &WriteSet, outcomes: &[Outcome]) -> Option<i64> {
    let Write::Change { stamp, .. } = &set.entries.first()?.write else { return None };
    match outcomes.first()?.state.as_ref()?.as_typed()?.view(stamp.now, stamp.skew_ms)? {
        View::Counter(value) => Some(value),
        _ => None,
    }
}
