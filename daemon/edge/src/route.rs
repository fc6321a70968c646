//! The one table of routes: it dispatches, it says which methods a path takes, and `/openapi.json` is made from it.

use http::Method;
use isochrone_ident::{Key, Kind as KeyKind, Namespace};

use crate::path::decode;
use crate::problem::{Kind, Problem};

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum RouteId {
    Kv,
    /// A key of any kind but a value.
    Typed(KeyKind),
    List(KeyKind),
    Batch,
    Locks,
    Txn,
    Sagas,
    Saga,
    Watch,
    OpenApi,
    Problems,
}

/// What follows a route's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Nothing.
    None,
    /// `{ns}`
    Namespace,
    /// `{ns}/{key}`
    Key,
    /// `{name}`: one or more characters, slashes included.
    Name,
}

/// One method of a path.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) method: &'static str,
    /// A name for generated clients.
    pub(crate) id: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) query: &'static [&'static str],
    pub(crate) headers: &'static [&'static str],
    /// Media type of the request's body; empty: it has none.
    pub(crate) takes: &'static str,
    /// The schema of that body, where it has one.
    pub(crate) takes_schema: &'static str,
    /// Statuses of good answers, with the media type of their body (empty: none).
    pub(crate) gives: &'static [(u16, &'static str)],
    /// The schema of those bodies, where they have one.
    pub(crate) gives_schema: &'static str,
    /// Statuses of problems that belong to it, beside those that every request can meet.
    pub(crate) problems: &'static [u16],
}

/// One path.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) id: RouteId,
    /// Its label in metrics.
    pub(crate) label: &'static str,
    pub(crate) prefix: &'static str,
    pub(crate) tail: Tail,
    pub(crate) operations: &'static [Operation],
    /// What it will be, for those that this version does not have yet (501).
    pub(crate) not_built: Option<&'static str>,
}

const NDJSON: &str = "application/x-ndjson";
const ANY: &str = "*/*";
const JSON: &str = "application/json";
const READ_HEADERS: &[&str] = &["Isochrone-Consistency", "Isochrone-Session", "If-Match", "If-None-Match", "Range", "If-Range"];
const WRITE_HEADERS: &[&str] =
    &["Isochrone-Consistency", "Isochrone-Session", "Idempotency-Key", "If-Match", "If-None-Match", "Isochrone-Fence"];
const BOTH_HEADERS: &[&str] = &["Isochrone-Consistency", "Isochrone-Session"];

const fn operation(method: &'static str, id: &'static str, summary: &'static str) -> Operation {
    Operation { method, id, summary, query: &[], headers: &[], takes: "", takes_schema: "", gives: &[], gives_schema: "", problems: &[] }
}

const fn later(id: RouteId, label: &'static str, prefix: &'static str, tail: Tail, what: &'static str) -> Route {
    Route { id, label, prefix, tail, operations: &[], not_built: Some(what) }
}

const fn typed(kind: KeyKind, label: &'static str, prefix: &'static str, operations: &'static [Operation]) -> Route {
    Route { id: RouteId::Typed(kind), label, prefix, tail: Tail::Key, operations, not_built: None }
}

const fn listing(kind: KeyKind, label: &'static str, prefix: &'static str, operations: &'static [Operation]) -> Route {
    Route { id: RouteId::List(kind), label, prefix, tail: Tail::Namespace, operations, not_built: None }
}

const fn page(id: &'static str, summary: &'static str) -> Operation {
    Operation {
        query: &["prefix", "after", "limit", "consistency"],
        headers: BOTH_HEADERS,
        gives: &[(200, NDJSON)],
        gives_schema: "Listed",
        problems: &[404, 409],
        ..operation("GET", id, summary)
    }
}

const fn look(id: &'static str, summary: &'static str, schema: &'static str) -> Operation {
    Operation {
        query: &["consistency"],
        headers: &["Isochrone-Consistency", "Isochrone-Session", "If-Match", "If-None-Match"],
        gives: &[(200, JSON), (304, "")],
        gives_schema: schema,
        problems: &[404, 409, 412],
        ..operation("GET", id, summary)
    }
}

