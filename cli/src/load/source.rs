//! Reads records out of a file, from the start or from a place where an earlier reading stopped.
//!
//! * In: bytes and a [`Shape`]. Out: keys and values, each with the place behind it.
//! * Invariant: reading on from the place behind a record gives exactly the records that would have followed.
//! * Memory is bounded by the longest record, [`RECORD_BYTES_MAX`].
//! * Blank lines are no records. Deliberately absent: batches, the network.
//! * Source: RFC 4180 for quotes and line breaks inside them.

use super::shape::{Column, Format, Shape, Value, ValueFrom};
use bytes::Bytes;
use duramen_common::Blob;
use duramen_common::limits::{KEY_BYTES_MAX, RECORD_BYTES_MAX};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, Read as _, Seek, SeekFrom};

/// Where a record begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Bytes before it.
    pub byte: u64,
    /// Lines before it.
    pub line: u64,
}

/// One key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRecord {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The place behind the record.
    pub end: Place,
}

/// Why reading stopped.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file cannot be read.
    #[error("cannot read the file: {0}")]
    Io(#[from] io::Error),
    /// A record is not what the options say.
    #[error("line {line}: {what}")]
    Malformed {
        /// The line that the record begins on, from 1.
        line: u64,
        /// What is wrong.
        what: String,
    },
}

/// Reads records one by one.
pub struct Source<R> {
    input: R,
    shape: Shape,
    place: Place,
    raw: Vec<u8>,
    key_column: usize,
    value_column: Option<usize>,
}

impl<R: BufRead> Source<R> {
    /// Begins at the start; reads the header when there is one.
    pub fn open(input: R, shape: &Shape) -> Result<Source<R>, SourceError> {
        let mut source = Source {
            input,
            shape: shape.clone(),
            place: Place::default(),
            raw: Vec::new(),
            key_column: 0,
            value_column: None,
        };
        let header = if shape.header { source.header()? } else { Vec::new() };
        source.key_column = column_index(&shape.key, &header)?;
        if let Value::Column(column) = &shape.value {
            source.value_column = Some(column_index(column, &header)?);
        }
        Ok(source)
    }

    fn header(&mut self) -> Result<Vec<Vec<u8>>, SourceError> {
        if !self.next_raw()? {
            return Ok(Vec::new());
        }
        let mut raw = self.raw.as_slice();
        if let Some(rest) = raw.strip_prefix("\u{feff}".as_bytes()) {
            raw = rest;
        }
        let names = match self.shape.format {
            Format::Csv => csv_fields(raw, self.shape.delimiter, 1)?.iter().map(<[u8]>::to_vec).collect(),
            _ => raw.split(|&byte| byte == self.shape.delimiter).map(<[u8]>::to_vec).collect(),
        };
        Ok(names)
    }

    /// The next record; `None` at the end of the file.
    pub fn next_record(&mut self) -> Result<Option<FileRecord>, SourceError> {
        loop {
            let line = self.place.line + 1;
            if !self.next_raw()? {
                return Ok(None);
            }
            if self.raw.is_empty() {
                continue;
            }
            let (key, value) = self.split(line)?;
            if key.is_empty() || key.len() > KEY_BYTES_MAX {
                let what = format!("a key of {} bytes; keys have 1 to {KEY_BYTES_MAX}", key.len());
                return Err(SourceError::Malformed { line, what });
            }
            return Ok(Some(FileRecord { key, value, end: self.place }));
        }
    }

    /// Where the next record begins.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Reads one record's bytes, without its line end, into `raw`. `false` at the end of the file.
    fn next_raw(&mut self) -> Result<bool, SourceError> {
        self.raw.clear();
        let first_line = self.place.line + 1;
        let mut quotes = Quotes::default();
        loop {
            let scanned = self.raw.len();
            let room = (RECORD_BYTES_MAX + 1 - scanned) as u64;
            let read = (&mut self.input).take(room).read_until(b'\n', &mut self.raw)?;
            self.place.byte += read as u64;
            if self.raw.len() > RECORD_BYTES_MAX {
                let what = format!("a record of more than {RECORD_BYTES_MAX} bytes; is --format right?");
                return Err(SourceError::Malformed { line: first_line, what });
            }
            if read == 0 {
                if scanned == 0 {
                    return Ok(false);
                }
                let what = "a quote that opens here is never closed".to_owned();
                return Err(SourceError::Malformed { line: first_line, what });
            }
            self.place.line += 1;
            if self.shape.format == Format::Csv {
                quotes.scan(self.raw.get(scanned..).unwrap_or_default(), self.shape.delimiter);
                if quotes.open() && self.raw.last() == Some(&b'\n') {
                    continue;
                }
                if quotes.open() {
                    let what = "a quote that opens here is never closed".to_owned();
                    return Err(SourceError::Malformed { line: first_line, what });
                }
            }
            if self.raw.last() == Some(&b'\n') {
                self.raw.pop();
                if self.raw.last() == Some(&b'\r') {
                    self.raw.pop();
                }
            }
            return Ok(true);
        }
    }

