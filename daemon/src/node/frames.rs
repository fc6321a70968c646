//! A channel's frames as a queue that can be waited on beside other things.

use bytes::Bytes;
use isochrone_gossip::ChannelReceiver;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Frames that wait to be taken; beyond it QUIC's flow control holds the peer back.
const QUEUE: usize = 8;

/// Frames of one channel. Receiving from a channel must not be given up half way, so a task of its own does it.
pub(crate) struct Frames {
    queue: mpsc::Receiver<Result<Bytes, String>>,
    task: JoinHandle<()>,
}

impl Frames {
    /// Begins to receive.
    pub(crate) fn of(mut receiver: ChannelReceiver) -> Self {
        let (put, queue) = mpsc::channel(QUEUE);
        let task = tokio::spawn(async move {
            loop {
                let frame = match receiver.recv().await {
                    Ok(Some(frame)) => Ok(frame),
                    Ok(None) => return,
                    Err(e) => Err(e.to_string()),
                };
                let ended = frame.is_err();
                if put.send(frame).await.is_err() || ended {
                    return;
                }
            }
        });
        Self { queue, task }
    }

    /// The next frame, `None` at a proper end, or why the channel broke. May be given up half way.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, String>> {
        self.queue.recv().await
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.task.abort();
    }
}
