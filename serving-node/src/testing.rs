//! Test support for this crate and those above it: a log in memory that can stall, fail and compact, the plain fold
//! that everything else is measured against, and an index in a folder.
//!
//! * [`MemoryLog`] implements `common::log::Log`: dense offsets, repeats dropped by request id, committed at once unless
//!   told to hold.
//! * [`Model`] is the fold of a log's prefix, written as plainly as possible.

use crate::view::Outcome;
use bytes::Bytes;
use duramen_common::batch::{
    Event, Guard, GuardCondition, Headers, Record, RecordBatch, RecordBody, RecordSet, RecordSetBuilder, Update,
};
use duramen_common::{Offset, RequestId};
use std::collections::BTreeMap;

mod folder_index;
mod memory_log;
pub use folder_index::FolderIndex;
pub use memory_log::MemoryLog;

/// A record under construction.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    guards: Vec<Guard>,
    updates: Vec<Update>,
}

impl Draft {
    /// Adds a guard.
    #[must_use]
    pub fn when(mut self, guard: Guard) -> Draft {
        self.guards.push(guard);
        self
    }

    /// Adds another draft's updates.
    #[must_use]
    pub fn and(mut self, mut other: Draft) -> Draft {
        self.updates.append(&mut other.updates);
        self
    }
}

impl From<Draft> for Record {
    fn from(draft: Draft) -> Record {
        Record::updates(draft.guards, draft.updates)
    }
}

/// A record that puts one key.
#[must_use]
pub fn put(key: &str, value: &str) -> Draft {
    let value = Some(Bytes::copy_from_slice(value.as_bytes()));
    Draft { guards: Vec::new(), updates: vec![Update { key: Bytes::copy_from_slice(key.as_bytes()), value }] }
}

/// A record that deletes one key.
#[must_use]
pub fn delete(key: &str) -> Draft {
    Draft { guards: Vec::new(), updates: vec![Update { key: Bytes::copy_from_slice(key.as_bytes()), value: None }] }
}

/// A guard.
#[must_use]
pub fn guard(key: &str, condition: GuardCondition) -> Guard {
    Guard { key: Bytes::copy_from_slice(key.as_bytes()), condition }
}

/// A record of one event.
#[must_use]
pub fn event(payload: &str) -> Record {
    Record {
        namespace: 0,
        headers: Headers::new(),
        body: RecordBody::Event(Event { key: None, payload: Bytes::copy_from_slice(payload.as_bytes()) }),
    }
}

/// Records as an append, under ids from `first_id` on.
#[must_use]
pub fn record_set(first_id: u128, records: impl IntoIterator<Item = impl Into<Record>>) -> RecordSet {
    let mut builder = RecordSetBuilder::default();
    for (number, record) in records.into_iter().enumerate() {
        builder.push(RequestId::from_bits(first_id).plus(number as u64), &record.into()).expect("within the limits");
    }
    builder.finish()
}

/// Records as a batch.
#[must_use]
pub fn records(records: Vec<Draft>) -> RecordBatch {
    RecordBatch::build(&[record_set(1, records)], 0)
}

/// A batch at an offset.
#[must_use]
pub fn at(batch: RecordBatch, first_offset: u64) -> RecordBatch {
    batch.at(Offset::new(first_offset))
}

/// The fold of a log's prefix, as plainly as it can be written: the oracle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// Live keys: version and value.
    pub live: BTreeMap<Vec<u8>, (Offset, Vec<u8>)>,
    /// What each record did.
    pub outcomes: BTreeMap<Offset, Outcome>,
    /// First offset that is not folded in.
    pub end: Offset,
}

impl Model {
    /// Folds in one record.
    pub fn fold(&mut self, offset: Offset, record: &Record, settled: bool) {
        self.end = offset.next();
        let RecordBody::Updates { guards, updates } = &record.body else {
            self.outcomes.insert(offset, Outcome::Effective);
            return;
        };
        let holds = |guard: &Guard| {
            let version = self.live.get(&guard.key[..]).map(|&(version, _)| version);
            match guard.condition {
                GuardCondition::Absent => version.is_none(),
                GuardCondition::Exists => version.is_some(),
                GuardCondition::Version(wanted) => version == Some(wanted),
            }
        };
        if !settled && !guards.iter().all(holds) {
            self.outcomes.insert(offset, Outcome::NoEffect);
            return;
        }
        self.outcomes.insert(offset, Outcome::Effective);
        for update in updates {
            match &update.value {
                Some(value) => self.live.insert(update.key.to_vec(), (offset, value.to_vec())),
                None => self.live.remove(&update.key[..]),
            };
        }
    }

    /// Folds in a batch.
    pub fn fold_batch(&mut self, batch: &RecordBatch) {
        for (offset, record) in batch.records().filter(|&(offset, _)| offset >= self.end).collect::<Vec<_>>() {
            self.fold(offset, &record.to_record(), record.is_settled());
        }
        self.end = self.end.max(batch.header().end());
    }

    /// The fold of these batches up to `end`.
    #[must_use]
    pub fn of(batches: &[RecordBatch], end: Offset) -> Model {
        let mut model = Model::default();
        for batch in batches {
            for (offset, record) in batch.records().filter(|&(offset, _)| offset < end) {
                model.fold(offset, &record.to_record(), record.is_settled());
            }
        }
        model.end = end;
        model
    }
}
