//! Group: one partition's Raft on this node, as the rest of the node sees it.
//!
//! * In: record batches with the term that their ids were checked in; tail questions; peers' messages. Out: where a batch
//!   stands once it is committed and applied; committed ends; who leads; why it stopped.
//! * Invariant: a batch is appended only in the term that it was checked in (`with_leader`). After any answer but
//!   [`ProposeFailure::NotLeader`] it may be in the log.
//! * Invariant: a tail answer comes from a ReadIndex round, and only after its log id is applied here. The round's log
//!   id itself may be an uncommitted blank of a new leader.
//! * Deliberately absent: LeaseRead (it trusts clocks), membership changes.
//! * Source: DESIGN D1, D9.

use super::config::{RaftTimings, raft_config};
use super::network::{self, Answering, Network, RoomTold};
use super::offers::Offers;
use super::peers_room::PeersRoom;
use super::runtime::seeded;
use super::standing::{Heard, Standing};
use super::state_machine::StateMachine;
use super::storage::LogStore;
use super::types::{Appended, LogBatch, Raft, TypeConfig, entry_id};
use super::wire::PeerMessage;
use crate::store::{Need, PartitionLog};
use bytes::Bytes;
use duramen_common::batch::RecordBatch;
use duramen_common::planted::{Plant, is_planted};
use duramen_common::seams::Entropy;
use duramen_common::{NodeId, Offset, PartitionId};
use duramen_transport::{Peer, Transport};
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::error::{ClientWriteError, InitializeError, LinearizableReadError, RaftError};
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use openraft::{EmptyNode, Instant as _, ReadPolicy, ServerState};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Who leads a partition, as this node knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leading {
    /// This node leads in this term.
    Here {
        /// The term.
        term: u64,
    },
    /// Another node leads, or nobody.
    Elsewhere {
        /// Who, when known.
        leader: Option<NodeId>,
    },
}

/// Why a proposal has no offset.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeFailure {
    /// Refused before anything was appended.
    #[error("this node does not lead")]
    NotLeader {
        /// Who leads, when known.
        leader: Option<NodeId>,
    },
    /// It may or may not be appended.
    #[error("{reason}")]
    Unknown {
        /// Why.
        reason: String,
    },
}

/// Why a tail question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadIndexFailure {
    /// This node does not lead.
    #[error("this node does not lead")]
    NotLeader {
        /// Who leads, when known.
        leader: Option<NodeId>,
    },
    /// No majority confirmed it.
    #[error("{reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

/// Why a group did not start or stopped: one clear line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("partition {partition}: {reason}")]
pub struct GroupFailure {
    /// Which group.
    pub partition: PartitionId,
    /// Why.
    pub reason: String,
}

/// What a group needs.
pub struct GroupParts {
    /// This node.
    pub node: NodeId,
    /// Its partition.
    pub partition: PartitionId,
    /// Its log, open.
    pub log: PartitionLog,
    /// Its state machine over the same log.
    pub state_machine: StateMachine,
    /// Calls the other members.
    pub transport: Arc<dyn Transport>,
    /// Where every member is.
    pub peers: Arc<BTreeMap<NodeId, Peer>>,
    /// What the other members say about their disks.
    pub peers_room: Arc<PeersRoom>,
    /// When leaders are missed.
    pub timings: RaftTimings,
    /// Where its chance comes from: election timeouts.
    pub entropy: Arc<dyn Entropy>,
}

/// A running group.
pub struct Group {
    partition: PartitionId,
    raft: Raft,
    log: PartitionLog,
    leading: watch::Receiver<Leading>,
    heard: Heard,
    offers: Offers,
    room_told: RoomTold,
    timings: RaftTimings,
    failure: watch::Receiver<Option<GroupFailure>>,
    watcher: JoinHandle<()>,
}

/// Waits for the outcome of one proposal.
pub struct Proposal(tokio::sync::oneshot::Receiver<ClientWriteResult<TypeConfig>>);

impl Proposal {
    /// Where the batch stands, once it is committed and applied here.
    pub async fn outcome(self) -> Result<Appended, ProposeFailure> {
        match self.0.await {
            Ok(Ok(written)) => Ok(written.data),
            Ok(Err(ClientWriteError::ForwardToLeader(forward))) => {
                Err(ProposeFailure::NotLeader { leader: forward.leader_id.map(NodeId::new) })
            }
            Ok(Err(error)) => Err(ProposeFailure::Unknown { reason: error.to_string() }),
            Err(_) => Err(ProposeFailure::Unknown { reason: "the group stopped".to_owned() }),
        }
    }
}

