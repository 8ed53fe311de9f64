//! The log's contract, as the serving layer sees it (DESIGN D13): append, fetch, tail, cluster. Ours stands behind it
//! today; another replicated log could.
//!
//! ```text
//! 0          first_offset   horizon   settled_end        committed_end
//! |  deleted  |  fold only   |  fold   |  every record    |  not yet known to be committed
//! ```
//!
//! * `append` answers only when every record is committed; dense offsets in the order of the call.
//! * `fetch` gives only committed batches, in order, each exactly once for a reader that follows `next_offset`.
//! * `tail` MUST answer an end that covers every append acknowledged before the call.
//! * Errors say what the caller may conclude: [`AppendError::effect`].

use crate::batch::{BatchError, RecordBatch, RecordSet};
use crate::ids::{HistoryId, NodeId, Offset, PartitionId};
use crate::protocol::{AppendedRun, BatchId, ClusterInfo, ServingNodeInfo, TailAnswer};
use futures_util::future::BoxFuture;
use std::time::Duration;

/// A partitioned, replicated log.
pub trait Log: Send + Sync + 'static {
    /// Appends records to one partition, in order, each atomic by itself. The ids in the set make a repeat of the same
    /// call harmless. Answers runs whose counts add up to the set's.
    fn append(
        &self,
        partition: PartitionId,
        records: RecordSet,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Vec<AppendedRun>, AppendError>>;

    /// Committed batches from `from` on; waits up to `wait` when there is nothing. `last` is the batch applied just
    /// before `from`, when there is one.
    fn fetch(
        &self,
        partition: PartitionId,
        from: Offset,
        last: Option<BatchId>,
        bytes_max: u32,
        wait: Duration,
    ) -> BoxFuture<'_, Result<Fetched, FetchError>>;

    /// An end that covers every append acknowledged before this call.
    fn tail(&self, partition: PartitionId, timeout: Duration) -> BoxFuture<'_, Result<TailAnswer, TailError>>;

    /// The cluster as the log knows it.
    fn cluster(&self, timeout: Duration) -> BoxFuture<'_, Result<ClusterInfo, ClusterError>>;

    /// Tells the log about a serving node. Repeated every few seconds while the node lives, so that its name stays its own.
    fn register(&self, serving_node: ServingNodeInfo, timeout: Duration) -> BoxFuture<'_, Result<(), ClusterError>>;

    /// Asks every configured node which history it is of, and takes nothing over. Without an implementation of its own a log
    /// is one node.
    fn survey(&self, timeout: Duration) -> BoxFuture<'_, Vec<Surveyed>> {
        Box::pin(async move {
            let history = match self.cluster(timeout).await {
                Ok(cluster) => Ok(cluster.history),
                Err(ClusterError::OtherHistory { theirs, .. }) => Ok(theirs),
                Err(error) => Err(error.to_string()),
            };
            vec![Surveyed { addr: "the log".to_owned(), history }]
        })
    }

    /// What is wrong now with the log's nodes, as seen from here.
    fn problems(&self) -> Vec<LogProblem> {
        Vec::new()
    }
}

/// What one node said about its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surveyed {
    /// Where it was asked.
    pub addr: String,
    /// Its history, or why it is not known.
    pub history: Result<HistoryId, String>,
}

/// What is wrong with a node of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogProblem {
    /// Whether the node belongs to another history; otherwise it cannot be reached.
    pub is_foreign: bool,
    /// One sentence: which node, what is wrong, what to do.
    pub text: String,
}

/// One batch with its name.
#[derive(Clone, Debug)]
pub struct FetchedBatch {
    /// Names the batch in its log.
    pub id: BatchId,
    /// The batch, checked.
    pub batch: RecordBatch,
}

/// What a fetch found.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Batches in order; the first may begin before `from` (the reader skips those records).
    pub batches: Vec<FetchedBatch>,
    /// Where to go on.
    pub next_offset: Offset,
    /// Committed end at the time.
    pub committed_end: Offset,
    /// First offset that the log still has.
    pub first_offset: Offset,
    /// Below it, tombstones may be gone.
    pub horizon: Offset,
    /// Below it, superseded records may be gone.
    pub settled_end: Offset,
}

