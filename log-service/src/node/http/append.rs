//! `POST /v1/log/{partition}`: records in, where they stand out.
//!
//! * `application/x-ndjson`: a record a line. `application/octet-stream`: the body is one opaque event.
//! * The ids come from the Idempotency-Key, one made up here if need be and named when the outcome is unknown, so that a
//!   retry under it is a repeat.
//! * Source: DESIGN §4 "Log node", D5.

use super::answer::{Refused, json, problem_of};
use super::records::{Place, check_value, parse_line};
use super::{Api, forward, text};
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use duramen_common::batch::{BatchError, Record, RecordSet, RecordSetBuilder};
use duramen_common::limits::{BODY_BYTES_MAX, IDEMPOTENCY_KEY_BYTES_MAX};
use duramen_common::prefer;
use duramen_common::protocol::{AppendAnswer, AppendedRun, LogRefusal};
use duramen_common::{Offset, PartitionId, Problem, ProblemKind, RequestId, SessionToken, Timestamp};
use duramen_transport::http::BodyError;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use std::time::Duration;

pub(super) const LOG_TIMESTAMP: HeaderName = HeaderName::from_static("log-timestamp");
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const PREFER: HeaderName = HeaderName::from_static("prefer");
const WAIT_DEFAULT: Duration = Duration::from_secs(5);
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Less than this is no wait: the log's answer takes round trips and a disk.
const WAIT_MIN: Duration = Duration::from_millis(500);

enum Form {
    Lines,
    Event,
}

/// Appends what the body holds.
pub(super) async fn append(
    State(api): State<Api>,
    partition: PartitionPath,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let running = running(&api)?;
    let partition = parse_partition(partition)?;
    let here = running.partition(partition)?;
    let form = form_of(&headers)?;
    let wait = wait_of(&headers)?;
    let key = key_of(&api, &headers)?;
    let body = read_body(body).await?;
    let place = Place {
        history: running.cluster.history,
        partition,
        partitions: running.cluster.partitions,
        value_bytes_max: api.shared.config.value_bytes_max,
    };
    let set = match form {
        Form::Lines => set_of_lines(&body, place, &key)?,
        Form::Event => {
            check_value("the event", &body, place)?;
            let record = Record::event(None, body);
            RecordSet::of(RequestId::of_idempotency_key(key.as_bytes(), 0), &record).map_err(|error| problem(&error))?
        }
    };
    if api.stop.is_over() {
        let detail = "this node is stopping: nothing was appended, ask another node";
        return Err(Problem::new(ProblemKind::NoLeader, detail).into());
    }
    let appended_or_not = tokio::select! {
        biased;
        answer = forward::append(&api.shared, here, &set, wait) => answer,
        () = api.stop.overtime() => Err(LogRefusal::OutcomeUnknown { reason: "this node is stopping".to_owned() }),
    };
    match appended_or_not {
        Ok(answer) => appended(&answer, place),
        Err(refusal @ LogRefusal::OutcomeUnknown { .. }) => Err(outcome_unknown(&refusal, &key).into()),
        Err(refusal) => Err(refusal.into()),
    }
}

/// The node's partitions, once they run.
pub(super) fn running(api: &Api) -> Result<std::sync::Arc<crate::node::shared::Running>, Refused> {
    api.shared.running().ok_or_else(|| LogRefusal::Unavailable { reason: api.shared.stage() }.into())
}

/// The partition in a path, which need not be text.
pub(super) type PartitionPath = Result<Path<String>, PathRejection>;

pub(super) fn parse_partition(partition: PartitionPath) -> Result<PartitionId, Refused> {
    let not_found = |why: String| Refused::from(Problem::new(ProblemKind::NotFound, why));
    let Path(partition) = partition.map_err(|error| not_found(error.body_text()))?;
    partition.parse::<PartitionId>().map_err(|error| not_found(error.to_string()))
}

