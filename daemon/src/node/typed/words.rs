//! Between the edge's words for typed keys and the replica's.

use std::borrow::Cow;

use bytes::Bytes;
use isochrone_edge::{Datum, FieldDatum, IdempotencyKey, Refusal, RegisterDatum, TypedOp};
use isochrone_ident::{Kind, Namespace, Version};
use isochrone_replica::{Change, ChangeRefused, ClaimId, FieldView, RegisterContext, View};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::super::take::FirstAnswer;
use super::super::wire;

/// The mark of a request, equal in whichever region it arrives.
pub(super) fn claim_of(ns: &Namespace, key: &IdempotencyKey) -> ClaimId {
    let mut hash = Xxh3::new();
    hash.update(ns.as_str().as_bytes());
    hash.update(&[0]);
    hash.update(key.as_str().as_bytes());
    ClaimId(hash.digest128())
}

/// What a client asks, as the replica understands it.
pub(super) fn change_of(op: TypedOp, claim: Option<ClaimId>) -> Result<Change, Refusal> {
    let names = |names: Vec<String>| names.into_iter().map(Bytes::from).collect();
    Ok(match op {
        TypedOp::CounterAdd(add) => Change::Count { add, claim },
        TypedOp::SetUpdate { add, remove } => Change::UpdateSet { add, remove },
        TypedOp::MapUpdate { set, remove, add } => Change::UpdateMap {
            set: set.into_iter().map(|(name, value)| (Bytes::from(name), value)).collect(),
            remove: names(remove),
            add: add.into_iter().map(|(name, amount)| (Bytes::from(name), amount)).collect(),
            claim,
        },
        TypedOp::RegisterPut { value, content_type, context } => {
            let context = context.map(|bytes| context_of(&bytes)).transpose()?;
            Change::PutRegister { value, content_type, context }
        }
    })
}

fn context_of(bytes: &[u8]) -> Result<RegisterContext, Refusal> {
    match postcard::take_from_bytes(bytes) {
        Ok((context, [])) => Ok(context),
        Ok(_) | Err(_) => Err(Refusal::ContextUnknown),
    }
}

/// Whether a change acts on what it observes (E5), so that it needs the state of the key.
pub(super) fn observes(change: &Change) -> bool {
    match change {
        Change::Count { .. } => false,
        Change::UpdateSet { remove, .. } | Change::UpdateMap { remove, .. } => !remove.is_empty(),
        Change::PutRegister { context, .. } => context.is_some(),
    }
}

/// What a client is shown; `None` for a view of no typed key.
pub(crate) fn shown(view: View) -> Option<Datum> {
    Some(match view {
        View::Counter(value) => Datum::Counter(value),
        View::Set(members) => Datum::Set(members),
        View::Map(fields) => {
            Datum::Map(fields.into_iter().map(|(name, field)| Some((text(name)?, shown_field(field)))).collect::<Option<_>>()?)
        }
        View::Register { values, context } => {
            let values = values.into_iter().map(|value| RegisterDatum { value: value.value, content_type: value.content_type }).collect();
            Datum::Register { values, context: wire::encode(&context) }
        }
    })
}

/// Names of fields come from clients' JSON, so they are text.
fn text(name: Bytes) -> Option<String> {
    String::from_utf8(name.into()).ok()
}

fn shown_field(field: FieldView) -> FieldDatum {
    match field {
        FieldView::Value(value) => FieldDatum::Value(value),
        FieldView::Counter(value) => FieldDatum::Counter(value),
    }
}

/// What a key of that kind shows that holds nothing.
pub(super) fn empty(kind: Kind) -> Datum {
    match kind {
        Kind::Counter => Datum::Counter(0),
        Kind::Map => Datum::Map(std::collections::BTreeMap::new()),
        Kind::Register => Datum::Register { values: Vec::new(), context: wire::encode(&RegisterContext::default()) },
        Kind::Set | Kind::Value => Datum::Set(Vec::new()),
    }
}

/// The strong validator of what a client is shown: equal wherever the same is shown.
pub(crate) fn etag_of(datum: &Datum) -> u128 {
    xxh3_128(&wire::encode(datum))
}

