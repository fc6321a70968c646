//! The directory of `dev`: marked as such, locked while a `dev` runs, wiped only when it bears the mark.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::failure::Failure;

/// The mark: a file that only `dev` makes.
const MARK: &str = "isochrone-dev.json";
/// Held by the running `dev`; has its process id.
const LOCK: &str = "dev.lock";

/// What the mark remembers between runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Memory {
    /// The format's version.
    pub(super) isochrone_dev: u32,
    /// The peer port of each region by its place in the order: members know each other by it, so it stays.
    #[serde(default)]
    pub(super) peer_ports: Vec<u16>,
}

/// The directory while this process owns it. Dropping it unlocks.
#[derive(Debug)]
pub(super) struct Directory {
    root: PathBuf,
    _lock: File,
    /// What earlier runs left.
    pub(super) memory: Memory,
}

impl Directory {
    /// Takes the directory, making it when absent, emptying it when `is_fresh`.
    ///
    /// # Errors
    /// When another `dev` holds it, or it holds something that `dev` did not make: it is left as it was.
    pub(super) fn take(root: &Path, is_fresh: bool) -> Result<Self, Failure> {
        let unusable = |error: io::Error| Failure::file("use", root, &error);
        fs::create_dir_all(root).map_err(unusable)?;
        let root = &fs::canonicalize(root).map_err(unusable)?;
        refuse_foreign(root)?;
        let lock = lock(root)?;
        if is_fresh {
            wipe(root).map_err(unusable)?;
        }
        let memory = fs::read(root.join(MARK)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let mut directory = Self { root: root.clone(), _lock: lock, memory };
        directory.memory.isochrone_dev = 1;
        directory.remember()?;
        Ok(directory)
    }

    /// Where it is.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// A region's own directory.
    pub(super) fn region(&self, region: &str) -> PathBuf {
        self.root.join(region)
    }

    /// Writes the memory down.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn remember(&self) -> Result<(), Failure> {
        let path = self.root.join(MARK);
        let text = serde_json::to_string(&self.memory).map_err(|error| Failure::failed("cannot write the mark", error.to_string()))?;
        fs::write(&path, text + "\n").map_err(|error| Failure::file("write", &path, &error))
    }
}

fn refuse_foreign(root: &Path) -> Result<(), Failure> {
    let is_ours = |name: &std::ffi::OsStr| name == MARK || name == LOCK;
    let mut names = fs::read_dir(root).map_err(|error| Failure::file("read", root, &error))?.filter_map(Result::ok).map(|e| e.file_name());
    if root.join(MARK).is_file() || names.all(|name| is_ours(&name)) {
        return Ok(());
    }
    let detail = format!("it is not empty and has no {MARK}; nothing was touched");
    Err(Failure::failed(format!("{} was not made by `isochrone dev`", root.display()), detail).advise("Give another one by --data-dir."))
}

fn lock(root: &Path) -> Result<File, Failure> {
    let path = root.join(LOCK);
    let failed = |error: io::Error| Failure::file("lock", &path, &error);
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
            writeln!(file, "{}", std::process::id()).map_err(failed)?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = (&file).take(32).read_to_string(&mut pid);
            let detail = format!("process {} holds {}", pid.trim(), path.display());
            let advice =
                format!("Stop it (Ctrl-C there, or `kill {}`), or run a second one with --data-dir DIR --port-base 0.", pid.trim());
            Err(Failure::failed("another `isochrone dev` is running", detail).advise(advice))
        }
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn wipe(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            _ if entry.file_name() == LOCK => {}
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_wipes_what_dev_made_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let own = dir.path().join("own");
        drop(Directory::take(&own, false).expect("taken"));
        fs::create_dir(own.join("us-east")).expect("made");
        drop(Directory::take(&own, false).expect("taken again"));
        assert!(own.join("us-east").exists(), "a restart keeps data");
        drop(Directory::take(&own, true).expect("taken"));
        assert!(!own.join("us-east").exists());

        let foreign = dir.path().join("foreign");
        fs::create_dir(&foreign).expect("made");
        fs::write(foreign.join("thesis.tex"), "years").expect("written");
        for is_fresh in [true, false] {
            let failure = Directory::take(&foreign, is_fresh).expect_err("refused");
            assert!(failure.to_string().contains("--data-dir"), "{failure}");
        }
        assert_eq!(fs::read(foreign.join("thesis.tex")).expect("read"), b"years");
        assert_eq!(fs::read_dir(&foreign).expect("read").count(), 1);
    }

    #[test]
    fn a_second_dev_is_told_who_is_in_the_way() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = Directory::take(dir.path(), false).expect("taken");
        let failure = Directory::take(dir.path(), true).expect_err("refused");
        assert!(failure.to_string().contains(&format!("process {}", std::process::id())), "{failure}");
        drop(first);
        assert!(Directory::take(dir.path(), false).is_ok());
    }

    #[test]
    fn what_is_remembered_is_there_at_the_next_run() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut first = Directory::take(dir.path(), false).expect("taken");
        first.memory.peer_ports = vec![1, 2, 3];
        first.remember().expect("written");
        drop(first);
        assert_eq!(Directory::take(dir.path(), false).expect("taken").memory.peer_ports, [1, 2, 3]);
    }
}
