//! Strong namespaces: preconditions (RFC 9110 section 13), fences, levels, receipts, and what says no.

use std::time::Duration;

use http::HeaderMap;
use isochrone_edge::Refusal;
use serde_json::{Value, json};

use crate::model::{Answer, Client};

const KEY: &str = "/v1/kv/strong/a";

impl Client {
    async fn put_if(&self, field: &str, validator: &str) -> Answer {
        self.ask("PUT", KEY, &[(field, validator)], "new").await
    }
}

#[tokio::test]
async fn a_put_says_whether_it_created_and_gives_the_revision_as_its_etag() {
    let client = Client::new();
    let first = client.put(KEY, "1").await;
    assert_eq!((first.status, first.field("etag")), (201, "\"1-0-0\""));
    let second = client.put(KEY, "2").await;
    assert_eq!((second.status, second.field("etag")), (204, "\"2-0-0\""));
    let deleted = client.ask("DELETE", KEY, &[], "").await;
    assert_eq!((deleted.status, deleted.field("isochrone-consistency")), (204, "strong"));
    assert_eq!(client.ask("DELETE", KEY, &[], "").await.status, 204, "also when it is absent");
    assert_eq!(client.put(KEY, "3").await.status, 201);
}

#[tokio::test]
async fn every_answer_says_how_strong_it_is_and_how_it_was_come_by() {
    let client = Client::new();
    let path = "way=here; estimate-ms=75.2; took-ms=75.0; trips=1";
    let receipt = |headers: &HeaderMap| ["isochrone-consistency", "isochrone-path"].map(|name| headers[name].to_str().unwrap().to_owned());
    let answers = [
        client.put(KEY, "1").await,
        client.get(KEY).await,
        client.ask("HEAD", KEY, &[], "").await,
        client.get("/v1/kv/strong").await,
        client.ask("DELETE", KEY, &[], "").await,
        client.get(KEY).await,
    ];
    for answer in &answers {
        assert_eq!(receipt(&answer.headers), ["strong", path], "{answer:?}");
    }
    client.put("/v1/kv/data/a", "1").await;
    assert_eq!(client.get("/v1/kv/data/a").await.field("isochrone-path"), "", "the eventual path has none");
}

#[tokio::test]
async fn quorum_is_strong_and_local_is_a_copy() {
    let client = Client::new();
    client.put(KEY, "1").await;
    let at = |level: &str| format!("{KEY}?consistency={level}");
    for level in ["quorum", "strong"] {
        assert_eq!(client.get(&at(level)).await.field("isochrone-consistency"), "strong");
        assert_eq!(client.put(&at(level), "2").await.field("isochrone-consistency"), "strong");
    }
    let copy = client.get(&at("local")).await;
    assert_eq!((copy.status, copy.field("isochrone-consistency"), copy.field("isochrone-age-ms")), (200, "local", "2500"));
    assert_eq!(client.put(&at("local"), "3").await.field("isochrone-consistency"), "strong", "a write is never less");
    assert_eq!(client.get("/v1/kv/strong?consistency=quorum").await.field("isochrone-consistency"), "strong");
}

#[tokio::test]
async fn if_match_compares_strongly_and_the_answer_names_what_is_there() {
    let client = Client::new();
    assert_eq!(client.put_if("if-match", "*").await.problem(), "precondition-failed", "absent");
    let first = client.put(KEY, "1").await.field("etag").to_owned();
    for wrong in ["\"foreign\"", &format!("W/{first}"), "\"1-7-1\"", "\"1-0-1\"", "\"01-0-0\"", "\"x\", *", ""] {
        let refused = client.put_if("if-match", wrong).await;
        assert_eq!((refused.problem().as_str(), refused.field("etag")), ("precondition-failed", first.as_str()), "{wrong}");
    }
    let second = client.put_if("if-match", &format!("\"x\", {first}")).await;
    assert_eq!(second.status, 204);
    assert_eq!(client.put_if("if-match", &first).await.field("etag"), second.field("etag"), "compare and set happens once");
    assert_eq!(client.put_if("if-match", "*").await.status, 204);
    assert_eq!(client.get(KEY).await.text(), "new");
}

#[tokio::test]
async fn if_none_match_compares_weakly() {
    let client = Client::new();
    assert_eq!(client.put_if("if-none-match", "*").await.status, 201);
    assert_eq!(client.put_if("if-none-match", "*").await.problem(), "precondition-failed");
    let etag = client.get(KEY).await.field("etag").to_owned();
    for there in [etag.clone(), format!("W/{etag}"), format!("\"x\", {etag}"), "\"x\", *".to_owned()] {
        assert_eq!(client.put_if("if-none-match", &there).await.status, 412, "{there}");
    }
    assert_eq!(client.put_if("if-none-match", "\"foreign\", \"1-7-1\"").await.status, 204);
}

