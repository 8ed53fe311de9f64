//! Consensus between nodes: `RaftNetworkV2` over a [`Transport`], and the answering side.
//!
//! * Out: openraft's requests as `wire` messages to the node that must answer (`Peer::node`). In: a peer's message, its
//!   answer from this node's group.
//! * A data request is waited for longer than a heartbeat: it covers a follower's sync. Heartbeats have workers of
//!   their own in openraft, so that a slow disk is not taken for a dead leader.
//! * A full follower refuses records here, before its openraft sees them; what has no records, what it holds already, and what must
//!   come before the leader's own entries it takes (`admitted`). Each answer says whether it has room for new ones.
//! * Deliberately absent: snapshots (nothing is purged yet, so that openraft never sends one); pipelining.
//! * Source: DESIGN D1, D2, D10.

use super::peers_room::PeersRoom;
use super::standing::Heard;
use super::state_machine::Manifest;
use super::storage::{to_raft, to_stored};
use super::types::{LogId, Raft, TypeConfig, Vote, entry_id, log_id, raft_vote, stored_vote};
use super::wire::{
    self, APPEND_TIMEOUT, AppendAnswer, AppendMessage, AppendReply, Asked, PeerMessage, SERVICE_APPEND_ENTRIES,
    SERVICE_PRE_VOTE, SERVICE_TRANSFER_LEADER, SERVICE_VOTE, TransferMessage, TransferReply, VoteMessage, VoteReply,
    WireVote,
};
use crate::store::{EntryBody, EntryId, LogEntry, Need, PartitionLog};
use bytes::Bytes;
use duramen_common::planted::{Plant, is_planted};
use duramen_common::{NodeId, PartitionId, codec};
use duramen_transport::{CallError, Peer, Transport};
use openraft::alias::SnapshotOf;
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// For how long a follower whose disk has become full still takes what its leader has in flight. The leader learns it from the next
/// answer.
pub(super) const IN_FLIGHT_FOR: Duration = Duration::from_secs(2);
/// Answers to heartbeats say what was known of the disk not longer ago than this. Reads cost heartbeats, thousands a second, and each
/// look at the disk costs a call of the system.
const LOOKED_WITHIN: Duration = Duration::from_millis(100);

/// Finds the other members of a group.
pub(super) struct Network {
    pub(super) partition: PartitionId,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) peers: Arc<BTreeMap<NodeId, Peer>>,
    pub(super) room: Arc<PeersRoom>,
}

/// The way to one member.
pub(super) struct PeerNetwork {
    partition: PartitionId,
    transport: Arc<dyn Transport>,
    peer: Peer,
    node: NodeId,
    room: Arc<PeersRoom>,
    /// The term in which it refused records last, as far as no later answer was another one.
    refused_in: Option<u64>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = PeerNetwork;

    async fn new_client(&mut self, target: u64, _node: &openraft::EmptyNode) -> PeerNetwork {
        let node = NodeId::new(target);
        let unknown = Peer { addr: format!("node {node}, which is not configured"), node: Some(node) };
        let peer = self.peers.get(&node).cloned().unwrap_or(unknown);
        let (transport, room) = (Arc::clone(&self.transport), Arc::clone(&self.room));
        PeerNetwork { partition: self.partition, transport, peer, node, room, refused_in: None }
    }
}

type Rpc<T> = Result<T, RPCError<TypeConfig>>;

impl PeerNetwork {
    async fn call<A: DeserializeOwned>(&self, service: u8, body: Bytes, timeout: Duration) -> Rpc<A> {
        let answer = self.transport.call(&self.peer, service, body, timeout).await.map_err(rpc_error)?;
        codec::decode(&answer).map_err(|error| RPCError::Network(NetworkError::new(&error)))
    }

    /// Sends entries or a heartbeat, and notes what the answer says about the member's disk.
    async fn ask_to_append(&self, body: Bytes, timeout: Duration) -> Rpc<AppendReply> {
        match self.call::<AppendAnswer>(SERVICE_APPEND_ENTRIES, body, timeout).await {
            Ok(answer) => {
                match answer.reply {
                    // A node whose group does not run, or is held up, takes no records.
                    AppendReply::NotHere { .. } | AppendReply::Late => self.room.is_silent(self.node),
                    _ => self.room.answered(self.node, answer.has_room),
                }
                Ok(answer.reply)
            }
            Err(error) => {
                self.room.is_silent(self.node);
                Err(error)
            }
        }
    }

