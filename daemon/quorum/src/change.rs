//! Q7, Q11: what a write makes of a register. A pure function of the register, the request and the time.

use std::sync::Arc;

use isochrone_ident::WallMicros;
use serde::{Deserialize, Serialize};

use crate::{Answered, Ballot, Content, Effect, Envelope, Guard, Mutation, RequestId, Revision, Token, Value};

/// What a write demands of the register before it applies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    /// Nothing.
    Anything,
    /// No value (`If-None-Match: *`).
    Absent,
    /// Some value (`If-Match: *`).
    Present,
    /// A value of exactly this revision (`If-Match`): compare-and-set.
    Revision(Revision),
    /// A value of one of these revisions (`If-Match` with a list).
    AnyOf(Vec<Revision>),
    /// No value, or one of another revision than these (`If-None-Match` with a list).
    NoneOf(Vec<Revision>),
    /// A value of another revision than these (`If-Match: *` beside `If-None-Match` with a list).
    Another(Vec<Revision>),
}

/// What to do with the register.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act {
    /// Store this value.
    Put(Value),
    /// Remove the value.
    Delete,
    /// Make a tombstone of a value whose expiry has passed, so that it can be forgotten (E8, Q16). Asked by daemons, not by clients: of what is still
    /// alive it is answered that nothing is there to be done.
    Expire,
}

/// The token that a lock's holder shows with a write (L5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// Which lock.
    pub guard: Guard,
    /// Refused when below the highest that the key has seen for that lock.
    pub token: Token,
}

/// A write, as a client asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The same in every try.
    pub id: RequestId,
    /// Its precondition.
    pub expect: Expect,
    /// Its fence, if it shows one.
    pub fence: Option<Fence>,
    /// What it does.
    pub act: Act,
}

/// Why a write was not applied; the register is as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The precondition does not hold.
    #[error("the precondition does not hold")]
    Precondition {
        /// The revision of the value that is there, if one is.
        found: Option<Revision>,
    },
    /// A later holder of the lock has been here.
    #[error("the token is older than {0:?}")]
    Fenced(Token),
    /// No fence is recorded for that guard, and the token is not above the floor: the holder raises its token above it and tries again (L5).
    #[error("the token is not above the floor {0}")]
    BelowFloor(u64),
    /// The ring of answered requests is full: try later (Q11).
    #[error("too many requests for this key within the retry window")]
    RingFull,
    /// Fences of too many guards are on this key.
    #[error("too many guards on this key")]
    FencesFull,
    /// Another request was answered under this nonce (Q11): this one was not, and never will be.
    #[error("another request had the same id")]
    Reused,
    /// The request may no longer be tried (Q11).
    #[error("the request is past its retry window")]
    TooOld,
    /// The request claims a retry window beyond the longest.
    #[error("the request's retry window ends too far in the future")]
    TooLong,
}

/// How a write ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Applied, by this try or an earlier one.
    Applied {
        /// The revision that it made.
        revision: Revision,
        /// What it did.
        effect: Effect,
    },
    /// A delete of what was not there, or an expiry of what is not over.
    NothingThere,
    /// Not applied.
    Refused(Refusal),
}

/// Bounds of a register, and of clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Answered requests that a register keeps.
    pub ring: usize,
    /// Guards whose fences a register keeps.
    pub fences: usize,
    /// The longest retry window, in microseconds.
    pub window_micros: u64,
    /// What two clocks may differ by, in microseconds.
    pub skew_micros: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { ring: 1024, fences: 16, window_micros: 600_000_000, skew_micros: 500_000 }
    }
}

/// What surrounds a decision.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) ballot: Ballot,
    /// The highest floor that a quorum showed.
    pub(crate) floor: u64,
    pub(crate) now: WallMicros,
    pub(crate) bounds: Bounds,
    pub(crate) mutation: Option<Mutation>,
}

/// Applies a change to the register, in place where nobody else holds it: how the write ends once that is chosen (or, unchanged, confirmed: Q7), and
/// whether the register has changed.
pub(crate) fn decide(register: &mut Option<Arc<Envelope>>, change: &Change, setting: &Setting) -> (Verdict, bool) {
    let effect = match judge(register.as_deref(), change, setting) {
        Ok(effect) => effect,
        Err(verdict) => return (verdict, false),
    };
    let envelope = Arc::make_mut(register.get_or_insert_with(|| Arc::new(unborn(setting.floor))));
    forget_answers(&mut envelope.ring, setting);
    envelope.revision = Revision(envelope.revision.0.saturating_add(1).max(setting.ballot.counter));
    envelope.content = match &change.act {
        Act::Put(value) => Content::Live(value.clone()),
        Act::Delete | Act::Expire => Content::Tombstone,
    };
    envelope.fences.extend(change.fence.clone().map(|fence| (fence.guard, fence.token)));
    envelope.ring.push(Answered { id: change.id, revision: envelope.revision, effect });
    (Verdict::Applied { revision: envelope.revision, effect }, true)
}

