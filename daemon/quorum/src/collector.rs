//! Q16: forgetting tombstones, some keys of a slot at a time, when nobody can need them any more. Needs every replica: one that is away delays it.
//!
//! ```text
//!   Showing: all n show the same tombstone, no request of which can be tried again (a, b)
//!     ──> Raising: all n refuse every ballot up to F (c) ──> Confirming: all n show it still, nothing promised above F
//!           ──> Erasing (d) ──> Ended
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isochrone_ident::WallMicros;

use crate::{
    Answer, Ask, Asker, Ballot, Bounds, Configuration, Content, KeyName, KeyState, Member, Mutation, Request, RoundId, Tag, Told, Votes,
};

/// Bounds of a collection.
#[derive(Debug, Clone, Copy)]
pub struct CollectorOptions {
    /// Bounds of registers, and of clocks.
    pub bounds: Bounds,
    /// After this time without an end, requests are sent again, in microseconds.
    pub resend_micros: u64,
    /// Times that they are sent again before the collection is given up, for this time.
    pub resends: u32,
    /// A rule that is broken on purpose. `None` in every real daemon.
    #[doc(hidden)]
    pub mutation: Option<Mutation>,
}

impl Default for CollectorOptions {
    fn default() -> Self {
        Self { bounds: Bounds::default(), resend_micros: 500_000, resends: 8, mutation: None }
    }
}

/// What a collector wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // Nearly all are requests, which are sent at once.
pub enum CollectOutput {
    /// Send a request; its answer goes to [`Collector::answer`].
    Send {
        /// To whom.
        to: Member,
        /// What.
        request: Request,
    },
    /// Call [`Collector::late`] after this many microseconds.
    After {
        /// How long from now.
        micros: u64,
    },
    /// The collection has ended.
    Ended {
        /// Keys that every replica has forgotten.
        forgotten: usize,
        /// Replicas that had not answered when it was given up.
        missing: BTreeSet<Member>,
    },
}

/// Keys of one collection, at most.
pub const COLLECTION_KEYS_MAX: usize = 4096;

/// A step is a stage times this, plus the key's place: answers to an earlier stage mean nothing any more.
const STAGE_STEPS: u32 = 1 << 24;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Showing,
    Raising,
    Confirming,
    Erasing,
    Ended,
}

/// What replicas have shown of a key in this stage.
#[derive(Debug, Default)]
struct Candidate {
    ballot: Ballot,
    /// The highest number that was shown of it.
    floor: u64,
    shown: BTreeMap<Member, KeyState>,
    /// Who has shown or answered in this stage.
    answered: Votes,
    erased: Votes,
}

/// The driver of one collection: some keys of a slot, in one STABLE configuration.
#[derive(Debug)]
pub struct Collector {
    id: RoundId,
    options: CollectorOptions,
    configuration: Arc<Configuration>,
    now: WallMicros,
    stage: Stage,
    keys: Vec<(KeyName, Candidate)>,
    floor: u64,
    raised: Votes,
    /// Keys about which somebody has not answered in this stage.
    unanswered: usize,
    resends: u32,
}

impl Collector {
    /// A collection of the first [`COLLECTION_KEYS_MAX`] of those keys, begun at `now`. No other collector of this daemon's life has that number.
    #[must_use]
    pub fn new(number: u64, options: CollectorOptions, configuration: Arc<Configuration>, keys: Vec<KeyName>, now: WallMicros) -> Self {
        let keys: Vec<_> = keys.into_iter().take(COLLECTION_KEYS_MAX).map(|key| (key, Candidate::default())).collect();
        let (id, stage) = (RoundId::new(Asker::Collector, number), Stage::Showing);
        let unanswered = keys.len();
        Self { id, options, configuration, now, stage, keys, floor: 0, raised: Votes::NOBODY, unanswered, resends: 0 }
    }

