//! sled 0.34.7 as an index: one tree.
//!
//! * A write takes a lock of the whole process, which readers share: batches are large, so reads of what is not in the
//!   overlay wait for one now and then.
//! * sled on Linux hands its pages to the kernel and never flushes the medium: `sync` does, file by file.
//! * Source: DESIGN D8; ADR 0009.

use super::{Index, IndexError, Visit, Writes};
use bytes::Bytes;
use duramen_common::folder_lock::FolderLock;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) struct SledIndex {
    db: sled::Db,
    folder: PathBuf,
    lock: Arc<FolderLock>,
}

fn failed(action: &'static str) -> impl FnOnce(sled::Error) -> IndexError {
    move |error| IndexError { kind: "sled", action, reason: error.to_string() }
}

impl SledIndex {
    pub(super) fn open(
        folder: &Path,
        cache_bytes: u64,
        flush_every_ms: u64,
        lock: Arc<FolderLock>,
    ) -> Result<SledIndex, IndexError> {
        let db = sled::Config::new()
            .path(folder)
            .cache_capacity(cache_bytes)
            .flush_every_ms(Some(flush_every_ms))
            .open()
            .map_err(failed("opening"))?;
        Ok(SledIndex { db, folder: folder.to_path_buf(), lock })
    }
}

/// Frees what a batch of `writes` has replaced. sled copies a node at every insert and leaves the old one to epoch
/// collection, which runs once in 128 pins; a batch pins once, so that without this hundreds of megabytes of old nodes
/// pile up behind large batches. One flush collects at most 8 bags of 64; three epochs must pass.
fn collect_garbage(writes: usize) {
    for _ in 0..3 + writes / 128 {
        crossbeam_epoch::pin().flush();
    }
}

impl Index for SledIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        Ok(self.db.get(key).map_err(failed("reading"))?.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn range(&self, start: Bound<&[u8]>, end: Bound<&[u8]>, visit: Visit<'_>) -> Result<(), IndexError> {
        for entry in self.db.range::<&[u8], _>((start, end)) {
            let (key, value) = entry.map_err(failed("reading a range"))?;
            if visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, writes: Writes) -> Result<(), IndexError> {
        super::check_folder("sled", &self.lock)?;
        let mut batch = sled::Batch::default();
        let count = writes.len();
        for (key, value) in writes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.db.apply_batch(batch).map_err(failed("writing"))?;
        collect_garbage(count);
        Ok(())
    }

    fn sync(&self) -> Result<(), IndexError> {
        self.db.flush().map_err(failed("flushing"))?;
        super::store::sync_tree(&self.folder).map_err(|error| IndexError {
            kind: "sled",
            action: "syncing files",
            reason: error.to_string(),
        })
    }

    fn blocks(&self) -> bool {
        true
    }
}
