//! What clients did, what they were told, and whether the two can be true together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use isochrone_ident::{Namespace, Version};

use crate::shared::elapsed;

/// A namespace and a key.
pub type Name = (Namespace, String);

/// The number of a write, in the order in which they began. A put's value begins with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriteId(pub usize);

/// What a write was to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// To put this value, which may expire.
    Put {
        /// The value.
        value: Bytes,
        /// Whether it expires.
        expires: bool,
    },
    /// To delete.
    Delete,
}

/// What is known of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// No answer yet, or never one: the daemon crashed.
    Open,
    /// 504 or the like: it may have been applied.
    Unknown,
    /// Acknowledged with this version.
    Acknowledged(Version),
    /// Acknowledged without its version, as deletes are: it is above all that its daemon had acknowledged before.
    Done,
    /// Refused: it was not applied, and never will be.
    Refused,
}

/// One write.
#[derive(Debug, Clone)]
pub struct Write {
    /// The daemon that was asked.
    pub node: usize,
    /// What was written to.
    pub name: Name,
    /// What was to be done.
    pub deed: Deed,
    /// What is known of it.
    pub fate: Fate,
    /// Its version, from an acknowledgement or from a read of its value.
    pub version: Option<Version>,
    /// What its daemon had acknowledged of the key when it began.
    pub above: Option<Version>,
    /// When it was answered last.
    pub ended: Option<Duration>,
}

impl Write {
    /// Whether the key can be absent because of it.
    fn ends(&self) -> bool {
        !matches!(self.deed, Deed::Put { expires: false, .. })
    }
}

#[derive(Debug, Default)]
struct Of {
    writes: Vec<WriteId>,
    /// The highest version that was acknowledged, or shown to a reader.
    known: Option<Version>,
    /// The highest version that a quorum has acknowledged.
    by_quorum: Option<Version>,
    /// The highest version that an acknowledged delete is above.
    buried: Option<Version>,
    /// The highest version that each daemon has acknowledged itself.
    acknowledged_at: BTreeMap<usize, Version>,
}

/// What one read, or the end of a run, showed of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Version and value.
    pub version: Version,
    /// The value, where it was shown.
    pub value: Option<Bytes>,
}

/// Everything that clients did.
#[derive(Debug, Default)]
pub struct History {
    writes: Vec<Write>,
    keys: BTreeMap<Name, Of>,
    violations: Vec<String>,
    /// Answered requests.
    pub answers: u64,
    /// Acknowledged writes.
    pub acknowledged: u64,
    /// Disks that were lost.
    pub losses: u64,
}

/// The bytes of put number `id`: its number, and padding that follows from it.
#[must_use]
pub fn value_of(id: WriteId, length: usize) -> Bytes {
    let mut text = format!("w{}.", id.0);
    while text.len() < length {
        text.push(char::from(b'a' + (text.len() * 7 + id.0) as u8 % 26));
    }
    text.into()
}

fn writer_of(value: &[u8]) -> Option<WriteId> {
    let text = std::str::from_utf8(value).ok()?;
    let (number, _) = text.strip_prefix('w')?.split_once('.')?;
    number.parse().ok().map(WriteId)
}

impl History {
    /// The number that the next write will have.
    #[must_use]
    pub fn next_id(&self) -> WriteId {
        WriteId(self.writes.len())
    }

    /// A client asks a daemon for a write.
    pub fn begin(&mut self, node: usize, name: &Name, deed: Deed) -> WriteId {
        let id = self.next_id();
        let above = self.floor(node, name);
        self.keys.entry(name.clone()).or_default().writes.push(id);
        self.writes.push(Write { node, name: name.clone(), deed, fate: Fate::Open, version: None, above, ended: None });
        id
    }

