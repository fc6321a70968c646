//! Where and with what a benchmark runs, and the line about the machine that belongs to every figure.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Failure;
use crate::process::Scratch;

/// What every benchmark is given.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The binary that is measured.
    pub binary: PathBuf,
    /// The folder that new ones are made in, and removed again.
    pub dir: PathBuf,
}

impl Setup {
    /// The given binary, or the one beside this program.
    ///
    /// # Errors
    /// When there is none.
    pub fn new(binary: Option<PathBuf>, dir: PathBuf) -> Result<Self, Failure> {
        let beside = || std::env::current_exe().map(|own| own.with_file_name("isochrone"));
        let binary = binary.map_or_else(beside, Ok)?;
        if !binary.is_file() {
            return Err(
                format!("there is no {}: build it first (cargo build --release), or name it with --binary", binary.display()).into()
            );
        }
        Ok(Self { binary: fs::canonicalize(binary)?, dir: fs::canonicalize(dir)? })
    }

    /// A new folder for one benchmark.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn scratch(&self) -> Result<Scratch, Failure> {
        Scratch::new(&self.dir).map_err(|error| format!("cannot make a folder in {}: {error}", self.dir.display()).into())
    }

    /// What the figures depend on: processor, memory, kernel, file system, load before.
    #[must_use]
    pub fn machine(&self) -> String {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let cpu = value_in("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".to_owned());
        let memory = value_in("/proc/meminfo", "MemTotal").unwrap_or_default();
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let load = read("/proc/loadavg");
        let file_system = file_system_of(&read("/proc/mounts"), &self.dir).unwrap_or_else(|| "unknown".to_owned());
        let caution = if self.binary.iter().any(|part| part == "debug") { "\nA debug build: these figures say nothing." } else { "" };
        format!(
            "{cores} cores ({cpu}), {memory} memory, Linux {}, {file_system} file system, load {} before{caution}",
            read("/proc/sys/kernel/osrelease"),
            load.split(' ').next().unwrap_or(""),
        )
    }
}

fn value_in(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.split_once(':')?.1.trim().to_owned()))
}

/// The type of the file system that a path is on, by the longest mount point that leads to it.
fn file_system_of(mounts: &str, path: &Path) -> Option<String> {
    let points = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?))
    });
    let leading = points.filter(|(point, _)| path.starts_with(point));
    leading.max_by_key(|(point, _)| point.len()).map(|(_, kind)| kind.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_mount_point_counts() {
        let mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\nproc /proc proc rw 0 0";
        assert_eq!(file_system_of(mounts, Path::new("/tmp/x")).as_deref(), Some("tmpfs"));
        assert_eq!(file_system_of(mounts, Path::new("/tmpfoo")).as_deref(), Some("ext4"));
    }

    #[test]
    fn a_missing_binary_is_told_with_what_to_do() {
        let failure = Setup::new(Some(PathBuf::from("/nonexistent")), PathBuf::from(".")).expect_err("missing");
        assert!(failure.to_string().contains("cargo build --release"), "{failure}");
    }
}
