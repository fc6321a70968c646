//! Cuts the body of a batch into lines.

use bytes::{Buf, Bytes, BytesMut};

use crate::budget::Held;
use crate::limits::EdgeLimits;
use crate::problem::Problem;
use crate::upload::{self, Pace, RequestBody};

/// A batch's part of the memory for bodies.
pub(super) struct Memory {
    pub(super) held: Held,
    /// Never less than this, so that what was announced finds its room.
    pub(super) least: u64,
}

impl Memory {
    fn hold(&mut self, bytes: usize) -> Result<(), Problem> {
        self.held.hold(self.least.max(bytes as u64))
    }
}

/// Cuts a body into lines.
pub(super) struct Lines<B> {
    body: B,
    pace: Pace,
    memory: Memory,
    /// So many bytes may still come.
    body_bytes_left: u64,
    body_bytes_max: u64,
    buffer: BytesMut,
    /// So many bytes of the buffer hold no line's end.
    searched: usize,
    bytes_max: usize,
    is_skipping: bool,
    is_over: bool,
}

/// One line, or why there is none.
#[derive(Debug, PartialEq)]
pub(super) enum Line {
    /// Its text, not empty, without its end.
    Text(Bytes),
    /// It was longer than allowed, and was thrown away.
    TooLong,
    /// The body broke off; a line that was begun is not carried out. The last one.
    Broken(Problem),
}

impl<B: RequestBody> Lines<B> {
    pub(super) fn new(body: B, limits: &EdgeLimits, memory: Memory) -> Self {
        Self {
            body,
            pace: Pace::of_stream(limits),
            memory,
            body_bytes_left: limits.batch_bytes,
            body_bytes_max: limits.batch_bytes,
            buffer: BytesMut::new(),
            searched: 0,
            bytes_max: limits.batch_line_bytes,
            is_skipping: false,
            is_over: false,
        }
    }

    /// The next line; `None` after the last. `ahead_bytes` of lines that were given are still worked on. Safe to drop half way.
    pub(super) async fn next(&mut self, ahead_bytes: usize) -> Option<Line> {
        self.pace.wait_anew();
        loop {
            if let Some(line) = self.cut() {
                return Some(line);
            }
            if self.is_over {
                return None;
            }
            if let Err(problem) = self.read(ahead_bytes).await {
                self.is_over = true;
                self.buffer.clear();
                self.searched = 0;
                self.is_skipping = false;
                return Some(Line::Broken(problem));
            }
        }
    }

    /// Reads on, as far as the body's bounds allow.
    async fn read(&mut self, ahead_bytes: usize) -> Result<(), Problem> {
        self.memory.hold(self.buffer.len() + ahead_bytes)?;
        let Some(bytes) = upload::next(&mut self.body, &mut self.pace).await? else {
            self.is_over = true;
            return Ok(());
        };
        let left = self.body_bytes_left.checked_sub(bytes.len() as u64);
        self.body_bytes_left = left.ok_or_else(|| upload::too_large(self.body_bytes_max))?;
        self.memory.hold(self.buffer.len() + bytes.len() + ahead_bytes)?;
        self.buffer.extend_from_slice(&bytes);
        Ok(())
    }

    /// A line out of what is in the buffer.
    fn cut(&mut self) -> Option<Line> {
        loop {
            match self.buffer[self.searched..].iter().position(|&b| b == b'\n') {
                Some(at) => {
                    let text = self.buffer.split_to(self.searched + at).freeze();
                    self.buffer.advance(1);
                    self.searched = 0;
                    if let Some(line) = self.line(text) {
                        return Some(line);
                    }
                }
                None if self.is_over => return self.last(),
                None => {
                    self.shorten();
                    return None;
                }
            }
        }
    }

    fn last(&mut self) -> Option<Line> {
        self.searched = 0;
        let text = self.buffer.split().freeze();
        self.line(text)
    }

    /// Blank lines are no lines.
    fn line(&mut self, text: Bytes) -> Option<Line> {
        if std::mem::take(&mut self.is_skipping) || text.len() > self.bytes_max {
            return Some(Line::TooLong);
        }
        let is_blank = text.trim_ascii().is_empty();
        (!is_blank).then_some(Line::Text(text))
    }

    /// A line that is already too long is not kept.
    fn shorten(&mut self) {
        if self.is_skipping || self.buffer.len() > self.bytes_max {
            self.is_skipping = true;
            self.buffer.clear();
        }
        self.searched = self.buffer.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::BodyBudget;
    use crate::problem::Kind;
    use futures_util::stream::{self, StreamExt};
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn limits(line: usize) -> EdgeLimits {
        EdgeLimits { batch_line_bytes: line, ..EdgeLimits::default() }
    }

    fn memory(bytes: u64) -> Memory {
        Memory { held: BodyBudget::new(bytes).hold(0).expect("nothing is held"), least: 0 }
    }

    fn lines_of(chunks: Vec<Vec<u8>>, line_max: usize) -> Vec<Line> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let frames = chunks.into_iter().map(|chunk| Ok::<_, Infallible>(Frame::data(Bytes::from(chunk))));
        runtime.block_on(async move {
            let mut lines = Lines::new(StreamBody::new(stream::iter(frames)), &limits(line_max), memory(1000));
            let mut all = Vec::new();
            while let Some(line) = lines.next(0).await {
                all.push(line);
            }
            all
        })
    }

    #[test]
    fn a_line_that_is_too_long_fails_alone() {
        let all = lines_of(vec![b"ab\n".to_vec(), b"cdefg".to_vec(), b"hij\nkl\n\n \r\nm".to_vec()], 4);
        let text = |t: &'static str| Line::Text(Bytes::from(t));
        assert_eq!(all, vec![text("ab"), Line::TooLong, text("kl"), text("m")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_falls_silent_in_the_midst_of_a_line_breaks_off_without_it() {
        let frames = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from("a\nhalf")))]).chain(stream::pending());
        let mut lines = Lines::new(StreamBody::new(frames), &limits(100), memory(1000));
        assert_eq!(lines.next(0).await, Some(Line::Text(Bytes::from("a"))));
        assert!(matches!(lines.next(0).await, Some(Line::Broken(problem)) if problem.kind == Kind::TooSlow));
        assert_eq!(lines.next(0).await, None);
    }

    #[tokio::test]
    async fn an_empty_body_has_no_lines() {
        assert_eq!(Lines::new(Full::new(Bytes::new()), &limits(9), memory(1000)).next(0).await, None);
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_the_body_is_cut(text in "[a-c\n ]{0,60}", cut in 1usize..9, longest in 1usize..12) {
            let whole = lines_of(vec![text.clone().into_bytes()], longest);
            let pieces = lines_of(text.as_bytes().chunks(cut).map(<[u8]>::to_vec).collect(), longest);
            prop_assert_eq!(whole, pieces);
        }
    }
}
