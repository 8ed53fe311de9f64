//! Test support for the crates above this one: what a peer may send, read and written again.
//!
//! * In: bytes. Out: the bytes of what they were read as, or nothing where they are refused.
//! * Deliberately absent: the messages themselves, which stay inside.

use super::storage::{decode_membership, encode_membership, to_raft, to_stored};
use super::types::Membership;
use super::wire::{
    AppendAnswer, AppendMessage, AppendReply, Asked, PeerMessage, SERVICE_APPEND_ENTRIES, SERVICE_PRE_VOTE,
    SERVICE_TRANSFER_LEADER, SERVICE_VOTE, TransferMessage, TransferReply, VoteMessage, VoteReply, WireVote,
    decode_append, decode_entries, encode_append, encode_entries,
};
use crate::store::{EntryBody, EntryId, LogEntry};
use bytes::Bytes;
use duramen_common::batch::{Record, RecordBatch, RecordSet};
use duramen_common::{PartitionId, RequestId, codec};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;

/// A kind of message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Entries for a follower.
    Append,
    /// A question for a vote.
    Vote,
    /// Whether a vote would be given.
    PreVote,
    /// A leader hands over.
    Transfer,
    /// What a follower says to entries.
    AppendReply,
    /// A vote given or not.
    VoteReply,
    /// What a follower says to a leader that hands over.
    TransferReply,
    /// Entries for a repair.
    Entries,
    /// The members of a group, as they stand in an entry.
    Membership,
}

impl Message {
    /// All of them.
    pub const ALL: [Message; 9] = [
        Message::Append,
        Message::Vote,
        Message::PreVote,
        Message::Transfer,
        Message::AppendReply,
        Message::VoteReply,
        Message::TransferReply,
        Message::Entries,
        Message::Membership,
    ];

    /// Reads bytes as this kind of message, as who receives them does, and writes what was read; `None` where they are refused.
    #[must_use]
    pub fn again(self, bytes: &Bytes) -> Option<Bytes> {
        match self {
            Message::Append => asked(SERVICE_APPEND_ENTRIES, bytes),
            Message::Vote => asked(SERVICE_VOTE, bytes),
            Message::PreVote => asked(SERVICE_PRE_VOTE, bytes),
            Message::Transfer => asked(SERVICE_TRANSFER_LEADER, bytes),
            Message::AppendReply => replied::<AppendAnswer>(bytes),
            Message::VoteReply => replied::<VoteReply>(bytes),
            Message::TransferReply => replied::<TransferReply>(bytes),
            Message::Entries => decode_entries(bytes).map(|entries| encode_entries(&through_raft(entries))),
            Message::Membership => decode_membership(bytes).ok().map(|membership| encode_membership(&membership)),
        }
    }

    /// One of each variant.
    #[must_use]
    pub fn examples(self) -> Vec<Bytes> {
        let partition = PartitionId::new(2);
        let vote = WireVote { term: 3, node: 1, committed: true };
        let last = Some(EntryId { term: 2, index: 9 });
        let reason = || "there is no partition 2 here".to_owned();
        match self {
            Message::Append => {
                let message = |entries| AppendMessage { partition, vote, previous: last, committed: None, entries };
                vec![encode_append(&message(entries())), encode_append(&message(Vec::new()))]
            }
            Message::Vote | Message::PreVote => {
                vec![codec::encode(&VoteMessage { partition, vote, last, leadership_transfer: false })]
            }
            Message::Transfer => vec![codec::encode(&TransferMessage { partition, from: vote, to: 2, last })],
            Message::AppendReply => {
                let replies = [
                    AppendReply::Success,
                    AppendReply::PartialSuccess(last),
                    AppendReply::Conflict,
                    AppendReply::HigherVote(vote),
                    AppendReply::NoRoom,
                    AppendReply::NotHere { reason: reason() },
                    AppendReply::Late,
                ];
                let answer = |(reply, has_room)| codec::encode(&AppendAnswer { reply, has_room });
                replies.into_iter().zip([true, false].into_iter().cycle()).map(answer).collect()
            }
            Message::VoteReply => {
                let answer = VoteReply::Answer { vote, granted: true, last };
                let replies = [answer, VoteReply::NotHere { reason: reason() }, VoteReply::Late];
                replies.iter().map(codec::encode).collect()
            }
            Message::TransferReply => {
                let replies = [
                    TransferReply::Accepted,
                    TransferReply::VoteChanged { expected: vote, actual: vote },
                    TransferReply::LogNotFlushed { expected: last, actual: None },
                    TransferReply::NotHere { reason: reason() },
                    TransferReply::Late,
                ];
                replies.iter().map(codec::encode).collect()
            }
            Message::Entries => vec![encode_entries(&entries()), encode_entries(&[])],
            Message::Membership => vec![members(), encode_membership(&Membership::default())],
        }
    }
}

fn asked(service: u8, bytes: &Bytes) -> Option<Bytes> {
    let message = PeerMessage::decode(service, bytes).ok()?;
    let partition = message.partition();
    let (again, named) = match message.0 {
        Asked::Append(message) => {
            let message = AppendMessage { entries: through_raft(message.entries), ..message };
            let again = encode_append(&message);
            assert_eq!(
                decode_append(&again).ok(),
                Some(AppendMessage { ..message }),
                "what was written reads the same"
            );
            (again, message.partition)
        }
        Asked::Vote(message) | Asked::PreVote(message) => (codec::encode(&message), message.partition),
        Asked::Transfer(message) => (codec::encode(&message), message.partition),
    };
    assert_eq!(partition, named);
    Some(again)
}

fn replied<T: Serialize + DeserializeOwned>(bytes: &Bytes) -> Option<Bytes> {
    codec::decode::<T>(bytes).ok().map(|message| codec::encode(&message))
}

/// The entries as a follower gives them to openraft, and back; those that it refuses stay as they are.
fn through_raft(entries: Vec<LogEntry>) -> Vec<LogEntry> {
    let one = |entry: LogEntry| to_raft(entry.clone()).map_or(entry, to_stored);
    entries.into_iter().map(one).collect()
}

fn entries() -> Vec<LogEntry> {
    let record = Record::event(None, Bytes::from_static(b"hello"));
    let set = RecordSet::of(RequestId::from_bits(7), &record).expect("a small record");
    let bodies = [EntryBody::Blank, EntryBody::Batch(RecordBatch::build(&[set], 1)), EntryBody::Membership(members())];
    let entry = |(body, index)| LogEntry { id: EntryId { term: 3, index }, body };
    bodies.into_iter().zip(10..).map(entry).collect()
}

fn members() -> Bytes {
    let voters: BTreeSet<u64> = [1, 2, 3].into();
    codec::encode(&(vec![voters], vec![1u64, 2, 3]))
}
