//! Keeps the walls of the house: which room may import which, what a pure room must not know, how long a file and a function
//! may be, and the words that are used.
//!
//! ```text
//! sources, manifests ──> split: code | comments ──> checks, each a function over text ──> findings ──> none, or the test fails
//! ```
//!
//! Each check is shown a planted violation first, since a check that has never failed proves nothing.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// A workspace member: where it is, which other rooms it may import, and whether it is pure.
struct Room {
    path: &'static str,
    package: &'static str,
    imports: &'static [&'static str],
    /// For a pure room, every crate it may use besides; `None` for the others.
    crates: Option<&'static [&'static str]>,
    /// Crates that belong to another room's trade.
    barred: &'static [&'static str],
}

const HTTP: &[&str] = &["axum", "http", "http-body-util", "hyper", "hyper-util", "reqwest"];
const QUIC: &[&str] = &["foca", "openraft", "quinn", "redb"];

/// The arrows. `isochrone-ident` is left out: everybody may import it.
const ROOMS: &[Room] = &[
    Room { path: "daemon/ident", package: "isochrone-ident", imports: &[], crates: Some(&["bytes", "serde", "thiserror"]), barred: &[] },
    Room {
        path: "daemon/placement",
        package: "isochrone-placement",
        imports: &[],
        crates: Some(&["rendezvous_hash", "serde", "thiserror", "xxhash-rust"]),
        barred: &[],
    },
    Room {
        path: "daemon/replica",
        package: "isochrone-replica",
        imports: &[],
        crates: Some(&["base64", "bytes", "crdts", "serde", "thiserror", "xxhash-rust"]),
        barred: &[],
    },
    Room { path: "daemon/quorum", package: "isochrone-quorum", imports: &[], crates: Some(&["bytes", "serde", "thiserror"]), barred: &[] },
    Room { path: "config", package: "isochrone-config", imports: &[], crates: None, barred: &["tokio"] },
    Room { path: "gossip", package: "isochrone-gossip", imports: &[], crates: None, barred: HTTP },
    Room { path: "daemon/council", package: "isochrone-council", imports: &["isochrone-placement"], crates: None, barred: HTTP },
    Room {
        path: "daemon/store",
        package: "isochrone-store",
        imports: &["isochrone-quorum", "isochrone-replica"],
        crates: None,
        barred: HTTP,
    },
    Room { path: "daemon/edge", package: "isochrone-edge", imports: &[], crates: None, barred: QUIC },
    Room { path: "daemon", package: "isochrone", imports: EVERY_ROOM, crates: None, barred: &[] },
    Room { path: "tests", package: "tests", imports: EVERY_ROOM, crates: None, barred: &[] },
    Room { path: "benches", package: "benches", imports: EVERY_ROOM, crates: None, barred: &[] },
];

const EVERY_ROOM: &[&str] = &[
    "isochrone",
    "isochrone-config",
    "isochrone-council",
    "isochrone-edge",
    "isochrone-gossip",
    "isochrone-placement",
    "isochrone-quorum",
    "isochrone-replica",
    "isochrone-store",
];

/// What the top level may hold besides dotfiles and Cargo's own `target`.
const TOP: &[&str] = &[
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "benches",
    "config",
    "daemon",
    "deploy",
    "gossip",
    "target",
    "tests",
];

/// What a pure room must not name: the world outside its arguments.
const OUTSIDE: &[&str] =
    &["tokio", "std::env", "std::fs", "std::io", "std::net", "std::os", "std::process", "std::thread", "rand::rng", "rand::random"];
/// The same by their last names, however they were imported.
const OUTSIDE_TYPES: &[&str] = &["Instant", "SystemTime", "OsRng", "ThreadRng", "thread_rng"];

