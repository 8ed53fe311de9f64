//! What reads answer with, and why they cannot.

use bytes::Bytes;
use duramen_common::batch::RecordBatch;
use duramen_common::{Offset, PartitionId};

/// A key's value and the offset of its last effective write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The value.
    pub value: Bytes,
    /// Its version: the offset of the record that wrote it.
    pub version: Offset,
}

/// What was read, and the position that it was read at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadAt<T> {
    /// The state is the fold of every record below this.
    pub applied_end: Offset,
    /// What was read.
    pub value: T,
}

/// What a record did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its guards held; its updates are in.
    Effective,
    /// A guard did not hold; it changed nothing.
    NoEffect,
}

/// How far a partition has come here.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionStatus {
    /// What reads see; `None` while there is no state that may be shown.
    pub applied_end: Option<Offset>,
    /// The last committed end heard of.
    pub committed_end: Offset,
    /// Records committed and not applied here, as far as known.
    pub lag: u64,
    /// Below it, tombstones may be gone from the log.
    pub horizon: Offset,
    /// Below it, superseded records may be gone from the log.
    pub settled_end: Offset,
    /// First offset that the log still has.
    pub first_offset: Offset,
    /// What the index holds: a restart replays from here.
    pub persisted_end: Offset,
    /// While it is far behind: how it comes along.
    pub catching_up: Option<Progress>,
}

/// How catching up comes along.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Records applied since it began.
    pub records: u64,
    /// Records a second, lately.
    pub rate_per_s: f64,
    /// Records still to apply.
    pub remaining: u64,
}

/// Why a wait for an applied end ended without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// The deadline passed.
    #[error("this node has applied {}, not yet {wanted}", applied.map_or("nothing that may be shown".to_owned(), |end| format!("up to {end}")))]
    Deadline {
        /// The end that was waited for.
        wanted: Offset,
        /// The applied end then.
        applied: Option<Offset>,
    },
    /// The node stops.
    #[error("this node is stopping; it has applied {}, not yet {wanted}", applied.map_or("nothing that may be shown".to_owned(), |end| format!("up to {end}")))]
    Stopping {
        /// The end that was waited for.
        wanted: Offset,
        /// The applied end then.
        applied: Option<Offset>,
    },
    /// Too many wait already.
    #[error("{limit} readers are waiting already: try again later or at another node")]
    TooManyWaiters {
        /// The limit.
        limit: usize,
    },
}

/// Why a local read has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// There is no state that may be shown: the node is catching up through a compacted stretch, or has just begun.
    #[error("partition {partition} is catching up here: {applying_end} of {wanted_end}")]
    Behind {
        /// Which.
        partition: PartitionId,
        /// How far it has come.
        applying_end: Offset,
        /// Where it may be shown again, as far as known.
        wanted_end: Offset,
    },
    /// The index failed.
    #[error("the index of partition {partition} failed: {reason}")]
    Index {
        /// Which.
        partition: PartitionId,
        /// What it said.
        reason: String,
    },
    /// The record's outcome is not kept any more: it lies below the settled end.
    #[error("what the record at {partition}:{offset} did is forgotten: the log is settled up to {settled_end}")]
    OutcomeForgotten {
        /// Which.
        partition: PartitionId,
        /// The record.
        offset: Offset,
        /// Below it, outcomes are not kept.
        settled_end: Offset,
    },
}

/// Recently applied batches, for feeds.
#[derive(Clone, Debug)]
pub enum Recent {
    /// Batches that cover `from` on without a gap, up to the applied end; the first may begin before `from`.
    Batches(Vec<RecordBatch>),
    /// `from` is older than what is kept: fetch from the log.
    TooOld,
}

/// A page of a scan ends after this much. Unit: bytes of keys and values.
pub const SCAN_BYTES_MAX: usize = 4 * 1024 * 1024;
