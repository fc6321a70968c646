//! The commented example file, made from the table, so that no key and no default in it can be out of date.

use std::fmt::Write as _;
use std::path::Path;

use crate::schema::{KeySpec, Kind, Reload, Schema};
use crate::value::{Value, from_text};

/// Where comments are wrapped.
const WIDTH: usize = 118;

impl Schema {
    /// The example file: every key with its reason, its range and its default. A line that begins with `#` and no space is a setting
    /// that is commented out, because it has no default.
    #[must_use]
    pub fn example(&self) -> String {
        let mut out = String::new();
        comment(&mut out, self.doc);
        for section in self.sections {
            if !section.name.is_empty() {
                out.push('\n');
                comment(&mut out, section.doc);
                let _ = writeln!(out, "[{}]", section.name);
            }
            section.keys.iter().for_each(|key| entry(&mut out, key));
        }
        out
    }
}

/// Writes lines of at most [`WIDTH`] characters, a paragraph for each line of `text`.
fn comment(out: &mut String, text: &str) {
    for paragraph in text.lines() {
        let mut line = String::from("#");
        for word in paragraph.split(' ') {
            if line.len() + 1 + word.len() > WIDTH {
                let _ = writeln!(out, "{line}");
                line = String::from("#");
            }
            let _ = write!(line, " {word}");
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

fn entry(out: &mut String, key: &KeySpec) {
    out.push('\n');
    comment(out, key.doc);
    if let Kind::Tables(fields) = key.kind {
        let _ = writeln!(out, "#[[{}]]", key.path);
        for (i, field) in fields.iter().enumerate() {
            out.push_str(if i == 0 { "" } else { "\n" });
            field_entry(out, field);
        }
        return;
    }
    let reload = if key.reload == Reload::Live { " Reloads." } else { "" };
    comment(out, &format!("Must be {}.{reload}", key.kind.allowed()));
    let off = if key.default.is_some() || key.required { "" } else { "#" };
    let name = key.path.rsplit('.').next().unwrap_or(key.path);
    let _ = writeln!(out, "{off}{name} = {}", shown(key));
}

fn field_entry(out: &mut String, field: &KeySpec) {
    comment(out, field.doc);
    let necessity = if field.required { " Has to be given." } else { "" };
    match field.kind {
        Kind::Tables(inner) => {
            inner.iter().for_each(|key| comment(out, &format!("{}: {} Must be {}.", key.path, key.doc, key.kind.allowed())));
            let inline: Vec<String> = inner.iter().map(|key| format!("{} = {}", key.path, shown(key))).collect();
            let _ = writeln!(out, "#{} = [{{ {} }}]", field.path, inline.join(", "));
        }
        _ => {
            comment(out, &format!("Must be {}.{necessity}", field.kind.allowed()));
            let _ = writeln!(out, "#{} = {}", field.path, shown(field));
        }
    }
    if field.secret {
        comment(out, &format!("Or name a file that holds it, relative to the directory of this file, with {}_file = \"...\".", field.path));
    }
}

/// The default, or the example where there is none, as TOML writes it.
fn shown(key: &KeySpec) -> Value {
    let text = key.default.unwrap_or(key.example);
    from_text(&key.kind, text, Path::new("")).unwrap_or_else(|| Value::Text(text.to_owned()))
}