fn form_of(headers: &HeaderMap) -> Result<Form, Refused> {
    let given = text(headers, &CONTENT_TYPE).unwrap_or_default();
    let kind = given.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/x-ndjson") {
        Ok(Form::Lines)
    } else if kind.eq_ignore_ascii_case("application/octet-stream") {
        Ok(Form::Event)
    } else {
        let detail = "Content-Type must be application/x-ndjson (a JSON record a line) or application/octet-stream \
                      (one opaque event)";
        Err(Problem::new(ProblemKind::MediaType, detail).into())
    }
}

fn wait_of(headers: &HeaderMap) -> Result<Duration, Refused> {
    match prefer::wait_seconds(headers.get_all(&PREFER).iter().map(HeaderValue::as_bytes)) {
        Ok(None) => Ok(WAIT_DEFAULT),
        Ok(Some(seconds)) => Ok(Duration::from_secs(seconds).clamp(WAIT_MIN, WAIT_MAX)),
        Err(error) => Err(Problem::new(ProblemKind::BadRequest, error.to_string()).into()),
    }
}

fn key_of(api: &Api, headers: &HeaderMap) -> Result<String, Refused> {
    let Some(key) = headers.get(&IDEMPOTENCY_KEY) else {
        return Ok(format!("{:032x}", api.shared.seams.entropy.bits()));
    };
    match key.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= IDEMPOTENCY_KEY_BYTES_MAX => Ok(key.to_owned()),
        _ => {
            let detail = format!("an Idempotency-Key has 1 to {IDEMPOTENCY_KEY_BYTES_MAX} printable ASCII characters");
            Err(Problem::new(ProblemKind::BadRequest, detail).into())
        }
    }
}

async fn read_body(body: Body) -> Result<Bytes, Refused> {
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let detail = format!("the body is over the limit of {BODY_BYTES_MAX} bytes");
            Err(Problem::new(ProblemKind::TooLarge, detail).with("limit", BODY_BYTES_MAX).into())
        }
        Err(error) => Err(broken_body(error.as_ref()).into()),
    }
}

/// Why a body did not come whole. Nothing was done with it.
fn broken_body(error: &(dyn std::error::Error + 'static)) -> Problem {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(body) = cause.downcast_ref::<BodyError>() {
            return match body {
                BodyError::Broken { .. } | BodyError::CutOff | BodyError::TooSlow { .. } => {
                    Problem::new(ProblemKind::BadRequest, body.to_string())
                }
                BodyError::NoRoom { limit } => {
                    Problem::new(ProblemKind::Overloaded, body.to_string()).with("limit", *limit)
                }
                BodyError::Stopping => Problem::new(ProblemKind::NoLeader, body.to_string()),
            };
        }
        next = cause.source();
    }
    Problem::new(ProblemKind::BadRequest, format!("the body broke off: {error}"))
}

fn set_of_lines(body: &[u8], place: Place, key: &str) -> Result<RecordSet, Refused> {
    let mut builder = RecordSetBuilder::default();
    let lines = body.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    for (number, line) in lines.enumerate() {
        let record = parse_line(line, place).map_err(|mut problem| {
            problem.detail = format!("line {}: {}", number + 1, problem.detail);
            problem
        })?;
        let id = RequestId::of_idempotency_key(key.as_bytes(), u32::try_from(number).unwrap_or(u32::MAX));
        builder.push(id, &record).map_err(|error| problem(&error))?;
    }
    if builder.count() == 0 {
        return Err(Problem::new(ProblemKind::BadRequest, "the body has no records").into());
    }
    Ok(builder.finish())
}

fn problem(error: &BatchError) -> Problem {
    match error {
        BatchError::TooLarge { limit, .. } => {
            Problem::new(ProblemKind::TooLarge, error.to_string()).with("limit", *limit)
        }
        _ => Problem::new(ProblemKind::BadRequest, error.to_string()),
    }
}

