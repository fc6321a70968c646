//! The one definition of every command and flag. Help, completions and man pages are made from it, so what is written
//! here is what a user reads.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use isochrone_ident::{Namespace, NodeId, Region};

use super::address::{KeyAddress, KeyAddressParser};
use super::units;

/// What every command's help ends with.
const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused, or failed for a reason that the message gives
  2  the command line is wrong
  3  the key, node or file asked for does not exist
  4  the daemon cannot be reached
  5  nothing was applied (503): safe to run again
  6  the outcome is unknown (504): run again with the same --idempotency-key
  7  done in part: some files failed, differ, or an interrupt came between (the summary counts them)
  8  serve: this daemon was away for too long; run it again, and it starts over with an empty store and is filled";

/// A geo-distributed edge cache: data lives near those who ask for it, and every answer says how far from now it may be.
#[derive(Debug, Parser)]
#[command(name = "isochrone", version, after_help = EXIT_CODES, max_term_width = 110, propagate_version = true)]
pub(crate) struct Cli {
    /// How results are written to stdout: for people, or one JSON value (NDJSON for many). Errors follow, on stderr.
    #[arg(short, long, global = true, value_enum, default_value_t = OutputFormat::Text, env = "ISOCHRONE_OUTPUT")]
    pub(crate) output: OutputFormat,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run several regions on this machine, with the delays that real ones have between them.
    Dev(DevArgs),
    /// Run one daemon.
    Serve(ServeArgs),
    /// Check and show settings.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Make the certificates that daemons and operators prove themselves with.
    #[command(subcommand)]
    Certs(CertsCommand),
    /// Apply a cluster file: namespaces, tokens, replicas.
    Apply(ApplyArgs),
    /// Tell how the daemon and its cluster are.
    Status(StatusArgs),
    /// List the cluster's members, or remove one.
    Members(MembersArgs),
    /// Found the council anew after a majority of it was lost for good.
    #[command(subcommand)]
    Council(CouncilCommand),
    /// Compare the daemon's keys with every other replica now, and mend what differs.
    Repair(RepairArgs),
    /// Tell where data lives: the whole table, one key, or what a change would move.
    Placement(PlacementArgs),
    /// Read a key: the value goes to stdout as it is.
    Get(GetArgs),
    /// Write a key.
    Put(PutArgs),
    /// Delete a key. Also succeeds when it is absent.
    Del(DelArgs),
    /// Add to a counter of an eventual namespace, and print its value as the daemon then knows it.
    Incr(IncrArgs),
    /// Write a directory's files, or the lines of an NDJSON file, as keys of a namespace.
    Import(ImportArgs),
    /// Write a namespace's keys into a directory or an NDJSON file, or compare them with a directory.
    Export(ExportArgs),
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Write the man pages.
    Man {
        /// Where to; made when absent.
        #[arg(long)]
        dir: PathBuf,
    },
}

/// How a daemon is spoken to.
#[derive(Debug, Clone, Args)]
pub(crate) struct Access {
    /// Bearer token. Better given by --token-file or ISOCHRONE_TOKEN: a command line can be seen by others.
    #[arg(long, env = "ISOCHRONE_TOKEN", hide_env_values = true, conflicts_with = "token_file")]
    pub(crate) token: Option<String>,
    /// File that holds the bearer token (white space around it is ignored).
    #[arg(long, env = "ISOCHRONE_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// CA certificates (PEM) to trust for https, instead of this machine's.
    #[arg(long, env = "ISOCHRONE_CA_FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// How long one request may take, its retries not included.
    #[arg(long, default_value = "30s", value_parser = units::duration)]
    pub(crate) timeout: Duration,
}

/// Where the client API is.
#[derive(Debug, Clone, Args)]
pub(crate) struct DataAccess {
    /// Client API of the daemon.
    #[arg(long, env = "ISOCHRONE_URL", default_value = "http://127.0.0.1:8080")]
    pub(crate) url: String,
    /// How it is spoken to.
    #[command(flatten)]
    pub(crate) access: Access,
}

