//! One suite for every index: the contract of `Index`, rule by rule. A kill in the middle of writes: `tests/index_kills.rs`.

use super::{Index, IndexFault, StoreError, Witness, WriteError, Writes};
use crate::partitions::IndexKind;
use crate::testing::FolderIndex;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

fn kinds() -> Vec<IndexKind> {
    let mut kinds = vec![IndexKind::Memory, IndexKind::Sled];
    kinds.extend(cfg!(feature = "fjall").then_some(IndexKind::Fjall));
    kinds
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn contents(index: &dyn Index, start: Bound<&[u8]>, end: Bound<&[u8]>, limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        found.push((key.to_vec(), value.to_vec()));
        if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    index.range(start, end, &mut visit).unwrap();
    found
}

fn batches() -> impl Strategy<Value = Vec<BTreeMap<Vec<u8>, Option<Vec<u8>>>>> {
    // What begins with three bytes of ff belongs to the index itself.
    let key = proptest::collection::vec(prop_oneof![Just(0u8), Just(255), any::<u8>()], 1..4)
        .prop_filter("reserved", |key| !key.starts_with(&[255; 3]));
    let small = proptest::collection::vec(any::<u8>(), 0..40);
    // Around the length of a piece, and many of them.
    let large = (any::<u8>(), prop_oneof![5_118usize..5_123, 10_239usize..10_242, Just(100_000)])
        .prop_map(|(byte, length)| (0..length).map(|at| byte.wrapping_add((at / 5_120) as u8)).collect());
    let value = proptest::option::weighted(0.7, prop_oneof![4 => small, 1 => large]);
    proptest::collection::vec(proptest::collection::btree_map(key, value, 0..20), 0..12)
}

/// Notes what is replaced, and adds how many writes there were.
#[derive(Default)]
struct Seen(Vec<(Vec<u8>, Option<Vec<u8>>)>);

/// No batch has a key of this length.
const CLOSING: &[u8] = b"last";

impl Witness for Seen {
    fn replaces(&mut self, number: usize, key: &[u8], old: Option<&[u8]>) -> Result<(), IndexFault> {
        assert_eq!(number, self.0.len());
        self.0.push((key.to_vec(), old.map(<[u8]>::to_vec)));
        Ok(())
    }

    fn closing(&mut self) -> (Vec<u8>, Vec<u8>) {
        (CLOSING.to_vec(), self.0.len().to_le_bytes().to_vec())
    }
}

/// Refuses the second key that it sees.
#[derive(Default)]
struct Refusing(usize);

impl Witness for Refusing {
    fn replaces(&mut self, _number: usize, _key: &[u8], _old: Option<&[u8]>) -> Result<(), IndexFault> {
        self.0 += 1;
        if self.0 < 2 { Ok(()) } else { Err(IndexFault::Checksum { what: "an item" }) }
    }

    fn closing(&mut self) -> (Vec<u8>, Vec<u8>) {
        unreachable!("it refused")
    }
}

/// Goal: a witness that refuses keeps everything from being written. Method: one that refuses the second of two keys.
#[test]
fn a_witness_that_refuses_keeps_a_batch_out() {
    for kind in kinds() {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderIndex::open(folder.path(), kind);
        let writes = || vec![(b"a".to_vec(), Some(vec![7; 6_000])), (b"b".to_vec(), Some(b"2".to_vec()))];
        let refused = store.index().write_seen(writes(), Some(&mut Refusing::default()));
        assert_eq!(refused, Err(WriteError::Nothing(IndexFault::Checksum { what: "an item" })));
        assert_eq!(contents(&**store.index(), Bound::Unbounded, Bound::Unbounded, usize::MAX), []);
        store.index().write(writes()).unwrap();
        assert_eq!(store.index().get(b"a").unwrap().unwrap(), vec![7; 6_000]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Rules 2, 4 and 5, and a reopening after a clean stop. Method: random batches against a map.
    #[test]
    fn every_index_is_an_ordered_map(batches in batches(), low: Vec<u8>, high: Vec<u8>) {
        for kind in kinds() {
            let folder = tempfile::tempdir().unwrap();
            let store = FolderIndex::open(folder.path(), kind);
            let mut model = Model::new();
            for batch in &batches {
                let writes: Writes = batch.clone().into_iter().collect();
                let before = model.clone();
                for (key, value) in batch {
                    match value {
                        Some(value) => drop(model.insert(key.clone(), value.clone())),
                        None => drop(model.remove(key)),
                    }
                }
                let wanted = batch.keys().map(|key| (key.clone(), before.get(key).cloned())).collect::<Vec<_>>();
                let mut seen = Seen::default();
                store.index().write_seen(writes, Some(&mut seen)).unwrap();
                prop_assert_eq!(seen.0, wanted);
                model.insert(CLOSING.to_vec(), batch.len().to_le_bytes().to_vec());
                for key in batch.keys() {
                    let found = store.index().get(key).unwrap().map(|value| value.to_vec());
                    prop_assert_eq!(found.as_ref(), model.get(key));
                }
            }
            let all: Vec<_> = model.clone().into_iter().collect();
            let first: Vec<_> = all.iter().take(3).cloned().collect();
            prop_assert_eq!(contents(&**store.index(), Bound::Unbounded, Bound::Unbounded, usize::MAX), all.clone());
            prop_assert_eq!(contents(&**store.index(), Bound::Unbounded, Bound::Unbounded, 3), first);
            if low < high {
                let within: Vec<_> = all.iter().filter(|(key, _)| *key > low && *key <= high).cloned().collect();
                let found = contents(&**store.index(), Bound::Excluded(&low), Bound::Included(&high), usize::MAX);
                prop_assert_eq!(found, within);
            }
            if kind != IndexKind::Memory {
                store.close_clean();
                drop(store);
                let store = FolderIndex::open(folder.path(), kind);
                prop_assert_eq!(contents(&**store.index(), Bound::Unbounded, Bound::Unbounded, usize::MAX), all);
            }
        }
    }
}

#[test]
fn large_values_survive_a_reopening() {
    for kind in kinds().into_iter().filter(|&kind| kind != IndexKind::Memory) {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderIndex::open(folder.path(), kind);
        let value = vec![7; 1 << 20];
        store.index().write(vec![(b"large".to_vec(), Some(value.clone()))]).unwrap();
        store.close_clean();
        drop(store);
        assert_eq!(FolderIndex::open(folder.path(), kind).index().get(b"large").unwrap().unwrap(), value);
    }
}

/// Goal: one process per index, whatever is removed in its folder; and nothing is written into a folder that somebody else
/// has put in its place. Method: remove the lock file, open again; move the folder away while it is open.
#[test]
fn the_folder_of_an_index_has_one_owner() {
    for kind in kinds().into_iter().filter(|&kind| kind != IndexKind::Memory) {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderIndex::open(folder.path(), kind);
        std::fs::remove_file(folder.path().join("index/lock")).unwrap();
        let second = FolderIndex::try_open(folder.path(), kind).err().unwrap();
        assert!(matches!(second, StoreError::InUse { .. }), "{kind:?}: {second}");
        let write = || store.index().write(vec![(b"key".to_vec(), Some(b"value".to_vec()))]);
        write().unwrap();
        std::fs::rename(folder.path().join("index"), folder.path().join("aside")).unwrap();
        std::fs::create_dir(folder.path().join("index")).unwrap();
        let refused = write().unwrap_err().to_string();
        assert!(refused.contains("moved, removed or replaced"), "{kind:?}: {refused}");
    }
}
