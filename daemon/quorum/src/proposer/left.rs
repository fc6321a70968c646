//! Q10: "nothing happened" and "outcome unknown", told apart by what has left.

use serde::{Deserialize, Serialize};

use crate::Change;

/// Whether an accept has left for a wish, in this daemon or in one that had it before. Once it has, nothing takes that back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left(bool);

/// Why nothing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Because {
    /// No quorum answered in time.
    #[error("no quorum answered in time")]
    NoQuorum,
    /// Too much waits for this key here.
    #[error("too many requests wait for this key")]
    Busy,
}

/// How an operation failed. Made by [`Left::failure`] alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    /// This try has changed nothing and never will (503).
    #[error("nothing happened: {0}")]
    NothingHappened(Because),
    /// An accept has left: it may be chosen, now or later (504). Safe to try again with the same request id, anywhere.
    #[error("the outcome is unknown")]
    OutcomeUnknown,
}

impl Left {
    /// Nothing has left.
    pub const NOTHING: Self = Self(false);
    /// An accept has left, or may have: a daemon that was given the wish has not said what became of it.
    pub const SOMEWHERE: Self = Self(true);

    /// How an operation fails that ends here.
    #[must_use]
    pub const fn failure(self, because: Because) -> Failure {
        if self.0 { Failure::OutcomeUnknown } else { Failure::NothingHappened(because) }
    }
}

/// What is wanted of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Want {
    /// Its value: no promise, nothing written where replicas agree (Q9).
    Read,
    /// Its value, and a promise for the write that will follow (Q8, `for=update`). An identity round where replicas do not agree.
    ReadForUpdate,
    /// A write.
    Change(Change),
}

/// What is wanted, and what has come of it so far. Goes from daemon to daemon when it is handed over (Q13).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// What is wanted.
    pub want: Want,
    /// What has left for it.
    pub left: Left,
    /// Whether its request id may have been tried elsewhere, so that an accept of that try may linger: a client that names its own ids may always
    /// have (Q7).
    pub is_repeat: bool,
    /// Whether it was handed over already: once is enough. Set, it stays where it is.
    pub handed_over: bool,
}

impl Wish {
    /// The wish as it goes on after it was handed over, and nothing came back: of a change it can no longer be said that nothing happened (Q10), and an
    /// accept of it may linger (Q7). It stays where it is submitted now.
    #[must_use]
    pub fn lost(self) -> Self {
        match self.want {
            Want::Change(_) => Self { left: Left::SOMEWHERE, is_repeat: true, handed_over: true, ..self },
            Want::Read | Want::ReadForUpdate => Self { handed_over: true, ..self },
        }
    }

    /// Whether an accept of an earlier try may be somewhere.
    pub(super) fn may_linger(&self) -> bool {
        self.is_repeat || self.left != Left::NOTHING
    }
}

impl From<Want> for Wish {
    fn from(want: Want) -> Self {
        Self { want, left: Left::NOTHING, is_repeat: false, handed_over: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q10_nothing_happened_only_while_no_accept_has_left() {
        assert_eq!(Left::NOTHING.failure(Because::Busy), Failure::NothingHappened(Because::Busy));
        for because in [Because::Busy, Because::NoQuorum] {
            assert_eq!(Left::SOMEWHERE.failure(because), Failure::OutcomeUnknown);
        }
    }
}
