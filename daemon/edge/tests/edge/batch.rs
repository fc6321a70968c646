//! `POST /v1/batch`.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use isochrone_edge::{Auth, EdgeLimits, RequestBody};
use serde_json::{Value, json};

use crate::model::{Answer, Client, Model, api};

async fn batch(client: &Client, lines: &str) -> Vec<Value> {
    let answer = client.ask("POST", "/v1/batch", &[("content-type", "application/x-ndjson; charset=utf-8")], lines.to_owned()).await;
    assert_eq!((answer.status, answer.field("content-type")), (200, "application/x-ndjson"));
    answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn each_line_has_its_answer_in_order() {
    let client = Client::new();
    let lines = [
        json!({"op": "put", "ns": "data", "key": "a", "text": "é"}),
        json!({"op": "put", "ns": "data", "key": "b", "base64": "/w==", "ttl_ms": 5000}),
        json!({"op": "get", "ns": "data", "key": "a"}),
        json!({"op": "get", "ns": "data", "key": "b"}),
        json!({"op": "delete", "ns": "data", "key": "a"}),
        json!({"op": "get", "ns": "data", "key": "a"}),
        json!({"op": "put", "ns": "strong", "key": "s", "text": "1", "if_none_match": "*"}),
        json!({"op": "put", "ns": "strong", "key": "s", "text": "2", "if_none_match": "*"}),
    ];
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let answers = batch(&client, text.trim_end()).await;
    let statuses: Vec<_> = answers.iter().map(|answer| answer["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [204, 204, 200, 200, 204, 404, 201, 412]);
    assert_eq!((&answers[2]["text"], &answers[3]["base64"]), (&json!("é"), &json!("/w==")));
    assert_eq!(answers[2]["etag"], answers[0]["etag"]);
    assert_eq!(answers[7]["problem"]["type"], "/problems/precondition-failed");
}

#[tokio::test]
async fn one_bad_line_fails_alone() {
    let client = Client::new();
    let bad = [
        "{",
        "[]",
        r#"["get","value","data","a"]"#,
        "\u{0}",
        r#"{"op":"get"}"#,
        r#"{"op":"get","ns":"data","key":"a","ttl":1}"#,
        r#"{"op":"put","ns":"data","key":"a"}"#,
        r#"{"op":"put","ns":"data","key":"a","text":"1","base64":"MQ=="}"#,
        r#"{"op":"put","ns":"data","key":"a","base64":"%"}"#,
        r#"{"op":"put","ns":"data","key":"","text":"1"}"#,
        r#"{"op":"get","ns":"data","key":"a","text":"1"}"#,
        r#"{"op":"put","ns":"data","key":"a","text":"1","ttl_ms":0}"#,
        r#"{"op":"put","ns":"NO","key":"a","text":"1"}"#,
    ];
    for line in bad {
        let good = json!({"op": "put", "ns": "data", "key": "z", "text": "1"});
        let answers = batch(&client, &format!("{good}\n\n{line}\n{good}\n")).await;
        let statuses: Vec<_> = answers.iter().map(|answer| answer["status"].as_u64().unwrap()).collect();
        assert_eq!(statuses, [204, 400, 204], "{line}");
    }
    let wrong_mode = batch(&client, r#"{"op":"put","ns":"data","key":"a","text":"1","if_match":"*"}"#).await;
    assert_eq!(wrong_mode[0]["problem"]["type"], "/problems/wrong-mode");
    let large = batch(&client, &json!({"op": "put", "ns": "data", "key": "a", "text": "x".repeat(1001)}).to_string()).await;
    assert_eq!(large[0]["status"], 413);
}

#[tokio::test]
async fn a_body_that_is_no_ndjson_is_415() {
    let client = Client::new();
    let text = client.ask("POST", "/v1/batch", &[("content-type", "text/plain")], "{}").await;
    assert_eq!(text.problem(), "unsupported-media-type");
    let untold = client.ask("POST", "/v1/batch", &[("content-type", "application/x-www-form-urlencoded")], "{}").await;
    assert_eq!(untold.status, 200, "`curl -d` says so of whatever it sends");
}

#[tokio::test]
async fn a_batch_repeats_under_its_idempotency_keys() {
    let client = Client::new();
    let line = json!({"op": "put", "ns": "data", "key": "a", "text": "1", "idempotency_key": "k"}).to_string();
    let answers = batch(&client, &format!("{line}\n{line}\n")).await;
    assert_eq!(answers[0], answers[1]);
    assert_eq!(client.model.writes(), 1);
}

#[tokio::test(start_paused = true)]
async fn lines_run_side_by_side_but_those_of_one_key_one_after_the_other() {
    let client = Client::new();
    *client.model.delay.lock().unwrap() = Some(Duration::from_millis(100));
    let line = |key: usize| json!({"op": "put", "ns": "data", "key": key.to_string(), "text": "1"}).to_string() + "\n";
    let started = tokio::time::Instant::now();
    batch(&client, &(0..64).map(line).collect::<String>()).await;
    assert!(started.elapsed() < Duration::from_millis(150), "64 lines are worked on at a time");
    let started = tokio::time::Instant::now();
    batch(&client, &(0..5).map(|_| line(0)).collect::<String>()).await;
    assert!(started.elapsed() >= Duration::from_millis(500), "lines for one key wait for each other");
}

#[tokio::test]
async fn answers_come_while_lines_are_still_sent_and_no_more_is_read_than_is_worked_on() {
    let model = Model::new();
    let limits = EdgeLimits { batch_ahead: 2, ..EdgeLimits::default() };
    let api = api(&model, Auth::none(), limits);
    let line = Bytes::from_static(b"{\"op\":\"put\",\"ns\":\"data\",\"key\":\"a\",\"text\":\"1\"}\n");
    let frames = stream::repeat(line).map(|line| Ok::<_, Infallible>(Frame::data(line)));
    let request = Request::post("/v1/batch").body(StreamBody::new(frames.boxed())).unwrap();
    let mut body = api.handle(request).await.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(b"{"), "an answer to an endless batch: {first:?}");
}

/// Lines in frames of one line each, of a length that is not announced.
fn unannounced(lines: usize) -> Request<impl RequestBody> {
    let line =
        |n: usize| Frame::data(Bytes::from(json!({"op": "put", "ns": "data", "key": n.to_string(), "text": "1"}).to_string() + "\n"));
    let frames = stream::iter((0..lines).map(move |n| Ok::<_, Infallible>(line(n))));
    Request::post("/v1/batch").body(StreamBody::new(frames.boxed())).unwrap()
}

async fn statuses(api: &isochrone_edge::Api, lines: usize) -> (Vec<u64>, Value) {
    let answer = Answer::of(api.handle(unannounced(lines)).await).await;
    let answers: Vec<Value> = answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (answers.iter().map(|answer| answer["status"].as_u64().unwrap()).collect(), answers.last().unwrap().clone())
}

#[tokio::test]
async fn a_line_beyond_the_most_is_413_and_ends_the_batch() {
    let model = Model::new();
    let api = api(&model, Auth::none(), EdgeLimits { batch_lines: 3, ..EdgeLimits::default() });
    assert_eq!(statuses(&api, 3).await.0, [204; 3]);
    assert_eq!(statuses(&api, 9).await.0, [204, 204, 204, 413]);
    assert_eq!(model.writes(), 6);
}

#[tokio::test]
async fn a_batch_that_is_too_long_is_413_at_once_where_it_says_so_and_at_its_end_where_not() {
    let model = Model::new();
    let line = json!({"op": "put", "ns": "data", "key": "0", "text": "1"}).to_string() + "\n";
    let limits = EdgeLimits { batch_bytes: 2 * line.len() as u64, ..EdgeLimits::default() };
    let client = Client { api: api(&model, Auth::none(), limits), model };
    let announced = client.ask("POST", "/v1/batch", &[], line.repeat(3)).await;
    assert_eq!((announced.status, announced.problem().as_str(), client.model.writes()), (413, "too-large", 0));
    assert_eq!(client.ask("POST", "/v1/batch", &[], line.repeat(2)).await.status, 200);
    assert_eq!(statuses(&client.api, 3).await.0, [204, 204, 413]);
}

#[tokio::test]
async fn a_batch_that_finds_no_room_is_503_and_what_was_held_comes_back() {
    let model = Model::new();
    let line = json!({"op": "put", "ns": "data", "key": "0", "text": "1"}).to_string() + "\n";
    let limits = EdgeLimits { bodies_bytes: 3 * line.len() as u64, ..EdgeLimits::default() };
    let client = Client { api: api(&model, Auth::none(), limits), model };
    let announced = client.ask("POST", "/v1/batch", &[], line.repeat(4)).await;
    assert_eq!((announced.status, announced.problem().as_str(), announced.field("retry-after")), (503, "too-busy", "1"));
    *client.model.delay.lock().unwrap() = Some(Duration::from_millis(1));
    let (all, last) = statuses(&client.api, 9).await;
    assert_eq!((all.len(), all.last(), &last["problem"]["type"]), (4, Some(&503), &json!("/problems/too-busy")), "{all:?}");
    for _ in 0..3 {
        assert_eq!(client.ask("POST", "/v1/batch", &[], line.repeat(3)).await.status, 200);
    }
}
