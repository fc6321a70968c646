//! Counters, sets, maps and registers as the API has them: a deed as a request, an answer as what is shown.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::Method;
use isochrone_ident::Kind;
use serde_json::{Map, Value, json};

use crate::clients::calls::{Call, request};
use crate::model::maps::{Change, Shown};
use crate::model::typed::{Deed, Place, View};
use crate::model::{ActId, Ending};

/// Where a key is, or with an empty key the listing of its kind.
#[must_use]
pub fn path(place: &Place) -> String {
    format!("/v1/{}s/{}/{}", place.kind, place.name.0, place.name.1)
}

/// A read.
#[must_use]
pub fn read(place: &Place, fields: &[(&str, String)]) -> Call {
    request(Method::GET, &path(place), fields, Bytes::new())
}

/// A write. A map's and a register's value is the act's name; `context` is a register's.
#[must_use]
pub fn write(place: &Place, id: ActId, deed: &Deed, context: Option<&str>, ttl_ms: Option<u64>, fields: &[(&str, String)]) -> Call {
    let method = if place.kind == Kind::Register { Method::PUT } else { Method::POST };
    let query = ttl_ms.map_or_else(String::new, |ms| format!("?ttl={ms}ms"));
    request(method, &format!("{}{query}", path(place)), fields, body(id, deed, context).to_string().into())
}

fn body(id: ActId, deed: &Deed, context: Option<&str>) -> Value {
    match deed {
        Deed::Add(amount) => json!({ "add": amount }),
        Deed::Update { add, remove } => json!({ "add": add, "remove": remove }),
        Deed::Change(changes) => map_body(id, changes),
        Deed::Put { .. } => match context {
            Some(context) => json!({ "text": text_of(id), "context": context }),
            None => json!({ "text": text_of(id) }),
        },
    }
}

fn map_body(id: ActId, changes: &[(String, Change)]) -> Value {
    let (mut set, mut add, mut remove) = (Map::new(), Map::new(), Vec::new());
    for (field, change) in changes {
        match change {
            Change::Set => drop(set.insert(field.clone(), text_of(id).into())),
            Change::Add(amount) => drop(add.insert(field.clone(), (*amount).into())),
            Change::Remove => remove.push(field.as_str()),
        }
    }
    json!({ "set": set, "add": add, "remove": remove })
}

fn text_of(id: ActId) -> String {
    format!("w{}", id.0)
}

fn act_of(text: &str) -> Option<ActId> {
    text.strip_prefix('w')?.parse().ok().map(ActId)
}

/// What an answer's body shows, and a register's context. `None`: it shows something that nobody can have written.
#[must_use]
pub fn view_of(kind: Kind, body: &[u8]) -> Option<(View, Option<String>)> {
    let body: Value = serde_json::from_slice(body).ok()?;
    match kind {
        Kind::Value => None,
        Kind::Counter => Some((View::Counter(body["value"].as_i64()?), None)),
        Kind::Set => {
            let members = body["members"].as_array()?.iter().map(|member| member.as_str().map(str::to_owned));
            Some((View::Set(members.collect::<Option<_>>()?), None))
        }
        Kind::Map => {
            let fields = body["fields"].as_object()?.iter().map(|(name, value)| Some((name.clone(), shown_of(value)?)));
            Some((View::Map(fields.collect::<Option<_>>()?), None))
        }
        Kind::Register => {
            let values = body["values"].as_array()?;
            let acts: BTreeSet<ActId> = values.iter().map(|value| act_of(value["text"].as_str()?)).collect::<Option<_>>()?;
            // One value that stands there twice came back under another dot.
            (acts.len() == values.len()).then(|| (View::Register(acts), body["context"].as_str().map(str::to_owned)))
        }
    }
}

fn shown_of(value: &Value) -> Option<Shown> {
    match value {
        Value::String(text) => Some(Shown::Value(act_of(text))),
        value => value.as_i64().map(Shown::Count),
    }
}

/// What the status of a write's answer says of it.
#[must_use]
pub fn ending_of(status: u16) -> Ending {
    match status {
        200..=299 => Ending::Acknowledged,
        400..=499 | 501 | 503 | 507 => Ending::Refused,
        _ => Ending::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_answers_show_is_read_back() {
        let shown = |kind, body: &str| view_of(kind, body.as_bytes()).map(|(view, _)| view);
        assert_eq!(shown(Kind::Counter, r#"{"value":-3}"#), Some(View::Counter(-3)));
        assert_eq!(shown(Kind::Set, r#"{"members":["a"]}"#), Some(View::Set(BTreeSet::from(["a".to_owned()]))));
        let fields = [("c".to_owned(), Shown::Count(2)), ("f".to_owned(), Shown::Value(Some(ActId(7))))];
        assert_eq!(shown(Kind::Map, r#"{"fields":{"f":"w7","c":2}}"#), Some(View::Map(fields.into())));
        let register = r#"{"values":[{"text":"w1"},{"text":"w2"}],"context":"AQ=="}"#;
        let acts = BTreeSet::from([ActId(1), ActId(2)]);
        assert_eq!(view_of(Kind::Register, register.as_bytes()), Some((View::Register(acts), Some("AQ==".to_owned()))));
        assert_eq!(shown(Kind::Register, r#"{"values":[{"text":"w1"},{"text":"w1"}]}"#), None);
    }
}
