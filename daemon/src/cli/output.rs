//! What goes to stdout: text for people or JSON for programs, never both, never a panic when the pipe is closed.

use std::io::{self, Write};

use serde_json::Value;

use super::args::OutputFormat;

/// Writes one line to stdout.
///
/// # Errors
/// What the write gave, a closed pipe included.
pub(crate) fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Writes `value` as one line of JSON, or what `text` makes of it.
///
/// # Errors
/// What the write gave.
pub(crate) fn show(format: OutputFormat, value: &Value, text: impl FnOnce(&Value) -> String) -> io::Result<()> {
    match format {
        OutputFormat::Json => line(&value.to_string()),
        OutputFormat::Text => line(text(value).trim_end_matches('\n')),
    }
}

/// A table with columns as wide as their widest cell, two blanks between, numbers to the right.
#[must_use]
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let to_the_right: Vec<bool> = (0..header.len()).map(|column| is_numeric(rows, column)).collect();
    let mut text = String::new();
    let header: Vec<String> = header.iter().map(|&cell| cell.to_owned()).collect();
    for row in std::iter::once(&header).chain(rows) {
        let cells = row.iter().zip(&widths).zip(&to_the_right);
        let line: Vec<String> =
            cells.map(|((cell, &width), &right)| if right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }).collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn is_numeric(rows: &[Vec<String>], column: usize) -> bool {
    let mut cells = rows.iter().filter_map(|row| row.get(column)).filter(|cell| cell.as_str() != "-").peekable();
    cells.peek().is_some() && cells.all(|cell| cell.parse::<f64>().is_ok())
}

/// A JSON value as a cell: strings without quotes, absent as `-`.
#[must_use]
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// Any JSON value as indented text, objects as `name: value` lines and arrays of objects as tables: what a person sees of
/// an answer whose members this version of the command does not know one by one.
#[must_use]
pub(crate) fn outline(value: &Value) -> String {
    let mut text = String::new();
    outline_into(&mut text, value, 0);
    text
}

fn outline_into(text: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                if is_flat(member) {
                    text.push_str(&format!("{indent}{name}: {}\n", cell(member)));
                } else {
                    text.push_str(&format!("{indent}{name}:\n"));
                    outline_into(text, member, depth + 1);
                }
            }
        }
        Value::Array(items) if !items.is_empty() && items.iter().all(is_flat_object) => {
            let shown = object_table(items);
            shown.lines().for_each(|line| text.push_str(&format!("{indent}{line}\n")));
        }
        Value::Array(items) => items.iter().for_each(|item| outline_into(text, item, depth)),
        other => text.push_str(&format!("{indent}{}\n", cell(other))),
    }
}

fn is_flat(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.is_empty(),
        Value::Array(items) => items.iter().all(|item| !item.is_object() && !item.is_array()),
        _ => true,
    }
}

fn is_flat_object(value: &Value) -> bool {
    value.as_object().is_some_and(|members| members.values().all(is_flat))
}

/// Objects as a table: a column a member, in the order of first appearance.
#[must_use]
pub(crate) fn object_table(items: &[Value]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in items.iter().filter_map(Value::as_object).flat_map(serde_json::Map::keys) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let rows: Vec<Vec<String>> = items.iter().map(|item| names.iter().map(|&name| cell(&item[name])).collect()).collect();
    table(&names, &rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_align_words_left_and_numbers_right() {
        let rows = vec![vec!["us-east".to_owned(), "7".to_owned()], vec!["eu".to_owned(), "120".to_owned()]];
        assert_eq!(table(&["region", "ms"], &rows), "region    ms\nus-east    7\neu       120\n");
    }

    #[test]
    fn an_outline_shows_objects_as_lines_and_their_lists_as_tables() {
        let value =
            json!({"ready": true, "leader": null, "members": [{"node": "a", "ms": 1}, {"node": "b", "rtt": 2}], "log": {"last": 9}});
        let text = outline(&value);
        assert!(text.contains("ready: true\n"), "{text}");
        assert!(text.contains("leader: -\n"), "{text}");
        assert!(text.contains("log:\n  last: 9\n"), "{text}");
        assert!(text.lines().any(|line| line.split_whitespace().collect::<Vec<_>>() == ["1", "a", "-"]), "{text}");
    }
}
