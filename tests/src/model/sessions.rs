//! Sessions over single values, whose versions are in the order of the hybrid logical clock (E4, E9): a session reads its own writes, its
//! reads never go back, and what it writes is later than all that it has written and read.

use std::collections::BTreeMap;

use isochrone_ident::Version;

use crate::history::Name;

/// What one session has written and read.
#[derive(Debug, Default)]
pub struct Session {
    /// The highest version of each key that it has written or read, and whether it has deleted the key since.
    floors: BTreeMap<Name, (Version, bool)>,
    /// The highest version of all.
    newest: Option<Version>,
}

impl Session {
    /// Its write was acknowledged.
    ///
    /// # Errors
    /// Monotonic writes, writes follow reads: the version is not above all that the session has seen.
    pub fn wrote(&mut self, name: &Name, version: Version) -> Result<(), String> {
        let before = self.newest;
        self.see(name, version);
        match before {
            Some(newest) if version <= newest => Err(format!("wrote {}/{} as {version}, having seen {newest}", name.0, name.1)),
            _ => Ok(()),
        }
    }

    /// Its delete was acknowledged: what it has seen of the key so far, it must not see again.
    pub fn deleted(&mut self, name: &Name) {
        if let Some((_, deleted)) = self.floors.get_mut(name) {
            *deleted = true;
        }
    }

    /// What a read of the key must not fall below.
    #[must_use]
    pub fn floor(&self, name: &Name) -> Option<Version> {
        self.floors.get(name).map(|(version, _)| *version)
    }

    /// Its read was answered with this version.
    ///
    /// # Errors
    /// Read your writes, monotonic reads: the version is below one that the session has written or read.
    pub fn read(&mut self, name: &Name, version: Version) -> Result<(), String> {
        let floor = self.floors.get(name).copied();
        self.see(name, version);
        match floor {
            Some((floor, true)) if version == floor => Err(format!("reads {version} of {}/{}, having deleted it", name.0, name.1)),
            Some((floor, _)) if version < floor => Err(format!("reads {version} of {}/{}, having seen {floor}", name.0, name.1)),
            _ => Ok(()),
        }
    }

    fn see(&mut self, name: &Name, version: Version) {
        let floor = self.floors.entry(name.clone()).or_insert((version, false));
        if version > floor.0 {
            *floor = (version, false);
        }
        self.newest = self.newest.max(Some(version));
    }
}

#[cfg(test)]
mod tests {
    use isochrone_ident::{Hlc, Incarnation, Namespace, NodeId};

    use super::*;

    fn name(key: &str) -> Name {
        (Namespace::new("data").expect("a name"), key.to_owned())
    }

    fn version(hlc: u64) -> Version {
        Version { hlc: Hlc(hlc), node: NodeId(1), incarnation: Incarnation(1) }
    }

    #[test]
    fn a_session_reads_its_own_writes() {
        let mut session = Session::default();
        session.wrote(&name("a"), version(5)).expect("the first write");
        assert!(session.read(&name("a"), version(5)).is_ok());
        assert!(session.read(&name("a"), version(4)).is_err());
    }

    #[test]
    fn a_session_does_not_read_what_it_has_deleted() {
        let mut session = Session::default();
        session.deleted(&name("a"));
        session.wrote(&name("a"), version(5)).expect("the first write");
        assert!(session.read(&name("a"), version(5)).is_ok());
        session.deleted(&name("a"));
        assert!(session.read(&name("a"), version(5)).is_err());
        assert!(session.read(&name("a"), version(6)).is_ok());
    }

    #[test]
    fn a_session_never_reads_back_in_time() {
        let mut session = Session::default();
        session.read(&name("a"), version(5)).expect("the first read");
        assert!(session.read(&name("b"), version(3)).is_ok(), "another key");
        assert!(session.read(&name("a"), version(4)).is_err());
    }

    #[test]
    fn what_a_session_writes_is_later_than_what_it_wrote_and_read() {
        let mut session = Session::default();
        session.read(&name("a"), version(5)).expect("the first read");
        assert!(session.wrote(&name("b"), version(4)).is_err());
        assert!(session.wrote(&name("b"), version(6)).is_ok());
        assert!(session.wrote(&name("c"), version(6)).is_err());
    }
}