    fn split(&self, line: u64) -> Result<(Bytes, Bytes), SourceError> {
        let raw = self.raw.as_slice();
        match self.shape.format {
            Format::Ndjson => {
                let parsed: JsonRecord = serde_json::from_slice(raw).map_err(|error| SourceError::Malformed {
                    line,
                    what: format!("not {{\"key\": …, \"value\": …}}: {error}"),
                })?;
                Ok((parsed.key.0, parsed.value.0))
            }
            Format::Lines => Ok((Bytes::copy_from_slice(raw), self.value_elsewhere(line, b""))),
            Format::Delimited => {
                let delimiter = self.shape.delimiter;
                let key = nth(raw.split(|&byte| byte == delimiter), self.key_column, line)?;
                if let Some(column) = self.value_column {
                    let value = nth(raw.split(|&byte| byte == delimiter), column, line)?;
                    return Ok((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
                }
                let ends: usize =
                    raw.split(|&byte| byte == delimiter).take(self.key_column + 1).map(|field| field.len() + 1).sum();
                Ok((Bytes::copy_from_slice(key), self.value_elsewhere(line, raw.get(ends..).unwrap_or_default())))
            }
            Format::Csv => {
                let fields = csv_fields(raw, self.shape.delimiter, line)?;
                let key = nth(fields.iter(), self.key_column, line)?;
                if let Some(column) = self.value_column {
                    let value = nth(fields.iter(), column, line)?;
                    return Ok((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
                }
                let rest = Quotes::after_column(raw, self.shape.delimiter, self.key_column);
                Ok((Bytes::copy_from_slice(key), self.value_elsewhere(line, rest)))
            }
        }
    }

    fn value_elsewhere(&self, line: u64, rest: &[u8]) -> Bytes {
        match self.shape.value {
            Value::From(ValueFrom::LineNumber) => Bytes::from(line.to_string()),
            Value::From(ValueFrom::Rest) => Bytes::copy_from_slice(rest),
            Value::From(ValueFrom::Record) => Bytes::copy_from_slice(&self.raw),
            Value::Column(_) => Bytes::new(),
        }
    }
}

impl<R: BufRead + Seek> Source<R> {
    /// Goes on at a place that an earlier reading of the same file under the same shape gave.
    pub fn go_to(&mut self, place: Place) -> Result<(), SourceError> {
        self.input.seek(SeekFrom::Start(place.byte))?;
        self.place = place;
        Ok(())
    }
}

#[derive(Deserialize)]
struct JsonRecord {
    key: Blob,
    value: Blob,
}

fn nth<'a>(mut fields: impl Iterator<Item = &'a [u8]>, column: usize, line: u64) -> Result<&'a [u8], SourceError> {
    fields.nth(column).ok_or_else(|| SourceError::Malformed {
        line,
        what: format!("there is no column {}; is --delimiter right?", column + 1),
    })
}

fn column_index(column: &Column, header: &[Vec<u8>]) -> Result<usize, SourceError> {
    match column {
        Column::Number(number) => Ok(*number),
        Column::Name(name) => header.iter().position(|named| named == name.as_bytes()).ok_or_else(|| {
            let names: Vec<_> = header.iter().map(|name| String::from_utf8_lossy(name)).collect();
            SourceError::Malformed { line: 1, what: format!("no column is named {name:?}; there are {names:?}") }
        }),
    }
}

fn csv_fields(raw: &[u8], delimiter: u8, line: u64) -> Result<csv::ByteRecord, SourceError> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(delimiter)
        .buffer_capacity(raw.len() + 1)
        .from_reader(raw);
    let mut record = csv::ByteRecord::new();
    reader
        .read_byte_record(&mut record)
        .map_err(|error| SourceError::Malformed { line, what: format!("not CSV: {error}") })?;
    Ok(record)
}

/// Follows the quotes of one CSV record: only a quote at the start of a field opens, and a doubled one does not close.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Quotes {
    #[default]
    FieldStart,
    Plain,
    Quoted,
    QuoteInQuoted,
}

impl Quotes {
    fn step(self, byte: u8, delimiter: u8) -> Quotes {
        match (self, byte) {
            (Quotes::FieldStart, b'"') | (Quotes::QuoteInQuoted, b'"') => Quotes::Quoted,
            (Quotes::Quoted, b'"') => Quotes::QuoteInQuoted,
            (Quotes::Quoted, _) => Quotes::Quoted,
            (_, byte) if byte == delimiter => Quotes::FieldStart,
            _ => Quotes::Plain,
        }
    }

    fn scan(&mut self, bytes: &[u8], delimiter: u8) {
        for &byte in bytes {
            *self = self.step(byte, delimiter);
        }
    }

    fn open(self) -> bool {
        self == Quotes::Quoted
    }

    /// What stands behind the delimiter that ends this column.
    fn after_column(raw: &[u8], delimiter: u8, column: usize) -> &[u8] {
        let mut quotes = Quotes::default();
        let mut column_number = 0;
        for (position, &byte) in raw.iter().enumerate() {
            if byte == delimiter && !quotes.open() {
                if column_number == column {
                    return raw.get(position + 1..).unwrap_or_default();
                }
                column_number += 1;
            }
            quotes = quotes.step(byte, delimiter);
        }
        &[]
    }
}

#[cfg(test)]
mod tests;
