//! What a log client and a log node say to each other over the framed transport: control messages (`codec`), with
//! record bytes behind them where there are any.
//!
//! * `AppendRequest` + encoded records → `AppendAnswer`; `FetchRequest` → `FetchAnswer` + record batches;
//!   `TailRequest` → `TailAnswer`; `ClusterRequest` → `ClusterInfo`; `RegisterRequest` → `()`.
//! * Every answer is a `Result<…, LogRefusal>`; a refusal says what the caller may conclude.
//! * Source: docs/formats.md "Log protocol".

use crate::batch::IdRun;
use crate::ids::{HistoryId, NodeId, Offset, PartitionId, StoreId};
use serde::{Deserialize, Serialize};

/// Services of a log node, the `service` byte of a request frame.
pub mod service {
    /// [`super::AppendRequest`], records behind it → [`super::AppendAnswer`].
    pub const APPEND: u8 = 1;
    /// [`super::FetchRequest`] → [`super::FetchAnswer`], record batches behind it.
    pub const FETCH: u8 = 2;
    /// [`super::TailRequest`] → [`super::TailAnswer`].
    pub const TAIL: u8 = 3;
    /// [`super::ClusterRequest`] → [`super::ClusterInfo`].
    pub const CLUSTER: u8 = 4;
    /// [`super::RegisterRequest`] → `()`.
    pub const REGISTER: u8 = 5;
    /// First of the services between log nodes only (consensus, formation, repair).
    pub const PEER_FIRST: u8 = 64;
}

/// Append records to a partition, at its leader.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AppendRequest {
    /// Where to.
    pub partition: PartitionId,
    /// How many records follow.
    pub count: u32,
    /// Their ids, in order; the counts add up to `count`.
    pub ids: Vec<IdRun>,
    /// Committed end that the client knew before it first sent these ids; the log refuses ids that may have left
    /// its window since.
    pub known_end: Offset,
    /// How long the client will wait. Unit: milliseconds.
    pub timeout_ms: u64,
}

/// What became of a run of records, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppendedRun {
    /// Committed at these offsets, densely; a repeat gives the offset of the first time.
    At {
        /// Offset of the run's first record.
        first_offset: Offset,
        /// Records in the run.
        count: u32,
    },
    /// The id was used for another record before; nothing was appended for it.
    KeyReused {
        /// Records in the run.
        count: u32,
    },
}

/// Answer to an append: every record is committed, or refused by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AppendAnswer {
    /// Runs in the order of the request; their counts add up to its count.
    pub runs: Vec<AppendedRun>,
    /// Committed end, a hint for `known_end`.
    pub committed_end: Offset,
}

/// Term and Raft index of the entry that holds a batch: names a batch of one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchId {
    /// Raft term.
    pub term: u64,
    /// Raft index.
    pub index: u64,
}

/// Committed batches from an offset on; parks until there are some.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FetchRequest {
    /// Which log.
    pub partition: PartitionId,
    /// First offset wanted.
    pub from: Offset,
    /// At most about this much; always at least one batch when there is one. Unit: bytes.
    pub bytes_max: u32,
    /// How long to park when there is nothing. Unit: milliseconds.
    pub wait_ms: u64,
    /// The batch that the reader applied last (it ends at `from`): a mismatch means that its state is of another log.
    pub last: Option<BatchId>,
}

/// Answer to a fetch; the batches' bytes follow, concatenated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FetchAnswer {
    /// Each batch's id and length in bytes, in order.
    pub batches: Vec<(BatchId, u32)>,
    /// Where to go on: the end of the last batch, or `from`.
    pub next_offset: Offset,
    /// Committed end when this was answered.
    pub committed_end: Offset,
    /// First offset that the log still has.
    pub first_offset: Offset,
    /// Below it, tombstones may be gone.
    pub horizon: Offset,
    /// Below it, superseded records may be gone.
    pub settled_end: Offset,
}

/// The committed end that covers everything acknowledged before this was asked (a ReadIndex round).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TailRequest {
    /// Which log.
    pub partition: PartitionId,
    /// How long the client will wait. Unit: milliseconds.
    pub timeout_ms: u64,
}

