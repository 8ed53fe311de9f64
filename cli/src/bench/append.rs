//! One client of the log itself: appends one event, waits, appends again, in turn over the partitions.
//!
//! * The clients of a thread share one [`LogClient`], as the requests of a serving node do: it coalesces what waits.

use super::generator::Caller;
use super::tally::{OpKind, Reason};
use super::workload::{Choices, Target};
use crate::failure::Failure;
use bytes::Bytes;
use duramen_client::log_client::{LogClient, LogClientConfig};
use duramen_common::batch::{Record, RecordSet};
use duramen_common::log::{AppendError, Log as _};
use duramen_common::protocol::AppendedRun;
use duramen_common::seams::Seams;
use duramen_common::{PartitionId, RequestId};
use std::sync::Arc;
use std::time::Duration;

/// How long one append may take.
const APPEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after an append that did not succeed.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// The log, as the clients of one thread share it.
#[derive(Clone)]
pub(super) struct SharedLog {
    log: LogClient,
    partitions: u16,
}

/// A client.
pub(super) struct AppendCaller {
    log: SharedLog,
    target: Arc<Target>,
    choices: Choices,
    next_id: RequestId,
    turn: u16,
}

impl AppendCaller {
    /// Finds the cluster. Must be called within the thread's runtime.
    pub(super) async fn connect(target: &Target) -> Result<SharedLog, Failure> {
        let config = LogClientConfig::new(target.log_addrs.clone());
        let log = LogClient::over_tcp(config, "bench", Seams::system());
        let cluster = log.cluster(APPEND_TIMEOUT).await;
        let cluster = cluster.map_err(|error| Failure::failed(format!("cannot reach the log: {error}")))?;
        Ok(SharedLog { log, partitions: cluster.partitions.max(1) })
    }

    pub(super) fn new(log: &SharedLog, target: Arc<Target>, client: usize) -> AppendCaller {
        let choices = target.choices(client);
        // Ids of one client are a run of their own, so that the log stores few bytes for them.
        let next_id = RequestId::from_bits(Seams::system().entropy.bits());
        AppendCaller { log: log.clone(), target, choices, next_id, turn: client as u16 }
    }
}

impl Caller for AppendCaller {
    async fn call(&mut self) -> (OpKind, Result<(), Reason>) {
        let payload = Bytes::copy_from_slice(self.target.value(&mut self.choices));
        let record = Record::event(None, payload);
        let Ok(records) = RecordSet::of(self.next_id, &record) else {
            return (OpKind::Append, Err(Reason::Borrowed("too-large")));
        };
        self.next_id = self.next_id.plus(1);
        self.turn = self.turn.wrapping_add(1);
        let partition = PartitionId::new(self.turn % self.log.partitions);
        let appended = self.log.log.append(partition, records, APPEND_TIMEOUT).await;
        let result = match appended.as_deref() {
            Ok([AppendedRun::At { count: 1, .. }]) => Ok(()),
            Ok(_) => Err(Reason::Borrowed("key-reused")),
            Err(error) => Err(Reason::Borrowed(name(error))),
        };
        (OpKind::Append, result)
    }

    async fn pause(&mut self) {
        tokio::time::sleep(ERROR_PAUSE).await;
    }
}

fn name(error: &AppendError) -> &'static str {
    match error {
        AppendError::NoLeader { .. } => "no-leader",
        AppendError::Unacknowledged { .. } => "outcome-unknown",
        AppendError::LogFull { .. } => "log-full",
        AppendError::Overloaded => "overloaded",
        AppendError::TooLarge { .. } => "too-large",
        AppendError::Invalid { .. } => "invalid",
        AppendError::Stopped => "stopped",
    }
}
