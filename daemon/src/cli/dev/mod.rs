//! `isochrone dev`: one daemon process a region on this machine, with the delays of real regions applied beneath QUIC.
//!
//! ```text
//! directory  taken, marked, locked; certificates and node ids kept over restarts
//! ports      chosen, or who is in the way
//! children   started; ready when each says so and sees all others; told when one dies; stopped together
//! ```

mod child;
mod delays;
mod directory;
mod ports;
mod settings;
mod tour;

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use http::Method;
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::args::{Access, DevArgs, OutputFormat};
use super::client::{Ask, Client, Patience};
use super::failure::Failure;
use super::{output, state_dir};
use child::{Recipe, Running, tail};
use directory::Directory;
use ports::{Ports, loopback};
use settings::Network;
use tour::Region;

/// How often a daemon is asked whether it is ready.
const POLL: Duration = Duration::from_millis(50);
/// After so long it is told what is being waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// After so long it is given up.
const READY_MAX: Duration = Duration::from_secs(60);

/// Runs until Ctrl-C or SIGTERM.
///
/// # Errors
/// When directory or ports are not to be had, or a daemon does not become ready. What was started is stopped.
pub(crate) async fn dev(args: &DevArgs, format: OutputFormat) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let root = args.data_dir.clone().map_or_else(|| state_dir().map(|dir| dir.join("dev")), Ok)?;
    let mut directory = Directory::take(&root, args.fresh)?;
    let regions = delays::regions(args.regions);
    let ports = ports::choose(regions, args.port_base, &directory.memory.peer_ports)?;
    remember_peers(&mut directory, &ports)?;
    settings::ensure_certificates(&directory, regions)?;
    let one_way_ms = delays::one_way_ms(args.regions, args.delay_scale);
    let network = Network { one_way_ms: &one_way_ms, loss: args.loss / 100.0 };
    let recipes = recipes(args, &directory, regions, &ports, network)?;

    let (stop, stopped) = watch::channel(false);
    let mut children = JoinSet::new();
    let mut shown = Vec::new();
    for (recipe, ports) in recipes.iter().zip(&ports) {
        let running = Running::start(recipe.clone())?;
        shown.push(Region::new(recipe, *ports, running.pid(), &directory));
        children.spawn(running.mind(stopped.clone(), args.restart));
    }
    let outcome = tokio::select! { biased;
        () = signals.any() => Ok(()),
        early = children.join_next() => Err(ended_early(early.and_then(Result::ok))),
        ready = all_ready(&recipes, &ports) => match ready {
            Ok(()) => attend(&mut children, &mut signals, &shown, &one_way_ms, format).await,
            Err(failure) => Err(failure),
        },
    };
    // Everybody may be gone already.
    let _ = stop.send(true);
    while children.join_next().await.is_some() {}
    outcome
}

/// Says that all is ready, and stays until a signal comes or nobody is left.
async fn attend(
    children: &mut JoinSet<&'static str>,
    signals: &mut Signals,
    regions: &[Region],
    one_way_ms: &delays::OneWayMs,
    format: OutputFormat,
) -> Result<(), Failure> {
    match format {
        OutputFormat::Json => output::line(&tour::json_line(regions, one_way_ms))?,
        OutputFormat::Text => output::line(&tour::text(regions, one_way_ms))?,
    }
    let everybody = async { while children.join_next().await.is_some() {} };
    tokio::select! { biased;
        () = signals.any() => {
            eprintln!("stopping {} daemons", regions.len());
            Ok(())
        }
        () = everybody => Err(Failure::failed("no daemon is left", "all of them ended")),
    }
}

fn ended_early(region: Option<&'static str>) -> Failure {
    let detail = format!("the daemon of {} ended before all were ready; its log is above", region.unwrap_or("a region"));
    Failure::failed("`dev` could not start", detail).advise("--fresh starts with empty data, should what is there be the reason.")
}

fn remember_peers(directory: &mut Directory, ports: &[Ports]) -> Result<(), Failure> {
    for (index, ports) in ports.iter().enumerate() {
        match directory.memory.peer_ports.get_mut(index) {
            Some(port) => *port = ports.peer,
            None => directory.memory.peer_ports.push(ports.peer),
        }
    }
    directory.remember()
}

fn recipes(
    args: &DevArgs,
    directory: &Directory,
    regions: &[&'static str],
    ports: &[Ports],
    network: Network<'_>,
) -> Result<Vec<Recipe>, Failure> {
    let program = std::env::current_exe().map_err(|error| Failure::failed("cannot find this program's own file", error.to_string()))?;
    let mut recipes = Vec::new();
    for (index, &region) in regions.iter().enumerate() {
        let (dir, config) = (directory.region(region), directory.region(region).join("node.toml"));
        let text = settings::node_file(regions, ports, index, network)
            .map_err(|error| Failure::failed("cannot write a node file", error.to_string()))?;
        fs::create_dir_all(&dir).and_then(|()| fs::write(&config, text)).map_err(|error| Failure::file("write", &config, &error))?;
        let log = dir.join("daemon.log");
        recipes.push(Recipe { region, program: program.clone(), config, settings: args.settings.clone(), log });
    }
    Ok(recipes)
}

/// Waits until every daemon says that it is ready and sees all others alive.
async fn all_ready(recipes: &[Recipe], ports: &[Ports]) -> Result<(), Failure> {
    let begin = Instant::now();
    let mut is_told = false;
    let access = Access { token: None, token_file: None, ca_file: None, timeout: Duration::from_secs(2) };
    for (recipe, own) in recipes.iter().zip(ports) {
        let client = Client::new(&format!("http://{}", loopback(own.admin)), &access, Patience::NONE, 1)?;
        while let Err(waits_for) = ready(&client, recipes.len()).await {
            if begin.elapsed() > READY_MAX {
                return Err(never_ready(recipe, &waits_for));
            }
            if begin.elapsed() > PATIENCE && !is_told {
                eprintln!("still waiting for {}: {waits_for} (log: {})", recipe.region, recipe.log.display());
                is_told = true;
            }
            sleep(POLL).await;
        }
    }
    Ok(())
}

/// `Err` has what is being waited for.
async fn ready(client: &Client, count: usize) -> Result<(), String> {
    client.document(&Ask::new(Method::GET, "/readyz?verbose")).await.map_err(|failure| failure.detail)?;
    let members = client.json(&Ask::new(Method::GET, "/v1/admin/members")).await.map_err(|failure| failure.to_string())?;
    let members = members.as_array().or_else(|| members["members"].as_array()).map(Vec::as_slice).unwrap_or_default();
    let is_there = |member: &&Value| member["me"] == true || member["liveness"] == "alive";
    match members.iter().filter(is_there).count() {
        alive if alive >= count => Ok(()),
        alive => Err(format!("it sees {alive} of {count} members alive")),
    }
}

fn never_ready(recipe: &Recipe, waits_for: &str) -> Failure {
    let log = tail(&recipe.log).unwrap_or_default();
    let detail = format!("{} is not after {} s: {waits_for}\n{log}", recipe.region, READY_MAX.as_secs());
    Failure::failed("not all regions are ready", detail).advise(format!("The whole log: {}", recipe.log.display()))
}

/// The signals that end `dev`.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error: io::Error| Failure::failed("cannot listen for signals", error.to_string()));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn any(&mut self) {
        tokio::select! { biased;
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// A path as text; paths of this directory are made of region names and are always shown whole.
fn shown(path: &Path) -> String {
    path.display().to_string()
}
