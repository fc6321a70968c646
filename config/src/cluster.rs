//! The cluster file: what all daemons agree on.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use isochrone_ident::{ClusterName, Namespace};
use serde::{Deserialize, Serialize};
use toml::de::{DeTable, DeValue};

use crate::cluster_keys::CLUSTER;
use crate::layers::merge;
use crate::node::unfilled;
use crate::problem::{Fault, Origin, Problem, Problems};
use crate::strict::{Reading, SecretFiles, read_file, read_text};
use crate::token::Token;
use crate::units::{ByteSize, Span};
use crate::value::{Row, Value};

/// What a namespace promises. Fixed for ever once the namespace exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Taken by any daemon, converging (rules E).
    Eventual,
    /// Chosen by a quorum, linearizable (rules Q).
    Strong,
}

impl Mode {
    /// As the cluster file writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Eventual => "eventual",
            Self::Strong => "strong",
        }
    }
}

/// Whether an eventual namespace's entries may go when room is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keeping {
    /// Synced before it is acknowledged, and kept.
    Durable,
    /// May go.
    Evictable,
}

impl Keeping {
    /// As the cluster file writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Durable => "durable",
            Self::Evictable => "evictable",
        }
    }
}

/// One namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceSpec {
    /// Its name.
    pub name: Namespace,
    /// What it promises.
    pub mode: Mode,
    /// Whether its entries may go; always durable in strong mode.
    pub keeping: Keeping,
    /// Daemons that keep each key, 1 to [`REPLICAS_MAX`].
    pub replicas: u8,
    /// How long a key lives when the write says nothing; `None` is for ever. At most `ttl_max`.
    pub ttl_default: Option<Span>,
    /// The longest life; `None` is no bound.
    pub ttl_max: Option<Span>,
    /// The largest value; `None` leaves it to the daemon's `limits.value_bytes`, which bounds it in any case.
    pub value_bytes: Option<ByteSize>,
    /// The oldest answer that is given at level local (E10), at least 1 ms; `None` is no bound.
    pub max_staleness: Option<Span>,
    /// Members of a set (E12), 1 to 100,000; `None` leaves it to the daemon's `limits.set_members`, and in strong mode.
    pub set_members: Option<u64>,
}

/// The most replicas of a key.
pub const REPLICAS_MAX: u8 = 7;

/// The replicas of a key where nothing is said.
const REPLICAS_DEFAULT: u8 = 3;

impl NamespaceSpec {
    fn built_in(name: Namespace, mode: Mode, keeping: Keeping) -> Self {
        Self {
            name,
            mode,
            keeping,
            replicas: REPLICAS_DEFAULT,
            ttl_default: None,
            ttl_max: None,
            value_bytes: None,
            max_staleness: None,
            set_members: None,
        }
    }

    /// How long a key written with that wish lives: the default where there is none, never longer than the most allowed; `None` is for ever.
    #[must_use]
    pub fn ttl(&self, wish: Option<Duration>) -> Option<Duration> {
        let wish = wish.or(self.ttl_default.map(Span::duration));
        match (wish, self.ttl_max.map(Span::duration)) {
            (Some(wish), Some(max)) => Some(wish.min(max)),
            (wish, max) => wish.or(max),
        }
    }

    /// The largest value, in bytes, where a daemon allows `limit`.
    #[must_use]
    pub fn value_bytes_max(&self, limit: ByteSize) -> ByteSize {
        self.value_bytes.map_or(limit, |own| own.min(limit))
    }

    /// The most members of a set, where a daemon's `limits.set_members` is `limit`.
    #[must_use]
    pub fn set_members_max(&self, limit: usize) -> usize {
        self.set_members.map_or(limit, |own| usize::try_from(own).unwrap_or(usize::MAX))
    }

    /// Whether an answer that may be `age` old may be given at level local (E10).
    #[must_use]
    pub fn is_fresh_enough(&self, age: Duration) -> bool {
        self.max_staleness.is_none_or(|max| age <= max.duration())
    }
}

