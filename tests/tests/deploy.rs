//! What `deploy/`, the README and `.ci/run` promise, checked as far as a machine without a container engine can.
//!
//! ```text
//! systemd/    unit ──> systemd-analyze verify, security        container/  Containerfile ──> instructions, sources, versions
//! compose/    YAML ──> services, volumes, ports; each daemon's file and environment ──> NodeSettings
//! README.md   the two commands, which .ci/run takes from there
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use isochrone_config::NodeSettings;
use serde_json::{Map, Value};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

// --- systemd ---------------------------------------------------------------------------------------------------------

const UNIT: &str = "deploy/systemd/isochrone.service";
/// The release that can judge a unit file that is not installed.
const SYSTEMD_OFFLINE: u32 = 250;
/// In tenths: 2.0, where 10.0 is a service with every right.
const EXPOSURE_MAX: &str = "20";

/// The values of a key of a unit file.
fn unit_values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

/// Runs `systemd-analyze` on a copy of the unit whose programs exist here. `None` where there is no such program, or too old a one.
fn analyze(unit: &str, arguments: &[&str]) -> Option<(bool, String)> {
    let version = Command::new("systemd-analyze").arg("--version").output().ok()?;
    let version: u32 = String::from_utf8_lossy(&version.stdout).split_whitespace().nth(1)?.parse().ok()?;
    if version < SYSTEMD_OFFLINE {
        return None;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let copy = dir.path().join("isochrone.service");
    let here = unit.replace("/usr/bin/isochrone", "/bin/sh").replace("/bin/kill", "/bin/sh");
    fs::write(&copy, here).expect("written");
    let output = Command::new("systemd-analyze").args(arguments).arg(&copy).output().expect("it has just run");
    let text = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

#[test]
fn systemd_takes_the_unit_and_finds_it_well_shut() {
    let unit = read(UNIT);
    let security = ["security", "--offline=true", "--no-pager", "--threshold", EXPOSURE_MAX];
    let (Some((is_valid, told)), Some((is_shut, exposure))) = (analyze(&unit, &["verify"]), analyze(&unit, &security)) else {
        eprintln!("skipped: systemd-analyze {SYSTEMD_OFFLINE} or later is not installed");
        return;
    };
    assert!(is_valid && !told.contains("isochrone.service"), "{told}");
    assert!(is_shut, "{exposure}");

    let planted = unit.replace("Type=notify", "Type=notfy");
    let (is_valid, told) = analyze(&planted, &["verify"]).expect("it has just run");
    assert!(!is_valid || told.contains("isochrone.service"), "a misspelled type passes");
    let open: String = unit
        .lines()
        .filter(|line| !line.starts_with("Protect") && !line.starts_with("Private"))
        .fold(String::new(), |all, line| all + line + "\n");
    assert!(!analyze(&open, &security).expect("it has just run").0, "an open unit passes");
}

#[test]
fn the_unit_says_what_the_daemon_does() {
    let unit = read(UNIT);
    let expected = [
        ("Type", "notify"),
        ("ExecStart", "/usr/bin/isochrone serve --config /etc/isochrone/isochrone.toml"),
        ("ExecReload", "/bin/kill -HUP $MAINPID"),
        ("WatchdogSec", "30s"),
        ("Restart", "on-failure"),
        ("User", "isochrone"),
        ("StateDirectory", "isochrone"),
    ];
    for (key, value) in expected {
        assert_eq!(unit_values(&unit, key), [value], "{key}");
    }
    let default = |key: &str| {
        let flags = [("node.region".to_owned(), "us-east".to_owned())];
        NodeSettings::load(None, std::iter::empty(), &flags).expect("the defaults").provenance.value(key).unwrap_or_default()
    };
    assert_eq!(default("node.data_dir"), "\"/var/lib/isochrone\"", "as StateDirectory says");
    assert_eq!(default("http.drain_timeout"), "\"30s\"", "shorter than TimeoutStopSec");
    assert!(read("deploy/systemd/isochrone.sysusers").lines().any(|line| line.starts_with("u isochrone ")));
    assert!(read("deploy/systemd/isochrone.tmpfiles").lines().any(|line| line.starts_with("d /etc/isochrone 0750 root isochrone")));
}

// --- container -------------------------------------------------------------------------------------------------------

const INSTRUCTIONS: &[&str] =
    &["ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "LABEL", "RUN", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"];

/// The instructions of a Containerfile, continued lines joined, comments left out: name and rest.
fn instructions(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty());
    let joined = lines.map(|line| line.strip_suffix('\\').map_or_else(|| format!("{line}\n"), ToOwned::to_owned)).collect::<String>();
    joined.lines().filter_map(|line| line.split_once(' ')).map(|(name, rest)| (name.to_owned(), rest.trim().to_owned())).collect()
}

/// What is wrong with a Containerfile whose sources lie where `exists` says.
fn container_faults(text: &str, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let (mut faults, mut stages, mut user) = (Vec::new(), BTreeSet::new(), String::new());
    let all = instructions(text);
    for (name, rest) in &all {
        let words: Vec<&str> = rest.split_whitespace().collect();
        match name.as_str() {
            "FROM" => {
                stages.extend(words.iter().skip_while(|word| **word != "AS").nth(1).map(ToString::to_string));
                user = "root".to_owned();
                let image = words.first().copied().unwrap_or_default();
                faults.extend((!image.contains(':') || image.ends_with(":latest")).then(|| format!("{image} is not pinned")));
            }
            "COPY" => faults.extend(copy_faults(&words, &stages, exists)),
            "USER" => rest.clone_into(&mut user),
            "CMD" | "ENTRYPOINT" if serde_json::from_str::<Vec<String>>(rest).is_err() => {
                faults.push(format!("{name} is not a list: {rest}"))
            }
            "RUN" if rest.contains("cargo ") && !rest.contains("--locked") => faults.push("cargo without --locked".to_owned()),
            known if INSTRUCTIONS.contains(&known) => {}
            other => faults.push(format!("{other} is no instruction")),
        }
    }
    faults.extend((all.first().is_none_or(|(name, _)| name != "FROM")).then(|| "it begins without FROM".to_owned()));
    faults.extend((["", "root"].contains(&user.as_str()) || user.starts_with('0')).then(|| "it runs as root".to_owned()));
    faults
}

fn copy_faults(words: &[&str], stages: &BTreeSet<String>, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    if let Some(stage) = words.iter().find_map(|word| word.strip_prefix("--from=")) {
        return (!stages.contains(stage)).then(|| format!("no stage {stage}")).into_iter().collect();
    }
    let sources = words.split_last().map_or(&[][..], |(_, sources)| sources);
    sources.iter().filter(|source| !exists(source)).map(|source| format!("{source} does not exist")).collect()
}

#[test]
fn the_containerfile_builds_what_is_here() {
    let text = read("deploy/container/Containerfile");
    assert_eq!(container_faults(&text, &|source| root().join(source).exists()), Vec::<String>::new());

    let manifest: toml::Table = read("Cargo.toml").parse().expect("TOML");
    let rust = manifest["workspace"]["package"]["rust-version"].as_str().expect("a version");
    assert!(text.contains(&format!("/rust:{rust}-slim-")), "another Rust than rust-version = {rust}");
    let members = manifest["workspace"]["members"].as_array().expect("members");
    for member in members.iter().filter_map(toml::Value::as_str) {
        let top = member.split('/').next().unwrap_or_default();
        assert!(
            instructions(&text).iter().any(|(name, rest)| name == "COPY" && rest.starts_with(&format!("{top} "))),
            "{member} is missing"
        );
    }
}

#[test]
fn a_faulty_containerfile_is_seen() {
    let good = "# a comment\nFROM a:1 AS build\nCOPY here there\nRUN cargo build \\\n    --locked\nFROM b:2\nCOPY --from=build /x /x\nUSER 1:1\nCMD [\"x\"]\n";
    let faults = |text: &str| container_faults(text, &|source| source == "here");
    assert_eq!(faults(good), Vec::<String>::new());
    let planted = [
        ("FROM b:2", "FROM b"),
        ("COPY here", "COPY gone"),
        ("--from=build", "--from=bulid"),
        ("    --locked", "    --release"),
        ("USER 1:1", "USER root"),
        ("USER 1:1\n", ""),
        ("CMD [\"x\"]", "CMD ['x']"),
        ("RUN", "RNU"),
    ];
    for (from, to) in planted {
        assert_eq!(faults(&good.replacen(from, to, 1)).len(), 1, "{from} -> {to}");
    }
}

// --- Compose ---------------------------------------------------------------------------------------------------------

/// A line of YAML without its comment: indent, text, number.
type Line<'a> = (usize, &'a str, usize);

