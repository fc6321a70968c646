//! Bodies that change a counter, a set, a map or a register: strict JSON, and refusals that say what is taken and what came.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use isochrone_ident::Kind as KeyKind;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::write::content_type_of;
use crate::command::Refusal;
use crate::json;
use crate::problem::Problem;
use crate::typed::TypedOp;

/// How deep a field's value may be nested: far less than what readers of JSON refuse.
const DEPTH_MAX: usize = 64;

/// The change that a body asks for.
pub(super) fn parse(kind: KeyKind, body: &[u8]) -> Result<TypedOp, Problem> {
    match kind {
        KeyKind::Value => Err(Problem::malformed("a value is written as it is, under `/v1/kv`")),
        KeyKind::Counter => Ok(TypedOp::CounterAdd(read::<CounterBody>(kind, body)?.add.0)),
        KeyKind::Set => read::<SetBody>(kind, body)?.into_op(),
        KeyKind::Map => read::<MapBody>(kind, body)?.into_op(),
        KeyKind::Register => read::<RegisterBody>(kind, body)?.into_op(),
    }
}

fn read<T: DeserializeOwned>(kind: KeyKind, body: &[u8]) -> Result<T, Problem> {
    json::object(body).map_err(|e| Problem::malformed(format!("a {kind} takes {}; this body does not fit: {e}", form(kind))))
}

/// What such a body looks like.
pub(super) const fn form(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::Value => "the value itself",
        KeyKind::Counter => r#"{"add": -3}"#,
        KeyKind::Set => r#"{"add": ["a"], "remove": ["b"]}"#,
        KeyKind::Map => r#"{"set": {"f": "any JSON"}, "remove": ["g"], "add": {"n": 2}}"#,
        KeyKind::Register => r#"{"text": "..."} or {"base64": "..."}, with "content_type" and "context" where wanted"#,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CounterBody {
    add: Amount,
}

/// What is added: a whole number of 64 bits, and not one that looks like it.
struct Amount(i64);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AmountVisitor).map(Self)
    }
}

struct AmountVisitor;

impl Visitor<'_> for AmountVisitor {
    type Value = i64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number from {} to {}", i64::MIN, i64::MAX)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<i64, E> {
        Ok(number)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<i64, E> {
        i64::try_from(number).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetBody {
    #[serde(default)]
    add: Vec<Member>,
    #[serde(default)]
    remove: Vec<Member>,
}

impl SetBody {
    fn into_op(self) -> Result<TypedOp, Problem> {
        let unique = |members: Vec<Member>| members.into_iter().map(|member| member.0).collect::<BTreeSet<Bytes>>();
        let (add, remove) = (unique(self.add), unique(self.remove));
        if add.is_empty() && remove.is_empty() {
            return Err(Problem::malformed(format!("a set takes {}; neither list names a member", form(KeyKind::Set))));
        }
        if let Some(both) = add.intersection(&remove).next() {
            return Err(Problem::malformed(format!("the member `{}` stands in `add` and in `remove`", both.escape_ascii())));
        }
        Ok(TypedOp::SetUpdate { add: add.into_iter().collect(), remove: remove.into_iter().collect() })
    }
}

/// A set's member: a JSON string, `{"text": ..}` or `{"base64": ..}`.
struct Member(Bytes);

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MemberVisitor).map(Self)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberObject {
    text: Option<String>,
    base64: Option<String>,
}

struct MemberVisitor;

impl<'de> Visitor<'de> for MemberVisitor {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"a string, {"text": "..."} or {"base64": "..."}"#)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Bytes, E> {
        Ok(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Bytes, A::Error> {
        let member = MemberObject::deserialize(MapAccessDeserializer::new(map))?;
        match (member.text, member.base64) {
            (Some(text), None) => Ok(Bytes::from(text)),
            (None, Some(encoded)) => STANDARD.decode(encoded).map(Bytes::from).map_err(|e| de::Error::custom(not_base64(&e))),
            _ => Err(de::Error::custom("a member has one of `text` and `base64`")),
        }
    }
}

fn not_base64(error: &base64::DecodeError) -> String {
    format!("`base64` is not base64 (RFC 4648 section 4): {error}")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MapBody {
    #[serde(default)]
    set: Fields<Box<RawValue>>,
    #[serde(default)]
    remove: BTreeSet<String>,
    #[serde(default)]
    add: Fields<Amount>,
}

impl MapBody {
    fn into_op(self) -> Result<TypedOp, Problem> {
        let Self { set: Fields(set), remove, add: Fields(add) } = self;
        if set.is_empty() && remove.is_empty() && add.is_empty() {
            return Err(Problem::malformed(format!("a map takes {}; nothing names a field", form(KeyKind::Map))));
        }
        let is_twice = |name: &&String| [set.contains_key(*name), remove.contains(*name), add.contains_key(*name)] != [true, false, false];
        let twice = set.keys().find(is_twice).or_else(|| add.keys().find(|name| remove.contains(*name)));
        if let Some(name) = twice {
            return Err(Problem::malformed(format!("the field `{}` stands in two of `set`, `remove` and `add`", name.escape_debug())));
        }
        let compacted = set.into_iter().map(|(name, raw)| compact(raw.get()).map(|text| (name, text)));
        let set = compacted.collect::<Option<Vec<_>>>();
        let set = set.ok_or_else(|| Problem::malformed(format!("a field's value is nested deeper than {DEPTH_MAX} levels")))?;
        let add = add.into_iter().map(|(name, amount)| (name, amount.0)).collect();
        Ok(TypedOp::MapUpdate { set, remove: remove.into_iter().collect(), add })
    }
}

/// A JSON object whose names are unique, which serde's own maps do not ask for.
struct Fields<T>(BTreeMap<String, T>);

impl<T> Default for Fields<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Fields<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor(PhantomData)).map(Self)
    }
}

