//! "Keys" and "Conventions" of the contract.

use std::time::Duration;

use isochrone_edge::{Auth, EdgeLimits, Refusal};

use crate::model::{Client, Model, api};

#[tokio::test]
async fn a_value_comes_back_as_it_was_written_with_its_type_and_a_receipt() {
    let client = Client::new();
    let put = client.ask("PUT", "/v1/kv/data/a/b%2Fc", &[("content-type", "text/css")], "body {}").await;
    assert_eq!(put.status, 204, "eventual: 204, since nobody knows whether it is new");
    assert_eq!(put.field("isochrone-consistency"), "local");
    assert_eq!(put.field("isochrone-region"), "us-east");
    for _ in 0..2 {
        let got = client.get("/v1/kv/data/a/b/c").await;
        assert_eq!((got.status, got.text()), (200, "body {}"));
        assert_eq!(got.field("content-type"), "text/css");
        assert_eq!(got.field("etag"), put.field("etag"));
        assert!(got.field("etag").starts_with('"'), "a strong validator");
        assert_eq!(got.field("isochrone-consistency"), "local");
        assert_eq!(got.field("isochrone-age-ms"), "2500");
        assert_eq!(got.field("age"), "2");
        assert_eq!(got.field("cache-status"), "isochrone; hit");
        assert_eq!(got.field("cache-control"), "", "no TTL, no max-age");
        assert_eq!(got.field("accept-ranges"), "bytes");
    }
}

#[tokio::test]
async fn an_absent_key_is_a_404_with_a_receipt() {
    let client = Client::new();
    let got = client.get("/v1/kv/data/nothing").await;
    assert_eq!((got.status, got.problem().as_str()), (404, "not-found"));
    assert_eq!(got.field("isochrone-region"), "us-east");
    assert_eq!(client.get("/v1/kv/nowhere/a").await.problem(), "no-such-namespace");
    assert_eq!(client.get("/v1/kv/No!/a").await.problem(), "malformed");
    assert_eq!(client.get("/v1/kv/data/").await.problem(), "malformed");
    assert_eq!(client.get("/v1/kv/data/%zz").await.problem(), "malformed");
    assert_eq!(client.get(&format!("/v1/kv/data/{}", "k".repeat(1025))).await.problem(), "malformed");
    assert_eq!(client.get(&format!("/v1/kv/data/{}", "k".repeat(1024))).await.problem(), "not-found");
}

#[tokio::test]
async fn a_delete_is_204_also_when_the_key_is_absent() {
    let client = Client::new();
    client.put("/v1/kv/data/a", "1").await;
    for _ in 0..2 {
        let gone = client.ask("DELETE", "/v1/kv/data/a", &[], "").await;
        assert_eq!((gone.status, gone.body.len()), (204, 0));
        assert_eq!(gone.field("isochrone-consistency"), "local");
    }
    assert_eq!(client.get("/v1/kv/data/a").await.status, 404);
}

#[tokio::test]
async fn if_none_match_gives_304_and_if_match_412() {
    let client = Client::new();
    let etag = client.put("/v1/kv/data/a", "1").await.field("etag").to_owned();
    client.get("/v1/kv/data/a").await;
    let same = client.ask("GET", "/v1/kv/data/a", &[("if-none-match", &format!("\"x\", {etag}"))], "").await;
    assert_eq!((same.status, same.body.len(), same.field("etag")), (304, 0, etag.as_str()));
    assert_eq!(client.ask("GET", "/v1/kv/data/a", &[("if-none-match", "\"x\"")], "").await.status, 200);
    assert_eq!(client.ask("GET", "/v1/kv/data/a", &[("if-match", &etag)], "").await.status, 200);
    let other = client.ask("GET", "/v1/kv/data/a", &[("if-match", "\"x\"")], "").await;
    assert_eq!((other.problem().as_str(), other.field("etag")), ("precondition-failed", etag.as_str()));
}

#[tokio::test]
async fn a_range_gives_206_and_one_outside_416() {
    let client = Client::new();
    let etag = client.put("/v1/kv/data/a", "0123456789").await.field("etag").to_owned();
    let part = |range: &'static str, if_range: String| {
        let client = &client;
        async move { client.ask("GET", "/v1/kv/data/a", &[("range", range), ("if-range", &if_range)], "").await }
    };
    let middle = part("bytes=2-4", etag.clone()).await;
    assert_eq!((middle.status, middle.text(), middle.field("content-range")), (206, "234", "bytes 2-4/10"));
    let old = part("bytes=2-4", "\"1-1-1\"".into()).await;
    assert_eq!((old.status, old.text()), (200, "0123456789"));
    let outside = client.ask("GET", "/v1/kv/data/a", &[("range", "bytes=10-")], "").await;
    assert_eq!((outside.problem().as_str(), outside.field("content-range")), ("range-not-satisfiable", "bytes */10"));
}

