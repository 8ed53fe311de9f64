//! Why a request was not done, as Maelstrom counts errors.
//!
//! * Invariant: a definite code stands only where nothing happened and nothing can happen any more; what may have
//!   happened is `Timeout` or `Crash`.
//! * Source: Maelstrom's protocol, "Errors"; DESIGN D14.

use duramen_common::log::{AppendError, Effect};
use duramen_common::{Problem, ProblemKind};

/// Maelstrom's error codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Code {
    /// It may have happened, or may still.
    Timeout = 0,
    /// The message is for a node that this is not.
    NodeNotFound = 1,
    /// No such type of message, or of what it asks for.
    NotSupported = 10,
    /// Nothing happened: no leader, behind, overloaded, still starting.
    TemporarilyUnavailable = 11,
    /// The body is not what its type asks for.
    MalformedRequest = 12,
    /// It may have happened, and this node cannot go on with it.
    Crash = 13,
    /// No such key.
    KeyDoesNotExist = 20,
    /// The value was another one.
    PreconditionFailed = 22,
    /// Others were faster, as often as it was tried.
    TxnConflict = 30,
}

impl Code {
    /// Whether nothing happened.
    pub const fn is_definite(self) -> bool {
        !matches!(self, Self::Timeout | Self::Crash)
    }
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// What its sender may conclude.
    pub code: Code,
    /// One sentence.
    pub text: String,
}

impl Failure {
    /// A failure with its sentence.
    pub fn new(code: Code, text: impl Into<String>) -> Failure {
        Failure { code, text: text.into() }
    }

    /// The body is not what it should be.
    pub fn malformed(text: impl Into<String>) -> Failure {
        Failure::new(Code::MalformedRequest, text)
    }

    /// Nothing happened, and it may go better a little later.
    pub fn unavailable(text: impl Into<String>) -> Failure {
        Failure::new(Code::TemporarilyUnavailable, text)
    }

    /// What a problem of the serving node means for its request alone.
    pub fn of_problem(problem: &Problem) -> Failure {
        let code = match problem.kind {
            ProblemKind::OutcomeUnknown => Code::Timeout,
            ProblemKind::Behind | ProblemKind::NoLeader | ProblemKind::Overloaded | ProblemKind::LogFull => {
                Code::TemporarilyUnavailable
            }
            ProblemKind::NotFound => Code::KeyDoesNotExist,
            ProblemKind::VersionMismatch => Code::PreconditionFailed,
            ProblemKind::BadRequest | ProblemKind::BadKey | ProblemKind::TooLarge => Code::MalformedRequest,
            // Nothing that this program sends is answered so.
            ProblemKind::BadToken
            | ProblemKind::Forbidden
            | ProblemKind::MethodNotAllowed
            | ProblemKind::OtherHistory
            | ProblemKind::Compacted
            | ProblemKind::MediaType
            | ProblemKind::ExpectationFailed
            | ProblemKind::ManyPartitions
            | ProblemKind::KeyReused => Code::Crash,
        };
        Failure::new(code, problem.detail.clone())
    }

    /// An append that was not acknowledged.
    pub fn of_append(error: &AppendError) -> Failure {
        let code = match (error.effect(), error) {
            (Effect::Unknown, _) => Code::Timeout,
            (Effect::None, AppendError::TooLarge { .. } | AppendError::Invalid { .. }) => Code::MalformedRequest,
            (Effect::None, _) => Code::TemporarilyUnavailable,
        };
        Failure::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use duramen_common::PartitionId;

    /// Goal: nobody is told that nothing happened where something may have. Method: every problem and append error that
    /// can follow a write that was sent.
    #[test]
    fn what_may_have_happened_is_never_definite() {
        let partition = PartitionId::new(0);
        let unknown = Problem::new(ProblemKind::OutcomeUnknown, "");
        assert!(!Failure::of_problem(&unknown).code.is_definite());
        let unacknowledged = AppendError::Unacknowledged { partition, waited_ms: 1, reason: String::new() };
        assert_eq!(Failure::of_append(&unacknowledged).code, Code::Timeout);
        assert!(!Code::Crash.is_definite());
    }

    #[test]
    fn what_did_not_happen_is_told_by_its_code() {
        let partition = PartitionId::new(0);
        for (kind, code) in [
            (ProblemKind::NoLeader, Code::TemporarilyUnavailable),
            (ProblemKind::Behind, Code::TemporarilyUnavailable),
            (ProblemKind::Overloaded, Code::TemporarilyUnavailable),
            (ProblemKind::LogFull, Code::TemporarilyUnavailable),
            (ProblemKind::NotFound, Code::KeyDoesNotExist),
            (ProblemKind::VersionMismatch, Code::PreconditionFailed),
            (ProblemKind::TooLarge, Code::MalformedRequest),
        ] {
            assert_eq!(Failure::of_problem(&Problem::new(kind, "")).code, code, "{kind:?}");
            assert!(code.is_definite());
        }
        let no_leader = AppendError::NoLeader { partition, waited_ms: 1 };
        assert_eq!(Failure::of_append(&no_leader).code, Code::TemporarilyUnavailable);
        let invalid = AppendError::Invalid { reason: String::new() };
        assert_eq!(Failure::of_append(&invalid).code, Code::MalformedRequest);
    }

    /// Pinned: the numbers of Maelstrom's protocol.
    #[test]
    fn codes_are_maelstroms() {
        let codes = [
            (Code::Timeout, 0),
            (Code::NodeNotFound, 1),
            (Code::NotSupported, 10),
            (Code::TemporarilyUnavailable, 11),
            (Code::MalformedRequest, 12),
            (Code::Crash, 13),
            (Code::KeyDoesNotExist, 20),
            (Code::PreconditionFailed, 22),
            (Code::TxnConflict, 30),
        ];
        for (code, number) in codes {
            assert_eq!(code as u16, number);
        }
    }
}
