//! A counter: what each actor has added and taken away in all.

use std::collections::BTreeMap;

use crdts::pncounter::{Dir, Op};
use crdts::{CmRDT, Dot, PNCounter};
use isochrone_ident::Hlc;
use serde::{Deserialize, Serialize};

use super::change::{Actor, ChangeRefused, ClaimId, Stamp, Upkeep};
use super::delta::Clash;

/// The mark that a request left at the actor that counted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim {
    /// When it was counted. The earliest of several with one id counts.
    pub(crate) at: Hlc,
    /// What it added.
    pub(crate) amount: i64,
    /// The revision of the actor's part that it came with.
    pub(crate) revision: u64,
}

/// What one actor has contributed in all. Only that actor changes it, so the higher revision holds all of the lower one, and a sender may leave revisions out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    /// Raised by each change.
    pub(crate) revision: u64,
    /// The latest write.
    pub(crate) latest: Hlc,
    /// The sum of what was added.
    pub(crate) p: u64,
    /// The sum of what was taken away.
    pub(crate) n: u64,
    /// Requests that may be repeated.
    pub(crate) claims: BTreeMap<ClaimId, Claim>,
}

impl Part {
    const NONE: Self = Self { revision: 0, latest: Hlc::ZERO, p: 0, n: 0, claims: BTreeMap::new() };

    fn count(&mut self, amount: i64) -> Result<(), ChangeRefused> {
        let side = if amount < 0 { &mut self.n } else { &mut self.p };
        *side = side.checked_add(amount.unsigned_abs()).ok_or(ChangeRefused::CounterOverflow)?;
        self.revise()
    }

    fn revise(&mut self) -> Result<(), ChangeRefused> {
        self.revision = self.revision.checked_add(1).ok_or(ChangeRefused::Exhausted)?;
        Ok(())
    }
}

/// How much of an actor's part a removal has seen (maps only). Merged by the higher revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Base {
    pub(crate) revision: u64,
    pub(crate) p: u64,
    pub(crate) n: u64,
}

/// What removals have seen of each actor.
pub(crate) type Bases = BTreeMap<Actor, Base>;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Note {
    revision: u64,
    latest: Hlc,
    claims: BTreeMap<ClaimId, Claim>,
}

/// A PN-counter of `crdts` with a note to each actor's part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Counter {
    counts: PNCounter<Actor>,
    notes: BTreeMap<Actor, Note>,
}

impl Counter {
    /// Everything that is known of an actor.
    pub(crate) fn part(&self, actor: &Actor) -> Option<Part> {
        let note = self.notes.get(actor)?;
        let (p, n) = self.counted(actor);
        Some(Part { revision: note.revision, latest: note.latest, p, n, claims: note.claims.clone() })
    }

