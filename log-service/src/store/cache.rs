//! The tail cache: the last entries of a log, in memory, contiguous up to the end.
//!
//! * Holds everything that is not durable yet (it cannot be read from a file), and behind that as much as its limit allows.
//! * Batches share the bytes that were written; nothing is copied.

use super::types::LogEntry;
use duramen_common::ids::Offset;
use std::collections::VecDeque;

/// Memory that an entry takes besides its bytes, about.
const ENTRY_OVERHEAD_BYTES: usize = 160;

/// An entry with its place.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The entry; a batch has its first offset set.
    pub entry: LogEntry,
    /// Offset of its first record, or the end before it.
    pub first_offset: Offset,
}

impl Placed {
    /// First offset after it.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.first_offset.plus(self.entry.body.offset_count())
    }

    fn bytes(&self) -> usize {
        self.entry.body.bytes_len() + ENTRY_OVERHEAD_BYTES
    }
}

/// The last entries.
#[derive(Debug, Default)]
pub struct TailCache {
    entries: VecDeque<Placed>,
    bytes: usize,
}

impl TailCache {
    /// Adds the next entry.
    pub fn push(&mut self, placed: Placed) {
        debug_assert!(self.entries.back().is_none_or(|last| last.entry.id.index + 1 == placed.entry.id.index));
        self.bytes += placed.bytes();
        self.entries.push_back(placed);
    }

    /// Index of the first entry held.
    #[must_use]
    pub fn first_index(&self) -> Option<u64> {
        self.entries.front().map(|placed| placed.entry.id.index)
    }

    /// Removes entries from this index on.
    pub fn truncate(&mut self, next_index: u64) {
        while self.entries.back().is_some_and(|last| last.entry.id.index >= next_index) {
            self.bytes -= self.entries.pop_back().map_or(0, |placed| placed.bytes());
        }
    }

    /// Lets go of the oldest durable entries while more than `bytes_max` is held.
    pub fn evict(&mut self, durable_next_index: u64, bytes_max: usize) {
        while self.bytes > bytes_max
            && self.entries.front().is_some_and(|first| first.entry.id.index < durable_next_index)
        {
            self.bytes -= self.entries.pop_front().map_or(0, |placed| placed.bytes());
        }
    }

    /// Entries from an index on; empty when that index is not held.
    pub fn since_index(&self, index: u64) -> impl Iterator<Item = &Placed> {
        let skip =
            self.first_index().and_then(|first| index.checked_sub(first)).map_or(usize::MAX, |skip| skip as usize);
        self.entries.range(skip.min(self.entries.len())..)
    }

    /// Entries from the one that holds `offset` on; `None` when it begins before what is held.
    pub fn since_offset(&self, offset: Offset) -> Option<impl Iterator<Item = &Placed>> {
        if self.entries.front()?.first_offset > offset {
            return None;
        }
        let skip = self.entries.partition_point(|placed| placed.end() <= offset);
        Some(self.entries.range(skip..))
    }
}
