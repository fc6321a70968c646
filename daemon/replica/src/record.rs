//! What is kept for a key, and which of two writes wins.

use std::sync::Arc;

use bytes::Bytes;
use crdts::{CmRDT, LWWReg};
use isochrone_ident::{Hlc, Key, Kind, Namespace, Version, WallMicros};
use serde::{Deserialize, Serialize};

use crate::{Causes, Typed};

/// A value as a client wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// The body as it was sent. Shared, never copied.
    pub value: Bytes,
    /// The `Content-Type` given at the write.
    pub content_type: Option<Arc<str>>,
    /// The wall time after which the value is absent; `None` persists.
    pub expires_at: Option<WallMicros>,
}

/// What writes leave behind. Encoded, the variants are numbered in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// A value.
    Live(Live),
    /// A delete that some replica or writer may not know of yet (E7).
    Tombstone,
    /// The state of a counter, a set, a map or a register. Shared, never copied but to be changed.
    Typed(Arc<Typed>),
}

/// The state of one key. For values a last-writer-wins register whose marker is the version of the write; for other kinds a state in which all
/// writes are joined (E1, E4).
///
/// Records are equal when version and state are: the causes are a note to sessions, and replicas may have heard more or less of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// The write that left this state, unique for all time; for a typed state, the latest write that is joined in it.
    pub version: Version,
    /// What it left.
    pub state: State,
    /// What the writes in it depend on (E9); `None`: on nothing that was not stable when they were taken. Shared, never copied.
    pub causes: Option<Arc<Causes>>,
}

impl PartialEq for Record {
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version && self.state == other.state
    }
}

impl Eq for Record {}

/// Two states of one key cannot both be true: two values claim one version, one actor tells two stories, or the states are of two kinds. Some peer broke
/// E3; nothing was merged. Carries the version at which they differ: of a value its own, of a typed state that of the life's first write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("two states of one key contradict each other at version {0}")]
pub struct Conflict(pub Version);

impl Record {
    /// A value written at `version`.
    #[must_use]
    pub const fn live(version: Version, live: Live) -> Self {
        Self { version, state: State::Live(live), causes: None }
    }

    /// A delete at `version`.
    #[must_use]
    pub const fn tombstone(version: Version) -> Self {
        Self { version, state: State::Tombstone, causes: None }
    }

    /// A typed state whose latest write is `version`.
    #[must_use]
    pub fn typed(version: Version, typed: Typed) -> Self {
        Self { version, state: State::Typed(Arc::new(typed)), causes: None }
    }

    /// The same record with what its writes depend on.
    #[must_use]
    pub fn caused_by(self, causes: Option<Arc<Causes>>) -> Self {
        Self { causes, ..self }
    }

    /// The same record, which now depends on more.
    #[must_use]
    pub fn also_caused_by(self, more: Option<Arc<Causes>>) -> Self {
        let causes = joined_causes(self.causes, more);
        Self { version: self.version, state: self.state, causes }
    }

    /// The latest time in it, its causes included: no honest daemon's clock is behind that by more than the skew bound (E4).
    #[must_use]
    pub fn latest(&self) -> Hlc {
        let caused = self.causes.as_ref().map_or(Hlc::ZERO, |causes| causes.latest());
        let joined = self.as_typed().and_then(|typed| typed.seen().map(|(_, latest)| latest).max()).unwrap_or(Hlc::ZERO);
        self.version.hlc.max(caused).max(joined)
    }

    /// Whether a write of its version can have its causes: those of a value are not later than it. (A typed state has the causes of several writes, so
    /// only that there are not too many can be said of them.)
    #[must_use]
    pub fn has_credible_causes(&self) -> bool {
        let latest = if self.as_typed().is_some() { Hlc(u64::MAX) } else { self.version.hlc };
        self.causes.as_ref().is_none_or(|causes| causes.may_precede(Version { hlc: latest, ..self.version }))
    }

