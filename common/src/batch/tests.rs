//! Goal: what is built is read back as it was; what is damaged, cut off or hostile is refused, without a panic.

use super::super::{Event, Guard, GuardCondition, Record, RecordBody, RecordSet, RecordSetBuilder, Update};
use super::*;
use proptest::prelude::*;

fn blobs(max: usize) -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..max).prop_map(Bytes::from)
}

fn guards() -> impl Strategy<Value = Guard> {
    let condition = prop_oneof![
        Just(GuardCondition::Absent),
        Just(GuardCondition::Exists),
        any::<u64>().prop_map(|offset| GuardCondition::Version(Offset::new(offset))),
    ];
    (blobs(40), condition).prop_map(|(key, condition)| Guard { key, condition })
}

fn bodies() -> impl Strategy<Value = RecordBody> {
    let updates = (blobs(40), proptest::option::of(blobs(200))).prop_map(|(key, value)| Update { key, value });
    prop_oneof![
        (proptest::collection::vec(guards(), 0..4), proptest::collection::vec(updates, 0..6))
            .prop_map(|(guards, updates)| RecordBody::Updates { guards, updates }),
        (proptest::option::of(blobs(40)), blobs(200))
            .prop_map(|(key, payload)| RecordBody::Event(Event { key, payload })),
    ]
}

fn records() -> impl Strategy<Value = Record> {
    let headers = proptest::collection::vec((blobs(10), blobs(10)), 0..3);
    (prop_oneof![Just(0u16), any::<u16>()], headers, bodies()).prop_map(|(namespace, headers, body)| Record {
        namespace,
        headers,
        body,
    })
}

fn set(base: u128, records: &[Record]) -> RecordSet {
    let mut builder = RecordSetBuilder::default();
    for (number, record) in records.iter().enumerate() {
        builder.push(RequestId::from_bits(base).plus(number as u64), record).unwrap();
    }
    builder.finish()
}

