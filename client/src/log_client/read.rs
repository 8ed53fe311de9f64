//! Questions that change nothing, or nothing that a repeat would change again: fetch, tail, cluster, register.
//!
//! * A fetch asks each node at most once, the leader first; its caller decides about the next.
//! * A tail and a registration go on until their deadline, in rounds with a pause between.
//! * Invariant: what a fetch hands out is whole and without a gap, or it is not handed out.

use super::ask::{AskError, Shared};
use super::directory::OtherHistory;
use super::route::Route;
use bytes::Bytes;
use duramen_common::batch::{BatchError, RecordBatch};
use duramen_common::limits::{FETCH_BYTES_MAX, FETCH_WAIT_MS_MAX};
use duramen_common::log::{ClusterError, FetchError, Fetched, FetchedBatch, Surveyed, TailError};
use duramen_common::protocol::{
    BatchId, ClusterInfo, FetchAnswer, FetchRequest, LogRefusal, RegisterRequest, ServingNodeInfo, TailAnswer,
    TailRequest, service,
};
use duramen_common::{Offset, PartitionId, codec};
use duramen_transport::CallError;
use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// Within this time, several who find the cluster lost ask for it once.
const REFRESH_SHARED: Duration = Duration::from_millis(50);
/// How long all nodes are asked for leaders that the first one does not know.
const LEADERS_WAIT: Duration = Duration::from_millis(250);

/// Keeps what is known of the cluster from growing old; ends by being aborted.
pub(super) async fn refresh_now_and_then(shared: Arc<Shared>) {
    loop {
        sleep(Duration::from_millis(shared.config.refresh_ms)).await;
        let deadline = Instant::now() + Duration::from_millis(shared.config.attempt_timeout_ms);
        if let Err(error) = shared.refresh(deadline).await {
            tracing::debug!(%error, "the log's nodes do not say what the cluster is");
        }
    }
}

impl Shared {
    /// Asks for the cluster, unless somebody did a moment ago.
    pub(super) async fn refresh(&self, deadline: Instant) -> Result<(), AskError> {
        let Ok(mut refreshed_at) = timeout_at(deadline, self.refreshed_at.lock()).await else { return Ok(()) };
        if Instant::now() >= deadline || refreshed_at.is_some_and(|at| at.elapsed() < REFRESH_SHARED) {
            return Ok(());
        }
        let asked = self.ask_any_for_cluster(deadline).await;
        *refreshed_at = Some(Instant::now());
        asked.map(|_| ())
    }

    /// Everybody once, beginning anywhere; the last failure when nobody says.
    async fn ask_any_for_cluster(&self, deadline: Instant) -> Result<ClusterInfo, AskError> {
        let mut peers = self.directory.peers();
        let count = peers.len();
        peers.rotate_left(self.any_below(count).min(count));
        let mut failures = Failures::default();
        for peer in &peers {
            match self.ask_cluster(peer, self.attempt_timeout(deadline)).await {
                Ok(info) => return Ok(info),
                Err(error) => failures.note(error),
            }
        }
        Err(failures.into_error())
    }

    /// One round's end: a pause, then the cluster again.
    pub(super) async fn regroup(&self, round: u32, deadline: Instant) {
        sleep_until(deadline.min(Instant::now() + self.backoff(round))).await;
        if let Err(error) = self.refresh(deadline).await {
            tracing::debug!(%error, "the log's nodes do not say what the cluster is");
        }
    }

    /// Asks the leader, wherever it is, until the deadline. A refusal that no other node and no time can change ends it.
    async fn ask_leader<T: DeserializeOwned>(
        &self,
        partition: PartitionId,
        service: u8,
        body: impl Fn(Duration) -> Bytes,
        deadline: Instant,
    ) -> Result<T, AskError> {
        let mut route = Route::new(partition);
        let mut failures = Failures::default();
        if !self.directory.is_known()
            && let Err(error) = self.refresh(deadline).await
        {
            failures.note(error);
        }
        loop {
            let Some(peer) = route.target(&self.directory) else {
                if Instant::now() >= deadline {
                    return Err(failures.into_error());
                }
                self.regroup(route.next_round(), deadline).await;
                continue;
            };
            let timeout = self.attempt_timeout(deadline);
            if timeout.is_zero() {
                return Err(failures.into_error());
            }
            match self.ask(&peer, service, body(timeout), timeout).await {
                Ok(answer) => {
                    route.succeeded(&self.directory, &peer);
                    return Ok(answer);
                }
                Err(AskError::Refusal(refusal)) if is_final(&refusal) => return Err(refusal.into()),
                Err(error) => {
                    route.failed(&self.directory, &peer, leader_named(&error));
                    failures.note(error);
                }
            }
        }
    }

