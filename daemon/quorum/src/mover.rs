//! Q14: moving a slot to its next replica set. Every step may be repeated by anybody, so a mover that dies is replaced by a new one.
//!
//! ```text
//!   council 2e -> 2e+1 (a) ──> Sealing: a majority of R_e has adopted 2e+1 (b)
//!                                ──> Listing: the union of their keys (c)
//!                                      ──> Certifying: copies and identity rounds, some keys at a time (d, e) ──> Certified
//!                                                                                  council 2e+1 -> 2e+2 (f) <──┘
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{
    Accepted, Answer, Ask, Asker, Ballot, Configuration, KeyName, KeyState, Member, Mutation, Request, RoundId, Tag, Told, Votes, Why,
    accepted_ballot,
};

const SEAL: u32 = 0;
const LIST: u32 = 1;
const CARRY: u32 = 2;
/// The step of the first key's copy; the others follow in order.
const FIRST_KEY: u32 = 3;

/// Bounds of a move.
#[derive(Debug, Clone, Copy)]
pub struct MoverOptions {
    /// Keys that are certified at a time: what paces a move.
    pub window: usize,
    /// After this time without an end, requests are sent again, in microseconds.
    pub resend_micros: u64,
    /// A rule that is broken on purpose. `None` in every real daemon.
    #[doc(hidden)]
    pub mutation: Option<Mutation>,
}

impl Default for MoverOptions {
    fn default() -> Self {
        Self { window: 16, resend_micros: 500_000, mutation: None }
    }
}

/// What a mover wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // Nearly all are requests, which are sent at once.
pub enum MoveOutput {
    /// Send a request; its answer goes to [`Mover::answer`].
    Send {
        /// To whom.
        to: Member,
        /// What.
        request: Request,
    },
    /// Call [`Mover::late`] after this many microseconds.
    After {
        /// How long from now.
        micros: u64,
    },
    /// Have a proposer that knows the JOINT configuration read the key for update, and tell [`Mover::identified`] how that went (Q14d).
    Identify(KeyName),
    /// Every key is certified: the council may end the move (Q14f).
    Certified,
    /// The slot is in a later phase: this move has ended already.
    Superseded,
}

/// How far a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoveProgress {
    /// Keys that are certified.
    pub certified: usize,
    /// Keys that the sealed majority has listed so far.
    pub listed: usize,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Stage {
    Sealing,
    Listing,
    Certifying,
    Ended,
}

/// What the sealed majority has shown of a key.
#[derive(Debug, Clone, Default)]
struct Listed {
    /// Who has shown it.
    shown: Votes,
    /// Who has shown the highest record.
    holders: Votes,
    best: Option<Accepted>,
    promised: Ballot,
}

/// A key that is being certified.
#[derive(Debug, Clone, Default)]
struct Certifying {
    taken: Votes,
    refused: Votes,
    is_identifying: bool,
}

/// The driver of one slot's move, from one JOINT configuration to the next STABLE one.
#[derive(Debug, Clone)]
pub struct Mover {
    id: RoundId,
    options: MoverOptions,
    configuration: Arc<Configuration>,
    stage: Stage,
    sealed: Votes,
    /// Who is being listed, and from where on; `None` when complete.
    listing: BTreeMap<Member, Option<Option<KeyName>>>,
    keys: BTreeMap<KeyName, Listed>,
    order: Vec<KeyName>,
    next: usize,
    certifying: BTreeMap<usize, Certifying>,
    carried: Votes,
    certified: usize,
    slot_promised: Ballot,
    floor: u64,
}

impl Mover {
    /// A move under that configuration, which is JOINT: one that is not is [`MoveOutput::Superseded`] at once. No other mover of this daemon's life has
    /// that number.
    #[must_use]
    pub fn new(number: u64, options: MoverOptions, configuration: Arc<Configuration>) -> Self {
        Self {
            id: RoundId::new(Asker::Mover, number),
            options,
            configuration,
            stage: Stage::Sealing,
            sealed: Votes::NOBODY,
            listing: BTreeMap::new(),
            keys: BTreeMap::new(),
            order: Vec::new(),
            next: 0,
            certifying: BTreeMap::new(),
            carried: Votes::NOBODY,
            certified: 0,
            slot_promised: Ballot::NONE,
            floor: 0,
        }
    }

    /// What its messages carry as their [`Tag::round`].
    #[must_use]
    pub const fn round(&self) -> RoundId {
        self.id
    }

    /// Q14b: begins with the seals.
    pub fn start(&mut self) -> Vec<MoveOutput> {
        let mut out = Vec::new();
        if self.configuration.next.is_none() {
            self.stage = Stage::Ended;
            return vec![MoveOutput::Superseded];
        }
        self.resend(&mut out);
        out
    }