/// Where the admin API is.
#[derive(Debug, Clone, Args)]
pub(crate) struct AdminAccess {
    /// Admin API of the daemon.
    #[arg(long, env = "ISOCHRONE_ADMIN_URL", default_value = "http://127.0.0.1:9090")]
    pub(crate) admin_url: String,
    /// How it is spoken to.
    #[command(flatten)]
    pub(crate) access: Access,
}

/// `isochrone dev`.
#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// How many regions: 3 (us-east, eu-west, ap-northeast) or 5 (also us-west and sa-east).
    #[arg(long, default_value_t = 3, value_parser = region_count)]
    pub(crate) regions: usize,
    /// Where data, certificates and logs are kept [default: $XDG_STATE_HOME/isochrone/dev].
    #[arg(long)]
    pub(crate) data_dir: Option<PathBuf>,
    /// Start with empty data. Refuses a directory that `dev` did not make.
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Multiplies the published delays: 1.0 real, 0 none.
    #[arg(long, default_value_t = 1.0, value_parser = delay_scale)]
    pub(crate) delay_scale: f64,
    /// Share of packets lost between regions, in percent.
    #[arg(long, default_value_t = 0.0, value_parser = percent)]
    pub(crate) loss: f64,
    /// First of the ports (http N.., admin N+10.., peer N+20..); 0 takes free ones [default: 8080.., 9090.., 7946..].
    #[arg(long)]
    pub(crate) port_base: Option<u16>,
    /// Start a daemon again when it dies, after a second.
    #[arg(long)]
    pub(crate) restart: bool,
    /// Setting for every daemon, as in `serve --set`.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    pub(crate) settings: Vec<(String, String)>,
}

/// `isochrone serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// The node file (TOML).
    #[arg(short, long, env = "ISOCHRONE_CONFIG")]
    pub(crate) config: PathBuf,
    /// Daemons to join through, host:port of their peer listeners. Any one that answers is enough.
    #[arg(long, value_name = "SEED", value_delimiter = ',')]
    pub(crate) join: Vec<String>,
    /// Setting that overrides file and environment, such as `--set log.filter=debug`.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    pub(crate) settings: Vec<(String, String)>,
    /// End, as at SIGTERM, when stdin is closed: how `dev` makes sure that no daemon outlives it.
    #[arg(long, hide = true)]
    pub(crate) exit_with_stdin: bool,
}

/// `isochrone config`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check node files and cluster files: every mistake with its line, key, value and allowed range.
    Check {
        /// The files, node and cluster files in any order.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Show the settings in effect, each with where its value came from. Secrets are not shown.
    Show {
        /// The node file (TOML). Without it: the defaults and the environment.
        #[arg(short, long, env = "ISOCHRONE_CONFIG")]
        config: Option<PathBuf>,
        /// Setting that overrides file and environment.
        #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
        settings: Vec<(String, String)>,
    },
    /// Read a token from stdin and print its hash, as a cluster file or node file wants it.
    HashToken,
}

/// `isochrone certs`.
#[derive(Debug, Subcommand)]
pub(crate) enum CertsCommand {
    /// Make a cluster's certificate authority: ca.crt, ca.key.
    Ca(CaArgs),
    /// Make a daemon's certificate: node.crt, node.key, and a copy of ca.crt.
    Node(NodeCertArgs),
    /// Make an operator's or client's certificate: NAME.crt, NAME.key.
    Client(ClientCertArgs),
}

/// `isochrone certs ca`.
#[derive(Debug, Args)]
pub(crate) struct CaArgs {
    /// The cluster's name, part of every certificate.
    #[arg(long, default_value = "isochrone")]
    pub(crate) cluster: isochrone_ident::ClusterName,
    /// Where the files go; made when absent.
    #[arg(long, default_value = ".")]
    pub(crate) dir: PathBuf,
    /// How long the certificate holds.
    #[arg(long, default_value = "3650d", value_parser = units::duration)]
    pub(crate) valid_for: Duration,
    /// Overwrite what is there. Certificates of an overwritten CA are worthless.
    #[arg(long)]
    pub(crate) force: bool,
}