    /// Leaves out what a full member would refuse again: it would be sent again and again for as long as the disk is full. Returns the
    /// last entry that is left, if any was left out.
    fn cut_what_is_refused(&self, entries: &mut Vec<LogEntry>, term: u64) -> Rpc<Option<EntryId>> {
        if self.refused_in != Some(term) || self.partition.is_meta() || !self.room.is_full(self.node) {
            return Ok(None);
        }
        let is_refused = |entry: &LogEntry| entry.id.term == term && is_batch(entry);
        let Some(count) = entries.iter().position(is_refused) else { return Ok(None) };
        entries.truncate(count);
        match entries.last() {
            Some(last) => Ok(Some(last.id)),
            None => Err(unreachable("its disk is full")),
        }
    }

    async fn ask_for_vote(
        &self,
        service: u8,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        let message = VoteMessage {
            partition: self.partition,
            vote: wire_vote(&rpc.vote),
            last: wire_id(rpc.last_log_id.as_ref()),
            leadership_transfer: rpc.leadership_transfer,
        };
        match self.call(service, codec::encode(&message), option.hard_ttl()).await? {
            VoteReply::Answer { vote, granted, last } => {
                Ok(VoteResponse::new(raft_vote(vote.into()), last.map(log_id), granted))
            }
            VoteReply::NotHere { reason } => Err(unreachable(&reason)),
            VoteReply::Late => Err(late()),
        }
    }
}

impl RaftNetworkV2<TypeConfig> for PeerNetwork {
    type SnapshotData = Manifest;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        let is_heartbeat = rpc.entries.is_empty();
        let term = rpc.vote.leader_id.term;
        let mut entries: Vec<LogEntry> = rpc.entries.into_iter().map(to_stored).collect();
        let cut_after = self.cut_what_is_refused(&mut entries, term)?;
        let timeout = if is_heartbeat { option.hard_ttl() } else { APPEND_TIMEOUT.max(option.hard_ttl()) };
        let body = wire::encode_append(&AppendMessage {
            partition: self.partition,
            vote: wire_vote(&rpc.vote),
            previous: wire_id(rpc.prev_log_id.as_ref()),
            committed: wire_id(rpc.leader_commit.as_ref()),
            entries,
        });
        let reply = if is_planted(Plant::AckBeforeMajority) && !is_heartbeat {
            let patience = Duration::from_millis(20);
            self.ask_to_append(body, patience).await.unwrap_or(AppendReply::Success)
        } else {
            self.ask_to_append(body, timeout).await?
        };
        self.refused_in = matches!(reply, AppendReply::NoRoom).then_some(term);
        match reply {
            AppendReply::Success if cut_after.is_some() => {
                Ok(AppendEntriesResponse::PartialSuccess(cut_after.map(log_id)))
            }
            AppendReply::Success => Ok(AppendEntriesResponse::Success),
            AppendReply::PartialSuccess(id) => Ok(AppendEntriesResponse::PartialSuccess(id.map(log_id))),
            AppendReply::Conflict => Ok(AppendEntriesResponse::Conflict),
            AppendReply::HigherVote(vote) => Ok(AppendEntriesResponse::HigherVote(raft_vote(vote.into()))),
            AppendReply::NoRoom => Err(unreachable("its disk is full")),
            AppendReply::NotHere { reason } => Err(unreachable(&reason)),
            AppendReply::Late => Err(late()),
        }
    }

    async fn vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        self.ask_for_vote(SERVICE_VOTE, rpc, option).await
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        self.ask_for_vote(SERVICE_PRE_VOTE, rpc, option).await
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: SnapshotOf<TypeConfig, Manifest>,
        _cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let reason = Refusal("logs are not purged, and so no snapshot is ever due".to_owned());
        Err(StreamingError::Unreachable(Unreachable::new(&reason)))
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        let message = TransferMessage {
            partition: self.partition,
            from: wire_vote(rpc.from_leader()),
            to: *rpc.to_node_id(),
            last: wire_id(rpc.last_log_id()),
        };
        match self.call(SERVICE_TRANSFER_LEADER, codec::encode(&message), option.hard_ttl()).await? {
            TransferReply::Accepted => Ok(Ok(())),
            TransferReply::VoteChanged { expected, actual } => Ok(Err(TransferLeaderError::VoteChanged {
                expected: raft_vote(expected.into()),
                actual: raft_vote(actual.into()),
            })),
            TransferReply::LogNotFlushed { expected, actual } => Ok(Err(TransferLeaderError::LogNotFlushed {
                expected: expected.map(log_id),
                actual: actual.map(log_id),
            })),
            TransferReply::NotHere { reason } => Err(unreachable(&reason)),
            TransferReply::Late => Err(late()),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

/// The peer cannot do it now: openraft backs off.
fn unreachable(reason: &str) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(&Refusal(reason.to_owned())))
}

