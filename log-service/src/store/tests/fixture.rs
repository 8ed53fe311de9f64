//! The segment format, pinned: bytes on disk must never change meaning.

use super::*;
use crate::store::recover::{Successors, scan};
use crate::store::{StoredMembership, StoredVote};

const FIXTURE: &str = include_str!("../../../fixtures/segment-v1.hex");

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    let line = |line: &[u8]| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    bytes.chunks(32).map(|chunk| line(chunk) + "\n").collect()
}

/// Every kind of frame once.
fn segment() -> Vec<u8> {
    let disk = MemDisk::new();
    let (store, log) = open_with(&disk, config(), 0).unwrap();
    block(&store, log.save_vote(StoredVote { term: 3, node: 2, committed: true })).unwrap();
    let membership = EntryBody::Membership(Bytes::from_static(b"membership"));
    append(
        &log,
        vec![LogEntry { id: EntryId { term: 3, index: 0 }, body: membership }, entry(3, 1, 0), entry(3, 2, 2)],
    );
    store.step();
    let id = Some(EntryId { term: 3, index: 0 });
    let membership = StoredMembership { id, bytes: Bytes::from_static(b"membership") };
    log.advance_committed(EntryId { term: 3, index: 2 }, duramen_common::ids::Offset::new(2), Some(membership));
    append(&log, vec![entry(3, 3, 1)]);
    store.step();
    store.step_idle();
    let bytes = disk.bytes(&segments(&disk)[0]);
    let end = scan(&bytes, Successors::None).unwrap().end as usize;
    bytes[..end].to_vec()
}

#[test]
fn the_segment_format_is_pinned() {
    let bytes = segment();
    assert!(unhex(FIXTURE) == bytes, "the format changed; it is now\n{}", hex(&bytes));
    let scan = scan(&unhex(FIXTURE), Successors::Some { live_end: u64::MAX }).unwrap();
    assert_eq!((scan.header.sequence, scan.next_index, scan.frames.len()), (0, 4, 8));
    assert_eq!(scan.state.vote, Some(StoredVote { term: 3, node: 2, committed: true }));
    assert_eq!(scan.state.committed, Some(EntryId { term: 3, index: 2 }));
    assert_eq!(scan.state.applied_membership.unwrap().bytes, "membership");
}