/// Answer to a tail question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TailAnswer {
    /// First offset not known to be committed.
    pub committed_end: Offset,
}

/// What the cluster is made of, as this node knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterRequest {}

/// A log node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogNodeInfo {
    /// Its number.
    pub node: NodeId,
    /// Its data folder.
    pub store: StoreId,
    /// Framed TCP, `host:port`.
    pub rpc_addr: String,
    /// HTTP, `host:port`.
    pub http_addr: String,
}

/// A serving node, as it registered itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServingNodeInfo {
    /// Its name.
    pub name: String,
    /// HTTP, `host:port`.
    pub http_addr: String,
}

/// The cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterInfo {
    /// Which cluster.
    pub history: HistoryId,
    /// Data partitions, fixed at creation.
    pub partitions: u16,
    /// Over how many offsets request ids are remembered, fixed at creation.
    pub dedup_window: u64,
    /// Log nodes by number.
    pub log_nodes: Vec<LogNodeInfo>,
    /// Serving nodes by name.
    pub serving_nodes: Vec<ServingNodeInfo>,
    /// The leader of each data partition, as far as the answering node knows.
    pub leaders: Vec<Option<NodeId>>,
}

/// A serving node tells the cluster about itself; repeated every few seconds while it lives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegisterRequest {
    /// Who.
    pub serving_node: ServingNodeInfo,
    /// Drawn at each start of the process, so that two that run are told from one that restarted.
    pub incarnation: u64,
}

/// Why a log node did not do it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum LogRefusal {
    /// Ask the leader. Nothing was done.
    #[error("not the leader of partition {partition}")]
    NotLeader {
        /// Which log.
        partition: PartitionId,
        /// Who leads it, when known.
        leader: Option<NodeId>,
    },
    /// No such partition. Nothing was done.
    #[error("there is no partition {partition}: this cluster has {partitions}")]
    UnknownPartition {
        /// The one asked for.
        partition: PartitionId,
        /// How many there are.
        partitions: u16,
    },
    /// The disk is full. Nothing was done.
    #[error("the log's disk is full on node {node}: free space there, reads go on")]
    LogFull {
        /// Which node.
        node: NodeId,
    },
    /// A queue is full. Nothing was done.
    #[error("the log's queue is full: try again later")]
    Overloaded,
    /// The request is not what it should be. Nothing was done.
    #[error("the log refuses this request: {reason}")]
    Invalid {
        /// Why.
        reason: String,
    },
    /// Over a limit. Nothing was done.
    #[error("{what} of {size} is over the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: String,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// The ids may have left the duplicate window since they were first sent: not appended now, perhaps before.
    #[error("the retry came too late for the log to tell whether it is a repeat")]
    TooLate,
    /// It may or may not be appended.
    #[error("the outcome is unknown: {reason}")]
    OutcomeUnknown {
        /// Why.
        reason: String,
    },
    /// The reader is below the horizon with state: wipe, start over at 0.
    #[error("compacted: start over at 0, or at {horizon} or later")]
    Compacted {
        /// The first offset that a reader with state may resume from.
        horizon: Offset,
    },
    /// The reader's last batch is not in this log, or its offset is past this log's end.
    #[error("the reader's position {from} is not of this log (committed end {committed_end})")]
    OtherLog {
        /// What it asked for.
        from: Offset,
        /// Where this log ends.
        committed_end: Offset,
    },
    /// Another serving node of this name is alive. Nothing was done.
    #[error("the name {name} is in use by the serving node at {http_addr}")]
    NameTaken {
        /// The name.
        name: String,
        /// Where the other one is.
        http_addr: String,
    },
    /// This node cannot answer now (starting, stopping, no quorum). Nothing was done.
    #[error("not available now: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

impl LogRefusal {
    /// Whether it is certain that nothing was appended by the attempt that was refused so.
    #[must_use]
    pub const fn is_definite(&self) -> bool {
        !matches!(self, Self::TooLate | Self::OutcomeUnknown { .. })
    }
}
