//! What a file's bytes mean: its format, where the key is, what becomes the value. From options, checked once.
//!
//! * Recorded with an interrupted load: going on under another shape would cut other batches.
//! * Source: RFC 4180 for CSV, docs/operations.md "Loading".

use crate::failure::Failure;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// How records are told apart and split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// One JSON object a line: {"key": …, "value": …}, each a string or {"base64": "…"}.
    Ndjson,
    /// Comma-separated with quotes, as in RFC 4180.
    Csv,
    /// One record a line, split at a delimiter, without quotes.
    Delimited,
    /// One key a line.
    Lines,
}

/// What becomes the value, where it is not a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ValueFrom {
    /// The number of the line that the record begins on, from 1.
    LineNumber,
    /// Everything after the key column's delimiter, as it stands in the file.
    Rest,
    /// The whole record, as it stands in the file.
    Record,
}

/// Options that say what the bytes mean.
#[derive(Clone, Debug, Default, Args)]
pub struct ShapeArgs {
    /// The file's format; by default from its name (.ndjson, .jsonl, .csv).
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<Format>,
    /// What stands between columns: one character, or \t. Default: , for csv and ; for delimited.
    #[arg(long, value_name = "CHAR")]
    pub delimiter: Option<String>,
    /// The first record names the columns (csv and delimited).
    #[arg(long)]
    pub header: bool,
    /// The column that is the key: a number from 1, or a name when there is a header. Default: 1.
    #[arg(long, value_name = "COLUMN")]
    pub key_column: Option<String>,
    /// The column that is the value. Default: 2.
    #[arg(long, value_name = "COLUMN", conflicts_with = "value")]
    pub value_column: Option<String>,
    /// Take the value from something else than a column. Default for lines: line-number.
    #[arg(long, value_name = "WHAT")]
    pub value: Option<ValueFrom>,
}

/// A column by number (from 0 here) or by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Column {
    /// By number.
    Number(usize),
    /// By its name in the header.
    Name(String),
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Value {
    /// From a column.
    Column(Column),
    /// From something else.
    From(ValueFrom),
}

/// The checked options.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Shape {
    /// How records are told apart.
    pub format: Format,
    /// What stands between columns.
    pub delimiter: u8,
    /// Whether the first record names the columns.
    pub header: bool,
    /// The key's column.
    pub key: Column,
    /// Where values come from.
    pub value: Value,
}

impl ShapeArgs {
    /// Checks the options against each other and fills in what was not said.
    pub fn resolve(&self, file: &Path) -> Result<Shape, Failure> {
        let format = match self.format {
            Some(format) => format,
            None => format_of_name(file)?,
        };
        let has_columns = matches!(format, Format::Csv | Format::Delimited);
        if !has_columns {
            let refused = [
                ("--delimiter", self.delimiter.is_some()),
                ("--header", self.header),
                ("--key-column", self.key_column.is_some()),
                ("--value-column", self.value_column.is_some()),
            ];
            if let Some((option, _)) = refused.iter().find(|(_, given)| *given) {
                return Err(Failure::usage(format!("{option} is for --format csv or delimited, which have columns")));
            }
        }
        if format == Format::Ndjson && self.value.is_some() {
            return Err(Failure::usage("--value is not for ndjson: its lines carry their values"));
        }
        if format == Format::Lines && self.value == Some(ValueFrom::Rest) {
            return Err(Failure::usage("--value rest is for csv or delimited; lines take line-number or record"));
        }
        let key = column(self.key_column.as_deref(), 0, self.header)?;
        let value = match (self.value, format) {
            (Some(from), _) => Value::From(from),
            (None, Format::Lines) => Value::From(ValueFrom::LineNumber),
            (None, _) => Value::Column(column(self.value_column.as_deref(), 1, self.header)?),
        };
        Ok(Shape { format, delimiter: self.delimiter_byte(format)?, header: self.header, key, value })
    }

    fn delimiter_byte(&self, format: Format) -> Result<u8, Failure> {
        let wrong = |text: &str| Failure::usage(format!("--delimiter {text:?}: give one ASCII character, or \\t"));
        match self.delimiter.as_deref() {
            None if format == Format::Csv => Ok(b','),
            None => Ok(b';'),
            Some("\\t") => Ok(b'\t'),
            Some(text) => match text.as_bytes() {
                [byte] if byte.is_ascii() && !matches!(byte, b'\n' | b'\r' | b'"') => Ok(*byte),
                _ => Err(wrong(text)),
            },
        }
    }
}

fn format_of_name(file: &Path) -> Result<Format, Failure> {
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("ndjson" | "jsonl") => Ok(Format::Ndjson),
        Some("csv") => Ok(Format::Csv),
        _ => Err(Failure::usage(format!(
            "the name {} does not tell the format: give --format ndjson, csv, delimited or lines",
            file.display()
        ))),
    }
}

fn column(given: Option<&str>, default: usize, header: bool) -> Result<Column, Failure> {
    let Some(text) = given else { return Ok(Column::Number(default)) };
    match text.parse::<usize>() {
        Ok(number) if number >= 1 => Ok(Column::Number(number - 1)),
        Ok(_) => Err(Failure::usage("columns count from 1")),
        Err(_) if header => Ok(Column::Name(text.to_owned())),
        Err(_) => {
            Err(Failure::usage(format!("column {text:?} is no number, and without --header columns have no names")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(file: &str, change: impl FnOnce(&mut ShapeArgs)) -> Result<Shape, Failure> {
        let mut args = ShapeArgs::default();
        change(&mut args);
        args.resolve(Path::new(file))
    }

    #[test]
    fn a_file_name_tells_its_format() {
        assert_eq!(resolve("a.csv", |_| ()).unwrap().format, Format::Csv);
        assert_eq!(resolve("a.jsonl", |_| ()).unwrap().format, Format::Ndjson);
        assert!(matches!(resolve("UnicodeData.txt", |_| ()), Err(Failure::Usage { .. })));
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        for (file, change) in [
            ("a.ndjson", (|args| args.delimiter = Some(";".into())) as fn(&mut ShapeArgs)),
            ("a.ndjson", |args| args.value = Some(ValueFrom::Record)),
            ("a.csv", |args| args.delimiter = Some(";;".into())),
            ("a.csv", |args| args.delimiter = Some("\n".into())),
            ("a.csv", |args| args.key_column = Some("0".into())),
            ("a.csv", |args| args.key_column = Some("name".into())),
        ] {
            assert!(matches!(resolve(file, change), Err(Failure::Usage { .. })));
        }
    }
}
