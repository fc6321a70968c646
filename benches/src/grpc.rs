//! gRPC over HTTP/2 (RFC 9113) by hand, as far as one unary call after the other on a connection of its own goes: a request is bytes built beforehand,
//! in which only the stream's number changes, and an answer is looked at no further than to see whether it is whole and good.
//!
//! ```text
//! opening   preface, SETTINGS, a window that never has to be widened again
//! request   HEADERS (nothing of it indexed: there is no table to keep), DATA: 5 bytes of gRPC, then the message
//! answer    HEADERS, DATA where the call went well, HEADERS with the end of the stream
//! ```
//!
//! Pings are not answered: servers in Go use them only to size their windows, which one small call at a time does not fill.

use std::io;

/// Length, type, flags, stream (RFC 9113 section 4.1).
const FRAME_HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
/// The window at the start (RFC 9113 section 6.9.2), and the most that it may be.
const WINDOW: u32 = 65_535;
const WINDOW_MAX: u32 = (1 << 31) - 1;
/// What a message is preceded by: whether it is compressed, and its length.
const MESSAGE_HEAD: usize = 5;

/// What a client sends first.
#[must_use]
pub fn opening() -> Vec<u8> {
    let widen = (WINDOW_MAX - WINDOW).to_be_bytes();
    [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &[]), &frame(WINDOW_UPDATE, 0, 0, &widen)].concat()
}

/// What it sends once it has the server's settings.
#[must_use]
pub fn settled() -> Vec<u8> {
    frame(SETTINGS, ACK, 0, &[])
}

/// A unary call on the first stream. The method's path and the message must be short (127 and 16,000 bytes).
#[must_use]
pub fn unary(path: &str, message: &[u8]) -> Vec<u8> {
    // RFC 7541: POST and http stand in its table of fields (appendix A); literals are not indexed (section 6.2.2).
    let mut head = vec![0x83, 0x86];
    literal(&mut head, &[0x04], path);
    literal(&mut head, &[0x01], "bench");
    literal(&mut head, &[0x0f, 0x10], "application/grpc");
    head.extend_from_slice(b"\x00\x02te");
    literal(&mut head, &[], "trailers");
    let mut body = vec![0];
    body.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    body.extend_from_slice(message);
    [frame(HEADERS, END_HEADERS, 1, &head), frame(DATA, END_STREAM, 1, &body)].concat()
}

fn literal(head: &mut Vec<u8>, name: &[u8], value: &str) {
    head.extend_from_slice(name);
    head.push(u8::try_from(value.len()).unwrap_or(0) & 0x7f);
    head.extend_from_slice(value.as_bytes());
}

/// A field of bytes in a message of Protocol Buffers.
#[must_use]
pub fn bytes_field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length > 0x7f {
        field.push(length as u8 | 0x80);
        length >>= 7;
    }
    field.push(length as u8);
    field.extend_from_slice(bytes);
    field
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Puts the stream's number into every frame of a request.
pub fn renumber(request: &mut [u8], stream: u32) {
    let mut at = 0;
    while let Some(whole) = request.get(at..).and_then(length) {
        request[at + 5..at + FRAME_HEAD].copy_from_slice(&stream.to_be_bytes());
        at += whole;
    }
}

/// The length of the frame at the start; `None` while it is not whole.
fn length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.get(..FRAME_HEAD)?;
    let length = FRAME_HEAD + u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    (bytes.len() >= length).then_some(length)
}

/// The whole frames at the start.
fn frames(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (frame, rest) = bytes.split_at(length(bytes)?);
        bytes = rest;
        Some(frame)
    })
}

/// How many bytes of whole frames stand at the start.
#[must_use]
pub fn whole(bytes: &[u8]) -> usize {
    frames(bytes).map(<[u8]>::len).sum()
}

/// Whether the server's settings are there.
#[must_use]
pub fn has_settings(bytes: &[u8]) -> bool {
    frames(bytes).any(|frame| frame[3] == SETTINGS)
}

/// Whether the stream's call went well; `None` while there is more to come. Only a call that went well has a message.
///
/// # Errors
/// When the server ends the connection.
pub fn judged(answer: &[u8], stream: u32) -> io::Result<Option<bool>> {
    let mut has_message = false;
    for frame in frames(answer) {
        let (kind, flags) = (frame[3], frame[4]);
        let is_own = frame[5..FRAME_HEAD] == stream.to_be_bytes();
        match kind {
            GO_AWAY => return Err(io::ErrorKind::ConnectionAborted.into()),
            RESET if is_own => return Ok(Some(false)),
            DATA if is_own => has_message |= frame.len() >= FRAME_HEAD + MESSAGE_HEAD,
            _ => {}
        }
        if is_own && matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            return Ok(Some(has_message));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_two_frames_of_one_stream() {
        let mut call = unary("/s/m", &bytes_field(1, b"key"));
        renumber(&mut call, 7);
        let frames: Vec<&[u8]> = frames(&call).collect();
        assert_eq!(frames.len(), 2);
        assert!(frames.iter().all(|frame| frame[5..FRAME_HEAD] == [0, 0, 0, 7]));
        assert!(frames[0].ends_with(b"\x00\x02te\x08trailers"));
        assert_eq!(frames[1][FRAME_HEAD..], *b"\x00\x00\x00\x00\x05\x0a\x03key");
        assert_eq!(whole(&call), call.len());
        assert_eq!(whole(&call[..call.len() - 1]), frames[0].len());
    }

    #[test]
    fn a_long_field_has_its_length_in_two_bytes() {
        assert_eq!(bytes_field(2, &[b'x'; 256])[..3], [0x12, 0x80, 0x02]);
    }

    #[test]
    fn an_answer_with_a_message_is_good_and_one_without_is_not() {
        let head = frame(HEADERS, END_HEADERS, 3, b"x");
        let message = frame(DATA, 0, 3, b"\x00\x00\x00\x00\x00");
        let end = frame(HEADERS, END_HEADERS | END_STREAM, 3, b"y");
        let other = frame(HEADERS, END_HEADERS | END_STREAM, 1, b"z");
        let judge = |parts: &[&[u8]]| judged(&parts.concat(), 3).expect("goes on");
        assert_eq!(judge(&[&other, &head, &message]), None);
        assert_eq!(judge(&[&other, &head, &message, &end]), Some(true));
        assert_eq!(judge(&[&head, &end]), Some(false));
        assert_eq!(judge(&[&frame(RESET, 0, 3, &[0; 4])]), Some(false));
        assert!(judged(&frame(GO_AWAY, 0, 0, &[0; 8]), 3).is_err());
    }
}
