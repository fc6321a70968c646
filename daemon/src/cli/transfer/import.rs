//! `isochrone import`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use isochrone_ident::{InvalidName, Key, Namespace};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

use super::super::address::{KeyAddress, encoded, os_string};
use super::super::args::{ImportArgs, OutputFormat};
use super::super::client::{Ask, Client, Patience, Payload};
use super::super::content_type;
use super::super::failure::{Exit, Failure};
use super::super::keys::{kv_path, random_name, ttl_text};
use super::super::state_dir;
use super::journal::{Head, Journal, Stamp};
use super::line::Entry;
use super::progress::Progress;
use super::walk::{FoundFile, Met, Walk};
use super::{MEMORY_BYTES, Outcome, Summary};

/// Files up to this size are read at once, larger ones as they are sent.
const WHOLE_BYTES_MAX: u64 = 256 << 10;
/// The longest line of an NDJSON file.
const LINE_BYTES_MAX: u64 = 96 << 20;
/// After an interrupt, what is under way gets so long.
const DRAIN: Duration = Duration::from_secs(5);

/// One key to write.
struct Item {
    key: Key,
    stamp: Stamp,
    value: Value,
    /// Its share of the memory that lines may take.
    permit: Option<OwnedSemaphorePermit>,
}

enum Value {
    File(PathBuf),
    Line(Entry),
}

/// What the source gives: a key to write, or something that cannot be one.
type Fed = Result<Item, Box<(String, Outcome)>>;

/// What one request ended as.
struct Written {
    label: String,
    stamp: Stamp,
    result: Result<Option<String>, Failure>,
}

/// What every request of a run shares.
struct Run {
    client: Client,
    namespace: Namespace,
    ttl: Option<Duration>,
    name: String,
}

/// Imports.
///
/// # Errors
/// When source or journal cannot be used; exit code 7 when some files failed or the run was stopped.
pub(crate) async fn import(args: &ImportArgs, format: OutputFormat) -> Result<(), Failure> {
    let concurrency = usize::from(args.concurrency);
    let client = Client::new(&args.data.url, &args.data.access, Patience::of(args.attempts), concurrency)?;
    let mut journal = open_journal(args)?;
    let progress = Arc::new(Progress::new("importing"));
    if args.resume || args.state.is_some() {
        progress.tell(&format!("{} keys are in the journal {}", journal.len(), journal.path().display()));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let fed = feed(args, &stop, &progress)?;
    let run = Arc::new(Run { client, namespace: args.namespace.clone(), ttl: args.ttl, name: random_name("import") });
    let summary = pump(&run, fed, concurrency, &mut journal, &progress, &stop).await?;
    progress.finish();
    summary.finish(format, false, "Run it again with --resume: what is done is skipped.")
}

fn open_journal(args: &ImportArgs) -> Result<Journal, Failure> {
    let source = args.dir.as_ref().or(args.ndjson.as_ref()).map(|path| std::fs::canonicalize(path).unwrap_or_else(|_| path.clone()));
    let source = source.unwrap_or_default().to_string_lossy().into_owned();
    let head = Head::new(source, args.namespace.to_string(), args.prefix.clone(), args.data.url.clone());
    let path = args.state.clone().map_or_else(|| state_dir().map(|dir| head.default_path(&dir)), Ok)?;
    Journal::open(&path, &head, args.resume || args.state.is_some())
}

/// Starts reading the source on a thread of its own, a little ahead of the requests.
fn feed(args: &ImportArgs, stop: &Arc<AtomicBool>, progress: &Arc<Progress>) -> Result<mpsc::Receiver<Fed>, Failure> {
    let (sender, fed) = mpsc::channel(usize::from(args.concurrency) * 2);
    let (prefix, stop) = (args.prefix.clone().into_bytes(), Arc::clone(stop));
    if let Some(dir) = &args.dir {
        let unusable = |error| Failure::file("import", dir, &error);
        if progress.is_shown() {
            let (walk, progress) = (Walk::new(dir).map_err(unusable)?, Arc::clone(progress));
            std::thread::spawn(move || progress.set_total(walk.filter(|met| matches!(met, Met::File(_))).count() as u64));
        }
        let walk = Walk::new(dir).map_err(unusable)?;
        std::thread::spawn(move || feed_files(walk, &prefix, &stop, &sender));
    } else if let Some(path) = &args.ndjson {
        let source = lines_of(path)?;
        let handle = tokio::runtime::Handle::current();
        std::thread::spawn(move || feed_lines(source, &prefix, &stop, &sender, &handle));
    }
    Ok(fed)
}

fn lines_of(path: &Path) -> Result<Box<dyn BufRead + Send>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::new(io::stdin())));
    }
    let file = File::open(path).map_err(|error| Failure::file("import", path, &error))?;
    Ok(Box::new(BufReader::with_capacity(1 << 20, file)))
}

