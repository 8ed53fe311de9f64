//! Goal: files are read as their formats say, from any position that a load may have stopped at.

use super::*;
use crate::load::shape::ShapeArgs;
use proptest::prelude::*;
use std::io::Cursor;
use std::path::Path;

fn shape(change: impl FnOnce(&mut ShapeArgs)) -> Shape {
    let mut args = ShapeArgs::default();
    change(&mut args);
    args.resolve(Path::new("file.csv")).unwrap()
}

fn read(text: &[u8], shape: &Shape) -> Result<Vec<(String, String)>, SourceError> {
    let mut source = Source::open(Cursor::new(text), shape)?;
    let mut records = Vec::new();
    while let Some(record) = source.next_record()? {
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        records.push((text(&record.key), text(&record.value)));
    }
    Ok(records)
}

/// Line, column and message.
#[track_caller]
fn refusal(text: &[u8], shape: &Shape) -> ((u64, u64), String) {
    match read(text, shape) {
        Err(SourceError::Malformed { line, column, what }) => ((line, column), what),
        other => panic!("{:?} gave {other:?}", String::from_utf8_lossy(text)),
    }
}

fn pairs(wanted: &[(&str, &str)]) -> Vec<(String, String)> {
    wanted.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn csv_is_read_as_rfc_4180_says() {
    let text = b"aaa,bbb\r\n\"a,1\",\"b \"\"q\"\" b\"\r\n\r\n\"x\r\ny\",\"\"\nplain 5\" disk,v\nlast,line";
    let wanted = [("aaa", "bbb"), ("a,1", "b \"q\" b"), ("x\r\ny", ""), ("plain 5\" disk", "v"), ("last", "line")];
    assert_eq!(read(text, &shape(|_| ())).unwrap(), pairs(&wanted));
}

#[test]
fn columns_can_be_named_by_a_header() {
    let text = "\u{feff}company,ceo,year\nmicrosoft,Satya Nadella,2014\n".as_bytes();
    let shape = shape(|args| {
        args.header = true;
        args.key_column = Some("company".into());
        args.value_column = Some("year".into());
    });
    assert_eq!(read(text, &shape).unwrap(), pairs(&[("microsoft", "2014")]));
}

/// Goal: Debian's UnicodeData.txt loads as it is: code point → whole record.
#[test]
fn a_delimited_record_can_be_its_own_value() {
    let text = b"0041;LATIN CAPITAL LETTER A;Lu\n0022;QUOTATION \"MARK;Po\n";
    let with = |value| {
        let shape = shape(|args| {
            args.format = Some(Format::Delimited);
            args.value = Some(value);
        });
        read(text, &shape).unwrap()
    };
    assert_eq!(
        with(ValueFrom::Record),
        pairs(&[("0041", "0041;LATIN CAPITAL LETTER A;Lu"), ("0022", "0022;QUOTATION \"MARK;Po")])
    );
    assert_eq!(with(ValueFrom::Rest), pairs(&[("0041", "LATIN CAPITAL LETTER A;Lu"), ("0022", "QUOTATION \"MARK;Po")]));
}

#[test]
fn the_rest_of_a_csv_record_begins_behind_a_quoted_key() {
    let shape = shape(|args| args.value = Some(ValueFrom::Rest));
    let text = b"\"a,\"\"b\",c,\"d\"\nonly\n";
    assert_eq!(read(text, &shape).unwrap(), pairs(&[("a,\"b", "c,\"d\""), ("only", "")]));
}

/// Goal: a word list loads as it is: word → line number, where blank lines count as lines but not as records.
#[test]
fn a_line_can_have_its_number_as_value() {
    let shape = shape(|args| args.format = Some(Format::Lines));
    assert_eq!(
        read("A\n\nétude's\nzz".as_bytes(), &shape).unwrap(),
        pairs(&[("A", "1"), ("étude's", "3"), ("zz", "4")])
    );
}

#[test]
fn ndjson_takes_text_and_base64() {
    let shape = shape(|args| args.format = Some(Format::Ndjson));
    let text = br#"{"key":"a","value":{"base64":"Yg=="}}
{"key":{"base64":"Yw=="},"value":"d","version":"c7f3a1.0:1"}
"#;
    assert_eq!(read(text, &shape).unwrap(), pairs(&[("a", "b"), ("c", "d")]));
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    let malformed = |text: &[u8], shape: &Shape, line: u64| {
        assert_eq!(refusal(text, shape).0.0, line, "{text:?}");
    };
    malformed(b"a,b\nc\n", &shape(|_| ()), 2);
    malformed(b"a,b\n,c\n", &shape(|_| ()), 2);
    malformed(b"a,b\n\"c,d\ne,f\n", &shape(|_| ()), 2);
    malformed(b"a,b\n\"c", &shape(|_| ()), 2);
    malformed(b"{\"key\":\"a\"}\n", &shape(|args| args.format = Some(Format::Ndjson)), 1);
    malformed(&[b'x'; KEY_BYTES_MAX + 1], &shape(|args| args.format = Some(Format::Lines)), 1);
    malformed(&vec![b'x'; RECORD_BYTES_MAX + 1], &shape(|args| args.format = Some(Format::Lines)), 1);
    let named = shape(|args| {
        args.header = true;
        args.key_column = Some("nobody".into());
    });
    malformed(b"a,b\n", &named, 1);
}

/// Goal: what every format does with what real files have: a byte order mark, line ends of every kind, NUL, bytes that
/// are not UTF-8, no end of the last line. Kept, or refused at line and column; never lost.
#[test]
fn what_is_in_a_file_is_read_or_refused_at_its_place() {
    let of = |format| shape(|args| args.format = Some(format));
    let (csv, lines, delimited, ndjson) =
        (of(Format::Csv), of(Format::Lines), of(Format::Delimited), of(Format::Ndjson));
    let raw = |text: &[u8], shape: &Shape| {
        let record = Source::open(Cursor::new(text), shape).unwrap().next_record().unwrap().unwrap();
        (record.key.to_vec(), record.value.to_vec())
    };
    // A byte order mark is not text, also before a quote that spans lines.
    assert_eq!(raw(b"\xef\xbb\xbfa,1\n", &csv), (b"a".to_vec(), b"1".to_vec()));
    assert_eq!(raw(b"\xef\xbb\xbf\"two\nlines\",1\n", &csv), (b"two\nlines".to_vec(), b"1".to_vec()));
    assert_eq!(raw(b"\xef\xbb\xbfa\r\n", &lines), (b"a".to_vec(), b"1".to_vec()));
    assert_eq!(raw(b"\xef\xbb\xbfa;1", &delimited), (b"a".to_vec(), b"1".to_vec()));
    assert_eq!(raw(b"\xef\xbb\xbf{\"key\":\"a\",\"value\":\"1\"}\r\n", &ndjson), (b"a".to_vec(), b"1".to_vec()));
    for shape in [&csv, &lines, &delimited, &ndjson] {
        assert!(refusal(b"\xff\xfea\0\n\0", shape).1.contains("UTF-16"));
    }
    // NUL and other bytes are kept where the format is bytes.
    assert_eq!(raw(b"\xfe\0,\xff\0\x80", &csv), (b"\xfe\0".to_vec(), b"\xff\0\x80".to_vec()));
    assert_eq!(raw(b"\xfe\0;\xff\0", &delimited), (b"\xfe\0".to_vec(), b"\xff\0".to_vec()));
    assert_eq!(raw(b"\xfe\0\xff\n", &lines).0, b"\xfe\0\xff");
    assert_eq!(refusal(b"{\"key\":\"a\",\"value\":\"1\"}\n{\"key\":\"\xff\",\"value\":\"1\"}\n", &ndjson).0, (2, 9));
    assert_eq!(refusal(b"{\"key\":\"a\0\",\"value\":\"1\"}\n", &ndjson).0.0, 1);
    // A carriage return is text inside quotes, and refused elsewhere.
    assert_eq!(raw(b"a,\"x\ry\r\nz\"\r\n", &csv).1, b"x\ry\r\nz");
    for (text, shape, place) in [
        (&b"ok,1\nnote1,hello\rworld\nnote2,ok\n"[..], &csv, (2, 12)),
        (b"r1,a\rr2,b\rr3,c\r", &csv, (1, 5)),
        (b"\"a\"\r,b\n", &csv, (1, 4)),
        (b"x,y\n\"two\nlines\",b\rc\n", &csv, (3, 9)),
        (b"a\rb\r", &lines, (1, 2)),
        (b"a;x\n\nb;c\r\r\n", &delimited, (3, 4)),
        (b"a,1\r", &csv, (1, 4)),
        (b"{\"key\":\"a\",\"value\":\"1\"}\r{\"key\":\"b\",\"value\":\"2\"}\r", &ndjson, (1, 25)),
    ] {
        let (told, what) = refusal(text, shape);
        assert_eq!(told, place, "{:?}: {what}", String::from_utf8_lossy(text));
    }
}

/// Goal: a delimiter that nobody quoted does not cut a value, and a column's name means one column.
#[test]
fn uneven_records_and_headers_with_two_meanings_are_refused() {
    let csv = shape(|_| ());
    assert_eq!(refusal(b"a,1\nb,1,5\n", &csv).0, (2, 5));
    assert_eq!(refusal(b"a,1,x\nb,1\n", &csv).0, (2, 4));
    assert_eq!(refusal(b"a,\"1\"x\n", &csv).0, (1, 6));
    assert_eq!(refusal(b"a,b\n\nc,\"d\ne,f\n", &csv).0, (3, 3));
    let named = shape(|args| {
        args.header = true;
        args.value_column = Some("v".into());
    });
    assert_eq!(refusal(b"id,v,v\n1,a,b\n", &named).0, (1, 6));
    assert_eq!(refusal(b"id,v\n1,a,b\n", &named).0, (2, 5));
    // With the whole record as value nothing is cut.
    let whole = shape(|args| args.value = Some(ValueFrom::Record));
    assert_eq!(read(b"a,1\nb,1,5\n", &whole).unwrap(), pairs(&[("a", "a,1"), ("b", "b,1,5")]));
}

/// Goal: NDJSON is one object a line, of which nothing is ignored.
#[test]
fn json_that_is_not_a_key_and_a_value_is_refused() {
    let ndjson = shape(|args| args.format = Some(Format::Ndjson));
    for text in [
        "[\"a\",\"b\"]",
        "{\"key\":\"a\",\"value\":\"b\",\"ttl\":5}",
        "{\"key\":\"a\",\"key\":\"b\",\"value\":\"c\"}",
        "{\"key\":\"a\",\"value\":null}",
        "{\"key\":\"a\",\"value\":\"b\"} {\"key\":\"c\",\"value\":\"d\"}",
        "{\"key\":\"\\ud800\",\"value\":\"b\"}",
    ] {
        assert_eq!(refusal(format!("\n{text}\n").as_bytes(), &ndjson).0.0, 2, "{text}");
    }
}

/// Goal: a load does not go on in a file that was edited before the place, however long it is; what comes after may differ.
#[test]
fn a_file_that_changed_before_the_place_is_not_read_on() {
    let csv = shape(|_| ());
    let place = {
        let mut source = Source::open(Cursor::new(b"a,1\nb,2\nc,3\n"), &csv).unwrap();
        source.next_record().unwrap();
        source.next_record().unwrap().unwrap().end
    };
    let skip = |text: &[u8]| Source::open(Cursor::new(text.to_vec()), &csv).unwrap().skip_to(place);
    assert!(skip(b"a,1\nb,2\nsomething,else\n").is_ok());
    for edited in [&b"a,1\nb,3\nc,3\n"[..], b"a,1\n\nb,2\n", b"a,1\n", b"", b"a,1,2\nbc\n", b"a,1\nb,2 "] {
        assert!(matches!(skip(edited), Err(SourceError::Changed { line: 2 })), "{edited:?}");
    }
}

proptest! {
    /// Goal: any CSV that the csv crate writes is read back by our framing. Method: fields with quotes, delimiters and
    /// line breaks; our reader against what was written.
    #[test]
    fn what_a_csv_writer_writes_is_read_back(
        records in proptest::collection::vec(("[a-c\",\r\n]{1,6}", "[a-c\",\r\n]{0,6}"), 0..20)
    ) {
        let mut writer = csv::Writer::from_writer(Vec::new());
        for (key, value) in &records {
            writer.write_record([key, value]).unwrap();
        }
        let text = writer.into_inner().unwrap();
        prop_assert_eq!(read(&text, &shape(|_| ())).unwrap(), records);
    }

    /// Goal: reading on from the place behind any record gives exactly what would have followed.
    #[test]
    fn reading_goes_on_where_it_stopped(
        text in proptest::collection::vec(prop_oneof!["[a-z]{1,5},[a-z]{0,5}\r?\n", "\"[a-z\n,]{1,5}\",x\n", "\n"], 0..20),
        at in any::<proptest::sample::Index>(),
    ) {
        let text = text.concat().into_bytes();
        let shape = shape(|args| args.value = Some(ValueFrom::LineNumber));
        let all = |mut source: Source<Cursor<&[u8]>>| {
            let mut records = Vec::new();
            while let Some(record) = source.next_record().unwrap() {
                records.push(record);
            }
            records
        };
        let whole = all(Source::open(Cursor::new(text.as_slice()), &shape).unwrap());
        prop_assume!(!whole.is_empty());
        let stopped = at.index(whole.len());
        let mut resumed = Source::open(Cursor::new(text.as_slice()), &shape).unwrap();
        resumed.skip_to(whole[stopped].end).unwrap();
        prop_assert_eq!(all(resumed), &whole[stopped + 1..]);
    }
}
