//! The file read a second time, by other code: what verification holds the first reading ([`super::source`]) to.
//!
//! * In: the same file and shape. Out: key and value of each record.
//! * CSV comes from the `csv` crate, with its own idea of where records end; JSON from a stream of JSON values, which does not
//!   look at lines; text from plain lines. None of it uses a function of the first reading.
//! * Invariant: nothing is refused here that the first reading takes. Where both give something else, one of them is wrong,
//!   and the verification fails.

use super::shape::{Column, Format, Shape, Value, ValueFrom};
use super::source::FileRecord;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value as Json;
use std::io::{self, BufRead, Read};

/// Why there is no second reading, or not the same.
#[derive(Debug, thiserror::Error)]
pub enum SecondReadingError {
    /// It broke off.
    #[error("a second reading of the file failed: {0}")]
    Io(#[from] io::Error),
    /// The readings differ.
    #[error(
        "two ways to read the file give two results before line {line} ({what}): do not trust what was loaded, and report this"
    )]
    Differs {
        /// Lines that the first reading had read.
        line: u64,
        /// What differs.
        what: &'static str,
    },
}

/// Gives key and value of one record after the other.
type Records = Box<dyn Iterator<Item = io::Result<(Vec<u8>, Expected)>> + Send>;

/// What the value must be.
enum Expected {
    Is(Vec<u8>),
    /// The record without what comes before it: the value must be its end.
    EndOf(Vec<u8>),
}

/// A second reading that goes along with the first.
pub struct SecondReading {
    records: Records,
}

impl SecondReading {
    /// Begins. `input` and `again` are two readers of the same file from its start.
    pub fn new(
        input: impl BufRead + Send + 'static,
        again: impl BufRead + Send + 'static,
        shape: &Shape,
    ) -> io::Result<SecondReading> {
        let records: Records = match shape.format {
            Format::Ndjson => json(input)?,
            Format::Csv => csv(input, again, shape),
            Format::Lines | Format::Delimited => text(input, shape),
        };
        Ok(SecondReading { records })
    }

    /// Compares the next record with what the first reading gave; `None` at its end.
    pub fn check(&mut self, first: Option<&FileRecord>, line: u64) -> Result<(), SecondReadingError> {
        let second = self.records.next().transpose()?;
        let what = match (first, second) {
            (None, None) => return Ok(()),
            (None, Some(_)) => "the first has fewer records",
            (Some(_), None) => "the first has more records",
            (Some(first), Some((key, expected))) => {
                let is_same = match expected {
                    Expected::Is(value) => first.value == value,
                    Expected::EndOf(record) => record.ends_with(&first.value),
                };
                if first.key == key && is_same {
                    return Ok(());
                }
                "another key or value"
            }
        };
        Err(SecondReadingError::Differs { line, what })
    }
}

