//! A peer's committed entries in the place of a damaged one of ours that was never committed.

use super::*;
use crate::store::frame::{ENTRY_PREFIX_BYTES, FRAME_HEADER_BYTES, parse_prefix};
use crate::store::{Repair, StoredVote};
use duramen_common::NodeId;

const VOTE: StoredVote = StoredVote { term: 2, node: 3, committed: false };
const NODE: NodeId = NodeId::new(4);
const COMMITTED: EntryId = EntryId { term: 1, index: 2 };

/// A stopped store with entries 0 to 6 of term 1, committed up to 2; a vote stands behind the last of them. See [`stop`] for
/// `is_closed`.
fn stopped(is_closed: bool) -> (MemDisk, PathBuf) {
    let disk = MemDisk::new();
    let (store, log) = open(&disk).unwrap();
    for index in 0..7 {
        append(&log, vec![entry(1, index, 2)]);
        store.step();
    }
    log.advance_committed(COMMITTED, duramen_common::ids::Offset::new(6), None);
    block(&store, log.save_vote(VOTE)).unwrap();
    stop(store, log, disk, is_closed)
}

/// Stops a store; `is_closed`: it is started once more, so that another segment follows.
fn stop(store: Store, log: PartitionLog, disk: MemDisk, is_closed: bool) -> (MemDisk, PathBuf) {
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
    let is_it = |&(start, _, kind): &(usize, usize, FrameKind)| {
        kind.is_entry() && parse_prefix(&bytes[start + FRAME_HEADER_BYTES..]).0.index == index
    };
    let (start, ..) = frames(&bytes).into_iter().find(is_it).unwrap();
    let length = parse_head(&bytes[start..]).unwrap().length;
    bytes[start + FRAME_HEADER_BYTES..][..length].fill(0x5a);
    disk.put(path, &bytes);
}

fn theirs(names: &[(u64, u64)]) -> Vec<LogEntry> {
    names.iter().map(|&(term, index)| entry(term, index, 1)).collect()
}

/// Our own entries up to an index, then theirs.
fn joined(ours_end: u64, theirs: &[(u64, u64)]) -> Vec<(u64, u64)> {
    (0..ours_end).map(|index| (1, index)).chain(theirs.iter().copied()).collect()
}

fn replace(store: &Store, names: &[(u64, u64)], committed: (u64, u64)) -> Result<Option<Repair>, StoreError> {
    store.replace(PARTITION, &theirs(names), EntryId { term: committed.0, index: committed.1 }, NODE)
}

/// What is left opens, holds those entries and the vote, and goes on.
fn check(store: &Store, expected: &[(u64, u64)]) {
    let log = store.open_partition(PARTITION).unwrap();
    assert_eq!(names(&all(&log)), expected);
    assert_eq!(log.state().small.vote, Some(VOTE), "the vote is the last that was given");
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
            let store = unopened(&disk).unwrap();
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
        let store = unopened(&disk).unwrap();
        let files = || segments(&disk).iter().map(|path| disk.bytes(path)).collect::<Vec<_>>();
        let before = files();
        let same = [(1, 3), (1, 4), (1, 5), (2, 6)];
        let ours: Vec<LogEntry> = same.iter().map(|&(term, index)| entry(term, index, 2)).collect();
        let committed = |index| EntryId { term: 1, index };
        assert_eq!(store.replace(PARTITION, &ours, committed(5), NODE).unwrap(), None);
        assert_eq!(store.replace(PARTITION, &[], committed(6), NODE).unwrap(), None);
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
        assert_eq!(unopened(&disk).unwrap().replaceable(PARTITION).unwrap(), None);
        let (disk, path) = stopped(is_closed);
        damage(&disk, &path, 4);
        damage(&disk, &path, 6);
        let two = unopened(&disk).unwrap();
        assert_eq!(two.replaceable(PARTITION).unwrap(), None);
        assert_eq!(replace(&two, &committed, (2, 6)).unwrap(), None);
        let (disk, path) = stopped(false);
        let bytes = disk.bytes(&path);
        let scan = crate::store::recover::scan(&bytes, crate::store::recover::Successors::None).unwrap();
        let vote = scan.frames.iter().rfind(|frame| frame.head.kind == FrameKind::State).unwrap();
        let mut damaged = bytes.clone();
        damaged[vote.position as usize + FRAME_HEADER_BYTES..][..vote.head.length].fill(0x5a);
        disk.put(&path, &damaged);
        assert_eq!(unopened(&disk).unwrap().replaceable(PARTITION).unwrap(), None, "a vote is lost");
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
            if let Ok(store) = unopened(&disk) {
                // Cut or not.
                let _outcome = replace(&store, &committed, (2, 7));
            }
            disk.crash(seed);
            let again = unopened(&disk).unwrap();
            if again.damage(PARTITION).unwrap().is_some() {
                assert_eq!(replace(&again, &committed, (2, 7)).unwrap(), Some(Repair::Whole), "seed {seed}");
            }
            drop(again);
            disk.crash(seed + 1);
            check(&unopened(&disk).unwrap(), &joined(3, &committed));
        }
    }
}

