//! The store's nouns: what goes into a partition's log, what comes out, and its frontiers.
//!
//! * openraft's types stay outside: `consensus` converts. Terms and indexes are plain numbers here, named.
//! * Frontiers count records (offsets) and are half-open; indexes are Raft's and count entries.
//! * Source: DESIGN D2, D3, D5; docs/formats.md "Segment", "Frame".

use bytes::Bytes;
use duramen_common::batch::RecordBatch;
use duramen_common::ids::{HistoryId, Offset, StoreId};
use duramen_common::protocol::BatchId;
use duramen_common::seams::Threads;
use std::path::PathBuf;

/// Term and index of an entry: names it in its log. The same type names batches on the wire.
pub type EntryId = BatchId;

/// What an entry holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryBody {
    /// Records; takes as many offsets as it has records.
    Batch(RecordBatch),
    /// A new leader's no-op; takes no offset.
    Blank,
    /// A membership, encoded by `consensus`; takes no offset.
    Membership(Bytes),
}

impl EntryBody {
    /// Offsets that it takes.
    #[must_use]
    pub fn offset_count(&self) -> u64 {
        match self {
            Self::Batch(batch) => u64::from(batch.header().end_delta),
            Self::Blank | Self::Membership(_) => 0,
        }
    }

    /// Bytes of its payload.
    #[must_use]
    pub fn bytes_len(&self) -> usize {
        match self {
            Self::Batch(batch) => batch.bytes().len(),
            Self::Blank => 0,
            Self::Membership(bytes) => bytes.len(),
        }
    }
}

/// An entry on its way into the log, or out of it. A batch that comes out has its first offset set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Term and index.
    pub id: EntryId,
    /// What it holds.
    pub body: EntryBody,
}

/// A vote as Raft keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredVote {
    /// The term voted in.
    pub term: u64,
    /// The candidate or leader voted for.
    pub node: u64,
    /// Whether a quorum granted it.
    pub committed: bool,
}

/// A membership and the entry that set it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMembership {
    /// The entry; `None` before any.
    pub id: Option<EntryId>,
    /// Encoded by `consensus`.
    pub bytes: Bytes,
}

/// The small state of a partition, repeated at each segment's start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SmallState {
    /// The last vote.
    pub vote: Option<StoredVote>,
    /// The last entry known to be committed; may lag behind what was.
    pub committed: Option<EntryId>,
    /// The membership last applied.
    pub applied_membership: Option<StoredMembership>,
    /// The last entry that Raft has let go of. Nothing is deleted by it.
    pub purged: Option<EntryId>,
}

/// What Raft needs at start: the small state and where the log ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// Vote and marks.
    pub small: SmallState,
    /// The last entry, or the purge mark where that is later; `None` for an empty log.
    pub last: Option<EntryId>,
    /// Frontiers in records.
    pub ends: Ends,
}

/// Frontiers of one replica: `first_offset ≤ committed_end ≤ durable_end ≤ append_end` (DESIGN invariant 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// First offset that the log still has.
    pub first_offset: Offset,
    /// First offset not known to be committed, published only up to what is durable here.
    pub committed_end: Offset,
    /// First offset not known to be on disk here.
    pub durable_end: Offset,
    /// First offset not appended here.
    pub append_end: Offset,
}

impl Ends {
    /// Panics where the order is broken: a bug of the store, never input.
    pub fn check(&self) {
        assert!(
            self.first_offset <= self.committed_end
                && self.committed_end <= self.durable_end
                && self.durable_end <= self.append_end,
            "invariant 3 is broken: {self:?}"
        );
    }
}

/// Whose segments these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreIdentity {
    /// The cluster's history.
    pub history: HistoryId,
    /// Minted with the folder.
    pub store: StoreId,
}

/// Sizes and limits of a store. Validated at open.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Length of a segment file; so much is reserved on the disk for each open partition. Unit: bytes; an entry larger than a segment gets one of its own.
    pub segment_bytes: u64,
    /// The same for the meta partition, which holds little. Unit: bytes.
    pub meta_segment_bytes: u64,
    /// Files of closed segments kept open for reading, over all partitions. A segment that is written is open besides.
    pub open_segments_max: usize,
    /// Removed segments kept as spares, a partition.
    pub spares_max: usize,
    /// With less free disk [`super::Store::has_room`] says no to new records. A quarter of it is held as a file (`reserve`). What is
    /// left serves votes, marks, entries without records, and records that were admitted before. Unit: bytes.
    pub reserve_bytes: u64,
    /// Entries kept in memory after they were written, over all partitions. Unit: bytes.
    pub cache_bytes_max: usize,
    /// The same for one partition. Unit: bytes.
    pub cache_bytes_partition_max: usize,
    /// Appended and not yet durable, a partition; above it appends wait. Unit: bytes.
    pub queue_bytes_max: usize,
    /// Idle time after which marks are written. Unit: milliseconds.
    pub idle_ms: u64,
    /// Over how many offsets request ids are remembered. Unit: records.
    pub dedup_window: u64,
}

impl Default for StoreConfig {
    fn default() -> StoreConfig {
        StoreConfig {
            segment_bytes: 64 * 1024 * 1024,
            meta_segment_bytes: 4 * 1024 * 1024,
            open_segments_max: 64,
            spares_max: 1,
            reserve_bytes: 64 * 1024 * 1024,
            cache_bytes_max: 32 * 1024 * 1024,
            cache_bytes_partition_max: 8 * 1024 * 1024,
            queue_bytes_max: 32 * 1024 * 1024,
            idle_ms: 50,
            dedup_window: duramen_common::limits::DEDUP_WINDOW_DEFAULT,
        }
    }
}

/// Who drives the sync work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMode {
    /// A thread of its own, as in real runs.
    Thread,
    /// A task of the runtime in which the store is opened, which takes as long as the disk says ([`crate::disk::Disk::delay`]):
    /// simulation.
    Task,
    /// Whoever calls [`super::Store::step`]: tests.
    Manual,
}

impl SyncMode {
    /// Where reading files may block.
    pub(super) fn threads(self) -> Threads {
        match self {
            SyncMode::Thread => Threads::System,
            SyncMode::Task | SyncMode::Manual => Threads::None,
        }
    }
}

/// Where a partition's bytes are damaged, below what was durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Where in it. Unit: bytes.
    pub position: u64,
    /// What is wrong there.
    pub what: String,
    /// The Raft index that the damaged frame holds if it holds an entry: ask a peer for this one and some after it.
    pub index: u64,
}