/// Folders of shells that run in virtual time and from one seed, and the files in them that meet the real world instead.
const SEEDED: &[&str] = &["gossip/src", "daemon/council/src", "daemon/store/src", "daemon/edge/src", "daemon/src/node"];
const REAL_WORLD: &[&str] = &[
    "daemon/src/node/run.rs",  // gives the node its clock and its seed
    "gossip/src/emulation.rs", // delays real packets, on a thread of its own
];
/// What breaks a replay: the machine's clocks and its randomness.
const UNSEEDED: &[&str] = &["std::time::Instant", "std::time::SystemTime", "rand::rng", "rand::random", "rand::thread_rng"];

const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 80;

/// Words that say nothing, in the names of files and types.
const EMPTY_WORDS: &[&str] = &["common", "helper", "helpers", "manager", "managers", "misc", "util", "utils"];
/// What the epoch of a placement is never called.
const WRONG_WORDS: &[&str] = &["generation", "term"];
/// Marks of work left undone.
const LEFT_UNDONE: &[&str] = &["TODO", "FIXME", "XXX", "HACK"];
/// Folders of one machine or one person.
const HOMES: &[&str] = &["home", "Users", "root", "work", "tmp/target", "tmp/iso"];

/// What is wrong on one line.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    line: usize,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.what)
    }
}

fn finding(line: usize, what: impl Into<String>) -> Finding {
    Finding { line, what: what.into() }
}

/// A Rust source split in two texts of the same lines: code without what stands in quotes, and comments alone.
struct Split {
    code: String,
    comments: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Code,
    LineComment,
    BlockComment(usize),
    Text,
    RawText(usize),
}

impl Split {
    fn of(source: &str) -> Self {
        let chars: Vec<char> = source.chars().collect();
        let mut split = Self { code: String::new(), comments: String::new() };
        let (mut place, mut at) = (Place::Code, 0);
        while at < chars.len() {
            let (next, width) = step(&chars, at, place);
            for &c in &chars[at..at + width] {
                split.push(c, if place == Place::Code { next } else { place });
            }
            (place, at) = (next, at + width);
        }
        split
    }

    fn push(&mut self, c: char, place: Place) {
        let blank = if c == '\n' { '\n' } else { ' ' };
        let is_comment = matches!(place, Place::LineComment | Place::BlockComment(_));
        self.code.push(if place == Place::Code { c } else { blank });
        self.comments.push(if is_comment { c } else { blank });
    }
}

/// Where the text is after the character at `at`, and how many characters that takes together.
fn step(chars: &[char], at: usize, place: Place) -> (Place, usize) {
    let is = |text: &str| chars[at..].iter().copied().take(text.len()).eq(text.chars());
    match place {
        Place::Code => step_in_code(chars, at),
        Place::LineComment if is("\n") => (Place::Code, 1),
        Place::BlockComment(depth) if is("/*") => (Place::BlockComment(depth + 1), 2),
        Place::BlockComment(1) if is("*/") => (Place::Code, 2),
        Place::BlockComment(depth) if is("*/") => (Place::BlockComment(depth - 1), 2),
        Place::Text if is("\\") => (Place::Text, 2.min(chars.len() - at)),
        Place::Text if is("\"") => (Place::Code, 1),
        Place::RawText(hashes) if is(&format!("\"{}", "#".repeat(hashes))) => (Place::Code, 1 + hashes),
        _ => (place, 1),
    }
}

