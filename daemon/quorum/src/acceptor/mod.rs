//! The acceptor (Q3 to Q6, Q14, Q16, Q18): takes a request and what is on disk, gives rows to write and answers that may leave once those are synced.
//!
//! ```text
//!   request, configuration, View ──> take ──> rows ──> the disk, in groups ──> synced(place) ──> answers
//!                                      └────> answers that saw nothing unsynced, at once
//! ```

mod rows;
mod slots;
mod takes;

use std::collections::VecDeque;

use isochrone_ident::Slot;

use rows::Staged;
pub use rows::{Place, Row, SlotState, View};

use crate::{Answer, Ask, Configuration, KeyName, Member, Mutation, Nack, Phase, Request, Told, Why};

/// Bounds of an acceptor.
#[derive(Debug, Clone, Copy)]
pub struct AcceptorOptions {
    /// Keys of one page of a listing.
    pub page_keys: usize,
    /// A rule that is broken on purpose. `None` in every real daemon.
    #[doc(hidden)]
    pub mutation: Option<Mutation>,
}

impl Default for AcceptorOptions {
    fn default() -> Self {
        Self { page_keys: 256, mutation: None }
    }
}

/// What came of a request. `T` is where its answer goes, as the caller names it.
#[derive(Debug)]
pub struct Effects<T> {
    /// To be written, in this order, after everything that was given before.
    pub rows: Vec<Row>,
    /// The place of those rows, to be named to [`Acceptor::synced`]; `None` when there are none.
    pub place: Option<Place>,
    /// May leave now.
    pub answers: Vec<(T, Answer)>,
    /// Of a phase that the caller has not learned: it asks the council for the slot's configuration and then gives the request again (Q4).
    pub unlearned: Option<(T, Request)>,
}

/// The acceptor of one store. It holds nothing but what is not synced yet: the rest is read through a [`View`] at every request.
///
/// What is told before it is durable can be forgotten after others have relied on it (Q3). So an answer is held here until the disk has synced
/// the rows that it rests on, those of earlier requests that it has seen included.
#[derive(Debug)]
pub struct Acceptor<T> {
    me: Member,
    options: AcceptorOptions,
    staged: Staged,
    last: Place,
    held: VecDeque<(Place, T, Answer)>,
}

/// What a request made: rows, and what to say once they are durable.
struct Taken {
    rows: Vec<Row>,
    told: Told,
    /// A broken rule: the rows are remembered and never written.
    is_volatile: bool,
}

impl Taken {
    fn unchanged(told: Told) -> Self {
        Self { rows: Vec::new(), told, is_volatile: false }
    }

    fn after(rows: Vec<Row>, told: Told) -> Self {
        Self { rows, told, is_volatile: false }
    }
}

impl<T> Acceptor<T> {
    /// The acceptor of this member's store, at a start.
    #[must_use]
    pub fn new(me: Member, options: AcceptorOptions) -> Self {
        Self { me, options, staged: Staged::default(), last: Place::default(), held: VecDeque::new() }
    }

    /// Takes a request. `known` is the newest configuration of its slot that the council has told this daemon; where it is newer than what the
    /// slot has adopted, it is adopted first (Q4).
    pub fn take(&mut self, view: &impl View, known: Option<&Configuration>, to: T, request: Request) -> Effects<T> {
        let slot = request.scope.slot;
        let mine = self.staged.slot(view, slot).map(|state| state.phase);
        let needed = mine.map_or(request.scope.phase, |mine| mine.max(request.scope.phase));
        let Some(known) = known.filter(|known| known.phase >= needed) else {
            return Effects { rows: Vec::new(), place: None, answers: Vec::new(), unlearned: Some((to, request)) };
        };
        let mut rows = self.adopt_rows(view, known);
        let place = self.write(&rows, false);
        let key = request.ask.key().cloned();
        let taken = self.decide(view, known, &request);
        let own = self.write(&taken.rows, taken.is_volatile);
        if !taken.is_volatile {
            rows.extend(taken.rows);
        }
        let answer = Answer { from: self.me, tag: request.tag, told: taken.told };
        let is_unsynced = !taken.is_volatile && self.staged.is_unsynced(slot, key.as_ref());
        let mut answers = Vec::new();
        match own.or(place).or(is_unsynced.then_some(self.last)) {
            Some(place) => self.held.push_back((place, to, answer)),
            None => answers.push((to, answer)),
        }
        Effects { place: own.or(place), rows, answers, unlearned: None }
    }

    /// Adopts a configuration that the council has told, without a request (Q4, Q14h): leavers delete what they hold. Nothing where the slot
    /// has adopted it already.
    pub fn adopt(&mut self, view: &impl View, known: &Configuration) -> Effects<T> {
        let rows = self.adopt_rows(view, known);
        let place = self.write(&rows, false);
        Effects { rows, place, answers: Vec::new(), unlearned: None }
    }

    /// The disk has synced everything up to `through`: these answers may leave, in the order of their requests.
    pub fn synced(&mut self, through: Place) -> Vec<(T, Answer)> {
        self.staged.synced(through);
        let mut answers = Vec::new();
        while self.held.front().is_some_and(|(place, ..)| *place <= through) {
            answers.extend(self.held.pop_front().map(|(_, to, answer)| (to, answer)));
        }
        answers
    }

    /// A sync failed: what is on disk is unknown, so this acceptor ends and the process with it (Q3). No answer leaves any more.
    pub fn failed(self) {
        drop(self);
    }

    /// Answers that wait for the disk.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Gives rows a place and remembers them. `None` when there is nothing to write.
    fn write(&mut self, rows: &[Row], is_volatile: bool) -> Option<Place> {
        if rows.is_empty() {
            return None;
        }
        let place = if is_volatile { Place::NEVER } else { Place(self.last.0 + 1) };
        for row in rows {
            self.staged.stage(row, place);
        }
        if is_volatile {
            return None;
        }
        self.last = place;
        Some(place)
    }

    fn breaks(&self, mutation: Mutation) -> bool {
        self.options.mutation == Some(mutation)
    }
}

impl Ask {
    /// The key that it is about; `None` when about the slot.
    #[must_use]
    pub const fn key(&self) -> Option<&KeyName> {
        match self {
            Self::Prepare { key, .. } | Self::Accept { key, .. } | Self::Read { key } | Self::Erase { key, .. } => Some(key),
            Self::Copy { key, .. } => key.as_ref(),
            Self::SlotPrepare { .. } | Self::Seal | Self::List { .. } | Self::SetFloor { .. } => None,
        }
    }
}

/// A refusal as a whole answer.
fn refuse(why: Why, phase: Phase, state: &SlotState, key_promised: crate::Ballot) -> Taken {
    Taken::unchanged(Told::Refused(Nack { why, phase, promised: key_promised.max(state.promised), floor: state.floor }))
}

/// A request about a slot that the acceptor is asked to decide on, after the checks of Q4.
struct Case<'a> {
    slot: Slot,
    state: SlotState,
    request: &'a Request,
}
