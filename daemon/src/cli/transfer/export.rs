//! `isochrone export`: a namespace's keys as files or lines. The comparison is in [`verify`](super::verify).

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, Method, Uri};
use isochrone_ident::{Key, Namespace};
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::super::address::{KeyAddress, encoded, url_query};
use super::super::args::{ExportArgs, OutputFormat};
use super::super::client::{Ask, Client, Patience};
use super::super::failure::{Exit, Failure};
use super::super::keys::{kv_path, random_name};
use super::line::Entry;
use super::paths::{make_parents, relative_path};
use super::progress::Progress;
use super::verify::verify;
use super::{MEMORY_BYTES, Outcome, Summary};

/// Keys a page of the listing.
const PAGE: usize = 1000;
/// How often a value whose transfer breaks off half way is fetched again.
const FETCHES: u32 = 3;

/// Where keys are read from: what every request of a run shares.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) client: Client,
    pub(super) namespace: Namespace,
    pub(super) prefix: Vec<u8>,
}

/// A key as the listing tells of it.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub(super) key: Key,
    pub(super) bytes: u64,
    pub(super) ttl: Option<Duration>,
}

#[derive(Debug, Deserialize)]
struct ListedLine {
    key: Option<String>,
    key_base64: Option<String>,
    #[serde(default)]
    bytes: u64,
    expires_in_ms: Option<u64>,
}

/// Exports.
///
/// # Errors
/// When the listing or the target fails; exit code 7 when some keys failed, differ, or the run was stopped.
pub(crate) async fn export(args: &ExportArgs, format: OutputFormat) -> Result<(), Failure> {
    let concurrency = usize::from(args.concurrency);
    let client = Client::new(&args.data.url, &args.data.access, Patience::of(args.attempts), concurrency)?;
    let source = Arc::new(Source { client, namespace: args.namespace.clone(), prefix: args.prefix.clone().into_bytes() });
    if let Some(dir) = &args.verify {
        let summary = verify(&source, dir, concurrency).await?;
        return summary.finish(format, false, "Import the directory again, then compare again.");
    }
    let is_stdout_taken = args.ndjson.as_deref() == Some(Path::new("-"));
    let run = async {
        match (&args.dir, &args.ndjson) {
            (Some(dir), _) => to_dir(&source, dir, concurrency).await,
            (None, Some(path)) => to_lines(&source, path, concurrency).await,
            (None, None) => Err(Failure::new(Exit::Usage, "one of --dir, --ndjson and --verify is wanted", "")),
        }
    };
    run.await?.finish(format, is_stdout_taken, "Run it again: what is there is written over.")
}

/// Every key with the prefix, page by page, in order.
pub(super) fn listing(source: &Arc<Source>) -> impl Stream<Item = Result<Listed, Failure>> + use<> {
    let first = format!("/v1/kv/{}?prefix={}&limit={PAGE}", source.namespace, url_query(&source.prefix));
    let state = (Arc::clone(source), Some(first), VecDeque::new());
    stream::try_unfold(state, |(source, mut next, mut page)| async move {
        loop {
            if let Some(listed) = page.pop_front() {
                return Ok(Some((listed, (source, next, page))));
            }
            let Some(path) = next else { return Ok(None) };
            (page, next) = fetch_page(&source, path).await?;
        }
    })
}

async fn fetch_page(source: &Source, path: String) -> Result<(VecDeque<Listed>, Option<String>), Failure> {
    let (headers, body) = source.client.document(&Ask::new(Method::GET, path.clone())).await?;
    let lines = body.split(|&b| b == b'\n').filter(|line| !line.trim_ascii().is_empty());
    let page = lines.map(listed).collect::<Result<VecDeque<_>, Failure>>()?;
    let next = next_page(&headers, &path);
    if next.as_ref() == Some(&path) {
        return Err(Failure::failed("the listing goes round in circles", path));
    }
    Ok((page, next))
}

fn listed(line: &[u8]) -> Result<Listed, Failure> {
    let wrong = |why: String| Failure::failed("the listing has a line that is none", why);
    let line: ListedLine = serde_json::from_slice(line).map_err(|error| wrong(error.to_string()))?;
    let key = match (line.key_base64, line.key) {
        (Some(encoded), _) => BASE64.decode(encoded).map_err(|error| wrong(error.to_string()))?,
        (None, Some(key)) => key.into_bytes(),
        (None, None) => return Err(wrong("it names no key".to_owned())),
    };
    let key = Key::new(key).map_err(|error| wrong(error.to_string()))?;
    Ok(Listed { key, bytes: line.bytes, ttl: line.expires_in_ms.map(Duration::from_millis) })
}

