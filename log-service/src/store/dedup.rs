//! The duplicate table (DESIGN D5): request id → offset and fingerprint, over the last W offsets of a log.
//!
//! * Derived from the log's prefix alone: entries in order, truncation takes back, eviction follows the committed end. Two
//!   replicas with the same log and committed end answer alike, whatever they went through.
//! * One slot a record, so that runs may overlap in any way (a retry that was coalesced differently). Memory: 32 bytes a
//!   slot at the map's load factor plus 16 in the order, 55 to 90 bytes a record: about 20 MiB for W = 262,144.
//! * Source: DESIGN D5.

use super::IdCheck;
use duramen_common::batch::{IdRun, RecordBatch};
use duramen_common::ids::Offset;
use std::collections::{HashMap, VecDeque};

/// Request ids of the last W offsets.
#[derive(Debug)]
pub struct DedupTable {
    window: u64,
    slots: HashMap<u128, Slot>,
    /// Ids by offset, from `first` on, dense; `None` where compaction left a hole.
    order: VecDeque<Option<u128>>,
    first: Offset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    offset: Offset,
    fingerprint: u64,
}

/// A batch's ids and fingerprints, computed outside the log's lock.
#[derive(Debug)]
pub struct BatchIds {
    first_offset: Offset,
    end: Offset,
    records: Vec<(Offset, u128, u64)>,
}

impl BatchIds {
    /// From a batch at its place.
    #[must_use]
    pub fn of(batch: &RecordBatch) -> BatchIds {
        let ids = batch.id_runs().flat_map(|run| (0..u64::from(run.count)).map(move |number| run.base.plus(number)));
        let records =
            batch.records().zip(ids).map(|((offset, record), id)| (offset, id.bits(), record.fingerprint())).collect();
        BatchIds { first_offset: batch.header().first_offset, end: batch.header().end(), records }
    }
}

impl DedupTable {
    /// An empty table whose next offset is `start`.
    #[must_use]
    pub fn new(window: u64, start: Offset) -> DedupTable {
        DedupTable { window, slots: HashMap::new(), order: VecDeque::new(), first: start }
    }

    /// First offset not in the table.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.first.plus(self.order.len() as u64)
    }

    /// Takes in the next batch. Panics when it is not the next: the log is dense.
    pub fn insert(&mut self, batch: &BatchIds) {
        assert_eq!(batch.first_offset, self.end(), "the duplicate table follows the log");
        for &(offset, id, fingerprint) in &batch.records {
            while self.end() < offset {
                self.order.push_back(None);
            }
            self.order.push_back(Some(id));
            // An older slot is out of the window by its committed end, or it would have been found.
            self.slots.insert(id, Slot { offset, fingerprint });
        }
        while self.end() < batch.end {
            self.order.push_back(None);
        }
    }

    /// Takes back everything from `end` on.
    pub fn truncate(&mut self, end: Offset) {
        while self.end() > end {
            let Some(id) = self.order.pop_back() else { break };
            if let Some(id) = id
                && self.slots.get(&id).is_some_and(|slot| slot.offset >= end)
            {
                self.slots.remove(&id);
            }
        }
        if self.end() > end {
            self.first = end;
        }
    }

    /// Forgets what has left the window.
    pub fn evict(&mut self, committed_end: Offset) {
        let keep_from = committed_end.minus_saturating(self.window);
        while self.first < keep_from {
            let Some(id) = self.order.pop_front() else { break };
            if let Some(id) = id
                && self.slots.get(&id).is_some_and(|slot| slot.offset == self.first)
            {
                self.slots.remove(&id);
            }
            self.first = self.first.next();
        }
    }

    /// What each record of a set is, in order. `committed_end` is the caller's, so that the answer depends on it and not
    /// on when eviction ran.
    #[must_use]
    pub fn check(&self, ids: &[IdRun], fingerprints: &[u64], committed_end: Offset) -> Vec<IdCheck> {
        let keep_from = committed_end.minus_saturating(self.window);
        let ids = ids.iter().flat_map(|run| (0..u64::from(run.count)).map(move |number| run.base.plus(number)));
        ids.zip(fingerprints)
            .map(|(id, &fingerprint)| match self.slots.get(&id.bits()) {
                Some(slot) if slot.offset < keep_from => IdCheck::New,
                Some(slot) if slot.fingerprint == fingerprint => IdCheck::Repeat { offset: slot.offset },
                Some(_) => IdCheck::Reused,
                None => IdCheck::New,
            })
            .collect()
    }

    /// Everything that it would answer with, ordered, for comparison.
    #[cfg(test)]
    pub(super) fn contents(&self) -> Vec<(u128, Offset, u64)> {
        let mut all: Vec<_> = self.slots.iter().map(|(&id, slot)| (id, slot.offset, slot.fingerprint)).collect();
        all.sort_unstable();
        all
    }
}
