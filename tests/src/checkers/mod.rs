//! Checkers: histories of what clients were told in, verdicts out. Pure: no I/O, no clock, no randomness.
//!
//! * `history` is the form that the workbench, the simulator (virtual time) and the process matrix (real time) share.
//! * Invariant: a checker that cannot decide within its bounds says so, and that counts as a failure.
//! * Invariant: an unknown outcome is taken as an operation that may take effect at any later time, or never.
//! * Deliberately absent: knowledge of how the system works inside; a checker sees answers, or the log itself as a list.

pub mod acknowledged;
pub mod feed;
pub mod history;
pub mod kafka;
pub mod linearizability;
pub mod log;
pub mod sessions;
pub mod transactions;

pub use history::{History, Moment, Operation, Outcome};

use std::fmt;

/// What a checker concludes.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<A> {
    /// Nothing is wrong with the history.
    Valid,
    /// What is wrong, at least one thing, the most telling first.
    Violated(Vec<A>),
    /// The bounds did not suffice to decide. Counts as a failure.
    Undecided {
        /// Which bound, where.
        reason: String,
    },
}

/// How many violations a verdict prints.
const PRINTED_MAX: usize = 8;

impl<A> Verdict<A> {
    /// Of these violations: none is well.
    pub fn of(violations: Vec<A>) -> Verdict<A> {
        if violations.is_empty() { Verdict::Valid } else { Verdict::Violated(violations) }
    }

    /// Whether the history was found to be right.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        matches!(self, Verdict::Valid)
    }

    /// The violations; none when valid or undecided.
    #[must_use]
    pub fn violations(&self) -> &[A] {
        match self {
            Verdict::Violated(violations) => violations,
            Verdict::Valid | Verdict::Undecided { .. } => &[],
        }
    }
}

impl<A: fmt::Display> Verdict<A> {
    /// Panics unless valid, with what is wrong.
    #[track_caller]
    pub fn require(&self, what: &str) {
        assert!(self.is_valid(), "{what}: {self}");
    }
}

impl<A: fmt::Display> fmt::Display for Verdict<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Valid => f.write_str("valid"),
            Verdict::Undecided { reason } => write!(f, "undecided, which counts as a failure: {reason}"),
            Verdict::Violated(violations) => {
                write!(f, "{} violation(s)", violations.len())?;
                for violation in violations.iter().take(PRINTED_MAX) {
                    write!(f, "\n{violation}")?;
                }
                match violations.len().saturating_sub(PRINTED_MAX) {
                    0 => Ok(()),
                    more => write!(f, "\n… and {more} more"),
                }
            }
        }
    }
}