/// The target of `Link: <...>; rel="next"` (RFC 8288), as path and query; relative to `path` where it starts with a question mark.
fn next_page(headers: &HeaderMap, path: &str) -> Option<String> {
    let links = headers.get_all("link").into_iter().filter_map(|value| value.to_str().ok());
    let target = links.flat_map(|value| value.split(", <")).find_map(|link| {
        let (target, rest) = link.trim_start_matches('<').split_once('>')?;
        let is_next = rest.split(';').any(|part| matches!(part.trim(), "rel=next" | "rel=\"next\""));
        is_next.then_some(target)
    })?;
    if target.starts_with('?') {
        return Some(format!("{}{target}", path.split('?').next().unwrap_or(path)));
    }
    target.parse::<Uri>().ok()?.path_and_query().map(ToString::to_string)
}

/// Reads one value piece by piece into `sink`, which `start` makes anew for every attempt; `None` when the key is gone.
///
/// # Errors
/// When the daemon cannot give it, or the sink fails.
pub(super) async fn fetch<S>(
    source: &Source,
    key: &Key,
    mut start: impl FnMut() -> Result<S, Failure>,
    mut take: impl FnMut(&mut S, &[u8]) -> Result<(), Failure>,
) -> Result<Option<(HeaderMap, S)>, Failure> {
    let address = KeyAddress { namespace: source.namespace.clone(), key: key.clone() };
    let ask = Ask::new(Method::GET, kv_path(&address)?);
    let mut attempt = 1;
    'again: loop {
        let mut answer = match source.client.send(&ask).await {
            Err(failure) if failure.exit == Exit::Absent => return Ok(None),
            other => other?,
        };
        let mut sink = start()?;
        loop {
            match answer.chunk().await {
                Ok(Some(piece)) => take(&mut sink, &piece)?,
                Ok(None) => return Ok(Some((answer.headers().clone(), sink))),
                Err(error) if attempt == FETCHES => return Err(source.client.broke_off(&error)),
                Err(_) => {
                    attempt += 1;
                    continue 'again;
                }
            }
        }
    }
}

/// The content type that an answer carries.
pub(super) fn content_type_of(headers: &HeaderMap) -> Option<String> {
    headers.get("content-type").and_then(|value| value.to_str().ok()).map(str::to_owned)
}

async fn to_dir(source: &Arc<Source>, dir: &Path, concurrency: usize) -> Result<Summary, Failure> {
    std::fs::create_dir_all(dir).map_err(|error| Failure::file("make", dir, &error))?;
    let root: Arc<Path> = Arc::from(dir);
    let keys = listing(source).map(|listed| {
        let (source, root) = (Arc::clone(source), Arc::clone(&root));
        async move {
            let listed = listed?;
            let outcome = write_file(&source, &root, &listed).await.unwrap_or_else(Outcome::Failed);
            Ok((encoded(listed.key.as_bytes()), outcome))
        }
    });
    collect("exporting", "exported", keys.buffer_unordered(concurrency)).await
}

/// Counts outcomes as they come, until the last, an interrupt, or a listing that fails.
pub(super) async fn collect(
    doing: &'static str,
    done: &'static str,
    outcomes: impl Stream<Item = Result<(String, Outcome), Failure>>,
) -> Result<Summary, Failure> {
    let (mut summary, progress) = (Summary::new(done), Progress::new(doing));
    let mut outcomes = std::pin::pin!(outcomes);
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let next = tokio::select! { biased;
            _ = &mut interrupt => { summary.stopped = Some("it was interrupted".to_owned()); None }
            next = outcomes.next() => next,
        };
        match next {
            None => break,
            Some(Ok((label, outcome))) => {
                if let Some(line) = summary.count(&label, &outcome) {
                    progress.tell(&line);
                }
                progress.advance(if let Outcome::Done { bytes } = outcome { bytes } else { 0 });
            }
            // Nothing was done: the reason says more than a summary of nothing.
            Some(Err(failure)) if summary.is_empty() => return Err(failure),
            Some(Err(failure)) => {
                summary.stopped = Some(format!("{}: {}", failure.title, failure.detail));
                break;
            }
        }
    }
    progress.finish();
    Ok(summary)
}

/// A file that is written beside its place and takes it at once when whole.
struct Part {
    file: File,
    path: PathBuf,
    bytes: u64,
}