/// Reads the part of YAML that compose.yaml keeps to: maps and lists in blocks, lists in JSON's form, one-line scalars, anchors of
/// maps and their merge. Everything else is an error.
fn yaml(text: &str) -> Result<Value, String> {
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line.split(" #").next().unwrap_or_default().trim_end()));
    let lines: Vec<Line<'_>> = numbered
        .filter(|(_, line)| !line.is_empty() && !line.trim_start().starts_with('#'))
        .map(|(number, line)| (line.len() - line.trim_start().len(), line.trim_start(), number))
        .collect();
    let mut reader = Reader { lines, at: 0, anchors: Map::new() };
    let value = reader.block(0)?;
    reader.lines.get(reader.at).map_or(Ok(value), |(_, text, number)| Err(format!("line {number}: {text}: wrong indent")))
}

struct Reader<'a> {
    lines: Vec<Line<'a>>,
    at: usize,
    anchors: Map<String, Value>,
}

impl<'a> Reader<'a> {
    /// The next line, if it stands at that indent.
    fn line(&self, indent: usize) -> Option<(&'a str, usize)> {
        self.lines.get(self.at).filter(|line| line.0 == indent).map(|line| (line.1, line.2))
    }

    fn block(&mut self, indent: usize) -> Result<Value, String> {
        if self.line(indent).is_some_and(|(text, _)| text.starts_with("- ")) { self.list(indent) } else { self.map(indent) }
    }

