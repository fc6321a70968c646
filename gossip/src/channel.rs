//! Channels: frames both ways on one QUIC stream, held back by the peer's reading (QUIC flow control).

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use crate::wire::{Answer, FrameError, frame_of, length_of, read_frame, read_header};

/// A stream of frames both ways. Dropping it ends it: properly if [`ChannelSender::finish`] was called, else as broken.
#[derive(Debug)]
pub struct Channel {
    sender: ChannelSender,
    receiver: ChannelReceiver,
}

/// The half that sends.
#[derive(Debug)]
pub struct ChannelSender {
    stream: quinn::SendStream,
    frame_bytes_max: usize,
    finished: bool,
    _permit: Option<Arc<OwnedSemaphorePermit>>,
}

/// The half that receives.
#[derive(Debug)]
pub struct ChannelReceiver {
    stream: quinn::RecvStream,
    frame_bytes_max: usize,
    /// Whether the peer's word that it took the channel has yet to be read.
    answer_due: bool,
    _permit: Option<Arc<OwnedSemaphorePermit>>,
}

/// Why a channel is of no more use. Whether the last frames arrived is unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// The peer did not take the channel: it has too many.
    #[error("the peer is busy")]
    Busy,
    /// The peer did not take the channel.
    #[error("the peer refused: {0}")]
    Refused(String),
    /// The frame is longer than allowed; nothing of it was sent, or none of it was read.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

impl Channel {
    /// A channel that we opened: the peer's answer comes before its first frame.
    pub(crate) fn opened(send: quinn::SendStream, receive: quinn::RecvStream, frame_bytes_max: usize) -> Self {
        Self::new(send, receive, frame_bytes_max, true, None)
    }

    /// A channel that a peer opened; says so to the peer.
    pub(crate) async fn accept(
        mut send: quinn::SendStream,
        receive: quinn::RecvStream,
        frame_bytes_max: usize,
        permit: OwnedSemaphorePermit,
    ) -> Result<Self, FrameError> {
        send.write_all(&frame_of(&Answer::Open)).await.map_err(|e| FrameError::Broken(e.to_string()))?;
        Ok(Self::new(send, receive, frame_bytes_max, false, Some(Arc::new(permit))))
    }

    fn new(
        send: quinn::SendStream,
        receive: quinn::RecvStream,
        frame_bytes_max: usize,
        answer_due: bool,
        permit: Option<Arc<OwnedSemaphorePermit>>,
    ) -> Self {
        Self {
            sender: ChannelSender { stream: send, frame_bytes_max, finished: false, _permit: permit.clone() },
            receiver: ChannelReceiver { stream: receive, frame_bytes_max, answer_due, _permit: permit },
        }
    }

    /// Sends a frame; see [`ChannelSender::send`].
    ///
    /// # Errors
    /// [`ChannelError`].
    pub async fn send(&mut self, frame: Bytes) -> Result<(), ChannelError> {
        self.sender.send(frame).await
    }

    /// Receives a frame; see [`ChannelReceiver::recv`].
    ///
    /// # Errors
    /// [`ChannelError`].
    pub async fn recv(&mut self) -> Result<Option<Bytes>, ChannelError> {
        self.receiver.recv().await
    }

    /// Ends our half properly.
    pub fn finish(&mut self) {
        self.sender.finish();
    }

    /// The two halves, to be used by different tasks.
    #[must_use]
    pub fn split(self) -> (ChannelSender, ChannelReceiver) {
        (self.sender, self.receiver)
    }
}

impl ChannelSender {
    /// Sends a frame; waits while the peer has too much unread. Not to be dropped half way: the stream would be broken.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] leaves the channel usable and sends nothing; after others it is of no more use.
    pub async fn send(&mut self, frame: Bytes) -> Result<(), ChannelError> {
        if frame.len() > self.frame_bytes_max {
            return Err(FrameError::TooLong { bytes: frame.len(), bytes_max: self.frame_bytes_max }.into());
        }
        let length = Bytes::copy_from_slice(&length_of(&frame));
        let sent = self.stream.write_all_chunks(&mut [length, frame]).await;
        Ok(sent.map_err(|e| FrameError::Broken(e.to_string()))?)
    }

    /// Ends our half properly: the peer receives `None` after the last frame.
    pub fn finish(&mut self) {
        self.finished = self.stream.finish().is_ok();
    }
}

impl Drop for ChannelSender {
    /// A half that ends without [`ChannelSender::finish`] ends as broken, so that the peer never takes a part for the whole.
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.stream.reset(crate::wire::CloseCode::Malformed.code());
        }
    }
}

impl ChannelReceiver {
    /// The next frame, or `None` when the peer ended its half properly. Not to be dropped half way.
    ///
    /// # Errors
    /// [`ChannelError`]; the channel is of no more use.
    pub async fn recv(&mut self) -> Result<Option<Bytes>, ChannelError> {
        if self.answer_due {
            match read_header(&mut self.stream, "answer").await? {
                Answer::Open => self.answer_due = false,
                Answer::Busy => return Err(ChannelError::Busy),
                Answer::Refused(reason) => return Err(ChannelError::Refused(reason)),
                Answer::Done | Answer::Late | Answer::Overran => return Err(FrameError::Malformed("answer").into()),
            }
        }
        Ok(read_frame(&mut self.stream, self.frame_bytes_max).await?)
    }
}
