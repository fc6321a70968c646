//! A key as a path under a directory: refused whenever it could lead out of it or could not be read back as the same key.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::super::address::os_string;

/// Why a key cannot be a file's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum UnsafeKey {
    /// It starts with a slash.
    #[error("it starts with a slash, which would lead out of the directory")]
    Absolute,
    /// It has a part `.` or `..`.
    #[error("it has a part `.` or `..`, which could lead out of the directory")]
    Dots,
    /// Two slashes in a row, or one at the end: another key would have the same path.
    #[error("it has an empty part (two slashes in a row, or one at the end), which no file's name can have")]
    EmptyPart,
    /// A NUL byte.
    #[error("it has a NUL byte, which no file's name can have")]
    Nul,
    /// A part longer than file systems take.
    #[error("it has a part of more than 255 bytes, which no file's name can have")]
    LongPart,
}

/// The path of a key (what is left of it after the prefix) from the directory.
///
/// # Errors
/// See [`UnsafeKey`].
pub(super) fn relative_path(key: &[u8]) -> Result<PathBuf, UnsafeKey> {
    if key.first() == Some(&b'/') {
        return Err(UnsafeKey::Absolute);
    }
    if key.contains(&0) {
        return Err(UnsafeKey::Nul);
    }
    let mut path = PathBuf::new();
    for part in key.split(|&b| b == b'/') {
        match part {
            b"" => return Err(UnsafeKey::EmptyPart),
            b"." | b".." => return Err(UnsafeKey::Dots),
            part if part.len() > 255 => return Err(UnsafeKey::LongPart),
            part => path.push(os_string(part)),
        }
    }
    Ok(path)
}

/// Makes the directories that lead to `relative` under `root`, and refuses to go through a link: it could lead out of it.
///
/// # Errors
/// When something that is no directory stands in the way, or one cannot be made.
pub(super) fn make_parents(root: &Path, relative: &Path) -> io::Result<()> {
    let mut path = root.to_path_buf();
    for part in relative.parent().into_iter().flat_map(Path::components) {
        path.push(part);
        if let Err(error) = fs::create_dir(&path) {
            let is_there = error.kind() == io::ErrorKind::AlreadyExists;
            if !(is_there && fs::symlink_metadata(&path)?.is_dir()) {
                let text = format!("{} stands in the way, which is no directory", path.display());
                return Err(if is_there { io::Error::new(io::ErrorKind::NotADirectory, text) } else { error });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_could_escape_are_refused() {
        assert_eq!(relative_path(b"/etc/passwd"), Err(UnsafeKey::Absolute));
        assert_eq!(relative_path(b"../x"), Err(UnsafeKey::Dots));
        assert_eq!(relative_path(b"a/../../x"), Err(UnsafeKey::Dots));
        assert_eq!(relative_path(b"a/."), Err(UnsafeKey::Dots));
        assert_eq!(relative_path(b"a//b"), Err(UnsafeKey::EmptyPart));
        assert_eq!(relative_path(b"a/"), Err(UnsafeKey::EmptyPart));
        assert_eq!(relative_path(b""), Err(UnsafeKey::EmptyPart));
        assert_eq!(relative_path(b"a\0b"), Err(UnsafeKey::Nul));
        assert_eq!(relative_path(&[b'x'; 256]), Err(UnsafeKey::LongPart));
        assert_eq!(relative_path(b"a/..b/c.."), Ok(PathBuf::from("a/..b/c..")));
    }

    proptest::proptest! {
        #[test]
        fn no_key_leads_out_and_each_path_is_read_back_as_its_key(key: Vec<u8>) {
            use std::os::unix::ffi::OsStrExt;
            if let Ok(path) = relative_path(&key) {
                proptest::prop_assert_eq!(path.as_os_str().as_bytes(), &key[..]);
                proptest::prop_assert!(path.components().all(|part| matches!(part, std::path::Component::Normal(_))));
            }
        }
    }

    #[test]
    fn a_link_in_the_way_is_not_followed() {
        let outside = tempfile::tempdir().expect("a directory");
        let dir = tempfile::tempdir().expect("a directory");
        std::os::unix::fs::symlink(outside.path(), dir.path().join("a")).expect("linked");
        fs::write(dir.path().join("f"), "").expect("written");
        assert!(make_parents(dir.path(), Path::new("a/b/c")).is_err());
        assert!(make_parents(dir.path(), Path::new("f/c")).is_err());
        assert!(fs::read_dir(outside.path()).expect("read").next().is_none());
        assert!(make_parents(dir.path(), Path::new("x/y/z")).is_ok());
        assert!(make_parents(dir.path(), Path::new("x/y/z")).is_ok());
        assert!(dir.path().join("x/y").is_dir());
    }
}