    /// A write was answered.
    pub fn end(&mut self, id: WriteId, fate: Fate) {
        self.answers += 1;
        let write = &mut self.writes[id.0];
        write.ended = Some(elapsed());
        match (write.fate, fate) {
            (Fate::Acknowledged(first), Fate::Acknowledged(again)) if first != again => {
                let text = format!("write {} was acknowledged as {first}, and its repeat as {again}", id.0);
                self.violations.push(text);
            }
            // A repeat's refusal says nothing of the first try.
            (Fate::Acknowledged(_) | Fate::Done, _) | (Fate::Unknown, Fate::Refused) => {}
            (_, fate) => write.fate = fate,
        }
        match fate {
            Fate::Acknowledged(version) => self.acknowledge(id, version),
            Fate::Done => self.bury(id),
            Fate::Refused if self.writes[id.0].fate == Fate::Refused && self.writes[id.0].version.is_some() => {
                self.violate(format!("write {} was refused after it had been read", id.0));
            }
            _ => {}
        }
    }

    fn acknowledge(&mut self, id: WriteId, version: Version) {
        self.acknowledged += 1;
        self.learn(id, version);
        let write = &self.writes[id.0];
        let node = write.node;
        if let Some(of) = self.keys.get_mut(&write.name) {
            let floor = of.acknowledged_at.entry(node).or_insert(version);
            *floor = (*floor).max(version);
        }
    }

    fn bury(&mut self, id: WriteId) {
        self.acknowledged += 1;
        let Write { name, above, .. } = &self.writes[id.0];
        if let Some(of) = self.keys.get_mut(name) {
            of.buried = of.buried.max(*above);
        }
    }

    /// A write turns out to have this version.
    fn learn(&mut self, id: WriteId, version: Version) {
        let write = &mut self.writes[id.0];
        if let Some(known) = write.version.replace(version).filter(|known| *known != version) {
            let text = format!("write {} has the versions {known} and {version}", id.0);
            self.violations.push(text);
        }
        if let Some(of) = self.keys.get_mut(&self.writes[id.0].name) {
            of.known = of.known.max(Some(version));
        }
    }

    /// What daemon `node` has acknowledged of that key: a read that begins now at that daemon shows no less.
    #[must_use]
    pub fn floor(&self, node: usize, name: &Name) -> Option<Version> {
        self.keys.get(name)?.acknowledged_at.get(&node).copied()
    }

    /// A quorum has acknowledged that version.
    pub fn acknowledge_quorum(&mut self, name: &Name, version: Version) {
        if let Some(of) = self.keys.get_mut(name) {
            of.by_quorum = of.by_quorum.max(Some(version));
        }
    }

    /// What a quorum has acknowledged of that key: a read of a quorum that begins now shows no less.
    #[must_use]
    pub fn quorum_floor(&self, name: &Name) -> Option<Version> {
        self.keys.get(name)?.by_quorum
    }

    /// A daemon has lost its disk. What it acknowledged after `clean`, when every replica had everything, may be lost; and with it whatever was
    /// read of those keys.
    pub fn lose_disk(&mut self, node: usize, clean: Duration) {
        self.losses += 1;
        let mut doubtful = BTreeSet::new();
        for write in self.writes.iter_mut().filter(|w| w.node == node && w.fate != Fate::Refused) {
            if write.ended.is_none_or(|at| at > clean) {
                write.fate = Fate::Unknown;
                doubtful.insert(write.name.clone());
            }
        }
        for name in doubtful {
            let Some(of) = self.keys.get_mut(&name) else { continue };
            of.acknowledged_at.remove(&node);
            of.by_quorum = None;
            of.buried = None;
            let certain = of.writes.iter().filter_map(|id| match self.writes[id.0].fate {
                Fate::Acknowledged(version) => Some(version),
                _ => None,
            });
            of.known = certain.max();
        }
    }

