//! What can be observed of a run, folded into one number.

use std::time::Duration;

use xxhash_rust::xxh3::Xxh3;

/// A hash over every observable event in order: packets (their contents are encrypted under fresh keys, so only their times, ends and lengths
/// count), clients' answers, and changes of the council's leader.
pub struct Trace {
    hasher: Xxh3,
    events: u64,
    shown: bool,
}

impl Trace {
    /// An empty trace. With `shown`, every event is printed as well, for comparing two runs line by line.
    #[must_use]
    pub fn new(shown: bool) -> Self {
        Self { hasher: Xxh3::new(), events: 0, shown }
    }

    /// Takes in an event.
    pub fn note(&mut self, at: Duration, event: std::fmt::Arguments<'_>) {
        let line = format!("{:>12} {event}\n", at.as_micros());
        self.events += 1;
        self.hasher.update(line.as_bytes());
        if self.shown {
            print!("{line}");
        }
    }

    /// The hash so far, and how many events it is over.
    #[must_use]
    pub fn digest(&self) -> (u64, u64) {
        (self.hasher.digest(), self.events)
    }
}
