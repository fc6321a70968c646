//! A real tree of files to import: the first so many of a folder, in byte order of their paths.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Failure;

/// The documentation that the installed Rust toolchain brought.
///
/// # Errors
/// When `rustc` is not there, or its documentation is not.
pub fn toolchain_documentation() -> Result<PathBuf, Failure> {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output()?;
    let doc = Path::new(String::from_utf8(output.stdout)?.trim()).join("share/doc");
    if doc.is_dir() {
        return Ok(doc);
    }
    Err(format!("there is no {}: `rustup component add rust-docs`, or name a folder with --source", doc.display()).into())
}

/// Files and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Staged {
    /// How many.
    pub files: u64,
    /// Their sizes together.
    pub bytes: u64,
}

/// Makes `target` a tree of the first `files` regular files of `source`: hard links where they can be had, copies else.
///
/// # Errors
/// When something cannot be read or made.
pub fn stage(source: &Path, target: &Path, files: u64) -> io::Result<Staged> {
    let mut staged = Staged::default();
    stage_into(source, target, files, &mut staged)?;
    Ok(staged)
}

fn stage_into(source: &Path, target: &Path, files: u64, staged: &mut Staged) -> io::Result<()> {
    let mut entries = fs::read_dir(source)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_unstable_by_key(fs::DirEntry::file_name);
    fs::create_dir_all(target)?;
    for entry in entries {
        if staged.files >= files {
            return Ok(());
        }
        let (kind, from, to) = (entry.file_type()?, entry.path(), target.join(entry.file_name()));
        if kind.is_dir() {
            stage_into(&from, &to, files, staged)?;
        } else if kind.is_file() {
            fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop))?;
            staged.files += 1;
            staged.bytes += entry.metadata()?.len();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_files_in_order_are_staged_and_links_are_left() {
        let dir = tempfile::tempdir().expect("a folder");
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        fs::create_dir_all(source.join("b")).expect("made");
        for (name, text) in [("a", "1"), ("b/x", "22"), ("b/y", "333"), ("c", "4444")] {
            fs::write(source.join(name), text).expect("written");
        }
        std::os::unix::fs::symlink("a", source.join("aa")).expect("linked");
        assert_eq!(stage(&source, &target, 3).expect("staged"), Staged { files: 3, bytes: 6 });
        assert_eq!(fs::read(target.join("b/y")).expect("read"), b"333");
        assert!(!target.join("c").exists() && !target.join("aa").exists());
    }
}
