//! Every act on counters, sets, maps and registers, by key.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use isochrone_ident::Kind;

use super::acts::{ActId, Acts, Ending, Observer, Request};
use super::counters::Counter;
use super::maps::{self, Map};
use super::registers::Register;
use super::sets::Set;
use crate::history::Name;

/// A key: each type has a key space of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Its type.
    pub kind: Kind,
    /// Its namespace and key.
    pub name: Name,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.name.0, self.name.1)
    }
}

impl Place {
    /// Whether what was acknowledged must be there: the namespace is durable, and the key does not expire.
    #[must_use]
    pub fn lasts(&self) -> bool {
        crate::cluster::is_durable(&self.name.0) && !self.expires()
    }

    /// Whether every write to it expires.
    #[must_use]
    pub fn expires(&self) -> bool {
        self.name.1.starts_with('x')
    }
}

/// What a write is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// Adds to a counter.
    Add(i64),
    /// Adds to a set and removes from it.
    Update {
        /// Members to add.
        add: Vec<String>,
        /// Members to remove.
        remove: Vec<String>,
    },
    /// Changes fields of a map, each once.
    Change(Vec<(String, maps::Change)>),
    /// Puts a value that says which act it is of.
    Put {
        /// The acts whose values the context was read with.
        replaces: BTreeSet<ActId>,
    },
}

impl Deed {
    /// The type of key that it is done to.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Add(_) => Kind::Counter,
            Self::Update { .. } => Kind::Set,
            Self::Change(_) => Kind::Map,
            Self::Put { .. } => Kind::Register,
        }
    }
}

/// What is shown of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum View {
    /// A counter's value.
    Counter(i64),
    /// A set's members.
    Set(BTreeSet<String>),
    /// A map's fields.
    Map(BTreeMap<String, maps::Shown>),
    /// The acts whose values a register shows.
    Register(BTreeSet<ActId>),
}

/// Everything that clients did to keys that are not values.
#[derive(Debug, Default)]
pub struct TypedHistory {
    acts: Acts,
    places: BTreeMap<Place, Vec<ActId>>,
    counters: BTreeMap<Name, Counter>,
    sets: BTreeMap<Name, Set>,
    maps: BTreeMap<Name, Map>,
    registers: BTreeMap<Name, Register>,
    /// Acts that can be repeated, by their idempotency key.
    requests: BTreeMap<String, ActId>,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
}

impl TypedHistory {
    /// The number that the next act will have: its value says it.
    #[must_use]
    pub fn next_id(&self) -> ActId {
        ActId(self.acts.count())
    }

    /// A write begins.
    pub fn begin(&mut self, request: Request, place: &Place, deed: Deed) -> ActId {
        let (id, name) = (self.acts.begin(request), place.name.clone());
        self.places.entry(place.clone()).or_default().push(id);
        match deed {
            Deed::Add(amount) => self.counters.entry(name).or_default().add(id, amount),
            Deed::Update { add, remove } => self.sets.entry(name).or_default().update(id, &add, &remove),
            Deed::Change(changes) => self.maps.entry(name).or_default().update(id, &changes),
            Deed::Put { replaces } => self.registers.entry(name).or_default().put(id, replaces),
        }
        id
    }

    /// A read begins.
    pub fn begin_read(&mut self, request: Request) -> ActId {
        self.acts.begin(request)
    }

    /// A write is repeated under its idempotency key.
    pub fn again(&mut self, id: ActId, request: Request) {
        self.acts.again(id, request);
    }

    /// A write begins, unless one under that idempotency key has: then it is repeated.
    pub fn begin_or_repeat(&mut self, request: Request, place: &Place, deed: &Deed, key: Option<&str>) -> ActId {
        if let Some(&id) = key.and_then(|key| self.requests.get(key)) {
            self.again(id, request);
            return id;
        }
        let id = self.begin(request, place, deed.clone());
        self.requests.extend(key.map(|key| (key.to_owned(), id)));
        id
    }

    /// A try of a write was answered, or never will be.
    pub fn end(&mut self, id: ActId, ending: Ending, at: Duration) {
        self.acknowledged += u64::from(ending == Ending::Acknowledged);
        self.acts.end(id, ending, at);
    }

    /// A read was answered, with this; `None`: no such key.
    ///
    /// # Errors
    /// What is wrong with it, and the key's story.
    pub fn read(&mut self, id: ActId, at: Duration, place: &Place, shown: Option<&View>) -> Result<(), Vec<String>> {
        self.acts.end(id, Ending::Acknowledged, at);
        self.check(Observer::Act(id), place, shown)
    }

    /// Checks what a write's answer showed: its daemon may know of little, but of nothing that nobody wrote.
    ///
    /// # Errors
    /// What is wrong with it, and the key's story.
    pub fn check_answer(&self, id: ActId, place: &Place, shown: &View) -> Result<(), Vec<String>> {
        self.check_of(Observer::Act(id), place, false, Some(shown))
    }