    /// How far the move is.
    #[must_use]
    pub fn progress(&self) -> MoveProgress {
        MoveProgress { certified: self.certified, listed: self.keys.len() }
    }

    /// The time of [`MoveOutput::After`] has passed: what has not been answered is asked again.
    pub fn late(&mut self) -> Vec<MoveOutput> {
        let mut out = Vec::new();
        self.resend(&mut out);
        out
    }

    /// An acceptor has answered.
    pub fn answer(&mut self, answer: Answer) -> Vec<MoveOutput> {
        let mut out = Vec::new();
        if self.stage == Stage::Ended || answer.tag.round != self.id {
            return out;
        }
        if let Told::Refused(nack) = &answer.told
            && nack.phase > self.configuration.phase
        {
            self.stage = Stage::Ended;
            return vec![MoveOutput::Superseded];
        }
        match answer.tag.step {
            SEAL => self.on_seal(&answer, &mut out),
            LIST => self.on_page(answer, &mut out),
            CARRY => self.on_carried(&answer),
            step => self.on_copied((step - FIRST_KEY) as usize, &answer, &mut out),
        }
        self.end(&mut out);
        out
    }

    /// The read for update of a key has ended: well, so that its value is chosen under JOINT and the key is certified; or not, so that it is tried again.
    pub fn identified(&mut self, key: &KeyName, is_done: bool) -> Vec<MoveOutput> {
        let mut out = Vec::new();
        let Ok(at) = self.order.binary_search(key) else { return out };
        if is_done && self.certifying.remove(&at).is_some() {
            self.certified += 1;
            self.fill_window(&mut out);
        } else if let Some(certifying) = self.certifying.get_mut(&at) {
            // Tried again when requests are: at once, two movers would keep each other from ever ending.
            *certifying = Certifying::default();
        }
        self.end(&mut out);
        out
    }

    fn on_seal(&mut self, answer: &Answer, out: &mut Vec<MoveOutput>) {
        let Told::Done { slot_promised, floor } = answer.told else { return };
        if self.stage != Stage::Sealing {
            return;
        }
        self.raise(slot_promised, floor);
        self.sealed |= self.configuration.vote_of(answer.from);
        if !self.configuration.is_majority_of_current(self.sealed) {
            return;
        }
        if self.options.mutation == Some(Mutation::NoSweep) {
            self.stage = Stage::Certifying;
            self.carried = self.configuration.everybody();
            return;
        }
        self.stage = Stage::Listing;
        self.listing = self.configuration.those(self.sealed).map(|member| (member, Some(None))).collect();
        self.resend(out);
    }

    /// Q14c, e: keys, and what was promised, as the sealed majority shows them.
    fn on_page(&mut self, answer: Answer, out: &mut Vec<MoveOutput>) {
        let Told::Page { slot_promised, floor, keys, more } = answer.told else { return };
        let from = answer.from;
        let Some(Some(after)) = self.listing.get(&from) else { return };
        // A page that came twice, or late, begins before what is expected.
        let is_expected = keys.first().is_none_or(|(first, _)| after.as_ref().is_none_or(|after| first > after));
        if self.stage != Stage::Listing || !is_expected {
            return;
        }
        self.raise(slot_promised, floor);
        let last = keys.last().map(|(key, _)| key.clone());
        let vote = self.configuration.vote_of(from);
        for (key, state) in keys {
            self.keys.entry(key).or_default().add(vote, state);
        }
        match last.filter(|_| more) {
            Some(last) => {
                self.listing.insert(from, Some(Some(last.clone())));
                self.send([from], LIST, &Ask::List { after: Some(last) }, out);
            }
            None => self.listed(from, out),
        }
    }

    fn listed(&mut self, from: Member, out: &mut Vec<MoveOutput>) {
        self.listing.insert(from, None);
        if self.listing.values().any(Option::is_some) {
            return;
        }
        self.stage = Stage::Certifying;
        self.order = self.keys.keys().cloned().collect();
        self.carry(out);
        self.fill_window(out);
    }

    /// Q14e: the slot's promise and floor go along even where no key does.
    fn carry(&self, out: &mut Vec<MoveOutput>) {
        self.send(self.next_set_without(self.carried), CARRY, &self.copy(None), out);
    }

    fn on_carried(&mut self, answer: &Answer) {
        if matches!(answer.told, Told::Done { .. }) {
            self.carried |= self.configuration.vote_of(answer.from);
        }
    }

    fn on_copied(&mut self, at: usize, answer: &Answer, out: &mut Vec<MoveOutput>) {
        let Some(certifying) = self.certifying.get_mut(&at).filter(|certifying| !certifying.is_identifying) else { return };
        let vote = self.configuration.vote_of(answer.from);
        match &answer.told {
            Told::Done { .. } => certifying.taken |= vote,
            Told::Refused(nack) if nack.why == Why::Promised => certifying.refused |= vote,
            _ => return,
        }
        if self.configuration.is_majority_of_next(certifying.taken) {
            self.certifying.remove(&at);
            self.certified += 1;
            self.fill_window(out);
            return;
        }
        if !self.configuration.is_majority_of_next(self.configuration.everybody().without(certifying.refused)) {
            certifying.is_identifying = true;
            out.push(MoveOutput::Identify(self.order[at].clone()));
        }
    }

