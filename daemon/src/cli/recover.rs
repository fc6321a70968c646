//! `isochrone council recover`: a majority of the council lost for good.
//!
//! ```text
//!   council.redb of the daemon with the latest entry --look--> what may be lost --yes--> a new council in it, and a file
//!   council.redb of every other daemon left <---------------------------- --follow ----------------------------------+
//! ```

use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};

use isochrone_config::NodeSettings;
use isochrone_council::{ClusterState, Recovery, follow};
use isochrone_gossip::PeerIdentity;
use isochrone_ident::NodeId;
use redb::Database;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::args::{OutputFormat, RecoverArgs};
use super::config::{environment, invalid};
use super::failure::Failure;
use super::output::{cell, line, show};
use super::wall_now;

/// The stopped daemon whose council is recovered.
struct Stopped {
    journal: PathBuf,
    data_dir: PathBuf,
    node: NodeId,
    unfounded: ClusterState,
}

impl Stopped {
    fn of(args: &RecoverArgs) -> Result<Self, Failure> {
        let loaded = NodeSettings::load(Some(&args.config), environment(), &args.settings).map_err(|problems| invalid(&problems))?;
        let settings = loaded.settings;
        let files = settings.peer.identity().ok_or_else(|| {
            Failure::failed("the daemon's identity is not known", "peer.ca, peer.cert and peer.key are not set")
                .advise("Use the node file that it serves with.")
        })?;
        let node = node_of(&files.cert)?;
        let data_dir = settings.node.data_dir;
        Ok(Self { journal: data_dir.join("council.redb"), data_dir, node, unfounded: ClusterState::new(settings.node.cluster) })
    }

    /// The journal, which a running daemon would not give away.
    fn open(&self) -> Result<Database, Failure> {
        Database::open(&self.journal).map_err(|error| {
            Failure::failed(format!("cannot open {}", self.journal.display()), error.to_string())
                .advise("Stop the daemon first: its council is recovered while it doesn't run.")
        })
    }

    /// A copy of the journal as it was, beside it, synced; a copy that is there already is the older one, and stays.
    fn keep(&self) -> Result<PathBuf, Failure> {
        let kept = self.journal.with_extension("before-recovery");
        let copy = || {
            if !kept.exists() {
                let new = kept.with_extension("copying");
                std::fs::copy(&self.journal, &new)?;
                std::fs::File::open(&new)?.sync_all()?;
                std::fs::rename(&new, &kept)?;
            }
            std::fs::File::open(&self.data_dir)?.sync_all()
        };
        copy().map_err(|error| Failure::file("write", &kept, &error))?;
        Ok(kept)
    }
}

fn node_of(certificate: &Path) -> Result<NodeId, Failure> {
    let bytes = std::fs::read(certificate).map_err(|error| Failure::file("read", certificate, &error))?;
    let unusable = |why: String| Failure::failed(format!("peer.cert {} cannot be used", certificate.display()), why);
    let own = CertificateDer::from_pem_slice(&bytes).map_err(|e| unusable(e.to_string()))?;
    PeerIdentity::of_certificate(&own).map(|identity| identity.node).map_err(|e| unusable(e.to_string()))
}

fn refused(error: impl std::fmt::Display) -> Failure {
    Failure::failed("the council is not recovered", error.to_string())
}

/// `isochrone council recover`.
///
/// # Errors
/// When there is nothing to recover from, or no need to, or the operator does not agree; then nothing has changed.
pub(crate) fn recover(args: &RecoverArgs, format: OutputFormat) -> Result<(), Failure> {
    let stopped = Stopped::of(args)?;
    match &args.follow {
        Some(file) => go_along(&stopped, file, format),
        None => begin(&stopped, args, format),
    }
}

fn go_along(stopped: &Stopped, file: &Path, format: OutputFormat) -> Result<(), Failure> {
    let bytes = std::fs::read(file).map_err(|error| Failure::file("read", file, &error))?;
    drop(stopped.open()?); // nobody has it, so that it can be copied
    let kept = stopped.keep()?;
    let council = follow(stopped.open()?, stopped.unfounded.clone(), stopped.node, &bytes).map_err(refused)?;
    let text =
        format!("{} is in the new council; the journal of the old one is kept as {}. Start the daemon.", stopped.node, kept.display());
    show(format, &json!({"node": stopped.node.to_string(), "council": format!("{:016x}", council.0), "kept": kept}), |_| text)?;
    Ok(())
}

