//! The log as the HTTP API of a node that may stop sees it: an append that still waits when the node stops is unknown.
//!
//! * In: calls of the API. Out: the log's answers; after the grace of a stop, what can be said without one.
//! * Invariant: an append is refused as not done only when it was never handed to the log.

use duramen_common::batch::RecordSet;
use duramen_common::log::{AppendError, ClusterError, FetchError, Fetched, Log, LogProblem, Surveyed, TailError};
use duramen_common::protocol::{AppendedRun, BatchId, ClusterInfo, ServingNodeInfo, TailAnswer};
use duramen_common::{Offset, PartitionId};
use duramen_transport::http::Stop;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A log whose appends end with the node.
pub(crate) struct StoppableLog {
    log: Arc<dyn Log>,
    stop: Stop,
}

impl StoppableLog {
    pub(crate) fn new(log: Arc<dyn Log>, stop: Stop) -> StoppableLog {
        StoppableLog { log, stop }
    }
}

impl Log for StoppableLog {
    fn append(
        &self,
        partition: PartitionId,
        records: RecordSet,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Vec<AppendedRun>, AppendError>> {
        Box::pin(async move {
            if self.stop.is_over() {
                return Err(AppendError::Stopped);
            }
            let began = Instant::now();
            tokio::select! {
                biased;
                appended = self.log.append(partition, records, timeout) => appended,
                () = self.stop.overtime() => Err(AppendError::Unacknowledged {
                    partition,
                    waited_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
                    reason: "this node is stopping".to_owned(),
                }),
            }
        })
    }

    fn fetch(
        &self,
        partition: PartitionId,
        from: Offset,
        last: Option<BatchId>,
        bytes_max: u32,
        wait: Duration,
    ) -> BoxFuture<'_, Result<Fetched, FetchError>> {
        self.log.fetch(partition, from, last, bytes_max, wait)
    }

    fn tail(&self, partition: PartitionId, timeout: Duration) -> BoxFuture<'_, Result<TailAnswer, TailError>> {
        self.log.tail(partition, timeout)
    }

    fn cluster(&self, timeout: Duration) -> BoxFuture<'_, Result<ClusterInfo, ClusterError>> {
        self.log.cluster(timeout)
    }

    fn register(&self, serving_node: ServingNodeInfo, timeout: Duration) -> BoxFuture<'_, Result<(), ClusterError>> {
        self.log.register(serving_node, timeout)
    }

    fn survey(&self, timeout: Duration) -> BoxFuture<'_, Vec<Surveyed>> {
        self.log.survey(timeout)
    }

    fn problems(&self) -> Vec<LogProblem> {
        self.log.problems()
    }
}
