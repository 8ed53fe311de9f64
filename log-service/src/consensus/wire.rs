//! What log nodes say to each other for consensus, as bytes: our own structures through the codec, never openraft's
//! derives; the batches' bytes stand behind them as they stand in the log.
//!
//! * In: store nouns ([`LogEntry`], [`StoredVote`]) and plain numbers. Out: frames' bodies, and back.
//! * Invariant: a batch is never re-encoded; what was received is checked whole before anybody sees it.
//! * Deliberately absent: openraft's types (`network` converts).
//! * Source: docs/formats.md "Consensus messages".

use super::config::RaftTimings;
use crate::store::{EntryBody, EntryId, LogEntry, StoredVote};
use bytes::Bytes;
use duramen_common::PartitionId;
use duramen_common::batch::{BatchError, RecordBatch};
use duramen_common::codec::{self, CodecError};
use duramen_common::protocol::service::PEER_FIRST;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long entries on their way to a follower's disk are waited for.
pub(super) const APPEND_TIMEOUT: Duration = Duration::from_secs(2);

/// Entries for a follower → [`AppendAnswer`].
pub(super) const SERVICE_APPEND_ENTRIES: u8 = PEER_FIRST;
/// [`VoteMessage`] → [`VoteReply`].
pub(super) const SERVICE_VOTE: u8 = PEER_FIRST + 1;
/// As [`SERVICE_VOTE`], asking only.
pub(super) const SERVICE_PRE_VOTE: u8 = PEER_FIRST + 2;
/// [`TransferMessage`] → [`TransferReply`].
pub(super) const SERVICE_TRANSFER_LEADER: u8 = PEER_FIRST + 3;

/// A vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WireVote {
    pub(super) term: u64,
    pub(super) node: u64,
    pub(super) committed: bool,
}

impl From<StoredVote> for WireVote {
    fn from(vote: StoredVote) -> WireVote {
        WireVote { term: vote.term, node: vote.node, committed: vote.committed }
    }
}

impl From<WireVote> for StoredVote {
    fn from(vote: WireVote) -> StoredVote {
        StoredVote { term: vote.term, node: vote.node, committed: vote.committed }
    }
}

/// What an entry holds; `length` bytes of it stand behind the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum WireKind {
    Blank,
    Batch { length: u32 },
    Membership { length: u32 },
}

#[derive(Debug, Serialize, Deserialize)]
struct AppendHead {
    partition: PartitionId,
    vote: WireVote,
    previous: Option<EntryId>,
    committed: Option<EntryId>,
    entries: Vec<(EntryId, WireKind)>,
}

/// Entries for a follower.
#[derive(Debug, PartialEq)]
pub(super) struct AppendMessage {
    pub(super) partition: PartitionId,
    pub(super) vote: WireVote,
    pub(super) previous: Option<EntryId>,
    pub(super) committed: Option<EntryId>,
    pub(super) entries: Vec<LogEntry>,
}

/// What a follower says to entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum AppendReply {
    Success,
    PartialSuccess(Option<EntryId>),
    Conflict,
    HigherVote(WireVote),
    /// Its disk is full: refused before its Raft saw the first of the entries.
    NoRoom,
    /// It has no such group now.
    NotHere {
        reason: String,
    },
    /// Its group did not answer in time: what was asked may be done or not.
    Late,
}

/// A follower's answer to entries or a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AppendAnswer {
    pub(super) reply: AppendReply,
    /// Whether its disk has room for new records.
    pub(super) has_room: bool,
}

/// A question for a vote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VoteMessage {
    pub(super) partition: PartitionId,
    pub(super) vote: WireVote,
    pub(super) last: Option<EntryId>,
    pub(super) leadership_transfer: bool,
}

/// A vote given or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum VoteReply {
    Answer { vote: WireVote, granted: bool, last: Option<EntryId> },
    NotHere { reason: String },
    Late,
}

/// A leader asks a follower to take over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TransferMessage {
    pub(super) partition: PartitionId,
    pub(super) from: WireVote,
    pub(super) to: u64,
    pub(super) last: Option<EntryId>,
}

/// What the follower says to that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum TransferReply {
    Accepted,
    VoteChanged { expected: WireVote, actual: WireVote },
    LogNotFlushed { expected: Option<EntryId>, actual: Option<EntryId> },
    NotHere { reason: String },
    Late,
}

/// What a peer asks a group, decoded and checked.
pub struct PeerMessage(pub(super) Asked);