fn begin(stopped: &Stopped, args: &RecoverArgs, format: OutputFormat) -> Result<(), Failure> {
    let lost = args.lost.iter().copied().collect();
    let recovery = Recovery::look(stopped.open()?, stopped.unfounded.clone(), stopped.node, &lost, wall_now().0).map_err(refused)?;
    let report = report(&recovery);
    if args.dry_run {
        show(format, &report, report_text)?;
        return Ok(());
    }
    if !args.yes {
        ask(&report_text(&report))?;
    }
    let kept = stopped.keep()?;
    let file = args.file.clone().unwrap_or_else(|| stopped.data_dir.join("council-recovery"));
    let bytes = recovery.file().map_err(refused)?;
    std::fs::write(&file, bytes).map_err(|error| Failure::file("write", &file, &error))?;
    recovery.begin(stopped.open()?).map_err(refused)?;
    let mut done = report;
    (done["file"], done["kept"]) = (json!(file), json!(kept));
    show(format, &done, done_text)?;
    Ok(())
}

fn report(recovery: &Recovery) -> Value {
    let ids = |members: &[isochrone_council::Member]| {
        let id = |m: &isochrone_council::Member| json!({"node": m.node.to_string(), "region": m.region.to_string(), "address": m.address});
        members.iter().map(id).collect::<Vec<_>>()
    };
    let mut sets: BTreeMap<&str, usize> = BTreeMap::from([("may_lose", 0), ("lost", 0), ("nothing_lost", 0)]);
    for cut in &recovery.cuts {
        let kind = if cut.loses_nothing() {
            "nothing_lost"
        } else if cut.left == 0 {
            "lost"
        } else {
            "may_lose"
        };
        *sets.entry(kind).or_default() += 1;
    }
    json!({
        "old_council": format!("{:016x}", recovery.old.0), "new_council": format!("{:016x}", recovery.new.0),
        "last_entry": recovery.last_index, "last_election": recovery.last_term,
        "lost": ids(&recovery.lost), "left": ids(&recovery.left),
        "strong_sets": sets, "eventual_slots_lost": recovery.eventual_lost.len(),
    })
}

/// What may be lost, in words that nobody can misread.
fn report_text(report: &Value) -> String {
    let members = |members: &Value| {
        let line = |m: &Value| format!("  {}  {}  {}\n", cell(&m["node"]), cell(&m["region"]), cell(&m["address"]));
        members.as_array().into_iter().flatten().map(line).collect::<String>()
    };
    let sets = &report["strong_sets"];
    format!(
        "Lost for good, by your word. They must never run again: if they do, they are a cluster of their own, and both take writes.\n{}\
         Left, and to be started once each has gone along (--follow):\n{}\
         What may be lost:\n  \
           changes of the cluster after entry {} of election {}. Recover at the daemon left whose entry is the latest, the election first: see --dry-run \
           at each.\n  \
           strong keys: {} replica sets lose their majority and go on from what those left of them have. A write that was acknowledged may be gone if \
           only the lost ones had it; one that was never acknowledged may come to count.\n  \
           strong keys: {} replica sets are lost whole, and begin empty. {} lose their majority, but no write.\n  \
           eventual keys: of {} slots nobody left has anything, and of all others what had not reached those left.\n",
        members(&report["lost"]),
        members(&report["left"]),
        cell(&report["last_entry"]),
        cell(&report["last_election"]),
        cell(&sets["may_lose"]),
        cell(&sets["lost"]),
        cell(&sets["nothing_lost"]),
        cell(&report["eventual_slots_lost"]),
    )
}

fn done_text(done: &Value) -> String {
    format!(
        "The new council {} has begun at this daemon; the journal of the old one is kept as {}.\n\
         Take {} to every other daemon left, run `isochrone council recover --follow` with it there, and then start them all.\n",
        cell(&done["new_council"]),
        cell(&done["kept"]),
        cell(&done["file"]),
    )
}

/// Says it, and goes on only if the operator types `yes`.
///
/// # Errors
/// When they type something else, or nobody is there to ask.
pub(super) fn ask(what: &str) -> Result<(), Failure> {
    let stdin = std::io::stdin();
    let declined = |why: &str| Failure::failed("nothing was changed", why).advise("Give --yes to go on without being asked.");
    line(what)?;
    if !stdin.is_terminal() {
        return Err(declined("this cannot be undone, and there is no terminal to ask at"));
    }
    line("This cannot be undone. Type yes to go on:")?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    if answer.trim() == "yes" { Ok(()) } else { Err(declined("it was not agreed to")) }
}
