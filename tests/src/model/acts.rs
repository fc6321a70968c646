//! Who asked which daemon for what, when, and what is known of the outcome; and from that, which act had surely or maybe seen which other.

use std::time::Duration;

/// The number of an act, in the order in which they began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ActId(pub usize);

/// A place in a session: what comes later in one session has seen what came before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The session's number; a client that gives up its token begins another session.
    pub session: u64,
    /// The step in it, counted from 0.
    pub number: u64,
}

/// What is known of an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ending {
    /// No answer yet.
    #[default]
    Open,
    /// No answer, or one that leaves it open (504): it may have been done, and may yet be.
    Unknown,
    /// Acknowledged.
    Acknowledged,
    /// Refused: it was not done, and never will be.
    Refused,
}

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// The daemon that is asked.
    pub daemon: usize,
    /// Where in a session.
    pub step: Option<Step>,
    /// Whether at level `quorum`.
    pub quorum: bool,
    /// When.
    pub begun: Duration,
}

/// One act: a write or a read, with every try of it.
#[derive(Debug, Clone)]
pub struct Act {
    /// The last try.
    pub request: Request,
    /// When the first try began.
    pub begun: Duration,
    /// What is known of all tries together.
    pub ending: Ending,
    /// The tries that were acknowledged: by which daemon, and when.
    acknowledged: Vec<(usize, Duration)>,
    /// Whether some try's outcome is not known.
    doubtful: bool,
}

/// Who is shown something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observer {
    /// An act, a read or a write that takes in what is there.
    Act(ActId),
    /// Whoever looks when everything has come together.
    End,
}

/// Every act of a run.
#[derive(Debug, Default)]
pub struct Acts(Vec<Act>);

impl Act {
    /// When it was acknowledged first.
    fn acknowledged_at(&self) -> Option<Duration> {
        self.acknowledged.iter().map(|(_, at)| *at).min()
    }

    /// After this it can't happen any more; `None`: it can at any time.
    fn over_at(&self) -> Option<Duration> {
        match (self.ending, self.doubtful) {
            (Ending::Acknowledged, false) => self.acknowledged.iter().map(|(_, at)| *at).max(),
            _ => None,
        }
    }
}

impl Acts {
    /// A client asks.
    pub fn begin(&mut self, request: Request) -> ActId {
        self.0.push(Act { request, begun: request.begun, ending: Ending::Open, acknowledged: Vec::new(), doubtful: false });
        ActId(self.0.len() - 1)
    }

    /// A client repeats a request, under the same idempotency key.
    pub fn again(&mut self, id: ActId, request: Request) {
        let act = &mut self.0[id.0];
        act.request = request;
        if act.ending == Ending::Refused {
            act.ending = Ending::Open;
        }
    }

    /// A try was answered, or will never be.
    pub fn end(&mut self, id: ActId, ending: Ending, at: Duration) {
        let act = &mut self.0[id.0];
        match ending {
            Ending::Acknowledged => act.acknowledged.push((act.request.daemon, at)),
            Ending::Unknown | Ending::Open => act.doubtful = true,
            Ending::Refused => {}
        }
        act.settle();
    }

    /// A daemon has lost its disk: what only it had acknowledged since `clean` may be lost, or may have reached others.
    pub fn lose_disk(&mut self, daemon: usize, clean: Duration) {
        for act in &mut self.0 {
            let before = act.acknowledged.len();
            act.acknowledged.retain(|&(by, at)| by != daemon || at <= clean);
            if act.acknowledged.len() < before {
                act.doubtful = true;
                act.settle();
            }
        }
    }

    /// An act.
    #[must_use]
    pub fn of(&self, id: ActId) -> &Act {
        &self.0[id.0]
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// An act for a report.
    #[must_use]
    pub fn describe(&self, id: ActId) -> String {
        let act = self.of(id);
        let session = act.request.step.map_or_else(String::new, |step| format!(" in session {} step {}", step.session, step.number));
        let (begun, over) = (act.begun.as_millis(), act.over_at().map(|over| over.as_millis()));
        format!("act {} at daemon {}{session} from {begun} to {over:?} ms, {:?}", id.0, act.request.daemon, act.ending)
    }

    /// Whether `act` is in what `observer` takes in, for certain.
    #[must_use]
    pub fn surely_seen(&self, observer: Observer, act: ActId) -> bool {
        let seen = self.of(act);
        if seen.ending != Ending::Acknowledged {
            return false;
        }
        match observer {
            Observer::End => true,
            Observer::Act(by) => {
                let by = &self.of(by).request;
                seen.acknowledged.iter().any(|&(daemon, at)| daemon == by.daemon && at <= by.begun)
                    || seen.is_before_in_session(by)
                    || seen.is_before_by_quorum(by)
            }
        }
    }

    /// Whether `act` can be in what `observer` takes in.
    #[must_use]
    pub fn maybe_seen(&self, observer: Observer, act: ActId) -> bool {
        let seen = self.of(act);
        let began_in_time = match observer {
            Observer::End => true,
            Observer::Act(by) => self.of(by).over_at().is_none_or(|over| seen.begun < over),
        };
        seen.ending != Ending::Refused && began_in_time
    }
}

impl Act {
    fn settle(&mut self) {
        self.ending = match (self.acknowledged.is_empty(), self.doubtful) {
            (false, _) => Ending::Acknowledged,
            (true, true) => Ending::Unknown,
            (true, false) => Ending::Refused,
        };
    }