/// `isochrone certs node`.
#[derive(Debug, Args)]
pub(crate) struct NodeCertArgs {
    /// Directory of ca.crt and ca.key.
    #[arg(long, default_value = ".")]
    pub(crate) ca_dir: PathBuf,
    /// The cluster's name, as it was given to `certs ca`.
    #[arg(long, default_value = "isochrone")]
    pub(crate) cluster: isochrone_ident::ClusterName,
    /// The daemon's region.
    #[arg(long)]
    pub(crate) region: Region,
    /// The daemon's id, 32 hexadecimal digits [default: a new one].
    #[arg(long)]
    pub(crate) node: Option<NodeId>,
    /// Host names and addresses that the certificate is for besides, should it also serve clients.
    #[arg(long, value_delimiter = ',')]
    pub(crate) host: Vec<String>,
    /// Where the files go; made when absent.
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// How long the certificate holds.
    #[arg(long, default_value = "90d", value_parser = units::duration)]
    pub(crate) valid_for: Duration,
    /// Overwrite what is there: how a certificate is renewed (with the same --node).
    #[arg(long)]
    pub(crate) force: bool,
}

/// `isochrone certs client`.
#[derive(Debug, Args)]
pub(crate) struct ClientCertArgs {
    /// Who it is for; also names the files.
    pub(crate) name: String,
    /// Directory of ca.crt and ca.key.
    #[arg(long, default_value = ".")]
    pub(crate) ca_dir: PathBuf,
    /// The cluster's name, as it was given to `certs ca`.
    #[arg(long, default_value = "isochrone")]
    pub(crate) cluster: isochrone_ident::ClusterName,
    /// Where the files go; made when absent.
    #[arg(long, default_value = ".")]
    pub(crate) dir: PathBuf,
    /// How long the certificate holds.
    #[arg(long, default_value = "90d", value_parser = units::duration)]
    pub(crate) valid_for: Duration,
    /// Overwrite what is there.
    #[arg(long)]
    pub(crate) force: bool,
}

/// `isochrone apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// The cluster file (TOML); `-` reads stdin.
    pub(crate) file: PathBuf,
    /// Only tell what would change and what it would move.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Refuse unless the cluster file now applied has this revision.
    #[arg(long, value_name = "REVISION")]
    pub(crate) expect: Option<u64>,
    /// Which daemon.
    #[command(flatten)]
    pub(crate) admin: AdminAccess,
}

/// `isochrone status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Which daemon.
    #[command(flatten)]
    pub(crate) admin: AdminAccess,
}

/// `isochrone repair`.
#[derive(Debug, Args)]
pub(crate) struct RepairArgs {
    /// Only the keys of this namespace [default: all].
    pub(crate) namespace: Option<Namespace>,
    /// Which daemon. Here --timeout is how long it may say nothing, however long it takes in all.
    #[command(flatten)]
    pub(crate) admin: AdminAccess,
}

/// `isochrone members`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct MembersArgs {
    /// Which daemon.
    #[command(flatten)]
    pub(crate) admin: AdminAccess,
    /// What to do with them; without it they are listed.
    #[command(subcommand)]
    pub(crate) action: Option<MembersAction>,
}

/// What can be done with members.
#[derive(Debug, Subcommand)]
pub(crate) enum MembersAction {
    /// Remove a member for good: its data is placed elsewhere, and its identity is refused from then on.
    Remove {
        /// The member's id, 32 hexadecimal digits.
        node: NodeId,
        /// It is lost for good, and too many others with it: strong slots that lose the majority of their replicas go on with those left, and what only
        /// the lost ones had is lost. Says so, and asks first.
        #[arg(long)]
        lost: bool,
        /// Don't ask.
        #[arg(long)]
        yes: bool,
        /// Which daemon.
        #[command(flatten)]
        admin: AdminAccess,
    },
}

/// `isochrone council`.
#[derive(Debug, Subcommand)]
pub(crate) enum CouncilCommand {
    /// Found the council anew from those left, after a majority of it was lost for good. Says what may be lost, and asks first.
    ///
    /// The daemons left must be stopped, and those lost must never run again: if they do, they are a cluster of their own. Run it with --dry-run
    /// at each daemon left, and then at the one with the latest entry; it writes a file, with which it is run at each of the others (--follow). Then
    /// start them all.
    Recover(RecoverArgs),
}