    /// What its key holds.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match &self.state {
            State::Typed(typed) => typed.kind(),
            State::Live(_) | State::Tombstone => Kind::Value,
        }
    }

    /// The typed state, where it is one.
    #[must_use]
    pub fn as_typed(&self) -> Option<&Typed> {
        match &self.state {
            State::Typed(typed) => Some(typed),
            State::Live(_) | State::Tombstone => None,
        }
    }

    /// The winner of two states of one key: the later version (E4). Commutative, associative and idempotent. Should one version carry one value with
    /// two deadlines, the longer wins and no deadline beats all (E8); a later write brings its own deadline, else nobody could
    /// ever shorten one. Typed states are joined, and the version is the later of both.
    ///
    /// # Errors
    /// [`Conflict`] when one version carries two values, when typed states contradict each other, or when the kinds differ; nothing was merged (E2).
    pub fn merge(self, other: Self) -> Result<Self, Conflict> {
        match (&self.state, &other.state) {
            (State::Typed(_), State::Typed(_)) => {}
            (State::Typed(_), _) | (_, State::Typed(_)) => return Err(Conflict(other.version)),
            _ => return self.later(other),
        }
        let (State::Typed(ours), State::Typed(theirs)) = (self.state, other.state) else { return Err(Conflict(other.version)) };
        let state = State::Typed(joined(ours, &theirs)?);
        Ok(Self { version: self.version.max(other.version), state, causes: joined_causes(self.causes, other.causes) })
    }

    fn later(self, other: Self) -> Result<Self, Conflict> {
        let version = self.version;
        let causes = if other.version > version { other.causes.clone() } else { self.causes.clone() };
        let (mut ours, mut theirs) = (register(self), register(other));
        if ours.marker == theirs.marker {
            let longest = longest_deadline(&ours.val, &theirs.val);
            set_deadline(&mut ours.val, longest);
            set_deadline(&mut theirs.val, longest);
        }
        ours.validate_op(&theirs).map_err(|_| Conflict(version))?;
        ours.apply(theirs);
        Ok(Self { version: ours.marker, state: ours.val, causes })
    }

    /// Whether merging `other` would change this record; `false` where they cannot be merged.
    #[must_use]
    pub fn is_older_than(&self, other: &Self) -> bool {
        match (&self.state, &other.state) {
            (State::Typed(ours), State::Typed(theirs)) => {
                let known = Arc::ptr_eq(ours, theirs);
                let joins = || ours.lacks(theirs);
                if self.version < other.version { ours.kind() == theirs.kind() } else { !known && joins() }
            }
            (State::Typed(_), _) | (_, State::Typed(_)) => false,
            _ => self.version < other.version,
        }
    }

    /// Whether a reader sees a value: there is one, and its deadline plus the skew bound has not passed (E8).
    #[must_use]
    pub fn is_visible(&self, now: WallMicros, skew_ms: u64) -> bool {
        match &self.state {
            State::Live(live) => live.expires_at.is_none_or(|at| now < at.plus_millis(skew_ms)),
            State::Tombstone => false,
            State::Typed(typed) => typed.is_visible(now, skew_ms),
        }
    }

    /// The value, where a reader sees one; nothing for a typed state, whose reader asks for a [view](Typed::view).
    #[must_use]
    pub fn visible(&self, now: WallMicros, skew_ms: u64) -> Option<&Live> {
        match &self.state {
            State::Live(live) if self.is_visible(now, skew_ms) => Some(live),
            _ => None,
        }
    }

    /// When it expires, the skew bound not included; `None` if never, or if there is nothing to expire.
    #[must_use]
    pub fn expires_at(&self) -> Option<WallMicros> {
        match &self.state {
            State::Live(live) => live.expires_at,
            State::Tombstone => None,
            State::Typed(typed) => typed.expires_at(),
        }
    }

    /// The value, where a reader sees one, without a copy.
    #[must_use]
    pub fn into_visible(self, now: WallMicros, skew_ms: u64) -> Option<Live> {
        if !self.is_visible(now, skew_ms) {
            return None;
        }
        match self.state {
            State::Live(live) => Some(live),
            State::Tombstone | State::Typed(_) => None,
        }
    }

    /// Bytes of payload: value and content type; of a typed state, about what it takes up encoded; and of the causes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.causes.as_ref().map_or(0, |causes| causes.bytes()) + self.state_bytes()
    }

    fn state_bytes(&self) -> usize {
        match &self.state {
            State::Live(live) => live.value.len() + live.content_type.as_ref().map_or(0, |t| t.len()),
            State::Tombstone => 0,
            State::Typed(typed) => typed.bytes(),
        }
    }
}

/// A key with its state: what travels between daemons and lies in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The key's namespace.
    pub ns: Namespace,
    /// What the key holds; each kind has a key space of its own.
    pub kind: Kind,
    /// The key.
    pub key: Key,
    /// Its state.
    pub record: Record,
}

fn joined(mut ours: Arc<Typed>, theirs: &Arc<Typed>) -> Result<Arc<Typed>, Conflict> {
    if !Arc::ptr_eq(&ours, theirs) && *ours != **theirs {
        Arc::make_mut(&mut ours).join(theirs)?;
    }
    Ok(ours)
}

/// What depends on either.
pub(crate) fn joined_causes(ours: Option<Arc<Causes>>, theirs: Option<Arc<Causes>>) -> Option<Arc<Causes>> {
    match (ours, theirs) {
        (Some(mut ours), Some(theirs)) => {
            if ours != theirs {
                Arc::make_mut(&mut ours).join(&theirs);
            }
            Some(ours)
        }
        (ours, theirs) => ours.or(theirs),
    }
}

fn register(record: Record) -> LWWReg<State, Version> {
    LWWReg { val: record.state, marker: record.version }
}

fn longest_deadline(a: &State, b: &State) -> Option<WallMicros> {
    match (a, b) {
        (State::Live(a), State::Live(b)) => a.expires_at.zip(b.expires_at).map(|(a, b)| a.max(b)),
        _ => None,
    }
}

fn set_deadline(state: &mut State, deadline: Option<WallMicros>) {
    if let State::Live(live) = state {
        live.expires_at = deadline;
    }
}

