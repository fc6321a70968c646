//! What is in effect, and where each value came from.

use std::fmt;

use crate::problem::Origin;
use crate::schema::{KeySpec, Reload, Schema};
use crate::strict::Values;
use crate::value::{Row, Value};

/// One line of `config show`.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// The dotted key; elements of an array of tables by number, as in `auth.token[0].name`.
    pub key: String,
    /// The value in effect; `None` when the key is unset.
    pub value: Option<Value>,
    /// Where it came from.
    pub origin: Origin,
    /// When a change of it takes effect.
    pub reload: Reload,
}

/// Every key of a file with its effective value, secrets hidden. `Display` is `config show` for people; [`Effective::to_json`] for programs.
#[derive(Debug, Clone, PartialEq)]
pub struct Effective(Vec<Setting>);

impl Effective {
    pub(crate) fn of(schema: &Schema, values: &Values) -> Self {
        let mut settings = Vec::new();
        for key in schema.keys() {
            let placed = values.get(key.path);
            let origin = placed.map_or(Origin::Default, |placed| placed.origin.clone());
            push(&mut settings, key, key.path.to_owned(), placed.map(|placed| &placed.value), &origin);
        }
        Self(settings)
    }

    /// The lines, in the order of the file.
    #[must_use]
    pub fn settings(&self) -> &[Setting] {
        &self.0
    }

    /// An array of `{"key", "value", "source": "default"|"file"|"env"|"flag", "reload": "live"|"restart"}`, with `"file"` and `"line"`, or
    /// `"name"` of the variable or flag; the value is `null` when the key is unset, and `{"hidden": true}` for a secret.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        self.0.iter().map(setting_json).collect()
    }
}

/// One line for a plain key or an empty array, one a field for an array of tables.
fn push(settings: &mut Vec<Setting>, key: &KeySpec, path: String, value: Option<&Value>, origin: &Origin) {
    let Some(Value::Tables(rows)) = value.filter(|value| **value != Value::Tables(Vec::new())) else {
        settings.push(Setting { key: path, value: value.cloned(), origin: origin.clone(), reload: key.reload });
        return;
    };
    for (i, row) in rows.iter().enumerate() {
        push_row(settings, key, &format!("{path}[{i}]"), row, origin);
    }
}

fn push_row(settings: &mut Vec<Setting>, key: &KeySpec, path: &str, row: &Row, origin: &Origin) {
    for (name, field) in &row.fields {
        let origin = match origin {
            Origin::File { path, .. } if field.line.is_some() => Origin::File { path: path.clone(), line: field.line },
            Origin::File { .. } => Origin::Default,
            other => other.clone(),
        };
        push(settings, key, format!("{path}.{name}"), Some(&field.value), &origin);
    }
}

fn setting_json(setting: &Setting) -> serde_json::Value {
    let reload = if setting.reload == Reload::Live { "live" } else { "restart" };
    let value = setting.value.as_ref().map(value_json);
    let mut json = serde_json::json!({ "key": setting.key, "value": value, "source": setting.origin.kind(), "reload": reload });
    match &setting.origin {
        Origin::File { path, line } => {
            json["file"] = path.display().to_string().into();
            json["line"] = (*line).into();
        }
        Origin::Env(name) | Origin::Flag(name) => json["name"] = name.as_str().into(),
        Origin::Default => {}
    }
    json
}

fn value_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Bool(truth) => (*truth).into(),
        Value::Integer(number) => (*number).into(),
        Value::Number(number) => (*number).into(),
        Value::Text(text) => text.as_str().into(),
        Value::Secret(_) => serde_json::json!({ "hidden": true }),
        Value::List(items) => items.iter().map(value_json).collect(),
        Value::Tables(rows) => rows.iter().map(row_json).collect(),
    }
}

fn row_json(row: &Row) -> serde_json::Value {
    row.fields.iter().map(|(name, field)| ((*name).to_owned(), value_json(&field.value))).collect::<serde_json::Map<_, _>>().into()
}

/// One line a key: `key = value`, then its origin in a comment; an unset key is a comment.
impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.0.iter().map(setting_text).collect();
        let width = texts.iter().map(|text| text.chars().count()).filter(|width| *width <= 72).max().unwrap_or(0);
        for (text, setting) in texts.iter().zip(&self.0) {
            writeln!(f, "{text:width$}  # {}", setting.origin)?;
        }
        Ok(())
    }
}

fn setting_text(setting: &Setting) -> String {
    match &setting.value {
        Some(value) => format!("{} = {value}", setting.key),
        None => format!("# {} is unset", setting.key),
    }
}