/// What the change will do, or how it ends without doing anything.
fn judge(current: Option<&Envelope>, change: &Change, setting: &Setting) -> Result<Effect, Verdict> {
    let repeat = current.and_then(|envelope| envelope.answered(change.id)).filter(|_| setting.mutation != Some(Mutation::ForgetRequests));
    if let Some(answered) = repeat {
        return Err(repeated(answered, change.id, setting));
    }
    admit(current, change, setting).map_err(Verdict::Refused)?;
    let skew_micros = setting.bounds.skew_micros;
    let was_live = current.is_some_and(|envelope| envelope.live(setting.now, skew_micros).is_some());
    let effect = match &change.act {
        Act::Put(_) if was_live => Effect::Replaced,
        Act::Put(_) => Effect::Created,
        Act::Delete if was_live => Effect::Deleted,
        Act::Expire if current.is_some_and(|envelope| envelope.is_expired(setting.now, skew_micros)) => Effect::Expired,
        Act::Delete | Act::Expire => return Err(Verdict::NothingThere),
    };
    let kept = current.map_or(0, |envelope| envelope.ring.iter().filter(|answered| !answered.is_over(setting.now, skew_micros)).count());
    if kept >= setting.bounds.ring {
        return Err(Verdict::Refused(Refusal::RingFull));
    }
    Ok(effect)
}

/// A request whose nonce is in the ring: answered as before, if it is the same. Another one that is past its window may have been answered once, and
/// forgotten since.
fn repeated(answered: &Answered, id: RequestId, setting: &Setting) -> Verdict {
    if answered.id.print == id.print || setting.mutation == Some(Mutation::TrustNonces) {
        Verdict::Applied { revision: answered.revision, effect: answered.effect }
    } else if setting.now > id.until {
        Verdict::Refused(Refusal::TooOld)
    } else {
        Verdict::Refused(Refusal::Reused)
    }
}

impl Expect {
    fn holds(&self, found: Option<Revision>) -> bool {
        match self {
            Self::Anything => true,
            Self::Absent => found.is_none(),
            Self::Present => found.is_some(),
            Self::Revision(revision) => found == Some(*revision),
            Self::AnyOf(revisions) => found.is_some_and(|found| revisions.contains(&found)),
            Self::Another(revisions) => found.is_some_and(|found| !revisions.contains(&found)),
            Self::NoneOf(revisions) => found.is_none_or(|found| !revisions.contains(&found)),
        }
    }
}

/// The register of a key that was never written, as a ballot can carry it.
pub(crate) fn unborn(floor: u64) -> Envelope {
    Envelope {
        revision: Revision::default(),
        content: Content::Tombstone,
        fences: std::collections::BTreeMap::new(),
        floor,
        ring: Vec::new(),
        intent: None,
    }
}

/// Drops answers that no retry can ask for any more (Q11).
fn forget_answers(ring: &mut Vec<Answered>, setting: &Setting) {
    match setting.mutation {
        Some(Mutation::ShortRetention) => ring.clear(),
        _ => ring.retain(|answered| !answered.is_over(setting.now, setting.bounds.skew_micros)),
    }
}

fn admit(current: Option<&Envelope>, change: &Change, setting: &Setting) -> Result<(), Refusal> {
    let bounds = setting.bounds;
    if setting.now > change.id.until && setting.mutation != Some(Mutation::TakeOldRequests) {
        return Err(Refusal::TooOld);
    }
    if change.id.until.0 > setting.now.0.saturating_add(bounds.window_micros).saturating_add(bounds.skew_micros) {
        return Err(Refusal::TooLong);
    }
    let live = current.filter(|envelope| envelope.live(setting.now, bounds.skew_micros).is_some());
    let found = live.map(|envelope| envelope.revision);
    if !change.expect.holds(found) {
        return Err(Refusal::Precondition { found });
    }
    change.fence.as_ref().map_or(Ok(()), |fence| admit_fence(current, fence, setting))
}

/// L5: a token passes when no later holder has been here; where none has been at all, when it is above the floor of the key's making.
fn admit_fence(current: Option<&Envelope>, fence: &Fence, setting: &Setting) -> Result<(), Refusal> {
    let seen = current.and_then(|envelope| envelope.fences.get(&fence.guard));
    let floor = current.map_or(setting.floor, |envelope| envelope.floor);
    let guards = current.map_or(0, |envelope| envelope.fences.len());
    match seen {
        Some(&highest) if fence.token < highest => Err(Refusal::Fenced(highest)),
        Some(_) => Ok(()),
        None if fence.token.0 <= floor => Err(Refusal::BelowFloor(floor)),
        None if guards >= setting.bounds.fences => Err(Refusal::FencesFull),
        None => Ok(()),
    }
}
