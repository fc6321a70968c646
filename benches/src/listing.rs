//! A daemon's own listing of `data`: which keys it has, in which version. Where a daemon is a replica of every slot, as each of three
//! is, the listing comes from its own store alone.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Deserialize;

use crate::Failure;
use crate::cluster::PATIENCE;
use crate::wire::{self, Wire};

/// Keys a page.
const PAGE: u32 = 1000;

/// Keys with their entity tags.
pub type Keys = BTreeMap<String, String>;

#[derive(Debug, Deserialize)]
struct Line {
    key: Option<String>,
    key_base64: Option<String>,
    etag: String,
}

/// All keys that start with `prefix` (plain characters only), page by page.
///
/// # Errors
/// When the daemon does not answer, or not with a listing.
pub fn keys(address: SocketAddr, prefix: &str) -> Result<Keys, Failure> {
    let mut wire = Wire::connect(address, PATIENCE)?;
    let mut next = Some(format!("/v1/kv/data?prefix={prefix}&limit={PAGE}"));
    let mut keys = Keys::new();
    while let Some(path) = next {
        let answer = wire.ask(&wire::get(&path))?;
        if answer.status != 200 {
            return Err(format!("a listing was answered with {}: {}", answer.status, String::from_utf8_lossy(answer.body)).into());
        }
        read(answer.body, &mut keys)?;
        next = answer.field("link").and_then(next_page);
    }
    Ok(keys)
}

fn read(page: &[u8], keys: &mut Keys) -> Result<(), Failure> {
    for line in page.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
        let Line { key, key_base64, etag } = serde_json::from_slice(line)?;
        keys.insert(key.or(key_base64).unwrap_or_default(), etag);
    }
    Ok(())
}

/// The path of the next page in a `Link` field (RFC 8288).
fn next_page(link: &str) -> Option<String> {
    let (target, rest) = link.strip_prefix('<')?.split_once('>')?;
    rest.contains("rel=\"next\"").then(|| target.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_in_its_link() {
        assert_eq!(next_page("</v1/kv/data?after=a%2Fb>; rel=\"next\"").as_deref(), Some("/v1/kv/data?after=a%2Fb"));
        assert_eq!(next_page("</x>; rel=\"prev\""), None);
    }

    #[test]
    fn a_page_is_read_line_by_line() {
        let mut keys = Keys::new();
        let page = b"{\"key\":\"a\",\"etag\":\"\\\"1\\\"\",\"bytes\":3}\n{\"key_base64\":\"/w==\",\"etag\":\"\\\"2\\\"\",\"bytes\":1}\n";
        read(page, &mut keys).expect("a page");
        assert_eq!(keys["a"], "\"1\"");
        assert_eq!(keys.len(), 2);
        assert!(read(b"<html>", &mut keys).is_err());
    }
}
