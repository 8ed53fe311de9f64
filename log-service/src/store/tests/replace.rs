//! A peer's committed entries in the place of a damaged one of ours that was never committed.

use super::*;
use crate::store::frame::{FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES, parse_head, parse_prefix};
use crate::store::{Repair, StoredVote};

const VOTE: StoredVote = StoredVote { term: 2, node: 3, committed: false };
const COMMITTED: EntryId = EntryId { term: 1, index: 2 };

/// A stopped store with entries 0 to 6 of term 1, committed up to 2; a vote stands behind the last of them. `is_closed`: it was started
/// once more, so that another segment follows.
fn stopped(is_closed: bool) -> (MemDisk, PathBuf) {
    let disk = MemDisk::new();
    let (store, log) = open(&disk).unwrap();
    for index in 0..7 {
        append(&log, vec![entry(1, index, 2)]);
        store.step();
    }
    log.advance_committed(COMMITTED, duramen_common::ids::Offset::new(6), None);
    block(&store, log.save_vote(VOTE)).unwrap();
    store.close();
    drop((store, log));
    if is_closed {
        let (store, log) = open(&disk).unwrap();
        store.close();
        drop((store, log));
    }
    let path = segments(&disk).remove(0);
    (disk, path)
}

/// Overwrites an entry behind its frame's header.
fn damage(disk: &MemDisk, path: &Path, index: u64) {
    let mut bytes = disk.bytes(path);
    let mut at = SEGMENT_HEADER_BYTES;
    loop {
        let head = parse_head(&bytes[at..]).unwrap();
        let payload = at + FRAME_HEADER_BYTES..at + FRAME_HEADER_BYTES + head.length;
        if head.kind.is_entry() && parse_prefix(&bytes[payload.clone()]).0.index == index {
            bytes[payload].fill(0x5a);
            disk.put(path, &bytes);
            return;
        }
        at += head.frame_bytes();
    }
}

fn store(disk: &MemDisk) -> Result<Store, StoreError> {
    let folder = DataFolder::lock(Arc::new(disk.clone()), Path::new("/data"))?;
    let entropy = Arc::new(CountingEntropy(AtomicU64::new(1 + disk.call_count() * 1_000_000)));
    Store::open(folder, identity(), config(), entropy, SyncMode::Manual)
}

fn theirs(names: &[(u64, u64)]) -> Vec<LogEntry> {
    names.iter().map(|&(term, index)| entry(term, index, 1)).collect()
}

/// Our own entries up to an index, then theirs.
fn joined(ours_end: u64, theirs: &[(u64, u64)]) -> Vec<(u64, u64)> {
    (0..ours_end).map(|index| (1, index)).chain(theirs.iter().copied()).collect()
}

fn replace(store: &Store, names: &[(u64, u64)], committed: (u64, u64)) -> Result<Option<Repair>, StoreError> {
    store.replace(PARTITION, &theirs(names), EntryId { term: committed.0, index: committed.1 })
}

/// What is left opens, holds those entries and the vote, and goes on.
fn check(store: &Store, expected: &[(u64, u64)]) {
    let log = store.open_partition(PARTITION).unwrap();
    assert_eq!(names(&all(&log)), expected);
    assert_eq!(log.state().small.vote, Some(VOTE), "the vote stands behind the damage");
    let batches = log.read_from(duramen_common::ids::Offset::ZERO, log.ends().append_end, usize::MAX).unwrap();
    assert_eq!(batches.len(), expected.len(), "offsets are dense");
    append(&log, vec![entry(9, expected.len() as u64, 1)]);
    store.step();
    assert_eq!(all(&log).len(), expected.len() + 1);
}

/// Goal: the peers' committed entries take the place of ours from the first that differs, with the vote behind the damage kept; in
/// the last segment and in one that is closed.
#[test]
fn a_damaged_entry_that_was_never_committed_is_replaced_by_what_was() {
    let committed = [(1, 3), (2, 4), (2, 5), (2, 6)];
    for is_closed in [false, true] {
        for index in 4..7 {
            let (disk, path) = stopped(is_closed);
            damage(&disk, &path, index);
            let store = store(&disk).unwrap();
            assert_eq!(store.damage(PARTITION).unwrap().unwrap().index, index);
            let refused = store.repair(PARTITION, &theirs(&committed));
            assert!(matches!(refused, Err(StoreError::NotRepaired { .. })), "{refused:?}");
            assert_eq!(store.replaceable(PARTITION).unwrap(), Some(3..7));
            assert_eq!(replace(&store, &committed, (2, 6)).unwrap(), Some(Repair::Whole));
            check(&store, &joined(3, &committed));
        }
    }
}

