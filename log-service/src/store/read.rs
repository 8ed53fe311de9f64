//! Reading a partition's log: by index for Raft, by offset for fetches; from the tail cache, or the files.
//!
//! * Invariant: only what verifies leaves here. Damage that is met is an error with file and position, and is noted, so
//!   that the next start reads every byte of the partition and has it repaired (`suspect`).
//! * Files are read outside the lock; callers that must not block ask `holds_index` and `holds_offset` first.
//! * Source: DESIGN D2, D3.

use super::StoreError;
use super::frame::{FrameKind, parse_entry};
use super::partition::{PartitionLog, Shared};
use super::segment::{Segment, Walk};
use super::suspect;
use super::types::{EntryBody, EntryId, LogEntry};
use bytes::Bytes;
use duramen_common::ids::Offset;
use duramen_common::protocol::BatchId;
use duramen_common::seams::Threads;

impl PartitionLog {
    /// Whether entries from this index on are in memory: reading them waits for no disk. Others may take as long as it takes
    /// to read and check a segment, and belong on a thread that may block.
    #[must_use]
    pub fn holds_index(&self, index: u64) -> bool {
        let inner = self.shared.inner.lock();
        index >= inner.next_index || inner.cache.first_index().is_some_and(|first| first <= index)
    }

    /// Whether this very entry is in the log. Reads a file where it is not in memory.
    #[must_use]
    pub fn holds(&self, id: EntryId) -> bool {
        let found = self.read_entries(id.index, id.index + 1, 0);
        found.is_ok_and(|entries| entries.first().is_some_and(|entry| entry.id == id))
    }

    /// Where those belong.
    #[must_use]
    pub fn threads(&self) -> Threads {
        self.shared.sync.threads
    }

    /// The same for records from this offset on.
    #[must_use]
    pub fn holds_offset(&self, offset: Offset) -> bool {
        let inner = self.shared.inner.lock();
        offset >= inner.ends.append_end || inner.cache.since_offset(offset).is_some()
    }

