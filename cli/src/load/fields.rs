//! Splits one record into its fields, strictly: a record is split as the format says, or refused at a byte.
//!
//! * In: a record's bytes without its line end. Out: the fields, each with where it stands.
//! * CSV: a quote at a field's start opens it, a doubled one inside is a quote, and after the closing one the field ends. A
//!   quote elsewhere is text; after blanks at a field's start it is refused, because it may be meant either way. Line breaks
//!   of every kind are text inside quotes. Outside, a carriage return is refused: it is the line end of some files and text
//!   of others, and a guess would lose rows or text.
//! * Deliberately absent: where records end (`source`), how many fields there must be.
//! * Source: RFC 4180.

use std::borrow::Cow;

/// What a lone carriage return is told as.
pub(super) const BARE_CARRIAGE_RETURN: &str = "a carriage return without a line feed: convert the file's line ends to LF or \
                                               CRLF; where it is text, load the record as CSV with quotes around the field, or as NDJSON";

/// One field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field<'a> {
    /// What it says, without quotes.
    pub text: Cow<'a, [u8]>,
    /// Where it begins in the record, its quote included.
    pub start: usize,
    /// Where the delimiter after it is, or the record's end.
    pub end: usize,
}

/// The record is not what its format says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// The byte in the record.
    pub at: usize,
    /// What is wrong there.
    pub what: &'static str,
}

/// The fields of a CSV record.
pub(super) fn csv(record: &[u8], delimiter: u8) -> Result<Vec<Field<'_>>, Wrong> {
    let mut fields = Vec::new();
    let mut start = 0;
    loop {
        let field = match record.get(start) {
            Some(b'"') => quoted(record, start, delimiter)?,
            _ => plain(record, start, delimiter)?,
        };
        let end = field.end;
        fields.push(field);
        if end >= record.len() {
            return Ok(fields);
        }
        start = end + 1;
    }
}

fn plain(record: &[u8], start: usize, delimiter: u8) -> Result<Field<'_>, Wrong> {
    let rest = record.get(start..).unwrap_or_default();
    let length = rest.iter().position(|&byte| byte == delimiter || byte == b'\r').unwrap_or(rest.len());
    if rest.get(length) == Some(&b'\r') {
        return Err(Wrong { at: start + length, what: BARE_CARRIAGE_RETURN });
    }
    let text = rest.get(..length).unwrap_or_default();
    let blanks = text.iter().take_while(|&&byte| matches!(byte, b' ' | b'\t')).count();
    if blanks > 0 && text.get(blanks) == Some(&b'"') {
        return Err(Wrong { at: start + blanks, what: BEFORE_QUOTES });
    }
    Ok(Field { text: Cow::Borrowed(text), start, end: start + length })
}

const BEFORE_QUOTES: &str = "a blank before a quote: most programs mean a quoted field, and CSV a text that has a quote; remove the \
                             blank, or quote the whole field and double the quotes inside";

fn quoted(record: &[u8], start: usize, delimiter: u8) -> Result<Field<'_>, Wrong> {
    let mut text = Vec::new();
    let mut at = start + 1;
    loop {
        let rest = record.get(at..).unwrap_or_default();
        let Some(length) = rest.iter().position(|&byte| byte == b'"') else {
            return Err(Wrong { at: start, what: NEVER_CLOSED });
        };
        text.extend_from_slice(rest.get(..length).unwrap_or_default());
        let end = at + length + 1;
        match record.get(end) {
            Some(b'"') => text.push(b'"'),
            Some(&byte) if byte != delimiter => {
                let what = if byte == b'\r' { BARE_CARRIAGE_RETURN } else { AFTER_QUOTES };
                return Err(Wrong { at: end, what });
            }
            _ => return Ok(Field { text: Cow::Owned(text), start, end }),
        }
        at = end + 1;
    }
}

/// What a quote is told as that nothing closes.
pub(super) const NEVER_CLOSED: &str = "a quote that opens here is never closed";

const AFTER_QUOTES: &str = "text after the quote that ends a field: double the quotes inside a field";

/// The fields of a record without quotes.
pub(super) fn delimited(record: &[u8], delimiter: u8) -> Result<Vec<Field<'_>>, Wrong> {
    no_carriage_return(record)?;
    let mut start = 0;
    let field = |text| {
        let field = Field { text: Cow::Borrowed(text), start, end: start + text.len() };
        start = field.end + 1;
        field
    };
    Ok(record.split(|&byte| byte == delimiter).map(field).collect())
}

/// Refuses a carriage return, which no format without quotes can tell from a line end.
pub(super) fn no_carriage_return(record: &[u8]) -> Result<(), Wrong> {
    match record.iter().position(|&byte| byte == b'\r') {
        Some(at) => Err(Wrong { at, what: BARE_CARRIAGE_RETURN }),
        None => Ok(()),
    }
}

/// Follows the quotes of one CSV record while its lines are read: while one is open, a line's end is text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Quotes {
    /// Where a field begins.
    #[default]
    FieldStart,
    /// In a field without quotes.
    Plain,
    /// Between quotes.
    Quoted,
    /// After a quote between quotes: the first of two, or the closing one.
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

    /// Goes on over these bytes.
    pub(super) fn scan(&mut self, bytes: &[u8], delimiter: u8) {
        for &byte in bytes {
            *self = self.step(byte, delimiter);
        }
    }

    /// True between quotes.
    pub(super) fn is_open(self) -> bool {
        self == Quotes::Quoted
    }
}
