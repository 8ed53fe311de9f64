//! Reads records out of a file or a stream, from the start or from a place where an earlier reading stopped.
//!
//! * In: bytes and a [`Shape`]. Out: keys and values, each with the place after it.
//! * Invariant: what is read is what is in the file, or reading stops with the line and the column. A byte order mark at the
//!   start is not part of the file's text; lines end with LF or CRLF, mixed as they like; the last one may have no end.
//! * Keys and values are bytes: NUL and what is not UTF-8 are kept, except in NDJSON, which is UTF-8 by definition.
//! * Where values are a column, every record must have as many fields as the first one: otherwise a delimiter that nobody
//!   quoted would cut a value.
//! * Invariant: reading on from the place after a record gives exactly the records that would have followed.
//! * Memory is bounded by the longest record, [`RECORD_BYTES_MAX`]. Blank lines are not records.
//! * Deliberately absent: batches, the network.

use super::fields::{self, Field, NEVER_CLOSED, Quotes, Wrong};
use super::shape::{Column, Format, Shape, Value, ValueFrom};
use bytes::Bytes;
use duramen_common::Blob;
use duramen_common::json::Object;
use duramen_common::limits::{KEY_BYTES_MAX, RECORD_BYTES_MAX};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, Read as _};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The byte order mark of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Where a record begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Bytes before it.
    pub byte: u64,
    /// Lines before it.
    pub line: u64,
    /// A hash of everything before it.
    pub fingerprint: u64,
}

/// One key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRecord {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The place after the record.
    pub end: Place,
}

/// Why reading stopped.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// A record is not what the options say.
    #[error("line {line}, column {column}: {what}")]
    Malformed {
        /// The line, from 1.
        line: u64,
        /// The byte in the line, from 1.
        column: u64,
        /// What is wrong.
        what: String,
    },
    /// What an interrupted load has loaded is not there any more.
    #[error("what was loaded of it, up to line {line}, has changed since: start over without --resume")]
    Changed {
        /// The last line that was loaded.
        line: u64,
    },
}

/// Reads records one by one.
pub struct Source<R> {
    input: R,
    shape: Shape,
    place: Place,
    /// The record that was read last, without its line end.
    raw: Vec<u8>,
    columns: Columns,
}

/// Which fields of a record are taken. Numbers are from 0.
#[derive(Clone, Copy, Debug, Default)]
struct Columns {
    key: usize,
    /// Where values are a column.
    value: Option<usize>,
    /// How many fields every record must have, once the first has said it. Only where values are a column.
    count: Option<usize>,
}

impl<R: BufRead> Source<R> {
    /// Begins at the start. The header, when there is one, is the first line that is not blank.
    pub fn open(input: R, shape: &Shape) -> Result<Source<R>, SourceError> {
        let mut source = Source {
            input,
            shape: shape.clone(),
            place: Place::default(),
            raw: Vec::new(),
            columns: Columns::default(),
        };
        let mut line = 1;
        while shape.header && source.raw.is_empty() {
            line = source.place.line + 1;
            if !source.next_raw()? {
                break;
            }
        }
        source.columns = source.named_columns().map_err(|(at, what)| source.malformed(line, at, what))?;
        Ok(source)
    }

