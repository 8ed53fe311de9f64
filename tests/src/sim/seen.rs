//! What was seen from outside, as the invariants judge it: one value each time a client was told something.
//!
//! * Deliberately absent: who notes it (`witness`), what must hold of it (`invariants`).

use bytes::Bytes;
use duramen_common::batch::{Guard, Update};
use duramen_common::protocol::BatchId;
use duramen_common::{Offset, PartitionId, RequestId, SessionToken, Timestamp};
use std::collections::BTreeMap;

/// Positions: first offset not covered, by partition.
pub type Ends = BTreeMap<PartitionId, Offset>;

/// How a write that was answered turned out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is in force.
    Effective,
    /// A guard did not hold.
    NoEffect,
}

/// A record that the cluster has answered for.
#[derive(Clone, Debug)]
pub struct Written {
    /// Which client.
    pub client: u64,
    /// Its place; none where the answer does not name it (412 names the position served).
    pub place: Option<Timestamp>,
    /// What its client had seen of the partition once it was answered: its place is not behind that.
    pub seen: Option<Timestamp>,
    /// The record's id, where the client knows it.
    pub id: Option<RequestId>,
    /// On what it depends.
    pub guards: Vec<Guard>,
    /// The record's updates, in order.
    pub updates: Vec<Update>,
    /// What it did.
    pub effect: Effect,
    /// What anybody knew before it began.
    pub known: Ends,
}

/// How a read was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// `?consistency=linearizable`, perhaps with a token.
    Linearizable,
    /// With a token only.
    Session,
    /// `?consistency=stale`.
    Stale,
}

/// A read that was answered.
#[derive(Clone, Debug)]
pub struct Read {
    /// Which client.
    pub client: u64,
    /// The host that answered.
    pub node: String,
    /// How it was asked for.
    pub consistency: Consistency,
    /// The token that it carried.
    pub token: Option<SessionToken>,
    /// Where the key lives.
    pub partition: PartitionId,
    /// The key.
    pub key: Bytes,
    /// Version and value, or none.
    pub found: Option<(Offset, Bytes)>,
    /// The position that it was served at.
    pub served_end: Offset,
    /// What anybody knew before it began.
    pub known: Ends,
}

/// A page of a scan that was answered.
#[derive(Clone, Debug)]
pub struct Page {
    /// Which client.
    pub client: u64,
    /// The host that answered.
    pub node: String,
    /// How it was asked for.
    pub consistency: Consistency,
    /// The token that it carried, that of its cursor included.
    pub token: Option<SessionToken>,
    /// Keys of the scan: this one is the first; none from the beginning on.
    pub start: Bytes,
    /// The page begins behind this key, which ended the page before.
    pub after: Option<Bytes>,
    /// Most items that it may have.
    pub limit: usize,
    /// Key, version and value, in the order of the page.
    pub items: Vec<(Bytes, Timestamp, Bytes)>,
    /// Whether it says that there may be more.
    pub has_more: bool,
    /// The position that it was served at, for each partition.
    pub ends: Ends,
    /// What anybody knew before it began.
    pub known: Ends,
}

/// A digest of a partition's state on a serving node.
#[derive(Clone, Debug)]
pub struct Digest {
    /// The host that answered.
    pub node: String,
    /// Which partition.
    pub partition: PartitionId,
    /// Of the state after every record below this.
    pub applied_end: Offset,
    /// The digest, as it was told.
    pub digest: String,
    /// The token that it carried.
    pub token: Option<SessionToken>,
}

/// Records that were acknowledged by the log itself.
#[derive(Clone, Debug)]
pub struct Appended {
    /// Who appended.
    pub client: u64,
    /// Where to.
    pub partition: PartitionId,
    /// Id, content in one number, and offset of each record, in order.
    pub records: Vec<(RequestId, u64, Offset)>,
    /// What anybody knew before it began.
    pub known: Ends,
}

/// Batches that the log gave as committed.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Who fetched.
    pub client: u64,
    /// From where.
    pub partition: PartitionId,
    /// From which offset on.
    pub from: Offset,
    /// The batches, each with its name.
    pub batches: Vec<(BatchId, Bytes)>,
    /// Where to go on.
    pub next_offset: Offset,
}

/// Something that was seen from outside.
#[derive(Clone, Debug)]
pub enum Seen {
    /// A write was answered.
    Write(Written),
    /// A read was answered.
    Read(Read),
    /// A page of a scan was answered.
    Page(Page),
    /// A digest was answered.
    Digest(Digest),
    /// Records were acknowledged by the log itself.
    Appended(Appended),
    /// Batches were fetched from the log.
    Fetched(Fetched),
    /// Records that went into one append, in order: all of them are in the log, one behind the other, or none is.
    OneAppend {
        /// Their ids.
        ids: Vec<RequestId>,
    },
    /// Every attempt to write these was refused by name: none of them ever is in the log.
    Refused {
        /// Their ids.
        ids: Vec<RequestId>,
    },
    /// What must not be was seen by a client itself.
    Wrong {
        /// Which invariant.
        invariant: u8,
        /// What.
        what: String,
    },
}