    /// A read at daemon `node` that began when `floor` held.
    pub fn read(&mut self, node: usize, name: &Name, floor: Option<Version>, shown: Option<&Shown>) {
        self.answers += 1;
        if let Err(text) = self.check_shown(name, shown) {
            self.violate(format!("daemon {node} shows of {}/{}: {text}", name.0, name.1));
        }
        let Some(floor) = floor else { return };
        let falls_back = match shown {
            Some(shown) => shown.version < floor,
            None => !self.may_be_absent(name, floor),
        };
        if falls_back {
            let shown = shown.map_or("nothing".to_owned(), |s| s.version.to_string());
            self.violate(format!(
                "daemon {node} shows {shown} of {}/{}; {floor} was acknowledged by it or a quorum, or seen by the session",
                name.0, name.1
            ));
        }
    }

    /// Checks that somebody wrote what is shown, and was not refused.
    fn check_shown(&mut self, name: &Name, shown: Option<&Shown>) -> Result<(), String> {
        let Some(Shown { version, value: Some(value) }) = shown else { return Ok(()) };
        let id = writer_of(value).filter(|id| id.0 < self.writes.len()).ok_or("a value that nobody wrote")?;
        let write = &self.writes[id.0];
        match &write.deed {
            Deed::Put { value: put, .. } if put == value && write.name == *name => {}
            _ => return Err(format!("the value of write {}, which was another", id.0)),
        }
        if write.fate == Fate::Refused {
            return Err(format!("the value of write {}, which was refused", id.0));
        }
        self.learn(id, *version);
        Ok(())
    }

    /// Whether the key can be absent although version `least` was known: because of a delete or an expiry that is not older.
    fn may_be_absent(&self, name: &Name, least: Version) -> bool {
        let writes = self.keys.get(name).into_iter().flat_map(|of| &of.writes).map(|id| &self.writes[id.0]);
        writes.filter(|w| w.ends() && w.fate != Fate::Refused).any(|w| w.version.is_none_or(|version| version >= least))
    }

    /// Checks what a key has come to in the end: the write with the highest version, of those that were acknowledged or may have been applied.
    pub fn check_end(&mut self, name: &Name, shown: Option<&Shown>) {
        if let Err(text) = self.check_shown(name, shown) {
            self.violate(format!("{}/{} ends with {text}", name.0, name.1));
        }
        let Some(of) = self.keys.get(name) else { return };
        let (known, buried) = (of.known, of.buried);
        if let Some(shown) = shown.filter(|shown| Some(shown.version) <= buried) {
            self.violate(format!("{}/{} ends with {}, which an acknowledged delete had seen", name.0, name.1, shown.version));
        }
        let Some(known) = known else { return };
        match shown {
            Some(shown) if shown.version < known => {
                self.violate(format!("{}/{} ends with {}, and {known} was acknowledged or read", name.0, name.1, shown.version));
            }
            None if !self.may_be_absent(name, known) => {
                self.violate(format!("{}/{} ends with nothing, and {known} was acknowledged or read", name.0, name.1));
            }
            _ => {}
        }
    }

    /// Every key that was ever written to.
    #[must_use]
    pub fn names(&self) -> Vec<Name> {
        self.keys.keys().cloned().collect()
    }

    /// Notes that something is wrong.
    pub fn violate(&mut self, text: String) {
        self.violations.push(text);
    }

    /// What is wrong.
    #[must_use]
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// How many writes there were.
    #[must_use]
    pub fn written(&self) -> usize {
        self.writes.len()
    }

