//! Putting a peer's committed entries in the place of a damaged entry that no peer has: it was never committed.
//!
//! * In: our log around the damage, and a peer's committed entries from behind our committed mark on. Out: a segment that begins
//!   at the first entry that is another one, or may be, and holds the peer's; what it replaces is never read again.
//! * Invariant: whatever this node acknowledged and was committed, or may still be, is in the log afterwards. So the peer's
//!   entries must reach our last entry, or an entry of ours that is provably another one than what was committed there: from
//!   that one on, none of ours can ever be committed.
//! * Invariant: the last vote stays, wherever it stands behind the damage, unless the peer's entries are of a later term: then this
//!   node has voted in that one, so that no vote is of an earlier term than an entry. Nothing of it is in force before all is durable.
//! * Source: DESIGN D2 "Recovery"; docs/adr/0003-segment-store.md; Raft's log matching and leader completeness.

use super::StoreError;
use super::frame::{FRAME_HEADER_BYTES, SegmentHeader, parse_prefix};
use super::open::{Found, read_whole, survey};
use super::recover::{FoundFrame, Scan, Successors, scan, scan_past_entry};
use super::segment::Point;
use super::types::{EntryId, LogEntry, SmallState, StoredVote};
use super::writer::{Base, Place};
use duramen_common::NodeId;
use std::collections::BTreeMap;
use std::ops::Range;

/// Our log with one damaged entry.
struct Standing {
    /// Entries that verify, behind the committed mark, each with the place after it.
    ours: BTreeMap<u64, (EntryId, Point)>,
    /// The place after the committed mark.
    start: Point,
    /// The entry at it.
    before: Option<EntryId>,
    /// Index after our last entry.
    next_index: u64,
    last: Found,
    last_bytes: Vec<u8>,
    last_scan: Scan,
    newest_sequence: u64,
}

/// What of a peer's log could stand in for ours: indexes behind our committed mark up to our last entry. `None` where more than
/// one entry is damaged, or one that is known to be committed: every peer has that one.
pub(super) fn span(place: &Place) -> Result<Option<Range<u64>>, StoreError> {
    Ok(standing(place)?.map(|standing| standing.start.index..standing.next_index))
}

/// Replaces our log from the first entry on that the peer's committed entries do not confirm; `false` when they do not reach
/// far enough. `node` is ours, for a vote that belongs to nobody else.
pub(super) fn replace(
    place: &Place,
    theirs: &[LogEntry],
    committed: EntryId,
    node: NodeId,
) -> Result<bool, StoreError> {
    let Some(standing) = standing(place)? else { return Ok(false) };
    // The mark is of their log as it was before they were read; entries of another are not committed ones.
    if theirs.iter().any(|entry| entry.id.index == committed.index && entry.id != committed) {
        return Ok(false);
    }
    let is_committed = |entry: &&LogEntry| entry.id.index <= committed.index;
    let from = theirs.iter().position(|entry| entry.id.index == standing.start.index).unwrap_or(theirs.len());
    let theirs: Vec<LogEntry> = theirs.iter().skip(from).take_while(is_committed).cloned().collect();
    let ids: Vec<EntryId> = theirs.iter().map(|entry| entry.id).collect();
    let ours: BTreeMap<u64, EntryId> = standing.ours.iter().map(|(&index, &(id, _))| (index, id)).collect();
    let Some(first) = first_replaced(&ours, standing.start.index..standing.next_index, &ids) else { return Ok(false) };
    let (before, at) = match first.checked_sub(1).and_then(|index| standing.ours.get(&index)) {
        Some(&(id, at)) => (Some(id), at),
        None => (standing.before, standing.start),
    };
    let base = Base { index: first, offset: at.offset, term: before.map_or(0, |id| id.term), baseline: false };
    let entries: Vec<LogEntry> = theirs.into_iter().skip_while(|entry| entry.id.index < first).collect();
    // What was found in the last file was perhaps never synced; the new segment makes it count.
    let Standing { last, last_bytes, last_scan, newest_sequence, .. } = standing;
    let unsynced = last_bytes.get(last_scan.durable_end as usize..last_scan.end as usize).unwrap_or_default();
    let file = last.open(place)?;
    if !unsynced.is_empty() {
        place.io("rewriting", &last.path, file.write_at(&[unsynced], last_scan.durable_end))?;
    }
    place.io("syncing", &last.path, file.sync_data())?;
    let previous = Some((last.header.sequence, last.length));
    let vote = vote_for(last_scan.state.vote, &entries, node);
    let state = SmallState { vote, ..last_scan.state };
    place.create_filled_segment(newest_sequence + 1, base, previous, &state, &entries)?;
    Ok(true)
}