    /// Where key and value are. `raw` is the header, if there is one.
    fn named_columns(&self) -> Result<Columns, (usize, String)> {
        let header = match (self.shape.header, self.shape.format) {
            (false, _) => Ok(Vec::new()),
            (true, Format::Csv) => fields::csv(&self.raw, self.shape.delimiter),
            (true, _) => fields::delimited(&self.raw, self.shape.delimiter),
        };
        let header = header.map_err(|wrong| (wrong.at, wrong.what.to_owned()))?;
        let key = column_index(&self.shape.key, &header)?;
        let Value::Column(value) = &self.shape.value else { return Ok(Columns { key, ..Columns::default() }) };
        let count = self.shape.header.then_some(header.len());
        Ok(Columns { key, value: Some(column_index(value, &header)?), count })
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
            let (key, value, count) = self.split(line).map_err(|(at, what)| self.malformed(line, at, what))?;
            if key.is_empty() || key.len() > KEY_BYTES_MAX {
                let what = format!("a key of {} bytes; keys have 1 to {KEY_BYTES_MAX}", key.len());
                return Err(self.malformed(line, 0, what));
            }
            self.columns.count = count;
            return Ok(Some(FileRecord { key, value, end: self.place }));
        }
    }

    /// Where the next record begins.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Reads on, from the start, to a place that an earlier reading of the same bytes under the same shape gave.
    pub fn skip_to(&mut self, place: Place) -> Result<(), SourceError> {
        let changed = SourceError::Changed { line: place.line };
        while self.place.byte < place.byte {
            // The first record says how many fields all have; the others need not be split.
            let is_first = self.columns.value.is_some() && self.columns.count.is_none();
            let read = if is_first { self.next_record().map(|record| record.is_some()) } else { self.next_raw() };
            match read {
                Ok(true) => {}
                Err(SourceError::Io(error)) => return Err(error.into()),
                Ok(false) | Err(_) => return Err(changed),
            }
        }
        if self.place == place { Ok(()) } else { Err(changed) }
    }

    /// Reads one record's bytes, without its line end, into `raw`. `false` at the end of the file.
    fn next_raw(&mut self) -> Result<bool, SourceError> {
        self.raw.clear();
        let first_line = self.place.line + 1;
        let mut quotes = Quotes::default();
        loop {
            let before = self.raw.len();
            let room = (RECORD_BYTES_MAX + 1 - before) as u64;
            let read = (&mut self.input).take(room).read_until(b'\n', &mut self.raw)?;
            let at_start = self.place.byte == 0;
            self.place.byte += read as u64;
            if self.raw.len() > RECORD_BYTES_MAX {
                let what = format!("a record of more than {RECORD_BYTES_MAX} bytes; is --format right?");
                return Err(self.malformed(first_line, 0, what));
            }
            if read == 0 {
                // After a line, only an open quote reads on.
                return if before == 0 { Ok(false) } else { Err(self.unclosed(first_line)) };
            }
            self.place.line += 1;
            let line = self.raw.get(before..).unwrap_or_default();
            self.place.fingerprint = xxh3_64_with_seed(line, self.place.fingerprint);
            if at_start {
                self.skip_byte_order_mark()?;
            }
            let has_end = self.raw.last() == Some(&b'\n');
            if self.shape.format == Format::Csv {
                quotes.scan(self.raw.get(before..).unwrap_or_default(), self.shape.delimiter);
                match (quotes.is_open(), has_end) {
                    (true, true) => continue,
                    (true, false) => return Err(self.unclosed(first_line)),
                    (false, _) => {}
                }
            }
            if has_end {
                self.raw.pop();
                if self.raw.last() == Some(&b'\r') {
                    self.raw.pop();
                }
            }
            return Ok(true);
        }
    }

    fn skip_byte_order_mark(&mut self) -> Result<(), SourceError> {
        if self.raw.starts_with(BYTE_ORDER_MARK) {
            self.raw.drain(..BYTE_ORDER_MARK.len());
        }
        match self.raw.get(..2) {
            Some([0xff, 0xfe] | [0xfe, 0xff]) => {
                let what = "a byte order mark of UTF-16: convert the file to UTF-8".to_owned();
                Err(self.malformed(1, 0, what))
            }
            _ => Ok(()),
        }
    }

    /// The error for a quote that is open where the input ends.
    fn unclosed(&self, first_line: u64) -> SourceError {
        let split = fields::csv(&self.raw, self.shape.delimiter);
        let wrong = split.err().unwrap_or(Wrong { at: 0, what: NEVER_CLOSED });
        self.malformed(first_line, wrong.at, wrong.what.to_owned())
    }

    /// The error for byte `at` of the record in `raw`, which begins on `first_line`.
    fn malformed(&self, first_line: u64, at: usize, what: String) -> SourceError {
        let before = self.raw.get(..at).unwrap_or_default();
        let line = first_line + before.iter().filter(|&&byte| byte == b'\n').count() as u64;
        let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        SourceError::Malformed { line, column: (before.len() - line_start) as u64 + 1, what }
    }

    /// Key, value, and how many fields the next record must have; or the byte that is wrong and what is.
    fn split(&self, line: u64) -> Result<(Bytes, Bytes, Option<usize>), (usize, String)> {
        let raw = self.raw.as_slice();
        let told = |wrong: Wrong| (wrong.at, wrong.what.to_owned());
        let fields = match self.shape.format {
            Format::Ndjson => return json_record(raw).map(|(key, value)| (key, value, None)),
            Format::Lines => {
                fields::no_carriage_return(raw).map_err(told)?;
                return Ok((Bytes::copy_from_slice(raw), self.value_elsewhere(line, b""), None));
            }
            Format::Delimited => fields::delimited(raw, self.shape.delimiter),
            Format::Csv => fields::csv(raw, self.shape.delimiter),
        };
        let fields = fields.map_err(told)?;
        let key = nth(&fields, self.columns.key, raw.len())?;
        let own = |field: &Field<'_>| Bytes::copy_from_slice(&field.text);
        let Some(column) = self.columns.value else {
            let rest = raw.get(key.end + 1..).unwrap_or_default();
            return Ok((own(key), self.value_elsewhere(line, rest), None));
        };
        let wanted = self.columns.count.unwrap_or(fields.len());
        if fields.len() != wanted {
            let at = fields.get(wanted).map_or(raw.len(), |surplus| surplus.start);
            let what = format!(
                "a record of {} fields, where the first one has {wanted}: quote what holds a delimiter (CSV), or take the value \
                 from something else than a column (--value)",
                fields.len()
            );
            return Err((at, what));
        }
        Ok((own(key), own(nth(&fields, column, raw.len())?), Some(wanted)))
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

/// A line of NDJSON. `duramen scan --json` prints `version` too; what else is there would be lost.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonRecord {
    key: Blob,
    value: Blob,
    #[serde(rename = "version")]
    _version: Option<IgnoredAny>,
}

