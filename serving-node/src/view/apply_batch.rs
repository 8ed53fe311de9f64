//! The subscriber's side of a view: a batch in, the applied end out.
//!
//! * Deciding (`crate::apply`) happens without a lock: only the subscriber changes the state that guards are judged by.
//! * Then everything moves under one lock, and only after that the applied end is published.

use super::overlay::{ENTRY_BYTES, Entry, Generation};
use super::{PartitionView, State};
use crate::apply::{self, Applied, KvFold};
use crate::index::{IndexFault, layout};
use bytes::Bytes;
use duramen_common::Offset;
use duramen_common::log::FetchedBatch;

impl PartitionView {
    /// Applies the next batch to the state of `epoch`; returns how many records it held, `None` when that state was wiped
    /// meanwhile. With guards in it, may block as the index does. An error changes nothing.
    pub(crate) fn apply(&self, fetched: &FetchedBatch, epoch: u64) -> Result<Option<u64>, IndexFault> {
        let batch = &fetched.batch;
        let from = self.state.read().applied_end;
        let mut fold = KvFold::new(|key: &[u8]| self.version_for_guard(key));
        let applied = apply::apply_batch(batch, from, &mut fold)?;
        let updates: Vec<(Bytes, Entry)> = fold
            .into_updates()
            .into_iter()
            .map(|(key, staged)| {
                let value = staged.value.map(|value| batch.share(value));
                (batch.share(key), Entry { version: staged.version, value })
            })
            .collect();
        let bytes = batch.bytes().len() + updates.len() * ENTRY_BYTES;
        let is_full = {
            let mut state = self.state.write();
            if !state.is_of(epoch) {
                return Ok(None);
            }
            // Before they can be flushed, and their bytes given back.
            self.budget.take(bytes);
            state.take(&applied, updates, bytes);
            state.last = Some(fetched.id);
            // Under the lock, so that a wipe comes before or after both.
            self.recent.lock().push(batch.clone());
            self.budget.is_full(state.active.bytes) && state.close()
        };
        self.publish();
        if is_full {
            self.budget.nudge();
        }
        Ok(Some(applied.records))
    }

    /// Everything up to `next_offset` was fetched: what is missing before it was compacted away.
    pub(crate) fn skip_to(&self, next_offset: Offset, epoch: u64) {
        {
            let mut state = self.state.write();
            if !state.is_of(epoch) {
                return;
            }
            state.begun = true;
            if next_offset > state.applied_end {
                state.applied_end = next_offset;
                // The batch that ends there is gone: there is none to name.
                state.last = None;
                state.active.moved = true;
            }
            self.recent.lock().skip_to(next_offset);
        }
        self.publish();
    }

    /// A key's version as everything applied so far left it.
    fn version_for_guard(&self, key: &[u8]) -> Result<Option<Offset>, IndexFault> {
        if let Some(entry) = self.state.read().entry(key) {
            return Ok(entry.value.as_ref().map(|_| entry.version));
        }
        let key = layout::data_key(self.partition, key);
        let stored = self.index.get(&key)?;
        stored.map(|bytes| layout::decode_item(&key, &bytes).map(|(version, _)| version)).transpose()
    }
}

impl State {
    fn take(&mut self, applied: &Applied, updates: Vec<(Bytes, Entry)>, bytes: usize) {
        for (key, entry) in updates {
            self.active.updates.insert(key, entry);
        }
        for &offset in &applied.no_effect {
            let chunk = self.outcomes.note_no_effect(offset);
            self.active.dirty_chunks.insert(chunk);
        }
        self.active.bytes += bytes;
        self.active.moved = true;
        self.begun = true;
        self.applied_end = applied.applied_end;
    }

    /// A key's state in the overlay: the newest generation decides.
    pub(super) fn entry(&self, key: &[u8]) -> Option<&Entry> {
        self.generations().find_map(|generation| generation.updates.get(key))
    }

    /// What is not in the index yet, the newest first.
    pub(super) fn generations(&self) -> impl Iterator<Item = &Generation> {
        std::iter::once(&self.active).chain(self.closed.iter().rev().map(|closed| &closed.generation))
    }
}