#[tokio::test]
async fn head_answers_what_get_would_without_a_body() {
    let client = Client::new();
    client.put("/v1/kv/data/a", "0123456789").await;
    for path in ["/v1/kv/data/a", "/v1/kv/data/missing", "/v1/kv/data", "/openapi.json"] {
        for _ in 0..2 {
            let (got, head) = (client.get(path).await, client.ask("HEAD", path, &[], "").await);
            assert_eq!((head.status, head.body.len()), (got.status, 0), "{path}");
            assert_eq!(head.field("content-length"), got.body.len().to_string(), "{path}");
            assert_eq!(head.field("etag"), got.field("etag"), "{path}");
        }
    }
}

#[tokio::test]
async fn a_ttl_is_told_as_what_is_left_and_then_the_key_is_gone() {
    let client = Client::new();
    client.put("/v1/kv/data/a?ttl=90s", "1").await;
    client.ask("PUT", "/v1/kv/data/b", &[("cache-control", "max-age=60")], "1").await;
    client.put("/v1/kv/cache/c", "1").await;
    client.model.pass(Duration::from_secs(30));
    let got = client.get("/v1/kv/data/a").await;
    assert_eq!((got.field("cache-control"), got.field("cache-status")), ("max-age=60", "isochrone; hit; ttl=60"));
    assert_eq!(client.get("/v1/kv/data/b").await.field("cache-control"), "max-age=30");
    assert_eq!(client.get("/v1/kv/cache/c").await.field("cache-control"), "max-age=30", "the namespace's default");
    client.model.pass(Duration::from_secs(30));
    assert_eq!(client.get("/v1/kv/data/b").await.status, 404);
}

#[tokio::test]
async fn a_ttl_that_makes_no_sense_or_is_too_long_is_refused() {
    let client = Client::new();
    for path in
        ["/v1/kv/data/a?ttl=60", "/v1/kv/data/a?ttl=0s", "/v1/kv/data/a?tll=1s", "/v1/kv/cache/a?ttl=2h", "/v1/kv/data/a?ttl=1s&ttl=2s"]
    {
        assert_eq!(client.put(path, "1").await.problem(), "malformed", "{path}");
    }
    assert_eq!(client.model.writes(), 0);
}

#[tokio::test]
async fn a_value_that_is_too_large_is_not_stored() {
    let client = Client::new();
    let large = client.ask("PUT", "/v1/kv/data/a", &[], vec![0; 1001]).await;
    assert_eq!(large.problem(), "too-large");
    assert_eq!(client.ask("PUT", "/v1/kv/data/b", &[], vec![0; 1000]).await.status, 204);
    let announced = client.ask("PUT", "/v1/kv/data/c", &[("content-length", "99999999")], "x").await;
    assert_eq!(announced.problem(), "too-large");
    assert_eq!(client.model.writes(), 1);
}

#[tokio::test]
async fn a_coded_or_partial_value_is_refused() {
    let client = Client::new();
    let coded = client.ask("PUT", "/v1/kv/data/a", &[("content-encoding", "gzip")], "x").await;
    assert_eq!((coded.problem().as_str(), coded.field("accept-encoding")), ("unsupported-media-type", "identity"));
    assert_eq!(client.ask("PUT", "/v1/kv/data/a", &[("content-range", "bytes 0-0/9")], "x").await.problem(), "malformed");
}

#[tokio::test]
async fn what_would_break_a_namespaces_promise_is_409_and_says_which_setting_would_allow_it() {
    let client = Client::new();
    for (method, path, field) in [
        ("PUT", "/v1/kv/data/a", ("if-none-match", "*")),
        ("PUT", "/v1/kv/data/a", ("isochrone-fence", "lock=4")),
        ("DELETE", "/v1/kv/data/a", ("if-match", "\"1-1-1\"")),
        ("PUT", "/v1/kv/data/a", ("isochrone-consistency", "strong")),
        ("GET", "/v1/kv/data/a", ("isochrone-consistency", "strong")),
    ] {
        let refused = client.ask(method, path, &[field], "").await;
        assert_eq!((refused.status, refused.problem().as_str()), (409, "wrong-mode"), "{method} {field:?}");
        assert!(refused.json()["detail"].as_str().unwrap().contains("mode = \"strong\""));
    }
    assert_eq!(client.get("/v1/kv/data/a?consistency=strong").await.problem(), "wrong-mode");
    assert_eq!(client.get("/v1/kv/data/a?consistency=total").await.problem(), "malformed");
}

