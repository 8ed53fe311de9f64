//! Local reads: the overlay's generations from the newest on, then the index.
//!
//! * A point read holds no lock while the index works: it notes how many generations had begun to move into the index, and
//!   reads again if another began meanwhile (its key might have come in with it, newer than the position named).
//! * A scan closes the gate, so that the index stands still, takes its slice of the overlay with the applied end under one
//!   lock, and merges.

use super::outcomes::outcome_in;
use super::overlay::Entry;
use super::types::{Item, Outcome, ReadAt, ReadError, SCAN_BYTES_MAX};
use super::{PartitionView, State};
use crate::index::IndexFault;
use crate::index::layout::{self, Chunk};
use bytes::Bytes;
use duramen_common::Offset;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::atomic::Ordering;

/// How often a point read lets itself be overtaken by a flush before it holds the next one up.
const READ_TRIES: usize = 3;

impl PartitionView {
    /// A key's value now, here. May block for as long as the index does.
    pub fn get(&self, key: &[u8]) -> Result<ReadAt<Option<Item>>, ReadError> {
        for _ in 0..READ_TRIES {
            let (applied_end, rotations, epoch) = {
                let state = self.state.read();
                let applied_end = self.shown_end(&state)?;
                if let Some(entry) = state.entry(key) {
                    return Ok(ReadAt { applied_end, value: item_of(entry) });
                }
                (applied_end, self.rotations.load(Ordering::Acquire), state.epoch)
            };
            let value = self.stored_item(key).map_err(|fault| self.index_failed(&fault, epoch))?;
            if self.rotations.load(Ordering::Acquire) == rotations {
                return Ok(ReadAt { applied_end, value });
            }
        }
        // With the lock held, no generation begins to move, and no wipe begins.
        let (stored, applied_end, epoch) = {
            let state = self.state.read();
            let applied_end = self.shown_end(&state)?;
            match state.entry(key) {
                Some(entry) => return Ok(ReadAt { applied_end, value: item_of(entry) }),
                None => (self.stored_item(key), applied_end, state.epoch),
            }
        };
        let value = stored.map_err(|fault| self.index_failed(&fault, epoch))?;
        Ok(ReadAt { applied_end, value })
    }

