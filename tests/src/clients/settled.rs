//! What clients ask of daemons: of every daemon, whatever state it is in, by calling its API as its listener would.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use isochrone_edge::Api;
use isochrone_ident::{Namespace, Version};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::clients::calls::{Call, fate_of, path, request, send, version_of};
use crate::clients::typed_calls;
use crate::history::{Deed, Fate, Name, Shown, WriteId, value_of};
use crate::model::typed::{Place, View};
use crate::shared::{Shared, Stage, lock};

/// Clients of each daemon.
pub const CLIENTS: u64 = 2;
/// Keys of each namespace: few, so that writes meet.
const KEYS: u32 = 48;
/// The longest pause of a client.
const PAUSE_MS_MAX: u64 = 120;
/// How long a client waits before it tries once more.
const RETRY: Duration = Duration::from_millis(200);

/// One client, for as long as its daemon lives.
pub async fn client(shared: Arc<Shared>, api: Api, node: usize, incarnation: u64, number: u64) {
    let seed = shared.seed ^ (node as u64) << 48 ^ incarnation << 40 ^ number << 32;
    let mut client = Client { rng: StdRng::seed_from_u64(seed), shared, api, node, incarnation, number, requests: 0 };
    loop {
        tokio::time::sleep(Duration::from_millis(client.rng.random_range(1..=PAUSE_MS_MAX))).await;
        if matches!(client.shared.stage(), Stage::Work) {
            client.ask().await;
        }
    }
}

struct Client {
    shared: Arc<Shared>,
    api: Api,
    node: usize,
    rng: StdRng,
    incarnation: u64,
    number: u64,
    requests: u64,
}

impl Client {
    async fn ask(&mut self) {
        let name = self.name();
        let (kind, ttl_ms) = (self.rng.random_range(0..100), self.rng.random_range(1_000..4_000));
        match kind {
            0..45 => self.put(&name, None).await,
            45..52 => self.put(&name, Some(ttl_ms)).await,
            52..66 => {
                let id = self.begin(&name, Deed::Delete);
                self.write(id, request(Method::DELETE, &path(&name), &[], Bytes::new())).await;
            }
            66..72 => self.put_twice(&name).await,
            72..78 => self.batch().await,
            78..82 => self.list(&name.0).await,
            _ => read(&self.shared, &self.api, self.node, &name).await,
        }
    }

    fn name(&mut self) -> Name {
        let ns = ["data", "data", "data", "pair", "cache"][self.rng.random_range(0..5)];
        (Namespace::new(ns).expect("a namespace's name"), format!("k{}", self.rng.random_range(0..KEYS)))
    }

    fn begin(&self, name: &Name, deed: Deed) -> WriteId {
        lock(&self.shared.history).begin(self.node, name, deed)
    }

    fn begin_put(&mut self, name: &Name, expires: bool) -> (WriteId, Bytes) {
        let length = if self.rng.random_ratio(1, 30) { self.rng.random_range(5_000..60_000) } else { self.rng.random_range(8..300) };
        let value = value_of(lock(&self.shared.history).next_id(), length);
        (self.begin(name, Deed::Put { value: value.clone(), expires }), value)
    }

    async fn put(&mut self, name: &Name, ttl_ms: Option<u64>) {
        let (id, value) = self.begin_put(name, ttl_ms.is_some());
        let query = ttl_ms.map_or_else(String::new, |ms| format!("?ttl={ms}ms"));
        self.write(id, request(Method::PUT, &format!("{}{query}", path(name)), &[], value)).await;
    }

    /// A put with an idempotency key, and its repeat: one write.
    async fn put_twice(&mut self, name: &Name) {
        self.requests += 1;
        let key = format!("{}-{}-{}-{}", self.node, self.incarnation, self.number, self.requests);
        let (id, value) = self.begin_put(name, false);
        for _ in 0..2 {
            self.write(id, request(Method::PUT, &path(name), &[("idempotency-key", key.clone())], value.clone())).await;
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(1..400))).await;
        }
    }

    async fn write(&self, id: WriteId, call: Call) {
        let answer = send(&self.api, call).await;
        let fate = answer.fate();
        self.shared.note(format_args!("write {} {} {} {fate:?}", self.node, id.0, answer.status.as_u16()));
        lock(&self.shared.history).end(id, fate);
    }

    /// A few puts and deletes in one batch.
    async fn batch(&mut self) {
        let (mut ids, mut body) = (Vec::new(), String::new());
        for _ in 0..self.rng.random_range(2..6) {
            let name = self.name();
            let (id, line) = if self.rng.random_ratio(1, 4) {
                (self.begin(&name, Deed::Delete), json!({"op": "delete", "ns": name.0.as_str(), "key": name.1}))
            } else {
                let (id, value) = self.begin_put(&name, false);
                let text = String::from_utf8_lossy(&value);
                (id, json!({"op": "put", "ns": name.0.as_str(), "key": name.1, "text": text}))
            };
            ids.push(id);
            body.push_str(&format!("{line}\n"));
        }
        let fields = [("content-type", "application/x-ndjson".to_owned())];
        let answer = send(&self.api, request(Method::POST, "/v1/batch", &fields, body.into())).await;
        let answers = answer.lines();
        self.shared.note(format_args!("batch {} {} {}", self.node, answer.status.as_u16(), answers.len()));
        for (id, answer) in ids.into_iter().zip(answers) {
            let status = answer["status"].as_u64().and_then(|s| u16::try_from(s).ok()).unwrap_or(500);
            let fate = fate_of(status, answer["etag"].as_str().and_then(version_of));
            self.shared.note(format_args!("line {} {} {status} {fate:?}", self.node, id.0));
            lock(&self.shared.history).end(id, fate);
        }
    }

    /// A page of a listing; what it shows, somebody wrote.
    async fn list(&mut self, ns: &Namespace) {
        let uri = format!("/v1/kv/{ns}?limit={}", self.rng.random_range(1..=KEYS));
        let answer = send(&self.api, request(Method::GET, &uri, &[], Bytes::new())).await;
        let entries = if answer.status == StatusCode::OK { answer.lines() } else { Vec::new() };
        self.shared.note(format_args!("list {} {} {}", self.node, answer.status.as_u16(), entries.len()));
        let mut history = lock(&self.shared.history);
        let mut before = None;
        for entry in &entries {
            let (key, version) = (entry["key"].as_str().unwrap_or(""), entry["etag"].as_str().and_then(version_of));
            if version.is_none() || before.is_some_and(|b: &str| b >= key) {
                history.violate(format!("daemon {} lists {entry} after {before:?}", self.node));
            }
            before = Some(key);
        }
    }
}

