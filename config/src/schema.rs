//! The shape of a settings file as data: one [`KeySpec`] a key, from which the strict check, the nearest-key proposals, the
//! example file, the reference and `config show` are all made.

use std::fmt::Write as _;

use crate::nearest::nearest;
use crate::units::{ByteSize, Span};

/// The rule that a text keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A cluster's name.
    Cluster,
    /// A region's name.
    Region,
    /// A zone's name.
    Zone,
    /// A namespace's name.
    Namespace,
    /// A namespace's name, or `*` for all of them.
    Scope,
    /// A path in the file system. A relative one counts from the directory of the file that names it.
    Path,
    /// An IP address and a port.
    Address,
    /// A name or IP address and a port.
    HostPort,
    /// A SHA-256 sum: 64 hexadecimal digits.
    Sha256,
    /// A free text of 1 to 255 printable characters.
    Label,
}

impl Shape {
    /// What is allowed, as a phrase.
    #[must_use]
    pub const fn allowed(self) -> &'static str {
        match self {
            Self::Cluster | Self::Region | Self::Zone => "a name matching [a-z0-9][a-z0-9-]{0,62}, in quotes",
            Self::Namespace => "a name matching [a-z0-9][a-z0-9_-]{0,62}, in quotes",
            Self::Scope => "\"*\" or a namespace's name matching [a-z0-9][a-z0-9_-]{0,62}, in quotes",
            Self::Path => "a path, in quotes",
            Self::Address => "an IP address and a port, such as \"127.0.0.1:8080\" or \"[::1]:8080\"",
            Self::HostPort => "a host name or IP address and a port from 1 to 65535, such as \"eu.example.net:7946\"",
            Self::Sha256 => "a SHA-256 sum: 64 hexadecimal digits, in quotes",
            Self::Label => "a text of 1 to 255 printable characters, in quotes",
        }
    }
}

/// The type and range of a key's value.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number, both ends allowed.
    Integer {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// A number, both ends allowed.
    Number {
        /// The least.
        min: f64,
        /// The most.
        max: f64,
    },
    /// A [`ByteSize`], both ends allowed.
    Bytes {
        /// The least.
        min: ByteSize,
        /// The most.
        max: ByteSize,
    },
    /// A [`Span`], both ends allowed.
    Span {
        /// The shortest.
        min: Span,
        /// The longest.
        max: Span,
    },
    /// A [`Span`] in this range or `auto`.
    AutoSpan {
        /// The shortest.
        min: Span,
        /// The longest.
        max: Span,
    },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A text of that shape.
    Text(Shape),
    /// A list of at most `max` values of one kind, none twice.
    List {
        /// The kind of each.
        item: &'static Kind,
        /// The most items.
        max: usize,
    },
    /// An array of at most 1,024 tables with these fields.
    Tables(&'static [KeySpec]),
}

impl Kind {
    /// The most elements of an array of tables.
    pub(crate) const TABLES_MAX: usize = 1024;

    /// What is allowed, as a phrase that follows "must be".
    #[must_use]
    pub fn allowed(&self) -> String {
        match self {
            Self::Bool => "true or false, without quotes".to_owned(),
            Self::Integer { min, max } => format!("a whole number from {min} to {max}, without quotes"),
            Self::Number { min, max } => format!("a number from {min} to {max}, without quotes"),
            Self::Bytes { min, max } => format!("a size from \"{min}\" to \"{max}\", in quotes with its unit"),
            Self::Span { min, max } => format!("a time from \"{min}\" to \"{max}\", in quotes with its unit"),
            Self::AutoSpan { min, max } => format!("\"auto\" or a time from \"{min}\" to \"{max}\", in quotes with its unit"),
            Self::Choice(words) => format!("one of {}", words.iter().map(|w| format!("{w:?}")).collect::<Vec<_>>().join(", ")),
            Self::Text(shape) => shape.allowed().to_owned(),
            Self::List { item, max } => format!("a list of at most {max}, none twice, each {}", item.allowed()),
            Self::Tables(fields) => format!("at most {} tables with the fields {}", Self::TABLES_MAX, names(fields)),
        }
    }
}

fn names(fields: &[KeySpec]) -> String {
    fields.iter().map(|f| f.path).collect::<Vec<_>>().join(", ")
}

/// When a changed value takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// At a reload.
    Live,
    /// At the next start.
    Restart,
}

/// One key: all that is known about it.
#[derive(Debug, Clone, Copy)]
pub struct KeySpec {
    /// The dotted path in its file; in an array of tables the field's name alone.
    pub path: &'static str,
    /// Type and range.
    pub kind: Kind,
    /// The default, written as in the environment; `None` when it stays unset or has to be given.
    pub default: Option<&'static str>,
    /// For a key without a default: a value to show in the example file.
    pub example: &'static str,
    /// Whether it has to be given.
    pub required: bool,
    /// Whether a value is hidden wherever settings are shown, and may be kept in a file of its own named by `<key>_file`.
    pub secret: bool,
    /// In an array of tables: whether no two tables have the same value of it.
    pub unique: bool,
    /// Keys that have to be given when this one is.
    pub needs: &'static [&'static str],
    /// When a change takes effect.
    pub reload: Reload,
    /// What it does and why the default is what it is.
    pub doc: &'static str,
}

