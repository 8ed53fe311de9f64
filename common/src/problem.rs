//! Problems as the HTTP API tells them: RFC 9457, with a stable `type`, a sentence that says what to do, and the
//! members that the type promises.
//!
//! * Invariant: one kind, one status; the table in DESIGN §4 is this enum.
//! * Deliberately absent: headers (`Retry-After`, `ETag`), which the server adds.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;

/// What went wrong: the `type` of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    /// Malformed request.
    BadRequest,
    /// A token that is malformed, or past the committed end.
    BadToken,
    /// A key that is empty, too long or not percent-encoded properly.
    BadKey,
    /// A request that this address does not take: a foreign `Host` or `Origin`.
    Forbidden,
    /// No such key, or no such path.
    NotFound,
    /// The path is there, the method is not.
    MethodNotAllowed,
    /// The token belongs to another cluster, or to before a restore.
    OtherHistory,
    /// A feed position below the horizon.
    Compacted,
    /// A guard failed.
    VersionMismatch,
    /// Over a limit, which the body names.
    TooLarge,
    /// A body without the content type that it needs.
    MediaType,
    /// An `Expect` other than `100-continue`.
    ExpectationFailed,
    /// A transaction whose keys are not of one partition.
    ManyPartitions,
    /// An idempotency key that was used for something else.
    KeyReused,
    /// A queue is full.
    Overloaded,
    /// The deadline passed before the applied end got there.
    Behind,
    /// Nothing was appended: the partition has no leader.
    NoLeader,
    /// It may or may not be appended.
    OutcomeUnknown,
    /// The log's disk is full: reads go on.
    LogFull,
}

impl ProblemKind {
    /// The HTTP status of this kind.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::BadRequest | Self::BadToken | Self::BadKey => 400,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::OtherHistory => 409,
            Self::Compacted => 410,
            Self::VersionMismatch => 412,
            Self::TooLarge => 413,
            Self::MediaType => 415,
            Self::ExpectationFailed => 417,
            Self::ManyPartitions | Self::KeyReused => 422,
            Self::Overloaded => 429,
            Self::Behind | Self::NoLeader | Self::OutcomeUnknown => 503,
            Self::LogFull => 507,
        }
    }

    /// The stable `type`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "bad-request",
            Self::BadToken => "bad-token",
            Self::BadKey => "bad-key",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not-found",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::OtherHistory => "other-history",
            Self::Compacted => "compacted",
            Self::VersionMismatch => "version-mismatch",
            Self::TooLarge => "too-large",
            Self::MediaType => "media-type",
            Self::ExpectationFailed => "expectation-failed",
            Self::ManyPartitions => "many-partitions",
            Self::KeyReused => "key-reused",
            Self::Overloaded => "overloaded",
            Self::Behind => "behind",
            Self::NoLeader => "no-leader",
            Self::OutcomeUnknown => "outcome-unknown",
            Self::LogFull => "log-full",
        }
    }

    /// Whether the same request may succeed a little later, so that `Retry-After` belongs on the answer.
    #[must_use]
    pub const fn is_passing(self) -> bool {
        matches!(self, Self::Overloaded | Self::Behind | Self::NoLeader | Self::OutcomeUnknown | Self::LogFull)
    }
}

/// A problem with its explanation: the body of an error answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// The stable type.
    #[serde(rename = "type")]
    pub kind: ProblemKind,
    /// The HTTP status.
    pub status: u16,
    /// One sentence: what happened and what to do.
    pub detail: String,
    /// Members that the kind promises, for instance `wanted`, `applied` and `lag` of `behind`.
    #[serde(flatten)]
    pub members: Map<String, Value>,
}

impl Problem {
    /// A problem with its sentence.
    #[must_use]
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Problem {
        Problem { kind, status: kind.status(), detail: detail.into(), members: Map::new() }
    }

    /// Adds a member.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Problem {
        self.members.insert(name.to_owned(), value.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.kind.name(), self.status, self.detail)
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_rfc_9457_json() {
        let problem = Problem::new(ProblemKind::Behind, "too far behind: try again").with("lag", 3);
        let json = serde_json::to_value(&problem).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"type": "behind", "status": 503, "detail": "too far behind: try again", "lag": 3})
        );
        assert_eq!(serde_json::from_value::<Problem>(json).unwrap(), problem);
    }
}
