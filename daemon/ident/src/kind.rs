//! The type of a key: each has a key space of its own, so no two regions can ever create one key with two types.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a key holds. The numbers are part of the disk's and the wire's format and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[repr(u8)]
pub enum Kind {
    /// A value, written whole: a last-writer-wins register (`/v1/kv`).
    #[default]
    Value = 0,
    /// A PN-counter (`/v1/counters`).
    Counter = 1,
    /// An observed-remove set (`/v1/sets`).
    Set = 2,
    /// A map of last-writer-wins fields and counters (`/v1/maps`).
    Map = 3,
    /// A multi-value register (`/v1/registers`).
    Register = 4,
}

impl Kind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Value, Self::Counter, Self::Set, Self::Map, Self::Register];

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The kind of that number.
    #[must_use]
    pub const fn of_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Value),
            1 => Some(Self::Counter),
            2 => Some(Self::Set),
            3 => Some(Self::Map),
            4 => Some(Self::Register),
            _ => None,
        }
    }

    /// Its name, in the singular: `value`, `counter`, `set`, `map`, `register`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Value => "value",
            Self::Counter => "counter",
            Self::Set => "set",
            Self::Map => "map",
            Self::Register => "register",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no [`Kind`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a key's type is value, counter, set, map or register, not {0:?}")]
pub struct InvalidKind(pub String);

impl FromStr for Kind {
    type Err = InvalidKind;

    fn from_str(text: &str) -> Result<Self, InvalidKind> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| InvalidKind(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_reads_back_from_its_number_and_from_its_name() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of_number(kind.number()), Some(kind));
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        assert_eq!(Kind::of_number(5), None);
        assert!("list".parse::<Kind>().is_err());
    }
}
