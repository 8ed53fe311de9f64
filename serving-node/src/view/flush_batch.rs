//! One flush: what goes into the index, and how the partition's set hash changes with it.
//!
//! * In: a closed generation, and what the index holds under its keys. Out: one sorted batch, each key once, with the meta that
//!   belongs to it.
//! * The entries that are replaced or removed are read, because the set hash loses them. They are verified like any other read.
//! * Invariant: nobody but the flusher and a wipe writes a partition's entries, so that what is read here is still there when
//!   the batch goes in, or the partition was wiped.
//! * Source: DESIGN D8; ADR 0012.

use super::PartitionView;
use super::overlay::Flushing;
use crate::index::layout::{self, PartitionMeta, Sealed, chunk_of};
use crate::index::{IndexFault, SetHash, Writes};
use duramen_common::planted::{Plant, is_planted};
use std::ops::{Bound, ControlFlow};

/// What one flush writes.
pub(super) struct FlushBatch {
    pub writes: Writes,
    /// How each write changes the set, in the same order.
    pub changes: Vec<SetHash>,
    /// The set once they are written.
    pub set: SetHash,
}

impl FlushBatch {
    fn push(&mut self, key: Vec<u8>, old: Option<u128>, new: Option<Sealed>) {
        let mut change = SetHash::default();
        old.into_iter().for_each(|old| change.remove(old));
        new.iter().for_each(|new| change.insert(new.hash));
        self.set.merge(change);
        self.changes.push(change);
        self.writes.push((key, new.map(|new| new.bytes)));
    }
}

impl PartitionView {
    /// The batch for a generation.
    pub(super) fn flush_batch(&self, flushing: &Flushing) -> Result<FlushBatch, IndexFault> {
        let updates = &flushing.generation.updates;
        let count = updates.len() + flushing.chunks.len() + 1;
        let set = *self.set.lock();
        let mut batch = FlushBatch { writes: Vec::with_capacity(count), changes: Vec::with_capacity(count), set };
        for (key, entry) in updates {
            let key = layout::data_key(self.partition, key);
            let old = self.stored_hash(&key)?;
            let new = entry.value.as_ref().map(|value| layout::encode_item(&key, entry.version, value));
            batch.push(key, old, new);
        }
        let meta_at = batch.writes.len();
        batch.writes.push((layout::meta_key(self.partition), None));
        batch.changes.push(SetHash::default());
        self.forget_chunks(flushing, &mut batch)?;
        for (&number, chunk) in &flushing.chunks {
            let key = layout::chunk_key(self.partition, number);
            let old = self.stored_hash(&key)?;
            let new = layout::encode_chunk(&key, chunk);
            batch.push(key, old, Some(new));
        }
        let meta = PartitionMeta {
            persisted_end: flushing.applied_end,
            settled_end: flushing.settled_end,
            last: flushing.last,
            set: batch.set,
        };
        let meta = if is_planted(Plant::AppliedEndBeforeData) {
            PartitionMeta { persisted_end: self.committed_end_hint(), last: None, ..meta }
        } else {
            meta
        };
        batch.writes[meta_at].1 = Some(meta.encode(self.partition));
        debug_assert!(batch.writes.is_sorted_by(|(before, _), (after, _)| before < after), "each key once, in order");
        Ok(batch)
    }

    /// The hash of what the index holds under a key, verified.
    fn stored_hash(&self, key: &[u8]) -> Result<Option<u128>, IndexFault> {
        let stored = self.index.get(key)?;
        stored.map(|bytes| layout::verified_hash(key, &bytes)).transpose()
    }

    /// Removes the chunks of outcomes in the index that lie wholly below the settled end.
    fn forget_chunks(&self, flushing: &Flushing, batch: &mut FlushBatch) -> Result<(), IndexFault> {
        let (first, end) = (self.frontiers.lock().forgotten_chunk, chunk_of(flushing.settled_end));
        if first >= end {
            return Ok(());
        }
        let (low, high) = (layout::chunk_key(self.partition, first), layout::chunk_key(self.partition, end));
        let mut fault = None;
        self.index.range(Bound::Included(&low), Bound::Excluded(&high), &mut |key, bytes| {
            match layout::verified_hash(key, bytes) {
                Ok(old) => batch.push(key.to_vec(), Some(old), None),
                Err(error) => fault = Some(error),
            }
            if fault.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        fault.map_or(Ok(()), Err)
    }
}
