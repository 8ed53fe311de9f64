//! One partition on this node: its group, its batcher, its readers.
//!
//! * In: append, fetch and tail requests, decoded. Out: answers, or refusals that say what the caller may conclude.
//! * Invariant: a fetch gives nothing at or above the published committed end.
//! * Any replica answers a fetch with what it has published; a position past that waits, because the replica may be
//!   behind. Only the leader, after asking a majority, says that a position is past the log.
//! * Deliberately absent: retention and compaction (nothing is ever below the first offset yet).
//! * Source: DESIGN D5, D7, D9.

use super::batcher::Batcher;
use super::tail::TailQuestions;
use crate::consensus::{Group, Leading, ReadIndexFailure};
use crate::store::{PartitionLog, StoreError};
use bytes::Bytes;
use duramen_common::batch::{BatchHeader, IdRun, RecordSet};
use duramen_common::limits::{FETCH_BYTES_MAX, FETCH_WAIT_MS_MAX};
use duramen_common::planted::{Plant, is_planted};
use duramen_common::protocol::{
    AppendAnswer, AppendRequest, BatchId, FetchAnswer, FetchRequest, LogRefusal, TailAnswer,
};
use duramen_common::{NodeId, Offset, PartitionId};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// How long a majority is asked whether a position is past the log.
const CONFIRM_WAIT: Duration = Duration::from_secs(1);

/// A partition as this node serves it.
pub struct Partition {
    /// Which one.
    pub id: PartitionId,
    /// Its Raft.
    pub group: Arc<Group>,
    /// Its log.
    pub log: PartitionLog,
    /// Its appends.
    pub batcher: Batcher,
    /// Its tail questions.
    pub tail: Arc<TailQuestions>,
    /// Longest wait that a caller may ask for.
    pub timeout_max: Duration,
    /// How long an election is waited for.
    pub election_max: Duration,
}

/// What a fetch gives: the answer, and the batches behind it.
pub type Fetched = (FetchAnswer, Vec<Bytes>);

impl Partition {
    /// Who leads it, as far as this node knows.
    pub fn leader(&self, me: NodeId) -> Option<NodeId> {
        match *self.group.leading().borrow() {
            Leading::Here { .. } => Some(me),
            Leading::Elsewhere { leader } => leader,
        }
    }

    /// Appends what a client sent.
    pub async fn append(&self, request: AppendRequest, records: Bytes) -> Result<AppendAnswer, LogRefusal> {
        self.check_leads(Duration::from_millis(request.timeout_ms)).await?;
        let set = RecordSet { records, count: request.count, ids: merged(request.ids) };
        let wait = Duration::from_millis(request.timeout_ms).min(self.timeout_max);
        self.batcher.append(set, request.known_end, wait).await
    }

    /// Refuses unless this node leads. While nobody is known to lead, an election is under way, and whoever asks would only
    /// ask around: the refusal waits for it to be over, and names who won.
    async fn check_leads(&self, wait: Duration) -> Result<(), LogRefusal> {
        let mut leading = self.group.leading();
        let is_known = |leading: &Leading| *leading != Leading::Elsewhere { leader: None };
        let _ = timeout(wait.min(self.election_max), leading.wait_for(is_known)).await;
        match *leading.borrow() {
            Leading::Here { .. } => Ok(()),
            Leading::Elsewhere { leader } => Err(LogRefusal::NotLeader { partition: self.id, leader }),
        }
    }

    /// Answers a tail question, at the leader.
    pub async fn tail(&self, timeout_ms: u64) -> Result<TailAnswer, LogRefusal> {
        let wait = Duration::from_millis(timeout_ms).min(self.timeout_max);
        self.tail_within(wait).await.map(|committed_end| TailAnswer { committed_end })
    }

    async fn tail_within(&self, wait: Duration) -> Result<Offset, LogRefusal> {
        let deadline = Instant::now() + wait;
        self.check_leads(wait).await?;
        match timeout_at(deadline, self.tail.ask()).await {
            Ok(Ok(committed_end)) => Ok(committed_end),
            Ok(Err(_)) | Err(_) if is_planted(Plant::StaleLeaderTail) => Ok(self.log.ends().committed_end),
            Ok(Err(ReadIndexFailure::NotLeader { leader })) => {
                Err(LogRefusal::NotLeader { partition: self.id, leader })
            }
            Ok(Err(ReadIndexFailure::Unavailable { reason })) => Err(LogRefusal::Unavailable { reason }),
            Err(_) => {
                let reason = format!("no majority confirmed it within {} ms", wait.as_millis());
                Err(LogRefusal::Unavailable { reason })
            }
        }
    }

