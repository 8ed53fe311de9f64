//! The numbers of the record batch format, version 1. All integers are little-endian.
//!
//! Source: docs/formats.md "Record batch".

/// "DRB1" as it stands in a file.
pub const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"DRB1");
/// The format that this program writes and reads.
pub const BATCH_FORMAT: u8 = 1;
/// Bytes of the fixed header, before the id runs.
pub const BATCH_HEADER_BYTES: usize = 48;

pub(super) const AT_FORMAT: usize = 4;
pub(super) const AT_FLAGS: usize = 5;
pub(super) const AT_FIRST_OFFSET: usize = 8;
pub(super) const AT_CRC: usize = 16;
/// The CRC covers everything from here on; format and flags enter it as its seed.
pub(super) const AT_LENGTH: usize = 20;
pub(super) const AT_RECORD_COUNT: usize = 24;
pub(super) const AT_END_DELTA: usize = 28;
pub(super) const AT_TIME: usize = 32;
pub(super) const AT_RUN_COUNT: usize = 40;
pub(super) const AT_RESERVED: usize = 44;

pub(super) const RUN_BYTES: usize = 20;
pub(super) const DELTA_BYTES: usize = 4;

/// Batch flag: per-record offset deltas follow the runs; records may be missing.
pub(super) const BATCH_COMPACTED: u8 = 1;

/// Low four bits of a record's kind byte.
pub(super) const KIND_MASK: u8 = 0x0f;
pub(super) const KIND_UPDATES: u8 = 1;
pub(super) const KIND_EVENT: u8 = 2;
/// The record took effect: its guards are gone and nobody evaluates it again.
pub(super) const RECORD_SETTLED: u8 = 1 << 4;
pub(super) const RECORD_NAMESPACE: u8 = 1 << 5;
pub(super) const RECORD_HEADERS: u8 = 1 << 6;
pub(super) const RECORD_EVENT_KEY: u8 = 1 << 7;

pub(super) const GUARD_ABSENT: u8 = 0;
pub(super) const GUARD_EXISTS: u8 = 1;
pub(super) const GUARD_VERSION: u8 = 2;

pub(super) const UPDATE_TOMBSTONE: u8 = 0;
pub(super) const UPDATE_PUT: u8 = 1;
