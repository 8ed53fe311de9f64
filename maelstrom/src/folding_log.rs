//! `FoldingLog`: the log as the serving replica follows it, with the fold looking over its shoulder.
//!
//! * Every batch that the subscriber fetches goes into the fold before it is applied: the fold costs no message, and is
//!   never behind the index.
//! * In besides: events to append. Out: their offsets.
//! * Invariant: the fold has taken in everything below its end: a subscriber begins at 0 and skips nothing; what it
//!   starts over is passed over, unless it is of another log.

use crate::events::Event;
use crate::failure::{Code, Failure};
use crate::fold::SharedFold;
use duramen_client::log_client::LogClient;
use duramen_common::batch::RecordSet;
use duramen_common::log::{AppendError, ClusterError, FetchError, Fetched, Log, TailError};
use duramen_common::protocol::{AppendedRun, BatchId, ClusterInfo, ServingNodeInfo, TailAnswer};
use duramen_common::seams::Entropy;
use duramen_common::{Offset, PartitionId, RequestId};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// The partition that all events are in.
const PARTITION: PartitionId = PartitionId::new(0);

/// The log and its fold.
pub struct FoldingLog {
    log: LogClient,
    fold: SharedFold,
    /// Past everything that this node has had acknowledged.
    acknowledged_end: Mutex<Offset>,
}

impl FoldingLog {
    /// Around a client.
    #[must_use]
    pub fn new(log: LogClient) -> FoldingLog {
        FoldingLog { log, fold: SharedFold::new(), acknowledged_end: Mutex::new(Offset::ZERO) }
    }

    /// What the log comes to.
    pub fn fold(&self) -> &SharedFold {
        &self.fold
    }

    /// Past every event that was appended through this node and acknowledged.
    pub fn acknowledged_end(&self) -> Offset {
        *self.acknowledged_end.lock()
    }

    /// Appends an event; the client repeats it under one id until the deadline.
    pub async fn append_event(
        &self,
        event: &Event,
        entropy: &dyn Entropy,
        deadline: Instant,
    ) -> Result<Offset, Failure> {
        let id = RequestId::from_bits(entropy.bits());
        let set = RecordSet::of(id, &event.record()?).map_err(|error| Failure::malformed(error.to_string()))?;
        let timeout = deadline.saturating_duration_since(Instant::now());
        let runs = self.log.append(PARTITION, set, timeout).await.map_err(|error| Failure::of_append(&error))?;
        match runs.first() {
            Some(AppendedRun::At { first_offset, .. }) => {
                let mut end = self.acknowledged_end.lock();
                *end = first_offset.next().max(*end);
                Ok(*first_offset)
            }
            Some(AppendedRun::KeyReused { .. }) | None => {
                Err(Failure::new(Code::Crash, "the log's answer names no offset"))
            }
        }
    }

    /// Waits until the fold covers everything that was acknowledged before this call, by any node.
    pub async fn catch_up(&self, deadline: Instant) -> Result<(), Failure> {
        let timeout = deadline.saturating_duration_since(Instant::now());
        let tail = self.log.tail(PARTITION, timeout).await.map_err(|error| Failure::unavailable(error.to_string()))?;
        if self.fold.reach(tail.committed_end, deadline).await {
            return Ok(());
        }
        Err(Failure::unavailable(format!("this node has not applied the log up to {} in time", tail.committed_end)))
    }
}

impl Log for FoldingLog {
    fn append(
        &self,
        partition: PartitionId,
        records: RecordSet,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Vec<AppendedRun>, AppendError>> {
        self.log.append(partition, records, timeout)
    }

    fn fetch(
        &self,
        partition: PartitionId,
        from: Offset,
        last: Option<BatchId>,
        bytes_max: u32,
        wait: Duration,
    ) -> BoxFuture<'_, Result<Fetched, FetchError>> {
        Box::pin(async move {
            let fetched = self.log.fetch(partition, from, last, bytes_max, wait).await;
            match &fetched {
                Ok(fetched) => self.fold.apply(fetched.batches.iter().map(|fetched| &fetched.batch)),
                Err(FetchError::OtherLog { .. } | FetchError::Compacted { .. }) => self.fold.wipe(),
                Err(_) => {}
            }
            fetched
        })
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
}