/// The kinds of [`PeerMessage`].
pub(super) enum Asked {
    Append(AppendMessage),
    Vote(VoteMessage),
    PreVote(VoteMessage),
    Transfer(TransferMessage),
}

impl PeerMessage {
    /// Whether messages to this service are for a group.
    #[must_use]
    pub const fn is_service(service: u8) -> bool {
        matches!(service, SERVICE_APPEND_ENTRIES..=SERVICE_TRANSFER_LEADER)
    }

    /// Whether messages to this service ask for a vote, or whether one would be given.
    #[must_use]
    pub const fn asks_for_vote(service: u8) -> bool {
        matches!(service, SERVICE_VOTE | SERVICE_PRE_VOTE)
    }

    /// Reads a message to one of the services for which [`PeerMessage::is_service`]; the error is for the peer.
    pub fn decode(service: u8, body: &Bytes) -> Result<PeerMessage, String> {
        let asked = match service {
            SERVICE_APPEND_ENTRIES => decode_append(body).map(Asked::Append).map_err(|error| error.to_string()),
            SERVICE_VOTE => codec::decode(body).map(Asked::Vote).map_err(|error| error.to_string()),
            SERVICE_PRE_VOTE => codec::decode(body).map(Asked::PreVote).map_err(|error| error.to_string()),
            _ => codec::decode(body).map(Asked::Transfer).map_err(|error| error.to_string()),
        };
        asked.map(PeerMessage)
    }

    /// The group that is asked.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        match &self.0 {
            Asked::Append(message) => message.partition,
            Asked::Vote(message) | Asked::PreVote(message) => message.partition,
            Asked::Transfer(message) => message.partition,
        }
    }

    /// The service that it is for.
    pub(super) fn service(&self) -> u8 {
        match &self.0 {
            Asked::Append(_) => SERVICE_APPEND_ENTRIES,
            Asked::Vote(_) => SERVICE_VOTE,
            Asked::PreVote(_) => SERVICE_PRE_VOTE,
            Asked::Transfer(_) => SERVICE_TRANSFER_LEADER,
        }
    }

    /// How long its sender waits for an answer, more or less.
    pub(super) fn patience(&self, timings: RaftTimings) -> Duration {
        match &self.0 {
            Asked::Append(message) if message.entries.is_empty() => Duration::from_millis(timings.heartbeat_ms),
            Asked::Append(_) => APPEND_TIMEOUT,
            Asked::Vote(_) | Asked::PreVote(_) | Asked::Transfer(_) => Duration::from_millis(timings.election_ms_min),
        }
    }

    /// What a peer is told when the group it asks has not answered in time.
    pub(super) fn late(service: u8) -> Bytes {
        match service {
            SERVICE_APPEND_ENTRIES => codec::encode(&AppendAnswer { reply: AppendReply::Late, has_room: true }),
            SERVICE_VOTE | SERVICE_PRE_VOTE => codec::encode(&VoteReply::Late),
            _ => codec::encode(&TransferReply::Late),
        }
    }

    /// What a peer is told when the group it asks does not run here.
    #[must_use]
    pub fn not_here(service: u8, reason: String) -> Bytes {
        match service {
            SERVICE_APPEND_ENTRIES => {
                // A node whose groups do not run says nothing about its disk.
                codec::encode(&AppendAnswer { reply: AppendReply::NotHere { reason }, has_room: true })
            }
            SERVICE_VOTE | SERVICE_PRE_VOTE => codec::encode(&VoteReply::NotHere { reason }),
            _ => codec::encode(&TransferReply::NotHere { reason }),
        }
    }
}

/// Why bytes from a peer are not a message.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error("entry {index} from a peer: {damage}")]
    Batch { index: u64, damage: BatchError },
    #[error("entries and the bytes behind them differ in length")]
    Length,
}

/// The message, with all entries' bytes behind it.
pub(super) fn encode_append(message: &AppendMessage) -> Bytes {
    let (entries, payloads): (Vec<_>, Vec<&[u8]>) = message.entries.iter().map(split_entry).unzip();
    let head = AppendHead {
        partition: message.partition,
        vote: message.vote,
        previous: message.previous,
        committed: message.committed,
        entries,
    };
    codec::encode_with_payloads(&head, &payloads)
}

