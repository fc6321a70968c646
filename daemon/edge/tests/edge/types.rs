//! A model of counters, sets, maps and registers: one place, so that nothing is ever concurrent but what says so.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use isochrone_edge::{Datum, FieldDatum, Refusal, RegisterDatum, TypedOp, TypedRead, TypedWrite};
use isochrone_ident::{Kind, WallMicros};

pub(crate) const MEMBERS_MAX: usize = 4;
pub(crate) const MEMBER_BYTES_MAX: usize = 16;

pub(crate) type Place = (Kind, String, Vec<u8>);

/// What a key holds, and until when.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) datum: Datum,
    pub(crate) expires_at: Option<WallMicros>,
    /// For each of a register's values: the number of its put.
    puts: Vec<u64>,
}

impl Held {
    /// Differs where the data differs.
    pub(crate) fn etag(&self) -> u128 {
        let step = |hash: u128, byte: u8| (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013B);
        format!("{:?}", self.datum).bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, step)
    }
}

/// All keys that are not values.
#[derive(Debug, Default)]
pub(crate) struct Types(BTreeMap<Place, Held>);

impl Types {
    pub(crate) fn read(&self, command: &TypedRead, now: WallMicros) -> Option<Held> {
        self.current(&(command.kind, command.ns.to_string(), command.key.as_bytes().to_vec()), now)
    }

    pub(crate) fn keys(&self, kind: Kind, ns: &str, now: WallMicros) -> Vec<(Vec<u8>, Held)> {
        let here = self.0.keys().filter(|place| place.0 == kind && place.1 == ns);
        here.filter_map(|place| Some((place.2.clone(), self.current(place, now)?))).collect()
    }

    fn current(&self, place: &Place, now: WallMicros) -> Option<Held> {
        self.0.get(place).filter(|held| held.expires_at.is_none_or(|at| at > now)).cloned()
    }

    /// Carries out the `number`-th write.
    pub(crate) fn write(&mut self, command: &TypedWrite, now: WallMicros, number: u64) -> Result<Held, Refusal> {
        let place = (command.op.kind(), command.ns.to_string(), command.key.as_bytes().to_vec());
        let before = self.current(&place, now);
        let expires_at = command.ttl.map(|ttl| now.plus_millis(ttl.as_millis() as u64));
        let expires_at = match &before {
            Some(held) => held.expires_at.zip(expires_at).map(|(held, new)| held.max(new)),
            None => expires_at,
        };
        let puts = before.as_ref().map_or_else(Vec::new, |held| held.puts.clone());
        let (datum, puts) = change(before.map(|held| held.datum), puts, &command.op, number)?;
        let held = Held { datum, expires_at, puts };
        self.0.insert(place, held.clone());
        Ok(held)
    }
}

fn change(before: Option<Datum>, puts: Vec<u64>, op: &TypedOp, number: u64) -> Result<(Datum, Vec<u64>), Refusal> {
    let plain = |datum| (datum, Vec::new());
    match (before, op) {
        (None, TypedOp::CounterAdd(add)) => Ok(plain(Datum::Counter(*add))),
        (Some(Datum::Counter(value)), TypedOp::CounterAdd(add)) => {
            value.checked_add(*add).map(|sum| plain(Datum::Counter(sum))).ok_or(Refusal::CounterOverflow)
        }
        (None, TypedOp::SetUpdate { remove, .. }) if !remove.is_empty() => {
            Err(Refusal::NothingToObserve { detail: "this model has no state".into() })
        }
        (before, TypedOp::SetUpdate { add, remove }) => set(before, add, remove).map(plain),
        (before, TypedOp::MapUpdate { set, remove, add }) => map(before, set, remove, add).map(plain),
        (before, TypedOp::RegisterPut { value, content_type, context }) => {
            let values = if let Some(Datum::Register { values, .. }) = before { values } else { Vec::new() };
            let value = RegisterDatum { value: value.clone(), content_type: content_type.clone() };
            register(values.into_iter().zip(puts).collect(), value, context.as_ref(), number)
        }
        (Some(_), _) => Err(Refusal::Internal { detail: "two kinds in one key space".into() }),
    }
}

fn set(before: Option<Datum>, add: &[Bytes], remove: &[Bytes]) -> Result<Datum, Refusal> {
    let mut members: BTreeSet<Bytes> = if let Some(Datum::Set(members)) = before { members.into_iter().collect() } else { BTreeSet::new() };
    if add.iter().any(|member| member.len() > MEMBER_BYTES_MAX) {
        return Err(Refusal::MemberTooLong { bytes_max: MEMBER_BYTES_MAX as u64 });
    }
    members.extend(add.iter().cloned());
    members.retain(|member| !remove.contains(member));
    if members.len() > MEMBERS_MAX {
        return Err(Refusal::TooMany { what: "members".into(), max: MEMBERS_MAX as u64 });
    }
    Ok(Datum::Set(members.into_iter().collect()))
}

fn map(before: Option<Datum>, set: &[(String, Bytes)], remove: &[String], add: &[(String, i64)]) -> Result<Datum, Refusal> {
    let mut fields = if let Some(Datum::Map(fields)) = before { fields } else { BTreeMap::new() };
    for (name, text) in set {
        if matches!(fields.get(name), Some(FieldDatum::Counter(_))) {
            return Err(Refusal::FieldType { field: name.clone() });
        }
        fields.insert(name.clone(), FieldDatum::Value(text.clone()));
    }
    fields.retain(|name, _| !remove.contains(name));
    for (name, amount) in add {
        match fields.entry(name.clone()).or_insert(FieldDatum::Counter(0)) {
            FieldDatum::Counter(value) => *value += amount,
            FieldDatum::Value(_) => return Err(Refusal::FieldType { field: name.clone() }),
        }
    }
    Ok(Datum::Map(fields))
}

fn register(
    before: Vec<(RegisterDatum, u64)>,
    value: RegisterDatum,
    context: Option<&Bytes>,
    number: u64,
) -> Result<(Datum, Vec<u64>), Refusal> {
    let seen = context.map(|bytes| bytes.as_ref().try_into().map(u64::from_be_bytes));
    let seen = seen.transpose().map_err(|_| Refusal::ContextUnknown)?.unwrap_or(0);
    if seen >= number {
        return Err(Refusal::ContextUnknown);
    }
    let kept = before.into_iter().filter(|(_, put)| *put > seen).chain([(value, number)]);
    let (values, puts) = kept.unzip();
    Ok((Datum::Register { values, context: Bytes::copy_from_slice(&number.to_be_bytes()) }, puts))
}
