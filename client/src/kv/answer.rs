//! What calls give: plain values, as the API's JSON and headers say them.

use super::error::Error;
use super::version::Version;
use bytes::Bytes;
use duramen_common::{HistoryId, NodeId, SessionToken};
use serde::Deserialize;

/// A key's value with its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// Timestamp of the write that set it.
    pub version: Version,
}

/// What a read found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// The key's entry; `None`: there is no such key.
    pub entry: Option<Entry>,
    /// The position that was served.
    pub seen: SessionToken,
}

impl Got {
    /// The value, when the key exists.
    #[must_use]
    pub fn value(&self) -> Option<&Bytes> {
        self.entry.as_ref().map(|entry| &entry.value)
    }

    /// The version, when the key exists.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        self.entry.as_ref().map(|entry| entry.version)
    }
}

/// An acknowledged write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// When, in the log's time; after a put, the key's version.
    pub version: Version,
}

impl Written {
    /// The token of somebody who has seen this write.
    #[must_use]
    pub fn token(&self) -> SessionToken {
        self.version.token()
    }
}

/// What a compare-and-set by value came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swap {
    /// The value was the expected one, and is now the new one.
    Swapped(Written),
    /// The value was another one; nothing was written.
    Differs(Got),
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxnOutcome {
    /// Whether its guards held, so that its ops took effect.
    pub committed: bool,
    /// Its place in the log, committed or not.
    pub version: Version,
}

/// What became of each op of a batch, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchResults {
    /// One a op.
    pub results: Vec<Result<Written, Error>>,
}

impl BatchResults {
    /// A token that has seen all that was written; `None` when nothing was.
    #[must_use]
    pub fn token(&self) -> Option<SessionToken> {
        let mut written = self.results.iter().flatten();
        let mut token = written.next()?.token();
        written.for_each(|written| token.see(written.version.timestamp));
        Some(token)
    }

    /// The results when all were written, else the first error.
    pub fn all(self) -> Result<Vec<Written>, Error> {
        self.results.into_iter().collect()
    }
}

/// A serving node's own view: `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct NodeStatus {
    /// The node's name.
    pub node: String,
    /// The history that it serves.
    #[serde(deserialize_with = "history_of_text")]
    pub history: HistoryId,
    /// Its partitions.
    pub partitions: Vec<PartitionStatus>,
}

/// One partition as a serving node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PartitionStatus {
    /// Which.
    pub partition: u16,
    /// The log node that leads it; `None`: not known.
    pub leader: Option<NodeId>,
    /// First offset not known to be committed.
    pub committed_end: u64,
    /// First offset not applied here; `None`: catching up over a compacted part, where no end is a state.
    pub applied_end: Option<u64>,
    /// How many records lie between.
    pub lag: u64,
    /// Below it, tombstones may be gone.
    pub horizon: u64,
}

/// A hash over a partition's live triples at an applied end.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Digest {
    /// Which partition.
    pub partition: u16,
    /// The end that it is of.
    pub applied_end: u64,
    /// The hash; equal on every node at the same end.
    pub digest: String,
}

fn history_of_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<HistoryId, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}