/// Our vote once those entries are in the log: of no earlier term than they are. In a term in which we had not voted, we have done so
/// for ourselves: nobody else gets it, and whoever leads in that term is heard all the same. Pure.
fn vote_for(vote: Option<StoredVote>, entries: &[LogEntry], node: NodeId) -> Option<StoredVote> {
    let last_term = entries.last().map_or(0, |entry| entry.id.term);
    let ours = StoredVote { term: last_term, node: node.get(), committed: false };
    if vote.is_none_or(|vote| vote.term < last_term) { Some(ours) } else { vote }
}

/// The first index at which the peer's committed entries are to replace ours, of which all in `span` that verify are given: where
/// they are known to differ, or where ours is damaged. `None` when they do not reach our last entry, nor one of ours
/// that cannot be the committed one: nothing is known then of what this node acknowledged behind them. Pure.
fn first_replaced(ours: &BTreeMap<u64, EntryId>, span: Range<u64>, theirs: &[EntryId]) -> Option<u64> {
    let is_dense = theirs.iter().zip(span.start..).all(|(id, index)| id.index == index);
    if !is_dense || theirs.is_empty() {
        return None;
    }
    // Terms never fall along a log: ours at an index is of no later term than ours behind it.
    let is_other = |id: &&EntryId| {
        let ours_here = ours.range(id.index..).next().map(|(_, ours)| ours);
        ours_here.is_some_and(|ours| if ours.index == id.index { ours != *id } else { ours.term < id.term })
    };
    let is_known_to_end =
        theirs.iter().any(|id| is_other(&id)) || theirs.last().is_some_and(|id| id.index + 1 >= span.end);
    let first = theirs.iter().find(|id| ours.get(&id.index) != Some(id));
    first.filter(|_| is_known_to_end).map(|id| id.index)
}

/// Reads the log past its one damaged entry, from its committed mark on.
fn standing(place: &Place) -> Result<Option<Standing>, StoreError> {
    let survey = survey(place)?;
    let newest_sequence =
        survey.live.iter().chain(&survey.dead).map(|found| found.header.sequence).max().unwrap_or_default();
    let successors: Vec<_> = (0..survey.live.len()).map(|number| survey.successors(number)).collect();
    let mut live: Vec<(Found, Successors)> = survey.live.into_iter().zip(successors).collect();
    let Some((last, _)) = live.pop() else { return Ok(None) };
    let last_bytes = read_whole(place, &last)?;
    let Some((last_scan, mut damaged)) = past_damage(&last_bytes, Successors::None) else { return Ok(None) };
    let committed = last_scan.state.committed;
    let mut ours = places(&last_scan, &last_bytes, u64::MAX);
    let mut first = last.header;
    // Backwards, as far as entries behind the committed mark go.
    while committed.is_none_or(|committed| first.base_index > committed.index)
        && let Some((found, successors)) = live.pop()
    {
        let Successors::Some { live_end } = successors else { return Ok(None) };
        let bytes = read_whole(place, &found)?;
        let Some((scanned, damaged_here)) = past_damage(&bytes, successors) else { return Ok(None) };
        if damaged_here.is_some() && damaged.is_some() {
            return Ok(None);
        }
        damaged = damaged.or(damaged_here);
        ours.extend(places(&scanned, &bytes, live_end));
        first = found.header;
    }
    let before = (first.base_index > 0).then(|| EntryId { term: first.base_term, index: first.base_index - 1 });
    let (before, start) = match committed.filter(|committed| committed.index >= first.base_index) {
        None => (before, first_place(&first)),
        Some(committed) => match ours.get(&committed.index) {
            Some(&(id, at)) if id == committed => (Some(id), at),
            _ => return Ok(None),
        },
    };
    let next_index = last_scan.next_index;
    let is_replaceable = damaged.is_some_and(|index| (start.index..next_index).contains(&index));
    Ok(is_replaceable.then_some(Standing {
        ours,
        start,
        before,
        next_index,
        last,
        last_bytes,
        last_scan,
        newest_sequence,
    }))
}

