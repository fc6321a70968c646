//! Bodies of answers.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use hyper::body::{Body, Frame, SizeHint};

use crate::activity::Working;

type Chunks = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

/// The body of an answer: all there, or made while it is sent.
pub struct ResponseBody {
    content: Content,
    /// Keeps the connection counted as busy until the body was sent or dropped.
    working: Option<Working>,
}

enum Content {
    Whole(Bytes),
    Stream(Chunks),
}

impl ResponseBody {
    /// No bytes at all.
    #[must_use]
    pub const fn empty() -> Self {
        Self::whole(Bytes::new())
    }

    /// These bytes.
    #[must_use]
    pub const fn whole(bytes: Bytes) -> Self {
        Self { content: Content::Whole(bytes), working: None }
    }

    /// What the stream gives, as it gives it.
    pub(crate) fn stream(chunks: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Self { content: Content::Stream(Box::pin(chunks)), working: None }
    }

    /// The length in bytes, where it is known.
    pub(crate) fn len(&self) -> Option<usize> {
        match &self.content {
            Content::Whole(bytes) => Some(bytes.len()),
            Content::Stream(_) => None,
        }
    }

    pub(crate) fn hold(&mut self, working: Working) {
        self.working = Some(working);
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.content {
            Content::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Content::Stream(chunks) => chunks.as_mut().poll_next(cx).map(|next| next.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.content, Content::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        self.len().map_or_else(SizeHint::default, |length| SizeHint::with_exact(length as u64))
    }
}