fn step_in_code(chars: &[char], at: usize) -> (Place, usize) {
    let char_at = |offset: usize| chars.get(at + offset).copied();
    let starts_word = at == 0 || !is_word(chars[at - 1]) || chars[at - 1] == 'b';
    match (chars[at], char_at(1)) {
        ('/', Some('/')) => (Place::LineComment, 2),
        ('/', Some('*')) => (Place::BlockComment(1), 2),
        ('"', _) => (Place::Text, 1),
        ('r', Some('"' | '#')) if starts_word => {
            let hashes = chars[at + 1..].iter().take_while(|&&c| c == '#').count();
            if char_at(1 + hashes) == Some('"') { (Place::RawText(hashes), 2 + hashes) } else { (Place::Code, 1) }
        }
        ('\'', Some('\\')) => {
            let width = chars[at + 3..].iter().position(|&c| c == '\'').map_or(1, |end| end + 4);
            (Place::Code, width)
        }
        ('\'', Some(_)) if char_at(2) == Some('\'') => (Place::Code, 3),
        _ => (Place::Code, 1),
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Every path that the code names, imports in braces spelled out: `use std::{fs, net::TcpStream}` gives `std::fs` and
/// `std::net::TcpStream`.
fn paths(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut prefixes: Vec<String> = Vec::new();
    let mut run = String::new();
    let mut line = 1;
    for c in code.chars() {
        if is_word(c) || c == ':' {
            run.push(c);
            continue;
        }
        let prefix = prefixes.last().cloned().unwrap_or_default();
        let path = format!("{prefix}{run}").trim_start_matches(':').to_owned();
        match c {
            '{' if run.ends_with("::") => prefixes.push(path),
            _ => {
                if !run.is_empty() {
                    found.push((line, path.trim_end_matches(':').to_owned()));
                }
                match c {
                    '{' => prefixes.push(String::new()),
                    '}' => drop(prefixes.pop()),
                    '\n' => line += 1,
                    _ => {}
                }
            }
        }
        run.clear();
    }
    found
}

fn is_within(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// A pure room reaches for nothing but its arguments.
fn reaches_outside(source: &str) -> Vec<Finding> {
    let code = Split::of(source).code;
    let by_path = paths(&code).into_iter().filter(|(_, path)| {
        OUTSIDE.iter().any(|outside| is_within(path, outside)) || path.split("::").any(|name| OUTSIDE_TYPES.contains(&name))
    });
    let mut findings: Vec<Finding> = by_path.map(|(line, path)| finding(line, format!("a pure room names {path}"))).collect();
    findings.extend(lines_with(&code, &["print!", "println!", "eprint!", "eprintln!", "dbg!"], "a pure room prints: "));
    findings
}

/// A shell that is simulated takes its clock and its randomness from outside too.
fn breaks_replay(source: &str) -> Vec<Finding> {
    let named = paths(&Split::of(source).code).into_iter();
    let unseeded = named.filter(|(_, path)| UNSEEDED.iter().any(|barred| is_within(path, barred)));
    unseeded.map(|(line, path)| finding(line, format!("{path} cannot be replayed from a seed"))).collect()
}

/// Lines that hold one of the words, as a word of its own.
fn lines_with(text: &str, words: &[&str], what: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for &word in words.iter().filter(|word| holds_word(line, word)) {
            findings.push(finding(index + 1, format!("{what}{word}")));
        }
    }
    findings
}

fn holds_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let goes_on = word.ends_with(is_word) && after.is_some_and(is_word);
        !goes_on && !before.is_some_and(is_word)
    })
}

/// Nothing is left undone or skipped.
fn leaves_undone(source: &str) -> Vec<Finding> {
    let split = Split::of(source);
    let mut findings = lines_with(&split.code, &["todo!", "unimplemented!", "dbg!"], "left undone: ");
    findings.extend(lines_with(&split.comments, LEFT_UNDONE, "left undone: "));
    let ignored = split.code.lines().enumerate().filter(|(_, line)| line.contains("#[ignore"));
    findings.extend(ignored.map(|(index, _)| finding(index + 1, "a test that nobody runs")));
    findings
}

