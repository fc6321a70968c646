//! `import`: a real tree of files into one region by `isochrone import`, read back from another by `isochrone export --verify`: byte for
//! byte, content types too; then the same again with two interruptions, each resumed.
//!
//! The rate is over the whole run of the command, its own start and the walk of the tree included. Every file is acknowledged after its sync.

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::Failure;
use crate::cluster::Cluster;
use crate::listing;
use crate::process::{Process, Scratch};
use crate::setup::Setup;
use crate::table::{Table, bytes, rate, time};
use crate::tree::{Staged, stage, toolchain_documentation};

/// A command that takes longer is given up.
const COMMAND_MAX: Duration = Duration::from_secs(1200);
/// How often the other region's listing is looked at: each look takes a little of its time.
const LOOK: Duration = Duration::from_millis(100);
/// Replication that makes no progress for so long is given up.
const STANDSTILL_MAX: Duration = Duration::from_secs(60);

/// The bounds of a run.
#[derive(Debug, Clone, clap::Args)]
pub struct ImportArgs {
    /// The tree [default: the documentation of the installed Rust toolchain].
    #[arg(long)]
    pub source: Option<PathBuf>,
    /// So many of its files, the first in order.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub files: u64,
    /// Through which region they go in.
    #[arg(long, default_value = "us-east")]
    pub from: String,
    /// From which region they are read back.
    #[arg(long, default_value = "ap-northeast")]
    pub to: String,
}

/// What `isochrone import` and `export` say at their end, with `-o json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct Summary {
    files: u64,
    bytes: u64,
    skipped: u64,
    failed: u64,
    stopped: Option<String>,
}

/// How a run of a command ended.
struct Ended {
    summary: Option<Summary>,
    took: Duration,
    words: String,
}

/// What every command of this benchmark shares.
struct Bench<'a> {
    setup: &'a Setup,
    scratch: Scratch,
    from: SocketAddr,
    to: SocketAddr,
    staged: Staged,
}

/// Runs it.
///
/// # Errors
/// When there is no tree, the regions cannot be started, or a command says nothing at its end.
pub fn run(setup: &Setup, args: &ImportArgs) -> Result<(), Failure> {
    let source = args.source.clone().map_or_else(toolchain_documentation, Ok)?;
    let scratch = setup.scratch()?;
    let staged = stage(&source, &scratch.path().join("tree"), args.files)?;
    let cluster = Cluster::settled(setup)?;
    let (from, to) = (cluster.named(&args.from)?.http, cluster.named(&args.to)?.http);
    let bench = Bench { setup, scratch, from, to, staged };
    let title = format!("Import of {} files through {}, read back from {}", staged.files, args.from, args.to);
    println!("{}\n{}", whole(&bench, &title)?, resumed(&bench)?);
    Ok(())
}

fn whole(bench: &Bench<'_>, title: &str) -> Result<Table, Failure> {
    let Staged { files, bytes: size } = bench.staged;
    let mut table = Table::of_targets(title);
    table.judge("files", ">= 10000", files.to_string(), files >= 10_000);
    table.note("bytes", bytes(size));
    let started = Instant::now();
    let ended = bench.import("whole/", None)?;
    let imported = ended.told()?;
    let ended_at = Instant::now();
    table.judge("files acknowledged", files.to_string(), imported.files.to_string(), imported.files == files);
    table.none("files failed", imported.failed);
    table.note("import", format!("{}, {}, {} a second", time(ended.took), rate(files, ended.took), bytes_a_second(size, ended.took)));
    let there = bench.arrived("whole/")?;
    table.judge("files listed in the other region", files.to_string(), there.to_string(), there >= files);
    table.note("the last of them, after the import's end", time(ended_at.elapsed()));
    table.note("to the other region, from the import's start", format!("{} a second", bytes_a_second(size, started.elapsed())));
    bench.verified("whole/", &mut table)?;
    Ok(table)
}

fn bytes_a_second(size: u64, took: Duration) -> String {
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate for people")]
    let rate = (size as f64 / took.as_secs_f64().max(1e-9)) as u64;
    bytes(rate)
}

/// Killed after a third, interrupted after two, run to the end.
fn resumed(bench: &Bench<'_>) -> Result<Table, Failure> {
    let columns = ["run", "ended", "in the journal before", "skipped", "written", "failed", "took"];
    let mut table = Table::new("The same again, interrupted twice and resumed", &columns);
    let third = bench.staged.files / 3;
    let stops = [("1", Some(Stop { after: third, signal: "KILL" })), ("2", Some(Stop { after: 2 * third, signal: "INT" })), ("3", None)];
    for (number, stop) in stops {
        let before = journalled(&bench.journal("again/"));
        let ended = bench.import("again/", stop)?;
        let told = ended.summary.clone();
        let shown = |figure: fn(&Summary) -> u64| told.as_ref().map_or_else(|| "not told".to_owned(), |told| figure(told).to_string());
        let how = match (&told, stop) {
            (None, Some(stop)) => format!("SIG{}", stop.signal),
            (Some(Summary { stopped: Some(why), .. }), _) => why.clone(),
            _ => "by itself".to_owned(),
        };
        let cells = [number.to_owned(), how, before.to_string(), shown(|told| told.skipped), shown(|told| told.files)];
        table.row(cells.into_iter().chain([shown(|told| told.failed), time(ended.took)]));
    }
    bench.arrived("again/")?;
    let mut checked = Table::of_targets("");
    let told = bench.verified("again/", &mut checked)?;
    table.row(["read back", "", "", "", "", &told.failed.to_string(), ""]);
    Ok(table)
}