    /// Every write to a key, for a report.
    #[must_use]
    pub fn story(&self, name: &Name) -> Vec<String> {
        let writes = self.keys.get(name).into_iter().flat_map(|of| &of.writes);
        writes
            .map(|id| {
                let write = &self.writes[id.0];
                let deed = match &write.deed {
                    Deed::Put { expires: false, .. } => "put",
                    Deed::Put { expires: true, .. } => "put that expires",
                    Deed::Delete => "delete",
                };
                format!(
                    "write {} at daemon {}: {deed}, {:?}, version {:?}",
                    id.0,
                    write.node,
                    write.fate,
                    write.version.map(|v| v.to_string())
                )
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use isochrone_ident::{Hlc, Incarnation, NodeId};

    use super::*;

    fn name() -> Name {
        (Namespace::new("data").expect("a name"), "k".to_owned())
    }

    fn version(hlc: u64) -> Version {
        Version { hlc: Hlc(hlc), node: NodeId(1), incarnation: Incarnation(1) }
    }

    fn put(history: &mut History, fate: Fate) -> (WriteId, Bytes) {
        let value = value_of(history.next_id(), 16);
        let id = history.begin(0, &name(), Deed::Put { value: value.clone(), expires: false });
        history.end(id, fate);
        (id, value)
    }

    fn shown(hlc: u64, value: &Bytes) -> Shown {
        Shown { version: version(hlc), value: Some(value.clone()) }
    }

    #[test]
    fn a_lost_acknowledged_write_is_a_violation() {
        let mut history = History::default();
        let (_, first) = put(&mut history, Fate::Acknowledged(version(1)));
        put(&mut history, Fate::Acknowledged(version(2)));
        history.check_end(&name(), Some(&shown(1, &first)));
        assert_eq!(history.violations().len(), 1);
        history.check_end(&name(), None);
        assert_eq!(history.violations().len(), 2);
    }

    #[test]
    fn an_unknown_write_may_win_or_not() {
        let mut history = History::default();
        let (_, first) = put(&mut history, Fate::Acknowledged(version(1)));
        let (_, second) = put(&mut history, Fate::Unknown);
        history.check_end(&name(), Some(&shown(1, &first)));
        history.check_end(&name(), Some(&shown(2, &second)));
        assert!(history.violations().is_empty(), "{:?}", history.violations());
    }

    #[test]
    fn a_refused_write_must_never_be_seen() {
        let mut history = History::default();
        let (_, value) = put(&mut history, Fate::Refused);
        history.read(1, &name(), None, Some(&shown(1, &value)));
        assert_eq!(history.violations().len(), 1);
    }

    #[test]
    fn an_absent_key_needs_a_delete_that_is_not_older() {
        let mut history = History::default();
        let delete = history.begin(0, &name(), Deed::Delete);
        history.end(delete, Fate::Acknowledged(version(1)));
        history.check_end(&name(), None);
        assert!(history.violations().is_empty());
        put(&mut history, Fate::Acknowledged(version(2)));
        history.check_end(&name(), None);
        assert_eq!(history.violations().len(), 1);
    }

    #[test]
    fn a_value_that_its_own_daemon_deleted_must_not_come_back() {
        let mut history = History::default();
        let (_, first) = put(&mut history, Fate::Acknowledged(version(1)));
        let delete = history.begin(0, &name(), Deed::Delete);
        history.end(delete, Fate::Done);
        history.check_end(&name(), None);
        let (_, second) = put(&mut history, Fate::Acknowledged(version(3)));
        history.check_end(&name(), Some(&shown(3, &second)));
        assert!(history.violations().is_empty(), "{:?}", history.violations());
        history.check_end(&name(), Some(&shown(1, &first)));
        assert!(history.violations()[0].contains("delete"), "{:?}", history.violations());
    }

    #[test]
    fn a_daemon_shows_no_less_than_it_has_acknowledged() {
        let mut history = History::default();
        let (_, first) = put(&mut history, Fate::Acknowledged(version(1)));
        put(&mut history, Fate::Acknowledged(version(2)));
        let floor = history.floor(0, &name());
        history.read(0, &name(), floor, Some(&shown(1, &first)));
        assert_eq!(history.violations().len(), 1);
    }

    #[test]
    fn a_value_that_nobody_wrote_is_a_violation() {
        let mut history = History::default();
        history.read(0, &name(), None, Some(&shown(1, &Bytes::from_static(b"w7.x"))));
        history.read(0, &name(), None, Some(&shown(1, &Bytes::from_static(b"nonsense"))));
        assert_eq!(history.violations().len(), 2);
    }
}