impl Group {
    /// Starts the group on its log. It takes part in elections only if it has a membership.
    pub async fn start(parts: GroupParts) -> Result<Group, GroupFailure> {
        let partition = parts.partition;
        let failed = |reason: String| GroupFailure { partition, reason };
        let config = raft_config(&format!("p{partition}"), parts.timings).map_err(failed)?;
        let network = Network { partition, transport: parts.transport, peers: parts.peers, room: parts.peers_room };
        let storage = LogStore::new(parts.log.clone());
        let node = parts.node;
        let seed = parts.entropy.bits() as u64;
        let raft = Raft::new(node.get(), Arc::new(config), network, storage, parts.state_machine);
        let raft = seeded(seed, raft).await.map_err(|error| failed(error.to_string()))?;
        let (leading_out, leading) = watch::channel(Leading::Elsewhere { leader: None });
        let (failure_out, failure) = watch::channel(None);
        let watcher = tokio::spawn(watch_group(raft.clone(), node, partition, leading_out, failure_out));
        Ok(Group {
            partition,
            raft,
            log: parts.log,
            leading,
            heard: Heard::default(),
            offers: Offers::default(),
            room_told: RoomTold::default(),
            timings: parts.timings,
            failure,
            watcher,
        })
    }

    /// Gives a group that has never had a membership its first one: this cluster's nodes. Harmless on any other; every
    /// node may do it, because all give the same.
    pub async fn initialize(&self, members: impl IntoIterator<Item = NodeId>) -> Result<(), GroupFailure> {
        let members: BTreeMap<u64, EmptyNode> = members.into_iter().map(|node| (node.get(), EmptyNode {})).collect();
        match self.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(GroupFailure { partition: self.partition, reason: error.to_string() }),
        }
    }

    /// Its partition.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// Who leads, as it changes.
    #[must_use]
    pub fn leading(&self) -> watch::Receiver<Leading> {
        self.leading.clone()
    }

    /// What is known now: a leader counts only when it was confirmed not longer ago than `within`.
    #[must_use]
    pub fn standing(&self, within: Duration) -> Standing {
        match *self.leading.borrow() {
            Leading::Here { .. } if self.has_majority(within) => Standing::LeadsHere,
            Leading::Here { .. } => Standing::WithoutMajority,
            Leading::Elsewhere { leader: Some(leader) } if self.heard.is_of(leader, within) => {
                Standing::Follows { leader }
            }
            Leading::Elsewhere { .. } => Standing::Unknown,
        }
    }

    /// Whether a majority has answered this leader not longer ago than `within`, and has taken an entry of its term: before that it
    /// can confirm no read, and nothing that it appends is committed.
    fn has_majority(&self, within: Duration) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let committed = metrics.local_committed.as_ref().map(entry_id);
        if committed.is_none_or(|committed| committed.term != metrics.vote.leader_id.term) {
            return false;
        }
        let is_alone = metrics.membership_config.membership().voter_ids().count() == 1;
        is_alone || metrics.last_quorum_acked.is_some_and(|acked| acked.elapsed() <= within)
    }

    /// Why the group stopped, when it did by itself.
    #[must_use]
    pub fn failure(&self) -> watch::Receiver<Option<GroupFailure>> {
        self.failure.clone()
    }

    /// Hands a batch to the log, to be appended in this term or not at all. Returns as soon as the group has it, so
    /// that several can be under way, in order.
    pub async fn propose(&self, batch: RecordBatch, term: u64) -> Result<Proposal, ProposeFailure> {
        let (responder, outcome) = ProgressResponder::complete_only();
        let write = self.raft.write(LogBatch(batch)).responder(responder);
        let write = if is_planted(Plant::TermNotChecked) { write } else { write.with_leader(term) };
        match write.await {
            Ok(()) => Ok(Proposal(outcome)),
            Err(error) => Err(ProposeFailure::Unknown { reason: error.to_string() }),
        }
    }

    /// An end that covers every append acknowledged before this call; only the leader knows.
    pub async fn read_index(&self) -> Result<Offset, ReadIndexFailure> {
        if is_planted(Plant::ReadIndexSkipped) {
            return Ok(self.log.ends().committed_end);
        }
        let read = match self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(read) => read,
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                return Err(ReadIndexFailure::NotLeader { leader: forward.leader_id.map(NodeId::new) });
            }
            Err(error) => return Err(ReadIndexFailure::Unavailable { reason: error.to_string() }),
        };
        // The entry is applied, hence committed, and so is everything before it. The published committed end may still
        // be behind: it waits for this node's own disk.
        match self.log.offset_of_index(read.index()) {
            Ok(Some((first_offset, count))) => Ok(first_offset.plus(u64::from(count))),
            Ok(None) => Err(ReadIndexFailure::Unavailable { reason: format!("entry {} is gone", read.index()) }),
            Err(error) => Err(ReadIndexFailure::Unavailable { reason: error.to_string() }),
        }
    }

    /// Offers the leader's place to another member, if that has everything; it may not come to that. From then on this node neither
    /// appends nor answers until somebody leads in a later term, or until the offer has been out for too long (`Offers`).
    pub async fn transfer_leader(&self, to: NodeId) -> bool {
        let Leading::Here { term } = *self.leading.borrow() else { return false };
        if !self.offers.may_go_to(to) {
            tracing::debug!(partition = %self.partition, %to, "leadership is not offered to a member that did not take it lately");
            return false;
        }
        let has_everything = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let matched = metrics.replication.as_ref().and_then(|members| members.get(&to.get()).copied().flatten());
            matched.map(|id| id.index()) == metrics.last_log_index
        };
        if !has_everything {
            tracing::debug!(partition = %self.partition, %to, "leadership is not handed over to a member that is behind");
            return false;
        }
        match self.raft.trigger().transfer_leader(to.get()).await {
            Ok(()) => {
                self.offers.made(&self.raft, &self.log, self.partition, term, to);
                true
            }
            Err(error) => {
                tracing::debug!(partition = %self.partition, %to, %error, "leadership was not handed over");
                false
            }
        }
    }

    /// Answers a peer. `has_room` is asked before records are taken. A group that waits for its disk is not waited for longer than the
    /// peer waits: otherwise its heartbeats would take all requests that may be under way between the two nodes.
    pub async fn answer(&self, message: PeerMessage, has_room: impl Fn(Need) -> bool) -> Bytes {
        let (service, patience) = (message.service(), message.patience(self.timings));
        let answering = Answering { raft: &self.raft, log: &self.log, heard: &self.heard, room_told: &self.room_told };
        match timeout(patience, network::answer(answering, message, has_room)).await {
            Ok(answer) => answer,
            Err(_) => PeerMessage::late(service),
        }
    }

    /// Stops taking part. Proposals under way are answered as unknown.
    pub async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(partition = %self.partition, ?error, "the group ended badly");
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.watcher.abort();
        self.offers.stop();
    }
}

#[cfg(test)]
#[path = "group_tests.rs"]
mod tests;

/// Tells who leads, and in the end why the group stopped.
async fn watch_group(
    raft: Raft,
    node: NodeId,
    partition: PartitionId,
    leading: watch::Sender<Leading>,
    failure: watch::Sender<Option<GroupFailure>>,
) {
    let mut server = raft.server_metrics();
    loop {
        let now = {
            let metrics = server.borrow_watched();
            match metrics.current_leader {
                Some(leader) if leader == node.get() && metrics.state == ServerState::Leader => {
                    Leading::Here { term: metrics.vote.leader_id.term }
                }
                Some(leader) if leader != node.get() => Leading::Elsewhere { leader: Some(NodeId::new(leader)) },
                _ => Leading::Elsewhere { leader: None },
            }
        };
        leading.send_if_modified(|before| std::mem::replace(before, now) != now);
        if server.changed().await.is_err() {
            break;
        }
    }
    leading.send_replace(Leading::Elsewhere { leader: None });
    let reason = match &raft.metrics().borrow_watched().running_state {
        Err(openraft::error::Fatal::Stopped) | Ok(()) => return,
        Err(error) => error.to_string(),
    };
    failure.send_replace(Some(GroupFailure { partition, reason }));
}
