//! The HTTP key-value API from Rust: [`Client`] calls, [`Session`] remembers what it has seen, [`Watch`] follows.
//!
//! * In: keys, values, conditions, deadlines. Out: what serving nodes answer, or an [`Error`] that says what may have
//!   happened ([`Error::effect`]).
//! * A call tries one serving node after another until it has a certain answer or its deadline passes (`retry` decides,
//!   `http` performs, `call` joins them).
//! * Invariant: every attempt of a write carries the same `Idempotency-Key`; once any attempt was without a certain
//!   answer, only a certain answer about that same key ends the doubt. Otherwise the call is [`OutcomeUnknown`].
//! * Deliberately absent: TLS, caching, knowledge of partitions, automatic retries under a *new* key.
//! * Source: DESIGN §4, D6, D14.

mod answer;
mod call;
mod client;
mod config;
mod error;
mod http;
mod options;
mod request;
mod retry;
mod scan;
mod session;
mod sse;
mod version;
mod watch;

pub use answer::{BatchResults, Digest, Entry, Got, NodeStatus, PartitionStatus, Swap, TxnOutcome, Written};
pub use client::Client;
pub use config::{ClientConfig, ConfigError};
pub use error::{Error, Failure, FailureCause, OutcomeUnknown};
pub use options::{Condition, Consistency, Guard, Op, ReadOptions, ScanQuery, WatchOptions, WriteOptions};
pub use scan::{Page, Pager, ScanItem};
pub use session::Session;
pub use version::{Version, VersionParseError};
pub use watch::{Change, Watch};

#[cfg(test)]
mod tests;
