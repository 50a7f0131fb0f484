//! How things look: tables for people, JSON for programs.

pub(crate) mod message;
pub(crate) mod queue;

use std::io::{self, IsTerminal, Write};

use comfy_table::{CellAlignment, Table, presets};
use serde_json::Value;

use crate::args::Format;
use crate::units;

/// Where the output of a verb goes. Every write can fail with a broken pipe, which ends the verb quietly.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Show {
    format: Format,
}

impl Show {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    pub(crate) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// A sentence for people, or an object for programs.
    pub(crate) fn done(self, sentence: &str, object: &Value) -> io::Result<()> {
        if self.is_json() {
            self.json(object)
        } else {
            self.line(sentence)
        }
    }

    pub(crate) fn line(self, text: &str) -> io::Result<()> {
        self.bytes(text.as_bytes())
    }

    pub(crate) fn json(self, object: &Value) -> io::Result<()> {
        self.line(&object.to_string())
    }

    /// These bytes and a line feed.
    pub(crate) fn bytes(self, bytes: &[u8]) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        stdout.write_all(b"\n")?;
        stdout.flush()
    }
}

/// A remark that is not part of the output.
pub(crate) fn remark(text: &str) {
    // Remarks are for people at a terminal; if it is gone, so are they.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

pub(crate) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// A table with these column titles; those with a `#` in front hold numbers.
pub(crate) fn table(titles: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(titles.iter().map(|title| title.trim_start_matches('#')));
    let last = titles.len() - 1;
    for (place, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if place == last { 0 } else { 3 }));
        if titles[place].starts_with('#') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// The lines of a table, without the blanks at their ends.
pub(crate) fn lines(table: &Table) -> String {
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Names and values, one pair a line, the values in one column.
pub(crate) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines = pairs
        .iter()
        .map(|(name, value)| format!("{name:width$}   {value}"));
    lines
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

pub(crate) fn duration(duration: Option<&prost_types::Duration>) -> Option<std::time::Duration> {
    duration.map(|duration| std::time::Duration::try_from(*duration).unwrap_or_default())
}

/// A duration in JSON: seconds, with milliseconds behind the point.
pub(crate) fn seconds(value: Option<&prost_types::Duration>) -> Value {
    duration(value).map_or(Value::Null, |duration| {
        Value::from(duration.as_millis() as f64 / 1000.0)
    })
}

pub(crate) fn time(time: Option<&prost_types::Timestamp>) -> Option<String> {
    time.map(ToString::to_string)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn about(value: Option<&prost_types::Duration>) -> String {
    duration(value).map_or_else(|| "-".to_owned(), units::show_about)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_numbers_right_and_have_no_trailing_blanks() {
        let mut table = table(&["NAME", "#READY", "STATE"]);
        table.add_row(["orders", "12", ""]);
        table.add_row(["a", "3,000", "paused"]);
        let expected = [
            "NAME     READY   STATE",
            "orders      12",
            "a        3,000   paused",
        ];
        assert_eq!(lines(&table), expected.join("\n"));
    }

    #[test]
    fn pairs_share_a_column() {
        let text = pairs(&[("a", "1".into()), ("long", "2".into())]);
        assert_eq!(text, "a      1\nlong   2");
    }

    #[test]
    fn durations_in_json_are_seconds() {
        let half = prost_types::Duration {
            seconds: 1,
            nanos: 500_000_000,
        };
        assert_eq!(seconds(Some(&half)), Value::from(1.5));
        assert_eq!(seconds(None), Value::Null);
    }
}