    /// Entries of an index range in order, up to `bytes_max` of bodies, but at least one where one exists.
    pub fn read_entries(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<LogEntry>, StoreError> {
        self.shared.noting_damage(self.entries_within(start, end, bytes_max))
    }

    fn entries_within(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<LogEntry>, StoreError> {
        let mut found: Vec<LogEntry> = Vec::new();
        let mut bytes = 0;
        let mut next = start;
        loop {
            let (segment, live_end, file_end) = {
                let inner = self.shared.inner.lock();
                next = next.max(inner.first_index);
                let end = end.min(inner.next_index);
                if next >= end {
                    return Ok(found);
                }
                let cache_start = inner.cache.first_index().unwrap_or(u64::MAX);
                if cache_start <= next {
                    for placed in inner.cache.since_index(next).take((end - next) as usize) {
                        bytes += placed.entry.body.bytes_len();
                        if bytes > bytes_max && !found.is_empty() {
                            break;
                        }
                        found.push(placed.entry.clone());
                    }
                    return Ok(found);
                }
                match inner.segment_of_index(next) {
                    Some((segment, live_end)) => (segment, live_end, end.min(cache_start)),
                    None => return Ok(found),
                }
            };
            let stop = live_end.min(file_end);
            let before = next;
            let mut walk = segment.walk_to_index(next)?;
            while next < stop {
                let Some(entry) = next_entry(&segment, &mut walk)? else { break };
                if entry.id.index < next {
                    continue;
                }
                bytes += entry.body.bytes_len();
                if bytes > bytes_max && !found.is_empty() {
                    return Ok(found);
                }
                next = entry.id.index + 1;
                found.push(entry);
            }
            if next == before {
                return Ok(found);
            }
        }
    }

    /// Batches that hold offsets of `from..to`, in order, up to `bytes_max`, but at least one where one exists. The first
    /// may begin before `from`.
    pub fn read_from(&self, from: Offset, to: Offset, bytes_max: usize) -> Result<Vec<(BatchId, Bytes)>, StoreError> {
        self.shared.noting_damage(self.batches_within(from, to, bytes_max))
    }

    fn batches_within(&self, from: Offset, to: Offset, bytes_max: usize) -> Result<Vec<(BatchId, Bytes)>, StoreError> {
        let mut found: Vec<(BatchId, Bytes)> = Vec::new();
        let mut bytes = 0;
        let mut next = from;
        while next < to {
            let (segment, live_end) = {
                let inner = self.shared.inner.lock();
                if next >= inner.ends.append_end || next < inner.ends.first_offset {
                    return Ok(found);
                }
                if let Some(cached) = inner.cache.since_offset(next) {
                    for placed in cached.take_while(|placed| placed.first_offset < to) {
                        let EntryBody::Batch(batch) = &placed.entry.body else { continue };
                        bytes += batch.bytes().len();
                        if bytes > bytes_max && !found.is_empty() {
                            break;
                        }
                        found.push((placed.entry.id, batch.bytes().clone()));
                    }
                    return Ok(found);
                }
                match inner.segment_of_offset(next) {
                    Some(place) => place,
                    None => return Ok(found),
                }
            };
            let before = next;
            let mut walk = segment.walk_to_offset(next)?;
            while walk.next_index() < live_end
                && let Some(entry) = next_entry(&segment, &mut walk)?
            {
                let EntryBody::Batch(batch) = entry.body else { continue };
                if batch.header().end() <= next {
                    continue;
                }
                if batch.header().first_offset >= to {
                    return Ok(found);
                }
                bytes += batch.bytes().len();
                if bytes > bytes_max && !found.is_empty() {
                    return Ok(found);
                }
                next = batch.header().end();
                found.push((entry.id, batch.bytes().clone()));
            }
            if next == before {
                return Ok(found);
            }
        }
        Ok(found)
    }

    /// First offset and number of offsets of an entry; `None` when it is not in the log.
    pub fn offset_of_index(&self, index: u64) -> Result<Option<(Offset, u32)>, StoreError> {
        self.shared.noting_damage(self.place_of_index(index))
    }

    fn place_of_index(&self, index: u64) -> Result<Option<(Offset, u32)>, StoreError> {
        let segment = {
            let inner = self.shared.inner.lock();
            if index < inner.first_index || index >= inner.next_index {
                return Ok(None);
            }
            if let Some(placed) = inner.cache.since_index(index).next() {
                return Ok(Some((placed.first_offset, placed.entry.body.offset_count() as u32)));
            }
            inner.segment_of_index(index)
        };
        let Some((segment, _)) = segment else { return Ok(None) };
        let mut walk = segment.walk_to_index(index)?;
        while let Some(frame) = walk.next_frame()? {
            if frame.head.kind.is_entry() && frame.at.index == index {
                let (_, first_offset) = super::frame::parse_prefix(&frame.payload);
                let count = frame.at.after(&frame.head, &frame.payload).offset.since(first_offset);
                return Ok(Some((first_offset, count as u32)));
            }
        }
        Ok(None)
    }

    /// The batch whose end is `offset`; `None` when no batch ends there.
    pub fn batch_id_ending_at(&self, offset: Offset) -> Result<Option<BatchId>, StoreError> {
        let Some(last) = offset.previous() else { return Ok(None) };
        let found = self.read_from(last, offset, 0)?;
        let Some((id, bytes)) = found.first() else { return Ok(None) };
        let header = duramen_common::batch::BatchHeader::parse(bytes);
        Ok(header.ok().filter(|header| header.end() == offset).map(|_| *id))
    }
}

impl Shared {
    /// Passes a reader's result on; damage leaves its mark on the medium first.
    fn noting_damage<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error @ StoreError::Corrupt { .. }) = &result {
            tracing::error!(partition = %self.partition, %error, "damage was met: restart this node, which repairs it");
            if let Err(unmarked) = suspect::mark(self.writer.lock().place()) {
                tracing::error!(partition = %self.partition, error = %unmarked, "the damage could not be noted");
            }
        }
        result
    }
}

/// The next entry of a walk, past control frames.
pub(super) fn next_entry(segment: &Segment, walk: &mut Walk<'_>) -> Result<Option<LogEntry>, StoreError> {
    while let Some(frame) = walk.next_frame()? {
        if matches!(frame.head.kind, FrameKind::State | FrameKind::Marker) {
            continue;
        }
        let entry = parse_entry(frame.head.kind, &frame.payload).map_err(|what| StoreError::Corrupt {
            file: segment.path().to_path_buf(),
            position: frame.at.position,
            what: what.to_owned(),
            index: frame.at.index,
        })?;
        return Ok(Some(entry));
    }
    Ok(None)
}
