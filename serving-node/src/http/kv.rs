//! One key: GET, HEAD, PUT, DELETE on `/v1/kv/{key}`.
//!
//! * Invariant: 412 is decided by the log's order, or by a tag that no version can ever have.
//! * Source: DESIGN §4, D6, D9.

use super::Api;
use super::body::{self, RequestBody, ResponseBody};
use super::errors::Failure;
use super::extract::{self, ASKING_MIN, EntityTags, IdempotencyKey, Query};
use super::headers::{LOG_TIMESTAMP, SERVER_TIMING, timestamp_and_etag, token_value};
use super::reads::{self, ReadOptions, position_served};
use crate::partitions::Partitions;
use crate::view::{Item, Outcome, PartitionView, ReadAt};
use crate::write::{self, WriteError};
use bytes::Bytes;
use duramen_common::batch::{Guard, GuardCondition, Record, Update};
use duramen_common::budget::{Room, SMALL_BYTES};
use duramen_common::log::Effect;
use duramen_common::{HistoryId, Offset, PartitionId, ProblemKind, Timestamp};
use hyper::header::{CONTENT_TYPE, ETAG, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Response, StatusCode};
use std::time::Duration;
use tokio::time::Instant;

/// GET and HEAD.
pub(crate) async fn get(
    api: &Api,
    partitions: &Partitions,
    parts: &Parts,
    raw_key: &str,
) -> Result<Response<ResponseBody>, Failure> {
    let key = extract::key_of_path(raw_key)?;
    let query = Query::parse(parts.uri.query(), &reads::PARAMETERS)?;
    let none_match = extract::entity_tags(&parts.headers, &IF_NONE_MATCH)?;
    let options = ReadOptions::parse(api, partitions, &parts.headers, &query, None)?;
    let view = partitions.of_key(&key);
    let wanted = options.wait_for(view).await?;
    let timing = options.server_timing();
    let (read, room) = get_covered(api, view, &key, wanted, options.deadline).await?;
    let (history, partition) = (partitions.history(), view.partition());
    let position = token_value(&position_served(history, partition, read.applied_end));
    let Some(item) = read.value else {
        return Err(Failure::new(ProblemKind::NotFound, "no such key at this position")
            .header(LOG_TIMESTAMP, position)
            .header(SERVER_TIMING, timing));
    };
    let (_, etag) = timestamp_and_etag(history, Timestamp { partition, offset: item.version });
    let is_known = match none_match {
        None => false,
        Some(EntityTags::Any) => true,
        Some(EntityTags::Listed(tags)) => {
            let current = etag.as_bytes().get(1..etag.len() - 1).unwrap_or_default();
            tags.iter().any(|tag| tag.opaque == current)
        }
    };
    let mut response = if is_known {
        let mut response = Response::new(ResponseBody::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        let mut response = Response::new(ResponseBody::full(room.keep(alone(item.value))));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        response
    };
    let headers = response.headers_mut();
    headers.insert(ETAG, etag);
    headers.insert(LOG_TIMESTAMP, position);
    headers.insert(SERVER_TIMING, timing);
    Ok(response)
}

/// Reads a key once there is room for its value.
async fn get_covered(
    api: &Api,
    view: &PartitionView,
    key: &[u8],
    wanted: Offset,
    deadline: Instant,
) -> Result<(ReadAt<Option<Item>>, Room), Failure> {
    let mut room = Room::default();
    loop {
        let read = view.get(key).map_err(|error| Failure::of_read(&error))?;
        ReadOptions::check_read(view, wanted, read.applied_end)?;
        let needed = read.value.as_ref().map_or(0, |item| item.value.len());
        if room.try_cover(&api.answers, needed) {
            return Ok((read, room));
        }
        // What was read is let go while others hold everything.
        drop(read);
        room.cover(&api.answers, needed, deadline).await.map_err(|error| Failure::exhausted(&error))?;
    }
}

/// A small value without the batch that it may be a part of: a caller that does not read it holds nothing else.
fn alone(value: Bytes) -> Bytes {
    if value.len() <= SMALL_BYTES { Bytes::copy_from_slice(&value) } else { value }
}

/// PUT.
pub(crate) async fn put(
    api: &Api,
    partitions: &Partitions,
    parts: &Parts,
    body: &mut RequestBody,
    raw_key: &str,
) -> Result<Response<ResponseBody>, Failure> {
    let key = Bytes::from(extract::key_of_path(raw_key)?.into_owned());
    let call = WriteCall::parse(api, &parts.headers)?;
    let condition = condition_of_put(&parts.headers)?;
    let value = body::read(body, api.config.value_bytes_max, "the value").await?;
    let update = Update { key: key.clone(), value: Some(value) };
    call.run(api, partitions, key, condition, update).await
}

/// DELETE.
pub(crate) async fn delete(
    api: &Api,
    partitions: &Partitions,
    parts: &Parts,
    raw_key: &str,
) -> Result<Response<ResponseBody>, Failure> {
    let key = Bytes::from(extract::key_of_path(raw_key)?.into_owned());
    let call = WriteCall::parse(api, &parts.headers)?;
    let condition = condition_of_match(&parts.headers)?;
    let update = Update { key: key.clone(), value: None };
    call.run(api, partitions, key, condition, update).await
}

/// What a write's headers ask of the current version.
enum Condition<'a> {
    None,
    Exists,
    Absent,
    Tag(extract::EntityTag<'a>),
}

fn condition_of_match(headers: &HeaderMap) -> Result<Condition<'_>, Failure> {
    match extract::entity_tags(headers, &IF_MATCH)? {
        None => Ok(Condition::None),
        Some(EntityTags::Any) => Ok(Condition::Exists),
        Some(EntityTags::Listed(tags)) => match tags[..] {
            [tag] => Ok(Condition::Tag(tag)),
            _ => Err(Failure::new(ProblemKind::BadRequest, "If-Match takes one entity tag, or *")),
        },
    }
}

