//! A disk that is really full: the operating system refuses, whatever was asked before.

use super::*;
use crate::store::reserve::RESERVE_FILE;
use crate::store::{CONTROL_SHARE, StoredVote};

const RESERVE: u64 = 512 * 1024;

fn small() -> StoreConfig {
    StoreConfig { reserve_bytes: RESERVE, ..config() }
}

fn reserve_bytes(disk: &MemDisk) -> u64 {
    disk.bytes(&Path::new("/data").join(RESERVE_FILE)).len() as u64
}

/// Others take everything that is free.
fn fill(disk: &MemDisk) {
    disk.set_quota(Some(disk.used_bytes()));
}

/// Others also take what the store gives back.
fn fill_for_good(disk: &MemDisk) {
    disk.set_quota(Some(1));
}

fn vote(term: u64) -> StoredVote {
    StoredVote { term, node: 1, committed: false }
}

/// Goal: votes, blank entries and new segments go on for very long on a full disk, however the elections loop; and how many bytes one
/// leader change takes is known. Method: nothing is free but the reserve's file; elections, each with two votes, a blank entry and a
/// mark, until half of it is used.
#[test]
fn the_reserve_is_enough_for_thousands_of_elections() {
    let disk = MemDisk::new();
    let (store, log) = open_with(&disk, small(), 0).unwrap();
    assert_eq!(reserve_bytes(&disk), RESERVE / CONTROL_SHARE);
    fill(&disk);
    assert!(!store.has_room(Need::New) && !store.has_room(Need::InFlight));
    assert!(store.has_room(Need::Admitted), "half of the file is for what later entries can only follow");
    let mut elections = 0;
    while reserve_bytes(&disk) > RESERVE / CONTROL_SHARE / 2 {
        let term = elections + 1;
        block(&store, log.save_vote(vote(term))).unwrap();
        block(&store, log.save_vote(StoredVote { committed: true, ..vote(term) })).unwrap();
        append(&log, vec![entry(term, elections, 0)]);
        store.step();
        log.advance_committed(EntryId { term, index: elections }, log.ends().append_end, None);
        store.step_idle();
        elections += 1;
        assert!(elections < 100_000, "the disk never fills up");
    }
    assert!(!store.has_room(Need::Admitted), "the other half is not");
    let bytes = RESERVE / CONTROL_SHARE / 2 / elections;
    assert!((1..=1024).contains(&bytes), "{bytes} bytes per election, {elections} elections");
    assert!(store.poisoned().is_none() && store.waiting_for_space() == 0);
    drop((store, log));
    disk.kill();
    let (_store, log) = open_with(&disk, small(), 1).unwrap();
    assert_eq!(all(&log).len() as u64, elections, "all of it is there after a restart on the full disk");
}

/// Goal: what was admitted before the disk was full is written from the reserve, over rolls; the reserve grows again when there is
/// space, and until then no new records are admitted. Method: batches for several segments, on a disk with nothing free.
#[test]
fn what_was_admitted_is_written_from_the_reserve() {
    let disk = MemDisk::new();
    let (store, log) = open_with(&disk, small(), 0).unwrap();
    fill(&disk);
    for index in 0..60 {
        append(&log, vec![entry(1, index, 4)]);
    }
    store.step();
    assert_eq!(log.ends().durable_end, log.ends().append_end);
    assert!(segments(&disk).len() > 2, "it has rolled");
    assert!(reserve_bytes(&disk) < RESERVE / CONTROL_SHARE);
    disk.set_quota(Some(disk.used_bytes() + RESERVE / 2));
    store.step_idle();
    assert!(!store.has_room(Need::New), "the reserve is not whole");
    disk.set_quota(None);
    store.step_idle();
    assert_eq!(reserve_bytes(&disk), RESERVE / CONTROL_SHARE);
    assert!(store.has_room(Need::New));
}

/// Goal: an allocation that found no space has made its segment longer all the same, and the log is whole after the next start.
/// Method: frames of many sizes, each in a segment of its own, so that what is taken ahead often does not fit while the frame does.
#[test]
fn a_failed_allocation_leaves_no_segment_longer_than_its_end() {
    let disk = MemDisk::new();
    let (store, log) = open_with(&disk, small(), 0).unwrap();
    fill(&disk);
    for index in 0..20 {
        let body = EntryBody::Batch(batch(u128::from(index) << 16, 1, 2_000 + index as usize * 700 % 4_000));
        append(&log, vec![LogEntry { id: EntryId { term: 1, index }, body }]);
        store.step();
    }
    let entries = all(&log);
    assert!(store.poisoned().is_none() && store.waiting_for_space() == 0);
    assert!(segments(&disk).len() >= 20, "it has rolled");
    drop((store, log));
    disk.kill();
    let (_store, log) = open_with(&disk, small(), 1).unwrap();
    assert!(all(&log) == entries && entries.len() == 20);
}

