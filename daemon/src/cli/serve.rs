//! `isochrone serve`: settings, then the node, which stays until it is told to end.

use std::io::Read;
use std::process::Command;
use std::time::Duration;

use isochrone_config::NodeSettings;

use super::args::ServeArgs;
use super::config::{environment, invalid};
use super::failure::{Exit, Failure};
use crate::node::StartsOver;

/// How long the daemon may take to drain once its stdin is closed, before it ends all the same.
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// Runs the daemon.
///
/// # Errors
/// When the settings cannot be used, or the daemon cannot start or has to stop.
pub(crate) fn serve(args: ServeArgs) -> Result<(), Failure> {
    let mut flags = args.settings;
    if !args.join.is_empty() {
        flags.push(("peer.join".to_owned(), args.join.join(",")));
    }
    let config = args.config;
    let load = move || NodeSettings::load(Some(&config), environment(), &flags);
    let loaded = load().map_err(|problems| invalid(&problems))?;
    if args.exit_with_stdin {
        std::thread::spawn(end_with_stdin);
    }
    crate::node::run(loaded, Box::new(load)).map_err(|error| match error.downcast_ref::<StartsOver>() {
        Some(starts_over) => Failure::new(Exit::StartsOver, "the daemon ends so as to start over", starts_over.to_string()),
        None => error.into(),
    })
}

/// Waits for the end of stdin, then does what the operator would: sends SIGTERM. The standard library cannot send signals, and a
/// pipe that closes is the one thing that surely happens when the parent dies, however it dies.
fn end_with_stdin() {
    let mut ignored = [0; 64];
    while std::io::stdin().read(&mut ignored).is_ok_and(|count| count > 0) {}
    let asked = Command::new("kill").arg("-TERM").arg(std::process::id().to_string()).status();
    if asked.is_ok_and(|status| status.success()) {
        std::thread::sleep(DRAIN_MAX);
    }
    std::process::exit(1);
}
