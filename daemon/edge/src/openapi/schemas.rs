//! Schemas of the JSON bodies.

use serde_json::{Map, Value, json};

/// All but the problem's.
pub(super) fn of_types() -> Map<String, Value> {
    let mut all = Map::new();
    let mut define = |name: &str, schema: Value| all.insert(name.to_owned(), schema);
    let whole = json!({ "type": "integer", "format": "int64", "minimum": i64::MIN, "maximum": i64::MAX });
    define("Counter", object(&["value"], &json!({ "value": whole })));
    define("CounterAdd", object(&["add"], &json!({ "add": whole })));
    let members = json!({ "type": "array", "items": { "$ref": "#/components/schemas/Member" } });
    define("Member", member());
    define("Set", object(&["members"], &json!({ "members": members })));
    define("SetUpdate", object(&[], &json!({ "add": members, "remove": members })));
    define("Map", object(&["fields"], &json!({ "fields": { "type": "object", "additionalProperties": true } })));
    define("MapUpdate", map_update(&whole));
    define("Register", register());
    define("RegisterPut", register_put());
    define("Listed", listed());
    all
}

fn object(required: &[&str], properties: &Value) -> Value {
    json!({ "type": "object", "required": required, "properties": properties, "additionalProperties": false })
}

fn encoded() -> Value {
    json!({ "type": "string", "contentEncoding": "base64" })
}

fn member() -> Value {
    let text = object(&["text"], &json!({ "text": { "type": "string" } }));
    json!({ "description": "Text where it is UTF-8", "oneOf": [{ "type": "string" }, text, object(&["base64"], &json!({ "base64": encoded() }))] })
}

fn map_update(whole: &Value) -> Value {
    object(
        &[],
        &json!({
            "set": { "type": "object", "additionalProperties": true, "description": "Any JSON values; they come back as they were written" },
            "remove": { "type": "array", "items": { "type": "string" } },
            "add": { "type": "object", "additionalProperties": whole, "description": "Fields that are counters" },
        }),
    )
}

fn register() -> Value {
    let value =
        object(&[], &json!({ "text": { "type": "string" }, "base64": encoded(), "content_type": { "type": "string", "maxLength": 255 } }));
    object(&["values", "context"], &json!({ "values": { "type": "array", "items": value }, "context": encoded() }))
}

fn register_put() -> Value {
    let mut schema = object(
        &[],
        &json!({
            "text": { "type": "string" },
            "base64": encoded(),
            "value": { "type": "string", "description": "The same as `text`" },
            "content_type": { "type": "string", "maxLength": 255 },
            "context": { "type": "string", "description": "Of an answer for this key: what was seen there is replaced" },
        }),
    );
    schema["oneOf"] = json!([{ "required": ["text"] }, { "required": ["base64"] }, { "required": ["value"] }]);
    schema
}

fn listed() -> Value {
    let properties = json!({
        "key": { "type": "string" },
        "key_base64": encoded(),
        "etag": { "type": "string" },
        "bytes": { "type": "integer", "minimum": 0 },
        "expires_in_ms": { "type": "integer", "minimum": 0 },
    });
    let mut schema = object(&["etag", "bytes"], &properties);
    schema["oneOf"] = json!([{ "required": ["key"] }, { "required": ["key_base64"] }]);
    schema
}
