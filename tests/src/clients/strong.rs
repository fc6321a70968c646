//! Clients of strong namespaces: each has a daemon that is its own, and goes to others now and then, above all to repeat there what was not
//! answered. They meet at a few keys.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use isochrone_edge::Api;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::clients::calls::{Answer, Call, request, send, version_of};
use crate::clients::desks::{Visit, visit};
use crate::linear::{Demand, Revision, Seen, Stored};
use crate::model::strong::{StrongId, Told, Want, value_of, writer_of};
use crate::shared::{Shared, Stage, elapsed, lock};

/// Clients that have a daemon as their own.
const CLIENTS_EACH: usize = 2;
/// Keys at which all meet, and others.
const KEYS: (u32, u32) = (3, 24);
/// The longest pause of a client, and the longest before it repeats something.
const PAUSE_MS_MAX: (u64, u64) = (200, 1_500);
/// The longest way to a daemon.
const TRAVEL_MS_MAX: u64 = 15;
/// How often a request is made at most.
const TRIES_MAX: u32 = 4;
/// What a daemon's count of time may be off by in the age of a copy.
const AGE_SLACK: Duration = Duration::from_millis(2);
/// How long a client waits before it reads once more in the end, and how often it does.
const RETRY: (Duration, u32) = (Duration::from_millis(200), 5);

/// Starts all clients, on the host that runs at the moment.
pub fn spawn_all(shared: &Arc<Shared>) {
    for number in 0..shared.shape.nodes.len() * CLIENTS_EACH {
        tokio::spawn(live(Arc::clone(shared), number));
    }
}

async fn live(shared: Arc<Shared>, number: usize) {
    let home = number % shared.shape.nodes.len();
    let rng = StdRng::seed_from_u64(shared.seed ^ 0x57_70 ^ (number as u64) << 32);
    let mut client = Client { shared, rng, number, home, requests: 0, seen: BTreeMap::new() };
    loop {
        tokio::time::sleep(Duration::from_millis(client.rng.random_range(1..=PAUSE_MS_MAX.0))).await;
        if matches!(client.shared.stage(), Stage::Work) {
            client.act().await;
        }
    }
}

struct Client {
    shared: Arc<Shared>,
    rng: StdRng,
    number: usize,
    home: usize,
    requests: u64,
    /// The newest revision of each key that it was told of.
    seen: BTreeMap<String, Revision>,
}

impl Client {
    async fn act(&mut self) {
        let key = self.key();
        match self.rng.random_range(0..100) {
            0..22 => drop(self.read(&key, "").await),
            22..32 => drop(self.read(&key, "?consistency=local").await),
            32..42 => {
                // What `for=update` is for.
                if let Some(revision) = self.read(&key, "?for=update").await {
                    self.write(&key, Want::Put(Demand::Is(revision))).await;
                }
            }
            42..45 => self.list().await,
            45..50 => self.batch().await,
            _ => {
                let want = self.want(&key);
                self.write(&key, want).await;
            }
        }
    }

    fn key(&mut self) -> String {
        if self.rng.random_ratio(3, 5) {
            format!("hot{}", self.rng.random_range(0..KEYS.0))
        } else {
            format!("cold{}", self.rng.random_range(0..KEYS.1))
        }
    }

    fn daemon(&mut self) -> usize {
        if self.rng.random_ratio(5, 6) { self.home } else { self.rng.random_range(0..self.shared.shape.nodes.len()) }
    }

    fn want(&mut self, key: &str) -> Want {
        let demand = match (self.rng.random_range(0..10), self.seen.get(key)) {
            (0..3, Some(revision)) => Demand::Is(*revision),
            (3, _) => Demand::Absent,
            (4, _) => Demand::Present,
            _ => Demand::Anything,
        };
        // A delete of what must be absent is nothing that anybody asks for.
        if demand != Demand::Absent && self.rng.random_ratio(1, 5) { Want::Delete(demand) } else { Want::Put(demand) }
    }