fn feed_files(walk: Walk, prefix: &[u8], stop: &AtomicBool, sender: &mpsc::Sender<Fed>) {
    for met in walk {
        let fed = match met {
            Met::File(file) => file_item(file, prefix),
            Met::Skipped { path, why } => Err(Box::new((path.display().to_string(), Outcome::Skipped { why: Some(why) }))),
        };
        if stop.load(Ordering::Relaxed) || sender.blocking_send(fed).is_err() {
            return;
        }
    }
}

fn file_item(file: FoundFile, prefix: &[u8]) -> Fed {
    let key = key_of(prefix, &file.relative).map_err(|error| {
        let failure = Failure::failed("its path is no key", error.to_string());
        Box::new((file.path.display().to_string(), Outcome::Failed(failure)))
    })?;
    Ok(Item { key, stamp: Stamp { bytes: file.bytes, mark: file.modified_ns }, value: Value::File(file.path), permit: None })
}

fn key_of(prefix: &[u8], rest: &[u8]) -> Result<Key, InvalidName> {
    Key::new([prefix, rest].concat())
}

fn feed_lines(
    mut source: Box<dyn BufRead + Send>,
    prefix: &[u8],
    stop: &AtomicBool,
    sender: &mpsc::Sender<Fed>,
    handle: &tokio::runtime::Handle,
) {
    let memory = Arc::new(Semaphore::new(MEMORY_BYTES));
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let read = source.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        let (fed, is_last) = match read {
            Ok(0) => return,
            Ok(_) if line.trim_ascii().is_empty() => continue,
            Ok(count) if count as u64 == LINE_BYTES_MAX => (Err(bad_line(number, "longer than 96 MiB; the rest is not read")), true),
            Ok(_) => (line_item(&line, prefix, number), false),
            Err(error) => (Err(bad_line(number, &error.to_string())), true),
        };
        let fed = fed.map(|item| Item { permit: handle.block_on(share_of(&memory, item.stamp.bytes)), ..item });
        if stop.load(Ordering::Relaxed) || sender.blocking_send(fed).is_err() || is_last {
            return;
        }
    }
}

async fn share_of(memory: &Arc<Semaphore>, bytes: u64) -> Option<OwnedSemaphorePermit> {
    let share = u32::try_from(bytes).unwrap_or(u32::MAX).min(u32::try_from(MEMORY_BYTES).unwrap_or(u32::MAX));
    Arc::clone(memory).acquire_many_owned(share).await.ok()
}

fn bad_line(number: u64, why: &str) -> Box<(String, Outcome)> {
    Box::new((format!("line {number}"), Outcome::Failed(Failure::failed("the line cannot be imported", why))))
}

fn line_item(line: &[u8], prefix: &[u8], number: u64) -> Fed {
    let entry = Entry::parse(line).map_err(|error| bad_line(number, &error.to_string()))?;
    let key = key_of(prefix, entry.key.as_bytes()).map_err(|error| bad_line(number, &error.to_string()))?;
    let stamp = Stamp { bytes: entry.value.len() as u64, mark: xxh3_64(&entry.value) };
    Ok(Item { key, stamp, value: Value::Line(entry), permit: None })
}

/// Sends what is fed, at most `concurrency` at a time, and keeps the books.
async fn pump(
    run: &Arc<Run>,
    mut fed: mpsc::Receiver<Fed>,
    concurrency: usize,
    journal: &mut Journal,
    progress: &Progress,
    stop: &AtomicBool,
) -> Result<Summary, Failure> {
    let mut books = Books { summary: Summary::new("imported"), journal, progress, hopeless: 0, hopeless_max: concurrency };
    let mut under_way = JoinSet::new();
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let mut is_fed = true;
    while books.summary.stopped.is_none() && (is_fed || !under_way.is_empty()) {
        tokio::select! { biased;
            _ = &mut interrupt => books.summary.stopped = Some("it was interrupted".to_owned()),
            Some(done) = under_way.join_next() => books.written(done)?,
            next = fed.recv(), if is_fed && under_way.len() < concurrency => match next {
                None => is_fed = false,
                Some(Err(left)) => books.count(&left.0, &left.1),
                Some(Ok(item)) => if let Some(item) = books.unless_done(item) { under_way.spawn(write(Arc::clone(run), item)); },
            },
        }
    }
    stop.store(true, Ordering::Relaxed);
    drop(fed);
    books.drain(under_way).await?;
    Ok(books.summary)
}

/// What is written down about a run: journal, progress, summary.
struct Books<'a> {
    summary: Summary,
    journal: &'a mut Journal,
    progress: &'a Progress,
    /// How many requests in a row failed for a reason that all others will meet too.
    hopeless: usize,
    /// So many of them end the run.
    hopeless_max: usize,
}