fn broken(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The number of a column, from the header's fields.
fn number(column: &Column, header: &[Vec<u8>]) -> usize {
    match column {
        Column::Number(number) => *number,
        // A name that is not there leads to no field, and so to an error.
        Column::Name(name) => header.iter().position(|field| field == name.as_bytes()).unwrap_or(usize::MAX),
    }
}

/// Key and value of a record, by its fields and its text.
fn record(
    shape: &Shape,
    header: &[Vec<u8>],
    fields: &[Vec<u8>],
    text: &[u8],
    line: u64,
) -> io::Result<(Vec<u8>, Expected)> {
    let field = |column| {
        fields.get(number(column, header)).cloned().ok_or_else(|| broken(format!("line {line}: no such column")))
    };
    let key = match shape.format {
        Format::Lines => text.to_vec(),
        _ => field(&shape.key)?,
    };
    let expected = match &shape.value {
        Value::Column(column) => Expected::Is(field(column)?),
        Value::From(ValueFrom::LineNumber) => Expected::Is(line.to_string().into_bytes()),
        Value::From(ValueFrom::Record) => Expected::Is(text.to_vec()),
        Value::From(ValueFrom::Rest) => Expected::EndOf(text.to_vec()),
    };
    Ok((key, expected))
}

fn without_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn text(input: impl BufRead + Send + 'static, shape: &Shape) -> Records {
    let shape = shape.clone();
    let mut header = None;
    let lines = input.split(b'\n').enumerate().map(|(number, line)| Ok((number as u64 + 1, line?)));
    Box::new(lines.filter_map(move |numbered: io::Result<(u64, Vec<u8>)>| {
        let (number, line) = match numbered {
            Ok(numbered) => numbered,
            Err(error) => return Some(Err(error)),
        };
        let line = if number == 1 { line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&line) } else { &line };
        let line = without_line_end(line);
        if line.is_empty() {
            return None;
        }
        let fields: Vec<Vec<u8>> = line.split(|&byte| byte == shape.delimiter).map(<[u8]>::to_vec).collect();
        if shape.header && header.is_none() {
            header = Some(fields);
            return None;
        }
        Some(record(&shape, header.as_deref().unwrap_or_default(), &fields, line, number))
    }))
}

fn json(mut input: impl BufRead + Send + 'static) -> io::Result<Records> {
    // The mark may come in pieces from a pipe, but verification reads files.
    if input.fill_buf()?.starts_with("\u{feff}".as_bytes()) {
        input.consume("\u{feff}".len());
    }
    let bytes = |json: Option<&Json>| match json {
        Some(Json::String(text)) => Ok(text.clone().into_bytes()),
        Some(Json::Object(members)) => {
            let encoded = members.get("base64").and_then(Json::as_str).unwrap_or("?");
            STANDARD.decode(encoded).map_err(broken)
        }
        _ => Err(broken("a key or value that is neither text nor base64")),
    };
    let values = serde_json::Deserializer::from_reader(input).into_iter::<Json>();
    Ok(Box::new(values.map(move |json| {
        let json = json.map_err(broken)?;
        Ok((bytes(json.get("key"))?, Expected::Is(bytes(json.get("value"))?)))
    })))
}

/// The `csv` crate says where each record ends; its text, and the lines before it, come from a reader of their own.
fn csv(input: impl BufRead + Send + 'static, mut again: impl BufRead + Send + 'static, shape: &Shape) -> Records {
    let shape = shape.clone();
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(shape.delimiter)
        .buffer_capacity(256 * 1024)
        .from_reader(input);
    let mut header = None;
    let (mut at, mut lines) = (0, 0);
    let mut next = move || -> io::Result<Option<(Vec<u8>, Expected)>> {
        loop {
            let mut fields = csv::ByteRecord::new();
            if !reader.read_byte_record(&mut fields).map_err(broken)? {
                return Ok(None);
            }
            let end = reader.position().byte();
            let mut text = Vec::new();
            again.by_ref().take(end - at).read_to_end(&mut text)?;
            let is_start = at == 0;
            at = end;
            let text = if is_start { text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&text) } else { &text };
            // What ended the record before may come with this one.
            let blank = text.iter().take_while(|&&byte| byte == b'\n' || byte == b'\r').count();
            let newlines = |bytes: &[u8]| bytes.iter().filter(|&&byte| byte == b'\n').count() as u64;
            let (before, text) = text.split_at(blank);
            let line = lines + newlines(before) + 1;
            lines += newlines(before) + newlines(text);
            let fields: Vec<Vec<u8>> = fields.iter().map(<[u8]>::to_vec).collect();
            if shape.header && header.is_none() {
                header = Some(fields);
                continue;
            }
            let header = header.as_deref().unwrap_or_default();
            return record(&shape, header, &fields, without_line_end(text), line).map(Some);
        }
    };
    Box::new(std::iter::from_fn(move || next().transpose()))
}

#[cfg(test)]
mod tests;
