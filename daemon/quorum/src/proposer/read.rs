//! Q9: reads that promise nothing and sync nothing.

use isochrone_ident::WallMicros;

use super::round::{Kind, Round, Running, Stage, Views, read_outcome};
use super::{Began, Output, Proposer};
use crate::{Accepted, Ask, Configuration, Mutation, Votes};

/// Times that a read is refused and tried again before it takes an identity round. Each costs two round trips and a pause: on a long way more of them would use up the time
/// that the identity round needs, which would be given up half way and leave promises in the way of the next read.
const READ_LOSSES_MAX: u32 = 1;

impl Proposer {
    /// Begins a read, or begins it again.
    pub(super) fn begin_read(&mut self, now: WallMicros, round: &mut Round, configuration: &Configuration, out: &mut Vec<Output>) -> bool {
        if round.losses > READ_LOSSES_MAX {
            return self.escalate(now, round, out);
        }
        round.enter(Stage::Reading { views: Views::default() });
        round.trip(Began::Read);
        self.ask_all(configuration, round, &Ask::Read { key: round.key.clone() }, out)
    }

    /// An identity round in place of a read that never found replicas agreed: it takes its turn among the key's writes.
    fn escalate(&mut self, now: WallMicros, round: &mut Round, out: &mut Vec<Output>) -> bool {
        debug_assert_eq!(round.kind, Kind::Read);
        for mut running in round.running.drain(..) {
            running.before = running.before.then(round.course);
            self.operations.remove(&running.operation);
            self.enqueue(now, round.slot, round.key.clone(), running, out);
        }
        false
    }

    /// Somebody has shown what it holds.
    pub(super) fn shown(
        &mut self,
        configuration: &Configuration,
        round: &mut Round,
        from: Votes,
        accepted: Option<Accepted>,
        out: &mut Vec<Output>,
    ) -> bool {
        let Stage::Reading { views } = &mut round.stage else { return true };
        views.add(from, accepted);
        let is_quorum = views.is_quorum(configuration);
        let is_enough = views.is_confirmed(configuration) || is_quorum && self.breaks(Mutation::NoWriteBack);
        let holders = views.holders();
        match views.best().cloned() {
            best if is_enough => self.end_read(round, best.as_ref(), out),
            Some(record) if is_quorum => {
                let ask = Ask::Accept { key: round.key.clone(), record: record.clone(), next: None };
                round.enter(Stage::WritingBack { record, acknowledged: holders });
                round.trip(Began::Read);
                Self::send(configuration, round, configuration.everybody().without(holders), &ask, out);
                self.watch(round, out);
                true
            }
            _ => true,
        }
    }

    /// Somebody has taken what was read, under the ballot that it was read with.
    pub(super) fn written_back(&mut self, configuration: &Configuration, round: &mut Round, from: Votes, out: &mut Vec<Output>) -> bool {
        let Stage::WritingBack { record, acknowledged } = &mut round.stage else { return true };
        *acknowledged |= from;
        if !configuration.is_quorum(*acknowledged) {
            return true;
        }
        let record = record.clone();
        self.end_read(round, Some(&record), out)
    }

    fn end_read(&mut self, round: &mut Round, accepted: Option<&Accepted>, out: &mut Vec<Output>) -> bool {
        if let Some(accepted) = accepted {
            self.seen = self.seen.max(accepted.ballot.counter).max(accepted.envelope.revision.0);
        }
        for Running { operation, before, .. } in round.running.drain(..) {
            let envelope = accepted.map(|accepted| &accepted.envelope);
            self.done(operation, Ok(read_outcome(envelope)), before.then(round.course), out);
        }
        false
    }
}
