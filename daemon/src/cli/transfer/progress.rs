//! The bar on stderr: files, bytes, rate, time left. Silent when stderr is no terminal.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::super::units;

/// Drawn so often a second at most.
const DRAWS_PER_SECOND: u8 = 10;

/// How far a run is.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    bytes: AtomicU64,
}

impl Progress {
    /// A bar for a run that does `verb`, such as "importing". Its length is not known yet.
    pub(super) fn new(verb: &'static str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND));
        bar.set_style(style("{prefix} {pos} files, {msg}"));
        bar.set_prefix(verb);
        bar.enable_steady_tick(Duration::from_millis(250));
        Self { bar, bytes: AtomicU64::new(0) }
    }

    /// Whether anybody sees it.
    pub(super) fn is_shown(&self) -> bool {
        !self.bar.is_hidden()
    }

    /// How many there are in all.
    pub(super) fn set_total(&self, files: u64) {
        self.bar.set_length(files);
        self.bar.set_style(style("{prefix} [{bar:32}] {pos}/{len} files, {msg}, {eta} left"));
    }

    /// One more is done, of so many bytes.
    pub(super) fn advance(&self, bytes: u64) {
        let sum = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let seconds = self.bar.elapsed().as_secs().max(1);
        let files_per_second = self.bar.per_sec();
        self.bar.set_message(format!("{files_per_second:.0} files/s, {} ({}/s)", units::bytes(sum), units::bytes(sum / seconds)));
        self.bar.inc(1);
    }

    /// A line above the bar, on stderr even where there is no bar.
    pub(super) fn tell(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).map_or_else(|_| ProgressStyle::default_bar(), |style| style.progress_chars("=> "))
}
