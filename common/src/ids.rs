//! Ids and logical times as newtypes, so that an offset is never taken for an index or a node for a partition.
//!
//! * Invariant: no `From<u64>`, no `Deref`; a number becomes an id only where somebody says so.
//! * Printed forms are the ones that people type: `3:1042`, `c7f3a1`.
//! * Source: DESIGN words; docs/formats.md "Identifiers".

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// One totally ordered log, one Raft group. Data partitions count from 0; [`PartitionId::META`] is the group of the
/// cluster's own records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionId(u16);

impl PartitionId {
    /// The group that holds history, partitions, log nodes and serving nodes.
    pub const META: PartitionId = PartitionId(u16::MAX);

    /// A partition by number.
    #[must_use]
    pub const fn new(number: u16) -> PartitionId {
        PartitionId(number)
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Whether this is the group of the cluster's own records.
    #[must_use]
    pub const fn is_meta(self) -> bool {
        self.0 == u16::MAX
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_meta() { f.write_str("meta") } else { self.0.fmt(f) }
    }
}

impl FromStr for PartitionId {
    type Err = IdParseError;

    fn from_str(text: &str) -> Result<PartitionId, IdParseError> {
        parse_digits(text, u64::from(u16::MAX) - 1)
            .map(|number| PartitionId(number as u16))
            .ok_or(IdParseError { what: "partition", wanted: "a number from 0 to 65534" })
    }
}

/// A record's number within its partition, dense at append, from 0. As an end (`…_end`): the first offset that is
/// *not* covered, so that [`Offset::ZERO`] covers nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Offset(u64);

impl Offset {
    /// The first offset of every partition.
    pub const ZERO: Offset = Offset(0);
    /// The greatest offset there can be; as a bound, "to the end".
    pub const MAX: Offset = Offset(u64::MAX);

    /// An offset by number.
    #[must_use]
    pub const fn new(number: u64) -> Offset {
        Offset(number)
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The offset `count` records later. Panics on overflow: a bug, not input.
    #[must_use]
    pub fn plus(self, count: u64) -> Offset {
        Offset(self.0.checked_add(count).expect("offsets never reach 2^64"))
    }

    /// The offset after this one; as an end, the one that just covers this offset.
    #[must_use]
    pub fn next(self) -> Offset {
        self.plus(1)
    }

    /// The last offset that an end covers; `None` for an end that covers nothing.
    #[must_use]
    pub fn previous(self) -> Option<Offset> {
        self.0.checked_sub(1).map(Offset)
    }

    /// How many records lie from `earlier` (included) to here (excluded); 0 when `earlier` is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Offset) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// `count` records earlier, but not below 0.
    #[must_use]
    pub const fn minus_saturating(self, count: u64) -> Offset {
        Offset(self.0.saturating_sub(count))
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The logical time of a write: a partition and an offset in it, printed `3:1042`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp {
    /// The partition that the offset counts in.
    pub partition: PartitionId,
    /// The record's offset.
    pub offset: Offset,
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)
    }
}

impl FromStr for Timestamp {
    type Err = IdParseError;

    fn from_str(text: &str) -> Result<Timestamp, IdParseError> {
        let wanted = IdParseError { what: "timestamp", wanted: "PARTITION:OFFSET, for instance 3:1042" };
        let (partition, offset) = text.split_once(':').ok_or(wanted)?;
        let partition = partition.parse().map_err(|_| wanted)?;
        let offset = Offset(parse_digits(offset, u64::MAX - 1).ok_or(wanted)?);
        Ok(Timestamp { partition, offset })
    }
}

/// Canonical decimal: digits only, no sign, no leading zero, at most `max`.
fn parse_digits(text: &str, max: u64) -> Option<u64> {
    let canonical = !text.is_empty()
        && text.len() <= 20
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && (text == "0" || !text.starts_with('0'));
    if !canonical {
        return None;
    }
    text.parse().ok().filter(|&number| number <= max)
}

/// A log node's number, chosen by the operator, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(u64);

impl NodeId {
    /// A node by number.
    #[must_use]
    pub const fn new(number: u64) -> NodeId {
        NodeId(number)
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Six hex digits made when a cluster is created or restored. Tokens of another history are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HistoryId(u32);

impl HistoryId {
    /// A history id from the low 24 bits of `bits` (taken from randomness when a cluster is created).
    #[must_use]
    pub const fn from_bits(bits: u32) -> HistoryId {
        HistoryId(bits & 0x00ff_ffff)
    }

    /// The 24 bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl fmt::Display for HistoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06x}", self.0)
    }
}

impl FromStr for HistoryId {
    type Err = IdParseError;

