//! `LogClient`: the log, spoken to over the framed transport. Implements [`duramen_common::log::Log`].
//!
//! * `directory`: who the log nodes are, who leads, how far each log is known to reach. `ask`: one question to one node.
//!   `health`: which nodes fail or are of another history. `route`: whom to ask next. `append`: one actor a partition. `read`: fetch, tail, cluster, register.
//! * Invariant: the history of the first contact is kept; nodes of another are never used.
//! * Invariant: what may have happened is never called a failure, and a retry carries the same ids.
//! * Deliberately absent: HTTP, keys, what records mean.
//! * Source: DESIGN D5, D13, D14; docs/formats.md "Log protocol".

mod append;
mod ask;
mod coalesce;
mod directory;
mod health;
mod read;
mod route;
mod waiting;

use append::Appender;
use ask::Shared;
use directory::Directory;
use duramen_common::batch::RecordSet;
use duramen_common::limits::PARTITIONS_MAX;
use duramen_common::log::{AppendError, ClusterError, FetchError, Fetched, Log, LogProblem, Surveyed, TailError};
use duramen_common::protocol::{AppendedRun, BatchId, ClusterInfo, ServingNodeInfo, TailAnswer};
use duramen_common::seams::Seams;
use duramen_common::{HistoryId, Offset, PartitionId};
use duramen_transport::{Hello, Role, TcpTransport, TcpTransportConfig, Transport};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Limits of a [`LogClient`].
#[derive(Clone, Debug)]
pub struct LogClientConfig {
    /// Framed TCP addresses to start from, `host:port`, nearest first; the other nodes are learned.
    pub nodes: Vec<String>,
    /// The history that this client belongs to; fixed at first contact unless it is fixed already.
    pub history: HistoryPin,
    /// Most record sets a partition that wait or are under way; beyond, an append is refused as overloaded.
    pub inbox_sets_max: usize,
    /// Most bytes of records a partition that wait or are under way; beyond, an append is refused as overloaded, but
    /// one that is alone always passes. Unit: bytes.
    pub inbox_bytes_max: usize,
    /// How many bytes of waiting records are coalesced into one append; a larger set goes alone. Unit: bytes.
    pub append_bytes_max: usize,
    /// Most append requests a partition under way.
    pub appends_in_flight_max: usize,
    /// How long one attempt at one node may take before another node is tried. Unit: milliseconds.
    pub attempt_timeout_ms: u64,
    /// How much longer than its wait a fetch may take at one node. Unit: milliseconds.
    pub fetch_grace_ms: u64,
    /// Pause after the first round in which no node helped; doubles, with jitter. Unit: milliseconds.
    pub backoff_ms_min: u64,
    /// Longest such pause. Unit: milliseconds.
    pub backoff_ms_max: u64,
    /// How often the cluster is asked for although nothing is wrong. Unit: milliseconds.
    pub refresh_ms: u64,
}

impl LogClientConfig {
    /// The defaults, starting from these nodes.
    #[must_use]
    pub fn new(nodes: Vec<String>) -> LogClientConfig {
        LogClientConfig {
            nodes,
            history: HistoryPin::default(),
            inbox_sets_max: 16_384,
            inbox_bytes_max: 64 * 1024 * 1024,
            append_bytes_max: 1024 * 1024,
            appends_in_flight_max: 2,
            attempt_timeout_ms: 1_500,
            fetch_grace_ms: 2_000,
            backoff_ms_min: 10,
            backoff_ms_max: 250,
            refresh_ms: 30_000,
        }
    }
}

/// The history that a client belongs to: empty, or fixed for good. Clones share it, so that the transport's hello can
/// carry what the client learned at first contact, and nodes of another history refuse the connection.
#[derive(Clone, Debug, Default)]
pub struct HistoryPin {
    history: Arc<OnceLock<HistoryId>>,
}

impl HistoryPin {
    /// Fixed from the beginning, for a process whose data is of that history.
    #[must_use]
    pub fn fixed(history: HistoryId) -> HistoryPin {
        HistoryPin { history: Arc::new(OnceLock::from(history)) }
    }

    /// The history, once it is fixed.
    #[must_use]
    pub fn get(&self) -> Option<HistoryId> {
        self.history.get().copied()
    }

