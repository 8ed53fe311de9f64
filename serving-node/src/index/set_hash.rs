//! A hash over a set of entries that changes with the set: what a flush adds is added, what it removes is subtracted.
//!
//! * In: the 128-bit hash of each entry (`layout`). Out: their sum modulo 2^128, and how many they are.
//! * Invariant: the order in which entries come and go does not matter. Also a difference of two sets is a `SetHash`.
//! * A missing, an older, a swapped and a left-over entry all change the sum. Against damage, not against somebody who
//!   chooses the entries: sums of hashes can be made to collide on purpose.
//! * Source: ADR 0012.

/// The sum and the count. Arithmetic wraps, so that it holds differences too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SetHash {
    pub sum: u128,
    pub entries: u64,
}

impl SetHash {
    pub(crate) fn insert(&mut self, entry: u128) {
        self.merge(SetHash { sum: entry, entries: 1 });
    }

    pub(crate) fn remove(&mut self, entry: u128) {
        self.merge(SetHash { sum: entry.wrapping_neg(), entries: 1u64.wrapping_neg() });
    }

    /// Takes in another set, or a change of this one.
    pub(crate) fn merge(&mut self, other: SetHash) {
        self.sum = self.sum.wrapping_add(other.sum);
        self.entries = self.entries.wrapping_add(other.entries);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Goal: whatever the order of changes, the hash is that of the set which they leave. Method: a map beside it.
        #[test]
        fn it_is_the_hash_of_what_is_left(changes: Vec<(u8, Option<u128>)>) {
            let (mut map, mut running) = (BTreeMap::new(), SetHash::default());
            for (key, new) in changes {
                let old = match new {
                    Some(new) => map.insert(key, new),
                    None => map.remove(&key),
                };
                let mut change = SetHash::default();
                old.into_iter().for_each(|old| change.remove(old));
                new.into_iter().for_each(|new| change.insert(new));
                running.merge(change);
            }
            let mut fold = SetHash::default();
            map.values().for_each(|&entry| fold.insert(entry));
            prop_assert_eq!(running, fold);
        }
    }
}