/// A stopped store with a vote, entries 0 to 6 of term 1 of which all up to 2 are committed, a later vote between 4 and 5, and nothing
/// behind 6 but a marker.
fn with_a_vote_between(is_closed: bool) -> (MemDisk, PathBuf) {
    let disk = MemDisk::new();
    let (store, log) = open(&disk).unwrap();
    block(&store, log.save_vote(StoredVote { term: 1, node: 1, committed: true })).unwrap();
    for index in 0..7 {
        if index == 5 {
            log.advance_committed(COMMITTED, duramen_common::ids::Offset::new(6), None);
            block(&store, log.save_vote(VOTE)).unwrap();
        }
        append(&log, vec![entry(1, index, 2)]);
        store.step();
    }
    stop(store, log, disk, is_closed)
}

/// Nothing that was acknowledged is given up with the damage: our log is known to its end and the vote stays, or nothing is replaced.
/// Says whether something was.
fn nothing_is_lost(disk: &MemDisk, what: &str) -> bool {
    let committed = [(2, 3), (2, 4), (2, 5), (2, 6)];
    let store = unopened(disk).unwrap();
    assert!(matches!(store.repair(PARTITION, &[]).unwrap(), Repair::More(_)), "{what}: it proves itself");
    let Some(span) = store.replaceable(PARTITION).unwrap() else { return false };
    assert_eq!(span, 3..7, "{what}: entries of ours are not seen");
    assert_eq!(replace(&store, &committed, (2, 6)).unwrap(), Some(Repair::Whole), "{what}");
    check(&store, &joined(3, &committed));
    true
}

/// Goal: a header that lies about its frame's end gives up nothing that stands inside. Method: each frame behind the start state is made
/// to end where a later one does, and two bits flip in its payload, so that it cannot be restored by itself: in an entry's
/// name, and behind it.
#[test]
fn what_a_damaged_length_swallows_is_not_given_up() {
    for (is_closed, flipped) in [(false, 0), (false, ENTRY_PREFIX_BYTES), (true, 0), (true, ENTRY_PREFIX_BYTES)] {
        let (disk, path) = with_a_vote_between(is_closed);
        let bytes = disk.bytes(&path);
        let frames = frames(&bytes);
        assert!(frames.iter().any(|(_, _, kind)| *kind == FrameKind::Marker), "{frames:?}");
        for (number, &(start, own_end, kind)) in frames.iter().enumerate().skip(1) {
            if start + FRAME_HEADER_BYTES + flipped >= own_end {
                continue;
            }
            for (last, &(_, end, _)) in frames.iter().enumerate().skip(number + 1) {
                let (disk, _) = with_a_vote_between(is_closed);
                let mut damaged = bytes.clone();
                let length = u32::try_from(end - start - FRAME_HEADER_BYTES).unwrap();
                damaged[start + 8..start + 12].copy_from_slice(&length.to_le_bytes());
                damaged[start + FRAME_HEADER_BYTES + flipped] ^= 0x11;
                disk.put(&path, &damaged);
                let swallowed = &frames[number + 1..=last];
                let what = format!("{kind:?} {number} swallows {swallowed:?}, closed: {is_closed}, flipped: {flipped}");
                // In a closed segment, the segment behind it repeats the vote: a small state may be lost there.
                let is_harmless = is_closed && swallowed.iter().all(|(_, _, kind)| !kind.is_entry());
                assert!(!nothing_is_lost(&disk, &what) || is_harmless, "{what}");
            }
        }
    }
}

