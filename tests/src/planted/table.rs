//! The table: which suite catches which planted bug. Pure data.

use super::suite::Suite;
use duramen_common::planted::Plant;

/// A bug and what catches it.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The bug.
    pub plant: Plant,
    /// What catches it.
    pub suite: Suite,
    /// Within so many seeds, from 0 on.
    pub seeds_max: u64,
    /// What it says then: one of these stands in it.
    pub says: &'static [&'static str],
}

const fn row(plant: Plant, suite: Suite, seeds_max: u64, says: &'static [&'static str]) -> Row {
    Row { plant, suite, seeds_max, says }
}

const NOT_ACKNOWLEDGED: &str = "is not what was acknowledged";
const DOES_NOT_OPEN: &str = "does not open";
const NOT_THERE_AGAIN: &str = "not there after the next one";
const OLDER: &str = "is older than";
const NOT_THE_LOG: &str = "the log";
/// Whichever of them a seed meets first: what a bug breaks shows at one place or another.
const SAFETY: &[&str] =
    &["invariant 1:", "invariant 2:", "invariant 4:", "invariant 5:", "invariant 6:", "invariant 7:"];

/// In the order of definition.
pub const TABLE: &[Row] = &[
    row(Plant::NoSyncBeforeAck, Suite::Store, 20, &[NOT_ACKNOWLEDGED, DOES_NOT_OPEN]),
    row(Plant::SyncErrorIgnored, Suite::Store, 50, &[NOT_ACKNOWLEDGED, DOES_NOT_OPEN]),
    row(Plant::VoteNotSynced, Suite::Store, 20, &["an acknowledged vote is gone"]),
    row(Plant::RecoveredTailNotSynced, Suite::Store, 50, &[DOES_NOT_OPEN, NOT_THERE_AGAIN]),
    row(Plant::TornAcknowledgedFrame, Suite::Store, 100, &["damage of acknowledged bytes was not seen"]),
    row(Plant::TornTailAccepted, Suite::Store, 50, &[DOES_NOT_OPEN, "cannot be read", NOT_ACKNOWLEDGED]),
    row(Plant::TornTailNotCut, Suite::Store, 50, &[DOES_NOT_OPEN]),
    row(Plant::StaleSegmentBytes, Suite::Store, 100, &[NOT_THERE_AGAIN, NOT_ACKNOWLEDGED, DOES_NOT_OPEN]),
    row(Plant::LeaderRestore, Suite::Simulator, 60, SAFETY),
    row(Plant::FlushedWhenAppended, Suite::Simulator, 20, &["panic", "invariant"]),
    row(Plant::AckBeforeMajority, Suite::Simulator, 20, &["panic", "invariant"]),
    row(Plant::DurableAsCommitted, Suite::Simulator, 60, &["below the committed end", "invariant"]),
    row(Plant::ReadIndexSkipped, Suite::Simulator, 40, SAFETY),
    row(Plant::StaleLeaderTail, Suite::Leaders, 40, SAFETY),
    row(Plant::TailRoundJoinedLate, Suite::Leaders, 40, SAFETY),
    row(Plant::RepeatAnsweredEarly, Suite::Leaders, 80, SAFETY),
    row(Plant::IdsForgotten, Suite::Simulator, 20, SAFETY),
    row(Plant::TermNotChecked, Suite::Terms, 20, SAFETY),
    row(Plant::LostAsNotSent, Suite::Simulator, 120, SAFETY),
    row(Plant::UnknownAsFailure, Suite::Serving, 20, &["was answered Refused"]),
    row(Plant::GuardIgnored, Suite::Serving, 20, &[NOT_THE_LOG]),
    row(Plant::FailedGuardCounted, Suite::Serving, 20, &[NOT_THE_LOG]),
    row(Plant::AppliedEndBeforeData, Suite::Serving, 60, &[NOT_THE_LOG]),
    row(Plant::IndexCheckSkipped, Suite::Serving, 20, &[NOT_THE_LOG, OLDER]),
    row(Plant::TokenWaitSkipped, Suite::Serving, 20, &[OLDER]),
    row(Plant::TokensNotMerged, Suite::Serving, 40, &[OLDER]),
    row(Plant::TailQuestionJoinedLate, Suite::Serving, 40, &[OLDER]),
    row(Plant::PagePositionTooNew, Suite::Serving, 20, &[NOT_THE_LOG]),
    row(Plant::FeedResumesEarly, Suite::Serving, 20, &["a feed gave"]),
    row(Plant::FeedResumesLate, Suite::Serving, 20, &["a feed gave"]),
    row(Plant::LockOnFileOnly, Suite::Operator, 8, &["a second process on the folder"]),
    row(Plant::UnreachableMayLead, Suite::Operator, 8, &["and nobody else knows"]),
];

impl Row {
    /// The row of a bug.
    #[must_use]
    pub fn of(plant: Plant) -> Option<Row> {
        TABLE.iter().find(|row| row.plant == plant).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_has_one_row() {
        let rows: Vec<Plant> = TABLE.iter().map(|row| row.plant).collect();
        assert_eq!(rows, Plant::ALL, "in the order of common/src/planted.rs");
    }
}