    /// Checks what a key has come to in the end. What expires must be gone.
    ///
    /// # Errors
    /// What is wrong with it, and the key's story.
    pub fn check_end(&self, place: &Place, shown: Option<&View>) -> Result<(), Vec<String>> {
        if place.expires() && shown.is_some() {
            return Err(vec![format!("{shown:?}, which should have expired")]);
        }
        self.check(Observer::End, place, shown)
    }

    fn check(&self, observer: Observer, place: &Place, shown: Option<&View>) -> Result<(), Vec<String>> {
        self.check_of(observer, place, place.lasts(), shown)
    }

    fn check_of(&self, observer: Observer, place: &Place, lasts: bool, shown: Option<&View>) -> Result<(), Vec<String>> {
        let (acts, name) = (&self.acts, &place.name);
        match (place.kind, shown) {
            (Kind::Counter, None | Some(View::Counter(_))) => {
                let Some(counter) = self.counters.get(name) else { return unwritten(shown) };
                let value = shown.and_then(|view| if let View::Counter(value) = view { Some(*value) } else { None });
                counter.check(acts, observer, lasts, value).map_err(|why| with_story(why, counter.story(acts)))
            }
            (Kind::Set, None | Some(View::Set(_))) => {
                let Some(set) = self.sets.get(name) else { return unwritten(shown) };
                let members = shown.and_then(|view| if let View::Set(members) = view { Some(members) } else { None });
                set.check(acts, observer, lasts, members.unwrap_or(&BTreeSet::new()))
            }
            (Kind::Map, None | Some(View::Map(_))) => {
                let Some(map) = self.maps.get(name) else { return unwritten(shown) };
                let fields = shown.and_then(|view| if let View::Map(fields) = view { Some(fields) } else { None });
                map.check(acts, observer, lasts, fields.unwrap_or(&BTreeMap::new()))
            }
            (Kind::Register, None | Some(View::Register(_))) => {
                let Some(register) = self.registers.get(name) else { return unwritten(shown) };
                let values = shown.and_then(|view| if let View::Register(values) = view { Some(values) } else { None });
                let checked = register.check(acts, observer, lasts, values.unwrap_or(&BTreeSet::new()));
                checked.map_err(|why| with_story(why, register.story(acts)))
            }
            (kind, shown) => Err(vec![format!("{shown:?}, which is no {kind}")]),
        }
    }

    /// What only that daemon had acknowledged since `clean`, when others had everything, is in doubt.
    pub fn lose_disk(&mut self, daemon: usize, clean: Duration) {
        self.acts.lose_disk(daemon, clean);
    }

    /// Every key that may have been written to.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        self.places
            .iter()
            .filter(|(_, acts)| acts.iter().any(|&act| self.acts.maybe_seen(Observer::End, act)))
            .map(|(p, _)| p.clone())
            .collect()
    }
}

fn unwritten(shown: Option<&View>) -> Result<(), Vec<String>> {
    match shown {
        None => Ok(()),
        Some(view) => Err(vec![format!("{view:?}, and nobody wrote to it")]),
    }
}

fn with_story(why: String, story: Vec<String>) -> Vec<String> {
    std::iter::once(why).chain(story).collect()
}

#[cfg(test)]
mod tests {
    use isochrone_ident::Namespace;

    use super::super::acts::tests::at;
    use super::*;

    fn place(kind: Kind, ns: &str, key: &str) -> Place {
        Place { kind, name: (Namespace::new(ns).expect("a name"), key.to_owned()) }
    }

    fn add(history: &mut TypedHistory, place: &Place, amount: i64) {
        let id = history.begin(at(0, 1), place, Deed::Add(amount));
        history.end(id, Ending::Acknowledged, Duration::from_millis(2));
    }

    #[test]
    fn what_was_acknowledged_must_be_there_unless_it_expires_or_may_be_dropped() {
        let mut history = TypedHistory::default();
        let [lasting, expiring, cached] = [("data", "k"), ("data", "x"), ("cache", "k")].map(|(ns, key)| place(Kind::Counter, ns, key));
        for place in [&lasting, &expiring, &cached] {
            add(&mut history, place, 3);
        }
        assert!(history.check_end(&lasting, None).is_err());
        assert!(history.check_end(&lasting, Some(&View::Counter(3))).is_ok());
        assert!(history.check_end(&expiring, Some(&View::Counter(3))).is_err());
        assert!(history.check_end(&expiring, None).is_ok());
        assert!(history.check_end(&cached, None).is_ok());
        assert!(history.check_end(&cached, Some(&View::Counter(6))).is_err());
    }

    #[test]
    fn a_key_shows_its_own_type_and_only_what_was_written_to_it() {
        let mut history = TypedHistory::default();
        let counter = place(Kind::Counter, "data", "k");
        add(&mut history, &counter, 1);
        assert!(history.check_end(&counter, Some(&View::Set(BTreeSet::new()))).is_err());
        assert!(history.check_end(&place(Kind::Set, "data", "k"), Some(&View::Set(BTreeSet::new()))).is_err());
        assert!(history.check_end(&place(Kind::Counter, "data", "other"), Some(&View::Counter(0))).is_err());
        assert_eq!(history.places(), [counter]);
    }
}
