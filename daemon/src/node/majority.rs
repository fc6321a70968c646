//! Level `quorum` in eventual namespaces: a write is answered once a majority of the key's replicas have it durably, and a read asks a majority, so
//! the two always meet. A replica that is found behind is mended before the read is answered, so that the next quorum read sees no less.
//!
//! While a slot moves, a write needs a majority of the old replicas *and* of the new ones; a read needs one of those that hold everything.

use std::borrow::Cow;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use isochrone_edge::{Level, Refusal, Source};
use isochrone_gossip::{Call, Traffic};
use isochrone_ident::{Namespace, NodeId, Slot};
use isochrone_replica::{Entry, Record, Sequence};
use tokio::time::Instant;

use super::core::{Core, lock};
use super::find::{Found, Wanted, join};
use super::options::Mutation;
use super::view::View;
use super::wire::{self, MendRequest, ReadAnswer};

/// Whether those that satisfy `has` are a majority of each set.
fn is_majority(sets: &[Vec<NodeId>], has: impl Fn(NodeId) -> bool) -> bool {
    sets.iter().all(|set| 2 * set.iter().filter(|&&n| has(n)).count() > set.len())
}

impl Core {
    /// Whether a majority of the replicas can be reached, as far as this node knows: asked before anything is applied.
    pub(crate) fn check_majority(&self, view: &View, ns: &Namespace, slot: Slot) -> Result<(), Refusal> {
        let sets = view.write_sets(ns, slot);
        if is_majority(&sets, |node| node == self.id() || self.mesh.is_connected(node)) {
            return Ok(());
        }
        metrics::counter!("isochrone_node_refused_total", "reason" => "no_quorum").increment(1);
        let away: Vec<String> =
            sets.iter().flatten().filter(|&&n| n != self.id() && !self.mesh.is_connected(n)).map(NodeId::to_string).collect();
        Err(Refusal::NoQuorum { detail: Cow::Owned(format!("no connection to {}", away.join(", "))) })
    }

    /// Waits until a majority of the replicas have everything that this node took up to `through`, its own store included.
    ///
    /// # Errors
    /// [`Refusal::OutcomeUnknown`]: the write is durable here, and will reach them all.
    pub(crate) async fn await_majority(&self, ns: &Namespace, slot: Slot, through: Sequence, deadline: Instant) -> Result<(), Refusal> {
        let mut acknowledged = self.acknowledged.subscribe();
        loop {
            acknowledged.borrow_and_update();
            let sets = self.view.load().write_sets(ns, slot);
            let has = |node| node == self.id() || self.has_acknowledged(node, through);
            if is_majority(&sets, has) {
                return Ok(());
            }
            if !matches!(tokio::time::timeout_at(deadline, acknowledged.changed()).await, Ok(Ok(()))) {
                metrics::counter!("isochrone_node_quorum_timeouts_total", "of" => "write").increment(1);
                let detail = "it is durable here, and was not acknowledged by a majority of the replicas in time";
                return Err(Refusal::OutcomeUnknown { detail: detail.into() });
            }
        }
    }

    fn has_acknowledged(&self, peer: NodeId, through: Sequence) -> bool {
        lock(&self.delivery).has(peer, through)
    }

    /// Finds a key's state at level `quorum`.
    pub(crate) async fn find_at_majority(&self, view: &View, wanted: &Wanted<'_>) -> Result<Found, Refusal> {
        let replicas = view.replicas(wanted.ns, wanted.slot).read;
        let deadline = wanted.deadline.min(Instant::now() + self.options.read_deadline);
        let answers = self.ask_majority(&replicas, wanted, deadline).await?;
        let newest = answers.iter().fold(None, |newest, (_, answer)| join(newest, answer.record.clone()));
        if let Some(newest) = &newest {
            self.mend_majority(&replicas, wanted, &answers, newest, deadline).await?;
        }
        let age_ms = answers.iter().filter_map(|(_, answer)| answer.age_ms).min();
        Ok(Found { record: newest, age_ms, region: self.me.region.clone(), source: Source::ForwardedRequest, level: Level::Quorum })
    }

