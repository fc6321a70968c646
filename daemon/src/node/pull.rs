//! Fetching the states of named keys from another node's store: where a write arrived that rests on what is missing here (E2), and whatever else
//! a node finds that it lacks.

use bytes::Bytes;
use isochrone_gossip::{Call, Traffic};
use isochrone_ident::{Hlc, Key, Kind, Namespace, NodeId};
use isochrone_replica::Entry;

use super::core::{Core, lock};
use super::view::View;
use super::wire::{self, PullAnswer, PullRequest};

/// The name of a key.
pub(crate) type Name = (Namespace, Kind, Key);

/// Names in one request, at most: 64 KiB of short keys.
const NAMES_MAX: usize = 512;

/// What a node holds of the keys that it was asked for.
#[derive(Debug, Default)]
pub(crate) struct Pulled {
    /// The states. A key that the node does not hold is left out.
    pub(crate) entries: Vec<Entry>,
    /// What was stable at that node before it looked (E7).
    pub(crate) stable_through: Hlc,
}

/// What fits into one answer.
#[derive(Debug)]
pub(crate) struct PulledPage {
    /// The states of those of the first `looked_at` keys that the node holds.
    pub(crate) entries: Vec<Entry>,
    /// For how many keys this answers; at least one.
    pub(crate) looked_at: usize,
    /// What was stable at that node before it looked (E7).
    pub(crate) stable_through: Hlc,
    /// Bytes of the question.
    pub(crate) sent: usize,
    /// Bytes of the answer.
    pub(crate) received: usize,
}

impl Core {
    /// What `node` holds of some keys, in as many requests as that takes.
    ///
    /// # Errors
    /// A text for the log; nothing was stored.
    pub(crate) async fn pull(&self, node: NodeId, names: &[Name], class: Traffic) -> Result<Pulled, String> {
        let mut pulled = Pulled { entries: Vec::new(), stable_through: Hlc(u64::MAX) };
        let mut left = names;
        while !left.is_empty() {
            let page = self.pull_page(node, left, class).await?;
            left = &left[page.looked_at..];
            pulled.entries.extend(page.entries);
            pulled.stable_through = pulled.stable_through.min(page.stable_through);
        }
        Ok(pulled)
    }

    /// What `node` holds of the first of some keys, as many as fit into one answer. There must be one at least.
    ///
    /// # Errors
    /// A text for the log; nothing was stored.
    pub(crate) async fn pull_page(&self, node: NodeId, names: &[Name], class: Traffic) -> Result<PulledPage, String> {
        let asked = &names[..names.len().min(NAMES_MAX)];
        let body = wire::encode(&PullRequest { names: asked.to_vec() });
        let sent = body.len();
        let call = Call { service: wire::PULL, class, deadline: self.options.read_deadline, body, retries: true };
        let bytes = self.mesh.call(node, call).await.map_err(|e| format!("{node}: {e}"))?;
        let PullAnswer { entries, looked_at, stable_through } = wire::decode(&bytes)?;
        let looked_at = usize::try_from(looked_at).unwrap_or(usize::MAX);
        if looked_at == 0 || looked_at > asked.len() {
            return Err(format!("{node} answered for {looked_at} of {} keys", asked.len()));
        }
        Ok(PulledPage { entries, looked_at, stable_through, sent, received: bytes.len() })
    }

    /// Answers [`Core::pull`], until a page is full, and for one key at least.
    pub(crate) fn answer_pull(&self, body: &[u8]) -> Result<Bytes, String> {
        let request: PullRequest = wire::decode(body)?;
        // Before the store is looked at: what is stable now is in it, or was beaten by something that is.
        let stable_through = lock(&self.horizon).stable_through();
        let (mut entries, mut looked_at, mut bytes) = (Vec::new(), 0, 0);
        for (ns, kind, key) in request.names.into_iter().take(NAMES_MAX) {
            let slot = View::slot(&ns, key.as_bytes());
            let record = self.store.get(slot, &ns, kind, key.as_bytes()).map_err(|e| e.to_string())?;
            looked_at += 1;
            if let Some(record) = record {
                bytes += record.bytes() + key.as_bytes().len();
                entries.push(Entry { ns, kind, key, record });
            }
            if bytes >= self.options.repair.page_bytes {
                break;
            }
        }
        let answer = wire::encode(&PullAnswer { entries, looked_at, stable_through });
        super::repair::count_bytes(answer.len(), body.len());
        Ok(answer)
    }
}
