//! Certificates change while daemons run (rule M4).

mod support;

use std::path::Path;
use std::sync::Arc;

use isochrone_gossip::certs::{self, CertificatePem, LEAF_VALIDITY};
use isochrone_gossip::{Credentials, MeshOptions, RealSockets};
use isochrone_ident::NodeId;
use support::*;

fn files(directory: &Path) -> Credentials {
    Credentials::Files { certificate: directory.join("node.crt"), key: directory.join("node.key"), authorities: directory.join("ca.pem") }
}

fn write(directory: &Path, ca: &CertificatePem, node: u128, bundle: &[&CertificatePem]) {
    certs::issue_node(ca, &identity(node), &[], NOW, LEAF_VALIDITY).expect("made").write(directory, "node").expect("written");
    let bundle: String = bundle.iter().map(|ca| ca.certificate.as_str()).collect();
    std::fs::write(directory.join("ca.pem"), bundle).expect("written");
}

fn with_files(ca: &CertificatePem, node: u128, directory: &Path, watch: bool) -> MeshOptions {
    let mut options = options(ca, node, &[]);
    (options.credentials, options.watch) = (files(directory), watch);
    options
}

#[tokio::test]
async fn m4_an_authority_is_replaced_without_a_restart() {
    let (old, new) = (authority(), authority());
    let directory = tempfile::tempdir().expect("a directory");
    write(directory.path(), &old, 1, &[&old]);
    let a = start(with_files(&old, 1, directory.path(), false), Arc::new(RealSockets::default())).await;

    // Until the bundle has the new authority, its daemons are strangers.
    let mut newcomer = options(&new, 2, &[a.address()]);
    let own = certs::issue_node(&new, &identity(2), &[], NOW, LEAF_VALIDITY).expect("made");
    newcomer.credentials = Credentials::Memory { own, authorities: format!("{}{}", old.certificate, new.certificate) };
    let b = start(newcomer, Arc::new(RealSockets::default())).await;
    tokio::time::sleep(SECOND / 2).await;
    assert!(!b.mesh.is_connected(NodeId(1)));

    write(directory.path(), &old, 1, &[&old, &new]);
    a.mesh.reload().expect("good");
    until_meshed(&[&a, &b]).await;
}

#[tokio::test]
async fn m4_changed_files_are_seen_without_being_told() {
    let (old, new) = (authority(), authority());
    let directory = tempfile::tempdir().expect("a directory");
    write(directory.path(), &old, 1, &[&old]);
    let a = start(with_files(&old, 1, directory.path(), true), Arc::new(RealSockets::default())).await;
    write(directory.path(), &new, 1, &[&old, &new]);
    let b = real(&new, 2, &[a.address()]).await;
    until_meshed(&[&a, &b]).await;
}

#[tokio::test]
async fn m4_bad_files_keep_the_old_certificates_and_say_so() {
    let ca = authority();
    let directory = tempfile::tempdir().expect("a directory");
    write(directory.path(), &ca, 1, &[&ca]);
    let a = start(with_files(&ca, 1, directory.path(), false), Arc::new(RealSockets::default())).await;
    std::fs::write(directory.path().join("node.crt"), "garbage").expect("written");
    let error = a.mesh.reload().expect_err("refused").to_string();
    assert!(error.contains("the old ones stay in use"), "{error}");
    write(directory.path(), &authority(), 1, &[&ca]);
    assert!(a.mesh.reload().is_err(), "a certificate that no authority of the bundle vouches for");
    std::fs::remove_file(directory.path().join("node.key")).expect("removed");
    let error = a.mesh.reload().expect_err("refused").to_string();
    assert!(error.contains("node.key"), "{error}");
    let b = real(&ca, 2, &[a.address()]).await;
    until_meshed(&[&a, &b]).await;
}
