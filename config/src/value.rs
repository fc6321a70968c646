//! One value that passed its key's check, and how it is read from text and from TOML.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use isochrone_ident::{ClusterName, Namespace, Region, Zone};
use toml::de::DeValue;

use crate::schema::{Kind, Shape};
use crate::units::{AutoSpan, ByteSize, Span};

/// A value as it was validated; what was typed may have looked otherwise (`1024KiB` became `1MiB`).
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A truth.
    Bool(bool),
    /// A whole number.
    Integer(u64),
    /// A number.
    Number(f64),
    /// A text, a size or a time, in its canonical spelling.
    Text(String),
    /// A text that is never shown.
    Secret(Secret),
    /// Values of one kind.
    List(Vec<Value>),
    /// An array of tables.
    Tables(Vec<Row>),
}

/// A text that neither `Debug` nor `Display` shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

/// What is shown instead of a secret.
pub(crate) const HIDDEN: &str = "(hidden)";

/// One table of an array. Two are equal when their fields are, wherever they stand.
#[derive(Debug, Clone, Default)]
pub struct Row {
    /// The line of its first field, from 1; `None` outside a file.
    pub line: Option<usize>,
    /// Its fields; those with a default are always there.
    pub fields: BTreeMap<&'static str, Field>,
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        self.fields == other.fields
    }
}

/// One field of a table. Two are equal when their values are.
#[derive(Debug, Clone)]
pub struct Field {
    /// Its value.
    pub value: Value,
    /// The line that it is on, from 1; `None` for a default or outside a file.
    pub line: Option<usize>,
}

impl PartialEq for Field {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Value {
    /// The value, kept from being shown when its key is a secret.
    pub(crate) fn sealed(self, secret: bool) -> Self {
        match self {
            Self::Text(text) if secret => Self::Secret(Secret(text)),
            other => other,
        }
    }

    /// The value for `serde`, through the `config` crate.
    pub(crate) fn to_config(&self) -> config::Value {
        match self {
            Self::Bool(truth) => config::Value::from(*truth),
            Self::Integer(number) => config::Value::from(*number),
            Self::Number(number) => config::Value::from(*number),
            Self::Text(text) | Self::Secret(Secret(text)) => config::Value::from(text.as_str()),
            Self::List(items) => config::Value::from(items.iter().map(Self::to_config).collect::<Vec<_>>()),
            Self::Tables(rows) => config::Value::from(rows.iter().map(Row::to_config).collect::<Vec<_>>()),
        }
    }
}

impl Row {
    fn to_config(&self) -> config::Value {
        let fields = self.fields.iter().map(|(name, field)| ((*name).to_owned(), field.value.to_config()));
        config::Value::from(fields.collect::<config::Map<String, config::Value>>())
    }

    /// The text of that field, secret or not, if it has one.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match &self.fields.get(name)?.value {
            Value::Text(text) | Value::Secret(Secret(text)) => Some(text),
            _ => None,
        }
    }
}

/// As TOML writes it, on one line; secrets hidden.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(truth) => truth.fmt(f),
            Self::Integer(number) => number.fmt(f),
            Self::Number(number) => write!(f, "{number:?}"),
            Self::Text(text) => toml::Value::String(text.clone()).fmt(f),
            Self::Secret(_) => f.write_str(HIDDEN),
            Self::List(items) => write_list(f, items),
            Self::Tables(rows) => write_list(f, rows),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{ ")?;
        for (i, (name, field)) in self.fields.iter().enumerate() {
            write!(f, "{}{name} = {}", if i == 0 { "" } else { ", " }, field.value)?;
        }
        f.write_str(" }")
    }
}

fn write_list(f: &mut fmt::Formatter<'_>, items: &[impl fmt::Display]) -> fmt::Result {
    f.write_str("[")?;
    for (i, item) in items.iter().enumerate() {
        write!(f, "{}{item}", if i == 0 { "" } else { ", " })?;
    }
    f.write_str("]")
}

/// A text of that shape in its canonical spelling; a relative path is joined to `base`.
fn shaped(shape: Shape, text: &str, base: &Path) -> Option<String> {
    let same = |holds: bool| holds.then(|| text.to_owned());
    match shape {
        Shape::Cluster => same(ClusterName::new(text).is_ok()),
        Shape::Region => same(Region::new(text).is_ok()),
        Shape::Zone => same(Zone::new(text).is_ok()),
        Shape::Namespace => same(Namespace::new(text).is_ok()),
        Shape::Scope => same(text == "*" || Namespace::new(text).is_ok()),
        Shape::Path if text.is_empty() || text.contains('\0') => None,
        Shape::Path => base.join(text).into_os_string().into_string().ok(),
        Shape::Address => Some(text.parse::<SocketAddr>().ok()?.to_string()),
        Shape::HostPort => same(is_host_port(text)),
        Shape::Sha256 => (text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())).then(|| text.to_lowercase()),
        Shape::Label => same((1..=255).contains(&text.chars().count()) && !text.chars().any(char::is_control)),
    }
}

fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let named = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let is_name = (1..=253).contains(&host.len()) && host.bytes().all(named);
    let is_port = port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|p| p > 0);
    is_port && (is_name || text.parse::<SocketAddr>().is_ok_and(|address| address.is_ipv6()))
}

/// A value in quotes, checked against its kind.
fn quoted(kind: &Kind, text: &str, base: &Path) -> Option<Value> {
    let text = match *kind {
        Kind::Bytes { min, max } => text.parse::<ByteSize>().ok().filter(|size| (min..=max).contains(size))?.to_string(),
        Kind::Span { min, max } => text.parse::<Span>().ok().filter(|span| (min..=max).contains(span))?.to_string(),
        Kind::AutoSpan { min, max } => match text.parse().ok()? {
            AutoSpan::Fixed(span) if !(min..=max).contains(&span) => return None,
            span => span.to_string(),
        },
        Kind::Choice(words) => words.iter().find(|word| **word == text).map(|&word| word.to_owned())?,
        Kind::Text(shape) => shaped(shape, text, base)?,
        Kind::Bool | Kind::Integer { .. } | Kind::Number { .. } | Kind::List { .. } | Kind::Tables(_) => return None,
    };
    Some(Value::Text(text))
}

fn integer(kind: &Kind, number: u64) -> Option<Value> {
    matches!(kind, Kind::Integer { min, max } if (*min..=*max).contains(&number)).then_some(Value::Integer(number))
}

fn number(kind: &Kind, number: f64) -> Option<Value> {
    matches!(kind, Kind::Number { min, max } if (*min..=*max).contains(&number)).then_some(Value::Number(number))
}

/// A list of which every item passed; `None` when one did not, one is there twice, or there are too many.
fn list(items: Option<Vec<Value>>, max: usize) -> Option<Value> {
    let items = items?;
    let twice = items.iter().enumerate().any(|(i, item)| items[..i].contains(item));
    (items.len() <= max && !twice).then_some(Value::List(items))
}

/// A value written as plain text (a default, an environment variable, a flag): the key's kind says how it is read. Lists are
/// cut at commas. Arrays of tables are no plain text.
pub(crate) fn from_text(kind: &Kind, text: &str, base: &Path) -> Option<Value> {
    match kind {
        Kind::Bool => text.parse().ok().map(Value::Bool),
        Kind::Integer { .. } => text.bytes().all(|b| b.is_ascii_digit()).then(|| integer(kind, text.parse().ok()?)).flatten(),
        Kind::Number { .. } => number(kind, text.parse().ok()?),
        Kind::List { max, .. } if text.is_empty() => list(Some(Vec::new()), *max),
        Kind::List { item, max } => list(text.split(',').map(|part| from_text(item, part.trim(), base)).collect(), *max),
        _ => quoted(kind, text, base),
    }
}

/// A value written in TOML, of exactly the type that its kind asks for; only a whole number may stand for a number. Arrays of
/// tables have names of their own to be checked and are not read here.
pub(crate) fn from_toml(kind: &Kind, value: &DeValue<'_>, base: &Path) -> Option<Value> {
    match (kind, value) {
        (Kind::Bool, DeValue::Boolean(truth)) => Some(Value::Bool(*truth)),
        (Kind::Integer { .. }, DeValue::Integer(digits)) => {
            integer(kind, u64::from_str_radix(digits.as_str().trim_start_matches('+'), digits.radix()).ok()?)
        }
        (Kind::Number { .. }, DeValue::Float(text)) => number(kind, text.as_str().parse().ok()?),
        (Kind::Number { .. }, DeValue::Integer(digits)) if digits.radix() == 10 => number(kind, digits.as_str().parse().ok()?),
        (Kind::List { item, max }, DeValue::Array(items)) => {
            list(items.iter().map(|value| from_toml(item, value.get_ref(), base)).collect(), *max)
        }
        (_, DeValue::String(text)) => quoted(kind, text, base),
        _ => None,
    }
}