const fn change(method: &'static str, id: &'static str, summary: &'static str, takes: &'static str, gives: &'static str) -> Operation {
    Operation {
        query: &["consistency", "ttl"],
        headers: &["Isochrone-Consistency", "Isochrone-Session", "Idempotency-Key", "Cache-Control", "Content-Type"],
        takes: JSON,
        takes_schema: takes,
        gives: &[(200, JSON)],
        gives_schema: gives,
        problems: &[404, 409, 413, 415, 422, 504, 507],
        ..operation(method, id, summary)
    }
}

const LIST_VALUES: &[Operation] = &[page("listKeys", "A page of a namespace's keys, one JSON object a line, in byte order")];
const LIST_COUNTERS: &[Operation] = &[page("listCounters", "A page of a namespace's counters")];
const LIST_SETS: &[Operation] = &[page("listSets", "A page of a namespace's sets")];
const LIST_MAPS: &[Operation] = &[page("listMaps", "A page of a namespace's maps")];
const LIST_REGISTERS: &[Operation] = &[page("listRegisters", "A page of a namespace's registers")];

const COUNTER: &[Operation] = &[
    look("getCounter", "A counter's value", "Counter"),
    change("POST", "addToCounter", "Adds to a counter, and answers the value seen", "CounterAdd", "Counter"),
];
const SET: &[Operation] = &[
    look("getSet", "A set's members, in byte order", "Set"),
    change("POST", "updateSet", "Adds members to a set, and removes those that were observed", "SetUpdate", "Set"),
];
const MAP: &[Operation] = &[
    look("getMap", "A map's fields", "Map"),
    change("POST", "updateMap", "Sets, removes and adds to fields of a map", "MapUpdate", "Map"),
];
const REGISTER: &[Operation] = &[
    look("getRegister", "A register's values: more than one when they were written without knowing of each other", "Register"),
    change("PUT", "putRegister", "Writes a register, in the place of what its context has seen", "RegisterPut", "Register"),
];

/// Every path of the client listener. Longer ones of a shared prefix come first; the hottest is at the top.
pub(crate) static ROUTES: &[Route] = &[
    Route {
        id: RouteId::Kv,
        label: "kv",
        prefix: "/v1/kv/",
        tail: Tail::Key,
        operations: &[
            Operation {
                query: &["consistency", "for"],
                headers: READ_HEADERS,
                gives: &[(200, ANY), (206, ANY), (304, "")],
                problems: &[404, 409, 412, 416],
                ..operation("GET", "getKey", "The value of a key")
            },
            Operation {
                query: &["consistency", "for"],
                headers: READ_HEADERS,
                gives: &[(200, ""), (304, "")],
                problems: &[404, 409, 412],
                ..operation("HEAD", "headKey", "The header fields that GET would answer with")
            },
            Operation {
                query: &["consistency", "ttl"],
                headers: &[
                    "Isochrone-Consistency",
                    "Isochrone-Session",
                    "Idempotency-Key",
                    "If-Match",
                    "If-None-Match",
                    "Isochrone-Fence",
                    "Cache-Control",
                    "Content-Type",
                ],
                takes: ANY,
                gives: &[(201, ""), (204, "")],
                problems: &[404, 409, 412, 413, 415, 422, 504, 507],
                ..operation("PUT", "putKey", "Sets a key's value")
            },
            Operation {
                query: &["consistency"],
                headers: WRITE_HEADERS,
                gives: &[(204, "")],
                problems: &[404, 409, 412, 422, 504],
                ..operation("DELETE", "deleteKey", "Removes a key; 204 also when it is absent")
            },
        ],
        not_built: None,
    },
    listing(KeyKind::Value, "list", "/v1/kv/", LIST_VALUES),
    Route {
        id: RouteId::Batch,
        label: "batch",
        prefix: "/v1/batch",
        tail: Tail::None,
        operations: &[Operation {
            query: &["consistency"],
            headers: BOTH_HEADERS,
            takes: NDJSON,
            gives: &[(200, NDJSON)],
            problems: &[413, 415],
            ..operation("POST", "batch", "Many gets, puts, deletes and updates: a JSON object a line, an answer each, in order")
        }],
        not_built: None,
    },
    typed(KeyKind::Counter, "counters", "/v1/counters/", COUNTER),
    listing(KeyKind::Counter, "counters_list", "/v1/counters/", LIST_COUNTERS),
    typed(KeyKind::Set, "sets", "/v1/sets/", SET),
    listing(KeyKind::Set, "sets_list", "/v1/sets/", LIST_SETS),
    typed(KeyKind::Map, "maps", "/v1/maps/", MAP),
    listing(KeyKind::Map, "maps_list", "/v1/maps/", LIST_MAPS),
    typed(KeyKind::Register, "registers", "/v1/registers/", REGISTER),
    listing(KeyKind::Register, "registers_list", "/v1/registers/", LIST_REGISTERS),
    later(RouteId::Locks, "locks", "/v1/locks/", Tail::Name, "a lock"),
    later(RouteId::Txn, "txn", "/v1/txn", Tail::None, "a transaction"),
    later(RouteId::Sagas, "sagas", "/v1/sagas", Tail::None, "a saga"),
    later(RouteId::Saga, "sagas", "/v1/sagas/", Tail::Name, "a saga"),
    later(RouteId::Watch, "watch", "/v1/watch/", Tail::Namespace, "a watch"),
    Route {
        id: RouteId::OpenApi,
        label: "openapi",
        prefix: "/openapi.json",
        tail: Tail::None,
        operations: &[Operation { gives: &[(200, "application/json")], ..operation("GET", "openapi", "This description") }],
        not_built: None,
    },
    Route {
        id: RouteId::Problems,
        label: "problems",
        prefix: "/problems/",
        tail: Tail::Name,
        operations: &[Operation {
            gives: &[(200, "text/plain")],
            problems: &[404],
            ..operation("GET", "problem", "What a problem type means")
        }],
        not_built: None,
    },
];