/// The message back, every batch checked.
pub(super) fn decode_append(bytes: &Bytes) -> Result<AppendMessage, WireError> {
    let (head, payload) = codec::decode_with_payload::<AppendHead>(bytes)?;
    Ok(AppendMessage {
        partition: head.partition,
        vote: head.vote,
        previous: head.previous,
        committed: head.committed,
        entries: join_entries(head.entries, &payload)?,
    })
}

/// Entries by themselves, as a peer sends them for a repair.
pub(crate) fn encode_entries(entries: &[LogEntry]) -> Bytes {
    let (heads, payloads): (Vec<_>, Vec<&[u8]>) = entries.iter().map(split_entry).unzip();
    codec::encode_with_payloads(&heads, &payloads)
}

/// Entries back, every batch checked; `None` when they are not entries.
pub(crate) fn decode_entries(bytes: &Bytes) -> Option<Vec<LogEntry>> {
    let (heads, payload) = codec::decode_with_payload::<Vec<(EntryId, WireKind)>>(bytes).ok()?;
    join_entries(heads, &payload).ok()
}

fn split_entry(entry: &LogEntry) -> ((EntryId, WireKind), &[u8]) {
    let (kind, payload): (WireKind, &[u8]) = match &entry.body {
        EntryBody::Blank => (WireKind::Blank, &[]),
        EntryBody::Batch(batch) => (WireKind::Batch { length: length_of(batch.bytes()) }, batch.bytes()),
        EntryBody::Membership(bytes) => (WireKind::Membership { length: length_of(bytes) }, bytes),
    };
    ((entry.id, kind), payload)
}

fn length_of(bytes: &Bytes) -> u32 {
    u32::try_from(bytes.len()).expect("entries are bounded by BATCH_BYTES_MAX")
}

fn join_entries(heads: Vec<(EntryId, WireKind)>, payload: &Bytes) -> Result<Vec<LogEntry>, WireError> {
    let mut at = 0usize;
    let mut take = |length: u32| {
        let end = at.checked_add(length as usize).filter(|&end| end <= payload.len()).ok_or(WireError::Length)?;
        let piece = payload.slice(at..end);
        at = end;
        Ok::<Bytes, WireError>(piece)
    };
    let mut entries = Vec::with_capacity(heads.len());
    for (id, kind) in heads {
        let body = match kind {
            WireKind::Blank => EntryBody::Blank,
            WireKind::Membership { length } => EntryBody::Membership(take(length)?),
            WireKind::Batch { length } => EntryBody::Batch(
                RecordBatch::parse(take(length)?).map_err(|damage| WireError::Batch { index: id.index, damage })?,
            ),
        };
        entries.push(LogEntry { id, body });
    }
    if at == payload.len() { Ok(entries) } else { Err(WireError::Length) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use duramen_common::RequestId;
    use duramen_common::batch::{Record, RecordSet};
    use proptest::prelude::*;

    fn message() -> AppendMessage {
        let set = RecordSet::of(RequestId::from_bits(7), &Record::event(None, Bytes::from_static(b"hello"))).unwrap();
        let entry = |index, body| LogEntry { id: EntryId { term: 3, index }, body };
        AppendMessage {
            partition: PartitionId::new(2),
            vote: WireVote { term: 3, node: 1, committed: true },
            previous: Some(EntryId { term: 2, index: 9 }),
            committed: None,
            entries: vec![
                entry(10, EntryBody::Blank),
                entry(11, EntryBody::Batch(RecordBatch::build(&[set], 1))),
                entry(12, EntryBody::Membership(Bytes::from_static(b"members"))),
            ],
        }
    }

    #[test]
    fn entries_come_out_as_they_went_in() {
        let message = message();
        assert_eq!(decode_append(&encode_append(&message)).unwrap(), message);
        assert_eq!(decode_entries(&encode_entries(&message.entries)).unwrap(), message.entries);
    }

    #[test]
    fn a_damaged_batch_or_a_wrong_length_is_refused() {
        let bytes = encode_append(&message());
        let flipped = bytes.len() - b"members".len() - 1;
        let mut damaged = bytes.to_vec();
        damaged[flipped] ^= 1;
        assert!(matches!(decode_append(&Bytes::from(damaged)), Err(WireError::Batch { index: 11, .. })));
        assert!(matches!(decode_append(&bytes.slice(..bytes.len() - 1)), Err(WireError::Length)));
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert!(matches!(decode_append(&Bytes::from(longer)), Err(WireError::Length)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_decoded(bytes: Vec<u8>) {
            let _ = decode_append(&Bytes::from(bytes));
        }
    }
}
