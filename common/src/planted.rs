//! Planted bugs: mistakes that a developer could make, each at the place where it would be made, switched on by name to see
//! that a suite catches it.
//!
//! * In: `if is_planted(Plant::…)`, one line where possible. Without the cargo feature `planted`, which no release build
//!   has, that is a constant `false` and nothing of a plant is compiled in.
//! * With it: [`with`] plants a bug for what a thread does meanwhile; the variable `DURAMEN_PLANTED` for a process.
//! * Which suite catches which, and within how many seeds: `tests/src/planted/table.rs`; `scripts/planted.sh` shows it.
//! * Deliberately absent: two bugs at once.

#[cfg(feature = "planted")]
mod switch;
#[cfg(feature = "planted")]
pub use switch::{PLANTED_VARIABLE, UnknownPlant, is_planted, with};

/// Whether this bug is on here and now. Never, in a build without the cargo feature `planted`.
#[cfg(not(feature = "planted"))]
#[must_use]
pub const fn is_planted(_plant: Plant) -> bool {
    false
}

macro_rules! plants {
    ($(#[doc = $about:literal] $plant:ident = $name:literal,)*) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Plant {
            $(#[doc = $about] $plant,)*
        }

        #[cfg(feature = "planted")]
        impl Plant {
            /// All of them.
            pub const ALL: &[Plant] = &[$(Plant::$plant,)*];

            /// What it is switched on by.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Plant::$plant => $name,)*
                }
            }

            /// What is wrong, as one sentence.
            #[must_use]
            pub fn about(self) -> &'static str {
                let sentence = match self {
                    $(Plant::$plant => $about,)*
                };
                sentence.trim_start()
            }
        }
    };
}

plants! {
    // The store.
    /// What a sync should have covered is acknowledged without that sync.
    NoSyncBeforeAck = "no-sync-before-ack",
    /// A sync that failed counts as one that did not.
    SyncErrorIgnored = "sync-error-ignored",
    /// A vote is answered before it is durable.
    VoteNotSynced = "vote-not-synced",
    /// What recovery found in the page cache counts as synced: it is not written and synced again.
    RecoveredTailNotSynced = "recovered-tail-not-synced",
    /// Damage in the last acknowledged frame is cut like a torn tail: what stands behind it is not looked at.
    TornAcknowledgedFrame = "torn-acknowledged-frame",
    /// Recovery takes a frame whose checksum does not fit.
    TornTailAccepted = "torn-tail-accepted",
    /// What is cut off a torn tail stays in the file.
    TornTailNotCut = "torn-tail-not-cut",
    /// Frames of an earlier use of a segment's file pass for its own: neither its id nor the chain is checked.
    StaleSegmentBytes = "stale-segment-bytes",
    // Consensus.
    /// openraft's `enable_leader_restore` is on: a restarted leader leads again in a term whose entries it had not flushed.
    LeaderRestore = "leader-restore",
    /// openraft is told that entries are on the disk when they are only appended.
    FlushedWhenAppended = "flushed-when-appended",
    /// A follower that did not answer is counted into the majority.
    AckBeforeMajority = "ack-before-majority",
    /// Records are published as committed once they are durable on this node.
    DurableAsCommitted = "durable-as-committed",
    /// The leader answers a tail question from what it knows, without asking a majority whether it still leads.
    ReadIndexSkipped = "read-index-skipped",
    /// A leader that finds no majority answers a tail question all the same, from what it knows.
    StaleLeaderTail = "stale-leader-tail",
    /// Tail questions that come while a round is under way get that round's answer.
    TailRoundJoinedLate = "tail-round-joined-late",
    // Request ids.
    /// A repeat gets its first offset before that is committed.
    RepeatAnsweredEarly = "repeat-answered-early",
    /// The table of request ids is empty after a change of leaders.
    IdsForgotten = "ids-forgotten",
    /// A batch is appended although the term in which its ids were checked is over.
    TermNotChecked = "term-not-checked",
    // Outcomes.
    /// A request whose answer was lost counts as one that was not sent.
    LostAsNotSent = "lost-as-not-sent",
    /// A write whose outcome is unknown is answered as one that did not happen.
    UnknownAsFailure = "unknown-as-failure",
    // The serving node.
    /// Guards always hold.
    GuardIgnored = "guard-ignored",
    /// A record whose guard failed counts as one that took effect.
    FailedGuardCounted = "failed-guard-counted",
    /// The end that is written with the index's data is the log's, as it was last heard of: it runs ahead of the data.
    AppliedEndBeforeData = "applied-end-before-data",
    /// What an index holds is served after a restart without a check of its checksums and its set hash.
    IndexCheckSkipped = "index-check-skipped",
    /// A read does not wait until its token's position is applied.
    TokenWaitSkipped = "token-wait-skipped",
    /// Of several tokens on a read the last one counts, for all partitions.
    TokensNotMerged = "tokens-not-merged",
    /// A tail question that was sent before a reader came answers that reader too.
    TailQuestionJoinedLate = "tail-question-joined-late",
    /// A page of a scan names the end of the log as its position, not the end that it was read at.
    PagePositionTooNew = "page-position-too-new",
    /// A feed resumes with the last record that was given.
    FeedResumesEarly = "feed-resumes-early",
    /// A feed resumes one record behind the first that was not given.
    FeedResumesLate = "feed-resumes-late",
    // The operator's world.
    /// Of a data folder only a file in it is locked: who removes that file lets a second process in.
    LockOnFileOnly = "lock-on-file-only",
    /// A log node that its peers cannot call gets their votes, and hands over to nobody.
    UnreachableMayLead = "unreachable-may-lead",
}