/// When a run is stopped, and by which signal.
#[derive(Debug, Clone, Copy)]
struct Stop {
    /// Once so many keys are in the journal.
    after: u64,
    signal: &'static str,
}

impl Bench<'_> {
    fn journal(&self, prefix: &str) -> PathBuf {
        self.scratch.path().join(format!("{}.journal", prefix.trim_end_matches('/')))
    }

    fn tree(&self) -> PathBuf {
        self.scratch.path().join("tree")
    }

    fn import(&self, prefix: &str, stop: Option<Stop>) -> Result<Ended, Failure> {
        let mut command = self.command("import", self.from, prefix);
        let journal = self.journal(prefix);
        command.arg("--dir").arg(self.tree()).arg("--state").arg(&journal);
        let started = Instant::now();
        let mut process = Process::start(&mut command, &self.log())?;
        if let Some(stop) = stop {
            while journalled(&journal) < stop.after && !process.has_ended() {
                std::thread::sleep(Duration::from_millis(20));
            }
            process.signal(stop.signal);
        }
        ended(process, started)
    }

    /// Waits until the other region lists all files, or gets no more of them; how many it lists.
    fn arrived(&self, prefix: &str) -> Result<u64, Failure> {
        let (mut there, mut moved) = (0, Instant::now());
        while there < self.staged.files && moved.elapsed() < STANDSTILL_MAX {
            std::thread::sleep(LOOK);
            let now_there = listing::keys(self.to, prefix)?.len() as u64;
            if now_there > there {
                (there, moved) = (now_there, Instant::now());
            }
        }
        Ok(there)
    }

    fn verified(&self, prefix: &str, table: &mut Table) -> Result<Summary, Failure> {
        let mut command = self.command("export", self.to, prefix);
        command.arg("--verify").arg(self.tree());
        let started = Instant::now();
        let ended = ended(Process::start(&mut command, &self.log())?, started)?;
        let told = ended.told()?;
        let files = self.staged.files;
        table.judge("files equal, byte for byte and content types", files.to_string(), told.files.to_string(), told.files == files);
        table.none("files that differ", told.failed);
        table.note("reading back and comparing", format!("{}, {}", time(ended.took), rate(told.files, ended.took)));
        Ok(told)
    }

    fn command(&self, verb: &str, address: SocketAddr, prefix: &str) -> Command {
        let mut command = Command::new(&self.setup.binary);
        command.args([verb, "-o", "json", "--namespace", "data", "--prefix", prefix, "--url"]).arg(format!("http://{address}"));
        command
    }

    fn log(&self) -> PathBuf {
        self.scratch.path().join("commands.log")
    }
}

impl Ended {
    fn told(&self) -> Result<Summary, Failure> {
        self.summary.clone().ok_or_else(|| format!("the command did not tell how it ended:\n{}", self.words).into())
    }
}

fn ended(mut process: Process, started: Instant) -> Result<Ended, Failure> {
    if !process.ended_within(COMMAND_MAX) {
        return Err(format!("a command took longer than {} s", COMMAND_MAX.as_secs()).into());
    }
    let took = started.elapsed();
    let mut text = String::new();
    if let Some(mut stdout) = process.stdout() {
        stdout.read_to_string(&mut text)?;
    }
    Ok(Ended { summary: summary_in(&text), took, words: process.last_words() })
}

/// The summary among the JSON values that a command wrote.
fn summary_in(text: &str) -> Option<Summary> {
    serde_json::Deserializer::from_str(text).into_iter().map_while(Result::ok).find_map(|value| serde_json::from_value(value).ok())
}

/// How many acknowledged keys a journal has: its lines but the head.
fn journalled(journal: &Path) -> u64 {
    let bytes = fs::read(journal).unwrap_or_default();
    (bytes.iter().filter(|&&b| b == b'\n').count() as u64).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_found_among_what_a_command_wrote() {
        let text = "{\"note\": 1}\n{\"action\":\"imported\",\"files\":2,\"bytes\":9,\"seconds\":0.1,\"files_per_second\":20.0,\
                    \"skipped\":1,\"failed\":0,\"failures\":[],\"stopped\":\"it was interrupted\"}\n";
        let wanted = Summary { files: 2, bytes: 9, skipped: 1, failed: 0, stopped: Some("it was interrupted".to_owned()) };
        assert_eq!(summary_in(text), Some(wanted));
        assert_eq!(summary_in("killed"), None);
    }

    #[test]
    fn a_journal_counts_its_whole_lines_after_the_head() {
        let dir = tempfile::tempdir().expect("a folder");
        let journal = dir.path().join("journal");
        assert_eq!(journalled(&journal), 0);
        fs::write(&journal, "{head}\n{a}\n{b}\n{cut").expect("written");
        assert_eq!(journalled(&journal), 2);
    }
}
