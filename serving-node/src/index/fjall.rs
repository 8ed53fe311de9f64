//! fjall 3 as an index, for heavy writes: one keyspace.
//!
//! Source: DESIGN D8; ADR 0009.

use super::{Index, IndexError, Visit, Witness, WriteError, Writes};
use bytes::Bytes;
use duramen_common::folder_lock::FolderLock;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

pub(super) struct FjallIndex {
    db: fjall::Database,
    keyspace: fjall::Keyspace,
    lock: Arc<FolderLock>,
}

/// Tables that are kept open.
const FILES_MAX: usize = 128;

fn failed(action: &'static str) -> impl FnOnce(fjall::Error) -> IndexError {
    move |error| IndexError { kind: "fjall", action, reason: error.to_string() }
}

impl FjallIndex {
    pub(super) fn open(folder: &Path, cache_bytes: u64, lock: Arc<FolderLock>) -> Result<FjallIndex, IndexError> {
        let db = fjall::Database::builder(folder)
            .cache_size(cache_bytes)
            .worker_threads(1)
            .max_cached_files(Some(FILES_MAX))
            .open()
            .map_err(failed("opening"))?;
        let keyspace =
            db.keyspace("index", fjall::KeyspaceCreateOptions::default).map_err(failed("opening the keyspace"))?;
        Ok(FjallIndex { db, keyspace, lock })
    }
}

impl Index for FjallIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        Ok(self.keyspace.get(key).map_err(failed("reading"))?.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn range(&self, start: Bound<&[u8]>, end: Bound<&[u8]>, visit: Visit<'_>) -> Result<(), IndexError> {
        for entry in self.keyspace.range::<&[u8], _>((start, end)) {
            let (key, value) = entry.into_inner().map_err(failed("reading a range"))?;
            if visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn write_seen(&self, mut writes: Writes, witness: Option<&mut dyn Witness>) -> Result<(), WriteError> {
        super::check_folder("fjall", &self.lock)?;
        if let Some(witness) = witness {
            super::show(witness, &mut writes, |key| self.get(key))?;
        }
        let mut batch = self.db.batch();
        for (key, value) in writes {
            match value {
                Some(value) => batch.insert(&self.keyspace, key, value),
                None => batch.remove(&self.keyspace, key),
            }
        }
        Ok(batch.commit().map_err(failed("writing"))?)
    }

    fn sync(&self) -> Result<(), IndexError> {
        self.db.persist(fjall::PersistMode::SyncAll).map_err(failed("syncing"))
    }

    fn blocks(&self) -> bool {
        true
    }
}
