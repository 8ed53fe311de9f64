//! One flush: what goes into the index, and how the partition's set hash changes with it.
//!
//! * In: a closed generation. Out: one sorted batch, each key once; and the witness of its write, which adds the meta.
//! * The set hash loses the entries that are replaced or removed. The index shows them while it writes, and they are verified
//!   like any other read.
//! * Invariant: nobody but the flusher and a wipe writes a partition's entries.
//! * Source: DESIGN D8; ADR 0012.

use super::PartitionView;
use super::overlay::Flushing;
use super::scrub::Scrub;
use crate::index::layout::{self, PartitionMeta, Sealed, chunk_of};
use crate::index::{IndexFault, SetHash, Witness, Writes};
use duramen_common::PartitionId;
use duramen_common::planted::{Plant, is_planted};
use std::ops::{Bound, ControlFlow};

/// What one flush writes.
pub(super) struct FlushBatch {
    pub writes: Writes,
    /// The hash of what each write puts there.
    new: Vec<Option<u128>>,
}

impl FlushBatch {
    fn push(&mut self, key: Vec<u8>, new: Option<Sealed>) {
        self.new.push(new.as_ref().map(|new| new.hash));
        self.writes.push((key, new.map(|new| new.bytes)));
    }
}

/// Follows a flush's write: takes what is replaced out of the set hash, and what is new in.
pub(super) struct FlushWitness<'a> {
    partition: PartitionId,
    new: Vec<Option<u128>>,
    /// Without the set, until all was seen.
    meta: PartitionMeta,
    set: SetHash,
    /// How much of the change lies in what a scrub has passed.
    passed: Option<&'a [u8]>,
    scrubbed: SetHash,
}

impl<'a> FlushWitness<'a> {
    /// For a flush onto `set`, while `scrub` is under way.
    pub(super) fn new(
        view: &PartitionView,
        flushing: &Flushing,
        batch: &mut FlushBatch,
        set: SetHash,
        scrub: Option<&'a Scrub>,
    ) -> FlushWitness<'a> {
        let meta = PartitionMeta {
            persisted_end: flushing.applied_end,
            settled_end: flushing.settled_end,
            last: flushing.last,
            set,
        };
        let meta = if is_planted(Plant::AppliedEndBeforeData) {
            PartitionMeta { persisted_end: view.committed_end_hint(), last: None, ..meta }
        } else {
            meta
        };
        FlushWitness {
            partition: view.partition,
            new: std::mem::take(&mut batch.new),
            meta,
            set,
            passed: scrub.and_then(Scrub::passed),
            scrubbed: SetHash::default(),
        }
    }

    /// The set hash once everything is written, and what a scrub that is under way must add.
    pub(super) fn sets(self) -> (SetHash, SetHash) {
        (self.set, self.scrubbed)
    }
}

impl Witness for FlushWitness<'_> {
    fn replaces(&mut self, number: usize, key: &[u8], old: Option<&[u8]>) -> Result<(), IndexFault> {
        let mut change = SetHash::default();
        if let Some(old) = old {
            change.remove(layout::verified_hash(key, old)?);
        }
        if let Some(new) = self.new[number] {
            change.insert(new);
        }
        self.set.merge(change);
        if self.passed.is_some_and(|passed| key <= passed) {
            self.scrubbed.merge(change);
        }
        Ok(())
    }

    fn closing(&mut self) -> (Vec<u8>, Vec<u8>) {
        let meta = PartitionMeta { set: self.set, ..self.meta };
        (layout::meta_key(self.partition), meta.encode(self.partition))
    }
}

impl PartitionView {
    /// The batch for a generation.
    pub(super) fn flush_batch(&self, flushing: &Flushing) -> Result<FlushBatch, IndexFault> {
        let updates = &flushing.generation.updates;
        let count = updates.len() + flushing.chunks.len();
        // The index pushes one more.
        let mut batch = FlushBatch { writes: Vec::with_capacity(count + 1), new: Vec::with_capacity(count) };
        for (key, entry) in updates {
            let key = layout::data_key(self.partition, key);
            let new = entry.value.as_ref().map(|value| layout::encode_item(&key, entry.version, value));
            batch.push(key, new);
        }
        self.forget_chunks(flushing, &mut batch)?;
        for (&number, chunk) in &flushing.chunks {
            let key = layout::chunk_key(self.partition, number);
            let new = layout::encode_chunk(&key, chunk);
            batch.push(key, Some(new));
        }
        debug_assert!(batch.writes.is_sorted_by(|(before, _), (after, _)| before < after), "each key once, in order");
        Ok(batch)
    }

    /// Removes the chunks of outcomes in the index that lie wholly below the settled end.
    fn forget_chunks(&self, flushing: &Flushing, batch: &mut FlushBatch) -> Result<(), IndexFault> {
        let (first, end) = (self.frontiers.lock().forgotten_chunk, chunk_of(flushing.settled_end));
        if first >= end {
            return Ok(());
        }
        let (low, high) = (layout::chunk_key(self.partition, first), layout::chunk_key(self.partition, end));
        self.index.range(Bound::Included(&low), Bound::Excluded(&high), &mut |key, _| {
            batch.push(key.to_vec(), None);
            ControlFlow::Continue(())
        })?;
        Ok(())
    }
}