    /// Each actor with its part, in order.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (Actor, Part)> {
        self.notes.keys().filter_map(|actor| Some((*actor, self.part(actor)?)))
    }

    /// Each actor with its latest write.
    pub(crate) fn latest(&self) -> impl Iterator<Item = (Actor, Hlc)> {
        self.notes.iter().map(|(actor, note)| (*actor, note.latest))
    }

    fn counted(&self, actor: &Actor) -> (u64, u64) {
        let sum = |op: Op<Actor>| op.dot.counter;
        (sum(self.counts.inc_many(*actor, 0)), sum(self.counts.dec_many(*actor, 0)))
    }

    /// Takes an actor's part over where it is newer. `false`: it is known.
    ///
    /// # Errors
    /// [`Clash`] when one actor tells two stories (E3); nothing has changed.
    pub(crate) fn put(&mut self, actor: Actor, part: &Part) -> Result<bool, Clash> {
        let (p, n) = self.counted(&actor);
        if let Some(note) = self.notes.get(&actor) {
            if part.revision < note.revision {
                return Ok(false);
            }
            if part.revision == note.revision {
                let same = (part.p, part.n, part.latest) == (p, n, note.latest) && part.claims == note.claims;
                return if same { Ok(false) } else { Err(Clash) };
            }
        }
        if part.p < p || part.n < n {
            return Err(Clash);
        }
        // E2: the part of an actor is its own sum, so its operations need no order and the crate's validation accepts all.
        self.counts.apply(Op { dot: Dot::new(actor, part.p), dir: Dir::Pos });
        self.counts.apply(Op { dot: Dot::new(actor, part.n), dir: Dir::Neg });
        self.notes.insert(actor, Note { revision: part.revision, latest: part.latest, claims: part.claims.clone() });
        Ok(true)
    }

    pub(crate) fn join(&mut self, other: &Self) -> Result<bool, Clash> {
        let mut changed = false;
        for (actor, part) in other.parts() {
            changed |= self.put(actor, &part)?;
        }
        Ok(changed)
    }

    /// The actor's part after it has counted `add`.
    pub(crate) fn counting(&self, add: i64, claim: Option<ClaimId>, stamp: &Stamp, claims_max: usize) -> Result<Part, ChangeRefused> {
        let mut part = self.part(&stamp.actor).unwrap_or(Part::NONE);
        part.count(add)?;
        part.latest = part.latest.max(stamp.version.hlc);
        if let Some(id) = claim {
            if part.claims.len() >= claims_max {
                return Err(ChangeRefused::TooManyClaims { max: claims_max });
            }
            part.claims.insert(id, Claim { at: stamp.version.hlc, amount: add, revision: part.revision });
        }
        Ok(part)
    }

    pub(crate) fn has_claim(&self, id: &ClaimId) -> bool {
        self.notes.values().any(|note| note.claims.contains_key(id))
    }

    fn claims(&self) -> impl Iterator<Item = (ClaimId, Actor, Claim)> {
        self.notes.iter().flat_map(|(actor, note)| note.claims.iter().map(|(id, claim)| (*id, *actor, *claim)))
    }

    /// What removals find here: all of it.
    pub(crate) fn observed(&self) -> Bases {
        let base = |(actor, note): (&Actor, &Note)| {
            let (p, n) = self.counted(actor);
            (*actor, Base { revision: note.revision, p, n })
        };
        self.notes.iter().map(base).collect()
    }

    /// What is counted beyond what removals have seen, whatever claims say.
    fn counted_beyond(&self, bases: &Bases) -> i128 {
        let one = |actor: &Actor| {
            let (p, n) = self.counted(actor);
            let base = bases.get(actor).copied().unwrap_or_default();
            i128::from(p.saturating_sub(base.p)) - i128::from(n.saturating_sub(base.n))
        };
        self.notes.keys().map(one).sum()
    }

    /// The actor's part once it has dropped what it need not remember; `None` if that is nothing. A claim whose window is over, and that lost against an
    /// earlier one with its id, is taken back for good, which only a counter that no removal ever looks at can do (`settles`). The winner's goes a window later, when the loser
    /// has surely let go of its own.
    pub(crate) fn tidied(&self, upkeep: &Upkeep, lives: &[&Self], settles: bool) -> Option<Part> {
        let mut part = self.part(&upkeep.actor)?;
        let over = |claim: &Claim, windows: u64| {
            let ms = upkeep.claim_ms.saturating_mul(windows).saturating_add(upkeep.skew_ms.saturating_mul(2));
            claim.at.wall().plus_millis(ms) < upkeep.stable.wall()
        };
        let ids: Vec<(ClaimId, Claim)> = part.claims.iter().map(|(id, claim)| (*id, *claim)).collect();
        let mut changed = false;
        for (id, claim) in ids {
            let rivals = || {
                lives
                    .iter()
                    .flat_map(|life| life.claims())
                    .filter(|(other, actor, c)| *other == id && (*actor, *c) != (upkeep.actor, claim))
            };
            let lost = rivals().any(|(_, actor, c)| (c.at, actor) < (claim.at, upkeep.actor));
            if lost && settles && over(&claim, 1) {
                if claim.amount == i64::MIN || part.count(-claim.amount).is_err() {
                    continue;
                }
            } else if rivals().next().is_some() || !over(&claim, 2) {
                continue;
            }
            part.claims.remove(&id);
            changed = true;
        }
        (changed && part.revise().is_ok()).then_some(part)
    }
}

/// The value of a counter over several lives: what each actor counted beyond what removals saw, less the claims that lost against an earlier one with
/// the same id.
pub(crate) fn sum(lives: &[(&Counter, &Bases)]) -> i128 {
    let counted: i128 = lives.iter().map(|(counter, bases)| counter.counted_beyond(bases)).sum();
    counted - lost(lives)
}

fn lost(lives: &[(&Counter, &Bases)]) -> i128 {
    let mut first: BTreeMap<ClaimId, (Hlc, Actor)> = BTreeMap::new();
    let claims = || lives.iter().flat_map(|(counter, bases)| counter.claims().map(move |claim| (claim, *bases)));
    for ((id, actor, claim), _) in claims() {
        let mark = (claim.at, actor);
        let earliest = first.entry(id).or_insert(mark);
        *earliest = mark.min(*earliest);
    }
    let loses = |id: &ClaimId, actor: &Actor, claim: &Claim| first.get(id).is_some_and(|earliest| *earliest != (claim.at, *actor));
    let unseen = |actor: &Actor, claim: &Claim, bases: &Bases| bases.get(actor).is_none_or(|base| claim.revision > base.revision);
    claims()
        .filter(|((id, actor, claim), bases)| loses(id, actor, claim) && unseen(actor, claim, bases))
        .map(|((_, _, claim), _)| i128::from(claim.amount))
        .sum()
}

/// A sum as a client sees it: 64 bits, saturating. No writer lets a counter pass them; regions that count at the same time can.
pub(crate) fn saturated(sum: i128) -> i64 {
    i64::try_from(sum).unwrap_or(if sum < 0 { i64::MIN } else { i64::MAX })
}