#[tokio::test]
async fn both_preconditions_have_to_hold() {
    let client = Client::new();
    let etag = client.put(KEY, "1").await.field("etag").to_owned();
    let both = |if_match: &str, if_none_match: &str| {
        let fields = [("if-match", if_match.to_owned()), ("if-none-match", if_none_match.to_owned())];
        let client = &client;
        async move { client.ask("PUT", KEY, &fields.each_ref().map(|(name, value)| (*name, value.as_str())), "2").await.status }
    };
    assert_eq!(both(&etag, &etag).await, 412);
    assert_eq!(both("\"x\"", "\"x\"").await, 412);
    assert_eq!(both(&etag, "\"x\"").await, 204);
}

#[tokio::test]
async fn a_delete_takes_the_same_preconditions() {
    let client = Client::new();
    let delete = |field: &'static str, validator: String| {
        let client = &client;
        async move { client.ask("DELETE", KEY, &[(field, &validator)], "").await.status }
    };
    assert_eq!(delete("if-match", "*".into()).await, 412, "there is nothing to match");
    assert_eq!(delete("if-none-match", "*".into()).await, 204);
    let etag = client.put(KEY, "1").await.field("etag").to_owned();
    assert_eq!(delete("if-match", "\"x\"".into()).await, 412);
    assert_eq!(delete("if-none-match", "*".into()).await, 412);
    assert_eq!(delete("if-match", etag).await, 204);
    assert_eq!(client.get(KEY).await.status, 404);
}

#[tokio::test]
async fn a_read_is_conditional_too() {
    let client = Client::new();
    let etag = client.put(KEY, "1").await.field("etag").to_owned();
    let get = |field: &'static str, validator: String| {
        let client = &client;
        async move { client.ask("GET", KEY, &[(field, &validator)], "").await }
    };
    let same = get("if-none-match", format!("W/{etag}")).await;
    assert_eq!((same.status, same.field("etag"), same.field("age")), (304, etag.as_str(), "0"));
    assert_eq!(get("if-none-match", "\"x\"".into()).await.status, 200);
    assert_eq!(get("if-match", format!("W/{etag}")).await.status, 412);
    client.ask("DELETE", KEY, &[], "").await;
    assert_eq!(get("if-match", etag).await.status, 404, "without the precondition it would be no success either (section 13.2.1)");
}

#[tokio::test]
async fn a_precondition_lists_only_so_many_versions() {
    let client = Client::new();
    let list = |count: u64| (1..=count).map(|n| format!("\"{n:x}-0-0\"")).collect::<Vec<_>>().join(",");
    assert_eq!(client.put_if("if-none-match", &list(64)).await.status, 201);
    assert_eq!(client.put_if("if-none-match", &list(65)).await.problem(), "malformed");
}

#[tokio::test]
async fn l5_a_stale_fence_is_412_and_names_the_highest_token() {
    let client = Client::new();
    let put = |fence: &'static str| {
        let client = &client;
        async move { client.put_if("isochrone-fence", fence).await }
    };
    assert_eq!(put("jobs/%C3%A9=7").await.status, 201);
    assert_eq!(put("jobs/%C3%A9=7").await.status, 204, "the holder writes more than once");
    assert_eq!(put("jobs/%C3%A9=9").await.status, 204);
    let stale = put("jobs/%C3%A9=8").await;
    assert_eq!((stale.status, stale.problem().as_str(), stale.field("isochrone-fence")), (412, "fence-stale", "jobs/%C3%A9=9"));
    assert!(stale.json()["detail"].as_str().unwrap().contains("acquire the lock again"));
    assert_eq!(put("other=1").await.status, 204, "each lock has its own tokens");
    for bad in ["lock", "=7", "lock=", "lock=x", "lock=-1", "%zz=1"] {
        assert_eq!(put(bad).await.problem(), "malformed", "{bad}");
    }
}

#[tokio::test]
async fn what_a_quorum_cannot_do_has_its_own_status_and_says_what_to_do() {
    let client = Client::new();
    let retry_after = Duration::from_millis(1500);
    let cases = [
        (Refusal::FenceBelowFloor { lock: "l".into(), token: 3, floor: 8 }, 412, "fence-below-floor", "raise the lock's token", ""),
        (Refusal::RingFull { max: 1024, retry_after }, 429, "key-full", "strong.ring", "2"),
        (Refusal::FencesFull { max: 16, retry_after }, 429, "key-full", "strong.fences", "2"),
        (Refusal::NoQuorum { detail: "no connection to x".into() }, 503, "no-quorum", "nothing was applied", ""),
        (Refusal::OutcomeUnknown { detail: "x".into() }, 504, "outcome-unknown", "the same Idempotency-Key", ""),
    ];
    for (refusal, status, name, what_to_do, retry) in cases {
        *client.model.failing.lock().unwrap() = Some(refusal);
        let refused = client.put(KEY, "1").await;
        assert_eq!((refused.status, refused.problem().as_str(), refused.field("retry-after")), (status, name, retry));
        assert!(refused.json()["detail"].as_str().unwrap().contains(what_to_do), "{refused:?}");
        assert_eq!(refused.json()["retryable"], status != 412, "{name}");
    }
    assert_eq!(client.model.writes(), 0);
}