    /// Hellos of a client of this history, for a transport.
    #[must_use]
    pub fn hello(&self, name: &str) -> Box<dyn Fn() -> Hello + Send + Sync> {
        let (pin, name) = (self.clone(), name.to_owned());
        Box::new(move || Hello { role: Role::Client { name: name.clone() }, history: pin.get() })
    }

    /// Fixes it if it is not; answers what it is fixed to.
    fn fix(&self, history: HistoryId) -> HistoryId {
        *self.history.get_or_init(|| history)
    }
}

/// A client of the log. Cloning shares everything; dropping the last clone ends its tasks.
#[derive(Clone)]
pub struct LogClient {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    appenders: Mutex<HashMap<PartitionId, Arc<Appender>>>,
    refresher: tokio::task::AbortHandle,
}

impl LogClient {
    /// A client over a transport. Must be called within a tokio runtime; contacts nobody yet.
    #[must_use]
    pub fn new(config: LogClientConfig, transport: Arc<dyn Transport>, seams: Seams) -> LogClient {
        let directory = Directory::new(&config.nodes, config.history.clone());
        let shared = Arc::new(Shared::new(config, transport, seams, directory));
        let refresher = tokio::spawn(read::refresh_now_and_then(Arc::clone(&shared))).abort_handle();
        LogClient { inner: Arc::new(Inner { shared, appenders: Mutex::default(), refresher }) }
    }

    /// A client over TCP, whose hello carries `name` and the history.
    #[must_use]
    pub fn over_tcp(config: LogClientConfig, name: &str, seams: Seams) -> LogClient {
        let transport = TcpTransport::new(TcpTransportConfig::default(), config.history.hello(name));
        LogClient::new(config, Arc::new(transport), seams)
    }

    /// The history that this client belongs to; `None` before the first contact.
    #[must_use]
    pub fn history(&self) -> Option<HistoryId> {
        self.inner.shared.directory.pin().get()
    }

    fn appender(&self, partition: PartitionId) -> Result<Arc<Appender>, AppendError> {
        let mut appenders = self.inner.appenders.lock();
        if let Some(appender) = appenders.get(&partition) {
            return Ok(Arc::clone(appender));
        }
        let partitions = self.inner.shared.directory.partitions().unwrap_or(PARTITIONS_MAX);
        if partition.get() >= partitions {
            return Err(AppendError::Invalid { reason: format!("there is no partition {partition}") });
        }
        let appender = Arc::new(Appender::start(Arc::clone(&self.inner.shared), partition));
        appenders.insert(partition, Arc::clone(&appender));
        Ok(appender)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.refresher.abort();
    }
}

impl Log for LogClient {
    fn append(
        &self,
        partition: PartitionId,
        records: RecordSet,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Vec<AppendedRun>, AppendError>> {
        Box::pin(async move { self.appender(partition)?.append(records, timeout).await })
    }

    fn fetch(
        &self,
        partition: PartitionId,
        from: Offset,
        last: Option<BatchId>,
        bytes_max: u32,
        wait: Duration,
    ) -> BoxFuture<'_, Result<Fetched, FetchError>> {
        Box::pin(self.inner.shared.fetch(partition, from, last, bytes_max, wait))
    }

    fn tail(&self, partition: PartitionId, timeout: Duration) -> BoxFuture<'_, Result<TailAnswer, TailError>> {
        Box::pin(self.inner.shared.tail(partition, timeout))
    }

    fn cluster(&self, timeout: Duration) -> BoxFuture<'_, Result<ClusterInfo, ClusterError>> {
        Box::pin(self.inner.shared.cluster(timeout))
    }

    fn register(&self, serving_node: ServingNodeInfo, timeout: Duration) -> BoxFuture<'_, Result<(), ClusterError>> {
        Box::pin(self.inner.shared.register(serving_node, timeout))
    }

    fn survey(&self, timeout: Duration) -> BoxFuture<'_, Vec<Surveyed>> {
        Box::pin(self.inner.shared.survey(timeout))
    }

    fn problems(&self) -> Vec<LogProblem> {
        self.inner.shared.health.problems(&self.inner.shared.directory)
    }
}

#[cfg(test)]
mod tests;
