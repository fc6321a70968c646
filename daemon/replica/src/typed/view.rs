//! What a reader sees of a typed key.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use isochrone_ident::{Hlc, Kind, NodeId, Version, WallMicros};

use super::Typed;
use super::counter::{Bases, Counter, saturated, sum};
use super::dots::Dots;
use super::lives::{Content, Life};
use super::map::{Element, Field, Fields};
use super::register::{RegisterContext, RegisterValue, Sibling};

/// A typed key as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum View {
    /// A counter. Saturates where regions that counted at the same time have passed 64 bits.
    Counter(i64),
    /// The members of a set, in order.
    Set(Vec<Bytes>),
    /// The fields of a map.
    Map(BTreeMap<Bytes, FieldView>),
    /// A multi-value register.
    Register {
        /// The values that no write has replaced, in the order of their versions. Empty only if none was ever visible.
        values: Vec<RegisterValue>,
        /// What a write that replaces them hands back.
        context: RegisterContext,
    },
}

/// A field of a map as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldView {
    /// A value.
    Value(Bytes),
    /// A counter.
    Counter(i64),
}

static NO_BASES: Bases = Bases::new();

impl Typed {
    /// What a reader sees, by the reader's wall time. `None`: nothing was written, or all of it has expired, which it does everywhere at its deadline
    /// plus the skew bound (E8).
    #[must_use]
    pub fn view(&self, now: WallMicros, skew_ms: u64) -> Option<View> {
        let open: Vec<_> = self.open(now, skew_ms).collect();
        if open.is_empty() {
            return None;
        }
        Some(match self.kind {
            Kind::Value => return None,
            Kind::Counter => View::Counter(saturated(sum(&counters(&open)))),
            Kind::Set => View::Set(members(&open).into_iter().cloned().collect()),
            Kind::Map => View::Map(fields(&open)),
            Kind::Register => register(&open),
        })
    }

    /// Whether a reader sees anything.
    #[must_use]
    pub fn is_visible(&self, now: WallMicros, skew_ms: u64) -> bool {
        self.open(now, skew_ms).next().is_some()
    }

    /// The latest write of each daemon that is in this state (for sessions, E9).
    pub fn seen(&self) -> impl Iterator<Item = (NodeId, Hlc)> {
        let mut seen: BTreeMap<NodeId, Hlc> = BTreeMap::new();
        for (actor, latest) in self.lives.values().flat_map(Life::latest) {
            let mark = seen.entry(actor.node).or_default();
            *mark = latest.max(*mark);
        }
        seen.into_iter()
    }

    /// The lives that a reader sees, oldest first.
    pub(super) fn open(&self, now: WallMicros, skew_ms: u64) -> impl DoubleEndedIterator<Item = (&Version, &Life)> {
        self.lives.iter().filter(move |(_, life)| life.is_open(now, skew_ms))
    }
}

/// The lives that somebody sees.
pub(super) type Open<'a> = [(&'a Version, &'a Life)];

pub(super) fn counters<'a>(open: &Open<'a>) -> Vec<(&'a Counter, &'static Bases)> {
    let of_life = |(_, life): &(&'a Version, &'a Life)| match &life.content {
        Content::Counter(counter) => Some((counter, &NO_BASES)),
        _ => None,
    };
    open.iter().filter_map(of_life).collect()
}

pub(super) fn sets<'a>(open: &Open<'a>) -> impl Iterator<Item = (Version, &'a Dots<Bytes>)> + Clone {
    open.iter().filter_map(|(id, life)| match &life.content {
        Content::Set(set) => Some((**id, set)),
        _ => None,
    })
}

pub(super) fn maps<'a>(open: &Open<'a>) -> impl Iterator<Item = (Version, &'a Fields)> + Clone {
    open.iter().filter_map(|(id, life)| match &life.content {
        Content::Map(fields) => Some((**id, fields)),
        _ => None,
    })
}

pub(super) fn registers<'a>(open: &Open<'a>) -> impl Iterator<Item = (Version, &'a Dots<Sibling>)> + Clone {
    open.iter().filter_map(|(id, life)| match &life.content {
        Content::Register(values) => Some((**id, values)),
        _ => None,
    })
}

pub(super) fn members<'a>(open: &Open<'a>) -> BTreeSet<&'a Bytes> {
    sets(open).flat_map(|(_, set)| set.members().map(|(member, _)| member)).collect()
}

/// The lives of one counter of a map.
pub(super) fn field_counters<'a>(open: &Open<'a>, name: &Bytes) -> Vec<(&'a Counter, &'a Bases)> {
    let of_field = |field: &'a Field| (&field.counter, &field.bases);
    maps(open).filter_map(|(_, fields)| fields.counters.get(name).map(of_field)).collect()
}

fn fields(open: &Open<'_>) -> BTreeMap<Bytes, FieldView> {
    let elements = || maps(open).flat_map(|(_, fields)| fields.elements.members().map(|(element, _)| element));
    let mut latest: BTreeMap<&Bytes, (Version, &Bytes)> = BTreeMap::new();
    let mut shown = BTreeMap::new();
    for element in elements() {
        match element {
            Element::Counter(name) => {
                shown.entry(name.clone()).or_insert_with(|| FieldView::Counter(saturated(sum(&field_counters(open, name)))));
            }
            Element::Value { name, version, value } => {
                let winner = latest.entry(name).or_insert((*version, value));
                *winner = (*winner).max((*version, value));
            }
        }
    }
    shown.extend(latest.into_iter().map(|(name, (_, value))| (name.clone(), FieldView::Value(value.clone()))));
    shown
}

fn register(open: &Open<'_>) -> View {
    let siblings: BTreeSet<&Sibling> = registers(open).flat_map(|(_, values)| values.members().map(|(sibling, _)| sibling)).collect();
    let context = RegisterContext(registers(open).map(|(life, values)| (life, values.clock())).collect());
    View::Register { values: siblings.into_iter().map(RegisterValue::from).collect(), context }
}
