//! `RaftLogStorage` and `RaftLogReader` over a [`PartitionLog`]: conversions, and nothing else.
//!
//! * Append answers openraft when the bytes are durable, in order. Reads are capped by bytes and never give none.
//! * Source: DESIGN D1, D2; openraft `storage::v2`.

use super::types::{Entry, LogBatch, LogId, Membership, TypeConfig, Vote, entry_id, log_id, raft_vote, stored_vote};
use crate::store::{EntryBody, LogEntry, PartitionLog, StoreError};
use bytes::Bytes;
use duramen_common::planted::{Plant, is_planted};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::Mutex;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

/// Most bytes of entries in one replication message (one entry may be larger).
pub const REPLICATION_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The Raft log of one partition. Cloning shares it.
#[derive(Clone)]
pub struct LogStore {
    log: PartitionLog,
    committed: Arc<Mutex<Option<LogId>>>,
}

impl LogStore {
    /// Over an open log.
    #[must_use]
    pub fn new(log: PartitionLog) -> LogStore {
        LogStore { log, committed: Arc::default() }
    }
}

impl LogStore {
    /// Reads what is in memory at once, and the rest on a thread that may block: a follower that catches up must not hold
    /// up heartbeats.
    async fn read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<Entry>, io::Error> {
        let found = if self.log.holds_index(start) {
            self.log.read_entries(start, end, bytes_max)?
        } else {
            let log = self.log.clone();
            self.log
                .threads()
                .run(move || log.read_entries(start, end, bytes_max))
                .await
                .map_err(io::Error::other)??
        };
        found.into_iter().map(to_raft).collect()
    }
}

/// The store's form of an entry.
#[must_use]
pub fn to_stored(entry: Entry) -> LogEntry {
    let body = match entry.payload {
        EntryPayload::Blank => EntryBody::Blank,
        EntryPayload::Normal(LogBatch(batch)) => EntryBody::Batch(batch),
        EntryPayload::Membership(membership) => EntryBody::Membership(encode_membership(&membership)),
    };
    LogEntry { id: entry_id(&entry.log_id), body }
}

/// openraft's form of an entry.
pub fn to_raft(entry: LogEntry) -> Result<Entry, io::Error> {
    let payload = match entry.body {
        EntryBody::Blank => EntryPayload::Blank,
        EntryBody::Batch(batch) => EntryPayload::Normal(LogBatch(batch)),
        EntryBody::Membership(bytes) => EntryPayload::Membership(decode_membership(&bytes)?),
    };
    Ok(Entry { log_id: log_id(entry.id), payload })
}

/// A membership as stored and sent: the joint configurations and all node ids, in the common control codec.
#[must_use]
pub fn encode_membership(membership: &Membership) -> Bytes {
    let nodes: Vec<u64> = membership.nodes().map(|(&node, _)| node).collect();
    duramen_common::codec::encode(&(membership.get_joint_config(), nodes))
}

/// The reverse of [`encode_membership`].
pub fn decode_membership(bytes: &[u8]) -> Result<Membership, io::Error> {
    let (configs, nodes): (Vec<std::collections::BTreeSet<u64>>, Vec<u64>) =
        duramen_common::codec::decode(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    let nodes: std::collections::BTreeMap<u64, openraft::EmptyNode> =
        nodes.into_iter().map(|node| (node, openraft::EmptyNode {})).collect();
    Membership::new(configs, nodes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(&index) => index,
            Bound::Excluded(&index) => index + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&index) => index.saturating_add(1),
            Bound::Excluded(&index) => index,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, usize::MAX).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.log.state().small.vote.map(raft_vote))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, REPLICATION_BYTES_MAX).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.log.state();
        Ok(LogState { last_purged_log_id: state.small.purged.map(log_id), last_log_id: state.last.map(log_id) })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        Ok(self.log.save_vote(stored_vote(vote)).await?)
    }

    /// Kept in memory only: openraft calls this before it applies. The state machine puts the mark on the disk when it
    /// applies, in one piece with the membership; openraft looks for a membership behind the mark only, so that one that
    /// was ahead of it would leave a restarted node without any.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        *self.committed.lock() = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let applied = self.log.state().small.committed.map(log_id);
        Ok(applied.max(*self.committed.lock()))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<LogEntry> = entries.into_iter().map(to_stored).collect();
        self.log.wait_writable().await?;
        if is_planted(Plant::FlushedWhenAppended) {
            let appended = self.log.append(entries, Box::new(|_| {}));
            callback.io_completed(Ok(()));
            return Ok(appended?);
        }
        let done = move |result: Result<(), StoreError>| callback.io_completed(result.map_err(io::Error::from));
        Ok(self.log.append(entries, Box::new(done))?)
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        Ok(self.log.truncate_after(last_log_id.as_ref().map(entry_id))?)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        Ok(self.log.purge(entry_id(&log_id))?)
    }
}