/// `isochrone council recover`.
#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
    /// The stopped daemon's node file (TOML).
    #[arg(short, long, env = "ISOCHRONE_CONFIG")]
    pub(crate) config: PathBuf,
    /// Setting that overrides file and environment, as it was given to `serve`.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    pub(crate) settings: Vec<(String, String)>,
    /// The members that are lost for good, by their ids.
    #[arg(long, value_name = "NODE", value_delimiter = ',', required_unless_present = "follow", conflicts_with = "follow")]
    pub(crate) lost: Vec<NodeId>,
    /// Where the file for the others left goes [default: council-recovery in the data directory].
    #[arg(long, conflicts_with = "follow")]
    pub(crate) file: Option<PathBuf>,
    /// The file that the recovery at another daemon has written: this one goes along.
    #[arg(long, value_name = "FILE")]
    pub(crate) follow: Option<PathBuf>,
    /// Only say what would be lost.
    #[arg(long, conflicts_with_all = ["yes", "follow"])]
    pub(crate) dry_run: bool,
    /// Don't ask.
    #[arg(long)]
    pub(crate) yes: bool,
}

/// `isochrone placement`.
#[derive(Debug, Args)]
pub(crate) struct PlacementArgs {
    /// Only this key, as NAMESPACE/KEY.
    #[arg(value_name = "NAMESPACE/KEY", value_parser = KeyAddressParser, conflicts_with = "plan")]
    pub(crate) key: Option<KeyAddress>,
    /// What a change would move, in keys and bytes: a cluster file, or `remove=NODE`, `capacity=NODE:N`,
    /// `add=REGION[/ZONE][:N]`, `replicas=N`.
    #[arg(long, value_name = "FILE|CHANGE")]
    pub(crate) plan: Option<String>,
    /// Which daemon.
    #[command(flatten)]
    pub(crate) admin: AdminAccess,
}

/// `isochrone get`.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The key. Everything after the first slash is the key, as it is.
    #[arg(value_name = "NAMESPACE/KEY", value_parser = KeyAddressParser)]
    pub(crate) key: KeyAddress,
    /// What the key is. Each type is a key space of its own; one that is no value is printed as JSON.
    #[arg(long = "type", value_enum, default_value_t = KeyType::Value)]
    pub(crate) kind: KeyType,
    /// Write the value to this file instead of stdout.
    #[arg(long)]
    pub(crate) file: Option<PathBuf>,
    /// local, quorum or strong [default: the namespace's].
    #[arg(long)]
    pub(crate) consistency: Option<String>,
    /// A write of this key through the same daemon will follow, which is then cheaper. In strong namespaces.
    #[arg(long, conflicts_with = "kind")]
    pub(crate) for_update: bool,
    /// Which daemon.
    #[command(flatten)]
    pub(crate) data: DataAccess,
}

/// What must hold for a write to be applied. In strong namespaces, which can tell.
#[derive(Debug, Clone, Args)]
pub(crate) struct Conditions {
    /// Only if the key's ETag is one of these, as `get -o json` shows it; `*`: only if the key is there.
    #[arg(long, value_name = "ETAG", value_delimiter = ',')]
    pub(crate) if_match: Vec<String>,
    /// Only if the key's ETag is none of these; `*`: only if the key is absent.
    #[arg(long, value_name = "ETAG", value_delimiter = ',')]
    pub(crate) if_none_match: Vec<String>,
    /// Only while this lock's token is the newest that the key has seen.
    #[arg(long, value_name = "LOCK=TOKEN")]
    pub(crate) fence: Option<String>,
}

/// The key spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeyType {
    /// Bytes, the last write wins.
    Value,
    /// A number that is added to.
    Counter,
    /// A set of texts.
    Set,
    /// Fields, each a JSON value or a counter.
    Map,
    /// All values that were written without knowing of each other.
    Register,
}