/// Goal: zeros after the end of a closed segment, which an earlier version left there, are cut off at the start; anything else there
/// is damage. Method: both, in the first of several segments.
#[test]
fn empty_space_after_a_closed_segment_is_cut_off() {
    let disk = MemDisk::new();
    let (store, log) = open_with(&disk, config(), 0).unwrap();
    for index in 0..60 {
        append(&log, vec![entry(1, index, 4)]);
    }
    store.step();
    let entries = all(&log);
    store.close();
    drop((store, log));
    let first = segments(&disk).remove(0);
    let bytes = disk.bytes(&first);
    let longer = |extra: &[u8]| [&bytes[..], extra].concat();
    disk.put(&first, &longer(&[&[0; 99_999][..], &[1]].concat()));
    assert!(matches!(open_with(&disk, config(), 1), Err(StoreError::Corrupt { .. })));
    disk.put(&first, &longer(&[0; 100_000]));
    let (store, log) = open_with(&disk, config(), 2).unwrap();
    assert!(all(&log) == entries);
    drop((store, log));
    disk.crash(1);
    assert_eq!(disk.bytes(&first), bytes);
}

/// Goal: when even the reserve is used up, nothing is acknowledged, lost or damaged, and the store does not stop: what waits goes on
/// in order when there is space; reads and other partitions go on meanwhile. Method: a disk that refuses whatever grows, met in a
/// write and in a roll.
#[test]
fn a_store_without_any_space_waits() {
    let disk = MemDisk::new();
    let (store, log) = open_with(&disk, small(), 0).unwrap();
    let other = store.open_partition(PartitionId::new(1)).unwrap();
    append(&log, vec![entry(1, 0, 4)]);
    store.step();
    fill_for_good(&disk);
    let answers = Answers::default();
    for index in 1..80 {
        log.append(vec![entry(1, index, 4)], answers.callback(index)).unwrap();
    }
    other.append(vec![entry(1, 0, 0)], answers.callback(1_000)).unwrap();
    store.step();
    assert_eq!(store.waiting_for_space(), 1);
    assert_eq!(*answers.0.lock(), [(1_000, true)], "the other partition has space in its segment");
    log.append(vec![entry(1, 80, 0)], answers.callback(80)).unwrap();
    for _ in 0..3 {
        store.step();
        store.step_idle();
    }
    assert_eq!(answers.0.lock().len(), 1, "what comes later waits behind it");
    assert!(store.poisoned().is_none());
    assert_eq!(all(&log).len(), 81, "reads go on");
    assert_eq!(log.ends().durable_end.get(), 4);
    // A little space, several times: it goes on where it stopped.
    for _ in 0..4 {
        disk.set_quota(Some(disk.used_bytes() + 2_000));
        store.step_idle();
        store.step_idle();
    }
    disk.set_quota(None);
    store.step_idle();
    store.step();
    assert_eq!(store.waiting_for_space(), 0);
    let expected: Vec<(u64, bool)> = [1_000].into_iter().chain(1..81).map(|number| (number, true)).collect();
    assert_eq!(*answers.0.lock(), expected);
    assert_eq!(log.ends().durable_end, log.ends().append_end);
    drop((store, log, other));
    disk.crash(3);
    let (_store, log) = open_with(&disk, small(), 1).unwrap();
    assert_eq!(all(&log).len(), 81);
}

/// Goal: a sync that finds no space has lost what it should have written, so it is written again. Method: the failed sync forgets;
/// then the power is cut.
#[test]
fn what_a_sync_without_space_has_lost_is_written_again() {
    let disk = MemDisk::new();
    let (store, log) = open_with(&disk, small(), 0).unwrap();
    let answers = Answers::default();
    log.append(vec![entry(1, 0, 4)], answers.callback(0)).unwrap();
    disk.fail_next_sync_for_space();
    store.step();
    assert!(answers.0.lock().is_empty() && store.poisoned().is_none());
    store.step_idle();
    assert_eq!(*answers.0.lock(), [(0, true)]);
    drop((store, log));
    for seed in 0..20 {
        disk.crash(seed);
        let (store, log) = open_with(&disk, small(), 1 + seed).unwrap();
        assert_eq!(all(&log).len(), 1, "seed {seed}");
        drop((store, log));
    }
}

/// Goal: a node that is stopped while it waits for space stops. Method: a vote that waits; the store is told, and closed.
#[test]
fn a_store_that_waits_can_be_closed() {
    let disk = MemDisk::new();
    let (store, log) = open_with(&disk, small(), 0).unwrap();
    fill_for_good(&disk);
    let answers = Answers::default();
    for index in 0..80 {
        log.append(vec![entry(1, index, 4)], answers.callback(index)).unwrap();
    }
    store.step();
    assert_eq!(store.waiting_for_space(), 1);
    store.stop_waiting();
    store.step();
    assert!(answers.0.lock().iter().all(|&(_, is_ok)| !is_ok) && answers.0.lock().len() == 80);
    assert!(store.poisoned().is_some());
    store.close();
    drop((store, log));
    disk.set_quota(None);
    disk.crash(5);
    open_with(&disk, small(), 1).unwrap();
}

/// Goal: a quota shows only when something is written; from then on no new records are admitted until there is room. Method: the disk
/// says that there is room, and refuses.
#[test]
fn a_quota_that_nobody_announces_stops_new_records() {
    let disk = MemDisk::new();
    let (store, log) = open_with(&disk, small(), 0).unwrap();
    disk.set_quota(Some(disk.used_bytes()));
    disk.hide_quota(true);
    assert!(store.has_room(Need::New), "that is what the file system says");
    for index in 0..60 {
        append(&log, vec![entry(1, index, 4)]);
    }
    store.step();
    store.step_idle();
    assert_eq!(log.ends().durable_end, log.ends().append_end);
    assert!(!store.has_room(Need::New));
    disk.set_quota(None);
    store.step_idle();
    assert!(store.has_room(Need::New));
}
