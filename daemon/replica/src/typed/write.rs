//! How a daemon turns a client's change into a delta.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use crdts::VClock;
use isochrone_ident::{Version, WallMicros};

use super::Typed;
use super::change::{Actor, Change, ChangeRefused, ClaimId, Stamp, TypedLimits};
use super::counter::{Bases, Counter, sum};
use super::delta::{Body, FieldPart, LifePart, Removed, Write};
use super::dots::{Dots, Member};
use super::lives::{Content, Life};
use super::map::{Element, Fields};
use super::register::{RegisterContext, Sibling};
use super::view::{Open, counters, field_counters, maps, members, registers, sets};

/// What a write finds: the lives that its stamp sees, and the one that it joins or begins.
struct Writing<'a> {
    open: Vec<(&'a Version, &'a Life)>,
    held: &'a Typed,
    life: Version,
    joined: Option<&'a Life>,
    /// The longest deadline of the life with this write. Told with each delta, since a counter's stands for earlier ones that may be lost.
    expires_at: Option<WallMicros>,
    stamp: &'a Stamp,
    limits: &'a TypedLimits,
}

pub(super) fn prepare(held: &Typed, change: &Change, stamp: &Stamp, limits: &TypedLimits) -> Result<Body, ChangeRefused> {
    let open: Vec<_> = held.open(stamp.now, stamp.skew_ms).collect();
    // Into a life at or below the floor nobody writes: part of it may have been dropped here, and with it the dots given out in it (E3).
    let target = open.iter().rev().find(|(id, _)| id.hlc > held.floor).copied();
    let (life, joined) = target.map_or((stamp.version, None), |(id, life)| (*id, Some(life)));
    let longest = |life: &Life| life.expires_at.zip(stamp.expires_at).map(|(held, new)| held.max(new));
    let expires_at = joined.map_or(stamp.expires_at, longest);
    let writing = Writing { open, held, life, joined, expires_at, stamp, limits };
    match change {
        Change::Count { add, claim } => writing.count(*add, *claim),
        Change::UpdateSet { add, remove } => writing.update_set(add, remove),
        Change::UpdateMap { set, remove, add, claim } => writing.update_map(set, remove, add, *claim),
        Change::PutRegister { value, content_type, context } => writing.put_register(value, content_type.as_ref(), context.as_ref()),
    }
}

impl<'a> Writing<'a> {
    fn count(&self, add: i64, claim: Option<ClaimId>) -> Result<Body, ChangeRefused> {
        let lives = counters(&self.open);
        refuse_counted(&lives, claim)?;
        refuse_overflow(&lives, add)?;
        let empty = Counter::default();
        let counter = match self.joined.map(|life| &life.content) {
            Some(Content::Counter(counter)) => counter,
            _ => &empty,
        };
        let part = counter.counting(add, claim, self.stamp, self.limits.claims)?;
        Ok(Body::Counter(vec![LifePart { life: self.life, expires_at: self.expires_at, actor: self.stamp.actor, part }]))
    }

    fn update_set(&self, add: &[Bytes], remove: &[Bytes]) -> Result<Body, ChangeRefused> {
        let lives = || sets(&self.open);
        self.refuse_long(add)?;
        let added: BTreeSet<&Bytes> = add.iter().collect();
        let gone: BTreeSet<&Bytes> = remove.iter().filter(|member| !added.contains(member)).collect();
        let is_member = |member: &&Bytes| lives().any(|(_, set)| set.dots_of(member).is_some());
        let held = if self.open.len() < 2 { lives().map(|(_, set)| set.len()).sum() } else { members(&self.open).len() };
        let fresh = added.iter().filter(|member| !is_member(member)).count();
        let left = gone.iter().filter(|member| is_member(member)).count();
        let max = self.limits.set_members;
        if fresh > 0 && held + fresh - left > max {
            return Err(ChangeRefused::TooManyMembers { max });
        }
        let removed = gone.into_iter().flat_map(|member| seen(lives(), member)).collect();
        let first = match self.joined.map(|life| &life.content) {
            Some(Content::Set(set)) => set.next(&self.stamp.actor),
            _ => Some(1),
        };
        Ok(Body::Set(self.write(first, removed, added.into_iter().cloned().collect())?))
    }