/// `isochrone put`.
#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// The key. Everything after the first slash is the key, as it is.
    #[arg(value_name = "NAMESPACE/KEY", value_parser = KeyAddressParser)]
    pub(crate) key: KeyAddress,
    /// The value; `-` reads stdin.
    #[arg(required_unless_present = "file", conflicts_with = "file", allow_hyphen_values = true)]
    pub(crate) value: Option<std::ffi::OsString>,
    /// Read the value from this file.
    #[arg(long)]
    pub(crate) file: Option<PathBuf>,
    /// How long the value lives, such as 90s or 7d.
    #[arg(long, value_parser = units::duration)]
    pub(crate) ttl: Option<Duration>,
    /// What the value is [default: by the file's name, else text/plain for text, else application/octet-stream].
    #[arg(long)]
    pub(crate) content_type: Option<String>,
    /// What must hold.
    #[command(flatten)]
    pub(crate) conditions: Conditions,
    /// Name of this write: repeated within ten minutes, it is applied once [default: a random one].
    #[arg(long)]
    pub(crate) idempotency_key: Option<String>,
    /// local, quorum or strong [default: the namespace's].
    #[arg(long)]
    pub(crate) consistency: Option<String>,
    /// Which daemon.
    #[command(flatten)]
    pub(crate) data: DataAccess,
}

/// `isochrone del`.
#[derive(Debug, Args)]
pub(crate) struct DelArgs {
    /// The key. Everything after the first slash is the key, as it is.
    #[arg(value_name = "NAMESPACE/KEY", value_parser = KeyAddressParser)]
    pub(crate) key: KeyAddress,
    /// What must hold.
    #[command(flatten)]
    pub(crate) conditions: Conditions,
    /// Name of this write: repeated within ten minutes, it is applied once [default: a random one].
    #[arg(long)]
    pub(crate) idempotency_key: Option<String>,
    /// local, quorum or strong [default: the namespace's].
    #[arg(long)]
    pub(crate) consistency: Option<String>,
    /// Which daemon.
    #[command(flatten)]
    pub(crate) data: DataAccess,
}

/// `isochrone incr`.
#[derive(Debug, Args)]
pub(crate) struct IncrArgs {
    /// The counter. Everything after the first slash is the key, as it is.
    #[arg(value_name = "NAMESPACE/KEY", value_parser = KeyAddressParser)]
    pub(crate) key: KeyAddress,
    /// How much is added; negative takes away.
    #[arg(default_value_t = 1, allow_negative_numbers = true)]
    pub(crate) by: i64,
    /// Name of this addition: repeated within ten minutes, in any region, it counts once [default: a random one].
    #[arg(long)]
    pub(crate) idempotency_key: Option<String>,
    /// local or quorum [default: the namespace's].
    #[arg(long)]
    pub(crate) consistency: Option<String>,
    /// Which daemon.
    #[command(flatten)]
    pub(crate) data: DataAccess,
}

/// `isochrone import`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("source").required(true).args(["dir", "ndjson"]))]
pub(crate) struct ImportArgs {
    /// Where the keys go.
    #[arg(long)]
    pub(crate) namespace: Namespace,
    /// Directory whose files are written, each under its path from here. Links that lead out of it are skipped.
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// File of lines as `export --ndjson` writes them; `-` reads stdin.
    #[arg(long)]
    pub(crate) ndjson: Option<PathBuf>,
    /// What every key starts with, as it is (give the slash, if one is wanted).
    #[arg(long, default_value = "")]
    pub(crate) prefix: String,
    /// How many requests are under way at once.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) concurrency: u16,
    /// How often one file is tried when the daemon asks for patience or cannot be reached.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub(crate) attempts: u8,
    /// Skip what an earlier run has written, as its journal says.
    #[arg(long)]
    pub(crate) resume: bool,
    /// Journal of what was acknowledged; implies --resume [default: one per source and target in
    /// $XDG_STATE_HOME/isochrone/import].
    #[arg(long, value_name = "FILE")]
    pub(crate) state: Option<PathBuf>,
    /// How long the values live, such as 90s or 7d. A line's own ttl_ms goes first.
    #[arg(long, value_parser = units::duration)]
    pub(crate) ttl: Option<Duration>,
    /// Which daemon.
    #[command(flatten)]
    pub(crate) data: DataAccess,
}