    fn travel(&mut self) -> Duration {
        Duration::from_millis(self.rng.random_range(1..=TRAVEL_MS_MAX))
    }

    /// Makes one try of an operation.
    async fn ask(&mut self, id: StrongId, daemon: usize, want: Want, call: Call) -> Told {
        let (asked, travel) = (elapsed(), self.travel());
        let told = match visit(&self.shared, daemon, travel, call).await {
            Visit::Nobody => Told::Nothing,
            Visit::Lost => Told::Unknown,
            Visit::Answered(answer) => self.told(daemon, want, &answer),
        };
        self.shared.note(format_args!("strong {} at {daemon} {} {told:?}", self.number, id.0));
        lock(&self.shared.strong).end(id, daemon, asked, elapsed(), told);
        told
    }

    fn told(&self, daemon: usize, want: Want, answer: &Answer) -> Told {
        lock(&self.shared.history).answers += 1;
        match told_of(want, answer) {
            Ok(told) => told,
            Err(text) => {
                lock(&self.shared.history).violate(format!("strong client {} was shown by daemon {daemon} {text}", self.number));
                Told::Nothing
            }
        }
    }

    async fn read(&mut self, key: &str, query: &str) -> Option<Revision> {
        let daemon = self.daemon();
        let id = lock(&self.shared.strong).begin(key, Want::Read, elapsed());
        let call = request(Method::GET, &format!("{}{query}", path(key)), &[], Bytes::new());
        let Told::Shown(Some(seen), _) = self.ask(id, daemon, Want::Read, call).await else { return None };
        self.note_seen(key, seen.revision);
        Some(seen.revision)
    }

    fn note_seen(&mut self, key: &str, revision: Revision) {
        let newest = self.seen.entry(key.to_owned()).or_insert(revision);
        *newest = (*newest).max(revision);
    }

