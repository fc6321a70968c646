//! The acceptor (Q3 to Q6, Q14, Q16, Q18): takes a request and what is on disk, gives rows to write and answers that may leave once those are synced.
//!
//! ```text
//!   request, configuration, View ──> take ──> rows ──> the disk, in groups ──> synced(place) ──> answers
//!                                      └────> answers that saw nothing unsynced, at once
//! ```

mod rows;
mod slots;
mod takes;

use std::collections::BTreeMap;

use isochrone_ident::Slot;

use rows::{PageBounds, Staged};
pub use rows::{Place, Row, SlotState, View};

use crate::{Answer, Configuration, Member, Mutation, Nack, Phase, Request, Told, Why};

/// Bounds of an acceptor.
#[derive(Debug, Clone, Copy)]
pub struct AcceptorOptions {
    /// Keys of one page of a listing, at least 1.
    pub page_keys: usize,
    /// Bytes of one page of a listing, about; a key that is larger is a page by itself.
    pub page_bytes: usize,
    /// A rule that is broken on purpose. `None` in every real daemon.
    #[doc(hidden)]
    pub mutation: Option<Mutation>,
}

impl Default for AcceptorOptions {
    fn default() -> Self {
        Self { page_keys: 256, page_bytes: 1 << 20, mutation: None }
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
///
/// A request for which the caller has no room (a full disk, a long queue) is dropped *before* it is taken, and is then as if the network had lost it. Once
/// taken, its rows must be written: later requests have seen them.
#[derive(Debug, Clone)]
pub struct Acceptor<T> {
    me: Member,
    options: AcceptorOptions,
    staged: Staged,
    last: Place,
    held: BTreeMap<Place, Vec<(T, Answer)>>,
    held_count: usize,
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
        Self { me, options, staged: Staged::default(), last: Place::default(), held: BTreeMap::new(), held_count: 0 }
    }

    /// Takes a request. `known` is the newest configuration of its slot that the council has told this daemon; where it is newer than what the
    /// slot has adopted, it is adopted first (Q4).
    pub fn take(&mut self, view: &impl View, known: Option<&Configuration>, to: T, request: Request) -> Effects<T> {
        let slot = request.scope.slot;
        let mine = self.staged.slot(view, slot);
        let needed = mine.map_or(request.scope.phase, |mine| mine.phase.max(request.scope.phase));
        let Some(known) = known.filter(|known| known.phase >= needed) else {
            return Effects { rows: Vec::new(), place: None, answers: Vec::new(), unlearned: Some((to, request)) };
        };
        let (mut rows, state) = self.adopt_rows(mine, known);
        let adopted = self.write(&rows, false);
        let taken = self.decide(view, known, state, &request);
        let own = self.write(&taken.rows, taken.is_volatile);
        let seen = if taken.is_volatile { None } else { self.staged.unsynced(slot, request.ask.key()) };
        if !taken.is_volatile {
            rows.extend(taken.rows);
        }
        let answer = Answer { from: self.me, tag: request.tag, told: taken.told };
        let answers = self.hold(seen, to, answer);
        Effects { place: own.or(adopted), rows, answers, unlearned: None }
    }

    /// The phase of a slot here, what is not synced included; `None` when this store has never seen the slot.
    #[must_use]
    pub fn phase(&self, view: &impl View, slot: Slot) -> Option<Phase> {
        self.staged.slot(view, slot).map(|state| state.phase)
    }

    /// Holds an answer until that place is synced; gives it back when it need not wait.
    fn hold(&mut self, until: Option<Place>, to: T, answer: Answer) -> Vec<(T, Answer)> {
        let Some(until) = until else { return vec![(to, answer)] };
        self.held.entry(until).or_default().push((to, answer));
        self.held_count += 1;
        Vec::new()
    }

    /// Adopts a configuration that the council has told, without a request (Q4, Q14h): leavers delete what they hold. Nothing where the slot
    /// has adopted it already.
    pub fn adopt(&mut self, view: &impl View, known: &Configuration) -> Effects<T> {
        let (rows, _) = self.adopt_rows(self.staged.slot(view, known.slot), known);
        let place = self.write(&rows, false);
        Effects { rows, place, answers: Vec::new(), unlearned: None }
    }

    /// The disk has synced everything up to `through`: these answers may leave.
    pub fn synced(&mut self, through: Place) -> Vec<(T, Answer)> {
        self.staged.synced(through);
        let mut answers = Vec::new();
        while self.held.first_key_value().is_some_and(|(place, _)| *place <= through) {
            answers.extend(self.held.pop_first().into_iter().flat_map(|(_, answers)| answers));
        }
        self.held_count -= answers.len();
        answers
    }

    /// A sync failed: what is on disk is unknown, so this acceptor ends and the process with it (Q3). No answer leaves any more.
    pub fn failed(self) {
        drop(self);
    }

    /// Answers that wait for the disk.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.held_count
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

    const fn page_bounds(&self) -> PageBounds {
        PageBounds { keys: self.options.page_keys, bytes: self.options.page_bytes }
    }

    fn breaks(&self, mutation: Mutation) -> bool {
        self.options.mutation == Some(mutation)
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
