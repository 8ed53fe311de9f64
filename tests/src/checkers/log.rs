//! A log as a list of its records: what checkers of sessions and feeds hold answers against.
//!
//! * In: every committed record of every partition, uncompacted. Out: folds of prefixes (by `testing::Model`, written as
//!   plainly as possible), and what each record changed.
//! * Deliberately absent: how the log was read; the caller fetches it where nothing is written any more.

use duramen_common::batch::{Record, RecordBatch, RecordBody, Update};
use duramen_common::{HistoryId, Offset, PartitionId};
use duramen_serving_node::testing::Model;
use duramen_serving_node::view::Outcome;
use std::collections::BTreeMap;

/// A record at its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedRecord {
    /// Where it stands.
    pub offset: Offset,
    /// What it is.
    pub record: Record,
    /// Whether compaction has settled it: it took effect, and has lost its guards.
    pub is_settled: bool,
}

/// All partitions of one history.
#[derive(Clone, Debug)]
pub struct Log {
    /// Whose offsets these are.
    pub history: HistoryId,
    partitions: BTreeMap<PartitionId, Vec<LoggedRecord>>,
}

impl Log {
    /// An empty log.
    #[must_use]
    pub fn new(history: HistoryId) -> Log {
        Log { history, partitions: BTreeMap::new() }
    }

    /// Appends a record. Panics unless it stands after those before.
    pub fn push(&mut self, partition: PartitionId, record: LoggedRecord) {
        let records = self.partitions.entry(partition).or_default();
        assert!(records.last().is_none_or(|last| last.offset < record.offset), "records come in their order");
        records.push(record);
    }

    /// Appends a batch's records.
    pub fn push_batch(&mut self, partition: PartitionId, batch: &RecordBatch) {
        for (offset, record) in batch.records() {
            let is_settled = record.is_settled();
            self.push(partition, LoggedRecord { offset, record: record.to_record(), is_settled });
        }
    }

    /// A partition's records.
    #[must_use]
    pub fn records(&self, partition: PartitionId) -> &[LoggedRecord] {
        self.partitions.get(&partition).map_or(&[], Vec::as_slice)
    }

    /// The record at an offset.
    #[must_use]
    pub fn record(&self, partition: PartitionId, offset: Offset) -> Option<&LoggedRecord> {
        let records = self.records(partition);
        let place = records.binary_search_by_key(&offset, |record| record.offset).ok()?;
        records.get(place)
    }

    /// The partitions that have records.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionId> {
        self.partitions.keys().copied()
    }

    /// What each record of a partition did.
    #[must_use]
    pub fn outcomes(&self, partition: PartitionId) -> BTreeMap<Offset, Outcome> {
        let mut model = Model::default();
        for LoggedRecord { offset, record, is_settled } in self.records(partition) {
            model.fold(*offset, record, *is_settled);
        }
        model.outcomes
    }

    /// The updates of the records that changed something, in order.
    #[must_use]
    pub fn effective_updates(&self, partition: PartitionId) -> Vec<(Offset, &[Update])> {
        let outcomes = self.outcomes(partition);
        let took_effect = |record: &&LoggedRecord| outcomes.get(&record.offset) == Some(&Outcome::Effective);
        let updates = |record| match record {
            // Other namespaces hold no keys.
            &LoggedRecord {
                offset,
                record: Record { namespace: 0, body: RecordBody::Updates { ref updates, .. }, .. },
                ..
            } => Some((offset, updates.as_slice())),
            _ => None,
        };
        self.records(partition).iter().filter(took_effect).filter_map(updates).collect()
    }
}