/// Reads one key and holds the answer against the history.
async fn read(shared: &Shared, api: &Api, node: usize, name: &Name) {
    let floor = lock(&shared.history).floor(node, name).filter(|_| crate::cluster::is_durable(&name.0));
    let Ok(shown) = fetch(shared, api, node, name).await else { return };
    lock(&shared.history).read(node, name, floor, shown.as_ref());
}

/// What a daemon answers to a read; `Err` when it refuses.
async fn fetch(shared: &Shared, api: &Api, node: usize, name: &Name) -> Result<Option<Shown>, StatusCode> {
    let answer = send(api, request(Method::GET, &path(name), &[], Bytes::new())).await;
    let version = answer.version();
    shared.note(format_args!("read {node} {}/{} {} {version:?}", name.0, name.1, answer.status.as_u16()));
    match (answer.status, version) {
        (StatusCode::OK, Some(version)) => Ok(Some(Shown { version, value: Some(answer.body) })),
        _ if answer.is_absence() => Ok(None),
        (status, _) => Err(status),
    }
}

/// Writes a key of this daemon's own; says whether it was acknowledged.
pub async fn write_once(shared: &Shared, api: &Api, node: usize) -> bool {
    let name = (Namespace::new("data").expect("a namespace's name"), format!("healed-{node}"));
    let value = value_of(lock(&shared.history).next_id(), 16);
    let id = lock(&shared.history).begin(node, &name, Deed::Put { value: value.clone(), expires: false });
    let answer = send(api, request(Method::PUT, &path(&name), &[], value)).await;
    let fate = answer.fate();
    shared.note(format_args!("write {node} {} {} {fate:?}", id.0, answer.status.as_u16()));
    lock(&shared.history).end(id, fate);
    matches!(fate, Fate::Acknowledged(_))
}

/// Reads every key and compares it with what the stores hold; says whether every read was answered.
pub async fn read_all(shared: &Shared, api: &Api, node: usize, end: &BTreeMap<Name, Option<Version>>) -> bool {
    for (name, expected) in end {
        let mut tries = 0;
        let shown = loop {
            match fetch(shared, api, node, name).await {
                Ok(shown) => break shown,
                Err(_) if tries < 5 => tries += 1,
                Err(_) => return false,
            }
            tokio::time::sleep(RETRY).await;
        };
        let mut history = lock(&shared.history);
        history.read(node, name, None, shown.as_ref());
        let version = shown.map(|s| s.version);
        if version != *expected {
            history
                .violate(format!("in the end daemon {node} shows {version:?} of {}/{}, and the stores hold {expected:?}", name.0, name.1));
        }
    }
    true
}

/// Reads every key that is not a value, holds it against the oracle, and compares it with what other daemons showed; says whether every read was
/// answered.
pub async fn read_all_typed(shared: &Shared, api: &Api, node: usize) -> bool {
    let places = lock(&shared.typed).places();
    for place in places.iter().filter(|place| crate::cluster::is_durable(&place.name.0)) {
        let Some(shown) = fetch_typed(shared, api, node, place).await else { return false };
        let checked = lock(&shared.typed).check_end(place, shown.as_ref());
        let (kind, (ns, key)) = (place.kind, &place.name);
        let mut history = lock(&shared.history);
        if let Err(why) = checked {
            history.violate(format!("in the end daemon {node} shows of the {kind} {ns}/{key} {}", why.join("\n        ")));
        }
        let mut ends = lock(&shared.typed_ends);
        let first = ends.entry(place.clone()).or_insert_with(|| (node, shown.clone()));
        if first.1 != shown {
            history.violate(format!(
                "in the end the {kind} {ns}/{key} should be equal everywhere: daemon {} shows {:?}, daemon {node} {shown:?}",
                first.0, first.1
            ));
        }
    }
    true
}

/// What a daemon shows of a key that is not a value; the outer `None` when it refuses again and again.
async fn fetch_typed(shared: &Shared, api: &Api, node: usize, place: &Place) -> Option<Option<View>> {
    for _ in 0..5 {
        let answer = send(api, typed_calls::read(place, &[])).await;
        shared.note(format_args!("read {node} {:?} {}", place.name, answer.status.as_u16()));
        match answer.status {
            _ if answer.is_absence() => return Some(None),
            StatusCode::OK => return typed_calls::view_of(place.kind, &answer.body).map(|(view, _)| Some(view)),
            _ => tokio::time::sleep(RETRY).await,
        }
    }
    None
}
