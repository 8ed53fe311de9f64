//! `POST /v1/txn`: guards and ops on keys of one partition, all or nothing.
//!
//! * In: `{"if":[{"key","version"}],"ops":[…]}`. Out: `{"committed","timestamp"}`; the timestamp is the record's own, so
//!   that whoever reads at it sees what decided.
//! * Invariant: it is one record; its place in the log decides.
//! * Source: DESIGN §4, D6.

use super::Api;
use super::body::{RequestBody, ResponseBody};
use super::errors::Failure;
use super::extract;
use super::headers::{LOG_TIMESTAMP, token_value};
use super::kv::write_once;
use super::ops::{self, Posted, TxnGuard};
use crate::partitions::Partitions;
use crate::view::{Outcome, PartitionView};
use duramen_common::batch::{Guard, GuardCondition, Record};
use duramen_common::{HistoryId, PartitionId, ProblemKind, SessionToken, Timestamp};
use hyper::Response;
use hyper::http::request::Parts;
use serde::Serialize;
use std::sync::Arc;
use tokio::time::Instant;

#[derive(Serialize)]
struct Answer {
    committed: bool,
    timestamp: SessionToken,
}

/// The handler.
pub(crate) async fn post(
    api: &Api,
    partitions: &Partitions,
    parts: &Parts,
    body: &mut RequestBody,
) -> Result<Response<ResponseBody>, Failure> {
    let Posted { wait, idempotency_key, body } = Posted::read(api, parts, body).await?;
    let txn = ops::txn(api, &body)?;
    let view = one_partition(partitions, &txn)?;
    let (history, partition) = (partitions.history(), view.partition());
    let guards = record_guards(txn.guards, history, partition);
    let is_guarded = !guards.is_empty();
    let record = Record::updates(guards, txn.updates);
    let deadline = Instant::now() + wait;
    let written = write_once(api, view, &idempotency_key, &record, is_guarded, deadline).await?;
    let timestamp = SessionToken::of(history, Timestamp { partition, offset: written.offset });
    let position = token_value(&timestamp);
    let mut response = super::json(&Answer { committed: written.outcome == Outcome::Effective, timestamp });
    response.headers_mut().insert(LOG_TIMESTAMP, position);
    Ok(response)
}

fn one_partition<'p>(partitions: &'p Partitions, txn: &ops::Txn) -> Result<&'p Arc<PartitionView>, Failure> {
    let guarded = txn.guards.iter().map(|guard| &guard.key);
    let mut keys = guarded.chain(txn.updates.iter().map(|update| &update.key));
    let Some(first) = keys.next() else {
        return Err(Failure::new(ProblemKind::BadRequest, "the transaction names no key"));
    };
    let view = partitions.of_key(first);
    match keys.map(|key| partitions.of_key(key).partition()).find(|partition| *partition != view.partition()) {
        None => Ok(view),
        Some(other) => Err(Failure::new(
            ProblemKind::ManyPartitions,
            format!(
                "the keys are of partitions {} and {other}: give them one {{tag}}, so that they share a partition",
                view.partition()
            ),
        )),
    }
}

/// The guards that versions ask for. A version of another partition or history can never be its key's: two guards that
/// contradict each other say that at every place in the log, and the others then decide nothing.
fn record_guards(guards: Vec<TxnGuard>, history: HistoryId, partition: PartitionId) -> Vec<Guard> {
    let mut record_guards = Vec::with_capacity(guards.len());
    for TxnGuard { key, version } in guards {
        let version = version.map(|token| extract::version_of(&token, history, partition));
        let condition = match version {
            None => GuardCondition::Absent,
            Some(Some(offset)) => GuardCondition::Version(offset),
            Some(None) => {
                let never = [GuardCondition::Absent, GuardCondition::Exists];
                return never.map(|condition| Guard { key: key.clone(), condition }).into();
            }
        };
        record_guards.push(Guard { key, condition });
    }
    record_guards
}
