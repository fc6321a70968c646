//! How a command fails: an exit code that scripts can tell apart, and words that say what happened and what to do.

use std::fmt;
use std::io;
use std::process::ExitCode;

use serde::Deserialize;
use serde_json::{Value, json};

use super::args::OutputFormat;

/// Exit codes, part of the contract (the help of every command lists them).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Refused, or failed for a reason that the message gives.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// What was asked for does not exist.
    Absent = 3,
    /// The daemon cannot be reached.
    Unreachable = 4,
    /// 503: nothing was applied.
    NothingApplied = 5,
    /// 504: may yet be applied.
    OutcomeUnknown = 6,
    /// Some of it failed.
    Partly = 7,
    /// The daemon has to be run again, and begins with an empty store then.
    StartsOver = 8,
}

/// Why a command failed.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// What scripts see.
    pub(crate) exit: Exit,
    /// What happened, in few words.
    pub(crate) title: String,
    /// What exactly.
    pub(crate) detail: String,
    /// What to do about it.
    pub(crate) advice: Option<String>,
    /// The daemon's own words, when it refused.
    pub(crate) problem: Option<Value>,
    /// Nobody reads stdout any more: end without a word.
    pub(crate) is_silent: bool,
}

/// What of a problem body (RFC 9457) is used. Absent members are taken for empty: the sender may be a proxy.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    #[serde(rename = "type")]
    kind: String,
    title: String,
    detail: String,
}

impl Failure {
    /// A failure without advice.
    pub(crate) fn new(exit: Exit, title: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { exit, title: title.into(), detail: detail.into(), advice: None, problem: None, is_silent: false }
    }

    /// A plain failure: exit code 1.
    pub(crate) fn failed(title: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(Exit::Failed, title, detail)
    }

    /// A file that cannot be read or written.
    pub(crate) fn file(doing: &str, path: &std::path::Path, error: &io::Error) -> Self {
        let exit = if error.kind() == io::ErrorKind::NotFound { Exit::Absent } else { Exit::Failed };
        Self::new(exit, format!("cannot {doing} {}", path.display()), error.to_string())
    }

    /// The same with advice.
    #[must_use]
    pub(crate) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// What an answer with an error status means to whoever asked.
    #[must_use]
    pub(crate) fn of_answer(status: u16, body: &[u8]) -> Self {
        let value: Option<Value> = serde_json::from_slice(body).ok().filter(Value::is_object);
        let problem: Problem = value.clone().and_then(|v| serde_json::from_value(v).ok()).unwrap_or_default();
        let reason = http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("error");
        let title = if problem.title.is_empty() { reason.to_owned() } else { problem.title };
        let detail = match (problem.detail.is_empty(), value.is_some()) {
            (false, _) => problem.detail,
            (true, true) => format!("the daemon answered {status}"),
            (true, false) => format!("answered {status}: {}", excerpt(body)),
        };
        let mut failure = Self::new(exit_of(status), title, detail);
        failure.advice = advice_for(status, kind_name(&problem.kind)).map(str::to_owned);
        failure.problem = value;
        failure
    }

    /// Writes it to stderr in the given format.
    pub(crate) fn report(&self, format: OutputFormat) {
        if self.is_silent {
            return;
        }
        match format {
            OutputFormat::Text => eprintln!("error: {self}"),
            OutputFormat::Json => eprintln!("{}", self.json()),
        }
    }

    fn json(&self) -> Value {
        json!({"error": {
            "exit": self.exit as u8, "title": self.title, "detail": self.detail, "advice": self.advice, "problem": self.problem,
        }})
    }

    /// The process's exit code.
    #[must_use]
    pub(crate) fn exit_code(&self) -> ExitCode {
        if self.is_silent { ExitCode::SUCCESS } else { ExitCode::from(self.exit as u8) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.title)?;
        if !self.detail.is_empty() && self.detail != self.title {
            write!(f, ": {}", self.detail)?;
        }
        self.advice.as_ref().map_or(Ok(()), |advice| write!(f, "\n  {advice}"))
    }
}

impl std::error::Error for Failure {}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let detail = error.chain().skip(1).map(ToString::to_string).collect::<Vec<_>>().join(": ");
        Self::failed(error.to_string(), detail)
    }
}

/// Only stdout is written with `?` on a bare `io::Error`; everything else names its file ([`Failure::file`]).
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let mut failure = Self::failed("cannot write the result", error.to_string());
        failure.is_silent = error.kind() == io::ErrorKind::BrokenPipe;
        failure
    }
}

fn exit_of(status: u16) -> Exit {
    match status {
        404 => Exit::Absent,
        502 | 503 => Exit::NothingApplied,
        504 => Exit::OutcomeUnknown,
        _ => Exit::Failed,
    }
}

/// The last part of a problem's `type`, whatever URI stands before it.
fn kind_name(kind: &str) -> &str {
    kind.rsplit(['/', '#', ':']).next().unwrap_or(kind)
}

fn advice_for(status: u16, kind: &str) -> Option<&'static str> {
    Some(match (status, kind) {
        (_, "no-such-namespace") => "Declare the namespace in the cluster file and run `isochrone apply FILE`.",
        (_, "wrong-mode") => "The namespace's mode is fixed at creation: use another namespace, or another level of consistency.",
        (401, _) => "Give a token: --token-file FILE, or ISOCHRONE_TOKEN.",
        (403, _) => "This token lacks the right; `isochrone apply` a cluster file that grants it, or use another token.",
        (412, _) => "It changed in between: read it again, then decide.",
        (413, _) => "Make it smaller, or raise the limit (the keys of [limits] in the node file, or the namespace's own).",
        (429, _) => "Slow down, then run it again.",
        (503, _) => "Nothing was applied: it is safe to run it again.",
        (504, _) => "It may yet be applied: run it again with the same --idempotency-key, or read to find out.",
        (507, _) => "The store's budget is used up: delete something, or raise store.disk_bytes.",
        _ => return None,
    })
}

fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(200)]);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_body_gives_title_detail_and_advice() {
        let body =
            br#"{"type":"/problems/outcome-unknown","title":"Outcome unknown","status":504,"detail":"no answer in 2 s","retryable":true}"#;
        let failure = Failure::of_answer(504, body);
        assert_eq!(failure.exit, Exit::OutcomeUnknown);
        let text = failure.to_string();
        assert!(text.starts_with("Outcome unknown: no answer in 2 s\n"), "{text}");
        assert!(text.contains("--idempotency-key"), "{text}");
        assert_eq!(failure.json()["error"]["problem"]["retryable"], true);
    }

    #[test]
    fn an_answer_that_is_no_problem_body_still_reads_well() {
        let failure = Failure::of_answer(502, b"<html>\n bad   gateway</html>");
        assert_eq!(failure.to_string().lines().next(), Some("Bad Gateway: answered 502: <html> bad gateway</html>"));
        assert_eq!(Failure::of_answer(404, b"").exit, Exit::Absent);
    }

    #[test]
    fn a_closed_pipe_ends_without_a_word() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(failure.is_silent);
    }
}
