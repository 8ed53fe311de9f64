//! Reading: from the tail cache and from files, by index and by offset, across truncations.

use super::*;
use crate::disk::Disk as _;
use duramen_common::ids::Offset;

/// A log over many segments with a small cache, so that most is read from files.
fn long_log(disk: &MemDisk) -> (Store, PartitionLog) {
    let config = StoreConfig { cache_bytes_partition_max: 2000, ..config() };
    let (store, log) = open_with(disk, config, 0).unwrap();
    for index in 0..200 {
        append(&log, vec![entry(1 + index / 50, index, (index % 4) as u32)]);
        if index % 7 == 0 {
            store.step();
        }
    }
    store.step();
    assert!(segments(disk).len() > 5);
    (store, log)
}

#[test]
fn entries_are_read_by_index_with_a_cap_that_never_gives_none() {
    let disk = MemDisk::new();
    let (_store, log) = long_log(&disk);
    assert_eq!(all(&log).len(), 200);
    for start in 0..200 {
        let one = log.read_entries(start, 200, 0).unwrap();
        let expected: Vec<u64> = (start..200)
            .take_while(|&index| index == start || index % 4 == 0 && one.len() > (index - start) as usize)
            .collect();
        assert!(!one.is_empty() && one[0].id.index == start, "{expected:?}");
        assert_eq!(names(&log.read_entries(start, start + 3, usize::MAX).unwrap()).len() as u64, 3.min(200 - start));
    }
    assert!(log.read_entries(200, 300, 10).unwrap().is_empty());
}

#[test]
fn batches_are_read_by_offset_from_files_and_memory_alike() {
    let disk = MemDisk::new();
    let (_store, log) = long_log(&disk);
    let end = log.ends().append_end;
    for from in 0..end.get() {
        let mut next = Offset::new(from);
        let found = log.read_from(next, end, 0).unwrap();
        assert_eq!(found.len(), 1, "one batch even with no room");
        for (id, bytes) in log.read_from(next, end, usize::MAX).unwrap() {
            let batch = RecordBatch::parse(bytes).unwrap();
            let header = batch.header();
            assert!(header.first_offset <= next && next < header.end());
            next = header.end();
            assert_eq!(log.offset_of_index(id.index).unwrap(), Some((header.first_offset, header.end_delta)));
            assert_eq!(log.batch_id_ending_at(next).unwrap(), Some(id));
        }
        assert_eq!(next, end);
    }
    assert_eq!(log.batch_id_ending_at(Offset::new(2)).unwrap(), None, "inside a batch");
    let limited = log.read_from(Offset::ZERO, Offset::new(1), usize::MAX).unwrap();
    assert_eq!(limited.len(), 1, "nothing at or past the end asked for");
}

/// Goal: a truncation far back, over several segments, leaves the right entries readable, live and after reopening.
#[test]
fn truncations_over_segments_are_in_force_at_once_and_after_reopening() {
    let disk = MemDisk::new();
    let (store, log) = long_log(&disk);
    log.truncate_after(Some(EntryId { term: 1, index: 19 })).unwrap();
    append(&log, (20..90).map(|index| entry(7, index, 1)).collect());
    let before = all(&log);
    store.step();
    log.truncate_after(Some(EntryId { term: 7, index: 40 })).unwrap();
    append(&log, (41..45).map(|index| entry(8, index, 1)).collect());
    store.step();
    let live = all(&log);
    assert_eq!(before.len(), 90);
    let expected: Vec<(u64, u64)> =
        (0..20).map(|i| (1, i)).chain((20..41).map(|i| (7, i))).chain((41..45).map(|i| (8, i))).collect();
    assert_eq!(names(&live), expected);
    store.close();
    drop((store, log));
    let (_store, log) = open(&disk).unwrap();
    assert_eq!(all(&log), live);
    let offsets: u64 = live.iter().map(|entry| entry.body.offset_count()).sum();
    assert_eq!(log.ends().append_end.get(), offsets);
    let batches = log.read_from(Offset::ZERO, log.ends().append_end, usize::MAX).unwrap();
    assert_eq!(
        batches.iter().map(|(id, _)| id.index).collect::<Vec<_>>(),
        live.iter().filter(|entry| entry.body.offset_count() > 0).map(|entry| entry.id.index).collect::<Vec<_>>()
    );
}

/// Goal: the published committed end never passes what is durable here, and follows it.
#[test]
fn the_committed_end_is_published_only_up_to_what_is_durable() {
    let disk = MemDisk::new();
    let (store, log) = open(&disk).unwrap();
    let committed = log.watch_committed_end();
    append(&log, vec![entry(1, 0, 3)]);
    log.advance_committed(EntryId { term: 1, index: 0 }, Offset::new(3), None);
    assert_eq!(committed.borrow().get(), 0);
    store.step();
    assert_eq!(committed.borrow().get(), 3);
    assert_eq!(log.ends().committed_end.get(), 3);
}

/// Goal: damage in an older segment, met when it is read, is refused and never served.
#[test]
fn damage_met_while_reading_is_refused() {
    let disk = MemDisk::new();
    let (_store, log) = long_log(&disk);
    let path = segments(&disk).remove(2);
    let middle = disk.bytes(&path).len() as u64 / 2;
    disk.flip(&path, middle, 1);
    let error = log.read_entries(0, u64::MAX, usize::MAX).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { file, .. } if file == path));
}

/// Goal: damage in an older segment, met by a reader, is found again at the next start and repaired before the log opens;
/// then the partition is trusted again. Method: three bits of one byte, which no checksum gives back by itself.
#[test]
fn damage_met_while_reading_is_repaired_at_the_next_start() {
    let disk = MemDisk::new();
    let (store, log) = long_log(&disk);
    // Committed, so that the duplicate table needs only the last of it at the start.
    log.advance_committed(EntryId { term: 4, index: 199 }, log.ends().append_end, None);
    store.step_idle();
    let whole = log.read_entries(0, u64::MAX, usize::MAX).unwrap();
    let path = segments(&disk).remove(2);
    let middle = disk.bytes(&path).len() as u64 / 2;
    disk.flip(&path, middle, 0b0101_0001);
    let Err(StoreError::Corrupt { index, .. }) = log.read_entries(0, u64::MAX, usize::MAX) else { panic!("served") };
    store.close();
    drop((store, log));

    let store = unopened(&disk).unwrap();
    assert!(matches!(store.open_partition(PARTITION), Err(StoreError::Corrupt { file, .. }) if file == path));
    let from = whole.iter().position(|entry| entry.id.index == index).unwrap();
    assert!(matches!(store.repair(PARTITION, &whole[from..]), Ok(super::super::Repair::Whole)));
    let log = store.open_partition(PARTITION).unwrap();
    assert_eq!(log.read_entries(0, u64::MAX, usize::MAX).unwrap(), whole);
    assert!(!disk.list(path.parent().unwrap()).unwrap().iter().any(|name| name == super::super::suspect::SUSPECT));
}

/// Goal: many restarts without entries leave no files behind.
#[test]
fn restarts_without_entries_leave_no_files() {
    let disk = MemDisk::new();
    for _ in 0..10 {
        let (store, log) = open(&disk).unwrap();
        store.close();
        drop((store, log));
    }
    assert_eq!(segments(&disk).len(), 1);
}
