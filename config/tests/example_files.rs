//! The two example files are what the tables of keys say, and load.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use isochrone_config::{CLUSTER, ClusterSpec, KeySpec, Kind, Loaded, NODE, NodeSettings, Schema};

const NODE_FILE: &str = include_str!("../isochrone.example.toml");
const CLUSTER_FILE: &str = include_str!("../cluster.example.toml");

fn load(text: &str) -> Loaded {
    NodeSettings::parse(text, Path::new("isochrone.example.toml"), std::iter::empty(), &[]).unwrap()
}

/// The file with every setting that is commented out switched on, but for the second form of secrets.
fn all_on(text: &str) -> String {
    let on = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.starts_with(' ') => setting.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(on).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_files_are_as_the_tables_make_them() {
    let how = "make them anew with `cargo run -p isochrone-config --example write-examples`";
    assert_eq!(NODE_FILE, NODE.example(), "{how}");
    assert_eq!(CLUSTER_FILE, CLUSTER.example(), "{how}");
}

#[test]
fn the_node_example_loads_and_shows_the_defaults() {
    let shown = load(NODE_FILE);
    let bare = load("node.region = \"us-east\"\n");
    assert_eq!(shown.settings, bare.settings);
    for key in NODE.keys().filter(|key| key.default.is_some()) {
        assert_eq!(shown.provenance.value(key.path), bare.provenance.value(key.path), "{}", key.path);
        let is_table = matches!(key.kind, Kind::Tables(_));
        assert_eq!(shown.provenance.origin(key.path).kind() == "file", !is_table, "{} stands in the file", key.path);
    }
}

#[test]
fn the_cluster_example_loads_and_is_the_default() {
    assert_eq!(ClusterSpec::parse(CLUSTER_FILE, "cluster.example.toml").unwrap(), ClusterSpec::default());
}

#[test]
fn every_setting_that_is_commented_out_can_be_switched_on() {
    let loaded = load(&all_on(NODE_FILE));
    for key in NODE.keys() {
        assert_eq!(loaded.provenance.origin(key.path).kind(), "file", "{}", key.path);
    }
    let spec = ClusterSpec::parse(&all_on(CLUSTER_FILE), "cluster.example.toml").unwrap();
    assert_eq!((spec.namespaces().count(), spec.tokens.len()), (4, 1));
}

fn fields(key: &'static KeySpec) -> Vec<&'static KeySpec> {
    match key.kind {
        Kind::Tables(inner) => std::iter::once(key).chain(inner.iter().flat_map(fields)).collect(),
        _ => vec![key],
    }
}

#[test]
fn every_known_key_stands_in_its_file_and_in_the_reference() {
    let check = |schema: &'static Schema, file: &str| {
        let reference = schema.reference();
        for key in schema.keys().flat_map(fields) {
            let name = key.path.rsplit('.').next().unwrap();
            let assigned = format!("{name} = ");
            let stands = file.contains(&format!("[[{}]]", key.path)) || file.contains(&assigned);
            assert!(stands, "{} is missing in the example", key.path);
            assert!(reference.contains(&format!("{}`", key.path)), "{} is missing in the reference", key.path);
        }
    };
    check(&NODE, NODE_FILE);
    check(&CLUSTER, CLUSTER_FILE);
}

#[test]
fn every_default_and_example_passes_its_own_check_and_every_key_says_why() {
    for key in NODE.keys().chain(CLUSTER.keys()) {
        assert!(key.doc.len() > 20 && key.doc.ends_with(['.', ':', 'm']), "{}: {}", key.path, key.doc);
        assert!(!(key.required && key.default.is_some()), "{}", key.path);
        assert!(key.default.is_some() || !key.example.is_empty(), "{}", key.path);
    }
}