/// The order in which `select!` looks at its branches must not come from a random source that cannot be seeded.
fn selects_at_random(source: &str) -> Vec<Finding> {
    let code = Split::of(source).code;
    let calls = code.match_indices("select!").filter(|(at, _)| !code[..*at].chars().next_back().is_some_and(is_word));
    let random = calls.filter(|(at, name)| {
        let body = code[at + name.len()..].trim_start().trim_start_matches(['{', '(']).trim_start();
        !body.starts_with("biased;")
    });
    random.map(|(at, _)| finding(line_of(&code, at), "select! without biased;")).collect()
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Functions and files stay short enough to be seen whole.
fn is_too_long(source: &str) -> Vec<Finding> {
    let lines = source.lines().count();
    let file = (lines > FILE_LINES_MAX).then(|| finding(lines, format!("{lines} lines in a file")));
    let code = Split::of(source).code;
    let long = functions(&code).into_iter().filter(|(_, _, length)| *length > FUNCTION_LINES_MAX);
    file.into_iter().chain(long.map(|(line, name, length)| finding(line, format!("{length} lines in fn {name}")))).collect()
}

/// Functions with a body: line, name, lines from `fn` to the closing brace.
fn functions(code: &str) -> Vec<(usize, String, usize)> {
    let starts = code.match_indices("fn ").filter(|(at, _)| !code[..*at].chars().next_back().is_some_and(is_word));
    let whole = starts.filter_map(|(at, _)| {
        let name: String = code[at + 3..].chars().take_while(|&c| is_word(c)).collect();
        let end = body_end(&code[at..])?;
        (!name.is_empty()).then(|| (line_of(code, at), name, code[at..at + end].matches('\n').count() + 1))
    });
    whole.collect()
}

/// Where the body that begins in `code` ends; `None` for a declaration without one.
fn body_end(code: &str) -> Option<usize> {
    let (mut brackets, mut braces) = (0_usize, 0_usize);
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets = brackets.saturating_sub(1),
            ';' if brackets == 0 && braces == 0 => return None,
            '{' => braces += 1,
            '}' if braces <= 1 => return Some(at),
            '}' => braces -= 1,
            _ => {}
        }
    }
    None
}

/// Names that say nothing, and wrong words for a placement epoch.
fn misnames(source: &str) -> Vec<Finding> {
    let split = Split::of(source);
    let mut findings = Vec::new();
    for (index, line) in split.code.lines().enumerate() {
        let words: Vec<&str> = line.split(|c: char| !is_word(c)).filter(|word| !word.is_empty()).collect();
        let named = words.windows(2).filter(|pair| ["struct", "enum", "trait", "type", "mod"].contains(&pair[0]));
        findings.extend(named.filter(|pair| is_empty_name(pair[1])).map(|pair| finding(index + 1, format!("{} says nothing", pair[1]))));
    }
    for (index, line) in source.lines().enumerate() {
        let line = line.to_lowercase();
        let wrong = WRONG_WORDS.iter().filter(|wrong| line.contains(&format!("placement {wrong}")));
        findings.extend(wrong.map(|wrong| finding(index + 1, format!("a placement has an epoch, not a {wrong}"))));
    }
    findings
}

/// Whether one of the words in a name, in either case style, says nothing.
fn is_empty_name(name: &str) -> bool {
    let mut spaced = String::new();
    for c in name.chars() {
        if c.is_uppercase() || !c.is_alphanumeric() {
            spaced.push(' ');
        }
        spaced.extend(c.to_lowercase().filter(|c| c.is_alphanumeric()));
    }
    spaced.split(' ').any(|word| EMPTY_WORDS.contains(&word))
}

/// Paths that exist on one machine only.
fn names_a_machine(text: &str) -> Vec<Finding> {
    let is_path = |line: &str, home: &str| {
        let folder = format!("/{home}/");
        line.match_indices(&folder).any(|(at, _)| !line[..at].ends_with(|c: char| is_word(c) || "./~-}$".contains(c)))
    };
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let homes = HOMES.iter().filter(|home| is_path(line, home));
        findings.extend(homes.map(|home| finding(index + 1, format!("the path of one machine: /{home}/"))));
    }
    findings
}

/// What a manifest imports, what it may not, and whether everything is pinned in the workspace.
fn strays(manifest: &str, room: &Room) -> Vec<String> {
    let table: toml::Table = manifest.parse().expect("a manifest is TOML");
    let mut strays = Vec::new();
    for (name, _) in dependencies(&table, &["dependencies", "build-dependencies"]) {
        let is_room = name.starts_with("isochrone") && name != "isochrone-ident";
        let is_listed = |listed: &[&str]| listed.contains(&name.as_str());
        if is_room && !is_listed(room.imports) {
            strays.push(format!("{} may not import the room {name}", room.package));
        }
        let foreign = room.crates.is_some_and(|crates| !is_listed(crates) && name != "isochrone-ident");
        if !is_room && (foreign || is_listed(room.barred)) {
            strays.push(format!("{} may not use {name}", room.package));
        }
    }
    for (name, value) in dependencies(&table, &["dependencies", "build-dependencies", "dev-dependencies"]) {
        if value.get("workspace").and_then(toml::Value::as_bool) != Some(true) {
            strays.push(format!("{name} is not pinned in the workspace"));
        }
    }
    if table.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool) != Some(true) {
        strays.push("the workspace's lints are not in force".to_owned());
    }
    strays
}

