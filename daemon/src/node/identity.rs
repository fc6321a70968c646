//! Who this node is, kept in its store (M1).

use isochrone_ident::{Epoch, Hlc, Incarnation, NodeId, StoreId, WallMicros};
use isochrone_replica::Sequence;
use isochrone_store::{Durability, FactKey, ReadError, Store, WriteError, WriteSet};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::de::DeserializeOwned;

use super::wire;

const NODE: FactKey = FactKey::fixed("node");
const STORE: FactKey = FactKey::fixed("store");
const INCARNATION: FactKey = FactKey::fixed("incarnation");
/// That a strong store was made beside this one.
const STRONG: FactKey = FactKey::fixed("strong");
/// The latest time of any record that was written.
pub(crate) const HLC_HIGH: FactKey = FactKey::fixed("hlc");
/// The latest time that this node has promised to take nothing at or below.
pub(crate) const PROMISED: FactKey = FactKey::fixed("promised");
/// Up to where the operation log is delivered to every replica.
pub(crate) const TRIMMED: FactKey = FactKey::fixed("trimmed");

/// Up to where of the operation log a peer has everything.
pub(crate) fn cursor(peer: NodeId) -> FactKey {
    FactKey::new(format!("cursor/{peer}")).expect("a prefix and 32 digits are far below the longest name")
}

/// Since when the log has not been kept for a peer that lapsed.
pub(crate) fn lapse(peer: NodeId) -> FactKey {
    FactKey::new(format!("lapse/{peer}")).expect("a prefix and 32 digits are far below the longest name")
}

/// Why a store does not tell who the node is.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The data directory belongs to another node. Nothing was changed.
    #[error(
        "the data directory belongs to node {found}, the certificate to node {expected}: use the certificate of that node, or another data directory"
    )]
    OtherNode {
        /// Whose store it is.
        found: NodeId,
        /// Whose certificate it is.
        expected: NodeId,
    },
    /// The store cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The incarnation could not be made durable; no message may be sent.
    #[error("the start could not be recorded: {0}")]
    Write(#[from] WriteError),
    /// The strong store is gone, and with it what this member has promised to others (Q15).
    #[error(
        "the strong store (strong.redb) is missing or new, although this node has had one: a lost disk is a new member, so remove this node with `isochrone members remove`, empty its data directory and issue a new certificate"
    )]
    StrongLost,
    /// A fact is there but makes no sense.
    #[error("the store's {0} cannot be understood")]
    Malformed(&'static str),
}

/// What the store of a node says at its start.
#[derive(Debug, Clone)]
pub(crate) struct Recalled {
    /// The store's own id.
    pub(crate) store: StoreId,
    /// This start's number.
    pub(crate) incarnation: Incarnation,
    /// No write may be given a time at or below this.
    pub(crate) last: Hlc,
    /// Up to where the operation log is delivered.
    pub(crate) trimmed: Sequence,
}

/// Reads who the node is, makes what is missing, and raises the incarnation; returns once that is on disk.
///
/// # Errors
/// [`IdentityError`]; no message may be sent then.
pub(crate) async fn recall(store: &Store, node: NodeId, seed: u64) -> Result<Recalled, IdentityError> {
    match read::<NodeId>(store, &NODE, "node id")? {
        Some(found) if found != node => return Err(IdentityError::OtherNode { found, expected: node }),
        _ => {}
    }
    let before = read::<Incarnation>(store, &INCARNATION, "incarnation")?.unwrap_or_default();
    let store_id = match read(store, &STORE, "store id")? {
        Some(id) => id,
        // A store that follows another one under the same node id has another id, even from the same seed.
        None => StoreId(StdRng::seed_from_u64(seed ^ 0x5703e ^ before.0.rotate_left(32)).random()),
    };
    let incarnation = Incarnation(before.0 + 1);
    let facts =
        vec![(NODE, Some(wire::encode(&node))), (STORE, Some(wire::encode(&store_id))), (INCARNATION, Some(wire::encode(&incarnation)))];
    store.commit(WriteSet { facts, durability: Durability::AtOnce, ..WriteSet::default() }).await?;
    let written: Hlc = read(store, &HLC_HIGH, "latest time")?.unwrap_or_default();
    let promised: Hlc = read(store, &PROMISED, "promised time")?.unwrap_or_default();
    let trimmed = read(store, &TRIMMED, "trimmed place")?.unwrap_or_default();
    Ok(Recalled { store: store_id, incarnation, last: written.max(promised), trimmed })
}

/// Notes that there is a strong store beside this one, which is new if `is_new`; returns once that is on disk.
///
/// # Errors
/// [`IdentityError::StrongLost`] when there should have been one already; no message may be sent then.
pub(crate) async fn recall_strong(store: &Store, is_new: bool) -> Result<(), IdentityError> {
    match read::<bool>(store, &STRONG, "note of a strong store")? {
        Some(true) if is_new => Err(IdentityError::StrongLost),
        Some(true) => Ok(()),
        _ => {
            let facts = vec![(STRONG, Some(wire::encode(&true)))];
            store.commit(WriteSet { facts, durability: Durability::AtOnce, ..WriteSet::default() }).await?;
            Ok(())
        }
    }
}

/// Makes an empty store go on from where another one of the same node ended (E7): the next start has a higher number (M1), and gives no time at or
/// below `last`. May be repeated; nothing falls.
///
/// # Errors
/// [`IdentityError`].
pub(crate) async fn follow(store: &Store, incarnation: Incarnation, last: Hlc) -> Result<(), IdentityError> {
    let incarnation = incarnation.max(read(store, &INCARNATION, "incarnation")?.unwrap_or_default());
    let last = last.max(read(store, &PROMISED, "promised time")?.unwrap_or_default());
    let facts = vec![(INCARNATION, Some(wire::encode(&incarnation))), (PROMISED, Some(wire::encode(&last)))];
    store.commit(WriteSet { facts, durability: Durability::AtOnce, ..WriteSet::default() }).await?;
    Ok(())
}

/// Up to where a peer had everything, and the placement epoch under which that was said.
pub(crate) fn recall_cursor(store: &Store, peer: NodeId) -> Option<(Epoch, Sequence)> {
    read(store, &cursor(peer), "cursor").ok()?
}

/// Since when the log has not been kept for a peer.
pub(crate) fn recall_lapse(store: &Store, peer: NodeId) -> Option<WallMicros> {
    read(store, &lapse(peer), "lapse").ok()?
}

/// A fact, understood.
pub(crate) fn read<T: DeserializeOwned>(store: &Store, key: &FactKey, what: &'static str) -> Result<Option<T>, IdentityError> {
    let Some(bytes) = store.fact(key)? else { return Ok(None) };
    wire::decode(&bytes).map(Some).map_err(|_| IdentityError::Malformed(what))
}
