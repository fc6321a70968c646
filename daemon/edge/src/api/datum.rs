//! What a counter, a set, a map or a register holds, as JSON.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::problem::{Kind, Problem};
use crate::typed::{Datum, FieldDatum, RegisterDatum};

#[derive(Serialize)]
struct CounterJson {
    value: i64,
}

#[derive(Serialize)]
struct SetJson<'a> {
    members: Vec<MemberJson<'a>>,
}

/// Text where it is UTF-8, else an object that says how it is encoded.
#[derive(Serialize)]
#[serde(untagged)]
enum MemberJson<'a> {
    Text(&'a str),
    Base64 { base64: String },
}

#[derive(Serialize)]
struct MapJson<'a> {
    fields: BTreeMap<&'a str, FieldJson<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum FieldJson<'a> {
    Value(&'a RawValue),
    Counter(i64),
}

#[derive(Serialize)]
struct RegisterJson<'a> {
    values: Vec<RegisterValueJson<'a>>,
    context: String,
}

#[derive(Serialize)]
struct RegisterValueJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
}

/// The JSON object that stands for it, on one line.
pub(super) fn json(datum: &Datum) -> Result<Box<RawValue>, Problem> {
    let text = match datum {
        Datum::Counter(value) => serde_json::value::to_raw_value(&CounterJson { value: *value }),
        Datum::Set(members) => serde_json::value::to_raw_value(&SetJson { members: members.iter().map(member).collect() }),
        Datum::Map(fields) => {
            let fields = fields.iter().map(|(name, held)| Ok((name.as_str(), field(held)?))).collect::<Result<_, serde_json::Error>>();
            fields.and_then(|fields| serde_json::value::to_raw_value(&MapJson { fields }))
        }
        Datum::Register { values, context } => {
            serde_json::value::to_raw_value(&RegisterJson { values: values.iter().map(value).collect(), context: STANDARD.encode(context) })
        }
    };
    text.map_err(|e| Kind::Internal.because(format!("what the key holds cannot be told as JSON: {e}")))
}

fn member(bytes: &Bytes) -> MemberJson<'_> {
    std::str::from_utf8(bytes).map_or_else(|_| MemberJson::Base64 { base64: STANDARD.encode(bytes) }, MemberJson::Text)
}

/// What is held came from a client once, but by way of peers and disks: it is looked at again.
fn field(held: &FieldDatum) -> Result<FieldJson<'_>, serde_json::Error> {
    match held {
        FieldDatum::Value(text) => serde_json::from_slice(text).map(FieldJson::Value),
        FieldDatum::Counter(value) => Ok(FieldJson::Counter(*value)),
    }
}

fn value(held: &RegisterDatum) -> RegisterValueJson<'_> {
    let text = std::str::from_utf8(&held.value).ok();
    let base64 = if text.is_none() { Some(STANDARD.encode(&held.value)) } else { None };
    RegisterValueJson { text, base64, content_type: held.content_type.as_deref() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_text_is_base64_and_says_so() {
        let set = Datum::Set(vec![Bytes::from("a"), Bytes::from(vec![0xff])]);
        assert_eq!(json(&set).expect("JSON").get(), r#"{"members":["a",{"base64":"/w=="}]}"#);
        let values = vec![
            RegisterDatum { value: Bytes::from("x"), content_type: Some("text/css".into()) },
            RegisterDatum { value: Bytes::from(vec![0xff]), content_type: None },
        ];
        let register = Datum::Register { values, context: Bytes::from(vec![1, 2]) };
        let text = r#"{"values":[{"text":"x","content_type":"text/css"},{"base64":"/w=="}],"context":"AQI="}"#;
        assert_eq!(json(&register).expect("JSON").get(), text);
    }

    #[test]
    fn a_fields_text_goes_out_as_it_is_and_a_broken_one_not_at_all() {
        let map = |text: &'static str| {
            let fields = [("f".to_owned(), FieldDatum::Value(Bytes::from(text))), ("n".to_owned(), FieldDatum::Counter(-2))];
            json(&Datum::Map(fields.into()))
        };
        assert_eq!(map("[1.10,1e400]").expect("JSON").get(), r#"{"fields":{"f":[1.10,1e400],"n":-2}}"#);
        assert_eq!(map("1}").map_err(|problem| problem.kind.name()).expect_err("broken"), "internal");
    }
}