fn dependencies(table: &toml::Table, sections: &[&str]) -> Vec<(String, toml::Value)> {
    let targets =
        table.get("target").and_then(toml::Value::as_table).into_iter().flat_map(|t| t.values()).filter_map(toml::Value::as_table);
    let tables = std::iter::once(table).chain(targets);
    let found = tables.flat_map(|table| sections.iter().filter_map(|section| table.get(*section)?.as_table()));
    found.flat_map(|section| section.iter().map(|(name, value)| (name.clone(), value.clone()))).collect()
}

/// Third-party crates that the workspace pins without a word on why.
fn unexplained(root_manifest: &str) -> Vec<Finding> {
    let lines = root_manifest.lines().enumerate().skip_while(|(_, line)| *line != "[workspace.dependencies]").skip(1);
    let pinned = lines.take_while(|(_, line)| !line.starts_with('[')).filter(|(_, line)| line.contains(" = ") && !line.contains("path = "));
    pinned.filter(|(_, line)| !line.contains(" # ")).map(|(index, line)| finding(index + 1, format!("no reason: {line}"))).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file of the repository, as a path from its top, in order.
fn files() -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository").map(|entry| entry.expect("an entry")) {
            let name = entry.file_name().into_string().expect("names are text");
            match entry.file_type().expect("a kind").is_dir() {
                true if ["target", ".git"].contains(&name.as_str()) => {}
                true => folders.push(entry.path()),
                false => found.push(entry.path().strip_prefix(root()).expect("within").display().to_string()),
            }
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<String> {
    files().into_iter().filter(|file| file.ends_with(".rs")).collect()
}

/// Runs a check over files, and fails with everything that it found.
fn hold(files: impl IntoIterator<Item = String>, check: fn(&str) -> Vec<Finding>) {
    let mut found = Vec::new();
    for file in files {
        found.extend(check(&read(&file)).iter().map(|finding| format!("{file}:{finding}")));
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn pure_rooms_know_nothing_of_the_world() {
    let pure: Vec<String> = ROOMS.iter().filter(|room| room.crates.is_some()).map(|room| format!("{}/src/", room.path)).collect();
    hold(sources().into_iter().filter(|file| pure.iter().any(|path| file.starts_with(path))), reaches_outside);

    for bad in [
        "use tokio::sync::watch;",
        "use std::{fmt, fs};",
        "use std::{\n    collections::BTreeMap,\n    net::{IpAddr, TcpStream},\n};",
        "fn f() { std::thread::sleep(d) }",
        "use std::time::Instant;",
        "use std::time;\nfn f() -> time::SystemTime { time::SystemTime::now() }",
        "fn f() -> u64 { rand::rng().random() }",
        "fn f() { println!(\"here\") }",
    ] {
        assert!(!reaches_outside(bad).is_empty(), "not caught: {bad}");
    }
    let good = "//! Knows no tokio.\nuse std::{fmt, time::Duration};\n// std::fs is not used\nfn f() -> &'static str { \"std::fs\" }\n";
    assert_eq!(reaches_outside(good), []);
    assert_eq!(reaches_outside("\n\nuse std::fs;")[0].line, 3);
}

#[test]
fn what_is_simulated_takes_its_clock_and_randomness_from_outside() {
    let seeded = |file: &String| SEEDED.iter().any(|folder| file.starts_with(folder)) && !REAL_WORLD.contains(&file.as_str());
    hold(sources().into_iter().filter(seeded), breaks_replay);
    assert!(REAL_WORLD.iter().all(|file| root().join(file).is_file()), "an exception for a file that is gone");

    assert!(!breaks_replay("use std::time::{Duration, Instant};").is_empty());
    assert!(!breaks_replay("fn f() { let n: u64 = rand::rng().random(); }").is_empty());
    assert_eq!(breaks_replay("use std::time::Duration;\nuse tokio::time::Instant;\nuse rand::rngs::StdRng;"), []);
}

#[test]
fn rooms_import_only_along_the_arrows() {
    let mut found = Vec::new();
    for room in ROOMS {
        let strays = strays(&read(&format!("{}/Cargo.toml", room.path)), room);
        found.extend(strays.into_iter().map(|stray| format!("{}/Cargo.toml: {stray}", room.path)));
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));

    let manifest: toml::Table = read("Cargo.toml").parse().expect("TOML");
    let members = manifest["workspace"]["members"].as_array().expect("members");
    let mut members: Vec<&str> = members.iter().filter_map(toml::Value::as_str).collect();
    let mut known: Vec<&str> = ROOMS.iter().map(|room| room.path).collect();
    members.sort_unstable();
    known.sort_unstable();
    assert_eq!(members, known, "a room without a line in the table");
}

#[test]
fn a_wrong_arrow_is_seen() {
    let room = |path| ROOMS.iter().find(|room| room.path == path).expect("a room");
    let manifest =
        |dependency: &str| format!("[lints]\nworkspace = true\n[dependencies]\nisochrone-ident.workspace = true\n{dependency}\n");
    let wrong = [
        ("daemon/placement", "isochrone-replica.workspace = true"),
        ("daemon/replica", "tokio.workspace = true"),
        ("daemon/ident", "[target.'cfg(unix)'.dependencies]\nrand.workspace = true"),
        ("daemon/edge", "isochrone-gossip.workspace = true"),
        ("daemon/edge", "quinn.workspace = true"),
        ("gossip", "hyper.workspace = true"),
        ("gossip", "isochrone-config.workspace = true"),
        ("daemon/store", "bytes = \"1\""),
    ];
    for (path, dependency) in wrong {
        assert_eq!(strays(&manifest(dependency), room(path)).len(), 1, "{path}: {dependency}");
    }
    assert_eq!(strays(&manifest("isochrone-placement.workspace = true"), room("daemon/council")), Vec::<String>::new());
    assert_eq!(strays("[dependencies]\n", room("gossip")).len(), 1, "lints");
}

#[test]
fn every_third_party_crate_has_its_reason() {
    let findings = unexplained(&read("Cargo.toml"));
    assert_eq!(findings, [], "in Cargo.toml");
    let planted =
        "[workspace.dependencies]\nown = { path = \"own\" }\nbytes = \"1\" # shared buffers\nleftpad = \"1\"\n[profile.dev]\ndebug = 1\n";
    assert_eq!(unexplained(planted), [finding(4, "no reason: leftpad = \"1\"")]);
}

/// Names at the top level that nobody asked for.
fn uninvited<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    names.filter(|name| !name.starts_with('.') && !TOP.contains(name)).collect()
}

#[test]
fn the_top_level_holds_what_was_asked_for() {
    let entries = fs::read_dir(root()).expect("the repository").map(|entry| entry.expect("an entry").file_name());
    let names: Vec<String> = entries.map(|name| name.into_string().expect("names are text")).collect();
    assert_eq!(uninvited(names.iter().map(String::as_str)), Vec::<&str>::new());
    let missing: Vec<_> = TOP.iter().filter(|name| **name != "target" && !names.iter().any(|found| found == *name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(uninvited(["Cargo.toml", ".ci", "notes.txt", "src"].into_iter()), ["notes.txt", "src"]);
}

#[test]
fn files_and_functions_are_short() {
    hold(sources(), is_too_long);

    let body = |lines: usize| format!("fn long(x: [u8; 4]) -> u8 {{\n{}}}\n", "    // {\n".repeat(lines));
    assert_eq!(is_too_long(&body(FUNCTION_LINES_MAX - 2)), []);
    assert_eq!(is_too_long(&body(FUNCTION_LINES_MAX - 1)), [finding(1, "81 lines in fn long")]);
    assert_eq!(is_too_long(&"\n".repeat(FILE_LINES_MAX)), []);
    assert_eq!(is_too_long(&"\n".repeat(FILE_LINES_MAX + 1)).len(), 1);
}

#[test]
fn nothing_is_left_undone_or_skipped() {
    hold(sources(), leaves_undone);

    for bad in ["fn f() { todo!() }", "fn f() { unimplemented!(\"later\") }", "#[ignore = \"slow\"]\n#[test]\nfn f() {}", "#[ignore]"] {
        assert_eq!(leaves_undone(bad).len(), 1, "{bad}");
    }
    for mark in LEFT_UNDONE {
        assert_eq!(leaves_undone(&format!("let x = 1; // {mark}: later")).len(), 1, "{mark}");
    }
    assert_eq!(leaves_undone("fn f() -> &'static str { \"todo!()\" } // the macro todo is not used"), []);
}

#[test]
fn every_select_is_biased() {
    hold(sources(), selects_at_random);

    assert_eq!(selects_at_random("\ntokio::select! {\n    a = b => {}\n}"), [finding(2, "select! without biased;")]);
    assert_eq!(selects_at_random("select! { biased; a = b => {} }"), []);
    assert_eq!(selects_at_random("tokio::select! {\n    // in order\n    biased;\n    a = b => {}\n}"), []);
}

#[test]
fn names_say_something() {
    hold(sources(), misnames);
    let empty: Vec<String> = sources().into_iter().filter(|file| file.trim_end_matches(".rs").split('/').any(is_empty_name)).collect();
    assert_eq!(empty, Vec::<String>::new());

    for bad in ["struct PeerManager;", "mod utils;", "pub(crate) trait CommonParts {}", "enum Misc {}", "type KeyHelper = u8;"] {
        assert_eq!(misnames(bad).len(), 1, "{bad}");
    }
    for wrong in WRONG_WORDS {
        assert_eq!(misnames(&format!("/// The Placement {wrong} of a slot.")).len(), 1, "{wrong}");
    }
    assert_eq!(misnames("struct Utility; // a manager of nothing\nlet helper = 1;"), []);
    assert!(is_empty_name("http_util") && is_empty_name("HTTPHelper") && !is_empty_name("commonly"));
}

#[test]
fn no_file_names_a_machine() {
    let kinds = [".conf", ".html", ".md", ".rs", ".sh", ".service", ".toml", ".yaml", ".yml"];
    let is_text =
        |file: &String| kinds.iter().any(|kind| file.ends_with(kind)) || !file.rsplit('/').next().unwrap_or_default()[1..].contains('.');
    hold(files().into_iter().filter(is_text), names_a_machine);

    for home in HOMES {
        assert_eq!(names_a_machine(&format!("let path = \"/{home}/someone/x\";")).len(), 1, "{home}");
        assert_eq!(names_a_machine(&format!("see network/{home}/x, ~/{home}/x and ./{home}/x")), [], "{home}");
    }
}

#[test]
fn code_comments_and_quotes_are_told_apart() {
    let source = "let a = \"x // y\"; // c \"d\"\nlet b = r#\"e \" /* f\"#; /* g /* h */ i */ let c = '\"'; let d: &'static str = '\\''; fn f() {}\n";
    let split = Split::of(source);
    assert_eq!(split.code.lines().count(), 2);
    for kept in ["let a =", "let b =", "let c =", "let d: &'static str", "fn f() {}"] {
        assert!(split.code.contains(kept), "{kept}: {}", split.code);
    }
    for blanked in ["x", "y", "e \"", "g", "h"] {
        assert!(!split.code.contains(blanked), "{blanked}: {}", split.code);
    }
    assert!(split.comments.contains("c \"d\"") && split.comments.contains("g /* h */ i"), "{}", split.comments);
    assert!(!split.comments.contains('f'));
}
