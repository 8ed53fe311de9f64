//! `TemporaryFolder`: a folder that goes with its process, however that ends.
//!
//! * A clean end removes it. A process that is killed leaves it behind, and the next one that starts removes it.
//! * Invariant: a folder in use is never removed. Its process holds a lock on it (flock), which the kernel gives up with the
//!   process; a folder whose lock can be had belongs to nobody. Process ids would not do: containers share folders, not ids.

use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// How every such folder's name begins.
const PREFIX: &str = "duramen-maelstrom-";
/// Tries to make one: another process may take a new folder for a left one before its lock is taken.
const TRIES: usize = 20;

/// A folder in use.
#[derive(Debug)]
pub struct TemporaryFolder {
    // Dropped before the lock: while the folder is there, it is locked.
    folder: TempDir,
    _lock: File,
}

impl TemporaryFolder {
    /// Removes what others left in `parent`, and makes a new one there.
    pub fn make(parent: &Path) -> io::Result<TemporaryFolder> {
        remove_left(parent);
        for _ in 0..TRIES {
            let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
            if let Some(lock) = lock(folder.path()) {
                return Ok(TemporaryFolder { folder, _lock: lock });
            }
        }
        Err(io::Error::other("new folders disappear at once"))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Locks a folder, if nobody else does and it is still there.
fn lock(folder: &Path) -> Option<File> {
    let file = File::open(folder).ok()?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    let (locked, there) = (file.metadata().ok()?, std::fs::metadata(folder).ok()?);
    ((locked.dev(), locked.ino()) == (there.dev(), there.ino())).then_some(file)
}

/// Removes folders that no process holds. What cannot be removed (another user's) stays.
fn remove_left(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    let is_ours = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_ours) {
        if let Some(_lock) = lock(&path) {
            // Only tidiness: nothing depends on it.
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(parent: &Path) -> usize {
        std::fs::read_dir(parent).unwrap().count()
    }

    /// Goal: what a killed process left goes at the next start; what a live one uses stays. Method: a left folder is one
    /// without a lock.
    #[test]
    fn folders_that_nobody_holds_are_removed_at_the_next_start() {
        let parent = tempfile::tempdir().unwrap();
        let left = parent.path().join(format!("{PREFIX}left"));
        std::fs::create_dir_all(left.join("log/partitions")).unwrap();
        std::fs::create_dir(parent.path().join("somebody-else")).unwrap();
        let one = TemporaryFolder::make(parent.path()).unwrap();
        let other = TemporaryFolder::make(parent.path()).unwrap();
        assert!(!left.exists() && one.path().is_dir() && other.path().is_dir());
        drop((one, other));
        assert_eq!(names(parent.path()), 1);
    }

    /// Goal: processes that start together do not remove each other's folders.
    #[test]
    fn folders_made_at_the_same_time_stay() {
        let parent = tempfile::tempdir().unwrap();
        let made: Vec<TemporaryFolder> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| TemporaryFolder::make(parent.path()).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(made.iter().all(|folder| folder.path().is_dir()) && names(parent.path()) >= 8);
    }
}
