//! Damage: told from a torn tail, refused with place and advice, repaired from a peer's entries.

use super::*;
use crate::store::Repair;

/// A stopped store whose first segment holds entries, votes and a marker; returns the disk, that segment and the log.
fn written() -> (MemDisk, PathBuf, Vec<LogEntry>) {
    let disk = MemDisk::new();
    let (store, log) = open(&disk).unwrap();
    for index in 0..4 {
        append(&log, vec![entry(1, index, (index % 3) as u32)]);
        store.step();
    }
    block(&store, log.save_vote(crate::store::StoredVote { term: 1, node: 2, committed: true })).unwrap();
    append(&log, vec![entry(1, 4, 2)]);
    let entries = all(&log);
    store.close();
    drop((store, log));
    (disk.clone(), segments(&disk).remove(0), entries)
}

/// Goal: a flipped bit anywhere below the recorded durable end is refused with file, position and advice: the last
/// acknowledged frame is included, because a marker follows it. Above it nothing that was acknowledged is lost.
/// Method: every byte of a small segment, three masks each.
#[test]
fn a_flipped_bit_anywhere_below_the_durable_end_is_refused() {
    let (disk, path, entries) = written();
    let bytes = disk.bytes(&path);
    let frames = frames(&bytes);
    let marker = frames.last().unwrap().0;
    for position in 0..bytes.len() {
        for mask in [1, 0x10, 0x80] {
            let mut damaged = bytes.clone();
            damaged[position] ^= mask;
            disk.crash(0);
            disk.put(&path, &damaged);
            match open(&disk) {
                Ok((_store, log)) => {
                    assert!(position >= marker, "byte {position} (mask {mask}) was flipped and nobody noticed");
                    assert_eq!(all(&log), entries, "only the marker is lost");
                    drop((_store, log));
                    reset(&disk, &path, &bytes);
                }
                Err(StoreError::Corrupt { file, position: found, .. }) => {
                    assert!(position < marker, "damage above the durable end is a torn tail");
                    assert_eq!(file, path);
                    let start = frames.iter().rev().find(|frame| frame.0 <= position).map_or(0, |frame| frame.0);
                    assert_eq!(found as usize, start, "byte {position}");
                    let text = open(&disk).map(|_| ()).unwrap_err().to_string();
                    assert!(text.contains("0.segment") && text.contains("byte") && text.contains("peer"), "{text}");
                }
                Err(StoreError::Format { .. } | StoreError::Foreign { .. }) => panic!("byte {position}: told wrongly"),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Puts the folder back to one segment.
fn reset(disk: &MemDisk, path: &Path, bytes: &[u8]) {
    use crate::disk::Disk as _;
    for other in segments(disk).iter().filter(|other| *other != path) {
        disk.remove(other).unwrap();
    }
    disk.sync_dir(Path::new("/data/partitions/0")).unwrap();
    disk.put(path, bytes);
}

/// Goal: whatever single byte is damaged, a peer's entries bring the segment back byte for byte, votes included; another
/// entry at the same index does not.
#[test]
fn a_damaged_frame_is_repaired_from_a_peer() {
    let (disk, path, entries) = written();
    let bytes = disk.bytes(&path);
    let marker = frames(&bytes).last().unwrap().0;
    for position in 0..marker {
        for mask in [1, 0x40] {
            disk.crash(0);
            let mut damaged = bytes.clone();
            damaged[position] ^= mask;
            disk.put(&path, &damaged);
            let store = unopened(&disk).unwrap();
            assert_eq!(store.repair(PARTITION, &entries).unwrap(), Repair::Whole, "byte {position}");
            assert_eq!(disk.bytes(&path), bytes, "byte {position}");
        }
    }
}

/// Goal: a flipped bit in any frame's header needs no peer, however long the frame is: no peer may have that entry. Method: each bit
/// of each header, over entries longer than what is searched bit by bit.
#[test]
fn a_flipped_bit_in_a_header_needs_no_peer() {
    let disk = MemDisk::new();
    let (store, log) = open(&disk).unwrap();
    block(&store, log.save_vote(crate::store::StoredVote { term: 1, node: 2, committed: true })).unwrap();
    for index in 0..3 {
        let body = EntryBody::Batch(batch(u128::from(index) << 16, 1, 700 + 100 * index as usize));
        append(&log, vec![LogEntry { id: EntryId { term: 1, index }, body }]);
        store.step();
    }
    store.close();
    drop((store, log));
    let path = segments(&disk).remove(0);
    let bytes = disk.bytes(&path);
    let frames = frames(&bytes);
    assert_eq!(frames.iter().filter(|(start, end, _)| end - start > 640).count(), 3);
    for &(start, ..) in frames.iter().rev().skip(1) {
        for bit in 0..8 * crate::store::frame::FRAME_HEADER_BYTES {
            let mut damaged = bytes.clone();
            damaged[start + bit / 8] ^= 1 << (bit % 8);
            disk.crash(0);
            disk.put(&path, &damaged);
            let store = unopened(&disk).unwrap();
            assert_eq!(store.repair(PARTITION, &[]).unwrap(), Repair::Whole, "bit {bit} of the frame at {start}");
            assert_eq!(disk.bytes(&path), bytes, "bit {bit} of the frame at {start}");
        }
    }
}

/// A whole entry overwritten (a lost sector): only the peer can bring it back.
#[test]
fn an_overwritten_entry_is_repaired_only_by_the_identical_entry() {
    let (disk, path, entries) = written();
    let bytes = disk.bytes(&path);
    let (start, end, _) =
        frames(&bytes).into_iter().find(|(start, end, kind)| *kind == FrameKind::Batch && end - start > 100).unwrap();
    for (from, to) in [(start + 28, end), (start, start + 28), (start, end)] {
        let mut damaged = bytes.clone();
        damaged[from..to].fill(0x5a);
        disk.crash(0);
        disk.put(&path, &damaged);
        let store = unopened(&disk).unwrap();
        let damage = store.damage(PARTITION).unwrap().unwrap();
        assert_eq!((damage.position as usize, &damage.file), (start, &path));
        let mut other = entries.clone();
        let at = damage.index as usize;
        other[at] = entry(9, damage.index, 1);
        assert!(matches!(store.repair(PARTITION, &other), Err(StoreError::NotRepaired { .. })));
        assert!(matches!(store.repair(PARTITION, &[]), Ok(Repair::More(_))));
        assert_eq!(store.repair(PARTITION, &entries).unwrap(), Repair::Whole);
        assert_eq!(disk.bytes(&path), bytes);
        let log = store.open_partition(PARTITION).unwrap();
        assert_eq!(all(&log), entries);
        drop((store, log));
        reset(&disk, &path, &bytes);
    }
}

/// Goal: what was cut off above the durable end is a torn tail, and appends go on behind it.
#[test]
fn a_torn_tail_is_cut() {
    let disk = MemDisk::new();
    let (store, log) = open(&disk).unwrap();
    append(&log, vec![entry(1, 0, 1)]);
    store.step();
    append(&log, vec![entry(1, 1, 1)]);
    store.step();
    drop((store, log));
    let path = segments(&disk).pop().unwrap();
    let bytes = disk.bytes(&path);
    let (last_start, last_end, _) = *frames(&bytes).last().unwrap();
    for cut in last_start..last_end {
        disk.crash(0);
        let mut torn = bytes.clone();
        torn[cut..].fill(0);
        reset(&disk, &path, &torn);
        let (store, log) = open(&disk).unwrap();
        // Trailing zeros of the frame may be what was written anyway.
        let whole = torn[..last_end] == bytes[..last_end];
        assert_eq!(all(&log).len(), if whole { 2 } else { 1 }, "cut at {cut}");
        let next = all(&log).len() as u64;
        append(&log, vec![entry(2, next, 1)]);
        store.step();
        assert_eq!(names(&all(&log)).last(), Some(&(2, next)));
    }
}

/// Frames that verify, one behind the other.
fn live_frames(bytes: &[u8]) -> Vec<(usize, usize)> {
    let scan = crate::store::recover::scan(bytes, crate::store::recover::Successors::None).unwrap();
    let place = |frame: &crate::store::recover::FoundFrame| {
        (frame.position as usize, frame.position as usize + frame.head.frame_bytes())
    };
    scan.frames.iter().map(place).collect()
}

/// Goal: a frame of an earlier use of the file does not pass even where the same bytes stand before it, so that its
/// previous CRC would be right. Method: the same entry written under two random ids, the old file's next frame behind.
#[test]
fn an_old_frame_does_not_pass_behind_the_same_entries() {
    let written = |entropy: u64, count: u64| {
        let disk = MemDisk::new();
        let (store, log) = open_with(&disk, config(), entropy).unwrap();
        append(&log, (0..count).map(|index| entry(1, index, 1)).collect());
        store.step();
        disk.bytes(&segments(&disk)[0])
    };
    let (old, mut new) = (written(1, 3), written(2, 1));
    let end = live_frames(&new).last().unwrap().1;
    assert_eq!(live_frames(&old)[1].1, end, "the frames lie alike");
    new[end..].copy_from_slice(&old[end..]);
    let scan = crate::store::recover::scan(&new, crate::store::recover::Successors::None).unwrap();
    assert_eq!((scan.next_index, scan.end as usize), (1, end));
}

/// Goal: frames of an earlier use of a file never pass, though they are whole and lie where frames are expected.
/// Method: fill a log, replace it by a baseline (its files become spares), write less than before, crash, open.
#[test]
fn old_bytes_of_a_reused_segment_never_pass() {
    let disk = MemDisk::new();
    let (store, log) = open(&disk).unwrap();
    append(&log, (0..30).map(|index| entry(1, index, 2)).collect());
    store.step();
    let membership = crate::store::StoredMembership { id: None, bytes: Bytes::from_static(b"m") };
    let last = EntryId { term: 5, index: 99 };
    block(&store, log.install(last, duramen_common::ids::Offset::new(500), membership)).unwrap();
    append(&log, vec![entry(5, 100, 1)]);
    store.step();
    // The next segments are made of the old file.
    append(&log, (101..116).map(|index| entry(5, index, 2)).collect());
    store.step();
    drop((store, log));
    disk.crash(0);
    let reused = segments(&disk).iter().any(|path| {
        let bytes = disk.bytes(path);
        let end = frames(&bytes).last().map_or(0, |frame| frame.1);
        bytes[end..].windows(4).any(|window| window == b"DFR1")
    });
    assert!(reused, "the test has an old frame behind a live one");
    // The last live frame torn: what lies behind it must not speak for it.
    let last = segments(&disk).pop().unwrap();
    let mut bytes = disk.bytes(&last);
    let (start, end) = *live_frames(&bytes).last().unwrap();
    bytes[start + 40..end].fill(0);
    disk.put(&last, &bytes);
    let (_store, log) = open(&disk).unwrap();
    let found = all(&log);
    assert_eq!(names(&found), (100..115).map(|index| (5, index)).collect::<Vec<_>>());
    assert_eq!(log.ends().first_offset.get(), 500);
}

#[test]
fn an_unknown_format_is_refused_by_name() {
    use crate::store::frame::{SEGMENT_HEADER_BYTES, SegmentHeader};
    let (disk, path, _) = written();
    let mut bytes = disk.bytes(&path);
    bytes[4] = 9;
    let crc = crc32c::crc32c(&bytes[..SEGMENT_HEADER_BYTES - 4]);
    bytes[SEGMENT_HEADER_BYTES - 4..SEGMENT_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    assert!(SegmentHeader::parse(&bytes).is_err());
    disk.crash(0);
    disk.put(&path, &bytes);
    let error = open(&disk).map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::Format { found: 9, .. }), "{error}");
    assert!(error.to_string().contains("format 9"), "{error}");
}

#[test]
fn a_missing_or_shortened_older_segment_is_refused() {
    use crate::disk::Disk as _;
    let disk = MemDisk::new();
    let (store, log) = open(&disk).unwrap();
    for index in 0..60 {
        append(&log, vec![entry(1, index, 2)]);
    }
    store.close();
    drop((store, log));
    let paths = segments(&disk);
    assert!(paths.len() > 2);
    let bytes = disk.bytes(&paths[1]);
    disk.put(&paths[1], &bytes[..bytes.len() - 8]);
    assert!(matches!(open(&disk).map(|_| ()), Err(StoreError::Corrupt { file, .. }) if file == paths[1]));
    disk.put(&paths[1], &bytes);
    disk.remove(&paths[0]).unwrap();
    assert!(matches!(open(&disk).map(|_| ()), Err(StoreError::Corrupt { file, .. }) if file == paths[0]));
}

#[test]
fn segments_of_another_store_are_refused() {
    let (disk, _, _) = written();
    let folder = DataFolder::lock(Arc::new(disk), Path::new("/data")).unwrap();
    let other = StoreIdentity { store: StoreId::from_bits(8), ..identity() };
    let entropy = Arc::new(CountingEntropy(AtomicU64::new(9)));
    let store = Store::open(folder, other, config(), entropy, SyncMode::Manual).unwrap();
    assert!(matches!(store.open_partition(PARTITION), Err(StoreError::Foreign { .. })));
}

/// A stopped store whose first segment holds entries 0 to 7, of which the second replaced those from 4 on.
fn replaced() -> (MemDisk, PathBuf, Vec<LogEntry>) {
    let disk = MemDisk::new();
    let (store, log) = open(&disk).unwrap();
    for index in 0..8 {
        append(&log, vec![entry(1, index, 2)]);
    }
    store.step();
    log.truncate_after(Some(EntryId { term: 1, index: 3 })).unwrap();
    append(&log, vec![entry(2, 4, 1), entry(2, 5, 1)]);
    store.step();
    let entries = all(&log);
    store.close();
    drop((store, log));
    (disk.clone(), segments(&disk).remove(0), entries)
}

/// Goal: damage in what a later segment replaced keeps nobody from starting or reading, and damage before it is
/// found. Method: each byte of a closed segment behind its header; entries are read from the files, not from memory.
#[test]
fn damage_in_what_was_replaced_is_none() {
    let (disk, path, entries) = replaced();
    let bytes = disk.bytes(&path);
    let (first_replaced, ..) = frames(&bytes).into_iter().filter(|(_, _, kind)| kind.is_entry()).nth(4).unwrap();
    for position in SEGMENT_HEADER_BYTES..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[position] ^= 0x5a;
        disk.crash(0);
        disk.put(&path, &damaged);
        let small_cache = StoreConfig { cache_bytes_partition_max: 0, ..config() };
        let store = unopened_with(&disk, small_cache, disk.call_count()).unwrap();
        let is_found = store.damage(PARTITION).unwrap().is_some();
        assert_eq!(is_found, position < first_replaced, "byte {position}; from {first_replaced} on all is replaced");
        if !is_found {
            let log = store.open_partition(PARTITION).unwrap();
            assert_eq!(all(&log), entries, "byte {position}");
            let batches = log.read_from(duramen_common::ids::Offset::ZERO, log.ends().append_end, usize::MAX).unwrap();
            assert_eq!(batches.len(), entries.len(), "byte {position}");
        }
    }
}

/// Goal: the same for a segment of which nothing counts any more, its start state included. Method: entries behind a restart are all
/// replaced; each byte of the segment that begins there.
#[test]
fn damage_in_a_segment_that_was_replaced_whole_is_none() {
    let disk = MemDisk::new();
    let (store, log) = open(&disk).unwrap();
    append(&log, (0..6).map(|index| entry(1, index, 2)).collect());
    store.close();
    drop((store, log));
    let (store, log) = open(&disk).unwrap();
    append(&log, vec![entry(1, 6, 2), entry(1, 7, 2)]);
    store.step();
    log.truncate_after(Some(EntryId { term: 1, index: 1 })).unwrap();
    append(&log, vec![entry(2, 2, 2)]);
    store.step();
    let entries = all(&log);
    store.close();
    drop((store, log));
    let path = segments(&disk).remove(1);
    let bytes = disk.bytes(&path);
    for position in SEGMENT_HEADER_BYTES..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[position] ^= 0x5a;
        disk.crash(0);
        disk.put(&path, &damaged);
        let store = unopened(&disk).unwrap();
        assert_eq!(store.damage(PARTITION).unwrap(), None, "byte {position}");
        let log = store.open_partition(PARTITION).unwrap();
        assert_eq!(all(&log), entries, "byte {position}");
    }
}