    pub(super) async fn tail(&self, partition: PartitionId, timeout: Duration) -> Result<TailAnswer, TailError> {
        let started = Instant::now();
        let body = |timeout: Duration| codec::encode(&TailRequest { partition, timeout_ms: millis(timeout) });
        match self.ask_leader::<TailAnswer>(partition, service::TAIL, body, started + timeout).await {
            Ok(answer) => {
                self.directory.see_end(partition, answer.committed_end);
                Ok(answer)
            }
            Err(error) => {
                let waited_ms = millis(started.elapsed());
                Err(TailError::Unavailable { partition, waited_ms, reason: error.to_string() })
            }
        }
    }

    pub(super) async fn cluster(&self, timeout: Duration) -> Result<ClusterInfo, ClusterError> {
        let started = Instant::now();
        let deadline = started + timeout;
        let mut round = 0;
        loop {
            let error = match self.ask_all_for_cluster(deadline).await {
                Ok(info) => return Ok(info),
                Err(error) => error,
            };
            round += 1;
            let pause = self.backoff(round);
            if matches!(error, AskError::OtherHistory { .. }) || Instant::now() + pause >= deadline {
                return Err(cluster_error(error, started));
            }
            sleep(pause).await;
        }
    }

    /// Everybody at once, because one that hangs must not hide what the others know. The first answer that knows every
    /// leader is enough; otherwise the others are waited for a moment: one that is cut off knows less than they do.
    async fn ask_all_for_cluster(&self, deadline: Instant) -> Result<ClusterInfo, AskError> {
        let peers = self.directory.peers();
        let wait = self.attempt_timeout(deadline);
        let mut asked: FuturesUnordered<_> = peers.iter().map(|peer| self.ask_cluster(peer, wait)).collect();
        let (mut found, mut failures) = (None::<ClusterInfo>, Failures::default());
        let mut until = deadline;
        while let Ok(Some(answer)) = timeout_at(until, asked.next()).await {
            let info = match answer {
                Ok(info) => info,
                Err(error) => {
                    failures.note(error);
                    continue;
                }
            };
            if let Some(known) = &mut found {
                for (leader, other) in known.leaders.iter_mut().zip(info.leaders) {
                    *leader = leader.or(other);
                }
            } else {
                until = until.min(Instant::now() + LEADERS_WAIT);
                found = Some(info);
            }
            if found.as_ref().is_some_and(|info| info.leaders.iter().all(Option::is_some)) {
                break;
            }
        }
        found.ok_or_else(|| failures.into_error())
    }

    /// What every configured node is of. Nothing is taken over: who asks has not decided yet to which history it belongs.
    pub(super) async fn survey(&self, timeout: Duration) -> Vec<Surveyed> {
        let asked = self.directory.seeds().iter().map(|peer| async move {
            let history =
                self.history_of(peer, timeout.min(Duration::from_millis(self.config.attempt_timeout_ms))).await;
            Surveyed { addr: peer.addr.clone(), history }
        });
        join_all(asked).await
    }

    pub(super) async fn register(&self, serving_node: ServingNodeInfo, timeout: Duration) -> Result<(), ClusterError> {
        let started = Instant::now();
        let body = codec::encode(&RegisterRequest { serving_node, incarnation: self.incarnation });
        let asked = self.ask_leader(PartitionId::META, service::REGISTER, |_| body.clone(), started + timeout).await;
        asked.map_err(|error| cluster_error(error, started))
    }

    pub(super) async fn fetch(
        &self,
        partition: PartitionId,
        from: Offset,
        last: Option<BatchId>,
        bytes_max: u32,
        wait: Duration,
    ) -> Result<Fetched, FetchError> {
        let bytes_max = bytes_max.min(FETCH_BYTES_MAX as u32);
        let wait_ms = millis(wait).min(FETCH_WAIT_MS_MAX);
        let attempt = Duration::from_millis(wait_ms + self.config.fetch_grace_ms);
        let body = codec::encode(&FetchRequest { partition, from, bytes_max, wait_ms, last });
        if !self.directory.is_known() {
            let _ = self.refresh(Instant::now() + attempt).await;
        }
        let mut route = Route::new(partition);
        let (mut damaged, mut failures) = (None, Failures::default());
        while let Some(peer) = route.target(&self.directory) {
            match self.ask_with_payload::<FetchAnswer>(&peer, service::FETCH, body.clone(), attempt).await {
                Ok((answer, payload)) => match check_fetched(from, answer, payload) {
                    Ok(fetched) => {
                        self.directory.see_end(partition, fetched.committed_end);
                        return Ok(fetched);
                    }
                    Err(damage) => {
                        tracing::warn!(addr = %peer.addr, %partition, %from, %damage, "a fetch came damaged");
                        damaged = Some(damage);
                        route.failed(&self.directory, &peer, None);
                    }
                },
                Err(AskError::Refusal(LogRefusal::Compacted { horizon })) => {
                    return Err(FetchError::Compacted { partition, horizon });
                }
                Err(AskError::Refusal(LogRefusal::OtherLog { committed_end, .. }))
                    if committed_end >= from || self.ends_before(partition, from).await =>
                {
                    return Err(FetchError::OtherLog { partition, from });
                }
                Err(error) => {
                    route.failed(&self.directory, &peer, leader_named(&error));
                    failures.note(error);
                }
            }
        }
        let _ = self.refresh(Instant::now() + attempt).await;
        Err(fetch_error(partition, damaged, failures))
    }