/// The version that a repeated request was given at first, and for a counter what it stood at then.
pub(super) fn first_answer(earlier: &[u8], fingerprint: u128) -> Result<(Version, Option<i64>), Refusal> {
    let damaged = |_| Refusal::Internal { detail: "a kept answer cannot be understood".into() };
    let (first, rest) = postcard::take_from_bytes::<FirstAnswer>(earlier).map_err(damaged)?;
    if first.fingerprint != fingerprint {
        return Err(Refusal::IdempotencyKeyReused);
    }
    let counted = if rest.is_empty() { None } else { Some(postcard::from_bytes(rest).map_err(damaged)?) };
    Ok((first.version, counted))
}

/// What a client is told of a change that cannot be made.
pub(crate) fn refusal_of_change(refused: &ChangeRefused) -> Refusal {
    let too_many = |what: &'static str, max: usize| Refusal::TooMany { what: what.into(), max: max as u64 };
    match refused {
        ChangeRefused::CounterOverflow => Refusal::CounterOverflow,
        ChangeRefused::TooManyClaims { max } => too_many("requests with an Idempotency-Key in one window", *max),
        ChangeRefused::TooManyMembers { max } => too_many("members", *max),
        ChangeRefused::MemberTooLong { bytes_max } => Refusal::MemberTooLong { bytes_max: *bytes_max as u64 },
        ChangeRefused::TooManyFields { max } => too_many("fields", *max),
        ChangeRefused::TooManyValues { max } => too_many("concurrent values", *max),
        ChangeRefused::FieldType { field } => Refusal::FieldType { field: String::from_utf8_lossy(field).into_owned() },
        ChangeRefused::UnknownContext => Refusal::ContextUnknown,
        ChangeRefused::WrongKind { .. } | ChangeRefused::AlreadyCounted | ChangeRefused::Exhausted => {
            Refusal::Internal { detail: Cow::Owned(refused.to_string()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> IdempotencyKey {
        IdempotencyKey::new(text).expect("a key")
    }

    #[test]
    fn e1_a_request_has_one_mark_everywhere_and_another_in_another_namespace() {
        let (data, other) = (Namespace::new("data").expect("a name"), Namespace::new("other").expect("a name"));
        assert_eq!(claim_of(&data, &key("a")), claim_of(&data, &key("a")));
        assert_ne!(claim_of(&data, &key("a")), claim_of(&data, &key("b")));
        assert_ne!(claim_of(&data, &key("a")), claim_of(&other, &key("a")));
    }

    #[test]
    fn e5_what_takes_away_or_replaces_observes_and_what_adds_does_not() {
        let some = || vec![Bytes::from_static(b"a")];
        assert!(!observes(&Change::Count { add: -1, claim: None }), "a counter's part is the daemon's own");
        assert!(!observes(&Change::UpdateSet { add: some(), remove: Vec::new() }));
        assert!(observes(&Change::UpdateSet { add: some(), remove: some() }));
        assert!(observes(&Change::UpdateMap { set: Vec::new(), remove: some(), add: Vec::new(), claim: None }));
        let put = |context| Change::PutRegister { value: Bytes::new(), content_type: None, context };
        assert!(!observes(&put(None)) && observes(&put(Some(RegisterContext::default()))));
    }

    #[test]
    fn the_answer_to_a_repeat_tells_what_the_counter_stood_at() {
        let first = FirstAnswer { fingerprint: 7, version: Version::default() };
        let mut bytes = wire::encode(&first).to_vec();
        assert_eq!(first_answer(&bytes, 7), Ok((Version::default(), None)));
        bytes.extend_from_slice(&wire::encode(&-3i64));
        assert_eq!(first_answer(&bytes, 7), Ok((Version::default(), Some(-3))));
        assert_eq!(first_answer(&bytes, 8), Err(Refusal::IdempotencyKeyReused));
        assert!(first_answer(&[], 7).is_err());
    }

    #[test]
    fn a_context_that_no_daemon_gave_is_refused() {
        for bytes in [b"\xff\xff\xff".as_slice(), b"\0\0"] {
            let put = TypedOp::RegisterPut { value: Bytes::new(), content_type: None, context: Some(Bytes::from_static(bytes)) };
            assert_eq!(change_of(put, None), Err(Refusal::ContextUnknown));
        }
    }
}
