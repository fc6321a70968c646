//! `repair`: asks a daemon to compare its keys with every other replica (rule E6), and follows how far it is.

use std::time::Duration;

use http::Method;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::args::{OutputFormat, RepairArgs};
use super::client::{Ask, Client, Payload};
use super::failure::{Exit, Failure};
use super::output::show;
use super::units;

/// The longest line that tells how far a repair is; it names each peer that could not be reached.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Drawn so often a second at most.
const DRAWS_PER_SECOND: u8 = 10;

/// One line of the answer. All figures count from the start of the repair. Absent members are taken for none: fields are only ever added.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Progress {
    slots_done: u64,
    slots: u64,
    keys_compared: u64,
    keys_differing: u64,
    keys_pulled: u64,
    keys_pushed: u64,
    bytes_received: u64,
    bytes_sent: u64,
    failures: Vec<Unreached>,
    done: bool,
}

/// A peer that could not be compared with.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Unreached {
    peer: String,
    region: String,
    slots: u64,
    reason: String,
}

/// `isochrone repair`.
///
/// # Errors
/// When the daemon cannot be asked or refuses; exit code 7 when a peer was not compared with, or the answer ends before the repair does.
pub(crate) async fn repair(args: &RepairArgs, format: OutputFormat) -> Result<(), Failure> {
    let client = Client::following(&args.admin.admin_url, &args.admin.access)?;
    let (started, bar) = (Instant::now(), bar());
    let last = follow(&client, &repair_ask(args)?, |progress| draw(&bar, progress)).await;
    bar.finish_and_clear();
    let (line, progress) = last?;
    let took = started.elapsed();
    show(format, &with_seconds(line, took), |_| summary(&progress, took))?;
    outcome(&progress)
}

fn repair_ask(args: &RepairArgs) -> Result<Ask, Failure> {
    let body = args.namespace.as_ref().map_or_else(|| json!({}), |namespace| json!({"namespace": namespace}));
    let ask = Ask::new(Method::POST, "/v1/admin/repair").header("content-type", "application/json")?;
    Ok(ask.payload(Payload::Bytes(body.to_string().into())))
}

/// Reads the answer to its end, telling each line, and gives the last one: as it was written, and as it was read.
async fn follow(client: &Client, ask: &Ask, mut tell: impl FnMut(&Progress)) -> Result<(Value, Progress), Failure> {
    let mut answer = client.send(ask).await?;
    let (mut lines, mut last) = (Lines::default(), None);
    while let Some(piece) = answer.chunk().await.map_err(|error| client.broke_off(&error))? {
        for line in lines.take(&piece)? {
            let (value, progress) = read(&line)?;
            tell(&progress);
            last = Some((value, progress));
        }
    }
    last.ok_or_else(|| Failure::new(Exit::Partly, "the daemon did not tell how the repair went", "its answer is empty"))
}

fn read(line: &[u8]) -> Result<(Value, Progress), Failure> {
    let unreadable = |error: serde_json::Error| Failure::failed("the daemon told of its progress in another way", error.to_string());
    let value: Value = serde_json::from_slice(line).map_err(unreadable)?;
    let progress = Progress::deserialize(&value).map_err(unreadable)?;
    Ok((value, progress))
}

/// Cuts what arrives into lines, each of at most [`LINE_BYTES_MAX`].
#[derive(Debug, Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// The lines that are whole now, empty ones left out.
    fn take(&mut self, piece: &[u8]) -> Result<Vec<Vec<u8>>, Failure> {
        let mut whole = Vec::new();
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.rest.extend_from_slice(part);
            if self.rest.len() > LINE_BYTES_MAX {
                return Err(Failure::failed("a line of the daemon's answer is too long", "more than 1 MiB"));
            }
            if part.ends_with(b"\n") {
                whole.push(std::mem::take(&mut self.rest));
            }
        }
        whole.retain(|line| !line.trim_ascii().is_empty());
        Ok(whole)
    }
}

/// Silent when stderr is no terminal.
fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND));
    let style = ProgressStyle::with_template("comparing [{bar:32}] {pos}/{len} slots, {msg}");
    bar.set_style(style.map_or_else(|_| ProgressStyle::default_bar(), |style| style.progress_chars("=> ")));
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

fn draw(bar: &ProgressBar, progress: &Progress) {
    bar.set_length(progress.slots);
    bar.set_position(progress.slots_done);
    bar.set_message(format!("{} keys differ, {} received", progress.keys_differing, units::bytes(progress.bytes_received)));
}

fn with_seconds(mut line: Value, took: Duration) -> Value {
    line["seconds"] = json!((took.as_secs_f64() * 1000.0).round() / 1000.0);
    line
}