impl Route {
    /// Whether a token is needed where tokens are on.
    pub(crate) const fn is_open(&self) -> bool {
        matches!(self.id, RouteId::OpenApi | RouteId::Problems)
    }

    /// The operation for a method; a path that answers GET answers HEAD too (RFC 9110 section 9.3.2).
    pub(crate) fn operation(&self, method: &Method) -> Option<&'static Operation> {
        let find = |method: &str| self.operations.iter().find(|operation| operation.method == method);
        find(method.as_str()).or_else(|| if *method == Method::HEAD { find("GET") } else { None })
    }

    /// The methods of the path, for `Allow`.
    pub(crate) fn allow(&self) -> String {
        let mut methods: Vec<&str> = self.operations.iter().map(|operation| operation.method).collect();
        if methods.contains(&"GET") && !methods.contains(&"HEAD") {
            methods.push("HEAD");
        }
        methods.join(", ")
    }

    /// The path with its parameters in braces.
    pub(crate) fn template(&self) -> String {
        let tail = match self.tail {
            Tail::None => "",
            Tail::Namespace => "{ns}",
            Tail::Key => "{ns}/{key}",
            Tail::Name => "{name}",
        };
        format!("{}{tail}", self.prefix)
    }

    /// What follows the prefix, when the path is of this route.
    fn tail_of<'a>(&self, path: &'a str) -> Option<&'a str> {
        let tail = path.strip_prefix(self.prefix)?;
        let fits = match self.tail {
            Tail::None => tail.is_empty(),
            Tail::Namespace => !tail.is_empty() && !tail.contains('/'),
            Tail::Key => tail.contains('/'),
            Tail::Name => !tail.is_empty(),
        };
        fits.then_some(tail)
    }
}

/// What stands for a kind in paths.
pub(crate) const fn collection(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::Value => "kv",
        KeyKind::Counter => "counters",
        KeyKind::Set => "sets",
        KeyKind::Map => "maps",
        KeyKind::Register => "registers",
    }
}

/// The route of a path, and what follows its prefix, still encoded.
pub(crate) fn resolve(path: &str) -> Option<(&'static Route, &str)> {
    ROUTES.iter().find_map(|route| Some((route, route.tail_of(path)?)))
}