    /// One page in key order, all of it read at one applied end. At most `limit` items, and no more after the page holds
    /// [`SCAN_BYTES_MAX`]: fewer than `limit` items does NOT mean the end; an empty page does.
    pub fn scan(
        &self,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        limit: usize,
    ) -> Result<ReadAt<Vec<(Bytes, Item)>>, ReadError> {
        let mut items = Vec::new();
        let mut bytes = 0;
        let applied_end = self.visit(start, end, limit, &mut |key, item| {
            bytes += key.len() + item.value.len();
            items.push((key, item));
            if items.len() >= limit || bytes >= SCAN_BYTES_MAX {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        Ok(ReadAt { applied_end, value: items })
    }

    /// What the record at `offset` did; `None` when it is not applied yet.
    pub fn outcome(&self, offset: Offset) -> Result<Option<Outcome>, ReadError> {
        let epoch = {
            let state = self.state.read();
            if offset >= state.applied_end || !state.is_good() {
                return Ok(None);
            }
            if offset < state.settled_end {
                let settled_end = state.settled_end;
                return Err(ReadError::OutcomeForgotten { partition: self.partition, offset, settled_end });
            }
            if let Some(outcome) = state.outcomes.get(offset) {
                return Ok(Some(outcome));
            }
            state.epoch
        };
        let chunk = self.stored_chunk(layout::chunk_of(offset)).map_err(|fault| self.index_failed(&fault, epoch))?;
        let state = self.state.read();
        if !state.is_of(epoch) {
            // Wiped meanwhile: that the index holds nothing says nothing.
            return Ok(None);
        }
        if offset < state.settled_end {
            // Settled meanwhile, and a flush may have removed the chunk.
            let settled_end = state.settled_end;
            return Err(ReadError::OutcomeForgotten { partition: self.partition, offset, settled_end });
        }
        Ok(Some(chunk.map_or(Outcome::Effective, |chunk| outcome_in(&chunk, offset))))
    }

    /// A hash over the live (key, value, version) triples in key order at one applied end; the same on every node and
    /// index. Reads everything and keeps flushes waiting: call it where blocking is allowed.
    pub fn digest(&self) -> Result<ReadAt<[u8; 16]>, ReadError> {
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        let applied_end = self.visit(Bound::Unbounded, Bound::Unbounded, usize::MAX, &mut |key, item| {
            hash.update(&(key.len() as u32).to_le_bytes());
            hash.update(&key);
            hash.update(&item.version.get().to_le_bytes());
            hash.update(&(item.value.len() as u32).to_le_bytes());
            hash.update(&item.value);
            ControlFlow::Continue(())
        })?;
        Ok(ReadAt { applied_end, value: hash.digest128().to_be_bytes() })
    }

    /// Visits live items in key order at one applied end; the caller breaks after at most `limit` of them.
    fn visit(
        &self,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        limit: usize,
        visit: &mut dyn FnMut(Bytes, Item) -> ControlFlow<()>,
    ) -> Result<Offset, ReadError> {
        let _gate = self.gate.read();
        let (applied_end, epoch, overlay) = {
            let state = self.state.read();
            let applied_end = self.shown_end(&state)?;
            let overlay = if is_empty(start, end) { BTreeMap::new() } else { state.slice(start, end, limit) };
            (applied_end, state.epoch, overlay)
        };
        if limit == 0 || is_empty(start, end) {
            return Ok(applied_end);
        }
        let mut overlay = overlay.into_iter().peekable();
        let mut damage = None;
        let mut stopped = false;
        let (low, high) = layout::data_range(self.partition, start, end);
        let (low, high) = (low.as_ref().map(Vec::as_slice), high.as_ref().map(Vec::as_slice));
        let read = self.index.range(low, high, &mut |stored_key, stored| {
            let key = layout::key_of(stored_key);
            // What the overlay has before this key, and instead of it.
            while let Some((overlaid, _)) = overlay.peek() {
                if &overlaid[..] > key {
                    break;
                }
                let Some((overlaid, entry)) = overlay.next() else { break };
                let instead = overlaid == key;
                if let Some(item) = item_of(&entry)
                    && visit(overlaid, item).is_break()
                {
                    stopped = true;
                    return ControlFlow::Break(());
                }
                if instead {
                    return ControlFlow::Continue(());
                }
            }
            match layout::decode_item(stored_key, stored) {
                Ok((version, value)) => {
                    let item = Item { value: Bytes::copy_from_slice(value), version };
                    let flow = visit(Bytes::copy_from_slice(key), item);
                    stopped = flow.is_break();
                    flow
                }
                Err(fault) => {
                    damage = Some(fault);
                    ControlFlow::Break(())
                }
            }
        });
        let read = read.map_err(IndexFault::from).and(damage.map_or(Ok(()), Err));
        read.map_err(|fault| self.index_failed(&fault, epoch))?;
        if !stopped {
            for (key, entry) in overlay {
                if let Some(item) = item_of(&entry)
                    && visit(key, item).is_break()
                {
                    break;
                }
            }
        }
        Ok(applied_end)
    }

    fn shown_end(&self, state: &State) -> Result<Offset, ReadError> {
        state.shown().ok_or(ReadError::Behind {
            partition: self.partition,
            applying_end: state.applied_end,
            wanted_end: state.settled_end.max(self.committed_end_hint()),
        })
    }

    fn stored_item(&self, key: &[u8]) -> Result<Option<Item>, IndexFault> {
        let key = layout::data_key(self.partition, key);
        let item = self.index.get(&key)?.map(|bytes| layout::decode_shared_item(&key, &bytes)).transpose()?;
        Ok(item.map(|(version, value)| Item { value, version }))
    }

    fn stored_chunk(&self, number: u64) -> Result<Option<Chunk>, IndexFault> {
        let key = layout::chunk_key(self.partition, number);
        self.index.get(&key)?.map(|bytes| layout::decode_chunk(&key, &bytes)).transpose()
    }

    /// A read of the state of `epoch` met damage: the partition is not shown any more, and this read has no answer.
    fn index_failed(&self, fault: &IndexFault, epoch: u64) -> ReadError {
        self.read_failed(fault, epoch);
        ReadError::Index { partition: self.partition, reason: fault.to_string() }
    }
}

impl State {
    /// The overlay between two keys, the newest generation deciding; no more of it than a page of `limit` items can use: what
    /// lives in the overlay is live, so that a page ends at the latest with the `limit`th of them.
    fn slice(&self, start: Bound<&[u8]>, end: Bound<&[u8]>, limit: usize) -> BTreeMap<Bytes, Entry> {
        let ranges = self.generations().map(|generation| generation.updates.range::<[u8], _>((start, end)).peekable());
        let mut ranges: Vec<_> = ranges.collect();
        let mut slice = BTreeMap::new();
        let mut live = 0;
        while live < limit {
            let Some(next) = ranges.iter_mut().filter_map(|range| range.peek().map(|(key, _)| *key)).min() else {
                break;
            };
            // The newest comes first; what the older ones have of this key is passed over.
            let mut entries = ranges.iter_mut().filter_map(|range| range.next_if(|(key, _)| *key == next));
            let Some((key, entry)) = entries.next() else { break };
            entries.for_each(drop);
            live += usize::from(entry.value.is_some());
            slice.insert(key.clone(), entry.clone());
        }
        slice
    }
}

fn item_of(entry: &Entry) -> Option<Item> {
    entry.value.as_ref().map(|value| Item { value: value.clone(), version: entry.version })
}

/// Whether no key can lie between the bounds; maps panic on some of those.
fn is_empty(start: Bound<&[u8]>, end: Bound<&[u8]>) -> bool {
    match (start, end) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => start >= end,
    }
}