    /// Whether the leader confirms that its log ends before `from`: a node that merely lags says so too.
    async fn ends_before(&self, partition: PartitionId, from: Offset) -> bool {
        let timeout = Duration::from_millis(self.config.attempt_timeout_ms);
        self.tail(partition, timeout).await.is_ok_and(|tail| tail.committed_end < from)
    }
}

/// Why nobody helped, so far.
#[derive(Default)]
struct Failures {
    /// Somebody is of another history.
    foreign: Option<AskError>,
    /// The last of all others.
    last: Option<AskError>,
}

impl Failures {
    fn note(&mut self, error: AskError) {
        match error {
            AskError::OtherHistory { .. } => self.foreign = Some(error),
            _ => self.last = Some(error),
        }
    }

    /// Another history only when there is nothing else: one wrong address, while our nodes are away, proves nothing.
    fn into_error(self) -> AskError {
        match (self.foreign, self.last) {
            (None, None) => nobody("no node was asked in time".to_owned()),
            (None, Some(error)) | (Some(error), None) => error,
            (Some(foreign), Some(last)) => nobody(format!("{last}; and {foreign}")),
        }
    }
}

fn fetch_error(partition: PartitionId, damage: Option<BatchError>, failures: Failures) -> FetchError {
    match (damage, failures.into_error()) {
        (Some(damage), _) => FetchError::Damaged { partition, damage },
        (None, AskError::OtherHistory { other: OtherHistory { ours, theirs }, .. }) => {
            FetchError::OtherHistory { ours, theirs }
        }
        (None, error) => FetchError::Unavailable { partition, reason: error.to_string() },
    }
}

/// Cuts the answer into batches that share its bytes, and checks that they follow one another from `from` on. Only
/// where compaction has been may records be missing.
fn check_fetched(from: Offset, answer: FetchAnswer, mut payload: Bytes) -> Result<Fetched, BatchError> {
    let gap_is_fine = |expected: Offset, found: Offset| {
        found == expected || (found > expected && found <= answer.settled_end.max(answer.first_offset))
    };
    let mut batches = Vec::with_capacity(answer.batches.len().min(payload.len() / 32 + 1));
    let mut end: Option<Offset> = None;
    for (id, length) in answer.batches {
        let length = length as usize;
        if length > payload.len() {
            return Err(BatchError::Short { have: payload.len(), need: length });
        }
        let batch = RecordBatch::parse(payload.split_to(length))?;
        let header = batch.header();
        let follows = match end {
            None => header.first_offset <= from || gap_is_fine(from, header.first_offset),
            Some(end) => gap_is_fine(end, header.first_offset),
        };
        if !follows || header.end() <= from {
            return Err(BatchError::Malformed { what: "batches do not follow one another" });
        }
        end = Some(header.end());
        batches.push(FetchedBatch { id, batch });
    }
    if !payload.is_empty() {
        return Err(BatchError::Malformed { what: "bytes after the last batch" });
    }
    // A node that lags behind the reader has nothing for it, and ends before it.
    let is_committed = end.is_none() || answer.next_offset <= answer.committed_end;
    if !gap_is_fine(end.unwrap_or(from), answer.next_offset) || !is_committed {
        return Err(BatchError::Malformed { what: "the next offset is not where the batches end" });
    }
    Ok(Fetched {
        batches,
        next_offset: answer.next_offset,
        committed_end: answer.committed_end,
        first_offset: answer.first_offset,
        horizon: answer.horizon,
        settled_end: answer.settled_end,
    })
}

/// Who leads, when the failure says.
pub(super) fn leader_named(error: &AskError) -> Option<duramen_common::NodeId> {
    match error {
        AskError::Refusal(LogRefusal::NotLeader { leader, .. }) => *leader,
        _ => None,
    }
}

/// Whether no other node and no time changes this refusal of a question.
fn is_final(refusal: &LogRefusal) -> bool {
    matches!(
        refusal,
        LogRefusal::UnknownPartition { .. }
            | LogRefusal::Invalid { .. }
            | LogRefusal::TooLarge { .. }
            | LogRefusal::NameTaken { .. }
    )
}

/// No particular node is to blame.
fn nobody(reason: String) -> AskError {
    CallError::NotSent { addr: "the log".to_owned(), reason }.into()
}

fn cluster_error(error: AskError, started: Instant) -> ClusterError {
    match error {
        AskError::OtherHistory { other: OtherHistory { ours, theirs }, .. } => {
            ClusterError::OtherHistory { ours, theirs }
        }
        AskError::Refusal(LogRefusal::NameTaken { name, http_addr }) => ClusterError::NameTaken { name, http_addr },
        error => ClusterError::Unavailable { waited_ms: millis(started.elapsed()), reason: error.to_string() },
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