    fn list(&mut self, indent: usize) -> Result<Value, String> {
        let mut items = Vec::new();
        while let Some((text, number)) = self.line(indent) {
            let item = text.strip_prefix("- ").ok_or_else(|| format!("line {number}: a list goes on with '- '"))?;
            items.push(scalar(item, number)?);
            self.at += 1;
        }
        Ok(Value::Array(items))
    }

    fn map(&mut self, indent: usize) -> Result<Value, String> {
        let (mut map, mut merged) = (Map::new(), Map::new());
        while let Some((text, number)) = self.line(indent) {
            let (key, rest) = text.split_once(':').ok_or_else(|| format!("line {number}: {text}: neither key nor value"))?;
            self.at += 1;
            if key == "<<" {
                let anchor = self.anchors.get(rest.trim().trim_start_matches('*')).and_then(Value::as_object);
                merged.extend(anchor.ok_or_else(|| format!("line {number}: no such anchor"))?.clone());
                continue;
            }
            let value = self.value(rest, indent, number)?;
            if map.insert(key.to_owned(), value).is_some() {
                return Err(format!("line {number}: {key} stands there twice"));
            }
        }
        merged.extend(map); // what the map says itself goes before what it merges
        Ok(Value::Object(merged))
    }

    fn value(&mut self, rest: &str, indent: usize, number: usize) -> Result<Value, String> {
        let (anchor, text) = match rest.trim().strip_prefix('&') {
            Some(anchor) => (Some(anchor), ""),
            None => (None, rest.strip_prefix(' ').unwrap_or(rest)),
        };
        let deeper = self.lines.get(self.at).map(|line| line.0).filter(|deeper| *deeper > indent);
        let value = match deeper {
            Some(deeper) if text.is_empty() => self.block(deeper)?,
            _ => scalar(text, number)?,
        };
        if let Some(anchor) = anchor {
            self.anchors.insert(anchor.to_owned(), value.clone());
        }
        Ok(value)
    }
}