impl KeySpec {
    /// An optional key without default that takes effect at a restart.
    pub(crate) const fn new(path: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self {
            path,
            kind,
            default: None,
            example: "",
            required: false,
            secret: false,
            unique: false,
            needs: &[],
            reload: Reload::Restart,
            doc,
        }
    }

    pub(crate) const fn default(mut self, text: &'static str) -> Self {
        self.default = Some(text);
        self
    }

    pub(crate) const fn example(mut self, text: &'static str) -> Self {
        self.example = text;
        self
    }

    pub(crate) const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    pub(crate) const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    pub(crate) const fn unique(mut self) -> Self {
        self.unique = true;
        self
    }

    pub(crate) const fn needs(mut self, keys: &'static [&'static str]) -> Self {
        self.needs = keys;
        self
    }

    pub(crate) const fn live(mut self) -> Self {
        self.reload = Reload::Live;
        self
    }

    /// The environment variable that overrides it.
    #[must_use]
    pub fn env(&self) -> String {
        env_name(self.path)
    }
}

/// The environment variable of that dotted path.
pub(crate) fn env_name(path: &str) -> String {
    format!("ISOCHRONE__{}", path.replace('.', "__").to_uppercase())
}

/// A group of keys and why they belong together.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// The dotted name; empty for the top level of a file.
    pub name: &'static str,
    /// What the section is about.
    pub doc: &'static str,
    /// Its keys, whose paths all begin with the name.
    pub keys: &'static [KeySpec],
}

/// A whole file.
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    /// What the file is for: the head of the example file.
    pub doc: &'static str,
    /// Its sections.
    pub sections: &'static [Section],
}

/// What a name stands for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Found {
    /// A key.
    Key(&'static KeySpec),
    /// The `_file` form of a secret.
    SecretFile(&'static KeySpec),
}

/// The key or `_file` form of that name among `keys`.
pub(crate) fn find_among(keys: &'static [KeySpec], name: &str) -> Option<Found> {
    let secret = name.strip_suffix("_file");
    keys.iter().find_map(|key| match key.path {
        path if path == name => Some(Found::Key(key)),
        path if key.secret && secret == Some(path) => Some(Found::SecretFile(key)),
        _ => None,
    })
}

/// Every name that [`find_among`] knows.
pub(crate) fn names_among(keys: &'static [KeySpec]) -> impl Iterator<Item = String> {
    keys.iter().flat_map(|key| [Some(key.path.to_owned()), key.secret.then(|| format!("{}_file", key.path))]).flatten()
}

impl Schema {
    /// Every key, in the order of the file.
    pub fn keys(&self) -> impl Iterator<Item = &'static KeySpec> + use<> {
        self.sections.iter().flat_map(|section| section.keys)
    }

    /// The key of that dotted path.
    #[must_use]
    pub fn key(&self, path: &str) -> Option<&'static KeySpec> {
        self.keys().find(|key| key.path == path)
    }

    pub(crate) fn find(&self, path: &str) -> Option<Found> {
        self.sections.iter().find_map(|section| find_among(section.keys, path))
    }

    /// Whether keys live below that path.
    pub(crate) fn is_section(&self, path: &str) -> bool {
        self.keys().any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
    }

    /// The known key or section nearest to an unknown path.
    pub(crate) fn nearest(&self, path: &str) -> Option<String> {
        let sections = self.sections.iter().map(|s| s.name.to_owned()).filter(|name| !name.is_empty());
        nearest(path, self.sections.iter().flat_map(|s| names_among(s.keys)).chain(sections))
    }

    /// The reference of every key as Markdown: type and range, default, environment variable, reload, reason.
    #[must_use]
    pub fn reference(&self) -> String {
        let mut out = format!("{}\n", self.doc);
        for section in self.sections {
            if !section.name.is_empty() {
                let _ = write!(out, "\n## [{}]\n\n{}\n", section.name, section.doc);
            }
            section.keys.iter().for_each(|key| describe(&mut out, key, ""));
        }
        out
    }
}

fn describe(out: &mut String, key: &KeySpec, above: &str) {
    let path = format!("{above}{}", key.path);
    let default = match (key.default, key.required) {
        (Some(text), _) => format!("default `{text}`"),
        (None, true) => "has to be given".to_owned(),
        (None, false) => "unset by default".to_owned(),
    };
    let _ = write!(out, "\n### `{path}`\n\n{}\n\nMust be {}; {default}", key.doc, key.kind.allowed());
    if above.is_empty() {
        let _ = write!(out, "; {}; environment `{}`", if key.reload == Reload::Live { "reloads" } else { "needs a restart" }, key.env());
    }
    if key.secret {
        let _ = write!(out, "; or name a file that holds it with `{path}_file`");
    }
    out.push_str(".\n");
    if let Kind::Tables(fields) = key.kind {
        fields.iter().for_each(|field| describe(out, field, &format!("{path}[].")));
    }
}
