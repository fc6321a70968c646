//! The strict reading of one source. A file is parsed with its line numbers and without any coercion: a number in quotes is a
//! text, 1.5 is no whole number, an unknown key is a mistake. What passes is handed on as values of the right type.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use crate::nearest::nearest;
use crate::problem::{Fault, Origin, Problem};
use crate::schema::{Found, KeySpec, Kind, Schema, env_name, find_among, names_among};
use crate::value::{Field, HIDDEN, Row, Value, from_text, from_toml};

/// The longest settings file that is read, in bytes.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// The longest secret file that is read, in bytes.
const SECRET_BYTES_MAX: u64 = 1 << 16;

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Placed {
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

/// The values of one source by key.
pub(crate) type Values = BTreeMap<&'static str, Placed>;

/// What came of reading one source.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    pub(crate) values: Values,
    pub(crate) problems: Vec<Problem>,
    /// Whether the text was no TOML, so that what seems to be missing may be there.
    pub(crate) broken: bool,
}

/// Whether `_file` forms may be followed from this source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SecretFiles {
    /// They are read at once.
    Follow,
    /// They are refused: the text is read on other machines than the one it was written on.
    Refuse,
}

/// Where the source's lines begin, to tell the line of a byte.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i).collect())
    }

    fn at(&self, byte: usize) -> usize {
        self.0.partition_point(|newline| *newline < byte) + 1
    }
}

/// One reading in progress.
struct Reader<'a> {
    schema: &'a Schema,
    text: &'a str,
    /// The place of the source as a whole.
    origin: Origin,
    lines: Lines,
    base: PathBuf,
    secret_files: SecretFiles,
    out: Reading,
}

/// Reads a file's text strictly; `path` names it in every origin, and relative paths in it count from its directory.
pub(crate) fn read_file(schema: &Schema, text: &str, path: &Path, secret_files: SecretFiles) -> Reading {
    let origin = Origin::File { path: path.to_owned(), line: None };
    let base = path.parent().map(Path::to_owned).unwrap_or_default();
    let mut reader = Reader { schema, text, origin, lines: Lines::of(text), base, secret_files, out: Reading::default() };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let span = error.span().unwrap_or_default();
        reader.problem(&span, String::new(), None, Fault::Syntax(one_line(error.message())));
    }
    reader.out.broken = !errors.is_empty();
    let broken_lines: Vec<Origin> = reader.out.problems.iter().map(|p| p.origin.clone()).collect();
    reader.section(table.get_ref(), "");
    // What the parser made of a broken line is guesswork.
    reader.out.problems.retain(|p| matches!(p.fault, Fault::Syntax(_)) || !broken_lines.contains(&p.origin));
    reader.out
}

/// Reads one variable or flag: a dotted path and the text that it was set to.
pub(crate) fn read_override(schema: &Schema, path: &str, text: &str, origin: Origin) -> Reading {
    let is_env = matches!(origin, Origin::Env(_));
    let mut reader = Reader {
        schema,
        text,
        origin,
        lines: Lines(Vec::new()),
        base: PathBuf::new(),
        secret_files: SecretFiles::Follow,
        out: Reading::default(),
    };
    let whole = 0..text.len();
    match schema.find(path) {
        Some(Found::Key(key)) => reader.override_key(key),
        Some(Found::SecretFile(key)) => {
            if let Some(value) = reader.secret(key, path.to_owned(), &whole, text) {
                reader.keep(key, &whole, value);
            }
        }
        None => {
            let spell = |path: String| if is_env { env_name(&path) } else { path };
            let nearest = schema.nearest(path).map(spell);
            reader.problem(&whole, path.to_owned(), Some(snippet(&format!("{text:?}"))), Fault::Unknown { nearest });
        }
    }
    reader.out
}

/// The text of a settings file: UTF-8, at most [`FILE_BYTES_MAX`] bytes.
pub(crate) fn read_text(path: &Path) -> Result<String, Problem> {
    let why = match read_bounded(path, FILE_BYTES_MAX) {
        Ok(text) => return Ok(text),
        Err(error) => error.to_string(),
    };
    let origin = Origin::File { path: path.to_owned(), line: None };
    Err(Problem { origin, key: String::new(), value: None, fault: Fault::Unreadable(why) })
}

fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("it is longer than {bytes_max} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count();
        io::Error::other(format!("line {line} is not UTF-8"))
    })
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// At most 60 characters of what was typed, on one line.
fn snippet(text: &str) -> String {
    let line = one_line(text);
    match line.char_indices().nth(60) {
        Some((cut, _)) => format!("{}...", &line[..cut]),
        None => line,
    }
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

fn holds_secret(key: &KeySpec) -> bool {
    key.secret || matches!(key.kind, Kind::Tables(fields) if fields.iter().any(holds_secret))
}

impl Reader<'_> {
    fn origin_at(&self, span: &Range<usize>) -> Origin {
        match &self.origin {
            Origin::File { path, .. } => Origin::File { path: path.clone(), line: Some(self.lines.at(span.start)) },
            other => other.clone(),
        }
    }

    fn line_at(&self, span: &Range<usize>) -> Option<usize> {
        matches!(self.origin, Origin::File { .. }).then(|| self.lines.at(span.start))
    }

    fn problem(&mut self, span: &Range<usize>, key: String, value: Option<String>, fault: Fault) {
        let problem = Problem { origin: self.origin_at(span), key, value, fault };
        self.out.problems.push(problem);
    }

    /// What was written there, hidden where it may be a secret.
    fn written(&self, span: &Range<usize>, hidden: bool) -> Option<String> {
        let text = if hidden { HIDDEN } else { self.text.get(span.clone()).unwrap_or_default() };
        Some(snippet(text))
    }

    fn invalid(&mut self, key: &KeySpec, path: String, span: &Range<usize>) {
        let value = self.written(span, holds_secret(key));
        self.problem(span, path, value, Fault::Invalid { allowed: key.kind.allowed() });
    }

    fn keep(&mut self, key: &KeySpec, span: &Range<usize>, value: Value) {
        let placed = Placed { value, origin: self.origin_at(span) };
        self.out.values.insert(key.path, placed);
    }

    fn section(&mut self, table: &DeTable<'_>, prefix: &str) {
        for (name, value) in table {
            let path = join(prefix, name.get_ref());
            let found = if name.get_ref().contains('.') { None } else { self.schema.find(&path) };
            match (found, value.get_ref()) {
                (Some(Found::Key(key)), _) => self.file_key(key, name, value),
                (Some(Found::SecretFile(key)), value) => self.file_secret(key, path, name, value),
                (None, DeValue::Table(inner)) if self.schema.is_section(&path) => self.section(inner, &path),
                (None, _) if self.schema.is_section(&path) => {
                    let allowed = format!("a section: write [{path}] and its keys below");
                    let written = self.written(&value.span(), false);
                    self.problem(&name.span(), path, written, Fault::Invalid { allowed });
                }
                (None, _) => self.unknown(path, name, value),
            }
        }
    }

    fn unknown(&mut self, path: String, name: &Spanned<DeString<'_>>, value: &Spanned<DeValue<'_>>) {
        let nearest = self.schema.nearest(&path);
        let written = match value.get_ref() {
            DeValue::Table(_) => None,
            _ => self.written(&value.span(), false),
        };
        self.problem(&name.span(), path, written, Fault::Unknown { nearest });
    }

    fn file_key(&mut self, key: &'static KeySpec, name: &Spanned<DeString<'_>>, value: &Spanned<DeValue<'_>>) {
        if let Some(read) = self.value(key, key.path.to_owned(), value) {
            self.keep(key, &name.span(), read);
        }
    }

    fn file_secret(&mut self, key: &'static KeySpec, path: String, name: &Spanned<DeString<'_>>, value: &DeValue<'_>) {
        if let Some(read) = self.secret_value(key, path, &name.span(), value) {
            self.keep(key, &name.span(), read);
        }
    }

    /// The value of one key, at any depth.
    fn value(&mut self, key: &KeySpec, path: String, value: &Spanned<DeValue<'_>>) -> Option<Value> {
        if let Kind::Tables(fields) = key.kind {
            return self.tables(key, fields, &path, value);
        }
        let read = from_toml(&key.kind, value.get_ref(), &self.base).map(|read| read.sealed(key.secret));
        if read.is_none() {
            self.invalid(key, path, &value.span());
        }
        read
    }

    fn tables(&mut self, key: &KeySpec, fields: &'static [KeySpec], path: &str, value: &Spanned<DeValue<'_>>) -> Option<Value> {
        let DeValue::Array(items) = value.get_ref() else {
            self.invalid(key, path.to_owned(), &value.span());
            return None;
        };
        if items.len() > Kind::TABLES_MAX {
            self.problem(&value.span(), path.to_owned(), None, Fault::Invalid { allowed: key.kind.allowed() });
            return None;
        }
        let before = self.out.problems.len();
        let mut rows = Vec::new();
        for (i, item) in items.iter().enumerate() {
            let path = format!("{path}[{i}]");
            match item.get_ref() {
                DeValue::Table(table) => rows.push(self.row(fields, &path, table, &item.span())),
                _ => self.invalid(key, path, &item.span()),
            }
        }
        self.check_unique(fields, path, &rows);
        // A row with a fault has placeholders in it and must not get further.
        (self.out.problems.len() == before).then_some(Value::Tables(rows))
    }

    /// A field that tells the tables apart has each value once.
    fn check_unique(&mut self, fields: &'static [KeySpec], path: &str, rows: &[Row]) {
        for field in fields.iter().filter(|field| field.unique) {
            let mut seen = BTreeMap::new();
            for (i, row) in rows.iter().enumerate() {
                let Some(text) = row.text(field.path) else { continue };
                let Some(first) = seen.insert(text, i) else { continue };
                let origin = match &self.origin {
                    Origin::File { path, .. } => Origin::File { path: path.clone(), line: row.fields.get(field.path).and_then(|f| f.line) },
                    other => other.clone(),
                };
                let value = if field.secret { HIDDEN.to_owned() } else { snippet(&format!("{text:?}")) };
                let fault = Fault::Rule(format!("{path}[{first}].{} has that value already", field.path));
                self.out.problems.push(Problem { origin, key: format!("{path}[{i}].{}", field.path), value: Some(value), fault });
            }
        }
    }

    fn row(&mut self, fields: &'static [KeySpec], path: &str, table: &DeTable<'_>, span: &Range<usize>) -> Row {
        let hidden = fields.iter().any(holds_secret);
        let mut row = Row { line: self.line_at(span), fields: BTreeMap::new() };
        for (name, value) in table {
            let (below, at) = (join(path, name.get_ref()), name.span());
            let (field, read) = match find_among(fields, name.get_ref()) {
                Some(Found::Key(field)) => (field, self.value(field, below.clone(), value)),
                Some(Found::SecretFile(field)) => (field, self.secret_value(field, below.clone(), &at, value.get_ref())),
                None => {
                    let nearest = nearest(name.get_ref(), names_among(fields));
                    let written = self.written(&value.span(), hidden);
                    self.problem(&at, below, written, Fault::Unknown { nearest });
                    continue;
                }
            };
            let line = self.line_at(&at);
            let before = row.fields.insert(field.path, Field { value: read.unwrap_or(Value::Bool(false)), line });
            if before.is_some() {
                let rule = format!("give either {0} or {0}_file, not both", field.path);
                self.problem(&at, below, None, Fault::Rule(rule));
            }
        }
        self.complete(fields, path, span, &mut row);
        row
    }

    /// Fills in the defaults of a table's fields and asks for those that have to be given.
    fn complete(&mut self, fields: &'static [KeySpec], path: &str, span: &Range<usize>, row: &mut Row) {
        for field in fields.iter().filter(|field| !row.fields.contains_key(field.path)).collect::<Vec<_>>() {
            if let Some(value) = default_of(field) {
                row.fields.insert(field.path, Field { value, line: None });
            } else if field.required {
                let fault = Fault::Missing { allowed: field.kind.allowed() };
                self.problem(span, join(path, field.path), None, fault);
            }
        }
    }

    fn secret_value(&mut self, key: &KeySpec, path: String, span: &Range<usize>, value: &DeValue<'_>) -> Option<Value> {
        match value {
            DeValue::String(file) => self.secret(key, path, span, file),
            _ => {
                self.problem(span, path, None, Fault::Invalid { allowed: "a path, in quotes".to_owned() });
                None
            }
        }
    }

    /// The secret that the file of that name holds, white space around it left away.
    fn secret(&mut self, key: &KeySpec, path: String, span: &Range<usize>, file: &str) -> Option<Value> {
        let written = Some(snippet(&format!("{file:?}")));
        if self.secret_files == SecretFiles::Refuse {
            let rule = "this text is read by every daemon, which cannot open a file of yours: write the value itself".to_owned();
            self.problem(span, path, written, Fault::Rule(rule));
            return None;
        }
        let file = self.base.join(file);
        let fault = match read_bounded(&file, SECRET_BYTES_MAX) {
            Ok(text) => match from_text(&key.kind, text.trim(), &self.base) {
                Some(value) => return Some(value.sealed(true)),
                None => Fault::Rule(format!("what {} holds must be {}", file.display(), key.kind.allowed())),
            },
            Err(error) => Fault::Unreadable(error.to_string()),
        };
        self.problem(span, path, written, fault);
        None
    }

    /// A variable's or flag's text is read as its key's kind asks; one that begins with a bracket is read as TOML.
    fn override_key(&mut self, key: &'static KeySpec) {
        let (text, whole) = (self.text, 0..self.text.len());
        let as_toml = matches!(key.kind, Kind::Tables(_)) || (matches!(key.kind, Kind::List { .. }) && text.starts_with('['));
        if as_toml && let Ok(value) = DeValue::parse(text) {
            if let Some(read) = self.value(key, key.path.to_owned(), &value) {
                self.keep(key, &whole, read);
            }
            return;
        }
        match from_text(&key.kind, text, &self.base) {
            Some(value) => self.keep(key, &whole, value.sealed(key.secret)),
            None => {
                let written = if holds_secret(key) { HIDDEN.to_owned() } else { snippet(&format!("{text:?}")) };
                self.problem(&whole, key.path.to_owned(), Some(written), Fault::Invalid { allowed: key.kind.allowed() });
            }
        }
    }
}

/// The default of a key, if it has one.
pub(crate) fn default_of(key: &KeySpec) -> Option<Value> {
    key.default.and_then(|text| match key.kind {
        Kind::Tables(_) => Some(Value::Tables(Vec::new())),
        _ => from_text(&key.kind, text, Path::new("")),
    })
}

/// The default of every key that has one.
pub(crate) fn defaults(schema: &Schema) -> Values {
    let of = |key: &'static KeySpec| Some((key.path, Placed { value: default_of(key)?, origin: Origin::Default }));
    schema.keys().filter_map(of).collect()
}
