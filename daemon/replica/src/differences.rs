//! What becomes of a row on which two replicas differ (E6, E7).
//!
//! All repair is a *pull* by the side that lacks something. A state that is sent unasked may arrive after a tombstone that beat it has been forgotten, and would
//! come back; who pulls knows what it may have forgotten:
//!
//! - It forgets nothing in a slot from before it asks for a state until that state is stored. So what it has forgotten, it had forgotten before it asked, when that
//!   was stable: durable at every replica, the other one included. A replica that is asked afterwards can't show a state that a forgotten tombstone beat.
//! - What both are about to forget is no difference: who has forgotten it first does not take it back. A *live* row at or below the stable time that one side lacks
//!   is damage, a lost or corrupt record, and is pulled.
//! - This holds for a source that is a replica. Another one, a daemon that took writes and holds them until they are delivered, may hold what is long dead as
//!   well: from it only what is later than the stable time is taken ([`Grounds::is_later`]).
//!
//! What is simply on its way, because the daemon that took it has not told that it was sent, is left to arrive, unless the comparison is forced.

use std::cmp::Ordering;

use isochrone_ident::{Hlc, Kind, Version, WallMicros};

use crate::Item;

/// A row on which two replicas differ, as each of them tells it. One of them may lack it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Differing<'a> {
    /// Here.
    pub mine: Option<&'a Item>,
    /// At the other replica.
    pub theirs: Option<&'a Item>,
}

/// What a replica knows when it judges differences: each as it was *before* it looked at its own rows.
#[derive(Debug, Clone, Copy)]
pub struct Grounds {
    /// The wall time.
    pub now: WallMicros,
    /// How far clocks may be apart, in milliseconds (E8).
    pub skew_ms: u64,
    /// No write at or before this time can still arrive anywhere (E7).
    pub stable: Hlc,
    /// Whether to pull what may be on its way as well.
    pub forced: bool,
}

/// What to do about a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// They have what we lack: it is to be pulled.
    Pull,
    /// They have what we lack, and it is on its way.
    OnItsWay,
    /// They lack what we have, and pull it when they compare. `overdue`: it was stable, so they had it once.
    Theirs {
        /// Whether that is damage rather than delay.
        overdue: bool,
    },
    /// Both are about to forget it.
    Settled,
}

impl Grounds {
    /// Whether a row is about to be forgotten wherever it is: it can't be seen, and nothing that contradicts it can still arrive (E7, E8). A typed
    /// state stays for the skew bound once more, as long as a late writer may find it open.
    #[must_use]
    pub fn is_settled(&self, item: &Item, kind: Kind) -> bool {
        item.version.hlc <= self.stable
            && item.gone_at.is_some_and(|at| match kind {
                Kind::Value => at.plus_millis(self.skew_ms) <= self.now,
                Kind::Counter | Kind::Set | Kind::Map | Kind::Register => {
                    at.plus_millis(self.skew_ms.saturating_mul(2)) < self.stable.wall()
                }
            })
    }

    /// Whether a row may be taken from a source that is no replica.
    #[must_use]
    pub fn is_later(&self, item: &Item) -> bool {
        item.version.hlc > self.stable
    }

    /// Judges a difference in a key of that kind. `arrived` says whether a write of that version must have arrived here: its daemon has said so, or is no
    /// member any more.
    #[must_use]
    pub fn judge(&self, differing: &Differing<'_>, kind: Kind, arrived: impl Fn(Version) -> bool) -> Verdict {
        let settled = |item: Option<&Item>| item.is_none_or(|item| self.is_settled(item, kind));
        if settled(differing.mine) && settled(differing.theirs) {
            return Verdict::Settled;
        }
        let later = |mine: &Item| Verdict::Theirs { overdue: mine.version.hlc <= self.stable };
        match (differing.mine, differing.theirs) {
            (None, None) => Verdict::Settled,
            (Some(mine), None) => later(mine),
            // Of a typed state each side may hold what the other lacks, whoever's version is later.
            (Some(mine), Some(theirs)) if kind == Kind::Value && mine.version > theirs.version => later(mine),
            (_, Some(theirs)) if self.forced || arrived(theirs.version) => Verdict::Pull,
            (_, Some(_)) => Verdict::OnItsWay,
        }
    }
}

/// The rows on which two buckets differ, in the order of their names. Both lists may come in any order; of a name that is told twice the first counts.
#[must_use]
pub fn differing_items<'a>(mine: &'a [Item], theirs: &'a [Item]) -> Vec<Differing<'a>> {
    let (mut mine, mut theirs) = (by_name(mine).into_iter().peekable(), by_name(theirs).into_iter().peekable());
    let mut differences = Vec::new();
    loop {
        let order = match (mine.peek(), theirs.peek()) {
            (None, None) => return differences,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => a.name.cmp(&b.name),
        };
        let found = Differing { mine: mine.next_if(|_| order.is_le()), theirs: theirs.next_if(|_| order.is_ge()) };
        if found.mine.map(|item| item.fingerprint) != found.theirs.map(|item| item.fingerprint) {
            differences.push(found);
        }
    }
}

