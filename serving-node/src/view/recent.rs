//! The last applied batches, for feeds that follow closely: bounded in bytes, without a gap.
//!
//! Invariant: the batches kept are consecutive and end at the applied end; whoever is older reads the log.

use super::types::Recent;
use duramen_common::Offset;
use duramen_common::batch::RecordBatch;
use std::collections::VecDeque;

#[derive(Debug)]
pub(super) struct RecentBatches {
    batches: VecDeque<RecordBatch>,
    bytes: usize,
    bytes_max: usize,
    /// Everything from here to `end` is in `batches`.
    start: Offset,
    end: Offset,
}

impl RecentBatches {
    pub(super) fn new(applied_end: Offset, bytes_max: usize) -> RecentBatches {
        RecentBatches { batches: VecDeque::new(), bytes: 0, bytes_max, start: applied_end, end: applied_end }
    }

    /// Notes a batch that was just applied, and where the applied end is now.
    pub(super) fn push(&mut self, batch: RecordBatch) {
        self.end = self.end.max(batch.header().end());
        self.bytes += batch.bytes().len();
        self.batches.push_back(batch);
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.batches.pop_front() else { break };
            self.bytes -= oldest.bytes().len();
            self.start = oldest.header().end();
        }
    }

    /// Starts over at another position.
    pub(super) fn reset(&mut self, applied_end: Offset) {
        *self = RecentBatches::new(applied_end, self.bytes_max);
    }

    /// The applied end moved over offsets that compaction left empty.
    pub(super) fn skip_to(&mut self, applied_end: Offset) {
        self.end = self.end.max(applied_end);
    }

    pub(super) fn from(&self, from: Offset) -> Recent {
        if from < self.start {
            return Recent::TooOld;
        }
        let first = self.batches.partition_point(|batch| batch.header().end() <= from);
        Recent::Batches(self.batches.range(first..).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, put, records};

    #[test]
    fn a_follower_gets_every_batch_or_is_sent_to_the_log() {
        let batch = |first| at(records(vec![put("a", "1"), put("b", "2")]), first);
        let bytes_max = batch(0).bytes().len() * 3;
        let mut recent = RecentBatches::new(Offset::new(10), bytes_max);
        (0..5u64).for_each(|number| recent.push(batch(10 + number * 2)));
        assert!(matches!(recent.from(Offset::new(13)), Recent::TooOld));
        for (from, wanted) in [(14, 3), (15, 3), (16, 2), (20, 0)] {
            let Recent::Batches(batches) = recent.from(Offset::new(from)) else { panic!("{from} is kept") };
            assert_eq!(batches.len(), wanted, "from {from}");
        }
    }
}