struct FieldsVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for FieldsVisitor<T> {
    type Value = BTreeMap<String, T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of fields")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if fields.contains_key(&name) {
                return Err(de::Error::custom(format_args!("the field `{}` is given twice", name.escape_debug())));
            }
            fields.insert(name, map.next_value()?);
        }
        Ok(fields)
    }
}

/// A valid JSON text without the white space around its parts: numbers, strings and the order of names stay as they were. A line of a batch's
/// answers can hold it so. `None`: nested too deep.
fn compact(text: &str) -> Option<Bytes> {
    let mut out = Vec::with_capacity(text.len());
    let (mut depth, mut in_string, mut is_escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        if in_string {
            in_string = byte != b'"' || is_escaped;
            is_escaped = byte == b'\\' && !is_escaped;
        } else {
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' => continue,
                b'"' => in_string = true,
                b'[' | b'{' => depth += 1,
                b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > DEPTH_MAX {
                return None;
            }
        }
        out.push(byte);
    }
    Some(out.into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RegisterBody {
    text: Option<String>,
    base64: Option<String>,
    /// The same as `text`.
    value: Option<String>,
    content_type: Option<String>,
    context: Option<String>,
}

impl RegisterBody {
    fn into_op(self) -> Result<TypedOp, Problem> {
        let value = match (self.text, self.base64, self.value) {
            (Some(text), None, None) | (None, None, Some(text)) => Bytes::from(text),
            (None, Some(encoded), None) => STANDARD.decode(encoded).map_err(|e| Problem::malformed(not_base64(&e)))?.into(),
            _ => return Err(Problem::malformed("a register's body has one of `text`, `base64` and `value`")),
        };
        let content_type = content_type_of(self.content_type.as_deref())?;
        let context = self.context.map(|encoded| STANDARD.decode(encoded).map(Bytes::from)).transpose();
        let context = context.map_err(|_| Problem::from(Refusal::ContextUnknown))?;
        Ok(TypedOp::RegisterPut { value, content_type, context })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    const KINDS: [KeyKind; 4] = [KeyKind::Counter, KeyKind::Set, KeyKind::Map, KeyKind::Register];

    fn detail(kind: KeyKind, body: &str) -> String {
        parse(kind, body.as_bytes()).expect_err("is refused").detail.into_owned()
    }

    #[test]
    fn an_amount_is_a_whole_number_of_64_bits() {
        let add = |text: &str| parse(KeyKind::Counter, format!("{{\"add\": {text}}}").as_bytes());
        assert_eq!(add("-9223372036854775808"), Ok(TypedOp::CounterAdd(i64::MIN)));
        assert_eq!(add("9223372036854775807"), Ok(TypedOp::CounterAdd(i64::MAX)));
        for bad in ["9223372036854775808", "-9223372036854775809", "1e3", "1.0", "\"3\"", "null", "[1]", "true", "1e999", ""] {
            assert!(add(bad).is_err(), "{bad}");
        }
        assert!(detail(KeyKind::Counter, "[3]").contains("it is no object"));
        assert!(detail(KeyKind::Counter, " ").contains("it is empty"));
        let text = detail(KeyKind::Counter, r#"{"add": "three"}"#);
        assert!(text.contains(r#"{"add": -3}"#) && text.contains("string \"three\"") && text.contains("a whole number from"), "{text}");
    }

    #[test]
    fn members_stand_once_each_in_byte_order() {
        let op = parse(KeyKind::Set, br#"{"add": ["b", {"text": "a"}, {"base64": "/w=="}, "b"]}"#).expect("parses");
        let add = vec![Bytes::from("a"), Bytes::from("b"), Bytes::from(vec![0xff])];
        assert_eq!(op, TypedOp::SetUpdate { add, remove: vec![] });
        assert!(detail(KeyKind::Set, r#"{"add": ["a"], "remove": [{"base64": "YQ=="}]}"#).contains("`a` stands in `add` and in `remove`"));
        assert!(detail(KeyKind::Set, r#"{"add": [], "remove": []}"#).contains("neither list names a member"));
        assert!(detail(KeyKind::Set, r#"{"add": [1]}"#).contains("expected a string"));
    }

    #[test]
    fn the_values_of_a_maps_fields_stay_the_text_that_they_were() {
        let op = parse(KeyKind::Map, b"{\"set\": {\"f\": { \"b\" : 1.10,\n\"a\":\"x \\\" y\" , \"n\": 123456789012345678901234567890 }}}")
            .expect("parses");
        let kept = Bytes::from(r#"{"b":1.10,"a":"x \" y","n":123456789012345678901234567890}"#);
        assert_eq!(op, TypedOp::MapUpdate { set: vec![("f".into(), kept)], remove: vec![], add: vec![] });
    }

    #[test]
    fn a_field_stands_in_one_place() {
        for bad in
            [r#"{"set": {"f": 1}, "remove": ["f"]}"#, r#"{"set": {"f": 1}, "add": {"f": 1}}"#, r#"{"remove": ["f"], "add": {"f": 1}}"#]
        {
            assert!(detail(KeyKind::Map, bad).contains("the field `f` stands in two of"), "{bad}");
        }
        assert!(detail(KeyKind::Map, r#"{"add": {"f": 1, "f": 2}}"#).contains("the field `f` is given twice"));
        assert!(detail(KeyKind::Map, r#"{"set": {"f": 1}, "set": {}}"#).contains("duplicate field `set`"));
        assert!(detail(KeyKind::Map, "{}").contains("nothing names a field"));
    }

    #[test]
    fn a_value_nested_too_deep_is_refused_whatever_its_size() {
        let nested = |depth: usize| format!(r#"{{"set": {{"f": {}{}}}}}"#, "[".repeat(depth), "]".repeat(depth));
        assert!(parse(KeyKind::Map, nested(DEPTH_MAX).as_bytes()).is_ok());
        assert!(detail(KeyKind::Map, &nested(DEPTH_MAX + 1)).contains("nested deeper"));
        assert!(parse(KeyKind::Map, nested(200_000).as_bytes()).is_err());
    }

    #[test]
    fn a_register_has_one_value() {
        let put = |body: &str| parse(KeyKind::Register, body.as_bytes());
        let plain = |value: &'static [u8]| TypedOp::RegisterPut { value: Bytes::from_static(value), content_type: None, context: None };
        assert_eq!(put(r#"{"text": "a"}"#), Ok(plain(b"a")));
        assert_eq!(put(r#"{"value": "a"}"#), Ok(plain(b"a")));
        assert_eq!(put(r#"{"base64": "/w=="}"#), Ok(plain(b"\xff")));
        for bad in
            [r#"{"text": "a", "value": "a"}"#, "{}", r#"{"base64": "%"}"#, r#"{"text": 1}"#, r#"{"text": "a", "content_type": "\n"}"#]
        {
            assert!(put(bad).is_err(), "{bad}");
        }
        assert_eq!(put(r#"{"text": "a", "context": "%"}"#).map_err(|problem| problem.kind.name()), Err("context-unknown"));
    }

    proptest! {
        #[test]
        fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..80), text in r#"[\[\]{}":,a-d0-9 \\]{0,60}"#) {
            for kind in KINDS {
                let _ = parse(kind, &body);
                let _ = parse(kind, text.as_bytes());
                let _ = parse(kind, format!("{{\"set\":{{\"f\":{text}}}}}").as_bytes());
            }
        }

        #[test]
        fn a_compacted_text_means_the_same(names in proptest::collection::vec("[\\PC\"\\\\]{0,6}", 0..5), numbers in proptest::collection::vec(any::<f64>(), 0..5)) {
            let value = serde_json::json!({ "names": names, "numbers": numbers });
            let pretty = serde_json::to_string_pretty(&value).expect("a text");
            let text = compact(&pretty).expect("not deep");
            prop_assert_eq!(std::str::from_utf8(&text).expect("text"), serde_json::to_string(&value).expect("a text"));
            prop_assert_eq!(serde_json::from_slice::<Value>(&text).expect("JSON"), serde_json::from_str::<Value>(&pretty).expect("JSON"));
        }
    }
}
