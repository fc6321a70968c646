//! The benchmarks of the daemon as a whole; see the crate's documentation for what each measures.
//!
//! `cargo build --release && cargo run --release -p benches --bin bench -- all`

use std::path::PathBuf;
use std::process::ExitCode;

use benches::setup::Setup;
use benches::{
    Failure, contend, copies, diverge, durable, gap, heal, import, kill, memory, million, pace, process, read, ready, sessions, strong,
    visible, wan,
};
use clap::{Parser, Subcommand};

/// Measures the built daemon against its targets, and prints Markdown tables: the target beside what was seen. The exit code is 0 whatever
/// the figures are.
#[derive(Debug, Parser)]
struct Arguments {
    /// The binary to measure [default: isochrone beside this program; build it with `cargo build --release`].
    #[arg(long, global = true)]
    binary: Option<PathBuf>,
    /// Where to write; new folders are made in it and removed again. On a disk, not in memory: syncs are part of what is measured.
    #[arg(long, global = true, default_value = ".")]
    dir: PathBuf,
    /// What to measure.
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, Subcommand)]
enum What {
    /// How soon `dev` has three regions ready.
    Ready(ready::ReadyArgs),
    /// A real tree of files into one region, compared from another; interrupted and resumed.
    Import(import::ImportArgs),
    /// How soon a write is readable in the other regions, beyond the one-way delay.
    Visible(visible::VisibleArgs),
    /// Local reads of 1 KiB: latencies at a fixed rate, and the rate without pacing.
    Read(read::ReadArgs),
    /// One daemon of three killed during writes, and started again.
    Kill(kill::KillArgs),
    /// One daemon with a million keys: load, memory, disk, start.
    Million(million::MillionArgs),
    /// How soon regions are equal again after a cut, and what that sends.
    Heal(heal::HealArgs),
    /// What anti-entropy sends when few keys of many differ.
    Diverge(diverge::DivergeArgs),
    /// How soon a read copy goes after a write elsewhere.
    Copies(copies::CopiesArgs),
    /// What a session token costs, in bytes and in waiting.
    Sessions(sessions::SessionsArgs),
    /// Bytes a key in memory and on disk, beside Redis.
    Memory(memory::MemoryArgs),
    /// Durable writes a second on one daemon, beside Redis.
    Durable(durable::DurableArgs),
    /// What strong operations take with the delays of real regions.
    Wan(wan::WanArgs),
    /// Strong reads and writes a second on three daemons, beside etcd.
    Strong(strong::StrongArgs),
    /// How long strong writes pause when a daemon or a region fails.
    Gap(gap::GapArgs),
    /// Ten clients on one strong key.
    Contend(contend::ContendArgs),
    /// All of them, one after the other, as they are by default.
    All {
        /// Only to see that they work: few, small and short, so that the figures say little.
        #[arg(long)]
        short: bool,
    },
}

/// What `all` runs: each with the bounds of a short run; those of a long one are the defaults and what stands in [`LONG`].
const SHORT: [&[&str]; 17] = [
    &["ready", "--runs", "1"],
    &["read", "--seconds", "2", "--unpaced-seconds", "1"],
    &["visible", "--writes", "20"],
    &["visible", "--rate", "300", "--seconds", "3"],
    &["import", "--files", "500"],
    &["kill", "--seconds", "12", "--rate", "50"],
    &["heal", "--keys", "2000", "--both", "100", "--seconds", "12"],
    &["diverge", "--keys", "5000", "--divergent", "100", "--hint-seconds", "5", "--after-seconds", "5"],
    &["copies", "--writes", "30"],
    &["sessions", "--writes", "10", "--rounds", "5"],
    &["durable", "--rounds", "1", "--seconds", "2"],
    &["memory", "--keys", "5000"],
    &["wan", "--count", "20"],
    &["gap", "--seconds", "3"],
    &["contend", "--seconds", "5"],
    &["strong", "--rounds", "1", "--seconds", "2"],
    &["million", "--keys", "20000"],
];

/// The long form of lines of [`SHORT`] that is not their first word alone.
const LONG: [(usize, &[&str]); 1] = [(3, &["visible", "--search"])];

/// All benchmarks: their defaults, or bounds for a short run.
fn all(is_short: bool) -> Result<Vec<What>, clap::Error> {
    let long = |index| LONG.iter().find(|(at, _)| *at == index).map(|(_, words)| *words);
    let words = |(index, line): (usize, &&'static [&'static str])| if is_short { *line } else { long(index).unwrap_or(&line[..1]) };
    let parse = |words: &[&'static str]| Arguments::try_parse_from([&["bench"], words].concat()).map(|arguments| arguments.what);
    SHORT.iter().enumerate().map(words).map(parse).collect()
}

fn measure(setup: &Setup, what: &What) -> Result<(), Failure> {
    match what {
        What::Ready(args) => ready::run(setup, *args),
        What::Import(args) => import::run(setup, args),
        What::Visible(args) => visible::run(setup, *args),
        What::Read(args) => read::run(setup, args),
        What::Kill(args) => kill::run(setup, args),
        What::Million(args) => million::run(setup, *args),
        What::Heal(args) => heal::run(setup, args),
        What::Diverge(args) => diverge::run(setup, args),
        What::Copies(args) => copies::run(setup, *args),
        What::Sessions(args) => sessions::run(setup, *args),
        What::Memory(args) => memory::run(setup, *args),
        What::Durable(args) => durable::run(setup, *args),
        What::Wan(args) => wan::run(setup, *args),
        What::Gap(args) => gap::run(setup, args),
        What::Contend(args) => contend::run(setup, *args),
        What::Strong(args) => strong::run(setup, *args),
        What::All { short } => {
            all(*short)?.iter().for_each(|what| told(setup, what));
            Ok(())
        }
    }
}

/// Measures, and tells why when that is not possible: the others go on.
fn told(setup: &Setup, what: &What) {
    if let Err(failure) = measure(setup, what) {
        println!("Not measured: {failure}\n\n({what:?})\n");
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    pace::sharpen_sleep();
    let prepared = process::guard().map_err(Failure::from).and_then(|()| Setup::new(arguments.binary, arguments.dir));
    match prepared {
        Ok(setup) => {
            println!("{}\n", setup.machine());
            told(&setup, &arguments.what);
        }
        Err(failure) => println!("Not measured: {failure}"),
    }
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn all_is_every_benchmark_short_or_long() {
        let every = |is_short| all(is_short).expect("its own lines parse");
        assert_eq!((every(true).len(), every(false).len()), (SHORT.len(), SHORT.len()));
        let commands = Arguments::command();
        let names: Vec<&str> = commands.get_subcommands().map(clap::Command::get_name).filter(|name| *name != "all").collect();
        assert!(names.iter().all(|name| SHORT.iter().any(|line| line[0] == *name)), "{names:?}");
        let long = every(false);
        assert!(matches!(long.last(), Some(What::Million(args)) if args.keys == 1_000_000));
        assert!(matches!(long[3], What::Visible(args) if args.search));
    }

    #[test]
    fn the_binary_is_taken_before_and_after_what_is_measured() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' ')).expect("parses").binary;
        assert_eq!(parse("bench --binary x ready"), parse("bench ready --binary x"));
    }
}