    /// What its messages carry as their [`Tag::round`].
    #[must_use]
    pub const fn round(&self) -> RoundId {
        self.id
    }

    /// Q16b: asks all n to show the keys. Ends at once in JOINT, or without keys.
    pub fn start(&mut self) -> Vec<CollectOutput> {
        let mut out = Vec::new();
        if self.configuration.phase.is_joint() || self.keys.is_empty() {
            self.end(&mut out);
        } else {
            self.ask(&mut out);
        }
        out
    }

    /// The time of [`CollectOutput::After`] has passed: who has not answered is asked again, a few times.
    pub fn late(&mut self) -> Vec<CollectOutput> {
        let mut out = Vec::new();
        if self.stage == Stage::Ended {
            return out;
        }
        self.resends += 1;
        if self.resends > self.options.resends {
            self.end(&mut out);
        } else {
            self.ask(&mut out);
        }
        out
    }

    /// An acceptor has answered.
    pub fn answer(&mut self, answer: Answer) -> Vec<CollectOutput> {
        let mut out = Vec::new();
        if answer.tag.round != self.id || answer.tag.step / STAGE_STEPS != self.stage as u32 {
            return out;
        }
        let at = (answer.tag.step % STAGE_STEPS) as usize;
        match (self.stage, answer.told) {
            (Stage::Showing | Stage::Confirming, Told::Shown { state, floor }) => self.on_shown(at, answer.from, state, floor, &mut out),
            (Stage::Raising, Told::Done { floor, .. }) => self.on_raised(answer.from, floor, &mut out),
            (Stage::Erasing, told) => self.on_erased(at, answer.from, &told, &mut out),
            // Another phase, or a replica that does not count itself in: not now.
            (_, Told::Refused(_)) => self.end(&mut out),
            _ => {}
        }
        out
    }

    fn on_shown(&mut self, at: usize, from: Member, state: KeyState, floor: u64, out: &mut Vec<CollectOutput>) {
        if !self.note(at, from) {
            return;
        }
        let candidate = &mut self.keys[at].1;
        candidate.floor = candidate.floor.max(state.height()).max(floor);
        candidate.shown.insert(from, state);
        if self.unanswered > 0 {
            return;
        }
        let (stage, floor, now, options) = (self.stage, self.floor, self.now, self.options);
        self.keys.retain_mut(|(_, candidate)| match stage {
            Stage::Showing => candidate.is_forgettable(now, &options),
            _ => candidate.is_unchanged(floor),
        });
        if stage == Stage::Showing {
            // Above what is forgotten, and no higher: a floor takes away every promise below it, of keys that are in use as well.
            self.floor = self.keys.iter().map(|(_, candidate)| candidate.floor).max().unwrap_or(0);
        }
        let next = if stage == Stage::Showing { Stage::Raising } else { Stage::Erasing };
        self.enter(next, out);
    }

    /// Somebody has answered about a key in this stage. False where that says nothing: it does not count, or the key is none.
    fn note(&mut self, at: usize, from: Member) -> bool {
        let vote = self.configuration.vote_of(from);
        let Some(before) = self.keys.get(at).map(|(_, candidate)| candidate.answered) else { return false };
        let after = before | vote;
        self.keys[at].1.answered = after;
        self.unanswered -= usize::from(!self.is_everybody(before) && self.is_everybody(after));
        vote != Votes::NOBODY
    }

    fn on_raised(&mut self, from: Member, floor: u64, out: &mut Vec<CollectOutput>) {
        if floor >= self.floor || self.options.mutation == Some(Mutation::NoFloor) {
            self.raised |= self.configuration.vote_of(from);
        }
        if self.is_everybody(self.raised) {
            self.enter(Stage::Confirming, out);
        }
    }

    fn on_erased(&mut self, at: usize, from: Member, told: &Told, out: &mut Vec<CollectOutput>) {
        if !self.note(at, from) {
            return;
        }
        if matches!(told, Told::Done { .. }) {
            self.keys[at].1.erased |= self.configuration.vote_of(from);
        }
        if self.unanswered == 0 {
            self.end(out);
        }
    }

