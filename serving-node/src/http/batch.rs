//! `POST /v1/batch`: many ops at once, each atomic by itself, any keys.
//!
//! * In: ops in order. Out: one result each, in order. Ops of one partition go in one append.
//! * An op's request id is of the idempotency key and its place: a batch is repeated whole, or its ops are other ops.
//! * Invariant: a malformed op refuses the whole batch before anything is appended.
//! * Source: DESIGN §4.

use super::Api;
use super::body::{RequestBody, ResponseBody};
use super::errors::Failure;
use super::extract::IdempotencyKey;
use super::headers::{IDEMPOTENCY_KEY, LOG_TIMESTAMP, token_value};
use super::kv::{of_record, of_write};
use super::ops::{self, Posted};
use crate::partitions::Partitions;
use crate::write::WriteError;
use bytes::Bytes;
use duramen_common::batch::{Record, RecordSet, RecordSetBuilder};
use duramen_common::budget::Room;
use duramen_common::log::Effect;
use duramen_common::protocol::AppendedRun;
use duramen_common::{Offset, PartitionId, Problem, ProblemKind, SessionToken, Timestamp};
use futures_util::future::join_all;
use hyper::Response;
use hyper::header::HeaderValue;
use hyper::http::request::Parts;
use serde::Serialize;
use std::collections::BTreeMap;
use tokio::time::Instant;

/// Room for the answer to one op: what a failed one needs. Unit: bytes.
const RESULT_BYTES: usize = 512;

#[derive(Serialize)]
struct Results {
    results: Vec<OpResult>,
}

#[derive(Clone, Serialize)]
struct OpResult {
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<SessionToken>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Problem>,
}

impl OpResult {
    fn of_failure(failure: Failure) -> OpResult {
        OpResult { status: failure.problem.status, timestamp: None, problem: Some(failure.problem) }
    }

    fn is_unknown(&self) -> bool {
        self.problem.as_ref().is_some_and(|problem| problem.kind == ProblemKind::OutcomeUnknown)
    }
}

/// The ops of one partition: their places in the batch, and their records.
#[derive(Default)]
struct Group {
    places: Vec<usize>,
    records: RecordSetBuilder,
}

/// The handler.
pub(crate) async fn post(
    api: &Api,
    partitions: &Partitions,
    parts: &Parts,
    body: &mut RequestBody,
) -> Result<Response<ResponseBody>, Failure> {
    let Posted { wait, idempotency_key, body } = Posted::read(api, parts, body).await?;
    let updates = ops::batch(api, &body)?;
    let count = updates.len();
    let mut groups: BTreeMap<PartitionId, Group> = BTreeMap::new();
    for (place, update) in updates.into_iter().enumerate() {
        let group = groups.entry(partitions.of_key(&update.key).partition()).or_default();
        let id = idempotency_key.request_id(place as u32);
        let record = Record::updates(Vec::new(), vec![update]);
        group.records.push(id, &record).map_err(|error| of_record(&error))?;
        group.places.push(place);
    }
    let deadline = Instant::now() + wait;
    // Once something is appended, it must be answered: room for the answer comes first.
    let mut room = Room::default();
    let answer_bytes = count * RESULT_BYTES;
    if !room.try_cover(&api.answers, answer_bytes) {
        room.cover(&api.answers, answer_bytes, deadline).await.map_err(|error| Failure::exhausted(&error))?;
    }
    let appends = groups.into_iter().map(|(partition, group)| {
        append(api, partition, group.places, group.records.finish(), &idempotency_key, deadline)
    });
    let mut results = vec![None; count];
    let mut timestamp = SessionToken::new(partitions.history());
    for (partition, places, outcomes) in join_all(appends).await {
        for (place, outcome) in places.into_iter().zip(outcomes) {
            let result = match outcome {
                Ok(offset) => {
                    let at = Timestamp { partition, offset };
                    timestamp.see(at);
                    let token = SessionToken::of(partitions.history(), at);
                    OpResult { status: 204, timestamp: Some(token), problem: None }
                }
                Err(failure) => OpResult::of_failure(failure),
            };
            if let Some(slot) = results.get_mut(place) {
                *slot = Some(result);
            }
        }
    }
    let results: Vec<OpResult> =
        results.into_iter().map(|result| result.expect("every op went into exactly one group")).collect();
    let is_unknown = results.iter().any(OpResult::is_unknown);
    let json = serde_json::to_vec(&Results { results }).expect("answers are plain JSON");
    let mut response = super::of_json(ResponseBody::full(room.keep(Bytes::from(json))));
    let headers = response.headers_mut();
    headers.insert(LOG_TIMESTAMP, token_value(&timestamp));
    if is_unknown && let Ok(key) = HeaderValue::from_bytes(idempotency_key.as_bytes()) {
        headers.insert(IDEMPOTENCY_KEY, key);
    }
    Ok(response)
}

/// Appends one partition's ops; exactly one outcome a place.
async fn append(
    api: &Api,
    partition: PartitionId,
    places: Vec<usize>,
    records: RecordSet,
    idempotency_key: &IdempotencyKey,
    deadline: Instant,
) -> (PartitionId, Vec<usize>, Vec<Result<Offset, Failure>>) {
    let timeout = deadline.saturating_duration_since(Instant::now());
    let mut outcomes = Vec::with_capacity(places.len());
    let ids = || places.iter().map(|&place| idempotency_key.request_id(place as u32));
    if idempotency_key.is_given() && ids().any(|id| api.key_places.is_elsewhere(id, partition)) {
        outcomes.extend(places.iter().map(|_| Err(of_write(WriteError::KeyReused, partition, idempotency_key))));
        return (partition, places, outcomes);
    }
    let appended = api.log.append(partition, records, timeout).await;
    if idempotency_key.is_given() && appended.as_ref().map_or_else(|error| error.effect() == Effect::Unknown, |_| true)
    {
        ids().for_each(|id| api.key_places.note(id, partition));
    }
    match appended {
        Ok(runs) => {
            for run in runs {
                match run {
                    AppendedRun::At { first_offset, count } => {
                        outcomes.extend((0..u64::from(count)).map(|number| Ok(first_offset.plus(number))));
                    }
                    AppendedRun::KeyReused { count } => outcomes
                        .extend((0..count).map(|_| Err(of_write(WriteError::KeyReused, partition, idempotency_key)))),
                }
            }
            outcomes.truncate(places.len());
            outcomes.resize_with(places.len(), || {
                let reason = "the log's answer names fewer records than were sent".to_owned();
                Err(of_write(WriteError::OutcomeUnknown { reason }, partition, idempotency_key))
            });
        }
        Err(error) => {
            outcomes.extend(places.iter().map(|_| Err(Failure::of_append(&error, idempotency_key.as_bytes()))));
        }
    }
    (partition, places, outcomes)
}
