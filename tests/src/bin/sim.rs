//! Runs the simulator by hand: one seed, or many.

use std::ops::Range;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use tests::run::{EXACT, Outcome, Plan, again, run};

/// Every so many seeds one runs twice, and must do the same.
const TWICE: u64 = 20;

/// Runs whole clusters in virtual time, each from one seed, while things break; then heals them and requires progress.
///
/// Run as `cargo sim`, the same seed does the same each time, to the packet; otherwise the order in which tokio wakes tasks is left to chance.
///
/// A long run: `cargo sim --seeds 1..2000 --minutes 1`.
#[derive(Debug, Parser)]
#[command(name = "sim")]
struct Arguments {
    /// The seed to run.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Many seeds instead: from the first up to, but without, the last. Every twentieth runs twice and must give the same trace.
    #[arg(long, value_name = "A..B", value_parser = seeds)]
    seeds: Option<Range<u64>>,
    /// How long things break, in minutes of virtual time.
    #[arg(long, default_value_t = 0.25)]
    minutes: f64,
    /// Prints every event: what differs between two runs shows in a diff. With RUST_LOG set, the daemons' logs go to standard error.
    #[arg(long)]
    trace: bool,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let number = |text: &str| text.parse::<u64>().map_err(|e| format!("{text:?}: {e}"));
    let (first, last) = text.split_once("..").ok_or("two numbers with .. between them are needed")?;
    Ok(number(first)?..number(last)?)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_logging();
    if !EXACT {
        eprintln!("the order in which tasks wake is left to chance here; `cargo sim` makes runs exact");
    }
    let seeds = arguments.seeds.clone().unwrap_or(arguments.seed..arguments.seed + 1);
    let mut failed = 0;
    for seed in seeds {
        failed += u64::from(!one(&arguments, seed));
    }
    if failed == 0 {
        return ExitCode::SUCCESS;
    }
    eprintln!("{failed} seeds failed");
    ExitCode::FAILURE
}

/// Logs only what RUST_LOG asks for: things break all the time here.
fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "off".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

fn one(arguments: &Arguments, seed: u64) -> bool {
    let plan = Plan { shown: arguments.trace, ..Plan::new(seed, Duration::from_secs_f64(arguments.minutes * 60.0)) };
    let started = Instant::now();
    let mut outcome = run(&plan);
    if EXACT && seed.is_multiple_of(TWICE) && arguments.seeds.is_some() {
        check_repeat(&plan, &mut outcome);
    }
    eprintln!("seed {seed}: {outcome} in {:.1} s", started.elapsed().as_secs_f64());
    for violation in &outcome.violations {
        eprintln!("    {violation}");
    }
    if !outcome.violations.is_empty() {
        eprintln!("  again: {}", again(seed, plan.time));
    }
    outcome.violations.is_empty()
}

fn check_repeat(plan: &Plan, outcome: &mut Outcome) {
    let again = run(plan);
    if (again.trace, again.events) != (outcome.trace, outcome.events) {
        outcome.violations.push(format!("a second run differs: {again}"));
    }
}
