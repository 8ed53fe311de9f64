//! A log that takes its time, before and after it has decided.

use super::super::chance::Chance;
use duramen_common::batch::RecordSet;
use duramen_common::log::{AppendError, ClusterError, FetchError, Fetched, Log, TailError};
use duramen_common::protocol::{AppendedRun, BatchId, ClusterInfo, ServingNodeInfo, TailAnswer};
use duramen_common::{Offset, PartitionId};
use duramen_serving_node::testing::MemoryLog;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Longest delay in either direction, and one now and then. Unit: milliseconds.
const DELAY_MS_MAX: usize = 8;
const LONG_DELAY_MS_MAX: usize = 120;

/// The log.
pub(super) struct SlowLog {
    pub(super) log: Arc<MemoryLog>,
    pub(super) chance: Chance,
}

impl SlowLog {
    async fn delay(&self) {
        let longest_ms = if self.chance.below(20) == 0 { LONG_DELAY_MS_MAX } else { DELAY_MS_MAX };
        sleep(self.chance.ms(longest_ms)).await;
    }

    fn delayed<'a, T: Send + 'a>(&'a self, answer: BoxFuture<'a, T>) -> BoxFuture<'a, T> {
        Box::pin(async move {
            self.delay().await;
            let answer = answer.await;
            self.delay().await;
            answer
        })
    }
}

impl Log for SlowLog {
    fn append(
        &self,
        partition: PartitionId,
        records: RecordSet,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Vec<AppendedRun>, AppendError>> {
        self.delayed(self.log.append(partition, records, timeout))
    }

    fn fetch(
        &self,
        partition: PartitionId,
        from: Offset,
        last: Option<BatchId>,
        bytes_max: u32,
        wait: Duration,
    ) -> BoxFuture<'_, Result<Fetched, FetchError>> {
        self.delayed(self.log.fetch(partition, from, last, bytes_max, wait))
    }

    fn tail(&self, partition: PartitionId, timeout: Duration) -> BoxFuture<'_, Result<TailAnswer, TailError>> {
        self.delayed(self.log.tail(partition, timeout))
    }

    fn cluster(&self, timeout: Duration) -> BoxFuture<'_, Result<ClusterInfo, ClusterError>> {
        self.delayed(self.log.cluster(timeout))
    }

    fn register(&self, serving_node: ServingNodeInfo, timeout: Duration) -> BoxFuture<'_, Result<(), ClusterError>> {
        self.delayed(self.log.register(serving_node, timeout))
    }
}