#[tokio::test]
async fn a_repeat_under_an_idempotency_key_applies_once() {
    let client = Client::new();
    let put = |key: &'static str, value: &'static str| {
        let client = &client;
        async move { client.ask("PUT", "/v1/kv/data/a", &[("idempotency-key", key)], value).await }
    };
    let first = put("k1", "1").await;
    let again = put("\"k1\"", "1").await;
    assert_eq!((again.status, again.field("etag")), (204, first.field("etag")));
    assert_eq!((first.field("idempotent-replayed"), again.field("idempotent-replayed")), ("", "true"));
    assert_eq!(client.model.writes(), 1);
    let other = put("k1", "2").await;
    assert_eq!((other.status, other.problem().as_str()), (422, "idempotency-key-reused"));
    assert_eq!(put("a b", "1").await.problem(), "malformed");
}

#[tokio::test]
async fn a_503_and_a_504_are_never_confused() {
    let client = Client::new();
    let fail = |refusal| *client.model.failing.lock().unwrap() = refusal;
    fail(Some(Refusal::OutcomeUnknown { detail: "x".into() }));
    let unknown = client.put("/v1/kv/data/a", "1").await;
    assert_eq!((unknown.status, unknown.problem().as_str()), (504, "outcome-unknown"));
    fail(Some(Refusal::NoReplica { detail: "x".into() }));
    let none = client.get("/v1/kv/data/a").await;
    assert_eq!((none.status, none.problem().as_str()), (503, "no-replica"));
    assert_eq!(none.json()["retryable"], true);
    fail(Some(Refusal::StoreFull { detail: "x".into() }));
    assert_eq!(client.put("/v1/kv/data/a", "1").await.status, 507);
    fail(Some(Refusal::Overloaded { queue: "q".into(), retry_after: Duration::from_secs(2) }));
    let busy = client.put("/v1/kv/data/a", "1").await;
    assert_eq!((busy.status, busy.field("retry-after")), (429, "2"));
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_hangs_is_answered_for() {
    let client = Client::new();
    *client.model.delay.lock().unwrap() = Some(Duration::from_secs(3600));
    assert_eq!(client.get("/v1/kv/data/a").await.problem(), "deadline");
    assert_eq!(client.put("/v1/kv/data/a", "1").await.problem(), "outcome-unknown");
}

#[tokio::test]
async fn what_was_asked_of_another_daemon_says_so() {
    let client = Client::new();
    client.put("/v1/kv/data/far/a", "1").await;
    assert_eq!(client.get("/v1/kv/data/far/a").await.field("cache-status"), "isochrone; fwd=uri-miss");
}

#[tokio::test]
async fn methods_and_paths_that_are_not_there_say_what_is() {
    let client = Client::new();
    let post = client.ask("POST", "/v1/kv/data/a", &[], "").await;
    assert_eq!((post.problem().as_str(), post.field("allow")), ("method-not-allowed", "GET, HEAD, PUT, DELETE"));
    assert_eq!(client.ask("PUT", "/v1/kv/data", &[], "").await.field("allow"), "GET, HEAD");
    for path in ["/", "/v1/kv", "/nothing"] {
        assert_eq!(client.get(path).await.problem(), "no-such-route", "{path}");
    }
    for path in ["/v1/locks/l", "/v1/txn", "/v1/sagas/1", "/v1/watch/data"] {
        let later = client.get(path).await;
        assert_eq!((later.status, later.problem().as_str(), &later.json()["retryable"]), (501, "not-built", &false.into()), "{path}");
    }
}

#[tokio::test]
async fn every_problem_type_explains_itself() {
    let client = Client::new();
    let missing = client.get("/v1/kv/data/nothing").await;
    let about = client.get(missing.json()["type"].as_str().unwrap()).await;
    assert_eq!(about.status, 200);
    assert!(about.text().contains("no such key"));
    assert_eq!(client.get("/problems/none").await.status, 404);
}

#[tokio::test]
async fn a_header_that_is_too_large_is_431() {
    let client = Client::new();
    let long = "x".repeat(17 << 10);
    assert_eq!(client.ask("GET", "/v1/kv/data/a", &[("x-long", &long)], "").await.problem(), "headers-too-large");
    let many: Vec<String> = (0..101).map(|n| format!("x-{n}")).collect();
    let fields: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "1")).collect();
    assert_eq!(client.ask("GET", "/v1/kv/data/a", &fields, "").await.status, 431);
}