/// Goal: what this node may have acknowledged is not given up. Method: peers that have not committed as far as our log goes,
/// and nothing in it that cannot be theirs; then one that has.
#[test]
fn nothing_is_replaced_before_the_peers_have_committed_as_far() {
    for is_closed in [false, true] {
        let (disk, path) = stopped(is_closed);
        damage(&disk, &path, 6);
        let store = store(&disk).unwrap();
        let files = || segments(&disk).iter().map(|path| disk.bytes(path)).collect::<Vec<_>>();
        let before = files();
        let same = [(1, 3), (1, 4), (1, 5), (2, 6)];
        let ours: Vec<LogEntry> = same.iter().map(|&(term, index)| entry(term, index, 2)).collect();
        let committed = |index| EntryId { term: 1, index };
        assert_eq!(store.replace(PARTITION, &ours, committed(5)).unwrap(), None);
        assert_eq!(store.replace(PARTITION, &[], committed(6)).unwrap(), None);
        assert_eq!(files(), before, "nothing was touched");
        assert_eq!(replace(&store, &[(2, 3)], (2, 3)).unwrap(), Some(Repair::Whole), "ours is another log from 3 on");
        check(&store, &joined(3, &[(2, 3)]));
    }
}

/// Goal: an entry that is known to be committed is never replaced, nor anything where two entries are damaged, or a vote is.
#[test]
fn committed_entries_and_votes_are_not_replaced() {
    for is_closed in [false, true] {
        let committed = [(2, 3), (2, 4), (2, 5), (2, 6)];
        let (disk, path) = stopped(is_closed);
        damage(&disk, &path, 2);
        assert_eq!(store(&disk).unwrap().replaceable(PARTITION).unwrap(), None);
        let (disk, path) = stopped(is_closed);
        damage(&disk, &path, 4);
        damage(&disk, &path, 6);
        let two = store(&disk).unwrap();
        assert_eq!(two.replaceable(PARTITION).unwrap(), None);
        assert_eq!(replace(&two, &committed, (2, 6)).unwrap(), None);
        let (disk, path) = stopped(false);
        let bytes = disk.bytes(&path);
        let scan = crate::store::recover::scan(&bytes, crate::store::recover::Successors::None).unwrap();
        let vote = scan.frames.iter().rfind(|frame| frame.head.kind == crate::store::frame::FrameKind::State).unwrap();
        let mut damaged = bytes.clone();
        damaged[vote.position as usize + FRAME_HEADER_BYTES..][..vote.head.length].fill(0x5a);
        disk.put(&path, &damaged);
        assert_eq!(store(&disk).unwrap().replaceable(PARTITION).unwrap(), None, "a vote is lost");
    }
}

/// Goal: the replacement is there whole or not at all, and stays. Method: the power is cut at each call, and the disk loses
/// what the seed says; then it is done again where it has to be, and the power is cut once more.
#[test]
fn a_replacement_is_all_or_nothing() {
    let committed = [(1, 3), (2, 4), (2, 5), (2, 6), (2, 7)];
    for is_closed in [false, true] {
        for seed in 0..200 {
            let (disk, path) = stopped(is_closed);
            damage(&disk, &path, 5);
            disk.cut_power_after(seed % 40);
            if let Ok(store) = store(&disk) {
                // Cut or not.
                let _outcome = replace(&store, &committed, (2, 7));
            }
            disk.crash(seed);
            let again = store(&disk).unwrap();
            if again.damage(PARTITION).unwrap().is_some() {
                assert_eq!(replace(&again, &committed, (2, 7)).unwrap(), Some(Repair::Whole), "seed {seed}");
            }
            drop(again);
            disk.crash(seed + 1);
            check(&store(&disk).unwrap(), &joined(3, &committed));
        }
    }
}
