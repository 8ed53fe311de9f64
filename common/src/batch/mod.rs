//! Record batch: the unit of storage, replication and transfer. Its bytes are the same in memory, on disk and on the
//! wire; it is decoded by borrowing and never re-encoded.
//!
//! * `layout`: the numbers. `record` and `record_view`: one record, built and read. `view`: a whole batch.
//! * A record is an atomic set of guarded updates, or one opaque event. Request ids stand outside the records, as runs,
//!   so that a record's bytes (and its fingerprint) do not depend on its id.
//! * Invariant: the first offset stands outside the batch's CRC (it is known only at append); everything else is covered.
//! * Source: DESIGN D3, D5, D6; docs/formats.md "Record batch".

mod layout;
mod record;
mod record_view;
mod view;

pub use layout::{BATCH_FORMAT, BATCH_HEADER_BYTES, BATCH_MAGIC};
pub use record::{
    Event, Guard, GuardCondition, GuardRef, Headers, Record, RecordBody, RecordSet, RecordSetBuilder, Update, UpdateRef,
};
pub use record_view::RecordView;
pub use view::{BatchHeader, IdRun, RecordBatch};

/// Why bytes are not a record batch, or a record not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Fewer bytes than the header says, or than a header has.
    #[error("cut off: {have} bytes, {need} needed")]
    Short {
        /// Bytes at hand.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// Not a batch at all.
    #[error("not a record batch (magic {found:#010x})")]
    Magic {
        /// What stood there.
        found: u32,
    },
    /// Written by another version.
    #[error("record batch of format {found}, this program reads format 1: upgrade it")]
    Format {
        /// The format byte.
        found: u8,
    },
    /// Bits have changed.
    #[error("checksum {computed:#010x}, the batch says {stored:#010x}")]
    Checksum {
        /// What the batch says.
        stored: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// Counts, lengths or kinds contradict each other.
    #[error("malformed: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// Over a limit.
    #[error("{what} of {size} is over the limit of {limit}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
}
