//! The segment store: append-only files per partition that are the Raft log (DESIGN D2), the duplicate table and the
//! tail cache that are derived from them (D5), and the one sync thread of a node.
//!
//! ```text
//! consensus ─→ PartitionLog ─ waiting ─→ sync driver ─→ writer ─→ segment files
//!                  │  ↑                      │
//!                  │  └──── durable_end ─────┘        recover, open: segment files ─→ PartitionLog
//!                  └→ tail cache, duplicate table     repair: a peer's entries ─→ segment files
//! ```
//!
//! * In: entries, votes, marks, from `consensus`. Out: the same after any crash, up to what was acknowledged.
//! * Invariant: a callback is called with `Ok` only after its bytes and all before them are on the medium; callbacks of
//!   a partition are called in order, and never past a failure.
//! * Durable ends: `durable_end` of a log counts records, the one in a frame counts bytes of its segment. Both mean
//!   "a sync that covers this has returned".
//! * Deliberately absent: openraft's types, keys and values, the network.

mod cache;
mod dedup;
mod error;
pub mod frame;
mod handles;
mod open;
mod partition;
mod read;
pub mod recover;
mod repair;
mod replace;
mod reserve;
mod round;
mod segment;
mod service;
mod suspect;
mod sync;
#[cfg(test)]
mod tests;
mod types;
mod writer;

pub use error::StoreError;
pub use partition::{DoneCallback, PartitionLog};
pub use reserve::{CONTROL_SHARE, Need, RESERVE_FILE};
pub use service::{DataFolder, Repair, Store};
pub use types::{
    Damage, Ends, EntryBody, EntryId, LogEntry, LogState, SmallState, StoreConfig, StoreIdentity, StoredMembership,
    StoredVote, SyncMode,
};

use duramen_common::ids::Offset;

/// What the duplicate table says about one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdCheck {
    /// Not seen within the window.
    New,
    /// The same record is in the log there, committed or not.
    Repeat {
        /// Its offset.
        offset: Offset,
    },
    /// Another record has the id.
    Reused,
}