#[tokio::test]
async fn a_page_of_another_origin_cannot_write_where_no_token_is_asked_for() {
    let client = Client::new();
    let host = ("host", "127.0.0.1:8080");
    let evil = client.ask("PUT", "/v1/kv/data/a", &[host, ("origin", "https://evil.example")], "1").await;
    assert_eq!(evil.problem(), "cross-origin");
    assert_eq!(client.ask("PUT", "/v1/kv/data/a", &[host, ("origin", "http://127.0.0.1:8080")], "1").await.status, 204);
}

#[tokio::test]
async fn a_listing_comes_in_pages_that_lead_on() {
    let client = Client::new();
    for key in ["a/1", "a/2", "a/%C3%A9", "a/%ff", "b"] {
        client.put(&format!("/v1/kv/data/{key}?ttl=10s"), "1234").await;
    }
    let mut path = "/v1/kv/data?prefix=a/&limit=2".to_owned();
    let mut keys = Vec::new();
    loop {
        let page = client.get(&path).await;
        assert_eq!((page.status, page.field("content-type")), (200, "application/x-ndjson"));
        assert_eq!(page.field("isochrone-region"), "us-east");
        keys.extend(page.text().lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()));
        let Some(next) = page.field("link").strip_suffix(">; rel=\"next\"") else { break };
        path = next.strip_prefix('<').unwrap().to_owned();
    }
    let names: Vec<&str> = keys.iter().filter_map(|line| line["key"].as_str()).collect();
    assert_eq!(names, ["a/1", "a/2", "a/é"]);
    assert_eq!(keys[3]["key_base64"], "YS//", "a key that is not UTF-8");
    assert_eq!((&keys[0]["bytes"], &keys[0]["expires_in_ms"]), (&4.into(), &10_000.into()));
    assert!(keys[0]["etag"].as_str().unwrap().starts_with('"'));
    for bad in ["limit=0", "limit=x", "limit=10001", "from=a"] {
        assert_eq!(client.get(&format!("/v1/kv/data?{bad}")).await.problem(), "malformed", "{bad}");
    }
}

#[tokio::test]
async fn openapi_describes_what_the_routes_do() {
    let client = Client::new();
    let document = client.get("/openapi.json").await.json();
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().unwrap();
    for (template, path) in paths {
        let real = template.replace("{ns}", "data").replace("{key}", "k").replace("{name}", "not-found");
        let operations: Vec<&String> = path.as_object().unwrap().keys().filter(|name| *name != "parameters").collect();
        for method in ["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH"] {
            let answer = client.ask(method, &real, &[], "").await;
            let is_described =
                operations.contains(&&method.to_ascii_lowercase()) || (method == "HEAD" && operations.iter().any(|name| *name == "get"));
            assert_eq!(answer.status != 405, is_described, "{method} {template}");
            let described = &path[method.to_ascii_lowercase()]["responses"];
            assert!(described.is_null() || described[answer.status.to_string()].is_object(), "{method} {template} gave {}", answer.status);
        }
    }
    for path in ["/v1/kv/{ns}/{key}", "/v1/kv/{ns}", "/v1/batch", "/openapi.json", "/problems/{name}"] {
        assert!(paths.contains_key(path), "{path}");
    }
    for collection in ["counters", "sets", "maps", "registers"] {
        assert!(paths.contains_key(&format!("/v1/{collection}/{{ns}}/{{key}}")), "{collection}");
        assert!(paths.contains_key(&format!("/v1/{collection}/{{ns}}")), "{collection}");
    }
    every_reference_leads_somewhere(&document, &document);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_finds_no_room_beside_others_is_503_until_they_are_done() {
    let model = Model::new();
    *model.delay.lock().unwrap() = Some(Duration::from_secs(2));
    let limits = EdgeLimits { bodies_bytes: 100, ..EdgeLimits::default() };
    let client = Client { api: api(&model, Auth::none(), limits), model };
    let (first, second) =
        tokio::join!(client.ask("PUT", "/v1/kv/data/a", &[], "x".repeat(60)), client.ask("PUT", "/v1/kv/data/b", &[], "x".repeat(41)),);
    assert_eq!((first.status, second.status, second.problem().as_str()), (204, 503, "too-busy"));
    assert_eq!(second.field("retry-after"), "1");
    assert_eq!(client.ask("PUT", "/v1/kv/data/b", &[], "x".repeat(100)).await.status, 204);
    assert_eq!(client.model.writes(), 2);
}

fn every_reference_leads_somewhere(document: &serde_json::Value, part: &serde_json::Value) {
    if let Some(reference) = part.get("$ref").and_then(serde_json::Value::as_str) {
        assert!(document.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference}");
    }
    let inner = part.as_object().into_iter().flat_map(serde_json::Map::values).chain(part.as_array().into_iter().flatten());
    inner.for_each(|part| every_reference_leads_somewhere(document, part));
}
