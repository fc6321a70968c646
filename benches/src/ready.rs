//! `ready`: from starting `isochrone dev` with empty data to its line that all three regions are ready to serve.
//!
//! The time counts from the start of the process to that line; then every region is asked once more. Certificates, ports, three processes,
//! joining and the first placement epochs are all in it.

use std::time::Duration;

use crate::Failure;
use crate::cluster::Cluster;
use crate::setup::Setup;
use crate::table::{Table, time, verdict};

const TARGET: Duration = Duration::from_secs(5);

/// The bounds of a run.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct ReadyArgs {
    /// How often it is started.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub runs: u32,
}

/// Runs it.
///
/// # Errors
/// When the regions do not become ready at all.
pub fn run(setup: &Setup, args: ReadyArgs) -> Result<(), Failure> {
    let mut table = Table::new("dev: three regions ready to serve", &["run", "target", "seen", "ready when asked", "met"]);
    let mut longest = Duration::ZERO;
    for number in 1..=args.runs {
        let cluster = Cluster::start(setup)?;
        let ready = cluster.regions.iter().filter(|region| region.is_ready()).count();
        let count = cluster.regions.len();
        let is_met = cluster.ready_after <= TARGET && ready == count;
        longest = longest.max(cluster.ready_after);
        let asked = format!("{ready} of {count}");
        table.row([&number.to_string(), "<= 5 s", &time(cluster.ready_after), &asked, verdict(is_met)]);
    }
    table.row(["longest", "<= 5 s", &time(longest), "", verdict(longest <= TARGET)]);
    println!("{table}");
    Ok(())
}
