//! What sled is given for a value: the value itself, or pieces of it and a stub that leads to them. Pure.
//!
//! ```text
//! KEY                                             → [value][00]
//! KEY                                             → [generation u64 BE][length u32 BE][xxh3-64 of the value, u64 BE][01]
//! [ff ff ff][00]                                  → [live bytes u64 LE][next generation u64 LE]
//! [ff ff ff][01][generation u64 BE][number u32 BE] → one piece: PIECE_BYTES, the last one less
//! ```
//!
//! * sled keeps what does not fit into a quarter of a segment (128 KiB) as a file of its own, and rewrites a whole leaf of
//!   up to 20 entries after ten changes: leaves of large values become files of many MiB for every small write beside them.
//!   A piece is so small that no leaf of pieces, and none of values that are not cut, ever becomes a file.
//! * Invariant: a generation is used for one value. A stub whose pieces are missing, or do not add up to its length and
//!   checksum, is damage, or was overtaken by a write.
//! * Keys that begin with `ff ff ff` belong to this module.
//! * Source: docs/formats.md "Index"; ADR 0013.

use xxhash_rust::xxh3::xxh3_64;

/// Values longer than this are cut into pieces of this length: 20 of them, with keys of 1 KiB, stay below 128 KiB.
pub(super) const PIECE_BYTES: usize = 5 * 1024;
/// Begins every key that is not the caller's.
pub(super) const RESERVED: &[u8] = &[0xff; 3];
/// What sled needs for an entry besides key and value, roughly.
const ENTRY_BYTES: usize = 32;
/// Where the tally is.
pub(super) const TALLY_KEY: &[u8] = &[0xff, 0xff, 0xff, 0];
const KIND_PIECE: u8 = 1;
const TAG_WHOLE: u8 = 0;
const TAG_STUB: u8 = 1;

/// What leads to a value's pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stub {
    pub generation: u64,
    /// Of the value. Unit: bytes.
    pub length: u32,
    /// Of the value: xxh3-64.
    pub checksum: u64,
}

/// What stands under a caller's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored<'a> {
    Whole(&'a [u8]),
    Cut(Stub),
}

impl Stub {
    pub fn of(generation: u64, value: &[u8]) -> Option<Stub> {
        Some(Stub { generation, length: u32::try_from(value.len()).ok()?, checksum: xxh3_64(value) })
    }

    pub fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(21);
        bytes.extend_from_slice(&self.generation.to_be_bytes());
        bytes.extend_from_slice(&self.length.to_be_bytes());
        bytes.extend_from_slice(&self.checksum.to_be_bytes());
        bytes.push(TAG_STUB);
        bytes
    }

    /// How many pieces there are.
    pub fn count(self) -> u32 {
        self.length.div_ceil(PIECE_BYTES as u32)
    }

    /// Whether these are the bytes that were cut.
    pub fn fits(self, value: &[u8]) -> bool {
        value.len() == self.length as usize && xxh3_64(value) == self.checksum
    }
}

/// What goes under the key of a value that is not cut.
pub(super) fn encode_whole(mut value: Vec<u8>) -> Vec<u8> {
    value.push(TAG_WHOLE);
    value
}

/// `None` when the bytes mean nothing.
pub(super) fn decode(stored: &[u8]) -> Option<Stored<'_>> {
    let (&tag, bytes) = stored.split_last()?;
    if tag == TAG_WHOLE {
        return Some(Stored::Whole(bytes));
    }
    let (generation, rest) = bytes.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let stub = Stub {
        generation: u64::from_be_bytes(*generation),
        length: u32::from_be_bytes(*length),
        checksum: u64::from_be_bytes(rest.try_into().ok()?),
    };
    (tag == TAG_STUB).then_some(Stored::Cut(stub))
}

pub(super) fn is_reserved(key: &[u8]) -> bool {
    key.starts_with(RESERVED)
}

pub(super) fn piece_key(generation: u64, number: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(16);
    key.extend_from_slice(RESERVED);
    key.push(KIND_PIECE);
    key.extend_from_slice(&generation.to_be_bytes());
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// What is counted of a map, written with every batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Keys, values, and [`ENTRY_BYTES`] for each entry of the caller.
    pub live_bytes: u64,
    /// Above every one that was used.
    pub next_generation: u64,
}

impl Tally {
    pub fn encode(self) -> Vec<u8> {
        [self.live_bytes.to_le_bytes(), self.next_generation.to_le_bytes()].concat()
    }

    pub fn decode(bytes: &[u8]) -> Option<Tally> {
        let (live_bytes, rest) = bytes.split_first_chunk()?;
        let next_generation = u64::from_le_bytes(rest.try_into().ok()?);
        Some(Tally { live_bytes: u64::from_le_bytes(*live_bytes), next_generation })
    }

    /// What an entry counts.
    pub fn weight(key: &[u8], value_bytes: usize) -> u64 {
        (key.len() + value_bytes + ENTRY_BYTES) as u64
    }

    /// What the entry under a key counts, as it is stored.
    pub fn stored_weight(key: &[u8], stored: Stored<'_>) -> u64 {
        let value_bytes = match stored {
            Stored::Whole(value) => value.len(),
            Stored::Cut(stub) => stub.length as usize,
        };
        Tally::weight(key, value_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pinned: bytes on disk. Changing them means a new INDEX_FORMAT.
    #[test]
    fn the_bytes_never_change() {
        assert_eq!(encode_whole(b"v".to_vec()), *b"v\0");
        let stub = Stub { generation: 0x0102, length: 0x0304, checksum: 0x0506 };
        let bytes = [0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 3, 4, 0, 0, 0, 0, 0, 0, 5, 6, 1];
        assert_eq!(stub.encode(), bytes);
        assert_eq!(decode(&bytes), Some(Stored::Cut(stub)));
        assert_eq!(decode(b"v\0"), Some(Stored::Whole(b"v")));
        assert_eq!(piece_key(0x0102, 3), [255, 255, 255, 1, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 3]);
        let tally = Tally { live_bytes: 1, next_generation: 2 };
        assert_eq!(tally.encode(), [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Tally::decode(&tally.encode()), Some(tally));
        assert_eq!(PIECE_BYTES, 5120);
        assert_eq!(Stub::of(1, b"value").map(|stub| stub.checksum), Some(xxh3_64(b"value")));
    }

    #[test]
    fn what_means_nothing_is_refused() {
        let none: [&[u8]; 6] = [b"", b"\x01", b"\x02", b"v\x02", &[0, 0, 0, 1], &[7; 21]];
        for bytes in none {
            assert_eq!(decode(bytes), None, "{bytes:?}");
        }
        assert_eq!(Tally::decode(&[0; 15]), None);
        assert_eq!(Tally::decode(&[0; 17]), None);
    }
}
