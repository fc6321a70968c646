//! Counters, sets, maps and registers: "Keys" of the contract.

use std::time::Duration;

use isochrone_edge::Refusal;
use serde_json::{Value, json};

use crate::model::{Answer, Client};
use crate::types::{MEMBER_BYTES_MAX, MEMBERS_MAX};

async fn post(client: &Client, path: &str, body: Value) -> Answer {
    let method = if path.starts_with("/v1/registers") { "PUT" } else { "POST" };
    client.ask(method, path, &[("content-type", "application/json; charset=utf-8")], body.to_string()).await
}

#[tokio::test]
async fn a_counter_adds_and_answers_the_value_seen_with_a_receipt() {
    let client = Client::new();
    assert_eq!(client.get("/v1/counters/data/c").await.problem(), "not-found");
    let added = post(&client, "/v1/counters/data/c", json!({"add": 5})).await;
    assert_eq!((added.status, added.text(), added.field("content-type")), (200, "{\"value\":5}", "application/json"));
    assert_eq!((added.field("isochrone-consistency"), added.field("isochrone-region")), ("local", "us-east"));
    assert_eq!(post(&client, "/v1/counters/data/c", json!({"add": -8})).await.text(), "{\"value\":-3}");
    let got = client.get("/v1/counters/data/c").await;
    assert_eq!((got.status, got.text(), got.field("age"), got.field("cache-status")), (200, "{\"value\":-3}", "2", "isochrone; hit"));
    assert_eq!(got.field("isochrone-age-ms"), "2500");
    let head = client.ask("HEAD", "/v1/counters/data/c", &[], "").await;
    assert_eq!((head.status, head.body.len(), head.field("content-length")), (200, 0, "12"));
    assert_eq!((head.field("etag"), head.field("content-type")), (got.field("etag"), "application/json"));
    assert_eq!(post(&client, "/v1/counters/data/c", json!({"add": 0})).await.status, 200);
}

#[tokio::test]
async fn an_etag_revalidates_and_changes_with_the_state() {
    let client = Client::new();
    let first = post(&client, "/v1/sets/data/s", json!({"add": ["a"]})).await;
    let etag = first.field("etag");
    assert!(etag.starts_with('"') && etag.ends_with('"'), "a strong validator: {etag}");
    let ask = |name: &'static str, tag: String| {
        let client = &client;
        async move { client.ask("GET", "/v1/sets/data/s", &[(name, &tag)], "").await }
    };
    let same = ask("if-none-match", format!("\"x\", W/{etag}")).await;
    assert_eq!((same.status, same.body.len(), same.field("etag")), (304, 0, etag));
    assert_eq!(ask("if-match", etag.to_owned()).await.status, 200);
    post(&client, "/v1/sets/data/s", json!({"add": ["b"]})).await;
    assert_eq!(ask("if-none-match", etag.to_owned()).await.status, 200);
    assert_eq!(ask("if-match", etag.to_owned()).await.problem(), "precondition-failed");
}