    fn from_str(text: &str) -> Result<HistoryId, IdParseError> {
        let canonical = text.len() == 6 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !canonical {
            return Err(IdParseError { what: "history id", wanted: "six lower-case hex digits" });
        }
        u32::from_str_radix(text, 16)
            .map(HistoryId)
            .map_err(|_| IdParseError { what: "history id", wanted: "six lower-case hex digits" })
    }
}

/// Minted with a log node's data folder. A node id that comes with another store id is refused by its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StoreId(u128);

impl StoreId {
    /// A store id from 128 random bits.
    #[must_use]
    pub const fn from_bits(bits: u128) -> StoreId {
        StoreId(bits)
    }

    /// The 128 bits.
    #[must_use]
    pub const fn bits(self) -> u128 {
        self.0
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Names one record for the log's duplicate check (DESIGN D5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(u128);

impl RequestId {
    /// A request id from 128 bits.
    #[must_use]
    pub const fn from_bits(bits: u128) -> RequestId {
        RequestId(bits)
    }

    /// The 128 bits.
    #[must_use]
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// The id `count` further on in a run; wraps around.
    #[must_use]
    pub const fn plus(self, count: u64) -> RequestId {
        RequestId(self.0.wrapping_add(count as u128))
    }

    /// The id that a caller's idempotency key stands for; `op_index` tells the ops of one batch apart.
    #[must_use]
    pub fn of_idempotency_key(key: &[u8], op_index: u32) -> RequestId {
        use sha2::{Digest, Sha256};
        let mut hash = Sha256::new();
        hash.update(b"duramen idempotency key 1");
        hash.update(op_index.to_le_bytes());
        hash.update(key);
        let digest = hash.finalize();
        let mut bits = [0u8; 16];
        bits.copy_from_slice(&digest[..16]);
        RequestId(u128::from_le_bytes(bits))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A text that is not the id it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a {what}: expected {wanted}")]
pub struct IdParseError {
    /// The kind of id.
    pub what: &'static str,
    /// What would have been taken.
    pub wanted: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_prints_as_it_parses() {
        let text = "3:1042";
        let timestamp: Timestamp = text.parse().unwrap();
        assert_eq!(timestamp.partition, PartitionId::new(3));
        assert_eq!(timestamp.offset, Offset::new(1042));
        assert_eq!(timestamp.to_string(), text);
    }

    /// One text, one timestamp: entity tags are compared as texts.
    #[test]
    fn only_canonical_numbers_parse() {
        for text in
            ["", ":", "1:", ":1", "01:1", "1:01", "+1:1", "1:-1", "1:1:1", "65535:1", "1:18446744073709551615", "1: 1"]
        {
            assert!(text.parse::<Timestamp>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn only_six_lower_case_hex_digits_are_a_history_id() {
        assert_eq!("c7f3a1".parse::<HistoryId>().unwrap().to_string(), "c7f3a1");
        assert_eq!("000001".parse::<HistoryId>().unwrap().bits(), 1);
        for text in ["", "c7f3a", "c7f3a11", "C7F3A1", "c7f3g1", "+7f3a1"] {
            assert!(text.parse::<HistoryId>().is_err(), "{text:?} was taken");
        }
    }

    /// Pinned: stored in the log, so that it must never change.
    #[test]
    fn an_idempotency_key_always_stands_for_the_same_id() {
        let id = RequestId::of_idempotency_key(b"order-1", 0);
        assert_eq!(id, RequestId::of_idempotency_key(b"order-1", 0));
        assert_ne!(id, RequestId::of_idempotency_key(b"order-1", 1));
        assert_ne!(id, RequestId::of_idempotency_key(b"order-2", 0));
    }
}