/// A namespace as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenNamespace {
    name: Namespace,
    mode: Mode,
    kind: Option<Keeping>,
    replicas: u8,
    ttl_default: Option<Span>,
    ttl_max: Option<Span>,
    value_bytes: Option<ByteSize>,
    max_staleness: Option<Span>,
    set_members: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenCluster {
    cluster: Option<ClusterName>,
    namespace: Vec<WrittenNamespace>,
    token: Vec<Token>,
}

/// What all daemons agree on: the built-in namespaces, and what the cluster file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSpec {
    /// The cluster that the file is meant for; `None` fits any.
    pub cluster: Option<ClusterName>,
    /// All namespaces by name, the built-in ones always among them.
    namespaces: BTreeMap<Namespace, NamespaceSpec>,
    /// Bearer tokens that every daemon knows.
    pub tokens: Vec<Token>,
}

/// The namespaces of a new cluster.
const BUILT_IN: [(&str, Mode, Keeping); 3] =
    [("cache", Mode::Eventual, Keeping::Evictable), ("data", Mode::Eventual, Keeping::Durable), ("strong", Mode::Strong, Keeping::Durable)];

/// A cluster without a file: the built-in namespaces and no tokens.
impl Default for ClusterSpec {
    fn default() -> Self {
        let built_in = BUILT_IN.iter().filter_map(|(name, mode, keeping)| {
            let name = Namespace::new(name).ok()?;
            Some((name.clone(), NamespaceSpec::built_in(name, *mode, *keeping)))
        });
        Self { cluster: None, namespaces: built_in.collect(), tokens: Vec::new() }
    }
}

impl ClusterSpec {
    /// Reads a cluster file's text, as the council keeps it; `file_name` names it in errors. An empty text is [`ClusterSpec::default`].
    /// No file is opened, so a `sha256_file` is refused: [`ClusterSpec::read`] fills it in.
    ///
    /// # Errors
    /// [`Problems`]: everything that is wrong, each with its line.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, Problems> {
        let path = Path::new(file_name);
        finish(read_file(&CLUSTER, text, path, SecretFiles::Refuse), path)
    }

    /// Reads a cluster file from where an operator keeps it. The second result is its text with every `sha256_file` replaced by the
    /// sum that it names: what is given to the council.
    ///
    /// # Errors
    /// [`Problems`]: everything that is wrong, each with its line; an unreadable file.
    pub fn read(path: &Path) -> Result<(Self, String), Problems> {
        let text = read_text(path).map_err(Problems::one)?;
        let reading = read_file(&CLUSTER, &text, path, SecretFiles::Follow);
        let rows = match reading.values.get("token").map(|placed| &placed.value) {
            Some(Value::Tables(rows)) => rows.clone(),
            _ => Vec::new(),
        };
        let spec = finish(reading, path)?;
        Ok((spec, fill_in_hashes(&text, &rows)))
    }

    /// Every namespace, by name.
    pub fn namespaces(&self) -> impl Iterator<Item = &NamespaceSpec> {
        self.namespaces.values()
    }

    /// The namespace of that name, if there is one.
    #[must_use]
    pub fn namespace(&self, name: &Namespace) -> Option<&NamespaceSpec> {
        self.namespaces.get(name)
    }

    /// How many replicas the placement has to rank: the most that any namespace asks for, 1 to [`REPLICAS_MAX`]. A namespace that asks for
    /// fewer uses the first of them.
    #[must_use]
    pub fn replica_width(&self) -> u8 {
        self.namespaces.values().map(|namespace| namespace.replicas).max().unwrap_or(REPLICAS_DEFAULT)
    }

    /// Whether the file is meant for that cluster.
    #[must_use]
    pub fn is_for(&self, cluster: &ClusterName) -> bool {
        self.cluster.as_ref().is_none_or(|meant| meant == cluster)
    }
}