fn condition_of_put(headers: &HeaderMap) -> Result<Condition<'_>, Failure> {
    let condition = condition_of_match(headers)?;
    match (extract::entity_tags(headers, &IF_NONE_MATCH)?, &condition) {
        (None, _) => Ok(condition),
        (Some(EntityTags::Any), Condition::None) => Ok(Condition::Absent),
        (Some(EntityTags::Any), _) => {
            Err(Failure::new(ProblemKind::BadRequest, "If-Match and If-None-Match contradict: send one"))
        }
        (Some(EntityTags::Listed(_)), _) => {
            Err(Failure::new(ProblemKind::BadRequest, "a PUT's If-None-Match takes * only: the key must be absent"))
        }
    }
}

/// What every write of one key has.
struct WriteCall {
    idempotency_key: IdempotencyKey,
    wait: Duration,
}

impl WriteCall {
    fn parse(api: &Api, headers: &HeaderMap) -> Result<WriteCall, Failure> {
        let wait = extract::wait(headers, api.config.wait_default, api.config.wait_max)?.max(ASKING_MIN);
        let idempotency_key = IdempotencyKey::of(headers, &*api.seams.entropy)?;
        Ok(WriteCall { idempotency_key, wait })
    }

    async fn run(
        &self,
        api: &Api,
        partitions: &Partitions,
        key: Bytes,
        condition: Condition<'_>,
        update: Update,
    ) -> Result<Response<ResponseBody>, Failure> {
        let view = partitions.of_key(&key);
        let (history, partition) = (partitions.history(), view.partition());
        let deadline = Instant::now() + self.wait;
        let condition = match condition {
            Condition::None => None,
            Condition::Exists => Some(GuardCondition::Exists),
            Condition::Absent => Some(GuardCondition::Absent),
            Condition::Tag(tag) => match tag.version(history, partition) {
                Some(version) => Some(GuardCondition::Version(version)),
                None => return Err(never_matches(history, view, &key, deadline).await),
            },
        };
        let is_put = update.value.is_some();
        let guards = condition.map(|condition| Guard { key: key.clone(), condition });
        let record = Record::updates(guards.into_iter().collect(), vec![update]);
        let written = write_once(api, view, &self.idempotency_key, &record, condition.is_some(), deadline).await?;
        if written.outcome == Outcome::NoEffect {
            return Err(match view.get(&key) {
                Ok(read) => mismatch(history, partition, &read),
                Err(error) => Failure::of_read(&error),
            });
        }
        let (timestamp, etag) = timestamp_and_etag(history, Timestamp { partition, offset: written.offset });
        let mut response = Response::new(ResponseBody::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        if is_put {
            response.headers_mut().insert(ETAG, etag);
        }
        response.headers_mut().insert(LOG_TIMESTAMP, timestamp);
        Ok(response)
    }
}

/// The answer to a tag that no version of this key can have: nothing is appended, since it fails at every place.
async fn never_matches(history: HistoryId, view: &PartitionView, key: &[u8], deadline: Instant) -> Failure {
    let end = match view.linearizable_end(deadline).await {
        Ok(end) => end,
        Err(error) => return Failure::of_tail(&error),
    };
    if let Err(error) = view.wait_applied(end, deadline).await {
        return Failure::of_wait(&error, view.partition(), view.committed_end_hint());
    }
    match view.get(key) {
        Ok(read) => mismatch(history, view.partition(), &read),
        Err(error) => Failure::of_read(&error),
    }
}

fn mismatch(history: HistoryId, partition: PartitionId, read: &ReadAt<Option<Item>>) -> Failure {
    let position = token_value(&position_served(history, partition, read.applied_end));
    let failure = Failure::new(
        ProblemKind::VersionMismatch,
        "the condition does not hold: read the key, decide again, and write with its ETag",
    )
    .header(LOG_TIMESTAMP, position);
    match &read.value {
        None => failure,
        Some(item) => {
            let (_, etag) = timestamp_and_etag(history, Timestamp { partition, offset: item.version });
            failure.header(ETAG, etag)
        }
    }
}

/// Writes one record under a caller's key, as `write::write` does; refuses a key that this node saw used in another partition.
pub(crate) async fn write_once(
    api: &Api,
    view: &PartitionView,
    idempotency_key: &IdempotencyKey,
    record: &Record,
    is_guarded: bool,
    deadline: Instant,
) -> Result<write::Written, Failure> {
    let (id, partition) = (idempotency_key.request_id(0), view.partition());
    if idempotency_key.is_given() && api.key_places.is_elsewhere(id, partition) {
        return Err(of_write(WriteError::KeyReused, partition, idempotency_key));
    }
    let written = write::write(&*api.log, view, id, record, is_guarded, deadline).await;
    if idempotency_key.is_given() && written.as_ref().map_or_else(may_be_appended, |_| true) {
        api.key_places.note(id, partition);
    }
    written.map_err(|error| of_write(error, partition, idempotency_key))
}

fn may_be_appended(error: &WriteError) -> bool {
    match error {
        WriteError::Append(error) => error.effect() == Effect::Unknown,
        WriteError::OutcomeUnknown { .. } => true,
        WriteError::Record(_) | WriteError::KeyReused => false,
    }
}

/// A write's error as an answer.
pub(crate) fn of_write(error: WriteError, partition: PartitionId, idempotency_key: &IdempotencyKey) -> Failure {
    match error {
        WriteError::Append(error) => Failure::of_append(&error, idempotency_key.as_bytes()),
        WriteError::Record(error) => of_record(&error),
        WriteError::KeyReused => Failure::new(ProblemKind::KeyReused, WriteError::KeyReused.to_string()),
        WriteError::OutcomeUnknown { reason } => {
            Failure::outcome_unknown(reason, partition, idempotency_key.as_bytes())
        }
    }
}

/// A record that the format cannot carry, as an answer.
pub(crate) fn of_record(error: &duramen_common::batch::BatchError) -> Failure {
    use duramen_common::batch::BatchError;
    match error {
        BatchError::TooLarge { what, limit, .. } => {
            Failure::new(ProblemKind::TooLarge, error.to_string()).with("what", *what).with("limit", *limit)
        }
        _ => Failure::new(ProblemKind::BadRequest, error.to_string()),
    }
}
