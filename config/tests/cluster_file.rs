//! The cluster file: built-in namespaces, rules, differences, secrets.
#![allow(clippy::unwrap_used)]

use isochrone_config::{ByteSize, Change, ClusterSpec, Keeping, Mode, Right, Span, diff};
use isochrone_ident::{ClusterName, Namespace};

fn parse(text: &str) -> ClusterSpec {
    ClusterSpec::parse(text, "cluster.toml").unwrap()
}

fn complaint(text: &str) -> String {
    ClusterSpec::parse(text, "cluster.toml").unwrap_err().to_string()
}

fn ns(name: &str) -> Namespace {
    Namespace::new(name).unwrap()
}

const PROFILES: &str = "[[namespace]]\nname = \"profiles\"\nmode = \"eventual\"\n";

#[test]
fn an_empty_file_has_the_three_built_in_namespaces() {
    let spec = parse("");
    assert_eq!(spec, ClusterSpec::default());
    let kinds: Vec<_> = spec.namespaces().map(|n| (n.name.as_str(), n.mode, n.keeping, n.replicas)).collect();
    let expected = [
        ("cache", Mode::Eventual, Keeping::Evictable, 3),
        ("data", Mode::Eventual, Keeping::Durable, 3),
        ("strong", Mode::Strong, Keeping::Durable, 3),
    ];
    assert_eq!(kinds, expected);
    assert_eq!((spec.replica_width(), spec.namespace(&ns("other"))), (3, None));
}

#[test]
fn a_namespace_is_declared_with_its_settings() {
    let spec = parse(&format!("{PROFILES}replicas = 5\nttl_default = \"1h\"\nttl_max = \"2h\"\nvalue_bytes = \"1MiB\"\n"));
    let profiles = spec.namespace(&ns("profiles")).unwrap();
    assert_eq!((profiles.keeping, profiles.replicas, spec.replica_width()), (Keeping::Durable, 5, 5));
    assert_eq!(profiles.ttl_default, Some(Span::secs(3600)));
    let hours = |h: u64| Some(Span::secs(h * 3600).duration());
    assert_eq!([profiles.ttl(None), profiles.ttl(hours(9)), profiles.ttl(hours(2))], [hours(1), hours(2), hours(2)]);
    assert_eq!(profiles.value_bytes_max(ByteSize::mib(16)), ByteSize::mib(1));
    assert_eq!(profiles.value_bytes_max(ByteSize::kib(1)), ByteSize::kib(1));
}

#[test]
fn e10_e12_a_namespace_bounds_the_age_of_answers_and_the_size_of_sets_and_may_change_both() {
    let bounded = parse(&format!("{PROFILES}max_staleness = \"30s\"\nset_members = 20\n"));
    let free = parse(PROFILES);
    let of = |spec: &ClusterSpec| spec.namespace(&ns("profiles")).cloned().unwrap();
    let seconds = |s: u64| Span::secs(s).duration();
    assert_eq!([30, 31].map(|s| of(&bounded).is_fresh_enough(seconds(s))), [true, false]);
    assert!(of(&free).is_fresh_enough(seconds(1 << 40)));
    assert_eq!([of(&bounded), of(&free)].map(|spec| spec.set_members_max(10_000)), [20, 10_000]);
    let changes = diff(&free, &bounded);
    let told: Vec<String> = changes.iter().map(Change::to_string).collect();
    assert_eq!(told, ["~ namespace profiles: max_staleness unset -> 30s", "~ namespace profiles: set_members unset -> 20"]);
    assert!(!changes.iter().any(Change::is_refused));
}

#[test]
fn a_built_in_namespace_may_be_listed_again_but_keeps_its_mode() {
    let spec = parse("[[namespace]]\nname = \"cache\"\nmode = \"eventual\"\nttl_max = \"1d\"\n");
    let cache = spec.namespace(&ns("cache")).unwrap();
    assert_eq!((cache.keeping, cache.ttl(None)), (Keeping::Evictable, Some(Span::secs(86_400).duration())));
    let text = complaint("[[namespace]]\nname = \"data\"\nmode = \"strong\"\n");
    assert_eq!(text, "cluster.toml:3: namespace[0].mode = \"strong\": data is built in, with mode \"eventual\" for ever");
    assert!(
        complaint("[[namespace]]\nname = \"data\"\nmode = \"eventual\"\nkind = \"evictable\"\n").contains("with kind \"durable\" for ever")
    );
}