    /// The answers of a majority of the replicas.
    async fn ask_majority(
        &self,
        replicas: &[NodeId],
        wanted: &Wanted<'_>,
        deadline: Instant,
    ) -> Result<Vec<(NodeId, ReadAnswer)>, Refusal> {
        let request = wanted.request(None);
        let mut asked: FuturesUnordered<_> = replicas.iter().map(|&node| self.ask_one(node, request.clone(), deadline)).collect();
        let (mut answers, mut failures) = (Vec::new(), Vec::new());
        while let Some((node, answer)) = asked.next().await {
            match answer {
                Ok(answer) => answers.push((node, answer)),
                Err(failure) => failures.push(failure),
            }
            if 2 * answers.len() > replicas.len() {
                return Ok(answers);
            }
        }
        metrics::counter!("isochrone_node_quorum_timeouts_total", "of" => "read").increment(1);
        Err(Refusal::NoQuorum { detail: Cow::Owned(failures.join("; ")) })
    }

    async fn ask_one(&self, node: NodeId, request: Bytes, deadline: Instant) -> (NodeId, Result<ReadAnswer, String>) {
        if node != self.id() {
            return (node, self.ask(node, request, deadline).await);
        }
        let own = self.answer_read(node, &request, deadline).await;
        (node, own.and_then(|bytes| wire::decode(&bytes)).map_err(|e| format!("this node: {e}")))
    }

    /// Sends the newest state to those that were found behind, and waits until a majority has it.
    async fn mend_majority(
        &self,
        replicas: &[NodeId],
        wanted: &Wanted<'_>,
        answers: &[(NodeId, ReadAnswer)],
        newest: &Record,
        deadline: Instant,
    ) -> Result<(), Refusal> {
        let is_behind = |answer: &ReadAnswer| answer.record.as_ref().is_none_or(|held| held.is_older_than(newest));
        let behind: Vec<NodeId> = answers.iter().filter(|(_, answer)| is_behind(answer)).map(|(node, _)| *node).collect();
        let mut have = answers.len() - behind.len();
        if behind.is_empty() {
            return Ok(());
        }
        metrics::counter!("isochrone_node_read_repairs_total").increment(behind.len() as u64);
        let entry = Entry { ns: wanted.ns.clone(), kind: wanted.kind, key: wanted.key.clone(), record: newest.clone() };
        let body = wire::encode(&MendRequest { entry });
        let mut mending: FuturesUnordered<_> = behind.into_iter().map(|node| self.mend_one(node, body.clone(), deadline)).collect();
        let mut failures = Vec::new();
        while 2 * have <= replicas.len() {
            match mending.next().await {
                Some(Ok(())) => have += 1,
                Some(Err(failure)) => failures.push(failure),
                None => return Err(Refusal::NoQuorum { detail: Cow::Owned(failures.join("; ")) }),
            }
        }
        Ok(())
    }

    async fn mend_one(&self, node: NodeId, body: Bytes, deadline: Instant) -> Result<(), String> {
        if node == self.id() {
            return self.answer_mend(&body).await.map(drop);
        }
        let budget = deadline.saturating_duration_since(Instant::now());
        let call = Call { service: wire::MEND, class: Traffic::Foreground, deadline: budget, body, retries: false };
        self.mesh.call(node, call).await.map(drop).map_err(|e| format!("{node}: {e}"))
    }

    /// Takes a state that a quorum read found newer than this node's.
    ///
    /// One that is not later than what is stable here is left alone (E7): this node has had all writes up to there, so what it lacks of them was beaten
    /// by something later, perhaps by a delete that it has forgotten since, and the state may have been on its way for long. The check and the
    /// forgetting are in order: the commit is queued before any later one that forgets.
    pub(crate) async fn answer_mend(&self, body: &[u8]) -> Result<Bytes, String> {
        let MendRequest { entry } = wire::decode(body)?;
        let is_settled = entry.record.version.hlc <= self.stable();
        if is_settled && !self.options.breaks(Mutation::AcceptStaleRepair) {
            return Ok(Bytes::new());
        }
        let view = self.view.load_full();
        if !view.needs(self.id(), &entry.ns, View::slot(&entry.ns, entry.key.as_bytes())) {
            return Err("not a replica of this key; the epochs differ".to_owned());
        }
        let entries = vec![entry];
        self.observe_times(&entries)?;
        self.store.commit(self.merge_set(entries)).await.map_err(|e| e.to_string())?;
        Ok(Bytes::new())
    }
}