    fn is_before_in_session(&self, by: &Request) -> bool {
        let (Some(mine), Some(its)) = (self.request.step, by.step) else { return false };
        mine.session == its.session && mine.number < its.number
    }

    /// A majority has it, and `by` asks a majority.
    fn is_before_by_quorum(&self, by: &Request) -> bool {
        self.request.quorum && by.quorum && self.acknowledged_at().is_some_and(|at| at <= by.begun)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A request at a time in milliseconds, outside of any session.
    pub(crate) fn at(daemon: usize, millis: u64) -> Request {
        Request { daemon, step: None, quorum: false, begun: Duration::from_millis(millis) }
    }

    /// An act that lasted a millisecond.
    pub(crate) fn done(acts: &mut Acts, request: Request, ending: Ending) -> ActId {
        let id = acts.begin(request);
        acts.end(id, ending, request.begun + Duration::from_millis(1));
        id
    }

    fn in_session(daemon: usize, millis: u64, number: u64) -> Request {
        Request { step: Some(Step { session: 7, number }), ..at(daemon, millis) }
    }

    #[test]
    fn a_daemon_has_surely_seen_what_it_acknowledged_before_and_no_other_has() {
        let mut acts = Acts::default();
        let write = done(&mut acts, at(0, 10), Ending::Acknowledged);
        let (here, there) = (acts.begin(at(0, 20)), acts.begin(at(1, 20)));
        assert!(acts.surely_seen(Observer::Act(here), write));
        assert!(!acts.surely_seen(Observer::Act(there), write));
        assert!(acts.maybe_seen(Observer::Act(there), write));
        assert!(acts.surely_seen(Observer::End, write));
    }

    #[test]
    fn a_session_has_seen_what_it_did_anywhere_and_nothing_of_its_future() {
        let mut acts = Acts::default();
        let first = done(&mut acts, in_session(0, 10, 0), Ending::Acknowledged);
        let second = done(&mut acts, in_session(1, 20, 1), Ending::Acknowledged);
        assert!(acts.surely_seen(Observer::Act(second), first));
        assert!(!acts.surely_seen(Observer::Act(first), second));
        assert!(!acts.maybe_seen(Observer::Act(first), second));
    }

    #[test]
    fn two_quorums_meet() {
        let mut acts = Acts::default();
        let quorum = |daemon, millis| Request { quorum: true, ..at(daemon, millis) };
        let write = done(&mut acts, quorum(0, 10), Ending::Acknowledged);
        let (read, local) = (acts.begin(quorum(1, 20)), acts.begin(at(1, 20)));
        assert!(acts.surely_seen(Observer::Act(read), write));
        assert!(!acts.surely_seen(Observer::Act(local), write));
    }

    #[test]
    fn what_is_unknown_may_happen_at_any_time_and_what_is_refused_never() {
        let mut acts = Acts::default();
        let unknown = done(&mut acts, at(0, 10), Ending::Unknown);
        let later = done(&mut acts, at(0, 500), Ending::Acknowledged);
        let refused = done(&mut acts, at(0, 600), Ending::Refused);
        assert!(acts.maybe_seen(Observer::Act(unknown), later));
        assert!(!acts.maybe_seen(Observer::End, refused));
        assert!(!acts.surely_seen(Observer::End, unknown));
    }

    #[test]
    fn a_repeat_makes_an_unknown_outcome_certain_and_its_refusal_does_not() {
        let mut acts = Acts::default();
        let add = done(&mut acts, at(0, 10), Ending::Unknown);
        acts.again(add, at(1, 20));
        acts.end(add, Ending::Refused, Duration::from_millis(21));
        assert_eq!(acts.of(add).ending, Ending::Unknown);
        acts.again(add, at(2, 30));
        acts.end(add, Ending::Acknowledged, Duration::from_millis(31));
        assert_eq!(acts.of(add).ending, Ending::Acknowledged);
    }

    #[test]
    fn a_lost_disk_puts_in_doubt_what_it_alone_had_acknowledged_since_others_had_all() {
        let mut acts = Acts::default();
        let early = done(&mut acts, at(0, 10), Ending::Acknowledged);
        let late = done(&mut acts, at(0, 50), Ending::Acknowledged);
        let elsewhere = done(&mut acts, at(1, 50), Ending::Acknowledged);
        acts.lose_disk(0, Duration::from_millis(20));
        let endings = [early, late, elsewhere].map(|id| acts.of(id).ending);
        assert_eq!(endings, [Ending::Acknowledged, Ending::Unknown, Ending::Acknowledged]);
    }
}