/// What a segment holds, and the index of its entry that is damaged, if one is; `None` when more is.
fn past_damage(bytes: &[u8], successors: Successors) -> Option<(Scan, Option<u64>)> {
    if let Ok(scanned) = scan(bytes, successors) {
        return Some((scanned, None));
    }
    let scanned = scan_past_entry(bytes, successors)?;
    let entries =
        scanned.frames.iter().filter(|frame| frame.head.kind.is_entry()).filter_map(|frame| index_of(frame, bytes));
    let damaged = entries.zip(scanned.header.base_index..).find(|(index, expected)| index != expected);
    let damaged = damaged.map_or(scanned.next_index - 1, |(_, expected)| expected);
    Some((scanned, Some(damaged)))
}

fn payload_of<'a>(frame: &FoundFrame, bytes: &'a [u8]) -> Option<&'a [u8]> {
    let start = frame.position as usize + FRAME_HEADER_BYTES;
    bytes.get(start..start + frame.head.length)
}

fn index_of(frame: &FoundFrame, bytes: &[u8]) -> Option<u64> {
    payload_of(frame, bytes).map(|payload| parse_prefix(payload).0.index)
}

/// Entries of a segment below an index, each with the place after it.
fn places(scanned: &Scan, bytes: &[u8], live_end: u64) -> BTreeMap<u64, (EntryId, Point)> {
    let entries = scanned.frames.iter().filter(|frame| frame.head.kind.is_entry());
    let place = |frame: &FoundFrame| {
        let payload = payload_of(frame, bytes)?;
        let (id, _) = parse_prefix(payload);
        Some((id.index, (id, first_place(&scanned.header).after(&frame.head, payload))))
    };
    entries.filter_map(place).filter(|(index, _)| *index < live_end).collect()
}

/// Where a segment's entries begin.
fn first_place(header: &SegmentHeader) -> Point {
    Point { position: 0, previous_crc: 0, index: header.base_index, offset: header.base_offset }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(term: u64, index: u64) -> EntryId {
        EntryId { term, index }
    }

    /// Our entries by (term, index); the span is from 4 to the end given, and one is damaged: the one that is missing.
    fn first(ours: &[(u64, u64)], end: u64, theirs: &[(u64, u64)]) -> Option<u64> {
        let ours = ours.iter().map(|&(term, index)| (index, id(term, index))).collect();
        let theirs: Vec<EntryId> = theirs.iter().map(|&(term, index)| id(term, index)).collect();
        first_replaced(&ours, 4..end, &theirs)
    }

    #[test]
    fn a_damaged_last_entry_is_replaced_once_the_peer_has_committed_as_far() {
        assert_eq!(first(&[(1, 4)], 6, &[(1, 4), (2, 5)]), Some(5));
        assert_eq!(first(&[(1, 4)], 6, &[(1, 4)]), None);
        assert_eq!(first(&[(1, 4)], 6, &[]), None);
    }

    #[test]
    fn what_may_have_been_acknowledged_behind_the_peers_end_stays() {
        assert_eq!(first(&[(1, 4), (1, 6)], 7, &[(1, 4), (1, 5)]), None, "6 may be committed");
        assert_eq!(first(&[(1, 4), (1, 6)], 7, &[(1, 4), (1, 5), (1, 6)]), Some(5));
        assert_eq!(first(&[(1, 4), (2, 6)], 7, &[(1, 4), (2, 5)]), None, "5 may be ours, and then 6 may be committed");
    }

    #[test]
    fn from_an_entry_on_that_cannot_be_the_committed_one_nothing_needs_to_be_reached() {
        assert_eq!(first(&[(1, 4), (1, 6), (1, 7)], 8, &[(1, 4), (2, 5)]), Some(5), "ours at 5 is of term 1 at most");
        assert_eq!(first(&[(1, 4), (1, 5), (1, 7)], 8, &[(2, 4)]), Some(4), "before the damage");
        assert_eq!(first(&[(1, 4), (2, 6), (2, 7)], 8, &[(1, 4), (1, 5), (3, 6)]), Some(5), "behind the damage");
    }

    #[test]
    fn what_is_not_dense_from_our_committed_mark_on_is_not_taken() {
        assert_eq!(first(&[(1, 4)], 6, &[(1, 5)]), None);
        assert_eq!(first(&[(1, 4)], 6, &[(1, 4), (2, 6)]), None);
        assert_eq!(first(&[(1, 4)], 6, &[(1, 4), (2, 5), (2, 6), (2, 7)]), Some(5), "more than asked for is welcome");
    }
}