#[tokio::test]
async fn a_repeat_applies_once_although_its_precondition_no_longer_holds() {
    let client = Client::new();
    let put = |value: &'static str| {
        let client = &client;
        async move { client.ask("PUT", KEY, &[("idempotency-key", "k"), ("if-none-match", "*")], value).await }
    };
    let (first, again) = (put("1").await, put("1").await);
    assert_eq!((first.status, again.status, again.field("etag")), (201, 201, first.field("etag")));
    assert_eq!((first.field("idempotent-replayed"), again.field("idempotent-replayed")), ("", "true"));
    assert_eq!(put("2").await.status, 422);
    let other = client.ask("PUT", KEY, &[("idempotency-key", "k"), ("if-match", "*")], "1").await;
    assert_eq!(other.status, 422, "another precondition is another request");
    assert_eq!(client.model.writes(), 1);
}

#[tokio::test]
async fn q8_a_read_may_be_for_update_in_a_strong_namespace() {
    let client = Client::new();
    client.put(KEY, "1").await;
    assert_eq!(client.get("/v1/kv/strong/a?for=update").await.text(), "1");
    assert_eq!(client.ask("HEAD", "/v1/kv/strong/b?for=update", &[], "").await.status, 404);
    assert_eq!(*client.model.for_update.lock().unwrap(), ["a", "b"]);
    let elsewhere = client.get("/v1/kv/data/a?for=update").await;
    assert_eq!((elsewhere.status, elsewhere.problem().as_str()), (409, "wrong-mode"));
    assert!(elsewhere.json()["detail"].as_str().unwrap().contains("mode = \"strong\""));
    for bad in ["/v1/kv/strong/a?for=delete", "/v1/kv/strong/a?for=", "/v1/kv/strong/a?for=update&consistency=local"] {
        assert_eq!(client.get(bad).await.problem(), "malformed", "{bad}");
    }
    assert_eq!(client.put("/v1/kv/strong/a?for=update", "2").await.problem(), "malformed", "a write is none");
}

#[tokio::test]
async fn a_listing_gives_the_etags_that_a_write_takes() {
    let client = Client::new();
    client.put("/v1/kv/strong/a", "1").await;
    client.put("/v1/kv/strong/b?ttl=5s", "22").await;
    let page = client.get("/v1/kv/strong").await;
    let lines: Vec<Value> = page.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0], json!({"key": "a", "etag": "\"1-0-0\"", "bytes": 1}));
    assert_eq!(lines[1], json!({"key": "b", "etag": "\"2-0-0\"", "bytes": 2, "expires_in_ms": 5000}));
    assert_eq!(client.put_if("if-match", lines[0]["etag"].as_str().unwrap()).await.status, 204);
}

#[tokio::test]
async fn a_batchs_lines_have_preconditions_and_names_of_their_own() {
    let client = Client::new();
    let put = |more: Value| {
        let mut line = json!({"op": "put", "ns": "strong", "key": "a", "text": "1"});
        line.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        line
    };
    let lines = [
        put(json!({"if_none_match": "*", "idempotency_key": "k"})),
        put(json!({"if_none_match": "*", "idempotency_key": "k"})),
        put(json!({"if_none_match": "*"})),
        put(json!({"if_match": "W/\"1-0-0\""})),
        put(json!({"if_match": "\"x\", \"1-0-0\""})),
        put(json!({"if_match": "\"1-0-0\""})),
        put(json!({"if_none_match": "W/\"2-0-0\""})),
        json!({"op": "get", "ns": "strong", "key": "a", "if_none_match": "\"2-0-0\""}),
        json!({"op": "delete", "ns": "strong", "key": "a", "if_match": "\"1-0-0\""}),
        json!({"op": "delete", "ns": "strong", "key": "a", "if_match": "*"}),
        json!({"op": "delete", "ns": "strong", "key": "a"}),
        json!({"op": "update", "type": "counter", "ns": "strong", "key": "a", "body": {"add": 1}}),
    ];
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let answer = client.ask("POST", "/v1/batch?consistency=quorum", &[("content-type", "application/x-ndjson")], body).await;
    let answers: Vec<Value> = answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let statuses: Vec<u64> = answers.iter().map(|answer| answer["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [201, 201, 412, 412, 204, 412, 412, 304, 412, 204, 204, 409]);
    assert_eq!((&answers[0]["etag"], &answers[1]["etag"]), (&json!("\"1-0-0\""), &json!("\"1-0-0\"")));
}
