//! Markdown tables, columns aligned so that they read well in a terminal too.

use std::fmt;
use std::time::Duration;

/// A table with a title. Each row has as many cells as there are columns.
#[derive(Debug, Clone)]
pub struct Table {
    title: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new(title: impl Into<String>, columns: &[&str]) -> Self {
        Self { title: title.into(), columns: columns.iter().map(|&c| c.to_owned()).collect(), rows: Vec::new() }
    }

    /// A table of one figure a row: what, target, seen, and whether the target was met.
    #[must_use]
    pub fn of_targets(title: impl Into<String>) -> Self {
        Self::new(title, &["what", "target", "seen", "met"])
    }

    /// Adds a row. Missing cells stay empty, surplus ones are left out.
    pub fn row<I: IntoIterator<Item = S>, S: Into<String>>(&mut self, cells: I) {
        let mut row: Vec<String> = cells.into_iter().map(|cell| cell.into().replace('|', "\\|")).collect();
        row.resize(self.columns.len(), String::new());
        self.rows.push(row);
    }

    /// A figure without a target.
    pub fn note(&mut self, what: impl Into<String>, seen: impl Into<String>) {
        self.row([what.into(), String::new(), seen.into(), String::new()]);
    }

    /// A figure with a target.
    pub fn judge(&mut self, what: impl Into<String>, target: impl Into<String>, seen: impl Into<String>, is_met: bool) {
        self.row([what.into(), target.into(), seen.into(), verdict(is_met).to_owned()]);
    }

    /// A time that must not be longer than the target.
    pub fn at_most(&mut self, what: impl Into<String>, target: Duration, seen: Duration) {
        self.judge(what, format!("<= {}", time(target)), time(seen), seen <= target);
    }

    /// A count that must be nought.
    pub fn none(&mut self, what: impl Into<String>, seen: u64) {
        self.judge(what, "0", seen.to_string(), seen == 0);
    }

    fn widths(&self) -> Vec<usize> {
        let width = |index: usize| self.rows.iter().chain([&self.columns]).map(|row| row[index].chars().count()).max();
        (0..self.columns.len()).map(|index| width(index).unwrap_or(0)).collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        let line = |f: &mut fmt::Formatter<'_>, row: &[String]| {
            row.iter().zip(&widths).try_for_each(|(cell, &width)| write!(f, "| {cell:width$} "))?;
            writeln!(f, "|")
        };
        writeln!(f, "### {}\n", self.title)?;
        line(f, &self.columns)?;
        widths.iter().try_for_each(|&width| write!(f, "|{}", "-".repeat(width + 2)))?;
        writeln!(f, "|")?;
        self.rows.iter().try_for_each(|row| line(f, row))
    }
}

/// The word for a target that was met, or was not.
#[must_use]
pub const fn verdict(is_met: bool) -> &'static str {
    if is_met { "yes" } else { "NO" }
}

/// A time for people, three figures at least.
#[must_use]
pub fn time(time: Duration) -> String {
    match time.as_nanos() {
        0..1_000_000 => format!("{:.1} us", time.as_secs_f64() * 1e6),
        1_000_000..1_000_000_000 => format!("{:.2} ms", time.as_secs_f64() * 1e3),
        _ => format!("{:.2} s", time.as_secs_f64()),
    }
}

/// A time in milliseconds that may be negative, such as what is left after a delay is taken off.
#[must_use]
pub fn signed_ms(micros: i64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "microseconds of minutes are exact in an f64")]
    let ms = micros as f64 / 1e3;
    format!("{ms:.2} ms")
}

/// A count of bytes for people.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "one decimal for people")]
    let mib = bytes as f64 / f64::from(1 << 20);
    format!("{mib:.1} MiB")
}

/// So many a second, without decimals.
#[must_use]
pub fn rate(count: u64, took: Duration) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = count as f64 / took.as_secs_f64().max(1e-9);
    format!("{rate:.0}/s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_markdown_with_aligned_columns() {
        let mut table = Table::of_targets("read");
        table.at_most("p50", Duration::from_micros(150), Duration::from_micros(90));
        table.none("failed", 3);
        let wanted = "### read\n\n\
                      | what   | target      | seen    | met |\n\
                      |--------|-------------|---------|-----|\n\
                      | p50    | <= 150.0 us | 90.0 us | yes |\n\
                      | failed | 0           | 3       | NO  |\n";
        assert_eq!(table.to_string(), wanted);
    }

    #[test]
    fn a_cell_cannot_break_the_table() {
        let mut table = Table::new("t", &["a", "b"]);
        table.row(["x|y"]);
        assert!(table.to_string().ends_with("| x\\|y |   |\n"), "{table}");
    }

    #[test]
    fn times_keep_the_unit_that_fits() {
        assert_eq!(time(Duration::from_nanos(1500)), "1.5 us");
        assert_eq!(time(Duration::from_micros(1500)), "1.50 ms");
        assert_eq!(time(Duration::from_millis(1500)), "1.50 s");
        assert_eq!(signed_ms(-250), "-0.25 ms");
        assert_eq!(bytes(3 << 19), "1.5 MiB");
        assert_eq!(rate(500, Duration::from_millis(500)), "1000/s");
    }
}
