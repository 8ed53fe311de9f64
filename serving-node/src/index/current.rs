//! The index that the views use, which may be replaced by a fresh one while they use it.
//!
//! * In: calls of [`Index`]. Out: what the index behind says now; a panic in it comes out as an error.
//! * Who replaces the index keeps everybody from believing what was read of the old one: `view::replace_index`.
//! * Source: ADR 0012.

use super::panics::caught;
use super::{Index, IndexError, Visit, Witness, WriteError, Writes};
use bytes::Bytes;
use parking_lot::RwLock;
use std::ops::Bound;
use std::sync::Arc;

/// Holds one index after the other.
pub(super) struct CurrentIndex {
    index: RwLock<Arc<dyn Index>>,
}

impl CurrentIndex {
    pub(super) fn new(index: Arc<dyn Index>) -> CurrentIndex {
        CurrentIndex { index: RwLock::new(index) }
    }

    /// From now on calls go to `index`; returns the one before.
    pub(super) fn replace(&self, index: Arc<dyn Index>) -> Arc<dyn Index> {
        std::mem::replace(&mut *self.index.write(), index)
    }

    /// Calls the index of now. Damaged files make some indexes panic.
    fn call<T, E: From<IndexError>>(
        &self,
        action: &'static str,
        call: impl FnOnce(&dyn Index) -> Result<T, E>,
    ) -> Result<T, E> {
        let index = Arc::clone(&*self.index.read());
        // Dropped in there as well: where it was replaced meanwhile, this closes it.
        let done = caught(move || call(&*index));
        done.unwrap_or_else(|| Err(IndexError { kind: "index", action, reason: "it panicked".to_owned() }.into()))
    }
}

impl Index for CurrentIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        self.call("reading", |index| index.get(key))
    }

    fn range(&self, start: Bound<&[u8]>, end: Bound<&[u8]>, visit: Visit<'_>) -> Result<(), IndexError> {
        self.call("reading a range", |index| index.range(start, end, visit))
    }

    fn write_seen(&self, writes: Writes, witness: Option<&mut dyn Witness>) -> Result<(), WriteError> {
        self.call("writing", |index| index.write_seen(writes, witness))
    }

    fn sync(&self) -> Result<(), IndexError> {
        self.call("syncing", Index::sync)
    }

    fn blocks(&self) -> bool {
        self.index.read().blocks()
    }

    fn can_be_emptied(&self) -> bool {
        self.index.read().can_be_emptied()
    }
}

/// Stands where an index was given up and none is there yet.
pub(super) struct NoIndex;

fn no_index<T>() -> Result<T, IndexError> {
    Err(IndexError { kind: "index", action: "reading or writing", reason: "it is being replaced".to_owned() })
}

impl Index for NoIndex {
    fn get(&self, _key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        no_index()
    }

    fn range(&self, _start: Bound<&[u8]>, _end: Bound<&[u8]>, _visit: Visit<'_>) -> Result<(), IndexError> {
        no_index()
    }

    fn write_seen(&self, _writes: Writes, _witness: Option<&mut dyn Witness>) -> Result<(), WriteError> {
        Ok(no_index()?)
    }

    fn sync(&self) -> Result<(), IndexError> {
        no_index()
    }

    fn blocks(&self) -> bool {
        true
    }
}