/// Whether the peer has done it is not known, as after a call that was lost.
fn late() -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::new(&Refusal("its group did not answer in time".to_owned())))
}

fn rpc_error(error: CallError) -> RPCError<TypeConfig> {
    if error.is_definite() {
        RPCError::Unreachable(Unreachable::new(&error))
    } else {
        RPCError::Network(NetworkError::new(&error))
    }
}

fn wire_vote(vote: &Vote) -> WireVote {
    stored_vote(vote).into()
}

fn wire_id(id: Option<&LogId>) -> Option<EntryId> {
    id.map(entry_id)
}

/// What leaders are told, in one group, about room on this node's disk for new records.
#[derive(Default)]
pub(super) struct RoomTold(Mutex<Told>);

#[derive(Default)]
struct Told {
    /// When the disk was looked at last, and whether it had room.
    looked: Option<(Instant, bool)>,
    /// Who is told that there is no room, and since when.
    full_since: Option<(WireVote, Instant)>,
}

impl RoomTold {
    /// Whether there was room a moment ago, if that is known.
    fn lately(&self) -> Option<bool> {
        self.0.lock().looked.filter(|(at, _)| at.elapsed() < LOOKED_WITHIN).map(|(_, new_fits)| new_fits)
    }

    /// Looks at the disk, and notes what this leader is told now: whether there is room, and whether what it sends may have been on
    /// its way before it could know that there is none. Of two looks at the same time the one that began later counts.
    fn tell(&self, leader: WireVote, look: impl FnOnce() -> bool) -> (bool, bool) {
        let began = Instant::now();
        let seen = (began, look());
        let mut told = self.0.lock();
        let (at, new_fits) = told.looked.filter(|(at, _)| *at > began).unwrap_or(seen);
        told.looked = Some((at, new_fits));
        told.full_since = match told.full_since {
            _ if new_fits => None,
            Some((told, at)) if told == leader => Some((told, at)),
            _ => Some((leader, began)),
        };
        (new_fits, told.full_since.is_none_or(|(_, at)| at.elapsed() < IN_FLIGHT_FOR))
    }
}

/// The parts of a group that answer its peers.
pub(super) struct Answering<'a> {
    pub(super) raft: &'a Raft,
    pub(super) log: &'a PartitionLog,
    /// A leader whose message was accepted is noted here.
    pub(super) heard: &'a Heard,
    pub(super) room_told: &'a RoomTold,
}

/// Answers a peer's message at its group. `has_room` is asked where records come, and now and then for what is said
/// about this node's disk.
pub(super) async fn answer(group: Answering<'_>, message: PeerMessage, has_room: impl Fn(Need) -> bool) -> Bytes {
    let raft = group.raft;
    match message.0 {
        Asked::Append(message) => {
            let lately = if has_records(&message.entries) { None } else { group.room_told.lately() };
            let (new_fits, is_recent) = match lately {
                Some(new_fits) => (new_fits, false),
                None => group.room_told.tell(message.vote, || has_room(Need::New)),
            };
            let asked = |need| match need {
                Need::New => new_fits,
                Need::InFlight => is_recent && has_room(need),
                Need::Admitted => has_room(need),
            };
            let leader = NodeId::new(message.vote.node);
            let reply = answer_append(raft, group.log, message, asked).await;
            if matches!(reply, AppendReply::Success | AppendReply::PartialSuccess(_) | AppendReply::Conflict) {
                group.heard.note(leader);
            }
            codec::encode(&AppendAnswer { reply, has_room: new_fits })
        }
        Asked::Vote(message) => codec::encode(&answer_vote(raft, message, false).await),
        Asked::PreVote(message) => codec::encode(&answer_vote(raft, message, true).await),
        Asked::Transfer(message) => codec::encode(&answer_transfer(raft, message).await),
    }
}