    fn update_map(
        &self,
        set: &[(Bytes, Bytes)],
        remove: &[Bytes],
        add: &[(Bytes, i64)],
        claim: Option<ClaimId>,
    ) -> Result<Body, ChangeRefused> {
        let set: BTreeMap<&Bytes, &Bytes> = set.iter().map(|(name, value)| (name, value)).collect();
        let remove: BTreeSet<&Bytes> = remove.iter().collect();
        self.refuse_long(set.keys().copied().chain(add.iter().map(|(name, _)| name)))?;
        let sums = added_up(add, &set)?;
        let shown = Shown::of(&self.open);
        shown.refuse_other_type(&set, &remove, &sums)?;
        self.refuse_fields(&shown, &set, &remove, &sums)?;
        let mut changes = self.uncounted(&shown, &remove);
        for (name, amount) in &sums {
            self.count_field(&mut changes, name, *amount, remove.contains(name), claim)?;
        }
        let removed = shown.removed(&set, &remove);
        let version = self.stamp.version;
        let values = set.into_iter().map(|(name, value)| Element::Value { name: name.clone(), version, value: value.clone() });
        let added = values.chain(sums.into_keys().map(|name| Element::Counter(name.clone()))).collect();
        let first = self.joined_fields().map_or(Some(1), |fields| fields.elements.next(&self.stamp.actor));
        Ok(Body::Map(self.write(first, removed, added)?, changes.into_values().collect()))
    }

    fn put_register(
        &self,
        value: &Bytes,
        content_type: Option<&Arc<str>>,
        context: Option<&RegisterContext>,
    ) -> Result<Body, ChangeRefused> {
        let nothing = RegisterContext::default();
        let context = context.unwrap_or(&nothing);
        self.refuse_unknown(context)?;
        let has_read = |life: &Version, dots: &VClock<_>| {
            context.0.get(life).is_some_and(|clock| dots.iter().all(|dot| clock.get(dot.actor) >= dot.counter))
        };
        let siblings = || registers(&self.open).flat_map(|(life, values)| values.members().map(move |(member, dots)| (life, member, dots)));
        let replaced = |(life, member, dots): (Version, &Sibling, VClock<_>)| {
            has_read(&life, &dots).then(|| Removed { life, member: member.clone(), dots })
        };
        let removed: Vec<_> = siblings().filter_map(replaced).collect();
        let max = self.limits.register_values;
        if siblings().count() - removed.len() >= max {
            return Err(ChangeRefused::TooManyValues { max });
        }
        let added = vec![Sibling { version: self.stamp.version, content_type: content_type.cloned(), value: value.clone() }];
        let first = match self.joined.map(|life| &life.content) {
            Some(Content::Register(values)) => values.next(&self.stamp.actor),
            _ => Some(1),
        };
        Ok(Body::Register(self.write(first, removed, added)?))
    }

    fn write<M: Member>(&self, first: Option<u64>, mut removed: Vec<Removed<M>>, added: Vec<M>) -> Result<Write<M>, ChangeRefused> {
        removed.sort_by(|a, b| (a.life, &a.member).cmp(&(b.life, &b.member)));
        let first = first.ok_or(ChangeRefused::Exhausted)?;
        let (life, expires_at, actor, at) = (self.life, self.expires_at, self.stamp.actor, self.stamp.version.hlc);
        let write = Write { life, expires_at, actor, first, at, removed, added };
        write.last().map(|_| write).ok_or(ChangeRefused::Exhausted)
    }