/// Goal: a vote that is taken for an entry is not given up. Method: the last vote's frame gets the kind of each entry, and a bit of its
/// payload flips; with entries behind it, and with a marker only.
#[test]
fn a_damaged_vote_is_not_taken_for_an_entry() {
    for stopped_store in [stopped, with_a_vote_between] {
        for kind in [FrameKind::Batch, FrameKind::Blank, FrameKind::Membership] {
            let (disk, path) = stopped_store(false);
            let mut bytes = disk.bytes(&path);
            let frames = frames(&bytes);
            let &(start, ..) = frames.iter().rfind(|(_, _, kind)| *kind == FrameKind::State).unwrap();
            bytes[start + 5] = kind as u8;
            bytes[start + FRAME_HEADER_BYTES + 2] ^= 1;
            disk.put(&path, &bytes);
            assert!(!nothing_is_lost(&disk, "a vote"), "{kind:?}");
        }
    }
}

/// Goal: nothing acknowledged passes for a torn tail because something else before it was taken for an entry. Method: a marker, or a
/// vote that another one follows, gets an entry's kind; behind them is one acknowledged group that no later frame records as durable.
#[test]
fn entries_behind_what_was_no_entry_are_not_a_torn_tail() {
    for victim in [FrameKind::Marker, FrameKind::State] {
        let disk = MemDisk::new();
        let (store, log) = open(&disk).unwrap();
        block(&store, log.save_vote(StoredVote { term: 1, node: 1, committed: true })).unwrap();
        append(&log, (0..3).map(|index| entry(1, index, 2)).collect());
        store.step();
        log.advance_committed(COMMITTED, duramen_common::ids::Offset::new(6), None);
        append(&log, vec![entry(1, 3, 2)]);
        store.step();
        match victim {
            FrameKind::Marker => assert!(store.step_idle()),
            _ => block(&store, log.save_vote(StoredVote { term: 2, node: 2, committed: false })).unwrap(),
        }
        block(&store, log.save_vote(VOTE)).unwrap();
        let acknowledged = Answers::default();
        log.append((4..7).map(|index| entry(1, index, 2)).collect(), acknowledged.callback(1)).unwrap();
        store.step();
        assert_eq!(*acknowledged.0.lock(), [(1, true)]);
        drop((store, log));
        let path = segments(&disk).remove(0);
        let mut bytes = disk.bytes(&path);
        let frames = frames(&bytes);
        let (start, _, kind) = frames[frames.len() - 5];
        assert_eq!(kind, victim, "{frames:?}");
        bytes[start + 5] = FrameKind::Blank as u8;
        // One more, lest it proves itself.
        bytes[start + if victim == FrameKind::Marker { 16 } else { FRAME_HEADER_BYTES + 2 }] ^= 1;
        disk.put(&path, &bytes);
        let what = format!("{victim:?}");
        assert!(!nothing_is_lost(&disk, &what), "{what}");
    }
}

