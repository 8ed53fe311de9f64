//! An index in a folder, opened as a partition opens it.

use crate::index::{Index, IndexStore, StoreConfig, StoreError};
use crate::partitions::IndexKind;
use duramen_common::HistoryId;
use std::path::Path;
use std::sync::Arc;

/// An open index; its folder is locked until it is dropped.
pub struct FolderIndex(IndexStore);

impl FolderIndex {
    /// Opens what is there, or a fresh one. Panics when that does not work, or when what is there had to be wiped.
    #[must_use]
    pub fn open(folder: &Path, kind: IndexKind) -> FolderIndex {
        FolderIndex::try_open(folder, kind).expect("the index opens")
    }

    /// As [`FolderIndex::open`], with the error of a folder that cannot be used.
    pub fn try_open(folder: &Path, kind: IndexKind) -> Result<FolderIndex, StoreError> {
        FolderIndex::open_of(folder, kind, HistoryId::from_bits(1))
    }

    /// As [`FolderIndex::try_open`], of a node that follows this history.
    pub fn open_of(folder: &Path, kind: IndexKind, history: HistoryId) -> Result<FolderIndex, StoreError> {
        let config = StoreConfig {
            data_dir: Some(folder.to_path_buf()),
            kind,
            cache_bytes: 8 << 20,
            flush_every_ms: 20,
            history,
            boot_id_path: "/proc/sys/kernel/random/boot_id".into(),
        };
        let opened = IndexStore::open(&config)?;
        assert_eq!(opened.wiped, None);
        opened.store.trust()?;
        Ok(FolderIndex(opened.store))
    }

    /// The index.
    #[must_use]
    pub fn index(&self) -> &Arc<dyn Index> {
        self.0.index()
    }

    /// Everything onto the medium, and says so there. Panics when that fails.
    pub fn close_clean(&self) {
        self.0.close_clean().expect("the index closes");
    }
}
