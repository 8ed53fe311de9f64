//! Failures as answers: a problem (RFC 9457) with the headers that belong to it.
//!
//! * In: what the log, the views and the extractors say. Out: `application/problem+json`, always.
//! * Invariant: what may have happened is never called a failure: see [`Failure::of_append`].
//! * Source: DESIGN §4, the table of errors; `common::problem`.

use super::body::ResponseBody;
use super::headers;
use crate::view::{ReadError, WaitError};
use bytes::Bytes;
use duramen_common::budget::Exhausted;
use duramen_common::log::{AppendError, TailError};
use duramen_common::planted::{Plant, is_planted};
use duramen_common::{Offset, PartitionId, Problem, ProblemKind};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};

/// Why a request was not done, ready to be told.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The body.
    pub(crate) problem: Problem,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Failure {
        Failure { problem, headers: Vec::new() }
    }
}

impl Failure {
    /// A failure with its sentence.
    pub(crate) fn new(kind: ProblemKind, detail: impl Into<String>) -> Failure {
        Failure { problem: Problem::new(kind, detail), headers: Vec::new() }
    }

    /// Adds a member to the body.
    pub(crate) fn with(mut self, name: &str, value: impl Into<serde_json::Value>) -> Failure {
        self.problem = self.problem.with(name, value);
        self
    }

    /// Adds a header.
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Failure {
        self.headers.push((name, value));
        self
    }

    /// Over a limit, which the body names.
    pub(crate) fn too_large(what: &str, limit: usize) -> Failure {
        Failure::new(ProblemKind::TooLarge, format!("{what} is over the limit of {limit}: send less"))
            .with("what", what)
            .with("limit", limit)
    }

    /// Others hold what answers may hold. Nothing was read, nothing was written.
    pub(crate) fn exhausted(error: &Exhausted) -> Failure {
        Failure::new(ProblemKind::Overloaded, error.to_string()).with("limit", error.limit)
    }

    /// The node cannot answer yet; what it would have to reach, it does not know.
    pub(crate) fn starting(detail: impl Into<String>) -> Failure {
        let unknown = serde_json::Value::Null;
        Failure::new(ProblemKind::Behind, detail)
            .with("wanted", unknown.clone())
            .with("applied", unknown.clone())
            .with("lag", unknown)
    }

    /// The leader could not be asked: nothing was read, nothing was written.
    pub(crate) fn of_tail(error: &TailError) -> Failure {
        let TailError::Unavailable { partition, .. } = error;
        Failure::new(
            ProblemKind::NoLeader,
            format!("{error}: try again, or read with ?consistency=stale or with a token"),
        )
        .with("partition", partition.get())
    }

    /// The wait for an applied end ended without it.
    pub(crate) fn of_wait(error: &WaitError, partition: PartitionId, committed_end: Offset) -> Failure {
        match *error {
            WaitError::Deadline { wanted, applied } => {
                let lag = committed_end.max(wanted).since(applied.unwrap_or(Offset::ZERO));
                Failure::new(
                    ProblemKind::Behind,
                    format!(
                        "partition {partition}: {error}: try again, wait longer (Prefer: wait=30) or ask another node"
                    ),
                )
                .with("partition", partition.get())
                .with("wanted", wanted.get())
                .with("applied", applied.unwrap_or(Offset::ZERO).get())
                .with("lag", lag)
            }
            WaitError::Stopping { wanted, applied } => {
                let lag = committed_end.max(wanted).since(applied.unwrap_or(Offset::ZERO));
                Failure::new(ProblemKind::Behind, format!("partition {partition}: {error}: ask another node"))
                    .with("partition", partition.get())
                    .with("wanted", wanted.get())
                    .with("applied", applied.unwrap_or(Offset::ZERO).get())
                    .with("lag", lag)
            }
            WaitError::TooManyWaiters { .. } => Failure::new(ProblemKind::Overloaded, error.to_string()),
        }
    }

    /// The local state cannot be shown.
    pub(crate) fn of_read(error: &ReadError) -> Failure {
        let failure = Failure::new(ProblemKind::Behind, format!("{error}: try again, or ask another node"));
        match *error {
            ReadError::Behind { partition, applying_end, wanted_end } => failure
                .with("partition", partition.get())
                .with("wanted", wanted_end.get())
                .with("applied", applying_end.get())
                .with("lag", wanted_end.since(applying_end)),
            ReadError::Index { partition, .. } | ReadError::OutcomeForgotten { partition, .. } => {
                failure.with("partition", partition.get())
            }
        }
    }

    /// An append was not acknowledged. `idempotency_key` is what a retry must carry.
    pub(crate) fn of_append(error: &AppendError, idempotency_key: &[u8]) -> Failure {
        match error {
            AppendError::NoLeader { partition, .. } => {
                Failure::new(ProblemKind::NoLeader, error.to_string()).with("partition", partition.get())
            }
            AppendError::Unacknowledged { .. } if is_planted(Plant::UnknownAsFailure) => {
                Failure::new(ProblemKind::NoLeader, error.to_string())
            }
            AppendError::Unacknowledged { partition, .. } => {
                Failure::outcome_unknown(error.to_string(), *partition, idempotency_key)
            }
            AppendError::LogFull { .. } => Failure::new(ProblemKind::LogFull, error.to_string()),
            AppendError::Overloaded => Failure::new(ProblemKind::Overloaded, error.to_string()),
            AppendError::TooLarge { what, limit, .. } => {
                Failure::new(ProblemKind::TooLarge, error.to_string()).with("what", what.as_str()).with("limit", *limit)
            }
            AppendError::Invalid { .. } => Failure::new(ProblemKind::BadRequest, error.to_string()),
            AppendError::Stopped => {
                Failure::new(ProblemKind::NoLeader, "this node is stopping: nothing was appended, ask another node")
            }
        }
    }

    /// It may or may not have taken effect.
    pub(crate) fn outcome_unknown(why: String, partition: PartitionId, idempotency_key: &[u8]) -> Failure {
        let text = String::from_utf8_lossy(idempotency_key).into_owned();
        let failure = Failure::new(
            ProblemKind::OutcomeUnknown,
            format!("{why}: send the whole request again, unchanged, with this Idempotency-Key, and it takes effect at most once"),
        )
        .with("partition", partition.get())
        .with("idempotency_key", text);
        match HeaderValue::from_bytes(idempotency_key) {
            Ok(value) => failure.header(headers::IDEMPOTENCY_KEY, value),
            Err(_) => failure,
        }
    }

    /// The answer.
    pub(crate) fn into_response(self) -> Response<ResponseBody> {
        let body = serde_json::to_vec(&self.problem).expect("a problem is plain JSON");
        let mut response = Response::new(ResponseBody::full(Bytes::from(body)));
        *response.status_mut() =
            StatusCode::from_u16(self.problem.status).expect("every kind of problem has a valid status");
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.problem.kind.is_passing() {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        for (name, value) in self.headers {
            headers.insert(name, value);
        }
        response
    }
}
