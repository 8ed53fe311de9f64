//! Goal: the two readings agree on every file that the first takes, and a fault of either is seen.

use super::*;
use crate::load::shape::ShapeArgs;
use crate::load::source::Source;
use bytes::Bytes;
use proptest::prelude::*;
use std::io::Cursor;
use std::path::Path;

fn shape(format: Format, header: bool, value: Option<ValueFrom>) -> Shape {
    let args = ShapeArgs { format: Some(format), header, value, ..ShapeArgs::default() };
    args.resolve(Path::new("file")).unwrap()
}

/// Reads both ways. `Ok(None)`: the first reading refuses the file. `Ok(Some(records))`: they agree.
fn both(text: &[u8], shape: &Shape) -> Result<Option<Vec<FileRecord>>, SecondReadingError> {
    let input = || Cursor::new(text.to_vec());
    let Ok(mut first) = Source::open(input(), shape) else { return Ok(None) };
    let mut second = SecondReading::new(input(), input(), shape)?;
    let mut records = Vec::new();
    loop {
        let Ok(record) = first.next_record() else { return Ok(None) };
        second.check(record.as_ref(), first.place().line)?;
        match record {
            Some(record) => records.push(record),
            None => return Ok(Some(records)),
        }
    }
}

/// One shape of each kind.
fn shapes() -> Vec<Shape> {
    let mut shapes = vec![shape(Format::Ndjson, false, None)];
    for value in [None, Some(ValueFrom::LineNumber), Some(ValueFrom::Record), Some(ValueFrom::Rest)] {
        if value != Some(ValueFrom::Rest) {
            shapes.push(shape(Format::Lines, false, value));
        }
        for header in [false, true] {
            shapes.push(shape(Format::Csv, header, value));
            shapes.push(shape(Format::Delimited, header, value));
        }
    }
    shapes
}

/// A file of pieces that mean something to some format.
fn dirty_text() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => "[a-c]{1,3}".prop_map(String::into_bytes),
        2 => Just(b",".to_vec()),
        2 => Just(b";".to_vec()),
        3 => Just(b"\n".to_vec()),
        1 => Just(b"\r\n".to_vec()),
        1 => Just(b"\r".to_vec()),
        2 => Just(b"\"".to_vec()),
        1 => Just(b"\"x,y;\r\nz\"".to_vec()),
        1 => Just(b"\0\xff".to_vec()),
        1 => Just("\u{feff}".as_bytes().to_vec()),
        1 => Just(b"{\"key\":\"a\",\"value\":\"b\"}\n".to_vec()),
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Goal: what is loaded is what is in the file, or the file is refused, whatever it holds. Method: files of any pieces,
    /// every format; both readings agree, or the first refuses.
    #[test]
    fn the_readings_agree_on_what_is_not_refused(text in dirty_text()) {
        for shape in shapes() {
            let agreed = both(&text, &shape);
            prop_assert!(agreed.is_ok(), "{shape:?}: {}", agreed.unwrap_err());
        }
    }

    /// Goal: a table that another program wrote is never refused and comes whole. Method: the `csv` crate writes any bytes,
    /// with either line end, with or without a mark and a last line end.
    #[test]
    fn a_table_that_was_written_by_the_rules_is_read_whole(
        rows in proptest::collection::vec((prop::collection::vec(any::<u8>(), 1..6), prop::collection::vec(any::<u8>(), 0..6)), 1..10),
        crlf: bool, marked: bool, ended: bool,
    ) {
        let terminator = if crlf { csv::Terminator::CRLF } else { csv::Terminator::Any(b'\n') };
        let mut writer = csv::WriterBuilder::new().terminator(terminator).quote_style(csv::QuoteStyle::Always).from_writer(Vec::new());
        for (key, value) in &rows {
            writer.write_record([key, value]).unwrap();
        }
        let mut text = if marked { "\u{feff}".as_bytes().to_vec() } else { Vec::new() };
        text.extend(writer.into_inner().unwrap());
        while !ended && text.last().is_some_and(u8::is_ascii_whitespace) {
            text.pop();
        }
        let read = both(&text, &shape(Format::Csv, false, None)).unwrap().expect("it is well formed");
        let read: Vec<_> = read.into_iter().map(|record| (record.key.to_vec(), record.value.to_vec())).collect();
        prop_assert_eq!(read, rows);
    }
}

/// Goal: a reader that loses something is caught. Method: the faults that a reader had: text after a carriage return
/// dropped, a mark taken for text, a record left out.
#[test]
fn a_fault_of_the_first_reading_is_seen() {
    let text = b"\xef\xbb\xbfa,\"1\r2\"\nb,3\n";
    let csv = shape(Format::Csv, false, None);
    let right = both(text, &csv).unwrap().unwrap();
    let check = |faulty: &[FileRecord]| {
        let input = || Cursor::new(text.to_vec());
        let mut second = SecondReading::new(input(), input(), &csv).unwrap();
        faulty.iter().map(Some).chain([None]).try_for_each(|record| second.check(record, 1))
    };
    assert!(check(&right).is_ok());
    let changed = |change: fn(&mut Vec<FileRecord>)| {
        let mut records = right.clone();
        change(&mut records);
        check(&records)
    };
    assert!(changed(|records| records[0].value = Bytes::from_static(b"1")).is_err());
    assert!(changed(|records| records[0].key = Bytes::from_static(b"\xef\xbb\xbfa")).is_err());
    assert!(changed(|records| drop(records.pop())).is_err());
    assert!(changed(|records| drop(records.remove(0))).is_err());
}
