//! Room on the index's disk: asked before each flush, because an index that has met a full disk is not trusted any more.
//!
//! * While there is too little, nothing goes into the index. Reads go on. What is applied stays in memory until that is
//!   full; then nothing more is applied, and the node falls behind. It goes on by itself once there is room.
//! * The index writes more than it is given, and later: pages and tables are written anew. What must be free leaves room
//!   for that.
//! * Deliberately absent: a disk that fills between the question and the write. Then the index fails and is replaced.

use super::health::IndexHealth;
use crate::partitions::IndexKind;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// fjall turns a journal of up to 64 MiB into tables, and only then removes it. Unit: bytes.
const FJALL_BYTES: u64 = 128 << 20;

/// Knows whether there is room for a flush.
pub(crate) struct IndexRoom {
    /// On the disk in question; `None` for an index in memory.
    folder: Option<PathBuf>,
    /// What must be free. Unit: bytes.
    needed: u64,
    health: Arc<IndexHealth>,
}

impl IndexRoom {
    /// `room_bytes` must be free on the disk of `data_dir`; with fjall at least 128 MiB.
    pub(crate) fn new(
        kind: IndexKind,
        data_dir: Option<&Path>,
        room_bytes: u64,
        health: Arc<IndexHealth>,
    ) -> IndexRoom {
        let needed = match kind {
            IndexKind::Sled | IndexKind::Memory => room_bytes,
            IndexKind::Fjall => room_bytes.max(FJALL_BYTES),
        };
        let folder = data_dir.filter(|_| kind != IndexKind::Memory).map(Path::to_path_buf);
        IndexRoom { folder, needed, health }
    }

    /// What is told of flushes.
    pub(crate) fn health(&self) -> &IndexHealth {
        &self.health
    }

    /// Whether a flush may begin. Says so when that changes.
    pub(crate) fn is_there(&self) -> bool {
        let Some(folder) = &self.folder else { return true };
        // A disk that does not say how much is free gets the write, and the write says what is wrong.
        let free = free_bytes(folder).unwrap_or(u64::MAX);
        let is_there = free >= self.needed;
        let has_waited = self.health.set_waiting_for_space(!is_there);
        if has_waited != is_there {
            return is_there;
        }
        let (needed_bytes, free_bytes) = (self.needed, free);
        if is_there {
            tracing::info!(free_bytes, "the index's disk has room again");
        } else {
            let folder = folder.display();
            tracing::warn!(
                %folder, free_bytes, needed_bytes,
                "the index's disk is full: reads go on, but soon nothing new is applied here; free some space"
            );
        }
        is_there
    }
}

/// What is free on the disk of a folder, for who is not root. Unit: bytes.
pub(super) fn free_bytes(folder: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let health = Arc::new(IndexHealth::default());
        let room = |kind, bytes| IndexRoom::new(kind, Some(folder.path()), bytes, Arc::clone(&health));
        assert!(room(IndexKind::Sled, 1).is_there() && !health.waits_for_space());
        assert!(!room(IndexKind::Sled, u64::MAX).is_there() && health.waits_for_space());
        assert!(room(IndexKind::Memory, u64::MAX).is_there(), "memory needs no disk");
        assert!(health.waits_for_space(), "and says nothing about one");
        assert!(room(IndexKind::Sled, 1).is_there() && !health.waits_for_space());
        assert_eq!(room(IndexKind::Fjall, 1).needed, FJALL_BYTES);
    }
}
