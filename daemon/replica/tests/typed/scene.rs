//! Short ways to write down a history by hand.

use bytes::Bytes;
use isochrone_ident::{Hlc, Incarnation, Kind, NodeId, Version, WallMicros};
use isochrone_replica::{
    Actor, Applied, Change, ChangeRefused, ClaimId, Delta, FieldView, RegisterContext, Stamp, Typed, TypedLimits, Upkeep, View,
};

/// The bound on clock differences in these tests.
pub(crate) const SKEW_MS: u64 = 5;

/// A daemon with its state of one key.
#[derive(Clone)]
pub(crate) struct Daemon {
    pub(crate) actor: Actor,
    pub(crate) state: Option<Typed>,
    pub(crate) limits: TypedLimits,
}

pub(crate) fn daemon(node: u128) -> Daemon {
    Daemon { actor: Actor { node: NodeId(node), life: 1 }, state: None, limits: TypedLimits::default() }
}

pub(crate) fn version(ms: u64, node: u128) -> Version {
    Version { hlc: Hlc::at(WallMicros(ms * 1000)), node: NodeId(node), incarnation: Incarnation(1) }
}

impl Daemon {
    /// Takes a write at `ms`, to be kept until `until_ms`.
    pub(crate) fn write(&mut self, ms: u64, until_ms: Option<u64>, change: &Change) -> Result<Delta, ChangeRefused> {
        let stamp = Stamp {
            version: version(ms, self.actor.node.0),
            actor: self.actor,
            now: WallMicros(ms * 1000),
            skew_ms: SKEW_MS,
            expires_at: until_ms.map(|ms| WallMicros(ms * 1000)),
        };
        let (next, delta) = Typed::change(self.state.as_ref(), change.kind(), change, &stamp, &self.limits)?;
        self.state = Some(next);
        Ok(delta)
    }

    pub(crate) fn take(&mut self, ms: u64, change: &Change) -> Delta {
        self.write(ms, None, change).expect("the write is taken")
    }

    pub(crate) fn apply(&mut self, delta: &Delta) -> Applied {
        let applied = Typed::apply(self.state.as_ref(), delta).expect("no conflict");
        if let Applied::Changed(next) = &applied {
            self.state = Some(next.clone());
        }
        applied
    }

    pub(crate) fn pull(&mut self, other: &Self) {
        let Some(theirs) = &other.state else { return };
        match &mut self.state {
            Some(ours) => {
                ours.join(theirs).expect("no conflict");
            }
            None => self.state = Some(theirs.clone()),
        }
    }

    pub(crate) fn held(&self) -> &Typed {
        self.state.as_ref().expect("a state")
    }

    pub(crate) fn view(&self, ms: u64) -> Option<View> {
        self.state.as_ref()?.view(WallMicros(ms * 1000), SKEW_MS)
    }

    pub(crate) fn members(&self, ms: u64) -> Vec<Bytes> {
        match self.view(ms) {
            Some(View::Set(members)) => members,
            other => panic!("no set: {other:?}"),
        }
    }

    pub(crate) fn values(&self, ms: u64) -> (Vec<Bytes>, RegisterContext) {
        match self.view(ms) {
            Some(View::Register { values, context }) => (values.into_iter().map(|value| value.value).collect(), context),
            other => panic!("no register: {other:?}"),
        }
    }

    pub(crate) fn field(&self, ms: u64, name: &str) -> Option<FieldView> {
        match self.view(ms) {
            Some(View::Map(fields)) => fields.get(name.as_bytes()).cloned(),
            other => panic!("no map: {other:?}"),
        }
    }

    pub(crate) fn prune(&mut self, stable_ms: u64, claim_ms: u64) -> bool {
        let upkeep = Upkeep { skew_ms: SKEW_MS, stable: Hlc::at(WallMicros(stable_ms * 1000)), claim_ms, actor: self.actor };
        self.state.as_mut().is_some_and(|state| state.prune(&upkeep))
    }
}

/// Every daemon pulls from every other, twice: then all hold the same, or `join` is at fault.
pub(crate) fn exchange(daemons: &mut [Daemon]) {
    for _ in 0..2 {
        let count = daemons.len();
        for (from, to) in (0..count).flat_map(|from| (0..count).map(move |to| (from, to))) {
            let sender = daemons[from].clone();
            daemons[to].pull(&sender);
        }
    }
    assert!(daemons.windows(2).all(|pair| pair[0].state == pair[1].state), "replicas differ after a full exchange");
}

pub(crate) fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub(crate) const fn count(add: i64) -> Change {
    Change::Count { add, claim: None }
}

pub(crate) const fn count_once(add: i64, claim: u128) -> Change {
    Change::Count { add, claim: Some(ClaimId(claim)) }
}

pub(crate) fn update(add: &[&str], remove: &[&str]) -> Change {
    let all = |members: &[&str]| members.iter().map(|member| text(member)).collect();
    Change::UpdateSet { add: all(add), remove: all(remove) }
}

pub(crate) fn map(set: &[(&str, &str)], remove: &[&str], add: &[(&str, i64)]) -> Change {
    Change::UpdateMap {
        set: set.iter().map(|(name, value)| (text(name), text(value))).collect(),
        remove: remove.iter().map(|name| text(name)).collect(),
        add: add.iter().map(|(name, amount)| (text(name), *amount)).collect(),
        claim: None,
    }
}

pub(crate) fn put(value: &str, context: Option<RegisterContext>) -> Change {
    Change::PutRegister { value: text(value), content_type: None, context }
}

/// The bytes that replicas compare (E6).
pub(crate) fn bytes(state: &Typed) -> Vec<u8> {
    postcard::to_allocvec(state).expect("encodes")
}

pub(crate) const TYPED_KINDS: [Kind; 4] = [Kind::Counter, Kind::Set, Kind::Map, Kind::Register];
