//! The judges' own tests: histories and logs that were tampered with; each must end in the table as a violation.

use super::book::{Book, Slice};
use super::faults::Fault;
use super::report::{Column, Report, Row};
use super::workloads::Kind;
use super::workloads::tampered;
use crate::checkers::history::Counts;
use crate::checkers::log::LoggedRecord;
use bytes::Bytes;
use duramen_common::batch::Record;
use duramen_common::{HistoryId, Offset, PartitionId};

/// A log of one partition.
pub(super) fn slice(records: Vec<Record>) -> Slice {
    let mut slice = Slice::new(HistoryId::from_bits(1), vec![0]);
    for (offset, record) in (0..).zip(records) {
        slice.hashes[0].push(offset);
        let offset = Offset::new(offset);
        slice.log.push(PartitionId::new(0), LoggedRecord { offset, record, is_settled: false });
    }
    slice
}

/// Goal: whatever is wrong with a workload's history is a violation in its cell, and in the total. Method: a good history,
/// and each way of tampering with it.
#[test]
fn a_tampered_history_is_a_violation_in_the_table() {
    for kind in Kind::ALL {
        let cases = tampered::cases(kind);
        assert!(cases.len() > 1, "{kind} has nothing to tamper with");
        for (name, is_good, violations) in cases {
            let mut report = Report::new(String::new());
            let (row, column) = (Row::Fault(Fault::Kill), Column::Workload(kind));
            report.count(row, column, Counts { ok: 7, failed: 2, unknown: 1 });
            report.object(row, column, violations);
            let found = report.cell(row, column).violations;
            assert_eq!(found == 0, is_good, "{kind}, {name}: {:?}", report.violations);
            assert_eq!(report.total().violations, found);
            let line = format!("{:>10} {:>9} {:>8} {:>8} {found:>10}", 10, 7, 2, 1);
            assert!(report.to_string().contains(&line), "{report}");
        }
    }
}

/// Goal: what a log node gives is the record that was appended, and is folded.
#[test]
fn the_book_reads_what_log_nodes_give() {
    let mut book = Book::new(HistoryId::from_bits(0x00c7_f3a1), 1);
    let mut slice = book.slice();
    let lines = [
        r#""updates":[{"key":"a","value":"1"},{"key":"b","value":"1"}]"#,
        r#""updates":[{"key":"a","value":"2"}],"guards":[{"key":"a","version":null}]"#,
        r#""updates":[{"key":"a","value":"3"}],"guards":[{"key":"a","version":"c7f3a1.0:0"}]"#,
        r#""updates":[{"key":"a","value":"4"}],"guards":[{"key":"a","version":"c7f3a1.0:0"}]"#,
        r#""updates":[{"key":"b","delete":true}],"guards":[{"key":"b","version":"*"}]"#,
        r#""event":"e","key":"k""#,
    ];
    for (offset, line) in (0..).zip(lines) {
        let line = format!(r#"{{"timestamp":"c7f3a1.0:{offset}","time_ms":1,{line}}}"#);
        book.take(0, offset, &line, &mut slice).unwrap();
    }
    for line in [r#"{"timestamp":"c7f3a1.0:8","event":"e"}"#, r#"{"timestamp":"c7f3a1.0:6"}"#, "{", r#"{"event":"e"}"#]
    {
        assert!(book.take(0, 6, line, &mut slice).is_err(), "{line}");
    }
    let live: Vec<_> = book.live().map(|(key, (version, value))| (&key[..], version.get(), &value[..])).collect();
    assert_eq!(live, [(b"a".as_slice(), 2, b"3".as_slice())]);
    assert_eq!((book.ends(), book.records()), (vec![6], 6));
    assert_eq!(slice.last_value(b"a"), Some(Bytes::from_static(b"3")));
    assert_eq!((slice.last_value(b"b"), slice.last_value(b"c")), (None, None));
    assert_eq!(book.slice().begins, [6]);
}
