//! Which requests are answered at all (Q4), and prepare, accept and read (Q5, Q6, Q9).

use super::rows::{Row, SlotState, View};
use super::slots::{Carried, done};
use super::{Acceptor, Case, Taken, refuse};
use crate::{Accepted, Ask, Ballot, Configuration, KeyName, KeyState, Mutation, Request, Told, Why};

impl<T> Acceptor<T> {
    /// What a request makes of the slot, which has adopted `known`.
    pub(super) fn decide(&self, view: &impl View, known: &Configuration, state: SlotState, request: &Request) -> Taken {
        let slot = known.slot;
        if let Some(why) = self.objection(known, request, &state) {
            return refuse(why, state.phase, &state, self.promised(view, request));
        }
        let key = request.ask.key();
        let own = key.and_then(|key| self.staged.key(view, slot, key));
        self.answer(view, &Case { slot, state, request }, own)
    }

    /// Q4: why a request is not looked at.
    fn objection(&self, known: &Configuration, request: &Request, state: &SlotState) -> Option<Why> {
        let scope = request.scope;
        if scope.phase < state.phase && !self.breaks(Mutation::NoPhaseCheck) {
            Some(Why::Phase)
        } else if state.joined.is_none() {
            Some(Why::NotMember)
        } else if scope.table != known.table && !self.breaks(Mutation::NoPhaseCheck) {
            Some(Why::Table)
        } else {
            None
        }
    }

    fn promised(&self, view: &impl View, request: &Request) -> Ballot {
        let key = request.ask.key().and_then(|key| self.staged.key(view, request.scope.slot, key));
        key.map_or(Ballot::NONE, |key| key.promised)
    }

    fn answer(&self, view: &impl View, case: &Case<'_>, held: Option<KeyState>) -> Taken {
        let state = &case.state;
        let own = held.clone().unwrap_or_default();
        match &case.request.ask {
            Ask::Prepare { key, ballot } => self.prepare(case, key, own, *ballot),
            Ask::Accept { key, record, next } => self.accept(case, key, own, record, *next),
            Ask::Read { .. } => Taken::unchanged(Told::Shown { state: own, floor: state.floor }),
            Ask::SlotPrepare { ballot, after } => self.slot_prepare(view, case, *ballot, after.as_ref()),
            Ask::Seal => Taken::unchanged(done(state)),
            Ask::List { after } => Taken::unchanged(self.page(view, case, state, after.as_ref())),
            Ask::Copy { .. } | Ask::SetFloor { .. } | Ask::Erase { .. } if case.is_out_of_phase() => {
                refuse(Why::Phase, state.phase, state, own.promised)
            }
            Ask::Copy { key, record, promised, slot_promised, floor } => {
                let carried = Carried { record: record.as_ref(), promised: *promised, slot_promised: *slot_promised, floor: *floor };
                self.copy(case, key.as_ref(), &own, &carried)
            }
            Ask::SetFloor { floor } => self.set_floor(case, *floor),
            Ask::Erase { key, ballot, floor } => self.erase(case, key, held, *ballot, *floor),
        }
    }

    /// Q5: refuses what is not above the floor, the effective promise and what was accepted; else promises.
    fn prepare(&self, case: &Case<'_>, key: &KeyName, own: KeyState, ballot: Ballot) -> Taken {
        let state = &case.state;
        if ballot.counter <= state.floor && !self.breaks(Mutation::NoFloor) {
            return refuse(Why::Floor, state.phase, state, own.promised);
        }
        if ballot <= own.promised.max(state.promised) || ballot <= own.ballot() {
            return refuse(Why::Promised, state.phase, state, own.promised);
        }
        let told = Told::Promised { accepted: own.accepted.clone(), floor: state.floor };
        let row = Row::Key(case.slot, key.clone(), KeyState { promised: ballot, ..own });
        Taken { rows: vec![row], told, is_volatile: self.breaks(Mutation::VolatilePromise) }
    }

    /// Q6: refuses what is below the floor, the effective promise or what was accepted. The same ballot again only raises the promise.
    fn accept(&self, case: &Case<'_>, key: &KeyName, own: KeyState, record: &Accepted, next: Option<Ballot>) -> Taken {
        let state = &case.state;
        let ballot = record.ballot;
        let of_slot = if self.breaks(Mutation::NoEffectivePromise) { Ballot::NONE } else { state.promised };
        if ballot.counter <= state.floor && !self.breaks(Mutation::NoFloor) {
            return refuse(Why::Floor, state.phase, state, own.promised);
        }
        if ballot < own.promised.max(of_slot) || ballot < own.ballot() {
            return refuse(Why::Promised, state.phase, state, own.promised);
        }
        let next = next.filter(|next| *next > ballot);
        if ballot == own.ballot() {
            return self.repeated(case, key, own, next);
        }
        let raised = next.unwrap_or(ballot);
        let promised = if self.breaks(Mutation::NoPromiseOnAccept) { own.promised } else { raised.max(own.promised) };
        let row = Row::Key(case.slot, key.clone(), KeyState { promised, accepted: Some(record.clone()) });
        Taken::after(vec![row], Told::Accepted { promised_next: next.is_some() })
    }

    /// An accept of what was accepted: its promise of `next` counts only when it is kept (Q6).
    fn repeated(&self, case: &Case<'_>, key: &KeyName, own: KeyState, next: Option<Ballot>) -> Taken {
        let effective = own.promised.max(case.state.promised);
        match next {
            Some(_) if self.breaks(Mutation::HollowRepeat) => Taken::unchanged(Told::Accepted { promised_next: true }),
            Some(next) if next > effective => {
                let row = Row::Key(case.slot, key.clone(), KeyState { promised: next, ..own });
                Taken::after(vec![row], Told::Accepted { promised_next: true })
            }
            next => Taken::unchanged(Told::Accepted { promised_next: next == Some(effective) }),
        }
    }
}

impl Case<'_> {
    /// Copies belong to moves (Q14), floors and erasures to rest (Q16).
    fn is_out_of_phase(&self) -> bool {
        matches!(self.request.ask, Ask::Copy { .. }) != self.state.phase.is_joint()
    }
}
