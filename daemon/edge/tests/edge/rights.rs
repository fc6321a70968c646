//! Tokens and what they allow.

use isochrone_edge::{Auth, EdgeLimits, Grant, Right, Scope, Token};
use isochrone_ident::Namespace;

use crate::model::{Client, Model, api};

pub(crate) fn token(text: &str, scope: Option<&str>, rights: &[Right]) -> Token {
    let scope = scope.map_or(Scope::All, |ns| Scope::Namespace(Namespace::new(ns).unwrap()));
    let grants = rights.iter().map(|right| Grant { scope: scope.clone(), right: *right }).collect();
    Token { name: text.into(), sha256: Token::hash(text), grants }
}

fn client() -> Client {
    let tokens = vec![
        token("reader", Some("data"), &[Right::Read]),
        token("writer", Some("data"), &[Right::Write]),
        token("root", None, &[Right::Admin]),
    ];
    let model = Model::new();
    Client { api: api(&model, Auth::tokens(tokens), EdgeLimits::default()), model }
}

async fn status(client: &Client, token: &str, method: &str, path: &str) -> u16 {
    client.ask(method, path, &[("authorization", &format!("Bearer {token}"))], "1").await.status
}

#[tokio::test]
async fn without_a_token_nothing_under_v1_is_told() {
    let client = client();
    let missing = client.get("/v1/kv/data/a").await;
    assert_eq!((missing.problem().as_str(), missing.field("www-authenticate")), ("unauthenticated", "Bearer realm=\"isochrone\""));
    for path in ["/v1/kv/nowhere/a", "/v1/batch", "/v1/counters/data/c"] {
        assert_eq!(client.get(path).await.status, 401, "{path}");
    }
    assert_eq!(client.get("/openapi.json").await.status, 200);
    assert_eq!(client.get("/problems/unauthenticated").await.status, 200);
    let wrong = client.ask("GET", "/v1/kv/data/a", &[("authorization", "Bearer guess")], "").await;
    assert!(wrong.status == 401 && wrong.field("www-authenticate").contains("invalid_token"));
}

#[tokio::test]
async fn a_token_allows_what_it_says_and_no_more() {
    let client = client();
    assert_eq!(status(&client, "writer", "PUT", "/v1/kv/data/a").await, 204);
    for _ in 0..2 {
        assert_eq!(status(&client, "reader", "GET", "/v1/kv/data/a").await, 200);
        assert_eq!(status(&client, "writer", "GET", "/v1/kv/data/a").await, 403);
    }
    assert_eq!(status(&client, "reader", "GET", "/v1/kv/data").await, 200);
    assert_eq!(status(&client, "reader", "PUT", "/v1/kv/data/a").await, 403);
    assert_eq!(status(&client, "reader", "DELETE", "/v1/kv/data/a").await, 403);
    assert_eq!(status(&client, "reader", "GET", "/v1/kv/cache/a").await, 403);
    assert_eq!(status(&client, "reader", "GET", "/v1/kv/nowhere/a").await, 403, "a stranger learns nothing of a namespace");
    assert_eq!(status(&client, "root", "GET", "/v1/kv/nowhere/a").await, 404);
    assert_eq!(status(&client, "root", "PUT", "/v1/kv/cache/a").await, 204);
}

#[tokio::test]
async fn a_batch_checks_each_line() {
    let client = client();
    let lines = "{\"op\":\"get\",\"ns\":\"data\",\"key\":\"a\"}\n{\"op\":\"put\",\"ns\":\"data\",\"key\":\"a\",\"text\":\"1\"}\n";
    let answer = client.ask("POST", "/v1/batch", &[("authorization", "Bearer reader")], lines).await;
    let statuses: Vec<_> =
        answer.text().lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["status"].clone()).collect();
    assert_eq!(statuses, [404, 403]);
}
