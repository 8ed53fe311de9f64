//! How a command ends when it does not succeed: one clear line on stderr and an exit code.
//!
//! * 1: it failed, and the line says what to do. 2: the command line or the configuration is wrong. 3: a write may or
//!   may not have happened; the line names the idempotency key to retry with.
//! * Invariant: a line is one line, whatever a server said.

use duramen_common::{Problem, ProblemKind};
use std::process::ExitCode;

/// Why a command did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It was tried and did not work.
    #[error("{what}")]
    Failed {
        /// What happened and what to do.
        what: String,
    },
    /// The command line or the configuration is wrong; nothing was tried.
    #[error("{what}")]
    Usage {
        /// What is wrong and what would be right.
        what: String,
    },
    /// A write may or may not have happened.
    #[error(
        "the outcome is unknown: {what}; to make sure, run the same command again with --idempotency-key {idempotency_key}"
    )]
    UnknownOutcome {
        /// What was met.
        what: String,
        /// Retrying with it takes effect at most once.
        idempotency_key: String,
    },
    /// A load was given up while batches of it may or may not have happened.
    #[error("{what}; whether records after those are in is unknown")]
    UnknownLoad {
        /// What was met, and how much is certainly in.
        what: String,
    },
    /// Whoever read our output has gone: nothing more to say.
    #[error("nobody reads the output any more")]
    OutputClosed,
}

impl Failure {
    /// It was tried and did not work.
    pub fn failed(what: impl Into<String>) -> Failure {
        Failure::Failed { what: what.into() }
    }

    /// The command line or the configuration is wrong.
    pub fn usage(what: impl Into<String>) -> Failure {
        Failure::Usage { what: what.into() }
    }

    /// What a server said about a request that changes nothing, or certainly changed nothing.
    #[must_use]
    pub fn from_problem(problem: &Problem) -> Failure {
        match problem.kind {
            ProblemKind::BadKey | ProblemKind::BadToken | ProblemKind::BadRequest => Failure::failed(&problem.detail),
            kind => Failure::failed(format!("{} ({})", problem.detail, kind.name())),
        }
    }

    /// The exit code.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Failed { .. } => 1,
            Self::Usage { .. } => 2,
            Self::UnknownOutcome { .. } | Self::UnknownLoad { .. } => 3,
            Self::OutputClosed => 0,
        }
    }

    /// Prints the line and gives the exit code.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        if !matches!(self, Self::OutputClosed) {
            let line = self.to_string().replace(['\n', '\r'], " ");
            duramen_stdio::stderr().push_line(&format!("duramen: {line}"));
        }
        ExitCode::from(self.code())
    }
}
