//! What the bytes of the index mean. One ordered map holds all partitions of the node.
//!
//! ```text
//! [partition u16 BE][key]                     → [checksum u64 LE][version u64 LE][value]
//! [ff ff][01][partition u16 BE]               → [checksum] partition meta: ends, last batch, set hash of all its entries
//! [ff ff][02][partition u16 BE][chunk u64 BE] → [checksum] 512 bits: records without effect at offsets chunk × 512 + bit
//! ```
//!
//! * Every entry has a 128-bit hash over its key and what follows the checksum. The checksum is its lower half, the set hash
//!   adds it up whole. A value under another entry's key does not match.
//! * Invariant: data partitions are numbered below 65535, so that the reserved prefix `ff ff` never meets a key.
//! * Source: docs/formats.md "Index"; ADR 0012.

use super::fault::IndexFault;
use super::set_hash::SetHash;
use bytes::Bytes;
use duramen_common::protocol::BatchId;
use duramen_common::{Offset, PartitionId};
use std::ops::Bound;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

/// Bumped when the bytes change; an index of another format is wiped.
pub(crate) const INDEX_FORMAT: u32 = 3;
/// Offsets that one chunk of outcomes covers.
pub(crate) const CHUNK_OFFSETS: u64 = 512;
/// Bytes of an entry's checksum, and of a value's version after it.
const CHECKSUM_BYTES: usize = 8;
const VERSION_BYTES: usize = 8;
const KIND_META: u8 = 1;
const KIND_CHUNK: u8 = 2;
const META_BYTES: usize = 8 + 8 + 1 + 16 + 16 + 8;

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
    /// All data and outcome entries of the partition.
    pub set: SetHash,
}

/// An entry's bytes, and its hash for the set.
pub(crate) struct Sealed {
    pub bytes: Vec<u8>,
    pub hash: u128,
}

/// The hash of an entry: of what follows the checksum, under its key. The key comes in as the seed, so that nothing has to
/// be copied to hash both.
fn hash_of(key: &[u8], payload: &[u8]) -> u128 {
    xxh3_128_with_seed(payload, xxh3_64(key))
}

/// Puts the checksum in front of `parts`.
fn seal(key: &[u8], parts: [&[u8]; 2]) -> Sealed {
    // An index may add a byte.
    let mut bytes = Vec::with_capacity(CHECKSUM_BYTES + parts[0].len() + parts[1].len() + 1);
    bytes.extend_from_slice(&[0; CHECKSUM_BYTES]);
    parts.into_iter().for_each(|part| bytes.extend_from_slice(part));
    let hash = hash_of(key, &bytes[CHECKSUM_BYTES..]);
    bytes[..CHECKSUM_BYTES].copy_from_slice(&(hash as u64).to_le_bytes());
    Sealed { bytes, hash }
}

/// What was sealed, and its hash, if the entry is what was written under this key.
fn unseal<'b>(what: &'static str, key: &[u8], bytes: &'b [u8]) -> Result<(&'b [u8], u128), IndexFault> {
    let (checksum, payload) = bytes.split_first_chunk::<CHECKSUM_BYTES>().ok_or(IndexFault::Checksum { what })?;
    let hash = hash_of(key, payload);
    match hash as u64 == u64::from_le_bytes(*checksum) {
        true => Ok((payload, hash)),
        false => Err(IndexFault::Checksum { what }),
    }
}

/// The hash of any entry of a partition except its meta, verified.
pub(crate) fn verified_hash(key: &[u8], bytes: &[u8]) -> Result<u128, IndexFault> {
    let what = if key.starts_with(&RESERVED) { CHUNK } else { ITEM };
    unseal(what, key, bytes).map(|(_, hash)| hash)
}

const RESERVED: [u8; 2] = [0xff, 0xff];
const ITEM: &str = "an item";
const CHUNK: &str = "a chunk of outcomes";
const META: &str = "a partition's meta";

impl PartitionMeta {
    pub(crate) fn encode(&self, partition: PartitionId) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(META_BYTES);
        bytes.extend_from_slice(&self.persisted_end.get().to_le_bytes());
        bytes.extend_from_slice(&self.settled_end.get().to_le_bytes());
        bytes.push(u8::from(self.last.is_some()));
        let last = self.last.unwrap_or(BatchId { term: 0, index: 0 });
        bytes.extend_from_slice(&last.term.to_le_bytes());
        bytes.extend_from_slice(&last.index.to_le_bytes());
        bytes.extend_from_slice(&self.set.sum.to_le_bytes());
        bytes.extend_from_slice(&self.set.entries.to_le_bytes());
        seal(&meta_key(partition), [&bytes, &[]]).bytes
    }

    pub(crate) fn decode(partition: PartitionId, bytes: &[u8]) -> Result<PartitionMeta, IndexFault> {
        let (bytes, _) = unseal(META, &meta_key(partition), bytes)?;
        let bytes: &[u8; META_BYTES] = bytes.try_into().map_err(|_| IndexFault::Checksum { what: META })?;
        let number = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(number)
        };
        let sum = u128::from(number(33)) | u128::from(number(41)) << 64;
        Ok(PartitionMeta {
            persisted_end: Offset::new(number(0)),
            settled_end: Offset::new(number(8)),
            last: (bytes[16] != 0).then(|| BatchId { term: number(17), index: number(25) }),
            set: SetHash { sum, entries: number(49) },
        })
    }
}

