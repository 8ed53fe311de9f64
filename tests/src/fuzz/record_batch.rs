//! Record batches: any bytes are refused, or are a batch whose every part reads and is written again as it was.
//!
//! * Each input is tried as it is, with the checksum that it should have, and as the records of an append, where no checksum
//!   stands in the way.
//! * Source: docs/formats.md "Record batch", "Record".

use super::Target;
use bytes::Bytes;
use duramen_common::batch::{
    BATCH_HEADER_BYTES, BatchError, Event, Guard, GuardCondition, IdRun, Record, RecordBatch, RecordBody, RecordSet,
    RecordSetBuilder, RecordView, Update,
};
use duramen_common::{Offset, RequestId};

/// The target.
pub const TARGET: Target =
    Target { name: "record_batch", run, seeds, nasty, words: &["DRB1"], inputs: 1_000_000, heap_bytes_max: 64 * 1024 };

/// Where the checksum of a batch stands.
const AT_CRC: usize = 16;
/// Flags of a record's kind byte: namespace, headers, an event's key; and what tells an event.
const NAMESPACE: u8 = 1 << 5;
const HEADERS: u8 = 1 << 6;
const EVENT_KEY: u8 = 1 << 7;
const SETTLED: u8 = 1 << 4;

fn run(data: &[u8]) {
    batch(Bytes::copy_from_slice(data));
    if let Some(forged) = with_checksum(data) {
        batch(forged);
    }
    records(data);
}

/// The bytes with the checksum that they should have, where nothing else keeps them from being a batch.
pub(super) fn with_checksum(data: &[u8]) -> Option<Bytes> {
    let Err(BatchError::Checksum { computed, .. }) = RecordBatch::parse(Bytes::copy_from_slice(data)) else {
        return None;
    };
    let mut forged = data.to_vec();
    forged.get_mut(AT_CRC..AT_CRC + 4)?.copy_from_slice(&computed.to_le_bytes());
    Some(Bytes::from(forged))
}

fn batch(bytes: Bytes) {
    let Ok(batch) = RecordBatch::parse(bytes) else { return };
    let header = batch.header();
    let mut count = 0;
    for (offset, record) in batch.records() {
        assert!(offset >= header.first_offset && offset < header.end(), "record {count} is at {offset}");
        again(&record);
        count += 1;
    }
    assert_eq!(count, header.record_count);
    assert_eq!(batch.id_runs().map(|run| u64::from(run.count)).sum::<u64>(), u64::from(count));
    assert!(batch.bytes().len() >= BATCH_HEADER_BYTES);
    if header.first_offset.get().checked_add(7 + u64::from(header.end_delta)).is_some() {
        let moved = batch.clone().at(header.first_offset.plus(7));
        assert_eq!(moved.header().end(), header.end().plus(7));
        assert_eq!(RecordBatch::parse(moved.bytes().clone()).as_ref(), Ok(&moved), "the place is outside the checksum");
    }
}

/// A record, written again: the same parts, in no more bytes.
fn again(record: &RecordView<'_>) -> Option<Bytes> {
    let owned = record.to_record();
    match RecordSet::of(RequestId::from_bits(1), &owned) {
        Ok(set) => {
            let (read, rest) = RecordView::split_first(&set.records).expect("what was just written reads");
            assert!(rest.is_empty());
            assert_eq!(read.to_record(), owned);
            assert!(read.len() <= record.len(), "{} bytes became {}", record.len(), read.len());
            Some(set.records)
        }
        Err(BatchError::TooLarge { .. }) => None,
        Err(error) => panic!("a record that was read cannot be written: {error}"),
    }
}

fn records(data: &[u8]) {
    let mut count = 0;
    let mut rest = data;
    while let Ok((_, tail)) = RecordView::split_first(rest) {
        rest = tail;
        count += 1;
    }
    let set = RecordSet {
        records: Bytes::copy_from_slice(data),
        count,
        ids: vec![IdRun { base: RequestId::from_bits(1), count }],
    };
    let Ok(fingerprints) = set.check() else { return };
    assert_eq!(fingerprints.len(), count as usize);
    let mut rest = data;
    while let Ok((record, tail)) = RecordView::split_first(rest) {
        let bytes = &rest[..rest.len() - tail.len()];
        if let Some(written) = again(&record).filter(|_| is_canonical(bytes[4], &record)) {
            assert_eq!(written, bytes, "a record is not what was read");
        }
        rest = tail;
    }
    let batch = RecordBatch::build(&[set], 0);
    assert_eq!(RecordBatch::parse(batch.bytes().clone()).as_ref(), Ok(&batch));
}

