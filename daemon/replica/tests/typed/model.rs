//! What clients may see, told by plain sets of events.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use isochrone_ident::{Hlc, Kind, NodeId, Version, WallMicros};
use isochrone_replica::{Actor, Change, ClaimId, FieldView, View};

use crate::scene::SKEW_MS;

/// The number of an event: its place in the history.
pub(crate) type EventId = usize;

/// A write that was taken, and what the writer saw and took away by it.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) life: Version,
    pub(crate) version: Version,
    pub(crate) actor: Actor,
    pub(crate) expires_at: Option<WallMicros>,
    pub(crate) change: Change,
    /// Parts of earlier events that this one ends.
    ends: BTreeSet<Atom>,
}

/// A part of an event that a later one can end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Atom {
    event: EventId,
    name: Bytes,
    is_value: bool,
}

/// All events of one key, whoever knows of them.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) events: Vec<Event>,
}

/// Which events a replica knows of.
pub(crate) type Known = BTreeSet<EventId>;

impl History {
    fn known<'a>(&'a self, known: &'a Known) -> impl Iterator<Item = (EventId, &'a Event)> + Clone {
        known.iter().map(|id| (*id, &self.events[*id]))
    }

    fn deadline(&self, known: &Known, life: Version) -> Option<WallMicros> {
        let of_life = self.known(known).filter(|(_, event)| event.life == life);
        of_life.map(|(_, event)| event.expires_at).reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b))).flatten()
    }

    fn open_lives(&self, known: &Known, now: WallMicros) -> BTreeSet<Version> {
        let lives: BTreeSet<Version> = self.known(known).map(|(_, event)| event.life).collect();
        let is_open = |life: &Version| self.deadline(known, *life).is_none_or(|at| now < at.plus_millis(SKEW_MS));
        lives.into_iter().filter(is_open).collect()
    }

    fn open<'a>(&'a self, known: &'a Known, now: WallMicros) -> Vec<(EventId, &'a Event)> {
        let lives = self.open_lives(known, now);
        self.known(known).filter(|(_, event)| lives.contains(&event.life)).collect()
    }

    /// Takes down a write. Its deadline is told with that of the life it joins.
    pub(crate) fn take(
        &mut self,
        known: &mut Known,
        version: Version,
        actor: Actor,
        now: WallMicros,
        expires_at: Option<WallMicros>,
        change: Change,
    ) {
        let joined = self.open_lives(known, now).into_iter().next_back();
        let longest = |life| self.deadline(known, life).zip(expires_at).map(|(held, new)| held.max(new));
        let (life, expires_at) = joined.map_or((version, expires_at), |life| (life, longest(life)));
        let ends = self.ended(known, now, &change);
        known.insert(self.events.len());
        self.events.push(Event { life, version, actor, expires_at, change, ends });
    }

    fn ended(&self, known: &Known, now: WallMicros, change: &Change) -> BTreeSet<Atom> {
        let goes = |atom: &Atom| match change {
            Change::Count { .. } => false,
            Change::UpdateSet { add, remove } => remove.contains(&atom.name) && !add.contains(&atom.name),
            Change::UpdateMap { set, remove, .. } => {
                remove.contains(&atom.name) || (atom.is_value && set.iter().any(|(name, _)| *name == atom.name))
            }
            Change::PutRegister { context, .. } => context.is_some(),
        };
        self.atoms(known, now).into_iter().filter(goes).collect()
    }

    /// The parts of open events that nothing known has ended.
    fn atoms(&self, known: &Known, now: WallMicros) -> BTreeSet<Atom> {
        let ended: BTreeSet<&Atom> = self.known(known).flat_map(|(_, event)| &event.ends).collect();
        let open = self.open(known, now);
        let all = open.into_iter().flat_map(|(id, event)| atoms_of(id, &event.change));
        all.filter(|atom| !ended.contains(atom)).collect()
    }

    /// Adds of one counter whose claims lost against an earlier one.
    fn losers(&self, open: &[(EventId, &Event)], name: &Bytes) -> BTreeSet<EventId> {
        let mut first: BTreeMap<ClaimId, (Hlc, Actor)> = BTreeMap::new();
        let mut losers = BTreeSet::new();
        let claims = || open.iter().filter_map(|(id, event)| Some((*id, *event, claim_on(&event.change, name)?)));
        for (_, event, claim) in claims() {
            let mark = (event.version.hlc, event.actor);
            let earliest = first.entry(claim).or_insert(mark);
            *earliest = mark.min(*earliest);
        }
        for (id, event, claim) in claims() {
            if first[&claim] != (event.version.hlc, event.actor) {
                losers.insert(id);
            }
        }
        losers
    }

    pub(crate) fn has_claim(&self, known: &Known, now: WallMicros, claim: ClaimId, name: &Bytes) -> bool {
        self.open(known, now).iter().any(|(_, event)| claim_on(&event.change, name) == Some(claim))
    }

    /// What a reader who knows of these events sees.
    pub(crate) fn view(&self, kind: Kind, known: &Known, now: WallMicros) -> Option<Seen> {
        let open = self.open(known, now);
        if open.is_empty() {
            return None;
        }
        let atoms = self.atoms(known, now);
        Some(match kind {
            Kind::Counter => Seen::Counter(self.sum(&open, &Bytes::new(), |_| true)),
            Kind::Set => Seen::Members(atoms.into_iter().map(|atom| atom.name).collect()),
            Kind::Register => Seen::Values(atoms.into_iter().map(|atom| self.events[atom.event].version).collect()),
            _ => Seen::Fields(self.fields(&open, &atoms)),
        })
    }

    fn sum(&self, open: &[(EventId, &Event)], name: &Bytes, counts: impl Fn(EventId) -> bool) -> i64 {
        let losers = self.losers(open, name);
        let counting = open.iter().filter(|(id, _)| !losers.contains(id) && counts(*id));
        counting.map(|(_, event)| amount_on(&event.change, name)).sum()
    }

    fn fields(&self, open: &[(EventId, &Event)], atoms: &BTreeSet<Atom>) -> BTreeMap<Bytes, FieldView> {
        let mut fields = BTreeMap::new();
        for atom in atoms.iter().filter(|atom| !atom.is_value) {
            let is_left = |event: EventId| atoms.contains(&Atom { event, name: atom.name.clone(), is_value: false });
            fields.insert(atom.name.clone(), FieldView::Counter(self.sum(open, &atom.name, is_left)));
        }
        let mut values: Vec<(Version, Bytes, Bytes)> = Vec::new();
        for atom in atoms.iter().filter(|atom| atom.is_value) {
            let event = &self.events[atom.event];
            let Change::UpdateMap { set, .. } = &event.change else { continue };
            let value = set.iter().rev().find(|(name, _)| *name == atom.name).expect("the event has set it").1.clone();
            values.push((event.version, atom.name.clone(), value));
        }
        values.sort();
        fields.extend(values.into_iter().map(|(_, name, value)| (name, FieldView::Value(value))));
        fields
    }

    /// The latest write of each node.
    pub(crate) fn seen(&self, known: &Known) -> BTreeMap<NodeId, Hlc> {
        let mut seen = BTreeMap::new();
        for (_, event) in self.known(known) {
            let mark = seen.entry(event.actor.node).or_insert(event.version.hlc);
            *mark = event.version.hlc.max(*mark);
        }
        seen
    }
}

