//! Who a member is, in the words of the pools: foca's identity, renewed by (incarnation, rejoins).

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use isochrone_ident::{Incarnation, NodeId, Region, StoreId, Zone};
use serde::{Deserialize, Serialize};

use crate::wire::Profile;

/// An address that is empty, too long for a datagram, or holds characters that no host:port has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an address has 1 to {max} printable ASCII characters without spaces, not {0:?}", max = Address::BYTES_MAX)]
pub struct InvalidAddress(pub String);

/// Where a daemon can be reached, as host:port: 1 to 128 printable ASCII characters. Cloning shares the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address(Arc<str>);

impl Address {
    /// The longest address, in bytes: a pool's header may hold three identities, and has to fit one datagram.
    pub const BYTES_MAX: usize = 128;

    /// The address, checked.
    ///
    /// # Errors
    /// [`InvalidAddress`] when it is empty, longer than [`Address::BYTES_MAX`], or not printable ASCII.
    pub fn new(text: &str) -> Result<Self, InvalidAddress> {
        let valid = (1..=Self::BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if valid { Ok(Self(text.into())) } else { Err(InvalidAddress(text.chars().take(Self::BYTES_MAX).collect())) }
    }

    /// The address as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Address {
    type Error = InvalidAddress;

    fn try_from(text: String) -> Result<Self, InvalidAddress> {
        Self::new(&text)
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.0.as_ref().to_owned()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

/// One life of a member in a pool (M5). Of two identities with the same node id, the one with the higher
/// (incarnation, rejoins) is the later; a restart therefore replaces whatever was known of the node at once, and a node
/// that was declared down by mistake comes back by raising `rejoins`, without touching the incarnation on its disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// The node: foca's notion of an address.
    pub(crate) node: NodeId,
    /// Its region.
    pub(crate) region: Region,
    /// Its zone in that region.
    pub(crate) zone: Option<Zone>,
    /// Its durable store.
    pub(crate) store: StoreId,
    /// Its start (M1).
    pub(crate) incarnation: Incarnation,
    /// How often it had to come back to the pool within this start. It only grows while the process lives.
    pub(crate) rejoins: u32,
    /// Where it can be dialled.
    pub(crate) address: Address,
}

impl Identity {
    /// The first identity of a daemon's start.
    pub(crate) fn of(profile: &Profile) -> Result<Self, InvalidAddress> {
        Ok(Self {
            node: profile.identity.node,
            region: profile.identity.region.clone(),
            zone: profile.zone.clone(),
            store: profile.store,
            incarnation: profile.incarnation,
            rejoins: 0,
            address: Address::new(&profile.address)?,
        })
    }

    /// A node of which no more is known than the council's word: older than every life of it.
    pub(crate) fn unheard(node: NodeId, region: Region, address: Address) -> Self {
        Self { node, region, zone: None, store: StoreId(0), incarnation: Incarnation(0), rejoins: 0, address }
    }

    /// Orders the lives of one node.
    pub(crate) fn life(&self) -> (Incarnation, u32) {
        (self.incarnation, self.rejoins)
    }

    /// Total order of identities of one node: by life, and by content only so that no two nodes ever judge a conflict differently.
    fn compare(&self, other: &Self) -> Ordering {
        let content = |id: &Self| (id.store, id.address.clone(), id.zone.clone(), id.region.clone());
        self.life().cmp(&other.life()).then_with(|| content(self).cmp(&content(other)))
    }
}

impl foca::Identity for Identity {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        Some(Self { rejoins: self.rejoins.checked_add(1)?, ..self.clone() })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.compare(adversary).is_ge()
    }
}

#[cfg(test)]
mod tests {
    use foca::Identity as _;

    use super::*;

    fn identity(incarnation: u64, rejoins: u32) -> Identity {
        let region = Region::new("eu-west").expect("a name");
        let address = Address::new("10.0.0.1:4000").expect("an address");
        Identity { incarnation: Incarnation(incarnation), rejoins, ..Identity::unheard(NodeId(1), region, address) }
    }

    #[test]
    fn a_restart_beats_any_number_of_rejoins() {
        assert!(identity(2, 0).win_addr_conflict(&identity(1, 77)));
        assert!(!identity(1, 77).win_addr_conflict(&identity(2, 0)));
    }

    #[test]
    fn a_renewed_identity_beats_the_one_before_it_and_keeps_the_incarnation() {
        let before = identity(3, 0);
        let after = before.renew().expect("there is room");
        assert!(after.win_addr_conflict(&before) && !before.win_addr_conflict(&after));
        assert_eq!(after.incarnation, before.incarnation);
        assert_eq!(identity(3, u32::MAX).renew(), None);
    }

    #[test]
    fn an_address_with_spaces_or_of_no_length_is_refused() {
        assert!(Address::new("").is_err());
        assert!(Address::new("a b:1").is_err());
        assert!(Address::new(&"a".repeat(129)).is_err());
        let bytes = postcard::to_allocvec("not an address").expect("encodes");
        assert!(postcard::from_bytes::<Address>(&bytes).is_err());
    }
}
