//! HTTP/1.1 on one kept connection, as cheap as it gets: a request is bytes built beforehand, an answer is parsed no further than needed.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// An answer's head may have so many bytes, its body [`BODY_BYTES_MAX`].
const HEAD_BYTES_MAX: usize = 64 << 10;
const BODY_BYTES_MAX: usize = 64 << 20;

/// A connection. After an error it is of no use any more.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
    body: Vec<u8>,
}

/// An answer, until the next one is received.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// The status code.
    pub status: u16,
    head: &'a [u8],
    /// The body, whole.
    pub body: &'a [u8],
}

impl Answer<'_> {
    /// A header field's value, where it is there and ASCII.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        field(self.head, name)
    }

    /// Whether the status is 2xx.
    #[must_use]
    pub const fn is_ok(&self) -> bool {
        self.status / 100 == 2
    }
}

impl Wire {
    /// Connects. Every connect, read and write ends after `timeout` at the latest.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(address: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Self { stream, buffer: vec![0; 16 << 10], filled: 0, body: Vec::new() })
    }

    /// Sends a request and receives its answer.
    ///
    /// # Errors
    /// When the connection breaks, an answer is not HTTP, or the time is over.
    pub fn ask(&mut self, request: &[u8]) -> io::Result<Answer<'_>> {
        self.stream.write_all(request)?;
        self.receive()
    }

    fn receive(&mut self) -> io::Result<Answer<'_>> {
        self.filled = 0;
        let head_end = self.head()?;
        let head = &self.buffer[..head_end];
        let status = status(head)?;
        let length = field(head, "content-length").map(|text| text.parse::<usize>().map_err(io::Error::other)).transpose()?;
        let is_chunked = field(head, "transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
        if is_chunked {
            self.chunks(head_end)?;
            return Ok(Answer { status, head: &self.buffer[..head_end], body: &self.body });
        }
        let length = if status == 204 || status == 304 { 0 } else { length.unwrap_or(0) };
        if length > BODY_BYTES_MAX {
            return Err(invalid("the body is too long"));
        }
        while self.filled < head_end + length {
            self.fill()?;
        }
        Ok(Answer { status, head: &self.buffer[..head_end], body: &self.buffer[head_end..head_end + length] })
    }

    /// Reads until the head is whole; gives where it ends.
    fn head(&mut self) -> io::Result<usize> {
        let mut searched = 0_usize;
        loop {
            self.fill()?;
            let from = searched.saturating_sub(3);
            if let Some(at) = self.buffer[from..self.filled].windows(4).position(|four| four == b"\r\n\r\n") {
                return Ok(from + at + 4);
            }
            searched = self.filled;
            if searched > HEAD_BYTES_MAX {
                return Err(invalid("the head is too long"));
            }
        }
    }

    fn chunks(&mut self, head_end: usize) -> io::Result<()> {
        while !dechunk(&self.buffer[head_end..self.filled], &mut self.body)? {
            if self.filled > BODY_BYTES_MAX {
                return Err(invalid("the body is too long"));
            }
            self.fill()?;
        }
        Ok(())
    }

    fn fill(&mut self) -> io::Result<()> {
        if self.filled == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        match self.stream.read(&mut self.buffer[self.filled..])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.filled += count;
                Ok(())
            }
        }
    }
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn status(head: &[u8]) -> io::Result<u16> {
    let digits = head.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3));
    let text = digits.and_then(|digits| std::str::from_utf8(digits).ok());
    text.and_then(|text| text.parse().ok()).ok_or_else(|| invalid("not an answer of HTTP/1.1"))
}

fn field<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    head.split(|&b| b == b'\n').skip(1).find_map(|line| {
        let (own, rest) = line.split_at_checked(name.len())?;
        let value = rest.strip_prefix(b":")?;
        own.eq_ignore_ascii_case(name.as_bytes()).then(|| std::str::from_utf8(value.trim_ascii()).ok())?
    })
}

