//! What one write changes, as it travels to the replicas.

use bytes::Bytes;
use crdts::VClock;
use isochrone_ident::{Hlc, Kind, Version, WallMicros};
use serde::{Deserialize, Serialize};

use super::Typed;
use super::change::Actor;
use super::counter::{Bases, Part};
use super::map::Element;
use super::register::Sibling;

/// Two parts of a state cannot both be true (E3). Becomes a [`Conflict`](crate::Conflict) once it is known where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Clash;

/// Where a write stands in the order of its actor's (E2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    Next,
    Covered,
    Gap,
}

/// What one write changes in a typed key. Of one daemon, the deltas of a set, a map or a register are applied in the order in which they were made; a
/// counter's carry all that the actor has contributed, so that of several only the last is needed, in any order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delta(pub(crate) Body);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Body {
    Counter(Vec<LifePart>),
    Set(Write<Bytes>),
    Map(Write<Element>, Vec<FieldPart>),
    Register(Write<Sibling>),
}

impl Delta {
    /// The kind of key that it is for.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match &self.0 {
            Body::Counter(_) => Kind::Counter,
            Body::Set(_) => Kind::Set,
            Body::Map(..) => Kind::Map,
            Body::Register(_) => Kind::Register,
        }
    }

    /// The latest time in it, which no honest daemon's clock is behind by more than the skew bound (E4).
    #[must_use]
    pub fn latest(&self) -> Hlc {
        let of_parts = |parts: &[LifePart]| parts.iter().map(|part| part.part.latest.max(part.life.hlc)).max().unwrap_or(Hlc::ZERO);
        match &self.0 {
            Body::Counter(parts) => of_parts(parts),
            Body::Set(write) => write.latest(),
            Body::Map(write, _) => write.latest(),
            Body::Register(write) => write.latest(),
        }
    }
}

/// One actor's part of a counter, in one life of the key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LifePart {
    pub(crate) life: Version,
    pub(crate) expires_at: Option<WallMicros>,
    pub(crate) actor: Actor,
    pub(crate) part: Part,
}

/// One write of members. It takes the dot `first` for itself and one more for each added member, all of the life `life`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Write<M> {
    pub(crate) life: Version,
    pub(crate) expires_at: Option<WallMicros>,
    pub(crate) actor: Actor,
    pub(crate) first: u64,
    pub(crate) at: Hlc,
    pub(crate) removed: Vec<Removed<M>>,
    pub(crate) added: Vec<M>,
}

impl<M> Write<M> {
    fn latest(&self) -> Hlc {
        self.at.max(self.life.hlc)
    }

    /// Its last dot; `None` if there is no such number.
    pub(crate) fn last(&self) -> Option<u64> {
        self.first.checked_add(u64::try_from(self.added.len()).ok()?)
    }
}

/// The dots of a member that a removal has seen, in any life of the key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Removed<M> {
    pub(crate) life: Version,
    pub(crate) member: M,
    pub(crate) dots: VClock<Actor>,
}

/// What a write changes in a counter of a map.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct FieldPart {
    pub(crate) life: Version,
    pub(crate) name: Bytes,
    /// The writer's part, where it counted.
    pub(crate) part: Option<(Actor, Part)>,
    /// What the write removed, where it did.
    pub(crate) bases: Bases,
}

/// What came of applying a [`Delta`].
#[derive(Debug, Clone, PartialEq)]
pub enum Applied {
    /// The state after it.
    Changed(Typed),
    /// The state has it already.
    Covered,
    /// Something that came before it is missing here, so nothing was applied: to skip it would lose it for ever (E2). The key's state is to be pulled.
    Gap,
}
