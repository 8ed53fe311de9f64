//! Which recent records had no effect: a bit an offset, in chunks. Older chunks are in the index only.
//!
//! * Invariant: at most [`CHUNKS_KEPT`] chunks stay in memory, besides those that are not in the index yet.
//! * Invariant: a chunk in memory is whole: `restore` brings back the one that was being filled.
//! * Source: DESIGN D8.

use super::types::Outcome;
use crate::index::layout::{CHUNK_OFFSETS, Chunk, chunk_of};
use duramen_common::Offset;
use std::collections::BTreeMap;

/// Chunks kept in memory for quick answers: outcomes of the last million records at least.
const CHUNKS_KEPT: usize = 2048;

/// Outcomes of one partition.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    chunks: BTreeMap<u64, Chunk>,
    /// Every chunk from here on that has a bit is in `chunks`.
    complete_from: u64,
}

fn bit(offset: Offset) -> (usize, u64) {
    let within = offset.get() % CHUNK_OFFSETS;
    ((within / 64) as usize, 1 << (within % 64))
}

impl Outcomes {
    /// After a restart at `applied_end`, with the stored chunk that holds it.
    pub(super) fn restore(applied_end: Offset, stored: Option<Chunk>) -> Outcomes {
        let number = chunk_of(applied_end);
        Outcomes { chunks: stored.map(|chunk| (number, chunk)).into_iter().collect(), complete_from: number }
    }

    /// Notes a record without effect; says which chunk changed.
    pub(super) fn note_no_effect(&mut self, offset: Offset) -> u64 {
        let (word, mask) = bit(offset);
        let chunk = self.chunks.entry(chunk_of(offset)).or_default();
        chunk[word] |= mask;
        chunk_of(offset)
    }

    /// What an applied record did; `None` when only the index knows.
    pub(super) fn get(&self, offset: Offset) -> Option<Outcome> {
        match self.chunks.get(&chunk_of(offset)) {
            Some(chunk) => Some(outcome_in(chunk, offset)),
            None => (chunk_of(offset) >= self.complete_from).then_some(Outcome::Effective),
        }
    }

    pub(super) fn chunk(&self, number: u64) -> Option<Chunk> {
        self.chunks.get(&number).copied()
    }

    /// Drops chunks that are in the index, oldest first, and those below the settled end. `dirty_from`: chunks from there on
    /// are not in the index yet.
    pub(super) fn trim(&mut self, dirty_from: u64, settled_end: Offset) {
        let settled = chunk_of(settled_end).min(dirty_from);
        while let Some((&first, _)) = self.chunks.first_key_value() {
            if first >= settled && (first >= dirty_from || self.chunks.len() <= CHUNKS_KEPT) {
                break;
            }
            self.chunks.remove(&first);
            self.complete_from = self.complete_from.max(first + 1);
        }
    }
}

/// What a chunk says of an offset in it.
pub(super) fn outcome_in(chunk: &Chunk, offset: Offset) -> Outcome {
    let (word, mask) = bit(offset);
    if chunk[word] & mask == 0 { Outcome::Effective } else { Outcome::NoEffect }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_memory_forgot_is_asked_of_the_index() {
        let mut outcomes = Outcomes::default();
        for number in 0..CHUNKS_KEPT as u64 + 10 {
            outcomes.note_no_effect(Offset::new(number * CHUNK_OFFSETS + 3));
        }
        outcomes.trim(CHUNKS_KEPT as u64 + 9, Offset::ZERO);
        assert_eq!(outcomes.get(Offset::new(3)), None, "it was dropped");
        assert_eq!(outcomes.get(Offset::new(20 * CHUNK_OFFSETS + 3)), Some(Outcome::NoEffect));
        assert_eq!(outcomes.get(Offset::new(20 * CHUNK_OFFSETS + 4)), Some(Outcome::Effective));
    }

    #[test]
    fn what_is_not_in_the_index_yet_is_kept_whatever_else() {
        let mut outcomes = Outcomes::default();
        outcomes.note_no_effect(Offset::new(3));
        outcomes.trim(0, Offset::new(1_000_000));
        assert_eq!(outcomes.get(Offset::new(3)), Some(Outcome::NoEffect));
    }

    #[test]
    fn a_restart_brings_back_the_chunk_that_was_being_filled() {
        let mut stored = Chunk::default();
        stored[0] = 0b1000;
        let mut outcomes = Outcomes::restore(Offset::new(600), Some(stored));
        outcomes.note_no_effect(Offset::new(600));
        assert_eq!(outcomes.get(Offset::new(515)), Some(Outcome::NoEffect));
        assert_eq!(outcomes.get(Offset::new(100)), None, "an older chunk: the index knows");
    }
}
