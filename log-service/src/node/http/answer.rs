//! Answers: JSON, problems with the headers that belong to them, and what each refusal of the log means in HTTP.

use super::append::IDEMPOTENCY_KEY;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use duramen_common::protocol::LogRefusal;
use duramen_common::{Problem, ProblemKind};
use serde::Serialize;

/// A problem on its way out.
pub(super) struct Refused(Box<Problem>);

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Refused {
        Refused(Box::new(problem))
    }
}

impl From<LogRefusal> for Refused {
    fn from(refusal: LogRefusal) -> Refused {
        problem_of(&refusal).into()
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = json(status, &self.0);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.0.kind.is_passing() {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        let idempotency_key = self.0.members.get("idempotency_key").and_then(serde_json::Value::as_str);
        if let Some(Ok(key)) = idempotency_key.map(HeaderValue::from_str) {
            headers.insert(IDEMPOTENCY_KEY, key);
        }
        response
    }
}

/// A JSON answer.
pub(super) fn json<T: Serialize>(status: StatusCode, body: &T) -> Response {
    let bytes = serde_json::to_vec(body).expect("these structures are JSON");
    (status, [(CONTENT_TYPE, HeaderValue::from_static("application/json"))], bytes).into_response()
}

/// What a refusal of the log means in HTTP.
pub(super) fn problem_of(refusal: &LogRefusal) -> Problem {
    let problem = |kind| Problem::new(kind, refusal.to_string());
    match refusal {
        LogRefusal::NotLeader { .. } | LogRefusal::Unavailable { .. } => {
            let detail = format!("nothing was appended or read, try again: {refusal}");
            Problem::new(ProblemKind::NoLeader, detail)
        }
        LogRefusal::UnknownPartition { partitions, .. } => {
            problem(ProblemKind::NotFound).with("partitions", *partitions)
        }
        LogRefusal::LogFull { .. } => problem(ProblemKind::LogFull),
        LogRefusal::Overloaded => problem(ProblemKind::Overloaded),
        LogRefusal::Invalid { .. } | LogRefusal::NameTaken { .. } => problem(ProblemKind::BadRequest),
        LogRefusal::TooLarge { limit, .. } => problem(ProblemKind::TooLarge).with("limit", *limit),
        LogRefusal::TooLate | LogRefusal::OutcomeUnknown { .. } => problem(ProblemKind::OutcomeUnknown),
        LogRefusal::Compacted { horizon } => problem(ProblemKind::Compacted).with("earliest", horizon.get()),
        LogRefusal::OtherLog { committed_end, .. } => {
            let detail = format!("nothing is there: the log ends at {committed_end}");
            Problem::new(ProblemKind::BadRequest, detail).with("committed_end", committed_end.get())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_carries_its_type_and_when_to_come_back() {
        let response = Refused::from(LogRefusal::Overloaded).into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        let response = Refused::from(LogRefusal::Invalid { reason: "no".to_owned() }).into_response();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert!(!response.headers().contains_key(RETRY_AFTER));
    }
}