    fn refuse_long<'m>(&self, members: impl IntoIterator<Item = &'m Bytes>) -> Result<(), ChangeRefused> {
        let bytes_max = self.limits.member_bytes;
        let too_long = members.into_iter().any(|member| member.len() > bytes_max);
        if too_long { Err(ChangeRefused::MemberTooLong { bytes_max }) } else { Ok(()) }
    }

    fn refuse_unknown(&self, context: &RegisterContext) -> Result<(), ChangeRefused> {
        let known = |(life, clock): (&Version, &VClock<_>)| match self.held.lives.get(life).map(|life| &life.content) {
            Some(Content::Register(values)) => values.covers(clock),
            _ => false,
        };
        if context.0.iter().all(known) { Ok(()) } else { Err(ChangeRefused::UnknownContext) }
    }

    fn refuse_fields(
        &self,
        shown: &Shown<'_>,
        set: &BTreeMap<&Bytes, &Bytes>,
        remove: &BTreeSet<&Bytes>,
        sums: &BTreeMap<&Bytes, i64>,
    ) -> Result<(), ChangeRefused> {
        let wanted: BTreeSet<&Bytes> = set.keys().chain(sums.keys()).copied().collect();
        let fresh = wanted.iter().filter(|name| !shown.names.contains_key(*name)).count();
        let left = remove.iter().filter(|name| shown.names.contains_key(*name) && !wanted.contains(*name)).count();
        let max = self.limits.map_fields;
        if fresh > 0 && shown.names.len() + fresh - left > max {
            return Err(ChangeRefused::TooManyFields { max });
        }
        let counters: BTreeSet<&Bytes> = maps(&self.open).flat_map(|(_, fields)| fields.counters.keys()).collect();
        let kept = counters.len() + sums.keys().filter(|name| !counters.contains(*name)).count();
        let is_new = kept > counters.len();
        if is_new && kept > max.saturating_mul(4) { Err(ChangeRefused::TooManyFields { max }) } else { Ok(()) }
    }

    fn joined_fields(&self) -> Option<&'a Fields> {
        match self.joined.map(|life| &life.content) {
            Some(Content::Map(fields)) => Some(fields),
            _ => None,
        }
    }

    /// What removing counters leaves in each life that has them.
    fn uncounted(&self, shown: &Shown<'_>, remove: &BTreeSet<&Bytes>) -> BTreeMap<(Version, Bytes), FieldPart> {
        let names = || remove.iter().filter(|name| shown.names.contains_key(**name));
        let of_life = |(life, fields): (Version, &Fields)| {
            let of_field = |name: &&Bytes| fields.counters.get(*name).map(|field| field.counter.observed());
            let change = |name: &&Bytes| {
                let bases = of_field(name)?;
                Some(((life, (*name).clone()), FieldPart { life, name: (*name).clone(), part: None, bases }))
            };
            names().filter_map(change).collect::<Vec<_>>()
        };
        maps(&self.open).flat_map(of_life).collect()
    }

    fn count_field(
        &self,
        changes: &mut BTreeMap<(Version, Bytes), FieldPart>,
        name: &Bytes,
        amount: i64,
        starts_over: bool,
        claim: Option<ClaimId>,
    ) -> Result<(), ChangeRefused> {
        let lives = field_counters(&self.open, name);
        refuse_counted(&lives, claim)?;
        refuse_overflow(if starts_over { &[] } else { &lives }, amount)?;
        let empty = Counter::default();
        let counter = self.joined_fields().and_then(|fields| fields.counters.get(name)).map_or(&empty, |field| &field.counter);
        let part = counter.counting(amount, claim, self.stamp, self.limits.claims)?;
        let blank = || FieldPart { life: self.life, name: name.clone(), part: None, bases: Bases::new() };
        changes.entry((self.life, name.clone())).or_insert_with(blank).part = Some((self.stamp.actor, part));
        Ok(())
    }
}