/// A namespace as it stands in a path.
pub(crate) fn namespace(encoded: &str) -> Result<Namespace, Problem> {
    let bytes = decode(encoded.as_bytes()).ok_or_else(broken_escape)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| Problem::malformed("the namespace is not UTF-8"))?;
    Namespace::new(text).map_err(|e| Problem::malformed(e.to_string()))
}

/// `{ns}/{key}` as it stands in a path. Everything after the first slash is the key: further slashes, empty segments and dots included.
pub(crate) fn namespace_and_key(tail: &str) -> Result<(Namespace, Key), Problem> {
    let (ns, key) = tail.split_once('/').unwrap_or((tail, ""));
    let key = decode(key.as_bytes()).ok_or_else(broken_escape)?.into_owned();
    let key = Key::new(key).map_err(|e| Problem::malformed(e.to_string()))?;
    Ok((namespace(ns)?, key))
}

fn broken_escape() -> Problem {
    Problem::malformed("in the path a `%` is not followed by two hexadecimal digits; a key's own `%` is written `%25`")
}

/// 501, for what the contract describes and this version does not have.
pub(crate) fn not_built(what: &'static str) -> Problem {
    Kind::NotBuilt.because(format!("{what} is described by the API but not built into this version yet; `/openapi.json` lists what is"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(path: &str) -> Option<RouteId> {
        resolve(path).map(|(route, _)| route.id)
    }

    #[test]
    fn a_path_leads_to_its_route() {
        assert_eq!(id("/v1/kv/data/a"), Some(RouteId::Kv));
        assert_eq!(id("/v1/kv/data/a/b//c"), Some(RouteId::Kv));
        assert_eq!(id("/v1/kv/data"), Some(RouteId::List(KeyKind::Value)));
        for kind in KeyKind::ALL.into_iter().filter(|kind| *kind != KeyKind::Value) {
            let path = format!("/v1/{}/data", collection(kind));
            assert_eq!(id(&path), Some(RouteId::List(kind)));
            assert_eq!(id(&format!("{path}/a")), Some(RouteId::Typed(kind)));
        }
        assert_eq!(id("/v1/batch"), Some(RouteId::Batch));
        assert_eq!(id("/v1/sagas"), Some(RouteId::Sagas));
        assert_eq!(id("/v1/sagas/7"), Some(RouteId::Saga));
        assert_eq!(id("/problems/not-found"), Some(RouteId::Problems));
        for nothing in ["/", "", "/v1", "/v1/kv", "/v1/kv/", "/v1/batch/", "/V1/kv/a/b", "/v2/kv/a/b", "/problems/"] {
            assert_eq!(id(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn everything_after_the_namespace_is_the_key() {
        let parsed = |tail: &str| namespace_and_key(tail).map(|(ns, key)| (ns.as_str().to_owned(), key.as_bytes().to_vec()));
        assert_eq!(parsed("data/a/../%2F/"), Ok(("data".into(), b"a/..///".to_vec())));
        assert_eq!(parsed("d%61ta//"), Ok(("data".into(), b"/".to_vec())));
        assert!(parsed("data/").is_err() && parsed("Data/a").is_err() && parsed("data/%4").is_err());
        assert!(parsed(&format!("data/{}", "a".repeat(1025))).is_err());
        assert!(parsed(&format!("data/{}", "%41".repeat(1024))).is_ok());
    }

    #[test]
    fn get_answers_head_too() {
        let (route, _) = resolve("/v1/kv/data").expect("a route");
        assert!(route.operation(&Method::HEAD).is_some());
        assert_eq!(route.allow(), "GET, HEAD");
    }

    proptest! {
        #[test]
        fn no_path_panics(path in "\\PC{0,60}") {
            if let Some((_, tail)) = resolve(&path) {
                let _ = namespace_and_key(tail);
            }
        }

        #[test]
        fn every_key_can_be_named(key in proptest::collection::vec(any::<u8>(), 1..200)) {
            let path = format!("/v1/kv/data/{}", crate::path::encode(&key));
            let (route, tail) = resolve(&path).expect("a route");
            prop_assert_eq!(route.id, RouteId::Kv);
            let (_, parsed) = namespace_and_key(tail).expect("parses");
            prop_assert_eq!(parsed.as_bytes(), key);
        }
    }
}
