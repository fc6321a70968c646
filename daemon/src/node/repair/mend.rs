//! Takes from a peer what a comparison found to be missing here.

use std::collections::BTreeSet;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use isochrone_gossip::Traffic;
use isochrone_ident::Slot;
use isochrone_replica::Entry;

use super::compare::{Asking, Tally};
use crate::node::core::Core;
use crate::node::options::Mutation;
use crate::node::pull::{Name, PulledPage};

/// Keys asked for at a time.
const NAMES_A_PULL: usize = 256;
/// Requests for keys that are under way at the same time.
const PULLS_AT_A_TIME: usize = 4;

/// A key to be pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) slot: Slot,
    pub(super) name: Name,
}

/// From whom a key is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// From a replica that holds its slot in full.
    Replica,
    /// From the daemon that took it. It may hold as well what is long dead: what is stable here is left (E7).
    Taker,
}

impl Core {
    /// Pulls keys from a replica.
    pub(super) async fn mend(&self, asking: &Asking, wanted: &[Wanted], tally: &mut Tally) -> Result<(), String> {
        self.mend_from(asking, Source::Replica, wanted, tally).await
    }

    /// Pulls keys, some at a time.
    pub(super) async fn mend_from(&self, asking: &Asking, source: Source, wanted: &[Wanted], tally: &mut Tally) -> Result<(), String> {
        let pulls: Vec<BoxFuture<'_, _>> = wanted.chunks(NAMES_A_PULL).map(|some| self.mend_some(asking, source, some).boxed()).collect();
        let mut outcomes = futures_util::stream::iter(pulls).buffer_unordered(PULLS_AT_A_TIME);
        let mut outcome = Ok(());
        while let Some((mended, failure)) = outcomes.next().await {
            tally.add(&mended);
            outcome = outcome.and(failure);
        }
        outcome
    }

    /// Pulls some keys page by page. What was taken before a failure counts.
    async fn mend_some(&self, asking: &Asking, source: Source, wanted: &[Wanted]) -> (Tally, Result<(), String>) {
        let (mut tally, mut left) = (Tally::default(), wanted);
        while !left.is_empty() {
            match self.mend_page(asking, source, left, &mut tally).await {
                Ok(looked_at) => left = &left[looked_at..],
                Err(failure) => return (tally, Err(failure)),
            }
        }
        (tally, Ok(()))
    }

    /// Pulls as many of the first keys as fit into a page, and says how many.
    async fn mend_page(&self, asking: &Asking, source: Source, wanted: &[Wanted], tally: &mut Tally) -> Result<usize, String> {
        let names: Vec<Name> = wanted.iter().map(|one| one.name.clone()).collect();
        let page = {
            let _pulling =
                (!self.options.breaks(Mutation::ForgetWhilePulling)).then(|| self.repair.pulling(wanted.iter().map(|one| one.slot)));
            // With the guard up: who is a replica, and what is stable, is judged by what is in force from here on.
            if self.view.load().phase_number() != asking.scope.phase() {
                return Err("the placement has changed".to_owned());
            }
            let stable = self.stable();
            let mut page: PulledPage = self.pull_page(asking.peer, &names, Traffic::Bulk).await?;
            let asked: BTreeSet<&Name> = names.iter().collect();
            let is_dead = |entry: &Entry| {
                source == Source::Taker && entry.record.version.hlc <= stable && !self.options.breaks(Mutation::PullSettled)
            };
            page.entries.retain(|entry| asked.contains(&(entry.ns.clone(), entry.kind, entry.key.clone())) && !is_dead(entry));
            tally.keys_pulled += self.take_pulled(std::mem::take(&mut page.entries)).await?;
            page
        };
        for one in wanted.iter().take(page.looked_at) {
            self.repair.note_mended(asking.peer, one.slot);
        }
        self.account(page.sent, page.received, tally).await;
        Ok(page.looked_at)
    }

    /// Merges states, and says how many keys they changed.
    async fn take_pulled(&self, entries: Vec<Entry>) -> Result<u64, String> {
        if entries.is_empty() {
            return Ok(0);
        }
        self.check_namespaces(&entries)?;
        self.observe_times(&entries)?;
        let committed = self.store.commit(self.merge_set(entries)).await.map_err(|e| e.to_string())?;
        let changed = committed.outcomes.iter().filter(|outcome| outcome.taken).count() as u64;
        metrics::counter!("isochrone_repair_keys_pulled_total").increment(changed);
        Ok(changed)
    }
}