    /// Begins with as many keys as fit.
    fn fill_window(&mut self, out: &mut Vec<MoveOutput>) {
        while self.certifying.len() < self.options.window.max(1) && self.next < self.order.len() {
            let at = self.next;
            self.next += 1;
            self.certifying.insert(at, Certifying::default());
            self.certify(at, out);
        }
    }

    /// Q14d: copies what a majority of R_e holds. Where that is not the highest that was shown, an identity round: an unconfirmed maximum is never copied.
    fn certify(&mut self, at: usize, out: &mut Vec<MoveOutput>) {
        let key = &self.order[at];
        let listed = &self.keys[key];
        if listed.is_confirmed(&self.configuration, self.sealed) {
            let taken = self.certifying.get(&at).map_or(Votes::NOBODY, |certifying| certifying.taken);
            let step = FIRST_KEY + u32::try_from(at).unwrap_or(u32::MAX - FIRST_KEY);
            self.send(self.next_set_without(taken), step, &self.copy(Some((key, listed))), out);
        } else if let Some(certifying) = self.certifying.get_mut(&at) {
            certifying.is_identifying = true;
            out.push(MoveOutput::Identify(key.clone()));
        }
    }

    fn copy(&self, key: Option<(&KeyName, &Listed)>) -> Ask {
        Ask::Copy {
            key: key.map(|(key, _)| key.clone()),
            record: key.and_then(|(_, listed)| listed.best.clone()),
            promised: key.map_or(Ballot::NONE, |(_, listed)| listed.promised),
            slot_promised: self.slot_promised,
            floor: self.floor,
        }
    }

    /// Asks again for everything that this stage still waits for.
    fn resend(&mut self, out: &mut Vec<MoveOutput>) {
        match self.stage {
            Stage::Sealing => {
                let current = self.configuration.current.iter().map(|replica| replica.member);
                self.send(current, SEAL, &Ask::Seal, out);
            }
            Stage::Listing => {
                for (&member, after) in &self.listing {
                    if let Some(after) = after {
                        self.send([member], LIST, &Ask::List { after: after.clone() }, out);
                    }
                }
            }
            Stage::Certifying => {
                self.carry(out);
                let copying: Vec<usize> =
                    self.certifying.iter().filter(|(_, certifying)| !certifying.is_identifying).map(|(&at, _)| at).collect();
                for at in copying {
                    self.certify(at, out);
                }
            }
            Stage::Ended => return,
        }
        out.push(MoveOutput::After { micros: self.options.resend_micros });
    }

    fn end(&mut self, out: &mut Vec<MoveOutput>) {
        let is_carried = self.configuration.is_majority_of_next(self.carried);
        if self.stage == Stage::Certifying && is_carried && self.certifying.is_empty() && self.next == self.order.len() {
            self.stage = Stage::Ended;
            out.push(MoveOutput::Certified);
        }
    }

    fn raise(&mut self, slot_promised: Ballot, floor: u64) {
        self.slot_promised = self.slot_promised.max(slot_promised);
        self.floor = self.floor.max(floor);
    }

    fn next_set_without(&self, those: Votes) -> impl Iterator<Item = Member> {
        let members = self.configuration.next.iter().flatten().map(|replica| replica.member);
        members.filter(move |&member| !those.has(self.configuration.vote_of(member)))
    }

    fn send(&self, to: impl IntoIterator<Item = Member>, step: u32, ask: &Ask, out: &mut Vec<MoveOutput>) {
        let request = Request { scope: self.configuration.scope(), tag: Tag { round: self.id, step }, ask: ask.clone() };
        out.extend(to.into_iter().map(|to| MoveOutput::Send { to, request: request.clone() }));
    }
}

impl Listed {
    fn add(&mut self, from: Votes, state: KeyState) {
        let (ballot, highest) = (state.ballot(), accepted_ballot(self.best.as_ref()));
        self.promised = self.promised.max(state.promised);
        self.shown |= from;
        if ballot > highest {
            self.best = state.accepted;
            self.holders = from;
        } else if ballot == highest {
            self.holders |= from;
        }
    }

    /// Whether a majority of R_e holds the highest record that was shown, or has shown nothing where nobody has shown anything.
    fn is_confirmed(&self, configuration: &Configuration, sealed: Votes) -> bool {
        let silent = if self.best.is_none() { sealed.without(self.shown) } else { Votes::NOBODY };
        configuration.is_majority_of_current(self.holders | silent)
    }
}
