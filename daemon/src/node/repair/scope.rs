//! What two nodes compare.

use std::sync::Arc;

use isochrone_config::Keeping;
use isochrone_ident::{Epoch, Namespace, NodeId, Slot};

use crate::node::view::View;

/// What one node may take from another: the rows that it needs, and the other holds in full. Evictable namespaces are left out, since replicas need not hold the
/// same of them.
pub(super) struct Scope {
    view: Arc<View>,
    asker: NodeId,
    answerer: NodeId,
    only: Option<Namespace>,
}

impl Scope {
    pub(super) const fn new(view: Arc<View>, asker: NodeId, answerer: NodeId, only: Option<Namespace>) -> Self {
        Self { view, asker, answerer, only }
    }

    /// The placement phase in which this holds.
    pub(super) fn phase(&self) -> Epoch {
        self.view.phase_number()
    }

    /// Whether a namespace's rows in a slot are compared.
    pub(super) fn counts(&self, slot: Slot, ns: &Namespace) -> bool {
        self.is_asked_for(slot, ns) && self.view.is_full(self.answerer, ns, slot)
    }

    /// Whether the asker needs a namespace's rows in a slot, and the answerer does not hold them in full.
    pub(super) fn is_lent(&self, slot: Slot, ns: &Namespace) -> bool {
        self.is_asked_for(slot, ns) && !self.view.is_full(self.answerer, ns, slot)
    }

    fn is_asked_for(&self, slot: Slot, ns: &Namespace) -> bool {
        self.only.as_ref().is_none_or(|only| only == ns)
            && self.view.namespace(ns).is_some_and(|spec| spec.keeping == Keeping::Durable)
            && self.view.needs(self.asker, ns, slot)
    }

    /// Whether there is anything to compare in a slot.
    pub(super) fn is_shared(&self, slot: Slot) -> bool {
        self.view.spec.namespaces().any(|spec| self.counts(slot, &spec.name))
    }
}
