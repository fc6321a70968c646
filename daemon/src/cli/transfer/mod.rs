//! Import and export: many keys at once, bounded in memory and connections, told as they go, and taken up again where they
//! stopped.
//!
//! ```text
//! import:  walk or lines --> at most N requests, each repeated under its own Idempotency-Key --> journal, progress, summary
//! export:  pages of the listing --> at most N reads --> files (never outside the directory), lines, or a comparison
//! ```

mod export;
mod import;
mod journal;
mod line;
mod paths;
mod progress;
mod verify;
mod walk;

#[cfg(test)]
mod fake_daemon;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

pub(crate) use export::export;
pub(crate) use import::import;

use super::args::OutputFormat;
use super::failure::{Exit, Failure};
use super::output::show;
use super::units;

/// So many failures are named one by one; the rest is counted.
const NAMED_FAILURES_MAX: usize = 20;
/// Values that are in memory at one time, in bytes: whole lines need whole values.
const MEMORY_BYTES: usize = 64 << 20;

/// What became of one file or key.
#[derive(Debug)]
enum Outcome {
    /// Written, read or found equal; so many bytes.
    Done { bytes: u64 },
    /// Left out on purpose, with the reason where it is worth telling.
    Skipped { why: Option<String> },
    /// Not done.
    Failed(Failure),
}

/// The count of a whole run.
#[derive(Debug)]
struct Summary {
    verb: &'static str,
    started: Instant,
    files: u64,
    bytes: u64,
    skipped: u64,
    failed: u64,
    named: Vec<Value>,
    stopped: Option<String>,
}

impl Summary {
    fn new(verb: &'static str) -> Self {
        Self { verb, started: Instant::now(), files: 0, bytes: 0, skipped: 0, failed: 0, named: Vec::new(), stopped: None }
    }

    /// Counts one outcome, and gives the line that tells of it, if it is one to be told.
    fn count(&mut self, label: &str, outcome: &Outcome) -> Option<String> {
        match outcome {
            Outcome::Done { bytes } => {
                self.files += 1;
                self.bytes += bytes;
                None
            }
            Outcome::Skipped { why } => {
                self.skipped += 1;
                why.as_ref().map(|why| format!("skipped {label}: {why}"))
            }
            Outcome::Failed(failure) => {
                self.failed += 1;
                if self.named.len() >= NAMED_FAILURES_MAX {
                    return None;
                }
                self.named.push(json!({"key": label, "title": failure.title, "detail": failure.detail}));
                Some(format!("failed {label}: {}: {}", failure.title, failure.detail))
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.files + self.skipped + self.failed == 0
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    fn rate(&self, count: u64, took: Duration) -> f64 {
        count as f64 / took.as_secs_f64().max(0.001)
    }

    /// The line a run ends with.
    fn json(&self, took: Duration) -> Value {
        json!({
            "action": self.verb, "files": self.files, "bytes": self.bytes, "seconds": round(took.as_secs_f64()),
            "files_per_second": round(self.rate(self.files, took)), "skipped": self.skipped, "failed": self.failed,
            "failures": self.named, "stopped": self.stopped,
        })
    }

    fn text(&self, took: Duration) -> String {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate for people")]
        let bytes_per_second = self.rate(self.bytes, took) as u64;
        format!(
            "{} {} files, {} in {:.1} s ({:.0} files/s, {}/s); {} skipped, {} failed",
            self.verb,
            self.files,
            units::bytes(self.bytes),
            took.as_secs_f64(),
            self.rate(self.files, took),
            units::bytes(bytes_per_second),
            self.skipped,
            self.failed,
        )
    }

    /// Writes the summary (to stderr when stdout carries the data), and turns failures into exit code 7.
    fn finish(self, format: OutputFormat, is_stdout_taken: bool, advice: &str) -> Result<(), Failure> {
        let took = self.started.elapsed();
        match (is_stdout_taken, format) {
            (false, _) => show(format, &self.json(took), |_| self.text(took))?,
            (true, OutputFormat::Json) => eprintln!("{}", self.json(took)),
            (true, OutputFormat::Text) => eprintln!("{}", self.text(took)),
        }
        if let Some(reason) = self.stopped {
            return Err(Failure::new(Exit::Partly, "stopped before the end", reason).advise(advice));
        }
        if self.failed > 0 {
            let detail = format!("{} of {}", self.failed, self.files + self.skipped + self.failed);
            return Err(Failure::new(Exit::Partly, "not all of it was done", detail).advise(advice));
        }
        Ok(())
    }
}

fn round(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}
