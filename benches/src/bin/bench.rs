//! The benchmarks of the daemon as a whole; see the crate's documentation for what each measures.
//!
//! `cargo build --release && cargo run --release -p benches --bin bench -- all`

use std::path::PathBuf;
use std::process::ExitCode;

use benches::setup::Setup;
use benches::{Failure, durable, import, kill, million, pace, process, read, ready, visible};
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
    /// Durable writes a second on one daemon, beside Redis.
    Durable(durable::DurableArgs),
    /// All of them, one after the other, as they are by default.
    All {
        /// Only to see that they work: few, small and short, so that the figures say little.
        #[arg(long)]
        short: bool,
    },
}

const SHORT: [&[&str]; 6] = [
    &["ready", "--runs", "1"],
    &["read", "--seconds", "2", "--unpaced-seconds", "1"],
    &["visible", "--writes", "20"],
    &["import", "--files", "500"],
    &["kill", "--seconds", "12", "--rate", "50"],
    &["million", "--keys", "20000"],
];

/// All benchmarks: their defaults, or bounds for a short run.
fn all(is_short: bool) -> Result<Vec<What>, clap::Error> {
    let words = |words: &[&'static str]| if is_short { words.to_vec() } else { words[..1].to_vec() };
    let parse = |line: &&[&'static str]| Arguments::try_parse_from([&["bench"], &words(line)[..]].concat());
    SHORT.iter().map(|line| parse(line).map(|arguments| arguments.what)).collect()
}

fn measure(setup: &Setup, what: &What) -> Result<(), Failure> {
    match what {
        What::Ready(args) => ready::run(setup, *args),
        What::Import(args) => import::run(setup, args),
        What::Visible(args) => visible::run(setup, *args),
        What::Read(args) => read::run(setup, args),
        What::Kill(args) => kill::run(setup, args),
        What::Million(args) => million::run(setup, *args),
        What::Durable(args) => durable::run(setup, *args),
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
        let names = |is_short| all(is_short).expect("its own lines parse").len();
        assert_eq!((names(true), names(false)), (6, 6));
        let What::Million(args) = all(false).expect("parses")[5].clone() else { panic!("million is the last") };
        assert_eq!(args.keys, 1_000_000);
    }

    #[test]
    fn the_binary_is_taken_before_and_after_what_is_measured() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' ')).expect("parses").binary;
        assert_eq!(parse("bench --binary x ready"), parse("bench ready --binary x"));
    }
}
