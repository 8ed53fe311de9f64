//! Why a call has no result, and what its caller may conclude.
//!
//! * Invariant: [`Error::effect`] is `Unknown` exactly for [`Error::OutcomeUnknown`]; a timeout of a write is never
//!   anything else, unless nothing was sent.
//! * Source: DESIGN D14; the table of problems in DESIGN §4.

use super::options::Condition;
use super::version::Version;
use duramen_common::log::Effect;
use duramen_common::token::TokenParseError;
use duramen_common::{Problem, ProblemKind, SessionToken};
use std::fmt;

/// Why a call has no result.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The condition did not hold: nothing was written.
    #[error("the condition does not hold: the key {}", match current {
        Some(version) => format!("is at version {version}"),
        None => "is absent".to_owned(),
    })]
    VersionMismatch {
        /// The key's version; `None` when it is absent.
        current: Option<Version>,
        /// The position that this answer comes from.
        seen: Option<SessionToken>,
    },
    /// It may have been written, or may still be.
    #[error(transparent)]
    OutcomeUnknown(#[from] OutcomeUnknown),
    /// No node gave an answer in time; nothing was written.
    #[error("no answer after {attempts} attempts in {waited_ms} ms; the last: {last}")]
    Unavailable {
        /// How many attempts were made.
        attempts: u32,
        /// How long it was tried.
        waited_ms: u64,
        /// What the last attempt met.
        last: Box<Failure>,
    },
    /// The server refuses, and would again; nothing was written.
    #[error("{0}")]
    Refused(Problem),
    /// Refused here, before anything was sent.
    #[error("{what}: {reason}")]
    Invalid {
        /// What is wrong.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The answer to a read is not of the contract.
    #[error("{0}")]
    Unexpected(Box<Failure>),
}

impl Error {
    /// What the caller of a write may conclude.
    #[must_use]
    pub const fn effect(&self) -> Effect {
        match self {
            Self::OutcomeUnknown(_) => Effect::Unknown,
            Self::VersionMismatch { .. }
            | Self::Unavailable { .. }
            | Self::Refused(_)
            | Self::Invalid { .. }
            | Self::Unexpected(_) => Effect::None,
        }
    }

    /// The problem that a server told, if one did (for [`Error::Unavailable`] and [`Error::OutcomeUnknown`] the last).
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        let failure = match self {
            Self::Refused(problem) => return Some(problem),
            Self::Unavailable { last, .. } | Self::Unexpected(last) => last,
            Self::OutcomeUnknown(unknown) => &unknown.last,
            Self::VersionMismatch { .. } | Self::Invalid { .. } => return None,
        };
        if let FailureCause::Problem(problem) = &failure.cause { Some(problem) } else { None }
    }

    /// Whether the server told a problem of this kind.
    #[must_use]
    pub fn is_problem(&self, kind: ProblemKind) -> bool {
        self.problem().is_some_and(|problem| problem.kind == kind)
    }
}

impl From<TokenParseError> for Error {
    fn from(error: TokenParseError) -> Error {
        Error::Invalid { what: "token", reason: error.to_string() }
    }
}

/// A write without a certain answer: it may have happened, or may still. Repeat it, with the same arguments, under
/// [`OutcomeUnknown::idempotency_key`], soon; then it takes effect once, and the answer is about that one.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "outcome unknown after {attempts} attempts in {waited_ms} ms: it may or may not be written; repeat it with \
     idempotency key {idempotency_key}; the last: {last}"
)]
pub struct OutcomeUnknown {
    /// Under which key every attempt was sent.
    pub idempotency_key: String,
    /// Under which condition, so that a repeat can be the same.
    pub condition: Option<Condition>,
    /// How many attempts were made.
    pub attempts: u32,
    /// How long it was tried.
    pub waited_ms: u64,
    /// What the last attempt met.
    pub last: Box<Failure>,
}

/// An attempt that gave no result.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// The node that was asked.
    pub url: String,
    /// What it was.
    pub cause: FailureCause,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.url, self.cause)
    }
}

/// What one attempt met.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FailureCause {
    /// No connection: nothing was sent.
    #[error("cannot connect: {0}")]
    NotSent(String),
    /// The connection broke before the answer was whole.
    #[error("connection lost: {0}")]
    Lost(String),
    /// No whole answer in time.
    #[error("no answer within {0} ms")]
    TimedOut(u64),
    /// The server said why.
    #[error("{0}")]
    Problem(Problem),
    /// Not an answer of the contract.
    #[error("unexpected answer: {0}")]
    Unexpected(String),
}