proptest! {
    #[test]
    fn a_batch_reads_as_it_was_built(
        one in proptest::collection::vec(records(), 1..6),
        two in proptest::collection::vec(records(), 1..6),
        first in 0u64..1 << 40,
    ) {
        let sets = [set(7, &one), set(1 << 90, &two)];
        for set in &sets {
            prop_assert_eq!(set.check().unwrap().len(), set.count as usize);
        }
        let built = RecordBatch::build(&sets, 99).at(Offset::new(first));
        let read = RecordBatch::parse(built.bytes().clone()).unwrap();
        prop_assert_eq!(&read, &built);
        prop_assert_eq!(read.header().end(), Offset::new(first + (one.len() + two.len()) as u64));
        prop_assert_eq!(read.header().append_time_ms, 99);
        let all: Vec<Record> = one.iter().chain(&two).cloned().collect();
        let back: Vec<(Offset, Record)> = read.records().map(|(offset, view)| (offset, view.to_record())).collect();
        prop_assert_eq!(back.len(), all.len());
        for (number, (offset, record)) in back.iter().enumerate() {
            prop_assert_eq!(*offset, Offset::new(first + number as u64));
            prop_assert_eq!(record, &all[number]);
        }
        let runs: Vec<IdRun> = read.id_runs().collect();
        prop_assert_eq!(runs.len(), 2);
        prop_assert_eq!(runs[1], IdRun { base: RequestId::from_bits(1 << 90), count: two.len() as u32 });
    }

    /// Any one changed bit is noticed, but for those of the first offset, which the frame around the batch covers.
    #[test]
    fn a_flipped_bit_is_refused(records in proptest::collection::vec(records(), 1..4), place: prop::sample::Index, bit in 0u8..8) {
        let batch = RecordBatch::build(&[set(1, &records)], 5);
        let mut bytes = batch.bytes().to_vec();
        let at = place.index(bytes.len());
        prop_assume!(!(AT_FIRST_OFFSET..AT_CRC).contains(&at));
        bytes[at] ^= 1 << bit;
        prop_assert!(RecordBatch::parse(Bytes::from(bytes)).is_err());
    }

    #[test]
    fn a_cut_off_batch_is_refused(records in proptest::collection::vec(records(), 1..4), place: prop::sample::Index) {
        let batch = RecordBatch::build(&[set(1, &records)], 5);
        let cut = batch.bytes().slice(..place.index(batch.bytes().len()));
        prop_assert!(RecordBatch::parse(cut).is_err());
    }

    /// Hostile bytes behind a valid checksum: refused or read, never a panic, and the iterators end.
    #[test]
    fn any_bytes_are_refused_or_read(mut bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = RecordBatch::parse(Bytes::from(bytes.clone()));
        let set = RecordSet { records: Bytes::from(bytes.clone()), count: 3, ids: vec![IdRun { base: RequestId::from_bits(1), count: 3 }] };
        let _ = set.check();
        if bytes.len() >= BATCH_HEADER_BYTES {
            let length = bytes.len() as u32;
            bytes[..4].copy_from_slice(&BATCH_MAGIC.to_le_bytes());
            bytes[AT_FORMAT] = BATCH_FORMAT;
            bytes[AT_FLAGS] &= BATCH_COMPACTED;
            bytes[6..8].fill(0);
            bytes[AT_LENGTH..AT_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
            bytes[AT_RESERVED..AT_RESERVED + 4].fill(0);
            bytes[AT_RECORD_COUNT..AT_RECORD_COUNT + 4].copy_from_slice(&2u32.to_le_bytes());
            bytes[AT_END_DELTA..AT_END_DELTA + 4].copy_from_slice(&2u32.to_le_bytes());
            bytes[AT_RUN_COUNT..AT_RUN_COUNT + 4].copy_from_slice(&1u32.to_le_bytes());
            let crc = checksum(&bytes);
            bytes[AT_CRC..AT_CRC + 4].copy_from_slice(&crc.to_le_bytes());
            if let Ok(batch) = RecordBatch::parse(Bytes::from(bytes)) {
                for (_, record) in batch.records() {
                    let _ = record.to_record();
                }
            }
        }
    }
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let batch = RecordBatch::build(&[set(1, &[Record::event(None, Bytes::from_static(b"x"))])], 5);
    let mut bytes = batch.bytes().to_vec();
    bytes[AT_FORMAT] = 2;
    let error = RecordBatch::parse(Bytes::from(bytes)).unwrap_err();
    assert_eq!(error, BatchError::Format { found: 2 });
    assert!(error.to_string().contains("upgrade"));
}

#[test]
fn what_is_over_a_limit_is_refused_and_leaves_the_builder_as_it_was() {
    let mut builder = RecordSetBuilder::default();
    let long = Bytes::from(vec![b'k'; crate::limits::KEY_BYTES_MAX + 1]);
    let record = Record::updates(vec![], vec![Update { key: long, value: None }]);
    assert!(matches!(
        builder.push(RequestId::from_bits(1), &record),
        Err(BatchError::TooLarge { what: "key length", .. })
    ));
    let large = Record::event(None, Bytes::from(vec![0; crate::limits::RECORD_BYTES_MAX - 10]));
    builder.push(RequestId::from_bits(1), &large).unwrap();
    assert!(matches!(
        builder.push(RequestId::from_bits(2), &large),
        Err(BatchError::TooLarge { what: "append length", .. })
    ));
    assert_eq!(builder.count(), 1);
    assert_eq!(builder.finish().check().unwrap().len(), 1);
}

/// Pinned: the bytes of one batch with every kind of part, as version 1 wrote them.
#[test]
fn the_golden_batch_never_changes() {
    let records = [
        Record::updates(
            vec![
                Guard { key: Bytes::from_static(b"a"), condition: GuardCondition::Absent },
                Guard { key: Bytes::from_static(b"b"), condition: GuardCondition::Exists },
                Guard { key: Bytes::from_static(b"c"), condition: GuardCondition::Version(Offset::new(41)) },
            ],
            vec![
                Update { key: Bytes::from_static(b"a"), value: Some(Bytes::from_static(b"one")) },
                Update { key: Bytes::from_static(b"b"), value: None },
            ],
        ),
        Record::event(None, Bytes::from_static(b"opaque")),
        Record {
            namespace: 3,
            headers: vec![(Bytes::from_static(b"trace"), Bytes::from_static(b"7"))],
            body: RecordBody::Event(Event { key: Some(Bytes::from_static(b"k")), payload: Bytes::from_static(b"v") }),
        },
    ];
    let batch = RecordBatch::build(&[set(0x0102_0304, &records)], 1_700_000_000_000).at(Offset::new(42));
    let golden: Vec<u8> = include_str!("../../fixtures/batch-v1.hex")
        .split_whitespace()
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    let written: Vec<String> = batch
        .bytes()
        .chunks(16)
        .map(|line| line.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(batch.bytes()[..], golden[..], "written now:\n{}", written.join("\n"));
    assert_eq!(RecordBatch::parse(Bytes::from(golden)).unwrap(), batch);
}