pub(crate) fn data_key(partition: PartitionId, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(2 + key.len());
    bytes.extend_from_slice(&partition.get().to_be_bytes());
    bytes.extend_from_slice(key);
    bytes
}

/// Bounds of keys of the index.
pub(crate) type KeyRange = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// The bounds of a range of a partition's keys, as bounds of the index.
pub(crate) fn data_range(partition: PartitionId, start: Bound<&[u8]>, end: Bound<&[u8]>) -> KeyRange {
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

/// The key of an item and what is stored under it.
pub(crate) fn encode_item(data_key: &[u8], version: Offset, value: &[u8]) -> Sealed {
    seal(data_key, [&version.get().to_le_bytes(), value])
}

/// Version and value of a stored item.
pub(crate) fn decode_item<'b>(data_key: &[u8], bytes: &'b [u8]) -> Result<(Offset, &'b [u8]), IndexFault> {
    let (payload, _) = unseal(ITEM, data_key, bytes)?;
    let (version, value) = payload.split_first_chunk::<VERSION_BYTES>().ok_or(IndexFault::Checksum { what: ITEM })?;
    Ok((Offset::new(u64::from_le_bytes(*version)), value))
}

/// As [`decode_item`], sharing the bytes.
pub(crate) fn decode_shared_item(data_key: &[u8], bytes: &Bytes) -> Result<(Offset, Bytes), IndexFault> {
    decode_item(data_key, bytes).map(|(version, value)| (version, bytes.slice_ref(value)))
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

/// The bounds of everything that the set hash of a partition covers: its keys, its outcomes; in the index's order.
pub(crate) fn ranges(partition: PartitionId) -> [KeyRange; 2] {
    let chunks = (Bound::Included(chunk_key(partition, 0)), Bound::Included(chunk_key(partition, u64::MAX)));
    [data_range(partition, Bound::Unbounded, Bound::Unbounded), chunks]
}

pub(crate) fn encode_chunk(chunk_key: &[u8], chunk: &Chunk) -> Sealed {
    let bytes: Vec<u8> = chunk.iter().flat_map(|word| word.to_le_bytes()).collect();
    seal(chunk_key, [&bytes, &[]])
}

pub(crate) fn decode_chunk(chunk_key: &[u8], bytes: &[u8]) -> Result<Chunk, IndexFault> {
    let (bytes, _) = unseal(CHUNK, chunk_key, bytes)?;
    let mut chunk = Chunk::default();
    if bytes.len() != size_of::<Chunk>() {
        return Err(IndexFault::Checksum { what: CHUNK });
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
        let key = data_key(partition, b"k");
        assert_eq!(key, [1, 2, b'k']);
        let item = encode_item(&key, Offset::new(3), b"v");
        assert_eq!(item.bytes[8..], [3, 0, 0, 0, 0, 0, 0, 0, b'v']);
        assert_eq!(item.bytes[..8], (item.hash as u64).to_le_bytes());
        assert_eq!(item.hash, 0x7bf3_88a1_389f_73a0_363b_8bdd_8ed3_8e68);
        assert_eq!(meta_key(partition), [0xff, 0xff, 1, 1, 2]);
        assert_eq!(chunk_key(partition, 1), [0xff, 0xff, 2, 1, 2, 0, 0, 0, 0, 0, 0, 0, 1]);
        let meta = PartitionMeta {
            persisted_end: Offset::new(5),
            settled_end: Offset::new(4),
            last: Some(BatchId { term: 2, index: 7 }),
            set: SetHash { sum: u128::MAX - 9, entries: 3 },
        };
        assert_eq!(PartitionMeta::decode(partition, &meta.encode(partition)).unwrap(), meta);
        assert_eq!(meta.encode(partition)[8 + 16], 1);
        let none = PartitionMeta { last: None, ..meta };
        assert_eq!(PartitionMeta::decode(partition, &none.encode(partition)).unwrap(), none);
        assert!(PartitionMeta::decode(partition, &meta.encode(partition)[1..]).is_err());
        let key = chunk_key(partition, 1);
        assert_eq!(
            decode_chunk(&key, &encode_chunk(&key, &[1, 2, 3, 4, 5, 6, 7, u64::MAX]).bytes).unwrap()[7],
            u64::MAX
        );
    }

    /// Goal: an entry counts only under its own key and unchanged. Method: every bit flipped, and another key.
    #[test]
    fn an_entry_is_what_was_written_under_its_key() {
        let key = data_key(PartitionId::new(1), b"key");
        let item = encode_item(&key, Offset::new(3), b"value").bytes;
        assert_eq!(decode_item(&key, &item), Ok((Offset::new(3), &b"value"[..])));
        for bit in 0..item.len() * 8 {
            let mut damaged = item.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_item(&key, &damaged).is_err(), "bit {bit}");
        }
        for other in [data_key(PartitionId::new(1), b"kez"), data_key(PartitionId::new(2), b"key")] {
            assert!(decode_item(&other, &item).is_err());
        }
        assert!(decode_item(&key, &item[..item.len() - 1]).is_err());
        assert!(decode_item(&key, &[]).is_err());
    }
}