fn json_record(raw: &[u8]) -> Result<(Bytes, Bytes), (usize, String)> {
    if let Err(error) = std::str::from_utf8(raw) {
        let what = "a byte that is not UTF-8; such keys and values are written as {\"base64\": …}".to_owned();
        return Err((error.valid_up_to(), what));
    }
    let parsed: Result<Object<JsonRecord>, _> = serde_json::from_slice(raw);
    parsed.map(|Object(record)| (record.key.0, record.value.0)).map_err(|error| {
        let text = error.to_string();
        let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
        (error.column().saturating_sub(1), format!("not {{\"key\": …, \"value\": …}}: {what}"))
    })
}

fn nth<'a, 'b>(fields: &'a [Field<'b>], column: usize, end: usize) -> Result<&'a Field<'b>, (usize, String)> {
    fields.get(column).ok_or_else(|| (end, format!("there is no column {}; is --delimiter right?", column + 1)))
}

fn column_index(column: &Column, header: &[Field<'_>]) -> Result<usize, (usize, String)> {
    let name = match column {
        Column::Number(number) => return Ok(*number),
        Column::Name(name) => name,
    };
    let mut places = header.iter().enumerate().filter(|(_, field)| *field.text == *name.as_bytes());
    match (places.next(), places.next()) {
        (Some((number, _)), None) => Ok(number),
        (Some((one, _)), Some((other, again))) => {
            let what = format!("columns {} and {} are both named {name:?}: give the number", one + 1, other + 1);
            Err((again.start, what))
        }
        (None, _) => {
            let names: Vec<_> = header.iter().map(|field| String::from_utf8_lossy(&field.text)).collect();
            Err((0, format!("no column is named {name:?}; there are {names:?}")))
        }
    }
}

#[cfg(test)]
mod tests;
