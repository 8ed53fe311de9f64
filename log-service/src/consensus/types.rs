//! openraft, instantiated for this log: what an entry carries, what an append answers, who the nodes are.
//!
//! * An entry carries one record batch ([`LogBatch`]); its answer is where it stands ([`Appended`]).
//! * Log ids are (term, index): at most one leader a term, as in the paper, so that they are the wire's `BatchId`.
//! * Deliberately absent: addresses (configuration and the meta group know them), serde (stored and sent forms are ours).
//! * Source: DESIGN D1; openraft `declare_raft_types!`.

use crate::store::{EntryId, StoredVote};
use duramen_common::batch::RecordBatch;
use duramen_common::ids::Offset;
use openraft::vote::RaftLeaderIdExt as _;
use std::fmt;

openraft::declare_raft_types!(
    /// The types of a partition's Raft group.
    pub TypeConfig:
        D = LogBatch,
        R = Appended,
        NodeId = u64,
        Node = openraft::EmptyNode,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = super::runtime::SeededRuntime,
);

/// A record batch as an entry's payload. Before it is appended its first offset is 0, or whatever its leader set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogBatch(pub RecordBatch);

impl fmt::Display for LogBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = self.0.header();
        write!(f, "{} records at {}", header.record_count, header.first_offset)
    }
}

/// Where an entry's records stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record; for an entry without records, the end before it.
    pub first_offset: Offset,
    /// Records in the entry.
    pub count: u32,
}

impl fmt::Display for Appended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records at {}", self.count, self.first_offset)
    }
}

/// openraft's log id.
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
/// openraft's vote.
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
/// openraft's entry.
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
/// openraft's membership.
pub type Membership = openraft::Membership<u64, openraft::EmptyNode>;
/// openraft's membership with its log id.
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
/// A group: the handle that proposes and asks.
pub type Raft = openraft::Raft<TypeConfig, super::state_machine::StateMachine>;

/// The store's name of an entry.
#[must_use]
pub fn entry_id(log_id: &LogId) -> EntryId {
    EntryId { term: **log_id.committed_leader_id(), index: log_id.index() }
}

/// openraft's name of an entry.
#[must_use]
pub fn log_id(id: EntryId) -> LogId {
    LogId::new(openraft::impls::leader_id_std::LeaderId::<u64, u64>::new_committed(id.term, 0), id.index)
}

/// The store's form of a vote.
#[must_use]
pub fn stored_vote(vote: &Vote) -> StoredVote {
    StoredVote { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.committed }
}

/// openraft's form of a vote.
#[must_use]
pub fn raft_vote(vote: StoredVote) -> Vote {
    let leader_id = openraft::impls::leader_id_std::LeaderId { term: vote.term, voted_for: vote.node };
    Vote { leader_id, committed: vote.committed }
}
