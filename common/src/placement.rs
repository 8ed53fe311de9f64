//! Where a key lives: key → tag → slot → partition. Pure and pinned for ever: records are found by it.
//!
//! * A tag is what stands between the first `{` and the next `}` in a key, unless that is empty; then it is the whole
//!   key. Keys of one tag share a partition, so that one transaction may touch them (as in Redis Cluster).
//! * Invariant: golden tests below; changing one means that no existing cluster finds its keys.

use crate::ids::PartitionId;

/// Number of slots. Slots, not keys, are assigned to partitions.
pub const SLOTS: u16 = 4096;

/// The part of the key that decides its place.
#[must_use]
pub fn tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&byte| byte == b'{') else { return key };
    let rest = key.get(open + 1..).unwrap_or_default();
    match rest.iter().position(|&byte| byte == b'}') {
        Some(length) if length > 0 => rest.get(..length).unwrap_or_default(),
        _ => key,
    }
}

/// The slot of a key: from 0 to [`SLOTS`] − 1.
#[must_use]
pub fn slot(key: &[u8]) -> u16 {
    (xxhash_rust::xxh3::xxh3_64(tag(key)) % u64::from(SLOTS)) as u16
}

/// The partition of a key in a cluster of `partitions` data partitions (at least 1): slots in equal, contiguous ranges.
#[must_use]
pub fn partition_of(key: &[u8], partitions: u16) -> PartitionId {
    PartitionId::new((u32::from(slot(key)) * u32::from(partitions.max(1)) / u32::from(SLOTS)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_between_the_first_braces() {
        for (key, wanted) in [
            ("user", "user"),
            ("{user}:name", "user"),
            ("a{user}b{other}", "user"),
            ("{}user", "{}user"),
            ("{user", "{user"),
            ("}user{", "}user{"),
            ("a{{b}}", "{b"),
            ("", ""),
        ] {
            assert_eq!(tag(key.as_bytes()), wanted.as_bytes(), "tag of {key:?}");
        }
    }

    /// Pinned: stored records are found by these numbers.
    #[test]
    fn slots_never_change() {
        for (key, wanted) in GOLDEN {
            assert_eq!(slot(key.as_bytes()), *wanted, "slot of {key:?}");
        }
    }

    const GOLDEN: &[(&str, u16)] =
        &[("", 1218), ("microsoft", 1905), ("apple", 2560), ("google", 3275), ("yahoo", 247), ("{tag}x", 2754)];

    #[test]
    fn every_partition_gets_slots() {
        for partitions in [1u16, 2, 3, 4, 7, 16, 256] {
            let mut seen = vec![0u32; usize::from(partitions)];
            for number in 0..20_000u32 {
                let partition = partition_of(&number.to_be_bytes(), partitions);
                seen[usize::from(partition.get())] += 1;
            }
            assert!(seen.iter().all(|&count| count > 20_000 / u32::from(partitions) / 3), "{seen:?}");
        }
    }
}
