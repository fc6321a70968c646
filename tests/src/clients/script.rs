//! Requests that a directed scenario makes, each at its time, in place of the clients that draw theirs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use isochrone_ident::Namespace;

use super::calls::{Answer, Call, path, request};
use super::desks::{Visit, visit};
use crate::history::{Deed, Fate, Name, Shown, value_of};
use crate::shared::{Shared, Stage, lock};

/// One request to a key of the namespace `data`.
#[derive(Debug, Clone)]
pub struct Line {
    /// When it is made, counted as faults are.
    pub at: Duration,
    /// The daemon that is asked.
    pub daemon: usize,
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
        let name: Name = (Namespace::new("data").expect("a namespace's name"), self.key.to_owned());
        match self.ask {
            Ask::Put(length) => {
                let value = value_of(lock(&shared.history).next_id(), length);
                let call = self.call(Method::PUT, &name, value.clone());
                self.write(shared, &name, Deed::Put { value, expires: false }, call).await;
            }
            Ask::Delete => {
                let call = self.call(Method::DELETE, &name, Bytes::new());
                self.write(shared, &name, Deed::Delete, call).await;
            }
            Ask::Read => self.read(shared, &name).await,
        }
    }

    fn call(&self, method: Method, name: &Name, body: Bytes) -> Call {
        let level = self.quorum.then(|| ("isochrone-consistency", "quorum".to_owned()));
        request(method, &path(name), &Vec::from_iter(level), body)
    }

    async fn write(&self, shared: &Shared, name: &Name, deed: Deed, call: Call) {
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
