//! Consistency of reads: what a read must see, and the wait for it.
//!
//! * In: tokens, `consistency`, `Prefer`, `?after=`. Out: the partition is where the read may take place, or a failure.
//! * Invariant: a token is called bad only after a leader, asked after the token came, said that its log ends before it.
//! * Source: DESIGN D9, §4.

use super::Api;
use super::errors::Failure;
use super::extract::{self, ASKING_MIN, Consistency, Query};
use super::headers::SERVER_TIMING;
use crate::partitions::Partitions;
use crate::view::{PartitionView, WaitError};
use duramen_common::planted::{Plant, is_planted};
use duramen_common::{HistoryId, Offset, PartitionId, ProblemKind, SessionToken, Timestamp};
use hyper::HeaderMap;
use std::time::Duration;
use tokio::time::Instant;

/// The parameters of a read's query that say what it must see.
pub(crate) const PARAMETERS: [&str; 2] = ["after", "consistency"];

/// A token that this node has not heard of is waited for this long before the leader is asked whether it can be.
const DOUBT_AFTER: Duration = Duration::from_millis(50);

/// What a read must see, and until when it may wait.
#[derive(Debug)]
pub(crate) struct ReadOptions {
    pub(crate) token: Option<SessionToken>,
    pub(crate) consistency: Consistency,
    pub(crate) deadline: Instant,
    pub(crate) started: Instant,
}

impl ReadOptions {
    /// Reads them from a request. `carried` is a token that came by another way (a cursor).
    pub(crate) fn parse(
        api: &Api,
        partitions: &Partitions,
        headers: &HeaderMap,
        query: &Query<'_>,
        carried: Option<SessionToken>,
    ) -> Result<ReadOptions, Failure> {
        let started = Instant::now();
        let mut token = extract::read_after(headers, query, partitions.history(), partitions.count())?;
        if let Some(carried) = carried {
            match &mut token {
                None => token = Some(carried),
                Some(token) => {
                    token.merge(&carried).map_err(|e| Failure::new(ProblemKind::OtherHistory, e.to_string()))?;
                }
            }
        }
        let consistency = extract::consistency(query, token.is_some())?;
        let wait = extract::wait(headers, api.config.wait_default, api.config.wait_max)?;
        Ok(ReadOptions { token, consistency, deadline: started + wait, started })
    }

    /// Waits until the partition is where this read may take place; answers the end that the read must not be older than.
    pub(crate) async fn wait_for(&self, view: &PartitionView) -> Result<Offset, Failure> {
        let waited = self.end_to_read_at(view).await;
        waited.map_err(|failure| failure.header(SERVER_TIMING, self.server_timing()))
    }

    async fn end_to_read_at(&self, view: &PartitionView) -> Result<Offset, Failure> {
        let position = self.token.as_ref().and_then(|token| token.position(view.partition()));
        match (self.consistency, position) {
            (Consistency::Stale, _) | (Consistency::Session, None) => Ok(Offset::ZERO),
            (Consistency::Session, Some(_)) if is_planted(Plant::TokenWaitSkipped) => Ok(Offset::ZERO),
            (Consistency::Session, Some(offset)) => {
                wait_for_token(view, offset.next(), self.deadline).await.map(|()| offset.next())
            }
            (Consistency::Linearizable, position) => {
                let asking_deadline = self.deadline.max(self.started + ASKING_MIN);
                let end = view.linearizable_end(asking_deadline).await.map_err(|error| Failure::of_tail(&error))?;
                if let Some(offset) = position.filter(|offset| *offset >= end) {
                    return Err(past_the_end(view.partition(), offset.next(), end));
                }
                let waited = view.wait_applied(end, self.deadline).await;
                waited.map_err(|error| Failure::of_wait(&error, view.partition(), view.committed_end_hint()))?;
                Ok(end)
            }
        }
    }

    /// Refuses what was read before the end that was waited for: the partition was wiped in between, and is replayed.
    pub(crate) fn check_read(view: &PartitionView, wanted: Offset, applied_end: Offset) -> Result<(), Failure> {
        if applied_end >= wanted {
            return Ok(());
        }
        let error = WaitError::Deadline { wanted, applied: Some(applied_end) };
        Err(Failure::of_wait(&error, view.partition(), view.committed_end_hint()))
    }

    /// `Server-Timing`: how long the read was parked.
    pub(crate) fn server_timing(&self) -> hyper::header::HeaderValue {
        let waited = self.started.elapsed();
        let tenths_of_ms = waited.as_micros() / 100;
        super::headers::value_of(format!("wait;dur={}.{}", tenths_of_ms / 10, tenths_of_ms % 10).into())
    }
}

async fn wait_for_token(view: &PartitionView, wanted: Offset, deadline: Instant) -> Result<(), Failure> {
    let behind = |error: &WaitError| Failure::of_wait(error, view.partition(), view.committed_end_hint());
    match view.wait_applied(wanted, deadline.min(Instant::now() + DOUBT_AFTER)).await {
        Ok(()) => return Ok(()),
        Err(error @ (WaitError::TooManyWaiters { .. } | WaitError::Stopping { .. })) => return Err(behind(&error)),
        Err(WaitError::Deadline { .. }) => {}
    }
    if wanted > view.committed_end_hint() {
        tokio::select! {
            biased;
            waited = view.wait_applied(wanted, deadline) => return waited.map_err(|error| behind(&error)),
            end = view.linearizable_end(deadline) => if let Ok(end) = end && wanted > end {
                return Err(past_the_end(view.partition(), wanted, end));
            }
        }
    }
    view.wait_applied(wanted, deadline).await.map_err(|error| behind(&error))
}

/// The failure for a token that no write has ever been answered with.
pub(crate) fn past_the_end(partition: PartitionId, wanted: Offset, end: Offset) -> Failure {
    Failure::new(
        ProblemKind::BadToken,
        format!("the token is past the end of partition {partition}, which is {end}: no such write was acknowledged"),
    )
    .with("partition", partition.get())
    .with("wanted", wanted.get())
    .with("committed_end", end.get())
}

/// Adds the position served to a token; nothing where nothing is applied.
pub(crate) fn see(token: &mut SessionToken, partition: PartitionId, applied_end: Offset) {
    if let Some(offset) = applied_end.previous() {
        token.see(Timestamp { partition, offset });
    }
}

/// The position served, as a token of one partition.
pub(crate) fn position_served(history: HistoryId, partition: PartitionId, applied_end: Offset) -> SessionToken {
    let mut token = SessionToken::new(history);
    see(&mut token, partition, applied_end);
    token
}
