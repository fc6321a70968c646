//! What a file's bytes are called: by the name's ending, and for text with a charset only where reading it makes that sure.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// What is called unknown.
const UNKNOWN: &str = "application/octet-stream";
/// Text is checked in pieces of this size.
const PIECE_BYTES: usize = 64 << 10;

/// The content type of a file.
///
/// # Errors
/// When its text cannot be read.
pub(crate) fn of_file(path: &Path) -> io::Result<String> {
    let kind = by_name(path);
    if kind.starts_with("text/") && is_utf8(&mut File::open(path)?)? { Ok(with_charset(&kind)) } else { Ok(kind) }
}

/// The content type of bytes under a file's name.
#[must_use]
pub(crate) fn of_bytes(path: &Path, bytes: &[u8]) -> String {
    let kind = by_name(path);
    let is_text = kind.starts_with("text/") && looks_plain(bytes) && std::str::from_utf8(bytes).is_ok();
    if is_text { with_charset(&kind) } else { kind }
}

fn by_name(path: &Path) -> String {
    mime_guess::from_path(path).first_raw().unwrap_or(UNKNOWN).to_owned()
}

fn with_charset(kind: &str) -> String {
    format!("{kind}; charset=utf-8")
}

/// No NUL (UTF-16, binary) and no escape (ISO 2022): without them, valid UTF-8 is UTF-8.
fn looks_plain(bytes: &[u8]) -> bool {
    !bytes.iter().any(|b| matches!(b, 0x00 | 0x1b))
}

fn is_utf8(source: &mut impl Read) -> io::Result<bool> {
    let mut buffer = vec![0; PIECE_BYTES];
    let mut kept = 0;
    loop {
        let count = source.read(&mut buffer[kept..])?;
        let bytes = &buffer[..kept + count];
        if !looks_plain(bytes) {
            return Ok(false);
        }
        let valid = match std::str::from_utf8(bytes) {
            Ok(_) => bytes.len(),
            // A character that the piece's end cuts in two: its first bytes go before the next piece.
            Err(error) if error.error_len().is_none() && count > 0 => error.valid_up_to(),
            Err(_) => return Ok(false),
        };
        if count == 0 {
            return Ok(true);
        }
        let end = kept + count;
        buffer.copy_within(valid..end, 0);
        kept = end - valid;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, bytes: &[u8]) -> String {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        let from_file = of_file(&path).expect("read");
        assert_eq!(from_file, of_bytes(&path, bytes), "both ways agree");
        from_file
    }

    #[test]
    fn text_has_a_charset_only_where_it_is_sure() {
        assert_eq!(of("a.html", "<p>é".as_bytes()), "text/html; charset=utf-8");
        assert_eq!(of("a.html", b"<p>\xe9"), "text/html");
        assert_eq!(of("a.txt", b"h\0i\0"), "text/plain");
        assert_eq!(of("a.txt", b"\x1b$B%F%9"), "text/plain");
        assert_eq!(of("a.json", b"{}"), "application/json");
        assert_eq!(of("a.woff2", b"x"), "font/woff2");
        assert_eq!(of("LICENSE", b"x"), "application/octet-stream");
    }

    #[test]
    fn a_character_across_two_pieces_is_no_mistake() {
        let mut text = "x".repeat(PIECE_BYTES - 1);
        text.push('é');
        text.push_str("tail");
        assert_eq!(of("a.css", text.as_bytes()), "text/css; charset=utf-8");
        assert_eq!(of("a.css", &text.as_bytes()[..PIECE_BYTES]), "text/css");
    }
}