#[cfg(test)]
mod tests {
    use isochrone_ident::{Hlc, Incarnation, NodeId};
    use proptest::prelude::*;

    use super::*;

    fn version(hlc: u64, node: u128) -> Version {
        Version { hlc: Hlc(hlc), node: NodeId(node), incarnation: Incarnation(1) }
    }

    /// A record whose content follows from its version, as E3 promises.
    fn record(hlc: u64, node: u128) -> Record {
        if (hlc + node as u64).is_multiple_of(3) {
            return Record::tombstone(version(hlc, node));
        }
        let value = Bytes::from(format!("{hlc}/{node}"));
        Record::live(version(hlc, node), Live { value, content_type: None, expires_at: None })
    }

    fn any_record() -> impl Strategy<Value = Record> {
        (0u64..12, 0u128..4).prop_map(|(hlc, node)| record(hlc, node))
    }

    proptest! {
        #[test]
        fn merging_is_commutative_associative_and_idempotent(a in any_record(), b in any_record(), c in any_record()) {
            let m = |x: &Record, y: &Record| x.clone().merge(y.clone()).expect("versions are unique");
            prop_assert_eq!(m(&a, &b), m(&b, &a));
            prop_assert_eq!(m(&m(&a, &b), &c), m(&a, &m(&b, &c)));
            prop_assert_eq!(m(&a, &a), a);
        }

        #[test]
        fn merging_equals_the_plain_model_of_the_highest_version(records in prop::collection::vec(any_record(), 1..20)) {
            let merged = records.iter().cloned().reduce(|a, b| a.merge(b).expect("versions are unique")).expect("one at least");
            let model = records.iter().max_by_key(|r| r.version).expect("one at least");
            prop_assert_eq!(&merged, model);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = postcard::from_bytes::<Entry>(&bytes);
        }
    }

    fn live(text: &'static str, expires_at: Option<u64>) -> State {
        State::Live(Live { value: Bytes::from_static(text.as_bytes()), content_type: None, expires_at: expires_at.map(WallMicros) })
    }

    #[test]
    fn e2_one_version_with_two_values_is_refused_and_not_merged() {
        let a = Record { version: version(5, 1), causes: None, state: live("a", None) };
        let b = Record { version: version(5, 1), causes: None, state: live("b", None) };
        assert_eq!(a.clone().merge(b), Err(Conflict(version(5, 1))));
        assert_eq!(a.clone().merge(Record::tombstone(version(5, 1))), Err(Conflict(version(5, 1))));
    }

    #[test]
    fn e2_the_bare_crate_keeps_both_of_two_values_with_one_marker() {
        use crdts::CvRDT;
        let (mut a, mut b) = (LWWReg { val: "a", marker: 1 }, LWWReg { val: "b", marker: 1 });
        let (first, second) = (a.clone(), b.clone());
        a.merge(second);
        b.merge(first);
        assert_ne!(a, b, "the hazard that E2 guards against is still there");
    }

    #[test]
    fn e8_the_longest_deadline_of_one_version_wins_and_none_beats_all() {
        let at = |deadline| Record { version: version(5, 1), causes: None, state: live("a", deadline) };
        assert_eq!(at(Some(10)).merge(at(Some(20))), Ok(at(Some(20))));
        assert_eq!(at(Some(10)).merge(at(None)), Ok(at(None)));
        assert_eq!(at(None).merge(at(Some(10))), Ok(at(None)));
    }

    #[test]
    fn e9_the_winner_of_two_values_keeps_its_own_causes_and_they_tell_no_records_apart() {
        let causes = |hlc| {
            let mut session = crate::Session::default();
            session.note(NodeId(9), Hlc(hlc));
            Some(Arc::new(Causes::of(&session, Hlc::ZERO)))
        };
        let early = record(4, 1).caused_by(causes(2));
        let late = record(7, 1).caused_by(causes(6));
        let merged = early.clone().merge(late.clone()).expect("versions are unique");
        assert_eq!((&merged, &merged.causes), (&late, &late.causes));
        assert_eq!(early, record(4, 1));
        assert!(early.has_credible_causes() && late.has_credible_causes());
        assert!(!record(5, 1).caused_by(causes(6)).has_credible_causes(), "an effect before its cause");
        assert_eq!(late.caused_by(causes(99)).latest(), Hlc(99), "E4 looks at causes as well");
    }

    #[test]
    fn e8_a_later_write_may_shorten_the_deadline() {
        let first = Record { version: version(5, 1), causes: None, state: live("a", None) };
        let second = Record { version: version(6, 1), causes: None, state: live("a", Some(9)) };
        assert_eq!(first.merge(second.clone()), Ok(second));
    }

    #[test]
    fn e8_a_value_is_gone_at_its_deadline_plus_the_skew_bound() {
        let record = Record { version: version(5, 1), causes: None, state: live("a", Some(1_000_000)) };
        assert!(record.is_visible(WallMicros(1_499_999), 500));
        assert!(!record.is_visible(WallMicros(1_500_000), 500));
    }
}
