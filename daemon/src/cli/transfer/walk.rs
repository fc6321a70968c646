//! A directory's files in byte order, links that lead out of it left aside.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// What the walk met.
#[derive(Debug)]
pub(super) enum Met {
    /// A regular file.
    File(FoundFile),
    /// Something that is not imported, and why.
    Skipped {
        /// Where it is.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// A regular file under the directory.
#[derive(Debug, Clone)]
pub(super) struct FoundFile {
    /// Where it is.
    pub(super) path: PathBuf,
    /// Its path from the directory, the bytes as they are, parts joined by slashes.
    pub(super) relative: Vec<u8>,
    /// Its size.
    pub(super) bytes: u64,
    /// When it was last changed, in nanoseconds since 1970; 0 where the file system does not say.
    pub(super) modified_ns: u64,
}

/// Walks a directory. Only directories that are being looked into are held in memory.
#[derive(Debug)]
pub(super) struct Walk {
    root: PathBuf,
    /// What is still to be visited, the next one last, each with its path from the root.
    pending: Vec<(PathBuf, Vec<u8>)>,
}

impl Walk {
    /// A walk of `root`, which must be a directory.
    ///
    /// # Errors
    /// When it is not, or cannot be reached.
    pub(super) fn new(root: &Path) -> io::Result<Self> {
        let root = fs::canonicalize(root)?;
        if !root.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, "not a directory"));
        }
        Ok(Self { pending: vec![(root.clone(), Vec::new())], root })
    }

    fn visit(&mut self, path: PathBuf, relative: Vec<u8>) -> Option<Met> {
        let skipped = |path: PathBuf, why: &str| Some(Met::Skipped { path, why: why.to_owned() });
        let found = match fs::symlink_metadata(&path) {
            Ok(found) => found,
            Err(error) => return skipped(path, &error.to_string()),
        };
        if found.is_symlink() {
            return self.follow(path, relative);
        }
        if found.is_dir() {
            return match self.descend(&path, &relative) {
                Ok(()) => None,
                Err(error) => skipped(path, &error.to_string()),
            };
        }
        if found.is_file() { Some(Met::File(found_file(path, relative, &found))) } else { skipped(path, "neither a file nor a directory") }
    }

    /// A link is followed only to a file inside the root: one to a directory could go round in circles, one that leads out
    /// could give away what was not meant.
    fn follow(&self, path: PathBuf, relative: Vec<u8>) -> Option<Met> {
        let target = fs::canonicalize(&path).and_then(|target| fs::metadata(&target).map(|found| (target, found)));
        let why = match target {
            Ok((target, _)) if !target.starts_with(&self.root) => "a link that leads out of the directory".to_owned(),
            Ok((_, found)) if found.is_file() => return Some(Met::File(found_file(path, relative, &found))),
            Ok(_) => "a link to a directory".to_owned(),
            Err(error) => format!("a link that leads nowhere: {error}"),
        };
        Some(Met::Skipped { path, why })
    }

    fn descend(&mut self, path: &Path, relative: &[u8]) -> io::Result<()> {
        let mut names = fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>()?;
        names.sort_unstable_by(|a, b| b.cmp(a));
        for name in names {
            let mut below = relative.to_vec();
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend_from_slice(name.as_bytes());
            self.pending.push((path.join(name), below));
        }
        Ok(())
    }
}

impl Iterator for Walk {
    type Item = Met;

    fn next(&mut self) -> Option<Met> {
        loop {
            let (path, relative) = self.pending.pop()?;
            if let Some(met) = self.visit(path, relative) {
                return Some(met);
            }
        }
    }
}

fn found_file(path: PathBuf, relative: Vec<u8>, found: &fs::Metadata) -> FoundFile {
    let since = found.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let modified_ns = since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
    FoundFile { path, relative, bytes: found.len(), modified_ns }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(root: &Path) -> (Vec<String>, Vec<String>) {
        let (mut files, mut skipped) = (Vec::new(), Vec::new());
        for met in Walk::new(root).expect("a directory") {
            match met {
                Met::File(file) => files.push(String::from_utf8_lossy(&file.relative).into_owned()),
                Met::Skipped { path, why } => skipped.push(format!("{}: {why}", path.file_name().expect("a name").display())),
            }
        }
        (files, skipped)
    }

    #[test]
    fn files_come_in_order_and_links_stay_inside() {
        let outside = tempfile::tempdir().expect("a directory");
        fs::write(outside.path().join("secret"), "s").expect("written");
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(dir.path().join("b/c")).expect("made");
        fs::write(dir.path().join("b/c/deep"), "1").expect("written");
        fs::write(dir.path().join("a"), "1").expect("written");
        symlink(dir.path().join("a"), dir.path().join("alias")).expect("linked");
        symlink(outside.path().join("secret"), dir.path().join("leak")).expect("linked");
        symlink(dir.path(), dir.path().join("loop")).expect("linked");
        symlink("nowhere", dir.path().join("dead")).expect("linked");
        let (files, skipped) = names(dir.path());
        assert_eq!(files, ["a", "alias", "b/c/deep"]);
        assert_eq!(skipped.len(), 3);
        assert!(skipped.iter().any(|line| line == "leak: a link that leads out of the directory"), "{skipped:?}");
        assert!(skipped.iter().any(|line| line == "loop: a link to a directory"), "{skipped:?}");
    }

    #[test]
    fn names_that_are_not_utf8_keep_their_bytes() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join(std::ffi::OsStr::from_bytes(b"\xff.txt")), "1").expect("written");
        let Some(Met::File(file)) = Walk::new(dir.path()).expect("a directory").next() else { panic!("a file") };
        assert_eq!(file.relative, b"\xff.txt");
    }
}