    /// A write: half of the time under an idempotency key, so that it can be repeated here and elsewhere until it is answered, and a put that is done
    /// sometimes beyond. A write that changed nothing leaves nothing behind that its repeat could be known by: that would be decided anew.
    async fn write(&mut self, key: &str, want: Want) {
        let id = lock(&self.shared.strong).begin(key, want, elapsed());
        let mut fields = fields_of(want);
        let tries = if self.rng.random() { self.rng.random_range(1..=TRIES_MAX) } else { 0 };
        if tries > 0 {
            self.requests += 1;
            fields.push(("idempotency-key", format!("strong-{}-{}", self.number, self.requests)));
        }
        let mut daemon = self.daemon();
        for left in (0..tries.max(1)).rev() {
            let told = self.ask(id, daemon, want, call_of(key, id, want, &fields)).await;
            if let Told::Stored(stored) = told {
                self.note_seen(key, stored.revision);
            }
            let is_answered = !matches!(told, Told::Nothing | Told::Unknown);
            let is_kept = matches!(told, Told::Stored(_));
            if left == 0 || is_answered && (!is_kept || self.rng.random_ratio(3, 4)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(1..=PAUSE_MS_MAX.1))).await;
            daemon = self.rng.random_range(0..self.shared.shape.nodes.len());
        }
    }

    /// Puts, deletes and reads of different keys in one request.
    async fn batch(&mut self) {
        let (daemon, asked, travel) = (self.daemon(), elapsed(), self.travel());
        let mut keys: Vec<String> = (0..self.rng.random_range(2..6)).map(|_| self.key()).collect();
        keys.sort();
        keys.dedup();
        let mut lines: Vec<(StrongId, Want)> = Vec::new();
        let mut body = String::new();
        for key in keys {
            let want = [Want::Read, Want::Put(Demand::Anything), Want::Delete(Demand::Anything)][self.rng.random_range(0..3)];
            let id = lock(&self.shared.strong).begin(&key, want, asked);
            let line = match want {
                Want::Read => json!({"op": "get", "ns": "strong", "key": key}),
                Want::Put(_) => json!({"op": "put", "ns": "strong", "key": key, "text": String::from_utf8_lossy(&value_of(id))}),
                Want::Delete(_) => json!({"op": "delete", "ns": "strong", "key": key}),
            };
            lines.push((id, want));
            body.push_str(&format!("{line}\n"));
        }
        let fields = [("content-type", "application/x-ndjson".to_owned())];
        let call = request(Method::POST, "/v1/batch", &fields, body.into());
        let (otherwise, answers) = match visit(&self.shared, daemon, travel, call).await {
            Visit::Nobody => (Told::Nothing, Vec::new()),
            Visit::Lost => (Told::Unknown, Vec::new()),
            Visit::Answered(answer) => (Told::Unknown, answer.lines()),
        };
        for (at, (id, want)) in lines.into_iter().enumerate() {
            let told = answers.get(at).map_or(otherwise, |answer| told_of_line(want, answer));
            self.shared.note(format_args!("strong {} line at {daemon} {} {told:?}", self.number, id.0));
            lock(&self.shared.strong).end(id, daemon, asked, elapsed(), told);
        }
    }

    async fn list(&mut self) {
        let (daemon, travel) = (self.daemon(), self.travel());
        let uri = format!("/v1/kv/strong?limit={}", self.rng.random_range(1..=KEYS.1));
        let call = request(Method::GET, &uri, &[], Bytes::new());
        let Visit::Answered(answer) = visit(&self.shared, daemon, travel, call).await else { return };
        let entries = if answer.status == StatusCode::OK { answer.lines() } else { Vec::new() };
        self.shared.note(format_args!("strong {} list at {daemon} {} {}", self.number, answer.status.as_u16(), entries.len()));
        let keys: Vec<&str> = entries.iter().filter_map(|entry| entry["key"].as_str()).collect();
        if keys.len() != entries.len() || !keys.is_sorted_by(|a, b| a < b) {
            lock(&self.shared.history).violate(format!("strong client {} was shown the listing {keys:?} by daemon {daemon}", self.number));
        }
        for entry in &entries {
            if let (Some(key), Some(revision)) = (entry["key"].as_str(), entry["etag"].as_str().and_then(revision_of)) {
                lock(&self.shared.strong).list(daemon, key, revision);
            }
        }
    }
}

fn path(key: &str) -> String {
    format!("/v1/kv/strong/{key}")
}

fn revision_of(etag: &str) -> Option<Revision> {
    version_of(etag).map(|version| Revision(version.hlc.0))
}

fn etag_of(revision: Revision) -> String {
    let version = isochrone_edge::revision_version(revision.0);
    format!("\"{version}\"")
}

/// The preconditions of a write.
fn fields_of(want: Want) -> Vec<(&'static str, String)> {
    let (Want::Put(demand) | Want::Delete(demand)) = want else { return Vec::new() };
    match demand {
        Demand::Anything => Vec::new(),
        Demand::Absent => vec![("if-none-match", "*".to_owned())],
        Demand::Present => vec![("if-match", "*".to_owned())],
        Demand::Is(revision) => vec![("if-match", etag_of(revision))],
    }
}

fn call_of(key: &str, id: StrongId, want: Want, fields: &[(&str, String)]) -> Call {
    match want {
        Want::Read => request(Method::GET, &path(key), fields, Bytes::new()),
        Want::Put(_) => request(Method::PUT, &path(key), fields, value_of(id)),
        Want::Delete(_) => request(Method::DELETE, &path(key), fields, Bytes::new()),
    }
}

