//! The side of a comparison that is asked: tells its digests and rows, of what it holds now.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use isochrone_ident::{Hlc, NodeId, Slot};
use isochrone_replica::{GROUPS, Marks, Roots, SlotDigest, Sums};

use super::count_bytes;
use super::scope::Scope;
use super::words::{Ask, CompareRequest, ITEMS_MAX, ItemPage, PARTS_MAX, ROOTS_MAX, Shown};
use crate::node::core::{Core, lock};
use crate::node::options::Mutation;
use crate::node::wire;

/// Told while the digests are not ready.
pub(super) const COUNTING: &str = "the records are still being counted";
/// Rows looked at for what is undelivered in one answer, at most.
const LOOKED_AT_MAX: usize = 16 * ITEMS_MAX;

impl Core {
    /// Answers a node that compares itself with this one.
    pub(crate) async fn answer_compare(self: &Arc<Self>, from: NodeId, body: &[u8]) -> Result<Bytes, String> {
        let request: CompareRequest = wire::decode(body)?;
        let scope = Scope::new(self.view.load_full(), from, self.id(), request.only.clone());
        if scope.phase() != request.phase {
            return Err(format!("this node is in placement phase {}, the comparison is of phase {}", scope.phase(), request.phase));
        }
        let shown = match request.ask {
            Ask::Spans => Shown::Marks(Marks(self.roots(&scope)?.spans().to_vec())),
            Ask::Roots(slots) => Shown::Sums(Sums(self.digests(&scope, slots, ROOTS_MAX, |digest| vec![digest.root()])?)),
            Ask::Groups(slots) => Shown::Marks(Marks(self.digests(&scope, slots, PARTS_MAX, |digest| digest.groups().to_vec())?)),
            Ask::Buckets(groups) => Shown::Sums(Sums(self.buckets(&scope, groups)?)),
            Ask::Items { wanted, after } => Shown::Items(self.item_pages(&scope, wanted, after)?),
            Ask::Undelivered { after } => self.undelivered(&scope, after)?,
            Ask::Look(slots) => Shown::Looked(self.look(from, request.only, slots).await?),
        };
        let answer = wire::encode(&shown);
        count_bytes(answer.len(), body.len());
        Ok(answer)
    }

    /// The roots of all slots.
    pub(super) fn roots(&self, scope: &Scope) -> Result<Roots, String> {
        let roots = self.store.slot_roots(|slot, ns| scope.counts(slot, ns)).ok_or(COUNTING)?;
        Ok(Roots::of(|slot| roots.get(usize::from(slot)).copied().unwrap_or(0)))
    }

    /// The digest of a slot's rows.
    pub(super) fn digest(&self, scope: &Scope, slot: Slot) -> Result<SlotDigest, String> {
        Ok(self.store.slot_digest(slot, |ns| scope.counts(slot, ns)).ok_or(COUNTING)?)
    }

    fn digests<T>(&self, scope: &Scope, slots: Vec<Slot>, max: usize, tell: fn(SlotDigest) -> Vec<T>) -> Result<Vec<T>, String> {
        let mut told = Vec::new();
        for slot in slots.into_iter().take(max) {
            told.extend(tell(self.digest(scope, slot)?));
        }
        Ok(told)
    }

    fn buckets(&self, scope: &Scope, groups: Vec<(Slot, u8)>) -> Result<Vec<u128>, String> {
        let mut sums = Vec::with_capacity(groups.len().min(PARTS_MAX) * GROUPS);
        let mut last: Option<(Slot, SlotDigest)> = None;
        for (slot, group) in groups.into_iter().take(PARTS_MAX) {
            let digest = match last.take() {
                Some((of, digest)) if of == slot => digest,
                _ => self.digest(scope, slot)?,
            };
            sums.extend(digest.buckets(usize::from(group)));
            last = Some((slot, digest));
        }
        Ok(sums)
    }

    fn item_pages(&self, scope: &Scope, wanted: Vec<(Slot, Vec<u8>)>, mut after: Option<Bytes>) -> Result<Vec<ItemPage>, String> {
        let (mut pages, mut left) = (Vec::new(), ITEMS_MAX);
        for (slot, buckets) in wanted.into_iter().take(PARTS_MAX) {
            let after = after.take();
            let page = self.store.scan_buckets(slot, &buckets, |ns| scope.counts(slot, ns), after.as_deref(), left);
            let page = page.map_err(|e| e.to_string())?;
            left = left.saturating_sub(page.items.len());
            let is_partial = page.next.is_some();
            pages.push(ItemPage { items: page.items, next: page.next });
            if is_partial || left == 0 {
                break;
            }
        }
        Ok(pages)
    }

    /// What this node took for the asker's slots and is not sure to have delivered: until then it stays in the store whoever the slot's replicas are. What is
    /// at or below this node's own promise is delivered, and may be long dead.
    fn undelivered(&self, scope: &Scope, after: Option<(Slot, Bytes)>) -> Result<Shown, String> {
        let promised: Hlc = lock(&self.horizon).heard(self.id()).stable_through;
        let promised = if self.options.breaks(Mutation::PullSettled) { Hlc::ZERO } else { promised };
        let all: Vec<u8> = (0..=u8::MAX).collect();
        let (mut items, mut looked_at) = (Vec::new(), 0);
        let first = after.as_ref().map(|(slot, _)| *slot);
        let mut name = after.map(|(_, name)| name);
        for slot in Slot::all().filter(|slot| first.is_none_or(|first| *slot >= first)) {
            let mut place = name.take();
            while self.store.slot_totals(slot).keys > 0 {
                let page = self.store.scan_buckets(slot, &all, |ns| scope.is_lent(slot, ns), place.as_deref(), ITEMS_MAX);
                let page = page.map_err(|e| e.to_string())?;
                looked_at += page.items.len();
                items.extend(page.items.into_iter().filter(|item| item.version.hlc > promised));
                place = page.next;
                match &place {
                    Some(next) if items.len() >= ITEMS_MAX || looked_at >= LOOKED_AT_MAX => {
                        return Ok(Shown::Undelivered(items, Some((slot, next.clone()))));
                    }
                    Some(_) => {}
                    None => break,
                }
            }
            if items.len() >= ITEMS_MAX || looked_at >= LOOKED_AT_MAX {
                return Ok(Shown::Undelivered(items, next_slot(slot)));
            }
        }
        Ok(Shown::Undelivered(items, None))
    }

    /// A peer found in these slots that this node lacks something: compares, and takes it.
    async fn look(&self, peer: NodeId, only: Option<isochrone_ident::Namespace>, slots: Vec<Slot>) -> Result<u64, String> {
        let Ok(_turn) = self.repair.asked.try_acquire() else { return Err("another peer is being compared with".to_owned()) };
        let asking = self.asking(peer, only, true);
        Ok(self.mend_slots(&asking, &slots).await?.keys_pulled)
    }
}

/// Where a listing goes on behind a slot.
fn next_slot(slot: Slot) -> Option<(Slot, Bytes)> {
    let range = (Bound::Excluded(slot.index()), Bound::Unbounded);
    Slot::all().find(|next| std::ops::RangeBounds::contains(&range, &next.index())).map(|next| (next, Bytes::new()))
}
