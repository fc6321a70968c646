//! Session tokens (rule E9), as far as they are the edge's matter: they come in, reach the backend, and go out with every receipt.

use std::time::Duration;

use isochrone_edge::Refusal;
use serde_json::{Value, json};

use crate::model::{Answer, Client};

async fn with(client: &Client, method: &str, path: &str, token: &str, body: &str) -> Answer {
    client.ask(method, path, &[("isochrone-session", token)], body.to_owned()).await
}

#[tokio::test]
async fn every_answer_with_a_receipt_carries_a_token() {
    let client = Client::new();
    let put = client.put("/v1/kv/data/a", "1").await;
    assert_eq!(put.field("isochrone-session"), "seen-1");
    client.ask("POST", "/v1/counters/data/c", &[], r#"{"add": 1}"#).await;
    let etag = put.field("etag");
    for _ in 0..2 {
        for (method, path, field, status) in [
            ("GET", "/v1/kv/data/a", ("accept", "*/*"), 200),
            ("HEAD", "/v1/kv/data/a", ("accept", "*/*"), 200),
            ("GET", "/v1/kv/data/a", ("if-none-match", etag), 304),
            ("GET", "/v1/kv/data/a", ("if-match", "\"1-1-1\""), 412),
            ("GET", "/v1/kv/data/a", ("range", "bytes=9-"), 416),
            ("GET", "/v1/kv/data/none", ("accept", "*/*"), 404),
            ("GET", "/v1/kv/data", ("accept", "*/*"), 200),
            ("GET", "/v1/counters/data/c", ("accept", "*/*"), 200),
            ("GET", "/v1/counters/data/c", ("if-none-match", "*"), 304),
            ("GET", "/v1/counters/data/c", ("if-match", "\"0\""), 412),
            ("GET", "/v1/counters/data/none", ("accept", "*/*"), 404),
            ("GET", "/v1/counters/data", ("accept", "*/*"), 200),
        ] {
            let answer = client.ask(method, path, &[field], "").await;
            assert_eq!((answer.status, answer.field("isochrone-session")), (status, "seen-2"), "{method} {path} {field:?}");
        }
    }
    assert_eq!(client.ask("DELETE", "/v1/kv/data/a", &[], "").await.field("isochrone-session"), "seen-3");
}

#[tokio::test]
async fn a_token_reaches_the_backend_with_every_command_at_a_glance_or_not() {
    let client = Client::new();
    client.put("/v1/kv/data/a", "1").await;
    client.get("/v1/kv/data/a").await;
    for (method, path, body) in [
        ("GET", "/v1/kv/data/a", ""),
        ("GET", "/v1/kv/data/far/a", ""),
        ("GET", "/v1/kv/data", ""),
        ("PUT", "/v1/kv/data/a", "2"),
        ("DELETE", "/v1/kv/data/a", ""),
        ("POST", "/v1/counters/data/c", r#"{"add": 1}"#),
        ("GET", "/v1/counters/data/c", ""),
        ("GET", "/v1/counters/data", ""),
    ] {
        client.model.sessions.lock().unwrap().clear();
        with(&client, method, path, "seen-1", body).await;
        let seen = client.model.sessions.lock().unwrap().clone();
        assert!(!seen.is_empty() && seen.iter().all(|(_, token)| token.as_deref() == Some("seen-1")), "{method} {path}: {seen:?}");
    }
}

#[tokio::test]
async fn a_token_that_cannot_be_used_is_400_and_nothing_is_applied() {
    let client = Client::new();
    client.put("/v1/kv/data/a", "1").await;
    client.get("/v1/kv/data/a").await;
    let long = "x".repeat(1025);
    for token in ["", "a b", &long, "seen-2", "of-another-cluster"] {
        for (method, path, body) in [
            ("GET", "/v1/kv/data/a", ""),
            ("PUT", "/v1/kv/data/a", "2"),
            ("GET", "/v1/kv/data", ""),
            ("POST", "/v1/counters/data/c", r#"{"add": 1}"#),
            ("GET", "/v1/counters/data/c", ""),
        ] {
            let answer = with(&client, method, path, token, body).await;
            assert_eq!((answer.status, answer.problem().as_str()), (400, "session-token-invalid"), "{method} {path} {token}");
            assert_eq!(answer.json()["retryable"], false);
        }
    }
    let twice = client.ask("GET", "/v1/kv/data/a", &[("isochrone-session", "seen-1"), ("isochrone-session", "seen-1")], "").await;
    assert_eq!(twice.problem(), "malformed");
    let longest = "x".repeat(1024);
    assert_eq!(with(&client, "GET", "/v1/kv/data/a", &longest, "").await.problem(), "session-token-invalid", "the backend says so");
    assert_eq!(client.model.writes(), 1);
}

#[tokio::test]
async fn a_daemon_that_is_behind_is_503_and_says_when_to_come_back() {
    let client = Client::new();
    let behind = Refusal::SessionNotCaughtUp { detail: "us-east has not sent 3 writes".into(), retry_after: Duration::from_millis(1500) };
    *client.model.failing.lock().unwrap() = Some(behind);
    let answer = with(&client, "GET", "/v1/kv/data/a", "seen-0", "").await;
    assert_eq!((answer.status, answer.problem().as_str(), answer.field("retry-after")), (503, "session-not-caught-up", "2"));
    assert_eq!(answer.json()["retryable"], true);
}

#[tokio::test]
async fn a_batch_is_one_session_and_its_last_answer_has_the_newest_token() {
    let client = Client::new();
    client.put("/v1/kv/data/x", "1").await;
    client.model.sessions.lock().unwrap().clear();
    let lines = [
        json!({"op": "put", "ns": "data", "key": "a", "text": "1"}),
        json!({"op": "get", "ns": "data", "key_base64": "YQ=="}),
        json!({"op": "nothing"}),
        json!({"op": "update", "type": "counter", "ns": "data", "key": "a", "body": {"add": 1}}),
        json!({"op": "get", "ns": "data", "key": "none"}),
        json!({"op": "get", "type": "counter", "ns": "data", "key": "a"}),
    ];
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let answer = with(&client, "POST", "/v1/batch", "seen-1", &text).await;
    let answers: Vec<Value> = answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let statuses: Vec<_> = answers.iter().map(|answer| answer["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [204, 200, 400, 200, 404, 200]);
    assert_eq!(answers[5]["session"], "seen-3", "{answers:?}");
    let seen = |answer: &Value| answer["session"].as_str().unwrap().strip_prefix("seen-").unwrap().parse::<u64>().unwrap();
    assert!(answers.windows(2).all(|pair| seen(&pair[0]) <= seen(&pair[1])), "no answer's token goes back: {answers:?}");
    let asked = client.model.sessions.lock().unwrap().clone();
    assert!(asked.iter().all(|(_, token)| token.is_some()), "every line is asked with a token: {asked:?}");
    assert_eq!(asked[0].1.as_deref(), Some("seen-1"), "the first of a key with the batch's");
    let of_a: Vec<_> = asked.iter().filter(|(key, _)| key == "a").map(|(_, token)| token.as_deref().unwrap()).collect();
    assert!(of_a.contains(&"seen-2") || of_a.contains(&"seen-3"), "the next with what the one before has seen: {of_a:?}");
}