fn scalar(text: &str, number: usize) -> Result<Value, String> {
    match text.chars().next() {
        None => Ok(Value::Null),
        Some('"' | '[') => serde_json::from_str(text).map_err(|error| format!("line {number}: {text}: {error}")),
        Some('\'' | '{' | '|' | '>' | '*' | '&' | '!' | '%' | '@' | '\t') => {
            Err(format!("line {number}: {text}: not in the part that is read"))
        }
        Some(_) if text.contains(": ") => Err(format!("line {number}: {text}: a map inside a scalar")),
        Some(_) => Ok(serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))),
    }
}

const COMPOSE: &str = "deploy/compose/compose.yaml";

fn compose() -> Value {
    yaml(&read(COMPOSE)).unwrap_or_else(|error| panic!("{COMPOSE}: {error}"))
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().map(|list| list.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

fn services(compose: &Value) -> Vec<(&str, &Value)> {
    compose["services"].as_object().expect("services").iter().map(|(name, service)| (name.as_str(), service)).collect()
}

/// The services that are daemons.
fn daemons(compose: &Value) -> Vec<(&str, &Value)> {
    services(compose).into_iter().filter(|(name, _)| *name != "certs").collect()
}

#[test]
fn compose_starts_three_regions_that_only_this_machine_can_reach() {
    let compose = compose();
    let names: Vec<&str> = daemons(&compose).iter().map(|(name, _)| *name).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>(), BTreeSet::from([&"ap-northeast", &"eu-west", &"us-east"]));
    let mut ports = BTreeSet::new();
    for (name, daemon) in daemons(&compose) {
        assert_eq!(daemon["image"], compose["services"]["certs"]["image"], "{name}");
        assert_eq!(daemon["environment"]["ISOCHRONE__NODE__REGION"], name);
        assert_eq!(daemon["depends_on"]["certs"]["condition"], "service_completed_successfully", "{name}");
        assert_eq!(texts(&daemon["healthcheck"]["test"])[..3], ["CMD", "isochrone", "status"], "{name}");
        for port in texts(&daemon["ports"]) {
            let (host, inside) = port.strip_prefix("127.0.0.1:").and_then(|port| port.split_once(':')).expect("bound to loopback");
            assert!(ports.insert(host.to_owned()), "{port} twice");
            assert!(["8080", "9090"].contains(&inside), "{port}");
        }
    }
    assert_eq!(texts(&compose["services"]["certs"]["command"])[1..].iter().collect::<BTreeSet<_>>(), names.iter().collect());
}

#[test]
fn what_compose_mounts_and_builds_is_there() {
    let compose = compose();
    let folder = root().join("deploy/compose");
    let declared = compose["volumes"].as_object().expect("volumes");
    let mut used = BTreeSet::new();
    for (name, service) in services(&compose) {
        for volume in texts(&service["volumes"]) {
            let source = volume.split(':').next().expect("a source");
            let is_file = source.starts_with("./") && folder.join(source).is_file();
            assert!(is_file || declared.contains_key(source), "{name}: {source}");
            used.insert(source);
        }
    }
    assert!(declared.keys().all(|volume| used.contains(volume.as_str())), "a volume that nobody uses");
    let build = &compose["services"]["certs"]["build"];
    let context = folder.join(build["context"].as_str().expect("a context")).canonicalize().expect("it exists");
    assert_eq!(context, root().canonicalize().expect("it exists"));
    assert!(context.join(build["dockerfile"].as_str().expect("a file")).is_file());
}

#[test]
fn every_daemon_of_compose_has_valid_settings() {
    let compose = compose();
    let text = read("deploy/compose/isochrone.toml");
    for (name, daemon) in daemons(&compose) {
        let environment = daemon["environment"].as_object().expect("an environment");
        let environment = environment.iter().map(|(key, value)| (key.clone(), value.as_str().expect("text").to_owned()));
        let loaded = NodeSettings::parse(&text, Path::new("/etc/isochrone/isochrone.toml"), environment, &[]);
        let settings = loaded.unwrap_or_else(|problems| panic!("{name}: {problems}")).settings;
        assert_eq!(settings.peer.advertise.as_deref(), Some(format!("{name}:7946").as_str()));
        for seed in &settings.peer.join {
            let host = seed.split(':').next().unwrap_or_default();
            assert!(host != name && !compose["services"][host].is_null(), "{name} joins through {seed}");
        }
        let certificate = settings.peer.identity().expect("a certificate").cert;
        assert_eq!(certificate, Path::new("/etc/isochrone/certs/node.crt"), "where compose.yaml mounts it");
    }
    let misspelled = text.replace("[auth]", "[auht]");
    assert!(NodeSettings::parse(&misspelled, Path::new("x.toml"), std::iter::empty(), &[]).is_err());
}

#[test]
fn yaml_is_read_strictly() {
    let text = "# c\na: &x\n  b: 1\n  c:\n    - d e # f\n    - \"g: h\"\ni:\n  <<: *x\n  b: [\"j\"]\nk:\n";
    let expected = serde_json::json!({"a": {"b": 1, "c": ["d e", "g: h"]}, "i": {"b": ["j"], "c": ["d e", "g: h"]}, "k": null});
    assert_eq!(yaml(text), Ok(expected));
    for bad in [
        "a: 1\na: 2\n",
        "a: 1\n  b: 2\n",
        "a:\n  <<: *gone\n",
        "a\n",
        "a: 'b'\n",
        "a: [b\n",
        "a: {b: 1}\n",
        "a:\n  - b\n  c: d\n",
        "a: b: c\n",
    ] {
        assert!(yaml(bad).is_err(), "{bad}");
    }
}

// --- scripts and README ----------------------------------------------------------------------------------------------

/// Lines in the README's blocks of shell commands.
fn shell_lines(readme: &str) -> Vec<&str> {
    let blocks = readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.flat_map(str::lines).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

#[test]
fn the_readme_begins_with_the_two_commands() {
    let readme = read("README.md");
    let lines = shell_lines(&readme);
    let first = |start: &str| lines.iter().position(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start}"));
    assert!(first("cargo run --release -- dev") < 5);
    assert!(first("cargo test ") < 5);
    let tests: BTreeSet<&&str> = lines.iter().filter(|line| line.starts_with("cargo test ")).collect();
    assert_eq!(tests, BTreeSet::from([&"cargo test --workspace --locked"]), "one test command");
    assert!(lines.iter().any(|line| line.contains("build-essential")));
}

#[test]
fn paths_that_the_readme_names_exist() {
    let readme = read("README.md");
    let links = readme.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let local: Vec<&str> = links.filter(|link| !link.contains("://") && !link.starts_with('#')).collect();
    assert!(local.len() > 5);
    for link in local {
        assert!(root().join(link).exists(), "{link}");
    }
}

#[test]
fn scripts_are_sound_and_can_be_run() {
    for (shell, script) in [("bash", ".ci/run"), ("sh", "deploy/compose/make-certs.sh")] {
        let path = root().join(script);
        let checked = Command::new(shell).arg("-n").arg(&path).output().expect("a shell");
        assert!(checked.status.success(), "{script}: {}", String::from_utf8_lossy(&checked.stderr));
        let mode = fs::metadata(&path).expect("it exists").permissions().mode();
        assert!(mode & 0o111 == 0o111, "{script} cannot be run");
        assert!(read(script).contains("set -eu"), "{script} goes on after a failure");
    }
}