/// A view with what the model can tell of it.
#[derive(Debug, PartialEq)]
pub(crate) enum Seen {
    Counter(i64),
    Members(BTreeSet<Bytes>),
    Fields(BTreeMap<Bytes, FieldView>),
    Values(BTreeSet<Version>),
}

impl From<View> for Seen {
    fn from(view: View) -> Self {
        match view {
            View::Counter(value) => Self::Counter(value),
            View::Set(members) => Self::Members(members.into_iter().collect()),
            View::Map(fields) => Self::Fields(fields),
            View::Register { values, .. } => Self::Values(values.into_iter().map(|value| value.version).collect()),
        }
    }
}

fn atoms_of(event: EventId, change: &Change) -> Vec<Atom> {
    let atom = |name: &Bytes, is_value: bool| Atom { event, name: name.clone(), is_value };
    match change {
        Change::Count { .. } => Vec::new(),
        Change::UpdateSet { add, .. } => add.iter().map(|member| atom(member, true)).collect(),
        Change::UpdateMap { set, add, .. } => {
            let values = set.iter().map(|(name, _)| atom(name, true));
            values.chain(add.iter().map(|(name, _)| atom(name, false))).collect()
        }
        Change::PutRegister { value, .. } => vec![atom(value, true)],
    }
}

fn claim_on(change: &Change, of: &Bytes) -> Option<ClaimId> {
    match change {
        Change::Count { claim, .. } => *claim,
        Change::UpdateMap { add, claim, .. } => claim.filter(|_| add.iter().any(|(name, _)| name == of)),
        _ => None,
    }
}

fn amount_on(change: &Change, of: &Bytes) -> i64 {
    match change {
        Change::Count { add, .. } => *add,
        Change::UpdateMap { add, .. } => add.iter().filter(|(name, _)| name == of).map(|(_, amount)| amount).sum(),
        _ => 0,
    }
}