/// The bytes of a whole answer with a `Content-Length`, or without a body; `None` while its head is not whole.
///
/// # Errors
/// When it is not HTTP/1.1, or chunked.
pub fn length(answer: &[u8]) -> io::Result<Option<usize>> {
    let Some(at) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = &answer[..at + 4];
    let body = match field(head, "content-length") {
        Some(text) => text.parse::<usize>().map_err(io::Error::other)?,
        None if matches!(status(head)?, 204 | 304) => 0,
        None => return Err(invalid("an answer without a length")),
    };
    Ok(Some(head.len().saturating_add(body)))
}

/// Puts the data of a chunked body (RFC 9112 section 7.1) into `body`; false while there is more to come.
fn dechunk(mut raw: &[u8], body: &mut Vec<u8>) -> io::Result<bool> {
    body.clear();
    loop {
        let Some(end) = raw.windows(2).position(|two| two == b"\r\n") else { return Ok(false) };
        let digits = std::str::from_utf8(&raw[..end]).map_err(io::Error::other)?;
        let size = usize::from_str_radix(digits.split(';').next().unwrap_or("").trim(), 16).map_err(io::Error::other)?;
        let Some(data_end) = size.checked_add(end + 2) else { return Err(invalid("a chunk is too long")) };
        if raw.len() < data_end + 2 {
            return Ok(false);
        }
        if size == 0 {
            return Ok(true);
        }
        body.extend_from_slice(&raw[end + 2..data_end]);
        raw = &raw[data_end + 2..];
    }
}

/// A GET of a path.
#[must_use]
pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n").into_bytes()
}

/// A request with a body and further header fields, each ended by `\r\n`.
#[must_use]
pub fn with_body(method: &str, path: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {}\r\n{fields}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// A PUT of a value.
#[must_use]
pub fn put(path: &str, value: &[u8]) -> Vec<u8> {
    with_body("PUT", path, "Content-Type: application/octet-stream\r\n", value)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A server that sends each piece by itself, to whatever is asked.
    fn answered(pieces: &'static [&'static str]) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            stream.set_nodelay(true).expect("set");
            let _ = stream.read(&mut [0; 1024]);
            for piece in pieces {
                stream.write_all(piece.as_bytes()).expect("sent");
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Wire::connect(address, Duration::from_secs(5)).expect("connected")
    }

    #[test]
    fn an_answer_in_pieces_is_put_together() {
        let mut wire = answered(&["HTTP/1.1 200 OK\r\netag: \"v1\"\r\nContent-", "Length: 5\r\n\r", "\nhel", "lo"]);
        let answer = wire.ask(&get("/")).expect("answered");
        assert_eq!((answer.status, answer.body), (200, &b"hello"[..]));
        assert_eq!(answer.field("ETag"), Some("\"v1\""));
        assert_eq!(answer.field("Age"), None);
        assert!(answer.is_ok());
    }

    #[test]
    fn a_chunked_body_is_put_together() {
        let mut wire =
            answered(&["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nab", "c\r\nA;x=y\r\n0123456789\r\n", "0\r\n\r\n"]);
        assert_eq!(wire.ask(&get("/")).expect("answered").body, b"abc0123456789");
    }

    #[test]
    fn an_answer_cut_short_is_an_error() {
        let mut wire = answered(&["HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"]);
        assert_eq!(wire.ask(&get("/")).expect_err("cut").kind(), io::ErrorKind::UnexpectedEof);
        let mut wire = answered(&["SSH-2.0-OpenSSH\r\n\r\n"]);
        assert_eq!(wire.ask(&get("/")).expect_err("not HTTP").kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn no_body_is_waited_for_after_204() {
        let mut wire = answered(&["HTTP/1.1 204 No Content\r\netag: \"v\"\r\n\r\n"]);
        assert_eq!(wire.ask(&put("/", b"x")).expect("answered").status, 204);
    }
}
