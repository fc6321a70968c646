//! What nodes say to each other to find out where they differ (E6).

use bytes::Bytes;
use isochrone_ident::{Epoch, Namespace, Slot};
use isochrone_replica::{Item, Marks, Sums};
use serde::{Deserialize, Serialize};

/// Slots whose roots are asked for at a time.
pub(super) const ROOTS_MAX: usize = 4096;
/// Slots, or groups of buckets, that are asked for at a time.
pub(super) const PARTS_MAX: usize = 1024;
/// Rows told in one answer, at most.
pub(super) const ITEMS_MAX: usize = 2048;

/// Asks another node for its side of a comparison. What is compared follows from who asks whom, and from the placement phase, which both must be in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CompareRequest {
    /// The placement phase of the node that asks.
    pub(crate) phase: Epoch,
    /// Only this namespace.
    pub(crate) only: Option<Namespace>,
    /// What it wants to know.
    pub(crate) ask: Ask,
}

/// One level of a comparison.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// The marks of all spans of slots: [`Shown::Marks`].
    Spans,
    /// The roots of these slots: [`Shown::Sums`], one each.
    Roots(Vec<Slot>),
    /// The marks of the groups of these slots: [`Shown::Marks`], [`isochrone_replica::GROUPS`] each.
    Groups(Vec<Slot>),
    /// The sums of the buckets of these groups: [`Shown::Sums`], [`isochrone_replica::GROUPS`] each.
    Buckets(Vec<(Slot, u8)>),
    /// The rows of these buckets; of the first slot only those after a name: [`Shown::Items`].
    Items {
        /// The slots, each with its buckets.
        wanted: Vec<(Slot, Vec<u8>)>,
        /// Where to go on in the first.
        after: Option<Bytes>,
    },
    /// Rows of slots that the answerer does not hold in full: what it took, and has not delivered everywhere yet: [`Shown::Undelivered`].
    Undelivered {
        /// Where to go on.
        after: Option<(Slot, Bytes)>,
    },
    /// "Compare these slots with me, now": [`Shown::Looked`].
    Look(Vec<Slot>),
}

/// The answer to an [`Ask`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Shown {
    /// 64-bit marks.
    Marks(Marks),
    /// 128-bit roots or sums.
    Sums(Sums),
    /// A page for each of the first slots asked for, one at least; only the last may have more to come.
    Items(Vec<ItemPage>),
    /// Rows, and where to go on if there are more.
    Undelivered(Vec<Item>, Option<(Slot, Bytes)>),
    /// So many keys were changed at the answerer.
    Looked(u64),
}

/// Rows of one slot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ItemPage {
    /// In the order of their names.
    pub(crate) items: Vec<Item>,
    /// The last name up to which rows were told; `None`: up to the slot's end.
    pub(crate) next: Option<Bytes>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::node::wire::decode;

    proptest! {
        #[test]
        fn hostile_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<CompareRequest>(&bytes);
            let _ = decode::<Shown>(&bytes);
        }
    }
}
