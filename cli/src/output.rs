//! Answers of commands on stdout: bytes as they are, lines, JSON lines.
//!
//! * A reader that has gone ends the command quietly.
//! * Nodes say what they have to say through `duramen_stdio::stdout`, which waits for nobody; hints for people go to
//!   `duramen_stdio::stderr`, which cannot fail.
//! * Deliberately absent: colours, logs, progress, failures.

use crate::failure::Failure;
use serde::Serialize;
use std::io;

/// Writes bytes as they are, and waits until they are taken: for commands, never for nodes.
pub fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    duramen_stdio::write_all(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => Failure::failed(format!("cannot write to stdout: {error}")),
    })
}

/// Writes one line.
pub fn line(text: &str) -> Result<(), Failure> {
    bytes(format!("{text}\n").as_bytes())
}

/// Writes one line of JSON.
pub fn json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::failed(format!("cannot print JSON: {error}")))?;
    line(&text)
}

/// A key or a value for people: as text where it is printable UTF-8, else with `\x..` escapes.
#[must_use]
pub fn readable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                control if control.is_control() => text.extend(control.escape_default()),
                other => text.push(other),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// A table with aligned columns; numbers would be given as text already. The last column is not padded.
#[must_use]
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|name| name.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut push_row = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    };
    push_row(&mut header.iter().copied());
    for row in rows {
        push_row(&mut row.iter().map(String::as_str));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_not_text_are_shown_escaped() {
        assert_eq!(readable("né".as_bytes()), "né");
        assert_eq!(readable(b"a\x00\xff\n\\"), "a\\u{0}\\xff\\n\\\\");
    }

    #[test]
    fn columns_of_a_table_line_up() {
        let rows = vec![vec!["0".to_owned(), "1042".to_owned()], vec!["12".to_owned(), "3".to_owned()]];
        assert_eq!(table(&["partition", "end"], &rows), "partition  end\n0          1042\n12         3\n");
    }
}
