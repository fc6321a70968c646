//! Messages that wait to be sent on one channel: bounded, and sent many to a frame.

use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::node::core::lock;

/// What waits for one channel. A message that does not fit is dropped: whoever sent it asks again, or somebody else answers.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    filled: Notify,
    messages_max: usize,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Bytes>,
    bytes: usize,
    is_closed: bool,
}

impl Outbox {
    /// An empty one.
    pub(crate) fn new(messages_max: usize, bytes_max: usize) -> Self {
        Self { queue: Mutex::default(), filled: Notify::new(), messages_max, bytes_max }
    }

    /// Puts an encoded message behind the others. False when it was dropped, because there is no room or the channel is gone.
    pub(crate) fn push(&self, message: Bytes) -> bool {
        let mut queue = lock(&self.queue);
        let fits = queue.messages.len() < self.messages_max && (queue.bytes + message.len() <= self.bytes_max || queue.messages.is_empty());
        if queue.is_closed || !fits {
            return false;
        }
        queue.bytes += message.len();
        queue.messages.push_back(message);
        let is_first = queue.messages.len() == 1;
        drop(queue);
        if is_first {
            self.filled.notify_one();
        }
        true
    }

    /// Waits for messages, and takes as many as make up `frame_bytes`, at least one. `None` once it is closed.
    pub(crate) async fn take(&self, frame_bytes: usize) -> Option<Vec<Bytes>> {
        loop {
            {
                let mut queue = lock(&self.queue);
                if queue.is_closed {
                    return None;
                }
                if !queue.messages.is_empty() {
                    return Some(queue.take(frame_bytes));
                }
            }
            self.filled.notified().await;
        }
    }

    /// The channel is gone: what waits is dropped, and nothing more is taken.
    pub(crate) fn close(&self) {
        let mut queue = lock(&self.queue);
        *queue = Queue { is_closed: true, ..Queue::default() };
        drop(queue);
        self.filled.notify_one();
    }

    /// How many messages wait.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        lock(&self.queue).messages.len()
    }
}

impl Queue {
    fn take(&mut self, frame_bytes: usize) -> Vec<Bytes> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some(message) = self.messages.front() {
            bytes += message.len();
            if bytes > frame_bytes && !taken.is_empty() {
                break;
            }
            self.bytes -= message.len();
            taken.extend(self.messages.pop_front());
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize) -> Bytes {
        Bytes::from(vec![7; bytes])
    }

    #[tokio::test]
    async fn messages_leave_in_order_as_many_as_make_up_a_frame() {
        let outbox = Outbox::new(10, 100);
        for bytes in [10, 20, 30] {
            assert!(outbox.push(message(bytes)));
        }
        let sizes = |taken: Option<Vec<Bytes>>| taken.expect("it is open").iter().map(Bytes::len).collect::<Vec<_>>();
        assert_eq!(sizes(outbox.take(30).await), [10, 20]);
        assert_eq!(sizes(outbox.take(5).await), [30], "at least one");
    }

    #[tokio::test]
    async fn what_does_not_fit_is_dropped_and_a_closed_one_takes_nothing() {
        let outbox = Outbox::new(2, 100);
        assert!(outbox.push(message(500)), "one message may be larger than the bound");
        assert!(!outbox.push(message(1)));
        outbox.take(1).await;
        assert!(outbox.push(message(1)) && outbox.push(message(1)) && !outbox.push(message(1)));
        outbox.close();
        assert_eq!((outbox.push(message(1)), outbox.len(), outbox.take(1).await), (false, 0, None));
    }
}