    fn enter(&mut self, stage: Stage, out: &mut Vec<CollectOutput>) {
        if self.keys.is_empty() {
            return self.end(out);
        }
        self.stage = stage;
        for (_, candidate) in &mut self.keys {
            candidate.answered = Votes::NOBODY;
            if stage == Stage::Confirming {
                candidate.shown.clear();
            }
        }
        self.unanswered = self.keys.len();
        self.ask(out);
    }

    /// Asks those who have not answered in this stage.
    fn ask(&self, out: &mut Vec<CollectOutput>) {
        let everybody = self.configuration.everybody();
        if self.stage == Stage::Raising {
            let missing = self.configuration.those(everybody.without(self.raised));
            missing.for_each(|to| out.push(self.request(to, 0, Ask::SetFloor { floor: self.floor })));
        } else {
            for (at, (key, candidate)) in self.keys.iter().enumerate() {
                let missing = self.configuration.those(everybody.without(candidate.answered));
                missing.for_each(|to| out.push(self.request(to, at, self.ask_of(key, candidate))));
            }
        }
        out.push(CollectOutput::After { micros: self.options.resend_micros });
    }

    fn ask_of(&self, key: &KeyName, candidate: &Candidate) -> Ask {
        match self.stage {
            Stage::Erasing => Ask::Erase { key: key.clone(), ballot: candidate.ballot, floor: self.floor },
            _ => Ask::Read { key: key.clone() },
        }
    }

    fn request(&self, to: Member, at: usize, ask: Ask) -> CollectOutput {
        let at = u32::try_from(at).unwrap_or(STAGE_STEPS - 1);
        let step = self.stage as u32 * STAGE_STEPS + at;
        CollectOutput::Send { to, request: Request { scope: self.configuration.scope(), tag: Tag { round: self.id, step }, ask } }
    }

    fn is_everybody(&self, votes: Votes) -> bool {
        match self.options.mutation {
            Some(Mutation::ForgetByMajority) => self.configuration.is_quorum(votes),
            _ => votes.contains(self.configuration.everybody()),
        }
    }

    fn end(&mut self, out: &mut Vec<CollectOutput>) {
        if self.stage == Stage::Ended {
            return;
        }
        let everybody = self.configuration.everybody();
        let silent = |candidate: &Candidate| everybody.without(if self.stage == Stage::Raising { self.raised } else { candidate.answered });
        let missing = self.keys.iter().fold(Votes::NOBODY, |missing, (_, candidate)| missing | silent(candidate));
        let missing = self.configuration.those(missing).collect();
        let forgotten = self.keys.iter().filter(|(_, candidate)| candidate.erased.contains(everybody)).count();
        self.stage = Stage::Ended;
        out.push(CollectOutput::Ended { forgotten, missing });
    }
}

impl Candidate {
    /// Q16a, b: all show one ballot, and its tombstone is past every retry. Or all show nothing but promises.
    fn is_forgettable(&mut self, now: WallMicros, options: &CollectorOptions) -> bool {
        let Some(first) = self.shown.values().next() else { return false };
        self.ballot = first.ballot();
        let is_over = first.accepted.as_ref().is_none_or(|accepted| match options.mutation {
            Some(Mutation::ForgetEarly) => accepted.envelope.content == Content::Tombstone,
            _ => accepted.envelope.is_forgettable(now, options.bounds.skew_micros),
        });
        is_over && self.shown.values().all(|state| state.ballot() == self.ballot)
    }

    /// Q16c: all show the same still, and nothing promised above the floor.
    fn is_unchanged(&self, floor: u64) -> bool {
        let is_below = |state: &KeyState| state.promised.counter <= floor;
        self.shown.values().all(|state| state.ballot() == self.ballot && is_below(state))
    }
}
