//! E6: what another replica is told of a slot, so that it finds out where the two differ.

use std::ops::Bound;

use bytes::Bytes;
use isochrone_ident::{Key, Kind, Namespace, Slot, WallMicros};
use isochrone_replica::{BUCKETS, DigestKey, Item, SlotDigest, bucket_of};

use crate::codec::{Stored, fingerprint, name_row, namespace_of_row, parse_name_row, parse_record_row, slot_range};
use crate::{ReadError, Store};

/// One page of the records of some buckets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BucketPage {
    /// In the order of their names.
    pub items: Vec<Item>,
    /// Where to go on: the `after` of the next page. `None` at the end.
    pub next: Option<Bytes>,
}

/// Bytes that are no [`Item`]'s name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a record")]
pub struct InvalidItemName;

/// The key that an [`Item`]'s name stands for.
///
/// # Errors
/// [`InvalidItemName`]; the bytes may come from a peer.
pub fn parse_item_name(name: &[u8]) -> Result<(Namespace, Kind, Key), InvalidItemName> {
    parse_name_row(name).map_err(|_| InvalidItemName)
}

/// The name that a key has as an [`Item`]: part of the wire's format.
#[must_use]
pub fn item_name(ns: &Namespace, kind: Kind, key: &[u8]) -> Bytes {
    let mut name = Vec::with_capacity(ns.as_str().len() + 1 + key.len());
    name_row(ns, kind, key, &mut name);
    name.into()
}

impl Store {
    /// Whether the digests say what the store holds. Not until the records have been counted after the open (about a second for a million), and never without
    /// [`StoreOptions::digest_key`](crate::StoreOptions::digest_key).
    #[must_use]
    pub fn digests_ready(&self) -> bool {
        self.shared.digests.is_ready()
    }

    /// The root of every slot's digest over the namespaces that count in it, in order; `None` until they are ready. Each is as some commit has left it, not all as
    /// the same one.
    #[must_use]
    pub fn slot_roots(&self, counts: impl Fn(Slot, &Namespace) -> bool) -> Option<Vec<u128>> {
        let root = |slot| self.shared.digests.of_slot(slot, |ns| counts(slot, ns)).root();
        self.digests_ready().then(|| Slot::all().map(root).collect())
    }

    /// The digest of a slot's durable records in the namespaces that count; `None` until they are ready.
    #[must_use]
    pub fn slot_digest(&self, slot: Slot, counts: impl Fn(&Namespace) -> bool) -> Option<SlotDigest> {
        self.digests_ready().then(|| self.shared.digests.of_slot(slot, counts))
    }

    /// One page of a slot's durable records that fall into these buckets, are of namespaces that count, and come after `after`: at most `limit`, and one at least.
    /// Corrupt records are left out and counted. Reads the slot's records up to the end of the page. Without a digest key there are none.
    ///
    /// # Errors
    /// [`ReadError::Disk`] and [`ReadError::Closed`].
    pub fn scan_buckets(
        &self,
        slot: Slot,
        buckets: &[u8],
        counts: impl Fn(&Namespace) -> bool,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<BucketPage, ReadError> {
        let Some(key) = self.digest_key else { return Ok(BucketPage::default()) };
        let mut wanted = [false; BUCKETS];
        buckets.iter().for_each(|&bucket| wanted[usize::from(bucket)] = true);
        let (first, end) = slot_range(slot);
        let start = [first.as_slice(), after.unwrap_or_default()].concat();
        self.shared.read(|snapshot| {
            let mut page = BucketPage::default();
            let range = (Bound::Excluded(start.as_slice()), Bound::Excluded(end.as_slice()));
            for row in snapshot.records.range::<&[u8]>(range).map_err(|error| self.disk_error(&error.into()))? {
                let (row, sealed) = row.map_err(|error| self.disk_error(&error.into()))?;
                let name = &row.value()[first.len()..];
                if !wanted[usize::from(bucket_of(name))] || !namespace_of_row(row.value()).is_ok_and(|ns| counts(&ns)) {
                    continue;
                }
                page.items.extend(self.item(key, row.value(), sealed.value()));
                if page.items.len() >= limit {
                    page.next = Some(Bytes::copy_from_slice(name));
                    return Ok(page);
                }
            }
            Ok(page)
        })
    }

    fn item(&self, key: DigestKey, row: &[u8], sealed: &[u8]) -> Option<Item> {
        let Ok(stored) = Stored::unseal(row, sealed) else {
            if let Ok((_, ns, kind, key)) = parse_record_row(row) {
                self.corrupt_record(&ns, kind, key.as_bytes());
            }
            return None;
        };
        let name = Bytes::copy_from_slice(row.get(2..)?);
        let gone_at = if stored.is_live() { stored.expires_at() } else { Some(WallMicros(0)) };
        Some(Item { name, fingerprint: fingerprint(key, row, sealed)?, version: stored.version, gone_at })
    }
}
