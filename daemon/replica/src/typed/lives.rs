//! One life of a key: from its first write until it expires (E8).

use bytes::Bytes;
use isochrone_ident::{Hlc, Kind, NodeId, WallMicros};

use super::change::Actor;
use super::counter::Counter;
use super::delta::Clash;
use super::dots::Dots;
use super::map::Fields;
use super::register::Sibling;

/// What a life holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    Counter(Counter),
    Set(Dots<Bytes>),
    Map(Fields),
    Register(Dots<Sibling>),
}

impl Content {
    pub(crate) const fn kind(&self) -> Kind {
        match self {
            Self::Counter(_) => Kind::Counter,
            Self::Set(_) => Kind::Set,
            Self::Map(_) => Kind::Map,
            Self::Register(_) => Kind::Register,
        }
    }

    pub(crate) const fn counter(&self) -> Option<&Counter> {
        match self {
            Self::Counter(counter) => Some(counter),
            _ => None,
        }
    }

    pub(crate) const fn fields(&self) -> Option<&Fields> {
        match self {
            Self::Map(fields) => Some(fields),
            _ => None,
        }
    }
}

/// One life of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Life {
    /// The longest deadline of its writes; `None`, which beats all, persists.
    pub(crate) expires_at: Option<WallMicros>,
    pub(crate) content: Content,
}

impl Life {
    /// A life of which no write is known yet. `None` for a kind that has none.
    pub(crate) fn new(kind: Kind, expires_at: Option<WallMicros>) -> Option<Self> {
        let content = match kind {
            Kind::Value => return None,
            Kind::Counter => Content::Counter(Counter::default()),
            Kind::Set => Content::Set(Dots::default()),
            Kind::Map => Content::Map(Fields::default()),
            Kind::Register => Content::Register(Dots::default()),
        };
        Some(Self { expires_at, content })
    }

    /// Whether a reader sees it: its deadline plus the skew bound has not passed.
    pub(crate) fn is_open(&self, now: WallMicros, skew_ms: u64) -> bool {
        self.expires_at.is_none_or(|at| now < at.plus_millis(skew_ms))
    }

    /// Whether it has expired, and no write that found it open can still arrive. A writer whose clock is behind finds it open until the deadline plus
    /// the skew bound, and its versions may be ahead of its clock by the bound once more.
    pub(crate) fn is_spent(&self, skew_ms: u64, stable: Hlc) -> bool {
        self.expires_at.is_some_and(|at| at.plus_millis(skew_ms.saturating_mul(2)) < stable.wall())
    }

    /// Keeps it for at least as long as `deadline` says.
    pub(crate) fn extend(&mut self, deadline: Option<WallMicros>) {
        self.expires_at = self.expires_at.zip(deadline).map(|(ours, theirs)| ours.max(theirs));
    }

    pub(crate) fn join(&mut self, other: &Self) -> Result<(), Clash> {
        self.extend(other.expires_at);
        match (&mut self.content, &other.content) {
            (Content::Counter(ours), Content::Counter(theirs)) => ours.join(theirs).map(|_| ()),
            (Content::Set(ours), Content::Set(theirs)) => ours.join(theirs),
            (Content::Map(ours), Content::Map(theirs)) => ours.join(theirs),
            (Content::Register(ours), Content::Register(theirs)) => ours.join(theirs),
            _ => Err(Clash),
        }
    }

    /// Each actor that has written in it, with its latest write.
    pub(crate) fn latest(&self) -> Vec<(Actor, Hlc)> {
        match &self.content {
            Content::Counter(counter) => counter.latest().collect(),
            Content::Set(set) => set.latest().collect(),
            Content::Map(fields) => fields.elements.latest().collect(),
            Content::Register(values) => values.latest().collect(),
        }
    }

    /// Every actor that is named in it. A removal of another life's write may name those whose own writes are still to come.
    pub(crate) fn actors(&self) -> Vec<Actor> {
        let mut actors: Vec<Actor> = self.latest().into_iter().map(|(actor, _)| actor).collect();
        for field in self.content.fields().into_iter().flat_map(|fields| fields.counters.values()) {
            actors.extend(field.counter.latest().map(|(actor, _)| actor));
            actors.extend(field.bases.keys());
        }
        actors
    }

    pub(crate) fn has_dots_of(&self, node: NodeId) -> bool {
        self.latest().iter().any(|(actor, _)| actor.node == node)
    }

    /// About how many bytes it holds, dots included.
    pub(crate) fn bytes(&self) -> usize {
        const ACTOR_BYTES: usize = 40;
        const MEMBER_BYTES: usize = 6;
        let members = match &self.content {
            Content::Counter(_) => 0,
            Content::Set(set) => set.members().map(|(member, _)| MEMBER_BYTES + member.len()).sum(),
            Content::Map(fields) => {
                let of_element = |element: &super::map::Element| match element {
                    super::map::Element::Counter(name) => name.len(),
                    super::map::Element::Value { name, value, .. } => name.len() + value.len() + ACTOR_BYTES,
                };
                let elements: usize = fields.elements.members().map(|(element, _)| MEMBER_BYTES + of_element(element)).sum();
                elements + fields.counters.keys().map(|name| name.len() + ACTOR_BYTES).sum::<usize>()
            }
            Content::Register(values) => values.members().map(|(sibling, _)| ACTOR_BYTES + sibling.value.len()).sum(),
        };
        members + ACTOR_BYTES * (1 + self.latest().len())
    }
}
