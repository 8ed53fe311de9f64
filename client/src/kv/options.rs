//! What a caller may say about one call: consistency, token, deadline, condition, idempotency key; and what batches and
//! transactions are made of. Plain values, no behaviour.

use super::version::Version;
use bytes::Bytes;
use duramen_common::{Blob, SessionToken};
use serde::Serialize;
use std::time::Duration;

/// Which state a read may be answered from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// Every write acknowledged before the call shows. Asks the log's leader.
    Linearizable,
    /// Everything that the token names shows. No network beyond the node.
    Session,
    /// Whatever the node has.
    Stale,
}

impl Consistency {
    /// Its name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Linearizable => "linearizable",
            Self::Session => "session",
            Self::Stale => "stale",
        }
    }
}

/// How to read. The default is linearizable without a token, session with one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReadOptions {
    /// `None`: the server's default.
    pub consistency: Option<Consistency>,
    /// The answer must be from beyond these positions.
    pub after: Option<SessionToken>,
    /// How long the call may take in all; `None`: the client's.
    pub deadline: Option<Duration>,
}

impl ReadOptions {
    /// Read what the node has.
    #[must_use]
    pub fn stale() -> ReadOptions {
        ReadOptions { consistency: Some(Consistency::Stale), ..ReadOptions::default() }
    }

    /// Read with every acknowledged write, token or not.
    #[must_use]
    pub fn linearizable() -> ReadOptions {
        ReadOptions { consistency: Some(Consistency::Linearizable), ..ReadOptions::default() }
    }

    /// Read from beyond this token.
    #[must_use]
    pub fn after(token: SessionToken) -> ReadOptions {
        ReadOptions { after: Some(token), ..ReadOptions::default() }
    }

    /// The same with a deadline for the whole call.
    #[must_use]
    pub fn within(mut self, deadline: Duration) -> ReadOptions {
        self.deadline = Some(deadline);
        self
    }
}

/// What must hold for a write to take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    /// The key is at this version (`If-Match: "…"`).
    Version(Version),
    /// The key exists (`If-Match: *`).
    Exists,
    /// The key is absent (`If-None-Match: *`); not for deletes.
    Absent,
}

/// How to write.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WriteOptions {
    /// What must hold; `None`: nothing. Batches and transactions have none here.
    pub condition: Option<Condition>,
    /// Under which key; `None`: a fresh one. Give one to repeat a write whose outcome is unknown, or to make a write
    /// of your own happen once over several processes.
    pub idempotency_key: Option<String>,
    /// How long the call may take in all, at most 30 s; `None`: the client's.
    pub deadline: Option<Duration>,
}

impl WriteOptions {
    /// Write only if.
    #[must_use]
    pub fn when(condition: Condition) -> WriteOptions {
        WriteOptions { condition: Some(condition), ..WriteOptions::default() }
    }

    /// Write under this key.
    #[must_use]
    pub fn under_key(idempotency_key: impl Into<String>) -> WriteOptions {
        WriteOptions { idempotency_key: Some(idempotency_key.into()), ..WriteOptions::default() }
    }

    /// The same with a deadline for the whole call.
    #[must_use]
    pub fn within(mut self, deadline: Duration) -> WriteOptions {
        self.deadline = Some(deadline);
        self
    }
}

/// One write of a batch or a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// Sets a key.
    Put {
        /// The key.
        key: Blob,
        /// Its value.
        value: Blob,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: Blob,
    },
}

impl Op {
    /// Sets `key` to `value`.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Op {
        Op::Put { key: Blob(key.into()), value: Blob(value.into()) }
    }

    /// Removes `key`.
    pub fn delete(key: impl Into<Bytes>) -> Op {
        Op::Delete { key: Blob(key.into()) }
    }
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Guard {
    /// The key.
    pub key: Blob,
    /// Its version; `None`: absent.
    pub version: Option<Version>,
}

impl Guard {
    /// `key` is at `version`; with `None`, it is absent.
    pub fn new(key: impl Into<Bytes>, version: Option<Version>) -> Guard {
        Guard { key: Blob(key.into()), version }
    }
}

/// Which keys to scan, in the order of their bytes over all partitions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScanQuery {
    /// Only keys that begin so; empty: all.
    pub prefix: Bytes,
    /// From this key on, included; empty: from the first.
    pub start: Bytes,
    /// Up to this key, excluded; empty: to the last.
    pub end: Bytes,
    /// Keys a page, 1 to 1000; `None`: the server's default.
    pub limit: Option<u32>,
    /// Consistency, token and deadline of each page.
    pub read: ReadOptions,
}

impl ScanQuery {
    /// Keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> ScanQuery {
        ScanQuery { prefix: prefix.into(), ..ScanQuery::default() }
    }
}

/// What to watch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WatchOptions {
    /// Only keys that begin so; empty: all.
    pub prefix: Bytes,
    /// Changes beyond this token; `None`: beyond every write acknowledged before the call.
    pub from: Option<SessionToken>,
}

impl WatchOptions {
    /// Keys that begin with `prefix`, from now on.
    pub fn prefix(prefix: impl Into<Bytes>) -> WatchOptions {
        WatchOptions { prefix: prefix.into(), ..WatchOptions::default() }
    }
}