/// Goal: an entry with nothing but a marker behind it is known for one by its own name, or not at all.
#[test]
fn the_last_entry_is_passed_over_by_its_name() {
    let behind_the_batchs_header = ENTRY_PREFIX_BYTES + duramen_common::batch::BATCH_HEADER_BYTES;
    for (is_name_damaged, from) in [(false, behind_the_batchs_header), (true, ENTRY_PREFIX_BYTES), (true, 0)] {
        let (disk, path) = with_a_vote_between(false);
        let mut bytes = disk.bytes(&path);
        let &(start, end, _) = frames(&bytes).iter().rfind(|(_, _, kind)| kind.is_entry()).unwrap();
        bytes[start + FRAME_HEADER_BYTES + from..end].fill(0x5a);
        disk.put(&path, &bytes);
        assert_eq!(nothing_is_lost(&disk, "the last entry"), !is_name_damaged);
    }
}

/// Goal: chosen bytes do not pass either. Method: a length that swallows two entries, with the checksum of the last of them as its own; the
/// last vote made an entry, with the name of the one that comes next.
#[test]
fn lies_that_agree_are_not_believed() {
    let (disk, path) = stopped(false);
    let mut bytes = disk.bytes(&path);
    let entries: Vec<_> = frames(&bytes).into_iter().filter(|(_, _, kind)| kind.is_entry()).collect();
    let ((start, ..), (last_start, last_end, _)) = (entries[4], entries[6]);
    let length = u32::try_from(last_end - start - FRAME_HEADER_BYTES).unwrap();
    bytes[start + 8..start + 12].copy_from_slice(&length.to_le_bytes());
    bytes.copy_within(last_start + 24..last_start + 28, start + 24);
    disk.put(&path, &bytes);
    assert!(!nothing_is_lost(&disk, "two entries"));

    let disk = MemDisk::new();
    let (store, log) = open(&disk).unwrap();
    append(&log, (0..7).map(|index| entry(1, index, 2)).collect());
    store.step();
    log.advance_committed(COMMITTED, duramen_common::ids::Offset::new(6), None);
    block(&store, log.save_vote(StoredVote { term: 1, node: 1, committed: true })).unwrap();
    block(&store, log.save_vote(VOTE)).unwrap();
    store.close();
    drop((store, log));
    let path = segments(&disk).remove(0);
    let mut bytes = disk.bytes(&path);
    let states: Vec<_> = frames(&bytes).into_iter().filter(|(_, _, kind)| *kind == FrameKind::State).collect();
    let (start, ..) = *states.last().unwrap();
    bytes[start + 5] = FrameKind::Batch as u8;
    let payload = start + FRAME_HEADER_BYTES;
    bytes[payload..payload + 8].copy_from_slice(&1u64.to_le_bytes());
    bytes[payload + 8..payload + 16].copy_from_slice(&7u64.to_le_bytes());
    disk.put(&path, &bytes);
    assert!(!nothing_is_lost(&disk, "the vote"));
}

/// Goal: no vote is of an earlier term than an entry: openraft takes that for a log that went back.
#[test]
fn entries_of_a_later_term_than_the_vote_come_with_a_vote_in_it() {
    let committed = [(2, 3), (5, 4), (5, 5), (7, 6)];
    let (disk, path) = stopped(false);
    damage(&disk, &path, 5);
    let store = unopened(&disk).unwrap();
    assert_eq!(replace(&store, &committed, (7, 6)).unwrap(), Some(Repair::Whole));
    let log = store.open_partition(PARTITION).unwrap();
    assert_eq!(log.state().small.vote, Some(StoredVote { term: 7, node: NODE.get(), committed: false }));
    assert_eq!(names(&all(&log)), joined(3, &committed));
}

/// Goal: a mark is only believed beside the entries that it is of.
#[test]
fn entries_that_are_not_those_of_the_mark_are_not_taken() {
    let (disk, path) = stopped(false);
    damage(&disk, &path, 5);
    let store = unopened(&disk).unwrap();
    assert_eq!(replace(&store, &[(1, 3), (2, 4), (2, 5), (2, 6)], (3, 6)).unwrap(), None);
    assert_eq!(replace(&store, &[(1, 3), (2, 4), (2, 5), (2, 6)], (2, 6)).unwrap(), Some(Repair::Whole));
}
