//! Q7, Q11: what a write makes of a register. A pure function of the register, the request and the time.

use isochrone_ident::WallMicros;
use serde::{Deserialize, Serialize};

use crate::{Answered, Ballot, Content, Effect, Envelope, Guard, Mutation, RequestId, Revision, Token, Value};

/// What a write demands of the register before it applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    /// Nothing.
    Anything,
    /// No value (`If-None-Match: *`).
    Absent,
    /// Some value (`If-Match: *`).
    Present,
    /// A value of exactly this revision (`If-Match`): compare-and-set.
    Revision(Revision),
}

/// What to do with the register.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act {
    /// Store this value.
    Put(Value),
    /// Remove the value.
    Delete,
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
    /// A delete of what was not there.
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

/// The register after the change, if it changes, and how the write ends once that is chosen (or, unchanged, confirmed: Q7).
pub(crate) fn decide(current: Option<&Envelope>, change: &Change, setting: &Setting) -> (Option<Envelope>, Verdict) {
    let repeat = current.and_then(|envelope| envelope.answered(change.id)).filter(|_| setting.mutation != Some(Mutation::ForgetRequests));
    if let Some(answered) = repeat {
        return (None, Verdict::Applied { revision: answered.revision, effect: answered.effect });
    }
    if let Err(refusal) = admit(current, change, setting) {
        return (None, Verdict::Refused(refusal));
    }
    let was_live = current.is_some_and(|envelope| envelope.live(setting.now, setting.bounds.skew_micros).is_some());
    let (content, effect) = match &change.act {
        Act::Put(value) => (Content::Live(value.clone()), if was_live { Effect::Replaced } else { Effect::Created }),
        Act::Delete if was_live => (Content::Tombstone, Effect::Deleted),
        Act::Delete => return (None, Verdict::NothingThere),
    };
    let mut envelope = current.cloned().unwrap_or_else(|| unborn(setting.floor));
    if kept(&mut envelope, setting) >= setting.bounds.ring {
        return (None, Verdict::Refused(Refusal::RingFull));
    }
    envelope.revision = Revision(envelope.revision.0.saturating_add(1).max(setting.ballot.counter));
    envelope.content = content;
    envelope.fences.extend(change.fence.clone().map(|fence| (fence.guard, fence.token)));
    envelope.ring.push(Answered { id: change.id, revision: envelope.revision, effect });
    let revision = envelope.revision;
    (Some(envelope), Verdict::Applied { revision, effect })
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

/// Drops answers that no retry can ask for any more (Q11); how many are left.
fn kept(envelope: &mut Envelope, setting: &Setting) -> usize {
    match setting.mutation {
        Some(Mutation::ShortRetention) => envelope.ring.clear(),
        _ => envelope.ring.retain(|answered| !answered.is_over(setting.now, setting.bounds.skew_micros)),
    }
    envelope.ring.len()
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
    let holds = match change.expect {
        Expect::Anything => true,
        Expect::Absent => found.is_none(),
        Expect::Present => found.is_some(),
        Expect::Revision(revision) => found == Some(revision),
    };
    if !holds {
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