/// Whether the kind byte says nothing that a writer would leave out.
fn is_canonical(kind: u8, record: &RecordView<'_>) -> bool {
    let is_namespace_idle = kind & NAMESPACE != 0 && record.namespace() == 0;
    let is_headers_idle = kind & HEADERS != 0 && record.headers().next().is_none();
    let is_key_idle = kind & EVENT_KEY != 0 && !record.is_event();
    kind & SETTLED == 0 && !is_namespace_idle && !is_headers_idle && !is_key_idle
}

/// Every kind of part.
fn parts() -> Vec<Record> {
    let bytes = Bytes::from_static;
    let guard = |key, condition| Guard { key: bytes(key), condition };
    vec![
        Record::updates(
            vec![
                guard(b"a", GuardCondition::Absent),
                guard(b"b", GuardCondition::Exists),
                guard(b"c", GuardCondition::Version(Offset::new(41))),
            ],
            vec![Update { key: bytes(b"a"), value: Some(bytes(b"one")) }, Update { key: bytes(b"b"), value: None }],
        ),
        Record::event(None, bytes(b"opaque")),
        Record {
            namespace: 3,
            headers: vec![(bytes(b"trace"), bytes(b"7")), (bytes(b""), bytes(b""))],
            body: RecordBody::Event(Event { key: Some(bytes(b"k")), payload: bytes(b"v") }),
        },
        Record::updates(Vec::new(), Vec::new()),
    ]
}

fn set_of(records: &[Record]) -> RecordSet {
    let mut builder = RecordSetBuilder::default();
    for (number, record) in records.iter().enumerate() {
        builder.push(RequestId::from_bits(7 + 3 * (number as u128 / 2)), record).expect("a small record");
    }
    builder.finish()
}

fn seeds() -> Vec<Vec<u8>> {
    let all = set_of(&parts());
    let mut seeds =
        vec![Vec::new(), all.records.to_vec(), RecordBatch::build(&[all], 1_700_000_000_000).bytes().to_vec()];
    for record in parts() {
        let set = set_of(&[record]);
        seeds.push(set.records.to_vec());
        seeds.push(RecordBatch::build(&[set], 0).at(Offset::new(1_042)).bytes().to_vec());
    }
    seeds.push(compacted().to_vec());
    seeds
}

/// A batch of which compaction has left the second and the last record of four, settled.
fn compacted() -> Bytes {
    let set = set_of(&parts()[1..3]);
    let batch = RecordBatch::build(&[set], 0);
    let runs = batch.id_runs().count() * 20;
    let mut bytes = batch.bytes().to_vec();
    bytes[5] = 1;
    let deltas = [1u32, 3].map(u32::to_le_bytes).concat();
    let at = BATCH_HEADER_BYTES + runs;
    bytes.splice(at..at, deltas);
    let length = bytes.len() as u32;
    bytes[20..24].copy_from_slice(&length.to_le_bytes());
    bytes[28..32].copy_from_slice(&4u32.to_le_bytes());
    with_checksum(&bytes).expect("nothing but the checksum is wrong")
}

fn nasty() -> Vec<(&'static str, Vec<u8>)> {
    let whole = RecordBatch::build(&[set_of(&parts())], 0).bytes().to_vec();
    let at = |at: usize, with: &[u8]| {
        let mut bytes = whole.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        bytes
    };
    // Length of what follows, an event with headers: one piece of three bytes, and none to go with it.
    let odd_headers = |pieces: usize| {
        let headers = [3, 0, 0, 0, b'a', b'b', b'c'].repeat(pieces);
        let mut record = vec![2 | HEADERS];
        record.extend_from_slice(&(headers.len() as u32).to_le_bytes());
        record.extend_from_slice(&headers);
        let mut bytes = (record.len() as u32).to_le_bytes().to_vec();
        bytes.extend_from_slice(&record);
        bytes
    };
    vec![
        ("a record of no bytes", vec![0; 4]),
        ("a record longer than all there is", vec![0xff; 5]),
        ("the length claims more", at(20, &u32::MAX.to_le_bytes())),
        ("as many records as a number can count", at(24, &[0xff; 8])),
        ("as many ids as a number can count", at(40, &[0xff; 4])),
        ("offsets at the end of all numbers", at(8, &[0xff; 8])),
        ("a run of no ids", at(BATCH_HEADER_BYTES + 16, &[0; 4])),
        ("a run of all ids", at(BATCH_HEADER_BYTES + 16, &[0xff; 4])),
        ("found by reading: a header's name without its value", odd_headers(1)),
        ("found by reading: the last header's name without its value", odd_headers(3)),
        ("updates that claim 65,535 guards", vec![5, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]),
    ]
}
