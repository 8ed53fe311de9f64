//! The duplicate table.

use super::*;
use crate::store::IdCheck;
use duramen_common::batch::{IdRun, RecordSet};
use duramen_common::ids::Offset;

/// The set that [`batch`] was built of.
fn set(id: u128, count: u32) -> RecordSet {
    let mut builder = RecordSetBuilder::default();
    for (number, (_, record)) in batch(id, count, 24).records().enumerate() {
        builder.push(RequestId::from_bits(id).plus(number as u64), &record.to_record()).unwrap();
    }
    builder.finish()
}

fn check(log: &PartitionLog, set: &RecordSet) -> Vec<IdCheck> {
    log.check_ids(&set.ids, &set.check().unwrap())
}

fn with_batch(index: u64, id: u128, count: u32) -> LogEntry {
    LogEntry { id: EntryId { term: 1, index }, body: EntryBody::Batch(batch(id, count, 24)) }
}

/// Goal: each record of a retry is found, however the runs lie over those of the first time.
#[test]
fn a_retry_that_was_coalesced_differently_is_found_record_by_record() {
    let disk = MemDisk::new();
    let (_store, log) = open(&disk).unwrap();
    append(&log, vec![with_batch(0, 100, 3), with_batch(1, 200, 1), with_batch(2, 103, 2)]);
    let repeat = |offset| IdCheck::Repeat { offset: Offset::new(offset) };
    assert_eq!(check(&log, &set(101, 3)), [repeat(1), repeat(2), repeat(4)]);
    assert_eq!(check(&log, &set(104, 2)), [repeat(5), IdCheck::New]);
    assert_eq!(check(&log, &set(99, 2)), [IdCheck::New, repeat(0)]);
    assert_eq!(check(&log, &set(200, 1)), [repeat(3)]);
    let reused = log.check_ids(&[IdRun { base: RequestId::from_bits(100), count: 1 }], &[1]);
    assert_eq!(reused, [IdCheck::Reused]);
}

/// Goal: the table is a function of the log and the committed end: truncated, reopened or live, it answers the same.
#[test]
fn the_table_is_the_same_after_truncation_and_reopening() {
    let disk = MemDisk::new();
    let (store, log) = open(&disk).unwrap();
    for index in 0..30u64 {
        append(&log, vec![with_batch(index, u128::from(index) * 10, 3)]);
    }
    log.truncate_after(Some(EntryId { term: 1, index: 24 })).unwrap();
    assert_eq!(check(&log, &set(250, 1)), [IdCheck::New]);
    for index in 25..28u64 {
        append(&log, vec![with_batch(index, u128::from(index) * 1000, 3)]);
    }
    store.step();
    log.advance_committed(EntryId { term: 1, index: 25 }, Offset::new(78), None);
    assert_eq!(log.ends().committed_end.get(), 78);
    let live = log.shared.inner.lock().dedup.contents();
    assert_eq!(live.first().map(|slot| slot.1.get() >= 14), Some(true), "W is 64: below 14 is evicted");
    store.close();
    drop((store, log));
    let (_store, log) = open(&disk).unwrap();
    assert_eq!(log.shared.inner.lock().dedup.contents(), live);
    assert_eq!(check(&log, &set(25_000, 1)), [IdCheck::Repeat { offset: Offset::new(75) }]);
    assert_eq!(check(&log, &set(0, 1)), [IdCheck::New], "out of the window");
}
