//! Starting over (E7): a daemon whose store was retired, because it was away for longer than deletes are remembered, comes back empty and is filled.
//!
//! ```text
//!   told so ----> drain ----> removed-<time>/unacknowledged/   what nobody else may have, ready to be imported
//!                       ----> start-over.json                  from here on it is decided, whatever crashes
//!   the process ends, and is started again
//!   start-over.json is there ----> data.redb, strong.redb, council.redb to removed-<time>/, each once
//!                            ----> an empty store, which goes on from the old one's start number and time (M1, E3)
//!                            ----> joins through the members that the old one knew ----> filled
//!   it is a member ----> start-over.json to removed-<time>/
//! ```
//!
//! The process ends rather than beginning anew within itself: then nothing of the old store's tasks can outlive it, and an ordinary end, a crash and a
//! loss of power all go on in one way, from the file. A store is moved when `removed-<time>/` has none of its name yet, so that each step may be
//! repeated: at any point a data directory holds the old store or the new one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use isochrone_ident::{Hlc, Incarnation, Kind, Namespace, NodeId, Slot, StoreId, WallMicros};
use isochrone_replica::{Entry, State};
use isochrone_store::{ReadError, Store};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::core::{Core, lock};
use super::identity::{self, IdentityError};
use super::start::Node;

/// The file whose presence means that the daemon starts over.
const MARKER: &str = "start-over.json";
/// Version of the file. One of another version is refused.
const FORMAT: u32 = 1;
/// What is moved aside, in this order.
const STORES: [&str; 3] = ["data.redb", "strong.redb", "council.redb"];
/// Where in the folder the writes go that can be imported, a file a namespace.
const UNACKNOWLEDGED: &str = "unacknowledged";
/// The file in the folder for those that can't be imported.
const OTHERS: &str = "unacknowledged-others.ndjson";
/// Bytes read from a slot at a time.
const PAGE_BYTES: usize = 1 << 20;

/// The process ends so that the daemon can start over. Run again, it does.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "this daemon was away for longer than `council.away_max`, so its store was retired; it starts over with an empty one when it is run again, \
     and what it had is kept in {}",
    folder.display()
)]
pub struct StartsOver {
    /// Where its stores will be.
    pub folder: PathBuf,
}

/// What an empty store must know of the retired one that it follows under the same node id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartOver {
    /// The node.
    pub node: NodeId,
    /// Its store that was retired.
    pub store: StoreId,
    /// How often it had started. The new store counts on (M1): peers take nobody for a later start of a node who counts lower.
    pub incarnation: Incarnation,
    /// The latest time that it had given or taken. No write under the new store gets a time at or below.
    pub last: Hlc,
    /// Where the other members were last known, to join through.
    pub seeds: Vec<String>,
}

impl StartOver {
    pub(crate) fn of(core: &Core) -> Self {
        let view = core.view.load();
        let others = view.members.values().filter(|member| member.node != core.id());
        Self {
            node: core.id(),
            store: core.me.store,
            incarnation: core.me.incarnation,
            last: core.stamps.last(),
            seeds: others.map(|member| member.address.clone()).collect(),
        }
    }

    /// Writes into an empty store from where it goes on. To be done before [`Node::start`]; may be repeated.
    ///
    /// # Errors
    /// [`IdentityError`]; the store must not be used then.
    pub async fn hand_on(&self, to: &Store) -> Result<(), IdentityError> {
        identity::follow(to, self.incarnation, self.last).await
    }
}

/// Why the file can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MarkerError {
    /// It can't be read or written, or a store not moved.
    #[error("starting over: {0}")]
    Io(#[from] io::Error),
    /// It was written by another version, or by hand.
    #[error(
        "starting over: {MARKER} cannot be understood: move data.redb, strong.redb and council.redb to another folder and delete it to begin empty"
    )]
    Malformed,
}

/// The file's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marker {
    format: u32,
    folder: String,
    node: String,
    store: String,
    incarnation: u64,
    last: u64,
    seeds: Vec<String>,
}

