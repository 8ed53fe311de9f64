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
    let malformed = |text: &[u8], shape: &Shape, line: u64| match read(text, shape) {
        Err(SourceError::Malformed { line: told, .. }) => assert_eq!(told, line, "{text:?}"),
        other => panic!("{text:?} gave {other:?}"),
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
        resumed.go_to(whole[stopped].end).unwrap();
        prop_assert_eq!(all(resumed), &whole[stopped + 1..]);
    }
}
