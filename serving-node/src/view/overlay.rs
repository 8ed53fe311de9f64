//! Generation: updates that are applied and not in the index yet, with the end that they lead to.
//!
//! * In: what `apply` decided. Out: a key's newest state, ranges, and one sorted batch for the index.
//! * Invariant: `bytes` is at least what the generation keeps alive: updates share their batches' memory, so a batch counts
//!   whole.
//! * Source: DESIGN D8.

use crate::index::Writes;
use crate::index::layout::{self, Chunk, PartitionMeta};
use bytes::Bytes;
use duramen_common::{Offset, PartitionId};
use std::collections::{BTreeMap, BTreeSet};

/// A key's state after its last effective write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub version: Offset,
    /// `None`: removed.
    pub value: Option<Bytes>,
}

/// What bookkeeping of one entry takes, about. Unit: bytes.
pub(super) const ENTRY_BYTES: usize = 96;

/// The updates since the last generation was closed.
#[derive(Debug, Default)]
pub(super) struct Generation {
    pub updates: BTreeMap<Bytes, Entry>,
    pub bytes: usize,
    /// Chunks of outcomes that changed.
    pub dirty_chunks: BTreeSet<u64>,
    /// Whether anything was applied, if only an end moved.
    pub moved: bool,
}

/// A generation on its way to the index, with everything that goes into the same atomic batch.
#[derive(Debug)]
pub(super) struct Flushing {
    pub generation: Generation,
    pub meta: PartitionMeta,
    pub chunks: BTreeMap<u64, Chunk>,
}

impl Flushing {
    /// The batch for the index: sorted, each key once.
    pub(super) fn writes(&self, partition: PartitionId, forgotten_chunks: &[u64]) -> Writes {
        let updates = &self.generation.updates;
        let mut writes = Writes::with_capacity(updates.len() + self.chunks.len() + forgotten_chunks.len() + 1);
        for (key, entry) in updates {
            let value = entry.value.as_ref().map(|value| layout::encode_item(entry.version, value));
            writes.push((layout::data_key(partition, key), value));
        }
        writes.push((layout::meta_key(partition), Some(self.meta.encode())));
        for &chunk in forgotten_chunks {
            writes.push((layout::chunk_key(partition, chunk), None));
        }
        for (&number, chunk) in &self.chunks {
            writes.push((layout::chunk_key(partition, number), Some(layout::encode_chunk(chunk))));
        }
        writes
    }
}