/// What the caller of a failed write may conclude.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing happened.
    None,
    /// It may have happened, or may still: retry only under the same request id.
    Unknown,
}

/// Why an append was not acknowledged.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AppendError {
    /// No leader was found, and nothing was sent.
    #[error("partition {partition} has no leader within {waited_ms} ms: nothing was appended, try again")]
    NoLeader {
        /// Which log.
        partition: PartitionId,
        /// How long it was tried.
        waited_ms: u64,
    },
    /// Sent, and no certain answer came.
    #[error("partition {partition}: not acknowledged within {waited_ms} ms ({reason})")]
    Unacknowledged {
        /// Which log.
        partition: PartitionId,
        /// How long it was tried.
        waited_ms: u64,
        /// What the last attempt met.
        reason: String,
    },
    /// The log's disk is full.
    #[error("the log's disk is full (node {node}): reads go on; free space or try later")]
    LogFull {
        /// Which node said so.
        node: NodeId,
    },
    /// A queue is full.
    #[error("too many appends are waiting: try again later")]
    Overloaded,
    /// Over a limit.
    #[error("{what} of {size} is over the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: String,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// The log does not take such a request.
    #[error("the log refuses this append: {reason}")]
    Invalid {
        /// Why.
        reason: String,
    },
    /// The log is shutting down or was never reached.
    #[error("the log client is stopped")]
    Stopped,
}

impl AppendError {
    /// What the caller may conclude.
    #[must_use]
    pub const fn effect(&self) -> Effect {
        match self {
            Self::Unacknowledged { .. } => Effect::Unknown,
            Self::NoLeader { .. }
            | Self::LogFull { .. }
            | Self::Overloaded
            | Self::TooLarge { .. }
            | Self::Invalid { .. }
            | Self::Stopped => Effect::None,
        }
    }
}

/// Why a fetch gave nothing.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FetchError {
    /// Resuming below the horizon with state: wipe, start over at 0.
    #[error("partition {partition} is compacted up to {horizon}: start over at 0")]
    Compacted {
        /// Which log.
        partition: PartitionId,
        /// The first offset that a reader with state may resume from.
        horizon: Offset,
    },
    /// The reader's state is of another log: wipe, start over at 0.
    #[error("partition {partition}: position {from} is not of this log")]
    OtherLog {
        /// Which log.
        partition: PartitionId,
        /// The position asked for.
        from: Offset,
    },
    /// The cluster is another one than this client was talking to.
    #[error("the log's history is {theirs}, not {ours}")]
    OtherHistory {
        /// The client's.
        ours: HistoryId,
        /// The log's.
        theirs: HistoryId,
    },
    /// What came is not what the log wrote.
    #[error("partition {partition}: a batch came damaged: {damage}")]
    Damaged {
        /// Which log.
        partition: PartitionId,
        /// How.
        damage: BatchError,
    },
    /// No log node could answer: try again.
    #[error("partition {partition}: no log node answers: {reason}")]
    Unavailable {
        /// Which log.
        partition: PartitionId,
        /// What the last attempt met.
        reason: String,
    },
}

/// Why a tail question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TailError {
    /// No leader confirmed it in time.
    #[error("no leader of partition {partition} confirmed its end within {waited_ms} ms: {reason}")]
    Unavailable {
        /// Which log.
        partition: PartitionId,
        /// How long it was tried.
        waited_ms: u64,
        /// What the last attempt met.
        reason: String,
    },
}

/// Why the cluster could not be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// No log node answered in time.
    #[error("no log node answered within {waited_ms} ms: {reason}")]
    Unavailable {
        /// How long it was tried.
        waited_ms: u64,
        /// What the last attempt met.
        reason: String,
    },
    /// Another serving node of this name is alive.
    #[error(
        "the name {name} is in use by the serving node at {http_addr}: stop that one, or give this one another name"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Where the other one is.
        http_addr: String,
    },
    /// The answer is of another cluster than this client was talking to.
    #[error("the log's history is {theirs}, not {ours}: this node's data is of another cluster")]
    OtherHistory {
        /// The client's.
        ours: HistoryId,
        /// The log's.
        theirs: HistoryId,
    },
}