impl Books<'_> {
    fn unless_done(&mut self, item: Item) -> Option<Item> {
        if self.journal.has(&encoded(item.key.as_bytes()), item.stamp) {
            self.count("", &Outcome::Skipped { why: None });
            return None;
        }
        Some(item)
    }

    fn count(&mut self, label: &str, outcome: &Outcome) {
        if let Some(line) = self.summary.count(label, outcome) {
            self.progress.tell(&line);
        }
        self.progress.advance(if let Outcome::Done { bytes } = outcome { *bytes } else { 0 });
    }

    fn written(&mut self, done: Result<Written, JoinError>) -> Result<(), Failure> {
        let Written { label, stamp, result } = done.map_err(|error| Failure::failed("a request's task ended early", error.to_string()))?;
        match result {
            Ok(etag) => {
                self.hopeless = 0;
                self.journal.note(&label, stamp, etag)?;
                // Cheap beside a request, and a run that is killed loses no more than what is under way.
                self.journal.flush()?;
                self.count(&label, &Outcome::Done { bytes: stamp.bytes });
            }
            Err(failure) => {
                self.hopeless = if is_hopeless(&failure) { self.hopeless + 1 } else { 0 };
                if self.hopeless >= self.hopeless_max {
                    self.summary.stopped.get_or_insert(format!("{}: {}", failure.title, failure.detail));
                }
                self.count(&label, &Outcome::Failed(failure));
            }
        }
        Ok(())
    }

    /// Waits a little for what is under way; what then still is counts as failed.
    async fn drain(&mut self, mut under_way: JoinSet<Written>) -> Result<(), Failure> {
        let end = Instant::now() + DRAIN;
        while let Ok(Some(done)) = tokio::time::timeout_at(end, under_way.join_next()).await {
            self.written(done)?;
        }
        for _ in 0..under_way.len() {
            self.count("a request", &Outcome::Failed(Failure::failed("cut off", "the run was stopped")));
        }
        self.journal.flush()
    }
}

/// No daemon, no right, no such namespace, no room: what one write meets, the next one will.
fn is_hopeless(failure: &Failure) -> bool {
    let status = failure.problem.as_ref().and_then(|problem| problem["status"].as_u64());
    failure.exit == Exit::Unreachable || matches!(status, Some(401 | 403 | 404 | 507))
}

async fn write(run: Arc<Run>, item: Item) -> Written {
    let label = encoded(item.key.as_bytes());
    let result = put(&run, &label, &item).await;
    drop(item.permit);
    Written { label, stamp: item.stamp, result }
}

/// Writes one key, and gives its `ETag`. The name makes every attempt of this run the same write.
async fn put(run: &Run, label: &str, item: &Item) -> Result<Option<String>, Failure> {
    let (payload, kind, ttl) = load(item)?;
    let address = KeyAddress { namespace: run.namespace.clone(), key: item.key.clone() };
    let query = ttl.or(run.ttl).map(|ttl| format!("?ttl={}", ttl_text(ttl))).unwrap_or_default();
    let name = format!("{}-{:016x}", run.name, xxh3_64(label.as_bytes()));
    let ask = Ask::new(Method::PUT, format!("{}{query}", kv_path(&address)?))
        .header("content-type", &kind)?
        .header("idempotency-key", &name)?
        .payload(payload);
    let (headers, _) = run.client.document(&ask).await?;
    Ok(headers.get("etag").and_then(|etag| etag.to_str().ok()).map(str::to_owned))
}

type Loaded = (Payload, String, Option<Duration>);

fn load(item: &Item) -> Result<Loaded, Failure> {
    match &item.value {
        Value::File(path) => {
            let (payload, kind) = load_file(path, item.stamp.bytes).map_err(|error| Failure::file("read", path, &error))?;
            Ok((payload, kind, None))
        }
        Value::Line(entry) => {
            let name = os_string(item.key.as_bytes());
            let kind = entry.content_type.clone().unwrap_or_else(|| content_type::of_bytes(Path::new(&name), &entry.value));
            Ok((Payload::Bytes(entry.value.clone()), kind, entry.ttl))
        }
    }
}

fn load_file(path: &Path, bytes: u64) -> io::Result<(Payload, String)> {
    if bytes <= WHOLE_BYTES_MAX {
        let mut value = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
        File::open(path)?.take(WHOLE_BYTES_MAX + 1).read_to_end(&mut value)?;
        if value.len() as u64 <= WHOLE_BYTES_MAX {
            let kind = content_type::of_bytes(path, &value);
            return Ok((Payload::Bytes(Bytes::from(value)), kind));
        }
    }
    Ok((Payload::File(path.to_owned()), content_type::of_file(path)?))
}
