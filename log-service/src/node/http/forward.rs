//! An append or a tail question that came to any node finds the leader: here, or over the framed transport.
//!
//! * Invariant: every attempt goes under the same ids. If any attempt's outcome was unknown and none was acknowledged,
//!   the whole is unknown.
//! * Source: DESIGN D5, D14.

use crate::consensus::Leading;
use crate::node::partition::Partition;
use crate::node::shared::Shared;
use duramen_common::batch::RecordSet;
use duramen_common::protocol::{AppendAnswer, AppendRequest, LogRefusal, TailAnswer, TailRequest, service};
use duramen_common::{NodeId, Offset, codec};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Between attempts, while leaders change.
const RETRY: Duration = Duration::from_millis(50);
/// What a call to a peer may take longer than what the peer is given.
const CALL_MARGIN: Duration = Duration::from_millis(250);

/// Appends a set wherever the leader is.
pub(super) async fn append(
    shared: &Shared,
    partition: &Partition,
    set: &RecordSet,
    wait: Duration,
) -> Result<AppendAnswer, LogRefusal> {
    let deadline = Instant::now() + wait;
    let known_end = partition.log.ends().committed_end;
    let mut unknown = None;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let leading = *partition.group.leading().borrow();
        let attempt = match leading {
            Leading::Here { .. } => partition.batcher.append(set.clone(), known_end, left).await,
            Leading::Elsewhere { leader: Some(leader) } => {
                append_at(shared, partition, leader, set, known_end, left).await
            }
            Leading::Elsewhere { leader: None } => Err(LogRefusal::NotLeader { partition: partition.id, leader: None }),
        };
        let refusal = match attempt {
            Ok(answer) => return Ok(answer),
            Err(refusal) => refusal,
        };
        if !refusal.is_definite() {
            unknown = Some(refusal.clone());
        }
        let worth_retrying = matches!(
            refusal,
            LogRefusal::NotLeader { .. } | LogRefusal::Unavailable { .. } | LogRefusal::OutcomeUnknown { .. }
        );
        if !worth_retrying || Instant::now() + RETRY >= deadline {
            return Err(unknown.unwrap_or(refusal));
        }
        sleep(RETRY).await;
    }
}

async fn append_at(
    shared: &Shared,
    partition: &Partition,
    leader: NodeId,
    set: &RecordSet,
    known_end: Offset,
    wait: Duration,
) -> Result<AppendAnswer, LogRefusal> {
    let timeout_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    let request =
        AppendRequest { partition: partition.id, count: set.count, ids: set.ids.clone(), known_end, timeout_ms };
    let body = codec::encode_with_payload(&request, &set.records);
    let Some(peer) = shared.peers.get(&leader) else { return Err(not_there(partition, leader)) };
    match shared.transport.call(peer, service::APPEND, body, wait + CALL_MARGIN).await {
        Ok(answer) => codec::decode::<Result<AppendAnswer, LogRefusal>>(&answer)
            .map_err(|error| LogRefusal::OutcomeUnknown { reason: error.to_string() })?,
        Err(error) if error.is_definite() => Err(not_there(partition, leader)),
        Err(error) => Err(LogRefusal::OutcomeUnknown { reason: error.to_string() }),
    }
}

fn not_there(partition: &Partition, leader: NodeId) -> LogRefusal {
    LogRefusal::NotLeader { partition: partition.id, leader: Some(leader) }
}

/// Asks the leader, wherever it is, for its end.
pub(super) async fn tail(shared: &Shared, partition: &Partition, wait: Duration) -> Result<TailAnswer, LogRefusal> {
    let deadline = Instant::now() + wait;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let leading = *partition.group.leading().borrow();
        let attempt = match leading {
            Leading::Elsewhere { leader: Some(leader) } => tail_at(shared, partition, leader, timeout_ms, left).await,
            Leading::Here { .. } | Leading::Elsewhere { leader: None } => partition.tail(timeout_ms).await,
        };
        match attempt {
            Err(LogRefusal::NotLeader { .. } | LogRefusal::Unavailable { .. }) if Instant::now() + RETRY < deadline => {
                sleep(RETRY).await;
            }
            settled => return settled,
        }
    }
}

async fn tail_at(
    shared: &Shared,
    partition: &Partition,
    leader: NodeId,
    timeout_ms: u64,
    wait: Duration,
) -> Result<TailAnswer, LogRefusal> {
    let Some(peer) = shared.peers.get(&leader) else { return Err(not_there(partition, leader)) };
    let body = codec::encode(&TailRequest { partition: partition.id, timeout_ms });
    match shared.transport.call(peer, service::TAIL, body, wait + CALL_MARGIN).await {
        Ok(answer) => codec::decode::<Result<TailAnswer, LogRefusal>>(&answer)
            .map_err(|error| LogRefusal::Unavailable { reason: error.to_string() })?,
        Err(error) => Err(LogRefusal::Unavailable { reason: error.to_string() }),
    }
}
