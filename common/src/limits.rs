//! Every limit that more than one room needs, with its name, unit and default.
//!
//! A limit that only one room knows lives in that room's configuration. docs/operations.md lists them all.

/// Longest key. Unit: bytes after percent-decoding.
pub const KEY_BYTES_MAX: usize = 1024;
/// Longest value unless configured otherwise. Unit: bytes.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Largest body of a batch or a transaction. Unit: bytes.
pub const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most operations in one batch or transaction; also most guards.
pub const OPS_MAX: usize = 1000;
/// Longest `Idempotency-Key`. Unit: bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// Longest session token. Unit: bytes.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Most data partitions in a cluster.
pub const PARTITIONS_MAX: u16 = 256;
/// Longest encoded record: a transaction of the largest body, with its guards. Unit: bytes.
pub const RECORD_BYTES_MAX: usize = 6 * 1024 * 1024;
/// Most records in one append.
pub const APPEND_RECORDS_MAX: usize = 65_536;
/// Largest record batch, and largest append: one record of the greatest length, or many small ones. Unit: bytes.
pub const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Largest frame on a framed TCP connection. Unit: bytes of body.
pub const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most bytes that one fetch may ask for. Unit: bytes.
pub const FETCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Longest wait that one fetch may ask for. Unit: milliseconds.
pub const FETCH_WAIT_MS_MAX: u64 = 30_000;
/// Over how many of the last offsets of a partition request ids are remembered, unless chosen at creation.
pub const DEDUP_WINDOW_DEFAULT: u64 = 262_144;
