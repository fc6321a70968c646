//! Who a daemon is, and which part of the key space is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Number of slots into which the key space is cut (rule P1). Part of the format: it never changes.
pub const SLOTS: u16 = 4096;

/// A text that is not 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an id is 32 hexadecimal digits, not {0:?}")]
pub struct InvalidId(pub String);

macro_rules! id128 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:032x})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(InvalidId(text.to_owned()));
                }
                u128::from_str_radix(text, 16).map(Self).map_err(|_| InvalidId(text.to_owned()))
            }
        }
    };
}

id128! {
    /// A daemon's identity: made once at its first start, kept in its data directory, carried in its certificate (M1, M2).
    /// Written as 32 hexadecimal digits.
    NodeId
}

id128! {
    /// The identity of one durable store: new whenever the store is new (M1). A lost disk is a new store id.
    StoreId
}

/// How often a node has started: raised and synced before the first message of every start (M1). It only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A placement epoch: the number of a table slot -> replica set that the council ordered (P2). It only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A slot number outside `0..SLOTS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("slot {0} is not below 4096")]
pub struct InvalidSlot(pub u16);

/// One of the [`SLOTS`] parts of the key space (P1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Slot(u16);

impl Slot {
    /// The slot of that number.
    ///
    /// # Errors
    /// [`InvalidSlot`] when the number is not below [`SLOTS`].
    pub const fn new(number: u16) -> Result<Self, InvalidSlot> {
        if number < SLOTS { Ok(Self(number)) } else { Err(InvalidSlot(number)) }
    }

    /// The slot that a 64-bit key hash falls into: its lowest twelve bits.
    #[must_use]
    pub const fn of_hash(hash: u64) -> Self {
        Self((hash % SLOTS as u64) as u16)
    }

    /// The slot's number, below [`SLOTS`].
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }

    /// The slot's number as a table index, below [`SLOTS`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// All slots, in order.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> + ExactSizeIterator {
        (0..SLOTS).map(Self)
    }
}

impl TryFrom<u16> for Slot {
    type Error = InvalidSlot;

    fn try_from(number: u16) -> Result<Self, InvalidSlot> {
        Self::new(number)
    }
}

impl From<Slot> for u16 {
    fn from(slot: Slot) -> Self {
        slot.0
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_it_was_written() {
        let id = NodeId(0x0123_4567_89ab_cdef);
        assert_eq!(id.to_string().parse::<NodeId>(), Ok(id));
        assert_eq!(id.to_string().len(), 32);
    }

    #[test]
    fn an_id_with_a_sign_or_a_wrong_length_is_refused() {
        assert!("+0000000000000000000000000000001".parse::<NodeId>().is_err());
        assert!("12".parse::<StoreId>().is_err());
    }

    #[test]
    fn a_slot_beyond_the_table_does_not_decode() {
        assert_eq!(Slot::new(SLOTS), Err(InvalidSlot(SLOTS)));
        let bytes = postcard::to_allocvec(&SLOTS).expect("encodes");
        assert!(postcard::from_bytes::<Slot>(&bytes).is_err());
    }
}