fn is_batch(entry: &LogEntry) -> bool {
    matches!(entry.body, EntryBody::Batch(_))
}

fn has_records(entries: &[LogEntry]) -> bool {
    entries.iter().any(is_batch)
}

/// How many of the entries this node takes, from the first on. Entries without records and entries that it holds already need no
/// room. Records of an earlier term come before what the leader says in its own: without them no leader could ever be confirmed, and
/// earlier leaders left only what was admitted before disks were full. Records of this term are taken for a moment after the leader
/// was first told that the disk is full: they were on their way, and would be in the way of the next leader.
fn admitted(message: &AppendMessage, log: &PartitionLog, has_room: impl Fn(Need) -> bool) -> usize {
    if !has_records(&message.entries) || has_room(Need::New) {
        return message.entries.len();
    }
    let (takes_admitted, takes_in_flight) = (has_room(Need::Admitted), has_room(Need::InFlight));
    let is_admitted = |entry: &LogEntry| entry.id.term < message.vote.term || message.partition.is_meta();
    let is_taken = |entry: &LogEntry| if is_admitted(entry) { takes_admitted } else { takes_in_flight };
    let is_refused = |entry: &LogEntry| is_batch(entry) && !is_taken(entry) && !log.holds(entry.id);
    message.entries.iter().position(is_refused).unwrap_or(message.entries.len())
}

async fn answer_append(
    raft: &Raft,
    log: &PartitionLog,
    mut message: AppendMessage,
    has_room: impl Fn(Need) -> bool,
) -> AppendReply {
    let count = admitted(&message, log, has_room);
    let is_cut = count < message.entries.len();
    if is_cut && count == 0 {
        return AppendReply::NoRoom;
    }
    message.entries.truncate(count);
    let last = message.entries.last().map(|entry| entry.id);
    let entries: Result<Vec<_>, _> = message.entries.into_iter().map(to_raft).collect();
    let entries = match entries {
        Ok(entries) => entries,
        Err(error) => return AppendReply::NotHere { reason: error.to_string() },
    };
    let request = AppendEntriesRequest {
        vote: raft_vote(message.vote.into()),
        prev_log_id: message.previous.map(log_id),
        entries,
        leader_commit: message.committed.map(log_id),
    };
    match raft.append_entries(request).await {
        Ok(AppendEntriesResponse::Success) if is_cut => AppendReply::PartialSuccess(last),
        Ok(AppendEntriesResponse::Success) => AppendReply::Success,
        Ok(AppendEntriesResponse::PartialSuccess(id)) => AppendReply::PartialSuccess(wire_id(id.as_ref())),
        Ok(AppendEntriesResponse::Conflict) => AppendReply::Conflict,
        Ok(AppendEntriesResponse::HigherVote(vote)) => AppendReply::HigherVote(wire_vote(&vote)),
        Err(error) => AppendReply::NotHere { reason: error.to_string() },
    }
}

async fn answer_vote(raft: &Raft, message: VoteMessage, only_asking: bool) -> VoteReply {
    let mut request = VoteRequest::new(raft_vote(message.vote.into()), message.last.map(log_id));
    request.leadership_transfer = message.leadership_transfer;
    let answer = if only_asking { raft.pre_vote(request).await } else { raft.vote(request).await };
    match answer {
        Ok(answer) => VoteReply::Answer {
            vote: wire_vote(&answer.vote),
            granted: answer.vote_granted,
            last: wire_id(answer.last_log_id.as_ref()),
        },
        Err(error) => VoteReply::NotHere { reason: error.to_string() },
    }
}

async fn answer_transfer(raft: &Raft, message: TransferMessage) -> TransferReply {
    let request = TransferLeaderRequest::new(raft_vote(message.from.into()), message.to, message.last.map(log_id));
    match raft.handle_transfer_leader(request).await {
        Ok(Ok(())) => TransferReply::Accepted,
        Ok(Err(TransferLeaderError::VoteChanged { expected, actual })) => {
            TransferReply::VoteChanged { expected: wire_vote(&expected), actual: wire_vote(&actual) }
        }
        Ok(Err(TransferLeaderError::LogNotFlushed { expected, actual })) => {
            TransferReply::LogNotFlushed { expected: wire_id(expected.as_ref()), actual: wire_id(actual.as_ref()) }
        }
        Err(error) => TransferReply::NotHere { reason: error.to_string() },
    }
}