fn summary(progress: &Progress, took: Duration) -> String {
    let mut text = format!(
        "compared {} of {} slots in {:.1} s: {} keys differed, {} taken ({}), {} given ({})\n",
        progress.slots_done,
        progress.slots,
        took.as_secs_f64(),
        progress.keys_differing,
        progress.keys_pulled,
        units::bytes(progress.bytes_received),
        progress.keys_pushed,
        units::bytes(progress.bytes_sent),
    );
    for Unreached { peer, region, slots, reason } in &progress.failures {
        text.push_str(&format!("not compared with {peer} ({region}), {slots} slots: {reason}\n"));
    }
    text
}

fn outcome(progress: &Progress) -> Result<(), Failure> {
    let partly = |title: &str, detail: String| {
        let advice = "What was mended stays so. Run it again once the others can be reached; anti-entropy does so by itself too.";
        Err(Failure::new(Exit::Partly, title, detail).advise(advice))
    };
    if !progress.done {
        return partly("stopped before the end", format!("{} of {} slots were compared", progress.slots_done, progress.slots));
    }
    if !progress.failures.is_empty() {
        return partly("not all of it was done", format!("{} peers were not compared with", progress.failures.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::args::{Access, Cli, Command};
    use super::*;

    const DONE: &str =
        r#"{"slots_done": 9, "slots": 9, "keys_differing": 3, "keys_pulled": 2, "keys_pushed": 1, "bytes_received": 2048, "done": true}"#;

    fn done() -> Progress {
        read(DONE.as_bytes()).expect("read").1
    }

    /// A daemon that answers one request with these pieces, with a pause before each.
    async fn daemon(pieces: &'static [&'static str], pause: Duration) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let _ = stream.read(&mut [0; 4096]).await.expect("a request");
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\nconnection: close\r\n\r\n").await.expect("written");
            for piece in pieces {
                tokio::time::sleep(pause).await;
                stream.write_all(piece.as_bytes()).await.expect("written");
            }
        });
        url
    }

    async fn followed(pieces: &'static [&'static str], pause_ms: u64, timeout_ms: u64) -> Result<(Vec<u64>, Progress), Failure> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = daemon(pieces, Duration::from_millis(pause_ms)).await;
        let access = Access { token: None, token_file: None, ca_file: None, timeout: Duration::from_millis(timeout_ms) };
        let client = Client::following(&url, &access).expect("a client");
        let mut told = Vec::new();
        let (_, last) = follow(&client, &Ask::new(Method::POST, "/v1/admin/repair"), |progress| told.push(progress.slots_done)).await?;
        Ok((told, last))
    }

    #[tokio::test]
    async fn progress_is_told_line_by_line_however_it_is_cut_and_however_long_it_takes() {
        const PIECES: &[&str] =
            &["{\"slots_done\": 1, \"sl", "ots\": 9}\n\n{\"slots_done\": 5, \"slots\": 9}\n", "{\"slots_done\": 9, ", "\"done\": true}\n"];
        let (told, last) = followed(PIECES, 300, 900).await.expect("followed past the timeout of one pause");
        assert_eq!((told, last.done), (vec![1, 5, 9], true));
    }

    #[tokio::test]
    async fn a_silent_daemon_and_an_empty_answer_are_failures() {
        assert_eq!(followed(&["{\"slots_done\": 1}\n"], 2_000, 100).await.expect_err("too long").exit, Exit::Unreachable);
        assert_eq!(followed(&[], 0, 5_000).await.expect_err("nothing").exit, Exit::Partly);
        assert_eq!(followed(&["nonsense\n"], 0, 5_000).await.expect_err("no JSON").exit, Exit::Failed);
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut lines = Lines::default();
        assert!(lines.take(&vec![b'x'; LINE_BYTES_MAX]).expect("not yet too long").is_empty());
        assert!(lines.take(b"x").is_err());
    }

    #[test]
    fn a_repair_may_be_of_one_namespace() {
        let body = |line: &[&str]| {
            let Command::Repair(args) = Cli::try_parse_from(line).expect("parses").command else { panic!("repair") };
            let Payload::Bytes(body) = repair_ask(&args).expect("a request").payload else { panic!("a body") };
            body
        };
        assert_eq!(body(&["isochrone", "repair"]), "{}");
        assert_eq!(body(&["isochrone", "repair", "data"]), r#"{"namespace":"data"}"#);
    }

    #[test]
    fn e6_the_summary_counts_what_differed_and_names_who_was_not_reached() {
        let mut progress = done();
        let text = summary(&progress, Duration::from_millis(1500));
        assert_eq!(text, "compared 9 of 9 slots in 1.5 s: 3 keys differed, 2 taken (2.0 KiB), 1 given (0 B)\n");
        assert!(outcome(&progress).is_ok());
        progress.failures.push(Unreached { peer: "aa".into(), region: "eu-west".into(), slots: 4, reason: "it is away".into() });
        assert!(summary(&progress, Duration::ZERO).contains("not compared with aa (eu-west), 4 slots: it is away\n"));
        assert_eq!(outcome(&progress).expect_err("in part").exit, Exit::Partly);
        assert_eq!(outcome(&Progress { done: false, ..done() }).expect_err("stopped").exit, Exit::Partly);
    }
}
