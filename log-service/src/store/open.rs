//! Opening a partition: which files count, what they still hold, and what is done before Raft may start.
//!
//! * The last segment is read whole; older ones are only measured (their frames are verified whenever they are read),
//!   but for what the duplicate table needs.
//! * Everything above the recorded durable end is rewritten in place and synced, the rest of the file cut, the folder
//!   synced: bytes found in the page cache were perhaps never synced, and openraft counts what it recovers as flushed.
//! * Every run writes into a segment of its own, with a random id of its own: nothing of an earlier tail can pass.
//! * Source: DESIGN D2 "Recovery"; `recover` decides, this performs.

use super::StoreError;
use super::cache::TailCache;
use super::dedup::{BatchIds, DedupTable};
use super::frame::{HeaderError, SEGMENT_FORMAT, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::handles::Handle;
use super::partition::{Inner, PartitionLog, Shared};
use super::recover::{Scan, ScanError, Successors, scan};
use super::segment::{Point, Segment};
use super::suspect;
use super::sync::SyncShared;
use super::types::{Damage, Ends, EntryId, StoreIdentity};
use super::writer::{Base, Place, SEGMENT_SUFFIX, UNNAMED};
use crate::disk::DiskFile;
use duramen_common::batch::RecordBatch;
use duramen_common::ids::Offset;
use duramen_common::planted::{Plant, is_planted};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{Notify, watch};

/// Bytes of batches read at once while the duplicate table is rebuilt.
const REBUILD_BYTES: usize = 4 * 1024 * 1024;

/// Bytes read at once where only zeros should be.
const ZEROS_READ_BYTES: usize = 64 * 1024;

/// A segment file whose header was read.
pub(super) struct Found {
    pub header: SegmentHeader,
    pub path: PathBuf,
    pub length: u64,
}

impl Found {
    /// Opens it. However many segments there are, few are open at a time.
    pub fn open(&self, place: &Place) -> Result<Arc<dyn DiskFile>, StoreError> {
        place.io("opening", &self.path, place.disk.open(&self.path, false))
    }

    fn segment(&self, place: &Place, end: u64) -> Segment {
        Segment::new(self.header, Handle::closed(&place.disk, &self.path, &place.files), end, false)
    }
}

/// The segments that count, in order, and those that do not.
pub(super) struct Survey {
    pub live: Vec<Found>,
    pub dead: Vec<Found>,
}

impl Survey {
    /// What follows the live segment at that place.
    pub fn successors(&self, number: usize) -> Successors {
        let later = self.live.iter().skip(number + 1).map(|found| found.header.base_index);
        later.min().map_or(Successors::None, |live_end| Successors::Some { live_end })
    }
}

/// Opens a partition's log, or makes it.
pub(super) fn open(place: &Place, sync: &Arc<SyncShared>) -> Result<PartitionLog, StoreError> {
    place.io("creating", &place.folder, place.disk.create_dir_all(&place.folder))?;
    if let Some(Damage { file, position, what, index }) = suspect::examine(place)? {
        return Err(StoreError::Corrupt { file, position, what, index });
    }
    let survey = survey(place)?;
    let Some((last, older)) = survey.live.split_last() else {
        let base = Base { index: 0, offset: Offset::ZERO, term: 0, baseline: false };
        let writer = place.create_segment(0, base, None, &super::SmallState::default())?;
        return start(place, sync, Vec::new(), writer, None);
    };
    let bytes = read_whole(place, last)?;
    let found = scan(&bytes, Successors::None).map_err(|error| scan_error(&last.path, error))?;
    secure_tail(place, last, &bytes, &found)?;
    let (last_id, append_end) = ends_of(&bytes, &found);
    let empty = found.next_index == found.header.base_index;
    let (previous, baseline) = if empty {
        (found.header.previous, found.header.baseline)
    } else {
        (Some((found.header.sequence, found.end)), false)
    };
    let base = Base { index: found.next_index, offset: append_end, term: last_id.map_or(0, |id| id.term), baseline };
    let newest = survey.dead.iter().map(|dead| dead.header.sequence).fold(found.header.sequence, u64::max);
    let writer = place.create_segment(newest + 1, base, previous, &found.state)?;
    let mut segments: Vec<Arc<Segment>> =
        older.iter().map(|older| Arc::new(older.segment(place, older.length))).collect();
    let closed = last.segment(place, found.end);
    if empty {
        place.discard(Arc::new(closed))?;
    } else {
        segments.push(Arc::new(closed));
    }
    for dead in survey.dead {
        place.discard(Arc::new(dead.segment(place, dead.length)))?;
    }
    start(place, sync, segments, writer, Some((found, last_id, append_end)))
}

/// Builds the log in memory over its segments.
fn start(
    place: &Place,
    sync: &Arc<SyncShared>,
    mut segments: Vec<Arc<Segment>>,
    writer: super::writer::Writer,
    found: Option<(Scan, Option<EntryId>, Offset)>,
) -> Result<PartitionLog, StoreError> {
    segments.push(Arc::clone(writer.segment()));
    let (mut small, last_id, append_end, next_index) = match found {
        None => (super::SmallState::default(), None, Offset::ZERO, 0),
        Some((found, last_id, append_end)) => (found.state, last_id, append_end, found.next_index),
    };
    let first = segments.first().expect("the writer's segment is there");
    let first_offset = first.header.base_offset;
    let first_index = first.header.base_index.max(small.purged.map_or(0, |purged| purged.index + 1));
    let last = last_id.max_by_index(small.purged);
    // A mark beyond the log: its entries were lost with a tail that was never acknowledged from here. What is before them is committed
    // with them: a group of writes holds entries of one term only, for openraft waits for a vote before it appends in its term.
    if small.committed.is_some_and(|committed| last.is_none_or(|last| last.index < committed.index)) {
        small.committed = last;
    }
    let ends = Ends { first_offset, committed_end: first_offset, durable_end: append_end, append_end };
    let inner = Inner {
        segments,
        small: small.clone(),
        small_dirty: false,
        unmarked: false,
        first_index,
        next_index,
        last,
        ends,
        committed_offset: first_offset,
        durable_next: next_index,
        cache: TailCache::default(),
        waiting: VecDeque::new(),
        waiting_bytes: 0,
        cut: None,
        dedup: DedupTable::new(sync.config.dedup_window, first_offset),
    };
    let shared = Arc::new(Shared {
        partition: place.partition,
        inner: Mutex::new(inner),
        writer: Mutex::new(writer),
        drained: Notify::new(),
        durable_watch: watch::Sender::new(append_end),
        committed_watch: watch::Sender::new(first_offset),
        sync: Arc::clone(sync),
    });
    let log = PartitionLog { shared };
    if let Some(committed) = small.committed {
        let offset_end = committed_offset(&log, committed, append_end, next_index)?;
        log.advance_committed(committed, offset_end, None);
    }
    rebuild_dedup(&log)?;
    sync.register(&log.shared);
    Ok(log)
}

trait MaxByIndex {
    fn max_by_index(self, other: Option<EntryId>) -> Option<EntryId>;
}

impl MaxByIndex for Option<EntryId> {
    fn max_by_index(self, other: Option<EntryId>) -> Option<EntryId> {
        [self, other].into_iter().flatten().max_by_key(|id| id.index)
    }
}

/// First offset after a committed entry.
fn committed_offset(
    log: &PartitionLog,
    committed: EntryId,
    append_end: Offset,
    next_index: u64,
) -> Result<Offset, StoreError> {
    if committed.index + 1 >= next_index {
        return Ok(append_end);
    }
    let found = log.offset_of_index(committed.index)?;
    Ok(found.map_or(log.ends().first_offset, |(offset, count)| offset.plus(u64::from(count))))
}

/// Reads the last W offsets back into the duplicate table.
fn rebuild_dedup(log: &PartitionLog) -> Result<(), StoreError> {
    let ends = log.ends();
    let window_start = ends.committed_end.minus_saturating(log.shared.sync.config.dedup_window).max(ends.first_offset);
    let mut table: Option<DedupTable> = None;
    let mut next = window_start;
    while next < ends.append_end {
        let batches = log.read_from(next, ends.append_end, REBUILD_BYTES)?;
        if batches.is_empty() {
            break;
        }
        for (_, bytes) in batches {
            let Ok(batch) = RecordBatch::parse(bytes) else { break };
            let window = log.shared.sync.config.dedup_window;
            let table = table.get_or_insert_with(|| DedupTable::new(window, batch.header().first_offset));
            table.insert(&BatchIds::of(&batch));
            next = batch.header().end();
        }
    }
    let mut inner = log.shared.inner.lock();
    inner.dedup = table.unwrap_or_else(|| DedupTable::new(log.shared.sync.config.dedup_window, ends.append_end));
    inner.dedup.evict(ends.committed_end);
    Ok(())
}

/// Finds the segments and follows their chain back from the last.
pub(super) fn survey(place: &Place) -> Result<Survey, StoreError> {
    let names = place.io("listing", &place.folder, place.disk.list(&place.folder))?;
    let mut found = Vec::new();
    for name in names {
        let path = place.folder.join(&name);
        if name == UNNAMED {
            place.io("removing", &path, place.disk.remove(&path))?;
        } else if name.ends_with(SEGMENT_SUFFIX) {
            found.push(read_header(place, path)?);
        }
    }
    let mut live: Vec<Found> = Vec::new();
    let mut dead = Vec::new();
    while let Some(mut candidate) = found.pop() {
        let Some(wanted) = live.last().map(|last| (last.header, last.path.clone())) else {
            live.push(candidate);
            continue;
        };
        match wanted.0.previous {
            Some((sequence, end)) if sequence == candidate.header.sequence => {
                if candidate.length > end && is_zeros_after(place, &candidate, end)? {
                    cut(place, &mut candidate, end)?;
                }
                if end != candidate.length {
                    return Err(missing(&candidate.path, candidate.length.min(end), candidate.header.base_index));
                }
                live.push(candidate);
            }
            Some((sequence, _)) if sequence > candidate.header.sequence => {
                return Err(missing(&place.segment_path(sequence), 0, candidate.header.base_index));
            }
            _ => dead.push(candidate),
        }
    }
    if let Some(first) = live.last()
        && let Some((sequence, _)) = first.header.previous
    {
        return Err(missing(&place.segment_path(sequence), 0, 0));
    }
    live.reverse();
    Ok(Survey { live, dead })
}

/// Whether a closed segment is longer than its successor says by space that was taken ahead and never written.
fn is_zeros_after(place: &Place, found: &Found, end: u64) -> Result<bool, StoreError> {
    let file = found.open(place)?;
    let mut piece = vec![0; ZEROS_READ_BYTES];
    let mut position = end;
    while position < found.length {
        let count = place.io("reading", &found.path, file.read_at(&mut piece, position))?;
        if count == 0 || piece.iter().take(count).any(|&byte| byte != 0) {
            return Ok(count == 0);
        }
        position += count as u64;
    }
    Ok(true)
}

/// Cuts a closed segment to its end, durably.
fn cut(place: &Place, found: &mut Found, end: u64) -> Result<(), StoreError> {
    tracing::warn!(file = %found.path.display(), length = found.length, end, "empty space after a segment's end is cut off");
    let file = found.open(place)?;
    place.io("cutting", &found.path, file.set_len(end))?;
    place.io("syncing", &found.path, file.sync_data())?;
    found.length = end;
    Ok(())
}

fn missing(path: &Path, position: u64, index: u64) -> StoreError {
    let what = "its end is not where the segment after it says (cut off, extended or missing)".to_owned();
    StoreError::Corrupt { file: path.to_path_buf(), position, what, index }
}

fn read_header(place: &Place, path: PathBuf) -> Result<Found, StoreError> {
    let file = place.io("opening", &path, place.disk.open(&path, false))?;
    let length = place.io("measuring", &path, file.len())?;
    let mut bytes = vec![0; SEGMENT_HEADER_BYTES];
    let count = place.io("reading", &path, file.read_at(&mut bytes, 0))?;
    bytes.truncate(count);
    let header = SegmentHeader::parse(&bytes).map_err(|error| header_error(&path, error))?;
    let belongs = header.identity == place.identity && header.partition == place.partition;
    if !belongs || path != place.segment_path(header.sequence) {
        return Err(foreign(place, path, &header));
    }
    Ok(Found { header, path, length })
}

/// A segment that is not this partition's, or not the one that its name says. The names differ even where all else is equal.
fn foreign(place: &Place, path: PathBuf, header: &SegmentHeader) -> StoreError {
    let name = |file: &Path, identity: StoreIdentity, partition| {
        let file = file.file_name().unwrap_or_default().to_string_lossy();
        let StoreIdentity { history, store } = identity;
        format!("{file} of history {history}, store {store}, partition {partition}")
    };
    StoreError::Foreign {
        found: name(&place.segment_path(header.sequence), header.identity, header.partition),
        wanted: name(&path, place.identity, place.partition),
        file: path,
    }
}

fn header_error(path: &Path, error: HeaderError) -> StoreError {
    let file = path.to_path_buf();
    match error {
        HeaderError::Format(found) => StoreError::Format { file, found, known: SEGMENT_FORMAT },
        HeaderError::Damaged(what) => StoreError::Corrupt { file, position: 0, what: what.to_owned(), index: 0 },
    }
}

pub(super) fn scan_error(path: &Path, error: ScanError) -> StoreError {
    match error {
        ScanError::Format(found) => header_error(path, HeaderError::Format(found)),
        ScanError::Damaged { position, what, index } => {
            StoreError::Corrupt { file: path.to_path_buf(), position, what: what.to_owned(), index }
        }
    }
}

pub(super) fn read_whole(place: &Place, found: &Found) -> Result<Vec<u8>, StoreError> {
    let mut bytes = vec![0; found.length as usize];
    let count = place.io("reading", &found.path, found.open(place)?.read_at(&mut bytes, 0))?;
    bytes.truncate(count);
    Ok(bytes)
}

/// Makes what will count really durable, and removes the rest of the file.
fn secure_tail(place: &Place, last: &Found, bytes: &[u8], found: &Scan) -> Result<(), StoreError> {
    let file = last.open(place)?;
    if last.length > found.end && !is_planted(Plant::TornTailNotCut) {
        place.io("cutting", &last.path, file.set_len(found.end))?;
    }
    if is_planted(Plant::RecoveredTailNotSynced) {
        return Ok(());
    }
    let tail = bytes.get(found.durable_end as usize..found.end as usize).unwrap_or_default();
    if !tail.is_empty() {
        place.io("rewriting", &last.path, file.write_at(&[tail], found.durable_end))?;
    }
    place.io("syncing", &last.path, file.sync_data())?;
    place.io("syncing", &place.folder, place.disk.sync_dir(&place.folder))
}

/// The last entry of the log that ends in this segment, and its offset end.
fn ends_of(bytes: &[u8], found: &Scan) -> (Option<EntryId>, Offset) {
    let header = &found.header;
    let before = (header.base_index > 0).then(|| EntryId { term: header.base_term, index: header.base_index - 1 });
    let mut at = Point { position: 0, previous_crc: 0, index: header.base_index, offset: header.base_offset };
    let mut last = before;
    for frame in found.frames.iter().filter(|frame| frame.head.kind.is_entry()) {
        let start = frame.position as usize + super::frame::FRAME_HEADER_BYTES;
        let payload = bytes.get(start..start + frame.head.length).unwrap_or_default();
        last = Some(super::frame::parse_prefix(payload).0);
        at = at.after(&frame.head, payload);
    }
    (last, at.offset)
}
