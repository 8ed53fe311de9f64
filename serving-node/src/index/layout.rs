//! What the bytes of the index mean. One ordered map holds all partitions of the node.
//!
//! ```text
//! [partition u16 BE][key]                  → [version u64 LE][value]
//! [ff ff][01][partition u16 BE]            → partition meta: persisted end, settled end, last batch
//! [ff ff][02][partition u16 BE][chunk u64 BE] → 512 bits: records without effect at offsets chunk × 512 + bit
//! ```
//!
//! * Invariant: data partitions are numbered below 65535, so that the reserved prefix `ff ff` never meets a key.
//! * Source: docs/formats.md "Index".

use super::IndexError;
use bytes::Bytes;
use duramen_common::protocol::BatchId;
use duramen_common::{Offset, PartitionId};
use std::ops::Bound;

/// Bumped when the bytes change; an index of another format is wiped.
pub(crate) const INDEX_FORMAT: u32 = 2;
/// Offsets that one chunk of outcomes covers.
pub(crate) const CHUNK_OFFSETS: u64 = 512;
/// Bytes before the value.
const VERSION_BYTES: usize = 8;
const KIND_META: u8 = 1;
const KIND_CHUNK: u8 = 2;
const META_BYTES: usize = 8 + 8 + 1 + 16;

/// A bit an offset: set where the record had no effect.
pub(crate) type Chunk = [u64; 8];

/// The number of the chunk that holds an offset's bit.
pub(crate) fn chunk_of(offset: Offset) -> u64 {
    offset.get() / CHUNK_OFFSETS
}

/// What a partition's state in the index is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PartitionMeta {
    /// The index holds the fold of every record below this.
    pub persisted_end: Offset,
    /// The largest settled end seen: below it, what is held is no state that may be shown.
    pub settled_end: Offset,
    /// The last batch taken in.
    pub last: Option<BatchId>,
}

impl PartitionMeta {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(META_BYTES);
        bytes.extend_from_slice(&self.persisted_end.get().to_le_bytes());
        bytes.extend_from_slice(&self.settled_end.get().to_le_bytes());
        bytes.push(u8::from(self.last.is_some()));
        let last = self.last.unwrap_or(BatchId { term: 0, index: 0 });
        bytes.extend_from_slice(&last.term.to_le_bytes());
        bytes.extend_from_slice(&last.index.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<PartitionMeta, IndexError> {
        let bytes: &[u8; META_BYTES] = bytes.try_into().map_err(|_| malformed("a partition's meta"))?;
        let number = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(number)
        };
        Ok(PartitionMeta {
            persisted_end: Offset::new(number(0)),
            settled_end: Offset::new(number(8)),
            last: (bytes[16] != 0).then(|| BatchId { term: number(17), index: number(25) }),
        })
    }
}

fn malformed(what: &str) -> IndexError {
    IndexError { kind: "index", action: "decoding", reason: format!("{what} has the wrong length") }
}

pub(crate) fn data_key(partition: PartitionId, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(2 + key.len());
    bytes.extend_from_slice(&partition.get().to_be_bytes());
    bytes.extend_from_slice(key);
    bytes
}

/// The bounds of a range of a partition's keys, as bounds of the index.
pub(crate) fn data_range(
    partition: PartitionId,
    start: Bound<&[u8]>,
    end: Bound<&[u8]>,
) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    let start = match start {
        Bound::Unbounded => Bound::Included(data_key(partition, &[])),
        Bound::Included(key) => Bound::Included(data_key(partition, key)),
        Bound::Excluded(key) => Bound::Excluded(data_key(partition, key)),
    };
    let end = match end {
        Bound::Unbounded => Bound::Excluded(data_key(PartitionId::new(partition.get() + 1), &[])),
        Bound::Included(key) => Bound::Included(data_key(partition, key)),
        Bound::Excluded(key) => Bound::Excluded(data_key(partition, key)),
    };
    (start, end)
}

/// The key behind the partition's number.
pub(crate) fn key_of(data_key: &[u8]) -> &[u8] {
    data_key.get(2..).unwrap_or_default()
}

pub(crate) fn encode_item(version: Offset, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(VERSION_BYTES + value.len());
    bytes.extend_from_slice(&version.get().to_le_bytes());
    bytes.extend_from_slice(value);
    bytes
}

/// Version and value of a stored item.
pub(crate) fn decode_item(bytes: &[u8]) -> Result<(Offset, &[u8]), IndexError> {
    let (version, value) = bytes.split_first_chunk::<VERSION_BYTES>().ok_or_else(|| malformed("an item"))?;
    Ok((Offset::new(u64::from_le_bytes(*version)), value))
}

/// As [`decode_item`], sharing the bytes.
pub(crate) fn decode_shared_item(bytes: &Bytes) -> Result<(Offset, Bytes), IndexError> {
    decode_item(bytes).map(|(version, value)| (version, bytes.slice_ref(value)))
}

pub(crate) fn meta_key(partition: PartitionId) -> Vec<u8> {
    let mut bytes = vec![0xff, 0xff, KIND_META];
    bytes.extend_from_slice(&partition.get().to_be_bytes());
    bytes
}

pub(crate) fn chunk_key(partition: PartitionId, chunk: u64) -> Vec<u8> {
    let mut bytes = vec![0xff, 0xff, KIND_CHUNK];
    bytes.extend_from_slice(&partition.get().to_be_bytes());
    bytes.extend_from_slice(&chunk.to_be_bytes());
    bytes
}

pub(crate) fn encode_chunk(chunk: &Chunk) -> Vec<u8> {
    chunk.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub(crate) fn decode_chunk(bytes: &[u8]) -> Result<Chunk, IndexError> {
    let mut chunk = Chunk::default();
    if bytes.len() != size_of::<Chunk>() {
        return Err(malformed("a chunk of outcomes"));
    }
    for (word, bytes) in chunk.iter_mut().zip(bytes.chunks_exact(8)) {
        let mut number = [0; 8];
        number.copy_from_slice(bytes);
        *word = u64::from_le_bytes(number);
    }
    Ok(chunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pinned: bytes on disk. Changing them means a new INDEX_FORMAT.
    #[test]
    fn the_bytes_never_change() {
        let partition = PartitionId::new(258);
        assert_eq!(data_key(partition, b"k"), [1, 2, b'k']);
        assert_eq!(encode_item(Offset::new(3), b"v"), [3, 0, 0, 0, 0, 0, 0, 0, b'v']);
        assert_eq!(meta_key(partition), [0xff, 0xff, 1, 1, 2]);
        assert_eq!(chunk_key(partition, 1), [0xff, 0xff, 2, 1, 2, 0, 0, 0, 0, 0, 0, 0, 1]);
        let meta = PartitionMeta {
            persisted_end: Offset::new(5),
            settled_end: Offset::new(4),
            last: Some(BatchId { term: 2, index: 7 }),
        };
        assert_eq!(PartitionMeta::decode(&meta.encode()).unwrap(), meta);
        assert_eq!(meta.encode()[16], 1);
        let none = PartitionMeta { last: None, ..meta };
        assert_eq!(PartitionMeta::decode(&none.encode()).unwrap(), none);
        assert!(PartitionMeta::decode(&meta.encode()[1..]).is_err());
        assert_eq!(decode_chunk(&encode_chunk(&[1, 2, 3, 4, 5, 6, 7, u64::MAX])).unwrap()[7], u64::MAX);
    }
}
