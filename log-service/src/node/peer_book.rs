//! What this node knows of its peers: whom it can call, what each says about itself. Decisions only.
//!
//! * In: answers and failures of calls, reports that peers send, the time. Out: whom this node cannot call, which candidate
//!   gets no vote from it, to whom a leader that its followers cannot call hands over.
//! * A leader must be called: by followers that pass something on, and by clients, which use the same addresses. One that
//!   calls others, while they cannot call it, leads well as far as Raft sees, and serves nobody.
//! * Invariant: nobody is kept from leading, and nobody hands over, unless a majority of the members say that they cannot call it,
//!   and one of them can call enough of the others to win an election.
//! * Deliberately absent: calls, clocks, words for people (`problems`).

use duramen_common::planted::{Plant, is_planted};
use duramen_common::{NodeId, PartitionId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// A log node as a configuration names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedMember {
    /// Its number.
    pub node: NodeId,
    /// Framed TCP, `host:port`.
    pub rpc_addr: String,
    /// HTTP, `host:port`.
    pub http_addr: String,
}

/// What log nodes tell each other once a second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerReport {
    /// Its configured members, itself included.
    pub members: Vec<ReportedMember>,
    /// Members that it has not been able to call for a while.
    pub cannot_call: Vec<NodeId>,
    /// Partitions that it leads although no majority answers it.
    pub without_majority: Vec<PartitionId>,
    /// Its groups run, so that it can vote.
    pub votes: bool,
}

impl PeerReport {
    /// The member with this number.
    pub fn member(&self, node: NodeId) -> Option<&ReportedMember> {
        self.members.iter().find(|member| member.node == node)
    }
}

/// Why calls to a peer fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failing {
    /// Since when no call succeeded.
    pub(super) since: Instant,
    /// Why the last one did not.
    pub(super) reason: String,
    /// It answered, and refuses this node: waiting does not help.
    pub(super) is_refusal: bool,
}

/// One peer.
#[derive(Debug, Default)]
pub(super) struct PeerEntry {
    /// Set while calls to it fail.
    pub(super) failing: Option<Failing>,
    report: Option<(Instant, PeerReport)>,
}

/// All other members of the cluster.
#[derive(Debug)]
pub(super) struct PeerBook {
    peers: BTreeMap<NodeId, PeerEntry>,
    /// After this long without an answer a peer counts as unreachable; a report is believed for as long.
    unreachable_after: Duration,
}

impl PeerBook {
    pub(super) fn new(others: impl IntoIterator<Item = NodeId>, unreachable_after: Duration) -> PeerBook {
        let peers = others.into_iter().map(|node| (node, PeerEntry::default())).collect();
        PeerBook { peers, unreachable_after }
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = (NodeId, &PeerEntry)> {
        self.peers.iter().map(|(&node, entry)| (node, entry))
    }

    /// A call to the peer was answered.
    pub(super) fn answered(&mut self, node: NodeId, report: PeerReport, now: Instant) {
        if let Some(entry) = self.peers.get_mut(&node) {
            entry.failing = None;
            entry.report = Some((now, report));
        }
    }

    /// The peer called, which does not mean that it can be called.
    pub(super) fn told(&mut self, node: NodeId, report: PeerReport, now: Instant) {
        if let Some(entry) = self.peers.get_mut(&node) {
            entry.report = Some((now, report));
        }
    }

    /// A call to the peer failed.
    pub(super) fn failed(&mut self, node: NodeId, reason: String, is_refusal: bool, now: Instant) {
        if let Some(entry) = self.peers.get_mut(&node) {
            let since = entry.failing.as_ref().map_or(now, |failing| failing.since);
            entry.failing = Some(Failing { since, reason, is_refusal });
        }
    }

    /// What the peer said lately.
    pub(super) fn report(&self, node: NodeId, now: Instant) -> Option<&PeerReport> {
        let (at, report) = self.peers.get(&node)?.report.as_ref()?;
        (now.duration_since(*at) < self.unreachable_after).then_some(report)
    }

    /// Whether calls to it have failed for so long that it counts.
    pub(super) fn is_unreachable(&self, node: NodeId, now: Instant) -> bool {
        let failing = self.peers.get(&node).and_then(|entry| entry.failing.as_ref());
        failing.is_some_and(|failing| now.duration_since(failing.since) >= self.unreachable_after)
    }

    /// Members that cannot be called from here.
    pub(super) fn cannot_call(&self, now: Instant) -> Vec<NodeId> {
        self.peers.keys().copied().filter(|&node| self.is_unreachable(node, now)).collect()
    }

    /// Whether a candidate is kept from leading by this node: it cannot be called from here, and those who say the same can do
    /// without it.
    pub(super) fn refuses_vote(&self, me: NodeId, candidate: NodeId, now: Instant) -> bool {
        if is_planted(Plant::UnreachableMayLead) || !self.is_unreachable(candidate, now) {
            return false;
        }
        let mut complaining = self.complaining(candidate, now);
        complaining.push((me, self.cannot_call(now)));
        !self.winners(&complaining).is_empty()
    }

    /// To whom a leader hands over because they cannot call it; nobody unless they form a majority by themselves.
    pub(super) fn heirs(&self, me: NodeId, now: Instant) -> Vec<NodeId> {
        if is_planted(Plant::UnreachableMayLead) {
            return Vec::new();
        }
        self.winners(&self.complaining(me, now))
    }

    /// Whether a peer votes, and can call enough of the members to win an election, by its own account.
    pub(super) fn can_win(&self, node: NodeId, now: Instant) -> bool {
        let members = self.peers.len() + 1;
        let can =
            |report: &PeerReport| report.votes && members.saturating_sub(report.cannot_call.len()) >= self.majority();
        self.report(node, now).is_some_and(can)
    }

    /// The other members that vote and say that they cannot call this one, each with all whom it cannot call.
    fn complaining(&self, of: NodeId, now: Instant) -> Vec<(NodeId, Vec<NodeId>)> {
        let complaint = |&node: &NodeId| {
            let report = self.report(node, now).filter(|report| report.votes && report.cannot_call.contains(&of))?;
            Some((node, report.cannot_call.clone()))
        };
        self.peers.keys().filter(|&&node| node != of).filter_map(complaint).collect()
    }

    /// Those of the complaining nodes that could lead the others: they can call so many of them that these are a majority.
    fn winners(&self, complaining: &[(NodeId, Vec<NodeId>)]) -> Vec<NodeId> {
        let followers =
            |cannot_call: &[NodeId]| complaining.iter().filter(|(node, _)| !cannot_call.contains(node)).count();
        let can_win = |(_, cannot_call): &&(NodeId, Vec<NodeId>)| followers(cannot_call) >= self.majority();
        complaining.iter().filter(can_win).map(|&(node, _)| node).collect()
    }

    fn majority(&self) -> usize {
        let members = self.peers.len() + 1;
        members / 2 + 1
    }
}

#[cfg(test)]
#[path = "peer_book_tests.rs"]
mod tests;
