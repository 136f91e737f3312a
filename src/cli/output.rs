//! What commands print. Nobody prints to stdout by another way.
//!
//! A reader that goes away early (`terrace status | head`) is no error of ours.

use std::fmt;
use std::io::{self, Write};

use serde::Serialize;

/// A result that did not reach whoever asked for it.
#[derive(Debug, thiserror::Error)]
#[error("can't write the result to stdout: {0}")]
pub struct Unprinted(#[from] io::Error);

/// Prints a command's result to stdout: one JSON value on one line where that was asked for, else the text.
///
/// # Errors
/// Stdout takes no more, as on a full disk.
///
/// # Panics
/// The value has a map whose keys are not text.
pub fn show(
    json: bool,
    value: &impl Serialize,
    text: impl FnOnce() -> String,
) -> Result<(), Unprinted> {
    let said = if json { line_of(value) } else { text() };
    unless_left(write(&mut io::stdout().lock(), &said))
}

fn line_of(value: &impl Serialize) -> String {
    let mut line = serde_json::to_string(value).expect("what commands print is plain data");
    line.push('\n');
    line
}

fn write(out: &mut impl Write, text: &str) -> io::Result<()> {
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// Where the reader went away, nobody is left to tell.
fn unless_left(written: io::Result<()>) -> Result<(), Unprinted> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// Says on stderr why a command failed; asked for JSON, also on stdout, so that a program that
/// reads one object finds one.
pub fn print_error(said: &str, json: bool) {
    let _ = writeln!(io::stderr(), "terrace: {said}");
    if json {
        let error = line_of(&serde_json::json!({ "error": said }));
        // It was said on stderr.
        let _ = write(&mut io::stdout().lock(), &error);
    }
}

/// Rows under a heading, each column as wide as its widest cell.
#[derive(Clone, Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
    /// Columns that stand at the left; all others stand at the right, as numbers do.
    left: usize,
}

impl Table {
    #[must_use]
    pub fn new<const N: usize>(left: usize, heading: [&str; N]) -> Self {
        Self { rows: vec![heading.map(str::to_owned).to_vec()], left }
    }

    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let gap = " ".repeat(widths[column] - cell.chars().count());
                let (before, after) = if column < self.left { ("", &*gap) } else { (&*gap, "") };
                let between = if column == 0 { "" } else { "  " };
                line = format!("{line}{between}{before}{cell}{after}");
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_that_is_lost_is_an_error_unless_its_reader_left() {
        let full = io::ErrorKind::StorageFull;
        let said = unless_left(Err(full.into())).unwrap_err().to_string();
        assert!(said.starts_with("can't write the result to stdout: "), "{said}");
        assert!(unless_left(Err(io::ErrorKind::BrokenPipe.into())).is_ok());
    }

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let mut table = Table::new(1, ["tier", "used"]);
        table.row(["dram".into(), "1.5 GiB".into()]);
        table.row(["object".into(), "0 B".into()]);
        assert_eq!(table.to_string(), "tier       used\ndram    1.5 GiB\nobject      0 B\n");
    }
}