fn finish(reading: Reading, path: &Path) -> Result<ClusterSpec, Problems> {
    let mut merged = merge(&CLUSTER, vec![reading]);
    merged.complete(&CLUSTER, Some(path));
    let written = merged.fill::<WrittenCluster>();
    let rows: &[Row] = match merged.values.get("namespace").map(|placed| &placed.value) {
        Some(Value::Tables(rows)) => rows,
        _ => &[],
    };
    let mut problems = merged.problems;
    let namespaces = written.as_ref().map_or(&[][..], |written| &written.namespace);
    for (i, (written, row)) in namespaces.iter().zip(rows).enumerate() {
        let blame = |field: &str, rule: String| Problem {
            origin: Origin::File { path: path.to_owned(), line: row.fields.get(field).and_then(|f| f.line).or(row.line) },
            key: format!("namespace[{i}].{field}"),
            value: row.fields.get(field).map(|f| f.value.to_string()),
            fault: Fault::Rule(rule),
        };
        problems.extend(namespace_rules(written).into_iter().map(|(field, rule)| blame(field, rule)));
    }
    Problems::none_of(problems)?;
    written.map(specify).ok_or_else(|| Problems::one(unfilled()))
}

fn built_in(name: &Namespace) -> Option<(Mode, Keeping)> {
    BUILT_IN.iter().find(|(known, ..)| *known == name.as_str()).map(|(_, mode, keeping)| (*mode, *keeping))
}

/// What is wrong with a namespace whose fields are each valid: the field to blame, and why.
fn namespace_rules(written: &WrittenNamespace) -> Vec<(&'static str, String)> {
    let mut broken = Vec::new();
    if let Some((mode, keeping)) = built_in(&written.name) {
        if mode != written.mode {
            broken.push(("mode", format!("{} is built in, with mode \"{}\" for ever", written.name, mode.as_str())));
        } else if written.kind.is_some_and(|kind| kind != keeping) {
            broken.push(("kind", format!("{} is built in, with kind \"{}\" for ever", written.name, keeping.as_str())));
        }
    }
    if written.mode == Mode::Strong && written.kind == Some(Keeping::Evictable) {
        broken.push(("kind", "what a quorum chose is never evicted: leave kind out, or use mode \"eventual\"".to_owned()));
    }
    if written.mode == Mode::Strong && written.set_members.is_some() {
        broken.push(("set_members", "a strong namespace holds no sets: leave it out, or use mode \"eventual\"".to_owned()));
    }
    if let (Some(default), Some(max)) = (written.ttl_default, written.ttl_max)
        && default > max
    {
        broken.push(("ttl_default", format!("must not be above ttl_max, which is \"{max}\"")));
    }
    broken
}

fn specify(written: WrittenCluster) -> ClusterSpec {
    let mut spec = ClusterSpec { cluster: written.cluster, tokens: written.token, ..ClusterSpec::default() };
    for namespace in written.namespace {
        let keeping = namespace.kind.or(built_in(&namespace.name).map(|(_, keeping)| keeping)).unwrap_or(Keeping::Durable);
        let WrittenNamespace { name, mode, replicas, ttl_default, ttl_max, value_bytes, max_staleness, set_members, .. } = namespace;
        spec.namespaces.insert(
            name.clone(),
            NamespaceSpec { name, mode, keeping, replicas, ttl_default, ttl_max, value_bytes, max_staleness, set_members },
        );
    }
    spec
}

/// The text with `sha256_file = "..."` of the n-th token replaced by the sum in the n-th row; comments and all else stay.
fn fill_in_hashes(text: &str, rows: &[Row]) -> String {
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    let (table, _) = DeTable::parse_recoverable(text);
    let tokens = table.get_ref().iter().find(|(name, _)| name.get_ref() == "token").and_then(|(_, value)| value.get_ref().as_array());
    for (token, row) in tokens.into_iter().flat_map(|tokens| tokens.iter()).zip(rows) {
        let DeValue::Table(fields) = token.get_ref() else { continue };
        for (name, value) in fields.iter().filter(|(name, _)| name.get_ref() == "sha256_file") {
            edits.push((name.span(), "sha256".to_owned()));
            edits.push((value.span(), format!("{:?}", row.text("sha256").unwrap_or_default())));
        }
    }
    edits.sort_by_key(|(span, _)| std::cmp::Reverse(span.start));
    let mut out = text.to_owned();
    edits.into_iter().for_each(|(span, new)| out.replace_range(span, &new));
    out
}