#[tokio::test]
async fn a_set_takes_text_and_bytes() {
    let client = Client::new();
    let body = json!({"add": ["b", {"text": "a"}, {"base64": "/w=="}, "b"]});
    let set = post(&client, "/v1/sets/data/s", body).await;
    assert_eq!((set.status, set.text()), (200, r#"{"members":["a","b",{"base64":"/w=="}]}"#));
    let less = post(&client, "/v1/sets/data/s", json!({"remove": [{"base64": "/w=="}, "a"], "add": ["é"]})).await;
    assert_eq!(less.json(), json!({"members": ["b", "é"]}));
    assert_eq!(client.get("/v1/sets/data/s").await.json(), less.json());
}

#[tokio::test]
async fn a_maps_values_come_back_as_they_were_and_its_counters_as_numbers() {
    let client = Client::new();
    let body = "{\"set\": {\"f\": {\"z\": 1.10, \"a\":\n [123456789012345678901234567890, null]}, \"t\": \"x y\"}, \"add\": {\"n\": 2}}";
    let map = client.ask("POST", "/v1/maps/data/m", &[], body).await;
    let text = r#"{"fields":{"f":{"z":1.10,"a":[123456789012345678901234567890,null]},"n":2,"t":"x y"}}"#;
    assert_eq!((map.status, map.text()), (200, text));
    assert_eq!(client.get("/v1/maps/data/m").await.text(), text);
    let less = post(&client, "/v1/maps/data/m", json!({"remove": ["f", "t"], "add": {"n": -5}})).await;
    assert_eq!(less.json(), json!({"fields": {"n": -3}}));
    assert_eq!(post(&client, "/v1/maps/data/m", json!({"set": {"n": 1}})).await.problem(), "field-type");
    post(&client, "/v1/maps/data/m", json!({"set": {"v": 1}})).await;
    let refused = post(&client, "/v1/maps/data/m", json!({"add": {"v": 1}})).await;
    assert_eq!((refused.status, refused.problem().as_str()), (409, "field-type"));
    assert!(refused.json()["detail"].as_str().unwrap().contains("`v`"));
}

#[tokio::test]
async fn a_register_keeps_what_a_put_has_not_seen() {
    let client = Client::new();
    let first = post(&client, "/v1/registers/data/r", json!({"text": "1", "content_type": "text/plain"})).await;
    assert_eq!((first.status, &first.json()["values"]), (200, &json!([{"text": "1", "content_type": "text/plain"}])));
    let second = post(&client, "/v1/registers/data/r", json!({"base64": "/w=="})).await.json();
    assert_eq!(second["values"], json!([{"text": "1", "content_type": "text/plain"}, {"base64": "/w=="}]), "none knew of the other");
    assert_eq!(client.get("/v1/registers/data/r").await.json(), second);
    let third = post(&client, "/v1/registers/data/r", json!({"value": "3", "context": second["context"]})).await.json();
    assert_eq!(third["values"], json!([{"text": "3"}]));
    for context in ["%", "AAAA", "AAAAAAAAAP8="] {
        let refused = post(&client, "/v1/registers/data/r", json!({"text": "4", "context": context})).await;
        assert_eq!((refused.status, refused.problem().as_str()), (400, "context-unknown"), "{context}");
    }
}

#[tokio::test]
async fn one_name_is_a_key_of_each_type() {
    let client = Client::new();
    client.put("/v1/kv/data/k", "v").await;
    post(&client, "/v1/counters/data/k", json!({"add": 1})).await;
    post(&client, "/v1/sets/data/k", json!({"add": ["a"]})).await;
    assert_eq!(client.get("/v1/kv/data/k").await.text(), "v");
    assert_eq!(client.get("/v1/counters/data/k").await.json(), json!({"value": 1}));
    assert_eq!(client.get("/v1/sets/data/k").await.json(), json!({"members": ["a"]}));
    assert_eq!(client.get("/v1/maps/data/k").await.problem(), "not-found");
}

#[tokio::test]
async fn a_body_that_does_not_fit_is_400_and_says_what_would() {
    let client = Client::new();
    for (path, form, bodies) in [
        (
            "/v1/counters/data/c",
            r#"{"add": -3}"#,
            &[
                "",
                "3",
                "[]",
                "[3]",
                "{",
                "{}",
                r#"{"add": "3"}"#,
                r#"{"add": 1.5}"#,
                r#"{"add": 1.0}"#,
                r#"{"add": null}"#,
                r#"{"add": 9223372036854775808}"#,
                r#"{"add": -9223372036854775809}"#,
                r#"{"add": 99999999999999999999999}"#,
                r#"{"add": 1, "add": 2}"#,
                r#"{"add": 1, "at": 17}"#,
                r#"{"add": 1} {"add": 1}"#,
            ][..],
        ),
        (
            "/v1/sets/data/s",
            r#"{"add": ["a"], "remove": ["b"]}"#,
            &["", "{}", r#"{"add": []}"#, r#"{"add": "a"}"#, r#"{"add": [1]}"#, r#"{"add": [{"text": "a", "base64": "YQ=="}]}"#][..],
        ),
        ("/v1/sets/data/s", "`a` stands in `add` and in `remove`", &[r#"{"add": ["a"], "remove": [{"text": "a"}]}"#][..]),
        ("/v1/sets/data/s", "is not base64", &[r#"{"add": [{"base64": "%"}]}"#][..]),
        (
            "/v1/maps/data/m",
            r#""remove": ["g"]"#,
            &[
                "",
                "{}",
                r#"{"set": {}}"#,
                r#"{"set": ["f"]}"#,
                r#"{"add": {"f": "1"}}"#,
                r#"{"set": {"f": 1, "f": 2}}"#,
                r#"{"remove": [1]}"#,
            ][..],
        ),
        (
            "/v1/maps/data/m",
            "the field `f` stands in two",
            &[r#"{"set": {"f": 1}, "remove": ["f"]}"#, r#"{"set": {"f": 1}, "add": {"f": 1}}"#][..],
        ),
        ("/v1/registers/data/r", r#"{"text": "..."}"#, &["", "\"a\"", r#"{"text": 1}"#, r#"{"text": "a", "when": 5}"#][..]),
        ("/v1/registers/data/r", "one of `text`, `base64` and `value`", &["{}", r#"{"text": "a", "base64": "YQ=="}"#][..]),
        ("/v1/registers/data/r", "a content type", &[r#"{"text": "a", "content_type": "é"}"#][..]),
    ] {
        for body in bodies {
            let method = if path.starts_with("/v1/registers") { "PUT" } else { "POST" };
            let refused = client.ask(method, path, &[], *body).await;
            assert_eq!((refused.status, refused.problem().as_str()), (400, "malformed"), "{path} {body}");
            let detail = refused.json()["detail"].as_str().unwrap().to_owned();
            assert!(detail.contains(form), "{path} {body}: {detail}");
        }
    }
    assert_eq!(client.model.writes(), 0);
}

#[tokio::test]
async fn a_body_that_is_no_json_is_415() {
    let client = Client::new();
    for (method, path) in
        [("POST", "/v1/counters/data/k"), ("POST", "/v1/sets/data/k"), ("POST", "/v1/maps/data/k"), ("PUT", "/v1/registers/data/k")]
    {
        for kind in ["text/plain", "application/octet-stream"] {
            let refused = client.ask(method, path, &[("content-type", kind)], "{\"add\": 1}").await;
            assert_eq!((refused.status, refused.problem().as_str()), (415, "unsupported-media-type"), "{path} {kind}");
            assert!(refused.json()["detail"].as_str().unwrap().contains("application/json"));
        }
        assert_eq!(client.ask(method, path, &[("content-encoding", "gzip")], "{}").await.problem(), "unsupported-media-type");
    }
    let untold = client.ask("POST", "/v1/counters/data/k", &[("content-type", "application/x-www-form-urlencoded")], "{\"add\": 1}").await;
    assert_eq!(untold.status, 200, "`curl -d` says so of whatever it sends");
}

#[tokio::test]
async fn a_strong_namespace_takes_none_of_them_and_says_which_would() {
    let client = Client::new();
    for (path, body) in [
        ("/v1/counters/strong/k", json!({"add": 1})),
        ("/v1/sets/strong/k", json!({"add": ["a"]})),
        ("/v1/maps/strong/k", json!({"add": {"a": 1}})),
        ("/v1/registers/strong/k", json!({"text": "a"})),
    ] {
        let listing = path.strip_suffix("/k").unwrap();
        for refused in [post(&client, path, body).await, client.get(path).await, client.get(listing).await] {
            assert_eq!((refused.status, refused.problem().as_str()), (409, "wrong-mode"), "{path}");
            assert!(refused.json()["detail"].as_str().unwrap().contains("mode = \"eventual\""));
        }
    }
    let conditional = client.ask("POST", "/v1/counters/data/c", &[("if-match", "*")], r#"{"add": 1}"#).await;
    assert_eq!(conditional.problem(), "wrong-mode");
    assert_eq!(client.get("/v1/counters/data/c?consistency=strong").await.problem(), "wrong-mode");
    assert_eq!(client.get("/v1/counters/nowhere/c").await.problem(), "no-such-namespace");
    assert_eq!(client.ask("DELETE", "/v1/counters/data/c", &[], "").await.field("allow"), "GET, POST, HEAD");
    assert_eq!(client.ask("POST", "/v1/registers/data/c", &[], "{}").await.field("allow"), "GET, PUT, HEAD");
}

#[tokio::test]
async fn what_the_backend_refuses_keeps_its_own_type() {
    let client = Client::new();
    post(&client, "/v1/counters/data/c", json!({"add": i64::MAX})).await;
    let over = post(&client, "/v1/counters/data/c", json!({"add": 1})).await;
    assert_eq!((over.status, over.problem().as_str()), (409, "counter-overflow"));
    let members: Vec<String> = (0..=MEMBERS_MAX).map(|n| n.to_string()).collect();
    let many = post(&client, "/v1/sets/data/s", json!({"add": members})).await;
    assert_eq!((many.status, many.problem().as_str()), (413, "too-many-members"));
    assert!(many.json()["detail"].as_str().unwrap().contains("at most 4 members"));
    let long = post(&client, "/v1/sets/data/s", json!({"add": ["x".repeat(MEMBER_BYTES_MAX + 1)]})).await;
    assert_eq!((long.status, long.problem().as_str()), (413, "member-too-long"));
    let unseen = post(&client, "/v1/sets/data/none", json!({"remove": ["a"]})).await;
    assert_eq!((unseen.status, unseen.problem().as_str(), &unseen.json()["retryable"]), (503, "nothing-to-observe", &json!(true)));
    *client.model.failing.lock().unwrap() = Some(Refusal::TooStale { age_ms: 61_000, max_ms: 60_000 });
    let stale = client.get("/v1/sets/data/s").await;
    assert_eq!((stale.status, stale.problem().as_str()), (503, "too-stale"));
    assert!(stale.json()["detail"].as_str().unwrap().contains("max_staleness"));
    for name in
        ["counter-overflow", "too-many-members", "member-too-long", "nothing-to-observe", "too-stale", "field-type", "context-unknown"]
    {
        assert_eq!(client.get(&format!("/problems/{name}")).await.status, 200, "{name}");
    }
}

#[tokio::test]
async fn what_is_larger_than_the_namespaces_values_is_413() {
    let client = Client::new();
    let large = "x".repeat(1001);
    assert_eq!(post(&client, "/v1/registers/data/r", json!({"text": large})).await.problem(), "too-large");
    assert_eq!(post(&client, "/v1/maps/data/m", json!({"set": {"f": large}})).await.problem(), "too-large");
    assert_eq!(post(&client, "/v1/registers/data/r", json!({"text": "x".repeat(1000)})).await.status, 200);
    let announced = client.ask("POST", "/v1/counters/data/c", &[("content-length", "99999999")], "x").await;
    assert_eq!(announced.problem(), "too-large");
}

#[tokio::test]
async fn a_ttl_is_told_and_the_longest_wins() {
    let client = Client::new();
    client.ask("POST", "/v1/counters/data/c?ttl=90s", &[], r#"{"add": 1}"#).await;
    client.ask("POST", "/v1/counters/data/c", &[("cache-control", "max-age=60")], r#"{"add": 1}"#).await;
    client.ask("POST", "/v1/counters/cache/c", &[], r#"{"add": 1}"#).await;
    client.model.pass(Duration::from_secs(30));
    let got = client.get("/v1/counters/data/c").await;
    assert_eq!(
        (got.text(), got.field("cache-control"), got.field("cache-status")),
        ("{\"value\":2}", "max-age=60", "isochrone; hit; ttl=60")
    );
    assert_eq!(client.get("/v1/counters/cache/c").await.field("cache-control"), "max-age=30", "the namespace's default");
    client.model.pass(Duration::from_secs(60));
    assert_eq!(client.get("/v1/counters/data/c").await.status, 404);
    for path in ["/v1/counters/data/c?ttl=60", "/v1/counters/data/c?ttl=0s", "/v1/counters/cache/c?ttl=2h", "/v1/counters/data/c?tll=1s"] {
        assert_eq!(post(&client, path, json!({"add": 1})).await.problem(), "malformed", "{path}");
    }
}

#[tokio::test]
async fn an_add_repeated_under_an_idempotency_key_counts_once() {
    let client = Client::new();
    let add = |amount: &'static str| {
        let client = &client;
        async move { client.ask("POST", "/v1/counters/data/c", &[("idempotency-key", "k1")], amount).await }
    };
    let (first, again) = (add(r#"{"add": 2}"#).await, add(r#"{ "add":2 }"#).await);
    assert_eq!((first.text(), again.text(), client.model.writes()), ("{\"value\":2}", "{\"value\":2}", 1));
    assert_eq!((first.field("idempotent-replayed"), again.field("idempotent-replayed")), ("", "true"));
    assert_eq!(add(r#"{"add": 3}"#).await.problem(), "idempotency-key-reused");
    assert_eq!(client.ask("POST", "/v1/counters/data/c", &[("idempotency-key", "a b")], r#"{"add": 3}"#).await.problem(), "malformed");
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_not_answered_may_have_happened() {
    let client = Client::new();
    *client.model.delay.lock().unwrap() = Some(Duration::from_secs(3600));
    let late = post(&client, "/v1/counters/data/c", json!({"add": 1})).await;
    assert_eq!((late.status, late.problem().as_str()), (504, "outcome-unknown"));
}

#[tokio::test]
async fn each_type_has_a_listing_of_its_own() {
    let client = Client::new();
    for key in ["a/1", "a/2", "a/3", "b"] {
        client.ask("POST", &format!("/v1/counters/data/{key}?ttl=10s"), &[], r#"{"add": 1}"#).await;
    }
    client.put("/v1/kv/data/a/value", "1").await;
    let page = client.get("/v1/counters/data?prefix=a/&limit=2").await;
    assert_eq!((page.status, page.field("content-type")), (200, "application/x-ndjson"));
    let lines: Vec<Value> = page.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[0]["key"], &lines[0]["expires_in_ms"]), (2, &json!("a/1"), &json!(10_000)));
    assert_eq!(lines[0]["etag"], client.get("/v1/counters/data/a/1").await.field("etag"), "the validator that a read gives");
    let next = page.field("link").strip_suffix(">; rel=\"next\"").unwrap().strip_prefix('<').unwrap().to_owned();
    assert!(next.starts_with("/v1/counters/data?"), "{next}");
    assert_eq!(client.get(&next).await.text().lines().count(), 1);
    assert_eq!(client.get("/v1/sets/data").await.text(), "");
    assert_eq!(client.get("/v1/kv/data").await.text().lines().count(), 1);
}

async fn batch(client: &Client, lines: &[Value]) -> Vec<Value> {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let answer = client.ask("POST", "/v1/batch", &[], text).await;
    answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_batch_reads_and_updates_every_type() {
    let client = Client::new();
    let update = |kind: &str, body: Value| json!({"op": "update", "type": kind, "ns": "data", "key": "k", "body": body});
    let get = |kind: &str| json!({"op": "get", "type": kind, "ns": "data", "key": "k"});
    let answers = batch(
        &client,
        &[
            update("counter", json!({"add": 2})),
            update("set", json!({"add": ["a"]})),
            update("map", json!({"set": {"f": [1]}})),
            update("register", json!({"text": "x"})),
            json!({"op": "put", "ns": "data", "key": "k", "text": "v"}),
            get("counter"),
            get("set"),
            get("map"),
            get("register"),
            get("value"),
        ],
    )
    .await;
    let statuses: Vec<_> = answers.iter().map(|answer| answer["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 204, 200, 200, 200, 200, 200]);
    let bodies: Vec<_> = answers[5..8].iter().map(|answer| answer["body"].clone()).collect();
    assert_eq!(bodies, [json!({"value": 2}), json!({"members": ["a"]}), json!({"fields": {"f": [1]}})]);
    assert_eq!((&answers[8]["body"]["values"], &answers[9]["text"]), (&json!([{"text": "x"}]), &json!("v")));
    assert_eq!(answers[0]["etag"], answers[5]["etag"]);
    assert_eq!(answers[0]["etag"], client.get("/v1/counters/data/k").await.field("etag"));
    let mut known = get("counter");
    known["if_none_match"] = answers[0]["etag"].clone();
    let same = batch(&client, &[known]).await;
    assert_eq!((&same[0]["status"], same[0].get("body")), (&json!(304), None));
}

#[tokio::test]
async fn a_bad_line_of_any_type_fails_alone() {
    let client = Client::new();
    let line = |op: &str, kind: &str, rest: Value| {
        let mut line = json!({"op": op, "type": kind, "ns": "data", "key": "k"});
        line.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        line
    };
    for (bad, status) in [
        (line("update", "counter", json!({})), 400),
        (line("update", "counter", json!({"body": {"add": "1"}})), 400),
        (line("update", "counter", json!({"body": 3})), 400),
        (line("update", "counter", json!({"text": "1", "body": {"add": 1}})), 400),
        (line("update", "counter", json!({"body": {"add": 1}, "ttl_ms": 0})), 400),
        (line("update", "counter", json!({"body": {"add": 1}, "if_match": "*"})), 409),
        (line("update", "counter", json!({"body": {"add": 1}, "ns": "strong"})), 409),
        (line("update", "counter", json!({"body": {"add": 1}, "ns": "nowhere"})), 404),
        (line("update", "value", json!({"body": {"add": 1}})), 400),
        (line("update", "list", json!({"body": {"add": 1}})), 400),
        (line("put", "counter", json!({"text": "1"})), 400),
        (line("delete", "set", json!({})), 400),
        (line("get", "set", json!({"body": {}})), 400),
        (line("get", "map", json!({"ttl_ms": 5})), 400),
        (line("get", "map", json!({"idempotency_key": "k"})), 400),
        (line("get", "map", json!({"key": "none"})), 404),
        (line("update", "register", json!({"body": {"text": "a", "context": "AAAA"}})), 400),
    ] {
        let good = json!({"op": "update", "type": "counter", "ns": "data", "key": "z", "body": {"add": 1}});
        let answers = batch(&client, &[good.clone(), bad.clone(), good]).await;
        let statuses: Vec<_> = answers.iter().map(|answer| answer["status"].as_u64().unwrap()).collect();
        assert_eq!(statuses, [200, status, 200], "{bad}");
        assert!(answers[1]["problem"]["detail"].is_string());
    }
}

#[tokio::test]
async fn a_batch_holds_a_maps_values_on_one_line_as_they_were() {
    let client = Client::new();
    client.ask("POST", "/v1/maps/data/m", &[], "{\"set\": {\"f\": {\n  \"a\": 1.10\n}}}").await;
    let line = json!({"op": "get", "type": "map", "ns": "data", "key": "m"}).to_string();
    let answer = client.ask("POST", "/v1/batch", &[], line).await;
    assert_eq!(answer.text().lines().count(), 1);
    assert!(answer.text().contains(r#""body":{"fields":{"f":{"a":1.10}}}"#), "{}", answer.text());
}
