//! Under which names this daemon writes to counters, sets, maps and registers (E3).
//!
//! An actor is the node and a *life* of its store, a random number that a lost disk can't know. What is written to a durable namespace is on
//! disk before anybody hears of it, so its actor lives as long as the store does: a new one at every start would make the states
//! grow. What is written to an evictable namespace may be told to peers before it is synced, so an unclean end may lose dots
//! that a peer has seen; after one, a new life begins.

use isochrone_ident::{Incarnation, NodeId};
use isochrone_replica::Actor;
use isochrone_store::{Durability, FactKey, Store, WriteSet};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::identity::IdentityError;
use super::options::{Mutation, NodeOptions};
use super::wire;

const DURABLE_LIFE: FactKey = FactKey::fixed("life/durable");
/// There only between a clean stop and the next start.
const EVICTABLE_LIFE: FactKey = FactKey::fixed("life/evictable");

/// The actors of one run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Actors {
    durable: Actor,
    evictable: Actor,
}

impl Actors {
    /// Finds the lives that go on, draws those that begin; returns once that is on disk, before any dot is given out.
    ///
    /// # Errors
    /// [`IdentityError`]; no write may be taken then.
    pub(crate) async fn recall(
        store: &Store,
        node: NodeId,
        seed: u64,
        incarnation: Incarnation,
        options: &NodeOptions,
    ) -> Result<Self, IdentityError> {
        // One seed may start a node several times.
        let mut rng = StdRng::seed_from_u64(seed ^ 0x11fe ^ incarnation.0.rotate_left(32));
        let durable = super::identity::read(store, &DURABLE_LIFE, "durable life")?.unwrap_or_else(|| rng.random());
        let evictable = super::identity::read(store, &EVICTABLE_LIFE, "evictable life")?.unwrap_or_else(|| rng.random());
        let goes_on = options.breaks(Mutation::ReuseLife).then(|| wire::encode(&evictable));
        let facts = vec![(DURABLE_LIFE, Some(wire::encode(&durable))), (EVICTABLE_LIFE, goes_on)];
        store.commit(WriteSet { facts, durability: Durability::AtOnce, ..WriteSet::default() }).await?;
        Ok(Self { durable: Actor { node, life: durable }, evictable: Actor { node, life: evictable } })
    }

    /// The actor of a write.
    pub(crate) fn of(&self, evictable: bool) -> Actor {
        if evictable { self.evictable } else { self.durable }
    }

    /// Everything written before is synced with this, so the evictable life may go on at the next start: unless writes were lost in this run, whose
    /// dots a peer may have seen.
    pub(crate) async fn close(&self, store: &Store) {
        if store.stats().rollbacks > 0 {
            return;
        }
        let facts = vec![(EVICTABLE_LIFE, Some(wire::encode(&self.evictable.life)))];
        if let Err(error) = store.commit(WriteSet { facts, durability: Durability::AtOnce, ..WriteSet::default() }).await {
            tracing::debug!(%error, "the clean end could not be recorded; the next start begins a new life");
        }
    }
}
