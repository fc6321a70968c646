//! `/openapi.json` (OpenAPI 3.1), made from the same table that dispatches.

use serde_json::{Map, Value, json};

mod schemas;

use crate::problem::Kind;
use crate::route::{Operation, Route, Tail};

/// Problems that any request under `/v1` may meet.
const COMMON: [u16; 10] = [400, 401, 403, 405, 408, 429, 431, 500, 501, 503];

/// The description of these routes. Those that are not built are left out: they answer 501.
pub(crate) fn document(routes: &[Route]) -> Value {
    let mut paths = Map::new();
    for route in routes.iter().filter(|route| route.not_built.is_none()) {
        let mut path = Map::new();
        path.insert("parameters".into(), path_parameters(route.tail));
        for operation in route.operations {
            path.insert(operation.method.to_ascii_lowercase(), describe(route, operation));
        }
        paths.insert(route.template(), Value::Object(path));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Isochrone",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "A geo-distributed edge cache: values near their readers, and answers that say how far from now they may be.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "security": [{}, { "bearer": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" } },
            "headers": headers(),
            "schemas": schemas(),
        },
    })
}

fn path_parameters(tail: Tail) -> Value {
    let namespace =
        json!({ "name": "ns", "in": "path", "required": true, "schema": { "type": "string", "pattern": "^[a-z0-9][a-z0-9_-]{0,62}$" } });
    let key = json!({ "name": "key", "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 },
        "description": "1 to 1,024 bytes, percent-encoded; slashes may stand as they are" });
    let name = json!({ "name": "name", "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } });
    match tail {
        Tail::None => json!([]),
        Tail::Namespace => json!([namespace]),
        Tail::Key => json!([namespace, key]),
        Tail::Name => json!([name]),
    }
}

fn describe(route: &Route, operation: &Operation) -> Value {
    let query = operation
        .query
        .iter()
        .map(|name| json!({ "name": name, "in": "query", "schema": { "type": "string" }, "description": about(name) }));
    // OpenAPI 3.1 section 4.8.12.1: a parameter named Content-Type is ignored; it belongs to the body.
    let fields = operation.headers.iter().filter(|name| **name != "Content-Type");
    let header = fields.map(|name| json!({ "name": name, "in": "header", "schema": { "type": "string" }, "description": about(name) }));
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "parameters": query.chain(header).collect::<Vec<_>>(),
        "responses": responses(route, operation),
    });
    if !operation.takes.is_empty() {
        described["requestBody"] = json!({ "required": true, "content": { operation.takes: media(operation.takes_schema) } });
    }
    if route.is_open() {
        described["security"] = json!([]);
    }
    described
}

fn responses(route: &Route, operation: &Operation) -> Value {
    let mut all = Map::new();
    for (status, kind) in operation.gives {
        let reason = http::StatusCode::from_u16(*status).ok().and_then(|status| status.canonical_reason()).unwrap_or("");
        let mut response = json!({ "description": reason });
        if !kind.is_empty() {
            response["content"] = json!({ *kind: media(operation.gives_schema) });
        }
        if !route.is_open() {
            let receipt = ["Isochrone-Consistency", "Isochrone-Region", "Isochrone-Age-Ms", "Isochrone-Session", "Isochrone-Path"];
            response["headers"] =
                receipt.iter().map(|name| ((*name).to_owned(), json!({ "$ref": format!("#/components/headers/{name}") }))).collect();
        }
        all.insert(status.to_string(), response);
    }
    let common = if route.is_open() { &[][..] } else { &COMMON[..] };
    for status in operation.problems.iter().chain(common) {
        all.insert(status.to_string(), problem_response(*status));
    }
    Value::Object(all)
}

fn problem_response(status: u16) -> Value {
    let types: Vec<String> =
        Kind::ALL.iter().filter(|kind| kind.status_code() == status).map(|kind| format!("`{}`", kind.name())).collect();
    json!({
        "description": types.join(", "),
        "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
    })
}

fn media(schema: &str) -> Value {
    if schema.is_empty() { json!({}) } else { json!({ "schema": { "$ref": format!("#/components/schemas/{schema}") } }) }
}

fn schemas() -> Value {
    let mut all = schemas::of_types();
    all.insert("Problem".into(), problem_schema());
    Value::Object(all)
}

fn about(name: &str) -> &'static str {
    match name {
        "consistency" | "Isochrone-Consistency" => "`local`, `quorum` or `strong`; the namespace's own level where absent",
        "for" => "`update`: a write of this key will follow, which is then cheaper; in strong namespaces only",
        "ttl" => "How long the value lives: a number and a unit, as in `60s`",
        "prefix" => "Only keys that begin so",
        "after" => "Only keys after this one",
        "limit" => "Entries of the page at most",
        "Idempotency-Key" => "1 to 128 visible characters; a repeat applies once and gives the first answer",
        "If-Match" | "If-None-Match" => "Versions, as `ETag` gives them; on writes in strong namespaces only",
        "Isochrone-Fence" => "`{lock}={token}`, the lock's name percent-encoded; in strong namespaces only",
        "Cache-Control" => "`max-age` is the TTL where the query names none",
        "Isochrone-Session" => "The newest token that an answer gave: the answer is then no older than what was seen with it",
        "Range" => "One range of bytes",
        "If-Range" => "The version that the range is of",
        _ => "",
    }
}

fn headers() -> Value {
    json!({
        "Isochrone-Consistency": { "description": "What was really given", "schema": { "type": "string", "enum": ["local", "quorum", "strong"] } },
        "Isochrone-Region": { "description": "The region that served", "schema": { "type": "string" } },
        "Isochrone-Age-Ms": { "description": "Upper bound of staleness in milliseconds, where one is known", "schema": { "type": "integer", "minimum": 0 } },
        "Isochrone-Session": { "description": "What has been seen from now on; send it with the next request, to any daemon", "schema": { "type": "string", "maxLength": 1024 } },
        "Isochrone-Path": { "description": "How a strong answer was come by, and what that cost; for people", "schema": { "type": "string" } },
    })
}

fn problem_schema() -> Value {
    let types: Vec<String> = Kind::ALL.iter().map(|kind| format!("/problems/{}", kind.name())).collect();
    json!({
        "type": "object",
        "required": ["type", "title", "status", "detail", "retryable"],
        "properties": {
            "type": { "type": "string", "format": "uri-reference", "examples": types },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string" },
            "retryable": { "type": "boolean", "description": "Whether the very same request may succeed later" },
        },
    })
}