fn appended(answer: &AppendAnswer, place: Place) -> Result<Response, Refused> {
    let mut count = 0u32;
    let mut first = None;
    let mut last = Offset::ZERO;
    for run in &answer.runs {
        let AppendedRun::At { first_offset, count: run_count } = *run else { return Err(reused(answer, place).into()) };
        first.get_or_insert(first_offset);
        last = first_offset.plus(u64::from(run_count.saturating_sub(1)));
        count += run_count;
    }
    let token = |offset| SessionToken::of(place.history, Timestamp { partition: place.partition, offset }).to_string();
    let timestamp = token(last);
    let body = serde_json::json!({
        "first": token(first.unwrap_or(last)), "last": timestamp, "count": count, "timestamp": timestamp
    });
    let mut response = json(StatusCode::OK, &body);
    if let Ok(value) = HeaderValue::from_str(&timestamp) {
        response.headers_mut().insert(LOG_TIMESTAMP, value);
    }
    Ok(response)
}

/// The records may or may not be in the log; a repeat of the whole body under the key tells.
fn outcome_unknown(refusal: &LogRefusal, key: &str) -> Problem {
    let mut problem = problem_of(refusal).with("idempotency_key", key);
    problem.detail +=
        ": send the whole body again, unchanged, with this Idempotency-Key, and it takes effect at most once";
    problem
}

/// The key was used for other records. A record under it that is not one of those is in the log all the same: which, the answer
/// says, by their numbers in the body, from 0.
fn reused(answer: &AppendAnswer, place: Place) -> Problem {
    let mut appended = Vec::new();
    let mut number = 0u64;
    for run in &answer.runs {
        let (AppendedRun::At { count, .. } | AppendedRun::KeyReused { count }) = *run;
        if let AppendedRun::At { first_offset, .. } = *run {
            appended.extend((0..u64::from(count)).map(|nth| {
                let timestamp = Timestamp { partition: place.partition, offset: first_offset.plus(nth) };
                let timestamp = SessionToken::of(place.history, timestamp).to_string();
                serde_json::json!({"record": number + nth, "timestamp": timestamp})
            }));
        }
        number += u64::from(count);
    }
    let detail = match appended.is_empty() {
        true => "this Idempotency-Key was used for other records: use a new one. Nothing was appended",
        false => {
            "this Idempotency-Key was used for other records than some of these: send those again under a new one, but not \
             the records that `appended` lists, which are in the log"
        }
    };
    Problem::new(ProblemKind::KeyReused, detail).with("appended", appended)
}

#[cfg(test)]
mod tests {
    use super::*;
    use duramen_common::HistoryId;

    /// Goal: whoever does not know what became of an append can find out.
    #[test]
    fn an_unknown_outcome_names_the_key_to_retry_with() {
        let refusal = LogRefusal::OutcomeUnknown { reason: "no answer".to_owned() };
        let problem = outcome_unknown(&refusal, "mine");
        assert!(problem.detail.contains("again, unchanged, with this Idempotency-Key"), "{}", problem.detail);
        let response = axum::response::IntoResponse::into_response(Refused::from(problem));
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[&IDEMPOTENCY_KEY], "mine");
    }

    /// Goal: a refusal of some records does not hide that others are in the log.
    #[test]
    fn a_reused_key_tells_what_was_appended_all_the_same() {
        let place = Place {
            history: HistoryId::from_bits(0x00c7_f3a1),
            partition: PartitionId::new(0),
            partitions: 1,
            value_bytes_max: 1024,
        };
        let appended = AppendedRun::At { first_offset: Offset::new(7), count: 2 };
        let answer =
            AppendAnswer { runs: vec![AppendedRun::KeyReused { count: 1 }, appended], committed_end: Offset::new(9) };
        let problem = reused(&answer, place);
        assert_eq!(problem.kind, ProblemKind::KeyReused);
        let listed =
            serde_json::json!([{"record": 1, "timestamp": "c7f3a1.0:7"}, {"record": 2, "timestamp": "c7f3a1.0:8"}]);
        assert_eq!(problem.members["appended"], listed);
        let nothing = AppendAnswer { runs: vec![AppendedRun::KeyReused { count: 3 }], ..answer };
        let nothing = reused(&nothing, place);
        assert!(nothing.detail.ends_with("Nothing was appended"), "{}", nothing.detail);
    }
}