impl Drop for Part {
    fn drop(&mut self) {
        // Only there when the file never became whole.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn write_file(source: &Source, root: &Path, listed: &Listed) -> Result<Outcome, Failure> {
    let rest = listed.key.as_bytes().strip_prefix(&source.prefix[..]).unwrap_or_default();
    let relative = relative_path(rest).map_err(|error| Failure::failed("the key is refused as a path", error.to_string()))?;
    let target = root.join(&relative);
    let unwritable = |error: io::Error| Failure::file("write", &target, &error);
    make_parents(root, &relative).map_err(unwritable)?;
    let start = || {
        let path = target.with_file_name(random_name(".isochrone"));
        let file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(unwritable)?;
        Ok(Part { file, path, bytes: 0 })
    };
    let take = |part: &mut Part, piece: &[u8]| {
        part.bytes += piece.len() as u64;
        part.file.write_all(piece).map_err(unwritable)
    };
    match fetch(source, &listed.key, start, take).await? {
        None => Ok(Outcome::Skipped { why: None }),
        Some((_, part)) => {
            std::fs::rename(&part.path, &target).map_err(unwritable)?;
            Ok(Outcome::Done { bytes: part.bytes })
        }
    }
}

async fn to_lines(source: &Arc<Source>, path: &Path, concurrency: usize) -> Result<Summary, Failure> {
    let (mut sink, namespace) = (line_sink(path)?, source.namespace.clone());
    let memory = Arc::new(Semaphore::new(MEMORY_BYTES));
    // Shares are taken in the order of the listing, so that the line whose turn it is always has its own.
    let shared = listing(source).then(move |listed| {
        let memory = Arc::clone(&memory);
        async move {
            let listed = listed?;
            let share = u32::try_from(listed.bytes.min(MEMORY_BYTES as u64)).unwrap_or(0);
            Ok::<_, Failure>((memory.acquire_many_owned(share).await.ok(), listed))
        }
    });
    let lines = shared.map(|next| {
        let source = Arc::clone(source);
        async move {
            let (permit, listed) = next?;
            let line = line_of(&source, &listed).await;
            Ok::<_, Failure>((encoded(listed.key.as_bytes()), line, permit))
        }
    });
    let outcomes = lines.buffered(concurrency).map(|next| {
        let (label, line, _permit) = next?;
        Ok((label, write_line(&mut sink, line, &namespace, path)?))
    });
    let summary = collect("exporting", "exported", outcomes).await?;
    sink.flush().map_err(|error| Failure::file("write", path, &error))?;
    Ok(summary)
}

fn line_sink(path: &Path) -> Result<Box<dyn Write + Send>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(BufWriter::new(io::stdout())));
    }
    let file = File::create(path).map_err(|error| Failure::file("write", path, &error))?;
    Ok(Box::new(BufWriter::with_capacity(1 << 20, file)))
}

async fn line_of(source: &Source, listed: &Listed) -> Result<Option<Entry>, Failure> {
    let take = |value: &mut Vec<u8>, piece: &[u8]| {
        value.extend_from_slice(piece);
        Ok(())
    };
    let Some((headers, value)) = fetch(source, &listed.key, || Ok(Vec::new()), take).await? else { return Ok(None) };
    let rest = listed.key.as_bytes().strip_prefix(&source.prefix[..]).unwrap_or_default();
    let key = Key::new(rest.to_vec()).map_err(|_| Failure::failed("the key is all prefix", "nothing is left of it for the line"))?;
    Ok(Some(Entry { key, value: value.into(), content_type: content_type_of(&headers), ttl: listed.ttl }))
}

fn write_line(sink: &mut impl Write, line: Result<Option<Entry>, Failure>, namespace: &Namespace, path: &Path) -> Result<Outcome, Failure> {
    let entry = match line {
        Ok(Some(entry)) => entry,
        Ok(None) => return Ok(Outcome::Skipped { why: None }),
        Err(failure) => return Ok(Outcome::Failed(failure)),
    };
    let mut line = entry.format(namespace);
    line.push(b'\n');
    sink.write_all(&line).map_err(|error| Failure::file("write", path, &error))?;
    Ok(Outcome::Done { bytes: entry.value.len() as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(link: &str, path: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert("link", link.parse().expect("a header"));
        next_page(&headers, path)
    }

    #[test]
    fn the_next_page_is_found_however_the_link_is_written() {
        assert_eq!(next("</v1/kv/data?after=a>; rel=\"next\"", "/v1/kv/data").as_deref(), Some("/v1/kv/data?after=a"));
        assert_eq!(next("<?after=a>; rel=next", "/v1/kv/data?limit=1").as_deref(), Some("/v1/kv/data?after=a"));
        assert_eq!(next("<http://h:1/v1/kv/data?after=a>; rel=\"next\"", "/x").as_deref(), Some("/v1/kv/data?after=a"));
        assert_eq!(next("</a>; rel=\"prev\", </b>; rel=\"next\"", "/x").as_deref(), Some("/b"));
        assert_eq!(next("</a>; rel=\"prev\"", "/x"), None);
        assert_eq!(next("nonsense", "/x"), None);
    }

    #[test]
    fn listed_keys_are_text_or_base64() {
        assert_eq!(
            listed(br#"{"key":"a/b","etag":"\"1\"","bytes":3,"expires_in_ms":5}"#).expect("a line").ttl,
            Some(Duration::from_millis(5))
        );
        assert_eq!(listed(br#"{"key_base64":"/w==","bytes":3}"#).expect("a line").key.as_bytes(), b"\xff");
        assert!(listed(br#"{"bytes":3}"#).is_err());
        assert!(listed(b"[]").is_err());
    }
}