impl Marker {
    /// A decision to start over, made at that time; not yet on disk.
    pub(crate) fn new(start_over: &StartOver, unix_seconds: u64) -> Self {
        Self {
            format: FORMAT,
            folder: format!("removed-{unix_seconds}"),
            node: start_over.node.to_string(),
            store: start_over.store.to_string(),
            incarnation: start_over.incarnation.0,
            last: start_over.last.0,
            seeds: start_over.seeds.clone(),
        }
    }

    /// What the new store must know.
    pub(crate) fn start_over(&self) -> Result<StartOver, MarkerError> {
        let (node, store) = (self.node.parse(), self.store.parse());
        let (Ok(node), Ok(store)) = (node, store) else { return Err(MarkerError::Malformed) };
        Ok(StartOver { node, store, incarnation: Incarnation(self.incarnation), last: Hlc(self.last), seeds: self.seeds.clone() })
    }

    /// Where everything goes that is not used any more.
    pub(crate) fn folder(&self, data_dir: &Path) -> PathBuf {
        data_dir.join(&self.folder)
    }

    /// Makes the decision durable.
    pub(crate) fn write(&self, data_dir: &Path) -> Result<(), MarkerError> {
        let bytes = serde_json::to_vec_pretty(self).map_err(|_| MarkerError::Malformed)?;
        let (new, path) = (data_dir.join("start-over.new"), data_dir.join(MARKER));
        let mut file = File::create(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        Ok(sync_directory(data_dir)?)
    }

    /// The decision, if one was made and not carried out yet.
    pub(crate) fn read(data_dir: &Path) -> Result<Option<Self>, MarkerError> {
        let bytes = match fs::read(data_dir.join(MARKER)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let marker: Self = serde_json::from_slice(&bytes).map_err(|_| MarkerError::Malformed)?;
        let is_sound = marker.format == FORMAT && marker.folder.starts_with("removed-") && !marker.folder.contains(['/', '\\']);
        if is_sound { Ok(Some(marker)) } else { Err(MarkerError::Malformed) }
    }

    /// Moves the retired stores aside, each once; may be repeated after a crash at any point.
    pub(crate) fn set_aside(&self, data_dir: &Path) -> Result<(), MarkerError> {
        let folder = self.folder(data_dir);
        fs::create_dir_all(&folder)?;
        sync_directory(data_dir)?;
        for name in STORES {
            move_once(data_dir, &folder, name)?;
        }
        Ok(())
    }

    /// Ends it: the new store is a member's.
    pub(crate) fn finish(&self, data_dir: &Path) -> Result<(), MarkerError> {
        let folder = self.folder(data_dir);
        fs::rename(data_dir.join(MARKER), folder.join(MARKER))?;
        sync_directory(&folder)?;
        Ok(sync_directory(data_dir)?)
    }
}

/// A file that the folder has already is the retired one; the one outside is then the new one.
fn move_once(data_dir: &Path, folder: &Path, name: &str) -> io::Result<()> {
    let (from, to) = (data_dir.join(name), folder.join(name));
    if to.exists() || !from.exists() {
        return Ok(());
    }
    fs::rename(&from, &to)?;
    sync_directory(folder)?;
    sync_directory(data_dir)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// How many writes a retired store has that perhaps nobody else has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LeftBehind {
    /// Puts, as lines for `isochrone import`.
    pub(crate) puts: u64,
    /// Deletes, and keys of other types, by name.
    pub(crate) others: u64,
}

/// Lays out what perhaps nobody else has, then decides to start over. What can't be laid out is in the store all the same, which is kept.
pub(crate) fn decide(node: &Node, data_dir: &Path) -> Result<StartsOver, MarkerError> {
    let marker = Marker::new(&node.succession(), node.core.now().millis() / 1000);
    let folder = marker.folder(data_dir);
    match lay_out(&node.core, &folder) {
        Ok(LeftBehind { puts: 0, others: 0 }) => tracing::info!("every write that this daemon took is acknowledged by its replicas"),
        Ok(left) => tracing::warn!(
            puts = left.puts,
            others = left.others,
            folder = %folder.display(),
            "writes that not every replica has acknowledged are kept: `isochrone import` takes the files in {UNACKNOWLEDGED}/, one for each \
             namespace; {OTHERS} names deletes and keys of other types"
        ),
        Err(error) => tracing::error!(%error, "unacknowledged writes could not be listed; they are in the retired store"),
    }
    marker.write(data_dir)?;
    Ok(StartsOver { folder })
}

/// Why the writes of a store could not be laid out.
#[derive(Debug, thiserror::Error)]
enum LayOutError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes what this node took after the time through which all of its writes are known to be with every replica. The store itself is asked and
/// not its log, for the log of a node that was away for long was cut.
fn lay_out(core: &Core, folder: &Path) -> Result<LeftBehind, LayOutError> {
    let delivered = lock(&core.horizon).heard(core.id()).stable_through;
    let mut out = Layout::new(folder)?;
    for slot in Slot::all().filter(|&slot| core.store.slot_totals(slot).keys > 0) {
        let mut after = None;
        loop {
            let page = core.store.scan_slot(slot, after.as_ref(), PAGE_BYTES)?;
            for entry in page.entries.iter().filter(|entry| is_perhaps_alone(core.id(), entry, delivered)) {
                out.add(core.now(), entry)?;
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
    }
    out.finish()
}

/// A value's version names its writer; the state of another type is joined from many, so its latest time alone decides.
fn is_perhaps_alone(me: NodeId, entry: &Entry, delivered: Hlc) -> bool {
    let version = entry.record.version;
    version.hlc > delivered && (version.node == me || entry.kind != Kind::Value)
}

/// The files of what is laid out.
struct Layout {
    folder: PathBuf,
    puts: BTreeMap<Namespace, BufWriter<File>>,
    others: BufWriter<File>,
    count: LeftBehind,
}

impl Layout {
    fn new(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder.join(UNACKNOWLEDGED))?;
        let others = BufWriter::new(File::create(folder.join(OTHERS))?);
        Ok(Self { folder: folder.to_owned(), puts: BTreeMap::new(), others, count: LeftBehind::default() })
    }

    fn add(&mut self, now: WallMicros, entry: &Entry) -> io::Result<()> {
        let mut line = key_of(entry);
        if let State::Live(live) = &entry.record.state {
            line["op"] = json!("put");
            line["base64"] = json!(BASE64.encode(&live.value));
            if let Some(content_type) = &live.content_type {
                line["content_type"] = json!(**content_type);
            }
            if let Some(expires_at) = live.expires_at {
                line["ttl_ms"] = json!(expires_at.millis().saturating_sub(now.millis()).max(1));
            }
            self.count.puts += 1;
            return writeln!(self.file_of(&entry.ns)?, "{line}");
        }
        line["kind"] = json!(entry.kind.to_string());
        line["deleted"] = json!(matches!(entry.record.state, State::Tombstone));
        self.count.others += 1;
        writeln!(self.others, "{line}")
    }

    fn file_of(&mut self, ns: &Namespace) -> io::Result<&mut BufWriter<File>> {
        if !self.puts.contains_key(ns) {
            let path = self.folder.join(UNACKNOWLEDGED).join(format!("{ns}.ndjson"));
            self.puts.insert(ns.clone(), BufWriter::new(File::create(path)?));
        }
        self.puts.get_mut(ns).ok_or_else(|| io::Error::other("a file that was just opened is gone"))
    }

    fn finish(self) -> Result<LeftBehind, LayOutError> {
        for mut file in self.puts.into_values().chain([self.others]) {
            file.flush()?;
            file.get_ref().sync_all()?;
        }
        sync_directory(&self.folder.join(UNACKNOWLEDGED))?;
        sync_directory(&self.folder)?;
        Ok(self.count)
    }
}

/// Namespace and key as a line of an import has them.
fn key_of(entry: &Entry) -> Value {
    match std::str::from_utf8(entry.key.as_bytes()) {
        Ok(text) => json!({"ns": entry.ns.as_str(), "key": text}),
        Err(_) => json!({"ns": entry.ns.as_str(), "key_base64": BASE64.encode(entry.key.as_bytes())}),
    }
}

#[cfg(test)]
#[path = "start_over/tests.rs"]
mod tests;