/// `isochrone export`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("target").required(true).args(["dir", "ndjson", "verify"]))]
pub(crate) struct ExportArgs {
    /// Which keys.
    #[arg(long)]
    pub(crate) namespace: Namespace,
    /// Directory that the values are written into, each under its key. Keys that would lead out of it are refused.
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// File that gets a line a key, content types and remaining lifetimes included; `-` writes to stdout.
    #[arg(long)]
    pub(crate) ndjson: Option<PathBuf>,
    /// Write nothing: compare with this directory, byte for byte, content types too.
    #[arg(long, value_name = "DIR")]
    pub(crate) verify: Option<PathBuf>,
    /// Only keys that start so; left off from the paths of files.
    #[arg(long, default_value = "")]
    pub(crate) prefix: String,
    /// How many requests are under way at once.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) concurrency: u16,
    /// How often one key is tried when the daemon asks for patience or cannot be reached.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub(crate) attempts: u8,
    /// Which daemon.
    #[command(flatten)]
    pub(crate) data: DataAccess,
}

fn region_count(text: &str) -> Result<usize, String> {
    match text {
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err("3 or 5 regions have published delays".to_owned()),
    }
}

fn delay_scale(text: &str) -> Result<f64, String> {
    number_in(text, 0.0, 100.0)
}

fn percent(text: &str) -> Result<f64, String> {
    number_in(text, 0.0, 100.0)
}

fn number_in(text: &str, least: f64, most: f64) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("a number from {least} to {most} is wanted")),
    }
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("KEY=VALUE is wanted, such as log.filter=debug".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_flag_is_explained() {
        fn walk(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {} has no help", command.get_name(), arg.get_id());
            }
            command.get_subcommands().filter(|c| c.get_name() != "help").for_each(walk);
        }
        walk(&Cli::command());
    }

    #[test]
    fn output_is_taken_before_and_after_the_command() {
        assert_eq!(parse("isochrone -o json status").expect("parses").output, OutputFormat::Json);
        assert_eq!(parse("isochrone status -o json").expect("parses").output, OutputFormat::Json);
    }

    #[test]
    fn import_wants_exactly_one_source() {
        assert!(parse("isochrone import --namespace data").is_err());
        assert!(parse("isochrone import --namespace data --dir a --ndjson b").is_err());
        assert!(parse("isochrone import --namespace data --dir a").is_ok());
        assert!(parse("isochrone import --namespace Data --dir a").is_err());
    }

    #[test]
    fn dev_knows_three_and_five_regions_only() {
        assert!(parse("isochrone dev --regions 5").is_ok());
        assert!(parse("isochrone dev --regions 4").is_err());
        assert!(parse("isochrone dev --loss 101").is_err());
        assert!(parse("isochrone dev --delay-scale -1").is_err());
    }

    #[test]
    fn serve_takes_several_seeds_and_settings() {
        let cli = parse("isochrone serve --config n.toml --join a:1,b:2 --set log.filter=debug").expect("parses");
        let Command::Serve(serve) = cli.command else { panic!("serve") };
        assert_eq!(serve.join, ["a:1", "b:2"]);
        assert_eq!(serve.settings, [("log.filter".to_owned(), "debug".to_owned())]);
    }

    #[test]
    fn a_value_may_look_like_a_flag() {
        assert!(parse("isochrone put data/k -5").is_ok());
        assert!(parse("isochrone put data/k -").is_ok());
        assert!(parse("isochrone put data/k").is_err());
    }

    #[test]
    fn incr_adds_one_and_takes_negative_numbers() {
        let by = |line: &str| match parse(line).map(|cli| cli.command) {
            Ok(Command::Incr(incr)) => Some(incr.by),
            _ => None,
        };
        assert_eq!(by("isochrone incr data/hits"), Some(1));
        assert_eq!(by("isochrone incr data/hits -5 --url http://h:1"), Some(-5));
        assert_eq!(by("isochrone incr data/hits --url http://h:1"), Some(1));
        for wrong in ["isochrone incr hits", "isochrone incr data/hits many", "isochrone incr data/hits 9223372036854775808"] {
            assert_eq!(by(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn repair_takes_one_namespace_or_none() {
        assert!(parse("isochrone repair").is_ok() && parse("isochrone repair data").is_ok());
        assert!(parse("isochrone repair Data").is_err() && parse("isochrone repair data cache").is_err());
    }
}
