//! Generation: updates that are applied and not in the index yet, with the end that they lead to.
//!
//! * In: what `apply` decided. Out: a key's newest state, ranges, and one sorted batch for the index.
//! * Invariant: `bytes` is at least what the generation keeps alive: updates share their batches' memory, so a batch counts
//!   whole.
//! * Source: DESIGN D8.

use crate::index::layout::Chunk;
use bytes::Bytes;
use duramen_common::Offset;
use duramen_common::protocol::BatchId;
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
    /// First offset that is not in it, nor in those before it.
    pub applied_end: Offset,
    pub settled_end: Offset,
    pub last: Option<BatchId>,
    pub chunks: BTreeMap<u64, Chunk>,
}
