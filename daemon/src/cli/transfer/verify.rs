//! `isochrone export --verify DIR`: are a namespace's keys a directory's files, byte for byte and type for type?

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use futures_util::{Stream, StreamExt, stream};
use isochrone_ident::Key;

use super::super::address::encoded;
use super::super::content_type;
use super::super::failure::Failure;
use super::export::{Source, collect, content_type_of, fetch, listing};
use super::paths::relative_path;
use super::walk::{FoundFile, Met, Walk};
use super::{Outcome, Summary};

type Compared = Result<(String, Outcome), Failure>;

/// Compares every file with its key, then looks for keys that have no file.
pub(super) async fn verify(source: &Arc<Source>, dir: &Path, concurrency: usize) -> Result<Summary, Failure> {
    let walk = Walk::new(dir).map_err(|error| Failure::file("compare with", dir, &error))?;
    let files = stream::iter(walk).map(|met| {
        let source = Arc::clone(source);
        async move { Ok(compare(&source, met).await) }
    });
    let all = files.buffer_unordered(concurrency).chain(keys_without_file(source, dir));
    collect("comparing", "compared", all).await
}

fn keys_without_file(source: &Arc<Source>, dir: &Path) -> impl Stream<Item = Compared> + use<> {
    let (dir, prefix) = (dir.to_owned(), source.prefix.clone());
    listing(source).filter_map(move |listed| {
        let found = listed.map(|listed| {
            let rest = listed.key.as_bytes().strip_prefix(&prefix[..]).unwrap_or_default();
            let has_file = relative_path(rest).is_ok_and(|path| dir.join(path).is_file());
            (!has_file).then(|| (encoded(listed.key.as_bytes()), differs("the directory has no such file", "only the key is there")))
        });
        std::future::ready(found.transpose())
    })
}

async fn compare(source: &Source, met: Met) -> (String, Outcome) {
    match met {
        Met::Skipped { path, why } => (path.display().to_string(), Outcome::Skipped { why: Some(why) }),
        Met::File(file) => {
            let outcome = compare_file(source, &file).await.unwrap_or_else(Outcome::Failed);
            (encoded(&[&source.prefix[..], &file.relative].concat()), outcome)
        }
    }
}

fn differs(title: &str, detail: impl Into<String>) -> Outcome {
    Outcome::Failed(Failure::failed(title, detail))
}

/// How far the value agrees with the file.
struct Comparison {
    file: File,
    bytes: u64,
    first_difference: Option<u64>,
}

async fn compare_file(source: &Source, found: &FoundFile) -> Result<Outcome, Failure> {
    let unreadable = |error| Failure::file("read", &found.path, &error);
    let key = Key::new([&source.prefix[..], &found.relative].concat())
        .map_err(|error| Failure::failed("its path is no key", error.to_string()))?;
    let start = || Ok(Comparison { file: File::open(&found.path).map_err(unreadable)?, bytes: 0, first_difference: None });
    let take = |comparison: &mut Comparison, piece: &[u8]| comparison.take(piece).map_err(unreadable);
    let Some((headers, comparison)) = fetch(source, &key, start, take).await? else {
        return Ok(differs("the key is absent", "only the file is there"));
    };
    let bytes = comparison.bytes;
    if let Some(offset) = comparison.first_difference {
        return Ok(differs("the bytes differ", format!("first at offset {offset}")));
    }
    if bytes != found.bytes {
        return Ok(differs("the sizes differ", format!("{bytes} bytes under the key, {} in the file", found.bytes)));
    }
    let wanted = content_type::of_file(&found.path).map_err(unreadable)?;
    match content_type_of(&headers) {
        Some(kind) if kind == wanted => Ok(Outcome::Done { bytes }),
        kind => {
            Ok(differs("the content types differ", format!("{} under the key, {wanted} for the file", kind.as_deref().unwrap_or("none"))))
        }
    }
}

impl Comparison {
    /// Compares the next piece. After a difference nothing is read any more.
    fn take(&mut self, piece: &[u8]) -> std::io::Result<()> {
        let offset = self.bytes;
        self.bytes += piece.len() as u64;
        if self.first_difference.is_some() {
            return Ok(());
        }
        let mut own = Vec::with_capacity(piece.len());
        (&mut self.file).take(piece.len() as u64).read_to_end(&mut own)?;
        let shared = own.iter().zip(piece).take_while(|(a, b)| a == b).count();
        if shared < own.len() {
            self.first_difference = Some(offset + shared as u64);
        }
        Ok(())
    }
}