fn by_name(items: &[Item]) -> Vec<&Item> {
    let mut sorted: Vec<&Item> = items.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    sorted.dedup_by(|later, kept| later.name == kept.name);
    sorted
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::Fingerprint;

    fn item(name: &'static str, state: u128, hlc: u64) -> Item {
        let version = Version { hlc: Hlc::at(WallMicros(hlc * 1000)), ..Version::default() };
        Item { name: Bytes::from_static(name.as_bytes()), fingerprint: Fingerprint(state), version, gone_at: None }
    }

    fn gone(at_ms: u64, hlc: u64) -> Item {
        Item { gone_at: Some(WallMicros(at_ms * 1000)), ..item("k", u128::from(hlc), hlc) }
    }

    /// At 10 s, with everything up to 5 s stable and a skew bound of half a second.
    const GROUNDS: Grounds = Grounds { now: WallMicros(10_000_000), skew_ms: 500, stable: Hlc::at(WallMicros(5_000_000)), forced: false };

    fn judge(mine: Option<&Item>, theirs: Option<&Item>, kind: Kind, arrived: bool) -> Verdict {
        GROUNDS.judge(&Differing { mine, theirs }, kind, |_| arrived)
    }

    #[test]
    fn rows_that_differ_are_found_whichever_side_has_them() {
        let mine = [item("same", 1, 1), item("mine", 1, 1), item("newer", 1, 5), item("tied", 1, 1)];
        let theirs = [item("theirs", 1, 1), item("tied", 2, 1), item("newer", 2, 1), item("same", 1, 1)];
        let told: Vec<_> = differing_items(&mine, &theirs).into_iter().map(|found| (found.mine, found.theirs)).collect();
        let expected =
            [(Some(&mine[1]), None), (Some(&mine[2]), Some(&theirs[2])), (None, Some(&theirs[0])), (Some(&mine[3]), Some(&theirs[1]))];
        assert_eq!(told, expected);
    }

    #[test]
    fn e6_what_is_on_its_way_is_left_to_arrive_unless_the_comparison_is_forced() {
        let (older, newer) = (item("k", 1, 6000), item("k", 2, 7000));
        for mine in [None, Some(&older)] {
            assert_eq!(judge(mine, Some(&newer), Kind::Value, false), Verdict::OnItsWay);
            assert_eq!(judge(mine, Some(&newer), Kind::Value, true), Verdict::Pull);
            let forced = Grounds { forced: true, ..GROUNDS };
            assert_eq!(forced.judge(&Differing { mine, theirs: Some(&newer) }, Kind::Value, |_| false), Verdict::Pull);
        }
    }

    #[test]
    fn e6_what_they_lack_they_pull_and_what_is_stable_they_had() {
        assert_eq!(judge(Some(&item("k", 1, 7000)), None, Kind::Value, true), Verdict::Theirs { overdue: false });
        assert_eq!(judge(Some(&item("k", 1, 4000)), None, Kind::Value, true), Verdict::Theirs { overdue: true });
        assert_eq!(judge(Some(&item("k", 1, 7000)), Some(&item("k", 2, 6000)), Kind::Value, true), Verdict::Theirs { overdue: false });
        assert_eq!(judge(Some(&item("k", 1, 7000)), Some(&item("k", 2, 6000)), Kind::Set, true), Verdict::Pull, "it may hold what we lack");
    }

    #[test]
    fn e7_a_stable_tombstone_is_not_taken_back_and_a_stable_value_that_is_missing_is() {
        assert_eq!(judge(None, Some(&gone(0, 4000)), Kind::Value, true), Verdict::Settled);
        assert_eq!(judge(Some(&gone(0, 4000)), None, Kind::Value, true), Verdict::Settled);
        assert_eq!(judge(None, Some(&item("k", 1, 4000)), Kind::Value, true), Verdict::Pull, "damage");
        assert_eq!(judge(Some(&item("k", 1, 3000)), Some(&gone(0, 4000)), Kind::Value, true), Verdict::Pull, "we missed a delete");
        assert_eq!(judge(None, Some(&gone(0, 6000)), Kind::Value, true), Verdict::Pull, "it may still beat something");
    }

    #[test]
    fn e8_what_has_expired_and_is_stable_is_not_taken_back() {
        assert_eq!(judge(None, Some(&gone(9_500, 4000)), Kind::Value, true), Verdict::Settled);
        assert_eq!(judge(None, Some(&gone(9_501, 4000)), Kind::Value, true), Verdict::Pull, "within the skew bound it is seen");
        assert_eq!(judge(None, Some(&gone(3_999, 3000)), Kind::Counter, true), Verdict::Settled);
        assert_eq!(judge(None, Some(&gone(4_000, 3000)), Kind::Counter, true), Verdict::Pull, "a late writer may find it open");
    }

    #[test]
    fn e7_from_a_source_that_is_no_replica_only_what_is_not_stable_is_taken() {
        assert!(GROUNDS.is_later(&item("k", 1, 5001)));
        assert!(!GROUNDS.is_later(&item("k", 1, 5000)));
    }
}
