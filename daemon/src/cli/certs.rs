//! `isochrone certs`: files that only their owner can read, nothing overwritten unasked, and what to do next.

use std::fs;
use std::path::{Path, PathBuf};

use isochrone_gossip::PeerIdentity;
use isochrone_gossip::certs::{CertificatePem, IssueError, create_ca, issue_client, issue_node};
use isochrone_ident::NodeId;
use rand::Rng;
use serde_json::json;

use super::args::{CaArgs, CertsCommand, ClientCertArgs, NodeCertArgs, OutputFormat};
use super::failure::{Exit, Failure};
use super::output::show;
use super::wall_now;

/// `isochrone certs`.
///
/// # Errors
/// When a file is in the way, or cannot be read, written or understood. Nothing is half written.
pub(crate) fn certs(command: &CertsCommand, format: OutputFormat) -> Result<(), Failure> {
    match command {
        CertsCommand::Ca(args) => ca(args, format),
        CertsCommand::Node(args) => node(args, format),
        CertsCommand::Client(args) => client(args, format),
    }
}

fn ca(args: &CaArgs, format: OutputFormat) -> Result<(), Failure> {
    let files = make_way(&args.dir, &["ca.crt", "ca.key"], args.force)?;
    let ca = create_ca(&args.cluster, wall_now(), args.valid_for).map_err(|error| not_made(&error))?;
    write(&ca, &args.dir, "ca")?;
    let next = format!(
        "Keep ca.key off the machines that daemons run on. Next, for each daemon:\n  \
         isochrone certs node --ca-dir {dir} --cluster {cluster} --region REGION --dir DIR",
        dir = args.dir.display(),
        cluster = args.cluster,
    );
    tell(format, &files, json!({"cluster": args.cluster}), &next)
}

fn node(args: &NodeCertArgs, format: OutputFormat) -> Result<(), Failure> {
    let files = make_way(&args.dir, &["node.crt", "node.key", "ca.crt"], args.force)?;
    let ca = read_ca(&args.ca_dir)?;
    let node = args.node.unwrap_or_else(|| NodeId(rand::rng().random()));
    let identity = PeerIdentity { cluster: args.cluster.clone(), region: args.region.clone(), node };
    let issued = issue_node(&ca, &identity, &args.host, wall_now(), args.valid_for).map_err(|error| not_made(&error))?;
    write(&issued, &args.dir, "node")?;
    let bundle = args.dir.join("ca.crt");
    fs::write(&bundle, &ca.certificate).map_err(|error| Failure::file("write", &bundle, &error))?;
    let next = format!(
        "The daemon is {node}. Its node file says:\n  [node]\n  cluster = \"{}\"\n  region = \"{}\"\n  [peer]\n  ca = {:?}\n  cert = {:?}\n  key = {:?}\n\
         Renew it before it ends with the same command, --node {node} and --force: the daemon takes up the new one by itself.",
        args.cluster, args.region, files[2], files[0], files[1],
    );
    tell(format, &files, json!({"cluster": args.cluster, "region": args.region, "node": node.to_string()}), &next)
}

fn client(args: &ClientCertArgs, format: OutputFormat) -> Result<(), Failure> {
    let names = [format!("{}.crt", args.name), format!("{}.key", args.name)];
    let files = make_way(&args.dir, &[&names[0], &names[1]], args.force)?;
    let ca = read_ca(&args.ca_dir)?;
    let issued = issue_client(&ca, &args.cluster, &args.name, wall_now(), args.valid_for).map_err(|error| not_made(&error))?;
    write(&issued, &args.dir, &args.name)?;
    let next = format!("Give both files to {}; listeners that ask for client certificates know the name by it.", args.name);
    tell(format, &files, json!({"cluster": args.cluster, "name": args.name}), &next)
}

/// Makes the directory, and sees that none of the files is there, unless they may be overwritten.
fn make_way(dir: &Path, names: &[&str], is_forced: bool) -> Result<Vec<PathBuf>, Failure> {
    fs::create_dir_all(dir).map_err(|error| Failure::file("make", dir, &error))?;
    let dir = fs::canonicalize(dir).map_err(|error| Failure::file("use", dir, &error))?;
    let files: Vec<PathBuf> = names.iter().map(|name| dir.join(name)).collect();
    match files.iter().find(|file| fs::symlink_metadata(file).is_ok()) {
        Some(file) if !is_forced => Err(Failure::failed(format!("{} is there already", file.display()), "nothing was written")
            .advise("Give another --dir, or --force to overwrite it.")),
        _ => Ok(files),
    }
}

fn read_ca(dir: &Path) -> Result<CertificatePem, Failure> {
    let read = |name: &str| {
        let path = dir.join(name);
        fs::read_to_string(&path)
            .map_err(|error| Failure::file("read", &path, &error).advise("Make it first: isochrone certs ca --dir DIR"))
    };
    Ok(CertificatePem { certificate: read("ca.crt")?, key: read("ca.key")? })
}

fn write(pem: &CertificatePem, dir: &Path, stem: &str) -> Result<(), Failure> {
    pem.write(dir, stem).map_err(|error| Failure::file("write certificates into", dir, &error))
}

fn not_made(error: &IssueError) -> Failure {
    let exit = if matches!(error, IssueError::Name(_)) { Exit::Usage } else { Exit::Failed };
    Failure::new(exit, "the certificate was not made", error.to_string())
}

fn tell(format: OutputFormat, files: &[PathBuf], mut members: serde_json::Value, next: &str) -> Result<(), Failure> {
    let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    members["files"] = json!(names);
    show(format, &members, |_| format!("wrote {}\n{next}", names.join(", ")))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::args::{Cli, Command};
    use super::*;

    fn run(line: &str) -> Result<(), Failure> {
        let Command::Certs(command) = Cli::try_parse_from(line.split(' ')).expect("parses").command else { panic!("certs") };
        certs(&command, OutputFormat::Text)
    }

    #[test]
    fn certificates_are_made_once_and_overwritten_only_when_forced() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().to_str().expect("text");
        let ca = format!("isochrone certs ca --cluster demo --dir {dir}/ca");
        let node = format!("isochrone certs node --cluster demo --ca-dir {dir}/ca --region eu-west --dir {dir}/node");
        assert_eq!(run(&node).expect_err("no CA yet").exit, Exit::Absent);
        run(&ca).expect("made");
        let first = fs::read(format!("{dir}/ca/ca.key")).expect("read");
        assert!(run(&ca).expect_err("there already").to_string().contains("--force"));
        assert_eq!(fs::read(format!("{dir}/ca/ca.key")).expect("read"), first);
        run(&node).expect("made");
        run(&format!("{node} --force --node 000102030405060708090a0b0c0d0e0f")).expect("renewed");
        run(&format!("isochrone certs client alice --cluster demo --ca-dir {dir}/ca --dir {dir}")).expect("made");
        run(&format!("{ca} --force")).expect("overwritten");
        assert_ne!(fs::read(format!("{dir}/ca/ca.key")).expect("read"), first);
    }

    #[test]
    fn a_clients_name_cannot_lead_out_of_the_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().to_str().expect("text");
        run(&format!("isochrone certs ca --cluster demo --dir {dir}")).expect("made");
        assert_eq!(
            run(&format!("isochrone certs client ../x --cluster demo --ca-dir {dir} --dir {dir}")).expect_err("refused").exit,
            Exit::Usage
        );
    }
}