#[test]
fn mistakes_are_told_with_their_lines() {
    for (text, expected) in [
        (format!("{PROFILES}{PROFILES}"), "cluster.toml:5: namespace[1].name = \"profiles\": namespace[0].name has that value already"),
        (format!("{PROFILES}replicas = 8\n"), "cluster.toml:4: namespace[0].replicas = 8: must be a whole number from 1 to 7"),
        (format!("{PROFILES}replica = 3\n"), "cluster.toml:4: namespace[0].replica = 3: unknown key; did you mean replicas?"),
        (
            format!("{PROFILES}ttl_default = \"2h\"\nttl_max = \"1h\"\n"),
            "cluster.toml:4: namespace[0].ttl_default = \"2h\": must not be above ttl_max",
        ),
        ("[[namespace]]\nmode = \"strong\"\nname = \"x\"\nkind = \"evictable\"\n".into(), "cluster.toml:4: namespace[0].kind"),
        (
            "[[namespace]]\nname = \"x\"\nmode = \"strong\"\nset_members = 5\n".into(),
            "cluster.toml:4: namespace[0].set_members = 5: a strong",
        ),
        (format!("{PROFILES}max_staleness = 30\n"), "cluster.toml:4: namespace[0].max_staleness = 30: must be a time from"),
        ("[[namespace]]\nname = \"x\"\n".into(), "cluster.toml:1: namespace[0].mode: has no default"),
        ("[[namespaces]]\n".into(), "namespaces = "),
        ("namespaces = 1\n".into(), "cluster.toml:1: namespaces = 1: unknown key; did you mean namespace?"),
        ("cluster = \"Not A Name\"\n".into(), "cluster.toml:1: cluster = \"Not A Name\": must be a name"),
        (
            "[[namespace]]\nname = \"Bad Name\"\nmode = \"weak\"\n".into(),
            "cluster.toml:3: namespace[0].mode = \"weak\": must be one of \"eventual\", \"strong\"",
        ),
    ] {
        let told = complaint(&text);
        assert!(told.contains(expected), "{text} gave {told}");
    }
}

#[test]
fn the_file_may_name_the_cluster_that_it_is_for() {
    let (ours, theirs) = (ClusterName::new("ours").unwrap(), ClusterName::new("theirs").unwrap());
    let spec = parse("cluster = \"ours\"\n");
    assert!(spec.is_for(&ours) && !spec.is_for(&theirs) && parse("").is_for(&theirs));
}

#[test]
fn a_dry_run_tells_every_difference() {
    let token = |name: &str, right: &str, digit: &str| {
        let sum = digit.repeat(64);
        format!("[[token]]\nname = \"{name}\"\nsha256 = \"{sum}\"\nrights = [{{ namespace = \"*\", allow = [\"{right}\"] }}]\n")
    };
    let old = parse(&format!("{PROFILES}{}{}", token("a", "read", "1"), token("b", "read", "2")));
    let new = parse(&format!(
        "[[namespace]]\nname = \"carts\"\nmode = \"strong\"\nreplicas = 5\n[[namespace]]\nname = \"cache\"\nmode = \"eventual\"\nttl_default = \"1h\"\n{}{}",
        token("a", "write", "1"),
        token("c", "admin", "3")
    ));
    let told: Vec<String> = diff(&old, &new).iter().map(Change::to_string).collect();
    let expected = [
        "~ namespace cache: ttl_default unset -> 1h",
        "+ namespace carts (mode strong, kind durable, replicas 5)",
        "- namespace profiles (its keys stay on disk, out of reach)",
        "~ replicas placed for each slot 3 -> 5 (data moves)",
        "~ token a",
        "+ token c",
        "- token b",
    ];
    assert_eq!(told, expected);
    assert!(diff(&new, &new).is_empty());
}

#[test]
fn a_change_of_mode_is_refused() {
    let changes = diff(&parse(PROFILES), &parse(&PROFILES.replace("eventual", "strong")));
    assert!(changes.iter().any(Change::is_refused));
    assert!(changes[0].to_string().contains("mode eventual -> strong is refused"));
    assert!(!diff(&parse(""), &parse(PROFILES)).iter().any(Change::is_refused));
}

#[test]
fn a_hash_named_by_a_file_is_filled_in_before_the_council_gets_the_text() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster.toml");
    let sum = "ef".repeat(32);
    std::fs::write(dir.path().join("b.sum"), &sum).unwrap();
    let token = |name: &str, line: &str| {
        format!("[[token]] # {name}\nname = \"{name}\"\n{line}\nrights = [{{ namespace = \"data\", allow = [\"read\"] }}]\n")
    };
    let text = format!("{}{}", token("a", &format!("sha256 = \"{}\"", "1".repeat(64))), token("b", "sha256_file = \"b.sum\" # kept"));
    std::fs::write(&path, &text).unwrap();
    let (spec, filled) = ClusterSpec::read(&path).unwrap();
    assert_eq!(filled, text.replace("sha256_file = \"b.sum\"", &format!("sha256 = \"{sum}\"")));
    assert_eq!(ClusterSpec::parse(&filled, "council").unwrap(), spec);
    assert!(spec.tokens[1].allows(&ns("data"), Right::Read) && !spec.tokens[1].allows(&ns("cache"), Right::Read));
    let refused = complaint(&text);
    assert!(refused.contains("cluster.toml:7: token[1].sha256_file = \"b.sum\": this text is read by every daemon"), "{refused}");
}
