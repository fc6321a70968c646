//! Requests that a directed scenario makes, each at its time, in place of the clients that draw theirs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use isochrone_ident::Namespace;

use super::calls::{Answer, Call, path, request};
use super::desks::{Visit, visit};
use super::typed_calls;
use crate::history::{Deed as ValueDeed, Fate, Name, Shown, value_of};
use crate::model::typed::{Deed, Place};
use crate::model::{Ending, Request};
use crate::shared::{Shared, Stage, elapsed, lock};

/// One request.
#[derive(Debug, Clone)]
pub struct Line {
    /// When it is made, counted as faults are.
    pub at: Duration,
    /// The daemon that is asked.
    pub daemon: usize,
    /// The namespace.
    pub ns: &'static str,
    /// The key.
    pub key: &'static str,
    /// Whether it asks for level `quorum`.
    pub quorum: bool,
    /// What it asks for.
    pub ask: Ask,
}

/// What a request asks for.
#[derive(Debug, Clone)]
pub enum Ask {
    /// To put a value of so many bytes.
    Put(usize),
    /// To delete.
    Delete,
    /// To read.
    Read,
    /// To change a counter, set, map or register, under an idempotency key if one is given: a line with the same one is a repeat.
    Change(Deed, Option<&'static str>),
}

/// The host of all these requests: it never breaks. A request waits for no other.
///
/// # Errors
/// Never: the harness ends hosts.
pub async fn live(shared: Arc<Shared>, lines: Vec<Line>) -> turmoil::Result {
    while !matches!(shared.stage(), Stage::Work) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for line in lines {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            tokio::time::sleep(line.at).await;
            line.ask_once(&shared).await;
        });
    }
    std::future::pending().await
}

impl Line {
    async fn ask_once(&self, shared: &Shared) {
        let name: Name = (Namespace::new(self.ns).expect("a namespace's name"), self.key.to_owned());
        match self.ask {
            Ask::Put(length) => {
                let value = value_of(lock(&shared.history).next_id(), length);
                let call = self.call(Method::PUT, &name, value.clone());
                self.write(shared, &name, ValueDeed::Put { value, expires: false }, call).await;
            }
            Ask::Delete => {
                let call = self.call(Method::DELETE, &name, Bytes::new());
                self.write(shared, &name, ValueDeed::Delete, call).await;
            }
            Ask::Read => self.read(shared, &name).await,
            Ask::Change(ref deed, repeats) => self.change(shared, name, deed, repeats).await,
        }
    }

    async fn change(&self, shared: &Shared, name: Name, deed: &Deed, repeats: Option<&'static str>) {
        let place = Place { kind: deed.kind(), name };
        let asked = Request { daemon: self.daemon, step: None, quorum: self.quorum, begun: elapsed() };
        let id = lock(&shared.typed).begin_or_repeat(asked, &place, deed, repeats);
        let fields = repeats.map(|key| ("idempotency-key", key.to_owned()));
        let call = typed_calls::write(&place, id, deed, None, None, &Vec::from_iter(fields));
        let ending = match visit(shared, self.daemon, Duration::ZERO, call).await {
            Visit::Nobody => Ending::Refused,
            Visit::Lost => Ending::Unknown,
            Visit::Answered(answer) => typed_calls::ending_of(answer.status.as_u16()),
        };
        shared.note(format_args!("act {} {} {ending:?}", self.daemon, id.0));
        lock(&shared.typed).end(id, ending, elapsed());
    }

    fn call(&self, method: Method, name: &Name, body: Bytes) -> Call {
        let level = self.quorum.then(|| ("isochrone-consistency", "quorum".to_owned()));
        request(method, &path(name), &Vec::from_iter(level), body)
    }

    async fn write(&self, shared: &Shared, name: &Name, deed: ValueDeed, call: Call) {
        let id = lock(&shared.history).begin(self.daemon, name, deed);
        let fate = match visit(shared, self.daemon, Duration::ZERO, call).await {
            Visit::Nobody => Fate::Refused,
            Visit::Lost => Fate::Unknown,
            Visit::Answered(answer) => answer.fate(),
        };
        shared.note(format_args!("write {} {} {fate:?}", self.daemon, id.0));
        lock(&shared.history).end(id, fate);
    }

    async fn read(&self, shared: &Shared, name: &Name) {
        let Visit::Answered(answer) = visit(shared, self.daemon, Duration::ZERO, self.call(Method::GET, name, Bytes::new())).await else {
            return;
        };
        shared.note(format_args!("read {} {}/{} {}", self.daemon, name.0, name.1, answer.status.as_u16()));
        if answer.status == StatusCode::OK || answer.is_absence() {
            lock(&shared.history).read(self.daemon, name, None, shown_of(&answer).as_ref());
        }
    }
}

fn shown_of(answer: &Answer) -> Option<Shown> {
    let version = answer.version().filter(|_| answer.status == StatusCode::OK)?;
    Some(Shown { version, value: Some(answer.body.clone()) })
}
