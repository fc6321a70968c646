//! The commands. One clap definition (`args`) is what users type, read and complete; each command is a module.
//!
//! ```text
//! argv -> args -> serve ............ the daemon itself, in this process
//!              -> dev .............. daemons as processes of their own
//!              -> get put del incr, import export  the client API of a daemon (--url)
//!              -> apply status members repair placement  its admin API (--admin-url)
//!              -> config certs completions man .. files only
//!              -> council recover .. the files of a stopped daemon
//! result -> stdout (text, or JSON with -o json);  failure -> stderr, and an exit code
//! ```

mod address;
mod args;
mod certs;
mod client;
mod cluster;
mod config;
mod content_type;
mod dev;
mod failure;
mod generate;
mod keys;
mod output;
mod recover;
mod repair;
mod replication;
mod serve;
mod strong;
mod transfer;
mod units;

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;
use isochrone_ident::WallMicros;

use args::{Cli, Command, OutputFormat};
use failure::Failure;

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let format = cli.output;
    match run(cli.command, format) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(format);
            failure.exit_code()
        }
    }
}

fn run(command: Command, format: OutputFormat) -> Result<(), Failure> {
    match command {
        Command::Serve(args) => serve::serve(args),
        Command::Config(args) => config::config(&args, format),
        Command::Certs(args) => certs::certs(&args, format),
        Command::Completions { shell } => generate::completions(shell),
        Command::Man { dir } => generate::man(&dir, format),
        Command::Dev(args) => wait(dev::dev(&args, format)),
        Command::Apply(args) => wait(cluster::apply(&args, format)),
        Command::Status(args) => wait(cluster::status(&args, format)),
        Command::Repair(args) => wait(repair::repair(&args, format)),
        Command::Members(args) => wait(cluster::members(&args, format)),
        Command::Council(args::CouncilCommand::Recover(args)) => recover::recover(&args, format),
        Command::Placement(args) => wait(cluster::placement(&args, format)),
        Command::Get(args) => wait(keys::get(&args, format)),
        Command::Put(args) => wait(keys::put(&args, format)),
        Command::Del(args) => wait(keys::del(&args, format)),
        Command::Incr(args) => wait(keys::incr(&args, format)),
        Command::Import(args) => wait(transfer::import(&args, format)),
        Command::Export(args) => wait(transfer::export(&args, format)),
    }
}

/// Runs a command that talks to daemons, on a runtime of its own that is gone afterwards, whatever still runs on it.
fn wait(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    // An error means that one is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed("cannot start", error.to_string()))?;
    let result = runtime.block_on(command);
    runtime.shutdown_background();
    result
}

/// Where commands keep what they must remember: `$XDG_STATE_HOME/isochrone`, else `~/.local/state/isochrone`.
fn state_dir() -> Result<PathBuf, Failure> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    base.map(|base| base.join("isochrone")).ok_or_else(|| {
        Failure::failed("there is no place to keep state in", "neither XDG_STATE_HOME nor HOME is set")
            .advise("Give it by a flag (see --help).")
    })
}

/// The wall clock; commands run in the real world only.
fn wall_now() -> WallMicros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallMicros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