    /// Committed batches from an offset on; parks until there are some.
    pub async fn fetch(&self, request: &FetchRequest) -> Result<Fetched, LogRefusal> {
        let wait = Duration::from_millis(request.wait_ms.min(FETCH_WAIT_MS_MAX));
        let deadline = Instant::now() + wait;
        let mut committed = self.log.watch_committed_end();
        // A position that is published here can be checked before anything new is.
        let checked = *committed.borrow() >= request.from;
        if checked {
            self.check_last(request).await?;
        }
        let stopped = matches!(timeout_at(deadline, committed.wait_for(|&end| end > request.from)).await, Ok(Err(_)));
        if stopped {
            return Err(LogRefusal::Unavailable { reason: "this node is stopping".to_owned() });
        }
        let committed_end = *committed.borrow();
        if committed_end < request.from {
            return self.past_the_end(request, committed_end).await;
        }
        if !checked {
            self.check_last(request).await?;
        }
        self.read(request, committed_end).await
    }

    async fn read(&self, request: &FetchRequest, committed_end: Offset) -> Result<Fetched, LogRefusal> {
        let ends = self.log.ends();
        if request.from < ends.first_offset {
            return Err(LogRefusal::Compacted { horizon: ends.first_offset });
        }
        let bytes_max = (request.bytes_max as usize).min(FETCH_BYTES_MAX);
        let from = request.from;
        let batches = self.reading(from, move |log| log.read_from(from, committed_end, bytes_max)).await?;
        let next_offset = match batches.last() {
            None => request.from,
            Some((_, bytes)) => {
                BatchHeader::parse(bytes).map_err(|error| LogRefusal::Unavailable { reason: error.to_string() })?.end()
            }
        };
        let named: Vec<(BatchId, u32)> = batches
            .iter()
            .map(|(id, bytes)| (*id, u32::try_from(bytes.len()).expect("a batch is bounded by BATCH_BYTES_MAX")))
            .collect();
        let answer = FetchAnswer {
            batches: named,
            next_offset,
            committed_end,
            first_offset: ends.first_offset,
            horizon: ends.first_offset,
            settled_end: ends.first_offset,
        };
        Ok((answer, batches.into_iter().map(|(_, bytes)| bytes).collect()))
    }

    /// Reads from an offset on: at once what is in memory, on a thread that may block what is not. A reader that replays
    /// history must not hold up consensus.
    async fn reading<T: Send + 'static>(
        &self,
        from: Offset,
        read: impl FnOnce(&PartitionLog) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, LogRefusal> {
        let found = if self.log.holds_offset(from) {
            read(&self.log)
        } else {
            let log = self.log.clone();
            let threads = log.threads();
            threads
                .run(move || read(&log))
                .await
                .map_err(|error| LogRefusal::Unavailable { reason: error.to_string() })?
        };
        found.map_err(|error| unreadable(&error))
    }

    /// Whether the reader's last batch ends where it says, in this log.
    async fn check_last(&self, request: &FetchRequest) -> Result<(), LogRefusal> {
        let Some(last) = request.last else { return Ok(()) };
        let end = request.from;
        let before = end.previous().unwrap_or(end);
        let found = self.reading(before, move |log| log.batch_id_ending_at(end)).await?;
        if found == Some(last) {
            return Ok(());
        }
        Err(LogRefusal::OtherLog { from: request.from, committed_end: self.log.ends().committed_end })
    }

    /// A position past what is published here: this replica is behind, or the reader's state is of another log.
    async fn past_the_end(&self, request: &FetchRequest, committed_end: Offset) -> Result<Fetched, LogRefusal> {
        if let Ok(end) = self.tail_within(CONFIRM_WAIT).await
            && end < request.from
        {
            return Err(LogRefusal::OtherLog { from: request.from, committed_end: end });
        }
        let ends = self.log.ends();
        let answer = FetchAnswer {
            batches: Vec::new(),
            next_offset: request.from,
            committed_end,
            first_offset: ends.first_offset,
            horizon: ends.first_offset,
            settled_end: ends.first_offset,
        };
        Ok((answer, Vec::new()))
    }
}

/// Runs that follow one another joined, as the batcher wants them.
fn merged(ids: Vec<IdRun>) -> Vec<IdRun> {
    let mut runs = Vec::with_capacity(ids.len());
    for run in ids {
        if run.count == 0 {
            // Kept as it is: the check of the set refuses it.
            runs.push(run);
        } else {
            IdRun::push(&mut runs, run);
        }
    }
    runs
}

fn unreadable(error: &StoreError) -> LogRefusal {
    LogRefusal::Unavailable { reason: error.to_string() }
}