/// What an answer tells. `Err`: it shows what nobody can have written, or claims less than was asked for.
fn told_of(want: Want, answer: &Answer) -> Result<Told, String> {
    let revision = answer.text("etag").and_then(revision_of);
    match (want, answer.status.as_u16(), revision) {
        (Want::Read, 200, Some(revision)) => {
            let value = writer_of(&answer.body).ok_or_else(|| format!("{:?}, which nobody wrote", answer.body))?;
            Ok(Told::Shown(Some(Seen { value, revision }), age_of(answer)?))
        }
        (Want::Read, _, _) if answer.is_absence() => Ok(Told::Shown(None, age_of(answer)?)),
        (Want::Put(_), status @ (201 | 204), Some(revision)) => Ok(Told::Stored(Stored { revision, created: status == 201 })),
        (Want::Delete(_), 204, _) => Ok(Told::Deleted),
        (_, 200..=299, _) => Err(format!("{} in answer to {want:?}, with the revision {revision:?}", answer.status)),
        (_, status, _) => Ok(told_of_failure(status)),
    }
}

/// How old a read's answer says it may be.
fn age_of(answer: &Answer) -> Result<Option<Duration>, String> {
    match answer.text("isochrone-consistency") {
        Some("strong") => Ok(Some(Duration::ZERO)),
        Some("local") => {
            let millis = answer.text("isochrone-age-ms").and_then(|text| text.parse().ok());
            Ok(millis.map(|millis| Duration::from_millis(millis) + AGE_SLACK))
        }
        given => Err(format!("an answer of consistency {given:?}")),
    }
}

/// 503 and 507 promise that nothing happened, as every 4xx does.
const fn told_of_failure(status: u16) -> Told {
    match status {
        412 => Told::Refused,
        400..=499 | 501 | 503 | 507 => Told::Nothing,
        _ => Told::Unknown,
    }
}

/// What the answer to a line of a batch tells.
fn told_of_line(want: Want, answer: &serde_json::Value) -> Told {
    let status = answer["status"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or(500);
    let revision = answer["etag"].as_str().and_then(revision_of);
    match (want, status, revision) {
        (Want::Read, 200, Some(revision)) => {
            let value = answer["text"].as_str().and_then(|text| writer_of(text.as_bytes()));
            value.map_or(Told::Unknown, |value| Told::Shown(Some(Seen { value, revision }), Some(Duration::ZERO)))
        }
        // Unlike a namespace of which the daemon has not heard yet.
        (Want::Read, 404, _) if answer["problem"]["type"] == "/problems/not-found" => Told::Shown(None, Some(Duration::ZERO)),
        (Want::Put(_), 201 | 204, Some(revision)) => Told::Stored(Stored { revision, created: status == 201 }),
        (Want::Delete(_), 204, _) => Told::Deleted,
        (_, status, _) => told_of_failure(status),
    }
}

/// Asks a daemon directly, as its own listener would.
async fn ask_here(shared: &Shared, api: &Api, node: usize, key: &str, want: Want) -> Told {
    let asked = elapsed();
    let id = lock(&shared.strong).begin(key, want, asked);
    let answer = send(api, call_of(key, id, want, &[])).await;
    let told = told_of(want, &answer).unwrap_or_else(|text| {
        lock(&shared.history).violate(format!("daemon {node} shows {text}"));
        Told::Nothing
    });
    shared.note(format_args!("strong end {node} {key} {} {told:?}", id.0));
    lock(&shared.strong).end(id, node, asked, elapsed(), told);
    told
}

/// Writes a key of this daemon's own; says whether it was acknowledged.
pub async fn write_once(shared: &Shared, api: &Api, node: usize) -> bool {
    let told = ask_here(shared, api, node, &format!("healed{node}"), Want::Put(Demand::Anything)).await;
    matches!(told, Told::Stored(_))
}

/// Reads every key at a daemon; says whether every read was answered.
pub async fn read_all(shared: &Shared, api: &Api, node: usize) -> bool {
    let keys = lock(&shared.strong).keys();
    for key in keys {
        let mut tries = 0;
        while !matches!(ask_here(shared, api, node, &key, Want::Read).await, Told::Shown(..)) {
            if tries == RETRY.1 {
                return false;
            }
            tries += 1;
            tokio::time::sleep(RETRY.0).await;
        }
    }
    true
}
