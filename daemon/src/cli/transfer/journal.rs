//! What an import has had acknowledged, on disk, so that a later run can skip it.
//!
//! One JSON line each, appended and never changed: a head that says which import this is, then `{"key","bytes","mark","etag"}` for every
//! acknowledged write. A line cut short by a crash is forgotten: that key is written once more.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::super::failure::Failure;

/// The format's version.
const VERSION: u32 = 1;

/// Which import a journal belongs to. A resumed run must be the same one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// The format's version.
    pub(super) isochrone_import: u32,
    /// The directory or file that is imported.
    pub(super) source: String,
    /// Where keys go.
    pub(super) namespace: String,
    /// What every key starts with.
    pub(super) prefix: String,
    /// The daemon it was begun through. A resumed run may go on through another one of the same cluster.
    pub(super) url: String,
}

impl Head {
    /// A head of this version.
    pub(super) fn new(source: String, namespace: String, prefix: String, url: String) -> Self {
        Self { isochrone_import: VERSION, source, namespace, prefix, url }
    }

    fn is_same_import(&self, other: &Self) -> bool {
        Self { url: String::new(), ..self.clone() } == Self { url: String::new(), ..other.clone() }
    }

    /// Where its journal is kept unless told otherwise: named by what it is for.
    pub(super) fn default_path(&self, state: &Path) -> PathBuf {
        let name = format!("{}\0{}\0{}\0{}", self.source, self.namespace, self.prefix, self.url);
        state.join("import").join(format!("{:016x}.journal", xxh3_64(name.as_bytes())))
    }
}

/// What tells one content of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    /// Its size.
    pub(super) bytes: u64,
    /// When it was changed, in nanoseconds since 1970; of a line the xxh3 hash of its value.
    pub(super) mark: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Acknowledged {
    key: String,
    #[serde(flatten)]
    stamp: Stamp,
    etag: Option<String>,
}

/// The journal of one import.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: BufWriter<File>,
    done: HashMap<String, Stamp>,
}

impl Journal {
    /// Opens the journal to go on with (`is_resumed`), or begins it anew.
    ///
    /// # Errors
    /// When it cannot be read or written, or belongs to another import. It is left as it was.
    pub(super) fn open(path: &Path, head: &Head, is_resumed: bool) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::file("use the journal", path, &error);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(!is_resumed).open(path).map_err(failed)?;
        let (done, end) = read(&file, path, head)?;
        file.set_len(end).map_err(failed)?;
        file.seek(SeekFrom::Start(end)).map_err(failed)?;
        if end == 0 {
            let line = serde_json::to_string(head).map_err(|error| failed(error.into()))?;
            writeln!(file, "{line}").map_err(failed)?;
        }
        Ok(Self { path: path.to_owned(), file: BufWriter::new(file), done })
    }

    /// Whether this very content was acknowledged by an earlier run.
    pub(super) fn has(&self, key: &str, stamp: Stamp) -> bool {
        self.done.get(key) == Some(&stamp)
    }

    /// How many keys earlier runs have had acknowledged.
    pub(super) fn len(&self) -> usize {
        self.done.len()
    }

    /// Notes an acknowledged write. It is on its way to disk after [`Journal::flush`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn note(&mut self, key: &str, stamp: Stamp, etag: Option<String>) -> Result<(), Failure> {
        let line = serde_json::to_string(&Acknowledged { key: key.to_owned(), stamp, etag }).map_err(|error| self.failed(&error.into()))?;
        writeln!(self.file, "{line}").map_err(|error| self.failed(&error))
    }

    /// Hands what was noted to the operating system.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        self.file.flush().map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &io::Error) -> Failure {
        Failure::file("write the journal", &self.path, error)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Reads what is there: the acknowledged keys, and where the last whole line ends.
fn read(file: &File, path: &Path, head: &Head) -> Result<(HashMap<String, Stamp>, u64), Failure> {
    let failed = |error: io::Error| Failure::file("read the journal", path, &error);
    let mut reader = BufReader::new(file);
    let (mut done, mut end, mut line) = (HashMap::new(), 0, Vec::new());
    loop {
        line.clear();
        let count = reader.read_until(b'\n', &mut line).map_err(failed)?;
        if count == 0 || line.last() != Some(&b'\n') {
            return Ok((done, end));
        }
        if end == 0 {
            check_head(&line, path, head)?;
        } else if let Ok(entry) = serde_json::from_slice::<Acknowledged>(&line) {
            done.insert(entry.key, entry.stamp);
        }
        end += count as u64;
    }
}

fn check_head(line: &[u8], path: &Path, head: &Head) -> Result<(), Failure> {
    let title = || format!("{} is not this import's journal", path.display());
    let found: Head = serde_json::from_slice(line).map_err(|error| Failure::failed(title(), error.to_string()))?;
    if found.is_same_import(head) {
        return Ok(());
    }
    let detail = format!("it is of {} into {} with prefix {:?}", found.source, found.namespace, found.prefix);
    Err(Failure::failed(title(), detail).advise("Give another file by --state, or leave it out."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head::new("/srv/doc".to_owned(), "data".to_owned(), "doc/".to_owned(), "http://a".to_owned())
    }

    const STAMP: Stamp = Stamp { bytes: 5, mark: 7 };

    fn written() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("deep/journal");
        let mut journal = Journal::open(&path, &head(), true).expect("opens");
        journal.note("a", STAMP, Some("\"1\"".to_owned())).expect("noted");
        journal.note("b", STAMP, None).expect("noted");
        journal.flush().expect("flushed");
        (dir, path)
    }

    #[test]
    fn a_resumed_run_knows_what_was_acknowledged() {
        let (_dir, path) = written();
        let journal = Journal::open(&path, &Head { url: "http://b".to_owned(), ..head() }, true).expect("opens");
        assert!(journal.has("a", STAMP) && journal.has("b", STAMP));
        assert!(!journal.has("a", Stamp { mark: 8, ..STAMP }), "a changed file is written again");
        assert!(!journal.has("c", STAMP));
        assert_eq!(journal.len(), 2);
    }

    #[test]
    fn a_fresh_run_forgets() {
        let (_dir, path) = written();
        assert_eq!(Journal::open(&path, &head(), false).expect("opens").len(), 0);
    }

    #[test]
    fn a_torn_last_line_costs_one_more_write_and_nothing_else() {
        let (_dir, path) = written();
        let whole = std::fs::read(&path).expect("read");
        std::fs::write(&path, &whole[..whole.len() - 3]).expect("written");
        let mut journal = Journal::open(&path, &head(), true).expect("opens");
        assert!(journal.has("a", STAMP) && !journal.has("b", STAMP));
        journal.note("b", STAMP, None).expect("noted");
        journal.flush().expect("flushed");
        let journal = Journal::open(&path, &head(), true).expect("opens");
        assert!(journal.has("a", STAMP) && journal.has("b", STAMP));
    }

    #[test]
    fn another_imports_journal_is_refused_and_left_alone() {
        let (_dir, path) = written();
        let before = std::fs::read(&path).expect("read");
        let other = Head { prefix: "x/".to_owned(), ..head() };
        let failure = Journal::open(&path, &other, true).expect_err("refused");
        assert!(failure.detail.contains("doc/"), "{failure}");
        assert_eq!(std::fs::read(&path).expect("read"), before);
        std::fs::write(&path, "precious\n").expect("written");
        assert!(Journal::open(&path, &head(), true).is_err());
        assert_eq!(std::fs::read(&path).expect("read"), b"precious\n");
    }
}