/// The dots of a member in every life that has it.
fn seen<'a, M: Member + 'a>(lives: impl Iterator<Item = (Version, &'a Dots<M>)>, member: &M) -> Vec<Removed<M>> {
    lives.filter_map(|(life, set)| Some(Removed { life, member: member.clone(), dots: set.dots_of(member)? })).collect()
}

fn refuse_counted(lives: &[(&Counter, &Bases)], claim: Option<ClaimId>) -> Result<(), ChangeRefused> {
    let counted = claim.is_some_and(|id| lives.iter().any(|(counter, _)| counter.has_claim(&id)));
    if counted { Err(ChangeRefused::AlreadyCounted) } else { Ok(()) }
}

fn refuse_overflow(lives: &[(&Counter, &Bases)], add: i64) -> Result<(), ChangeRefused> {
    let before = sum(lives);
    let after = before + i128::from(add);
    let towards_range = after.unsigned_abs() < before.unsigned_abs();
    if i64::try_from(after).is_ok() || towards_range { Ok(()) } else { Err(ChangeRefused::CounterOverflow) }
}

/// The adds of one request, one for each counter; none of which may be set as well.
fn added_up<'m>(add: &'m [(Bytes, i64)], set: &BTreeMap<&Bytes, &Bytes>) -> Result<BTreeMap<&'m Bytes, i64>, ChangeRefused> {
    let mut sums: BTreeMap<&Bytes, i64> = BTreeMap::new();
    for (name, amount) in add {
        if set.contains_key(name) {
            return Err(ChangeRefused::FieldType { field: name.clone() });
        }
        let sum = sums.entry(name).or_default();
        *sum = sum.checked_add(*amount).ok_or(ChangeRefused::CounterOverflow)?;
    }
    Ok(sums)
}

/// The fields that a writer sees, each with its elements.
struct Shown<'a> {
    names: BTreeMap<&'a Bytes, Vec<ShownElement<'a>>>,
}

/// An element with its life and its dots.
type ShownElement<'a> = (Version, &'a Element, VClock<Actor>);

impl<'a> Shown<'a> {
    fn of(open: &Open<'a>) -> Self {
        let mut names: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (life, fields) in maps(open) {
            for (element, dots) in fields.elements.members() {
                names.entry(element.name()).or_default().push((life, element, dots));
            }
        }
        Self { names }
    }

    fn holds(&self, name: &Bytes, is: fn(&Element) -> bool) -> bool {
        self.names.get(name).is_some_and(|elements| elements.iter().any(|(_, element, _)| is(element)))
    }

    /// A value shows above a counter that was added to at the same time, so a field with both may be set and not added to.
    fn refuse_other_type(
        &self,
        set: &BTreeMap<&Bytes, &Bytes>,
        remove: &BTreeSet<&Bytes>,
        sums: &BTreeMap<&Bytes, i64>,
    ) -> Result<(), ChangeRefused> {
        let is_value = |name: &Bytes| self.holds(name, |element| matches!(element, Element::Value { .. }));
        let is_counter = |name: &Bytes| !is_value(name) && self.holds(name, |element| matches!(element, Element::Counter(_)));
        let kept = |name: &&&Bytes| !remove.contains(**name);
        let wrong = set.keys().filter(kept).find(|name| is_counter(name)).or_else(|| sums.keys().filter(kept).find(|name| is_value(name)));
        wrong.map_or(Ok(()), |name| Err(ChangeRefused::FieldType { field: (*name).clone() }))
    }

    /// What a write takes away: all of the fields that it removes, and the values that it sets anew.
    fn removed(&self, set: &BTreeMap<&Bytes, &Bytes>, remove: &BTreeSet<&Bytes>) -> Vec<Removed<Element>> {
        let goes =
            |name: &Bytes, element: &Element| remove.contains(name) || (set.contains_key(name) && matches!(element, Element::Value { .. }));
        let all = self.names.iter().flat_map(|(name, elements)| elements.iter().map(move |element| (*name, element)));
        all.filter(|(name, (_, element, _))| goes(name, element))
            .map(|(_, (life, element, dots))| Removed { life: *life, member: (*element).clone(), dots: dots.clone() })
            .collect()
    }
}
